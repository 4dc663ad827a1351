package clean_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"spoolsweep/remote/clean"
)

func TestText(t *testing.T) {
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{
		{"", 0, ""},
		{"plain, é and 漢", 0, "plain, é and 漢"},
		{"a\r\nb\tc", 0, `a\r\nb\tc`},
		{"\x1b[2J\x1b]0;title\a", 0, `\x1b[2J\x1b]0;title\x07`},
		{"\u009b31m", 0, `\u009b31m`},
		{"\x9b31m\xff", 0, `\x9b31m\xff`},
		{"evil\u202efdp.exe", 0, `evil\u202efdp.exe`},
		{"\u2066x\u200b\ufeff\u2028", 0, `\u2066x\u200b\ufeff\u2028`},
		{"\U000e0041tag", 0, `\U000e0041tag`},
		{"\x00\x7f", 0, `\x00\x7f`},
		{"\ufffd", 0, "\ufffd"},
		{"C:\\dir", 0, `C:\dir`},
		{"abcdef", 6, "abcdef"},
		{"abcdefg", 6, "abc…"},
		{"ab\x1b\x1b", 7, "ab…"},
		{"abcd", 2, ""},
	} {
		if got := clean.Text(c.in, c.max); got != c.want {
			t.Errorf("Text(%q, %d) = %q, want %q", c.in, c.max, got, c.want)
		}
		if got := clean.Text([]byte(c.in), c.max); got != c.want {
			t.Errorf("Text([]byte(%q), %d) = %q, want %q", c.in, c.max, got, c.want)
		}
	}
}

// The laws: whatever goes in, what comes out is printable UTF-8, not longer than
// asked, and cleaning it again changes nothing.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "sudo: a password is required\n", "\x1b]52;c;AAAA\a", "\xc3", "\u202e", "é…", strings.Repeat("\x00", 40)} {
		f.Add(s, 10)
		f.Add(s, 0)
	}
	f.Fuzz(func(t *testing.T, s string, max int) {
		got := clean.Text(s, max)
		if max > 0 && len(got) > max {
			t.Errorf("Text(%q, %d) has %d bytes", s, max, len(got))
		}
		if !utf8.ValidString(got) {
			t.Errorf("Text(%q, %d) = %q is no UTF-8", s, max, got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("Text(%q, %d) = %q holds %U", s, max, got, r)
			}
		}
		if again := clean.Text(got, max); again != got {
			t.Errorf("Text(%q) again = %q", got, again)
		}
	})
}
