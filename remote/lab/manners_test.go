package lab_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// newMail is what users send meanwhile: to whom, and how often.
type newMail struct {
	to    string
	every time.Duration
}

// waits sends n messages, as users do, and returns for how long each was under way,
// from the first byte of its submission to its arrival, sorted.
func (m newMail) waits(t *testing.T, h *lab.Host, name string, n int) []time.Duration {
	t.Helper()
	var messages []lab.Message
	for i := range n {
		messages = append(messages, lab.Message{ID: fmt.Sprintf("new-%s-%03d", name, i), Sender: "ada@" + h.Name + ".lab.test",
			Recipients: []string{m.to}, Subject: "new mail", Body: "Hello\n"})
	}
	began, err := h.Trickle(t.Context(), messages, m.every)
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

// While ham goes back to servers that are slow to take it, new mail waits no more
// than twice as long as on an idle server, with the rate and the live_max that a
// sweep has by itself: mail for other servers, and mail for the same one, where
// all goes through one slow relay.
func TestNewMailWaitsNoLonger(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	newMailWaits(t, h, manyServers(), newMail{"friend@quick.example", 100 * time.Millisecond}, 40)
}

func TestNewMailThroughOneSlowRelay(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	newMailWaits(t, h, "default_transport = smtp:[127.0.0.1]:9", newMail{"slow.friend@quick.example", time.Second}, 20)
}

var hamAside = flag.Int("ham", 600, "messages that are restored while new mail is sent: 300000 takes some minutes")

// multiply copies the messages of a queue directory under further ids, until there
// are so many.
func multiply(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for n := len(entries); n < want; n++ {
		from := filepath.Join(dir, entries[n%len(entries)].Name())
		text, err := os.ReadFile(from)
		must(t, err)
		info, err := os.Stat(from)
		must(t, err)
		to := filepath.Join(dir, fmt.Sprintf("%05X%X", n&0xfffff, 1<<40+n))
		must(t, os.WriteFile(to, text, 0o600))
		owner := info.Sys().(*syscall.Stat_t)
		must(t, os.Chown(to, int(owner.Uid), int(owner.Gid)))
		must(t, os.Chmod(to, 0o700)) // complete
	}
}

func newMailWaits(t *testing.T, h *lab.Host, servers string, m newMail, n int) {
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	inventory, err := os.ReadFile(f.inventory)
	must(t, err)
	must(t, os.WriteFile(f.inventory, bytes.Replace(inventory, []byte(noLiveMax), nil, 1), 0o600))
	must(t, h.Postconf(t.Context(), servers))
	must(t, h.Flood(lab.Deliver))
	m.waits(t, h, "first", 5) // all processes are there
	idle := m.waits(t, h, "idle", n)

	var ham []lab.Message
	for i := range 600 {
		ham = append(ham, lab.Message{ID: fmt.Sprintf("slow-%04d", i), Sender: fmt.Sprintf("user%d@%s.lab.test", i, h.Name),
			Recipients: []string{fmt.Sprintf("slow.user%d@domain%02d.example", i, i%destinations)}, Subject: fmt.Sprint(i), Body: fmt.Sprintf("Hello %d\n", i)})
	}
	must(t, h.Flood(lab.Hold))
	must(t, h.Inject(t.Context(), ham))
	eventually(t, time.Minute, "mail that is held", func() bool { return len(files(t, h, "active")) == len(ham) })
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y", "-e", rulesFile(t, "spam: {sender: nobody}\n")))
	if *hamAside > len(ham) {
		multiply(t, filepath.Join(h.Spool(), "active.spamfull"), *hamAside)
		ends(t, 3, f, "resume", id, "-y", "-e", rulesFile(t, "spam: {sender: nobody-else}\n"))
	}
	must(t, h.Flood(lab.Deliver))
	r := start(t, f, "resume", id, "-y", "--expect", fmt.Sprint(max(*hamAside, len(ham))))
	r.waitFor(`restore +restored (5[1-9]|[6-9]\d|\d{3})`) // past the canary
	time.Sleep(4 * time.Second)                           // it goes on as it would for hours: no event tells
	at := func(sorted []time.Duration, percent int) time.Duration {
		return sorted[len(sorted)*percent/100].Round(time.Millisecond)
	}
	// Other tests run beside this one: the better of two counts, and what is less
	// than a quarter of a second is this machine's noise, and nobody's wait.
	var longer []string
	for try := range 2 {
		busy := m.waits(t, h, fmt.Sprint("busy", try), n)
		live, left := len(files(t, h, "active"))+len(files(t, h, "incoming")), len(files(t, h, "active.spamfull"))
		if left == 0 {
			t.Error("the restore was over before the last new message arrived")
		}
		t.Logf("new mail was under way for %v, nine in ten for less than %v; during a restore for %v, and less than %v; %d of %d were still aside, %d live",
			at(idle, 50), at(idle, 90), at(busy, 50), at(busy, 90), left, max(*hamAside, len(ham)), live)
		longer = nil
		for _, percent := range []int{50, 90} {
			if was, is := at(idle, percent), at(busy, percent); is > 2*max(was, 250*time.Millisecond) {
				longer = append(longer, fmt.Sprintf("%d of 100 new messages are under way for up to %v on an idle server, for up to %v during a restore", percent, was, is))
			}
		}
		if longer == nil {
			break
		}
	}
	if longer != nil {
		t.Error(strings.Join(longer, "; "))
	}
	if t.Failed() { // where the time went is in the log: delays=before/in/connecting/delivering
		log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/mail.log"))
		must(t, err)
		t.Logf("%s", bytes.Join(regexp.MustCompile(`(?m)^.* to=<(friend@quick|slow\.user\d+@domain).*$`).FindAll(log, -1), []byte("\n")))
	}
}

// byHand sets queues aside as the wiki has it.
const byHand = `set -e
postfix stop
cd /var/spool/postfix
for queue in "$@"; do
	mv $queue $queue.spamfull
	mkdir $queue
	chmod 700 $queue
	chown postfix:postfix $queue
done
postfix start`

// Somebody has set the flood aside by hand, and the server was booted since. The
// next day's sweep leaves that alone; taken on, it is a run like any other: what is
// ham goes back, with what Postfix knows of it, and what is spam is purged.
func TestAdopted(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	first := flooded(t, h, 1, map[string]int{"deferred": 100, "active": 60, "incoming": 60})
	was, err := h.Audit(t.Context())
	must(t, err)
	why := reasons(t, h, "deferred")
	_, err = h.Run(t.Context(), "sh", "-c", byHand, "sh", "incoming", "active", "deferred", "defer")
	must(t, err)
	must(t, h.PowerCut())
	must(t, h.Restart(t.Context()))
	lies := map[string]int{"deferred.spamfull": 100, "active.spamfull": 60, "incoming.spamfull": 60, "active": 60, "incoming": 40}
	second := lab.Flood(account(h), 100, 2) // the limit of active is still the first day's
	must(t, h.Flood(lab.Hold))
	must(t, h.Inject(t.Context(), second))
	await(t, h, lies)
	all := append(slices.Clone(first), second...)

	two := runIn(t, succeeds(t, f, sweepAway(t, h, "-e", "rate=0")...))
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, all, "aside", aside, slices.Sorted(slices.Values(append(ids(first), spams(second)...))))

	adopt := []string{"putback", "--rate", "0", "--live-max", "0", "-y", "--adopt"}
	r := ends(t, 2, f, append(adopt, "incoming.spamfull.2", "--expect", "0")...)
	if !strings.Contains(r.err, "is what run "+two+" has set aside: 'spoolsweep putback "+two+"'") {
		t.Errorf("the other run's: %v", r)
	}
	// With a wrong number nothing moves; but the run is there.
	before := a
	r = ends(t, 1, f, append(adopt, "incoming.spamfull", "--adopt", "active.spamfull", "--adopt", "deferred.spamfull", "--expect", "1000")...)
	id := runIn(t, r)
	a, err = h.Audit(t.Context())
	must(t, err)
	if diff := cmp.Diff(before, a); diff != "" {
		t.Errorf("--adopt changed places:\n%s", diff)
	}
	health := succeeds(t, f, "health").out
	for _, name := range []string{"incoming", "active", "deferred", "defer"} {
		if name != "defer" && !strings.Contains(health, name+".spamfull: ") || strings.Count(health, id) < 4 {
			t.Errorf("health does not say whose %s.spamfull is: %s", name, health)
		}
	}
	succeeds(t, f, "resume", id, "-y", "-e", rulesFile(t, floodRules(h)), "-e", "rate=0", "-e", "live_max=0")
	a, err = h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, all, "aside", aside, slices.Sorted(slices.Values(append(spams(first), spams(second)...))))
	now := reasons(t, h, "deferred")
	for _, ham := range hams(first) {
		if name := queueID(was, ham); was.Found[ham][0].Dir == "deferred" && !cmp.Equal(now[name], why[name]) {
			t.Errorf("%s: Postfix tells %q, before %q", ham, now[name], why[name])
		}
	}
	succeeds(t, f, "purge", id, "-y", "--expect", fmt.Sprint(len(spams(first))))
	if left := asideDirs(t, h); slices.ContainsFunc(left, func(d string) bool { return !strings.HasSuffix(d, ".2") }) {
		t.Errorf("left %q", left)
	}
	a, err = h.Audit(t.Context())
	must(t, err)
	if lost := a.Lost(ids(all)); len(lost) != len(spams(first)) {
		t.Errorf("%d messages are gone, want the %d of the first day's spam", len(lost), len(spams(first)))
	}
	// A run of its own, which put back ends too.
	n := putBackCount(t, f, two, "--include-spam")
	succeeds(t, f, "putback", two, "--include-spam", "-y", "--expect", fmt.Sprint(n), "--rate", "0", "--live-max", "0")
	alive(t, h)
}
