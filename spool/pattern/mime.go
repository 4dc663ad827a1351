package pattern

import (
	"bytes"
	"encoding/base64"
	"strings"
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
	// maxPiece is the longest line that is looked at as a whole; what is longer
	// is decoded piece by piece and is no boundary.
	maxPiece = 16 << 10
)

// state is what the next line of a message is.
type state byte

const (
	inHeader   state = iota
	inLoose          // a header with a line in it that is none: text and header at once
	inPreamble       // of a multipart: before its first boundary
	inPlain
	inQuoted
	inBase64
	inAttached // an encoded message: decoded, and read by a decoder of its own
	inSkipped  // a part that is no text
)

// mimeText finds the text of a message line by line: the leaf parts that are
// text, decoded; attached messages and returned ones, their headers as text; the
// preambles and epilogues of multiparts, where text of broken mail hides. It
// takes every input for mail and reads on whatever it meets: missing and wrong
// boundaries, bad header lines, bad base64. The zero value is not ready: reset.
type mimeText struct {
	out    *lines
	depth  int    // of decoders in one another
	capped string // which cap was reached first

	state   state
	shown   bool // the header is an attached message's, and so text
	parts   int
	decoded int

	bounds []boundary // of the multiparts around, the innermost last
	maybe  []byte     // a line of the preamble that may be the real boundary

	field    *[]byte // the header field that goes on with the next folded line
	ctype    []byte
	encoding []byte

	line []byte // the pieces of a line so far
	long bool   // its beginning was passed on already
	// returned says that the last byte was a carriage return: the end of the line
	// that may follow is the same.
	returned bool

	quantum uint32 // base64 digits not decoded yet, and how many
	digits  int

	inner  *mimeText // of an attached message that is encoded
	quoted bool      // its encoding
	buffer []byte    // its decoded bytes
}

// boundary separates the parts of one multipart.
type boundary struct {
	text   []byte // without the leading hyphens; empty where the header has none
	seen   bool
	digest bool // parts are messages unless they say otherwise
}

func (m *mimeText) reset(out *lines, depth int) {
	m.out, m.depth = out, depth
	m.capped, m.parts, m.decoded = "", 0, 0
	m.bounds, m.line, m.maybe = m.bounds[:0], m.line[:0], m.maybe[:0]
	m.long, m.returned = false, false
	m.beginHeader(depth > 0)
}

func (m *mimeText) beginHeader(shown bool) {
	m.state, m.shown, m.field = inHeader, shown, nil
	m.ctype, m.encoding = m.ctype[:0], m.encoding[:0]
	m.quantum, m.digits = 0, 0
}

// cap notes that a cap was reached.
func (m *mimeText) cap(which string) {
	if m.capped == "" {
		m.capped = which
	}
}

// piece takes the next piece of the message; eol says that a line ends with it.
func (m *mimeText) piece(b []byte, eol bool) {
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
	m.out.grown()
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
		if m.state == inQuoted || m.state == inAttached && m.quoted {
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
	m.endPart()
}

// endPart finishes what a part has left undecoded.
func (m *mimeText) endPart() {
	switch m.state {
	case inBase64:
		m.out.text = m.flushBase64(m.out.text)
	case inAttached:
		m.buffer = m.flushBase64(m.buffer[:0])
		m.feedInner()
		m.inner.end()
		m.decoded += m.inner.decoded
		if m.inner.capped != "" {
			m.cap(m.inner.capped)
		}
	}
	m.emit(newline)
}

// emit appends to the text.
func (m *mimeText) emit(b []byte) {
	m.out.text = append(m.out.text, b...)
	m.decoded += len(b)
}

func (m *mimeText) emitLine(b []byte) {
	m.out.text = append(append(m.out.text, b...), '\n')
	m.decoded += len(b) + 1
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
	b = bytes.TrimRight(b[2:], " \t\r")
	for i := len(m.bounds) - 1; i >= 0; i-- {
		text := m.bounds[i].text
		if len(text) == 0 || !bytes.HasPrefix(b, text) {
			continue
		}
		rest := string(b[len(text):])
		if rest != "" && rest != "--" {
			continue
		}
		m.endPart()
		m.bounds = m.bounds[:i+1]
		m.bounds[i].seen = true
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
		at.seen = true
		m.maybe = m.maybe[:0]
		m.beginHeader(false)
		m.headerLine(b)
		return
	}
	m.maybe = m.maybe[:0]
	if t := bytes.TrimRight(b, " \t\r"); len(t) > 2 && len(t) < maxBoundary && t[0] == '-' && t[1] == '-' {
		m.maybe = append(m.maybe, t[2:]...)
	}
	m.emitLine(b)
}

// headerLine takes a line of a header. The header ends as in Postfix: with the
// first line that is neither a field nor folded. If that is not the empty line,
// the mail is broken, and where nothing is known of the encoding yet, fields may
// follow still.
func (m *mimeText) headerLine(b []byte) {
	b = bytes.TrimRight(b, "\r")
	if len(bytes.TrimLeft(b, " \t")) == 0 {
		m.endHeader()
		return
	}
	if m.shown || m.state == inLoose {
		m.emitLine(b)
	}
	if b[0] == ' ' || b[0] == '\t' {
		if m.field != nil && len(*m.field)+len(b) < maxField {
			*m.field = append(*m.field, b...)
		}
		return
	}
	name, value, ok := splitField(b)
	if !ok {
		if m.state == inLoose {
			return
		}
		if bytes.HasPrefix(b, []byte("From ")) || bytes.HasPrefix(b, []byte(">From ")) {
			if !m.shown {
				m.emitLine(b) // a mailbox's separator, but who knows
			}
			return
		}
		if len(m.encoding) > 0 || len(m.ctype) == 0 && m.depth == 0 && len(m.bounds) == 0 && !m.shown {
			// The body begins without an empty line in front of it.
			m.endHeader()
			m.whole(b)
			return
		}
		if !m.shown {
			m.emitLine(b)
		}
		m.state = inLoose
		return
	}
	m.field = nil
	switch {
	case equalFold(name, "content-type") && len(m.ctype) == 0:
		m.field = &m.ctype
	case equalFold(name, "content-transfer-encoding") && len(m.encoding) == 0:
		m.field = &m.encoding
	}
	if m.field != nil && len(value) < maxField {
		*m.field = append(*m.field, value...)
	}
}

// endHeader decides what the body is.
func (m *mimeText) endHeader() {
	m.maybe = m.maybe[:0]
	if m.parts++; m.parts > maxParts {
		m.cap("parts")
		m.state = inPlain
		return
	}
	kind, sub := mediaType(m.ctype)
	if kind == "" {
		kind, sub = "text", "plain"
		if n := len(m.bounds); n > 0 && m.bounds[n-1].digest && len(m.ctype) == 0 {
			kind, sub = "message", "rfc822"
		}
	}
	quoted, base64 := containsFold(m.encoding, "quoted-printable"), containsFold(m.encoding, "base64")
	switch {
	case kind == "multipart":
		if len(m.bounds) >= maxDepth {
			m.cap("depth")
			m.state = inPlain
			return
		}
		m.push(sub == "digest")
		m.state = inPreamble
		return
	case kind == "message" && (sub == "rfc822" || sub == "global" || sub == "news"):
		if !quoted && !base64 {
			m.beginHeader(true)
			return
		}
		if m.depth < maxDepth {
			if m.inner == nil {
				m.inner = &mimeText{}
			}
			m.inner.reset(m.out, m.depth+1)
			m.quoted, m.state = quoted, inAttached
			return
		}
		m.cap("depth")
	case kind != "text" && kind != "message" && !(kind == "application" && sub == "xhtml+xml"):
		m.state = inSkipped
		return
	}
	switch {
	case quoted:
		m.state = inQuoted
	case base64:
		m.state = inBase64
	default:
		m.state = inPlain
	}
}

// push begins a multipart with the boundary of its header.
func (m *mimeText) push(digest bool) {
	n := len(m.bounds)
	if n < cap(m.bounds) {
		m.bounds = m.bounds[:n+1] // with the buffer that an earlier one left
	} else {
		m.bounds = append(m.bounds, boundary{})
	}
	b := &m.bounds[n]
	b.text = appendParameter(b.text[:0], m.ctype, "boundary")
	b.text = bytes.TrimRight(b.text, " \t\r")
	if len(b.text) > maxBoundary {
		b.text = b.text[:0]
	}
	b.seen, b.digest = false, digest
}

// part takes a line, or a piece of a long one, of a body.
func (m *mimeText) part(b []byte, eol bool) {
	switch m.state {
	case inSkipped:
		return
	case inQuoted:
		n := len(m.out.text)
		m.out.text = appendQuoted(m.out.text, b, eol)
		m.decoded += len(m.out.text) - n
	case inBase64:
		n := len(m.out.text)
		m.out.text = m.appendBase64(m.out.text, b)
		m.decoded += len(m.out.text) - n
	case inAttached:
		if m.quoted {
			m.buffer = appendQuoted(m.buffer[:0], b, eol)
		} else {
			m.buffer = m.appendBase64(m.buffer[:0], b)
		}
		m.feedInner()
	default: // also a header or preamble with a line that is much too long
		m.emit(b)
		if eol {
			m.emit(newline)
		}
	}
}

// feedInner gives the decoded bytes of an attached message to its decoder.
func (m *mimeText) feedInner() {
	b := m.buffer
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

// appendQuoted decodes one line of quoted-printable; what is no code stays.
func appendQuoted(dst, b []byte, eol bool) []byte {
	if eol {
		b = bytes.TrimRight(b, " \t\r")
		if n := len(b); n > 0 && b[n-1] == '=' {
			b, eol = b[:n-1], false
		}
	}
	for {
		i := bytes.IndexByte(b, '=')
		if i < 0 {
			break
		}
		dst = append(dst, b[:i]...)
		b = b[i+1:]
		if len(b) >= 2 && hexDigit[b[0]] < 16 && hexDigit[b[1]] < 16 {
			dst = append(dst, hexDigit[b[0]]<<4|hexDigit[b[1]])
			b = b[2:]
		} else {
			dst = append(dst, '=')
		}
	}
	dst = append(dst, b...)
	if eol {
		dst = append(dst, '\n')
	}
	return dst
}

// appendBase64 decodes a piece of base64, dropping bytes that are none. Padding
// ends one stream, and another may begin.
func (m *mimeText) appendBase64(dst, b []byte) []byte {
	if m.digits == 0 && len(b)%4 == 0 && len(b) > 0 { // nearly always
		n := len(dst)
		dst = append(dst, b...) // room for what is shorter
		if k, err := base64.StdEncoding.Decode(dst[n:], b); err == nil {
			return dst[:n+k]
		}
		dst = dst[:n]
	}
	for _, c := range b {
		v := digit64[c]
		if v < 64 {
			m.quantum = m.quantum<<6 | uint32(v)
			if m.digits++; m.digits == 4 {
				dst = append(dst, byte(m.quantum>>16), byte(m.quantum>>8), byte(m.quantum))
				m.quantum, m.digits = 0, 0
			}
		} else if c == '=' {
			dst = m.flushBase64(dst)
		}
	}
	return dst
}

// flushBase64 decodes the digits left over at an end.
func (m *mimeText) flushBase64(dst []byte) []byte {
	switch m.digits {
	case 2:
		dst = append(dst, byte(m.quantum>>4))
	case 3:
		dst = append(dst, byte(m.quantum>>10), byte(m.quantum>>2))
	}
	m.quantum, m.digits = 0, 0
	return dst
}

var digit64, hexDigit = func() (d, h [256]byte) {
	for i := range d {
		d[i], h[i] = 0xff, 0xff
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		d[c] = byte(i)
	}
	for i, c := range []byte("0123456789abcdef") {
		h[c] = byte(i)
		h[strings.ToUpper(string(c))[0]] = byte(i)
	}
	return d, h
}()

// splitField splits a header line at its colon, as is_header of
// src/global/is_header.c does: a name of printable characters, perhaps blanks.
func splitField(b []byte) (name, value []byte, ok bool) {
	i := bytes.IndexByte(b, ':')
	if i <= 0 {
		return nil, nil, false
	}
	name = bytes.TrimRight(b[:i], " \t")
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return nil, nil, false
		}
	}
	return name, b[i+1:], len(name) > 0
}

func isContentField(b []byte) bool {
	name, _, ok := splitField(b)
	return ok && len(name) > 8 && equalFold(name[:8], "content-")
}

// mediaType reads the two names at the beginning of a Content-Type field; both
// are empty if it has none that make sense.
func mediaType(b []byte) (kind, sub string) {
	if i := bytes.IndexByte(b, ';'); i >= 0 {
		b = b[:i]
	}
	k, s, ok := bytes.Cut(bytes.TrimSpace(b), []byte{'/'})
	if i := bytes.IndexAny(s, " \t("); i >= 0 {
		s = s[:i]
	}
	k = bytes.TrimSpace(k)
	if !ok || len(k) == 0 || len(s) == 0 {
		return "", ""
	}
	return known(k, "text", "multipart", "message", "application"), known(s, "plain", "rfc822", "global", "news", "digest", "xhtml+xml")
}

// known is the name that b is, without a copy of it, or "other".
func known(b []byte, names ...string) string {
	for _, n := range names {
		if equalFold(b, n) {
			return n
		}
	}
	return "other"
}

// appendParameter appends the value of a parameter of a header field.
func appendParameter(dst, b []byte, name string) []byte {
	for {
		i := bytes.IndexByte(b, ';')
		if i < 0 {
			return dst
		}
		b = bytes.TrimLeft(b[i+1:], " \t\r\n;")
		eq := bytes.IndexByte(b, '=')
		if eq < 0 {
			return dst
		}
		if semi := bytes.IndexByte(b, ';'); semi >= 0 && semi < eq {
			continue
		}
		is := equalFold(bytes.TrimRight(b[:eq], " \t"), name)
		b = bytes.TrimLeft(b[eq+1:], " \t\r\n")
		if len(b) > 0 && b[0] == '"' {
			for b = b[1:]; len(b) > 0 && b[0] != '"'; b = b[1:] {
				if b[0] == '\\' && len(b) > 1 {
					b = b[1:]
				}
				if is {
					dst = append(dst, b[0])
				}
			}
		} else if is {
			end := bytes.IndexByte(b, ';')
			if end < 0 {
				end = len(b)
			}
			dst = append(dst, b[:end]...)
		}
		if is {
			return dst
		}
	}
}

// equalFold compares with an ASCII name in lower case.
func equalFold(b []byte, name string) bool {
	if len(b) != len(name) {
		return false
	}
	for i, c := range b {
		if c >= 0x80 || lower[c] != name[i] {
			return false
		}
	}
	return true
}

func containsFold(b []byte, name string) bool {
	for i := 0; i+len(name) <= len(b); i++ {
		if equalFold(b[i:i+len(name)], name) {
			return true
		}
	}
	return false
}
