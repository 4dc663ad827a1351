package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/schema"
	"spoolsweep/playbooks"
	"spoolsweep/remote"
	"spoolsweep/remote/inventory"
	"spoolsweep/remote/push"
	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// complete says what may stand in place of the last of the words of a line, of
// which the first is the program's name. The words before it are read as permute
// reads them: flags may stand anywhere.
func complete(app *cli.App, words []string) completions {
	l := &typedLine{app: app, given: map[string][]string{}}
	word := words[len(words)-1]
	if !l.read(words[1 : len(words)-1]) {
		return completions{}
	}
	name, value, assigned := strings.Cut(word, "=")
	switch {
	case l.waits != nil:
		return l.value(l.waits, word)
	case l.command == nil && strings.HasPrefix(word, "-"):
		return matching(word, completed{"--help", "show the commands"})
	case l.command == nil:
		return matching(word, commandsOf(app)...)
	case l.ended || !strings.HasPrefix(word, "-"):
		return l.argument(word)
	case !assigned:
		return matching(word, l.flags()...)
	}
	if f := flagOf(l.command, name); f != nil && needsValue([]*cli.Command{l.command}, name) {
		return l.value(f, value).after(name + "=")
	}
	return completions{}
}

// typedLine is what stands before the cursor.
type typedLine struct {
	app     *cli.App
	command *cli.Command
	args    []string
	given   map[string][]string // what flags were given, by their first names
	waits   cli.Flag            // wants the word at the cursor as its value
	ended   bool                // -- was given: no flags any more
}

// read returns false where nothing can be said about what comes next.
func (l *typedLine) read(words []string) bool {
	for i := 0; i < len(words); i++ {
		a := words[i]
		switch {
		case l.ended || len(a) < 2 || a[0] != '-':
			if l.command != nil {
				l.args = append(l.args, a)
			} else if l.command = l.app.Command(a); l.command == nil {
				return false
			}
			continue
		case a == "--":
			l.ended = true
			continue
		}
		among := l.app.Commands // a flag may stand before its command
		if l.command != nil {
			among = []*cli.Command{l.command}
		}
		name, value, _ := strings.Cut(a, "=")
		var f cli.Flag
		for _, c := range among {
			if f = flagOf(c, name); f != nil {
				break
			}
		}
		if needsValue(among, a) {
			if i++; i == len(words) {
				l.waits = f
				return l.command != nil
			}
			value = words[i]
		}
		if f != nil {
			l.given[f.Names()[0]] = append(l.given[f.Names()[0]], value)
		}
	}
	return true
}

// flagOf is the flag that -x, --name or the last of a bundle -abx means.
func flagOf(c *cli.Command, arg string) cli.Flag {
	name := strings.TrimLeft(arg, "-")
	if !strings.HasPrefix(arg, "--") && name != "" {
		name = name[len(name)-1:]
	}
	i := slices.IndexFunc(c.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
	if i < 0 {
		return nil
	}
	return c.Flags[i]
}

func matching(word string, all ...completed) completions {
	return completions{words: slices.DeleteFunc(all, func(c completed) bool { return !strings.HasPrefix(c.word, word) })}
}

// plainly are words whose purpose is the same.
func plainly(about string, words ...string) []completed {
	var all []completed
	for _, w := range words {
		all = append(all, completed{w, about})
	}
	return all
}

func commandsOf(app *cli.App) []completed {
	var all []completed
	for _, c := range visible(app) {
		all = append(all, completed{c.Name, c.Usage})
	}
	return all
}

// flags are those of the command, but for what was given and may be given once.
func (l *typedLine) flags() []completed {
	all := []completed{{"--help", "show what the command does"}}
	for _, f := range l.command.Flags {
		if _, again := f.(*cli.StringSliceFlag); !again && l.given[f.Names()[0]] != nil {
			continue
		}
		for _, name := range f.Names() {
			all = append(all, completed{dashed(name), aboutFlag(f)})
		}
	}
	return all
}

func dashed(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// aboutFlag is the first part of what a flag's help says, for one line of a menu.
func aboutFlag(f cli.Flag) string {
	text := strings.ReplaceAll(f.(cli.DocGenerationFlag).GetUsage(), "`", "")
	if i := strings.IndexAny(text, ";("); i > 0 {
		text = text[:i]
	}
	if len(text) > aboutWidth {
		text = text[:strings.LastIndexByte(text[:aboutWidth], ' ')] + " ..."
	}
	return strings.TrimSpace(text)
}

// aboutWidth leaves room for the flag in 80 columns.
const aboutWidth = 56

// argument completes what is no flag.
func (l *typedLine) argument(word string) completions {
	if len(l.args) > 0 || l.command.ArgsUsage == "" {
		return completions{}
	}
	switch l.command.Name {
	case "run", "plan":
		c := matching(word, plainly("playbook", playbooks.Shipped()...)...)
		c.paths = anyFile
		return c
	case "agent":
		return matching(word, plainly("architecture", push.Architectures...)...)
	case "stages":
		return matching(word, plainly("stage", stage.Names()...)...)
	case "schema":
		return matching(word, plainly("schema", schema.Names()...)...)
	case "completion":
		return matching(word, plainly("shell", shellNames()...)...)
	case "manual":
		return matching(word, plainly("page", pageNames()...)...)
	case "inventory":
		groups, _ := l.inventory()
		return matching(word, groups...)
	}
	return completions{}
}

// value completes the value of a flag.
func (l *typedLine) value(f cli.Flag, word string) completions {
	switch name := f.Names()[0]; name {
	case "limit":
		return l.limit(word)
	case "host":
		_, hosts := l.inventory()
		return matching(word, hosts...)
	case "output":
		if l.command.Name == "agent" {
			return completions{paths: anyFile}
		}
		formats := []string{"text", "json"}
		if flagOf(l.command, "--limit") != nil {
			formats = append(formats, "jsonl")
		}
		if own := ownFormat[l.command.Name]; own != "" {
			formats = append(formats, own)
		}
		return matching(word, plainly("format", formats...)...)
	case "transport":
		return matching(word, plainly("", transportBuiltin, transportOpenSSH)...)
	case "host-key-checking":
		return matching(word, plainly("", checkStrict, acceptNew)...)
	case "become-method":
		return matching(word, plainly("program", remote.BecomeMethods...)...)
	case "expired":
		return matching(word, plainly("", "leave", "requeue", "send")...)
	case "queue":
		return matching(word, plainly("queue", liveQueues()...)...)
	case "adopt": // a folder of the host's, not one here
		var all []string
		for _, q := range liveQueues() {
			all = append(all, q+".spamfull")
		}
		return matching(word, plainly("set aside by hand", all...)...)
	case "match":
		return matching(word, plainly("field", matchFields...)...)
	case notifyName:
		if strings.HasPrefix(word, "@") {
			return completions{paths: anyFile, before: 1}
		}
	case "extra-vars":
		if strings.HasPrefix(word, "@") {
			return completions{paths: anyFile, before: 1}
		}
		return matching(word, l.variables()...)
	case "ssh-config":
		c := matching(word, completed{"none", "no file"})
		c.paths = anyFile
		return c
	}
	switch placeholder.FindString(f.(cli.DocGenerationFlag).GetUsage()) {
	case "`FILE`":
		return completions{paths: anyFile}
	case "`DIR`":
		return completions{paths: anyFolder}
	}
	return completions{}
}

var placeholder = regexp.MustCompile("`[^`]*`")

// liveQueues are those that mail may be set aside from.
func liveQueues() []string {
	var all []string
	for _, q := range spool.Queues {
		if q != spool.Corrupt {
			all = append(all, string(q))
		}
	}
	return all
}

// matchFields are the fields of -m, each as it is typed there.
var matchFields = []string{
	"raw:", "sender:", "recipient:", "recipient_left:", "sasl_user:", "client:", "header:", "header.", "subject:", "body:", "any:",
	"queue:", "size:", "age:", "recipients:", "recipients_left:", "source_count:",
}

// variables are those of the playbook on the line, or of the one that is used most.
func (l *typedLine) variables() []completed {
	name := playbooks.Shipped()[0]
	if (l.command.Name == "run" || l.command.Name == "plan") && len(l.args) > 0 {
		name = l.args[0]
	}
	var all []completed
	if slices.Contains(playbooks.Shipped(), name) {
		if pb, err := playbooks.Load(name); err == nil {
			for _, v := range pb.Variables() {
				all = append(all, completed{v + "=", "variable of " + name})
			}
		}
	}
	return append(all, completed{"@", "a file of variables"})
}

// limit completes the last part of a pattern.
func (l *typedLine) limit(word string) completions {
	at := strings.LastIndexAny(word, ",:") + 1
	if at > 0 && at < len(word) && strings.ContainsRune("!&", rune(word[at])) {
		at++
	}
	part := word[at:]
	if strings.HasPrefix(part, "@") {
		c := matching(part, plainly("hosts of the last run", "@failed", "@unreachable")...)
		c.paths, c.before = anyFile, 1
		return c.after(word[:at])
	}
	groups, hosts := l.inventory()
	return matching(part, append(groups, hosts...)...).after(word[:at])
}

// inventory are the groups and hosts that the line is about, those that a shell
// would take as they stand: what it completes it does not always quote.
func (l *typedLine) inventory() (groups, hosts []completed) {
	sources, err := inventorySources(l.given["inventory"])
	if err != nil {
		return nil, nil
	}
	for i, path := range sources {
		if rest, ok := strings.CutPrefix(path, "~/"); ok { // the shell has not expanded it yet
			home, err := os.UserHomeDir()
			if err != nil {
				return nil, nil
			}
			sources[i] = filepath.Join(home, rest)
		}
		// To look into a pipe would take from it what the command is to read.
		if info, err := os.Stat(sources[i]); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
			return nil, nil
		}
	}
	inv, _, err := (&inventory.Loader{Raw: true, Names: true}).Load(context.Background(), sources...)
	if err != nil {
		return nil, nil
	}
	for _, g := range inv.Groups() {
		if isPlain(g.Name) {
			groups = append(groups, completed{g.Name, fmt.Sprintf("group, hosts: %d", len(g.Hosts))})
		}
	}
	for _, h := range inv.Hosts() {
		if isPlain(h.Name) {
			hosts = append(hosts, completed{h.Name, "host"})
		}
	}
	return groups, hosts
}

// isPlain says that neither a shell nor a terminal takes any of a name's characters
// for anything but itself, wherever in a word it stands.
func isPlain(name string) bool {
	return !strings.HasPrefix(name, "-") && !strings.ContainsFunc(name, isSpecial)
}

func isSpecial(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("@%+=:,./_-", r) || r == unicode.ReplacementChar
}
