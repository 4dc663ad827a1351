package show

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// timeView is the time line: a bar and a row for each host.
type timeView struct {
	Hosts  []timeHost
	Ticks  []tick
	Breaks []string
	Cut    bool // the axis is
	Kinds  []string
	More   string // hosts on which nothing was stopped, moved or asked
}

type timeHost struct {
	ID, Host, Summary                  string
	Bars                               []bar
	Down, Back, Stopped, Waited, Ended string
	Bad                                bool
}

// timeLine is nil where no host has told of any work.
func (m *pageMaker) timeLine() *timeView {
	var all [][]span
	for _, s := range m.told {
		all = append(all, m.facts[s].spans)
	}
	a := newAxis(all)
	if a == nil {
		return nil
	}
	v := &timeView{Cut: len(a.parts) > 1}
	v.Ticks, v.Breaks = a.ticks(m.Zone)
	kinds := map[string]bool{}
	quiet := int64(0)
	for i, s := range m.told {
		f := m.facts[s]
		if len(m.told) > manyHosts && !slices.ContainsFunc(f.spans, func(s span) bool { return s.kind != spanWork }) {
			quiet++
			continue
		}
		h := timeHost{ID: fmt.Sprintf("time-%d", i+1), Host: Clean(s.Label()), Bars: a.bars(f.spans), Stopped: "-", Down: "not stopped", Back: "-", Waited: "-", Ended: "-"}
		var waited float64
		for _, sp := range f.spans {
			kinds[sp.kind] = true
			if sp.kind == spanWait {
				waited += sp.to.Sub(sp.from).Seconds()
			}
		}
		if len(f.downs) > 0 {
			was, over := f.stopped()
			last := f.downs[len(f.downs)-1]
			h.Stopped, h.Down = m.clock(f.downs[0].from), lasted(was)
			switch {
			case over && was == 0:
				h.Down = "was stopped before"
			case over:
				h.Back = m.clock(last.from.Add(seconds(last.seconds)))
			default:
				h.Back, h.Bad = "not known to run", true
			}
			if n := len(f.downs); n > 1 {
				h.Down += fmt.Sprintf(" in %d times", n)
			}
		}
		if waited > 0 {
			h.Waited = lasted(waited)
		}
		switch n := len(f.spans); {
		case s.phase() == run.Waiting:
			h.Ended = "waits"
		case s.phase() == run.Working:
			h.Ended = "works"
		case m.state(s) == stateDown || m.state(s) == stateBroken:
			h.Ended = "broken off"
		case n > 0:
			h.Ended = m.clock(f.spans[n-1].to)
		}
		var parts []string
		if h.Down != "not stopped" {
			parts = append(parts, "Postfix stopped at "+h.Stopped+", down for "+h.Down)
		}
		if waited > 0 {
			parts = append(parts, "waited for somebody for "+h.Waited)
		}
		h.Summary = closed(strings.Join(append(parts, "end of the run: "+h.Ended), "; "))
		v.Hosts = append(v.Hosts, h)
	}
	for _, k := range []string{spanDown, spanWork, spanMove, spanWait} {
		if kinds[k] {
			v.Kinds = append(v.Kinds, k)
		}
	}
	if quiet > 0 {
		v.More = many(quiet, "host")
	}
	return v
}

// manyHosts is from where on a time line leaves out those that have little to show.
const manyHosts = 20

// queueView is how full the queues were, before and after.
type queueView struct {
	Bars  []queueBar
	Hosts []queueHost
	After bool
}

type queueBar struct {
	Label, Text   string
	Live, Aside   string // widths
	LiveN, AsideN int64
}

type queueHost struct {
	Host, Queue          string
	Before, Aside, After string
}

// queues is nil where no host has counted.
func (m *pageMaker) queues() *queueView {
	v := &queueView{}
	var before, aside, rest, after, left int64
	counted, ended, set := 0, 0, 0
	for _, s := range m.told {
		f := m.facts[s]
		if f.before == nil {
			continue
		}
		counted++
		before += max(0, f.before.Messages)
		aside += f.known()
		rest += max(0, f.before.Messages-f.known())
		left += s.left()
		if len(f.aside) > 0 {
			set++
		}
		if f.after != nil {
			ended++
			after += max(0, f.after.Messages)
		}
		v.Hosts = append(v.Hosts, m.queueRows(s, f)...)
	}
	if counted == 0 {
		return nil
	}
	v.After = ended > 0
	v.Bars = append(v.Bars, queueBar{Label: "before", LiveN: before})
	if set > 0 {
		v.Bars = append(v.Bars, queueBar{Label: "set aside", LiveN: rest, AsideN: aside})
	}
	if ended == counted {
		v.Bars = append(v.Bars, queueBar{Label: "after", LiveN: after, AsideN: left})
	}
	var most int64 = 1
	for _, b := range v.Bars {
		most = max(most, b.LiveN+b.AsideN)
	}
	for i := range v.Bars {
		b := &v.Bars[i]
		b.Live, b.Aside = percent(100*float64(b.LiveN)/float64(most)), percent(100*float64(b.AsideN)/float64(most))
		b.Text = comma(b.LiveN) + " in the queues"
		if b.AsideN > 0 || b.Label != "before" {
			b.Text += ", " + comma(b.AsideN) + " aside"
		}
	}
	return v
}

// queueRows are the queues of a host that held something.
func (m *pageMaker) queueRows(s *Story, f *facts) []queueHost {
	var rows []queueHost
	name := Clean(s.Label())
	for _, q := range []string{"maildrop", "incoming", "active", "deferred", "hold", "corrupt"} {
		row := queueHost{Host: name, Queue: q, Before: "-", Aside: "-", After: "-"}
		some := false
		for key, n := range f.before.Queues {
			if string(key) == q {
				row.Before, some = comma(n.Messages), some || n.Messages > 0
			}
		}
		if n, ok := f.from[q]; ok {
			row.Aside, some = comma(n), true
		}
		if f.after != nil {
			for key, n := range f.after.Queues {
				if string(key) == q {
					row.After, some = comma(n.Messages), some || n.Messages > 0
				}
			}
		}
		if some {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		rows = append(rows, queueHost{Host: name, Queue: "all are empty", Before: "0", Aside: "-", After: "-"})
	}
	return rows
}

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
			*left = append(*left, valueRow{Host: Clean(s.Label()), Kind: Clean(l.Kind), Value: m.valueOf(l.Kind, l.Value), Messages: comma(l.Count), n: l.Count})
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

// sourceView is who sent, and whether it was stopped.
type sourceView struct {
	Logins  []loginRow
	Targets []valueRow
	Lists   []valueList
	Partial bool
	Read    string
	None    bool
	Done    []doneRow
}

type loginRow struct{ Login, Messages, Failed, Addresses, First, Last string }

type valueList struct {
	Title  string
	Values []valueRow
}

type doneRow struct{ Host, What string }

// source is nil where nobody looked for one.
func (m *pageMaker) source() *sourceView {
	v := &sourceView{}
	var all *stage.Suspects
	seen := map[string]bool{}
	for _, s := range m.told {
		f := m.facts[s]
		if f.suspects != nil {
			switch {
			case all == nil:
				all = f.suspects
			case seen[s.Host.Host]:
				all.MergeInstance(f.suspects)
			default:
				all.Merge(f.suspects)
			}
			seen[s.Host.Host] = true
		}
	}
	if all != nil {
		m.suspects(v, all)
	}
	for _, s := range m.told {
		f := m.facts[s]
		for _, c := range f.commands {
			if text := m.done(c); text != "" {
				v.Done = append(v.Done, doneRow{Clean(s.Label()), text})
			}
		}
		if f.watched != nil {
			v.Done = append(v.Done, doneRow{Clean(s.Label()), m.watched(f.watched)})
		}
	}
	v.Done = folded(v.Done)
	if all == nil && len(v.Done) == 0 {
		return nil
	}
	return v
}

// folded tells what is the same of several hosts once.
func folded(rows []doneRow) []doneRow {
	var all []doneRow
	for _, r := range rows {
		i := slices.IndexFunc(all, func(o doneRow) bool { return o.What == r.What })
		if i < 0 {
			all = append(all, r)
			continue
		}
		all[i].Host += ", " + r.Host
	}
	return all
}

func (m *pageMaker) suspects(v *sourceView, all *stage.Suspects) {
	v.Read, v.Partial = many(all.Read, "message"), all.Partial
	for _, l := range all.Logins[:min(len(all.Logins), listed/4)] {
		row := loginRow{Login: Clean(m.mask.login(l.User)), Messages: comma(l.Count), Failed: comma(l.Failed), Addresses: comma(int64(l.AddressesAll)), First: "-", Last: "-"}
		if l.User == "" {
			row.Login = "(the log does not tell)"
		}
		if l.First != nil && l.Last != nil {
			row.First, row.Last = m.clock(*l.First), m.clock(*l.Last)
		}
		v.Logins = append(v.Logins, row)
	}
	list := func(title string, values []stage.Value, show func(string) string) {
		l := valueList{Title: title}
		for _, x := range values[:min(len(values), listed/4)] {
			text := Clean(show(x.Value))
			if x.Name != "" {
				text += " (" + Clean(m.mask.login(x.Name)) + ")"
			}
			l.Values = append(l.Values, valueRow{Value: text, Messages: comma(x.Count)})
		}
		if len(l.Values) > 0 {
			v.Lists = append(v.Lists, l)
		}
	}
	list("Logins, in the queues", all.SASLUsers, m.mask.login)
	list("Senders", all.Senders, m.mask.address)
	list("Recipients", all.Recipients, m.mask.address)
	list("Clients", all.Clients, m.mask.client)
	list("Users of the host", all.UIDs, func(s string) string { return s })
	list("Scripts", all.Scripts, m.mask.text)
	list("Subjects", all.Subjects, m.mask.text)
	for _, t := range all.Backscatter[:min(len(all.Backscatter), listed/2)] {
		value := m.mask.login(t.Value)
		v.Targets = append(v.Targets, valueRow{Value: Clean(value), Messages: comma(t.Count), Kind: Clean(findingOf(t)), More: m.text(strings.Join(t.Evidence, "; "))})
	}
	v.None = len(v.Logins)+len(v.Targets)+len(v.Lists) == 0
}

// findingOf is what is to be thought of a target, as the terminal has it: nobody is
// called hacked for a few bounces of his own.
func findingOf(t stage.Target) string {
	text := (&stage.Suspects{Backscatter: []stage.Target{t}}).Lines()[0].Text
	return strings.TrimSuffix(strings.TrimPrefix(text, t.Value+" - "), ": "+strings.Join(t.Evidence, "; "))
}

// done says what a command of the plan did. What it printed is not shown.
func (m *pageMaker) done(c named) string {
	name := m.text(c.Name)
	if c.stage == "restart" {
		name = "restart of the login service"
	}
	if name == "" {
		name = "command"
	}
	text := name
	switch {
	case c.Skipped:
		text += ": skipped, " + m.text(c.Why)
	case c.Exit == 0:
		text += ": done"
	case c.Exit < 0:
		text += ": did not end by itself"
	default:
		text += fmt.Sprintf(": failed with exit status %d", c.Exit)
	}
	for _, t := range c.Accounts[:min(len(c.Accounts), listed)] {
		text += "; " + Clean(m.mask.login(t.Value))
		if t.Finding != "" {
			text += " is " + Clean(t.Finding)
		}
	}
	for _, r := range c.Refused[:min(len(c.Refused), listed)] {
		text += "; not for " + Clean(m.mask.login(r)) + ", whose name is only forged"
	}
	return text
}

func (m *pageMaker) watched(w *stage.Watched) string {
	switch w.Source {
	case stage.Unknown:
		return "the source may still send: " + m.text(w.Why)
	case stage.Quiet:
		return "the source was quiet after Postfix was started"
	}
	text := "the source still sent " + many(w.Sent, "message") + " after Postfix was started"
	var from []string
	for _, v := range w.Sources[:min(len(w.Sources), listed/4)] {
		from = append(from, m.text(v.Value)+" "+comma(v.Count))
	}
	if len(from) > 0 {
		text += ": " + strings.Join(from, ", ")
	}
	return text
}

// ledgerView is the account of every message.
type ledgerView struct {
	Hosts   []ledgerRow
	Sum     ledgerRow
	Deletes bool
	Unknown string
}

type ledgerRow struct {
	Host  string
	Cells []figure
	Note  string
}

func ledgerCells(s stage.Sums, deletes bool) []figure {
	cells := []figure{
		{Text: comma(s.SetAside)}, {Text: comma(s.Restored)}, {Text: comma(s.Collisions)}, {Text: comma(s.Left)},
		{Text: comma(s.Purged)}, {Text: comma(s.SentMeanwhile)}, {Text: comma(s.Missing), Bad: s.Missing > 0},
	}
	if deletes {
		cells = append(cells, figure{Text: comma(s.Deleted)}, figure{Text: comma(s.Gone)}, figure{Text: comma(s.Stayed)})
	}
	return cells
}

// ledger is nil where no ledger was told.
func (m *pageMaker) ledger() *ledgerView {
	sum, known, unknown := m.sums()
	if !known {
		return nil
	}
	v := &ledgerView{Deletes: sum.Deleted+sum.Gone+sum.Stayed > 0, Unknown: m.names(unknown)}
	for _, s := range m.Hosts {
		if s.Account == nil {
			continue
		}
		row := ledgerRow{Host: Clean(s.Label()), Cells: ledgerCells(s.Account.Sums, v.Deletes)}
		if at := s.Account.Removed; at != nil {
			row.Note = "the ledger was removed " + m.stamp(*at) + ", after ledger_keep; these sums were kept"
		}
		v.Hosts = append(v.Hosts, row)
	}
	v.Sum = ledgerRow{Host: "All", Cells: ledgerCells(sum, v.Deletes)}
	return v
}

// questionView is a question, and who answered it.
type questionView struct{ Host, Asked, What, Answer, At string }

func (m *pageMaker) questions() []questionView {
	var all []questionView
	for _, s := range m.told {
		for _, q := range m.facts[s].questions {
			v := questionView{Host: Clean(s.Label()), Asked: m.clock(q.at), What: m.text(q.text), Answer: "-", At: "-"}
			switch {
			case !q.on.IsZero():
				v.Answer, v.At = "carried on", m.clock(q.on)
				if q.rules {
					v.Answer = "carried on with rules"
				}
			case q.open:
				v.Answer = "still open"
			case q.answered && q.by == "-y":
				v.Answer, v.At = "yes, by -y", m.clock(q.answer)
			case q.answered:
				v.Answer, v.At = "by "+Clean(q.by), m.clock(q.answer)
			}
			all = append(all, v)
		}
	}
	return all
}

// noteView is a warning or an error.
type noteView struct{ At, Host, Stage, Kind, Text, Remedy string }

func (m *pageMaker) notes() []noteView {
	var all []moment
	for _, s := range m.Hosts {
		all = append(all, m.facts[s].notes...)
		if s.Error != nil {
			all = append(all, moment{at: m.Made, host: s.Label(), failed: true, text: s.Error.Message, remedy: s.Error.Remedy})
		}
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.at.Compare(b.at) })
	var views []noteView
	var hosts [][]string
	for _, n := range all {
		v := noteView{At: m.clock(n.at), Stage: Clean(n.stage), Kind: "warning", Text: m.text(n.text), Remedy: m.text(n.remedy)}
		if n.failed {
			v.Kind = "error"
		}
		// What is the same of several hosts is told once.
		i := slices.IndexFunc(views, func(o noteView) bool { o.At = v.At; return o == v })
		if i < 0 {
			i = len(views)
			views, hosts = append(views, v), append(hosts, nil)
		}
		if !slices.Contains(hosts[i], n.host) {
			hosts[i] = append(hosts[i], n.host)
		}
	}
	for i := range views {
		views[i].Host = m.names(hosts[i])
	}
	return views
}

// stepsView is what was done on a host, in order.
type stepsView struct {
	Host  string
	Steps []stepView
}

type stepView struct{ At, Stage, Status, Took string }

func (m *pageMaker) steps() []stepsView {
	var all []stepsView
	for _, s := range m.told {
		v := stepsView{Host: Clean(s.Label())}
		for _, st := range m.facts[s].steps {
			status := st.status
			switch status {
			case "":
				status = "not ended"
			case Waiting:
				status = "asked"
			}
			v.Steps = append(v.Steps, stepView{m.clock(st.at), m.text(st.stage), Clean(status), lasted(st.seconds)})
		}
		if len(v.Steps) > 0 {
			all = append(all, v)
		}
	}
	return all
}
