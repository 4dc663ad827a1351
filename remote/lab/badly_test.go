package lab_test

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/stage"
)

// What Postfix itself does badly: processes that outlive its stop, a start that
// is none, somebody else's hand on it. Each ends with mail that flows, or in a
// sentence of what to do, and no message is lost.

// freeze stops processes of the host, as a disk that hangs does: no signal but
// SIGKILL ends them.
func freeze(t *testing.T, h *lab.Host, form string) {
	t.Helper()
	pids, err := h.Pgrep(form)
	must(t, err)
	if len(pids) == 0 {
		t.Fatalf("%s: no process %s", h.Name, form)
	}
	must(t, syscall.Kill(pids[0], syscall.SIGSTOP))
}

// both are arguments of a run whose hosts need not take turns: the waits of one
// are those of the other.
func both(t *testing.T, hosts []*lab.Host, more ...string) []string {
	t.Helper()
	return append([]string{"run", "backscatter", "-y", "-e", rulesFile(t, floodRules(hosts...)), "-e", "max_stopped=2", "-e", "max_fail=100%"}, more...)
}

func TestOutlivesTheStop(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, queueWarn)
	messages := floodAll(t, two, map[string]int{"active": 100, "incoming": 100})
	// postfix stop says 0 with the first two there, and 1 after five seconds
	// with the third.
	freeze(t, two[0], `^smtpd `)
	freeze(t, two[0], `^smtp `) // in a delivery, which the sink never answers
	freeze(t, two[1], `^\S*/sbin/master\b`)
	doc, r := spoolsweepJSON(t, f, both(t, two)...)
	if r.status != 0 {
		t.Fatal(r)
	}
	for i, row := range []struct{ ended, doubled []string }{{[]string{"smtp", "smtpd"}, []string{"smtp"}}, {[]string{"master"}, nil}} {
		var s stage.Stopped
		if !hostIn(t, doc, two[i]).Latest("stop", &s) {
			t.Fatalf("%s: no result of stop: %v", two[i].Name, r)
		}
		for _, name := range row.ended {
			if !slices.ContainsFunc(s.Ended, func(p string) bool { return strings.HasSuffix(p, " "+name) }) {
				t.Errorf("%s: %s is not told among what outlived the stop: %+v", two[i].Name, name, s)
			}
		}
		for _, name := range row.doubled {
			if !slices.ContainsFunc(s.MayDouble, func(p string) bool { return strings.HasSuffix(p, " "+name) }) {
				t.Errorf("%s: %s is not told among the deliveries that were cut: %+v", two[i].Name, name, s)
			}
		}
		checkSwept(t, two[i], messages[two[i]])
		alive(t, two[i])
	}
}

// A start that returns 0 and is none, and one that fails: the reason is told
// while it is tried again, and when somebody has mended it the run goes on.
func TestStartIsMended(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	// Both happen after preflight, which finds them: see TestRefusals.
	f := newFleet(t, two, queueWarn)
	f.afflict(t, two[0], "postfix_start: |", "  [ -e /etc/planted ] || {", "    cd /var/spool/postfix/incoming; touch /etc/planted new; chmod 700 new",
		"    mv new $(printf 00000%X $(stat -c %i new)); }", "  postfix start")
	f.afflict(t, two[1], `postfix_stop: "postfix stop; postconf -e inet_interfaces=192.0.2.77"`)
	messages := floodAll(t, two, map[string]int{"active": 100, "incoming": 100})
	must(t, two[0].Postconf(t.Context(), "service_throttle_time = 5s")) // a minute, else
	_, err := two[1].Run(t.Context(), "touch", "/etc/postfix/master.cf")
	must(t, err)
	r := start(t, f, both(t, two)...)
	r.waitFor(`^` + two[1].Name + ` .*the configuration changed since Postfix was started at .*: master\.cf at `)
	// Each in its turn: they are told by different hosts, and mended at once.
	r.waitFor(`^` + two[1].Name + ` .*Postfix does not stay up.*no local interface found for 192\.0\.2\.77`)
	_, err = two[1].Run(t.Context(), "postconf", "-e", "inet_interfaces=loopback-only")
	must(t, err)
	r.waitFor(`^` + two[0].Name + ` .*Postfix does not stay up.*mend the cause.*qmgr.*fatal: .*(Permission denied|Operation not permitted)`)
	// qmgr has died at it in whichever queue it had come to.
	_, err = two[0].Run(t.Context(), "sh", "-ec", "cd /var/spool/postfix; find incoming active -type f -user root -delete")
	must(t, err)
	if end := r.wait(); end.status != 0 {
		t.Fatal(end)
	}
	for _, h := range two {
		checkSwept(t, h, messages[h])
		alive(t, h)
	}
}

var long = flag.Bool("long", false, "also the tests that take minutes")

// A start that works with the old directories only: after four minutes they are
// exchanged back. Postfix runs, the run has failed, and when the cause is mended
// it begins again.
func TestExchangedBack(t *testing.T) {
	if !*long {
		t.Skip("takes five minutes: -long")
	}
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few, `postfix_start: "[ -e /etc/mended ] || [ $(stat -c %i /var/spool/postfix/incoming) = $(cat /etc/old) ] || { echo not in this one; exit 1; }; postfix start"`)
	messages := smallFlood(t, h)
	_, err := h.Run(t.Context(), "sh", "-c", "stat -c %i /var/spool/postfix/incoming >/etc/old")
	must(t, err)
	r := start(t, f, sweepAway(t, h)...)
	id := r.run()
	r.waitFor("Postfix does not stay up with the queues set aside: they are exchanged back")
	got := r.wait()
	if got.status != 2 || !strings.Contains(got.err+got.out, "exchanged back: it runs") || !strings.Contains(got.err+got.out, "not in this one") {
		t.Errorf("want exit status 2, what was done, and why; got %v", got)
	}
	awaitUp(t, h, 10*time.Second)
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "live", live, slices.Sorted(slices.Values(ids(messages))))
	if dirs := asideDirs(t, h); len(dirs) > 0 {
		t.Errorf("left %q", dirs)
	}
	_, err = h.Run(t.Context(), "touch", "/etc/mended")
	must(t, err)
	succeeds(t, f, "resume", id, "-y")
	checkSwept(t, h, messages)
	alive(t, h)
}

// Somebody starts Postfix while it is to be down. Before the queues are exchanged
// that is the end of this try, with everything as it was; after that it is the
// start.
func TestStartedBySomebody(t *testing.T) {
	within(t, func(t *testing.T, h *lab.Host, f *fleet, r *running, id string, messages []lab.Message) {
		before := journaled(t, h, id, "starting") == 0
		_, err := h.Run(t.Context(), "postfix", "start")
		must(t, err)
		got := r.wait()
		if before {
			if got.status != 2 || !strings.Contains(got.err, "somebody started Postfix meanwhile") {
				t.Errorf("want exit status 2, and who is in the way: %v", got)
			}
			a, err := h.Audit(t.Context())
			must(t, err)
			checkPlaces(t, h, a, messages, "live", live, slices.Sorted(slices.Values(ids(messages))))
			succeeds(t, f, "resume", id, "-y")
		} else if got.status != 0 {
			t.Errorf("want exit status 0: %v", got)
		}
		checkSwept(t, h, messages)
		alive(t, h)
	})
}

// Postfix was stopped before we came, by somebody who had seen the flood: it is
// started. Mail whose time lies in the future is tried at once where it was new,
// and at its time where it was deferred.
func TestStoppedBefore(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	messages := smallFlood(t, h)
	_, err := h.Run(t.Context(), "postfix", "stop")
	must(t, err)
	_, err = h.Run(t.Context(), "sh", "-c", `find /var/spool/postfix/incoming /var/spool/postfix/active -type f -exec touch -d '1 hour' {} +`)
	must(t, err)
	next := times(t, h, "deferred")
	for name, at := range next {
		if !at.After(time.Now()) {
			t.Fatalf("deferred %s is due already: the wrong flood for this test", name)
		}
	}
	doc, r := spoolsweepJSON(t, f, sweepAway(t, h, "-e", "rate=0")...)
	if r.status != 0 {
		t.Fatal(r)
	}
	if !regexp.MustCompile(`Postfix is stopped already, and will be started \(/var/log/mail\.log: .*stopping the Postfix mail system\)`).MatchString(r.err) {
		t.Errorf("the plan does not say since when Postfix is stopped: %v", r)
	}
	var s stage.Stopped
	if !hostIn(t, doc, h).Latest("stop", &s) || s.WasRunning {
		t.Errorf("stop: %+v", s)
	}
	a := checkSwept(t, h, messages)
	later := times(t, h, "deferred")
	for name, at := range later {
		if was, ok := next[name]; ok && !at.Equal(was) {
			t.Errorf("deferred %s was to be tried at %v, now at %v", name, was, at)
		}
	}
	if n := len(a.In("deferred")); n == 0 {
		t.Errorf("no ham came back to deferred: %v", a.Count())
	}
	eventually(t, time.Minute, "the queue manager takes all of incoming", func() bool { return len(times(t, h, "incoming")) == 0 })
	checkDelivered(t, h, messages, hams(messages))
}

// times are the files of a queue, with when they are to be tried.
func times(t *testing.T, h *lab.Host, queue string) map[string]time.Time {
	t.Helper()
	all := map[string]time.Time{}
	must(t, filepath.WalkDir(filepath.Join(h.Spool(), queue), func(path string, e fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // the queue manager is at work
		}
		if err != nil || e.IsDir() {
			return err
		}
		if info, err := e.Info(); err == nil {
			all[e.Name()] = info.ModTime()
		}
		return nil
	}))
	return all
}

// The flood comes back the next day, after a boot, and the first run still waits
// for rules: each has its own directories, and they come back one by one.
func TestNextDay(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	first := flooded(t, h, 1, map[string]int{"deferred": 100, "active": 60, "incoming": 60})
	one := runIn(t, ends(t, 3, f, "run", "backscatter", "-y"))
	must(t, h.PowerCut())
	must(t, h.Restart(t.Context()))
	second := lab.Flood(account(h), 220, 2)
	lies := map[string]int{"deferred.spamfull": 100, "active.spamfull": 60, "incoming.spamfull": 60, "deferred": 100}
	must(t, h.Flood(lab.Refuse))
	must(t, h.Inject(t.Context(), second[:100]))
	await(t, h, lies)
	lies["active"], lies["incoming"] = 60, 60 // the limit of active is still the first day's
	must(t, h.Flood(lab.Hold))
	must(t, h.Inject(t.Context(), second[100:]))
	await(t, h, lies)
	all := append(slices.Clone(first), second...)

	r := succeeds(t, f, sweepAway(t, h, "-e", "rate=0")...)
	two := runIn(t, r)
	if !strings.Contains(r.err, "run "+one) {
		t.Errorf("the plan does not name the run that waits: %v", r)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, all, "aside", aside, slices.Sorted(slices.Values(append(ids(first), spams(second)...))))
	for _, queue := range []string{"deferred", "defer", "active", "incoming"} {
		for _, name := range []string{queue + ".spamfull", queue + ".spamfull.2"} {
			if !slices.Contains(asideDirs(t, h), name) {
				t.Errorf("%s is not there: %q", name, asideDirs(t, h))
			}
		}
	}
	health := spoolsweep(t, f, "health")
	for _, want := range []string{one, two} {
		if !strings.Contains(health.out+health.err, want) {
			t.Errorf("health does not say that run %s has mail aside: %v", want, health)
		}
	}

	// The second day's comes back; the first day's lies where it lay, and is
	// then swept by the rules that are known by now.
	n := putBackCount(t, f, two, "--include-spam")
	if n != len(spams(second)) {
		t.Errorf("put back of the second run would send %d, want %d", n, len(spams(second)))
	}
	succeeds(t, f, "putback", two, "--include-spam", "-y", "--expect", fmt.Sprint(n), "--rate", "0", "--live-max", "0")
	a, err = h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, all, "aside", aside, slices.Sorted(slices.Values(ids(first))))
	if dirs := asideDirs(t, h); slices.ContainsFunc(dirs, func(d string) bool { return strings.HasSuffix(d, ".2") }) {
		t.Errorf("put back left %q", dirs)
	}
	succeeds(t, f, "resume", one, "-y", "-e", rulesFile(t, floodRules(h)), "-e", "rate=0")
	a, err = h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, all, "aside", aside, spams(first))
	checkPlaces(t, h, a, all, "live", live, slices.Sorted(slices.Values(append(hams(first), ids(second)...))))
	alive(t, h)
}
