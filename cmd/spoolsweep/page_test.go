package main

import (
	"html"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

var lineToType = regexp.MustCompile(`(?s)<code>(spoolsweep .*?)</code>`)

// accepted fails the test where a command line is not one that is accepted as it
// stands, and returns its words.
func accepted(t *testing.T, line string) []string {
	t.Helper()
	var called *cli.Context
	var stderr strings.Builder
	app := newApp(nil, io.Discard, &stderr)
	for _, c := range app.Commands {
		c.Action = func(c *cli.Context) error { called = c; return nil }
	}
	words := shellWords(line)
	if status := inProcess(t.Context(), app, words...); status != 0 || called == nil {
		t.Errorf("%s: status %d, %s", line, status, stderr.String())
	}
	return words
}

// The page of a run that waits on one host, has ended on another, and of a third
// that does not answer. What it says to type is accepted, and finds these hosts.
func TestReportPage(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "relay01").withFlood(200)
	waitQuiet(t, f)
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "max_stopped=0", "--reason", "ticket <4711>")
	r.want(t, 3)
	run := begun(r.err)
	f.spoolsweep("resume", run, "-l", "chavez", "-y", "-e", "@"+f.write("rules.yaml", demoRules), "-e", "rate=0").want(t, 0)
	if err := f.servers[2].Close(); err != nil {
		t.Fatal(err)
	}
	r = f.spoolsweep("report", run, "-o", "html", "-T", "2s", "--reconnect", "1s")
	r.want(t, 4)
	if !strings.HasPrefix(r.out, "<!DOCTYPE html>\n") || !strings.HasSuffix(r.out, "</html>\n") || strings.Contains(r.out, demoAccount) {
		t.Errorf("got %s", r.out)
	}
	page := html.UnescapeString(r.out)
	for _, s := range []string{
		"The run waits on 1 of 3 hosts", "Of 3 hosts, it has ended on 1, waits on 1 and is not known on 1.", "none is missing", "ticket <4711>",
		"Postfix was stopped on 2 hosts", "for rules that tell spam from ham", "sasl_user:name-1", "yes, by -y", me(),
	} {
		if !strings.Contains(page, s) {
			t.Errorf("the page does not say %q\n%s", s, r.out)
		}
	}
	var putback string
	lines := lineToType.FindAllStringSubmatch(page, -1)
	for _, l := range lines {
		line, _, _ := strings.Cut(l[1], " > ") // to a file
		words := accepted(t, line)
		if words[1] == "putback" && putback == "" {
			putback = l[1]
		}
	}
	if len(lines) < 6 || putback == "" {
		t.Fatalf("%d command lines: %v", len(lines), lines)
	}
	// The line that takes mail back is typed as it stands, but for who says yes.
	args := append(shellWords(putback)[1:], "-y", "--expect", "999999", "--live-max", "0", "--rate", "0")
	if m := wouldGo.FindStringSubmatch(f.run(args...).err); m == nil {
		t.Errorf("%s: does not count what would go", putback)
	}
	// The same with names, and of the newest run where none is named.
	f.spoolsweep("report", "-l", "chavez", "-o", "html", "--no-redact", "-q").want(t, 0, "sasl_user:"+demoAccount, "left out of this page")
	// The ledger misses one: said, and the exit status.
	aside := f.hosts[0].Spool("active.spamfull")
	names, err := os.ReadDir(aside)
	if err != nil || len(names) == 0 {
		t.Fatal(err)
	}
	if err := os.Remove(aside + "/" + names[0].Name()); err != nil {
		t.Fatal(err)
	}
	f.spoolsweep("report", run, "-l", "chavez", "-o", "html").want(t, 2, "1 MISSING", "1 is missing", "1 message of run "+run)
}

// Of the formats a page is one that report alone has, and it goes with no flag that
// it does not heed.
func TestPageFlags(t *testing.T) {
	t.Parallel()
	for line, says := range map[string]string{
		"report -o html --ledger":    "do not go with -o html",
		"report -o html --domain x":  "do not go with -o html",
		"report --ledger --domain x": "is a part of --ledger",
		"report --domain a@b.org":    "it is the name of one",
		"report --domain x..org":     "it is the name of one",
		"report --no-redact":         "goes with -o html",
		"report -o json --no-redact": "goes with -o html",
		"report -o htm":              "here also html",
		"runs -o html":               "-o html: the formats are text, json and jsonl",
		"health -o html":             "here also openmetrics",
		"suspects -o html":           "-o html: the formats are",
	} {
		execs(t, append(strings.Fields(line), "-i", "mx1,")...).want(t, statusUsage, says)
	}
	// Nothing is told of a run that is not there.
	f := fleetOf(t, flooded, "chavez")
	r := f.spoolsweep("report", "-o", "html")
	if r.want(t, 0, "no run"); r.out != "" {
		t.Errorf("got %s", r.out)
	}
}
