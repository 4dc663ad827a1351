package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The hosts of a run that could not be reached are those of the next one's limit,
// and what only looks at hosts puts no others in their place.
func TestRetryLists(t *testing.T) {
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	dir := t.TempDir()
	inventory := filepath.Join(dir, "hosts.yaml")
	text := "all: {hosts: {mx2: , mx1: }, vars: {ansible_host: 127.0.0.1, ansible_port: 1}}\n"
	if err := os.WriteFile(inventory, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) result {
		return execs(t, append(args, "-i", inventory, "--ssh-config", "none", "--known-hosts", "/dev/null", "--reconnect", "0s")...)
	}
	do("ping", "-l", "@failed").want(t, statusUsage, "@failed: no run was carried out from here yet", "@./failed")
	do("run", "backscatter", "-y", "-l", "mx1").want(t, 4, "--limit @unreachable names the hosts that could not be reached: 1")
	file := filepath.Join(state, "spoolsweep", "retry", "unreachable")
	kept, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(kept), "# run, ended ") || !strings.HasSuffix(string(kept), "Z\nmx1\n") {
		t.Errorf("kept: %q, %v", kept, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if r := do("ping", "--list-hosts", "-l", "@unreachable"); r.status != 0 || r.out != "mx1\n" {
		t.Errorf("got %+v", r)
	}
	if r := do("ping", "--list-hosts", "-l", "all,!mx1"); r.out != "mx2\n" {
		t.Errorf("got %+v", r)
	}
	do("ping").want(t, 4)
	do("run", "backscatter", "--check").want(t, 4)
	if r := do("ping", "--list-hosts", "-l", "@unreachable"); r.out != "mx1\n" {
		t.Errorf("after what changes nothing: %+v", r)
	}
	do("ping", "-l", "@failed").want(t, statusUsage, "@failed: there are no hosts that failed in the last run (run, ended ")
}

// The password of a vault is read when something needs it, and never printed.
func TestVaultPassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	of, err := filepath.Abs("../../remote/inventory/testdata/same/19-vault-file")
	if err != nil {
		t.Fatal(err)
	}
	good, bad := file("good", "correct horse\n"), file("bad", "hush\n")
	list := func(args ...string) result {
		return execs(t, append([]string{"inventory", "--list", "-i", of + "/hosts"}, args...)...)
	}
	if r := list("--vault-password-file", bad, "--vault-password-file", good); r.status != 0 || !strings.Contains(r.out, `"s3"`) {
		t.Errorf("got %+v", r)
	}
	list().want(t, statusUsage, "group_vars/all.yml:1: encrypted by ansible-vault", "--vault-password-file FILE")
	list("--vault-password-file", bad).want(t, statusUsage, "the vault password is not that of this value")
	list("--vault-password-file", "-").want(t, statusUsage, "a file is wanted")
	list("-J").want(t, statusUsage, "no terminal to ask on", "--vault-password-file")
	list("-J", "--vault-password-file", good).want(t, statusUsage, "one of them")
	if r := list("--vault-password-file", bad); strings.Contains(r.out+r.err, "hush") {
		t.Errorf("the password is printed: %+v", r)
	}
}
