package stage

import (
	"bytes"
	"errors"

	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// headerLines finds three headers of a message, the first of each.
type headerLines struct {
	subject, script, received []byte
	current                   *[]byte // continued by a line that begins with a blank
	inside                    bool    // the last piece did not end its line
	seen                      int
	words                     pattern.FieldText
	decoded                   []byte
}

const (
	subjectHeader  = "subject:"
	scriptHeader   = "x-php-originating-script:"
	receivedHeader = "received:"
	maxHeader      = 64 << 10 // bytes of header that are looked at
)

var errHeaderEnds = errors.New("the header ends")

func (h *headerLines) read(r *queuefile.Reader) error {
	h.subject, h.script, h.received = h.subject[:0], h.script[:0], h.received[:0]
	h.current, h.inside, h.seen = nil, false, 0
	err := r.HeaderBody(h.piece, func([]byte, bool) error { return errHeaderEnds })
	if errors.Is(err, errHeaderEnds) {
		return nil
	}
	return err
}

func (h *headerLines) piece(b []byte, eol bool) error {
	continues := h.inside || len(b) > 0 && (b[0] == ' ' || b[0] == '\t')
	h.inside = !eol
	if h.seen += len(b); h.seen > maxHeader {
		return errHeaderEnds
	}
	if !continues {
		h.current = nil
		switch {
		case len(h.subject) == 0 && hasFold(b, subjectHeader):
			h.current, b = &h.subject, b[len(subjectHeader):]
		case len(h.script) == 0 && hasFold(b, scriptHeader):
			h.current, b = &h.script, b[len(scriptHeader):]
		case len(h.received) == 0 && hasFold(b, receivedHeader):
			h.current, b = &h.received, b[len(receivedHeader):]
		}
	}
	if h.current != nil && len(*h.current) < maxSubject {
		*h.current = append(*h.current, b[:min(len(b), maxSubject)]...)
	}
	return nil
}

// maxSubject bounds what is kept of a header while it is read.
const maxSubject = 1000

func hasFold(b []byte, lower string) bool {
	if len(b) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// originating is what PHP says of its script, "" where it says nothing.
func (h *headerLines) originating() string { return string(bytes.Trim(h.script, " \t")) }

// text is the subject as people read it.
func (h *headerLines) text() string {
	h.decoded = h.words.Append(h.decoded[:0], bytes.Trim(h.subject, " \t"))
	return string(h.decoded)
}
