package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// What reaches no host: the table of stages, the build, the inventory.
func TestReference(t *testing.T) {
	t.Parallel()
	r := execs(t, "stages")
	r.want(t, 0)
	for _, name := range stage.Names() {
		if !strings.Contains("\n"+r.out, "\n"+name+"\n    ") {
			t.Errorf("%s is not there:\n%s", name, r.out)
		}
	}
	var all []struct {
		Stage, Doc string
		Arguments  []struct {
			Name, Doc string
			Default   any
		}
	}
	if err := json.Unmarshal([]byte(execs(t, "stages", "-o", "json").out), &all); err != nil {
		t.Fatal(err)
	}
	for i, s := range all {
		row, ok := stage.Find(s.Stage)
		if !ok || s.Doc != row.Doc || len(s.Arguments) != len(row.Keys()) || s.Stage != stage.Names()[i] {
			t.Errorf("got %+v", s)
		}
		for _, a := range s.Arguments {
			if a.Doc == "" {
				t.Errorf("%s: %s is not explained: its field wants a doc tag", s.Stage, a.Name)
			}
		}
	}
	execs(t, "stages", "restore").want(t, 0, "after classify", "rate: 50")
	execs(t, "stages", "restore").want(t, 0, "also takes name, when, once, timeout, no_log\n")
	execs(t, "stages", "stop").want(t, 0, "also takes name, when, once, no_log\n")
	execs(t, "stages", "classify").want(t, 0, "also takes name, when, once, timeout\n")
	execs(t, "stages", "restor").want(t, statusUsage, `"restore"`)
	execs(t, "stages", "-o", "xml").want(t, statusUsage, "text and json")

	r = execs(t, "version")
	r.want(t, 0, "spoolsweep ", "spoolsweep/1", "go1.")
	execs(t, "version", "-o", "json").want(t, 0, `"protocol": "spoolsweep/1"`)

	file := t.TempDir() + "/hosts.yaml"
	if err := os.WriteFile(file, []byte("relays:\n  hosts: {\"mx[1:2]\": {note: \"\\e[2J\"}}\n  vars: {queue_warn: 7}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	execs(t, "inventory", "--list", "-i", file).want(t, 0, `"queue_warn": 7`, `"mx2"`, `\u001b[2J`)
	execs(t, "inventory", "--host", "mx1", "-i", file).want(t, 0, `"queue_warn": 7`)
	execs(t, "inventory", "--graph", "-i", file).want(t, 0, "@all:\n  |--@ungrouped:\n  |--@relays:\n  |  |--mx1\n  |  |--mx2\n")
	execs(t, "inventory", "--graph", "relays", "-i", file).want(t, 0, "@relays:\n  |--mx1\n")
	for args, says := range map[string]string{
		"":                "one of --list",
		"--list --graph":  "one of --list",
		"--list relays":   `unexpected argument "relays"`,
		"--graph relas":   `"relays"`,
		"--host mx3":      "did you mean",
		"--graph a b":     "unexpected argument",
		"--host nobody.x": "no host is named",
	} {
		execs(t, append([]string{"inventory", "-i", file}, strings.Fields(args)...)...).want(t, statusUsage, says)
	}
}

// Every example of the commands that only read runs as it stands, on hosts of
// the names that stand in them.
func TestExamplesRun(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "mx1", "relay01").withFlood(100)
	waitQuiet(t, f)
	r := f.spoolsweep("run", "health", "-y")
	r.want(t, 0)
	before := runID.FindString(r.err)
	r = f.spoolsweep("run", "backscatter", "-y", "-e", "max_stopped=0")
	r.want(t, 3)
	run := runID.FindString(r.err)
	held, err := filepath.Glob(f.hosts[0].Spool("*.spamfull", "*"))
	if err != nil || len(held) == 0 {
		t.Fatal("nothing is aside", err)
	}
	ids, err := f.hosts[0].SubmitAll([]practice.Message{{Queue: "hold", Sender: "ana@here.test", Recipients: []string{"bob@there.test"}, Text: "Subject: x\n\nx\n"}})
	if err != nil {
		t.Fatal(err)
	}
	inventory, err := os.ReadFile(f.file(fleetInventory))
	if err != nil {
		t.Fatal(err)
	}
	grouped := strings.Replace(string(inventory), "all:\n", "all:\n  children: {relays: {hosts: {relay01: }}}\n", 1)
	for name, text := range map[string]string{fleetInventory: grouped, "hosts.yaml": grouped, "rules.yaml": demoRules, "better.yaml": demoRules, "more.ini": "[lists]\nrelay01\n", "secret": "x\n", "notify": "exec:true\n"} {
		f.write(name, text)
	}
	if err := os.Mkdir(f.file("production"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.write("production/hosts.yaml", grouped)
	for name, text := range map[string]string{
		"newsletters": "From: news@members.test\n\nThe garden is open.\n",
		"junk":        "From: win@offers.test\n\nYour prize waits for you at http://prize.test/media.php today.\n",
	} {
		if err := os.Mkdir(f.file(name), 0o755); err != nil {
			t.Fatal(err)
		}
		f.write(name+"/1", text)
	}
	for _, name := range []string{"east", "west"} {
		jobOf(t, filepath.Join(f.file("artifacts"), name), happened("20261123T231505Z-ab17", name, "begin", `end={"status":"ok"}`))
	}
	for _, name := range []string{"secret", "notify"} {
		if err := os.Chmod(f.file(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	reading := []string{"ping", "health", "serve", "find", "sample", "suggest", "runs", "report", "classify", "attach", "inventory", "plan", "stages", "schema", "version", "manual", "completion"}
	here := []string{"stages", "schema", "version", "manual", "completion"} // they know no hosts
	ran := 0
	examples := append(documented(t), "uninstall -l chavez")
	for _, c := range visible(newApp(nil, io.Discard, io.Discard)) {
		for line := range strings.Lines(c.UsageText) {
			line, _, _ = strings.Cut(line, " > ") // where the output goes
			examples = append(examples, strings.TrimPrefix(strings.TrimSpace(line), "spoolsweep "))
		}
	}
	for _, line := range examples {
		of := run
		if strings.Contains(line, "--compare") {
			of = before
		}
		args := shellWords(strings.NewReplacer("20261123T231500Z-ab12", of, "20261124T101500Z-cd34", run, " RUN", " "+run, " --explain ID", " --explain "+filepath.Base(held[0]), "@rules.yaml", "@"+f.file("rules.yaml"), "@better.yaml", "@"+f.file("better.yaml"), "hosts.yaml", f.file("hosts.yaml"), " samples", " "+f.file("samples"), "4cRkQb2jLBz1xd", ids[0],
			"/var/lib/prometheus/node-exporter", t.TempDir(), "localhost:9108", "127.0.0.1:0", "10.0.0.5:9108", "127.0.0.1:0", "production/", f.file("production"), "~/Maildir/.newsletters", f.file("newsletters"), "~/Maildir/.Junk", f.file("junk"), "more.ini", f.file("more.ini"), "/etc/spoolsweep/notify", f.file("notify"), "mailto:ops@example.org", "exec:true", "password-file secret", "password-file "+f.file("secret"), "~/.local/share", f.file("share"), " artifacts/", " "+f.file("artifacts")+"/").Replace(line))
		if !slices.Contains(reading, args[0]) {
			continue
		}
		ran++
		ctx, cancel := context.WithCancel(t.Context())
		var stderr strings.Builder
		var out, errs io.Writer = io.Discard, &stderr
		want := []int{0}
		switch {
		case slices.Contains(args, "--watch"):
			out, want = &until3{times: 2, cancel: cancel, at: "Postfix running"}, []int{statusInterrupted}
		case args[0] == "serve":
			errs = &until3{times: 2, cancel: cancel, at: "metrics at"}
		case args[0] == "attach":
			want = []int{3} // the run waits
		case slices.Contains(args, "--exit-status"):
			want = []int{pluginOK, pluginWarning}
		}
		if !slices.Contains(args, "-i") && !slices.Contains(here, args[0]) {
			args = append(args, "-i", f.file(fleetInventory))
		}
		if args[0] != "inventory" && args[0] != "plan" && !slices.Contains(here, args[0]) {
			args = append(args, "--ssh-config", f.file(fleetConfig))
		}
		app := newApp(strings.NewReader(""), out, errs)
		app.Metadata[agentSource] = f.source
		if status := inProcess(ctx, app, append([]string{"spoolsweep"}, args...)...); !slices.Contains(want, status) {
			t.Errorf("spoolsweep %s: status %d, want %d\n%s", line, status, want, stderr.String())
		}
		cancel()
	}
	if ran < 20 {
		t.Errorf("only %d examples were found", ran)
	}
}

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documented are the command lines of all that is written by hand: README and the
// pages of docs, with hosts and an account in the blanks.
func documented(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, line := range examplesOf(readme(t)) {
		line, _, _ = strings.Cut(line, " > ") // where the output goes
		all = append(all, line)
	}
	blanks := strings.NewReplacer("HOSTS", "chavez,peltier", "SERVER", "chavez", "ACCOUNT", demoAccount)
	for _, name := range pageNames() {
		text, err := docs.ReadFile("docs/" + name + ".md")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, examplesOf(blanks.Replace(string(text)))...)
	}
	return all
}

// within is a command line that stands within a sentence.
var within = regexp.MustCompile("`spoolsweep ([^`]+)`")

// examplesOf are the command lines of a text: its indented lines that begin with
// the program's name, and those within its sentences, but for what is no
// whole one, or is tested elsewhere.
func examplesOf(text string) []string {
	var all []string
	for _, m := range within.FindAllStringSubmatch(text, -1) {
		line, _, _ := strings.Cut(strings.Join(strings.Fields(m[1]), " "), " | ") // who reads it
		if !slices.Contains([]string{"delete", "demo --play", "run --help"}, line) {
			all = append(all, line)
		}
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "    spoolsweep "); ok {
			rest, _, _ = strings.Cut(rest, " > ") // where the output goes
			all = append(all, strings.TrimSpace(rest))
		}
	}
	return all
}

// begun is the line that names a run, of which others may be named before.
func begun(stderr string) string {
	m := regexp.MustCompile(`(?m)^run (\S+)$`).FindStringSubmatch(stderr)
	if m == nil {
		return ""
	}
	return m[1]
}

var wouldGo = regexp.MustCompile(`: (\d+) messages would (?:go|be sent): nothing was done`)

// Every example of the commands that change something runs as it stands, but for
// names and numbers: with its flags a run is begun, carried on, put back, purged.
// What is asked on a terminal gets -y, and a number that is typed --expect.
func TestExamplesChange(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(120)
	waitQuiet(t, f)
	for _, name := range []string{"rules.yaml", "better.yaml"} {
		f.write(name, demoRules)
	}
	examples := documented(t)
	app := newApp(nil, io.Discard, io.Discard)
	for line := range strings.Lines(app.UsageText) {
		line, _, _ = strings.Cut(strings.TrimPrefix(line, "spoolsweep "), "   ") // what it is for
		examples = append(examples, line)
	}
	for _, c := range app.Commands {
		for line := range strings.Lines(c.UsageText) {
			examples = append(examples, strings.TrimPrefix(strings.TrimSpace(line), "spoolsweep "))
		}
	}
	// The mail of an incident goes through them in this order; demo and the readers
	// have tests of their own.
	ran := map[string]int{}
	seed := uint64(100)
	var last string // the run whose mail is aside
	for _, name := range []string{"suspects", "run", "resume", "putback", "purge", "delete", "uninstall"} {
		for _, line := range examples {
			args := shellWords(line)
			if args[0] != name {
				continue
			}
			ran[name]++
			finished := name == "purge" && ran[name] == 1 // a purge wants a run that is finished
			if name == "run" || name == "delete" && ran[name] == 1 || finished || last == "" {
				seed++
				for _, h := range f.hosts {
					if _, err := h.SubmitAll(practice.Incident(h.Name, demoAccount, 120, seed)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if last == "" || finished {
				r := f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0", "-e", "@"+f.file("rules.yaml"))
				r.want(t, 0)
				last = begun(r.err)
			}
			if slices.Contains(args, "--adopt") {
				for _, queue := range []string{"incoming", "active"} {
					aside := f.hosts[0].Spool(queue + ".spamfull") // of a run, perhaps
					if err := errors.Join(os.RemoveAll(aside), os.Mkdir(aside, 0o700)); err != nil {
						t.Fatal(err)
					}
				}
			}
			with := strings.NewReplacer("20261123T231500Z-ab12", last, " RUN", " "+last, "@rules.yaml", "@"+f.file("rules.yaml"), "@better.yaml", "@"+f.file("better.yaml"),
				" -u admin", "", " -b -K", "", // nobody becomes anybody here
				"mailto:ops@example.org", "exec:true") // nor is sent mail
			args = shellWords(with.Replace(line))
			if asks := name != "suspects" && !slices.Contains(args, "--check"); asks && !slices.Contains(args, "-y") {
				args = append(args, "-y")
			}
			if name == "run" && strings.HasSuffix(args[1], "able-account") { // nobody has an account here
				args = append(args, "-e", strings.ReplaceAll(args[1], "-", "_")+"=test")
				if args[1] == "disable-account" {
					args = append(args, "-e", "watch=0")
				}
			}
			if name == "putback" { // these hosts deliver nothing
				args = append(args, "--live-max", "0", "--rate", "0")
			}
			if name == "putback" || name == "purge" || name == "delete" {
				if i := slices.Index(args, "--expect"); i >= 0 {
					args = slices.Delete(args, i, i+2)
				}
				r := f.spoolsweep(append(slices.Clone(args), "--expect", "999999")...)
				r.want(t, statusUsage)
				m := wouldGo.FindStringSubmatch(r.err)
				if m == nil {
					t.Fatalf("%s: does not say how many would go: %s", line, r.err)
				}
				if slices.Contains(args, "--adopt") { // it is taken on by now
					args = []string{"putback", begun(r.err), "-y", "--live-max", "0"}
				}
				args = append(args, "--expect", m[1])
			}
			if i := slices.Index(args, "--expect"); name == "resume" && i >= 0 {
				args = slices.Delete(args, i, i+2) // of a question that is not open here
			}
			r := f.spoolsweep(args...)
			if name == "resume" && slices.Contains(args, "--to") { // this run exports nothing
				r.want(t, statusUsage, "--to goes with a run of export --remove")
				continue
			}
			// Several runs wait by then: a resume that names none says which.
			several := line == "resume" && strings.Contains(r.err, "several runs: name one")
			aside := name == "uninstall" && strings.Contains(r.err, "is in the way, nothing was removed")
			if r.status != 0 && r.status != 3 && !several && !aside {
				t.Errorf("%s: exit status %d\n%s%s", line, r.status, r.out, r.err)
			}
			if id := begun(r.err); name == "run" && id != "" && !strings.HasSuffix(args[1], "able-account") {
				last = id
			}
		}
	}
	for name, least := range map[string]int{"suspects": 6, "run": 9, "resume": 6, "putback": 5, "purge": 5, "delete": 4, "uninstall": 2} {
		if ran[name] < least {
			t.Errorf("%d examples of %s were found", ran[name], name)
		}
	}
}
