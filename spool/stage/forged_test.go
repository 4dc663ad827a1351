package stage

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// Accounts that no suspects stage has looked at are looked up, in the log and in
// the queues. Refused is who has bounces and sent nothing, and nobody else.
func TestForged(t *testing.T) {
	h := newHost(t)
	domain := h.Hostname()
	var messages []practice.Message
	for _, name := range []string{"victim", "spam-account"} {
		for range 3 {
			messages = append(messages, practice.Message{Recipients: []string{name + "@" + domain}, ClientName: "mx.far.test", ClientAddress: "198.51.100.7"})
		}
	}
	messages = append(messages,
		practice.Message{Sender: "spam-account@" + domain, Login: "spam-account", ClientName: "unknown", ClientAddress: "203.0.113.9", Recipients: []string{"a@far.test"}},
		practice.Message{Sender: "quiet@" + domain, Login: "quiet@" + domain, ClientName: "unknown", ClientAddress: "203.0.113.9", Recipients: []string{"a@far.test"}},
		practice.Message{Sender: "www@" + domain, Recipients: []string{"www@" + domain}},
		practice.Message{Recipients: []string{"www@" + domain}, ClientName: "mx.far.test", ClientAddress: "198.51.100.7"})
	submit(t, h, messages...)
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	host := func() *Host { return &Host{Postfix: p} }
	findings := func(accounts ...string) string {
		t.Helper()
		found, known := host().accused(t.Context(), accounts, func(kind string, data any) {
			if kind == "warn" {
				t.Errorf("warning: %v", data)
			}
		})
		var all []string
		for _, f := range found {
			all = append(all, f.Value+" "+f.Finding)
			if f.Finding != "" && len(f.Evidence) == 0 {
				t.Errorf("%+v: a finding without evidence", f)
			}
		}
		if !known {
			all = append(all, "not known")
		}
		return strings.Join(all, ", ")
	}
	for _, tt := range []struct {
		accounts []string
		want     string
	}{
		{[]string{"victim"}, "victim forged"},
		{[]string{"Victim@" + strings.ToUpper(domain)}, "Victim@" + strings.ToUpper(domain) + " forged"},
		{[]string{"spam-account"}, "spam-account hacked"},
		{[]string{"quiet"}, "quiet hacked"}, // no bounce is needed
		{[]string{"www"}, "www script"},
		{[]string{"nobody"}, "nobody "}, // neither
		{[]string{"victim", "spam-account@" + domain}, "victim forged, spam-account@" + domain + " hacked"},
	} {
		if got := findings(tt.accounts...); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.accounts, got, tt.want)
		}
	}

	r, warned, err := alone(t, host(), "command", `{"run": "echo --", "for": ["victim", "spam-account"]}`)
	if err != nil || r.OutputTail != "-- spam-account" || !slices.Equal(r.Refused, []string{"victim"}) || len(warned) != 1 || !strings.Contains(warned[0], `"victim"`) {
		t.Errorf("got %+v, %q, %v", r, warned, err)
	}
	if r, warned, err = alone(t, host(), "command", `{"run": "echo --", "for": ["victim"], "force_account": true}`); err != nil || r.OutputTail != "-- victim" || len(warned) != 0 {
		t.Errorf("forced: %+v, %q, %v", r, warned, err)
	}
	// The controller is told whom to leave out, and says that it did.
	_, _, err = alone(t, host(), "command", `{"run": "echo --", "for": ["victim", "spam-account"], "on": "controller"}`)
	var ask *Ask
	if !errors.As(err, &ask) {
		t.Fatalf("got %v, want a question for the controller", err)
	}
	if text, _ := json.Marshal(ask.Data); string(text) != `{"except":["victim"]}` {
		t.Errorf("the question holds %s", text)
	}
	answered := host()
	answered.Answer = &Answer{Kind: "controller", Value: `{"exit":0,"refused":["victim"]}`}
	if _, _, err = alone(t, answered, "command", `{"run": "echo --", "for": ["victim", "spam-account"], "on": "controller", "require_source_stopped": true}`); err == nil || !strings.Contains(err.Error(), `["victim"] is forged`) {
		t.Errorf("required: got %v", err)
	}

	// What the command before it has found is not looked up again.
	again := &Host{Postfix: p, Last: func(stage string, into any) bool {
		return stage == "command" && json.Unmarshal([]byte(`{"accounts":[{"value":"Spam-Account","count":3,"finding":"forged","evidence":["x"]}]}`), into) == nil
	}}
	if r, _, err = alone(t, again, "command", `{"run": "echo --", "for": ["Spam-Account", "victim"]}`); err != nil || len(r.Refused) != 2 {
		t.Errorf("a second command: %+v, %v", r, err)
	}

	// Nor is anybody disabled because an earlier run has the bounces aside by now.
	var sets []spool.Set
	for _, q := range []spool.Queue{spool.Incoming, spool.Active} {
		name := string(q) + ".spamfull"
		if err := os.Rename(h.Spool(string(q)), h.Spool(name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(h.Spool(string(q)), 0o700); err != nil {
			t.Fatal(err)
		}
		sets = append(sets, spool.Set{Queue: q, Aside: name})
	}
	later := host()
	began := time.Now()
	later.Records = func() ([]Record, error) {
		return []Record{{Run: "20261128T120000Z-ab12", Began: began, Sets: sets}}, nil
	}
	if r, warned, err = alone(t, later, "command", `{"run": "echo --", "for": ["victim", "spam-account"]}`); err != nil || !slices.Equal(r.Refused, []string{"victim"}) {
		t.Errorf("with the bounces aside: %+v, %q, %v", r, warned, err)
	}
	// What is aside for longer tells nothing of now.
	began = began.Add(-bouncesFor - time.Hour)
	if r, warned, err = alone(t, later, "command", `{"run": "echo --", "for": ["victim"]}`); err != nil || len(r.Refused) > 0 {
		t.Errorf("with older bounces aside: %+v, %q, %v", r, warned, err)
	}
	for _, s := range sets {
		if err := errors.Join(os.Remove(h.Spool(string(s.Queue))), os.Rename(h.Spool(s.Aside), h.Spool(string(s.Queue)))); err != nil {
			t.Fatal(err)
		}
	}

	// Where there is no time to look, or nothing to see, nobody is refused.
	hasty := host()
	hasty.Step.Timeout = 1
	if found, known := hasty.accused(t.Context(), []string{"victim"}, func(string, any) {}); known || found[0].Finding != "" {
		t.Errorf("without time: %+v, %t", found, known)
	}
	if err := os.Truncate(h.Log(), 0); err != nil {
		t.Fatal(err)
	}
	if got := findings("victim", "spam-account"); got != "victim , spam-account hacked, not known" {
		t.Errorf("an empty log: %s", got)
	}
	r, warned, err = alone(t, host(), "command", `{"run": "echo --", "for": ["victim"]}`)
	if err != nil || r.OutputTail != "-- victim" || len(warned) != 1 || !strings.Contains(warned[0], "could not be seen") {
		t.Errorf("an empty log: %+v, %q, %v", r, warned, err)
	}
}
