package spool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// aside is a host with a run that has set incoming, active and deferred aside,
// and Postfix running again.
func aside(t *testing.T, hashed []string, depth int, fill func(h *host)) (*host, *Work) {
	t.Helper()
	h := newHost(t, hashed, depth)
	fill(h)
	h.start()
	return h, h.setAside(Maildrop, Incoming, Active, Deferred)
}

func (h *host) stands(content string, want ...string) {
	h.t.Helper()
	if got := h.account()[content]; !slices.Equal(got, want) {
		h.t.Errorf("%q stands in %v, want %v", content, got, want)
	}
}

// Two messages of one list have one id: both live, Postfix would rename one of
// them over the other.
func TestRestoreTwoOfOneID(t *testing.T) {
	id := testID(1)
	h, w := aside(t, []string{"deferred", "defer"}, 1, func(h *host) {
		h.write("incoming", id, "one", 0o700)
		h.write("active", id, "two", 0o700)
		h.write(h.home(Deferred, id), id, "three", 0o700)
	})
	before := h.account()
	moved := h.restore(w, h.asideMail(w)...)
	if moved.Restored != 1 || moved.Collisions != 2 || moved.Failed != 0 {
		t.Errorf("moved %+v", moved)
	}
	h.once(before)
	h.stands("one", "incoming")
}

// The same where new mail has that name in a directory that is too long to be read:
// each of them goes out of the way, once.
func TestRestoreTwoOfOneTakenID(t *testing.T) {
	id := testID(1)
	h, w := aside(t, nil, 0, func(h *host) {
		h.write("incoming", id, "one", 0o700)
		h.write("active", id, "two", 0o700)
	})
	h.write("incoming", id, "new", 0o700)
	for i := range 9 {
		h.write("incoming", "F"+testID(i), fmt.Sprint(i), 0o700)
	}
	before := h.account()
	moved := h.restore(w, h.asideMail(w)...)
	if moved.Restored != 0 || moved.Collisions != 2 || moved.Failed+moved.SentMeanwhile != 0 {
		t.Errorf("moved %+v", moved)
	}
	h.once(before)
	h.stands("new", "incoming")
	h.stands("one", "incoming"+collisions)
	h.stands("two", "active"+collisions)
}

// Replaced between the look and the rename: it goes back.
func TestRestoreReplacedAtTheRename(t *testing.T) {
	id := testID(1)
	h, w := aside(t, nil, 0, func(h *host) { h.write("incoming", id, "old", 0o700) })
	list := h.asideMail(w)
	step = func(what string) error {
		if strings.HasPrefix(what, "rename "+id+" "+id+" ") {
			step = func(string) error { return nil }
			h.must(os.Rename(filepath.Join(h.at("incoming.spamfull"), id), filepath.Join(h.dir, "kept")))
			h.write("incoming.spamfull", id, "another", 0o700)
		}
		return nil
	}
	if moved := h.restore(w, list...); moved.Failed != 1 || moved.Restored != 0 {
		t.Errorf("moved %+v", moved)
	}
	h.stands("another", "incoming.spamfull")
}

// Names that lead out of what was set aside move nothing.
func TestRestoreStrangeNames(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) { h.write("incoming", testID(1), "old", 0o700) })
	h.write("incoming", testID(2), "live", 0o700)
	h.write("incoming.spamfull.2", testID(3), "another run's", 0o700)
	before := h.account()
	own := h.mail("incoming.spamfull", testID(1))
	bad := []Mail{h.mail("incoming", testID(2)), h.mail("incoming.spamfull.2", testID(3))}
	for _, change := range []func(m *Mail){
		func(m *Mail) { m.Aside = "../q/incoming.spamfull" },
		func(m *Mail) { m.ID = "../incoming.spamfull/" + m.ID },
		func(m *Mail) { m.ID = "" },
		func(m *Mail) { m.Sub = ".." },
	} {
		m := own
		change(&m)
		bad = append(bad, m)
	}
	if moved := h.restore(w, bad...); int(moved.Failed) != len(bad) || moved.Restored+moved.Collisions != 0 {
		t.Errorf("moved %+v of %d", moved, len(bad))
	}
	h.once(before)
	for what, where := range before {
		h.stands(what, where...)
	}
}

func TestRestoreTimes(t *testing.T) {
	for _, hashed := range [][]string{{"deferred"}, {"incoming", "deferred"}} {
		future := time.Now().Add(time.Hour).Truncate(time.Second)
		a, d := testID(1), testID(2)
		h, w := aside(t, hashed, 1, func(h *host) {
			for q, id := range map[Queue]string{Active: a, Deferred: d} {
				h.write(h.home(q, id), id, id, 0o700)
				h.must(os.Chtimes(filepath.Join(h.at(h.home(q, id)), id), future, future))
			}
		})
		if moved := h.restore(w, h.asideMail(w)...); moved.Restored != 2 {
			t.Errorf("moved %+v", moved)
		}
		if m := h.mail(h.home(Incoming, a), a); m.Mtime > time.Now().UnixNano() {
			t.Errorf("hashed %v: in incoming its time is %v", hashed, time.Unix(0, m.Mtime))
		}
		if m := h.mail(h.home(Deferred, d), d); m.Mtime != future.UnixNano() {
			t.Errorf("in deferred its time is %v, want %v", time.Unix(0, m.Mtime), future)
		}
		// Hash directories were missing, and are the mail owner's, closed to others.
		s, err := os.Stat(h.at(h.home(Deferred, d)))
		h.must(err)
		if s.Mode().Perm() != 0o700 {
			t.Errorf("made with mode %v", s.Mode())
		}
	}
}

func TestRestoreOrderAndRate(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) {
		for i := range 12 {
			h.write("incoming", testID(i), fmt.Sprint(i), 0o700)
		}
	})
	list := h.asideMail(w)
	var want, got []string
	for i := range list {
		list[i].Born = int64(1000 - i)
	}
	for _, m := range slices.Backward(list) {
		want = append(want, "rename "+m.ID+" "+m.ID)
	}
	step = func(what string) error {
		if strings.HasPrefix(what, "rename ") {
			name, _, _ := strings.Cut(what, " in ")
			got = append(got, name)
		}
		return nil
	}
	began := time.Now()
	const rate = 40.0
	if _, err := w.Restore(t.Context(), list, Options{Rate: rate}, quiet); err != nil {
		t.Fatal(err)
	}
	// n/R, less the first batch, that waits for nobody.
	n := float64(len(want))
	if took := time.Since(began).Seconds(); took < (n-rate/batchesASec)/rate || took > 20 {
		t.Errorf("%v messages at %v a second took %.3f s", n, rate, took)
	}
	if !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func (h *host) ids(dir string) []string {
	entries, err := os.ReadDir(h.at(dir))
	h.must(err)
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids
}

func TestRestoreEnds(t *testing.T) {
	fill := func(h *host) {
		for i := range 6 {
			h.write("incoming", testID(i), fmt.Sprint(i), 0o700)
		}
	}
	t.Run("cancelled", func(t *testing.T) {
		h, w := aside(t, nil, 0, fill)
		batches := 0
		o := Options{Rate: 1000, LiveMax: 3, Token: "list", Cancelled: func() bool { batches++; return batches > 1 }}
		list := h.asideMail(w)
		moved, err := w.Restore(t.Context(), list, o, quiet)
		if !errors.Is(err, ErrCancelled) || moved.Restored != 3 {
			t.Errorf("%+v, %v", moved, err)
		}
		// The second try of the same list counts what the first has moved, once.
		if moved := h.restore(h.open(), list...); moved.Restored != 6 || moved.Failed != 0 {
			t.Errorf("then %+v", moved)
		}
	})
	t.Run("context", func(t *testing.T) {
		h, w := aside(t, nil, 0, fill)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := w.Restore(ctx, h.asideMail(w), Options{}, quiet); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("the queue manager is another one", func(t *testing.T) {
		h, w := aside(t, nil, 0, fill)
		master, _ := h.p.Running()
		manager, ok := h.p.manager(master)
		if !ok {
			t.Fatal("no manager")
		}
		moved, err := w.Restore(t.Context(), h.asideMail(w), Options{LiveMax: 3}, func(m Moved) {
			_ = unix.Kill(manager.pid, unix.SIGKILL)
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(poll) {
				if now, ok := h.p.manager(master); !ok || now.pid != manager.pid {
					break
				}
			}
			for _, id := range h.ids("incoming") {
				h.must(os.Remove(filepath.Join(h.at("incoming"), id)))
			}
		})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprint(manager.pid)) || moved.Restored != 3 {
			t.Errorf("%+v, %v", moved, err)
		}
	})
	t.Run("Postfix is stopped while incoming is full", func(t *testing.T) {
		h, w := aside(t, nil, 0, fill)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // nothing would ever make room
		defer cancel()
		stopped := false
		moved, err := w.Restore(ctx, h.asideMail(w), Options{LiveMax: 3}, func(m Moved) {
			if !stopped {
				stopped = true
				h.must(command(t.Context(), time.Minute, nil, h.p.Stop...))
				await(t, func() bool { return !h.running() })
			}
		})
		if err == nil || !strings.Contains(err.Error(), "is not there any more") || moved.Restored != 3 {
			t.Errorf("%+v, %v", moved, err)
		}
	})
	// Whoever starts Postfix beside us, a boot or a colleague, has a master some
	// moments before its queue manager.
	t.Run("the queue manager is not there yet", func(t *testing.T) {
		h, w := aside(t, nil, 0, fill)
		h.must(command(t.Context(), time.Minute, nil, h.p.Stop...))
		await(t, func() bool { return !h.running() })
		h.p.Manager = "sleep"
		late := strings.Replace(idleStart, "sleep 1000 9>&- &", "timeout 0.3 tail -f /dev/null 9>&-; sleep 1000 9>&- &", 1)
		h.must(command(t.Context(), time.Minute, nil, "sh", "-c", late, h.p.QueueDirectory))
		if moved, err := w.Restore(t.Context(), h.asideMail(w), Options{}, quiet); err != nil || moved.Restored != 6 {
			t.Errorf("%+v, %v", moved, err)
		}
	})
	t.Run("Postfix is down", func(t *testing.T) {
		h, w := aside(t, nil, 0, fill)
		h.must(command(t.Context(), time.Minute, nil, h.p.Stop...))
		for deadline := time.Now().Add(time.Minute); h.running() && time.Now().Before(deadline); time.Sleep(poll) {
		}
		if _, err := w.Restore(t.Context(), h.asideMail(w), Options{}, quiet); err == nil {
			t.Error("restored into a stopped Postfix")
		}
	})
}

// Logs go before their messages; a log whose message was never aside returns
// with the first restore; a log in the way is not replaced.
func TestRestoreLogsFirst(t *testing.T) {
	for _, hashed := range [][]string{nil, {"deferred", "defer"}} {
		mine, hold, way := testID(1), testID(2), testID(3)
		h, w := aside(t, hashed, 1, func(h *host) {
			h.write("hold", hold, "on hold", 0o700)
			for _, id := range []string{mine, way} {
				h.write(h.home(Deferred, id), id, "message "+id, 0o700)
			}
			for _, id := range []string{mine, hold, way} {
				h.write(h.home(Defer, id), id, "log "+id, 0o600)
			}
		})
		h.write(h.home(Defer, way), way, "new log", 0o600)
		list := h.asideMail(w)
		if moved := h.restore(w); moved.Restored+moved.Failed != 0 {
			t.Errorf("moved %+v", moved)
		}
		h.stands("log "+hold, h.home(Defer, hold))
		k := w.wants[slices.IndexFunc(w.wants, func(k want) bool { return k.Queue == Defer })]
		h.stands("log "+mine, k.path(mine))
		var order []string
		step = func(what string) error {
			if strings.HasPrefix(what, "rename "+mine) {
				_, err := os.Lstat(filepath.Join(h.at(h.home(Defer, mine)), mine))
				order = append(order, fmt.Sprint(err == nil))
			}
			return nil
		}
		if moved := h.restore(w, list...); moved.Restored != 2 || moved.Failed+moved.Collisions != 0 {
			t.Errorf("moved %+v", moved)
		}
		if strings.Join(order, " ") != "false true" {
			t.Errorf("log there at each rename: %v", order)
		}
		h.stands("log "+mine, h.home(Defer, mine))
		h.stands("log "+way, "defer.name-collisions")
		h.stands("new log", h.home(Defer, way))
		h.stands("message "+way, h.home(Deferred, way))
	}
}

// The queue manager has taken and delivered what was moved before its batch was
// closed: to whoever carries on it was restored, and nothing is done to whoever
// has the name by now.
func TestDeliveredBeforeClosed(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) {
		h.write("incoming", testID(1), "gone first", 0o700)
		h.write("incoming", testID(2), "waits", 0o700)
	})
	list := h.asideMail(w)
	slices.SortFunc(list, func(a, b Mail) int { return strings.Compare(h.read(a), h.read(b)) })
	moved := 0
	step = func(what string) error {
		if strings.HasPrefix(what, "rename ") {
			if moved++; moved == 2 {
				panic(killed{what})
			}
		}
		return nil
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = w.Restore(t.Context(), slices.Clone(list), Options{Token: "ham"}, quiet)
	}()
	step = func(string) error { return nil }
	h.stands("gone first", "incoming")
	h.must(os.Remove(h.at("incoming/" + list[0].ID)))
	h.write("incoming", list[0].ID, "new mail of that name", 0o700)
	before := h.account()
	done, err := h.open().Restore(t.Context(), slices.Clone(list), Options{Token: "ham"}, quiet)
	if err != nil || done.Restored != 2 || done.SentMeanwhile+done.Collisions+done.Failed != 0 {
		t.Errorf("%+v, %v, want both restored", done, err)
	}
	h.once(before)
	h.stands("waits", "incoming")
	h.stands("new mail of that name", "incoming")
}

func (h *host) read(m Mail) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.at(m.path()), m.ID))
	h.must(err)
	return string(text)
}

// A log that cannot go is no failed message, flat or hashed.
func TestRestoreLogThatCannotGo(t *testing.T) {
	for _, depth := range []int{0, 1} {
		id := testID(1)
		h, w := aside(t, []string{"deferred", "defer"}, depth, func(h *host) {
			h.write(h.home(Deferred, id), id, "message", 0o700)
			h.write(h.home(Defer, id), id, "log", 0o600)
		})
		list, first := h.asideMail(w), true
		step = func(what string) error {
			if strings.HasPrefix(what, "rename "+id) && first {
				first = false
				return unix.EEXIST
			}
			return nil
		}
		if moved := h.restore(w, list...); moved.Restored != 1 || moved.Failed != 0 {
			t.Errorf("depth %d: %+v", depth, moved)
		}
	}
}

// postsuper removes empty hash directories while we work.
func TestRestoreHashDirectoryVanishes(t *testing.T) {
	a, b := testID(1), testID(1)[:5]+"FFFF" // in one hash directory
	h, w := aside(t, []string{"deferred", "defer"}, 1, func(h *host) {
		h.write(h.home(Deferred, a), a, "a", 0o700)
		h.write(h.home(Deferred, b), b, "b", 0o700)
	})
	list := h.asideMail(w)
	seen := map[string]bool{}
	step = func(what string) error {
		if (strings.HasPrefix(what, "rename "+a+" "+a+" ") || strings.HasPrefix(what, "rename "+b+" "+b+" ")) && !seen[what] {
			seen[what] = true
			_ = os.Remove(filepath.Join(h.at("deferred"), a[:1])) // only while it is empty
		}
		return nil
	}
	if moved := h.restore(w, list...); moved.Restored != 2 {
		t.Errorf("moved %+v", moved)
	}
	h.stands("a", h.home(Deferred, a))
	h.stands("b", h.home(Deferred, b))
}

func TestPutBackLayouts(t *testing.T) {
	for _, depth := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(depth), func(t *testing.T) {
			h := newHost(t, []string{"deferred", "defer"}, depth)
			h.flood(9)
			h.must(os.MkdirAll(h.at("deferred/Z/Z"), 0o700)) // empty, of another depth
			before, names := h.account(), h.names()
			h.start()
			w := h.setAside(crashQueues...)
			list := h.asideMail(w)
			moved, left, err := w.PutBack(t.Context(), list, Options{Token: "all"}, quiet)
			h.must(err)
			if int(moved.Restored) != len(list) || len(left) > 0 {
				t.Errorf("%+v of %d, left %v", moved, len(list), left)
			}
			h.ended(before, names, true)
			// Once more does nothing, and says the same.
			moved, left, err = h.open().PutBack(t.Context(), list, Options{Token: "all"}, quiet)
			if err != nil || int(moved.Restored) != len(list) || moved.Failed > 0 || len(left) > 0 {
				t.Errorf("again: %+v, left %v, %v", moved, left, err)
			}
		})
	}
}

func TestPutBackLeavesWhatIsNotItsOwn(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) {
		h.write("incoming", testID(1), "going", 0o700)
		h.write("incoming", testID(2), "staying", 0o700)
		h.write("incoming", "odd.name", "odd", 0o600)
	})
	_, left, err := w.PutBack(t.Context(), []Mail{h.mail("incoming.spamfull", testID(1))}, Options{}, quiet)
	h.must(err)
	if !slices.Equal(left, []string{"incoming.spamfull"}) {
		t.Errorf("left %v", left)
	}
	h.stands("staying", "incoming.spamfull")
	h.stands("odd", "incoming.spamfull")
}

// A file that was never accepted has no log: one of its name, whose message is gone,
// goes back with the others, and is not left aside alone.
func TestPutBackLogBesideHalfWritten(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) {
		h.write("incoming", testID(1), "half-written", 0o600)
		h.write("deferred", testID(2), "mail", 0o700)
		h.write("defer", testID(1), "log", 0o600)
	})
	_, left, err := w.PutBack(t.Context(), h.asideMail(w), Options{}, quiet)
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	h.stands("half-written", "incoming")
	h.stands("mail", "deferred")
	h.stands("log", "defer")
}

// A run whose directories are gone does not take another run's of the same
// name, not even where the file system has given out the inode again.
func TestPutBackAnotherRunsDirectory(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) { h.write("deferred", testID(1), "mine", 0o700) })
	_, _, err := w.PutBack(t.Context(), h.asideMail(w), Options{}, quiet)
	h.must(err)
	h.write("deferred.spamfull", "0BADDE1", "another run's, half-written", 0o600)
	h.write("defer.spamfull", testID(7), "another run's log", 0o600)
	for i := range w.wants { // the same inode again
		inode, err := inodeAt(w.root, w.wants[i].Aside)
		h.must(err)
		w.wants[i].Old = inode
	}
	before := h.account()
	_, left, err := w.PutBack(t.Context(), nil, Options{}, quiet)
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	for what, where := range before {
		h.stands(what, where...)
	}
}

// Each destination's next oldest message comes before any has its one after
// next; none is lost on the way.
func TestInterleave(t *testing.T) {
	list := []Mail{
		{ID: "a3", Dest: 1, Born: 30}, {ID: "a1", Dest: 1, Born: 1}, {ID: "b2", Dest: 2, Born: 25}, {ID: "a2", Dest: 1, Born: 2},
		{ID: "b1", Dest: 2, Born: 20}, {ID: "c1", Dest: 3, Born: 3}, {ID: "a4", Dest: 1, Born: 40},
		// What a mail says is believed no further than it can be.
		{ID: "d2", Dest: 4, Born: math.MaxInt64}, {ID: "d1", Dest: 4, Born: math.MinInt64}, {ID: "d3", Dest: 4, Born: math.MaxInt64},
	}
	interleave(list)
	var got []string
	for _, m := range list {
		got = append(got, m.ID)
	}
	if want := "d1 a1 c1 b1 a2 b2 d2 a3 d3 a4"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	interleave(nil)
}

func TestExpired(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	const day = 24 * 60 * 60
	for _, tt := range []struct {
		m            Mail
		life, bounce time.Duration
		want         bool
	}{
		{Mail{Born: 1_000_000 - 5*day}, 5 * day, 5 * day, true},
		{Mail{Born: 1_000_000 - 5*day + 1}, 5 * day, 5 * day, false},
		{Mail{Born: 1_000_000 - 9*day, Created: 1_000_000 - day}, 5 * day, 5 * day, false}, // requeued since
		{Mail{Born: 1_000_000 - 2*day, Null: true}, 5 * day, day, true},
		{Mail{Born: 1_000_000 - 2*day}, 5 * day, day, false},
		{Mail{Born: 1_000_000 - 6*day, Null: true}, 5 * day, 9 * day, true}, // capped by the longer one
		{Mail{Born: 1_000_000 - 6*day, Null: true}, 5 * day, 0, false},      // one try, as all its bounces
		{Mail{}, 5 * day, 5 * day, false},                                   // nobody knows
	} {
		p := &Postfix{Settings: Settings{Lifetime: tt.life * time.Second, BounceLifetime: tt.bounce * time.Second}}
		if got := p.Expired(tt.m, now); got != tt.want {
			t.Errorf("%+v of %v and %v: got %t, want %t", tt.m, tt.life, tt.bounce, got, tt.want)
		}
	}
}

func TestDays(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"5d": 5 * 24 * time.Hour, "1": 24 * time.Hour, "0": 0, "3h": 3 * time.Hour, "2W": 14 * 24 * time.Hour, "90s": 90 * time.Second, "10m": 10 * time.Minute,
		"": -1, "d": -1, "-1d": -1, "5y": -1, "99999999w": -1,
	} {
		got, err := days(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}

// What is to have a new lifetime goes by maildrop, as postsuper -r sends it.
func TestRestoreRequeue(t *testing.T) {
	one, two := testID(1), testID(2)
	h, w := aside(t, []string{"deferred", "defer"}, 1, func(h *host) {
		h.write(h.home(Deferred, one), one, "old", 0o700)
		h.write("incoming", two, "young", 0o700)
	})
	before := h.account()
	list := h.asideMail(w)
	for i := range list {
		list[i].Requeue = list[i].ID == one
	}
	if moved := h.restore(w, list...); moved.Restored != 2 || moved.ByQueue["maildrop"] != 1 || moved.ByQueue["incoming"] != 1 {
		t.Errorf("moved %+v", moved)
	}
	h.once(before)
	h.stands("old", "maildrop")
	h.stands("young", "incoming")
}

// A name is taken in a live directory, before or between the look and the rename,
// and that directory was listed or is too long for it: the message goes out of the
// way, with its log. Where that has gone already the message stays.
func TestRestoreNameTaken(t *testing.T) {
	id := testID(1)
	for _, row := range []struct {
		queue           Queue
		long, late, log bool
	}{
		{Incoming, false, false, false}, {Incoming, true, false, false}, {Incoming, false, true, false}, {Incoming, true, true, false},
		{Deferred, false, false, true}, {Deferred, true, false, true}, {Deferred, true, true, false}, {Deferred, true, true, true},
	} {
		t.Run(fmt.Sprintf("%+v", row), func(t *testing.T) {
			h, w := aside(t, []string{"deferred", "defer"}, 1, func(h *host) {
				h.write(h.home(row.queue, id), id, "old", 0o700)
				h.write("incoming", testID(2), "another", 0o700)
				if row.log {
					h.write(h.home(Defer, id), id, "its log", 0o600)
				}
			})
			list := h.asideMail(w)
			home := h.home(row.queue, id)
			for i := range 9 {
				if row.long {
					h.write(home, "F"+testID(i), fmt.Sprint(i), 0o700)
				}
			}
			take := func() { h.write(home, id, "new", 0o700) }
			if !row.late {
				take()
			}
			step = func(what string) error {
				if row.late && strings.HasPrefix(what, "rename "+id+" "+id+" in "+h.at(string(row.queue))) {
					row.late = false
					take()
				}
				return nil
			}
			gone := row.late && row.log // its log, before it
			want := Moved{Restored: 1, Collisions: 1}
			if gone {
				want = Moved{Restored: 1, Failed: 1}
			}
			is := func(got Moved) bool {
				return got.Restored == want.Restored && got.Collisions == want.Collisions && got.Failed == want.Failed && got.SentMeanwhile == 0
			}
			if moved := h.restore(w, list...); !is(moved) {
				t.Errorf("moved %+v", moved)
			}
			h.stands("new", home)
			h.stands("another", "incoming")
			switch {
			case gone:
				h.stands("old", string(row.queue)+".spamfull/"+h.p.hashDir(row.queue, id))
				return
			case row.log:
				h.stands("its log", string(Defer)+collisions)
			}
			h.stands("old", string(row.queue)+collisions)
			// Once more, after a death: by the journal nothing is left to do.
			h.die()
			if moved := h.restore(h.open(), list...); !is(moved) {
				t.Errorf("a second time moved %+v", moved)
			}
			h.stands("old", string(row.queue)+collisions)
		})
	}
}

// A death anywhere while a message whose name was taken goes out of the way: the
// next one comes to the same end.
func TestRestoreNameTakenAndDies(t *testing.T) {
	id := testID(1)
	steps := 0
	for died := true; died && !t.Failed(); steps++ {
		t.Run(fmt.Sprint(steps), func(t *testing.T) {
			h, w := aside(t, nil, 0, func(h *host) {
				h.write("incoming", id, "old", 0o700)
				h.write("incoming", testID(2), "another", 0o700)
			})
			for i := range 9 {
				h.write("incoming", "F"+testID(i), fmt.Sprint(i), 0o700)
			}
			list := h.asideMail(w)
			now, limit, took := 0, steps, false
			step = func(what string) error {
				if now++; now > limit {
					panic(killed{what})
				}
				if !took && strings.HasPrefix(what, "rename "+id+" "+id+" ") {
					took = true
					h.write("incoming", id, "new", 0o700)
				}
				return nil
			}
			func() {
				defer func() { _, died = recover().(killed) }()
				h.restore(w, list...)
			}()
			limit = 1000
			h.die()
			moved := h.restore(h.open(), list...)
			if moved.Restored != 1 || moved.Collisions != 1 || moved.Failed+moved.SentMeanwhile != 0 {
				t.Errorf("moved %+v", moved)
			}
			h.stands("new", "incoming")
			h.stands("old", "incoming"+collisions)
			h.stands("another", "incoming")
		})
	}
	if steps < 12 && !t.Failed() {
		t.Errorf("only %d steps", steps)
	}
}

// The first ones go by themselves, and who watches them may end the restore.
func TestRestoreAfter(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) {
		for i := range 30 {
			h.write("incoming", testID(i), fmt.Sprint(i), 0o700)
		}
		h.write("hold", testID(40), "taken", 0o700)
	})
	list := h.asideMail(w)
	var batches, lefts []int
	o := Options{Token: "list", First: 7, After: func(ids []string, left int) error {
		batches, lefts = append(batches, len(ids)), append(lefts, left)
		for _, id := range ids {
			if !h.p.Holds(Incoming, id) {
				t.Errorf("%s is not in incoming", id)
			}
		}
		return nil
	}}
	end := errors.New("that is enough")
	stop := o
	stop.After = func(ids []string, left int) error { o.After(ids, left); return end }
	if moved, err := w.Restore(t.Context(), list, stop, quiet); !errors.Is(err, end) || moved.Restored != 7 {
		t.Errorf("moved %+v, %v", moved, err)
	}
	if moved, err := w.Restore(t.Context(), list, o, quiet); err != nil || moved.Restored != 30 {
		t.Errorf("moved %+v, %v", moved, err)
	}
	if fmt.Sprint(batches, lefts) != "[7 0 23] [23 23 0]" {
		t.Errorf("batches of %v, left %v", batches, lefts)
	}
	if h.p.Holds(Incoming, "../hold/"+testID(40)) || h.p.Holds(Incoming, testID(40)) || !h.p.Holds(Hold, testID(40)) {
		t.Error("Holds looks in the wrong place")
	}
}
