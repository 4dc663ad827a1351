package run

import (
	"os"
	"path/filepath"
	"testing"
)

// What sudo 1.9 lists, as its manual and its source have it.
func TestSudoAll(t *testing.T) {
	const head = "Matching Defaults entries for admin on chavez:\n    env_reset, mail_badpass,\n    secure_path=/usr/sbin\\:/usr/bin\n\nUser admin may run the following commands on chavez:\n"
	for text, want := range map[string]bool{
		"": false,
		"User admin is not allowed to run sudo on chavez.\n":                                     false,
		head + "    (ALL : ALL) ALL\n":                                                           true,
		head + "    (root) NOPASSWD: ALL\n":                                                      true,
		head + "    (root) SETENV: NOPASSWD: /bin/ls, ALL\n":                                     true,
		head + "    (ALL, !root) ALL\n":                                                          true, // sudo itself has no better answer: -u#0
		head + "    (postfix) ALL\n":                                                             false,
		head + "    (root) NOPASSWD: /home/admin/.cache/spoolsweep/spoolsweep-agent-*\n":         false,
		head + "    (root) NOPASSWD: sha256:abc= /usr/libexec/spoolsweep-agent\n    (www) ALL\n": false,
		head + "    (ALL) ALL, !/bin/sh\n":                                                       false,
		head + "    (root) /usr/bin/ALL\n":                                                       false,
	} {
		if got := sudoAll(text); got != want {
			t.Errorf("%s\n: got %t, want %t", text, got, want)
		}
	}
}

func TestWrittenByOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has files that nobody else can write to")
	}
	if writtenByOthers("/bin/sh") {
		t.Error("anybody is said to change /bin/sh")
	}
	dir := t.TempDir() // below the sticky /tmp
	file := filepath.Join(dir, "agent")
	if err := os.WriteFile(file, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	if writtenByOthers(file) {
		t.Error("a file of root's is said to be anybody's")
	}
	for _, spoil := range []func() error{
		func() error { return os.Chmod(dir, 0o777) },
		func() error { return os.Chown(dir, 1, 1) },
		func() error { return os.Chown(file, 1, 1) },
		func() error { return os.Remove(file) },
	} {
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 0, 0); err != nil {
			t.Fatal(err)
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if !writtenByOthers(file) {
			t.Error("somebody else can change it, and it is not said")
		}
	}
}
