package pattern

import (
	"bytes"
	"fmt"
	"mime/quotedprintable"
	"strings"
	"testing"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
)

// benchMail is a mail of about 2.4 kB, with the header that such mail has.
func benchMail(t testing.TB, kind string) []byte {
	t.Helper()
	const header = "Received: from mail.elsewhere.test (mail.elsewhere.test [192.0.2.7])\n\tby chavez.mayfirst.org (Postfix) with ESMTPS id 4Xk1bC2xQy\n" +
		"\tfor <reader@mayfirst.org>; Wed, 25 Nov 2026 12:00:00 +0000 (UTC)\nFrom: \"A. Writer\" <a.writer@elsewhere.test>\n" +
		"To: reader@mayfirst.org\nSubject: The minutes of last week's meeting\nDate: Wed, 25 Nov 2026 12:00:00 +0000\n" +
		"Message-Id: <20261125120000.4Xk1bC2xQy@elsewhere.test>\nMIME-Version: 1.0\nContent-Disposition: inline\nContent-Type: text/%s\nContent-Transfer-Encoding: %s\n\n"
	repeat := func(s string, n int) string { return strings.Repeat(s, n/len(s)) }
	wrap := func(s string) string {
		var b strings.Builder
		for s = b64(s); len(s) > 76; s = s[76:] {
			b.WriteString(s[:76] + "\n")
		}
		return b.String() + s + "\n"
	}
	encode := func(e encoding.Encoding, s string) string {
		b, err := e.NewEncoder().String(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const latin = "Some ordinary text of a message, with a few words in a line of it.\n"
	const russian = "Обычный текст письма, несколько слов в каждой его строке.\n"
	const size = 1800
	var m string
	switch kind {
	case "plain":
		m = fmt.Sprintf(header, "plain; charset=us-ascii", "7bit") + repeat(latin, size)
	case "qp":
		var b bytes.Buffer
		w := quotedprintable.NewWriter(&b)
		fmt.Fprint(w, repeat("Ein gewöhnlicher Text, in dem ein paar Wörter auf jeder Zeile stehen müssen.\n", size*9/10))
		w.Close()
		m = fmt.Sprintf(header, "plain; charset=utf-8", "quoted-printable") + b.String()
	case "base64":
		m = fmt.Sprintf(header, "plain; charset=utf-8", "base64") + wrap(repeat(strings.ReplaceAll(latin, "\n", "\r\n"), size*3/4))
	case "utf-8":
		m = fmt.Sprintf(header, "plain; charset=utf-8", "8bit") + repeat(russian, size)
	case "html":
		m = fmt.Sprintf(header, "html; charset=utf-8", "8bit") + "<html><head><style>p { color: red }</style></head><body>\n" +
			repeat("<tr><td class=\"text\" style=\"color: #333\">Some <b>ordinary</b> text of a message&nbsp;with a few words in it.</td>\n"+
				"<td><a href=\"https://elsewhere.test/a/page?x=1&amp;y=2\">a link</a><br></td></tr>\n", size) + "</body></html>\n"
	case "koi8-r":
		m = fmt.Sprintf(header, "plain; charset=koi8-r", "8bit") + encode(charmap.KOI8R, repeat(russian, 2*size))
	case "iso-2022-jp":
		m = fmt.Sprintf(header, "plain; charset=iso-2022-jp", "7bit") +
			encode(japanese.ISO2022JP, repeat("これは普通の文章です。一行にいくつかの言葉があります。\n", size*3/2))
	default:
		t.Fatal(kind)
	}
	return []byte(m)
}

var benchKinds = []string{"plain", "qp", "base64", "utf-8", "html", "koi8-r", "iso-2022-jp"}

// BenchmarkText decodes header and body of a message, and searches nothing.
func BenchmarkText(b *testing.B) {
	for _, kind := range benchKinds {
		b.Run(kind, func(b *testing.B) {
			var records [][]byte
			m := benchMail(b, kind)
			for line := range bytes.Lines(m) {
				records = append(records, bytes.TrimSuffix(line, newline))
			}
			var head, body lines
			var d mimeText
			b.ReportAllocs()
			b.SetBytes(int64(len(m)))
			for b.Loop() {
				head.reset()
				body.reset()
				d.reset(&head, &body, 0)
				for _, r := range records {
					d.piece(r, true)
				}
				d.end()
			}
		})
	}
}

// BenchmarkTen judges by ten rules over envelope and body.
func BenchmarkTen(b *testing.B) {
	const spam = `[{"sender": "<>"}, {"recipient": "x@y.test"}, {"sasl_user": "spam-account"}, {"client": "203.0.113.0/24"},
		{"body": "swiftvalue"}, {"body": "media.php"}, {"body": "/https?:\\S+\\/media\\.php/"}, {"body": "/(?i)wallet\\s+[13]/"},
		{"body": "western union"}, {"body": ["casino", "lottery winner"]}]`
	for _, kind := range benchKinds {
		b.Run(kind, func(b *testing.B) {
			m := message{sender: "a@members.test", recipients: []string{"R b@elsewhere.test"}, login: "a", client: "host.test 192.0.2.1",
				text: string(benchMail(b, kind))}.file()
			j := compile(b, spam, ``).Judge()
			src := bytes.NewReader(m)
			b.ReportAllocs()
			b.SetBytes(int64(len(m)))
			for b.Loop() {
				if f := j.Read(src, Message{Size: int64(len(m))}); f.Verdict != Ham {
					b.Fatal(f)
				}
			}
		})
	}
}
