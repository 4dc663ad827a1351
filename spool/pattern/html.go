package pattern

import (
	"bytes"
	"unicode/utf8"
)

// What of HTML is looked at as a whole; what is longer is read on as something
// else.
const (
	maxEntity    = 40
	maxTag       = 32   // a tag's name
	maxAttribute = 1024 // an attribute's name and what stands before its value
	maxValue     = 8 << 10
	// maxLinks is how many bytes of links wait for the end of their line.
	maxLinks = 16 << 10
)

// htmlText finds the text of HTML in UTF-8, which comes in blocks: what a reader
// sees, blanks as one, and a line's end for each block tag and <br>, so that a word
// that inline tags split is whole. Behind each line stand, each in a line of its
// own, the links of its tags, and attributes that a reader sees. Comments, style and
// script are dropped. Nothing is an error.
type htmlText struct {
	state   page
	dropped string // the element whose end is waited for, or that its tag begins
	begun   bool   // the line has text
	space   bool   // a blank is due if the line goes on
	pre     bool   // blanks and line ends are text
	links   []byte

	attribute attribute
	quote     byte // of the value, or 0
	value     []byte
}

// page is where the scanner stands.
type page byte

const (
	inText page = iota
	inTag
	inValue
	inComment
	inBogus   // a comment of the form <!...> or <?...>
	inDropped // style and script
)

// attribute is what an attribute's value is.
type attribute byte

const (
	attrPerhaps attribute = iota // a link if it looks like one
	attrLink
	attrCaption // seen by a reader
	attrNothing
)

func (h *htmlText) reset() { *h = htmlText{links: h.links[:0], value: h.value[:0]} }

// append appends the text of src. It returns how many bytes it took: fewer than
// all only if src is not the last, and it wants to see the rest again with what
// follows.
func (h *htmlText) append(dst, src []byte, last bool) ([]byte, int) {
	i := 0
	for more := false; i < len(src) && !more; {
		switch h.state {
		case inText:
			dst, i, more = h.text(dst, src, i, last)
		case inTag:
			i, more = h.tag(src, i, last)
		case inValue:
			dst, i = h.appendValue(dst, src, i)
		case inComment:
			i, more = h.comment(src, i, last)
		case inBogus:
			if n := bytes.IndexByte(src[i:], '>'); n >= 0 {
				i, h.state = i+n+1, inText
			} else {
				i = len(src)
			}
		case inDropped:
			i, more = h.drop(src, i, last)
		}
	}
	if last {
		if h.state == inValue {
			dst = h.endValue(dst)
		}
		dst = h.breakLine(dst)
	}
	return dst, i
}

// kinds of bytes in text.
const (
	byteLetter byte = iota
	byteBlank
	byteSpecial
)

var kinds = func() (t [256]byte) {
	for _, c := range []byte(" \t\n\r\f") {
		t[c] = byteBlank
	}
	for _, c := range []byte{'<', '&', 0, 0xc2, 0xe2, 0xef} { // and what invisible characters begin with
		t[c] = byteSpecial
	}
	return t
}()

// text takes text from i to the next tag. It stops, and wants more, in front of
// what it can't decide.
func (h *htmlText) text(dst, src []byte, i int, last bool) ([]byte, int, bool) {
	for i < len(src) {
		from := i
		for i < len(src) {
			if k := kinds[src[i]]; k != byteLetter {
				// A single blank between words is passed with them.
				if src[i] != ' ' || i == from || i+1 == len(src) || kinds[src[i+1]] != byteLetter {
					break
				}
			}
			i++
		}
		if i > from {
			dst = h.put(dst, src[from:i])
		}
		if i == len(src) {
			break
		}
		rest := src[i:]
		switch c := rest[0]; c {
		case '<':
			n, ok := 0, false
			if dst, n, ok = h.open(dst, rest, last); !ok {
				return dst, i, true
			}
			if i += n; h.state != inText {
				return dst, i, false
			}
		case '&':
			r, n, ok := entity(rest, last, false)
			if !ok {
				return dst, i, true
			}
			dst = h.putEntity(dst, r, rest[:n])
			i += n
		case 0xc2, 0xe2, 0xef:
			if !last && !utf8.FullRune(rest) {
				return dst, i, true
			}
			r, n := utf8.DecodeRune(rest)
			dst = h.putRune(dst, r, rest[:n])
			i += n
		case 0:
			i++
		default:
			dst = h.putBlank(dst, c)
			i++
		}
	}
	return dst, i, false
}

// put appends text without blanks at its ends.
func (h *htmlText) put(dst, text []byte) []byte {
	if h.space && h.begun {
		dst = append(dst, ' ')
	}
	h.space, h.begun = false, true
	return append(dst, text...)
}

// putRune appends a character, b in UTF-8. One that nobody sees would only hide the
// word it stands in.
func (h *htmlText) putRune(dst []byte, r rune, b []byte) []byte {
	switch r {
	case 0xa0:
		return h.putBlank(dst, ' ')
	case 0xad, 0x200b, 0x2060, 0xfeff: // soft hyphen, blanks without width
		return dst
	}
	return h.put(dst, b)
}

func (h *htmlText) putBlank(dst []byte, c byte) []byte {
	switch {
	case !h.pre:
		h.space = true
	case c == '\n':
		return h.breakLine(dst)
	case c == '\r':
	default:
		dst = h.put(dst, []byte{c})
	}
	return dst
}

// breakLine ends the line, if it has begun, and puts the links behind it.
func (h *htmlText) breakLine(dst []byte) []byte {
	if h.begun {
		dst = append(dst, '\n')
	}
	h.begun, h.space = false, false
	dst = append(dst, h.links...)
	h.links = h.links[:0]
	return dst
}

// open takes the beginning of a tag or comment, or < as text. It returns how much
// it took, or false if it needs more to know.
func (h *htmlText) open(dst, b []byte, last bool) ([]byte, int, bool) {
	if len(b) == 1 {
		if !last {
			return dst, 0, false
		}
		return h.put(dst, b), 1, true
	}
	at := 1
	switch c := b[1]; {
	case c == '!':
		const begin = "<!--"
		if len(b) < len(begin) && !last && string(b) == begin[:len(b)] {
			return dst, 0, false
		}
		h.state = inBogus
		if bytes.HasPrefix(b, []byte(begin)) {
			h.state = inComment
		}
		return dst, 2, true // its two hyphens may be those of the end
	case c == '?':
		h.state = inBogus
		return dst, 2, true
	case c == '/':
		if len(b) == 2 {
			if !last {
				return dst, 0, false
			}
			return h.put(dst, b), 2, true
		}
		if b[2] == '>' {
			return dst, 3, true
		}
		if !isLetter(b[2]) {
			h.state = inBogus
			return dst, 2, true
		}
		at = 2
	case !isLetter(c):
		return h.put(dst, b[:1]), 1, true
	}
	var name [maxTag]byte
	n := 0
	for i := at; ; i++ {
		if i == len(b) && !last && n < len(name) {
			return dst, 0, false
		}
		if i == len(b) || n == len(name) || ends(b[i]) || i-at > 2*maxTag {
			h.state = inTag
			dst = h.begin(dst, name[:n], at == 2)
			if i < len(b) && b[i] == '>' { // most have no attributes
				h.endTag()
				i++
			}
			return dst, i, true
		}
		if c := b[i]; c != 0 { // else it hides the name
			if c < utf8.RuneSelf {
				c = lower[c]
			}
			name[n] = c
			n++
		}
	}
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// ends tells whether c ends the name of a tag.
func ends(c byte) bool { return kinds[c] == byteBlank || c == '/' || c == '>' }

// begin takes the name of a tag.
func (h *htmlText) begin(dst, name []byte, closing bool) []byte {
	h.dropped = ""
	switch string(name) {
	case "script", "style":
		if !closing {
			h.dropped = "script"
			if name[1] == 't' {
				h.dropped = "style"
			}
		}
	case "td", "th":
		h.space = true
	case "pre", "listing", "xmp":
		h.pre = !closing
		return h.breakLine(dst)
	case "address", "article", "aside", "blockquote", "body", "br", "caption", "center", "dd", "details", "dialog", "dir", "div",
		"dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header",
		"hr", "html", "legend", "li", "main", "menu", "nav", "ol", "optgroup", "option", "p", "plaintext", "section", "select",
		"summary", "table", "tbody", "textarea", "tfoot", "thead", "title", "tr", "ul":
		return h.breakLine(dst)
	}
	return dst
}

// attributes says what the values of attributes are; of those it does not name, a
// value that looks like a link is one.
var attributes = map[string]attribute{
	"href": attrLink, "src": attrLink, "action": attrLink, "formaction": attrLink, "background": attrLink, "cite": attrLink, "longdesc": attrLink,
	"data": attrLink, "poster": attrLink, "srcset": attrLink, "lowsrc": attrLink, "dynsrc": attrLink, "codebase": attrLink, "ping": attrLink,
	"xlink:href": attrLink, "data-href": attrLink, "data-src": attrLink, "data-url": attrLink, "usemap": attrLink, "manifest": attrLink, "archive": attrLink,
	"alt": attrCaption, "title": attrCaption, "value": attrCaption, "placeholder": attrCaption, "label": attrCaption, "summary": attrCaption,
}

// tag takes what is between attributes, and one attribute up to its value.
func (h *htmlText) tag(b []byte, i int, last bool) (int, bool) {
	for i < len(b) && (kinds[b[i]] == byteBlank || b[i] == '/' || b[i] == 0) {
		i++
	}
	if i == len(b) {
		return i, false
	}
	if b[i] == '>' {
		h.endTag()
		return i + 1, false
	}
	from, end := i, min(len(b), i+maxAttribute)
	cut := end == len(b) && end < from+maxAttribute && !last // and more may follow
	var name [maxTag]byte
	n := 0
	for ; i < end && !ends(b[i]) && (b[i] != '=' || i == from); i++ {
		if n < len(name) && b[i] != 0 {
			name[n] = b[i] & 0x7f
			name[n] = lower[name[n]]
			n++
		}
	}
	for i < end && kinds[b[i]] == byteBlank {
		i++
	}
	if i == end {
		if cut {
			return from, true
		}
		return i, false
	}
	if b[i] != '=' {
		return i, false // an attribute without a value
	}
	for i++; i < end && kinds[b[i]] == byteBlank; i++ {
	}
	if i == end {
		if cut {
			return from, true
		}
		return i, false
	}
	if b[i] == '>' {
		return i, false
	}
	h.attribute = attributes[string(name[:n])]
	if bytes.HasPrefix(name[:n], []byte("xmlns")) { // named by an address, and no link
		h.attribute = attrNothing
	}
	h.value, h.quote, h.state = h.value[:0], 0, inValue
	if b[i] == '"' || b[i] == '\'' {
		h.quote = b[i]
		i++
	}
	return i, false
}

// endTag takes the end of a tag.
func (h *htmlText) endTag() {
	h.state = inText
	if h.dropped != "" {
		h.state = inDropped
	}
}

// appendValue takes an attribute's value, or a part of it.
func (h *htmlText) appendValue(dst, b []byte, i int) ([]byte, int) {
	end, whole := i, false
	if h.quote != 0 {
		end = len(b)
		if n := bytes.IndexByte(b[i:], h.quote); n >= 0 {
			end, whole = i+n, true
		}
	} else {
		for end < len(b) && kinds[b[end]] != byteBlank && b[end] != '>' {
			end++
		}
		whole = end < len(b)
	}
	for len(h.value)+end-i > maxValue {
		n := maxValue - len(h.value)
		h.value = append(h.value, b[i:i+n]...)
		i += n
		dst = h.putValue(dst)
	}
	h.value = append(h.value, b[i:end]...)
	if whole {
		dst = h.endValue(dst)
		if h.quote != 0 {
			end++
		}
	}
	return dst, end
}

func (h *htmlText) endValue(dst []byte) []byte {
	h.state = inTag
	return h.putValue(dst)
}

// putValue puts a value, or a part of one that is very long, to the links of the
// line.
func (h *htmlText) putValue(dst []byte) []byte {
	v := h.value
	h.value = h.value[:0]
	if h.attribute == attrNothing || h.attribute == attrPerhaps && !bytes.ContainsAny(v, "/(&") {
		return dst
	}
	n := len(h.links)
	for {
		i := bytes.IndexByte(v, '&')
		if i < 0 {
			break
		}
		h.links = append(h.links, v[:i]...)
		r, k, _ := entity(v[i:], true, true)
		if r[0] == 0 && r[1] == 0 {
			h.links = append(h.links, v[i:i+k]...)
		} else {
			h.links = appendRunes(h.links, r)
		}
		v = v[i+k:]
	}
	h.links = append(h.links, v...)
	h.links = h.links[:n+cleanValue(h.links[n:], h.attribute)]
	if t := h.links[n:]; len(t) == 0 || h.attribute == attrPerhaps && !bytes.Contains(t, []byte("//")) && !bytes.Contains(t, []byte("url(")) {
		h.links = h.links[:n]
		return dst
	}
	h.links = append(h.links, '\n')
	if len(h.links) > maxLinks {
		return h.breakLine(dst)
	}
	return dst
}

// cleanValue takes out of a link what browsers do, blanks at its ends and line
// ends anywhere, and makes a caption one line. It returns the new length.
func cleanValue(b []byte, is attribute) int {
	n := 0
	for _, c := range b {
		switch {
		case c == 0:
			continue
		case kinds[c] == byteBlank && (n == 0 || is != attrCaption && c != ' ' || is == attrCaption && b[n-1] == ' '):
			continue
		case kinds[c] == byteBlank:
			c = ' '
		}
		b[n] = c
		n++
	}
	return len(bytes.TrimRight(b[:n], " "))
}

// comment takes a comment up to its end, which are --> or --!> and, for browsers,
// <!--> and <!---> too.
func (h *htmlText) comment(b []byte, i int, last bool) (int, bool) {
	for at := i; ; {
		n := bytes.IndexByte(b[at:], '>')
		if n < 0 {
			break
		}
		at += n + 1
		if c := b[i:at]; bytes.HasSuffix(c, []byte("-->")) || bytes.HasSuffix(c, []byte("--!>")) {
			h.state = inText
			return at, false
		}
	}
	if last {
		return len(b), false
	}
	return max(i, len(b)-len("--!")), true
}

// drop takes what is in a style or script, up to its end tag.
func (h *htmlText) drop(b []byte, i int, last bool) (int, bool) {
	for {
		n := bytes.IndexByte(b[i:], '<')
		if n < 0 {
			return len(b), false
		}
		i += n
		end := i + len("</") + len(h.dropped)
		if end >= len(b) && !last {
			return i, true
		}
		if end <= len(b) && b[i+1] == '/' && equalFold(b[i+2:end], h.dropped) && (end == len(b) || ends(b[end])) {
			h.state, h.dropped = inTag, ""
			return end, false
		}
		i++
	}
}
