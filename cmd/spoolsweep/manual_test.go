package main

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab/needs"
)

// The reference is a golden file, which the README leads to:
//
//	go test ./cmd/spoolsweep -run Reference -update
func TestReferencePage(t *testing.T) {
	got := commandsPage(newApp(nil, io.Discard, io.Discard))
	const file = "docs/commands.md"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s is old (-update writes it anew):\n%s", file, diff)
	}
}

// Every flag and every line of help is in both manuals, as it is told.
func TestManualIsWhole(t *testing.T) {
	app := newApp(nil, io.Discard, io.Discard)
	pages, page := manPages(app), commandsPage(app)
	oneLine := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	for _, c := range visible(app) {
		man := pages["spoolsweep-"+c.Name+".1"]
		filled := strings.ReplaceAll(oneLine(man), `\&`, "")
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				if !strings.Contains(page, "`"+dashed(name)) {
					t.Errorf("%s: %s is not in the reference", c.Name, dashed(name))
				}
				if !strings.Contains(man, `\fB`+roff(dashed(name))+`\fR`) {
					t.Errorf("%s: %s is not in the manual page", c.Name, dashed(name))
				}
			}
		}
		for line := range strings.Lines(c.UsageText) {
			if line = strings.TrimSpace(line); !strings.Contains(page, "    "+line+"\n") || !strings.Contains(man, roff(line)+"\n") {
				t.Errorf("%s: the example %q is missing", c.Name, line)
			}
		}
		for line := range strings.Lines(c.Description) {
			if !strings.Contains(filled, roff(oneLine(line))) {
				t.Errorf("%s: the manual page lacks %q", c.Name, line)
			}
		}
	}
}

// No manual page makes a formatter complain, and what they show is what help says:
// no character of it means something to roff.
func TestManPages(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1764288000")
	dir := filepath.Join(t.TempDir(), "man", "man1")
	execs(t, "manual", "--man", dir).want(t, 0)
	execs(t, "manual", "--man", dir).want(t, 0) // once more, over them
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) != 1+len(visible(newApp(nil, io.Discard, io.Discard))) {
		t.Fatalf("%v, %v", files, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "spoolsweep-run.1"))
	if err != nil || !strings.HasPrefix(string(text), ".TH SPOOLSWEEP\\-RUN 1 2025-11-28 spoolsweep\n") {
		t.Errorf("%v: %.80q", err, text)
	}
	mandoc := needs.Program(t, "mandoc")
	if out, err := exec.CommandContext(t.Context(), mandoc, append([]string{"-T", "lint"}, files...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
	groff := needs.Program(t, "groff")
	for _, file := range files {
		cmd := exec.CommandContext(t.Context(), groff, "-man", "-ww", "-Tascii", "-P-cbou", "-rHY=0", file)
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil || complaints.Len() > 0 {
			t.Errorf("groff: %v\n%s", err, complaints.Bytes())
		}
		shown := strings.Join(strings.Fields(out.String()), " ")
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "spoolsweep-"), ".1")
		c := newApp(nil, io.Discard, io.Discard).Command(name)
		if c == nil {
			continue // the page of the whole
		}
		for line := range strings.Lines(c.Description + "\n" + c.UsageText) {
			if line = strings.Join(strings.Fields(line), " "); !strings.Contains(shown, line) {
				t.Errorf("%s does not show %q", name, line)
			}
		}
	}
}

func TestBlocksOf(t *testing.T) {
	got := blocksOf("One\ntwo.\n\nThree:\n\n  a b\n\n    c\n\nFour\n  d\nfive\n")
	want := []block{{"One\ntwo.", false}, {"Three:", false}, {"a b\n\n  c", true}, {"Four", false}, {"d", true}, {"five", false}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(block{})); diff != "" {
		t.Error(diff)
	}
}

func TestRoff(t *testing.T) {
	for text, want := range map[string]string{
		".TH x":     "\\&.TH x\n",
		"'x' \\n":   "\\&\\(aqx\\(aq \\en\n",
		"a\n.b\n-c": "a\n\\&.b\n\\-c\n",
		`"^~` + "`": "\\(dq\\(ha\\(ti\\(ga\n",
	} {
		if got := roffLines(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestManualPages(t *testing.T) {
	execs(t, "manual", "incident").want(t, 0, "Never")
	execs(t, "manual", "troubleshooting").want(t, 0, "HOST KEY CHANGED")
	execs(t, "manual", "accounts").want(t, 0, "usermod -L --")
	execs(t, "manual").want(t, 0, "## run")
	for args, says := range map[string]string{"incidnt": `did you mean "incident"`, "a b": "one page at most", "incident --man d": "one page at most", "../manual.go": "no page"} {
		execs(t, append([]string{"manual"}, strings.Fields(args)...)...).want(t, statusUsage, says)
	}
	for args, says := range map[string]string{"": "one shell is wanted: bash, fish, zsh", "csh": "one shell", "bash zsh": "one shell"} {
		execs(t, append([]string{"completion"}, strings.Fields(args)...)...).want(t, statusUsage, says)
	}
}

// The page for the wall is one page, as lp prints text: 66 lines of 10 points, and
// the fewer that A4 and Letter both have.
func TestIncidentIsOnePage(t *testing.T) {
	text, err := docs.ReadFile("docs/incident.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) > 66 {
		t.Errorf("%d lines", len(lines))
	}
	for i, line := range lines {
		if utf8.RuneCountInString(line) > 88 {
			t.Errorf("line %d is too long: %q", i+1, line)
		}
	}
}

// source is the text of the program that people meet: all of it but tests.
func source(t *testing.T) []string {
	t.Helper()
	var lines []string
	for _, root := range []string{".", "../../remote", "../../playbooks", "../../spool"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && slices.Contains([]string{"testdata", "lab", "practice", "sshtest"}, d.Name()):
				return filepath.SkipDir
			}
			if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			lines = append(lines, strings.Split(string(text), "\n")...)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return lines
}

// Each message that troubleshooting explains is one that the program has: what
// stands between names and numbers is on one line of its source, in that order.
func TestTroubleshootingMessages(t *testing.T) {
	text, err := docs.ReadFile("docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := regexp.MustCompile("(?m)^### (.*)$").FindAllStringSubmatch(string(text), -1)
	if len(headings) < 40 {
		t.Errorf("only %d messages were found", len(headings))
	}
	lines := source(t)
	for _, h := range headings {
		message := strings.Trim(h[1], "`")
		if len(message) != len(h[1])-2 {
			t.Errorf("%q quotes no message", h[1])
			continue
		}
		if !slices.ContainsFunc(lines, func(line string) bool { return holds(line, strings.Split(message, "…")) }) {
			t.Errorf("no line of the program says %q", message)
		}
	}
}

// holds says whether the parts stand in a line one after the other.
func holds(line string, parts []string) bool {
	for _, part := range parts {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		i := strings.Index(line, part)
		if i < 0 {
			return false
		}
		line = line[i+len(part):]
	}
	return true
}

// The manual names the variables of the environment that are read, and no others.
func TestEnvironmentIsTold(t *testing.T) {
	var told []string
	for _, d := range environment {
		told = append(told, strings.Split(d.name, ", ")...)
	}
	read := map[string]bool{inventoryVariable: true, configVariable: true, agentVariable: true, notifyVariable: true}
	get := regexp.MustCompile(`os\.(?:Getenv|LookupEnv)\("([A-Z_]+)"\)`)
	for _, line := range source(t) {
		for _, m := range get.FindAllStringSubmatch(line, -1) {
			read[m[1]] = true
		}
	}
	// What every program goes by is not told, nor what tests and the demo set, nor
	// what is for those who make packages, nor Postfix's own on a host.
	for _, usual := range []string{"HOME", "PATH", "SHELL", "USER", "SUDO_USER", "SPOOLSWEEP_PRACTICE", "SPOOLSWEEP_LAB", "SOURCE_DATE_EPOCH", "MAIL_CONFIG"} {
		delete(read, usual)
	}
	for name := range read {
		if !slices.Contains(told, name) {
			t.Errorf("%s is read, and not told", name)
		}
	}
	for _, name := range told {
		if !read[name] {
			t.Errorf("%s is told, and not read", name)
		}
	}
}
