package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// PlanVersion is the version of plans. An agent refuses another one.
const PlanVersion = 1

// Plan is a run of one host, for whatever can run a command there: what
// "spoolsweep plan" prints, and the agent takes on its standard input.
type Plan struct {
	Version  int            `json:"spoolsweep_plan"`
	Run      string         `json:"run,omitempty"`
	Host     string         `json:"host"`
	Hosts    []string       `json:"hosts,omitempty"`
	Who      string         `json:"who,omitempty"`
	Reason   string         `json:"reason,omitempty"`
	Name     string         `json:"name"`
	Yes      bool           `json:"yes,omitempty"`
	Vars     stage.Vars     `json:"vars"`
	Steps    []stage.Step   `json:"steps"`
	Playbook string         `json:"playbook,omitempty"`
	Extra    map[string]any `json:"extra,omitempty"`
}

// What the agent does with a plan.
const (
	planRun   = "run"   // carry it out
	planCheck = "check" // tell what would happen, by what only looks
)

// Exit statuses of these; they are the controller's.
const (
	exitUsage   = 1
	exitFailed  = 2
	exitWaiting = 3
)

// readPlan reads a plan and refuses what this agent does not know: it might be
// what keeps mail from being sent.
func readPlan(in io.Reader) (*Plan, error) {
	text, err := io.ReadAll(io.LimitReader(in, wire.MaxFrame+1))
	if err == nil && len(text) > wire.MaxFrame {
		err = wire.ErrTooLong
	}
	p := new(Plan)
	var v struct {
		Version int `json:"spoolsweep_plan"`
	}
	if err == nil {
		err = json.Unmarshal(text, &v)
	}
	if err == nil && v.Version != PlanVersion {
		err = spool.Remedied(fmt.Errorf("spoolsweep_plan is %d, and this agent takes %d", v.Version, PlanVersion), "print it with the spoolsweep that this agent belongs to")
	}
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		err = d.Decode(p)
	}
	if err == nil && p.Host == "" {
		err = errors.New("it names no host")
	}
	return p, err
}

// planned carries a plan out, or checks it, and tells what happens on out.
type planned struct {
	*Plan
	env *run.Env
	out io.Writer
}

// runPlan is "run" and "check". It returns the exit status.
func runPlan(ctx context.Context, env *run.Env, do string, in io.Reader, out, say io.Writer) int {
	p, err := readPlan(in)
	status := exitUsage
	if err != nil {
		err = fmt.Errorf("the plan on standard input: %w", err)
	} else if err = permitPlan(env.Policy, p, do); err == nil {
		status, err = (&planned{Plan: p, env: env, out: out}).do(ctx, do)
	}
	if err != nil {
		text := "spoolsweep-agent: " + err.Error()
		if remedy := spool.RemedyOf(err); remedy != "" {
			text += "\n  remedy: " + remedy
		}
		fmt.Fprintln(say, strings.Map(harmless, text))
	}
	return status
}

// harmless keeps from a terminal what it would obey.
func harmless(r rune) rune {
	if r != '\n' && !unicode.IsPrint(r) {
		return '?'
	}
	return r
}

func (p *planned) do(ctx context.Context, do string) (int, error) {
	err := p.choose(ctx)
	if err == nil && do == planCheck {
		err = p.check(ctx)
		if err == nil {
			return 0, p.end(run.Ended{Status: "ok"})
		}
	} else if err == nil {
		var at *run.State
		if err = p.begin(ctx); err == nil {
			at, err = follow(ctx, p.env, p.Vars, p.Run, 1, p.tell)
		}
		if err == nil {
			return ended(at)
		}
	}
	return exitFailed, errors.Join(err, p.end(run.Ended{Status: "failed", Error: err.Error(), Remedy: spool.RemedyOf(err)}))
}

// ended is the exit status of a run that has come to rest.
func ended(at *run.State) (int, error) {
	switch at.Phase {
	case run.Finished:
		return 0, nil
	case run.Waiting:
		return exitWaiting, spool.Remedied(fmt.Errorf("run %s waits for %s, and mail flows", at.Run, at.Ask.Kind), run.GoOn(at.Run, at.Ask.Kind))
	case run.Failed:
		return exitFailed, spool.Remedied(errors.New(at.Error), at.Remedy)
	}
	return exitFailed, spool.Remedied(fmt.Errorf("run %s was broken off", at.Run), "spoolsweep resume "+at.Run)
}

// choose finds the Postfix that the plan is for.
func (p *planned) choose(ctx context.Context) error {
	v := &p.Vars
	if v.ConfigDirectory != "" {
		return nil
	}
	if v.Instance != "" {
		v.Instances = stage.Instances{v.Instance}
	}
	chosen, err := p.env.Chosen(ctx, *v)
	if err != nil {
		return err
	}
	if len(chosen) > 1 {
		return spool.Remedied(errSeveral, "a plan is for one of them: spoolsweep plan --host HOST/INSTANCE")
	}
	if in := chosen[0]; in.Directory != "" {
		v.Instances, v.Instance, v.ConfigDirectory = nil, in.Name, in.Directory
	}
	return nil
}

// begin looks at this host and begins the run, unless it was begun before: a plan
// with the id of a run is carried out once.
func (p *planned) begin(ctx context.Context) error {
	if p.Run == "" {
		p.Run = run.NewID(time.Now())
	} else if _, err := p.env.Info(p.Vars, p.Run); !errors.Is(err, run.ErrNoRun) {
		return err
	}
	if _, err := p.preflight(ctx); err != nil {
		return err
	}
	host := p.Host
	if p.Vars.Instance != "" && p.Vars.Instance != spool.DefaultInstance {
		host += "/" + p.Vars.Instance
	}
	hosts := p.Hosts
	if len(hosts) == 0 {
		hosts = []string{host}
	}
	return p.env.Begin(ctx, &run.Info{
		Run: p.Run, Host: host, Hosts: hosts, Began: time.Now().UTC(), Who: p.Who, Reason: p.Reason,
		Name: p.Name, Playbook: p.Playbook, Extra: p.Extra, Vars: p.Vars, Yes: p.Yes, Steps: p.Steps,
	})
}

// preflight tells what is found before anything is done, and fails where something
// is in the way.
func (p *planned) preflight(ctx context.Context) (*run.Preflight, error) {
	f, err := p.env.Preflight(ctx, p.Vars, p.Steps)
	if err == nil {
		err = p.event("preflight", -1, wire.Result, f)
	}
	if err == nil && len(f.Problems) > 0 {
		first := f.Problems[0]
		err = spool.Remedied(errors.New(first.Message), first.Remedy)
	}
	return f, err
}

// check does of the plan what only looks, at what the run has aside, or else at
// the live queues that it would set aside.
func (p *planned) check(ctx context.Context) error {
	aside := ""
	if p.Run != "" {
		if _, err := p.env.Info(p.Vars, p.Run); err == nil {
			aside = p.Run
		} else if !errors.Is(err, run.ErrNoRun) {
			return err
		}
	}
	f := new(run.Preflight)
	// What only looks anyway has nothing in its way.
	if slices.ContainsFunc(p.Steps, func(s stage.Step) bool { row, ok := stage.Find(s.Stage); return !ok || row.Changes && !s.Skip }) {
		var err error
		if f, err = p.preflight(ctx); err != nil {
			return err
		}
	}
	sets := slices.ContainsFunc(p.Steps, func(s stage.Step) bool { return s.Stage == "set-aside" && !s.Skip })
	for i, s := range p.Steps {
		row, ok := stage.Find(s.Stage)
		if !ok || row.Changes || len(row.After) > 0 || s.Skip {
			continue
		}
		args, err := row.Parse(s.Args)
		if err != nil {
			return err
		}
		if reads, ok := args.(interface{ Queues() *[]string }); ok && aside == "" && sets {
			if len(f.Aside) == 0 { // the run would end there
				continue
			}
			for _, q := range f.Aside {
				*reads.Queues() = append(*reads.Queues(), string(q))
			}
			if s.Args, err = json.Marshal(args); err != nil {
				return err
			}
		}
		result, err := p.env.Look(ctx, p.Vars, s, aside, func(kind string, data any) { _ = p.event(s.Stage, i, kind, data) })
		if err == nil {
			err = p.event(s.Stage, i, wire.Result, result)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.Stage, err)
		}
	}
	return nil
}

func (p *planned) end(e run.Ended) error { return p.event("", -1, wire.End, e) }

// event tells what is in no record.
func (p *planned) event(stage string, index int, kind string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return p.tell(&wire.Event{Run: p.Run, Instance: p.Vars.Name(), Time: time.Now().UTC(), Stage: stage, Index: index, Kind: kind, Data: text})
}

// tell prints an event as one line.
func (p *planned) tell(e *wire.Event) error {
	e.Host = p.Host
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = p.out.Write(append(text, '\n'))
	return err
}

// follow passes on the events of a run from the given one on until it has come to
// rest, and returns where it stands then.
func follow(ctx context.Context, env *run.Env, v stage.Vars, id string, next int64, each func(*wire.Event) error) (*run.State, error) {
	for {
		err := env.Events(ctx, v, id, next, func(line []byte) error {
			e := new(wire.Event)
			if err := json.Unmarshal(line, e); err != nil {
				return fmt.Errorf("events of %s: %w", id, err)
			}
			next = max(next, e.Seq+1)
			return each(e)
		})
		if err != nil {
			return nil, err
		}
		at, err := env.StateOf(nil, v, id)
		if err != nil || at.Phase != run.Working {
			return at, err
		}
		// Somebody else has answered between the two: it has not come to rest.
	}
}
