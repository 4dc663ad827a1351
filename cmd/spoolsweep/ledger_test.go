package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// ledgerDocument is what report --ledger -o json prints.
type ledgerDocument struct {
	show.Document
	Hosts []struct {
		show.Host
		Ledger []stage.Entry `json:"ledger"`
		Result run.Account   `json:"result"`
	} `json:"hosts"`
}

func (f *fleet) ledger(t *testing.T, status int, args ...string) *ledgerDocument {
	t.Helper()
	r := f.spoolsweep(append([]string{"report", "--ledger", "-o", "json"}, args...)...)
	r.want(t, status)
	d := json.NewDecoder(strings.NewReader(r.out))
	doc := new(ledgerDocument)
	if err := d.Decode(doc); err != nil {
		t.Fatalf("%v\n%s", err, r.out)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Fatalf("more than one document: %v", err)
	}
	return doc
}

// The ledger of a run over two hosts, while it waits, when it has ended and after
// a purge: as text, as one document and as a stream the same entries.
func TestLedgerCommand(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(200)
	f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0").want(t, 3)
	doc := f.ledger(t, 0)
	if len(doc.Hosts) != 2 || doc.Command != "report" || doc.Summary.OK != 2 {
		t.Errorf("document %+v", doc.Document)
	}
	before := map[string]int64{}
	for _, h := range doc.Hosts {
		before[h.Host.Host] = h.Result.SetAside
		if h.Result.Left != h.Result.SetAside || h.Result.Missing != 0 || int(h.Result.SetAside) != len(h.Ledger) || len(h.Ledger) == 0 {
			t.Errorf("%s waits: %+v, %d entries", h.Host.Host, h.Result, len(h.Ledger))
		}
	}
	id := doc.Run
	f.spoolsweep("resume", id, "-y", "-e", "@"+f.write("rules.yaml", demoRules)).want(t, 0)
	spam := f.counted(t, practice.Place.Aside)
	f.spoolsweep("purge", id, "-y", "--expect", fmt.Sprint(spam)).want(t, 0)
	doc = f.ledger(t, 0, id)
	var purged int64
	fates := map[string]int{}
	for _, h := range doc.Hosts {
		s := h.Result
		purged += s.Purged
		if s.SetAside != before[h.Host.Host] || s.SetAside != s.Restored+s.Purged || int(s.SetAside) != len(h.Ledger) {
			t.Errorf("%s: %+v, %d entries", h.Host.Host, s, len(h.Ledger))
		}
		for _, e := range h.Ledger {
			fates[h.Host.Host+" "+e.ID+" "+e.Fate]++
			if e.By != me() || e.Fate == stage.FatePurged && (len(e.SHA256) != 64 || e.Verdict != "spam") {
				t.Errorf("%+v", e)
			}
		}
	}
	if int(purged) != spam {
		t.Errorf("%d purged, want %d", purged, spam)
	}
	// Text: the same, a line each, and the balance.
	r := f.spoolsweep("report", id, "--ledger")
	r.want(t, 0, "set aside: restored ", " + collisions 0 + left 0 + purged ", " + missing 0", "purged     ", "sha256 ", "spam (sasl_user:", " by "+me())
	if n := strings.Count(r.out, ".spamfull/"); n != len(fates) {
		t.Errorf("%d lines, want %d", n, len(fates))
	}
	// A stream: an event each.
	r = f.spoolsweep("report", id, "--ledger", "-o", "jsonl")
	r.want(t, 0)
	var sums int
	for lines := bufio.NewScanner(bytes.NewReader([]byte(r.out))); lines.Scan(); {
		var e struct {
			Host, Event string
			Data        json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		var entry stage.Entry
		switch e.Event {
		case "account":
			if err := json.Unmarshal(e.Data, &entry); err != nil {
				t.Fatal(err)
			}
			if key := e.Host + " " + entry.ID + " " + entry.Fate; fates[key] != 1 {
				t.Errorf("%s: not among the others, or twice", key)
			} else {
				fates[key] = 0
			}
		case "result":
			sums++
		}
	}
	for key, n := range fates {
		if n != 0 {
			t.Errorf("%s is not in the stream", key)
		}
	}
	if sums != 2 {
		t.Errorf("%d sums", sums)
	}
	// Where is my mail?
	f.spoolsweep("find", demoAccount, "-l", "chavez").want(t, 0, "in the ledgers, and in no queue any more", ", run "+id+" judged it spam, purged ", " by "+me())

	// A delete has one, too.
	spamArgs := []string{"delete", "-l", "chavez", "-m", "sender:*@*", "--queue", "deferred", "-y", "--expect"}
	m := regexp.MustCompile(`would be deleted: (\d+) messages`).FindStringSubmatch(f.spoolsweep(append(spamArgs, "0")...).err)
	if m == nil {
		t.Fatal("nothing to delete")
	}
	f.spoolsweep(append(spamArgs, m[1])...).want(t, 0)
	doc = f.ledger(t, 0, "-l", "chavez")
	if h := doc.Hosts[0]; fmt.Sprint(h.Result.Deleted) != m[1] || h.Result.SetAside != 0 || h.Result.Stayed != 0 || len(h.Ledger) != int(h.Result.Deleted) ||
		h.Ledger[0].Fate != stage.FateDeleted || len(h.Ledger[0].SHA256) != 64 || len(h.Ledger[0].Rules) != 1 || h.Ledger[0].Sender == nil {
		t.Errorf("delete: %+v, want %s deleted", h, m[1])
	}
	f.spoolsweep("report", "--ledger", "-l", "chavez").want(t, 0, "messages  were to be deleted: deleted "+m[1]+" + stayed 0", "deleted    deferred/")

	// One that somebody took away by hand is missing, and is named.
	f.spoolsweep("run", "backscatter", "-y", "-l", "chavez", "-e", "{queues: [active]}").want(t, 3)
	names, err := filepath.Glob(f.hosts[0].Spool("active.spamfull*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		st, err := os.Stat(name)
		return err != nil || st.IsDir()
	})
	if len(names) == 0 {
		t.Fatal("nothing was set aside")
	}
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	doc = f.ledger(t, 2)
	if h := doc.Hosts[0]; h.Result.Missing != 1 || h.Host.Error == nil || !strings.Contains(h.Host.Error.Message, "1 message of run "+doc.Run) {
		t.Errorf("%+v, %+v", h.Result, h.Host.Error)
	}
	f.spoolsweep("report", "--ledger", "-l", "chavez").want(t, 2, "missing    "+strings.TrimPrefix(names[0], f.hosts[0].Spool()+"/"))
}

// What is told of one domain is what the ledger has of it, and when it was aside.
func TestDomainExtract(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(150)
	f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0", "-e", "@"+f.write("rules.yaml", demoRules)).want(t, 0)
	whole := f.ledger(t, 0)
	domain := f.hosts[0].Hostname()
	want := map[string]bool{}
	for _, h := range whole.Hosts {
		for _, e := range h.Ledger {
			mine := e.Sender != nil && strings.HasSuffix(*e.Sender, "@"+domain)
			for _, r := range e.Recipients {
				mine = mine || strings.HasSuffix(r, "@"+domain)
			}
			if mine {
				want[h.Host.Host+" "+e.ID+" "+e.Fate] = true
			}
		}
	}
	r := f.spoolsweep("report", whole.Run, "--domain", "@"+strings.ToUpper(domain), "-o", "json")
	r.want(t, 0)
	var doc struct {
		Hosts []struct {
			Host   string
			Ledger []show.Held
			Result show.Extract
		}
	}
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, h := range doc.Hosts {
		sums := h.Result
		if int(sums.SetAside) != len(h.Ledger) || sums.SetAside != sums.Restored+sums.Left || sums.Domain != domain {
			t.Errorf("%s: %d entries, %+v", h.Host, len(h.Ledger), sums)
		}
		for _, e := range h.Ledger {
			got++
			if !want[h.Host+" "+e.ID+" "+e.Fate] || e.Since.IsZero() || e.Still != (e.Fate == stage.FateLeft) || e.Seconds < 0 || e.Seconds > sums.Longest {
				t.Errorf("%s: %+v", h.Host, e)
			}
		}
	}
	if got != len(want) || got == 0 {
		t.Errorf("%d messages, want %d", got, len(want))
	}
	r = f.spoolsweep("report", "--domain", domain)
	r.want(t, 0, fmt.Sprintf("%9d messages  of %s", got, domain), "held the longest ", "restored ", "<"+demoAccount+"@"+domain+">", "for still, ")
	if n := strings.Count(r.out, "held since "); n != got {
		t.Errorf("%d lines, want %d", n, got)
	}
	f.spoolsweep("report", "--domain", "nowhere.test").want(t, 0, "0 messages  of nowhere.test")
}
