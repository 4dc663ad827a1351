package lab_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/stage"
)

// What may die on the host, killed while Postfix is down or while mail moves:
// the end must be that of a run nobody disturbed.

// window is a moment between stop and start.
type window struct {
	name, vars string
	await      func(*testing.T, *lab.Host, string)
}

var windows = []window{
	{"before the exchange", slowStop, inStop},
	{"after the exchange", slowStart, inStart},
}

// within runs a test in each window, on a host of its own.
func within(t *testing.T, do func(t *testing.T, h *lab.Host, f *fleet, r *running, id string, messages []lab.Message)) {
	t.Parallel()
	for _, w := range windows {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h, f, r, id, messages := sweeping(t, w.vars, w.await)
			do(t, h, f, r, id, messages)
		})
	}
}

func TestSectionKilled(t *testing.T) {
	within(t, func(t *testing.T, h *lab.Host, f *fleet, r *running, id string, messages []lab.Message) {
		kill9(t, h, sectionForm)
		awaitUp(t, h, 20*time.Second)
		got := r.wait()
		if got.status != 0 || !strings.Contains(got.err, "the section died") {
			t.Errorf("want that the run goes on, and says why; got %v", got)
		}
		checkSwept(t, h, messages)
		alive(t, h)
	})
}

func TestWorkerKilled(t *testing.T) {
	within(t, func(t *testing.T, h *lab.Host, f *fleet, r *running, id string, messages []lab.Message) {
		kill9(t, h, workerForm)
		// The section works on; whoever looks on is told when it has ended.
		got := r.wait()
		if got.status != 2 || !strings.Contains(got.err+got.out, "spoolsweep resume "+id) {
			t.Errorf("want exit status 2, and what to type; got %v", got)
		}
		awaitUp(t, h, time.Second)
		if n := journaled(t, h, id, "started"); n != 1 {
			t.Errorf("the journal says %d times that Postfix was started", n)
		}
		succeeds(t, f, "resume", id, "-y")
		checkSwept(t, h, messages)
		alive(t, h)
	})
}

func TestBothKilled(t *testing.T) {
	within(t, func(t *testing.T, h *lab.Host, f *fleet, r *running, id string, messages []lab.Message) {
		kill9(t, h, workerForm, sectionForm) // the one that would notice first
		if n := len(masters(t, h)); n > 0 {
			t.Fatal("Postfix runs: killed too late for this test")
		}
		got := r.wait()
		if got.status != 2 || !strings.Contains(got.err+got.out, "spoolsweep resume "+id) {
			t.Errorf("want exit status 2, and what to type; got %v", got)
		}
		// The next command on the host finds it.
		for _, args := range [][]string{sweepAway(t, h, "--check"), sweepAway(t, h)} {
			next := spoolsweep(t, f, args...)
			if next.status != 2 || !strings.Contains(next.err, "run "+id+" was left between stop and start") || !strings.Contains(next.err, "spoolsweep resume "+id) {
				t.Errorf("%s: want exit status 2, what was left, and what to type; got %v", args[0], next)
			}
		}
		succeeds(t, f, "resume", "-y") // there is only one
		checkSwept(t, h, messages)
		alive(t, h)
	})
}

// standIn is systemd-run(1) and systemctl(1) for a host whose process 1 is no
// systemd: it records how it is called and does what the units would, the timer
// after three seconds. That the real ones do so is not shown here.
const standIn = `set -e
mkdir -p /run/systemd/system
cat >/usr/local/bin/systemd-run <<'EOF'
#!/bin/sh
echo "systemd-run $*" >>/etc/recorded
scope= unit=
while [ "$1" != -- ]; do
	case "$1" in --scope) scope=y ;; --unit=*) unit=${1#--unit=} ;; esac
	shift
done
shift
[ -z "$scope" ] || exec "$@"
touch "/etc/$unit.armed"
setsid sh -c 'unit=$1; shift; sleep 3; [ ! -e "/etc/$unit.armed" ] || exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"' sh "$unit" "$@" >/dev/null 2>&1 </dev/null &
EOF
cat >/usr/local/bin/systemctl <<'EOF'
#!/bin/sh
echo "systemctl $*" >>/etc/recorded
for name; do :; done
rm -f "/etc/${name%.timer}.armed"
EOF
chmod 755 /usr/local/bin/systemd-run /usr/local/bin/systemctl`

// Where systemd runs nobody has to come when both are killed: the timer does.
func TestBothKilledUnderSystemd(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	_, err := h.Run(t.Context(), "sh", "-c", standIn)
	must(t, err)
	f := newFleet(t, []*lab.Host{h}, few, slowStop)
	messages := smallFlood(t, h)
	r := start(t, f, sweepAway(t, h)...)
	id := r.run()
	inStop(t, h, id)
	kill9(t, h, workerForm, sectionForm)
	awaitUp(t, h, 20*time.Second)
	if got := r.wait(); !strings.Contains(got.err, "a timer of systemd") {
		t.Errorf("the plan does not say that a timer guards it: %v", got)
	}
	awaitJournal(t, h, id, "started", 1)
	eventually(t, time.Minute, "the timer's process ends", func() bool {
		left, err := h.Pgrep("spoolsweep-agent-.* settle ")
		must(t, err)
		return len(left) == 0
	})
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "aside", aside, slices.Sorted(slices.Values(ids(messages))))
	succeeds(t, f, "resume", id, "-y")
	checkSwept(t, h, messages)
	alive(t, h)
	said, err := h.Run(t.Context(), "cat", "/etc/recorded")
	must(t, err)
	for _, want := range []string{"systemd-run --scope --quiet --collect -- /", "--unit=spoolsweep-settle-" + id + " --on-active=90 ", " worker /var/lib/spoolsweep " + id, " settle /var/lib/spoolsweep " + id} {
		if !strings.Contains(said, want) {
			t.Errorf("systemd was not called with %q: %s", want, said)
		}
	}
}

// A section that does nothing at all is not waited for.
func TestSectionStalls(t *testing.T) {
	t.Parallel()
	h, _, r, _, messages := sweeping(t, slowStop, inStop)
	sections, err := h.Pgrep(sectionForm)
	must(t, err)
	for _, pid := range sections {
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	awaitUp(t, h, 70*time.Second) // section_limit
	if got := r.wait(); got.status != 0 || !strings.Contains(got.err, "was ended") {
		t.Errorf("want that the run goes on, and says why; got %v", got)
	}
	checkSwept(t, h, messages)
	alive(t, h)
}

// A stop command that neither stops anything nor comes back.
func TestStopHangs(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few, `postfix_stop: "sleep 1000"`)
	messages := smallFlood(t, h)
	doc, r := spoolsweepJSON(t, f, sweepAway(t, h)...)
	if r.status != 0 {
		t.Errorf("want exit status 0, got %v", r)
	}
	var s stage.Stopped
	if !hostIn(t, doc, h).Latest("stop", &s) || !slices.ContainsFunc(s.Ended, func(p string) bool { return strings.HasSuffix(p, " master") }) {
		t.Errorf("stop tells %+v, want that master had to be ended", s)
	}
	if left, err := h.Pgrep("sleep 1000"); err != nil || len(left) > 0 {
		t.Errorf("of the stop command is left: %v, %v", left, err)
	}
	checkSwept(t, h, messages)
	alive(t, h)
}

func TestWorkerKilledInRestore(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	messages := smallFlood(t, h)
	r := start(t, f, sweepAway(t, h, "-e", "rate=10/s")...)
	id := r.run()
	for killed := 1; killed <= 2; killed++ { // once in the run, once in its resume
		awaitJournal(t, h, id, "intent", 2*killed)
		kill9(t, h, workerForm)
		if got := r.wait(); got.status != 2 || !strings.Contains(got.err+got.out, "spoolsweep resume "+id) {
			t.Errorf("want exit status 2, and what to type; got %v", got)
		}
		if back := len(checkHalf(t, h, messages)); back == 0 || back == len(hams(messages)) {
			t.Fatalf("%d of %d are back: killed in the wrong moment for this test", back, len(hams(messages)))
		}
		r = start(t, f, "resume", id, "-y")
	}
	got := r.wait()
	if all := fmt.Sprintf("%d messages  moved back", len(hams(messages))); got.status != 0 || !strings.Contains(got.out, all) {
		t.Errorf("want exit status 0 and %q, got %v", all, got)
	}
	checkSwept(t, h, messages)
	checkDelivered(t, h, messages, hams(messages))
	checkLedger(t, h, f, id)
}

// checkHalf looks that nothing but ham is live yet, and all the rest aside.
func checkHalf(t *testing.T, h *lab.Host, messages []lab.Message) []string {
	t.Helper()
	a, err := h.Audit(t.Context())
	must(t, err)
	back := a.In(live...)
	rest := slices.DeleteFunc(ids(messages), func(id string) bool { return slices.Contains(back, id) })
	slices.Sort(rest)
	checkPlaces(t, h, a, messages, "aside", aside, rest)
	for _, id := range back {
		if _, ham := slices.BinarySearch(hams(messages), id); !ham {
			t.Errorf("%s: spam %s is live", h.Name, id)
		}
	}
	return back
}

// cut cuts the host's power, boots it again, and lets new mail come in. The
// controller finds the host again, and a run that was broken off.
func cut(t *testing.T, h *lab.Host, f *fleet, r *running, id string, messages []lab.Message) []lab.Message {
	t.Helper()
	must(t, h.PowerCut())
	must(t, h.Restart(t.Context()))
	awaitUp(t, h, 10*time.Second) // a child of master's is one too until it executes its own program
	fresh := slices.DeleteFunc(lab.Flood(account(h), 100, 2), func(m lab.Message) bool { return m.Spam })
	must(t, h.Inject(t.Context(), fresh))
	if got := r.wait(); got.status != 2 || !strings.Contains(got.err+got.out, "spoolsweep resume "+id) {
		t.Errorf("want exit status 2, and what to type; got %v", got)
	}
	return append(messages, fresh...)
}

func TestPowerCutInSection(t *testing.T) {
	within(t, func(t *testing.T, h *lab.Host, f *fleet, r *running, id string, messages []lab.Message) {
		messages = cut(t, h, f, r, id, messages)
		succeeds(t, f, "resume", id, "-y")
		checkSwept(t, h, messages)
		alive(t, h)
	})
}

func TestPowerCutInRestore(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	messages := smallFlood(t, h)
	r := start(t, f, sweepAway(t, h, "-e", "rate=10/s")...)
	id := r.run()
	awaitJournal(t, h, id, "intent", 3)
	messages = cut(t, h, f, r, id, messages)
	if n := journaled(t, h, id, "stage-end"); n >= 11 {
		t.Fatalf("%d stages had ended: cut too late for this test", n)
	}
	succeeds(t, f, "resume", id, "-y")
	checkSwept(t, h, messages)
	checkDelivered(t, h, messages, hams(messages))
}

// What master has from whoever started it, for as long as it runs.
func TestPostfixInheritsNothing(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	messages := smallFlood(t, h)
	_, err := h.Run(t.Context(), "sh", "-c", "postfix stop && postfix start")
	must(t, err)
	byHand := traits(t, h)
	await(t, h, map[string]int{"deferred": 100, "active": 100, "incoming": 100})
	succeeds(t, f, sweepAway(t, h)...)
	if diff := cmp.Diff(byHand, traits(t, h)); diff != "" {
		t.Errorf("master as started by hand and as started by the run:\n%s", diff)
	}
	if _, err := h.Run(t.Context(), "flock", "-n", "/var/spool/postfix", "true"); err != nil {
		t.Errorf("the queue directory is locked after the run: %v", err)
	}
	checkHandles(t, h)
	eventually(t, time.Minute, "no process of the agent", func() bool {
		left, err := h.Pgrep("spoolsweep-agent")
		must(t, err)
		return len(left) == 0
	})
	checkSwept(t, h, messages)
}

// traits are what a process hands down to its children.
func traits(t *testing.T, h *lab.Host) map[string]string {
	t.Helper()
	awaitUp(t, h, 5*time.Second)
	pids := masters(t, h)
	read := func(name string) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pids[0], name))
		must(t, err)
		return string(text)
	}
	all := map[string]string{"oom_score_adj": read("oom_score_adj"), "limits": read("limits"), "environ": environ(read("environ"))}
	for line := range strings.Lines(read("status")) {
		if name, value, _ := strings.Cut(line, ":"); slices.Contains([]string{"SigIgn", "SigBlk", "Umask"}, name) {
			all[name] = strings.TrimSpace(value)
		}
	}
	stat := read("stat")
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	all["nice"] = fields[16] // field 19 of proc_pid_stat(5)
	return all
}

// environ is the names of an environment's variables.
func environ(text string) string {
	var names []string
	for _, v := range strings.Split(strings.Trim(text, "\x00"), "\x00") {
		name, _, _ := strings.Cut(v, "=")
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// checkHandles looks that no process of Postfix has a file of the agent or the
// queue directory itself open.
func checkHandles(t *testing.T, h *lab.Host) {
	t.Helper()
	spool, err := os.Stat(h.Spool())
	must(t, err)
	pids, err := h.Pgrep(`^\S*/sbin/master\b|^(qmgr|pickup|smtpd|cleanup|smtp|tlsmgr|postlogd) `)
	must(t, err)
	if len(pids) < 3 {
		t.Errorf("processes of Postfix: %v", pids)
	}
	for _, pid := range pids {
		names, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		must(t, err)
		for _, name := range names {
			to, err := os.Readlink(name)
			if os.IsNotExist(err) {
				continue
			}
			must(t, err)
			if strings.Contains(to, "spoolsweep-agent") || strings.Contains(to, "/runs/") {
				t.Errorf("process %d holds %s", pid, to)
			}
			var s fs.FileInfo
			if s, err = os.Stat(name); err == nil && os.SameFile(s, spool) {
				t.Errorf("process %d holds the queue directory", pid)
			}
		}
	}
}
