package pattern

import (
	"bytes"
	"unicode/utf8"
)

// Caps on what is decoded of one message. What lies beyond is not lost: beyond
// maxDepth and maxParts the text is searched as it stands, not decoded; behind
// maxDecoded the message is searched no further. A message that reached one says
// so in Finding.Capped.
const (
	maxDepth   = 30       // multiparts in one another, and encoded messages
	maxParts   = 1000     // parts of one message
	maxDecoded = 64 << 20 // bytes of text
	// maxField bounds a header field of interest, and maxBoundary what separates
	// parts (RFC 2046: 70 characters).
	maxField    = 8 << 10
	maxBoundary = 512
	// maxHeaderLine bounds an unfolded header field. A longer one goes on in a line
	// with the same name.
	maxHeaderLine = 32 << 10
	// maxPiece is the longest line that is looked at as a whole; what is longer
	// is decoded piece by piece and is no boundary.
	maxPiece = 16 << 10
	// blockSize is how much of a part is converted at once: its charset, its HTML.
	blockSize = 32 << 10
)

// state is what the next line of a message is.
type state byte

const (
	inHeader   state = iota
	inLoose          // a header with a line in it that is none: text and header at once
	inFields         // a body of fields: a delivery status
	inPreamble       // of a multipart: before its first boundary
	inPlain
	inQuoted
	inBase64
	inAttached // an encoded message: decoded, and read by a decoder of its own
	inSkipped  // a part that is no text
	inNothing  // the rest, when nobody wants the body
)

// mimeText finds the text of a message line by line, in UTF-8.
//
// To the head go the fields of the message's own header, one line each: Name, a
// colon, a blank, the value unfolded and decoded; and header lines that are no
// fields. To the body go the leaf parts that are text, decoded, and of HTML what
// [htmlText] says; of attached messages and returned ones also the header, as
// above; the preambles and epilogues of multiparts, where text of broken mail
// hides; and a line for each part that is no text or has a file name:
//
//	attachment: invoice.pdf, application/pdf, 12345 bytes
//
// It takes every input for mail and reads on whatever it meets: missing and wrong
// boundaries, bad header lines, bad base64. The zero value is not ready: reset.
type mimeText struct {
	head, body *lines // nil: nobody wants it
	depth      int    // of decoders in one another
	capped     string // which cap was reached first

	state   state
	top     bool // the header is the message's own
	shown   bool // the header is an attached message's, and so text
	only    bool // nothing but a header was returned
	parts   int
	decoded int

	bounds []boundary // of the multiparts around, the innermost last
	maybe  []byte     // a line of the preamble that may be the real boundary

	field       *[]byte // the header field that goes on with the next folded line
	ctype       []byte
	encoding    []byte
	disposition []byte
	types       mediaTypes
	is          *mediaType // what ctype says
	coding      coding     // of the part, once its header has ended
	fields      int        // header lines so far

	// The field whose line is not finished: where in which text it begins, and how
	// long its name is.
	shownIn   *lines
	shownFrom int
	shownName int
	cut       bool // the last piece did not end its line
	words     words

	line []byte // the pieces of a line so far
	long bool   // its beginning was passed on already
	// returned says that the last byte was a carriage return: the end of the line
	// that may follow is the same.
	returned bool

	// The text of a part. Where it needs no conversion, which is seen only when
	// there is a block of it, it lies in the body from the byte from on.
	plain   bool
	html    bool
	guess   bool // HTML may name its charset
	from    int
	raw     []byte // else it is gathered here
	encoded []byte // and base64 before that
	digits  digits
	charset converter
	utf8    []byte
	page    htmlText
	scratch []byte

	name []byte // of an attachment
	kind []byte
	size int

	inner *mimeText // of an attached message that is encoded
}

// coding is how a part is encoded for its way.
type coding byte

const (
	notCoded coding = iota
	codedQuoted
	codedBase64
)

// codingOf reads a Content-Transfer-Encoding field, whatever stands around the
// word.
func codingOf(b []byte) coding {
	switch {
	case len(b) == 0:
	case containsFold(b, "quoted-printable"):
		return codedQuoted
	case containsFold(b, "base64"):
		return codedBase64
	}
	return notCoded
}

// boundary separates the parts of one multipart.
type boundary struct {
	text   []byte // without the leading hyphens; empty where the header has none
	digest bool   // parts are messages unless they say otherwise
}

// reset makes m ready for a message whose text goes to head and body. Where body
// is nil, it stops working at the end of the header.
func (m *mimeText) reset(head, body *lines, depth int) {
	m.head, m.body, m.depth = head, body, depth
	m.capped, m.parts, m.decoded = "", 0, 0
	m.bounds, m.line, m.maybe = m.bounds[:0], m.line[:0], m.maybe[:0]
	m.long, m.returned = false, false
	m.shownIn = nil
	m.begin()
	m.beginHeader(depth > 0)
	m.top = depth == 0
}

// begin notes that the body's text up to here is done with.
func (m *mimeText) begin() {
	if m.body != nil {
		m.from = len(m.body.text)
	}
}

func (m *mimeText) beginHeader(shown bool) {
	m.state, m.shown, m.top, m.only, m.cut = inHeader, shown, false, false, false
	m.field, m.fields = nil, 0
	m.ctype, m.encoding, m.disposition = m.ctype[:0], m.encoding[:0], m.disposition[:0]
	m.digits, m.encoded, m.raw, m.utf8 = digits{}, m.encoded[:0], m.raw[:0], m.utf8[:0]
	m.plain, m.html, m.kind, m.size, m.coding = true, false, m.kind[:0], 0, notCoded
}

// cap notes that a cap was reached.
func (m *mimeText) cap(which string) {
	if m.capped == "" {
		m.capped = which
	}
}

// piece takes the next piece of the message; eol says that a line ends with it.
func (m *mimeText) piece(b []byte, eol bool) {
	if m.state == inNothing {
		return
	}
	if m.decoded > maxDecoded {
		m.cap("size")
		return
	}
	// A carriage return ends a line too: decoded text has one in front of each
	// newline, and Postfix kept stray ones until 3.8.5.
	for {
		i := bytes.IndexByte(b, '\r')
		if i < 0 {
			break
		}
		m.gather(b[:i], true)
		b, m.returned = b[i+1:], true
	}
	if !m.returned || len(b) > 0 {
		m.gather(b, eol)
	}
	m.returned = m.returned && len(b) == 0 && !eol
	m.converted()
}

// converted converts what was gathered, once there is a block of it.
func (m *mimeText) converted() {
	if m.body == nil || m.state == inAttached {
		return
	}
	if len(m.encoded) >= blockSize {
		m.decodeBase64()
	}
	if m.shownIn == nil && (len(m.body.text)-m.from >= blockSize || len(m.raw) >= blockSize) {
		m.convert(false)
	}
}

// gather puts the pieces of a line together, and passes a long one on in pieces.
func (m *mimeText) gather(b []byte, eol bool) {
	if eol && len(m.line) == 0 && !m.long {
		m.whole(b)
		return
	}
	for len(m.line)+len(b) > maxPiece {
		n := maxPiece - len(m.line)
		m.line, b = append(m.line, b[:n]...), b[n:]
		pass := len(m.line)
		if m.coding == codedQuoted && m.state != inHeader && m.state != inLoose {
			if i := bytes.LastIndexByte(m.line[pass-2:], '='); i >= 0 {
				pass += i - 2 // a code is not cut
			}
		}
		m.part(m.line[:pass], false)
		m.line = append(m.line[:0], m.line[pass:]...)
		m.long = true
	}
	m.line = append(m.line, b...)
	if !eol {
		return
	}
	if m.long {
		m.part(m.line, true)
	} else {
		m.whole(m.line)
	}
	m.line, m.long = m.line[:0], false
}

// end takes the end of the message.
func (m *mimeText) end() {
	if len(m.line) > 0 || m.long {
		m.piece(nil, true)
	}
	m.endPart(false)
}

// endPart finishes what a part has left undecoded. The line end in front of a
// boundary belongs to that, not to the part.
func (m *mimeText) endPart(atBoundary bool) {
	m.endField()
	if m.body == nil {
		return
	}
	switch m.state {
	case inBase64:
		m.decodeBase64()
		m.scratch = m.digits.flush(m.scratch[:0])
		m.emit(m.scratch)
	case inAttached:
		m.feed(m.digits.flush(m.scratch[:0]))
		m.inner.end()
		m.decoded, m.parts = m.inner.decoded, m.inner.parts
		if m.inner.capped != "" {
			m.cap(m.inner.capped)
		}
		m.begin()
	case inSkipped:
		if m.coding == codedBase64 {
			m.size = m.size * 6 / 8 // of the digits
		}
	}
	m.convert(true)
	if len(m.kind) > 0 {
		if atBoundary && m.size > 0 && m.coding != codedBase64 {
			m.size--
		}
		m.emitAttachment()
	}
	m.emit(newline)
}

// emit appends to the text of the part.
func (m *mimeText) emit(b []byte) {
	switch {
	case m.body == nil:
	case m.plain:
		m.body.text = append(m.body.text, b...)
	default:
		m.raw = append(m.raw, b...)
	}
}

func (m *mimeText) emitLine(b []byte) {
	m.emit(b)
	m.emit(newline)
}

// decodeBase64 decodes what was gathered.
func (m *mimeText) decodeBase64() {
	if m.plain {
		m.body.text = m.digits.append(m.body.text, m.encoded)
	} else {
		m.raw = m.digits.append(m.raw, m.encoded)
	}
	m.encoded = m.encoded[:0]
}

// convert turns what was gathered of a part into UTF-8, and HTML into text, and
// passes it on. What ends inside a character stays, unless it is the last.
func (m *mimeText) convert(last bool) {
	if m.plain {
		text := m.body.text[m.from:]
		m.size += len(text)
		m.scratch = m.scratch[:0]
		used := 0
		if !utf8.Valid(text) {
			m.scratch = append(m.scratch, text...)
			m.body.text, used = appendUTF8(m.body.text[:m.from], m.scratch, last)
		}
		m.decoded += len(m.body.text) - m.from
		m.body.grown()
		m.begin()
		rest := m.scratch[used:] // empty where nothing was wrong
		m.size -= len(rest)
		m.body.text = append(m.body.text, rest...)
		return
	}
	if m.guess {
		m.guess = false
		if set := metaCharset(m.raw[:min(len(m.raw), maxGuess)]); set != nil {
			m.charset.reset(set)
		}
	}
	n, used := len(m.body.text), 0
	m.size += len(m.raw)
	if !m.html {
		m.body.text, used = m.charset.append(m.body.text, m.raw, last)
	} else if len(m.utf8) == 0 && m.charset.set == nil && utf8.Valid(m.raw) {
		m.body.text, used = m.page.append(m.body.text, m.raw, last)
	} else {
		m.utf8, used = m.charset.append(m.utf8, m.raw, last)
		var seen int
		m.body.text, seen = m.page.append(m.body.text, m.utf8, last)
		m.utf8 = m.utf8[:copy(m.utf8, m.utf8[seen:])]
	}
	m.raw = m.raw[:copy(m.raw, m.raw[used:])]
	m.size -= len(m.raw)
	m.decoded += len(m.body.text) - n
	m.plain = last
	m.body.grown()
	m.begin()
}

// whole takes one whole line.
func (m *mimeText) whole(b []byte) {
	if len(b) > 2 && b[0] == '-' && b[1] == '-' && len(m.bounds) > 0 && m.separates(b) {
		return
	}
	switch m.state {
	case inHeader, inLoose:
		m.headerLine(b)
	case inPreamble:
		m.preambleLine(b)
	default:
		m.part(b, true)
	}
}

// separates takes a line that is a boundary of any multipart around: an inner one
// that was never closed ends with the outer one's part.
func (m *mimeText) separates(b []byte) bool {
	b = trimRight(b[2:])
	for i := len(m.bounds) - 1; i >= 0; i-- {
		text := m.bounds[i].text
		if len(text) == 0 || !bytes.HasPrefix(b, text) {
			continue
		}
		rest := string(b[len(text):])
		if rest != "" && rest != "--" {
			continue
		}
		m.endPart(true)
		m.bounds = m.bounds[:i+1]
		m.beginHeader(false)
		if rest == "--" {
			// The multipart stays: some mail goes on behind its end.
			m.state = inPlain
		}
		return true
	}
	return false
}

// preambleLine takes a line in front of a multipart's first part. Where the
// boundary is not what the header says, or the header says none, a line with two
// hyphens is taken for it if a content field follows.
func (m *mimeText) preambleLine(b []byte) {
	if len(m.maybe) > 0 && isContentField(b) {
		at := &m.bounds[len(m.bounds)-1]
		at.text = append(at.text[:0], m.maybe...)
		m.maybe = m.maybe[:0]
		m.beginHeader(false)
		m.headerLine(b)
		return
	}
	m.maybe = m.maybe[:0]
	if t := trimRight(b); len(t) > 2 && len(t) < maxBoundary && t[0] == '-' && t[1] == '-' {
		m.maybe = append(m.maybe, t[2:]...)
	}
	m.emitLine(b)
}

// part takes a line, or a piece of a long one, of a body.
func (m *mimeText) part(b []byte, eol bool) {
	switch m.state {
	case inHeader, inLoose, inFields:
		m.headerPiece(b, eol)
	case inNothing:
	case inSkipped:
		switch m.coding {
		case codedBase64:
			m.size += countDigits(b)
		case codedQuoted:
			m.size += quotedSize(b, eol)
		default:
			m.size += len(b)
			if eol {
				m.size++
			}
		}
	case inQuoted:
		if m.plain {
			m.body.text = appendQuoted(m.body.text, b, eol)
		} else {
			m.raw = appendQuoted(m.raw, b, eol)
		}
	case inBase64:
		m.encoded = append(m.encoded, b...)
	case inAttached:
		if m.coding == codedQuoted {
			m.feed(appendQuoted(m.scratch[:0], b, eol))
		} else {
			m.feed(m.digits.append(m.scratch[:0], b))
		}
	default: // also a preamble with a line that is much too long
		to := &m.raw
		if m.plain {
			to = &m.body.text
		}
		*to = append(*to, b...)
		if eol {
			*to = append(*to, '\n')
		}
	}
}

// feed gives decoded bytes of an attached message to its decoder.
func (m *mimeText) feed(b []byte) {
	m.scratch = b[:0]
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			m.inner.piece(b, false)
			return
		}
		m.inner.piece(b[:i], true)
		b = b[i+1:]
	}
}
