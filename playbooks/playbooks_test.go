package playbooks

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/playbooks/strict"
	"spoolsweep/spool/stage"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The playbooks that ship load, and are what they should be on a host of which
// nothing is said: the golden file is read in review.
func TestShipped(t *testing.T) {
	var b strings.Builder
	none := extra(t)
	for _, name := range Shipped() {
		pb, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		hosts, err := pb.Hosts(none)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pb.Resolve(unset, none)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s: %s\nhosts %s, serial %v, max_stopped %d, max_fail %v, variables %v\n", pb.Name, pb.Title, hosts, plan.Serial, plan.MaxStopped, plan.MaxFail, pb.Used())
		var names []string
		for _, s := range plan.Steps {
			fmt.Fprintf(&b, "  %s %s\n", s.Stage, s.Args)
			names = append(names, s.Stage)
		}
		if err := stage.CheckOrder(names); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// Every variable of a shipped playbook is used, or it says something
		// that is not so.
		for _, e := range pb.vars.Entries() {
			if !strings.Contains(fmt.Sprint(pb.Used()), e.Key.Text) {
				t.Errorf("%s: nothing uses its variable %s", name, e.Key.Text)
			}
		}
		// As a run keeps it: read again from its text it is the same.
		again, err := Parse(name, name+".yaml", []byte(pb.Text))
		if err != nil {
			t.Fatal(err)
		}
		planAgain, err := again.Resolve(unset, none.Over(nil))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(plan, planAgain); d != "" {
			t.Errorf("%s read again: %s", name, d)
		}
	}
	path := filepath.Join("testdata", "shipped.golden")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s (-want +got; rewrite with -update):\n%s", path, d)
	}
}

// unset are the host variables of a host of which nothing is said.
var unset = &HostVars{Values: map[string]any{"disable_account": "", "enable_account": "", "stop_source": "", "auth_service": ""}}

func extra(t *testing.T, args ...string) *Extra {
	t.Helper()
	x, err := ParseExtra(args)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// lines makes a playbook of stage lines, from line 3 on.
func lines(stages ...string) string {
	return "name: t\nstages:\n" + strings.Join(stages, "\n") + "\n"
}

// What is wrong is told at its place, before any variable is known.
func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no map", "- count:\n", "p.yaml:1: expected a map with the keys name, hosts, serial, max_stopped, max_fail, vars, stages, found a list"},
		{"nothing", "", "p.yaml:1: expected a map with the keys name, hosts, serial, max_stopped, max_fail, vars, stages, found nothing"},
		{"unknown key", "name: x\nhots: all\n", `p.yaml:2: unknown key "hots" (did you mean "hosts"?)`},
		{"key far from all", "name: x\nworkers: 5\n", `p.yaml:2: unknown key "workers" (known: name, hosts, serial, max_stopped, max_fail, vars, stages)`},
		{"key twice", "name: x\nname: y\n", "p.yaml:2: "},
		{"syntax", "name: x\nstages: [\n", "p.yaml:"},
		{"no stages", "name: x\nvars: {a: 1}\n", "p.yaml:1: the playbook has no stages"},
		{"empty stages", "name: x\nstages: []\n", "p.yaml:1: the playbook has no stages"},
		{"name is a list", "name: [x]\nstages:\n  - count:\n", "p.yaml:1: name: expected text, found a list"},
		{"vars is a list", "vars: [a]\nstages:\n  - count:\n", "p.yaml:1: vars: expected a map of names to values, found a list"},
		{"stages is a map", "stages:\n  count:\n", "p.yaml:2: stages: expected a list, each a stage's name and a colon, found a map"},
		{"a stage without colon", lines("  - count"), "p.yaml:3: a stage is its name and a colon, then its arguments (- count:)"},
		{"two stages in one", lines("  - count:", "    stop:"), "p.yaml:3: a stage is its name and a colon, then its arguments (- count:)"},
		{"unknown stage", lines("  - count:", "  - setaside:"), `p.yaml:4: unknown stage "setaside" (did you mean "set-aside"?)`},
		{"stage far from all", lines("  - coffee-machine:"), `p.yaml:3: unknown stage "coffee-machine" (known: count, `},
		{"unknown argument", lines("  - putback: {include-spm: true}"), `p.yaml:3: unknown argument of putback "include-spm" (did you mean "include_spam"?)`},
		{"an argument of a command", lines("  - classify:", "      directories: [hold]"), `p.yaml:4: unknown argument of classify "directories" (known: spam, ham, name, when, timeout, once, no_log)`},
		{"a common key, nearly", lines("  - count: {onse: true}"), `p.yaml:3: unknown argument of count "onse" (did you mean "once"?)`},
		{"a command without a line", lines("  - command: {for: [a]}"), "p.yaml:3: command: run must be given"},
		{"a command without anything", lines("  - command:"), "p.yaml:3: command: run must be given"},
		{"a command in the section", lines("  - stop:", "  - set-aside:", "  - command: {run: id}", "  - start:"), "p.yaml:5: command stands between stop and start, where Postfix is down: move it behind start"},
		{"a raw template in a line", lines("  - command: {run: \"do {{ .x\"}"), "p.yaml:3: template: unclosed action"},
		{"arguments are a list", lines("  - count: [exact]"), "p.yaml:3: count: expected a map of arguments, found a list"},
		{"arguments are a word", lines("  - stop: now"), `p.yaml:3: stop: expected a map of arguments, found the text "now"`},
		{"set-aside outside", lines("  - count:", "  - set-aside:"), "p.yaml:4: set-aside stands outside stop and start"},
		{"start alone", lines("  - start:"), "p.yaml:3: start stands outside stop and start"},
		{"stop without start", lines("  - stop:", "  - set-aside:"), "p.yaml:3: a stop without start: Postfix would be left stopped"},
		{"restore before classify", lines("  - restore:", "  - classify:"), "p.yaml:3: restore needs a stage before it: classify"},
		{"confirm before classify", lines("  - confirm:", "  - classify:"), "p.yaml:3: confirm needs a stage before it: classify"},
		{"classify in the section", lines("  - stop:", "  - set-aside:", "  - classify:", "  - start:"), "p.yaml:5: classify stands between stop and start, where Postfix is down: move it behind start"},
		{"template syntax", lines("  - count:", "  - classify:", `      spam: "{{ .spam"`), "p.yaml:5: template: unclosed action"},
		{"unknown function", lines("  - restore:", `      rate: "{{ twice .rate }}"`) + "", `p.yaml:3: restore needs a stage before it: classify`},
		{"unknown function in hosts", "hosts: \"{{ pick .a }}\"\nstages:\n  - count:\n", `p.yaml:1: template: function "pick" not defined`},
		{"template in max_stopped", "name: x\nmax_stopped: \"{{ end }}\"\nstages:\n  - count:\n", "p.yaml:2: template: unexpected {{end}}"},
	} {
		_, err := Parse("p", "p.yaml", []byte(tt.text))
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s:\n got %v\nwant %s", tt.name, err, tt.want)
		}
	}
}

// What is wrong with a value is told where that was set: in the playbook, or in
// the file that -e or the inventory read.
func TestResolveErrors(t *testing.T) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules.yaml")
	text := "# found on the way\nspam:\n  any:\n    - sender: \"<>\"\n    - all:\n        - {recipent: \"a@b.c\"}\nrate: fast\nlive_max: -5\nqueues: [incoming, nowhere]\nmax_stopped: few\nhosts: {a: b}\nexact: 12\n"
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const top = "max_stopped: \"{{ .max_stopped }}\"\nvars:\n  max_stopped: 1\n  account: \n  word: hello\n  count: 3\nstages:\n" // 7 lines
	for _, tt := range []struct {
		name, stages string
		extra        []string
		want         string
	}{
		{"a rule", "  - classify: {spam: \"{{ .spam }}\"}", []string{"@" + rules, "max_stopped=1"}, "error " + rules + `:6: unknown field "recipent"`},
		{"a rate", "  - classify:\n  - restore: {rate: \"{{ .rate }}\"}", []string{"@" + rules, "max_stopped=1"}, "error " + rules + `:7: rate: "fast" is no rate: messages a second, such as 50/s, or a minute, 3000/m`},
		{"a count", "  - classify:\n  - restore: {live_max: \"{{ .live_max }}\"}", []string{"@" + rules, "max_stopped=1"}, "error " + rules + ":8: live_max: -5 is no whole number from 0"},
		{"a queue", "  - stop:\n  - set-aside: {queues: \"{{ .queues }}\"}\n  - start:", []string{"@" + rules, "max_stopped=1"}, "error " + rules + ":9: queues: "},
		{"max_stopped", "  - count:", []string{"@" + rules}, "error " + rules + ":10: max_stopped: \"few\" is no whole number from 0"},
		{"a truth value", "  - count: {exact: \"{{ .exact }}\"}", []string{"@" + rules, "max_stopped=1"}, "error " + rules + ":12: exact: expected true or false, found the number 12"},
		{"on the command line", "  - count: {exact: \"{{ .exact }}\"}", []string{"exact=maybe"}, `error -e exact:1: exact: expected true or false, found the text "maybe"`},
		{"in the playbook", "  - count: {exact: \"{{ .word }}\"}", nil, `error p.yaml:5: exact: expected true or false, found the text "hello"`},
		{"plain in the playbook", "  - count:\n      exact: 5", nil, "error p.yaml:9: exact: expected true or false, found the number 5"},
		{"part of a text", "  - classify:\n  - restore:\n      rate: \"{{ .word }}/s\"", nil, `error p.yaml:10: rate: "hello/s" is no rate`},
		{"a rule in the playbook", "  - classify:\n      spam:\n        any:\n          - {sender: x@y}\n          - {sendr: x@y}", nil, `error p.yaml:12: unknown field "sendr"`},
		{"a rule from text", "  - classify:\n      spam:\n        sender: \"{{ .word }}@{{ .nobody }}\"", nil, `error p.yaml:10: no variable "nobody" (give it: -e nobody=...)`},
		{"an empty pattern", "  - classify: {ham: {sender: \"\"}}", nil, "error p.yaml:8: "},
		{"unknown variable, near", "  - count: {exact: \"{{ .acount }}\"}", nil, `error p.yaml:8: no variable "acount" (did you mean "account"?)`},
		{"unknown variable, far", "  - count: {exact: \"{{ .everything }}\"}", nil, `error p.yaml:8: no variable "everything" (give it: -e everything=...)`},
		{"null", "  - classify: {spam: {sasl_user: \"{{ .account }}\"}}", nil, `error p.yaml:8: the variable "account" has no value (give it: -e account=...)`},
		{"null in a text", "  - classify:\n      spam: {sender: \"{{ .account }}@x.test\"}", nil, `error p.yaml:9: the variable "account" has no value (give it: -e account=...)`},
		{"null, given", "  - classify: {spam: {sasl_user: \"{{ .account }}\"}}", []string{"account=eve"}, `[{"stage":"classify","args":{"spam":{"sasl_user":"eve"}}}]`},
		{"null with a default", "  - classify: {spam: {sasl_user: '{{ .account | default \"eve\" }}'}}", nil, `[{"stage":"classify","args":{"spam":{"sasl_user":"eve"}}}]`},
		{"the word default in a text", "  - classify: {spam: {sasl_user: \"default-{{ .account }}\"}}", nil, `error p.yaml:8: the variable "account" has no value (give it: -e account=...)`},
		{"a field of a text", "  - count: {exact: \"{{ .word.length }}\"}", nil, "error p.yaml:8: template: "},
		{"show", "  - classify:\n  - confirm: {show: count}", nil, `error p.yaml:9: show: show: "count" has nothing to confirm: classify has`},
		{"a name", "  - count: {name: [a]}", nil, "error p.yaml:8: name: expected text, found a list"},
		{"when", "  - count: {when: \"{{ eq .word \\\"hello\\\" }}\"}\n  - count: {when: \"{{ if .account }}true{{ else }}false{{ end }}\"}", nil, `[{"stage":"count","args":{}},{"stage":"count","args":{},"skip":true}]`},
		{"when is a word", "  - count: {when: \"{{ .word }}\"}", nil, `error p.yaml:5: when: expected true or false, found the text "hello"`},
		{"timeout", "  - count: {timeout: 90s, once: yes, no_log: true}", nil, `[{"stage":"count","args":{},"once":true,"timeout":90000000000,"no_log":true}]`},
		{"timeout without unit", "  - count: {timeout: 90}", nil, "error p.yaml:8: timeout: expected a time such as 90s, 5m or 7d, found the number 90"},
		{"no time at all", "  - count: {timeout: 0}", nil, "error p.yaml:8: timeout: a stage needs some time"},
		{"a timeout of the section", "  - stop: {timeout: 5s}\n  - set-aside:\n  - start:", nil, "error p.yaml:8: timeout: nothing may end stop before Postfix runs again"},
		{"once is a number", "  - count: {once: 1}", nil, "error p.yaml:8: once: expected true or false, found the number 1"},
		{"no_log of what is read", "  - classify: {no_log: true}", nil, "error p.yaml:8: no_log: the stages after classify read what it found"},
		{"a stop that is left out", "  - stop: {when: false}\n  - set-aside:\n  - start:", nil, "error p.yaml:9: set-aside stands outside stop and start, once those are left out that when or once leaves out"},
		{"a start on one host", "  - stop:\n  - set-aside:\n  - start: {once: true}", nil, "error p.yaml:8: a stop without start: Postfix would be left stopped"},
		{"a section that is left out", "  - stop: {when: false}\n  - set-aside: {when: false}\n  - start: {when: false}", nil, `[{"stage":"stop","args":{},"skip":true}`},
		{"a restore without its classify", "  - classify: {when: false}\n  - restore:", nil, "error p.yaml:9: restore needs a stage before it: classify"},
		{"on", "  - command: {run: id, on: laptop}", nil, `error p.yaml:8: on: on: "laptop" is neither host nor controller`},
		{"an account", "  - command: {run: \"do --\", for: \"{{ .account }}\"}", []string{"account=[ann, 12345]"}, `[{"stage":"command","args":{"for":["ann",12345],"run":"do --"}}]`},
		{"no account", "  - command: {run: \"do --\", for: \"{{ .account }}\"}", []string{"account=[]"}, `[{"stage":"command","args":{"for":[],"run":"do --"}}]`},
		{"an account that is null", "  - command: {run: do, for: \"{{ .account }}\"}", nil, `error p.yaml:8: the variable "account" has no value`},
		{"for nothing", "  - command: {run: do, for: }", nil, "error p.yaml:8: for: a list, or one word, is wanted: it has no value"},
		{"an account that is an option", "  - command: {run: do, for: \"{{ .account }}\"}", []string{"account=[ann, --all]"}, `error -e account:1: account: "--all": a command would take a leading - for an option`},
		{"an account in a line", "  - command: {run: \"do {{ .account }} now\"}", []string{"account=-rf"}, `error -e account:1: account: "-rf": a command would take`},
		{"an account with a line end", "  - classify: {spam: {sasl_user: \"{{ .account }}\"}}", []string{`{"account": "a\u001bb"}`}, `error -e:1: account: "a\x1bb": control characters are in no such name`},
		{"an item in the playbook", "  - command: {run: do, for: [-v]}", nil, `error p.yaml:8: for: for: "-v": a command would take`},
		{"a service", "  - restart: {service: \"../x y\"}", nil, `[{"stage":"restart","args":{"service":"../x y"}}]`},
		{"no service", "  - restart: {service: \"a;b\"}", nil, `error p.yaml:8: service: service: "a;b" is neither the name of a service nor a command line`},
		{"max_fail", "  - count:", []string{"max_stopped=many"}, `error -e max_stopped:1: max_stopped: "many" is no whole number from 0`},
		{"a name from a template", "  - count: {name: \"the {{ .word }}\"}", nil, `[{"stage":"count","name":"the hello","args":{}}]`},
	} {
		pb, err := Parse("p", "p.yaml", []byte(top+tt.stages+"\n"))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got string
		if plan, err := pb.Resolve(nil, extra(t, tt.extra...)); err != nil {
			got = "error " + err.Error()
		} else {
			text, err := json.Marshal(plan.Steps)
			if err != nil {
				t.Fatal(err)
			}
			got = string(text)
		}
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
	// A mistake in rules that come from -e @file has that file's line.
	pb, err := Load("backscatter")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rules, []byte("# found on the way\nspam:\n  any:\n    - sender: \"<>\"\n    - all:\n        - {recipent: \"a@b.c\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	x := extra(t, "@"+rules)
	want := rules + `:6: `
	if _, err := pb.Resolve(unset, x); err == nil || !strings.HasPrefix(err.Error(), want) || !strings.Contains(err.Error(), `did you mean "recipient"?`) {
		t.Errorf("rules from a file: got %v, want %s", err, want)
	}
	// And the same for the command that only tries them.
	args := stage.ClassifyArgs{Spam: x.Values["spam"]}
	if err := Locate(x, args.Check()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("located: got %v, want %s", err, want)
	}
	other := fmt.Errorf("something else")
	if got := Locate(x, other); got != other {
		t.Errorf("what is no mistake in a rule: got %v", got)
	}
}

// A text that is one template keeps the type of its value; every other is text.
func TestTemplates(t *testing.T) {
	const vars = `
  n: 5
  f: 1.5
  on: yes
  none:
  text: hello
  list: [a, b, 3]
  map: {k: {deep: v}}
  data: "{{ .n }}"
  empty: ""
`
	for _, tt := range []struct{ template, want string }{
		{`{{ .n }}`, `5`},
		{`{{.n}}`, `5`},
		{`{{- .n -}}`, `5`},
		{`{{ .f }}`, `1.5`},
		{`{{ .on }}`, `true`},
		{`{{ .list }}`, `["a","b",3]`},
		{`{{ .map }}`, `{"k":{"deep":"v"}}`},
		{`{{ .map.k }}`, `{"deep":"v"}`},
		{`{{ .map.k.deep }}`, `"v"`},
		{`{{ .map.nothing }}`, `error`},
		{` {{ .n }}`, `" 5"`},
		{`{{ .n }}/s`, `"5/s"`},
		{`{{ .n }}{{ .n }}`, `"55"`},
		{`plain`, `"plain"`},
		{`a }} b`, `"a }} b"`},
		{`{{ "}}" }}`, `"}}"`},
		{`{{ .data }}`, `"{{ .n }}"`}, // data, never a template again
		{`x{{ .data }}`, `"x{{ .n }}"`},
		{`{{ default 7 .none }}`, `7`},
		{`{{ .none | default "x" }}`, `"x"`},
		{`{{ .empty | default "x" }}`, `"x"`},
		{`{{ .n | default 7 }}`, `5`},
		{`{{ join "," .list }}`, `"a,b,3"`},
		{`{{ .n | join "," }}`, `error`},
		{`{{ upper .text }}{{ lower "ABC" }}`, `"HELLOabc"`},
		{`{{ json .map }}`, `"{\"k\":{\"deep\":\"v\"}}"`},
		{`{{ len .list }}`, `3`},
		{`{{ index .list 0 }}`, `"a"`},
		{`{{ index .text 0 }}`, `104`},
		{`{{ eq .n 5 }}`, `true`},
		{`{{ if .on }}yes{{ else }}no{{ end }}`, `"yes"`},
		{`{{ if .none }}yes{{ else }}no{{ end }}`, `"no"`},
		{`{{ if .none }}{{ .none }}{{ end }}`, `error`},
		{`{{ range .list }}({{ . }}){{ end }}`, `"(a)(b)(3)"`},
		{`{{ range .list }}{{ $.n }}{{ end }}`, `"555"`},
		{`{{ range .list }}{{ $.nobody }}{{ end }}`, `error`},
		{`{{ with .map.k }}{{ .deep }}{{ end }}`, `"v"`},
		{`{{ with .none }}x{{ else }}{{ .n }}{{ end }}`, `"5"`},
		{`{{ $x := .n }}`, `""`},
		{`{{ $x := .n }}{{ $x }}`, `"5"`},
		{`{{ (index .list 0) | upper }}`, `"A"`},
		{`{{/* nothing */}}`, `""`},
		{`{{ .none }}`, `error`},
		{`{{ .nobody }}`, `error`},
		{`{{ printf "%d" .n }}`, `"5"`},
		{`{{ keep .n }}`, `""`},
	} {
		text := "vars:" + vars + "stages:\n  - count:\n"
		pb, err := Parse("p", "p.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		quoted, err := json.Marshal(tt.template)
		if err != nil {
			t.Fatal(err)
		}
		// In a list and a map too: templates may stand anywhere in a value.
		v, err := strict.Parse("t.yaml", []byte("- {k: ["+string(quoted)+"]}\n"))
		if err != nil {
			t.Fatal(err)
		}
		got := "error"
		if r, err := pb.resolver(nil, nil).value(v); err == nil {
			inner, err := json.Marshal(r.At(0, "k", 0).Plain())
			if err != nil {
				t.Fatal(err)
			}
			got = string(inner)
		} else if !strings.HasPrefix(err.Error(), "t.yaml:1: ") {
			t.Errorf("%s: %v has no place", tt.template, err)
		}
		if got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.template, got, tt.want)
		}
	}
}

func hostVars(t *testing.T, text string) *HostVars {
	t.Helper()
	v, err := strict.Parse("inventory.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	values, _ := v.Plain().(map[string]any)
	// What spoolsweep knows is always there, empty.
	for _, known := range []string{"queue_warn", "postfix_stop"} {
		if _, has := values[known]; !has {
			values[known] = nil
		}
	}
	return &HostVars{Values: values, Origin: v.Get}
}

// playbook < group and host < -e; a known host variable that nothing set is
// empty, and hides nothing.
func TestPrecedence(t *testing.T) {
	const text = `
max_stopped: "{{ .max_stopped }}"
vars: {max_stopped: 1, a: playbook, b: playbook, c: playbook, queue_warn: 700}
stages:
  - classify: {spam: {sender: ["{{ .a }}@x", "{{ .b }}@x", "{{ .c }}@x"]}}
  - confirm: {max_source: "{{ .queue_warn }}"}
`
	pb, err := Parse("p", "p.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	resolve := func(host *HostVars, x *Extra) (string, error) {
		plan, err := pb.Resolve(host, x)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d %s %s", plan.MaxStopped, plan.Steps[0].Args, plan.Steps[1].Args), nil
	}
	host := hostVars(t, "b: host\nc: host\n")
	for _, tt := range []struct {
		name string
		host *HostVars
		x    *Extra
		want string
	}{
		{"playbook", nil, nil, `1 {"spam":{"sender":["playbook@x","playbook@x","playbook@x"]}} {"max_source":700}`},
		{"host", host, extra(t), `1 {"spam":{"sender":["playbook@x","host@x","host@x"]}} {"max_source":700}`},
		{"-e", host, extra(t, "c=extra", "max_stopped=2"), `2 {"spam":{"sender":["playbook@x","host@x","extra@x"]}} {"max_source":700}`},
		{"-e of a known one", host, extra(t, "queue_warn=9"), `1 {"spam":{"sender":["playbook@x","host@x","host@x"]}} {"max_source":9}`},
		{"known, set by the host", hostVars(t, "queue_warn: 800\n"), extra(t), `1 {"spam":{"sender":["playbook@x","playbook@x","playbook@x"]}} {"max_source":800}`},
	} {
		got, err := resolve(tt.host, tt.x)
		if err != nil || got != tt.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", tt.name, got, err, tt.want)
		}
	}
	// A host's mistake has the inventory's line.
	if _, err := resolve(hostVars(t, "a: x\nqueue_warn: lots\n"), extra(t)); err == nil || !strings.HasPrefix(err.Error(), "inventory.yaml:2: max_source: ") {
		t.Errorf("a host's mistake: got %v", err)
	}
	// So has a host variable that is null though the host names it.
	if _, err := resolve(hostVars(t, "b:\n"), extra(t)); err == nil || !strings.Contains(err.Error(), `the variable "b" has no value`) {
		t.Errorf("a host's null: got %v", err)
	}
}

func TestHosts(t *testing.T) {
	for _, tt := range []struct{ text, arg, want string }{
		{"", "", "all"},
		{"hosts: chavez", "", "chavez"},
		{"hosts: [chavez, 'relay*']", "", "chavez,relay*"},
		{"hosts: \"{{ .hosts }}\"", "", `error p.yaml:1: no variable "hosts" (give it: -e hosts=...)`},
		{"hosts: \"{{ .hosts }}\"", "hosts=relays", "relays"},
		{"hosts: \"{{ .hosts }}\"", "{hosts: [a, b]}", "a,b"},
		{"hosts: \"{{ .hosts }}\"", "hosts=5", "error -e hosts:1: hosts: expected text, found the number 5"},
		{"hosts: \"{{ .hosts }}\"", "hosts=", `error p.yaml:1: the variable "hosts" has no value`},
		{"hosts:", "", "error p.yaml:1: hosts: expected text, found nothing"},
		{"hosts: ''", "", "error p.yaml:1: hosts: a pattern is empty"},
		{"hosts: []", "", "error p.yaml:1: hosts: no pattern"},
		{"hosts: {a: b}", "", "error p.yaml:1: hosts: expected text, found a map"},
	} {
		pb, err := Parse("p", "p.yaml", []byte(tt.text+"\nstages:\n  - count:\n"))
		if err != nil {
			t.Fatal(err)
		}
		var args []string
		if tt.arg != "" {
			args = append(args, tt.arg)
		}
		got, err := pb.Hosts(extra(t, args...))
		if err != nil {
			got = "error " + err.Error()
		}
		if got != tt.want && !(strings.HasPrefix(tt.want, "error ") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%s -e %s: got %s, want %s", tt.text, tt.arg, got, tt.want)
		}
	}
}

// A shipped name never means a file, and a file that was found must be ours.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(name, []byte("name: mine\nstages:\n  - count:\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"backscatter", "backscatter.yaml", "mine.yaml"} {
		write(name)
	}
	if pb, err := Load("backscatter"); err != nil || pb.Title != "Clear spam backscatter" {
		t.Errorf("a shipped name beside a file of that name: %+v, %v", pb, err)
	}
	for _, name := range []string{"mine.yaml", "./mine.yaml", "./backscatter", "backscatter.yaml", filepath.Join(dir, "mine.yaml")} {
		if pb, err := Load(name); err != nil || pb.Title != "mine" || pb.Name != name {
			t.Errorf("%s: %+v, %v", name, pb, err)
		}
	}
	if _, err := Load("backscater"); err == nil || !strings.Contains(err.Error(), "shipped are backscatter, backscatter-deferred") {
		t.Errorf("a name that is nothing: %v", err)
	}
	if _, err := Load("./nothing.yaml"); err == nil || !strings.Contains(err.Error(), "nothing.yaml") {
		t.Errorf("a path that is nothing: %v", err)
	}
	// Errors name the file as it was given.
	if err := os.WriteFile("bad.yaml", []byte("stages:\n  - cont:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bad.yaml", "./bad.yaml", filepath.Join(dir, "bad.yaml")} {
		if _, err := Load(name); err == nil || !strings.HasPrefix(err.Error(), name+":2: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Who can write to the file, or to the folder, decides what is run.
	if err := os.Chmod("mine.yaml", 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load("mine.yaml"); err == nil || !strings.Contains(err.Error(), "mine.yaml") {
		t.Errorf("a file that everybody can write: got %v", err)
	}
	if _, err := Load("./mine.yaml"); err != nil {
		t.Errorf("named by its path it was meant: %v", err)
	}
	if err := os.Chmod("mine.yaml", 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if _, err := Load("mine.yaml"); err == nil {
		t.Error("a folder that everybody can write: got nil, want an error")
	}
}
