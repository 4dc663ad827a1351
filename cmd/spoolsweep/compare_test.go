package main

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
)

// Two runs side by side: the older one first, whichever is named first; a host that
// has one of them says so; the hosts that have both are summed up. And of the runs
// those that are over and have nothing aside are left out by their age.
func TestCompareRuns(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "relay01").withFlood(200)
	waitQuiet(t, f)
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "max_stopped=0", "-e", "watch=0")
	r.want(t, 3)
	first := begun(r.err)
	f.spoolsweep("resume", first, "-y", "-e", "@"+f.write("rules.yaml", demoRules), "-e", "rate=0").want(t, 0)
	for _, h := range f.hosts {
		if err := h.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r = f.withFlood(400).spoolsweep("run", "backscatter", "-y", "-l", "chavez,peltier", "-e", "max_stopped=0", "-e", "watch=0")
	r.want(t, 3)
	second := begun(r.err)

	r = f.spoolsweep("report", "--compare", first)
	r.want(t, 0, "chavez  | compare   stands finished, then waiting", ", then 0 (-", "compare   without Postfix ", "compare   at work ",
		"relay01 | compare   has a record of one of these runs alone", "compare   rule ")
	other := f.spoolsweep("report", first, "--compare", second)
	other.want(t, 0)
	if r.out != other.out {
		t.Errorf("named the other way round it differs:\n%s\n%s", r.out, other.out)
	}
	r = f.spoolsweep("report", "--compare", first, "-o", "json")
	r.want(t, 0)
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	var sum show.Compared
	var spam string
	for i, h := range doc.Hosts {
		var c show.Compared
		if err := json.Unmarshal(h.Result, &c); err != nil || c.Older == nil || c.Older.Run != first || (c.Newer == nil) != (i == 2) {
			t.Fatalf("%s: %v %s", h.Host, err, h.Result)
		}
		if i == 2 {
			spam = strconv.FormatInt(c.Older.Spam, 10)
			continue
		}
		if c.Older.SetAside != c.Older.Spam+c.Older.Ham || c.Older.Restored != c.Older.Ham || c.Older.Left != c.Older.Spam || len(c.Older.ByRule) == 0 || c.Newer.Run != second || c.Newer.SetAside <= c.Older.SetAside || c.Newer.Ham != 0 || c.Older.Downtime <= 0 {
			t.Errorf("%s: %s", h.Host, h.Result)
		}
		if i == 0 {
			sum = c
		} else {
			sum.Add(&c)
		}
	}
	if all := doc.Summary.Compared; all == nil || all.Older.SetAside != sum.Older.SetAside || all.Newer.SetAside != sum.Newer.SetAside || all.Newer.Phase != "" {
		t.Errorf("in all %+v, want %+v", all, sum)
	}
	f.spoolsweep("report", "--compare", first, "-o", "jsonl").want(t, 0, `"stage":"compare"`, `"host":"peltier"`)

	tomorrow := time.Now().AddDate(0, 0, 1).Format(time.DateOnly)
	f.spoolsweep("runs", "--since", tomorrow, "-l", "relay01").want(t, 0, first+"  backscatter") // it has spam aside
	f.spoolsweep("purge", first, "-l", "relay01", "-y", "--expect", spam).want(t, 0)
	f.spoolsweep("runs", "--since", tomorrow, "-l", "relay01").want(t, 0, "no runs")
	f.spoolsweep("runs", "--since", tomorrow, "-l", "relay01", "-o", "json").want(t, 0, `"result": []`)
	f.spoolsweep("runs", "--since", "1d", "-l", "relay01").want(t, 0, first+"  backscatter")
	f.spoolsweep("runs", "--since", tomorrow, "-l", "chavez").want(t, 0, second+"  backscatter")

	for args, says := range map[string]string{
		"report " + first + " --compare " + first:      "names the same run",
		"report --compare 20261123T231500Z-ab12":       "no run 20261123T231500Z-ab12",
		"report --compare " + first + " --ledger":      "neither with --ledger nor --domain",
		"report --compare " + first + " -o html":       "--compare goes with",
		"runs --since yesterday":                       "--since yesterday: it takes an age",
		"runs --since=":                                "it takes an age",
		"report " + second + " --compare nothing here": "",
	} {
		f.spoolsweep(strings.Fields(args)...).want(t, statusUsage, says)
	}

	// Where a host that may know it does not answer, that is said.
	f.servers[2].Refuse(true)
	f.spoolsweep("report", second, "--compare", "20200101T000000Z-aaaa").want(t, 4, "no run 20200101T000000Z-aaaa on the hosts that answered", "relay01 | UNREACHABLE")
}
