package show

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// live is where the hosts of a run are, as far as their events tell.
type live struct {
	hosts []*standing
	by    map[string]*standing // by label
}

// phase is what a host's part of a run has come to, in the order in which hosts are
// told when there is room for some only.
type phase int

const (
	failing phase = iota
	working
	asking
	notBegun
	over
)

// standing is where one host is.
type standing struct {
	label  string
	phase  phase
	said   string    // what it waits for, or has come to; of one at work the stage
	since  time.Time // when that stage began, by the host's clock
	down   time.Time // since when its Postfix is; zero: it runs
	stuck  bool      // it was not to be started
	silent time.Time // since when nothing came, by the clock here

	tally tally
	aside int64 // messages that the run has set aside there, as far as it was told
}

// tally is how far a stage that tells it has come.
type tally struct {
	stage     string
	count, of int64
	rate      float64   // a second
	heard     time.Time // by the clock here
	marks     []mark
}

type mark struct {
	at    time.Time // by the host's clock
	count int64
}

const (
	// rateOver is the time that a rate is the mean of.
	rateOver = 10 * time.Second
	// rateLasts is for how long a rate is told when nothing more is counted, at
	// least: the work is held back, or its host is silent.
	rateLasts = 3 * time.Second
	// rateMissed is after how many counts that should have come, at the pace of those
	// before.
	rateMissed = 3
)

// lasts says that the rate is still that of the work.
func (t *tally) lasts(now time.Time) bool {
	pace := time.Duration(0)
	if n := len(t.marks) - 1; n > 0 {
		pace = t.marks[n].at.Sub(t.marks[0].at) / time.Duration(n)
	}
	return now.Sub(t.heard) <= max(rateLasts, rateMissed*pace)
}

func (l *live) add(labels ...string) {
	if l.by == nil {
		l.by = map[string]*standing{}
	}
	for _, label := range labels {
		if l.by[label] == nil {
			s := &standing{label: label, phase: notBegun, said: "not begun"}
			l.by[label] = s
			l.hosts = append(l.hosts, s)
		}
	}
}

// event takes in what a host has told; now is the time here.
func (l *live) event(e wire.Event, now time.Time) {
	s := l.by[label(e.Host, e.Instance)]
	if s == nil {
		return
	}
	s.silent = time.Time{}
	switch e.Kind {
	case wire.Begin:
		s.phase, s.said, s.since = working, "?", e.Time
		if row, ok := stage.Lookup(e.Stage); ok { // no other name is shown: a host may say anything
			s.said = row.Name
		}
		if s.said == "stop" {
			s.down, s.stuck = e.Time, false
		}
		s.tally.rate, s.tally.marks = 0, nil
	case wire.Progress:
		s.counted(e, now)
	case wire.Result:
		s.result(e)
	case wire.Ask:
		var ask run.AskRecord
		if json.Unmarshal(e.Data, &ask) == nil {
			s.phase, s.said = asking, waitsFor(ask.Kind)
		}
	case wire.End:
		var end run.Ended
		if json.Unmarshal(e.Data, &end) != nil {
			return
		}
		switch {
		case e.Index >= 0 && e.Stage == "start" && end.Status == OK:
			s.down = time.Time{}
		case e.Index >= 0 && e.Stage == "start":
			s.stuck = true
		case e.Index < 0 && end.Status == OK:
			s.phase, s.said, s.down = over, "done", time.Time{}
		case e.Index < 0 && end.Status == Failed:
			s.phase, s.said = failing, "FAILED"
			if !s.stuck { // it was started before the run ended
				s.down = time.Time{}
			}
		}
	}
}

func waitsFor(kind string) string {
	switch kind {
	case "slot":
		return "waits for its turn"
	case "rules":
		return "waits for rules"
	case "confirm":
		return "waits to be confirmed"
	case "controller":
		return "waits for a command here"
	}
	return "waits"
}

// left takes in what a host that is not followed any more has come to.
func (s *standing) left(status string) {
	switch {
	case status == Unreachable:
		s.phase, s.said = failing, "UNREACHABLE"
	case status == Failed:
		s.phase, s.said = failing, "FAILED"
	case s.phase == working:
		s.phase, s.said = over, "not followed"
	}
}

// counted takes in how far a stage has come.
func (s *standing) counted(e wire.Event, now time.Time) {
	count, of, ok := countOf(e.Data)
	if !ok {
		return
	}
	if e.Stage == "classify" && of == 0 {
		of = s.aside
	}
	t := &s.tally
	if t.stage != e.Stage {
		*t = tally{stage: e.Stage}
	}
	t.count, t.of, t.heard = count, of, now
	if n := len(t.marks); n > 0 && !e.Time.After(t.marks[n-1].at) {
		return // told twice, or by a clock that was set back
	}
	t.marks = append(t.marks, mark{e.Time, count})
	for len(t.marks) > 2 && e.Time.Sub(t.marks[0].at) > rateOver {
		t.marks = t.marks[1:]
	}
	first := t.marks[0]
	t.rate = 0
	if over := e.Time.Sub(first.at).Seconds(); over > 0 && count > first.count {
		t.rate = float64(count-first.count) / over
	}
}

// result takes in what a stage has come to in the end.
func (s *standing) result(e wire.Event) {
	if e.Stage == "set-aside" {
		var a stage.Aside
		if json.Unmarshal(e.Data, &a) != nil {
			return
		}
		s.aside = 0
		for queue, set := range a.Queues {
			if queue != "defer" { // logs, and no mail
				s.aside += max(0, set.Messages)
			}
		}
	}
	if count, _, ok := countOf(e.Data); ok && s.tally.stage == e.Stage {
		s.tally.count, s.tally.of = count, max(s.tally.of, count)
	}
}

// maxCount is more messages than a host has, however it lies.
const maxCount = 1e12

// countOf is how many messages a stage is through with, and of how many, where that
// is known.
func countOf(data json.RawMessage) (count, of int64, ok bool) {
	var all map[string]json.RawMessage
	if json.Unmarshal(data, &all) != nil {
		return 0, 0, false
	}
	number := func(name string) (n int64) {
		text := all[name]
		ok = ok || text != nil && name != "of"
		if json.Unmarshal(text, &n) != nil || n < 0 {
			return 0
		}
		return min(n, maxCount)
	}
	of = number("of")
	if count = number("messages"); !ok {
		for _, name := range []string{"counted", "restored", "collisions", "deleted", "failed"} {
			count += number(name)
		}
	}
	if of > 0 {
		of = max(of, count)
	}
	return count, of, ok
}

// row is one line of the view.
type row struct {
	text  string
	alarm bool // somebody may have to do something
}

// lines draws where the hosts are: a line each, or where these are more than there
// is room for, a line for all that are at the same, below one of sums. It leaves a
// third of the screen for what is said above it.
func (l *live) lines(now time.Time, width, height int) []row {
	room := max(1, min(height*2/3, height-2))
	if len(l.hosts) == 0 {
		return nil
	}
	groups := l.groups(func(s *standing) string { return s.label })
	if len(groups) > room-1 {
		groups = l.groups(func(s *standing) string {
			if s.phase == working && s.said == s.tally.stage {
				return s.label // it has numbers of its own
			}
			return s.kind()
		})
	}
	if len(groups) > room-1 {
		groups = l.groups((*standing).kind)
	}
	rows := []row{{text: l.sums(now, width)}}
	if more := len(groups) - (room - 1); more > 0 {
		groups = groups[:max(0, len(groups)-more-1)]
	}
	names := 0
	for _, g := range groups {
		names = max(names, columns(g.name(width)))
	}
	var below [numbersTold]int
	for _, g := range groups {
		for i, part := range g.numbers(now) {
			below[i] = max(below[i], len(part))
		}
	}
	told := 0
	for _, g := range groups {
		told += len(g)
		rows = append(rows, row{fitting(padded(g.name(width), names)+"  "+g.text(now, width-names-3, below), width-1), g[0].phase == failing || !g.down().IsZero()})
	}
	if rest := len(l.hosts) - told; rest > 0 && room > 1 {
		rows = append(rows, row{text: fitting(fmt.Sprintf("and %s more (Enter lists those at work)", humanize.Comma(int64(rest))), width-1)})
	}
	return rows
}

// kind is what hosts have in common that are told on one line.
func (s *standing) kind() string {
	return fmt.Sprint(s.phase, s.said, !s.down.IsZero(), !s.silent.IsZero())
}

// group is hosts that are told on one line.
type group []*standing

// groups are the hosts by a key. Where some have one in common, those come first
// that somebody may have to look after.
func (l *live) groups(key func(*standing) string) []group {
	var all []group
	at := map[string]int{}
	for _, s := range l.hosts {
		k := key(s)
		i, known := at[k]
		if !known {
			i = len(all)
			at[k] = i
			all = append(all, nil)
		}
		all[i] = append(all[i], s)
	}
	if len(all) < len(l.hosts) {
		rank := func(g group) int {
			if !g.down().IsZero() {
				return -1
			}
			return int(g[0].phase)
		}
		slices.SortStableFunc(all, func(a, b group) int { return rank(a) - rank(b) })
	}
	return all
}

// name is what a line begins with, in no more than two fifths of it.
func (g group) name(width int) string {
	room := max(12, width*2/5)
	count := ""
	if len(g) > 1 {
		count = " (" + humanize.Comma(int64(len(g))) + ")"
	}
	return fitting(g.names(), room-len(count)) + count
}

func (g group) names() string {
	labels := make([]string, len(g))
	for i, s := range g {
		labels[i] = s.label
	}
	return Names(labels)
}

// down is since when the first of them has no Postfix.
func (g group) down() (since time.Time) {
	for _, s := range g {
		if !s.down.IsZero() && (since.IsZero() || s.down.Before(since)) {
			since = s.down
		}
	}
	return since
}

// text is what stands behind the name, as much of it as there is room for; numbers
// stand below each other.
func (g group) text(now time.Time, room int, below [numbersTold]int) string {
	s := g[0]
	text := padded(s.said, stageWidth)
	add := func(part string) (fits bool) {
		if fits = columns(text)+2+columns(part) <= room; fits {
			text += "  " + part
		}
		return fits
	}
	if down := g.down(); !down.IsZero() && !add("Postfix down since "+clock(down)) {
		add("down " + clock(down))
	}
	if !s.silent.IsZero() {
		add("silent since " + clock(s.silent))
	}
	numbers := g.numbers(now)
	for i, part := range numbers {
		if numbers[0] == "" || !add(fmt.Sprintf("%*s", below[i], part)) {
			break
		}
	}
	if s.phase == working && numbers[0] == "" && len(g) == 1 && s.down.IsZero() {
		add("since " + clock(s.since))
	}
	return strings.TrimRight(text, " ")
}

// numbersTold is how many there are of a stage: how far it is, in which time the
// rest is done, and how fast.
const numbersTold = 3

// numbers are those of the stage that they are at; "" for what is not known.
func (g group) numbers(now time.Time) (parts [numbersTold]string) {
	if s := g[0]; s.phase == working {
		parts = g.sum(s.said, now).parts()
	}
	return parts
}

func clock(at time.Time) string { return at.Local().Format(time.TimeOnly) }

// total is what the tallies of some hosts come to.
type total struct {
	count, of int64
	rate      float64
	left      time.Duration // of the one that takes longest; 0: not known
}

// sum adds up what is counted in a stage.
func (g group) sum(stage string, now time.Time) (t total) {
	known := true
	for _, s := range g {
		if s.tally.stage != stage {
			continue
		}
		t.count += s.tally.count
		t.of += s.tally.of
		known = known && s.tally.of > 0
		if s.phase != working || s.said != stage || s.tally.rate <= 0 || !s.tally.lasts(now) {
			continue
		}
		t.rate += s.tally.rate
		if s.tally.of > 0 {
			left := min(float64(s.tally.of-s.tally.count)/s.tally.rate, maxLeft.Seconds())
			t.left = max(t.left, time.Duration(left*float64(time.Second)))
		}
	}
	if !known {
		t.of, t.left = 0, 0
	}
	return t
}

// maxLeft is more than anybody waits for.
const maxLeft = 1000 * time.Hour

func (t total) parts() (parts [numbersTold]string) {
	if t.count == 0 && t.of == 0 {
		return parts
	}
	parts[0] = humanize.Comma(t.count)
	if t.of > 0 {
		parts[0] += " of " + humanize.Comma(t.of)
	}
	if t.left > 0 {
		parts[1] = lasting(t.left) + " left"
	}
	switch {
	case t.rate >= 10:
		parts[2] = humanize.Comma(int64(t.rate+0.5)) + "/s"
	case t.rate > 0:
		parts[2] = fmt.Sprintf("%.1f/s", t.rate)
	}
	return parts
}

// lasting rounds a time up as people tell it.
func lasting(d time.Duration) string {
	seconds := int64((d + time.Second - 1) / time.Second)
	switch {
	case seconds < 100:
		return fmt.Sprintf("%d s", seconds)
	case seconds < 100*60:
		return fmt.Sprintf("%d min", (seconds+59)/60)
	}
	return fmt.Sprintf("%d h %02d min", seconds/3600, seconds%3600/60)
}

// sums is the line of all hosts together.
func (l *live) sums(now time.Time, width int) string {
	var of [over + 1]int
	var down int
	counting := map[string]int{}
	most := ""
	for _, s := range l.hosts {
		of[s.phase]++
		if !s.down.IsZero() {
			down++
		}
		if s.phase == working && s.said == s.tally.stage {
			if counting[s.said]++; counting[s.said] > counting[most] {
				most = s.said
			}
		}
	}
	var phases []string
	for _, p := range []struct {
		phase phase
		name  string
	}{{over, "done"}, {working, "at work"}, {asking, "waiting"}, {failing, "failed"}, {notBegun, "not begun"}} {
		if n := of[p.phase]; n > 0 {
			phases = append(phases, humanize.Comma(int64(n))+" "+p.name)
		}
	}
	text := "-- " + many(int64(len(l.hosts)), l.noun()) + ": " + strings.Join(phases, ", ")
	full := false
	add := func(part string) {
		if full = full || columns(text+part) >= width; !full {
			text += part
		}
	}
	if down > 0 {
		add(fmt.Sprintf("; Postfix down on %d", down))
	}
	if most != "" && len(l.hosts) > 1 {
		before := "; " + most + " "
		for _, part := range group(l.hosts).sum(most, now).parts() {
			if part != "" {
				add(before + part)
				before = ", "
			}
		}
	}
	return fitting(text, width-1)
}

// noun is what the lines are of.
func (l *live) noun() string {
	if slices.ContainsFunc(l.hosts, func(s *standing) bool { return strings.Contains(s.label, "/") }) {
		return "instance"
	}
	return "host"
}

// busy tells all hosts that are still at work or wait, by what they are at, however
// many these are.
func (l *live) busy(now time.Time) []string {
	var all []string
	for _, g := range l.groups((*standing).kind) {
		if p := g[0].phase; p == over || p == failing && g.down().IsZero() {
			continue
		}
		all = append(all, g.names()+": "+g.text(now, maxText, [numbersTold]int{}))
	}
	if len(all) == 0 {
		all = []string{"nobody is at work"}
	}
	return all
}
