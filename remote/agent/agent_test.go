package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func TestMain(m *testing.M) {
	args := os.Args[1:]
	if code, mine := practice.Main(args); mine {
		os.Exit(code)
	}
	if len(args) == 3 && (args[0] == "worker" || args[0] == "section") {
		os.Exit(Main(args, maker))
	}
	// As the shipped agent is started: without arguments, its name says it.
	if self, err := os.Executable(); err == nil && strings.HasPrefix(filepath.Base(self), "spoolsweep-agent") {
		os.Exit(Main(args, maker))
	}
	os.Exit(m.Run())
}

func maker() (*run.Env, error) {
	return &run.Env{
		Postfix:        func(_ context.Context, v stage.Vars) (*spool.Postfix, error) { return practice.New(v.ConfigDirectory) },
		StateDirectory: "/nonexistent",
	}, nil
}

// connection is a controller's side of Serve over two pipes.
type connection struct {
	t    *testing.T
	to   *wire.Writer
	from *wire.Reader
	in   *io.PipeWriter
	out  *io.PipeReader
	done chan error
}

func serve(t *testing.T, env *run.Env) *connection {
	t.Helper()
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	c := &connection{t: t, to: wire.NewWriter(inW), from: wire.NewReader(outR), in: inW, out: outR, done: make(chan error, 1)}
	go func() {
		err := Serve(context.Background(), env, strings.Repeat("ab", 32), inR, outW)
		outW.Close()
		inR.Close()
		c.done <- err
	}()
	return c
}

func (c *connection) greeted() {
	c.t.Helper()
	g, err := c.from.Greeting()
	if err != nil {
		c.t.Fatal(err)
	}
	if want := (wire.Greeting{Build: "test", Sum: strings.Repeat("ab", 32)}); g != want {
		c.t.Errorf("greeting: got %+v, want %+v", g, want)
	}
}

func (c *connection) send(f wire.Frame) {
	c.t.Helper()
	if err := c.to.Write(f); err != nil {
		c.t.Fatal(err)
	}
}

// next is the next frame that is no beat.
func (c *connection) next() wire.Frame {
	c.t.Helper()
	for {
		f, err := c.from.Read()
		if err != nil {
			c.t.Fatal(err)
		}
		if f.Kind != wire.Pulse {
			return f
		}
	}
}

// end closes the controller's side and returns what Serve did.
func (c *connection) end() error {
	c.in.Close()
	go io.Copy(io.Discard, c.out)
	return <-c.done
}

func data(t *testing.T, v any) json.RawMessage {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// environment reaches a practice host that waits for what it is given.
func environment(t *testing.T) *run.Env {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	env, err := maker()
	if err != nil {
		t.Fatal(err)
	}
	env.Build, env.Executable = "test", self
	return env
}

func newHost(t *testing.T) (*practice.Host, stage.Vars) {
	t.Helper()
	top, err := os.MkdirTemp("", "agent") // not t.TempDir: too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, "chavez")
	if err := practice.Make(dir, "chavez", practice.Options{}); err != nil {
		t.Fatal(err)
	}
	h, err := practice.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return h, stage.Vars{ConfigDirectory: dir, StateDirectory: h.State()}
}

func TestServe(t *testing.T) {
	h, vars := newHost(t)
	if _, err := h.SubmitAll(practice.Incident("chavez", "spam-account", 40, 7)); err != nil {
		t.Fatal(err)
	}
	c := serve(t, environment(t))
	c.greeted()

	// Kinds, fields and empty objects that a newer controller may send.
	c.send(wire.Frame{Kind: "from-the-future", ID: 7})
	if _, err := io.WriteString(c.in, "{}\n\n{\"kind\":\"beat\",\"mood\":\"good\"}\n{\"id\":3}\n"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		f    wire.Frame
		kind string // of the fault
		want string // in its message
	}{
		{"unknown call", wire.Frame{Kind: wire.Call, Name: "make-coffee"}, "", `knows no call "make-coffee": it is older or newer`},
		{"a long name", wire.Frame{Kind: wire.Call, Name: strings.Repeat("x", 5000)}, "", "knows no call"},
		{"no name", wire.Frame{Kind: wire.Call}, "", "knows no call"},
		{"no data", wire.Frame{Kind: wire.Call, Name: "identify"}, "", "bad call"},
		{"data of another shape", wire.Frame{Kind: wire.Call, Name: "identify", Data: json.RawMessage(`[1]`)}, "", "bad call"},
		{"no run", wire.Frame{Kind: wire.Call, Name: "info", Data: data(t, RunCall{vars, "20261123T231500Z-ab12"})}, "no-run", "no such run on this host"},
		{"no run id", wire.Frame{Kind: wire.Call, Name: "info", Data: data(t, RunCall{vars, "../../etc/passwd"})}, "", "a run id looks like"},
		{"no such stage", wire.Frame{Kind: wire.Call, Name: "look", Data: data(t, LookCall{Vars: vars, Step: stage.Step{Stage: "stop"}})}, "", "none that only looks"},
		{"a tail of nothing", wire.Frame{Kind: wire.Tail, Run: "20261123T231500Z-ab12", Data: data(t, RunCall{Vars: vars})}, "no-run", "no such run"},
		{"a tail without data", wire.Frame{Kind: wire.Tail, Run: "20261123T231500Z-ab12"}, "", "bad tail"},
		{"a bad plan", wire.Frame{Kind: wire.Call, Name: "begin", Data: data(t, run.Info{Run: "20261123T231500Z-ab12", Vars: vars})}, "", "the plan has no stages"},
	} {
		tt.f.ID = 11
		c.send(tt.f)
		got := c.next()
		var fault wire.Fault
		if got.Kind != wire.Error || got.ID != 11 || json.Unmarshal(got.Data, &fault) != nil {
			t.Errorf("%s: got %+v, want an error", tt.name, got)
			continue
		}
		if fault.Kind != tt.kind || !strings.Contains(fault.Message, tt.want) || len(fault.Message) > 400 {
			t.Errorf("%s: got %+v, want %q %q", tt.name, fault, tt.kind, tt.want)
		}
	}

	c.send(wire.Frame{Kind: wire.Call, ID: 12, Name: "look", Data: data(t, LookCall{Vars: vars, Step: stage.Step{Stage: "count"}})})
	var counts stage.Counts
	if f := c.next(); f.Kind != wire.Reply || f.ID != 12 || json.Unmarshal(f.Data, &counts) != nil || counts.Messages != 40 {
		t.Errorf("count: got %+v", f)
	}
	c.send(wire.Frame{Kind: wire.Call, ID: 13, Name: "runs", Data: data(t, HostCall{Vars: vars})})
	if f := c.next(); f.Kind != wire.Reply || string(f.Data) != "null" {
		t.Errorf("runs: got %+v", f)
	}
	if err := c.end(); err != nil {
		t.Errorf("at the end of its input: got %v, want nil", err)
	}
	if left, err := os.ReadDir(h.State()); err != nil || len(left) > 0 {
		t.Errorf("left in the state directory: %v, %v", left, err)
	}
}

// An agent that was started with one processor counts with it, and takes the others
// for what reads mail.
func TestWiden(t *testing.T) {
	h, vars := newHost(t)
	if _, err := h.SubmitAll(practice.Incident("chavez", "spam-account", 4, 7)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(runtime.SetDefaultGOMAXPROCS)
	runtime.GOMAXPROCS(1)
	c := serve(t, environment(t))
	c.greeted()
	look := func(s string) {
		t.Helper()
		c.send(wire.Frame{Kind: wire.Call, ID: 1, Name: "look", Data: data(t, LookCall{Vars: vars, Step: stage.Step{Stage: s}})})
		for f := c.next(); f.Kind != wire.Reply; f = c.next() {
			if f.Kind == wire.Error {
				t.Fatalf("%s: %s", s, f.Data)
			}
		}
	}
	if look("count"); runtime.GOMAXPROCS(0) != 1 {
		t.Errorf("a count takes %d processors", runtime.GOMAXPROCS(0))
	}
	if look("suspects"); runtime.GOMAXPROCS(0) != runtime.NumCPU() {
		t.Errorf("suspects take %d of %d processors", runtime.GOMAXPROCS(0), runtime.NumCPU())
	}
}

// What is no frame ends the connection: the stream is not to be trusted.
func TestBadFrames(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON": "hello\n", "a list": "[]\n", "too long": `{"kind":"` + strings.Repeat("x", wire.MaxFrame) + "\"}\n", "half": `{"kind":`,
	} {
		c := serve(t, environment(t))
		c.greeted()
		go func() {
			io.WriteString(c.in, text)
			c.in.Close()
		}()
		go io.Copy(io.Discard, c.out)
		err := <-c.done
		if err == nil || len(err.Error()) > 300 || strings.Contains(err.Error(), "hello") {
			t.Errorf("%s: got %v, want an error that repeats nothing", name, err)
		}
	}
}

// A controller that says nothing for wire.Lost is gone, also if it does not
// read any more; one that beats is not.
func TestSilence(t *testing.T) {
	for _, tt := range []struct {
		name  string
		beats int  // that the controller sends
		reads bool // what the agent sends
	}{
		{"silent", 0, true},
		{"silent and deaf", 0, false},
		{"beats, then silent", 10, true},
		{"beats, deaf, then silent", 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := environment(t)
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				c := serve(t, env)
				c.greeted()
				beats := make(chan int, 1)
				go func() {
					var n int
					for tt.reads {
						f, err := c.from.Read()
						if err != nil {
							break
						}
						if f.Kind == wire.Pulse {
							n++
						}
					}
					beats <- n
				}()
				for range tt.beats {
					time.Sleep(wire.Beat)
					c.send(wire.Frame{Kind: wire.Pulse})
				}
				err := <-c.done
				if err == nil || !strings.Contains(err.Error(), "silent") {
					t.Errorf("got %v", err)
				}
				since := time.Since(began) - time.Duration(tt.beats)*wire.Beat
				if since < wire.Lost || since > wire.Lost+wire.Beat {
					t.Errorf("noticed after %v of silence, want about %v", since, wire.Lost)
				}
				c.out.Close() // lets go of a beat that nobody read
				if n := <-beats; tt.reads && n < tt.beats {
					t.Errorf("%d beats from the agent, want %d at least", n, tt.beats)
				}
			})
		})
	}
}

// A call that takes long holds up no other.
func TestParallel(t *testing.T) {
	h, vars := newHost(t)
	env := environment(t)
	postfix := env.Postfix
	gate := make(chan struct{})
	env.Postfix = func(ctx context.Context, v stage.Vars) (*spool.Postfix, error) {
		if v.QueueWarn == 99 {
			select {
			case <-gate:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		return postfix(ctx, v)
	}
	_ = h
	c := serve(t, env)
	c.greeted()
	slow := vars
	slow.QueueWarn = 99
	c.send(wire.Frame{Kind: wire.Call, ID: 1, Name: "identify", Data: data(t, HostCall{Vars: slow})})
	for id := 2; id < 10; id++ {
		c.send(wire.Frame{Kind: wire.Call, ID: id, Name: "identify", Data: data(t, HostCall{Vars: vars})})
	}
	seen := map[int]bool{}
	for len(seen) < 8 {
		f := c.next()
		if f.Kind != wire.Reply || f.ID == 1 || seen[f.ID] {
			t.Fatalf("got %+v", f)
		}
		seen[f.ID] = true
	}
	close(gate)
	if f := c.next(); f.ID != 1 || f.Kind != wire.Reply {
		t.Errorf("the slow one: got %+v", f)
	}
	// The end of the input ends what is still asked.
	gate = make(chan struct{})
	c.send(wire.Frame{Kind: wire.Call, ID: 20, Name: "identify", Data: data(t, HostCall{Vars: slow})})
	if err := c.end(); err != nil {
		t.Errorf("at the end of its input: got %v", err)
	}
}

const runID = "20261123T231500Z-ab12"

// A run over the wire: begun, tailed while it works and once more from the
// middle by a second connection, waiting, answered.
func TestRun(t *testing.T) {
	_, vars := floodedHost(t)
	c := serve(t, environment(t))
	c.greeted()
	var steps []stage.Step
	plan := `[{"stage":"stop"},{"stage":"set-aside"},{"stage":"start"},{"stage":"classify","args":{"spam":{"sasl_user":"spam-account"}}},{"stage":"confirm"},{"stage":"restore","args":{"rate":0,"live_max":0}}]`
	if err := json.Unmarshal([]byte(plan), &steps); err != nil {
		t.Fatal(err)
	}
	c.send(wire.Frame{Kind: wire.Call, ID: 1, Name: "begin", Data: data(t, run.Info{Run: runID, Host: "chavez", Vars: vars, Steps: steps})})
	if f := c.next(); f.Kind != wire.Reply || f.ID != 1 {
		t.Fatalf("begin: got %+v %s", f, f.Data)
	}
	at, events := c.tail(2, vars, 1)
	if at.Phase != run.Waiting || at.Ask == nil || at.Ask.Kind != "confirm" || len(events) == 0 {
		t.Fatalf("came to rest as %+v after %d events", at, len(events))
	}
	if at.Seen != events[len(events)-1].Seq {
		t.Errorf("seen %d, the last event is %d", at.Seen, events[len(events)-1].Seq)
	}
	// A second connection, from the middle.
	other := serve(t, environment(t))
	other.greeted()
	middle := events[len(events)/2].Seq
	again, rest := other.tail(5, vars, middle)
	if d := cmp.Diff(events[len(events)/2:], rest); d != "" {
		t.Errorf("from %d (-first +second): %s", middle, d)
	}
	if d := cmp.Diff(at, again); d != "" {
		t.Errorf("the state (-first +second): %s", d)
	}
	// It answers; the first one's answer is late.
	var ask stage.Confirm
	if err := json.Unmarshal(at.Ask.Data, &ask); err != nil {
		t.Fatal(err)
	}
	reply := data(t, run.ResumeRequest{Vars: vars, Run: runID, By: "bob", Number: 1, Answer: &stage.Answer{Kind: "confirm", Value: ask.List, By: "bob"}})
	other.send(wire.Frame{Kind: wire.Call, ID: 6, Name: "resume", Data: reply})
	if f := other.next(); f.Kind != wire.Reply {
		t.Fatalf("resume: got %+v %s", f, f.Data)
	}
	at, rest = other.tail(7, vars, at.Seen+1)
	if at.Phase != run.Finished || len(rest) == 0 || rest[0].Seq != again.Seen+1 {
		t.Errorf("in the end: %+v, %d events", at, len(rest))
	}
	c.send(wire.Frame{Kind: wire.Call, ID: 8, Name: "resume", Data: reply})
	var fault wire.Fault
	if f := c.next(); json.Unmarshal(f.Data, &fault) != nil || fault.Kind != "answered" || !strings.Contains(fault.Message, "by bob at") {
		t.Errorf("a late answer: got %+v %s", f, f.Data)
	}
	c.send(wire.Frame{Kind: wire.Call, ID: 9, Name: "resume", Data: data(t, run.ResumeRequest{Vars: vars, Run: runID})})
	if f := c.next(); json.Unmarshal(f.Data, &fault) != nil || fault.Kind != "nothing" {
		t.Errorf("a finished run: got %+v %s", f, f.Data)
	}
	for _, c := range []*connection{c, other} {
		if err := c.end(); err != nil {
			t.Error(err)
		}
	}
}

// tail follows the run to its rest.
func (c *connection) tail(id int, vars stage.Vars, from int64) (*run.State, []wire.Event) {
	c.t.Helper()
	c.send(wire.Frame{Kind: wire.Tail, ID: id, Run: runID, From: from, Data: data(c.t, RunCall{Vars: vars})})
	stop := make(chan struct{})
	defer close(stop)
	go func() { // a section takes seconds
		for {
			select {
			case <-stop:
				return
			case <-time.After(wire.Beat):
				_ = c.to.Write(wire.Frame{Kind: wire.Pulse})
			}
		}
	}()
	var events []wire.Event
	for {
		f := c.next()
		switch {
		case f.Kind == wire.News && f.ID == id && f.Event != nil:
			if want := from + int64(len(events)); f.Event.Seq != want {
				c.t.Errorf("event %d, want %d", f.Event.Seq, want)
			}
			events = append(events, *f.Event)
		case f.Kind == wire.Rest && f.ID == id && f.Run == runID:
			at := new(run.State)
			if err := json.Unmarshal(f.Data, at); err != nil {
				c.t.Fatal(err)
			}
			return at, events
		default:
			c.t.Fatalf("got %+v %s", f, f.Data)
		}
	}
}

func TestFault(t *testing.T) {
	for kind, err := range map[string]error{
		"": errors.New("x"), "busy": spool.ErrBusy, "no-run": run.ErrNoRun, "nothing": run.ErrNothing, "answered": &run.AnsweredError{Number: 1},
	} {
		if got := toFault(err); got.Kind != kind || got.Message != err.Error() {
			t.Errorf("%v: got %+v", err, got)
		}
	}
}

// The process as SSH starts it: it greets with a checksum of its own file, tells its
// hash when asked, and
// ends with its input.
func TestProcess(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "spoolsweep-agent-test")
	if err := os.Link(self, file); err != nil {
		text, err := os.ReadFile(self)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// One that is run counts as used, however long it lies there.
	old := time.Now().Add(-100 * 24 * time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(file).Output() // its input is /dev/null
	if err != nil {
		t.Fatal(err)
	}
	g, err := wire.NewReader(strings.NewReader(string(out))).Greeting()
	want, e := wire.Checksum(bytes.NewReader(text), int64(len(text)))
	if e != nil {
		t.Fatal(e)
	}
	if err != nil || g.Sum != want || g.Build == "" {
		t.Errorf("greeting %+v, %v, want the checksum %s", g, err, want)
	}
	if info, err := os.Stat(file); err != nil || time.Since(info.ModTime()) > noted {
		t.Errorf("its time: %v, %v", info.ModTime(), err)
	}
	ask := exec.Command(file)
	ask.Stdin = strings.NewReader(`{"kind":"call","id":1,"name":"sum"}` + "\n")
	out, err = ask.Output()
	sum := sha256.Sum256(text)
	if want := fmt.Sprintf(`{"kind":"reply","id":1,"data":"%x"}`, sum); err != nil || !strings.Contains(string(out), want) {
		t.Errorf("asked for its hash: %s, %v, want %s", out, err, want)
	}
	var stderr strings.Builder
	cmd := exec.Command(file, "two", "words")
	cmd.Stderr = &stderr
	if err := cmd.Run(); err == nil || !strings.Contains(stderr.String(), "without arguments") {
		t.Errorf("with arguments: got %v, %q", err, stderr.String())
	}
}

// Everything that answers writes whole frames, whoever else does.
func TestManyAnswers(t *testing.T) {
	_, vars := newHost(t)
	c := serve(t, environment(t))
	c.greeted()
	const n = 200
	var all sync.WaitGroup
	all.Go(func() {
		for id := range n {
			_ = c.to.Write(wire.Frame{Kind: wire.Call, ID: id + 1, Name: "runs", Data: data(t, HostCall{Vars: vars})})
		}
	})
	seen := map[int]bool{}
	for range n {
		f := c.next()
		if f.Kind != wire.Reply || seen[f.ID] {
			t.Fatalf("got %+v", f)
		}
		seen[f.ID] = true
	}
	all.Wait()
	if err := c.end(); err != nil {
		t.Error(err)
	}
}
