package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"spoolsweep/remote/wire"
)

// ErrLost says that the link, or the agent's front at its far end, is gone. What
// runs on the host goes on there; dialling again and tailing from the last event
// seen is all it takes.
var ErrLost = errors.New("link lost")

// ErrClosed is what a call gets that outlives its session.
var ErrClosed = errors.New("session closed")

// closeGrace is how long Close waits for the agent to end by itself, which it
// does at the end of its input.
const closeGrace = 2 * time.Second

// Session is a running agent on a host. Its methods may be called by many
// goroutines at once.
//
// One goroutine reads what the agent sends and hands each frame to whom it is
// for, one at a time: a callback that does not return holds up the whole
// session, and the agent after it, but nothing piles up in memory. A callback
// must therefore not call the session it is called by.
type Session struct {
	host   string
	build  string
	pushed int64
	link   link

	out  chan outgoing
	done chan struct{} // closed when err is set
	wg   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	err     error
	last    int
	callers map[int]*caller
}

// link is the agent's two streams, wherever they lead.
type link struct {
	r     *watched
	wire  *wire.Reader // on r
	w     io.WriteCloser
	abort func()       // ends both at once, whatever blocks
	said  func() error // after the end of r: how the agent ended
}

// watched reads, and calls lost when nothing arrives for wire.Lost while
// somebody wants to read. The time in which a slow consumer keeps us from
// reading does not count.
type watched struct {
	io.Reader
	armed atomic.Bool
	lost  func()
	over  atomic.Bool  // the stream has ended, in whatever way
	heard atomic.Int64 // when something arrived last, in Unix nanoseconds
}

func (w *watched) Read(p []byte) (int, error) {
	if w.armed.Load() {
		defer time.AfterFunc(wire.Lost, w.lost).Stop()
	}
	n, err := w.Reader.Read(p)
	if n > 0 {
		w.heard.Store(time.Now().UnixNano())
	}
	if err != nil {
		w.over.Store(true)
	}
	return n, err
}

type outgoing struct {
	frame wire.Frame
	sent  chan error // takes one without blocking
}

// caller waits for the frames of one call or tail.
type caller struct {
	frames chan wire.Frame
	gone   chan struct{} // closed when nobody listens any more
	mail   bool          // it fetches mail, and looks itself how much that is
}

// newSession begins to speak. The greeting has been read.
func newSession(host, build string, l link) *Session {
	s := &Session{
		host: host, build: build, link: l,
		out: make(chan outgoing), done: make(chan struct{}), callers: map[int]*caller{},
	}
	l.r.lost = func() { s.lose(fmt.Errorf("nothing heard for %v", wire.Lost)) }
	l.r.armed.Store(true)
	s.wg.Go(s.read)
	s.wg.Go(s.write)
	return s
}

// Host is the inventory's name of the host.
func (s *Session) Host() string { return s.host }

// Build is what the agent's greeting calls itself. It is untrusted.
func (s *Session) Build() string { return s.build }

// Pushed is how many bytes of agent were sent to open this session.
func (s *Session) Pushed() int64 { return s.pushed }

// Heard is when something came from the agent last.
func (s *Session) Heard() time.Time { return time.Unix(0, s.link.r.heard.Load()) }

// Done is closed when the session has ended; Err then says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is nil while the session lives.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail ends the session for all callers. The first reason stays.
func (s *Session) fail(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.err = err
	close(s.done)
	return true
}

func (s *Session) lose(why error) {
	s.fail(fmt.Errorf("%s: %w: %w", s.host, ErrLost, why))
	s.link.abort()
}

// read is the one reader.
func (s *Session) read() {
	events := allowance{left: EventsAtOnce, at: time.Now()}
	for {
		f, err := s.link.wire.Read()
		if err != nil {
			s.ended(err)
			return
		}
		switch f.Kind {
		case wire.News:
			if !s.fetches(f) && !events.take(f.Event) {
				s.fail(s.nonsense(errFlood))
				s.link.abort()
				return
			}
			s.deliver(f)
		case wire.Reply, wire.Error, wire.Rest:
			s.deliver(f)
		}
	}
}

// errFlood is what a host gets whose events would fill the controller.
var errFlood = errors.New("the agent sends more than any run has to tell: it is not listened to any more")

// EventsAtOnce is what is taken in of one host's events at once, as when a long run is
// told again: in bytes, as [EventCost] counts them.
const EventsAtOnce = 20 << 20

// Beside that it is so much in each second. What is not kept (progress), or comes in
// masses for good reason (lists of verdicts, ledgers), counts a fiftieth.
const (
	eventsASecond  = 100 << 10
	eventCost      = 1 << 10 // of one without data
	eventsFraction = 50
)

// EventCost is what an event that is kept takes, in bytes.
func EventCost(e *wire.Event) int {
	return eventCost + len(e.Data) + len(e.Stage) + len(e.Run) + len(e.Instance)
}

// allowance is how much a host may still tell.
type allowance struct {
	left float64
	at   time.Time
}

func (a *allowance) take(e *wire.Event) bool {
	if e == nil {
		return true
	}
	now := time.Now()
	a.left = min(EventsAtOnce, a.left+now.Sub(a.at).Seconds()*eventsASecond)
	a.at = now
	cost := float64(EventCost(e))
	switch e.Kind {
	case wire.Progress, wire.Judged, wire.Account:
		cost /= eventsFraction
	}
	a.left -= cost
	return a.left >= 0
}

// ended finds out what the end of the stream means. Garbage is no lost link: to
// dial again would give the same.
func (s *Session) ended(err error) {
	if s.Err() != nil {
		return
	}
	if !s.link.r.over.Load() {
		s.fail(s.nonsense(fmt.Errorf("the agent sent what cannot be read: %w", err)))
		s.link.abort()
		return
	}
	if said := s.link.said(); said != nil {
		err = said
	}
	s.lose(err)
}

// anotherAgent is done by hand: uninstall asks the agent whether a run needs it.
const anotherAgent = "see who put another agent there, and remove spoolsweep-agent-* from ~/.cache/spoolsweep (or its agent_directory): the next command sends ours again"

// nonsense is what an agent says that does not keep to the protocol.
func (s *Session) nonsense(err error) error {
	return &OpenError{Host: s.host, Kind: KindAgent, Err: err, Remedy: anotherAgent}
}

// fetches says whether a frame has mail for a caller that wants it.
func (s *Session) fetches(f wire.Frame) bool {
	if f.Event == nil || f.Event.Kind != wire.Mail {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callers[f.ID]
	return c != nil && c.mail
}

func (s *Session) deliver(f wire.Frame) {
	s.mu.Lock()
	c := s.callers[f.ID]
	s.mu.Unlock()
	if c == nil {
		return
	}
	select {
	case c.frames <- f:
	case <-c.gone:
	case <-s.done:
	}
}

// write is the one writer, and beats.
func (s *Session) write() {
	beat := time.NewTicker(wire.Beat)
	defer beat.Stop()
	// The end of input is the agent's sign to end. It is given here because
	// x/crypto's channels may not be closed while somebody writes.
	defer s.link.w.Close()
	w := wire.NewWriter(s.link.w)
	for {
		var o outgoing
		select {
		case o = <-s.out:
		case <-beat.C:
			o = outgoing{frame: wire.Frame{Kind: wire.Pulse}, sent: make(chan error, 1)}
		case <-s.done:
			return
		}
		err := w.Write(o.frame)
		o.sent <- err
		if err != nil && !errors.Is(err, wire.ErrTooLong) {
			// What the reader finds says more, if the agent has ended.
			select {
			case <-s.done:
			case <-time.After(closeGrace):
				s.lose(err)
			}
			return
		}
	}
}

// open sends a frame under a new number and returns who waits for the answers.
func (s *Session) open(f wire.Frame, mail bool) (*caller, outgoing, func()) {
	c := &caller{frames: make(chan wire.Frame), gone: make(chan struct{}), mail: mail}
	s.mu.Lock()
	s.last++
	f.ID = s.last
	s.callers[f.ID] = c
	s.mu.Unlock()
	return c, outgoing{f, make(chan error, 1)}, func() {
		s.mu.Lock()
		delete(s.callers, f.ID)
		s.mu.Unlock()
		close(c.gone)
	}
}

// do sends a frame and hands what comes back to each, until that returns true.
func (s *Session) do(ctx context.Context, f wire.Frame, mail bool, each func(wire.Frame) (bool, error)) error {
	c, o, leave := s.open(f, mail)
	defer leave()
	out, sent := s.out, o.sent
	for {
		select {
		case out <- o:
			out = nil
		case err := <-sent:
			if errors.Is(err, wire.ErrTooLong) {
				return fmt.Errorf("%s: %s: %w", s.host, f.Kind, err)
			}
			sent = nil
		case f := <-c.frames:
			if last, err := each(f); last || err != nil {
				return err
			}
		case <-s.done:
			return s.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Call has the agent do name with data, and decodes its answer into reply, which
// may be nil. What the agent itself answers with is a [*wire.Fault]. A call that
// is given up goes on over there.
func (s *Session) Call(ctx context.Context, name string, data, reply any) error {
	return s.CallEvents(ctx, name, data, reply, nil)
}

// CallEvents is Call for one that tells how it gets on: each, if not nil, is
// called in this goroutine for every event, and for none after the return.
func (s *Session) CallEvents(ctx context.Context, name string, data, reply any, each func(wire.Event)) error {
	return s.call(ctx, name, data, reply, false, func(e wire.Event) error {
		if each != nil {
			each(e)
		}
		return nil
	})
}

// Fetch is CallEvents for one that is answered with mail too, of however many bytes:
// each sees to it that it is no more than was asked for. Its error ends the call.
func (s *Session) Fetch(ctx context.Context, name string, data, reply any, each func(wire.Event) error) error {
	return s.call(ctx, name, data, reply, true, each)
}

func (s *Session) call(ctx context.Context, name string, data, reply any, mail bool, each func(wire.Event) error) error {
	f := wire.Frame{Kind: wire.Call, Name: name}
	if data != nil {
		text, err := json.Marshal(data)
		if err != nil {
			return fmt.Errorf("call %s: %w", name, err)
		}
		f.Data = text
	}
	return s.do(ctx, f, mail, func(f wire.Frame) (bool, error) {
		switch f.Kind {
		case wire.News:
			return false, s.news(f, each)
		case wire.Error:
			return true, fault(f)
		case wire.Reply:
			return true, s.decode(f, name, reply)
		}
		return false, nil
	})
}

// Tail calls each, in this goroutine, for the events of a run from sequence
// number from on, those to come too, until the run has come to rest: it ended,
// or waits. data says more about the run's place; what it has come to is
// decoded into rest, which may be nil.
func (s *Session) Tail(ctx context.Context, run string, from int64, data, rest any, each func(wire.Event)) error {
	frame := wire.Frame{Kind: wire.Tail, Run: run, From: from}
	if data != nil {
		text, err := json.Marshal(data)
		if err != nil {
			return fmt.Errorf("tail %s: %w", run, err)
		}
		frame.Data = text
	}
	return s.do(ctx, frame, false, func(f wire.Frame) (bool, error) {
		switch f.Kind {
		case wire.News:
			return false, s.news(f, func(e wire.Event) error { each(e); return nil })
		case wire.Error:
			return true, fault(f)
		case wire.Rest:
			return true, s.decode(f, "tail", rest)
		}
		return false, nil
	})
}

// decode takes what an answer carries.
func (s *Session) decode(f wire.Frame, what string, into any) error {
	if into == nil || len(f.Data) == 0 {
		return nil
	}
	if err := json.Unmarshal(f.Data, into); err != nil {
		return s.nonsense(fmt.Errorf("the agent's answer to %s: %w", what, err))
	}
	return nil
}

func (s *Session) news(f wire.Frame, each func(wire.Event) error) error {
	if f.Event == nil {
		return nil
	}
	f.Event.Host = s.host
	return each(*f.Event)
}

func fault(f wire.Frame) error {
	out := &wire.Fault{}
	if err := json.Unmarshal(f.Data, out); err != nil || out.Message == "" {
		out.Message, out.Remedy = "the agent failed and does not say why", anotherAgent
	}
	return out
}

// Close tells the agent to end, which ends no run, and waits for it. The
// connection stays open for another session unless the agent had to be left.
func (s *Session) Close() error {
	s.fail(fmt.Errorf("%s: %w", s.host, ErrClosed))
	// Should the writer be stuck, or the agent not listen, the connection goes.
	defer time.AfterFunc(closeGrace, s.link.abort).Stop()
	s.wg.Wait()
	if err := s.Err(); !errors.Is(err, ErrClosed) {
		return err
	}
	return nil
}
