// Package agent is the front at the far end: what SSH executes. It greets,
// answers calls and tails the events of runs. It owns nothing and may die at
// any byte: what changes anything is done by a worker that it starts and that
// needs nobody (package run).
package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// StateDirectory is where a mail server keeps the records of runs.
const StateDirectory = "/var/lib/spoolsweep"

// Maker reaches the Postfix of a host and names the default state directory: the
// environment of runs but for what every agent is.
type Maker func() (*run.Env, error)

// System is the Maker of the shipped agent: the real Postfix of this host.
func System() (*run.Env, error) {
	if os.Getenv("SPOOLSWEEP_PRACTICE") != "" {
		// Whoever types a command at the demo's hosts means those, not this machine.
		return nil, errors.New("this is a practice host, and this agent is for real ones")
	}
	answers := new(spool.Answers)
	return &run.Env{
		Postfix: func(ctx context.Context, v stage.Vars) (*spool.Postfix, error) {
			return postfix(ctx, new(spool.Answers), v)
		},
		Glance:  func(ctx context.Context, v stage.Vars) (*spool.Postfix, error) { return postfix(ctx, answers, v) },
		Answers: answers, Instances: answers.Instances, StateDirectory: StateDirectory, Policy: PolicyFile,
	}, nil
}

func postfix(ctx context.Context, said *spool.Answers, v stage.Vars) (*spool.Postfix, error) {
	return said.System(ctx, spool.Instance{Name: v.Instance, Directory: v.ConfigDirectory}, spool.Commands{Stop: v.Stop, Start: v.Start, Status: v.Status})
}

// Main is the agent: worker, section or the timer's process where the arguments
// say so, or what takes a plan; else the front on standard input and output. It
// returns the exit status.
func Main(args []string, maker Maker) int {
	os.Unsetenv("GOMAXPROCS") // see widen; what is started from here has all of them
	env, err := maker()
	if err != nil {
		fmt.Fprintln(os.Stderr, "spoolsweep-agent:", err)
		return 1
	}
	file, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "spoolsweep-agent:", err)
		return 1
	}
	env.Build, env.Executable = Build(), file
	env.Units = func(stage.Vars) *run.Units { return run.Systemd() }
	switch {
	case len(args) == 3:
		return env.Main(args[0], args[1], args[2])
	case len(args) == 1 && (args[0] == planRun || args[0] == planCheck):
		return runPlan(context.Background(), env, args[0], os.Stdin, os.Stdout, os.Stderr)
	case len(args) != 0:
		fmt.Fprintln(os.Stderr, "spoolsweep-agent: is started by spoolsweep, without arguments; or, with a plan on standard input, with run or check")
		return 1
	}
	sum, err := greetingSum(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "spoolsweep-agent:", err)
		return 1
	}
	if err := Serve(context.Background(), env, sum, os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "spoolsweep-agent:", err)
		return 1
	}
	return 0
}

// Build names the version of this binary.
func Build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return "devel"
}

// openSelf opens the file that runs, not what has its name now.
func openSelf(file string) (*os.File, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return os.Open(file)
	}
	return f, nil
}

// greetingSum is what the greeting says of the file that runs. That it was run is
// noted in its time: one that is not run for long is removed (package push).
func greetingSum(file string) (string, error) {
	f, err := openSelf(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	s, err := f.Stat()
	if err != nil {
		return "", err
	}
	if time.Since(s.ModTime()) > noted {
		now := unix.NsecToTimeval(time.Now().UnixNano())
		_ = unix.Futimes(int(f.Fd()), []unix.Timeval{now, now}) // it is only a cache
	}
	return wire.Checksum(f, s.Size())
}

// noted is how old the note of a run may be: less than what counts as unused, and
// not written by every look.
const noted = 24 * time.Hour

// ownSum is the SHA-256 of the file that runs.
func ownSum(file string) (string, error) {
	f, err := openSelf(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// front serves one connection.
type front struct {
	env  *run.Env
	out  *wire.Writer
	wait sync.WaitGroup
}

// Serve greets on out and answers the frames from in until in ends, or the
// controller has been silent for wire.Lost.
func Serve(ctx context.Context, env *run.Env, sum string, in io.Reader, out io.Writer) error {
	if err := wire.WriteGreeting(out, wire.Greeting{Build: env.Build, Sum: sum}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &front{env: env, out: wire.NewWriter(out)}
	var heard atomic.Int64
	heard.Store(time.Now().UnixNano())
	ended := make(chan error, 2)
	go func() { // ends with in, at the latest with the process
		r := wire.NewReader(in)
		for {
			frame, err := r.Read()
			if errors.Is(err, io.EOF) {
				ended <- nil
				return
			}
			if err != nil {
				ended <- err
				return
			}
			heard.Store(time.Now().UnixNano())
			f.frame(ctx, frame)
		}
	}()
	// Beats have a goroutine of their own: a controller that does not read any
	// more holds up whoever writes, and its silence must be noticed all the same.
	go func() {
		beat := time.NewTicker(wire.Beat)
		defer beat.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-beat.C:
				if err := f.out.Write(wire.Frame{Kind: wire.Pulse}); err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	look := time.NewTicker(wire.Beat)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			cancel()
			f.wait.Wait()
			return err
		case <-look.C:
			if time.Since(time.Unix(0, heard.Load())) > wire.Lost {
				// What still writes is stuck in a pipe that nobody reads: not waited for.
				return errors.New("the controller has gone silent")
			}
		}
	}
}

// frame begins what a frame asks for; unknown kinds are passed over.
func (f *front) frame(ctx context.Context, frame wire.Frame) {
	switch frame.Kind {
	case wire.Call, wire.Tail:
		f.wait.Go(func() {
			var reply any
			var err error
			kind := wire.Reply
			if frame.Kind == wire.Tail {
				kind = wire.Rest
				reply, err = f.tail(ctx, frame)
			} else {
				reply, err = f.call(ctx, frame)
			}
			var data json.RawMessage
			if err == nil {
				data, err = json.Marshal(reply)
			}
			if err == nil {
				err = f.out.Write(wire.Frame{Kind: kind, ID: frame.ID, Run: frame.Run, Data: data})
			}
			if err != nil {
				fault, _ := json.Marshal(toFault(err)) // strings only
				_ = f.out.Write(wire.Frame{Kind: wire.Error, ID: frame.ID, Run: frame.Run, Data: fault})
			}
		})
	}
}

// toFault names the errors that a controller branches on.
func toFault(err error) wire.Fault {
	fault := wire.Fault{Message: err.Error(), Remedy: spool.RemedyOf(err)}
	var answered *run.AnsweredError
	var way *run.InTheWayError
	switch {
	case errors.Is(err, spool.ErrBusy):
		fault.Kind = "busy"
	case errors.Is(err, run.ErrNoRun):
		fault.Kind = "no-run"
	case errors.Is(err, run.ErrNothing):
		fault.Kind = "nothing"
	case errors.Is(err, run.ErrTakenOver):
		fault.Kind = "taken-over"
	case errors.Is(err, errSeveral):
		fault.Kind = FaultSeveral
	case errors.As(err, &way):
		fault.Remedy = way.Remedy
	case errors.As(err, &answered):
		fault.Kind, fault.Remedy = "answered", "spoolsweep attach shows how it goes on"
	}
	return fault
}

// Data of calls. Each names the host by its variables; the agent keeps nothing
// between two calls.
type (
	// HostCall is the data of "instances", "identify", "runs", "history", "idle" and "forget".
	HostCall struct {
		Vars stage.Vars `json:"vars"`
		// Kept, of "instances" and "identify", is what came as a wire.Keep.
		Kept json.RawMessage `json:"kept,omitempty"`
		// Alone, of "identify", is for a host that has one Postfix: see FaultSeveral.
		Alone bool `json:"alone,omitempty"`
	}
	// PlanCall is the data of "preflight".
	PlanCall struct {
		Vars  stage.Vars   `json:"vars"`
		Steps []stage.Step `json:"steps"`
	}
	// RunCall is the data of "info", "report", "ledger", "preview" and of a tail.
	RunCall struct {
		Vars stage.Vars `json:"vars"`
		Run  string     `json:"run"`
	}
	// Forgotten answers "forget".
	Forgotten struct {
		Runs int `json:"runs"`
	}
	// RemovalCall is the data of "removal": what a stage would remove.
	RemovalCall struct {
		Vars stage.Vars `json:"vars"`
		Run  string     `json:"run,omitempty"` // whose mail, else that of live queues
		Step stage.Step `json:"step"`
	}
	// LookCall is the data of "look": one stage that changes nothing.
	LookCall struct {
		Vars  stage.Vars `json:"vars"`
		Step  stage.Step `json:"step"`
		Aside string     `json:"aside,omitempty"` // a run
		// Kept is what came as a wire.Keep.
		Kept json.RawMessage `json:"kept,omitempty"`
		// Alone is for a host that has one Postfix: see FaultSeveral.
		Alone bool `json:"alone,omitempty"`
	}
)

// FaultSeveral is the kind of the fault that answers a call with Alone where the host
// has several Postfix, or one that is to be spoken to by its directory. Whoever asks
// most hosts one thing need not ask each before which it has.
const FaultSeveral = "several"

var errSeveral = errors.New("this host has several Postfix")

// alone returns an error where that was wanted and is not so.
func (f *front) alone(ctx context.Context, wanted bool, v stage.Vars) error {
	if !wanted {
		return nil
	}
	chosen, err := f.env.Chosen(ctx, v)
	if err == nil && (len(chosen) != 1 || chosen[0].Directory != "") {
		err = errSeveral
	}
	return err
}

// recall takes in what a controller has kept for this host. What it returns tells
// the controller what there is to keep now.
func (f *front) recall(id int, kept json.RawMessage) (tell func()) {
	answers := f.env.Answers
	if answers == nil {
		return func() {}
	}
	if kept != nil {
		answers.Take(kept)
	}
	return func() {
		if news := answers.Kept(); news != nil {
			_ = f.out.Write(wire.Frame{Kind: wire.News, ID: id, Event: &wire.Event{Kind: wire.Keep, Data: news}}) // a link that is gone is seen by the answer
		}
	}
}

// calls are all that a controller can ask for. "begin" takes a run.Info,
// "resume" a run.ResumeRequest, "cancel" a run.CancelRequest.
var calls = map[string]func(f *front, ctx context.Context, id int, data json.RawMessage) (any, error){
	"instances": handle(func(f *front, ctx context.Context, id int, c HostCall) (any, error) {
		defer f.recall(id, c.Kept)()
		return f.env.Chosen(ctx, c.Vars)
	}),
	wire.Sum: func(f *front, _ context.Context, _ int, _ json.RawMessage) (any, error) {
		return ownSum(f.env.Executable)
	},
	"identify": handle(func(f *front, ctx context.Context, id int, c HostCall) (any, error) {
		defer f.recall(id, c.Kept)()
		if err := f.alone(ctx, c.Alone, c.Vars); err != nil {
			return nil, err
		}
		return f.env.Identify(ctx, c.Vars)
	}),
	"preflight": handle(func(f *front, ctx context.Context, _ int, c PlanCall) (any, error) {
		return f.env.Preflight(ctx, c.Vars, c.Steps)
	}),
	"begin": handle(func(f *front, ctx context.Context, _ int, c run.Info) (any, error) {
		return struct{}{}, f.env.Begin(ctx, &c)
	}),
	"resume": handle(func(f *front, ctx context.Context, _ int, c run.ResumeRequest) (any, error) {
		return struct{}{}, f.env.Resume(ctx, &c)
	}),
	"cancel": handle(func(f *front, _ context.Context, _ int, c run.CancelRequest) (any, error) {
		return struct{}{}, f.env.Cancel(&c)
	}),
	"runs": handle(func(f *front, ctx context.Context, _ int, c HostCall) (any, error) {
		return f.env.Runs(ctx, c.Vars)
	}),
	"history": handle(func(f *front, ctx context.Context, _ int, c HostCall) (any, error) {
		return f.env.History(ctx, c.Vars)
	}),
	"report": handle(func(f *front, ctx context.Context, id int, c RunCall) (any, error) {
		return f.env.Report(ctx, c.Vars, c.Run, func(line []byte) error {
			e := new(wire.Event)
			if err := json.Unmarshal(line, e); err != nil {
				return fmt.Errorf("events of %s: %w", c.Run, err)
			}
			return f.out.Write(wire.Frame{Kind: wire.News, ID: id, Event: e})
		})
	}),
	"ledger": handle(func(f *front, ctx context.Context, id int, c RunCall) (any, error) {
		return f.ledger(ctx, id, c)
	}),
	"idle": handle(func(f *front, ctx context.Context, _ int, c HostCall) (any, error) {
		return struct{}{}, f.env.Idle(ctx, c.Vars)
	}),
	"forget": handle(func(f *front, ctx context.Context, _ int, c HostCall) (any, error) {
		n, err := f.env.Forget(ctx, c.Vars)
		return Forgotten{n}, err
	}),
	"info": handle(func(f *front, _ context.Context, _ int, c RunCall) (any, error) {
		return f.env.Info(c.Vars, c.Run)
	}),
	"preview": handle(func(f *front, ctx context.Context, _ int, c RunCall) (any, error) {
		return f.env.Preview(ctx, c.Vars, c.Run)
	}),
	"removal": handle(func(f *front, ctx context.Context, _ int, c RemovalCall) (any, error) {
		return f.env.Removal(ctx, c.Vars, c.Run, c.Step)
	}),
	"look": handle(func(f *front, ctx context.Context, id int, c LookCall) (any, error) {
		if c.Step.Stage != "count" {
			widen()
		}
		defer f.recall(id, c.Kept)()
		if err := f.alone(ctx, c.Alone, c.Vars); err != nil {
			return nil, err
		}
		return f.env.Look(ctx, c.Vars, c.Step, c.Aside, func(kind string, data any) {
			text, err := json.Marshal(data)
			if err == nil {
				_ = f.out.Write(wire.Frame{Kind: wire.News, ID: id, Event: &wire.Event{
					Instance: c.Vars.Name(), Time: time.Now().UTC(), Stage: c.Step.Stage, Kind: kind, Data: text,
				}})
			}
		})
	}),
}

func handle[T any](fn func(f *front, ctx context.Context, id int, data T) (any, error)) func(*front, context.Context, int, json.RawMessage) (any, error) {
	return func(f *front, ctx context.Context, id int, data json.RawMessage) (any, error) {
		var v T
		if err := json.Unmarshal(data, &v); err != nil {
			return nil, fmt.Errorf("bad call: %w", err)
		}
		return fn(f, ctx, id, v)
	}
}

func (f *front) call(ctx context.Context, frame wire.Frame) (any, error) {
	do := calls[frame.Name]
	if do == nil {
		return nil, spool.Remedied(fmt.Errorf("this agent knows no call %.40q: it is older or newer than the controller", frame.Name), "give --agent the one that belongs to it, or none")
	}
	if err := permitCall(f.env.Policy, frame.Name, frame.Data); err != nil {
		return nil, err
	}
	switch frame.Name {
	case "instances", "identify", "look":
	default:
		widen()
	}
	return do(f, ctx, frame.ID, frame.Data)
}

// widen gives the agent the host's processors. The script that starts it leaves it
// one, which is as much as a count or a ping uses: a thread for each of the others
// is a tenth of what such a look costs the host.
func widen() {
	if runtime.GOMAXPROCS(0) < runtime.NumCPU() {
		runtime.SetDefaultGOMAXPROCS()
	}
}

// accountMax is how many bytes of a ledger go into one frame, but for its last
// entry: a fraction of wire.MaxFrame.
const accountMax = wire.MaxFrame / 4

// Account is the data of an event of that kind.
type Account struct {
	Entries []json.RawMessage `json:"entries"` // each a stage.Entry
}

// ledger sends the entries of a run's ledger, a frame of them at a time, and
// answers with the sums.
func (f *front) ledger(ctx context.Context, id int, c RunCall) (*run.Account, error) {
	var some Account
	size := 0
	news := func(kind string, data any) error {
		text, err := json.Marshal(data)
		if err != nil {
			return err
		}
		return f.out.Write(wire.Frame{Kind: wire.News, ID: id, Event: &wire.Event{
			Run: c.Run, Instance: "-", Time: time.Now().UTC(), Stage: "report", Index: -1, Kind: kind, Data: text,
		}})
	}
	flush := func() error {
		if len(some.Entries) == 0 {
			return nil
		}
		err := news(wire.Account, some)
		some.Entries, size = some.Entries[:0], 0
		return err
	}
	sums, err := f.env.Ledger(ctx, c.Vars, c.Run, func(e *stage.Entry) error {
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		some.Entries = append(some.Entries, text)
		if size += len(text); size < accountMax {
			return nil
		}
		return flush()
	}, func(err error) {
		_ = news(wire.Warn, map[string]string{"message": err.Error()}) // a link that is gone is seen by the next entry
	})
	if err == nil {
		err = flush()
	}
	return sums, err
}

// tail sends a run's events; what it has come to is its answer.
func (f *front) tail(ctx context.Context, frame wire.Frame) (any, error) {
	var c RunCall
	if err := json.Unmarshal(frame.Data, &c); err != nil {
		return nil, fmt.Errorf("bad tail: %w", err)
	}
	if err := permitCall(f.env.Policy, wire.Tail, frame.Data); err != nil {
		return nil, err
	}
	return follow(ctx, f.env, c.Vars, frame.Run, frame.From, func(e *wire.Event) error {
		return f.out.Write(wire.Frame{Kind: wire.News, ID: frame.ID, Event: e})
	})
}
