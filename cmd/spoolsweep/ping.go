package main

import (
	"encoding/json"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
)

func pingCommand() *cli.Command {
	return &cli.Command{
		Name: "ping", Usage: "reach and identify hosts; the agent is pushed where it is missing",
		UsageText: `spoolsweep ping
spoolsweep ping -l 'mx*' -o json`,
		Description: `With -b the agent runs as root through sudo, or with --become-method through
doas or su, as with all commands. Where that wants a password, -K asks for it,
once for all hosts, or --become-password-file names a file with it:

  spoolsweep ping -u admin -b -K
  spoolsweep ping -u admin -b --become-password-file ~/.sudo-password

It is sent when it is asked for, and not otherwise; a wrong one is tried once.
A host that takes none, or another one, counts as unreachable (exit status 4).`,
		Flags: commonFlags(), OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(c, errArguments(c), false)
			}
			s, err := begin(c, nil)
			if err != nil {
				return err
			}
			s.glances()
			ask := func(m *member) error {
				var found run.Preflight
				call := agent.HostCall{Vars: m.vars, Kept: s.memory.of(m.host.Name), Alone: !m.known}
				if err := m.link.CallEvents(c.Context, "identify", call, &found, func(e wire.Event) { s.memory.keeps(m.host.Name, e) }); err != nil {
					return err
				}
				m.Status = show.OK
				var err error
				if m.Result, err = json.Marshal(&found); err != nil {
					return err
				}
				m.identified = &found
				return nil
			}
			s.askThem(c.Context, ask)
			s.each(func(m *member) error {
				if !m.asked {
					if err := ask(m); err != nil {
						return err
					}
				}
				found := m.identified
				become := ""
				if !found.Root {
					become = ", not root"
				}
				s.Line(m.Label(), "%s: Postfix %s, %s, %s%s", show.Clean(found.Hostname), show.Clean(found.Postfix.Version),
					show.Clean(found.Counts.Postfix), show.Clean(found.Postfix.QueueDirectory), become)
				return nil
			})
			return s.end(c.Context)
		},
	}
}
