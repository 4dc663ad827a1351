package pattern

import (
	"bytes"
	"encoding/base64"
	"strings"
)

// appendQuoted decodes one line of quoted-printable; what is no code stays.
func appendQuoted(dst, b []byte, eol bool) []byte {
	if eol {
		b = trimBlanks(b)
		if n := len(b); n > 0 && b[n-1] == '=' {
			b, eol = b[:n-1], false
		}
	}
	for {
		i := bytes.IndexByte(b, '=')
		if i < 0 {
			break
		}
		dst = append(dst, b[:i]...)
		b = b[i+1:]
		if len(b) >= 2 && hexDigit[b[0]] < 16 && hexDigit[b[1]] < 16 {
			dst = append(dst, hexDigit[b[0]]<<4|hexDigit[b[1]])
			b = b[2:]
		} else {
			dst = append(dst, '=')
		}
	}
	dst = append(dst, b...)
	if eol {
		dst = append(dst, '\n')
	}
	return dst
}

// digits decodes base64 that comes in pieces.
type digits struct {
	quantum uint32 // what is not decoded yet
	n       int    // and how many digits that is
}

// append decodes a piece, dropping bytes that are no digits. Padding ends one
// stream, and another may begin.
func (d *digits) append(dst, b []byte) []byte {
	for len(b) > 0 && d.n > 0 {
		dst = d.digit(dst, b[0])
		b = b[1:]
	}
	if whole := len(b) &^ 3; whole > 0 {
		n := len(dst)
		dst = append(dst, b...) // room for what is shorter
		k, err := base64.StdEncoding.Decode(dst[n:], b[:whole])
		dst = dst[:n+k]
		if err == nil { // nearly always
			b = b[whole:]
		} else {
			dst = dst[:n]
		}
	}
	for _, c := range b {
		dst = d.digit(dst, c)
	}
	return dst
}

func (d *digits) digit(dst []byte, c byte) []byte {
	if v := digit64[c]; v < 64 {
		d.quantum = d.quantum<<6 | uint32(v)
		if d.n++; d.n == 4 {
			dst = append(dst, byte(d.quantum>>16), byte(d.quantum>>8), byte(d.quantum))
			d.quantum, d.n = 0, 0
		}
	} else if c == '=' {
		dst = d.flush(dst)
	}
	return dst
}

// flush decodes the digits left over at an end.
func (d *digits) flush(dst []byte) []byte {
	switch d.n {
	case 2:
		dst = append(dst, byte(d.quantum>>4))
	case 3:
		dst = append(dst, byte(d.quantum>>10), byte(d.quantum>>2))
	}
	d.quantum, d.n = 0, 0
	return dst
}

// count is how many digits b has.
func countDigits(b []byte) int {
	n := 0
	for _, c := range b {
		if digit64[c] < 64 {
			n++
		}
	}
	return n
}

// quotedSize is how many bytes a line of quoted-printable stands for.
func quotedSize(b []byte, eol bool) int {
	if eol {
		b = trimBlanks(b)
		if n := len(b); n > 0 && b[n-1] == '=' {
			b, eol = b[:n-1], false
		}
	}
	n := len(b)
	for i := 0; i+2 < len(b); i++ {
		if b[i] == '=' && hexDigit[b[i+1]] < 16 && hexDigit[b[i+2]] < 16 {
			n -= 2
			i += 2
		}
	}
	if eol {
		n++
	}
	return n
}

var digit64, hexDigit = func() (d, h [256]byte) {
	for i := range d {
		d[i], h[i] = 0xff, 0xff
	}
	for i, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") {
		d[c] = byte(i)
	}
	for i, c := range []byte("0123456789abcdef") {
		h[c] = byte(i)
		h[strings.ToUpper(string(c))[0]] = byte(i)
	}
	return d, h
}()
