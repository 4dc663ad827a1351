package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/sshtest"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

var linkStride = flag.Int64("link.stride", 0, "bytes from one at which the link is cut to the next; 0: some dozen places")

// linkPlaybook is a short run that changes what can be counted, and the queues.
const linkPlaybook = `name: short
stages:
  - command: {name: here, "on": controller, run: "echo here >>%[1]s.here"}
  - command: {name: once, run: "echo once >>%[1]s"}
  - stop:
  - set-aside: {queues: [incoming, active, deferred]}
  - start:
`

// TestLinkAtEveryByte breaks the link at every byte of a run's conversation, in
// both directions: it is cut or goes silent there, and comes back at once or not
// at all. The host does the run whole or not at all, once, and Postfix runs; the
// controller's word is never more than it knows.
//
//	go test ./cmd/spoolsweep -run TestLinkAtEveryByte -link.stride 1 -timeout 24h
func TestLinkAtEveryByte(t *testing.T) {
	t.Parallel()
	for _, up := range []bool{false, true} {
		for _, kind := range []struct {
			name        string
			stall, deaf bool
			places      int64 // of the short test
		}{
			{"cut", false, false, 10},
			{"cut for good", false, true, 10},
			{"stalled", true, false, 2}, // each takes wire.Lost
			{"stalled for good", true, true, 2},
		} {
			way := "down"
			if up {
				way = "up"
			}
			t.Run(way+"/"+kind.name, func(t *testing.T) {
				t.Parallel()
				l := newLinkHost(t)
				opened, total := l.undisturbed(up)
				var places []int64
				if *linkStride > 0 {
					for at := int64(0); at < total; at += *linkStride {
						places = append(places, at)
					}
				} else { // a few while it is opened, most of them then
					for i := range kind.places / 3 {
						places = append(places, (i+1)*opened/(kind.places/3+1))
					}
					for i := range kind.places {
						places = append(places, opened+i*(total-opened)/kind.places)
					}
				}
				did := map[string]int{}
				for _, at := range places {
					did[l.broken(sshtest.Fault{Up: up, After: at, Stall: kind.stall, Deaf: kind.deaf})]++
				}
				t.Logf("%d bytes, of which %d to open it; %d places: %v", total, opened, len(places), did)
			})
		}
	}
}

// linkHost is a practice host whose link is broken again and again.
type linkHost struct {
	*fleet
	t      *testing.T
	n      int // runs so far
	begun  int // of them on the host
	golden string
}

func newLinkHost(t *testing.T) *linkHost {
	l := &linkHost{fleet: fleetOf(t, flooded, "chavez"), t: t}
	if err := l.hosts[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.spoolsweep("ping").want(t, 0) // the agent is there from now on
	return l
}

// short begins one run, with some mail to be set aside.
func (l *linkHost) short() (r result, marker string) {
	l.t.Helper()
	l.n++
	h := l.hosts[0]
	if _, err := h.SubmitAll(practice.Incident(h.Name, fmt.Sprintf("account%d", l.n), 5, uint64(l.n))); err != nil {
		l.t.Fatal(err)
	}
	marker = l.file(fmt.Sprintf("marker%d", l.n))
	playbook := l.write(fmt.Sprintf("short%d.yaml", l.n), fmt.Sprintf(linkPlaybook, marker))
	return l.spoolsweep("run", playbook, "-y", "--reconnect", "1s", "-T", "5s"), marker
}

// undisturbed is how many bytes one run takes, and how many of them about it takes
// until the agent is spoken to.
func (l *linkHost) undisturbed(up bool) (opened, total int64) {
	l.t.Helper()
	s := l.servers[0]
	sent := func() int64 {
		toClient, fromClient := s.Bytes()
		s.SetFault(nil)
		if up {
			return fromClient
		}
		return toClient
	}
	s.SetFault(nil)
	l.spoolsweep("ping").want(l.t, 0)
	opened = sent()
	r, _ := l.short()
	r.want(l.t, 0)
	l.begun++
	l.golden = plain(r.out)
	return opened, sent()
}

// plain is what a run says without its numbers and moments.
func plain(out string) string {
	out = strings.NewReplacer(" messages ", " message ", " logs ", " log ").Replace(numbers.ReplaceAllString(out, ""))
	return strings.Join(strings.Fields(out), " ")
}

var numbers = regexp.MustCompile(`\.?\d+`)

// begunLine names the run that a command begins.
var begunLine = regexp.MustCompile(`(?m)^run .*$`)

// broken is one run with a fault, and what came of it.
func (l *linkHost) broken(f sshtest.Fault) string {
	t, h, s := l.t, l.hosts[0], l.servers[0]
	t.Helper()
	s.SetFault(&f)
	r, marker := l.short()
	hit := s.Faulted()
	s.SetFault(nil)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%+v: %s\nexit status %d\nstdout:\n%s\nstderr:\n%s", f, fmt.Sprintf(format, args...), r.status, r.out, r.err)
	}

	// The host goes on by itself: it is at rest when nobody holds the lock.
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		lock, err := spool.Lock(p)
		if err == nil {
			lock.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	runs, _ := filepath.Glob(filepath.Join(h.State(), "runs", "*"))
	here := len(runs) - l.begun
	l.begun = len(runs)
	did, _ := os.ReadFile(marker)
	asked, _ := os.ReadFile(marker + ".here")
	waits := here == 1 && len(did) == 0 // for what is to be done here
	if here > 1 || !waits && (string(did) != strings.Repeat("once\n", here) || len(asked) == 0 && here > 0) || len(asked) > len("here\n") {
		fail("%d runs on the host did %q there and %q here", here, did, asked)
	}
	a, err := h.Audit()
	if err != nil {
		t.Fatal(err)
	}
	_, running := h.Running()
	if len(a.Lost())+len(a.Twice())+len(a.Unknown)+len(a.Broken) > 0 || !running {
		fail("Postfix runs: %t; lost %v, twice %v, unknown %v, broken %v", running, a.Lost(), a.Twice(), a.Unknown, a.Broken)
	}

	id := runID.FindString(begunLine.FindString(r.err))
	attach := "spoolsweep attach " + id
	switch {
	case r.status == 0:
		if here != 1 || waits || plain(r.out) != l.golden {
			fail("want what a run without a fault says, which is\n%s", l.golden)
		}
		return "done"
	case r.status != 4:
		fail("want exit status 0 or 4")
	case !hit:
		fail("no link was broken")
	case f.Deaf == false && here == 1:
		fail("the link was to be had again, and the run is not followed")
	case here == 1 && !strings.Contains(r.err, attach):
		fail("the run goes on there, and %q is not said", attach)
	case here == 0 && strings.Contains(r.err, "the run goes on there"):
		fail("nothing goes on there")
	}
	if here == 0 {
		return fmt.Sprintf("status %d, not begun", r.status)
	}
	if waits {
		l.spoolsweep("attach", id).want(t, 3, "a command on the controller")
		return fmt.Sprintf("status %d, waits", r.status)
	}
	l.spoolsweep("attach", id).want(t, 0)
	return fmt.Sprintf("status %d, goes on", r.status)
}
