package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"spoolsweep/playbooks"
	"spoolsweep/playbooks/strict"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/stage"
)

// compiled is a schema, or with a fragment a part of it, that an implementation
// other than ours has found to be one.
func compiled(t testing.TB, name string) *jsonschema.Schema {
	t.Helper()
	file, _, _ := strings.Cut(name, "#")
	s, ok := Of(file)
	if !ok {
		t.Fatalf("no schema %s", file)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("mem:///"+file, document(t, s)); err != nil {
		t.Fatal(err)
	}
	sch, err := c.Compile("mem:///" + name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return sch
}

// document is a value as JSON has it.
func document(t testing.TB, v any) any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// yaml is a YAML file as the program reads it.
func yaml(t testing.TB, text string) any {
	t.Helper()
	v, err := strict.Parse("test", []byte(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return document(t, v.Plain())
}

// reasons are the places of the mistakes, the innermost of each.
func reasons(err error) []string {
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return nil
	}
	var all []string
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) == 0 {
			all = append(all, "/"+strings.Join(e.InstanceLocation, "/")+": "+strings.Join(e.ErrorKind.KeywordPath(), "/")+" "+fmt.Sprint(e.ErrorKind))
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(invalid)
	return all
}

// Each is a schema of its draft, and says what it is.
func TestSchemas(t *testing.T) {
	if names := slices.Sorted(slices.Values(Names())); !slices.Equal(names, slices.Sorted(maps.Keys(named))) {
		t.Errorf("names %v", names)
	}
	for _, name := range Names() {
		compiled(t, name)
		if s, _ := Of(name); s["title"] == nil || s["$schema"] != draft {
			t.Errorf("%s: title %v, $schema %v", name, s["title"], s["$schema"])
		}
	}
}

const root = "../../.."

// examples are what files and pages have indented, or in fences, with its place.
func examples(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	pages, err := filepath.Glob(root + "/cmd/spoolsweep/docs/*.md")
	if err != nil || len(pages) < 3 {
		t.Fatalf("pages: %v, %v", pages, err)
	}
	for _, page := range append(pages, root+"/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		var block strings.Builder
		begun, fence := 0, false
		flush := func() {
			if block.Len() > 0 {
				all[fmt.Sprintf("%s:%d", filepath.Base(page), begun)] = strings.TrimRight(block.String(), "\n") + "\n"
			}
			block.Reset()
		}
		for n, line := range strings.Split(string(text), "\n") {
			rest, indented := strings.CutPrefix(line, "    ")
			switch {
			case strings.HasPrefix(line, "```"):
				flush()
				fence, begun = !fence, n+2
			case fence:
				fmt.Fprintln(&block, line)
			case indented:
				if block.Len() == 0 {
					begun = n + 1
				}
				fmt.Fprintln(&block, rest)
			case line == "":
				if block.Len() > 0 {
					fmt.Fprintln(&block)
				}
			default:
				flush()
			}
		}
		flush()
	}
	return all
}

// The schemas accept every playbook that ships, the inventory that does, and each
// example of the pages, of which none is passed over that begins as one.
func TestAccepts(t *testing.T) {
	for _, name := range playbooks.Shipped() {
		pb, err := playbooks.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := compiled(t, "playbook").Validate(yaml(t, pb.Text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	text, err := os.ReadFile(root + "/inventory.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// As it stands, and with each of the lines that may be taken in.
	for _, text := range []string{string(text), strings.ReplaceAll(string(text), "\n    # ", "\n    ")} {
		var lines []string
		for line := range strings.Lines(text) {
			if word, _, _ := strings.Cut(strings.TrimSpace(line), ":"); strings.HasPrefix(line, "    ") && strings.Contains(word, " ") && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue // a comment in words
			}
			lines = append(lines, line)
		}
		if err := compiled(t, "inventory").Validate(yaml(t, strings.Join(lines, ""))); err != nil {
			t.Errorf("inventory.example.yaml: %v\n%s", err, strings.Join(lines, ""))
		}
	}
	seen := map[string]int{}
	for place, block := range examples(t) {
		of := ""
		block, _, _ = strings.Cut(block, "\n\nspoolsweep ") // what is typed then
		switch first, _, _ := strings.Cut(block, "\n"); {
		case strings.HasPrefix(first, "spam:"), strings.HasPrefix(first, "ham:"):
			of = "rules"
		case strings.HasPrefix(first, "all:"):
			of = "inventory"
		case strings.HasPrefix(first, "vars: "):
			of = "inventory#/definitions/group"
		case strings.HasPrefix(first, "stages:"), strings.HasPrefix(first, "name: "), strings.HasPrefix(first, "hosts: "):
			of = "playbook"
		case strings.HasPrefix(first, "- "):
			of, block = "playbook", "stages:\n"+block
		default:
			continue
		}
		seen[of]++
		if err := compiled(t, of).Validate(yaml(t, block)); err != nil {
			t.Errorf("%s, as %s: %v", place, of, err)
		}
	}
	for of, least := range map[string]int{"rules": 2, "inventory": 1, "inventory#/definitions/group": 2, "playbook": 1} {
		if seen[of] < least {
			t.Errorf("%d examples of %s were found, which are more", seen[of], of)
		}
	}
}

// What the program takes in other forms than the examples have.
func TestAcceptsForms(t *testing.T) {
	for _, row := range []struct{ of, text string }{
		{"rules", "spam: {at_least: 2, of: [{sender: \"<>\"}, {subject: a}, {any: x}]}\nham: []\nwatch: 1m\n"},
		{"rules", "spam: [{any: [{raw: [a, b], lines: 2}, [{size: \">100k\"}, {recipients: 5}]]}, {not: {queue: deferred}}]\n"},
		{"rules", "spam: {header.List-Id: x, lines: 2}\nham: \"\"\n"},
		{"rules", "spam: {any: [a, b]}\n"},
		{"playbook", "hosts: [a, b]\nserial: [1, 10%, \"{{ .n }}\"]\nvars: {n: null}\nstages:\n  - count: {when: \"{{ .n }}\", warn: \"7\", timeout: 1h30m, no_log: true}\n  - stop: {once: true}\n  - set-aside: {queues: \"incoming, deferred\"}\n  - start:\n  - classify: {spam: {subject: \"{{ .n }}\", lines: 1}}\n"},
		{"playbook", "stages:\n  - command: {run: x, for: [a, 7]}\n  - restart: {service: none}\n  - purge: {older_than: 30d, expect: null}\n"},
		{"plan", "{spoolsweep_plan: 1, host: a, run: x, do: begin, only_full: true, steps: [{stage: stop}]}"},
		{"plan", "{spoolsweep_plan: 1, host: a, run: x, do: resume, yes: true, extra: {spam: {sender: a}}, steps: []}"},
		{"plan", "{spoolsweep_plan: 1, host: a, do: add, steps: [{stage: putback, args: {include_spam: true, expect: 3}}]}"},
		{"inventory", "all:\n  hosts: {mx1: , \"mx[1:3]\": {ansible_port: \"22\", ansible_become: \"yes\", other: {a: [1]}}}\n  vars: {postfix_instances: [postfix-out, \"-\"], leftover_warn: 1d12h, ssh: {port: 22, become: yes}, queue_warn: \"{{ n }}\", n: 3}\nrelays:\n"},
	} {
		if err := compiled(t, row.of).Validate(yaml(t, row.text)); err != nil {
			t.Errorf("%s: %v\n%s", row.of, err, row.text)
		}
	}
}

// Each mistake is refused, and where it is made; and by the program too.
func TestRefuses(t *testing.T) {
	for _, row := range []struct{ of, text, at string }{
		{"playbook", "stages:\n  - cuont:\n", "/stages/0: additionalProperties"},
		{"playbook", "stages: []\n", "/stages: minItems"},
		{"playbook", "name: x\n", "/: required"},
		{"playbook", "stage:\n  - count:\nstages:\n  - count:\n", "/: additionalProperties"},
		{"playbook", "stages:\n  - count\n", "/stages/0: type"},
		{"playbook", "stages:\n  - {count: , suspects: }\n", "/stages/0: maxProperties"},
		{"playbook", "stages:\n  - count: {exactly: true}\n", "/stages/0/count: additionalProperties"},
		{"playbook", "stages:\n  - count: {exact: 1}\n", "/stages/0/count/exact: type"},
		{"playbook", "stages:\n  - count: [1]\n", "/stages/0/count: type"},
		{"playbook", "stages:\n  - suspects: {since: 24}\n", "/stages/0/suspects/since: type"},
		{"playbook", "stages:\n  - suspects: {top: -1}\n", "/stages/0/suspects/top: minimum"},
		{"playbook", "stages:\n  - command: {for: [a]}\n", "/stages/0/command: required"},
		{"playbook", "stages:\n  - command:\n", "/stages/0/command: type"},
		{"playbook", "stages:\n  - command: {run: x, on: laptop}\n", "/stages/0/command/on: enum"},
		{"playbook", "stages:\n  - stop: {timeout: 5m}\n  - set-aside:\n  - start:\n", "/stages/0/stop: additionalProperties"},
		{"playbook", "stages:\n  - stop:\n  - set-aside: {queues: [incomming]}\n  - start:\n", "/stages/1/set-aside/queues/0: enum"},
		{"playbook", "stages:\n  - stop:\n  - set-aside: {queues: corrupt}\n  - start:\n", "/stages/1/set-aside/queues: pattern"},
		{"playbook", "stages:\n  - classify: {no_log: true}\n", "/stages/0/classify/no_log: enum"},
		{"playbook", "stages:\n  - classify: {spam: {any: [{sendr: x}]}}\n", "/stages/0/classify/spam/any/0: additionalProperties"},
		{"playbook", "stages:\n  - classify:\n  - restore: {rate: fast}\n", "/stages/1/restore/rate: pattern"},
		{"playbook", "stages:\n  - classify:\n  - restore: {expired: keep}\n", "/stages/1/restore/expired: enum"},
		{"playbook", "max_fail: 110%\nstages:\n  - count:\n", "/max_fail: pattern"},
		{"playbook", "serial: [-1]\nstages:\n  - count:\n", "/serial/0: minimum"},
		{"playbook", "vars: [a]\nstages:\n  - count:\n", "/vars: type"},
		{"rules", "spam: sender\n", "/spam: enum"},
		{"rules", "spam: {sender: \"\"}\n", "/spam/sender: minLength"},
		{"rules", "spam: {sender: x, subject: y}\n", "/spam: maxProperties"},
		{"rules", "spam: {any: [{sender: x, lines: 2}]}\n", "/spam/any/0/sender: "},
		{"rules", "spam: {any: [{lines: 2}]}\n", "/spam/any/0: minProperties"},
		{"rules", "spam: {at_least: 2}\n", "/spam: required"},
		{"rules", "spam: {of: [{sender: x}]}\n", "/spam/of: "},
		{"rules", "spam: {all: []}\n", "/spam/all: minItems"},
		{"rules", "spam: {size: huge}\n", "/spam/size: pattern"},
		{"rules", "spam: {age: 2}\n", "/spam/age: type"},
		{"rules", "spam: {age: \"2\"}\n", "/spam/age: pattern"},
		{"rules", "spam: {queue: spam}\n", "/spam/queue: enum"},
		{"rules", "spam: {subject: 5}\n", "/spam/subject: type"},
		{"rules", "ham: {any: [{header.: x}]}\n", "/ham/any/0: additionalProperties"},
		{"inventory", "all: {host: {mx1: }}\n", "/all: additionalProperties"},
		{"inventory", "all: {hosts: [mx1]}\n", "/all/hosts: type"},
		{"inventory", "all: {vars: {queue_warn: many}}\n", "/all/vars/queue_warn: type"},
		{"inventory", "all: {vars: {leftover_warn: 7}}\n", "/all/vars/leftover_warn: type"},
		{"inventory", "all: {hosts: {mx1: {ssh: {prot: 22}}}}\n", "/all/hosts/mx1/ssh: additionalProperties"},
		{"inventory", "all: {hosts: {mx1: {ansible_port: 70000}}}\n", "/all/hosts/mx1/ansible_port: maximum"},
		{"inventory", "all: {children: {a: {hosts: {mx1: {postfix_instances: []}}}}}\n", "/all/children/a/hosts/mx1/postfix_instances: minItems"},
		{"plan", "{spoolsweep_plan: 2, host: a, steps: [{stage: count}]}", "/spoolsweep_plan: const"},
		{"plan", "{spoolsweep_plan: 1, steps: [{stage: count}]}", "/: required"},
		{"plan", "{spoolsweep_plan: 1, host: a, steps: [{stage: cuont}]}", "/steps/0/stage: enum"},
		{"plan", "{spoolsweep_plan: 1, host: a, steps: [{stage: count, args: {wran: 1}}]}", "/steps/0/args: additionalProperties"},
		{"plan", "{spoolsweep_plan: 1, host: a, steps: [{stage: restore, args: {rate: -1}}]}", "/steps/0/args/rate: minimum"},
		{"plan", "{spoolsweep_plan: 1, host: a, do: undo, steps: []}", "/do: enum"},
		{"plan", "{spoolsweep_plan: 1, host: a, do: add, steps: []}", "/steps: minItems"},
		{"plan", "{spoolsweep_plan: 1, host: a, do: add, steps: [{stage: count}, {stage: putback}]}", "/steps: maxItems"},
		{"plan", "{spoolsweep_plan: 1, host: a, do: resume, only_full: true, steps: []}", "/only_full: const"},
		{"plan", "{spoolsweep_plan: 1, host: a, dry: true, steps: [{stage: count}]}", "/: additionalProperties"},
		{"events", `{run: "", host: a, instance: "-", seq: 1, time: "2026-11-23T23:15:00Z", stage: count, index: 0, event: resutl}`, "/event: enum"},
		{"events", `{run: "", host: a, instance: "-", seq: 1, time: "2026-11-23T23:15:00Z", stage: start, index: 0, event: result, data: {downtime_seconds: long}}`, "/data/downtime_seconds: type"},
		{"events", `{run: "", host: a, instance: "-", seq: 1, time: "yesterday", stage: start, index: 0, event: begin}`, "/time: format"},
		{"results", `{command: run, started: "2026-11-23T23:15:00Z", finished: "2026-11-23T23:15:00Z", hosts: [{host: a, status: fine}]}`, "/hosts/0/status: enum"},
	} {
		v := yaml(t, row.text)
		got := reasons(compiled(t, row.of).Validate(v))
		if !slices.ContainsFunc(got, func(r string) bool { return strings.HasPrefix(r, row.at) }) {
			t.Errorf("%s: %s: want %s, got %q", row.of, strings.TrimSpace(row.text), row.at, got)
		}
		if err := byProgram(row.of, row.text); err == nil {
			t.Errorf("%s: %s: the program takes it", row.of, strings.TrimSpace(row.text))
		}
	}
}

// errElsewhere stands for the program where its own tests have its refusals.
var errElsewhere = errors.New("tested elsewhere")

// byProgram reads a text as the program does.
func byProgram(of, text string) error {
	v, err := strict.Parse("test", []byte(text))
	if err != nil {
		return err
	}
	switch of {
	case "playbook":
		pb, err := playbooks.Parse("test", "test", []byte(text))
		if err != nil {
			return err
		}
		_, err = pb.Resolve(nil, nil)
		return err
	case "rules":
		plain := v.Plain().(map[string]any)
		_, err := pattern.Compile(plain["spam"], plain["ham"])
		return err
	}
	return errElsewhere
}

// What no type says of an argument stands here twice, and both must say the same.
func TestForms(t *testing.T) {
	values := []string{
		`null`, `""`, `0`, `7`, `-1`, `1.5`, `true`, `[]`, `[1]`, `{}`, `"7"`, `"-7"`, `"x"`, `"auto"`, `"hold"`, `"corrupt"`, `"incoming, deferred"`, `["hold"]`, `["auto"]`, `["x"]`,
		`"50/s"`, `"3000/m"`, `"1.5/h"`, `"50/d"`, `"50%"`, `"100%"`, `"101%"`, `"0.5%"`, `"%"`, `"90s"`, `"5m"`, `"7d"`, `"1h30m"`, `"1d12h"`, `"-5m"`, `"30d"`, `"8w"`, `"0d"`,
		`"-"`, `"postfix-out"`, `["postfix-out","-"]`, `["-","-"]`, `"a/b"`, `["a",7]`, `[null]`, `[""]`,
	}
	for typ, form := range read {
		m := newMaker(true)
		sch := compileHere(t, m.root("", form()))
		for _, text := range values {
			v := reflect.New(typ).Interface()
			err := json.Unmarshal([]byte(text), v)
			if text == "null" { // Unmarshal does not ask the type
				err = v.(json.Unmarshaler).UnmarshalJSON([]byte(text))
			}
			if q, ok := v.(*stage.Queues); ok && err == nil {
				err = (&stage.SetAsideArgs{Queues: *q}).Check()
			}
			d, _ := jsonschema.UnmarshalJSON(strings.NewReader(text))
			// An editor is to say what is never meant, though it is taken.
			odd := text == "null" || text == "[null]" || typ == reflect.TypeFor[playbooks.Share]() && text == `"100%"`
			if says := sch.Validate(d); (says == nil) != (err == nil) && !odd {
				t.Errorf("%s %s: the program says %v, the schema %v", typ, text, err, reasons(says))
			}
		}
	}
}

func compileHere(t *testing.T, s Schema) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	if err := c.AddResource("mem:///here", document(t, s)); err != nil {
		t.Fatal(err)
	}
	sch, err := c.Compile("mem:///here")
	if err != nil {
		t.Fatal(err)
	}
	return sch
}

// The words of an argument are those that its Check takes.
func TestWords(t *testing.T) {
	found := 0
	for _, row := range stage.Table {
		for _, name := range row.Keys() {
			words := strings.Fields(field(row, name).Tag.Get("one"))
			if len(words) == 0 {
				continue
			}
			found++
			for _, word := range append(words, "nonsense") {
				args := row.New()
				*stage.Field(args, name).(*string) = word
				if err := args.Check(); (err == nil) != (word != "nonsense") {
					t.Errorf("%s: %s: %q: %v", row.Name, name, word, err)
				}
			}
		}
	}
	if found < 3 {
		t.Errorf("%d arguments with words", found)
	}
}

// Everything is explained, and host variables as the example of an inventory does it.
func TestExplained(t *testing.T) {
	text, err := os.ReadFile(root + "/inventory.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range hostDocs {
		line := ""
		for l := range strings.Lines(string(text)) {
			if strings.Contains(l, "# "+name+":") {
				line = l
			}
		}
		if !strings.HasSuffix(strings.TrimSpace(line), "# "+doc) {
			t.Errorf("%s: %q is not what %q says", name, doc, strings.TrimSpace(line))
		}
	}
	for name, s := range variables() {
		if hostDocs[name] == "" && !strings.HasPrefix(name, "ansible_") && name != "ssh" {
			t.Errorf("%s is not explained: %v", name, s)
		}
	}
	walk := func(place string, s Schema) {
		for name, p := range s["properties"].(map[string]Schema) {
			if p["description"] == nil {
				t.Errorf("%s: %s is not explained", place, name)
			}
		}
	}
	p := plan()
	walk("plan", p)
	walk("a step", p["definitions"].(map[string]Schema)["stage.Step"])
	e := events()
	delete(e["properties"].(map[string]Schema), "time")
	walk("an event", e)
	walk("a playbook", playbook())
}
