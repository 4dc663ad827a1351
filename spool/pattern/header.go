package pattern

import "bytes"

// headerLine takes a line of a header. The header ends as in Postfix: with the
// first line that is neither a field nor folded. If that is not the empty line,
// the mail is broken, and where nothing is known of the encoding yet, fields may
// follow still.
func (m *mimeText) headerLine(b []byte) {
	text := trimLeft(b)
	if len(text) == 0 {
		if m.state != inFields {
			m.endHeader()
			return
		}
		m.endField()
		m.emit(newline)
		return
	}
	if m.top && m.state == inLoose {
		m.emitLine(b) // body too
	}
	if len(text) < len(b) {
		if m.fields > 0 {
			m.foldedField(b)
			m.goOn(' ', text)
			return
		}
		b = text // folded, and nothing to go on with
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
		value = trimLeft(value)
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
	to.text = append(trimRight(to.text), '\n')
	if to == m.head {
		to.grown()
	}
}
