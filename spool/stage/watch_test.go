package stage

import (
	"encoding/json"
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

// What is new of the source since the start, and what is none of it.
func TestWatching(t *testing.T) {
	event := func(kind maillog.Kind, id, user, address, sender string) *maillog.Event {
		return &maillog.Event{Kind: kind, ID: []byte(id), User: []byte(user), Address: []byte(address), Sender: []byte(sender), UID: 33, Times: 1}
	}
	w := &watching{
		sources: &sources{accounts: []string{"eve@x.test"}, senders: []string{"shop@far.test"}, clients: []string{"203.0.113.9"}},
		fresh:   map[string]bool{}, sent: counter{},
	}
	for _, e := range []*maillog.Event{
		event(maillog.Login, "A1", "EVE", "192.0.2.1", ""),          // the account, without its domain
		event(maillog.Login, "A2", "eve@y.test", "192.0.2.1", ""),   // of another domain: somebody else
		event(maillog.Login, "A3", "steve@x.test", "192.0.2.1", ""), // another
		event(maillog.Client, "A4", "", "203.0.113.9", ""),          // its client
		event(maillog.Client, "A5", "", "203.0.113.99", ""),         // not its client
		event(maillog.Queued, "A5", "", "", "Shop@far.test"),        // but its sender
		event(maillog.Queued, "A5", "", "", "shop@far.test"),        // tried again
		event(maillog.Queued, "B1", "", "", "shop@far.test"),        // from before the start, tried again
		event(maillog.Local, "A6", "", "", "shop@far.test"),         // submitted on the host
		event(maillog.Queued, "A6", "", "", "shop@far.test"),
		event(maillog.Local, "A7", "", "", "root@x.test"),    // other mail
		event(maillog.Queued, "A4", "", "", "shop@far.test"), // counted by its client already
		event(maillog.Login, "A8", "bob", "203.0.113.9", ""), // a login from its client
		event(maillog.Client, "A9", "", "198.51.100.1", ""),  // a bounce comes in:
		event(maillog.Queued, "A9", "", "", ""),              // that is others' mail
	} {
		if err := w.add(e); err != nil {
			t.Fatal(err)
		}
	}
	want := &Watched{Sent: 5, Source: Sending, Sources: []Value{
		{Value: "client 203.0.113.9", Count: 2}, {Value: "sender shop@far.test", Count: 2}, {Value: "login eve", Count: 1},
	}}
	if d := cmp.Diff(want, w.result()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestWatch(t *testing.T) {
	h := newHost(t)
	submit(t, h, practice.Incident("chavez", "spam-account", 200, 7)...)
	k := aside(t, h, floodQueues...)
	if _, err := k.run("watch", `{"for": "0"}`); err == nil {
		t.Error("nobody knows when Postfix was started, and it is no error")
	}
	started := time.Now()
	k.done["start"] = &Started{Started: spool.Started{At: started}} // all that was submitted is from before
	if r, err := k.run("watch", `{"for": "0"}`); err != nil || r.(*Watched).Source != Unknown {
		t.Errorf("nothing is known of a source: %+v, %v", r, err)
	}
	if _, err := k.run("classify", incidentRules); err != nil {
		t.Fatal(err)
	}
	s, err := k.spamSources(t.Context())
	if err != nil || !cmp.Equal(s.accounts, []string{"spam-account"}) || !cmp.Equal(s.senders, []string{"spam-account@chavez.practice.test"}) {
		t.Errorf("sources %+v, %v", s, err)
	}
	if r, err := k.run("watch", `{"for": "0"}`); err != nil || r.(*Watched).Source != Quiet {
		t.Errorf("before the start: %+v, %v", r, err)
	}
	line := func(at time.Time) {
		t.Helper()
		f, err := os.OpenFile(h.Log(), os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprintf(f, "%s chavez postfix/smtpd[1]: ABCDEF123456: client=x[203.0.113.1], sasl_method=PLAIN, sasl_username=spam-account\n", at.Format(time.RFC3339Nano))
	}
	line(started.Add(-time.Millisecond))
	line(started.Add(time.Millisecond))
	r, err := k.run("watch", `{"for": "0"}`)
	if err != nil || r.(*Watched).Source != Sending || r.(*Watched).Sent != 1 {
		t.Errorf("one more: %+v, %v", r, err)
	}
	if r, err = k.run("watch", `{"for": "0", "require_source_stopped": true}`); err == nil || !strings.Contains(spool.RemedyOf(err), "spoolsweep resume "+runID) || r.(*Watched).Source != Sending {
		t.Errorf("it must be stopped: %+v, %v", r, err)
	}
	// It waits until then, and not where the run was cancelled.
	k.done["start"] = &Started{Started: spool.Started{At: time.Now()}}
	began := time.Now()
	if _, err := k.run("watch", `{"for": "300ms"}`); err != nil || time.Since(began) < 250*time.Millisecond {
		t.Errorf("waited %v, %v", time.Since(began), err)
	}
	k.Cancelled = func() bool { return true }
	if _, err := k.run("watch", `{"for": "1h"}`); err != nil {
		t.Errorf("cancelled: %v", err)
	}
	k.Vars.MailLog = "/no/such/log"
	if r, err := k.run("watch", `{"for": "0"}`); err != nil || r.(*Watched).Source != Unknown || r.(*Watched).Why == "" {
		t.Errorf("no log: %+v, %v", r, err)
	}
	// What waits in the queues tells that it sends, if not that it does not.
	domain := h.Hostname()
	submit(t, h,
		practice.Message{Sender: "ann@" + domain, Login: "ann", ClientName: "unknown", ClientAddress: "198.51.100.1", Recipients: []string{"a@far.test"}},
		practice.Message{Sender: "other@" + domain, Login: "Spam-Account", ClientName: "unknown", ClientAddress: "198.51.100.2", Recipients: []string{"a@far.test"}},
		practice.Message{Sender: "spam-account@" + domain, ClientName: "unknown", ClientAddress: "198.51.100.3", Recipients: []string{"a@far.test"}})
	r, err = k.run("watch", `{"for": "0"}`)
	var told []string
	for _, v := range r.(*Watched).Sources {
		told = append(told, v.Value)
	}
	slices.Sort(told)
	if want := []string{"login spam-account", "sender spam-account@" + domain}; err != nil || r.(*Watched).Source != Sending || r.(*Watched).Sent != 2 || !slices.Equal(told, want) {
		t.Errorf("no log, and new mail in the queues: %+v, %v, want %q", r, err, want)
	}
}

func TestWatchArgs(t *testing.T) {
	for text, want := range map[string]WatchArgs{
		`{}`:                                   {For: Duration(time.Minute)},
		`{"for": 0}`:                           {},
		`{"for": "0"}`:                         {},
		`{"for": "2h30m", "account": "eve"}`:   {For: Duration(150 * time.Minute), Account: Accounts{"eve"}},
		`{"for": "1d", "account": ["a", "b"]}`: {For: Duration(24 * time.Hour), Account: Accounts{"a", "b"}},
		`{"for": "90s", "account": ""}`:        {For: Duration(90 * time.Second)},
		`{"account": []}`:                      {For: Duration(time.Minute), Account: Accounts{}},
	} {
		a, err := watch.Parse([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if d := cmp.Diff(&want, a); d != "" {
			t.Errorf("%s (-want +got):\n%s", text, d)
		}
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := watch.Parse(again); err != nil || b.(*WatchArgs).For != want.For {
			t.Errorf("%s is not read back: %v, %v", again, b, err)
		}
	}
	for _, text := range []string{`{"for": 5}`, `{"for": "soon"}`, `{"for": "-1s"}`, `{"for": "2d"}`, `{"for": "1.5d"}`, `{"for": null}`, `{"account": 5}`, `{"account": [1]}`} {
		if a, err := watch.Parse([]byte(text)); err == nil {
			t.Errorf("%s is accepted: %+v", text, a)
		}
	}
}
