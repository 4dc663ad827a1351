package pattern

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

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
	if n := maxFileName; n < len(m.name) {
		for !utf8.RuneStart(m.name[n]) {
			n--
		}
		m.name = m.name[:n]
	}
	kind := mediaName(m.ctype)
	m.kind, _ = appendUTF8(m.kind[:0], kind[:min(len(kind), maxKind)], true)
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
	t := m.body.text
	if n := len(t); n > 0 && t[n-1] != '\n' {
		t = append(t, '\n')
	}
	t = append(t, "attachment: "...)
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

// maxSections bounds the sections of one parameter: name*0, name*1 and so on.
const maxSections = 100

// appendDecoded appends the value of a parameter that may be in sections and with
// a charset of its own (RFC 2231), or in encoded words, which is wrong and common.
func (w *words) appendDecoded(dst, field []byte, name string) []byte {
	if !containsFold(field, name) { // nearly always
		return dst
	}
	var key [40]byte
	n := copy(key[:], name)
	section := func(i int, extended bool) string {
		k := key[:n]
		if i >= 0 {
			k = append(k, '*')
			if i >= 10 {
				k = append(k, byte('0'+i/10))
			}
			k = append(k, byte('0'+i%10))
		}
		if extended {
			k = append(k, '*')
		}
		return string(k)
	}
	raw, named := []byte(nil), false
	var set *charset
	one := func(i int) bool {
		at := len(raw)
		var ok bool
		if raw, ok = appendParameter(raw, field, section(i, true)); ok {
			value := raw[at:]
			if at == 0 {
				name, rest, ok := bytes.Cut(value, []byte{'\''})
				if _, text, both := bytes.Cut(rest, []byte{'\''}); ok && both {
					set, named, value = charsetNamed(name), true, text
				}
			}
			raw = appendPercent(raw[:at], value)
			return true
		}
		raw, ok = appendParameter(raw, field, section(i, false))
		return ok
	}
	if !one(-1) {
		for i := 0; i < maxSections && one(i); i++ {
		}
	}
	if !named {
		return w.append(dst, raw)
	}
	w.set, w.bytes = set, append(w.bytes[:0], raw...)
	return w.flush(dst)
}

// appendPercent decodes %xx. Its two arguments may overlap.
func appendPercent(dst, b []byte) []byte {
	for i := 0; i < len(b); i++ {
		c := b[i]
		if c == '%' && i+2 < len(b) && hexDigit[b[i+1]] < 16 && hexDigit[b[i+2]] < 16 {
			c = hexDigit[b[i+1]]<<4 | hexDigit[b[i+2]]
			i += 2
		}
		dst = append(dst, c)
	}
	return dst
}
