package lab_test

import (
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
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

// oracle decides every file below a directory as the wiki does, with GNU strings
// and grep, and returns the queue ids of the ham, sorted.
func oracle(t *testing.T, dir, loop string, expressions ...string) []string {
	t.Helper()
	script := fmt.Sprintf(`cd "$0" && for f in $(find . -type f); do %s; done; true`, loop)
	out, err := exec.CommandContext(t.Context(), "sh", append([]string{"-c", script, dir}, expressions...)...).Output()
	must(t, err)
	names := strings.Fields(string(out))
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	slices.Sort(names)
	return names
}

// edges are messages that two readers of a queue file could well judge apart.
func edges(account string) []lab.Message {
	var messages []lab.Message
	for i, body := range []string{
		"Who is " + account + "?\n",
		"media.php and swiftvalue@yahoo.cn for " + account + " on one line\n",
		"media.php\nswiftvalue@yahoo.cn\n",
		"MEDIA.PHP\nSwiftvalue@Yahoo.CN\n" + strings.ToUpper(account) + "\n",
		"mediaXphp and media\tphp, swiftvalue@yahoo-cn\n", // a dot of grep's is any character
		"émedia.phpé\nüswiftvalue@yahoo.cnü\n",            // bytes that end a run of strings
		"media\fphp swiftvalue@yahoo\x00.cn\n",
		"media.php\rswiftvalue@yahoo.cn\r" + account + "\r\n", // as files are, these are lines of their own
		"swiftvalue@yahoo.cn\tmedia.php\n",
		"med\nia.php\n" + strings.Replace(account, "@", "@\n", 1) + "\n",
		// Postfix writes a longer line as several records, with bytes between.
		strings.Repeat("x", 2048-5) + "media.php\n" + strings.Repeat("y", 2048-9) + "media.php\n",
		strings.Repeat("x", 2048-9) + "swiftvalue@yahoo.cn\n" + strings.Repeat("y ", 3000) + account + "\n",
		"",
	} {
		messages = append(messages, lab.Message{
			ID: fmt.Sprintf("edge-%d", i), Sender: fmt.Sprintf("edge%d@elsewhere.example", i),
			Recipients: []string{"user@domain.example"}, Subject: "an edge", Body: body,
		})
	}
	// Mail to the account says so in the header, and more than once in the envelope.
	return append(messages, lab.Message{
		ID: "edge-to", Sender: "aunt@elsewhere.example", Recipients: []string{account}, Subject: "an edge", Body: "Hello\n",
	})
}

// What is moved back is what the wiki's way would have moved, file by file.
func TestVerdictsEqualTheWiki(t *testing.T) {
	t.Parallel()
	needs.Program(t, "strings")
	for _, row := range []struct {
		name, loop, expression, rules string // %s is the hacked account
	}{
		{"any of the expressions", anyExpression, "media.php", `spam: {any: [{raw: "/%s/"}, {raw: "/media.php/"}]}`},
		{"all of the expressions", allExpressions, "media.php", `spam: {all: [{raw: "/%s/"}, {raw: "/media.php/"}]}`},
		{"two matching lines", twoLines, "swiftvalue@yahoo.cn", `spam: {raw: ["%s", "swiftvalue@yahoo.cn"], lines: 2}`},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hosts(t, 1)[0]
			f := newFleet(t, []*lab.Host{h}, queueWarn)
			extra := edges(account(h))
			must(t, h.Inject(t.Context(), extra))
			await(t, h, map[string]int{"deferred": len(extra)})
			messages := append(lab.Flood(account(h), 300, 7), extra...)
			must(t, h.Inject(t.Context(), messages[:60]))
			await(t, h, map[string]int{"deferred": len(extra) + 60})
			must(t, h.Postconf(t.Context(), "qmgr_message_active_limit = 100"))
			must(t, h.Flood(lab.Hold))
			must(t, h.Inject(t.Context(), messages[60:300]))
			await(t, h, map[string]int{"deferred": len(extra) + 60, "active": 100, "incoming": 140})
			id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y"))

			copied := t.TempDir()
			dirs := []string{"active.spamfull", "deferred.spamfull", "incoming.spamfull"}
			for _, dir := range dirs {
				out, err := exec.Command("cp", "-a", filepath.Join(h.Spool(), dir), copied).CombinedOutput()
				if err != nil {
					t.Fatalf("cp: %v: %s", err, out)
				}
			}
			ham := oracle(t, copied, row.loop, account(h), row.expression)
			t.Logf("the wiki's way calls %d of %d ham", len(ham), len(messages))
			if len(ham) == 0 || len(ham) == len(messages) {
				t.Fatal("nothing is compared")
			}

			// Rules as simple as the wiki's leave much that looks like a flood: where
			// they do, the number is confirmed that the wiki's way comes to.
			r := spoolsweep(t, f, "resume", id, "-y", "-e", rulesFile(t, fmt.Sprintf(row.rules, account(h))), "-e", "rate=0", "-e", "live_max=0")
			if r.status == 3 {
				r = spoolsweep(t, f, "resume", id, "-y", "--expect", strconv.Itoa(len(ham)))
			}
			if r.status != 0 {
				t.Errorf("the run did not end: %v", r)
			}
			var all, moved []string
			left := map[string]bool{}
			for _, dir := range dirs {
				for name := range files(t, h, dir) {
					left[name] = true
				}
			}
			must(t, filepath.WalkDir(copied, func(path string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					all = append(all, e.Name())
				}
				return err
			}))
			for _, name := range all {
				if !left[name] {
					moved = append(moved, name)
				}
			}
			slices.Sort(moved)
			if diff := cmp.Diff(ham, moved); len(all) != len(messages) || diff != "" {
				t.Errorf("of %d files these were moved back (-the wiki's way +spoolsweep):\n%s", len(all), diff)
			}
			a, err := h.Audit(t.Context())
			must(t, err)
			if lost, twice := a.Lost(ids(messages)), a.Twice(); len(lost)+len(twice) > 0 {
				t.Errorf("lost %q, twice %q", some(lost), some(twice))
			}
		})
	}
}
