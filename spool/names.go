package spool

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool/queuefile"
)

// fileKind is what a directory says that a name is.
type fileKind byte

const (
	otherKind fileKind = iota
	plainFile
	directory
)

// kindAt asks the file itself. One that is gone meanwhile counts as neither.
func kindAt(dir *os.File, name string) fileKind {
	s, err := statAt(dir, name)
	switch {
	case err == nil && s.Type == unix.S_IFREG:
		return plainFile
	case err == nil && s.Type == unix.S_IFDIR:
		return directory
	}
	return otherKind
}

const (
	namesBuffer = 64 << 10
	// maxDepth bounds a tree of directories that are no queue.
	maxDepth = 32
)

// counter counts the names of directory trees, and keeps none but those it was
// asked to pick.
type counter struct {
	buf   []byte
	until time.Time // zero: however long it takes
	pick  int       // how many of the names to pick, at random
}

func newCounter(until time.Time, pick int) *counter {
	return &counter{buf: make([]byte, namesBuffer), until: until, pick: pick}
}

// counted is what was found in one tree.
type counted struct {
	messages int64
	partial  bool // the time was up: there are at least so many
	picked   []place
}

// place is a message's: hash subdirectories below the queue, and its id.
type place struct{ sub, id string }

// errDeadline ends a listing that has taken too long.
var errDeadline = errors.New("out of time")

// messages counts the queue ids of a queue directory, flat or hashed.
func (c *counter) messages(dir *os.File) (counted, error) {
	var found counted
	err := c.tree(dir, "", 0, maxHashDepth,
		func(name []byte) bool { return len(name) == 1 },
		func(sub string, name []byte) {
			if !queuefile.ValidID(string(name)) {
				return
			}
			found.messages++
			// Each name so far has the same chance to be among the picked ones
			// (Vitter's algorithm R).
			if len(found.picked) < c.pick {
				found.picked = append(found.picked, place{sub, string(name)})
			} else if c.pick > 0 {
				if i := rand.Int64N(found.messages); i < int64(c.pick) {
					found.picked[i] = place{sub, string(name)}
				}
			}
		})
	if errors.Is(err, errDeadline) {
		found.partial, err = true, nil
	}
	return found, err
}

// files counts the plain files of any directory, as find -type f does.
func (c *counter) files(dir *os.File) (n int64, partial bool, err error) {
	err = c.tree(dir, "", 0, maxDepth, func([]byte) bool { return true }, func(string, []byte) { n++ })
	if errors.Is(err, errDeadline) {
		return n, true, nil
	}
	return n, false, err
}

// tree calls file for each plain file, without following links. An error means
// that the listing is not complete.
func (c *counter) tree(dir *os.File, sub string, depth, most int, into func(name []byte) bool, file func(sub string, name []byte)) error {
	// A handle of its own: the caller's may have been read before.
	list, err := openDir(dir, ".")
	if err != nil {
		return err
	}
	defer list.Close()
	var below []string
	var since int
	err = eachName(list, c.buf, func(name []byte, kind fileKind, _ uint64) error {
		switch {
		case kind == plainFile:
			file(sub, name)
		case kind == directory && depth < most && into(name):
			below = append(below, string(name))
		}
		if since++; since < chunkNames || c.until.IsZero() {
			return nil
		}
		since = 0
		return c.late()
	})
	if err != nil {
		return err
	}
	for _, name := range below {
		if err := c.late(); err != nil {
			return err
		}
		child, err := openDir(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // qmgr or postsuper removed it meanwhile
		}
		if err != nil {
			return err
		}
		at := name
		if sub != "" {
			at = sub + "/" + name
		}
		err = c.tree(child, at, depth+1, most, into, file)
		child.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *counter) late() error {
	if !c.until.IsZero() && time.Now().After(c.until) {
		return errDeadline
	}
	return nil
}

// countIDs counts a directory's messages by their names alone.
func countIDs(dir *os.File) (int64, error) {
	found, err := newCounter(time.Time{}, 0).messages(dir)
	return found.messages, err
}

// countUntil is countIDs that gives up at a deadline and then says so.
func countUntil(dir *os.File, deadline time.Time) (n int64, partial bool, err error) {
	found, err := newCounter(deadline, 0).messages(dir)
	return found.messages, found.partial, err
}

// CountIn counts the messages in one directory of the queue directory by their
// names, such as "incoming.spamfull"; a name that is not there holds none.
func CountIn(p *Postfix, name string) (int64, error) {
	root, err := openRoot(p)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	dir, err := openDir(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	return countIDs(dir)
}
