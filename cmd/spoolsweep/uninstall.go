package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/inventory"
	"spoolsweep/spool/run"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name: "uninstall", Usage: "remove the agents from hosts, and on demand the records of runs",
		UsageText: `spoolsweep uninstall -l chavez
spoolsweep uninstall --state
spoolsweep uninstall --state -y`,
		Description: `Removes every agent that the login user has on the hosts; the next command sends
it again. --state also removes the records of all runs, with their ledgers: what
they have done is known to nobody then. So it asks, and says of how many runs and
hosts; -y asks nothing. Where a run works, waits, or has mail aside, that run is
named, and nothing is removed from that host. Mail is never touched.`,
		Flags: commonFlags(
			&cli.BoolFlag{Name: "state", Usage: "the records of runs too, where nothing is aside"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "with --state, ask nothing"},
		),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(c, errArguments(c), false)
			}
			s, err := begin(c, nil)
			if err != nil {
				return err
			}
			if c.Bool("state") && !c.Bool("yes") && !s.tty {
				s.close()
				return errors.New("there is no terminal to ask on: give -y")
			}
			if err := s.uninstall(c); err != nil {
				s.close()
				return err
			}
			return s.end(c.Context)
		},
	}
}

// uninstalled is the result for one host.
type uninstalled struct {
	Agents  int `json:"agents"`
	Records int `json:"records"`
}

// uninstall asks first how many agents there are: none is sent to a host for it.
func (s *sweep) uninstall(c *cli.Context) error {
	ctx := c.Context
	there := map[*inventory.Host]int{}
	var mu sync.Mutex // guards there
	s.each(func(m *member) error {
		n, err := m.link.Agents(ctx)
		mu.Lock()
		there[m.host] = n
		mu.Unlock()
		m.unreached = err
		m.known = err != nil || n == 0 && !c.Bool("state") // there is nothing to ask
		return err
	})
	s.reach(ctx)
	hosts := slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return m.further })
	if c.Bool("state") && !c.Bool("yes") {
		if err := s.agreeToForget(ctx); err != nil {
			return err
		}
		hosts = slices.DeleteFunc(hosts, func(m *member) bool { return slices.ContainsFunc(s.ofHost(m.host), (*member).failed) })
	}
	s.eachOf(hosts, func(m *member) error {
		return s.uninstallHost(c, s.ofHost(m.host), there[m.host])
	})
	return nil
}

// agreeToForget asks whether the records may go, where there are any.
func (s *sweep) agreeToForget(ctx context.Context) error {
	var mu sync.Mutex // guards what follows
	ids, on := map[string]bool{}, 0
	s.eachOf(s.members, func(m *member) error {
		var runs []*run.State
		if err := m.link.Call(ctx, "runs", agent.HostCall{Vars: m.vars}, &runs); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range runs {
			ids[r.Run] = true
		}
		if len(runs) > 0 {
			on++
		}
		return nil
	})
	if on == 0 {
		return nil
	}
	runs := "runs"
	if len(ids) == 1 {
		runs = "run"
	}
	answer, err := s.ask(ctx, fmt.Sprintf("Remove the records and ledgers of %s %s on %d %s? They cannot be had again. [y/N] ", humanize.Comma(int64(len(ids))), runs, on, s.noun(on)))
	if err != nil {
		return err
	}
	if !strings.HasPrefix(strings.ToLower(answer), "y") {
		s.Note("", "nothing was done")
		return exit(statusUsage)
	}
	return nil
}

// uninstallHost removes what one host has. What an instance refuses is its error,
// and then the others are left as they are.
func (s *sweep) uninstallHost(c *cli.Context, instances []*member, there int) error {
	ctx := c.Context
	first := instances[0]
	done := map[*member]*uninstalled{}
	// ask has each instance do something, and says whether all did.
	ask := func(do func(m *member) error) bool {
		for _, m := range instances {
			if err := do(m); err != nil {
				m.fail(err)
				return false
			}
		}
		return true
	}
	if there > 0 || c.Bool("state") {
		// Of an agent that a run works with the run would need the file again.
		idle := ask(func(m *member) error {
			done[m] = new(uninstalled)
			return m.link.Call(ctx, "idle", agent.HostCall{Vars: m.vars}, nil)
		})
		if !idle || c.Bool("state") && !ask(func(m *member) error {
			var forgotten agent.Forgotten
			err := m.link.Call(ctx, "forget", agent.HostCall{Vars: m.vars}, &forgotten)
			done[m].Records = forgotten.Runs
			return err
		}) {
			return nil // told of the one that refused
		}
		n, err := first.link.RemoveAgents(ctx)
		if err != nil {
			return err
		}
		done[first].Agents = n
	}
	for _, m := range instances {
		if err := s.uninstalled(m, done[m], there, c.Bool("state")); err != nil {
			return err
		}
	}
	return nil
}

// uninstalled tells what was removed; nil is nothing.
func (s *sweep) uninstalled(m *member, done *uninstalled, there int, state bool) (err error) {
	if done == nil {
		done = new(uninstalled)
	}
	m.Status, m.Changed = show.OK, done.Records > 0 || !m.further && there > 0
	if m.Result, err = json.Marshal(done); err != nil {
		return err
	}
	text := fmt.Sprintf("%d agents removed", done.Agents)
	switch {
	case m.further:
		text = "its agents are those of the host"
	case there == 0:
		text = "no agent is there"
	case done.Agents == 1:
		text = "1 agent removed"
	}
	if state {
		text += fmt.Sprintf(", and the records of %d runs", done.Records)
	}
	s.Line(m.Label(), "%s", text)
	return nil
}
