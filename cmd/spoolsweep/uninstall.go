package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/inventory"
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
			s.uninstall(c)
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
func (s *sweep) uninstall(c *cli.Context) {
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
	s.eachOf(slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return m.further }), func(m *member) error {
		return s.uninstallHost(c, s.ofHost(m.host), there[m.host])
	})
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
