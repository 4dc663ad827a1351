package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ready is a host that runs, with one message and the section prepared.
func ready(t *testing.T, queues ...Queue) (*host, *Work) {
	t.Helper()
	h := newHost(t, nil, 0)
	h.write("incoming", testID(1), "mail", 0o700)
	h.start()
	w := h.open()
	h.must(w.Prepare(queues))
	return h, w
}

func failAt(prefix string, with error, times int) {
	step = func(what string) error {
		if strings.HasPrefix(what, prefix) && times != 0 {
			times--
			return with
		}
		return nil
	}
}

// A file system that cannot exchange: two renames, also where a death or an
// error comes between them.
func TestExchangeFallback(t *testing.T) {
	for _, mode := range []string{"undisturbed", "name taken", "second rename fails", "killed between"} {
		t.Run(mode, func(t *testing.T) {
			h, w := ready(t, Incoming)
			k := w.openWants()[0]
			aside := k.Aside
			if mode == "name taken" {
				h.write(aside, testID(9), "another run's", 0o700)
				aside += ".2"
			}
			renames := 0
			step = func(what string) error {
				switch {
				case strings.HasPrefix(what, "exchange"):
					return unix.EINVAL
				case strings.HasPrefix(what, "rename "+k.Fresh):
					renames++
					if mode == "second rename fails" && renames == 1 {
						return unix.EIO
					}
					if mode == "killed between" {
						panic(killed{what})
					}
				}
				return nil
			}
			s, err := w.Stop(t.Context())
			h.must(err)
			err = func() (err error) {
				defer func() {
					if _, is := recover().(killed); is {
						err = errors.New("killed")
					}
				}()
				_, err = w.SetAside(t.Context(), s)
				return err
			}()
			if (err != nil) != (mode == "second rename fails" || mode == "killed between") {
				t.Error(err)
			}
			if mode == "killed between" {
				failAt("exchange", unix.EINVAL, -1)
				w = h.open()
				_, err = w.Settle(t.Context())
			} else {
				_, err = w.Start(t.Context(), s)
			}
			h.must(err)
			h.stands("mail", aside)
			if s, err := os.Stat(h.at("incoming")); err != nil || !s.IsDir() {
				t.Error(err)
			}
			if w.Unsettled() || !h.running() {
				t.Error("not settled, or Postfix does not run")
			}
			if slices.Contains(h.names(), k.Fresh) {
				t.Error("the prepared directory is left")
			}
		})
	}
}

// A full queue that was exchanged, but could not be renamed aside, would be out
// of sight under the prepared one's name: Start ends that, or the run stays
// unsettled until it can.
func TestHalfSetNamesAreNotForgotten(t *testing.T) {
	for _, times := range []int{1, -1} {
		h, w := ready(t, Incoming)
		fresh := w.openWants()[0].Fresh
		s, err := w.Stop(t.Context())
		h.must(err)
		failAt("rename "+fresh, unix.EIO, times)
		if _, err := w.SetAside(t.Context(), s); !errors.Is(err, unix.EIO) {
			t.Errorf("set aside: %v", err)
		}
		_, err = w.Start(t.Context(), s)
		if !h.running() {
			t.Error("Postfix does not run")
		}
		if times < 0 {
			if err == nil || !w.Unsettled() {
				t.Errorf("start: %v, unsettled %v", err, w.Unsettled())
			}
			step = func(string) error { return nil }
			w = h.open()
			master, _ := h.p.Running()
			done, err := w.Settle(t.Context())
			h.must(err)
			if len(done.Sets) != 1 || done.Started == nil || done.Started.Master != master {
				t.Errorf("settled: %+v", done)
			}
		} else if err != nil {
			t.Error(err)
		}
		h.stands("mail", "incoming.spamfull")
	}
}

// Postfix, or whoever starts it, is back before Settle comes.
func TestSettleWhilePostfixRuns(t *testing.T) {
	for name, row := range map[string]struct {
		dieAt string // the step that is not reached
		stops int
		fresh string // where mail is in the end that came in after the boot
	}{
		"names right":           {"journal after exchange", 0, "incoming"},
		"only the rename":       {"rename .incoming", 0, "incoming"},
		"names wrong":           {"exchange", 1, "incoming.spamfull"}, // it came into the full one
		"died before the proof": {"lock again", 1, "incoming.spamfull"},
		"between two queues":    {"exchange .active", 1, "incoming"},
	} {
		t.Run(name, func(t *testing.T) {
			queues := []Queue{Incoming}
			if name == "between two queues" {
				queues = append(queues, Active)
			}
			h, w := ready(t, queues...)
			h.write("active", testID(2), "active mail", 0o700)
			locks, exchanged := 0, false
			step = func(what string) error {
				locks += strings.Count(what, "lock ")
				die := strings.HasPrefix(what, row.dieAt) ||
					row.dieAt == "journal after exchange" && what == "journal" && exchanged ||
					row.dieAt == "lock again" && locks == 2
				exchanged = exchanged || strings.HasPrefix(what, "exchange")
				if die {
					panic(killed{what})
				}
				return nil
			}
			func() {
				defer func() {
					if _, is := recover().(killed); !is {
						t.Error("did not die")
					}
				}()
				s, err := w.Stop(context.Background())
				h.must(err)
				_, err = w.SetAside(context.Background(), s)
				h.must(err)
			}()
			step = func(string) error { return nil }
			h.die()
			await(t, func() bool { return !h.running() })
			h.start() // a boot, or somebody by hand
			h.write("incoming", testID(3), "new mail", 0o700)
			first, _ := h.p.Running()
			stops := 0
			step = func(what string) error {
				if strings.HasPrefix(what, "command") && strings.Contains(what, "kill -TERM") {
					stops++
				}
				return nil
			}
			w = h.open()
			if !w.Unsettled() {
				t.Error("it is not known that it was left")
			}
			done, err := w.Settle(t.Context())
			h.must(err)
			if !done.Needed || stops != row.stops {
				t.Errorf("%d stops, want %d; %+v", stops, row.stops, done)
			}
			if now, ok := h.p.Running(); !ok || (now == first) != (row.stops == 0) {
				t.Errorf("master %d, then %d", first, now)
			}
			h.stands("mail", "incoming.spamfull")
			h.stands("new mail", row.fresh)
			if len(queues) == 2 {
				h.stands("active mail", "active.spamfull")
			} else {
				h.stands("active mail", "active")
			}
			step = func(what string) error { t.Errorf("settled twice: %s", what); return nil }
			if again, err := w.Settle(t.Context()); err != nil || again.Needed {
				t.Errorf("%+v, %v", again, err)
			}
		})
	}
}

func await(t testing.TB, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(poll) {
		if time.Now().After(deadline) {
			t.Fatal("waited a minute")
		}
	}
}

// Postfix's start makes a live directory that is missing; mail may lie in it.
func TestLiveDirectoryMadeAnew(t *testing.T) {
	h, w := ready(t, Incoming)
	s, err := w.Stop(t.Context())
	h.must(err)
	k := w.openWants()[0]
	h.must(os.Rename(h.at("incoming"), h.at(k.Aside))) // as the fallback's first half
	h.write("incoming", testID(2), "new mail", 0o700)
	_, err = w.SetAside(t.Context(), s)
	h.must(err)
	_, err = w.Start(t.Context(), s)
	h.must(err)
	h.stands("mail", "incoming.spamfull")
	h.stands("new mail", "incoming")
	if slices.Contains(h.names(), k.Fresh) {
		t.Error("the prepared directory is left")
	}
}

// A look at the lock that fails is no stopped Postfix: it is left alone.
func TestStopCannotLook(t *testing.T) {
	h, w := ready(t, Incoming)
	master, _ := h.p.Running()
	failAt("lock ", unix.EIO, 1)
	if _, err := w.Stop(t.Context()); !errors.Is(err, unix.EIO) {
		t.Error(err)
	}
	if now, ok := h.p.Running(); !ok || now != master {
		t.Errorf("master %d, then %d", master, now)
	}
	_, err := w.Settle(t.Context())
	h.must(err)
	h.stands("mail", "incoming")
	if n := h.names(); slices.ContainsFunc(n, func(s string) bool { return s[0] == '.' }) {
		t.Errorf("left %v", n)
	}
}

// A prepared directory that somebody removed is found before the stop.
func TestStopLooksBefore(t *testing.T) {
	h, w := ready(t, Incoming)
	h.must(os.Remove(h.at(w.openWants()[0].Fresh)))
	master, _ := h.p.Running()
	if _, err := w.Stop(t.Context()); err == nil {
		t.Error("stopped")
	}
	if now, ok := h.p.Running(); !ok || now != master {
		t.Errorf("master %d, then %d", master, now)
	}
}

// A stop command that does nothing: the processes are ended after their time.
func TestStopIgnored(t *testing.T) {
	h, w := ready(t, Incoming)
	h.p.Stop = []string{"true"}
	s, err := w.Stop(t.Context())
	h.must(err)
	if len(s.Ended) != 2 || !s.WasRunning {
		t.Errorf("%+v", s)
	}
	_, err = w.Start(t.Context(), s)
	h.must(err)
	if !h.running() {
		t.Error("Postfix does not run")
	}
}

// A stop that was proved but cannot be journaled leaves Postfix running.
func TestStopNotJournaled(t *testing.T) {
	h, w := ready(t, Incoming)
	n := 0
	step = func(what string) error {
		if what == "journal" {
			n++
			if n == 3 { // stopping, command, stopped
				return unix.ENOSPC
			}
		}
		return nil
	}
	if _, err := w.Stop(t.Context()); !errors.Is(err, unix.ENOSPC) {
		t.Error(err)
	}
	if !h.running() {
		t.Error("Postfix does not run")
	}
	h.stands("mail", "incoming")
}

func TestStartIsTriedAgain(t *testing.T) {
	h, w := ready(t, Incoming)
	s, err := w.Stop(t.Context())
	h.must(err)
	count := filepath.Join(h.dir, "count")
	h.must(os.WriteFile(count, nil, 0o600))
	h.p.Start = []string{"sh", "-c", `echo x >>` + count + `; [ $(wc -l <` + count + `) -gt 2 ] || { echo "fatal: not yet" >&2; exit 1; }; ` + idleStart, h.p.QueueDirectory}
	var told []string
	w.Tell = func(message string) { told = append(told, message) }
	r, err := w.Start(t.Context(), s)
	h.must(err)
	if len(told) != 1 || !strings.Contains(told[0], "fatal: not yet") || !strings.Contains(told[0], "mend the cause") {
		t.Errorf("told while it is tried again: %q, want the reason, once a minute", told)
	}
	if text, _ := os.ReadFile(count); len(text) != 6 || r.Downtime <= 0 || r.Proved < proveStart.Seconds() {
		t.Errorf("%d tries, %+v", len(text)/2, r)
	}
}

// Where it does not come up at all, the error has the reason, and the run is
// known to be left.
func TestStartFails(t *testing.T) {
	h, w := ready(t, Incoming)
	s, err := w.Stop(t.Context())
	h.must(err)
	good := h.p.Start
	h.p.Start = []string{"sh", "-c", `echo "postfix/master: fatal: bad disk" >>` + h.p.LogFile + `; exit 1`}
	h.must(os.WriteFile(h.p.LogFile, []byte("fatal: of last week\n"), 0o600))
	if _, err := w.Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), "bad disk") || strings.Contains(err.Error(), "last week") {
		t.Error(err)
	}
	if !w.Unsettled() {
		t.Error("not known to be left")
	}
	h.p.Start = good
	_, err = h.open().Settle(t.Context())
	h.must(err)
	if !h.running() {
		t.Error("Postfix does not run")
	}
}

// Neither lock is held by a Postfix that we have started.
func TestLocksAreNotInherited(t *testing.T) {
	h, _ := ready(t, Incoming)
	w := h.setAside(Incoming)
	master, _ := h.p.Running()
	family, err := h.p.family([]int{master})
	h.must(err)
	for _, c := range family {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.pid))
		for _, l := range links {
			if to, _ := os.Readlink(l); to == h.p.QueueDirectory || strings.HasPrefix(to, h.state()) {
				t.Errorf("%d (%s) has %s open", c.pid, c.command, to)
			}
		}
	}
	_ = w
	h.die()
	lock, err := Lock(h.p)
	h.must(err)
	lock.Close()
	// master.pid's is the new master's alone: it is free when that has ended.
	h.must(command(t.Context(), time.Minute, nil, h.p.Stop...))
	await(t, func() bool {
		root, err := os.Open(h.p.QueueDirectory)
		h.must(err)
		defer root.Close()
		f, err := h.p.lockMaster(root)
		if err == nil {
			f.Close()
		}
		return err == nil
	})
}

// The number in an old master.pid belongs to another instance's master now.
func TestFamilyOfAnotherInstance(t *testing.T) {
	h, other := newHost(t, nil, 0), newHost(t, nil, 0)
	other.start()
	master, _ := other.p.Running()
	h.p.DaemonDirectory = filepath.Dir(executable(master))
	h.must(os.WriteFile(h.at("pid/master.pid"), fmt.Appendf(nil, "%d\n", master), 0o600))
	if left, err := h.p.family([]int{master}); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
	if h.running() {
		t.Error("another instance's master counts as ours")
	}
	other.p.DaemonDirectory = h.p.DaemonDirectory
	if left, err := other.p.family([]int{master}); err != nil || len(left) != 2 {
		t.Errorf("its own: %v, %v", left, err)
	}
}

// A section may follow another of the same run, though the file system gives
// out the same inodes again.
func TestThreeSectionsOfOneRun(t *testing.T) {
	h := newHost(t, []string{"deferred", "defer"}, 1)
	h.flood(6)
	before, names := h.account(), h.names()
	h.start()
	for i := range 3 {
		w := h.setAside(Incoming, Deferred)
		list := h.asideMail(w)
		sets, err := w.SetsAside()
		if err != nil || len(sets) != 3 {
			t.Fatalf("%v, %v", sets, err)
		}
		moved, left, err := w.PutBack(t.Context(), list, Options{Token: fmt.Sprint(i)}, quiet)
		if err != nil || len(left) > 0 || int(moved.Restored) != len(list) {
			t.Fatalf("%+v, %v, %v", moved, left, err)
		}
		h.once(before)
	}
	h.ended(before, names, false)
}

func TestOverdueAndLeftDown(t *testing.T) {
	long := boot() - int64(SectionLimit) - 1e9
	for _, row := range []struct {
		name          string
		kinds         []string
		boot          int64
		overdue, down bool
	}{
		{"nothing", nil, 0, false, false},
		{"prepared", []string{kindWants}, 0, false, false},
		{"stopping", []string{kindStopping}, boot(), false, true},
		{"stopping for long", []string{kindStopping}, long, true, true},
		{"stopped for long", []string{kindStopping, kindStopped}, long, true, true},
		{"starting", []string{kindStopping, kindStopped, kindStarting}, long, false, true},
		{"started", []string{kindStopping, kindStarting, kindStarted}, long, false, false},
		{"given up", []string{kindStopping, kindGivenUp}, long, false, false},
		{"stopped again", []string{kindStopping, kindStarting, kindStopping}, long, true, true},
	} {
		dir := t.TempDir()
		j, _, err := OpenJournal(dir, "test")
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range row.kinds {
			var data any = struct{}{}
			if kind == kindStopping {
				data = stopRecord{Master: 1234, Boot: row.boot}
			}
			if err := j.Write(kind, data); err != nil {
				t.Fatal(err)
			}
		}
		j.Close()
		records, err := ReadJournal(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := LeftDown(records); got != row.down {
			t.Errorf("%s: left down %v", row.name, got)
		}
		if got, err := Overdue(dir); err != nil || got != row.overdue {
			t.Errorf("%s: overdue %v, %v", row.name, got, err)
		}
	}
	if late, err := Overdue(t.TempDir()); late || err != nil {
		t.Errorf("no journal: %v, %v", late, err)
	}
}

func TestLastComplaint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.log")
	p := &Postfix{}
	old := "mx postfix/qmgr: fatal: old\n"
	for _, row := range []struct{ text, want string }{
		{"", ""},
		{"x\n", ""},
		{"a: warning: one\nb: warning: two\n", "b: warning: two"},
		{"a: fatal: one\nb: warning: two\nc\n", "a: fatal: one"},
		{"a: fatal: one\nb: fatal: two", "b: fatal: two"},
	} {
		if err := os.WriteFile(path, []byte(old+row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := p.lastComplaint(path, int64(len(old))); got != row.want {
			t.Errorf("%q: got %q, want %q", row.text, got, row.want)
		}
	}
	if err := os.WriteFile(path, []byte("a: fatal: new\n"), 0o600); err != nil { // rotated
		t.Fatal(err)
	}
	if got := p.lastComplaint(path, 1<<20); got != "a: fatal: new" {
		t.Errorf("rotated: got %q", got)
	}
	// Of several instances that write to one log the own lines count.
	if err := os.WriteFile(path, []byte("mx postfix/master[1]: fatal: ours\nmx postfix-out/master[2]: fatal: another's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.instance, p.LogName = DefaultInstance, "postfix"
	if got := p.lastComplaint(path, 0); got != "mx postfix/master[1]: fatal: ours" {
		t.Errorf("of two instances: got %q", got)
	}
}

// A queue that a section could not set aside is not its run's, also when another
// run sets that very directory aside later, under the name that was meant.
func TestNotSetAsideIsNotOurs(t *testing.T) {
	h, w := ready(t, Incoming, Hold)
	s, err := w.Stop(t.Context())
	h.must(err)
	failAt("exchange", unix.EIO, 1)
	if _, err := w.SetAside(t.Context(), s); err == nil {
		t.Error("no error")
	}
	step = func(string) error { return nil }
	_, err = w.Start(t.Context(), s)
	h.must(err)
	h.die()
	lock, err := Lock(h.p)
	h.must(err)
	h.lock = lock
	other := filepath.Join(h.dir, "other")
	h.must(os.Mkdir(other, 0o700))
	h.work, _, err = OpenWork(h.p, "20261124T000000Z-other", other, "test", lock)
	h.must(err)
	if sets, err := h.setAside(Incoming, Hold).SetsAside(); err != nil || len(sets) != 2 {
		t.Errorf("the other run has aside %v, %v", sets, err)
	}
	w = h.open()
	if sets, err := w.SetsAside(); err != nil || len(sets) > 0 {
		t.Errorf("the run that failed has aside %v, %v", sets, err)
	}
	if left, err := w.removeAsides(); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	for _, name := range []string{"incoming.spamfull", "hold.spamfull"} { // the latter is empty
		if !slices.Contains(h.names(), name) {
			t.Errorf("%s of the other run was removed", name)
		}
	}
}
