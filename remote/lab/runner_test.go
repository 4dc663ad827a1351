package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
)

// nowhere is a command of a machine that reaches no host: it has no network at all.
func nowhere(ctx context.Context, argv ...string) *exec.Cmd {
	argv = append([]string{"unshare", "--net", "--"}, argv...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// job is one job of ansible-runner: on the control side, which has no network, and on
// a worker, which alone reaches its hosts.
type job struct {
	ident  string
	dir    string // private_data_dir of the control side
	worker *lab.Island
	env    []string
	// wrap, where not nil, is what runs each of the three.
	wrap func(step int, argv ...string) []string

	sent, came int64 // bytes between the two
}

// newJob writes what transmit reads: the inventory of a fleet, a play, and what the
// worker's ansible is to be told, the collection in dist among it.
func newJob(t testing.TB, f *fleet, worker *lab.Island, dist, ident, play string) *job {
	t.Helper()
	needs.Program(t, "ansible-runner")
	j := &job{ident: ident, dir: t.TempDir(), worker: worker}
	home := t.TempDir()
	j.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8"}
	inventory, err := os.ReadFile(f.inventory)
	must(t, err)
	for name, text := range map[string]string{
		"project/site.yml": play, "inventory/hosts.yml": string(inventory),
		"env/envvars": ansibleSettings(dist, home, f.hosts[0].KnownHosts()),
	} {
		file := filepath.Join(j.dir, name)
		must(t, os.MkdirAll(filepath.Dir(file), 0o700))
		must(t, os.WriteFile(file, []byte(text), 0o600))
	}
	return j
}

// ansibleSettings are what ansible is told by its environment: the collection in dist, and
// connections that are kept, as it does by itself.
func ansibleSettings(dist, home, known string) string {
	return "ANSIBLE_COLLECTIONS_PATH: " + dist + "\nANSIBLE_LOCAL_TEMP: " + home + "\nANSIBLE_HOME: " + home + "\nANSIBLE_SSH_CONTROL_PATH_DIR: " + home + "/cp\n" +
		"ANSIBLE_SSH_ARGS: -F none -o ControlMaster=auto -o ControlPersist=60s -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + known + "\n"
}

// artifacts is where process leaves them.
func (j *job) artifacts() string { return filepath.Join(j.dir, "out", "artifacts", j.ident) }

// do is transmit | worker | process, and returns what process printed, and how each
// has ended.
func (j *job) do(ctx context.Context, more ...string) (said string, ends []*os.ProcessState, err error) {
	argv := [][]string{
		append([]string{"ansible-runner", "transmit", j.dir, "-p", "site.yml", "--ident", j.ident}, more...),
		{"ansible-runner", "worker"},
		{"ansible-runner", "process", filepath.Join(j.dir, "out"), "--ident", j.ident},
	}
	if j.wrap != nil {
		for i := range argv {
			argv[i] = j.wrap(i, argv[i]...)
		}
	}
	all := []*exec.Cmd{nowhere(ctx, argv[0]...), j.worker.Command(ctx, argv[1]...), nowhere(ctx, argv[2]...)}
	var out, stderr lockedBuffer
	var between sync.WaitGroup
	for i, cmd := range all {
		cmd.Env, cmd.Dir, cmd.Stderr = j.env, j.dir, &stderr
		if i == 0 {
			continue
		}
		from, err := all[i-1].StdoutPipe()
		if err != nil {
			return "", nil, err
		}
		to, err := cmd.StdinPipe()
		if err != nil {
			return "", nil, err
		}
		bytes := []*int64{&j.sent, &j.came}[i-1]
		*bytes = 0
		between.Go(func() {
			*bytes, _ = io.Copy(to, from) // the one that ended early says why
			to.Close()
		})
	}
	all[2].Stdout = &out
	for _, cmd := range all {
		if err := cmd.Start(); err != nil {
			return "", nil, err
		}
	}
	between.Wait()
	for _, cmd := range all {
		if failed := cmd.Wait(); err == nil {
			err = failed
		}
		ends = append(ends, cmd.ProcessState)
	}
	return out.String() + stderr.String(), ends, err
}

// lockedBuffer is written by several programs.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// ansible-runner's worker, in a network that alone reaches the mail hosts, does there
// what run does from here, and the run comes back as artifacts: imported where no host
// can be reached, they are one run with one report.
func TestRunnerElsewhere(t *testing.T) {
	t.Parallel()
	three := hosts(t, 3)
	two, third := newFleet(t, three[:2], few), newFleet(t, three[2:], few)
	dist := filepath.Join(t.TempDir(), "dist")
	alone(t, two, "collection", "--output", dist)
	var messages [3][]lab.Message
	for i, h := range three {
		messages[i] = smallFlood(t, h)
	}
	rules := floodRules(three...)
	succeeds(t, third, "run", "backscatter", "-y", "-e", rulesFile(t, rules))

	island, err := lab.NewIsland(t.Context(), two.hosts...)
	must(t, err)
	t.Cleanup(func() { must(t, island.Close()) })
	// The control side has no way to them, and neither has this machine.
	ssh := []string{"ssh", "-F", "none", "-o", "ConnectTimeout=2", "root@" + three[0].Address, "true"}
	for name, cmd := range map[string]*exec.Cmd{"the control side": nowhere(t.Context(), ssh...), "this machine": exec.CommandContext(t.Context(), ssh[0], ssh[1:]...)} {
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "connect to host") {
			t.Errorf("from %s: %v, %s", name, err, out)
		}
	}
	j := newJob(t, two, island, dist, "east", "- hosts: all\n  gather_facts: false\n  roles: [spoolsweep.postfix.backscatter]\n")
	must(t, os.WriteFile(filepath.Join(j.dir, "env/extravars"), []byte(rules), 0o600))
	if said, _, err := j.do(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	sums := regexp.MustCompile(`set aside: restored .*`)
	want := sums.FindString(succeeds(t, third, "report", "--ledger").out)
	ledger := there(t, 0, island.Command, two, "report", "--ledger")
	for i, h := range three {
		a := checkSwept(t, h, messages[i])
		checkOnce(t, h, a, messages[i])
	}
	if got := sums.FindAllString(ledger.out, -1); len(got) != 2 || got[0] != want || got[1] != want || want == "" {
		t.Errorf("run comes to %q, the role to %q", want, got)
	}

	r := there(t, 0, nowhere, two, "report", "--import", j.artifacts(), "-o", "json")
	doc := document(t, r)
	theirs := document(t, there(t, 0, island.Command, two, "report", doc.Run, "--ask-hosts", "-o", "json"))
	for _, h := range two.hosts {
		got, want := hostIn(t, doc, h), hostIn(t, theirs, h)
		for _, stages := range [][]*show.Stage{got.Stages, want.Stages} {
			for _, s := range stages {
				var v any
				must(t, json.Unmarshal(s.Result, &v))
				s.Result, err = json.Marshal(v)
				must(t, err)
			}
		}
		if d := cmp.Diff(want.Stages, got.Stages); d != "" || len(want.Stages) == 0 {
			t.Errorf("%s: (-the host +imported): %s", h.Name, d)
		}
		var at [2]struct {
			Phase, Who, Playbook string
			Aside                int64
		}
		must(t, json.Unmarshal(want.Result, &at[0]))
		must(t, json.Unmarshal(got.Result, &at[1]))
		if at[0] != at[1] || at[0].Phase != "finished" || at[0].Aside == 0 {
			t.Errorf("%s: imported %+v, want %+v", h.Name, at[1], at[0])
		}
	}
	for _, args := range [][]string{{"report", doc.Run}, {"report", doc.Run, "-o", "html"}, {"runs", "--imported"}} {
		if r := there(t, 0, nowhere, two, args...); !strings.Contains(r.out, two.hosts[0].Name) || !strings.Contains(r.out, two.hosts[1].Name) {
			t.Errorf("%q: %v", args, r)
		}
	}
	// The ledger is asked of the hosts, which are not reached from here.
	there(t, 4, nowhere, two, "report", doc.Run, "--ledger", "-T", "2s")
}

// there runs the program elsewhere, where only one exit status is right.
func there(t *testing.T, status int, where func(context.Context, ...string) *exec.Cmd, f *fleet, args ...string) result {
	t.Helper()
	argv, env := commandLine(t, f, args...)
	cmd := where(t.Context(), argv...)
	var out, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = env, &out, &stderr, t.TempDir()
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	r := result{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
	if r.status != status {
		t.Fatalf("spoolsweep %s: want exit status %d, got %v", strings.Join(args, " "), status, r)
	}
	return r
}
