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

const becomeRoot = "log in as root, or let become use sudo (-b)"

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
	Warnings []string      `json:"warnings"`
	Notes    []string      `json:"notes"`
	Runs     []*State      `json:"runs"` // unfinished ones, and those with mail aside
	// Began and Ended are when this was looked at, by the host's own clock.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
}

// Chosen are the instances that the host variables want on this host.
func (e *Env) Chosen(ctx context.Context, v stage.Vars) ([]spool.Instance, error) {
	all := []spool.Instance{{Name: spool.DefaultInstance, Enabled: true}}
	if e.Instances != nil {
		var err error
		if all, err = e.Instances(ctx); err != nil {
			return nil, err
		}
	}
	return spool.ChooseInstances(all, v.Instances)
}

// Identify says who and what answers.
func (e *Env) Identify(ctx context.Context, v stage.Vars) (*Preflight, error) {
	p, err := e.glance(ctx, v)
	if err != nil {
		return nil, err
	}
	return identify(p)
}

func identify(p *spool.Postfix) (*Preflight, error) {
	name, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	f := &Preflight{
		Hostname: name, Root: os.Geteuid() == 0, Postfix: p.Settings,
		Aside: []spool.Queue{}, Live: []spool.Queue{}, Problems: []Problem{}, Warnings: []string{}, Notes: []string{}, Runs: []*State{},
	}
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
	began := time.Now().UTC()
	if err := checkSteps(steps); err != nil {
		return nil, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	f, err := identify(p)
	if err != nil {
		return nil, err
	}
	f.Began = began
	defer func() { f.Ended = time.Now().UTC() }()
	problem := func(message, remedy string) { f.Problems = append(f.Problems, Problem{message, remedy}) }
	if !f.Root && os.Geteuid() != p.Owner {
		problem(fmt.Sprintf("the agent runs as uid %d", os.Geteuid()), becomeRoot)
		return f, nil // what it could look at would be half of it
	}
	if f.Counts, err = spool.CountAll(p, time.Now().Add(10*time.Second)); err != nil {
		return nil, err
	}
	if err := f.queues(p, v, steps); err != nil {
		return nil, err
	}
	lock, err := e.lock(ctx, p, v, steps)
	busy := errors.Is(err, spool.ErrBusy)
	switch {
	case busy:
		problem(err.Error(), spool.RemedyOf(err))
	case err != nil:
		return nil, err
	default:
		lock.Close()
	}
	if len(f.Aside) > 0 {
		troubles, note := p.Configuration(ctx)
		if note != "" {
			f.Notes = append(f.Notes, note)
		}
		if f.Counts.Postfix == "stopped" && !busy { // else it may be that run's stop
			f.Notes = append(f.Notes, stoppedNote(p))
		}
		inspected, err := spool.Inspect(p, f.Aside, reserved(f.messages()), e.state(v))
		if err != nil {
			return nil, err
		}
		troubles = append(troubles, inspected...)
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
			if err := s.left(); err != nil {
				problem(err.Error(), spool.RemedyOf(err))
			} else {
				f.Notes = append(f.Notes, fmt.Sprintf("run %s: %s", s.Run, s.Error))
			}
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
		if err := s.left(); err != nil {
			problem(err.Error(), spool.RemedyOf(err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Counts.SetAside)) {
		if !owned[name] {
			f.Notes = append(f.Notes, fmt.Sprintf("%s is there, of no run that this host knows, with %d messages: it is left alone", name, f.Counts.SetAside[name].Messages))
		}
	}
	if note := e.exposed(ctx); note != "" {
		f.Notes = append(f.Notes, note)
	}
	if len(f.Aside) > 0 {
		note := "worker and section guard each other between stop and start; no timer does, since no systemd runs here"
		if e.units(v) != nil {
			note = fmt.Sprintf("worker and section guard each other between stop and start, and a timer of systemd both: it starts Postfix after %v", timerAfter)
		}
		f.Notes = append(f.Notes, note)
	}
	return f, nil
}

// messages are how many would go aside.
func (f *Preflight) messages() (n int64) {
	for _, q := range f.Aside {
		n += f.Counts.Queues[q].Messages
	}
	return n
}

// stoppedNote says since when there is no Postfix to stop, as far as that is known.
func stoppedNote(p *spool.Postfix) string {
	note := "Postfix is stopped already, and will be started"
	if since := p.StoppedSince(); since != "" {
		note += " (" + since + ")"
	}
	return note
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
			f.Aside = append([]spool.Queue{}, chosen...)
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
// a run whose set-aside mail is looked at; else the queues that it names,
// else all live ones.
func (e *Env) Look(ctx context.Context, v stage.Vars, step stage.Step, aside string, emit stage.Emit) (stage.Result, error) {
	row, ok := stage.Lookup(step.Stage)
	if !ok || row.Changes || len(row.After) > 0 {
		return nil, fmt.Errorf("stage %q is none that only looks", step.Stage)
	}
	reach := e.Postfix
	if row.Glances {
		reach = e.glance
	}
	args, p, err := parsed(ctx, v, row, step, reach)
	if err != nil {
		return nil, err
	}
	h := &stage.Host{Postfix: p, Vars: v, Records: func() ([]stage.Record, error) { return e.records(p, v) }}
	if reads, ok := args.(interface{ Queues() *[]string }); ok {
		live := reads.Queues()
		for _, name := range *live {
			if _, err := spool.ParseQueue(name); err != nil {
				return nil, err
			}
		}
		switch {
		case aside != "":
			if h.Aside, err = e.aside(p, v, aside); err != nil {
				return nil, err
			}
		case len(*live) == 0:
			*live = stage.AllLive()
		}
	}
	if of, ok := args.(interface{ OfRun() string }); ok && of.OfRun() != "" {
		if h.Dir, err = e.dir(v, of.OfRun()); err == nil {
			_, err = readInfo(h.Dir)
		}
		if err != nil {
			return nil, err
		}
	}
	return row.Run(ctx, h, args, emit)
}

// parsed parses the arguments of a stage that is run by itself, and reaches the
// Postfix whose queues it reads.
func parsed(ctx context.Context, v stage.Vars, row *stage.Row, step stage.Step, reach func(context.Context, stage.Vars) (*spool.Postfix, error)) (stage.Args, *spool.Postfix, error) {
	args, err := row.Parse(step.Args)
	if err != nil {
		return nil, nil, err
	}
	p, err := reach(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	if uid := os.Geteuid(); uid != 0 && uid != p.Owner {
		return nil, nil, spool.Remedied(fmt.Errorf("the agent runs as uid %d, which may not read the queues", uid), becomeRoot)
	}
	return args, p, nil
}

// aside is what a run has set aside; never nil.
func (e *Env) aside(p *spool.Postfix, v stage.Vars, id string) ([]spool.Set, error) {
	dir, err := e.dir(v, id)
	if err != nil {
		return nil, err
	}
	if _, err := readInfo(dir); err != nil {
		return nil, err
	}
	sets, err := spool.AsideOf(p, dir)
	return append([]spool.Set{}, sets...), err
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

// Removal is what a stage that removes mail, or works on live queues, would do: with
// mail there, or, where the stage is added to a run, with what that has aside.
func (e *Env) Removal(ctx context.Context, v stage.Vars, id string, step stage.Step) (*stage.Removal, error) {
	row, ok := stage.Find(step.Stage)
	if !ok || row.Preview == nil {
		return nil, fmt.Errorf("stage %q is none that tells before what it would do", step.Stage)
	}
	args, p, err := parsed(ctx, v, row, step, e.Postfix)
	if err != nil {
		return nil, err
	}
	h := &stage.Host{Postfix: p, Vars: v, Run: id, Last: func(string, any) bool { return false }}
	h.Records = func() ([]stage.Record, error) { return e.records(p, v) }
	if id != "" {
		if h.Dir, err = e.dir(v, id); err != nil {
			return nil, err
		}
		info, err := readInfo(h.Dir)
		if err != nil {
			return nil, err
		}
		working, records, err := snapshot(h.Dir)
		if err != nil {
			return nil, err
		}
		if working {
			return nil, spool.Remedied(fmt.Errorf("run %s is at work", id), "wait for it; spoolsweep attach "+id+" follows it")
		}
		at, err := progressOf(records, len(info.Steps))
		if err == nil && row.Finished {
			err = finished(info, at)
		}
		if err != nil {
			return nil, err
		}
		h.Last = func(name string, into any) bool { return last(h.Dir, name, into) }
	}
	return row.Preview(ctx, h, args)
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
