package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"spoolsweep/remote/wire"
)

// far is the agent's end of a session over a pipe.
type far struct {
	net.Conn
	*wire.Reader
	*wire.Writer
}

// pipeSession is a session with nothing but memory between the two ends, to be
// used inside a bubble of synctest, where time passes at once.
func pipeSession(t *testing.T) (*Session, far) {
	near, end := net.Pipe()
	r := &watched{Reader: near}
	s := newSession("mx1", "test", link{
		r: r, wire: wire.NewReader(r), w: near,
		abort: func() { near.Close() },
		said:  func() error { return nil },
	})
	t.Cleanup(func() { end.Close(); s.Close() })
	return s, far{end, wire.NewReader(end), wire.NewWriter(end)}
}

// next is the next frame that is no beat.
func (f far) next(t *testing.T) wire.Frame {
	for {
		frame, err := f.Read()
		if err != nil {
			t.Errorf("agent reads: %v", err)
			return wire.Frame{}
		}
		if frame.Kind != wire.Pulse {
			return frame
		}
	}
}

func (f far) Read() (wire.Frame, error) { return f.Reader.Read() }
func (f far) Write(fr wire.Frame) error { return f.Writer.Write(fr) }

func TestCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			f := agent.next(t)
			if f.Kind != wire.Call || f.Name != "count" || string(f.Data) != `{"queue":"hold"}` {
				t.Errorf("agent got %+v", f)
			}
			agent.Write(wire.Frame{Kind: "from the future", ID: f.ID})
			agent.Write(wire.Frame{Kind: wire.Reply, ID: 999})
			agent.Write(wire.Frame{Kind: wire.News, ID: f.ID, Event: &wire.Event{Seq: 1, Kind: wire.Begin, Host: "a lie"}})
			agent.Write(wire.Frame{Kind: wire.News, ID: f.ID})
			agent.Write(wire.Frame{Kind: wire.News, ID: f.ID, Event: &wire.Event{Seq: 2, Kind: wire.End}})
			agent.Write(wire.Frame{Kind: wire.Reply, ID: f.ID, Data: json.RawMessage(`{"messages":7}`)})
			f = agent.next(t)
			agent.Write(wire.Frame{Kind: wire.Error, ID: f.ID, Data: json.RawMessage(`{"message":"busy","kind":"busy","remedy":"wait"}`)})
			f = agent.next(t)
			agent.Write(wire.Frame{Kind: wire.Error, ID: f.ID, Data: json.RawMessage(`17`)})
			f = agent.next(t)
			agent.Write(wire.Frame{Kind: wire.Reply, ID: f.ID, Data: json.RawMessage(`"text"`)})
		}()
		var reply struct{ Messages int }
		var told []string
		err := s.CallEvents(t.Context(), "count", map[string]string{"queue": "hold"}, &reply, func(e wire.Event) {
			told = append(told, fmt.Sprint(e.Host, " ", e.Seq, " ", e.Kind))
		})
		if err != nil || reply.Messages != 7 || strings.Join(told, ", ") != "mx1 1 begin, mx1 2 end" {
			t.Errorf("got %+v, %v, events %q", reply, err, told)
		}
		err = s.Call(t.Context(), "count", nil, nil)
		var fault *wire.Fault
		if !errors.As(err, &fault) || *fault != (wire.Fault{Message: "busy", Kind: "busy", Remedy: "wait"}) {
			t.Errorf("got %v, want the fault as it is", err)
		}
		if err = s.Call(t.Context(), "count", nil, nil); !errors.As(err, &fault) || fault.Message == "" {
			t.Errorf("an unreadable fault: %v", err)
		}
		if err = s.Call(t.Context(), "count", nil, &reply); err == nil || errors.Is(err, ErrLost) {
			t.Errorf("an answer of another type: %v", err)
		}
		if err = s.Call(t.Context(), strings.Repeat("x", wire.MaxFrame), nil, nil); !errors.Is(err, wire.ErrTooLong) {
			t.Errorf("a huge call: %v", err)
		}
		if s.Err() != nil {
			t.Errorf("the session ended: %v", s.Err())
		}
	})
}

// Mail is no flood for whoever fetches it, and one for everybody else; what is not
// wanted any more ends the call, and only that.
func TestFetch(t *testing.T) {
	const many = eventsFraction + 5 // and each a fraction of what is taken in at once
	large := json.RawMessage(`{"data":"` + strings.Repeat("x", EventsAtOnce/eventsFraction) + `"}`)
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			for range 2 {
				f := agent.next(t)
				for range many {
					if agent.Write(wire.Frame{Kind: wire.News, ID: f.ID, Event: &wire.Event{Kind: wire.Mail, Data: large}}) != nil {
						return
					}
				}
				agent.Write(wire.Frame{Kind: wire.Reply, ID: f.ID, Data: json.RawMessage(`{"done":7}`)})
			}
		}()
		var reply struct{ Done int }
		n := 0
		if err := s.Fetch(t.Context(), "look", nil, &reply, func(e wire.Event) error { n++; return nil }); err != nil || n != many || reply.Done != 7 {
			t.Errorf("%d pieces of %d, %+v, %v", n, many, reply, err)
		}
		if err := s.CallEvents(t.Context(), "look", nil, nil, nil); !errors.Is(err, errFlood) {
			t.Errorf("mail that nobody fetches: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			f := agent.next(t)
			agent.Write(wire.Frame{Kind: wire.News, ID: f.ID, Event: &wire.Event{Kind: wire.Mail, Data: large}})
			f = agent.next(t)
			agent.Write(wire.Frame{Kind: wire.Reply, ID: f.ID})
		}()
		enough := errors.New("enough")
		if err := s.Fetch(t.Context(), "look", nil, nil, func(wire.Event) error { return enough }); !errors.Is(err, enough) {
			t.Errorf("got %v", err)
		}
		if err := s.Call(t.Context(), "count", nil, nil); err != nil {
			t.Errorf("after it: %v", err)
		}
	})
}

func TestTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			f := agent.next(t)
			for seq := f.From; seq < f.From+1000; seq++ {
				agent.Write(wire.Frame{Kind: wire.News, ID: f.ID, Event: &wire.Event{Run: f.Run, Seq: seq}})
			}
			agent.Write(wire.Frame{Kind: wire.Rest, ID: f.ID, Data: json.RawMessage(`{"asks":"confirm"}`)})
		}()
		want := int64(42)
		var rest struct{ Asks string }
		err := s.Tail(t.Context(), "RUN", want, nil, &rest, func(e wire.Event) {
			if e.Seq != want || e.Run != "RUN" || e.Host != "mx1" {
				t.Errorf("got %+v, want %d", e, want)
			}
			want++
		})
		if err != nil || rest.Asks != "confirm" || want != 1042 {
			t.Errorf("got %+v, %v, next event %d", rest, err, want)
		}
	})
}

func TestBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		begun := time.Now()
		for i := range 10 {
			f, err := agent.Read()
			if at := time.Since(begun); err != nil || f.Kind != wire.Pulse || at != time.Duration(i+1)*wire.Beat {
				t.Fatalf("beat %d: got %+v, %v after %v", i, f, err, at)
			}
			if err := agent.Write(wire.Frame{Kind: wire.Pulse}); err != nil {
				t.Fatal(err)
			}
		}
		if s.Err() != nil {
			t.Error(s.Err())
		}
	})
}

func TestSilenceIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			for {
				if _, err := agent.Read(); err != nil {
					return
				}
			}
		}()
		begun := time.Now()
		err := s.Call(t.Context(), "count", nil, nil)
		if took := time.Since(begun); !errors.Is(err, ErrLost) || took != wire.Lost {
			t.Errorf("got %v after %v", err, took)
		}
		if !strings.HasPrefix(err.Error(), "mx1: link lost") {
			t.Errorf("got %q", err)
		}
		<-s.Done()
		if err := s.Call(t.Context(), "count", nil, nil); !errors.Is(err, ErrLost) {
			t.Errorf("a call after that: %v", err)
		}
	})
}

// An agent that beats, but reads nothing, holds up a call only as long as its context.
func TestDeafAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 10 {
				time.Sleep(wire.Beat)
				if agent.Write(wire.Frame{Kind: wire.Pulse}) != nil {
					return
				}
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := s.Call(ctx, "count", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		<-done
		if s.Err() != nil {
			t.Errorf("the session ended: %v", s.Err())
		}
	})
}

// Whoever takes an hour for each event is no reason to believe that the link is
// lost, and the agent is held up instead of anything piling up here.
func TestSlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			for {
				if _, err := agent.Read(); err != nil {
					return
				}
			}
		}()
		var mu sync.Mutex
		written := 0
		go func() {
			for seq := range 20 {
				agent.Write(wire.Frame{Kind: wire.News, ID: 1, Event: &wire.Event{Seq: int64(seq), Data: json.RawMessage(`"` + strings.Repeat("x", wire.MaxFrame/2) + `"`)}})
				mu.Lock()
				written++
				mu.Unlock()
			}
			agent.Write(wire.Frame{Kind: wire.Rest, ID: 1})
		}()
		read := 0
		err := s.Tail(t.Context(), "RUN", 0, nil, nil, func(wire.Event) {
			time.Sleep(time.Hour)
			read++
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if written > read+2 {
				t.Errorf("%d events taken in, %d worked on", written, read)
			}
		})
		if err != nil || read != 20 {
			t.Errorf("got %d events, %v", read, err)
		}
	})
}

func TestGivenUpCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			first := agent.next(t)
			cancel()
			second := agent.next(t)
			for range 3 {
				agent.Write(wire.Frame{Kind: wire.News, ID: first.ID, Event: &wire.Event{}})
			}
			agent.Write(wire.Frame{Kind: wire.Reply, ID: first.ID})
			agent.Write(wire.Frame{Kind: wire.Reply, ID: second.ID, Data: json.RawMessage("2")})
		}()
		if err := s.Call(ctx, "slow", nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		var n int
		if err := s.Call(t.Context(), "next", nil, &n); err != nil || n != 2 {
			t.Errorf("got %d, %v", n, err)
		}
	})
}

func TestManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			for {
				f, err := agent.Read()
				if err != nil {
					return
				}
				if f.Kind == wire.Call {
					agent.Write(wire.Frame{Kind: wire.Reply, ID: f.ID, Data: f.Data})
				}
			}
		}()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				var n int
				if err := s.Call(t.Context(), "echo", i, &n); err != nil || n != i {
					t.Errorf("got %d, %v, want %d", n, err, i)
				}
			})
		}
		wg.Wait()
	})
}

// Garbage ends the session, but it is no lost link.
func TestGarbage(t *testing.T) {
	for _, garbage := range []string{"hello\n", "null\n", `{"kind":[]}` + "\n", strings.Repeat("x", 2*wire.MaxFrame)} {
		synctest.Test(t, func(t *testing.T) {
			s, agent := pipeSession(t)
			go func() {
				agent.next(t)
				agent.Conn.Write([]byte(garbage))
			}()
			err := s.Call(t.Context(), "count", nil, nil)
			if err == nil || errors.Is(err, ErrLost) {
				t.Errorf("%.20q: got %v", garbage, err)
			}
		})
	}
}

func TestEndOfStreamIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		go func() {
			agent.next(t)
			agent.Conn.Write([]byte(`{"kind":"rep`))
			agent.Close()
		}()
		if err := s.Call(t.Context(), "count", nil, nil); !errors.Is(err, ErrLost) {
			t.Errorf("got %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, agent := pipeSession(t)
		failed := make(chan error)
		go func() { failed <- s.Call(t.Context(), "slow", nil, nil) }()
		agent.next(t)
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-failed; !errors.Is(err, ErrClosed) {
			t.Errorf("a call that was under way: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("Close again: %v", err)
		}
	})
}
