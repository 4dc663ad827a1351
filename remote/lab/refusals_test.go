package lab_test

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab"
)

// refusal is one reason why a host cannot be swept now.
type refusal struct {
	name     string
	vars     []string // of that host alone
	do       string   // a shell command in the host brings it about
	undo     string
	on       func(t *testing.T, f *fleet, h, other *lab.Host) // the same on this side
	off      func(t *testing.T, h *lab.Host)
	args     []string
	password string // is given for sudo

	status int
	says   string
	remedy string
}

const (
	unreachable = 4
	failed      = 2
)

// Where something is in the way the error names the host, what, and the remedy;
// the host is left as it was, and the others go on.
func TestRefusals(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	h, other := two[0], two[1]
	messages := flooded(t, h, 1, map[string]int{"deferred": 100})
	succeeds(t, newFleet(t, two), "ping") // the agent is there

	fits := func(text, want string) bool { return regexp.MustCompile(want).MatchString(text) }
	for _, row := range refusals {
		t.Run(row.name, func(t *testing.T) {
			f := newFleet(t, two, queueWarn)
			if row.vars != nil {
				f.afflict(t, h, row.vars...)
			}
			if row.do != "" {
				_, err := h.Run(t.Context(), "sh", "-ec", row.do)
				must(t, err)
			}
			if row.on != nil {
				row.on(t, f, h, other)
			}
			args := append(sweepAway(t, h), row.args...)
			if row.password != "" {
				args = append(args, "--become-password-file", passwordFile(t, row.password))
			}
			before := takeSnapshot(t, h)
			doc, r := spoolsweepJSON(t, f, args...)
			after := takeSnapshot(t, h)
			if row.undo != "" {
				_, err := h.Run(t.Context(), "sh", "-ec", row.undo)
				must(t, err)
			}
			if row.off != nil {
				row.off(t, h)
			}

			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("the host changed, -before +after:\n%s", diff)
			}
			status := show.Failed
			if row.status == unreachable {
				status = show.Unreachable
			}
			s := hostIn(t, doc, h)
			if r.status != row.status || s.Status != status || s.Error == nil {
				t.Fatalf("want exit status %d, %s: %v", row.status, status, r)
			}
			if !fits(s.Error.Message, row.says) || !fits(s.Error.Remedy, row.remedy) {
				t.Errorf("want %q, remedy %q; got %q, remedy %q", row.says, row.remedy, s.Error.Message, s.Error.Remedy)
			}
			// What is told on the terminal names the host.
			if !fits(r.err, `(?m)^`+h.Name+` +\| .*(?:`+row.says+`)`) {
				t.Errorf("%q is not told of %s: %v", row.says, h.Name, r)
			}
			if s := hostIn(t, doc, other); s.Status != show.OK || s.Error != nil {
				t.Errorf("the other host is %s, %v: want that it goes on", s.Status, s.Error)
			}
		})
	}

	succeeds(t, newFleet(t, two, queueWarn), append(sweepAway(t, h), "-e", "rate=0")...)
	checkSwept(t, h, messages)
	alive(t, h)
}

// Keys that are unknown are asked about once, for all hosts, and known from then
// on; -y asks nothing, and accept-new says what it took.
func TestUnknownKeysAsked(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, queueWarn)
	none := func() {
		t.Helper()
		f.known = filepath.Join(t.TempDir(), "known_hosts")
		must(t, os.WriteFile(f.known, nil, 0o600))
	}
	known := func() int {
		t.Helper()
		text, err := os.ReadFile(f.known)
		must(t, err)
		return strings.Count(string(text), " ssh-ed25519 ")
	}
	typing := func(text string) func(io.Writer) {
		return func(in io.Writer) { _, _ = io.WriteString(in, text) }
	}
	none()
	status, shown := onTerminal(t, f, typing("n\n"), "run", "backscatter")
	if status != unreachable || strings.Count(shown, "SHA256:") != 2 || strings.Count(shown, "[y/N]") != 1 || known() != 0 {
		t.Errorf("no: exit status %d, %d keys are known:\n%s", status, known(), shown)
	}
	// Of one host, beside one that is known.
	knowOnly(t, f, two[1], "")
	status, shown = onTerminal(t, f, typing("y\nn\n"), "run", "backscatter")
	if status != 1 || !strings.Contains(shown, "Is this the host's own key?") || !strings.Contains(shown, "Do this on 2 of 2 hosts?") || known() != 2 {
		t.Errorf("one of two: exit status %d, %d keys are known:\n%s", status, known(), shown)
	}
	none()
	status, shown = onTerminal(t, f, typing("y\nn\n"), "run", "backscatter")
	if status != 1 || !strings.Contains(shown, "Are these the hosts' own keys?") || !strings.Contains(shown, "Do this on 2 of 2 hosts?") || known() != 2 {
		t.Errorf("yes: exit status %d, %d keys are known:\n%s", status, known(), shown)
	}
	succeeds(t, f, "ping")

	none()
	ends(t, unreachable, f, "run", "backscatter", "-y")
	if known() != 0 {
		t.Errorf("-y took %d keys", known())
	}
	r := succeeds(t, f, "ping", "--host-key-checking", "accept-new")
	if strings.Count(r.err, "is trusted from now on: ssh-ed25519 SHA256:") != 2 || known() != 2 {
		t.Errorf("accept-new: %d keys are known: %v", known(), r)
	}
	if r := succeeds(t, f, "ping", "--host-key-checking", "accept-new"); strings.Contains(r.err, "trusted") {
		t.Errorf("accept-new, of known ones: %v", r)
	}
	knowOnly(t, f, two[1], two[0].Name+","+two[0].Address)
	if r := ends(t, unreachable, f, "ping", "--host-key-checking", "accept-new"); !strings.Contains(r.err, "HOST KEY CHANGED") {
		t.Errorf("accept-new, of one that changed: %v", r)
	}
}

// stray is a name that Postfix might have given a file with that inode.
const stray = "00000AAAAA"

var refusals = []refusal{
	// First of all: qmgr dies at it, when it next looks there.
	{
		name: "root's file in incoming", do: "cd /var/spool/postfix/incoming && touch " + stray + " && chmod 700 " + stray, undo: "rm /var/spool/postfix/incoming/" + stray,
		status: failed, says: "incoming/" + stray + " belongs to uid 0: the queue manager ends at it", remedy: "move it out of the queue",
	},
	{
		name: "odd name", do: "touch /var/spool/postfix/hold/notes.txt && chown postfix /var/spool/postfix/hold/notes.txt", undo: "rm /var/spool/postfix/hold/notes.txt",
		status: failed, says: "hold/notes.txt is no queue id: with maillog_file set, 'postfix start' fails over it", remedy: "move it out of the queue",
	},
	{
		name: "wrong inode", do: "cd /var/spool/postfix/hold && touch " + stray + " && chmod 700 " + stray + " && chown postfix " + stray, undo: "rm /var/spool/postfix/hold/" + stray,
		status: failed, says: "hold/" + stray + " has another inode than its name says", remedy: "run 'postsuper -s' while Postfix runs",
	},
	{
		name: "main.cf that no start would take", do: "postconf -e inet_interfaces=192.0.2.77", undo: restoreConfiguration,
		status: failed, says: `/etc/postfix/main\.cf does not pass: .*no local interface found for 192\.0\.2\.77`, remedy: "postfix check",
	},
	{
		name: "main.cf that cannot be read", do: "echo this is no setting >>/etc/postfix/main.cf", undo: restoreConfiguration,
		status: failed, says: "configuration of Postfix cannot be read.*missing '='", remedy: "postfix check",
	},
	{
		name: "master.cf", do: "echo smtps inet n >>/etc/postfix/master.cf", undo: restoreConfiguration,
		status: failed, says: `configuration of Postfix cannot be read.*master\.cf: line \d+: bad field count`, remedy: "postfix check",
	},
	{
		name: "no Postfix", do: "mount --bind /dev/null /usr/sbin/postfix", undo: "umount /usr/sbin/postfix",
		status: failed, says: "no Postfix on this host", remedy: "install it, or leave the host out",
	},
	{
		name: "queue on another file system", vars: []string{"queues: [incoming, deferred]"},
		do: "mount --bind /var/spool/postfix/incoming /var/spool/postfix/incoming", undo: "umount /var/spool/postfix/incoming",
		status: failed, says: "incoming is a mount of its own", remedy: "leave it out of queues, or unmount it",
	},
	{
		// The directories are those of the host's own tree, whose lower layer is /.
		name: "queue on an overlay", vars: []string{"queues: [incoming]"},
		do: "cd /srv && mkdir -p q && cd q && mkdir -p maildrop incoming active deferred hold corrupt defer pid public && chown postfix . * && mount --bind /srv/q /var/spool/postfix", undo: "umount /var/spool/postfix",
		status: failed, says: "/var/spool/postfix lies on an overlay file system", remedy: "put the queue on a file system of its own",
	},
	{
		name: "queue disk full", do: "postconf -e queue_minfree=900000000000000", undo: restoreConfiguration,
		status: failed, says: `/var/spool/postfix has \d+ MB free for new mail \(queue_minfree, 1\.5 times message_size_limit\) and the run, and 85\d{7} MB are needed`, remedy: "make room",
	},
	{
		name: "message_size_limit", do: "postconf -e message_size_limit=800000000000000 mailbox_size_limit=0 virtual_mailbox_limit=0", undo: restoreConfiguration,
		status: failed, says: `/var/spool/postfix has \d+ MB free for new mail .* and 1144\d{6} MB are needed`, remedy: "make room",
	},
	{
		name: "no inodes", do: "mkdir -p /var/lib/spoolsweep && mount -t tmpfs -o nr_inodes=500,mode=0700 tmpfs /var/lib/spoolsweep", undo: "umount /var/lib/spoolsweep && rmdir /var/lib/spoolsweep",
		status: failed, says: `/var/lib/spoolsweep has 49\d inodes free for the run's records, and 1000 are needed`, remedy: "remove files there, or name another state_directory",
	},
	{
		name: "state directory full", do: "mkdir -p /var/lib/spoolsweep && mount -t tmpfs -o size=1m,mode=0700 tmpfs /var/lib/spoolsweep", undo: "umount /var/lib/spoolsweep && rmdir /var/lib/spoolsweep",
		status: failed, says: `/var/lib/spoolsweep has \d MB free for the run's records`, remedy: "make room, or name another state_directory",
	},
	{
		name: "agent directory full", vars: []string{"agent_directory: /mnt/agent"},
		do: "mkdir -p /mnt/agent && mount -t tmpfs -o size=1m,mode=0700 tmpfs /mnt/agent", undo: "umount /mnt/agent",
		status: failed, says: "send the agent: /mnt/agent/", remedy: "check free space .* agent_directory",
	},
	{
		name: "agent directory noexec", vars: []string{"agent_directory: /mnt/agent"},
		do: "mkdir -p /mnt/agent && mount -t tmpfs -o noexec,mode=0700 tmpfs /mnt/agent", undo: "umount /mnt/agent",
		status: failed, says: "no directory for the agent: no program can run in /mnt/agent", remedy: "agent_directory .* not mounted noexec",
	},
	{
		// It greets as the agent whose name it has, and then talks nonsense.
		name: "another agent", do: `cd /root/.cache/spoolsweep; a=$(echo spoolsweep-agent-*); mv $a /root/real
			printf '#!/bin/sh\necho "spoolsweep/1 devel ${0##*-}"\nread -r call\necho "{nonsense"\ncat >/dev/null\n' >$a; chmod 700 $a`,
		undo:   `cd /root/.cache/spoolsweep; mv /root/real "$(echo spoolsweep-agent-*)"`,
		status: failed, says: "the agent sent what cannot be read", remedy: "remove spoolsweep-agent-. from",
	},
	{
		name: "agent killed", do: `cd /root/.cache/spoolsweep; a=$(echo spoolsweep-agent-*); mv $a /root/real
			printf '#!/bin/sh\necho "spoolsweep/1 devel ${0##*-}"\nread -r call\nkill -9 $$\n' >$a; chmod 700 $a`,
		undo: `cd /root/.cache/spoolsweep; mv /root/real "$(echo spoolsweep-agent-*)"`,
		args: []string{"--reconnect", "2s"}, status: unreachable, says: "the agent was ended by signal KILL", remedy: "then type the same again",
	},
	{
		name: "a second admin", do: `setsid sh -c 'exec 9</var/spool/postfix; flock 9; exec sleep 1000' >/dev/null 2>&1 & echo $! >/run/second
			until ! flock -n /var/spool/postfix true; do sleep 0.1; done`, undo: "kill $(cat /run/second)",
		status: failed, says: "another run works on this queue directory", remedy: "wait for it, or attach to it",
	},
	{
		name: "host down", on: func(t *testing.T, _ *fleet, h, _ *lab.Host) { must(t, h.LinkDown()) },
		off:  func(t *testing.T, h *lab.Host) { must(t, h.LinkUp()) },
		args: []string{"-T", "2s"}, status: unreachable, says: "no connection: ", remedy: "check that the host is up",
	},
	{
		name: "unknown key", on: func(t *testing.T, f *fleet, _, other *lab.Host) { knowOnly(t, f, other, "") },
		status: unreachable, says: "unknown host key ", remedy: "ssh-keyscan",
	},
	{
		name: "changed key", on: func(t *testing.T, f *fleet, h, other *lab.Host) { knowOnly(t, f, other, h.Name+","+h.Address) },
		status: unreachable, says: "HOST KEY CHANGED", remedy: "ssh-keygen -R",
	},
	{
		name: "wrong key", on: func(t *testing.T, f *fleet, h, _ *lab.Host) {
			key := filepath.Join(t.TempDir(), "key")
			if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
				t.Fatalf("ssh-keygen: %v: %s", err, out)
			}
			f.afflict(t, h, "ansible_ssh_private_key_file: "+key)
		},
		status: unreachable, says: "not let in: as root, tried .*/key", remedy: "--private-key",
	},
	{
		name: "sudo refused", on: asAdmin(""), password: rootWords,
		status: failed, says: "sudo does not let admin become root", remedy: "visudo",
	},
	{
		name: "sudo wants a password", on: asAdmin(byPassword),
		status: unreachable, says: "a password is required", remedy: "-K or --become-password-file",
	},
	{
		name: "wrong sudo password", on: asAdmin(byPassword), password: "battery",
		status: unreachable, says: `sudo does not take the password of admin \(it was told once\)`, remedy: "-K or --become-password-file",
	},
}

// asAdmin has a host reached as admin, whose sudo has these rules.
func asAdmin(rules string) func(t *testing.T, f *fleet, h, other *lab.Host) {
	return func(t *testing.T, f *fleet, h, _ *lab.Host) {
		withSudo(t, h, rules)
		f.afflict(t, h, "ansible_user: admin", "ansible_become: true")
	}
}

// restoreConfiguration gives a host back what Postfix has been started with.
const restoreConfiguration = "cp /etc/lab/main.cf /etc/postfix/main.cf; cp /usr/share/postfix/master.cf.dist /etc/postfix/master.cf; touch -d '1 minute ago' /etc/postfix/main.cf"

// knowOnly makes the other host's key the only one that is known, for a further
// name too where there is one.
func knowOnly(t *testing.T, f *fleet, other *lab.Host, alias string) {
	t.Helper()
	key, err := os.ReadFile(filepath.Join(other.Dir, "host_key.pub"))
	must(t, err)
	names := strings.Trim(other.Name+","+other.Address+","+alias, ",")
	f.known = filepath.Join(t.TempDir(), "known_hosts")
	must(t, os.WriteFile(f.known, []byte(names+" "+string(key)), 0o600))
}
