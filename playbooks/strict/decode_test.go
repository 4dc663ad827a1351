package strict

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type upper string // an UnmarshalText of the stages' kind

func (u *upper) UnmarshalText(text []byte) error {
	if len(text) > 4 {
		return errTooLong
	}
	*u = upper(text)
	return nil
}

var errTooLong = errors.New("more than four letters")

type oneOrMore []string

func (o *oneOrMore) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*o = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(o))
}

type common struct {
	Name string `json:"name"`
}

type args struct {
	common
	Rate     string         `json:"rate"`
	Force    bool           `json:"force"`
	Max      int            `json:"live_max"`
	Small    int8           `json:"small"`
	Count    uint           `json:"count"`
	Share    float64        `json:"share"`
	Queues   []string       `json:"queues,omitempty"`
	Rules    any            `json:"rules"`
	Vars     map[string]any `json:"vars"`
	Watch    time.Duration  `json:"watch"`
	Expect   *int           `json:"expect"`
	Nested   *struct{ Port int }
	Upper    upper             `json:"upper"`
	Accounts oneOrMore         `json:"account"`
	Env      map[string]string `json:"env"`
	Hidden   string            `json:"-"`
}

func TestDecode(t *testing.T) {
	v := mustParse(t, `
name: x
rate: 50/s
force: on
live_max: 5_00
small: -7
count: 0
share: 2
queues: [deferred, "12"]
rules: {any: [{raw: a}]}
vars: {a: yes, b: ~}
watch: 1d12h
expect: 0
Nested: {Port: 25}
upper: 0777
account: one
env: {A: b}
`)
	var got args
	if err := Decode(v, &got); err != nil {
		t.Fatal(err)
	}
	zero := 0
	want := args{
		common: common{"x"}, Rate: "50/s", Force: true, Max: 500, Small: -7, Share: 2,
		Queues: []string{"deferred", "12"},
		Rules:  map[string]any{"any": []any{map[string]any{"raw": "a"}}},
		Vars:   map[string]any{"a": true, "b": nil},
		Watch:  36 * time.Hour, Expect: &zero, Nested: &struct{ Port int }{25},
		Upper: "0777", Accounts: oneOrMore{"one"}, Env: map[string]string{"A": "b"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(args{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDecodeNull(t *testing.T) {
	set := 5
	got := args{Rate: "kept", Expect: &set, Queues: []string{"x"}, Rules: 1}
	if err := Decode(mustParse(t, "{expect: , queues: ~, rules: , Nested: }"), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(args{Rate: "kept"}, got, cmp.AllowUnexported(args{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := Decode(mustParse(t, ""), &got); err != nil {
		t.Errorf("nothing, as in `- count:`, into a struct: %v", err)
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"live_mx: 1", `f.yaml:2: unknown key "live_mx" (did you mean "live_max"?)`},
		{"Hidden: 1", `f.yaml:2: unknown key "Hidden" (known: name, rate, force, live_max, small, count, share, queues, rules, vars, watch, expect, Nested, upper, account, env)`},
		{"Nested: {Prot: 1}", `f.yaml:2: unknown key of Nested: "Prot" (did you mean "Port"?)`},
		{"rate: 50", `f.yaml:2: rate: expected text, found the number 50 (quote it: "50")`},
		{"rate: off", `f.yaml:2: rate: expected text, found the truth value off (quote it: "off")`},
		{"rate:", `f.yaml:2: rate: expected text, found nothing`},
		{"rate: [a]", `f.yaml:2: rate: expected text, found a list`},
		{"rate: !vault x", `f.yaml:2: rate: expected text, found a value encrypted by ansible-vault`},
		{"force: \"yes\"", `f.yaml:2: force: expected true or false, found the text "yes"`},
		{"live_max: 1.5", `f.yaml:2: live_max: expected a whole number, found the number 1.5`},
		{"live_max: many", `f.yaml:2: live_max: expected a whole number, found the text "many"`},
		{"small: 128", `f.yaml:2: small: expected a whole number, found the number 128`},
		{"count: -1", `f.yaml:2: count: expected a whole number from 0, found the number -1`},
		{"share: x", `f.yaml:2: share: expected a number, found the text "x"`},
		{"queues: deferred", `f.yaml:2: queues: expected a list, found the text "deferred"`},
		{"queues:\n - a\n - 5", `f.yaml:4: queues.2: expected text, found the number 5 (quote it: "5")`},
		{"vars: [a]", `f.yaml:2: vars: expected a map, found a list`},
		{"Nested: 5", `f.yaml:2: Nested: expected a map, found the number 5`},
		{"Nested:\n  Port: x", `f.yaml:3: Nested.Port: expected a whole number, found the text "x"`},
		{"watch: 5", `f.yaml:2: watch: expected a time such as 90s, 5m or 7d, found the number 5`},
		{"watch: 1:30", `f.yaml:2: watch: expected a time such as 90s, 5m or 7d, found the number 1:30`},
		{"watch: -5m", `f.yaml:2: watch: expected a time such as 90s, 5m or 7d, found the text "-5m"`},
		{"upper: longer", `f.yaml:2: upper: more than four letters`},
		{"upper: [a]", `f.yaml:2: upper: expected text, found a list`},
		{"account: {}", `f.yaml:2: account: json: cannot unmarshal object into Go value of type []string`},
	} {
		err := Decode(mustParse(t, "# args\n"+tt.text+"\n"), new(args))
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q\ngot  %v\nwant %s", tt.text, err, tt.want)
		}
	}
	if err := Decode(mustParse(t, "[a]"), new(args)); err == nil || err.Error() != `f.yaml:1: expected a map, found a list` {
		t.Errorf("a list into a struct: %v", err)
	}
	if err := Decode(mustParse(t, "upper: longer"), new(args)); !errors.Is(err, errTooLong) {
		t.Errorf("%v does not unwrap to what UnmarshalText returned", err)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90s": 90 * time.Second, "1h30m": 90 * time.Minute, "7d": 168 * time.Hour, "1d1s": 24*time.Hour + time.Second,
		"": -1, "d": -1, "-1d": -1, "-5m": -1, "5": -1, "1d-5m": -1, "1.5d": -1, "70000d": -1, "1d2562047h": -1,
	} {
		got, err := ParseDuration(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("ParseDuration(%q) is %v, want %v", text, got, want)
		}
	}
}
