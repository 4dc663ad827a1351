package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/suggest"
)

func reencode(t *testing.T, from, into any) bool {
	t.Helper()
	text, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return true
}

// The table is all that playbooks, plans and printers know of a stage.
func TestTable(t *testing.T) {
	var b strings.Builder
	for i, r := range Table {
		if r.Doc == "" || strings.ContainsAny(r.Doc, "\n.") {
			t.Errorf("%s: doc %q is not one line without a full stop", r.Name, r.Doc)
		}
		if r.New == nil || r.Result == nil || r.Run == nil {
			t.Fatalf("%s: New, Result or Run is missing", r.Name)
		}
		if r.New() == nil || r.Result() == nil || r.New() == r.New() && len(r.Keys()) > 0 {
			t.Errorf("%s: New and Result make something new each time", r.Name)
		}
		if got, ok := Find(r.Name); !ok || got != r {
			t.Errorf("Find(%q) is another row", r.Name)
		}
		if names := Names(); names[i] != r.Name {
			t.Errorf("Names()[%d]: got %s, want %s", i, names[i], r.Name)
		}
		for _, before := range r.After {
			if _, ok := Find(before); !ok {
				t.Errorf("%s comes after %q, which is no stage", r.Name, before)
			}
		}
		for _, key := range r.Keys() {
			if Field(r.New(), key) == nil {
				t.Errorf("%s: no field for the key %s", r.Name, key)
			}
		}
		if _, err := r.Parse(json.RawMessage(`{"no_such_key": 1}`)); err == nil {
			t.Errorf("%s accepts an unknown key", r.Name)
		}
		if _, err := r.Parse(json.RawMessage(`[]`)); err == nil {
			t.Errorf("%s accepts a list", r.Name)
		}
		if _, err := r.Parse(nil); err != nil {
			t.Errorf("%s without arguments: %v", r.Name, err)
		}
		_ = r.Result().Lines() // of an empty result: no panic
		fmt.Fprintf(&b, "%s: %s\n  keys %v, section %t, after %v, changes %t\n", r.Name, r.Doc, r.Keys(), r.Section, r.After, r.Changes)
	}
	golden(t, "table.golden", b.String())
	if _, ok := Find("no-such"); ok {
		t.Error("Find finds what is not there")
	}
	if f := Field(&ClassifyArgs{}, "live"); f != nil {
		t.Error("directories is a key of playbooks")
	}
}

func TestParse(t *testing.T) {
	for _, tt := range []struct{ stage, args, want string }{
		{"count", `{"exact": true}`, `{"exact":true}`},
		{"count", `{"exact": "yes"}`, "error count: json: cannot unmarshal"},
		{"stop", `{"queues": "auto"}`, `error stop: json: unknown field "queues"`},
		{"set-aside", `{}`, `{"queues":["auto"]}`},
		{"set-aside", `{"queues": "incoming, active"}`, `{"queues":["incoming","active"]}`},
		{"set-aside", `{"queues": ["deferred"]}`, `{"queues":["deferred"]}`},
		{"set-aside", `{"queues": []}`, "error set-aside: no queue is named"},
		{"set-aside", `{"queues": ""}`, "error set-aside:"},
		{"set-aside", `{"queues": "auto, maildrop"}`, `{"queues":["auto","maildrop"]}`},
		{"set-aside", `{"queues": ["Auto", "corrupt"]}`, "error set-aside: queue corrupt"},
		{"set-aside", `{"queues": "corrupt"}`, "error set-aside:"},
		{"set-aside", `{"queues": "../etc"}`, "error set-aside:"},
		{"set-aside", `{"queues": 5}`, "error set-aside: queues are a name, a list of names, or auto"},
		{"classify", `{"spam": {"sender": "a@b.c"}}`, `{"spam":{"sender":"a@b.c"},"ham":null}`},
		{"classify", `{"spam": {"sendr": "a@b.c"}}`, "error classify:"},
		{"confirm", `{}`, `{"show":"classify","max_senders":3,"max_source":100,"max_rescued":20}`},
		{"confirm", `{"show": "count"}`, `error confirm: show: "count" has nothing to confirm: classify has`},
		{"delete", `{"spam": {"sender": "a@b.c"}, "expect": "5"}`, `{"spam":{"sender":"a@b.c"},"ham":null,"queues":["deferred"],"expect":5}`},
		{"delete", `{"queues": "hold,active"}`, `{"spam":null,"ham":null,"queues":["hold","active"]}`},
		{"delete", `{"queues": "auto"}`, "error delete: queues are named where mail is deleted: auto is not one"},
		{"delete", `{"queues": "deferred, AUTO"}`, "error delete: queues are named where mail is deleted: auto is not one"},
		{"delete", `{"queues": "corrupt"}`, "error delete: queue corrupt"},
		{"delete", `{"spam": {"sendr": "a@b.c"}}`, "error delete:"},
		{"export", `{"spam": {"sender": "a@b.c"}, "queues": "hold", "expect": 5}`, `{"spam":{"sender":"a@b.c"},"ham":null,"queues":["hold"],"expect":5}`},
		{"export", `{"queues": "deferred,active"}`, `error export: queues: from "active" nothing is exported and removed`},
		{"export", `{"spam": {"sendr": "a@b.c"}}`, "error export:"},
		{"purge", `{}`, `{}`},
		{"purge", `{"include_ham": true, "older_than": "30d", "expect": 0}`, `{"include_ham":true,"older_than":"43200m","expect":0}`},
		{"purge", `{"older_than": "30"}`, "error purge: \"30\" is no age"},
		{"purge", `{"include_spam": true}`, "error purge: json: unknown field"},
		{"command", `{"run": "true"}`, `{"run":"true","on":"host"}`},
		{"command", `{"run": "true", "for": []}`, `{"run":"true","for":[],"on":"host"}`},
		{"command", `{"run": "do", "for": ["a", 5], "raw": true, "on": "controller"}`, `{"run":"do","for":["a","5"],"on":"controller","raw":true}`},
		{"command", `{"run": "do", "for": ["-a"]}`, `error command: for: "-a": a command would take a leading - for an option`},
		{"command", `{"run": "do\u0000"}`, "error command: run: no command line has a null byte"},
		{"restart", `{}`, `{"service":"auto"}`},
		{"restart", `{"service": "-x"}`, `error restart: service: "-x" is neither`},
		{"restore", `{}`, `{"rate":50,"live_max":15,"canary":50,"expired":"leave"}`},
		{"restore", `{"rate": "3000/m", "live_max": "7"}`, `{"rate":50,"live_max":7,"canary":50,"expired":"leave"}`},
		{"putback", `{"include_spam": true, "expect": 5, "rate": 0}`, `{"include_spam":true,"expect":5,"rate":0,"live_max":15,"canary":50,"expired":"leave"}`},
		{"restore", `{"expired": "bounce"}`, `error restore: expired: "bounce" is none of leave, requeue, send`},
		{"adopt", `{"directories": ["hold.spamfull.2", "defer.spamfull"]}`, `{"directories":["hold.spamfull.2","defer.spamfull"]}`},
		{"adopt", `{"directories": []}`, "error adopt: directories: none is named"},
		{"adopt", `{"directories": ["incoming"]}`, `error adopt: directories: "incoming" is no QUEUE.spamfull`},
		{"adopt", `{"directories": ["../incoming.spamfull"]}`, `error adopt: directories: "../incoming.spamfull" is no QUEUE.spamfull`},
		{"adopt", `{"directories": ["corrupt.spamfull"]}`, "error adopt: directories: queue corrupt"},
		{"adopt", `{"directories": ["hold.spamfull", "hold.spamfull.2"]}`, "error adopt: directories: two of hold"},
		{"putback", `{"expect": -1}`, "error putback: -1 is no whole number from 0"},
	} {
		row, _ := Find(tt.stage)
		a, err := row.Parse(json.RawMessage(tt.args))
		var got string
		if err != nil {
			got = "error " + err.Error()
			if !strings.HasPrefix(tt.want, "error ") || !strings.HasPrefix(got, tt.want) {
				t.Errorf("%s %s: got %s, want %s", tt.stage, tt.args, got, tt.want)
			}
			continue
		}
		text, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		if got = string(text); got != tt.want {
			t.Errorf("%s %s: got %s, want %s", tt.stage, tt.args, got, tt.want)
		}
		// What was parsed says the same once more: it travels as JSON.
		again, err := row.Parse(text)
		if err != nil {
			t.Errorf("%s %s again: %v", tt.stage, text, err)
		} else if d := cmp.Diff(a, again); d != "" {
			t.Errorf("%s %s again: %s", tt.stage, text, d)
		}
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{
		`50`: 50, `"50"`: 50, `"50/s"`: 50, `"50 / sec"`: 50, `0`: 0, `"0/s"`: 0, `"60/m"`: 1, `"90/min"`: 1.5,
		`"3600/h"`: 1, `0.5`: 0.5, `"NaN"`: -1, `"Inf"`: -1, `-1`: -1, `"-1/s"`: -1, `"50/d"`: -1, `"/s"`: -1, `""`: -1,
		`null`: -1, `true`: -1, `[50]`: -1, `"50/s/s"`: -1, `1e10`: -1, `"fast"`: -1,
	} {
		var got Rate
		err := got.UnmarshalJSON([]byte(text))
		switch {
		case want < 0 && err == nil:
			t.Errorf("rate %s: got %v, want an error", text, got)
		case want >= 0 && (err != nil || got != want):
			t.Errorf("rate %s: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`"30m"`: 30 * time.Minute, `"12h"`: 12 * time.Hour, `"30d"`: 30 * 24 * time.Hour, `"8w"`: 56 * 24 * time.Hour,
		`"0d"`: -1, `"-1d"`: -1, `"1.5d"`: -1, `"30"`: -1, `30`: -1, `"d"`: -1, `""`: -1, `null`: -1, `"1y"`: -1, `"2000000000w"`: -1, `"30d "`: -1, `"1h30m"`: -1,
	} {
		var got Span
		err := got.UnmarshalJSON([]byte(text))
		switch {
		case want < 0 && err == nil:
			t.Errorf("age %s: got %v, want an error", text, got)
		case want >= 0 && (err != nil || time.Duration(got) != want):
			t.Errorf("age %s: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestNumber(t *testing.T) {
	for text, want := range map[string]Number{
		`0`: 0, `500`: 500, `"500"`: 500, `-1`: -1, `1.5`: -1, `"x"`: -1, `null`: -1, `true`: -1, `{}`: -1, `99999999999999999999`: -1,
	} {
		var got Number
		err := got.UnmarshalJSON([]byte(text))
		switch {
		case want < 0 && err == nil:
			t.Errorf("number %s: got %v, want an error", text, got)
		case want >= 0 && (err != nil || got != want):
			t.Errorf("number %s: got %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestCheckOrder(t *testing.T) {
	for _, tt := range []struct {
		plan  string
		index int // of the wrong stage, -1: none
		want  string
	}{
		{"count", -1, ""},
		{"", -1, ""},
		{"count stop set-aside start classify confirm restore count", -1, ""},
		{"stop set-aside start stop set-aside start classify", -1, ""},
		{"classify restore", -1, ""},
		{"putback", -1, ""},
		{"count suspect", 1, `no stage "suspect"`},
		{"set-aside", 0, "set-aside stands outside stop and start"},
		{"start", 0, "start stands outside stop and start"},
		{"stop set-aside", 0, "a stop without start: Postfix would be left stopped"},
		{"count stop", 1, "a stop without start: Postfix would be left stopped"},
		{"stop start", 1, "between stop and start stands one set-aside"},
		{"stop set-aside set-aside start", 3, "between stop and start stands one set-aside"},
		{"stop stop set-aside start", 1, "stop stands between stop and start"},
		{"stop count set-aside start", 1, "count stands between stop and start, where Postfix is down: move it behind start"},
		{"stop set-aside classify start", 2, "classify stands between stop and start, where Postfix is down: move it behind start"},
		{"stop set-aside start set-aside", 3, "set-aside stands outside stop and start"},
		{"classify confirm restore purge", -1, ""},
		{"delete", -1, ""},
		{"stop delete set-aside start", 1, "delete stands between stop and start, where Postfix is down: move it behind start"},
		{"classify confirm purge restore", 3, "restore stands behind purge, which may remove what it would send"},
		{"restore classify", 0, "restore needs a stage before it: classify"},
		{"confirm", 0, "confirm needs a stage before it: classify"},
	} {
		err := CheckOrder(strings.Fields(tt.plan))
		var wrong *OrderError
		switch {
		case tt.index < 0 && err != nil:
			t.Errorf("%s: %v", tt.plan, err)
		case tt.index >= 0 && !errors.As(err, &wrong):
			t.Errorf("%s: got %v, want an OrderError", tt.plan, err)
		case tt.index >= 0 && (wrong.Index != tt.index || wrong.Message != tt.want):
			t.Errorf("%s: got %d %q, want %d %q", tt.plan, wrong.Index, wrong.Message, tt.index, tt.want)
		}
	}
}

// SectionOf agrees with CheckOrder for every plan that is accepted.
func TestSectionOf(t *testing.T) {
	plan := strings.Fields("count stop set-aside start classify stop set-aside start restore")
	if err := CheckOrder(plan); err != nil {
		t.Fatal(err)
	}
	want := map[int][2]int{1: {1, 3}, 2: {1, 3}, 3: {1, 3}, 5: {5, 7}, 6: {5, 7}, 7: {5, 7}}
	for i := range len(plan) + 2 {
		first, last, ok := SectionOf(plan, i)
		w, wanted := want[i]
		if ok != wanted || ok && (first != w[0] || last != w[1]) {
			t.Errorf("SectionOf(%d): got %d, %d, %t, want %v, %t", i, first, last, ok, w, wanted)
		}
	}
}

// The fields that design.md section 3 promises to scripts. A new field is a new
// line in a golden file, a lost or renamed one breaks somebody's script.
func TestResultJSON(t *testing.T) {
	moment := time.Date(2026, 11, 23, 23, 15, 0, 0, time.UTC)
	results := map[string]Result{
		"count": &Counts{
			Counts: spool.Counts{
				Postfix: "running", QueueDirectory: "/var/spool/postfix", Messages: 12, Partial: true,
				Queues: map[spool.Queue]spool.Count{
					spool.Incoming: {Messages: 3, Contents: &spool.Contents{Bytes: 12345, Oldest: 3700, Ages: map[string]int64{"under_5m": 2, "under_1d": 1}, Sizes: map[string]int64{"under_10k": 3}}},
					spool.Hold:     {Messages: 9, Partial: true, Contents: &spool.Contents{Bytes: 950, Oldest: 59, Approximate: true}},
					spool.Active:   {Contents: &spool.Contents{}},
				},
				Directories: map[string]int64{"defer": 2, "etc": 6},
				SetAside: map[string]spool.Leftover{
					"incoming.spamfull":   {Count: spool.Count{Messages: 7, Contents: &spool.Contents{Bytes: 7e6, Oldest: 90000}}, Run: runID, Age: 86400},
					"incoming.spamfull.2": {Count: spool.Count{Messages: 1, Contents: &spool.Contents{}}, Age: 8 * 86400},
				},
			},
			Level: LevelBusy, Why: []string{"incoming.spamfull.2 is aside since 8 d"}, Warn: 500, Crit: 5000,
			Runs: []Waiting{{Run: runID, Phase: "waiting", Asks: "rules", Messages: 7, Age: 86400, Oldest: 90000}},
		},
		"sample": &Sampled{
			Messages: 300, Unread: 1,
			Samples: []ReadMessage{{
				Message: "hold/4XL", Why: "1 of 9 from this sender",
				Envelope: Addressed{Sender: "ana@here.test", Recipients: []string{"bob@there.test"}, Count: 1, Bytes: 1234, Arrived: time.Date(2026, 11, 23, 23, 15, 0, 0, time.UTC)},
				Header:   []string{"Subject: x"}, Text: []string{"hello", "", "attachment: a.pdf, application/pdf, 12 bytes"},
			}},
		},
		"find": &Found{
			Address: "ana@here.test", Messages: 3, Looked: 1000, Unread: 1,
			Mail: []*FoundMail{
				{Where: "incoming.spamfull/4XK", As: []string{"sender"}, Sender: "ana@here.test", Recipients: []string{"bob@there.test"}, More: 2,
					Login: "ana", Arrived: time.Date(2026, 11, 23, 23, 15, 0, 0, time.UTC), Size: 1234, Run: runID, Verdict: "spam"},
				{Where: "hold/4XL", As: []string{"recipient"}, Recipients: []string{"ana@here.test"}},
			},
			Gone: 2, AtLeast: true, Ledger: []*FoundMail{
				{Where: "deferred.spamfull/4XM", As: []string{"recipient"}, Recipients: []string{"ana@here.test"}, Run: runID, Verdict: "ham",
					Fate: FateRestored, To: "deferred/A", Time: moment, By: "bob@laptop"},
			},
		},
		"stop":      &Stopped{spool.Stopped{Seconds: 0.5, Ended: []string{"12 smtpd"}, MayDouble: []string{}, WasRunning: true}},
		"set-aside": &Aside{Queues: map[spool.Queue]AsideQueue{spool.Incoming: {Messages: 7, To: "incoming.spamfull"}, spool.Defer: {To: "defer.spamfull"}}},
		"start":     &Started{Started: spool.Started{Downtime: 0.7, Proved: 2, Master: 10, Manager: 11, At: moment}, Accepting: new(bool), Why: "452 4.3.1 Insufficient system storage"},
		"suspects": &Suspects{
			Logins: []Login{
				{User: "eve@chavez", Count: 101, Failed: 2, Addresses: []string{"203.0.113.1"}, AddressesAll: 7, First: &moment, Last: &moment},
				{Failed: 5, Addresses: []string{}},
			},
			Senders: []Value{{Value: "<>", Count: 3}}, Recipients: []Value{}, SASLUsers: []Value{{Value: "eve", Count: 9}}, Clients: []Value{},
			Backscatter: []Target{{"eve@chavez", 3, Hacked, []string{"101 messages sent"}}, {"ana@chavez", 2, "", []string{"not all could be read"}}},
			UIDs:        []Value{{"33", 4, "www-data"}}, Scripts: []Value{}, Subjects: []Value{{Value: "pills", Count: 9}},
			SenderDomains: []Value{{Value: "chavez", Count: 8}}, RecipientDomains: []Value{}, Reasons: []Value{{Value: "connect to *: Connection timed out", Count: 2}}, Read: 12, Partial: true, Seconds: 0.1,
		},
		"suggest": &Suggested{
			Messages: 12, Atoms: []suggest.Atom{{Kind: suggest.Login, Field: "sasl_user", Pattern: "eve", In: 7, Of: 12, From: 3, Least: 2}},
			Counts: map[string]int64{"0": 5, "3": 7}, Samples: []ReadMessage{{Message: "incoming/4XN", Why: "1", Envelope: Addressed{Recipients: []string{"c@d"}, Count: 1}, Header: []string{"Subject: x"}, Text: []string{"hello"}}},
		},
		"watch": &Watched{Sent: 2, Sources: []Value{{Value: "login eve", Count: 2}}, Source: Sending},
		"classify": &Classified{
			Messages: 10, Verdicts: Verdicts{Spam: 5, Ham: 3, Unreadable: 1, Incomplete: 1},
			ByRule: map[string]RuleCount{
				"sender:a@b.c": {Messages: 5, Alone: 3, Lines: map[string]int64{}},
				"body:x":       {Messages: 2, Lines: map[string]int64{"0": 5, "1": 1, "2": 1, "3+": 1}},
			},
			RuleOrder: []string{"sender:a@b.c", "body:x"}, Overlap: [][]int64{{5, 2}, {2, 2}},
			ByHam: map[string]HamCount{"subject:y": {Messages: 2, Alone: 2}}, HamOrder: []string{"subject:y"},
			ByQueue: map[string]Verdicts{"incoming": {Spam: 5, Ham: 3, Unreadable: 1, Incomplete: 1}},
			Left:    []Source{{Kind: "login", Value: "eve", Count: 101, Samples: []string{"incoming.spamfull/4XK"}}},
			Largest: []Source{}, Hit: []string{"eve@chavez"}, HitAll: 1, Rescued: 2, Unread: []string{"incoming.spamfull/4XL: no end"},
			HamSamples: []Sample{{Message: "incoming/4XN", Envelope: Addressed{Sender: "a@b", Recipients: []string{"c@d"}, Count: 3, Bytes: 5}, Subject: "hello", Text: []string{"dear all"}}},
			NearMisses: []Sample{{
				Message: "incoming/4XP", Envelope: Addressed{Recipients: []string{"c@d"}, Count: 1, Login: "u", Client: "h[192.0.2.1]"}, Subject: "pills",
				Rule: "body:x lines:3", RuleLines: 2,
			}},
			Slow: []string{"body:/\\d/"}, List: "abc", Bytes: 1000, Seconds: 0.1,
		},
		"command":      &CommandResult{Name: "disable the account", Exit: 3, OutputTail: "usermod: user 'eve' does not exist"},
		"restart":      &CommandResult{Skipped: true, Why: "saslauthd is not active"},
		"end-sessions": &SessionsEnded{Ended: 2, At: moment},
		"confirm":      &Confirmed{Answer: "yes", By: "ana@laptop", List: "abc"},
		"purge":        &Removed{Matched: 9, Removed: spool.Removed{Deleted: 8, Failed: 1, Failures: []string{"incoming.spamfull/4XM: gone"}}, Left: 3, Stays: map[string]int64{"unreadable": 1, "spam": 2}, Kept: []string{"incoming.spamfull"}},
		"delete":       &Removed{Matched: 5, Removed: spool.Removed{Deleted: 5}},
		"hold":         &Acted{Matched: 7, Done: spool.Done{Done: 5, Gone: 1, Failed: 1, Failures: []string{"deferred/4XM: its name is taken in hold"}}, verb: verbHeld},
		"release":      &Acted{Matched: 5, Done: spool.Done{Done: 5}, Expired: 1, Lapsed: []string{"hold/4XN"}, verb: verbReleased},
		"requeue":      &Acted{Matched: 2, Done: spool.Done{Done: 2}, verb: verbRequeued},
		"export":       &Exported{Acted: Acted{Matched: 9, Done: spool.Done{Done: 5, Gone: 1, Failed: 1, Failures: []string{"deferred/4XM: is not what was exported"}}}, Left: 2, Removed: true},
		"mail":         &Exported{Acted: Acted{Matched: 9, Done: spool.Done{Done: 5, Gone: 1}}, Bytes: 12345, Unreadable: 1, Left: 3},
		"restore": &Restored{Moved: spool.Moved{Restored: 3, Collisions: 1, Failed: 1, ByQueue: map[string]int64{"incoming": 3}, SentMeanwhile: 2, Failures: []string{"incoming.spamfull/4XM: exists"}}, Left: 7, Unreadable: 1,
			Expired: 1, Lapsed: []string{"incoming.spamfull/4XN"}, Canary: &Confirm{Reasons: []string{"of the 50 messages that went first 23 were refused (5xx), such as 4XP (5.1.1)"}, Ham: 5, Spam: 2, List: "canary of abc"}},
		"adopt":   &Aside{Queues: map[spool.Queue]AsideQueue{spool.Hold: {Messages: 7, To: "hold.spamfull.2"}}},
		"putback": &Restored{Moved: spool.Moved{ByQueue: map[string]int64{}}, Left: 1, Kept: []string{"incoming.spamfull"}},
	}
	var b strings.Builder
	all := Names()
	for _, row := range Looks {
		all = append(all, row.Name)
	}
	for _, name := range all {
		r, ok := results[name]
		if !ok {
			t.Errorf("%s: no result here", name)
			continue
		}
		text, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", name, text)
		for _, l := range r.Lines() {
			fmt.Fprintf(&b, "  | %s | %d %s | %s\n", l.Label, l.Number, l.Unit, l.Text)
		}
		row, _ := Lookup(name)
		into := row.Result()
		if err := json.Unmarshal(text, into); err != nil {
			t.Errorf("%s is not read back: %v", name, err)
		}
		again, err := json.MarshalIndent(into, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(text), string(again)); d != "" {
			t.Errorf("%s read back and written: %s", name, d)
		}
	}
	golden(t, "results.golden", b.String())
	if extra := slices.DeleteFunc(slices.Collect(maps.Keys(results)), func(n string) bool { return slices.Contains(all, n) }); len(extra) > 0 {
		t.Errorf("results of no stage: %v", extra)
	}
	empty := &Counts{}
	if got := empty.Lines(); len(got) != 1 || got[0].Text != "are empty" {
		t.Errorf("lines of empty queues: %v", got)
	}
	stopped := &Stopped{}
	if got := stopped.Lines(); got[0].Text != "was stopped already" {
		t.Errorf("lines of a Postfix that was stopped: %v", got)
	}
}

func TestWarn(t *testing.T) {
	if got := (Vars{}).Warn(); got != 500 {
		t.Errorf("unset: got %d, want 500", got)
	}
	if got := (Vars{QueueWarn: 7}).Warn(); got != 7 {
		t.Errorf("set: got %d, want 7", got)
	}
}

func TestInstances(t *testing.T) {
	for text, want := range map[string]string{
		`"postfix-out"`:             "[postfix-out]",
		`["-", "postfix-out"]`:      "[- postfix-out]",
		`""`:                        "[]",
		`null`:                      "[]",
		`[]`:                        "a list of names",
		`5`:                         "a list of names",
		`["a b"]`:                   `"a b" is no name`,
		`["../x"]`:                  "as 'postmulti -l' lists them",
		`["postfix-a","postfix-a"]`: "named twice",
	} {
		var v Vars
		err := json.Unmarshal([]byte(`{"postfix_instances": `+text+`}`), &v)
		if got := fmt.Sprint(v.Instances); err != nil && !strings.Contains(err.Error(), want) || err == nil && got != want {
			t.Errorf("%s: got %s, %v, want %s", text, got, err, want)
		}
	}
}
