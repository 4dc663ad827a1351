package strict

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gopkg.in/yaml.v3"

	"spoolsweep/remote/lab/needs"
)

func mustParse(t *testing.T, text string) *Value {
	t.Helper()
	v, err := Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return v
}

// The table of reference/libraries.md, section 11, and the rest of PyYAML's
// resolver. TestScalarsAsAnsible holds it against the real thing.
var scalars = []struct {
	text string
	want any
}{
	{"yes", true}, {"no", false}, {"on", true}, {"Off", false}, {"TRUE", true}, {"y", "y"}, {"oN", "oN"},
	{"~", nil}, {"null", nil}, {"", nil}, {"nUll", "nUll"},
	{"12:30:45", int64(45045)}, {"1:30", int64(90)}, {"-1:30", int64(-90)}, {"1:60", "1:60"}, {"0:30", "0:30"}, {"1:30.5", 90.5},
	{"1e3", "1e3"}, {"1.0e3", "1.0e3"}, {"1.0e+3", 1000.0}, {".5", 0.5}, {"1.", 1.0}, {"-1.5", -1.5}, {"1_0.5", 10.5}, {"+.5", "+.5"},
	{"0o17", "0o17"}, {"0777", int64(511)}, {"0b101", int64(5)}, {"-0x1F", int64(-31)}, {"1_000", int64(1000)},
	{"0", int64(0)}, {"-0", int64(0)}, {"+12", int64(12)}, {"089", "089"}, {"08.5", 8.5}, {"00", int64(0)},
	{"2026-11-23", "2026-11-23"}, {"2026-11-23 10:00:00", "2026-11-23T10:00:00"},
	{"2026-1-3T1:02:03.25Z", "2026-01-03T01:02:03.250000+00:00"}, {"2026-11-23 10:00:00 -5:30", "2026-11-23T10:00:00-05:30"},
	{"50/s", "50/s"}, {"7d", "7d"}, {"<2d", "<2d"}, {"=", "="}, {"1.2.3", "1.2.3"}, {"192.0.2.1", "192.0.2.1"},
	{"+", "+"}, {"1-2", "1-2"}, {"9223372036854775807", int64(math.MaxInt64)}, {"-9223372036854775808", int64(math.MinInt64)},
	{`"yes"`, "yes"}, {"'12:30:45'", "12:30:45"}, {"!!str yes", "yes"}, {"!unsafe yes", "yes"}, {"!!float 1", 1.0}, {"!!int '7'", int64(7)},
}

func TestScalars(t *testing.T) {
	for _, tt := range scalars {
		if diff := cmp.Diff(tt.want, mustParse(t, "a: "+tt.text).Get("a").Plain()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
	}
}

func TestScalarsAsAnsible(t *testing.T) {
	program := needs.Program(t, "ansible-inventory")
	text := "all:\n  hosts:\n    h:\n"
	want := make(map[string]any)
	for i, tt := range scalars {
		if strings.Contains(tt.text, "!unsafe") || tt.text == "=" {
			continue // the first is printed as a map, the second PyYAML cannot read
		}
		key := "v" + strconv.Itoa(i)
		text += "      " + key + ": " + tt.text + "\n"
		want[tt.text] = tt.want
		if n, ok := tt.want.(int64); ok {
			want[tt.text] = json.Number(strconv.FormatInt(n, 10))
		} else if f, ok := tt.want.(float64); ok {
			want[tt.text] = f
		}
	}
	file := filepath.Join(t.TempDir(), "hosts.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "-i", file, "--host", "h")
	command.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v", command, err)
	}
	d := json.NewDecoder(bytes.NewReader(out))
	d.UseNumber()
	var vars map[string]any
	if err := d.Decode(&vars); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]any)
	for i, tt := range scalars {
		v, ok := vars["v"+strconv.Itoa(i)]
		if !ok {
			continue
		}
		got[tt.text] = v
		if n, ok := v.(json.Number); ok && strings.Contains(n.String(), ".") {
			got[tt.text], _ = n.Float64()
		}
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("(-ansible +the table of this test):\n%s", diff)
	}
}

func TestKeysAreText(t *testing.T) {
	v := mustParse(t, "on: controller\n12:30: x\n1: y\n'': z\n")
	want := map[string]any{"on": "controller", "12:30": "x", "1": "y", "": "z"}
	if diff := cmp.Diff(want, v.Plain()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMergeKeys(t *testing.T) {
	v := mustParse(t, `
one: &one {a: 1, b: 1}
two: &two {b: 2, c: 2}
list: {c: 0, <<: [*one, *two]}
twice:
  <<: *one
  <<: *two
  z: 0
text: {"<<": 1}
`)
	for key, want := range map[string]any{
		"list":  map[string]any{"a": int64(1), "b": int64(1), "c": int64(0)},
		"twice": map[string]any{"a": int64(1), "b": int64(2), "c": int64(2), "z": int64(0)},
		"text":  map[string]any{"<<": int64(1)},
	} {
		if diff := cmp.Diff(want, v.Get(key).Plain()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
	if got := v.Get("twice").Get("a").Line; got != 2 {
		t.Errorf("a merged value stands in line %d, want that of its anchor, 2", got)
	}
}

func TestPositions(t *testing.T) {
	v := mustParse(t, `# rules
spam:
  any:
    - raw: a
    - {sender: b,
       recipient: c}
    -
      sender:
        - d
  empty:
ham: &h
  x: 1
also: *h
`)
	for _, tt := range []struct {
		path         []any
		line, column int
	}{
		{nil, 2, 1},
		{[]any{"spam", "any", 1, "recipient"}, 6, 19},
		{[]any{"spam", "any", 2, "sender", 0}, 9, 11},
		{[]any{"spam", "any", 2, "sender", 5, "x"}, 9, 9}, // as far as it goes
		{[]any{"spam", "nothing"}, 3, 3},
		{[]any{"spam", "empty"}, 10, 9},
		{[]any{"also", "x"}, 12, 6},
	} {
		if got := v.At(tt.path...); got.Line != tt.line || got.Column != tt.column {
			t.Errorf("At(%v) is %d:%d, want %d:%d", tt.path, got.Line, got.Column, tt.line, tt.column)
		}
	}
}

// TestErrors holds each message in full, since the line and the hint are what
// this package is for.
func TestErrors(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := 1; i < 9; i++ {
		n, before := strconv.Itoa(i), "*a"+strconv.Itoa(i-1)
		bomb += "a" + n + ": &a" + n + " [" + strings.Repeat(before+", ", 9) + before + "]\n"
	}
	for _, tt := range []struct{ text, want string }{
		// Syntax: the ten broken texts of libraries.md, section 13, and more.
		{"a:\n  b:\n    - x\n    - y\n   - z\nc: 1\n", `f.yaml:5: not valid YAML in or after this line: did not find expected key: "- z"`},
		{"a: [1,\nb: 2\n", `f.yaml:1: not valid YAML in or after this line: did not find expected ',' or ']': "a: [1,"`},
		{"a: \"x\nb: 1\nc: 2\n", `f.yaml:1: not valid YAML in or after this line: found unexpected end of stream: "a: \"x"`},
		{"a:\n  b: 1\n c: 2\n", `f.yaml:3: not valid YAML in or after this line: did not find expected key: "c: 2"`},
		{"a: b: c\n", `f.yaml:1: not valid YAML in or after this line: mapping values are not allowed in this context: "a: b: c" (quote a text that has ": " in it, and indent the keys of one map alike)`},
		{"x: 1\na: *nope\n", `f.yaml:2: not valid YAML in or after this line: unknown anchor 'nope' referenced: "a: *nope" (quote it: "*nope")`},
		{"a: 'it's'\n", `f.yaml:1: not valid YAML in or after this line: did not find expected key: "a: 'it's'"`},
		{"x: 1\na: 'it's'\n", `f.yaml:2: not valid YAML in or after this line: did not find expected key: "a: 'it's'"`},
		{"a: |\n  x\n\tb: 1\nc: 2\n", `f.yaml:3: not valid YAML in or after this line: found a tab character where an indentation space is expected: "b: 1" (indent with spaces, not with tabs)`},
		{"a: 1\n}\n", `f.yaml:2: not valid YAML in or after this line: did not find expected key: "}"`},
		{"a: \x00\n", `f.yaml:1: not valid YAML in or after this line: control characters are not allowed: "a: \x00"`},
		// Templates without quotes.
		{"x: 1\na: {{ .queues }}\n", `f.yaml:2: a template without quotes (quote it: "{{ .queues }}")`},
		{"x: 1\na: {{ .dir }}/x # why\n", `f.yaml:2: not valid YAML in or after this line: did not find expected key: "a: {{ .dir }}/x # why" (quote it: "{{ .dir }}/x")`},
		{"a: [x, {{ default \"b\" .c }}]\n", `f.yaml:1: a template without quotes (quote it: '{{ default "b" .c }}')`},
		// Patterns without quotes.
		{"- sender: @spam.example\n", `f.yaml:1: not valid YAML in or after this line: found character that cannot start any token: "- sender: @spam.example" (quote it: "@spam.example")`},
		{"x: 1\ny:\n  - {sender: %a, raw: b}\n", `f.yaml:3: not valid YAML in or after this line: found character that cannot start any token: "- {sender: %a, raw: b}" (quote it: "%a")`},
		{"client: *.example.org\n", `f.yaml:1: not valid YAML in or after this line: did not find expected alphabetic or numeric character: "client: *.example.org" (quote it: "*.example.org")`},
		{"x: 1\nraw: !wow\n", `f.yaml:2: unknown tag "!wow" (if it is text, quote it: "!wow")`},
		{"{x: 1, raw: !wow }\n", `f.yaml:1: unknown tag "!wow" (if it is text, quote it: "!wow")`},
		{"recipients: >100\n", `f.yaml:1: not valid YAML in or after this line: did not find expected comment or line break: "recipients: >100" (quote it: ">100")`},
		{"{recipients: >100}\n", `f.yaml:1: not valid YAML in or after this line: found character that cannot start any token: "{recipients: >100}" (quote it: ">100")`},
		{"x: 1\nage: >5\n", `f.yaml:2: >5 begins a block of text, and there is none (quote it: ">5")`},
		// What is YAML and still refused.
		{"a: 1\nb: 2\na: 3\n", `f.yaml:3: key "a" is given twice, first in line 1`},
		{"a: 1\n---\nb: 2\n", `f.yaml:2: a second document begins; a file holds one`},
		{"a: 1\n---\nb: [2\n", `f.yaml:3: not valid YAML in or after this line: did not find expected ',' or ']': "b: [2"`},
		{"? [a]\n: 1\n", `f.yaml:1: a key is a map or a list; keys are text`},
		{"a: 1\n?\n: 2\n", `f.yaml:2: a key is missing before the colon`},
		{"a: &x\n  - *x\n", `f.yaml:1: &x stands inside of what it names`},
		{bomb, `f.yaml:6: the aliases of this file stand for more than 1048576 values`},
		{"<<: 1\n", `f.yaml:1: << takes a map or a list of maps, found the number 1`},
		{"a: 2026-13-01\n", `f.yaml:1: "2026-13-01": no such date (if it is text, quote it: "2026-13-01")`},
		{"a: 2026-02-30 10:00:00\n", `f.yaml:1: "2026-02-30 10:00:00": no such date and time (if it is text, quote it: "2026-02-30 10:00:00")`},
		{"a: 99999999999999999999\n", `f.yaml:1: "99999999999999999999": number does not fit into 64 bits (if it is text, quote it: "99999999999999999999")`},
		{"a: .inf\n", `f.yaml:1: ".inf": not a number that JSON can hold (if it is text, quote it: ".inf")`},
		{"a: !!int x\n", `f.yaml:1: "x" is no !!int`},
		{"a: 1\nb: \xff\n", `f.yaml:2: not UTF-8 text`},
	} {
		v, err := Parse("f.yaml", []byte(tt.text))
		if err == nil {
			t.Errorf("Parse(%q) gave %v, want error %s", tt.text, v.Plain(), tt.want)
			continue
		}
		if err.Error() != tt.want {
			t.Errorf("Parse(%q)\ngot  %s\nwant %s", tt.text, err, tt.want)
		}
		if !errors.As(err, new(*Error)) {
			t.Errorf("Parse(%q) gave a %T", tt.text, err)
		}
	}
}

func TestNothing(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "---\n", "---\n...\n"} {
		if v := mustParse(t, text); v.Kind != Null || v.Line == 0 {
			t.Errorf("Parse(%q) is %v in line %d, want Null in a line", text, v.Kind, v.Line)
		}
	}
	if _, err := Parse("f.yaml", bytes.Repeat([]byte("#"), MaxSize+1)); err == nil || err.Error() != "f.yaml: larger than 16 MiB" {
		t.Errorf("a file that is too large: %v", err)
	}
}

// An error at the end of a large file must not take the whole file once for each
// of its lines.
func TestErrorInLargeFile(t *testing.T) {
	text := strings.Repeat("- {name: mx, x: [1, 2, 3]}\n", 5_000) + " - bad: [}\n"
	_, err := Parse("f.yaml", []byte(text))
	if err == nil || !strings.HasPrefix(err.Error(), "f.yaml:5001: ") {
		t.Errorf("got %v, want line 5001", err)
	}
	// Here every shorter start is broken too; the line is then the library's.
	_, err = Parse("f.yaml", []byte("x: 1\ny: \"\n"+strings.Repeat("z\n", 200_000)))
	if want := "f.yaml:2: not valid YAML in or after this line: found unexpected end of stream"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestVault(t *testing.T) {
	v := mustParse(t, "a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6162\n")
	want := map[string]any{"a": map[string]any{Vaulted: "$ANSIBLE_VAULT;1.1;AES256\n6162\n"}}
	if diff := cmp.Diff(want, v.Plain()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRewrite(t *testing.T) {
	v := mustParse(t, "a: [x, {b: T}]\nT: 1\n")
	w, err := v.Rewrite(func(s *Value) (*Value, error) {
		if s.Text == "T" {
			return s.With([]any{int64(5), map[string]any{"k": nil}}), nil
		}
		return s, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"a": []any{"x", map[string]any{"b": []any{int64(5), map[string]any{"k": nil}}}},
		"T": int64(1),
	}
	if diff := cmp.Diff(want, w.Plain()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if at := w.At("a", 1, "b", 1, "k"); at.Line != 1 || at.Column != 12 {
		t.Errorf("what a template made stands at %d:%d, want 1:12, where the template is", at.Line, at.Column)
	}
	mistake := errors.New("no such variable")
	if _, err := v.Rewrite(func(*Value) (*Value, error) { return nil, mistake }); !errors.Is(err, mistake) {
		t.Errorf("error of replace: got %v", err)
	}
}

func TestNearest(t *testing.T) {
	known := []string{"restore", "count", "set-aside", "stop", "start", "rate"}
	for word, want := range map[string]string{
		"restor": "restore", "cuont": "count", "set_aside": "set-aside", "Stop": "stop", "sotp": "stop",
		"rat": "rate", "x": "", "purge": "", "setaside": "set-aside", "": "",
	} {
		if got := Nearest(word, known); got != want {
			t.Errorf("Nearest(%q) is %q, want %q", word, got, want)
		}
	}
}

func TestTrust(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f.yaml")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what      string
		dir, file os.FileMode
		want      string
	}{
		{"safe", 0o755, 0o644, ""},
		{"group may write", 0o775, 0o664, ""},
		{"everybody may write the file", 0o755, 0o646, file + " is writable by everybody"},
		{"everybody may write the folder", 0o777, 0o644, dir + " is writable by everybody"},
		{"sticky folder", 0o777 | os.ModeSticky, 0o644, dir + " is writable by everybody"},
	} {
		if err := errors.Join(os.Chmod(dir, tt.dir), os.Chmod(file, tt.file)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{file, link} {
			got := ""
			if err := Trust(path); err != nil {
				got = err.Error()
			}
			if resolved, err := filepath.EvalSymlinks(dir); err == nil { // /tmp is a link on macOS
				got = strings.ReplaceAll(got, resolved, dir)
			}
			if got != tt.want {
				t.Errorf("%s: Trust(%s) is %q, want %q", tt.what, path, got, tt.want)
			}
		}
	}
	if err := Trust(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(file, 0o644), os.Chown(file, 12345, -1)); err != nil {
			t.Fatal(err)
		}
		if err := Trust(file); err == nil || !strings.HasSuffix(err.Error(), "belongs to neither you nor root") {
			t.Errorf("somebody else's file: %v", err)
		}
	}
}

// FuzzParse holds three laws: no text makes Parse panic; what it gives is JSON,
// so that it can travel; and written down again it means the same.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in testdata: %v", err)
	}
	for _, name := range seeds {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, s := range scalars {
		f.Add([]byte("a: " + s.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := Parse("f", data)
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.File != "f" {
				t.Errorf("error without a place: %v", err)
			}
			return
		}
		if v.size > 10_000 {
			return
		}
		plain := v.Plain()
		if _, err := json.Marshal(plain); err != nil {
			t.Errorf("plain form is no JSON: %v", err)
		}
		text, err := yaml.Marshal(node(plain))
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again", text)
		if err != nil {
			t.Fatalf("written again: %v\n%s", err, text)
		}
		if diff := cmp.Diff(plain, again.Plain()); diff != "" {
			t.Errorf("written again it differs (-first +second):\n%s", diff)
		}
	})
}

// node writes a plain value so that YAML 1.1 and 1.2 agree about it.
func node(plain any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode}
	switch p := plain.(type) {
	case nil:
		n.Value = "~"
	case bool:
		n.Value = strconv.FormatBool(p)
	case int64:
		n.Value = strconv.FormatInt(p, 10)
	case float64:
		n.Value = strconv.FormatFloat(p, 'f', -1, 64)
		if !strings.Contains(n.Value, ".") {
			n.Value += ".0"
		}
	case string:
		n.Value, n.Tag, n.Style = p, "!!str", yaml.DoubleQuotedStyle
	case []any:
		n.Kind = yaml.SequenceNode
		for _, item := range p {
			n.Content = append(n.Content, node(item))
		}
	case map[string]any:
		n.Kind = yaml.MappingNode
		for _, key := range sortedKeys(p) {
			n.Content = append(n.Content, node(key), node(p[key]))
		}
	}
	return n
}
