package suggest

import (
	"hash/maphash"
	"slices"
	"strings"
)

const (
	tellingLine = 20 // characters of a line that tells something
	textLines   = 60 // of a message
)

// Texts finds messages that have one text, made of a template: lines that are the
// same but for numbers, links and addresses. The zero value is ready.
type Texts struct {
	seed  maphash.Seed
	lines [][]uint64 // of each message, those that tell something
	in    map[uint64]int
}

// Add takes in the text of a further message.
func (t *Texts) Add(text []string) {
	if t.in == nil {
		t.seed, t.in = maphash.MakeSeed(), map[uint64]int{}
	}
	var lines []uint64
	for _, line := range text[:min(len(text), textLines)] {
		if line = fixed(line); len(line) < tellingLine {
			continue
		}
		if hash := maphash.String(t.seed, line); !slices.Contains(lines, hash) {
			lines = append(lines, hash)
			t.in[hash]++
		}
	}
	t.lines = append(t.lines, lines)
}

// Alike are the messages of one text, for each of these, by the order in which they
// were added: more than half of their lines are in as many messages as enough says.
func (t *Texts) Alike(enough func(n int) bool) (all [][]int) {
	by := map[uint64][]int{} // the line that most messages have
	for i, lines := range t.lines {
		common, most := 0, uint64(0)
		for _, line := range lines {
			if enough(t.in[line]) {
				common++
				if t.in[line] > t.in[most] {
					most = line
				}
			}
		}
		if common*2 > len(lines) {
			by[most] = append(by[most], i)
		}
	}
	for _, lines := range t.lines {
		for _, line := range lines {
			if of := by[line]; enough(len(of)) {
				all = append(all, of)
			}
			delete(by, line)
		}
	}
	return all
}

// drop takes a message out.
func (t *Texts) drop(i int) {
	for _, line := range t.lines[i] {
		t.in[line]--
	}
	t.lines[i] = nil
}

// whole tells whether messages have nothing but one text and what is put into it: it
// stands at their beginning, and other mail has not the same lines. Those that a
// server puts under all mail stand under long letters, too.
func (t *Texts) whole(of []int) bool {
	in := map[uint64]int{}
	for _, i := range of {
		for _, line := range t.lines[i] {
			in[line]++
		}
	}
	begin, alone := 0, false
	for _, i := range of {
		for k, line := range t.lines[i] {
			if 2*in[line] > len(of) {
				if k < 2 {
					begin++
				}
				alone = alone || 20*(t.in[line]-in[line]) <= len(of)
				break
			}
		}
	}
	return alone && 10*begin >= 9*len(of)
}

// fixed is a line without what a template has other words for each time: numbers,
// links and addresses.
func fixed(line string) string {
	var b strings.Builder
	for _, word := range strings.Fields(strings.ToLower(line)) {
		if !strings.ContainsAny(word, "@/0123456789") {
			b.WriteString(word + " ")
		}
	}
	return b.String()
}
