package stage

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"spoolsweep/spool/pattern"
)

// RuleCount is what one spam rule caught.
type RuleCount struct {
	Messages int64 `json:"messages"`
	Alone    int64 `json:"alone"` // no other spam rule caught these
	// Lines is, of a rule on text, how many messages have how many lines that
	// match it: "0", "1", "2" or "3+". Text that could not
	// change the verdict was not read, and has none.
	Lines map[string]int64 `json:"lines"`
}

// HamCount is what one ham rule kept from the spam rules.
type HamCount struct {
	Messages int64 `json:"messages"`
	Alone    int64 `json:"alone"` // no other ham rule kept these
}

// Verdicts counts messages by verdict.
type Verdicts struct {
	Spam       int64 `json:"spam"`
	Ham        int64 `json:"ham"`
	Unreadable int64 `json:"unreadable"`
	Incomplete int64 `json:"incomplete"`
}

// Classified is the result of classify.
type Classified struct {
	Messages int64 `json:"messages"`
	Verdicts
	ByRule map[string]RuleCount `json:"by_rule"`
	// RuleOrder lists the rules as they were given.
	RuleOrder []string `json:"rule_order"`
	// Overlap is how many messages two rules caught both, of the first rules in
	// their order; of a rule with itself all that it caught.
	Overlap [][]int64 `json:"overlap,omitempty"`
	// ByHam is what each ham rule kept, of those in HamOrder.
	ByHam    map[string]HamCount `json:"by_ham_rule,omitempty"`
	HamOrder []string            `json:"ham_rule_order,omitempty"`
	ByQueue  map[string]Verdicts `json:"by_queue"`
	// Left are the sources on the ham side that look like a flood.
	Left []Source `json:"sources_left"`
	// Largest is the largest source there of each kind, however small.
	Largest []Source `json:"largest_sources"`
	// Hit are local senders of messages judged spam, HitAll how many there are;
	// Rescued is what ham rules kept.
	Hit     []string `json:"local_senders"`
	HitAll  int      `json:"local_senders_hit"`
	Rescued int64    `json:"rescued"`
	// Unread are the first unreadable messages, with what is wrong.
	Unread []string `json:"unreadable_samples,omitempty"`
	// HamSamples and NearMisses are some of the ham, and of the ham of which some
	// lines match a spam rule: of a command, never of a run.
	HamSamples []Sample `json:"ham_samples,omitempty"`
	NearMisses []Sample `json:"near_misses,omitempty"`
	// Explain is the id of the one message that was asked about, and Explained
	// what there was of it.
	Explain   string      `json:"explain,omitempty"`
	Explained []Explained `json:"explained,omitempty"`
	Slow      []string    `json:"slow_rules,omitempty"`
	List      string      `json:"list,omitempty"` // names the list of verdicts
	Bytes     int64       `json:"bytes"`
	Seconds   float64     `json:"seconds"`
}

// Lines tells the sums, each rule, and what is left. Without rules nothing was
// judged, and it tells only what there is much of.
func (c *Classified) Lines() []Line {
	if c.Explain != "" {
		return explanationLines(c.Explain, c.Explained)
	}
	lines := []Line{{Label: "in all", Number: c.Messages, Unit: "messages"}}
	left, sample := "of one source", "sample"
	if len(c.RuleOrder) > 0 {
		left, sample = "left among ham", "ham"
		lines = append(lines,
			Line{Label: "spam", Number: c.Spam, Unit: "messages"},
			Line{Label: "ham", Number: c.Ham, Unit: "messages"})
	}
	if c.Unreadable > 0 {
		lines = append(lines, Line{Label: "unreadable", Number: c.Unreadable, Unit: "messages"})
	}
	if c.Incomplete > 0 {
		lines = append(lines, Line{Label: "half-written, never accepted", Number: c.Incomplete, Unit: "messages"})
	}
	for i, name := range c.RuleOrder {
		r := c.ByRule[name]
		lines = append(lines, Line{Label: "rule", Number: r.Messages, Unit: "messages", Text: fmt.Sprintf("%s (alone %d%s)", name, r.Alone, c.alsoBy(i))})
		if len(r.Lines) > 0 {
			lines = append(lines, Line{Label: "  lines that match it", Text: fmt.Sprintf("0 in %d messages, 1 in %d, 2 in %d, 3 or more in %d", r.Lines["0"], r.Lines["1"], r.Lines["2"], r.Lines["3+"])})
		}
	}
	for _, name := range c.HamOrder {
		if r := c.ByHam[name]; r.Messages > 0 || len(c.HamOrder) > 1 {
			lines = append(lines, Line{Label: "kept by a ham rule", Number: r.Messages, Unit: "messages", Text: fmt.Sprintf("%s (alone %d)", name, r.Alone)})
		}
	}
	if c.HitAll > 0 {
		shown := strings.Join(c.Hit[:min(len(c.Hit), sendersTold)], ", ")
		if c.HitAll > sendersTold {
			shown += ", ..."
		}
		lines = append(lines, Line{Label: "hit by spam rules", Number: int64(c.HitAll), Unit: "local senders", Text: shown})
	}
	for _, s := range c.Left {
		text := s.String()
		if s.Kind == kindTemplate { // nothing else tells which mail that is
			text += ", such as " + strings.Join(s.Samples, ", ")
		}
		lines = append(lines, Line{Label: left, Number: s.Count, Unit: "messages", Text: text})
	}
	for _, name := range c.Slow {
		lines = append(lines, Line{Label: "slow, since it has no text that every match must have", Text: name})
	}
	for _, s := range c.HamSamples {
		lines = append(lines, s.lines(sample)...)
	}
	for _, s := range c.NearMisses {
		lines = append(lines, s.lines("near miss")...)
	}
	return lines
}

const (
	localSendersKept  = 100000 // more are not told apart
	localSendersShown = 20
	sendersTold       = 5 // in the text for people
	unreadKept        = 5
	overlapsKept      = 40 // rules in the matrix
	overlapsTold      = 3  // other rules named beside one
)

// alsoBy names the rules that caught most of what rule i caught.
func (c *Classified) alsoBy(i int) string {
	if i >= len(c.Overlap) {
		return ""
	}
	var others []int
	for k, n := range c.Overlap[i] {
		if k != i && n > 0 {
			others = append(others, k)
		}
	}
	slices.SortStableFunc(others, func(a, b int) int { return int(c.Overlap[i][b] - c.Overlap[i][a]) })
	text := ""
	for n, k := range others {
		if n == overlapsTold {
			return text + ", ..."
		}
		text += fmt.Sprintf("; %d also by %s", c.Overlap[i][k], c.RuleOrder[k])
	}
	return text
}

// result counts what was judged.
type result struct {
	*Classified
	onText []bool // of each spam rule
	rules  []ruleCount
	ham    []HamCount
	places []place
	queues []Verdicts // of each place
	local  map[string]bool
}

type ruleCount struct {
	messages, alone int64
	lines           [4]int64
}

func newResult(rules *pattern.Rules, places []place) *result {
	r := &result{
		Classified: &Classified{ByRule: map[string]RuleCount{}, ByQueue: map[string]Verdicts{}, Slow: rules.Slow(), RuleOrder: rules.Spam(), HamOrder: rules.Ham()},
		onText:     rules.OnText(),
		places:     places,
		queues:     make([]Verdicts, len(places)),
		local:      map[string]bool{},
	}
	r.rules, r.ham = make([]ruleCount, len(r.RuleOrder)), make([]HamCount, len(r.HamOrder))
	if n := min(len(r.RuleOrder), overlapsKept); n > 1 {
		r.Overlap = make([][]int64, n)
		for i := range r.Overlap {
			r.Overlap[i] = make([]int64, n)
		}
	}
	return r
}

func (v *Verdicts) add(verdict pattern.Verdict) {
	switch verdict {
	case pattern.Spam:
		v.Spam++
	case pattern.Ham:
		v.Ham++
	case pattern.Unreadable:
		v.Unreadable++
	case pattern.Incomplete:
		v.Incomplete++
	}
}

// plus is the sum of two counts.
func (v Verdicts) plus(o Verdicts) Verdicts {
	return Verdicts{v.Spam + o.Spam, v.Ham + o.Ham, v.Unreadable + o.Unreadable, v.Incomplete + o.Incomplete}
}

func (c *result) count(r *reading, domains []string) {
	c.Messages++
	c.Bytes += r.Size
	c.Verdicts.add(r.Verdict)
	c.queues[r.place].add(r.Verdict)
	if r.rescued {
		c.Rescued++
	}
	for _, hit := range r.hits {
		c.rules[hit.Index].lines[min(hit.Lines, 3)]++
	}
	for _, i := range r.Rules {
		c.rules[i].messages++
		if len(r.Rules) == 1 {
			c.rules[i].alone++
		}
		for _, k := range r.Rules {
			if i < len(c.Overlap) && k < len(c.Overlap) {
				c.Overlap[i][k]++
			}
		}
	}
	for _, i := range r.ham {
		c.ham[i].Messages++
		if len(r.ham) == 1 {
			c.ham[i].Alone++
		}
	}
	if r.why != "" && len(c.Unread) < unreadKept {
		c.Unread = append(c.Unread, r.Aside+"/"+r.ID+": "+r.why)
	}
	if r.sender == "" || len(c.local) == localSendersKept {
		return
	}
	_, domain, _ := strings.Cut(r.sender, "@")
	if slices.ContainsFunc(domains, func(own string) bool { return strings.EqualFold(own, domain) }) {
		c.local[strings.ToLower(r.sender)] = true
	}
}

// finish makes the result of the counts.
func (c *result) finish(sources *tally) {
	for i, p := range c.places {
		if c.queues[i] == (Verdicts{}) {
			continue
		}
		c.ByQueue[string(p.queue)] = c.ByQueue[string(p.queue)].plus(c.queues[i])
	}
	judged := c.Spam + c.Ham
	for i, name := range c.RuleOrder {
		r := &c.rules[i]
		one := RuleCount{Messages: r.messages, Alone: r.alone, Lines: map[string]int64{}}
		if c.onText[i] {
			one.Lines = map[string]int64{"0": judged - r.lines[1] - r.lines[2] - r.lines[3], "1": r.lines[1], "2": r.lines[2], "3+": r.lines[3]}
		}
		c.ByRule[name] = one
	}
	if len(c.HamOrder) > 0 {
		c.ByHam = map[string]HamCount{}
		for i, name := range c.HamOrder {
			c.ByHam[name] = c.ham[i]
		}
	}
	c.Left = sources.over(maxSource)
	c.Left = c.Left[:min(len(c.Left), sourcesShown)]
	c.Largest = sources.largest()
	for _, all := range [][]Source{c.Left, c.Largest} {
		for i := range all {
			all[i].Value = cut(all[i].Value)
		}
	}
	c.Hit, c.HitAll = slices.AppendSeq([]string{}, maps.Keys(c.local)), len(c.local)
	slices.Sort(c.Hit)
	c.Hit = c.Hit[:min(len(c.Hit), localSendersShown)]
	for i := range c.Hit {
		c.Hit[i] = cut(c.Hit[i])
	}
}
