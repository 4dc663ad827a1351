package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"spoolsweep/playbooks/ansible"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/push"
	"spoolsweep/spool/stage"
)

// The collection is whole, and says of plans and agents what is so. What it does is
// tested on the lab's hosts, with Ansible.
func TestCollection(t *testing.T) {
	t.Parallel()
	dist := filepath.Join(t.TempDir(), "dist")
	r := execs(t, "collection", "--output", dist, "--agent", built(t))
	top := filepath.Join(dist, filepath.FromSlash(ansible.Folder))
	r.want(t, 0, top)
	files, err := ansible.Files(reflect.TypeFor[stage.Vars]())
	if err != nil {
		t.Fatal(err)
	}
	modules := 0
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(top, name))
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %v, %d bytes, want %d", name, err, len(got), len(want))
		}
		if rest, ok := strings.CutPrefix(name, "plugins/modules/"); ok {
			modules++
			if files["plugins/action/"+rest] == nil {
				t.Errorf("%s has no action: it would be sent to a host", name)
			}
		}
	}
	if modules != 7 {
		t.Errorf("%d modules", modules)
	}
	code := string(files["plugins/plugin_utils/agent.py"])
	if !strings.Contains(code, fmt.Sprintf("\nPLAN_VERSION = %d\n", agent.PlanVersion)) {
		t.Errorf("it makes plans of another version than %d", agent.PlanVersion)
	}
	for _, arch := range push.Architectures {
		if !strings.Contains(code, fmt.Sprintf("%q", arch)) {
			t.Errorf("it knows no host of %s", arch)
		}
		if s, err := os.Stat(filepath.Join(top, ansible.AgentFile(arch))); err != nil || s.Size() == 0 {
			t.Errorf("no agent for %s: %v", arch, err)
		}
	}
	for _, name := range knownVars() {
		if !strings.Contains(string(files["plugins/action/queue_info.py"]), fmt.Sprintf("%q", name)) && name != agentDirectory {
			t.Errorf("the host variable %s is not passed on", name)
		}
	}
	if _, err := exec.LookPath("python3"); err == nil { // or that is the lab's to find
		argv := []string{"-m", "compileall", "-q", top}
		if out, err := exec.CommandContext(t.Context(), "python3", argv...).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	execs(t, "collection", "--output", dist, "--agent", built(t)).want(t, statusUsage, "file exists")
	execs(t, "collection").want(t, statusUsage, "--output is wanted")
	execs(t, "collection", "x").want(t, statusUsage, "unexpected argument")
}
