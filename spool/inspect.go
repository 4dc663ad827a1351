package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool/queuefile"
)

// Trouble is something that would make stop..start go wrong, found before.
type Trouble struct {
	Path   string `json:"path"`
	Why    string `json:"why"`
	Remedy string `json:"remedy"`
}

func (t Trouble) String() string { return t.Path + " " + t.Why + ": " + t.Remedy }

// troubleKept bounds what one host reports.
const troubleKept = 20

// spaceNeeded is what a run writes besides the journal of its moves: records,
// events, and directories.
const spaceNeeded = 16 << 20

// Inspect looks, without changing anything, for what would keep Postfix from
// starting again or a queue from being set aside: names and owners in the
// directories that stay live, the file system, the space. It gives up the
// search of large directories after ten seconds.
func Inspect(p *Postfix, aside []Queue, stateDirectory string) ([]Trouble, error) {
	root, err := openRoot(p)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var found []Trouble
	add := func(path, why, remedy string) {
		if len(found) < troubleKept {
			found = append(found, Trouble{path, why, remedy})
		}
	}
	unfit, free, inodes, err := fileSystem(int(root.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.QueueDirectory, err)
	}
	if unfit != "" {
		add(p.QueueDirectory, "lies on an "+unfit+" file system, where a queue cannot be renamed safely", "put the queue on a file system of its own")
	}
	// smtpd refuses mail below 1.5 times the size limit (smtpd_check.c).
	if need := uint64(max(p.MinFree, p.SizeLimit*3/2)) + spaceNeeded; free < need {
		add(p.QueueDirectory, fmt.Sprintf("has %d MB free, and %d MB are needed", free>>20, need>>20), "make room")
	}
	if inodes < 1000 {
		add(p.QueueDirectory, fmt.Sprintf("has %d inodes free", inodes), "make room")
	}
	if state, err := nearest(stateDirectory); err == nil {
		if _, free, _, err := fileSystem(int(state.Fd())); err == nil && free < spaceNeeded {
			add(state.Name(), fmt.Sprintf("has %d MB free for the run's records, and %d MB are needed", free>>20, spaceNeeded>>20), "make room, or name another state_directory")
		}
		state.Close()
	}
	rootMount, err := mountID(int(root.Fd()))
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(countLimit)
	for _, q := range []Queue{Maildrop, Incoming, Active, Deferred, Hold, Defer} {
		path := p.QueueDirectory + "/" + string(q)
		dir, err := openDir(root, string(q))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the start makes it
		}
		if err != nil {
			add(path, "cannot be opened: "+err.Error(), "see what is in its place")
			continue
		}
		s, err := statFile(dir)
		if err == nil && s.UID != p.Owner {
			add(path, fmt.Sprintf("belongs to uid %d, not to the mail owner", s.UID), "run 'postfix set-permissions'")
		}
		isAside := slices.Contains(aside, q) || q == Defer && slices.Contains(aside, Deferred)
		if mount, e := mountID(int(dir.Fd())); err == nil && e == nil && mount != rootMount && isAside {
			add(path, "is a mount of its own: nothing can be renamed out of it", "leave it out of queues, or unmount it")
		}
		if err == nil && !isAside {
			err = p.inspectLive(dir, q, deadline, add)
		}
		dir.Close()
		if err != nil && !errors.Is(err, errDeadline) {
			return found, err
		}
	}
	return found, nil
}

// inspectLive looks through a directory that Postfix will scan when it starts.
// Each of these stops it or its queue manager (postfix-facts: qmgr_active.c,
// mail_scan_dir.c, postsuper.c).
func (p *Postfix) inspectLive(dir *os.File, q Queue, deadline time.Time, add func(path, why, remedy string)) error {
	return walk(dir, func(c Chunk) error {
		for _, id := range c.IDs {
			if time.Now().After(deadline) {
				return errDeadline
			}
			path := c.Dir.Name() + "/" + id
			if len(id) == 1 {
				add(path, "is taken for a hash directory by its name: Postfix ends at it", "move it out of the queue")
				continue
			}
			s, err := statAt(c.Dir, id)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if q != Maildrop && s.UID != p.Owner {
				add(path, fmt.Sprintf("belongs to uid %d: the queue manager ends at it", s.UID), "move it out of the queue, or give it to the mail owner")
			}
			if inode, ok := queuefile.Inode(id); p.LogFile != "" && ok && inode != s.Inode && q != Defer {
				add(path, "has another inode than its name says: with maillog_file set, 'postfix start' fails over it", "run 'postsuper -s' while Postfix runs")
			}
		}
		for _, name := range c.Odd {
			path := c.Dir.Name() + "/" + name
			switch {
			case len(name) == 1:
				add(path, "is taken for a hash directory by its name: Postfix ends at it", "move it out of the queue")
			case p.LogFile != "" && !temporary.MatchString(name):
				add(path, "is no queue id: with maillog_file set, 'postfix start' fails over it", "move it out of the queue")
			}
		}
		return nil
	})
}

// temporary are names that cleanup(8) and postdrop(1) use for an instant
// (mail_queue_enter): time and process.
var temporary = regexp.MustCompile(`^\d+\.\d+$`)

// nearest opens path, or the nearest directory above it that is there.
func nearest(path string) (*os.File, error) {
	for {
		f, err := os.Open(path)
		if !errors.Is(err, fs.ErrNotExist) || path == "/" {
			return f, err
		}
		cut := strings.LastIndexByte(strings.TrimRight(path, "/"), '/')
		path = path[:max(cut, 1)]
		if cut <= 0 {
			path = "/"
		}
	}
}
