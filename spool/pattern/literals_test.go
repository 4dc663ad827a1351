package pattern

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// hits lists all places where literals stand, found one by one.
func hits(all []literal, text []byte) []string {
	var found []string
	for i, l := range all {
		in := text
		if l.folded {
			in = appendFold(nil, text)
		}
		for at := 0; at+len(l.text) <= len(in); at++ {
			if bytes.HasPrefix(in[at:], l.text) {
				found = append(found, fmt.Sprint(at, " ", i))
			}
		}
	}
	slices.Sort(found)
	return found
}

func hitsTogether(all []literal, text []byte) (found []string, inOrder bool) {
	var s literals
	for i, l := range all {
		l.who = i
		s.add(l)
	}
	s.build()
	last := 0
	inOrder = true
	s.each(text, func(l *literal, at int) {
		found = append(found, fmt.Sprint(at, " ", l.who))
		inOrder = inOrder && at >= last
		last = at
	})
	slices.Sort(found)
	return found, inOrder
}

func checkLiterals(t *testing.T, all []literal, text []byte) {
	t.Helper()
	var names []string
	for _, l := range all {
		names = append(names, string(l.text))
	}
	got, inOrder := hitsTogether(all, text)
	if want := hits(all, text); !slices.Equal(got, want) {
		t.Errorf("literals %q in %q:\n got %q\nwant %q", names, text, got, want)
	}
	if !inOrder {
		t.Errorf("literals %q in %q: not from the front to the back", names, text)
	}
}

// Many literals found in one pass are those found one by one.
func TestLiteralsTogether(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	word := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = "aAbB.\n\xc3"[random.IntN(7)]
		}
		return b
	}
	for range 3000 {
		var all []literal
		for range 1 + random.IntN(6) {
			l := literal{text: word(minLiteral + random.IntN(5)), folded: random.IntN(2) == 0}
			if l.folded {
				for i := range l.text {
					l.text[i] = fold[l.text[i]&0x7f]
				}
			}
			all = append(all, l)
		}
		checkLiterals(t, all, word(random.IntN(200)))
		if t.Failed() {
			return
		}
	}
	long := literal{text: bytes.Repeat([]byte("long "), 40)}
	checkLiterals(t, []literal{long}, append(word(50), bytes.Repeat([]byte("long "), 90)...))
	checkLiterals(t, nil, word(50))
}

func FuzzLiterals(f *testing.F) {
	f.Add([]byte("media.php"), []byte("swiftvalue"), true, []byte("http://x/MEDIA.PHP and Swiftvalue@yahoo.cn"))
	f.Add([]byte("aaaa"), []byte("aaaaa"), false, []byte("aaaaaaaaAAAAaaaa"))
	f.Fuzz(func(t *testing.T, a, b []byte, folded bool, text []byte) {
		var all []literal
		for _, l := range [][]byte{a, b} {
			if folded {
				l = appendFold(nil, l)
			}
			if f := (finder{literal: l, folded: folded}); f.plain() {
				all = append(all, literal{text: l, folded: folded})
			}
		}
		checkLiterals(t, all, text)
	})
}
