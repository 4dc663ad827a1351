package spool

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	for _, tt := range []struct {
		line, output string
		exit         int
	}{
		{"echo out; echo err >&2", "out\nerr", 0},
		{"exit 7", "", 7},
		{"cat", "", 0}, // nothing to read, and not the line itself
		{"echo ${" + lineVariable + "-unset}", "unset", 0},
		{"echo 'a  b'", "a  b", 0},
		{"sleep 1000 & echo left", "left", 0}, // what it leaves behind does not hold us
		{"yes | head -c 100000; echo end", "", 0},
		{"kill -KILL $$", "", -1},
		{"no-such-program-here", "", 127},
	} {
		r, err := RunLine(t.Context(), time.Minute, tt.line)
		if r.Exit != tt.exit || (err != nil) != (tt.exit < 0) {
			t.Errorf("%s: got %+v, %v, want exit status %d", tt.line, r, err, tt.exit)
		}
		if tt.output != "" && r.Output != tt.output {
			t.Errorf("%s: got %q, want %q", tt.line, r.Output, tt.output)
		}
		if len(r.Output) > maxOutput {
			t.Errorf("%s: %d bytes are kept", tt.line, len(r.Output))
		}
	}
	// What a line says is nobody else's to read.
	const secret = "hush-5309"
	if r, err := RunLine(t.Context(), time.Minute, "tr '\\0' ' ' </proc/$$/cmdline || ps -o args= -p $$; : "+secret); err != nil || strings.Contains(r.Output, secret) || !strings.Contains(r.Output, "eval") {
		t.Errorf("got %+v, %v", r, err)
	}
	r, err := RunLine(t.Context(), 50*time.Millisecond, "echo before; sleep 1000")
	if !errors.Is(err, errTimeLimit) || r.Exit != -1 || r.Output != "before" {
		t.Errorf("at the limit: got %+v, %v", r, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := RunLine(ctx, time.Minute, "sleep 1000"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	if r, err := Run(t.Context(), time.Minute, "echo", "$HOME; id"); err != nil || r.Output != "$HOME; id" {
		t.Errorf("got %+v, %v", r, err)
	}
	if Lives("no-such-program") {
		t.Error("it lives")
	}
	if name, err := os.ReadFile("/proc/self/comm"); err == nil && !Lives(strings.TrimSpace(string(name))) {
		t.Errorf("this process (%s) does not live", name)
	}
}

// What runs in a container of this host is not the host's: it is not restarted here.
func TestLivesElsewhere(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs PID namespaces, which Linux has")
	}
	const name = "elsewhere-only"
	program := filepath.Join(t.TempDir(), name)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	// Not written here: a child of another test could still have it open.
	if out, err := exec.Command("cp", sleep, program).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	for _, argv := range [][]string{{program, "1000"}, {"unshare", "--map-root-user", "--pid", "--fork", "--kill-child", program, "1000"}} {
		elsewhere := argv[0] == "unshare"
		cmd := exec.Command(argv[0], argv[1:]...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait()
			close(ended)
		}()
		runs := func() bool {
			all, err := processes()
			return err == nil && slices.ContainsFunc(all, func(p process) bool { return p.command == name })
		}
		for over := false; !over && !runs(); {
			select {
			case <-ended: // a system that has no namespaces for its users
				over = true
			case <-time.After(5 * time.Millisecond):
			}
		}
		if got := Lives(name); got == elsewhere {
			t.Errorf("%q: lives %t", argv, got)
		}
		_ = cmd.Process.Kill()
		<-ended
		for runs() {
			time.Sleep(5 * time.Millisecond)
		}
	}
}
