package main

import (
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

// docs are the pages that are written by hand; those of the commands are made from
// the commands.
//
//go:embed docs/accounts.md docs/troubleshooting.md docs/incident.md
var docs embed.FS

// pageNames are the pages beside the reference, each a file of docs.
func pageNames() []string { return []string{"accounts", "incident", "troubleshooting"} }

func manualCommand() *cli.Command {
	return &cli.Command{
		Name: "manual", Usage: "the reference of all commands, what to do by error message, a page for an incident, how accounts are disabled", ArgsUsage: "[accounts|incident|troubleshooting]",
		UsageText: `spoolsweep manual
spoolsweep manual troubleshooting
spoolsweep manual incident
spoolsweep manual accounts
spoolsweep manual --man ~/.local/share/man/man1`,
		Description: `Without a page: every command with its flags, as Markdown. troubleshooting says
what an error message means and what to type then. incident is one page to print
and hang beside the servers: what to type, in order, and what never to do. accounts
has the lines of an inventory by which an account is disabled and enabled again, for
users of the system, Dovecot, PostgreSQL, MariaDB and postfixadmin.

--man writes the reference as manual pages into a folder, which is made if it is
not there: spoolsweep.1, and one for each command, such as spoolsweep-run.1. Pages
of these names that are there are replaced. 'man spoolsweep' finds them where
'manpath' names the folder above man1.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "man", Usage: "write manual pages into `DIR`"},
		},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			page := c.Args().First()
			switch {
			case c.NArg() > 1, c.NArg() == 1 && c.IsSet("man"):
				return usageError(c, errors.New("one page at most, and --man without any"), false)
			case c.IsSet("man"):
				return writeMan(c.App, c.String("man"))
			case page == "":
				_, err := fmt.Fprint(c.App.Writer, commandsPage(c.App))
				return err
			}
			text, err := docs.ReadFile("docs/" + page + ".md")
			if err != nil {
				return usageError(c, fmt.Errorf("no page %q%s: there are %s", page, didYouMean("", page, pageNames()), strings.Join(pageNames(), ", ")), false)
			}
			_, err = c.App.Writer.Write(text)
			return err
		},
	}
}

// writeMan writes all manual pages into a folder, each whole or not at all.
func writeMan(app *cli.App, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, text := range manPages(app) {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file+".new", []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Rename(file+".new", file); err != nil {
			return errors.Join(err, os.Remove(file+".new"))
		}
	}
	return nil
}

// A described thing of the environment, or a file.
type described struct{ name, text string }

var environment = []described{
	{inventoryVariable, "the inventory where no -i names one; several with : or , between them"},
	{configVariable, "the ssh configuration where no --ssh-config names one"},
	{agentVariable, "the agent where no --agent names one"},
	{notifyVariable, "whom to tell where no --notify does: one of what that takes, such as @FILE"},
	{"XDG_CONFIG_HOME, XDG_CACHE_HOME, XDG_STATE_HOME", "folders that take the place of ~/.config, ~/.cache and ~/.local/state below"},
	{"NO_COLOR", "if it is set, as --no-color"},
	{"TERM", "dumb, or nothing: lines are only ever added to what is on the terminal"},
	{"SSH_AUTH_SOCK", "the ssh agent, where the ssh configuration names no other; it is never forwarded"},
}

var usedFiles = []described{
	{"./inventory.yaml, ~/.config/spoolsweep/inventory.yaml", "the inventory where none is named; the one in the current folder only if the file and its folder are yours or root's, and not open to everybody"},
	{"~/.ssh/config, /etc/ssh/ssh_config", "how to reach hosts, as for ssh"},
	{"~/.cache/spoolsweep/agents/", "agents that were built, by the build of this program"},
	{"~/.cache/spoolsweep/hosts.json", "what postconf said on each host, for ping and health, which give it back to the host; it may be removed"},
	{"~/.local/state/spoolsweep/retry/", "the hosts of the last run that failed, and that were unreachable: @failed and @unreachable behind -l"},
	{"~/.local/state/spoolsweep/health.jsonl", "how many messages health saw on each host, for the next time; at most 1 MiB, and it may be removed"},
	{"~/.local/state/spoolsweep/runs/", "runs that were imported here (report --import); the folder of one may be removed, and imported again"},
	{"~/.cache/spoolsweep/ on a host", "the agent there, or in the folder that the host variable agent_directory names"},
	{"/usr/lib/spoolsweep/, /etc/spoolsweep/agent.conf on a host", "the agent of the package spoolsweep-agent, which is taken before any other, and what it may do: spoolsweep-agent(8)"},
	{"/var/lib/spoolsweep/ on a host", "the records of runs, for root alone; elsewhere with the host variable state_directory"},
	{"QUEUE.spamfull, QUEUE.name-collisions on a host", "in Postfix's queue directory: what was set aside, and messages whose queue id was taken when they were to go back"},
}

// statuses are what every command may end with: the app's description, without its
// first words.
func statuses(app *cli.App) string {
	return strings.TrimPrefix(app.Description, "Exit status: ")
}

// block is a part of a help text: a paragraph, or lines that stand as they are.
type block struct {
	text     string
	verbatim bool
}

// blocksOf splits a help text as its writer meant it: empty lines end a paragraph,
// and indented lines are kept.
func blocksOf(text string) []block {
	var all []block
	var lines []string
	verbatim := false
	end := func() {
		if body := strings.TrimRight(strings.Join(lines, "\n"), "\n"); body != "" {
			all = append(all, block{body, verbatim})
		}
		lines = nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		rest, indented := strings.CutPrefix(line, "  ")
		switch {
		case line == "" && !verbatim:
			end()
			continue
		case line != "" && indented != verbatim:
			end()
			verbatim = indented
		}
		if indented {
			line = rest
		}
		lines = append(lines, line)
	}
	end()
	return all
}

// pageFlag is a flag as a manual shows it.
type pageFlag struct {
	names []string // with their dashes, short ones first
	value string   // what it takes, "" for nothing
	text  string
}

func pageFlags(flags []cli.Flag) []pageFlag {
	var all []pageFlag
	for _, f := range flags {
		d := f.(cli.DocGenerationFlag)
		p := pageFlag{text: strings.ReplaceAll(d.GetUsage(), "`", "")}
		for _, name := range f.Names() {
			if len(name) == 1 {
				p.names = append([]string{dashed(name)}, p.names...)
			} else {
				p.names = append(p.names, dashed(name))
			}
		}
		if d.TakesValue() {
			p.value = strings.Trim(placeholder.FindString(d.GetUsage()), "`")
		}
		if value := d.GetValue(); d.TakesValue() && value != "" && value != "0" && value != "[]" && !strings.Contains(p.text, "(default") && !strings.Contains(p.text, "; default") {
			p.text += " (default: " + value + ")"
		}
		all = append(all, p)
	}
	return all
}

// synopsis is how a command is typed.
func synopsis(c *cli.Command) string {
	line := "spoolsweep " + c.Name
	if len(c.Flags) > 0 {
		line += " [FLAG...]"
	}
	if c.ArgsUsage != "" {
		line += " " + c.ArgsUsage
	}
	return line
}

// isCommon says which commands take the flags that all of those have which reach
// hosts; one flag tells.
func isCommon(c *cli.Command) bool { return flagOf(c, "--limit") != nil }

// visible are the commands that a manual is about: not the one for the completion,
// nor the library's help.
func visible(app *cli.App) []*cli.Command {
	var all []*cli.Command
	for _, c := range app.Commands {
		if !c.Hidden && c.Name != "help" {
			all = append(all, c)
		}
	}
	return all
}
