package spool_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool"
)

// smtpdRole makes this program a server that has one client at a time, as smtpd(8): it
// greets, and sends back each line. Its value is the address of something that it
// connects to for itself, as to a milter.
const smtpdRole = "SPOOLSWEEP_TEST_SMTPD"

func smtpdMain(milter string) error {
	inherited := os.NewFile(3, "listener")
	l, err := net.FileListener(inherited) // a copy: the first stays open, as master's does
	if err != nil {
		return err
	}
	own, err := net.Dial("tcp", milter)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Fprintln(c, "220 hello")
		for in := bufio.NewScanner(c); in.Scan(); {
			// What it asks its milter tells whether that connection still stands.
			fmt.Fprintln(own, in.Text())
			answer := make([]byte, len(in.Text())+1)
			if _, err := io.ReadFull(own, answer); err != nil {
				return fmt.Errorf("milter: %w", err)
			}
			fmt.Fprintf(c, "250 %s", answer)
		}
		c.Close()
	}
}

// smtpd starts such a server; its listener's address is returned.
func smtpd(t *testing.T, program, queue, milter string) (pid int, address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(program)
	cmd.Dir, cmd.ExtraFiles, cmd.Stderr = queue, []*os.File{f}, os.Stderr
	cmd.Env = append(os.Environ(), smtpdRole+"="+milter)
	// A text file busy: another test forks while the program is written.
	for try := 0; ; try++ {
		if err = cmd.Start(); err == nil || try == 50 || !strings.Contains(err.Error(), "text file busy") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd.Process.Pid, l.Addr().String()
}

// client is one of a server.
type client struct {
	t *testing.T
	net.Conn
	in *bufio.Reader
}

func connect(t *testing.T, address string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	c := &client{t, conn, bufio.NewReader(conn)}
	if line, err := c.in.ReadString('\n'); err != nil || line != "220 hello\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return c
}

// says sends a line, and wants it back.
func (c *client) says(text string) {
	c.t.Helper()
	if _, err := fmt.Fprintln(c, text); err != nil {
		c.t.Fatal(err)
	}
	if line, err := c.in.ReadString('\n'); err != nil || line != "250 "+text+"\n" {
		c.t.Fatalf("%q: %q, %v", text, line, err)
	}
}

// One session is ended, without a signal: the server has the next client, what it has
// connected to itself stays, and so does everybody else's session.
func TestHangUp(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs pidfd_getfd(2), which Linux has")
	}
	dir := t.TempDir()
	program, queue, other := filepath.Join(dir, "bin", "smtpd"), filepath.Join(dir, "queue"), filepath.Join(dir, "other")
	for _, d := range []string{filepath.Dir(program), queue, other} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{program, filepath.Join(dir, "bin", "cleanup"), filepath.Join(dir, "smtpd")} {
		if err := os.WriteFile(name, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	milter := echo.Addr().String()
	began := time.Now()
	one, oneAt := smtpd(t, program, queue, milter)
	two, twoAt := smtpd(t, program, queue, milter)
	idle, idleAt := smtpd(t, program, queue, milter)
	connect(t, idleAt).Close()
	// None of these are this Postfix's SMTP servers.
	for _, odd := range [][2]string{{program, other}, {filepath.Join(dir, "bin", "cleanup"), queue}, {filepath.Join(dir, "smtpd"), queue}} {
		_, at := smtpd(t, odd[0], odd[1], milter)
		connect(t, at).says("not asked")
	}
	thief, bystander := connect(t, oneAt), connect(t, twoAt)
	thief.says("MAIL FROM")
	bystander.says("MAIL FROM")

	p := &spool.Postfix{Settings: spool.Settings{QueueDirectory: queue, DaemonDirectory: filepath.Dir(program)}}
	servers, err := p.Servers()
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, s := range servers {
		pids = append(pids, s.PID)
		// Never later than it was: lines of its first second are its own.
		if s.Began.Before(began.Add(-2*time.Second)) || s.Began.After(time.Now()) {
			t.Errorf("smtpd %d began at %v, not just before %v", s.PID, s.Began, began)
		}
	}
	want := []int{one, two, idle}
	slices.Sort(pids)
	slices.Sort(want)
	if !slices.Equal(pids, want) {
		t.Fatalf("servers %v, want %v", pids, want)
	}
	of := func(pid int) *spool.Server {
		return servers[slices.IndexFunc(servers, func(s *spool.Server) bool { return s.PID == pid })]
	}
	var steps []string
	spool.SetStep(func(what string) error { steps = append(steps, what); return nil })
	defer spool.SetStep(nil)
	if ended, err := of(one).HangUp(); !ended || err != nil {
		t.Fatalf("ended %t, %v", ended, err)
	}
	if line, err := thief.in.ReadString('\n'); err != io.EOF {
		t.Errorf("the session goes on: %q, %v", line, err)
	}
	bystander.says("RCPT TO")
	connect(t, oneAt).says("the next client")
	if fmt.Sprint(steps) != fmt.Sprintf("[hang up %d]", one) {
		t.Errorf("changed %q", steps)
	}
	// Where no client is, nothing is ended; nor of a process that has ended.
	if ended, err := of(idle).HangUp(); ended || err != nil {
		t.Errorf("idle: ended %t, %v", ended, err)
	}
	spool.SetStep(func(string) error { return os.ErrPermission })
	if ended, err := of(two).HangUp(); ended || err == nil || !strings.Contains(err.Error(), fmt.Sprintf("end the session of smtpd %d: ", two)) {
		t.Errorf("refused: ended %t, %v", ended, err)
	}
	process, err := os.FindProcess(idle)
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	for now, err := p.Servers(); err != nil || len(now) == 3; now, err = p.Servers() {
		time.Sleep(5 * time.Millisecond) // until it is a zombie
	}
	if ended, err := of(idle).HangUp(); ended || err != nil {
		t.Errorf("gone: ended %t, %v", ended, err)
	}
}
