package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool/queuefile"
)

// Mail names one message that was set aside, as it was when it was judged.
// Nothing is done to a file that has another inode, size or time by then.
type Mail struct {
	Aside string `json:"a"`           // incoming.spamfull
	Sub   string `json:"s,omitempty"` // hash subdirectories there
	ID    string `json:"q"`
	Inode uint64 `json:"i"`
	Size  int64  `json:"z"`
	Mtime int64  `json:"m"` // nanoseconds
	Born  int64  `json:"c"` // arrival, seconds since 1970
	// Created is when its queue file was made, in seconds since 1970: what its
	// lifetime counts from, and Null says that the null sender's shorter one
	// holds. 0: as Born.
	Created int64 `json:"b,omitempty"`
	Null    bool  `json:"n,omitempty"`
	// Dest tells destinations apart, which take turns: a hash of the domain.
	Dest uint32 `json:"d,omitempty"`
	// Requeue sends it by way of maildrop, as postsuper -r does: pickup makes a
	// new message of it, whose lifetime begins anew.
	Requeue bool `json:"-"`
}

// Expired says that the queue manager would return it to its sender after one
// more try (qmgr_active.c). With a lifetime of 0 each message has one try anyway.
func (p *Postfix) Expired(m Mail, now time.Time) bool {
	life := p.Lifetime
	if m.Null {
		life = min(life, p.BounceLifetime)
	}
	made := cmp.Or(m.Created, m.Born)
	return life > 0 && made > 0 && now.Unix()-made >= int64(life/time.Second)
}

// Holds says whether a live queue has a message of that id.
func (p *Postfix) Holds(q Queue, id string) bool {
	if !queuefile.ValidID(id) {
		return false
	}
	_, err := os.Lstat(filepath.Join(p.QueueDirectory, string(q), p.hashDir(q, id), id))
	return err == nil
}

// HoldsFile is the live queue that has that very file, "" if none has.
func (p *Postfix) HoldsFile(id string, inode uint64) Queue {
	if !queuefile.ValidID(id) {
		return ""
	}
	for _, q := range live {
		s, err := os.Lstat(filepath.Join(p.QueueDirectory, string(q), p.hashDir(q, id), id))
		if err != nil {
			continue
		}
		if sys, ok := s.Sys().(*syscall.Stat_t); ok && sys.Ino == inode {
			return q
		}
	}
	return ""
}

// Options are the manners of a restore.
type Options struct {
	Rate    float64 // messages a second; 0: no ceiling
	LiveMax int64   // pause while incoming and active hold more above what they held before; 0: no limit
	// Token names the list that is restored: what earlier, interrupted tries of
	// the same list moved counts into the result.
	Token string
	// Cancelled is asked between batches.
	Cancelled func() bool
	// Slow, if set, is told once when LiveMax has kept a restore from going on for
	// slowAfter: who waits for it wants to know for what.
	Slow func(live int64)
	// First are moved by themselves, before any batch that is larger. After, if
	// set, is told the ids that a batch has moved into live queues, and how many
	// messages are to go: its error ends the restore there.
	First int
	After func(ids []string, left int) error
}

// Moved is what a restore did.
type Moved struct {
	Restored   int64 `json:"restored"`
	Collisions int64 `json:"collisions"`
	Failed     int64 `json:"failed"` // still aside: another file than the one judged, or a name taken twice
	// SentMeanwhile were aside when they were judged, are not any more, and this
	// run did not move them.
	SentMeanwhile int64            `json:"sent_meanwhile"`
	ByQueue       map[string]int64 `json:"by_queue"`
	Failures      []string         `json:"failures,omitempty"` // the first few, with their reasons

	// Of a purge or a delete, whose result is a Removed.
	removed, gone int64
}

const lookIntoLog = "look into the mail log for why it ended, then spoolsweep resume"

const (
	batchMax     = 1000
	batchesASec  = 2  // how finely a rate is spread
	failuresKept = 20 // named in a result
	waitLive     = 200 * time.Millisecond
)

// slowAfter is a variable for the sake of tests alone.
var slowAfter = 20 * time.Second

// A batch is journaled before its first rename, and closed after both
// directories of every move are on disk.
type batchRecord struct {
	Token string      `json:"token"`
	Moves []intention `json:"moves"`
	At    int64       `json:"at,omitempty"` // seconds since 1970

	seq int64
}

type intention struct {
	From  string `json:"f"`           // incoming.spamfull or deferred.spamfull/A
	To    string `json:"t,omitempty"` // incoming, deferred/B, incoming.name-collisions; "": it is to be removed
	ID    string `json:"q"`
	Inode uint64 `json:"i"`
	// Of what is to be removed, for the account: what nobody has any more.
	Size int64  `json:"z,omitempty"`
	Sum  []byte `json:"h,omitempty"` // SHA-256 of a message
}

// outcomeRecord closes a batch: the intentions, by index, that were not done, and
// those that were done by us or by Postfix, which nobody knows.
type outcomeRecord struct {
	Intent int64 `json:"intent"`
	Not    []int `json:"not,omitempty"`
	Gone   []int `json:"gone,omitempty"` // of a delete, after a death
}

// Restore moves the listed messages back into the running Postfix: renames,
// never copies, and never onto a name that is there. It goes by age, oldest
// first, the destinations in turn. A message whose id is taken in any live queue goes to
// QUEUE.name-collisions. ctx ends it between two batches.
func (w *Work) Restore(ctx context.Context, list []Mail, o Options, progress func(Moved)) (Moved, error) {
	if w.phase != outside {
		return Moved{}, errors.New("restore: the run was left between stop and start: settle that first")
	}
	done, err := w.settleMoves(o.Token)
	if err != nil {
		return done, err
	}
	_ = w.removeFresh() // of an earlier try, in nobody's way
	manager, err := w.Postfix.awaitManager(ctx)
	if err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	r, err := newRestorer(w, o, done)
	if err != nil {
		return done, err
	}
	defer r.close()
	baseline, err := r.liveCount()
	if err != nil {
		return r.done, err
	}
	if err := r.strayLogs(); err != nil {
		return r.done, err
	}
	interleave(list)
	began := time.Now()
	var paused time.Time // since when LiveMax keeps it from going on
	var sent int
	for len(list) > 0 {
		if err := ctx.Err(); err != nil {
			return r.done, err
		}
		if o.Cancelled != nil && o.Cancelled() {
			return r.done, ErrCancelled
		}
		n := min(batchMax, len(list))
		if sent < o.First {
			n = min(n, o.First-sent)
		}
		if o.Rate > 0 {
			n = min(n, max(1, int(o.Rate/batchesASec)))
			due := began.Add(time.Duration(float64(sent) / o.Rate * float64(time.Second)))
			if !sleep(ctx, time.Until(due)) {
				return r.done, ctx.Err()
			}
		}
		if o.LiveMax > 0 {
			now, err := r.liveCount()
			if err != nil {
				return r.done, err
			}
			room := baseline + o.LiveMax - now
			if room <= 0 {
				progress(r.done)
				switch {
				case paused.IsZero():
					paused = time.Now()
				case o.Slow != nil && time.Since(paused) >= slowAfter:
					o.Slow(now - baseline)
					o.Slow = nil
				}
				if !sleep(ctx, waitLive) {
					return r.done, ctx.Err()
				}
				continue
			}
			n, paused = min(n, int(room)), time.Time{}
		}
		if !manager.lives() {
			return r.done, Remedied(fmt.Errorf("restore: the queue manager (process %d) is not there any more", manager.pid), lookIntoLog)
		}
		if err := r.batch(list[:n]); err != nil {
			return r.done, err
		}
		list, sent = list[n:], sent+n
		progress(r.done)
		if o.After != nil {
			if err := o.After(r.moved, len(list)); err != nil {
				return r.done, err
			}
		}
	}
	return r.done, nil
}

// interleave sorts messages by age, so that each destination's next oldest one
// comes before any has its one after next: the queue manager has work for all
// servers, and no single one is flooded.
func interleave(list []Mail) {
	slices.SortStableFunc(list, func(a, b Mail) int { return cmp.Compare(a.Born, b.Born) })
	// Each has a turn: its place among those of its destination. All of one turn
	// come before the next, in place, since a list may have a million.
	had := map[uint32]int{}
	turn := make([]int, len(list))
	var sizes []int
	for i, m := range list {
		turn[i] = had[m.Dest]
		had[m.Dest]++
		if turn[i] == len(sizes) {
			sizes = append(sizes, 0)
		}
		sizes[turn[i]]++
	}
	next := make([]int, len(sizes))
	for t := 1; t < len(sizes); t++ {
		next[t] = next[t-1] + sizes[t-1]
	}
	to := turn
	for i, t := range turn {
		to[i] = next[t]
		next[t]++
	}
	for i := range list {
		for to[i] != i {
			j := to[i]
			list[i], list[j] = list[j], list[i]
			to[i], to[j] = to[j], j
		}
	}
}

// ErrCancelled is returned by a restore that was told to end between batches.
var ErrCancelled = errors.New("cancelled")

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// settleMoves looks after a batch that a death left open, and adds up what
// this list's batches did. What is not aside any more was moved by us. From a live
// queue Postfix takes mail too: what of a delete is not there any more was deleted
// by the postsuper that our death left without a listener, or was delivered.
func (w *Work) settleMoves(token string) (Moved, error) {
	sum := Moved{ByQueue: map[string]int64{}}
	for _, b := range w.moves {
		o, closed := w.done[b.seq]
		if !closed {
			if err := w.endLast(); err != nil {
				return sum, err
			}
			o = outcomeRecord{Intent: b.seq}
			for i, m := range b.Moves {
				stands, err := w.stands(m)
				if err != nil {
					return sum, err
				}
				switch {
				case stands:
					o.Not = append(o.Not, i)
				case m.fromLive():
					o.Gone = append(o.Gone, i)
				default:
					if err := w.present(m); err != nil {
						return sum, err
					}
				}
			}
			// The directories may not have been synced before the death.
			if err := w.syncMoves(b.Moves); err != nil {
				return sum, err
			}
			if err := w.write(kindOutcome, o); err != nil {
				return sum, err
			}
		}
		if b.Token == token {
			for i, m := range b.Moves {
				switch {
				case slices.Contains(o.Gone, i):
					sum.gone++
				case !slices.Contains(o.Not, i):
					sum.count(m)
				}
			}
		}
	}
	return sum, nil
}

// stands says that a move or a removal was not done: the file is where it was.
// A message that was to be removed from a live queue may have gone on into
// another, which is no removal either.
func (w *Work) stands(m intention) (bool, error) {
	paths := []string{m.From}
	if m.fromLive() {
		for _, q := range live {
			paths = append(paths, w.home(q, m.ID))
		}
	}
	for _, path := range paths {
		dir, err := w.openPath(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		inode, err := inodeAt(dir, m.ID)
		dir.Close()
		if err != nil || inode == m.Inode {
			return err == nil, err
		}
	}
	return false, nil
}

// fromLive tells what a delete is to remove from what a purge is.
func (i intention) fromLive() bool {
	queue, _, _ := strings.Cut(i.From, "/")
	return i.To == "" && slices.Contains(live, Queue(queue))
}

func (m *Moved) count(i intention) {
	queue, _, _ := strings.Cut(i.To, "/")
	switch {
	case i.isLog():
	case i.To == "":
		m.removed++
	case strings.HasSuffix(queue, collisions):
		m.Collisions++
	default:
		m.Restored++
		m.ByQueue[queue]++
	}
}

// isLog tells a log from a message.
func (i intention) isLog() bool {
	path, _, _ := strings.Cut(i.From, "/")
	return slices.Contains(logs, asideQueue(path))
}

func (m *Moved) fail(what string, err error) {
	m.Failed++
	if len(m.Failures) < failuresKept {
		m.Failures = append(m.Failures, what+": "+err.Error())
	}
}

const collisions = ".name-collisions"

// openPath opens "deferred.spamfull/A", each component by its own handle.
func (w *Work) openPath(path string) (*os.File, error) {
	at := w.root
	for _, name := range strings.Split(path, "/") {
		next, err := openDir(at, name)
		if at != w.root {
			at.Close()
		}
		if err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// present gives a message in incoming that is due in the future the present.
func (w *Work) present(m intention) error {
	if !m.toIncoming() {
		return nil
	}
	dir, err := w.openPath(m.To)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // emptied and removed
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return presentIn(dir, m)
}

// toIncoming says that it goes to incoming, hashed or not.
func (i intention) toIncoming() bool {
	queue, _, _ := strings.Cut(i.To, "/")
	return queue == string(Incoming)
}

// presentIn does so by the file's own handle: its name may be another's by then.
func presentIn(dir *os.File, m intention) error {
	due := func(s Stat) bool { return s.Inode == m.Inode && s.Mtime > time.Now().UnixNano() }
	s, err := statAt(dir, m.ID)
	if err == nil && due(s) {
		var f *os.File
		if f, s, err = openMail(dir, m.ID); err == nil {
			defer f.Close()
			if due(s) {
				err = touch(f, time.Now())
			}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // taken by the queue manager already
	}
	return err
}

func (w *Work) syncMoves(moves []intention) error {
	paths := map[string]bool{}
	for _, m := range moves {
		paths[m.From] = true
		if m.To != "" {
			paths[m.To] = true
		}
	}
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		dir, err := w.openPath(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = syncDir(dir)
		dir.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

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
	var sum int64
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

// batch moves some messages, each after its log.
func (r *restorer) batch(list []Mail) error {
	// Postfix may have removed and made a hash directory since: a handle of the
	// old one would not show what is taken in the new one.
	r.close()
	r.planned, r.moved, r.size = map[string]bool{}, r.moved[:0], len(list)
	maps.DeleteFunc(r.listed, func(_ string, l listing) bool { return !l.long })
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

// unsureError says that a message was renamed, and something went wrong after that.
type unsureError struct{ error }

func (e unsureError) Unwrap() error { return e.error }

// isFatal tells a failure of the disk or of ours from one message's trouble.
func isFatal(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) ||
		errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

var errGone = errors.New("not aside any more")

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
	taken, err := r.taken(m.ID)
	if err != nil {
		return nil, err
	}
	taken = taken || r.planned[m.ID] // two of this list have one id
	var to string
	switch {
	case taken:
		to = string(queue) + collisions
	case m.Requeue:
		to = r.w.home(Maildrop, m.ID)
	default:
		to = r.w.home(queue.target(), m.ID)
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
	moves, err := r.logs(m.ID, taken)
	if err != nil {
		return nil, err
	}
	r.planned[m.ID] = true
	return append(moves, intention{From: from, To: to, ID: m.ID, Inode: m.Inode}), nil
}

// same refuses a file that is not the one that was judged, or that would harm
// the queue manager: one owned by somebody else takes it down.
func (w *Work) same(m Mail, queue Queue, s Stat) error {
	switch {
	case s.Inode != m.Inode || s.Size != m.Size || s.Mtime != m.Mtime:
		return errors.New("is not the file that was judged any more")
	case !s.Regular():
		return errors.New("is no plain file with one name")
	case queue != Maildrop && s.UID != w.Postfix.Owner:
		return fmt.Errorf("belongs to uid %d, not to the mail owner", s.UID)
	}
	return nil
}

// asideQueue is the queue that incoming.spamfull.2 was.
func asideQueue(aside string) Queue {
	queue, _, _ := strings.Cut(aside, ".")
	return Queue(queue)
}

// home is the directory in which the live queue q keeps id.
func (w *Work) home(q Queue, id string) string {
	if sub := w.Postfix.hashDir(q, id); sub != "" {
		return string(q) + "/" + sub
	}
	return string(q)
}

// taken says whether id has a name in any live queue: from each of them
// Postfix itself would later rename over the other (mail_queue.c).
func (r *restorer) taken(id string) (bool, error) {
	for _, q := range live {
		if has, err := r.has(r.w.home(q, id), id); has || err != nil {
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

// has says whether a live directory has a name. One that has fewer names than this
// batch has for it is read once, which is several times faster than a look for each.
func (r *restorer) has(path, id string) (bool, error) {
	l, listed := r.listed[path]
	if !listed {
		var err error
		if l, err = r.list(path); err != nil {
			return false, err
		}
		r.listed[path] = l
	}
	if !l.long {
		return l.names[id], nil
	}
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

// logs plans the way of a message's log that was set aside with deferred.
func (r *restorer) logs(id string, collision bool) ([]intention, error) {
	var moves []intention
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
		move, err := r.log(from, id, s, collision)
		if err != nil {
			return nil, err
		}
		moves = append(moves, move...)
	}
	return moves, nil
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
