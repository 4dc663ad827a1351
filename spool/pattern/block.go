package pattern

import "bytes"

// block takes many lines at once, as [queuefile.Reader.Blocks] gives them, and
// does what piece does for each. Lines of a body are taken together up to the next
// that may be a boundary, and header fields that nobody reads are passed by: most
// of a message costs nothing for being in lines.
func (m *mimeText) block(b []byte) {
	m.clean = bytes.IndexByte(b, '\r') < 0
	for len(b) > 0 && m.state != inNothing {
		n := m.together(b)
		if n > 0 {
			m.bulk(b[:n])
		} else if n = m.unread(b); n == 0 {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				m.piece(b, false)
				return
			}
			if n = i + 1; m.clean && len(m.line) == 0 && !m.long && !m.returned && m.decoded <= maxDecoded {
				m.whole(b[:i]) // what piece comes to
				m.converted()
			} else {
				m.piece(b[:i], true)
			}
		}
		b = b[n:]
	}
}

// together is how many bytes of b, whole lines, are body of this part and nothing
// else; 0 where the next line has to be looked at.
func (m *mimeText) together(b []byte) int {
	if len(m.line) > 0 || m.long || m.returned || m.decoded > maxDecoded {
		return 0
	}
	switch m.state {
	case inPlain, inQuoted, inBase64:
	default:
		return 0
	}
	end := bytes.LastIndexByte(b, '\n') + 1
	if len(m.bounds) > 0 {
		if bytes.HasPrefix(b, hyphens) {
			return 0
		}
		if i := bytes.Index(b[:end], boundaryLine); i >= 0 {
			end = i + 1
		}
	}
	if m.clean {
		return end
	}
	// A carriage return ends a line too.
	if i := bytes.IndexByte(b[:end], '\r'); i >= 0 {
		end = bytes.LastIndexByte(b[:i], '\n') + 1
	}
	return end
}

// unread takes the fields of a header that no text takes: how many bytes of b they
// are, whole lines. Of most of them that is to pass them by.
func (m *mimeText) unread(b []byte) int {
	if m.state != inHeader || m.shown || m.cut || len(m.line) > 0 || m.long || m.returned || m.decoded > maxDecoded {
		return 0
	}
	end := 0
	for end < len(b) {
		line := b[end:]
		n := bytes.IndexByte(line, '\n') + 1
		if line = line[:n]; n == 0 || !m.clean && bytes.IndexByte(line, '\r') >= 0 {
			break
		}
		if blank := blanks(line); blank > 0 {
			if end == 0 || line[blank] == '\n' { // of a field that is read, or the end of the header
				break
			}
			m.foldedField(line[:n-1])
			end += n
			continue
		}
		colon := 0
		for fieldName[line[colon]] {
			colon++
		}
		if colon == 0 || line[colon] != ':' || line[0] == '-' && len(m.bounds) > 0 || m.top && m.head.wants(line[:colon]) {
			break
		}
		if end == 0 {
			m.endField()
		}
		m.fields++
		m.noteField(line[:colon], line[colon+1:n-1])
		end += n
	}
	return end
}

// fieldName is what the name of a header field is made of.
var fieldName = func() (t [256]bool) {
	for c := '!'; c <= '~'; c++ {
		t[c] = c != ':'
	}
	return t
}()

var (
	hyphens      = []byte("--")
	boundaryLine = []byte("\n--")
)

// bulk takes whole lines of a part's body.
func (m *mimeText) bulk(b []byte) {
	switch m.state {
	case inPlain:
		m.emit(b)
	case inQuoted:
		for len(b) > 0 {
			i := bytes.IndexByte(b, '\n')
			if m.plain {
				m.body.text = appendQuoted(m.body.text, b[:i], true)
			} else {
				m.raw = appendQuoted(m.raw, b[:i], true)
			}
			b = b[i+1:]
		}
	case inBase64:
		for len(b) > 0 {
			i := bytes.IndexByte(b, '\n')
			m.encoded = append(m.encoded, b[:i]...)
			b = b[i+1:]
		}
	}
	m.converted()
}
