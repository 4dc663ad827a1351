package pattern

import "unicode/utf8"

// units puts the 16-bit units of UTF-16 and UTF-7 (RFC 2152) together to
// characters.
type units struct {
	high rune // a surrogate that waits for its other half

	// Of UTF-16.
	little bool
	odd    bool // one byte of a unit was seen
	first  byte

	// Of UTF-7.
	shifted bool
	fresh   bool // nothing follows the + yet
	bits    uint32
	n       int
}

// append appends a unit.
func (u *units) append(dst []byte, unit rune) []byte {
	if u.high != 0 {
		high := u.high
		u.high = 0
		if unit >= 0xdc00 && unit < 0xe000 {
			return utf8.AppendRune(dst, (high-0xd800)<<10+unit-0xdc00+0x10000)
		}
		dst = utf8.AppendRune(dst, utf8.RuneError)
	}
	if unit >= 0xd800 && unit < 0xdc00 {
		u.high = unit
		return dst
	}
	return utf8.AppendRune(dst, unit) // of half a pair: U+FFFD
}

// end appends what is left.
func (u *units) end(dst []byte) []byte {
	if u.high != 0 || u.odd {
		dst = utf8.AppendRune(dst, utf8.RuneError)
	}
	u.high, u.odd = 0, false
	return dst
}

// maxGuess is how much of a text is looked at for what nobody says of it: the
// order of bytes, HTML's own charset.
const maxGuess = 1024

// order finds the order of bytes, and returns src without the mark that says it.
// Without mark and name it is that in which more of the upper bytes are zero.
func (u *units) order(src []byte, f form) []byte {
	u.little = f == formUTF16LE
	if len(src) >= 2 {
		switch {
		case src[0] == 0xfe && src[1] == 0xff:
			u.little = false
			return src[2:]
		case src[0] == 0xff && src[1] == 0xfe:
			u.little = true
			return src[2:]
		}
	}
	if f == formUTF16 {
		zeros := [2]int{}
		for i, c := range src[:min(len(src), maxGuess)] {
			if c == 0 {
				zeros[i&1]++
			}
		}
		u.little = zeros[1] > zeros[0]
	}
	return src
}

func (u *units) appendUTF16(dst, src []byte, last bool) []byte {
	for _, c := range src {
		if !u.odd {
			u.odd, u.first = true, c
			continue
		}
		u.odd = false
		a, b := rune(u.first), rune(c)
		if u.little {
			a, b = b, a
		}
		dst = u.append(dst, a<<8|b)
	}
	if last {
		dst = u.end(dst)
	}
	return dst
}

func (u *units) appendUTF7(dst, src []byte, last bool) []byte {
	for i, c := range src {
		if u.shifted {
			if v := digit64[c]; v < 64 {
				u.fresh = false
				u.bits = u.bits<<6 | uint32(v)
				if u.n += 6; u.n >= 16 {
					u.n -= 16
					dst = u.append(dst, rune(u.bits>>u.n&0xffff))
				}
				continue
			}
			dst = u.end(dst)
			u.shifted, u.bits, u.n = false, 0, 0
			if c == '-' {
				if u.fresh {
					dst = append(dst, '+')
				}
				continue
			}
		}
		switch {
		case c == '+':
			u.shifted, u.fresh = true, true
		case c < utf8.RuneSelf:
			dst = append(dst, c)
		default:
			dst = latin1.appendSingle(dst, src[i:i+1])
		}
	}
	if last {
		dst = u.end(dst)
	}
	return dst
}

// escapes turns the 7-bit sets that switch by escape sequences (RFC 1468, 1554,
// 1557, 1922) or tildes (RFC 1843) into the 8-bit sets that have the same tables:
// ISO-2022-JP into EUC-JP, -KR into EUC-KR, -CN and HZ into GB2312. A line begins
// in ASCII again, so that a broken line spoils no other.
type escapes struct {
	set    designated
	kana   bool // shift out means half-width katakana
	middle [3]byte
	n      int  // of an escape sequence: 1 and the bytes in middle
	second bool // of a pair, the second byte is next
	tilde  bool
}

// designated is the set that 7-bit bytes are of.
type designated byte

const (
	setASCII designated = iota
	setPairs
	setSupplement // JIS X 0212
	setKatakana
)

func (e *escapes) append(dst, src []byte) []byte {
	for i := 0; i < len(src); i++ {
		c := src[i]
		if e.n == 0 && e.set == setASCII && c >= ' ' { // what most of it is
			from := i
			for i < len(src) && src[i] >= ' ' {
				i++
			}
			dst = append(dst, src[from:i]...)
			i--
			continue
		}
		if e.n == 0 && e.set == setPairs && !e.second {
			from := i
			for i < len(src) && src[i] > ' ' && src[i] < 0x7f {
				i++
			}
			if n := (i - from) &^ 1; n > 0 {
				at := len(dst)
				dst = append(dst, src[from:from+n]...)
				for k := range dst[at:] {
					dst[at+k] |= 0x80
				}
				i = from + n - 1
				continue
			}
			i = from
		}
		if e.n > 0 {
			if c >= 0x20 && c < 0x30 && e.n <= len(e.middle) {
				e.middle[e.n-1] = c
				e.n++
				continue
			}
			middle := e.middle[:e.n-1]
			e.n, e.second = 0, false
			if c >= 0x30 && c < 0x7f {
				e.designate(string(middle), c)
				continue
			}
		}
		switch {
		case c == 0x1b:
			e.n = 1
		case c == 0x0e:
			e.set, e.second = setPairs, false
			if e.kana {
				e.set = setKatakana
			}
		case c == 0x0f:
			e.set, e.second = setASCII, false
		case c == '\n' || c == '\r':
			e.set, e.second = setASCII, false
			dst = append(dst, c)
		case c <= 0x20 || c >= 0x7f || e.set == setASCII:
			e.second = false
			dst = append(dst, c)
		case e.set == setKatakana:
			dst = append(dst, 0x8e, c|0x80)
		default:
			if e.set == setSupplement && !e.second {
				dst = append(dst, 0x8f)
			}
			e.second = !e.second
			dst = append(dst, c|0x80)
		}
	}
	return dst
}

// designate takes a whole escape sequence. One that is not known changes nothing.
func (e *escapes) designate(middle string, final byte) {
	switch middle {
	case "(":
		e.kana = true // Japanese: shift out is not for pairs
		e.set = setASCII
		if final == 'I' {
			e.set = setKatakana
		}
	case "$", "$(":
		e.kana = true
		e.set = setPairs
		if final == 'D' {
			e.set = setSupplement
		}
	case "$)":
		e.kana = false // Korean and Chinese: said once, at the beginning
	}
}

func (e *escapes) appendTildes(dst, src []byte) []byte {
	for _, c := range src {
		if e.tilde {
			e.tilde = false
			switch c {
			case '{':
				e.set = setPairs
			case '}':
				e.set = setASCII
			case '~':
				dst = append(dst, '~')
			case '\n':
				e.set = setASCII
			default:
				dst = append(dst, '~', c)
			}
			continue
		}
		switch {
		case c == '~' && !e.second:
			e.tilde = true
		case c == '\n' || c == '\r':
			e.set, e.second = setASCII, false
			dst = append(dst, c)
		case e.set == setPairs && c > 0x20 && c < 0x7f:
			e.second = !e.second
			dst = append(dst, c|0x80)
		default:
			e.second = false
			dst = append(dst, c)
		}
	}
	return dst
}
