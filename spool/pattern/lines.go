package pattern

import "bytes"

const (
	// flushAt is how much text is gathered before it is searched.
	flushAt = 128 << 10
	// maxLine bounds one line. A longer one is searched in pieces that overlap by
	// the longest literal, so that literals still count it once; an expression
	// sees the pieces.
	maxLine = 1 << 20
)

// lines searches the text of one field, line by line, for the leaves on that
// field, in a buffer that it fills and empties as the text comes.
type lines struct {
	leaves []*leaf
	each   []search
	// overlap is the longest literal.
	overlap int
	fold    bool // some leaf looks in the folded text
	text    []byte
	folded  []byte
	full    int // search when the text is that long
}

// search is where one leaf stands.
type search struct {
	count int   // matching lines
	open  bool  // the line that has not ended yet is counted already
	next  []int // of each finder: where it is seen next
}

func (t *lines) add(l *leaf) {
	t.leaves = append(t.leaves, l)
	t.each = append(t.each, search{next: make([]int, len(l.finders))})
	t.fold = t.fold || len(l.head) > 0
	for _, f := range l.finders {
		t.fold = t.fold || f.folded
	}
}

func (t *lines) reset() {
	t.text, t.full = t.text[:0], flushAt
	for i := range t.each {
		t.each[i].count, t.each[i].open = 0, false
	}
}

// grown is called whenever text was appended.
func (t *lines) grown() {
	if len(t.text) >= t.full {
		t.flush()
	}
}

// breakLines makes a line's end of every carriage return, which decoded text has
// in front of a newline, or instead of one. Empty lines match nothing.
func (t *lines) breakLines() {
	for rest := t.text; ; {
		i := bytes.IndexByte(rest, '\r')
		if i < 0 {
			return
		}
		rest[i] = '\n'
		rest = rest[i+1:]
	}
}

// flush searches what has whole lines.
func (t *lines) flush() {
	t.breakLines()
	end := bytes.LastIndexByte(t.text, '\n') + 1
	keep := 0
	if end == 0 {
		if len(t.text) < maxLine {
			t.full = 2 * len(t.text)
			return
		}
		end, keep = len(t.text), t.overlap
	}
	t.search(t.text[:end])
	rest := copy(t.text, t.text[end-keep:])
	t.text = t.text[:rest]
	t.full = flushAt + rest
}

// end searches the rest: the text is complete.
func (t *lines) end() {
	t.breakLines()
	t.search(t.text)
	t.text = t.text[:0]
}

// search counts, for each leaf, the lines of block that match it.
func (t *lines) search(block []byte) {
	if len(block) == 0 {
		return
	}
	if t.fold {
		t.folded = appendFold(t.folded[:0], block)
	}
	for i, l := range t.leaves {
		s := &t.each[i]
		from := 0
		if s.open {
			from = lineEnd(block, 0)
		}
		for k := range s.next {
			s.next[k] = -1
		}
		for from < len(block) {
			hit := len(block)
			for k := range l.finders {
				if s.next[k] < from {
					s.next[k] = t.find(&l.finders[k], l.head, block, from)
				}
				hit = min(hit, s.next[k])
			}
			if hit == len(block) {
				break
			}
			s.count++
			from = lineEnd(block, hit)
			s.open = from == len(block) && block[len(block)-1] != '\n'
		}
		if block[len(block)-1] == '\n' {
			s.open = false
		}
	}
}

// find is where a finder matches at or behind from, the beginning of a line; the
// length of block if nowhere. Where head is set, it matches in lines that begin
// with head, behind it.
func (t *lines) find(f *finder, head, block []byte, from int) int {
	in := block
	if f.folded {
		in = t.folded
	}
	for from < len(block) {
		hit := from
		if len(f.literal) > 0 {
			i := bytes.Index(in[from:], f.literal)
			if i < 0 {
				break
			}
			hit += i
		}
		if f.re == nil && len(head) == 0 {
			return hit
		}
		begin, end := bytes.LastIndexByte(block[from:hit], '\n')+1+from, lineEnd(block, hit)
		if len(head) == 0 || bytes.HasPrefix(t.folded[begin:], head) {
			begin += len(head)
			for len(head) > 0 && begin < end && (block[begin] == ' ' || block[begin] == '\t') {
				begin++
			}
			value := bytes.TrimSuffix(block[begin:end], newline)
			if f.re == nil && bytes.Contains(in[begin:begin+len(value)], f.literal) || f.re != nil && f.re.Match(value) {
				return max(hit, begin)
			}
		}
		from = end
	}
	return len(block)
}

var newline = []byte{'\n'}

// lineEnd is where the next line begins.
func lineEnd(block []byte, from int) int {
	if i := bytes.IndexByte(block[from:], '\n'); i >= 0 {
		return from + i + 1
	}
	return len(block)
}
