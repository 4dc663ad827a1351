package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/maillog"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// Accounts are names of accounts: one, or a list; none is "" or an empty list.
type Accounts []string

// UnmarshalJSON takes a text or a list of texts.
func (a *Accounts) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = nil
		if one != "" {
			*a = Accounts{one}
		}
		return nil
	}
	var list []string
	if err := json.Unmarshal(text, &list); err != nil {
		return errors.New("accounts are a name, or a list of names")
	}
	*a = list
	return nil
}

// WatchArgs are the arguments of watch.
type WatchArgs struct {
	For     Duration `json:"for" doc:"time since Postfix was started, or sessions were ended; 0: not at all"`
	Account Accounts `json:"account,omitempty" doc:"whose logins are looked for, beside what the rules took"`
	Source  Items    `json:"source,omitzero" doc:"users, uids and scripts whose mail submitted on the host is looked for, beside what the rules took"`
	// RequireStopped fails the run, with its mail aside, while the source sends.
	RequireStopped bool `json:"require_source_stopped,omitempty" doc:"where the source still sends the run ends"`
}

// maxWatch bounds how long a run stands still for it.
const maxWatch = 24 * time.Hour

// Check refuses what no run should wait for.
func (a *WatchArgs) Check() error {
	if time.Duration(a.For) > maxWatch {
		return fmt.Errorf("for: %s is longer than %s", shortly(time.Duration(a.For)), shortly(maxWatch))
	}
	return nil
}

var watch = Row{
	Name: "watch", Doc: "look whether the source still sends, in what was logged since Postfix was started, or sessions were ended", After: []string{"start", "end-sessions"}, Apart: true,
	New: func() Args { return &WatchArgs{For: Duration(time.Minute)} }, Result: func() Result { return &Watched{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*WatchArgs)
		since, ended := h.sourceStopped()
		if since.IsZero() {
			return nil, errors.New("watch: it is not known when Postfix was started")
		}
		sources, err := h.spamSources(ctx)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		for _, account := range args.Account {
			sources.accounts = append(sources.accounts, strings.ToLower(account))
		}
		sources.name(ctx, args.Source)
		if len(sources.accounts)+len(sources.senders)+len(sources.clients)+len(sources.local) == 0 {
			return &Watched{Sources: []Value{}, Source: Unknown, Why: "nobody is named, and what the rules took has no source that stands out"}, nil
		}
		if !h.sleepUntil(ctx, since.Add(time.Duration(args.For))) {
			return nil, fmt.Errorf("watch: %w", context.Cause(ctx))
		}
		w := &watching{sources: sources, fresh: map[string]bool{}, sent: counter{}}
		// Where stamps are whole seconds, that of the start is left out: what was
		// sent before the stop is none of it.
		unlogged := h.readLog(ctx, since, maillog.Login|maillog.Client|maillog.Local|maillog.Queued, w.add)
		if unlogged != nil && ctx.Err() != nil {
			return nil, unlogged
		}
		if err := w.queues(ctx, h, since, unlogged != nil, emit); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		r := w.result()
		r.SessionsEnded = ended
		if unlogged != nil && r.Source == Quiet { // nobody's mail waits for a log
			emit("warn", map[string]string{"message": "it is not known whether the source still sends: " + unlogged.Error()})
			r.Source, r.Why = Unknown, "the mail log could not be read, and nothing new of it is in the queues"
		}
		if r.Source == Sending && args.RequireStopped {
			return r, spool.Remedied(fmt.Errorf("watch: the source still sends (%s), and require_source_stopped is set: nothing was sent back", r.Sources[0].Value), "stop it, then spoolsweep resume "+h.Run)
		}
		if r.Source == Sending {
			emit("warn", map[string]string{"message": "the source still sends: " + r.Sources[0].titled()})
		}
		return r, nil
	},
}

// sourceStopped is since when nothing more of the source is expected, and whether that
// is since its sessions were ended, not since Postfix was started.
func (h *Host) sourceStopped() (since time.Time, ended bool) {
	var started Started
	var sessions SessionsEnded
	if h.Last("start", &started) {
		since = started.At
	}
	if h.Last(endSessions.Name, &sessions) && sessions.At.After(since) {
		return sessions.At, true
	}
	return since, false
}

// Whether the source is at rest.
const (
	Quiet   = "quiet"
	Sending = "sending"
	Unknown = "unknown" // no source is known, or the log could not be read
)

// Watched is the result of watch.
type Watched struct {
	Sent    int64   `json:"sent"` // new messages of the source since then
	Sources []Value `json:"sources"`
	Source  string  `json:"source"`        // quiet, sending or unknown
	Why     string  `json:"why,omitempty"` // it is unknown
	// SessionsEnded says that it was looked at since then, not since the start.
	SessionsEnded bool `json:"sessions_ended,omitempty"`
}

// Lines tells whether, and from where.
func (w *Watched) Lines() []Line {
	switch w.Source {
	case Unknown:
		return []Line{{Label: "the source", Text: "may still send: " + w.Why}}
	case Quiet:
		since := "Postfix was started"
		if w.SessionsEnded {
			since = "its sessions were ended"
		}
		return []Line{{Label: "the source", Text: "is quiet: nothing new of it since " + since}}
	}
	lines := []Line{{Label: "the source still sends", Number: w.Sent, Unit: "messages"}}
	for _, v := range w.Sources {
		lines = append(lines, Line{Label: "new", Number: v.Count, Unit: "messages", Text: v.titled()})
	}
	return lines
}

// pollWatch is how often a run that waits looks whether it was cancelled.
const pollWatch = 200 * time.Millisecond

// sleepUntil waits, unless the run is cancelled: then it is not waited for.
func (h *Host) sleepUntil(ctx context.Context, at time.Time) bool {
	for {
		left := time.Until(at)
		if left <= 0 || h.Cancelled != nil && h.Cancelled() {
			return true
		}
		select {
		case <-time.After(min(left, pollWatch)):
		case <-ctx.Done():
			return false
		}
	}
}

// sources are where the spam of a run came from.
type sources struct {
	accounts, senders, clients []string
	local                      []string // uids and scripts
}

const (
	// spamSampled is of how many messages of the list the sources are looked at,
	// evenly spread: what is less than a twentieth of them is no source.
	spamSampled = 2000
	sourceShare = 20
)

// spamSources are the logins, senders, clients, uids and scripts of what the rules
// took. To whom bounces come back is none of them: others send those, for days.
func (h *Host) spamSources(ctx context.Context) (*sources, error) {
	s := &sources{}
	var c Classified
	if h.Work == nil || !h.Last("classify", &c) || c.Spam == 0 {
		return s, nil
	}
	every, n := c.Spam/spamSampled+1, int64(0)
	var chosen []spool.Mail
	if _, err := readList(h.Dir, func(j *judged) {
		if j.Verdict == pattern.Spam {
			if n%every == 0 {
				chosen = append(chosen, j.Mail)
			}
			n++
		}
	}); err != nil {
		return nil, err
	}
	t := newTally(h.Postfix.Networks)
	local := counter{}
	if err := h.envelopes(ctx, chosen, func(m spool.Mail, e *queuefile.Envelope, header *headerLines, owner int) {
		t.add(m.Aside, m.ID, e)
		local.addLocal(e, header, owner)
	}); err != nil {
		return nil, err
	}
	limit := int64(len(chosen)) / sourceShare
	for source, n := range local {
		if *n > limit {
			s.local = append(s.local, source)
		}
	}
	for _, source := range t.over(limit) {
		switch source.Kind {
		case "login":
			s.accounts = append(s.accounts, source.Value)
		case "sender":
			s.senders = append(s.senders, source.Value)
		case "client":
			s.clients = append(s.clients, source.Value)
		}
	}
	return s, nil
}

// envelopes reads those of some messages that are aside, with the header; what is not
// there any more, or not whole, is passed over. owner is who submitted a file of
// maildrop, else -1.
func (h *Host) envelopes(ctx context.Context, list []spool.Mail, fn func(m spool.Mail, e *queuefile.Envelope, header *headerLines, owner int)) error {
	var r queuefile.Reader
	var header headerLines
	var f spool.MailFile
	defer f.Close()
	for _, m := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		dir, err := h.Work.OpenAside(path.Join(m.Aside, m.Sub))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s, err := f.Open(dir, m.ID)
		dir.Close()
		if err != nil || !s.Regular() || s.Inode != m.Inode {
			continue
		}
		owner := -1
		if strings.HasPrefix(m.Aside, string(spool.Maildrop)) {
			owner = s.UID
		}
		r.Reset(&f, s.Size, owner >= 0)
		if e, err := r.Envelope(); err == nil {
			_ = header.read(&r) // what is wrong with the content is no matter here
			fn(m, e, &header, owner)
		}
	}
	return nil
}

// watching counts what the sources have sent since the start.
type watching struct {
	*sources
	// fresh are messages that came in since then and count by no login or client:
	// of other ids qmgr tells because they are tried again.
	fresh map[string]bool
	sent  counter
	// byScript are those of sent that are queued. The log, which has no scripts, may
	// tell of them too.
	byScript int64
}

// freshKept bounds the messages that are waited for.
const freshKept = 100_000

func (w *watching) add(e *maillog.Event) error {
	switch e.Kind {
	case maillog.Login:
		if user := strings.ToLower(string(e.User)); w.isAccount(user) {
			w.sent.add("login "+user, e.Times)
			return nil
		}
		w.client(e)
	case maillog.Client:
		w.client(e)
	case maillog.Local:
		w.submitted(e)
	case maillog.Queued:
		if sender := strings.ToLower(string(e.Sender)); w.fresh[string(e.ID)] && slices.Contains(w.senders, sender) {
			w.sent.add("sender "+sender, 1)
		}
		delete(w.fresh, string(e.ID))
	}
	return nil
}

func (w *watching) client(e *maillog.Event) {
	if slices.Contains(w.clients, string(e.Address)) {
		w.sent.add("client "+string(e.Address), e.Times)
	} else {
		w.wait(e)
	}
}

// wait has the sender looked at when qmgr tells it.
func (w *watching) wait(e *maillog.Event) {
	if len(w.senders) > 0 && len(w.fresh) < freshKept {
		w.fresh[string(e.ID)] = true
	}
}

func (w *watching) isAccount(user string) bool {
	return slices.ContainsFunc(w.accounts, func(a string) bool { return sameAccount(a, user) })
}

// sameAccount says whether two names may be one account's: with and without what
// is behind the @.
func sameAccount(a, b string) bool {
	if a == b {
		return true
	}
	userA, realmA, _ := strings.Cut(a, "@")
	userB, realmB, _ := strings.Cut(b, "@")
	return userA == userB && (realmA == "" || realmB == "")
}

func (w *watching) result() *Watched {
	r := &Watched{Sources: w.sent.top(sourcesShown), Source: Quiet}
	for _, n := range w.sent {
		r.Sent += *n
	}
	r.Sent = max(r.Sent-w.byScript, w.byScript)
	for i := range r.Sources {
		if uid, ok := strings.CutPrefix(r.Sources[i].Value, kindUID); ok {
			r.Sources[i].Name = spool.UserName(uid)
		}
	}
	if r.Sent > 0 {
		r.Source = Sending
	}
	return r
}
