package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks/strict"
	"spoolsweep/remote/inventory"
)

func inventoryCommand() *cli.Command {
	return &cli.Command{
		Name: "inventory", Usage: "the inventory as it is understood: groups, hosts and their variables", ArgsUsage: "[GROUP]",
		UsageText: `spoolsweep inventory --list
spoolsweep inventory --host chavez
spoolsweep inventory --graph
spoolsweep inventory --graph relays -i hosts.yaml
spoolsweep inventory --list -i production/ -i more.ini --vault-password-file secret`,
		Description: `Reaches no host. --list and --host print JSON, equal to that of ansible-inventory
for the same files; --graph draws GROUP, or all. Variables are printed as they are
written: references such as {{ name }} are not resolved, and single values that
ansible-vault encrypted stay encrypted. A file of variables that is encrypted as a
whole needs the vault's password.`,
		Flags: append(inventoryFlags(),
			&cli.BoolFlag{Name: "list", Usage: "all groups, hosts and variables, as JSON"},
			&cli.StringFlag{Name: "host", Usage: "the variables of `HOST`, as JSON"},
			&cli.BoolFlag{Name: "graph", Usage: "the groups as a tree"},
		),
		OnUsageError: usageError,
		Action:       inventoryAction,
	}
}

func inventoryAction(c *cli.Context) error {
	var asked int
	for _, flag := range []string{"list", "host", "graph"} {
		if c.IsSet(flag) {
			asked++
		}
	}
	switch {
	case asked != 1:
		return usageError(c, errors.New("one of --list, --host and --graph is wanted"), false)
	case c.NArg() > 1, c.NArg() > 0 && !c.Bool("graph"):
		return usageError(c, errArguments(c), false)
	}
	s := &sweep{Printer: &show.Printer{Out: c.App.Writer, Err: c.App.ErrWriter}, keys: newKeyboard(c.App.Reader), tty: onTerminal(c)}
	inv, err := s.inventory(c, &inventory.Loader{Raw: true})
	if err != nil {
		return err
	}
	switch {
	case c.Bool("list"):
		return show.JSON(s.Out, inv.List())
	case c.Bool("graph"):
		group := "all"
		if c.NArg() > 0 {
			group = c.Args().First()
		}
		graph, err := inv.Graph(group)
		if err != nil {
			return err
		}
		for line := range strings.Lines(graph) {
			s.Line("", "%s", show.Clean(strings.TrimSuffix(line, "\n")))
		}
		return nil
	}
	name := c.String("host")
	h := inv.Host(name)
	if h == nil {
		var names []string
		for _, h := range inv.Hosts() {
			names = append(names, h.Name)
		}
		if near := strict.Nearest(name, names); near != "" {
			return fmt.Errorf("no host is named %q, did you mean %q?", name, near)
		}
		return fmt.Errorf("no host is named %q", name)
	}
	return show.JSON(s.Out, h.Variables())
}
