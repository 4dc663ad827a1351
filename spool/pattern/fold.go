package pattern

import (
	"encoding/binary"
	"unicode"
	"unicode/utf8"
)

// lower folds ASCII.
var lower = func() (t [utf8.RuneSelf]byte) {
	for i := range t {
		t[i] = byte(i)
		if i >= 'A' && i <= 'Z' {
			t[i] += 'a' - 'A'
		}
	}
	return t
}()

// foldRune folds case, but never to a character of another length, so that an
// offset in folded text is the same in the text itself. What that leaves out is a
// handful such as the Kelvin sign.
func foldRune(r rune) rune {
	f := unicode.ToLower(unicode.ToUpper(r))
	if utf8.RuneLen(f) != utf8.RuneLen(r) {
		return r
	}
	return f
}

// appendFold appends b with case folded, byte for byte as long as b. What is no
// UTF-8 stays as it is. b may lie just behind dst.
func appendFold(dst, b []byte) []byte {
	from := len(dst)
	dst = append(dst, b...)
	out := dst[from:]
	for i := 0; i < len(out); {
		if i+8 <= len(out) { // eight bytes of ASCII at once, as nearly all are
			const each = 0x0101010101010101
			w := binary.LittleEndian.Uint64(out[i:])
			if w&(each<<7) == 0 {
				upper := (w + (0x80-'A')*each) &^ (w + (0x7f-'Z')*each) & (each << 7)
				binary.LittleEndian.PutUint64(out[i:], w|upper>>2)
				i += 8
				continue
			}
		}
		c := out[i]
		if c < utf8.RuneSelf {
			out[i] = lower[c]
			i++
			continue
		}
		r, n := utf8.DecodeRune(b[i:])
		if n > 1 {
			utf8.EncodeRune(out[i:i+n], foldRune(r))
		}
		i += n
	}
	return dst
}

func foldString(s string) string { return string(appendFold(nil, []byte(s))) }

// foldsAlone tells whether every character that (?i) takes for r folds to the
// same as r. It is not so for k and s: the Kelvin sign and the long s have other
// lengths.
func foldsAlone(r rune) bool {
	want := foldRune(r)
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		if foldRune(o) != want {
			return false
		}
	}
	return true
}
