package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"spoolsweep/spool/practice"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

var runID = regexp.MustCompile(`\b[0-9]{8}T[0-9]{6}Z-[a-z0-9]{4}\b`)

// A whole session: rules are found on the way, made better, and in the end
// everything is sent back.
func TestSession(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(500)
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0")
	r.want(t, 3, "at most 1 of the hosts", "2 hosts: 2 waiting", "next: find rules       spoolsweep suggest --aside ", "or try your own", "-m sasl_user:"+demoAccount)
	run := runID.FindString(r.err)
	for _, h := range f.hosts {
		if err := h.Configure(practice.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	// A file that cannot be right reaches no run.
	f.spoolsweep("resume", run, "-y", "-e", "@"+f.write("bad.yaml", "spam:\n  any:\n    - sasl_usr: x\n")).want(t, statusUsage, "bad.yaml:3", `"sasl_user"`)
	// Nor does a variable that the playbook does not read, which would change nothing.
	before := f.aside(t)
	for _, row := range []struct {
		args []string
		says string
	}{
		{[]string{"-e", "@" + f.write("spm.yaml", strings.Replace(demoRules, "spam:", "spm:", 1))}, `-e spm: nothing in backscatter uses it, did you mean "spam"?: nothing was done`},
		{[]string{"-e", "rate=0", "-e", "acount=x", "-e", "@" + f.write("good.yaml", demoRules)}, `-e acount: nothing in backscatter uses it, did you mean "account"?`},
		{[]string{"-e", "queue_warn=5"}, "-e queue_warn: it is a variable of hosts"},
	} {
		f.spoolsweep(append([]string{"resume", run, "-y"}, row.args...)...).want(t, statusUsage, row.says)
	}
	if after := f.aside(t); after != before {
		t.Errorf("aside before %s, after %s", before, after)
	}

	// Rules that miss the bounces: under -y nothing moves.
	before = f.aside(t)
	bad := f.write("first.yaml", "spam:\n  any:\n    - sasl_user: "+demoAccount+"\n")
	f.spoolsweep("resume", run, "-y", "-e", "@"+bad).want(t, 3, "still looks like a flood", "bounces-to", "waits to be confirmed", "--expect ")
	if after := f.aside(t); after != before {
		t.Errorf("aside before %s, after %s", before, after)
	}
	f.spoolsweep("resume", run, "-y", "--expect", "1").want(t, statusUsage, "nothing was done")

	// What it says to try is what catches the flood.
	good := f.write("rules.yaml", demoRules)
	r = f.spoolsweep("resume", run, "-y", "-e", "@"+good)
	r.want(t, 0, "2 hosts: 2 ok", "stay aside; if ham is still among them: spoolsweep resume "+run)
	f.audit(t, practice.Place.Aside)
	f.spoolsweep("attach", run).want(t, 0, "moved back")
	f.spoolsweep("resume").want(t, 0, "nothing to resume")

	// Put back: without --include-spam no spam goes; then all of it, once.
	f.spoolsweep("putback", run, "-y", "--expect", "7").want(t, statusUsage, "nothing was done")
	f.spoolsweep("putback", run, "-y", "--expect", "0").want(t, 0)
	f.audit(t, practice.Place.Aside)
	left := 0
	for _, h := range f.hosts {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		for where, n := range a.Count(practice.Spam) {
			if strings.Contains(where, "spamfull") {
				left += n
			}
		}
	}
	f.spoolsweep("putback", run, "--include-spam", "--rate", "0", "--live-max", "0", "-y", "--expect", fmt.Sprint(left)).want(t, 0)
	f.audit(t, func(p practice.Place) bool { return p.Live() || p.Delivered() })
	f.spoolsweep("putback", run, "-y", "--expect", "0").want(t, 0)
}

// aside counts what stands in each directory of all hosts that was set aside.
func (f *fleet) aside(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, h := range f.hosts {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(&b, h.Name, a.Count(practice.Ham), a.Count(practice.Spam), "\n")
	}
	return b.String()
}

// audit looks for every message: spam where it should be, ham on its way.
func (f *fleet) audit(t *testing.T, spam func(practice.Place) bool) {
	t.Helper()
	for _, h := range f.hosts {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Lost())+len(a.Twice())+len(a.Unknown)+len(a.Broken) > 0 {
			t.Errorf("%s: lost %v, twice %v, unknown %v, broken %v", h.Name, a.Lost(), a.Twice(), a.Unknown, a.Broken)
		}
		if wrong := a.Elsewhere(practice.Spam, spam); len(wrong) > 0 {
			t.Errorf("%s: %d spam messages are not where they should be: %v", h.Name, len(wrong), a.Count(practice.Spam))
		}
		if wrong := a.Elsewhere(practice.Ham, func(p practice.Place) bool { return p.Live() || p.Delivered() }); len(wrong) > 0 {
			t.Errorf("%s: %d ham messages are not on their way: %v", h.Name, len(wrong), a.Count(practice.Ham))
		}
		if _, running := h.Running(); !running {
			t.Errorf("%s: Postfix does not run", h.Name)
		}
	}
}

// A host where no queue was full enough does not spoil what is asked of a fleet:
// by itself it says what to type, beside others it is passed over.
func TestResumePassesOver(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(300)
	f.write(fleetInventory, "all:\n  vars: {live_max: 0, auth_service: none}\n  hosts:\n    chavez: {queue_warn: 50}\n    peltier: {queue_warn: 1000000}\n")
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0", "-e", "watch=0")
	r.want(t, 3, "1 waiting")
	args := []string{"resume", runID.FindString(r.err), "-y", "-e", "@" + f.write("rules.yaml", demoRules)}
	f.spoolsweep(append(args, "-l", "peltier")...).want(t, 2, "has set nothing aside", "queue_warn")
	f.spoolsweep(args...).want(t, 0, "peltier | has nothing aside of this run", "2 hosts: 1 ok, 1 skipped")
	f.spoolsweep("report", runID.FindString(r.err), "--ledger").want(t, 0, "missing 0")
}

// The document of a run: its keys, and the numbers that do not depend on the
// moment.
func TestJSON(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(300)
	waitQuiet(t, &fleet{f.practiceFleet, t})
	rules := f.write("rules.yaml", demoRules)
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "@"+rules, "-e", "rate=0", "-o", "json")
	r.want(t, 0)
	checkGolden(t, "testdata/run.json", masked(t, r.out))
	if !strings.Contains(r.err, "plan: ") {
		t.Errorf("the plan is not shown on stderr:\n%s", r.err)
	}
	run := runID.FindString(r.out)
	for _, args := range [][]string{
		{"ping"}, {"classify", "--aside", run, "-e", "@" + rules}, {"attach", run}, {"resume"}, {"putback", "-y", "--expect", "0"}, {"run", "backscatter", "--check"},
	} {
		r := f.spoolsweep(append(args, "-o", "json")...)
		r.want(t, 0)
		doc := masked(t, r.out)
		for _, key := range []string{`"command": "` + args[0] + `"`, `"hosts"`, `"summary"`, `"started"`, `"finished"`} {
			if !strings.Contains(doc, key) {
				t.Errorf("%s: no %s in\n%s", r.line, key, doc)
			}
		}
	}
}

// volatile are the keys whose values depend on the moment or the machine.
var volatile = []string{"started", "finished", "run", "seconds", "list", "bytes", "pushed_bytes", "by_queue", "by", "queue_directory", "samples",
	"logins", "senders", "recipients", "backscatter", "sasl_users", "clients", "subjects", "sender_domains", "recipient_domains", "messages_read", "at", "master", "manager", "oldest_seconds", "ages", "downtime_seconds", "proved_seconds", "directories", "age_seconds", "why", "level", "may_double", "ended_pids", "began", "ended", "hostname", "root", "config_directory"}

// masked is the one document on stdout, in a fixed form, without what changes.
func masked(t *testing.T, out string) string {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(out))
	d.UseNumber()
	var doc any
	if err := d.Decode(&doc); err != nil {
		t.Fatalf("no document: %v\n%s", err, out)
	}
	if err := d.Decode(new(any)); err != io.EOF {
		t.Fatalf("more than one document: %v\n%s", err, out)
	}
	var mask func(v any)
	mask = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				mask(e)
			}
		case map[string]any:
			for _, k := range volatile {
				if _, ok := v[k]; ok {
					v[k] = "MASKED"
				}
			}
			// A message goes from incoming to active at any time.
			if queues, ok := v["queues"].(map[string]any); ok {
				if _, ok := v["postfix"]; ok {
					v["messages"] = "MASKED"
				}
				for _, q := range queues {
					q := q.(map[string]any)
					q["messages"] = "MASKED"
					delete(q, "ages") // they are left out where there is no message
					delete(q, "sizes")
				}
			}
			for _, e := range v {
				mask(e)
			}
		}
	}
	mask(doc)
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

func checkGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, []byte(got)) {
		t.Errorf("%s differs (rewrite with -update):\n%s", file, got)
	}
}

// What a mail or a host says is never obeyed by a terminal.
func TestTerminalSafe(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	const evil = "ev\x1b]0;il\x07\u202e\u009b2J\r\u2066x"
	var mail []practice.Message
	for i := range 150 {
		mail = append(mail, practice.Message{
			ID: fmt.Sprintf("evil-%03d", i), Sender: evil + "@far.test", Recipients: []string{"ana@" + f.hosts[0].Hostname()},
			Login: evil, ClientName: "x", ClientAddress: "203.0.113.1", Text: "Subject: " + evil + "\n\n" + evil + "\n",
		})
	}
	if _, err := f.hosts[0].SubmitAll(mail); err != nil {
		t.Fatal(err)
	}
	if err := f.hosts[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"run", "backscatter", "-y"}, {"attach"}, {"classify"}, {"classify", "-o", "json"}, {"attach", "-o", "json"},
		{"attach", evil}, {"resume", evil}, {evil}, {"ping", "-l", evil}, {"run", evil, "-y"},
		{"health"}, {"health", "--exit-status"}, {"health", "-o", "jsonl", "-v"}, {"find", "@*"}, {"find", "@*", "-o", "json"}, {"find", evil}, {"sample"}, {"sample", "--raw", "-o", "json"}, {"runs"}, {"report"},
		{"report", "-o", "jsonl"}, {"report", "--ledger"}, {"report", "--ledger", "-o", "json"}, {"report", "--ledger", "-o", "jsonl"}, {"report", evil}, {"stages", evil}, {"uninstall", evil}, {"health", "-l", evil}, {"health", "-l", evil, "--exit-status"},
		{"run", "backscatter", "-y", "-e", evil + "=1"},
		{"classify", "-m", "body:nothing", "--text"}, {"classify", "-m", "body:ev", "--list"}, {"classify", "-m", "subject:" + evil},
	} {
		if args[0] == "stages" { // reaches no host
			if r := f.run(args...); strings.ContainsRune(r.err, 0x1b) {
				t.Errorf("%q reaches the terminal: %q", args, r.err)
			}
			continue
		}
		r := f.spoolsweep(args...)
		for _, c := range r.out + r.err {
			if c != '\n' && !unicode.IsPrint(c) {
				t.Errorf("%q: %U reaches the terminal:\n%q", args, c, r.out+r.err)
				break
			}
		}
	}
	r := f.spoolsweep("classify")
	r.want(t, 0, `login ev\x1b]0;il\x07\u202e`)
}
