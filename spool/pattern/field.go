package pattern

import "bytes"

// splitField splits a header line at its colon, as is_header of
// src/global/is_header.c does: a name of printable characters, perhaps blanks.
func splitField(b []byte) (name, value []byte, ok bool) {
	i := bytes.IndexByte(b, ':')
	if i <= 0 {
		return nil, nil, false
	}
	name = trimRight(b[:i])
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return nil, nil, false
		}
	}
	return name, b[i+1:], len(name) > 0
}

// blanks is how many blanks b begins with.
func blanks(b []byte) int { return len(b) - len(trimLeft(b)) }

// trimLeft and trimRight cut blanks and tabs off: header lines are many, and
// bytes.Trim builds a set each time.
func trimLeft(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	return b
}

func trimRight(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
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
		is := equalFold(trimRight(b[:eq]), name)
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
			dst = append(dst, trimRight(b[:end])...)
		}
		if is {
			return dst, true
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

// containsFold looks for an ASCII name that begins with a letter, in lower case.
func containsFold(b []byte, name string) bool {
	for i := 0; i+len(name) <= len(b); i++ {
		if b[i]|0x20 == name[0] && equalFold(b[i:i+len(name)], name) {
			return true
		}
	}
	return false
}
