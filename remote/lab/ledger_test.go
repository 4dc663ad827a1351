package lab_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/stage"
)

// checkLedger looks that the ledger of a run accounts for every message, against
// an audit that only uses postcat: what it calls left stands aside, and what it
// calls anything else does not.
func checkLedger(t *testing.T, h *lab.Host, f *fleet, id string, flags ...string) ([]stage.Entry, stage.Sums) {
	t.Helper()
	r := spoolsweep(t, f, append([]string{"report", id, "--ledger", "-o", "json"}, flags...)...)
	if r.status != 0 {
		t.Fatal(r)
	}
	var doc struct {
		Hosts []struct {
			Host   string
			Ledger []stage.Entry
			Result stage.Sums
		}
	}
	must(t, json.Unmarshal([]byte(r.out), &doc))
	i := slices.IndexFunc(doc.Hosts, func(o struct {
		Host   string
		Ledger []stage.Entry
		Result stage.Sums
	}) bool {
		return o.Host == h.Name
	})
	if i < 0 {
		t.Fatalf("no %s in %s", h.Name, r.out)
	}
	all, s := doc.Hosts[i].Ledger, doc.Hosts[i].Result
	if s.SetAside != s.Restored+s.Collisions+s.Left+s.Purged || s.SetAside != int64(len(all)) || s.SetAside == 0 || s.Missing != 0 || s.SentMeanwhile != 0 {
		t.Errorf("%s: the ledger does not balance: %+v, %d entries", h.Name, s, len(all))
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	type file struct {
		id    string
		inode uint64
	}
	where := map[file]string{}
	for _, places := range a.Found {
		for _, p := range places {
			s, err := os.Lstat(p.Path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone on by itself
			}
			must(t, err)
			where[file{filepath.Base(p.Path), s.Sys().(*syscall.Stat_t).Ino}] = p.Dir
		}
	}
	for _, e := range all {
		dir, stands := where[file{e.ID, e.Inode}]
		switch aside := strings.Contains(dir, ".spamfull"); {
		case e.Fate == stage.FateLeft && stands && !aside, e.Fate != stage.FateLeft && aside, e.Fate == stage.FatePurged && (stands || len(e.SHA256) != 64):
			t.Errorf("%s: %s stands in %q: %+v", h.Name, e.ID, dir, e)
		}
	}
	return all, s
}

// While a run waits, what no flood touches goes back at once; what rules call ham
// later follows. Nothing is lost, and nothing goes twice.
func TestWhileARunWaits(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	messages := flooded(t, h, 9, map[string]int{"deferred": 100, "active": 100, "incoming": 50})
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y", "-e", "rate=0", "-e", "live_max=0"))
	must(t, h.Flood(lab.Deliver))
	_, waiting := checkLedger(t, h, f, id)

	r := spoolsweep(t, f, "resume", "-y", "-e", `{spam: {any: [{source_count: ">1"}]}}`)
	if r.status == 3 { // it hits some of the host's own users
		all, _ := checkLedger(t, h, f, id)
		ham := 0
		for _, e := range all {
			if e.Verdict == "ham" {
				ham++
			}
		}
		r = spoolsweep(t, f, "resume", id, "-y", "--expect", strconv.Itoa(ham))
	}
	if r.status != 0 {
		t.Fatal(r)
	}
	_, first := checkLedger(t, h, f, id)
	if first.SetAside != waiting.SetAside || first.Restored == 0 || first.Left <= int64(len(spams(messages))) {
		t.Errorf("after source_count %+v, before %+v, of which %d are spam", first, waiting, len(spams(messages)))
	}

	doc, r := spoolsweepJSON(t, f, "resume", id, "-y", "-e", rulesFile(t, floodRules(h)))
	var c stage.Classified
	if r.status != 0 || !hostIn(t, doc, h).Latest("classify", &c) || c.Messages != first.Left {
		t.Errorf("judged %d again, want the %d that were aside: %v", c.Messages, first.Left, r)
	}
	_, last := checkLedger(t, h, f, id)
	if last.SetAside != waiting.SetAside || last.Left != int64(len(spams(messages))) || last.Restored <= first.Restored {
		t.Errorf("in the end %+v, before %+v", last, first)
	}
	checkSwept(t, h, messages)
	checkDelivered(t, h, messages, hams(messages))
	alive(t, h)
}
