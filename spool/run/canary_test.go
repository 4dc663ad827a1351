package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// letter is ham of its own sender.
func letter(n int, to string, arrived time.Time) practice.Message {
	return practice.Message{
		Label: practice.Ham, Sender: fmt.Sprintf("user%d@chavez.practice.test", n), Recipients: []string{fmt.Sprintf("friend%d@%s", n, to)},
		Arrived: arrived, Text: "Subject: hello\n\nHow are you?\n",
	}
}

func (h *host) submit(list ...practice.Message) {
	h.t.Helper()
	if _, err := h.SubmitAll(list); err != nil {
		h.t.Fatal(err)
	}
}

// Of what goes first nearly all is refused: no more goes, whoever says -y, until
// somebody has looked and agrees.
func TestCanaryRefused(t *testing.T) {
	h := newHost(t, 0)
	var list []practice.Message
	for n := range 130 {
		list = append(list, letter(n, fmt.Sprintf("d%d.refused.test", n%7), time.Now().Add(-time.Duration(n)*time.Second)))
	}
	h.submit(list...)
	h.submit(practice.Message{Label: practice.Spam, Sender: "x@chavez.practice.test", Recipients: []string{"y@silent.test"}, Login: "spam-account", Text: "Subject: x\n\nx\n"})
	h.begin(plan("{}"))
	h.rest(Waiting)
	if err := h.Configure(practice.Options{}); err != nil { // it delivers again, or would
		t.Fatal(err)
	}
	steps := plan(rules)
	steps[6].Args = json.RawMessage(`{"rate":0,"live_max":0}`)
	h.resume(func(q *ResumeRequest) { q.Steps = steps })
	s := h.rest(Waiting)
	var ask stage.Confirm
	if err := json.Unmarshal(s.Ask.Data, &ask); err != nil || s.Ask.Kind != "confirm" || len(ask.Reasons) != 1 || !strings.Contains(ask.Reasons[0], "were refused (5xx), such as ") {
		t.Fatalf("asks %s %s", s.Ask.Kind, s.Ask.Data)
	}
	r := result[stage.Restored](h, "restore")
	if r.Restored != 50 || r.Left != 81 || ask.Ham != 80 || ask.Spam != 1 || r.Canary == nil {
		t.Errorf("restored %+v, asks %+v", r, ask)
	}
	// -y does not pass it by, and sends no further fifty.
	yes := true
	if err := h.refused(func(q *ResumeRequest) { q.Yes = &yes }); !errors.Is(err, ErrNothing) {
		t.Error(err)
	}
	if r := result[stage.Restored](h, "restore"); r.Restored != 50 {
		t.Errorf("restored %+v", r)
	}
	h.resume(answer(2, "confirm", ask.List))
	h.rest(Finished)
	if r := result[stage.Restored](h, "restore"); r.Restored != 130 || r.Left != 1 || r.Failed+r.SentMeanwhile != 0 {
		t.Errorf("restored %+v", r)
	}
	h.swept()
}

// Mail past its lifetime stays aside, named, until somebody says what with it.
func TestExpiredStays(t *testing.T) {
	h := newHost(t, 0)
	week := time.Now().Add(-7 * 24 * time.Hour)
	for n := range 60 {
		h.submit(letter(n, "silent.test", time.Now().Add(-time.Hour)))
	}
	h.submit(letter(60, "silent.test", week), letter(61, "silent.test", week))
	h.submit(practice.Message{Label: practice.Spam, Sender: "x@chavez.practice.test", Recipients: []string{"y@silent.test"}, Login: "spam-account", Text: "Subject: x\n\nx\n"})
	steps := plan(rules)
	h.begin(steps)
	h.rest(Finished)
	r := result[stage.Restored](h, "restore")
	if r.Restored != 60 || r.Expired != 2 || len(r.Lapsed) != 2 || r.Left != 3 || r.Failed != 0 {
		t.Errorf("restored %+v", r)
	}
	h.audited()
	p, err := h.Preview(t.Context(), h.vars, runID)
	if err != nil || p.Going != 2 || p.GoingExpired != 2 || p.AllExpired != 2 {
		t.Errorf("putback would send %+v, %v", p, err)
	}
	steps[6].Args = json.RawMessage(`{"rate":0,"live_max":0,"canary":0,"expired":"requeue"}`)
	h.resume(func(q *ResumeRequest) { q.Steps = steps })
	h.rest(Finished)
	// It goes on with the list that it had: what went of that before counts, too.
	if r := result[stage.Restored](h, "restore"); r.Restored != 62 || r.ByQueue["maildrop"] != 2 || r.Expired != 0 || r.Left != 1 {
		t.Errorf("restored %+v", r)
	}
	h.swept()
}
