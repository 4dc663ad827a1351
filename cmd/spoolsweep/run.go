package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/playbooks/strict"
	"spoolsweep/remote"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func extraVars() cli.Flag {
	return &cli.StringSliceFlag{Name: "extra-vars", Aliases: []string{"e"}, Usage: "variables: `NAME=VALUE`, @FILE.yaml, or '{name: value}' (repeatable)"}
}

func yesFlag() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "ask nothing; what would send too much waits instead"}
}

func errArguments(c *cli.Context) error {
	return fmt.Errorf("unexpected argument %q", c.Args().First())
}

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "carry out a playbook on the hosts", ArgsUsage: "PLAYBOOK",
		UsageText: `spoolsweep run backscatter -l chavez --check
spoolsweep run backscatter -l chavez
spoolsweep run backscatter -l chavez -e account=spam-account
spoolsweep run backscatter -l 'chavez,peltier' -e @rules.yaml -y
spoolsweep run backscatter -u admin -b -K
spoolsweep run backscatter-deferred -e rate=20/s
spoolsweep run local-flood -l chavez -e source=www-data
spoolsweep run disable-account -l chavez -e account=spam-account
spoolsweep run backscatter -l chavez -y --notify mailto:ops@example.org`,
		Description: `PLAYBOOK is a shipped one (` + strings.Join(playbooks.Shipped(), ", ") + `) or a file.
All hosts are looked at first, and the plan is shown; nothing is changed until
that is confirmed. The run then belongs to the hosts: a lost link or a closed
laptop changes nothing, and attach follows it from anywhere. Ctrl-C asks: detach
(a second one does), cancel after the current step, or go on. A terminal shows
below what is said how far each host is; Enter lists those that are still at work,
also where it does not (TERM=dumb, -q, or stderr is no terminal). Of several Postfix on
one host (host variable postfix_instances; default: those that are enabled) the
next is begun when the one before runs again.

--notify tells somebody when it ends, or could not begin, and of a question that nobody
has answered for 30 seconds, but nothing twice: a command (exec:COMMAND, run by sh with
the notice on its standard input, and SPOOLSWEEP_NOTICE and SPOOLSWEEP_SUBJECT), a web
hook (https://..., a POST), or mail through this machine's sendmail (mailto:ADDRESS).
An address with a secret in it belongs into a file for @FILE, which nobody else may
read. The notice is JSON: version (1), id (the same when it is tried again), notice
(end, waits, problem or resolved), time, from, subject, text (for people), and document,
which is that of -o json without results of stages: nothing of anybody's mail. A web
hook that cannot be reached or is busy gets three tries. Who was not told is a
warning, and changes nothing. This machine sends it: when nobody follows a run, nobody
is told, until attach --notify does.

Variables of the shipped ones, for -e: account (disabled first, by the host
variable disable_account, unless it sent nothing and is only forged),
require_source_stopped, force_account (also that one), queues, spam, ham, rate, live_max, expired (leave, requeue or send: mail past its lifetime),
max_stopped.

local-flood is for what scripts of a web server, or users of the host, submit by
sendmail(1): it has source instead of account, a user or a script as suspects names
it, or a list, each of which the host variable stop_source stops; and it sets maildrop
aside with the full queues, whatever that holds.

disable-account does that with an account (account, force_account) also while a run
waits, ends its SMTP sessions, those in which it has sent (all_sessions: everybody's), and
says after watch whether anything new of it came. enable-account takes it back, by the
host variable enable_account. What these variables may be: spoolsweep manual accounts.

A run without rules waits once mail flows again and the flood is aside. On a
terminal it proposes rules, shows what they would do, has them edited (VISUAL,
EDITOR), and goes on when they are wanted. Under -y it ends there, with exit status
3, until resume brings some. Rules for example, in a file for -e @rules.yaml:

  spam:
    any:
      - all: [{sender: "<>"}, {recipient: "spam-account@chavez.example.org"}]
      - sasl_user: spam-account
      - body: '/https?:\S+\/media\.php/'
  ham:
    any:
      - sender: "@members.example.org"`,
		Flags: commonFlags(
			extraVars(), yesFlag(), notifyFlag(atEnd),
			&cli.BoolFlag{Name: "check", Aliases: []string{"C"}, Usage: "show what would happen, and change nothing"},
			&cli.BoolFlag{Name: "list-stages", Usage: "list the playbook's stages and do nothing"},
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` for the record of the run"},
		),
		OnUsageError: usageError,
		Action:       runAction,
	}
}

func runAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return usageError(c, errors.New("one playbook is wanted"), false)
	}
	pb, err := playbooks.Load(c.Args().First())
	if err != nil {
		return err
	}
	s, err := begin(c, pb)
	if err != nil {
		return err
	}
	plans, err := s.resolve(pb, s.extra)
	if err != nil {
		return err
	}
	if c.Bool("list-stages") {
		for _, step := range plans[s.members[0]].Steps {
			row, _ := stage.Find(step.Stage)
			fmt.Fprintf(s.Out, "%-10s %s\n", step.Stage, row.Doc)
		}
		return exit(0)
	}
	if err := s.unused(pb); err != nil {
		return err
	}
	if err := s.canStop(pb, plans); err != nil {
		return err
	}
	if !c.Bool("check") && !c.Bool("yes") && !s.tty {
		return errors.New("there is no terminal to ask on: give -y, or --check")
	}
	ctx := c.Context
	s.reach(ctx)
	if plans, err = s.resolve(pb, s.extra); err != nil {
		return err
	}
	found := map[*member]*run.Preflight{}
	s.preflight(ctx, plans, s.members, found)
	// The keys behind a jump host show only once its own is trusted.
	for unknown := s.unknownKeys(); s.tty && !c.Bool("yes") && len(unknown) > 0; unknown = s.unknownKeys() {
		trusted, err := s.trust(ctx, unknown)
		if err != nil {
			return err
		}
		if len(trusted) == 0 {
			break
		}
		if plans, err = s.lookAgain(ctx, pb, plans, trusted, found); err != nil {
			return err
		}
	}
	ready := s.ready(found)
	s.showPlan(pb, plans, found)
	if c.Bool("check") {
		s.check(ctx, plans, ready, found)
		return s.end(ctx)
	}
	if len(ready) == 0 {
		return s.end(ctx)
	}
	if !c.Bool("yes") {
		answer, err := s.ask(ctx, fmt.Sprintf("Do this on %d of %d %s? [y/N] ", len(ready), len(s.members), s.noun(len(s.members))))
		if err != nil {
			return err
		}
		if !strings.HasPrefix(strings.ToLower(answer), "y") {
			s.Note("", "nothing was done")
			s.close()
			return exit(statusUsage)
		}
	}
	return s.runOn(ctx, c, pb, plans, ready)
}

// runOn begins the run on the hosts that are ready and follows it.
func (s *sweep) runOn(ctx context.Context, c *cli.Context, pb *playbooks.Playbook, plans map[*member]*playbooks.Plan, ready []*member) error {
	s.doc.Run = run.NewID(time.Now())
	names := labels(ready)
	s.Expect(names)
	plan := plans[ready[0]]
	max, maxFail := plan.MaxStopped, plan.MaxFail.Of(len(ready))
	s.Note("", "run %s", s.doc.Run)
	d := &driver{sweep: s, run: s.doc.Run, controller: newToken(), yes: c.Bool("yes"), slots: newSlots(max, maxFail), plans: plans, stages: map[*member][]string{}}
	ctx, stop := d.attend(ctx)
	defer stop()
	left := ready
	for _, n := range plan.Batches(len(ready)) {
		if failed, over := d.slots.over(); over || ctx.Err() != nil {
			d.notBegun(ctx, left, failed)
			break
		}
		s.inTurn(ctx, left[:n], func(m *member) error {
			if failed, over := d.slots.over(); m.before != nil && over {
				d.notBegun(ctx, []*member{m}, failed)
				return nil
			}
			info := run.Info{
				Run: d.run, Host: m.Label(), Hosts: names, Began: time.Now().UTC(), Who: me(), Controller: d.controller,
				Reason: c.String("reason"), Name: pb.Name, Playbook: pb.Text, Extra: s.extra.Kept(pb), Vars: m.vars,
				Yes: c.Bool("yes"), Slots: max > 0 && len(ready) > max, MaxStopped: max, MaxFail: maxFail, Steps: plans[m].Steps,
			}
			if err := m.link.Call(ctx, "begin", &info, nil); errors.Is(err, remote.ErrLost) {
				return d.perhapsBegun(ctx, m, err)
			} else if err != nil {
				m.left = ctx.Err() != nil // it may have begun
				return err
			}
			return d.drive(ctx, m, 1)
		})
		left = left[n:]
	}
	d.talk(ctx, c)
	d.whatNext(ctx)
	return s.end(ctx)
}

// perhapsBegun follows a run whose host went silent when it was told to begin. It
// has begun, or begins just now, or never will: only the host can tell.
func (d *driver) perhapsBegun(ctx context.Context, m *member, lost error) error {
	err := d.drive(ctx, m, 1)
	var fault *wire.Fault
	var on *goesOn
	if errors.As(err, &fault) && fault.Kind == "no-run" || errors.As(err, &on) {
		return &goesOn{lost, "whether the run has begun there is not known: spoolsweep attach " + d.run + d.again + " tells"}
	}
	return err
}

// notBegun says which hosts were left as they are because others failed, or
// because somebody wanted it.
func (d *driver) notBegun(ctx context.Context, left []*member, failed int) {
	why := fmt.Sprintf("%d failed before (max_fail)", failed)
	if d.cancelled.Load() || ctx.Err() != nil {
		why = "interrupted"
	}
	for _, m := range left {
		m.Status = show.Skipped
		m.Notes = append(m.Notes, "not begun")
		d.Alert(m.Label(), "not begun: %s; it is as it was", why)
	}
}

// eachAll works on all hosts at once: a run that is followed takes no fork
// from another.
// On a terminal it is shown how far each is, and Enter asks.
func (s *sweep) eachAll(members []*member, do func(m *member) error) {
	defer s.Follow(labels(members))()
	if s.tty {
		defer s.keys.listen(s.Typed)()
	}
	var all sync.WaitGroup
	for _, m := range members {
		all.Go(func() {
			m.fail(do(m))
			s.Left(m.Label(), m.Status)
		})
	}
	all.Wait()
}

func labels(members []*member) []string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.Label()
	}
	return names
}

// resolve makes each host's plan, or one error that names the place.
func (s *sweep) resolve(pb *playbooks.Playbook, extra *playbooks.Extra) (map[*member]*playbooks.Plan, error) {
	plans := map[*member]*playbooks.Plan{}
	for _, m := range s.members {
		plan, err := m.resolve(pb, extra)
		if err != nil {
			return nil, err
		}
		plans[m] = plan
	}
	return plans, nil
}

func (m *member) resolve(pb *playbooks.Playbook, extra *playbooks.Extra) (*playbooks.Plan, error) {
	plan, err := pb.Resolve(&playbooks.HostVars{Values: m.host.Vars, Origin: func(name string) *strict.Value { return m.host.Origin(name) }}, extra)
	if err != nil {
		return nil, fmt.Errorf("playbook %s, host %s: %w", pb.Name, m.host.Name, err)
	}
	return plan, nil
}

// unused warns of variables that the playbook does not read, and refuses those that
// only an inventory may set.
func (s *sweep) unused(pb *playbooks.Playbook) error {
	warnings, err := s.noUse(pb)
	for _, w := range warnings {
		s.Alert("", "warning: %s", show.Clean(w))
	}
	return err
}

// noUse says it of each variable that the playbook does not read. One that only an
// inventory may set is an error.
func (s *sweep) noUse(pb *playbooks.Playbook) (says []string, err error) {
	for _, name := range s.extra.Unused(pb) {
		if slices.Contains(knownVars(), name) {
			return says, fmt.Errorf("-e %s: it is a variable of hosts, for every command: set it in the inventory, or in a second one (-i inventory.yaml -i more.yaml)", name)
		}
		says = append(says, fmt.Sprintf("-e %s: nothing in %s uses it%s", name, pb.Name, didYouMean("", name, pb.Used())))
	}
	return says, nil
}

// preflight looks at hosts, and adds what it found.
func (s *sweep) preflight(ctx context.Context, plans map[*member]*playbooks.Plan, members []*member, found map[*member]*run.Preflight) {
	var mu sync.Mutex // guards found
	s.eachOf(members, func(m *member) error {
		f := new(run.Preflight)
		if err := m.link.Open(ctx); err != nil { // not to be taken for a slow answer
			return err
		}
		asked := time.Now()
		if err := m.link.Call(ctx, "preflight", agent.PlanCall{Vars: m.vars, Steps: plans[m].Steps}, f); err != nil {
			return err
		}
		if warning := skewWarning(f, asked, time.Now()); warning != "" {
			f.Warnings = append(f.Warnings, warning)
		}
		m.Preflight = f
		s.Found(m.Label(), f)
		mu.Lock()
		found[m] = f
		mu.Unlock()
		if len(f.Problems) > 0 {
			m.Status = show.Failed
			m.Error = &show.Failure{Stage: "preflight", Message: f.Problems[0].Message, Remedy: f.Problems[0].Remedy, Told: true}
			if n := len(f.Problems) - 1; n > 0 {
				m.Error.Message += fmt.Sprintf(" (and %d more in the way)", n)
			}
		}
		return nil
	})
	for _, m := range members {
		if m.Status == show.Failed {
			m.Error.Stage = "preflight"
		}
	}
}

// lookAgain is preflight of hosts that could not be reached before, with all their
// instances.
func (s *sweep) lookAgain(ctx context.Context, pb *playbooks.Playbook, plans map[*member]*playbooks.Plan, hosts []*member, found map[*member]*run.Preflight) (map[*member]*playbooks.Plan, error) {
	if len(hosts) == 0 {
		return plans, nil
	}
	looked := slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return slices.Contains(hosts, m) })
	s.reachThese(ctx, hosts, nil)
	plans, err := s.resolve(pb, s.extra)
	if err != nil {
		return nil, err
	}
	again := slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return slices.Contains(looked, m) })
	s.preflight(ctx, plans, again, found)
	return plans, nil
}

// ready are the hosts where nothing is in the way.
func (s *sweep) ready(found map[*member]*run.Preflight) []*member {
	var ready []*member
	for _, m := range s.members {
		if f := found[m]; f != nil && len(f.Problems) == 0 {
			ready = append(ready, m)
		}
	}
	return ready
}

// showPlan prints what would be done on each host, and what is in the way.
func (s *sweep) showPlan(pb *playbooks.Playbook, plans map[*member]*playbooks.Plan, found map[*member]*run.Preflight) {
	var names []string
	for _, step := range plans[s.members[0]].Steps {
		names = append(names, step.Stage)
	}
	s.Note("", "plan: %s (%s)", show.Clean(pb.Title), strings.Join(names, ", "))
	for _, note := range s.sourceNotes(pb, plans) {
		s.Note(note.host, "%s", show.Clean(note.text))
	}
	if max := plans[s.members[0]].MaxStopped; max > 0 && len(s.members) > max {
		s.Note("", "at most %d of the %s have their Postfix stopped at the same moment", max, s.noun(2))
	}
	common := commonNotes(found)
	for _, n := range common {
		s.Note("", "on all %s: %s", s.noun(2), show.Clean(n))
	}
	for _, m := range s.members {
		name := m.Label()
		f := found[m]
		if f == nil && (m.Error == nil || m.Error.Told) { // without one: interrupted
			continue
		}
		if f == nil {
			s.Alert(name, "%s: %s", strings.ToUpper(m.Status), show.Clean(m.Error.Message))
			if m.Error.Remedy != "" {
				s.Alert(name, "  remedy: %s", show.Clean(m.Error.Remedy))
			}
			m.Error.Told = true
			continue
		}
		if f.Counts.QueueDirectory == "" {
			s.problems(name, f) // it could not look
			continue
		}
		s.Note(name, "Postfix %s, %s, %s, %d messages", show.Clean(f.Postfix.Version), show.Clean(f.Counts.Postfix), show.Clean(f.Counts.QueueDirectory), f.Counts.Messages)
		switch {
		case !setsAside(plans[m].Steps):
		case len(f.Aside) > 0:
			s.Note(name, "  set aside: %s", queueCounts(f, f.Aside))
		default:
			s.Note(name, "  no queue holds more than %d messages (host variable queue_warn): nothing would be set aside, unless named: -e 'queues=[deferred]'", m.vars.Warn())
		}
		if live := queueCounts(f, f.Live); live != "" && setsAside(plans[m].Steps) {
			s.Note(name, "  stays live: %s", live)
		}
		for _, w := range f.Warnings {
			s.Alert(name, "  warning: %s", show.Clean(w))
		}
		for _, n := range f.Notes {
			if !slices.Contains(common, n) {
				s.Note(name, "  note: %s", show.Clean(n))
			}
		}
		for _, r := range f.Runs {
			s.Note(name, "  note: run %s of %s is %s, %d messages aside", show.Clean(r.Run), show.Clean(r.Who), show.Clean(r.Phase), r.Aside)
		}
		s.problems(name, f)
	}
}

// hostNote is a note about one host, or about all: host "".
type hostNote struct{ host, text string }

// sourceNotes tell whether and how the plans stop the source: what all hosts
// have in common once.
func (s *sweep) sourceNotes(pb *playbooks.Playbook, plans map[*member]*playbooks.Plan) []hostNote {
	var notes []hostNote
	for _, m := range s.members {
		for _, text := range sourceOf(plans[m].Steps, wordsOf(pb.Used())) {
			notes = append(notes, hostNote{m.Label(), text})
		}
	}
	var merged []hostNote
	for _, n := range notes {
		same := 0
		for _, o := range notes {
			if o.text == n.text {
				same++
			}
		}
		if same == len(s.members) {
			n.host = ""
		}
		if !slices.Contains(merged, n) {
			merged = append(merged, n)
		}
	}
	return merged
}

// sourceWords are what a playbook calls whom its commands are done for.
type sourceWords struct{ nobody, flag, variable, more string }

// wordsOf are those of a playbook that uses these variables.
func wordsOf(variables []string) sourceWords {
	const more = " (spoolsweep manual accounts has some)"
	has := func(name string) bool { return slices.Contains(variables, name) }
	switch {
	case has(playbooks.SourceVariable):
		return sourceWords{"neither a user nor a script is named", "-e source=NAME", "stop_source", ""}
	case has("enable_account"):
		return sourceWords{"no account is named", "-e account=NAME", "enable_account", more}
	}
	return sourceWords{"no account is named", "-e account=NAME", "disable_account", more}
}

// canStop refuses, before any host is reached, what must be done for somebody and for
// which nobody is named, or no command.
func (s *sweep) canStop(pb *playbooks.Playbook, plans map[*member]*playbooks.Plan) error {
	words := wordsOf(pb.Used())
	for _, m := range s.members {
		for _, step := range plans[m].Steps {
			args, ok := stageArgs(step).(*stage.CommandArgs)
			if !ok || step.Skip || args.For == nil || !args.RequireSourceStopped || args.Idle() == "" {
				continue
			}
			why := fmt.Sprintf("%s: give %s", words.nobody, words.flag)
			if len(args.For) > 0 {
				why = fmt.Sprintf("the host variable %s names no command for it%s", words.variable, words.more)
			}
			return fmt.Errorf("%s: %s: %s", m.Label(), cmp.Or(show.Clean(step.Name), step.Stage), why)
		}
	}
	return nil
}

// setsAside says whether mail is set aside by a plan.
func setsAside(steps []stage.Step) bool {
	return slices.ContainsFunc(steps, func(s stage.Step) bool { return s.Stage == "set-aside" && !s.Skip })
}

// sourceOf tells what a plan runs to stop the source, which is an account, or what
// submits mail on the host.
func sourceOf(steps []stage.Step, words sourceWords) []string {
	var notes []string
	var found bool
	for _, step := range steps {
		args, ok := stageArgs(step).(*stage.CommandArgs)
		if !ok || step.Skip || args.For == nil {
			continue
		}
		found = true
		switch why := args.Idle(); {
		case len(args.For) == 0:
			notes = append(notes, "source not stopped: "+words.nobody+" ("+words.flag+"); do that first where one is known")
		case why != "":
			notes = append(notes, "source not stopped: the host variable "+words.variable+" names no command for it")
		case step.NoLog:
			notes = append(notes, "source: would run a command that is not shown (no_log)")
		default:
			on := ""
			if args.OnController() {
				on = " on this machine"
			}
			for _, line := range args.Lines() {
				notes = append(notes, fmt.Sprintf("source: would run%s: %s", on, line))
			}
		}
	}
	if !found {
		notes = append(notes, "source not stopped: this run disables no account; do that first where one is known")
	}
	return notes
}

func (s *sweep) problems(name string, f *run.Preflight) {
	for _, p := range f.Problems {
		s.Alert(name, "  IN THE WAY: %s", show.Clean(p.Message))
		s.Alert(name, "    remedy: %s", show.Clean(p.Remedy))
	}
}

// commonNotes are those that all hosts have: told once. One host's are its own.
func commonNotes(found map[*member]*run.Preflight) []string {
	count := map[string]int{}
	var common []string
	for _, f := range found {
		for _, n := range f.Notes {
			if count[n]++; count[n] == len(found) && len(found) > 1 {
				common = append(common, n)
			}
		}
	}
	slices.Sort(common)
	return common
}

// queueCounts tells how many messages each of the queues holds, if any.
func queueCounts(f *run.Preflight, queues []spool.Queue) string {
	var parts []string
	for _, q := range queues {
		if n := f.Counts.Queues[q].Messages; n > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", show.Clean(string(q)), humanize.Comma(n)))
		}
	}
	return strings.Join(parts, ", ")
}

// check shows what the rules would take, from the live queues.
func (s *sweep) check(ctx context.Context, plans map[*member]*playbooks.Plan, ready []*member, found map[*member]*run.Preflight) {
	s.eachOf(ready, func(m *member) error {
		m.Status = show.OK
		for i, step := range plans[m].Steps {
			if step.Stage != "classify" || len(found[m].Aside) == 0 {
				continue
			}
			args, ok := stageArgs(step).(*stage.ClassifyArgs)
			if !ok {
				continue
			}
			for _, q := range found[m].Aside {
				args.Live = append(args.Live, string(q))
			}
			return s.look(ctx, m, i, "classify", args, "")
		}
		return nil
	})
	s.Note("", "--check: nothing was changed")
}

func stageArgs(step stage.Step) stage.Args {
	row, ok := stage.Find(step.Stage)
	if !ok {
		return nil
	}
	args, err := row.Parse(step.Args)
	if err != nil {
		return nil
	}
	return args
}

// newToken tells two controllers of one admin apart.
func newToken() string { return me() + "/" + rand.Text()[:8] }
