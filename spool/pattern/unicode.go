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
