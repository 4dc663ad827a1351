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
	// together are the literals of the leaves that have no others; a leaf with
	// one that cannot be looked for together with others is searched apart.
	together literals
	apart    []int // leaves
	built    bool
	// overlap is the longest literal.
	overlap int
	// heads are the header names that leaves ask for, where none asks for more.
	heads  [][]byte
	fold   bool // some leaf searched apart looks in the folded text
	text   []byte
	folded []byte
	full   int // search when the text is that long
}

// search is where one leaf stands.
type search struct {
	count int          // matching lines
	open  bool         // the line that has not ended yet is counted already
	next  []int        // of each finder of a leaf searched apart: where it is seen next
	from  int          // the lines before are counted
	tried []int        // of each finder of another: the line it was tried on last
	autos []*automaton // of each finder with an expression
}

func (t *lines) add(l *leaf) {
	who := len(t.leaves)
	t.leaves = append(t.leaves, l)
	t.each = append(t.each, search{next: make([]int, len(l.finders)), tried: make([]int, len(l.finders)), autos: automata(l.finders)})
	for i := range l.finders {
		if !l.finders[i].plain() || len(t.together.all)+len(l.finders) > maxLiterals {
			t.apart = append(t.apart, who)
			t.fold = t.fold || len(l.head) > 0
			for _, f := range l.finders {
				t.fold = t.fold || f.folded
			}
			return
		}
	}
	for i, f := range l.finders {
		t.together.add(literal{text: f.literal, folded: f.folded, who: who, finder: i})
	}
}

// headsOf are the names of the header fields that are all that leaves ask for; nil
// if some asks for any line.
func headsOf(leaves []*leaf) [][]byte {
	var heads [][]byte
	for _, l := range leaves {
		if len(l.head) == 0 {
			return nil
		}
		heads = append(heads, l.head)
	}
	return heads
}

// wants tells whether the line of a header field may match: t is nil where nobody
// reads the header. A name may hold an encoded word, and so become another.
func (t *lines) wants(name []byte) bool {
	if t == nil || t.heads == nil {
		return t != nil
	}
	for _, h := range t.heads {
		if len(name) == len(h)-1 && fold[name[0]] == h[0] {
			return true
		}
	}
	return bytes.IndexByte(name, '=') >= 0
}

// automata are those of a leaf's finders: one for all that try the same expression.
func automata(finders []finder) []*automaton {
	all := make([]*automaton, len(finders))
	for i := range finders {
		switch re := finders[i].re; {
		case re == nil:
		case i > 0 && finders[i-1].re == re:
			all[i] = all[i-1]
		default:
			all[i] = newAutomaton(re)
		}
	}
	return all
}

func (t *lines) reset() {
	if !t.built {
		t.together.build()
		t.built = true
	}
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
	for i := range t.each {
		s := &t.each[i]
		s.from = 0
		if s.open {
			s.from = lineEnd(block, 0)
		}
		for k := range s.next {
			s.next[k], s.tried[k] = -1, -1
		}
	}
	t.searchTogether(block)
	if len(t.apart) > 0 {
		if t.fold {
			t.folded = appendFold(t.folded[:0], block)
		}
		for _, i := range t.apart {
			t.searchApart(block, t.leaves[i], &t.each[i])
		}
	}
	last := block[len(block)-1]
	for i := range t.each {
		s := &t.each[i]
		s.open = last != '\n' && s.from == len(block)
	}
}

// searchTogether finds all literals in one pass.
func (t *lines) searchTogether(block []byte) {
	begin, end := 0, 0 // of the line that was hit last
	t.together.each(block, func(l *literal, at int) {
		s := &t.each[l.who]
		if at < s.from {
			return // another literal of the leaf, on a line that counts already
		}
		if at >= end {
			begin, end = end+bytes.LastIndexByte(block[end:at], '\n')+1, lineEnd(block, at)
		}
		leaf := t.leaves[l.who]
		value, ok := leaf.value(block[begin:end])
		if !ok || at < begin+value {
			return
		}
		if auto := s.autos[l.finder]; auto != nil {
			if s.tried[l.finder] == begin {
				return
			}
			s.tried[l.finder] = begin
			if !auto.match(bytes.TrimSuffix(block[begin+value:end], newline)) {
				return
			}
		}
		s.count++
		s.from = end
	})
}

// searchApart searches for one leaf.
func (t *lines) searchApart(block []byte, l *leaf, s *search) {
	for s.from < len(block) {
		hit := len(block)
		for k := range l.finders {
			if s.next[k] < s.from {
				s.next[k] = t.find(l, &l.finders[k], s.autos[k], block, s.from)
			}
			hit = min(hit, s.next[k])
		}
		if hit == len(block) {
			break
		}
		s.count++
		s.from = lineEnd(block, hit)
	}
}

// find is where a finder of a leaf matches at or behind from, the beginning of a
// line; the length of block if nowhere.
func (t *lines) find(l *leaf, f *finder, auto *automaton, block []byte, from int) int {
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
		begin, end := bytes.LastIndexByte(block[from:hit], '\n')+1+from, lineEnd(block, hit)
		if value, ok := l.value(block[begin:end]); ok {
			begin += value
			text := bytes.TrimSuffix(block[begin:end], newline)
			if auto != nil && auto.match(text) || auto == nil && bytes.Contains(in[begin:begin+len(text)], f.literal) {
				return max(hit, begin)
			}
		}
		from = end
	}
	return len(block)
}

// value is where in a line that begins with the leaf's header name its value
// begins; of a leaf on any line, at its beginning.
func (l *leaf) value(line []byte) (at int, ok bool) {
	if len(l.head) == 0 {
		return 0, true
	}
	if len(line) < len(l.head) {
		return 0, false
	}
	for i, c := range l.head {
		if fold[line[i]] != c {
			return 0, false
		}
	}
	at = len(l.head)
	for at < len(line) && (line[at] == ' ' || line[at] == '\t') {
		at++
	}
	return at, true
}

var newline = []byte{'\n'}

// lineEnd is where the next line begins.
func lineEnd(block []byte, from int) int {
	if i := bytes.IndexByte(block[from:], '\n'); i >= 0 {
		return from + i + 1
	}
	return len(block)
}
