package show

import (
	"fmt"
	"slices"
	"strings"

	"spoolsweep/spool/stage"
)

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
		value := m.text(v.Value)
		if v.Name != "" {
			value += " (" + Clean(m.mask.login(v.Name)) + ")"
		}
		from = append(from, value+" "+comma(v.Count))
	}
	if len(from) > 0 {
		text += ": " + strings.Join(from, ", ")
	}
	return text
}
