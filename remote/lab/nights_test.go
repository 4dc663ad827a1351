package lab_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/stage"
)

// Nights of an incident, from the first command to the last, by a real Postfix.

// login says whether a password is taken by the host's smtpd.
const login = `import smtplib, sys
s = smtplib.SMTP("127.0.0.1", 25)
try:
    s.login(sys.argv[1], "right")
except smtplib.SMTPAuthenticationError:
    print("refused")
else:
    print("taken")
`

// The wiki's night: who it is is not known, nor what the mail looks like. Mail flows
// first; the culprit is found in what is aside and disabled in a panel, which
// spoolsweep has no part in; the rules come from the flood.
func TestNightOfTheWiki(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	needs.Program(t, "saslpasswd2")
	needs.Program(t, "python3")
	f := newFleet(t, []*lab.Host{h}, few, "watch: 1s")
	domain := h.Name + ".lab.test"
	_, err := h.Run(t.Context(), "sh", "-c", withSASL+`echo right | saslpasswd2 -p -c -u "$1" spam-account`, "sh", domain)
	must(t, err)
	must(t, h.Postconf(t.Context(), "smtpd_sasl_auth_enable = yes", "smtpd_sasl_local_domain = "+domain))
	taken := func() string {
		t.Helper()
		out, err := h.Run(t.Context(), "/usr/bin/python3", "-c", login, account(h))
		must(t, err)
		return strings.TrimSpace(out)
	}
	messages := flooded(t, h, 7, map[string]int{"deferred": 100, "active": 100, "incoming": 200})
	if got := taken(); got != "taken" {
		t.Fatalf("before all, the login is %s", got)
	}

	if r := ends(t, 1, f, "health", "--exit-status"); !strings.Contains(r.out, "BUSY") {
		t.Errorf("health: %v", r)
	}
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y", "--reason", "members complain"))
	must(t, h.Flood(lab.Deliver))
	member := alive(t, h)
	waitDelivered(t, h, 1) // mail flows

	// Who it is, and what the mail looks like: of what is aside.
	doc, r := spoolsweepJSON(t, f, "suspects")
	who := resultOf[stage.Suspects](t, doc, h)
	if len(who.Logins) == 0 || who.Logins[0].User != account(h) {
		t.Fatalf("the culprit is not the first: %v", r)
	}
	target := slices.IndexFunc(who.Backscatter, func(b stage.Target) bool { return b.Value == account(h) })
	if target < 0 || who.Backscatter[target].Finding != "hacked" {
		t.Errorf("bounces: %+v", who.Backscatter)
	}
	_, err = h.Run(t.Context(), "saslpasswd2", "-d", "-u", domain, "spam-account") // the panel
	must(t, err)
	if got := taken(); got != "refused" {
		t.Errorf("after the panel, the login is %s", got)
	}
	if r := succeeds(t, f, "sample", "-n", "3", "--redact"); strings.Count(r.out, "Subject: ") < 3 || strings.Contains(r.out, account(h)) {
		t.Errorf("sample: %v", r)
	}

	// Rules from the flood, tried before they are used.
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	must(t, os.WriteFile(rules, []byte(succeeds(t, f, "suggest", "-o", "yaml").out), 0o600))
	doc, r = spoolsweepJSON(t, f, "classify", "-e", "@"+rules)
	tried := resultOf[stage.Classified](t, doc, h)
	if int(tried.Spam) != len(spams(messages)) || int(tried.Ham) != len(hams(messages)) {
		t.Errorf("rules that were proposed: spam %d of %d, ham %d of %d: %v", tried.Spam, len(spams(messages)), tried.Ham, len(hams(messages)), r)
	}
	doc, r = spoolsweepJSON(t, f, "resume", "-y", "-e", "@"+rules, "-e", "rate=0")
	if r.status == 3 { // it hits more of the host's own senders than it likes
		doc, r = spoolsweepJSON(t, f, "resume", id, "-y", "--expect", strconv.Itoa(len(hams(messages))))
	}
	var seen stage.Watched
	if r.status != 0 || !hostIn(t, doc, h).Latest("watch", &seen) || seen.Source != "quiet" {
		t.Fatalf("the source: %+v: %v", seen, r)
	}
	messages = append(messages, member)
	checkSwept(t, h, messages)
	checkDelivered(t, h, messages, hams(messages))

	// What members ask the next morning, and what the boss does.
	for _, m := range messages[:100] {
		if !m.Spam && m.Login != "" {
			if r := succeeds(t, f, "find", m.Sender); !strings.Contains(r.out, "restored") {
				t.Errorf("find %s: %v", m.Sender, r)
			}
			break
		}
	}
	if r := succeeds(t, f, "report", id); !strings.Contains(r.out, "members complain") || !strings.Contains(r.out, fmt.Sprintf("finished; %d messages aside", len(spams(messages)))) {
		t.Errorf("report: %v", r)
	}
	checkLedger(t, h, f, id)
	n := would(t, h, f, "purge", id)
	if n != len(spams(messages)) {
		t.Errorf("would purge %d, want %d", n, len(spams(messages)))
	}
	succeeds(t, f, "purge", id, "-y", "--expect", strconv.Itoa(n))
	checkLedger(t, h, f, id)
	if dirs := asideDirs(t, h); len(dirs) > 0 {
		t.Errorf("left %q", dirs)
	}
	if r := ends(t, 0, f, "health", "--exit-status"); !strings.Contains(r.out, "OK") {
		t.Errorf("health in the end: %v", r)
	}
}

// One account on three hosts. While all are stopped one falls silent, and the laptop
// dies. Postfix runs again everywhere, with nobody there; a colleague takes over on
// the hosts that answer, and on the third when it is back.
func TestNightOfThreeHosts(t *testing.T) {
	t.Parallel()
	all := hosts(t, 3)
	f := newFleet(t, all, few, slowStop, `disable_account: "usermod -L --"`, "auth_service: none")
	messages := floodAll(t, all, map[string]int{"deferred": 100, "active": 100, "incoming": 100})
	locked := func(h *lab.Host) bool {
		out, err := h.Run(t.Context(), "passwd", "-S", "spam-account")
		must(t, err)
		return strings.HasPrefix(out, "spam-account L")
	}
	for _, h := range all {
		_, err := h.Run(t.Context(), "sh", "-c", "useradd spam-account && echo spam-account:right | chpasswd")
		must(t, err)
		if locked(h) {
			t.Fatal("locked before anything was done")
		}
	}
	if r := succeeds(t, f, "health"); strings.Count(r.out, "BUSY") < 3 {
		t.Errorf("health: %v", r)
	}

	// Alice begins. She knows the account, not the mail.
	alice := start(t, f, "run", "backscatter", "-v", "-y", "-e", "account=spam-account", "-e", "max_stopped=3", "--reconnect", "3s", "-T", "2s")
	id := alice.run()
	for _, h := range all {
		awaitJournal(t, h, id, "stopping", 1)
	}
	silent := all[1]
	must(t, silent.LinkDown())
	must(t, alice.Process.Signal(syscall.SIGKILL))
	alice.wait()
	for _, h := range all {
		awaitJournal(t, h, id, "started", 1)
		awaitUp(t, h, 20*time.Second)
		if !locked(h) {
			t.Errorf("%s: the account is not locked", h.Name)
		}
	}

	// Bob sees it, finds rules, and goes on where he can.
	short := []string{"--reconnect", "3s", "-T", "2s"}
	if r := ends(t, 4, f, append([]string{"runs"}, short...)...); strings.Count(r.out, id) != 2 || !strings.Contains(r.out, "waits for rules") {
		t.Errorf("runs: %v", r)
	}
	rules := rulesFile(t, floodRules(all...))
	if r := ends(t, 4, f, append([]string{"resume", id, "-y", "-e", rules, "-e", "rate=0"}, short...)...); !strings.Contains(r.err, "2 ok, 1 unreachable") {
		t.Errorf("resume where hosts answer: %v", r)
	}
	a, err := silent.Audit(t.Context())
	must(t, err)
	for _, h := range all {
		if h != silent {
			checkSwept(t, h, messages[h])
		} else {
			checkPlaces(t, h, a, messages[h], "aside", aside, slices.Sorted(slices.Values(ids(messages[h]))))
		}
	}
	must(t, silent.LinkUp())
	eventually(t, time.Minute, "the link is there again", func() bool { return spoolsweep(t, f, "ping").status == 0 })
	succeeds(t, f, "resume", id, "-y", "-e", rules, "-e", "rate=0")

	sum := 0
	for _, h := range all {
		checkSwept(t, h, messages[h])
		if n := journaled(t, h, id, "started"); n != 1 {
			t.Errorf("%s was stopped and started %d times", h.Name, n)
		}
		checkLedger(t, h, f, id)
		sum += len(spams(messages[h]))
	}
	page := succeeds(t, f, "report", id, "-o", "html")
	for _, h := range all {
		if !strings.Contains(page.out, h.Name) {
			t.Errorf("the page does not tell of %s", h.Name)
		}
	}
	if r := succeeds(t, f, "attach", id); strings.Contains(r.err, "FAILED") { // alice, awake again
		t.Errorf("attach: %v", r)
	}
	succeeds(t, f, "purge", id, "-y", "--expect", fmt.Sprint(sum))
	for _, h := range all {
		if dirs := asideDirs(t, h); len(dirs) > 0 {
			t.Errorf("%s: left %q", h.Name, dirs)
		}
		alive(t, h)
		_, err := h.Run(t.Context(), "usermod", "-U", "spam-account") // taken back
		must(t, err)
	}
}
