package show

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"spoolsweep/remote/wire"
)

func event(index int, stage, kind, data string) wire.Event {
	return wire.Event{Host: "chavez", Index: index, Stage: stage, Kind: kind, Data: json.RawMessage(data)}
}

// play has a host and a printer take in the events.
func play(events ...wire.Event) (*Host, string) {
	var out bytes.Buffer
	h := &Host{Host: "chavez", Stages: []*Stage{}}
	p := &Printer{Out: &out, Err: &out, Width: 7}
	for _, e := range events {
		h.Event(e)
		p.Event(e)
	}
	if err := p.Document(&Document{Hosts: []*Host{h}}); err != nil {
		return nil, err.Error()
	}
	return h, out.String()
}

func TestHostEvents(t *testing.T) {
	h, _ := play(
		event(0, "count", wire.Begin, ""),
		event(0, "count", wire.Result, `{"queues":{"incoming":{"messages":7}}}`),
		event(0, "count", wire.End, `{"status":"ok","seconds":0.5}`),
		event(1, "stop", wire.Begin, ""),
		event(1, "stop", wire.End, `{"status":"ok","changed":true}`),
		event(4, "classify", wire.Result, `{"messages":7,"spam":5,"ham":2}`),
		event(4, "classify", wire.End, `{"status":"waiting","asks":"rules"}`),
		event(-1, "", wire.End, `{"status":"waiting","asks":"rules","number":1}`),
	)
	if h.Status != Waiting || h.Asks == nil || *h.Asks != "rules" || !h.Changed || len(h.Stages) != 3 || h.Error != nil {
		t.Errorf("got %+v, %d stages", h, len(h.Stages))
	}
	// Judged again: what came after is not true any more, what came before is.
	h.Event(event(5, "confirm", wire.Begin, ""))
	h.Event(event(4, "classify", wire.Begin, ""))
	h.Event(event(4, "classify", wire.Result, `{"messages":7,"spam":6,"ham":1}`))
	h.Event(event(-1, "", wire.End, `{"status":"ok"}`))
	var c struct{ Spam int64 }
	if h.Status != OK || h.Asks != nil || len(h.Stages) != 3 || !h.Latest("classify", &c) || c.Spam != 6 || h.Latest("restore", &c) {
		t.Errorf("got %+v, %d stages, spam %d", h, len(h.Stages), c.Spam)
	}
	h.Event(event(0, "count", "from the future", `{`))
	h.Event(event(-1, "", wire.End, `17`))
	if h.Status != OK {
		t.Errorf("status %s after an event that cannot be read", h.Status)
	}
}

// A failure is told once, wherever it comes from.
func TestFailureToldOnce(t *testing.T) {
	for name, events := range map[string][]wire.Event{
		"of a stage": {
			event(1, "stop", wire.Begin, ""),
			event(1, "stop", wire.End, `{"status":"failed","error":"it went wrong","remedy":"try this"}`),
			event(-1, "", wire.End, `{"status":"failed","error":"stop: it went wrong"}`),
		},
		"of the run": {
			event(1, "stop", wire.Begin, ""),
			event(1, "stop", wire.End, `{"status":"ok"}`),
			event(-1, "", wire.End, `{"status":"failed","error":"it went wrong","remedy":"try this"}`),
		},
	} {
		h, out := play(events...)
		if n := strings.Count(out, "it went wrong"); n != 1 || !strings.Contains(out, "try this") || h.Error == nil || h.Status != Failed {
			t.Errorf("%s: told %d times, %+v:\n%s", name, n, h, out)
		}
	}
}

func TestExitStatus(t *testing.T) {
	for statuses, want := range map[string]int{
		"": 0, "ok": 0, "skipped": 0, "ok waiting": 3, "failed": 2, "unreachable": 4, "failed unreachable": 6,
		"failed waiting": 2, "waiting unreachable ok": 4, "failed unreachable waiting": 6,
	} {
		d := new(Document)
		for _, s := range strings.Fields(statuses) {
			d.Hosts = append(d.Hosts, &Host{Status: s})
		}
		d.Finish()
		if got := d.ExitStatus(); got != want {
			t.Errorf("%q: got %d, want %d", statuses, got, want)
		}
	}
}

func TestSummary(t *testing.T) {
	d := &Document{Hosts: []*Host{
		{Host: "b", Status: OK, Stages: []*Stage{
			{Stage: "classify", Result: json.RawMessage(`{"spam":5,"ham":2}`)},
			{Stage: "restore", Result: json.RawMessage(`{"restored":2,"left":5}`)},
		}},
		{Host: "a", Status: Waiting, Result: json.RawMessage(`{"spam":1,"ham":9}`)},
	}}
	d.Finish()
	if want := (Summary{OK: 1, Waiting: 1, Spam: 6, Ham: 11, Restored: 2, Left: 5}); d.Summary != want {
		t.Errorf("got %+v, want %+v", d.Summary, want)
	}
	if d.Hosts[0].Host != "a" {
		t.Error("hosts are not in order")
	}
	if got, want := d.Summary.String(), "1 ok, 1 waiting"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestText(t *testing.T) {
	_, out := play(
		event(0, "count", wire.Result, `{"queues":{"incoming":{"messages":1207},"deferred":{"messages":9}}}`),
		event(1, "stop", wire.Warn, `{"message":"careful \u001b[2J"}`),
		event(4, "classify", wire.Progress, `{"messages":1000,"spam":900,"ham":100}`),
		event(4, "classify", wire.Result, `{"messages":1216,"spam":1000,"ham":216,"rule_order":["raw:x"],"by_rule":{"raw:x":{"messages":1000,"alone":1000}},"sources_left":[{"kind":"login","value":"ana","count":101}]}`),
		event(5, "no such", wire.Result, `{}`),
		event(6, "restore", wire.Result, `17`),
		event(6, "restore", wire.Progress, `{"of":216,"failed":0,"restored":25}`),
		event(-1, "", wire.End, `{"status":"ok"}`),
	)
	const want = `chavez  | count         1,207 messages  incoming
chavez  | count             9 messages  deferred
chavez  | warning: careful \x1b[2J
chavez  | classify  ham 100, messages 1,000, spam 900
chavez  | classify      1,216 messages  in all
chavez  | classify      1,000 messages  spam
chavez  | classify        216 messages  ham
chavez  | classify      1,000 messages  rule: raw:x (alone 1000)
chavez  | classify        101 messages  left among ham: login ana
chavez  | restore: unreadable result: json: cannot unmarshal number into Go value of type stage.Restored
chavez  | done
`
	if out != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	if got, want := numbers([]byte(`{"of":216,"failed":0,"restored":25}`)), "restored 25 of 216"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// As JSON a text is the same, and yet obeyed by no terminal.
func TestJSONSafe(t *testing.T) {
	const evil = "\x1b[2J\u202e\u009b\U000e0041\r grün"
	var out bytes.Buffer
	p := &Printer{Out: &out, Err: &out, JSON: true}
	if err := p.Document(&Document{Command: evil}); err != nil {
		t.Fatal(err)
	}
	for _, r := range out.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%U stands there as it is: %q", r, out.String())
		}
	}
	var d Document
	if err := json.Unmarshal(out.Bytes(), &d); err != nil || d.Command != evil {
		t.Errorf("got %q, %v, want %q", d.Command, err, evil)
	}
}

// A stream has each event once, when it comes, and in the end what no event said.
func TestStream(t *testing.T) {
	var out, stderr bytes.Buffer
	p := &Printer{Out: &out, Err: &stderr, Stream: true, Verbose: true}
	ended := &Host{Host: "chavez", Status: OK, Stages: []*Stage{}}
	for _, e := range []wire.Event{
		event(0, "count", wire.Begin, ""),
		event(0, "count", wire.Result, `{"queues":{"incoming":{"messages":7}}}`),
		event(0, "count", wire.End, `{"status":"ok","seconds":0.5}`),
		event(-1, "", wire.End, `{"status":"ok"}`),
	} {
		ended.Event(e)
		p.Event(e)
	}
	p.Line("chavez", "for people")
	err := p.Document(&Document{Command: "ping", Run: "R", Hosts: []*Host{ended,
		{Host: "peltier", Status: Unreachable, Error: &Failure{Message: "no \x1b[2J route"}},
		{Host: "relay", Status: OK, Result: json.RawMessage(`{"x":1}`)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var e wire.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		got = append(got, strings.TrimSpace(e.Host+" "+e.Stage+" "+e.Kind))
	}
	want := "chavez count begin, chavez count result, chavez count end, chavez  end, peltier  end, relay ping result, relay  end, end"
	if all := strings.Join(got, ", "); all != want || strings.Contains(out.String()+stderr.String(), "\x1b") {
		t.Errorf("got %s\nwant %s\n%s", all, want, out.String())
	}
	if !strings.Contains(stderr.String(), "count begins") || !strings.Contains(stderr.String(), "count ended: ok, after 0.50 s") || !strings.Contains(out.String(), `"unreachable":1`) {
		t.Errorf("stdout:\n%s\nstderr:\n%s", out.String(), stderr.String())
	}
}
