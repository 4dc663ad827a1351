package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// started is a host whose Postfix runs, and a run there.
func started(t *testing.T) (*practice.Host, *Host) {
	t.Helper()
	h := newHost(t)
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Stop(context.Background()) })
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
	return h, &Host{Postfix: p, Work: w, Run: runID, Dir: dir, Agree: func(int64) error { return nil }, Last: func(string, any) bool { return false }}
}

// What was agreed to is a list. Where that is gone, as after ledger_keep, nobody has
// agreed to what the same rules take by now.
func TestAgreedToAListThatIsGone(t *testing.T) {
	h, on := started(t)
	for range 3 {
		submit(t, h, practice.Message{Queue: spool.Hold, Sender: "x@chavez.practice.test", Recipients: []string{"y@far.test"}, Text: "Subject: x\n\nhello\n"})
	}
	for row, args := range map[*Row]string{
		&remove:  `{"spam":{"sender":"x@chavez.practice.test"},"queues":["hold"],"expect":5}`,
		&export:  `{"spam":{"sender":"x@chavez.practice.test"},"queues":["hold"],"expect":5}`,
		&release: `{"match":{"sender":"x@chavez.practice.test"},"expect":5}`,
		&requeue: `{"match":{"sender":"x@chavez.practice.test"},"queues":["hold"],"expect":5}`,
	} {
		a, err := row.Parse([]byte(args))
		if err != nil {
			t.Fatal(err)
		}
		again, five := *on, int64(5)
		again.Agreed = &five
		if err := RemoveLists(on.Dir); err != nil {
			t.Fatal(err)
		}
		r, err := row.Run(t.Context(), &again, a, func(string, any) {})
		if err == nil || !strings.Contains(err.Error(), "not the 5 that were expected") {
			t.Errorf("%s: %+v, %v", row.Name, r, err)
		}
	}
	if p := on.Postfix; len(listOf(t, p, spool.Hold)) != 3 {
		t.Error("something is gone")
	}
}

// listOf is what a live queue has.
func listOf(t *testing.T, p *spool.Postfix, q spool.Queue) (ids []string) {
	t.Helper()
	err := spool.Walk(p, string(q), func(c spool.Chunk) error { ids = append(ids, c.IDs...); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// What was found while Postfix ran, and could not be held since it was down when its
// turn came, is held once it runs again; what was passed on before that is not passed
// on twice.
func TestHoldWhilePostfixIsRestarted(t *testing.T) {
	h, on := started(t)
	// On hold, where no queue manager takes it away.
	flood := func(n int) []string {
		var list []practice.Message
		for i := range n {
			list = append(list, practice.Message{Queue: spool.Hold, Sender: "x@chavez.practice.test", Recipients: []string{fmt.Sprintf("y%d@far.test", i)}, Text: "Subject: x\n\nhello\n"})
		}
		return submit(t, h, list...)
	}
	flood(1)
	args := &HoldArgs{Spam: map[string]any{"sender": "x@chavez.practice.test"}, Queues: Queues{"hold"}, For: Duration(time.Hour)}
	rules, err := args.Rules()
	if err != nil {
		t.Fatal(err)
	}
	warned := 0
	k := &keeper{args: args, h: on, rules: rules, emit: func(string, any) { warned++ }}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const n = 2*passedOn + 7
	var want, got []string
	calls := 0
	err = k.looks(ctx, func(list []spool.Mail) error {
		switch calls++; calls {
		case 1: // the first look
			want = flood(n)
			return nil
		case 3, 6: // the second batch of another look, and Postfix is down
			return fmt.Errorf("hold: %w", spool.ErrDown)
		}
		for _, m := range list {
			got = append(got, m.ID)
		}
		switch len(got) {
		case n:
			want = append(want, flood(1)...)
		case n + 1:
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("passed on %d, want %d", len(got), len(want))
	}
	if warned != 2 {
		t.Errorf("warned %d times of two restarts", warned)
	}
}
