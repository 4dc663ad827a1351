// Package clean makes untrusted text safe to show on a terminal: what a server,
// a login shell or a mail says, before it stands in an error or a table.
//
// [Text] never returns a byte that a terminal would obey, or that would change
// the order in which the rest is read. It is for showing only: the result is
// not meant to be turned back.
package clean

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ellipsis stands at the end of a text that was cut.
const ellipsis = "…"

// Text returns s on one line: control bytes, C1, escape sequences, bidirectional
// overrides and other characters without a shape become visible escapes such as
// \n, \x1b and \u202e, and bytes that are no UTF-8 become \x... The result has
// at most max bytes; one that was cut ends in an ellipsis. A max of 0 or less is
// no limit.
func Text[T string | []byte](s T, max int) string {
	if max <= 0 {
		max = int(^uint(0) >> 1)
	}
	var b strings.Builder
	kept := 0 // bytes of b that leave room for the ellipsis
	for i := 0; i < len(s); {
		shown, size := next(s[i:])
		if b.Len()+len(shown) > max {
			return cut(b.String()[:kept], max)
		}
		b.WriteString(shown)
		if b.Len()+len(ellipsis) <= max {
			kept = b.Len()
		}
		i += size
	}
	return b.String()
}

func cut(s string, max int) string {
	if len(s)+len(ellipsis) > max {
		return s
	}
	return s + ellipsis
}

// next returns how the first character of s is shown, and how many bytes it has.
func next[T string | []byte](s T) (string, int) {
	// No more than one character is looked at, so that a huge text costs
	// only what is shown of it.
	head := string(s[:min(len(s), utf8.UTFMax)])
	r, size := utf8.DecodeRuneInString(head)
	switch {
	case r == utf8.RuneError && size <= 1:
		return fmt.Sprintf(`\x%02x`, head[0]), 1
	case r == '\n':
		return `\n`, 1
	case r == '\r':
		return `\r`, 1
	case r == '\t':
		return `\t`, 1
	case unicode.IsPrint(r):
		return head[:size], size
	case r < utf8.RuneSelf:
		return fmt.Sprintf(`\x%02x`, r), size
	case r <= 0xffff:
		return fmt.Sprintf(`\u%04x`, r), size
	}
	return fmt.Sprintf(`\U%08x`, r), size
}
