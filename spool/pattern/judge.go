package pattern

import (
	"errors"
	"io"
	"math/bits"
	"time"

	"spoolsweep/spool/queuefile"
)

// Message is what a queue file does not say of itself.
type Message struct {
	// Queue is the one it lies in, or lay in when it was set aside: "incoming".
	// A file of maildrop is read by pickup's rules.
	Queue string
	Size  int64 // of the file
	// Moment is when the message has the age that rules ask for.
	Moment time.Time
	// Sources is asked where a rule is on source_count (see Rules.NeedsSources):
	// how many of the messages looked at have the same login, envelope sender,
	// client or null-sender recipient, the largest of these.
	Sources func(*queuefile.Envelope) int64
}

// Hit is a rule and the matching lines that were counted for it: of a leaf on text
// its lines; of a group the sum over its leaves on text that matched; of any other
// rule 0. A value of the envelope that a leaf on any matches counts as a line.
type Hit struct{ Index, Lines int }

// Finding is what a Judge found in one message. Its slices and its envelope are
// valid until the Judge's next Read.
type Finding struct {
	Verdict Verdict
	Why     error // of unreadable
	Rules   []Hit // spam rules that matched
	// Near is spam rules that did not match although lines did, of the text that
	// was read for them: for the histogram.
	Near []Hit
	// Ham is the ham rules that matched. They are looked at only where a spam
	// rule took the message.
	Ham      []int
	Rescued  bool // spam rules took it, and a ham rule won
	Envelope *queuefile.Envelope
	// Capped names the cap that decoding ran into, "depth", "parts" or "size", or
	// is empty.
	Capped string
}

// Judge applies rules to one message after the other and holds the buffers for
// it: one for each goroutine.
type Judge struct {
	rules   *Rules
	reader  queuefile.Reader
	leaves  []verdict
	onText  []int // the leaves that are on text
	texts   [textKinds]lines
	place   [][textKinds]int // of each leaf: its number in each of the texts, -1 where it is not looked for
	read    need             // texts that are counted
	mime    mimeText
	scratch []byte
	finding Finding
	take    func(piece []byte, eol, cr bool) error
	inHead  bool // its end is still to be seen, and wanted
}

// verdict is what is known of a leaf or a node.
type verdict byte

const (
	open verdict = iota // the text was not read yet
	no
	yes
)

// textKind is one of the texts that leaves are matched against, in the order of
// what they cost.
type textKind int

const (
	envelopeText textKind = iota // each value a line
	headerLines
	bodyText
	rawText
	textKinds
)

// need is a set of texts.
type need byte

const (
	needEnvelope need = 1 << envelopeText
	needHeader   need = 1 << headerLines
	needBody     need = 1 << bodyText
	needRaw      need = 1 << rawText
)

// needs are the texts that a field is matched against; none of one with a value.
func (f Field) needs() need {
	switch f {
	case Raw:
		return needRaw
	case Header:
		return needHeader
	case Body:
		return needBody
	case Any:
		return needEnvelope | needHeader | needBody
	}
	return 0
}

// errEnough ends the reading of a content whose rest decides nothing.
var errEnough = errors.New("nothing more is needed")

// Judge makes a Judge of these rules.
func (r *Rules) Judge() *Judge {
	j := &Judge{rules: r, leaves: make([]verdict, len(r.leaves)), place: make([][textKinds]int, len(r.leaves))}
	j.take = j.piece
	for kind := range textKinds {
		t := &j.texts[kind]
		t.overlap = r.overlap
		for i := range r.leaves {
			j.place[i][kind] = -1
			if l := &r.leaves[i]; l.needs&(1<<kind) != 0 {
				j.place[i][kind] = len(t.leaves)
				t.add(l)
			}
		}
	}
	for i := range r.leaves {
		if r.leaves[i].needs != 0 {
			j.onText = append(j.onText, i)
		}
	}
	head := &j.texts[headerLines]
	head.heads = headsOf(head.leaves)
	return j
}

// Read judges the queue file in src. It is unreadable if Postfix would not accept
// it; damage inside the content is found only where a rule has to read that far.
// No more is read than decides: first the envelope, then header, body and raw, and
// a rule that cannot match any more wants no text.
func (j *Judge) Read(src io.ReaderAt, m Message) Finding {
	f := &j.finding
	*f = Finding{Verdict: Ham, Rules: f.Rules[:0], Near: f.Near[:0], Ham: f.Ham[:0]}
	j.reader.Reset(src, m.Size, m.Queue == maildrop)
	var err error
	if f.Envelope, err = j.reader.Envelope(); err != nil {
		return unreadable(err)
	}
	j.readEnvelope(&m, f.Envelope)
	if want := j.missing(); want&(needHeader|needBody) != 0 {
		if err := j.readContent(want); err != nil {
			return unreadable(err)
		}
		if j.read&needBody != 0 {
			f.Capped = j.mime.capped
		}
	}
	if j.missing()&needRaw != 0 {
		if err := readRaw(&j.reader, &j.texts[rawText]); err != nil {
			return unreadable(err)
		}
		j.settle(needRaw)
	}
	j.conclude(f)
	return *f
}

func unreadable(err error) Finding { return Finding{Verdict: Unreadable, Why: err} }

// readEnvelope decides the leaves that are on no text, and searches the values
// for those on any.
func (j *Judge) readEnvelope(m *Message, e *queuefile.Envelope) {
	for i := range j.rules.leaves {
		l := &j.rules.leaves[i]
		switch {
		case l.needs != 0:
			j.leaves[i] = open
		case l.match(m, e, &j.scratch):
			j.leaves[i] = yes
		default:
			j.leaves[i] = no
		}
	}
	j.read = 0
	if t := &j.texts[envelopeText]; len(t.leaves) > 0 {
		t.reset()
		envelopeLines(t, e)
		t.end()
		j.settle(needEnvelope)
	}
}

// envelopeLines writes each value of an envelope once: an original recipient only
// where it is another.
func envelopeLines(t *lines, e *queuefile.Envelope) {
	line := func(s string) {
		if s != "" {
			t.text = append(append(t.text, s...), '\n')
			t.grown()
		}
	}
	line(e.Sender)
	for i := range e.Recipients {
		r := &e.Recipients[i]
		line(r.Address)
		if r.Original != r.Address {
			line(r.Original)
		}
	}
	line(e.Redirect)
	line(e.Login)
	line(e.ClientName)
	line(e.ClientAddress)
}

// readContent searches header and body in one pass, as far as they are wanted.
func (j *Judge) readContent(want need) error {
	var head, body *lines
	if want&needHeader != 0 {
		head = &j.texts[headerLines]
		head.reset()
	}
	if want&needBody != 0 {
		body = &j.texts[bodyText]
		body.reset()
	}
	j.mime.reset(head, body, 0)
	j.inHead = head != nil
	if err := j.reader.Pieces(j.take); err == errEnough {
		return nil
	} else if err != nil {
		return err
	}
	j.mime.end()
	if j.inHead {
		j.endHeader()
	}
	if body != nil {
		body.end()
		j.settle(needBody)
	}
	return nil
}

// piece takes the next piece of the content. At the end of the header it is seen
// whether the body can change anything still.
func (j *Judge) piece(b []byte, eol, cr bool) error {
	j.mime.text(b, eol, cr)
	if j.inHead && !j.mime.top {
		j.endHeader()
		if j.missing()&needBody == 0 {
			return errEnough
		}
	}
	return nil
}

func (j *Judge) endHeader() {
	j.inHead = false
	j.texts[headerLines].end()
	j.settle(needHeader)
}

// settle takes in the texts that were searched. A leaf is decided when it has the
// lines it wants, or all its texts were read; one whose text nobody needed stays
// open and decides nothing.
func (j *Judge) settle(read need) {
	j.read |= read
	for _, i := range j.onText {
		l := &j.rules.leaves[i]
		switch need := l.needs; {
		case need&read == 0:
		case j.count(i) >= l.lines:
			j.leaves[i] = yes
		case need&^j.read == 0:
			j.leaves[i] = no
		}
	}
}

// count is how many lines of the texts that were read matched a leaf.
func (j *Judge) count(leaf int) int {
	if need := j.rules.leaves[leaf].needs; need&j.read == 0 {
		return 0
	} else if need&(need-1) == 0 { // of one text, as nearly all
		kind := bits.TrailingZeros8(uint8(need))
		return j.texts[kind].each[j.place[leaf][kind]].count
	}
	n := 0
	for kind, at := range j.place[leaf] {
		if at >= 0 && j.read&(1<<kind) != 0 {
			n += j.texts[kind].each[at].count
		}
	}
	return n
}

// conclude gathers which rules matched, and the verdict.
func (j *Judge) conclude(f *Finding) {
	for i, r := range j.rules.spam {
		if j.decide(r.node) == yes {
			f.Rules = append(f.Rules, Hit{i, j.lines(r.node, true)})
		} else if n := j.lines(r.node, false); n > 0 {
			f.Near = append(f.Near, Hit{i, n})
		}
	}
	if len(f.Rules) == 0 {
		return
	}
	f.Verdict = Spam
	for i, r := range j.rules.ham {
		if j.decide(r.node) == yes {
			f.Ham = append(f.Ham, i)
			f.Verdict, f.Rescued = Ham, true
		}
	}
}

// lines is Hit.Lines of a node, over all its leaves or only those that matched.
func (j *Judge) lines(n *node, matched bool) int {
	if n.needs == 0 {
		return 0
	}
	if n.op == isLeaf {
		if matched && j.leaves[n.leaf] != yes {
			return 0
		}
		return j.count(n.leaf)
	}
	if n.op == isNot && !matched {
		return 0 // its lines are why it did not match
	}
	sum := 0
	for _, k := range n.kids {
		sum += j.lines(k, matched)
	}
	return sum
}

// missing is the texts that the rules still need: those of each spam rule that
// may match, also where it is decided already but counts lines; and those that
// decide the ham rules.
func (j *Judge) missing() need {
	if j.rules.needs&^j.read == 0 {
		return 0
	}
	var m need
	possible := false
	for _, r := range j.rules.spam {
		if possible && r.node.needs&^j.read == 0 {
			continue // it adds nothing
		}
		if j.decide(r.node) != no {
			possible = true
			m |= j.missingOf(r.node)
		}
	}
	if !possible {
		return 0
	}
	for _, r := range j.rules.ham {
		if r.node.needs&^j.read != 0 && j.decide(r.node) == open {
			m |= j.missingOf(r.node)
		}
	}
	return m &^ j.read
}

// decide is what the leaves known so far make of a node.
func (j *Judge) decide(n *node) verdict {
	switch n.op {
	case isLeaf:
		return j.leaves[n.leaf]
	case isNot:
		switch j.decide(n.kids[0]) {
		case yes:
			return no
		case no:
			return yes
		}
		return open
	}
	want, matched, unknown := n.n, 0, 0
	switch n.op {
	case isAny:
		want = 1
	case isAll:
		want = len(n.kids)
	}
	for _, k := range n.kids {
		switch j.decide(k) {
		case yes:
			matched++
		case open:
			unknown++
		}
	}
	switch {
	case matched >= want:
		return yes
	case matched+unknown < want:
		return no
	}
	return open
}

// missingOf is the texts of a node that can still match; of what stands in not,
// only those of what is not decided.
func (j *Judge) missingOf(n *node) need {
	switch {
	case n.op == isLeaf:
		return n.needs
	case n.needs == 0, j.decide(n) == no && n.op != isNot:
		return 0
	}
	var m need
	for _, k := range n.kids {
		if n.op == isNot && j.decide(k) != open {
			continue
		}
		m |= j.missingOf(k)
	}
	return m
}
