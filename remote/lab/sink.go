package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
)

// State is what the server does that all of a host's mail goes to, and with it
// where the mail of a flood waits.
type State string

const (
	// Refuse: nothing listens; everything is deferred.
	Refuse State = "refuse"
	// Hold: connections are taken and never spoken to; mail stays in active, and
	// above qmgr_message_active_limit in incoming.
	Hold State = "hold"
	// Deliver: mail is taken and stored as files in the host's delivered directory,
	// save for recipients whose address begins with "later." or "never."; mail for
	// one that begins with "slow." is taken only after a while.
	Deliver State = "deliver"
	// Bounce: every recipient is refused with 550; mail is returned to its sender,
	// and what cannot be returned is dropped.
	Bounce State = "bounce"
)

// slowAnswer is how long the sink thinks about mail for a "slow." recipient.
const slowAnswer = 3 * time.Second

// kickLimit is for postkick, which waits for ever where the queue manager dies.
const kickLimit = 5 * time.Second

// Flood changes the state. Mail that is deferred stays so until its time, or
// "postqueue -f"; mail that is held goes on as the new state has it.
func (h *Host) Flood(state State) error {
	if state != Refuse && state != Hold && state != Deliver && state != Bounce {
		return fmt.Errorf("state %q: want refuse, hold, deliver or bounce", state)
	}
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	if err := h.endSink(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(h.own("state"), []byte(state), 0o644); err != nil {
		return err
	}
	if state == Refuse {
		return nil
	}
	if err := h.startSink(ctx, state); err != nil {
		return fmt.Errorf("start sink of %s: %w", h.Name, err)
	}
	// The queue manager defers without a try for a destination it found dead in
	// the last five minutes. F makes it forget that, and unlike "postqueue -f" does
	// not touch what is deferred. Where Postfix does not run there is nothing to
	// forget, and no error.
	ctx, cancel = context.WithTimeout(ctx, kickLimit)
	defer cancel()
	_, _ = h.Run(ctx, "postkick", "public", "qmgr", "F")
	return nil
}

func (h *Host) state() (State, error) {
	data, err := os.ReadFile(h.own("state"))
	if errors.Is(err, fs.ErrNotExist) {
		return Refuse, nil
	}
	return State(data), err
}

func (h *Host) startSink(ctx context.Context, state State) error {
	cmd, err := h.helper("sink", string(state), h.sink(), h.Delivered())
	if err != nil {
		return err
	}
	log, err := os.Create(h.own("sink.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	said, err := detach(ctx, cmd)
	if err != nil {
		return err
	}
	defer said.Close()
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil || line != "listening\n" {
		text, _ := os.ReadFile(h.own("sink.log"))
		return fmt.Errorf("%w: %s", err, tail(text, 500))
	}
	return nil
}

// endSink finds the sink by what it runs, not by a pid in a file: whoever started
// it may have been killed before there was one.
func (h *Host) endSink(ctx context.Context) error {
	pids, err := h.Pgrep(" " + regexp.QuoteMeta(h.Delivered()) + "$")
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if p, err := identify(pid); err == nil {
			if err := p.end(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// sinkMain is the helper "sink STATE ADDRESS STORE": it listens until it is killed.
func sinkMain() error {
	if len(os.Args) != 4 {
		return errors.New("usage: sink STATE ADDRESS STORE")
	}
	listener, err := net.Listen("tcp4", os.Args[2])
	if err != nil {
		return err
	}
	said := os.NewFile(3, "said")
	fmt.Fprintln(said, "listening")
	said.Close()

	store := mailStore{dir: os.Args[3], refuses: State(os.Args[1]) == Bounce}
	store.run.Store(time.Now().UnixNano())
	var held []net.Conn
	defer runtime.KeepAlive(&held)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		if State(os.Args[1]) == Hold {
			held = append(held, conn) // lest it be closed as garbage
			continue
		}
		go func() {
			defer conn.Close()
			if err := store.serve(textproto.NewConn(conn)); err != nil && !errors.Is(err, io.EOF) {
				fmt.Fprintln(os.Stderr, err)
			}
		}()
	}
}

// mailStore keeps each message it is sent in a file of its own.
type mailStore struct {
	dir     string
	refuses bool         // every recipient
	run     atomic.Int64 // the next file's number, from the time of the start on
}

// serve speaks as much SMTP as Postfix's client needs.
func (s *mailStore) serve(c *textproto.Conn) error {
	reply, taken, slow := "220 sink.lab.test ESMTP", 0, false
	for {
		if err := c.PrintfLine("%s", reply); err != nil {
			return err
		}
		line, err := c.ReadLine()
		if err != nil {
			return err
		}
		verb, _, _ := strings.Cut(strings.ToUpper(line), " ")
		switch verb {
		case "EHLO":
			reply = "250-sink.lab.test\r\n250-PIPELINING\r\n250-SMTPUTF8\r\n250 8BITMIME"
		case "DATA":
			if taken == 0 { // Postfix has sent it before it read the answers
				reply = "554 5.5.1 no recipients"
				break
			}
			if err := c.PrintfLine("354 go on"); err != nil {
				return err
			}
			mail, err := c.ReadDotBytes()
			if err != nil {
				return err
			}
			if slow {
				time.Sleep(slowAnswer)
			}
			if err := s.keep(mail); err != nil {
				return err
			}
			reply = "250 2.0.0 stored"
		case "MAIL":
			reply, taken, slow = "250 2.1.0 ok", 0, false
		case "RCPT":
			address := strings.TrimPrefix(strings.ToLower(line[len(verb):]), " to:<")
			switch {
			case s.refuses:
				reply = "550 5.1.1 no such user here"
			case strings.HasPrefix(address, "later."):
				reply = "450 4.2.1 not now"
			case strings.HasPrefix(address, "never."):
				reply = "550 5.1.1 nobody here"
			default:
				reply = "250 2.1.5 ok"
				taken++
				slow = slow || strings.HasPrefix(address, "slow.")
			}
		case "QUIT":
			return c.PrintfLine("221 2.0.0 bye")
		default:
			reply = "250 2.0.0 ok"
		}
	}
}

// keep writes under a hidden name first: the audit sees whole messages only.
func (s *mailStore) keep(mail []byte) error {
	name := fmt.Sprintf("%d.eml", s.run.Add(1))
	hidden := filepath.Join(s.dir, "."+name)
	if err := os.WriteFile(hidden, mail, 0o644); err != nil {
		return err
	}
	return os.Rename(hidden, filepath.Join(s.dir, name))
}
