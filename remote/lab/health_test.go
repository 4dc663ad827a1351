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
	ends(t, 2, f, "uninstall", "--state", "-y")
	ends(t, 0, f, "uninstall")
}

// countsPostconf has a host write down each time that postconf(1) is asked.
const countsPostconf = `mv /usr/sbin/postconf /usr/sbin/postconf.real
printf '#!/bin/sh\necho x >>/var/log/asked\nexec /usr/sbin/postconf.real "$@"\n' >/usr/sbin/postconf
chmod 755 /usr/sbin/postconf`

// A look at a host that was looked at before starts none of Postfix's programs, unless
// its configuration has changed since; what changes anything always asks.
func TestHealthAsksOnce(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	_, err := h.Run(t.Context(), "sh", "-euc", countsPostconf)
	must(t, err)
	asked := func() int {
		t.Helper()
		out, err := h.Run(t.Context(), "sh", "-c", "cat /var/log/asked; rm -f /var/log/asked")
		must(t, err)
		return strings.Count(out, "x")
	}
	look := func(queues string, want int, args ...string) {
		t.Helper()
		doc, r := spoolsweepJSON(t, f, args...)
		if got := string(hostIn(t, doc, h).Result); !strings.Contains(got, `"queue_directory": "`+queues+`"`) {
			t.Errorf("%q does not tell of %s: %v", args, queues, r)
		}
		if n := asked(); n != want {
			t.Errorf("%q: postconf was asked %d times, want %d", args, n, want)
		}
	}
	asked()
	look("/var/spool/postfix", 1, "health")
	look("/var/spool/postfix", 0, "health")
	look("/var/spool/postfix", 0, "ping")
	_, err = h.Run(t.Context(), "sh", "-euc", `ln -s postfix /var/spool/other; postconf.real -e queue_directory=/var/spool/other; touch -d '1 minute ago' /etc/postfix/main.cf`)
	must(t, err)
	look("/var/spool/other", 1, "ping")
	look("/var/spool/other", 0, "ping")
	_, err = h.Run(t.Context(), "sh", "-euc", `postconf.real -e queue_directory=/var/spool/postfix; touch -d '1 minute ago' /etc/postfix/main.cf`)
	must(t, err)
	asked()
	succeeds(t, f, "run", "backscatter", "-y")
	if n := asked(); n < 2 {
		t.Errorf("a run asked postconf %d times", n)
	}
}
