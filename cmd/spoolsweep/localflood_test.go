package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// setVars gives all hosts of the inventory variables more.
func (f *fleet) setVars(vars ...string) {
	f.t.Helper()
	inventory, err := os.ReadFile(f.file(fleetInventory))
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(fleetInventory, strings.Replace(string(inventory), "  vars:\n", "  vars:\n    "+strings.Join(vars, "\n    ")+"\n", 1))
}

// started gives the first host this mail, and starts its Postfix.
func (f *fleet) started(messages []practice.Message) {
	f.t.Helper()
	if _, err := f.hosts[0].SubmitAll(messages); err != nil {
		f.t.Fatal(err)
	}
	if err := f.hosts[0].Start(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

// oneResult is one host's result of a command of one stage.
func oneResult(t *testing.T, r result, into any) {
	t.Helper()
	r.want(t, 0)
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(doc.Hosts[0].Result, into); err != nil {
		t.Fatal(err)
	}
}

// A joe-job: somebody sends in the name of a member, from elsewhere, and the bounces
// come here. They alone stay aside, whatever is written to her and by others about it,
// and nobody is disabled.
func TestJoeJob(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	disabled := f.file("disabled")
	f.setVars("disable_account: 'echo >> " + disabled + "'")
	victim := "victim@" + practice.Hostname("chavez")
	var messages []practice.Message
	bounces := 0
	var quoted string
	for _, m := range practice.Incident("chavez", "victim", 400, 3) {
		if m.Login == "victim" {
			continue // it is sent elsewhere
		}
		if m.Queue == spool.Deferred {
			m.Queue = spool.Incoming // all of it is to go aside
		}
		if m.Label == practice.Spam {
			bounces++
			if strings.Contains(m.Text, "swiftvalue@") {
				_, quoted, _ = strings.Cut(m.Text, "Special offer")
			}
		}
		messages = append(messages, m)
	}
	letter := func(from, text string) practice.Message {
		return practice.Message{Label: practice.Ham, Queue: spool.Incoming, Sender: from, Recipients: []string{victim}, ClientName: "mail.partner1.test", ClientAddress: "192.0.2.77",
			Text: "From: " + from + "\nTo: " + victim + "\nSubject: hello\n\n" + text}
	}
	messages = append(messages,
		letter("dora@partner1.test", "Shall we meet on Monday?\n"), letter("emil@partner2.test", "The minutes are ready.\n"),
		letter("goran@partner3.test", "Is this from you?\n\n> Special offer"+strings.ReplaceAll(quoted, "\n", "\n> ")+"\n"))
	f.started(messages)

	f.spoolsweep("suspects").want(t, 0, fmt.Sprintf("%d messages  bounces to: %s - forged: nothing sent by it", bounces, victim))
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0")
	rule := `-e '{spam: {all: [{sender: "<>"}, {recipient: "` + victim + `"}]}}'`
	r.want(t, 3, "source not stopped: no account is named", "classify --aside ", rule)
	run := runID.FindString(r.err)
	takes := func(args ...string) {
		t.Helper()
		var c stage.Classified
		oneResult(t, f.spoolsweep(append([]string{"classify", "--aside", run, "-o", "json"}, args...)...), &c)
		if int(c.Spam) != bounces || int(c.Ham) != len(messages)-bounces {
			t.Errorf("%q: spam %d, ham %d; want %d, %d", args, c.Spam, c.Ham, bounces, len(messages)-bounces)
		}
	}
	takes("-e", regexp.MustCompile(`^-e '(.*)'$`).FindStringSubmatch(rule)[1])
	r = f.spoolsweep("suggest", "--aside", run, "-o", "yaml")
	r.want(t, 0)
	rules := "@" + f.write("rules.yaml", r.out)
	takes("-e", rules)
	if err := f.hosts[0].Configure(practice.Options{}); err != nil {
		t.Fatal(err)
	}
	f.spoolsweep("resume", run, "-y", "-e", rules).want(t, 0, fmt.Sprintf("%d messages stay aside", bounces))
	f.audit(t, practice.Place.Aside)
	if _, err := os.Stat(disabled); err == nil {
		t.Error("somebody was disabled")
	}
}

// A script floods: what stops it is shown, and done before Postfix is stopped; maildrop
// goes aside, however little it holds; and it is told whether the script still sends.
func TestLocalFloodRun(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, practice.Options{}, "chavez")
	stopped := f.file("stopped")
	f.setVars("stop_source: 'echo >> " + stopped + "'")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	h := f.hosts[0]
	message := func(q spool.Queue, i int, at time.Time) practice.Message {
		return practice.Message{Label: practice.Spam, Queue: q, Arrived: at, Sender: "www-data@" + h.Hostname(), Recipients: []string{fmt.Sprintf("n%d@mx.silent.test", i)},
			Text: fmt.Sprintf("Subject: offer %d\nX-PHP-Originating-Script: %s:mailer.php\n\nbuy\n", i, me.Uid)}
	}
	var messages []practice.Message
	for i := range 80 {
		messages = append(messages, message(spool.Deferred, i, time.Now().Add(-time.Hour)))
	}
	messages = append(messages, message(spool.Maildrop, 80, time.Now().Add(-time.Hour)))
	f.started(messages)
	f.spoolsweep("run", "local-flood", "-y", "-e", "source=-x").want(t, statusUsage, "source: ", "a leading - for an option")
	f.spoolsweep("run", "local-flood", "--check").want(t, 0, "source not stopped: neither a user nor a script is named (-e source=NAME)", "set aside: deferred 80, maildrop 1")
	source := fmt.Sprintf(`{source: ["%s", /var/www/mailer.php]}`, me.Uid)
	f.spoolsweep("run", "local-flood", "--check", "-e", source).want(t, 0, "source: would run: echo >> "+stopped+" "+me.Uid, "source: would run: echo >> "+stopped+" /var/www/mailer.php")
	if _, err := os.Stat(stopped); err == nil {
		t.Error("--check has run it")
	}
	rules := "@" + f.write("rules.yaml", "spam: {header.X-PHP-Originating-Script: \":mailer.php\"}\n")
	r := f.spoolsweep("run", "local-flood", "-y", "-e", source, "-e", "queues=[auto, maildrop]", "-e", "watch=0")
	r.want(t, 3, "deferred set aside", "1 message  maildrop set aside", "waits for rules")
	if text, err := os.ReadFile(stopped); err != nil || string(text) != me.Uid+"\n/var/www/mailer.php\n" {
		t.Errorf("stopped: %q, %v", text, err)
	}
	run := runID.FindString(r.err)
	f.spoolsweep("resume", run, "-y", "-e", rules, "-e", "watch=0").want(t, 3, "the source is quiet", "the rules take all 81 messages")
	if _, err := h.Submit(message(spool.Deferred, 90, time.Now())); err != nil {
		t.Fatal(err)
	}
	again := "@" + f.write("again.yaml", "spam: {header.X-PHP-Originating-Script: \"mailer.php\"}\n")
	f.spoolsweep("resume", run, "-y", "-e", again, "-e", "watch=1s").want(t, 3, "1 message  the source still sends", "new: script mailer.php")
}
