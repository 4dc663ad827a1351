package remote

import (
	"bytes"
	"context"

	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/push"
	"spoolsweep/remote/sshtest"
	"spoolsweep/remote/wire"
)

// source has this test program for an agent.
func source(t *testing.T) *push.Source {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, err := push.Direct(self)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustOpen(t *testing.T, c *Conn, source *push.Source) *Session {
	t.Helper()
	s, err := Open(t.Context(), c, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

type who struct {
	UID             int
	Self, Sudo, Env string
	PID             int
}

func whoami(t *testing.T, s *Session) (w who) {
	t.Helper()
	if err := s.Call(t.Context(), "whoami", nil, &w); err != nil {
		t.Fatal(err)
	}
	return w
}

// wantOpenError opens and wants an error of the kind, whose message has all of words.
func wantOpenError(t *testing.T, c *Conn, source *push.Source, kind Kind, words ...string) {
	t.Helper()
	s, err := Open(t.Context(), c, source)
	if err == nil {
		s.Close()
		t.Fatalf("opened, want %s", kind)
	}
	var e *OpenError
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
}

func TestOpenSendsOnce(t *testing.T) {
	w := newWorld(t, func(c *sshtest.Config) {
		c.Noise = "Last login: today\r\n\x1b[0mspoolsweep-need no such thing\n"
		c.Env = []string{"SPOOLSWEEP_PRACTICE=/somewhere"}
	})
	agent := source(t)
	s := mustOpen(t, w.dial(t), agent)
	dir := filepath.Join(w.home, ".cache", "spoolsweep")
	got := whoami(t, s)
	name := filepath.Base(got.Self)
	if want := "spoolsweep-agent-" + agent.Hashes()[push.Any]; name != want || got.Env != "/somewhere" {
		t.Errorf("the agent is %+v, want %s", got, want)
	}
	info, err := os.Stat(filepath.Join(dir, name))
	if err != nil || info.Mode().Perm() != 0o700 || s.Pushed() != info.Size() || s.Build() != "fake" || s.Host() != "mx1" {
		t.Errorf("pushed %d, file %v, %v, build %q", s.Pushed(), info, err, s.Build())
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory %v, %v", info, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the directory holds %v", entries)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}

	execs, sftps, uploaded, conns := w.Execs(), w.SFTPs(), w.Uploaded(), w.Conns()
	s = mustOpen(t, w.dial(t), agent)
	whoami(t, s)
	if w.Execs() != execs+1 || w.SFTPs() != sftps || w.Uploaded() != uploaded || w.Conns() != conns+1 || s.Pushed() != 0 {
		t.Errorf("the second time took %d execs, %d sftp sessions, %d bytes", w.Execs()-execs, w.SFTPs()-sftps, w.Uploaded()-uploaded)
	}
}

// A file under the right name that cannot run is sent again.
func TestOpenMendsAgent(t *testing.T) {
	w := newWorld(t, nil)
	agent := source(t)
	mustOpen(t, w.dial(t), agent).Close()
	file := filepath.Join(w.home, ".cache", "spoolsweep", "spoolsweep-agent-"+agent.Hashes()[push.Any])
	for _, text := range []string{"", "\x7fELF"} {
		if err := os.WriteFile(file+".new", []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		if s := mustOpen(t, w.dial(t), agent); s.Pushed() == 0 {
			t.Errorf("%q: nothing was sent", text)
		}
	}
	// One that says it is another file is not spoken to.
	lie := "#!/bin/sh\necho spoolsweep/1 evil " + strings.Repeat("0", 64) + "\nread line; echo \"$line\" >" + w.home + "/got\n"
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(lie), 0o700); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, w.dial(t), agent, KindGreeting, "none of ours")
	if text, err := os.ReadFile(w.home + "/got"); err == nil && len(strings.TrimSpace(string(text))) > 0 {
		t.Errorf("it was told %q", text)
	}
}

// An agent that greets with a checksum is asked for its hash before anything else,
// but by who only looks, and knows the checksum.
func TestChecksumOrHash(t *testing.T) {
	w := newWorld(t, nil)
	agent := source(t)
	mustOpen(t, w.dial(t), agent).Close()
	hash := agent.Hashes()[push.Any]
	file := filepath.Join(w.home, ".cache", "spoolsweep", "spoolsweep-agent-"+hash)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	good, err := wire.Checksum(bytes.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	bad, other := "crc32:00000000", strings.Repeat("0", 64)
	reply := func(hash string) string { return `{"kind":"reply","id":1,"data":"` + hash + `"}` }
	for _, c := range []struct {
		name     string
		glance   bool
		greeting string
		answer   string // to the question for the hash
		asked    bool
		fine     bool
	}{
		{"a look, and the checksum", true, good, reply(other), false, true},
		{"a look, and another checksum", true, bad, reply(hash), true, true},
		{"a look, and neither", true, bad, reply(other), true, false},
		{"the checksum and the hash", false, good, reply(hash), true, true},
		{"the checksum and another hash", false, good, reply(other), true, false},
		{"no answer that is one", false, good, `{"kind":"error","id":1,"data":{"message":"what \u001b[31m?"}}`, true, false},
		{"the hash at once", false, hash, reply(other), false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			said := filepath.Join(t.TempDir(), "said")
			// It writes down what it is told until its input ends.
			script := "#!/bin/sh\necho spoolsweep/1 x " + c.greeting + "\nwhile read -r line; do printf '%s\\n' \"$line\" >>" + said + "; printf '%s\\n' '" + c.answer + "'; done\n"
			if err := os.WriteFile(file, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			conn := w.dial(t)
			conn.glance = c.glance
			if c.fine {
				mustOpen(t, conn, agent).Close()
			} else {
				wantOpenError(t, conn, agent, KindGreeting, "none of ours", "somebody may have put it there")
			}
			var want string
			if c.asked {
				want = `{"kind":"call","id":1,"name":"sum"}` + "\n"
			}
			if got, _ := os.ReadFile(said); string(got) != want {
				t.Errorf("it was told %q, want %q", got, want)
			}
		})
	}
}

func TestNoGreeting(t *testing.T) {
	w := newWorld(t, nil)
	agent := source(t)
	mustOpen(t, w.dial(t), agent).Close()
	file := filepath.Join(w.home, ".cache", "spoolsweep", "spoolsweep-agent-"+agent.Hashes()[push.Any])
	write := func(text string) {
		t.Helper()
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("#!/bin/sh\nprintf 'This account \\033[31mis closed'\nseq 20000 >&2\nprintf 'go away\\033[0m\\n' >&2\nexit 5\n")
	wantOpenError(t, w.dial(t), agent, KindGreeting, "exit status 5", `This account \x1b[31mis closed`, "19999; 20000; go away\\x1b[0m")
	write("#!/bin/sh\nwhile :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done\n")
	wantOpenError(t, w.dial(t), agent, KindGreeting, "no greeting")
	write("#!/bin/sh\necho spoolsweep/2 new " + agent.Hashes()[push.Any] + "\n")
	wantOpenError(t, w.dial(t), agent, KindGreeting, "spoolsweep/2")
}

func TestAgentDirectory(t *testing.T) {
	w := newWorld(t, nil)
	agent := source(t)
	base := t.TempDir()
	mkdir := func(name string, mode os.FileMode) string {
		t.Helper()
		path := filepath.Join(base, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, fine := range []string{mkdir("fine", 0o700), filepath.Join(base, "new", "and deep"), filepath.Join(base, "it's $(x) \"`é")} {
		w.target.AgentDirectory = fine
		s := mustOpen(t, w.dial(t), agent)
		if got := whoami(t, s).Self; filepath.Dir(got) != fine {
			t.Errorf("the agent is %s, want it in %s", got, fine)
		}
		if s := mustOpen(t, w.dial(t), agent); s.Pushed() != 0 {
			t.Errorf("%s: sent twice", fine)
		}
	}
	if err := os.Symlink(mkdir("fine", 0o700), filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	refused := map[string]string{
		mkdir("open", 0o755):         "alone",
		mkdir("group", 0o770):        "alone",
		filepath.Join(base, "link"):  "alone",
		file:                         "cannot be made",
		filepath.Join(file, "below"): "cannot be made",
		filepath.Join(mkdir("shared", 0o777), "below", "mine"): "alone",
		"relative":          "absolute",
		"/":                 "absolute",
		base + "/new\nline": "control",
	}
	if os.Getuid() == 0 {
		foreign := mkdir("foreign", 0o700)
		if err := os.Chown(foreign, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		refused[foreign] = "alone"
		below := mkdir("theirs", 0o755)
		if err := os.Chown(below, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		refused[filepath.Join(below, "mine")] = "alone"
	}
	for dir, word := range refused {
		w.target.AgentDirectory = dir
		wantOpenError(t, w.dial(t), agent, KindPlace, word)
	}
}

func TestNoexec(t *testing.T) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("mounting a file system noexec needs Linux and root")
	}
	w := newWorld(t, nil)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "noexec,mode=700", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("mount is not allowed here: %v: %s", err, out)
	}
	defer exec.Command("umount", dir).Run()
	w.target.AgentDirectory = dir
	agent := source(t)
	wantOpenError(t, w.dial(t), agent, KindPlace, "no program can run in "+dir, "noexec")
	if w.Uploaded() != 0 {
		t.Errorf("%d bytes were sent", w.Uploaded())
	}
}

// The usual places are tried in their order.
func TestFallbackPlace(t *testing.T) {
	w := newWorld(t, nil)
	if err := os.MkdirAll(filepath.Join(w.home, ".cache", "spoolsweep"), 0o755); err != nil {
		t.Fatal(err)
	}
	other := fmt.Sprintf("/var/tmp/spoolsweep-%d", os.Getuid())
	_, before := os.Stat(other)
	s, err := Open(t.Context(), w.dial(t), source(t))
	var e *OpenError
	switch {
	case err == nil:
		if dir := filepath.Dir(whoami(t, s).Self); dir == filepath.Join(w.home, ".cache", "spoolsweep") {
			t.Errorf("the agent is in %s", dir)
		}
		s.Close()
	case errors.As(err, &e) && e.Kind == KindPlace && strings.Contains(err.Error(), ".cache/spoolsweep is not of user"):
		// /var/tmp is not as it should be on this machine.
	default:
		t.Error(err)
	}
	if os.IsNotExist(before) {
		os.RemoveAll(other)
	}
}

func TestNoSFTP(t *testing.T) {
	w := newWorld(t, func(c *sshtest.Config) { c.NoSFTP = true })
	wantOpenError(t, w.dial(t), source(t), KindAgent, "SFTP")
}

func TestCutLink(t *testing.T) {
	w := newWorld(t, nil)
	s := mustOpen(t, w.dial(t), source(t))
	whoami(t, s)
	w.Cut()
	if err := s.Call(t.Context(), "echo", 1, nil); !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrLost) {
		t.Errorf("Close: %v", err)
	}
}

// The link may be cut at any byte of opening: that is a lost link, which may be
// tried again, and never a hang.
func TestCutWhileOpening(t *testing.T) {
	w := newWorld(t, nil)
	agent := source(t)
	cut := 0
	for n := int64(2000); n < 20000; n += 1500 {
		w.CutAfter(n)
		c, err := w.dialer.Dial(t.Context(), w.target)
		if err != nil {
			cut++
			continue
		}
		s, err := Open(t.Context(), c, agent)
		if err != nil {
			cut++
			if !errors.Is(err, ErrLost) {
				t.Errorf("cut after %d bytes: got %v, want %v", n, err, ErrLost)
			}
		} else {
			s.Close()
		}
		c.Close()
	}
	if cut == 0 {
		t.Error("nothing was cut")
	}
	w.CutAfter(0)
	s := mustOpen(t, w.dial(t), agent)
	whoami(t, s)
}

func TestAgentCrashes(t *testing.T) {
	w := newWorld(t, nil)
	s := mustOpen(t, w.dial(t), source(t))
	err := s.Call(t.Context(), "crash", nil, nil)
	if !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "status 3") || !strings.Contains(err.Error(), `fatal: \x1b[31mno more`) {
		t.Errorf("got %v", err)
	}
}

func TestChattyStderr(t *testing.T) {
	w := newWorld(t, nil)
	s := mustOpen(t, w.dial(t), source(t))
	var done string
	for range 5 {
		if err := s.Call(t.Context(), "chatter", nil, &done); err != nil || done != "done" {
			t.Fatalf("got %q, %v", done, err)
		}
	}
	text := strings.Repeat("é<>&\u2028", 20000)
	var back string
	if err := s.Call(t.Context(), "echo", json.RawMessage(`"`+text+`"`), &back); err != nil || back != text {
		t.Errorf("echo of %d bytes: %d, %v", len(text), len(back), err)
	}
}

func TestOpenCancelled(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial(t)
	w.Stall()
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(50*time.Millisecond, func() { cancel(errors.New("enough")) })
	if _, err := Open(ctx, c, source(t)); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got %v", err)
	}
	w.Resume()
}

// bufferedConn is one end of a pipe whose writes do not wait for the reader: both
// ends of SSH begin with a write.
type bufferedConn struct {
	net.Conn
	out chan []byte
}

func bufferedPipe() (net.Conn, net.Conn) {
	a, b := net.Pipe()
	return buffer(a), buffer(b)
}

func buffer(c net.Conn) *bufferedConn {
	b := &bufferedConn{c, make(chan []byte, 1000)}
	go func() {
		for p := range b.out {
			if p == nil {
				c.Close()
				return
			}
			// The reader may be gone; then everything is dropped.
			_, _ = c.Write(p)
		}
	}()
	return b
}

func (b *bufferedConn) Write(p []byte) (int, error) {
	b.out <- append([]byte{}, p...)
	return len(p), nil
}

func (b *bufferedConn) Close() error {
	b.out <- nil
	return b.Conn.Close()
}

// A server that falls silent while nothing beats yet is noticed as well. The
// link is a pipe here, so that no time passes.
func TestSilenceWhileOpening(t *testing.T) {
	host, user := newKey(t), newKey(t)
	synctest.Test(t, func(t *testing.T) {
		near, end := bufferedPipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
			config.AddHostKey(host)
			c, channels, requests, err := ssh.NewServerConn(end, config)
			if err != nil {
				t.Error(err)
				return
			}
			// It takes everything and says nothing any more.
			go func() {
				for range requests {
				}
			}()
			go func() {
				for range channels {
				}
			}()
			c.Wait()
		}()
		known, err := readHostKeys(nil)
		if err != nil {
			t.Fatal(err)
		}
		h := &handshake{target: Target{Name: "mx1"}, lookup: "mx1:22", known: known, offers: []offer{{user, "key"}}}
		counted := &countedConn{Conn: near}
		cc, channels, requests, err := ssh.NewClientConn(counted, "mx1:22", &ssh.ClientConfig{
			User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(h.signers)}, HostKeyCallback: ssh.FixedHostKey(host.PublicKey()),
		})
		if err != nil {
			t.Fatal(err)
		}
		c := newConn(h.target, "", ssh.NewClient(cc, channels, requests), counted, askServer)
		begun := time.Now()
		_, err = Open(t.Context(), c, source(t))
		if took := time.Since(begun); !errors.Is(err, ErrLost) || took > 2*wire.Lost {
			t.Errorf("got %v after %v", err, took)
		}
		c.Close()
		<-served
	})
}
