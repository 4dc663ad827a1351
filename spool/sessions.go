package spool

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Server is an smtpd(8) of this Postfix. It has one client at a time, and goes on with
// the next one.
type Server struct {
	PID   int
	Began time.Time // the second in which it was started, or the one before

	process process
}

// Servers are those that run just now, with a client or without.
func (p *Postfix) Servers() ([]*Server, error) {
	all, err := processes()
	if err != nil {
		return nil, fmt.Errorf("look for SMTP servers: %w", err)
	}
	var servers []*Server
	for _, c := range all {
		if !c.dead && c.command == "smtpd" && p.isDaemon(c) {
			servers = append(servers, &Server{c.pid, c.began(), c})
		}
	}
	return servers, nil
}

// HangUp ends the session that a server has just now, as if its client's connection
// were lost: what was sent is kept, a message that is on its way is not taken, and the
// server goes on with other clients. It says whether there was a session.
//
// Nothing is signalled. Of a server that is killed in its first session master says
// "bad command startup -- throttling", and starts no other one of that service for a
// minute (master_spawn.c, master_reap_child).
func (s *Server) HangUp() (bool, error) {
	clients, err := clientsOf(s.process)
	for _, fd := range clients {
		if err == nil {
			err = hangUp(fd, s.PID)
			if errors.Is(err, unix.ENOTCONN) { // it has gone by itself
				err = nil
			}
		}
		unix.Close(fd)
	}
	if errors.Is(err, unix.ESRCH) {
		return false, nil // the server has ended
	}
	if err != nil {
		return false, fmt.Errorf("end the session of smtpd %d: %w", s.PID, err)
	}
	return len(clients) > 0, nil
}
