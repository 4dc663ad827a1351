package lab_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/stage"
)

// An account is disabled before Postfix is stopped, by the command of the host's
// variables; the service that keeps logins is restarted.
func TestAccountDisabled(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn, `disable_account: "usermod -L --"`, `auth_service: "date +restarted-%s%N >>/var/log/commands"`)
	messages := flooded(t, h, 1, map[string]int{"active": 120})
	for _, name := range []string{"spam-account", "eve o'hara"} {
		if _, err := h.Run(t.Context(), "useradd", "--badname", name); err != nil && strings.Contains(name, " ") {
			t.Logf("no account of a difficult name on this system: %v", err)
		} else {
			must(t, err)
		}
	}
	_, err := h.Run(t.Context(), "sh", "-c", "echo spam-account:x | chpasswd")
	must(t, err)

	// What cannot be is refused before any host is touched.
	for _, bad := range []string{"account=-a", `{"account": ["ok", "a\nb"]}`} {
		if r := spoolsweep(t, f, "run", "backscatter", "-y", "-e", bad); r.status != 1 || !strings.Contains(r.err, "account: ") {
			t.Errorf("-e %s: %v", bad, r)
		}
	}
	check := succeeds(t, f, "run", "backscatter", "--check", "-e", "account=spam-account")
	if !strings.Contains(check.err, "source: would run: usermod -L -- spam-account") {
		t.Errorf("the command is not shown: %v", check)
	}
	if out, err := h.Run(t.Context(), "passwd", "-S", "spam-account"); err != nil || !strings.HasPrefix(out, "spam-account P") {
		t.Errorf("after --check: %s, %v", out, err)
	}
	doc, r := spoolsweepJSON(t, f, "run", "backscatter", "-y", "-e", "account=spam-account", "-e", rulesFile(t, floodRules(h)), "-e", "rate=0")
	if r.status != 0 {
		t.Fatal(r)
	}
	var done stage.CommandResult
	if !hostIn(t, doc, h).Latest("command", &done) || done.Exit != 0 || done.Skipped {
		t.Errorf("command: %+v: %v", done, r)
	}
	if out, err := h.Run(t.Context(), "passwd", "-S", "spam-account"); err != nil || !strings.HasPrefix(out, "spam-account L") {
		t.Errorf("it is not disabled: %s, %v", out, err)
	}
	log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/commands"))
	if err != nil || strings.Count(string(log), "restarted-") != 1 {
		t.Errorf("the service was restarted as %q, %v", log, err)
	}
	var started stage.Started
	if !hostIn(t, doc, h).Latest("start", &started) || started.Accepting == nil || !*started.Accepting || started.Why != "" {
		t.Errorf("started: %+v: %v", started, r)
	}
	checkSwept(t, h, messages)
	alive(t, h)
}

// Of two accounts that bounces come back to only the one that sent is disabled,
// though the playbook looks for suspects later.
func TestAccountForged(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn, `disable_account: "usermod -L --"`)
	must(t, h.Flood(lab.Hold))
	messages := lab.Flood(account(h), 90, 1)
	for i := range 20 {
		messages = append(messages, lab.Message{
			ID: fmt.Sprintf("forged-%d", i), Recipients: []string{"victim@" + h.Name + ".lab.test"}, Client: "192.0.2.9", Subject: "Undelivered", Body: "x\n", Spam: true,
		})
	}
	must(t, h.Inject(t.Context(), messages))
	await(t, h, map[string]int{"active": len(messages)})
	for _, name := range []string{"spam-account", "victim"} {
		_, err := h.Run(t.Context(), "useradd", name)
		must(t, err)
		_, err = h.Run(t.Context(), "sh", "-c", "echo "+name+":x | chpasswd")
		must(t, err)
	}
	passwords := func(want map[string]string) {
		t.Helper()
		for name, letter := range want {
			if out, err := h.Run(t.Context(), "passwd", "-S", name); err != nil || !strings.HasPrefix(out, name+" "+letter) {
				t.Errorf("%s: want %s: %s, %v", name, letter, out, err)
			}
		}
	}

	// Required, it ends before anything is stopped.
	doc, r := spoolsweepJSON(t, f, "run", "backscatter", "-y", "-e", "account=victim", "-e", "require_source_stopped=true")
	if s := hostIn(t, doc, h); r.status != 2 || !strings.Contains(s.Error.Message, `["victim"] is forged`) || !strings.Contains(s.Error.Remedy, "force_account") {
		t.Errorf("required: %+v, %v", s.Error, r)
	}
	if dirs := asideDirs(t, h); len(dirs) > 0 {
		t.Errorf("%q were set aside", dirs)
	}
	passwords(map[string]string{"spam-account": "P", "victim": "P"})

	doc, r = spoolsweepJSON(t, f, "run", "backscatter", "-y", "-e", `{"account": ["victim", "spam-account"]}`)
	if r.status != 3 {
		t.Fatal(r)
	}
	passwords(map[string]string{"spam-account": "L", "victim": "P"})
	var done stage.CommandResult
	if !hostIn(t, doc, h).Latest("command", &done) || len(done.Refused) != 1 || done.Refused[0] != "victim" || len(done.Accounts) != 2 {
		t.Errorf("command: %+v", done)
	}
	if !strings.Contains(r.err, `nothing was sent with "victim", its address is only forged: not done for it`) {
		t.Errorf("it is not told: %v", r)
	}
	succeeds(t, f, "putback", runIn(t, r), "--include-spam", "-y", "--expect", fmt.Sprint(len(messages)), "--rate", "0", "--live-max", "0")

	_, r = spoolsweepJSON(t, f, "run", "backscatter", "-y", "-e", "account=victim", "-e", "force_account=true")
	if r.status != 3 {
		t.Fatal(r)
	}
	passwords(map[string]string{"victim": "L"})
	a, err := h.Audit(t.Context())
	must(t, err)
	if lost, twice := a.Lost(ids(messages)), a.Twice(); len(lost)+len(twice) > 0 {
		t.Errorf("lost %q, twice %q", some(lost), some(twice))
	}
}

// A command that fails keeps no mail from flowing, unless that was asked for:
// then the host is left as it was, and the other ones go on.
func TestAccountCommandFails(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, queueWarn, `disable_account: "test $(hostname) = `+two[1].Name+` || { echo cannot lock the file; exit 7; }; :"`)
	messages := floodAll(t, two, map[string]int{"active": 90})
	args := []string{"run", "backscatter", "-y", "-e", "account=spam-account", "-e", rulesFile(t, floodRules(two...)), "-e", "rate=0"}
	doc, r := spoolsweepJSON(t, f, append(args, "-e", "require_source_stopped=true", "-e", "max_stopped=0")...)
	if s := hostIn(t, doc, two[0]); r.status != 2 || s.Error == nil || s.Error.Stage != "command" || !strings.Contains(s.Error.Remedy, "spoolsweep resume "+doc.Run) {
		t.Fatalf("want exit status 2, and a remedy: %+v: %v", s.Error, r)
	}
	if !strings.Contains(r.err, "exit status 7: cannot lock the file, and require_source_stopped is set: nothing was stopped") {
		t.Errorf("it is not said why: %v", r)
	}
	if dirs := asideDirs(t, two[0]); len(dirs) > 0 {
		t.Errorf("%s: %q were set aside", two[0].Name, dirs)
	}
	alive(t, two[0])
	checkSwept(t, two[1], messages[two[1]])

	r = succeeds(t, f, append(args, "-l", two[0].Name)...)
	if !strings.Contains(r.err, "source not stopped: exit status 7: cannot lock the file; the run goes on") {
		t.Errorf("it is not said: %v", r)
	}
	a, err := two[0].Audit(t.Context())
	must(t, err)
	if lost, twice := a.Lost(ids(messages[two[0]])), a.Twice(); len(lost)+len(twice) > 0 {
		t.Errorf("lost %q, twice %q", some(lost), some(twice))
	}
	if dirs := asideDirs(t, two[0]); len(dirs) == 0 {
		t.Errorf("%s: nothing was set aside: %v", two[0].Name, r)
	}
}

// A playbook of one's own: commands here and there, once and on all hosts, each
// account a word of its own, a secret nowhere in the record.
func TestCommandsOfAPlaybook(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, queueWarn)
	dir := t.TempDir()
	here, secret := filepath.Join(dir, "here"), "hush-5309"
	playbook := filepath.Join(dir, "own.yaml")
	must(t, os.WriteFile(playbook, []byte(`name: commands
serial: 1
vars: {account: [], secret: , mode: gentle}
stages:
  - command: {name: tell here, run: "printf '%s:%s\n' >>`+here+` {{ .mode }}", for: "{{ .account }}", on: controller}
  - command: {run: "echo once >>`+here+`", on: controller, once: true}
  - command: {run: "echo {{ .mode }} >>/var/log/commands; exit 3"}
  - command: {run: "echo never >>/var/log/commands", when: "{{ eq .mode \"rough\" }}"}
  - command: {run: "printf '%s\n' {{ .secret }} >>/var/log/commands; printf '%s\n' {{ .secret }}", no_log: true}
  - command: {run: "sleep 1000", timeout: 300ms}
  - count:
`), 0o600))
	r := spoolsweep(t, f, "run", playbook, "-y", "-e", `{"account": ["ann", "$(id) o'hara"]}`, "-e", "secret="+secret, "-e", "mode=ge'n tle")
	if r.status != 0 {
		t.Fatal(r)
	}
	id := runIn(t, r)
	text, err := os.ReadFile(here)
	must(t, err)
	each := "ge'n tle:ann\nge'n tle:$(id) o'hara\n"
	if want := each + "once\n" + each; string(text) != want {
		t.Errorf("here was done\n%swant\n%s", text, want)
	}
	for _, h := range two {
		log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/commands"))
		must(t, err)
		if want := "ge'n tle\n" + secret + "\n"; string(log) != want {
			t.Errorf("%s: done %q, want %q", h.Name, log, want)
		}
		for _, name := range []string{"events.jsonl", "journal", "worker.log"} {
			text, err := os.ReadFile(filepath.Join(state(h), "runs", id, name))
			must(t, err)
			if strings.Contains(string(text), secret) {
				t.Errorf("%s: the secret stands in %s", h.Name, name)
			}
		}
		var info struct{ Extra map[string]any }
		text, err := os.ReadFile(filepath.Join(state(h), "runs", id, "run.json"))
		must(t, err)
		must(t, json.Unmarshal(text, &info))
		if _, kept := info.Extra["secret"]; kept || info.Extra["mode"] != "ge'n tle" {
			t.Errorf("%s: variables in the record: %v", h.Name, info.Extra)
		}
	}
	if strings.Contains(r.out+r.err, secret) || !strings.Contains(r.err, "ended at its time limit") || !strings.Contains(r.err, "exit status 3") {
		t.Errorf("it says %v", r)
	}
}

// What goes first is refused by the servers it is for: no more is sent, whoever
// says -y.
func TestCanaryStops(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	messages := flooded(t, h, 1, map[string]int{"active": 500})
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y", "-e", "rate=0"))
	must(t, h.Flood(lab.Bounce))
	rules := rulesFile(t, floodRules(h))
	ham := hams(messages)
	for _, args := range [][]string{{"-e", rules, "-y"}, {"-y"}} {
		doc, r := spoolsweepJSON(t, f, append([]string{"resume", id}, args...)...)
		if r.status != 3 || !strings.Contains(r.err, "of the 50 messages that went first") || !strings.Contains(r.err, "were refused (5xx), such as ") {
			t.Fatalf("resume %q: %v", args, r)
		}
		var moved stage.Restored
		if hostIn(t, doc, h).Latest("restore", &moved) && moved.Restored != 50 {
			t.Errorf("resume %q: moved %+v", args, moved)
		}
		if !strings.Contains(r.err, fmt.Sprintf("resume %s -y --expect %d", id, len(ham)-50)) {
			t.Errorf("what to type is not said: %v", r)
		}
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	var left []string
	for _, id := range a.In(aside...) {
		for _, m := range messages {
			if m.ID == id && !m.Spam {
				left = append(left, id)
			}
		}
	}
	if len(left) != len(ham)-50 || len(a.Twice()) > 0 {
		t.Errorf("%d ham messages are aside, want %d; twice %q", len(left), len(ham)-50, some(a.Twice()))
	}
	// The servers have come to their senses, and somebody has looked.
	must(t, h.Flood(lab.Deliver))
	ends(t, 1, f, "resume", id, "-y", "--expect", fmt.Sprint(len(ham)))
	succeeds(t, f, "resume", id, "-y", "--expect", fmt.Sprint(len(ham)-50))
	a, err = h.Audit(t.Context())
	must(t, err)
	if got := a.In(aside...); len(got) != len(spams(messages)) {
		t.Errorf("%d messages are aside, want the %d of the flood", len(got), len(spams(messages)))
	}
}

// A spool so full that smtpd answers 452 is seen: before, nothing is stopped;
// where it fills up meanwhile, mail that is there flows, and it is said.
func TestSpoolFull(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	const full = "postconf -e queue_minfree=9999999999999 && touch -d '1 minute ago' /etc/postfix/main.cf"
	f := newFleet(t, []*lab.Host{h}, queueWarn, `postfix_start: "`+full+` && postfix start"`)
	messages := flooded(t, h, 1, map[string]int{"active": 90})
	doc, r := spoolsweepJSON(t, f, "run", "backscatter", "-y", "-e", "rate=0", "-e", rulesFile(t, floodRules(h)))
	var started stage.Started
	if r.status != 0 || !hostIn(t, doc, h).Latest("start", &started) || started.Accepting == nil || *started.Accepting || !strings.HasPrefix(started.Why, "452 4.3.1 ") {
		t.Fatalf("started %+v: %v", started, r)
	}
	if !strings.Contains(r.err, "Postfix runs, but takes no new mail: 452 4.3.1 ") {
		t.Errorf("it is not said: %v", r)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	a.Foreign = nil // smtpd tells the postmaster of each 452 (notify_classes)
	checkPlaces(t, h, a, messages, "aside", aside, spams(messages))
	checkPlaces(t, h, a, messages, "live", live, hams(messages))
	r = ends(t, 2, f, "run", "backscatter", "-y", "-e", "queues=[hold]")
	if !strings.Contains(r.err, "MB free for new mail") || !strings.Contains(r.err, "remedy: make room") {
		t.Errorf("a full spool is not refused before: %v", r)
	}
	if _, err := h.Run(t.Context(), "postfix", "status"); err != nil {
		t.Error(err)
	}
}

// Mail that lay aside past its lifetime stays there, named; requeued it has a new
// one, and Postfix delivers it instead of returning it.
func TestExpiredIsRequeued(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	messages := flooded(t, h, 1, map[string]int{"active": 150})
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y", "-e", "rate=0"))
	a, err := h.Audit(t.Context())
	must(t, err)
	old := hams(messages)[:4]
	record := regexp.MustCompile(`create_time=\d{10}`)
	for _, m := range old {
		path := a.Found[m][0].Path
		text, err := os.ReadFile(path)
		must(t, err)
		aged := record.ReplaceAll(text, fmt.Appendf(nil, "create_time=%d", time.Now().Add(-6*24*time.Hour).Unix()))
		if bytes.Equal(text, aged) || len(text) != len(aged) {
			t.Fatalf("%s has no create_time to change", path)
		}
		must(t, os.WriteFile(path, aged, 0o700))
	}
	must(t, h.Flood(lab.Deliver))
	doc, r := spoolsweepJSON(t, f, "resume", id, "-y", "-e", rulesFile(t, floodRules(h)), "-e", "rate=0")
	var moved stage.Restored
	if r.status != 0 || !hostIn(t, doc, h).Latest("restore", &moved) || moved.Expired != 4 || len(moved.Lapsed) != 4 || int(moved.Left) != len(spams(messages))+4 {
		t.Fatalf("restored %+v: %v", moved, r)
	}
	ends(t, 1, f, "putback", id, "-y", "--expect", "4") // they do not go by themselves
	doc, r = spoolsweepJSON(t, f, "resume", id, "-y", "-e", "expired=requeue")
	if r.status != 0 || !hostIn(t, doc, h).Latest("restore", &moved) || moved.Expired != 0 || moved.ByQueue["maildrop"] != 4 {
		t.Fatalf("requeued %+v: %v", moved, r)
	}
	checkDelivered(t, h, messages, hams(messages))
	log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/mail.log"))
	must(t, err)
	if n := strings.Count(string(log), "orig_id="); n != 4 || strings.Contains(string(log), "status=expired") {
		t.Errorf("%d messages were requeued, as the log says", n)
	}
}
