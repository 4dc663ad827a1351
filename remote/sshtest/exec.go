package sshtest

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// session serves one channel: one command or one sftp session.
func (s *Server) session(channel ssh.Channel, requests <-chan *ssh.Request) {
	var work sync.WaitGroup
	var c *command
	begun, terminal := false, false
	for r := range requests {
		if r.Type == "pty-req" {
			terminal = !begun && raw(r.Payload)
			if r.WantReply {
				r.Reply(terminal, nil)
			}
			continue
		}
		var payload struct{ Value string }
		ok := !begun && ssh.Unmarshal(r.Payload, &payload) == nil
		var err error
		var serve func()
		switch {
		case ok && r.Type == "exec":
			s.execs.Add(1)
			s.mu.Lock()
			fake := s.fake
			s.mu.Unlock()
			if fake != nil {
				serve = func() { exited(channel, fake(payload.Value, channel, channel)) }
				break
			}
			if c, err = s.command(payload.Value, terminal); err != nil {
				ok = false
				break
			}
			serve = func() { s.follow(c, channel) }
		case ok && r.Type == "subsystem" && payload.Value == "sftp" && !s.config.NoSFTP:
			s.sftps.Add(1)
			serve = func() {
				server := sftp.NewRequestServer(channel, s.handlers())
				// It ends with the channel, in whatever way.
				_ = server.Serve()
				_ = server.Close()
			}
		default:
			ok = false
		}
		begun = begun || ok
		if r.WantReply {
			r.Reply(ok, nil)
		}
		// Not before the reply: a command that ends at once would close the
		// channel under it.
		if serve != nil {
			work.Go(serve)
		}
	}
	// The channel or the connection is gone: what sshd leaves to a command
	// then is closed pipes.
	if c != nil {
		s.mu.Lock()
		if c.terminal && s.commands[c] {
			_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGHUP)
		}
		s.mu.Unlock()
		c.closePipes()
	}
	channel.Close()
	work.Wait()
}

// raw says whether a client asks for a terminal that changes and cuts nothing.
// Only such a one is granted, since pipes stand in for it. What makes them one is
// that both streams go out on one, that SSH_TTY names it, and that the end of a
// client's input is none of the command's: it hangs up with the channel.
func raw(payload []byte) bool {
	var request struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if ssh.Unmarshal(payload, &request) != nil {
		return false
	}
	off := map[byte]bool{}
	for m := []byte(request.Modes); len(m) >= 5 && m[0] != 0; m = m[5:] {
		off[m[0]] = binary.BigEndian.Uint32(m[1:]) == 0
	}
	for _, mode := range []byte{ssh.ICANON, ssh.ECHO, ssh.ICRNL, ssh.OPOST, ssh.ISIG} {
		if !off[mode] {
			return false
		}
	}
	return true
}

// command is one that runs, with our ends of its pipes.
type command struct {
	cmd                   *exec.Cmd
	stdin, stdout, stderr *os.File
	terminal              bool
}

func (c *command) closePipes() {
	for _, f := range []*os.File{c.stdin, c.stdout, c.stderr} {
		f.Close()
	}
}

// kill ends the command's whole group: it leads a session of its own.
func (c *command) kill() { _ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) }

// command starts one.
func (s *Server) command(line string, terminal bool) (*command, error) {
	var files [6]*os.File // reading and writing end of each pipe
	for i := 0; i < len(files); i += 2 {
		var err error
		if files[i], files[i+1], err = os.Pipe(); err != nil {
			for _, f := range files[:i] {
				f.Close()
			}
			return nil, err
		}
	}
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Env, cmd.Dir = s.env, s.config.Home
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[3], files[5]
	if terminal {
		cmd.Stderr = files[3]
		cmd.Env = append(slices.Clone(s.env), "SSH_TTY=/dev/pts/0")
	}
	c := &command{cmd: cmd, stdin: files[1], stdout: files[2], stderr: files[4], terminal: terminal}

	s.mu.Lock()
	defer s.mu.Unlock()
	err := errors.New("server closed")
	if !s.closed {
		err = cmd.Start()
	}
	files[0].Close()
	files[3].Close()
	files[5].Close()
	if err != nil {
		c.closePipes()
		return nil, err
	}
	s.commands[c] = true
	return c, nil
}

// follow moves bytes until the command has ended and its output is told, then
// tells its exit status.
func (s *Server) follow(c *command, channel ssh.Channel) {
	var input, output sync.WaitGroup
	// Errors here mean that one of the two sides is gone, and are its business.
	input.Go(func() {
		_, _ = io.Copy(c.stdin, channel)
		if !c.terminal {
			c.stdin.Close()
		}
	})
	output.Go(func() {
		_, _ = io.WriteString(channel, s.config.Noise)
		_, _ = io.Copy(channel, c.stdout)
		c.stdout.Close()
	})
	output.Go(func() {
		_, _ = io.Copy(channel.Stderr(), c.stderr)
		c.stderr.Close()
	})
	_ = c.cmd.Wait()
	s.mu.Lock()
	delete(s.commands, c)
	s.mu.Unlock()
	output.Wait()
	status := c.cmd.ProcessState.ExitCode()
	if status < 0 { // by a signal
		status = 255
	}
	exited(channel, status)
	input.Wait()
}

// exited tells how a command ended.
func exited(channel ssh.Channel, status int) {
	_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
	channel.Close()
}
