package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab/needs"
)

// emulator is a real terminal, tmux, in which the real program runs.
type emulator struct {
	t            *testing.T
	tmux, socket string
	written      string // the file of all that the program has written to it
}

// emulatorPatience bounds the wait for what a screen is to show.
const emulatorPatience = time.Minute

// newEmulator starts the program in a terminal of that size. variables come after
// those of the test, TZ=UTC among them.
func newEmulator(t *testing.T, width, height int, variables []string, args ...string) *emulator {
	t.Helper()
	return emulate(t, width, height, variables, append([]string{built(t)}, args...)...)
}

// emulate is newEmulator of any program.
func emulate(t *testing.T, width, height int, variables []string, args ...string) *emulator {
	t.Helper()
	e := &emulator{t: t, tmux: needs.Program(t, "tmux")}
	dir, err := os.MkdirTemp(testDir, "")
	if err != nil {
		t.Fatal(err)
	}
	e.socket, e.written = filepath.Join(dir, "s"), filepath.Join(dir, "written")
	settings := filepath.Join(dir, "conf")
	if err := os.WriteFile(settings, []byte("set -g status off\nset -g remain-on-exit on\nset -g history-limit 100000\nset -g default-terminal screen\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	command := []string{"-u", "-f", settings, "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), "--", "env", "TZ=UTC", "LC_ALL=C.UTF-8", "NO_COLOR="}
	command = append(append(command, variables...), args...)
	command = append(command, ";", "pipe-pane", "-O", "exec cat >"+e.written)
	t.Cleanup(func() {
		_, _ = e.does("kill-server") // it has ended with its program
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	e.must(command...)
	return e
}

func (e *emulator) does(args ...string) (string, error) {
	out, err := exec.Command(e.tmux, append([]string{"-S", e.socket}, args...)...).CombinedOutput()
	return string(out), err
}

func (e *emulator) must(args ...string) string {
	e.t.Helper()
	out, err := e.does(args...)
	if err != nil {
		e.t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return out
}

func (e *emulator) types(keys ...string) {
	e.t.Helper()
	e.must(append([]string{"send-keys"}, keys...)...)
}

func (e *emulator) resize(width, height int) {
	e.t.Helper()
	e.must("resize-window", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height))
}

// screen is what is to be seen, without the blanks at the end of lines, the empty
// lines at the end, and the echo of Ctrl-C, which the kernel may write before or after
// what the program does on its signal.
func (e *emulator) screen() string {
	e.t.Helper()
	return trimmed(e.must("capture-pane", "-p"))
}

// all is that and what was scrolled away, long lines in one.
func (e *emulator) all() string {
	e.t.Helper()
	return trimmed(e.must("capture-pane", "-p", "-J", "-S", "-"))
}

func trimmed(screen string) string {
	lines := strings.Split(strings.ReplaceAll(screen, "^C", ""), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	return strings.TrimRight(strings.Join(lines, "\n"), "\n") + "\n"
}

// shows waits until the screen matches, and is drawn to its end, and returns it.
func (e *emulator) shows(expression string) string {
	e.t.Helper()
	return e.until(e.screen, true, expression)
}

// says is shows of all that was ever on the screen.
func (e *emulator) says(expression string) string {
	e.t.Helper()
	return e.until(e.all, false, expression)
}

// until looks until it sees that; at a screen, one that stands.
func (e *emulator) until(look func() string, stands bool, expression string) string {
	e.t.Helper()
	re := regexp.MustCompile("(?m)" + expression)
	screen := ""
	for limit := time.Now().Add(emulatorPatience); time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		if screen = look(); re.MatchString(screen) && (!stands || screen == look()) {
			return screen
		}
	}
	e.t.Fatalf("the screen does not come to show %q:\n%s", expression, screen)
	return ""
}

// ended waits for the end of the program.
func (e *emulator) ended() {
	e.t.Helper()
	for limit := time.Now().Add(emulatorPatience); e.must("display-message", "-p", "#{pane_dead}") != "1\n"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			e.t.Fatalf("it does not end:\n%s", e.screen())
		}
	}
}

// bytes are those that the program has written.
func (e *emulator) bytes() string {
	e.t.Helper()
	text, err := os.ReadFile(e.written)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		e.t.Fatal(err)
	}
	return string(text)
}

// viewOf is the part of a screen that is drawn anew, from its line of sums on.
func viewOf(screen string) string {
	if i := strings.LastIndex("\n"+screen, "\n-- "); i >= 0 {
		return screen[i:]
	}
	return ""
}
