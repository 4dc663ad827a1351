package run

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool/stage"
)

func step(name, args string, change func(s *stage.Step)) stage.Step {
	s := stage.Step{Stage: name, Args: json.RawMessage(args)}
	if change != nil {
		change(&s)
	}
	return s
}

// Steps are left out by when and once, and that is told.
func TestLeftOut(t *testing.T) {
	h := newHost(t, 0)
	touch := func(name string) string { return `{"run": "touch ` + h.file(name) + `"}` }
	once := func(s *stage.Step) { s.Once = true }
	info := h.info([]stage.Step{
		step("command", touch("when"), func(s *stage.Step) { s.Skip = true }),
		step("command", touch("once"), once),
		step("stop", `{}`, once), step("set-aside", `{}`, once), step("start", `{}`, once),
		step("command", touch("done"), nil),
	})
	info.Hosts = []string{"peltier", "chavez"}
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	h.rest(Finished)
	for name, want := range map[string]bool{"when": false, "once": false, "done": true} {
		if _, err := os.Stat(h.file(name)); (err == nil) != want {
			t.Errorf("%s: done is %t, want %t", name, err == nil, want)
		}
	}
	for text, want := range map[string]int{`"skipped"`: 5, "its when is false": 1, "it is done once, on peltier": 4} {
		n := 0
		for _, e := range h.events() {
			if e.Kind == evEnd && strings.Contains(string(e.Data), text) {
				n++
			}
		}
		if n != want {
			t.Errorf("%q is told %d times, want %d", text, n, want)
		}
	}
}

// What no_log hides is in no file of the run but its plan.
func TestNoLog(t *testing.T) {
	h := newHost(t, 0)
	const secret = "hush-5309"
	args := func(end string) string { return `{"run": "echo ` + secret + `; ` + end + `", "for": ["ann"]}` }
	hidden := func(s *stage.Step) { s.NoLog = true }
	h.begin([]stage.Step{step("command", args("exit 3;"), hidden), step("command", strings.Replace(args("exit 4;"), `"for"`, `"require_source_stopped": true, "for"`, 1), hidden)})
	h.rest(Failed)
	for _, name := range []string{eventsName, "journal", "worker.log"} {
		text, err := os.ReadFile(filepath.Join(h.State(), "runs", runID, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), secret) {
			t.Errorf("%s tells the secret:\n%s", name, text)
		}
	}
	if r := result[stage.CommandResult](h, "command"); r.Exit != 4 || r.OutputTail != "" {
		t.Errorf("got %+v", r)
	}
	if !h.told(evWarn, "source not stopped: exit status 3") {
		t.Error("the failure is not told at all")
	}
}

// A stage that comes to its timeout fails the run, one of the run's commands
// does not.
func TestTimeout(t *testing.T) {
	h := newHost(t, 0)
	short := func(s *stage.Step) { s.Timeout = 200 * time.Millisecond }
	h.begin([]stage.Step{step("command", `{"run": "sleep 1000"}`, short), step("command", `{"run": "touch `+h.file("after")+`"}`, nil)})
	h.rest(Finished)
	if _, err := os.Stat(h.file("after")); err != nil || !h.told(evWarn, "ended at its time limit") {
		t.Errorf("after a command that came to its timeout: %v", err)
	}
}

func TestTimeoutOfRestore(t *testing.T) {
	h := newHost(t, 300)
	steps := plan(rules)
	for i := range steps {
		if steps[i].Stage == "restore" {
			steps[i].Timeout = 2 * time.Second // not a busy machine's first batch, nor half of them
			steps[i].Args = json.RawMessage(`{"rate":20}`)
		}
	}
	h.begin(steps)
	s := h.rest(Failed)
	if !strings.Contains(s.Error, "not done within its timeout of 2s") || !strings.Contains(s.Remedy, "spoolsweep resume "+runID) {
		t.Errorf("failed with %q", s.Error)
	}
	r := result[stage.Restored](h, "restore")
	if r.Restored == 0 || r.Left == 0 {
		t.Errorf("got %+v", r)
	}
	h.audited()
	h.resume(func(q *ResumeRequest) {
		steps[6].Timeout, steps[6].Args = 0, json.RawMessage(`{"rate":0,"live_max":0}`)
		q.Steps = steps
	})
	h.rest(Finished)
	h.swept()
}

// A command on the controller is the run's own controller's to answer.
func TestControllerAnswers(t *testing.T) {
	h := newHost(t, 0)
	h.begin([]stage.Step{step("command", `{"run": "touch `+h.file("here")+`;", "for": ["ann"], "on": "controller"}`, nil), step("count", `{}`, nil)})
	s := h.rest(Waiting)
	if s.Ask.Kind != "controller" || strings.Contains(string(s.Ask.Data), "touch") {
		t.Fatalf("asks %+v", s.Ask)
	}
	value := `{"exit":0,"output_tail":"disabled"}`
	err := h.refused(func(q *ResumeRequest) { answer(1, "controller", value)(q); q.Controller = "bob@laptop/2" })
	if !strings.Contains(err.Error(), "taken over by ana@laptop/1") {
		t.Errorf("refused with %v", err)
	}
	if err := h.refused(answer(1, "confirm", "abc")); !strings.Contains(err.Error(), "is about controller") {
		t.Errorf("refused with %v", err)
	}
	// Another laptop takes the run over, and is asked anew.
	h.resume(func(q *ResumeRequest) { q.Controller = "bob@laptop/2" })
	h.await("the question again", func() bool { s = h.state(); return s.Phase == Waiting && s.Ask.Number == 2 })
	h.resume(func(q *ResumeRequest) { answer(2, "controller", value)(q); q.Controller = "bob@laptop/2" })
	h.rest(Finished)
	if r := result[stage.CommandResult](h, "command"); r.OutputTail != "disabled" || r.Exit != 0 {
		t.Errorf("got %+v", r)
	}
	if _, err := os.Stat(h.file("here")); err == nil {
		t.Error("it was run on the host")
	}
	late := h.refused(answer(2, "controller", value))
	var answered *AnsweredError
	if !errors.As(late, &answered) {
		t.Errorf("a late answer: %v", late)
	}
}

// require_source_stopped leaves all as it is.
func TestSourceRequired(t *testing.T) {
	h := newHost(t, 400)
	before := h.audited()
	steps := append([]stage.Step{step("command", `{"run": "echo locked; exit 3;", "for": ["ann"], "require_source_stopped": true}`, nil)}, plan(rules)...)
	h.begin(steps)
	s := h.rest(Failed)
	if !strings.Contains(s.Error, "exit status 3: locked, and require_source_stopped is set: nothing was stopped") {
		t.Errorf("failed with %q", s.Error)
	}
	if after := h.audited(); after.Elsewhere("ham", settled) != nil || len(after.Messages) != len(before.Messages) || s.Aside != 0 || h.endedStages()["stop"] != 0 {
		t.Error("it was changed all the same")
	}
	// Without it mail flows, and the failure is told.
	steps[0].Args = json.RawMessage(`{"run": "echo locked; exit 3;", "for": ["ann"]}`)
	h.resume(func(q *ResumeRequest) { q.Steps = steps })
	h.rest(Finished)
	h.swept()
	if !h.told(evWarn, "source not stopped: exit status 3: locked; the run goes on") {
		t.Error("the failure is not told")
	}
}
