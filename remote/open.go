package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/clean"
	"spoolsweep/remote/push"
	"spoolsweep/remote/wire"
)

// Kinds of OpenError.
const (
	KindAgent    Kind = "agent"    // there is none for this host, or it cannot be brought there
	KindPlace    Kind = "place"    // the host has no fit directory for it
	KindSudo     Kind = "sudo"     // there is no sudo, doas or su, or it refuses
	KindPassword Kind = "password" // it wants a password: none was given, or another one
	KindSettings Kind = "settings" // our own, of ssh or of the inventory, are no good for it
	KindGreeting Kind = "greeting" // something else answered, or nothing, or another file than was expected
)

// OpenError says why the agent does not run on a host that could be reached, or
// why it is not spoken to.
type OpenError struct {
	Host   string
	Kind   Kind
	Err    error // may quote the host: show it through package clean
	Remedy string
}

// Message says what happened, without the remedy, safe to show.
func (e *OpenError) Message() string {
	return clean.Text(e.Host, 200) + ": " + clean.Text(e.Err.Error(), 2000)
}

func (e *OpenError) Error() string {
	if e.Remedy == "" {
		return e.Message()
	}
	return e.Message() + "; " + e.Remedy
}

func (e *OpenError) Unwrap() error { return e.Err }

// greetingTime bounds the time from the command to the greeting. It is long
// because sudo may ask a directory first.
const greetingTime = time.Minute

// maxStderr bounds what is kept of the agent's stderr: its end.
const maxStderr = 16 << 10

// Open starts the agent on a host and reads its greeting. Where the agent is
// there already, that is one exec and nothing else; else it is sent first.
// Nothing but that question is sent to a program that does not say by its hash that
// it is the file that was expected. When ctx ends before Open has returned, conn is closed.
func Open(ctx context.Context, conn *Conn, source *push.Source) (*Session, error) {
	ctx, release := conn.guard(ctx)
	s, err := open(ctx, conn, source)
	if ended := release(); ended != nil {
		// The connection is closed, which is why the rest failed, if it did.
		if s != nil {
			s.Close()
		}
		return nil, fmt.Errorf("%s: %w", conn.Target.Name, ended)
	}
	if err != nil && conn.net.over.Load() {
		// Whatever failed did so for that reason, which may pass: its remedy is none.
		var failed *OpenError
		if errors.As(err, &failed) {
			err = failed.Err
		}
		return nil, fmt.Errorf("%s: %w while the agent was started: %w", conn.Target.Name, ErrLost, err)
	}
	return s, err
}

func open(ctx context.Context, conn *Conn, source *push.Source) (*Session, error) {
	hashes := source.Hashes()
	var pushed int64
	var sentTo string // where the agent was sent
	for {
		p, err := conn.start(hashes)
		if err != nil {
			return nil, err
		}
		hello, err := p.greeting()
		if err != nil && !conn.terminal && p.wantsTerminal() {
			conn.terminal = true
			continue
		}
		if err == nil {
			s := newSession(conn.Target.Name, hello.Build, p.link())
			s.pushed = pushed
			if err := conn.prove(ctx, s, hello.Sum, source, hashes); err != nil {
				s.fail(err)
				p.abandon()
				s.Close()
				return nil, err
			}
			return s, nil
		}
		p.abandon()
		need, err := conn.why(p, err)
		switch {
		case err != nil:
			return nil, err
		case need == nil && sentTo == "":
			// It lies there under its name, and does not run: the host lost
			// power before the file was on its disk, or the like.
			hashes = nil
			continue
		case sentTo != "":
			return nil, conn.openError(KindAgent, fmt.Errorf("the agent was put into %s and does not run there: %w", sentTo, p.silence()),
				"look at the host's log, or give it another agent_directory")
		}
		agent, err := source.Agent(ctx, need.Arch)
		if err != nil {
			return nil, conn.openError(KindAgent, err, "give one for that host with --agent FILE, or leave the host out with --limit")
		}
		n, err := push.Upload(conn.client, agent, need)
		pushed += n
		if err != nil {
			kind := KindAgent
			if place := (*push.PlaceError)(nil); errors.As(err, &place) {
				kind = KindPlace
			}
			return nil, conn.openError(kind, fmt.Errorf("send the agent: %w", err),
				"check free space and SFTP there, or give the host an agent_directory")
		}
		hashes, sentTo = map[string]string{agent.Arch: agent.SHA256}, need.Directory
	}
}

func agentPlace(t Target) string {
	if t.AgentDirectory != "" {
		return t.AgentDirectory
	}
	return "~/.cache/spoolsweep on that host"
}

// prove looks that the agent is one of those that were asked for. For who only looks
// at the host its checksum will do: that the whole file is there was proved when it
// was sent. Else it is asked for the hash, which takes it longer than the look.
func (c *Conn) prove(ctx context.Context, s *Session, sum string, source *push.Source, hashes map[string]string) error {
	switch {
	case wire.IsSHA256(sum):
	case c.glance && source.Has(hashes, sum):
		return nil
	default:
		if err := s.Call(ctx, wire.Sum, nil, &sum); err != nil {
			var fault *wire.Fault
			if !errors.As(err, &fault) {
				return err
			}
			sum = fault.Message
		}
	}
	if !expected(hashes, sum) {
		return c.openError(KindGreeting, fmt.Errorf("the agent says it is %s, which is none of ours", clean.Text(sum, 64)),
			"somebody may have put it there: look at "+agentPlace(c.Target))
	}
	return nil
}

func expected(hashes map[string]string, hash string) bool {
	for _, h := range hashes {
		if h == hash {
			return true
		}
	}
	return false
}

func (c *Conn) openError(kind Kind, err error, remedy string) error {
	return &OpenError{Host: c.Target.Name, Kind: kind, Err: err, Remedy: remedy}
}

// process is the script, or the agent it became.
type process struct {
	session *ssh.Session
	conn    *Conn
	stdin   io.WriteCloser
	r       *watched
	wire    *wire.Reader
	stderr  *tail
	noise   []byte // what came instead of a greeting
	become  *become

	exited chan struct{} // closed when err is set
	err    error
}

func (c *Conn) start(hashes map[string]string) (*process, error) {
	asks := newBecome(&c.Target)
	c.terminal = c.terminal || asks.needsTerminal()
	line, err := push.Command(c.Target.AgentDirectory, push.Become{Method: asks.method, Word: asks.word}, hashes)
	if err != nil {
		return nil, c.openError(KindPlace, err, "give the host another agent_directory")
	}
	session, err := c.client.NewSession()
	if err != nil {
		return nil, c.openError(KindAgent, fmt.Errorf("open a session: %w", err), "see the server's log there: MaxSessions of sshd_config may be too low")
	}
	p := &process{session: session, conn: c, stderr: &tail{max: maxStderr, secret: c.Target.BecomePassword}, exited: make(chan struct{}), become: asks}
	session.Stderr = io.MultiWriter(p.stderr, asks)
	stdout, err := session.StdoutPipe()
	if err == nil {
		p.stdin, err = session.StdinPipe()
	}
	asks.w, asks.end = p.stdin, func() { session.Close() }
	if err == nil && c.terminal {
		stdout = &heard{Reader: stdout, w: session.Stderr, become: asks}
		err = session.RequestPty("dumb", 24, 80, rawTerminal)
	}
	if err == nil {
		err = session.Start(line)
	}
	if err != nil {
		session.Close()
		return nil, c.openError(KindAgent, fmt.Errorf("run a command: %w", err), "see the server's log there: the login may not be allowed to run commands")
	}
	p.r = &watched{Reader: stdout}
	p.wire = wire.NewReader(p.r)
	c.wg.Go(func() {
		p.err = session.Wait()
		close(p.exited)
	})
	return p, nil
}

// greeting reads it, and what came instead. It is bounded in time by closing the channel.
func (p *process) greeting() (wire.Greeting, error) {
	timer := time.AfterFunc(greetingTime, func() { p.session.Close() })
	hello, err := p.wire.Greeting()
	p.become.over()
	if !timer.Stop() {
		err = fmt.Errorf("no greeting within %v", greetingTime)
	}
	var noise *wire.NoiseError
	if errors.As(err, &noise) {
		p.noise = noise.Noise
		return hello, err
	}
	if p.conn.terminal || p.become.wasAsked() > 0 {
		p.stderr.forget() // that was not the agent
	}
	if p.conn.terminal {
		p.wire.SkipNoise(func(line []byte) { fmt.Fprintf(p.stderr, "%s\n", line) })
	}
	return hello, err
}

// abandon ends a process that is not to be spoken to.
func (p *process) abandon() {
	p.session.Close()
	select {
	case <-p.exited:
	case <-time.After(closeGrace):
	}
}

func (p *process) link() link {
	l := link{r: p.r, wire: p.wire, w: p.stdin, abort: func() { p.conn.client.Close() }, said: p.said}
	if p.conn.terminal {
		// A raw terminal knows no end of input: what ends the agent is that it hangs up.
		l.w = struct {
			io.Writer
			io.Closer
		}{p.stdin, p.session}
	}
	return l
}

// said tells how the agent ended, if it did: sshd sends that at once.
func (p *process) said() error {
	select {
	case <-p.exited:
	case <-time.After(closeGrace):
		return nil
	}
	var exit *ssh.ExitError
	if errors.As(p.err, &exit) || p.err == nil {
		what := "the agent ended"
		if exit != nil {
			what += fmt.Sprintf(" with status %d", exit.ExitStatus())
			if exit.Signal() != "" {
				what = "the agent was ended by signal " + exit.Signal()
			}
		}
		if said := p.stderr.lastLines(); said != "" {
			what += ": " + said
		}
		return errors.New(clean.Text(what, 1000))
	}
	return nil
}

// status is the exit status, -1 if there is none.
func (p *process) status() int {
	select {
	case <-p.exited:
	default:
		return -1
	}
	var exit *ssh.ExitError
	switch {
	case p.err == nil:
		return 0
	case errors.As(p.err, &exit) && exit.Signal() == "":
		return exit.ExitStatus()
	}
	return -1
}

// silence says what came instead of a greeting.
func (p *process) silence() error {
	what := "no greeting from the agent"
	if n := p.status(); n > 0 {
		what += fmt.Sprintf(", exit status %d", n)
	}
	if said := p.stderr.lastLines(); said != "" {
		what += ": " + said
	}
	// On a terminal that is one and the same.
	if noise := bytes.TrimSpace(p.conn.Target.BecomePassword.hideIn(p.noise)); len(noise) > 0 && !p.conn.terminal {
		what += "; it printed " + clean.Text(noise, 300)
	}
	return errors.New(what)
}

const byHand = "log in there by hand and see what the shell prints or runs"

// why sorts out what a host says that did not greet. Neither a need nor an error
// means that an agent was found there and could not run.
func (c *Conn) why(p *process, err error) (*push.Need, error) {
	var noise *wire.NoiseError
	if !errors.As(err, &noise) {
		return nil, c.openError(KindGreeting, err, byHand)
	}
	need, err := push.Answer(p.noise)
	var place *push.PlaceError
	refused := c.becomeRefused(p)
	switch {
	case errors.As(err, new(*push.NotInstalledError)):
		return nil, c.openError(KindSudo, err, "install it there, or connect as root (-u root)")
	case errors.As(err, &place):
		return nil, c.openError(KindPlace, place, "give the host an agent_directory of its own, with mode 0700, on a file system that is not mounted noexec")
	case err != nil:
		return nil, c.openError(KindGreeting, err, byHand)
	case need != nil:
		return need, nil
	case refused != nil:
		return nil, refused
	}
	switch p.status() {
	case 0, 126, 127:
		return nil, nil
	}
	return nil, c.openError(KindGreeting, p.silence(), byHand)
}

// guard watches over a connection while nothing beats on it: what has not said a
// byte for wire.Lost is lost. It asks, as OpenSSH's ServerAliveInterval does, so
// that a host at work is never silent. When the context it returns ends before
// release, the connection is closed, which ends whatever blocks on it, and
// release says why.
func (c *Conn) guard(parent context.Context) (ctx context.Context, release func() error) {
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(ctx, func() { c.client.Close() })
	c.wg.Go(func() {
		// Ends with the guard, or, where an answer stays away, with the connection.
		for {
			select {
			case <-time.After(wire.Beat): // most are done by then, and need no question
			case <-ctx.Done():
				return
			}
			if c.alive(c.client) != nil {
				return
			}
		}
	})
	c.wg.Go(func() {
		heard := c.net.read.Load()
		for {
			select {
			case <-time.After(wire.Lost):
			case <-ctx.Done():
				return
			}
			now := c.net.read.Load()
			if now == heard {
				cancel(fmt.Errorf("%w: nothing heard for %v", ErrLost, wire.Lost))
				return
			}
			heard = now
		}
	})
	return ctx, func() error {
		defer cancel(nil)
		if stop() {
			return nil
		}
		return context.Cause(ctx)
	}
}

// tail keeps the last bytes that were written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
	max  int

	secret Secret // never shown
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[max(0, len(p)-t.max):]...)
	if over := len(t.text) - t.max; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// forget drops what was written so far.
func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = nil
}

// lastLines returns the last few lines on one, safe to show.
func (t *tail) lastLines() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.secret.hideIn(t.text))), "\n")
	lines = lines[max(0, len(lines)-3):]
	for i, l := range lines {
		lines[i] = clean.Text(strings.TrimSpace(l), 300)
	}
	return strings.Join(lines, "; ")
}
