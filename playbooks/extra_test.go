package playbooks

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseExtra(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.yaml", "spam: {sasl_user: eve}\nrate: 20/s\n")
	list := file("list.yaml", "- a\n")
	broken := file("broken.yaml", "spam:\n  sender: *x\n")
	empty := file("empty.yaml", "# nothing yet\n")
	for _, tt := range []struct {
		args []string
		want string // JSON, or the begin of an error
	}{
		{nil, `{}`},
		{[]string{"a=b"}, `{"a":"b"}`},
		{[]string{"n=5", "f=1.5", "on=yes", "off=false", "text='5'"}, `{"f":1.5,"n":5,"off":false,"on":true,"text":"5"}`},
		{[]string{"rate=50/s", "eq=a=b", "list=[a, 2]", "map={k: v}"}, `{"eq":"a=b","list":["a",2],"map":{"k":"v"},"rate":"50/s"}`},
		{[]string{"none="}, `{"none":null}`},
		{[]string{"t={{ .x }}"}, "-e t:1: "},
		{[]string{"t='{{ .x }}'"}, `{"t":"{{ .x }}"}`},
		{[]string{"@" + good}, `{"rate":"20/s","spam":{"sasl_user":"eve"}}`},
		{[]string{"@" + good, "rate=9"}, `{"rate":9,"spam":{"sasl_user":"eve"}}`},
		{[]string{"rate=9", "@" + good}, `{"rate":"20/s","spam":{"sasl_user":"eve"}}`},
		{[]string{"{a: 1, b: [x]}"}, `{"a":1,"b":["x"]}`},
		{[]string{` {"a": {"b": null}}`}, `{"a":{"b":null}}`},
		{[]string{"word"}, `-e "word": it takes name=value, @file.yaml, or '{name: value}'`},
		{[]string{"=x"}, `-e "=x": it takes`},
		{[]string{"a b=c"}, `-e "a b=c": it takes`},
		{[]string{"a: b=c"}, `-e "a: b=c": it takes`},
		{[]string{""}, `-e "": it takes`},
		{[]string{"@"}, ""},
		{[]string{"@" + filepath.Join(dir, "nothing.yaml")}, ""},
		{[]string{"@" + list}, list + ":1: expected a map of variables, found a list"},
		{[]string{"@" + empty}, empty + ":1: expected a map of variables, found nothing"},
		{[]string{"@" + broken}, broken + ":2: "},
		{[]string{"{a: [}"}, "-e:1: "},
		{[]string{"a=[b"}, "-e a:1: "},
	} {
		x, err := ParseExtra(tt.args)
		if !strings.HasPrefix(tt.want, "{") {
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("-e %q:\n got %v\nwant %s", tt.args, err, tt.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("-e %q: %v", tt.args, err)
			continue
		}
		got, err := json.Marshal(x.Values)
		if err != nil || string(got) != tt.want {
			t.Errorf("-e %q: got %s, %v, want %s", tt.args, got, err, tt.want)
		}
		for name := range x.Values {
			if x.Origin(name) == nil {
				t.Errorf("-e %q: %s comes from nowhere", tt.args, name)
			}
		}
	}
}

func TestUnused(t *testing.T) {
	pb, err := Load("backscatter")
	if err != nil {
		t.Fatal(err)
	}
	x := extra(t, "rate=5", "hosts=chavez", "max_stopped=2", "colour=red", "spam={}", "acount=eve")
	if d := cmp.Diff([]string{"acount", "colour"}, x.Unused(pb)); d != "" {
		t.Errorf("(-want +got): %s", d)
	}
	want := []string{"account", "auth_service", "disable_account", "expired", "force_account", "ham", "hosts", "live_max", "max_stopped", "queues", "rate", "require_source_stopped", "spam", "watch"}
	if d := cmp.Diff(want, pb.Used()); d != "" {
		t.Errorf("used (-want +got): %s", d)
	}
}

// A resumed run has its variables from a record in JSON, and -e over them. What
// was not given again resolves to the same plan, so that the run goes on where
// something has changed, and nowhere else.
func TestOver(t *testing.T) {
	pb, err := Load("backscatter")
	if err != nil {
		t.Fatal(err)
	}
	first := extra(t, "max_stopped=2", "rate=1000000", "live_max=70", "queues=[incoming, active]", "{spam: {any: [{raw: [a, b], lines: 2}]}, ham: {sender: '@x.test'}}")
	plan, err := pb.Resolve(unset, first)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(first.Values)
	if err != nil {
		t.Fatal(err)
	}
	var before map[string]any
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	same, err := pb.Resolve(unset, extra(t).Over(before))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(plan, same); d != "" {
		t.Errorf("nothing given again (-first +second): %s", d)
	}
	other, err := pb.Resolve(unset, extra(t, "ham={sender: '@y.test'}").Over(before))
	if err != nil {
		t.Fatal(err)
	}
	for i := range plan.Steps {
		if changed := string(plan.Steps[i].Args) != string(other.Steps[i].Args); changed != (plan.Steps[i].Stage == "classify") {
			t.Errorf("%s changed: %t", plan.Steps[i].Stage, changed)
		}
	}
	// A mistake in what was given before has the template's place: its own
	// file is on another laptop.
	_, err = pb.Resolve(unset, extra(t).Over(map[string]any{"rate": "fast"}))
	if err == nil || !strings.HasPrefix(err.Error(), "backscatter.yaml:35: rate: ") {
		t.Errorf("a mistake of before: got %v", err)
	}
	// Over changes neither.
	x := extra(t, "a=1")
	x.Over(before)
	if len(x.Values) != 1 || before["a"] != nil {
		t.Errorf("changed: %v, %v", x.Values, before["a"])
	}
}

// What only stages with no_log read stays out of the record.
func TestExtraKept(t *testing.T) {
	pb, err := Parse("p", "p.yaml", []byte("stages:\n  - command: {run: \"do {{ .open }} x\"}\n  - command: {run: \"do {{ .open }} {{ .secret }}\", no_log: true}\n  - command: {run: \"do {{ .b }} x\", no_log: no}\n"))
	if err != nil {
		t.Fatal(err)
	}
	x := extra(t, "open=1", "secret=hush", "other=2", "b=3")
	if got := fmt.Sprint(x.Kept(pb)); got != "map[b:3 open:1 other:2]" {
		t.Errorf("got %s", got)
	}
	if x.Values["secret"] != "hush" {
		t.Error("it is gone from the variables themselves")
	}
}
