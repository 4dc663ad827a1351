package show

import (
	"slices"

	"spoolsweep/spool/stage"
)

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
		cells = append(cells, figure{Text: comma(s.Deleted)}, figure{Text: comma(s.Gone)}, figure{Text: comma(s.Stayed)},
			figure{Text: comma(s.Held)}, figure{Text: comma(s.Released)}, figure{Text: comma(s.Requeued)})
	}
	return cells
}

// ledger is nil where no ledger was told.
func (m *pageMaker) ledger() *ledgerView {
	sum, known, unknown := m.sums()
	if !known {
		return nil
	}
	v := &ledgerView{Deletes: sum.Live() > 0, Unknown: m.names(unknown)}
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
			all = append(all, moment{at: m.Made, host: s.Label(), failed: true, text: s.Error.Message, remedy: s.Error.Remedy, ours: s.Status == Unreachable})
		}
	}
	slices.SortStableFunc(all, func(a, b moment) int { return a.at.Compare(b.at) })
	var views []noteView
	var hosts [][]string
	for _, n := range all {
		v := noteView{At: m.clock(n.at), Stage: Clean(n.stage), Kind: "warning", Text: m.text(n.text), Remedy: m.text(n.remedy)}
		if n.ours {
			v.Text, v.Remedy = Clean(n.text), Clean(n.remedy)
		}
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
