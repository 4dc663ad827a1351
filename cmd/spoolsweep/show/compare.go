package show

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/stage"
)

// Compared is two runs on one host, or on all that have both; nil is one that is not
// known there.
type Compared struct {
	Older *Figures `json:"older"`
	Newer *Figures `json:"newer"`
}

// Figures are what a run comes to.
type Figures struct {
	Run   string `json:"run"`
	Phase string `json:"phase,omitempty"` // of one host
	// Sums are the ledger's; where that is not known, what was set aside alone.
	stage.Sums
	Spam     int64            `json:"spam"` // as it was judged last
	Ham      int64            `json:"ham"`
	Downtime float64          `json:"downtime_seconds"` // of Postfix
	Seconds  float64          `json:"seconds"`          // that all stages took
	ByRule   map[string]int64 `json:"by_rule"`
}

// Figures are what the run comes to on this host. now is when it was told.
func (s *Story) Figures(run string, now time.Time) *Figures {
	f := s.gather(now)
	all := &Figures{Run: run, ByRule: map[string]int64{}}
	all.SetAside = f.known()
	if s.Report != nil && s.Report.State != nil {
		all.Phase = s.Report.State.Phase
	}
	if s.Account != nil {
		all.Sums = s.Account.Sums
	}
	if c := f.classified; c != nil && len(c.ByRule) > 0 { // without rules all is ham
		all.Spam, all.Ham = c.Spam, c.Ham
		for name, r := range c.ByRule {
			all.ByRule[name] = r.Messages
		}
	}
	all.Downtime, _ = f.stopped()
	for _, step := range f.steps {
		all.Seconds += step.seconds
	}
	return all
}

// Add takes in what a further host has of both.
func (c *Compared) Add(of *Compared) {
	for _, pair := range [][2]*Figures{{c.Older, of.Older}, {c.Newer, of.Newer}} {
		to, from := pair[0], pair[1]
		to.SetAside += from.SetAside
		to.Restored += from.Restored
		to.Collisions += from.Collisions
		to.Left += from.Left
		to.Purged += from.Purged
		to.SentMeanwhile += from.SentMeanwhile
		to.Missing += from.Missing
		to.Deleted += from.Deleted
		to.Gone += from.Gone
		to.Stayed += from.Stayed
		to.Held += from.Held
		to.Released += from.Released
		to.Requeued += from.Requeued
		to.Spam += from.Spam
		to.Ham += from.Ham
		to.Downtime += from.Downtime
		to.Seconds += from.Seconds
		for name, n := range from.ByRule {
			to.ByRule[name] += n
		}
	}
}

// rulesCompared is how many rules are told of.
const rulesCompared = 10

// Lines tells each figure of both, and the difference.
func (c *Compared) Lines() []stage.Line {
	for _, of := range []*Figures{c.Older, c.Newer} {
		if of == nil {
			return []stage.Line{{Label: "has a record of one of these runs alone"}}
		}
	}
	a, b := c.Older, c.Newer
	var lines []stage.Line
	if a.Phase != "" {
		lines = append(lines, stage.Line{Label: "stands", Text: a.Phase + ", then " + b.Phase})
	}
	number := func(label string, was, is int64, always bool) {
		if always || was != 0 || is != 0 {
			change := "the same"
			if is != was {
				change = fmt.Sprintf("%s%s", map[bool]string{true: "+"}[is > was], humanize.Comma(is-was))
			}
			lines = append(lines, stage.Line{Label: label, Text: fmt.Sprintf("%s, then %s (%s)", humanize.Comma(was), humanize.Comma(is), change)})
		}
	}
	number("set aside", a.SetAside, b.SetAside, true)
	number("spam", a.Spam, b.Spam, false)
	number("ham", a.Ham, b.Ham, false)
	number("restored", a.Restored, b.Restored, false)
	number("collisions", a.Collisions, b.Collisions, false)
	number("left", a.Left, b.Left, false)
	number("purged", a.Purged, b.Purged, false)
	number("sent meanwhile", a.SentMeanwhile, b.SentMeanwhile, false)
	number("missing", a.Missing, b.Missing, false)
	number("deleted", a.Deleted, b.Deleted, false)
	number("held", a.Held, b.Held, false)
	number("released", a.Released, b.Released, false)
	number("requeued", a.Requeued, b.Requeued, false)
	lines = append(lines, stage.Line{Label: "without Postfix", Text: fmt.Sprintf("%.1f s, then %.1f s", a.Downtime, b.Downtime)},
		stage.Line{Label: "at work", Text: fmt.Sprintf("%.1f s, then %.1f s", a.Seconds, b.Seconds)})
	both := maps.Clone(a.ByRule)
	for name, n := range b.ByRule {
		both[name] = max(both[name], n)
	}
	names := slices.SortedFunc(maps.Keys(both), func(x, y string) int { return cmp.Or(cmp.Compare(both[y], both[x]), cmp.Compare(x, y)) })
	for _, name := range names[:min(len(names), rulesCompared)] {
		number("rule "+name+":", a.ByRule[name], b.ByRule[name], true)
	}
	if more := len(names) - rulesCompared; more > 0 {
		lines = append(lines, stage.Line{Label: fmt.Sprintf("and %d more rules: -o json has all", more)})
	}
	return lines
}

const stageCompare = "compare"

// Compared prints two runs side by side; host is "" for all together.
func (p *Printer) Compared(h *Host, c *Compared) {
	e := wire.Event{Instance: DefaultInstance, Time: time.Now().UTC(), Stage: stageCompare, Kind: wire.Result}
	host := ""
	if h != nil {
		host, e.Host, e.Instance = h.Label(), h.Host, h.Instance
	}
	if text, err := json.Marshal(c); err == nil {
		e.Data = text
		p.stream(e)
	}
	p.LinesOf(host, stageCompare, c)
}
