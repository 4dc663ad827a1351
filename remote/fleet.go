package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"spoolsweep/remote/push"
	"spoolsweep/remote/wire"
)

// Fleet reaches many hosts at once.
type Fleet struct {
	Dialer    *Dialer
	Source    *push.Source
	Forks     int           // hosts worked on at the same time
	Reconnect time.Duration // how long a lost link is tried again
	// Glance is for who only looks at the hosts: a checksum of the agent there will do
	// where all else is told its hash.
	Glance bool
}

// Each calls do for every index below n, at most Forks at a time, and waits
// for all. What goes wrong with one host is never another's business.
func (f *Fleet) Each(n int, do func(i int)) {
	places := make(chan struct{}, max(1, f.Forks))
	var all sync.WaitGroup
	for i := range n {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			do(i)
		})
	}
	all.Wait()
}

// Link is the way to one host's agent, opened when it is first needed and
// again after it was lost. Several goroutines may share it, and with it one
// connection.
type Link struct {
	fleet  *Fleet
	target Target

	mu       sync.Mutex // guards the rest; held while dialling
	conn     *Conn
	session  *Session
	pushed   int64
	warnings []string
	refused  error // over the password: trying it again and again locks accounts
}

// Link returns a link to a host; nothing is dialled yet.
func (f *Fleet) Link(t Target) *Link { return &Link{fleet: f, target: t} }

// Name is the inventory's name of the host.
func (l *Link) Name() string { return l.target.Name }

// Pushed is how many bytes of agent were sent over this link.
func (l *Link) Pushed() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pushed
}

// Warnings are what was left out on the way to the host: safe to show.
func (l *Link) Warnings() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.warnings
}

// open dials and starts the agent where that is not done.
func (l *Link) open(ctx context.Context) (*Session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		select {
		case <-l.session.Done():
			l.drop()
		default:
			return l.session, nil
		}
	}
	if l.refused != nil {
		return nil, l.refused
	}
	conn, err := l.fleet.Dialer.Dial(ctx, l.target)
	if err != nil {
		return nil, err
	}
	conn.glance = l.fleet.Glance
	session, err := Open(ctx, conn, l.fleet.Source)
	if err != nil {
		conn.Close()
		var refused *OpenError
		if errors.As(err, &refused) && refused.Kind == KindPassword {
			l.refused = err
		}
		return nil, err
	}
	l.conn, l.session, l.warnings = conn, session, conn.Warnings
	l.pushed += session.Pushed()
	return session, nil
}

// Open reaches the host where that was not done yet. Call and Follow do so by
// themselves.
func (l *Link) Open(ctx context.Context) error {
	_, err := l.open(ctx)
	return err
}

// drop ends what is open. It is for who holds the lock.
func (l *Link) drop() {
	if l.session != nil {
		l.session.Close()
		l.conn.Close()
		l.session, l.conn = nil, nil
	}
}

// Close ends the link. Runs go on.
func (l *Link) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop()
}

// Agents counts the agents that the login user has on the host. None is sent
// there for it.
func (l *Link) Agents(ctx context.Context) (n int, err error) {
	err = l.connected(ctx, func(c *Conn) error {
		n, err = push.Agents(c.client, l.target.AgentDirectory)
		return err
	})
	return n, err
}

// RemoveAgents ends the session and removes the agents that the login user has
// on the host. It returns how many there were.
func (l *Link) RemoveAgents(ctx context.Context) (n int, err error) {
	l.Close()
	err = l.connected(ctx, func(c *Conn) error {
		n, err = push.Remove(c.client, l.target.AgentDirectory)
		return err
	})
	return n, err
}

// connected does something over a connection of its own.
func (l *Link) connected(ctx context.Context, do func(*Conn) error) error {
	conn, err := l.fleet.Dialer.Dial(ctx, l.target)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, release := conn.guard(ctx)
	err = do(conn)
	if ended := release(); ended != nil {
		err = ended // it was closed, which is why the rest failed
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrLost):
		return fmt.Errorf("%s: agents: %w", l.target.Name, err)
	}
	return &OpenError{l.target.Name, KindAgent, fmt.Errorf("agents: %w", err), "check SFTP there, or look at " + agentPlace(l.target)}
}

// Call has the host's agent do name; see [Session.Call].
func (l *Link) Call(ctx context.Context, name string, data, reply any) error {
	return l.CallEvents(ctx, name, data, reply, nil)
}

// CallEvents is Call for one that tells how it gets on.
func (l *Link) CallEvents(ctx context.Context, name string, data, reply any, each func(wire.Event)) error {
	s, err := l.open(ctx)
	if err != nil {
		return err
	}
	return s.CallEvents(ctx, name, data, reply, each)
}

// Fetch is [Session.Fetch].
func (l *Link) Fetch(ctx context.Context, name string, data, reply any, each func(wire.Event) error) error {
	s, err := l.open(ctx)
	if err != nil {
		return err
	}
	return s.Fetch(ctx, name, data, reply, each)
}

// Follow passes on a run's events from number from on until the run ends or
// waits, and decodes into rest what it has come to. A link that is lost is
// opened again for as long as Reconnect says, and no event comes twice. silent,
// if not nil, is told since when a host is, and the zero time when it answers
// again.
func (l *Link) Follow(ctx context.Context, run string, from int64, data, rest any, each func(wire.Event), silent func(since time.Time)) error {
	next := from
	var lost time.Time
	var told bool
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		heard := time.Now()
		s, err := l.open(ctx)
		if err == nil {
			if told {
				told = false
				silent(time.Time{})
			}
			err = s.Tail(ctx, run, next, data, rest, func(e wire.Event) {
				lost, wait = time.Time{}, firstRetry
				next = max(next, e.Seq+1)
				each(e)
			})
			if err == nil || !errors.Is(err, ErrLost) {
				return err
			}
			heard = s.Heard()
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var dial *DialError
		if !errors.Is(err, ErrLost) && !(errors.As(err, &dial) && dial.Passing()) {
			return err
		}
		if lost.IsZero() {
			lost, wait = time.Now(), firstRetry
		}
		if !told && silent != nil {
			told = true
			silent(heard)
		}
		if time.Since(lost) >= l.fleet.Reconnect {
			return fmt.Errorf("%w (tried again for %v)", err, l.fleet.Reconnect)
		}
		// What is lost is dropped by the next to open: that may be another's.
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Passing says whether a host that was reached before may be reached again by
// just trying: its network or sshd is gone, not our way to log in.
func (e *DialError) Passing() bool {
	return e.Kind == KindConnect || e.Kind == KindHandshake || e.Kind == KindName
}
