package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/urfave/cli/v2"

	"spoolsweep/spool/practice"
)

// The test program is a practice Postfix and a practice agent as well, with the
// same first lines as main.
func TestMain(m *testing.M) {
	if code, mine := practice.Main(os.Args[1:]); mine {
		os.Exit(code)
	}
	if file, err := os.Executable(); err == nil && strings.HasPrefix(filepath.Base(file), agentName) {
		os.Exit(practiceMain())
	}
	os.Exit(testMain(m))
}

// testMain gives all tests an empty home, so that nothing of the user's own
// configuration takes part, and one folder for what is built.
func testMain(m *testing.M) int {
	var err error
	// Paths of sockets are short: TMPDIR is too long a name on macOS.
	if testDir, err = os.MkdirTemp("/tmp", "ss"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(testDir)
	for name, value := range map[string]string{
		"HOME": filepath.Join(testDir, "home"), "GOFLAGS": "-buildvcs=false",
		"XDG_CONFIG_HOME": "", "XDG_CACHE_HOME": "", "XDG_STATE_HOME": "", inventoryVariable: "", configVariable: "", agentVariable: "", "SSH_AUTH_SOCK": "",
		// The cache of Go's build is the user's, wherever HOME points.
		"GOCACHE": goEnv("GOCACHE"), "GOMODCACHE": goEnv("GOMODCACHE"), "GOPATH": goEnv("GOPATH"),
	} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	// The program is run by other users too.
	if err := errors.Join(os.Mkdir(os.Getenv("HOME"), 0o700), os.Chmod(testDir, 0o755)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

var testDir string

// program builds the program once for all tests.
var program = sync.OnceValues(func() (string, error) {
	file := filepath.Join(testDir, "spoolsweep")
	if out, err := exec.Command("go", "build", "-o", file, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return file, nil
})

func built(t testing.TB) string {
	t.Helper()
	file, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// fleet is a practice fleet of a test.
type fleet struct {
	*practiceFleet
	t testing.TB
}

// flooded is how the hosts of most tests are: nothing is delivered.
var flooded = practice.Options{Rate: 0.001}

// fleetOf makes hosts that last as long as the test. Their Postfix does not run.
func fleetOf(t testing.TB, o practice.Options, names ...string) *fleet {
	t.Helper()
	dir, err := os.MkdirTemp(testDir, "")
	if err != nil {
		t.Fatal(err)
	}
	f, err := newPracticeFleet(dir, built(t), o, names...)
	t.Cleanup(func() {
		if err := errors.Join(f.close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// On hosts that deliver nothing a restore that waits for its mail to go would
	// wait for ever.
	inventory, err := os.ReadFile(f.file(fleetInventory))
	if err != nil {
		t.Fatal(err)
	}
	all := &fleet{f, t}
	all.write(fleetInventory, strings.Replace(string(inventory), "  vars:\n", "  vars:\n    live_max: 0\n", 1))
	return all
}

// withFlood floods and starts the hosts.
func (f *fleet) withFlood(n int) *fleet {
	f.t.Helper()
	if err := f.flood(f.t.Context(), demoAccount, n); err != nil {
		f.t.Fatal(err)
	}
	return f
}

// result is what a command line did.
type result struct {
	line     string
	status   int
	out, err string
}

// where are the flags that find the fleet.
func (f *fleet) where() []string {
	return []string{"-i", f.file(fleetInventory), "--ssh-config", f.file(fleetConfig)}
}

// spoolsweep runs a command in this process; on the hosts it is the real program.
func (f *fleet) spoolsweep(args ...string) result {
	f.t.Helper()
	return f.run(append(args, f.where()...)...)
}

func (f *fleet) run(args ...string) result {
	var out, err bytes.Buffer
	app := newApp(strings.NewReader(""), &out, &err)
	app.Metadata[agentSource] = f.source
	status := inProcess(f.t.Context(), app, append([]string{"spoolsweep"}, args...)...)
	return result{strings.Join(args, " "), status, out.String(), err.String()}
}

// reading is held while a command line is read: the library writes to what it has
// one of for the whole process, its help flag and command.
var reading sync.Mutex

// inProcess executes a command line in this process, where others may be at work.
func inProcess(ctx context.Context, app *cli.App, args ...string) int {
	reading.Lock()
	read := sync.OnceFunc(reading.Unlock)
	defer read()
	for _, c := range app.Commands {
		act := c.Action
		c.Action = func(ctx *cli.Context) error {
			read()
			return act(ctx)
		}
	}
	return execute(ctx, app, args)
}

// execs runs the program itself, for its real exit status and streams.
func execs(t testing.TB, args ...string) result {
	t.Helper()
	return execsIn(t, t.TempDir(), args...)
}

// execsIn is execs in a folder.
func execsIn(t testing.TB, dir string, args ...string) result {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), built(t), args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &stderr, dir
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
}

// want fails the test unless the command ended with status, and said all of
// these on one of its streams.
func (r result) want(t testing.TB, status int, said ...string) {
	t.Helper()
	if r.status != status {
		t.Fatalf("%s: exit status %d, want %d\nstdout:\n%s\nstderr:\n%s", r.line, r.status, status, r.out, r.err)
	}
	for _, s := range said {
		if !strings.Contains(r.out+r.err, s) {
			t.Errorf("%s: does not say %q\nstdout:\n%s\nstderr:\n%s", r.line, s, r.out, r.err)
		}
	}
}

// write writes a file of the test and returns its path.
func (f *fleet) write(name, text string) string {
	f.t.Helper()
	if err := os.WriteFile(f.file(name), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return f.file(name)
}
