package lab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/stage"
)

// play runs the collection's playbook on the hosts of a fleet, and returns what it
// printed, without warnings, and its recap of each host.
func play(t *testing.T, f *fleet, dist string, args ...string) (r result, recap map[string]map[string]string) {
	t.Helper()
	needs.Program(t, "ansible-playbook")
	cmd := exec.CommandContext(t.Context(), "ansible-playbook", append([]string{"spoolsweep.postfix.backscatter", "-i", f.inventory}, args...)...)
	cmd.Env = ansibleEnv(t, f, dist)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	r = result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
	recap = map[string]map[string]string{}
	for _, h := range f.hosts {
		line := regexp.MustCompile(`(?m)^` + h.Name + ` +: (.*)$`).FindStringSubmatch(r.out)
		if line == nil {
			t.Fatalf("no recap of %s: %v", h.Name, r)
		}
		recap[h.Name] = map[string]string{}
		for _, word := range strings.Fields(line[1]) {
			name, n, _ := strings.Cut(word, "=")
			recap[h.Name][name] = n
		}
	}
	return r, recap
}

// The role does what run does: the same mail is aside and goes back, and what is
// called again does nothing twice.
func TestAnsibleRole(t *testing.T) {
	t.Parallel()
	three := hosts(t, 3)
	all, f := newFleet(t, three, few), newFleet(t, three[:2], few)
	dist := filepath.Join(t.TempDir(), "dist")
	alone(t, f, "collection", "--output", dist)
	var messages [3][]lab.Message
	for i, h := range three {
		messages[i] = smallFlood(t, h)
	}
	rules := rulesFile(t, floodRules(three...))
	recaps := func(what string, r result, recap map[string]map[string]string, want map[string]string) {
		t.Helper()
		for _, h := range f.hosts {
			for name, n := range want {
				if recap[h.Name][name] != n {
					t.Fatalf("%s: %s: %s=%s, want %s: %v", what, h.Name, name, recap[h.Name][name], n, r)
				}
			}
		}
	}
	records := func(h *lab.Host) []string {
		runs, err := filepath.Glob(filepath.Join(state(h), "runs", "*"))
		must(t, err)
		return runs
	}

	// Check mode tells, and changes nothing.
	r, recap := play(t, f, dist, "--check", "--diff", "-e", rules)
	recaps("check", r, recap, map[string]string{"failed": "0", "changed": "1", "unreachable": "0"})
	if r.status != 0 || !strings.Contains(r.out, "+active.spamfull: 100") || !strings.Contains(r.out, "-active: 100") {
		t.Errorf("check: %v", r)
	}
	for i, h := range f.hosts {
		a, err := h.Audit(t.Context())
		must(t, err)
		checkPlaces(t, h, a, messages[i], "aside", aside, nil)
		if dirs, err := filepath.Glob(state(h)); err != nil || len(dirs) > 0 {
			t.Errorf("%s: left by check: %v, %v", h.Name, dirs, err)
		}
	}

	// Without rules: aside, mail flows, and rules are wanted.
	r, recap = play(t, f, dist)
	recaps("without rules", r, recap, map[string]string{"failed": "1", "changed": "1", "unreachable": "0"})
	var ids []string
	for i, h := range f.hosts {
		for _, dir := range records(h) {
			ids = append(ids, filepath.Base(dir))
		}
		messages[i] = append(messages[i], alive(t, h))
	}
	if len(ids) != 2 || ids[0] != ids[1] {
		t.Fatalf("runs %q: %v", ids, r)
	}
	for _, h := range f.hosts {
		if !strings.Contains(r.out, `"148 messages of login `+account(h)+`"`) || !strings.Contains(r.out, `"76 bounces to `+account(h)+`: hacked"`) || !strings.Contains(r.out, `"2 bounces to celia@`+h.Name+`.lab.test: hacked, or a member with a few bounces of his own"`) {
			t.Errorf("%s: nothing tells who it is: %v", h.Name, r)
		}
	}
	if next := "spoolsweep resume " + ids[0] + " -e @rules.yaml"; r.status != 2 || strings.Count(r.out, "("+next+"); rules of what is spam are wanted\"") != 2 {
		t.Errorf("want %q twice: %v", next, r)
	}
	from0, to0 := stops(t, f.hosts[0], ids[0])
	from1, to1 := stops(t, f.hosts[1], ids[0])
	if from0.Before(to1) && from1.Before(to0) {
		t.Errorf("both were stopped at the same time: %v to %v and %v to %v", from0, to0, from1, to1)
	}

	// With rules the run goes on.
	r, recap = play(t, f, dist, "--check", "--diff", "-e", rules)
	recaps("check with rules", r, recap, map[string]string{"failed": "0", "changed": "1"})
	if !strings.Contains(r.out, "\n-aside: 300\n") || !strings.Contains(r.out, "\n+back in deferred: ") {
		t.Errorf("check with rules: %v", r)
	}
	r, recap = play(t, f, dist, "-e", rules)
	recaps("with rules", r, recap, map[string]string{"failed": "0", "changed": "1", "unreachable": "0"})
	// Again, with and without them (they are the run's), nothing is left to do.
	for _, args := range [][]string{{"-e", rules}, {"--check"}} {
		r, recap = play(t, f, dist, args...)
		recaps("again", r, recap, map[string]string{"failed": "0", "changed": "0", "unreachable": "0"})
	}
	succeeds(t, all, "run", "backscatter", "-l", three[2].Name, "-e", rules, "-y")
	places, sums := [3]map[string]int{}, [3]string{}
	for i, h := range three {
		a := checkSwept(t, h, messages[i])
		checkOnce(t, h, a, messages[i])
		// Which messages of a flood are active the queue manager chooses.
		places[i] = map[string]int{"new": len(a.In("incoming.spamfull", "active.spamfull")), "deferred": len(a.In("deferred.spamfull"))}
		if runs := records(h); len(runs) != 1 {
			t.Errorf("%s: runs %q", h.Name, runs)
		}
		ledger := succeeds(t, all, "report", "-l", h.Name, "--ledger").out
		sums[i] = regexp.MustCompile(`set aside: restored .*`).FindString(ledger)
	}
	for i := range 2 {
		if d := cmp.Diff(places[2], places[i]); d != "" || sums[i] != sums[2] || sums[i] == "" {
			t.Errorf("(-run +role): %s; ledgers %q, %q", d, sums[2], sums[i])
		}
	}
	checkTold(t, f, ids[0])
	// What the role has done a laptop goes on with.
	before := record(t, f.hosts[0], ids[0], "events.jsonl")
	succeeds(t, f, "resume", ids[0], "-y", "-e", rules)
	if after := record(t, f.hosts[0], ids[0], "events.jsonl"); !bytes.Equal(before, after) {
		t.Errorf("the same rules on a laptop are others: %s", after[len(before):])
	}
}

// The modules of the collection do what the commands do, also where the connection is
// lost while Postfix is down.
func TestAnsibleChanges(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	dist := filepath.Join(t.TempDir(), "dist")
	alone(t, f, "collection", "--output", dist)
	messages := smallFlood(t, h)
	rules := rulesJSON(h)
	with := func(more string) string { return strings.TrimSuffix(rules, "}") + ", " + more + "}" }
	module := func(name, args string, more ...string) returned {
		t.Helper()
		return ansible(t, f, dist, name, args, more...)[h.Name]
	}

	// A delete is of the number that is expected, or not at all.
	n := would(t, h, f, "delete", "-e", rulesFile(t, floodRules(h)))
	if r := module("delete", rules); !r.Failed || r.Changed || !strings.Contains(r.Remedy, fmt.Sprintf("expect: %d", n)) {
		t.Errorf("delete without expect: %+v", r)
	}
	if r := module("delete", with(fmt.Sprintf(`"expect": %d`, n+1))); !r.Failed || r.Changed || !strings.Contains(r.Msg, "nothing was done") {
		t.Errorf("delete of another number: %+v", r)
	}
	if r := module("delete", rules, "--check"); r.Failed || !r.Changed {
		t.Errorf("delete --check: %+v", r)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	checkOnce(t, h, a, messages)
	var doomed []string
	for _, id := range a.In("deferred") {
		if slices.Contains(spams(messages), id) {
			doomed = append(doomed, id)
		}
	}
	r := module("delete", with(fmt.Sprintf(`"expect": %d`, n)))
	if r.Failed || !r.Changed || r.Run == "" || len(r.Events) == 0 || len(doomed) != n {
		t.Fatalf("delete: %+v", r)
	}
	if a, err = h.Audit(t.Context()); err != nil || len(a.Lost(ids(messages))) != n || len(a.Lost(doomed)) != n {
		t.Fatalf("deleted were %d, want %d: %v", len(a.Lost(ids(messages))), n, err)
	}
	messages = slices.DeleteFunc(messages, func(m lab.Message) bool { return slices.Contains(doomed, m.ID) })
	if r := module("delete", with(fmt.Sprintf(`"expect": %d`, n))); r.Failed || r.Changed {
		t.Errorf("delete again: %+v", r)
	}

	// The connection is lost between stop and start.
	const id = "20261128T120000Z-ab12"
	slow := newFleet(t, []*lab.Host{h}, few, slowStop, `disable_account: "echo >> /root/disabled"`)
	lost := make(chan map[string]returned)
	setAside := `{"run": "` + id + `", "account": "` + account(h) + `"}`
	go func() { lost <- ansible(t, slow, dist, "set_aside", setAside) }()
	inStop(t, h, id)
	kill9(t, h, `^sshd: root@notty`)
	if r := (<-lost)[h.Name]; !r.Failed || r.Changed || !strings.Contains(r.Msg, "spoolsweep attach "+id) {
		t.Errorf("where the connection is lost: %+v", r)
	}
	if end := runEnd(t, h, id); end.Status != "ok" {
		t.Errorf("the run ended %+v", end)
	}
	messages = append(messages, alive(t, h))
	if r := succeeds(t, f, "attach", id); !strings.Contains(r.out, "set aside as active.spamfull") {
		t.Errorf("attach: %v", r)
	}
	// Called again it tells how it went; and with no id, where nothing is full, that
	// the run has mail aside.
	for _, args := range []string{setAside, "account=" + account(h)} {
		for _, check := range [][]string{nil, {"--check"}} {
			if r := ansible(t, slow, dist, "set_aside", args, check...)[h.Name]; r.Failed || r.Changed || r.Run != id || r.Instance != "-" {
				t.Errorf("called again with %s, %q: %+v", args, check, r)
			}
		}
	}

	if said, err := h.Run(t.Context(), "cat", "/root/disabled"); err != nil || strings.TrimSpace(said) != account(h) {
		t.Errorf("disabled: %q, %v", said, err)
	}

	// Without rules it waits; with them it goes on, once.
	if r := module("restore", `{"run": "`+id+`", "watch": 0}`); !r.Failed || r.Changed || r.Waits != "rules" || !strings.Contains(r.Msg, "spoolsweep resume "+id) || !strings.Contains(r.Remedy, "spoolsweep resume "+id) {
		t.Errorf("restore without rules: %+v", r)
	}
	on := with(`"watch": 0, "live_max": 0`)
	if r := module("restore", on, "--check"); r.Failed || !r.Changed {
		t.Errorf("restore --check: %+v", r)
	}
	r = module("restore", on)
	var restored stage.Restored
	must(t, json.Unmarshal(r.Results["restore"], &restored))
	if r.Failed || !r.Changed || restored.Restored == 0 || r.Run != id {
		t.Errorf("restore: %+v", r)
	}
	checkSwept(t, h, messages)
	for _, check := range [][]string{nil, {"--check"}} {
		if r := module("restore", on, check...); r.Failed || r.Changed {
			t.Errorf("restore again: %+v", r)
		}
	}

	// What is aside is put back by number.
	if r := module("putback", ""); r.Failed || r.Changed {
		t.Errorf("putback of ham: %+v", r)
	}
	left := int(restored.Left)
	if r := module("putback", `{"include_spam": true}`); !r.Failed || r.Changed || !strings.Contains(r.Remedy, fmt.Sprintf("expect: %d", left)) {
		t.Errorf("putback without expect: %+v", r)
	}
	if r := module("putback", fmt.Sprintf(`{"include_spam": true, "expect": %d}`, left), "--check"); r.Failed || !r.Changed {
		t.Errorf("putback --check: %+v", r)
	}
	if r := module("putback", fmt.Sprintf(`{"include_spam": true, "rate": 0, "live_max": 0, "expect": %d}`, left)); r.Failed || !r.Changed || r.Run != id {
		t.Errorf("putback: %+v", r)
	}
	if r := module("putback", fmt.Sprintf(`{"include_spam": true, "expect": %d}`, left)); r.Failed || r.Changed {
		t.Errorf("putback again: %+v", r)
	}
	a, err = h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "aside", aside, nil)
	alive(t, h)
}

// What the collection says of itself renders, and ansible-lint finds nothing in it.
func TestAnsibleReads(t *testing.T) {
	t.Parallel()
	f := newFleet(t, hosts(t, 1))
	dist := filepath.Join(t.TempDir(), "dist")
	alone(t, f, "collection", "--output", dist)
	top := filepath.Join(dist, "ansible_collections/spoolsweep/postfix")
	run := func(program string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), needs.Program(t, program), args...)
		cmd.Env, cmd.Dir = ansibleEnv(t, f, dist), top
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %q: %v\n%s", program, args, err, out)
		}
		return string(out)
	}
	modules, err := filepath.Glob(filepath.Join(top, "plugins/modules/*.py"))
	must(t, err)
	if len(modules) != 7 {
		t.Errorf("modules %q", modules)
	}
	for _, file := range modules {
		name := strings.TrimSuffix(filepath.Base(file), ".py")
		out := run("ansible-doc", "spoolsweep.postfix."+name)
		for _, part := range []string{"OPTIONS", "RETURN VALUES", "EXAMPLES", "check_mode"} {
			if !strings.Contains(out, part) {
				t.Errorf("%s: no %s in\n%s", name, part, out)
			}
		}
	}
	if out := run("ansible-doc", "-t", "role", "spoolsweep.postfix.backscatter"); !strings.Contains(out, "- max_stopped") || !strings.Contains(out, "- spam") {
		t.Errorf("the role: %s", out)
	}
	files := []string{"roles/backscatter"}
	must(t, filepath.WalkDir(top, func(path string, entry os.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".yml" {
			files = append(files, path)
		}
		return err
	}))
	if len(files) < 6 {
		t.Errorf("files %q", files)
	}
	out := run("ansible-lint", append([]string{"--offline", "--nocolor", "--profile", "production"}, files...)...)
	if !regexp.MustCompile(`Passed with production profile: 0 failure\(s\), 0 warning\(s\) on ([89]|\d\d) files`).MatchString(out) {
		t.Errorf("ansible-lint: %s", out)
	}
}
