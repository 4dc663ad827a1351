package push

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What is removed is the login user's agents and what an interrupted push left
// of them, from the directory that was given or from the usual ones, and never
// through a link; in every shell there is.
func TestRemoveScript(t *testing.T) {
	if i := strings.IndexAny(removeScript, "'\\!\n"); i >= 0 {
		t.Errorf("%q in %.40q", removeScript[i], removeScript[i:])
	}
	for _, shell := range shells(t) {
		t.Run(filepath.Base(shell[0]), func(t *testing.T) {
			home := t.TempDir()
			run := func(args ...string) string {
				t.Helper()
				cmd := exec.Command(shell[0], append(append(shell[1:], "-c", removeScript, "spoolsweep"), args...)...)
				cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%q: %v: %s", args, err, out)
				}
				return strings.TrimSpace(string(out))
			}
			make := func(dir string, names ...string) {
				t.Helper()
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
				for _, name := range names {
					if err := os.WriteFile(filepath.Join(dir, name), nil, 0o700); err != nil {
						t.Fatal(err)
					}
				}
			}
			there := func(path string, want bool) {
				t.Helper()
				if _, err := os.Lstat(path); (err == nil) != want {
					t.Errorf("%s: %v, want it there: %t", path, err, want)
				}
			}
			if got := run("", "count"); got != "spoolsweep-agents 0" {
				t.Errorf("nothing there: %q", got)
			}
			hash := strings.Repeat("ab", 32)
			usual, own, linked := filepath.Join(home, ".cache", "spoolsweep"), filepath.Join(home, "own place"), filepath.Join(home, "linked")
			make(usual, prefix+hash, prefix+hash+".part-X")
			make(own, prefix+hash, "not ours")
			target := filepath.Join(home, "target")
			make(target, prefix+hash)
			if err := os.Symlink(target, linked); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(target, prefix+hash), filepath.Join(own, prefix+"link")); err != nil {
				t.Fatal(err)
			}
			for _, row := range []struct {
				args []string
				want int
			}{
				{[]string{"", "count"}, 2}, {[]string{own, "count"}, 1}, {[]string{linked, "remove"}, 0}, {[]string{"", "remove"}, 2}, {[]string{own, "remove"}, 1}, {[]string{own, "remove"}, 0},
			} {
				if got, want := run(row.args...), fmt.Sprint("spoolsweep-agents ", row.want); got != want {
					t.Errorf("%q: got %q, want %q", row.args, got, want)
				}
			}
			there(usual, false)
			there(own, true)
			there(filepath.Join(own, "not ours"), true)
			there(filepath.Join(own, prefix+"link"), true)
			there(filepath.Join(target, prefix+hash), true)
		})
	}
}
