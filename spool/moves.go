package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

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
				at, err := w.stands(m)
				if err != nil {
					return sum, err
				}
				switch {
				case m.fromLive() && m.To != "" && m.reached(at):
				case at != "":
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

// stands is the directory that still has the file of a move or a removal, "" where
// it was moved away or removed. A message of a live queue may have gone on into
// another one by itself.
func (w *Work) stands(m intention) (string, error) {
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
			return "", err
		}
		inode, err := inodeAt(dir, m.ID)
		dir.Close()
		if err != nil {
			return "", err
		}
		if inode == m.Inode {
			return path, nil
		}
	}
	return "", nil
}

// fromLive tells what postsuper is to do from what is done with what was set aside.
func (i intention) fromLive() bool {
	queue, _, _ := strings.Cut(i.From, "/")
	return slices.Contains(live, Queue(queue))
}

// reached says of a message of a live queue, by where it stands, whether postsuper
// has moved it: what was released may have gone on.
func (i intention) reached(at string) bool {
	to, _, _ := strings.Cut(i.To, "/")
	queue, _, _ := strings.Cut(at, "/")
	return queue == to || to == string(Deferred) && queue != "" && queue != string(Hold)
}

func (m *Moved) count(i intention) {
	queue, _, _ := strings.Cut(i.To, "/")
	switch {
	case i.isLog():
	case i.To == "":
		m.removed++
	case i.fromLive():
		m.moved++
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

// unsureError says that a message was renamed, and something went wrong after that.
type unsureError struct{ error }

func (e unsureError) Unwrap() error { return e.error }

// isFatal tells a failure of the disk or of ours from one message's trouble.
func isFatal(err error) bool {
	return errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) ||
		errors.Is(err, unix.EXDEV) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}

var errGone = errors.New("not aside any more")

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
