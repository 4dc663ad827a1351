package lab_test

import (
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
)

// wikiCount is the wiki's loop over the spool.
const wikiCount = `for dir in $(ls "$0"); do echo "$dir: $(find "$0/$dir" -type f | wc -l)"; done`

// Health counts what the wiki's loop counts, in every directory of the spool of a
// real Postfix, and neither it nor what else only reads leaves anything there.
func TestHealthCountsAsTheWiki(t *testing.T) {
	t.Parallel()
	needs.Program(t, "find")
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	messages := lab.Flood(account(h), 200, 7)
	must(t, h.Inject(t.Context(), messages[:60]))
	await(t, h, map[string]int{"deferred": 60})
	must(t, h.Postconf(t.Context(), "qmgr_message_active_limit = 100"))
	must(t, h.Flood(lab.Hold))
	must(t, h.Inject(t.Context(), messages[60:]))
	await(t, h, map[string]int{"deferred": 60, "active": 100, "incoming": 40})
	counts := func() (map[string]int64, map[string]any) {
		t.Helper()
		var doc struct {
			Hosts []struct {
				Result struct {
					Postfix  string
					Level    string
					Queues   map[string]struct{ Messages, Bytes, Oldest_seconds int64 }
					SetAside map[string]struct {
						Messages int64
						Run      string
					} `json:"set_aside"`
					Directories map[string]int64
				}
			}
		}
		must(t, json.Unmarshal([]byte(ends(t, 0, f, "health", "-o", "json").out), &doc))
		r := doc.Hosts[0].Result
		all := map[string]int64{}
		for name, n := range r.Directories {
			all[name] = n
		}
		for name, q := range r.Queues {
			all[name] = q.Messages
			if q.Messages > 0 && (q.Bytes < 500*q.Messages || q.Oldest_seconds > 600) {
				t.Errorf("%s: %+v", name, q)
			}
		}
		for name, q := range r.SetAside {
			all[name] = q.Messages
		}
		return all, map[string]any{"postfix": r.Postfix, "level": r.Level, "aside": r.SetAside}
	}
	wiki := func() map[string]int64 {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "sh", "-c", wikiCount, h.Spool()).Output()
		must(t, err)
		all := map[string]int64{}
		for line := range strings.Lines(string(out)) {
			name, number, _ := strings.Cut(strings.TrimSpace(line), ": ")
			n, err := strconv.ParseInt(number, 10, 64)
			must(t, err)
			all[name] = n
		}
		return all
	}
	got, more := counts()
	if diff := cmp.Diff(wiki(), got); diff != "" {
		t.Errorf("before (-the wiki's loop +health):\n%s", diff)
	}
	if more["postfix"] != "running" || more["level"] != "busy" {
		t.Errorf("got %v", more)
	}
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y"))
	got, more = counts()
	if diff := cmp.Diff(wiki(), got); diff != "" {
		t.Errorf("with queues set aside (-the wiki's loop +health):\n%s", diff)
	}
	if text, err := json.Marshal(more["aside"]); err != nil || strings.Count(string(text), id) != 3 {
		t.Errorf("run %s does not own all: %s, %v", id, text, err)
	}
	for _, args := range [][]string{{"find", account(h)}, {"sample"}, {"runs"}, {"report"}} {
		if r := ends(t, 0, f, args...); args[0] != "sample" && !strings.Contains(r.out, id) {
			t.Errorf("%v does not name run %s: %v", args, id, r)
		}
	}
	if diff := cmp.Diff(wiki(), got); diff != "" {
		t.Errorf("it changed (-after +before):\n%s", diff)
	}
	ends(t, 2, f, "uninstall", "--state")
	ends(t, 0, f, "uninstall")
}
