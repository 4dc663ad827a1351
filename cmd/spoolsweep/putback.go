package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func putbackCommand() *cli.Command {
	row, _ := stage.Find("putback")
	defaults := row.New().(*stage.PutbackArgs)
	return &cli.Command{
		Name: "putback", Usage: "send back what a run still has aside", ArgsUsage: "[RUN]",
		UsageText: `spoolsweep putback 20261123T231500Z-ab12
spoolsweep putback 20261123T231500Z-ab12 -y --expect 614
spoolsweep putback 20261123T231500Z-ab12 --include-spam -y --expect 2614
spoolsweep putback -l chavez --adopt incoming.spamfull --adopt active.spamfull`,
		Description: `Message by message into the running Postfix, as restore does it. What was judged
spam, or is the flood's, goes only with --include-spam. First it is shown how
many would go; on a terminal that number is typed, under -y it is --expect N,
over all hosts. Without RUN: the one with mail aside.

--adopt DIR takes on a directory QUEUE.spamfull that was set aside by hand, with
its logs: it becomes a run like any other, whose mail can be looked at, judged
('spoolsweep resume RUN -e @rules.yaml'), put back and purged.`,
		Flags: commonFlags(yesFlag(), notifyFlag(atEnd),
			&cli.StringSliceFlag{Name: "adopt", Usage: "first take on `DIR`, such as incoming.spamfull, that was set aside by hand (repeatable)"},
			&cli.BoolFlag{Name: "include-spam", Usage: "all of it, the flood too"},
			&cli.Int64Flag{Name: "expect", Usage: "with -y: `N` messages go, or nothing is done"},
			&cli.StringFlag{Name: "expired", Value: "leave", Usage: "mail past its lifetime: `WAY` leave, requeue (with a new lifetime) or send (Postfix returns it after one try)"},
			&cli.StringFlag{Name: "rate", Value: "50/s", Usage: "`RATE` of messages at most; 0: no ceiling"},
			&cli.Int64Flag{Name: "live-max", Value: int64(defaults.LiveMax), Usage: "wait while incoming and active hold `N` more than before; 0: no limit"},
		),
		OnUsageError: usageError,
		Action:       putbackAction,
	}
}

func putbackAction(c *cli.Context) error {
	if c.NArg() > 1 {
		return usageError(c, errors.New("one run at most"), false)
	}
	if c.Bool("yes") && !c.IsSet("expect") {
		return errors.New("putback -y wants --expect N, the number of messages that go: what was sent cannot be taken back")
	}
	row, _ := stage.Find("putback")
	args := row.New().(*stage.PutbackArgs)
	args.IncludeSpam, args.LiveMax, args.Expired = c.Bool("include-spam"), stage.Number(c.Int64("live-max")), c.String("expired")
	if err := args.Check(); err != nil {
		return fmt.Errorf("--%w", err)
	}
	if err := args.Rate.UnmarshalJSON([]byte(strconv.Quote(c.String("rate")))); err != nil {
		return err
	}
	adopt := &stage.AdoptArgs{Directories: c.StringSlice("adopt")}
	if c.IsSet("adopt") {
		if c.Args().Present() {
			return usageError(c, errors.New("--adopt makes a run of its own: it goes with no RUN"), false)
		}
		if err := adopt.Check(); err != nil {
			return fmt.Errorf("--adopt: %w", err)
		}
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	if !c.Bool("yes") && !s.tty {
		s.close()
		return errors.New("there is no terminal to ask on: give -y --expect N")
	}
	ctx := c.Context
	asked := c.Args().First()
	if c.IsSet("adopt") {
		if asked, err = s.adopt(ctx, adopt); err != nil || asked == "" {
			unsure := slices.ContainsFunc(s.members, func(m *member) bool { return m.Status != show.OK })
			if err == nil && !unsure && c.IsSet("expect") && c.Int64("expect") != 0 {
				s.close()
				return s.agree(ctx, c, "send", 0)
			}
			return errors.Join(err, s.end(ctx))
		}
	}
	id, on, err := s.find(ctx, asked, func(r *run.State) bool { return r.Aside > 0 && r.Phase != run.Working })
	if err != nil {
		return err
	}
	if id == "" {
		s.nothing("nothing is aside")
		return s.end(ctx)
	}
	s.doc.Run = id
	members := slices.DeleteFunc(membersOf(s.members, on), (*member).failed)
	going, err := s.preview(ctx, id, members, args)
	if err != nil {
		return err
	}
	if len(going) == 0 {
		return s.end(ctx) // each host has told why not
	}
	s.tellFailed()
	var sum int64
	for _, n := range going {
		sum += n
	}
	if err := s.agree(ctx, c, "send", sum); err != nil {
		s.close()
		return err
	}
	d := &driver{sweep: s, run: id, yes: c.Bool("yes"), slots: newSlots(0, 0)}
	ctx, stop := d.attend(ctx)
	defer stop()
	s.inTurn(ctx, members, func(m *member) error {
		expect, ok := going[m]
		if !ok {
			return nil // told
		}
		return d.putback(ctx, m, *args, expect)
	})
	d.whatNext(ctx)
	return s.end(ctx)
}

// adopt begins a run on every host that has one of the directories, whose first
// stage takes them on. Its next one waits for rules, so that the run is one like
// any other.
func (s *sweep) adopt(ctx context.Context, args *stage.AdoptArgs) (id string, err error) {
	var mu sync.Mutex // guards on
	on := map[*member]*stage.AdoptArgs{}
	s.eachOf(s.members, func(m *member) error {
		var counts stage.Counts
		text, err := s.fetch(ctx, m, 0, "count", &stage.CountArgs{}, "")
		if err != nil {
			return err
		}
		if !decode(text, &counts) {
			return fmt.Errorf("%s: answers what cannot be read", m.host.Name)
		}
		m.Status = show.OK
		here := new(stage.AdoptArgs)
		for _, name := range args.Directories {
			left, there := counts.SetAside[name]
			switch {
			case !there:
				s.Note(m.host.Name, "has no %s", name)
			case left.Run != "":
				return fmt.Errorf("%s is what run %s has set aside: 'spoolsweep putback %s'", name, left.Run, left.Run)
			default:
				here.Directories = append(here.Directories, name)
			}
		}
		if len(here.Directories) > 0 {
			mu.Lock()
			on[m] = here
			mu.Unlock()
		}
		return nil
	})
	if len(on) == 0 {
		s.nothing("nothing to adopt")
		return "", nil
	}
	id = run.NewID(time.Now())
	s.Note("", "run %s", id)
	d := &driver{sweep: s, run: id, controller: newToken(), slots: newSlots(0, 0)}
	var names []string
	var going []*member
	for _, m := range s.members {
		if on[m] != nil {
			names, going = append(names, m.host.Name), append(going, m)
		}
	}
	s.eachAll(going, func(m *member) error { return d.adopt(ctx, m, names, on[m]) })
	if !slices.ContainsFunc(going, func(m *member) bool { return !m.failed() }) {
		return "", nil // each has told why
	}
	return id, nil
}

// adopt begins the run on one host.
func (d *driver) adopt(ctx context.Context, m *member, hosts []string, args *stage.AdoptArgs) error {
	text, err := json.Marshal(args)
	if err != nil {
		return err
	}
	row, _ := stage.Find("restore")
	defaults := row.New().(*stage.RestoreArgs)
	info := run.Info{
		Run: d.run, Host: m.host.Name, Hosts: hosts, Began: time.Now().UTC(), Who: me(), Controller: d.controller, Name: "adopt",
		Playbook: fmt.Sprintf(adoptPlaybook, float64(defaults.Rate), defaults.LiveMax, strings.Join(args.Directories, ", ")), Vars: m.vars,
		Steps: []stage.Step{{Stage: "adopt", Args: text}},
	}
	if err := m.link.Call(ctx, "begin", &info, nil); err != nil {
		return err
	}
	return d.drive(ctx, m, 1)
}

// adoptPlaybook is the playbook of the record: with rules the run goes on as a
// sweep does.
const adoptPlaybook = `name: adopt
vars: {spam: {}, ham: {}, rate: %v, live_max: %d, expired: leave}
stages:
  - adopt: {directories: [%s]}
  - classify: {spam: "{{ .spam }}", ham: "{{ .ham }}"}
  - confirm: {show: classify}
  - restore: {rate: "{{ .rate }}", live_max: "{{ .live_max }}", expired: "{{ .expired }}"}
`

// preview counts on every host what would go, and shows it by verdict and source.
func (s *sweep) preview(ctx context.Context, id string, members []*member, args *stage.PutbackArgs) (map[*member]int64, error) {
	var mu sync.Mutex // guards going
	going := map[*member]int64{}
	s.eachOf(members, func(m *member) error {
		var p stage.Preview
		if err := m.link.Call(ctx, "preview", agent.RunCall{Vars: m.vars, Run: id}, &p); err != nil {
			return err
		}
		if !possible(p.Going, p.All, p.GoingExpired, p.AllExpired) || p.All < p.Going || p.GoingExpired > p.Going || p.AllExpired > p.All {
			return lies(m)
		}
		n, left := p.Goes(args)
		if left > 0 {
			s.Note(m.Label(), "past their lifetime, and left aside: %s (--expired requeue gives them a new one, send leaves them to Postfix)", messages(left))
		}
		s.Note(m.Label(), "would go: %d of the %d messages that are aside", n, p.All)
		for _, kind := range slices.Sorted(maps.Keys(p.ByKind)) {
			s.Note(m.Label(), "  %s: %d", show.Clean(kind), p.ByKind[kind])
		}
		for _, src := range p.Sources {
			s.Note(m.Label(), "  %d of %s %s", src.Count, show.Clean(src.Kind), show.Clean(src.Value))
		}
		mu.Lock()
		going[m] = n
		mu.Unlock()
		return nil
	})
	return going, nil
}

// agree has the number typed, or compares it with --expect. does is what is about
// to be done with the messages.
func (s *sweep) agree(ctx context.Context, c *cli.Context, does string, sum int64) error {
	if c.IsSet("expect") {
		n := c.Int64("expect")
		if n == sum {
			return nil
		}
		would := "go"
		if does != "send" && does != "delete" {
			would = "be " + doneBy[does]
		}
		return fmt.Errorf("--expect %d: %d messages would %s: nothing was done", n, sum, would)
	}
	typed, err := s.ask(ctx, typeNumber(does, sum))
	if err != nil {
		return err
	}
	if typed != strconv.FormatInt(sum, 10) {
		return errors.New("that is not the number: nothing was done")
	}
	return nil
}

func typeNumber(does string, n int64) string {
	return fmt.Sprintf("Type the number of messages to %s (%d): ", does, n)
}

// putback appends the stage to the run's plan and follows it.
func (d *driver) putback(ctx context.Context, m *member, args stage.PutbackArgs, expect int64) error {
	n := stage.Number(expect)
	args.Expect = &n
	text, err := json.Marshal(args)
	if err != nil {
		return err
	}
	return d.add(ctx, m, stage.Step{Stage: "putback", Args: text})
}

// add appends a stage to the run's plan, in the place of an earlier try of the
// same at its end, and follows it.
func (d *driver) add(ctx context.Context, m *member, step stage.Step) error {
	var info run.Info
	if err := m.link.Call(ctx, "info", agent.RunCall{Vars: m.vars, Run: d.run}, &info); err != nil {
		return err
	}
	steps, at := info.Added(step)
	q := run.ResumeRequest{Vars: m.vars, Run: d.run, By: me(), Steps: steps, At: &at}
	from, err := d.seen(ctx, m)
	if err != nil {
		return err
	}
	if err := m.link.Call(ctx, "resume", &q, nil); err != nil {
		return err
	}
	return d.drive(ctx, m, from+1)
}

// seen is the number of the run's last event so far.
func (d *driver) seen(ctx context.Context, m *member) (int64, error) {
	var runs []*run.State
	if err := m.link.Call(ctx, "runs", agent.HostCall{Vars: m.vars}, &runs); err != nil {
		return 0, err
	}
	for _, r := range runs {
		if r.Run == d.run {
			return r.Seen, nil
		}
	}
	return 0, nil
}
