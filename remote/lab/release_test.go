package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A release needs neither Go nor its source: the agent it carries is sent, and is
// not sent again.
func TestRelease(t *testing.T) {
	t.Parallel()
	f := newFleet(t, hosts(t, 1))
	_, program := release(t)
	home := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		argv, _ := commandLine(t, f, args...)
		cmd := exec.Command(program, argv[1:]...)
		cmd.Dir, cmd.Env = home, []string{"PATH=/nowhere", "HOME=" + home, "LANG=C.UTF-8"}
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, said)
		}
		return string(said)
	}
	run("uninstall")
	if said := run("ping", "-v"); !strings.Contains(said, "of agent were sent there") {
		t.Errorf("with its own agent: %s", said)
	}
	if said := run("ping", "-v"); strings.Contains(said, "of agent were sent there") {
		t.Errorf("the second time: %s", said)
	}
	if _, err := os.Stat(filepath.Join(home, ".cache", "spoolsweep", "agents")); err == nil {
		t.Error("it has built an agent")
	}
}
