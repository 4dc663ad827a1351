package lab_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/lab"
)

var (
	kills     = flag.Int("kills", 20, "runs that are killed at a random moment")
	killsSeed = flag.Uint64("kills.seed", 0, "what the random moments are made from, to repeat a failure; 0: another each time")
)

// ways are what a run may lose at any moment.
var ways = []string{"section", "worker", "both", "controller", "link", "stall", "power"}

// TestKilledAtRandom kills runs at random moments while mail keeps arriving, some
// of them again while they are carried on. Whatever died and whenever: after
// resume no message is lost and none is there twice, the flood is aside and all
// else live, the ledger balances, and Postfix runs. The number of a subtest and
// the seed repeat it, as far as time does:
//
//	SPOOLSWEEP_LAB=require go test ./remote/lab -run 'TestKilledAtRandom/runs/^17$' -kills.seed 1
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	seed := *killsSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	var mu sync.Mutex // guards died
	died := map[string]int{}
	t.Run("runs", func(t *testing.T) {
		for i := range *kills {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				c := &chance{t: t, Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
				way := ways[i%len(ways)]
				hit := c.run(way)
				mu.Lock()
				defer mu.Unlock()
				if died[way]++; !hit {
					died[way+", but too late"]++
				}
			})
		}
	})
	t.Logf("killed: %v", died)
}

// chance is one run that is killed at random.
type chance struct {
	t *testing.T
	*rand.Rand
	h  *lab.Host
	f  *fleet
	id string
	in arrivals
}

// upTo is a random time of at most d.
func (c *chance) upTo(d time.Duration) time.Duration { return time.Duration(c.Int64N(int64(d))) }

// run says whether what was to be killed still lived.
func (c *chance) run(way string) (hit bool) {
	t := c.t
	c.h = hosts(t, 1)[0]
	c.f = newFleet(t, []*lab.Host{c.h}, "queue_warn: 15")
	queues := map[string]int{"deferred": 18 + c.IntN(20)}
	if c.IntN(2) == 0 {
		queues["active"], queues["incoming"] = 18+c.IntN(10), 18+c.IntN(10)
	}
	messages := flooded(t, c.h, c.Uint64(), queues)
	c.in.begin(t, c.h, c.Uint64())
	r := start(t, c.f, sweepAway(t, c.h, "-e", "rate=12/s", "-T", "3s")...)
	c.id = r.run()
	hit = c.strike(way, r)
	resumed := false
	for deadline := time.Now().Add(3 * time.Minute); !resumed; {
		if len(record(t, c.h, c.id, "run.json")) == 0 {
			t.Logf("%s: it had not begun", way)
			break
		}
		next := start(t, c.f, "resume", c.id, "-y", "-T", "3s")
		if hit && c.IntN(3) == 0 {
			again := ways[c.IntN(len(ways))]
			t.Logf("then %s: %t", again, c.strike(again, next))
		}
		r := next.wait()
		resumed = r.status == 0
		busy := strings.Contains(r.err, "another run works on this queue directory")
		if time.Now().After(deadline) || !resumed && !busy && r.status != -1 && r.status != 4 && !strings.Contains(r.err+r.out, "spoolsweep resume "+c.id) {
			t.Fatalf("%s: resume does not come to an end: %v", way, r)
		}
	}
	arrived, unsure := c.in.end()
	awaitUp(t, c.h, time.Second)
	c.audit(append(messages, arrived...), unsure, resumed)
	if resumed {
		checkLedger(t, c.h, c.f, c.id)
	}
	if t.Failed() {
		t.Logf("%s; journal:\n%s\nworker.log:\n%s", way, record(t, c.h, c.id, "journal"), record(t, c.h, c.id, "worker.log"))
	}
	return hit
}

// audit looks for every message. Of those in unsure nobody knows whether Postfix
// took them on: the power went before it said so.
func (c *chance) audit(messages, unsure []lab.Message, swept bool) {
	t := c.t
	a, err := c.h.Audit(t.Context())
	must(t, err)
	for _, m := range unsure {
		if len(a.Found[m.ID]) > 0 {
			messages = append(messages, m)
		}
	}
	if len(a.Incomplete) > len(unsure) {
		t.Errorf("incomplete %v, and only %d messages were cut", a.Incomplete, len(unsure))
	}
	a.Incomplete = nil
	for id := range c.in.doubled {
		a.Found[id] = a.Found[id][:min(1, len(a.Found[id]))]
	}
	wantAside, wantLive := []string(nil), slices.Sorted(slices.Values(ids(messages)))
	if swept {
		wantAside, wantLive = spams(messages), hams(messages)
	}
	checkPlaces(t, c.h, a, messages, "aside", aside, wantAside)
	checkPlaces(t, c.h, a, messages, "live", live, wantLive)
}

// strike waits for a random moment of a run and kills. When it returns, the
// command r has ended too, and the host is up.
func (c *chance) strike(way string, r *running) (hit bool) {
	t := c.t
	began := time.Now()
	ended := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.ended
	}
	defer func() {
		t.Logf("%s: %v after it began; had ended: %t", way, time.Since(began).Round(time.Millisecond), ended())
		r.wait()
		// What the front was asked for last is done before it ends.
		eventually(t, time.Minute, "the front ends", func() bool { return len(c.pgrep(frontForm)) == 0 })
	}()
	if way == "section" || way == "both" {
		// It lives for some seconds only, most of them while the start is proved.
		eventually(t, time.Minute, "the section", func() bool { return ended() || len(c.pgrep(sectionForm)) > 0 })
		time.Sleep(c.upTo(3500 * time.Millisecond))
	} else {
		time.Sleep(c.upTo(7 * time.Second))
	}
	switch way {
	case "section":
		return c.kill(sectionForm)
	case "worker":
		return c.kill(workerForm)
	case "both":
		return c.kill(workerForm, sectionForm)
	case "link":
		return c.kill(`^sshd: root@`)
	case "controller":
		hit = !ended()
		_ = r.Process.Kill() // or it has ended
	case "stall":
		hit = !ended()
		must(t, c.h.LinkDown())
		if c.IntN(6) == 0 {
			time.Sleep(15*time.Second + c.upTo(6*time.Second)) // about wire.Lost
		} else {
			time.Sleep(c.upTo(4 * time.Second))
		}
		must(t, c.h.LinkUp())
	case "power":
		hit = !ended()
		must(t, c.h.PowerCut())
		c.in.mu.Lock() // nobody may enter the host before it is whole
		c.in.cut()
		err := c.h.Restart(t.Context())
		c.in.mu.Unlock()
		must(t, err)
		awaitUp(t, c.h, 10*time.Second)
	default:
		t.Fatalf("no way %q", way)
	}
	return hit
}

func (c *chance) pgrep(form string) []int {
	pids, err := c.h.Pgrep(form)
	must(c.t, err)
	return pids
}

// kill kills all that have such command lines, and says whether there were any.
func (c *chance) kill(forms ...string) bool {
	var pids []int
	for _, form := range forms {
		pids = append(pids, c.pgrep(form)...)
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // or it has just ended
	}
	return len(pids) > 0
}

// arrivals is ordinary mail that comes in all the time, one message after the
// other, by SMTP and by sendmail(1) in turn.
type arrivals struct {
	mu      sync.Mutex // held while a message is sent; guards what follows done
	stopped atomic.Bool
	done    chan struct{}
	arrived []lab.Message // that Postfix took on
	unsure  []lab.Message // that it may have taken on
	local   map[string]time.Time
	doubled map[string]bool // that Postfix itself may have twice
}

// pickup removes a file of maildrop after cleanup has it on disk: a power cut
// between the two makes two messages of one, by Postfix's own order (pickup.c,
// pickup_service). pickupTime is how far back from a cut that is possible.
const pickupTime = 3 * time.Second

// cut notes what a power cut of just now may have done.
func (a *arrivals) cut() {
	for id, at := range a.local {
		if time.Since(at) < pickupTime {
			a.doubled[id] = true
		}
	}
}

// pause is between two of them.
const pause = 200 * time.Millisecond

func (a *arrivals) begin(t *testing.T, h *lab.Host, seed uint64) {
	mail := slices.DeleteFunc(lab.Flood(account(h), 3000, seed), func(m lab.Message) bool { return m.Spam })
	a.done, a.local, a.doubled = make(chan struct{}), map[string]time.Time{}, map[string]bool{}
	go func() {
		defer close(a.done)
		for i, m := range mail {
			if a.stopped.Load() {
				return
			}
			a.one(t.Context(), h, m, i%3 == 2)
			time.Sleep(pause)
		}
	}()
	t.Cleanup(func() { a.end() })
}

func (a *arrivals) one(ctx context.Context, h *lab.Host, m lab.Message, local bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	if local {
		cmd := h.Command(ctx, append([]string{"sendmail", "-i", "-f", m.Sender, "--"}, m.Recipients...)...)
		cmd.Stdin = bytes.NewReader(fmt.Appendf(nil, "X-Lab-Id: %s\nSubject: %s\n\n%s", m.ID, m.Subject, m.Body))
		err = cmd.Run()
		a.local[m.ID] = time.Now()
	} else {
		err = h.Inject(ctx, []lab.Message{m})
	}
	if err == nil {
		a.arrived = append(a.arrived, m)
	} else {
		a.unsure = append(a.unsure, m)
	}
}

// end returns what came in, and what may have.
func (a *arrivals) end() (arrived, unsure []lab.Message) {
	a.stopped.Store(true)
	<-a.done
	return a.arrived, a.unsure
}
