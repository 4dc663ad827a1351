package queuefile

import (
	"fmt"
	"io"
)

// Content calls text with the message as postcat -hb prints it, headers and body,
// pointers followed: piece by piece, eol saying that the line ends behind this
// piece. Most pieces are whole lines; a long line comes in several. A piece is
// valid until text returns; an error of text ends the reading and is returned.
//
// The envelope is read first, if it was not. An error of type [*Broken] says that
// no delivery agent could read the content either.
func (r *Reader) Content(text func(piece []byte, eol bool) error) error {
	return r.readContent(nil, text)
}

// blockSize is how much text is gathered for one call of Blocks.
const blockSize = 32 << 10

// Blocks is [Reader.Content] in large pieces, for who wants it fast: many lines at
// once, each with a newline behind it. Only a line that is longer than a block
// comes in several. A block is valid until block returns.
func (r *Reader) Blocks(block func(text []byte) error) error {
	if r.content == 0 {
		if _, err := r.Envelope(); err != nil {
			return err
		}
	}
	r.begin(r.content)
	open := false // a line whose end was not seen
	// What is at hand comes first, before more is read: often it has the header,
	// and block wants no more.
	first := true
	r.block = r.block[:0]
	for {
		if r.lines() {
			open = false
		}
		if len(r.block) >= blockSize || first && len(r.block) > 0 {
			first = false
			if err := block(r.block); err != nil {
				return err
			}
			r.block = r.block[:0]
		}
		rec, err := r.next()
		if err == io.EOF {
			return &Broken{rec.at, "the file ends inside the content"}
		} else if err != nil {
			return err
		}
		switch rec.kind {
		case recText, recLong:
			open = rec.kind == recLong
			err := r.textRecord(rec, func(piece []byte, eol bool) error {
				r.block = append(r.block, piece...)
				if eol {
					r.block = append(r.block, '\n')
				}
				if len(r.block) < blockSize {
					return nil
				}
				err := block(r.block)
				r.block = r.block[:0]
				return err
			})
			if err != nil {
				return err
			}
		case recPointer:
			if err := r.jump(rec); err != nil {
				return err
			}
		case recPadding:
		case recExtracted:
			if open { // see readContent
				r.block = append(r.block, '\n')
			}
			if len(r.block) == 0 {
				return nil
			}
			return block(r.block)
		default:
			return &Broken{rec.at, fmt.Sprintf("record type %q inside the content", rec.kind)}
		}
	}
}

// lines gathers the whole lines that stand in the window one behind the other, as
// nearly all do: without a call for each.
func (r *Reader) lines() (any bool) {
	from := r.pos - r.at
	if from < 0 || from >= int64(len(r.window)) {
		return false
	}
	w, block := r.window[from:], r.block
	for len(w) > 2 && w[0] == recText && len(block) < blockSize {
		begin, n := 2, int(w[1])
		if n >= 0x80 {
			if w[2] >= 0x80 {
				break
			}
			begin, n = 3, n&0x7f|int(w[2])<<7
		}
		if begin+n > len(w) {
			break
		}
		block = append(append(block, w[begin:begin+n]...), '\n')
		w = w[begin+n:]
		any = true
	}
	taken := int64(len(r.window)) - from - int64(len(w))
	r.pos += taken
	r.budget -= taken
	r.block = block
	return any
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
	return r.readContent(header, body)
}

// readContent passes all on to body where header is nil.
func (r *Reader) readContent(header, body func(piece []byte, eol bool) error) error {
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
			if i := rec.data - r.at; !open && i >= 0 && i+rec.n <= int64(len(r.window)) { // nearly always
				err = text(r.window[i:i+rec.n], true)
			} else {
				err = r.textRecord(rec, text)
			}
			if err != nil {
				return err
			}
		case recPointer:
			if err := r.jump(rec); err != nil {
				return err
			}
		case recPadding:
		case recExtracted:
			if open { // delivery agents end it too (src/smtp/smtp_proto.c, "missing newline")
				return text(nil, true)
			}
			return nil
		default:
			return &Broken{rec.at, fmt.Sprintf("record type %q inside the content", rec.kind)}
		}
	}
}

// textRecord passes on the data of one record, in as many pieces as the window
// makes of it.
func (r *Reader) textRecord(rec record, text func([]byte, bool) error) error {
	eol := rec.kind == recText
	for done := int64(0); ; {
		if done == rec.n {
			if done == 0 && eol {
				return text(nil, true)
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
		if err := text(b, eol && done == rec.n); err != nil {
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
