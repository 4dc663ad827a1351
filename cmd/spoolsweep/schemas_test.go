package main

import (
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// closed is a schema that the program prints, with each key refused that it does not
// describe: so that all that is written is described.
func closed(t *testing.T, name string) *jsonschema.Schema {
	t.Helper()
	r := execs(t, "schema", name)
	r.want(t, 0)
	printed, err := jsonschema.UnmarshalJSON(strings.NewReader(r.out))
	if err != nil {
		t.Fatal(err)
	}
	definitions := printed.(map[string]any)["definitions"].(map[string]any)
	for _, s := range append([]any{printed}, values(definitions)...) {
		if s := s.(map[string]any); s["properties"] != nil {
			s["additionalProperties"] = false
		}
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("mem:///"+name, printed); err != nil {
		t.Fatal(err)
	}
	sch, err := c.Compile("mem:///" + name)
	if err != nil {
		t.Fatal(err)
	}
	return sch
}

func values(m map[string]any) (all []any) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

func accepts(t *testing.T, sch *jsonschema.Schema, what, text string) {
	t.Helper()
	d, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = sch.Validate(d)
	}
	if err != nil {
		t.Errorf("%s: %v\n%.2000s", what, err, text)
	}
}

// What is printed is what the schemas say: plans, events of every command and of the
// agent, documents.
func TestSchemasOfOutput(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(100)
	waitQuiet(t, f)
	plan, events, results := closed(t, "plan"), closed(t, "events"), closed(t, "results")
	rules := f.write("rules.yaml", demoRules)

	_, waits := f.printed("backscatter", "--host", "peltier", "-e", "rate=0", "--run", "new", "-l", "all", "--reason", "why")
	accepts(t, plan, "plan", waits)
	_, answered := f.printed("backscatter", "--host", "peltier", "-e", "rate=0", "-e", "@"+rules, "-e", "account=x", "-y", "--expect", "7")
	accepts(t, plan, "plan", answered)

	kinds := map[string]int{}
	lines := func(r result) {
		t.Helper()
		n := 0
		for line := range strings.Lines(r.out) {
			n++
			accepts(t, events, r.line, line)
		}
		if n == 0 {
			t.Errorf("%s: no event; %s", r.line, r.err)
		}
		for _, e := range eventsOf(t, r.out) {
			kinds[e.Kind]++
		}
	}
	lines(f.carryOut(f.hosts[1], "check", answered))
	lines(f.carryOut(f.hosts[1], "run", waits))
	lines(f.spoolsweep("run", "backscatter", "-l", "chavez", "-y", "-e", "rate=0", "-o", "jsonl"))
	lines(f.spoolsweep("health", "-o", "jsonl"))
	lines(f.spoolsweep("classify", "-l", "chavez", "-e", "@"+rules, "--list", "-o", "jsonl"))
	lines(f.spoolsweep("resume", "-l", "chavez", "-y", "-e", "@"+rules, "-o", "jsonl"))
	lines(f.spoolsweep("run", "backscatter", "-l", "chavez", "-y", "-e", "nope=1", "-e", "queues=hold", "-o", "jsonl"))
	for _, kind := range []string{"begin", "result", "ask", "judged", "end"} {
		if kinds[kind] == 0 {
			t.Errorf("no event of kind %s was seen: %v", kind, kinds)
		}
	}
	for _, args := range [][]string{
		{"health"}, {"ping"}, {"suspects", "--sample", "2"}, {"sample"}, {"classify", "-e", "@" + rules}, {"suggest"}, {"find", "@members.test"}, {"runs"}, {"attach", "-l", "peltier"},
		{"run", "backscatter", "-l", "peltier", "--check"}, {"resume", "-l", "peltier", "-e", "@" + rules, "-y"}, {"putback", "-l", "peltier", "-y", "--expect", "0"},
	} {
		r := f.spoolsweep(append(args, "-o", "json")...)
		if r.out == "" {
			t.Errorf("%s: status %d, nothing printed: %s", r.line, r.status, r.err)
			continue
		}
		accepts(t, results, r.line, r.out)
	}
	execs(t, "schema").want(t, statusUsage, "one schema is wanted: inventory, playbook")
	execs(t, "schema", "playbok").want(t, statusUsage, `did you mean "playbook"?`)
}
