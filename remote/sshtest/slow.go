package sshtest

import (
	"net"
	"sync"
	"time"
)

// slow is a connection over a long way: what is sent arrives later, however much
// it is.
type slow struct {
	net.Conn
	way  time.Duration // from one end to the other
	in   chan late
	out  chan late
	gone chan struct{} // closed by Close
	once sync.Once

	reading sync.Mutex // guards what follows
	rest    late
}

// late is some bytes on their way, or the end that comes behind them.
type late struct {
	at    time.Time
	bytes []byte
	err   error
}

// onTheWay is how many writes there may be: more wait, as for a window.
const onTheWay = 1024

// slowed makes a way long; what it starts ends with the connection.
func (s *Server) slowed(conn net.Conn) net.Conn {
	c := &slow{Conn: conn, way: s.config.Latency / 2, in: make(chan late, onTheWay), out: make(chan late, onTheWay), gone: make(chan struct{})}
	s.wg.Go(c.receive)
	s.wg.Go(c.send)
	return c
}

func (c *slow) receive() {
	for {
		p := make([]byte, 32<<10)
		n, err := c.Conn.Read(p)
		select {
		case c.in <- late{time.Now().Add(c.way), p[:n], err}:
		case <-c.gone:
			return
		}
		if err != nil {
			return
		}
	}
}

func (c *slow) send() {
	defer c.Conn.Close()
	for {
		select {
		case l := <-c.out:
			time.Sleep(time.Until(l.at))
			if _, err := c.Conn.Write(l.bytes); err != nil {
				return
			}
		case <-c.gone:
			// What was sent before the end arrives.
			for len(c.out) > 0 {
				l := <-c.out
				time.Sleep(time.Until(l.at))
				_, _ = c.Conn.Write(l.bytes)
			}
			return
		}
	}
}

func (c *slow) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(c.rest.bytes) == 0 && c.rest.err == nil {
		select {
		case c.rest = <-c.in:
		case <-c.gone:
			return 0, net.ErrClosed
		}
		select {
		case <-time.After(time.Until(c.rest.at)):
		case <-c.gone:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, c.rest.bytes)
	c.rest.bytes = c.rest.bytes[n:]
	if n == 0 && c.rest.err != nil {
		return 0, c.rest.err
	}
	return n, nil
}

func (c *slow) Write(p []byte) (int, error) {
	select {
	case c.out <- late{at: time.Now().Add(c.way), bytes: append([]byte(nil), p...)}:
		return len(p), nil
	case <-c.gone:
		return 0, net.ErrClosed
	}
}

// Close ends the connection when all that was written is at its end.
func (c *slow) Close() error {
	c.once.Do(func() { close(c.gone) })
	return nil
}
