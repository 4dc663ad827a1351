package sshtest_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/sshtest"
)

func start(t *testing.T) (*sshtest.Server, *ssh.Client, string) {
	t.Helper()
	key, err := sshtest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	s, err := sshtest.Start(sshtest.Config{ClientKeys: []ssh.PublicKey{key.PublicKey()}, Home: home, Env: []string{"EXTRA=1"}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := ssh.Dial("tcp", s.Addr().String(), &ssh.ClientConfig{
		User: "u", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return s, c, home
}

func TestExec(t *testing.T) {
	s, c, home := start(t)
	run, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	run.Stdin, run.Stdout, run.Stderr = strings.NewReader("input"), &out, &errs
	err = run.Run(`cat; echo " $HOME $PWD $EXTRA"; echo problem >&2; exit 7`)
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("got %v, want exit status 7", err)
	}
	if want := "input " + home + " " + home + " 1\n"; out.String() != want || errs.String() != "problem\n" || s.Execs() != 1 {
		t.Errorf("got %q, %q, want %q", out.String(), errs.String(), want)
	}
}

// A lost connection closes a command's pipes and sends it no signal.
func TestLostConnection(t *testing.T) {
	s, c, home := start(t)
	run, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(home, "fifo")
	if err := run.Start("mkfifo " + fifo + "; echo ready; cat >/dev/null; trap '' PIPE; while echo x 2>/dev/null; do :; done; echo closed >" + fifo); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	s.Cut()
	text, err := os.ReadFile(fifo)
	if err != nil || string(text) != "closed\n" {
		t.Errorf("the command found its output %q, %v", text, err)
	}
}

// A command may end before the request to start it is answered: the answer
// comes all the same, and before the end.
func TestShortCommands(t *testing.T) {
	_, c, _ := start(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				run, err := c.NewSession()
				if err != nil {
					t.Error(err)
					return
				}
				if out, err := run.CombinedOutput("echo hello"); err != nil || string(out) != "hello\n" {
					t.Errorf("echo hello: %q, %v", out, err)
				}
				run.Close()
			}
		})
	}
	wg.Wait()
}

// Programs are uploaded while others are started: none is ever busy.
func TestUploadedProgramsRun(t *testing.T) {
	_, c, home := start(t)
	program, err := os.ReadFile("/bin/echo")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				name := filepath.Join(home, string(rune('a'+i))+string(rune('a'+j)))
				if err := uploadAndRun(c, name, program); err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func uploadAndRun(c *ssh.Client, name string, program []byte) error {
	files, err := sftp.NewClient(c)
	if err != nil {
		return err
	}
	defer files.Close()
	f, err := files.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	_, err = f.ReadFrom(bytes.NewReader(program))
	if err := errors.Join(err, f.Close(), files.Chmod(name, 0o700)); err != nil {
		return err
	}
	run, err := c.NewSession()
	if err != nil {
		return err
	}
	defer run.Close()
	out, err := run.CombinedOutput(name + " hello")
	if err == nil && string(out) != "hello\n" {
		err = errors.New("it printed " + string(out))
	}
	return err
}

// What a long way delays is late, not slow: it has room for much at a time, and what
// was sent before the end arrives.
func TestLatency(t *testing.T) {
	key, err := sshtest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	const trip = 100 * time.Millisecond
	s, err := sshtest.Start(sshtest.Config{ClientKeys: []ssh.PublicKey{key.PublicKey()}, Home: t.TempDir(), Latency: trip, Room: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := ssh.Dial("tcp", s.Addr().String(), &ssh.ClientConfig{
		User: "u", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	run, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	out, err := run.Output("head -c 1000000 /dev/zero; echo end")
	if took := time.Since(began); err != nil || !strings.HasSuffix(string(out), "end\n") || took < trip || took > 50*trip {
		t.Errorf("%d bytes in %v, %v", len(out), took, err)
	}
	// The disk is full before that file is.
	files, err := sftp.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	f, err := files.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 2000)); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("got %v", err)
	}
	f.Close()
}

// A fault is in the packet it is meant for, and leaves so much of it: what came in
// part has not come, wherever in a packet that is.
func TestFaultInPacket(t *testing.T) {
	key, err := sshtest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := sshtest.Start(sshtest.Config{ClientKeys: []ssh.PublicKey{key.PublicKey()}, Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	// talk is how far a client comes, whose keys change on the way.
	talk := func() (far string) {
		c, err := ssh.Dial("tcp", s.Addr().String(), &ssh.ClientConfig{
			User: "u", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			Config: ssh.Config{RekeyThreshold: 1 << 12},
		})
		if err != nil {
			return "not let in"
		}
		defer c.Close()
		run, err := c.NewSession()
		if err != nil {
			return "no session"
		}
		in, err1 := run.StdinPipe()
		out, err2 := run.StdoutPipe()
		if errors.Join(err1, err2) != nil || run.Start("cat") != nil {
			return "not started"
		}
		for line := range 20 {
			text := bytes.Repeat([]byte{byte('a' + line)}, 300)
			back := make([]byte, len(text))
			if _, err := in.Write(text); err != nil {
				return "line not sent"
			}
			if _, err := io.ReadFull(out, back); err != nil || !bytes.Equal(back, text) {
				return "line not back"
			}
		}
		in.Close()
		if run.Wait() != nil {
			return "not ended"
		}
		return "done"
	}
	s.SetFault(nil)
	if far := talk(); far != "done" {
		t.Fatal(far)
	}
	down, up := s.Sent()
	if down.Packets < 30 || up.Packets < 30 || down.Bytes < 10000 || up.Bytes < 10000 {
		t.Fatalf("%+v down and %+v up", down, up)
	}
	all, last, middle := func(n int) int { return n }, func(n int) int { return n - 1 }, func(n int) int { return n / 2 }
	for _, up := range []bool{false, true} {
		for packet := 1; packet <= 30; packet++ {
			var far []string
			var size int
			for _, passes := range []func(int) int{all, last, middle, func(n int) int { return n % 7 }} {
				s.SetFault(&sshtest.Fault{Up: up, Packet: packet, Passes: func(n int) int { size = n; return passes(n) }})
				far = append(far, talk())
				down, from := s.Sent()
				if !s.Faulted() || size == 0 || up && from.Packets != packet || !up && down.Packets < packet {
					t.Fatalf("up %t, packet %d of %d bytes: %+v down and %+v up", up, packet, size, down, from)
				}
			}
			if far[1] == "done" || far[1] != far[2] || far[2] != far[3] {
				t.Errorf("up %t, packet %d of %d bytes, of which passed all, all but one, half, a few: %q", up, packet, size, far)
			}
		}
	}
}
