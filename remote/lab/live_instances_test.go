package lab_test

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/stage"
)

// On a host with two Postfix, for whoever logs in without being root, hold, release,
// requeue and export do to each instance's mail what they say, and to none of the other.
func TestLiveInstances(t *testing.T) {
	t.Parallel()
	both := twoInstances(t)
	h := both[0]
	withSudo(t, h, byNone)
	f := newFleet(t, both[:1], "ansible_user: admin", "ansible_become: true")
	messages := map[*lab.Host][]lab.Message{
		both[0]: flooded(t, both[0], 41, map[string]int{"deferred": 60}),
		both[1]: flooded(t, both[1], 42, map[string]int{"deferred": 90}),
	}
	rules := rulesFile(t, floodRules(h))
	n := 0
	for _, i := range both {
		n += len(spams(messages[i]))
	}
	check := func(when string, dir string) {
		t.Helper()
		for _, i := range both {
			a, err := i.Audit(t.Context())
			must(t, err)
			checkPlaces(t, i, a, messages[i], when, []string{dir}, spams(messages[i]))
		}
	}
	doc, r := spoolsweepJSON(t, f, "hold", "-e", rules, "-y")
	if r.status != 0 {
		t.Fatal(r)
	}
	for _, i := range both {
		if held := resultOf[stage.Acted](t, doc, i); r.status != 0 || int(held.Done.Done) != len(spams(messages[i])) || held.Gone+held.Failed != 0 {
			t.Errorf("%s: held %+v: %v", i.Config(), held, r)
		}
	}
	check("on hold", "hold")

	// An export sees both, and names whose each message is.
	dir := filepath.Join(t.TempDir(), "held")
	succeeds(t, f, "export", "--all", "--queue", "hold", "--to", dir)
	mail := manifest(t, dir)
	names, err := filepath.Glob(filepath.Join(dir, h.Name+".postfix-out.hold.*.eml"))
	must(t, err)
	if len(mail) != n || len(names) != len(spams(messages[both[1]])) {
		t.Errorf("%d exported of %d, %d of them of the second Postfix", len(mail), n, len(names))
	}

	back, r := spoolsweepJSON(t, f, "release", doc.Run, "--include-spam", "-y", "--expect", strconv.Itoa(n), "--rate", "0", "--live-max", "0")
	for _, i := range both {
		if sent := resultOf[stage.Acted](t, back, i); r.status != 0 || int(sent.Done.Done) != len(spams(messages[i])) || sent.Gone+sent.Failed != 0 {
			t.Errorf("%s: released %+v: %v", i.Config(), sent, r)
		}
	}
	for _, i := range both { // due only later, or tried once more
		a, err := i.Audit(t.Context())
		must(t, err)
		checkPlaces(t, i, a, messages[i], "live", live, slices.Sorted(slices.Values(ids(messages[i]))))
	}

	// Of one of them only, with its queue files.
	one := newFleet(t, both[:1], "ansible_user: admin", "ansible_become: true", "postfix_instances: postfix-out")
	for _, i := range both {
		await(t, i, map[string]int{"deferred": len(messages[i])})
	}
	gone := filepath.Join(t.TempDir(), "gone")
	k := len(spams(messages[both[1]]))
	removed, r := spoolsweepJSON(t, one, "export", "--remove", "-e", rules, "--to", gone, "-y", "--expect", strconv.Itoa(k))
	if e := resultOf[stage.Exported](t, removed, both[1]); r.status != 0 || int(e.Done.Done) != k || len(manifest(t, gone)) != k {
		t.Errorf("removed %+v of %d: %v", e, k, r)
	}
	for i, want := range map[*lab.Host][]string{both[0]: slices.Sorted(slices.Values(ids(messages[both[0]]))), both[1]: hams(messages[both[1]])} {
		a, err := i.Audit(t.Context())
		must(t, err)
		if got := a.In("deferred"); !slices.Equal(got, want) {
			t.Errorf("%s: deferred has %d, want %d", i.Config(), len(got), len(want))
		}
	}

	for _, i := range both {
		must(t, i.Flood(lab.Deliver))
	}
	left := len(messages[both[0]]) + len(hams(messages[both[1]]))
	again, r := spoolsweepJSON(t, f, "requeue", "--all", "--include-spam", "-y", "--expect", strconv.Itoa(left), "--rate", "0", "--live-max", "0")
	if a, b := resultOf[stage.Acted](t, again, both[0]), resultOf[stage.Acted](t, again, both[1]); r.status != 0 || int(a.Done.Done+b.Done.Done) != left {
		t.Errorf("requeued %+v and %+v of %d: %v", a, b, left, r)
	}
	checkDelivered(t, both[0], messages[both[0]], slices.Sorted(slices.Values(ids(messages[both[0]]))))

	// Without root there is a remedy, and nothing is done.
	plain := newFleet(t, both[:1], "ansible_user: admin")
	for _, args := range [][]string{{"hold", "-m", "sender:x", "-y"}, {"requeue", "--all", "-y", "--expect", "0"}, {"export", "--all", "--to", filepath.Join(t.TempDir(), "x")}} {
		if r := ends(t, 2, plain, args...); !strings.Contains(r.err, "become") {
			t.Errorf("without root: no remedy in %v", r)
		}
	}
}

// Where maillog_file is set and Postfix is down, postsuper could not log: all of it is
// refused before a message is touched, while an export that only copies goes on.
func TestLiveDownWithLogFile(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	messages := flooded(t, h, 43, map[string]int{"deferred": 30})
	if out, err := h.Run(t.Context(), "postconf", "-h", "maillog_file"); err != nil || strings.TrimSpace(out) == "" {
		t.Fatalf("no test of that: maillog_file is %q, %v", out, err)
	}
	_, err := h.Run(t.Context(), "postfix", "stop")
	must(t, err)
	before := files(t, h, "deferred")
	dir := filepath.Join(t.TempDir(), "x")
	rules := rulesFile(t, floodRules(h))
	for _, args := range [][]string{
		{"hold", "-e", rules, "-y"}, {"release", "--all", "-y", "--expect", "30"}, {"requeue", "--all", "-y", "--expect", "30"},
		{"delete", "-e", rules, "-y", "--expect", "30"}, {"export", "--remove", "-e", rules, "--to", dir, "-y", "--expect", "30"},
	} {
		if r := ends(t, 2, f, args...); !strings.Contains(r.err, "postfix start") || !strings.Contains(r.err, "Postfix does not run") {
			t.Errorf("no remedy in %v", r)
		}
	}
	succeeds(t, f, "export", "-e", rules, "--queue", "deferred", "--to", dir)
	if mail := manifest(t, dir); len(mail) != len(spams(messages)) {
		t.Errorf("%d exported, want %d", len(mail), len(spams(messages)))
	}
	if now := files(t, h, "deferred"); !cmp.Equal(before, now) {
		t.Errorf("something changed: %s", cmp.Diff(before, now))
	}
	_, err = h.Run(t.Context(), "postfix", "start")
	must(t, err)
}
