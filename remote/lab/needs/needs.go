// Package needs finds the programs that tests compare with. A machine that has
// Go and nothing else passes the tests without them; where the lab is required,
// as in CI, nothing may be missing.
package needs

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Program returns the path of an installed program, also of one that an
// ordinary user's PATH does not reach. If it is missing, the test is skipped,
// or fails where SPOOLSWEEP_LAB is "require".
func Program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	if os.Getenv("SPOOLSWEEP_LAB") == "require" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("compares with %s, which is not installed", name)
	return ""
}
