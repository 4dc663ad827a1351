package lab_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"spoolsweep/remote/lab"
)

// released are the files of a release for this machine, made once.
var released = sync.OnceValues(func() (string, error) {
	p, err := program()
	if err != nil {
		return "", err
	}
	out := filepath.Join(p.home, "release")
	build := exec.Command("go", "run", "spoolsweep/cmd/release", "-o", out, "-systems", runtime.GOOS+"/"+runtime.GOARCH)
	if said, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build it: %w\n%s", err, said)
	}
	return out, nil
})

// release is the one of these tests, and its program.
func release(t *testing.T) (out, file string) {
	t.Helper()
	built.Store(true)
	out, err := released()
	must(t, err)
	return out, filepath.Join(out, "spoolsweep-"+runtime.GOOS+"-"+runtime.GOARCH)
}

// packaged is the file of a package, for this machine.
func packaged(t *testing.T, name string) string {
	t.Helper()
	out, _ := release(t)
	found, err := filepath.Glob(filepath.Join(out, name+"-[0-9]*-linux-"+runtime.GOARCH+".deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %q, %v", name, found, err)
	}
	return found[0]
}

// with runs the program of the release, which finds nothing else on this machine.
func with(t *testing.T, f *fleet, args ...string) result {
	t.Helper()
	_, file := release(t)
	argv, env := commandLine(t, f, args...)
	cmd := exec.CommandContext(t.Context(), file, argv[1:]...)
	cmd.Env = append(env, "PATH=/nowhere", "XDG_CACHE_HOME="+t.TempDir())
	var out, complaint strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &complaint
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{status: cmd.ProcessState.ExitCode(), out: out.String(), err: complaint.String()}
}

// dpkg does something with packages of this machine, as root of the host.
func dpkg(t *testing.T, h *lab.Host, do string, files ...string) {
	t.Helper()
	for _, file := range files {
		text, err := os.Open(file)
		must(t, err)
		defer text.Close()
		put := h.Command(t.Context(), "tee", "/root/"+filepath.Base(file))
		put.Stdin = text
		must(t, put.Run())
		inside(t, h, "DEBIAN_FRONTEND=noninteractive dpkg "+do+" /root/"+filepath.Base(file))
	}
}

// A host whose agent comes in a package, whose sudo lets its admin start that and
// nothing else, and where it does what agent.conf allows: from its installation to
// its end.
func TestPackages(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, "ansible_user: admin", "ansible_become: true", "disable_account: /usr/local/sbin/lock", few)
	inside(t, h, `printf '#!/bin/sh\necho "$1" >> /root/locked\n' > /usr/local/sbin/lock; chmod 755 /usr/local/sbin/lock`)
	withSudo(t, h)
	dpkg(t, h, "--install", packaged(t, "spoolsweep"), packaged(t, "spoolsweep-agent"))
	inside(t, h, `groupadd postmaster; usermod -aG postmaster admin
install -m 440 /usr/share/doc/spoolsweep-agent/examples/sudoers /etc/sudoers.d/spoolsweep; visudo -c -q
spoolsweep version
dpkg -L spoolsweep spoolsweep-agent > /root/files
grep -qx /usr/share/man/man1/spoolsweep-run.1.gz /root/files; grep -qx /usr/share/man/man8/spoolsweep-agent.8.gz /root/files
bash -ec '. /usr/share/bash-completion/completions/spoolsweep'
for file in /usr/lib/spoolsweep /usr/lib/spoolsweep/* /usr/bin/spoolsweep /etc/spoolsweep; do test "$(stat -c %u:%g:%a $file)" = 0:0:755; done`)

	says := func(r result, status int, words ...string) {
		t.Helper()
		for _, w := range words {
			if r.status != status || !strings.Contains(r.out+r.err, w) {
				t.Fatalf("want exit status %d and %q: %v", status, w, r)
			}
		}
	}
	if r := with(t, f, "ping", "-v"); r.status != 0 || strings.Contains(r.out+r.err, "sent there") || strings.Contains(r.out, "not root") {
		t.Fatalf("the agent of the package is there, and sudo lets it be root: %v", r)
	}
	inside(t, h, "test ! -e /home/admin/.cache/spoolsweep")

	messages := smallFlood(t, h)
	run := append(sweepAway(t, h), "-e", "account="+account(h))
	const conf = "/etc/spoolsweep/agent.conf"
	pid := mastersOf(t, []*lab.Host{h})[0]
	says(with(t, f, run...), 2, h.Name, conf+` has no line for this command: "/usr/local/sbin/lock"`, "add to it: command = /usr/local/sbin/lock")
	inside(t, h, "sed -i 's/^read_only = no/read_only = yes/' "+conf+"; echo command = /usr/local/sbin/lock >> "+conf)
	says(with(t, f, run...), 2, conf+" has read_only = yes")
	says(with(t, f, "health"), 0, h.Name)
	shadow := newFleet(t, []*lab.Host{h}, "ansible_user: admin", "ansible_become: true", "mail_log: /etc/shadow")
	says(with(t, shadow, "suspects"), 2, `no line for this mail_log: "/etc/shadow"`)
	inside(t, h, "test ! -e /root/locked; test ! -e /var/lib/spoolsweep/runs")
	if now := mastersOf(t, []*lab.Host{h})[0]; now != pid {
		t.Fatalf("Postfix was %s, is %s", pid, now)
	}
	inside(t, h, "sed -i 's/^read_only = yes/read_only = no/' "+conf)
	says(with(t, f, run...), 0, h.Name)
	inside(t, h, `test "$(cat /root/locked)" = `+account(h))
	a, err := h.Audit(t.Context())
	must(t, err)
	checkOnce(t, h, a, messages)

	// An upgrade keeps what root wrote, and has another agent in the place of this.
	dir := t.TempDir()
	for _, argv := range [][]string{
		{"dpkg-deb", "-R", packaged(t, "spoolsweep-agent"), dir + "/next"},
		{"sh", "-ec", `cd "$0"; sed -i 's/^Version: .*/Version: 9.9.9-1/' DEBIAN/control; cd usr/lib/spoolsweep; mv spoolsweep-agent-* spoolsweep-agent-next; echo '# next' >> "$0/etc/spoolsweep/agent.conf"`, dir + "/next"},
		{"dpkg-deb", "--root-owner-group", "-b", dir + "/next", dir + "/next.deb"},
	} {
		if said, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", argv, err, said)
		}
	}
	dpkg(t, h, "--force-confdef --install", dir+"/next.deb")
	inside(t, h, `test "$(ls /usr/lib/spoolsweep)" = spoolsweep-agent-next; grep -q '^command = /usr/local/sbin/lock$' `+conf)
	// This version has an agent of its own now, and sudo no rule for that one.
	says(with(t, f, "ping"), 4, "sudo: a password is required")
	inside(t, h, "dpkg --remove spoolsweep spoolsweep-agent; test ! -e /usr/lib/spoolsweep; test ! -e /usr/bin/spoolsweep; grep -q ^command "+conf)
	// What was set aside is told of there, and is not the package's to forget.
	inside(t, h, "dpkg --purge spoolsweep spoolsweep-agent; test ! -e /etc/spoolsweep; test -d /var/lib/spoolsweep/runs; test -d /var/spool/postfix/active.spamfull")
}
