package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"spoolsweep/spool/practice"
)

// harmless looks at every byte of both streams: text that a terminal shows and
// does not obey, in lines, and nothing else.
func (r result) harmless(t *testing.T) {
	t.Helper()
	for _, stream := range []struct{ name, text string }{{"stdout", r.out}, {"stderr", r.err}} {
		for i := 0; i < len(stream.text); {
			c, size := utf8.DecodeRuneInString(stream.text[i:])
			if c == utf8.RuneError && size == 1 || c != '\n' && !unicode.IsPrint(c) {
				t.Errorf("%q: %q reaches the terminal on %s:\n%q", r.line, stream.text[i:i+size], stream.name, stream.text[max(0, i-60):min(len(stream.text), i+60)])
				break
			}
			i += size
		}
	}
}

// What others choose, in each of the ways in which it may do harm: escape
// sequences with 7 and 8 bits, a title, a carriage return that hides what stands
// before it, overrides of the direction, characters without a shape, and bytes that
// are no UTF-8.
const (
	evilText = "ev\x1b[2J\x1b]0;il\x07\u009b31m\x9b\u202eabc\u202c\u2066\u200b\ufeff\u2028\u0085\rx\x08\x7f\x00\xff\xc3("
	// evilName has no byte that a queue file or a log line ends at.
	evilName = "ev\x1b]0;il\x07\u009b2J\x9b\u202e\u2066\u200b\rx\x7f\xff"
)

// evilMail is n messages of each kind.
func evilMail(host string, n int) []practice.Message {
	encoded := "=?utf-8?b?" + strings.TrimSpace(practice.Base64("\x1b[0m\u202e")) + "?= =?iso-8859-1?q?=9B31m=0D=1B]0;x=07?="
	kinds := []practice.Message{
		{Text: "Subject: " + strings.ReplaceAll(evilText, "\x00", "") + "\nFrom: " + evilName + " <a@b.test>\nX-PHP-Originating-Script: " + evilName + "\n\n" + evilText + "\n"},
		{Text: "Subject: " + encoded + "\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n" + practice.Base64(evilText) + "\n"},
		{Text: "Subject: x\nContent-Type: text/html; charset=iso-8859-1\n\n<p>&#27;[2J&#x202e;&#155;\x9b <a href=\"http://far.test/\x1b[2J&#13;\">here</a></p>\n"},
		{Text: "Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\n--b\nContent-Type: application/x-" + evilName + "; name=\"" + evilName + "\"\nContent-Disposition: attachment; filename*=utf-8''%1b%5b2J%e2%80%ae\n\nx\n--b--\n"},
	}
	var all []practice.Message
	for i := range n {
		for k, m := range kinds {
			m.ID = fmt.Sprintf("evil-%d-%04d", k, i)
			m.Sender, m.Recipients, m.Login = evilName+"@far.test", []string{evilName + "@" + host}, evilName
			m.ClientName, m.ClientAddress, m.Helo = "x", "203.0.113.1", evilName
			if i%4 == 3 { // comes back
				m.Sender, m.Login = "", ""
			}
			all = append(all, m)
		}
	}
	return all
}

// Every command, as text and in both forms of JSON, over a queue full of mail
// that would take a terminal over.
func TestNothingReachesTheTerminal(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	h := f.hosts[0]
	ids, err := h.SubmitAll(evilMail(h.Hostname(), 40))
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(h.Log(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		fmt.Fprintf(log, "%s chavez postfix/smtpd[1]: warning: x[192.0.2.1]: SASL LOGIN authentication failed: %s, sasl_username=%s\n", time.Now().Format(time.Stamp), evilName, "bad"+evilName)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitQuiet(t, f)
	rules, err := json.Marshal(map[string]any{"spam": map[string]any{"any": []any{
		map[string]any{"sender": "ev\x1b]0;il*@far.test"}, map[string]any{"body": "\u202e"}, map[string]any{"subject": "[0m"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	good := "@" + f.write("good.yaml", string(rules))
	vars := f.write("vars.yaml", "all: {hosts: {chavez: {note: \"\\e[2J\\u202e\"}}, vars: {\"k\\e[2J\": 1}}\n")
	save := f.file("saved")

	type row []string
	reading := []row{
		{"ping"}, {"health"}, {"health", "-v"}, {"health", "--exit-status"}, {"suspects"}, {"suspects", "--sample", "8"}, {"suspects", "--since", "0", "--top", "100"},
		{"sample", "-n", "12"}, {"sample", "-n", "12", "--raw"}, {"sample", "-n", "12", "--redact"},
		{"classify"}, {"classify", "-e", good, "--text"}, {"classify", "-m", "body:nothing", "--text"}, {"classify", "-e", good, "--list"}, {"classify", "-m", "body:ev", "--explain", ids[0]},
		{"find", "@*"}, {"find", "ev*"}, {"find", evilName + "@far.test"},
		{"suggest"}, {"suggest", "--account", evilName},
	}
	evil := []row{
		{"attach", evilName}, {"resume", evilName}, {"report", evilName}, {"classify", "--aside", evilName}, {"sample", "--queue", evilName}, {"suspects", "--aside", evilName}, {"suggest", evilName}, {"suggest", "--aside", evilName},
		{"purge", evilName, "-y", "--expect", "1"}, {"putback", evilName, "-y", "--expect", "1"}, {"ping", "-l", evilName}, {"run", evilName, "-y"},
		{"classify", "-m", "subject:" + evilName}, {"run", "backscatter", "--check", "-e", evilName + "=1"}, {"delete", "-m", evilName + ":x", "-y", "--expect", "1"}, {"stages", evilName}, {"version", evilName}, {"uninstall", evilName},
		{"health", "-l", evilName, "--exit-status"}, {"sample", "--forget", evilName}, {"suspects", "--since", evilName}, {evilName}, {"ping", "--" + evilName}, {"demo", evilName}, {"manual", evilName}, {"completion", evilName},
		{"plan", evilName, "--host", "chavez"}, {"plan", "health", "--host", evilName}, {"plan", "health", "--host", "chavez", "--run", evilName},
		{"hold", "-m", evilName + ":x", "-y"}, {"hold", "-m", "body:x", "--queue", evilName, "-y"}, {"hold", "-m", "body:x", "--for", evilName, "-y"}, {"release", evilName, "-y", "--expect", "1"}, {"requeue", "-m", evilName + ":x", "-y", "--expect", "1"},
		{"export", "-m", evilName + ":x", "--to", "x"}, {"export", "--all", "--to", evilName, "--format", evilName}, {"export", "--all", "--to", evilName, "--queue", evilName},
		{"report", "--import", evilName}, {"agent", evilName, "--output", "x"}, {"collection", evilName}, {"schema", evilName},
	}
	here := []string{"demo", "manual", "completion", "plan", "agent", "collection", "schema"}
	typed := map[string]bool{}
	run := func(args row) (last result) {
		for _, output := range []string{"", "json", "jsonl"} {
			more := slices.Clone(args)
			if output != "" && args[0] != "stages" && args[0] != "version" && args[0] != "inventory" && !slices.Contains(here, args[0]) {
				more = append(more, "-o", output)
			}
			var r result
			switch args[0] {
			case "stages", "version", "inventory", "demo", "manual", "completion", "agent", "collection", "schema", evilName:
				r = f.run(more...)
			case "plan":
				r = f.run(append(more, "-i", f.file(fleetInventory))...)
			default:
				r = f.spoolsweep(more...)
			}
			r.harmless(t)
			if r.out+r.err == "" {
				t.Errorf("%q says nothing", r.line)
			}
			if output == "" {
				last = r
			}
			typed[args[0]] = true
			if slices.Contains(args, "-y") || slices.Contains(args, "--save") || slices.Contains(args, "--forget") {
				if output == "" && r.status != statusUsage {
					return last // it is done, and cannot be done again
				}
			}
		}
		return last
	}
	for _, args := range slices.Concat(reading, evil) {
		if r := run(args); r.status == statusUsage && !slices.Contains(args, "--exit-status") && slices.ContainsFunc(reading, func(of row) bool { return slices.Equal(of, args) }) {
			t.Errorf("%q: %v", args, r.err)
		}
	}
	for _, args := range []row{{"suggest", "-o", "yaml"}, {"health", "-o", "openmetrics"}} {
		f.spoolsweep(args...).harmless(t)
	}
	at := served(t, f)
	eventually(t, at, func() (bool, error) {
		status, _, page, err := get(at)
		result{line: "serve", out: page}.harmless(t)
		return status == http.StatusOK, err
	})
	typed["serve"] = true
	run(row{"inventory", "--list", "-i", vars})
	run(row{"inventory", "--graph", evilName, "-i", vars})
	run(row{"inventory", "--host", evilName, "-i", vars})
	run(row{"run", "backscatter", "--check", "-e", good})
	run(row{"sample", "-n", "12", "--save", save})
	run(row{"sample", "--forget", save})

	// What is shown of live queues before it is done, and done.
	for _, output := range []string{"text", "json", "jsonl"} {
		for _, args := range []row{{"hold", "-e", good, "--check"}, {"requeue", "--all", "-e", good, "--check"}, {"requeue", "--all", "-y", "--expect", "100000"}} {
			f.spoolsweep(append(args, "-o", output)...).harmless(t)
		}
	}
	held := f.spoolsweep("hold", "-m", "body:\u202e", "-y", "--queue", "deferred")
	held.harmless(t)
	held.want(t, 0, "put on hold")
	for _, output := range []string{"text", "json", "jsonl"} {
		for _, args := range []row{{"release", "--all", "-e", good, "--check"}, {"release", runID.FindString(held.err), "-y", "--expect", "100000"}} {
			f.spoolsweep(append(args, "-o", output)...).harmless(t)
		}
	}

	exported := f.file("exported")
	for _, output := range []string{"text", "json", "jsonl"} {
		for _, args := range []row{{"export", "-e", good, "--to", exported}, {"export", "-e", good, "--remove", "--check"}, {"export", "-e", good, "--remove", "--to", exported, "-y", "--expect", "100000"}} {
			f.spoolsweep(append(args, "-o", output)...).harmless(t)
		}
	}
	manifest, err := os.ReadFile(filepath.Join(exported, manifestName))
	if err != nil || len(manifest) < 1000 {
		t.Fatalf("%d bytes of a manifest, %v", len(manifest), err)
	}
	result{line: "the manifest", out: string(manifest)}.harmless(t)

	// A whole incident, in each of the three forms.
	swept := f.spoolsweep("run", "backscatter", "-y", "-v", "-e", "queues=[incoming, active]")
	swept.harmless(t)
	swept.want(t, 3, `\x1b`)
	id := runID.FindString(swept.err)
	for _, args := range append(reading, row{"runs"}, row{"report"}, row{"report", id, "-v"}, row{"attach", id}, row{"resume", id, "-y"}) {
		run(args)
	}
	for _, output := range []string{"text", "json", "jsonl"} {
		f.spoolsweep("resume", id, "-y", "-e", good, "-e", "rate=0", "-e", fmt.Sprintf("watch=%dms", 1+len(output)), "-o", output).harmless(t)
		f.spoolsweep("putback", id, "-y", "--include-spam", "--expect", "1", "-o", output).harmless(t)
		f.spoolsweep("purge", id, "-y", "--expect", "100000", "-o", output).harmless(t)
		f.spoolsweep("delete", "-e", good, "-y", "--queue", "active", "--expect", "100000", "-o", output).harmless(t)
		f.spoolsweep("uninstall", "--state", "-y", "-o", output).harmless(t)
	}
	for _, name := range []string{"putback", "purge", "delete", "uninstall", "hold", "release", "requeue", "export"} {
		typed[name] = true
	}
	for _, c := range visible(newApp(nil, nil, nil)) {
		if !typed[c.Name] {
			t.Errorf("%s is not tried", c.Name)
		}
	}
}
