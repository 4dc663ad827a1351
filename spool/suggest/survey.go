package suggest

import (
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
)

const (
	// drawn is how many messages are drawn from all, and as many again from those
	// of sources with little mail: what is not the flood's is seen there.
	drawn = 1500
	// fewOf is up to how many messages of a source are of one with little mail.
	fewOf   = 8
	buckets = 1 << 14
)

// Draw tells which messages to draw while all of them are passed by, in bounded
// memory. The zero value is ready.
type Draw struct {
	Offered int64
	few     int64 // of sources with little mail
	seed    maphash.Seed
	seen    [buckets]uint8 // messages of the sources that fall into it
}

// Offer passes by a message of a source, such as its login. It returns where in a
// list of the messages drawn it is to be put, in the place of what stands there, or
// -1; rare says that this is the list of sources with little mail.
func (d *Draw) Offer(source string) (slot int, rare bool) {
	if d.Offered == 0 {
		d.seed = maphash.MakeSeed()
	}
	d.Offered++
	slot = place(d.Offered)
	if at := maphash.String(d.seed, source) % buckets; d.seen[at] < fewOf {
		d.seen[at]++
		if slot < 0 {
			d.few++
			return place(d.few), true
		}
	}
	return slot, false
}

// place is where the n-th of a kind is kept, so that each has the same chance
// (Vitter's algorithm R).
func place(n int64) int {
	if n <= drawn {
		return int(n - 1)
	}
	if at := rand.Int64N(n); at < drawn {
		return int(at)
	}
	return -1
}

// Message is a message that was drawn. Addresses are in lower case.
type Message struct {
	Login, Sender string
	Recipients    []string
	Client        string
	Header, Text  []string // decoded

	// Its features, and the line that each was first seen in, 0 once a chosen one
	// stands there.
	features []*feature
	lines    []int32
	list     bool // it says that it is a list's or a newsletter's
	in       bool // it is of a source that stands out, or of a text that does
}

// sources calls fn for where a message comes from, or goes to.
func (m *Message) sources(fn func(kind Kind, field, value string)) {
	to := Recipient
	switch {
	case m.Login != "":
		fn(Login, "sasl_user", m.Login)
		return
	case m.Sender != "":
		fn(Sender, "sender", m.Sender)
	default:
		to = Bounces
	}
	for _, r := range m.Recipients {
		fn(to, "recipient", r)
	}
}

// group is a source and its mail.
type group struct {
	Atom
	messages []*Message
	share    float64 // of all mail
	stands   bool
	two      int // messages that are known by two things of their text or more
}

const (
	// leastFlood is how many messages of a source may be a flood, as many as make a
	// run ask before it restores them.
	leastFlood = 100
	leastDrawn = 3
)

// feature is something in the text of messages.
type feature struct {
	Atom
	chosen bool
	last   *Message // that it was seen in
	// Of the group that is looked at: in how much of its mail it is, and of the rest,
	// what one message more of it is worth, and all of them.
	in, others   int
	weight, gain float64
}

// survey is the work of one Find.
type survey struct {
	features []*feature
	known    map[string]*feature
	both     []*Message // drawn from all, and the rare ones
	all      int        // how many of these are the former
	groups   []*group   // the largest first
	rest     []*Message // of no group that stands out
	chosen   []*feature
	texts    Texts // of both
	// In how many messages a thing must be, by how many a message is to be known, and
	// how many of one group are chosen.
	least, each, most int
}

const (
	atomsOfHost = 48
	// maxFeatures bounds what is kept of one message: a letter of two pages has that
	// much.
	maxFeatures = 600
	sketched    = 1 << 22
)

// Find looks for atoms in the messages that were drawn. own are the server's
// domains; account, if not empty, is whose mail the flood is.
func Find(d *Draw, all, rare []*Message, own []string, account string) []Atom {
	s := &survey{known: map[string]*feature{}, all: len(all), both: append(all, rare...), least: leastDrawn, each: thingsOfOne, most: atomsOfOne}
	// Most of what is in a letter is in no other: that is not kept.
	sketch, seed := make([]uint8, sketched), maphash.MakeSeed()
	for _, m := range s.both {
		m.look(own, func(_ Kind, _, pattern string, _ int32) {
			if at := &sketch[maphash.String(seed, pattern)%sketched]; *at < leastDrawn {
				*at++
			}
		})
	}
	for _, m := range s.both {
		s.read(m, own, func(pattern string) bool { return sketch[maphash.String(seed, pattern)%sketched] == leastDrawn })
	}
	s.group(d.Offered, strings.ToLower(account))
	for _, g := range s.groups {
		if g.stands && g.Kind != Bounces {
			s.text(g)
		}
	}
	for range 2 { // an account speaks for the bounces to it
		for _, g := range s.groups {
			if account == "" && !g.stands && g.Least == 0 && g.Kind != Recipient && s.alike(g) {
				g.stands, g.Least = true, 1
			}
		}
	}
	atoms := []Atom{}
	if account == "" {
		atoms = append(atoms, s.repeated(d)...)
	}
	for _, g := range s.groups {
		if (g.stands || g.Least < 0) && len(atoms) < atomsOfHost/2 && len(g.Pattern) < 200 && !strings.ContainsAny(g.Pattern, "*/") {
			atoms = append(atoms, g.Atom)
		}
	}
	for _, f := range s.chosen {
		if len(atoms) < atomsOfHost {
			atoms = append(atoms, f.Atom)
		}
	}
	return atoms
}

// read finds the features of a message, of those that are often.
func (s *survey) read(m *Message, own []string, often func(pattern string) bool) {
	for _, h := range m.Header {
		name, value, _ := strings.Cut(strings.ToLower(h), ":")
		m.list = m.list || strings.HasPrefix(name, "list-") || name == "precedence" && !strings.Contains(value, "junk")
	}
	m.look(own, func(kind Kind, field, pattern string, line int32) {
		if !often(pattern) {
			return
		}
		key := string(kind) + field + "\x00" + pattern
		f := s.known[key]
		if f == nil {
			f = &feature{Atom: Atom{Kind: kind, Field: field, Pattern: key[len(key)-len(pattern):]}}
			s.known[key] = f
			s.features = append(s.features, f)
		}
		if f.last != m && len(m.features) < maxFeatures {
			f.last = m
			m.features, m.lines = append(m.features, f), append(m.lines, line)
		}
	})
	s.texts.Add(m.Text)
	m.Header, m.Text = nil, nil // not needed any more
}

// sameAccount tells whether two addresses or logins are one account's.
func sameAccount(a, b string) bool {
	la, da, _ := strings.Cut(a, "@")
	lb, db, _ := strings.Cut(b, "@")
	return la == lb && (da == db || da == "" || db == "")
}

// group finds the sources, and which of them stand out: with account those of it,
// however little mail they have.
func (s *survey) group(offered int64, account string) {
	by := map[string]*group{}
	for i, m := range s.both {
		m.sources(func(kind Kind, field, value string) {
			g := by[string(kind)+value]
			if g == nil {
				g = &group{Atom: Atom{Kind: kind, Field: field, Pattern: value, Of: s.all}}
				by[string(kind)+value] = g
				s.groups = append(s.groups, g)
			}
			if n := len(g.messages); n > 0 && g.messages[n-1] == m {
				return
			}
			if g.messages = append(g.messages, m); i < s.all {
				g.In++
			}
		})
	}
	sort.Slice(s.groups, func(i, k int) bool {
		a, b := s.groups[i], s.groups[k]
		return len(a.messages) > len(b.messages) || len(a.messages) == len(b.messages) && a.Pattern < b.Pattern
	})
	for _, g := range s.groups {
		g.share = float64(g.In) / float64(max(1, s.all))
		g.stands = account != "" && g.Kind != Recipient && sameAccount(account, g.Pattern)
	}
	for range 2 { // an account speaks for the bounces to it
		for _, g := range s.groups {
			if account == "" && !g.stands && g.In >= leastDrawn && g.share*float64(offered) >= leastFlood {
				g.stands = s.out(g)
			}
		}
	}
	for _, g := range s.groups {
		for _, m := range g.messages {
			m.in = m.in || g.stands
		}
	}
	s.others()
}

// others finds the rest.
func (s *survey) others() {
	s.rest = nil
	for _, m := range s.both {
		if !m.in {
			s.rest = append(s.rest, m)
		}
	}
}

// out tells whether a source stands out: by its share of all mail, by the number of
// places it is used from, by what bounces come back to it.
func (s *survey) out(g *group) bool {
	points, lists := 0, 0
	from := map[string]bool{}
	for _, m := range g.messages {
		if m.list {
			lists++
		}
		who := m.Client
		if g.Kind == Recipient {
			who = m.Sender
		}
		from[who] = true
	}
	g.From = len(from)
	if 2*lists >= len(g.messages) {
		points -= 2
	}
	one, two := 0.08, 0.25
	switch g.Kind {
	case Bounces:
		one, two = 0.04, 0.08
		local, _, _ := strings.Cut(g.Pattern, "@")
		for _, duty := range strings.Fields("postmaster mailer-daemon owner- -owner -bounces") {
			if strings.Contains(local, duty) {
				points -= 3
			}
		}
	case Recipient: // as much may go to a help desk
		one = two
		if g.From < 20 {
			points--
		}
	}
	if g.share >= one {
		points++
	}
	if g.share >= two {
		points++
	}
	if g.Kind == Login && g.From >= 5 {
		points++
	}
	for _, o := range s.groups {
		if g.Kind != Recipient && o.Kind != Recipient && (o.Kind == Bounces) != (g.Kind == Bounces) && sameAccount(g.Pattern, o.Pattern) {
			if o.stands {
				points++
			}
			if o.share >= 0.03 {
				points++
			}
		}
	}
	return points >= 2
}

// like tells whether a message has two things of the flood's text.
func (m *Message) like() bool {
	n := 0
	for _, f := range m.features {
		if f.chosen && f.Kind != Header {
			n++
		}
	}
	return n >= 2
}

// alike tells of a source that most of its mail has the text of the flood, or that
// bounces come back to it for such mail.
func (s *survey) alike(g *group) bool {
	like := 0
	for _, m := range g.messages {
		if m.like() {
			like++
		}
	}
	for _, o := range s.groups {
		if g.Kind == Bounces && o.stands && o.Kind != Recipient && sameAccount(o.Pattern, g.Pattern) {
			like = len(g.messages)
		}
	}
	return like >= leastDrawn && 10*like >= 6*len(g.messages)
}

const (
	// Of the mail of a source, what has at least this share may be the flood's
	// text: what its owner wrote before has less.
	leastShare = 0.05
	// Of the rest of the mail, at most this share may have it too, and never more
	// than a tenth of what the source has.
	mostOfRest = 0.02
	// thingsOfOne is by how many things of the flood's a message is to be known.
	thingsOfOne = 3
	atomsOfOne  = 16
)

// text chooses what the mail of a group has in common that the rest lacks. A group
// whose mail has too little does not stand out any more.
func (s *survey) text(g *group) {
	n := len(g.messages)
	for _, f := range s.features {
		f.in, f.others = 0, 0
	}
	for _, m := range g.messages {
		for _, f := range m.features {
			f.in++
		}
	}
	// What half of the group's mail has is its core. Mail of the rest with half as
	// much of it as a message of the group has is the same flood, of other sources.
	core := func(m *Message) (c int) {
		for _, f := range m.features {
			if 2*f.in > n && f.Kind != Header {
				c++
			}
		}
		return c
	}
	sum := 0
	for _, m := range g.messages {
		sum += core(m)
	}
	for _, m := range s.rest {
		if c := core(m); c >= 4 && 2*c*n > sum {
			continue
		}
		for _, f := range m.features {
			f.others++
		}
	}
	for _, f := range s.features {
		rest, share := float64(f.others)/float64(max(1, len(s.rest))), float64(f.in)/float64(n)
		f.weight = 0
		if f.in >= s.least && share >= leastShare && rest <= mostOfRest && rest <= share/10 {
			f.weight = f.Atom.weight()
			if f.others > 0 {
				f.weight /= 2
			}
		}
	}
	have := make([]int, n) // by how much a message is known
	take := func(best *feature) {
		best.weight = 0
		for i, m := range g.messages {
			k := slices.Index(m.features, best)
			if k < 0 || m.lines[k] == 0 {
				continue
			}
			if best.Kind != Header { // others use the same program
				have[i]++
			}
			line := m.lines[k]
			for k := range m.lines {
				if m.lines[k] == line {
					m.lines[k] = 0
				}
			}
		}
	}
	for _, f := range s.chosen {
		take(f)
	}
	for range s.most {
		best := &feature{gain: 0.01 * float64(n)}
		for _, f := range s.features {
			f.gain = 0
		}
		for i, m := range g.messages {
			for k, f := range m.features {
				if have[i] < s.each && m.lines[k] > 0 {
					f.gain += f.weight
				}
			}
		}
		for _, f := range s.features {
			if f.gain > best.gain {
				best = f
			}
		}
		if best.in == 0 {
			break
		}
		best.chosen, best.In, best.Of, best.Others, best.Rest = true, best.in, n, best.others, len(s.rest)
		if g.Kind == Phrase {
			best.From = g.From
		}
		s.chosen = append(s.chosen, best)
		take(best)
	}
	any := 0
	g.two = 0
	for _, h := range have {
		if h > 0 {
			any++
		}
		if h > 1 {
			g.two++
		}
	}
	g.Least = 1
	switch {
	case 2*any < n:
		g.stands, g.Least = false, -1
	case 200*g.two >= 199*any:
		g.Least = 2
	}
}

// weight says how good an atom is by itself.
func (a *Atom) weight() float64 {
	w := 0.95
	switch {
	case a.Kind == Link, a.Kind == Address:
		w = 1
	case a.Kind == Header:
		w = 0.3
	case len(a.Pattern) < 12:
		w = 0.6
	case len(a.Pattern) < 20:
		w = 0.8
	}
	if a.expression() {
		w *= 0.8
	}
	return w
}
