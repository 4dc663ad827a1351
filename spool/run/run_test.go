package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

const flood = 300 // 135 spam, 90 bounces, 75 ham

func spamAndHam(h *host) (spam, ham int64) {
	a := h.audited()
	for _, m := range a.Messages {
		if m.Label == practice.Spam {
			spam++
		} else {
			ham++
		}
	}
	return spam, ham
}

// The whole run with rules and -y: no question, the spam aside, the ham back,
// and of the host nothing else has changed.
func TestRun(t *testing.T) {
	h := newHost(t, flood)
	before := h.outside()
	h.begin(plan(rules))
	s := h.rest(Finished)
	h.swept()
	spam, ham := spamAndHam(h)
	c := result[stage.Classified](h, "classify")
	if c.Spam != spam || c.Ham != ham || c.Unreadable+c.Incomplete != 0 {
		t.Errorf("classified %+v, want %d spam, %d ham", c.Verdicts, spam, ham)
	}
	r := result[stage.Restored](h, "restore")
	if r.Restored != ham || r.Left != spam || r.Collisions+r.Failed != 0 {
		t.Errorf("restored %+v, want %d restored, %d left", r, ham, spam)
	}
	if s.Aside != spam || s.Down || s.Next != 8 || s.Stages != 8 {
		t.Errorf("state: %+v", s)
	}
	aside := result[stage.Aside](h, "set-aside")
	var sum int64
	for q, at := range aside.Queues {
		if q != spool.Defer { // logs are no messages
			sum += at.Messages
		}
		if at.To != string(q)+".spamfull" {
			t.Errorf("%s went to %s", q, at.To)
		}
	}
	if sum != spam+ham {
		t.Errorf("set aside %d, want %d", sum, spam+ham)
	}
	if started := result[stage.Started](h, "start"); started.Downtime <= 0 || started.Proved < 1.9 {
		t.Errorf("started: %+v", started)
	}
	want := map[string]int{"count": 2, "stop": 1, "set-aside": 1, "start": 1, "classify": 1, "confirm": 1, "restore": 1}
	if d := cmp.Diff(want, h.endedStages()); d != "" {
		t.Errorf("stages that ended (-want +got): %s", d)
	}
	if d := cmp.Diff(before, h.outside()); d != "" {
		t.Errorf("changed outside of spool and state: %s", d)
	}
	h.closed()
	h.inheritsNothing()
	if err := h.refused(func(*ResumeRequest) {}); !errors.Is(err, ErrNothing) {
		t.Errorf("resume of a finished run: got %v, want %v", err, ErrNothing)
	}
	if runs, err := h.Runs(t.Context(), h.vars); err != nil || len(runs) != 1 || runs[0].Phase != Finished {
		t.Errorf("runs: %v, %v", runs, err)
	}
	log, err := os.ReadFile(filepath.Join(h.State(), "runs", runID, "worker.log"))
	if err != nil || len(log) > 0 {
		t.Errorf("worker.log: %q, %v", log, err)
	}
	// What went is live again; the next run finds nothing to do there.
	if err := h.Begin(t.Context(), h.info(plan(rules))); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a run of the same id: got %v", err)
	}
}

// outside lists what no run may touch.
func (h *host) outside() []string {
	h.t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Dir(h.Dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == h.State() || path == h.Spool() {
			if d != nil && d.IsDir() && err == nil {
				return filepath.SkipDir
			}
			return err
		}
		if s := strings.TrimPrefix(path, h.Dir); !strings.HasPrefix(s, "/delivered/") && s != "/delivered" && s != "/mail.log" {
			all = append(all, s)
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// closed looks that nobody else can read the record.
func (h *host) closed() {
	h.t.Helper()
	err := filepath.WalkDir(h.State(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		s, err := d.Info()
		if err != nil {
			return err
		}
		if s.Mode().Perm()&0o077 != 0 {
			h.t.Errorf("%s has mode %v", path, s.Mode())
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// inheritsNothing looks that the Postfix that a section started has no handle of
// ours: a lock that it held would be held for ever. Nor may it be spared or
// chosen by the OOM killer as the section is, nor ignore a signal.
func (h *host) inheritsNothing() {
	h.t.Helper()
	p, err := h.Env.Postfix(h.t.Context(), h.vars)
	if err != nil {
		h.t.Fatal(err)
	}
	lock, err := spool.Lock(p)
	if err != nil {
		h.t.Fatalf("the lock while only Postfix runs: %v", err)
	}
	lock.Close()
	if alive(filepath.Join(h.State(), "runs", runID)) {
		h.t.Error("the run's folder is locked while only Postfix runs")
	}
	master, _ := h.Running()
	proc := fmt.Sprintf("/proc/%d/", master)
	handles, err := os.ReadDir(proc + "fd")
	if errors.Is(err, fs.ErrNotExist) {
		return // no Linux
	}
	if err != nil {
		h.t.Fatal(err)
	}
	for _, fd := range handles {
		at, err := os.Readlink(proc + "fd/" + fd.Name())
		if err == nil && (at == h.Spool() || strings.HasPrefix(at, h.State())) {
			h.t.Errorf("Postfix has %s open as %s", at, fd.Name())
		}
	}
	mine, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		h.t.Fatal(err)
	}
	its, err := os.ReadFile(proc + "oom_score_adj")
	if err != nil || string(its) != string(mine) {
		h.t.Errorf("oom_score_adj of Postfix: %q, %v, want %q", its, err, mine)
	}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		h.t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/status")
	if err != nil {
		h.t.Fatal(err)
	}
	// None but those that this test was started with, as by nohup.
	got, err1 := strconv.ParseUint(field(status, "SigIgn:"), 16, 64)
	had, err2 := strconv.ParseUint(field(self, "SigIgn:"), 16, 64)
	if err1 != nil || err2 != nil || got&^had != 0 {
		h.t.Errorf("signals that Postfix ignores: %x, want at most %x", got, had)
	}
}

func field(status []byte, name string) string {
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// Without rules mail flows and the run waits for them; with rules it goes back
// to classify; with better ones it moves what is left, and nothing twice.
func TestRulesOnTheWay(t *testing.T) {
	h := newHost(t, flood)
	h.begin(plan("{}"))
	s := h.rest(Waiting)
	if s.Ask == nil || s.Ask.Kind != "rules" || s.Ask.Index != 4 || s.Ask.Number != 1 {
		t.Fatalf("asks %+v, want rules", s.Ask)
	}
	h.allAside()
	spam, ham := spamAndHam(h)
	if s.Aside != spam+ham {
		t.Errorf("aside: %d, want %d", s.Aside, spam+ham)
	}
	if n := len(h.processes("worker")) + len(h.processes("section")); n != 0 {
		t.Errorf("%d processes while it waits", n)
	}
	h.inheritsNothing()

	// Without new rules it would only ask again.
	if err := h.refused(func(q *ResumeRequest) { q.Steps = plan("{}") }); !errors.Is(err, ErrNothing) {
		t.Errorf("resume without rules: got %v, want %v", err, ErrNothing)
	}
	// What nobody judged is not ham: a put back would send the flood.
	p, err := h.Preview(t.Context(), h.vars, runID)
	if err != nil {
		t.Fatal(err)
	}
	// 90 bounces are not enough of one source to tell, 135 messages are.
	if p.ByKind["ham"] != 0 || p.ByKind["flood"] != 135 || p.ByKind["never judged"] != 75+90 || p.Going != 75+90 {
		t.Errorf("a put back before there are rules would send %d of %d: %v", p.Going, p.All, p.ByKind)
	}

	// Rules that miss the bounces: it waits, names the source, and moves nothing.
	h.resume(func(q *ResumeRequest) {
		q.Steps, q.Extra = plan(someRules), map[string]any{"x": "y"}
		q.Steps[5].Args = []byte(`{"show":"classify","max_source":50}`)
	})
	s = h.rest(Waiting)
	if s.Ask.Kind != "confirm" || s.Ask.Number != 2 || !strings.Contains(string(s.Ask.Data), "bounces-to spam-account@chavez.practice.test") {
		t.Errorf("asks %d, %s %s, want confirm", s.Ask.Number, s.Ask.Kind, s.Ask.Data)
	}
	h.allAside()

	h.resume(func(q *ResumeRequest) { q.Steps = plan(rules) })
	h.rest(Finished)
	h.swept()
	if r := result[stage.Restored](h, "restore"); r.Restored != ham {
		t.Errorf("restored %d, want %d", r.Restored, ham)
	}
	if info, err := h.Info(h.vars, runID); err != nil || info.Extra["x"] != "y" || info.Controller != "ana@laptop/1" || !info.Yes {
		t.Errorf("info: %+v, %v", info, err)
	}

	// The other way round: now the bounces are ham as well. The -y of before was not
	// said of these rules.
	q := h.request()
	q.Steps = plan(someRules)
	if err := h.Resume(t.Context(), q); err != nil {
		t.Fatal(err)
	}
	if s = h.rest(Waiting); s.Ask.Kind != "confirm" {
		t.Errorf("asks %+v, want confirm", s.Ask)
	}
	h.swept()
	yes := true
	h.resume(func(q *ResumeRequest) { q.Yes = &yes })
	h.rest(Finished)
	a := h.audited()
	if r := result[stage.Restored](h, "restore"); r.Restored != 90 || r.Left != 135 {
		t.Errorf("restored %d, left %d, want 90 and 135", r.Restored, r.Left)
	}
	var live int
	for _, m := range a.Messages {
		if settled(m.Places[0]) {
			live++
		}
	}
	if live != 75+90 {
		t.Errorf("%d messages are live, want %d", live, 75+90)
	}
	if got := h.endedStages(); got["stop"] != 1 || got["restore"] != 2 || got["classify"] < 3 {
		t.Errorf("stages that ended: %v", got)
	}
}

func TestConfirm(t *testing.T) {
	h := newHost(t, flood)
	info := h.info(plan(rules))
	info.Yes = false
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	s := h.rest(Waiting)
	if s.Ask.Kind != "confirm" || s.Ask.Number != 1 {
		t.Fatalf("asks %+v, want confirm", s.Ask)
	}
	h.allAside()
	list := result[stage.Classified](h, "classify").List

	for _, tt := range []struct {
		name   string
		change func(q *ResumeRequest)
		want   string
	}{
		{"a wrong number", answer(2, "confirm", list), "question 2 is not open"},
		{"number 0", answer(0, "confirm", list), "question 0 is not open"},
		{"another kind", answer(1, "slot", ""), `question 1 is about confirm, not "slot"`},
		{"with a plan", func(q *ResumeRequest) { answer(1, "confirm", list)(q); q.Steps = plan(someRules) }, "does not change the plan"},
		{"nothing new", func(*ResumeRequest) {}, "nothing to do"},
	} {
		if err := h.refused(tt.change); !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
	// A yes to another list than the one that stands there is asked again.
	h.resume(answer(1, "confirm", "another"))
	if s = h.rest(Waiting); s.Ask.Kind != "confirm" || s.Ask.Number != 2 {
		t.Fatalf("asks %+v, want confirm again", s.Ask)
	}
	h.allAside()
	h.resume(answer(2, "confirm", list))
	var late *AnsweredError
	if err := h.refused(answer(1, "confirm", list)); !errors.As(err, &late) && !errors.Is(err, spool.ErrBusy) {
		t.Errorf("a second answer while it works: got %v", err)
	}
	h.rest(Finished)
	err := h.refused(func(q *ResumeRequest) { q.By = "carla@laptop"; answer(2, "confirm", list)(q) })
	if !errors.As(err, &late) || late.Before == nil || late.Before.By != "bob@laptop" || !strings.Contains(err.Error(), "question 2 was answered by bob@laptop at 20") {
		t.Errorf("a second answer: got %v", err)
	}
	h.swept()
	if c := result[stage.Confirmed](h, "confirm"); c.By != "bob@laptop" || c.List != list {
		t.Errorf("confirmed: %+v", c)
	}
	if s = h.state(); len(s.History) != 2 || s.History[1].By != "bob@laptop" {
		t.Errorf("history: %+v", s.History)
	}
}

// A turn to stop Postfix is given once, by the controller that has the run.
// Of two answers at the same time one counts, and the other is told by whom and
// when it was answered: at once, while the run works on, and after its end.
func TestAnsweredOnce(t *testing.T) {
	h := newHost(t, flood)
	info := h.info(plan(rules))
	info.Yes = false
	info.Steps[6].Args = []byte(`{"rate":20,"live_max":0,"canary":0}`) // so that it works for a while
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	h.rest(Waiting)
	list := result[stage.Classified](h, "classify").List
	answers := make(chan error, 2)
	for _, who := range []string{"bob@laptop", "cleo@laptop"} {
		go func() {
			q := h.request()
			q.By = who
			answer(1, "confirm", list)(q)
			answers <- h.Resume(t.Context(), q)
		}()
	}
	first, second := <-answers, <-answers
	if first != nil {
		first, second = second, first
	}
	var late *AnsweredError
	if first != nil || !errors.As(second, &late) || late.Before == nil {
		t.Fatalf("got %v and %v, want one that counts and one that is late", first, second)
	}
	winner := late.Before.By
	for _, when := range []string{"while it works", "after its end"} {
		if when == "after its end" {
			h.rest(Finished)
		} else if s := h.state(); s.Phase != Working {
			t.Errorf("the run is %s: too fast for this test", s.Phase)
		}
		err := h.refused(answer(1, "confirm", list))
		if !errors.As(err, &late) || !strings.Contains(err.Error(), "question 1 was answered by "+winner+" at 20") {
			t.Errorf("%s: got %v, want that %s has answered", when, err, winner)
		}
	}
	if s := h.state(); len(s.History) != 1 || s.History[0].By != winner {
		t.Errorf("history: %+v, want the answer of %s", s.History, winner)
	}
	h.swept()
}

func TestSlot(t *testing.T) {
	h := newHost(t, flood)
	info := h.info(plan(rules))
	info.Slots = true
	if err := h.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	s := h.rest(Waiting)
	if s.Ask.Kind != "slot" || s.Ask.Number != 1 || s.Ask.Index != 1 {
		t.Fatalf("asks %+v, want a slot", s.Ask)
	}
	if _, err := os.Stat(h.Spool("incoming.spamfull")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("incoming.spamfull before the slot: %v", err)
	}
	h.noFresh()
	// Another laptop takes the run over: its question is another one, and the
	// first one's turns count no more.
	h.resume(func(q *ResumeRequest) { q.Controller = "bob@laptop/2" })
	if s = h.rest(Waiting); s.Ask.Kind != "slot" || s.Ask.Number != 2 {
		t.Fatalf("asks %+v, want a second slot", s.Ask)
	}
	var gone *AnsweredError
	if err := h.refused(answer(1, "slot", "")); !errors.As(err, &gone) || !strings.Contains(err.Error(), "resumed by bob@laptop") {
		t.Errorf("an answer to the first question: got %v", err)
	}
	err := h.refused(func(q *ResumeRequest) { answer(2, "slot", "")(q); q.Controller = "ana@laptop/1" })
	if !strings.Contains(err.Error(), "taken over by bob@laptop/2") {
		t.Errorf("a turn given by the old controller: got %v", err)
	}
	// The worker dies with the turn it got, before it stops anything: by the
	// time somebody resumes, another host may have that turn.
	h.hold("stop")
	h.resume(func(q *ResumeRequest) { answer(2, "slot", "")(q); q.Controller = "bob@laptop/2" })
	h.awaitHeld("stop")
	h.kill("worker")
	h.kill("section")
	h.letGo("stop")
	s = h.rest(Broken)
	if !s.Down {
		t.Error("not known to be between stop and start")
	}
	h.resume(nil)
	h.rest(Finished)
	h.swept()
	if s = h.state(); len(s.History) != 1 {
		t.Errorf("history: %+v, want one answer", s.History)
	}
}

// noFresh looks that no prepared directory is left.
func (h *host) noFresh() {
	h.t.Helper()
	left, err := filepath.Glob(h.Spool(".*" + runID + "*"))
	if err != nil || len(left) > 0 {
		h.t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestNothingFull(t *testing.T) {
	h := newHost(t, 40)
	h.begin(plan(rules))
	s := h.rest(Finished)
	if !h.told(evWarn, "no queue holds more than 50 messages (host variable queue_warn): nothing was stopped, nothing set aside; -e 'queues=[deferred]' sets that one aside all the same") {
		t.Error("it does not say why it ended")
	}
	if got := h.endedStages(); got["stop"] != 0 || got["count"] != 1 {
		t.Errorf("stages that ended: %v", got)
	}
	if s.Next != s.Stages || s.Aside != 0 {
		t.Errorf("state: %+v", s)
	}
	h.noFresh()
	h.audited()
	if err := h.refused(func(*ResumeRequest) {}); !errors.Is(err, ErrNothing) {
		t.Errorf("resume: got %v, want %v", err, ErrNothing)
	}
}

func TestBusy(t *testing.T) {
	h := newHost(t, flood)
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	other := h.info(plan(rules))
	other.Run = "20261123T231501Z-zz99"
	err := h.Begin(t.Context(), other)
	if !errors.Is(err, spool.ErrBusy) || !strings.Contains(err.Error(), runID) || !strings.Contains(err.Error(), "ana@laptop") || !strings.Contains(spool.RemedyOf(err), "spoolsweep attach "+runID) {
		t.Errorf("a second run: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(h.State(), "runs", other.Run)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the refused run left a record: %v", err)
	}
	if err := h.refused(func(*ResumeRequest) {}); !errors.Is(err, spool.ErrBusy) {
		t.Errorf("resume: got %v, want %v", err, spool.ErrBusy)
	}
	f, err := h.Preflight(t.Context(), h.vars, plan(rules))
	if err != nil || len(f.Problems) == 0 || !strings.Contains(f.Problems[0].Message, runID) {
		t.Errorf("preflight: %+v, %v", f, err)
	}
	if s := h.state(); s.Phase != Working {
		t.Errorf("phase %s, want %s", s.Phase, Working)
	}
	h.letGo("stop")
	h.rest(Finished)
	h.swept()
}

// What changes no queue waits for nobody: an account is disabled while another run works,
// and that one keeps the lock.
func TestApart(t *testing.T) {
	h := newHost(t, flood)
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	var steps []stage.Step
	for _, s := range [][2]string{{"command", `{"run": "test", "for": ["eve"], "require_source_stopped": true}`}, {"restart", `{"service": "none"}`}, {"end-sessions", `{"account": "eve"}`}, {"watch", `{"for": "0", "account": "eve"}`}} {
		steps = append(steps, stage.Step{Stage: s[0], Args: json.RawMessage(s[1])})
	}
	other := h.info(steps)
	other.Run = "20261123T231501Z-zz99"
	if f, err := h.Preflight(t.Context(), h.vars, steps); err != nil || len(f.Problems) > 0 {
		t.Errorf("preflight: %+v, %v", f, err)
	}
	if err := h.Begin(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	h.await("the end of the other run", func() bool {
		s, err := h.StateOf(h.postfix(), h.vars, other.Run)
		return err == nil && s.Phase == Finished
	})
	if s := h.state(); s.Phase != Working {
		t.Errorf("phase %s, want %s", s.Phase, Working)
	}
	third := h.info(append(steps, plan(rules)[0]))
	third.Run = "20261123T231502Z-zz99"
	if err := h.Begin(t.Context(), third); !errors.Is(err, spool.ErrBusy) {
		t.Errorf("with a stage that is not apart: got %v", err)
	}
	h.letGo("stop")
	h.rest(Finished)
	h.swept()
}

// A front owns nothing: what it started goes on. Here the test is the front,
// and the worker a session of its own that keeps no stream of it.
func TestWorkerIsAlone(t *testing.T) {
	h := newHost(t, flood)
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	for _, role := range []string{"worker", "section"} {
		pids := h.processes(role)
		if len(pids) != 1 {
			t.Fatalf("%d processes are the %s", len(pids), role)
		}
		pgid, err := syscall.Getpgid(pids[0])
		if err != nil || pgid != pids[0] {
			t.Errorf("the %s %d is of group %d, %v", role, pids[0], pgid, err)
		}
		for fd := range 3 {
			at, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pids[0], fd))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil || at != os.DevNull && !strings.HasSuffix(at, "/worker.log") {
				t.Errorf("handle %d of the %s is %s, %v", fd, role, at, err)
			}
		}
		// What a dying session sends does not end them.
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGQUIT} {
			if err := syscall.Kill(pids[0], sig); err != nil {
				t.Error(err)
			}
		}
	}
	h.letGo("stop")
	h.rest(Finished)
	h.swept()
	h.inheritsNothing()
}

// A run that had nothing to set aside takes no rules afterwards: it says so, and
// what to type instead.
func TestRulesForNothing(t *testing.T) {
	h := newHost(t, 3)
	h.begin(plan(rules))
	h.rest(Finished)
	err := h.refused(func(q *ResumeRequest) { q.Steps = plan(someRules) })
	if !strings.Contains(err.Error(), "has set nothing aside") || !strings.Contains(spool.RemedyOf(err), "queue_warn") {
		t.Errorf("got %v, remedy %q", err, spool.RemedyOf(err))
	}
}
