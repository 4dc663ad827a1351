package spool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// swept is a host with a few messages aside: in incoming, and in hashed
// deferred with its log.
func swept(t *testing.T) (*host, *Work) {
	t.Helper()
	h := newHost(t, []string{"deferred", "defer"}, 1)
	for _, id := range []string{"AAAAA1", "AAAAB2", "AAAAC3"} {
		h.write("incoming", id, "incoming "+id, 0o700)
	}
	h.write("deferred/D", "DAAAA4", "deferred DAAAA4", 0o700)
	h.write("defer/D", "DAAAA4", "log of DAAAA4", 0o600)
	h.start()
	return h, h.setAside(Incoming, Deferred)
}

func (h *host) restore(w *Work, list ...Mail) Moved {
	h.t.Helper()
	moved, err := w.Restore(context.Background(), list, Options{Token: "list"}, quiet)
	h.must(err)
	return moved
}

// place says where contents stand, each in one place.
func (h *host) place(contents ...string) map[string]string {
	h.t.Helper()
	found := map[string]string{}
	all := h.account()
	for _, c := range contents {
		found[c] = strings.Join(all[c], " and ")
	}
	return found
}

func (h *host) check(want map[string]string) {
	h.t.Helper()
	var contents []string
	for c := range want {
		contents = append(contents, c)
	}
	if diff := cmp.Diff(want, h.place(contents...)); diff != "" {
		h.t.Errorf("places (-want +got):\n%s", diff)
	}
}

func TestSetAside(t *testing.T) {
	h, w := swept(t)
	sets, err := w.SetsAside()
	h.must(err)
	slices.SortFunc(sets, func(a, b Set) int { return strings.Compare(a.Aside, b.Aside) })
	for i := range sets {
		if age := time.Now().Unix() - sets[i].When; age < 0 || age > 60 {
			t.Errorf("%s was set aside %d seconds ago", sets[i].Aside, age)
		}
		sets[i].When = 0
	}
	if diff := cmp.Diff([]Set{{Queue: Defer, Aside: "defer.spamfull"}, {Queue: Deferred, Aside: "deferred.spamfull"}, {Queue: Incoming, Aside: "incoming.spamfull"}}, sets); diff != "" {
		t.Errorf("sets aside (-want +got):\n%s", diff)
	}
	h.check(map[string]string{
		"incoming AAAAA1": "incoming.spamfull", "deferred DAAAA4": "deferred.spamfull/D", "log of DAAAA4": "defer.spamfull/D",
	})
	if !h.running() {
		t.Error("Postfix does not run")
	}
}

// A taken id is never overwritten, whichever live queue it is taken in.
func TestCollisions(t *testing.T) {
	for _, taken := range []string{"incoming", "maildrop", "active", "hold", "deferred/A"} {
		t.Run(taken, func(t *testing.T) {
			h, w := swept(t)
			h.write(taken, "AAAAA1", "somebody else's", 0o700)
			h.write("incoming", "DAAAA4", "another's", 0o700)
			moved := h.restore(w, h.mail("incoming.spamfull", "AAAAA1"), h.mail("incoming.spamfull", "AAAAB2"), h.mail("deferred.spamfull/D", "DAAAA4"))
			if moved.Restored != 1 || moved.Collisions != 2 || moved.Failed != 0 {
				t.Errorf("got %+v", moved)
			}
			h.check(map[string]string{
				"somebody else's": taken, "another's": "incoming", "incoming AAAAA1": "incoming.name-collisions", "incoming AAAAB2": "incoming",
				"deferred DAAAA4": "deferred.name-collisions", "log of DAAAA4": "defer.name-collisions",
			})
		})
	}
}

func TestCollisionTakenTwice(t *testing.T) {
	h, w := swept(t)
	h.write("hold", "AAAAA1", "on hold", 0o700)
	h.write("incoming.name-collisions", "AAAAA1", "an older collision", 0o700)
	moved := h.restore(w, h.mail("incoming.spamfull", "AAAAA1"))
	if moved.Failed != 1 || moved.Collisions != 0 || moved.Restored != 0 {
		t.Errorf("got %+v", moved)
	}
	h.check(map[string]string{"on hold": "hold", "an older collision": "incoming.name-collisions", "incoming AAAAA1": "incoming.spamfull"})
}

// What is not the file that was judged, or would harm the queue manager, stays.
func TestRestoreRefuses(t *testing.T) {
	for name, change := range map[string]func(h *host, path string) error{
		"rewritten": func(h *host, path string) error {
			return os.WriteFile(path, []byte("longer than it was before"), 0o700)
		},
		"another time": func(h *host, path string) error { return os.Chtimes(path, time.Now(), time.Now().Add(-time.Hour)) },
		"another inode": func(h *host, path string) error {
			return replace(path, func() error { return os.WriteFile(path, []byte("incoming AAAAA1"), 0o700) })
		},
		"link": func(h *host, path string) error {
			return replace(path, func() error { return os.Symlink("/etc/passwd", path) })
		},
		"FIFO": func(h *host, path string) error {
			return replace(path, func() error { return unix.Mkfifo(path, 0o700) })
		},
		"hard link": func(h *host, path string) error { return os.Link(path, h.at("hold/FFFFF9")) },
		"directory": func(h *host, path string) error { return replace(path, func() error { return os.Mkdir(path, 0o700) }) },
	} {
		t.Run(name, func(t *testing.T) {
			h, w := swept(t)
			m, other := h.mail("incoming.spamfull", "AAAAA1"), h.mail("incoming.spamfull", "AAAAB2")
			path := h.at("incoming.spamfull/AAAAA1")
			h.must(change(h, path))
			moved := h.restore(w, m, other)
			if moved.Failed != 1 || moved.Restored != 1 || len(moved.Failures) != 1 || !strings.Contains(moved.Failures[0], "AAAAA1") {
				t.Errorf("got %+v", moved)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(h.at("incoming/AAAAA1")); err == nil {
				t.Error("it is live")
			}
		})
	}
}

// replace keeps the inode in use, so that a new file gets another one.
func replace(path string, with func() error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(path); err != nil {
		return err
	}
	return with()
}

// What vanished is not aside any more, and was not moved by us: counted by itself.
func TestRestoreVanished(t *testing.T) {
	h, w := swept(t)
	m := h.mail("incoming.spamfull", "AAAAA1")
	h.must(os.Remove(h.at("incoming.spamfull/AAAAA1")))
	if moved := h.restore(w, m); moved.SentMeanwhile != 1 || moved.Restored != 0 {
		t.Errorf("got %+v", moved)
	}
}

func TestRestoreTwice(t *testing.T) {
	h, w := swept(t)
	list := h.asideMail(w)
	if moved := h.restore(w, list...); int(moved.Restored) != len(list) {
		t.Errorf("got %+v of %d", moved, len(list))
	}
	// Done again after a death, it says the same, and moves nothing.
	before := h.account()
	if moved := h.restore(h.open(), list...); int(moved.Restored) != len(list) || moved.Failed != 0 {
		t.Errorf("again: got %+v of %d", moved, len(list))
	}
	if diff := cmp.Diff(before, h.account()); diff != "" {
		t.Errorf("again moved:\n%s", diff)
	}
}

// The queue manager leaves mail of the future alone: in incoming it is due now,
// in deferred when it was.
func TestRestoreTime(t *testing.T) {
	h, w := swept(t)
	later := time.Now().Add(time.Hour).Truncate(time.Second)
	h.must(os.Chtimes(h.at("incoming.spamfull/AAAAA1"), later, later))
	h.must(os.Chtimes(h.at("deferred.spamfull/D/DAAAA4"), later, later))
	h.restore(w, h.mail("incoming.spamfull", "AAAAA1"), h.mail("deferred.spamfull/D", "DAAAA4"))
	if m := h.mail("incoming", "AAAAA1"); m.Mtime > time.Now().UnixNano() {
		t.Error("incoming: still due in the future")
	}
	if m := h.mail("deferred/D", "DAAAA4"); m.Mtime != later.UnixNano() {
		t.Error("deferred: its next try was changed")
	}
}

// What was renamed is not called not moved, whatever fails after that: the next
// try looks where it is, and counts it.
func TestRestoreTimeFails(t *testing.T) {
	h, w := swept(t)
	later := time.Now().Add(time.Hour)
	h.must(os.Chtimes(h.at("incoming.spamfull/AAAAA1"), later, later))
	list := h.asideMail(w)
	failAt("touch", unix.EIO, 1)
	defer SetStep(nil)
	if moved, err := w.Restore(t.Context(), slices.Clone(list), Options{Token: "list"}, quiet); !errors.Is(err, unix.EIO) {
		t.Errorf("got %+v, %v", moved, err)
	}
	if moved := h.restore(h.open(), list...); moved.Restored != 4 || moved.SentMeanwhile+moved.Failed > 0 {
		t.Errorf("then got %+v", moved)
	}
	if m := h.mail("incoming", "AAAAA1"); m.Mtime > time.Now().UnixNano() {
		t.Error("still due in the future")
	}
}

func TestRestoreOldestFirst(t *testing.T) {
	h, w := swept(t)
	list := []Mail{h.mail("incoming.spamfull", "AAAAA1"), h.mail("incoming.spamfull", "AAAAB2"), h.mail("incoming.spamfull", "AAAAC3")}
	list[0].Born, list[1].Born, list[2].Born = 30, 10, 20
	defer SetStep(nil)
	var order []string
	SetStep(func(what string) error {
		if f := strings.Fields(what); f[0] == "rename" && strings.HasPrefix(f[1], "AAAA") {
			order = append(order, f[1])
		}
		return nil
	})
	h.restore(w, list...)
	if diff := cmp.Diff([]string{"AAAAB2", "AAAAC3", "AAAAA1"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}

func TestRestoreRate(t *testing.T) {
	h, w := swept(t)
	began := time.Now()
	moved, err := w.Restore(t.Context(), h.asideMail(w), Options{Token: "list", Rate: 4}, quiet)
	h.must(err)
	if took := time.Since(began); moved.Restored != 4 || took < 400*time.Millisecond {
		t.Errorf("%+v in %v", moved, took)
	}
}

// It waits while the live queues hold more than was allowed above what they held.
func TestRestoreLiveMax(t *testing.T) {
	h, w := swept(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	var list []Mail
	for _, id := range []string{"AAAAA1", "AAAAB2", "AAAAC3"} {
		list = append(list, h.mail("incoming.spamfull", id))
	}
	slowAfter = 300 * time.Millisecond
	t.Cleanup(func() { slowAfter = 20 * time.Second })
	var slow []int64
	moved, err := w.Restore(ctx, list, Options{Token: "list", LiveMax: 2, Slow: func(live int64) { slow = append(slow, live) }}, quiet)
	if !slices.Equal(slow, []int64{2}) {
		t.Errorf("that it waits for 2 live ones is told as %v", slow)
	}
	if !errors.Is(err, context.DeadlineExceeded) || moved.Restored != 2 {
		t.Errorf("got %+v, %v; want 2, and to wait with the third", moved, err)
	}
	h.must(os.Remove(h.at("incoming/" + []string{"AAAAA1", "AAAAB2", "AAAAC3"}[0])))
	if moved := h.restore(h.open(), list...); moved.Restored != 3 {
		t.Errorf("then got %+v", moved)
	}
}

func TestRestoreNeedsPostfix(t *testing.T) {
	h, w := swept(t)
	h.must(command(t.Context(), time.Minute, nil, h.p.Stop...))
	for h.running() {
		time.Sleep(poll)
	}
	if _, err := w.Restore(t.Context(), h.asideMail(w), Options{Token: "list"}, quiet); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("got %v", err)
	}
}

// A log whose message was never aside comes back with the first restore, and
// one that is in the way of none is kept.
func TestLogs(t *testing.T) {
	h := newHost(t, []string{"deferred", "defer"}, 1)
	h.write("hold", "BAAAA1", "on hold", 0o700)
	h.write("defer/B", "BAAAA1", "log of the one on hold", 0o600)
	h.write("deferred/D", "DAAAA4", "deferred", 0o700)
	h.write("defer/D", "DAAAA4", "older log", 0o600)
	h.start()
	w := h.setAside(Deferred)
	h.write("defer/D", "DAAAA4", "newer log", 0o600)
	h.restore(w, h.mail("deferred.spamfull/D", "DAAAA4"))
	h.check(map[string]string{
		"log of the one on hold": "defer/B", "deferred": "deferred/D", "newer log": "defer/D", "older log": "defer.name-collisions",
	})
}

func TestPutBack(t *testing.T) {
	h, w := swept(t)
	h.write("incoming.spamfull", "EEEEE5", "half-written", 0o600)
	h.write("incoming.spamfull", "not-an-id", "odd", 0o600)
	moved, left, err := w.PutBack(t.Context(), h.asideMail(w), Options{Token: "all"}, quiet)
	h.must(err)
	if moved.Restored != 4 || !slices.Equal(left, []string{"incoming.spamfull"}) {
		t.Errorf("got %+v, left %v", moved, left)
	}
	h.check(map[string]string{"half-written": "incoming", "odd": "incoming.spamfull", "log of DAAAA4": "defer/D", "deferred DAAAA4": "deferred/D"})
	for _, gone := range []string{"deferred.spamfull", "defer.spamfull"} {
		if slices.Contains(h.names(), gone) {
			t.Errorf("%s is still there, empty", gone)
		}
	}
}

func TestNamesTaken(t *testing.T) {
	h := newHost(t, nil, 0)
	h.write("incoming", "AAAAA1", "today's", 0o700)
	h.write("incoming.spamfull", "AAAAA1", "last week's", 0o700)
	h.start()
	w := h.open()
	h.must(w.Prepare([]Queue{Incoming}))
	h.write("incoming.spamfull.2", "AAAAA1", "made meanwhile", 0o700)
	s, err := w.Stop(t.Context())
	h.must(err)
	sets, err := w.SetAside(t.Context(), s)
	h.must(err)
	_, err = w.Start(t.Context(), s)
	h.must(err)
	if len(sets) != 1 || sets[0].Aside != "incoming.spamfull.3" {
		t.Errorf("got %v", sets)
	}
	h.check(map[string]string{"today's": "incoming.spamfull.3", "last week's": "incoming.spamfull", "made meanwhile": "incoming.spamfull.2"})
	if now, err := h.open().SetsAside(); err != nil || len(now) != 1 || now[0].Aside != "incoming.spamfull.3" {
		t.Errorf("read again: got %v, %v", now, err)
	}
}

func TestLockIsOne(t *testing.T) {
	h := newHost(t, nil, 0)
	h.open()
	if _, err := Lock(h.p); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	h.die()
	lock, err := Lock(h.p)
	h.must(err)
	lock.Close()
}

// While somebody else holds master's lock no stop is believed: nothing is
// moved, and the error says why.
func TestStopNotProved(t *testing.T) {
	h := newHost(t, nil, 0)
	h.write("incoming", "AAAAA1", "mail", 0o700)
	f, err := os.OpenFile(filepath.Join(h.at("pid"), "master.pid"), os.O_RDWR, 0)
	h.must(err)
	defer f.Close()
	h.must(unix.Flock(int(f.Fd()), unix.LOCK_EX))
	w := h.open()
	h.must(w.Prepare([]Queue{Incoming}))
	if _, err := w.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("got %v", err)
	}
	h.check(map[string]string{"mail": "incoming"})
	if w.Unsettled() {
		t.Error("the run counts as left between stop and start")
	}
	if left := h.names(); slices.ContainsFunc(left, func(n string) bool { return strings.HasPrefix(n, ".") }) {
		t.Errorf("left behind: %v", left)
	}
}

// A child that outlives its master may still write: it is waited for, then ended.
func TestChildOutlivesStop(t *testing.T) {
	h := newHost(t, nil, 0)
	h.p.Stop = []string{"sh", "-c", idleStopMaster, h.p.QueueDirectory}
	h.write("incoming", "AAAAA1", "mail", 0o700)
	h.start()
	w := h.open()
	h.must(w.Prepare([]Queue{Incoming}))
	s, err := w.Stop(t.Context())
	h.must(err)
	if len(s.Ended) != 1 || s.Seconds < stopGrace.Seconds() {
		t.Errorf("ended %v after %.1f s", s.Ended, s.Seconds)
	}
	_, err = w.SetAside(t.Context(), s)
	h.must(err)
	_, err = w.Start(t.Context(), s)
	h.must(err)
	h.check(map[string]string{"mail": "incoming.spamfull"})
}

func TestStoppedBefore(t *testing.T) {
	h := newHost(t, nil, 0)
	h.write("incoming", "AAAAA1", "mail", 0o700)
	w := h.setAside(Incoming)
	if !h.running() {
		t.Error("Postfix was not started")
	}
	h.check(map[string]string{"mail": "incoming.spamfull"})
	if w.Unsettled() {
		t.Error("not settled")
	}
}
