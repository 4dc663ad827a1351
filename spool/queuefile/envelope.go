package queuefile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"strings"
	"time"
)

// State is how far a recipient has come: the record's type byte, which Postfix
// overwrites in place.
type State byte

const (
	ToDo     State = recRecipient // still to be tried
	Done     State = recDone      // delivered or bounced
	Canceled State = recCanceled  // removed by a milter
)

// Recipient is one recipient of a message.
type Recipient struct {
	Address  string
	Original string // before aliasing; empty where the file does not say
	State    State
}

// Envelope is what a queue file says about a message besides its text. The struct
// and the slice are valid until the reader's next Reset; the strings for ever.
type Envelope struct {
	Sender     string // empty for <>
	Recipients []Recipient
	Redirect   string // of a REDIRECT action: it gets the mail instead of the recipients

	// Login is the SASL login of the client that submitted the message.
	Login string
	// ClientName and ClientAddress are the original client: log_client_name and
	// log_client_address, which a content filter passes on by XFORWARD, so that
	// it is not the filter on localhost. Files of Postfix before 2.3 have only
	// client_name and client_address, which are taken there. Both are empty for
	// mail submitted on the host. An IPv6 address is without the prefix IPv6:.
	ClientName    string
	ClientAddress string

	Arrival time.Time // kept by postsuper -r
	Created time.Time // of the queue file: the age that expiry goes by
	// Size is what mailq shows: of the content, record overhead included; of a
	// maildrop file the whole file.
	Size int64
	// Truncated says that the envelope is larger than MaxEnvelope, or one value
	// larger than 32 KiB: the rest of it was read, but not kept.
	Truncated bool
}

// span is a piece of Reader.text.
type span struct {
	from, to int
	set      bool
}

type recipientSpan struct {
	address, original span
	state             State
}

// found collects an envelope while it is read.
type found struct {
	sender, redirect, login, clientName, clientAddress span
	original                                           span
	logged                                             bool // a log_client_* attribute was seen
	arrival                                            time.Time
	created                                            int64
	size, offset                                       int64 // of the size record
	truncated                                          bool
}

// Envelope reads all but the content, following pointers, and tells whether the
// file is whole: an error of type [*Broken] if Postfix would not accept it. The
// content is jumped over, as qmgr does, so damage in it is found by
// [Reader.Content] only; in a maildrop file its records are walked through, as
// pickup does.
func (r *Reader) Envelope() (*Envelope, error) {
	if r.content > 0 {
		return &r.env, nil
	}
	r.text, r.spans = r.text[:0], r.spans[:0]
	r.begin(0)
	var f found
	var err error
	if r.maildrop {
		err = r.readMaildrop(&f)
	} else {
		err = r.readQueued(&f)
	}
	if err != nil {
		r.content = 0
		return nil, err
	}
	r.fillEnvelope(&f)
	return &r.env, nil
}

// besidesContent are the records of envelope and extracted section.
var besidesContent = set(inEnvelope + inExtracted)

// readQueued is qmgr_message_read of src/qmgr/qmgr_message.c.
func (r *Reader) readQueued(f *found) error {
	for {
		if err := r.takeWindow(f); err != nil {
			return err
		}
		behind := f.offset > 0 && r.pos == f.offset
		if behind {
			r.pos += f.size
		}
		rec, err := r.next()
		if err == io.EOF {
			return &Broken{rec.at, "no end record"}
		} else if err != nil {
			return err
		}
		if rec.kind == recPointer {
			if err := r.jump(rec); err != nil {
				return err
			}
			continue
		}
		if behind {
			if rec.kind != recExtracted {
				return &Broken{rec.at, "the size record does not lead to the end of the content"}
			}
			continue
		}
		if !besidesContent[rec.kind] {
			return &Broken{rec.at, fmt.Sprintf("record type %q where an envelope record must stand", rec.kind)}
		}
		if rec.kind == recEnd {
			break
		}
		if err := r.take(rec, f); err != nil {
			return err
		}
	}
	switch {
	case f.arrival.IsZero():
		return &Broken{0, "no arrival time record"}
	case !f.sender.set:
		return &Broken{0, "no sender record"}
	case f.offset == 0:
		return &Broken{0, "no size record"}
	}
	r.content, r.extracted = f.offset, f.offset+f.size
	return nil
}

// takeWindow takes the records of the envelope that stand whole in the window, as
// nearly all do, without a call for each. In front of whatever is more than a
// short record of the envelope it stops.
func (r *Reader) takeWindow(f *found) error {
	begin := r.pos - r.at
	if begin < 0 || begin >= int64(len(r.window)) {
		return nil
	}
	w := r.window[begin:]
	w = w[:min(int64(len(w)), r.budget)]
	i := 0
	var err error
	for err == nil && i+2 <= len(w) && r.pos+int64(i) != f.offset {
		kind, end := w[i], i+2+int(w[i+1])
		if w[i+1] >= 0x80 || end > len(w) || !shortRecord[kind] {
			break
		}
		b, n := w[i+2:end], int64(w[i+1])
		k := 0
		if kind == recAttribute {
			k = quickName(w[i+2:], len(b))
		}
		if k > 0 {
			if name := b[:k]; wantedName(name) {
				r.noteAttribute(name, trimSpace(untilNUL(b[k+1:])), f)
			}
		} else {
			err = r.takeValue(record{kind, r.pos + int64(i), r.pos + int64(i) + 2, n}, untilNUL(b), f)
		}
		i = end
	}
	r.pos += int64(i)
	r.budget -= int64(i)
	return err
}

// shortRecord is what takeWindow takes: all that leads nowhere else and ends
// nothing.
var shortRecord = func() *[256]bool {
	s := set(inEnvelope + inExtracted)
	s[recPointer], s[recEnd], s[recExtracted] = false, false, false
	return s
}()

// quickName is how long the name of an attribute is that has the first n bytes of b;
// 0 where it takes attribute to tell. The name is what stands in front of the first
// =, if that comes before any blank and control character. Eight bytes are looked at
// at once: where a name ends is what the processor cannot foresee.
func quickName(b []byte, n int) int {
	const each = 0x0101010101010101
	for i := 0; i < n && i+8 <= len(b); i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		equal := w ^ '='*each
		// The lowest bit set is right, those above may not be: a borrow.
		if end := ((equal-each)&^equal | (w-('!'*each))&^w) & (each << 7); end != 0 {
			if i += bits.TrailingZeros64(end) / 8; i < n && b[i] == '=' {
				return i
			}
			return 0
		}
	}
	return 0
}

// wantedName tells whether a name may be one of those that an envelope is made of:
// see noteAttribute.
func wantedName(name []byte) bool {
	switch name[0] {
	case 'l':
		return len(name) == len("log_client_name") || len(name) == len("log_client_address")
	case 'c':
		return len(name) == len("create_time") || len(name) == len("client_name") || len(name) == len("client_address")
	case 's':
		return len(name) == len("sasl_username")
	}
	return false
}

// untilNUL is b as a C string.
func untilNUL(b []byte) []byte {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		return b[:i]
	}
	return b
}

// trimSpace is b without the blanks at both ends.
func trimSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// readMaildrop is pickup_copy and copy_segment of src/pickup/pickup.c: each
// section has its own set of records and ends with the first of the set. Pointers
// are followed, for the sake of postsuper -r. A missing arrival time is made up
// by pickup from the file's own.
func (r *Reader) readMaildrop(f *found) error {
	var end int64 // where the section's last record stands
	for _, allowed := range [...]string{inEnvelope, inContent, inExtracted} {
		for {
			rec, err := r.next()
			if err == io.EOF {
				return &Broken{rec.at, "no end record"}
			} else if err != nil {
				return err
			}
			if rec.kind == recPointer {
				if err := r.jump(rec); err != nil {
					return err
				}
				continue
			}
			if rec.kind == recPadding && allowed != inContent {
				continue // pickup reads on (record.c rec_get_raw, REC_FLAG_SKIP_DTXT)
			}
			if strings.IndexByte(allowed, rec.kind) < 0 {
				return &Broken{rec.at, fmt.Sprintf("record type %q where one of %s must stand", rec.kind, allowed)}
			}
			if rec.kind == allowed[0] {
				end = rec.at
				break
			}
			if allowed != inContent && rec.kind != recSize {
				if err := r.take(rec, f); err != nil {
					return err
				}
			}
		}
		switch allowed {
		case inEnvelope:
			r.content = r.pos
			if !f.sender.set {
				return &Broken{0, "no sender record"}
			}
		case inContent:
			r.extracted = end
		}
	}
	f.size = r.size
	return nil
}

// take notes what one envelope record says.
func (r *Reader) take(rec record, f *found) error {
	switch rec.kind {
	case recSize, recTime, recSender, recOriginal, recRecipient, recDone, recCanceled, recAttribute, recRedirect:
	default:
		return nil
	}
	b, err := r.data(rec)
	if err != nil {
		return err
	}
	if rec.n > maxValue {
		f.truncated = true
	}
	return r.takeValue(rec, b, f)
}

// takeValue notes what a record with the value b says.
func (r *Reader) takeValue(rec record, b []byte, f *found) error {
	switch rec.kind {
	case recSize:
		return takeSize(rec, b, f)
	case recTime:
		if f.arrival.IsZero() {
			f.arrival = arrival(b)
		}
	case recSender:
		if !f.sender.set {
			f.sender = r.keep(b, f)
		}
	case recOriginal:
		f.original = r.keep(b, f)
	case recRedirect:
		f.redirect = r.keep(b, f)
	case recRecipient, recDone, recCanceled:
		if r.room(b) {
			r.spans = append(r.spans, recipientSpan{r.keep(b, f), f.original, State(rec.kind)})
		} else {
			f.truncated = true
		}
		f.original = span{}
	case recAttribute:
		return r.takeAttribute(rec, b, f)
	}
	return nil
}

func takeSize(rec record, b []byte, f *found) error {
	var n [5]int64 // size, offset, recipients, flags, length; a sixth field is for SMTPUTF8
	count := 0
	for ; count < len(n); count++ {
		var ok bool
		if n[count], b, ok = number(b); !ok {
			break
		}
	}
	if f.offset == 0 {
		// QMGR_READ_FLAG_USER of src/global/qmgr_user.h.
		const flags = 0x1f
		switch {
		case count < 3:
			return &Broken{rec.at, "a size record that is none"}
		case n[0] <= 0 || n[1] <= 0:
			return &Broken{rec.at, "a size record that was never filled in"}
		case n[3]&^flags != 0:
			return &Broken{rec.at, "unknown flags in the size record"}
		case n[4] < 0:
			return &Broken{rec.at, "a negative length in the size record"}
		}
		f.size, f.offset = n[0], n[1]
	}
	return nil
}

// attribute splits name=value as split_nameval of src/util/split_nameval.c does.
func attribute(b []byte) (name, value []byte, ok bool) {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	end := 0
	for end < len(b) && b[end] > ' ' && b[end] != '=' || end < len(b) && b[end] <= ' ' && !isSpace(b[end]) {
		end++
	}
	name, b = b[:end], b[end:]
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	if len(name) == 0 || len(b) == 0 || b[0] != '=' {
		return nil, nil, false
	}
	return name, trimSpace(b[1:]), true
}

func (r *Reader) takeAttribute(rec record, b []byte, f *found) error {
	name, value, ok := attribute(b)
	if !ok {
		return &Broken{rec.at, "an attribute record without name and value"}
	}
	r.noteAttribute(name, value, f)
	return nil
}

// noteAttribute notes those attributes that an envelope is made of.
func (r *Reader) noteAttribute(name, value []byte, f *found) {
	switch string(name) {
	case "create_time":
		if f.created == 0 {
			f.created, _, _ = number(value)
		}
	case "sasl_username":
		if !f.login.set {
			f.login = r.keep(value, f)
		}
	case "log_client_name":
		f.clientName, f.logged = r.keep(value, f), true
	case "log_client_address":
		f.clientAddress, f.logged = r.keep(value, f), true
	case "client_name":
		if !f.logged && !f.clientName.set {
			f.clientName = r.keep(value, f)
		}
	case "client_address":
		if !f.logged && !f.clientAddress.set {
			f.clientAddress = r.keep(value, f)
		}
	}
}

// room tells whether the envelope may still grow by b.
func (r *Reader) room(b []byte) bool {
	return len(r.text)+len(b)+recipientCost*len(r.spans) <= MaxEnvelope
}

// keep copies b to what the envelope's strings are made of. Where there is no
// room, the value is kept as the empty string: that there was one counts.
func (r *Reader) keep(b []byte, f *found) span {
	from := len(r.text)
	if r.room(b) {
		r.text = append(r.text, b...)
	} else {
		f.truncated = true
	}
	return span{from, len(r.text), true}
}

// fillEnvelope makes all strings out of one, so that an envelope costs one
// allocation.
func (r *Reader) fillEnvelope(f *found) {
	all := string(r.text)
	cut := func(s span) string { return all[s.from:s.to] }
	rcpts := r.env.Recipients[:0]
	for _, s := range r.spans {
		rcpts = append(rcpts, Recipient{cut(s.address), cut(s.original), s.state})
	}
	created := f.arrival
	if f.created > 0 {
		created = time.Unix(f.created, 0)
	}
	address := cut(f.clientAddress)
	if len(address) > 5 && strings.EqualFold(address[:5], "IPv6:") {
		address = address[5:]
	}
	r.env = Envelope{
		Sender:        cut(f.sender),
		Recipients:    rcpts,
		Redirect:      cut(f.redirect),
		Login:         cut(f.login),
		ClientName:    cut(f.clientName),
		ClientAddress: address,
		Arrival:       f.arrival,
		Created:       created,
		Size:          f.size,
		Truncated:     f.truncated,
	}
}

// createdPrefix holds the size record, the arrival time and create_time of every
// file that Postfix writes outside maildrop.
const createdPrefix = 160

// Created reads when the file in src was made from its first 160 bytes:
// create_time, or else the arrival time. Neither is its mtime, which in deferred
// lies in the future. It does not tell whether the file is whole, and what Reset
// began is forgotten.
func (r *Reader) Created(src io.ReaderAt) (time.Time, error) {
	r.Reset(src, 0, false)
	n, err := src.ReadAt(r.buffer[:createdPrefix], 0)
	if err != nil && err != io.EOF {
		return time.Time{}, fmt.Errorf("read at offset 0: %w", err)
	}
	r.window, r.size = r.buffer[:n], int64(n)
	r.begin(0)
	var f found
	for f.created == 0 {
		rec, err := r.next()
		if err != nil || rec.kind == recMessage {
			break
		}
		if b, err := r.data(rec); err == nil && rec.kind == recTime {
			f.arrival = arrival(b)
		} else if name, value, ok := attribute(b); err == nil && rec.kind == recAttribute && ok && string(name) == "create_time" {
			f.created, _, _ = number(value)
		}
	}
	r.size, r.window = 0, r.window[:0]
	switch {
	case f.created > 0:
		return time.Unix(f.created, 0), nil
	case !f.arrival.IsZero():
		return f.arrival, nil
	}
	return time.Time{}, &Broken{0, "no arrival time record"}
}
