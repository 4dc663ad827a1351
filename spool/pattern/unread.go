package pattern

// text is piece that is told whether there is a carriage return in b. Most of a
// message it takes without looking at it closely: lines of a body, and header
// fields that nobody reads.
func (m *mimeText) text(b []byte, eol, cr bool) {
	if !eol || cr || len(m.line) > 0 || m.long || m.returned || m.decoded > maxDecoded {
		m.piece(b, eol)
		return
	}
	switch m.state {
	case inNothing:
		return
	case inHeader:
		if m.unread(b) {
			return
		}
	case inPlain, inQuoted, inBase64:
		if len(m.bounds) == 0 || len(b) < 2 || b[0] != '-' || b[1] != '-' {
			m.part(b, true)
			m.converted()
			return
		}
	}
	m.whole(b) // what piece comes to
	m.converted()
}

// unread takes a line of a header if no text takes it: then all there is to do with
// most of them is to pass them by.
func (m *mimeText) unread(b []byte) bool {
	if m.shown || m.cut {
		return false
	}
	if blank := blanks(b); blank > 0 {
		if m.fields == 0 || m.shownIn != nil || blank == len(b) { // of a field that is read, or the end of the header
			return false
		}
		m.foldedField(b)
		return true
	}
	colon := 0
	for colon < len(b) && fieldName[b[colon]] {
		colon++
	}
	if colon == 0 || colon == len(b) || b[colon] != ':' || b[0] == '-' && len(m.bounds) > 0 || m.top && m.head.wants(b[:colon]) {
		return false
	}
	m.endField()
	m.fields++
	m.noteField(b[:colon], b[colon+1:])
	return true
}

// fieldName is what the name of a header field is made of.
var fieldName = func() (t [256]bool) {
	for c := '!'; c <= '~'; c++ {
		t[c] = c != ':'
	}
	return t
}()
