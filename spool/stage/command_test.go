package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// alone does one stage that needs no Postfix, and returns what it warned of.
func alone(t *testing.T, h *Host, name, args string) (*CommandResult, []string, error) {
	t.Helper()
	row, ok := Find(name)
	if !ok {
		t.Fatalf("no stage %q", name)
	}
	a, err := row.Parse(json.RawMessage(args))
	if err != nil {
		t.Fatalf("%s %s: %v", name, args, err)
	}
	h.Step.Stage = name
	var warned []string
	r, err := row.Run(t.Context(), h, a, func(kind string, data any) {
		if kind == "warn" {
			warned = append(warned, data.(map[string]string)["message"])
		}
	})
	if r == nil {
		return nil, warned, err
	}
	return r.(*CommandResult), warned, err
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		name, args   string
		result, warn string
		fails        string
	}{
		{"done", `{"run": "echo done"}`, `{"exit":0,"output_tail":"done","skipped":false}`, "", ""},
		{"for each", `{"run": "printf '<%s>\n' here", "for": ["a b", "c'd"]}`, `{"exit":0,"output_tail":"\u003chere\u003e\n\u003ca b\u003e\n\u003chere\u003e\n\u003cc'd\u003e","skipped":false}`, "", ""},
		{"one word", `{"run": "echo --", "for": "$(id)"}`, `{"exit":0,"output_tail":"-- $(id)","skipped":false}`, "", ""},
		{"fails", `{"run": "echo no; exit 3"}`, `{"exit":3,"output_tail":"no","skipped":false}`, "command: exit status 3: no; the run goes on", ""},
		{"an account fails", `{"run": "echo cannot lock;exit 3;", "for": ["ann"]}`, `{"exit":3,"output_tail":"cannot lock","skipped":false,"accounts":["ann hacked"]}`, "command: source not stopped: exit status 3: cannot lock; the run goes on", ""},
		{"one of two fails", `{"run": "test b =", "for": ["a", "b"]}`, `{"exit":1,"output_tail":"","skipped":false}`, "command: source not stopped: exit status 1; the run goes on", ""},
		{"required", `{"run": "exit 3", "require_source_stopped": true}`, `{"exit":3,"output_tail":"","skipped":false}`, "", "command: exit status 3, and require_source_stopped is set: nothing was stopped"},
		{"required, and done", `{"run": "true", "require_source_stopped": true}`, `{"exit":0,"output_tail":"","skipped":false}`, "", ""},
		{"no account", `{"run": "false", "for": []}`, `{"exit":0,"output_tail":"","skipped":true,"why":"nobody is named to do it for"}`, "", ""},
		{"no command", `{"run": " ", "for": ["ann"]}`, `{"exit":0,"output_tail":"","skipped":true,"why":"no command is given"}`, "command: source not stopped: no command is given; the run goes on", ""},
		{"no command at all", `{"run": ""}`, `{"exit":0,"output_tail":"","skipped":true,"why":"no command is given"}`, "", ""},
		{"no account, required", `{"run": "false", "for": [], "require_source_stopped": true}`, `{"exit":0,"output_tail":"","skipped":true,"why":"nobody is named to do it for"}`, "", "command: nobody is named to do it for, and require_source_stopped is set: nothing was stopped"},
		{"forged", `{"run": "echo --", "for": ["ann", "Eve", "bob@x.test"]}`, `{"exit":0,"output_tail":"-- ann","skipped":false,"accounts":["ann hacked","Eve forged","bob@x.test forged"],"refused":["Eve","bob@x.test"]}`, `command: nothing was sent with "Eve", its address is only forged: not done for it (force_account: true does it all the same)|command: nothing was sent with "bob@x.test"`, ""},
		{"all forged", `{"run": "false", "for": ["eve@x.test"]}`, `{"exit":0,"output_tail":"","skipped":true,"why":"every account of it is forged","accounts":["eve@x.test forged"],"refused":["eve@x.test"]}`, `command: nothing was sent with "eve@x.test"`, ""},
		{"forged, forced", `{"run": "echo --", "for": ["eve"], "force_account": true}`, `{"exit":0,"output_tail":"-- eve","skipped":false}`, "", ""},
		{"forged, required", `{"run": "echo --", "for": ["ann", "eve"], "require_source_stopped": true}`, `{"exit":0,"output_tail":"-- ann","skipped":false,"accounts":["ann hacked","eve forged"],"refused":["eve"]}`, "command: nothing was sent", `command: ["eve"] is forged, and require_source_stopped is set`},
		{"forged at one domain, not at another", `{"run": "echo --", "for": ["zoe"]}`, `{"exit":0,"output_tail":"-- zoe","skipped":false,"accounts":["zoe hacked"]}`, "", ""},
		{"terminal", `{"run": "printf '\\033[2Jred\\a\\001\\nend\\351\\r\\n'"}`, `{"exit":0,"output_tail":"[2Jred\nend","skipped":false}`, "", ""},
	} {
		h := &Host{Last: func(stage string, into any) bool {
			return stage == "suspects" && json.Unmarshal([]byte(`{"backscatter":[{"value":"eve@x.test","count":9,"finding":"forged","evidence":["x"]},{"value":"bob@x.test","finding":"forged"},{"value":"ann@x.test","finding":"hacked"},{"value":"zoe@x.test","finding":"forged","evidence":["x"]},{"value":"zoe@y.test","finding":"hacked","evidence":["y"]}]}`), into) == nil
		}}
		r, warned, err := alone(t, h, "command", tt.args)
		text, _ := json.Marshal(short(r))
		if string(text) != tt.result {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, text, tt.result)
		}
		want := strings.Split(tt.warn, "|")
		if tt.warn == "" {
			want = nil
		}
		ok := len(warned) >= len(want) && (tt.warn != "" || len(warned) == 0)
		for i, w := range want {
			ok = ok && strings.HasPrefix(warned[i], w)
		}
		if !ok {
			t.Errorf("%s: warned %q, want %q", tt.name, warned, want)
		}
		if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.fails)) {
			t.Errorf("%s: failed with %v, want %q", tt.name, err, tt.fails)
		}
	}
}

// short is a result with no more of its accounts than name and finding.
func short(r *CommandResult) any {
	if r == nil {
		return nil
	}
	out := struct {
		*CommandResult
		Accounts []string `json:"accounts,omitempty"`
		Refused  []string `json:"refused,omitempty"` // behind them
	}{CommandResult: r, Refused: r.Refused}
	for _, t := range r.Accounts {
		out.Accounts = append(out.Accounts, t.Value+" "+t.Finding)
	}
	return out
}

func TestCommandLimits(t *testing.T) {
	h := &Host{Step: Step{Name: "disable", Timeout: 100 * time.Millisecond}}
	began := time.Now()
	r, warned, err := alone(t, h, "command", `{"run": "echo begun; sleep 1000"}`)
	if err != nil || r.Exit != -1 || !strings.HasPrefix(r.OutputTail, "begun\n") || len(warned) != 1 || !strings.HasPrefix(warned[0], "command (disable): it did not end by itself") {
		t.Errorf("at its timeout: %+v, %q, %v", r, warned, err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	r, _, _ = alone(t, &Host{}, "command", `{"run": "yes ä | head -c 60000; echo; echo the end"}`)
	if len(r.OutputTail) > maxTail || !strings.HasSuffix(r.OutputTail, "\nthe end") {
		t.Errorf("%d bytes of output are kept, to %.20q", len(r.OutputTail), r.OutputTail[len(r.OutputTail)-20:])
	}
	// What no_log hides is in no warning, no failure, and not in what is kept.
	h = &Host{Step: Step{NoLog: true}}
	r, warned, err = alone(t, h, "command", `{"run": "echo hush-5309; exit 4"}`)
	bare, _ := json.Marshal(r.Bare())
	if strings.Contains(fmt.Sprint(warned, err, string(bare)), "hush") || len(warned) != 1 || r.Bare().(*CommandResult).Exit != 4 {
		t.Errorf("no_log: %q, %v, %s", warned, err, bare)
	}
}

// On the controller nothing is run here: it asks, and takes what is answered.
func TestCommandOnController(t *testing.T) {
	touched := filepath.Join(t.TempDir(), "touched")
	args := `{"run": "touch ` + touched + `;", "for": ["ann"], "on": "controller"}`
	_, _, err := alone(t, &Host{}, "command", args)
	var ask *Ask
	if !errors.As(err, &ask) || ask.Kind != "controller" {
		t.Fatalf("got %v, want a question for the controller", err)
	}
	if text, _ := json.Marshal(ask.Data); string(text) != "{}" {
		t.Errorf("the question holds %s", text)
	}
	h := &Host{Answer: &Answer{Kind: "controller", Value: `{"exit":5,"output_tail":"no\u001b such"}`}}
	r, warned, err := alone(t, h, "command", args)
	if err != nil || r.Exit != 5 || r.OutputTail != "no such" || len(warned) != 1 || !strings.Contains(warned[0], "source not stopped: exit status 5") {
		t.Errorf("got %+v, %q, %v", r, warned, err)
	}
	if _, err := os.Stat(touched); err == nil {
		t.Error("it was run on the host")
	}
	h.Answer.Value = "{"
	if _, _, err := alone(t, h, "command", args); err == nil {
		t.Error("an answer that is none is taken")
	}
	h.Answer = &Answer{Kind: "confirm", Value: "abc"}
	if _, _, err := alone(t, h, "command", args); !errors.As(err, &ask) {
		t.Errorf("an answer to something else is taken: %v", err)
	}
}

func TestItems(t *testing.T) {
	for text, want := range map[string]string{
		`"ann"`: `["ann"]`, `["ann","bob"]`: `["ann","bob"]`, `[]`: `[]`, `""`: `[]`, `12`: `["12"]`, `["a",12]`: `["a","12"]`,
		`"a,b"`: `["a,b"]`, `null`: "error", `[null]`: "error", `{"a":1}`: "error", `[["a"]]`: "error", `[""]`: `[""]`, `true`: "error",
	} {
		var l Items
		got := "error"
		if err := l.UnmarshalJSON([]byte(text)); err == nil {
			out, _ := json.Marshal(l)
			got = string(out)
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", text, got, want)
		}
	}
}

func TestCheckAccount(t *testing.T) {
	for _, name := range []string{"ann", "ann@x.test", "ann o'hara", "a,b", "ä", "$(id)"} {
		if err := CheckAccount(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "-ann", "--", "a\nb", "a\x00", "a\x1b[2J", "a\u0085b", "a\u2028b", "\xff", strings.Repeat("a", 1025)} {
		if CheckAccount(name) == nil {
			t.Errorf("%.20q is accepted", name)
		}
	}
}

// program makes an executable file.
func program(t *testing.T, path, script string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Services by systemd, by an init script, and by a command of one's own. The
// systemctl here is a stand-in: it answers as systemctl(1) says.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	mark, folders, path := systemdMark, initFolders, os.Getenv("PATH")
	t.Cleanup(func() { systemdMark, initFolders = mark, folders })
	initFolders = []string{filepath.Join(dir, "none"), filepath.Join(dir, "init.d")}
	program(t, filepath.Join(dir, "init.d", "dovecot"), `echo "init $1"`)
	program(t, filepath.Join(dir, "init.d", "broken"), `echo "cannot"; exit 1`)
	program(t, filepath.Join(dir, "bin", "systemctl"), `
case "$1 $4" in
"show saslauthd") echo LoadState=loaded; echo ActiveState=`+"`cat "+dir+"/active`"+` ;;
"show dovecot") echo LoadState=loaded; echo ActiveState=inactive ;;
show*) echo LoadState=not-found; echo ActiveState=inactive ;;
restart*) echo "systemctl $*" ;;
esac`)
	if err := os.WriteFile(filepath.Join(dir, "active"), []byte("active\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		systemd    bool
		args       string
		want, warn string
		fails      string
	}{
		{true, `{"service": "auto"}`, "systemctl restart -- saslauthd", "", ""},
		{true, `{"service": ""}`, "systemctl restart -- saslauthd", "", ""},
		{true, `{"service": "dovecot"}`, "systemctl restart -- dovecot", "", ""},
		{true, `{"service": "gone"}`, "skipped gone: there is no such service", "restart gone: there is no such service: skipped", ""},
		{true, `{"service": "gone", "require_source_stopped": true}`, "", "", "restart gone: there is no such service"},
		{true, `{"service": "none", "require_source_stopped": true}`, "skipped no service is named", "", ""},
		{true, `{"service": "echo own command"}`, "own command", "", ""},
		{false, `{"service": "auto", "require_source_stopped": true}`, "skipped saslauthd is not active", "", ""},
		{false, `{"service": "dovecot"}`, "init restart", "", ""},
		{false, `{"service": "broken"}`, "cannot", "restart: exit status 1: cannot; the run goes on", ""},
		{false, `{"service": "broken", "require_source_stopped": true}`, "cannot", "", "restart: exit status 1: cannot, and require_source_stopped is set"},
		{false, `{"service": "gone"}`, "skipped gone: there is no such service", "restart gone: there is no such service: skipped", ""},
	} {
		systemdMark = filepath.Join(dir, "no such")
		t.Setenv("PATH", path)
		if tt.systemd {
			systemdMark = dir
			t.Setenv("PATH", filepath.Join(dir, "bin")+":"+path)
		}
		r, warned, err := alone(t, &Host{}, "restart", tt.args)
		var got string
		if r != nil {
			got = r.OutputTail
			if r.Skipped {
				got = "skipped " + r.Why
			}
		}
		if got != tt.want {
			t.Errorf("systemd %t, %s: got %q, want %q", tt.systemd, tt.args, got, tt.want)
		}
		if w := strings.Join(warned, "|"); !strings.HasPrefix(w, tt.warn) || tt.warn == "" && w != "" {
			t.Errorf("systemd %t, %s: warned %q, want %q", tt.systemd, tt.args, w, tt.warn)
		}
		if tt.fails == "" && err != nil || tt.fails != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.fails)) {
			t.Errorf("systemd %t, %s: failed with %v, want %q", tt.systemd, tt.args, err, tt.fails)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "active"), []byte("inactive\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	systemdMark = dir
	if r, warned, err := alone(t, &Host{}, "restart", `{}`); err != nil || !r.Skipped || len(warned) != 0 {
		t.Errorf("auto without an active saslauthd: %+v, %q, %v", r, warned, err)
	}
}

func TestCheckPlan(t *testing.T) {
	step := func(name string) Step { return Step{Stage: name} }
	section := []Step{step("stop"), step("set-aside"), step("start")}
	if err := CheckPlan(section); err != nil {
		t.Error(err)
	}
	for i := range section {
		for name, change := range map[string]func(s *Step){
			"skip": func(s *Step) { s.Skip = true }, "once": func(s *Step) { s.Once = true }, "timeout": func(s *Step) { s.Timeout = time.Second },
		} {
			steps := append([]Step{}, section...)
			change(&steps[i])
			if CheckPlan(steps) == nil {
				t.Errorf("a section whose %s has %s is accepted", steps[i].Stage, name)
			}
		}
	}
	for _, change := range []func(s *Step){func(s *Step) { s.Skip = true }, func(s *Step) { s.Once = true }, func(s *Step) { s.NoLog = true }} {
		steps := append([]Step{}, section...)
		for i := range steps {
			change(&steps[i])
		}
		if err := CheckPlan(steps); err != nil {
			t.Errorf("%+v: %v", steps[0], err)
		}
	}
}
