package lab_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/stage"
)

var heldMany = flag.Int("held", 2000, "messages that are put on hold and released at a rate: 50000 takes some minutes")

// While mail of both kinds arrives and is delivered, hold takes just what matches,
// also what arrives while it goes on, but for what the queue manager has in its hands;
// release sends it, and each message is delivered once.
func TestHoldUnderArrivingMail(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	messages := flooded(t, h, 11, map[string]int{"deferred": 120, "active": 60, "incoming": 60})
	// They arrive while it works, and stay where they are: nobody answers.
	later := laterMail(h, 60, 12)
	rules := rulesFile(t, floodRules(h))
	succeeds(t, f, "hold", "-e", rules, "--check")
	was, err := h.Audit(t.Context())
	must(t, err)
	active := was.In("active")
	r := start(t, f, "hold", "-e", rules, "--for", "12s", "-y", "-o", "json")
	_, err = h.Trickle(t.Context(), later, 50*time.Millisecond)
	must(t, err)
	got := r.wait()
	doc := document(t, got)
	all := append(slices.Clone(messages), later...)
	a, err := h.Audit(t.Context())
	must(t, err)
	if now := a.In("active"); !cmp.Equal(now, active) {
		t.Fatalf("active has %d messages, and had %d: no test of what is in it", len(now), len(active))
	}
	matching := slices.DeleteFunc(spams(all), func(id string) bool { return slices.Contains(active, id) })
	checkPlaces(t, h, a, all, "on hold", []string{"hold"}, matching)
	held := resultOf[stage.Acted](t, doc, h)
	if got.status != 0 || held.Done.Done != int64(len(matching)) || held.Matched != held.Done.Done || held.Failed+held.Gone != 0 {
		t.Errorf("held %+v, want %d: %v", held, len(matching), got)
	}
	if r := succeeds(t, f, "report", doc.Run, "--ledger"); !strings.Contains(r.out, fmt.Sprintf("held %d + stayed 0", held.Done.Done)) {
		t.Errorf("the ledger says something else: %v", r)
	}
	// The same rules keep it there; a name that is taken is not overwritten.
	if n := would(t, h, f, "release", doc.Run, "-e", rules); n != 0 {
		t.Errorf("by the same rules %d would be released", n)
	}
	at := a.Found[spams(messages[:120])[0]][0].Path // which is due only later
	name := filepath.Base(at)
	other := filepath.Join(h.Spool(), "deferred", name[:1], name)
	must(t, os.MkdirAll(filepath.Dir(other), 0o700))
	clone(t, at, other, "")
	info, err := os.Stat(filepath.Join(h.Spool(), "deferred"))
	must(t, err)
	must(t, os.Chown(filepath.Dir(other), int(info.Sys().(*syscall.Stat_t).Uid), -1))
	text, err := os.ReadFile(other)
	must(t, err)
	n := len(matching)
	back, r2 := spoolsweepJSON(t, f, "release", doc.Run, "--include-spam", "-y", "--expect", strconv.Itoa(n), "--rate", "0", "--live-max", "0")
	if sent := resultOf[stage.Acted](t, back, h); r2.status != 0 || sent.Done.Done != int64(n-1) || sent.Failed != 1 || !strings.Contains(strings.Join(sent.Failures, ""), "its name is taken in deferred") {
		t.Errorf("released %+v of %d: %v", sent, n, r2)
	}
	if now, err := os.ReadFile(other); err != nil || !cmp.Equal(now, text) {
		t.Errorf("what was in its place: %v, or other bytes", err)
	}
	must(t, os.Remove(other))
	succeeds(t, f, "release", doc.Run, "--include-spam", "-y", "--expect", "1", "--live-max", "0")
	checkDelivered(t, h, all, slices.Sorted(slices.Values(ids(all))))
	alive(t, h)
}

// Many messages are put on hold and released at a rate into a Postfix that delivers:
// none is lost, none sent twice, and incoming and active stay as empty as was asked.
func TestReleaseAtARate(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	a, spam, ham := twoOf(t, h)
	want := append(copies(t, h, a, spam, *heldMany-1), spam, ham)
	began := time.Now()
	doc, r := spoolsweepJSON(t, f, "hold", "-m", "sender:spam@far.example", "-y")
	if held := resultOf[stage.Acted](t, doc, h); r.status != 0 || held.Done.Done != int64(*heldMany) || held.Gone+held.Failed != 0 {
		t.Fatalf("held %+v: %v", held, r)
	}
	t.Logf("%d held in %v", *heldMany, time.Since(began))
	must(t, h.Flood(lab.Deliver))
	if r := ends(t, 1, f, "release", doc.Run, "-y", "--expect", strconv.Itoa(*heldMany)); !strings.Contains(r.err, "looks like a flood") {
		t.Errorf("a flood is released without a word: %v", r)
	}
	// They were deferred, and are due in an hour; so that they go at once:
	hold := filepath.Join(h.Spool(), "hold")
	names, err := os.ReadDir(hold)
	must(t, err)
	past := time.Now().Add(-time.Minute)
	for _, e := range names {
		must(t, os.Chtimes(filepath.Join(hold, e.Name()), past, past))
	}
	const rate = 400
	began = time.Now()
	back, r := spoolsweepJSON(t, f, "release", doc.Run, "--include-spam", "-y", "--expect", strconv.Itoa(*heldMany), "--rate", fmt.Sprintf("%d/s", rate), "--live-max", "200")
	took := time.Since(began)
	if sent := resultOf[stage.Acted](t, back, h); r.status != 0 || sent.Done.Done != int64(*heldMany) || sent.Gone+sent.Failed != 0 {
		t.Errorf("released %+v: %v", sent, r)
	}
	if least := time.Duration(*heldMany-rate) * time.Second / rate; took < least {
		t.Errorf("%d released in %v: faster than the rate", *heldMany, took)
	}
	t.Logf("%d released in %v", *heldMany, took)
	checkDeliveredIDs(t, h, want)
	alive(t, h)
}

// checkDeliveredIDs waits until these are delivered, and looks that each is so once.
func checkDeliveredIDs(t *testing.T, h *lab.Host, want []string) {
	t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) { // no event tells
		delivered, err := filepath.Glob(filepath.Join(h.Delivered(), "[^.]*"))
		must(t, err)
		if len(delivered) >= len(want) {
			break
		}
		_, err = h.Run(t.Context(), "postqueue", "-f")
		must(t, err)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	slices.Sort(want)
	got := a.In("delivered")
	if lost, twice := a.Lost(want), a.Twice(); len(lost)+len(twice) > 0 || !cmp.Equal(got, want) {
		t.Errorf("delivered %d of %d, lost %d, twice %d: %v", len(got), len(want), len(lost), len(twice), a.Count())
	}
}

// Requeued mail gets a new id and is sent once; with Postfix down nothing is done, and
// the remedy is told.
func TestRequeueAndDown(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	messages := flooded(t, h, 13, map[string]int{"deferred": 40})
	was, err := h.Audit(t.Context())
	must(t, err)
	must(t, h.Flood(lab.Deliver))
	doc, r := spoolsweepJSON(t, f, "requeue", "--all", "--include-spam", "-y", "--expect", "40", "--rate", "0", "--live-max", "0")
	if sent := resultOf[stage.Acted](t, doc, h); r.status != 0 || sent.Done.Done != 40 || sent.Gone+sent.Failed != 0 {
		t.Fatalf("requeued %+v: %v", sent, r)
	}
	checkDelivered(t, h, messages, slices.Sorted(slices.Values(ids(messages))))
	log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/mail.log"))
	must(t, err)
	if old := queueID(was, messages[0].ID); !strings.Contains(string(log), "orig_id="+old) {
		t.Errorf("%s was not taken on once more", old)
	}
	_, err = h.Run(t.Context(), "postfix", "stop")
	must(t, err)
	for _, args := range [][]string{{"hold", "-m", "sender:x", "-y"}, {"release", "--all", "-y", "--expect", "0"}, {"requeue", "--all", "-y", "--expect", "0"}} {
		if r := ends(t, 2, f, args...); !strings.Contains(r.err, "postfix start") {
			t.Errorf("stopped: no remedy in %v", r)
		}
	}
	_, err = h.Run(t.Context(), "postfix", "start")
	must(t, err)
}
