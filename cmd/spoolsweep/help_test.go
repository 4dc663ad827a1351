package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/urfave/cli/v2"

	"spoolsweep/playbooks"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/stage"
)

// shellWords splits a line as a shell does, as far as help texts need it.
func shellWords(line string) []string {
	var words []string
	var word strings.Builder
	in, quoted := false, false
	for _, r := range line {
		switch {
		case r == '\'':
			quoted, in = !quoted, true
		case r == ' ' && !quoted:
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteRune(r)
			in = true
		}
	}
	if in {
		words = append(words, word.String())
	}
	return words
}

// Every example of a help text is one that is accepted as it stands.
func TestHelpExamples(t *testing.T) {
	app := newApp(nil, io.Discard, io.Discard)
	examples := strings.Split(app.UsageText, "\n")
	for _, c := range app.Commands {
		if c.UsageText == "" {
			t.Errorf("%s has no example", c.Name)
		}
		for line := range strings.Lines(c.UsageText) {
			line = strings.TrimSpace(line)
			if !strings.HasPrefix(line, "spoolsweep "+c.Name) {
				t.Errorf("%s: %q is not an example of it", c.Name, line)
			}
			examples = append(examples, line)
		}
	}
	if len(examplesOf(readme(t))) == 0 {
		t.Error("README has no examples")
	}
	for _, line := range documented(t) {
		examples = append(examples, "spoolsweep "+line)
	}
	for _, line := range examples {
		line, _, _ = strings.Cut(line, "   ") // what it is for
		var called *cli.Context
		var stderr bytes.Buffer
		app := newApp(nil, io.Discard, &stderr)
		for _, c := range app.Commands {
			c.Action = func(c *cli.Context) error { called = c; return nil }
		}
		if status := inProcess(t.Context(), app, shellWords(line)...); status != 0 || called == nil {
			t.Errorf("%s: status %d, %s", line, status, stderr.String())
			continue
		}
		if n := called.NArg(); n > 0 && called.Command.ArgsUsage == "" {
			t.Errorf("%s: takes no argument, has %d", line, n)
		}
		if called.Command.Name == "run" {
			if _, err := playbooks.Load(called.Args().First()); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		for _, m := range called.StringSlice("match") {
			if _, err := pattern.ParseFlag(m); err != nil {
				t.Errorf("%s: -m %s: %v", line, m, err)
			}
		}
	}
}

// The rules in the help of run may be copied to a file.
func TestHelpRules(t *testing.T) {
	_, rules, ok := strings.Cut(runCommand().Description, "-e @rules.yaml:\n")
	if !ok {
		t.Fatal("the help of run shows no rules")
	}
	for _, text := range []string{rules, demoRules} {
		file := filepath.Join(t.TempDir(), "rules.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		extra, err := playbooks.ParseExtra([]string{"@" + file})
		if err != nil {
			t.Errorf("%v in\n%s", err, text)
			continue
		}
		args := stage.ClassifyArgs{Spam: extra.Values["spam"], Ham: extra.Values["ham"]}
		if err := args.Check(); err != nil || args.Spam == nil {
			t.Errorf("%v in\n%s", err, text)
		}
	}
}

// A help text fits a terminal of 80 columns, but for examples, which are one line each
// to be copied.
func TestHelpFits(t *testing.T) {
	t.Parallel()
	for _, c := range append(visible(newApp(nil, io.Discard, io.Discard)), &cli.Command{}) {
		var out bytes.Buffer
		args := []string{"spoolsweep", c.Name, "--help"}
		if c.Name == "" {
			args = []string{"spoolsweep", "--help"}
		}
		if status := inProcess(t.Context(), newApp(nil, &out, io.Discard), args...); status != 0 {
			t.Errorf("%s: status %d", c.Name, status)
		}
		for line := range strings.Lines(out.String()) {
			example := regexp.MustCompile(`^ {3,5}(spoolsweep|ANSIBLE_\w+=|ansible-galaxy)`).MatchString(line)
			if line = strings.TrimSuffix(line, "\n"); utf8.RuneCountInString(line) > helpWidth && !example {
				t.Errorf("%s: %q", c.Name, line)
			}
		}
		if c.Name != "" && !strings.Contains(out.String(), "\n   -h, --help\n         show help") {
			t.Errorf("%s: its flags are not shown:\n%s", c.Name, out.String())
		}
	}
}

// A flag is explained once, and names its value where it has one.
func TestHelpFlags(t *testing.T) {
	for _, c := range newApp(nil, io.Discard, io.Discard).Commands {
		var names []string
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				if slices.Contains(names, name) {
					t.Errorf("%s: two flags are called %s", c.Name, name)
				}
				names = append(names, name)
			}
			usage := f.(cli.DocGenerationFlag).GetUsage()
			if _, boolean := f.(*cli.BoolFlag); usage == "" || !boolean && !regexp.MustCompile("`[A-Z]+(=[A-Z]+|:[A-Z]+)?`").MatchString(usage) {
				t.Errorf("%s: %s: %q names no value", c.Name, f.Names()[0], usage)
			}
		}
	}
}

// Tests run many command lines in one process at the same time.
func TestManyAtOnce(t *testing.T) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				app := newApp(strings.NewReader(""), io.Discard, io.Discard)
				if status := inProcess(t.Context(), app, "spoolsweep", "stages"); status != 0 {
					t.Errorf("got status %d", status)
				}
			}
		})
	}
	all.Wait()
}
