package pattern

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"spoolsweep/spool/queuefile"
)

// maxNesting bounds groups in groups: rules come from a person.
const maxNesting = 50

// Compile turns the plain values of the variables spam and ham (maps, lists,
// strings and numbers, as decoding JSON or YAML gives them) into Rules. Nil, an
// empty map or list: no rules. An error is of type [*Error].
//
// A rule is a leaf, {FIELD: PATTERN} or {FIELD: [PATTERN, ...]}, with lines: N
// beside fields of text (raw, header, subject, body, any); or a group
// {any: [...]}, {all: [...]}, {at_least: N, of: [...]}, {not: RULE}; or a list of
// rules: any of them. The word any is a field where patterns stand behind it, and
// a group where rules do.
//
// On sender, recipient, sasl_user and client a plain pattern is one of
//
//	a@example.org    the whole value
//	@example.org     everything at exactly that domain
//	@.example.org    and at the domains below it
//	a@               the local part (not in client)
//	<>               the null sender (in sender and recipient)
//	*                in any of these: any characters
//	192.0.2.0/24, 192.0.2.1-192.0.2.9, 2001:db8::1   addresses (in client)
//
// Recipient means current, original and REDIRECT addresses, done ones too;
// recipient_left only those that are still to be tried. Client is the original
// client's name or address, as [queuefile.Envelope] has them; its name is all
// domain.
//
// Comparisons are a number behind one of > >= < <= =, or a bare one:
//
//	size            >100k   bytes, k, M or G of 1024
//	age             <2d     s, m, h, d or w
//	recipients      >100    and recipients_left, source_count
func Compile(spam, ham any) (*Rules, error) {
	c := compiler{rules: &Rules{}}
	var err error
	if c.rules.spam, err = c.top(spam, "spam"); err != nil {
		return nil, err
	}
	if c.rules.ham, err = c.top(ham, "ham"); err != nil {
		return nil, err
	}
	return c.rules, nil
}

// ParseFlag turns FIELD:PATTERN of the flag -m into the plain value of one leaf.
// The pattern is taken whole, commas and colons too. It is checked as Compile
// checks it.
func ParseFlag(m string) (any, error) {
	name, pat, found := strings.Cut(m, ":")
	name = strings.TrimSpace(name)
	if !found {
		return nil, &Error{Message: fmt.Sprintf("%q is no FIELD:PATTERN; fields are %s", m, list(fields)), Near: nearest(name)}
	}
	plain := map[string]any{name: pat}
	c := compiler{rules: &Rules{}}
	if _, err := c.field(name, nil); err != nil { // lines and groups are no fields here
		return nil, err
	}
	if _, _, err := c.rule(plain, nil, 0); err != nil {
		return nil, err
	}
	return plain, nil
}

type compiler struct {
	rules *Rules
}

// path is where a value stands; errors keep it.
type path []any

func (p path) with(more ...any) path { return append(slices.Clip(p), more...) }

func (p path) errorf(format string, args ...any) *Error {
	return &Error{Path: slices.Clone([]any(p)), Message: fmt.Sprintf(format, args...)}
}

// top compiles one of the two variables to the members of its top-level any.
func (c *compiler) top(plain any, variable string) ([]rule, error) {
	p := path{variable}
	plain, err := normal(plain, p)
	if err != nil {
		return nil, err
	}
	var members []any
	switch v := plain.(type) {
	case nil:
		return nil, nil
	case []any:
		members = v
	case map[string]any:
		if len(v) == 0 {
			return nil, nil
		}
		if any, ok := v["any"]; ok && len(v) == 1 && !patterns(any) {
			p = p.with("any")
			if members, err = several(any, p); err != nil {
				return nil, err
			}
			break
		}
		n, name, err := c.rule(v, p, 0)
		if err != nil {
			return nil, err
		}
		return []rule{{short(name), n}}, nil
	case string:
		if v == "" { // a variable that was left empty on the command line
			return nil, nil
		}
		return nil, p.errorf(`%q is no rule; a rule is like {sender: %q}`, v, v)
	default:
		return nil, p.errorf("%v is no rule; a rule is like {sender: \"<>\"}", v)
	}
	var rules []rule
	seen := map[string]int{}
	for i, m := range members {
		n, name, err := c.rule(m, p.with(i), 0)
		if err != nil {
			return nil, err
		}
		name = short(name)
		if seen[name]++; seen[name] > 1 {
			name = fmt.Sprintf("%s (%d)", name, seen[name])
		}
		rules = append(rules, rule{name, n})
	}
	return rules, nil
}

// normal brings the kinds of map and list that decoders give to one form.
func normal(plain any, p path) (any, error) {
	switch v := plain.(type) {
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, value := range v {
			name, ok := k.(string)
			if !ok {
				return nil, p.errorf("%v is no field; fields are %s", k, list(fields))
			}
			m[name] = value
		}
		return m, nil
	case []string:
		l := make([]any, len(v))
		for i := range v {
			l[i] = v[i]
		}
		return l, nil
	case []map[string]any:
		l := make([]any, len(v))
		for i := range v {
			l[i] = v[i]
		}
		return l, nil
	}
	return plain, nil
}

// several is a group's members: a list, or one rule.
func several(plain any, p path) ([]any, error) {
	plain, err := normal(plain, p)
	if err != nil {
		return nil, err
	}
	l, ok := plain.([]any)
	if _, single := plain.(map[string]any); single {
		l, ok = []any{plain}, true
	}
	if !ok {
		return nil, p.errorf("a list of rules must stand here")
	}
	if len(l) == 0 {
		return nil, p.errorf("a group without rules")
	}
	return l, nil
}

// rule compiles one rule and gives its name.
func (c *compiler) rule(plain any, p path, depth int) (*node, string, error) {
	if depth > maxNesting {
		return nil, "", p.errorf("more than %d groups in one another", maxNesting)
	}
	plain, err := normal(plain, p)
	if err != nil {
		return nil, "", err
	}
	switch v := plain.(type) {
	case map[string]any:
		return c.mapping(v, p, depth)
	case []any:
		return c.group(isAny, "any", v, p, depth)
	case string:
		return nil, "", p.errorf("%q is no rule; a rule is like {sender: %q}", v, v)
	}
	return nil, "", p.errorf("a rule must stand here, such as {sender: \"<>\"}")
}

func (c *compiler) mapping(m map[string]any, p path, depth int) (*node, string, error) {
	var heads []string // all but what only goes with another key
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch {
		case k == "lines" || k == "of":
		default:
			if _, err := c.field(k, p); err != nil && !slices.Contains(groups, k) {
				return nil, "", err
			}
			heads = append(heads, k)
		}
	}
	switch {
	case len(heads) == 0:
		return nil, "", p.errorf("a rule without a field; fields are %s", list(fields))
	case len(heads) > 1:
		var parts []string
		for _, h := range heads {
			parts = append(parts, "{"+h+": ...}")
		}
		return nil, "", p.errorf("%s in one rule; write all: [%s] if each must match", strings.Join(heads, " and "), strings.Join(parts, ", "))
	}
	head := heads[0]
	if _, ok := m["of"]; ok && head != "at_least" {
		return nil, "", p.with("of").errorf("of goes with at_least only")
	}
	lines, err := positive(m, "lines", 1, p)
	if err != nil {
		return nil, "", err
	}
	l, isField := leaf{}, !slices.Contains(groups, head) || head == string(Any) && patterns(m[head])
	if isField {
		if l, err = c.field(head, p); err != nil {
			return nil, "", err
		}
	}
	if _, ok := m["lines"]; ok && !l.field.text() {
		return nil, "", p.with("lines").errorf("lines goes with %s only", list(slices.DeleteFunc(slices.Clone(fields), func(f Field) bool { return !f.text() })))
	}
	if isField {
		l.lines = lines
		return c.leaf(l, m[head], p.with(head))
	}
	switch head {
	case "any", "all":
		members, err := several(m[head], p.with(head))
		if err != nil {
			return nil, "", err
		}
		op := isAny
		if head == "all" {
			op = isAll
		}
		return c.group(op, head, members, p.with(head), depth)
	case "not":
		n, name, err := c.rule(m[head], p.with(head), depth+1)
		if err != nil {
			return nil, "", err
		}
		return &node{op: isNot, kids: []*node{n}, needs: n.needs}, "not(" + name + ")", nil
	default: // at_least
		if _, ok := m["of"]; !ok {
			return nil, "", p.errorf("at_least needs of: the list of rules")
		}
		least, err := positive(m, "at_least", 1, p)
		if err != nil {
			return nil, "", err
		}
		members, err := several(m["of"], p.with("of"))
		if err != nil {
			return nil, "", err
		}
		if least > len(members) {
			return nil, "", p.with("at_least").errorf("at least %d of %d rules can never match", least, len(members))
		}
		n, name, err := c.group(isAtLeast, fmt.Sprintf("at_least %d of", least), members, p.with("of"), depth)
		if err != nil {
			return nil, "", err
		}
		n.n = least
		return n, name, nil
	}
}

// patterns tells whether a field's patterns stand behind the word any, and no rules.
func patterns(plain any) bool {
	switch v := plain.(type) {
	case nil, map[string]any, map[any]any, []map[string]any:
		return false
	case []any:
		return len(v) > 0 && patterns(v[0])
	case []string:
		return len(v) > 0
	}
	return true
}

func (c *compiler) group(op op, word string, members []any, p path, depth int) (*node, string, error) {
	if len(members) == 0 {
		return nil, "", p.errorf("a group without rules")
	}
	g := &node{op: op}
	var parts []string
	for i, m := range members {
		n, name, err := c.rule(m, p.with(i), depth+1)
		if err != nil {
			return nil, "", err
		}
		g.kids = append(g.kids, n)
		g.needs |= n.needs
		parts = append(parts, name)
	}
	return g, word + "(" + strings.Join(parts, ", ") + ")", nil
}

// leaf adds the patterns to a leaf that knows its field.
func (c *compiler) leaf(l leaf, plain any, p path) (*node, string, error) {
	plain, err := normal(plain, p)
	if err != nil {
		return nil, "", err
	}
	pats, isList := plain.([]any)
	if !isList {
		pats = []any{plain}
	} else if len(pats) == 0 {
		return nil, "", p.errorf("a list without patterns")
	}
	var shown []string
	for i, one := range pats {
		at := p
		if isList {
			at = p.with(i)
		}
		s, err := l.quoted(one, at)
		if err != nil {
			return nil, "", err
		}
		switch l.field {
		case Raw, Header, Body, Any:
			err = l.addText(s, at)
		case Queue:
			err = l.addQueue(s, at)
		case Size, Age, Recipients, RecipientsLeft, SourceCount:
			err = l.addBound(s, at)
		default:
			err = l.addValue(s, at)
		}
		if err != nil {
			return nil, "", err
		}
		if len(shown) < maxShown {
			shown = append(shown, s)
		}
	}
	l.name = l.label + ":" + shown[0]
	if isList {
		l.name = l.label + ":[" + strings.Join(shown, ", ") + "]"
		if more := len(pats) - len(shown); more > 0 {
			l.name = fmt.Sprintf("%s:[%s and %d more]", l.label, strings.Join(shown, ", "), more)
		}
	}
	if l.lines > 1 {
		l.name += fmt.Sprintf(" lines:%d", l.lines)
	}
	for _, f := range l.finders {
		c.rules.overlap = max(c.rules.overlap, len(f.literal))
	}
	c.rules.sources = c.rules.sources || l.field == SourceCount
	l.needs = l.field.needs()
	c.rules.needs |= l.needs
	c.rules.leaves = append(c.rules.leaves, l)
	return &node{op: isLeaf, leaf: len(c.rules.leaves) - 1, needs: l.needs}, l.name, nil
}

// A rule's name stands in every result, and there may be many rules: a long list
// is named by its first patterns, and a long name is cut.
const (
	maxShown = 8
	maxName  = 200
)

func short(name string) string {
	if len(name) <= maxName {
		return name
	}
	return strings.ToValidUTF8(name[:maxName], "") + "..."
}

// quoted is the pattern, or an error that shows how to write it where YAML made
// something else of it.
func (l *leaf) quoted(plain any, p path) (string, error) {
	switch v := plain.(type) {
	case string:
		if v == "" {
			if l.field == Sender {
				return "", p.errorf("an empty pattern; the null sender is %q", "<>")
			}
			return "", p.errorf("an empty pattern")
		}
		if len(v) > maxPattern {
			return "", p.errorf("a pattern of %d bytes; at most %d", len(v), maxPattern)
		}
		return v, nil
	case int, int64, uint64, json.Number:
		if l.field.compared() {
			return fmt.Sprint(v), nil
		}
	case float64: // a whole number, where JSON was decoded
		if l.field.compared() && v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return fmt.Sprintf("%.0f", v), nil
		}
	case nil:
		return "", p.errorf("no pattern; quote it, such as %s: %q", l.label, l.field.example())
	case map[string]any, map[any]any, []any:
		return "", p.errorf("a pattern must stand here, and quoted: {, [ and : mean something to YAML; such as %s: %q", l.label, l.field.example())
	}
	return "", p.errorf("%v was read as no text; quote it: %s: \"%v\"", plain, l.label, plain)
}

// example is a pattern of the field as one would write it.
func (f Field) example() string {
	switch f {
	case Sender:
		return "<>"
	case Recipient, RecipientLeft:
		return "user@example.org"
	case SASLUser:
		return "user"
	case Client:
		return "192.0.2.0/24"
	case Queue:
		return "deferred"
	}
	if c, ok := comparisons[f]; ok {
		return c.example
	}
	return "a part of it"
}

// positive is the whole number m[key], or the default where there is none.
func positive(m map[string]any, key string, otherwise int, p path) (int, error) {
	v, ok := m[key]
	if !ok {
		return otherwise, nil
	}
	n := 0.0
	switch v := v.(type) {
	case int:
		n = float64(v)
	case int64:
		n = float64(v)
	case uint64:
		n = float64(v)
	case float64:
		n = v
	case json.Number:
		n, _ = v.Float64()
	}
	if n != math.Trunc(n) || n < 1 || n > 1e9 {
		return 0, p.with(key).errorf("%v is no number from 1 up", v)
	}
	return int(n), nil
}

// field begins the leaf of a field's name.
func (c *compiler) field(name string, p path) (leaf, error) {
	l := leaf{field: Field(name), label: name, lines: 1}
	head, named := strings.CutPrefix(name, string(Header)+".")
	switch {
	case named:
		if !queuefile.IsHeaderName(head) {
			return l, p.with(name).errorf("%q names no header; one is like header.List-Id", name)
		}
		l.field = Header
		l.head = append([]byte(foldString(head)), ':')
	case l.field == Subject:
		l.field = Header
		l.head = []byte("subject:")
	case !slices.Contains(fields, l.field):
		return l, unknown(p, name)
	}
	return l, nil
}

func list(fields []Field) string {
	var s []string
	for _, f := range fields {
		s = append(s, string(f))
	}
	return strings.Join(s, ", ")
}

func unknown(p path, name string) *Error {
	err := p.with(name).errorf("unknown field %q; fields are %s; groups are %s", name, list(fields), strings.Join(groups, ", "))
	err.Near = nearest(name)
	return err
}

// otherNames are what other tools call our fields.
var otherNames = map[string]Field{
	"from": Sender, "mail_from": Sender, "envelope_sender": Sender,
	"to": Recipient, "rcpt": Recipient, "rcpt_to": Recipient,
	"user": SASLUser, "login": SASLUser, "username": SASLUser, "sasl_username": SASLUser, "account": SASLUser,
	"ip": Client, "client_address": Client, "client_name": Client, "host": Client,
	"text": Body, "content": Body, "strings": Raw,
	"queue_name": Queue, "arrival": Age, "message_size": Size,
	"nrcpt": Recipients, "rcpts": Recipients, "recipient_count": Recipients, "rcpt_count": Recipients,
}

// nearest is the known name that is meant by one that is not, or "".
func nearest(name string) string {
	lower := strings.ToLower(name)
	if len(name) > 64 {
		return ""
	}
	if f, ok := otherNames[lower]; ok {
		return string(f)
	}
	if word, head, ok := strings.Cut(name, "."); ok && head != "" && distance(strings.ToLower(word), string(Header)) <= 2 {
		return string(Header) + "." + head
	}
	best, at := "", 1+max(1, len(name)/2)
	known := append([]string{"lines", "of"}, groups...)
	for _, f := range fields {
		if f != headerNamed {
			known = append(known, string(f))
		}
	}
	for _, k := range known {
		if d := distance(lower, k); d < at {
			best, at = k, d
		}
	}
	return best
}

// distance is Levenshtein's: the letters to change, add or take away.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := corner
			if a[i] != b[j] {
				cost++
			}
			corner = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
