package pattern

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// words decodes the encoded words of a header field (RFC 2047).
type words struct {
	bytes []byte // of words of one charset that follow each other: a character may be split
	set   *charset
	conv  converter
}

// append appends the text of a field. Between encoded words blanks say nothing;
// what is no encoded word stays, in UTF-8 or else windows-1252.
func (w *words) append(dst, src []byte) []byte {
	after := false // an encoded word came just before
	for len(src) > 0 {
		i := bytes.Index(src, []byte("=?"))
		if i < 0 {
			break
		}
		set, b64, text, rest, ok := splitWord(src[i:])
		if !ok {
			dst = w.flush(dst)
			dst, _ = appendUTF8(dst, src[:i+2], true)
			src, after = src[i+2:], false
			continue
		}
		if !after || blanks(src[:i]) < i {
			dst = w.flush(dst)
			dst, _ = appendUTF8(dst, src[:i], true)
		}
		if set != w.set {
			dst = w.flush(dst)
			w.set = set
		}
		if b64 {
			var d digits
			w.bytes = d.flush(d.append(w.bytes, text))
		} else {
			n := len(w.bytes)
			w.bytes = appendQuoted(w.bytes, text, false)
			for k, c := range w.bytes[n:] {
				if c == '_' {
					w.bytes[n+k] = ' '
				}
			}
		}
		src, after = rest, true
	}
	dst, _ = appendUTF8(w.flush(dst), src, true)
	return dst
}

// flush converts the words gathered. Line ends in them do not end the field's
// line.
func (w *words) flush(dst []byte) []byte {
	if len(w.bytes) == 0 {
		return dst
	}
	n := len(dst)
	w.conv.reset(w.set)
	dst, _ = w.conv.append(dst, w.bytes, true)
	w.bytes = w.bytes[:0]
	for i, c := range dst[n:] {
		if c == '\n' || c == '\r' || c == 0 {
			dst[n+i] = ' '
		}
	}
	return dst
}

// splitWord splits =?charset?encoding?text?= and what follows. As in mail
// readers, blanks in the text do not matter.
func splitWord(b []byte) (set *charset, b64 bool, text, rest []byte, ok bool) {
	name, b, ok := bytes.Cut(b[2:], []byte{'?'})
	if !ok || len(name) == 0 || len(b) < 2 || b[1] != '?' {
		return nil, false, nil, nil, false
	}
	switch b[0] {
	case 'B', 'b':
		b64 = true
	case 'Q', 'q':
	default:
		return nil, false, nil, nil, false
	}
	text, rest, ok = bytes.Cut(b[2:], []byte("?="))
	if !ok {
		return nil, false, nil, nil, false
	}
	name, _, _ = bytes.Cut(name, []byte{'*'}) // a language: RFC 2231
	return charsetNamed(name), b64, text, rest, true
}

// isASCII tells whether all bytes are ASCII.
func isASCII(b []byte) bool {
	const high = 0x8080808080808080
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b)&high != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
