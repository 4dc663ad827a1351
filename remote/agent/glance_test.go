package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// Who asks one thing of a host that has one Postfix need not ask for that before.
func TestAlone(t *testing.T) {
	_, vars := newHost(t)
	one, two := spool.Instance{Name: "-", Directory: "/etc/postfix", Enabled: true}, spool.Instance{Name: "postfix-out", Directory: "/etc/postfix-out", Enabled: true}
	look := LookCall{Vars: vars, Step: stage.Step{Stage: "count"}, Alone: true}
	for name, c := range map[string]struct {
		has    []spool.Instance
		wanted []string
		err    error
		kind   string // of the fault
		says   string
	}{
		"one":        {has: []spool.Instance{one}},
		"several":    {has: []spool.Instance{one, two}, kind: FaultSeveral},
		"one wanted": {has: []spool.Instance{one, two}, wanted: []string{"postfix-out"}, kind: FaultSeveral},
		"not there":  {has: []spool.Instance{one, two}, wanted: []string{"postfix-web"}, says: "does not have"},
		"no answer":  {err: errors.New("no postmulti"), says: "no postmulti"},
	} {
		env := environment(t)
		env.Instances = func(context.Context) ([]spool.Instance, error) { return c.has, c.err }
		s := serve(t, env)
		s.greeted()
		of := vars
		of.Instances = c.wanted
		look.Vars = of
		s.send(wire.Frame{Kind: wire.Call, ID: 1, Name: "identify", Data: data(t, HostCall{Vars: of, Alone: true})})
		s.send(wire.Frame{Kind: wire.Call, ID: 2, Name: "look", Data: data(t, look)})
		for range 2 {
			f := s.next()
			if c.kind == "" && c.says == "" {
				if f.Kind != wire.Reply {
					t.Errorf("%s: got %+v", name, f)
				}
				continue
			}
			if f.Kind != wire.Error || !strings.Contains(string(f.Data), c.says) || strings.Contains(string(f.Data), `"kind":"`+FaultSeveral+`"`) != (c.kind != "") {
				t.Errorf("%s: got %s %s", name, f.Kind, f.Data)
			}
		}
		if err := s.end(); err != nil {
			t.Error(err)
		}
	}
}

// What only looks where the queues are may be told what Postfix said before; all else
// asks it.
func TestGlance(t *testing.T) {
	_, vars := newHost(t)
	env := environment(t)
	asks, postfix := "", env.Postfix
	env.Postfix = func(ctx context.Context, v stage.Vars) (*spool.Postfix, error) {
		asks += "asked "
		return postfix(ctx, v)
	}
	env.Glance = func(ctx context.Context, v stage.Vars) (*spool.Postfix, error) {
		asks += "glanced "
		return postfix(ctx, v)
	}
	s := serve(t, env)
	s.greeted()
	step := func(name string) LookCall { return LookCall{Vars: vars, Step: stage.Step{Stage: name}} }
	for i, c := range []struct {
		name string
		data any
		want string
	}{
		{"identify", HostCall{Vars: vars}, "glanced "},
		{"look", step("count"), "glanced "},
		{"look", step("suspects"), "asked "},
		{"preflight", PlanCall{Vars: vars, Steps: []stage.Step{{Stage: "count"}}}, "asked "},
		{"idle", HostCall{Vars: vars}, "asked "},
	} {
		asks = ""
		s.send(wire.Frame{Kind: wire.Call, ID: i + 1, Name: c.name, Data: data(t, c.data)})
		f := s.next()
		for f.Kind == wire.News {
			f = s.next()
		}
		if f.Kind != wire.Reply || !strings.HasPrefix(c.want+c.want+c.want, asks) || asks == "" && c.name != "idle" {
			t.Errorf("%s: Postfix was %q, want %q: %s %s", c.name, asks, c.want, f.Kind, f.Data)
		}
	}
	if err := s.end(); err != nil {
		t.Error(err)
	}
}

// What a host gives to keep spares the next look at it a question.
func TestKeep(t *testing.T) {
	if _, err := os.Stat("/proc/sys/kernel/random/boot_id"); err != nil {
		t.Skip("only Linux tells one boot from another")
	}
	bin, conf := t.TempDir(), t.TempDir()
	log := filepath.Join(bin, "log")
	for file, text := range map[string]string{
		filepath.Join(bin, "postfix"):    "#!/bin/sh\n",
		filepath.Join(bin, "postconf"):   "#!/bin/sh\necho x >>" + log + "\nshift; for name; do case $name in config_directory) echo " + conf + ";; queue_directory) echo " + conf + ";; mail_owner) echo root;; *lifetime) echo 5d;; *_*|my*) echo 0;; esac; done\n",
		filepath.Join(conf, "main.cf"):   "",
		filepath.Join(conf, "master.cf"): "",
	} {
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	ask := func(kept []byte) (given []byte) {
		t.Helper()
		env, err := System()
		if err != nil {
			t.Fatal(err)
		}
		env.Build = "test"
		s := serve(t, env)
		s.greeted()
		s.send(wire.Frame{Kind: wire.Call, ID: 1, Name: "identify", Data: data(t, HostCall{Vars: stage.Vars{ConfigDirectory: conf}, Kept: kept})})
		f := s.next()
		if f.Kind == wire.News && f.Event.Kind == wire.Keep {
			given, f = f.Event.Data, s.next()
		}
		if f.Kind != wire.Reply || !strings.Contains(string(f.Data), `"queue_directory":"`+conf+`"`) {
			t.Errorf("got %s %s", f.Kind, f.Data)
		}
		if err := s.end(); err != nil {
			t.Error(err)
		}
		return given
	}
	asked := func() int {
		text, _ := os.ReadFile(log)
		return strings.Count(string(text), "x")
	}
	given := ask(nil)
	if given == nil || asked() != 1 {
		t.Fatalf("given %s, postconf was asked %d times", given, asked())
	}
	if again := ask(given); again != nil || asked() != 1 {
		t.Errorf("given %s again, postconf was asked %d times", again, asked())
	}
	if again := ask([]byte(`"nonsense"`)); again == nil || asked() != 2 {
		t.Errorf("after nonsense: given %s, postconf was asked %d times", again, asked())
	}
}
