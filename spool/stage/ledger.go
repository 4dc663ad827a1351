package stage

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// What became of a message.
const (
	FateRestored  = "restored"       // moved back into a live queue
	FateCollision = "collision"      // moved out of the way of another one with its id
	FateLeft      = "left"           // still aside
	FatePurged    = "purged"         // removed from what was aside
	FateSent      = "sent_meanwhile" // found in a live queue, where this run did not move it
	FateMissing   = "missing"        // neither aside nor live, and this run did nothing to it
	FateDeleted   = "deleted"        // by delete, from a live queue
	FateStayed    = "stayed"         // was to be deleted, and was not
)

// Entry is the account of one message of a run.
type Entry struct {
	ID    string `json:"id"`
	Inode uint64 `json:"inode"`
	Bytes int64  `json:"bytes"` // of the queue file; 0: not known
	// SHA256 is that of the queue file, in hex, of what was removed.
	SHA256 string `json:"sha256,omitempty"`
	// Sender is nil where it is not known, as of what is unreadable.
	Sender     *string   `json:"sender"`
	Recipients []string  `json:"recipients"`
	More       int       `json:"more_recipients,omitempty"`
	Login      string    `json:"sasl_user,omitempty"`
	Arrived    time.Time `json:"arrived,omitzero"`
	// Verdict is the last one, empty where nobody judged it, and Rules are what
	// took it.
	Verdict pattern.Verdict `json:"verdict"`
	Rules   []string        `json:"rules,omitempty"`
	Fate    string          `json:"fate"`
	From    string          `json:"from"`         // incoming.spamfull/A
	To      string          `json:"to,omitempty"` // incoming, deferred/B, incoming.name-collisions
	Time    time.Time       `json:"time,omitzero"`
	By      string          `json:"by,omitempty"` // who had the run do it
}

// Sums are a ledger's. Each message is in one of them but SetAside, so that
// SetAside = Restored + Collisions + Left + Purged + SentMeanwhile + Missing.
type Sums struct {
	SetAside      int64 `json:"set_aside"`
	Restored      int64 `json:"restored"`
	Collisions    int64 `json:"collisions"`
	Left          int64 `json:"left"`
	Purged        int64 `json:"purged"`
	SentMeanwhile int64 `json:"sent_meanwhile"`
	Missing       int64 `json:"missing"`
	// Of a delete: what it deleted, and what of its list stayed.
	Deleted int64 `json:"deleted"`
	Stayed  int64 `json:"stayed"`
}

// Lines tells the balance.
func (s *Sums) Lines() []Line {
	var lines []Line
	if s.SetAside > 0 || s.Deleted+s.Stayed == 0 {
		lines = append(lines, Line{Label: "set aside", Number: s.SetAside, Unit: "messages", Text: fmt.Sprintf(
			"= restored %d + collisions %d + left %d + purged %d + sent meanwhile %d + missing %d",
			s.Restored, s.Collisions, s.Left, s.Purged, s.SentMeanwhile, s.Missing)})
	}
	if s.Deleted+s.Stayed > 0 {
		lines = append(lines, Line{Label: "were to be deleted", Number: s.Deleted + s.Stayed, Unit: "messages", Text: fmt.Sprintf(
			"= deleted %d + stayed %d", s.Deleted, s.Stayed)})
	}
	return lines
}

func (s *Sums) add(fate string) {
	switch fate {
	case FateDeleted:
		s.Deleted++
		return
	case FateStayed:
		s.Stayed++
		return
	case FateRestored:
		s.Restored++
	case FateCollision:
		s.Collisions++
	case FateLeft:
		s.Left++
	case FatePurged:
		s.Purged++
	case FateSent:
		s.SentMeanwhile++
	case FateMissing:
		s.Missing++
	}
	s.SetAside++
}

// Hand says who had a run go on, from a record of its journal on.
type Hand struct {
	Seq int64
	By  string
}

// handOf is who had a run do what its journal has as record seq.
func handOf(hands []Hand, seq int64) string {
	by := ""
	for _, h := range hands {
		if h.Seq > seq {
			break
		}
		by = h.By
	}
	return brief(by)
}

// entryRules bounds the rules that an entry names.
const entryRules = 10

// ledgerPart is how many messages of a ledger are held in memory at a time: a
// larger run is gone through several times.
const ledgerPart = 1 << 16

// Ledger accounts for every message of a run: what its lists name, what its
// journal says was moved or removed, and what stands in the directories that it
// has set aside, each message once. warn is told of a list that cannot be read.
// Nothing is changed.
func Ledger(ctx context.Context, p *spool.Postfix, r Record, each func(*Entry) error, warn func(error)) (*Sums, error) {
	return ledgerIn(ctx, p, r, ledgerPart, each, warn)
}

func ledgerIn(ctx context.Context, p *spool.Postfix, r Record, part int64, each func(*Entry) error, warn func(error)) (*Sums, error) {
	hands, err := r.Hands()
	if err != nil {
		return nil, err
	}
	var all int64
	if err := spool.Moves(r.Dir, func(spool.Move) error { all++; return nil }, nil); err != nil {
		return nil, err
	}
	var dirs []string
	for _, s := range r.Sets {
		if s.Queue == spool.Defer {
			continue
		}
		dirs = append(dirs, s.Aside)
		err := spool.Walk(p, s.Aside, func(c spool.Chunk) error {
			all += int64(len(c.IDs))
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
	}
	l := &ledger{ctx: ctx, postfix: p, record: r, hands: hands, dirs: dirs, parts: uint32(all/part + 1), each: each, warn: warn}
	for l.part = range l.parts {
		if err := l.onePart(); err != nil {
			return nil, err
		}
	}
	// What was counted when it was set aside, and is in nobody's hands.
	if lost := r.Counted - l.sums.SetAside - l.again; lost > 0 {
		l.sums.Missing += lost
		l.sums.SetAside += lost
	}
	return &l.sums, nil
}

// ledger is a ledger being made, of one part of the ids at a time.
type ledger struct {
	ctx     context.Context
	postfix *spool.Postfix
	record  Record
	hands   []Hand
	dirs    []string
	parts   uint32
	part    uint32
	each    func(*Entry) error
	warn    func(error)
	sums    Sums
	again   int64 // messages that were moved back, and set aside once more

	paths    map[string]string // one string for each
	moves    map[file]*spool.Move
	deleted  map[file]*spool.Move
	standing map[file]spool.Mail
	seen     map[file]bool
}

// file is one message's: an inode alone is given out again.
type file struct {
	id    string
	inode uint64
}

func (l *ledger) mine(id string) bool {
	sum := fnv.New32a()
	io.WriteString(sum, id)
	return sum.Sum32()%l.parts == l.part
}

// path keeps one copy of a name that many messages have.
func (l *ledger) path(name string) string {
	if known, ok := l.paths[name]; ok {
		return known
	}
	l.paths[name] = name
	return name
}

func (l *ledger) onePart() error {
	l.paths, l.moves, l.deleted = map[string]string{}, map[file]*spool.Move{}, map[file]*spool.Move{}
	l.standing, l.seen = map[file]spool.Mail{}, map[file]bool{}
	err := spool.Moves(l.record.Dir, func(m spool.Move) error {
		if !l.mine(m.ID) {
			return nil
		}
		m.From, m.To = l.path(m.From), l.path(m.To)
		if live(m.From) {
			l.deleted[file{m.ID, m.Inode}] = &m
		} else {
			l.moves[file{m.ID, m.Inode}] = &m
		}
		return l.ctx.Err()
	}, nil)
	if err != nil {
		return err
	}
	for _, dir := range l.dirs {
		err := spool.Walk(l.postfix, dir, func(c spool.Chunk) error {
			for _, id := range c.IDs {
				if !l.mine(id) {
					continue
				}
				m, err := c.Mail(dir, id)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				m.Sub = l.path(m.Sub)
				l.standing[file{id, m.Inode}] = m
			}
			return l.ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	if err := l.listed(verdictsName, l.aside); err != nil {
		return err
	}
	if err := l.unlisted(l.moves, l.aside); err != nil {
		return err
	}
	for f, m := range l.standing { // since the last list, or without any
		if !l.seen[f] {
			if err := l.tell(&judged{Mail: m}, nil, l.aside); err != nil {
				return err
			}
		}
	}
	l.seen = map[file]bool{} // what was restored may be deleted by the same run
	if err := l.listed(doomedName, l.live); err != nil {
		return err
	}
	return l.unlisted(l.deleted, l.live)
}

// live tells a live queue's directory from one that was set aside.
func live(dir string) bool {
	queue, _, _ := strings.Cut(dir, "/")
	return slices.Contains(spool.Queues, spool.Queue(queue))
}

// listed tells what lists name, by the newest that names it.
func (l *ledger) listed(name string, fate func(*Entry, file)) error {
	for _, name := range listsAs(l.record.Dir, name) {
		var rules []string
		var failed error
		_, err := eachListed(l.record.Dir, name, func(called []string) { rules = called }, func(j *judged) error {
			f := file{j.ID, j.Inode}
			if !l.mine(j.ID) || l.seen[f] {
				return nil
			}
			l.seen[f] = true
			failed = cmp.Or(l.tell(j, rules, fate), l.ctx.Err())
			return failed
		})
		if failed != nil {
			return failed
		}
		if err != nil && l.part == 0 {
			l.warn(fmt.Errorf("who sent some messages, and how they were judged, is not known: %w", err))
		}
	}
	return nil
}

// unlisted tells what was moved, and stands in no list.
func (l *ledger) unlisted(moves map[file]*spool.Move, fate func(*Entry, file)) error {
	for f, m := range moves {
		if l.seen[f] {
			continue
		}
		l.seen[f] = true
		dir, sub, _ := strings.Cut(m.From, "/")
		if err := l.tell(&judged{Mail: spool.Mail{Aside: dir, Sub: sub, ID: m.ID, Inode: m.Inode, Size: m.Size}}, nil, fate); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) tell(j *judged, rules []string, fate func(*Entry, file)) error {
	e := &Entry{ID: j.ID, Inode: j.Inode, Bytes: j.Size, Recipients: j.To, More: j.More, Login: j.Login, Verdict: j.Verdict, From: j.Aside}
	if e.Recipients == nil {
		e.Recipients = []string{}
	}
	if j.known() {
		e.Sender = &j.Sender
	}
	if j.Sub != "" {
		e.From += "/" + j.Sub
	}
	if j.Born > 0 {
		e.Arrived = time.Unix(j.Born, 0).UTC()
	}
	for _, i := range j.Rules {
		if i >= 0 && i < len(rules) && len(e.Rules) < entryRules {
			e.Rules = append(e.Rules, brief(rules[i]))
		}
	}
	fate(e, file{j.ID, j.Inode})
	l.sums.add(e.Fate)
	return l.each(e)
}

// aside says what became of a message that was set aside.
func (l *ledger) aside(e *Entry, f file) {
	m := l.moves[f]
	_, stands := l.standing[f]
	switch {
	case stands:
		e.Fate = FateLeft
		if m != nil && !m.Open {
			l.again++
		}
	case m != nil && m.To == "":
		e.Fate = FatePurged
	case m != nil && m.Collided():
		e.Fate = FateCollision
	case m != nil:
		e.Fate = FateRestored
	case l.postfix.HoldsFile(f.id, f.inode) != "":
		e.Fate, e.To = FateSent, string(l.postfix.HoldsFile(f.id, f.inode))
	default:
		e.Fate = FateMissing
	}
	if !stands && m != nil {
		l.done(e, m)
	}
}

// live says what became of a message that was to be deleted from a live queue.
func (l *ledger) live(e *Entry, f file) {
	e.Fate = FateStayed
	if m := l.deleted[f]; m != nil && !(m.Open && l.postfix.HoldsFile(f.id, f.inode) != "") {
		e.Fate = FateDeleted
		l.done(e, m)
	}
}

func (l *ledger) done(e *Entry, m *spool.Move) {
	e.From, e.To, e.SHA256, e.By = m.From, m.To, hex.EncodeToString(m.Sum), handOf(l.hands, m.Seq)
	if m.At > 0 {
		e.Time = time.Unix(m.At, 0).UTC()
	}
}
