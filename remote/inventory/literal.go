package inventory

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"spoolsweep/playbooks/strict"
)

// literal is a value of an INI file: a literal of Python's (number, text in
// quotes, True, None, list, tuple, map), or else the text as it stands
// (ansible/plugins/inventory/ini.py: _parse_value).
func literal(at *strict.Value, text string) (*strict.Value, error) {
	p := &literals{at: at, rest: strings.TrimLeft(text, " \t")}
	v, err := p.document()
	if refused := new(strict.Error); errors.As(err, &refused) {
		return nil, refused
	}
	if err != nil {
		return at.With(text), nil
	}
	return v, nil
}

// errNoLiteral says that a text is a text.
var errNoLiteral = errors.New("no literal")

// maxNested is how deep Python's parser goes, about.
const maxNested = 100

type literals struct {
	at    *strict.Value
	rest  string
	level int
}

func (p *literals) space() { p.rest = strings.TrimLeft(p.rest, " \t\f") }

func (p *literals) take(token string) bool {
	p.space()
	rest, ok := strings.CutPrefix(p.rest, token)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *literals) document() (*strict.Value, error) {
	items, comma, err := p.items("")
	if err != nil {
		return nil, err
	}
	p.space()
	if len(items) == 0 || p.rest != "" && p.rest[0] != '#' {
		return nil, errNoLiteral
	}
	if comma {
		return p.at.WithItems(items...), nil
	}
	return items[0], nil
}

// items reads values with commas up to the end token, which it leaves.
func (p *literals) items(end string) (items []*strict.Value, comma bool, err error) {
	for {
		p.space()
		if p.rest == "" || p.rest[0] == '#' || end != "" && strings.HasPrefix(p.rest, end) {
			return items, comma, nil
		}
		item, err := p.value()
		if err != nil {
			return nil, false, err
		}
		items = append(items, item)
		if !p.take(",") {
			return items, comma, nil
		}
		comma = true
	}
}

func (p *literals) value() (*strict.Value, error) {
	p.level++
	defer func() { p.level-- }()
	p.space()
	if p.rest == "" || p.level > maxNested {
		return nil, errNoLiteral
	}
	switch c := p.rest[0]; {
	case c == '(':
		p.rest = p.rest[1:]
		items, comma, err := p.items(")")
		v := p.at.WithItems(items...)
		if len(items) == 1 && !comma {
			v = items[0]
		}
		return p.closed(v, err, ")")
	case c == '[':
		p.rest = p.rest[1:]
		items, _, err := p.items("]")
		return p.closed(p.at.WithItems(items...), err, "]")
	case c == '{':
		p.rest = p.rest[1:]
		v, err := p.dict()
		return p.closed(v, err, "}")
	case c == '\'' || c == '"':
		return p.strings()
	case c == '+' || c == '-':
		p.rest = p.rest[1:]
		p.space()
		if p.rest == "" || !isDigit(p.rest[0]) && p.rest[0] != '.' {
			return nil, errNoLiteral
		}
		sign := ""
		if c == '-' {
			sign = "-"
		}
		return p.number(sign)
	case isDigit(c) || c == '.':
		return p.number("")
	}
	for word, plain := range map[string]any{"True": true, "False": false, "None": nil} {
		if rest, ok := strings.CutPrefix(p.rest, word); ok && (rest == "" || !isName(rest[0])) {
			p.rest = rest
			return p.at.With(plain), nil
		}
	}
	return nil, errNoLiteral
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isName(c byte) bool {
	return isDigit(c) || c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= utf8.RuneSelf
}

func (p *literals) closed(v *strict.Value, err error, end string) (*strict.Value, error) {
	if err != nil {
		return nil, err
	}
	if !p.take(end) {
		return nil, errNoLiteral
	}
	return v, nil
}

func (p *literals) dict() (*strict.Value, error) {
	var entries []strict.Entry
	for {
		p.space()
		if p.rest == "" || p.rest[0] == '}' {
			break
		}
		key, err := p.value()
		if err != nil {
			return nil, err
		}
		if !p.take(":") {
			return nil, errNoLiteral // a set, which JSON has none of
		}
		value, err := p.value()
		if err != nil {
			return nil, err
		}
		switch k := key.Plain().(type) {
		case string, int64, float64:
		case bool:
			key = p.at.With(strconv.FormatBool(k)) // as in JSON
		case nil:
			key = p.at.With("null")
		default:
			return nil, errNoLiteral
		}
		entries = append(entries, strict.Entry{Key: p.at.With(key.Text), Value: value})
		if !p.take(",") {
			break
		}
	}
	return p.at.WithEntries(entries...), nil
}

// number reads a whole number or one with a point or exponent.
func (p *literals) number(sign string) (*strict.Value, error) {
	i := 0
	for i < len(p.rest) && (isName(p.rest[i]) || p.rest[i] == '.' ||
		(p.rest[i] == '+' || p.rest[i] == '-') && i > 0 && (p.rest[i-1] == 'e' || p.rest[i-1] == 'E') && !strings.HasPrefix(p.rest, "0x")) {
		i++
	}
	text := p.rest[:i]
	p.rest = p.rest[i:]
	if strings.HasSuffix(text, "_") || strings.Contains(text, "__") {
		return nil, errNoLiteral
	}
	digits := strings.ToLower(strings.ReplaceAll(text, "_", ""))
	base := 10
	for prefix, b := range map[string]int{"0x": 16, "0o": 8, "0b": 2} {
		if rest, ok := strings.CutPrefix(digits, prefix); ok {
			digits, base = rest, b
		}
	}
	if base == 10 && strings.ContainsAny(digits, ".e") {
		if strings.ContainsAny(digits, "xpn") { // what Go knows, and Python does not
			return nil, errNoLiteral
		}
		f, err := strconv.ParseFloat(sign+digits, 64)
		if math.IsInf(f, 0) {
			return nil, p.at.Errorf("%s: not a number that fits into 64 bits", text)
		}
		if err != nil {
			return nil, errNoLiteral
		}
		return p.at.With(f), nil
	}
	if base == 10 && len(digits) > 1 && digits[0] == '0' && strings.Trim(digits, "0") != "" {
		return nil, errNoLiteral // 0777 is none to Python
	}
	n, err := strconv.ParseInt(sign+digits, base, 64)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return nil, p.at.Errorf("%s: number does not fit into 64 bits", text).WithHint("if it is text, write it as '\"%s\"'", text)
	case err != nil:
		return nil, errNoLiteral
	}
	return p.at.With(n), nil
}

// strings reads texts in quotes, of which several in a row are one.
func (p *literals) strings() (*strict.Value, error) {
	var b strings.Builder
	for p.space(); p.rest != "" && (p.rest[0] == '\'' || p.rest[0] == '"'); p.space() {
		quote := p.rest[0]
		if strings.HasPrefix(p.rest, strings.Repeat(string(quote), 3)) {
			return nil, errNoLiteral
		}
		i := 1
		for ; ; i++ {
			if i >= len(p.rest) {
				return nil, errNoLiteral
			}
			if p.rest[i] == quote {
				break
			}
			if p.rest[i] != '\\' {
				b.WriteByte(p.rest[i])
				continue
			}
			n, ok := escape(&b, p.rest[i:])
			if !ok {
				return nil, errNoLiteral
			}
			i += n - 1
		}
		p.rest = p.rest[i+1:]
	}
	if !utf8.ValidString(b.String()) {
		return nil, errNoLiteral
	}
	return p.at.With(b.String()), nil
}

// escape writes what a text that begins with a backslash begins with, and returns
// how long that is.
func escape(b *strings.Builder, text string) (length int, ok bool) {
	if len(text) < 2 {
		return 0, false
	}
	const letters, stand = `\'"abfnrtv`, "\\'\"\a\b\f\n\r\t\v"
	c := text[1]
	if i := strings.IndexByte(letters, c); i >= 0 {
		b.WriteByte(stand[i])
		return 2, true
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	switch {
	case digits > 0:
		if len(text) < 2+digits {
			return 0, false
		}
		n, err := strconv.ParseUint(text[2:2+digits], 16, 32)
		if err != nil || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
			return 0, false
		}
		b.WriteRune(rune(n))
		return 2 + digits, true
	case c >= '0' && c <= '7':
		end := 2
		for end < len(text) && end < 4 && text[end] >= '0' && text[end] <= '7' {
			end++
		}
		n, _ := strconv.ParseUint(text[1:end], 8, 32) // at most three octal digits
		b.WriteRune(rune(n))
		return end, true
	case c == 'N':
		return 0, false
	}
	b.WriteString(text[:1]) // an escape that Python does not know stays
	return 1, true
}
