package suggest

import (
	"math/bits"
	"slices"
)

// FromSamples looks for atoms in mail that is known to be of the flood, and that
// mail which is to be kept lacks. It is for who has these at hand: no host needs it.
func FromSamples(samples, keep []*Message) []Atom {
	s := &survey{known: map[string]*feature{}, all: len(samples), both: slices.Concat(samples, keep), rest: keep,
		least: min(leastDrawn, len(samples)), each: thingsOfSample, most: MaxAtoms}
	in := map[string]int{}
	for _, m := range s.both {
		m.look(nil, func(_ Kind, _, pattern string, _ int32) { in[pattern]++ })
	}
	for _, m := range s.both {
		s.read(m, nil, func(pattern string) bool { return in[pattern] >= s.least })
	}
	s.text(&group{messages: samples})
	atoms := []Atom{}
	for _, f := range s.chosen {
		if f.Kind != Header { // others use the same program
			f.Like = true
			atoms = append(atoms, f.Atom)
		}
	}
	return atoms
}

// thingsOfSample is by how many things of its text a sample is to be known: more than
// a drawn message, since there is little to compare it with.
const thingsOfSample = 6

// like tells which of the counted messages are like samples, which are known by what
// matches each. Atoms that much of the other mail has, too, tell nothing. Of those
// that are left a message that is like a sample has half, and two at least.
func (c *chooser) like(samples []Mask) {
	alike := func(m, sample Mask, parts int) bool {
		n, all := bits.OnesCount64(uint64(m&sample)), bits.OnesCount64(uint64(sample))
		return n >= 2 && parts*n >= (parts-1)*all
	}
	any := func(m, of Mask, parts int) bool {
		for _, s := range samples {
			if alike(m&of, s&of, parts) {
				return true
			}
		}
		return false
	}
	var others int64
	in := make([]int64, len(c.atoms))
	for _, n := range c.counts {
		if any(n.Mask, ^Mask(0), 5) { // nearly all of a sample
			continue
		}
		others += n.Messages
		for i := range in {
			if n.Mask&(1<<i) != 0 {
				in[i] += n.Messages
			}
		}
	}
	var telling Mask
	for i := range in {
		if float64(in[i]) <= mostOfRest*float64(others) {
			telling |= 1 << i
		}
	}
	for i, n := range c.counts {
		c.flood[i] = any(n.Mask, telling, 2)
	}
}
