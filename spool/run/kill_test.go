package run

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// Whoever dies between stop and start, and wherever: Postfix is started, the
// run comes to its end, and every message is where it belongs.
func TestKilledInSection(t *testing.T) {
	for _, tt := range []struct {
		name string
		held string // the command in which they are killed
		kill []string
		// resumed says that nobody is left to go on by himself.
		resumed bool
	}{
		{"section in stop", "stop", []string{"section"}, false},
		{"section in start", "start", []string{"section"}, false},
		{"worker in stop", "stop", []string{"worker"}, true},
		{"worker in start", "start", []string{"worker"}, true},
		{"both in stop", "stop", []string{"worker", "section"}, true},
		{"both in start", "start", []string{"worker", "section"}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, flood)
			h.hold(tt.held)
			h.begin(plan(rules))
			h.awaitHeld(tt.held)
			for _, role := range tt.kill {
				h.kill(role)
			}
			both := len(tt.kill) == 2
			if both {
				// A process that ends is gone from the table before its locks are.
				h.await("a run that is broken", func() bool { return h.state().Phase == Broken })
				if s := h.state(); !s.Down {
					t.Error("not known to be down")
				}
				h.mustResumeFirst()
			} else if s := h.state(); s.Phase != Working {
				t.Errorf("phase %s while one of the two lives", s.Phase)
			}
			h.letGo(tt.held)
			if tt.resumed {
				if !both {
					// The section alone comes to its end, and starts Postfix.
					if s := h.rest(Broken); s.Down || s.Next != 4 {
						t.Errorf("after the section alone: down %t, next %d", s.Down, s.Next)
					}
					h.allAside()
				}
				h.resume(nil)
			}
			h.rest(Finished)
			h.swept()
			h.inheritsNothing()
			h.noFresh()
			if got := h.endedStages(); got["set-aside"] != 1 || got["start"] != 1 || got["restore"] != 1 {
				t.Errorf("stages that ended: %v", got)
			}
			if aside := result[stage.Aside](h, "set-aside"); len(aside.Queues) == 0 {
				t.Error("set-aside has no result")
			}
			if slices.Contains(tt.kill, "section") && !h.told(evWarn, "between stop and start: the queues are set aside and Postfix runs") {
				t.Error("nobody is told that a section died")
			}
		})
	}
}

// The section, or who settles, died when the journal had the start and nobody had
// been told: it is told by the next, and nothing is stopped again.
func TestDiedBehindTheStart(t *testing.T) {
	h := newHost(t, flood)
	info := h.info(plan(rules))
	info.Yes = false
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	h.rest(Waiting)
	master, _ := h.Running()
	h.cut("events.jsonl", `"stage":"start","index":3,"event":"result"`, false)
	h.cut("journal", " started ", true)
	h.resume(nil)
	if s := h.rest(Waiting); s.Ask == nil || s.Ask.Kind != "confirm" {
		t.Errorf("asks %+v, want confirm", s.Ask)
	}
	if now, running := h.Running(); !running || now != master {
		t.Errorf("Postfix is process %d, was %d", now, master)
	}
	h.allAside()
	if s := result[stage.Started](h, "start"); s.At.IsZero() || s.Master != master {
		t.Errorf("start has the result %+v, want master %d", s, master)
	}
	if aside := result[stage.Aside](h, "set-aside"); len(aside.Queues) == 0 {
		t.Error("set-aside has no result")
	}
	if got := h.endedStages(); got["stop"] != 1 || got["set-aside"] != 1 || got["start"] != 1 || got["classify"] != 1 {
		t.Errorf("stages that ended: %v", got)
	}
}

// cut leaves of a file of the record what was written before a line with the text,
// or that line too.
func (h *host) cut(name, text string, with bool) {
	h.t.Helper()
	path := h.State() + "/runs/" + runID + "/" + name
	all, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	at := strings.Index(string(all), text)
	if at < 0 {
		h.t.Fatalf("%s has no %q", name, text)
	}
	if with {
		at += strings.IndexByte(string(all[at:]), '\n') + 1
	} else {
		at = strings.LastIndexByte(string(all[:at]), '\n') + 1
	}
	if err := os.WriteFile(path, all[:at], 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// mustResumeFirst looks that no other run begins while this one is down.
func (h *host) mustResumeFirst() {
	h.t.Helper()
	other := h.info(plan(rules))
	other.Run = "20261123T231501Z-zz99"
	if err := h.Begin(h.t.Context(), other); !strings.Contains(spool.RemedyOf(err), "spoolsweep resume "+runID) {
		h.t.Errorf("a run beside one that was left down: got %v", err)
	}
	f, err := h.Preflight(h.t.Context(), h.vars, plan(rules))
	if err != nil || !slices.Contains(f.Problems, Problem{"run " + runID + " was left between stop and start", "spoolsweep resume " + runID}) {
		h.t.Errorf("preflight: %+v, %v", f, err)
	}
}

// New rules for a run that was left down: it is led out of it first, and then
// judged by them; so it is with a put back.
func TestNewPlanWhileDown(t *testing.T) {
	for name, change := range map[string]func(q *ResumeRequest){
		"rules":   func(q *ResumeRequest) { q.Steps = plan(someRules); q.Steps[5].Args = []byte(`{"max_source":89}`) },
		"putback": func(q *ResumeRequest) { h := flood; putback(h, true)(q) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, flood)
			h.hold("start")
			h.begin(plan(rules))
			h.awaitHeld("start")
			h.kill("worker")
			h.kill("section")
			h.letGo("start")
			// What lies in the section is not changed any more.
			err := h.refused(func(q *ResumeRequest) { q.Steps = plan(rules); q.Steps[2].Args = []byte(`{"queues":"hold"}`) })
			if !strings.Contains(spool.RemedyOf(err), "begin a new run") {
				t.Errorf("another set-aside: got %v", err)
			}
			h.resume(change)
			if name == "rules" {
				if s := h.rest(Waiting); s.Ask.Kind != "confirm" {
					t.Errorf("asks %s, want confirm", s.Ask.Kind)
				}
				h.allAside()
				return
			}
			h.rest(Finished)
			a := h.audited()
			for _, label := range []practice.Label{practice.Spam, practice.Ham} {
				if left := a.Elsewhere(label, settled); len(left) > 0 {
					t.Errorf("%d %s messages did not go back: %s", len(left), label, left[0])
				}
			}
			if aside := result[stage.Aside](h, "set-aside"); len(aside.Queues) == 0 {
				t.Error("set-aside has no result")
			}
		})
	}
}

// putback appends that stage, as the command does.
func putback(expect int, spam bool) func(q *ResumeRequest) {
	return func(q *ResumeRequest) {
		n := stage.Number(expect)
		args, err := json.Marshal(stage.PutbackArgs{IncludeSpam: spam, Expect: &n})
		if err != nil {
			panic(err)
		}
		q.Steps = append(plan(rules), stage.Step{Stage: "putback", Args: args})
		at := len(q.Steps) - 1
		q.At = &at
	}
}

// A section that cannot even begin is a failure that says so, not one to be
// tried for ever.
func TestSectionDoesNotBegin(t *testing.T) {
	h := newHost(t, flood)
	if err := os.WriteFile(h.file("broken"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.begin(plan(rules))
	s := h.rest(Failed)
	if !strings.Contains(s.Error, "the section") || !strings.Contains(s.Error, "worker.log") {
		t.Errorf("error %q", s.Error)
	}
	if !h.told(evEnd, "postconf: a test broke it") {
		t.Error("the reason is not told")
	}
	h.noFresh()
	h.audited()
	if err := os.Remove(h.file("broken")); err != nil {
		t.Fatal(err)
	}
	h.resume(nil)
	h.rest(Finished)
	h.swept()
}

// A set-aside that fails leaves Postfix started; resume does the section again,
// from its stop.
func TestSetAsideFails(t *testing.T) {
	h := newHost(t, flood)
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	// Somebody moves a queue away behind our back.
	if err := os.Rename(h.Spool("incoming"), h.Spool("incoming.mine")); err != nil {
		t.Fatal(err)
	}
	h.letGo("stop")
	s := h.rest(Failed)
	if !strings.Contains(s.Error, "incoming") {
		t.Errorf("error %q", s.Error)
	}
	if _, running := h.Running(); !running {
		t.Fatal("Postfix does not run")
	}
	if s.Down {
		t.Error("said to be down")
	}
	// He brings it back, and with it what came in meanwhile: nothing here.
	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(h.Spool("incoming")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Rename(h.Spool("incoming.mine"), h.Spool("incoming")); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.resume(nil)
	h.rest(Finished)
	h.swept()
	if got := h.endedStages(); got["stop"] != 2 || got["set-aside"] != 1 {
		t.Errorf("stages that ended: %v", got)
	}
}

// A worker that dies in the middle of a restore, twice: nothing is moved twice,
// and the sum is that of all tries.
func TestKilledInRestore(t *testing.T) {
	h := newHost(t, flood)
	steps := plan(rules)
	steps[6].Args = []byte(`{"rate":20,"live_max":0}`)
	h.begin(steps)
	for range 2 {
		h.await("a restore that works", h.batches)
		h.kill("worker")
		s := h.rest(Broken)
		if s.Next != 6 || s.Down {
			t.Errorf("after the kill: next %d, down %t", s.Next, s.Down)
		}
		a := h.audited()
		if a.Count(practice.Spam)["incoming"] != 0 {
			t.Error("spam went back")
		}
		h.resume(nil)
	}
	h.rest(Finished)
	h.swept()
	if r := result[stage.Restored](h, "restore"); r.Restored != 75 || r.Left != 225 {
		t.Errorf("restored %d, left %d, want 75 and 225", r.Restored, r.Left)
	}
	if got := h.endedStages(); got["classify"] != 1 || got["confirm"] != 1 {
		t.Errorf("stages that ended: %v", got)
	}
}

// batches says whether a worker lives and some mail is back, but not all. While the
// queues are exchanged it looks like that, too.
func (h *host) batches() bool {
	h.t.Helper()
	if h.state().Next != 6 {
		return false
	}
	a, err := h.Audit()
	if err != nil {
		h.t.Fatal(err)
	}
	n := len(a.Elsewhere(practice.Ham, practice.Place.Aside))
	return n > 0 && n < 75 && len(h.processes("worker")) == 1
}

func TestPutback(t *testing.T) {
	h := newHost(t, flood)
	h.begin(plan(rules))
	h.rest(Finished)

	p, err := h.Preview(t.Context(), h.vars, runID)
	if err != nil || p.Going != 0 || p.All != 225 || p.ByKind["spam"] != 225 {
		t.Fatalf("preview: %+v, %v", p, err)
	}
	// Not the number that was counted: nothing moves, and it says so.
	h.resume(putback(224, true))
	if s := h.rest(Failed); !strings.Contains(s.Error, "225 messages would go, not the 224 that were expected: nothing was moved") {
		t.Errorf("error %q", s.Error)
	}
	h.swept()
	// Without the spam nothing goes.
	h.resume(putback(0, false))
	if s := h.rest(Finished); s.Aside != 225 {
		t.Errorf("aside: %d, want 225", s.Aside)
	}
	h.swept()
	// It dies in the middle; what was agreed on holds for the rest.
	h.resume(func(q *ResumeRequest) {
		putback(225, true)(q)
		q.Steps[8].Args = []byte(`{"include_spam":true,"expect":225,"rate":40,"live_max":0}`)
	})
	h.await("a part of it", func() bool {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		n := len(a.Elsewhere(practice.Spam, practice.Place.Aside))
		return n > 0 && n < 225
	})
	h.kill("worker")
	h.rest(Broken)
	h.resume(nil)
	s := h.rest(Finished)
	if s.Aside != 0 {
		t.Errorf("aside: %d, want 0", s.Aside)
	}
	a := h.audited()
	for _, label := range []practice.Label{practice.Spam, practice.Ham} {
		if left := a.Elsewhere(label, settled); len(left) > 0 {
			t.Errorf("%d %s messages did not go back: %s", len(left), label, left[0])
		}
	}
	if r := result[stage.Restored](h, "putback"); r.Restored != 225 || r.Left != 0 || len(r.Kept) > 0 {
		t.Errorf("put back %+v, want 225 and nothing left", r)
	}
	if _, err := os.Stat(h.Spool("incoming.spamfull")); !os.IsNotExist(err) {
		t.Errorf("incoming.spamfull: %v", err)
	}
}

// A confirm was answered and its worker died at once: the answer holds, and
// nobody is asked again.
func TestKilledAfterAnswer(t *testing.T) {
	h := newHost(t, flood)
	info := h.info(plan(rules))
	info.Yes = false
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	h.rest(Waiting)
	list := result[stage.Classified](h, "classify").List
	executable := h.Executable
	h.Executable = "/bin/false" // a worker that dies at once
	h.resume(answer(1, "confirm", list))
	s := h.rest(Broken)
	h.Executable = executable
	if s.Ask != nil || len(s.History) != 1 {
		t.Errorf("state: %+v", s)
	}
	var late *AnsweredError
	if err := h.refused(answer(1, "confirm", list)); !errors.As(err, &late) || late.Before == nil {
		t.Errorf("a second answer: got %v", err)
	}
	// And once more in the stage itself, after it began.
	h.journal(kindBegin, stageRecord{Index: 5})
	h.resume(nil)
	h.rest(Finished)
	h.swept()
	if c := result[stage.Confirmed](h, "confirm"); c.By != "bob@laptop" {
		t.Errorf("confirmed by %s", c.By)
	}
}

// journal appends a record, as a process that died right after it.
func (h *host) journal(kind string, data any) {
	h.t.Helper()
	j, _, err := spool.OpenJournal(h.State()+"/runs/"+runID, "test")
	if err != nil {
		h.t.Fatal(err)
	}
	defer j.Close()
	if err := j.Write(kind, data); err != nil {
		h.t.Fatal(err)
	}
}
