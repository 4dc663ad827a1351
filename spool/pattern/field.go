package pattern

import "bytes"

// splitField splits a header line at its colon, as is_header of
// src/global/is_header.c does: a name of printable characters, perhaps blanks.
func splitField(b []byte) (name, value []byte, ok bool) {
	i := bytes.IndexByte(b, ':')
	if i <= 0 {
		return nil, nil, false
	}
	name = trimBlanks(b[:i])
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return nil, nil, false
		}
	}
	return name, b[i+1:], len(name) > 0
}

// blanks is how many blanks b begins with.
func blanks(b []byte) int {
	n := 0
	for n < len(b) && (b[n] == ' ' || b[n] == '\t') {
		n++
	}
	return n
}

// trimBlanks is b without the blanks at its end.
func trimBlanks(b []byte) []byte {
	n := len(b)
	for n > 0 && (b[n-1] == ' ' || b[n-1] == '\t') {
		n--
	}
	return b[:n]
}

func isContentField(b []byte) bool {
	name, _, ok := splitField(b)
	return ok && len(name) > 8 && equalFold(name[:8], "content-")
}

// mediaType is what a Content-Type field says.
type mediaType struct {
	field     []byte
	kind, sub string // in lower case, or "other"; kind is none where there are no names that make sense
	set       *charset
	named     bool // it names a charset
	file      bool // it may name a file
	scratch   []byte
}

const none = "none"

// mediaTypes keeps what the last few fields said: most messages of a flood have the
// same ones. Those of multiparts are each unlike the other and take the last place.
type mediaTypes struct {
	kept [8]mediaType
	next int
}

// of is what a field says, valid until the next call.
func (t *mediaTypes) of(field []byte) *mediaType {
	for i := range t.kept {
		if k := &t.kept[i]; k.kind != "" && bytes.Equal(k.field, field) {
			return k
		}
	}
	kind, sub := mediaNames(field)
	at := len(t.kept) - 1
	if kind != "multipart" {
		at = t.next
		t.next = (at + 1) % (len(t.kept) - 1)
	}
	k := &t.kept[at]
	k.field, k.kind, k.sub = append(k.field[:0], field...), kind, sub
	k.scratch, k.named = appendParameter(k.scratch[:0], field, "charset")
	k.set = nil
	if k.named {
		k.set = charsetNamed(k.scratch)
	}
	k.file = containsFold(field, "name")
	return k
}

// mediaNames reads the two names at the beginning of a Content-Type field.
func mediaNames(b []byte) (kind, sub string) {
	k, s, ok := bytes.Cut(mediaName(b), []byte{'/'})
	k = bytes.TrimSpace(k)
	if !ok || len(k) == 0 || len(s) == 0 {
		return none, ""
	}
	return known(k, "text", "multipart", "message", "application"),
		known(s, "plain", "html", "rfc822", "global", "news", "digest", "xhtml+xml", "rfc822-headers", "global-headers",
			"delivery-status", "global-delivery-status", "disposition-notification", "global-disposition-notification", "feedback-report")
}

// mediaName is the part of a Content-Type field in front of its parameters.
func mediaName(b []byte) []byte {
	if i := bytes.IndexByte(b, ';'); i >= 0 {
		b = b[:i]
	}
	b = bytes.TrimSpace(b)
	if i := bytes.IndexAny(b, "("); i >= 0 {
		b = b[:i]
	}
	slash := bytes.IndexByte(b, '/')
	if i := bytes.IndexAny(b[slash+1:], " \t"); slash >= 0 && i >= 0 {
		b = b[:slash+1+i]
	}
	return bytes.TrimSpace(b)
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

// appendParameter appends the value of a parameter of a header field, and tells
// whether there is one.
func appendParameter(dst, b []byte, name string) ([]byte, bool) {
	for {
		i := bytes.IndexByte(b, ';')
		if i < 0 {
			return dst, false
		}
		b = bytes.TrimLeft(b[i+1:], " \t\r\n;")
		eq := bytes.IndexByte(b, '=')
		if eq < 0 {
			return dst, false
		}
		if semi := bytes.IndexByte(b, ';'); semi >= 0 && semi < eq {
			continue
		}
		is := equalFold(trimBlanks(b[:eq]), name)
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
			dst = append(dst, trimBlanks(b[:end])...)
		}
		if is {
			return dst, true
		}
	}
}

// maxSections bounds the sections of one parameter: name*0, name*1 and so on.
const maxSections = 100

// appendDecoded appends the value of a parameter that may be in sections and with
// a charset of its own (RFC 2231), or in encoded words, which is wrong and common.
func (w *words) appendDecoded(dst, field []byte, name string) []byte {
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
		if fold[b[i]] == name[0] && equalFold(b[i:i+len(name)], name) {
			return true
		}
	}
	return false
}
