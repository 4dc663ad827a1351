package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/clean"
	"spoolsweep/remote/wire"
)

// maxHops is more than anybody has, and ends what leads nowhere.
const maxHops = 16

// failedHop is how long a jump host that could not be reached is not tried again:
// else each of a thousand hosts behind it would wait for its time-out.
const failedHop = 5 * time.Second

// route finds the hosts on the way to t, each with its own settings, as ssh does:
// the last host of ProxyJump is reached through those named before it, and the
// first of them as its own configuration says.
func (d *Dialer) route(ctx context.Context, t Target) ([]leg, error) {
	var legs []leg // from the target on
	wanted := t.Name
	seen := map[string]bool{}
	for {
		s, err := d.settings(ctx, t)
		if err != nil {
			if len(legs) > 0 {
				err = fmt.Errorf("jump host %s: %w", clean.Text(t.Name, 200), err)
			}
			return nil, err
		}
		l := leg{target: t, settings: s}
		if len(legs) > 0 {
			l.behalf = wanted
		}
		legs = append(legs, l)
		if s.ProxyJump == "" {
			slices.Reverse(legs)
			return legs, nil
		}
		name := fmt.Sprintf("%s@%s:%d", s.User, s.HostName, s.Port)
		if seen[name+" "+s.ProxyJump] || len(legs) > maxHops {
			return nil, fmt.Errorf("ProxyJump leads in a circle over %s; an own Host block for it with ProxyJump none ends that", clean.Text(t.Host, 200))
		}
		seen[name+" "+s.ProxyJump] = true
		h, before, err := lastHop(s.ProxyJump)
		if err != nil {
			return nil, fmt.Errorf("ProxyJump %s: %w", clean.Text(s.ProxyJump, 200), err)
		}
		t = Target{Name: h.host, Host: h.host, User: h.user, Port: h.port, ProxyJump: before}
	}
}

// sharedHop is the connection to a jump host, which all hosts behind it use: a
// bastion lets in only so many at a time (MaxStartups of sshd_config).
type sharedHop struct {
	ready  chan struct{} // closed when what follows is set
	conn   *Conn
	err    error
	failed time.Time

	end context.CancelFunc
}

// hop returns the connection to the last of legs, a jump host.
func (d *Dialer) hop(ctx context.Context, legs []leg) (*Conn, error) {
	var names []string
	for _, l := range legs {
		// Two names of one host may differ in what they trust.
		names = append(names, l.target.Host+" "+l.settings.User+"@"+l.address())
	}
	name := strings.Join(names, ",")
	d.mu.Lock()
	h := d.hops[name]
	if h == nil || h.over() {
		background, end := context.WithCancel(context.WithoutCancel(ctx)) // others wait for it too
		h = &sharedHop{ready: make(chan struct{}), end: end}
		if d.hops == nil {
			d.hops = map[string]*sharedHop{}
		}
		d.hops[name] = h
		go func() {
			defer close(h.ready)
			h.conn, h.err = d.travel(background, legs)
			if h.err != nil {
				h.failed = time.Now()
			} else if legs[len(legs)-1].settings.ServerAliveInterval == 0 {
				h.conn.keepAlive(wire.Beat, 3) // nobody else looks whether it lives
			}
		}()
	}
	d.mu.Unlock()
	select {
	case <-h.ready:
		return h.conn, h.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// over says whether another connection is to be made.
func (h *sharedHop) over() bool {
	select {
	case <-h.ready:
	default:
		return false
	}
	if h.err != nil {
		var e *DialError
		return !errors.As(h.err, &e) || !e.Passing() || time.Since(h.failed) > failedHop
	}
	select {
	case <-h.conn.ended:
		return true
	default:
		return false
	}
}

// closeHops ends the connections to jump hosts, and waits for it.
func (d *Dialer) closeHops() {
	d.mu.Lock()
	hops := d.hops
	d.hops = nil
	d.mu.Unlock()
	var all sync.WaitGroup
	for _, h := range hops {
		all.Go(func() {
			h.end()
			<-h.ready
			if h.conn != nil {
				h.conn.Close()
			}
		})
	}
	all.Wait()
}

// through opens a way to the last of legs over the one before it.
func (d *Dialer) through(ctx context.Context, legs []leg) (net.Conn, error) {
	l, jump := legs[len(legs)-1], legs[len(legs)-2]
	limit := d.connectTime(l.settings)
	for tries := 0; ; tries++ {
		hop, err := d.hop(ctx, legs[:len(legs)-1])
		if err != nil {
			return nil, behind(l, jump, err)
		}
		bound, cancel := context.WithTimeout(ctx, limit)
		conn, err := hop.client.DialContext(bound, "tcp", l.address())
		cancel()
		if err == nil {
			return newForwarded(conn, jump, hop), nil
		}
		e := &DialError{Host: l.target.Name, Address: l.address(), Kind: KindConnect, Remedy: "check that the host is up and lets " + clean.Text(jump.target.Name, 200) + " in, or raise --timeout"}
		var refused *ssh.OpenChannelError
		switch {
		case ctx.Err() != nil:
			e.Err, e.Remedy = context.Cause(ctx), ""
		case errors.As(err, &refused) && refused.Reason == ssh.Prohibited:
			e.Err = fmt.Errorf("jump host %s does not forward: %s", jump.target.Name, refused.Message)
			e.Remedy = "allow it there (AllowTcpForwarding and PermitOpen of sshd_config)"
		case errors.As(err, &refused):
			e.Err = fmt.Errorf("jump host %s: %s", jump.target.Name, refused.Message)
		case errors.Is(err, context.DeadlineExceeded):
			e.Err = fmt.Errorf("jump host %s has no answer from it in %v", jump.target.Name, limit)
		default:
			// The connection to the jump host had ended since it was last used.
			<-hop.ended
			if tries == 0 {
				continue
			}
			e.Jump, e.Address, e.Err = jump.target.Name, jump.address(), err
			e.Remedy = "check that host and its log"
		}
		return nil, e
	}
}

// forwarded is a way through a jump host. Closing it ends a read at once, also
// where the jump host has fallen silent and does not confirm the end.
type forwarded struct {
	net.Conn
	read     *io.PipeReader
	warnings []string // of the jump host
}

func newForwarded(conn net.Conn, jump leg, hop *Conn) *forwarded {
	r, w := io.Pipe()
	f := &forwarded{Conn: conn, read: r}
	go func() { // ends with the channel, at the latest with the connection to the jump host
		_, err := io.Copy(w, conn)
		w.CloseWithError(err)
	}()
	for _, text := range hop.Warnings {
		f.warnings = append(f.warnings, "jump host "+clean.Text(jump.target.Name, 200)+": "+text)
	}
	return f
}

func (f *forwarded) Read(p []byte) (int, error) { return f.read.Read(p) }

func (f *forwarded) Close() error {
	f.read.Close()
	return f.Conn.Close()
}

// behind says of a host what is wrong with the jump host on its way.
func behind(l, jump leg, err error) error {
	var dial *DialError
	var open *OpenError
	switch {
	case errors.As(err, &dial):
		e := *dial // several hosts have it
		if e.Jump == "" {
			e.Jump = jump.target.Name
		}
		e.Host = l.target.Name
		return &e
	case errors.As(err, &open):
		e := *open
		e.Host, e.Err = l.target.Name, fmt.Errorf("jump host %s: %w", jump.target.Name, open.Err)
		return &e
	}
	return fmt.Errorf("%s: jump host %s: %w", l.target.Name, jump.target.Name, err)
}
