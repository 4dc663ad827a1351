package lab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
)

// ssh logs in as an admin would, with the lab's strict known_hosts.
func ssh(ctx context.Context, h *lab.Host, user string, argv ...string) (string, error) {
	args := append([]string{"-F", "none", "-i", h.Key(), "-o", "UserKnownHostsFile=" + h.KnownHosts(),
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", user + "@" + h.Address}, argv...)
	cmd := exec.CommandContext(ctx, "ssh", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = errors.Join(err, errors.New(strings.TrimSpace(stderr.String())))
	}
	return strings.TrimSpace(string(out)), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ids(messages []lab.Message) []string {
	var all []string
	for _, m := range messages {
		all = append(all, m.ID)
	}
	return all
}

// await audits once the messages lie where they should.
func await(t *testing.T, h *lab.Host, want map[string]int) lab.Audit {
	t.Helper()
	a, err := h.Await(t.Context(), want)
	must(t, err)
	return a
}

// checkOnce is the law: each message is somewhere, and in one place only.
func checkOnce(t *testing.T, h *lab.Host, a lab.Audit, messages []lab.Message) {
	t.Helper()
	if lost, twice := a.Lost(ids(messages)), a.Twice(); len(lost)+len(twice) > 0 {
		t.Errorf("%s: lost %q, twice %q", h.Name, lost, twice)
	}
	if len(a.Found) != len(messages) || len(a.Unreadable)+len(a.Incomplete)+len(a.Foreign) > 0 {
		t.Errorf("%s: found %d of %d messages; unreadable %v, incomplete %v, foreign %v",
			h.Name, len(a.Found), len(messages), a.Unreadable, a.Incomplete, a.Foreign)
	}
	injected, err := h.Injected()
	must(t, err)
	if len(injected) != len(messages) {
		t.Errorf("%s: %d ids remembered, want %d", h.Name, len(injected), len(messages))
	}
}

func TestLogin(t *testing.T) {
	t.Parallel()
	for _, h := range hosts(t, 2) {
		for _, login := range []struct{ user, command, want string }{
			{"root", "hostname; id -un; echo $HOME", h.Name + "\nroot\n/root"},
			{"admin", "hostname; id -un; sudo -n id -un", h.Name + "\nadmin\nroot"},
		} {
			got, err := ssh(t.Context(), h, login.user, login.command)
			if err != nil || got != login.want {
				t.Errorf("ssh %s@%s %q = %q, %v; want %q", login.user, h.Name, login.command, got, err, login.want)
			}
		}
		// The machine's own secrets and the lab's are not to be seen from inside.
		for _, hidden := range []string{"/root/go", h.Key()} {
			if _, err := h.Run(t.Context(), "test", "-e", hidden); err == nil {
				t.Errorf("%s can see %s", h.Name, hidden)
			}
		}
	}
}

func TestStatesOfAFlood(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	const n = 1000
	messages := lab.Flood("spam-account@"+h.Name+".lab.test", n, 1)
	more := lab.Flood("spam-account@"+h.Name+".lab.test", n, 2)
	must(t, h.Postconf(t.Context(), "qmgr_message_active_limit = 300"))

	must(t, h.Inject(t.Context(), messages))
	checkOnce(t, h, await(t, h, map[string]int{"deferred": n}), messages)

	// Deferred mail stays where it is while new mail fills active and incoming.
	must(t, h.Flood(lab.Hold))
	must(t, h.Inject(t.Context(), more))
	messages = append(messages, more...)
	checkOnce(t, h, await(t, h, map[string]int{"deferred": n, "active": 300, "incoming": n - 300}), messages)

	// What is held is deferred first, so that one flush finds all of it.
	must(t, h.Flood(lab.Refuse))
	checkOnce(t, h, await(t, h, map[string]int{"deferred": 2 * n}), messages)
	must(t, h.Flood(lab.Deliver))
	_, err := h.Run(t.Context(), "postqueue", "-f")
	must(t, err)
	checkOnce(t, h, await(t, h, map[string]int{"delivered": 2 * n}), messages)
}

// The flood has all that rules and guards look at, as Postfix wrote it.
func TestEnvelopes(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	account := "spam-account@" + h.Name + ".lab.test"
	messages := []lab.Message{
		{ID: "login", Sender: account, Recipients: []string{"a@b.example", "c@d.example"}, Login: account, Client: "203.0.113.9", Body: "x\n"},
		{ID: "nobody", Recipients: []string{account}, Client: "192.0.2.1", Returned: "Subject: y\n\ny\n", Body: "x\n"},
		{ID: "local", Sender: account, Recipients: []string{"a@b.example"}, Body: "größer\n.dot\n", Encoding: "base64"},
		{ID: "v6", Sender: account, Recipients: []string{"a@b.example"}, Login: "ada", Client: "2001:db8::7", Body: "x\n"},
		{ID: "local again", Sender: account, Recipients: []string{"a@b.example"}, Body: "x\n", Encoding: "quoted-printable"},
	}
	must(t, h.Inject(t.Context(), messages))
	a := await(t, h, map[string]int{"deferred": len(messages)})
	for _, m := range messages {
		places := a.Found[m.ID]
		if len(places) != 1 {
			t.Fatalf("message %q is at %v", m.ID, places)
		}
		name, err := filepath.Rel(h.Spool(), places[0].Path)
		must(t, err)
		envelope, err := h.Run(t.Context(), "postcat", "-e", "/var/spool/postfix/"+name)
		must(t, err)
		want := []string{"\nsender: " + m.Sender + "\n"}
		for _, to := range m.Recipients {
			want = append(want, "\nrecipient: "+to+"\n")
		}
		if m.Login != "" {
			want = append(want, "sasl_username="+m.Login+"\n")
		} else if strings.Contains(envelope, "sasl_username") {
			t.Errorf("message %q has a login:\n%s", m.ID, envelope)
		}
		if m.Client == "" {
			want = append(want, "client_address=127.0.0.1\n")
		} else {
			want = append(want, "client_address="+m.Client+"\n")
		}
		for _, line := range want {
			if !strings.Contains(envelope, line) {
				t.Errorf("message %q: want %q in\n%s", m.ID, line, envelope)
			}
		}
	}
}

func TestLinkDown(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	must(t, h.LinkDown())
	if out, err := ssh(t.Context(), h, "root", "true"); err == nil {
		t.Errorf("ssh over a cut link: %q", out)
	}
	must(t, h.LinkUp())
	eventually(t, time.Minute, "ssh after the link came back", func() bool {
		_, err := ssh(t.Context(), h, "root", "true")
		return err == nil
	})
}

func TestPowerCut(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	messages := lab.Flood("spam-account@"+h.Name+".lab.test", 50, 1)
	must(t, h.Inject(t.Context(), messages))
	await(t, h, map[string]int{"deferred": len(messages)})
	must(t, h.Flood(lab.Hold))
	pids, err := h.Pgrep(".")
	must(t, err)
	if sshd, err := h.Pgrep("^sshd: .*listener"); err != nil || len(sshd) != 1 {
		t.Errorf("pids of sshd: %v, %v; want one", sshd, err)
	}
	if sink, err := h.Pgrep(" hold "); err != nil || len(sink) != 1 {
		t.Errorf("pids of the sink: %v, %v; want one", sink, err)
	}
	must(t, h.PowerCut())
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			line, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			t.Errorf("process %d outlived the host: %q, %v", pid, line, err)
		}
	}
	if h.Running() {
		t.Error("host runs after a power cut")
	}
	must(t, h.Restart(t.Context()))
	checkOnce(t, h, await(t, h, map[string]int{"deferred": len(messages)}), messages)
}

// What a sweep does to the spool has to be possible in it, as root of the host.
func TestSpoolIsOneFileSystem(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	messages := lab.Flood("spam-account@"+h.Name+".lab.test", 20, 1)
	must(t, h.Inject(t.Context(), messages))
	await(t, h, map[string]int{"deferred": len(messages)})
	_, err := h.Run(t.Context(), "sh", "-ec", `postfix stop
		cd /var/spool/postfix
		mv -T deferred deferred.spamfull
		install -d -o postfix -g root -m 0700 deferred deferred.name-collisions
		set -- $(find deferred.spamfull -type f)
		mv -n "$1" incoming/; mv -n "$2" deferred.name-collisions/; ln "$3" hold/; chmod 0600 "$4"; : >"$5"; shift 5
		head -c 700 "$1" >deferred.spamfull/cut; chmod 0700 deferred.spamfull/cut
		printf 'C' >incoming/1; chmod 0600 incoming/1`)
	must(t, err)
	a, err := h.Audit(t.Context())
	must(t, err)
	want := map[string]int{"incoming": 1, "deferred.name-collisions": 1, "hold": 1, "deferred.spamfull": 16}
	if diff := cmp.Diff(want, a.Count()); diff != "" {
		t.Errorf("places, -want +got:\n%s", diff)
	}
	if got := []int{len(a.Lost(ids(messages))), len(a.Twice()), len(a.Incomplete), len(a.Unreadable), len(a.Foreign)}; !cmp.Equal(got, []int{2, 1, 2, 2, 0}) {
		t.Errorf("lost, twice, incomplete, unreadable, foreign = %v; want 2 1 2 2 0", got)
	}
	if got := len(a.In("*.spamfull*")); got != 16 {
		t.Errorf("set aside: %d, want 16", got)
	}
}

// A host's init has to reap orphans, as a real one does: else a process that
// ended looks as if it had not.
func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	_, err := h.Run(t.Context(), "sh", "-c", "setsid sh -c 'kill -STOP $$; exit' >/dev/null 2>&1 &")
	must(t, err)
	var pids []int
	for range time.Tick(10 * time.Millisecond) {
		if pids, err = h.Pgrep("kill -STOP"); err != nil || len(pids) > 0 {
			break
		}
	}
	must(t, err)
	must(t, syscall.Kill(pids[0], syscall.SIGKILL))
	deadline := time.Now().Add(time.Minute)
	for range time.Tick(10 * time.Millisecond) {
		if errors.Is(syscall.Kill(pids[0], 0), syscall.ESRCH) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is a zombie", pids[0])
		}
	}
}

func TestTwoLabs(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	dir := t.TempDir()
	l, err := lab.Up(t.Context(), dir, h.Name)
	if err != nil {
		t.Fatal(errors.Join(err, (&lab.Lab{Dir: dir}).Down()))
	}
	other, err := l.Host(h.Name)
	must(t, err)
	if other.Address == h.Address {
		t.Errorf("two hosts have the address %s", h.Address)
	}
	if _, err := ssh(t.Context(), other, "root", "true"); err != nil {
		t.Error(err)
	}
	must(t, l.Down())
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is still there", dir)
	}
	if !h.Running() {
		t.Error("the end of one lab ended another")
	}
}

func TestFloodIsWhatItSays(t *testing.T) {
	messages := lab.Flood("spam-account@chavez.lab.test", 1000, 7)
	if diff := cmp.Diff(messages, lab.Flood("spam-account@chavez.lab.test", 1000, 7)); diff != "" {
		t.Errorf("the same seed gives other mail:\n%s", diff)
	}
	seen := make(map[string]bool)
	count := make(map[string]int)
	perLogin := make(map[string]int)
	for _, m := range messages {
		if seen[m.ID] {
			t.Errorf("id %s twice", m.ID)
		}
		seen[m.ID] = true
		marked := strings.Contains(m.Body+m.Returned, "media.php") && strings.Contains(m.Body+m.Returned, "swiftvalue@yahoo.cn")
		if marked != m.Spam {
			t.Errorf("message %s: marks %v, spam %v", m.ID, marked, m.Spam)
		}
		switch {
		case m.Spam && m.Sender == "":
			count["backscatter"]++
		case m.Spam:
			count["spam"]++
			count["spam in "+m.Encoding]++
		default:
			count["ham"]++
			perLogin[m.Login]++
		}
	}
	for kind, least := range map[string]int{"backscatter": 200, "spam": 450, "ham": 150, "spam in base64": 150, "spam in quoted-printable": 70} {
		if count[kind] < least {
			t.Errorf("%d messages of kind %s, want at least %d", count[kind], kind, least)
		}
	}
	for login, n := range perLogin {
		if n > 100 {
			t.Errorf("%d ham messages of login %q: they look like a flood", n, login)
		}
	}
}

func TestNamesAreChecked(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to come that far")
	}
	if _, err := lab.Up(t.Context(), t.TempDir(), "../x"); err == nil {
		t.Error("a host may be called ../x")
	}
}
