package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/maillog"
	"spoolsweep/spool/practice"
)

// suspectsOf runs suspects as a command does, over the live queues.
func suspectsOf(t *testing.T, h *practice.Host, args string) *Suspects {
	t.Helper()
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	a, err := suspects.Parse([]byte(args))
	if err != nil {
		t.Fatal(err)
	}
	a.(*SuspectsArgs).Live = liveQueues
	r, err := suspects.Run(t.Context(), &Host{Postfix: p}, a, func(kind string, data any) {
		if kind == "warn" {
			t.Errorf("warning: %v", data)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.(*Suspects)
}

func countOf(list []Value, value string) int64 {
	i := slices.IndexFunc(list, func(v Value) bool { return v.Value == value })
	if i < 0 {
		return 0
	}
	return list[i].Count
}

// What it tells of an incident is what was sent.
func TestSuspects(t *testing.T) {
	h := newHost(t)
	flood := practice.Incident("chavez", "spam-account", 400, 7)
	submit(t, h, flood...)
	var maildrop practice.Message
	maildrop.Queue, maildrop.Sender, maildrop.Recipients = spool.Maildrop, "www@chavez.practice.test", []string{"x@far.test"}
	maildrop.Text = "subject: =?utf-8?q?caf=C3=A9?=\n and more\nX-PHP-Originating-Script: 33:mailer.php\n\nSubject: not this one\n"
	submit(t, h, maildrop, maildrop)
	submit(t, h, practice.Message{HalfWritten: true, Sender: "half@chavez.practice.test", Recipients: []string{"b@c.test"}})

	// Two recipients of one domain, which cannot be reached: one message, one reason.
	stuck := practice.Message{Queue: spool.Deferred, Sender: "ana@chavez.practice.test", Recipients: []string{"a@stuck.test", "b@stuck.test", "c@Other.stuck.test"}, Text: "Subject: x\n\nx\n"}
	submit(t, h, stuck)
	var deferred int64 = 1
	for _, m := range flood {
		if m.Queue == spool.Deferred {
			deferred++
		}
	}

	want := struct{ senders, recipients, users, clients, from, to map[string]int64 }{map[string]int64{}, map[string]int64{}, map[string]int64{}, map[string]int64{}, map[string]int64{}, map[string]int64{}}
	domain := func(address string) string { return strings.ToLower(address[strings.LastIndexByte(address, '@')+1:]) }
	bounces := map[string]int64{}
	for _, m := range append(slices.Clone(flood), maildrop, maildrop, stuck) {
		if m.Sender != "" {
			want.from[domain(m.Sender)]++
		}
		to := map[string]bool{}
		for _, r := range m.Recipients {
			if !to[domain(r)] {
				want.to[domain(r)]++
			}
			to[domain(r)] = true
		}
		sender := m.Sender
		if sender == "" {
			sender = "<>"
		}
		want.senders[sender]++
		if m.Login != "" {
			want.users[m.Login]++
		}
		if m.ClientAddress != "" {
			want.clients[m.ClientAddress]++
		}
		seen := map[string]bool{}
		for _, r := range m.Recipients {
			if !seen[r] {
				want.recipients[strings.ToLower(r)]++
				if m.Sender == "" {
					bounces[r]++
				}
			}
			seen[r] = true
		}
	}
	s := suspectsOf(t, h, `{"top": 1000, "reasons": true}`)
	for _, tt := range []struct {
		name string
		want map[string]int64
		got  []Value
	}{{"senders", want.senders, s.Senders}, {"recipients", want.recipients, s.Recipients}, {"sasl users", want.users, s.SASLUsers}, {"clients", want.clients, s.Clients},
		{"senders' domains", want.from, s.SenderDomains}, {"recipients' domains", want.to, s.RecipientDomains},
		{"reasons", map[string]int64{"connect to *: Connection timed out": deferred}, s.Reasons},
	} {
		got := map[string]int64{}
		for _, v := range tt.got {
			got[v.Value] = v.Count
		}
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
		if !slices.IsSortedFunc(tt.got, Value.larger) {
			t.Errorf("%s are not in order", tt.name)
		}
	}
	if s.Read != 403 || s.Partial {
		t.Errorf("read %d, partial %t, want 403 whole ones", s.Read, s.Partial)
	}
	// The log tells the same of the logins.
	logins := map[string]int64{}
	for _, l := range s.Logins {
		logins[l.User] = l.Count
		if l.Count > 0 && (l.First == nil || l.Last == nil || l.Last.Before(*l.First) || time.Since(*l.Last) > time.Hour || l.AddressesAll == 0) {
			t.Errorf("login %+v", l)
		}
	}
	if d := cmp.Diff(want.users, logins); d != "" {
		t.Errorf("logins (-sent +got):\n%s", d)
	}
	if s.Logins[0].User != "spam-account" || s.Logins[0].AddressesAll < 20 || len(s.Logins[0].Addresses) != addressesShown {
		t.Errorf("the first login: %+v", s.Logins[0])
	}
	targets := map[string]int64{}
	for _, target := range s.Backscatter {
		targets[target.Value] = target.Count
	}
	if d := cmp.Diff(bounces, targets); d != "" {
		t.Errorf("backscatter (-want +got):\n%s", d)
	}
	if first := s.Backscatter[0]; first.Value != "spam-account@chavez.practice.test" || first.Finding != Hacked || !strings.Contains(first.Evidence[0], "180 messages") {
		t.Errorf("the first target: %+v", first)
	}
	if countOf(s.Scripts, "33:mailer.php") != 2 || countOf(s.UIDs, fmt.Sprint(os.Getuid())) != 2 {
		t.Errorf("scripts %v, uids %v", s.Scripts, s.UIDs)
	}
	if countOf(s.Subjects, "café and more") != 2 || countOf(s.Subjects, "not this one") != 0 {
		t.Errorf("subjects %v", s.Subjects)
	}

	// Only the most frequent, of a command's directories alone, of a time that
	// nothing was logged in.
	if s = suspectsOf(t, h, `{"top": 1, "since": "0"}`); len(s.Senders) != 1 || len(s.Logins) != 1 || len(s.Backscatter) != 1 || len(s.RecipientDomains) != 1 || len(s.Reasons) > 0 {
		t.Errorf("the first of each: %+v", s)
	}
}

// What stands in the record of a run, before the stop and after it.
func TestSuspectsOfRun(t *testing.T) {
	h := newHost(t)
	submit(t, h, practice.Incident("chavez", "spam-account", 60, 7)...)
	var news []practice.Message
	for i := range 20 {
		news = append(news, practice.Message{Sender: "news@far.test", Recipients: []string{fmt.Sprintf("r%d@chavez.practice.test", i)}, Text: "Subject: to all\n\nx\n"})
	}
	submit(t, h, news...)
	k := aside(t, h, spool.Incoming)
	k.done["start"] = &Started{}
	r, err := k.run("suspects", `{"top": 1000}`)
	if err != nil {
		t.Fatal(err)
	}
	s := r.(*Suspects)
	if got := countOf(s.Subjects, "to all"); got != 20 || slices.ContainsFunc(s.Subjects, func(v Value) bool { return v.Count < sharedSubject }) {
		t.Errorf("subjects in the record: %v", s.Subjects)
	}
	inIncoming := s.Read
	if inIncoming < 20 || inIncoming >= 80 || s.Partial {
		t.Errorf("%d messages of what is aside", inIncoming)
	}
	// Nothing is aside, and Postfix was not stopped: the live queues.
	h = newHost(t)
	submit(t, h, news...)
	if r, err = aside(t, h).run("suspects", `{}`); err != nil || r.(*Suspects).Read != 20 {
		t.Errorf("before the stop: %+v, %v, want 20 messages", r, err)
	}
	if _, err := suspects.Parse([]byte(`{"top": 0}`)); err == nil {
		t.Error("a list of none is accepted")
	}
	if _, err := suspects.Parse([]byte(`{"since": "yesterday"}`)); err == nil || !strings.Contains(err.Error(), "yesterday") {
		t.Errorf("since yesterday: %v", err)
	}
}

// A log that cannot be read is told, and keeps nothing from being counted.
func TestSuspectsWithoutLog(t *testing.T) {
	h := newHost(t)
	submit(t, h, practice.Incident("chavez", "spam-account", 60, 7)...)
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	var warned []string
	r, err := suspects.Run(t.Context(), &Host{Postfix: p, Vars: Vars{MailLog: "/no/such/log"}}, &SuspectsArgs{Top: 100, LiveQueues: LiveQueues{liveQueues}}, func(kind string, data any) {
		if kind == "warn" {
			warned = append(warned, fmt.Sprint(data))
		}
	})
	if err != nil || len(warned) != 1 || !strings.Contains(warned[0], "/no/such/log") || !strings.Contains(warned[0], "mail_log") {
		t.Fatalf("%v, %v", warned, err)
	}
	s := r.(*Suspects)
	if !s.Partial || s.Read != 60 || len(s.Logins) != 0 {
		t.Errorf("%+v", s)
	}
	for _, target := range s.Backscatter {
		if target.Finding == Forged {
			t.Errorf("%+v: forged, and no log was read", target)
		}
	}
}

func TestSuspectsCancelled(t *testing.T) {
	h := newHost(t)
	submit(t, h, practice.Incident("chavez", "spam-account", 60, 7)...)
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := suspects.Run(ctx, &Host{Postfix: p}, &SuspectsArgs{Top: 100, LiveQueues: LiveQueues{liveQueues}}, func(string, any) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Out of time it tells what it has.
	ctx, cancel = context.WithTimeoutCause(t.Context(), 0, errCut)
	defer cancel()
	r, err := suspects.Run(ctx, &Host{Postfix: p}, &SuspectsArgs{Top: 100, LiveQueues: LiveQueues{liveQueues}}, func(string, any) {})
	if err != nil || !r.(*Suspects).Partial {
		t.Errorf("out of time: %+v, %v", r, err)
	}
}

// What is to be thought of an address to which bounces come back.
func TestFinding(t *testing.T) {
	const target = "ann@x.test"
	login := func(user, id, sender string) func(*sightings) {
		return func(f *sightings) {
			at := time.Now()
			_ = f.log.add(&maillog.Event{Kind: maillog.Login, ID: []byte(id), User: []byte(user), Address: []byte("192.0.2.1"), Time: at, Times: 1})
			_ = f.log.add(&maillog.Event{Kind: maillog.Sent, ID: []byte(id), Sender: []byte(sender), Time: at, Times: 1})
		}
	}
	for _, tt := range []struct {
		name    string
		seen    func(*sightings)
		whole   bool
		finding string
		says    string
	}{
		{"nothing of it", func(*sightings) {}, true, Forged, "do not disable"},
		{"nothing of it was seen", func(*sightings) {}, false, "", "not all"},
		{"a login by its address", login("ANN@x.test", "A1", "other@x.test"), true, Hacked, "1 message sent with login ann@x.test"},
		{"a login by its local part", login("ann", "A1", "other@x.test"), true, Hacked, "login ann,"},
		{"a login at another domain of ours", login("ann@mx.x.test", "A1", "o@x.test"), true, Hacked, "login ann@mx.x.test"},
		{"a login of somebody else", login("ann@elsewhere.test", "A1", "o@x.test"), true, Forged, ""},
		{"another login sent as it", login("bob", "A1", "Ann@x.test"), true, Hacked, "1 message of it sent with a login"},
		{"it is named like another", login("joann@x.test", "A1", "joann@x.test"), true, Forged, ""},
		{"failed logins alone", func(f *sightings) {
			_ = f.log.add(&maillog.Event{Kind: maillog.Failed, User: []byte("ann@x.test"), Times: 500})
		}, true, Forged, ""},
		{"in the queues with its login", func(f *sightings) { f.logins.add("ann", 7) }, true, Hacked, "7 messages in the queues with login ann"},
		{"in the queues with some login", func(f *sightings) { f.sentByLogin.add(target, 7) }, true, Hacked, "7 messages of it"},
		{"from our networks", func(f *sightings) { f.sentFromHere.add(target, 7) }, true, Hacked, "own networks"},
		{"picked up", func(f *sightings) {
			_ = f.log.add(&maillog.Event{Kind: maillog.Local, UID: 33, Sender: []byte(target), Times: 4})
		}, true, Script, "4 messages of it submitted on this host"},
		{"of a script", func(f *sightings) { f.sentOnHost.add(target, 2); f.scriptOf[target] = "33:a.php" }, true, Script, "33:a.php"},
		{"a script and a login", func(f *sightings) { f.sentOnHost.add(target, 2); login("ann", "A1", target)(f) }, true, Hacked, "login ann"},
		{"nobody", func(f *sightings) {
			_ = f.log.add(&maillog.Event{Kind: maillog.Unknown, Recipient: []byte("box@y.test"), Original: []byte("Ann@x.test"), Times: 2})
		}, true, NoSuchUser, "2 times"},
	} {
		f := newSightings(&spool.Postfix{Settings: spool.Settings{Domains: []string{"x.test", "mx.x.test"}}})
		tt.seen(f)
		got := f.target(Value{Value: target, Count: 9}, "all times", tt.whole)
		if got.Finding != tt.finding || !strings.Contains(strings.Join(got.Evidence, "; "), tt.says) || got.Count != 9 {
			t.Errorf("%s: got %+v, want %q because of %q", tt.name, got, tt.finding, tt.says)
		}
	}
}

// Two hosts' lists are one; a host that saw an account send outweighs the others.
func TestMergeSuspects(t *testing.T) {
	at := func(hour int) *time.Time { t := time.Date(2026, 11, 23, hour, 0, 0, 0, time.UTC); return &t }
	a := &Suspects{
		Logins:      []Login{{User: "eve", Count: 5, Addresses: []string{"192.0.2.1", "192.0.2.2"}, AddressesAll: 2, First: at(4), Last: at(5)}},
		Senders:     []Value{{Value: "a", Count: 5}, {Value: "b", Count: 4}},
		Backscatter: []Target{{"eve@x", 3, Forged, []string{"nothing"}}, {"ana@x", 2, Forged, []string{"nothing"}}}, Read: 9,
	}
	b := &Suspects{
		Logins:      []Login{{User: "bob", Count: 6, Addresses: []string{}}, {User: "eve", Count: 2, Failed: 1, Addresses: []string{"192.0.2.2", "192.0.2.3"}, AddressesAll: 2, First: at(3), Last: at(4)}},
		Senders:     []Value{{Value: "b", Count: 4}, {Value: "c", Count: 1}},
		Backscatter: []Target{{"eve@x", 4, Hacked, []string{"sent"}}, {"ana@x", 9, Forged, []string{"nothing"}}}, Read: 1, Partial: true,
	}
	a.Merge(b)
	want := &Suspects{
		Logins: []Login{
			{User: "eve", Count: 7, Failed: 1, Addresses: []string{"192.0.2.1", "192.0.2.2", "192.0.2.3"}, AddressesAll: 3, First: at(3), Last: at(5)},
			{User: "bob", Count: 6, Addresses: []string{}},
		},
		Senders:     []Value{{Value: "b", Count: 8}, {Value: "a", Count: 5}, {Value: "c", Count: 1}},
		Backscatter: []Target{{"ana@x", 11, Forged, []string{"nothing"}}, {"eve@x", 7, Hacked, []string{"sent"}}}, Read: 10, Partial: true,
	}
	if d := cmp.Diff(want, a); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	// A further instance of a host, of which the log was taken in already.
	want.Senders, want.Read = []Value{{Value: "b", Count: 9}, {Value: "a", Count: 5}, {Value: "c", Count: 1}}, 13
	a.MergeInstance(&Suspects{Logins: b.Logins, UIDs: []Value{{Value: "33", Count: 5}}, Senders: []Value{{Value: "b", Count: 1}}, Read: 3})
	if d := cmp.Diff(want, a); d != "" {
		t.Errorf("with a further instance (-want +got):\n%s", d)
	}
	a.Cut(1)
	if len(a.Logins) != 1 || len(a.Senders) != 1 || len(a.Backscatter) != 1 {
		t.Errorf("the first of each: %+v", a)
	}
}

// However many values there are, memory is bounded and the large ones are found,
// with counts that are too low by no more than is said.
func TestCounterBounded(t *testing.T) {
	c, s := counter{}, newSubmissions()
	const n = 150_000
	for i := range n {
		value := fmt.Sprint("once", i)
		if i%20 == 0 {
			value = "often"
		}
		c.add(value, 1)
		_ = s.add(&maillog.Event{Kind: maillog.Login, ID: []byte(fmt.Sprint(i)), User: []byte(value), Address: []byte(value), Times: 1})
	}
	if len(c) > countedValues || len(s.users) > loginsKept {
		t.Errorf("kept %d values, %d logins", len(c), len(s.users))
	}
	if top := c.top(1); top[0].Value != "often" || top[0].Count > n/20 || top[0].Count < n/20-n/countedValues-1 {
		t.Errorf("the most frequent: %+v, want often, %d", top, n/20)
	}
	if top := s.top(1); top[0].User != "often" || top[0].Count != n/20 {
		t.Errorf("the login that sent most: %+v", top)
	}
	long := strings.Repeat("x", 10000)
	c = counter{}
	c.add(long, 1)
	c.add(long+"y", 1)
	if top := c.top(9); len(top) != 1 || top[0].Count != 2 || len(top[0].Value) != valueLength {
		t.Errorf("a long value: %d of them", len(top))
	}
}
