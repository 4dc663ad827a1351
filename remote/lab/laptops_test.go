package lab_test

import (
	"strings"
	"syscall"
	"testing"

	"spoolsweep/remote/lab"
)

// Two laptops and three hosts. The first laptop falls asleep while one host is
// stopped, another waits for its turn, and the third is cut off. A colleague
// resumes on the hosts that are there. The first one, awake
// again, gives no turn and takes nothing back, and the third host is carried on
// when it is there.
func TestColleagueResumes(t *testing.T) {
	t.Parallel()
	all := hosts(t, 3)
	f := newFleet(t, all, few, slowStop)
	messages := map[*lab.Host][]lab.Message{}
	for _, h := range all {
		messages[h] = smallFlood(t, h)
	}
	short := []string{"--reconnect", "3s", "-T", "2s"}
	rules := rulesFile(t, floodRules(all...))
	asleep := start(t, f, append([]string{"run", "backscatter", "-v", "-y"}, short...)...)
	id := asleep.run()
	first := asleep.waitFor(`^(\S+) +\| stop begins`)[1]
	for _, h := range all {
		if h.Name != first {
			awaitJournal(t, h, id, "ask", 1) // for its turn
		}
	}
	must(t, asleep.Process.Signal(syscall.SIGSTOP))
	var silent *lab.Host
	for _, h := range all {
		if h.Name != first {
			silent = h
		}
	}
	must(t, silent.LinkDown())
	for _, h := range all {
		if h.Name == first {
			awaitJournal(t, h, id, "started", 1)
		} else if journaled(t, h, id, "stopping") > 0 {
			t.Errorf("%s was stopped with %s", h.Name, first)
		}
	}

	// The colleague has the mail sorted where it can be.
	colleague := start(t, f, append([]string{"resume", id, "-y", "-e", rules}, short...)...)
	r := colleague.wait()
	if r.status != 4 || !strings.Contains(r.err, "2 ok, 1 unreachable") {
		t.Errorf("the colleague: %v", r)
	}
	must(t, asleep.Process.Signal(syscall.SIGCONT))
	if r := asleep.wait(); r.status != 4 || strings.Contains(r.err, silent.Name+" | stop begins") {
		t.Errorf("awake again: want exit status 4, and %s left alone: %v", silent.Name, r)
	}
	must(t, silent.LinkUp())
	if n := journaled(t, silent, id, "stopping"); n > 0 {
		t.Errorf("%s was stopped %d times", silent.Name, n)
	}
	succeeds(t, f, "resume", id, "-y", "-e", rules)
	for _, h := range all {
		checkSwept(t, h, messages[h])
		alive(t, h)
		checkLedger(t, h, newFleet(t, []*lab.Host{h}, few, slowStop), id)
	}
}
