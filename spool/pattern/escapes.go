package pattern

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
