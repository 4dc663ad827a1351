package queuefile

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// Content calls text with the message as postcat -hb prints it, headers and body,
// pointers followed: piece by piece, eol saying that the line ends behind this
// piece. Most pieces are whole lines; a long line comes in several. A piece is
// valid until text returns; an error of text ends the reading and is returned.
//
// The envelope is read first, if it was not. An error of type [*Broken] says that
// no delivery agent could read the content either.
func (r *Reader) Content(text func(piece []byte, eol bool) error) error {
	return r.readContent(nil, plainly(text))
}

// Pieces is [Reader.Content] that also says whether a piece has a carriage return
// in it, which it sees for many lines at once.
func (r *Reader) Pieces(text func(piece []byte, eol, cr bool) error) error {
	return r.readContent(nil, text)
}

// HeaderBody is [Reader.Content] with the header's pieces to one function and the
// body's to another, as postcat -h and -b print them: the empty line between them
// belongs to the body.
//
// The body begins with the first record that is no header field and does not go
// on with one, as in cleanup (src/global/mime_state.c). A message that begins with
// a blank therefore has no header, whereas postcat takes its beginning for one and
// says so itself ("This is wrong when the message starts with whitespace"). In a
// maildrop file there are such messages; in front of others cleanup has put a
// Received field.
func (r *Reader) HeaderBody(header, body func(piece []byte, eol bool) error) error {
	return r.readContent(plainly(header), plainly(body))
}

// taker takes a piece of text.
type taker func(piece []byte, eol, cr bool) error

func plainly(text func(piece []byte, eol bool) error) taker {
	return func(piece []byte, eol, _ bool) error { return text(piece, eol) }
}

// readContent passes all on to body where header is nil.
func (r *Reader) readContent(header, body taker) error {
	if r.content == 0 {
		if _, err := r.Envelope(); err != nil {
			return err
		}
	}
	r.begin(r.content)
	text, inHeader := body, header != nil
	if inHeader {
		text = header
	}
	open := false // a line whose end was not seen
	first := true
	for {
		if !inHeader {
			if any, err := r.lines(text); err != nil {
				return err
			} else if any {
				open = false
			}
		}
		rec, err := r.next()
		if err == io.EOF {
			return &Broken{rec.at, "the file ends inside the content"}
		} else if err != nil {
			return err
		}
		switch rec.kind {
		case recText, recLong:
			if inHeader && !open {
				if inHeader, err = r.isHeader(rec, !first); err != nil {
					return err
				}
				if !inHeader {
					text = body
				}
			}
			open, first = rec.kind == recLong, false
			if err := r.textRecord(rec, text); err != nil {
				return err
			}
		case recPointer:
			if err := r.jump(rec); err != nil {
				return err
			}
		case recPadding:
		case recExtracted:
			if open { // delivery agents end it too (src/smtp/smtp_proto.c, "missing newline")
				return text(nil, true, false)
			}
			return nil
		default:
			return &Broken{rec.at, fmt.Sprintf("record type %q inside the content", rec.kind)}
		}
	}
}

// lines passes on the whole lines that stand in the window one behind the other,
// as nearly all do.
func (r *Reader) lines(text taker) (any bool, err error) {
	from := r.pos - r.at
	if from < 0 || from >= int64(len(r.window)) {
		return false, nil
	}
	w := r.window[from:]
	at := 0
	cr := -1 // the first carriage return from at on, or the end: not looked for
	for err == nil && at+2 < len(w) && w[at] == recText {
		begin, n := at+2, int(w[at+1])
		if n >= 0x80 {
			if w[at+2] >= 0x80 {
				break
			}
			begin, n = at+3, n&0x7f|int(w[at+2])<<7
		}
		end := begin + n
		if end > len(w) {
			break
		}
		if cr < begin { // or it was in a record's length
			if i := bytes.IndexByte(w[begin:], '\r'); i >= 0 {
				cr = begin + i
			} else {
				cr = len(w)
			}
		}
		err = text(w[begin:end], true, cr < end)
		at = end
		any = true
	}
	r.pos += int64(at)
	r.budget -= int64(at)
	return any, err
}

// textRecord passes on the data of one record, in as many pieces as the window
// makes of it.
func (r *Reader) textRecord(rec record, text taker) error {
	eol := rec.kind == recText
	for done := int64(0); ; {
		if done == rec.n {
			if done == 0 && eol {
				return text(nil, true, false)
			}
			return nil
		}
		b, err := r.Window(rec.data + done)
		if err == io.EOF {
			return &Broken{rec.at, "the file ends inside a record"}
		} else if err != nil {
			return err
		}
		b = b[:min(int64(len(b)), rec.n-done)]
		done += int64(len(b))
		if err := text(b, eol && done == rec.n, bytes.IndexByte(b, '\r') >= 0); err != nil {
			return err
		}
	}
}

// isHeader tells whether a record that begins a line is a header field (is_header
// of src/global/is_header.c), or goes on with the one before.
func (r *Reader) isHeader(rec record, before bool) (bool, error) {
	name, blank := false, false
	for done := int64(0); done < rec.n; {
		b, err := r.Window(rec.data + done)
		if err == io.EOF {
			return false, &Broken{rec.at, "the file ends inside a record"}
		} else if err != nil {
			return false, err
		}
		b = b[:min(int64(len(b)), rec.n-done)]
		done += int64(len(b))
		for _, c := range b {
			switch {
			case c == ':':
				return name, nil
			case c == ' ' || c == '\t':
				if !name {
					return before, nil
				}
				blank = true
			case c < ' ' || c >= 0x7f || blank:
				return false, nil
			default:
				name = true
			}
		}
	}
	return false, nil
}

// IsHeaderName says whether that may be the name of a header (RFC 5322, 2.2).
func IsHeaderName(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' })
}
