package pattern

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// decoded is all that is seen of a mail.
type decoded struct{ head, body, capped string }

// decode reads a mail that comes in lines, and these in pieces of at most step
// bytes.
func decode(m []byte, step int) decoded {
	var head, body lines
	head.reset()
	body.reset()
	head.full, body.full = 1<<40, 1<<40
	var d mimeText
	d.reset(&head, &body, 0)
	feed(&d, m, step)
	head.breakLines()
	body.breakLines()
	return decoded{string(head.text), string(body.text), d.capped}
}

func feed(d *mimeText, m []byte, step int) {
	for line := range bytes.SplitAfterSeq(m, newline) {
		line, eol := bytes.CutSuffix(line, newline)
		for len(line) > step {
			d.piece(line[:step], false)
			line = line[step:]
		}
		if eol || len(line) > 0 {
			d.piece(line, eol)
		}
	}
	d.end()
}

const wholeLines = 1 << 30

// mails are the testdata's, by name.
func mails(t testing.TB) map[string][]byte {
	t.Helper()
	names, _ := filepath.Glob("testdata/mail/*.eml")
	if len(names) == 0 {
		t.Fatal("no mail in testdata/mail")
	}
	all := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".eml")] = b
	}
	return all
}

// TestText compares what is seen of each mail of the testdata with its golden
// file.
func TestText(t *testing.T) {
	for name, m := range mails(t) {
		d := decode(m, wholeLines)
		got := "== head\n" + d.head + "== body\n" + d.body
		golden := filepath.Join("testdata", "text", name+".txt")
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" || d.capped != "" {
			t.Errorf("%s: %s\n%s", name, d.capped, diff)
		}
	}
}

// TestHidden: a link is found by one literal rule on the body, however it is hidden.
func TestHidden(t *testing.T) {
	const url = "http://hidden.test/media.php"
	j := compile(t, `{"body": "hidden.test/media.php?id=1&x=2"}`, ``).Judge()
	link := url + "?id=1&x=2"
	escaped := strings.ReplaceAll(link, "&", "&amp;")
	html := `<p>see <a href="` + escaped + `">this</a></p>`
	wide := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			b.WriteString("\x00" + string(rune(c)))
		}
		return b.String()
	}
	numeric := func(s string) string {
		var b strings.Builder
		for i, c := range []byte(s) {
			fmt.Fprintf(&b, []string{"&#%d;", "&#x%x;", "&#0%d"}[i%3], c)
		}
		return b.String() + ";"
	}
	quoted := func(s string) string {
		var b strings.Builder
		for i, c := range []byte(s) {
			fmt.Fprintf(&b, "=%02X", c)
			if i%20 == 19 {
				b.WriteString("=\n")
			}
		}
		return b.String() + "\n"
	}
	field := func(kind, encoding string) string {
		return "Subject: s\nContent-Type: " + kind + "\nContent-Transfer-Encoding: " + encoding + "\n\n"
	}
	for name, m := range map[string]string{
		"plain":                 field("text/plain", "7bit") + "see " + link + "\n",
		"base64":                field("text/plain", "base64") + b64("see "+link) + "\n",
		"quoted-printable":      field("text/plain", "quoted-printable") + quoted(link),
		"HTML":                  field("text/html", "7bit") + html + "\n",
		"HTML in base64":        field("text/html", "base64") + b64(html) + "\n",
		"HTML in qp":            field("text/html", "quoted-printable") + quoted(html),
		"entities":              field("text/html", "7bit") + "<a href=" + numeric(link) + ">x</a>\n",
		"entities in text":      field("text/html", "7bit") + "<p>" + numeric(link) + "</p>\n",
		"split across tags":     field("text/html", "7bit") + "http://hid<b></b>den.te<i>st/med</i>ia.p<font size=1>hp?id=1&amp;x=2\n",
		"split by a comment":    field("text/html", "7bit") + "http://hidden.test/med<!-- <p> -->ia.php?id=1&amp;x=2\n",
		"split by lines":        field("text/html", "7bit") + "<a href='http://hidden.test/me\ndia.php?id=1&amp;x=2'>\n",
		"split by soft hyphens": field("text/html", "7bit") + "hidden&shy;.test/me&#173;dia.php?id=1&amp;x=2\n",
		"null bytes":            field("text/html", "base64") + b64("<a href='"+strings.ReplaceAll(escaped, "d", "d\x00")+"'>") + "\n",
		"action":                field("text/html", "7bit") + "<form action=" + escaped + ">\n",
		"refresh":               field("text/html", "7bit") + "<meta http-equiv=refresh content='0; url=" + escaped + "'>\n",
		"never closed":          field("text/html", "7bit") + "<a href=\"" + escaped + "\n",
		"utf-16":                field("text/html; charset=utf-16", "base64") + b64(wide(html)) + "\n",
		"utf-7":                 field("text/plain; charset=utf-7", "7bit") + "http://hidden.test+AC8-media.php?id+AD0-1+ACY-x+AD0-2\n",
		"utf-7 by HTML":         field("text/html", "7bit") + "<meta charset=utf-7>+ADw-a href=+ACI-" + escaped + "+ACI-+AD4-\n",
		"iso-2022-jp":           field("text/plain; charset=iso-2022-jp", "7bit") + "\x1b$BF|\x1b(Bhttp://hidden\x1b(J.test/media.php?id=1&x=2\n",
		"an attached message":   field("message/rfc822", "base64") + b64(field("text/html", "base64")+b64(html)+"\n") + "\n",
		"returned":              "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/rfc822\n\n" + field("text/html", "base64") + b64(html) + "\n--b--\n",
		"a returned subject":    "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: text/rfc822-headers\n\nSubject: =?utf-8?B?" + b64(link) + "?=\n\n--b--\n",
		"a file's name":         field("application/pdf; name=\"=?utf-8?B?"+b64(link)+"?=\"", "base64") + "JVBERg==\n",
	} {
		if f := judge(j, message{text: m}.file()); f.Verdict != Spam {
			t.Errorf("%s: %s; the text is %q", name, f.Verdict, decode([]byte(m), wholeLines))
		}
	}
}

// TestCapped: each cap is reported with the finding, and what lies beyond those of
// depth and parts is found in the clear.
func TestCapped(t *testing.T) {
	j := compile(t, `{"body": "needle"}`, ``).Judge()
	var deep, wrapped, parts, size strings.Builder
	for i := range maxDepth + 1 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	inner := "Subject: needle\n\nneedle\n"
	for range maxDepth + 1 {
		inner = "Content-Type: message/rfc822\nContent-Transfer-Encoding: quoted-printable\n\n" + inner
	}
	wrapped.WriteString(inner)
	parts.WriteString("Content-Type: multipart/mixed; boundary=b\n\n")
	for range maxParts + 1 {
		parts.WriteString("--b\n\n")
	}
	size.WriteString("a: b\n\n")
	line := strings.Repeat("x", 2000) + "\n"
	for range (maxDecoded + 2*blockSize) / len(line) {
		size.WriteString(line)
	}
	for _, c := range []struct {
		name, m string
		want    Verdict
		capped  string
	}{
		{"none", "a: b\n\nneedle\n", Spam, ""},
		{"depth", deep.String() + "\nneedle\n", Spam, "depth"},
		{"messages in one another", wrapped.String(), Spam, "depth"},
		{"parts", parts.String() + "needle\n", Spam, "parts"},
		{"size", size.String() + "needle\n", Ham, "size"},
	} {
		if f := judge(j, message{text: c.m}.file()); f.Verdict != c.want || f.Capped != c.capped {
			t.Errorf("%s: %s, capped %q; want %s, %q", c.name, f.Verdict, f.Capped, c.want, c.capped)
		}
	}
}

// TestNoAllocation: once its buffers have grown, the decoder takes no memory.
func TestNoAllocation(t *testing.T) {
	var head, body lines
	var d mimeText
	for _, kind := range benchKinds {
		m := benchMail(t, kind)
		if n := testing.AllocsPerRun(20, func() {
			head.reset()
			body.reset()
			d.reset(&head, &body, 0)
			feed(&d, m, wholeLines)
		}); n > 0 {
			t.Errorf("%s: %v allocations a message", kind, n)
		}
	}
}
