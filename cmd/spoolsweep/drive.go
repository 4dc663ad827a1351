package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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
	export     *folder // where mail goes that hosts export; nil: it stays there
	// plans are what this program made of a playbook of its own: a command on
	// the controller is run unasked only out of these.
	plans map[*member]*playbooks.Plan
	// stages are the names of each host's plan, where that is the host's.
	stages map[*member][]string

	terminal sync.Mutex   // one question at a time
	over     atomic.Bool  // another controller has taken the run over
	moved    atomic.Int64 // when the last event came, of any host; nanoseconds since 1970
	telling  sync.WaitGroup
}

// drive follows the run on one host to its end or to a question that nobody
// here answers.
func (d *driver) drive(ctx context.Context, m *member, from int64) error {
	return d.follow(ctx, m, from, &turn{driver: d, m: m})
}

// follow is drive, of a host that may have its turn already.
func (d *driver) follow(ctx context.Context, m *member, from int64, t *turn) error {
	m.driven.Store(true)
	defer m.driven.Store(false)
	defer t.end()
	d.notices.goesOn(m.Host)
	next := from
	for {
		var at run.State
		err := m.link.Follow(ctx, d.run, next, agent.RunCall{Vars: m.vars, Run: d.run}, &at, func(e wire.Event) {
			next = max(next, e.Seq+1)
			m.next = next
			e = d.completed(e)
			m.Event(e)
			d.moved.Store(time.Now().UnixNano())
			e.Instance = m.Instance
			d.Event(e)
			t.seen(e.Stage == "stop" && e.Kind == wire.Begin)
			if e.Stage == "start" && e.Kind == wire.End {
				end, ok := ended(e)
				if !ok {
					d.slots.fail(m.Label()) // before its place is anybody's
				}
				d.slots.started(end.Seconds)
				t.up()
				m.pass()
			}
		}, t.silent)
		if unreached(err) {
			m.lost = err
			return d.goesOn(err)
		}
		if err != nil {
			m.left = ctx.Err() != nil
			return err
		}
		failed := at.Phase == run.Failed || at.Phase == run.Broken
		if failed && (t.held || m.Changed) {
			d.slots.fail(m.Label())
		}
		asks := ""
		if at.Phase == run.Waiting && at.Ask != nil && !d.cancelled.Load() {
			asks = at.Ask.Kind
		}
		mine := d.controller != "" && !d.over.Load()
		if asks == "rules" || asks == "confirm" || asks == "controller" && d.plans[m] == nil || asks == "export" && d.export == nil {
			d.notices.waits(ctx, d.run, m.Host, asks)
		}
		itsTurn := asks == "slot" && mine && t.next()
		if !itsTurn {
			t.up()
		}
		if mine && m.foreign && (asks == "slot" || asks == "controller") {
			// It was at work when the others were resumed: made ours now, it asks again.
			m.foreign = false
			if err := m.link.Call(ctx, "resume", &run.ResumeRequest{Vars: m.vars, Run: d.run, By: me(), Controller: d.controller}, nil); err != nil {
				return d.goesOn(err)
			}
			continue
		}
		var answer *stage.Answer
		switch {
		case failed:
			m.Status = show.Failed
			if m.Error == nil {
				m.Error = &show.Failure{Message: at.Error, Remedy: d.typed(at.Remedy)}
			}
			if at.Phase == run.Broken {
				m.Error = &show.Failure{Message: "the run was broken off there", Remedy: "spoolsweep resume " + d.run + d.again}
			}
			return nil
		case itsTurn:
			if !t.give() {
				return nil // stays waiting: another host failed while it was looked at
			}
			answer = &stage.Answer{Kind: "slot"}
		case asks == "slot" && mine:
			if !t.take(ctx) && !d.over.Load() {
				return nil // stays waiting: another host failed, or we are to end
			}
			// It may have been lost while it waited, which the next look shows before
			// it is told; or it had its turn from the other controller.
			continue
		case (asks == "slot" || asks == "controller") && d.over.Load():
			if time.Since(time.Unix(0, d.moved.Load())) > patience {
				return nil
			}
			select {
			case <-ctx.Done(): // told by the next look
			case <-time.After(time.Second):
			}
			continue
		case asks != "" && m.unsure != nil && at.Ask.Number == m.unsureOf:
			answer = m.unsure // what it asked was done, or said, and must not be twice
		case asks == "controller" && mine:
			answer, err = d.command(ctx, m, at.Ask)
		case asks == "confirm":
			answer, err = d.confirm(ctx, m, at.Ask)
		case asks == "export" && d.export != nil:
			if answer, err = d.take(ctx, m, at.Ask); errors.Is(err, errAgain) {
				continue
			}
		}
		if err != nil || answer == nil {
			m.open = err != nil && ctx.Err() != nil // whoever was asked has left
			return d.goesOn(err)
		}
		switch err := d.answer(ctx, m, at.Ask.Number, *answer); {
		case err == nil:
			d.notices.goesOn(m.Host)
		case d.late(m, err):
			d.notices.goesOn(m.Host)
			t.up()
		default:
			return err
		}
	}
}

// typed is a host's remedy; of one that is a whole line of this run's, with the flags
// that find its hosts again, which the host does not know.
func (d *driver) typed(remedy string) string {
	if remedy == "spoolsweep release "+d.run {
		return remedy + d.again
	}
	return remedy
}

// completed is an event with the remedy that is typed here.
func (d *driver) completed(e wire.Event) wire.Event {
	var end run.Ended
	if e.Kind != wire.End || !decode(e.Data, &end) || d.typed(end.Remedy) == end.Remedy {
		return e
	}
	end.Remedy = d.typed(end.Remedy)
	if text, err := json.Marshal(&end); err == nil {
		e.Data = text
	}
	return e
}

// late says whether an answer was refused because somebody else is before us, and
// tells it: the run is followed on. A controller that one host calls an older one
// gives no turns and runs no commands for any of them.
func (d *driver) late(m *member, err error) bool {
	var fault *wire.Fault
	if !errors.As(err, &fault) {
		return false
	}
	switch fault.Kind {
	case "answered":
	case "taken-over":
		d.moved.Store(time.Now().UnixNano())
		d.over.Store(true)
		d.slots.end()
	default:
		return false
	}
	d.Alert(m.Label(), "%s", show.Clean(fault.Message))
	return true
}

// goesOn is a link that was lost for good, while its host does its work.
type goesOn struct {
	error
	remedy string
}

func (e *goesOn) Unwrap() error { return e.error }

// goesOn says so of an error that is one of the link, and leaves others alone.
func (d *driver) goesOn(err error) error {
	if !unreached(err) {
		return err
	}
	if d.export != nil {
		return &goesOn{err, "what is not here stays there: " + d.exportAgain()}
	}
	return &goesOn{err, "the run goes on there: spoolsweep attach " + d.run + d.again}
}

// unreached says that the link was lost, or could not be had again.
func unreached(err error) bool {
	return errors.Is(err, remote.ErrLost) || errors.As(err, new(*remote.DialError))
}

// ended is what a stage's last event tells; ok, that it is no failure.
func ended(e wire.Event) (end run.Ended, ok bool) {
	return end, decode(e.Data, &end) && end.Status == show.OK
}

// answer answers a question of a host. Where the link is lost meanwhile, or was
// lost while the answer was found, that is no error: whether the answer has arrived
// shows in what the host does next.
func (d *driver) answer(ctx context.Context, m *member, number int, a stage.Answer) error {
	a.By = cmp.Or(a.By, me())
	err := m.link.Call(ctx, "resume", &run.ResumeRequest{Vars: m.vars, Run: d.run, By: me(), Controller: d.controller, Number: number, Answer: &a}, nil)
	var fault *wire.Fault
	switch {
	case unreached(err):
		m.unsure, m.unsureOf = &a, number
		return nil
	case m.unsure != nil && m.unsureOf == number && errors.As(err, &fault) && fault.Kind == "answered":
		return nil // by the one that was lost
	}
	return err
}

// lookThere is the remedy where a host says what no agent of ours does.
const lookThere = "do not trust that host before somebody has looked at it"

// mostCounted is more messages, and more bytes, than any host has. So many on each of
// thousands, and 4 KiB for each of one's messages, still are a number.
const mostCounted = 1 << 48

// possible says of numbers that a host tells whether it may have so much.
func possible(told ...int64) bool {
	return !slices.ContainsFunc(told, func(n int64) bool { return n < 0 || n > mostCounted })
}

// lies is the error for a number that is not possible: in the sum over all it would
// hide what others have.
func lies(m *member) error {
	return spool.Remedied(fmt.Errorf("%s counts less than no message, or more than any host has", m.Label()), lookThere)
}

// confirm asks whether what a list calls ham is to be sent. Without a terminal
// it is left waiting.
func (d *driver) confirm(ctx context.Context, m *member, ask *run.AskRecord) (*stage.Answer, error) {
	var c stage.Confirm
	if err := json.Unmarshal(ask.Data, &c); err != nil {
		return nil, spool.Remedied(fmt.Errorf("what %s asks: %w", m.Label(), err), lookThere)
	}
	if !possible(c.Ham, c.Spam) {
		return nil, lies(m)
	}
	yes := &stage.Answer{Kind: "confirm", Value: c.List}
	m.confirm = &c
	if a := m.counted; a != nil && a.List == c.List && a.Ham == c.Ham && a.Delete == c.Delete {
		m.counted = nil // nobody has said yes to a second question
		return yes, nil
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

// detached names the hosts that are not followed any more and whose run goes on, or
// has a question open, and says whether there are any.
func (d *driver) detached() bool {
	var left, open []string
	for _, m := range d.members {
		switch {
		case m.left:
			left = append(left, m.Label())
		case m.open:
			open = append(open, m.Label())
		}
	}
	if len(left) > 0 {
		d.Alert("", "detached, the run goes on on %s: spoolsweep attach %s%s", show.Names(left), d.run, d.again)
	}
	if len(open) > 0 {
		next := "spoolsweep resume " + d.run + d.again
		if d.export != nil {
			next = d.exportAgain()
		}
		d.Alert("", "detached, the question stays open on %s: %s", show.Names(open), next)
	}
	return len(left)+len(open) > 0
}

// whatNext tells what to type for the hosts that wait, and those that were left.
func (d *driver) whatNext(ctx context.Context) {
	left := d.detached()
	if slices.ContainsFunc(d.members, func(m *member) bool { return show.Disabled(m.Host) }) {
		d.Note("", "to enable the account again, once its password is another one: spoolsweep run enable-account -e account=ACCOUNT%s", d.again)
	}
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
		d.Alert("", "next: find rules       spoolsweep suggest --aside %s%s", d.run, d.again)
		d.Alert("", "      or try your own  spoolsweep classify --aside %s %s%s", d.run, ruleFor(biggest), d.again)
		d.Alert("", "      then apply them  spoolsweep resume %s -e @rules.yaml%s", d.run, d.again)
		d.Alert("", "                       (suggest -o yaml prints a rules.yaml; what one looks like: spoolsweep run --help)")
	}
	var ham int64
	deletes, judged := false, false
	for _, m := range kinds["confirm"] {
		c := m.confirm
		if c == nil {
			continue
		}
		ham += c.Ham
		judged = judged || slices.Contains(d.stages[m], "classify") || m.Latest("classify", new(stage.Classified))
		switch {
		case c.Delete:
			deletes = true
			d.Alert(m.Label(), "waits to be confirmed: %s would be deleted", messages(c.Ham))
		case c.Spam > 0:
			d.Alert(m.Label(), "waits to be confirmed: mail flows, %s would be sent, %s stay where they are", messages(c.Ham), humanize.Comma(c.Spam))
		default:
			d.Alert(m.Label(), "waits to be confirmed: mail flows, %s would be sent", messages(c.Ham))
		}
	}
	switch {
	case deletes:
		d.Alert("", "next: delete them      spoolsweep resume %s -y --expect %d%s", d.run, ham, d.again)
	case judged: // else it is a release, or a put back, whose rules are its own
		d.Alert("", "next: better rules     spoolsweep resume %s -e @rules.yaml%s", d.run, d.again)
		d.Alert("", "      or all the same  spoolsweep resume %s -y --expect %d%s", d.run, ham, d.again)
	case len(kinds["confirm"]) > 0:
		d.Alert("", "next: all the same     spoolsweep resume %s -y --expect %d%s", d.run, ham, d.again)
	}
	for _, m := range kinds["controller"] {
		d.Alert(m.Label(), "waits for a command on the controller: spoolsweep resume %s%s", d.run, d.again)
	}
	for _, m := range kinds["export"] {
		d.Alert(m.Label(), "waits for who takes its mail: spoolsweep resume %s --to DIR%s", d.run, d.again)
	}
	for _, m := range kinds["slot"] {
		if d.over.Load() {
			d.Alert(m.Label(), "waits for its turn to stop Postfix, which the controller that took the run over gives")
			continue
		}
		d.Alert(m.Label(), "waits for its turn to stop Postfix: spoolsweep resume %s%s", d.run, d.again)
	}
	if len(kinds) == 0 && !left {
		d.finished()
	}
}

// finished tells what to type where a run has come to its end and left mail
// aside.
func (d *driver) finished() {
	var left int64
	for _, m := range d.members {
		if m.Status == show.OK {
			left += leftAside(m.Host)
		}
	}
	if left == 0 {
		return
	}
	d.Note("", "%s stay aside; if ham is still among them: spoolsweep resume %s -e @better.yaml%s", messages(left), d.run, d.again)
}

// leftAside is how much the last stage that took from what is aside has left there.
func leftAside(h *show.Host) int64 {
	for _, s := range slices.Backward(h.Stages) {
		var r struct{ Left int64 }
		switch s.Stage {
		case "restore", "putback", "purge":
			if json.Unmarshal(s.Result, &r) == nil {
				return r.Left
			}
		}
	}
	return 0
}

func messages(n int64) string {
	if n == 1 {
		return "1 message"
	}
	return humanize.Comma(n) + " messages"
}

// ruleFor are the arguments that have classify try a rule for a source: of an address
// to which bounces come back the bounces alone, and not what is written to it. Its
// value comes from mail: what is not plain is left for the admin to type.
func ruleFor(s stage.Source) string {
	field := map[string]string{"login": "sasl_user", "sender": "sender", "client": "client", "bounces-to": "recipient"}[s.Kind]
	switch {
	case field == "" || s.Value == "" || len(s.Value) > 100 || strings.ContainsAny(s.Value, "*/") || shellWord(s.Value) != s.Value:
		return "-m sasl_user:ACCOUNT"
	case s.Kind == "bounces-to":
		return fmt.Sprintf(`-e '{spam: {all: [{sender: "<>"}, {recipient: "%s"}]}}'`, s.Value)
	}
	return "-m " + field + ":" + s.Value
}

// patience is for how long nothing happens on any host before a controller that
// was overtaken leaves those that wait for the other one, which may be gone too.
const patience = 30 * time.Second
