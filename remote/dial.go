// Package remote reaches mail hosts: [Dialer.Dial] makes an SSH connection as
// the user's own ssh would (the same configuration, keys, agent and known_hosts
// files), and [Open] starts the agent there, sending it first where it is
// missing, and speaks with it.
//
// It promises that no host key is taken on trust unless its caller says so of
// that very key, or the user's StrictHostKeyChecking of all new ones, and none
// ever in the place of another, that each jump host is checked like any other,
// that the ssh agent is never forwarded, that nothing is sent to an agent before
// it has named the file that was expected (by its hash, or, of who only looks, by a
// checksum), that sudo's password goes out only to its prompt and once, and that
// whatever a server says is cleaned before it stands in an error. It prints nothing: warnings are returned.
package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/clean"
)

// Target is a host as the inventory names it. What is left empty comes from
// ssh_config, then from ssh's defaults.
type Target struct {
	Name       string // the inventory's name, for messages
	Host       string // what to look up in ssh_config and connect to; empty: Name
	Port       int
	User       string
	PrivateKey string // a key file, tried before those of ssh_config
	ProxyJump  string // hosts on the way, as ssh -J takes them; "none" for none

	Become         bool   // run the agent as root, unless the login is root
	BecomeMethod   string // through which of BecomeMethods; empty: sudo
	BecomeUser     string // only root, or empty for it
	BecomePassword Secret // what that is told when it asks; empty: it may not ask
	AgentDirectory string // where the agent lies on the host; empty: see package push
}

// Dialer makes connections. Its fields are set before the first Dial; then it
// may be used by many goroutines.
type Dialer struct {
	ConfigFile string        // instead of ~/.ssh/config and /etc/ssh/ssh_config; "none" for none
	KnownHosts []string      // known_hosts files, instead of all others
	Timeout    time.Duration // for the TCP connection, and again for the host key; 0: ConnectTimeout, else 10 s
	User       string        // over every Target's
	PrivateKey string        // over every Target's

	// AcceptNew is asked about a key that stands in no file, without its remedy;
	// true adds it to the first known_hosts file, and goes on. It must not wait.
	// nil takes none, and nothing ever takes a key where another one is known.
	AcceptNew func(*DialError) bool
	// Strict has no effect given to StrictHostKeyChecking accept-new, or no, in
	// the user's configuration: AcceptNew alone decides.
	Strict bool

	// Passphrase asks for that of a key file, and may wait for somebody to type.
	// again says that the last one was wrong. It is called for one key at a time,
	// only once a host would take that key, and never again for a key that is open
	// or was refused. nil: encrypted keys are used through the agent only.
	Passphrase func(ctx context.Context, file string, again bool) (Secret, error)

	// OpenSSH has the user's own ssh connect and log in, as it is configured. It
	// asks on the terminal itself where Passphrase is set.
	OpenSSH bool
	// Prompts, if not nil, is called before ssh may ask there, and what it returns
	// when that is over.
	Prompts func() (over func())

	room    room
	configs configFiles

	asking sync.Mutex // held while Passphrase is called, or ssh may ask

	mu     sync.Mutex // guards what follows
	known  map[string]*hostKeys
	agents map[string]*agentLink
	locked map[string]*lock
	hops   map[string]*sharedHop

	sockets string // the folder of those that the user's ssh holds for us
	masters int    // how many there were
}

// authTime is how long logging in may take once the host key is known to be
// right: somebody may have to touch a token, and PAM may ask a directory.
const authTime = time.Minute

const defaultTimeout = 10 * time.Second

func (d *Dialer) timeout() time.Duration {
	if d.Timeout > 0 {
		return d.Timeout
	}
	return defaultTimeout
}

// connectTime is how long one of the two steps before the login may take.
func (d *Dialer) connectTime(s settings) time.Duration {
	if d.Timeout == 0 && s.ConnectTimeout > 0 {
		return s.ConnectTimeout
	}
	return d.timeout()
}

// Close lets go of the connections to jump hosts and to ssh agents.
func (d *Dialer) Close() {
	d.closeHops()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sockets != "" {
		_ = os.RemoveAll(d.sockets) // in nobody's way
		d.sockets = ""
	}
	for socket, a := range d.agents {
		a.Close()
		delete(d.agents, socket)
	}
}

// Conn is a connection to a host, logged in.
type Conn struct {
	Target   Target   // with what was left empty filled in
	Address  string   // host:port that was dialled
	Banner   string   // what the server said before the login, cleaned
	Warnings []string // what was left out on the way here: safe to show

	client   *ssh.Client
	net      *countedConn
	alive    alive
	release  func()        // after it was closed, if set
	ended    chan struct{} // closed when the connection is gone
	wg       sync.WaitGroup
	terminal bool // sudo or doas wants one there
	glance   bool // see Fleet
}

// Close ends the connection and everything on it.
func (c *Conn) Close() error {
	err := c.client.Close()
	c.wg.Wait()
	if c.release != nil {
		c.release()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Wait returns when the connection has ended, for whatever reason.
func (c *Conn) Wait() { <-c.ended }

// countedConn counts what arrives, by which Conn.guard knows that the far end lives.
type countedConn struct {
	net.Conn
	read atomic.Int64
	over atomic.Bool // nothing arrives any more
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	if err != nil {
		c.over.Store(true)
	}
	return n, err
}

// maxBanner bounds what is kept of a server's banners.
const maxBanner = 4 << 10

// Dial connects to t and logs in. ctx holds for the dialling only. The error is
// a [*DialError] where the host, and not our own settings, is the cause.
func (d *Dialer) Dial(ctx context.Context, t Target) (*Conn, error) {
	if t.Host == "" {
		t.Host = t.Name
	}
	if t.Name == "" {
		t.Name = t.Host
	}
	if t.BecomeUser != "" && t.BecomeUser != "root" {
		return nil, &OpenError{t.Name, KindSettings, fmt.Errorf("become_user %s: only root can clear a mail queue", clean.Text(t.BecomeUser, 100)), "leave become_user out in the inventory"}
	}
	if t.BecomeMethod != "" && !slices.Contains(BecomeMethods, t.BecomeMethod) {
		return nil, &OpenError{t.Name, KindSettings, fmt.Errorf("become_method %s is not known", clean.Text(t.BecomeMethod, 100)), "it is one of " + strings.Join(BecomeMethods, ", ")}
	}
	if d.User != "" {
		t.User = d.User
	}
	if d.PrivateKey != "" {
		t.PrivateKey = d.PrivateKey
	}
	// Before anything is opened for it.
	leave, err := d.room.take(t, 1)
	if err != nil {
		return nil, err
	}
	c, err := d.dial(ctx, t)
	if err != nil {
		leave()
		return nil, err
	}
	if _, shared := c.net.Conn.(*forwarded); shared {
		leave() // it is a part of the connection to a jump host
	}
	release := c.release
	c.release = func() {
		if release != nil {
			release()
		}
		leave()
	}
	return c, nil
}

// dial is Dial of a target that is complete.
func (d *Dialer) dial(ctx context.Context, t Target) (*Conn, error) {
	if d.OpenSSH {
		return d.viaOpenSSH(ctx, t)
	}
	legs, err := d.route(ctx, t)
	if err != nil {
		return nil, &OpenError{t.Name, KindSettings, err, "mend it, or give another one with --ssh-config"}
	}
	c, err := d.travel(ctx, legs)
	if errors.Is(err, errStillLocked) {
		// Without the key that stayed locked, the others have their turn.
		c, err = d.travel(ctx, legs)
	}
	return c, err
}

// leg is one host on the way, the last one that which is wanted.
type leg struct {
	target   Target
	settings settings
	behalf   string // of a jump host: the host for which it is reached
}

func (l leg) address() string {
	return net.JoinHostPort(l.settings.HostName, strconv.Itoa(l.settings.Port))
}

// travel connects to the last of legs, through those before it.
func (d *Dialer) travel(ctx context.Context, legs []leg) (*Conn, error) {
	l := legs[len(legs)-1]
	if c, err := d.usersMaster(ctx, l); c != nil || err != nil {
		return c, err
	}
	s, t := l.settings, l.target
	t.User, t.Port = s.User, s.Port

	files := append(append([]string{}, s.UserKnownHosts...), s.GlobalKnownHosts...)
	own := s.UserKnownHosts
	if len(d.KnownHosts) > 0 {
		files, own = d.KnownHosts, d.KnownHosts
	}
	newKeys := ""
	if len(own) > 0 {
		newKeys = own[0]
	}
	known, err := d.hostKeys(files)
	if err != nil {
		return nil, &OpenError{t.Name, KindSettings, err, "mend it, or give another one with --known-hosts"}
	}
	revoked, err := readRevoked(s.RevokedHostKeys)
	if err != nil {
		return nil, &OpenError{t.Name, KindSettings, err, "mend it: no host key is taken while it is not known which are revoked"}
	}
	h := &handshake{
		dialer: d, target: t, behalf: l.behalf, settings: s, address: l.address(), known: known, files: files, revoked: revoked,
		lookup: l.address(), newKeys: newKeys, patience: &patience{},
	}
	offers, warnings := d.offers(ctx, s, h.patience)
	h.offers = offers
	h.warnings = slices.Concat(s.Warnings, known.warnings, warnings)
	if s.HostKeyAlias != "" {
		// An alias stands in the file without a port, whatever the port is.
		h.lookup = net.JoinHostPort(s.HostKeyAlias, "22")
	}
	way, err := d.reach(ctx, legs)
	if err != nil {
		return nil, err
	}
	if f, ok := way.(*forwarded); ok {
		h.warnings = append(h.warnings, f.warnings...)
	}
	return h.do(ctx, &countedConn{Conn: way}, d.connectTime(s))
}

// reach opens the bytes' way to the last of legs.
func (d *Dialer) reach(ctx context.Context, legs []leg) (net.Conn, error) {
	l := legs[len(legs)-1]
	s := l.settings
	switch {
	case len(legs) > 1:
		return d.through(ctx, legs)
	case s.ProxyCommand != "":
		// Its process and another pipe: one file was counted.
		leave, err := d.room.take(l.target, 2)
		if err != nil {
			return nil, err
		}
		c, err := startProxy(s.ProxyCommand)
		if err != nil {
			leave()
			return nil, &DialError{Host: l.target.Name, Address: l.address(), Kind: KindConnect, Err: err, Remedy: "mend the ProxyCommand in the ssh configuration"}
		}
		c.leave = leave
		return c, nil
	}
	dialer := net.Dialer{Timeout: d.connectTime(s)}
	network := map[string]string{"any": "tcp", "inet": "tcp4", "inet6": "tcp6"}[s.AddressFamily]
	if s.BindAddress != "" {
		local, err := net.DefaultResolver.LookupNetIP(ctx, strings.Replace(network, "tcp", "ip", 1), s.BindAddress)
		if err != nil {
			return nil, &OpenError{l.target.Name, KindSettings, fmt.Errorf("BindAddress %s: %w", clean.Text(s.BindAddress, 100), err), "name an address of this machine in the ssh configuration"}
		}
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local[0].Unmap(), 0))
	}
	c, err := dialer.DialContext(ctx, network, l.address())
	if err != nil {
		return nil, connectError(ctx, l.target, l.address(), err)
	}
	return c, nil
}

// settings merges the target with ssh_config.
func (d *Dialer) settings(ctx context.Context, t Target) (settings, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/"
	}
	files := []string{filepath.Join(home, ".ssh", "config"), "/etc/ssh/ssh_config"}
	switch d.ConfigFile {
	case "":
	case "none":
		files = nil
	default:
		// A file that was asked for must be there.
		if _, err := os.Stat(d.ConfigFile); err != nil {
			return settings{}, fmt.Errorf("read ssh configuration: %w", err)
		}
		files = []string{d.ConfigFile}
	}
	s, err := d.configs.readSSHConfig(ctx, files, d.ConfigFile == "", t, localUser(), home)
	if err == nil && t.PrivateKey != "" {
		key := t.PrivateKey
		if rest, ok := strings.CutPrefix(key, "~/"); ok {
			key = filepath.Join(home, rest)
		}
		s.IdentityFiles = append([]string{key}, s.IdentityFiles...)
		s.Named++
	}
	return s, err
}

func localUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return os.Getenv("USER")
}

func connectError(ctx context.Context, t Target, address string, err error) error {
	e := &DialError{Host: t.Name, Address: address, Kind: KindConnect, Err: err,
		Remedy: "check that the host is up and lets this address in, or raise --timeout"}
	var dns *net.DNSError
	switch {
	case ctx.Err() != nil:
		e.Err, e.Remedy = context.Cause(ctx), ""
	case errors.As(err, &dns):
		e.Kind, e.Remedy = KindName, "correct the host's name in the inventory, or give it an ssh host or a HostName in ~/.ssh/config"
	}
	return e
}

// handshake is one attempt on an open TCP connection.
type handshake struct {
	dialer   *Dialer
	target   Target
	behalf   string // see leg
	settings settings
	address  string
	lookup   string // the host:port to look up in the known_hosts files
	offers   []offer
	known    *hostKeys
	files    []string
	revoked  []ssh.PublicKey // of RevokedHostKeys
	newKeys  string          // the file where a key is added, "" for none
	warnings []string
	patience *patience

	keyErr error  // why the host key was refused
	keyOK  bool   // it was taken: from here on it is about logging in
	banner []byte // untrusted
	tried  []string
}

// patience bounds a handshake in time: not every way has deadlines.
type patience struct {
	timer *time.Timer // closes the connection
	late  atomic.Bool // it did
}

// during calls do, whose time does not count: somebody types.
func (p *patience) during(do func()) {
	p.timer.Stop()
	do()
	p.timer.Reset(authTime)
}

// anywhere stands for the peer's address, by which no key is looked up.
var anywhere = &net.TCPAddr{IP: net.IPv4zero}

func (h *handshake) do(ctx context.Context, conn *countedConn, timeout time.Duration) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	h.patience.timer = time.AfterFunc(timeout, func() {
		h.patience.late.Store(true)
		conn.Close()
	})
	s := h.settings
	config := &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: s.Ciphers, MACs: s.MACs, KeyExchanges: s.KexAlgorithms},
		User:              h.target.User,
		HostKeyAlgorithms: h.known.algorithms(h.lookup, s.HostKeys),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if h.keyErr = h.check(key); h.keyErr != nil {
				return h.keyErr
			}
			h.keyOK = true
			h.patience.timer.Reset(authTime)
			return nil
		},
		BannerCallback: func(message string) error {
			h.banner = append(h.banner, message[:min(len(message), maxBanner-len(h.banner))]...)
			return nil
		},
		Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(h.signers)},
	}
	c, channels, requests, err := ssh.NewClientConn(conn, h.lookup, config)
	h.patience.timer.Stop()
	if !stop() && err == nil {
		// Cancelled at the last moment: the connection is being closed.
		c.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, h.failure(ctx, err, conn)
	}
	out := newConn(h.target, h.address, ssh.NewClient(c, channels, requests), conn, askServer)
	out.Warnings, out.Banner = h.warnings, clean.Text(h.banner, maxBanner)
	if s.ServerAliveInterval > 0 {
		out.keepAlive(s.ServerAliveInterval, s.ServerAliveCountMax)
	}
	return out, nil
}

func newConn(t Target, address string, client *ssh.Client, conn *countedConn, alive alive) *Conn {
	c := &Conn{Target: t, Address: address, client: client, net: conn, alive: alive, ended: make(chan struct{})}
	c.wg.Go(func() {
		_ = client.Wait() // why it ended is whoever uses it to find
		close(c.ended)
	})
	return c
}

// keepAlive asks the server every so often whether it lives, and closes the
// connection where so many questions in a row had no answer.
func (c *Conn) keepAlive(every time.Duration, count int) {
	c.wg.Go(func() {
		for {
			select {
			case <-time.After(every):
			case <-c.ended:
				return
			}
			dead := time.AfterFunc(every*time.Duration(max(1, count)), func() { c.client.Close() })
			err := c.alive(c.client)
			dead.Stop()
			if err != nil {
				return
			}
		}
	})
}

// check is nil for a key that may be trusted.
func (h *handshake) check(key ssh.PublicKey) error {
	for _, r := range h.revoked {
		cert, certified := key.(*ssh.Certificate)
		if sameKey(key, r) || certified && sameKey(cert.SignatureKey, r) {
			return &DialError{KeyType: key.Type(), Fingerprint: ssh.FingerprintSHA256(r), Kind: KindChangedKey, KnownAt: h.settings.RevokedHostKeys,
				Err: fmt.Errorf("that key is revoked in %s", h.settings.RevokedHostKeys), Remedy: "do not connect: ask who runs this host"}
		}
	}
	err := h.known.check(h.lookup, anywhere, key, h.files)
	if err == nil {
		return nil
	}
	return h.asNew(key, err)
}

// name says whom an error is about.
func (h *handshake) name(e *DialError) {
	e.Host, e.Address = h.target.Name, h.address
	if h.behalf != "" {
		e.Host, e.Jump = h.behalf, h.target.Name
	}
}

// asNew takes a key that stands in no file, where that is wanted; else it returns
// why it was refused.
func (h *handshake) asNew(key ssh.PublicKey, refused error) error {
	e, ok := refused.(*DialError)
	_, certified := key.(*ssh.Certificate)
	if !ok || e.Kind != KindUnknownKey || e.Err != nil || certified || h.newKeys == "" {
		return refused
	}
	h.name(e)
	switch how := h.settings.StrictHostKeyChecking; {
	case how == "yes":
		e.Err = errors.New("StrictHostKeyChecking yes in the ssh configuration: no key is added for it")
		return e
	case (how == "accept-new" || how == "no") && !h.dialer.Strict:
		h.warnings = append(h.warnings, fmt.Sprintf("its host key was unknown, and is trusted from now on: %s %s (StrictHostKeyChecking %s in the ssh configuration)", e.KeyType, e.Fingerprint, how))
	case h.dialer.AcceptNew == nil || !h.dialer.AcceptNew(e):
		return refused
	}
	if err := h.dialer.remember(h.newKeys, h.lookup, key); err != nil {
		e.Err = fmt.Errorf("it was to be added to %s: %w", h.newKeys, err)
		return e
	}
	return nil
}

func (h *handshake) signers() ([]ssh.Signer, error) {
	out := make([]ssh.Signer, len(h.offers))
	for i, o := range h.offers {
		out[i] = o.Signer
		h.tried = append(h.tried, o.name)
	}
	return out, nil
}

// failure turns what x/crypto says into a DialError. It has no typed errors for
// a refused login, so the point that was reached decides.
func (h *handshake) failure(ctx context.Context, err error, conn *countedConn) error {
	e := &DialError{Kind: KindHandshake, Err: err, Remedy: "check that an SSH server listens there, and its log"}
	h.name(e)
	var refused *DialError
	var timeout net.Error
	switch {
	case errors.As(h.keyErr, &refused):
		h.name(refused)
		return refused
	case ctx.Err() != nil:
		e.Err, e.Remedy = context.Cause(ctx), ""
	case errors.Is(err, errStillLocked):
		e.Kind, e.Remedy = KindAuth, "add it to the ssh agent (ssh-add), or give its passphrase when asked"
	case h.patience.late.Load(), errors.As(err, &timeout) && timeout.Timeout():
		e.Err, e.Remedy = fmt.Errorf("no answer in time: %w", err), "check the host, or raise --timeout"
	case h.keyOK && refusal(err):
		e.Kind = KindAuth
		e.Err = errors.New(h.told(err))
		e.Remedy = fmt.Sprintf("put the right key into the ssh agent (ssh-add), or name it with --private-key; ssh -v %s shows what ssh itself does", quote(h.target.Host))
	}
	if p, ok := conn.Conn.(*proxy); ok && !h.keyOK {
		if said := p.said(); said != "" {
			e.Err, e.Remedy = fmt.Errorf("%w; ProxyCommand: %s", e.Err, said), "run the ProxyCommand of the ssh configuration by hand"
		}
	}
	return e
}

func refusal(err error) bool {
	return strings.Contains(err.Error(), "unable to authenticate") || strings.Contains(err.Error(), "disconnect, reason")
}

// told says what was tried, what was left out, and what the server had to say.
func (h *handshake) told(err error) string {
	said := "as " + h.target.User
	if len(h.tried) == 0 {
		said += ", there is no key to offer"
	} else {
		said += ", tried " + strings.Join(h.tried, ", ")
	}
	if _, reason, ok := strings.Cut(err.Error(), "disconnect, reason"); ok {
		said += "; the server ended it: reason" + reason
	}
	for _, w := range h.warnings {
		said += "; " + w
	}
	if len(h.banner) > 0 {
		said += "; the server says: " + clean.Text(strings.TrimSpace(string(h.banner)), 300)
	}
	return said
}
