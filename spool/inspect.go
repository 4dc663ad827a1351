package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

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

const (
	// directorySpace is for the new queues, of which Postfix makes hash directories.
	directorySpace = 1 << 20
	// inodesNeeded are those of the new queues' hash directories, and of mail that
	// comes meanwhile.
	inodesNeeded = 1000
)

// Inspect looks, without changing anything, for what would keep Postfix from
// starting again or a queue from being set aside: names and owners in the
// directories that stay live, the file system, the space for new mail and for
// what the run will reserve for its records in the state directory, in bytes. It
// gives up the search of large directories after ten seconds.
func Inspect(p *Postfix, aside []Queue, reserved int64, stateDirectory string) ([]Trouble, error) {
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
	at, err := fileSystem(int(root.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.QueueDirectory, err)
	}
	if unfit := at.unfit; unfit != "" {
		add(p.QueueDirectory, "lies on an "+unfit+" file system, where a queue cannot be renamed safely", "put the queue on a file system of its own")
	}
	p.inspectSpace(p.QueueDirectory, at, reserved, recordsApart(root, stateDirectory), add)
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
			add(path, fmt.Sprintf("belongs to uid %d, not to the mail owner", s.UID), "run '"+p.typed("postfix", "set-permissions")+"'")
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

// volume is a file system, as statfs(2) tells of it.
type volume struct {
	unfit  string // why a queue cannot be renamed safely on it; "" where it can
	free   uint64 // bytes, for others than root
	inodes uint64 // free ones
}

// volumeOf takes what statfs tells. A file system that makes inodes as it needs
// them, such as btrfs, has none in all, and so none free.
func volumeOf(unfit string, free, allInodes, freeInodes uint64) volume {
	if allInodes == 0 {
		freeInodes = math.MaxUint64
	}
	return volume{unfit, free, freeInodes}
}

// inspect looks whether a file system has the room that something needs.
func (v volume) inspect(path, what string, need uint64, or string, add func(path, why, remedy string)) {
	if v.free < need {
		add(path, fmt.Sprintf("has %d MB free for %s, and %d MB are needed", v.free>>20, what, (need+1<<20-1)>>20), "make room"+or)
	}
	if v.inodes < inodesNeeded {
		add(path, fmt.Sprintf("has %d inodes free for %s, and %d are needed (df -i)", v.inodes, what, inodesNeeded), "remove files there"+or)
	}
}

// records are where a run's records go, where that is another file system than
// the queue's.
type records struct {
	path string
	volume
}

// recordsApart looks where the records will go; nil for the queue's file system.
func recordsApart(root *os.File, stateDirectory string) *records {
	state, err := nearest(stateDirectory)
	if err != nil {
		return nil
	}
	defer state.Close()
	var s, t unix.Stat_t
	if errors.Join(unix.Fstat(int(root.Fd()), &s), unix.Fstat(int(state.Fd()), &t)) != nil || s.Dev == t.Dev {
		return nil
	}
	at, err := fileSystem(int(state.Fd()))
	if err != nil {
		return nil
	}
	return &records{state.Name(), at}
}

// inspectSpace looks whether there is room for new mail, and for the records of
// a run, which reserves so many bytes for them.
func (p *Postfix) inspectSpace(path string, at volume, reserved int64, apart *records, add func(path, why, remedy string)) {
	// smtpd refuses mail below 1.5 times the size limit (smtpd_check.c).
	need := uint64(max(p.MinFree, p.SizeLimit*3/2)) + directorySpace
	own := uint64(reserved)
	if apart != nil {
		apart.inspect(apart.path, "the run's records", own, ", or name another state_directory", add)
		own = 0
	}
	at.inspect(path, "new mail (queue_minfree, 1.5 times message_size_limit) and the run", need+own, "", add)
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
				add(path, "has another inode than its name says: with maillog_file set, 'postfix start' fails over it", "run '"+p.typed("postsuper", "-s")+"' while Postfix runs")
			}
		}
		for _, name := range c.Odd {
			path := c.Dir.Name() + "/" + name
			switch {
			case len(name) == 1:
				add(path, "is taken for a hash directory by its name: Postfix ends at it", "move it out of the queue")
			case p.LogFile != "" && !temporary(name):
				add(path, "is no queue id: with maillog_file set, 'postfix start' fails over it", "move it out of the queue")
			}
		}
		return nil
	})
}

// temporary says whether a name is one that cleanup(8) and postdrop(1) use for an
// instant (mail_queue_enter): time and process.
func temporary(name string) bool {
	time, process, _ := strings.Cut(name, ".")
	return digits(time) && digits(process)
}

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
