// Package suggest finds rules that separate a flood from the rest of the mail,
// where nobody has said yet which is which.
//
// It works in three steps. A [Draw] takes some of a host's messages while all
// envelopes are read, and [Find] looks in them for [Atom]s: sources that stand out,
// texts that many senders have, and what such mail has in common that other mail
// lacks. Then classify
// itself judges every message by the atoms, each as a rule of its own, and it is
// counted which of them matched together. From that [Choose] takes the smallest set
// of rules. The figures of a rule are therefore exact, and those of several hosts
// add up.
//
// What is the flood's is defined once, in [Kinds.Flood]: bounces to a source that
// stands out; mail of such a source whose text has something of the flood's; and
// other mail that has two things of it. All else must never be hit: also mail of
// the hacked account that is not like the flood, which is its owner's.
//
// Memory is bounded whatever the number of messages and their size.
package suggest

import "strings"

// Kind is what an atom looks at.
type Kind string

// Kinds of sources.
const (
	Login     Kind = "login"
	Sender    Kind = "sender" // of mail without login
	Bounces   Kind = "bounces-to"
	Recipient Kind = "recipient" // of mail with a sender
	Client    Kind = "client"    // of mail without login, of many senders
)

// Kinds of what the text of a message has.
const (
	Link    Kind = "link"
	Address Kind = "address" // in the text
	Phrase  Kind = "phrase"
	Subject Kind = "subject"
	Header  Kind = "header"
)

// Atom is the smallest rule: a source, or something in the text.
type Atom struct {
	Kind    Kind   `json:"kind"`
	Field   string `json:"field"`   // of package pattern
	Pattern string `json:"pattern"` // of that field
	// In is how many of the messages that were drawn it was seen in: of Of, all of
	// them for a source, else those of a source that stands out. Others is in how
	// many of the rest, which are Rest.
	In     int `json:"in"`
	Of     int `json:"of"`
	Others int `json:"others,omitempty"`
	Rest   int `json:"rest,omitempty"`
	// From is from how many clients the mail of a source came, of what was drawn; of
	// a text or a client that many senders have, how many.
	From int `json:"from,omitempty"`
	// Least, of a source, is how many things of the flood's a message of it has
	// that is the flood's; -1: its mail has too little in common, so that it is no
	// rule. The latter also of a text that many messages have, and that may be no
	// flood's, or is too short.
	Least int `json:"least,omitempty"`
	// Like says that it was found in mail that is known to be of the flood.
	Like bool `json:"like,omitempty"`
}

// MaxAtoms bounds the atoms that are tried together: each is a bit of a [Mask].
const MaxAtoms = 64

// source tells whether the atom looks at the envelope.
func (k Kind) source() bool {
	switch k {
	case Login, Sender, Bounces, Recipient, Client:
		return true
	}
	return false
}

func (a *Atom) expression() bool {
	return strings.HasPrefix(a.Pattern, "/") && strings.HasSuffix(a.Pattern, "/")
}
