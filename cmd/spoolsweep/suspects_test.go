package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// Who sends, on each host and on all of them: from live queues, by name, and
// from what a run has aside.
func TestSuspectsCommand(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(300)
	waitQuiet(t, f)
	r := f.spoolsweep("suspects", "--top", "3")
	r.want(t, 0, "the live queues", "login: spam-account, from", "sender: spam-account@chavez.practice.test",
		"bounces to: spam-account@peltier.practice.test - hacked: ", "these hosts together:")
	if n := strings.Count(r.out, "login: spam-account, from"); n != 3 {
		t.Errorf("spam-account stands there %d times, want once a host and once together:\n%s", n, r.out)
	}
	r = f.spoolsweep("suspects", "--top", "2", "-o", "json")
	r.want(t, 0)
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, h := range doc.Hosts {
		var s stage.Suspects
		if err := json.Unmarshal(h.Result, &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Logins) != 2 || s.Logins[0].User != demoAccount || s.Logins[0].Count != 135 || s.Read != 300 || s.Partial {
			t.Errorf("%s: %+v", h.Host, s)
		}
		sum += s.Logins[0].Count
	}
	all := doc.Summary.Suspects
	if all == nil || all.Read != 600 || len(all.Senders) != 2 || all.Logins[0].Count != sum {
		t.Errorf("together: %+v", all)
	}
	// Messages to read, of each host, decoded; not of the fleet.
	r = f.spoolsweep("suspects", "--sample", "4", "-o", "json")
	r.want(t, 0)
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	for _, h := range doc.Hosts {
		var s stage.Suspects
		if err := json.Unmarshal(h.Result, &s); err != nil || s.Sample == nil || len(s.Sample.Samples) != 4 || s.Sample.Messages != 300 || s.Read != 300 {
			t.Errorf("%s: %v, %+v", h.Host, err, s.Sample)
		}
	}
	if doc.Summary.Suspects.Sample != nil {
		t.Error("the fleet has a sample")
	}
	r = f.spoolsweep("suspects", "--sample", "2", "-l", "chavez")
	r.want(t, 0, "300 messages  2 of them shown", "1 of ")
	if n := strings.Count(r.out, ", arrived "); n != 2 { // a bounce has two subjects
		t.Errorf("%d messages are shown, want 2:\n%s", n, r.out)
	}
	f.spoolsweep("suspects", "--sample", "21").want(t, statusUsage, "--sample: ", "from 1 to 20")

	f.spoolsweep("suspects", "--queue", "hold").want(t, 0, "the live queues hold:", "0 messages  read")

	run := runID.FindString(f.spoolsweep("run", "backscatter", "-y").err)
	f.spoolsweep("suspects").want(t, 0, "what run "+run+" has set aside", "login, in the queues: spam-account")
	f.spoolsweep("suspects", "--aside", run).want(t, 0, "login, in the queues: spam-account")
	// One host cannot be read, the other is.
	if err := os.Remove(f.hosts[0].Log()); err != nil {
		t.Fatal(err)
	}
	r = f.run("suspects", "-i", f.write("log.yaml", "all: {vars: {mail_log: /no/such/log}, hosts: {peltier: {}}}\n"), "--ssh-config", f.file(fleetConfig))
	r.want(t, 0, "warning: mail log /no/such/log", "not all: the counts are of a part of it")
}

// A run that restores says whether its source still sends, and waits for it no
// longer than it was told.
func TestWatchInRun(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(300)
	waitQuiet(t, f)
	r := f.spoolsweep("run", "backscatter", "-y")
	run := runID.FindString(r.err)
	rules := "@" + f.write("rules.yaml", demoRules)
	began := time.Now()
	f.spoolsweep("resume", run, "-y", "-e", rules, "-e", "watch=1s", "-e", "rate=0").want(t, 0, "watch     the source is quiet")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	// The account goes on, and so does mail.
	if _, err := f.hosts[0].Send(practice.Message{Sender: "x@far.test", Recipients: []string{"y@far.test"}, Login: demoAccount, ClientAddress: "203.0.113.9", Text: "Subject: x\n\nx\n"}); err != nil {
		t.Fatal(err)
	}
	f.spoolsweep("resume", run, "-y", "-e", rules, "-e", "watch=2s", "-e", "rate=0").want(t, 0,
		"warning: the source still sends: login spam-account", "1 message  the source still sends", "1 message  new: login spam-account")
}

// Names that others chose, in log and mail, change nothing on the terminal.
func TestSuspectsTerminalSafe(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	const evil = "ev\x1b]0;il\x07\u202e\u009b2J\r\u2066\xffx"
	var mail []practice.Message
	for i := range 20 {
		mail = append(mail, practice.Message{
			ID: fmt.Sprintf("evil-%03d", i), Sender: evil + "@far.test", Recipients: []string{evil + "@chavez.practice.test"},
			Login: evil, ClientName: "x", ClientAddress: "203.0.113.1", Text: "Subject: " + evil + "\nX-PHP-Originating-Script: " + evil + "\n\nx\n",
		}, practice.Message{Recipients: []string{evil + "@chavez.practice.test"}, Text: "Subject: =?utf-8?b?G1swbQ==?=\n\nx\n"})
	}
	if _, err := f.hosts[0].SubmitAll(mail); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(f.hosts[0].Log(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for range 3 {
		fmt.Fprintf(log, "%s chavez postfix/smtpd[1]: warning: x[192.0.2.1]: SASL LOGIN authentication failed: x, sasl_username=%s\n", time.Now().Format(time.Stamp), "bad"+strings.ReplaceAll(evil, "\r", "?"))
	}
	for _, args := range [][]string{{"suspects"}, {"suspects", "-o", "json"}} {
		r := f.spoolsweep(args...)
		r.want(t, 0, `ev`, `\u202e`)
		for _, c := range r.out + r.err {
			if c != '\n' && !unicode.IsPrint(c) {
				t.Errorf("%q: %U reaches the terminal:\n%q", args, c, r.out+r.err)
				break
			}
		}
	}
	f.spoolsweep("suspects").want(t, 0, `failed 3 times`, `bounces to: ev\x1b]0;il`)
}
