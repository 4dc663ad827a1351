package lab_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
)

// Once a run has begun it belongs to its host: these tests cut the link, kill
// the controller, the front at the far end, or let a second admin come in
// between, and look that the host does not care.

// Ways to stop and start Postfix that leave a test the time to break something
// while it is down.
const (
	slowStop  = `postfix_stop: "postfix stop; sleep 5"`
	slowStart = `postfix_start: "sleep 5; postfix start"`
	few       = "queue_warn: 50" // so that small floods are floods
)

// smallFlood fills the queues of a host with just enough mail that each queue
// is set aside and the ham of no member looks like a flood.
func smallFlood(t *testing.T, h *lab.Host) []lab.Message {
	t.Helper()
	return flooded(t, h, 1, map[string]int{"deferred": 100, "active": 100, "incoming": 100})
}

// sweepAway are the arguments of a run that goes to its end with nobody there.
func sweepAway(t *testing.T, h *lab.Host, more ...string) []string {
	t.Helper()
	return append([]string{"run", "backscatter", "-y", "-e", rulesFile(t, floodRules(h))}, more...)
}

// sweeping begins a run on a host of its own, with the host's variables and the
// command's flags, and waits until it is where await says.
func sweeping(t *testing.T, vars string, await func(*testing.T, *lab.Host, string), flags ...string) (h *lab.Host, f *fleet, r *running, id string, messages []lab.Message) {
	t.Helper()
	h = hosts(t, 1)[0]
	f = newFleet(t, []*lab.Host{h}, few, vars)
	messages = smallFlood(t, h)
	r = start(t, f, sweepAway(t, h, flags...)...)
	id = r.run()
	await(t, h, id)
	return h, f, r, id, messages
}

// eventually asks again and again: nothing tells what happens inside a host.
func eventually(t testing.TB, limit time.Duration, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// record reads a file of a run's record, past the host's network and processes.
func record(t *testing.T, h *lab.Host, id, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/lib/spoolsweep/runs", id, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return text
}

// journaled counts the records of a kind in a run's journal.
func journaled(t *testing.T, h *lab.Host, id, kind string) int {
	t.Helper()
	return len(regexp.MustCompile(`(?m)^\d+ `+kind+` `).FindAll(record(t, h, id, "journal"), -1))
}

// awaitJournal waits until the journal says so.
func awaitJournal(t *testing.T, h *lab.Host, id, kind string, n int) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("%d records %q in the journal of %s", n, kind, id), func() bool {
		return journaled(t, h, id, kind) >= n
	})
}

// inStop waits for the moment when Postfix is down and the queues are still in
// their places, which slowStop makes a long one.
func inStop(t *testing.T, h *lab.Host, id string) {
	t.Helper()
	awaitJournal(t, h, id, "stopping", 1)
	awaitDown(t, h)
	if journaled(t, h, id, "stopped") > 0 {
		t.Fatal("the stop was over too soon for this test")
	}
}

// inStart waits for the moment when the queues are exchanged and Postfix is
// about to be started, which slowStart makes a long one.
func inStart(t *testing.T, h *lab.Host, id string) {
	t.Helper()
	awaitJournal(t, h, id, "starting", 1)
	if journaled(t, h, id, "started") > 0 {
		t.Fatal("the start was over too soon for this test")
	}
}

// masters are the host's processes master(8), without those that postfix-script
// starts for a moment to look whether one runs (master -t).
func masters(t *testing.T, h *lab.Host) []int {
	t.Helper()
	pids, err := h.Pgrep(`^\S*/sbin/master -w\b`)
	must(t, err)
	return pids
}

func awaitDown(t *testing.T, h *lab.Host) {
	t.Helper()
	eventually(t, time.Minute, "Postfix down", func() bool { return len(masters(t, h)) == 0 })
}

func awaitUp(t *testing.T, h *lab.Host, limit time.Duration) {
	t.Helper()
	eventually(t, limit, "Postfix up", func() bool { return len(masters(t, h)) == 1 })
}

// runEnd waits until the host has written the end of the run.
func runEnd(t *testing.T, h *lab.Host, id string) run.Ended {
	t.Helper()
	var end run.Ended
	eventually(t, 90*time.Second, "an end of run "+id, func() bool {
		in := bufio.NewReader(bytes.NewReader(record(t, h, id, "events.jsonl")))
		for {
			line, err := in.ReadBytes('\n')
			if err == io.EOF {
				return false
			}
			var e run.Event
			must(t, json.Unmarshal(line, &e))
			if e.Kind == wire.End && e.Index < 0 {
				must(t, json.Unmarshal(e.Data, &end))
				return true
			}
		}
	})
	return end
}

// checkTold looks that attach tells a good end, and returns its results.
func checkTold(t *testing.T, f *fleet, id string) string {
	t.Helper()
	r := succeeds(t, f, "attach", id)
	if !strings.Contains(r.err, "done") || !strings.Contains(r.out, "moved back") {
		t.Errorf("attach does not tell how the run ended: %v", r)
	}
	return r.out
}

func TestLinkCutForGood(t *testing.T) {
	t.Parallel()
	h, f, r, id, messages := sweeping(t, slowStop, inStop, "--reconnect", "3s", "-T", "2s")
	must(t, h.LinkDown())
	if n := journaled(t, h, id, "starting"); n > 0 {
		t.Fatal("the link was cut too late for this test")
	}

	if end := runEnd(t, h, id); end.Status != "ok" {
		t.Errorf("the run ended %+v", end)
	}
	checkSwept(t, h, messages)
	alive(t, h)

	got := r.wait()
	if got.status != 4 {
		t.Errorf("the controller: want exit status 4, got %v", got)
	}
	if next := "the run goes on there: spoolsweep attach " + id + " --inventory " + f.inventory; !strings.Contains(got.err, next) {
		t.Errorf("the controller does not say %q: %v", next, got)
	}
	// Without the link attach can only say so.
	ends(t, 4, f, "attach", id, "-T", "1s")
	must(t, h.LinkUp())
	checkTold(t, f, id)
}

// A link that was silent for so long that both sides gave it up.
func TestLinkComesBack(t *testing.T) {
	t.Parallel()
	h, f, r, id, messages := sweeping(t, slowStop, inStop, "-T", "2s", "-e", "rate=2/s") // half a minute
	must(t, h.LinkDown())
	eventually(t, wire.Lost+10*time.Second, "end of the front", func() bool {
		fronts, err := h.Pgrep(frontForm)
		must(t, err)
		return len(fronts) == 0
	})
	time.Sleep(2 * time.Second) // the other side notices by itself too, and dials in vain
	if journaled(t, h, id, "outcome") == 0 {
		t.Error("the host did not go on without a link")
	}
	must(t, h.LinkUp())
	if got := r.wait(); got.status != 0 || got.out != checkTold(t, f, id) {
		t.Errorf("want exit status 0, and each result once, as attach tells them; got %v", got)
	}
	checkSwept(t, h, messages)
	alive(t, h)
}

// A link that is silent for a moment needs no new one.
func TestLinkStalls(t *testing.T) {
	t.Parallel()
	h, f, r, id, messages := sweeping(t, slowStop, inStop)
	must(t, h.LinkDown())
	time.Sleep(4 * time.Second)
	must(t, h.LinkUp())
	if got := r.wait(); got.status != 0 || got.out != checkTold(t, f, id) {
		t.Errorf("want exit status 0, and each result once, as attach tells them; got %v", got)
	}
	checkSwept(t, h, messages)
}

// Command lines of the agent in its three roles.
const (
	frontForm   = `^\S*/spoolsweep-agent-[0-9a-f]{64}$`
	workerForm  = `^\S*/spoolsweep-agent-[0-9a-f]{64} worker `
	sectionForm = `^\S*/spoolsweep-agent-[0-9a-f]{64} section `
)

// kill9 kills the processes of each form, in their order, at once.
func kill9(t *testing.T, h *lab.Host, forms ...string) {
	t.Helper()
	var all []int
	for _, form := range forms {
		var pids []int
		// Two for a moment: a child has its parent's command line until it executes.
		eventually(t, time.Minute, "one process like "+form, func() bool {
			var err error
			pids, err = h.Pgrep(form)
			must(t, err)
			return len(pids) == 1
		})
		all = append(all, pids...)
	}
	for _, pid := range all {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
}

// The front owns nothing: killed again and again, it is no more than a link
// that was lost.
func TestFrontKilled(t *testing.T) {
	t.Parallel()
	h, f, r, id, messages := sweeping(t, slowStop, inStop)
	kill9(t, h, frontForm)
	for _, kind := range []string{"starting", "intent"} {
		awaitJournal(t, h, id, kind, 1)
		if fronts, err := h.Pgrep(frontForm); err == nil && len(fronts) == 1 {
			_ = syscall.Kill(fronts[0], syscall.SIGKILL) // or it has just ended
		}
	}
	if got := r.wait(); got.status != 0 || got.out != checkTold(t, f, id) {
		t.Errorf("want exit status 0, and each result once, as attach tells them; got %v", got)
	}
	checkSwept(t, h, messages)
	alive(t, h)
}

func TestControllerKilled(t *testing.T) {
	t.Parallel()
	h, f, r, id, messages := sweeping(t, slowStop, inStop)
	must(t, r.Process.Kill())
	r.wait()
	if n := journaled(t, h, id, "starting"); n > 0 {
		t.Fatal("the controller was killed too late for this test")
	}
	if end := runEnd(t, h, id); end.Status != "ok" {
		t.Errorf("the run ended %+v", end)
	}
	checkSwept(t, h, messages)
	alive(t, h)
	checkTold(t, f, id)
}

func TestTwoAdmins(t *testing.T) {
	t.Parallel()
	h, f, first, id, messages := sweeping(t, slowStop, inStop)

	// Another inventory of the same host, with records elsewhere: one lock all
	// the same.
	other := newFleet(t, []*lab.Host{h}, few, "state_directory: /var/lib/other")
	for _, second := range []struct {
		name string
		f    *fleet
		args []string
	}{
		{"run", f, sweepAway(t, h)},
		{"run from another inventory", other, sweepAway(t, h)},
		{"resume", f, []string{"resume", id, "-y"}},
	} {
		r := spoolsweep(t, second.f, second.args...)
		if r.status != 2 || !strings.Contains(r.err, "another run works on this queue directory") {
			t.Errorf("%s while a run works: want exit status 2 and why, got %v", second.name, r)
		}
		if second.f == f && !strings.Contains(r.err, "spoolsweep attach "+id+" follows it") {
			t.Errorf("%s while run %s works does not say how to follow it: %v", second.name, id, r)
		}
	}
	if got := first.wait(); got.status != 0 {
		t.Errorf("the first run: %v", got)
	}
	checkSwept(t, h, messages)
	dirs, err := filepath.Glob(filepath.Join(h.Dir, "upper/var/lib/*/runs/*"))
	must(t, err)
	if len(dirs) != 1 || filepath.Base(dirs[0]) != id {
		t.Errorf("runs on the host: %q, want only %s", dirs, id)
	}
}

// Two that begin in the same moment: one of them is refused, not both.
func TestTwoAdminsAtOnce(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few, slowStop)
	messages := smallFlood(t, h)
	both := []*running{start(t, f, sweepAway(t, h)...), start(t, f, sweepAway(t, h)...)}
	statuses := []int{both[0].wait().status, both[1].wait().status}
	slices.Sort(statuses)
	if !slices.Equal(statuses, []int{0, 2}) {
		t.Errorf("exit statuses %v, want 0 and 2: %v and %v", statuses, both[0].wait(), both[1].wait())
	}
	checkSwept(t, h, messages)
}
