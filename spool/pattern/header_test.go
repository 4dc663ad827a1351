package pattern

import (
	"encoding/base64"
	"fmt"
	"mime"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWords(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"plain = text ?", "plain = text ?"},
		{"=?utf-8?Q?a_b=5F=20c?=", "a b_ c"},
		{"x =?utf-8?q?a?= =?UTF8?b?Yg==?=\t=?utf-8?q?c?= y", "x abc y"},
		{"=?utf-8?q?a?=b=?utf-8?q?c?=", "abc"},
		{"=?utf-8?B?4oI=?= =?utf-8?Q?=AC?=", "€"},
		{"=?iso-2022-jp?B?GyRCRnw=?= =?iso-2022-jp?B?S1wbKEI=?=", "日本"},
		{"=?koi8-r?q?=E4?= =?utf-8?q?a?=", "Дa"},
		{"=?utf-8?b?YWJj", "=?utf-8?b?YWJj"},
		{"=?utf-8?x?abc?= =?utf-8?q?d?=", "=?utf-8?x?abc?= d"},
		{"=?=?utf-8?q?a?=", "=?a"},
		{"=??q?a?=", "=??q?a?="},
		{"=?utf-8?b?!!YW Jj?=", "abc"},
		{"=?utf-8?q?a=0D=0Ab=00c?=", "a  b c"},
		{"=?no-such?q?caf=e9?= caf\xe9", "café café"},
		{"=?utf-8*en?q?a?=", "a"},
		{"=?utf-8?q??= b", " b"},
	} {
		var w words
		if got := string(w.append(nil, []byte(c.in))); got != c.want {
			t.Errorf("%q: got %q, want %q", c.in, got, c.want)
		}
	}
}

// FuzzWords: what the standard library encodes reads the same; whatever comes is
// one line of valid text.
func FuzzWords(f *testing.F) {
	for _, s := range []string{"Grüße aus Köln", "=?utf-8?B?5ryi?= =?utf-8?B?5a0=?= x", "漢字 und so weiter, über mehrere Wörter hinweg, weil es so lang ist", "=?koi8-r?q?=?="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var w words
		got := string(w.append(nil, []byte(s)))
		if !utf8.ValidString(got) || len(got) > 3*len(s) || strings.Count(got, "\n") > strings.Count(s, "\n") {
			t.Fatalf("%q: %q", s, got)
		}
		want := strings.Map(func(r rune) rune {
			if r == '\n' || r == '\r' || r == 0 {
				return ' '
			}
			return r
		}, strings.ToValidUTF8(s, "?"))
		for _, e := range []mime.WordEncoder{mime.QEncoding, mime.BEncoding} {
			coded := e.Encode("utf-8", want)
			if coded == want {
				continue // it needed none
			}
			if got := string(w.append(nil, []byte(coded))); got != want {
				t.Fatalf("%q: got %q, want %q", coded, got, want)
			}
		}
	})
}

func TestFileNames(t *testing.T) {
	for _, c := range []struct{ field, want string }{
		{`attachment; filename=a.pdf`, "a.pdf"},
		{`attachment; FileName = "a b.pdf" ; x=y`, "a b.pdf"},
		{`attachment; filename="a\"b;c.pdf"`, `a"b;c.pdf`},
		{`attachment; filename*=utf-8'de'%c3%bc.pdf`, "ü.pdf"},
		{`attachment; filename=plain.pdf; filename*=koi8-r''%E4.pdf`, "Д.pdf"},
		{`attachment; filename*0="long "; filename*1=name; filename*2=.pdf`, "long name.pdf"},
		{`attachment; filename*1*=%bc; filename*0*=utf-8''%c3; filename*2=".pdf%41"`, "ü.pdf%41"},
		{`attachment; filename*=no quotes%41`, "no quotesA"},
		{`attachment; filename="=?utf-8?B?w7wucGRm?="`, "ü.pdf"},
		{"attachment; filename=\"\xfc.pdf\"", "ü.pdf"},
		{`attachment; filename*=utf-8''%zz%4`, "%zz%4"},
		{`attachment`, ""},
		{`attachment; filename=`, ""},
		{`attachment; filename="not closed`, "not closed"},
	} {
		var w words
		if got := string(w.appendDecoded(nil, []byte(c.field), "filename")); got != c.want {
			t.Errorf("%s: got %q, want %q", c.field, got, c.want)
		}
	}
	// And what the standard library writes.
	for _, name := range []string{"a.pdf", "a b\".pdf", "Rechnung für März.doc", "請求書.pdf", "a;b=c.txt"} {
		field := mime.FormatMediaType("attachment", map[string]string{"filename": name})
		var w words
		if got := string(w.appendDecoded(nil, []byte(field), "filename")); got != name {
			t.Errorf("%s: got %q, want %q", field, got, name)
		}
	}
}

func TestHead(t *testing.T) {
	long := strings.Repeat("0123456789 ", maxPiece/5) // two pieces and more
	for _, c := range []struct{ name, m, head string }{
		{"fields", "A: 1\nB:2\nC :\t3 \n\nD: no\n", "A: 1\nB: 2\nC: 3\n"},
		{"folded", "A:\n 1\n\t2\n   3\n\nx\n", "A: 1 2 3\n"},
		{"folded word", "Subject: =?utf-8?q?a?=\n =?utf-8?q?b?=\n\n", "Subject: ab\n"},
		{"no end", "A: 1", "A: 1\n"},
		{"a blank first", " A: 1\nB: 2\n\n", "A: 1\nB: 2\n"},
		{"mailbox", "From x y\nA: 1\n\n", "From x y\nA: 1\n"},
		{"no field", "Content-Type: text/plain\nno field \xe9\nA: 1\n\n", "Content-Type: text/plain\nno field é\nA: 1\n"},
		{"8 bit", "A: \xc3\xa9\xe9\n\n", "A: éé\n"},
		{"of a part", "Content-Type: multipart/mixed; boundary=b\n\n--b\nX-Part: 1\n\n--b--\n", "Content-Type: multipart/mixed; boundary=b\n"},
		{"attached", "Content-Type: message/rfc822\n\nSubject: s\n\n", "Content-Type: message/rfc822\n"},
		{"empty value", "A:\nB: \n\n", "A:\nB:\n"},
		{"long line", "A: " + long + "\nB: 1\n\n", "A: " + strings.TrimSuffix(long, " ") + "\nB: 1\n"},
		{"too long", "A: x" + strings.Repeat("\n "+strings.Repeat("y", 1000), 40) + "\nB: 1\n\n",
			"A: x" + strings.Repeat(" "+strings.Repeat("y", 1000), 32) + "\nA: " + strings.TrimPrefix(strings.Repeat(" "+strings.Repeat("y", 1000), 8), " ") + "\nB: 1\n"},
	} {
		if d := decode([]byte(c.m), wholeLines); d.head != c.head {
			t.Errorf("%s: got %.300q, want %.300q", c.name, d.head, c.head)
		}
	}
}

func TestAttachments(t *testing.T) {
	part := func(kind, encoding, more, body string) string {
		return "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: " + kind + "\nContent-Transfer-Encoding: " + encoding + "\n" + more + "\n" + body + "--b--\n"
	}
	long := strings.Repeat("é", maxFileName)
	for _, c := range []struct{ m, want string }{
		{part("application/pdf", "base64", "", "JVBE\nRi0x\n"), "\nattachment: application/pdf, 6 bytes\n"},
		{part("Image/PNG; name=a.png", "base64", "", "JVB !\nERg==\n"), "\nattachment: a.png, image/png, 4 bytes\n"},
		{part("image/png", "quoted-printable", "", "a=3Db=\nc \n"), "\nattachment: image/png, 4 bytes\n"},
		{part("image/png", "8bit", "", "ab\ncd\n"), "\nattachment: image/png, 5 bytes\n"},
		{part("image/png", "8bit", "", ""), "\nattachment: image/png, 0 bytes\n"},
		{part("text/plain; name=a.txt", "base64", "", "YWJj\n"), "abc\nattachment: a.txt, text/plain, 3 bytes\n"},
		{part("text/html; charset=koi8-r; name=a", "8bit", "", "<p>\xc4\n"), "д\nattachment: a, text/html, 4 bytes\n"},
		{part("text/plain", "8bit", "Content-Disposition: inline\n", "x\n"), "x\n"},
		{part("image/png; name=\""+long+"\"", "8bit", "", "x\n"), "attachment: " + long[:maxFileName] + ", image/png, 1 bytes\n"},
		{part("image/png; name=\"=?utf-8?q?a=0Ab=09c?=\"", "8bit", "", "x\n"), "attachment: a b c, image/png, 1 bytes\n"},
		{"Content-Type: application/zip\nContent-Transfer-Encoding: base64\n\nUEsDBA==\n", "attachment: application/zip, 4 bytes\n"},
	} {
		d := decode([]byte(c.m), wholeLines)
		if !strings.Contains(d.body, c.want) || !strings.Contains(c.want, "attachment") && strings.Contains(d.body, "attachment") {
			t.Errorf("%.200q: got %.200q, want %.200q", c.m, d.body, c.want)
		}
	}
}

// TestHalf: who wants only the head, or only the body, gets the same of it; and
// without a body nothing is read behind the header.
func TestHalf(t *testing.T) {
	for name, m := range mails(t) {
		both := decode(m, wholeLines)
		var head, body lines
		head.reset()
		body.reset()
		head.full, body.full = 1<<40, 1<<40
		var d mimeText
		d.reset(&head, nil, 0)
		feed(&d, m, wholeLines)
		if string(head.text) != both.head || d.state != inNothing {
			t.Errorf("%s: head alone %q, with body %q", name, head.text, both.head)
		}
		d.reset(nil, &body, 0)
		feed(&d, m, wholeLines)
		body.breakLines()
		if string(body.text) != both.body {
			t.Errorf("%s: body alone %q, with head %q", name, body.text, both.body)
		}
	}
}

// TestPieces: the text is the same in whatever pieces the mail comes.
func TestPieces(t *testing.T) {
	for name, m := range mails(t) {
		want := decode(m, wholeLines)
		for _, step := range []int{1, 2, 5, 60, 1000} {
			if got := decode(m, step); got != want {
				t.Errorf("%s by %d: got %q, want %q", name, step, got, want)
			}
			if got := decodeText(m, step); got != want {
				t.Errorf("%s by %d, fast: got %q, want %q", name, step, got, want)
			}
		}
	}
	// Longer than a block, so that borders fall inside characters and tags.
	for _, c := range []struct{ header, unit string }{
		{"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64", "Grüße 漢字 🀄"},
		{"Content-Transfer-Encoding: base64", "\xe2\x82 \xe9\xc3\xa9\n"},
		{"Content-Type: text/html; charset=gb18030\nContent-Transfer-Encoding: base64", "\xd6\xd0<b>\xce\xc4</b>&#233;<a href='x'>\x81\x30\x81\x30"},
		{"Content-Type: text/plain; charset=iso-2022-jp\nContent-Transfer-Encoding: base64", "\x1b$BF|K\\\x1b(B ok"},
		{"Content-Type: text/plain; charset=utf-16le\nContent-Transfer-Encoding: base64", "a\x00=\xd8\x00\xdc\n\x00"},
	} {
		unit := c.unit
		text := strings.Repeat(unit, 5*blockSize/len(unit))
		// All in one block, since it is short, gives what each repetition must give.
		var whole strings.Builder
		fmt.Fprintf(&whole, "%s\n\n", c.header)
		coded := base64.StdEncoding.EncodeToString([]byte(text))
		for ; len(coded) > 75; coded = coded[75:] {
			whole.WriteString(coded[:75] + "\n")
		}
		whole.WriteString(coded + "\n")
		got := decode([]byte(whole.String()), wholeLines).body
		if again := decode([]byte(whole.String()), 10).body; again != got {
			t.Errorf("%s: pieces differ", c.header)
		}
		if again := decodeText([]byte(whole.String()), 60).body; again != got {
			t.Errorf("%s: fast is different", c.header)
		}
		one := decode([]byte(c.header+"\n\n"+base64.StdEncoding.EncodeToString([]byte(unit+unit))+"\n"), wholeLines).body
		n := 5 * blockSize / len(unit)
		if strings.Contains(got, "\ufffd") || !strings.Contains(c.header, "html") && len(got)-1 != n*(len(one)-1)/2 {
			t.Errorf("%s: %d bytes, of one %q; %.100q", c.header, len(got), one, got)
		}
	}
}
