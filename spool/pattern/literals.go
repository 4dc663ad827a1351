package pattern

import "bytes"

// literals looks for many literals in one pass over a text, in its upper and
// lower case where they are folded (Wu and Manber, 1994): it looks at two bytes,
// and where no literal can have them there, leaps on.
//
// It takes ASCII letters for the same whatever their case; other letters only
// by exact bytes, so a folded literal that has any is not for it (see plain).
type literals struct {
	all    []literal
	window int // of each literal its first bytes so many are looked for
	// shift is how far the window can move when it ends with two bytes of this
	// pair: 0 where a literal's window may end here.
	shift *[pairs]uint8
	// first is, for a pair with shift 0, 1 + the index in all of the first
	// literal whose window ends with it; next chains the others.
	first *[pairs]uint16
	later []int // see each
}

type literal struct {
	text   []byte // folded where folded is set
	folded bool
	who    int // leaf, and finder there
	finder int
	next   uint16 // 1 + index of the next in the chain, 0 at its end
}

const (
	// minLiteral is the shortest literal that is looked for in this way: a
	// shorter one would make every leap short.
	minLiteral = 4
	maxWindow  = 24
	// maxLiterals is what the chains can number.
	maxLiterals = 1<<16 - 2
	// pairs is how many pairs of bytes are told apart: with more the table would
	// not stay in the cache nearest to the processor, where nearly all the time of
	// a search is spent.
	pairs = 1 << 13
)

// pair is the number of two bytes: of the second the bits that tell letters apart.
func pair(a, b byte) uint16 { return (uint16(a) | uint16(b)<<8) % pairs }

// plain says that a finder's literal can be looked for with others.
func (f *finder) plain() bool {
	return len(f.literal) >= minLiteral && (!f.folded || isASCII(f.literal))
}

func (s *literals) add(l literal) { s.all = append(s.all, l) }

// build makes the tables; nothing is added after that.
func (s *literals) build() {
	if len(s.all) == 0 {
		return
	}
	s.window = maxWindow
	for i := range s.all {
		s.window = min(s.window, len(s.all[i].text))
	}
	s.shift, s.first = new([pairs]uint8), new([pairs]uint16)
	for i := range s.shift {
		s.shift[i] = uint8(s.window - 1)
	}
	for i := range s.all {
		l := &s.all[i]
		for at := 0; at+1 < s.window; at++ {
			left := uint8(s.window - 2 - at)
			for _, a := range cases(l.text[at], l.folded) {
				for _, b := range cases(l.text[at+1], l.folded) {
					n := &s.shift[pair(a, b)]
					*n = min(*n, left)
				}
			}
		}
	}
	// A chain belongs to two bytes as they are written in lower case: literals
	// of both kinds share it.
	for i := len(s.all) - 1; i >= 0; i-- {
		l := &s.all[i]
		key := chain(l.text[s.window-2], l.text[s.window-1])
		l.next = s.first[key]
		s.first[key] = uint16(i + 1)
	}
}

func chain(a, b byte) uint16 { return pair(fold[a], fold[b]) }

func cases(c byte, folded bool) []byte {
	if folded && c >= 'a' && c <= 'z' {
		return []byte{c, c - 'a' + 'A'}
	}
	return []byte{c}
}

// fold is lower for all bytes.
var fold = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
	}
	copy(t[:], lower[:])
	return t
}()

// each calls hit for every place where a literal stands in text, from the front
// to the back.
//
// It goes through the two halves of the text side by side: most of the time the
// processor waits for what the table says of two bytes, and so it waits for both
// at once. What is found in the back half is kept until the front is done.
func (s *literals) each(text []byte, hit func(l *literal, at int)) {
	if len(s.all) == 0 {
		return
	}
	front := s.window - 1 // the window's last byte
	half := max(front, len(text)/2)
	back := half
	s.later = s.later[:0]
	for front < half && back < len(text) {
		m, n := int(s.shift[pair(text[front-1], text[front])]), int(s.shift[pair(text[back-1], text[back])])
		if m == 0 {
			s.ending(text, front, hit)
			m = 1
		}
		if n == 0 {
			if s.ends(text, back) {
				s.later = append(s.later, back)
			}
			n = 1
		}
		front += m
		back += n
	}
	s.rest(text, front, half, hit)
	for _, at := range s.later {
		s.ending(text, at, hit)
	}
	s.rest(text, back, len(text), hit)
}

// rest goes on alone, with windows that end from at on and before end.
func (s *literals) rest(text []byte, at, end int, hit func(l *literal, at int)) {
	for at < end {
		n := int(s.shift[pair(text[at-1], text[at])])
		if n == 0 {
			s.ending(text, at, hit)
			n = 1
		}
		at += n
	}
}

// ending calls hit for the literals whose window ends at a byte.
func (s *literals) ending(text []byte, end int, hit func(l *literal, at int)) {
	at := end + 1 - s.window
	for i := s.first[chain(text[end-1], text[end])]; i > 0; i = s.all[i-1].next {
		if l := &s.all[i-1]; l.stands(text[at:]) {
			hit(l, at)
		}
	}
}

// ends says whether there is any.
func (s *literals) ends(text []byte, end int) bool {
	for i := s.first[chain(text[end-1], text[end])]; i > 0; i = s.all[i-1].next {
		if s.all[i-1].stands(text[end+1-s.window:]) {
			return true
		}
	}
	return false
}

// stands says whether the literal is how text begins.
func (l *literal) stands(text []byte) bool {
	if len(text) < len(l.text) {
		return false
	}
	if !l.folded {
		return bytes.Equal(text[:len(l.text)], l.text)
	}
	for i, c := range l.text {
		if fold[text[i]] != c {
			return false
		}
	}
	return true
}
