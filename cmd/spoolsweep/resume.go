package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func resumeCommand() *cli.Command {
	return &cli.Command{
		Name: "resume", Usage: "carry on a run that waits or was broken off", ArgsUsage: "[RUN]",
		UsageText: `spoolsweep resume
spoolsweep resume 20261123T231500Z-ab12 -e @rules.yaml
spoolsweep resume 20261123T231500Z-ab12 -e '{spam: {any: [{source_count: ">20"}]}}'
spoolsweep resume 20261123T231500Z-ab12 -e @better.yaml -y
spoolsweep resume 20261123T231500Z-ab12 -y --expect 614`,
		Description: `Without RUN: the one unfinished run of these hosts. New variables are merged
over those the run was begun with, and it goes on at the first stage that they
change; one that its playbook does not read is refused. On a terminal a run that
waits for rules has some proposed, as run does. A finished run with mail aside is
refined in the same way: only what is still aside is judged again, and nothing moves
twice. So a run that waits for rules may give back at once what no flood touches, as
by source_count above, and what that holds back is refined later. A -y that the run
was begun with was not said of new rules: what they would send is asked about, or
waits.

From then on this controller gives the run's turns to stop Postfix, whoever began
it. Hosts that work on it just then are followed; those that do not answer are left
for another resume. Ctrl-C asks: detach, cancel after the current step, or go on;
Enter lists the hosts that are still at work.`,
		Flags: commonFlags(extraVars(), yesFlag(), notifyFlag(atEnd),
			&cli.Int64Flag{Name: "expect", Usage: "with -y: confirm what the run waits to send, if that is `N` messages over all hosts"},
			&cli.StringFlag{Name: "to", Usage: "go on with an export --remove, into the folder `DIR`"}),
		OnUsageError: usageError,
		Action:       resumeAction,
	}
}

func resumeAction(c *cli.Context) error {
	if c.NArg() > 1 {
		return usageError(c, errors.New("one run at most"), false)
	}
	if c.IsSet("expect") && !c.Bool("yes") {
		return errors.New("--expect goes with -y")
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	ctx := c.Context
	open := func(r *run.State) bool { return r.Phase != run.Finished && r.Phase != run.Working }
	if len(s.extra.Values) > 0 {
		open = func(r *run.State) bool { return r.Phase != run.Working && (r.Phase != run.Finished || r.Aside > 0) }
	}
	id, on, err := s.find(ctx, c.Args().First(), open)
	if err != nil {
		return err
	}
	if id == "" {
		s.nothing("nothing to resume")
		return s.end(ctx)
	}
	s.doc.Run = id
	if len(s.extra.Values) > 0 {
		s.passOver(on)
	}
	d := &driver{sweep: s, run: id, controller: newToken(), yes: c.Bool("yes"), stages: map[*member][]string{}}
	requests, err := d.requests(ctx, on)
	if err != nil {
		return err
	}
	if c.IsSet("expect") {
		if err := d.expected(on, c.Int64("expect")); err != nil {
			s.close()
			return err
		}
	}
	if c.IsSet("to") {
		exports := func(m *member) bool { return slices.Contains(d.stages[m], "export") }
		if !slices.ContainsFunc(s.members, exports) {
			s.close()
			return fmt.Errorf("--to goes with a run of export --remove: %s is none", id)
		}
		if d.export, err = openFolder(c.String("to"), formQueue); err != nil {
			s.close()
			return err
		}
		defer d.export.close()
	}
	members := membersOf(s.members, on)
	turns := d.atWork(members, on, requests)
	ctx, stop := d.attend(ctx)
	defer stop()
	s.inTurn(ctx, members, func(m *member) error {
		if t := turns[m]; t != nil {
			s.Note(m.Label(), worksOn)
			return d.follow(ctx, m, on[m].Seen+1, t)
		}
		from := on[m].Seen + 1
		if asks := on[m].Ask; asks == nil || asks.Kind != "confirm" || requests[m].Steps != nil {
			err := m.link.Call(ctx, "resume", requests[m], nil)
			var fault *wire.Fault
			switch {
			case err == nil:
			case errors.As(err, &fault) && fault.Kind == "nothing":
				from = 1 // it only tells again where it stands
			case fault != nil && fault.Kind == "busy" && on[m].Phase != run.Working && len(requests[m].Steps) == 0:
				if t := d.begunMeanwhile(ctx, m); t != nil {
					s.Note(m.Label(), worksOn)
					return d.follow(ctx, m, from, t)
				}
				return err
			default:
				return err
			}
		} else {
			from = 1
		}
		return d.drive(ctx, m, from)
	})
	d.endExport()
	d.talk(ctx, c)
	d.whatNext(ctx)
	return s.end(ctx)
}

// passOver leaves out the hosts that ended with nothing aside, where others have
// mail that new rules can judge.
func (s *sweep) passOver(on map[*member]*run.State) {
	empty := slices.DeleteFunc(membersOf(s.members, on), func(m *member) bool { return on[m].Phase != run.Finished || on[m].Aside > 0 })
	if len(empty) == len(on) {
		return
	}
	for _, m := range empty {
		m.Status = show.Skipped
		s.Note(m.Label(), "has nothing aside of this run: no rules are needed there")
		delete(on, m)
	}
}

// atWork are the hosts that work on the run just now, where others wait for
// somebody: they are followed, and one that may have its Postfix stopped has a
// place before any is given. Where all work, or they are to work by another plan,
// there is nothing to resume, which the hosts themselves say.
func (d *driver) atWork(members []*member, on map[*member]*run.State, requests map[*member]*run.ResumeRequest) map[*member]*turn {
	turns := map[*member]*turn{}
	for _, m := range members {
		q := requests[m]
		if on[m].Phase != run.Working || q == nil || len(q.Steps) > 0 {
			continue
		}
		m.foreign = true
		turns[m] = &turn{driver: d, m: m}
	}
	if len(turns) == len(members) {
		return nil
	}
	for m, t := range turns {
		t.ofNext(on[m].Next)
	}
	return turns
}

// worksOn is told of a host that works on the run.
const worksOn = "works on the run, and is followed"

// begunMeanwhile is the turn of a host that waited when it was looked at and works on
// the run now, since the controller before us has just answered it; nil of one where
// another run works.
func (d *driver) begunMeanwhile(ctx context.Context, m *member) *turn {
	var runs []*run.State
	if err := m.link.Call(ctx, "runs", agent.HostCall{Vars: m.vars}, &runs); err != nil {
		return nil
	}
	for _, r := range runs {
		if r.Run == d.run && r.Phase == run.Working {
			m.foreign = true
			t := &turn{driver: d, m: m}
			t.ofNext(r.Next)
			return t
		}
	}
	return nil
}

// requests resolves the run's playbook again where -e gives new variables.
func (d *driver) requests(ctx context.Context, on map[*member]*run.State) (map[*member]*run.ResumeRequest, error) {
	var mu sync.Mutex // guards requests, max, maxFail and failed
	requests := map[*member]*run.ResumeRequest{}
	var max, maxFail int
	var failed error
	d.eachOf(membersOf(d.members, on), func(m *member) error {
		var info run.Info
		if err := m.link.Call(ctx, "info", agent.RunCall{Vars: m.vars, Run: d.run}, &info); err != nil {
			return err
		}
		q := &run.ResumeRequest{Vars: m.vars, Run: d.run, By: me(), Controller: d.controller}
		if d.yes {
			q.Yes = &d.yes
		}
		mu.Lock()
		defer mu.Unlock()
		max, maxFail = info.MaxStopped, info.MaxFail
		requests[m] = q
		d.stages[m] = nil
		for _, step := range info.Steps {
			d.stages[m] = append(d.stages[m], step.Stage)
		}
		if len(d.extra.Values) == 0 {
			return nil
		}
		pb, err := playbooks.Parse(info.Name, info.Name+".yaml", []byte(info.Playbook))
		if err != nil {
			failed = err
			return nil
		}
		if err := d.onlyUsed(pb); err != nil {
			failed = err
			return nil
		}
		extra := d.extra.Over(info.Extra)
		plan, err := m.resolve(pb, extra)
		if err != nil {
			failed = err
			return nil
		}
		q.Steps, q.Extra = plan.Steps, extra.Kept(pb)
		return nil
	})
	d.slots = newSlots(max, maxFail)
	return requests, failed
}

// onlyUsed refuses variables that the playbook does not read: the run would go on as
// if what was mistyped had never been given.
func (s *sweep) onlyUsed(pb *playbooks.Playbook) error {
	says, err := s.noUse(pb)
	if err == nil && len(says) > 0 {
		err = fmt.Errorf("%s: nothing was done", says[0])
	}
	return err
}

// nothing says that there is nothing to do, of the hosts that answered.
func (s *sweep) nothing(what string) {
	if slices.ContainsFunc(s.members, func(m *member) bool { return m.Status != show.OK }) {
		what += " on the hosts that answered"
	}
	s.Note("", "%s", what)
}

func membersOf(all []*member, on map[*member]*run.State) []*member {
	return slices.DeleteFunc(slices.Clone(all), func(m *member) bool { return on[m] == nil })
}

// expected compares the number that was typed with what the hosts wait to send, which
// is then confirmed. What any of them asks later is not.
func (d *driver) expected(on map[*member]*run.State, n int64) error {
	var sum int64
	for m, at := range on {
		if at.Ask == nil || at.Ask.Kind != "confirm" {
			continue
		}
		var c stage.Confirm
		if !decode(at.Ask.Data, &c) {
			return fmt.Errorf("%s: what it asks cannot be read", m.Label())
		}
		if !possible(c.Ham) {
			return lies(m)
		}
		sum += c.Ham
		m.counted = &c
	}
	if sum != n {
		return fmt.Errorf("--expect %d: %d messages would be sent: nothing was done", n, sum)
	}
	return nil
}

// find returns the run that is meant, and the hosts that have it, which are reached first. Without a
// name it is the one that wanted accepts; several are an error that lists them.
func (s *sweep) find(ctx context.Context, id string, wanted func(*run.State) bool) (string, map[*member]*run.State, error) {
	s.reach(ctx)
	var mu sync.Mutex // guards all
	all := map[*member][]*run.State{}
	s.each(func(m *member) error {
		var runs []*run.State
		if err := m.link.Call(ctx, "runs", agent.HostCall{Vars: m.vars}, &runs); err != nil {
			return err
		}
		mu.Lock()
		all[m] = runs
		mu.Unlock()
		return nil
	})
	hosts := map[string][]string{}
	var ids []string
	on := map[*member]*run.State{}
	for _, m := range s.members {
		for _, r := range all[m] {
			if id != "" && r.Run == id || id == "" && wanted(r) {
				if !slices.Contains(ids, r.Run) {
					ids = append(ids, r.Run)
				}
				hosts[r.Run] = append(hosts[r.Run], m.Label())
			}
		}
	}
	if len(ids) > 1 {
		slices.Sort(ids)
		for _, r := range ids {
			s.Alert("", "%s on %s", show.Clean(r), strings.Join(hosts[r], ", "))
		}
		return "", nil, errors.New("several runs: name one")
	}
	if len(ids) == 0 {
		if id != "" && len(all) == len(s.members) {
			return "", nil, fmt.Errorf("no run %s on these hosts", id)
		}
		for m := range all {
			m.Status = show.OK
		}
		return "", nil, nil
	}
	for m, runs := range all {
		for _, r := range runs {
			if r.Run == ids[0] {
				on[m] = r
			}
		}
	}
	return ids[0], on, nil
}

func attachCommand() *cli.Command {
	return &cli.Command{
		Name: "attach", Usage: "follow a run that still works, or tell its end", ArgsUsage: "[RUN]",
		UsageText: `spoolsweep attach
spoolsweep attach 20261123T231500Z-ab12 -l chavez`,
		Description: `Without RUN: the newest. All that happened is told again from the beginning.
On a terminal what the run waits for, rules or a confirmation, can be answered.
Ctrl-C asks: detach, cancel after the current step, or go on; Enter lists the hosts
that are still at work.`,
		Flags:        commonFlags(notifyFlag(atEnd)),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			s, id, on, err := theRun(c)
			if err != nil || id == "" {
				return err
			}
			ctx := c.Context
			s.doc.Run = id
			d := &driver{sweep: s, run: id, slots: newSlots(0, 0), stages: map[*member][]string{}}
			ctx, stop := d.attend(ctx)
			defer stop()
			s.eachAll(membersOf(s.members, on), func(m *member) error { return d.drive(ctx, m, 1) })
			d.talk(ctx, c)
			d.whatNext(ctx)
			return s.end(ctx)
		},
	}
}

// theRun is the one run that is named, else the newest, and the hosts that have
// it. Where there is none, that is told, and id is empty.
func theRun(c *cli.Context) (s *sweep, id string, on map[*member]*run.State, err error) {
	if c.NArg() > 1 {
		return nil, "", nil, usageError(c, errors.New("one run at most"), false)
	}
	if s, err = begin(c, nil); err != nil {
		return nil, "", nil, err
	}
	if id = c.Args().First(); id == "" {
		if id, err = s.newest(c.Context); err != nil {
			return nil, "", nil, err
		}
	}
	if id == "" {
		s.nothing("no run")
		return s, "", nil, s.end(c.Context)
	}
	_, on, err = s.find(c.Context, id, nil)
	return s, id, on, err
}

// newest is the id of the newest run on any of the hosts.
func (s *sweep) newest(ctx context.Context) (string, error) {
	s.reach(ctx)
	var mu sync.Mutex // guards newest
	var newest string
	s.each(func(m *member) error {
		var runs []*run.State
		if err := m.link.Call(ctx, "runs", agent.HostCall{Vars: m.vars}, &runs); err != nil {
			return err
		}
		m.Status = show.OK
		mu.Lock()
		defer mu.Unlock()
		for _, r := range runs {
			newest = max(newest, r.Run)
		}
		return nil
	})
	return newest, nil
}
