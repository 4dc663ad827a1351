package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// actedOn is what a command did with mail of live queues, over all hosts.
func actedOn(t *testing.T, doc *show.Document) (sum stage.Acted) {
	t.Helper()
	for _, h := range doc.Hosts {
		var a stage.Acted
		if err := json.Unmarshal(h.Result, &a); err != nil {
			t.Fatalf("%s: %v in %s", h.Host, err, h.Result)
		}
		sum.Matched += a.Matched
		sum.Done.Done += a.Done.Done
		sum.Gone += a.Gone
		sum.Failed += a.Failed
	}
	return sum
}

// What a hold takes is released by its run, which has a ledger of it; a flood is not
// released by accident, and nothing is lost.
func TestHoldAndReleaseCommands(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(1200)
	onHold := func(p practice.Place) bool { return p.Directory == "hold" }
	rules := f.write("rules.yaml", demoRules)
	spam := f.counted(t, func(p practice.Place) bool { return p.Directory == "deferred" })
	before := f.counted(t, onHold)
	f.spoolsweep("hold", "-e", "@"+rules, "--check").want(t, 0, "would be put on hold: ", "such as ")
	f.spoolsweep("hold", "-e", "@"+rules, "-y", "--expect", "1").want(t, statusUsage, " messages would be put on hold: nothing was done")
	f.spoolsweep("requeue", "--all", "--include-spam", "-y", "--expect", "1").want(t, statusUsage, " messages would be requeued, and sent: nothing was done")
	f.spoolsweep("hold", "-e", "@"+rules).want(t, statusUsage, "no terminal")
	f.spoolsweep("hold", "-y").want(t, statusUsage, "say what is to be held")
	f.spoolsweep("hold", "-m", "sender:x", "--queue", "active", "-y").want(t, statusUsage, "nothing is put on hold")
	if n := f.counted(t, onHold); n != before {
		t.Fatalf("%d on hold, and nothing was agreed to", n)
	}
	doc := f.spoolsweep("hold", "-e", "@"+rules, "--queue", "deferred", "-y", "-o", "json").document(t)
	if a := actedOn(t, doc); int(a.Done.Done+a.Gone) != spam || a.Failed != 0 || a.Matched != int64(spam) {
		t.Errorf("held %+v of %d", a, spam)
	}
	held := int(actedOn(t, doc).Done.Done)
	if n := f.counted(t, onHold); n != before+held {
		t.Errorf("%d on hold, want %d more than %d", n, held, before)
	}
	f.spoolsweep("report", doc.Run).want(t, 0, fmt.Sprint(held)+" messages  put on hold")

	// The same rules leave it where it is; and without them it looks like a flood.
	f.spoolsweep("release", doc.Run, "-e", "@"+rules, "-y", "--expect", "0").want(t, 0)
	f.spoolsweep("release", doc.Run, "-y", "--expect", fmt.Sprint(held)).want(t, statusUsage, "look again", "looks like a flood", "nothing was done")
	f.spoolsweep("release", doc.Run, "-y").want(t, statusUsage, "wants --expect")
	f.spoolsweep("release", doc.Run, "--include-spam", "-y", "--expect", "0").want(t, statusUsage, " messages would be released, and sent: nothing was done")
	f.spoolsweep("release", "-y", "--expect", "1").want(t, statusUsage, "say what goes")
	if n := f.counted(t, onHold); n != before+held {
		t.Fatalf("%d on hold, and nothing was agreed to", n)
	}
	back := f.spoolsweep("release", doc.Run, "--include-spam", "-y", "--expect", fmt.Sprint(held), "--rate", "0", "--live-max", "0", "-o", "json").document(t)
	if a := actedOn(t, back); int(a.Done.Done) != held || a.Failed+a.Gone != 0 {
		t.Errorf("released %+v of %d", a, held)
	}
	if n := f.counted(t, onHold); n != before {
		t.Errorf("%d on hold, want %d", n, before)
	}
	f.spoolsweep("requeue", "--queue", "active", "--all", "-y", "--expect", "1").want(t, statusUsage, "nothing is requeued")
	if n := f.gone(t); len(n) > 0 {
		t.Errorf("gone %v", n)
	}
}

// Cancel is how a hold that goes on is ended; what is said then takes it back, on the
// hosts that it was for.
func TestHoldCancelled(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(100)
	s := f.begin(t, true, 0, "hold", "-m", "sasl_user:"+demoAccount, "--for", "1h", "-y", "-v", "-l", "peltier")
	run := s.waitFor(`run (\d{8}T\S+)$`)[1]
	s.waitFor(`hold begins`)
	s.interrupt()
	s.waitFor(`or \[g\]o on\?`)
	s.types("c")
	r := s.end()
	where := f.where()
	release := "spoolsweep release " + run + " --inventory " + where[1] + " --ssh-config " + where[3] + " --limit peltier\n"
	r.want(t, statusInterrupted, "cancelled by "+me(), "remedy: "+release, "to take it back: "+release)
	again := f.spoolsweep("attach", run, "-l", "peltier")
	again.want(t, 2, "cancelled by "+me(), "remedy: "+release)
	for _, said := range []string{r.err, again.out + again.err, f.spoolsweep("report", run).out} {
		if strings.Contains(said, "putback") {
			t.Errorf("a putback does nothing for a hold:\n%s", said)
		}
	}
}

// A release whose first messages are refused waits, and it is told what to type for
// it: no rules, and of nothing that it stays aside.
func TestReleaseWaits(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	h := f.hosts[0]
	const n = 80
	var mail []practice.Message
	for i := range n {
		mail = append(mail, practice.Message{
			Queue: "hold", Label: practice.Ham, Sender: fmt.Sprintf("user%d@%s", i, h.Hostname()), Recipients: []string{fmt.Sprintf("friend%d@d%d.refused.test", i, i%7)},
			Text: "Subject: hello\n\nHow are you?\n",
		})
	}
	if _, err := h.SubmitAll(mail); err != nil {
		t.Fatal(err)
	}
	if err := h.Configure(practice.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := f.spoolsweep("release", "-m", "recipient:@.refused.test", "-y", "--expect", fmt.Sprint(n), "--rate", "0", "--live-max", "0")
	r.want(t, 3, "waits to be confirmed: mail flows, 30 messages would be sent\n", "next: all the same     spoolsweep resume ")
	r = f.spoolsweep("attach")
	r.want(t, 3, "waits to be confirmed: mail flows, 30 messages would be sent\n", "next: all the same     spoolsweep resume ")
	for _, wrong := range []string{"better rules", "aside"} {
		if strings.Contains(r.out+r.err, wrong) {
			t.Errorf("it says %q:\n%s%s", wrong, r.out, r.err)
		}
	}
	f.spoolsweep("report").want(t, 0, "waits for a confirmation")
	f.spoolsweep("resume", "-y", "--expect", "30").want(t, 0)
}

// The result of a command has its own words also where there was nothing to do, or
// where nothing was to be done.
func TestResultsOfNothing(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(50)
	for line, word := range map[string]string{
		"hold": "done", "hold -y": "done", "release": "done", "release -y --expect 0": "done", "requeue": "done", "export --remove --to x": "done", "delete": "deleted", "delete -y --expect 0": "deleted",
	} {
		args := append(strings.Fields(line), "-m", "sender:nobody@nowhere.test", "-o", "json")
		if !strings.Contains(line, "-y") {
			args = append(args, "--check")
		}
		var words map[string]json.RawMessage
		if h := f.spoolsweep(args...).document(t).Hosts[0]; json.Unmarshal(h.Result, &words) != nil || string(words["matched"]) != "0" || string(words[word]) != "0" {
			t.Errorf("%v: %s", args, h.Result)
		}
		for _, other := range []string{"done", "deleted"} {
			if _, there := words[other]; there && other != word {
				t.Errorf("%v: %s", args, other)
			}
		}
	}
}
