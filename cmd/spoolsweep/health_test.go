package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// aged is what depends on the moment in a text: sizes, ages, times and run ids.
var aged = regexp.MustCompile(`[0-9.]+ [kM]?B\b|[0-9]+ (d|h|min|s)\b( [0-9]+ (h|min|s)\b)?|[0-9]{4}-[0-9-]+ [0-9:]+|[0-9.]+ s\b|[0-9]{8}T[0-9]{6}Z-[a-z0-9]{4}|[^ ]+@[^ ]+[:,]`)

// ages are a line of that table, or its head, as wide as its numbers.
var ages = regexp.MustCompile(`(?m)\| count     (?:AGE .*|([a-z.]+)(?: +[0-9]+){5})$`)

func unaged(text string) string {
	return aged.ReplaceAllString(ages.ReplaceAllString(text, "| count     AGE of $1"), "*")
}

// swept is a fleet of one host whose flood a waiting run has aside, and one that
// is stopped, with something that somebody set aside by hand a month ago.
func swept(t *testing.T) (f *fleet, run string) {
	t.Helper()
	f = fleetOf(t, flooded, "chavez", "peltier").withFlood(300)
	waitQuiet(t, f)
	r := f.spoolsweep("run", "backscatter", "-y", "-l", "chavez")
	r.want(t, 3, "waits for rules")
	peltier := f.hosts[1]
	if err := peltier.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := peltier.Spool("deferred.spamfull")
	if err := os.Rename(peltier.Spool("active"), old); err != nil {
		t.Fatal(err)
	}
	month := time.Now().Add(-30 * 24 * time.Hour)
	if err := os.Chtimes(old, month, month); err != nil {
		t.Fatal(err)
	}
	return f, runID.FindString(r.err)
}

func TestHealth(t *testing.T) {
	t.Parallel()
	f, run := swept(t)
	before := f.everything(t)
	r := f.spoolsweep("health")
	r.want(t, 0, "2 hosts: 2 answered")
	checkGolden(t, "testdata/health.txt", unaged(r.out))
	if !strings.Contains(r.out, run) {
		t.Errorf("run %s is not named:\n%s", run, r.out)
	}
	checkGolden(t, "testdata/health.json", masked(t, f.spoolsweep("health", "-o", "json").out))

	// One event a line, each of them JSON, the sums last.
	r = f.spoolsweep("health", "-o", "jsonl", "-l", "chavez")
	r.want(t, 0)
	var kinds []string
	for line := range strings.Lines(r.out) {
		var e struct {
			Host, Stage, Event string
			Data               json.RawMessage
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		kinds = append(kinds, e.Host+" "+e.Stage+" "+e.Event)
	}
	if got, want := strings.Join(kinds, ", "), "chavez count result, chavez  end,   end"; got != want {
		t.Errorf("got %s, want %s:\n%s", got, want, r.out)
	}

	// As a monitoring plugin: the first line, and the status.
	for _, row := range []struct {
		status int
		first  string
		args   []string
	}{
		{0, "SPOOLSWEEP OK: 1 host, ", []string{"-l", "chavez", "--warn", "5000", "--crit", "6000"}},
		{2, "SPOOLSWEEP CRITICAL: chavez flooded (", []string{"-l", "chavez", "--warn", "0", "--crit", "1"}},
		{2, "SPOOLSWEEP CRITICAL: peltier Postfix is stopped, deferred.spamfull is aside since 30 d|'chavez messages'=", []string{"--warn", "5000"}},
		{3, "SPOOLSWEEP UNKNOWN: --crit 1 is less than --warn 2", []string{"--warn", "2", "--crit", "1"}},
		{3, "SPOOLSWEEP UNKNOWN: limit \"nobody\": ", []string{"-l", "nobody"}},
	} {
		if row.status == 2 && strings.Contains(row.first, "flooded") {
			if _, err := f.hosts[0].SubmitAll(practice.Incident("chavez", demoAccount, 20, 9)); err != nil {
				t.Fatal(err)
			}
			before = nil // mail came
		}
		r := f.spoolsweep(append([]string{"health", "--exit-status"}, row.args...)...)
		r.want(t, row.status)
		if first, _, _ := strings.Cut(r.out, "\n"); !strings.HasPrefix(first, row.first) || row.status < 3 && strings.Count(r.out, "|") != 1 {
			t.Errorf("%s: got\n%s\nwant %s", r.line, first, row.first)
		}
		if before != nil {
			f.unchanged(t, before)
		}
	}
	f.servers[1].Refuse(true)
	r = f.spoolsweep("health", "--exit-status", "-l", "peltier")
	r.want(t, 3, "SPOOLSWEEP UNKNOWN: peltier unreachable (")
	f.spoolsweep("health").want(t, 4, "UNREACHABLE")
	for _, args := range [][]string{
		{"--watch", "1ms"}, {"--watch", "1m", "--exit-status"}, {"--watch", "1m", "-o", "json"}, {"--watch", "1m", "-o", "openmetrics"}, {"--warn", "-1"}, {"now"},
	} {
		status := statusUsage
		if len(args) == 3 && args[2] == "--exit-status" {
			status = pluginUnknown
		}
		f.spoolsweep(append([]string{"health"}, args...)...).want(t, status)
	}
}

// Metrics, printed and in a file that is whole whenever it is read.
func TestHealthMetrics(t *testing.T) {
	t.Parallel()
	f, run := swept(t)
	dir := t.TempDir()
	r := f.spoolsweep("health", "-o", "openmetrics", "--textfile", dir)
	r.want(t, 0)
	ages := regexp.MustCompile(`(?m)^(spoolsweep_\w*_(?:seconds|bytes)\{.*\}) [0-9.]+$`)
	same := func(text string) string { return ages.ReplaceAllString(strings.ReplaceAll(text, run, "RUN"), "$1 N") }
	checkGolden(t, "testdata/health.openmetrics", same(r.out))
	path := filepath.Join(dir, "spoolsweep.prom")
	text, err := os.ReadFile(path)
	if err != nil || same(string(text)) != same(r.out) {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v", info, err)
	}
	// What the run itself says of the time without Postfix, also when another one was
	// since that stopped nothing.
	f.spoolsweep("run", "health", "-y", "-l", "chavez").want(t, 0)
	var report show.Document
	if err := json.Unmarshal([]byte(f.spoolsweep("report", run, "-l", "chavez", "-o", "json").out), &report); err != nil {
		t.Fatal(err)
	}
	var started stage.Started
	if !report.Hosts[0].Latest("start", &started) || started.Downtime <= 0 {
		t.Fatalf("the report has no downtime: %+v", started)
	}
	r = f.spoolsweep("health", "-o", "openmetrics", "-l", "chavez")
	r.want(t, 0, fmt.Sprintf("\nspoolsweep_postfix_downtime_seconds{host=\"chavez\",postfix=\"-\",run=%q} %v\n", run, started.Downtime),
		fmt.Sprintf("\nspoolsweep_postfix_started_time_seconds{host=\"chavez\",postfix=\"-\",run=%q} %d\n", run, started.At.Unix()))
	f.servers[1].Refuse(true)
	f.spoolsweep("health", "--exit-status", "--textfile", dir).want(t, pluginUnknown)
	entries, err := os.ReadDir(dir)
	if text, _ = os.ReadFile(path); err != nil || len(entries) != 1 || !strings.Contains(string(text), `spoolsweep_host_up{host="peltier",postfix="-"} 0`) {
		t.Errorf("%v, %v:\n%s", entries, err, text)
	}
	f.spoolsweep("health", "--textfile", filepath.Join(dir, "none")).want(t, statusUsage, "--textfile: ")
	f.spoolsweep("ping", "-o", "openmetrics").want(t, statusUsage, "the formats are text, json and jsonl")
	f.spoolsweep("health", "-o", "openmetrics", "--exit-status").want(t, pluginUnknown)
}

// A watch looks again and again, over one connection, until it is interrupted.
// Who sends is told of hosts that are not well, and of no others.
func TestHealthTop(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(200)
	waitQuiet(t, f)
	r := f.spoolsweep("health", "--top", "2", "--warn", "100")
	r.want(t, 0, "2 hosts: 2 busy; ", "chavez  | suspects  top login: "+demoAccount, "peltier | suspects  top login: "+demoAccount)
	share := regexp.MustCompile(`(?m)^chavez +\| suspects +top login: \S+ has ([0-9]+) % of 200 messages$`)
	if m := share.FindStringSubmatch(r.out); m == nil || len(m[1]) != 2 {
		t.Errorf("no share of the top login:\n%s", r.out)
	}
	// How old and how large, to where, and why it is still here: practice mail of a
	// domain that cannot be reached.
	for _, told := range []string{
		`chavez +\| count     AGE +<5m +<1h +<1d +<5d +older`, `chavez +\| count     SIZE +<10k +<100k +<1M +larger`,
		`chavez +\| suspects +[\d,]+ messages  sender's domain: chavez\.practice\.test`, `chavez +\| suspects +[\d,]+ messages  recipient's domain: \S+`,
		`chavez +\| suspects +[\d,]+ messages?  deferred since: connect to \*: Connection timed out`,
	} {
		if !regexp.MustCompile(`(?m)^` + told + `$`).MatchString(r.out) {
			t.Errorf("%s is not told:\n%s", told, r.out)
		}
	}
	var doc show.Document
	if err := json.Unmarshal([]byte(f.spoolsweep("health", "--top", "2", "--warn", "100", "-l", "chavez", "-o", "json").out), &doc); err != nil {
		t.Fatal(err)
	}
	var counts stage.Counts
	var top stage.Suspects
	if err := errors.Join(json.Unmarshal(doc.Hosts[0].Result, &counts), json.Unmarshal(doc.Hosts[0].Stages[1].Result, &top)); err != nil {
		t.Fatal(err)
	}
	for q, c := range counts.Queues {
		var ages, sizes int64
		for _, n := range c.Ages {
			ages += n
		}
		for _, n := range c.Sizes {
			sizes += n
		}
		if ages != c.Messages || sizes != c.Messages {
			t.Errorf("%s: of %d messages the ages are of %d, the sizes of %d", q, c.Messages, ages, sizes)
		}
	}
	if deferred := counts.Queues[spool.Deferred].Messages; deferred == 0 || len(top.Reasons) != 1 || top.Reasons[0].Count != deferred || len(top.SenderDomains) == 0 || len(top.RecipientDomains) == 0 {
		t.Errorf("%d messages are deferred, for %v; domains %v, %v", deferred, top.Reasons, top.SenderDomains, top.RecipientDomains)
	}
	if h := doc.Hosts[0]; len(h.Stages) != 2 || h.Stages[1].Stage != "suspects" || !strings.Contains(string(h.Result), `"queues"`) {
		t.Errorf("stages %+v, result %.100s", h.Stages, h.Result)
	}
	if r := f.spoolsweep("health", "--top", "2", "--warn", "1000"); strings.Contains(r.out, "suspects") || strings.Contains(r.out, "count") {
		t.Errorf("all is well, and still told:\n%s", r.out)
	}
	f.spoolsweep("health", "--top", "0").want(t, statusUsage, "--top: 0 is not from 1 to ")
}

func TestHealthWatch(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stderr bytes.Buffer
	out := &until3{cancel: cancel, at: "Postfix stopped"}
	app := newApp(strings.NewReader(""), out, &stderr)
	app.Metadata[agentSource] = f.source
	status := inProcess(ctx, app, append([]string{"spoolsweep", "health", "--watch", "1s"}, f.where()...)...)
	if status != statusInterrupted || out.times < 3 {
		t.Errorf("status %d, %d times:\n%s", status, out.times, stderr.String())
	}
	if n := f.servers[0].Conns(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

// until3 cancels once it was told three times how the host is.
type until3 struct {
	times  int
	cancel context.CancelFunc
	at     string
}

func (u *until3) Write(p []byte) (int, error) {
	if u.times += strings.Count(string(p), u.at); u.times >= 3 {
		u.cancel()
	}
	return len(p), nil
}

// everything is all files of the hosts, the agents aside, with what a change
// would change.
func (f *fleet) everything(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, h := range f.hosts {
		err := filepath.WalkDir(h.Dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if strings.HasPrefix(path, h.Home()) {
				if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), agentName) {
					all[path] = "is no agent"
				}
				return nil
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			all[path] = fmt.Sprint(info.Mode(), info.ModTime())
			if !e.IsDir() {
				all[path] += fmt.Sprint(info.Size())
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func (f *fleet) unchanged(t *testing.T, before map[string]string) {
	t.Helper()
	after := f.everything(t)
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s was %s, is %s", path, was, after[path])
		}
	}
	for path, is := range after {
		if _, ok := before[path]; !ok {
			t.Errorf("%s is new: %s", path, is)
		}
	}
}
