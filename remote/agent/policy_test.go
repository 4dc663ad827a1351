package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

func policyFile(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "agent.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func step(t *testing.T, name, args string) stage.Step {
	t.Helper()
	return stage.Step{Stage: name, Args: json.RawMessage(args)}
}

// What a file of a host does not name is not done there, and the line that would
// have it done is said.
func TestPolicy(t *testing.T) {
	const listed = "# of postmaster\n\n command = passwd --lock\ncommand=/usr/local/sbin/lock\nservice = dovecot\nmail_log = /var/log/mail.log\n"
	disable := step(t, "command", `{"run": "passwd --lock", "for": ["spam-account"], "on": "host"}`)
	for _, r := range []struct {
		name, file string
		vars       stage.Vars
		steps      []stage.Step
		changes    bool
		want       string // "" for permitted
		remedy     string
	}{
		{"nothing is limited", "", stage.Vars{Stop: "anything"}, []stage.Step{step(t, "stop", `{}`)}, true, "", ""},
		{"looks", "read_only = yes\n", stage.Vars{}, []stage.Step{step(t, "count", `{}`)}, false, "", ""},
		{"read only", "read_only = yes\n", stage.Vars{}, []stage.Step{step(t, "stop", `{}`)}, false, "read_only = yes", "log in"},
		{"read only, without stages", "read_only = yes\n", stage.Vars{}, nil, true, "read_only = yes", "log in"},
		{"not read only", "read_only = no\n", stage.Vars{}, []stage.Step{step(t, "stop", `{}`)}, true, "", ""},
		{"a listed command", listed, stage.Vars{}, []stage.Step{disable}, true, "", ""},
		{"another command", listed, stage.Vars{}, []stage.Step{step(t, "command", `{"run": "passwd --lock; id", "for": ["x"]}`)}, true,
			`no line for this command: "passwd --lock; id"`, "command = passwd --lock; id"},
		{"one that is passed over", listed, stage.Vars{}, []stage.Step{{Stage: "command", Args: json.RawMessage(`{"run": "id"}`), Skip: true}}, true, "", ""},
		{"for nobody", listed, stage.Vars{}, []stage.Step{step(t, "command", `{"run": "id", "for": []}`)}, true, "", ""},
		{"on the controller", listed, stage.Vars{}, []stage.Step{step(t, "command", `{"run": "id", "on": "controller"}`)}, true, "", ""},
		{"a listed service", listed, stage.Vars{}, []stage.Step{step(t, "restart", `{"service": "dovecot"}`)}, true, "", ""},
		{"what saslauthd is", listed, stage.Vars{}, []stage.Step{step(t, "restart", `{"service": "auto"}`)}, true, "", ""},
		{"another service", listed, stage.Vars{}, []stage.Step{step(t, "restart", `{"service": "sh -c id"}`)}, true, "no line for this service", "service = sh -c id"},
		{"a listed file", listed, stage.Vars{MailLog: "/var/log/mail.log"}, nil, false, "", ""},
		{"another file", listed, stage.Vars{MailLog: "/etc/shadow"}, nil, false, `no line for this mail_log: "/etc/shadow"`, "mail_log = /etc/shadow"},
		{"a configuration", listed, stage.Vars{ConfigDirectory: "/tmp/x"}, nil, false, "no line for this postfix_config_directory", ""},
		{"a start", listed, stage.Vars{Start: "id"}, nil, false, "no line for this postfix_start", ""},
		{"a state", listed, stage.Vars{StateDirectory: "/tmp/x"}, nil, false, "no line for this state_directory", ""},
	} {
		t.Run(r.name, func(t *testing.T) {
			file := ""
			if r.file != "" {
				file = policyFile(t, r.file)
			}
			p, err := readPolicy(file)
			if err != nil {
				t.Fatal(err)
			}
			err = p.permit(r.vars, r.steps, r.changes)
			if r.want == "" && err != nil || r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want) || !strings.Contains(err.Error(), file)) {
				t.Errorf("got %v, want %q", err, r.want)
			}
			if err != nil && !strings.Contains(spool.RemedyOf(err), r.remedy) {
				t.Errorf("remedy %q, want %q", spool.RemedyOf(err), r.remedy)
			}
		})
	}
}

// Every variable by which a plan could have root read a file or run a command is
// limited: a new one is to be thought of.
func TestPolicyKnowsVars(t *testing.T) {
	harmless := []string{"postfix_instances", "instance", "queue_warn", "queue_crit", "leftover_warn", "ledger_keep",
		"disable_account", "enable_account", "stop_source", "auth_service"} // these do nothing but by a stage
	known := limited(stage.Vars{})
	text, err := json.Marshal(stage.Vars{ConfigDirectory: "a", Instances: stage.Instances{"a"}, Instance: "a", Stop: "a", Start: "a", Status: "a", QueueWarn: 1, QueueCrit: 1,
		LeftoverWarn: 1, LedgerKeep: 1, StateDirectory: "a", MailLog: "a", DisableAccount: "a", EnableAccount: "a", StopSource: "a", AuthService: "a"})
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for _, name := range harmless {
		delete(all, name)
	}
	for name := range all {
		if _, ok := known[name]; !ok {
			t.Errorf("%s is not limited", name)
		}
		delete(known, name)
	}
	if len(known) > 0 {
		t.Errorf("limited, and not a variable: %v", known)
	}
}

// A file that says something else, or that somebody else could have written, lets
// nothing be done.
func TestPolicyFaults(t *testing.T) {
	for text, want := range map[string]string{
		"read_only\n":              ":1: no line such as",
		"\nread_only = maybe\n":    ":2: read_only is yes or no",
		"command =\n":              ":1: no line such as",
		"# x\n\ncomand = passwd\n": `:3: nothing here is named "comand"`,
	} {
		file := policyFile(t, text)
		if _, err := readPolicy(file); err == nil || !strings.Contains(err.Error(), file+want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	file := policyFile(t, "read_only = no\n")
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := readPolicy(file); err == nil || !strings.Contains(spool.RemedyOf(err), "chmod 644 "+file) {
		t.Errorf("written by all: %v", err)
	}
	if err := permitCall(t.TempDir(), "look", nil); err == nil {
		t.Error("a folder is no such file")
	}
	if p, err := readPolicy(filepath.Join(t.TempDir(), "agent.conf")); p != nil || err != nil {
		t.Errorf("none: %v, %v", p, err)
	}
}

// Of all that can be called, nothing changes a host that is only to be looked at.
func TestPolicyOfCalls(t *testing.T) {
	file := policyFile(t, "read_only = yes\n")
	changing := map[string]bool{"begin": true, "resume": true, "cancel": true, "forget": true}
	for name := range calls {
		if err := permitCall(file, name, json.RawMessage(`{}`)); (err != nil) != changing[name] {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop := json.RawMessage(`{"steps": [{"stage": "stop"}]}`)
	if err := permitCall(file, "preflight", stop); err == nil || !strings.Contains(err.Error(), "only looked at") {
		t.Errorf("preflight of a run: %v", err)
	}
	shadow := json.RawMessage(`{"vars": {"mail_log": "/etc/shadow"}}`)
	for name := range calls {
		if name == wire.Sum {
			continue
		}
		if err := permitCall(file, name, shadow); err == nil {
			t.Errorf("%s of a log that is not named", name)
		}
	}
	plan := &Plan{Steps: []stage.Step{{Stage: "stop", Args: json.RawMessage(`{}`)}}}
	if err := permitPlan(file, plan, planRun); err == nil {
		t.Error("a plan that changes something")
	}
	if err := permitPlan(file, plan, planCheck); err != nil {
		t.Errorf("what a plan would do: %v", err)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add("read_only = yes\n# x\ncommand = a = b\n")
	f.Add("mail_log=journal\nservice = ")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePolicy("agent.conf", text)
		if err != nil {
			if p != nil || !strings.HasPrefix(err.Error(), "agent.conf:") {
				t.Errorf("%v, %v", p, err)
			}
			return
		}
		for name, values := range p.allowed {
			for _, v := range values {
				if v == "" || p.allow(name, v) != nil || p.allow(name, v+"x") == nil && !strings.Contains(text, v+"x") {
					t.Errorf("%s: %q", name, v)
				}
			}
		}
	})
}
