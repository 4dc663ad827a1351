package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// needs makes a start fail unless that file is there, as one over a directory
// that Postfix does not like. A try that fails leaves mail in incoming, as a
// Postfix that ran for a moment does.
func (h *host) needs(path string, mail ...string) {
	script := `[ -e "` + h.at(path) + `" ] || { `
	for _, id := range mail {
		script += fmt.Sprintf(`umask 077; [ -e %[1]s ] || { printf %%s meanwhile >%[1]s; chmod 700 %[1]s; }; `, h.at("incoming/"+id))
	}
	h.p.Start = []string{"sh", "-c", script + `echo "postfix/qmgr: fatal: no" >>` + h.p.LogFile + `; exit 1; }; ` + idleStart, h.p.QueueDirectory}
}

// Where Postfix stays up with the old directories only, they are exchanged back:
// it runs, the run has failed and says why, and no mail is out of sight.
func TestExchangedBack(t *testing.T) {
	for _, row := range []struct {
		name string
		mail []string // accepted while it was tried with the new ones
	}{{"nothing came meanwhile", nil}, {"mail came meanwhile", []string{testID(9)}}} {
		for _, exchanges := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, exchange %t", row.name, exchanges), func(t *testing.T) {
				h, w := ready(t, Incoming, Deferred)
				if !exchanges {
					failAt("exchange", unix.EINVAL, -1)
				}
				h.needs("incoming/"+testID(1), row.mail...)
				w.Tell = func(message string) { t.Log(message) }
				s, err := w.Stop(t.Context())
				h.must(err)
				_, err = w.SetAside(t.Context(), s)
				h.must(err)
				r, err := w.Start(t.Context(), s)
				if err == nil || !strings.Contains(err.Error(), "exchanged back") || !strings.Contains(err.Error(), "fatal: no") {
					t.Errorf("got %v, want that they were exchanged back, and why", err)
				}
				if !h.running() || r.Master == 0 || w.Unsettled() {
					t.Errorf("running %t, unsettled %t, %+v", h.running(), w.Unsettled(), r)
				}
				h.stands("mail", "incoming")
				want := 0
				if len(row.mail) > 0 {
					h.stands("meanwhile", "incoming.spamfull")
					want = 1
				}
				w = h.open()
				if sets, err := w.SetsAside(); err != nil || len(sets) != want || w.Unsettled() {
					t.Errorf("aside: %v, %v, want %d", sets, err, want)
				}
				if slices.ContainsFunc(h.names(), func(n string) bool { return n[0] == '.' }) {
					t.Errorf("left %v", h.names())
				}
				// Once it is mended the same run sets all of it aside.
				h.needs("incoming")
				w = h.setAside(Incoming, Deferred)
				h.stands("mail", []string{"incoming.spamfull", "incoming.spamfull.2"}[want])
				if list := h.asideMail(w); len(list) != 1+want {
					t.Errorf("aside: %v", list)
				}
			})
		}
	}
}

// Where it was not the queues, they end set aside: when the cause is mended and
// Postfix started by hand, no flood goes out.
func TestExchangedForwardAgain(t *testing.T) {
	h, w := ready(t, Incoming)
	good := h.p.Start
	h.p.Start = []string{"false"}
	var told []string
	w.Tell = func(message string) { told = append(told, message) }
	s, err := w.Stop(t.Context())
	h.must(err)
	_, err = w.SetAside(t.Context(), s)
	h.must(err)
	if _, err := w.Start(t.Context(), s); err == nil || !w.Unsettled() {
		t.Errorf("got %v, unsettled %t", err, w.Unsettled())
	}
	if !slices.ContainsFunc(told, func(s string) bool { return strings.Contains(s, "exchanged back") }) {
		t.Errorf("told %q", told)
	}
	h.stands("mail", "incoming.spamfull")
	h.p.Start = good
	h.start() // by hand
	master, _ := h.p.Running()
	done, err := h.open().Settle(t.Context())
	h.must(err)
	if len(done.Sets) != 1 || done.Started == nil || done.Started.Master != master {
		t.Errorf("settled: %+v", done)
	}
}

// No exchange is made under a master that cannot be stopped; the journal does
// not want it any more then.
func TestNoExchangeUnderMaster(t *testing.T) {
	h, w := ready(t, Incoming)
	s, err := w.Stop(t.Context())
	h.must(err)
	_, err = w.SetAside(t.Context(), s)
	h.must(err)
	h.p.Status = []string{"false"} // a master that runs, and is not well
	exchanges := 0
	step = func(what string) error {
		if strings.HasPrefix(what, "signal") || strings.HasPrefix(what, "command") && strings.Contains(what, "kill -TERM") {
			return unix.EPERM // nobody can end it
		}
		if strings.HasPrefix(what, "exchange") {
			exchanges++
		}
		return nil
	}
	old := stopGrace
	stopGrace = 50 * time.Millisecond
	defer func() { stopGrace = old }()
	if _, err := w.Start(t.Context(), s); err == nil {
		t.Error("no error")
	}
	if exchanges > 0 || w.back {
		t.Errorf("%d exchanges, back %t", exchanges, w.back)
	}
	h.stands("mail", "incoming.spamfull")
}

// TestBackCrashWalk kills a section at each step of an exchange back, and
// whoever settles after it, at each of its steps: every message stands under one
// name at every instant, and the end is Postfix with the old queues.
func TestBackCrashWalk(t *testing.T) {
	late := turnBackAt
	turnBackAt = 1 // it never comes up before
	defer func() { turnBackAt = late }()
	stride := 2
	if *every {
		stride = 1
	}
	for i, exchanges := range []bool{true, false} {
		for n := 1 + i%stride; !t.Failed(); n += stride {
			reached := false
			t.Run(fmt.Sprintf("exchange %t/%d", exchanges, n), func(t *testing.T) {
				h, w := ready(t, Incoming, Deferred)
				h.write(h.home(Deferred, testID(2)), testID(2), "deferred mail", 0o700)
				before := h.account()
				h.needs("incoming/"+testID(1), testID(9))
				before["meanwhile"] = []string{"incoming"} // what Postfix accepts while it is tried
				s, err := w.Stop(t.Context())
				h.must(err)
				_, err = w.SetAside(t.Context(), s)
				h.must(err)
				now, turned, at := 0, false, ""
				kill := func(what string) error {
					if strings.HasPrefix(what, "exchange") && !exchanges {
						if turned = true; now >= n {
							panic(killed{what})
						}
						now++
						return unix.EINVAL
					}
					// The journal is turned in the step before the first exchange's proof.
					turned = turned || w.back
					if turned {
						if now++; now >= n {
							reached, at = true, what
							panic(killed{what})
						}
					}
					return nil
				}
				die := func(do func() error) (err error) {
					defer func() {
						if k, is := recover().(killed); is {
							reached, err = true, errors.New("killed at "+k.at)
						}
					}()
					return do()
				}
				step = kill
				err = die(func() error { _, err := w.Start(context.Background(), s); return err })
				h.once(before)
				step = func(string) error { return nil }
				if !exchanges {
					failAt("exchange", unix.EINVAL, -1)
				}
				if reached { // and the one who settles dies too, a few steps on
					m := 0
					w = h.open()
					step = func(what string) error {
						if strings.HasPrefix(what, "exchange") && !exchanges {
							return unix.EINVAL
						}
						if m++; m > n%11 {
							panic(killed{what})
						}
						return nil
					}
					_ = die(func() error { _, err := w.Settle(context.Background()); return err })
					h.once(before)
					step = func(string) error { return nil }
					if !exchanges {
						failAt("exchange", unix.EINVAL, -1)
					}
				}
				w = h.open()
				if _, e := w.Settle(t.Context()); e != nil && !strings.Contains(e.Error(), "exchanged back") {
					t.Errorf("settled after %s: %v", at, e)
				}
				h.once(before)
				if !h.running() || w.Unsettled() {
					t.Errorf("after %s: running %t, unsettled %t (%v)", at, h.running(), w.Unsettled(), err)
				}
				h.stands("mail", "incoming")
				h.stands("deferred mail", "deferred")
				h.stands("meanwhile", "incoming.spamfull")
				if sets, err := w.SetsAside(); err != nil || len(sets) != 1 {
					t.Errorf("after %s: aside: %v, %v", at, sets, err)
				}
				if slices.ContainsFunc(h.names(), func(n string) bool { return n[0] == '.' || strings.HasPrefix(n, "deferred.") }) {
					t.Errorf("after %s: left %v", at, h.names())
				}
				if _, err := os.Lstat(h.at("incoming/" + testID(1))); err != nil {
					t.Error(err)
				}
			})
			if !reached {
				if n < 15 {
					t.Errorf("only %d steps", n)
				}
				t.Logf("exchange %t: %d steps", exchanges, n)
				break
			}
		}
	}
}
