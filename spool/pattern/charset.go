package pattern

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/traditionalchinese"
	"golang.org/x/text/transform"
)

// charset is how bytes are read as characters. A nil one is UTF-8, and what is
// none of it windows-1252, byte by byte: so mail that names no charset, a wrong
// one, or ASCII is read.
type charset struct {
	form   form
	single *charmap.Charmap
	// multi has no state of its own, so that all converters share it.
	multi transform.Transformer

	once  sync.Once
	table [256]uint32 // of a single-byte one: the UTF-8, and its length in the highest byte
}

// form is which of the ways to read a charset is its own.
type form byte

const (
	formSingle  form = iota
	formMulti        // several bytes a character, and no state
	formEscapes      // ISO-2022-*: escape sequences, then pairs of 7-bit bytes
	formTildes       // HZ: the same with tildes
	formUTF7
	formUTF16
	formUTF16BE
	formUTF16LE
)

func single(m *charmap.Charmap) *charset { return &charset{form: formSingle, single: m} }

// multi takes encodings whose decoder is an empty struct with a NopResetter.
func multi(f form, e encoding.Encoding) *charset {
	return &charset{form: f, multi: e.NewDecoder().Transformer}
}

var latin1 = single(charmap.Windows1252)

// charsets has the names that mail uses, without case and punctuation. As in
// browsers, a subset is read as the set that its users take it for: ISO-8859-1 as
// windows-1252, GB2312 as GB18030, ks_c_5601 as the whole of EUC-KR. It is made for
// the first message: most starts of the agent read none.
var charsets struct {
	sync.Once
	named map[string]*charset
}

func nameCharsets() {
	all := map[string]*charset{}
	for _, s := range []struct {
		set   *charset
		names string // in one text: slices of them are larger, in an agent that must be small
	}{
		{nil, "utf8 unicode11utf8 unicode20utf8 usascii ascii ansix341968 ansix341986 iso646us us 7bit 8bit unknown8bit binary none"},
		{latin1, "iso88591 latin1 l1 88591 isolatin1 iso885911987 windows1252 cp1252 win1252 1252 ansi cp819 ibm819 isoir100 csisolatin1"},
		{single(charmap.ISO8859_2), "iso88592 latin2 l2 88592 iso885921987 csisolatin2 isoir101"},
		{single(charmap.ISO8859_3), "iso88593 latin3 l3 iso885931988 csisolatin3"},
		{single(charmap.ISO8859_4), "iso88594 latin4 l4 iso885941988 csisolatin4"},
		{single(charmap.ISO8859_5), "iso88595 cyrillic 88595 iso885951988 csisolatincyrillic"},
		{single(charmap.ISO8859_6), "iso88596 arabic iso885961987 iso88596i iso88596e csisolatinarabic"},
		{single(charmap.ISO8859_7), "iso88597 greek greek8 iso885971987 csisolatingreek ecma118 elot928"},
		{single(charmap.ISO8859_8), "iso88598 hebrew iso885981988 iso88598i iso88598e csisolatinhebrew logical visual"},
		{single(charmap.Windows1254), "iso88599 latin5 l5 iso885991989 csisolatin5 windows1254 cp1254 win1254 1254"},
		{single(charmap.ISO8859_10), "iso885910 latin6 l6 csisolatin6"},
		{single(charmap.Windows874), "iso885911 tis620 windows874 cp874 dos874"},
		{single(charmap.ISO8859_13), "iso885913 latin7"},
		{single(charmap.ISO8859_14), "iso885914 latin8"},
		{single(charmap.ISO8859_15), "iso885915 latin9 latin0 l9 885915 csisolatin9"},
		{single(charmap.ISO8859_16), "iso885916 latin10"},
		{single(charmap.Windows1250), "windows1250 cp1250 win1250 1250"},
		{single(charmap.Windows1251), "windows1251 cp1251 win1251 win 1251"},
		{single(charmap.Windows1253), "windows1253 cp1253 win1253 1253"},
		{single(charmap.Windows1255), "windows1255 cp1255 win1255 1255"},
		{single(charmap.Windows1256), "windows1256 cp1256 win1256 1256"},
		{single(charmap.Windows1257), "windows1257 cp1257 win1257 1257"},
		{single(charmap.Windows1258), "windows1258 cp1258 win1258 1258"},
		{single(charmap.KOI8R), "koi8r koi8 koi koi8ru cskoi8r"},
		{single(charmap.KOI8U), "koi8u"},
		{single(charmap.Macintosh), "macintosh mac macroman csmacintosh"},
		{single(charmap.MacintoshCyrillic), "maccyrillic macukrainian"},
		{single(charmap.CodePage437), "cp437 ibm437 437"},
		{single(charmap.CodePage850), "cp850 ibm850 850"},
		{single(charmap.CodePage852), "cp852 ibm852 852"},
		{single(charmap.CodePage855), "cp855 ibm855 855"},
		{single(charmap.CodePage858), "cp858 ibm858"},
		{single(charmap.CodePage860), "cp860 ibm860 860"},
		{single(charmap.CodePage862), "cp862 ibm862 862"},
		{single(charmap.CodePage863), "cp863 ibm863 863"},
		{single(charmap.CodePage865), "cp865 ibm865 865"},
		{single(charmap.CodePage866), "cp866 ibm866 866"},
		{multi(formMulti, traditionalchinese.Big5), "big5 big5hkscs big5eten cp950 windows950 ms950 cnbig5 csbig5"},
		{multi(formMulti, simplifiedchinese.GB18030), "gb18030 gbk gb2312 gb231280 gb23121980 cp936 ms936 windows936 euccn cngb chinese csgb2312 gb"},
		{multi(formTildes, simplifiedchinese.GB18030), "hzgb2312 hz hzgb"},
		{multi(formEscapes, simplifiedchinese.GB18030), "iso2022cn csiso2022cn"},
		{multi(formMulti, korean.EUCKR), "euckr ksc5601 ksc56011987 ksc56011989 ksc56011992 ksx1001 uhc cp949 ms949 windows949 korean cseuckr csksc56011987"},
		{multi(formEscapes, korean.EUCKR), "iso2022kr csiso2022kr"},
		{multi(formMulti, japanese.ShiftJIS), "shiftjis sjis shiftjisms mskanji cp932 ms932 windows932 windows31j cswindows31j csshiftjis shiftjisx0213 shiftjis2004"},
		{multi(formMulti, japanese.EUCJP), "eucjp eucjpms ujis cseucpkdfmtjapanese extendedunixcodepackedformatforjapanese"},
		{multi(formEscapes, japanese.EUCJP), "iso2022jp iso2022jp1 iso2022jp2 iso2022jp3 iso2022jp2004 iso2022jpms iso2022jpext cp50220 cp50221 cp50222 csiso2022jp csiso2022jp2 jis"},
		{&charset{form: formUTF7}, "utf7 unicode11utf7 unicode20utf7 csunicode11utf7 cp65000"},
		{&charset{form: formUTF16}, "utf16 unicode ucs2 iso10646ucs2 iso10646 csunicode csutf16"},
		{&charset{form: formUTF16BE}, "utf16be unicodefffe csutf16be"},
		{&charset{form: formUTF16LE}, "utf16le unicodefeff csutf16le"},
	} {
		for _, n := range strings.Fields(s.names) {
			all[n] = s.set
		}
	}
	charsets.named = all
}

// maxCharset bounds a charset's name, without punctuation.
const maxCharset = 48

// charsetNamed is the charset of a name; nil if it is UTF-8, ASCII or unknown.
func charsetNamed(name []byte) *charset {
	var squeezed [maxCharset]byte
	n := 0
	for _, c := range name {
		switch c |= 0x20; { // of a letter: in lower case
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
			if n == len(squeezed) {
				return nil
			}
			squeezed[n] = c
			n++
		}
	}
	charsets.Do(nameCharsets)
	all := charsets.named
	set, ok := all[string(squeezed[:n])]
	if !ok && n > 1 && squeezed[0] == 'x' { // x-sjis, x-gbk, x-mac-roman
		set = all[string(squeezed[1:n])]
	}
	return set
}

// converter turns text of one charset into UTF-8. The zero value is for the nil
// charset.
type converter struct {
	set *charset
	// Of the stateful charsets.
	escapes escapes
	euc     []byte // what escapes made, and was not converted yet
	units   units
	begun   bool
}

func (c *converter) reset(set *charset) {
	c.set, c.begun = set, false
	c.escapes, c.euc, c.units = escapes{}, c.euc[:0], units{}
}

// append appends src in UTF-8. It returns how many bytes it took: fewer than all
// only if src ends inside a character and is not the last.
func (c *converter) append(dst, src []byte, last bool) ([]byte, int) {
	if c.set == nil {
		return appendUTF8(dst, src, last)
	}
	switch c.set.form {
	case formSingle:
		return c.set.appendSingle(dst, src), len(src)
	case formMulti:
		return appendMulti(dst, src, c.set.multi, last)
	case formUTF7:
		return c.units.appendUTF7(dst, src, last), len(src)
	case formUTF16, formUTF16BE, formUTF16LE:
		if !c.begun {
			c.begun = true
			src = c.units.order(src, c.set.form)
		}
		return c.units.appendUTF16(dst, src, last), len(src)
	}
	if c.set.form == formTildes {
		c.euc = c.escapes.appendTildes(c.euc, src)
	} else {
		c.euc = c.escapes.append(c.euc, src)
	}
	dst, n := appendMulti(dst, c.euc, c.set.multi, last)
	c.euc = c.euc[:copy(c.euc, c.euc[n:])]
	return dst, len(src)
}

// appendUTF8 appends what is UTF-8 as it is, and any other byte as windows-1252.
func appendUTF8(dst, src []byte, last bool) ([]byte, int) {
	from, i := 0, 0
	for i < len(src) {
		if src[i] < utf8.RuneSelf {
			i++
			continue
		}
		r, n := utf8.DecodeRune(src[i:])
		if r == utf8.RuneError && n == 1 {
			if !last && !utf8.FullRune(src[i:]) {
				return append(dst, src[from:i]...), i
			}
			dst = latin1.appendSingle(append(dst, src[from:i]...), src[i:i+1])
			from = i + 1
		}
		i += n
	}
	return append(dst, src[from:]...), len(src)
}

// appendSingle appends text of a single-byte charset.
func (s *charset) appendSingle(dst, src []byte) []byte {
	s.once.Do(func() {
		for i := range s.table {
			r := s.single.DecodeByte(byte(i))
			var b [utf8.UTFMax]byte
			n := utf8.EncodeRune(b[:], r) // at most 3: none has characters beyond the BMP
			s.table[i] = uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(n)<<24
		}
	})
	for i := 0; i < len(src); {
		from := i
		for i < len(src) && src[i] < utf8.RuneSelf {
			i++
		}
		dst = append(dst, src[from:i]...)
		const most = 64 // so that a run in ASCII takes no room for nothing
		for i < len(src) && src[i] >= utf8.RuneSelf {
			n := len(dst)
			dst = slices.Grow(dst, 3*most+1)[:n+3*most+1]
			for end := min(len(src), i+most); i < end && src[i] >= utf8.RuneSelf; i++ {
				e := s.table[src[i]]
				binary.LittleEndian.PutUint32(dst[n:], e) // its highest byte is written over, or cut
				n += int(e >> 24)
			}
			dst = dst[:n]
		}
	}
	return dst
}

// appendMulti appends text in a charset of x/text; what is wrong becomes U+FFFD.
func appendMulti(dst, src []byte, t transform.Transformer, last bool) ([]byte, int) {
	for at := 0; ; {
		dst = slices.Grow(dst, len(src)-at+len(src)/2+16)
		n, k, err := t.Transform(dst[len(dst):cap(dst)], src[at:], last)
		dst, at = dst[:len(dst)+n], at+k
		switch {
		case err == transform.ErrShortDst:
			continue
		case last && at < len(src):
			return utf8.AppendRune(dst, utf8.RuneError), len(src)
		}
		return dst, at
	}
}
