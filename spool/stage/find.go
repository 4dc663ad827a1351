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
	Name: "find", Doc: "find the messages from, to or of an address, live and set aside",
	New: func() Args { return &FindArgs{} }, Result: func() Result { return &Found{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*FindArgs)
		f, err := findAll(ctx, h, args, emit)
		if err != nil {
			return nil, fmt.Errorf("find: %w", err)
		}
		return f, f.judged(h, emit)
	},
}

// Found is the result of find.
type Found struct {
	Address  string      `json:"address"`
	Messages int64       `json:"messages"` // that match
	Looked   int64       `json:"messages_read"`
	Unread   int64       `json:"unreadable"`
	Mail     []FoundMail `json:"mail"` // the newest of them
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

	inode uint64
	id    string
}

// Lines tells each message.
func (f *Found) Lines() []Line {
	lines := []Line{{Label: fmt.Sprintf("of %s, in %d looked at", f.Address, f.Looked), Number: f.Messages, Unit: "messages"}}
	for _, m := range f.Mail {
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
		lines = append(lines, Line{Label: m.Where, Text: text})
	}
	if more := f.Messages - int64(len(f.Mail)); more > 0 {
		lines = append(lines, Line{Label: "older ones, not listed", Number: more, Unit: "messages"})
	}
	if f.Unread > 0 {
		lines = append(lines, Line{Label: "could not be read", Number: f.Unread, Unit: "messages"})
	}
	return lines
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
	f := &Found{Address: args.Address, Mail: []FoundMail{}}
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
					f.add(r.FoundMail)
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
func (f *Found) add(m FoundMail) {
	if i := slices.IndexFunc(f.Mail, func(o FoundMail) bool { return o.inode == m.inode && o.id == m.id }); i >= 0 {
		f.Mail[i] = m
		return
	}
	f.Messages++
	f.Mail = append(f.Mail, m)
	if len(f.Mail) >= 2*foundKept {
		f.trim()
	}
}

func (f *Found) trim() {
	slices.SortFunc(f.Mail, func(a, b FoundMail) int {
		return cmp.Or(b.Arrived.Compare(a.Arrived), strings.Compare(a.Where, b.Where))
	})
	f.Mail = f.Mail[:min(len(f.Mail), foundKept)]
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

// judged looks the messages up in the lists of verdicts of this host's runs. The
// newest run that judged one counts.
func (f *Found) judged(h *Host, emit Emit) error {
	if h.Records == nil {
		return nil
	}
	records, err := h.Records()
	if err != nil {
		return err
	}
	type key struct {
		id    string
		inode uint64
	}
	at := map[key]*FoundMail{}
	for i := range f.Mail {
		at[key{f.Mail[i].id, f.Mail[i].inode}] = &f.Mail[i]
	}
	for _, r := range records {
		for i := range f.Mail {
			dir, _, _ := strings.Cut(f.Mail[i].Where, "/")
			if f.Mail[i].Run == "" && slices.ContainsFunc(r.Sets, func(s spool.Set) bool { return s.Aside == dir }) {
				f.Mail[i].Run = r.Run
			}
		}
		_, err := readList(r.Dir, func(j *judged) {
			if m := at[key{j.ID, j.Inode}]; m != nil && m.Verdict == "" {
				m.Run, m.Verdict = r.Run, j.Verdict
			}
		})
		if err != nil {
			emit("warn", map[string]string{"message": fmt.Sprintf("run %s: %v", r.Run, err)})
		}
	}
	return nil
}
