package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"spoolsweep/remote/push"
)

// module copies the source to a place of its own, without its history.
func module(t *testing.T, to string) string {
	t.Helper()
	root := filepath.Dir(filepath.Dir(mustWd(t)))
	list := exec.Command("git", "ls-files", "-co", "--exclude-standard", "-z", "--", "*.go", "go.mod", "go.sum", "cmd", "playbooks")
	list.Dir = root
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		if err := copyFile(filepath.Join(root, name), filepath.Join(to, name)); err != nil && !os.IsNotExist(err) { // one that was removed is still listed
			t.Fatal(err)
		}
	}
	return to
}

func mustWd(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// A release is the same byte for byte wherever it is built, and carries the agents
// of all architectures.
func TestRelease(t *testing.T) {
	system := runtime.GOOS + "/" + runtime.GOARCH
	var first string
	for _, place := range []string{"one", "another, with a longer name"} {
		at := module(t, filepath.Join(t.TempDir(), place))
		run := exec.Command("go", "run", "./cmd/release", "-o", "out", "-systems", system)
		run.Dir = at
		run.Env = append(os.Environ(), "PWD="+at)
		said, err := run.Output()
		if err != nil {
			t.Fatalf("release: %v\n%s", err, err.(*exec.ExitError).Stderr)
		}
		sums, err := os.ReadFile(filepath.Join(at, "out", "SHA256SUMS"))
		if err != nil || !bytes.Equal(sums, said) {
			t.Errorf("SHA256SUMS: %v, %q, and printed was %q", err, sums, said)
		}
		check := exec.Command("sha256sum", "-c", "SHA256SUMS")
		check.Dir = filepath.Join(at, "out")
		if said, err := check.CombinedOutput(); err != nil {
			t.Errorf("sha256sum -c: %v\n%s", err, said)
		}
		if first == "" {
			first = string(sums)
		} else if string(sums) != first {
			t.Errorf("built in another place: %s, first %s", sums, first)
		}
		var version struct {
			Agents map[string]string `json:"agents"`
		}
		told, err := exec.Command(filepath.Join(at, "out", "spoolsweep-"+strings.ReplaceAll(system, "/", "-")), "version", "-o", "json").Output()
		if err != nil || json.Unmarshal(told, &version) != nil {
			t.Fatalf("version: %v, %s", err, told)
		}
		for _, arch := range push.Architectures {
			if len(version.Agents[arch]) != 64 {
				t.Errorf("the agent for %s: %q", arch, version.Agents[arch])
			}
		}
		if len(version.Agents) != len(push.Architectures) {
			t.Errorf("agents: %v", version.Agents)
		}
	}
}

// A system that nobody has is refused before anything is built.
func TestReleaseFor(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	err := release(t.Context(), out, []string{"linux/amd64", "plan9/mips"})
	if err == nil || !strings.Contains(err.Error(), `"plan9/mips": not one of linux/amd64`) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a folder was made for it")
	}
	if !slices.Contains(systems, "darwin/arm64") || len(systems) != 6 {
		t.Errorf("systems: %q", systems)
	}
}
