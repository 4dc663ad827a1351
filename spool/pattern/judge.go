package pattern

import (
	"io"

	"spoolsweep/spool/queuefile"
)

// Hit is a spam rule and the matching lines that were counted for it: of a leaf on
// raw or body its lines; of a group the sum over its leaves on raw and body that
// matched; of any other rule 0.
type Hit struct{ Index, Lines int }

// Finding is what a Judge found in one message. Its slices and its envelope are
// valid until the Judge's next Read.
type Finding struct {
	Verdict Verdict
	Why     error // of unreadable
	Rules   []Hit // spam rules that matched
	// Near is spam leaves on raw and body that did not match although some lines
	// did, fewer than they want: for the histogram.
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
	raw     lines
	body    lines
	mime    mimeText
	scratch []byte
	finding Finding
	place   []int // of each leaf on text: its number in raw or body
	take    func([]byte, bool) error
}

// verdict is what is known of a leaf or a node.
type verdict byte

const (
	open verdict = iota // the text was not read yet
	no
	yes
)

// need says which texts must be read.
type need byte

const (
	needRaw need = 1 << iota
	needBody
)

// Judge makes a Judge of these rules.
func (r *Rules) Judge() *Judge {
	j := &Judge{rules: r, leaves: make([]verdict, len(r.leaves)), place: make([]int, len(r.leaves))}
	j.raw.overlap, j.body.overlap = r.overlap, r.overlap
	j.take = func(b []byte, eol bool) error { j.mime.piece(b, eol); return nil }
	for i := range r.leaves {
		l := &r.leaves[i]
		switch l.field {
		case Raw:
			j.place[i] = len(j.raw.leaves)
			j.raw.add(l)
		case Body:
			j.place[i] = len(j.body.leaves)
			j.body.add(l)
		}
	}
	return j
}

// Read judges the queue file in src. It is unreadable if Postfix would not accept
// it; damage inside the content is found only where a rule on the body has to read
// it.
func (j *Judge) Read(src io.ReaderAt, size int64, maildrop bool) Finding {
	f := &j.finding
	*f = Finding{Verdict: Ham, Rules: f.Rules[:0], Near: f.Near[:0], Ham: f.Ham[:0]}
	j.reader.Reset(src, size, maildrop)
	var err error
	if f.Envelope, err = j.reader.Envelope(); err != nil {
		return unreadable(err)
	}
	var inText, missing need
	for i := range j.rules.leaves {
		l := &j.rules.leaves[i]
		j.leaves[i] = no
		switch {
		case l.field.text():
			j.leaves[i] = open
		case l.matchEnvelope(f.Envelope, &j.scratch):
			j.leaves[i] = yes
		}
	}
	possible := false
	for _, r := range j.rules.spam {
		if j.decide(r.node) != no {
			possible = true
			missing |= j.missing(r.node)
		}
	}
	if possible {
		for _, r := range j.rules.ham {
			if j.decide(r.node) == open {
				missing |= j.missing(r.node)
			}
		}
	}
	if missing&needRaw != 0 {
		if err := readRaw(&j.reader, &j.raw); err != nil {
			return unreadable(err)
		}
		inText |= needRaw
	}
	if missing&needBody != 0 {
		if err := j.readBody(); err != nil {
			return unreadable(err)
		}
		inText |= needBody
		f.Capped = j.mime.capped
	}
	j.settle(inText)
	j.conclude(f, inText)
	return *f
}

func unreadable(err error) Finding { return Finding{Verdict: Unreadable, Why: err} }

// readBody decodes the content's text and searches it.
func (j *Judge) readBody() error {
	j.body.reset()
	j.mime.reset(nil, &j.body, 0)
	if err := j.reader.Content(j.take); err != nil {
		return err
	}
	j.mime.end()
	j.body.end()
	return nil
}

// settle decides the leaves on the texts that were read. A leaf whose text nobody
// needed stays open and decides nothing.
func (j *Judge) settle(read need) {
	for i := range j.rules.leaves {
		l := &j.rules.leaves[i]
		if need := l.needs(); need == 0 || read&need == 0 {
			continue
		}
		j.leaves[i] = no
		if j.count(i) >= l.lines {
			j.leaves[i] = yes
		}
	}
}

// conclude gathers which rules matched, and the verdict.
func (j *Judge) conclude(f *Finding, read need) {
	for i, r := range j.rules.spam {
		if j.decide(r.node) == yes {
			f.Rules = append(f.Rules, Hit{i, j.lines(r.node, read)})
		} else if n := r.node; n.op == isLeaf && read&j.rules.leaves[n.leaf].needs() != 0 {
			if count := j.count(n.leaf); count > 0 {
				f.Near = append(f.Near, Hit{i, count})
			}
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

// needs is the text that a leaf is matched against.
func (l *leaf) needs() need {
	switch l.field {
	case Raw:
		return needRaw
	case Body:
		return needBody
	}
	return 0
}

// count is how many lines matched a leaf.
func (j *Judge) count(leaf int) int {
	if j.rules.leaves[leaf].field == Raw {
		return j.raw.each[j.place[leaf]].count
	}
	return j.body.each[j.place[leaf]].count
}

// lines is Hit.Lines of a node.
func (j *Judge) lines(n *node, read need) int {
	if n.op == isLeaf {
		if j.leaves[n.leaf] == yes && read&j.rules.leaves[n.leaf].needs() != 0 {
			return j.count(n.leaf)
		}
		return 0
	}
	sum := 0
	for _, k := range n.kids {
		sum += j.lines(k, read)
	}
	return sum
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

// missing is the text that a node still needs, also where it is decided already
// but counts lines; nothing where it cannot match any more.
func (j *Judge) missing(n *node) need {
	switch {
	case n.op == isLeaf:
		return j.rules.leaves[n.leaf].needs()
	case j.decide(n) == no && n.op != isNot:
		return 0
	}
	var m need
	for _, k := range n.kids {
		if n.op == isNot && j.decide(k) != open {
			continue
		}
		m |= j.missing(k)
	}
	return m
}
