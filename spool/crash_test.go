package spool

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// killed is the panic that stands for a death.
type killed struct{ at string }

// walkMode is what happens at step n; dead says that nothing of this process
// happens any more.
type walkMode struct {
	name string
	at   func(n, now int, what string) error
	dies bool
}

var walkModes = []walkMode{
	// A death after step n is one before step n+1; after the last step there is
	// nothing left to do.
	{name: "kill", dies: true, at: func(n, now int, what string) error {
		if now >= n { // also what a deferred call would do: there are none after a kill
			panic(killed{what})
		}
		return nil
	}},
	{name: "EIO", at: func(n, now int, what string) error {
		if now == n {
			return unix.EIO
		}
		return nil
	}},
	{name: "ENOSPC", at: func(n, now int, what string) error {
		if now == n {
			return unix.ENOSPC
		}
		return nil
	}},
	{name: "disk full from there on", at: func(n, now int, what string) error {
		if now >= n && (what == "journal" || strings.HasPrefix(what, "mkdir")) {
			return unix.ENOSPC
		}
		return nil
	}},
}

var every = flag.Bool("every", false, "crash walks: stop at every step in every mode, not at some")

// TestCrashWalk stops a run at each of its steps, by number, and carries it on:
// the end is that of a run that nobody disturbed.
func TestCrashWalk(t *testing.T) {
	for _, layout := range []struct {
		hashed []string
		depth  int
		modes  []walkMode
		stride int // processes are slow to start
	}{
		{[]string{"deferred", "defer"}, 1, walkModes[:1], 1},
		{[]string{"deferred", "defer"}, 1, walkModes[1:], 9},
		{nil, 0, walkModes[:2], 13},
		{[]string{"incoming", "deferred", "defer"}, 2, walkModes[:2], 17},
	} {
		if *every {
			layout.stride = 1
		}
		for _, mode := range layout.modes {
			t.Run(fmt.Sprintf("depth %d/%s", layout.depth, mode.name), func(t *testing.T) {
				steps := 0
				for n := 1; !t.Failed(); n += layout.stride {
					reached := crashAt(t, n, mode, layout.hashed, layout.depth)
					if !reached {
						break
					}
					steps = n
				}
				t.Logf("%d steps", steps)
				if steps < 80 && !t.Failed() {
					t.Errorf("only %d steps", steps)
				}
			})
		}
	}
}

// KilledIn names, to a child of these tests, the host whose run it carries on, and
// KilledAt the step at which it kills itself.
const KilledIn, KilledAt = "SPOOL_TEST_KILLED_IN", "SPOOL_TEST_KILLED_AT"

// CarryAndDie is that child.
func CarryAndDie(dir string) {
	n, err := strconv.Atoi(os.Getenv(KilledAt))
	if err != nil {
		panic(err)
	}
	h := hostIn(new(testing.T), dir, []string{"deferred", "defer"}, 1)
	h.settles = true
	now := 0
	step = func(string) error {
		if now++; now == n {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
		}
		return nil
	}
	if err := h.carry(); err != nil || h.t.Failed() {
		panic(fmt.Sprint("carried on, and failed: ", err))
	}
	os.Exit(0)
}

// TestKilled is TestCrashWalk with a process that is really killed: what the
// kernel lets go of then is let go of, and no more. One is killed in what the one
// before it has left, until one comes to the end.
func TestKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	first, more := 3, 17
	if *every {
		more = 1
	}
	for killed := true; killed && !t.Failed(); first += more {
		t.Run(fmt.Sprint(first), func(t *testing.T) {
			h := newHost(t, []string{"deferred", "defer"}, 1)
			h.flood(6)
			before, names := h.account(), h.names()
			h.start()
			killed = false
			for _, n := range []int{first, first / 2, first / 3} {
				cmd := exec.Command(self)
				cmd.Env = append(os.Environ(), KilledIn+"="+h.dir, fmt.Sprintf("%s=%d", KilledAt, n))
				out, err := cmd.CombinedOutput()
				h.once(before)
				if err == nil {
					break
				}
				if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
					t.Fatalf("a run to be killed at step %d: %v: %s", n, err, out)
				}
				killed = killed || n == first
			}
			h.settles = true // of what is restored already the lists are gone
			if err := h.carry(); err != nil {
				t.Error(err)
			}
			h.ended(before, names, true)
		})
	}
}

// TestDiesAgain kills a run at some step, whoever carries it on a few steps on,
// and so the next one: there is no state that a third cannot end.
func TestDiesAgain(t *testing.T) {
	stride := 11
	if *every {
		stride = 1
	}
	reached := true
	for n := 1; reached && !t.Failed(); n += stride {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			h := newHost(t, []string{"deferred", "defer"}, 1)
			h.flood(6)
			before, names := h.account(), h.names()
			h.start()
			reached = false
			for i, live := range []int{n, 1 + n%7, 1 + n%13, 1 + n%29} {
				now := 0
				step = func(what string) error {
					if now++; now >= live {
						panic(killed{what})
					}
					return nil
				}
				func() {
					defer func() {
						if _, is := recover().(killed); is {
							reached = reached || i == 0
						}
					}()
					if w, err := h.tryOpen(); err == nil && i > 0 {
						_, _ = w.Settle(t.Context())
					}
					if i == 0 {
						_ = h.carry()
					}
				}()
				h.once(before)
			}
			step = func(string) error { return nil }
			if err := h.carry(); err != nil {
				t.Error(err)
			}
			h.ended(before, names, true)
		})
	}
}

// disturbed does something whose nth step is disturbed. It says whether there is such
// a step, and which.
func disturbed(mode walkMode, n int, do func() error) (reached bool, at string, err error) {
	now := 0
	step = func(what string) error {
		if now++; now == n {
			at = what
		}
		err := mode.at(n, now, what)
		reached = reached || err != nil
		return err
	}
	defer func() {
		step = func(string) error { return nil }
		switch k := recover().(type) {
		case nil:
		case killed:
			reached, err = true, fmt.Errorf("killed at %s", k.at)
		default:
			panic(k)
		}
	}()
	err = do()
	return reached, at, err
}

// eachStep has each step disturbed in a test of its own, until one says that it was not
// reached. There are at least so many.
func eachStep(t *testing.T, least int, disturb func(t *testing.T, n int) (reached bool)) {
	t.Helper()
	steps := 0
	for reached := true; reached && !t.Failed(); {
		n := steps + 1
		t.Run(fmt.Sprint(n), func(t *testing.T) { reached = disturb(t, n) })
		if reached {
			steps = n
		}
	}
	if steps < least && !t.Failed() {
		t.Errorf("only %d steps", steps)
	}
}

func crashAt(t *testing.T, n int, mode walkMode, hashed []string, depth int) (reached bool) {
	var at string
	t.Run(fmt.Sprint(n), func(t *testing.T) {
		h := newHost(t, hashed, depth)
		h.flood(6)
		before, names := h.account(), h.names()
		h.start()
		var now int
		step = func(what string) error {
			now++
			if now == n {
				at = what
			}
			err := mode.at(n, now, what)
			if err != nil {
				reached = true
			}
			return err
		}
		err := func() (err error) {
			defer func() {
				if k, is := recover().(killed); is {
					reached = true
					err = fmt.Errorf("killed at %s", k.at)
				}
			}()
			return h.carry()
		}()
		if reached && err == nil && mode.dies {
			t.Errorf("step %d (%s): nobody died", n, at)
		}
		h.once(before)
		if err != nil && !mode.dies {
			// What follows in the same world: the guard settles.
			if w, e := h.tryOpen(); e == nil {
				_, _ = w.Settle(t.Context())
			}
			h.once(before)
			if !h.running() && !mode.dies {
				t.Errorf("step %d (%s): Postfix does not run after %v", n, at, err)
			}
		}
		step = func(string) error { return nil }
		if err != nil {
			if err := h.carry(); err != nil {
				t.Errorf("step %d (%s), carried on: %v", n, at, err)
			}
		}
		// A section that failed without a death is over, and may have left queues
		// where they were.
		h.ended(before, names, mode.dies || err == nil)
		if t.Failed() {
			t.Logf("step %d (%s): first %v", n, at, errors.Join(err))
		}
	})
	return reached
}
