package run

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// liveStep is a plan of one stage.
func liveStep(name, more string) []stage.Step {
	return []stage.Step{{Stage: name, Args: json.RawMessage(`{` + more + `}`)}}
}

// spamIn counts the spam that stands in one queue.
func (h *host) spamIn(queue string) (n int) {
	h.t.Helper()
	for _, m := range h.audited().Messages {
		if m.Label == practice.Spam && len(m.Places) == 1 && m.Places[0].Directory == queue {
			n++
		}
	}
	return n
}

func spamMessage(n int) practice.Message {
	return practice.Message{Label: practice.Spam, Queue: "deferred", Sender: "x@chavez.practice.test", Recipients: []string{fmt.Sprintf("y%d@silent.test", n)}, Login: "spam-account", Text: "Subject: x\n\nx\n"}
}

// A hold for a while goes on over the death of its worker, and its time counts from
// its first look; what arrives meanwhile is held too, and nothing but what matches.
func TestHoldForOverADeath(t *testing.T) {
	h := newHost(t, flood)
	before := h.spamIn("deferred")
	h.begin(liveStep("hold", `"spam":`+rules+`,"queues":["deferred"],"for":"20s"`))
	h.await("what is there to be held", func() bool { return h.spamIn("hold") >= before })
	h.submit(spamMessage(1), letter(1, "silent.test", time.Now()))
	h.await("what has arrived to be held", func() bool { return h.spamIn("hold") >= before+1 })
	h.kill("worker")
	h.rest(Broken)
	h.submit(spamMessage(2))
	h.resume(nil)
	h.submit(spamMessage(3))
	h.await("what has arrived since to be held", func() bool { return h.spamIn("hold") >= before+3 })
	h.rest(Finished)
	if took := time.Since(h.state().Began); took < 20*time.Second {
		t.Errorf("it ended after %v", took)
	}
	all, sums := h.balanced()
	if a := result[stage.Acted](h, "hold"); int(a.Done.Done) != before+3 || a.Failed+a.Gone != 0 || sums.Held != a.Done.Done || len(all) != before+3 {
		t.Errorf("held %+v, the ledger %+v, want %d", a, sums, before+3)
	}
}

// A cancel ends a hold for a while at once; what is held stays so, and no lock is left.
func TestHoldForCancelled(t *testing.T) {
	h := newHost(t, flood)
	before := h.spamIn("deferred")
	info := h.info(liveStep("hold", `"spam":`+rules+`,"queues":["deferred"],"for":"1h"`))
	info.Name = "hold"
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	h.await("what is there to be held", func() bool { return h.spamIn("hold") >= before })
	h.cancel()
	h.cancelled("hold")
	if n := h.spamIn("hold"); n != before {
		t.Errorf("%d are held, want %d", n, before)
	}
	if err := h.Idle(t.Context(), h.vars); err != nil {
		t.Errorf("a lock is left: %v", err)
	}
}

// A release waits for what went first, and asks where too much of that was refused;
// -y does not pass it by.
func TestReleaseCanary(t *testing.T) {
	h := newHost(t, 0)
	const n = 130
	for i := range n {
		m := letter(i, fmt.Sprintf("d%d.refused.test", i%7), time.Now().Add(-time.Duration(i)*time.Second))
		m.Queue = "hold"
		h.submit(m)
	}
	if err := h.Configure(practice.Options{}); err != nil { // it delivers, or would
		t.Fatal(err)
	}
	h.begin(liveStep("release", fmt.Sprintf(`"rate":0,"live_max":0,"canary":50,"expect":%d`, n)))
	s := h.rest(Waiting)
	var ask stage.Confirm
	if err := json.Unmarshal(s.Ask.Data, &ask); err != nil || s.Ask.Kind != "confirm" || len(ask.Reasons) != 1 || !strings.Contains(ask.Reasons[0], "were refused (5xx), such as ") || ask.Ham != n-50 {
		t.Fatalf("asks %s %s", s.Ask.Kind, s.Ask.Data)
	}
	if r := result[stage.Acted](h, "release"); r.Done.Done != 50 || r.Canary == nil {
		t.Errorf("released %+v", r)
	}
	yes := true
	if err := h.refused(func(q *ResumeRequest) { q.Yes = &yes }); !errors.Is(err, ErrNothing) {
		t.Error(err)
	}
	h.resume(answer(1, "confirm", ask.List))
	h.rest(Finished)
	if r := result[stage.Acted](h, "release"); r.Done.Done != n || r.Failed+r.Gone != 0 {
		t.Errorf("released %+v", r)
	}
	h.audited()
}

// taker stands for a controller that exports.
type taker struct {
	h    *host
	have map[string][]byte // SHA-256 of queue files, by id
}

// take fetches what the run asks for, and answers with it.
func (k *taker) take(s *State) {
	h := k.h
	h.t.Helper()
	if s.Ask == nil || s.Ask.Kind != "export" {
		h.t.Fatalf("asks %+v", s.Ask)
	}
	var ask stage.ExportAsk
	if err := json.Unmarshal(s.Ask.Data, &ask); err != nil {
		h.t.Fatal(err)
	}
	args, err := json.Marshal(stage.MailArgs{Run: runID, From: ask.From, Max: stage.Number(ask.Max), MaxBytes: ask.MaxBytes})
	if err != nil {
		h.t.Fatal(err)
	}
	taken := stage.ExportTaken{List: ask.List}
	var head *stage.MailHead
	r, err := h.Look(h.t.Context(), h.vars, stage.Step{Stage: "mail", Args: args}, "", func(kind string, data any) {
		if part, ok := data.(*stage.MailPart); ok && kind == "mail" {
			if part.Message != nil {
				head = part.Message
			}
			if part.Sum != nil {
				k.have[head.ID] = part.Sum
				taken.Sums = append(taken.Sums, stage.Taken{N: head.N, Sum: part.Sum})
			}
		}
	})
	if err != nil {
		h.t.Fatal(err)
	}
	taken.Next = r.(*stage.Exported).Next
	text, err := json.Marshal(taken)
	if err != nil {
		h.t.Fatal(err)
	}
	h.resume(answer(s.Ask.Number, "export", string(text)))
}

// Nothing is gone that the controller has not said it has, whoever dies when; and what
// is in the host's record is no mail.
func TestExportOverADeath(t *testing.T) {
	const messages = 1200
	h := newHost(t, messages)
	spam := h.spamIn("deferred")
	if spam <= 100 {
		t.Fatalf("%d: all go at once", spam)
	}
	k := &taker{h: h, have: map[string][]byte{}}
	check := func(when string) {
		t.Helper()
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		var gone int
		for _, m := range a.Messages {
			if len(m.Places) == 0 {
				gone++
			}
		}
		if gone > len(k.have) {
			t.Errorf("%s: %d are gone, and the controller has %d", when, gone, len(k.have))
		}
	}
	h.begin(liveStep("export", fmt.Sprintf(`"spam":%s,"queues":["deferred"],"expect":%d`, rules, spam)))
	s := h.rest(Waiting)
	check("before any was taken")
	if err := h.refused(answer(s.Ask.Number, "confirm", "x")); !strings.Contains(err.Error(), "is about export") {
		t.Errorf("got %v", err)
	}
	// It dies while postsuper is at work, and goes on with the answer that it had.
	h.hold("super")
	k.take(s)
	h.awaitHeld("super")
	h.kill("worker")
	h.rest(Broken)
	check("after a death")
	h.letGo("super")
	h.resume(nil)
	h.await("the next question", func() bool { s = h.state(); return s.Phase == Waiting && s.Ask.Number == 2 })
	if left := h.state(); left.History[0].Value != "" {
		t.Error("a state has the sums of all that was taken")
	}
	check("after the first round")
	// Somebody resumes it who takes nothing: it asks again.
	no := false
	h.resume(func(q *ResumeRequest) { q.Yes = &no })
	h.await("the question once more", func() bool { s = h.state(); return s.Phase == Waiting && s.Ask.Number == 3 })
	for s = h.state(); s.Phase == Waiting; {
		k.take(s)
		n := s.Ask.Number
		h.await("an end of the round", func() bool { s = h.state(); return s.Phase != Working && (s.Ask == nil || s.Ask.Number != n) })
		check("after a round")
	}
	h.rest(Finished)
	if r := result[stage.Exported](h, "export"); int(r.Done.Done+r.Gone) != spam || r.Failed+r.Left != 0 || !r.Removed {
		t.Errorf("exported %+v of %d", r, spam)
	}
	if gone, ham := h.missing(); int(gone) != spam || ham != 0 {
		t.Errorf("gone are %d and %d ham, want %d", gone, ham, spam)
	}
	all, sums := h.ledgerOf()
	if int(sums.Deleted+sums.Gone) != spam || sums.Stayed != 0 {
		t.Errorf("the ledger has %+v", sums)
	}
	for id, e := range all {
		if e.SHA256 != hex.EncodeToString(k.have[id]) || e.By != "bob@laptop" {
			t.Errorf("%s: the ledger has %+v", id, e)
		}
	}
	for _, name := range h.records() {
		if bytes.Contains(h.read(name), []byte("Subject: ")) {
			t.Errorf("%s has mail in it", name)
		}
	}
}

// ledgerOf is the ledger, of messages that may be gone.
func (h *host) ledgerOf() (map[string]stage.Entry, *Account) {
	h.t.Helper()
	all := map[string]stage.Entry{}
	s, err := h.Ledger(h.t.Context(), h.vars, runID, func(e *stage.Entry) error {
		all[e.ID] = *e
		return nil
	}, func(err error) { h.t.Error(err) })
	if err != nil {
		h.t.Fatal(err)
	}
	return all, s
}

// records are the files of the run, and read is what one of them has.
func (h *host) records() []string {
	h.t.Helper()
	names, err := filepath.Glob(filepath.Join(h.State(), "runs", runID, "*"))
	if err != nil || len(names) < 4 {
		h.t.Fatal(names, err)
	}
	return names
}

func (h *host) read(name string) []byte {
	h.t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		h.t.Fatal(err)
	}
	return text
}
