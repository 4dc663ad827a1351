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
	if r.content == 0 {
		if _, err := r.Envelope(); err != nil {
			return err
		}
	}
	r.begin(r.content)
	for {
		rec, err := r.next()
		if err == io.EOF {
			return &Broken{rec.at, "the file ends inside the content"}
		} else if err != nil {
			return err
		}
		switch rec.kind {
		case recText, recLong:
			if err := r.textRecord(rec, text); err != nil {
				return err
			}
		case recPointer:
			if err := r.jump(rec); err != nil {
				return err
			}
		case recPadding:
		case recExtracted:
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
