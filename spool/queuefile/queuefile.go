// Package queuefile reads one Postfix queue file as the queue manager reads it:
// records, pointers left by milters, the size record, recipients to do and done,
// the extracted section, and the content as postcat prints it.
//
// It promises three things. What [Reader.Envelope] accepts is what qmgr accepts
// (src/qmgr/qmgr_message.c qmgr_message_read of Postfix 3.7.11 and later; for
// maildrop files src/pickup/pickup.c copy_segment): anything else is an error
// that names the broken rule. Memory is bounded whatever the file's size: one
// window of the file, and at most [MaxEnvelope] bytes of envelope. No input makes
// it panic or loop.
//
// It opens nothing and changes nothing: it reads from an [io.ReaderAt]. Start
// with [Reader.Reset], [Reader.Envelope] and [Reader.Content]; [Reader.HeaderBody]
// tells header from body, and [Reader.Records] shows every record of the envelope.
// One Reader is meant to be used for many files, one after the other.
package queuefile

import (
	"fmt"
	"io"
	"time"
)

const (
	// windowSize is how much of a file is held at once: nearly every message
	// whole, so that it costs one read.
	windowSize = 64 << 10
	// leap is what is read first, and at the far end of a jump, in a file larger
	// than the window: envelope and extracted section are seldom longer.
	leap = 4 << 10
	// reverseJumps is REVERSE_JUMP_LIMIT of src/global/record.c.
	reverseJumps = 10_000
	// maxLengthBytes is how many bytes may tell a record's length. A fifth is
	// accepted by versions before 3.8.20, 3.9.14 and 3.10.13 only; nobody
	// writes one.
	maxLengthBytes = 4
	// maxValue bounds what is kept of one envelope record. smtpd takes command
	// lines of 2,048 bytes.
	maxValue = 32 << 10
	// MaxEnvelope bounds what is kept of one envelope: each recipient counts with
	// its bytes and recipientCost, so that there are some 30,000 of them.
	MaxEnvelope   = 2 << 20
	recipientCost = 32
)

// Record types, of src/global/rec_type.h.
const (
	recSize      = 'C'
	recTime      = 'T'
	recSender    = 'S'
	recOriginal  = 'O'
	recRecipient = 'R'
	recDone      = 'D'
	recCanceled  = '/'
	recAttribute = 'A'
	recRedirect  = '>'
	recMessage   = 'M'
	recText      = 'N'
	recLong      = 'L'
	recPadding   = 'w'
	recPointer   = 'p'
	recExtracted = 'X'
	recEnd       = 'E'
)

// What may stand where: REC_TYPE_ENVELOPE, _CONTENT and _EXTRACT of rec_type.h.
const (
	inEnvelope  = "MCTcFILSDRO/WVA>K<ion"
	inContent   = "XLNw"
	inExtracted = "EDRO/PreAFIL>Kon"
)

// Broken says which rule a queue file breaks, so that the queue manager would
// move it to corrupt (or pickup delete it).
type Broken struct {
	Offset int64 // of the record at fault
	Rule   string
}

func (b *Broken) Error() string { return fmt.Sprintf("offset %d: %s", b.Offset, b.Rule) }

// Reader reads queue files, one at a time. It is not for concurrent use.
type Reader struct {
	src      io.ReaderAt
	size     int64
	maildrop bool

	window []byte // buffer[:n], the file's bytes from at on
	buffer []byte
	at     int64

	walk
	content   int64 // where the content begins; 0 until the envelope was read and found whole
	extracted int64 // where the record X stands, that ends it
	env       Envelope
	text      []byte // what the envelope's strings are made of
	value     []byte // a record that crosses the window's end
	spans     []recipientSpan
}

// walk is the state of one pass over the records.
type walk struct {
	pos     int64
	target  int64 // of the last jump
	reverse int   // jumps not beyond target
	budget  int64 // bytes that may still be passed over
}

// Reset begins a file of size bytes. maildrop says that the file stands in the
// maildrop queue, where pickup's rules hold.
func (r *Reader) Reset(src io.ReaderAt, size int64, maildrop bool) {
	if r.buffer == nil {
		r.buffer = make([]byte, windowSize)
	}
	r.src, r.size, r.maildrop = src, size, maildrop
	r.window, r.at = r.buffer[:0], 0
	r.content = 0
}

// begin starts a pass at offset. The records of a sound file never overlap, so
// all of them together are no longer than the file. A reader's only memory is its
// place and whether it has seen the size record, so who has passed over more than
// twice the file's length stands in a loop that Postfix leaves after its 10,000
// reverse jumps, or in a file nobody could have written.
func (r *Reader) begin(offset int64) {
	r.walk = walk{pos: offset, budget: 2*r.size + 4096}
}

// Window returns the file's bytes from offset on, as many as are at hand, at
// least one; [io.EOF] at the end. They are valid until the next call of any
// method.
func (r *Reader) Window(offset int64) ([]byte, error) {
	if i := offset - r.at; i >= 0 && i < int64(len(r.window)) {
		return r.window[i:], nil
	}
	return r.fill(offset)
}

func (r *Reader) fill(offset int64) ([]byte, error) {
	if offset >= r.size || offset < 0 {
		return nil, io.EOF
	}
	want := int64(len(r.buffer))
	if sequential := len(r.window) > 0 && offset == r.at+int64(len(r.window)); !sequential && r.size > want {
		want = min(want, leap)
	}
	want = min(want, r.size-offset)
	n, err := r.src.ReadAt(r.buffer[:want], offset)
	r.window, r.at = r.buffer[:n], offset
	if n > 0 {
		return r.window, nil
	}
	if err == nil || err == io.EOF { // the file is shorter than was said
		r.size = offset
		return nil, io.EOF
	}
	return nil, fmt.Errorf("read at offset %d: %w", offset, err)
}

// record is one record: its type, where it and its data begin, and their length.
type record struct {
	kind     byte
	at, data int64
	n        int64
}

// next reads the record at pos, as rec_get_raw of src/global/record.c does, but
// leaves its data where it is. At the end of the file the error is [io.EOF].
func (r *Reader) next() (record, error) {
	var rec record
	rec.at = r.pos
	head, err := r.Window(r.pos)
	if err != nil {
		return rec, err
	}
	if len(head) > 1 && head[1] < 0x80 { // nearly always
		rec.kind, rec.n, rec.data = head[0], int64(head[1]), r.pos+2
	} else if err := r.header(&rec); err != nil {
		return rec, err
	}
	end := rec.data + rec.n
	if end > r.size {
		return rec, &Broken{rec.at, "the file ends inside a record"}
	}
	r.budget -= end - rec.at
	if r.budget < 0 {
		return rec, &Broken{rec.at, "pointer records lead round in a loop"}
	}
	r.pos = end
	return rec, nil
}

// header reads type and length byte by byte: a long length, or one that the
// window cuts.
func (r *Reader) header(rec *record) error {
	head, err := r.Window(rec.at)
	if err != nil {
		return err
	}
	rec.kind, rec.data = head[0], rec.at+1
	for shift := 0; ; shift += 7 {
		if shift == 7*maxLengthBytes {
			return &Broken{rec.at, "too many bytes for a record's length"}
		}
		b, err := r.Window(rec.data)
		if err == io.EOF {
			return &Broken{rec.at, "the file ends inside a record"}
		} else if err != nil {
			return err
		}
		rec.data++
		rec.n |= int64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return nil
		}
	}
}

// data returns a record's data, of a longer one than maxValue the beginning, up
// to the first NUL: Postfix keeps envelope values as C strings. It is valid until
// the next read.
func (r *Reader) data(rec record) ([]byte, error) {
	n := min(rec.n, maxValue)
	b, err := r.Window(rec.data)
	switch {
	case n == 0:
		return nil, nil
	case err == nil && int64(len(b)) >= n:
		b = b[:n]
	default:
		r.value = r.value[:0]
		for int64(len(r.value)) < n {
			if b, err = r.Window(rec.data + int64(len(r.value))); err == io.EOF {
				return nil, &Broken{rec.at, "the file ends inside a record"}
			} else if err != nil {
				return nil, err
			}
			r.value = append(r.value, b[:min(int64(len(b)), n-int64(len(r.value)))]...)
		}
		b = r.value
	}
	return untilNUL(b), nil
}

// jump follows a pointer record, as rec_goto of src/global/record.c does.
func (r *Reader) jump(rec record) error {
	b, err := r.data(rec)
	if err != nil {
		return err
	}
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	var to int64
	for _, c := range b {
		if c < '0' || c > '9' || to > 1<<58 {
			return &Broken{rec.at, "a pointer record that is no number"}
		}
		to = to*10 + int64(c-'0')
	}
	if to == 0 { // a dummy, left for a milter's edits
		return nil
	}
	if to <= r.target {
		if r.reverse++; r.reverse > reverseJumps {
			return &Broken{rec.at, "too many pointer records that jump back"}
		}
	}
	r.pos, r.target = to, to
	return nil
}

// set is a set of record types.
func set(kinds string) *[256]bool {
	var s [256]bool
	for _, c := range []byte(kinds) {
		s[c] = true
	}
	return &s
}

// isSpace is isspace(3) in the C locale.
func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// number reads the decimal number at the beginning of b, as atol(3) does, and
// returns what follows it. ok is false if there is none.
func number(b []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	neg := false
	if i < len(b) && (b[i] == '-' || b[i] == '+') {
		neg = b[i] == '-'
		i++
	}
	begin := i
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		if n < 1<<58 { // more is no size and no time; it stays out of range
			n = n*10 + int64(b[i]-'0')
		}
	}
	if neg {
		n = -n
	}
	return n, b[i:], i > begin
}

// The first and the last second that a T record is read as: what has a year of four
// digits wherever it is shown, as JSON wants it.
const (
	firstArrival = -62135510400 // 0001-01-02
	lastArrival  = 253402128000 // 9999-12-30
)

// arrival reads the data of a T record: seconds, and microseconds in all but the
// oldest files.
func arrival(b []byte) time.Time {
	sec, rest, ok := number(b)
	if !ok || sec == 0 {
		return time.Time{}
	}
	usec, _, _ := number(rest)
	return time.Unix(min(max(sec, firstArrival), lastArrival), usec%1_000_000*1000)
}
