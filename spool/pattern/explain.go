package pattern

import (
	"bytes"
	"io"
	"math"

	"spoolsweep/spool/queuefile"
)

const (
	// maxExplained bounds each text in which the places are looked for that
	// people are shown: what lies behind is judged, and not shown.
	maxExplained = 1 << 20
	// maxPlaces bounds the places shown of one leaf, and maxShownLine what is
	// shown of a line: beforeHit bytes in front of the match, and what follows.
	maxPlaces    = 20
	maxShownLine = 300
	beforeHit    = 100
	// maxSampled is how far a text is read for a sample of it.
	maxSampled = 32 << 10
)

// Explanation tells why a message is what it is. All texts in it are the mail's.
type Explanation struct {
	Verdict  Verdict
	Why      error // of unreadable
	Envelope *queuefile.Envelope
	Capped   string // as in Finding
	Rules    []ExplainedRule
	// Partial says that a text is longer than what places were looked for in.
	Partial bool
}

// ExplainedRule is what one rule makes of a message.
type ExplainedRule struct {
	Rule    string          `json:"rule"`
	Ham     bool            `json:"ham"`
	Matched bool            `json:"matched"`
	Parts   []ExplainedLeaf `json:"parts"`
}

// ExplainedLeaf is one field of a rule with its patterns.
type ExplainedLeaf struct {
	Part    string   `json:"part"` // as it was written
	Matched bool     `json:"matched"`
	Values  []string `json:"values,omitempty"` // what the message has there; of a field that is no text
	Lines   int      `json:"lines"`            // that match
	Wanted  int      `json:"wanted"`           // how many it takes; 0 for a field that is no text
	Places  []Place  `json:"places,omitempty"` // the first of them
}

// Place is a line that matches.
type Place struct {
	Text   string `json:"text"` // envelope, header, body or raw
	Number int    `json:"number"`
	Line   string `json:"line"`
}

// texts are the names of the texts in a Place.
var texts = [textKinds]string{"envelope", "header", "body", "raw"}

// Explain judges one message and tells where each rule matched, those too that
// decided nothing.
func (j *Judge) Explain(src io.ReaderAt, m Message) Explanation {
	f := j.Read(src, m)
	e := Explanation{Verdict: f.Verdict, Why: f.Why, Envelope: f.Envelope, Capped: f.Capped}
	if f.Verdict == Unreadable {
		return e
	}
	var needed need
	for i := range j.rules.leaves {
		needed |= j.rules.leaves[i].needs
	}
	var found [textKinds][][]byte
	for kind := range textKinds {
		if needed&(1<<kind) == 0 {
			continue
		}
		text, whole, err := j.collect(kind, maxExplained)
		if err != nil {
			return Explanation{Verdict: Unreadable, Why: err}
		}
		e.Partial = e.Partial || !whole
		found[kind] = bytes.Split(bytes.TrimSuffix(text, newline), newline)
	}
	parts := make([]ExplainedLeaf, len(j.rules.leaves))
	for i := range parts {
		l := &j.rules.leaves[i]
		parts[i] = l.explain(&m, f.Envelope, &found)
		j.leaves[i] = no
		if parts[i].Matched {
			j.leaves[i] = yes
		}
	}
	for _, side := range []struct {
		rules []rule
		ham   bool
	}{{j.rules.spam, false}, {j.rules.ham, true}} {
		for _, r := range side.rules {
			one := ExplainedRule{Rule: r.name, Ham: side.ham, Matched: j.decide(r.node) == yes}
			r.node.each(func(leaf int) { one.Parts = append(one.Parts, parts[leaf]) })
			e.Rules = append(e.Rules, one)
		}
	}
	return e
}

// each calls fn for the leaves below a node, in order.
func (n *node) each(fn func(leaf int)) {
	if n.op == isLeaf {
		fn(n.leaf)
	}
	for _, k := range n.kids {
		k.each(fn)
	}
}

func (l *leaf) explain(m *Message, e *queuefile.Envelope, found *[textKinds][][]byte) ExplainedLeaf {
	x := ExplainedLeaf{Part: short(l.name)}
	needs := l.needs
	if needs == 0 {
		var scratch []byte
		x.Matched, x.Values = l.match(m, e, &scratch), l.seen(m, e)
		for i, v := range x.Values {
			x.Values[i] = excerpt([]byte(v), 0)
		}
		return x
	}
	x.Wanted = l.lines
	for kind := range textKinds {
		if needs&(1<<kind) == 0 {
			continue
		}
		for i, line := range found[kind] {
			at, ok := l.in(line)
			if !ok {
				continue
			}
			if x.Lines++; len(x.Places) < maxPlaces {
				x.Places = append(x.Places, Place{texts[kind], i + 1, excerpt(line, at)})
			}
		}
	}
	x.Matched = x.Lines >= x.Wanted
	return x
}

// in tells whether a leaf on text matches a line, and where first.
func (l *leaf) in(line []byte) (at int, ok bool) {
	folded := appendFold(nil, line)
	begin := 0
	if len(l.head) > 0 {
		if !bytes.HasPrefix(folded, l.head) {
			return 0, false
		}
		begin = len(line) - len(bytes.TrimLeft(line[len(l.head):], " \t"))
	}
	at = len(line)
	for _, f := range l.finders {
		hit := -1
		switch {
		case f.re != nil:
			if span := f.re.FindIndex(line[begin:]); span != nil {
				hit = span[0]
			}
		case f.folded:
			hit = bytes.Index(folded[begin:], f.literal)
		default:
			hit = bytes.Index(line[begin:], f.literal)
		}
		if hit >= 0 {
			at, ok = min(at, begin+hit), true
		}
	}
	return at, ok
}

// excerpt is the part of a line around the match.
func excerpt(line []byte, at int) string {
	from := max(0, at-beforeHit)
	if len(line) <= maxShownLine {
		from = 0
	}
	return string(line[from:min(len(line), from+maxShownLine)])
}

// collect gathers up to limit bytes of a text of the message that was read last;
// whole says that this was all of it.
func (j *Judge) collect(kind textKind, limit int) (text []byte, whole bool, err error) {
	var out lines
	out.reset()
	out.full = math.MaxInt // never searched
	enough := func() error {
		if len(out.text) > limit {
			return errEnough
		}
		return nil
	}
	switch kind {
	case envelopeText:
		envelopeLines(&out, j.finding.Envelope)
	case headerLines:
		var d mimeText
		d.reset(&out, nil, 0)
		err = j.reader.Pieces(func(b []byte, eol, cr bool) error {
			if d.text(b, eol, cr); !d.top {
				return io.EOF
			}
			return enough()
		})
		d.end()
		if err == io.EOF {
			err = nil
		}
	case bodyText:
		var d mimeText
		d.reset(nil, &out, 0)
		err = j.reader.Pieces(func(b []byte, eol, cr bool) error {
			d.text(b, eol, cr)
			return enough()
		})
		d.end()
		out.breakLines()
	case rawText:
		out.text, err = appendRuns(nil, &j.reader, limit)
	}
	whole = len(out.text) <= limit
	if err == errEnough {
		err = nil
	}
	return out.text[:min(len(out.text), limit)], whole, err
}

// appendRuns appends the printable runs of a file, each a line.
func appendRuns(dst []byte, r *queuefile.Reader, limit int) ([]byte, error) {
	from := len(dst) // of the run
	for offset := int64(0); len(dst) <= limit; {
		b, err := r.Window(offset)
		if err == io.EOF {
			break
		} else if err != nil {
			return dst, err
		}
		offset += int64(len(b))
		for _, c := range b {
			switch {
			case printable[c]:
				dst = append(dst, c)
			case len(dst)-from >= minRun:
				dst = append(dst, '\n')
				from = len(dst)
			default:
				dst = dst[:from]
			}
		}
	}
	if len(dst)-from < minRun {
		dst = dst[:from]
	}
	return dst, nil
}

// Sample is what a person looks at first in the message that was read last: its
// subject, and up to so many lines of its text.
func (j *Judge) Sample(textLines int) (subject string, text []string, err error) {
	head, _, err := j.collect(headerLines, maxSampled)
	if err != nil {
		return "", nil, err
	}
	for line := range bytes.SplitSeq(head, newline) {
		if name, value, ok := bytes.Cut(line, []byte{':'}); ok && equalFold(name, "subject") {
			value = bytes.TrimSpace(value)
			subject = string(value[:min(len(value), maxShownLine)])
			break
		}
	}
	if textLines == 0 {
		return subject, nil, nil
	}
	body, _, err := j.collect(bodyText, maxSampled)
	if err != nil {
		return "", nil, err
	}
	for line := range bytes.SplitSeq(body, newline) {
		if line = bytes.TrimSpace(line); len(line) > 0 && len(text) < textLines {
			text = append(text, string(line[:min(len(line), maxShownLine)]))
		}
	}
	return subject, text, nil
}
