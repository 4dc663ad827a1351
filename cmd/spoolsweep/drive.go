package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/remote"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// driver follows one run on its hosts and answers what they ask.
type driver struct {
	*sweep
	run        string
	controller string // "" for one that only watches
	yes        bool
	slots      *slots
	expect     *int64 // the answer to each host's first confirm, given beforehand
	// plans are what this program made of a playbook of its own: a command on
	// the controller is run unasked only out of these.
	plans map[*member]*playbooks.Plan

	terminal sync.Mutex // one question at a time
}

// drive follows the run on one host to its end or to a question that nobody
// here answers.
func (d *driver) drive(ctx context.Context, m *member, from int64) error {
	next := from
	var held bool // it was given a place among those that are stopped
	release := func() {}
	defer func() { release() }()
	for {
		var at run.State
		err := m.link.Follow(ctx, d.run, next, agent.RunCall{Vars: m.vars, Run: d.run}, &at, func(e wire.Event) {
			next = max(next, e.Seq+1)
			m.Event(e)
			e.Instance = m.Instance
			d.Event(e)
			if e.Stage == "start" && e.Kind == wire.End {
				if !ended(e) {
					d.slots.fail(m.Label()) // before its place is anybody's
				}
				release()
				m.pass()
			}
		})
		if errors.Is(err, remote.ErrLost) || errors.As(err, new(*remote.DialError)) {
			d.slots.fail(m.Label())
			m.lost = err
			if held {
				// It may be stopped just now: its place stays taken until it is
				// started there whatever happens.
				time.AfterFunc(silentPlace, release)
				release = func() {}
				now := time.Now()
				d.Alert(m.Label(), "silent since %s, Postfix is started there by %s", now.Format(time.TimeOnly), now.Add(silentPlace).Format(time.TimeOnly))
			}
			return &goesOn{err, "the run goes on there: spoolsweep attach " + d.run + d.again}
		}
		if err != nil {
			return err
		}
		failed := at.Phase == run.Failed || at.Phase == run.Broken
		if failed && (held || m.Changed) {
			d.slots.fail(m.Label())
		}
		release()
		switch unsure := m.unsure; {
		case failed:
			m.Status = show.Failed
			if m.Error == nil {
				m.Error = &show.Failure{Message: at.Error, Remedy: at.Remedy}
			}
			if at.Phase == run.Broken {
				m.Error = &show.Failure{Message: "the run was broken off there", Remedy: "spoolsweep resume " + d.run + d.again}
			}
			return nil
		case at.Phase == run.Waiting && at.Ask != nil && at.Ask.Kind == "slot" && d.controller != "":
			done, ok := d.slots.take(ctx)
			if !ok {
				return ctx.Err() // stays waiting: another host failed, or we are to end
			}
			release, held = done, true
			if err := d.answer(ctx, m, at.Ask.Number, stage.Answer{Kind: "slot"}); err != nil {
				return err
			}
		case at.Phase == run.Waiting && at.Ask != nil && unsure != nil && at.Ask.Number == m.unsureOf:
			// What it asked was done, or said, and must not be twice.
			if err := d.answer(ctx, m, at.Ask.Number, *unsure); err != nil {
				return err
			}
		case at.Phase == run.Waiting && at.Ask != nil && at.Ask.Kind == "controller" && d.controller != "":
			answer, err := d.command(ctx, m, at.Ask)
			if err != nil || answer == nil {
				return err
			}
			if err := d.answer(ctx, m, at.Ask.Number, *answer); err != nil {
				return err
			}
		case at.Phase == run.Waiting && at.Ask != nil && at.Ask.Kind == "confirm":
			answer, err := d.confirm(ctx, m, at.Ask)
			if err != nil || answer == nil {
				return err
			}
			if err := d.answer(ctx, m, at.Ask.Number, *answer); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// goesOn is a link that was lost for good, while its host does its work.
type goesOn struct {
	error
	remedy string
}

func (e *goesOn) Unwrap() error { return e.error }

// ended says that a stage's last event tells no failure.
func ended(e wire.Event) bool {
	var end run.Ended
	return decode(e.Data, &end) && end.Status == show.OK
}

// answer answers a question of a host. Where the link is lost meanwhile that is no
// error: whether the answer has arrived shows in what the host does next.
func (d *driver) answer(ctx context.Context, m *member, number int, a stage.Answer) error {
	a.By = me()
	err := m.link.Call(ctx, "resume", &run.ResumeRequest{Vars: m.vars, Run: d.run, By: me(), Controller: d.controller, Number: number, Answer: &a}, nil)
	var fault *wire.Fault
	switch {
	case errors.Is(err, remote.ErrLost):
		m.unsure, m.unsureOf = &a, number
		return nil
	case m.unsure != nil && m.unsureOf == number && errors.As(err, &fault) && fault.Kind == "answered":
		return nil // by the one that was lost
	}
	return err
}

// lookThere is the remedy where a host says what no agent of ours does.
const lookThere = "do not trust that host before somebody has looked at it"

// confirm asks whether what a list calls ham is to be sent. Without a terminal
// it is left waiting.
func (d *driver) confirm(ctx context.Context, m *member, ask *run.AskRecord) (*stage.Answer, error) {
	var c stage.Confirm
	if err := json.Unmarshal(ask.Data, &c); err != nil {
		return nil, spool.Remedied(fmt.Errorf("what %s asks: %w", m.Label(), err), lookThere)
	}
	yes := &stage.Answer{Kind: "confirm", Value: c.List}
	first := m.confirm == nil
	m.confirm = &c
	if d.expect != nil && first {
		return yes, nil // counted before, over all hosts
	}
	d.terminal.Lock()
	defer d.terminal.Unlock()
	for _, r := range c.Reasons {
		d.Alert(m.Label(), "look again: %s", show.Clean(r))
	}
	if d.yes || !d.tty {
		return nil, nil
	}
	if c.Delete {
		typed, err := d.ask(ctx, show.Clean(m.Label())+": "+typeNumber("delete", c.Ham))
		if err != nil || typed != strconv.FormatInt(c.Ham, 10) {
			return nil, err
		}
		return yes, nil
	}
	typed, err := d.ask(ctx, fmt.Sprintf("%s: send %d messages, leave %d aside? What was sent cannot be taken back. [y/N] ", show.Clean(m.Label()), c.Ham, c.Spam))
	if err != nil || !strings.HasPrefix(strings.ToLower(typed), "y") {
		return nil, err
	}
	return yes, nil
}

// command runs here what a host's plan has for the controller. What is run
// stands in this program's own plan. Where the plan is the host's, as it is for
// resume, the line is shown and asked about: a host that was taken over must
// not give orders to the laptop of its admin.
func (d *driver) command(ctx context.Context, m *member, ask *run.AskRecord) (*stage.Answer, error) {
	var q stage.ControllerAsk
	if err := json.Unmarshal(ask.Data, &q); err != nil {
		return nil, spool.Remedied(fmt.Errorf("what %s asks: %w", m.Label(), err), lookThere)
	}
	var steps []stage.Step
	plan := d.plans[m]
	if plan != nil {
		steps = plan.Steps
	} else {
		var info run.Info
		if err := m.link.Call(ctx, "info", agent.RunCall{Vars: m.vars, Run: d.run}, &info); err != nil {
			return nil, err
		}
		steps = info.Steps
	}
	if ask.Index < 0 || ask.Index >= len(steps) {
		return nil, spool.Remedied(fmt.Errorf("%s asks for stage %d of %d", m.Label(), ask.Index+1, len(steps)), lookThere)
	}
	step := steps[ask.Index]
	args, ok := stageArgs(step).(*stage.CommandArgs)
	if !ok || !args.OnController() || step.Skip || m.ran[ask.Index] {
		return nil, spool.Remedied(fmt.Errorf("%s asks for a command here that its plan does not have, or has had already: stage %d (%s)", m.Label(), ask.Index+1, step.Stage), lookThere)
	}
	d.terminal.Lock()
	defer d.terminal.Unlock()
	if plan == nil {
		for _, line := range args.Lines(q.Except...) {
			d.Alert(m.Label(), "the run's record there wants this done here: %s", show.Clean(line))
		}
		if d.yes || !d.tty {
			return nil, nil
		}
		typed, err := d.ask(ctx, "Run it on this machine? [y/N] ")
		if err != nil || !strings.HasPrefix(strings.ToLower(typed), "y") {
			return nil, err
		}
	}
	if m.ran == nil {
		m.ran = map[int]bool{}
	}
	m.ran[ask.Index] = true
	result := stage.Result(args.Do(ctx, step.Timeout, q.Except))
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if step.NoLog {
		result = result.(*stage.CommandResult).Bare()
	}
	text, err := json.Marshal(result)
	if err != nil {
		return nil, err
	}
	return &stage.Answer{Kind: "controller", Value: string(text)}, nil
}

// whatNext tells what to type for the hosts that wait.
func (d *driver) whatNext(ctx context.Context) {
	kinds := map[string][]*member{}
	for _, m := range d.members {
		if m.Status == show.Waiting && m.Asks != nil {
			kinds[*m.Asks] = append(kinds[*m.Asks], m)
		}
	}
	var biggest stage.Source
	for _, m := range kinds["rules"] {
		var c stage.Classified
		m.Latest("classify", &c)
		for _, left := range c.Left {
			if left.Count > biggest.Count {
				biggest = left
			}
		}
		d.Alert(m.Label(), "waits for rules: mail flows, %s are aside", messages(c.Messages))
	}
	if len(kinds["rules"]) > 0 {
		d.Alert("", "next: try rules        spoolsweep classify --aside %s -m %s%s", d.run, ruleFor(biggest), d.again)
		d.Alert("", "      then apply them  spoolsweep resume %s -e @rules.yaml%s", d.run, d.again)
		d.Alert("", "                       (a rules.yaml to begin with: spoolsweep run --help)")
	}
	var ham int64
	deletes := false
	for _, m := range kinds["confirm"] {
		c := m.confirm
		if c == nil {
			continue
		}
		if c.Delete {
			deletes = true
			ham += c.Ham
			d.Alert(m.Label(), "waits to be confirmed: %s would be deleted", messages(c.Ham))
			continue
		}
		ham += c.Ham
		d.Alert(m.Label(), "waits to be confirmed: mail flows, %s would be sent, %s stay aside", messages(c.Ham), humanize.Comma(c.Spam))
	}
	switch {
	case deletes:
		d.Alert("", "next: delete them      spoolsweep resume %s -y --expect %d%s", d.run, ham, d.again)
	case len(kinds["confirm"]) > 0:
		d.Alert("", "next: better rules     spoolsweep resume %s -e @rules.yaml%s", d.run, d.again)
		d.Alert("", "      or all the same  spoolsweep resume %s -y --expect %d%s", d.run, ham, d.again)
	}
	for _, m := range kinds["controller"] {
		d.Alert(m.Label(), "waits for a command on the controller: spoolsweep resume %s%s", d.run, d.again)
	}
	for _, m := range kinds["slot"] {
		d.Alert(m.Label(), "waits for its turn to stop Postfix: spoolsweep resume %s%s", d.run, d.again)
	}
	if len(kinds) == 0 {
		d.finished()
	}
}

// finished tells what to type where a run has come to its end and left mail
// aside.
func (d *driver) finished() {
	var left int64
	for _, m := range d.members {
		var r stage.Restored
		if m.Status == show.OK && m.Latest("restore", &r) {
			left += r.Left
		}
	}
	if left == 0 {
		return
	}
	d.Note("", "%s stay aside; if ham is still among them: spoolsweep resume %s -e @better.yaml%s", messages(left), d.run, d.again)
}

func messages(n int64) string {
	if n == 1 {
		return "1 message"
	}
	return humanize.Comma(n) + " messages"
}

// ruleFor is the -m argument that catches a source. Its value comes from mail:
// what is not plain is left for the admin to type.
func ruleFor(s stage.Source) string {
	field := map[string]string{"login": "sasl_user", "sender": "sender", "client": "client", "bounces-to": "recipient"}[s.Kind]
	if field == "" || s.Value == "" || len(s.Value) > 100 || strings.ContainsAny(s.Value, "*/") || shellWord(s.Value) != s.Value {
		return "sasl_user:ACCOUNT"
	}
	return field + ":" + s.Value
}

// silentPlace is how long a host whose link was lost while it had a place keeps
// it: by then the guard of its section has started Postfix.
const silentPlace = spool.SectionLimit + 30*time.Second

// slots bound how many hosts have their Postfix stopped at the same moment, and
// how many may fail.
type slots struct {
	places chan struct{} // nil: any number
	closed chan struct{}

	mu      sync.Mutex // guards the rest
	failed  map[string]bool
	maxFail int
}

func newSlots(n, maxFail int) *slots {
	s := &slots{closed: make(chan struct{}), failed: map[string]bool{}, maxFail: maxFail}
	if n > 0 {
		s.places = make(chan struct{}, n)
	}
	return s
}

// take waits for a place. ok is false when no further host may be stopped,
// because one has failed while it was.
func (s *slots) take(ctx context.Context) (release func(), ok bool) {
	select {
	case <-s.closed:
		return nil, false
	default:
	}
	if s.places == nil {
		return func() {}, true
	}
	select {
	case s.places <- struct{}{}:
	case <-s.closed:
		return nil, false
	case <-ctx.Done():
		return nil, false
	}
	var once sync.Once
	return func() { once.Do(func() { <-s.places }) }, true
}

// fail notes that a host failed, or went silent, while it was changed. Once
// more than maxFail have, no further place is given.
func (s *slots) fail(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.failed)
	s.failed[host] = true
	if before <= s.maxFail && len(s.failed) > s.maxFail {
		close(s.closed)
	}
}

// over says that no further host is to be begun, and how many failed.
func (s *slots) over() (failed int, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.failed), len(s.failed) > s.maxFail
}
