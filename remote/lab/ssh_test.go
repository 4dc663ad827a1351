package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote"
	"spoolsweep/remote/lab"
)

// way is a user's folder with keys and files of ssh, and a configuration.
type way struct {
	t      *testing.T
	dir    string
	base   string         // stands at the end of each configuration
	dialer *remote.Dialer // for the next try alone, nil for a plain one
}

// try dials a host as the configuration says. The connection is closed, as are
// those to jump hosts.
func (w *way) try(host, config string) error {
	w.t.Helper()
	_, err := w.conn(host, config)
	return err
}

func (w *way) conn(host, config string) (*remote.Conn, error) {
	w.t.Helper()
	file := filepath.Join(w.dir, "config")
	must(w.t, os.WriteFile(file, []byte(config+w.base), 0o600))
	d := w.dialer
	if d == nil {
		d = &remote.Dialer{}
	}
	w.dialer = nil
	d.ConfigFile = file
	defer d.Close()
	c, err := d.Dial(w.t.Context(), remote.Target{Name: host})
	if err == nil {
		c.Close()
	}
	return c, err
}

func (w *way) works(host, config string) *remote.Conn {
	w.t.Helper()
	c, err := w.conn(host, config)
	if err != nil {
		w.t.Errorf("with\n%s\n%v", config, err)
	}
	return c
}

// refuses wants an error of the kind that has all of words.
func (w *way) refuses(kind remote.Kind, host, config string, words ...string) *remote.DialError {
	w.t.Helper()
	err := w.try(host, config)
	var e *remote.DialError
	if !errors.As(err, &e) || e.Kind != kind {
		w.t.Errorf("want %s with\n%s\n%v", kind, config, err)
		return nil
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			w.t.Errorf("does not say %q: %v", word, err)
		}
	}
	return e
}

// keygen runs ssh-keygen in the folder.
func (w *way) keygen(args ...string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "ssh-keygen", append([]string{"-q"}, args...)...)
	cmd.Dir = w.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%q: %v: %s", cmd.Args, err, out)
	}
}

func (w *way) read(name string) string {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join(w.dir, name))
	must(w.t, err)
	return string(text)
}

func (w *way) write(name, text string) {
	w.t.Helper()
	must(w.t, os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600))
}

// logins are the addresses that the host's sshd has let in since the last call.
func logins(t *testing.T, h *lab.Host, name string) []string {
	t.Helper()
	text, err := h.Run(t.Context(), "sh", "-c", "cat /var/log/"+name+".log; : >/var/log/"+name+".log")
	must(t, err)
	var from []string
	for _, m := range regexp.MustCompile(`Accepted publickey for \S+ from (\S+)`).FindAllStringSubmatch(text, -1) {
		from = append(from, m[1])
	}
	return from
}

// secondServer starts another sshd on a host, with lines of its own.
func secondServer(t *testing.T, h *lab.Host, port int, lines string) {
	t.Helper()
	cmd := h.Command(t.Context(), "sh", "-ec", fmt.Sprintf("cat >/etc/lab/sshd%d; /usr/sbin/sshd -f /etc/lab/sshd%d -E /var/log/sshd%d.log", port, port, port))
	cmd.Stdin = strings.NewReader(lines + fmt.Sprintf("Port %d\nPidFile /run/sshd%d.pid\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nUseDNS no\nStrictModes no\n", port, port)) // the first one counts
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sshd on port %d: %v: %s", port, err, out)
	}
}

// The ways of a user's ssh configuration, over real servers.
func TestSSHAsConfigured(t *testing.T) {
	t.Parallel()
	three := hosts(t, 3)
	target, gate, inner := three[0], three[1], three[2]
	w := &way{t: t, dir: t.TempDir()}
	keys := map[string]string{} // name to public key
	for _, h := range three {
		text, err := os.ReadFile(filepath.Join(h.Dir, "host_key.pub"))
		must(t, err)
		keys[h.Name] = strings.TrimSpace(string(text))
	}
	known := func(h *lab.Host, names ...string) string {
		return strings.Join(append(names, h.Address), ",") + " " + keys[h.Name] + "\n"
	}
	w.write("known", known(target)+known(gate)+known(inner))
	w.base = fmt.Sprintf("\nHost target\n HostName %s\nHost gate\n HostName %s\nHost inner\n HostName %s\nHost *\n User root\n IdentityFile %s\n IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile %s/known\n GlobalKnownHostsFile none\n",
		target.Address, gate.Address, inner.Address, target.Key(), w.dir)
	fromHere := func(h *lab.Host, name string) string {
		t.Helper()
		return strings.Join(logins(t, h, name), " ")
	}
	want := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("the login came from %q, want %q", got, want)
		}
	}

	// One jump and two, each hop with settings of its own.
	for _, h := range three {
		logins(t, h, "sshd")
	}
	w.works("target", "Host target\n ProxyJump gate\n")
	want(fromHere(target, "sshd"), gate.Address)
	logins(t, gate, "sshd")
	w.works("target", "Host target\n ProxyJump admin@gate:22,inner\n")
	want(fromHere(target, "sshd"), inner.Address)
	want(fromHere(inner, "sshd"), gate.Address)
	logins(t, gate, "sshd")
	w.works("target", "Host target\n ProxyJump inner\nHost inner\n ProxyJump gate\n")
	want(fromHere(target, "sshd"), inner.Address)
	want(fromHere(inner, "sshd"), gate.Address)

	// Each hop's key is checked, and its failures are told as its own.
	w.write("none", "")
	e := w.refuses(remote.KindUnknownKey, "target", "Host gate\n UserKnownHostsFile "+w.dir+"/none\nHost target\n ProxyJump gate\n", "target: jump host gate ("+gate.Address+":22)")
	if e != nil && (e.Host != "target" || e.Jump != "gate" || e.Fingerprint == "") {
		t.Errorf("got %+v", e)
	}
	w.write("stolen", strings.ReplaceAll(known(gate), keys[gate.Name], keys[inner.Name]))
	w.refuses(remote.KindChangedKey, "target", "Host gate\n UserKnownHostsFile "+w.dir+"/stolen\nHost target\n ProxyJump gate\n", "jump host gate", "HOST KEY CHANGED", w.dir+"/stolen:1")
	w.refuses(remote.KindUnknownKey, "target", "Host target\n ProxyJump gate\n UserKnownHostsFile "+w.dir+"/none\n", "target ("+target.Address+":22)")
	w.refuses(remote.KindConnect, "target", "Host target\n ProxyJump gate\n Port 9\n", "jump host gate")
	w.refuses(remote.KindConnect, "target", "Host gate\n Port 9\nHost target\n ProxyJump gate\n", "target: jump host gate")
	if err := w.try("target", "Host target\n ProxyJump gate\nHost gate\n ProxyJump inner\nHost inner\n ProxyJump gate\n"); err == nil || !strings.Contains(err.Error(), "in a circle") {
		t.Errorf("a circle: %v", err)
	}
	if err := w.try("target", "ProxyJump gate\n"); err == nil || !strings.Contains(err.Error(), "in a circle") {
		t.Errorf("a circle of one: %v", err)
	}

	// Many hosts share one login on the jump host.
	logins(t, gate, "sshd")
	w.write("config", "Host t*\n HostName "+target.Address+"\n ProxyJump gate\n"+w.base)
	d := &remote.Dialer{ConfigFile: filepath.Join(w.dir, "config")}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			c, err := d.Dial(t.Context(), remote.Target{Name: fmt.Sprint("t", i)})
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	}
	all.Wait()
	if n := len(logins(t, gate, "sshd")); n != 1 {
		t.Errorf("%d logins on the jump host", n)
	}
	// It is made anew where it was lost.
	inside(t, gate, "pkill -f 'sshd: [r]oot'")
	c, err := d.Dial(t.Context(), remote.Target{Name: "t1"})
	must(t, err)
	c.Close()
	d.Close()

	// A ProxyCommand: its tokens, its words when it fails, its end.
	logins(t, target, "sshd")
	sshG := fmt.Sprintf("ssh -F %s/gate.conf -W [%%h]:%%p gate", w.dir)
	w.write("gate.conf", w.base)
	w.works("target", "Host target\n ProxyCommand "+sshG+"\n")
	want(fromHere(target, "sshd"), gate.Address)
	// ssh puts exec in front, so that more than one command is a script.
	w.write("script", "echo $* >"+w.dir+"/said\nexec ssh -F "+w.dir+"/gate.conf -W [$2]:$3 gate\n")
	w.works("target", "Host target\n ProxyCommand sh "+w.dir+"/script %n %h %p %r %k\n HostKeyAlias "+target.Address+"\n")
	if got, want := w.read("said"), fmt.Sprintf("target %s 22 root %s\n", target.Address, target.Address); got != want {
		t.Errorf("tokens: %q, want %q", got, want)
	}
	w.refuses(remote.KindHandshake, "target", "Host target\n ProxyCommand sh -c 'echo no way through >&2; exit 1'\n", "ProxyCommand: no way through")
	w.dialer = &remote.Dialer{Timeout: 300 * time.Millisecond}
	w.write("script", "trap '' HUP; sleep 1000 & echo $$ $! >"+w.dir+"/pid; wait; sleep 1000\n")
	w.refuses(remote.KindHandshake, "target", "Host target\n ProxyCommand sh "+w.dir+"/script\n", "no answer in time")
	for _, pid := range strings.Fields(w.read("pid")) {
		// One that nobody has waited for yet has no command line any more.
		if line, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && len(line) > 0 {
			t.Errorf("process %s of the ProxyCommand is still there", pid)
		}
	}

	// Addresses, ports, names in files.
	secondServer(t, target, 2222, "HostKey /etc/lab/host_key\n")
	w.refuses(remote.KindUnknownKey, "target", "Host target\n Port 2222\n UserKnownHostsFile "+w.dir+"/none\n", "-p 2222")
	w.works("target", "Host target\n Port 2222\n") // known without its port, as to ssh
	w.write("port", "["+target.Address+"]:2222 "+keys[target.Name]+"\n")
	w.works("target", "Host target\n Port 2222\n UserKnownHostsFile "+w.dir+"/port\n")
	w.refuses(remote.KindUnknownKey, "target", "Host target\n UserKnownHostsFile "+w.dir+"/port\n")
	w.write("hashed", known(target)+known(gate))
	w.keygen("-H", "-f", "hashed")
	if strings.Contains(w.read("hashed"), target.Address) {
		t.Error("not hashed")
	}
	w.works("target", "Host target\n UserKnownHostsFile "+w.dir+"/hashed\n")
	w.write("alias", known(target, "mail.example"))
	w.works("target", "Host target\n HostKeyAlias mail.example\n UserKnownHostsFile "+w.dir+"/alias\n Port 2222\n")
	w.refuses(remote.KindUnknownKey, "target", "Host target\n HostKeyAlias other.example\n UserKnownHostsFile "+w.dir+"/alias\n")
	w.write("revoked", known(target)+"@revoked * "+keys[target.Name]+"\n")
	w.refuses(remote.KindChangedKey, "target", "Host target\n UserKnownHostsFile "+w.dir+"/revoked\n", "revoked at "+w.dir+"/revoked:2")
	w.write("list", keys[target.Name]+"\n")
	w.refuses(remote.KindChangedKey, "target", "Host target\n RevokedHostKeys "+w.dir+"/list\n", "revoked in "+w.dir+"/list")
	if err := w.try("target", "RevokedHostKeys "+w.dir+"/nothing\n"); err == nil || !strings.Contains(err.Error(), "RevokedHostKeys") {
		t.Errorf("a list that is not there: %v", err)
	}
	w.write("new", "")
	w.refuses(remote.KindUnknownKey, "target", "UserKnownHostsFile "+w.dir+"/new\nStrictHostKeyChecking yes\n", "StrictHostKeyChecking yes")
	if c := w.works("target", "UserKnownHostsFile "+w.dir+"/new\nStrictHostKeyChecking accept-new\n"); c != nil && !strings.Contains(strings.Join(c.Warnings, "\n"), "trusted from now on") {
		t.Errorf("accept-new says %q", c.Warnings)
	}
	w.works("target", "UserKnownHostsFile "+w.dir+"/new\n")
	w.refuses(remote.KindChangedKey, "gate", "Host gate\n UserKnownHostsFile "+w.dir+"/stolen\nHost *\n StrictHostKeyChecking no\n")
	w.dialer = &remote.Dialer{Strict: true}
	w.refuses(remote.KindUnknownKey, "target", "UserKnownHostsFile "+w.dir+"/none\nStrictHostKeyChecking accept-new\n")

	// IPv6, by the link's own address, and the families.
	bridge, _, _ := strings.Cut(target.Interface, "h")
	link := mustRun(t, target, "ip", "-o", "link", "show", "eth0")
	_, mac, _ := strings.Cut(link, "link/ether ")
	hardware, err := net.ParseMAC(strings.Fields(mac)[0])
	must(t, err)
	ip := net.IP{0xfe, 0x80, 0, 0, 0, 0, 0, 0, hardware[0] ^ 2, hardware[1], hardware[2], 0xff, 0xfe, hardware[3], hardware[4], hardware[5]}
	six := fmt.Sprintf("Host target\n HostName %s%%%%%s\n HostKeyAlias %s\n", ip, bridge, target.Address)
	logins(t, target, "sshd")
	w.works("target", six)
	if from := fromHere(target, "sshd"); !strings.HasPrefix(from, "fe80:") {
		t.Errorf("from %s", from)
	}
	w.works("target", six+" AddressFamily inet6\n")
	w.refuses(remote.KindConnect, "target", six+" AddressFamily inet\n")
	w.refuses(remote.KindConnect, "target", "Host target\n AddressFamily inet6\n")
	here := strings.TrimSuffix(target.Address, target.Address[strings.LastIndex(target.Address, ".")+1:]) + "1"
	logins(t, target, "sshd")
	w.works("target", "Host target\n BindAddress "+here+"\n")
	want(fromHere(target, "sshd"), here)
	w.refuses(remote.KindConnect, "target", "Host target\n BindAddress 127.0.0.1\n ConnectTimeout 1\n")

	// Algorithms.
	w.works("target", "HostKeyAlgorithms ssh-ed25519\nCiphers aes128-gcm@openssh.com\nKexAlgorithms ^curve25519-sha256\n")
	w.refuses(remote.KindHandshake, "target", "HostKeyAlgorithms rsa-sha2-512\n")
	if err := w.try("target", "Ciphers none-of-them\n"); err == nil || !strings.Contains(err.Error(), "config:1: Ciphers none-of-them") {
		t.Errorf("unknown ciphers: %v", err)
	}

	sshKeys(t, w, target, keys[target.Name])

	// The program itself, over the jump host.
	f := newFleet(t, []*lab.Host{target})
	w.write("config", "Match final host "+target.Address+"\n ProxyJump gate\n"+w.base)
	f.config = filepath.Join(w.dir, "config")
	logins(t, target, "sshd")
	if r := succeeds(t, f, "ping"); !strings.Contains(r.out, "Postfix 3") {
		t.Error(r)
	}
	want(fromHere(target, "sshd"), gate.Address)

	// And on a terminal, which asks once for the passphrase, for both hosts.
	key, err := os.ReadFile(target.Key())
	must(t, err)
	w.write("theirs", string(key))
	w.keygen("-p", "-a", "1", "-P", "", "-N", rootWords, "-f", "theirs")
	f = newFleet(t, []*lab.Host{target, inner})
	w.write("config", strings.ReplaceAll(w.base, " IdentityFile "+target.Key()+"\n", ""))
	f.config = filepath.Join(w.dir, "config")
	stop := leak(t, target)
	status, shown := onTerminal(t, f, func(in io.Writer) { fmt.Fprintln(in, rootWords) }, "ping", "--private-key", filepath.Join(w.dir, "theirs"))
	stop()
	if status != 0 || strings.Count(shown, "passphrase of the key") != 1 || strings.Count(shown, "Postfix 3") != 2 || strings.Contains(shown, rootWords) {
		t.Errorf("exit status %d:\n%s", status, shown)
	}
	r := ends(t, 4, f, "ping", "--private-key", filepath.Join(w.dir, "theirs"), "-l", target.Name)
	if strings.Contains(r.err, "passphrase of the key") {
		t.Errorf("asks without a terminal: %v", r)
	}

	// A host that falls silent is left after ServerAliveCountMax questions.
	w.write("config", "Host gate\n ServerAliveInterval 60\nHost *\n ServerAliveInterval 1\n ServerAliveCountMax 1\n"+w.base)
	d = &remote.Dialer{ConfigFile: filepath.Join(w.dir, "config")}
	defer d.Close()
	c, err = d.Dial(t.Context(), remote.Target{Name: "target"})
	must(t, err)
	behind, err := d.Dial(t.Context(), remote.Target{Name: "target", ProxyJump: "gate"})
	must(t, err)
	must(t, gate.LinkDown())
	closing := time.Now()
	behind.Close()
	if took := time.Since(closing); took > 10*time.Second {
		t.Errorf("closing what is behind a silent jump host took %v", took)
	}
	must(t, target.LinkDown())
	begun := time.Now()
	ended := make(chan struct{})
	go func() { c.Wait(); close(ended) }()
	select {
	case <-ended:
		t.Logf("left after %v", time.Since(begun))
	case <-time.After(time.Minute):
		t.Error("a silent host is not left")
	}
	c.Close()
}

// sshKeys are a user's keys and the certificates of both sides.
func sshKeys(t *testing.T, w *way, target *lab.Host, hostKey string) {
	w.keygen("-t", "ed25519", "-N", "", "-f", "user-ca")
	w.keygen("-t", "ed25519", "-N", "", "-f", "host-ca")
	w.keygen("-t", "ecdsa", "-N", "", "-f", "id")
	w.keygen("-t", "ed25519", "-a", "1", "-N", "words of mine", "-f", "locked")
	w.keygen("-t", "rsa", "-b", "2048", "-a", "1", "-N", "words of mine", "-f", "locked-rsa")
	w.keygen("-s", "user-ca", "-I", "me", "-n", "root", "id.pub") // id-cert.pub
	must(t, os.Rename(filepath.Join(w.dir, "id-cert.pub"), filepath.Join(w.dir, "mine.pub")))
	w.write("host.pub", hostKey+"\n")
	w.keygen("-s", "host-ca", "-I", "host", "-h", "-n", target.Address, "host.pub")
	w.write("allowed", w.read("locked.pub")+w.read("locked-rsa.pub"))
	for name, text := range map[string]string{"user-ca.pub": w.read("user-ca.pub"), "host_key-cert.pub": w.read("host-cert.pub"), "allowed": w.read("allowed")} {
		cmd := target.Command(t.Context(), "sh", "-c", "cat >/etc/lab/"+name)
		cmd.Stdin = strings.NewReader(text)
		must(t, cmd.Run())
	}
	secondServer(t, target, 2223, "HostKey /etc/lab/host_key\nHostCertificate /etc/lab/host_key-cert.pub\nTrustedUserCAKeys /etc/lab/user-ca.pub\nAuthorizedKeysFile /etc/lab/allowed\n")
	ca, userCA := strings.TrimSpace(w.read("host-ca.pub")), strings.TrimSpace(w.read("user-ca.pub"))
	w.write("authority", "@cert-authority *,["+target.Address+"]:2223 "+ca+"\n")
	w.write("wrong-authority", "@cert-authority * "+userCA+"\n")
	w.write("revoked-authority", "@cert-authority * "+ca+"\n@revoked * "+ca+"\n")
	base := w.base
	defer func() { w.base = base }()
	w.base = strings.ReplaceAll(base, "IdentityFile "+target.Key(), "Port 2223\n IdentityFile "+w.dir+"/id")
	file := func(name string) string { return filepath.Join(w.dir, name) }

	// Certificates of users.
	w.refuses(remote.KindAuth, "target", "")
	w.works("target", "CertificateFile "+file("mine.pub")+"\n")
	w.refuses(remote.KindAuth, "target", "CertificateFile "+file("locked.pub")+"\n", "no user's certificate")
	w.write("id-cert.pub", w.read("mine.pub"))
	w.works("target", "")
	w.refuses(remote.KindAuth, "target", "CertificateFile none\nCertificateFile "+file("nothing")+"\n") // then the one beside is not read

	// Certificates of hosts.
	w.works("target", "UserKnownHostsFile "+file("authority")+"\n")
	w.refuses(remote.KindUnknownKey, "target", "UserKnownHostsFile "+file("wrong-authority")+"\n")
	w.refuses(remote.KindChangedKey, "target", "UserKnownHostsFile "+file("revoked-authority")+"\n", "revoked at "+file("revoked-authority")+":2")
	w.refuses(remote.KindUnknownKey, "target", "HostKeyAlias other.example\nUserKnownHostsFile "+file("authority")+"\n", "other.example")

	// Encrypted keys: one question for each, once a host would take it.
	must(t, os.Remove(file("id-cert.pub")))
	asked := map[string]int{}
	answer := remote.Secret("words of mine")
	dialer := func() *remote.Dialer {
		clear(asked)
		return &remote.Dialer{Passphrase: func(_ context.Context, file string, again bool) (remote.Secret, error) {
			asked[filepath.Base(file)]++
			if answer == "" {
				return "", errors.New("nothing was typed")
			}
			return answer, nil
		}}
	}
	w.dialer = dialer()
	w.works("target", "IdentityFile "+file("locked-rsa")+"\n")
	if len(asked) != 1 || asked["locked-rsa"] != 1 {
		t.Errorf("asked %v", asked)
	}
	w.dialer = dialer()
	w.works("target", "CertificateFile "+file("mine.pub")+"\nIdentityFile "+file("id")+"\nIdentityFile "+file("locked")+"\n")
	if len(asked) != 0 {
		t.Errorf("asked without need: %v", asked)
	}
	w.write("config", "IdentityFile "+file("locked")+"\n"+w.base)
	d := dialer()
	d.ConfigFile = file("config")
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			c, err := d.Dial(t.Context(), remote.Target{Name: "target"})
			if err != nil {
				t.Error(err)
				return
			}
			c.Close()
		})
	}
	all.Wait()
	d.Close()
	if asked["locked"] != 1 {
		t.Errorf("five hosts at once asked %v", asked)
	}
	answer = "wrong"
	w.dialer = dialer()
	w.refuses(remote.KindAuth, "target", "IdentityFile "+file("locked")+"\n", file("locked"), "wrong 3 times")
	answer = ""
	w.dialer = dialer()
	w.refuses(remote.KindAuth, "target", "IdentityFile "+file("locked")+"\n", "nothing was typed")
	// With one that stays locked, the others have their turn.
	w.dialer = dialer()
	w.works("target", "CertificateFile "+file("mine.pub")+"\nIdentityFile "+file("locked")+"\nIdentityFile "+file("id")+"\n")
	w.refuses(remote.KindAuth, "target", "IdentityFile "+file("locked")+"\n", "ssh-add "+file("locked"))

	// A real agent, at IdentityAgent, that holds the open key.
	socket := file("s")
	agent := exec.CommandContext(t.Context(), "ssh-agent", "-D", "-a", socket)
	must(t, agent.Start())
	defer func() { agent.Process.Kill(); agent.Wait() }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) { // no event tells
		if _, err := os.Stat(socket); err == nil || time.Now().After(end) {
			break
		}
	}
	add := exec.CommandContext(t.Context(), "ssh-add", "-q", file("id"))
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v: %s", err, out)
	}
	must(t, os.Rename(file("id"), file("id.away")))
	w.works("target", "IdentityAgent "+socket+"\nCertificateFile "+file("mine.pub")+"\n")
	w.refuses(remote.KindAuth, "target", "CertificateFile "+file("mine.pub")+"\n")
}

func mustRun(t *testing.T, h *lab.Host, argv ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), argv...)
	must(t, err)
	return out
}

// A sweep over connections that the user's own ssh holds: one that it held
// before, for which no key of ours is needed, and those that it makes for us.
func TestOverTheUsersOwnSSH(t *testing.T) {
	t.Parallel()
	all := hosts(t, 2)
	dir := t.TempDir()
	f := newFleet(t, all, few)
	f.config = filepath.Join(dir, "config")
	sockets, err := os.MkdirTemp("", "own") // a socket's path is short
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(sockets) })
	configured := func(more string) {
		t.Helper()
		must(t, os.WriteFile(f.config, fmt.Appendf(nil, "%sHost *\n ControlPath %s/%%C\n IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile %s\n GlobalKnownHostsFile none\n", more, sockets, all[0].KnownHosts()), 0o600))
	}
	configured("")
	// Without the key in the inventory nobody but the master gets in.
	inventory, err := os.ReadFile(f.inventory)
	must(t, err)
	must(t, os.WriteFile(f.inventory, regexp.MustCompile(`(?m)^ *ansible_ssh_private_key_file: .*\n`).ReplaceAll(inventory, nil), 0o600))
	r := ends(t, 4, f, "ping")
	if strings.Count(r.err, "UNREACHABLE") != 2 {
		t.Errorf("without masters: %v", r)
	}
	messages := map[*lab.Host][]lab.Message{}
	masters := map[*lab.Host]*exec.Cmd{}
	for _, h := range all {
		messages[h] = smallFlood(t, h)
		logins(t, h, "sshd")
		master := exec.Command("ssh", "-F", f.config, "-M", "-N", "-i", h.Key(), "-l", "root", h.Address)
		must(t, master.Start())
		t.Cleanup(func() { _ = master.Process.Kill(); _ = master.Wait() })
		masters[h] = master
	}
	eventually(t, time.Minute, "masters", func() bool {
		names, err := filepath.Glob(sockets + "/*")
		return err == nil && len(names) == len(all) && !strings.Contains(strings.Join(names, " "), ".")
	})
	rules := rulesFile(t, floodRules(all...))
	succeeds(t, f, "run", "backscatter", "-y", "-e", "rate=0", "-e", rules)
	for _, h := range all {
		checkSwept(t, h, messages[h])
		if n := len(logins(t, h, "sshd")); n != 1 {
			t.Errorf("%s: %d logins, want the master's alone", h.Name, n)
		}
	}
	// It is still there, and a dead one's socket is in nobody's way.
	for _, h := range all {
		must(t, masters[h].Process.Signal(syscall.SIGKILL))
		_ = masters[h].Wait()
	}
	if r := ends(t, 4, f, "ping"); strings.Count(r.err, "not let in") != 2 {
		t.Errorf("with dead masters: %v", r)
	}

	// ssh itself logs in, here with a way that only it knows.
	configured(fmt.Sprintf("Match all\n IdentityFile %s\n CanonicalizeHostname always\n", all[0].Key()))
	must(t, os.RemoveAll(sockets))
	for _, h := range all {
		logins(t, h, "sshd")
	}
	ages := regexp.MustCompile(`\d+ s\b`)
	counted := ages.ReplaceAllString(succeeds(t, f, "health", "--transport", "openssh").out, "")
	if plain := ages.ReplaceAllString(succeeds(t, f, "health").out, ""); plain != counted {
		t.Errorf("over ssh:\n%s\nby ourselves:\n%s", counted, plain)
	}
	for _, h := range all {
		if n := len(logins(t, h, "sshd")); n != 2 {
			t.Errorf("%s: %d logins, want one of ssh's and one of ours", h.Name, n)
		}
	}
	// What it held for us is gone when we are.
	eventually(t, time.Minute, "no ssh", func() bool { return len(withWord(t, "ControlPersist")) == 0 })

	configured("")
	if r := ends(t, 4, f, "ping", "--transport", "openssh"); strings.Count(r.err, "not let in: root@") != 2 || !strings.Contains(r.err, "Permission denied") {
		t.Errorf("not let in: %v", r)
	}
	must(t, os.WriteFile(f.config, []byte("Host *\n Frobnicate yes\n"), 0o600))
	if r := ends(t, 2, f, "ping", "--transport", "openssh"); !strings.Contains(r.err, "frobnicate") {
		t.Errorf("a configuration that ssh refuses: %v", r)
	}
}

// A server that lets nobody in without a password: ssh itself asks for it, on the
// terminal, and the sweep goes over what it logged in to.
func TestPasswordOfTheUsersOwnSSH(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	secondServer(t, h, 2222, "PasswordAuthentication yes\nKbdInteractiveAuthentication no\nPubkeyAuthentication no\nSubsystem sftp internal-sftp\n")
	withSudo(t, h, byNone) // which gives admin a password too
	f := newFleet(t, []*lab.Host{h}, few, "ansible_port: 2222", "ansible_user: admin", "ansible_become: true")
	dir := t.TempDir()
	f.config = filepath.Join(dir, "config")
	must(t, os.WriteFile(f.config, fmt.Appendf(nil, "Host *\n IdentityAgent none\n UserKnownHostsFile %s/known\n GlobalKnownHostsFile none\n StrictHostKeyChecking accept-new\n", dir), 0o600))
	if r := ends(t, 4, f, "ping"); !strings.Contains(r.err, "not let in") {
		t.Errorf("without a password: %v", r)
	}
	status, shown := onTerminal(t, f, func(in io.Writer) { fmt.Fprintln(in, rootWords) }, "ping", "--transport", "openssh")
	if status != 0 || strings.Count(shown, "'s password: ") != 1 || !strings.Contains(shown, "Postfix 3") || strings.Contains(shown, rootWords) {
		t.Errorf("exit status %d:\n%s", status, shown)
	}
	// Where nobody can be asked it is not asked, and the line says what to do.
	if r := ends(t, 4, f, "ping", "--transport", "openssh"); !strings.Contains(r.err, "Permission denied") || !strings.Contains(r.err, "ssh -p 2222 admin@") {
		t.Errorf("without a terminal: %v", r)
	}
}

// withWord are the command lines of this machine's processes with a word in them.
func withWord(t *testing.T, word string) (lines []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), word) { // they come and go
			lines = append(lines, string(text))
		}
	}
	return lines
}
