package lab_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

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
	two := hosts(t, 2)
	f := newFleet(t, two, few)
	dist := filepath.Join(t.TempDir(), "dist")
	alone(t, f, "collection", "--output", dist)
	island, err := lab.NewIsland(t.Context(), two...)
	must(t, err)
	t.Cleanup(func() { must(t, island.Close()) })
	// The control side has no way to them, and neither has this machine.
	for name, cmd := range map[string]*exec.Cmd{
		"nowhere":      nowhere(t.Context(), "ssh", "-F", "none", "-o", "ConnectTimeout=2", "root@"+two[0].Address, "true"),
		"this machine": exec.CommandContext(t.Context(), "ssh", "-F", "none", "-o", "ConnectTimeout=2", "root@"+two[0].Address, "true"),
	} {
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "connect to host") {
			t.Errorf("from %s: %v, %s", name, err, out)
		}
	}
	j := newJob(t, f, island, dist, "east", lookPlay)
	said, _, err := j.do(t.Context())
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, h := range two {
		if !regexp.MustCompile(h.Name + ` +: ok=1 `).MatchString(said) {
			t.Errorf("%s has not answered: %s", h.Name, said)
		}
	}
	// It looked, and carried out no run.
	if r := spoolsweep(t, f, "report", "--import", j.artifacts()); r.status != 1 || !strings.Contains(r.err, "no run is in the artifacts of 1 job") {
		t.Errorf("%v", r)
	}
}
