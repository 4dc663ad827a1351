package lab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/agent"
	"spoolsweep/remote/lab"
)

// Where something else reaches the hosts: a plan on the agent's standard input, here
// over plain ssh, and nothing of the controller's there.

// agentThere is the agent where an admin put it.
const agentThere = "/root/spoolsweep-agent"

// putAgent brings the agent to a host as any file, and nothing else of ours.
func putAgent(t *testing.T, f *fleet, h *lab.Host) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent")
	alone(t, f, "agent", runtime.GOARCH, "--output", file)
	text, err := os.ReadFile(file)
	must(t, err)
	cmd := plainSSH(t, h, "cat > "+agentThere+" && chmod 700 "+agentThere)
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func plainSSH(t *testing.T, h *lab.Host, command string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), "ssh", "-F", "none", "-i", h.Key(), "-o", "UserKnownHostsFile="+h.KnownHosts(),
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "root@"+h.Address, command)
}

// carryOut gives a plan to the agent of a host.
func carryOut(t *testing.T, h *lab.Host, do, plan string) result {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd := plainSSH(t, h, agentThere+" "+do)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(plan), &out, &stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// planOf is the plan of a host as it is printed, and the id of its run.
func planOf(t *testing.T, f *fleet, h *lab.Host, args ...string) (text, id string) {
	t.Helper()
	text = alone(t, f, append([]string{"plan", "backscatter", "--host", h.Name, "--run", "new", "-i", f.inventory}, args...)...)
	var p agent.Plan
	must(t, json.Unmarshal([]byte(text), &p))
	return text, p.Run
}

// alone runs a command of the program that reaches no host.
func alone(t testing.TB, f *fleet, args ...string) string {
	t.Helper()
	argv, env := commandLine(t, f)
	cmd := exec.CommandContext(t.Context(), argv[0], args...)
	var stderr bytes.Buffer
	cmd.Stderr, cmd.Env = &stderr, env
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("spoolsweep %s: %v: %s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// What a plan on standard input does is what run does.
func TestPlanOverSSH(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, few)
	putAgent(t, f, two[1])
	rules := rulesFile(t, floodRules(two...))
	var messages [2][]lab.Message
	for i, h := range two {
		messages[i] = smallFlood(t, h)
	}
	// Check tells what the rules take, and leaves nothing there.
	text, id := planOf(t, f, two[1], "-e", rules, "-y")
	r := carryOut(t, two[1], "check", text)
	if r.status != 0 || !strings.Contains(r.out, `"stage":"classify"`) || strings.Contains(r.out, `"stage":"stop"`) {
		t.Errorf("check: %v", r)
	}
	if dirs, err := filepath.Glob(filepath.Join(two[1].Dir, "upper/var/lib/spoolsweep*")); err != nil || len(dirs) > 0 {
		t.Errorf("left by check: %v, %v", dirs, err)
	}

	succeeds(t, f, "run", "backscatter", "-l", two[0].Name, "-e", rules, "-y")
	if r = carryOut(t, two[1], "run", text); r.status != 0 {
		t.Fatalf("run: %v", r)
	}
	places := [2]map[string]int{{}, {}}
	for i, h := range two {
		a := checkSwept(t, h, messages[i])
		checkOnce(t, h, a, messages[i])
		// Which messages of a flood are active the queue manager chooses.
		places[i]["new"] = len(a.In("incoming.spamfull", "active.spamfull"))
		places[i]["deferred"] = len(a.In("deferred.spamfull"))
		alive(t, h)
	}
	if d := cmp.Diff(places[0], places[1]); d != "" {
		t.Errorf("(-run +plan): %s", d)
	}
	sums := [2]string{}
	for i, h := range two {
		ledger := succeeds(t, f, "report", "-l", h.Name, "--ledger").out
		sums[i] = regexp.MustCompile(`set aside: restored .*`).FindString(ledger)
	}
	if sums[0] == "" || sums[0] != sums[1] {
		t.Errorf("by run %q, by plan %q", sums[0], sums[1])
	}
	checkTold(t, &fleet{hosts: two[1:], inventory: f.inventory}, id)
}

// The connection that gave the plan is gone while Postfix is down: the run goes on,
// and any laptop finds it.
func TestPlanConnectionKilled(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few, slowStop)
	putAgent(t, f, h)
	messages := smallFlood(t, h)
	text, id := planOf(t, f, h, "-e", rulesFile(t, floodRules(h)), "-y")
	cmd := plainSSH(t, h, agentThere+" run")
	cmd.Stdin = strings.NewReader(text)
	must(t, cmd.Start())
	inStop(t, h, id)
	must(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	if n := journaled(t, h, id, "starting"); n > 0 {
		t.Fatal("the connection was killed too late for this test")
	}
	if end := runEnd(t, h, id); end.Status != "ok" {
		t.Errorf("the run ended %+v", end)
	}
	checkSwept(t, h, messages)
	alive(t, h)
	checkTold(t, f, id)
	// Whoever sends the plan again is told how it went, and nothing is done twice.
	if r := carryOut(t, h, "run", text); r.status != 0 || !strings.Contains(r.out, `"stage":"restore"`) {
		t.Errorf("sent again: %v", r)
	}
}

// Without rules the run waits, and mail flows.
func TestPlanWaits(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	putAgent(t, f, h)
	messages := smallFlood(t, h)
	text, id := planOf(t, f, h)
	r := carryOut(t, h, "run", text)
	if next := "spoolsweep resume " + id + " -e @rules.yaml"; r.status != 3 || !strings.Contains(r.err, next) || !strings.Contains(r.out, next) {
		t.Errorf("want exit status 3 and %q: %v", next, r)
	}
	messages = append(messages, alive(t, h))
	succeeds(t, f, "resume", id, "-y", "-e", rulesFile(t, floodRules(h)))
	checkSwept(t, h, messages)
}
