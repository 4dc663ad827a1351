package main

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name: "uninstall", Usage: "remove the agents from hosts, and on demand the records of runs",
		UsageText: `spoolsweep uninstall -l chavez
spoolsweep uninstall --state`,
		Description: `Removes every agent that the login user has on the hosts; the next command sends
it again. --state also removes the records of all runs, unless a run works,
waits, or has mail aside: then that run is named, and nothing is removed from
that host. Mail is never touched.`,
		Flags:        commonFlags(&cli.BoolFlag{Name: "state", Usage: "the records of runs too, where nothing is aside"}),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(c, errArguments(c), false)
			}
			s, err := begin(c, nil)
			if err != nil {
				return err
			}
			s.each(func(m *member) error { return s.uninstall(c, m) })
			return s.end(c.Context)
		},
	}
}

// uninstalled is the result for one host.
type uninstalled struct {
	Agents  int `json:"agents"`
	Records int `json:"records"`
}

func (s *sweep) uninstall(c *cli.Context, m *member) error {
	ctx := c.Context
	var done uninstalled
	there, err := m.link.Agents(ctx)
	if err != nil {
		return err
	}
	if there > 0 || c.Bool("state") {
		// Of an agent that a run works with the run would need the file again.
		if err := m.link.Call(ctx, "idle", agent.HostCall{Vars: m.vars}, nil); err != nil {
			return err
		}
		if c.Bool("state") {
			var forgotten agent.Forgotten
			if err := m.link.Call(ctx, "forget", agent.HostCall{Vars: m.vars}, &forgotten); err != nil {
				return err
			}
			done.Records = forgotten.Runs
		}
		if done.Agents, err = m.link.RemoveAgents(ctx); err != nil {
			return err
		}
	}
	m.Status, m.Changed = show.OK, done.Records > 0 || there > 0
	if m.Result, err = json.Marshal(done); err != nil {
		return err
	}
	text := fmt.Sprintf("%d agents removed", done.Agents)
	switch {
	case there == 0:
		text = "no agent is there"
	case done.Agents == 1:
		text = "1 agent removed"
	}
	if c.Bool("state") {
		text += fmt.Sprintf(", and the records of %d runs", done.Records)
	}
	s.Line(m.host.Name, "%s", text)
	return nil
}
