package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// What was found while Postfix ran, and could not be held since it was down when its
// turn came, is held once it runs again; what was passed on before that is not passed
// on twice.
func TestHoldWhilePostfixIsRestarted(t *testing.T) {
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
	defer lock.Close()
	dir := t.TempDir()
	w, _, err := spool.OpenWork(p, runID, dir, "test", lock)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
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
	k := &keeper{args: args, h: &Host{Postfix: p, Work: w, Run: runID, Dir: dir}, rules: rules, emit: func(string, any) { warned++ }}
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
