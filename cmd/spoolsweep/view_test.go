package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/practice"
)

// Where nothing is drawn Enter asks too, and a question takes what was typed before
// it, but for empty lines.
func TestEnterTellsWhoIsBusy(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(500)
	s := f.begin(t, true, 0, f.slowly("-e", "max_stopped=0")...)
	s.waitFor(`Do this on 2 of 2`)
	s.types("y")
	s.waitFor(`send \d+ messages.*\[y/N\] `)
	s.types("y")
	s.types("y")
	for _, h := range f.hosts {
		s.waitFor(h.Name + ` +\| restore +restored `)
	}
	s.types("")
	s.waitFor(`^chavez, peltier: restore +\d+ of \d+`)
	s.interrupt()
	s.types("d")
	r := s.end()
	r.want(t, statusInterrupted, "detached, the run goes on on chavez, peltier")
	if strings.ContainsRune(r.err, 0x1b) {
		t.Errorf("escapes where there is no terminal: %q", r.err)
	}
}

// standing is attach, in a terminal, to a crowd of which each stands somewhere.
func (c *crowd) standing(width, height int, variables []string, more ...string) *emulator {
	c.t.Helper()
	return newEmulator(c.t, width, height, variables, append([]string{"attach", "20261128T120000Z-ab12",
		"-i", c.file("hosts.yaml"), "--ssh-config", "none", "--known-hosts", c.file("known_hosts"), "--agent", c.file("agent")}, more...)...)
}

// What mail and hosts may say: what a terminal obeys, characters of two columns and
// of none, and text from right to left.
var foreign = "日本語のメール ｆｕｌｌ e\u0301\u0302 שלום עולם مرحبا " + strings.ReplaceAll(evilText, "\x00", "")

// stands matches a screen of so many columns when each of so many hosts has come to
// where it stands, and all is drawn for that width: a frame that was drawn for
// another one, while the terminal changed, leaves some of it behind.
func stands(hosts, width int) string {
	sums := map[int]string{3: "3 hosts: 2 at work, 1 waiting", 200: "200 hosts: 57 done, 92 at work, 51 waiting"}[hosts]
	rows := map[int]string{3: `restore    205 of 3,000 .*set-aside `, 200: `restore +39,355 of 183,000.*classify +1,500,000 of `}[hosts]
	switch restored := map[int]string{3: "205 of 3,000", 200: "39,355 of 183,000"}[hosts]; {
	case width >= 200:
		sums += "; Postfix down on 1; restore " + restored + `, 69 s left, [\d,]+/s`
	case width >= 80 && hosts == 3:
		sums += "; Postfix down on 1; restore " + restored
	case width >= 80 || hosts == 3:
		sums += "; Postfix down on 1"
	}
	return "(?s)^-- " + sums + "\n.*" + rows
}

// The screens of 3 and of 200 hosts, in a small and a large terminal. The program is
// the real one. The hosts are made of one process, since so many real ones would
// not stand still: what they have told is always the same, the time of day in it
// too, so that times, counts and rates are.
func TestScreens(t *testing.T) {
	t.Parallel()
	needs.Program(t, "tmux")
	for _, hosts := range []int{3, 200} {
		c := newCrowd(t, hosts, "-stands", "-says", foreign)
		calm := newCrowd(t, hosts, "-stands")
		for _, size := range [][2]int{{80, 24}, {200, 50}, {80, 20}} {
			e := c.standing(size[0], size[1], nil)
			screen := e.shows(stands(hosts, size[0]))
			if hosts > 3 { // what is said above comes in another order each time
				screen = viewOf(screen)
			}
			checkGolden(t, fmt.Sprintf("testdata/screens/%dx%d-%d.txt", size[0], size[1], hosts), screen)
			// What was said changes nothing but its own lines.
			if other := calm.standing(size[0], size[1], nil).shows(stands(hosts, size[0])); viewOf(other) != viewOf(screen) {
				t.Errorf("%d hosts, %v: got\n%s\nwhere nothing evil is said\n%s", hosts, size, viewOf(screen), viewOf(other))
			}
			// Made larger and smaller it is drawn anew, and once.
			for _, again := range [][2]int{{200, 50}, {60, 24}, size} {
				e.resize(again[0], again[1])
				e.shows(stands(hosts, again[0]))
			}
			if got := viewOf(e.shows(stands(hosts, size[0]))); got != viewOf(screen) {
				t.Errorf("%d hosts, %v: after it had other sizes\n%s", hosts, size, got)
			}
			if all := e.all(); strings.Count(all, "-- "+fmt.Sprint(hosts)) != 1 || strings.Count(all, "warning: ") != 13 {
				t.Errorf("%d hosts, %v: drawn more than once, or gone:\n%s\nwritten: %q", hosts, size, all, e.bytes())
			}
			// Enter: all that are at work, by name, and it stays.
			e.types("Enter")
			e.shows(`^mx0002: set-aside  Postfix down since 12:00:07$`)
			e.types("Enter")
			e.shows(`(?s)^mx0002: set-aside .*^mx0002: set-aside .*` + strings.TrimPrefix(stands(hosts, size[0]), "(?s)"))
			// Ctrl-C asks, and the view is out of the way; then it is back.
			e.types("C-c")
			if asked := e.shows(`\[d\]etach, \[c\]ancel, or \[g\]o on\? \[G\]$`); viewOf(asked) != "" {
				t.Errorf("%d hosts, %v: the view is in the way:\n%s", hosts, size, asked)
			}
			e.types("g", "Enter")
			if got := viewOf(e.shows(stands(hosts, size[0]))); got != viewOf(screen) {
				t.Errorf("%d hosts, %v: after a question\n%s", hosts, size, got)
			}
			e.types("C-c")
			e.shows(`\[G\]$`)
			e.types("C-c")
			e.ended()
			if last := e.screen(); viewOf(last) != "" || !strings.Contains(last, "detached, the run goes on on ") {
				t.Errorf("%d hosts, %v: it ends with\n%s", hosts, size, last)
			}
		}
	}
}

// Where a terminal cannot, or is not to, be drawn on, no byte of it is an escape,
// and colour is none where it is not wanted.
func TestPlainTerminal(t *testing.T) {
	t.Parallel()
	needs.Program(t, "tmux")
	c := newCrowd(t, 3, "-stands", "-says", foreign)
	const coloured = "\x1b[31m"
	for _, r := range []struct {
		name            string
		variables, args []string
		wait            string
		drawn, colour   bool
	}{
		{"a terminal", nil, nil, stands(3, 80), true, true},
		{"--no-color", nil, []string{"--no-color"}, stands(3, 80), true, false},
		{"NO_COLOR", []string{"NO_COLOR=1"}, nil, stands(3, 80), true, false},
		{"TERM=dumb", []string{"TERM=dumb"}, nil, `^mx0001 \| restore +restored \d+ of 3,000$`, false, false},
		{"-q", nil, []string{"-q"}, `^mx0001 \| warning: `, false, false},
		{"jsonl", nil, []string{"-o", "jsonl"}, `"of":3000\}\}$`, false, false},
	} {
		e := c.standing(80, 24, r.variables, r.args...)
		shows, question := e.shows, `\[G\]$`
		if !r.drawn { // what is printed after it may scroll it away, and follows a question on its line
			shows, question = e.says, `\[G\]`
		}
		shows(r.wait)
		// Enter asks everywhere.
		e.types("Enter")
		shows(`^mx0002: set-aside  Postfix down since 12:00:07$`)
		written := e.bytes()
		if strings.ContainsRune(written, 0x1b) != r.drawn || strings.Contains(written, coloured) != r.colour {
			t.Errorf("%s: drawn on: %v, coloured: %v\n%q", r.name, strings.ContainsRune(written, 0x1b), strings.Contains(written, coloured), written)
		}
		e.types("C-c")
		shows(question)
		e.types("C-c")
		e.ended()
	}
}

// masked is a view whose numbers depend on the moment.
func maskedView(screen string) string {
	view := regexp.MustCompile(`[0-9]+([,.:][0-9]+)*`).ReplaceAllString(viewOf(screen), "N")
	return regexp.MustCompile(`  +`).ReplaceAllString(view, "  ")
}

// A whole run on three hosts, in a terminal, with its questions, an Enter, a Ctrl-C
// and other sizes of the window: what was said stays, and the view is there between
// the questions and gone at the end. The hosts are practice ones, and work as fast
// as they can, so that the numbers of the golden screens are masked.
func TestRunInTerminal(t *testing.T) {
	t.Parallel()
	needs.Program(t, "tmux")
	for _, size := range [][2]int{{80, 24}, {200, 50}} {
		f := fleetOf(t, flooded, "chavez", "peltier", "relay01").withFlood(500)
		args := []string{"run", "backscatter", "-i", f.file(fleetInventory), "--ssh-config", f.file(fleetConfig), "--agent", built(t),
			"-e", "@" + f.write("rules.yaml", demoRules), "-e", "rate=4", "-e", "watch=0", "-e", "max_stopped=0"}
		e := newEmulator(t, size[0], size[1], []string{"NO_COLOR=1"}, args...)
		e.shows(`Do this on 3 of 3 hosts\? \[y/N\]$`)
		e.types("y", "Enter")
		for i := range f.hosts {
			e.says(strings.Repeat(`(?s:.*)^\w+: send 125 messages, leave 375 aside\?.* \[y/N\]`, i+1) + `$`)
			if asked := e.shows(`\[y/N\]$`); viewOf(asked) != "" {
				t.Errorf("%v: the view is in the way:\n%s", size, asked)
			}
			e.types("y", "Enter")
		}
		restoring := `(?s)^-- 3 hosts: 3 at work; restore \d+ of 375, \d+ s left, [\d.]+/s$` + strings.Repeat(`[^/]*\d/s$`, 3)
		screen := e.shows(restoring)
		checkGolden(t, fmt.Sprintf("testdata/screens/%dx%d-run.txt", size[0], size[1]), maskedView(screen))
		for _, h := range f.hosts {
			if !strings.Contains(viewOf(screen), "\n"+h.Name+" ") {
				t.Errorf("%v: no line of %s:\n%s", size, h.Name, screen)
			}
		}
		e.types("Enter")
		e.shows(`^chavez, peltier, relay01: restore +\d+ of 375 `)
		e.resize(60, 20)
		e.shows(`(?s)^-- 3 hosts: 3 at work.*^relay01  restore `)
		e.resize(size[0], size[1])
		e.shows(restoring)
		e.types("C-c")
		if asked := e.shows(`\[G\]$`); viewOf(asked) != "" {
			t.Errorf("%v: the view is in the way:\n%s", size, asked)
		}
		e.types("c", "Enter")
		e.ended()
		all := e.all()
		for _, said := range []string{
			"plan: Clear spam backscatter",
			`(?m)^.*\bchavez\b.* \| stop      Postfix stopped in `, // those that took as long stand on one line
			`(?m)^.*\brelay01\b.* \| classify        500 messages  in all`,
			"cancelled: each host ends after its current step",
			"3 hosts: 3 failed",
		} {
			if !regexp.MustCompile(said).MatchString(all) {
				t.Errorf("%v: %q was said and is gone:\n%s", size, said, all)
			}
		}
		if strings.Contains(all, "\n-- ") {
			t.Errorf("%v: some of the view is left:\n%s", size, all)
		}
		// Its record, told again where nothing is drawn.
		r := execs(t, "attach", "-i", f.file(fleetInventory), "--ssh-config", f.file(fleetConfig), "--agent", built(t))
		r.want(t, 2, "chavez  | stop      Postfix stopped in ")
		r.harmless(t)
		f.spoolsweep("resume", "-y", "-e", "rate=0").want(t, 0)
		f.audit(t, practice.Place.Aside)
	}
}

// What is typed goes to an editor while there is one, and in the background to the
// shell, which does not find the program stopped by it.
func TestKeyboardIsShared(t *testing.T) {
	t.Parallel()
	needs.Program(t, "tmux")
	f := fleetOf(t, flooded, "chavez").withFlood(500)
	const editor = `VISUAL=edit() { echo; printf 'editor: '; read -r line; echo "it got $line"; }; edit`
	where := []string{"-i", f.file(fleetInventory), "--ssh-config", f.file(fleetConfig), "--agent", built(t)}
	e := newEmulator(t, 80, 24, []string{editor}, append([]string{"run", "backscatter", "-e", "rate=0", "-e", "watch=0"}, where...)...)
	e.shows(`\[y/N\]$`)
	e.types("y", "Enter")
	e.shows(`or \[w\]ait\? \[w\]$`)
	e.types("e", "Enter")
	e.shows(`^editor:$`)
	e.types("all of this", "Enter")
	e.says(`^it got all of this$`) // what the rules do may have scrolled it away
	e.shows(`or \[w\]ait\? \[w\]$`)
	e.types("w", "Enter")
	e.ended()

	c := newCrowd(t, 3, "-stands")
	sh := emulate(t, 80, 24, []string{"PS1=prompt "}, needs.Program(t, "bash"), "--norc")
	sh.shows(`^prompt$`)
	sh.types("PROGRAM='"+built(t)+" attach 20261128T120000Z-ab12 -i "+c.file("hosts.yaml")+" --ssh-config none --known-hosts "+c.file("known_hosts")+" --agent "+c.file("agent")+"'; clear", "Enter")
	sh.types("$PROGRAM &", "Enter")
	said := sh.shows(`nothing of note$`)
	sh.types("echo from the shell", "Enter")
	sh.shows(`^from the shell$`)
	sh.types("jobs", "Enter")
	if said += sh.shows(`^\[1\]\+ +\w+ +\$PROGRAM`); viewOf(said) != "" || !strings.Contains(said, "Running") {
		t.Errorf("in the background:\n%s", said)
	}
	sh.types("fg", "Enter")
	sh.shows(stands(3, 80))
	sh.types("C-z")
	sh.shows(`^\[1\]\+ +Stopped`)
	sh.types("fg", "Enter")
	if back := sh.shows(`(?s)Stopped.*\$PROGRAM.*` + strings.TrimPrefix(stands(3, 80), "(?s)")); strings.Count(back, "Stopped") != 1 {
		t.Errorf("drawn over what the shell said:\n%s", back)
	}
	sh.types("C-c")
	sh.shows(`\[G\]$`)
	sh.types("C-c")
	sh.shows(`(?s)^detached, .*^prompt$`)
}

// Mail that would take a terminal over, read on one: it shows, line by line, what was
// printed, and nothing else has changed.
func TestMailOnScreen(t *testing.T) {
	t.Parallel()
	needs.Program(t, "tmux")
	f := fleetOf(t, flooded, "chavez")
	h := f.hosts[0]
	mail := append(evilMail(h.Hostname(), 3), practice.Message{
		ID: "foreign", Sender: "a@b.test", Recipients: []string{"ana@" + h.Hostname()},
		Text: "Subject: " + foreign + "\nContent-Type: text/plain; charset=utf-8\n\n" + foreign + "\n" + strings.Repeat("漢", 100) + "\n",
	})
	if _, err := h.SubmitAll(mail); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitQuiet(t, f)
	where := "-i " + f.file(fleetInventory) + " --ssh-config " + f.file(fleetConfig) + " --agent " + built(t)
	for _, command := range []string{"sample -n 20", "sample -n 20 --raw", "suspects --sample 20", "classify -m body:nothing --text"} {
		printed := f.file("printed")
		e := emulate(t, 80, 24, nil, "sh", "-c", built(t)+" "+command+" "+where+" 2>&1 | tee "+printed)
		e.ended()
		text, err := os.ReadFile(printed)
		if err != nil {
			t.Fatal(err)
		}
		want := trimmed(string(text))
		shown, lines := strings.Split(e.all(), "\n"), strings.Split(strings.TrimSuffix(want, "\n"), "\n")
		for i, line := range lines {
			if i >= len(shown) || shown[i] != line {
				t.Errorf("%s: line %d on the screen is\n%q\nprinted was\n%q", command, i+1, shown[min(i, len(shown)-1)], line)
				break
			}
		}
		if !strings.Contains(want, `\x1b`) {
			t.Errorf("%s shows nothing evil:\n%s", command, want)
		}
		if title := e.must("display-message", "-p", "#{pane_title}"); strings.Contains(title, "il") {
			t.Errorf("%s: the terminal has the title %q", command, title)
		}
		if !strings.Contains(command, "--raw") && !strings.HasPrefix(command, "classify") && !strings.Contains(want, "日本語のメール") {
			t.Errorf("%s does not show the mail:\n%s", command, want)
		}
	}
}

// The picture of a terminal in the README is one of the golden screens.
func TestScreenInReadme(t *testing.T) {
	screen, err := os.ReadFile("testdata/screens/80x24-200.txt")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if indented := regexp.MustCompile(`(?m)^`).ReplaceAllString(strings.TrimSpace(string(screen)), "    "); !strings.Contains(string(readme), "\n\n"+indented+"\n\n") {
		t.Errorf("the README does not have this one:\n%s", indented)
	}
}
