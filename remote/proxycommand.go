package remote

import (
	"io"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// proxy is a ProxyCommand and the way it opens. It has a session of its own: no
// signal of our terminal reaches it, it cannot ask there beside us, and what it
// starts ends with it.
type proxy struct {
	io.Writer // its standard input
	io.Reader // its standard output
	in        io.Closer
	cmd       *exec.Cmd
	stderr    *tail
	exited    chan struct{}
	once      sync.Once
	leave     func() // see room
}

// proxyGrace is how long a ProxyCommand has to end by itself.
const proxyGrace = time.Second

// startProxy runs a command whose tokens are expanded, as ssh does.
func startProxy(command string) (*proxy, error) {
	p := &proxy{cmd: exec.Command(userShell(), "-c", "exec "+command), stderr: &tail{max: maxStderr}, exited: make(chan struct{})}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = proxyGrace // for who has inherited its stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// A pipe of our own: exec's is closed by Wait before all is read.
	r, w := io.Pipe()
	p.cmd.Stdout = w
	p.Writer, p.Reader, p.in = in, r, in
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // how it ended shows in what it wrote to stderr
		w.Close()
		close(p.exited)
	}()
	return p, nil
}

// Close ends the command and what it started.
func (p *proxy) Close() error {
	p.once.Do(func() {
		defer p.leave()
		p.in.Close()
		p.Reader.(*io.PipeReader).Close()
		select {
		case <-p.exited:
			return // its number may be another's by now
		default:
		}
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGHUP) // as ssh does
		select {
		case <-p.exited:
		case <-time.After(proxyGrace):
		}
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // whoever took no notice
		<-p.exited
	})
	return nil
}

// said is the end of what the command wrote to stderr, safe to show.
func (p *proxy) said() string { return p.stderr.lastLines() }

// A pipe has neither addresses nor deadlines: see patience.

func (p *proxy) LocalAddr() net.Addr              { return anywhere }
func (p *proxy) RemoteAddr() net.Addr             { return anywhere }
func (p *proxy) SetDeadline(time.Time) error      { return nil }
func (p *proxy) SetReadDeadline(time.Time) error  { return nil }
func (p *proxy) SetWriteDeadline(time.Time) error { return nil }
