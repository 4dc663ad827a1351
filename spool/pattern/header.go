package pattern

import (
	"bytes"
	"strconv"
)

// headerLine takes a line of a header. The header ends as in Postfix: with the
// first line that is neither a field nor folded. If that is not the empty line,
// the mail is broken, and where nothing is known of the encoding yet, fields may
// follow still.
func (m *mimeText) headerLine(b []byte) {
	blank := b[blanks(b):]
	if len(blank) == 0 {
		if m.state != inFields {
			m.endHeader()
			return
		}
		m.endField()
		m.emit(newline)
		return
	}
	if m.top && m.state == inLoose {
		m.emitLine(b) // text too
	}
	if len(blank) < len(b) {
		if m.fields > 0 {
			m.foldedField(b)
			m.goOn(' ', blank)
			return
		}
		b = blank // folded, and nothing to go on with
	}
	m.fields++
	name, value, ok := splitField(b)
	if !ok {
		m.noField(b)
		return
	}
	m.endField()
	m.beginField(name, value)
	m.noteField(name, value)
}

// noteField keeps the value of a field that tells how a part is to be read.
func (m *mimeText) noteField(name, value []byte) {
	m.field = nil
	if fold[name[0]] != 'c' || m.state == inFields {
		return
	}
	switch {
	case equalFold(name, "content-type") && len(m.ctype) == 0:
		m.field = &m.ctype
	case equalFold(name, "content-transfer-encoding") && len(m.encoding) == 0:
		m.field = &m.encoding
	case equalFold(name, "content-disposition") && len(m.disposition) == 0:
		m.field = &m.disposition
	}
	if m.field != nil && len(value) < maxField {
		*m.field = append(*m.field, value...)
	}
}

// foldedField adds a line to the field of interest that it goes on with, if any.
func (m *mimeText) foldedField(line []byte) {
	if m.field != nil && len(*m.field)+len(line) < maxField {
		*m.field = append(*m.field, line...)
	}
}

// noField takes a header line that is no field.
func (m *mimeText) noField(b []byte) {
	m.endField()
	m.field = nil
	switch {
	case m.state == inLoose || m.state == inFields:
		m.beginField(nil, b)
	case bytes.HasPrefix(b, []byte("From ")) || bytes.HasPrefix(b, []byte(">From ")):
		// A mailbox's separator, but who knows.
		m.beginField(nil, b)
		if !m.shown {
			m.emitLine(b)
		}
	case len(m.encoding) > 0 || len(m.ctype) == 0 && m.depth == 0 && len(m.bounds) == 0 && !m.shown:
		// The body begins without an empty line in front of it.
		m.endHeader()
		m.whole(b)
	default:
		if m.top {
			m.emitLine(b)
		}
		m.state = inLoose
		m.beginField(nil, b)
	}
}

// headerPiece takes a piece of a header line that is much too long, or a line of
// a body that consists of fields.
func (m *mimeText) headerPiece(b []byte, eol bool) {
	if m.cut {
		m.goOn(0, b)
	} else {
		m.headerLine(b)
	}
	m.cut = !eol && (m.state == inHeader || m.state == inLoose || m.state == inFields)
}

// beginField begins the line of a field, or of what has no name, in the text that
// it belongs to.
func (m *mimeText) beginField(name, value []byte) {
	to := m.body
	switch {
	case m.top:
		to = m.head
		if len(name) > 0 && !to.wants(name) {
			to = nil
		}
	case !m.shown && m.state == inHeader:
		to = nil // of a part: nobody reads it
	}
	if to == nil {
		return
	}
	m.shownIn, m.shownFrom, m.shownName = to, len(to.text), len(name)
	if len(name) > 0 {
		to.text = append(append(to.text, name...), ": "...)
		value = value[blanks(value):]
	}
	to.text = append(to.text, value...)
}

// goOn adds to the line of the field, behind a blank or, where that is 0, nothing.
func (m *mimeText) goOn(blank byte, b []byte) {
	to := m.shownIn
	if to == nil {
		return
	}
	if begun := to.text[m.shownFrom:]; len(begun)+len(b) > maxHeaderLine {
		m.name = append(m.name[:0], begun[:m.shownName]...)
		m.endField()
		m.beginField(m.name, nil)
	}
	if n := len(to.text); blank != 0 && (n == m.shownFrom || to.text[n-1] != ' ') {
		to.text = append(to.text, blank)
	}
	to.text = append(to.text, b...)
}

// endField finishes the line of the field: only now are its encoded words whole.
func (m *mimeText) endField() {
	to := m.shownIn
	if to == nil {
		return
	}
	m.shownIn = nil
	line := to.text[m.shownFrom:]
	if bytes.Contains(line, []byte("=?")) || !isASCII(line) {
		m.scratch = append(m.scratch[:0], line...)
		to.text = m.words.append(to.text[:m.shownFrom], m.scratch)
	}
	to.text = append(trimBlanks(to.text), '\n')
	if to == m.head {
		to.grown()
	}
}

// endHeader decides what the body is.
func (m *mimeText) endHeader() {
	m.endField()
	m.top = false
	m.maybe = m.maybe[:0]
	if m.body == nil {
		m.state = inNothing
		return
	}
	if m.only {
		m.only, m.state = false, inPlain
		return
	}
	if m.parts++; m.parts > maxParts {
		m.cap("parts")
		m.state = inPlain
		return
	}
	m.coding = codingOf(m.encoding)
	m.is = m.types.of(m.ctype)
	kind, sub := m.is.kind, m.is.sub
	if kind == none {
		kind, sub = "text", "plain"
		if n := len(m.bounds); n > 0 && m.bounds[n-1].digest && len(m.ctype) == 0 {
			kind, sub = "message", "rfc822"
		}
	}
	switch {
	case kind == "multipart":
		if len(m.bounds) >= maxDepth {
			m.cap("depth")
			m.state = inPlain
			return
		}
		m.push(sub == "digest")
		m.state = inPreamble
	case kind == "message" && (sub == "rfc822" || sub == "global" || sub == "news"):
		m.attached(inHeader, false)
	case kind == "text" && sub == "rfc822-headers", kind == "message" && sub == "global-headers":
		m.attached(inHeader, true)
	case kind == "message" && sub != "other":
		m.attached(inFields, false)
	case kind == "text", kind == "message", sub == "xhtml+xml":
		m.beginText(sub == "html" || sub == "xhtml+xml")
	default:
		m.convert(true) // what a loose header left
		m.size, m.state = 0, inSkipped
		m.beginAttachment()
	}
}

// beginText begins a part that is text.
func (m *mimeText) beginText(html bool) {
	m.convert(true) // what a loose header left
	m.size = 0
	m.state = [...]state{notCoded: inPlain, codedQuoted: inQuoted, codedBase64: inBase64}[m.coding]
	set, named := m.is.set, m.is.named
	m.plain, m.html, m.guess = set == nil && !html, html, html && !named
	if !m.plain {
		m.charset.reset(set)
		m.page.reset()
	}
	if len(m.disposition) > 0 || m.is.file {
		if m.beginAttachment(); len(m.name) == 0 {
			m.kind = m.kind[:0]
		}
	}
}

// attached begins a message, or fields, that are part of this one. Encoded, it
// gets a decoder of its own.
func (m *mimeText) attached(as state, only bool) {
	if m.coding == notCoded {
		m.beginHeader(true)
		m.state, m.only = as, only
		return
	}
	if m.depth >= maxDepth {
		m.cap("depth")
		m.beginText(false)
		return
	}
	m.convert(true)
	if m.inner == nil {
		m.inner = &mimeText{}
	}
	m.inner.reset(nil, m.body, m.depth+1)
	m.inner.state, m.inner.only = as, only
	m.inner.decoded, m.inner.parts = m.decoded, m.parts
	m.state = inAttached
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
	var ok bool
	if b.text, ok = appendParameter(b.text[:0], m.ctype, "boundary"); !ok {
		b.text = m.words.appendDecoded(b.text, m.ctype, "boundary")
	}
	b.text = trimBlanks(b.text)
	if len(b.text) > maxBoundary {
		b.text = b.text[:0]
	}
	b.digest = digest
}

// Of an attachment's name and type: longer ones are cut.
const (
	maxFileName = 1024
	maxKind     = 128
)

// beginAttachment notes what the part's line will say: the name of its file, if
// any, and its type.
func (m *mimeText) beginAttachment() {
	m.name = m.words.appendDecoded(m.name[:0], m.disposition, "filename")
	if len(m.name) == 0 {
		m.name = m.words.appendDecoded(m.name, m.ctype, "name")
	}
	m.name = m.name[:min(len(m.name), maxFileName)]
	kind := mediaName(m.ctype)
	m.kind = append(m.kind[:0], kind[:min(len(kind), maxKind)]...)
	for i, c := range m.kind {
		if c < 0x80 {
			m.kind[i] = lower[c]
		}
	}
	if len(m.kind) == 0 {
		m.kind = append(m.kind, "text/plain"...)
	}
}

// emitAttachment puts the line of an attachment.
func (m *mimeText) emitAttachment() {
	t := append(m.body.text, "attachment: "...)
	n := len(t)
	if len(m.name) > 0 {
		t = append(append(t, m.name...), ", "...)
	}
	t = append(append(t, m.kind...), ", "...)
	for i, c := range t[n:] {
		if c < ' ' {
			t[n+i] = ' '
		}
	}
	t = strconv.AppendInt(t, int64(m.size), 10)
	m.body.text = append(t, " bytes\n"...)
	m.kind = m.kind[:0]
}

// metaCharset is the charset that HTML names in its first bytes; nil if none, or
// one that could not be read as ASCII up to there.
func metaCharset(b []byte) *charset {
	for {
		i := bytes.IndexByte(b, '<')
		if i < 0 {
			return nil
		}
		b = b[i+1:]
		if len(b) < 4 || !equalFold(b[:4], "meta") {
			continue
		}
		tag := b
		if end := bytes.IndexByte(b, '>'); end >= 0 {
			tag = b[:end]
		}
		for k := 4; k+len("charset") < len(tag); k++ {
			if !equalFold(tag[k:k+len("charset")], "charset") {
				continue
			}
			v := bytes.TrimLeft(tag[k+len("charset"):], " \t\n=\"'")
			if end := bytes.IndexAny(v, " \t\n\"'/;"); end >= 0 {
				v = v[:end]
			}
			set := charsetNamed(v)
			if set != nil && set.form >= formUTF16 {
				return nil
			}
			return set
		}
	}
}
