package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/sshtest"
)

// A watch of eight hours, a look every half a minute, is 1,000 rounds:
//
//	go test ./cmd/spoolsweep -run TestWatchForHours -v -args -rounds 1000
var watchRounds = flag.Int("rounds", 100, "rounds of the test of a long watch")

const (
	watchHosts   = 20
	watchSamples = 10 // over the whole watch
	watchCalm    = 4  // rounds without a loss, before each
	watchLosses  = 20 // one look of so many loses its link
)

// Hours of health --watch over hosts whose links are lost again and again: each is
// reached again in the same look, and in the end the controller holds what it held in the beginning,
// and every host has the one agent that answers.
func TestWatchForHours(t *testing.T) {
	var names []string
	for i := range watchHosts {
		names = append(names, fmt.Sprintf("mx%02d", i+1))
	}
	f := fleetOf(t, flooded, names...)
	f.spoolsweep("ping").want(t, 0) // the agents are there from now on
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &longWatch{t: t, fleet: f, end: cancel, random: rand.New(rand.NewPCG(1, 2))}
	app := newApp(strings.NewReader(""), (*watchOut)(w), (*watchErr)(w))
	app.Metadata[agentSource], app.Metadata[watchKey] = f.source, time.Millisecond
	began := time.Now()
	status := inProcess(ctx, app, append([]string{"spoolsweep", "health", "--watch", "1s", "-T", "5s"}, f.where()...)...)
	if status != statusInterrupted || w.round != *watchRounds {
		t.Fatalf("status %d after %d of %d rounds", status, w.round, *watchRounds)
	}
	t.Logf("%d rounds in %.1f s, %d links were lost, %d looks were told as unreachable", w.round, time.Since(began).Seconds(), w.losses, w.unreached)
	first, last := w.samples[0], w.samples[len(w.samples)-1]
	for _, s := range w.samples {
		t.Logf("%+v", s)
	}
	if w.losses < *watchRounds/4 || w.unreached > w.losses/10 {
		t.Errorf("%d links were lost, %d looks were told as unreachable", w.losses, w.unreached)
	}
	resident := 32 << 10
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		resident = last.resident // it keeps a shadow of all that there ever was
	}
	for _, of := range []struct {
		what               string
		first, last, slack int
	}{
		{"goroutines", first.goroutines, last.goroutines, 10},
		{"open files", first.files, last.files, 5},
		{"KiB of heap", first.heap, last.heap, first.heap / 4},
		{"KiB resident", first.resident, last.resident, resident},
		{"open files of the agent that was never lost", first.agentFiles, last.agentFiles, 0},
		{"KiB resident of that", first.agentResident, last.agentResident, 8 << 10},
	} {
		if of.last > of.first+of.slack {
			t.Errorf("%d %s in the beginning, %d in the end", of.first, of.what, of.last)
		}
	}
}

// longWatch sees what a watch prints, and loses its links.
type longWatch struct {
	t      *testing.T
	fleet  *fleet
	end    context.CancelFunc
	random *rand.Rand

	round     int
	answers   int // in this round
	losses    int
	unreached int
	samples   []watchSample
}

// watchSample is what the controller and one agent hold. The servers of the hosts
// are in the same process, and have one connection each.
type watchSample struct {
	goroutines, files, heap, resident int
	agentFiles, agentResident         int
}

type (
	watchOut longWatch
	watchErr longWatch
)

func (w *watchOut) Write(p []byte) (int, error) {
	w.answers += strings.Count(string(p), "Postfix stopped")
	return len(p), nil
}

var dateLine = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$`)

func (w *watchErr) Write(p []byte) (int, error) {
	w.unreached += strings.Count(string(p), "UNREACHABLE: ")
	if dateLine.Match(p) {
		(*longWatch)(w).next()
	}
	return len(p), nil
}

// next is called between two rounds.
func (w *longWatch) next() {
	w.round++
	every := *watchRounds / watchSamples
	at := w.round % every
	calm := at > every-watchCalm || at == 0
	if at == 0 {
		if w.answers != watchHosts {
			w.t.Errorf("round %d, in which no link was lost: %d of %d hosts answered", w.round, w.answers, watchHosts)
		}
		w.samples = append(w.samples, w.sample())
	}
	w.answers = 0
	if w.round >= *watchRounds {
		w.end()
		return
	}
	for i, s := range w.fleet.servers {
		// The agent of the first host is there all the time.
		if calm {
			s.SetFault(nil)
		} else if i > 0 && w.random.IntN(watchLosses) == 0 {
			w.losses++
			if w.random.IntN(2) == 0 {
				s.SetFault(&sshtest.Fault{Up: w.random.IntN(2) == 0, After: w.random.Int64N(2000)})
			} else {
				time.AfterFunc(time.Duration(w.random.IntN(20))*time.Millisecond, s.Cut)
			}
		}
	}
	if at == every/2 && *watchRounds >= 1000 {
		// One that falls silent, and lives on before it is missed, or after.
		s := w.fleet.servers[1]
		s.Stall()
		time.AfterFunc(time.Duration(5+w.random.IntN(15))*time.Second, s.Resume)
	}
}

func (w *longWatch) sample() (s watchSample) {
	for _, server := range w.fleet.servers {
		for deadline := time.Now().Add(time.Minute); len(server.Processes()) != 1; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				w.t.Errorf("round %d: %d agents on a host", w.round, len(server.Processes()))
				break
			}
		}
	}
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	s.goroutines, s.heap = runtime.NumGoroutine(), int(memory.HeapAlloc>>10)
	s.files, s.resident = held(os.Getpid())
	s.agentFiles, s.agentResident = held(w.fleet.servers[0].Processes()[0])
	return s
}

// held is how many files a process has open, and its resident KiB; nothing where
// the system does not tell.
func held(pid int) (files, resident int) {
	open, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if fields := strings.Fields(string(text)); len(fields) > 1 {
		pages, _ := strconv.Atoi(fields[1])
		resident = pages * os.Getpagesize() >> 10
	}
	return len(open), resident
}
