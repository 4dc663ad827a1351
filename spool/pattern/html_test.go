package pattern

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// page is the text of HTML that comes in blocks of step bytes.
func pageText(s string, step int) string {
	var h htmlText
	var out, rest []byte
	for len(s) > step {
		rest = append(rest, s[:step]...)
		s = s[step:]
		var n int
		out, n = h.append(out, rest, false)
		rest = rest[n:]
	}
	out, _ = h.append(out, append(rest, s...), true)
	return string(out)
}

func TestHTML(t *testing.T) {
	long := strings.Repeat("x", 3*maxValue)
	for _, c := range []struct{ name, html, want string }{
		{"inline tags join", "me<b></b>d<i>i</i>a<!-- x -->.p<span>h</span>p", "media.php\n"},
		{"blocks break", "a<p>b</p>c<br>d<br/>e<div>f</div><LI>g", "a\nb\nc\nd\ne\nf\ng\n"},
		{"cells do not", "<table><tr><td>a<td>b<tr><th>c</table>", "a b\nc\n"},
		{"blanks are one", "  a \n\t b&nbsp;&#160;\u00a0c&#32;d \r\n", "a b c d\n"},
		{"pre", "<pre>a  b\r\n\tc</pre>d  e", "a  b\n\tc\nd e\n"},
		{"link behind its line", `x<a href="u">me</a>dia<p>y`, "xmedia\nu\ny\n"},
		{"entities", "&lt;&gt;&amp;&quot;&apos;&eacute;&#233;&#xE9;&#XE9;&euro;&#128;&bne;&nosuch;&copynow&copy2", "<>&\"'éééé€€=⃥&nosuch;©now©2\n"},
		{"no entities", "&; &# &#; &#x &#xg; & &&amp; &#0; &#xd800; &#99999999999;", "&; &# &#; &#x &#xg; & && \ufffd \ufffd \ufffd\n"},
		{"digits without semicolon", "&#104ttp &#x68ttp", "http http\n"},
		{"entity is no tag", "&lt;b&gt;x", "<b>x\n"},
		{"invisible", "me&shy;di\u00ada &#8203;x\u200by\ufeffz", "media xyz\n"},
		{"entities in a link", `<a href="&#104;ttp:&#47;/x.test/?a=1&amp;b=2&copy=3&lt=4&quot;">`, "http://x.test/?a=1&b=2&copy=3&lt=4\"\n"},
		{"percent stays", `<a href="http://x.test/%6d%65dia">`, "http://x.test/%6d%65dia\n"},
		{"quotes", `<a href='a b'><a href=c/d><a href = "e"><a HREF
			=
			'f'>`, "a b\nc/d\ne\nf\n"},
		{"lines in a link", "<a href=\" http://x\n.test/\ta \">", "http://x.test/a\n"},
		{"other attributes", `<img src=a><form action=b><body background=c><input value="d e" formaction=f><object data=g><q cite=h><img alt=" i
			j " title="">`, "a\nb\nc\nd e\nf\ng\nh\ni j\n"},
		{"links anywhere", `<p onclick="go('http://x.test')" style="background:url(y.gif)" data-x="&#47;/z.test" class="a/b" xmlns="http://w3.test">`, "go('http://x.test')\nbackground:url(y.gif)\n//z.test\n"},
		{"refresh", `<meta http-equiv=refresh content="0;url=https://x.test/">`, "0;url=https://x.test/\n"},
		{"comments", "a<!-- <p> -- > -->b<!-->c<!--->d<!--x--!>e<!DOCTYPE x>f<?php x ?>g</>h</ x>i<!-", "abcdefghi\n"},
		{"dropped", "a<style>p { }</style>b<script>if (1<2) '</scr'+'ipt>'</SCRIPT\n>c<script/>d</script>e<styles>f", "abcef\n"},
		{"never closed", "a<style>b", "a\n"},
		{"tag at the end", "a<a href=http://x.test", "a\nhttp://x.test\n"},
		{"quote never closed", `a<a href="http://x.test>b`, "a\nhttp://x.test>b\n"},
		{"text", "1 < 2 <3 a<<b>c< d </ e", "1 < 2 <3 a<c< d\n"},
		{"null bytes", "m\x00e<\x00b<b\x00r>d<a h\x00ref='u\x00v'>", "me<b\nd\nuv\n"},
		{"stray attributes", `<a =x / "q" href=u/ b=">" / >y`, "y\nu/\n"},
		{"end tag with a link", `</a href="u">x`, "x\nu\n"},
		{"long value", `<a href="` + long + `">x`, strings.Repeat(long[:maxValue]+"\n", 2) + "x\n" + long[:maxValue] + "\n"},
		{"long blanks", `<a href` + strings.Repeat(" ", 5000) + `= "u">x`, "x\n"},
		{"long name", "<" + strings.Repeat("b", 5000) + ">x", "x\n"},
		{"empty", "", ""},
		{"title", "<html><head><title>T</title></head><body>b", "T\nb\n"},
		{"many links", strings.Repeat(`<a href="`+long[:maxValue]+`">`, 3) + "x", strings.Repeat(long[:maxValue]+"\n", 2) + "x\n" + long[:maxValue] + "\n"},
	} {
		for _, step := range []int{1 << 20, 1, 2, 3, 7, 1000} {
			if got := pageText(c.html, step); got != c.want {
				t.Errorf("%s by %d: got %.300q\nwant %.300q", c.name, step, got, c.want)
			}
		}
	}
}

// FuzzHTML: in whatever blocks it comes the text is the same, valid, and bounded;
// and every text that x/net/html finds is in it.
func FuzzHTML(f *testing.F) {
	for name, m := range mails(f) {
		if _, body, ok := strings.Cut(string(m), "\n\n"); ok && strings.Contains(name, "html") {
			f.Add(body, 7)
		}
	}
	for _, s := range []string{"me<b></b>dia", "<a href=x>&#104;&amp;</a>", "<!--x--!>y<script>z</script>", "a<pre>b\n c", "&copynow <td>é\u00a0\u200b"} {
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, step int) {
		s = strings.ToValidUTF8(s, "?") // as it is converted
		got := pageText(s, 1<<30)
		if step = max(1, step&0xfff); pageText(s, step) != got {
			t.Fatalf("by %d: %q, at once %q", step, pageText(s, step), got)
		}
		if !utf8.ValidString(got) && len(s) < maxValue {
			t.Fatalf("not valid: %q", got)
		}
		if len(got) > 2*len(s)+1 {
			t.Fatalf("%d bytes of text of %d: %q", len(got), len(s), got)
		}
		// Where x/net/html knows elements that hold no tags, or reads a script's
		// own escapes, or drops what was cut off, it differs on purpose.
		folded := strings.ToLower(s)
		for _, odd := range []string{"<script", "<style", "<title", "<textarea", "<xmp", "<iframe", "<noembed", "<noframes", "<noscript", "<plaintext", "\x00"} {
			if strings.Contains(folded, odd) {
				return
			}
		}
		dense := strings.Join(strings.Fields(got), "")
		for _, text := range htmlTokens(s) {
			if !strings.Contains(dense, text) {
				t.Fatalf("%q lacks %q", dense, text)
			}
		}
	})
}
