package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/sshtest"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

var (
	linkStride  = flag.Int("link.stride", 17, "of the places where the link is cut one in so many, prime to 12; 1: all of them")
	linkHosts   = flag.Int("link.hosts", 10, "hosts whose links are broken side by side")
	linkPackets = flag.String("link.packets", "", "instead, every byte of these packets, by way and number, such as up:16,down:17")
)

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
// A packet that has come in part is as one that has not come (RFC 4253, 6: nothing
// of it counts before its MAC does), so that three places stand for all bytes of
// one: its middle, the last byte missing, and its end. All of these, and that it is
// so for every byte of two packets:
//
//	go test ./cmd/spoolsweep -run TestLinkAtEveryByte -v -timeout 2h -args -link.stride 1 -link.hosts 24
//	go test ./cmd/spoolsweep -run TestLinkAtEveryByte -v -timeout 2h -args -link.packets up:16,down:17
func TestLinkAtEveryByte(t *testing.T) {
	t.Parallel()
	first := newLinkHost(t, "")
	opened, whole := first.undisturbed()
	t.Logf("at most %d packets down, of which %d to open it; up %d, of which %d", whole[0], opened[0], whole[1], opened[1])
	var places []linkPlace
	if *linkPackets != "" {
		places = everyByteOf(t, first, *linkPackets)
	} else {
		for i, p := range everyPlace(whole) {
			if *linkStride > 0 && i%*linkStride == *linkStride/2 {
				places = append(places, p)
			}
		}
	}
	if len(places) == 0 {
		t.Fatalf("-link.stride %d leaves no place", *linkStride)
	}
	// Hosts take places in turn; one that has had some, each with the runs it has
	// left there, makes way for a new one.
	next := make(chan linkPlace)
	go func() {
		defer close(next)
		for _, p := range places {
			next <- p
		}
	}()
	const placesOfHost = 12
	var mu sync.Mutex
	did := map[string]map[string]int{}
	began := time.Now()
	var hosts sync.WaitGroup
	for range min(*linkHosts, len(places)) {
		hosts.Go(func() {
			for more := true; more; {
				// FailNow ends this host's goroutine, and the others go on.
				part := &linkPart{TB: t}
				func() {
					defer part.end()
					l := newLinkHost(part, first.golden)
					for range placesOfHost {
						var p linkPlace
						if p, more = <-next; !more {
							return
						}
						what := l.broken(p)
						mu.Lock()
						if did[p.group()] == nil {
							did[p.group()] = map[string]int{}
						}
						did[p.group()][what]++
						mu.Unlock()
					}
				}()
			}
		})
	}
	hosts.Wait()
	for range next { // what nobody was left for
	}
	for _, group := range slices.Sorted(maps.Keys(did)) {
		t.Logf("%s: %v", group, did[group])
	}
	t.Logf("%d places in %v", len(places), time.Since(began).Round(time.Second))
}

// linkPlace is where the link is broken, and how.
type linkPlace struct {
	up          bool
	packet      int
	part        string // of the packet that passes: one of linkParts, else so many bytes
	bytes       int
	stall, deaf bool
}

var linkWays = []string{"down", "up"}

// linkParts is how much of a packet passes.
var linkParts = []struct {
	name   string
	passes func(size int) int
}{
	{"half", func(size int) int { return size / 2 }},
	{"all but a byte", func(size int) int { return size - 1 }},
	{"all", func(size int) int { return size }},
}

func (p linkPlace) String() string {
	return fmt.Sprintf("%s, packet %d, of which %s passes", p.group(), p.packet, cmp.Or(p.part, fmt.Sprint(p.bytes)))
}

// group is what its outcome is counted with.
func (p linkPlace) group() string {
	words := linkWays[way(p.up)]
	if *linkPackets != "" {
		words += fmt.Sprintf(", packet %d", p.packet)
	}
	if p.stall {
		words += ", stalled"
	} else {
		words += ", cut"
	}
	if p.deaf {
		words += " for good"
	}
	return words
}

// fault is that place as the server knows it; size is told that of the packet.
func (p linkPlace) fault(size *int) *sshtest.Fault {
	passes := func(int) int { return p.bytes }
	for _, part := range linkParts {
		if part.name == p.part {
			passes = part.passes
		}
	}
	return &sshtest.Fault{Up: p.up, Packet: p.packet, Stall: p.stall, Deaf: p.deaf, Passes: func(n int) int {
		*size = n
		return min(n, passes(n))
	}}
}

func way(up bool) int {
	if up {
		return 1
	}
	return 0
}

// everyPlace are those of a conversation of so many packets down and up. Those that
// take long come first: who goes silent is missed after wire.Lost.
func everyPlace(whole [2]int) (all []linkPlace) {
	for _, stall := range []bool{true, false} {
		for _, up := range []bool{false, true} {
			for packet := range whole[way(up)] {
				for _, deaf := range []bool{false, true} {
					for _, part := range linkParts {
						all = append(all, linkPlace{up: up, packet: packet + 1, part: part.name, stall: stall, deaf: deaf})
					}
				}
			}
		}
	}
	return all
}

// everyByteOf are all places of some packets, as in up:16,down:17, where it is cut for
// good.
func everyByteOf(t *testing.T, l *linkHost, packets string) (all []linkPlace) {
	for packet := range strings.SplitSeq(packets, ",") {
		name, number, _ := strings.Cut(packet, ":")
		n, err := strconv.Atoi(number)
		if err != nil || !slices.Contains(linkWays, name) {
			t.Fatalf("-link.packets %s: want some like %s:%d", packets, linkWays[0], 20)
		}
		p := linkPlace{up: name == linkWays[1], packet: n, part: "all", deaf: true}
		t.Logf("%s: %s; it has %d bytes", p, l.broken(p), l.size)
		for bytes := range l.size + 1 {
			all = append(all, linkPlace{up: p.up, packet: n, bytes: bytes, deaf: true})
		}
	}
	return all
}

// linkPart is a part of the test, with an end of its own.
type linkPart struct {
	testing.TB
	ends []func()
}

func (p *linkPart) Cleanup(end func()) { p.ends = append(p.ends, end) }

func (p *linkPart) end() {
	for _, end := range slices.Backward(p.ends) {
		end()
	}
}

// linkHost is a practice host whose link is broken again and again.
type linkHost struct {
	*fleet
	n      int // runs so far
	begun  int // of them on the host
	size   int // of the packet in which the link was broken last
	golden string
}

func newLinkHost(t testing.TB, golden string) *linkHost {
	l := &linkHost{fleet: fleetOf(t, flooded, "chavez"), golden: golden}
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

// undisturbed does the run whole, and says how many packets it takes each way at
// most, and how many before the agent is spoken to.
func (l *linkHost) undisturbed() (opened, whole [2]int) {
	l.t.Helper()
	sent := func() [2]int {
		down, up := l.servers[0].Sent()
		l.servers[0].SetFault(nil)
		return [2]int{down.Packets, up.Packets}
	}
	sent()
	l.spoolsweep("ping").want(l.t, 0)
	opened = sent()
	for range 3 {
		r, _ := l.short()
		r.want(l.t, 0)
		l.begun++
		l.golden = plain(r.out)
		took := sent()
		whole = [2]int{max(whole[0], took[0]), max(whole[1], took[1])}
	}
	// What happens is told in more packets where hosts are busy.
	for i := range whole {
		whole[i] += whole[i] / 4
	}
	return opened, whole
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
func (l *linkHost) broken(place linkPlace) string {
	t, h, s := l.t, l.hosts[0], l.servers[0]
	t.Helper()
	s.SetFault(place.fault(&l.size))
	r, marker := l.short()
	hit := s.Faulted()
	s.SetFault(nil)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s: %s\nexit status %d\nstdout:\n%s\nstderr:\n%s", place, fmt.Sprintf(format, args...), r.status, r.out, r.err)
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
		if !hit {
			return "over before"
		}
		return "done"
	case r.status != 4:
		fail("want exit status 0 or 4")
	case !hit:
		fail("no link was broken")
	case !place.deaf && here == 1:
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

// The link is lost while a command runs here for the host's run. What it did is told
// when the link is back, and not done again; where it does not come back the run
// waits there, and that is said.
func TestLinkLostDuringCommand(t *testing.T) {
	t.Parallel()
	for _, back := range []bool{true, false} {
		t.Run(fmt.Sprintf("comes back %t", back), func(t *testing.T) {
			t.Parallel()
			l := newLinkHost(t, "")
			s, began, goOn, marker := l.servers[0], l.file("began"), l.file("on"), l.file("marker")
			if err := errors.Join(syscall.Mkfifo(began, 0o600), syscall.Mkfifo(goOn, 0o600)); err != nil {
				t.Fatal(err)
			}
			playbook := l.write("here.yaml", fmt.Sprintf("stages:\n  - command: {\"on\": controller, run: \"echo here >>%[1]s; echo >%[2]s; cat %[3]s\"}\n  - command: {run: \"echo there >>%[1]s\"}\n", marker, began, goOn))
			var away sync.WaitGroup
			away.Go(func() {
				_, err := os.ReadFile(began)
				tried := s.Conns()
				s.SetFault(&sshtest.Fault{Packet: 1, Passes: func(int) int { return 0 }, Deaf: true})
				s.Cut()
				if err := errors.Join(err, os.WriteFile(goOn, nil, 0)); err != nil {
					t.Error(err)
				}
				for deadline := time.Now().Add(time.Minute); back && s.Conns() == tried && time.Now().Before(deadline); {
					time.Sleep(20 * time.Millisecond)
				}
				if back {
					s.SetFault(nil)
				}
			})
			reconnect := "1s"
			if back {
				reconnect = "1m"
			}
			r := l.spoolsweep("run", playbook, "-y", "--reconnect", reconnect, "-T", "5s")
			away.Wait()
			s.SetFault(nil)
			want := "here\nthere\n"
			if back {
				r.want(t, 0)
			} else {
				id := runID.FindString(begunLine.FindString(r.err))
				r.want(t, 4, "goes on there: spoolsweep attach "+id)
				l.spoolsweep("attach", id).want(t, 3, "waits for a command on the controller")
				want = "here\n"
			}
			if did, err := os.ReadFile(marker); err != nil || string(did) != want {
				t.Errorf("did %q, want %q: %v", did, want, err)
			}
		})
	}
}
