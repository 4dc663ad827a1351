package show

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// States of a host on a page, the worst first.
const (
	stateDown = iota
	stateFailed
	stateBroken
	stateUnknown
	stateWaiting
	stateWorking
	stateDone
)

var stateWords = [...]string{"Postfix stopped", "failed", "broken off", "not known", "waits", "works", "done"}

// state is how a run stands on a host.
func (m *pageMaker) state(s *Story) int {
	if s.Report == nil {
		return stateUnknown
	}
	if s.Report.State.Down {
		return stateDown
	}
	switch s.phase() {
	case run.Finished:
		return stateDone
	case run.Waiting:
		return stateWaiting
	case run.Working:
		return stateWorking
	case run.Failed:
		return stateFailed
	}
	return stateBroken
}

// verdicts says of each host in a sentence what happened, the worst first; what
// is the same of several is said once.
func (m *pageMaker) verdicts() []verdict {
	var all []verdict
	for _, s := range m.Hosts {
		rank := m.state(s)
		v := verdict{State: stateWords[rank], Text: m.sentence(s, rank), rank: rank}
		i := slices.IndexFunc(all, func(o verdict) bool { return o.rank == v.rank && o.Text == v.Text })
		if i < 0 {
			i = len(all)
			all = append(all, v)
		}
		all[i].names = append(all[i].names, s.Label())
	}
	for i := range all {
		all[i].Hosts = m.names(all[i].names)
	}
	slices.SortStableFunc(all, func(a, b verdict) int { return cmp.Compare(a.rank, b.rank) })
	if len(m.Without) > 0 {
		all = append(all, verdict{Hosts: m.names(m.Without), State: "not in it", Text: "Has no record of this run: it was not part of it, or was left as it was."})
	}
	return all
}

// sentence is what happened on a host.
func (m *pageMaker) sentence(s *Story, rank int) string {
	if rank == stateUnknown {
		text := "Did not answer when this page was made, so that it is not known how the run stands there"
		if s.Status == Failed {
			text = "Did not tell of the run"
		}
		if s.Error != nil {
			text += ": " + m.failure(s, s.Error.Message)
		}
		return closed(text)
	}
	at, f := s.Report.State, m.facts[s]
	var parts []string
	say := func(text string) { parts = append(parts, closed(text)) }
	switch rank {
	case stateDown:
		say("The run ended between stop and start: Postfix may be stopped, and resume starts it")
	case stateFailed:
		text := "The run has failed"
		if at.Error != "" {
			text += ": " + m.text(at.Error)
		}
		say(text)
	case stateBroken:
		text := "The run was broken off"
		if name := m.next(s); name != "" {
			text += " at its stage " + name
		}
		say(text + "; it can be resumed")
	case stateWaiting:
		say(m.waits(s))
	case stateWorking:
		text := "The run was at work when this page was made"
		if name := m.next(s); name != "" {
			text += ", on its stage " + name
		}
		say(text)
	}
	say(m.moved(s))
	if len(f.downs) > 0 {
		seconds, over := f.stopped()
		switch {
		case f.started != nil && f.started.Accepting != nil && !*f.started.Accepting:
			say("Postfix was down for " + lasted(seconds) + " and runs, but takes no new mail: " + m.text(f.started.Why))
		case over && seconds == 0:
			say("Postfix was stopped already, and runs again")
		case over:
			say("Postfix was down for " + lasted(seconds) + ", and mail flows again")
		case rank != stateDown:
			say("Postfix is stopped since " + m.clock(f.downs[len(f.downs)-1].from))
		}
	}
	return strings.Join(parts, " ")
}

// failure is why a host did not tell. What was found here on the way to it names its
// own addresses, and those stay.
func (m *pageMaker) failure(s *Story, text string) string {
	if s.Status == Unreachable {
		return Clean(text)
	}
	return m.text(text)
}

// next names the stage at which a run stands.
func (m *pageMaker) next(s *Story) string {
	i := s.Report.State.Next
	if steps := s.Report.Info.Steps; i >= 0 && i < len(steps) {
		return m.text(steps[i].Stage)
	}
	return ""
}

// closed makes a text a sentence.
func closed(s string) string {
	if s == "" || strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// waits says what for.
func (m *pageMaker) waits(s *Story) string {
	switch s.asks() {
	case "rules":
		return "The run waits for rules that tell spam from ham"
	case "confirm":
		var c stage.Confirm
		if json.Unmarshal(s.Report.State.Ask.Data, &c) != nil {
			break
		}
		if c.Delete {
			return "The run waits to be confirmed: " + many(c.Ham, "message") + " would be deleted"
		}
		would := "The run waits to be confirmed: " + many(c.Ham, "message") + " would be sent"
		if c.Spam > 0 {
			would += ", " + comma(c.Spam) + " stay where they are"
		}
		return would
	case "slot":
		return "The run waits for its turn to stop Postfix"
	case "controller":
		return "The run waits for a command on the controller"
	}
	return "The run waits"
}

// moved says what became of the mail of a host.
func (m *pageMaker) moved(s *Story) string {
	f, a := m.facts[s], s.Account
	if a == nil {
		switch n := f.known(); {
		case n > 0:
			return many(n, "message") + was(n) + " set aside, and " + comma(s.left()) + is(s.left()) + " still aside"
		case f.skipped:
			return "No queue was full: nothing was set aside"
		}
		return "No mail was moved"
	}
	if doomed := a.Live(); doomed > 0 && a.SetAside == 0 {
		return acted(&a.Sums)
	}
	if a.SetAside <= 0 {
		if f.skipped {
			return "No queue was full: Postfix was not stopped, nothing was set aside"
		}
		return "No mail was moved"
	}
	var became []string
	add := func(n int64, verb string) {
		if n > 0 {
			became = append(became, comma(n)+verb)
		}
	}
	add(a.Restored, " sent on")
	add(a.Collisions, " moved out of the way of others with their ids")
	add(a.SentMeanwhile, " delivered meanwhile by Postfix itself")
	add(a.Purged, " removed for good")
	add(a.Left, " still aside")
	add(a.Missing, " MISSING")
	if len(became) == 1 && a.SetAside > 1 {
		return many(a.SetAside, "message") + " were set aside, all of them " + strings.TrimPrefix(became[0], comma(a.SetAside)+" ")
	}
	return many(a.SetAside, "message") + was(a.SetAside) + " set aside: " + enumerate(became)
}

func was(n int64) string {
	if n == 1 {
		return " was"
	}
	return " were"
}

func is(n int64) string {
	if n == 1 {
		return " is"
	}
	return " are"
}

// lead tells all of it in sum.
func (m *pageMaker) lead(v *pageView) {
	var of [len(stateWords)]int64
	noun := "host"
	for _, s := range m.Hosts {
		of[m.state(s)]++
		if s.Label() != s.Host.Host {
			noun = "instance"
		}
	}
	all := int64(len(m.Hosts))
	v.Alarm = of[stateDown]+of[stateFailed]+of[stateBroken] > 0
	v.Open = of[stateDone] < all
	on := func(n int64) string {
		switch {
		case n == all && n == 1:
			return "on " + Clean(m.Hosts[0].Label())
		case n == all && n == 2:
			return "on both " + noun + "s"
		case n == all:
			return "on all " + many(n, noun)
		}
		return "on " + comma(n) + " of " + many(all, noun)
	}
	switch {
	case len(m.told) == 0 && all == 0:
		v.Headline = "No host has a record of this run"
	case len(m.told) == 0:
		v.Headline = "No host answered: nothing is known of this run"
	case of[stateDown] > 0:
		v.Headline = "Postfix may be stopped " + on(of[stateDown])
	case of[stateFailed]+of[stateBroken] > 0:
		v.Headline = "The run has not come to its end " + on(of[stateFailed]+of[stateBroken])
	case of[stateWaiting] > 0:
		v.Headline = "The run waits " + on(of[stateWaiting])
	case of[stateWorking] > 0:
		v.Headline = "The run is at work " + on(of[stateWorking])
	default:
		v.Headline = "The run has come to its end " + on(of[stateDone])
	}
	var parts []string
	for _, p := range []struct {
		state int
		text  string
	}{
		{stateDone, "has ended"}, {stateWorking, "is at work"}, {stateWaiting, "waits"}, {stateFailed, "has failed"},
		{stateBroken, "was broken off"}, {stateDown, "was broken off between stop and start"}, {stateUnknown, "is not known"},
	} {
		if n := of[p.state]; n > 0 && n < all {
			parts = append(parts, p.text+" on "+comma(n))
		}
	}
	if len(parts) > 0 {
		v.Lead = append(v.Lead, "Of "+many(all, noun)+", it "+enumerate(parts)+".")
	}
	m.mailLead(v)
}

// mailLead tells what became of all mail, in a sentence and in figures.
func (m *pageMaker) mailLead(v *pageView) {
	sum, known, unknown := m.sums()
	var longest float64
	var stopped int64
	var still []string
	for _, s := range m.told {
		f := m.facts[s]
		if len(f.downs) == 0 {
			continue
		}
		stopped++
		seconds, over := f.stopped()
		if !over {
			still = append(still, s.Label())
			continue
		}
		longest = max(longest, seconds)
	}
	add := func(name, text string, bad bool) { v.Figures = append(v.Figures, figure{name, text, bad}) }
	doomed := sum.Live()
	switch {
	case !known && m.Told != "":
		m.toldLead(v)
	case !known:
	case sum.SetAside > 0:
		add("set aside", comma(sum.SetAside), false)
		add("sent on", comma(sum.Restored), false)
		add("still aside", comma(sum.Left), false)
		if sum.Purged > 0 {
			add("removed for good", comma(sum.Purged), false)
		}
		add("missing", comma(sum.Missing), sum.Missing > 0)
		text := "All " + comma(sum.SetAside) + " messages that were set aside are still aside"
		if sum.Left != sum.SetAside || sum.SetAside == 1 {
			text = "Of " + many(sum.SetAside, "message") + " that" + was(sum.SetAside) + " set aside, " + comma(sum.Restored) + was(sum.Restored) + " sent on and " + comma(sum.Left) + is(sum.Left) + " still aside"
		}
		if sum.Missing > 0 {
			text += "; " + comma(sum.Missing) + is(sum.Missing) + " missing"
			v.Alarm = true
			v.Headline = many(sum.Missing, "message") + is(sum.Missing) + " missing; " + strings.Replace(v.Headline, "The run", "the run", 1)
		} else {
			text += "; none is missing"
		}
		v.Lead = append(v.Lead, text+".")
	case doomed > 0:
		for _, of := range sum.Acts() {
			add(of.Label, comma(of.Number), false)
		}
		if len(sum.Acts()) == 0 {
			add("deleted", "0", false)
		}
		add("stayed", comma(sum.Stayed), false)
		v.Lead = append(v.Lead, acted(&sum)+".")
	default:
		v.Lead = append(v.Lead, "No mail was moved.")
	}
	if stopped > int64(len(still)) {
		add("longest without Postfix", lasted(longest), false)
	}
	switch n := len(still); {
	case n > 0:
		add("where Postfix may be stopped", comma(int64(n)), true)
		v.Lead = append(v.Lead, "Postfix is not known to run again on "+m.names(still)+".")
		v.Alarm = true
	case stopped == 1:
		v.Lead = append(v.Lead, "Postfix was stopped on 1 host for "+lasted(longest)+", and was started again.")
	case stopped > 1:
		v.Lead = append(v.Lead, "Postfix was stopped on "+many(stopped, "host")+", for "+lasted(longest)+" at most, and was started again on each.")
	}
	if len(unknown) > 0 && known {
		v.Lead = append(v.Lead, "What "+m.names(unknown)+" would add to these sums is not known.")
	}
}

// toldLead is what the events alone tell of the mail.
func (m *pageMaker) toldLead(v *pageView) {
	var set, left int64
	for _, s := range m.told {
		set += m.facts[s].known()
		left += s.left()
	}
	if set == 0 {
		v.Lead = append(v.Lead, "No mail was set aside.")
		return
	}
	v.Figures = append(v.Figures, figure{"set aside", comma(set), false}, figure{"still aside", comma(left), false})
	v.Lead = append(v.Lead, "Of "+many(set, "message")+" that"+was(set)+" set aside, "+comma(left)+is(left)+" still aside. What became of each stands in the ledgers of the hosts.")
}

// sums adds up the ledgers; unknown are the hosts that did not tell theirs.
func (m *pageMaker) sums() (sum stage.Sums, known bool, unknown []string) {
	for _, s := range m.Hosts {
		a := s.Account
		if a == nil {
			unknown = append(unknown, s.Label())
			continue
		}
		known = true
		sum.SetAside += a.SetAside
		sum.Restored += a.Restored
		sum.Collisions += a.Collisions
		sum.Left += a.Left
		sum.Purged += a.Purged
		sum.SentMeanwhile += a.SentMeanwhile
		sum.Missing += a.Missing
		sum.Deleted += a.Deleted
		sum.Held += a.Held
		sum.Released += a.Released
		sum.Requeued += a.Requeued
		sum.Gone += a.Gone
		sum.Stayed += a.Stayed
	}
	return sum, known, unknown
}

// acted tells what was done with messages of live queues.
func acted(s *stage.Sums) string {
	did := s.Acts()
	if len(did) == 0 {
		did = []stage.Line{{Label: stage.FateDeleted}}
	}
	var all []string
	for _, of := range did {
		text := " deleted from the live queues"
		switch of.Label {
		case stage.FateHeld:
			text = " put on hold"
		case stage.FateReleased:
			text = " released from hold"
		case stage.FateRequeued:
			text = " requeued"
		}
		all = append(all, comma(of.Number)+" of "+many(s.Live(), "message")+was(s.Live())+text)
	}
	return strings.Join(all, ", ")
}
