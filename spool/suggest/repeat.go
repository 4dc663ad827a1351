package suggest

import "strings"

const (
	leastRepeated = 8 // messages that were drawn, of a text
	mostTexts     = 8 // that are looked at
)

// from is the account or the sender of a message, without what a list or a
// newsletter puts into it for each reader, and its local part and domain. An account
// is a place of its own.
func (m *Message) from() (whole, local, domain string) {
	if m.Login != "" {
		return m.Login, m.Login, m.Login
	}
	local, domain, _ = strings.Cut(m.Sender, "@")
	if at := strings.IndexAny(local, "+="); at > 0 {
		local = local[:at]
	}
	return local + "@" + domain, local, domain
}

// spread is how many senders, local parts, domains and clients the mail has, and
// recipients.
func spread(of []*Message) (n [5]int) {
	seen := map[string]bool{}
	count := func(i int, value string) {
		if key := string(rune(i)) + value; !seen[key] {
			seen[key] = true
			n[i]++
		}
	}
	for _, m := range of {
		whole, local, domain := m.from()
		count(0, whole)
		count(1, local)
		count(2, domain)
		count(3, m.Client)
		count(4, strings.Join(m.Recipients, " "))
	}
	return n
}

// repeated looks for a flood that shows itself by repetition alone: one text of so
// many messages, from as many senders and to as many recipients, that are no list's
// nor newsletter's by what they say. It chooses what these have in common, and
// returns further atoms: the client that all of a text came from, and texts that are
// left alone. Those may be no flood's: they came from one place, or from what has
// one name everywhere, as programs that write for many sites have.
func (s *survey) repeated(d *Draw) (atoms []Atom) {
	for i, m := range s.both {
		if m.in || m.Login+m.Sender == "" || m.list || m.like() {
			s.texts.drop(i)
		}
	}
	var groups []*group
	for _, of := range s.texts.Alike(func(n int) bool { return n >= leastRepeated }) {
		g := &group{Atom: Atom{Kind: Phrase, Of: s.all}}
		for _, i := range of {
			g.messages = append(g.messages, s.both[i])
			if i < s.all {
				g.In++
			}
		}
		n, at := len(of), spread(g.messages)
		// The rare ones were drawn from fewer.
		all := max(float64(g.In)*float64(d.Offered)/float64(s.all), float64(n-g.In)*float64(d.few)/float64(max(1, len(s.both)-s.all)))
		if all < leastFlood || 2*at[0] < n || 4*at[4] < n || !s.texts.whole(of) || len(groups) == mostTexts {
			continue
		}
		g.From, g.stands = at[0], 10*max(at[2], at[3]) >= n && 4*at[1] >= n
		groups = append(groups, g)
		for _, m := range g.messages {
			m.in = true
		}
	}
	s.others()
	for _, g := range groups {
		before := len(s.chosen)
		if g.stands {
			s.text(g)
		}
		if 2*g.two < len(g.messages) {
			for _, f := range s.chosen[before:] {
				f.chosen = false
			}
			s.chosen = s.chosen[:before]
			atoms = append(atoms, s.unclear(g))
			continue
		}
		client := g.messages[0].Client
		if at := spread(g.messages); at[3] == 1 && client != "" {
			_, client, _ = strings.Cut(strings.TrimSuffix(client, "]"), "[")
			atoms = append(atoms, Atom{Kind: Client, Field: "client", Pattern: client, In: g.In, Of: s.all, From: g.From, Least: 2})
		}
	}
	return atoms
}

// unclear names a text that no rule is proposed for, by the longest of what most of
// it has.
func (s *survey) unclear(g *group) Atom {
	for _, f := range s.features {
		f.in = 0
	}
	most, a := 0, g.Atom
	a.Least = -1
	for _, m := range g.messages {
		for _, f := range m.features {
			f.in++
			if n := f.in*mostPattern + len(f.Pattern); n > most && f.Kind == Phrase && !f.expression() {
				most, a.Field, a.Pattern = n, f.Field, f.Pattern
			}
		}
	}
	return a
}
