package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// aPlan is the text of a plan for a practice host.
func aPlan(t *testing.T, vars stage.Vars, steps string, more string) string {
	t.Helper()
	return `{"spoolsweep_plan":1,"host":"chavez","name":"test","vars":` + string(data(t, vars)) + `,"steps":` + steps + more + `}`
}

// answer is what the agent did with a plan.
type answer struct {
	status int
	events []wire.Event
	err    string
}

func plan(t *testing.T, do, text string) answer {
	t.Helper()
	var out, say bytes.Buffer
	a := answer{status: runPlan(t.Context(), environment(t), do, strings.NewReader(text), &out, &say)}
	a.err = say.String()
	for line := range bytes.Lines(out.Bytes()) {
		var e wire.Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if e.Host != "chavez" {
			t.Errorf("host %q in %s", e.Host, line)
		}
		a.events = append(a.events, e)
	}
	return a
}

// last is the data of the last event of that stage and kind.
func (a answer) last(t *testing.T, name, kind string, into any) {
	t.Helper()
	var found json.RawMessage
	for _, e := range a.events {
		if e.Stage == name && e.Kind == kind {
			found = e.Data
		}
	}
	if found == nil {
		t.Fatalf("no %s of %s in %+v, %s", kind, cmp.Or(name, "the run"), a.events, a.err)
	}
	if err := json.Unmarshal(found, into); err != nil {
		t.Fatal(err)
	}
}

// id is that of the run.
func (a answer) id(t *testing.T) string {
	t.Helper()
	if len(a.events) == 0 || a.events[len(a.events)-1].Run == "" {
		t.Fatalf("no run in %+v, %s", a.events, a.err)
	}
	return a.events[len(a.events)-1].Run
}

func floodedHost(t *testing.T) (*practice.Host, stage.Vars) {
	t.Helper()
	h, vars := newHost(t)
	vars.QueueWarn = 50
	if err := h.Configure(practice.Options{Rate: 0.001}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.SubmitAll(practice.Incident("chavez", "spam-account", 100, 7)); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Stop(context.Background()) })
	return h, vars
}

const sweepSteps = `[{"stage":"count"},{"stage":"stop"},{"stage":"set-aside"},{"stage":"start"},{"stage":"classify","args":{"spam":{"sasl_user":"spam-account"}}},{"stage":"confirm","args":CONFIRM},{"stage":"restore","args":{"rate":0,"live_max":0}}]`

func sweepWith(confirm string) string { return strings.Replace(sweepSteps, "CONFIRM", confirm, 1) }

// A plan is carried out to its question, which stays open; one that has the answer
// goes to its end.
func TestPlanWaits(t *testing.T) {
	_, vars := floodedHost(t)
	a := plan(t, planRun, aPlan(t, vars, sweepWith(`{}`), ""))
	var end run.Ended
	a.last(t, "", wire.End, &end)
	id := a.id(t)
	next := "spoolsweep resume " + id
	if a.status != 3 || end.Status != "waiting" || end.Asks != "confirm" || end.Remedy != next || !strings.Contains(a.err, next) {
		t.Errorf("status %d, %+v, %s", a.status, end, a.err)
	}
	var found run.Preflight
	a.last(t, "preflight", wire.Result, &found)
	if len(found.Aside) == 0 {
		t.Errorf("preflight: %+v", found)
	}
	for i, e := range a.events[1:] { // as any controller has them
		if e.Run != id || e.Seq != int64(i+1) || e.Time.IsZero() {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	info, err := environment(t).Info(vars, id)
	if err != nil || info.Host != "chavez" || len(info.Hosts) != 1 || info.Began.IsZero() || info.Controller != "" {
		t.Errorf("the record: %+v, %v", info, err)
	}
	var c stage.Confirm
	var ask run.AskRecord
	a.last(t, "confirm", wire.Ask, &ask)
	if err := json.Unmarshal(ask.Data, &c); err != nil || c.Ham == 0 {
		t.Fatalf("%s: %v", ask.Data, err)
	}
}

// With the number that goes nothing is asked, with another one it waits, also
// under yes.
func TestPlanExpects(t *testing.T) {
	h, vars := floodedHost(t)
	a := plan(t, planRun, aPlan(t, vars, sweepWith(`{"expect":1}`), `,"yes":true`))
	var ask run.AskRecord
	a.last(t, "confirm", wire.Ask, &ask)
	var c stage.Confirm
	if err := json.Unmarshal(ask.Data, &c); err != nil {
		t.Fatal(err)
	}
	if a.status != 3 || !strings.Contains(strings.Join(c.Reasons, "; "), "not the 1 that were expected") {
		t.Errorf("status %d, %+v, %s", a.status, c, a.err)
	}
	// The same flood once more.
	other, vars := floodedHost(t)
	a = plan(t, planRun, aPlan(t, vars, sweepWith(`{"expect":`+string(data(t, c.Ham))+`}`), ""))
	var restored stage.Restored
	a.last(t, "restore", wire.Result, &restored)
	if a.status != 0 || a.err != "" || restored.Restored != c.Ham {
		t.Errorf("status %d, %+v, %s; want %d restored", a.status, restored, a.err, c.Ham)
	}
	for _, h := range []*practice.Host{h, other} {
		if _, up := h.Running(); !up {
			t.Errorf("%s: Postfix is not up", h.Dir)
		}
	}
}

// A plan with the id of a run is carried out once, and whoever sends it again is
// told how it went.
func TestPlanOnce(t *testing.T) {
	_, vars := floodedHost(t)
	text := aPlan(t, vars, sweepWith(`{}`), `,"run":"`+runID+`"`)
	first := plan(t, planRun, text)
	again := plan(t, planRun, text)
	if first.status != 3 || again.status != 3 || again.id(t) != runID || len(again.events) != len(first.events) { // where it stands instead of preflight
		t.Errorf("first %d with %d events, then %d with %d: %s", first.status, len(first.events), again.status, len(again.events), again.err)
	}
	if entries, err := os.ReadDir(filepath.Join(vars.StateDirectory, "runs")); err != nil || len(entries) != 1 {
		t.Errorf("records: %v, %v", entries, err)
	}
}

// Check looks, and leaves nothing.
func TestPlanCheck(t *testing.T) {
	h, vars := floodedHost(t)
	a := plan(t, planCheck, aPlan(t, vars, sweepWith(`{}`), ""))
	var counts stage.Counts
	a.last(t, "count", wire.Result, &counts)
	var c stage.Classified
	a.last(t, "classify", wire.Result, &c)
	// What moves on just then is counted twice, or not at all.
	all := func(n int64) bool { return n >= 80 && n <= 120 }
	// deferred is not full, and stays.
	if a.status != 0 || !all(counts.Messages) || c.Spam == 0 || c.Ham == 0 || c.ByQueue["deferred"].Spam+c.ByQueue["deferred"].Ham > 0 {
		t.Errorf("status %d, counts %+v, classified %+v, %s", a.status, counts, c, a.err)
	}
	for _, e := range a.events {
		if e.Stage == "stop" || e.Stage == "restore" {
			t.Errorf("not only looked: %+v", e)
		}
	}
	if left, err := os.ReadDir(h.State()); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
	// What only looks anyway needs no preflight.
	a = plan(t, planCheck, aPlan(t, vars, `[{"stage":"count"}]`, ""))
	a.last(t, "count", wire.Result, &counts)
	if a.status != 0 || !all(counts.Messages) || len(a.events) != 2 {
		t.Errorf("count alone: status %d, %+v, %s", a.status, a.events, a.err)
	}
	// Where no queue is full the run would end there.
	vars.QueueWarn = 1000
	a = plan(t, planCheck, aPlan(t, vars, sweepWith(`{}`), ""))
	for _, e := range a.events {
		if e.Stage == "classify" {
			t.Errorf("judged what would not be set aside: %+v", e)
		}
	}
}

func TestPlanRefused(t *testing.T) {
	_, vars := newHost(t)
	good := aPlan(t, vars, `[{"stage":"count"}]`, "")
	for _, row := range []struct {
		name, text string
		status     int
		says       string
	}{
		{"nothing", "", exitUsage, "unexpected end of JSON input"},
		{"no JSON", "name: x\n", exitUsage, "invalid character"},
		{"no plan", `{"host":"chavez"}`, exitUsage, "spoolsweep_plan is 0, and this agent takes 1"},
		{"a newer plan", `{"spoolsweep_plan":2,"colour":"red"}`, exitUsage, "spoolsweep_plan is 2"},
		{"two plans", good + good, exitUsage, "invalid character"},
		{"an unknown key", aPlan(t, vars, `[{"stage":"count"}]`, `,"dry":true`), exitUsage, `unknown field "dry"`},
		{"an unknown key of a stage", aPlan(t, vars, `[{"stage":"count","dry":true}]`, ""), exitUsage, `unknown field "dry"`},
		{"no host", `{"spoolsweep_plan":1,"steps":[{"stage":"count"}]}`, exitUsage, "names no host"},
		{"too long", good + strings.Repeat(" ", wire.MaxFrame), exitUsage, "longer than"},
		{"no stages", aPlan(t, vars, `[]`, ""), exitFailed, "no stages"},
		{"an unknown stage", aPlan(t, vars, `[{"stage":"shred"}]`, ""), exitFailed, `knows no "shred"`},
		{"an order that makes no sense", aPlan(t, vars, `[{"stage":"stop"}]`, ""), exitFailed, "left stopped"},
		{"an unknown argument", aPlan(t, vars, `[{"stage":"count","args":{"wran":1}}]`, ""), exitFailed, `"wran"`},
		{"what a terminal obeys", aPlan(t, vars, `[{"stage":"shred\u001b[2J"}]`, ""), exitFailed, `shred`},
		{"no id of a run", aPlan(t, vars, `[{"stage":"count"}]`, `,"run":"../../etc"`), exitFailed, "a run id looks like"},
	} {
		a := plan(t, planRun, row.text)
		if a.status != row.status || !strings.Contains(a.err, row.says) {
			t.Errorf("%s: status %d, want %d; %s", row.name, a.status, row.status, a.err)
		}
		if strings.Contains(a.err, "\x1b") {
			t.Errorf("%s: %q", row.name, a.err)
		}
		if row.status == exitFailed {
			var end run.Ended
			if a.last(t, "", wire.End, &end); end.Status != "failed" || !strings.Contains(end.Error, row.says) {
				t.Errorf("%s: the last event is %+v", row.name, end)
			}
		}
	}
	if left, err := os.ReadDir(vars.StateDirectory); err != nil && !os.IsNotExist(err) || len(left) > 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}
