package pattern

import "bytes"

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
		m.state = inPlain
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
	if containsFold(m.disposition, "filename") || m.is.file {
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
	b.text = trimRight(b.text)
	if len(b.text) > maxBoundary {
		b.text = b.text[:0]
	}
	b.digest = digest
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
