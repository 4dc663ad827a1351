package pattern

import (
	"bytes"
	"html"
	"unicode/utf8"
)

// entity reads the character reference that b begins with: one or two characters,
// both 0 if it is none and the n bytes are text as they stand. It is false if more
// must be seen. In an attribute a name without its semicolon is one only if the
// value ends with it, or no letter, digit or = follows: ?a=1&copy=2 is no sign.
func entity(b []byte, last, inAttribute bool) (r [2]rune, n int, ok bool) {
	limit := min(len(b), maxEntity)
	i := 1
	if i < limit && b[i] == '#' {
		i++
	}
	for i < limit && (isLetter(b[i]) || b[i] >= '0' && b[i] <= '9') {
		i++
	}
	if i == limit {
		if len(b) < maxEntity && !last {
			return r, 0, false
		}
		if limit == maxEntity {
			return r, 1, true
		}
	}
	body := b[1:i]
	semicolon := i < limit && b[i] == ';'
	if semicolon {
		i++
	}
	if len(body) == 0 {
		return r, 1, true
	}
	if body[0] == '#' {
		code, size := number(body[1:])
		if size == 0 {
			return r, 1, true
		}
		if size < len(body)-1 { // something else follows its digits
			i = 2 + size
		}
		return [2]rune{code}, i, true
	}
	if inAttribute && !semicolon && i < len(b) && b[i] == '=' {
		return r, 1, true
	}
	switch string(body) { // what is seen most, without a copy
	case "nbsp":
		return [2]rune{0xa0}, i, true
	case "amp", "AMP":
		return [2]rune{'&'}, i, true
	case "lt", "LT":
		return [2]rune{'<'}, i, true
	case "gt", "GT":
		return [2]rune{'>'}, i, true
	case "quot", "QUOT":
		return [2]rune{'"'}, i, true
	}
	name := string(b[:i])
	text := html.UnescapeString(name)
	if text == name {
		return r, 1, true
	}
	first, k := utf8.DecodeRuneInString(text)
	r[0] = first
	rest := text[k:]
	if rest == "" {
		return r, i, true
	}
	if second, k := utf8.DecodeRuneInString(rest); k == len(rest) && !bytes.HasSuffix(b[:i], []byte(rest)) {
		r[1] = second
		return r, i, true
	}
	if inAttribute {
		return [2]rune{}, 1, true
	}
	// A name without its semicolon, and letters behind it: &copynow.
	return r, i - len(rest), true
}

// number reads a numeric reference as browsers do, and says how long it is, which
// is 0 if it has no digits.
func number(b []byte) (code rune, size int) {
	base, begin := rune(10), 0
	if len(b) > 0 && b[0]|0x20 == 'x' {
		base, begin = 16, 1
	}
	for size = begin; size < len(b); size++ {
		v := rune(hexDigit[b[size]])
		if v >= base {
			break
		}
		code = min(code*base+v, utf8.MaxRune+1)
	}
	if size == begin {
		return 0, 0
	}
	switch {
	case code >= 0x80 && code < 0xa0:
		if r := latin1.single.DecodeByte(byte(code)); r != utf8.RuneError {
			code = r
		}
	case code == 0 || code > utf8.MaxRune || code >= 0xd800 && code < 0xe000:
		code = utf8.RuneError
	}
	return code, size
}

func appendRunes(dst []byte, r [2]rune) []byte {
	dst = utf8.AppendRune(dst, r[0])
	if r[1] != 0 {
		dst = utf8.AppendRune(dst, r[1])
	}
	return dst
}

// putEntity puts the characters of a reference, or its bytes if it is none.
func (h *htmlText) putEntity(dst []byte, r [2]rune, b []byte) []byte {
	c := r[0]
	switch {
	case c == 0:
		return h.put(dst, b)
	case c < utf8.RuneSelf && kinds[c] == byteBlank:
		return h.putBlank(dst, byte(c))
	}
	var text [2 * utf8.UTFMax]byte
	return h.putRune(dst, c, appendRunes(text[:0], r))
}
