package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"spoolsweep/spool/queuefile"
)

// ErrBusy says that another run works on the same queue directory.
var ErrBusy = Remedied(errors.New("another run works on this queue directory"), "wait for it, or attach to it")

// Lock takes the one lock of a queue directory: an flock on the directory's
// own handle, so that it is the same for every version, inventory and state
// directory. It is held as long as one process has the handle open.
func Lock(p *Postfix) (*os.File, error) {
	root, err := openRoot(p)
	if err != nil {
		return nil, err
	}
	if err := lockFile(root); err != nil {
		root.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", p.QueueDirectory, ErrBusy)
		}
		return nil, fmt.Errorf("lock %s: %w", p.QueueDirectory, err)
	}
	return root, nil
}

// Unlocked takes the lock's place for a run that changes no queue.
func Unlocked(p *Postfix) (*os.File, error) { return openRoot(p) }

// Inherited takes over a lock that the parent process passed as a handle. The
// handle is marked close-on-exec before anything else happens: a Postfix
// started with it would hold the lock for ever.
func Inherited(fd uintptr, p *Postfix) (*os.File, error) {
	unix.CloseOnExec(int(fd))
	root := os.NewFile(fd, p.QueueDirectory)
	if root == nil {
		return nil, fmt.Errorf("no lock handed over as handle %d", fd)
	}
	if err := lockFile(root); err != nil { // ours already: flock is the open file's
		return nil, fmt.Errorf("lock handed over as handle %d: %w", fd, err)
	}
	return root, nil
}

// Set is one queue directory that a run has set aside.
type Set struct {
	Queue Queue  `json:"queue"`
	Aside string `json:"to"` // incoming.spamfull
	// When is the moment at which it was set aside, as seconds since 1970: that
	// of its preparation, just before the stop. 0 in a journal that does not say.
	When int64 `json:"when,omitempty"`
}

// want says which inode shall stand at each name of one queue.
type want struct {
	Queue Queue  `json:"queue"`
	Fresh string `json:"fresh"` // where the empty directory is made ready
	Aside string `json:"aside"`
	New   uint64 `json:"new"`   // inode of the empty directory
	Old   uint64 `json:"old"`   // inode of the full one
	Depth int    `json:"depth"` // of the full one's hash subdirectories
	When  int64  `json:"when,omitempty"`

	gone bool // removed after it was empty: an inode is soon given out again
}

// path is the directory in which the full one keeps id.
func (k want) path(id string) string {
	if sub := queuefile.HashDir(id, k.Depth); sub != "" {
		return k.Aside + "/" + sub
	}
	return k.Aside
}

// Records that this package writes and reads.
const (
	kindFresh    = "fresh"     // freshRecord: an empty directory is about to be made
	kindWants    = "wants"     // []want: the section is prepared
	kindRenamed  = "renamed"   // Set: the name aside was taken, this is the new one
	kindStopping = "stopping"  // stopRecord: the stop command is about to be issued
	kindSection  = "section"   // commandRecord: the process that does stop..start
	kindCommand  = "command"   // commandRecord: a command of the host runs
	kindStopped  = "stopped"   // {}: proved, the lock on master.pid is held
	kindStarting = "starting"  // {}: a start command is about to be issued
	kindSwapped  = "swapped"   // Set: the names of one queue are right
	kindStarted  = "started"   // startedRecord
	kindGivenUp  = "abandoned" // the stop could not be proved: the wants are void
	kindBack     = "back"      // backRecord: the names are about to be those from before the section, or forward again
	kindKept     = "kept"      // want: what stood in a queue's place meanwhile is about to be set aside
	kindIntent   = "intent"    // batchRecord
	kindOutcome  = "outcome"   // outcomeRecord
	kindAdopted  = "adopted"   // want: a directory that was set aside by hand is this run's
	kindRemoved  = "removed"   // Set: what was aside is empty and about to go, its inode anybody's from then on
)

type freshRecord struct {
	Name string `json:"name"`
}

type backRecord struct {
	Back bool `json:"back"`
}

// startedRecord ends a section. What it could not set aside is not the run's:
// another run may set that very directory aside later, under the same name.
type startedRecord struct {
	Started
	Not []Queue `json:"not,omitempty"`
}

// Started is the start of Postfix that ends a section, if the record is of one;
// whole says that all was set aside before that.
func (r Record) Started() (s *Started, whole bool) {
	var started startedRecord
	if r.Kind != kindStarted || json.Unmarshal(r.Data, &started) != nil {
		return nil, false
	}
	return &started.Started, len(started.Not) == 0
}

type stopRecord struct {
	Master int   `json:"master"`
	Boot   int64 `json:"boot"` // when, by the clock of boot()
}

type commandRecord struct {
	Group   int    `json:"group"`
	Started string `json:"started"`
}

// Work is one run's hand on a queue directory. It is not for several
// goroutines.
type Work struct {
	Postfix *Postfix
	Journal *Journal
	// Tell, if set, is told why Postfix could not be started, while it is tried again.
	Tell func(message string)

	run     string
	root    *os.File
	hold    *os.File // pid/master.pid, locked: Postfix is stopped and stays so
	fresh   []string // empty directories that may be left over
	wants   []want   // of every section of this run whose stop was proved, or is under way
	open    int      // how many of them belong to a section that has not ended
	back    bool     // their names shall be those from before the section
	phase   phase
	masters []int // that the section which has not ended found, or stopped
	last    *commandRecord
	moves   []batchRecord // every batch; few lack an outcome
	done    map[int64]outcomeRecord

	counted     int64         // see Counted
	movedBefore map[file]bool // cache of moved
}

// file is one message's: an inode alone is given out again.
type file struct {
	id    string
	inode uint64
}

// phase is where in stop..start the journal ends.
type phase int

const (
	outside  phase = iota // no section, or it ended
	prepared              // ready, Postfix untouched
	stopping              // a stop command was, or is about to be, issued
)

// OpenWork opens run's journal in dir and replays it. lock is the locked
// handle of the queue directory, from Lock or Inherited.
func OpenWork(p *Postfix, run, dir, build string, lock *os.File) (*Work, []Record, error) {
	j, records, err := OpenJournal(dir, build)
	if err != nil {
		return nil, nil, err
	}
	w := &Work{Postfix: p, Journal: j, run: run, root: lock, done: map[int64]outcomeRecord{}}
	for _, r := range records {
		if err := w.replay(r); err != nil {
			j.Close()
			return nil, nil, fmt.Errorf("%s: record %d (%s): %w", dir, r.Seq, r.Kind, err)
		}
	}
	return w, records, nil
}

// Close closes the journal. The lock stays with whoever took it.
func (w *Work) Close() error { return w.Journal.Close() }

// write journals a record and takes it in as a replay would: there is one
// account of what a record means. Those that a flood has many of are not read back.
func (w *Work) write(kind string, data any) error {
	if err := w.Journal.Write(kind, data); err != nil {
		return err
	}
	switch r := data.(type) {
	case batchRecord:
		r.Moves = slices.Clone(r.Moves)
		w.intended(w.Journal.seq, r)
		return nil
	case outcomeRecord:
		w.closed(r)
		return nil
	}
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return w.replay(Record{Seq: w.Journal.seq, Kind: kind, Data: text})
}

func (w *Work) replay(r Record) error {
	switch r.Kind {
	case kindFresh:
		var f freshRecord
		if err := json.Unmarshal(r.Data, &f); err != nil {
			return err
		}
		if !slices.Contains(w.fresh, f.Name) {
			w.fresh = append(w.fresh, f.Name)
		}
	case kindWants:
		var more []want
		if err := json.Unmarshal(r.Data, &more); err != nil {
			return err
		}
		if w.phase == prepared { // prepared before, and died: that one never began
			w.wants = w.wants[:len(w.wants)-w.open]
		}
		w.wants, w.open, w.phase, w.back = append(w.wants, more...), len(more), prepared, false
	case kindRenamed:
		var s Set
		if err := json.Unmarshal(r.Data, &s); err != nil {
			return err
		}
		for i := range w.wants {
			if k := &w.wants[i]; i >= len(w.wants)-w.open && k.Queue == s.Queue {
				k.Aside = s.Aside
			}
		}
	case kindStopping:
		var s stopRecord
		if err := json.Unmarshal(r.Data, &s); err != nil {
			return err
		}
		if w.phase != stopping {
			w.masters = nil
		}
		w.phase, w.last, w.masters = stopping, nil, append(w.masters, s.Master)
	case kindCommand:
		w.last = new(commandRecord)
		return json.Unmarshal(r.Data, w.last)
	case kindBack:
		var b backRecord
		if err := json.Unmarshal(r.Data, &b); err != nil {
			return err
		}
		w.back = b.Back
	case kindKept:
		var k want
		if err := json.Unmarshal(r.Data, &k); err != nil {
			return err
		}
		w.wants = slices.Insert(w.wants, len(w.wants)-w.open, k) // not of those whose section is open
	case kindStarted:
		var s startedRecord
		if err := json.Unmarshal(r.Data, &s); err != nil {
			return err
		}
		before := len(w.wants) - w.open
		set := slices.DeleteFunc(slices.Clone(w.openWants()), func(k want) bool { return slices.Contains(s.Not, k.Queue) })
		w.wants = append(w.wants[:before], set...)
		w.phase, w.open, w.last, w.back = outside, 0, nil, false
	case kindGivenUp:
		w.wants = w.wants[:len(w.wants)-w.open]
		w.phase, w.open, w.last, w.back = outside, 0, nil, false
	case kindIntent:
		var b batchRecord
		if err := json.Unmarshal(r.Data, &b); err != nil {
			return err
		}
		w.intended(r.Seq, b)
	case kindOutcome:
		var o outcomeRecord
		if err := json.Unmarshal(r.Data, &o); err != nil {
			return err
		}
		w.closed(o)
	case kindAdopted:
		var k want
		if err := json.Unmarshal(r.Data, &k); err != nil {
			return err
		}
		// Before those of a section that has not ended, which are the last ones.
		w.wants = slices.Insert(w.wants, len(w.wants)-w.open, k)
	case kindRemoved:
		var s Set
		if err := json.Unmarshal(r.Data, &s); err != nil {
			return err
		}
		for i := range w.wants {
			if k := &w.wants[i]; k.Aside == s.Aside {
				k.gone = true
			}
		}
	}
	return nil
}

// intended takes in a batch, whose moves are its own.
func (w *Work) intended(seq int64, b batchRecord) {
	b.seq = seq
	for i := range b.Moves {
		b.Moves[i].Sum = nil // for the account only, and a flood has many
	}
	w.moves, w.movedBefore = append(w.moves, b), nil
}

// closed takes in what came of a batch.
func (w *Work) closed(o outcomeRecord) { w.done[o.Intent], w.movedBefore = o, nil }

// Overdue says, from a run's journal, whether its section has not issued a
// start command SectionLimit after its stop command.
func Overdue(dir string) (bool, error) {
	records, err := ReadJournal(dir)
	if err != nil {
		return false, err
	}
	var stop *stopRecord
	for _, r := range records {
		switch r.Kind {
		case kindStopping:
			stop = new(stopRecord)
			if err := json.Unmarshal(r.Data, stop); err != nil {
				return false, err
			}
		case kindStarting, kindStarted, kindGivenUp:
			stop = nil
		}
	}
	return stop != nil && boot()-stop.Boot > int64(SectionLimit), nil
}

// NoteSection journals that this process does stop..start, for EndSection.
func (w *Work) NoteSection() error {
	p, err := processOf(os.Getpid())
	if err != nil {
		return err
	}
	return w.write(kindSection, commandRecord{Group: p.group, Started: p.started})
}

// EndSection kills the process that, by the journal in dir, does stop..start, if
// it still is that one: for a guard that is not its parent.
func EndSection(dir string) error {
	records, err := ReadJournal(dir)
	if err != nil {
		return err
	}
	var section commandRecord
	for _, r := range records {
		if r.Kind == kindSection {
			if err := json.Unmarshal(r.Data, &section); err != nil {
				return err
			}
		}
	}
	return endGroup(section.Group, section.Started)
}

// LeftDown says, from a run's records, whether it ends between stop and start.
func LeftDown(records []Record) bool {
	var open bool
	for _, r := range records {
		switch r.Kind {
		case kindStopping:
			open = true
		case kindStarted, kindGivenUp:
			open = false
		}
	}
	return open
}

// Unsettled says that the run was left between stop and start.
func (w *Work) Unsettled() bool { return w.phase == stopping }

// openWants are the names of the section that has not ended.
func (w *Work) openWants() []want { return w.wants[len(w.wants)-w.open:] }

// moved says whether this run has moved that message.
func (w *Work) moved(m Mail) bool {
	if w.movedBefore == nil {
		w.movedBefore = map[file]bool{}
		for _, b := range w.moves {
			for i, m := range b.Moves {
				if !slices.Contains(w.done[b.seq].Not, i) {
					w.movedBefore[file{m.ID, m.Inode}] = true
				}
			}
		}
	}
	return w.movedBefore[file{m.ID, m.Inode}]
}

// Batches is how many batches of moves and removals this run has journaled.
func (w *Work) Batches() int { return len(w.moves) }

// standing are the directories that this run has set aside and that still are
// there. What has the name by now may be another run's: the inode tells.
func (w *Work) standing() ([]want, error) {
	var all []want
	for _, k := range w.wants {
		inode, err := inodeAt(w.root, k.Aside)
		if err != nil {
			return nil, err
		}
		if inode == k.Old && !k.gone && !slices.ContainsFunc(all, func(o want) bool { return o.Aside == k.Aside }) {
			all = append(all, k)
		}
	}
	return all, nil
}

// StillAside says whether that very file is where it was judged.
func (w *Work) StillAside(m Mail) bool {
	path := m.Aside
	if m.Sub != "" {
		path += "/" + m.Sub
	}
	dir, err := w.openPath(path)
	if err != nil {
		return false
	}
	defer dir.Close()
	inode, err := inodeAt(dir, m.ID)
	return err == nil && inode == m.Inode
}

// SetsAside is what this run has set aside and what still stands there.
func (w *Work) SetsAside() ([]Set, error) {
	all, err := w.standing()
	if err != nil {
		return nil, err
	}
	var sets []Set
	for _, k := range all {
		sets = append(sets, Set{Queue: k.Queue, Aside: k.Aside, When: k.When})
	}
	return sets, nil
}

// OpenAside opens a directory of the queue directory by name, such as
// "incoming" or "deferred.spamfull/A", never through a link.
func (w *Work) OpenAside(name string) (*os.File, error) { return w.openPath(name) }

// AsideOf reads from a run's journal, without lock or change, what that run
// has set aside and what still stands there.
func AsideOf(p *Postfix, dir string) ([]Set, error) {
	records, err := ReadJournal(dir)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	root, err := openRoot(p)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	w := &Work{Postfix: p, root: root, done: map[int64]outcomeRecord{}}
	for _, r := range records {
		if err := w.replay(r); err != nil {
			return nil, fmt.Errorf("%s: record %d (%s): %w", dir, r.Seq, r.Kind, err)
		}
	}
	return w.SetsAside()
}

// Walk lists the messages of one directory of the queue directory, by name,
// such as "incoming" or "incoming.spamfull"; a name that is not there is no error.
func Walk(p *Postfix, name string, fn func(Chunk) error) error {
	root, err := openRoot(p)
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := openDir(root, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return walk(dir, fn)
}
