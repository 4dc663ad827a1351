package main

import (
	"fmt"
	"regexp"
	"testing"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// While a run waits (here more is held back than need be, so that some ham is
// left for later): what no flood touches goes back at once, before anybody has
// found a rule. Rules that come later judge only what is still aside, and what
// they call ham follows. Nothing is lost, and nothing goes twice.
func TestWhileARunWaits(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(400)
	f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0", "-e", "live_max=0").want(t, 3, "waits for rules")
	waiting := f.ledger(t, 0)
	id, all := waiting.Run, waiting.Hosts[0].Result.SetAside

	r := f.spoolsweep("resume", "-y", "-e", `{spam: {any: [{source_count: ">2"}]}}`)
	if r.status == 3 { // it hits more local senders than it does unasked
		a := f.ledger(t, 0)
		var ham int64
		for _, e := range a.Hosts[0].Ledger {
			if e.Verdict == "ham" {
				ham++
			}
		}
		r = f.spoolsweep("resume", id, "-y", "--expect", fmt.Sprint(ham))
	}
	r.want(t, 0, "stay aside; if ham is still among them: spoolsweep resume "+id)
	first := f.ledger(t, 0)
	s := first.Hosts[0].Result
	if s.Restored == 0 || s.Left == 0 || s.SetAside != all || s.Restored+s.Left != all {
		t.Errorf("after source_count: %+v of %d", s, all)
	}
	for _, e := range first.Hosts[0].Ledger {
		if (e.Fate == stage.FateRestored) != (e.Verdict == "ham") {
			t.Errorf("%+v", e)
		}
	}
	if n := f.counted(t, practice.Place.Aside); int64(n) > s.Left {
		t.Errorf("%d spam messages are aside, and %d messages in all", n, s.Left)
	}

	r = f.spoolsweep("resume", id, "-y", "-e", "@"+f.write("better.yaml", demoRules), "-o", "json")
	r.want(t, 0)
	doc := r.document(t)
	var judged stage.Classified
	var moved stage.Restored
	if h := doc.Hosts[0]; !h.Latest("classify", &judged) || !h.Latest("restore", &moved) || judged.Messages != s.Left {
		t.Errorf("judged %d messages again, want the %d that were aside", judged.Messages, s.Left)
	}
	f.audit(t, practice.Place.Aside)
	last := f.ledger(t, 0)
	s2 := last.Hosts[0].Result
	if s2.Restored != s.Restored+moved.Restored || s2.SetAside != all || s2.Left != judged.Spam || s2.Missing != 0 {
		t.Errorf("in the end %+v, of which %d now; before %+v", s2, moved.Restored, s)
	}
	before := map[string]stage.Entry{}
	for _, e := range first.Hosts[0].Ledger {
		before[e.ID] = e
	}
	for _, e := range last.Hosts[0].Ledger {
		was := before[e.ID]
		if was.Fate == stage.FateRestored && (e.Fate != was.Fate || !e.Time.Equal(was.Time)) {
			t.Errorf("moved again: %+v, before %+v", e, was)
		}
	}
}

// What --expect confirms is what the hosts waited to send when their numbers were
// compared with it: not what one asks later, which nobody has counted.
func TestExpectIsForWhatWasCounted(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(500)
	id := runID.FindString(f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0", "-e", "live_max=0").err)
	bad := f.write("bad.yaml", "spam:\n  any:\n    - sasl_user: "+demoAccount+"\n")
	worse := f.write("worse.yaml", "spam:\n  any:\n    - subject: of none\n")
	r := f.spoolsweep("resume", id, "-l", "chavez", "-y", "-e", "@"+bad)
	r.want(t, 3, "waits to be confirmed")
	n := regexp.MustCompile(`--expect (\d+)`).FindStringSubmatch(r.err)[1]
	before := f.aside(t)

	// Other rules, by which another list is made than the one that was counted.
	f.spoolsweep("resume", id, "-l", "chavez", "-y", "--expect", n, "-e", "@"+worse).want(t, 3, "waits to be confirmed")
	if after := f.aside(t); after != before {
		t.Errorf("aside before %s, after %s", before, after)
	}
	r = f.spoolsweep("resume", id, "-l", "chavez", "-y", "-e", "@"+bad)
	r.want(t, 3, "waits to be confirmed")

	// A host that waited for rules when it was counted.
	f.spoolsweep("resume", id, "-y", "--expect", n, "-e", "@"+bad).want(t, 3, "2 hosts: 1 ok, 1 waiting", "waits to be confirmed")
	for _, h := range f.hosts {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		if sent := len(a.Elsewhere(practice.Spam, practice.Place.Aside)); (sent > 0) != (h.Name == "chavez") {
			t.Errorf("%s: %d of the flood are not aside: %v", h.Name, sent, a.Count(practice.Spam))
		}
	}
}
