package pattern

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/unicode"
)

// convert reads b in a charset; it comes in blocks of step bytes.
func convert(set *charset, b []byte, step int) string {
	var c converter
	c.reset(set)
	var out, rest []byte
	for len(b) > step {
		rest = append(rest, b[:step]...)
		b = b[step:]
		var n int
		out, n = c.append(out, rest, false)
		rest = rest[n:]
	}
	out, _ = c.append(out, append(rest, b...), true)
	return string(out)
}

func TestCharsets(t *testing.T) {
	for _, c := range []struct{ name, bytes, want string }{
		{"us-ascii", "plain", "plain"},
		{"", "caf\xe9 \xc3\xa9 \x80", "café é €"},
		{"UTF-8", "\xe2\x82\xac \xe2\x82 \xff", "€ â‚ ÿ"},
		{"x-no-such", "\xc3\xa9\xe9", "éé"},
		{"ISO-8859-1", "\xe9\x93", "é“"},
		{"'iso-8859-1'", "\xe9", "é"},
		{"iso8859_2", "\xb1", "ą"},
		{"latin1", "\xe9", "é"},
		{"CP1251", "\xc4\xe0", "Да"},
		{"windows-1250", "\x9a", "š"},
		{"koi8-r", "\xe4\xc1", "Да"},
		{"koi8-u", "\xa4", "є"},
		{"iso-8859-15", "\xa4", "€"},
		{"iso-8859-9", "\xfd\x80", "ı€"},
		{"tis-620", "\xa1", "ก"},
		{"x-mac-cyrillic", "\x80", "А"},
		{"Big5", "\xa4\xa4\xa4\xe5", "中文"},
		{"gb2312", "\xd6\xd0\xce\xc4\x81\x30\x81\x30", "中文\u0080"},
		{"x-gbk", "\xe9\x46", "镕"},
		{"ks_c_5601-1987", "\xb1\xa4\xb0\xed\x8c\x63", "광고똠"},
		{"euc-kr", "\xb1\n\xb1\xa4", "\ufffd\n광"},
		{"Shift_JIS", "\x93\xfa\x96\x7b\xb1", "日本ｱ"},
		{"x-sjis", "\x93\xfa", "日"},
		{"euc-jp", "\xc6\xfc\x8e\xb1\x8f\xb0\xa1", "日ｱ丂"},
		{"iso-2022-jp", "\x1b$BF|K\\\x1b(B and \x1b(I1\x1b(J!\x1b$@F|", "日本 and ｱ!日"},
		{"iso-2022-jp", "\x1b$BF|K\nplain", "日\ufffd\nplain"},
		{"iso-2022-jp", "\x1b$BF|", "日"},
		{"iso-2022-jp", "a\x1b\x1b$(D0!\x1b(Bb\x1b", "a丂b"},
		{"iso-2022-jp", "8-bit \xc6\xfc", "8-bit 日"},
		{"iso-2022-kr", "\x1b$)C\x0e1$0m\x0f ok\n\x0e1$\n", "광고 ok\n광\n"},
		{"iso-2022-cn", "\x1b$)A\x0eVPND\x0f ok", "中文 ok"},
		{"hz-gb-2312", "~{VPND~} ~~ x~\ny ~{6~6~", "中文 ~ xy 二二"},
		{"utf-7", "1 +- 1, +AGgAdAB0AHA-:// +2D3cAA-x +AOk", "1 + 1, http:// 🐀x é"},
		{"utf-7", "+2D0-x+AOk\n\xe9", "\ufffdxé\né"},
		{"unicode-1-1-utf-7", "+AOk-", "é"},
		{"utf-16", "\xff\xfea\x00=\xd8\x00\xdc", "a🐀"},
		{"utf-16", "\xfe\xff\x00a\xd8=", "a\ufffd"},
		{"utf-16", "a\x00b\x00", "ab"},
		{"utf-16", "\x00a\x00b\x00", "ab\ufffd"},
		{"utf-16be", "\x00a\xdc\x00\x00b", "a\ufffdb"},
		{"UTF-16LE", "a\x00\x00\xd8b\x00", "a\ufffdb"},
	} {
		for _, step := range []int{1 << 20, 1, 2, 3} {
			if step < 4 && strings.HasPrefix(c.name, "utf-16") {
				continue // the mark, or what it is guessed from, is in the first block
			}
			if got := convert(charsetNamed([]byte(c.name)), []byte(c.bytes), step); got != c.want {
				t.Errorf("%s %q by %d: got %q, want %q", c.name, c.bytes, step, got, c.want)
			}
		}
	}
}

// TestCharsetsAsText compares the charsets that we read ourselves with x/text.
func TestCharsetsAsText(t *testing.T) {
	const text = "Grüße ASCII 日本語の文章、カタカナ\n二行目 中文\n"
	for name, e := range map[string]encoding.Encoding{
		"iso-2022-jp": japanese.ISO2022JP,
		"hz":          simplifiedchinese.HZGB2312,
		"utf-16be":    unicode.UTF16(unicode.BigEndian, unicode.IgnoreBOM),
		"utf-16le":    unicode.UTF16(unicode.LittleEndian, unicode.IgnoreBOM),
		"utf-16":      unicode.UTF16(unicode.LittleEndian, unicode.UseBOM),
	} {
		// One character after the other, since none has all of them.
		var b []byte
		want := ""
		for _, r := range text {
			one, err := e.NewEncoder().String(want + string(r))
			if err == nil {
				b, want = []byte(one), want+string(r)
			}
		}
		if len(want) < 40 {
			t.Fatalf("%s has only %q", name, want)
		}
		if got := convert(charsetNamed([]byte(name)), b, 1<<20); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// FuzzCharset: whatever the bytes, the text is valid, bounded, and the same in any
// blocks; and ASCII stays what it is where the charset has no states.
func FuzzCharset(f *testing.F) {
	names := []string{"utf-8", "koi8-r", "big5", "gb18030", "euc-kr", "shift_jis", "euc-jp", "iso-2022-jp", "iso-2022-kr", "hz", "utf-7", "utf-16", "utf-16le", "windows-1255"}
	for i := range names {
		f.Add(i, 3, []byte("text \xc3\xa9\xe9 \x1b$BF|\x1b(B ~{VP~} +AOk- \xb1\xa4\x81\x30\x81\x30\x00\xd8\n\x0e1$\x0f"))
	}
	f.Fuzz(func(t *testing.T, which, step int, b []byte) {
		name := names[max(0, which%len(names))]
		set := charsetNamed([]byte(name))
		got := convert(set, b, 1<<30)
		if !utf8.ValidString(got) {
			t.Fatalf("%s of %q: %q", name, b, got)
		}
		if len(got) > 3*len(b)+utf8.UTFMax {
			t.Fatalf("%s: %d bytes of %d", name, len(got), len(b))
		}
		if step = max(2, step&0xff); strings.HasPrefix(name, "utf-16") {
			step = max(step, maxGuess)
		}
		if again := convert(set, b, step); again != got {
			t.Fatalf("%s of %q by %d: %q, at once %q", name, b, step, again, got)
		}
		if isASCII(b) && !bytes.ContainsAny(b, "\x1b\x0e\x0f~+\\") && !strings.HasPrefix(name, "utf-16") && got != string(b) {
			t.Fatalf("%s of ASCII %q: %q", name, b, got)
		}
	})
}
