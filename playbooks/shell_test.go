package playbooks

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"spoolsweep/playbooks/strict"
	"spoolsweep/spool/stage"
)

// nasty are values that a shell would do something with.
var nasty = []string{
	"plain", "two words", "", "a'b", `a"b`, "$(id)", "`id`", "; id", "x\nid", "$HOME", "*", "~", "#", `\`, `a\`, "''", `'"'"'`, "&& id", "-n", "ä€", "\t",
}

// commandLine resolves the line of one command.
func commandLine(t *testing.T, text string, vars map[string]any) (string, error) {
	t.Helper()
	quoted, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	pb, err := Parse("p", "p.yaml", []byte("stages:\n  - command:\n      run: "+string(quoted)+"\n"))
	if err != nil {
		return "", err
	}
	plan, err := pb.Resolve(&HostVars{Values: vars, Origin: func(string) *strict.Value { return nil }}, nil)
	if err != nil {
		return "", err
	}
	row, _ := stage.Find("command")
	args, err := row.Parse(plan.Steps[0].Args)
	if err != nil {
		t.Fatal(err)
	}
	return args.(*stage.CommandArgs).Run, nil
}

func shell(t *testing.T, line string) string {
	t.Helper()
	out, err := exec.Command("/bin/sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// Whatever a value is, the shell takes it for one word, and for that one.
func TestShellValue(t *testing.T) {
	for _, value := range nasty {
		for _, text := range []string{
			"printf '<%s>' {{ .x }} end", "printf '<%s>' a={{ .x }}=b", "x={{ .x }}; printf '<%s>' \"$x\" end",
			"{{ if true }}printf '<%s>' {{ .x }}{{ else }}false{{ end }} end", "echo start # it's here\nprintf '<%s>' {{ .x }}",
			"(printf '<%s>' $(printf '%s.' {{ .x }} | wc -c) {{ .x }})", "printf '<%s>' it\\'s {{ .x }}", "printf '<%s>' ${x}{{ .x }}",
		} {
			line, err := commandLine(t, text, map[string]any{"x": value})
			if err != nil {
				t.Errorf("%s: %v", text, err)
				continue
			}
			if got := shell(t, line); !strings.Contains(got, "<"+value+">") && !strings.Contains(got, "<a="+value+"=b>") {
				t.Errorf("%s with %q: %s prints %q", text, value, line, got)
			}
		}
	}
	line, err := commandLine(t, "printf '<%s>' {{ .x }}", map[string]any{"x": []any{"a b", "c'd", int64(7)}})
	if err != nil || shell(t, line) != "<a b><c'd><7>" {
		t.Errorf("a list: %s, %v", line, err)
	}
}

func FuzzShellValue(f *testing.F) {
	for _, v := range nasty {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, value string) {
		got, err := quote(value)
		if strings.ContainsRune(value, 0) {
			if err == nil {
				t.Errorf("%q: a null byte is accepted", value)
			}
			return
		}
		if out := shell(t, "printf %s "+got); err != nil || out != value {
			t.Errorf("%q quoted is %s, which prints %q (%v)", value, got, out, err)
		}
	})
}

func TestShellLines(t *testing.T) {
	vars := map[string]any{"x": "a b", "cmd": "usermod -L --", "list": []any{"a b", "c"}, "on": true, "none": nil}
	for _, tt := range []struct{ text, want string }{
		{"{{ .cmd }}", "usermod -L --"}, // a line that is one template is a command
		{"{{ .cmd }} now", "'usermod -L --' now"},
		{"sudo {{ .cmd | raw }} {{ .x }}", "sudo usermod -L -- 'a b'"},
		{"{{ raw .cmd }}", "usermod -L --"},
		{"do {{ .x | upper }}", "do 'A B'"},
		{"do {{ join \",\" .list }} {{ .list }}", "do 'a b,c' 'a b' c"},
		{"do{{ range .list }} -u {{ . }}{{ end }}", "do -u 'a b' -u c"},
		{"{{ with .x }}do {{ . }}{{ end }};", "do 'a b';"},
		{"{{ $y := .x }}do {{ $y }}", "do 'a b'"},
		{"a#b {{ .x }}", "a#b 'a b'"},
		{"echo \"${HOME}\" {{ .x }}", "echo \"${HOME}\" 'a b'"},
		{"echo `date` ${x#y} <<EOF", "echo `date` ${x#y} <<EOF"}, // no template, no question
		{"do '{{ .x }}'", "error p.yaml:3: a template stands inside quotes: it is quoted by itself, so leave them out (or raw: true, and the quotes are yours)"},
		{"do \"{{ .x }}\"", "error p.yaml:3: a template stands inside quotes"},
		{"do \\{{ .x }}", "error p.yaml:3: a template stands inside quotes"},
		{"do # {{ .x }}", "error p.yaml:3: a template stands inside quotes"},
		{"do;# {{ .x }}", "error p.yaml:3: a template stands inside quotes"},
		{"{{ if .on }}'{{ end }}{{ .x }}", "error p.yaml:3: quotes that one branch"},
		{"{{ range .list }}'{{ end }}{{ .x }}", "error p.yaml:3: quotes that one branch"},
		{"{{ if .on }}a{{ else }} {{ end }}# {{ .x }}", "error p.yaml:3: a template stands inside quotes"},
		{"echo `do {{ .x }}`", "error p.yaml:3: a template in a line with `"},
		{"cat <<E\n{{ .x }}\nE", "error p.yaml:3: a template in a line with `"},
		{"echo $'it\\'s' {{ .x }}", "error p.yaml:3: a template in a line with `"},
		{"echo \"${x:-\"{{ .x }}\"}\"", "error p.yaml:3: a template in a line with `"},
		{"echo \"$(do \"{{ .x }}\")\"", "error p.yaml:3: a template in a line with `"},
		{"do {{ .none }}", `error p.yaml:3: the variable "none" has no value`},
		{"do {{ .nobody }}", `error p.yaml:3: no variable "nobody"`},
	} {
		got, err := commandLine(t, tt.text, vars)
		if err != nil {
			got = "error " + err.Error()
		}
		if got != tt.want && !(strings.HasPrefix(tt.want, "error ") && strings.HasPrefix(got, tt.want)) {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, got, tt.want)
		}
	}
	// With raw: true the line is its author's, quotes and all.
	pb, err := Parse("p", "p.yaml", []byte("stages:\n  - command: {run: \"sh -c '{{ .cmd }} x'\", raw: true}\n"))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := pb.Resolve(&HostVars{Values: vars}, nil)
	if err != nil || !strings.Contains(string(plan.Steps[0].Args), `"sh -c 'usermod -L -- x'"`) {
		t.Errorf("raw: got %+v, %v", plan, err)
	}
}
