package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// countLimit bounds what looks at every name before the stop.
const countLimit = 10 * time.Second

// Prepare does everything that needs no stopped Postfix: it proves that the
// file system can do what is needed, makes the empty directories, chooses the
// names aside, and journals which inode shall stand where. Nothing that
// Postfix sees has changed when it returns.
func (w *Work) Prepare(queues []Queue) (err error) {
	switch w.phase {
	case stopping:
		return errors.New("prepare: the run was left between stop and start")
	case prepared: // and died: its directories are made anew
		if err := w.write(kindGivenUp, struct{}{}); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil { // nobody may come after us to remove them
			err = errors.Join(err, w.removeFresh())
		}
	}()
	if slices.Contains(queues, Deferred) && !slices.Contains(queues, Defer) {
		queues = append(slices.Clone(queues), Defer)
	}
	if err := w.removeFresh(); err != nil {
		return err
	}
	if at, err := fileSystem(int(w.root.Fd())); err != nil {
		return fmt.Errorf("%s: %w", w.root.Name(), err)
	} else if at.unfit != "" {
		return Remedied(fmt.Errorf("%s lies on an %s file system, where a directory cannot be renamed safely", w.root.Name(), at.unfit), "put the queue on a file system of its own")
	}
	for _, name := range []string{".probe." + w.run + ".a", ".probe." + w.run + ".b"} {
		if err := w.write(kindFresh, freshRecord{name}); err != nil {
			return err
		}
	}
	if _, err := probe(w.root, ".probe."+w.run+".a", ".probe."+w.run+".b"); err != nil {
		return err
	}
	type candidate struct {
		want
		messages int64
	}
	var all []candidate
	w.counted = 0
	for _, q := range queues {
		k, messages, err := w.prepare(q)
		if errors.Is(err, fs.ErrNotExist) && q == Defer {
			continue
		}
		if err != nil {
			return fmt.Errorf("set aside %s: %w", q, err)
		}
		all = append(all, candidate{k, messages})
		if q != Defer { // a log moves with its message
			w.counted += messages
		}
	}
	if err := w.Journal.Reserve(JournalSpace(w.counted)); err != nil {
		return err
	}
	if err := syncDir(w.root); err != nil {
		return err
	}
	// The fullest queue first, else as they were named: if the section is cut short,
	// the most is done. Not slices.SortStableFunc, whose code is a five hundredth of
	// the agent.
	sort.Slice(all, func(i, k int) bool {
		a, b := &all[i], &all[k]
		return a.messages > b.messages || a.messages == b.messages && slices.Index(queues, a.Queue) < slices.Index(queues, b.Queue)
	})
	wants := make([]want, len(all))
	for i, c := range all {
		wants[i] = c.want
	}
	return w.write(kindWants, wants)
}

// Counted is how many messages Prepare found in what is to be set aside; of what
// takes longer than ten seconds to count, at least so many.
func (w *Work) Counted() int64 { return w.counted }

func (w *Work) prepare(q Queue) (want, int64, error) {
	old, err := openDir(w.root, string(q))
	if err != nil {
		return want{}, 0, err
	}
	defer old.Close()
	root, err := statFile(w.root)
	if err != nil {
		return want{}, 0, err
	}
	s, err := statFile(old)
	if err != nil {
		return want{}, 0, err
	}
	rootMount, err1 := mountID(int(w.root.Fd()))
	mount, err2 := mountID(int(old.Fd()))
	if err := errors.Join(err1, err2); err != nil {
		return want{}, 0, err
	}
	if s.Dev != root.Dev || mount != rootMount {
		return want{}, 0, fmt.Errorf("%s is a mount of its own: nothing can be renamed out of it", old.Name())
	}
	if s.UID != w.Postfix.Owner {
		return want{}, 0, Remedied(fmt.Errorf("%s belongs to uid %d, not to the mail owner (uid %d)", old.Name(), s.UID, w.Postfix.Owner), "run '"+w.Postfix.typed("postfix", "set-permissions")+"'")
	}
	messages, _, err := countUntil(old, time.Now().Add(countLimit))
	if err != nil {
		return want{}, 0, err
	}
	k := want{Queue: q, Fresh: "." + string(q) + "." + w.run, Old: s.Inode, Depth: w.Postfix.depth(q), When: time.Now().Unix()}
	if k.Aside, err = w.freeName(q); err != nil {
		return want{}, 0, err
	}
	if err := w.write(kindFresh, freshRecord{k.Fresh}); err != nil {
		return want{}, 0, err
	}
	if err := makeDir(w.root, k.Fresh, s.UID, s.GID, s.Mode, old); err != nil {
		return want{}, 0, err
	}
	k.New, err = inodeAt(w.root, k.Fresh)
	return k, messages, err
}

// removeFresh removes the empty directories that an earlier try of this run
// left: an empty one that the journal names is ours.
func (w *Work) removeFresh() error {
	for len(w.fresh) > 0 {
		name := w.fresh[len(w.fresh)-1]
		inode, err := inodeAt(w.root, name)
		if err == nil && inode != 0 {
			err = removeDir(w.root, name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("left over of an earlier try of this run: %w", err)
		}
		w.fresh = w.fresh[:len(w.fresh)-1]
	}
	return nil
}

// freeName is the first of incoming.spamfull, incoming.spamfull.2, ... that is
// not taken, by whichever run.
func (w *Work) freeName(q Queue) (string, error) {
	for n := 1; ; n++ {
		name := string(q) + ".spamfull"
		if n > 1 {
			name += "." + strconv.Itoa(n)
		}
		inode, err := inodeAt(w.root, name)
		if err != nil {
			return "", err
		}
		if inode == 0 {
			return name, nil
		}
	}
}

// swap makes the names of one queue so. It can be called from any state that
// a death may leave, and does nothing when all is right. It is called only
// while the lock on master.pid is held, unless no live queue is due to change.
func (w *Work) swap(k want) error {
	for range 8 { // each turn makes one step
		live, err1 := inodeAt(w.root, string(k.Queue))
		fresh, err2 := inodeAt(w.root, k.Fresh)
		aside, err3 := inodeAt(w.root, k.Aside)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		var err error
		switch {
		case fresh == k.Old && aside != 0: // the name was taken meanwhile
			if k.Aside, err = w.freeName(k.Queue); err == nil {
				err = w.write(kindRenamed, Set{Queue: k.Queue, Aside: k.Aside})
			}
		case fresh == k.Old:
			err = w.renameSynced(k.Fresh, k.Aside)
		case live == k.Old && fresh == k.New:
			err = exchange(w.root, k.Fresh, string(k.Queue))
			if err == nil {
				err = syncDir(w.root)
			} else if cannotExchange(err) {
				if aside != 0 {
					if k.Aside, err = w.freeName(k.Queue); err == nil {
						err = w.write(kindRenamed, Set{Queue: k.Queue, Aside: k.Aside})
					}
				} else {
					err = w.renameSynced(string(k.Queue), k.Aside)
				}
			}
		case live == 0 && fresh == k.New:
			err = w.renameSynced(k.Fresh, string(k.Queue))
		case aside == k.Old && live != k.Old:
			// Right, also where a start made the missing directory by itself
			// (post-install create-missing): mail may lie in it by now.
			if fresh == k.New {
				return removeDir(w.root, k.Fresh)
			}
			return nil
		default:
			return fmt.Errorf("%s: inode %d shall stand aside, but it is neither at %s nor at %s: somebody moved it", w.root.Name(), k.Old, k.Queue, k.Aside)
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: the names of %s change while they are set", w.root.Name(), k.Queue)
}

func (w *Work) renameSynced(from, to string) error {
	if err := rename(w.root, from, w.root, to); err != nil {
		return err
	}
	return syncDir(w.root)
}

// set makes the names of one queue as the journal wants them.
func (w *Work) set(k want) error {
	if w.back {
		return w.swapBack(k)
	}
	return w.swap(k)
}

// swapBack makes the names of one queue what they were before swap, from any
// state that a death in either may leave: the full directory has its own name,
// what stood in its place the prepared one's. Only while the lock on master.pid
// is held, unless no live queue is due to change.
func (w *Work) swapBack(k want) error {
	for range 8 { // each turn makes one step
		live, err1 := inodeAt(w.root, string(k.Queue))
		fresh, err2 := inodeAt(w.root, k.Fresh)
		aside, err3 := inodeAt(w.root, k.Aside)
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		full := k.Aside // where the full one stands
		if fresh == k.Old {
			full = k.Fresh
		}
		var err error
		switch {
		case live == k.Old && aside == k.New:
			err = w.renameSynced(k.Aside, k.Fresh)
		case live == k.Old:
			return nil
		case aside != k.Old && fresh != k.Old:
			return fmt.Errorf("%s: inode %d shall be %s again, but it is neither at %s nor at %s: somebody moved it", w.root.Name(), k.Old, k.Queue, k.Aside, k.Fresh)
		case live == 0:
			err = w.renameSynced(full, string(k.Queue))
		default:
			err = exchange(w.root, full, string(k.Queue))
			if err == nil {
				err = syncDir(w.root)
			} else if fresh == 0 && cannotExchange(err) {
				err = w.renameSynced(string(k.Queue), k.Fresh)
			}
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: the names of %s change while they are set back", w.root.Name(), k.Queue)
}

// cannotExchange tells a file system that has no exchange of names: two renames
// do, since the lock on master.pid keeps anybody from seeing the state between.
func cannotExchange(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP)
}

// endBack ends a section whose queues have been exchanged back. What Postfix has
// accepted meanwhile lies in the directories that stood in their place: these
// become what this run has set aside, to be judged or put back like the rest.
func (w *Work) endBack() error {
	var all error
	for _, k := range slices.Clone(w.openWants()) {
		live, err := inodeAt(w.root, string(k.Queue))
		if err == nil && live != k.Old {
			err = fmt.Errorf("%s is not what it was before", k.Queue)
		}
		if err == nil {
			err = w.keep(k)
		}
		all = errors.Join(all, err)
	}
	if all != nil {
		return all
	}
	if err := w.write(kindGivenUp, struct{}{}); err != nil {
		return err
	}
	return w.removeFresh()
}

// keep sets aside what stood in a queue's place, if it holds anything.
func (w *Work) keep(k want) error {
	dir, err := openDir(w.root, k.Fresh)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	full, err := removeEmpty(dir, maxHashDepth)
	if err != nil || !full {
		return err // empty: removeFresh removes it
	}
	s, err := statFile(dir)
	if err != nil {
		return err
	}
	kept := want{Queue: k.Queue, Fresh: k.Fresh, Old: s.Inode, Depth: w.Postfix.depth(k.Queue), When: time.Now().Unix()}
	if kept.Aside, err = w.freeName(k.Queue); err != nil {
		return err
	}
	// First: a death between the two leaves a record of nothing, and Settle
	// comes here again.
	if err := w.write(kindKept, kept); err != nil {
		return err
	}
	return w.renameSynced(k.Fresh, kept.Aside)
}

// asPrepared says that every name still is as Prepare has left it.
func (w *Work) asPrepared() error {
	for _, k := range w.openWants() {
		live, err1 := inodeAt(w.root, string(k.Queue))
		fresh, err2 := inodeAt(w.root, k.Fresh)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if live != k.Old || fresh != k.New {
			return fmt.Errorf("%s or %s is not the directory that was prepared: somebody moved it", k.Queue, k.Fresh)
		}
	}
	return nil
}

// finish ends what an error left between the two steps of one queue: a live
// name that is missing, or a full directory under the prepared one's name, where
// nobody would look for it. Neither touches what Postfix has open, so that it
// may be done while Postfix runs.
func (w *Work) finish() error {
	var all error
	for _, k := range w.openWants() {
		live, err1 := inodeAt(w.root, string(k.Queue))
		fresh, err2 := inodeAt(w.root, k.Fresh)
		err := errors.Join(err1, err2)
		if err == nil && (live == 0 || live == k.Old && w.back || fresh == k.Old && !w.back) {
			err = w.set(k)
		}
		all = errors.Join(all, err)
	}
	return all
}

// SetAside exchanges the prepared directories for the full ones. Stop must
// have returned before.
func (w *Work) SetAside(ctx context.Context, m *Stopped) ([]Set, error) {
	if m == nil || w.hold == nil {
		return nil, errors.New("set aside: Postfix was not stopped")
	}
	var sets []Set
	for i, k := range slices.Clone(w.openWants()) {
		if err := w.swap(k); err != nil {
			return sets, fmt.Errorf("set aside %s: %w", k.Queue, err)
		}
		set := Set{Queue: k.Queue, Aside: w.openWants()[i].Aside} // it may have got another name
		if err := w.write(kindSwapped, set); err != nil {
			return sets, err
		}
		sets = append(sets, set)
	}
	return sets, nil
}

// auto chooses the queues that hold more than warn messages each; incoming and
// active are one flood, so their sum counts.
func auto(count map[Queue]int64, warn int64) []Queue {
	var full []Queue
	if count[Maildrop] > warn {
		full = append(full, Maildrop)
	}
	if count[Incoming]+count[Active] > warn {
		full = append(full, Incoming, Active)
	}
	if count[Deferred] > warn {
		full = append(full, Deferred)
	}
	return full
}

// Choose turns the argument queues of set-aside into queue directories: names, or
// "auto". Names beside auto are of queues that are set aside, if they hold anything,
// where it chooses some. None is no error: no queue is that full.
func Choose(p *Postfix, names []string, warn int64) ([]Queue, error) {
	var queues []Queue
	byCount := false
	for _, name := range names {
		if strings.EqualFold(name, "auto") {
			byCount = true
			continue
		}
		q, err := ParseQueue(name)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(queues, q) {
			queues = append(queues, q)
		}
	}
	if !byCount {
		return queues, nil
	}
	count := map[Queue]int64{}
	deadline := time.Now().Add(countLimit)
	root, err := openRoot(p)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, q := range append([]Queue{Maildrop, Incoming, Active, Deferred}, queues...) {
		dir, err := openDir(root, string(q))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		count[q], _, err = countUntil(dir, deadline)
		dir.Close()
		if err != nil {
			return nil, err
		}
	}
	full := auto(count, warn)
	for _, q := range queues {
		if len(full) > 0 && count[q] > 0 && !slices.Contains(full, q) {
			full = append(full, q)
		}
	}
	return full, nil
}
