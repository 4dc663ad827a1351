package run

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

func (h *host) purge(expect int64) error {
	h.t.Helper()
	info, err := h.Info(h.vars, runID)
	if err != nil {
		h.t.Fatal(err)
	}
	steps := info.Steps
	if steps[len(steps)-1].Stage == "purge" {
		steps = steps[:len(steps)-1]
	}
	at := len(steps)
	q := h.request()
	q.Steps, q.At = append(steps, stage.Step{Stage: "purge", Args: json.RawMessage(fmt.Sprintf(`{"expect":%d}`, expect))}), &at
	return h.Resume(h.t.Context(), q)
}

// missing are the labels of the messages that stand nowhere.
func (h *host) missing() (spam, ham int64) {
	h.t.Helper()
	a, err := h.Audit()
	if err != nil {
		h.t.Fatal(err)
	}
	if d := a.Twice(); len(d)+len(a.Unknown)+len(a.Broken) > 0 {
		h.t.Fatalf("twice %v, unknown %v, broken %v", d, a.Unknown, a.Broken)
	}
	for _, m := range a.Messages {
		if len(m.Places) == 0 && m.Label == practice.Spam {
			spam++
		} else if len(m.Places) == 0 {
			ham++
		}
	}
	return spam, ham
}

// A purge is only of a run that has come to its end, and of what was confirmed.
func TestPurgeNeedsAnEnd(t *testing.T) {
	h := newHost(t, flood)
	h.begin(plan("{}"))
	h.rest(Waiting) // for rules
	for range 2 {   // the second time after a run that failed to be purged
		if err := h.purge(0); err == nil || !strings.Contains(err.Error(), "is not finished") || !strings.Contains(spool.RemedyOf(err), "resume "+runID) {
			t.Errorf("got %v", err)
		}
	}
	step := stage.Step{Stage: "purge"}
	if r, err := h.Removal(t.Context(), h.vars, runID, step); err == nil || !strings.Contains(err.Error(), "is not finished") {
		t.Errorf("preview: %+v, %v", r, err)
	}
	h.audited()
	h.resume(func(q *ResumeRequest) { q.Steps = plan(rules) })
	h.rest(Finished)
	spam, ham := spamAndHam(h)
	r, err := h.Removal(t.Context(), h.vars, runID, step)
	if err != nil || r.Matched != spam || len(r.Stays) > 0 {
		t.Fatalf("preview: %+v, %v, want %d spam", r, err, spam)
	}
	// Another number: the run has failed, and has lost nothing.
	if err := h.purge(spam - 1); err != nil {
		t.Fatal(err)
	}
	if s := h.rest(Failed); !strings.Contains(s.Error, "nothing was deleted") {
		t.Errorf("error %q", s.Error)
	}
	h.swept()
	if err := h.purge(spam); err != nil {
		t.Fatal(err)
	}
	h.rest(Finished)
	if s, m := h.missing(); s != spam || m != 0 {
		t.Errorf("missing %d spam and %d ham, want %d and 0 of %d", s, m, spam, ham)
	}
	if got := result[stage.Removed](h, "purge"); got.Matched != spam || got.Deleted != spam || got.Left != 0 {
		t.Errorf("result %+v", got)
	}
	for _, s := range []stage.Step{{Stage: "restore"}, {Stage: "no-such"}, {Stage: "purge", Args: json.RawMessage(`{"x":1}`)}} {
		if _, err := h.Removal(t.Context(), h.vars, runID, s); err == nil {
			t.Errorf("removal of %s %s: got nil, want an error", s.Stage, s.Args)
		}
	}
	if _, err := h.Removal(t.Context(), h.vars, "20261123T231500Z-none", step); err == nil {
		t.Error("removal of no run: got nil, want an error")
	}
}

// A delete that dies with its worker while postsuper is at work, and is carried on:
// what was agreed to is gone, and what came since is not.
func TestDeleteKilled(t *testing.T) {
	h := newHost(t, flood)
	h.await("an end of the moves to active, which no list of a live queue would be right of", func() bool {
		names, err := os.ReadDir(filepath.Join(h.Spool(), "incoming"))
		return err == nil && len(names) == 0
	})
	h.hold("super")
	args := json.RawMessage(`{"spam":` + rules + `,"queues":["deferred","incoming","active"]}`)
	want, err := h.Removal(t.Context(), h.vars, "", stage.Step{Stage: "delete", Args: args})
	if err != nil || want.Matched == 0 {
		t.Fatalf("%+v, %v", want, err)
	}
	args = json.RawMessage(fmt.Sprintf(`{"spam":%s,"queues":["deferred","incoming","active"],"expect":%d}`, rules, want.Matched))
	h.begin([]stage.Step{{Stage: "delete", Args: args}})
	h.awaitHeld("super")
	h.kill("worker")
	h.rest(Broken)
	late := practice.Message{ID: "late", Label: practice.Spam, Login: "spam-account", ClientAddress: "203.0.113.9", Sender: "late@chavez.practice.test",
		Recipients: []string{"x@stuck.test"}, Text: "Subject: late\n\nhello\n", Queue: spool.Deferred}
	if _, err := h.Submit(late); err != nil {
		t.Fatal(err)
	}
	h.letGo("super")
	h.resume(nil)
	h.rest(Finished)
	if s, ham := h.missing(); s != want.Matched || ham != 0 {
		t.Errorf("missing %d spam and %d ham, want %d and 0", s, ham, want.Matched)
	}
	if got := result[stage.Removed](h, "delete"); got.Matched != want.Matched || got.Deleted+got.Gone != want.Matched || got.Failed != 0 { // gone: by the postsuper that was left
		t.Errorf("result %+v, want %d", got, want.Matched)
	}
	a, err := h.Audit()
	if err != nil || len(a.Messages["late"].Places) != 1 {
		t.Errorf("late: %+v, %v", a.Messages["late"], err)
	}
	for _, name := range []string{"events.jsonl", "journal", "run.json"} {
		text, err := os.ReadFile(filepath.Join(h.State(), "runs", runID, name))
		if err != nil || strings.Contains(string(text), "Subject") {
			t.Errorf("%s: %v, or it has mail in it", name, err)
		}
	}
}
