package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/playbooks/ansible"
	"spoolsweep/remote/lab/needs"
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
			if runtime.GOOS == "linux" {
				t.Run("by rpm", func(t *testing.T) { installs(t, filepath.Join(at, "out")) })
			}
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

// installs has the real rpm install, check and remove the packages below a root of
// their own, where they have the files that dpkg would bring.
func installs(t *testing.T, out string) {
	t.Helper()
	needs.Program(t, "rpm")
	needs.Program(t, "dpkg-deb")
	root := t.TempDir()
	tool := func(argv ...string) string {
		t.Helper()
		if os.Geteuid() != 0 { // rpm changes its root
			argv = append([]string{"unshare", "--map-root-user"}, argv...)
		}
		cmd := exec.Command(argv[0], argv[1:]...)
		var complaint strings.Builder
		cmd.Stderr = &complaint
		said, err := cmd.Output()
		if err != nil {
			t.Fatalf("%q: %v\n%s%s", argv, err, said, complaint.String())
		}
		return string(said)
	}
	rpm := func(args ...string) string {
		t.Helper()
		return tool(append([]string{"rpm", "--root", root}, args...)...)
	}
	files, err := filepath.Glob(filepath.Join(out, "*.rpm"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%q, %v", files, err)
	}
	rpm("--initdb")
	rpm(append([]string{"--install"}, files...)...)
	if told := rpm("-V", "spoolsweep", "spoolsweep-agent"); told != "" {
		t.Errorf("it is not as the packages have it: %s", told)
	}
	for _, name := range files {
		debian := tool("dpkg-deb", "--fsys-tarfile", strings.TrimSuffix(name, ".rpm")+".deb")
		var want []string
		for r := tar.NewReader(strings.NewReader(debian)); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			if h.Typeflag == tar.TypeReg {
				want = append(want, strings.Replace(strings.TrimPrefix(h.Name, "."), "/zsh/vendor-completions/", "/zsh/site-functions/", 1))
			}
		}
		got := strings.Fields(rpm("--query", "--package", "--queryformat", `[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\n]`, name))
		var here []string
		for i := 0; i+2 < len(got); i += 3 {
			if got[i+1] != "root" || !strings.HasSuffix(got[i], "r-x") && !strings.HasSuffix(got[i], "r--") {
				t.Errorf("%q", got[i:i+3])
			}
			if got[i][0] == '-' {
				here = append(here, got[i+2])
			}
		}
		slices.Sort(want)
		slices.Sort(here)
		if len(want) == 0 || !slices.Equal(here, want) {
			t.Errorf("%s has\n%q, the deb\n%q", filepath.Base(name), here, want)
		}
	}
	conf := filepath.Join(root, "etc/spoolsweep/agent.conf")
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	own := append(text, "# root was here\n"...)
	if err := os.WriteFile(conf, own, 0o644); err != nil {
		t.Fatal(err)
	}
	rpm(append([]string{"--upgrade", "--replacepkgs"}, files...)...)
	if now, err := os.ReadFile(conf); err != nil || !bytes.Equal(now, own) {
		t.Errorf("what root wrote is %q, %v", now, err)
	}
	rpm("--erase", "spoolsweep", "spoolsweep-agent")
	if now, err := os.ReadFile(conf + ".rpmsave"); err != nil || !bytes.Equal(now, own) {
		t.Errorf("what root wrote is %q, %v, after the package is gone", now, err)
	}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(path, "spoolsweep") && !d.IsDir() && path != conf+".rpmsave" {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/lib/spoolsweep")); err == nil {
		t.Error("the folder of the agent is left")
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
