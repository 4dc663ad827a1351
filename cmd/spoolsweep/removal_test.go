package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// gone are the labels of all messages that stand nowhere any more.
func (f *fleet) gone(t *testing.T) map[practice.Label]int {
	t.Helper()
	n := map[practice.Label]int{}
	for _, h := range f.hosts {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.Messages {
			if len(m.Places) == 0 {
				n[m.Label]++
			}
		}
		if len(a.Twice())+len(a.Unknown)+len(a.Broken) > 0 {
			t.Errorf("%s: twice %v, unknown %v, broken %v", h.Name, a.Twice(), a.Unknown, a.Broken)
		}
	}
	return n
}

// counted is how many spam messages stand where.
func (f *fleet) counted(t *testing.T, is func(practice.Place) bool) int {
	t.Helper()
	n := 0
	for _, h := range f.hosts {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.Messages {
			if m.Label == practice.Spam && slices.ContainsFunc(m.Places, is) {
				n++
			}
		}
	}
	return n
}

func (r result) document(t *testing.T) *show.Document {
	t.Helper()
	d := new(show.Document)
	if err := json.Unmarshal([]byte(r.out), d); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", r.line, err, r.out, r.err)
	}
	return d
}

// removedOn is the result of a host in a document.
func removedOn(t *testing.T, h *show.Host) stage.Removed {
	t.Helper()
	var r stage.Removed
	if err := json.Unmarshal(h.Result, &r); err != nil {
		t.Fatalf("%s: %v in %s", h.Host, err, h.Result)
	}
	return r
}

// What a put back has left by rules that nobody confirmed goes in the ways that are
// told, and is not told of as aside afterwards. The run's -y confirms no new rules.
func TestPurgeOfWhatNobodyConfirmed(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(300)
	rules := f.write("rules.yaml", demoRules)
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0", "-e", "live_max=0")
	r.want(t, 3)
	id := runID.FindString(r.err)
	r = f.spoolsweep("resume", id, "-e", "@"+rules)
	r.want(t, 3, "waits to be confirmed: mail flows", "next: better rules")
	m := regexp.MustCompile(`([0-9]+) messages would be sent, ([0-9]+) stay where they are`).FindStringSubmatch(r.err)
	if m == nil {
		t.Fatal(r.err)
	}
	f.spoolsweep("putback", id, "-y", "--expect", m[1], "--rate", "0", "--live-max", "0").want(t, 0)
	f.spoolsweep("purge", id, "-y", "--expect", "0").want(t, 0, "stays aside: spam by rules that nobody confirmed: "+m[2],
		"spoolsweep resume "+id+" -e @rules.yaml --", "spoolsweep purge "+id+" --include-ham --")
	f.spoolsweep("purge", id, "--include-ham", "-y", "--expect", m[2]).want(t, 0)
	if r := f.spoolsweep("attach", id); r.status != 0 || strings.Contains(r.err, "stay aside; if ham") {
		t.Errorf("of a run with nothing aside: %d, %s", r.status, r.err)
	}
}

func TestPurgeCommand(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(300)
	rules := f.write("rules.yaml", demoRules)
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "rate=0", "-e", "live_max=0")
	r.want(t, 3)
	id := runID.FindString(r.err)
	// It waits for rules.
	f.spoolsweep("purge", id, "-y", "--expect", "0").want(t, statusUsage+1, "is not finished", "classify", "spoolsweep resume "+id)
	f.spoolsweep("resume", id, "-y", "-e", "@"+rules).want(t, 0)
	spam := f.counted(t, practice.Place.Aside)
	if spam < 100 {
		t.Fatalf("%d spam messages are aside", spam)
	}
	// One is another file than the one that was judged: it was never judged.
	changed := f.changeOne(t)

	r = f.spoolsweep("purge", id, "-y", "--expect", fmt.Sprint(spam))
	r.want(t, statusUsage, fmt.Sprintf("%d messages would go: nothing was done", spam-1), "  spam: ", "stays aside: never judged: 1", "such as ")
	if r.out != "" {
		t.Errorf("stdout %q", r.out)
	}
	f.spoolsweep("purge", id, "-y", "--expect", "0").want(t, statusUsage, "nothing was done")
	f.spoolsweep("purge", "20261123T231500Z-ab12", "-y", "--expect", "1").want(t, statusUsage, "no run 20261123T231500Z-ab12")
	if n := f.gone(t); len(n) > 0 {
		t.Errorf("gone %v, and nothing was agreed to", n)
	}
	r = f.spoolsweep("purge", id, "--older-than", "52w", "-y", "--expect", "0")
	r.want(t, 0, "stays aside: spam: ")

	doc := f.spoolsweep("purge", id, "-y", "--expect", fmt.Sprint(spam-1), "-o", "json").document(t)
	var sum int64
	for _, h := range doc.Hosts {
		p := removedOn(t, h)
		if p.Matched != p.Deleted || p.Failed != 0 || h.Status != show.OK || len(h.Stages) != 1 {
			t.Errorf("%s: %+v of %+v", h.Host, p, h)
		}
		sum += p.Deleted
	}
	if int(sum) != spam-1 || doc.Summary.Deleted != sum || doc.Summary.Left != 1 {
		t.Errorf("deleted %d of %d, summary %+v", sum, spam-1, doc.Summary)
	}
	if n := f.gone(t); n[practice.Spam] != spam-1 || n[practice.Ham] != 0 {
		t.Errorf("gone %v, want %d spam", n, spam-1)
	}
	if f.counted(t, practice.Place.Aside) != 1 {
		t.Errorf("%s is not aside", changed)
	}
	for _, h := range f.hosts {
		if names, err := filepath.Glob(h.Spool("*.spamfull*")); err != nil || len(names) > 1 {
			t.Errorf("%s: left %v, %v", h.Name, names, err)
		}
		if _, running := h.Running(); !running {
			t.Errorf("%s: Postfix does not run", h.Name)
		}
	}
	// Done; the rest goes only by name.
	f.spoolsweep("purge", id, "-y", "--expect", "0").want(t, 0)
	f.spoolsweep("purge", id, "--include-ham", "-y", "--expect", "1").want(t, 0, "deleted")
	if n := f.gone(t); n[practice.Spam] != spam || n[practice.Ham] != 0 {
		t.Errorf("gone %v, want %d spam", n, spam)
	}
	for _, h := range f.hosts {
		if names, err := filepath.Glob(h.Spool("*.spamfull*")); err != nil || len(names) > 0 {
			t.Errorf("%s: left %v, %v", h.Name, names, err)
		}
	}
	// The run is finished, and there is nothing to put back.
	f.spoolsweep("putback", id, "-y", "--expect", "0").want(t, 0)
	f.spoolsweep("resume").want(t, 0, "nothing to resume")
}

// changeOne gives one spam message that is aside another time.
func (f *fleet) changeOne(t *testing.T) string {
	t.Helper()
	a, err := f.hosts[0].Audit()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range a.Messages {
		if m.Label == practice.Spam && m.Places[0].Aside() {
			path := f.hosts[0].Spool(m.Places[0].Path)
			s, err := os.Stat(path)
			if err == nil {
				err = os.Chtimes(path, s.ModTime(), s.ModTime().Add(-1))
			}
			if err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Fatal("no spam is aside")
	return ""
}

func TestDeleteCommand(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "relay01").withFlood(300)
	if err := f.hosts[2].Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	rules := f.write("rules.yaml", demoRules)
	del := func(args ...string) result {
		return f.spoolsweep(append([]string{"delete", "-e", "@" + rules, "-y"}, args...)...)
	}
	r := del("--expect", "0", "-l", "chavez,peltier")
	r.want(t, statusUsage, "nothing was done", "  deferred: ", "such as deferred/")
	if r.out != "" {
		t.Errorf("stdout %q", r.out)
	}
	inDeferred := func(p practice.Place) bool { return p.Live() && p.Directory == string(spool.Deferred) }
	want := 0
	for _, h := range f.hosts[:2] {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range a.Messages {
			if m.Label == practice.Spam && slices.ContainsFunc(m.Places, inDeferred) {
				want++
			}
		}
	}
	others := f.counted(t, practice.Place.Live) - want
	if want == 0 || others == 0 {
		t.Fatalf("%d spam messages in deferred of those that run, %d elsewhere", want, others)
	}
	del("--expect", fmt.Sprint(want+1), "-l", "chavez,peltier").want(t, statusUsage, fmt.Sprintf("%d messages would go: nothing was done", want))
	if n := f.gone(t); len(n) > 0 {
		t.Errorf("gone %v, and nothing was agreed to", n)
	}
	del("--expect", fmt.Sprint(want+1)).want(t, statusUsage, "Postfix does not run", "nothing was done")
	del("--expect", "0", "-l", "relay01").want(t, 2, "Postfix does not run", "postfix start")
	// The one that is stopped is refused with a remedy, and the others go on.
	r = del("--expect", fmt.Sprint(want), "-o", "json")
	r.want(t, 2, "Postfix does not run", "postfix start")
	doc := r.document(t)
	if int(doc.Summary.Deleted) != want || doc.Summary.Failed != 1 || doc.Run == "" {
		t.Errorf("summary %+v, run %q, want %d deleted", doc.Summary, doc.Run, want)
	}
	for _, h := range doc.Hosts {
		if h.Host == "relay01" {
			continue
		}
		if r := removedOn(t, h); r.Matched != r.Deleted || r.Failed != 0 || !h.Changed {
			t.Errorf("%s: %+v", h.Host, r)
		}
	}
	if n := f.gone(t); n[practice.Spam] != want || n[practice.Ham] != 0 {
		t.Errorf("gone %v, want %d spam", n, want)
	}
	if n := f.counted(t, practice.Place.Live); n != others {
		t.Errorf("%d spam messages are left, want %d", n, others)
	}
	for _, h := range f.hosts[:2] {
		a, err := h.Audit()
		if err != nil {
			t.Fatal(err)
		}
		logs := map[string]bool{}
		for _, p := range a.Logs {
			logs[p.QueueID] = true
		}
		text, err := os.ReadFile(h.Log())
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), ": removed\n"); n == 0 {
			t.Errorf("%s: postsuper logged nothing", h.Name)
		}
		for _, m := range a.Messages {
			for _, p := range m.Places {
				if inDeferred(p) && !logs[p.QueueID] {
					t.Errorf("%s: the log of %s is gone", h.Name, p.Path)
				}
				delete(logs, p.QueueID)
			}
		}
		if len(logs) > 0 {
			t.Errorf("%s: logs without a message: %v", h.Name, logs)
		}
	}
	del("--expect", "0", "-l", "chavez,peltier").want(t, 0)
	f.spoolsweep("delete", "-m", "sender:nobody@nowhere.test", "-l", "chavez", "-y", "--expect", "0", "-o", "json").want(t, 0, `"matched": 0`, `"deleted": 0`)
	f.spoolsweep("attach", doc.Run, "-l", "chavez").want(t, 0, "deleted")
}

// In a playbook of one's own they ask, or wait under -y; with expect they do not.
func TestRemovalInPlaybook(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(300)
	book := f.write("mine.yaml", `name: mine
vars: {spam: {}, ham: {}, rate: 0}
stages:
  - stop:
  - set-aside: {queues: [incoming, active, deferred]}
  - start:
  - classify: {spam: "{{ .spam }}", ham: "{{ .ham }}"}
  - confirm:
  - restore: {rate: "{{ .rate }}", live_max: 0}
  - purge:
  - count:
`)
	rules := f.write("rules.yaml", demoRules)
	r := f.spoolsweep("run", book, "-y", "-e", "@"+rules)
	r.want(t, 3, "would be deleted", "next: delete them")
	id := runID.FindString(r.err)
	spam := f.counted(t, practice.Place.Aside)
	f.spoolsweep("resume", id, "-y").want(t, 3)
	f.spoolsweep("resume", id, "-y", "--expect", "7").want(t, statusUsage, "nothing was done")
	if n := f.gone(t); len(n) > 0 {
		t.Errorf("gone %v, and nobody has answered", n)
	}
	f.spoolsweep("resume", id, "-y", "--expect", fmt.Sprint(spam)).want(t, 0, "deleted")
	if n := f.gone(t); n[practice.Spam] != spam || n[practice.Ham] != 0 {
		t.Errorf("gone %v, want %d spam", n, spam)
	}
	wrong := f.write("wrong.yaml", "stages:\n  - delete: {spam: {sender: '*@*'}, queues: [deferred, active, incoming], expect: 3}\n")
	f.spoolsweep("run", wrong, "-y").want(t, 2, "not the 3 that were expected")
	bad := f.write("bad.yaml", "stages:\n  - delete: {spam: {sender: x}, queues: [auto]}\n")
	f.spoolsweep("run", bad, "-y").want(t, statusUsage, "bad.yaml:2")
	if n := f.gone(t); n[practice.Spam] != spam || n[practice.Ham] != 0 {
		t.Errorf("gone %v, want %d spam", n, spam)
	}
}

// Where there is nothing to take on, that is not what was expected.
func TestAdoptNothing(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(20)
	f.spoolsweep("putback", "--adopt", "incoming.spamfull", "-y", "--expect", "1").want(t, statusUsage, "has no incoming.spamfull", "--expect 1: 0 messages would go: nothing was done")
	f.spoolsweep("putback", "--adopt", "incoming.spamfull", "-y", "--expect", "0").want(t, 0, "nothing to adopt")
}

// On a terminal the number itself is typed; nothing else will do.
func TestTypedNumber(t *testing.T) {
	for typed, ok := range map[string]bool{"614\n": true, " 614 \n": true, "614": true, "613\n": false, "y\n": false, "yes\n": false, "\n": false, "": false, "614 x\n": false, "0614\n": false, "614.0\n": false} {
		var out strings.Builder
		s := &sweep{Printer: &show.Printer{Err: &out}, keys: newKeyboard(strings.NewReader(typed))}
		err := s.agree(t.Context(), cli.NewContext(cli.NewApp(), flag.NewFlagSet("delete", flag.ContinueOnError), nil), "delete", 614)
		if (err == nil) != ok {
			t.Errorf("%q: got %v", typed, err)
		}
		if !strings.Contains(out.String(), "messages to delete (614): ") {
			t.Errorf("asks %q", out.String())
		}
	}
}
