package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// FindArgs are the arguments of find.
type FindArgs struct {
	Address string `json:"address" doc:"a whole address, @domain, @.domain and below, user@, with * globs, or <> for the null sender"`
}

// Check refuses what is no pattern of an address.
func (a *FindArgs) Check() error {
	if a.Address == "" {
		return errors.New("no address")
	}
	_, _, err := a.rules()
	return err
}

// rules are one for each field that an address may stand in, and the fields.
func (a *FindArgs) rules() (*pattern.Rules, []string, error) {
	fields := []string{"sender", "recipient", "sasl_user"}
	if a.Address == "<>" {
		fields = fields[:1]
	}
	var leaves []any
	for _, f := range fields {
		leaves = append(leaves, map[string]any{f: a.Address})
	}
	rules, err := pattern.Compile(map[string]any{"any": leaves}, nil)
	var bad *pattern.Error
	if errors.As(err, &bad) { // its path is ours, not the caller's
		err = fmt.Errorf("address %q: %s", a.Address, bad.Message)
	}
	return rules, fields, err
}

const (
	foundKept       = 200 // of many the newest
	foundRecipients = 5
	addressShown    = 320 // an address may be longer (RFC 5321), but none is
)

var find = Row{
	Name: "find", Doc: "find the messages from, to or of an address: live, set aside, and in the ledgers of runs",
	New: func() Args { return &FindArgs{} }, Result: func() Result { return &Found{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*FindArgs)
		f, err := findAll(ctx, h, args, emit)
		if err != nil {
			return nil, fmt.Errorf("find: %w", err)
		}
		return f, f.accounted(ctx, h, args, emit)
	},
}

// Found is the result of find.
type Found struct {
	Address  string       `json:"address"`
	Messages int64        `json:"messages"` // that match
	Looked   int64        `json:"messages_read"`
	Unread   int64        `json:"unreadable"`
	Mail     []*FoundMail `json:"mail"` // the newest of them
	// Gone is how many more there are in the ledgers, which stand nowhere any more,
	// and Ledger the newest of those. AtLeast says that there may be more.
	Gone    int64        `json:"gone"`
	AtLeast bool         `json:"at_least,omitempty"`
	Ledger  []*FoundMail `json:"ledger"`
}

// FoundMail is one message, and what runs have said of it.
type FoundMail struct {
	Where      string    `json:"where"` // DIRECTORY/ID
	As         []string  `json:"as"`    // sender, recipient, sasl_user
	Sender     string    `json:"sender"`
	Recipients []string  `json:"recipients"`
	More       int       `json:"more_recipients"`
	Login      string    `json:"sasl_user"`
	Arrived    time.Time `json:"arrived"`
	Size       int64     `json:"bytes"`
	// Run has it aside, or judged it last; Verdict is what it was judged.
	Run     string          `json:"run"`
	Verdict pattern.Verdict `json:"verdict"`
	// Fate is what that run did with it, empty while it has done nothing: see
	// Entry, as for the rest.
	Fate string    `json:"fate,omitempty"`
	To   string    `json:"to,omitempty"`
	Time time.Time `json:"time,omitzero"`
	By   string    `json:"by,omitempty"`

	inode uint64
	id    string
}

// Lines tells each message.
func (f *Found) Lines() []Line {
	lines := []Line{{Label: fmt.Sprintf("of %s, in %d looked at", f.Address, f.Looked), Number: f.Messages, Unit: "messages"}}
	for _, m := range f.Mail {
		lines = append(lines, Line{Label: m.Where, Text: m.text()})
	}
	if more := f.Messages - int64(len(f.Mail)); more > 0 {
		lines = append(lines, Line{Label: "older ones, not listed", Number: more, Unit: "messages"})
	}
	if f.Unread > 0 {
		lines = append(lines, Line{Label: "could not be read", Number: f.Unread, Unit: "messages"})
	}
	if f.Gone == 0 {
		return lines
	}
	label := "in the ledgers, and in no queue any more"
	if f.AtLeast {
		label = "at least, " + label
	}
	lines = append(lines, Line{Label: label, Number: f.Gone, Unit: "messages"})
	for _, m := range f.Ledger {
		lines = append(lines, Line{Label: m.Where, Text: m.text()})
	}
	if more := f.Gone - int64(len(f.Ledger)); more > 0 {
		lines = append(lines, Line{Label: "older ones in the ledgers, not listed", Number: more, Unit: "messages"})
	}
	return lines
}

// text is all that is known of a message, for people.
func (m *FoundMail) text() string {
	text := fmt.Sprintf("<%s> to <%s>", m.Sender, strings.Join(m.Recipients, ">, <"))
	if m.More > 0 {
		text += fmt.Sprintf(" and %d more", m.More)
	}
	if m.Login != "" {
		text += ", login " + m.Login
	}
	text += ", " + size(m.Size) + ", arrived " + m.Arrived.Format(time.RFC3339)
	switch {
	case m.Verdict != "":
		text += fmt.Sprintf(", run %s judged it %s", m.Run, m.Verdict)
	case m.Run != "":
		text += ", set aside by run " + m.Run
	}
	switch m.Fate {
	case FateRestored:
		text += ", restored to " + m.To
	case FateCollision:
		text += ", its id was taken: moved to " + m.To
	case FatePurged, FateDeleted, FateHeld, FateReleased, FateRequeued:
		text += ", " + m.Fate
	case FateGone:
		text += ", deleted, or delivered before that, as its id in the mail log tells,"
	case FateStayed:
		text += ", was not deleted"
	case FateMissing:
		text += ", missing: no run has moved it, look for its id in the mail log"
	}
	if !m.Time.IsZero() {
		text += " " + m.Time.Format(time.RFC3339)
	}
	if m.By != "" {
		text += " by " + m.By
	}
	return text
}

// findAll reads the envelope of every message.
func findAll(ctx context.Context, h *Host, args *FindArgs, emit Emit) (*Found, error) {
	rules, fields, err := args.rules()
	if err != nil {
		return nil, err
	}
	aside, err := spool.AsideNames(h.Postfix)
	if err != nil {
		return nil, err
	}
	// In the order of a message's life: one on its way is met at least once.
	var dirs []string
	for _, q := range spool.Queues {
		dirs = append(dirs, string(q))
	}
	f := &Found{Address: args.Address, Mail: []*FoundMail{}}
	judges := make([]*pattern.Judge, workers())
	for i := range judges {
		judges[i] = rules.Judge()
	}
	shown := time.Now()
	p := &pass[looked]{
		postfix: h.Postfix, dirs: append(dirs, aside...),
		read: func(w int, m *mail, r *looked) error {
			r.read(judges[w], m, fields)
			return nil
		},
		gather: func(found []looked) error {
			for i := range found {
				f.Looked++
				switch r := &found[i]; {
				case r.unreadable:
					f.Unread++
				case r.matches:
					m := r.FoundMail
					f.add(&m)
				}
			}
			if now := time.Now(); now.Sub(shown) >= progressEvery {
				shown = now
				emit("progress", map[string]int64{"messages": f.Looked, "found": f.Messages})
			}
			return nil
		},
	}
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	f.trim()
	return f, nil
}

// add keeps the newest; a message that moved on meanwhile is counted once.
func (f *Found) add(m *FoundMail) {
	if i := slices.IndexFunc(f.Mail, func(o *FoundMail) bool { return o.inode == m.inode && o.id == m.id }); i >= 0 {
		f.Mail[i] = m
		return
	}
	f.Messages++
	f.Mail = append(f.Mail, m)
	if len(f.Mail) >= 2*foundKept {
		f.trim()
	}
}

func (f *Found) trim() { f.Mail = newest(f.Mail) }

// newest keeps the newest of messages, in that order.
func newest(all []*FoundMail) []*FoundMail {
	sortBy(all, func(a, b *FoundMail) int {
		return cmp.Or(b.Arrived.Compare(a.Arrived), strings.Compare(a.Where, b.Where))
	})
	return all[:min(len(all), foundKept)]
}

// looked is what is kept of one message.
type looked struct {
	FoundMail
	matches, unreadable bool
}

func (r *looked) read(j *pattern.Judge, m *mail, fields []string) {
	*r = looked{}
	if m.Broken != nil || !m.Regular() {
		r.unreadable = true
		return
	}
	if m.Mode&0o700 == 0o600 {
		return // never accepted: nobody's mail
	}
	found := j.Read(m.File, messageIn(m.Aside, m.Mail.Size))
	r.unreadable, r.matches = found.Verdict == pattern.Unreadable, found.Verdict == pattern.Spam
	if !r.matches {
		return
	}
	e := found.Envelope
	r.FoundMail = FoundMail{
		Where: m.Aside + "/" + m.ID, As: []string{}, Recipients: []string{}, Size: m.Mail.Size, Arrived: e.Arrival.UTC(),
		Sender: brief(e.Sender), Login: brief(e.Login), inode: m.Mail.Inode, id: m.ID,
	}
	for _, hit := range found.Rules {
		r.As = append(r.As, fields[hit.Index])
	}
	for _, to := range e.Recipients {
		if len(r.Recipients) == foundRecipients {
			r.More++
			continue
		}
		r.Recipients = append(r.Recipients, brief(to.Address))
	}
}

// brief is a text of mail, short enough for a report.
func brief(s string) string {
	if len(s) > addressShown {
		s = s[:addressShown]
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

// accounted looks the messages up in the ledgers of this host's runs, the newest
// first, and adds what stands nowhere any more. The newest run that judged one
// counts.
func (f *Found) accounted(ctx context.Context, h *Host, args *FindArgs, emit Emit) error {
	f.Ledger = []*FoundMail{}
	if h.Records == nil {
		return nil
	}
	records, err := h.Records()
	if err != nil {
		return err
	}
	rules, fields, err := args.rules()
	if err != nil {
		return err
	}
	l, err := spool.NewLooker(h.Postfix)
	if err != nil {
		return err
	}
	defer l.Close()
	s := &searching{Found: f, judge: rules.Judge(), fields: fields, looker: l, postfix: h.Postfix, seen: map[file]bool{}, at: map[file]*FoundMail{}}
	for _, m := range f.Mail {
		s.at[file{m.id, m.inode}] = m
	}
	for _, r := range records {
		for _, m := range f.Mail {
			dir, _, _ := strings.Cut(m.Where, "/")
			if m.Run == "" && slices.ContainsFunc(r.Sets, func(s spool.Set) bool { return s.Aside == dir }) {
				m.Run = r.Run
			}
		}
		if err := s.search(ctx, &r); err != nil {
			if ctx.Err() != nil {
				return err
			}
			emit("warn", map[string]string{"message": fmt.Sprintf("run %s: %v", r.Run, err)})
		}
	}
	s.gone = newest(s.gone)
	f.Ledger = append(f.Ledger, s.gone...)
	return nil
}

// searching looks for an address in ledgers.
type searching struct {
	*Found
	judge   *pattern.Judge
	fields  []string
	looker  *spool.Looker
	postfix *spool.Postfix
	seen    map[file]bool
	at      map[file]*FoundMail // what stands somewhere, of those that are listed
	gone    []*FoundMail
}

// seenMax bounds what is remembered, so that a message that several lists have
// is counted once.
const seenMax = 100000

var errManySeen = errors.New("so many were seen that no more are counted")

// search goes through the lists of one run, and then looks in its journal what
// became of what it found.
func (s *searching) search(ctx context.Context, r *Record) error {
	mine := map[file]*FoundMail{} // of those that stand somewhere
	var failed error
	for _, name := range []string{verdictsName, doomedName} {
		for _, name := range listsAs(r.Dir, name) {
			_, err := eachListed(r.Dir, name, nil, func(j *judged) error {
				key := file{j.ID, j.Inode}
				if m := s.at[key]; m != nil {
					if m.Verdict == "" {
						m.Run, m.Verdict = r.Run, j.Verdict
					}
					if m.Run == r.Run {
						mine[key] = m
					}
					return nil
				}
				as := s.matches(j)
				if len(as) == 0 || s.seen[key] {
					return ctx.Err()
				}
				if len(s.seen) >= seenMax {
					s.AtLeast = true
					return errManySeen
				}
				s.seen[key] = true
				if stands, err := s.looker.Stands(j.Mail); err != nil || stands || s.postfix.HoldsFile(j.ID, j.Inode) != "" {
					return err // counted where it stands, and too old to be listed
				}
				s.Gone++
				s.gone = append(s.gone, j.found(r.Run, as))
				if len(s.gone) >= 2*foundKept {
					s.gone = newest(s.gone)
				}
				return nil
			})
			if !errors.Is(err, errManySeen) {
				failed = errors.Join(failed, err)
			}
		}
	}
	for _, m := range s.gone {
		if m.Run == r.Run && m.Fate == "" {
			m.Fate = FateMissing
			if live(m.Where) {
				m.Fate = FateStayed
			}
			mine[file{m.id, m.inode}] = m
		}
	}
	if len(mine) == 0 {
		return failed
	}
	hands, err := r.Hands()
	if err != nil {
		return errors.Join(failed, err)
	}
	err = spool.Moves(r.Dir, func(v spool.Move) error {
		m := mine[file{v.ID, v.Inode}]
		if m == nil {
			return nil
		}
		dir, _, _ := strings.Cut(m.Where, "/")
		if from, _, _ := strings.Cut(v.From, "/"); from == dir && m.Fate == "" {
			return nil // it stands there: it was not moved, or came there again
		}
		if v.Open && live(v.From) && m.Fate == "" {
			return nil // it stands, in another queue: it went on
		}
		m.To = v.To
		if i := handOf(hands, v.Seq); i >= 0 {
			m.By = brief(hands[i].By)
		}
		if v.At > 0 {
			m.Time = time.Unix(v.At, 0).UTC()
		}
		switch {
		case live(v.From) && (v.Gone || v.Open):
			m.Fate = FateGone
		case live(v.From):
			m.Fate = liveFate(v.To)
		case v.To == "":
			m.Fate = FatePurged
		case v.Collided():
			m.Fate = FateCollision
		default:
			m.Fate = FateRestored
		}
		return nil
	}, nil)
	return errors.Join(failed, err)
}

// matches are the fields of a listed envelope in which the address stands.
func (s *searching) matches(j *judged) []string {
	if !j.known() {
		return nil
	}
	e := queuefile.Envelope{Sender: j.Sender, Login: j.Login}
	for _, to := range j.To {
		e.Recipients = append(e.Recipients, queuefile.Recipient{Address: to})
	}
	for _, to := range j.Original {
		e.Recipients = append(e.Recipients, queuefile.Recipient{Address: to})
	}
	var as []string
	for _, hit := range s.judge.Envelope(&e).Rules {
		as = append(as, s.fields[hit.Index])
	}
	return as
}

// found is what a list has of a message.
func (j *judged) found(run string, as []string) *FoundMail {
	m := &FoundMail{
		Where: j.Aside + "/" + j.ID, As: as, Sender: j.Sender, Recipients: []string{}, Login: j.Login, Size: j.Size,
		Arrived: time.Unix(j.Born, 0).UTC(), Run: run, Verdict: j.Verdict, id: j.ID, inode: j.Inode,
	}
	n := min(len(j.To), foundRecipients)
	m.Recipients, m.More = append(m.Recipients, j.To[:n]...), len(j.To)-n+j.More
	return m
}
