package spool_test

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

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// playing is a practice host with a run.
type playing struct {
	t    *testing.T
	h    *practice.Host
	p    *spool.Postfix
	lock *os.File
	work *spool.Work
	list map[practice.Label][]spool.Mail
}

func play(t *testing.T, o practice.Options, n int) *playing {
	t.Helper()
	above, err := os.MkdirTemp("", "s") // short: a socket's name is
	if err != nil {
		t.Fatal(err)
	}
	g := &playing{t: t}
	t.Cleanup(func() {
		spool.SetStep(nil)
		g.die()
		if g.h != nil {
			if err := g.h.Stop(context.Background()); err != nil {
				t.Error(err)
			}
			// The queue manager may still write a line.
			for deadline := time.Now().Add(time.Minute); os.RemoveAll(above) != nil && time.Now().Before(deadline); {
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	dir := filepath.Join(above, "chavez")
	g.must(practice.Make(dir, "chavez", o))
	g.h, err = practice.Open(dir)
	g.must(err)
	_, err = g.h.SubmitAll(practice.Incident("chavez", "spam-account", n, 7))
	g.must(err)
	g.p, err = practice.New(dir)
	g.must(err)
	g.must(g.h.Start(context.Background()))
	return g
}

func (g *playing) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func (g *playing) die() {
	if g.lock != nil {
		g.lock.Close()
	}
	if g.work != nil {
		g.work.Die()
	}
	g.lock, g.work = nil, nil
}

// carry is what the worker does, from wherever the run's journal stands.
func (g *playing) carry() error {
	g.die()
	ctx := context.Background()
	var err error
	if g.lock, err = spool.Lock(g.p); err != nil {
		return err
	}
	w, _, err := spool.OpenWork(g.p, "20261123T000000Z-test", g.h.State(), "test", g.lock)
	if err != nil {
		return err
	}
	g.work = w
	_, err = w.Settle(ctx)
	if _, running := g.h.Running(); !running {
		g.t.Error("Postfix does not run after Settle")
	}
	if err != nil {
		return err
	}
	if !w.Began() {
		if err := w.Prepare([]spool.Queue{spool.Incoming, spool.Active, spool.Deferred}); err != nil {
			return err
		}
		s, err := w.Stop(ctx)
		if err != nil {
			return err
		}
		_, failed := w.SetAside(ctx, s)
		if _, err := w.Start(ctx, s); err != nil || failed != nil {
			return errors.Join(failed, err)
		}
	}
	sets, err := w.SetsAside()
	if err != nil {
		return err
	}
	if g.list == nil {
		g.list = g.judge(sets)
	}
	for _, label := range []practice.Label{practice.Ham, practice.Spam} {
		list := g.list[label]
		moved, left, err := spool.Moved{}, []string(nil), error(nil)
		if label == practice.Ham {
			moved, err = w.Restore(ctx, slices.Clone(list), spool.Options{Token: "ham"}, func(spool.Moved) {})
		} else {
			moved, left, err = w.PutBack(ctx, slices.Clone(list), spool.Options{Token: "spam"}, func(spool.Moved) {})
		}
		if err != nil {
			return err
		}
		if int(moved.Restored) != len(list) || moved.Failed+moved.Collisions > 0 || len(left) > 0 {
			g.t.Errorf("%s: %+v of %d, left %v", label, moved, len(list), left)
		}
		if label == practice.Ham {
			a, err := g.h.Audit()
			g.must(err)
			if wrong := a.Elsewhere(practice.Ham, func(p practice.Place) bool { return p.Live() || p.Delivered() }); len(wrong) > 0 {
				g.t.Errorf("ham is not live: %v", wrong)
			}
		}
	}
	return nil
}

// judge lists what is aside, by what the audit knows.
func (g *playing) judge(sets []spool.Set) map[practice.Label][]spool.Mail {
	g.t.Helper()
	a, err := g.h.Audit()
	g.must(err)
	label := map[uint64]practice.Label{}
	for _, m := range a.Messages {
		for _, p := range m.Places {
			label[p.Inode] = m.Label
		}
	}
	list := map[practice.Label][]spool.Mail{}
	for _, set := range sets {
		if set.Queue == spool.Defer {
			continue
		}
		g.must(spool.Walk(g.p, set.Aside, func(c spool.Chunk) error {
			for _, id := range c.IDs {
				var f spool.MailFile
				s, err := f.Open(c.Dir, id)
				if err != nil {
					return err
				}
				f.Close()
				l := label[s.Inode]
				list[l] = append(list[l], spool.Mail{Aside: set.Aside, Sub: c.Sub, ID: id, Inode: s.Inode, Size: s.Size, Mtime: s.Mtime})
			}
			return nil
		}))
	}
	return list
}

func (g *playing) law(what string) {
	g.t.Helper()
	a, err := g.h.Audit()
	g.must(err)
	if lost, twice := a.Lost(), a.Twice(); len(lost)+len(twice)+len(a.Unknown)+len(a.Broken) > 0 {
		g.t.Errorf("%s: lost %v, twice %v, unknown %v, broken %v", what, lost, twice, a.Unknown, a.Broken)
	}
}

type death struct{ at string }

// TestPracticeCrashWalk is the crash walk with a Postfix that takes mail, on
// hosts where a queue manager moves what it is given.
func TestPracticeCrashWalk(t *testing.T) {
	stride := 61 // a practice Postfix is three processes of this test
	if spool.Every() {
		stride = 1
	}
	for _, o := range []practice.Options{
		{HashNames: []string{"deferred", "defer"}, HashDepth: 1},
		{HashNames: []string{"incoming", "deferred", "defer"}, HashDepth: 2},
		{HashNames: []string{}, HashDepth: 0},
	} {
		o.Rate = 0.001 // nothing is delivered while we look
		reached := true
		for n := 1; reached && !t.Failed(); n += stride {
			t.Run(fmt.Sprintf("depth %d/%d", o.HashDepth, n), func(t *testing.T) {
				g := play(t, o, 30)
				now, at := 0, ""
				reached = false
				spool.SetStep(func(what string) error {
					if now++; now >= n {
						reached = true
						panic(death{what})
					}
					return nil
				})
				err := func() (err error) {
					defer func() {
						if d, is := recover().(death); is {
							at, err = d.at, errors.New("died")
						}
					}()
					return g.carry()
				}()
				spool.SetStep(nil)
				g.law("at the death before " + at)
				if err != nil && reached {
					err = g.carry()
				}
				if err != nil {
					t.Errorf("carried on after %s: %v", at, err)
				}
				g.law("at the end after " + at)
				a, err := g.h.Audit()
				g.must(err)
				for _, l := range []practice.Label{practice.Ham, practice.Spam} {
					if wrong := a.Elsewhere(l, func(p practice.Place) bool { return p.Live() || p.Delivered() }); len(wrong) > 0 {
						t.Errorf("after %s: not live: %v", at, wrong)
					}
				}
				if _, running := g.h.Running(); !running {
					t.Errorf("after %s: Postfix does not run", at)
				}
				names, err := os.ReadDir(g.h.Spool())
				g.must(err)
				for _, e := range names {
					if name := e.Name(); strings.HasPrefix(name, ".") || strings.Contains(name, ".spamfull") {
						t.Errorf("after %s: %s is left", at, name)
					}
				}
			})
		}
	}
}
