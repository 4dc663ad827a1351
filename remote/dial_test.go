package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"spoolsweep/remote/sshtest"
)

// world is a server, and a user who can log in there.
type world struct {
	*sshtest.Server
	dialer *Dialer
	target Target
	home   string // of the user on the server
	key    string // the user's key file
	public ssh.PublicKey
	known  string // the known_hosts file
}

func newWorld(t *testing.T, change func(*sshtest.Config)) *world {
	t.Helper()
	// Nothing of the real user's own.
	t.Setenv("HOME", t.TempDir())
	t.Setenv("SSH_AUTH_SOCK", "")
	w := &world{home: t.TempDir()}
	t.Cleanup(func() { // after all others
		if n := w.dialer.room.taken; n != 0 {
			t.Errorf("room for %d files is still taken", n)
		}
	})
	local := t.TempDir()
	w.key, w.known = filepath.Join(local, "id"), filepath.Join(local, "known_hosts")
	public, err := sshtest.WriteKey(w.key)
	if err != nil {
		t.Fatal(err)
	}
	w.public = public
	config := sshtest.Config{ClientKeys: []ssh.PublicKey{public}, Home: w.home}
	if change != nil {
		change(&config)
	}
	if w.Server, err = sshtest.Start(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Server.Close() })
	w.know(t, w.KnownHostsLine())
	w.dialer = &Dialer{ConfigFile: "none", KnownHosts: []string{w.known}}
	t.Cleanup(w.dialer.Close)
	w.target = Target{Name: "mx1", Host: "127.0.0.1", Port: w.Addr().Port, User: "root", PrivateKey: w.key}
	return w
}

func (w *world) know(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(w.known, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *world) dial(t *testing.T) *Conn {
	t.Helper()
	c, err := w.dialer.Dial(t.Context(), w.target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// refused dials and wants an error of the kind, whose message has all of words.
func (w *world) refused(t *testing.T, kind Kind, words ...string) *DialError {
	t.Helper()
	c, err := w.dialer.Dial(t.Context(), w.target)
	if err == nil {
		c.Close()
		t.Fatalf("connected, want %s", kind)
	}
	var e *DialError
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got %v, want kind %s", err, kind)
	}
	for _, word := range append(words, "mx1") {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %q", err, word)
		}
	}
	if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
		t.Errorf("%q holds control characters", err)
	}
	return e
}

func TestDial(t *testing.T) {
	w := newWorld(t, func(c *sshtest.Config) { c.Banner = "Welcome\r\n\x1b[2J" })
	c := w.dial(t)
	if c.Target.User != "root" || c.Address != w.Addr().String() || len(c.Warnings) > 0 {
		t.Errorf("got %+v", c)
	}
	if c.Banner != `Welcome\r\n\x1b[2J` {
		t.Errorf("banner %q", c.Banner)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func TestDialBySSHConfig(t *testing.T) {
	w := newWorld(t, nil)
	config := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("Host mx1\n HostName 127.0.0.1\n Port %d\n User joe\n IdentityFile %s\n UserKnownHostsFile %s\n", w.Addr().Port, w.key, w.known)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.dialer.ConfigFile, w.dialer.KnownHosts = config, nil
	w.target = Target{Name: "mx1"}
	if c := w.dial(t); c.Target.User != "joe" || c.Target.Port != w.Addr().Port {
		t.Errorf("got %+v", c.Target)
	}

	// A name other than the one that stands in the file.
	text += " HostKeyAlias mail.example.org\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.refused(t, KindUnknownKey)
	w.know(t, regexp.MustCompile(`(?m)^\S+`).ReplaceAllString(w.KnownHostsLine(), "mail.example.org"))
	w.dial(t)

	w.dialer.ConfigFile = "/does/not/exist"
	if _, err := w.dialer.Dial(t.Context(), w.target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a configuration that is not there: %v", err)
	}
}

func ecdsaKey(t *testing.T) ssh.Signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	k, err := sshtest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A server with several keys is known by one of them. x/crypto alone would ask
// for the ECDSA key and call it an attack.
func TestKnownByOneKeyOnly(t *testing.T) {
	w := newWorld(t, func(c *sshtest.Config) { c.HostKeys = []ssh.Signer{ecdsaKey(t), newKey(t)} })
	lines := strings.SplitAfter(w.KnownHostsLine(), "\n")
	for _, line := range lines[:2] {
		w.know(t, line)
		w.dial(t)
	}
}

func TestUnknownKey(t *testing.T) {
	key := newKey(t)
	w := newWorld(t, func(c *sshtest.Config) { c.HostKeys = []ssh.Signer{key} })
	for _, text := range []string{"", "unreadable\n\x00\n|1|x|y ssh-rsa AAAA\n", strings.Replace(w.KnownHostsLine(), "127.0.0.1", "127.0.0.2", 1)} {
		w.know(t, text)
		e := w.refused(t, KindUnknownKey, "ssh-keyscan -H -p", "ssh-ed25519", w.Addr().String())
		if want := ssh.FingerprintSHA256(key.PublicKey()); e.Fingerprint != want || e.KeyType != "ssh-ed25519" || !strings.Contains(e.Error(), want) {
			t.Errorf("got %+v, want fingerprint %s", e, want)
		}
	}
	// The file is read again as soon as somebody has added the key.
	w.know(t, w.KnownHostsLine())
	w.dial(t)
	w.dialer.KnownHosts = []string{"/does/not/exist"}
	w.refused(t, KindUnknownKey)
}

// A key that is unknown is taken where the caller says so of that very key, and is
// known from then on; one that has changed never is.
func TestAcceptNew(t *testing.T) {
	key := newKey(t)
	w := newWorld(t, func(c *sshtest.Config) { c.HostKeys = []ssh.Signer{key} })
	w.know(t, "# no line feed at its end")
	var asked []*DialError
	answer := false
	w.dialer.AcceptNew = func(e *DialError) bool {
		asked = append(asked, e)
		return answer
	}
	w.refused(t, KindUnknownKey)
	if len(asked) != 1 || asked[0].Host != "mx1" || asked[0].Fingerprint != ssh.FingerprintSHA256(key.PublicKey()) || asked[0].Address != w.Addr().String() {
		t.Errorf("asked %+v", asked)
	}
	answer = true
	w.dial(t)
	w.dialer.AcceptNew = nil
	w.dial(t) // known now
	text, err := os.ReadFile(w.known)
	if lines := strings.Split(string(text), "\n"); err != nil || len(lines) != 3 || lines[0] != "# no line feed at its end" || !strings.HasPrefix(lines[1], "|1|") {
		t.Errorf("the file is %q, %v", text, err)
	}

	// A file, and its folder, that are not there yet.
	w.dialer.AcceptNew = func(*DialError) bool { return true }
	w.dialer.KnownHosts = []string{filepath.Join(t.TempDir(), "ssh", "known_hosts")}
	w.dial(t)
	if s, err := os.Stat(w.dialer.KnownHosts[0]); err != nil || s.Mode().Perm() != 0o600 {
		t.Errorf("the new file: %v, %v", s, err)
	}
	// One that cannot be written.
	w.dialer.KnownHosts = []string{filepath.Join(w.known, "file")}
	w.refused(t, KindUnknownKey, "it was to be added to "+w.dialer.KnownHosts[0])

	w.dialer.KnownHosts = []string{w.known}
	w.know(t, strings.Replace(w.KnownHostsLine(), string(ssh.MarshalAuthorizedKey(key.PublicKey())), string(ssh.MarshalAuthorizedKey(newKey(t).PublicKey())), 1))
	before, _ := os.ReadFile(w.known)
	w.dialer.AcceptNew = func(e *DialError) bool {
		t.Errorf("asked about %+v", e)
		return true
	}
	w.refused(t, KindChangedKey)
	if after, _ := os.ReadFile(w.known); string(after) != string(before) {
		t.Errorf("the file was changed to %q", after)
	}
}

func TestChangedKey(t *testing.T) {
	w := newWorld(t, nil)
	w.know(t, "# mine\nunreadable\n\n[x]:0:y ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ==\n"+w.KnownHostsLine())
	c := w.dial(t)
	if all := strings.Join(c.Warnings, "\n"); !strings.Contains(all, w.known+":2: unreadable") {
		t.Errorf("warnings %q", c.Warnings)
	}
	fresh := newKey(t)
	w.SetHostKeys(fresh)
	e := w.refused(t, KindChangedKey, "CHANGED", w.known+":5", "ssh-keygen -R")
	if e.KnownAt != w.known+":5" || e.Fingerprint != ssh.FingerprintSHA256(fresh.PublicKey()) {
		t.Errorf("got %+v", e)
	}
	// A key of another kind than the known one is no reason to trust it.
	w.SetHostKeys(ecdsaKey(t))
	w.refused(t, KindChangedKey, "ecdsa-sha2-nistp256", w.known+":5")
	// A revoked key.
	w.SetHostKeys(fresh)
	w.know(t, "@revoked "+w.KnownHostsLine())
	w.refused(t, KindChangedKey, "revoked at "+w.known+":1")
}

// certify makes a certificate for key.
func certify(t *testing.T, authority ssh.Signer, key ssh.PublicKey, kind uint32, name string) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{Key: key, CertType: kind, KeyId: "test", ValidPrincipals: []string{name}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestCertificates(t *testing.T) {
	hostCA, userCA, host := newKey(t), newKey(t), newKey(t)
	hostCert, err := ssh.NewCertSigner(certify(t, hostCA, host.PublicKey(), ssh.HostCert, "127.0.0.1"), host)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, func(c *sshtest.Config) {
		c.HostKeys = []ssh.Signer{hostCert}
		c.ClientKeys = []ssh.PublicKey{userCA.PublicKey()}
	})
	w.know(t, fmt.Sprintf("@cert-authority [127.0.0.1]:%d %s", w.Addr().Port, ssh.MarshalAuthorizedKey(hostCA.PublicKey())))
	w.refused(t, KindAuth, "tried "+w.key)
	cert := certify(t, userCA, w.public, ssh.UserCert, "root")
	if err := os.WriteFile(w.key+"-cert.pub", ssh.MarshalAuthorizedKey(cert), 0o600); err != nil {
		t.Fatal(err)
	}
	w.dial(t)
	w.know(t, fmt.Sprintf("@cert-authority [127.0.0.1]:%d %s", w.Addr().Port, ssh.MarshalAuthorizedKey(userCA.PublicKey())))
	w.refused(t, KindUnknownKey, "ssh-ed25519")
}

func TestNotLetIn(t *testing.T) {
	w := newWorld(t, func(c *sshtest.Config) { c.Banner = "go \x1b[31maway\n" })
	w.Refuse(true)
	w.refused(t, KindAuth, "as root", w.key, `go \x1b[31maway`, "ssh-add", "--private-key")
	w.target.PrivateKey = "/no/such/key"
	w.refused(t, KindAuth, "no key to offer", "/no/such/key")
}

func TestEncryptedKey(t *testing.T) {
	w := newWorld(t, nil)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	locked := filepath.Join(t.TempDir(), "locked")
	if err := os.WriteFile(locked, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	w.target.PrivateKey = locked
	w.refused(t, KindAuth, "ssh-add "+locked, "passphrase")

	// It is skipped, and the next one is taken.
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte("IdentityFile "+w.key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.dialer.ConfigFile = config
	if c := w.dial(t); len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "ssh-add "+locked) {
		t.Errorf("warnings %q", c.Warnings)
	}
}

// startAgent serves keys on a socket, as ssh-agent does.
func startAgent(t *testing.T, keys ...any) (socket string, close func()) {
	t.Helper()
	ring := agent.NewKeyring()
	for _, k := range keys {
		if err := ring.Add(agent.AddedKey{PrivateKey: k}); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "agent") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 100)
	done := make(chan struct{})
	go func() {
		defer func() { done <- struct{}{} }()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c
			go func() { agent.ServeAgent(ring, c); c.Close() }()
		}
	}()
	var once bool
	stop := func() {
		if once {
			return
		}
		once = true
		l.Close()
		<-done
		for len(conns) > 0 {
			(<-conns).Close()
		}
		os.RemoveAll(dir)
	}
	t.Cleanup(stop)
	return socket, stop
}

func TestAgent(t *testing.T) {
	var private []any
	var public []ssh.PublicKey
	for range 3 {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewSignerFromKey(k)
		if err != nil {
			t.Fatal(err)
		}
		private, public = append(private, &k), append(public, signer.PublicKey())
	}
	w := newWorld(t, func(c *sshtest.Config) { c.ClientKeys = []ssh.PublicKey{public[2]} })
	socket, stop := startAgent(t, private...)
	w.target.PrivateKey = ""
	w.refused(t, KindAuth, "no key to offer")
	t.Setenv("SSH_AUTH_SOCK", socket)
	w.dial(t)

	// The order is that of the key files, of which only the public half is here.
	named := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(named+".pub", ssh.MarshalAuthorizedKey(public[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	names := func(s settings) string {
		offers, _ := w.dialer.offers(t.Context(), s, &patience{})
		var out []string
		for _, o := range offers {
			out = append(out, o.name)
		}
		return strings.Join(out, ", ")
	}
	held := func(i int) string { return "agent key " + ssh.FingerprintSHA256(public[i]) }
	s := settings{IdentityFiles: []string{named, w.key}}
	if got, want := names(s), named+" from the agent, "+held(0)+", "+held(2)+", "+w.key; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	s.IdentitiesOnly = true
	if got, want := names(s), named+" from the agent, "+w.key; got != want {
		t.Errorf("IdentitiesOnly: got %s\nwant %s", got, want)
	}
	s.IdentityAgent = "none"
	if got, want := names(s), w.key; got != want {
		t.Errorf("IdentityAgent none: got %s\nwant %s", got, want)
	}

	// An agent that was started anew is found again, one that is gone is a warning.
	stop()
	socket, stop = startAgent(t, private...)
	t.Setenv("SSH_AUTH_SOCK", socket)
	w.dial(t)
	stop()
	w.refused(t, KindAuth, "ssh agent: ")
}

func TestNoSuchName(t *testing.T) {
	w := newWorld(t, nil)
	w.target.Host = "no-such-host.invalid"
	w.refused(t, KindName, "no-such-host.invalid", "~/.ssh/config")
}

func TestNobodyListens(t *testing.T) {
	w := newWorld(t, nil)
	w.Close()
	w.refused(t, KindConnect, w.Addr().String(), "--timeout")
}

func TestStalledHandshake(t *testing.T) {
	w := newWorld(t, nil)
	w.Stall()
	w.dialer.Timeout = 100 * time.Millisecond
	w.refused(t, KindHandshake, "in time")

	ctx, cancel := context.WithCancel(t.Context())
	w.dialer.Timeout = 0
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for w.Conns() < 2 && ctx.Err() == nil {
			<-time.After(time.Millisecond)
		}
		cancel()
	}()
	if _, err := w.dialer.Dial(ctx, w.target); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	<-stop
}

// What listens there speaks something else, and means harm.
func TestNoSSHServer(t *testing.T) {
	w := newWorld(t, nil)
	for _, says := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-\x1b]0;x\a\r\n", strings.Repeat("\x1b[2J", 1<<16), ""} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, says)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}()
		w.target.Port = l.Addr().(*net.TCPAddr).Port
		w.refused(t, KindHandshake)
		l.Close()
		<-done
	}
}

// A link that is cut at any byte of the handshake is an error that says so.
func TestCutHandshake(t *testing.T) {
	w := newWorld(t, nil)
	for _, n := range []int64{1, 30, 500, 1200, 1600, 2000} {
		w.CutAfter(n)
		c, err := w.dialer.Dial(t.Context(), w.target)
		if err == nil {
			c.Close()
			continue
		}
		var e *DialError
		if !errors.As(err, &e) || e.Kind != KindHandshake {
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}

func TestBecomeUser(t *testing.T) {
	w := newWorld(t, nil)
	w.target.BecomeUser = "postfix"
	if _, err := w.dialer.Dial(t.Context(), w.target); err == nil || !strings.Contains(err.Error(), "become_user") {
		t.Errorf("got %v", err)
	}
	w.target.BecomeUser = "root"
	w.dial(t)
}
