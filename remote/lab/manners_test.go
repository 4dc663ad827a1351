package lab_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab"
)

// manyServers gives each domainNN.example a server of its own, so that the queue
// manager has as many destinations as real mail has.
func manyServers() string {
	nets := "transport_maps = inline:{"
	for i := range destinations {
		nets += fmt.Sprintf(" { domain%02d.example = smtp:[127.0.1.%d]:9 }", i, i+1)
	}
	return nets + " }"
}

const destinations = 60

// waits sends n messages, as users do, to a server that answers at once, and
// returns for how long each was under way, from the first byte of its submission to its arrival, sorted.
func waits(t *testing.T, h *lab.Host, name string, n int) []time.Duration {
	t.Helper()
	var messages []lab.Message
	for i := range n {
		messages = append(messages, lab.Message{ID: fmt.Sprintf("new-%s-%03d", name, i), Sender: "ada@" + h.Name + ".lab.test",
			Recipients: []string{"friend@quick.example"}, Subject: "new mail", Body: "Hello\n"})
	}
	began, err := h.Trickle(t.Context(), messages, 100*time.Millisecond)
	must(t, err)
	took := map[string]time.Duration{}
	seen := map[string]bool{}
	eventually(t, 2*time.Minute, "new mail that arrives", func() bool {
		paths, err := filepath.Glob(filepath.Join(h.Dir, "delivered", "[^.]*"))
		must(t, err)
		for _, path := range paths {
			if seen[path] {
				continue
			}
			seen[path] = true
			text, err := os.ReadFile(path)
			must(t, err)
			info, err := os.Stat(path)
			must(t, err)
			_, rest, _ := bytes.Cut(text, []byte("X-Lab-Id: "))
			id, _, _ := strings.Cut(string(rest), "\n")
			if at, ok := began[id]; ok {
				took[id] = info.ModTime().Sub(at)
			}
		}
		return len(took) == n
	})
	return slices.Sorted(maps.Values(took))
}

// While ham goes back to servers that are slow to take it, new mail for others
// waits no more than twice as long as on an idle server, with the rate and the
// live_max that a sweep has by itself.
func TestNewMailWaitsNoLonger(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	inventory, err := os.ReadFile(f.inventory)
	must(t, err)
	must(t, os.WriteFile(f.inventory, bytes.Replace(inventory, []byte(noLiveMax), nil, 1), 0o600))
	must(t, h.Postconf(t.Context(), manyServers()))
	must(t, h.Flood(lab.Deliver))
	waits(t, h, "first", 5) // all processes are there
	idle := waits(t, h, "idle", 40)

	var ham []lab.Message
	for i := range 600 {
		ham = append(ham, lab.Message{ID: fmt.Sprintf("slow-%04d", i), Sender: fmt.Sprintf("user%d@%s.lab.test", i, h.Name),
			Recipients: []string{fmt.Sprintf("slow.user%d@domain%02d.example", i, i%destinations)}, Subject: fmt.Sprint(i), Body: fmt.Sprintf("Hello %d\n", i)})
	}
	must(t, h.Flood(lab.Hold))
	must(t, h.Inject(t.Context(), ham))
	eventually(t, time.Minute, "mail that is held", func() bool { return len(files(t, h, "active")) == len(ham) })
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y", "-e", rulesFile(t, "spam: {sender: nobody}\n")))
	must(t, h.Flood(lab.Deliver))
	r := start(t, f, "resume", id, "-y", "--expect", fmt.Sprint(len(ham)))
	r.waitFor(`restore +restored (5[1-9]|[6-9]\d|\d{3})`) // past the canary
	time.Sleep(4 * time.Second)                           // it goes on as it would for hours: no event tells
	busy := waits(t, h, "busy", 40)
	live, left := len(files(t, h, "active"))+len(files(t, h, "incoming")), len(files(t, h, "active.spamfull"))
	if left == 0 {
		t.Error("the restore was over before the last new message arrived")
	}
	at := func(sorted []time.Duration, percent int) time.Duration {
		return sorted[len(sorted)*percent/100].Round(time.Millisecond)
	}
	t.Logf("new mail was under way for %v, nine in ten for less than %v; during a restore for %v, and less than %v; %d of %d were still aside, %d live",
		at(idle, 50), at(idle, 90), at(busy, 50), at(busy, 90), left, len(ham), live)
	for _, percent := range []int{50, 90} {
		// Less than a tenth of a second is this machine's noise, and nobody's wait.
		if was, is := at(idle, percent), at(busy, percent); is > 2*max(was, 100*time.Millisecond) {
			t.Errorf("%d of 100 new messages are under way for up to %v on an idle server, for up to %v during a restore", percent, was, is)
		}
	}
}
