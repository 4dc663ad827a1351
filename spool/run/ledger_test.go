package run

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// A run with all that may come: rules that come late and are made better, a
// collision, a purge by a colleague. The ledger has every message that was in the
// queues, with the content of what is gone for good, and says so until long after.
func TestLedger(t *testing.T) {
	h := newHost(t, flood)
	ctx := t.Context()
	h.begin(plan("{}"))
	h.rest(Waiting)
	_, waiting := h.balanced()
	if waiting.SetAside == 0 || waiting.Left != waiting.SetAside {
		t.Errorf("while it waits: %+v", waiting)
	}
	h.resume(func(q *ResumeRequest) { q.Steps = plan(`{"raw":"e"}`) })
	s := h.rest(Waiting) // since they take everything
	h.resume(func(q *ResumeRequest) { q.Steps, q.By = plan(rules), "cem@laptop" })
	h.rest(Finished)
	h.swept()
	content := map[string]string{} // of what is aside, by id
	names, err := filepath.Glob(h.Spool("*.spamfull", "*"))
	if err != nil {
		t.Fatal(err)
	}
	deep, err := filepath.Glob(h.Spool("*.spamfull", "?", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, deep...) {
		if text, err := os.ReadFile(name); err == nil {
			sum := sha256.Sum256(text)
			content[filepath.Base(name)] = hex.EncodeToString(sum[:])
		}
	}
	spam, _ := spamAndHam(h)
	if err := h.purge(spam); err != nil {
		t.Fatal(err)
	}
	h.rest(Finished)
	all, sums := h.balanced()
	if sums.SetAside != waiting.SetAside || sums.Purged != spam || sums.Restored != sums.SetAside-spam || sums.Left != 0 || sums.Collisions != 0 {
		t.Errorf("sums %+v, of which %d are spam; asked %+v", sums, spam, s.Ask)
	}
	kinds := map[string]int64{}
	for id, e := range all {
		kinds[e.Fate+" "+string(e.Verdict)+" "+e.By]++
		switch {
		case e.Bytes == 0 || e.Inode == 0 || e.Time.IsZero() || e.Sender == nil || len(e.Recipients) == 0 || !strings.Contains(e.From, ".spamfull"):
			t.Errorf("%s: %+v", id, e)
		case e.Fate == stage.FatePurged && (e.SHA256 != content[id] || len(e.Rules) == 0 || e.To != ""):
			t.Errorf("%s: %+v, content %s", id, e, content[id])
		case e.Fate == stage.FateRestored && (e.SHA256 != "" || len(e.Rules) > 0 || e.To == ""):
			t.Errorf("%s: %+v", id, e)
		}
	}
	if len(kinds) != 2 || kinds["purged spam bob@laptop"] != spam || kinds["restored ham cem@laptop"] != sums.Restored {
		t.Errorf("kinds %v", kinds)
	}
	h.found(all, spam)

	// A run later nothing has gone, since nothing is old; then the ledger has, and
	// the sums stay. What waits, or has mail aside, keeps its own.
	dir := filepath.Join(h.State(), "runs", runID)
	h.another("20261124T000000Z-aaaa")
	if !stage.HasLists(dir) {
		t.Fatal("the ledger is gone before its time")
	}
	old := time.Now().Add(-91 * 24 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "journal"), old, old); err != nil {
		t.Fatal(err)
	}
	h.vars.LedgerKeep = 92 * 24 * time.Hour
	h.another("20261124T000000Z-bbbb")
	if !stage.HasLists(dir) {
		t.Fatal("the ledger is gone before the time that ledger_keep says")
	}
	h.vars.LedgerKeep = 0
	h.another("20261124T000000Z-cccc")
	if stage.HasLists(dir) {
		t.Error("the ledger is still there")
	}
	left, err := h.Ledger(ctx, h.vars, runID, func(e *stage.Entry) error { t.Errorf("entry %+v", e); return nil }, func(err error) { t.Error(err) })
	if err != nil || left.Sums != sums.Sums || left.Removed == nil || time.Since(*left.Removed) > time.Minute {
		t.Errorf("what is left: %+v, %v, want %+v", left, err, sums.Sums)
	}
	text, err := os.ReadFile(filepath.Join(dir, "journal"))
	if err != nil {
		t.Fatal(err)
	}
	// The results that it keeps name a few samples.
	text = regexp.MustCompile(`"samples":\[[^\]]*\]`).ReplaceAll(text, nil)
	for id, e := range all {
		if bytes.Contains(text, []byte(e.ID)) {
			t.Errorf("the journal still names %s", id)
		}
	}
	if s, err := h.StateOf(h.postfix(), h.vars, runID); err != nil || s.Phase != Finished || s.Aside != 0 {
		t.Errorf("state %+v, %v", s, err)
	}
}

func (h *host) postfix() *spool.Postfix {
	h.t.Helper()
	p, err := h.Env.Postfix(h.t.Context(), h.vars)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// found looks that find says where mail went.
func (h *host) found(all map[string]stage.Entry, spam int64) {
	h.t.Helper()
	look := func(address string) *stage.Found {
		h.t.Helper()
		args, err := json.Marshal(stage.FindArgs{Address: address})
		if err != nil {
			h.t.Fatal(err)
		}
		r, err := h.Look(h.t.Context(), h.vars, stage.Step{Stage: "find", Args: args}, "", func(kind string, data any) {
			if kind == "warn" {
				h.t.Error(data)
			}
		})
		if err != nil {
			h.t.Fatal(err)
		}
		return r.(*stage.Found)
	}
	f := look("spam-account")
	if f.Gone == 0 || f.Gone > spam || f.Messages != 0 || len(f.Ledger) != int(min(f.Gone, 200)) {
		h.t.Errorf("of the account: %d live, %d gone, %d listed, of %d spam", f.Messages, f.Gone, len(f.Ledger), spam)
	}
	for _, m := range f.Ledger {
		if m.Fate != stage.FatePurged || m.By != "bob@laptop" || m.Run != runID || m.Verdict != "spam" || m.Time.IsZero() || m.Login != "spam-account" {
			h.t.Errorf("%+v", m)
		}
	}
	for _, e := range all {
		if e.Fate != stage.FateRestored || *e.Sender == "" {
			continue
		}
		f := look(*e.Sender)
		for _, m := range append(f.Mail, f.Ledger...) {
			if strings.HasSuffix(m.Where, "/"+e.ID) && (m.Fate != stage.FateRestored || m.To != e.To || m.By != e.By || m.Run != runID) {
				h.t.Errorf("got %+v, want %+v", m, e)
			}
		}
		return
	}
}

// another does a run that changes something, and has nothing to do.
func (h *host) another(id string) {
	h.t.Helper()
	info := h.info([]stage.Step{{Stage: "delete", Args: json.RawMessage(`{"spam":{"sender":"nobody@nowhere.test"},"queues":["hold"],"expect":0}`)}})
	info.Run = id
	if err := h.Begin(h.t.Context(), info); err != nil {
		h.t.Fatal(err)
	}
	if err := Tail(h.t.Context(), filepath.Join(h.State(), "runs", id), 1, func([]byte) error { return nil }); err != nil {
		h.t.Fatal(err)
	}
	if s, err := h.StateOf(nil, h.vars, id); err != nil || s.Phase != Finished {
		h.t.Fatalf("%+v, %v", s, err)
	}
}

// A run that waits for years, or has mail aside, keeps what it needs.
func TestLedgerIsKept(t *testing.T) {
	h := newHost(t, flood)
	dir := filepath.Join(h.State(), "runs", runID)
	h.begin(plan("{}"))
	h.rest(Waiting)
	old := time.Now().Add(-1000 * 24 * time.Hour)
	for _, phase := range []string{Waiting, Finished} {
		if phase == Finished {
			h.resume(func(q *ResumeRequest) { q.Steps = plan(rules) })
			h.rest(Finished)
		}
		if err := os.Chtimes(filepath.Join(dir, "journal"), old, old); err != nil {
			t.Fatal(err)
		}
		h.another("20261124T000000Z-" + phase[:4])
		if !stage.HasLists(dir) {
			t.Fatalf("%s: its lists are gone", phase)
		}
	}
	h.swept()
	// Put back, its last message has left just now.
	steps, at := plan(rules), len(plan(rules))
	var n int64
	a := h.audited()
	for _, m := range a.Messages {
		if slices.ContainsFunc(m.Places, practice.Place.Aside) {
			n++
		}
	}
	args, err := json.Marshal(map[string]any{"include_spam": true, "expect": n, "rate": 0, "live_max": 0, "canary": 0})
	if err != nil {
		t.Fatal(err)
	}
	h.resume(func(q *ResumeRequest) {
		q.Steps, q.At = append(steps, stage.Step{Stage: "putback", Args: args}), &at
	})
	h.rest(Finished)
	if _, s := h.balanced(); s.Left != 0 || s.Restored != s.SetAside {
		t.Errorf("sums %+v", s)
	}
}
