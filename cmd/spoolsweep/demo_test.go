package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/spool/practice"
)

// nobody is a user without rights, if the test runs as root.
const nobody = 65534

// ordinary makes a folder for a user that is not root, with a home in it, and a
// command as that user.
func ordinary(t *testing.T, ctx context.Context, args ...string) (dir string, cmd *exec.Cmd) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "sd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, sub := range []string{"home", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd = exec.CommandContext(ctx, built(t), args...)
	// Neither Go nor Postfix is needed, only what every system has.
	cmd.Env = []string{"HOME=" + filepath.Join(dir, "home"), "TMPDIR=" + filepath.Join(dir, "tmp"), "PATH=/usr/bin:/bin"}
	cmd.Dir = dir
	if os.Geteuid() == 0 {
		for _, d := range []string{dir, filepath.Join(dir, "home"), filepath.Join(dir, "tmp")} {
			if err := os.Chown(d, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return dir, cmd
}

const demoLimit = time.Minute

// The demo's own word is not taken: each message is looked for.
func TestDemo(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), demoLimit)
	defer cancel()
	dir, cmd := ordinary(t, ctx, "demo", "--keep", "k")
	cmd.Env = append(cmd.Env, inventoryVariable+"=/nowhere", agentVariable+"=/nowhere")
	asTheyWere := keepsLists(t, dir)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("the demo took %v", time.Since(began))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	asTheyWere()
	for _, name := range []string{"chavez", "peltier", "relay01"} {
		// A host may be opened by its owner only.
		if os.Geteuid() == 0 {
			chown(t, filepath.Join(dir, "k"), 0)
		}
		h, err := practice.Open(filepath.Join(dir, "k", name))
		if err != nil {
			t.Fatal(err)
		}
		if master, running := h.Running(); running {
			t.Errorf("%s: its master %d still runs", name, master)
		}
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Messages) != demoMessages+1 || len(a.Lost()) > 0 || len(a.Twice()) > 0 || len(a.Unknown) > 0 || len(a.Broken) > 0 {
			t.Errorf("%s: %d messages, lost %v, twice %v, unknown %v, broken %v", name, len(a.Messages), a.Lost(), a.Twice(), a.Unknown, a.Broken)
		}
		if wrong := a.Elsewhere(practice.Ham, func(p practice.Place) bool { return p.Live() || p.Delivered() }); len(wrong) > 0 {
			t.Errorf("%s: ham that is neither live nor delivered: %v", name, wrong)
		}
		if wrong := a.Elsewhere(practice.Spam, practice.Place.Aside); len(wrong) > 0 {
			t.Errorf("%s: spam that is not aside: %v", name, wrong)
		}
		if a.Count(practice.Ham)["delivered"] == 0 || a.Count(practice.Spam)["incoming.spamfull"] == 0 {
			t.Errorf("%s: ham %v, spam %v", name, a.Count(practice.Ham), a.Count(practice.Spam))
		}
	}
	if !bytes.Contains(out, []byte("Nothing was lost")) {
		t.Errorf("the demo does not say how it ended:\n%s", out)
	}
}

// keepsLists puts what an earlier run of real hosts has kept into the home of a folder
// that ordinary made. It returns what looks that it is there as it was, and nothing else.
func keepsLists(t *testing.T, dir string) (asTheyWere func()) {
	t.Helper()
	home := filepath.Join(dir, "home")
	folder := filepath.Join(home, ".local", "state", "spoolsweep", "retry")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	const text = "# run 20261123T231500Z-ab12, ended 2026-11-23T23:20:00Z\nmx7\n"
	for name := range keptNames {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		chown(t, home, nobody)
	}
	return func() {
		t.Helper()
		var files []string
		err := filepath.Walk(home, func(path string, info os.FileInfo, err error) error {
			if err == nil && !info.IsDir() {
				files = append(files, path)
			}
			return err
		})
		if err != nil || len(files) != len(keptNames) {
			t.Errorf("in the home are %q, %v: want the lists that were there", files, err)
		}
		for name := range keptNames {
			if now, err := os.ReadFile(filepath.Join(folder, name)); err != nil || string(now) != text {
				t.Errorf("@%s is %q now, %v", name, now, err)
			}
		}
	}
}

func chown(t *testing.T, dir string, id int) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, id, id)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// startDemo starts the demo as an ordinary user, whose files are in dir.
func startDemo(t *testing.T) (dir string, cmd *exec.Cmd, out io.ReadCloser, stderr *bytes.Buffer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), demoLimit)
	t.Cleanup(cancel)
	dir, cmd = ordinary(t, ctx, "demo")
	stderr = new(bytes.Buffer)
	cmd.Stderr = stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return dir, cmd, out, stderr
}

// nothingLeft looks that a demo has left neither file nor process.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if ours := processesBelow(t, dir); len(ours) > 0 {
		t.Errorf("still running: %q", ours)
	}
}

// Ctrl-C in the middle leaves no process and no file.
func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	dir, cmd, out, stderr := startDemo(t)
	// In the section of the first host.
	told := readUntil(t, out, "| count")
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	readUntil(t, out, "")
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != statusInterrupted {
		t.Errorf("%v, want status %d\n%s%s", err, statusInterrupted, told, stderr.String())
	}
	nothingLeft(t, dir)
}

// Nor does a reader who goes away, as head does.
func TestDemoUnread(t *testing.T) {
	t.Parallel()
	dir, cmd, out, stderr := startDemo(t)
	readUntil(t, out, "1. Look first")
	out.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != statusInterrupted {
		t.Errorf("%v, want status %d\n%s", err, statusInterrupted, stderr.Bytes())
	}
	nothingLeft(t, dir)
}

// readUntil reads a stream until it holds text, or, for "", to its end.
func readUntil(t *testing.T, r interface{ Read([]byte) (int, error) }, text string) string {
	t.Helper()
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		all = append(all, buf[:n]...)
		if text != "" && bytes.Contains(all, []byte(text)) {
			return string(all)
		}
		if err != nil {
			if text != "" {
				t.Fatalf("ended before it said %q: %v\n%s", text, err, all)
			}
			return string(all)
		}
	}
}

// processesBelow are the command lines that name a folder.
func processesBelow(t *testing.T, dir string) []string {
	t.Helper()
	out, err := exec.Command("ps", "-Awwo", "args").Output()
	if err != nil {
		t.Logf("ps: %v: processes are not looked at", err)
		return nil
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) {
			found = append(found, line)
		}
	}
	return found
}
