package remote

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/remote/sshtest"
)

// startSSHD runs the real OpenSSH server as the present user, for the present
// user, with a host key of its own, and returns a world as newWorld does.
func startSSHD(t *testing.T) *world {
	t.Helper()
	sshd := needs.Program(t, "sshd")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	dir := t.TempDir()
	w := &world{key: filepath.Join(dir, "id"), known: filepath.Join(dir, "known_hosts")}
	var err error
	if w.public, err = sshtest.WriteKey(w.key); err != nil {
		t.Fatal(err)
	}
	host, err := sshtest.WriteKey(filepath.Join(dir, "host"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-f", filepath.Join(dir, "host2")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "authorized"), ssh.MarshalAuthorizedKey(w.public), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		// sshd as root gives up its privileges in there.
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// A free port: somebody else may take it before sshd does, then it is
	// said in the failure.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	config := fmt.Sprintf("ListenAddress 127.0.0.1\nPort %d\nHostKey %s\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\n"+
		"StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp\n",
		port, filepath.Join(dir, "host2"), filepath.Join(dir, "host"), filepath.Join(dir, "authorized"))
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	listens := make(chan string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var log strings.Builder
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			fmt.Fprintln(&log, lines.Text())
			if strings.Contains(lines.Text(), "Server listening on") {
				listens <- ""
			}
		}
		select {
		case listens <- log.String():
		default:
		}
		close(listens)
	}()
	t.Cleanup(func() {
		server.Process.Kill()
		<-done
		server.Wait()
	})
	if log := <-listens; log != "" {
		t.Fatalf("sshd does not start:\n%s", log)
	}
	w.know(t, fmt.Sprintf("[127.0.0.1]:%d %s", port, ssh.MarshalAuthorizedKey(host)))
	w.dialer = &Dialer{ConfigFile: "none", KnownHosts: []string{w.known}}
	t.Cleanup(w.dialer.Close)
	w.target = Target{
		Name: "mx1", Host: "127.0.0.1", Port: port, User: localUser(), PrivateKey: w.key,
		AgentDirectory: filepath.Join(t.TempDir(), "agent"),
	}
	return w
}

// Everything once more against the real server, which knows nothing of ours.
func TestRealServer(t *testing.T) {
	w := startSSHD(t)
	agent := source(t)
	// It is known by its second key only.
	c := w.dial(t)
	s := mustOpen(t, c, agent)
	if got := whoami(t, s); filepath.Dir(got.Self) != w.target.AgentDirectory || s.Pushed() == 0 {
		t.Errorf("got %+v, %d bytes sent", got, s.Pushed())
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if entries, _ := os.ReadDir(w.target.AgentDirectory); len(entries) != 1 {
		t.Errorf("the directory holds %v", entries)
	}
	// On the same connection, and on another.
	for _, c := range []*Conn{c, w.dial(t)} {
		s := mustOpen(t, c, agent)
		var back string
		if err := s.Call(t.Context(), "echo", "é", &back); err != nil || back != "é" || s.Pushed() != 0 {
			t.Errorf("got %q, %v, %d bytes sent", back, err, s.Pushed())
		}
		err := s.Call(t.Context(), "crash", nil, nil)
		if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "status 3") {
			t.Errorf("the agent ends: %v", err)
		}
	}
	// The link goes under a session.
	c = w.dial(t)
	s = mustOpen(t, c, agent)
	c.net.Close()
	if err := s.Call(t.Context(), "echo", 1, nil); !errors.Is(err, ErrLost) {
		t.Errorf("the link goes: %v", err)
	}
	w.target.AgentDirectory = filepath.Dir(w.known)
	wantOpenError(t, w.dial(t), agent, KindPlace, "alone")
}

func TestRealServerRefuses(t *testing.T) {
	w := startSSHD(t)
	good, err := os.ReadFile(w.known)
	if err != nil {
		t.Fatal(err)
	}
	w.know(t, "")
	w.refused(t, KindUnknownKey, "ssh-keyscan")
	other := newKey(t)
	w.know(t, fmt.Sprintf("[127.0.0.1]:%d %s", w.target.Port, ssh.MarshalAuthorizedKey(other.PublicKey())))
	w.refused(t, KindChangedKey, w.known+":1")
	w.know(t, string(good))
	wrong := filepath.Join(t.TempDir(), "wrong")
	if _, err := sshtest.WriteKey(wrong); err != nil {
		t.Fatal(err)
	}
	w.target.PrivateKey = wrong
	w.refused(t, KindAuth, "tried "+wrong)
	// More keys than the server has patience for.
	var text string
	for i := range 8 {
		file := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if _, err := sshtest.WriteKey(file); err != nil {
			t.Fatal(err)
		}
		text += "IdentityFile " + file + "\n"
	}
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.dialer.ConfigFile = config
	w.refused(t, KindAuth, "Too many authentication failures")
}
