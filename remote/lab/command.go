package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
)

// App is the command line of cmd/lab.
func App() *cli.App {
	return &cli.App{
		Name:  "lab",
		Usage: "real mail hosts on this machine, to try spoolsweep on",
		Flags: []cli.Flag{&cli.StringFlag{Name: "dir", Value: DefaultDir, Usage: "where the lab stands"}},
		// Without this a command's own exit would pass by the caller.
		ExitErrHandler: func(*cli.Context, error) {},
		Commands: []*cli.Command{
			{Name: "up", Usage: "start hosts and leave them running", ArgsUsage: "NAME...", Action: upCommand},
			{Name: "down", Usage: "end all hosts and remove the lab", Action: func(c *cli.Context) error {
				return (&Lab{Dir: c.String("dir")}).Down()
			}},
			{Name: "list", Aliases: []string{"status"}, Usage: "the hosts", Action: listCommand},
			{Name: "flood", Usage: "where mail waits: refuse (deferred), hold (active, incoming), deliver",
				ArgsUsage: "NAME refuse|hold|deliver", Action: floodCommand},
			{Name: "inject", Usage: "send the mail of an incident to a host", ArgsUsage: "NAME",
				Flags: []cli.Flag{
					&cli.IntFlag{Name: "n", Value: 1000, Usage: "how many messages"},
					&cli.StringFlag{Name: "account", Value: "spam-account", Usage: "the account that was taken over"},
					&cli.Uint64Flag{Name: "seed", Usage: "another seed, other messages (default: as many as were injected)"},
				}, Action: injectCommand},
			{Name: "audit", Usage: "where every message is", ArgsUsage: "NAME", Action: auditCommand},
			{Name: "exec", Usage: "run a command inside a host", ArgsUsage: "NAME [--] COMMAND...", SkipFlagParsing: true, Action: execCommand},
			{Name: "instance", Usage: "give a host one more Postfix, which other commands then take as NAME/INSTANCE", ArgsUsage: "NAME INSTANCE",
				Action: func(c *cli.Context) error {
					h, err := hostArgument(c)
					if err != nil {
						return err
					}
					_, err = h.AddInstance(c.Context, c.Args().Get(1))
					return err
				}},
			{Name: "reset", Usage: "make a host as new", ArgsUsage: "NAME", Action: func(c *cli.Context) error {
				h, err := hostArgument(c)
				if err != nil {
					return err
				}
				return h.Reset(c.Context)
			}},
			{Name: "link", Usage: "cut a host's network, or bring it back", ArgsUsage: "NAME up|down", Action: linkCommand},
		},
	}
}

func hostArgument(c *cli.Context) (*Host, error) {
	if c.NArg() == 0 {
		return nil, errors.New("which host? give its name")
	}
	l, err := Open(c.String("dir"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no lab in %s: start one with lab up %s", c.String("dir"), c.Args().First())
	}
	if err != nil {
		return nil, err
	}
	name, instance, several := strings.Cut(c.Args().First(), "/")
	h, err := l.Host(name)
	if err != nil || !several {
		return h, err
	}
	return h.instance(instance)
}

func upCommand(c *cli.Context) error {
	if c.NArg() == 0 {
		return errors.New("which hosts? as in: lab up chavez peltier")
	}
	l, err := Up(c.Context, c.String("dir"), c.Args().Slice()...)
	if err != nil {
		return err
	}
	if err := listCommand(c); err != nil {
		return err
	}
	name := c.Args().First()
	at := ""
	if c.IsSet("dir") {
		at = "--dir " + l.Dir + " "
	}
	fmt.Fprintf(c.App.Writer, `
log in        ssh -F %s %s        (or admin@%s, who has sudo)
spoolsweep    go run ./cmd/spoolsweep --inventory %s --known-hosts %s ping
flood         go run ./cmd/lab %sinject -n 1000 %s
look          go run ./cmd/lab %saudit %s
end           go run ./cmd/lab %sdown
`, l.SSHConfig(), name, name, l.Inventory(), l.KnownHosts(), at, name, at, name, at)
	return nil
}

func listCommand(c *cli.Context) error {
	l, err := Open(c.String("dir"))
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(c.App.Writer, "no lab in %s\n", c.String("dir"))
		return nil
	}
	if err != nil {
		return err
	}
	hosts, err := l.Hosts()
	if err != nil {
		return err
	}
	for _, h := range hosts {
		state, err := h.state()
		if err != nil {
			return err
		}
		condition := "down"
		if init, err := h.init(); err == nil {
			condition = fmt.Sprintf("up, process %d", init.pid)
		}
		fmt.Fprintf(c.App.Writer, "%-12s %-12s %-8s %s\n", h.Name, h.Address, state, condition)
	}
	return nil
}

func floodCommand(c *cli.Context) error {
	h, err := hostArgument(c)
	if err != nil {
		return err
	}
	return h.Flood(State(c.Args().Get(1)))
}

func linkCommand(c *cli.Context) error {
	h, err := hostArgument(c)
	if err != nil {
		return err
	}
	switch c.Args().Get(1) {
	case "up":
		return h.LinkUp()
	case "down":
		return h.LinkDown()
	}
	return errors.New("link up or down?")
}

func injectCommand(c *cli.Context) error {
	h, err := hostArgument(c)
	if err != nil {
		return err
	}
	seed := c.Uint64("seed")
	if !c.IsSet("seed") {
		ids, err := h.Injected()
		if err != nil {
			return err
		}
		seed = uint64(len(ids))
	}
	account := c.String("account")
	if !strings.Contains(account, "@") {
		account += "@" + h.Name + ".lab.test"
	}
	messages := Flood(account, c.Int("n"), seed)
	if err := h.Inject(c.Context, messages); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "%d messages injected into %s\n", len(messages), h.Name)
	return nil
}

func auditCommand(c *cli.Context) error {
	h, err := hostArgument(c)
	if err != nil {
		return err
	}
	a, err := h.Audit(c.Context)
	if err != nil {
		return err
	}
	ids, err := h.Injected()
	if err != nil {
		return err
	}
	a.print(c.App.Writer, ids)
	return nil
}

func (a Audit) print(w io.Writer, injected []string) {
	count := a.Count()
	for _, dir := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(w, "%-28s %7d\n", dir, count[dir])
	}
	for _, sum := range []struct {
		name string
		n    int
	}{
		{"injected", len(injected)}, {"lost", len(a.Lost(injected))}, {"twice", len(a.Twice())},
		{"incomplete", len(a.Incomplete)}, {"unreadable", len(a.Unreadable)}, {"without id", len(a.Foreign)},
	} {
		fmt.Fprintf(w, "%-28s %7d\n", sum.name, sum.n)
	}
}

func execCommand(c *cli.Context) error {
	h, err := hostArgument(c)
	if err != nil {
		return err
	}
	argv := c.Args().Tail()
	if len(argv) > 0 && argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		argv = []string{"bash", "-l"}
	}
	cmd := h.Command(context.Background(), argv...)
	if cmd.Err != nil {
		return cmd.Err
	}
	nsenter, err := exec.LookPath(cmd.Path)
	if err != nil {
		return err
	}
	// Become it: the terminal, the signals and the exit status are then its own.
	return syscall.Exec(nsenter, cmd.Args, append(cmd.Env, "TERM=xterm"))
}
