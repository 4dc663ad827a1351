package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote"
	"spoolsweep/remote/inventory"
)

// Which Postfix is meant is said in one way, and in a right one, before any host
// is touched.
func TestInstanceVariables(t *testing.T) {
	t.Parallel()
	for vars, says := range map[string]string{
		`postfix_instances: [out, "a/b"]`:                            `hosts.yaml:4:`,
		`postfix_instances: []`:                                      "a list of names",
		`{postfix_instances: out, postfix_config_directory: /etc/o}`: "exclude each other",
		`postfix_instance: out`:                                      "postfix_instances",
	} {
		dir := t.TempDir()
		text := "all:\n  hosts:\n    192.0.2.1:\n      " + vars + "\n"
		if vars[0] == '{' {
			text = "all:\n  hosts:\n    192.0.2.1: " + vars + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "hosts.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"ping", "--list-hosts", "-i", filepath.Join(dir, "hosts.yaml")}
		want := statusUsage
		if says == "postfix_instances" { // nearly a known name: a warning
			want = 0
		}
		execs(t, args...).want(t, want, says)
	}
}

// The instances of one host take turns, in their order; hosts do not wait for
// each other, and behind one that was lost none is begun.
func TestInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sweep{Printer: new(show.Printer)}
		link := new(remote.Fleet).Link(remote.Target{})
		for _, name := range []string{"chavez", "peltier"} {
			host := &inventory.Host{Name: name}
			for i, instance := range []string{"-", "postfix-in", "postfix-out"} {
				m := &member{host: host, link: link, further: i > 0, Host: newHost(host)}
				m.Instance = instance
				s.members = append(s.members, m)
			}
		}
		begun := make(chan string, 6)
		on := map[string]chan error{}
		for _, m := range s.members {
			on[m.Label()] = make(chan error)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			s.inTurn(t.Context(), s.members, func(m *member) error {
				begun <- m.Label()
				err := <-on[m.Label()]
				if errors.Is(err, remote.ErrLost) {
					m.lost = err
				}
				if err == nil { // its Postfix runs again, and its run goes on
					m.pass()
					err = <-on[m.Label()]
				}
				return err
			})
		}()
		wantBegun := func(want ...string) {
			t.Helper()
			synctest.Wait()
			var got []string
			for len(begun) > 0 {
				got = append(got, <-begun)
			}
			slices.Sort(got)
			if !cmp.Equal(got, want) {
				t.Errorf("begun were %q, want %q", got, want)
			}
		}
		wantBegun("chavez", "peltier")
		on["chavez"] <- nil
		wantBegun("chavez/postfix-in")
		on["chavez/postfix-in"] <- errors.New("stop: Postfix does not stop")
		wantBegun("chavez/postfix-out")
		on["peltier"] <- fmt.Errorf("peltier: %w", remote.ErrLost)
		wantBegun()
		on["chavez"] <- errors.New("restore: no")
		on["chavez/postfix-out"] <- nil
		on["chavez/postfix-out"] <- nil
		<-done
		var got []string
		for _, m := range s.members {
			got = append(got, m.Label()+" "+m.Status)
		}
		want := []string{
			"chavez failed", "chavez/postfix-in failed", "chavez/postfix-out skipped",
			"peltier unreachable", "peltier/postfix-in unreachable", "peltier/postfix-out unreachable",
		}
		if !cmp.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestLabel(t *testing.T) {
	for want, h := range map[string]show.Host{"mx1": {Host: "mx1", Instance: "-"}, "mx2": {Host: "mx2"}, "mx1/postfix-out": {Host: "mx1", Instance: "postfix-out"}} {
		if got := h.Label(); got != want {
			t.Errorf("%+v: %s, want %s", h, got, want)
		}
	}
}
