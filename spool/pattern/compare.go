package pattern

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"spoolsweep/spool/queuefile"
)

// queues are those a message can lie in.
var queues = []string{"incoming", "active", "deferred", "hold", "maildrop"}

// maildrop is the one whose files are not the queue manager's yet.
const maildrop = "maildrop"

// addQueue adds a name to a leaf on queue.
func (l *leaf) addQueue(s string, p path) error {
	name := strings.ToLower(s)
	if !slices.Contains(queues, name) {
		err := p.errorf("no queue %q; queues are %s", s, strings.Join(queues, ", "))
		for _, q := range queues {
			if distance(name, q) <= 2 {
				err.Near = q
			}
		}
		return err
	}
	l.addWhole(name)
	return nil
}

// bound is one comparison with a number.
type bound struct {
	op string
	n  int64
}

func (b bound) holds(n int64) bool {
	switch b.op {
	case ">":
		return n > b.n
	case ">=":
		return n >= b.n
	case "<":
		return n < b.n
	case "<=":
		return n <= b.n
	}
	return n == b.n
}

// operators, the longer one of two that begin alike first.
var operators = []string{">=", "<=", ">", "<", "="}

// grammar is what numbers a field is compared with.
type grammar struct {
	what    string
	units   []unit
	bare    bool // a number without a unit
	example string
}

type unit struct {
	name string
	of   int64
}

var comparisons = map[Field]grammar{
	Size:           {"bytes, or with k, M or G", []unit{{"k", 1 << 10}, {"m", 1 << 20}, {"g", 1 << 30}}, true, ">100k"},
	Age:            {"a number with s, m, h, d or w", []unit{{"s", 1}, {"m", 60}, {"h", 3600}, {"d", 86400}, {"w", 7 * 86400}}, false, "<2d"},
	Recipients:     {"a number", nil, true, ">100"},
	RecipientsLeft: {"a number", nil, true, ">100"},
	SourceCount:    {"a number", nil, true, ">20"},
}

// compared tells whether the field is a number.
func (f Field) compared() bool {
	_, ok := comparisons[f]
	return ok
}

// addBound adds a comparison to a leaf on a number.
func (l *leaf) addBound(s string, p path) error {
	g := comparisons[l.field]
	b := bound{op: "="}
	rest := strings.TrimSpace(s)
	for _, op := range operators {
		if after, ok := strings.CutPrefix(rest, op); ok {
			b.op, rest = op, strings.TrimSpace(after)
			break
		}
	}
	factor, bare := int64(1), true
	for _, u := range g.units {
		if last := len(rest) - 1; last >= 0 && strings.EqualFold(rest[last:], u.name) {
			factor, bare, rest = u.of, false, strings.TrimSpace(rest[:last])
			break
		}
	}
	n, err := strconv.ParseUint(rest, 10, 63)
	if err != nil || bare && !g.bare || n > uint64(1<<62)/uint64(factor) {
		return p.errorf("%q is no comparison of %s: that is >, >=, <, <=, = or nothing, and %s, quoted: %s: %q", s, l.label, g.what, l.label, g.example)
	}
	b.n = int64(n) * factor
	if b.op == "<" && b.n == 0 {
		return p.errorf("%q never matches: nothing is below 0", s)
	}
	if b.op == ">=" && b.n == 0 {
		return p.errorf("%q matches every message", s)
	}
	l.bounds = append(l.bounds, b)
	return nil
}

// number is what a message has of a compared field; ok is false if that is not
// known.
func (m *Message) number(f Field, e *queuefile.Envelope) (n int64, ok bool) {
	switch f {
	case Size:
		return e.Size, true
	case Age:
		if e.Arrival.IsZero() {
			return 0, false
		}
		// Of a clock that was wrong: nothing arrives after it is looked at.
		return max(0, int64(m.Moment.Sub(e.Arrival)/time.Second)), true
	case Recipients, RecipientsLeft:
		for i := range e.Recipients {
			if s := e.Recipients[i].State; s == queuefile.ToDo || s == queuefile.Done && f == Recipients {
				n++
			}
		}
		return n, true
	case SourceCount:
		if m.Sources == nil {
			return 0, false
		}
		return m.Sources(e), true
	}
	return 0, false
}

// match decides about a leaf that is on no text.
func (l *leaf) match(m *Message, e *queuefile.Envelope, scratch *[]byte) bool {
	switch {
	case l.field == Queue:
		_, ok := l.whole[m.Queue]
		return ok
	case len(l.bounds) > 0:
		n, ok := m.number(l.field, e)
		return ok && slices.ContainsFunc(l.bounds, func(b bound) bool { return b.holds(n) })
	}
	return l.matchEnvelope(e, scratch)
}

// seen is what a message has in the field of such a leaf, for people: the value
// that matches, or else all there is.
func (l *leaf) seen(m *Message, e *queuefile.Envelope) []string {
	var values []string
	add := func(s string) { values = append(values, s) }
	switch {
	case l.field == Queue:
		add(m.Queue)
	case l.field.compared():
		n, ok := m.number(l.field, e)
		switch {
		case !ok:
			add("unknown")
		case l.field == Age:
			add((time.Duration(n) * time.Second).String())
		default:
			add(fmt.Sprint(n))
		}
	case l.field == Sender:
		add(address(e.Sender))
	case l.field == SASLUser && e.Login != "":
		add(e.Login)
	case l.field == Client:
		if e.ClientName != "" || e.ClientAddress != "" {
			add(e.ClientName + "[" + e.ClientAddress + "]")
		}
	case l.field == Recipient || l.field == RecipientLeft:
		var scratch []byte
		for i := range e.Recipients {
			r := e.Recipients[i : i+1]
			if one := (&queuefile.Envelope{Recipients: r}); l.matchEnvelope(one, &scratch) {
				return []string{recipient(&r[0])}
			}
			if len(values) < maxSeen && (l.field == Recipient || r[0].State == queuefile.ToDo) {
				add(recipient(&r[0]))
			}
		}
		if e.Redirect != "" {
			add(e.Redirect)
		}
	}
	return values
}

// maxSeen bounds the values shown of one leaf.
const maxSeen = 5

func recipient(r *queuefile.Recipient) string {
	if r.Original != "" && r.Original != r.Address {
		return address(r.Address) + ", for " + r.Original
	}
	return address(r.Address)
}

func address(s string) string {
	if s == "" {
		return "<>"
	}
	return s
}
