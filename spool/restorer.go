package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"spoolsweep/spool/queuefile"
)

// restorer keeps the directories of one restore open.
type restorer struct {
	w       *Work
	opt     Options
	done    Moved
	stand   []want // what the run has aside
	dirs    map[string]*os.File
	dirty   map[string]bool
	missing map[string]bool    // directories of logs set aside that are not there
	planned map[string]bool    // ids that this batch moves into a live queue
	size    int                // of this batch
	listed  map[string]listing // of live directories, for this batch; what is long stays so
	pending []intention        // see later
	moved   []string           // ids that the last batch moved into live queues
	refused map[string]bool    // ids of it whose name was taken at the rename
	late    []intention        // released, and not taken by the queue manager or by pickup yet
	buf     []byte             // of list
}

// dirsOpen bounds the handles: a queue hashed to depth 3 has 4096 directories.
const dirsOpen = 512

func newRestorer(w *Work, o Options, done Moved) (*restorer, error) {
	stand, err := w.standing()
	return &restorer{w: w, opt: o, done: done, stand: stand, dirs: map[string]*os.File{}, dirty: map[string]bool{}, missing: map[string]bool{}, listed: map[string]listing{}, buf: make([]byte, namesBuffer)}, err
}

func (r *restorer) close() {
	for path, d := range r.dirs {
		d.Close()
		delete(r.dirs, path)
	}
}

// spare closes the handles when they are many. It is called where none is in
// a caller's hand.
func (r *restorer) spare() {
	if len(r.dirs) > dirsOpen {
		r.close()
	}
}

// dir opens "incoming" or "deferred/A" once.
func (r *restorer) dir(path string) (*os.File, error) {
	if d := r.dirs[path]; d != nil {
		return d, nil
	}
	d, err := r.w.openPath(path)
	if err != nil {
		return nil, err
	}
	r.dirs[path] = d
	return d, nil
}

// target opens a directory to move to, and makes it if it is missing: under
// another name first, since a hash subdirectory that is not yet the mail
// owner's stops the queue manager.
func (r *restorer) target(path string) (*os.File, error) {
	d, err := r.dir(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return d, err
	}
	parent, name, model := r.w.root, path, r.w.root
	if cut := strings.LastIndexByte(path, '/'); cut >= 0 {
		if parent, err = r.target(path[:cut]); err != nil {
			return nil, err
		}
		name, model = path[cut+1:], parent
	} else if queue, ok := strings.CutSuffix(name, collisions); ok {
		if model, err = r.dir(queue); err != nil {
			return nil, err
		}
	}
	// Made at the top, where Postfix looks at no name but its own.
	fresh := ".dir." + r.w.run + "." + strconv.FormatInt(r.w.Journal.seq, 10)
	if err := r.w.write(kindFresh, freshRecord{fresh}); err != nil {
		return nil, err
	}
	like, err := statFile(model)
	if err != nil {
		return nil, err
	}
	if err := makeDir(r.w.root, fresh, r.w.Postfix.Owner, like.GID, 0o700, model); err != nil {
		return nil, err
	}
	if err := rename(r.w.root, fresh, parent, name); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if err := removeDir(r.w.root, fresh); err != nil { // Postfix was faster
			return nil, err
		}
	}
	// Both: else a power loss could bring it back under its first name, with the
	// mail that was moved into it.
	err = syncDir(parent)
	if parent != r.w.root {
		err = errors.Join(err, syncDir(r.w.root))
	}
	if err != nil {
		return nil, err
	}
	return r.dir(path)
}

// liveCount counts what the queue manager has before it.
func (r *restorer) liveCount() (int64, error) {
	if err := r.look(); err != nil {
		return 0, err
	}
	sum := int64(len(r.late))
	for _, q := range []Queue{Incoming, Active} {
		d, err := r.dir(string(q))
		if err != nil {
			return 0, err
		}
		n, err := countIDs(d)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// look forgets what was late and is not any more. What is due later the queue
// manager leaves in deferred by itself.
func (r *restorer) look() error {
	var err error
	r.late = slices.DeleteFunc(r.late, func(m intention) bool {
		r.spare()
		dir, e := r.dir(m.To)
		var s Stat
		if e == nil {
			s, e = statAt(dir, m.ID)
		}
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
		return e != nil || s.Inode != m.Inode || s.Mtime > time.Now().UnixNano()
	})
	return err
}

// batch moves some messages, each after its log.
func (r *restorer) batch(list []Mail) error {
	// Postfix may have removed and made a hash directory since: a handle of the
	// old one would not show what is taken in the new one.
	r.close()
	r.planned, r.moved, r.size = map[string]bool{}, r.moved[:0], len(list)
	r.refused = map[string]bool{}
	maps.DeleteFunc(r.listed, func(_ string, l listing) bool { return !l.long })
	if err := r.moveAll(list); err != nil || len(r.refused) == 0 {
		return err
	}
	// Planned before, they now go out of the way.
	return r.moveAll(slices.DeleteFunc(slices.Clone(list), func(m Mail) bool { return !r.refused[m.ID] }))
}

// moveAll plans moves and does them.
func (r *restorer) moveAll(list []Mail) error {
	b := batchRecord{Token: r.opt.Token, At: time.Now().Unix()}
	for _, m := range list {
		r.spare()
		moves, err := r.plan(m)
		if err != nil {
			if isFatal(err) {
				return err
			}
			if errors.Is(err, errGone) {
				r.done.SentMeanwhile++
				continue
			}
			r.done.fail(m.Aside+"/"+m.ID, err)
			continue
		}
		b.Moves = append(b.Moves, moves...)
	}
	return r.do(b)
}

// do journals the intents, moves, syncs, and journals the outcome.
func (r *restorer) do(b batchRecord) error {
	if len(b.Moves) == 0 {
		return nil
	}
	if err := r.w.write(kindIntent, b); err != nil {
		return err
	}
	o := outcomeRecord{Intent: r.w.Journal.seq}
	kicks := map[Queue]bool{}
	var fatal error
	for i, m := range b.Moves {
		r.spare()
		err := fatal
		if err == nil {
			err = r.move(m)
		}
		if unsure := (unsureError{}); errors.As(err, &unsure) {
			// No outcome: the next try looks where the message is.
			return errors.Join(err, r.sync())
		}
		switch {
		case err == nil:
			r.done.count(m)
			queue, _, _ := strings.Cut(m.To, "/")
			kicks[Queue(queue)] = true
			if slices.Contains(live, Queue(queue)) {
				r.moved = append(r.moved, m.ID)
			}
		default:
			o.Not = append(o.Not, i)
			if isFatal(err) && fatal == nil {
				fatal = err
			}
			switch {
			case m.isLog() || fatal != nil:
			case errors.Is(err, fs.ErrExist) && r.planned[m.ID] && !r.refused[m.ID] && (i == 0 || b.Moves[i-1].ID != m.ID):
				r.refused[m.ID] = true // no log of it has gone before
			case errors.Is(err, errGone):
				r.done.SentMeanwhile++
			default:
				r.done.fail(m.From+"/"+m.ID, err)
			}
		}
	}
	if err := r.sync(); err != nil {
		return err
	}
	if err := r.w.write(kindOutcome, o); err != nil {
		return err
	}
	// A trigger that is lost costs minutes, not mail: queue_run_delay.
	for q := range kicks {
		switch q {
		case Incoming:
			_ = r.w.Postfix.kick(r.w.root, "qmgr", scanIncoming)
		case Deferred:
			_ = r.w.Postfix.kick(r.w.root, "qmgr", scanDeferred)
		case Maildrop:
			_ = r.w.Postfix.kick(r.w.root, "pickup", wakePickup)
		}
	}
	return fatal
}

// sync makes the renames of a batch survive a power loss.
func (r *restorer) sync() error {
	for _, path := range slices.Sorted(maps.Keys(r.dirty)) {
		r.spare()
		dir, err := r.dir(path)
		if err == nil {
			err = syncDir(dir)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		delete(r.dirty, path)
	}
	return nil
}

// plan decides where a message goes, and its log before it.
func (r *restorer) plan(m Mail) ([]intention, error) {
	queue := asideQueue(m.Aside)
	from := m.Aside
	if m.Sub != "" {
		from += "/" + m.Sub
	}
	if !queuefile.ValidID(m.ID) {
		return nil, errors.New("is no queue id")
	}
	for name := range strings.SplitSeq(m.Sub, "/") {
		if len(name) > 1 || name == "." {
			return nil, fmt.Errorf("%q is no hash subdirectory", m.Sub)
		}
	}
	if !slices.ContainsFunc(r.stand, func(k want) bool { return k.Aside == m.Aside }) {
		if r.w.moved(m) {
			return nil, nil // and the directory was removed when it was empty
		}
		return nil, fmt.Errorf("%s is not what this run has set aside", m.Aside)
	}
	src, err := r.dir(from)
	var s Stat
	if err == nil {
		s, err = statAt(src, m.ID)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if r.w.moved(m) {
			return nil, nil // by an earlier try: counted there
		}
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	if err := r.w.same(m, queue, s); err != nil {
		return nil, err
	}
	to := r.w.home(queue.target(), m.ID)
	if m.Requeue {
		to = r.w.home(Maildrop, m.ID)
	}
	taken := r.planned[m.ID] // two of this list have one id, or it was refused
	if !taken {
		if taken, err = r.taken(m.ID, to); err != nil {
			return nil, err
		}
	}
	found, err := r.logs(m.ID)
	if err != nil {
		return nil, err
	}
	if len(found) > 0 && !taken && r.listed[to].long { // they go first, and must know where
		if taken, err = r.stat(to, m.ID); err != nil {
			return nil, err
		}
	}
	if taken {
		to = string(queue) + collisions
	}
	dir, err := r.target(to)
	if err != nil {
		return nil, err
	}
	if taken { // the live ones were looked at
		if inode, err := inodeAt(dir, m.ID); err != nil {
			return nil, err
		} else if inode != 0 {
			return nil, fmt.Errorf("its name is taken in %s too", to)
		}
	}
	var moves []intention
	for _, l := range found {
		move, err := r.log(l.from, m.ID, l.Stat, taken)
		if err != nil {
			return nil, err
		}
		moves = append(moves, move...)
	}
	r.planned[m.ID] = true
	return append(moves, intention{From: from, To: to, ID: m.ID, Inode: m.Inode}), nil
}

// taken says whether id has a name in any live queue: from each of them
// Postfix itself would later rename over the other (mail_queue.c). Of the directory
// it goes to, if that is long, the rename itself says so.
func (r *restorer) taken(id, to string) (bool, error) {
	for _, q := range live {
		path := r.w.home(q, id)
		l, err := r.listing(path)
		if err != nil {
			return false, err
		}
		has := l.names[id]
		if l.long && path != to {
			has, err = r.stat(path, id)
		}
		if has || err != nil {
			return has, err
		}
	}
	return false, nil
}

// listing is what a live directory has, unless it is long.
type listing struct {
	names map[string]bool
	long  bool
}

var errLong = errors.New("many names")

// listing is what a live directory has. One that has fewer names than this batch has
// for it is read once, which is several times faster than a look for each.
func (r *restorer) listing(path string) (listing, error) {
	if l, listed := r.listed[path]; listed {
		return l, nil
	}
	l, err := r.list(path)
	if err == nil {
		r.listed[path] = l
	}
	return l, err
}

// stat says whether a live directory has a name.
func (r *restorer) stat(path, id string) (bool, error) {
	dir, err := r.dir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	inode, err := inodeAt(dir, id)
	return inode != 0, err
}

func (r *restorer) list(path string) (listing, error) {
	dir, err := r.w.openPath(path) // read from its beginning
	if errors.Is(err, fs.ErrNotExist) {
		return listing{}, nil
	}
	if err != nil {
		return listing{}, err
	}
	defer dir.Close()
	l, most := listing{names: map[string]bool{}}, r.size>>(4*strings.Count(path, "/"))
	err = eachName(dir, r.buf, func(name []byte, _ fileKind, _ uint64) error {
		if len(l.names) > most {
			return errLong
		}
		l.names[string(name)] = true
		return nil
	})
	if errors.Is(err, errLong) {
		return listing{long: true}, nil
	}
	return l, err
}

// logAside is a message's log that was set aside with deferred.
type logAside struct {
	from string
	Stat
}

// logs finds those of a message.
func (r *restorer) logs(id string) (found []logAside, err error) {
	for _, k := range r.stand {
		if k.Queue != Defer {
			continue
		}
		from := k.path(id)
		if r.missing[from] {
			continue
		}
		src, err := r.dir(from)
		if errors.Is(err, fs.ErrNotExist) {
			r.missing[from] = true // nobody makes it while it is aside
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := statAt(src, id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, logAside{from, s})
	}
	return found, nil
}

// log plans the way of one log back to defer, or out of the way of a log that
// is there by now.
func (r *restorer) log(from, id string, s Stat, collision bool) ([]intention, error) {
	if !s.Regular() || s.UID != r.w.Postfix.Owner {
		return nil, nil // not Postfix's: it stays where it is
	}
	to := r.w.home(Defer, id)
	dir, err := r.target(to)
	if err != nil {
		return nil, err
	}
	inode, err := inodeAt(dir, id)
	if err != nil {
		return nil, err
	}
	if collision || inode != 0 {
		to = string(Defer) + collisions
		if _, err := r.target(to); err != nil {
			return nil, err
		}
	}
	return []intention{{From: from, To: to, ID: id, Inode: s.Inode}}, nil
}

// move does one rename and looks whether it moved what was meant.
func (r *restorer) move(m intention) error {
	src, err := r.dir(m.From)
	if err != nil {
		return err
	}
	dst, err := r.dir(m.To)
	if err != nil {
		return err
	}
	err = rename(src, m.ID, dst, m.ID)
	if errors.Is(err, fs.ErrNotExist) {
		if inode, e := inodeAt(src, m.ID); e != nil || inode == 0 {
			return errors.Join(errGone, e)
		}
		// postsuper removes empty hash directories: make it again, once.
		dst.Close()
		delete(r.dirs, m.To)
		delete(r.dirty, m.To)
		if dst, err = r.target(m.To); err != nil {
			return err
		}
		err = rename(src, m.ID, dst, m.ID)
	}
	if err != nil {
		return err
	}
	r.dirty[m.From], r.dirty[m.To] = true, true
	now, err := statAt(dst, m.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the queue manager has it already
	}
	if err != nil {
		return unsureError{err}
	}
	if now.Inode != m.Inode {
		// Somebody put another file there between look and rename.
		if err := rename(dst, m.ID, src, m.ID); err != nil {
			return fmt.Errorf("another file was in its place, and it cannot be put back: %w", err)
		}
		return errors.New("another file was in its place")
	}
	if m.toIncoming() && now.Mtime > time.Now().UnixNano() {
		if err := presentIn(dst, m); err != nil {
			return unsureError{err}
		}
	}
	return nil
}
