package show

import (
	"encoding/json"
	"strings"
	"time"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// Story is one host's part of a run, as a page tells it.
type Story struct {
	*Host
	// Report is what the host has recorded, nil where it did not tell.
	Report *run.Report
	// Account is what its ledger comes to, nil where that is not known.
	Account *run.Account

	events []wire.Event
}

// What one host can make a page hold: events, and of each kind of what they tell.
const (
	maxStory = 20_000
	maxTold  = 200
)

// Take takes in what happened, one event after the other. Progress tells nothing
// afterwards.
func (s *Story) Take(e wire.Event) {
	if e.Kind != wire.Progress && len(s.events) < maxStory {
		s.events = append(s.events, e)
	}
}

// moment is something that was said at a time.
type moment struct {
	at             time.Time
	host, stage    string
	failed, ours   bool // ours: it was said here, of the way to a host
	text, remedy   string
	by             string
	answered, open bool
	answer, on     time.Time // on: when it was carried on without one
	rules          bool      // it was asked for those
}

// down is a time without Postfix.
type down struct {
	from    time.Time
	seconds float64
	over    bool // it was started again
}

// facts are what a page needs of a host's events.
type facts struct {
	before, after *stage.Counts
	aside         map[string]int64 // by directory, when it was set aside
	from          map[string]int64 // by queue
	downs         []down
	started       *stage.Started
	classified    *stage.Classified
	suspects      *stage.Suspects
	watched       *stage.Watched
	commands      []named
	skipped       bool // the section: no queue was full
	notes         []moment
	questions     []moment
	spans         []span
	steps         []step
}

type named struct {
	stage string
	stage.CommandResult
}

// step is one line of what was done.
type step struct {
	at      time.Time
	stage   string
	status  string
	seconds float64
}

// known is what was set aside, by what was told when it was.
func (f *facts) known() (n int64) {
	for _, of := range f.aside {
		n += of
	}
	return n
}

// stopped is how long Postfix was down, all times together; over, that it runs
// again.
func (f *facts) stopped() (seconds float64, over bool) {
	over = true
	for _, d := range f.downs {
		seconds += d.seconds
		over = d.over
	}
	return seconds, over
}

// gather reads a host's events. until is when they were read.
func (s *Story) gather(until time.Time) *facts {
	f := &facts{aside: map[string]int64{}, from: map[string]int64{}}
	t := tracker{until: until}
	label := s.Label()
	commands := map[int]int{}
	for _, e := range s.events {
		t.event(e)
		switch e.Kind {
		case wire.Begin:
			f.step(step{at: e.Time, stage: e.Stage})
			if n := len(f.questions); n > 0 && !f.questions[n-1].answered && !f.questions[n-1].open && f.questions[n-1].on.IsZero() {
				f.questions[n-1].on = e.Time
			}
			if e.Stage == "stop" && len(f.downs) < maxTold {
				f.downs = append(f.downs, down{from: e.Time})
			}
		case wire.Result:
			f.result(e, commands)
		case wire.Warn:
			f.note(moment{at: e.Time, host: label, stage: e.Stage, text: warning(e.Data)})
			f.skipped = f.skipped || e.Index < 0 && strings.Contains(warning(e.Data), "nothing was stopped, nothing set aside")
		case wire.Ask:
			f.ask(e, s.Report, label)
		case wire.End:
			f.end(e, label)
		}
	}
	phase := ""
	if s.Report != nil && s.Report.State != nil {
		phase = s.Report.State.Phase
	}
	f.spans = t.end(phase)
	f.close(s.Report != nil && s.Report.State != nil && !s.Report.State.Down && phase != run.Working)
	return f
}

func (f *facts) note(m moment) {
	if len(f.notes) < maxNotes && m.text != "" {
		f.notes = append(f.notes, m)
	}
}

func (f *facts) step(s step) {
	if len(f.steps) < maxTold {
		f.steps = append(f.steps, s)
	}
}

func (f *facts) result(e wire.Event, commands map[int]int) {
	switch e.Stage {
	case "count":
		c := new(stage.Counts)
		if json.Unmarshal(e.Data, c) != nil {
			return
		}
		if f.before == nil && len(f.aside) == 0 {
			f.before = c
		} else {
			f.after = c
		}
	case "set-aside":
		var a stage.Aside
		if json.Unmarshal(e.Data, &a) != nil {
			return
		}
		for q, set := range a.Queues {
			if q == "defer" { // logs, and no mail
				continue
			}
			f.from[string(q)] += set.Messages - f.aside[set.To]
			f.aside[set.To] = set.Messages
		}
	case "start":
		s := new(stage.Started)
		if json.Unmarshal(e.Data, s) != nil {
			return
		}
		f.started = s
		if n := len(f.downs); n > 0 {
			f.downs[n-1].seconds, f.downs[n-1].over = max(0, s.Downtime), true
		}
	case "classify":
		if c := new(stage.Classified); json.Unmarshal(e.Data, c) == nil {
			f.classified = c
		}
	case "suspects":
		if s := new(stage.Suspects); json.Unmarshal(e.Data, s) == nil {
			f.suspects = s
		}
	case "watch":
		if w := new(stage.Watched); json.Unmarshal(e.Data, w) == nil {
			f.watched = w
		}
	case "command", "restart":
		c := named{stage: e.Stage}
		if json.Unmarshal(e.Data, &c.CommandResult) != nil {
			return
		}
		if i, again := commands[e.Index]; again {
			f.commands[i] = c
			return
		}
		if len(f.commands) < maxTold {
			commands[e.Index] = len(f.commands)
			f.commands = append(f.commands, c)
		}
	case "confirm":
		var c stage.Confirmed
		if json.Unmarshal(e.Data, &c) == nil && c.By == "-y" && len(f.questions) < maxTold { // what was asked of somebody has a question of its own
			f.questions = append(f.questions, moment{at: e.Time, stage: e.Stage, text: "whether to send what the rules call ham", by: "-y", answered: true, answer: e.Time})
		}
	}
}

func (f *facts) ask(e wire.Event, r *run.Report, label string) {
	var ask run.AskRecord
	if json.Unmarshal(e.Data, &ask) != nil || ask.Kind == "slot" || len(f.questions) >= maxTold {
		return // turns are given by the controller, without anybody
	}
	q := moment{at: e.Time, host: label, stage: e.Stage, text: asked(&ask), open: true, rules: ask.Kind == "rules"}
	if r != nil && r.State != nil {
		for _, a := range r.State.History {
			if a.Number == ask.Number {
				q.by, q.answer, q.answered, q.open = a.By, a.At, true, false
			}
		}
		if open := r.State.Ask; q.open && (open == nil || open.Number != ask.Number || r.State.Phase != run.Waiting) {
			q.open = false // it was carried on with something else, such as rules
		}
	}
	f.questions = append(f.questions, q)
}

// asked is a question in words.
func asked(ask *run.AskRecord) string {
	switch ask.Kind {
	case "rules":
		return "for rules that tell spam from ham"
	case "controller":
		return "for a command on the controller"
	case "confirm":
		var c stage.Confirm
		if json.Unmarshal(ask.Data, &c) != nil {
			return "for a confirmation"
		}
		text := "whether to send " + many(c.Ham, "message") + " and leave " + comma(c.Spam) + " aside"
		if c.Delete {
			text = "whether to delete " + many(c.Ham, "message")
		}
		if len(c.Reasons) > 0 {
			text += "; look again: " + strings.Join(c.Reasons, "; ")
		}
		return text
	}
	return "for " + ask.Kind
}

func (f *facts) end(e wire.Event, label string) {
	var end run.Ended
	if json.Unmarshal(e.Data, &end) != nil {
		return
	}
	if n := len(f.steps); e.Index >= 0 && n > 0 && f.steps[n-1].stage == e.Stage && f.steps[n-1].status == "" {
		f.steps[n-1].status, f.steps[n-1].seconds = end.Status, end.Seconds
	} else if e.Index >= 0 {
		f.step(step{at: e.Time, stage: e.Stage, status: end.Status, seconds: end.Seconds})
	}
	if end.Error == "" {
		return
	}
	if n := len(f.notes); e.Index < 0 && n > 0 && f.notes[n-1].failed && strings.Contains(end.Error, f.notes[n-1].text) {
		return // the stage has told it
	}
	f.note(moment{at: e.Time, host: label, stage: e.Stage, failed: true, text: end.Error, remedy: end.Remedy})
}

// close gives the times without Postfix an end that no start has told. runs says
// that the host knows of no stop that is not followed by a start.
func (f *facts) close(runs bool) {
	for i := range f.downs {
		d := &f.downs[i]
		if d.over {
			continue
		}
		for _, s := range f.spans {
			if s.kind == spanDown && s.from.Equal(d.from) {
				d.seconds = s.to.Sub(s.from).Seconds()
			}
		}
		d.over = runs || i+1 < len(f.downs)
	}
}
