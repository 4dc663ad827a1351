package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/run"
)

// What only reads changes nothing on a host, and leaves no file there but the
// agent.
func TestReadingChangesNothing(t *testing.T) {
	t.Parallel()
	f, run := swept(t)
	before := f.everything(t)
	for _, args := range [][]string{
		{"ping"}, {"health"}, {"health", "--exact"}, {"find", demoAccount + "@*"}, {"sample"}, {"sample", "--raw", "--queue", "deferred"}, {"runs"}, {"report"}, {"report", run, "-o", "json"}, {"report", "--ledger"}, {"report", run, "--ledger", "-o", "json"}, {"report", "-o", "html"}, {"report", "--domain", "x.test"},
		{"classify", "-m", "raw:x"}, {"classify", "--aside", run}, {"attach", run}, {"run", "backscatter", "--check"},
		{"inventory", "--list"},
	} {
		if args[0] == "inventory" {
			f.run(append(args, "-i", f.file(fleetInventory))...).want(t, 0)
		} else if r := f.spoolsweep(args...); r.status != 0 && r.status != 3 && args[0] != "classify" && args[0] != "run" {
			t.Errorf("%s: status %d\n%s", r.line, r.status, r.err)
		}
		f.unchanged(t, before)
	}
}

// Of two runs that begin in one second the later is the newest.
func TestRunIDsSortByTime(t *testing.T) {
	begin := time.Date(2026, 11, 28, 18, 58, 28, 0, time.UTC)
	var before string
	for ms := range 2000 {
		id := run.NewID(begin.Add(time.Duration(ms) * time.Millisecond))
		if !runID.MatchString(id) || id <= before {
			t.Fatalf("after %d ms: %s follows %s", ms, id, before)
		}
		before = id
	}
	if id, want := run.NewID(begin.Add(time.Second-1)), "20261128T185828Z-zz"; !strings.HasPrefix(id, want) {
		t.Errorf("at the end of a second: %s, want %s and two more", id, want)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(300)
	h := f.hosts[0]
	ids, err := h.SubmitAll([]practice.Message{
		{Queue: "hold", Sender: "ann@x.test", Recipients: []string{"joann@x.test", "bob@y.test"}, Text: "Subject: 1\n\n1\n"},
		{Queue: "deferred", Sender: "joann@x.test", Recipients: []string{"bob@stuck.test"}, Text: "Subject: 2\n\n2\n"},
		{Queue: "hold", Recipients: []string{"a1@x.test", "a2@x.test", "a3@x.test", "a4@x.test", "a5@x.test", "a6@x.test", "ann@x.test"}, Text: "Subject: 3\n\n3\n"},
	})
	if err != nil {
		t.Fatal(err)
	}
	waitQuiet(t, f)
	for _, row := range []struct {
		address string
		want    []int // of ids
	}{
		{"ann@x.test", []int{0, 2}},
		{"ANN@X.test", []int{0, 2}},
		{"joann@x.test", []int{0, 1}},
		{"@y.test", []int{0}},
		{"bob@", []int{0, 1}},
		{"nn@x.test", nil},
	} {
		r := f.spoolsweep("find", row.address)
		r.want(t, 0, fmt.Sprintf("%9d message", len(row.want)))
		for i, id := range ids {
			listed := strings.Contains(r.out, "/"+id+":") || strings.Contains(r.out, "/"+id+" ")
			wanted := false
			for _, w := range row.want {
				wanted = wanted || w == i
			}
			if listed != wanted {
				t.Errorf("%s: message %d listed: %t, want %t\n%s", row.address, i, listed, wanted, r.out)
			}
		}
	}
	f.spoolsweep("find", "<>", "-o", "json").want(t, 0, `"hold/`+ids[2]+`"`, `"more_recipients": 2`)
	f.spoolsweep("find", "").want(t, statusUsage, "one address")
	f.spoolsweep("find", "/(/").want(t, statusUsage, "/(/")

	// Of what a run has judged it says so, wherever it is now.
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "@"+f.write("rules.yaml", demoRules), "-e", "rate=0")
	r.want(t, 0)
	run := runID.FindString(r.err)
	r = f.spoolsweep("find", demoAccount)
	r.want(t, 0, "active.spamfull/", "run "+run+" judged it spam")
	var found struct {
		Hosts []struct {
			Result struct {
				Messages int
				Mail     []struct{ Where, Run, Verdict string }
			}
		}
	}
	r = f.spoolsweep("find", "@*", "-o", "json")
	if err := json.Unmarshal([]byte(r.out), &found); err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]int{}
	for _, m := range found.Hosts[0].Result.Mail {
		verdicts[m.Verdict]++
		dir, _, _ := strings.Cut(m.Where, "/")
		if aside := strings.HasSuffix(dir, ".spamfull"); aside != (m.Verdict == "spam") || m.Verdict != "" && m.Run != run {
			t.Errorf("%+v", m)
		}
	}
	if verdicts["spam"] == 0 || verdicts["ham"] == 0 || verdicts[""] == 0 || len(found.Hosts[0].Result.Mail) > 200 {
		t.Errorf("verdicts %v", verdicts)
	}
}

// counted are numbers of messages, which depend on what was delivered meanwhile.
var counted = regexp.MustCompile(` *[0-9]+ messages| \(alone [0-9]+\)`)

var passing = regexp.MustCompile(`(?m)^\S+ +\| (suspects|countN messages  (incoming|active|deferred):).*\n`)

func TestRunsAndReport(t *testing.T) {
	t.Parallel()
	f, run := swept(t)
	r := f.spoolsweep("runs")
	r.want(t, 0, run+"  backscatter, begun ", "waits for rules; ", " messages aside, the oldest ")
	checkGolden(t, "testdata/runs.txt", counted.ReplaceAllString(unaged(r.out), "N messages"))
	f.spoolsweep("runs", "-o", "json").want(t, 0, `"phase": "waiting"`, `"oldest_seconds": `)

	f.spoolsweep("resume", run, "-l", "chavez", "-y", "-e", "@"+f.write("rules.yaml", demoRules), "-e", "rate=0").want(t, 0)
	r = f.spoolsweep("report", "-l", "chavez")
	r.want(t, 0, "run "+run+": backscatter", "set aside as", "moved back")
	// What is most frequent, and what waits at a moment, depends on it too.
	checkGolden(t, "testdata/report.txt", passing.ReplaceAllString(counted.ReplaceAllString(unaged(r.out), "N messages"), ""))
	var doc struct {
		Run   string
		Hosts []struct {
			Host, Status string
			Stages       []struct{ Stage, Status string }
			Result       struct{ Who, Playbook, Phase string }
		}
	}
	if err := json.Unmarshal([]byte(f.spoolsweep("report", run, "-o", "json").out), &doc); err != nil {
		t.Fatal(err)
	}
	var stages []string
	for _, s := range doc.Hosts[0].Stages {
		stages = append(stages, s.Stage+" "+s.Status)
	}
	if got, want := strings.Join(stages, ", "), "count ok, command ok, restart ok, stop ok, set-aside ok, start ok, suspects ok, classify ok, watch ok, confirm ok, restore ok, count ok"; got != want {
		t.Errorf("stages %s, want %s", got, want)
	}
	if h := doc.Hosts[0]; doc.Run != run || h.Status != "ok" || h.Result.Who != me() || h.Result.Phase != "finished" || doc.Hosts[1].Status != "skipped" {
		t.Errorf("got %+v", doc)
	}
	// Streamed, the same events that the host has.
	r = f.spoolsweep("report", run, "-l", "chavez", "-o", "jsonl")
	r.want(t, 0, `"event":"begin"`, `"stage":"restore"`)
	f.spoolsweep("report", "20200101T000000Z-none").want(t, statusUsage, "no run 20200101T000000Z-none")
	f.spoolsweep("report", "-l", "peltier").want(t, 0, "no run")

	// A run that waits or has mail aside keeps its records; agents go.
	agents := func() int {
		names, err := filepath.Glob(filepath.Join(f.hosts[0].Home(), ".cache", "spoolsweep", agentName+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if agents() != 1 {
		t.Fatalf("%d agents", agents())
	}
	f.spoolsweep("uninstall", "--state", "-l", "chavez", "-y").want(t, 2, "run "+run+" is in the way", "spoolsweep putback "+run)
	if agents() != 1 {
		t.Errorf("%d agents after an uninstall that was refused", agents())
	}
	f.spoolsweep("uninstall", "-l", "chavez").want(t, 0, "1 agent removed")
	if agents() != 0 {
		t.Errorf("%d agents after uninstall", agents())
	}
	f.spoolsweep("uninstall", "-l", "chavez").want(t, 0, "no agent is there")
	if _, err := os.Stat(filepath.Join(f.hosts[0].State(), "runs", run, "run.json")); err != nil {
		t.Error(err)
	}
	a, err := f.hosts[0].Audit()
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for where, n := range a.Count(practice.Spam) {
		if strings.Contains(where, "spamfull") {
			left += n
		}
	}
	f.spoolsweep("putback", run, "-l", "chavez", "--include-spam", "--rate", "0", "--live-max", "0", "-y", "--expect", fmt.Sprint(left)).want(t, 0)
	// Records are removed when somebody has said so, and not before.
	f.spoolsweep("uninstall", "--state", "-l", "chavez").want(t, statusUsage, "there is no terminal to ask on: give -y")
	uninstall := func(answer string) result {
		s := f.begin(t, true, 0, "uninstall", "--state", "-l", "chavez")
		s.waitFor(`Remove the records and ledgers of 1 run on 1 host\? .*\[y/N\] `)
		s.types(answer)
		return s.end()
	}
	uninstall("n").want(t, statusUsage, "nothing was done")
	if _, err := os.Stat(filepath.Join(f.hosts[0].State(), "runs", run, "run.json")); err != nil || agents() != 1 {
		t.Errorf("records %v, %d agents, and nobody agreed", err, agents())
	}
	uninstall("y").want(t, 0, "1 agent removed, and the records of 1 runs")
	if _, err := os.Stat(filepath.Join(f.hosts[0].State(), "runs")); !os.IsNotExist(err) || agents() != 0 {
		t.Errorf("records %v, %d agents", err, agents())
	}
	f.spoolsweep("runs", "-l", "chavez").want(t, 0, "no runs")
	f.spoolsweep("uninstall", "--state", "-y").want(t, 0, "the records of 0 runs")
}

// Samples are written only where it was asked for, and what is forgotten is what
// was written, and nothing else.
func TestSampleSave(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier")
	for _, h := range f.hosts {
		if _, err := h.SubmitAll([]practice.Message{{Queue: "hold", Sender: "ana@here.test", Recipients: []string{"bob@there.test"}, Text: "Subject: x\x1b[2J\n\nhello\x1b[2J\n"}}); err != nil {
			t.Fatal(err)
		}
	}
	dir := f.file("samples")
	f.spoolsweep("sample", "--save", dir).want(t, 0, "from <ana@here.test> to bob@there.test", "hello")
	f.spoolsweep("sample", "--save", dir).want(t, 0) // the same once more
	files, err := filepath.Glob(dir + "/*.txt")
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range append(files, dir) {
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
		if info.IsDir() {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(text), "| hello") || strings.Contains(string(text), "\x1b") {
			t.Errorf("%s, %v: %q", file, err, text)
		}
	}
	other := filepath.Join(dir, "mine.txt")
	outside := f.write("outside.txt", "x")
	marker, err := os.OpenFile(filepath.Join(dir, sampleFolder.name), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(marker, "../outside.txt")
	marker.Close()
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.run("sample", "--forget", dir).want(t, 0, "2 files removed")
	for _, file := range []string{other, outside} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}
	f.run("sample", "--forget", dir).want(t, statusUsage, "is no folder that sample --save made")
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	empty := f.file("more")
	f.spoolsweep("sample", "--save", empty, "-l", "chavez").want(t, 0)
	f.run("sample", "--forget", empty).want(t, 0, "1 files removed")
	if _, err := os.Stat(empty); !os.IsNotExist(err) {
		t.Errorf("%s: %v", empty, err)
	}
}
