package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// purged is what a purge with these arguments would remove.
func (k *work) purged(args string) *Removal {
	k.t.Helper()
	a, err := purge.Parse([]byte(args))
	if err != nil {
		k.t.Fatal(err)
	}
	look := *k.Host
	look.Work = nil
	r, err := purge.Preview(k.t.Context(), &look, a)
	if err != nil {
		k.t.Fatal(err)
	}
	return r
}

// TestPurgeKinds is the law of purge: by default only what the confirmed list
// calls spam goes, and goes only as the very file that was judged.
func TestPurgeKinds(t *testing.T) {
	h := newHost(t)
	old := time.Now().Add(-40 * 24 * time.Hour)
	var ids []string
	for i := range 6 {
		m := practice.Message{Sender: "spam@far.test", Recipients: []string{"a@stuck.test", "b@stuck.test", "c@stuck.test", "d@stuck.test"}, Text: "Subject: x\n\nhello\n", Label: practice.Spam}
		if i%2 == 0 {
			m.Arrived = old
		}
		if i >= 4 {
			m.Sender, m.Label = "ham@far.test", practice.Ham
		}
		if i >= 3 {
			m.Queue = spool.Deferred
		}
		ids = append(ids, submit(t, h, m)...)
	}
	submit(t, h, practice.Message{Sender: "spam@far.test", Recipients: []string{"a@b.test"}, HalfWritten: true})
	if err := os.WriteFile(h.Spool("incoming", "0BADBAD1"), []byte("no message"), 0o700); err != nil {
		t.Fatal(err)
	}
	k := aside(t, h, spool.Incoming, spool.Deferred)
	// Nobody judged anything.
	if got := k.purged(`{}`); got.Matched != 0 || len(got.Goes) > 0 || got.Stays[kindUnjudged] != 8 {
		t.Errorf("before classify: %+v", got)
	}
	if _, err := k.run("classify", `{"spam": {"sender": "spam@far.test"}}`); err != nil {
		t.Fatal(err)
	}
	list := k.done["classify"].(*Classified).List
	others := map[string]int64{kindHam: 2, kindUnreadable: 1, kindIncomplete: 1}
	with := func(m map[string]int64, kind string, n int64) map[string]int64 {
		all := map[string]int64{kind: n}
		for k, v := range m {
			all[k] = v
		}
		return all
	}
	check := func(what, args string, goes, stays map[string]int64) {
		t.Helper()
		got := k.purged(args)
		var sum int64
		for _, n := range goes {
			sum += n
		}
		if d := cmp.Diff(goes, got.Goes); d != "" || got.Matched != sum {
			t.Errorf("%s: matched %d, goes (-want +got): %s", what, got.Matched, d)
		}
		if d := cmp.Diff(stays, got.Stays); d != "" {
			t.Errorf("%s: stays (-want +got): %s", what, d)
		}
		if len(got.Samples) != min(int(got.Matched), samplesShown) && goes[kindUnreadable]+goes[kindIncomplete] == 0 {
			t.Errorf("%s: %d samples of %d", what, len(got.Samples), got.Matched)
		}
		for _, s := range got.Samples {
			if !slices.Contains(ids, filepath.Base(s.Message)) || len(s.Envelope.Recipients) != 3 || s.Envelope.Count != 4 || s.Envelope.Sender != "spam@far.test" && goes[kindHam] == 0 {
				t.Errorf("%s: sample %+v", what, s)
			}
		}
	}
	none := map[string]int64{}
	check("not confirmed", `{}`, none, with(others, KindUnconfirmed, 4))
	k.done["confirm"] = &Confirmed{Answer: "yes", By: "ana", List: strings.Repeat("0", 64)}
	check("another list confirmed", `{}`, none, with(others, KindUnconfirmed, 4))
	k.done["confirm"] = &Confirmed{Answer: "yes", By: "ana", List: list}
	check("confirmed", `{}`, map[string]int64{kindSpam: 4}, others)
	check("old ones", `{"older_than": "30d"}`, map[string]int64{kindSpam: 2}, with(others, kindSpam, 2))
	check("none is so old", `{"older_than": "50d"}`, none, with(others, kindSpam, 4))
	check("by the moment", fmt.Sprintf(`{"older_than": "50d", "before": %d}`, time.Now().Add(time.Hour).Unix()), map[string]int64{kindSpam: 4}, others)
	check("all of it", `{"include_ham": true}`, with(others, kindSpam, 4), none)
	check("all that is old", `{"include_ham": true, "older_than": "30d"}`, map[string]int64{kindSpam: 2, kindHam: 1},
		map[string]int64{kindSpam: 2, kindHam: 1, kindUnreadable: 1, kindIncomplete: 1})

	// The one that was judged spam, and is another file by now, was never judged.
	now := time.Now()
	if err := os.Chtimes(h.Spool("incoming.spamfull", ids[0]), now, now); err != nil {
		t.Fatal(err)
	}
	check("one is another", `{}`, map[string]int64{kindSpam: 3}, with(others, kindUnjudged, 1))
	// Other rules, and nobody confirmed what they take.
	if _, err := k.run("classify", `{"spam": {"sender": "ham@far.test"}}`); err != nil {
		t.Fatal(err)
	}
	check("judged again", `{}`, none, map[string]int64{KindUnconfirmed: 2, kindHam: 4, kindUnreadable: 1, kindIncomplete: 1})
	// A damaged list decides nothing.
	if err := os.Truncate(filepath.Join(k.Dir, verdictsName), 50); err != nil {
		t.Fatal(err)
	}
	if _, err := (&PurgeArgs{IncludeHam: true}).find(t.Context(), k.Host); err == nil {
		t.Error("a damaged list: got nil, want an error")
	}
}

func TestAgree(t *testing.T) {
	number := func(n Number) *Number { return &n }
	agreed := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		name   string
		h      Host
		expect *Number
		n      int64
		want   string // "" may go, "ask", or a part of the error
		writes int64  // what is journaled, -1 for nothing
	}{
		{"expected", Host{}, number(5), 5, "", 5},
		{"not expected", Host{}, number(4), 5, "delete: 5 messages would be deleted, not the 4 that were expected: nothing was deleted", -1},
		{"nothing expected", Host{}, number(0), 5, "nothing was deleted", -1},
		{"nothing is there", Host{}, number(5), 0, "nothing was deleted", -1},
		{"nothing to do", Host{}, nil, 0, "", 0},
		{"nobody said", Host{}, nil, 5, "ask", -1},
		{"nobody said, -y", Host{Yes: true}, nil, 5, "ask", -1},
		{"answered", Host{Answer: &Answer{Kind: "confirm", Value: "L"}}, nil, 5, "", 5},
		{"another list was answered", Host{Answer: &Answer{Kind: "confirm", Value: "M"}}, nil, 5, "ask", -1},
		{"another question", Host{Answer: &Answer{Kind: "slot", Value: "L"}}, nil, 5, "ask", -1},
		{"died midway", Host{Agreed: agreed(9)}, number(9), 5, "", -1},
		{"died midway, and there are more", Host{Agreed: agreed(9)}, number(9), 10, "nothing was deleted", -1},
	} {
		wrote := int64(-1)
		tt.h.Agree = func(n int64) error { wrote = n; return nil }
		err := agree(&tt.h, "delete", tt.expect, tt.n, "L")
		var ask *Ask
		switch {
		case tt.want == "":
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		case tt.want == "ask":
			if !errors.As(err, &ask) || ask.Kind != "confirm" || ask.Data.(*Confirm).Ham != tt.n || !ask.Data.(*Confirm).Delete || ask.Data.(*Confirm).List != "L" {
				t.Errorf("%s: got %v, want a question", tt.name, err)
			}
		case err == nil || !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
		if wrote != tt.writes {
			t.Errorf("%s: journaled %d, want %d", tt.name, wrote, tt.writes)
		}
	}
}

// running is a practice host that runs and keeps its mail where it is, with the
// work of a run that has nothing aside.
func running(t *testing.T, mail ...practice.Message) (*practice.Host, *work) {
	t.Helper()
	h := newHost(t)
	if err := h.Configure(practice.Options{Rate: 0.001}); err != nil {
		t.Fatal(err)
	}
	submit(t, h, mail...)
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := spool.Lock(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	dir := t.TempDir()
	w, _, err := spool.OpenWork(p, runID, dir, "test", lock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	k := &work{t: t, done: map[string]any{}, Host: &Host{Postfix: p, Work: w, Run: runID, Dir: dir, Agree: func(int64) error { return nil }}}
	k.Last = func(string, any) bool { return false }
	return h, k
}

func (k *work) deleted(args string) (*Removal, error) {
	k.t.Helper()
	a, err := remove.Parse([]byte(args))
	if err != nil {
		k.t.Fatal(err)
	}
	look := *k.Host
	look.Work, look.Dir = nil, ""
	return remove.Preview(k.t.Context(), &look, a)
}

// waiting writes messages that stay in deferred, and one of the same sender that
// is on hold.
func waiting() []practice.Message {
	var all []practice.Message
	for i := range 9 {
		m := practice.Message{ID: fmt.Sprint("m", i), Sender: "spam@far.test", Recipients: []string{"a@stuck.test"}, Text: "Subject: x\n\nhello\n", Label: practice.Spam, Queue: spool.Deferred}
		if i >= 6 {
			m.Sender, m.Label = "ham@far.test", practice.Ham
		}
		if i == 5 {
			m.Queue = spool.Hold
		}
		all = append(all, m)
	}
	return all
}

// left are the messages that are still there, by audit.
func left(t *testing.T, h *practice.Host) []string {
	t.Helper()
	a, err := h.Audit()
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for id, m := range a.Messages {
		if len(m.Places) == 1 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestDeleteStage(t *testing.T) {
	const rules = `"spam": {"sender": "spam@far.test"}`
	h, k := running(t, waiting()...)
	all := left(t, h)
	w, err := k.deleted(`{` + rules + `}`)
	if err != nil || w.Matched != 5 || w.Goes["deferred"] != 5 || len(w.Samples) != 5 || !strings.HasPrefix(w.Samples[0].Message, "deferred/") {
		t.Errorf("preview: %+v, %v", w, err)
	}
	if w, err := k.deleted(`{` + rules + `, "queues": ["hold", "deferred"]}`); err != nil || w.Matched != 6 || w.Goes["hold"] != 1 {
		t.Errorf("preview with hold: %+v, %v", w, err)
	}
	if w, err := k.deleted(`{` + rules + `, "ham": {"recipient": "@stuck.test"}}`); err != nil || w.Matched != 0 {
		t.Errorf("preview with a ham rule: %+v, %v", w, err)
	}
	for args, want := range map[string]string{
		`{}`: "no rules for spam", `{"ham": {"sender": "x@y.z"}}`: "no rules for spam", `{` + rules + `, "expect": 4}`: "nothing was deleted",
	} {
		if r, err := k.run("delete", args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want %s", args, r, err, want)
		}
	}
	// Nobody said how many: it asks, and what came since is not deleted by the answer.
	var ask *Ask
	if _, err := k.run("delete", `{`+rules+`}`); !errors.As(err, &ask) {
		t.Fatalf("got %v, want a question", err)
	}
	text, err := json.Marshal(ask.Data)
	if err != nil || strings.Contains(string(text), "far.test") {
		t.Errorf("what is asked, and kept, names somebody: %s, %v", text, err)
	}
	if got := left(t, h); !slices.Equal(got, all) {
		t.Errorf("left %v before anybody agreed", got)
	}
	late := waiting()[0]
	late.ID = "late"
	submit(t, h, late)
	k.Answer = &Answer{Kind: "confirm", Value: ask.Data.(*Confirm).List}
	r, err := k.run("delete", `{`+rules+`}`)
	if err != nil || r.(*Removed).Deleted != 5 || r.(*Removed).Matched != 5 {
		t.Errorf("answered: %+v, %v", r, err)
	}
	if got := left(t, h); !slices.Equal(got, []string{"late", "m5", "m6", "m7", "m8"}) {
		t.Errorf("left %v", got)
	}
	// It died behind that: the same list, whatever there is now.
	five := int64(5)
	k.Answer, k.Agreed = nil, &five
	r, err = k.run("delete", `{`+rules+`}`)
	if err != nil || r.(*Removed).Deleted != 5 || r.(*Removed).Matched != 5 {
		t.Errorf("carried on: %+v, %v", r, err)
	}
	if got := left(t, h); !slices.Equal(got, []string{"late", "m5", "m6", "m7", "m8"}) {
		t.Errorf("carried on, left %v", got)
	}
	// Classify's list is another file.
	if _, err := readList(k.Dir, func(*judged) { t.Error("delete wrote the list of verdicts") }); err != nil {
		t.Error(err)
	}
	if err := h.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.Agreed = nil
	if _, err := k.deleted(`{` + rules + `}`); !errors.Is(err, spool.ErrDown) {
		t.Errorf("preview of a stopped one: %v", err)
	}
	if _, err := k.run("delete", `{`+rules+`, "expect": 1}`); !errors.Is(err, spool.ErrDown) || !strings.Contains(spool.RemedyOf(err), "postfix start") {
		t.Errorf("stopped: %v", err)
	}
}

// The spam of a sample is read by a walk that sees each with the same chance.
func TestPicker(t *testing.T) {
	chosen := map[string]int{}
	for range 2000 {
		var s picker
		for i := range 10 {
			s.add(spool.Mail{ID: fmt.Sprint(i)})
		}
		for _, m := range s.some {
			chosen[m.ID]++
		}
	}
	for id, n := range chosen {
		if n < 850 || n > 1150 { // 1000 is expected; 6 sigma are 134
			t.Errorf("%s was chosen %d times of 2000, want about 1000", id, n)
		}
	}
	if len(chosen) != 10 {
		t.Errorf("chosen %v", chosen)
	}
}
