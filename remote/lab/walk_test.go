package lab_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"spoolsweep/remote/lab"
)

var (
	walk     = flag.Int("walk", 40, "places of the crash walk on real Postfix, chosen at random; 0: all of them")
	walkSeed = flag.Uint64("walk.seed", 0, "what these are chosen from; 0: others each time")
)

// walkingStep is the counter of an agent that counts the changes that all its
// processes on a host make, and before the one whose number stands in kill ends
// itself, or worker and section both, as nobody can who only looks on. Where the
// host has no such files it counts nothing.
const walkingStep = `func(what string) error {
	steps, err := os.OpenFile("/etc/walk/steps", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return nil
	}
	defer steps.Close()
	if _, err := steps.WriteString("."); err != nil {
		return nil
	}
	n, err := steps.Seek(0, 1) // behind what was just appended, whoever else appends
	if err != nil {
		return nil
	}
	order, _ := os.ReadFile("/etc/walk/kill")
	at, whom, _ := strings.Cut(strings.TrimSpace(string(order)), " ")
	if at != fmt.Sprint(n) {
		return nil
	}
	_ = os.WriteFile("/etc/walk/killed", []byte(what), 0o600)
	all, _ := os.ReadDir("/proc")
	for _, p := range all {
		var pid int
		line, err := os.ReadFile("/proc/" + p.Name() + "/cmdline")
		if args := strings.Split(string(line), "\x00"); err != nil || whom != "both" || len(args) < 2 || args[1] != "worker" && args[1] != "section" {
			continue
		}
		if _, err := fmt.Sscan(p.Name(), &pid); err == nil && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}`

// TestCrashWalk kills the agent at the changes that it makes to files and processes,
// by their number, in a whole run on a real Postfix with what follows it, and has it
// carried on. The end is that of a run that nobody disturbed. The name of a subtest
// repeats it:
//
//	SPOOLSWEEP_LAB=require go test ./remote/lab -run 'TestCrashWalk/./^(purge|putback|purge_both_117)$' -walk 0
func TestCrashWalk(t *testing.T) {
	t.Parallel()
	hosts(t, 0) // without a lab it is skipped as a whole
	seed := *walkSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	agent := agentWith(t, walkingStep)
	type place struct {
		after, whom string
		n           int
	}
	var mu sync.Mutex // guards what follows
	steps, died := map[string]int{}, 0
	afters := []string{"purge", "putback"}
	t.Run("undisturbed", func(t *testing.T) {
		for _, after := range afters {
			t.Run(after, func(t *testing.T) {
				t.Parallel()
				w := &walker{t: t, agent: agent, after: after}
				n := w.run(0, "")
				mu.Lock()
				defer mu.Unlock()
				steps[after] = n
			})
		}
	})
	if t.Failed() {
		return
	}
	var places []place
	for _, after := range afters {
		if steps[after] < 150 {
			t.Fatalf("only %d steps: does this test still look?", steps[after])
		}
		t.Logf("a run and its %s: %d steps", after, steps[after])
		for n := range steps[after] {
			for _, whom := range []string{"self", "both"} {
				places = append(places, place{after, whom, n + 1})
			}
		}
	}
	if *walk > 0 {
		random.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
		places = places[:min(*walk, len(places))]
	}
	t.Run("places", func(t *testing.T) {
		for _, p := range places {
			t.Run(fmt.Sprintf("%s %s %d", p.after, p.whom, p.n), func(t *testing.T) {
				t.Parallel()
				w := &walker{t: t, agent: agent, after: p.after}
				w.run(p.n, p.whom)
				mu.Lock()
				defer mu.Unlock()
				if w.died {
					died++
				}
			})
		}
	})
	t.Logf("%d places, %d reached", len(places), died)
}

// walker is one run of the walk.
type walker struct {
	t            *testing.T
	agent, after string
	h            *lab.Host
	f            *fleet
	whom         string
	died         bool
}

// run sweeps a host, and has what is aside purged or put back, with a kill before
// change n; it returns how many there were.
func (w *walker) run(n int, whom string) (steps int) {
	t := w.t
	w.whom = whom
	w.h = hosts(t, 1)[0]
	w.f = newFleet(t, []*lab.Host{w.h}, "queue_warn: 5")
	messages := flooded(t, w.h, 1, map[string]int{"deferred": 10, "active": 10, "incoming": 10})
	inside(t, w.h, fmt.Sprintf("mkdir /etc/walk; echo %d %s >/etc/walk/kill; : >/etc/walk/steps", n, whom))

	id := w.sweep(messages)
	for left := w.aside(messages); len(left) > 0; left = w.aside(messages) {
		args := []string{w.after, id, "-y", "--expect", strconv.Itoa(len(left)), "--agent", w.agent}
		if w.after == "putback" {
			args = append(args, "--include-spam", "--rate", "0", "--live-max", "0")
		}
		if r := spoolsweep(t, w.f, args...); r.status != 0 {
			w.resume(id, r)
		}
	}
	awaitUp(t, w.h, 10*time.Second) // a child of master's is one too until it executes its own program
	a, err := w.h.Audit(t.Context())
	must(t, err)
	want := slices.Sorted(slices.Values(ids(messages)))
	if w.after == "purge" {
		for _, id := range spams(messages) {
			if places := a.Found[id]; len(places) > 0 {
				t.Errorf("%s was purged and is at %v", id, places)
			}
		}
		want = hams(messages)
		messages = slices.DeleteFunc(messages, func(m lab.Message) bool { return m.Spam })
	}
	checkPlaces(t, w.h, a, messages, "live", live, want)
	if dirs := asideDirs(t, w.h); len(dirs) > 0 {
		t.Errorf("left in the queue directory: %q", dirs)
	}
	checkLedger(t, w.h, w.f, id)
	alive(t, w.h)
	out, err := w.h.Run(t.Context(), "sh", "-c", "stat -c %s /etc/walk/steps; cat /etc/walk/killed 2>/dev/null || true")
	must(t, err)
	count, killed, _ := strings.Cut(out, "\n")
	steps, err = strconv.Atoi(count)
	must(t, err)
	w.died = killed != ""
	if t.Failed() {
		t.Logf("killed before step %d (%s); journal:\n%s\nworker.log:\n%s", n, killed, record(t, w.h, id, "journal"), record(t, w.h, id, "worker.log"))
	}
	return steps
}

// sweep is the run, to its end.
func (w *walker) sweep(messages []lab.Message) (id string) {
	t := w.t
	for {
		r := spoolsweep(t, w.f, sweepAway(t, w.h, "-e", "rate=0", "--agent", w.agent)...)
		m := runID.FindStringSubmatch(r.err)
		if m != nil {
			id = m[1]
		}
		if r.status == 0 {
			return id
		}
		if m != nil && len(record(t, w.h, id, "run.json")) > 0 {
			w.resume(id, r)
			return id
		}
		// It had not begun: nothing was changed, and it is typed again.
		if !w.dead() {
			t.Fatalf("nobody was killed: %v", r)
		}
		inside(t, w.h, "echo 0 >/etc/walk/kill")
	}
}

// resume carries a run on that ended as r did. Before that Postfix runs, where
// worker or section lives, and no message has two names.
func (w *walker) resume(id string, r result) {
	t := w.t
	t.Helper()
	if !w.dead() {
		t.Fatalf("nobody was killed: %v", r)
	}
	if w.whom == "self" {
		awaitUp(t, w.h, 20*time.Second)
	}
	a, err := w.h.Audit(t.Context())
	must(t, err)
	if twice := a.Twice(); len(twice) > 0 {
		t.Errorf("after the kill twice: %q", twice)
	}
	if r := spoolsweep(t, w.f, "resume", id, "-y", "--agent", w.agent); r.status != 0 {
		t.Fatalf("resume: %v", r)
	}
}

func (w *walker) dead() bool {
	_, err := w.h.Run(w.t.Context(), "test", "-s", "/etc/walk/killed")
	return err == nil
}

// aside looks that what is aside is the spam, and returns it.
func (w *walker) aside(messages []lab.Message) []string {
	a, err := w.h.Audit(w.t.Context())
	must(w.t, err)
	left := a.In(aside...)
	for _, id := range left {
		if _, spam := slices.BinarySearch(spams(messages), id); !spam {
			w.t.Errorf("ham %s is aside", id)
		}
	}
	return left
}
