package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func liveCheck() cli.Flag {
	return &cli.BoolFlag{Name: "check", Aliases: []string{"C"}, Usage: "show what would happen, and change nothing"}
}

func holdCommand() *cli.Command {
	return &cli.Command{
		Name: "hold", Usage: "put on hold what rules take from live queues: nothing of it is sent",
		UsageText: `spoolsweep hold -l chavez -m 'sasl_user:spam-account@chavez.example.org'
spoolsweep hold -l chavez -e @rules.yaml --for 1h -y
spoolsweep hold --queue deferred -m 'body:/https?:\S+\/media\.php/' --check`,
		Description: `In incoming and deferred, unless --queue names one of them. First it is shown how
many messages match, in which queues, with a sample; on a terminal that number is
typed. -y needs no --expect: what is on hold is lost to nobody, and
'spoolsweep release RUN' takes it back.

The messages are put on hold by Postfix's own postsuper, and each is looked at just
before. What has been taken up for delivery by then is told as gone. Never from
active: mail that is taken away there and given back may be lost, since the queue
manager still has it in its memory. For a flood that is there already
'spoolsweep run backscatter' is the way.

--for goes on for that long with what still arrives, and with what is deferred: the
host does so by itself, and looks every second. Mail that is taken up for delivery
within a second it does not catch: stop the source too. Ctrl-C asks, and cancel ends
it; until then no other run can change this host's queues.`,
		Flags: commonFlags(extraVars(), notifyFlag(atEnd), liveCheck(),
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "ask nothing"},
			&cli.Int64Flag{Name: "expect", Usage: "`N` messages match just now, or nothing is done"},
			&cli.StringFlag{Name: "for", Usage: "go on for `TIME` with what still arrives: 30m, 1h"},
			&cli.StringSliceFlag{Name: "queue", Usage: "hold what is in the live queue `NAME` (repeatable; default incoming, deferred)"},
			&cli.StringSliceFlag{Name: "match", Aliases: []string{"m"}, Usage: "hold what matches `FIELD:PATTERN` (repeatable)"},
		),
		OnUsageError: usageError,
		Action:       holdAction,
	}
}

func holdAction(c *cli.Context) error {
	if c.Args().Present() {
		return usageError(c, errArguments(c), false)
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	rules, err := s.classifyArgs(c)
	if err != nil {
		return err
	}
	row, _ := stage.Find("hold")
	args := row.New().(*stage.HoldArgs)
	args.Spam, args.Ham = rules.Spam, rules.Ham
	if len(rules.Live) > 0 {
		args.Queues = rules.Live
	}
	if c.IsSet("for") {
		if err := args.For.UnmarshalJSON([]byte(strconv.Quote(c.String("for")))); err != nil {
			return fmt.Errorf("--for: %w", err)
		}
	}
	if err := errors.Join(s.onlyRules(c), args.Check()); err != nil {
		return err
	}
	if _, err := args.Rules(); err != nil {
		return err
	}
	if !c.Bool("yes") && !s.tty && !c.Bool("check") {
		return errors.New("there is no terminal to ask on: give -y")
	}
	book := fmt.Sprintf(`name: hold
vars: {spam: {}, ham: {}}
stages:
  - hold: {spam: "{{ .spam }}", ham: "{{ .ham }}", queues: [%s], for: %s}
`, strings.Join(args.Queues, ", "), time.Duration(args.For))
	return s.live(c, &liveAct{
		name: "hold", queues: args.Queues, args: args, always: args.For > 0, free: c.Bool("yes") && !c.IsSet("expect"),
		begin: func(ctx context.Context, d *driver, m *member, on []*member, _ int64) error {
			return d.alone(ctx, m, on, "hold", args, book, map[string]any{"spam": orNoRules(args.Spam), "ham": orNoRules(args.Ham)})
		},
	})
}

// sendFlags are those of what sends mail of live queues.
func sendFlags(more ...cli.Flag) []cli.Flag {
	row, _ := stage.Find("release")
	defaults := row.New().(*stage.ReleaseArgs)
	return commonFlags(append([]cli.Flag{
		extraVars(), notifyFlag(atEnd), removalYes(), removalExpect(), liveCheck(),
		&cli.BoolFlag{Name: "all", Usage: "all of it, but what rules call spam"},
		&cli.BoolFlag{Name: "include-spam", Usage: "also what rules call spam, and under -y what looks like a flood"},
		&cli.StringSliceFlag{Name: "match", Aliases: []string{"m"}, Usage: "only what matches `FIELD:PATTERN` (repeatable)"},
		&cli.StringFlag{Name: "rate", Value: "50/s", Usage: "`RATE` of messages at most; 0: no ceiling"},
		&cli.Int64Flag{Name: "live-max", Value: int64(defaults.LiveMax), Usage: "wait while incoming and active hold `N` more than before; 0: no limit"},
	}, more...)...)
}

func releaseCommand() *cli.Command {
	return &cli.Command{
		Name: "release", Usage: "release mail from hold: it is sent", ArgsUsage: "[RUN]",
		UsageText: `spoolsweep release 20261123T231500Z-ab12
spoolsweep release -l chavez --all -e @rules.yaml
spoolsweep release -l chavez -m 'sender:@lists.example.org' -y --expect 614`,
		Description: `What was sent cannot be taken back, so this is guarded as putback is. What goes is
named by RUN (what that run put on hold, and still is there), by -m, or by --all.
What rules for spam in -e @rules.yaml take stays on hold, unless --include-spam is
given: the rules of a hold do no harm here. First it is shown how many messages would
go, with a sample, and what among them looks like a flood: many of one login, sender,
client, bounce target or text. On a terminal that number is typed; under -y it is
--expect N, over all hosts, and a flood goes only with --include-spam.

postsuper puts them into deferred, oldest first, destinations in turn, at no more than
--rate and --live-max. The first 50 are waited for: where more than a fifth of them
are refused for good, it asks. Mail that Postfix would try later anyway keeps its time.
Mail past its lifetime stays on hold, named, unless --expired says otherwise. Nothing
is released whose id another message has in any live queue. What somebody has put on
hold from active, by hand and a short while ago, is safe to release only after
'postfix reload': see hold.`,
		Flags: sendFlags(
			&cli.StringFlag{Name: "expired", Value: "leave", Usage: "mail past its lifetime: `WAY` leave, requeue (with a new lifetime) or send (Postfix returns it after one try)"},
		),
		OnUsageError: usageError,
		Action:       releaseAction,
	}
}

func requeueCommand() *cli.Command {
	return &cli.Command{
		Name: "requeue", Usage: "requeue mail as if it had just come: with new rewriting, routing and lifetime",
		UsageText: `spoolsweep requeue -l chavez -m 'recipient_left:@old-relay.example.org'
spoolsweep requeue -l chavez --queue hold --all -y --expect 12`,
		Description: `For mail that waits because of a table that was wrong: Postfix takes each message
on once more, with a new id and a new lifetime, for the recipients that are left. It
is sent, so it asks as release does. In deferred, unless --queue names hold: elsewhere
a delivery may be under way, and it would be sent twice. For the same reason a message
that somebody still delivers is left.`,
		Flags: sendFlags(
			&cli.StringSliceFlag{Name: "queue", Usage: "requeue from the live queue `NAME`: deferred or hold (repeatable; default deferred)"},
		),
		OnUsageError: usageError,
		Action:       requeueAction,
	}
}

// selection takes what goes from the command line.
func (s *sweep) selection(c *cli.Context) (stage.Selection, error) {
	match, err := matchRules(c)
	if err != nil {
		return stage.Selection{}, err
	}
	given := stage.Selection{Match: match, Spam: s.extra.Values["spam"], Ham: s.extra.Values["ham"], IncludeSpam: c.Bool("include-spam")}
	switch {
	case match != nil && c.Bool("all"):
		err = errors.New("--all and -m exclude each other")
	case match == nil && !c.Bool("all") && !c.Args().Present():
		err = fmt.Errorf("%s: say what goes: by -m FIELD:PATTERN, or --all", c.Command.Name)
	default:
		err = s.onlyRules(c)
	}
	return given, err
}

// variables are those of the record's playbook.
func variables(s *stage.Selection) map[string]any {
	return map[string]any{"match": orNoRules(s.Match), "spam": orNoRules(s.Spam), "ham": orNoRules(s.Ham)}
}

// orNoRules is what stands in a playbook for rules that were not given.
func orNoRules(rules any) any {
	if rules == nil {
		return map[string]any{}
	}
	return rules
}

// maySend refuses a command line that could neither ask nor know how many.
func (s *sweep) maySend(c *cli.Context) error {
	switch {
	case c.Bool("check"):
		return nil
	case c.Bool("yes") && !c.IsSet("expect"):
		return fmt.Errorf("%s -y wants --expect N, the number of messages that go: what was sent cannot be taken back", c.Command.Name)
	case !c.Bool("yes") && !s.tty:
		return errors.New("there is no terminal to ask on: give -y --expect N")
	}
	return nil
}

func releaseAction(c *cli.Context) error {
	if c.NArg() > 1 {
		return usageError(c, errors.New("one run at most"), false)
	}
	if id := c.Args().First(); id != "" && !run.IsID(id) {
		return usageError(c, fmt.Errorf("run %.40q: a run id looks like 20261123T231500Z-ab12", id), false)
	}
	row, _ := stage.Find("release")
	args := row.New().(*stage.ReleaseArgs)
	args.Held, args.LiveMax, args.Expired = c.Args().First(), stage.Number(c.Int64("live-max")), c.String("expired")
	if err := args.Rate.UnmarshalJSON([]byte(strconv.Quote(c.String("rate")))); err != nil {
		return err
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	if args.Selection, err = s.selection(c); err != nil {
		return err
	}
	if err := args.Check(); err != nil {
		return playbooks.Locate(s.extra, err)
	}
	if err := s.maySend(c); err != nil {
		return err
	}
	return s.live(c, &liveAct{
		name: "release", queues: []string{"hold"}, args: args, held: args.Held,
		begin: func(ctx context.Context, d *driver, m *member, on []*member, expect int64) error {
			mine, n := *args, stage.Number(expect)
			mine.Expect = &n
			book := fmt.Sprintf(`name: release
vars: {match: {}, spam: {}, ham: {}}
stages:
  - release: {match: "{{ .match }}", spam: "{{ .spam }}", ham: "{{ .ham }}", include_spam: %t, expect: %d, held: %q, rate: %v, live_max: %d, canary: %d, expired: %s}
`, mine.IncludeSpam, expect, mine.Held, float64(mine.Rate), mine.LiveMax, mine.Canary, mine.Expired)
			return d.alone(ctx, m, on, "release", &mine, book, variables(&mine.Selection))
		},
	})
}

func requeueAction(c *cli.Context) error {
	if c.Args().Present() {
		return usageError(c, errArguments(c), false)
	}
	row, _ := stage.Find("requeue")
	args := row.New().(*stage.RequeueArgs)
	args.LiveMax = stage.Number(c.Int64("live-max"))
	if err := args.Rate.UnmarshalJSON([]byte(strconv.Quote(c.String("rate")))); err != nil {
		return err
	}
	if queues := c.StringSlice("queue"); len(queues) > 0 {
		args.Queues = queues
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	if args.Selection, err = s.selection(c); err != nil {
		return err
	}
	if err := args.Check(); err != nil {
		return playbooks.Locate(s.extra, err)
	}
	if err := s.maySend(c); err != nil {
		return err
	}
	return s.live(c, &liveAct{
		name: "requeue", queues: args.Queues, args: args,
		begin: func(ctx context.Context, d *driver, m *member, on []*member, expect int64) error {
			mine, n := *args, stage.Number(expect)
			mine.Expect = &n
			book := fmt.Sprintf(`name: requeue
vars: {match: {}, spam: {}, ham: {}}
stages:
  - requeue: {match: "{{ .match }}", spam: "{{ .spam }}", ham: "{{ .ham }}", include_spam: %t, expect: %d, queues: [%s], rate: %v, live_max: %d}
`, mine.IncludeSpam, expect, strings.Join(mine.Queues, ", "), float64(mine.Rate), mine.LiveMax)
			return d.alone(ctx, m, on, "requeue", &mine, book, variables(&mine.Selection))
		},
	})
}

// liveAct is what is done with mail of live queues, once it is known how much of it
// there is.
type liveAct struct {
	name   string
	queues []string
	args   stage.Args
	held   string // a run: only the hosts that have it
	always bool   // also where there is nothing yet
	free   bool   // nothing is asked
	// ready, if not nil, refuses before anything is asked, and to opens what is
	// exported to.
	ready func(found map[*member]*stage.Removal) error
	to    func() (*folder, error)
	begin func(ctx context.Context, d *driver, m *member, on []*member, expect int64) error
}

// live shows what would be done, asks, and does it.
func (s *sweep) live(c *cli.Context, a *liveAct) error {
	ctx := c.Context
	var members []*member
	if a.held != "" {
		id, on, err := s.find(ctx, a.held, func(*run.State) bool { return false })
		if err != nil {
			return err
		}
		if id == "" {
			s.nothing("no such run")
			return s.end(ctx)
		}
		members = membersOf(s.members, on)
		s.Note("", "what run %s has put on hold:", show.Clean(id))
	} else {
		s.Note("", "the live queues %s:", show.Clean(strings.Join(a.queues, ", ")))
		s.reach(ctx)
		members = s.members // of each instance one
	}
	found := s.removal(ctx, members, a.name, "", a.args)
	if c.Bool("check") {
		return s.checked(ctx, a.name, found)
	}
	going, sum, err := s.going(a.name, found)
	if err != nil {
		return err
	}
	var floods bool
	for _, r := range found {
		floods = floods || len(r.Reasons) > 0
	}
	switch {
	case len(found) == 0:
		return s.end(ctx)
	case a.always:
		going = slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return found[m] == nil })
	case sum == 0 && !c.IsSet("expect"):
		s.nothing("nothing to " + a.name)
		return s.end(ctx)
	}
	if floods && c.Bool("yes") && !c.Bool("include-spam") {
		s.close()
		return fmt.Errorf("what would be sent still looks like a flood: nothing was done; look at it (spoolsweep sample --queue %s), give rules for spam, or --include-spam", a.queues[0])
	}
	if a.ready != nil {
		if err := a.ready(found); err != nil {
			s.close()
			return err
		}
	}
	if !a.free {
		if err := s.agree(ctx, c, a.name, sum); err != nil {
			s.close()
			return err
		}
	}
	if len(going) == 0 {
		return s.end(ctx)
	}
	var export *folder
	if a.to != nil {
		if export, err = a.to(); err != nil {
			s.close()
			return err
		}
		defer export.close()
	}
	s.doc.Run = run.NewID(time.Now())
	s.Note("", "run %s", s.doc.Run)
	d := &driver{sweep: s, run: s.doc.Run, controller: newToken(), yes: c.Bool("yes"), slots: newSlots(0, 0), export: export}
	ctx, stop := d.attend(ctx)
	defer stop()
	work := func(m *member) error {
		err := a.begin(ctx, d, m, going, found[m].Matched)
		m.Result = resultOf(m)
		return err
	}
	if a.name == "hold" || a.name == "export" { // on all at once: it may last for hours
		s.eachAll(going, work)
	} else {
		s.inTurn(ctx, going, work)
	}
	d.whatNext(ctx)
	if a.name == "hold" {
		s.Note("", "to take it back: spoolsweep release %s%s", s.doc.Run, s.again)
	}
	d.endExport()
	return s.end(ctx)
}

// checked ends a command that only shows what it would do.
func (s *sweep) checked(ctx context.Context, name string, found map[*member]*stage.Removal) (err error) {
	for m, r := range found {
		if m.Result, err = nothingDone(name, r); err != nil {
			return err
		}
	}
	return s.end(ctx)
}
