package stage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path"
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
	FateGone      = "gone"           // by a delete, hold, release or requeue that died, or delivered by Postfix before: the mail log tells
	FateStayed    = "stayed"         // was to be deleted, held, released or requeued, and was not
	FateHeld      = "held"           // by hold, from a live queue
	FateReleased  = "released"       // by release, from hold
	FateRequeued  = "requeued"       // by requeue
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
	// Of a delete: what it deleted, what of its list stayed, and what was deleted or
	// delivered, which nobody knows; and the same of what is done otherwise with mail
	// of live queues.
	Deleted  int64 `json:"deleted"`
	Gone     int64 `json:"gone,omitempty"`
	Stayed   int64 `json:"stayed"`
	Held     int64 `json:"held,omitempty"`
	Released int64 `json:"released,omitempty"`
	Requeued int64 `json:"requeued,omitempty"`
}

// Live is how many messages of live queues something was to be done with.
func (s *Sums) Live() int64 {
	return s.Deleted + s.Gone + s.Stayed + s.Held + s.Released + s.Requeued
}

// Acts tells what was done with messages of live queues.
func (s *Sums) Acts() []Line {
	var all []Line
	for _, of := range []Line{{Label: FateDeleted, Number: s.Deleted}, {Label: FateHeld, Number: s.Held}, {Label: FateReleased, Number: s.Released}, {Label: FateRequeued, Number: s.Requeued}} {
		if of.Number > 0 {
			all = append(all, of)
		}
	}
	return all
}

// Lines tells the balance.
func (s *Sums) Lines() []Line {
	var lines []Line
	doomed := s.Live()
	if s.SetAside > 0 || doomed == 0 {
		lines = append(lines, Line{Label: "set aside", Number: s.SetAside, Unit: "messages", Text: fmt.Sprintf(
			"restored %d + collisions %d + left %d + purged %d + sent meanwhile %d + missing %d",
			s.Restored, s.Collisions, s.Left, s.Purged, s.SentMeanwhile, s.Missing)})
	}
	if doomed > 0 {
		label, text, gone := "were to be deleted", "", "deleted or delivered"
		acts := s.Acts()
		if len(acts) == 0 {
			acts = []Line{{Label: FateDeleted}}
		}
		for _, a := range acts {
			text += fmt.Sprintf("%s %d + ", a.Label, a.Number)
		}
		if len(acts) > 1 || acts[0].Label != FateDeleted {
			label, gone = "of live queues", "done or delivered"
		}
		text += fmt.Sprintf("stayed %d", s.Stayed)
		if s.Gone > 0 {
			text += fmt.Sprintf(" + gone %d, %s", s.Gone, gone)
		}
		lines = append(lines, Line{Label: label, Number: doomed, Unit: "messages", Text: text})
	}
	return lines
}

func (s *Sums) add(fate string) {
	switch fate {
	case FateDeleted:
		s.Deleted++
		return
	case FateGone:
		s.Gone++
		return
	case FateStayed:
		s.Stayed++
		return
	case FateHeld:
		s.Held++
		return
	case FateReleased:
		s.Released++
		return
	case FateRequeued:
		s.Requeued++
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

// handOf is which of them had a run do what its journal has as record seq, -1 if
// nobody is known.
func handOf(hands []Hand, seq int64) int {
	for i, h := range slices.Backward(hands) {
		if h.Seq <= seq {
			return i
		}
	}
	return -1
}

// entryRules bounds the rules that an entry names.
const entryRules = 10

// ledgerPart is how many messages of a ledger are held in memory at a time: a
// larger run is gone through several times.
const ledgerPart = 1 << 17

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

	names  []string // of directories, of which many messages have one
	number map[string]int32
	moves  map[file]slot // of what was set aside
	gone   map[file]slot // of what postsuper has deleted from a live queue, or moved
}

// file is one message's: an inode alone is given out again.
type file struct {
	id    string
	inode uint64
}

// slot is what is known of a message in this part, in few bytes.
type slot struct {
	from, to     int32 // numbers of names
	hand         int32
	moved, open  bool
	gone         bool
	stands, seen bool
	summed       bool
	sum          [sha256.Size]byte
	at, size     int64
}

func (l *ledger) mine(id []byte) bool {
	sum := fnv.New32a()
	sum.Write(id)
	return sum.Sum32()%l.parts == l.part
}

func (l *ledger) name(dir string) int32 {
	n, ok := l.number[dir]
	if !ok {
		n = int32(len(l.names))
		l.names, l.number[dir] = append(l.names, dir), n
	}
	return n
}

func (l *ledger) onePart() error {
	l.names, l.number, l.moves, l.gone = nil, map[string]int32{}, map[file]slot{}, map[file]slot{}
	err := spool.Moves(l.record.Dir, func(m spool.Move) error {
		if !l.mine([]byte(m.ID)) {
			return nil
		}
		s := slot{from: l.name(m.From), to: l.name(m.To), hand: int32(handOf(l.hands, m.Seq)), moved: true, open: m.Open, gone: m.Gone, at: m.At, size: m.Size}
		s.summed = copy(s.sum[:], m.Sum) == sha256.Size
		if live(m.From) {
			l.gone[file{m.ID, m.Inode}] = s
		} else {
			l.moves[file{m.ID, m.Inode}] = s
		}
		return l.ctx.Err()
	}, nil)
	if err != nil {
		return err
	}
	for _, dir := range l.dirs {
		err := spool.Walk(l.postfix, dir, func(c spool.Chunk) error {
			for _, id := range c.IDs {
				if !l.mine([]byte(id)) {
					continue
				}
				m, err := c.Mail(dir, id)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err != nil {
					return err
				}
				f := file{id, m.Inode}
				s := l.moves[f]
				if s.moved && !s.open {
					l.again++
				}
				l.moves[f] = slot{from: l.name(path.Join(m.Aside, m.Sub)), stands: true, size: m.Size}
			}
			return l.ctx.Err()
		})
		if err != nil {
			return err
		}
	}
	if err := l.all(verdictsName, l.moves, l.aside); err != nil {
		return err
	}
	return l.all(doomedName, l.gone, l.live)
}

// all tells what lists name, each by the newest that names it, and then what is
// in none: messages that were moved or came aside since, or without any.
func (l *ledger) all(name string, known map[file]slot, fate func(*Entry, file, slot)) error {
	for _, name := range listsAs(l.record.Dir, name) {
		var rules []string
		var failed error
		err := eachOf(l.record.Dir, name, l.mine, func(called []string) { rules = called }, func(j *judged) error {
			f := file{j.ID, j.Inode}
			s := known[f]
			if s.seen {
				return nil
			}
			e := j.entry(rules)
			fate(e, f, s)
			s.seen = true
			known[f] = s
			failed = cmp.Or(l.tell(e), l.ctx.Err())
			return failed
		})
		if failed != nil {
			return failed
		}
		if err != nil && l.part == 0 {
			l.warn(fmt.Errorf("who sent some messages, and how they were judged, is not known: %w", err))
		}
	}
	for f, s := range known {
		if s.seen {
			continue
		}
		e := (&judged{Mail: spool.Mail{Aside: l.names[s.from], ID: f.id, Inode: f.inode, Size: s.size}}).entry(nil)
		fate(e, f, s)
		if err := l.tell(e); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) tell(e *Entry) error {
	l.sums.add(e.Fate)
	return l.each(e)
}

// entry is what a list has of a message.
func (j *judged) entry(rules []string) *Entry {
	e := &Entry{ID: j.ID, Inode: j.Inode, Bytes: j.Size, Recipients: j.To, More: j.More, Login: j.Login, Verdict: j.Verdict, From: path.Join(j.Aside, j.Sub)}
	if e.Recipients == nil {
		e.Recipients = []string{}
	}
	if j.known() {
		e.Sender = &j.Sender
	}
	if j.Born > 0 {
		e.Arrived = time.Unix(j.Born, 0).UTC()
	}
	for _, i := range j.Rules {
		if i >= 0 && i < len(rules) && len(e.Rules) < entryRules {
			e.Rules = append(e.Rules, brief(rules[i]))
		}
	}
	return e
}

// live tells a live queue's directory from one that was set aside.
func live(dir string) bool {
	queue, _, _ := strings.Cut(dir, "/")
	return slices.Contains(spool.Queues, spool.Queue(queue))
}

// aside says what became of a message that was set aside.
func (l *ledger) aside(e *Entry, f file, s slot) {
	switch {
	case s.stands:
		e.Fate = FateLeft
	case s.moved:
		e.Fate = FateRestored
		if to := l.names[s.to]; to == "" {
			e.Fate = FatePurged
		} else if (spool.Move{To: to}).Collided() {
			e.Fate = FateCollision
		}
		l.done(e, s)
	default:
		e.Fate, e.To = FateSent, string(l.postfix.HoldsFile(f.id, f.inode))
		if e.To == "" {
			e.Fate = FateMissing
		}
	}
}

// live says what became of a message of a live queue that something was to be done with.
func (l *ledger) live(e *Entry, f file, s slot) {
	switch {
	case !s.moved || s.open && l.postfix.HoldsFile(f.id, f.inode) != "":
		e.Fate = FateStayed
		return
	case s.open, s.gone:
		e.Fate = FateGone
	default:
		e.Fate = liveFate(l.names[s.to])
	}
	l.done(e, s)
}

// liveFate is what postsuper has done with a message that it has put into that
// directory.
func liveFate(to string) string {
	queue, _, _ := strings.Cut(to, "/")
	switch spool.Queue(queue) {
	case spool.Hold:
		return FateHeld
	case spool.Deferred:
		return FateReleased
	case spool.Maildrop:
		return FateRequeued
	}
	return FateDeleted
}

func (l *ledger) done(e *Entry, s slot) {
	e.From, e.To = l.names[s.from], l.names[s.to]
	if s.summed {
		e.SHA256 = hex.EncodeToString(s.sum[:])
	}
	if s.hand >= 0 {
		e.By = brief(l.hands[s.hand].By)
	}
	if s.at > 0 {
		e.Time = time.Unix(s.at, 0).UTC()
	}
}
