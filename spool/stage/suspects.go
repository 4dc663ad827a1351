package stage

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/maillog"
	"spoolsweep/spool/queuefile"
)

// SuspectsArgs are the arguments of suspects.
type SuspectsArgs struct {
	Top   Number   `json:"top" doc:"how many of each are listed"`
	Since Duration `json:"since" doc:"how far back the mail log is read; 0: all there is"`
	// Reasons costs a file more for each message that is deferred.
	Reasons bool `json:"reasons,omitempty" doc:"also why mail is deferred"`
	LiveQueues
}

// maxTop bounds a result.
const maxTop = 1000

// Check refuses lists that are none, or that no frame holds.
func (a *SuspectsArgs) Check() error {
	if a.Top < 1 || a.Top > maxTop {
		return fmt.Errorf("top: %d is not from 1 to %d", a.Top, maxTop)
	}
	return nil
}

var suspects = Row{
	Name: "suspects", Doc: "tell who sends: logins from the mail log, and what there is much of in the queue files",
	New: func() Args { return &SuspectsArgs{Top: 10, Since: Duration(24 * time.Hour)} }, Result: func() Result { return &Suspects{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*SuspectsArgs)
		places, err := h.places(args.Live)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if h.Work != nil && !h.Last("start", new(Started)) {
			// Before a flooded server is helped, only what takes seconds.
			if len(places) == 0 {
				places = livePlaces()
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, countLimit, errCut)
			defer cancel()
		}
		f := newSightings(h.Postfix)
		if args.Reasons {
			f.reasons = counter{}
		}
		var since time.Time
		if args.Since > 0 {
			since = began.Add(-time.Duration(args.Since))
		}
		logError, err := f.gather(ctx, h, places, since, emit)
		partial := false
		if errors.Is(err, errCut) {
			partial, err = true, nil
		}
		if err != nil {
			return nil, fmt.Errorf("suspects: %w", err)
		}
		switch {
		case logError == nil:
		case errors.Is(context.Cause(ctx), errCut):
			partial = true
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		default:
			// The queues tell much by themselves.
			partial = true
			emit("warn", map[string]string{"message": logError.Error()})
		}
		s := f.suspects(args, h.Work != nil, partial)
		s.Seconds = time.Since(began).Seconds()
		if h.Vars.Instance != "" {
			s.Log = h.logName()
		}
		return s, nil
	},
}

// gather reads mail log and queues side by side.
func (f *sightings) gather(ctx context.Context, h *Host, places []place, since time.Time, emit Emit) (logged, queued error) {
	var log sync.WaitGroup
	log.Go(func() {
		logged = h.readLog(ctx, since, submissionKinds, func(e *maillog.Event) error {
			if err := f.log.add(e); err != nil {
				return err
			}
			if f.sent == nil {
				return nil
			}
			var name string
			switch e.Kind {
			case maillog.Login:
				name = strings.ToLower(string(e.User))
			case maillog.Local, maillog.Sent:
				name = strings.ToLower(string(e.Sender))
			default:
				return nil
			}
			f.lock.Lock()
			defer f.lock.Unlock()
			f.sent(name)
			return nil
		})
	})
	queued = f.read(ctx, h.Postfix, places, emit)
	log.Wait()
	return logged, queued
}

// AllLive are the queues that are looked at where nothing is aside and nobody
// named any.
func AllLive() []string { return slices.Clone(liveQueues) }

var liveQueues = []string{string(spool.Maildrop), string(spool.Incoming), string(spool.Active), string(spool.Deferred), string(spool.Hold)}

var errCut = errors.New("the time for it was up")

// sightings count what there is much of.
type sightings struct {
	log     *submissions
	own     []netip.Prefix
	domains []string // this server's
	// sent, if set, is told of each login, and of each envelope sender of what was
	// sent by a login or from here; under lock. Counters forget what is rare.
	sent func(name string)
	// each, if set, is shown each message instead, under lock.
	each func(e *queuefile.Envelope, h *headerLines, owner int)

	lock                                  sync.Mutex // guards all below
	messages                              int64
	senders, recipients, bounces          counter
	logins, clients, uids, scripts        counter
	subjects                              counter
	senderDomains, recipientDomains       counter
	reasons                               counter // nil: nobody asked
	sentByLogin, sentOnHost, sentFromHere counter // by sender: who has a login, who is on this host, and in its networks
	scriptOf                              map[string]string
}

func newSightings(p *spool.Postfix) *sightings {
	return &sightings{
		log: newSubmissions(), own: p.Networks, domains: p.Domains,
		senders: counter{}, recipients: counter{}, bounces: counter{}, logins: counter{}, clients: counter{}, uids: counter{}, scripts: counter{},
		subjects: counter{}, senderDomains: counter{}, recipientDomains: counter{}, sentByLogin: counter{}, sentOnHost: counter{}, sentFromHere: counter{}, scriptOf: map[string]string{},
	}
}

// read reads the envelope and the header of every message.
func (f *sightings) read(ctx context.Context, p *spool.Postfix, places []place, emit Emit) error {
	var dirs []string
	for _, at := range places {
		dirs = append(dirs, at.dir)
	}
	readers, headers := make([]queuefile.Reader, workers()), make([]headerLines, workers())
	logs := make([][]byte, workers())
	shown := time.Now()
	return (&pass[struct{}]{
		postfix: p, dirs: dirs,
		read: func(w int, m *mail, _ *struct{}) error {
			if m.Broken != nil || !m.Regular() || !m.Complete() {
				return nil // classify tells of these
			}
			r := &readers[w]
			r.Reset(m.File, m.Mail.Size, places[m.Place].queue == spool.Maildrop)
			e, err := r.Envelope()
			if err != nil {
				return nil
			}
			// What is wrong with the content is no matter here.
			_ = headers[w].read(r)
			owner := -1
			if places[m.Place].queue == spool.Maildrop {
				owner = m.UID
			}
			if f.each != nil {
				f.lock.Lock()
				defer f.lock.Unlock()
				f.messages++
				f.each(e, &headers[w], owner)
				return nil
			}
			var reasons []string
			if f.reasons != nil && places[m.Place].queue == spool.Deferred {
				if logs[w] == nil {
					logs[w] = make([]byte, maxLog)
				}
				reasons = reasonsOf(p, m.Aside, m.ID, logs[w])
			}
			f.add(e, &headers[w], owner, reasons)
			return nil
		},
		gather: func([]struct{}) error {
			if now := time.Now(); now.Sub(shown) >= progressEvery {
				shown = now
				f.lock.Lock()
				n := f.messages
				f.lock.Unlock()
				emit("progress", map[string]int64{"messages": n})
			}
			return nil
		},
	}).run(ctx)
}

// add counts one message. The envelope is valid only now; owner is who submitted
// a file of maildrop, else -1; reasons are those for which it is deferred.
func (f *sightings) add(e *queuefile.Envelope, h *headerLines, owner int, reasons []string) {
	sender := strings.ToLower(e.Sender)
	subject := h.text()
	to := make([]string, 0, 8)
	for _, r := range e.Recipients {
		for _, address := range [...]string{r.Address, r.Original} {
			// A message to thousands is no backscatter, and counts each once at most.
			if address = strings.ToLower(address); address != "" && (len(to) > recipientsCompared || !slices.Contains(to, address)) {
				to = append(to, address)
			}
		}
	}
	f.lock.Lock()
	defer f.lock.Unlock()
	f.messages++
	for _, reason := range reasons {
		f.reasons.add(reason, 1)
	}
	domains := make(map[string]bool, 8)
	for _, address := range to {
		f.recipients.add(address, 1)
		if domain := domainOf(address); domain != "" && !domains[domain] {
			domains[domain] = true
			f.recipientDomains.add(domain, 1)
		}
		if sender == "" {
			f.bounces.add(address, 1)
		}
	}
	if sender != "" {
		f.senders.add(sender, 1)
		if domain := domainOf(sender); domain != "" {
			f.senderDomains.add(domain, 1)
		}
	} else {
		f.senders.add("<>", 1)
	}
	from := false // it was sent by somebody of this server's own
	if e.Login != "" {
		login := strings.ToLower(e.Login)
		f.logins.add(login, 1)
		f.sentByLogin.add(sender, 1)
		if f.sent != nil {
			f.sent(login)
		}
		from = true
	}
	switch a, err := netip.ParseAddr(e.ClientAddress); {
	case err == nil:
		f.clients.add(e.ClientAddress, 1)
		if e.Login == "" && slices.ContainsFunc(f.own, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) }) {
			f.sentFromHere.add(sender, 1)
			from = true
		}
	case e.ClientAddress == "" && e.Login == "":
		f.sentOnHost.add(sender, 1)
		from = true
	}
	if f.sent != nil && from {
		f.sent(sender)
	}
	if owner >= 0 {
		f.uids.add(strconv.Itoa(owner), 1)
	}
	if script := h.originating(); script != "" {
		f.scripts.add(script, 1)
		if len(f.scriptOf) < countedValues {
			f.scriptOf[strings.Clone(sender)] = script
		}
	}
	if subject != "" {
		f.subjects.add(subject, 1)
	}
}

// domainOf is what stands behind the @ of an address, "" where there is none.
func domainOf(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		return address[at+1:]
	}
	return ""
}

// recipientsCompared is up to how many recipients of one message are compared
// with each other.
const recipientsCompared = 64

// FewBounces are what the usual mail of an honest member brings back in a day: who
// reads a list of findings in a hurry is not to disable him.
const FewBounces = 10

// Findings about an address to which bounces come back.
const (
	Hacked     = "hacked"       // mail of it was sent
	Forged     = "forged"       // nothing was: its name was only used, and disabling it helps nobody
	NoSuchUser = "no-such-user" // there is no such account
	Script     = "script"       // mail of it was submitted on the host
)

// Target is an address to which bounces come back, and what is to be thought of
// it. The finding is empty where too little could be read to say.
type Target struct {
	Value    string   `json:"value"`
	Count    int64    `json:"count"`
	Finding  string   `json:"finding"`
	Evidence []string `json:"evidence"`
}

// Suspects is the result of suspects.
type Suspects struct {
	Logins      []Login  `json:"logins"`
	Senders     []Value  `json:"senders"`
	Recipients  []Value  `json:"recipients"`
	Backscatter []Target `json:"backscatter"`
	SASLUsers   []Value  `json:"sasl_users"`
	Clients     []Value  `json:"clients"`
	UIDs        []Value  `json:"uids"`
	Scripts     []Value  `json:"scripts"`
	Subjects    []Value  `json:"subjects"`
	// Each message counts once for each domain of its recipients.
	SenderDomains    []Value `json:"sender_domains"`
	RecipientDomains []Value `json:"recipient_domains"`
	// Reasons are those for which mail is deferred, where that was asked, with a *
	// for what differs; each message counts once for each of them.
	Reasons []Value `json:"reasons,omitempty"`
	Read    int64   `json:"messages_read"`
	Partial bool    `json:"partial"` // log or queues were not read to their end
	Seconds float64 `json:"seconds"`
	// Log is where logins and submissions stand, of a host with several instances:
	// they may have one log, and then each tells all that is in it.
	Log string `json:"log,omitempty"`
	// Sample is what a command has drawn beside it. The stage never does, so that
	// no mail enters the record of a run.
	Sample *Sampled `json:"sample,omitempty"`
}

// Lines tells the most frequent of each, and the sample.
func (s *Suspects) Lines() []Line {
	var lines []Line
	for _, l := range s.Logins {
		text := l.User
		if text == "" {
			text = "(a name that the log does not tell)"
		}
		if l.AddressesAll > 0 {
			text += fmt.Sprintf(", from %s", plural(l.AddressesAll, "address", "addresses"))
		}
		if l.First != nil && l.Last != nil {
			text += fmt.Sprintf(", %s to %s", l.First.Format(stampOfLine), l.Last.Format(stampOfLine))
		}
		if l.Failed > 0 {
			text += fmt.Sprintf(", failed %s", plural(int(l.Failed), "time", "times"))
		}
		lines = append(lines, Line{Label: "login", Number: l.Count, Unit: "messages", Text: text})
	}
	for _, list := range []struct {
		label  string
		values []Value
	}{
		{"login, in the queues", s.SASLUsers}, {"sender", s.Senders}, {"sender's domain", s.SenderDomains},
		{"recipient", s.Recipients}, {"recipient's domain", s.RecipientDomains}, {"client", s.Clients},
		{"uid", s.UIDs}, {"script", s.Scripts}, {"subject", s.Subjects}, {"deferred since", s.Reasons},
	} {
		for _, v := range list.values {
			lines = append(lines, Line{Label: list.label, Number: v.Count, Unit: "messages", Text: v.titled()})
		}
	}
	for _, t := range s.Backscatter {
		finding := t.Finding
		switch {
		case finding == "":
			finding = "not known whether it sent"
		case finding == Hacked && t.Count < FewBounces:
			finding = "hacked, or a member with a few bounces of his own"
		}
		lines = append(lines, Line{Label: "bounces to", Number: t.Count, Unit: "messages", Text: t.Value + " - " + finding + ": " + strings.Join(t.Evidence, "; ")})
	}
	read := Line{Label: "read", Number: s.Read, Unit: "messages"}
	if s.Partial {
		read.Text = "not all: the counts are of a part of it"
	}
	lines = append(lines, read)
	if s.Sample != nil {
		lines = append(lines, s.Sample.Lines()...)
	}
	return lines
}

// stampOfLine is a moment for people, in UTC.
const stampOfLine = "2006-01-02 15:04Z"

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func messages(n int64) string { return plural(int(n), "message", "messages") }

// shortly is a time without the units that are zero at its end.
func shortly(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// Merge adds what another host told.
func (s *Suspects) Merge(o *Suspects) {
	s.Logins = mergeLogins(s.Logins, o.Logins)
	s.UIDs = mergeValues(s.UIDs, o.UIDs)
	s.mergeQueues(o)
}

// MergeInstance is Merge for a further instance of a host, whose log, and with it
// logins and uids, were taken in.
func (s *Suspects) MergeInstance(o *Suspects) { s.mergeQueues(o) }

func (s *Suspects) mergeQueues(o *Suspects) {
	for _, list := range []struct{ to, from *[]Value }{
		{&s.Senders, &o.Senders}, {&s.Recipients, &o.Recipients}, {&s.SASLUsers, &o.SASLUsers}, {&s.Clients, &o.Clients},
		{&s.Scripts, &o.Scripts}, {&s.Subjects, &o.Subjects},
		{&s.SenderDomains, &o.SenderDomains}, {&s.RecipientDomains, &o.RecipientDomains}, {&s.Reasons, &o.Reasons},
	} {
		*list.to = mergeValues(*list.to, *list.from)
	}
	s.Backscatter = mergeTargets(s.Backscatter, o.Backscatter)
	s.Read += o.Read
	s.Partial = s.Partial || o.Partial
	s.Seconds = max(s.Seconds, o.Seconds)
}

// findings in the order of what they weigh: one host that saw an account send
// outweighs all that did not.
var findings = []string{Hacked, Script, NoSuchUser, "", Forged}

// take adds what was found of the same address elsewhere, or of another one of
// the same account.
func (t *Target) take(o Target) {
	t.Count += o.Count
	switch old, fresh := slices.Index(findings, t.Finding), slices.Index(findings, o.Finding); {
	case fresh < old:
		t.Finding, t.Evidence = o.Finding, o.Evidence
	case fresh == old:
		t.Evidence = slices.Concat(t.Evidence, o.Evidence)
		slices.Sort(t.Evidence)
		t.Evidence = slices.Compact(t.Evidence)
	}
}

func mergeTargets(a, b []Target) []Target {
	sum := slices.Clone(a)
	for _, t := range b {
		i := slices.IndexFunc(sum, func(have Target) bool { return have.Value == t.Value })
		if i < 0 {
			sum = append(sum, t)
			continue
		}
		sum[i].take(t)
	}
	sortBy(sum, func(a, b Target) int {
		return Value{Value: a.Value, Count: a.Count}.larger(Value{Value: b.Value, Count: b.Count})
	})
	return sum
}

// Cut leaves the n most frequent of each.
func (s *Suspects) Cut(n int) {
	s.Logins = s.Logins[:min(n, len(s.Logins))]
	s.Backscatter = s.Backscatter[:min(n, len(s.Backscatter))]
	for _, list := range []*[]Value{&s.Senders, &s.Recipients, &s.SASLUsers, &s.Clients, &s.UIDs, &s.Scripts, &s.Subjects, &s.SenderDomains, &s.RecipientDomains, &s.Reasons} {
		*list = (*list)[:min(n, len(*list))]
	}
}

// sharedSubject is how many messages must have a subject for it to stand in the
// record of a run: below that it is somebody's own.
const sharedSubject = 10

// suspects makes the result. kept says that it stands in the record of a run.
func (f *sightings) suspects(args *SuspectsArgs, kept, partial bool) *Suspects {
	top, span := int(args.Top), "all times"
	if args.Since > 0 {
		span = "the last " + shortly(time.Duration(args.Since))
	}
	uids := counter{}
	for uid, n := range f.log.uids {
		uids.add(uid, *n)
	}
	for uid, n := range f.uids { // waiting in maildrop: pickup has not logged them
		uids.add(uid, *n)
	}
	s := &Suspects{
		Logins: f.log.top(top), Senders: f.senders.top(top), Recipients: f.recipients.top(top), Backscatter: []Target{},
		SASLUsers: f.logins.top(top), Clients: f.clients.top(top), UIDs: uids.top(top), Scripts: f.scripts.top(top), Subjects: f.subjects.top(top),
		SenderDomains: f.senderDomains.top(top), RecipientDomains: f.recipientDomains.top(top), Reasons: f.reasons.top(top),
		Read: f.messages, Partial: partial,
	}
	for i := range s.UIDs {
		s.UIDs[i].Name = spool.UserName(s.UIDs[i].Value)
	}
	if kept {
		s.Subjects = slices.DeleteFunc(s.Subjects, func(v Value) bool { return v.Count < sharedSubject })
	}
	for _, v := range f.bounces.top(top) {
		s.Backscatter = append(s.Backscatter, f.target(v, span, !partial))
	}
	return s
}

// target says what is to be thought of an address. whole says that all was read
// that there is of the time span.
func (f *sightings) target(v Value, span string, whole bool) Target {
	t := Target{Value: v.Value, Count: v.Count, Evidence: []string{}}
	add := func(finding string, n int64, format string, args ...any) {
		if n == 0 || t.Finding != "" && t.Finding != finding {
			return
		}
		t.Finding = finding
		t.Evidence = append(t.Evidence, fmt.Sprintf(format, args...))
	}
	local, _, _ := strings.Cut(v.Value, "@")
	var logged, queued bool
	for name, l := range f.log.users {
		if f.isLoginOf(name, local, v.Value) {
			logged = true
			add(Hacked, l.count, "%s sent with login %s, from %s", messages(l.count), name, plural(len(l.addresses), "address", "addresses"))
		}
	}
	for name, n := range f.logins {
		if f.isLoginOf(name, local, v.Value) {
			queued = true
			add(Hacked, *n, "%s in the queues with login %s", messages(*n), name)
		}
	}
	slices.Sort(t.Evidence) // out of maps
	if n := f.log.byLogin.of(v.Value); !logged {
		add(Hacked, n, "%s of it sent with a login", messages(n))
	}
	if n := f.sentByLogin.of(v.Value); !queued {
		add(Hacked, n, "%s of it in the queues, sent with a login", messages(n))
	}
	n := f.sentFromHere.of(v.Value)
	add(Hacked, n, "%s of it in the queues, from this server's own networks", messages(n))
	n = f.log.onHost.of(v.Value)
	add(Script, n, "%s of it submitted on this host", messages(n))
	n = f.sentOnHost.of(v.Value)
	add(Script, n, "%s of it in the queues, submitted on this host", messages(n))
	if script := f.scriptOf[v.Value]; script != "" {
		add(Script, 1, "by the script %s", script)
	}
	n = f.log.unknown.of(v.Value)
	add(NoSuchUser, n, "refused or bounced %s: this server has no such user", plural(int(n), "time", "times"))
	switch {
	case t.Finding != "":
	case whole:
		add(Forged, 1, "nothing sent by it, in the queues and the mail log of %s: do not disable it", span)
	default:
		t.Evidence = append(t.Evidence, "nothing sent by it was seen, but not all could be read")
	}
	return t
}

// isLoginOf says whether a login is that of an address: user, user@realm and
// user at another of this server's domains may be one account.
func (f *sightings) isLoginOf(name, local, address string) bool {
	if name == address || name == local {
		return true
	}
	user, realm, _ := strings.Cut(name, "@")
	_, domain, _ := strings.Cut(address, "@")
	return user == local && (domain == "" || slices.Contains(f.domains, realm) && slices.Contains(f.domains, domain))
}
