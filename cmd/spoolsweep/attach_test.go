package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// session is a command line at work in this process, with somebody who sits at
// its terminal, if there is one.
type session struct {
	t      *testing.T
	line   string
	keys   *io.PipeWriter
	ctrlC  chan struct{}
	cancel context.CancelFunc // what a Ctrl-C does that nobody listens for
	status chan int

	mu   sync.Mutex // guards what follows
	said bytes.Buffer
	told *sync.Cond
	over bool
}

// terminal is a reader that somebody types on.
type terminal struct{ io.Reader }

func (terminal) IsTerminal() bool { return true }

func (s *session) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told.Broadcast()
	return s.said.Write(p)
}

// begin starts a command; tty says whether it has a terminal.
func (f *fleet) begin(t *testing.T, tty bool, silence time.Duration, args ...string) *session {
	t.Helper()
	s := &session{t: t, line: strings.Join(args, " "), ctrlC: make(chan struct{}), status: make(chan int, 1)}
	s.told = sync.NewCond(&s.mu)
	var in io.Reader = strings.NewReader("")
	if tty {
		r, w := io.Pipe()
		in, s.keys = terminal{r}, w
	}
	app := newApp(in, s, s)
	app.Metadata[agentSource], app.Metadata[interrupts], app.Metadata[silenceKey] = f.source, s.ctrlC, silence
	app.Metadata[noticeTimes] = []time.Duration{0, 0, 0, 0}
	ctx, cancel := context.WithCancel(t.Context())
	s.cancel = cancel
	go func() {
		status := inProcess(ctx, app, append(append([]string{"spoolsweep"}, args...), f.where()...)...)
		s.mu.Lock()
		s.over = true
		s.told.Broadcast()
		s.mu.Unlock()
		s.status <- status
	}()
	t.Cleanup(func() {
		cancel()
		if tty {
			s.keys.Close()
		}
	})
	return s
}

// waitFor waits until the expression matches what was said, and returns its
// submatches.
func (s *session) waitFor(expression string) []string {
	s.t.Helper()
	re := regexp.MustCompile("(?m)" + expression)
	late := false
	defer time.AfterFunc(time.Minute, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		late = true
		s.told.Broadcast()
	}).Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if m := re.FindStringSubmatch(s.said.String()); m != nil {
			return m
		}
		if s.over || late {
			s.t.Fatalf("%s ended, or has not come to, %q:\n%s", s.line, expression, s.said.String())
		}
		s.told.Wait()
	}
}

// interrupt is a Ctrl-C, as main passes it on.
func (s *session) interrupt() {
	select {
	case s.ctrlC <- struct{}{}:
	case <-time.After(time.Second): // nobody listens
		s.cancel()
	}
}

func (s *session) types(line string) {
	s.t.Helper()
	_, _ = io.WriteString(s.keys, line+"\n") // who does not read any more has ended
}

// end waits for the end of the command.
func (s *session) end() result {
	s.t.Helper()
	select {
	case status := <-s.status:
		s.mu.Lock()
		defer s.mu.Unlock()
		return result{s.line, status, "", s.said.String()}
	case <-time.After(2 * time.Minute):
		s.mu.Lock()
		defer s.mu.Unlock()
		s.t.Fatalf("%s does not end:\n%s", s.line, s.said.String())
	}
	panic("unreachable")
}

// slowly are the arguments of a run whose restore takes half a minute.
func (f *fleet) slowly(more ...string) []string {
	return append([]string{"run", "backscatter", "-v", "-e", "@" + f.write("rules.yaml", demoRules), "-e", "rate=5", "-e", "watch=0"}, more...)
}

// Ctrl-C asks. Go on changes nothing; detach leaves the run to its host, and so
// does a second Ctrl-C; cancel ends it after the batch, and it can be resumed.
func TestCtrlC(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(500)
	s := f.begin(t, true, 0, f.slowly()...)
	s.waitFor(`Do this on 1 of 1`)
	s.types("y")
	s.waitFor(`send \d+ messages, leave \d+ aside`)
	s.types("y")
	run := s.waitFor(`run (\d{8}T\S+)$`)[1]
	s.waitFor(`restore begins`)
	s.interrupt()
	s.waitFor(`or \[g\]o on\?`)
	s.types("g")
	s.interrupt()
	s.waitFor(`(?s)\[g\]o on\?.*\[g\]o on\?`)
	s.interrupt()
	r := s.end()
	r.want(t, statusInterrupted, "detached, the run goes on on chavez: spoolsweep attach "+run)

	s = f.begin(t, true, 0, "attach", run)
	s.waitFor(`restore +restored`)
	s.interrupt()
	s.types("d")
	s.end().want(t, statusInterrupted, "detached, the run goes on on chavez")

	s = f.begin(t, true, 0, "attach", run)
	s.waitFor(`restore +restored`)
	s.interrupt()
	s.types("what?") // asks again
	s.types("c")
	r = s.end()
	r.want(t, statusInterrupted, "cancelled: each host ends after its current step", "cancelled by "+me(), "spoolsweep putback "+run)
	if strings.Contains(r.err, "| done") {
		t.Errorf("cancelled too late for this test:\n%s", r.err)
	}
	f.spoolsweep("attach", run).want(t, 2, "cancelled by "+me())
	f.spoolsweep("resume", run, "-y", "-e", "rate=0").want(t, 0)
	f.audit(t, practice.Place.Aside)
}

// A Ctrl-C at an open question leaves it to the host, on a line of its own, and says
// how to come back to it: there it is asked again.
func TestCtrlCAtAQuestion(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(500)
	s := f.begin(t, true, 0, "run", "backscatter", "-e", "@"+f.write("rules.yaml", demoRules), "-e", "rate=0", "-e", "watch=0")
	s.waitFor(`Do this on 1 of 1`)
	s.types("y")
	run := s.waitFor(`run (\d{8}T\S+)$`)[1]
	s.waitFor(`send \d+ messages, leave \d+ aside\?.* \[y/N\] `)
	s.interrupt()
	r := s.end()
	r.want(t, statusInterrupted, "[y/N] \ndetached, the question stays open on chavez: spoolsweep resume "+run)

	s = f.begin(t, true, 0, "resume", run)
	s.waitFor(`send \d+ messages, leave \d+ aside`)
	s.types("y")
	s.end().want(t, 0, "moved back")
	f.audit(t, practice.Place.Aside)
}

// Without a terminal there is nobody to ask: Ctrl-C detaches.
func TestCtrlCWithoutTerminal(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(500)
	s := f.begin(t, false, 0, f.slowly("-y")...)
	run := s.waitFor(`run (\d{8}T\S+)$`)[1]
	s.waitFor(`restore begins`)
	s.interrupt()
	s.end().want(t, statusInterrupted, "detached, the run goes on on chavez: spoolsweep attach "+run)
	f.spoolsweep("attach", run).want(t, 0, "moved back")
	f.audit(t, practice.Place.Aside)
}

// frozen stops the masters of all hosts from answering, so that the first stop
// lasts until they are thawed, and whoever else waits for its turn waits.
func (f *fleet) frozen(t *testing.T) (thaw func()) {
	t.Helper()
	var masters []int
	for _, h := range f.hosts {
		pid, up := h.Running()
		if !up {
			t.Fatalf("%s: no Postfix runs", h.Name)
		}
		masters = append(masters, pid)
	}
	each := func(signal syscall.Signal) {
		for _, pid := range masters {
			if err := syscall.Kill(pid, signal); err != nil && err != syscall.ESRCH {
				t.Error(err)
			}
		}
	}
	each(syscall.SIGSTOP)
	thaw = sync.OnceFunc(func() { each(syscall.SIGCONT) })
	t.Cleanup(thaw)
	return thaw
}

// Cancelled while two of three wait for their turn: the one that is stopped is
// started, and of the others nothing was touched.
func TestCancelStopsNoFurtherHost(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "didier").withFlood(500)
	thaw := f.frozen(t)
	s := f.begin(t, true, 0, f.slowly()...)
	s.waitFor(`Do this on 3 of 3`)
	s.types("y")
	s.waitFor(`stop begins`)
	s.interrupt()
	s.waitFor(`or \[g\]o on\?`)
	s.types("c")
	s.waitFor(`cancelled: each host ends after its current step`)
	thaw()
	r := s.end()
	r.want(t, statusInterrupted, "2 waiting, 1 failed", "cancelled by "+me(), "waits for its turn to stop Postfix")
	if n := strings.Count(r.err, "stop begins"); n != 1 {
		t.Errorf("%d were stopped:\n%s", n, r.err)
	}
	run := runID.FindString(r.err)
	f.spoolsweep("resume", run, "-y", "-e", "rate=0").want(t, 0)
	f.audit(t, practice.Place.Aside)
}

// One of three falls silent while it has its turn. Its place stays taken until
// its Postfix is started whatever happens; then the others have theirs, and it is
// left for resume.
func TestSilentHostKeepsItsPlace(t *testing.T) {
	t.Parallel()
	const silence = 5 * time.Second
	f := fleetOf(t, flooded, "chavez", "peltier", "didier").withFlood(500)
	thaw := f.frozen(t)
	s := f.begin(t, false, silence, "run", "backscatter", "-v", "-y", "--reconnect", "1s", "-T", "1s", "-e", "rate=0", "-e", "watch=0", "-e", "@"+f.write("rules.yaml", demoRules))
	first := s.waitFor(`^(\S+) +\| stop begins`)[1]
	for i, h := range f.hosts {
		if h.Name == first {
			f.servers[i].Stall()
			f.servers[i].Cut()
			defer f.servers[i].Resume()
		}
	}
	thaw()
	m := s.waitFor(first + ` +\| silent since (\S+), Postfix is started there by (\S+)`)
	since := time.Now()
	if at, _ := time.Parse(time.TimeOnly, m[1]); true {
		if by, _ := time.Parse(time.TimeOnly, m[2]); by.Sub(at) < silence-time.Second || by.Sub(at) > silence+2*time.Second {
			t.Errorf("silent since %s, by %s: want %v between", m[1], m[2], silence)
		}
	}
	s.waitFor(`(?s)stop begins.*stop begins`)
	if waited := time.Since(since); waited < silence-2*time.Second {
		t.Errorf("the place was given on after %v", waited)
	}
	r := s.end()
	r.want(t, 4, "2 ok, 1 unreachable", "the run goes on there: spoolsweep attach")
	for i, h := range f.hosts {
		if h.Name == first {
			f.servers[i].Resume()
		}
	}
	f.spoolsweep("attach").want(t, 0, "3 hosts: 3 ok")
	f.audit(t, practice.Place.Aside)
}

// A host that falls silent before its stop does not count as failed: the others
// go on, and it is left for resume.
func TestSilentBeforeItsStop(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "didier").withFlood(500)
	thaw := f.frozen(t)
	s := f.begin(t, false, time.Hour, "run", "backscatter", "-v", "-y", "--reconnect", "1s", "-T", "1s", "-e", "rate=0", "-e", "watch=0", "-e", "@"+f.write("rules.yaml", demoRules))
	first := s.waitFor(`^(\S+) +\| stop begins`)[1]
	var silent string
	for i, h := range f.hosts {
		if h.Name != first && silent == "" {
			silent = h.Name
			f.servers[i].Stall()
			f.servers[i].Cut()
			defer f.servers[i].Resume()
		}
	}
	thaw()
	r := s.end()
	r.want(t, 4, "2 ok, 1 unreachable")
	run := runID.FindString(r.err)
	for i := range f.hosts {
		f.servers[i].Resume()
	}
	f.spoolsweep("resume", run, "-y").want(t, 0)
	f.audit(t, practice.Place.Aside)
}

// The place of a silent host: given on when it answers and is started, or when
// the time is over.
func TestTurnOfASilentHost(t *testing.T) {
	turnOf := func(t *testing.T) (*turn, *slots) {
		d := &driver{sweep: &sweep{Printer: &show.Printer{Err: io.Discard}, silence: silentPlace}, slots: newSlots(1, 0)}
		tn := &turn{driver: d, m: &member{Host: &show.Host{Host: "chavez"}}}
		if !tn.take(t.Context()) {
			t.Fatal("no place")
		}
		if !tn.give() {
			t.Fatal("it is not given")
		}
		return tn, d.slots
	}
	wait := func(t *testing.T, s *slots) time.Duration {
		began := time.Now()
		release, ok := s.take(t.Context())
		if !ok {
			t.Fatal("no place was given")
		}
		release()
		return time.Since(began)
	}
	synctest.Test(t, func(t *testing.T) {
		tn, s := turnOf(t)
		tn.up()
		tn.take(t.Context())
		tn.silent(time.Now()) // before it was told
		if took := wait(t, s); took != 0 {
			t.Errorf("of one that was not told of it given on after %v", took)
		}
		if tn.next() {
			t.Error("it has a place all the same")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tn, s := turnOf(t)
		tn.up()
		tn.take(t.Context())
		s.fail("peltier") // while this one is looked at
		if tn.give() {
			t.Error("another host failed, and it may stop Postfix")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tn, s := turnOf(t)
		tn.silent(time.Now().Add(-10 * time.Second))
		tn.end() // the driver has given up
		if took := wait(t, s); took != silentPlace-10*time.Second {
			t.Errorf("given on after %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tn, s := turnOf(t)
		s.started(100) // another host's start
		tn.silent(time.Now())
		if took := wait(t, s); took != silentPlace+70*time.Second {
			t.Errorf("after a slow start given on after %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		tn, s := turnOf(t)
		tn.silent(time.Now())
		time.Sleep(time.Minute)
		tn.silent(time.Time{})
		go func() {
			time.Sleep(10 * time.Minute)
			tn.up()
		}()
		if took := wait(t, s); took != 10*time.Minute {
			t.Errorf("of one that answers again given on after %v", took)
		}
		tn.silent(time.Now()) // after its start: nothing is taken
		tn.end()
		if took := wait(t, s); took != 0 {
			t.Errorf("after its start given on after %v", took)
		}
	})
}

// A colleague resumes while the first laptop sleeps. What waits is answered by
// the colleague alone; the first one, awake again, is told by whom, gives no
// further turn, and follows to the end.
func TestColleagueResumes(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "didier").withFlood(500)
	first := f.begin(t, true, 0, "run", "backscatter", "-v", "-e", "rate=0", "-e", "watch=0", "-e", "@"+f.write("rules.yaml", demoRules))
	first.waitFor(`Do this on 3 of 3`)
	first.types("y")
	run := first.waitFor(`run (\d{8}T\S+)$`)[1]
	// It stands at a question with its terminal's lock held, as one does whose
	// admin has gone to bed.
	first.waitFor(`send \d+ messages, leave \d+ aside`)
	r := f.spoolsweep("resume", run, "-y") // what was asked already stays open
	r.want(t, 3, "--expect ")
	expect := regexp.MustCompile(`--expect (\d+)`).FindStringSubmatch(r.err)[1]
	f.spoolsweep("resume", run, "-y", "--expect", expect).want(t, 0)
	go first.types("y\ny\ny") // to as many questions as it had, or comes to
	first.end().want(t, 0, "was answered by "+me())
	f.audit(t, practice.Place.Aside)
}

// A host that waited for its turn when it was looked at has been given it by the first
// laptop when a colleague's resume arrives: it works on the run, and is followed.
func TestResumeMeetsWork(t *testing.T) {
	t.Parallel()
	const id = "20261128T120000Z-ab12"
	f := fleetOf(t, flooded, "chavez")
	looks := 0
	f.servers[0].Lie(greets(func(c wire.Frame, w *wire.Writer, _ io.Writer) {
		kind, reply := wire.Reply, any(nil)
		state := &run.State{Run: id, Stages: 2, Phase: run.Waiting, Seen: 1, Ask: &run.AskRecord{Number: 1, Kind: "slot"}}
		switch c.Kind + c.Name {
		case "callinstances":
			reply = []spool.Instance{{Name: spool.DefaultInstance}}
		case "callruns":
			if looks++; looks > 1 {
				state.Phase, state.Ask = run.Working, nil
			}
			reply = []*run.State{state}
		case "callinfo":
			reply = &run.Info{Run: id, MaxStopped: 1, Steps: []stage.Step{{Stage: "stop"}, {Stage: "start"}}}
		case "callresume":
			kind, reply = wire.Error, wire.Fault{Kind: "busy", Message: "another run works"}
		case "tail":
			_ = w.Write(wire.Frame{Kind: wire.News, ID: c.ID, Event: &wire.Event{Run: id, Instance: spool.DefaultInstance, Seq: 2, Stage: "", Index: -1, Kind: wire.End, Data: json.RawMessage(`{"status":"ok"}`)}})
			kind, reply = wire.Rest, &run.State{Run: id, Stages: 2, Next: 2, Phase: run.Finished}
		default:
			return
		}
		text, err := json.Marshal(reply)
		if err != nil {
			panic(err)
		}
		_ = w.Write(wire.Frame{Kind: kind, ID: c.ID, Data: text})
	}))
	f.spoolsweep("resume", id, "-y").want(t, 0, "chavez | works on the run, and is followed", "chavez | done")
}
