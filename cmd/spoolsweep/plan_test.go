package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// carryOut gives a plan to the agent of a practice host, as what has no controller
// does.
func (f *fleet) carryOut(h *practice.Host, do, plan string) result {
	f.t.Helper()
	file := filepath.Join(h.Home(), agentName+"-by-hand")
	if err := os.Link(built(f.t), file); err != nil && !errors.Is(err, os.ErrExist) {
		f.t.Fatal(err)
	}
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(f.t.Context(), file, do)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(plan), &out, &stderr
	cmd.Env = append(os.Environ(), practiceVariable+"="+h.Dir, "HOME="+h.Home())
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	return result{"the agent's " + do, cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// printed is the plan of a host.
func (f *fleet) printed(args ...string) (*agent.Plan, string) {
	f.t.Helper()
	r := f.run(append(append([]string{"plan"}, args...), "-i", f.file(fleetInventory))...)
	r.want(f.t, 0)
	p := new(agent.Plan)
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		f.t.Fatalf("%s: %v\n%s", r.line, err, r.out)
	}
	return p, r.out
}

// eventsOf are the lines of a stream.
func eventsOf(t *testing.T, text string) []wire.Event {
	t.Helper()
	var all []wire.Event
	for line := range strings.Lines(text) {
		var e wire.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		all = append(all, e)
	}
	return all
}

// What a plan does is what run does, and the run is found by the controller.
func TestPlanByHand(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier")
	for _, h := range f.hosts { // the same mail on both
		_, err := h.SubmitAll(practice.Incident("both", demoAccount, 100, 7))
		if err := errors.Join(err, h.Start(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	waitQuiet(t, f)
	rules := f.write("rules.yaml", demoRules)
	f.spoolsweep("run", "backscatter", "-l", "peltier", "-y", "-e", "@"+rules, "-e", "rate=0").want(t, 0)

	_, text := f.printed("backscatter", "--host", "chavez", "-e", "@"+rules, "-e", "rate=0", "-y", "--reason", "by hand")
	check := f.carryOut(f.hosts[0], "check", text)
	check.want(t, 0, `"stage":"classify"`)
	f.spoolsweep("runs", "-l", "chavez").want(t, 0, "no run")
	r := f.carryOut(f.hosts[0], "run", text)
	r.want(t, 0)
	// live or aside, of spam and of ham: incoming becomes active by and by
	type place struct {
		label practice.Label
		aside bool
		of    string
	}
	var where [2]map[place]int
	for i, h := range f.hosts {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		if lost, twice := a.Lost(), a.Twice(); len(lost)+len(twice) > 0 {
			t.Errorf("%s: lost %v, twice %v", h.Name, lost, twice)
		}
		where[i] = map[place]int{}
		for _, m := range a.Messages {
			p := place{label: m.Label, aside: m.Places[0].Aside()}
			if p.aside {
				p.of = m.Places[0].Directory
			}
			where[i][p]++
		}
	}
	if d := cmp.Diff(where[1], where[0]); d != "" || len(where[0]) < 3 {
		t.Errorf("(-run +plan): %s\n%+v", d, where[0])
	}
	events := eventsOf(t, r.out)
	id := events[len(events)-1].Run
	f.spoolsweep("attach", id, "-l", "chavez").want(t, 0, "moved back")
	f.spoolsweep("report", id, "-l", "chavez").want(t, 0, "by hand", me())
	f.spoolsweep("report", id, "-l", "chavez", "--ledger").want(t, 0, "missing 0")
}

// Without rules it waits, and goes on from a controller with the variables that the
// plan was made with.
func TestPlanGoesOn(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(100)
	waitQuiet(t, f)
	p, text := f.printed("backscatter", "--host", "chavez", "--run", "new", "-e", "rate=0")
	r := f.carryOut(f.hosts[0], "run", text)
	r.want(t, 3, "waits for rules, and mail flows", "remedy: spoolsweep resume "+p.Run+" -e @rules.yaml")
	f.spoolsweep("resume", p.Run, "-e", "@"+f.write("rules.yaml", demoRules), "-y").want(t, 0)
	again := f.carryOut(f.hosts[0], "run", text)
	again.want(t, 0)
	events := eventsOf(t, again.out)
	var end run.Ended
	if err := json.Unmarshal(events[len(events)-1].Data, &end); err != nil || end.Status != "ok" || events[len(events)-1].Run != p.Run {
		t.Errorf("sent again, it tells %+v", events[len(events)-1])
	}
	// By a plan it would go on in the same way, and has done so.
	_, text = f.printed("backscatter", "--host", "chavez", "--run", p.Run, "--resume", "-e", "rate=0", "-e", "@"+f.write("rules.yaml", demoRules), "-y")
	f.carryOut(f.hosts[0], "check", text).want(t, 0, `"event":"would","data":{"changes":false}`)
	if on := f.carryOut(f.hosts[0], "run", text); on.status != 0 || len(eventsOf(t, on.out)) != len(events) {
		t.Errorf("status %d, %d events, then %d", on.status, len(events), len(eventsOf(t, on.out)))
	}
	f.run("plan", "backscatter", "--host", "chavez", "--resume", "--run", "new").want(t, statusUsage, "--resume goes with --run ID")
}

func TestPlanPrinted(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier")
	p, _ := f.printed("backscatter", "--host", "peltier", "-e", "account=spam-account", "-e", "queues=deferred", "-y", "--reason", "flood", "--expect", "7")
	if p.Version != agent.PlanVersion || p.Host != "peltier" || p.Hosts != nil || p.Run != "" || !p.Yes || p.Reason != "flood" || p.Who != me() || p.Name != "backscatter" || p.Vars.QueueWarn != fleetWarn {
		t.Errorf("%+v", p)
	}
	if d := cmp.Diff(map[string]any{"account": "spam-account", "queues": "deferred"}, p.Extra); d != "" {
		t.Error(d)
	}
	i := slices.IndexFunc(p.Steps, func(s stage.Step) bool { return s.Stage == "confirm" })
	if a := stageArgs(p.Steps[i]).(*stage.ConfirmArgs); a.Expect == nil || *a.Expect != 7 || a.Show != "classify" || a.MaxSenders != 3 {
		t.Errorf("%s", p.Steps[i].Args)
	}
	p, _ = f.printed("health", "--host", "peltier/postfix-out", "-l", "all", "--run", "20261123T231500Z-ab12")
	if d := cmp.Diff([]string{"chavez", "peltier/postfix-out"}, p.Hosts); d != "" || p.Host != "peltier" || p.Vars.Instance != "postfix-out" || p.Run != "20261123T231500Z-ab12" {
		t.Errorf("%+v %s", p, d)
	}
	controller := f.write("controller.yaml", "stages:\n  - command: {run: \"true\", on: controller}\n")
	where := []string{"-i", f.file(fleetInventory)}
	f.run(append(where, "plan", controller, "--host", "chavez")...).want(t, 0, "warning: stage 1 is a command for the controller")
	for args, says := range map[string]string{
		"":                                          "one playbook is wanted",
		"health":                                    "--host is wanted",
		"health --host chaves":                      `did you mean "chavez"?`,
		"health --host chavez -l peltier":           "none of the hosts that the playbook and --limit are for",
		"health --host chavez/../x":                 "instance",
		"health --host chavez --run x":              "--run x: it is new, or an id",
		"health --host chavez --expect 3":           "the playbook has none",
		"backscatter --host chavez --expect=-1":     "--expect is a number",
		"backscatter --host chavez -e queue_warn=1": "it is a variable of hosts",
		"backscatter --host chavez -e rate=fast":    "fast",
	} {
		f.run(append(append([]string{"plan"}, strings.Fields(args)...), where...)...).want(t, statusUsage, says)
	}
}

// The agent that is written is the one that would be sent, and nothing is replaced.
func TestAgentWritten(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "written")
	args := []string{"agent", "amd64", "--output", file, "--agent", built(t)}
	execs(t, args...).want(t, 0)
	want, err := os.ReadFile(built(t))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes were written, want %d: %v", len(got), len(want), err)
	}
	if s, err := os.Stat(file); err != nil || s.Mode().Perm()&0o111 == 0 {
		t.Errorf("it cannot be executed: %v, %v", s, err)
	}
	execs(t, args...).want(t, statusUsage, "file exists")
	execs(t, "agent", "amd46", "--output", file).want(t, statusUsage, `did you mean "amd64"?`)
	execs(t, "agent", "amd64").want(t, statusUsage, "spoolsweep: --output is wanted: the file to write: see spoolsweep agent --help")
	execs(t, "agent", "--output", file).want(t, statusUsage, "spoolsweep: one architecture is wanted: 386, amd64")
	execs(t, "agent").want(t, statusUsage, "spoolsweep: an architecture (386, amd64, arm64, riscv64) and --output are wanted")
}
