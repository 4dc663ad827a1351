package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/inventory"
	"spoolsweep/remote/push"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// newRun is the word for the id of a run that there is not yet.
const newRun = "new"

func planCommand() *cli.Command {
	return &cli.Command{
		Name: "plan", Usage: "print what a playbook does on one host, for its agent to carry out", ArgsUsage: "PLAYBOOK",
		UsageText: `spoolsweep plan backscatter --host chavez > plan.json
spoolsweep plan backscatter --host chavez -e @rules.yaml -y > plan.json
spoolsweep plan backscatter --host chavez -e @rules.yaml --expect 386 > plan.json
spoolsweep plan backscatter --host chavez/postfix-out -e queues=deferred
spoolsweep plan backscatter --host chavez -l 'chavez,peltier' --run new
spoolsweep plan backscatter --host chavez --run 20261123T231500Z-ab12 --resume -e @rules.yaml -y`,
		Description: `For what can run a command on a host by itself: Salt, Rundeck, cron, a unit of
systemd. Reaches no host. The plan is JSON (schema plan describes it), and the
agent of that host takes it on standard input, as root:

  spoolsweep-agent run   < plan.json     carries it out
  spoolsweep-agent check < plan.json     tells what would happen, and changes nothing

It prints what happens, an event a line (schema events), and ends with 0 done, 1 a
plan that it does not take, 2 failed, or 3: the run waits. 'agent' writes it. The
run is one like any other: it needs nobody while it works, and 'attach', 'resume',
'putback' and 'report' find it. Nothing is asked. At a confirm it waits, and mail
flows, unless -y would answer, or as many messages would go as --expect says. Nor
are turns given: at most how many hosts have their Postfix stopped is up to
whatever starts the agents, and so is max_fail.

Without --run each time is a run of its own. With it the plan is carried out once,
and who sends it again is told how it goes; hosts whose plans have the same id are
one run. What a stage with once does is done on the first host of --limit, or
without that on HOST. What no_log hides is in the plan, so keep it to yourself.

With --resume the run of that id goes on by the plan, as 'resume RUN -e' has it go
on: at the first stage that differs, and not at all where it was done so. The other
things that a plan can be for are written by whoever gives it (keys do, only_full):
one more stage at a run's end, such as putback; or a run that is begun only where a
queue is full.`,
		Flags: append(inventoryFlags(),
			&cli.StringFlag{Name: "host", Usage: "the `HOST` of the inventory whose plan it is, or HOST/INSTANCE of one with several Postfix"},
			&cli.StringFlag{Name: "limit", Aliases: []string{"l"}, Usage: "the hosts that the run is for, by `PATTERN`: HOST is one of them (default: HOST alone)"},
			extraVars(), yesFlag(),
			&cli.Int64Flag{Name: "expect", Usage: "confirm what is to be sent, if that is `N` messages"},
			&cli.StringFlag{Name: "run", Usage: "the `ID` of the run, or new for a new one"},
			&cli.BoolFlag{Name: "resume", Usage: "the run of --run goes on by this plan"},
			&cli.StringFlag{Name: "reason", Usage: "`TEXT` for the record of the run"},
		),
		OnUsageError: usageError,
		Action:       planAction,
	}
}

func planAction(c *cli.Context) error {
	switch {
	case c.NArg() != 1:
		return usageError(c, errors.New("one playbook is wanted"), false)
	case c.String("host") == "":
		return usageError(c, errors.New("--host is wanted: a plan is one host's"), false)
	case c.Bool("resume") && !run.IsID(c.String("run")):
		return usageError(c, errors.New("--resume goes with --run ID"), false)
	case c.IsSet("expect") && c.Int64("expect") < 0:
		return usageError(c, errors.New("--expect is a number of messages"), false)
	}
	pb, err := playbooks.Load(c.Args().First())
	if err != nil {
		return err
	}
	s := &sweep{Printer: &show.Printer{Out: c.App.Writer, Err: c.App.ErrWriter}, keys: newKeyboard(c.App.Reader), tty: onTerminal(c)}
	if s.extra, err = playbooks.ParseExtra(c.StringSlice("extra-vars")); err != nil {
		return err
	}
	m, hosts, err := s.planned(c, pb)
	if err != nil {
		return err
	}
	if err := s.unused(pb); err != nil {
		return err
	}
	resolved, err := m.resolve(pb, s.extra)
	if err != nil {
		return err
	}
	p := &agent.Plan{
		Version: agent.PlanVersion, Run: c.String("run"), Host: m.host.Name, Who: me(), Reason: c.String("reason"), Name: pb.Name, Yes: c.Bool("yes"),
		Vars: m.vars, Steps: resolved.Steps, Playbook: pb.Text, Extra: s.extra.Kept(pb),
	}
	if c.IsSet("limit") {
		p.Hosts = hosts
	}
	if c.Bool("resume") {
		p.Do = agent.DoResume
	}
	if p.Run == newRun {
		p.Run = run.NewID(time.Now())
	} else if p.Run != "" && !run.IsID(p.Run) {
		return fmt.Errorf("--run %s: it is %s, or an id that looks like %s", p.Run, newRun, run.NewID(time.Now()))
	}
	if c.IsSet("expect") {
		if err := expectIn(p.Steps, c.Int64("expect")); err != nil {
			return err
		}
	}
	for i, step := range p.Steps {
		if args, ok := stageArgs(step).(*stage.CommandArgs); ok && args.OnController() && !step.Skip {
			s.Alert("", "warning: stage %d is a command for the controller, and there is none: the run waits there for spoolsweep resume", i+1)
		}
	}
	return show.JSON(s.Out, p)
}

// planned is the host that the plan is for, and the labels of all hosts of the run.
func (s *sweep) planned(c *cli.Context, pb *playbooks.Playbook) (*member, []string, error) {
	hosts, err := s.hosts(c, pb)
	if err != nil {
		return nil, nil, err
	}
	name, instance, one := strings.Cut(c.String("host"), "/")
	i := slices.IndexFunc(hosts, func(h *inventory.Host) bool { return h.Name == name })
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	if i < 0 {
		return nil, nil, fmt.Errorf("--host %s: none of the hosts that the playbook and --limit are for has that name%s", name, didYouMean("", name, names))
	}
	m, err := newMember(hosts[i], false)
	if err != nil || !one {
		return m, names, err
	}
	if m.vars.ConfigDirectory != "" {
		return nil, nil, fmt.Errorf("--host %s: the host variable postfix_config_directory says already which Postfix is meant", c.String("host"))
	}
	m.vars.Instances, m.vars.Instance = nil, instance
	names[i] += "/" + instance
	return m, names, spool.ParseInstance(instance)
}

// expectIn answers the confirm of a plan beforehand.
func expectIn(steps []stage.Step, n int64) error {
	found := false
	for i := range steps {
		args, ok := stageArgs(steps[i]).(*stage.ConfirmArgs)
		if !ok {
			continue
		}
		found = true
		expect := stage.Number(n)
		args.Expect = &expect
		text, err := json.Marshal(args)
		if err != nil {
			return err
		}
		steps[i].Args = text
	}
	if !found {
		return errors.New("--expect answers a stage confirm, and the playbook has none")
	}
	return nil
}

func agentCommand() *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "write the agent to a file, to bring it to hosts by other means", ArgsUsage: "ARCHITECTURE",
		UsageText: `spoolsweep agent amd64 --output spoolsweep-agent
spoolsweep agent arm64 --output spoolsweep-agent-arm64`,
		Description: `For hosts that are reached by something else, as for 'plan': one static Linux
program, for ` + strings.Join(push.Architectures, ", ") + `. What spoolsweep itself needs on a host it sends by itself.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`, which must not be there"},
			&cli.StringFlag{Name: "agent", Usage: "the agent in `FILE` instead of one that is built (default: $SPOOLSWEEP_AGENT, if that is set)"},
		},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			switch file := c.String("output"); {
			case c.NArg() == 0 && file == "":
				return usageError(c, fmt.Errorf("an architecture (%s) and --output are wanted", strings.Join(push.Architectures, ", ")), false)
			case c.NArg() != 1:
				return usageError(c, fmt.Errorf("one architecture is wanted: %s", strings.Join(push.Architectures, ", ")), false)
			case file == "":
				return usageError(c, errors.New("--output is wanted: the file to write"), false)
			}
			arch := c.Args().First()
			if !slices.Contains(push.Architectures, arch) {
				return fmt.Errorf("no agent can be built for %q%s: only for Linux on %s", arch, didYouMean("", arch, push.Architectures), strings.Join(push.Architectures, ", "))
			}
			source, _, err := agentOf(agentFile(c))
			if err != nil {
				return err
			}
			a, err := source.Agent(c.Context, arch)
			if err != nil {
				return err
			}
			return writeAgent(a, c.String("output"))
		},
	}
}
