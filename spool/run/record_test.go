package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

func numbers(t *testing.T, dir string, from int64) []int64 {
	t.Helper()
	var seqs []int64
	err := Tail(t.Context(), dir, from, func(line []byte) error {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("%q: %w", line, err)
		}
		seqs = append(seqs, e.Seq)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return seqs
}

// A record that a death cut anywhere is opened again, and goes on with the
// number after its last whole event.
func TestRecordTorn(t *testing.T) {
	dir := t.TempDir()
	write := func(n int) {
		t.Helper()
		r, err := openRecord(dir, runID, "-")
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		for i := range n {
			r.emit("count", i, evProgress, map[string]int{"n": i})
		}
	}
	write(3)
	path := filepath.Join(dir, eventsName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		lines := int64(strings.Count(string(whole[:cut]), "\n"))
		if n, err := events(dir); err != nil || n != lines {
			t.Fatalf("cut at %d: %d events, %v, want %d", cut, n, err, lines)
		}
		if got := numbers(t, dir, 1); int64(len(got)) != lines {
			t.Fatalf("cut at %d: a tail gives %v", cut, got)
		}
		write(1)
		got := numbers(t, dir, 1)
		if int64(len(got)) != lines+1 || got[lines] != lines+1 {
			t.Fatalf("cut at %d, one more: %v", cut, got)
		}
	}
	if got := numbers(t, t.TempDir(), 1); got != nil {
		t.Errorf("a run without events: %v", got)
	}
	if n, err := events(t.TempDir()); n != 0 || err != nil {
		t.Errorf("a run without events: %d, %v", n, err)
	}
}

// What cannot be written is passed over and leaves no half line.
func TestRecordUnwritable(t *testing.T) {
	dir := t.TempDir()
	r, err := openRecord(dir, runID, "-")
	if err != nil {
		t.Fatal(err)
	}
	r.emit("count", 0, evBegin, nil)
	r.emit("count", 0, evProgress, func() {}) // no JSON
	r.emit("count", 0, evEnd, nil)
	r.close()
	r.emit("count", 0, evEnd, nil) // closed: told to the log
	if got := numbers(t, dir, 1); !cmp.Equal(got, []int64{1, 2}) {
		t.Errorf("got %v, want 1 and 2", got)
	}
}

func TestTail(t *testing.T) {
	dir := t.TempDir()
	folder, err := lockFolder(dir) // as a worker holds it
	if err != nil {
		t.Fatal(err)
	}
	r, err := openRecord(dir, runID, "-")
	if err != nil {
		t.Fatal(err)
	}
	const n = 50
	got := make(chan []int64)
	for _, from := range []int64{0, 1, 7, n, n + 1} {
		go func() {
			var seqs []int64
			err := Tail(context.Background(), dir, from, func(line []byte) error {
				var e Event
				err := json.Unmarshal(line, &e)
				seqs = append(seqs, e.Seq)
				return err
			})
			if err != nil {
				t.Error(err)
			}
			got <- seqs
		}()
	}
	for i := range n {
		r.emit("count", i, evProgress, nil)
		if i == n/2 { // half a line, which the next worker cuts off
			if _, err := r.f.WriteString(`{"run":"half a li`); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * tailEvery) // so that the tails have seen it
			r.close()
			if r, err = openRecord(dir, runID, "-"); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.close()
	folder.Close()
	counts := map[int]int{}
	for range 5 {
		seqs := <-got
		counts[len(seqs)]++
		for i, s := range seqs {
			if s != seqs[0]+int64(i) {
				t.Errorf("a tail has gaps: %v", seqs)
				break
			}
		}
	}
	if d := cmp.Diff(map[int]int{n: 2, n - 6: 1, 1: 1, 0: 1}, counts); d != "" {
		t.Errorf("events of the tails (-want +got): %s", d)
	}
	// Afterwards the same.
	for from, want := range map[int64]int{0: n, 1: n, 7: n - 6, n: 1, n + 1: 0, 1000: 0} {
		if got := numbers(t, dir, from); len(got) != want {
			t.Errorf("from %d afterwards: %d events, want %d", from, len(got), want)
		}
	}
	// Whoever watches may stop, and an error of his ends only his tail.
	if folder, err = lockFolder(dir); err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*tailEvery)
	defer cancel()
	if err := Tail(ctx, dir, 1, func([]byte) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a tail that is ended: %v", err)
	}
	gone := errors.New("the link is gone")
	if err := Tail(t.Context(), dir, 1, func([]byte) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("a tail to nobody: %v", err)
	}
}

func TestLast(t *testing.T) {
	dir := t.TempDir()
	r, err := openRecord(dir, runID, "-")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r.emit("classify", 4, evResult, map[string]int{"messages": i})
		r.emit("restore", 6, evProgress, map[string]int{"messages": 100})
	}
	r.close()
	var c stage.Classified
	if !last(dir, "classify", &c) || c.Messages != 2 {
		t.Errorf("got %d, want the last, 2", c.Messages)
	}
	if last(dir, "restore", &c) {
		t.Error("progress is taken for a result")
	}
	if last(t.TempDir(), "classify", &c) {
		t.Error("a result of nothing")
	}
}

func TestWhereto(t *testing.T) {
	same := plan(rules)
	with := func(i int, args string) []stage.Step {
		p := plan(rules)
		p[i].Args = json.RawMessage(args)
		return p
	}
	spaced := with(4, "{ \"spam\" : "+rules+" ,\n \"ham\": {}}")
	named := plan(rules)
	named[4].Name = "another name"
	for _, tt := range []struct {
		name      string
		now       []stage.Step
		next      int
		unsettled bool
		want      int // -1: refused
	}{
		{"nothing changed, waits at confirm", same, 5, false, 5},
		{"nothing changed, finished", same, 8, false, 8},
		{"only spaces", spaced, 8, false, 8},
		{"only a name", named, 8, false, 8},
		{"rules, waits for them", with(4, `{}`), 4, false, 4},
		{"rules, waits at confirm", with(4, `{}`), 5, false, 4},
		{"rules, finished", with(4, `{}`), 8, false, 4},
		{"rate, in restore", with(6, `{"rate":1}`), 6, false, 6},
		{"rate, finished", with(6, `{"rate":1}`), 8, false, 6},
		{"rate, not there yet", with(6, `{"rate":1}`), 4, false, 4},
		{"queues, waits for a slot", with(2, `{"queues":"hold"}`), 1, false, 1},
		{"queues, waits for rules", with(2, `{"queues":"hold"}`), 4, false, -1},
		{"queues, finished", with(2, `{"queues":"hold"}`), 8, false, -1},
		{"count, waits for a slot", with(0, `{"exact":true}`), 1, false, 0},
		{"count, waits for rules", with(0, `{"exact":true}`), 4, false, -1},
		{"nothing changed, left in stop", same, 1, true, 4},
		{"rules, left in start", with(4, `{}`), 3, true, 4},
		{"queues, left in stop", with(2, `{"queues":"hold"}`), 1, true, -1},
		{"appended", append(plan(rules), stage.Step{Stage: "putback"}), 8, false, 8},
		{"shorter", same[:5], 8, false, 8},
	} {
		got, err := whereto(same, tt.now, tt.next, tt.unsettled)
		switch {
		case tt.want < 0 && err == nil:
			t.Errorf("%s: got %d, want an error", tt.name, got)
		case tt.want < 0 && !strings.Contains(spool.RemedyOf(err), "begin a new run"):
			t.Errorf("%s: %v names no remedy", tt.name, err)
		case tt.want >= 0 && (err != nil || got != tt.want):
			t.Errorf("%s: got %d, %v, want %d", tt.name, got, err, tt.want)
		}
	}
}

// A journal's own part, replayed: where the run goes on, and what is open.
func TestProgress(t *testing.T) {
	rec := func(kind, data string) spool.Record { return spool.Record{Kind: kind, Data: json.RawMessage(data)} }
	ask := rec(kindAsk, `{"number":1,"index":1,"kind":"slot"}`)
	answered := rec(kindAnswer, `{"number":1,"kind":"slot","by":"ana"}`)
	for _, tt := range []struct {
		name    string
		records []spool.Record
		next    int
		open    bool // a question
		holds   bool // an answer that was not used up
		failed  string
	}{
		{"nothing", nil, 0, false, false, ""},
		{"began", []spool.Record{rec(kindBegin, `{"index":2}`)}, 2, false, false, ""},
		{"ended", []spool.Record{rec(kindBegin, `{"index":2}`), rec(kindEnd, `{"index":2}`)}, 3, false, false, ""},
		{"ended early", []spool.Record{rec(kindEnd, `{"index":1,"last":true}`)}, 8, false, false, ""},
		{"failed", []spool.Record{rec(kindBegin, `{"index":2}`), rec(kindEnd, `{"index":2,"error":"no"}`)}, 2, false, false, "no"},
		{"failed, resumed", []spool.Record{rec(kindBegin, `{"index":2}`), rec(kindEnd, `{"index":2,"error":"no"}`), rec(kindGoto, `{"index":2}`)}, 2, false, false, ""},
		{"asks", []spool.Record{rec(kindEnd, `{"index":0}`), ask}, 1, true, false, ""},
		{"answered", []spool.Record{rec(kindEnd, `{"index":0}`), ask, answered}, 1, false, true, ""},
		{"died in the stage", []spool.Record{ask, answered, rec(kindBegin, `{"index":1}`)}, 1, false, true, ""},
		{"used up", []spool.Record{ask, answered, rec(kindBegin, `{"index":1}`), rec(kindEnd, `{"index":1}`)}, 2, false, false, ""},
		{"failed after the answer", []spool.Record{ask, answered, rec(kindBegin, `{"index":1}`), rec(kindEnd, `{"index":1,"error":"no"}`)}, 1, false, false, "no"},
		{"goes on elsewhere", []spool.Record{ask, rec(kindGoto, `{"index":4}`)}, 4, false, false, ""},
		{"of package spool", []spool.Record{rec("wants", `[]`), rec("intent", `{}`)}, 0, false, false, ""},
	} {
		p, err := progressOf(tt.records, 8)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		open, holds := p.ask != nil && p.answer == nil, p.answer != nil
		if p.next != tt.next || open != tt.open || holds != tt.holds || p.failed != tt.failed {
			t.Errorf("%s: got next %d, open %t, holds %t, failed %q", tt.name, p.next, open, holds, p.failed)
		}
	}
	if _, err := progressOf([]spool.Record{rec(kindBegin, `7`)}, 8); err == nil {
		t.Error("a record of another shape: got nil, want an error")
	}
}
