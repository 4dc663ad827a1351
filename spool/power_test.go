package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// power is a small model of what a file system may forget. A change of names is
// on disk once every directory that it touched was synced after it; until then a
// power loss may undo it, or any part of such changes, as long as the names allow
// it. That is more than ext4 and xfs forget, whose log keeps the order, so that a
// sync of any directory saves all that came before. The journal is another file,
// synced at each record, and keeps what it has.
//
// A removal is not undone here, since what comes back would have another inode:
// what was to be synced around it is looked at by TestSyncedBeforeRecorded.
type power struct{ done []change }

// change is one that can be undone.
type change struct {
	kind, from, to string // whole paths; mkdir has no to
	inode, other   uint64
	dirty          map[string]bool // directories it waits for
}

func inodeOf(path string) uint64 {
	var s unix.Stat_t
	if unix.Lstat(path, &s) != nil {
		return 0
	}
	return s.Ino
}

// see is told what is about to happen.
func (p *power) see(what string) {
	f := strings.Fields(what)
	switch f[0] {
	case "rename": // rename A B in DIR DIR
		from, to := filepath.Join(f[4], f[1]), filepath.Join(f[5], f[2])
		p.done = append(p.done, change{"rename", from, to, inodeOf(from), 0, map[string]bool{f[4]: true, f[5]: true}})
	case "exchange": // exchange A B in DIR
		from, to := filepath.Join(f[4], f[1]), filepath.Join(f[4], f[2])
		p.done = append(p.done, change{"exchange", from, to, inodeOf(from), inodeOf(to), map[string]bool{f[4]: true}})
	case "mkdir": // mkdir A in DIR
		p.done = append(p.done, change{"mkdir", filepath.Join(f[3], f[1]), "", 0, 0, map[string]bool{f[3]: true}})
	case "sync":
		for _, c := range p.done {
			delete(c.dirty, f[1])
		}
	}
	p.done = slices.DeleteFunc(p.done, func(c change) bool { return len(c.dirty) == 0 })
}

// lose undoes what was not on disk: all of it, or some.
func (p *power) lose(some bool, seed int) (undone int) {
	chance := rand.New(rand.NewPCG(uint64(seed), 7))
	for _, c := range slices.Backward(p.done) {
		if some && chance.IntN(2) == 0 {
			continue
		}
		var err error
		switch {
		case c.kind == "rename" && c.inode != 0 && inodeOf(c.to) == c.inode && inodeOf(c.from) == 0:
			err = os.Rename(c.to, c.from)
		case c.kind == "exchange" && inodeOf(c.from) == c.other && inodeOf(c.to) == c.inode:
			aside := c.from + ".x"
			err = errors.Join(os.Rename(c.from, aside), os.Rename(c.to, c.from), os.Rename(aside, c.to))
		case c.kind == "mkdir":
			err = os.Remove(c.from) // not where a later change that was kept lies in it
		default:
			continue // did not happen
		}
		if err == nil {
			undone++
		}
	}
	return undone
}

// powerCut ends Postfix as a power loss does.
func (h *host) powerCut() {
	h.t.Helper()
	h.die()
	if master, running := h.p.Running(); running {
		_ = unix.Kill(-master, unix.SIGKILL)
		await(h.t, func() bool { return !h.running() })
	}
}

// boot starts Postfix as a boot does, which makes a live directory that is
// missing (post-install create-missing).
func (h *host) boot() {
	h.t.Helper()
	for _, q := range append(slices.Clone(live), Defer) {
		if err := os.Mkdir(h.at(string(q)), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			h.t.Fatal(err)
		}
	}
	// The dead master's child may have its lock for a moment yet, and one that was
	// just being started comes up by itself.
	await(h.t, func() bool {
		return h.running() || command(context.Background(), time.Minute, nil, h.p.Start...) == nil
	})
}

// TestPowerLoss loses the power at each step of a run, and what was not on disk
// with it. After the boot, or before Postfix runs, the run is carried on: every
// message is where it is without that.
func TestPowerLoss(t *testing.T) {
	stride := 7
	if *every {
		stride = 1
	}
	lost := 0
	for i, row := range []struct {
		some, boots, exchanges bool
	}{{false, true, true}, {true, false, true}, {true, true, false}} {
		reached := true
		for n := 1 + 2*i; reached && !t.Failed(); n += stride {
			t.Run(fmt.Sprintf("some %t, boots %t, exchanges %t/%d", row.some, row.boots, row.exchanges, n), func(t *testing.T) {
				h := newHost(t, []string{"deferred", "defer"}, 1)
				h.flood(6)
				before, names := h.account(), h.names()
				h.start()
				p := &power{}
				now, at := 0, ""
				reached = false
				step = func(what string) error {
					if now++; now >= n {
						panic(killed{what})
					}
					if !row.exchanges && strings.HasPrefix(what, "exchange ") {
						return unix.EINVAL
					}
					p.see(what)
					return nil
				}
				func() {
					defer func() {
						if k, is := recover().(killed); is {
							reached, at = true, k.at
						}
					}()
					h.must(h.carry())
				}()
				step = func(string) error { return nil }
				h.powerCut()
				undone := p.lose(row.some, n)
				lost += undone
				h.once(before)
				if row.boots {
					h.boot()
				}
				if !row.exchanges {
					failAt("exchange", unix.EINVAL, -1)
				}
				if !h.running() { // Settle starts it only between stop and start
					w := h.open()
					if !w.Unsettled() {
						h.boot()
					}
				}
				if err := h.carry(); err != nil {
					t.Errorf("lost at step %d (%s), %d changes undone; carried on: %v", n, at, undone, err)
				}
				h.ended(before, names, true)
			})
		}
	}
	t.Logf("%d changes undone", lost)
	if lost < 20 && !t.Failed() {
		t.Errorf("only %d changes were undone: does this test still look?", lost)
	}
}

// When the journal says that something is done it is on disk: no rename and no
// removal of mail waits for a sync of its directories when a record is written.
func TestSyncedBeforeRecorded(t *testing.T) {
	h := newHost(t, []string{"deferred", "defer"}, 1)
	h.flood(12)
	h.start()
	dirty, records, changes := map[string]string{}, 0, 0
	step = func(what string) error {
		f := strings.Fields(what)
		switch {
		case what == "journal":
			records++
			for dir, by := range dirty {
				t.Errorf("a record is written while %q is not on disk in %s", by, dir)
			}
			clear(dirty)
		case f[0] == "sync":
			delete(dirty, f[1])
		case len(f) > 1 && strings.HasPrefix(f[1], ".probe."): // empty, and soon gone
		case f[0] == "rename":
			changes++
			dirty[f[4]], dirty[f[5]] = what, what
		case f[0] == "exchange":
			changes++
			dirty[f[4]] = what
		case f[0] == "unlink":
			changes++
			dirty[f[3]] = what
		}
		return nil
	}
	w := h.setAside(crashQueues...)
	all := h.asideMail(w)
	_, err := w.Restore(context.Background(), slices.Clone(all[:4]), Options{Token: "ham", First: 2}, quiet)
	h.must(err)
	_, _, err = w.Purge(context.Background(), list(all[4:8]...), Removal{Token: "purge"}, func(Removed) {})
	h.must(err)
	_, _, err = w.PutBack(context.Background(), slices.Clone(all[8:]), Options{Token: "spam"}, quiet)
	h.must(err)
	if records < 15 || changes < 25 {
		t.Errorf("%d records, %d changes: does this test still look?", records, changes)
	}
}
