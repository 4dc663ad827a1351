package practice

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// Place is one name of one queue file.
type Place struct {
	Directory string // incoming, incoming.spamfull, incoming.name-collisions, delivered
	Path      string // below the queue directory, or below the host's folder where it is delivered
	QueueID   string
	Inode     uint64
	// Misplaced says that Postfix does not look there: the hash subdirectory
	// is not the id's.
	Misplaced bool
}

// Live says that the message is in a queue, where Postfix finds it.
func (p Place) Live() bool {
	return slices.Contains(spool.Queues, spool.Queue(p.Directory)) && p.Directory != string(spool.Corrupt) && !p.Misplaced
}

// Delivered says that the message has left the queue.
func (p Place) Delivered() bool { return p.Directory == delivered }

// Aside says that it stands in a directory that was set aside.
func (p Place) Aside() bool { return strings.Contains(p.Directory, ".spamfull") }

// Collision says that it was moved out of the way of another of its name.
func (p Place) Collision() bool { return strings.Contains(p.Directory, ".name-collisions") }

const delivered = "delivered"

// Account is what became of one message.
type Account struct {
	Label  Label
	Places []Place // one, if all is well
}

// Audit is the account of all mail that a practice host ever accepted.
type Audit struct {
	Messages map[string]Account // by X-Practice-Id
	// Unknown are whole messages that the host never accepted, Broken files
	// that are no message though their mode says so, and Incomplete those that
	// were never completed.
	Unknown, Broken, Incomplete []Place
	// Logs are the companions, wherever they stand.
	Logs []Place
}

// auditRounds bounds how often a host is looked through again because messages
// were on their way from one queue to another meanwhile.
const auditRounds = 5

// Audit looks through every directory of the host for every message.
func (h *Host) Audit() (Audit, error) {
	var a Audit
	for range auditRounds {
		next, err := h.audit()
		if err != nil {
			return a, err
		}
		a = next
		if len(a.Lost()) == 0 && len(a.Twice()) == 0 {
			break
		}
	}
	return a, nil
}

func (h *Host) audit() (Audit, error) {
	a := Audit{Messages: map[string]Account{}}
	accepted, err := os.Open(h.path(ledger))
	if err != nil {
		return a, err
	}
	defer accepted.Close()
	lines := bufio.NewScanner(accepted)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 {
			return a, fmt.Errorf("%s: line %q", accepted.Name(), lines.Text())
		}
		a.Messages[f[0]] = Account{Label: Label(f[1])}
	}
	if err := lines.Err(); err != nil {
		return a, err
	}
	dirs, err := os.ReadDir(h.Spool())
	if err != nil {
		return a, err
	}
	// In the order of a message's life, so that one that moves on is seen.
	names := []string{}
	for _, q := range spool.Queues {
		names = append(names, string(q))
	}
	for _, d := range dirs {
		if d.IsDir() && !slices.Contains(names, d.Name()) && d.Name() != "pid" && d.Name() != "public" {
			names = append(names, d.Name())
		}
	}
	var r queuefile.Reader
	for _, name := range names {
		if err := h.auditDir(&a, &r, h.Spool(), name); err != nil {
			return a, err
		}
	}
	if err := h.auditDir(&a, &r, h.Dir, delivered); err != nil {
		return a, err
	}
	for id, m := range a.Messages {
		if len(m.Places) > 1 { // seen here, then there: which of them is still true?
			m.Places = slices.DeleteFunc(m.Places, func(p Place) bool { return !h.still(p) })
			a.Messages[id] = m
		}
	}
	return a, nil
}

func (h *Host) still(p Place) bool {
	below := h.Spool()
	if p.Delivered() {
		below = h.Dir
	}
	var s unix.Stat_t
	return unix.Lstat(filepath.Join(below, p.Path), &s) == nil && s.Ino == p.Inode
}

// auditDir takes in all files below one directory.
func (h *Host) auditDir(a *Audit, r *queuefile.Reader, below, name string) error {
	queue, _, _ := strings.Cut(name, ".")
	companion := slices.Contains([]string{"defer", "bounce", "trace"}, queue)
	return filepath.WalkDir(filepath.Join(below, name), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(below, path)
		if err != nil {
			return err
		}
		p := Place{Directory: name, Path: rel, QueueID: d.Name()}
		sub, _ := filepath.Rel(name, filepath.Dir(rel))
		if sub == "." {
			sub = ""
		}
		p.Misplaced = name == queue && name != delivered && sub != queuefile.HashDir(p.QueueID, h.depth(spool.Queue(queue)))
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		p.Inode = s.Ino
		if companion {
			a.Logs = append(a.Logs, p)
			return nil
		}
		if uint32(s.Mode)&0o700 != 0o700 {
			a.Incomplete = append(a.Incomplete, p)
			return nil
		}
		id, err := practiceID(r, path, s.Size, queue == string(spool.Maildrop))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if broken := new(queuefile.Broken); errors.As(err, &broken) {
			a.Broken = append(a.Broken, p)
			return nil
		}
		if err != nil {
			return err
		}
		m, ok := a.Messages[id]
		if !ok {
			a.Unknown = append(a.Unknown, p)
			return nil
		}
		m.Places = append(m.Places, p)
		a.Messages[id] = m
		return nil
	})
}

// practiceID reads the whole of a queue file and returns its X-Practice-Id, ""
// if it has none.
func practiceID(r *queuefile.Reader, path string, size int64, maildrop bool) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r.Reset(f, size, maildrop)
	if _, err := r.Envelope(); err != nil {
		return "", err
	}
	var id string
	inHeader, begin := true, true
	err = r.Content(func(piece []byte, eol bool) error {
		if begin && len(piece) == 0 && eol {
			inHeader = false
		}
		if value, ok := bytes.CutPrefix(piece, []byte(idHeader+":")); ok && begin && inHeader && id == "" {
			id = string(bytes.TrimSpace(value))
		}
		begin = eol
		return nil
	})
	return id, err
}

// Lost are the messages that were accepted and stand nowhere.
func (a Audit) Lost() []string {
	return a.where(func(m Account) bool { return len(m.Places) == 0 })
}

// Twice are the messages that stand in more than one place.
func (a Audit) Twice() []string { return a.where(func(m Account) bool { return len(m.Places) > 1 }) }

func (a Audit) where(is func(Account) bool) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(a.Messages)) {
		if is(a.Messages[id]) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Elsewhere are the messages of a label of which one place is not as is says,
// such as ham that is neither live nor delivered, each with its places.
func (a Audit) Elsewhere(label Label, is func(Place) bool) []string {
	return a.where(func(m Account) bool {
		return m.Label == label && (len(m.Places) == 0 || slices.ContainsFunc(m.Places, func(p Place) bool { return !is(p) }))
	})
}

// Count says how many messages of a label stand in each directory.
func (a Audit) Count(label Label) map[string]int {
	count := map[string]int{}
	for _, m := range a.Messages {
		if m.Label == label {
			for _, p := range m.Places {
				count[p.Directory]++
			}
		}
	}
	return count
}
