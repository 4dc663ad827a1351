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

// flows are the queues that mail is held from.
var flows = []Queue{Incoming, Deferred}

func (h *host) hold(w *Work, all ...Mail) Done {
	h.t.Helper()
	done, err := w.Hold(context.Background(), flows, func(yield func([]Mail) error) error { return yield(all) }, Removal{Token: "hold"}, func(Done) {})
	h.must(err)
	return done
}

func (h *host) release(w *Work, all ...Mail) Done {
	h.t.Helper()
	done, err := w.Release(context.Background(), all, Options{Token: "release"}, func(Done) {})
	h.must(err)
	return done
}

// where is the directory that a message stands in, by its id and inode.
func (h *host) where(m Mail) string {
	h.t.Helper()
	w := &Work{Postfix: h.p}
	for _, q := range live {
		if dir := w.home(q, m.ID); inodeOf(filepath.Join(h.at(dir), m.ID)) == m.Inode {
			return dir
		}
	}
	return ""
}

// What is listed goes on hold and back into deferred, hashed as that is, and the
// journal has both; the same list again, after a death, says the same.
func TestHoldAndRelease(t *testing.T) {
	for _, depth := range []int{0, 1, 2} {
		h, w := queued(t, []string{"deferred", "defer"}, depth)
		all := h.live(Incoming, Deferred)
		on := len(h.live(Hold))
		for range 2 {
			if done := h.hold(w, all...); int(done.Done) != len(all) || done.Failed+done.Gone != 0 {
				t.Errorf("depth %d: held %+v of %d", depth, done, len(all))
			}
			w = h.open()
		}
		if now := h.live(Hold); len(now) != on+len(all) {
			t.Errorf("depth %d: %d on hold, want %d", depth, len(now), on+len(all))
		}
		var held []Mail
		for _, m := range all {
			m.Aside, m.Sub = string(Hold), ""
			held = append(held, m)
		}
		for range 2 {
			if done := h.release(w, held...); int(done.Done) != len(all) || done.Failed+done.Gone != 0 {
				t.Errorf("depth %d: released %+v of %d", depth, done, len(all))
			}
			w = h.open()
		}
		for _, m := range all {
			if at := h.where(m); at != h.home(Deferred, m.ID) {
				t.Errorf("depth %d: %s is in %q", depth, m.ID, at)
			}
		}
		to := map[string]int{}
		h.must(Moves(h.state(), func(m Move) error { q, _, _ := strings.Cut(m.To, "/"); to[q]++; return nil }, nil))
		if to["hold"] != len(all) || to["deferred"] != len(all) {
			t.Errorf("depth %d: the journal has %v", depth, to)
		}
	}
}

// A message is held wherever it has gone since it was listed, unless it has left;
// the name of another one is never overwritten.
func TestHoldFollows(t *testing.T) {
	h, w := queued(t, []string{"deferred", "defer"}, 1)
	all := h.live(Deferred)
	moved, tried, left, taken := all[0], all[1], all[2], h.live(Incoming)[0]
	h.must(os.Rename(filepath.Join(h.at(moved.path()), moved.ID), h.at("incoming/"+moved.ID)))
	// The queue manager has it in its memory: it is not touched any more.
	h.must(os.Rename(h.at("incoming/"+taken.ID), h.at("active/"+taken.ID)))
	h.must(os.Chtimes(filepath.Join(h.at(tried.path()), tried.ID), hourAgo, hourAgo))
	h.must(os.Remove(filepath.Join(h.at(left.path()), left.ID)))
	done := h.hold(w, append(slices.Clone(all), taken)...)
	if done.Done != 2 || done.Gone != 2 || done.Failed != 0 || h.where(taken) != "active" {
		t.Errorf("done %+v, and one is in %q", done, h.where(taken))
	}
	for _, m := range all[:2] {
		if at := h.where(m); at != "hold" {
			t.Errorf("%s is in %q", m.ID, at)
		}
	}
}

// Where another message has the id, in whichever live queue, nothing is moved, and
// nothing lost.
func TestNameTaken(t *testing.T) {
	for _, test := range []struct {
		from, taken string
		requeue     bool
	}{
		{"deferred", "hold", false}, {"deferred", "incoming", false}, {"incoming", "hold", false},
		{"hold", "deferred", false}, {"hold", "active", false}, {"hold", "maildrop", false},
		{"deferred", "maildrop", true}, {"hold", "maildrop", true}, {"hold", "deferred", true},
	} {
		t.Run(fmt.Sprintf("%s %s requeue %t", test.from, test.taken, test.requeue), func(t *testing.T) {
			h, w := queued(t, []string{"deferred", "defer"}, 1)
			id := testID(100)
			m := h.write(h.home(Queue(test.from), id), id, "the one that is listed", 0o700)
			h.write(h.home(Queue(test.taken), id), id, "another with its id", 0o700)
			before := h.account()
			m.Requeue = test.requeue
			act := h.hold
			if test.from == "hold" || test.requeue {
				act = h.release
			}
			if done := act(w, m); done.Failed != 1 || done.Done+done.Gone != 0 || !strings.Contains(strings.Join(done.Failures, ""), "its name is taken in "+test.taken) {
				t.Errorf("done %+v", done)
			}
			h.gone(before)
		})
	}
}

// Requeued goes to maildrop, and only what no delivery agent has open: pickup would
// send it once more.
func TestRequeue(t *testing.T) {
	h, w := queued(t, []string{"deferred", "defer"}, 1)
	all := h.live(Deferred, Hold)
	for i := range all {
		all[i].Requeue = true
	}
	f, err := os.Open(filepath.Join(h.at(all[0].path()), all[0].ID))
	h.must(err)
	h.must(unix.Flock(int(f.Fd()), unix.LOCK_SH))
	done := h.release(w, all...)
	if int(done.Done) != len(all)-1 || done.Failed != 1 || !strings.Contains(done.Failures[0], "is just being delivered") {
		t.Errorf("done %+v", done)
	}
	h.must(f.Close())
	for i, m := range all {
		if at := h.where(m); (at == "maildrop") != (i > 0) {
			t.Errorf("%s is in %q", m.ID, at)
		}
	}
	if done, err := w.Release(t.Context(), []Mail{{Aside: "active", ID: testID(0), Requeue: true}}, Options{}, func(Done) {}); err == nil || done.Done > 0 {
		t.Errorf("from active: %+v, %v", done, err)
	}
}

// While what was released is not taken, or incoming and active are full, nothing more
// is released; the rate is a ceiling.
func TestReleasePace(t *testing.T) {
	h := newHost(t, nil, 0)
	for i := range 30 {
		h.write("hold", testID(i), fmt.Sprint("message ", i), 0o700)
		h.must(os.Chtimes(h.at("hold/"+testID(i)), hourAgo, hourAgo))
	}
	h.start()
	h.super("")
	w := h.open()
	taken := 0
	done, err := w.Release(t.Context(), h.live(Hold), Options{LiveMax: 10}, func(d Done) {
		now := h.live(Deferred)
		if len(now) > 10 {
			t.Errorf("%d wait in deferred", len(now))
		}
		for _, m := range now { // as the queue manager does, after a while
			h.must(os.Remove(h.at("deferred/" + m.ID)))
			taken++
		}
	})
	if h.must(err); done.Done != 30 || taken != 30 {
		t.Errorf("done %+v, %d taken", done, taken)
	}
	for i := range 20 {
		h.write("hold", testID(100+i), fmt.Sprint("message ", i), 0o700)
	}
	began := time.Now()
	done, err = w.Release(t.Context(), h.live(Hold), Options{Token: "again", Rate: 20}, func(Done) {})
	if took := time.Since(began); err != nil || done.Done != 20 || took < time.Second/batchesASec {
		t.Errorf("%+v, %v in %v", done, err, took)
	}
}

// With Postfix down nothing is done, also where it goes down in between.
func TestLiveRefuses(t *testing.T) {
	h, w := queued(t, nil, 0)
	before := h.account()
	all, held := h.live(Deferred), h.live(Hold)
	yield := func(yield func([]Mail) error) error { return yield(all) }
	for _, q := range []Queue{"corrupt", Active, Maildrop, Hold} {
		if _, err := w.Hold(t.Context(), []Queue{Deferred, q}, yield, Removal{}, func(Done) {}); err == nil {
			t.Errorf("from %s", q)
		}
	}
	if _, err := w.Hold(t.Context(), flows, yield, Removal{Cancelled: func() bool { return true }}, func(Done) {}); !errors.Is(err, ErrCancelled) {
		t.Errorf("got %v", err)
	}
	h.must(command(t.Context(), stopLimit, nil, h.p.Stop...))
	for h.running() {
		time.Sleep(poll)
	}
	if _, err := w.Hold(t.Context(), flows, yield, Removal{}, func(Done) {}); !errors.Is(err, ErrDown) {
		t.Errorf("hold: got %v", err)
	}
	if _, err := w.Release(t.Context(), held, Options{}, func(Done) {}); err == nil || !strings.Contains(err.Error(), "does not run") {
		t.Errorf("release: got %v", err)
	}
	h.gone(before)
}

// postsuper is believed only where the files say the same.
func TestLiveBelievesNobody(t *testing.T) {
	for _, test := range []struct{ name, super, says string }{
		{"says nothing", `exit 0`, "does not say how many"},
		{"dies at the first", `read -r id; mv "$0/deferred/$id" "$0/hold/$id"; echo "postsuper: $id: placed on hold"; echo "postsuper: fatal: open logfile: Permission denied"; exit 1`, "open logfile"},
		{"counts others", `echo "postsuper: Placed on hold: 99 messages"; exit 0`, "99 messages"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, w := queued(t, nil, 0)
			h.super(test.super)
			all := h.live(Deferred)
			_, err := w.Hold(t.Context(), flows, func(yield func([]Mail) error) error { return yield(all) }, Removal{Token: "hold"}, func(Done) {})
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			h.super("")
			if done := h.hold(h.open(), all...); done.Done != 3 || done.Failed+done.Gone != 0 {
				t.Errorf("carried on: %+v", done)
			}
			for _, m := range all {
				if at := h.where(m); at != "hold" {
					t.Errorf("%s is in %q", m.ID, at)
				}
			}
		})
	}
}

// TestLiveCrashWalk stops a hold and a release at each of their steps.
func TestLiveCrashWalk(t *testing.T) {
	for i, mode := range walkModes {
		acts := []string{"hold", "release", "requeue"}
		for _, act := range acts[i%3 : min(i%3+1+2/(i+1), 3)] { // all in the first mode, one in each other
			t.Run(mode.name+" "+act, func(t *testing.T) {
				eachStep(t, 8, func(t *testing.T, n int) bool {
					h, _ := queued(t, []string{"deferred", "defer"}, 1)
					h.super("sleep 0.05") // so that a death is before it
					before := h.account()
					all, to := h.live(Deferred, Incoming), "hold"
					switch act {
					case "release":
						all, to = h.live(Hold), "deferred"
					case "requeue":
						all, to = h.live(Hold, Deferred), "maildrop"
						for i := range all {
							all[i].Requeue = true
						}
					}
					try := func() error {
						w, err := h.tryOpen()
						if err != nil {
							return err
						}
						var done Done
						if act == "hold" {
							done, err = w.Hold(context.Background(), flows, func(yield func([]Mail) error) error { return yield(all) }, Removal{Token: "x"}, func(Done) {})
						} else {
							done, err = w.Release(context.Background(), slices.Clone(all), Options{Token: "x"}, func(Done) {})
						}
						if err == nil && (int(done.Done) != len(all) || done.Failed+done.Gone > 0) {
							t.Errorf("done %+v of %d", done, len(all))
						}
						return err
					}
					reached, at, err := disturbed(mode, n, try)
					if err != nil {
						err = try()
					}
					if err != nil {
						t.Errorf("step %d (%s), carried on: %v", n, at, err)
					}
					for _, m := range all {
						if q, _, _ := strings.Cut(h.where(m), "/"); q != to {
							t.Errorf("step %d (%s): %s is in %q", n, at, m.ID, q)
						}
					}
					if now := h.account(); len(now) != len(before) {
						t.Errorf("step %d (%s): %d files, were %d", n, at, len(now), len(before))
					}
					return reached
				})
			})
		}
	}
}
