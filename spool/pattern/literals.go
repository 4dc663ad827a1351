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
	shift [pairs]uint8
	// first is, for a pair with shift 0, 1 + the index in all of the first
	// literal whose window ends with it; next chains the others.
	first [pairs]uint16
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

// pair is the number of two bytes, the first in the lower half.
func pair(two uint16) uint16 { return (two ^ two>>5) % pairs }

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
	for i := range s.shift {
		s.shift[i] = uint8(s.window - 1)
	}
	for i := range s.all {
		l := &s.all[i]
		for at := 0; at+1 < s.window; at++ {
			left := uint8(s.window - 2 - at)
			for _, a := range cases(l.text[at], l.folded) {
				for _, b := range cases(l.text[at+1], l.folded) {
					at := &s.shift[pair(uint16(a)|uint16(b)<<8)]
					*at = min(*at, left)
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

func chain(a, b byte) uint16 { return pair(uint16(fold[a]) | uint16(fold[b])<<8) }

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
func (s *literals) each(text []byte, hit func(l *literal, at int)) {
	if len(s.all) == 0 {
		return
	}
	back := s.window - 1
	for end := back; end < len(text); {
		two := uint16(text[end-1]) | uint16(text[end])<<8
		if n := int(s.shift[pair(two)]); n > 0 {
			end += n
			continue
		}
		at := end - back
		for i := s.first[chain(text[end-1], text[end])]; i > 0; i = s.all[i-1].next {
			if l := &s.all[i-1]; l.stands(text[at:]) {
				hit(l, at)
			}
		}
		end++
	}
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
