package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// playLimit is for a whole incident, on a machine that is busy with other tests.
const playLimit = 3 * time.Minute

// playing is demo --play at work, for a user that is not root.
type playing struct {
	t       *testing.T
	dir     string
	cmd     *exec.Cmd
	out     interface{ Read([]byte) (int, error) }
	exports []string
	aliased bool
}

// another is a command in the same user's other terminal.
func (p *playing) another(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, built(p.t), args...)
	cmd.Dir, cmd.SysProcAttr = p.dir, p.cmd.SysProcAttr
	cmd.Env = append(slices.Clone(p.cmd.Env), p.exports...)
	return cmd
}

// types runs one there to its end.
func (p *playing) types(ctx context.Context, want int, args ...string) (out, stderr string) {
	p.t.Helper()
	cmd := p.another(ctx, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) || cmd.ProcessState.ExitCode() != want {
		p.t.Fatalf("%q: %v, want status %d\n%s%s", args, err, want, o.Bytes(), e.Bytes())
	}
	return o.String(), e.String()
}

func startPlaying(t *testing.T, ctx context.Context) *playing {
	t.Helper()
	p := &playing{t: t}
	p.dir, p.cmd = ordinary(t, ctx, "demo", "--play")
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := readUntil(t, out, "Ctrl-C here ends the servers and removes them.")
	for _, m := range regexp.MustCompile(`(?m)^ +export (\S+)$`).FindAllStringSubmatch(told, -1) {
		p.exports = append(p.exports, m[1])
	}
	p.aliased = strings.Contains(told, "    alias spoolsweep=")
	if flags := regexp.MustCompile(`(?m)^ +-i \S+ --ssh-config \S+ --agent \S+$`).FindString(told); len(p.exports) != 3 || flags == "" {
		t.Fatalf("it does not say what to type:\n%s", told)
	}
	return p
}

// ends has it end by a signal, and looks what is left.
func (p *playing) ends(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	// Once more while it ends: a shell and the system may each say it.
	said := readUntil(p.t, p.out, "being ended")
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
	said += readUntil(p.t, p.out, "")
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("%v: %v\n%s", sig, err, said)
	}
	if !strings.Contains(said, "    unset "+inventoryVariable) || p.aliased != strings.Contains(said, "    unalias spoolsweep\n") {
		p.t.Errorf("it does not say what to take back:\n%s", said)
	}
	for _, folder := range []string{"tmp", "home"} {
		left, err := os.ReadDir(filepath.Join(p.dir, folder))
		if err != nil || len(left) > 0 {
			p.t.Errorf("%v: left behind in %s: %v, %v", sig, folder, left, err)
		}
	}
	// A worker of a run that was cancelled may be about to end.
	for limit := time.Now().Add(demoPatience); ; time.Sleep(20 * time.Millisecond) {
		ours := processesBelow(p.t, p.dir)
		if len(ours) == 0 {
			return
		}
		if time.Now().After(limit) {
			p.t.Fatalf("%v: still running: %q", sig, ours)
		}
	}
}

// A whole incident in another terminal, without a flag that says where; then
// Ctrl-C, and nothing is left.
func TestPlay(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), playLimit)
	defer cancel()
	p := startPlaying(t, ctx)
	out, _ := p.types(ctx, 0, "health")
	if !strings.Contains(out, "chavez") || !strings.Contains(out, "relay01") {
		t.Errorf("health:\n%s", out)
	}
	if out, _ = p.types(ctx, 0, "suspects", "-l", "chavez"); !strings.Contains(out, demoAccount) {
		t.Errorf("suspects:\n%s", out)
	}
	_, stderr := p.types(ctx, 3, "run", "backscatter", "-y")
	run := begun(stderr)
	rules, _ := p.types(ctx, 0, "suggest", "--aside", run, "-o", "yaml")
	if err := os.WriteFile(filepath.Join(p.dir, "rules.yaml"), []byte(rules), 0o644); err != nil {
		t.Fatal(err)
	}
	p.types(ctx, 0, "classify", "--aside", run, "-e", "@rules.yaml")
	p.types(ctx, 0, "resume", run, "-e", "@rules.yaml", "-e", "rate=0", "-y")
	if out, _ = p.types(ctx, 0, "report", run, "--ledger"); !strings.Contains(out, "missing 0") {
		t.Errorf("report:\n%s", out)
	}
	p.types(ctx, 0, "runs")
	p.ends(syscall.SIGINT)
	// The variables are still there, and lead nowhere.
	_, stderr = p.types(ctx, statusUsage, "health")
	if !strings.Contains(stderr, "unset "+inventoryVariable) {
		t.Errorf("afterwards: %s", stderr)
	}
}

// The terminal is closed while a run still sends mail back, which would take it
// minutes.
func TestPlayEndsWhileARunWorks(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), playLimit)
	defer cancel()
	p := startPlaying(t, ctx)
	rules := filepath.Join(p.dir, "rules.yaml")
	if err := os.WriteFile(rules, []byte(demoRules), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := p.another(ctx, "run", "backscatter", "-l", "chavez", "-y", "-e", "@"+rules, "-e", "rate=1/s", "--reconnect", "0s")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = cmd.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	readUntil(t, stderr, "restored ")
	p.ends(syscall.SIGHUP)
	readUntil(t, stderr, "")
	if err := cmd.Wait(); err == nil {
		t.Error("the run ended well, though its host is gone")
	}
}
