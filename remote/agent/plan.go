package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
	Version int    `json:"spoolsweep_plan"`
	Do      string `json:"do,omitempty"` // one of Does; "": begin
	Run     string `json:"run,omitempty"`
	// OnlyFull has nothing begun where the plan would set nothing aside.
	OnlyFull bool           `json:"only_full,omitempty"`
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

// What a plan is for.
const (
	doBegin = "begin" // a run, unless it was begun before
	// DoResume has a run go on by these steps: see run.Info.Behind.
	DoResume = "resume"
	doAdd    = "add" // one more step, at a run's end: see run.Info.Added
)

// Does are what a plan may be for.
var Does = []string{doBegin, DoResume, doAdd}

// Would is what a check tells of what changes something.
type Would struct {
	// Changes says that there is something to do: a queue to be set aside, a run to go
	// on, messages to be sent or deleted.
	Changes  bool           `json:"changes"`
	Messages *int64         `json:"messages,omitempty"` // how many would be sent, or deleted
	Putback  *stage.Preview `json:"putback,omitempty"`
	Removal  *stage.Removal `json:"removal,omitempty"`
}

// ofState is the stage of the event that tells where a run stands before a plan does
// anything to it. Its later events have a higher number than what is seen there.
const ofState = "state"

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
	if err == nil {
		err = p.wrong()
	}
	return p, err
}

// wrong is what is wrong with it whatever the host.
func (p *Plan) wrong() error {
	switch {
	case p.Host == "":
		return errors.New("it names no host")
	case p.Do != "" && !slices.Contains(Does, p.Do):
		return fmt.Errorf("do: %.40q is none of %s", p.Do, strings.Join(Does, ", "))
	case p.Do == doAdd && len(p.Steps) != 1:
		return fmt.Errorf("do: one step is added, not %d", len(p.Steps))
	case p.OnlyFull && p.goesOn():
		return errors.New("only_full: nothing is begun by do: " + p.Do)
	}
	return nil
}

// goesOn says that it is for a run that there is.
func (p *Plan) goesOn() bool { return p.Do == DoResume || p.Do == doAdd }

// planned carries a plan out, or checks it, and tells what happens on out.
type planned struct {
	*Plan
	env  *run.Env
	out  io.Writer
	next int64 // number of the run's first event that was not told
}

// runPlan is "run" and "check". It returns the exit status.
func runPlan(ctx context.Context, env *run.Env, do string, in io.Reader, out, say io.Writer) int {
	p, err := readPlan(in)
	status := exitUsage
	if err != nil {
		err = fmt.Errorf("the plan on standard input: %w", err)
	} else if err = permitPlan(env.Policy, p, do); err == nil {
		status, err = (&planned{Plan: p, env: env, out: out, next: 1}).do(ctx, do)
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
	before, err := p.before(ctx)
	nothing := before == nil && p.goesOn()
	switch {
	case err != nil:
	case do == planCheck:
		nothing = true
		if before == nil {
			p.Run = "" // there is none, and none is begun
		}
		err = p.check(ctx, before)
	case nothing:
	case p.goesOn():
		err = p.goOn(ctx, before)
	case before == nil:
		nothing, err = p.begin(ctx)
	}
	if err == nil && nothing {
		return 0, p.end(run.Ended{Status: "ok"})
	}
	var at *run.State
	if err == nil {
		at, err = p.follow(ctx)
	}
	if err == nil {
		return ended(at)
	}
	return exitFailed, errors.Join(err, p.end(run.Ended{Status: "failed", Error: err.Error(), Remedy: spool.RemedyOf(err)}))
}

func (p *planned) follow(ctx context.Context) (*run.State, error) {
	return follow(ctx, p.env, p.Vars, p.Run, p.next, p.tell)
}

// before finds the Postfix and the run that the plan is for, and tells where that
// stands; nil: there is none.
func (p *planned) before(ctx context.Context) (*run.State, error) {
	if err := p.choose(ctx); err != nil {
		return nil, err
	}
	if p.Run == "" && p.goesOn() {
		if err := p.find(ctx); err != nil {
			return nil, err
		}
	}
	if p.Run == "" {
		return nil, nil
	}
	if _, err := p.env.Info(p.Vars, p.Run); errors.Is(err, run.ErrNoRun) && !p.goesOn() {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	pf, err := p.env.Postfix(ctx, p.Vars)
	if err != nil {
		return nil, err
	}
	at, err := p.env.StateOf(pf, p.Vars, p.Run)
	if err == nil {
		err = p.event(ofState, -1, wire.Result, at)
	}
	return at, err
}

// find finds the one run that has mail aside, if there is one.
func (p *planned) find(ctx context.Context) error {
	runs, err := p.env.Runs(ctx, p.Vars)
	if err != nil {
		return err
	}
	for _, r := range runs {
		switch {
		case r.Aside == 0:
		case p.Run != "":
			return spool.Remedied(fmt.Errorf("several runs have mail aside, such as %s and %s", p.Run, r.Run), "name the one that is meant, in run")
		default:
			p.Run = r.Run
		}
	}
	return nil
}

// goOn has a run go on as a controller's resume does, or with one more step as its
// putback and purge do. One that is at work is waited for: it may be this very plan,
// given before by a connection that was lost.
func (p *planned) goOn(ctx context.Context, before *run.State) error {
	if before.Phase == run.Working {
		if _, err := p.follow(ctx); err != nil || p.Do == doAdd {
			return err
		}
	}
	q, err := p.request()
	if err == nil {
		err = p.env.Resume(ctx, q)
	}
	if errors.Is(err, run.ErrNothing) {
		return nil
	}
	return err
}

func (p *planned) request() (*run.ResumeRequest, error) {
	info, err := p.env.Info(p.Vars, p.Run)
	if err != nil {
		return nil, err
	}
	q := &run.ResumeRequest{Vars: p.Vars, Run: p.Run, By: p.Who}
	switch {
	case p.Do == doAdd:
		var at int
		q.Steps, at = info.Added(p.Steps[0])
		q.At = &at
		return q, nil
	case len(p.Steps) > 0:
		q.Steps = info.Behind(p.Steps)
	}
	if len(p.Extra) > 0 {
		q.Extra = map[string]any{}
		maps.Copy(q.Extra, info.Extra)
		maps.Copy(q.Extra, p.Extra)
	}
	if p.Yes {
		q.Yes = &p.Yes
	}
	return q, nil
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
		return spool.Remedied(errSeveral, "a plan is for one of them: name it in postfix_instances, or spoolsweep plan --host HOST/INSTANCE")
	}
	if in := chosen[0]; in.Directory != "" {
		v.Instances, v.Instance, v.ConfigDirectory = nil, in.Name, in.Directory
	}
	return nil
}

// begin looks at this host and begins the run. It returns true where there is
// nothing to begin one for.
func (p *planned) begin(ctx context.Context) (nothing bool, err error) {
	named := p.Run
	if p.OnlyFull {
		p.Run = "" // until there is one
	} else if p.Run == "" {
		p.Run = run.NewID(time.Now())
	}
	f, err := p.preflight(ctx)
	if err != nil {
		return false, err
	}
	if p.OnlyFull && len(f.Aside) == 0 {
		return true, nil
	}
	if p.Run = cmp.Or(p.Run, named); p.Run == "" {
		p.Run = run.NewID(time.Now())
	}
	host := p.Host
	if p.Vars.Instance != "" && p.Vars.Instance != spool.DefaultInstance {
		host += "/" + p.Vars.Instance
	}
	hosts := p.Hosts
	if len(hosts) == 0 {
		hosts = []string{host}
	}
	return false, p.env.Begin(ctx, &run.Info{
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
// the live queues that it would set aside, and tells whether anything would change.
func (p *planned) check(ctx context.Context, before *run.State) error {
	if before == nil && p.goesOn() {
		return nil
	}
	aside := ""
	if before != nil {
		aside = p.Run
	}
	var would *Would
	f := new(run.Preflight)
	var err error
	switch {
	case p.Do == doAdd:
		would, err = p.wouldGo(ctx, p.Run)
	case p.Do == DoResume && before.Phase == run.Working:
		would = new(Would) // it is waited for
	case p.Do == DoResume:
		var q *run.ResumeRequest
		if q, err = p.request(); err == nil {
			q.Dry = true
			err = p.env.Resume(ctx, q)
		}
		would = &Would{Changes: err == nil}
		if errors.Is(err, run.ErrNothing) {
			err = nil
		}
	case !slices.ContainsFunc(p.Steps, func(s stage.Step) bool { row, ok := stage.Find(s.Stage); return !ok || row.Changes && !s.Skip }):
		// What only looks anyway has nothing in its way.
	default:
		if f, err = p.preflight(ctx); err != nil {
			return err
		}
		if row, ok := stage.Find(p.Steps[0].Stage); ok && row.Preview != nil {
			would, err = p.wouldGo(ctx, "")
		} else {
			would = &Would{Changes: before == nil && (len(f.Aside) > 0 || !p.OnlyFull)}
		}
	}
	if err == nil && would != nil {
		err = p.event("", -1, wire.Would, would)
	}
	if err != nil {
		return err
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

// wouldGo is what the plan's first step would send, of what a run has aside, or
// delete.
func (p *planned) wouldGo(ctx context.Context, id string) (*Would, error) {
	w := new(Would)
	step := p.Steps[0]
	if step.Stage != "putback" {
		r, err := p.env.Removal(ctx, p.Vars, id, step)
		if err != nil {
			return nil, err
		}
		w.Removal, w.Messages = r, &r.Matched
	} else {
		row, _ := stage.Find(step.Stage)
		args, err := row.Parse(step.Args)
		if err == nil {
			w.Putback, err = p.env.Preview(ctx, p.Vars, id)
		}
		if err != nil {
			return nil, err
		}
		n, _ := w.Putback.Goes(args.(*stage.PutbackArgs))
		w.Messages = &n
	}
	w.Changes = *w.Messages > 0
	return w, nil
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
	p.next = max(p.next, e.Seq+1)
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
