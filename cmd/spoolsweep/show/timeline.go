package show

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// Kinds of spans of a time line.
const (
	spanWork = "work" // looks and judges
	spanDown = "down" // Postfix is stopped
	spanMove = "move" // mail goes back, or is removed
	spanWait = "wait" // for somebody
)

// span is what a host did for a time.
type span struct {
	kind     string
	from, to time.Time
	open     bool // it still does
}

// tracker makes spans of events, in their order.
type tracker struct {
	until time.Time
	spans []span
	at    span // what goes on
	on    bool
	down  time.Time // Postfix is stopped since
}

var spanOf = map[string]string{"restore": spanMove, "putback": spanMove, "purge": spanMove, "delete": spanMove, "hold": spanMove, "release": spanMove, "requeue": spanMove, "export": spanMove}

func (t *tracker) event(e wire.Event) {
	switch {
	case e.Index < 0:
	case e.Kind == wire.Begin:
		t.close(e.Time)
		if e.Stage == "stop" {
			t.down = e.Time
		}
		t.at, t.on = span{kind: cmp.Or(spanOf[e.Stage], spanWork), from: e.Time}, true
	case e.Kind == wire.Result && e.Stage == "start":
		var s stage.Started
		if json.Unmarshal(e.Data, &s) == nil && !t.down.IsZero() {
			t.add(span{kind: spanDown, from: t.down, to: t.down.Add(seconds(s.Downtime))})
			t.down = time.Time{}
		}
	case e.Kind == wire.End:
		t.close(e.Time)
		var end run.Ended
		if !t.down.IsZero() && json.Unmarshal(e.Data, &end) == nil && end.Error != "" {
			// A section that failed starts Postfix before it says so.
			t.add(span{kind: spanDown, from: t.down, to: e.Time})
			t.down = time.Time{}
		}
	case e.Kind == wire.Ask:
		t.close(e.Time)
		var ask run.AskRecord
		if json.Unmarshal(e.Data, &ask) == nil && ask.Kind == "slot" {
			return // other hosts have their turn
		}
		t.at, t.on = span{kind: spanWait, from: e.Time}, true
	}
}

// seconds is a number of them that a host has told.
func seconds(n float64) time.Duration {
	return time.Duration(min(max(0, n), maxSeconds) * float64(time.Second))
}

const maxSeconds = 1e8 // three years

func (t *tracker) close(at time.Time) {
	if t.on {
		t.at.to = at
		t.add(t.at)
		t.on = false
	}
}

func (t *tracker) add(s span) {
	if len(t.spans) == maxTold || s.to.Before(s.from) || s.to.After(t.until.Add(wrongClock)) || s.to.Sub(s.from) > seconds(maxSeconds) {
		return // or a clock that was set meanwhile, or is wrong
	}
	if n := len(t.spans); n > 0 && t.spans[n-1].kind == s.kind && s.from.Sub(t.spans[n-1].to) < time.Second && s.kind != spanDown {
		t.spans[n-1].to = s.to // one span of many short stages
		return
	}
	t.spans = append(t.spans, s)
}

// wrongClock is by how much a host's clock may be before ours.
const wrongClock = time.Hour

// end ends what still goes on, by where the run stands.
func (t *tracker) end(phase string) []span {
	if !t.down.IsZero() {
		t.spans = append(t.spans, span{kind: spanDown, from: t.down, to: maxTime(t.until, t.down), open: phase == run.Working})
	}
	if t.on && (phase == run.Working || phase == run.Waiting && t.at.kind == spanWait) {
		t.at.to, t.at.open = maxTime(t.until, t.at.from), true
		t.spans = append(t.spans, t.at)
	}
	return t.spans
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// axis maps time to percents of a width. Where no host does anything for long it
// is cut: each of its parts has a scale of its own.
type axis struct {
	parts []axisPart
	open  bool // something goes on beyond the last part
}

type axisPart struct {
	from, to time.Time
	x, width float64
}

const (
	axisParts = 3
	axisGap   = 5.0 // percents between two parts
	axisTail  = 4.0 // behind the last one, for what goes on
)

// newAxis lays out the work of all hosts.
func newAxis(hosts [][]span) *axis {
	var work []axisPart
	a := &axis{}
	for _, spans := range hosts {
		for _, s := range spans {
			a.open = a.open || s.open
			if s.kind != spanWait && !s.open {
				work = append(work, axisPart{from: s.from, to: s.to})
			}
		}
	}
	if len(work) == 0 {
		return nil
	}
	slices.SortFunc(work, func(a, b axisPart) int { return a.from.Compare(b.from) })
	var merged []axisPart
	for _, w := range work {
		if n := len(merged); n > 0 && !w.from.After(merged[n-1].to) {
			merged[n-1].to = maxTime(merged[n-1].to, w.to)
			continue
		}
		merged = append(merged, w)
	}
	var busy time.Duration
	for _, m := range merged {
		busy += m.to.Sub(m.from)
	}
	// Short rests are no gap, and of the others only the longest.
	rests := make([]time.Duration, 0, len(merged))
	for i := 1; i < len(merged); i++ {
		if rest := merged[i].from.Sub(merged[i-1].to); rest > max(5*time.Second, busy/5) {
			rests = append(rests, rest)
		}
	}
	slices.SortFunc(rests, func(a, b time.Duration) int { return cmp.Compare(b, a) })
	rests = rests[:min(len(rests), axisParts-1)]
	for _, m := range merged {
		n := len(a.parts)
		if n > 0 && (len(rests) == 0 || m.from.Sub(a.parts[n-1].to) < rests[len(rests)-1]) || n == axisParts {
			a.parts[n-1].to = m.to
			continue
		}
		a.parts = append(a.parts, m)
	}
	a.layOut()
	return a
}

// layOut gives each part a width by the root of its time, so that seconds can be
// seen beside hours.
func (a *axis) layOut() {
	room := 100 - axisGap*float64(len(a.parts)-1)
	if a.open {
		room -= axisTail
	}
	var sum float64
	weight := func(p axisPart) float64 { return math.Sqrt(1 + p.to.Sub(p.from).Seconds()) }
	for _, p := range a.parts {
		sum += weight(p)
	}
	// None is too narrow for the time that stands below it.
	least := room / float64(len(a.parts)+2)
	free := room - least*float64(len(a.parts))
	x := 0.0
	for i := range a.parts {
		p := &a.parts[i]
		p.x, p.width = x, least+free*weight(*p)/sum
		x += p.width + axisGap
	}
}

// at is where a time stands, in percents.
func (a *axis) at(t time.Time) float64 {
	for i, p := range a.parts {
		if t.Before(p.from) {
			if i == 0 {
				return 0
			}
			before := a.parts[i-1]
			return before.x + before.width + axisGap*share(t.Sub(before.to), p.from.Sub(before.to))
		}
		if !t.After(p.to) {
			return p.x + p.width*share(t.Sub(p.from), p.to.Sub(p.from))
		}
	}
	return 100 // now
}

func share(of, all time.Duration) float64 {
	if all <= 0 {
		return 0
	}
	return min(1, float64(of)/float64(all))
}

// bar is a span as it is drawn.
type bar struct {
	Class    string
	X, Width string // in percents
	Y, H     int
}

// Heights of bars, so that kinds can be told without their colours.
var barHeight = map[string]int{spanWork: 10, spanMove: 18, spanDown: 28, spanWait: 3}

const rowHeight = 30

func (a *axis) bars(spans []span) []bar {
	spans = slices.Clone(spans)
	// What is short and matters most is drawn last.
	order := []string{spanWait, spanWork, spanMove, spanDown}
	slices.SortStableFunc(spans, func(a, b span) int {
		return cmp.Compare(slices.Index(order, a.kind), slices.Index(order, b.kind))
	})
	var bars []bar
	for _, s := range spans {
		from, to := a.at(s.from), a.at(s.to)
		if s.open {
			to = 100
		}
		h := barHeight[s.kind]
		bars = append(bars, bar{Class: s.kind, X: percent(from), Width: percent(max(to-from, 0.05)), Y: (rowHeight - h) / 2, H: h})
	}
	return bars
}

func percent(n float64) string { return fmt.Sprintf("%.2f%%", min(max(n, 0), 100)) }

// tick is a time below the axis.
type tick struct {
	X, Anchor, Text string
}

// ticks are the times at which parts begin and end.
func (a *axis) ticks(zone *time.Location) (ticks []tick, breaks []string) {
	first, last := a.parts[0].from, a.parts[len(a.parts)-1].to
	form := time.TimeOnly
	if last.Sub(first) > 20*time.Hour {
		form = "2 Jan 15:04"
	}
	for i, p := range a.parts {
		ticks = append(ticks, tick{percent(p.x), "start", p.from.In(zone).Format(form)})
		if p.width > 40 || i == len(a.parts)-1 && p.width > 35 {
			ticks = append(ticks, tick{percent(p.x + p.width), "end", p.to.In(zone).Format(form)})
		}
		if i > 0 {
			breaks = append(breaks, percent(p.x-axisGap/2))
		}
	}
	return ticks, breaks
}

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
