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
	"time"

	"spoolsweep/playbooks/ansible"
	"spoolsweep/remote/push"
)

// module copies the source to a place of its own, without its history.
func module(t *testing.T, to string) string {
	t.Helper()
	root := filepath.Dir(filepath.Dir(mustWd(t)))
	list := exec.Command("git", "ls-files", "-co", "--exclude-standard", "-z", "--", "*.go", "go.mod", "go.sum", "cmd", "playbooks", "*.md", "*.yaml", ".ci/tools")
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
	key := filepath.Join(t.TempDir(), "key")
	if said, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, said)
	}
	var first string
	for _, place := range []string{"one", "another, with a longer name"} {
		at := module(t, filepath.Join(t.TempDir(), place))
		run := exec.Command("go", "run", "./cmd/release", "-o", "out", "-systems", system, "-sign", key)
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
		verify(t, filepath.Join(at, "out"), key)
		if first == "" {
			first = string(sums)
		} else if string(sums) != first {
			t.Errorf("built in another place: %s, first %s", sums, first)
		}
		var version struct {
			Release string            `json:"release"`
			Agents  map[string]string `json:"agents"`
		}
		told, err := exec.Command(filepath.Join(at, "out", "spoolsweep-"+strings.ReplaceAll(system, "/", "-")), "version", "-o", "json").Output()
		if err != nil || json.Unmarshal(told, &version) != nil {
			t.Fatalf("version: %v, %s", err, told)
		}
		if version.Release != ansible.Version || len(strings.Fields(first)) != 2*wanted(system) {
			t.Errorf("release %q of %q, the collection is of %s", version.Release, first, ansible.Version)
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

// wanted is how many files a release for one system has: a program and its parts, and
// for Linux two packages in two formats.
func wanted(system string) int {
	if strings.HasPrefix(system, "linux/") {
		return 6
	}
	return 2
}

// verify is what SECURITY.md says.
func verify(t *testing.T, out, key string) {
	t.Helper()
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	signers := filepath.Join(t.TempDir(), "allowed_signers")
	if err := os.WriteFile(signers, append([]byte("spoolsweep "), public...), 0o600); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(out, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	for text, good := range map[string]bool{string(sums): true, string(sums) + "\n": false} {
		check := exec.Command("ssh-keygen", "-Y", "verify", "-f", signers, "-I", "spoolsweep", "-n", "file", "-s", filepath.Join(out, "SHA256SUMS.sig"))
		check.Stdin = strings.NewReader(text)
		if said, err := check.CombinedOutput(); (err == nil) != good {
			t.Errorf("verify %q: %v\n%s", text, err, said)
		}
	}
}

// The first heading of the changes is the release.
func TestNewest(t *testing.T) {
	for text, want := range map[string]string{
		"# Changes\n\n## 1.2.3 - 2026-02-28\n\nx\n\n## 1.2.2 - 2026-01-01\n": "1.2.3 2026-02-28",
		"## next\n\n## 0.1.0 - 2026-11-29\n":                                 "0.1.0 2026-11-29",
		"## 1.2.3 - 2026-02-30\n":                                            "",
		"## 1.2 - 2026-02-28\n":                                              "",
	} {
		file := filepath.Join(t.TempDir(), "CHANGELOG.md")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		version, date, err := newest(file)
		if got := version + " " + date.Format(time.DateOnly); want != "" && (err != nil || got != want) || want == "" && (err == nil || !strings.Contains(err.Error(), file)) {
			t.Errorf("%q: got %s, %v", text, got, err)
		}
	}
}

// A system that nobody has is refused before anything is built.
func TestReleaseFor(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	err := release(t.Context(), out, []string{"linux/amd64", "plan9/mips"}, "")
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
