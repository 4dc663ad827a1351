package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What is wrong with a password is said before any host is reached, and without it.
func TestPasswordFile(t *testing.T) {
	t.Parallel()
	file := func(text string, mode os.FileMode) string {
		t.Helper()
		name := filepath.Join(t.TempDir(), "it's a file")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	inventory := file("all: {hosts: {mx1: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n", 0o600)
	ping := func(args ...string) result {
		return execs(t, append([]string{"ping", "-i", inventory, "--ssh-config", "none", "--known-hosts", "/dev/null", "--reconnect", "0s"}, args...)...)
	}
	for _, c := range []struct {
		name, file, says string
	}{
		{"group may read", file("hush\n", 0o640), "mode 0640): chmod 600 '"},
		{"others may read", file("hush\n", 0o604), "mode 0604"},
		{"others may write", file("hush\n", 0o602), "mode 0602"},
		{"a program", file("#!/bin/sh\necho hush\n", 0o700), "no program is run"},
		{"empty", file("", 0o600), "is empty"},
		{"one empty line", file("\r\n", 0o600), "is empty"},
		{"two lines", file("hush\nhush\n", 0o600), "more than one line"},
		{"a NUL", file("hush\x00\n", 0o600), "more than one line"},
		{"long", file(strings.Repeat("hush", 2000), 0o600), "4096 bytes"},
		{"not there", "/does/not/exist", "--become-password-file /does/not/exist: no such file"},
		{"a directory", t.TempDir(), "it is a directory"},
		{"standard input", "-", "-K asks on the terminal"},
		{"no name", "", "a file is wanted"},
	} {
		r := ping("-b", "--become-password-file", c.file)
		if r.status != statusUsage || !strings.Contains(r.err, c.says) || strings.Contains(r.err, "hush") || strings.Contains(r.err, "mx1") {
			t.Errorf("%s: exit status %d, does not say %q: %s", c.name, r.status, c.says, r.err)
		}
	}
	good := file("hush\n", 0o400)
	ping("-b", "-K").want(t, statusUsage, "no terminal to ask on", "--become-password-file")
	ping("-b", "-K", "--become-password-file", good).want(t, statusUsage, "one of them")
	ping("-K").want(t, 4, "warning: the password is not used", "-b", "mx1")
	if r := ping("-b", "--become-password-file", good); r.status != 4 || strings.Contains(r.err, "warning") {
		t.Errorf("a good file: %+v", r)
	}
	if got, err := readPassword(file("hush h\n", 0o600)); err != nil || string(got) != "hush h" {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// What is to be typed next asks for the password in the same way.
func TestPasswordAgain(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(100)
	name := f.write("sudo's", "hush\n")
	r := f.spoolsweep("run", "backscatter", "-y", "-b", "--become-password-file", name)
	r.want(t, 3, " --become-password-file '"+strings.ReplaceAll(name, "'", `'\''`)+"'", " --become")
	if strings.Contains(r.out+r.err, "hush") {
		t.Errorf("the password is printed: %+v", r)
	}
}
