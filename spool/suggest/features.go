package suggest

import (
	"strings"

	"spoolsweep/spool/queuefile"
)

// Bounds of what is looked at in one message, and of a pattern.
const (
	maxLines     = 200
	maxWords     = 60 // of a line
	leastPattern = 8
	mostPattern  = 100
)

// looker finds the features of one message.
type looker struct {
	m    *Message
	own  []string // this server's domains
	seen func(kind Kind, field, pattern string, line int32)
	line int32
	kind Kind
	of   string // field
}

// look calls seen for everything in a message by which others may be like it,
// and the line that it stands in: never for what is this message's alone, such as
// numbers, dates and its addressees, nor for what the server wrote.
func (m *Message) look(own []string, seen func(kind Kind, field, pattern string, line int32)) {
	l := looker{m: m, own: own, seen: seen}
	for _, h := range m.Header {
		l.line++
		name, value, _ := strings.Cut(h, ":")
		value = strings.TrimSpace(value)
		l.kind, l.of = Header, "header."+name
		switch lower := strings.ToLower(name); {
		case value == "" || !queuefile.IsHeaderName(name):
		case lower == "subject":
			l.kind, l.of = Subject, lower
			l.text(value)
		case lower == "message-id":
			if _, domain, ok := strings.Cut(value, "@"); ok && !variable(domain) {
				l.put("@" + domain)
			}
		case telling(lower):
			l.value(value)
		}
	}
	for _, t := range m.Text[:min(len(m.Text), maxLines)] {
		l.line++
		l.kind, l.of = Phrase, "body"
		if strings.HasPrefix(t, "attachment: ") { // name, type and size
			l.value(t[:max(0, strings.LastIndexByte(t, ','))])
			continue
		}
		l.text(t)
	}
}

// telling says whether a header may come from the program that made the flood. Not
// those that every mail has, that are one message's, or that servers add.
func telling(lower string) bool {
	for _, servers := range strings.Fields("x-spam x-virus x-amavis x-origin x-greylist x-rspam x-dspam x-ms- x-google x-gm- x-received x-forefront x-priority") {
		if strings.HasPrefix(lower, servers) {
			return false
		}
	}
	return strings.HasPrefix(lower, "x-") || lower == "user-agent" || lower == "reply-to" || lower == "organization"
}

// text looks at a line: its links, its addresses, and the words between.
func (l *looker) text(line string) {
	plain := true
	for {
		before, url, ok := strings.Cut(line, "://")
		if !ok {
			break
		}
		l.words(strings.TrimSuffix(strings.TrimSuffix(before, "s"), "http"))
		end := strings.IndexAny(url, " \t<>\"')]")
		if end < 0 {
			end = len(url)
		}
		kind := l.kind
		if kind == Phrase {
			l.kind = Link
		}
		l.link(url[:end])
		l.kind = kind
		line, plain = url[end:], false
	}
	l.words(line)
	if plain {
		l.shape(line)
	}
}

// shared are hosts on which half the world has something: they tell nothing.
const shared = " w3 google googleapis gstatic facebook fb youtube twitter instagram linkedin microsoft apple whatsapp wikipedia github amazonaws cloudfront telegram zoom "

// link looks at the host and the path of a link.
func (l *looker) link(url string) {
	end := strings.IndexAny(url, "?#")
	if end < 0 {
		end = len(url)
	}
	host, path, _ := strings.Cut(url[:end], "/")
	host, _, _ = strings.Cut(host, ":")
	labels := strings.Split(host, ".")
	if n := len(labels); n > 1 && !strings.Contains(shared, " "+strings.ToLower(labels[n-2])+" ") {
		l.put("://" + host)
		if n > 2 && len(labels[n-2]) > 3 {
			l.put("." + labels[n-2] + "." + labels[n-1])
		}
	}
	last := path[strings.LastIndexByte(path, '/')+1:]
	if strings.HasPrefix(last, "index.") || last == "unsubscribe" || len(last) < 5 {
		return
	}
	l.put("/" + last)
	l.expression("/" + last)
}

// words looks at the words of a part of a line: its addresses, and each run of
// words that holds nothing variable, whole and in pieces.
func (l *looker) words(part string) {
	var run [maxWords][2]int // where words begin and end
	n := 0
	flush := func() {
		for _, of := range [...]int{2, 3, 5, n} {
			for i := 0; of > 0 && i+of <= n; i++ {
				l.phrase(part[run[i][0]:run[i+of-1][1]])
			}
		}
		n = 0
	}
	for at := 0; at < len(part); {
		end := at + strings.IndexAny(part[at:], " \t")
		if end < at {
			end = len(part)
		}
		switch word := part[at:end]; {
		case word == "":
		case strings.Contains(word, "@"):
			flush()
			l.address(word)
		case variable(word), dated(word), n == maxWords:
			flush()
		default:
			run[n] = [2]int{at, end}
			n++
		}
		at = end + 1
	}
	flush()
}

func (l *looker) phrase(text string) {
	if !strings.ContainsAny(text, " \t") && len(text) < 2*leastPattern && text[0] < 0x80 {
		return // one word of a language that has spaces
	}
	l.put(text)
}

// address looks at an address that is neither of the message's own.
func (l *looker) address(word string) {
	word = strings.TrimPrefix(strings.ToLower(strings.Trim(word, `<>()[]{}.,;:!?"'`)), "mailto:")
	if i := strings.IndexByte(word, '@'); i < 1 || i > len(word)-4 || word == l.m.Sender {
		return
	}
	for _, r := range l.m.Recipients {
		if word == r {
			return
		}
	}
	kind := l.kind
	if kind == Phrase {
		l.kind = Address
	}
	l.put(word)
	l.kind = kind
}

// value looks at a short text as a whole.
func (l *looker) value(v string) {
	if strings.Contains(v, "@") {
		for _, word := range strings.Fields(v) {
			l.address(word)
		}
		return
	}
	l.put(v)
	l.shape(v)
}

// put tells a literal, with case folded as it is matched.
func (l *looker) put(literal string) {
	least := 5
	if l.kind == Phrase || l.kind == Address {
		least = leastPattern
	}
	lower := strings.ToLower(literal)
	if n := len(lower); n != len(literal) || n < least || n > mostPattern || variable(lower) || lower[0] == '/' && lower[n-1] == '/' || l.foul(lower) {
		return
	}
	l.seen(l.kind, l.of, lower, l.line)
}

// foul tells whether a text names this server, was damaged, or would do something
// to a terminal.
func (l *looker) foul(lower string) bool {
	for _, d := range l.own {
		if d != "" && strings.Contains(lower, d) {
			return true
		}
	}
	for i := range len(lower) {
		if lower[i] < ' ' || lower[i] == 0x7f {
			return true
		}
	}
	return strings.Contains(lower, "\ufffd")
}

// shape tells an expression for a line with numbers in it.
func (l *looker) shape(line string) {
	line = strings.TrimSpace(line)
	if len(line) > mostPattern || strings.Contains(line, "@") {
		return
	}
	for _, w := range strings.Fields(line) {
		if dated(w) {
			return
		}
	}
	l.expression(line)
}

// expression tells text with its numbers left open, if enough of it is not.
func (l *looker) expression(text string) {
	b := []byte{'/'}
	letters, digits := 0, false
	for i := range len(text) {
		c := text[i]
		switch {
		case c >= '0' && c <= '9':
			if i == 0 || text[i-1] < '0' || text[i-1] > '9' {
				b = append(b, "[0-9]+"...)
			}
			digits = true
			continue
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= 0x80:
			letters++
		case c != ' ' && c != '_' && c != ',' && c != ':':
			b = append(b, '\\') // before punctuation it is always right
		}
		b = append(b, c)
	}
	b = append(b, '/')
	if digits && letters >= leastPattern-2 && !l.foul(strings.ToLower(text)) {
		l.seen(l.kind, l.of, string(b), l.line)
	}
}

// variable tells whether there is a number in a text: an id, a time, a price.
func variable(s string) bool { return strings.ContainsAny(s, "0123456789") }

// dated tells whether a word names a day or a month.
func dated(word string) bool {
	word = strings.ToLower(strings.Trim(word, ".,;:()[]"))
	return len(word) > 2 && strings.Contains(" monday tuesday wednesday thursday friday saturday sunday mon tue wed thu fri sat sun january february march april june july august september october november december jan feb mar apr jun jul aug sep oct nov dec ", " "+word+" ")
}
