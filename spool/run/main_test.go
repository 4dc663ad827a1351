package run

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// The test program is the agent's worker and section, and the practice Postfix.
func TestMain(m *testing.M) {
	args := os.Args[1:]
	if code, mine := practice.Main(args); mine {
		os.Exit(code)
	}
	if len(args) == 3 && slices.Contains([]string{"worker", "section", "settle"}, args[0]) {
		os.Exit(environment().Main(args[0], args[1], args[2]))
	}
	// Most of the time of a run here is the two seconds in which the start of
	// Postfix is proved: many of them wait side by side.
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// environment finds the practice host of a call where a mail server's
// configuration directory is named, so that tests may run side by side.
func environment() *Env {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	units := func(v stage.Vars) *Units {
		if _, err := os.Stat(filepath.Join(v.ConfigDirectory, "units")); err != nil {
			return nil
		}
		return &Units{Run: filepath.Join(v.ConfigDirectory, "units/systemd-run"), Control: filepath.Join(v.ConfigDirectory, "units/systemctl")}
	}
	return &Env{Build: "test", Executable: self, StateDirectory: "/nonexistent/state", Units: units, Postfix: func(_ context.Context, v stage.Vars) (*spool.Postfix, error) {
		p, err := practice.New(v.ConfigDirectory)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(filepath.Join(v.ConfigDirectory, "broken")); err == nil && len(os.Args) == 4 && os.Args[1] == "section" {
			return nil, errors.New("postconf: a test broke it")
		}
		p.Stop, p.Start = held(v.ConfigDirectory, "stop", p.Stop), held(v.ConfigDirectory, "start", p.Start)
		p.Super = held(v.ConfigDirectory, "super", p.Super)
		return p, nil
	}}
}

// held is a command that waits before it does anything, while the file NAME.hold
// is there, and says so by NAME.held.
func held(dir, name string, argv []string) []string {
	script := fmt.Sprintf(`while [ -e %[1]s/%[2]s.hold ]; do touch %[1]s/%[2]s.held; sleep 0.02; done; exec "$@"`, dir, name)
	return append([]string{"/bin/sh", "-c", script, "sh"}, argv...)
}

// host is a practice host with the flood in its queues, running.
type host struct {
	*practice.Host
	*Env
	t    *testing.T
	vars stage.Vars
}

func newHost(t *testing.T, messages int) *host {
	t.Helper()
	t.Parallel()
	top, err := os.MkdirTemp("", "run") // not t.TempDir: too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(top, "chavez")
	// Nearly nothing is delivered: what is in the queues stays to be looked at.
	if err := practice.Make(dir, "chavez", practice.Options{Rate: 0.001}); err != nil {
		t.Fatal(err)
	}
	p, err := practice.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Host: p, Env: environment(), t: t, vars: stage.Vars{ConfigDirectory: dir, StateDirectory: p.State(), QueueWarn: 50}}
	t.Cleanup(func() {
		for _, name := range []string{"stop", "start", "super"} {
			h.letGo(name)
		}
		for _, role := range []string{"section", "worker", "settle"} {
			for _, pid := range h.processes(role) {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		_ = p.Stop(context.Background())
		if t.Failed() {
			h.tell()
		}
		os.RemoveAll(top)
	})
	if messages > 0 {
		if _, err := p.SubmitAll(practice.Incident("chavez", "spam-account", messages, 7)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

// tell logs what a failed test left.
func (h *host) tell() {
	dirs, _ := filepath.Glob(filepath.Join(h.State(), "runs", "*"))
	for _, dir := range dirs {
		for _, name := range []string{eventsName, "journal", "worker.log"} {
			text, _ := os.ReadFile(filepath.Join(dir, name))
			for line := range strings.Lines(string(text)) {
				h.t.Logf("%s: %.300s", name, strings.TrimSpace(line))
			}
		}
	}
}

// processes are those that work on this host in a role.
func (h *host) processes(role string) []int {
	out, err := exec.Command("ps", "-axww", "-o", "pid=,args=").Output()
	if err != nil {
		h.t.Fatal(err)
	}
	var pids []int
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) == 5 && f[1] == h.Executable && f[2] == role && f[3] == h.State() {
			pid, err := strconv.Atoi(f[0])
			if err != nil {
				h.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *host) kill(role string) {
	h.t.Helper()
	var pids []int
	h.await("a "+role, func() bool { pids = h.processes(role); return len(pids) == 1 })
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		h.t.Fatal(err)
	}
	h.await("the end of the "+role, func() bool { return len(h.processes(role)) == 0 })
}

func (h *host) file(name string) string { return filepath.Join(h.Dir, name) }

// hold keeps the next stop or start command waiting; awaitHeld until it does.
func (h *host) hold(name string) {
	h.t.Helper()
	if err := os.WriteFile(h.file(name+".hold"), nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) awaitHeld(name string) {
	h.t.Helper()
	h.await("a held "+name, func() bool { _, err := os.Stat(h.file(name + ".held")); return err == nil })
}

func (h *host) letGo(name string) {
	os.Remove(h.file(name + ".hold"))
	os.Remove(h.file(name + ".held"))
}

const patience = 60 * time.Second

// await polls for an event of another process.
func (h *host) await(what string, is func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("no sign of %s", what)
		}
	}
}

const runID = "20261123T231500Z-ab12"

// rules take all that is labelled spam in an incident, and nothing else.
const rules = `{"any": [{"sasl_user": "spam-account"}, {"all": [{"sender": "<>"}, {"recipient": "spam-account@chavez.practice.test"}]}]}`

// someRules take what was sent, and miss the bounces.
const someRules = `{"sasl_user": "spam-account"}`

// restoreArgs are without manners: a canary waits for seconds where next to
// nothing is delivered.
const restoreArgs = `{"rate":0,"live_max":0,"canary":0}`

// plan is the shipped one.
func plan(spam string) []stage.Step {
	step := func(name, args string) stage.Step { return stage.Step{Stage: name, Args: json.RawMessage(args)} }
	return []stage.Step{
		step("count", `{}`), step("stop", `{}`), step("set-aside", `{"queues":"auto"}`), step("start", `{}`),
		step("classify", `{"spam":`+spam+`,"ham":{}}`), step("confirm", `{"show":"classify"}`),
		step("restore", restoreArgs), step("count", `{}`),
	}
}

func (h *host) info(steps []stage.Step) *Info {
	return &Info{
		Run: runID, Host: "chavez", Hosts: []string{"chavez"}, Began: time.Now().UTC(), Who: "ana@laptop", Controller: "ana@laptop/1",
		Name: "backscatter", Vars: h.vars, Yes: true, Steps: steps,
	}
}

func (h *host) begin(steps []stage.Step) {
	h.t.Helper()
	if err := h.Begin(h.t.Context(), h.info(steps)); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) request() *ResumeRequest {
	return &ResumeRequest{Vars: h.vars, Run: runID, By: "bob@laptop"}
}

// resume goes on, with a new plan under -y unless change says otherwise.
func (h *host) resume(change func(q *ResumeRequest)) {
	h.t.Helper()
	q := h.request()
	if change != nil {
		change(q)
	}
	if len(q.Steps) > 0 && q.Yes == nil {
		yes := true
		q.Yes = &yes
	}
	if err := h.Resume(h.t.Context(), q); err != nil {
		h.t.Fatal(err)
	}
}

// refused says why a resume is.
func (h *host) refused(change func(q *ResumeRequest)) error {
	h.t.Helper()
	q := h.request()
	change(q)
	err := h.Resume(h.t.Context(), q)
	if err == nil {
		h.t.Fatalf("resume %+v: got nil, want an error", q)
	}
	return err
}

func answer(number int, kind, value string) func(q *ResumeRequest) {
	return func(q *ResumeRequest) {
		q.Number, q.Answer = number, &stage.Answer{Kind: kind, Value: value, By: q.By}
	}
}

func (h *host) state() *State {
	h.t.Helper()
	p, err := h.Env.Postfix(h.t.Context(), h.vars)
	if err != nil {
		h.t.Fatal(err)
	}
	s, err := h.StateOf(p, h.vars, runID)
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// rest waits until nobody works on the run, and looks that it came to phase.
func (h *host) rest(phase string) *State {
	h.t.Helper()
	var s *State
	h.await("an end of the run", func() bool { s = h.state(); return s.Phase != Working })
	if s.Phase != phase {
		h.t.Fatalf("the run is %s (asks %+v, error %q), want %s", s.Phase, s.Ask, s.Error, phase)
	}
	return s
}

// events are all events of the run.
func (h *host) events() []Event {
	h.t.Helper()
	var all []Event
	err := h.Events(h.t.Context(), h.vars, runID, 1, func(line []byte) error {
		var e Event
		err := json.Unmarshal(line, &e)
		all = append(all, e)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	for i, e := range all {
		if e.Seq != int64(i)+1 || e.Run != runID {
			h.t.Fatalf("event %d has number %d, run %s", i+1, e.Seq, e.Run)
		}
	}
	return all
}

// told says whether an event of that kind has text in its data.
func (h *host) told(kind, text string) bool {
	h.t.Helper()
	return slices.ContainsFunc(h.events(), func(e Event) bool { return e.Kind == kind && strings.Contains(string(e.Data), text) })
}

// result is the last result of a stage.
func result[T any](h *host, name string) T {
	h.t.Helper()
	var v T
	if !last(filepath.Join(h.State(), "runs", runID), name, &v) {
		h.t.Fatalf("no result of %s", name)
	}
	return v
}

// audited looks that nothing is lost nor twice, and that Postfix runs.
func (h *host) audited() practice.Audit {
	h.t.Helper()
	a, err := h.Audit()
	if err != nil {
		h.t.Fatal(err)
	}
	if l, d := a.Lost(), a.Twice(); len(l)+len(d) > 0 {
		h.t.Fatalf("lost %v, twice %v", l, d)
	}
	if _, running := h.Running(); !running {
		h.t.Error("Postfix does not run")
	}
	return a
}

func settled(p practice.Place) bool { return p.Live() || p.Delivered() }

// swept looks that all spam is aside, and all ham is live or delivered.
func (h *host) swept() {
	h.t.Helper()
	a := h.audited()
	if left := a.Elsewhere(practice.Spam, practice.Place.Aside); len(left) > 0 {
		h.t.Errorf("%d spam messages are not aside: %s", len(left), left[0])
	}
	if left := a.Elsewhere(practice.Ham, settled); len(left) > 0 {
		h.t.Errorf("%d ham messages are neither live nor delivered: %s", len(left), left[0])
	}
	h.balanced()
}

// balanced looks that the run's ledger accounts for every message.
func (h *host) balanced() (map[string]stage.Entry, *Account) {
	h.t.Helper()
	all := map[string]stage.Entry{}
	s, err := h.Ledger(h.t.Context(), h.vars, runID, func(e *stage.Entry) error {
		if _, twice := all[e.ID]; twice {
			h.t.Errorf("%s stands in the ledger twice", e.ID)
		}
		all[e.ID] = *e
		return nil
	}, func(err error) { h.t.Error(err) })
	if err != nil {
		h.t.Fatal(err)
	}
	if s.SetAside != s.Restored+s.Collisions+s.Left+s.Purged+s.SentMeanwhile || s.Missing != 0 || s.SentMeanwhile != 0 {
		h.t.Errorf("the ledger does not balance: %+v", s)
	}
	return all, s
}

// allAside looks that no message is anywhere else.
func (h *host) allAside() {
	h.t.Helper()
	a := h.audited()
	for _, label := range []practice.Label{practice.Spam, practice.Ham} {
		if left := a.Elsewhere(label, practice.Place.Aside); len(left) > 0 {
			h.t.Errorf("%d %s messages are not aside: %s", len(left), label, left[0])
		}
	}
}

// endedStages says how often each stage ended well.
func (h *host) endedStages() map[string]int {
	h.t.Helper()
	n := map[string]int{}
	for _, e := range h.events() {
		if e.Kind == evEnd && e.Stage != "" && strings.Contains(string(e.Data), `"status":"ok"`) {
			n[e.Stage]++
		}
	}
	return n
}
