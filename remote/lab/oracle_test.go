package lab_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
)

// The wiki's loops, deciding about one file. Each prints its name if it is ham.
// Theirs test with grep -c whether the count is 0; the third is the wiki's own
// doubt, that one matching line may not be enough.
const (
	anyExpression  = `[ "$(strings "$f" | grep -c -e "$1" -e "$2")" -eq 0 ] && echo "$f"`
	allExpressions = `{ [ "$(strings "$f" | grep -c -e "$1")" -eq 0 ] || [ "$(strings "$f" | grep -c -e "$2")" -eq 0 ]; } && echo "$f"`
	twoLines       = `[ "$(strings "$f" | grep -c -F -e "$1" -e "$2")" -lt 2 ] && echo "$f"`
)

// oracle decides every file of a directory as the wiki does, with GNU strings
// and grep, and returns the names of the ham.
func oracle(t *testing.T, dir, loop string, expressions ...string) []string {
	t.Helper()
	script := fmt.Sprintf(`cd "$0" && for f in *; do %s; done; true`, loop)
	out, err := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, dir}, expressions...)...).Output()
	must(t, err)
	return strings.Fields(string(out))
}

// What is moved back is what the wiki's way would have moved, file by file.
func TestVerdictsEqualTheWiki(t *testing.T) {
	t.Parallel()
	needs.Program(t, "strings")
	for _, row := range []struct {
		name, loop, rules string // %s is the hacked account
	}{
		{"any of the expressions", anyExpression, `spam: {any: [{raw: "/%s/"}, {raw: "/media.php/"}]}`},
		{"all of the expressions", allExpressions, `spam: {all: [{raw: "/%s/"}, {raw: "/media.php/"}]}`},
		{"two matching lines", twoLines, `spam: {raw: ["%s", "media.php"], lines: 2}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hosts(t, 1)[0]
			f := newFleet(t, []*lab.Host{h}, queueWarn)
			flooded(t, h, 7, map[string]int{"active": 100, "incoming": 200})
			id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y"))

			copied := t.TempDir()
			want := map[string][]string{}
			for _, dir := range []string{"active.spamfull", "incoming.spamfull"} {
				out, err := exec.Command("cp", "-a", filepath.Join(h.Spool(), dir), copied).CombinedOutput()
				if err != nil {
					t.Fatalf("cp: %v: %s", err, out)
				}
				want[dir] = oracle(t, filepath.Join(copied, dir), row.loop, account(h), "media.php")
			}
			if n := len(want["active.spamfull"]) + len(want["incoming.spamfull"]); n == 0 || n == 300 {
				t.Fatalf("the wiki's way calls %d of 300 ham: nothing is compared", n)
			}

			// Rules as simple as the wiki's leave much that looks like a flood.
			r := spoolsweep(t, f, "resume", id, "-y", "-e", rulesFile(t, fmt.Sprintf(row.rules, account(h))), "-e", "rate=0", "-e", "live_max=0")
			if r.status == 3 {
				m := regexp.MustCompile(`--expect (\d+)`).FindStringSubmatch(r.err)
				if m == nil {
					t.Fatalf("how to confirm is not said: %v", r)
				}
				r = spoolsweep(t, f, "resume", id, "-y", "--expect", m[1])
			}
			if r.status != 0 {
				t.Fatalf("the run did not end: %v", r)
			}
			for dir, ham := range want {
				left := files(t, h, dir)
				var moved []string
				all, err := filepath.Glob(filepath.Join(copied, dir, "*"))
				must(t, err)
				for _, path := range all {
					if name := filepath.Base(path); !left[name] {
						moved = append(moved, name)
					}
				}
				slices.Sort(ham)
				slices.Sort(moved)
				if diff := cmp.Diff(ham, moved); diff != "" {
					t.Errorf("%s: moved back (-the wiki's way +spoolsweep):\n%s", dir, diff)
				}
			}
		})
	}
}
