package run

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Records go only where nothing hangs on them; what stands in the way is named,
// and then nothing is removed.
func TestForget(t *testing.T) {
	h := newHost(t, 200)
	ctx := t.Context()
	if n, err := h.Forget(ctx, h.vars); err != nil || n != 0 {
		t.Fatalf("without records: %d, %v", n, err)
	}
	steps := plan(rules)
	if err := h.Begin(ctx, &Info{Run: runID, Vars: h.vars, Host: "chavez", Steps: steps, Yes: true}); err != nil {
		t.Fatal(err)
	}
	refused := func(why string) {
		t.Helper()
		var way *InTheWayError
		n, err := h.Forget(ctx, h.vars)
		if n != 0 || !(errors.As(err, &way) && way.Run == runID || err != nil && strings.Contains(err.Error(), runID)) || !strings.Contains(err.Error(), why) {
			t.Errorf("got %d, %v, want %q", n, err, why)
		}
		if _, err := os.Stat(filepath.Join(h.vars.StateDirectory, "runs", runID, "journal")); err != nil {
			t.Error(err)
		}
	}
	refused("")
	if err := Tail(ctx, filepath.Join(h.vars.StateDirectory, "runs", runID), 1, func([]byte) error { return nil }); err != nil {
		t.Fatal(err)
	}
	at, err := h.StateOf(nil, h.vars, runID)
	if err != nil {
		t.Fatal(err)
	}
	if at.Phase == Waiting {
		refused("it waits")
	} else {
		refused(fmt.Sprintf("%d files are in ", h.state().Aside))
	}
	if err := h.Idle(ctx, h.vars); err != nil {
		t.Errorf("nobody works: %v", err)
	}
	// A record that cannot be read may be anything.
	other := filepath.Join(h.vars.StateDirectory, "runs", "20200101T000000Z-abcd")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "run.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := h.Forget(ctx, h.vars); n != 0 || err == nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
}
