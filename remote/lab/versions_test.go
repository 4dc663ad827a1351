package lab_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab"
)

// nextAgent builds the agent as the next version of the journal will have it: of
// this source, but with that number.
func nextAgent(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	must(t, err)
	journal := filepath.Join(root, "spool", "journal.go")
	text, err := os.ReadFile(journal)
	must(t, err)
	const now, then = "journalVersion = 2\n", "journalVersion = 3\n"
	if strings.Count(string(text), now) != 1 {
		t.Fatalf("%s does not have %q once", journal, now)
	}
	dir := t.TempDir()
	replaced, overlay, agent := filepath.Join(dir, "journal.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "agent")
	must(t, os.WriteFile(replaced, []byte(strings.Replace(string(text), now, then, 1)), 0o600))
	files, err := json.Marshal(map[string]any{"Replace": map[string]string{journal: replaced}})
	must(t, err)
	must(t, os.WriteFile(overlay, files, 0o600))
	build := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlay, "-o", agent, "./cmd/spoolsweep-agent")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return agent
}

// Two laptops, one of them with a later version. What it finds of the earlier one it
// carries on, whether that was killed between stop and start or while mail went back;
// the earlier one refuses what the later one has begun, and leaves it as it is.
func TestAgentsOfTwoVersions(t *testing.T) {
	t.Parallel()
	next := nextAgent(t)
	for _, w := range windows {
		t.Run(w.name+", the later goes on", func(t *testing.T) {
			t.Parallel()
			h, f, id, messages := killedIn(t, w)
			succeeds(t, f, "resume", id, "-y", "--agent", next)
			settledBy(t, h, f, id, messages, "--agent", next)
			// And from now on it is the later one's, but in nobody's way.
			refusedByEarlier(t, h, f, id)
			got := spoolsweep(t, f, sweepAway(t, h, "--check")...)
			if got.status != 0 || !strings.Contains(got.err, "written by a newer agent") {
				t.Errorf("a new run beside one that has ended: %v", got)
			}
		})
		t.Run(w.name+", the earlier refuses", func(t *testing.T) {
			t.Parallel()
			h, f, id, messages := killedIn(t, w, "--agent", next, "-e", "rate=0")
			_, err := h.Run(t.Context(), "sh", "-c", "pkill -9 -f '[s]leep 5; postfix start' || true") // it would start Postfix by itself
			must(t, err)
			refusedByEarlier(t, h, f, id)
			got := spoolsweep(t, f, sweepAway(t, h)...)
			if got.status != 2 || !strings.Contains(got.err, "run "+id+" may have been left between stop and start") || !strings.Contains(got.err, "bring spoolsweep on this machine up to that version") {
				t.Errorf("a new run beside one that was cut off: %v", got)
			}
			if n := len(masters(t, h)); n > 0 {
				t.Error("Postfix was started under a journal that is not known")
			}
			succeeds(t, f, "resume", id, "-y", "--agent", next)
			settledBy(t, h, f, id, messages, "--agent", next)
		})
	}
	t.Run("in restore, the later goes on", func(t *testing.T) {
		t.Parallel()
		h, f, id, messages := killedInRestore(t)
		succeeds(t, f, "resume", id, "-y", "--agent", next)
		checkDelivered(t, h, messages, hams(messages))
		settledBy(t, h, f, id, messages, "--agent", next)
	})
	t.Run("in restore, the earlier refuses", func(t *testing.T) {
		t.Parallel()
		h, f, id, messages := killedInRestore(t, "--agent", next)
		half := checkHalf(t, h, messages)
		refusedByEarlier(t, h, f, id)
		if now := checkHalf(t, h, messages); len(now) != len(half) {
			t.Errorf("%d were back, and now %d", len(half), len(now))
		}
		succeeds(t, f, "resume", id, "-y", "--agent", next)
		checkDelivered(t, h, messages, hams(messages))
		settledBy(t, h, f, id, messages, "--agent", next)
	})
}

// killedIn has a run whose worker and section were killed while Postfix was down.
func killedIn(t *testing.T, w window, flags ...string) (*lab.Host, *fleet, string, []lab.Message) {
	t.Helper()
	h, f, r, id, messages := sweeping(t, w.vars, w.await, flags...)
	kill9(t, h, workerForm, sectionForm)
	if got := r.wait(); got.status != 2 {
		t.Fatal(got)
	}
	return h, f, id, messages
}

// killedInRestore has a run whose worker was killed while mail went back.
func killedInRestore(t *testing.T, flags ...string) (*lab.Host, *fleet, string, []lab.Message) {
	t.Helper()
	restoring := func(t *testing.T, h *lab.Host, id string) { awaitJournal(t, h, id, "intent", 2) }
	h, f, r, id, messages := sweeping(t, "auth_service: none", restoring, append(flags, "-e", "rate=10/s")...)
	kill9(t, h, workerForm)
	if got := r.wait(); got.status != 2 {
		t.Fatal(got)
	}
	return h, f, id, messages
}

// refusedByEarlier has the agent of today meet what a later one has written.
func refusedByEarlier(t *testing.T, h *lab.Host, f *fleet, id string) {
	t.Helper()
	journal := record(t, h, id, "journal")
	if !strings.HasPrefix(string(journal), "spoolsweep-journal 3 ") {
		t.Fatalf("the journal begins with %.40q", journal)
	}
	all := [][]string{{"resume", id, "-y"}, {"putback", id, "-y", "--expect", "1"}, {"purge", id, "-y", "--expect", "1"}}
	if dirs := asideDirs(t, h); len(dirs) > 0 {
		all = append(all, []string{"putback", "-y", "--expect", "1", "--adopt", dirs[0]})
	}
	for _, args := range all {
		got := spoolsweep(t, f, args...)
		if got.status != 2 || !strings.Contains(got.err+got.out, "was written by a newer agent") || !regexp.MustCompile(`resume with that one|bring spoolsweep on this machine up to that version`).MatchString(got.err+got.out) {
			t.Errorf("%s: want exit status 2, and who wrote it; got %v", args[0], got)
		}
	}
	// Who only looks is told how the queues are, all the same.
	if got := spoolsweep(t, f, "health"); got.status != 0 || !strings.Contains(got.out, "written by a newer agent") || strings.Contains(got.out, "--adopt") {
		t.Errorf("health: %v", got)
	}
	if string(record(t, h, id, "journal")) != string(journal) {
		t.Error("the earlier agent wrote into the later one's journal")
	}
}

// settledBy looks that the end is that of a run which nobody disturbed.
func settledBy(t *testing.T, h *lab.Host, f *fleet, id string, messages []lab.Message, flags ...string) {
	t.Helper()
	awaitUp(t, h, 10*time.Second)
	checkSwept(t, h, messages)
	checkLedger(t, h, f, id, flags...)
	alive(t, h)
}
