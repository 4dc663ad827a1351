package suggest

import (
	"fmt"
	"math/bits"
	"slices"
)

// MaxRules is how many rules are proposed at most.
const MaxRules = 5

// Rule is the atom as a rule of package pattern.
func (a *Atom) Rule() any {
	leaf := map[string]any{a.Field: a.Pattern}
	if a.Kind == Bounces {
		return map[string]any{"all": []any{map[string]any{"sender": "<>"}, leaf}}
	}
	return leaf
}

// Rules are the atoms as the variable spam, in their order.
func Rules(atoms []Atom) any {
	all := []any{}
	for i := range atoms {
		all = append(all, atoms[i].Rule())
	}
	return map[string]any{"any": all}
}

// KindsOf are the atoms by what they are.
func KindsOf(atoms []Atom) Kinds {
	var k Kinds
	for i := range atoms {
		bit := Mask(1) << i
		switch kind := atoms[i].Kind; {
		case kind == Bounces:
			k.Bounces |= bit
		case kind.source() && atoms[i].Least < 2:
			k.Loose |= bit
		case kind.source():
			k.Sources |= bit
		case kind != Header:
			k.Text |= bit
		}
	}
	return k
}

// Count is how many messages the same atoms matched.
type Count struct {
	Mask     Mask
	Messages int64
}

// Proposal is the rules that were chosen, and what they do.
type Proposal struct {
	Messages int64  `json:"messages"` // in all
	Flood    int64  `json:"flood"`    // of these are the flood's
	Caught   int64  `json:"caught"`   // of the flood, by all rules together
	Hit      int64  `json:"hit"`      // others, by all rules together
	Rules    []Rule `json:"rules"`
	// Refused are simple rules that were not proposed, since they would hit others.
	Refused []Rule `json:"refused"`
	// Unlike are messages of sources that stand out which are not like the flood.
	Unlike int64 `json:"unlike_the_flood"`
	// Lost is how many messages were not told apart.
	Lost int64 `json:"lost,omitempty"`
	// Samples are those of the flood that were given, and SamplesCaught which of them
	// the rules catch.
	Samples       int `json:"spam_sample,omitempty"`
	SamplesCaught int `json:"spam_sample_caught,omitempty"`
}

// Known is what matches each message that is known to be of the flood, or is to be
// kept. None of them is among the counted ones.
type Known struct{ Spam, Keep []Mask }

// Rule is one rule, and what it does.
type Rule struct {
	Rule     any      `json:"rule"` // as in the variable spam
	Messages int64    `json:"messages"`
	Alone    int64    `json:"alone"` // no other rule catches these
	Hit      int64    `json:"hit"`   // outside the flood
	Kept     int      `json:"kept"`  // of what is to be kept
	Why      []string `json:"why"`

	groups []Mask // a message matches one of each
}

// Matches tells whether the rule matches a message of this mask.
func (r *Rule) Matches(m Mask) bool {
	for _, g := range r.groups {
		if m&g == 0 {
			return false
		}
	}
	return true
}

// chooser is the work of one Choose.
type chooser struct {
	atoms  []Atom
	counts []Count
	kept   []Mask
	flood  []bool // of each count
	left   []bool // it is the flood's, and no rule that was chosen catches it
	Kinds
}

// Choose takes from the atoms the smallest set of rules that catches the flood and
// nothing else, by what was counted of all messages. Rules that hit any other
// message are not taken, nor those that hit mail which is to be kept. Where some of
// the flood is known, the flood is what is like that.
func Choose(atoms []Atom, counts []Count, known Known, lost int64) *Proposal {
	c := &chooser{atoms: atoms, counts: counts, kept: known.Keep, flood: make([]bool, len(counts)), left: make([]bool, len(counts)), Kinds: KindsOf(atoms)}
	p := &Proposal{Lost: lost, Messages: lost, Rules: []Rule{}, Refused: []Rule{}, Samples: len(known.Spam)}
	slices.SortFunc(c.counts, func(a, b Count) int { // one order on all machines
		if a.Mask < b.Mask {
			return -1
		}
		return 1
	})
	for i, n := range c.counts {
		c.flood[i] = c.Flood(n.Mask)
	}
	if len(known.Spam) > 0 {
		c.like(known.Spam)
	}
	for i, n := range c.counts {
		p.Messages += n.Messages
		c.left[i] = c.flood[i]
		if c.flood[i] {
			p.Flood += n.Messages
		} else if n.Mask&(c.Sources|c.Loose) != 0 {
			p.Unlike += n.Messages
		}
	}
	var taken []candidate
	for len(taken) < MaxRules {
		best, ok := c.best(p.Flood)
		if !ok {
			break
		}
		for i, n := range c.counts {
			if best.matches(n.Mask) {
				c.left[i] = false
			}
		}
		taken = append(taken, best)
	}
	taken = c.needed(taken)
	for k := range taken {
		taken[k] = c.shorter(taken, k)
	}
	for _, t := range taken {
		p.Rules = append(p.Rules, c.rule(t))
	}
	for i, n := range c.counts {
		matched, only := 0, 0
		for k := range p.Rules {
			if !p.Rules[k].Matches(n.Mask) {
				continue
			}
			matched++
			only = k
			if c.flood[i] {
				p.Rules[k].Messages += n.Messages
			} else {
				p.Rules[k].Hit += n.Messages
			}
		}
		switch {
		case matched == 0:
			continue
		case matched == 1 && c.flood[i]:
			p.Rules[only].Alone += n.Messages
		}
		if c.flood[i] {
			p.Caught += n.Messages
		} else {
			p.Hit += n.Messages
		}
	}
	for _, m := range known.Spam {
		if slices.ContainsFunc(p.Rules, func(r Rule) bool { return r.Matches(m) }) {
			p.SamplesCaught++
		}
	}
	c.refuse(p)
	return p
}

// candidate is a rule: each of its groups of atoms has one that matches.
type candidate struct {
	groups [2]Mask // the second is 0 where there is only one
	weight float64
}

func (c *candidate) matches(m Mask) bool {
	return m&c.groups[0] != 0 && (c.groups[1] == 0 || m&c.groups[1] != 0)
}

// gain is what a candidate would catch of the flood that is left; clean that it
// hits nothing else.
func (c *chooser) gain(of *candidate) (gain int64, clean bool) {
	if slices.ContainsFunc(c.kept, of.matches) {
		return 0, false
	}
	for i, n := range c.counts {
		if !of.matches(n.Mask) {
			continue
		}
		if !c.flood[i] {
			return 0, false
		}
		if c.left[i] {
			gain += n.Messages
		}
	}
	return gain, true
}

// leastGain is what share of the flood a further rule must catch.
const leastGain = 0.002

// best is the candidate that catches most of what is left: of two that catch about
// the same the simpler one.
func (c *chooser) best(flood int64) (best candidate, ok bool) {
	most := 0.0
	c.candidates(func(of candidate) {
		gain, clean := c.gain(&of)
		if score := float64(gain) * of.weight; clean && gain > 0 && float64(gain) >= leastGain*float64(flood) && score > most {
			best, most, ok = of, score, true
		}
	})
	return best, ok
}

// What simpler is worth: an expression, a second part, and a list cost some percent
// of what a rule catches.
const (
	forExpression = 0.97
	forSecond     = 0.96
	forList       = 0.97
)

var worth = map[Kind]float64{Link: 1, Address: 1, Bounces: 1, Login: 0.995, Sender: 0.99, Phrase: 0.985, Subject: 0.98, Client: 0.97}

// candidates calls try for every rule that may be proposed: an atom; a source and
// something in the text; two things in the text; and lists of these.
func (c *chooser) candidates(try func(candidate)) {
	var text, sources []int
	weight := func(i int) float64 {
		w := worth[c.atoms[i].Kind]
		if w == 0 {
			w = 0.9
		}
		if c.atoms[i].expression() {
			w *= forExpression
		}
		return w
	}
	byField := map[string]Mask{}
	var bounces, logins Mask
	for i := range c.atoms {
		bit := Mask(1) << i
		of := candidate{groups: [2]Mask{bit}, weight: weight(i)}
		_, clean := c.gain(&of)
		switch kind := c.atoms[i].Kind; {
		case kind == Bounces:
			try(of)
			bounces |= bit
		case kind == Login || kind == Sender:
			try(of)
			sources = append(sources, i)
			if clean {
				logins |= bit
			}
		case kind == Client:
			try(of)
			sources = append(sources, i)
		case kind.source(): // never alone: others write to the same
			sources = append(sources, i)
		case kind == Header: // never alone: others use the same program
			text = append(text, i)
		default:
			try(of)
			text = append(text, i)
			if clean {
				byField[c.atoms[i].Field] |= bit
			}
		}
	}
	list := func(of Mask, w float64) {
		if bits.OnesCount64(uint64(of)) > 1 {
			try(candidate{groups: [2]Mask{of}, weight: w * forList})
		}
	}
	list(bounces, 1)
	list(logins, worth[Login])
	list(byField["body"], worth[Phrase])
	list(byField["subject"], worth[Subject])
	for _, s := range sources {
		source := Mask(1) << s
		var clean Mask
		for _, t := range text {
			of := candidate{groups: [2]Mask{source, 1 << t}, weight: weight(t) * forSecond}
			if _, ok := c.gain(&of); ok {
				clean |= 1 << t
				try(of)
			}
		}
		if clean != 0 {
			try(candidate{groups: [2]Mask{source, clean}, weight: forSecond * forList})
		}
	}
	for i, a := range text {
		for _, b := range text[i+1:] {
			try(candidate{groups: [2]Mask{1 << a, 1 << b}, weight: weight(a) * weight(b) * forSecond * 0.98})
		}
	}
}

// needed leaves out rules whose messages others catch.
func (c *chooser) needed(taken []candidate) []candidate {
	for k := 0; k < len(taken); {
		without := append(slices.Clone(taken[:k]), taken[k+1:]...)
		if c.same(taken, without) {
			taken = without
		} else {
			k++
		}
	}
	return taken
}

// same tells whether two sets of rules catch the same messages.
func (c *chooser) same(a, b []candidate) bool {
	by := func(set []candidate, m Mask) bool {
		return slices.ContainsFunc(set, func(of candidate) bool { return of.matches(m) })
	}
	for _, n := range c.counts {
		if by(a, n.Mask) != by(b, n.Mask) {
			return false
		}
	}
	return true
}

// shorter leaves out what adds nothing to the lists of the k-th rule.
func (c *chooser) shorter(taken []candidate, k int) candidate {
	one := taken[k]
	for g := range one.groups {
		for i := len(c.atoms) - 1; i >= 0; i-- { // the last ones are the weakest
			less := one
			less.groups[g] &^= 1 << i
			if less.groups[g] == one.groups[g] || less.groups[g] == 0 {
				continue
			}
			with := slices.Clone(taken)
			with[k] = less
			if c.same(taken, with) {
				one, taken = less, with
			}
		}
	}
	return one
}

// rule writes a candidate down.
func (c *chooser) rule(of candidate) Rule {
	r := Rule{Why: []string{}}
	var parts []any
	for _, g := range of.groups {
		if g == 0 {
			continue
		}
		r.groups = append(r.groups, g)
		parts = append(parts, c.part(g))
		for left := g; left != 0; left &= left - 1 {
			a := &c.atoms[bits.TrailingZeros64(uint64(left))]
			r.Why = append(r.Why, a.Pattern+": "+a.Why())
		}
	}
	r.Rule = parts[0]
	if len(parts) > 1 {
		r.Rule = map[string]any{"all": parts}
	}
	return r
}

// Why tells what speaks for the atom.
func (a *Atom) Why() string {
	percent := func(of, all int) string { return fmt.Sprintf("%.0f %%", 100*float64(of)/float64(max(1, all))) }
	if !a.Kind.source() && a.Least == 0 {
		of := "the mail of a source that stands out"
		switch {
		case a.Like:
			of = "the samples"
		case a.From > 0:
			of = fmt.Sprintf("what has one text and came from %d senders or more", a.From)
		}
		why := fmt.Sprintf("in %s of %s", percent(a.In, a.Of), of)
		if a.Rest > 0 || !a.Like {
			why += fmt.Sprintf(", and in %d of %d others", a.Others, a.Rest)
		}
		return why
	}
	why := percent(a.In, a.Of) + " of all messages"
	if a.Kind == Bounces {
		why += " are bounces to it"
	}
	switch {
	case a.From <= 1:
	case a.Kind == Login:
		why += fmt.Sprintf(", from %d addresses or more", a.From)
	case a.Kind == Client || !a.Kind.source():
		why += fmt.Sprintf(", of %d senders or more", a.From)
	}
	return why
}

// part is one group of atoms: one, a field with a list, or any of several.
func (c *chooser) part(g Mask) any {
	var of []*Atom
	for left := g; left != 0; left &= left - 1 {
		of = append(of, &c.atoms[bits.TrailingZeros64(uint64(left))])
	}
	if len(of) == 1 {
		return of[0].Rule()
	}
	oneField, bounces := true, true
	var patterns, rules []any
	for _, a := range of {
		oneField = oneField && a.Field == of[0].Field && a.Kind != Bounces
		bounces = bounces && a.Kind == Bounces
		patterns, rules = append(patterns, a.Pattern), append(rules, a.Rule())
	}
	switch {
	case oneField:
		return map[string]any{of[0].Field: patterns}
	case bounces:
		return map[string]any{"all": []any{map[string]any{"sender": "<>"}, map[string]any{of[0].Field: patterns}}}
	}
	return map[string]any{"any": rules}
}

// refusedTold is how many rules that hit others are told of.
const refusedTold = 3

// refuse tells of the sources that nobody should take as a rule, though they look
// like one.
func (c *chooser) refuse(p *Proposal) {
	for i := range c.atoms {
		if k := c.atoms[i].Kind; k != Login && k != Sender && k != Client && k != Link && k != Address {
			continue
		}
		r := c.rule(candidate{groups: [2]Mask{1 << i}})
		for k, n := range c.counts {
			switch {
			case !r.Matches(n.Mask):
			case c.flood[k]:
				r.Messages += n.Messages
			default:
				r.Hit += n.Messages
			}
		}
		for _, m := range c.kept {
			if r.Matches(m) {
				r.Kept++
			}
		}
		if r.Hit+int64(r.Kept) > 0 && len(p.Refused) < refusedTold {
			p.Refused = append(p.Refused, r)
		}
	}
}
