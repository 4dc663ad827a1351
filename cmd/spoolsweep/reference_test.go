package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
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
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "max_stopped=0")
	r.want(t, 3)
	run := runID.FindString(r.err)
	ids, err := f.hosts[0].SubmitAll([]practice.Message{{Queue: "hold", Sender: "ana@here.test", Recipients: []string{"bob@there.test"}, Text: "Subject: x\n\nx\n"}})
	if err != nil {
		t.Fatal(err)
	}
	inventory, err := os.ReadFile(f.file(fleetInventory))
	if err != nil {
		t.Fatal(err)
	}
	grouped := strings.Replace(string(inventory), "all:\n", "all:\n  children: {relays: {hosts: {relay01: }}}\n", 1)
	for name, text := range map[string]string{fleetInventory: grouped, "hosts.yaml": grouped, "rules.yaml": demoRules} {
		f.write(name, text)
	}
	reading := []string{"ping", "health", "find", "sample", "runs", "report", "classify", "attach", "inventory", "stages", "version"}
	ran := 0
	examples := append(examplesOf(readme(t)), "uninstall -l chavez")
	for _, c := range newApp(nil, io.Discard, io.Discard).Commands {
		for line := range strings.Lines(c.UsageText) {
			examples = append(examples, strings.TrimPrefix(strings.TrimSpace(line), "spoolsweep "))
		}
	}
	for _, line := range examples {
		args := shellWords(strings.NewReplacer("20261123T231500Z-ab12", run, " RUN", " "+run, "@rules.yaml", "@"+f.file("rules.yaml"), "hosts.yaml", f.file("hosts.yaml"), " samples", " "+f.file("samples"), "4cRkQb2jLBz1xd", ids[0]).Replace(line))
		if !slices.Contains(reading, args[0]) {
			continue
		}
		ran++
		ctx, cancel := context.WithCancel(t.Context())
		var out io.Writer = io.Discard
		want := []int{0}
		switch {
		case slices.Contains(args, "--watch"):
			out, want = &until3{times: 2, cancel: cancel, at: "Postfix running"}, []int{statusInterrupted}
		case args[0] == "attach":
			want = []int{3} // the run waits
		case slices.Contains(args, "--exit-status"):
			want = []int{pluginOK, pluginWarning}
		}
		if !slices.Contains(args, "-i") && args[0] != "stages" && args[0] != "version" {
			args = append(args, "-i", f.file(fleetInventory))
		}
		if args[0] != "inventory" && args[0] != "stages" && args[0] != "version" {
			args = append(args, "--ssh-config", f.file(fleetConfig))
		}
		var stderr strings.Builder
		app := newApp(strings.NewReader(""), out, &stderr)
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

// examplesOf are the command lines of a text: its indented lines that begin with
// the program's name.
func examplesOf(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "    spoolsweep "); ok {
			all = append(all, strings.TrimSpace(rest))
		}
	}
	return all
}
