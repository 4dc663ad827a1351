// Spoolsweep clears flooded Postfix queues on many mail servers at once, from
// the admin's laptop, without losing a message.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks/strict"
	"spoolsweep/remote/agent"
	"spoolsweep/spool/practice"
)

func main() {
	// For practice the pushed agent is this very program. Its name is asked of
	// the system, not of argv[0], which the caller chooses.
	if code, mine := practice.Main(os.Args[1:]); mine {
		os.Exit(code)
	}
	if file, err := os.Executable(); err == nil && strings.HasPrefix(filepath.Base(file), agentName) {
		os.Exit(practiceMain())
	}
	app := newApp(os.Stdin, os.Stdout, os.Stderr)
	ctx, stop := signals(app)
	status := execute(ctx, app, os.Args)
	stop()
	os.Exit(status)
}

// interrupts is the key of the app's metadata where a chan struct{} passes on
// each Ctrl-C to whoever listens just then.
const interrupts = "interrupts"

// signals has SIGTERM end the context, and SIGINT too where nobody listens for it.
func signals(app *cli.App) (ctx context.Context, stop func()) {
	listens := make(chan struct{})
	app.Metadata[interrupts] = listens
	ctx, cancel := context.WithCancel(context.Background())
	caught := make(chan os.Signal, 4)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM)
	go func() { // ends with stop
		for sig := range caught {
			if sig == syscall.SIGINT {
				select {
				case listens <- struct{}{}:
					continue
				default:
				}
			}
			cancel()
		}
	}()
	return ctx, func() {
		signal.Stop(caught)
		close(caught)
		cancel()
	}
}

const agentName = "spoolsweep-agent"

// practiceMain is what the program does under the agent's name: it is the
// agent of a practice host, and nothing of a real one.
func practiceMain() int { return agent.Main(os.Args[1:], practiceMaker) }

// Exit statuses; those of hosts are the document's.
const (
	statusUsage       = 1
	statusInterrupted = 130
)

// agentSource is the key of the app's metadata where a *push.Source stands in
// for the usual one: the demo's, which pushes this very program.
const agentSource = "agent source"

// practiseKey is there where the hosts are the demo's: see sweep.practising.
const practiseKey = "practise"

// exit ends a command with a status whose reason was printed already.
type exit int

func (e exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// execute runs one command line and returns the exit status. It is where errors
// become statuses, and nowhere else.
func execute(ctx context.Context, app *cli.App, args []string) int {
	if len(args) > 0 {
		args = permute(app, args)
	}
	failed := app.RunContext(ctx, args)
	err := app.ErrWriter
	var status exit
	switch {
	case failed == nil:
		return 0
	case errors.As(failed, &status):
		return int(status)
	case errors.Is(failed, context.Canceled):
		fmt.Fprintln(err, "spoolsweep: interrupted")
		return statusInterrupted
	}
	if topic, ok := strings.CutPrefix(failed.Error(), "No help topic for '"); ok { // cli/v2's help command
		failed = noCommand(app, strings.TrimSuffix(topic, "'"))
	}
	fmt.Fprintln(err, "spoolsweep:", show.Clean(unwrapped(failed)))
	return statusUsage
}

func newApp(in io.Reader, out, err io.Writer) *cli.App {
	return &cli.App{
		Name:  "spoolsweep",
		Usage: "clear flooded Postfix queues on many hosts at once, without losing mail",
		UsageText: `spoolsweep demo                                  all of it, on practice hosts
spoolsweep run backscatter -l chavez             set aside; mail flows again
spoolsweep suggest --aside RUN -o yaml           find rules
spoolsweep classify --aside RUN -e @rules.yaml   try them
spoolsweep resume RUN -e @rules.yaml             send the ham on its way
spoolsweep manual incident                       what to type, to be printed`,
		Description: `Exit status: 0 done, or nothing to do; 1 bad usage or input, nothing was done;
2 a host failed; 4 a host was unreachable (2 and 4 add up to 6); 3 all is well
and the run waits, for rules or a confirmation; 130 interrupted.`,
		Commands: []*cli.Command{
			pingCommand(), healthCommand(), serveCommand(),
			runCommand(), resumeCommand(), attachCommand(),
			suspectsCommand(), sampleCommand(), suggestCommand(), classifyCommand(), findCommand(), putbackCommand(),
			runsCommand(), reportCommand(), purgeCommand(), deleteCommand(), holdCommand(), releaseCommand(), requeueCommand(), exportCommand(),
			planCommand(), agentCommand(), collectionCommand(), inventoryCommand(), stagesCommand(), schemaCommand(), uninstallCommand(), versionCommand(), demoCommand(),
			manualCommand(), completionCommand(), completeCommand(),
		},
		Reader: in, Writer: out, ErrWriter: err,
		Metadata:                  map[string]any{},
		HideVersion:               true,
		UseShortOptionHandling:    true,
		DisableSliceFlagSeparator: true, // a comma in a pattern splits nothing
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              usageError,
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return noCommand(c.App, name)
			}
			return errors.Join(cli.ShowAppHelp(c), exit(statusUsage))
		},
	}
}

func usageError(c *cli.Context, err error, _ bool) error {
	name := "spoolsweep"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "spoolsweep" {
		name += " " + c.Command.Name
	}
	if flag, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -"); ok {
		var known []string
		for _, f := range c.Command.Flags {
			known = append(known, f.Names()...)
		}
		flag = strings.TrimLeft(flag, "-")
		err = fmt.Errorf("no flag %q%s", flag, didYouMean("--", flag, known))
	} else if c.Command != nil {
		err = badFlag(c.Command, err)
	}
	return fmt.Errorf("%w: see %s --help", err, name)
}

func noCommand(app *cli.App, name string) error {
	var known []string
	for _, command := range visible(app) {
		known = append(known, command.Names()...)
	}
	return fmt.Errorf("no command %q%s: see spoolsweep --help", name, didYouMean("", name, known))
}

func didYouMean(before, word string, known []string) string {
	known = slices.DeleteFunc(known, func(k string) bool { return len(k) < 2 })
	if near := strict.Nearest(word, known); near != "" {
		return fmt.Sprintf(", did you mean %q?", before+near)
	}
	return ""
}

// permute moves flags to where cli/v2 looks for them, behind the command and
// before its arguments: with Ansible and GNU tools they may stand anywhere.
func permute(app *cli.App, args []string) []string {
	at := 1
	for ; at < len(args) && app.Command(args[at]) == nil; at++ {
		if len(args[at]) < 2 || args[at][0] != '-' {
			return args
		}
		if needsValue(app.Commands, args[at]) {
			at++
		}
	}
	if at >= len(args) {
		return args
	}
	command := []*cli.Command{app.Command(args[at])}
	flags := slices.Clone(args[1:at])
	var rest []string
	for i := at + 1; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			rest = append(rest, args[i+1:]...)
			i = len(args)
		case len(a) < 2 || a[0] != '-':
			rest = append(rest, a)
		default:
			flags = append(flags, a)
			if !needsValue(command, a) {
				continue
			}
			if i++; i == len(args) { // forgotten: no word of ours may take its place
				return append([]string{args[0], args[at]}, flags...)
			}
			flags = append(flags, args[i])
		}
	}
	out := append([]string{args[0], args[at]}, flags...)
	return append(append(out, "--"), rest...)
}

// needsValue says whether the argument after arg is the value of a flag of any
// of the commands.
func needsValue(commands []*cli.Command, arg string) bool {
	name := strings.TrimLeft(arg, "-")
	if name == "" || strings.Contains(name, "=") {
		return false
	}
	if !strings.HasPrefix(arg, "--") {
		name = name[len(name)-1:] // of a bundle the last may take a value
	}
	for _, c := range commands {
		for _, f := range c.Flags {
			if _, boolean := f.(*cli.BoolFlag); !boolean && slices.Contains(f.Names(), name) {
				return true
			}
		}
	}
	return false
}
