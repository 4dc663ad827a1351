package show

import (
	"cmp"
	"slices"
	"strings"
)

// rulesView is what was judged, and by what.
type rulesView struct {
	Hosts    []judgedHost
	Rules    []ruleRow
	Ham      []ruleRow
	Left     []valueRow
	Unjudged []valueRow // where no rules were known
	Senders  []string
	More     int
	NoRules  bool
}

type judgedHost struct {
	Host, All, Spam, Ham, Unreadable, Incomplete string
}

type ruleRow struct {
	Rule, Messages, Alone string
	n, alone              int64
	Width                 string
}

type valueRow struct {
	Host, Kind, Value, Messages, More string
	n                                 int64
}

// rules is nil where nothing was classified.
func (m *pageMaker) rules() *rulesView {
	v := &rulesView{NoRules: true}
	rules, ham := map[string]*ruleRow{}, map[string]*ruleRow{}
	var order, hamOrder []string
	add := func(to map[string]*ruleRow, order *[]string, name string, n, alone int64) {
		if to[name] == nil {
			if len(*order) == maxTold {
				return
			}
			to[name] = &ruleRow{Rule: m.text(name)}
			*order = append(*order, name)
		}
		to[name].n += n
		to[name].alone += alone
	}
	for _, s := range m.told {
		c := m.facts[s].classified
		if c == nil {
			continue
		}
		h := judgedHost{Host: Clean(s.Label()), All: comma(c.Messages), Spam: "-", Ham: "-", Unreadable: comma(c.Unreadable), Incomplete: comma(c.Incomplete)}
		if len(c.RuleOrder) > 0 {
			h.Spam, h.Ham, v.NoRules = comma(c.Spam), comma(c.Ham), false
		}
		v.Hosts = append(v.Hosts, h)
		for _, name := range c.RuleOrder {
			add(rules, &order, name, c.ByRule[name].Messages, c.ByRule[name].Alone)
		}
		for _, name := range c.HamOrder {
			add(ham, &hamOrder, name, c.ByHam[name].Messages, c.ByHam[name].Alone)
		}
		left := &v.Left
		if len(c.RuleOrder) == 0 {
			left = &v.Unjudged
		}
		for _, l := range c.Left[:min(len(c.Left), listed)] {
			value := m.valueOf(l.Kind, l.Value)
			if l.Value == "" { // a text, of which nothing may be told
				value = "such as " + Clean(strings.Join(l.Samples, ", "))
			}
			*left = append(*left, valueRow{Host: Clean(s.Label()), Kind: Clean(l.Kind), Value: value, Messages: comma(l.Count), n: l.Count})
		}
		for _, sender := range c.Hit[:min(len(c.Hit), listed)] {
			if shown := Clean(m.mask.login(sender)); !slices.Contains(v.Senders, shown) {
				v.Senders = append(v.Senders, shown)
			}
		}
		v.More += max(0, c.HitAll-len(c.Hit))
	}
	if len(v.Hosts) == 0 {
		return nil
	}
	var most int64 = 1
	for _, r := range rules {
		most = max(most, r.n)
	}
	rows := func(from map[string]*ruleRow, order []string) (all []ruleRow) {
		for _, name := range order {
			r := from[name]
			r.Messages, r.Alone, r.Width = comma(r.n), comma(r.alone), percent(100*float64(r.n)/float64(most))
			all = append(all, *r)
		}
		return all
	}
	v.Rules, v.Ham = rows(rules, order), rows(ham, hamOrder)
	for _, left := range []*[]valueRow{&v.Left, &v.Unjudged} {
		slices.SortStableFunc(*left, func(a, b valueRow) int { return cmp.Compare(b.n, a.n) })
		*left = (*left)[:min(len(*left), listed)]
	}
	v.Senders = v.Senders[:min(len(v.Senders), listed)]
	return v
}

// listed is how many values of a kind a page lists.
const listed = 20

// valueOf masks the value of a source by what it is.
func (m *pageMaker) valueOf(kind, value string) string {
	switch kind {
	case "client":
		return Clean(m.mask.client(value))
	case "login":
		return Clean(m.mask.login(value))
	}
	return Clean(m.mask.address(value))
}
