package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

var listLine = regexp.MustCompile(`(?m)^chavez +\| ((\S+/\S+): (\d+) (spam|ham))$`)

// The list is what the wiki's loop prints: every file once, with its count.
func TestClassifyList(t *testing.T) {
	t.Parallel()
	needs.Program(t, "strings")
	f := fleetOf(t, flooded, "chavez").withFlood(200)
	waitQuiet(t, f)
	r := f.spoolsweep("run", "backscatter", "-y")
	r.want(t, 3)
	run := runID.FindString(r.err)
	rules := f.write("rules.yaml", `spam: {raw: ["media.php", "swiftvalue@"], lines: 2}`+"\n")
	r = f.spoolsweep("classify", "--aside", run, "-e", "@"+rules, "--list", "--samples", "0")
	r.want(t, 0, "messages  spam", "lines that match it")
	var got []string
	for _, m := range listLine.FindAllStringSubmatch(r.out, -1) {
		if verdict := map[bool]string{true: "spam", false: "ham"}[m[3] >= "2"]; len(m[3]) == 1 && m[4] != verdict {
			t.Errorf("%s, want %s", m[1], verdict)
		}
		got = append(got, m[2]+": "+m[3])
	}
	loop := exec.CommandContext(t.Context(), "sh", "-c", `for f in $(find *.spamfull -type f -path '*.spamfull/*'); do case $f in defer.*) continue;; esac; echo "${f%%/*}/${f##*/}: $(strings $f | grep -c -F -e media.php -e swiftvalue@)"; done`)
	loop.Dir = f.hosts[0].Spool()
	out, err := loop.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(got)
	slices.Sort(want)
	if len(want) < 100 || !slices.Equal(got, want) {
		t.Errorf("%d lines listed, the loop prints %d:\n%v\n%v", len(got), len(want), got[:min(5, len(got))], want[:5])
	}

	// As JSON the list is in the one document.
	r = f.spoolsweep("classify", "--aside", run, "-e", "@"+rules, "--list", "-o", "json")
	r.want(t, 0)
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	var all int
	for _, j := range doc.Hosts[0].Messages {
		for _, m := range j.Messages {
			if !slices.Contains(want, fmt.Sprintf("%s/%s: %d", j.Directory, m.ID, m.Lines)) {
				t.Errorf("%s/%s: %d %s", j.Directory, m.ID, m.Lines, m.Verdict)
			}
			all++
		}
	}
	if all != len(want) {
		t.Errorf("%d messages in the document", all)
	}
}

// Both sides of rules on every kind of field, and one message explained; with
// what a mail says the terminal does nothing.
func TestClassifyInFull(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(200)
	h := f.hosts[0]
	letter := practice.Message{
		Sender: "ana@" + h.Hostname(), Recipients: []string{"b@far.test"}, Login: "ana", Queue: "hold",
		Text: "Subject: minutes \x1b[2J\nList-Id: <list.example.org>\n\npills \x07 here\nbye\n",
	}
	ids, err := h.SubmitAll([]practice.Message{letter})
	if err != nil {
		t.Fatal(err)
	}
	waitQuiet(t, f)
	rules := f.write("rules.yaml", `spam:
  any:
    - all: [{source_count: ">20"}, {not: {recipients: ">100"}}, {size: "<1M"}, {age: "<1d"}]
    - {body: [pills, casino], lines: 2}
    - header.X-Nothing: "x"
ham:
  - header.List-Id: list.example.org
  - recipient_left: "@nowhere.test"
`)
	r := f.spoolsweep("classify", "-e", "@"+rules, "--text")
	r.want(t, 0, "lines that match it 0 in ", "hit by spam rules: spam-account@", "ham ", "Subject:", "near miss hold/"+ids[0], `    | pills \x07 here`, "(alone ")
	for line := range strings.Lines(r.out) {
		if strings.Contains(line, "rule: all(source_count:>20") && !strings.Contains(line, " 150 messages") {
			t.Errorf("the flood is 150 of them: %s", line)
		}
	}
	r = f.spoolsweep("classify", "--queue", "hold", "-m", "any:casino", "-m", "header.List-Id:list.example.org", "-l", "chavez")
	r.want(t, 0, "1 message  rule: header.List-Id:list.example.org (alone 1)", "the live queues hold:")

	explained := f.spoolsweep("classify", "-e", "@"+rules, "--explain", ids[0])
	explained.want(t, 0, "hold/"+ids[0]+" is ham", "envelope: from <ana@"+h.Hostname()+"> to b@far.test, login ana", "spam rule does not match: body:[pills, casino] lines:2",
		"no, lines that match: 1 of the 2 it takes", `body line 1: pills \x07 here`, "ham rule matches: header.List-Id:list.example.org", "header line ", "peltier | classify  no message here with the id "+ids[0])
	r = f.spoolsweep("classify", "-e", "@"+rules, "--explain", ids[0], "-o", "json")
	r.want(t, 0)
	var doc show.Document
	var c stage.Classified
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil || json.Unmarshal(doc.Hosts[0].Result, &c) != nil || len(c.Explained) != 1 || c.Explained[0].Verdict != pattern.Ham {
		t.Errorf("%v %+v", err, c.Explained)
	}
	f.spoolsweep("classify", "-e", "@"+rules, "--explain", "hold/"+ids[0]).want(t, 0, "hold/"+ids[0]+" is ham")
	f.spoolsweep("classify", "-e", "@"+rules, "--explain", "hold/ABCDEF123").want(t, statusUsage, "no message ABCDEF123 was found there")
	f.spoolsweep("classify", "-e", "@"+rules, "--explain", "ABCDEF123").want(t, statusUsage, "no message ABCDEF123 was found there")
	for _, s := range []result{explained, r} {
		for _, c := range s.out + s.err {
			if c < ' ' && c != '\n' {
				t.Errorf("%s: %U reaches the terminal", s.line, c)
			}
		}
	}
}

// Mistakes in rules are told before any host is reached: there is none here.
func TestClassifyUsage(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded)
	inventory := f.write("hosts.yaml", "all: {hosts: {chavez: }}\n")
	for _, tt := range [][2]string{
		{"size: >100k", `rules.yaml:3: `}, {"size: >100k", `(quote it: ">100k")`},
		{"size: 100kb", `rules.yaml:3: "100kb" is no comparison of size`},
		{"age: 2", `quoted: age: "<2d"`},
		{"headers.List-Id: x", `(did you mean "header.List-Id"?)`},
		{"queue: [hold, activ]", `(did you mean "active"?)`},
		{`{sender: "a@b", lines: 2}`, "lines goes with"},
	} {
		file := f.write("rules.yaml", "spam:\n  any:\n    - "+tt[0]+"\n")
		f.run("classify", "-i", inventory, "-e", "@"+file).want(t, statusUsage, tt[1])
	}
	for _, tt := range [][2]string{
		{"-m=size:big", `-m size:big: size: "big" is no comparison`},
		{"-m=header.:x", `-m header.:x: `},
		{"--samples=21", "from 0 to 20"},
		{"--explain=../x", `"../x" is no queue id`},
		{"--explain=hodl/626E89BC811", `"hodl/626E89BC811" is no queue id`},
		{"--explain=hold/", `"hold/" is no queue id`},
	} {
		f.run("classify", "-i", inventory, tt[0]).want(t, statusUsage, tt[1])
	}
	f.run("classify", "-i", inventory, "--list", "--explain", "ABC").want(t, statusUsage, "exclude each other")
}

// The fields that the help of classify and the README explain are those there are,
// and the rules in the README are rules.
func TestHelpFields(t *testing.T) {
	t.Parallel()
	_, err := pattern.ParseFlag("no-such-field:x")
	if err == nil {
		t.Fatal("a field that there is not")
	}
	_, fields, _ := strings.Cut(err.Error(), "fields are ")
	fields, _, _ = strings.Cut(fields, ";")
	known := strings.Split(fields, ", ")
	slices.Sort(known)

	_, rest, _ := strings.Cut(classifyCommand().Description, "Fields:\n")
	var told []string
	for line := range strings.Lines(rest) {
		if strings.HasPrefix(line, "  ") && line[2] != ' ' {
			names, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
			told = append(told, strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })...)
		}
	}
	slices.Sort(told)
	if !slices.Equal(told, known) {
		t.Errorf("the help explains %v, there are %v", told, known)
	}

	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Rules\n")
	section, _, _ = strings.Cut(section, "\n## ")
	told = nil
	var rules strings.Builder
	for line := range strings.Lines(section) {
		if row := strings.Split(line, "|"); len(row) > 2 && strings.Contains(row[1], "`") {
			told = append(told, strings.Split(strings.Trim(strings.TrimSpace(row[1]), "`"), "`, `")...)
		}
		if code, ok := strings.CutPrefix(line, "    "); ok {
			rules.WriteString(code)
		}
	}
	slices.Sort(told)
	if !slices.Equal(told, known) {
		t.Errorf("the README explains %v, there are %v", told, known)
	}
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	extra, err := playbooks.ParseExtra([]string{"@" + file})
	if err != nil {
		t.Fatal(err)
	}
	args := stage.ClassifyArgs{Spam: extra.Values["spam"], Ham: extra.Values["ham"]}
	if err := args.Check(); err != nil || args.Spam == nil || args.Ham == nil {
		t.Errorf("%v in\n%s", err, rules.String())
	}
}
