package show

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"spoolsweep/spool/stage"
)

// states are those that health sorts by, the worst first: where no mail flows, where
// too much does, where nobody knows, and so on.
var states = []string{"stopped", stage.LevelFlooded, Unreachable, Failed, stage.LevelBusy, "waits", stage.LevelOK}

// healthRow is one host of the table.
type healthRow struct {
	host   *Host
	counts stage.Counts
	known  bool
	state  string
}

func healthOf(h *Host) healthRow {
	r := healthRow{host: h, state: Unreachable}
	r.known = h.Error == nil && json.Unmarshal(h.Result, &r.counts) == nil
	switch {
	case h.Error != nil && h.Status != Unreachable:
		r.state = Failed
	case !r.known:
	case r.counts.Postfix != "running":
		r.state = "stopped"
	case r.counts.Level == stage.LevelFlooded, r.counts.Level == stage.LevelBusy:
		r.state = r.counts.Level
	case slices.ContainsFunc(r.counts.Runs, func(w stage.Waiting) bool { return w.Asks != "" }):
		r.state = "waits"
	default:
		r.state = stage.LevelOK
	}
	return r
}

// aside is how many messages are.
func (r *healthRow) aside() (n int64) {
	for _, left := range r.counts.SetAside {
		n += left.Messages
	}
	return n
}

// oldest is the age of the oldest message of any queue, in seconds.
func (r *healthRow) oldest() (age int64) {
	for _, n := range r.counts.Queues {
		if n.Contents != nil {
			age = max(age, n.Oldest)
		}
	}
	return age
}

// cells are those of healthHead.
func (r *healthRow) cells() []string {
	row := []string{r.state, fitting(Clean(r.host.Label()), maxLabel)}
	if !r.known {
		return row
	}
	row = append(row, humanize.Comma(r.counts.Messages), "", humanize.Comma(r.aside()))
	if age := r.oldest(); age > 0 {
		row[3] = roughly(age)
	}
	if p := r.host.Past; p != nil && len(p.Looks) > 0 {
		looks := append(p.Looks[:len(p.Looks):len(p.Looks)], Look{Messages: r.counts.Messages})
		row = append(row, change(p.Grown)+" in "+roughly(p.Seconds), trend(looks[max(0, len(looks)-maxTrend):]))
	}
	return row
}

var healthHead = []string{"STATE", "HOST", "MESSAGES", "OLDEST", "ASIDE", "GROWTH", "TREND"}

const (
	maxLabel   = 24
	maxTrend   = 8
	tableWidth = 80
	between    = "  "
	leastCells = 5 // those behind are left out where there is no room
)

// roughly is an age in its largest unit.
func roughly(seconds int64) string {
	fields := strings.Fields(stage.Age(seconds))
	return strings.Join(fields[:min(2, len(fields))], " ")
}

// Health prints how several hosts are, for people: the verdict, then a line for each,
// the worst first, then of those that are not well what is told of a single one.
// noun is what they are.
func (p *Printer) Health(hosts []*Host, noun string) {
	rows := make([]healthRow, len(hosts))
	for i, h := range hosts {
		rows[i] = healthOf(h)
	}
	slices.SortStableFunc(rows, func(a, b healthRow) int {
		return cmp.Or(slices.Index(states, a.state)-slices.Index(states, b.state), cmp.Compare(b.counts.Messages, a.counts.Messages))
	})
	p.Line("", "%s", healthVerdict(rows, noun))
	table := [][]string{nil}
	for i := range rows {
		cells := rows[i].cells()
		table = append(table, cells)
		table[0] = healthHead[:max(len(table[0]), len(cells))]
	}
	for _, line := range aligned(table, 2, 3, 4, 5) {
		p.Line("", "%s", line)
	}
	for i := range rows {
		h := rows[i].host
		if rows[i].state == stage.LevelOK || !rows[i].known {
			continue // why one is not known is told where errors are
		}
		p.Lines(h.Label(), "count", h.Result)
		p.Buckets(h)
		p.Senders(h)
	}
}

// Well says whether a host's count asks for nobody's attention.
func Well(h *Host) bool { return healthOf(h).state == stage.LevelOK }

// Buckets prints how old and how large the messages of each queue of a host are.
func (p *Printer) Buckets(h *Host) {
	r := healthOf(h)
	if !r.known {
		return
	}
	for _, by := range stage.Spreads(&r.counts) {
		table := [][]string{append([]string{strings.ToUpper(by.By)}, by.Columns...)}
		var numbers []int
		for i := range by.Columns {
			numbers = append(numbers, i+1)
		}
		for _, row := range by.Rows {
			cells := []string{Clean(row.Name)}
			if row.About {
				cells[0] += ", about"
			}
			for _, n := range row.Numbers {
				cells = append(cells, humanize.Comma(n))
			}
			table = append(table, cells)
		}
		for _, line := range aligned(table, numbers...) {
			p.Line(h.Label(), "%s", stageLine("count", stage.Line{Label: line}))
		}
	}
}

// Senders prints who sends on a host, if health was to find out, and before that how
// much of it is one login's.
func (p *Printer) Senders(h *Host) {
	for _, st := range h.Stages {
		var s stage.Suspects
		if st.Stage != "suspects" || json.Unmarshal(st.Result, &s) != nil {
			continue
		}
		if len(s.SASLUsers) > 0 && s.Read > 0 {
			top := s.SASLUsers[0]
			p.Line(h.Label(), "%s", stageLine(st.Stage, stage.Line{Label: "top login:", Text: fmt.Sprintf("%s has %.0f %% of %s messages", top.Value, 100*float64(top.Count)/float64(s.Read), humanize.Comma(s.Read))}))
		}
		p.Lines(h.Label(), st.Stage, st.Result)
	}
}

// healthVerdict is how many are in which state, the worst first.
func healthVerdict(rows []healthRow, noun string) string {
	in := map[string]int{}
	var messages, aside int64
	for i := range rows {
		in[rows[i].state]++
		messages, aside = messages+rows[i].counts.Messages, aside+rows[i].aside()
	}
	var parts []string
	for _, state := range states {
		if n := in[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	return fmt.Sprintf("%d %s: %s; %s messages queued, %s aside", len(rows), noun, strings.Join(parts, ", "), humanize.Comma(messages), humanize.Comma(aside))
}

// aligned pads the cells of a table, to the left those of the columns of numbers.
func aligned(table [][]string, numbers ...int) (lines []string) {
	var widths []int
	for _, row := range table {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columns(cell))
		}
	}
	whole := -len(between)
	shown := 0
	for i, w := range widths {
		if whole += w + len(between); whole <= tableWidth || i < leastCells {
			shown = i + 1
		}
	}
	for _, row := range table {
		var cells []string
		for i, cell := range row[:min(len(row), shown)] {
			if slices.Contains(numbers, i) {
				cells = append(cells, strings.Repeat(" ", widths[i]-columns(cell))+cell)
			} else {
				cells = append(cells, padded(cell, widths[i]))
			}
		}
		lines = append(lines, strings.TrimRight(strings.Join(cells, between), " "))
	}
	return lines
}
