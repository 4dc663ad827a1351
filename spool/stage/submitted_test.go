package stage

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/maillog"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/queuefile"
)

func TestScriptName(t *testing.T) {
	for text, want := range map[string]string{
		"33:mailer.php":                          "mailer.php",
		"1001:mailer.php(7) : eval()'d code":     "mailer.php",
		"/var/www/shop/mailer.php":               "mailer.php",
		"33:/var/www/shop/mailer.php":            "mailer.php",
		"/var/www/a:b/mailer.php":                "mailer.php",
		"mailer.php":                             "mailer.php",
		"33:":                                    "",
		"":                                       "",
		"/var/www/":                              "",
		"33:mailer.php(3) : runtime-created f()": "mailer.php",
	} {
		if got := scriptName(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// Who submitted a message stands in the first Received, as pickup writes it, and in
// none that came with the mail.
func TestUserID(t *testing.T) {
	for received, want := range map[string]string{
		" by mx1.x.test (Postfix, from userid 33)\tid 834A9178154; Sun":      "33",
		" by mx1.x.test (Own Name, from userid 1001)\tid 834A9178154; Sun":   "1001",
		" by mx1.x.test (Postfix)\tid 834A9178154; Sun":                      "",
		" from mx2 (mx2 [192.0.2.1])\tby mx1.x.test (Postfix) with ESMTP id": "",
		" by mx1.x.test (Postfix, from userid )":                             "",
		"":                                                                   "",
	} {
		if got := (&headerLines{received: []byte(received)}).userid(); got != want {
			t.Errorf("%q: got %q, want %q", received, got, want)
		}
	}
	local := &headerLines{received: []byte(" by mx1 (Postfix, from userid 33)"), script: []byte(" 33:mailer.php")}
	c := counter{}
	c.addLocal(&queuefile.Envelope{}, local, -1)
	c.addLocal(&queuefile.Envelope{}, local, 38)                           // of maildrop: who owns the file, whatever it says
	c.addLocal(&queuefile.Envelope{ClientAddress: "192.0.2.1"}, local, -1) // another server says so
	c.addLocal(&queuefile.Envelope{Login: "eve"}, &headerLines{}, -1)
	want := []Value{{Value: "script mailer.php", Count: 3}, {Value: "uid 33", Count: 1}, {Value: "uid 38", Count: 1}}
	if d := cmp.Diff(want, c.top(9)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// What a run was told of is a user, by name or number, or else a script.
func TestNamedSources(t *testing.T) {
	var s sources
	s.name(t.Context(), []string{"root", "33", "33:mailer.php", "/var/www/shop/send.php", "no-such-user.php"})
	if want := []string{"uid 0", "uid 33", "script mailer.php", "script send.php", "script no-such-user.php"}; !slices.Equal(s.local, want) {
		t.Errorf("got %q, want %q", s.local, want)
	}
}

// Of mail that was submitted on the host counts a uid, and a sender as pickup has it,
// without the domain that cleanup adds.
func TestWatchingSubmitted(t *testing.T) {
	event := func(kind maillog.Kind, id string, uid int, sender string) *maillog.Event {
		return &maillog.Event{Kind: kind, ID: []byte(id), UID: uid, Sender: []byte(sender), Times: 1}
	}
	w := &watching{
		sources: &sources{senders: []string{"www-data@x.test"}, local: []string{"uid 4000033", "script x.php"}},
		fresh:   map[string]bool{}, sent: counter{},
	}
	for _, e := range []*maillog.Event{
		event(maillog.Local, "A1", 33, "www-data"),
		event(maillog.Queued, "A1", 0, "www-data@x.test"),
		event(maillog.Queued, "A1", 0, "www-data@x.test"), // tried again
		event(maillog.Local, "A2", 4_000_033, "root@other.test"),
		event(maillog.Queued, "A2", 0, "www-data@x.test"), // counted by its uid already
		event(maillog.Local, "A3", 38, "list"),
		event(maillog.Queued, "A3", 0, "list@x.test"), // other mail
	} {
		if err := w.add(e); err != nil {
			t.Fatal(err)
		}
	}
	want := &Watched{Sent: 2, Source: Sending, Sources: []Value{{Value: "sender www-data@x.test", Count: 1}, {Value: "uid 4000033", Count: 1}}}
	if d := cmp.Diff(want, w.result()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// The log tells of uids, and the queues of scripts, and of what waits in maildrop.
func TestWatchSubmitted(t *testing.T) {
	h := newHost(t)
	domain := h.Hostname()
	message := func(queue spool.Queue, arrived time.Time, sender, script string) practice.Message {
		return practice.Message{Queue: queue, Arrived: arrived, Sender: sender, Recipients: []string{"a@far.test"}, Text: "Subject: x\nX-PHP-Originating-Script: " + script + "\n\nx\n"}
	}
	began := time.Now().Add(-time.Hour)
	var flood []practice.Message
	for i := range 40 {
		flood = append(flood, message(spool.Incoming, began, fmt.Sprintf("n%d@%s", i, domain), "33:mailer.php"))
	}
	flood = append(flood, message(spool.Maildrop, began, "n@"+domain, "33:mailer.php"))
	submit(t, h, flood...)
	k := aside(t, h, append(floodQueues, spool.Maildrop)...)
	started := time.Now()
	k.done["start"] = &Started{Started: spool.Started{At: started}}
	watched := func(args string) *Watched {
		t.Helper()
		r, err := k.run("watch", args)
		if err != nil {
			t.Fatal(err)
		}
		return r.(*Watched)
	}
	uid := strconv.Itoa(os.Geteuid())
	me := func(n int64) Value { return Value{Value: "uid " + uid, Count: n, Name: spool.UserName(uid)} }
	mine := `{"for": "0", "source": ` + uid + `}`
	if w := watched(mine); w.Source != Quiet {
		t.Errorf("before the start: %+v", w)
	}
	if w := watched(`{"for": "0"}`); w.Source != Unknown {
		t.Errorf("nobody is named: %+v", w)
	}
	// New: one of the script in maildrop, one in deferred; one of another script; and
	// one from before, that is tried again.
	fresh := started.Add(time.Second)
	submit(t, h, message(spool.Maildrop, fresh, "n@"+domain, "33:mailer.php"), message(spool.Deferred, fresh, "n@"+domain, "33:mailer.php(7) : eval()'d code"),
		message(spool.Deferred, fresh, "n@"+domain, "33:form.php"), message(spool.Deferred, began, "n@"+domain, "33:mailer.php"))
	script := Value{Value: "script mailer.php", Count: 2}
	for _, row := range []struct {
		args string
		want *Watched
	}{
		{mine, &Watched{Sent: 1, Source: Sending, Sources: []Value{me(1)}}},
		{`{"for": "0", "source": "/var/www/shop/mailer.php"}`, &Watched{Sent: 2, Source: Sending, Sources: []Value{script}}},
		{`{"for": "0", "source": ["33:form.php"]}`, &Watched{Sent: 1, Source: Sending, Sources: []Value{{Value: "script form.php", Count: 1}}}},
		{`{"for": "0", "source": "other.php"}`, &Watched{Source: Quiet, Sources: []Value{}}},
	} {
		if d := cmp.Diff(row.want, watched(row.args)); d != "" {
			t.Errorf("%s (-want +got):\n%s", row.args, d)
		}
	}
	line := func(at time.Time, uid int) {
		t.Helper()
		f, err := os.OpenFile(h.Log(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintf(f, "%s chavez postfix/pickup[1]: ABCDEF123456: uid=%d from=<www-data>\n", at.Format(time.RFC3339Nano), uid)
	}
	line(started.Add(-time.Millisecond), os.Geteuid())
	line(started.Add(time.Millisecond), os.Geteuid())
	line(started.Add(time.Millisecond), os.Geteuid()+1)
	if w := watched(mine); w.Sent != 2 || !cmp.Equal(w.Sources, []Value{me(2)}) {
		t.Errorf("one more, in the log: %+v", w)
	}
	// By the rules alone: all senders differ, and uid and script do not.
	if _, err := k.run("classify", `{"spam": {"header.X-PHP-Originating-Script": "mailer.php"}}`); err != nil {
		t.Fatal(err)
	}
	w := watched(`{"for": "0"}`)
	if want := []Value{script, me(2)}; w.Sent != 2 || !cmp.Equal(w.Sources, want) {
		t.Errorf("by the rules: %+v, want %v", w, want)
	}
	s, err := k.spamSources(t.Context())
	slices.Sort(s.local)
	if err != nil || !slices.Equal(s.local, []string{"script mailer.php", "uid " + uid}) || len(s.senders) > 0 {
		t.Errorf("sources %+v, %v", s, err)
	}
}
