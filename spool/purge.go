package spool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool/queuefile"
)

// List calls yield for each of many messages, which are not held in memory
// together, and ends with yield's error.
type List func(yield func(Mail) error) error

// Removal names a list that is to be removed.
type Removal struct {
	// Token is the list's: what earlier, interrupted tries of it removed counts
	// into the result.
	Token string
	// Cancelled is asked between batches.
	Cancelled func() bool
	// Sum, if set, is the SHA-256 that the queue file of a message of a delete must
	// have, nil where it is not to be touched.
	Sum func(Mail) []byte
}

// Removed is what a purge or a delete did.
type Removed struct {
	Deleted int64 `json:"deleted"`
	// Gone were in the batch of a delete that died, and in no live queue after that:
	// deleted by its postsuper, or delivered by Postfix before.
	Gone     int64    `json:"gone,omitempty"`
	Failed   int64    `json:"failed,omitempty"`   // still there: another file than the one listed, or gone on by itself
	Failures []string `json:"failures,omitempty"` // the first few, with their reasons
}

func (m *Moved) asRemoved() Removed {
	return Removed{Deleted: m.removed, Gone: m.gone, Failed: m.Failed, Failures: m.Failures}
}

// Purge unlinks the listed messages, which this run has set aside, each after
// its companions. Before each it is looked once more whether the file is the one
// that was listed. Then directories that are empty are removed; left names what
// still holds something. ctx ends it between two batches. Postfix is not needed,
// nor disturbed.
func (w *Work) Purge(ctx context.Context, list List, o Removal, progress func(Removed)) (done Removed, left []string, err error) {
	if w.phase != outside {
		return done, nil, errors.New("purge: the run was left between stop and start: settle that first")
	}
	before, err := w.settleMoves(o.Token)
	if err != nil {
		return before.asRemoved(), nil, err
	}
	_ = w.removeFresh() // of an earlier try, in nobody's way
	r, err := newRestorer(w, Options{Token: o.Token}, before)
	if err != nil {
		return before.asRemoved(), nil, err
	}
	defer r.close()
	// Their messages were never aside: they are not purged with anything.
	if err := r.strayLogs(); err != nil {
		return r.done.asRemoved(), nil, err
	}
	p, err := newPurger(r)
	if err != nil {
		return r.done.asRemoved(), nil, err
	}
	var some []Mail
	flush := func() error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.Cancelled != nil && o.Cancelled() {
			return ErrCancelled
		}
		err := p.batch(some)
		some = some[:0]
		progress(r.done.asRemoved())
		return err
	}
	err = list(func(m Mail) error {
		if some = append(some, m); len(some) < batchMax {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return r.done.asRemoved(), nil, err
	}
	left, err = w.removeAsides()
	return r.done.asRemoved(), left, err
}

// purger is a restorer that unlinks.
type purger struct {
	*restorer
	device   uint64
	others   []string        // every directory that may hold a message of some id
	removing map[string]bool // paths of messages of this batch
}

func newPurger(r *restorer) (*purger, error) {
	root, err := statFile(r.w.root)
	if err != nil {
		return nil, err
	}
	p := &purger{restorer: r, device: root.Dev}
	list, err := openDir(r.w.root, ".")
	if err != nil {
		return nil, err
	}
	defer list.Close()
	names, err := list.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", r.w.root.Name(), err)
	}
	for _, name := range names {
		if slices.Contains(Queues, Queue(name)) || asideName(name) && asideQueue(name) != Defer {
			p.others = append(p.others, name)
		}
	}
	return p, nil
}

// unlinking is one file to remove, and its time as it was listed.
type unlinking struct {
	intention
	mtime int64
}

// batch removes some messages, each after its companions.
func (p *purger) batch(list []Mail) error {
	p.close() // see restorer.batch
	p.removing = map[string]bool{}
	type sealed struct {
		Mail
		sum []byte
	}
	var going []sealed
	for _, m := range list {
		p.spare()
		stands, err := p.check(m)
		var sum []byte
		if err == nil && stands {
			sum, err = p.sum(m)
		}
		switch {
		case isFatal(err):
			return err
		case err != nil:
			p.done.fail(m.Aside+"/"+m.ID, err)
		case stands:
			going = append(going, sealed{m, sum})
			p.removing[m.path()+"/"+m.ID] = true
		}
	}
	// Companions go first, as with postsuper: once a message is gone its inode is
	// free, and with it its name, and a log of that name could be another's.
	var all []unlinking
	b := batchRecord{Token: p.opt.Token, At: time.Now().Unix()}
	for _, m := range going {
		p.spare()
		some, err := p.companions(m.Mail)
		if err != nil {
			return err
		}
		some = append(some, unlinking{intention{From: m.path(), ID: m.ID, Inode: m.Inode, Size: m.Size, Sum: m.sum}, m.Mtime})
		for _, u := range some {
			all, b.Moves = append(all, u), append(b.Moves, u.intention)
		}
	}
	if len(all) == 0 {
		return nil
	}
	if err := p.w.write(kindIntent, b); err != nil {
		return err
	}
	o := outcomeRecord{Intent: p.w.Journal.seq}
	var fatal error
	for i, u := range all {
		p.spare()
		err := fatal
		if err == nil {
			err = p.unlink(u)
		}
		if err == nil {
			p.dirty[u.From] = true
			p.done.count(u.intention)
			continue
		}
		o.Not = append(o.Not, i)
		if fatal == nil && (isFatal(err) || errors.Is(err, errWrongFile)) {
			fatal = err
		}
		if fatal == nil && !u.isLog() {
			p.done.fail(u.From+"/"+u.ID, err)
		}
	}
	// Without it a power loss would bring files back that the outcome calls gone.
	if err := p.sync(); err != nil {
		return errors.Join(fatal, err)
	}
	return errors.Join(fatal, p.w.write(kindOutcome, o))
}

// sum is the SHA-256 of a message that is about to be removed.
func (p *purger) sum(m Mail) ([]byte, error) {
	dir, err := p.dir(m.path())
	if err != nil {
		return nil, err
	}
	f, s, err := openMail(dir, m.ID)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if s.Inode != m.Inode || !s.Regular() {
		return nil, errors.New("is not the file that was listed any more")
	}
	return contentSum(f, m.Size)
}

// contentSum is the SHA-256 of a queue file, which has size bytes: neither more,
// however long somebody goes on writing to it, nor less.
func contentSum(f *os.File, size int64) ([]byte, error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, size+1))
	if err != nil {
		// Only this one stays, also where a sector of the disk is bad.
		return nil, fmt.Errorf("cannot be read: %v", err)
	}
	if n != size {
		return nil, errors.New("is not the file that was listed any more")
	}
	return h.Sum(nil), nil
}

// path is the directory that m was listed in.
func (m Mail) path() string {
	if m.Sub == "" {
		return m.Aside
	}
	return m.Aside + "/" + m.Sub
}

// check says whether a message is the file that was listed; false without an
// error where this run itself has removed or restored it, and counted it then.
func (p *purger) check(m Mail) (bool, error) {
	if !queuefile.ValidID(m.ID) || !isHashDir(m.Sub) {
		return false, errors.New("is no queue id")
	}
	if !slices.ContainsFunc(p.stand, func(k want) bool { return k.Aside == m.Aside && k.Queue != Defer }) {
		if p.w.moved(m) {
			return false, nil
		}
		return false, fmt.Errorf("%s is not what this run has set aside", m.Aside)
	}
	dir, err := p.dir(m.path())
	var s Stat
	if err == nil {
		s, err = statAt(dir, m.ID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if p.w.moved(m) {
			return false, nil
		}
		return false, errGone
	}
	if err == nil {
		err = p.w.same(m, asideQueue(m.Aside), s)
	}
	if err == nil && s.Dev != p.device {
		err = errors.New("lies on another file system than the queue directory")
	}
	return err == nil, err
}

// isHashDir accepts "", "A" and "A/B": what walk calls a hash subdirectory.
func isHashDir(sub string) bool {
	if sub == "" {
		return true
	}
	for _, name := range strings.Split(sub, "/") {
		if len(name) != 1 || !queuefile.ValidID(name) {
			return false
		}
	}
	return true
}

// companions are the logs of a message: the one that was set aside with it, and
// those in live directories. Where another message has the name too, whose a log
// is is not known, and it stays: of one that was set aside only what this run has
// aside counts, as a restore takes it along into a collision.
func (p *purger) companions(m Mail) ([]unlinking, error) {
	var all []unlinking
	var mine []string
	for _, k := range p.stand {
		if k.Queue != Defer {
			mine = append(mine, k.Aside)
			continue
		}
		log, err := p.log(k.path(m.ID), m.ID)
		if err != nil {
			return nil, err
		}
		all = append(all, log...)
	}
	if len(all) > 0 {
		if shared, err := p.shared(m, mine); err != nil {
			return nil, err
		} else if shared {
			all = nil
		}
	}
	var live []unlinking
	for _, q := range logs {
		log, err := p.log(p.w.home(q, m.ID), m.ID)
		if err != nil {
			return nil, err
		}
		live = append(live, log...)
	}
	if len(live) > 0 {
		if shared, err := p.shared(m, p.others); err != nil || shared {
			return all, err
		}
	}
	return append(all, live...), nil
}

// log finds the log of an id in one directory.
func (p *purger) log(path, id string) ([]unlinking, error) {
	dir, err := p.dir(path)
	var s Stat
	if err == nil {
		s, err = statAt(dir, id)
	}
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!s.Regular() || s.UID != p.w.Postfix.Owner) {
		return nil, nil
	}
	return []unlinking{{intention: intention{From: path, ID: id, Inode: s.Inode, Size: s.Size}}}, err
}

// shared says whether a message that stays has the id of m in one of the
// directories, in whatever depth of subdirectories it was hashed.
func (p *purger) shared(m Mail, dirs []string) (bool, error) {
	for _, name := range dirs {
		for depth := range maxHashDepth {
			path := name
			if sub := queuefile.HashDir(m.ID, depth); sub != "" {
				path += "/" + sub
			}
			dir, err := p.dir(path)
			if errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err != nil {
				return false, err
			}
			if path == m.path() || p.removing[path+"/"+m.ID] {
				continue
			}
			if inode, err := inodeAt(dir, m.ID); err != nil || inode != 0 {
				return inode != 0, err
			}
		}
	}
	return false, nil
}

// errWrongFile ends a purge: what was found and what was removed differ.
var errWrongFile = errors.New("another file was put in its place at that very moment, and was removed")

// unlink removes one file. It is opened, never through a link, and the name is
// looked at by the handle: before, whether it is the file that was listed, and
// after, whether that file is the one that lost its name.
func (p *purger) unlink(u unlinking) error {
	dir, err := p.dir(u.From)
	if err != nil {
		return err
	}
	f, s, err := openMail(dir, u.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if s.Inode != u.Inode || s.Dev != p.device || !s.Regular() || !u.isLog() && (s.Size != u.Size || s.Mtime != u.mtime) {
		return errors.New("is not the file that was listed any more")
	}
	if err := unlinkFile(dir, u.ID); err != nil {
		return err
	}
	if s, err = statFile(f); err == nil && s.Links != 0 {
		return fmt.Errorf("%s/%s: %w", u.From, u.ID, errWrongFile)
	}
	return nil
}

// Looker looks whether messages still are where a list has them. It changes
// nothing and needs no lock.
type Looker struct {
	r     *restorer
	piece []byte // of Copy
}

// NewLooker opens a queue directory to look.
func NewLooker(p *Postfix) (*Looker, error) {
	root, err := openRoot(p)
	if err != nil {
		return nil, err
	}
	return &Looker{r: &restorer{w: &Work{Postfix: p, root: root}, dirs: map[string]*os.File{}}}, nil
}

// Stands says whether m is the file that stands where it was listed.
func (l *Looker) Stands(m Mail) (bool, error) {
	dir, err := l.dir(m)
	var s Stat
	if err == nil {
		s, err = statAt(dir, m.ID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && s.Inode == m.Inode && s.Size == m.Size && s.Mtime == m.Mtime, err
}

// Open opens m for reading where it stands.
func (l *Looker) Open(m Mail) (*os.File, error) {
	dir, err := l.dir(m)
	if err != nil {
		return nil, err
	}
	f, _, err := openMail(dir, m.ID)
	return f, err
}

func (l *Looker) dir(m Mail) (*os.File, error) {
	if !queuefile.ValidID(m.ID) || !isHashDir(m.Sub) || strings.Contains(m.Aside, "/") {
		return nil, fmt.Errorf("%s/%s: %w", m.path(), m.ID, fs.ErrNotExist)
	}
	l.r.spare()
	return l.r.dir(m.path())
}

// Close lets go of the directories.
func (l *Looker) Close() {
	l.r.close()
	l.r.w.root.Close()
}
