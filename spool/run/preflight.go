package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// Problem is a reason why a run must not begin on this host, with the remedy.
type Problem struct {
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

// Preflight is what a host says of itself before a run begins.
type Preflight struct {
	Hostname string         `json:"hostname"`
	Postfix  spool.Settings `json:"postfix"`
	Root     bool           `json:"root"`
	Counts   spool.Counts   `json:"counts"`
	// Aside are the queues that the plan would set aside, Live those that stay.
	Aside    []spool.Queue `json:"aside"`
	Live     []spool.Queue `json:"live"`
	Problems []Problem     `json:"problems"`
	Notes    []string      `json:"notes"`
	Runs     []*State      `json:"runs"` // unfinished ones, and those with mail aside
}

// Identify says who and what answers.
func (e *Env) Identify(ctx context.Context, v stage.Vars) (*Preflight, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	f := &Preflight{Hostname: name, Root: os.Geteuid() == 0}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	f.Postfix = p.Settings
	_, running := p.Running()
	switch {
	case running:
		f.Counts.Postfix = "running"
	case !f.Root && os.Geteuid() != p.Owner:
		f.Counts.Postfix = "unknown" // master.pid is root's
	default:
		f.Counts.Postfix = "stopped"
	}
	return f, nil
}

// Preflight looks for everything that would make the plan fail, and changes
// nothing: all of it is told at once.
func (e *Env) Preflight(ctx context.Context, v stage.Vars, steps []stage.Step) (*Preflight, error) {
	if err := checkSteps(steps); err != nil {
		return nil, err
	}
	f, err := e.Identify(ctx, v)
	if err != nil {
		return nil, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	problem := func(message, remedy string) { f.Problems = append(f.Problems, Problem{message, remedy}) }
	if !f.Root && os.Geteuid() != p.Owner {
		problem(fmt.Sprintf("the agent runs as uid %d", os.Geteuid()), "log in as root, or let become use sudo")
		return f, nil // what it could look at would be half of it
	}
	if f.Counts, err = spool.CountAll(p, time.Now().Add(10*time.Second)); err != nil {
		return nil, err
	}
	if err := f.queues(p, v, steps); err != nil {
		return nil, err
	}
	lock, err := e.lock(ctx, p, v)
	switch {
	case errors.Is(err, spool.ErrBusy):
		problem(err.Error(), "wait for it, or attach to it")
	case err != nil:
		return nil, err
	default:
		lock.Close()
	}
	if len(f.Aside) > 0 {
		troubles, err := spool.Inspect(p, f.Aside, e.state(v))
		if err != nil {
			return nil, err
		}
		for _, t := range troubles {
			problem(t.Path+" "+t.Why, t.Remedy)
		}
	}
	runs, err := e.Runs(ctx, v)
	if err != nil {
		return nil, err
	}
	owned := map[string]bool{}
	for _, s := range runs {
		if s.Phase == Finished && s.Aside == 0 {
			continue
		}
		f.Runs = append(f.Runs, s)
		if s.Stages == 0 {
			f.Notes = append(f.Notes, fmt.Sprintf("run %s: %s", s.Run, s.Error))
			continue
		}
		dir, err := e.dir(v, s.Run)
		if err != nil {
			return nil, err
		}
		sets, err := spool.AsideOf(p, dir)
		if err != nil {
			return nil, err
		}
		for _, set := range sets {
			owned[set.Aside] = true
		}
		if s.Down && s.Phase != Working {
			problem(fmt.Sprintf("run %s was left between stop and start", s.Run), "spoolsweep resume "+s.Run)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Counts.SetAside)) {
		if !owned[name] {
			f.Notes = append(f.Notes, fmt.Sprintf("%s is there, of no run that this host knows, with %d messages: it is left alone", name, f.Counts.SetAside[name].Messages))
		}
	}
	if len(f.Aside) > 0 {
		f.Notes = append(f.Notes, "no timer guards the time between stop and start: worker and section guard each other")
	}
	return f, nil
}

// queues chooses what the plan sets aside.
func (f *Preflight) queues(p *spool.Postfix, v stage.Vars, steps []stage.Step) error {
	for i, s := range steps {
		if first, last, ok := stage.SectionOf(names(steps), i); ok && s.Stage == "set-aside" && !s.Skip {
			r := runner{info: &Info{Steps: steps, Vars: v}, pf: p}
			chosen, err := r.queues(first, last)
			if err != nil {
				return err
			}
			f.Aside = chosen
		}
	}
	for _, q := range spool.Queues {
		if _, there := f.Counts.Queues[q]; there && !slices.Contains(f.Aside, q) {
			f.Live = append(f.Live, q)
		}
	}
	return nil
}

// Look runs one stage that changes nothing, and leaves no record. aside names
// a run whose set-aside mail classify looks at; else dirs, else the live queues.
func (e *Env) Look(ctx context.Context, v stage.Vars, step stage.Step, aside string, emit stage.Emit) (stage.Result, error) {
	row, ok := stage.Find(step.Stage)
	if !ok || row.Changes || len(row.After) > 0 {
		return nil, fmt.Errorf("stage %q is none that only looks", step.Stage)
	}
	args, err := row.Parse(step.Args)
	if err != nil {
		return nil, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	if c, ok := args.(*stage.ClassifyArgs); ok {
		if c.Directories, err = e.directories(p, v, aside, c.Directories); err != nil {
			return nil, err
		}
	}
	return row.Run(ctx, &stage.Host{Postfix: p, Vars: v}, args, emit)
}

func (e *Env) directories(p *spool.Postfix, v stage.Vars, aside string, named []string) ([]string, error) {
	if aside == "" && len(named) == 0 {
		for _, q := range []spool.Queue{spool.Maildrop, spool.Incoming, spool.Active, spool.Deferred, spool.Hold} {
			named = append(named, string(q))
		}
	}
	for _, name := range named {
		if _, err := spool.ParseQueue(name); err != nil {
			return nil, err
		}
	}
	if aside == "" {
		return named, nil
	}
	dir, err := e.dir(v, aside)
	if err != nil {
		return nil, err
	}
	if _, err := readInfo(dir); err != nil {
		return nil, err
	}
	sets, err := spool.AsideOf(p, dir)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, s := range sets {
		if s.Queue != spool.Defer {
			dirs = append(dirs, s.Aside)
		}
	}
	return dirs, nil
}

// Preview is what a put back of a run would send.
func (e *Env) Preview(ctx context.Context, v stage.Vars, id string) (*stage.Preview, error) {
	dir, err := e.dir(v, id)
	if err != nil {
		return nil, err
	}
	if _, err := readInfo(dir); err != nil {
		return nil, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	var c stage.Confirmed
	last(dir, "confirm", &c)
	return stage.PreviewPutback(ctx, p, id, dir, c.List)
}

// Info returns what was asked for in a run.
func (e *Env) Info(v stage.Vars, id string) (*Info, error) {
	dir, err := e.dir(v, id)
	if err != nil {
		return nil, err
	}
	return readInfo(dir)
}

// Events passes on a run's events, as Tail does.
func (e *Env) Events(ctx context.Context, v stage.Vars, id string, from int64, each func(line []byte) error) error {
	dir, err := e.dir(v, id)
	if err != nil {
		return err
	}
	if _, err := readInfo(dir); err != nil {
		return err
	}
	return Tail(ctx, dir, from, each)
}
