package run

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

func (h *host) cancel() {
	h.t.Helper()
	if err := h.Cancel(&CancelRequest{Vars: h.vars, Run: runID, By: "admin@laptop"}); err != nil {
		h.t.Fatal(err)
	}
}

// cancelled looks how a cancelled run tells of it, and that Postfix runs.
func (h *host) cancelled(stage string) *State {
	h.t.Helper()
	s := h.rest(Failed)
	remedy := "spoolsweep resume " + runID + " goes on there"
	if stage == "hold" {
		remedy = "spoolsweep release " + runID
	}
	if !strings.HasPrefix(s.Error, "cancelled by admin@laptop at ") || !strings.HasPrefix(s.Remedy, remedy) || s.Down {
		h.t.Errorf("state %+v", s)
	}
	if !h.told(evEnd, stage+": cancelled by admin@laptop") {
		h.t.Errorf("no end of the run tells of it: %v", h.events())
	}
	if _, running := h.Running(); !running {
		h.t.Error("Postfix does not run")
	}
	return s
}

// Between two batches: what has moved has moved, the rest is aside, and resume
// brings it to the same end.
func TestCancelInRestore(t *testing.T) {
	h := newHost(t, flood)
	steps := plan(rules)
	steps[6].Args = json.RawMessage(`{"rate":20,"live_max":0}`)
	h.begin(steps)
	h.await("a batch of the restore", h.batches)
	h.cancel()
	s := h.cancelled("restore")
	_, ham := spamAndHam(h)
	if r := result[stage.Restored](h, "restore"); r.Restored == 0 || r.Restored >= ham {
		t.Errorf("cancelled too late for this test: %+v", r)
	}
	if s.Next != 6 {
		t.Errorf("goes on at stage %d", s.Next)
	}
	steps[6].Args = json.RawMessage(`{"rate":0,"live_max":0}`)
	h.resume(func(q *ResumeRequest) { q.Steps = steps })
	h.rest(Finished)
	h.swept()
}

// Never between stop and start: the section is gone through to its end, and
// the run ends behind it.
func TestCancelInSection(t *testing.T) {
	h := newHost(t, flood)
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	h.cancel()
	h.letGo("stop")
	s := h.cancelled("classify")
	h.allAside()
	if s.Next != 4 {
		t.Errorf("goes on at stage %d", s.Next)
	}
	h.resume(func(*ResumeRequest) {})
	h.rest(Finished)
	h.swept()
}

// A run that waits has nobody to cancel. Whoever answers it by hand wants it to
// go on; a turn that is given by a program may have crossed with the cancel, and
// nothing is stopped.
func TestCancelWhileWaiting(t *testing.T) {
	h := newHost(t, flood)
	info := h.info(plan("{}"))
	info.Slots = true
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	h.rest(Waiting)
	h.cancel()
	s := h.state()
	if s.Phase != Waiting || s.Ask.Kind != "slot" {
		t.Fatalf("state %+v", s)
	}
	give := func() {
		h.resume(func(q *ResumeRequest) { answer(h.state().Ask.Number, "slot", "")(q); q.Controller = info.Controller })
	}
	give()
	s = h.cancelled("stop")
	if n := h.endedStages()["stop"]; n != 0 || s.Next != 1 {
		t.Errorf("next %d, %d ends of stop", s.Next, n)
	}
	h.resume(func(q *ResumeRequest) { q.Controller = info.Controller })
	h.rest(Waiting)
	give()
	if s = h.rest(Waiting); s.Ask.Kind != "rules" {
		t.Fatalf("state %+v", s)
	}
	h.cancel()
	h.resume(func(q *ResumeRequest) { q.Steps = plan(rules) })
	h.rest(Finished)
	h.swept()
}

// An older controller is told by whom the run was taken over.
func TestTakenOver(t *testing.T) {
	h := newHost(t, flood)
	info := h.info(plan(rules))
	info.Slots = true
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	h.rest(Waiting)
	h.resume(func(q *ResumeRequest) { q.Controller = "colleague@other/x" })
	s := h.rest(Waiting)
	err := h.refused(func(q *ResumeRequest) { answer(s.Ask.Number, "slot", "")(q); q.Controller = info.Controller })
	if !errors.Is(err, ErrTakenOver) || !strings.Contains(err.Error(), "colleague@other/x") || spool.RemedyOf(err) == "" {
		t.Errorf("got %v", err)
	}
	h.resume(func(q *ResumeRequest) { answer(s.Ask.Number, "slot", "")(q); q.Controller = "colleague@other/x" })
	h.rest(Finished)
	h.swept()
}

// Who merely has a run that was broken off go on, is named for what moves then.
func TestHandsOfAResume(t *testing.T) {
	h := newHost(t, flood)
	steps := plan(rules)
	steps[6].Args = json.RawMessage(`{"rate":20,"live_max":0}`)
	h.begin(steps)
	h.await("a batch of the restore", h.batches)
	h.kill("worker")
	h.rest(Broken)
	h.resume(func(q *ResumeRequest) { q.By = "colleague@other" })
	h.rest(Finished)
	h.swept()
	all, _ := h.balanced()
	by := map[string]int{}
	for _, e := range all {
		if e.Fate == stage.FateRestored {
			by[e.By]++
		}
	}
	if by["colleague@other"] == 0 || by[h.state().Who] == 0 {
		t.Errorf("restored by %v", by)
	}
}
