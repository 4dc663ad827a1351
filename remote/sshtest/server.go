// Package sshtest is an SSH server inside the process, for tests and for the
// demo: it really runs what a client asks for, really stores what it uploads,
// and on request it cuts, stalls, refuses and lies.
//
// As with OpenSSH, a lost connection kills nothing: the commands only find
// their pipes closed. Each runs in a session of its own. [Server.Close] is where
// a test ends, and there what still runs is killed; a process that has left its
// group is not.
//
// It checks no more than a client's key: never let anything but the own machine
// reach it.
package sshtest

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// Config is what a server is like from the start.
type Config struct {
	ClientKeys []ssh.PublicKey // that may log in; certificates count as their authority's key
	HostKeys   []ssh.Signer    // empty: a new ed25519 key
	Home       string          // HOME of commands, and where they start
	Path       string          // PATH of commands; empty: the present one
	Env        []string        // more of their environment, such as SPOOLSWEEP_PRACTICE=DIR
	Noise      string          // printed before whatever a command prints, like a careless login shell
	Banner     string          // shown before the login
	NoSFTP     bool            // no sftp subsystem
	Latency    time.Duration   // a round trip takes that much longer
	Room       int64           // bytes that can be stored by SFTP, when the disk is full; 0 for no limit
	Address    string          // to listen on; empty: a free port of 127.0.0.1
}

// Server is a server that runs.
type Server struct {
	config   Config
	listener net.Listener
	env      []string
	wg       sync.WaitGroup // of everything that serves

	execs, sftps, conns, uploaded atomic.Int64

	mu       sync.Mutex // guards what follows
	hostKeys []ssh.Signer
	refuse   bool
	fake     Fake
	stalled  chan struct{} // not nil: nothing moves until it is closed
	cutAfter int64         // for new connections: bytes to the client, 0 for no end
	fault    *Fault        // that is still to happen
	deaf     bool          // it has, and nobody is let in any more
	sent     [2]Sent       // what went down and up
	live     map[*faulty]bool
	commands map[*command]bool
	closed   bool
}

// Start starts a server.
func Start(config Config) (*Server, error) {
	s := &Server{config: config, hostKeys: config.HostKeys, live: map[*faulty]bool{}, commands: map[*command]bool{}}
	if len(s.hostKeys) == 0 {
		key, err := NewKey()
		if err != nil {
			return nil, err
		}
		s.hostKeys = []ssh.Signer{key}
	}
	path := config.Path
	if path == "" {
		path = os.Getenv("PATH")
	}
	// Nothing of our own environment: a command must not find the real HOME.
	s.env = append([]string{"HOME=" + config.Home, "PATH=" + path, "SHELL=/bin/sh", "LANG=C.UTF-8"}, config.Env...)
	address := config.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("ssh test server: %w", err)
	}
	s.listener = l
	s.wg.Go(s.accept)
	return s, nil
}

// NewKey makes an ed25519 key.
func NewKey() (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(private)
}

// WriteKey makes a key for a client, writes it to file as ssh-keygen would, and
// returns what the server must accept.
func WriteKey(file string) (ssh.PublicKey, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, filepath.Base(file))
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	return signer.PublicKey(), nil
}

// Addr is where the server listens.
func (s *Server) Addr() *net.TCPAddr { return s.listener.Addr().(*net.TCPAddr) }

// KnownHostsLine is what a known_hosts file needs, one line for each host key,
// newlines included.
func (s *Server) KnownHostsLine() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	for _, k := range s.hostKeys {
		fmt.Fprintln(&b, knownhosts.Line([]string{s.listener.Addr().String()}, k.PublicKey()))
	}
	return b.String()
}

// Execs, SFTPs and Conns count commands, sftp sessions and connections that
// were begun, Uploaded the bytes stored by SFTP.
func (s *Server) Execs() int64    { return s.execs.Load() }
func (s *Server) SFTPs() int64    { return s.sftps.Load() }
func (s *Server) Conns() int64    { return s.conns.Load() }
func (s *Server) Uploaded() int64 { return s.uploaded.Load() }

// Processes are the ids of the commands that run.
func (s *Server) Processes() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []int
	for c := range s.commands {
		ids = append(ids, c.cmd.Process.Pid)
	}
	return ids
}

// SetHostKeys gives new connections other host keys.
func (s *Server) SetHostKeys(keys ...ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hostKeys = keys
}

// Fake stands in for a command: it is given the command line, and what it returns
// is the exit status.
type Fake func(line string, in io.Reader, out io.Writer) int

// Lie has commands that begin from now on answered by f; nil for the truth.
func (s *Server) Lie(f Fake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fake = f
}

// Refuse lets nobody in from now on.
func (s *Server) Refuse(refuse bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

// CutAfter cuts each new connection once it has sent n bytes to the client; 0
// for never.
func (s *Server) CutAfter(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutAfter = n
}

// Fault befalls the first connection on which so much has gone one way, and no
// other one.
type Fault struct {
	Up    bool  // the way from the client; else that to it
	After int64 // bytes that still pass, of all connections together from now on
	// Packet, instead of After, is the packet in which it is, of all connections
	// together from 1 on, and Passes how many bytes of it pass, given its size.
	Packet int
	Passes func(size int) int
	Stall  bool // the connection goes silent both ways, where it else is cut
	Deaf   bool // from then on no further connection gets an answer
}

// SetFault arms a fault, or disarms what is armed with nil.
func (s *Server) SetFault(f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault, s.deaf, s.sent = f, false, [2]Sent{}
}

// Faulted says whether nothing is armed any more.
func (s *Server) Faulted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault == nil
}

// Sent is what has gone one way. The line with the version counts as a packet.
type Sent struct {
	Bytes   int64
	Packets int
}

// Sent is what went to clients and came from them since the last SetFault.
func (s *Server) Sent() (down, up Sent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent[0], s.sent[1]
}

// pass counts a packet that goes one way, and says how much of it may pass, and
// what happens to the connection then.
func (s *Server) pass(up bool, packet []byte) ([]byte, *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sent := &s.sent[0]
	if up {
		sent = &s.sent[1]
	}
	sent.Packets++
	f := s.fault
	switch {
	case f == nil || f.Up != up:
		f = nil
	case f.Packet > 0 && f.Packet == sent.Packets:
		packet = packet[:f.Passes(len(packet))]
	case f.Packet == 0 && sent.Bytes+int64(len(packet)) >= f.After:
		packet = packet[:f.After-sent.Bytes]
	default:
		f = nil
	}
	if f != nil {
		s.fault, s.deaf = nil, f.Deaf
	}
	sent.Bytes += int64(len(packet))
	return packet, f
}

// Cut ends all connections there are, as a router does that forgets them.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.live {
		c.Close()
	}
}

// Stall holds all traffic, of new connections too, until Resume: nothing is lost
// and nothing moves.
func (s *Server) Stall() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stalled == nil {
		s.stalled = make(chan struct{})
	}
}

// Resume ends Stall.
func (s *Server) Resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stalled != nil {
		close(s.stalled)
		s.stalled = nil
	}
}

// Close cuts all connections, kills the commands that still run, and waits for
// everything to be over.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	for c := range s.live {
		c.Close()
	}
	for c := range s.commands {
		c.kill()
	}
	s.mu.Unlock()
	err := s.listener.Close()
	s.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.conns.Add(1)
		if s.config.Latency > 0 {
			conn = s.slowed(conn)
		}
		s.mu.Lock()
		c := &faulty{Conn: conn, server: s, left: s.cutAfter, limited: s.cutAfter > 0, closed: make(chan struct{})}
		if s.closed || s.deaf {
			conn.Close()
		} else {
			s.live[c] = true
			s.wg.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

func (s *Server) serve(conn *faulty) {
	defer func() {
		conn.Close()
		s.mu.Lock()
		delete(s.live, conn)
		s.mu.Unlock()
	}()
	config := &ssh.ServerConfig{
		Config: ssh.Config{Ciphers: ciphers},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, s.admit(key)
		},
	}
	if s.config.Banner != "" {
		config.BannerCallback = func(ssh.ConnMetadata) string { return s.config.Banner }
	}
	s.mu.Lock()
	for _, k := range s.hostKeys {
		config.AddHostKey(k)
	}
	s.mu.Unlock()
	c, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	defer c.Close()
	// Keepalives are answered with "no", as OpenSSH does.
	s.wg.Go(func() { ssh.DiscardRequests(requests) })
	for next := range channels {
		if next.ChannelType() != "session" {
			next.Reject(ssh.UnknownChannelType, "only sessions")
			continue
		}
		channel, requests, err := next.Accept()
		if err != nil {
			return
		}
		s.wg.Go(func() { s.session(channel, requests) })
	}
}

func (s *Server) admit(key ssh.PublicKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.SignatureKey
	}
	for _, k := range s.config.ClientKeys {
		if !s.refuse && bytes.Equal(k.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return errors.New("key not accepted")
}

// faulty is a connection as seen by the server, with the faults in it.
type faulty struct {
	net.Conn
	server *Server

	mu      sync.Mutex // guards left
	left    int64      // bytes to the client before the cut
	limited bool

	in, out packets
	buf     []byte // of Read
	ready   []byte // of in, to be read

	silent atomic.Bool // by a fault
	once   sync.Once
	closed chan struct{}
}

func (c *faulty) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// wait blocks while the server stalls, and says when the connection is no more.
func (c *faulty) wait() error {
	for {
		if c.silent.Load() {
			<-c.closed
		}
		select {
		case <-c.closed:
			return net.ErrClosed
		default:
		}
		c.server.mu.Lock()
		stalled := c.server.stalled
		c.server.mu.Unlock()
		if stalled == nil {
			return nil
		}
		select {
		case <-stalled:
		case <-c.closed:
			return net.ErrClosed
		}
	}
}

func (c *faulty) Read(p []byte) (int, error) {
	for len(c.ready) == 0 {
		packet, err := c.in.next()
		if err != nil {
			return 0, err
		}
		if packet != nil {
			if err := c.wait(); err != nil {
				return 0, err
			}
			var f *Fault
			c.ready, f = c.server.pass(true, packet)
			c.befall(f)
			continue
		}
		if c.buf == nil {
			c.buf = make([]byte, 32<<10)
		}
		n, err := c.Conn.Read(c.buf)
		if werr := c.wait(); werr != nil {
			return 0, werr
		}
		if c.in.rest = append(c.in.rest, c.buf[:n]...); n == 0 && err != nil {
			return 0, err
		}
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

// befall does to the connection what a fault says.
func (c *faulty) befall(f *Fault) {
	switch {
	case f == nil:
	case f.Stall:
		c.silent.Store(true)
	default:
		c.Close()
	}
}

func (c *faulty) Write(p []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	c.out.rest = append(c.out.rest, p...)
	for {
		packet, err := c.out.next()
		if err != nil {
			return 0, err
		}
		if packet == nil {
			return len(p), nil
		}
		packet, f := c.server.pass(false, packet)
		err = c.send(packet)
		if f != nil {
			c.befall(f)
			return 0, cmp.Or(err, c.wait(), net.ErrClosed)
		}
		if err != nil {
			return 0, err
		}
	}
}

// send writes as much as the cut leaves.
func (c *faulty) send(p []byte) error {
	if c.limited {
		c.mu.Lock()
		defer c.mu.Unlock()
		if int64(len(p)) >= c.left {
			_, _ = c.Conn.Write(p[:c.left])
			c.left = 0
			c.Close()
			return net.ErrClosed
		}
		c.left -= int64(len(p))
	}
	_, err := c.Conn.Write(p)
	return err
}
