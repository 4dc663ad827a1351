package main

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// The scripts ask the program itself what may stand at the cursor, so that they
// know no command and no flag, and need not change with those.
var (
	//go:embed completion/bash
	bashScript string
	//go:embed completion/zsh
	zshScript string
	//go:embed completion/fish
	fishScript string
)

var shells = map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}

func shellNames() []string { return slices.Sorted(maps.Keys(shells)) }

func completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Usage: "print what has a shell complete command lines", ArgsUsage: "bash|zsh|fish",
		UsageText: `spoolsweep completion bash
spoolsweep completion zsh
spoolsweep completion fish`,
		Description: `Commands, flags and their values are completed, playbooks, and behind -l the hosts
and groups of the inventory. For this shell, or as a line of ~/.bashrc, ~/.zshrc
(behind compinit) or ~/.config/fish/config.fish:

  eval "$(spoolsweep completion bash)"
  eval "$(spoolsweep completion zsh)"
  spoolsweep completion fish | source

The program must be found in PATH. No host is reached, and nothing is asked. The
inventory is the one that -i on the line names, or that would be used without it.
It is read from files alone: a program that is a dynamic inventory is not run, and
what ansible-vault encrypted stays closed. A name that a shell would not take as
it stands is not offered.`,
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			script, ok := shells[c.Args().First()]
			if !ok || c.NArg() != 1 {
				return usageError(c, fmt.Errorf("one shell is wanted: %s", strings.Join(shellNames(), ", ")), false)
			}
			_, err := fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

// completeLimit ends a completion whose inventory cannot be read at once, as on a
// file system that is gone: somebody waits for the next key to show.
const completeLimit = 2 * time.Second

// completeCommand is what the scripts call.
func completeCommand() *cli.Command {
	return &cli.Command{
		Name: "__complete", Hidden: true, Usage: "what may stand in place of the last word", ArgsUsage: "SHELL WORD...",
		UsageText: `spoolsweep __complete fish -- spoolsweep run -l cha
spoolsweep __complete bash -- 'spoolsweep run -l cha' ' =:@'`,
		Description: `Of bash the line up to the cursor is given, and where it begins a new word; of
the others the words. The first line says what else the shell may offer: words
(nothing), files or folders, and how many bytes of the word stand before their
name. Then come the words that may stand there, each with a tab and what it is.`,
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			args := c.Args().Slice()
			if len(args) < 3 {
				return usageError(c, errors.New("a shell and a line are wanted"), false)
			}
			found := make(chan completions, 1)
			go func() { // ends with the process
				switch last := len(args) - 1; args[0] {
				case "bash":
					found <- completeBash(c.App, args[1], args[2])
				case "fish": // gives the last one with its quotes, and adds what those want by itself
					_, word := splitTyped(args[last], "")
					found <- complete(c.App, append(slices.Clone(args[1:last]), word.text))
				default:
					found <- complete(c.App, args[1:])
				}
			}()
			select {
			case these := <-found:
				_, err := fmt.Fprint(c.App.Writer, these)
				return err
			case <-time.After(completeLimit):
			case <-c.Context.Done():
			}
			return nil
		},
	}
}

// completions are what may stand in place of a word.
type completions struct {
	words  []completed
	paths  string // what else may stand there: files, folders, or "" for nothing
	before int    // bytes of the word that stand before the path
}

type completed struct{ word, about string }

const (
	anyFile   = "files"
	anyFolder = "folders"
)

// String is what the scripts read.
func (c completions) String() string {
	paths := c.paths
	if paths == "" {
		paths = "words"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d\n", paths, c.before)
	for _, w := range c.words {
		fmt.Fprintf(&b, "%s\t%s\n", w.word, w.about)
	}
	return b.String()
}

// after are the same ones for a word with something before them.
func (c completions) after(prefix string) completions {
	for i := range c.words {
		c.words[i].word = prefix + c.words[i].word
	}
	c.before += len(prefix)
	return c
}

// completeBash is complete for bash, which replaces only what stands behind the
// last of the bytes breaks, or behind a quote that is open, and puts there what
// it gets, unquoted.
func completeBash(app *cli.App, line, breaks string) completions {
	words, last := splitTyped(line, breaks)
	if len(words) == 0 {
		return completions{}
	}
	c := complete(app, append(words, last.text))
	if !last.plain {
		c.words = nil
		if c.before != last.kept {
			c.paths, c.before = "", last.kept
		}
	}
	c.words = slices.DeleteFunc(c.words, func(w completed) bool { return !strings.HasPrefix(w.word, last.text) })
	for i := range c.words {
		c.words[i].word = c.words[i].word[last.kept:]
	}
	if c.before -= last.kept; c.before < 0 {
		c.paths, c.before = "", 0 // what bash replaces begins within the name: it would take the rest for all of it
	}
	return c
}

// lastWord is the word at the cursor.
type lastWord struct {
	text string // without quotes
	kept int    // bytes of it that bash keeps as they stand on the line
	// plain says that what bash replaces stands on the line as it is here, and that
	// what it would put there needs no quotes.
	plain bool
}

// splitTyped splits a line that ends at the cursor into the words before it and the one
// there, as bash quotes. Nothing in it is expanded.
func splitTyped(line, breaks string) (words []string, last lastWord) {
	var word []byte
	in := false    // a word has begun
	var quote byte // that is open
	kept := 0      // of word
	plain := true  // since then
	for i := 0; i < len(line); i++ {
		b := line[i]
		switch {
		case quote == '\'' && b != quote, quote == '"' && b != quote && (b != '\\' || i+1 == len(line)):
			word = append(word, b)
		case quote != 0 && b == quote:
			quote, plain = 0, false
		case b == '\\' && i+1 < len(line):
			i++
			if quote != 0 && !strings.ContainsRune("$`\"\\\n", rune(line[i])) {
				word = append(word, b)
			}
			word, in, plain = append(word, line[i]), true, false
		case b == '\'' || b == '"':
			quote, in, kept, plain = b, true, len(word), true
		case b == ' ' || b == '\t' || b == '\n':
			if in {
				words = append(words, string(word))
			}
			word, in, kept, plain = nil, false, 0, true
		default:
			if strings.IndexByte(breaks, b) >= 0 {
				kept, plain = len(word)+1, true
				if b == '@' || b == '$' { // these belong to what comes then (rl_special_prefixes)
					kept--
				}
			}
			word, in = append(word, b), true
		}
	}
	last = lastWord{text: string(word), kept: kept, plain: plain}
	if quote == 0 && strings.ContainsFunc(last.text[kept:], isSpecial) {
		last.plain = false
	}
	return words, last
}
