package suggest

import "strconv"

// Mask is which atoms matched a message, a bit each.
type Mask uint64

// String is the mask in hexadecimal.
func (m Mask) String() string { return strconv.FormatUint(uint64(m), 16) }

// ParseMask reads what String writes.
func ParseMask(s string) (Mask, error) {
	m, err := strconv.ParseUint(s, 16, 64)
	return Mask(m), err
}

// MaxMasks bounds how many sets of atoms are told apart.
const MaxMasks = 4096

// Kinds are the atoms by what they are, a bit each. Loose are sources whose flood may
// have only one thing in common. A header is none of these: others use the same
// program.
type Kinds struct {
	Bounces Mask `json:"bounces"`
	Text    Mask `json:"text"`
	Sources Mask `json:"sources"`
	Loose   Mask `json:"loose"`
}

// Flood tells whether a message is the flood's: bounces to a source that stands
// out; mail of one whose text has what nearly all of its flood has; and other mail
// whose text has two things of the flood's.
func (k *Kinds) Flood(m Mask) bool {
	text := m & k.Text
	return m&k.Bounces != 0 || text&(text-1) != 0 || text != 0 && m&k.Loose != 0
}
