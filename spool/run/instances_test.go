package run

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spoolsweep/spool/stage"
)

// A further instance of a host has records of its own, which the default one's
// commands do not see.
func TestInstanceHasItsRecords(t *testing.T) {
	h := newHost(t, 300)
	ctx, state := t.Context(), h.vars.StateDirectory
	first := h.vars
	h.vars.Instance = "postfix-out"

	h.begin([]stage.Step{{Stage: "count"}})
	h.rest(Finished)
	if n, err := h.Forget(ctx, first); n != 0 || err != nil {
		t.Errorf("the default instance forgets %d, %v", n, err)
	}
	if n, err := h.Forget(ctx, h.vars); n != 1 || err != nil {
		t.Errorf("forgot %d, %v", n, err)
	}
	if _, err := os.Stat(state); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty state directory is left: %v", err)
	}

	h.begin(plan(rules))
	h.rest(Finished)
	h.swept()
	for _, e := range h.events() {
		if e.Instance != "postfix-out" {
			t.Errorf("an event of instance %q: %+v", e.Instance, e)
		}
	}
	if runs, err := h.Runs(ctx, first); len(runs) > 0 || err != nil {
		t.Errorf("the default instance has runs %v, %v", runs, err)
	}
	if _, err := os.Stat(filepath.Join(state, "instances", "postfix-out", "runs", runID, "journal")); err != nil {
		t.Error(err)
	}
	h.vars.Instance = "-"
	if runs, err := h.Runs(ctx, h.vars); len(runs) > 0 || err != nil {
		t.Errorf("called by its name the default instance has runs %v, %v", runs, err)
	}

	h.vars.Instance = "../postfix"
	if err := h.Begin(ctx, h.info(plan(rules))); err == nil || !strings.Contains(err.Error(), "no name of a Postfix instance") {
		t.Errorf("a name that leads elsewhere: %v", err)
	}
	// Who may write to any folder above could put records there.
	if err := os.Chmod(filepath.Join(state, "instances"), 0o777); err != nil {
		t.Fatal(err)
	}
	h.vars.Instance = "postfix-in"
	if err := h.Begin(ctx, h.info(plan(rules))); err == nil || !strings.Contains(err.Error(), "instances must be a folder of uid") {
		t.Errorf("a folder that others can write to: %v", err)
	}
}
