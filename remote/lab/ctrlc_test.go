package lab_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
)

// sitting is a command on a terminal of its own, and somebody who reads and types
// there. Ctrl-C is a key: the terminal makes a SIGINT of it.
type sitting struct {
	t    *testing.T
	args string
	keys io.Writer
	ends chan struct{} // closed when the command has ended

	mu     sync.Mutex // guards the rest
	told   *sync.Cond
	shown  bytes.Buffer
	seen   int // of shown, by waitFor
	ended  bool
	status int
}

const ctrlC = "\x03"

// sit starts a command. It is killed when the test ends.
func sit(t *testing.T, f *fleet, args ...string) *sitting {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	cmd := terminalCommand(ctx, t, f, args...)
	keys, err := cmd.StdinPipe()
	must(t, err)
	s := &sitting{t: t, args: strings.Join(args, " "), keys: keys, ends: make(chan struct{})}
	s.told = sync.NewCond(&s.mu)
	cmd.Stdout, cmd.Stderr = s, s
	must(t, cmd.Start())
	go func() {
		defer close(s.ends)
		err := cmd.Wait()
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended, s.status = true, cmd.ProcessState.ExitCode()
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			s.shown.WriteString(err.Error())
		}
		s.told.Broadcast()
	}()
	t.Cleanup(func() { cancel(); <-s.ends })
	return s
}

func (s *sitting) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown.Write(p)
	s.told.Broadcast()
	return len(p), nil
}

// waitFor reads on until what was shown since the last time matches, and returns
// the submatches.
func (s *sitting) waitFor(expression string) []string {
	s.t.Helper()
	re := regexp.MustCompile(`(?m)` + expression)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		text := s.shown.String()
		if at := re.FindStringSubmatchIndex(text[s.seen:]); at != nil {
			m := re.FindStringSubmatch(text[s.seen:])
			s.seen += at[1]
			return m
		}
		if s.ended {
			s.t.Fatalf("spoolsweep %s ended without %q, exit status %d:\n%s", s.args, expression, s.status, text)
		}
		s.told.Wait()
	}
}

func (s *sitting) types(keys string) {
	s.t.Helper()
	_, err := io.WriteString(s.keys, keys)
	must(s.t, err)
}

// asked types Ctrl-C and waits until it is asked what is meant.
func (s *sitting) asked() {
	s.t.Helper()
	s.types(ctrlC)
	s.waitFor(`\[d\]etach, \[c\]ancel, or \[g\]o on\?`)
}

// end waits for the end, with this exit status, and returns all that was shown.
func (s *sitting) end(status int, says ...string) string {
	s.t.Helper()
	<-s.ends
	s.mu.Lock()
	defer s.mu.Unlock()
	shown := checkTerminal(s.t, s.shown.String())
	if s.status != status {
		s.t.Errorf("spoolsweep %s: want exit status %d, got %d:\n%s", s.args, status, s.status, shown)
	}
	for _, text := range says {
		if !strings.Contains(shown, text) {
			s.t.Errorf("spoolsweep %s does not say %q:\n%s", s.args, text, shown)
		}
	}
	return shown
}

func (s *sitting) run() string {
	s.t.Helper()
	return s.waitFor(`^run (\d{8}T\d{6}Z-\w{4})\r?$`)[1]
}

// Ctrl-C while Postfix is down. Whatever is meant by it, Postfix is started, and
// each message is where it belongs.
func TestCtrlCInStop(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, keys string
		status     int
	}{
		{"go on", "g\n", 0},
		{"go on, by Enter", "\n", 0},
		{"detach", "d\n", 130},
		{"a second Ctrl-C", ctrlC, 130},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hosts(t, 1)[0]
			f := newFleet(t, []*lab.Host{h}, few, slowStop)
			messages := smallFlood(t, h)
			s := sit(t, f, sweepAway(t, h)...)
			id := s.run()
			inStop(t, h, id)
			s.asked()
			s.types(row.keys)
			shown := s.end(row.status)
			if next := "detached, the run goes on on " + h.Name + ": spoolsweep attach " + id; strings.Contains(shown, next) != (row.status == 130) {
				t.Errorf("%q with exit status %d:\n%s", next, row.status, shown)
			}
			if end := runEnd(t, h, id); end.Status != "ok" {
				t.Errorf("the run ended %+v", end)
			}
			checkSwept(t, h, messages)
			alive(t, h)
			checkTold(t, f, id)
		})
	}
}

// Cancelled while one host is stopped and another waits for its turn: the first
// one is started with its flood aside, the second one is as it was; both can be
// carried on.
func TestCtrlCCancelsInStop(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, few, slowStop)
	messages := map[*lab.Host][]lab.Message{}
	before := map[*lab.Host]snapshot{}
	for _, h := range two {
		messages[h] = smallFlood(t, h)
		before[h] = takeSnapshot(t, h)
	}
	s := sit(t, f, "run", "backscatter", "-v", "-y", "-e", rulesFile(t, floodRules(two...)))
	id := s.run()
	stopped, waits := two[0], two[1]
	if s.waitFor(`^(\S+) +\| stop begins`)[1] != stopped.Name {
		stopped, waits = waits, stopped
	}
	inStop(t, stopped, id)
	awaitJournal(t, waits, id, "ask", 1) // it has got as far as that
	s.asked()
	s.types("c\n")
	s.end(130, "cancelled: each host ends after its current step", "cancelled by ", "waits for its turn to stop Postfix", "spoolsweep resume "+id)

	awaitUp(t, stopped, time.Second)
	a, err := stopped.Audit(t.Context())
	must(t, err)
	checkPlaces(t, stopped, a, messages[stopped], "aside", aside, slices.Sorted(slices.Values(ids(messages[stopped]))))
	now := takeSnapshot(t, waits)
	if diff := cmp.Diff(before[waits].Spool, now.Spool) + cmp.Diff(before[waits].Processes, now.Processes); diff != "" {
		t.Errorf("%s waited for its turn and changed, -before +after:\n%s", waits.Name, diff)
	}
	if n := journaled(t, waits, id, "stopping"); n > 0 {
		t.Errorf("%s was stopped %d times", waits.Name, n)
	}
	for _, h := range two {
		messages[h] = append(messages[h], alive(t, h))
	}
	succeeds(t, f, "resume", id, "-y")
	for _, h := range two {
		if n := journaled(t, h, id, "stopping"); n != 1 {
			t.Errorf("%s was stopped %d times", h.Name, n)
		}
		checkSwept(t, h, messages[h])
	}
}

// Cancelled while the ham goes back: after the batch, and nothing moves twice.
func TestCtrlCCancelsInRestore(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	messages := smallFlood(t, h)
	s := sit(t, f, sweepAway(t, h, "-e", "rate=5/s")...)
	id := s.run()
	awaitJournal(t, h, id, "outcome", 2)
	s.asked()
	s.types("what\n") // is asked again
	s.waitFor(`\[d\]etach, \[c\]ancel, or \[g\]o on\?`)
	s.types("c\n")
	s.end(130, "cancelled by ", "spoolsweep putback "+id)
	if back := len(checkHalf(t, h, messages)); back == 0 || back == len(hams(messages)) {
		t.Fatalf("%d of %d are back: cancelled in the wrong moment for this test", back, len(hams(messages)))
	}
	if r := ends(t, 2, f, "attach", id); !strings.Contains(r.out+r.err, "cancelled by ") {
		t.Errorf("attach does not tell that it was cancelled: %v", r)
	}
	succeeds(t, f, "resume", id, "-y", "-e", "rate=0")
	checkSwept(t, h, messages)
	alive(t, h)
	checkLedger(t, h, f, id)
}

// Where a question is open already Ctrl-C asks no second one. Before the run has
// begun there is nothing to go on with; after that the question stays open on the
// host.
func TestCtrlCAtQuestions(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	messages := smallFlood(t, h)
	before := takeSnapshot(t, h)
	args := []string{"run", "backscatter", "-e", rulesFile(t, floodRules(h))}
	s := sit(t, f, args...)
	s.waitFor(`Do this on 1 of 1 host\? \[y/N\] `)
	s.types(ctrlC)
	if shown := s.end(130); strings.Contains(shown, "\nrun ") || strings.Contains(shown, "[d]etach") {
		t.Errorf("interrupted before the run:\n%s", shown)
	}
	if diff := cmp.Diff(before, takeSnapshot(t, h)); diff != "" {
		t.Errorf("interrupted before the run the host changed, -before +after:\n%s", diff)
	}

	s = sit(t, f, args...)
	s.waitFor(`Do this on 1 of 1 host\? \[y/N\] `)
	s.types("y\n")
	id := s.run()
	s.waitFor(`send \d+ messages, leave \d+ aside\?`)
	s.types(ctrlC)
	if shown := s.end(130, "[y/N] ^C\ndetached, the question stays open on "+h.Name+": spoolsweep resume "+id); strings.Contains(shown, "[d]etach") {
		t.Errorf("a question within a question:\n%s", shown)
	}
	awaitUp(t, h, time.Second)
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "aside", aside, slices.Sorted(slices.Values(ids(messages))))
	succeeds(t, f, "resume", id, "-y", "--expect", strconv.Itoa(len(hams(messages)))) // what was asked stays open for -y alone
	checkSwept(t, h, messages)
	alive(t, h)
}
