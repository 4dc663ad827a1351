package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// PutBack moves the listed messages back as Restore does. Then what is
// nobody's mail goes back where it was: half-written files, and logs whose
// message is not aside. Directories that are empty after that are removed;
// left names what still holds something.
func (w *Work) PutBack(ctx context.Context, list []Mail, o Options, progress func(Moved)) (done Moved, left []string, err error) {
	if done, err = w.Restore(ctx, list, o, progress); err != nil {
		return done, nil, err
	}
	r, err := newRestorer(w, Options{Token: "rest"}, Moved{ByQueue: map[string]int64{}})
	if err != nil {
		return done, nil, err
	}
	defer r.close()
	for _, k := range r.stand {
		if err := r.halfWritten(k); err != nil {
			return done, nil, err
		}
	}
	left, err = w.removeAsides()
	done.Failures = append(done.Failures, r.done.Failures...)
	return done, left, err
}

// strayLogs returns the logs in defer's set-aside directory whose message was
// never aside, such as that of one in hold.
func (r *restorer) strayLogs() error {
	for _, k := range r.stand {
		if k.Queue != Defer {
			continue
		}
		err := r.eachAside(k, func(path string, dir *os.File, id string) error {
			aside, err := r.messageAside(id)
			if err != nil || aside {
				return err
			}
			s, err := statAt(dir, id)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			moves, err := r.log(path, id, s, false)
			if err != nil || len(moves) == 0 {
				return err
			}
			return r.later(moves[0])
		})
		if err := errors.Join(err, r.flush()); err != nil {
			return fmt.Errorf("logs in %s: %w", k.Aside, err)
		}
	}
	return nil
}

// messageAside says whether a message with that id is in any directory that
// this run has set aside.
func (r *restorer) messageAside(id string) (bool, error) {
	for _, k := range r.stand {
		if k.Queue == Defer {
			continue
		}
		dir, err := r.dir(k.path(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		s, err := statAt(dir, id)
		if errors.Is(err, fs.ErrNotExist) || err == nil && halfWritten(s) {
			continue // what was never accepted has no log
		}
		return err == nil, err
	}
	return false, nil
}

// halfWritten says whether a file was never accepted, and is nobody's mail.
func halfWritten(s Stat) bool { return s.Regular() && s.Mode&0o700 == 0o600 }

// halfWritten returns the files that were never accepted.
func (r *restorer) halfWritten(k want) error {
	err := r.eachAside(k, func(path string, dir *os.File, id string) error {
		s, err := statAt(dir, id)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || k.Queue == Defer || !halfWritten(s) {
			return err
		}
		to := r.w.home(k.Queue, id)
		if _, err := r.target(to); err != nil {
			return err
		}
		return r.later(intention{From: path, To: to, ID: id, Inode: s.Inode})
	})
	if err := errors.Join(err, r.flush()); err != nil {
		return fmt.Errorf("half-written files in %s: %w", k.Aside, err)
	}
	return nil
}

// eachAside walks one set-aside directory, if it is still there.
func (r *restorer) eachAside(k want, fn func(path string, dir *os.File, id string) error) error {
	dir, err := openDir(r.w.root, k.Aside)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return walk(dir, func(c Chunk) error {
		path := k.Aside
		if c.Sub != "" {
			path += "/" + c.Sub
		}
		for _, id := range c.IDs {
			r.spare()
			if err := fn(path, c.Dir, id); err != nil {
				return err
			}
		}
		return nil
	})
}

// later collects moves into batches.
func (r *restorer) later(m intention) error {
	r.pending = append(r.pending, m)
	if len(r.pending) < batchMax {
		return nil
	}
	return r.flush()
}

func (r *restorer) flush() error {
	b := batchRecord{Token: "rest", Moves: r.pending, At: time.Now().Unix()}
	r.pending = nil
	return r.do(b)
}

// removeAside removes a set-aside directory with its hash subdirectories, as
// far as they are empty, and says whether anything is left.
func (w *Work) removeAside(k want) (full bool, err error) {
	inode, err := inodeAt(w.root, k.Aside)
	if err != nil || inode != k.Old {
		return false, err // gone, or somebody else's by now
	}
	dir, err := openDir(w.root, k.Aside)
	if err != nil {
		return false, err
	}
	full, err = removeEmpty(dir, maxHashDepth)
	dir.Close()
	if err != nil || full {
		return full, err
	}
	// First: a death between the two must not leave a name and an inode, soon
	// given to others, as this run's.
	if err := w.write(kindRemoved, Set{Queue: k.Queue, Aside: k.Aside}); err != nil {
		return false, err
	}
	return w.removeGone(k)
}

// removeGone removes a directory that the journal calls removed, which it is
// not after a death: only while it is empty.
func (w *Work) removeGone(k want) (full bool, err error) {
	inode, err := inodeAt(w.root, k.Aside)
	if err != nil || inode == 0 || inode != k.Old {
		return false, err
	}
	err = removeDir(w.root, k.Aside)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, syncDir(w.root)
}

// removeAsides removes what is empty of all that this run has set aside, and
// names what is not.
func (w *Work) removeAsides() (left []string, err error) {
	for _, k := range w.wants {
		if k.gone {
			if _, err := w.removeGone(k); err != nil {
				return left, err
			}
		}
	}
	stand, err := w.standing()
	if err != nil {
		return left, err
	}
	for _, k := range stand {
		full, err := w.removeAside(k)
		if err != nil {
			return left, err
		}
		if full {
			left = append(left, k.Aside)
		}
	}
	return left, nil
}

func removeEmpty(dir *os.File, depth int) (full bool, err error) {
	list, err := openDir(dir, ".")
	if err != nil {
		return false, err
	}
	entries, err := list.ReadDir(-1)
	list.Close()
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if !e.IsDir() || len(e.Name()) != 1 || depth == 0 {
			full = true
			continue
		}
		sub, err := openDir(dir, e.Name())
		if err != nil {
			return full, err
		}
		below, err := removeEmpty(sub, depth-1)
		sub.Close()
		if err != nil {
			return full, err
		}
		if below {
			full = true
		} else if err := removeDir(dir, e.Name()); err != nil {
			return full, err
		}
	}
	return full, nil
}
