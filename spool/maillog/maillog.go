// Package maillog reads Postfix's mail log for who sent mail: which logins,
// which accounts of the host, from where, and who only failed to log in.
//
// It knows the log as syslog daemons, postlogd(8) and the journal keep it:
// stamps with and without a year, RFC 5424, rotated files, gzip, bzip2, xz and
// zstd, syslog names of instances and services, short and long queue ids, and
// "message repeated". A line counts by what stands before its text, the tag of
// the program that wrote it, and by the text's beginning: what a client puts
// into a name further on makes no login of it.
//
// Memory is bounded whatever the log: a line longer than 64 KiB is passed over,
// and what is passed on lives in the buffer it was read into. Lines that do not
// matter are never looked at one by one. Nothing is followed: a log is a regular
// file, opened by its own name. Start with [Find] and [Logs.Read].
package maillog

import (
	"bytes"
	"context"
	"errors"
	"hash/maphash"
	"io"
	"time"
)

// Kind is what a line tells; several together say which lines are wanted.
type Kind uint8

const (
	// Login is a message that was sent with a login: smtpd's line
	// "ID: client=..., sasl_method=..., sasl_username=...", written once a
	// message, at its first recipient. It is the only line that counts a login.
	Login Kind = 1 << iota
	// Client is a message that came in without one.
	Client
	// Failed is a login that failed.
	Failed
	// Local is a message that was submitted on the host: pickup's line. One that
	// postsuper -r has requeued is none.
	Local
	// Queued is qmgr's line with the sender. It stands in the log again at each
	// try: only the first one of an id tells a new message.
	Queued
	// Sent is the sender of a message that a login sent: qmgr's first line of it,
	// where that stands within some thousand messages behind smtpd's.
	Sent
	// Unknown is a recipient that this server does not have.
	Unknown
	// Ended is the end of a client's session: smtpd's line "disconnect from".
	Ended
)

// Event is one line that matters. Its slices are valid until the function that
// gets it returns.
type Event struct {
	Kind      Kind
	Time      time.Time
	ID        []byte
	User      []byte // of Login; of Failed where Postfix says it
	Address   []byte // the client's, of Login, Client, Failed and Ended
	PID       int    // of the process that wrote it; 0 where the log does not say
	UID       int    // of Local
	Sender    []byte // of Local, Queued and Sent; empty for <>
	Recipient []byte // of Unknown
	Original  []byte // of Unknown: before aliasing, where it differs
	Times     int64  // 1, or what "message repeated" says
}

const (
	blockSize = 256 << 10
	maxLine   = 64 << 10
)

// scanner looks through the lines of one log.
type scanner struct {
	parser
	want  Kind
	since time.Time
	skip  bool // inside a line whose beginning was not seen, or that is too long
	event Event
	found func(*Event) error
	// pending are messages of logins that qmgr was not seen to take yet, by their
	// ids' hashes; a later one may take the place of another.
	pending [onTheWay]uint64
}

// onTheWay is how many messages may be between smtpd and qmgr.
const onTheWay = 8192

// scan reads r to its end. A last line without a line's end is still being
// written, and left out.
func (s *scanner) scan(ctx context.Context, r io.Reader) error {
	block := make([]byte, blockSize)
	held := 0
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(r, block[held:])
		text := block[:held+n]
		end := bytes.LastIndexByte(text, '\n') + 1
		lines := text[:end]
		if s.skip && end > 0 {
			lines = lines[bytes.IndexByte(lines, '\n')+1:]
			s.skip = false
		}
		if err := s.block(lines); err != nil {
			return err
		}
		held = copy(block, text[end:])
		if held > maxLine {
			held, s.skip = 0, true
		} else if s.skip {
			held = 0
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// block looks at whole lines.
func (s *scanner) block(text []byte) error {
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n')
		line := text[:end]
		text = text[end+1:]
		if len(line) > maxLine || !s.line(line) {
			continue
		}
		if err := s.pass(); err != nil {
			return err
		}
	}
	return nil
}

// line takes one line apart, without its end. It says whether the line is one of
// those that are wanted. Its time is read last: few lines come to that.
func (s *scanner) line(line []byte) bool {
	stamp, service, text, ok := s.head(line)
	if !ok || !parseText(service, text, &s.event) || !s.wanted() {
		return false
	}
	s.event.Time, ok = s.time(stamp)
	s.event.PID = pidBehind(line, service)
	return ok
}

// wanted brings together the two lines of a message that a login sent.
func (s *scanner) wanted() bool {
	e := &s.event
	if s.want&Sent != 0 && e.Kind&(Login|Queued) != 0 {
		hash := maphash.Bytes(seed, e.ID) | 1 // never that of an empty place
		switch at := &s.pending[hash>>1%onTheWay]; {
		case e.Kind == Login:
			*at = hash
		case *at == hash:
			*at = 0
			if s.want&Queued == 0 {
				e.Kind = Sent
			}
		}
	}
	return e.Kind&s.want != 0
}

var seed = maphash.MakeSeed()

// pass hands on an event, if it is not too old.
func (s *scanner) pass() error {
	if !s.since.IsZero() && s.event.Time.Before(s.since) {
		return nil
	}
	return s.found(&s.event)
}
