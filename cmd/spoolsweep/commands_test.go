package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/remote/inventory"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func TestSlotsMaxFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1, 2)
		for i, host := range []string{"a", "a", "b"} {
			s.fail(host)
			if n, over := s.over(); over || n != []int{1, 1, 2}[i] {
				t.Errorf("after %d: %d failed, over %t", i+1, n, over)
			}
			release, ok := s.take(t.Context())
			if !ok {
				t.Fatalf("after %d that failed no place is given", i+1)
			}
			release()
		}
		s.fail("c")
		s.fail("d")
		if n, over := s.over(); !over || n != 4 {
			t.Errorf("%d failed, over %t", n, over)
		}
		if _, ok := s.take(t.Context()); ok {
			t.Error("a place is given after more than max_fail")
		}
	})
}

// hostVars replaces the fleet's inventory by one with variables.
func (f *fleet) hostVars(all string, hosts ...string) {
	f.t.Helper()
	f.write(fleetInventory, "all:\n  vars: {queue_warn: 50, live_max: 0, auth_service: none"+all+"}\n  hosts:\n    "+strings.Join(hosts, "\n    ")+"\n")
}

func (f *fleet) read(name string) string {
	text, _ := os.ReadFile(f.file(name))
	return string(text)
}

// Batches come one after the other, and no further one after too many failed
// while they were changed.
func TestSerialMaxFail(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "relay01")
	if err := f.flood(t.Context(), demoAccount, 0); err != nil {
		t.Fatal(err)
	}
	f.hostVars("", "chavez: {me: chavez, exit: 0}", "peltier: {me: peltier, exit: 3}", "relay01: {me: relay01, exit: 0}")
	book := f.write("book.yaml", `
serial: [1, 1]
max_fail: "{{ .max_fail }}"
vars: {max_fail: 0%}
stages:
  - command: {run: "echo {{ .me }} >>`+f.file("log")+`; true"}
  - command: {run: "exit {{ .exit }}", require_source_stopped: true}
`)
	r := f.spoolsweep("run", book, "-y")
	r.want(t, 2, "peltier | command FAILED: command: exit status 3", "relay01 | not begun: 1 failed before (max_fail); it is as it was", "3 hosts: 1 ok, 1 failed, 1 skipped")
	if got := f.read("log"); got != "chavez\npeltier\n" {
		t.Errorf("begun on %q", got)
	}
	r = f.spoolsweep("run", book, "-y", "-e", "max_fail=1")
	r.want(t, 2, "3 hosts: 2 ok, 1 failed")
	if got := f.read("log"); got != "chavez\npeltier\nchavez\npeltier\nrelay01\n" {
		t.Errorf("begun on %q", got)
	}
}

// The controller runs what its own plan has, and nothing else unasked.
func TestCommandHere(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(0)
	log := f.file("log")
	book := f.write("book.yaml", `
vars: {account: []}
stages:
  - command: {name: here, run: "echo done for", for: "{{ .account }}", on: controller}
  - command: {run: "echo once >>`+log+`", on: controller, once: true}
  - command: {run: "echo $0 hidden >>`+log+`; echo hush-5309", on: controller, no_log: true}
  - command: {run: "false", when: false}
`)
	r := f.spoolsweep("run", book, "-y", "-e", "account=[a b, c]")
	r.want(t, 0, "chavez | command   here done: done for c", "chavez | command   skipped: its when is false", "source: would run on this machine: echo done for 'a b'")
	if got := f.read("log"); got != "once\nsh hidden\n" && got != "once\n/bin/sh hidden\n" {
		t.Errorf("done here: %q", got)
	}
	if strings.Contains(r.out+r.err, "hush") {
		t.Errorf("it tells what no_log hides:\n%s%s", r.out, r.err)
	}
	f.spoolsweep("run", book, "--list-stages").want(t, 0, "command    run a command")

	// A run whose controller is gone waits. Resume runs nothing that the host's
	// record says, unless somebody at a terminal agrees.
	started := f.file("started")
	book = f.write("slow.yaml", "stages:\n  - command: {run: \"touch "+started+"; sleep 1000\", on: controller}\n")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for _, err := os.Stat(started); err != nil && ctx.Err() == nil; _, err = os.Stat(started) {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	var out, stderr bytes.Buffer
	app := newApp(strings.NewReader(""), &out, &stderr)
	app.Metadata[agentSource] = f.source
	if status := inProcess(ctx, app, append([]string{"spoolsweep", "run", book, "-y"}, f.where()...)...); status != statusInterrupted {
		t.Fatalf("exit status %d: %s", status, &stderr)
	}
	if err := os.Remove(started); err != nil {
		t.Fatal(err)
	}
	id := runID.FindString(stderr.String())
	f.spoolsweep("resume", id, "-y").want(t, 3, "the run's record there wants this done here: touch "+started, "waits for a command on the controller: spoolsweep resume "+id)
	f.spoolsweep("resume", id).want(t, 3)
	f.spoolsweep("attach", id).want(t, 3, "waits for a command on the controller")
	if _, err := os.Stat(started); err == nil {
		t.Error("it was run here unasked")
	}
}

// What a host asks for that its plan does not have is not run.
func TestCommandNotInPlan(t *testing.T) {
	touched := filepath.Join(t.TempDir(), "touched")
	line := json.RawMessage(`{"run": "touch ` + touched + `"}`)
	here := json.RawMessage(`{"run": "true", "on": "controller"}`)
	m := &member{host: &inventory.Host{Name: "chavez"}, Host: &show.Host{Host: "chavez"}}
	d := &driver{sweep: &sweep{}, plans: map[*member]*playbooks.Plan{m: {Steps: []stage.Step{
		{Stage: "command", Args: line}, {Stage: "count"}, {Stage: "command", Args: here, Skip: true}, {Stage: "command", Args: here},
	}}}}
	for index, want := range map[int]bool{-1: false, 0: false, 1: false, 2: false, 3: true, 4: false} {
		a, err := d.command(t.Context(), m, &run.AskRecord{Kind: "controller", Index: index, Data: json.RawMessage(`{"run": "touch ` + touched + `"}`)})
		if (a != nil) != want || (err == nil) != want {
			t.Errorf("stage %d: got %+v, %v", index+1, a, err)
		}
	}
	if a, err := d.command(t.Context(), m, &run.AskRecord{Kind: "controller", Index: 3, Data: json.RawMessage(`{}`)}); err == nil {
		t.Errorf("asked for twice: got %+v", a)
	}
	if _, err := os.Stat(touched); err == nil {
		t.Error("it was run")
	}
}

func TestSourceOf(t *testing.T) {
	for _, tt := range []struct {
		stage, args string
		variable    string
		want        string
	}{
		{"count", `{}`, "account", "source not stopped: this run disables no account"},
		{"command", `{"run": "id"}`, "account", "source not stopped: this run disables no account"},
		{"command", `{"run": "usermod -L --", "for": []}`, "account", "source not stopped: no account is named (-e account=NAME)"},
		{"command", `{"run": "", "for": ["ann"]}`, "account", "source not stopped: the host variable disable_account names no command"},
		{"command", `{"run": "usermod -L --", "for": ["ann", "o'hara"]}`, "account", `source: would run: usermod -L -- ann|source: would run: usermod -L -- 'o'\''hara'`},
		{"command", `{"run": "x", "for": ["ann"], "on": "controller"}`, "account", "source: would run on this machine: x ann"},
		{"command", `{"run": "stop --", "for": []}`, "source", "source not stopped: neither a user nor a script is named (-e source=NAME)"},
		{"command", `{"run": "", "for": ["www-data"]}`, "source", "source not stopped: the host variable stop_source names no command"},
		{"command", `{"run": "stop --", "for": ["www-data"]}`, "source", "source: would run: stop -- www-data"},
	} {
		got := strings.Join(sourceOf([]stage.Step{{Stage: tt.stage, Args: json.RawMessage(tt.args)}}, wordsOf([]string{tt.variable})), "|")
		if !strings.HasPrefix(got, tt.want) {
			t.Errorf("%s %s: got %q, want %q", tt.stage, tt.args, got, tt.want)
		}
	}
	hidden := stage.Step{Stage: "command", Args: json.RawMessage(`{"run": "x hush", "for": ["ann"]}`), NoLog: true}
	if got := sourceOf([]stage.Step{hidden}, wordsOf(nil)); len(got) != 1 || strings.Contains(got[0], "hush") {
		t.Errorf("no_log: got %q", got)
	}
}

// What must be done, and cannot be since nobody is named or no command, is refused
// before any host is reached; a plan that sets nothing aside does not speak of queues.
func TestMustBeDone(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(60)
	for _, tt := range [][]string{
		{"chavez: disable the account: no account is named: give -e account=NAME", "disable-account"},
		{"chavez: disable the account: the host variable disable_account names no command for it (spoolsweep manual accounts", "disable-account", "-e", "account=ann"},
		{"chavez: enable the account: no account is named", "enable-account"},
		{"chavez: enable the account: the host variable enable_account names no command", "enable-account", "-e", "account=ann"},
		{"chavez: stop the source: neither a user nor a script is named: give -e source=NAME", "local-flood", "-e", "require_source_stopped=true"},
		{"chavez: stop the source: the host variable stop_source names no command for it", "local-flood", "-e", "require_source_stopped=true", "-e", "source=www-data"},
		{"chavez: disable the account: no account is named", "backscatter", "-e", "require_source_stopped=true"},
	} {
		for _, how := range []string{"-y", "--check"} {
			r := f.spoolsweep(append([]string{"run", how}, tt[1:]...)...)
			r.want(t, statusUsage, tt[0])
			if strings.Contains(r.err, "plan:") {
				t.Errorf("hosts were looked at: %s", r.err)
			}
		}
	}
	r := f.spoolsweep("run", "disable-account", "--check", "-e", "account=ann", "-e", "disable_account=true --")
	r.want(t, 0, "source: would run: true -- ann")
	if strings.Contains(r.err, "set aside") || strings.Contains(r.err, "stays live") {
		t.Errorf("nothing is to be set aside: %s", r.err)
	}
}
