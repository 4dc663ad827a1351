// Package show is the one place that prints. What hosts report comes in as
// events and results, data without formatting; here it becomes text for people
// or JSON for scripts, cleaned of everything that a terminal would obey.
package show

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// Statuses of a host.
const (
	OK          = "ok"
	Waiting     = "waiting"
	Failed      = "failed"
	Unreachable = "unreachable"
	Skipped     = "skipped"
)

// DefaultInstance is what Postfix calls the instance that every host has.
const DefaultInstance = "-"

// Document is what -o json prints: everything that a command found or did.
type Document struct {
	Command  string    `json:"command"`
	Run      string    `json:"run,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Hosts    []*Host   `json:"hosts"`
	Summary  Summary   `json:"summary"`
}

// Summary counts the hosts, and adds up what they hold.
type Summary struct {
	OK          int `json:"ok"`
	Waiting     int `json:"waiting"`
	Failed      int `json:"failed"`
	Unreachable int `json:"unreachable"`
	Skipped     int `json:"skipped"`
	// Sums of the hosts' latest results.
	Spam     int64 `json:"spam"`
	Ham      int64 `json:"ham"`
	Restored int64 `json:"restored"`
	Left     int64 `json:"left"`
	Deleted  int64 `json:"deleted,omitempty"`
	// Suspects are those of all hosts together.
	Suspects *stage.Suspects `json:"suspects,omitempty"`
	// Suggestion is the rules proposed for all hosts.
	Suggestion *Suggestion `json:"suggestion,omitempty"`
	// Compared is two runs on all hosts that have both.
	Compared *Compared `json:"compared,omitempty"`
}

// String tells the statuses that there are.
func (s Summary) String() string {
	var parts []string
	for _, of := range []struct {
		n    int
		name string
	}{{s.OK, OK}, {s.Waiting, Waiting}, {s.Failed, Failed}, {s.Unreachable, Unreachable}, {s.Skipped, Skipped}} {
		if of.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", of.n, of.name))
		}
	}
	return strings.Join(parts, ", ")
}

// Host is one host's part of a document.
type Host struct {
	Host     string          `json:"host"`
	Instance string          `json:"instance"`
	Status   string          `json:"status"`
	Changed  bool            `json:"changed"`
	Asks     *string         `json:"asks"`
	Error    *Failure        `json:"error"`
	Stages   []*Stage        `json:"stages"`
	Result   json.RawMessage `json:"result,omitempty"`   // of a command with one stage
	Messages []stage.Judged  `json:"messages,omitempty"` // of classify --list
	Notes    []string        `json:"notes,omitempty"`
	Past     *Past           `json:"past,omitempty"` // of health
	Pushed   int64           `json:"pushed_bytes"`   // of the agent
	// Preflight is what was found before anything was done: all of it, where
	// Error has but the first that is in the way.
	Preflight *run.Preflight `json:"preflight,omitempty"`

	told string // the error of a stage, printed when it failed
}

// Label is what lines about the host begin with: its name, and behind a slash
// its instance where that is not the default one.
func (h *Host) Label() string { return label(h.Host, h.Instance) }

func label(host, instance string) string {
	if instance == "" || instance == DefaultInstance {
		return host
	}
	return host + "/" + instance
}

// Failure says what went wrong, and what to do.
type Failure struct {
	Stage   string `json:"stage"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
	Told    bool   `json:"-"` // printed already, where it happened
}

// Stage is one stage of a host's run, as far as this command saw it.
type Stage struct {
	Index   int             `json:"index"`
	Stage   string          `json:"stage"`
	Status  string          `json:"status"`
	Changed bool            `json:"changed"`
	Seconds float64         `json:"seconds"`
	Result  json.RawMessage `json:"result"`
}

// Judged takes in verdicts of a list.
func (h *Host) Judged(e wire.Event) {
	var j stage.Judged
	if json.Unmarshal(e.Data, &j) != nil {
		return
	}
	if n := len(h.Messages); n > 0 && h.Messages[n-1].Directory == j.Directory {
		h.Messages[n-1].Messages = append(h.Messages[n-1].Messages, j.Messages...)
		return
	}
	h.Messages = append(h.Messages, j)
}

// Event takes in what a host reported.
func (h *Host) Event(e wire.Event) {
	if e.Index < 0 {
		switch e.Kind {
		case wire.End:
			var end run.Ended
			if json.Unmarshal(e.Data, &end) != nil {
				return
			}
			h.Status, h.Asks, h.Error = end.Status, nil, nil
			if end.Asks != "" {
				h.Asks = &end.Asks
			}
			if end.Error != "" {
				h.Error = &Failure{Message: end.Error, Remedy: end.Remedy, Stage: h.lastStage(),
					Told: h.told != "" && strings.Contains(end.Error, h.told)}
			}
		case wire.Warn:
			h.note(warning(e.Data))
		}
		return
	}
	if e.Index >= maxStages {
		return // no plan is that long: the host makes it up
	}
	i := slices.IndexFunc(h.Stages, func(s *Stage) bool { return s.Index == e.Index })
	if i < 0 || e.Kind == wire.Begin { // begun again: what was after it is not true any more
		h.Stages = slices.DeleteFunc(h.Stages, func(s *Stage) bool { return s.Index >= e.Index })
		h.Stages = append(h.Stages, &Stage{Index: e.Index, Stage: e.Stage, Result: json.RawMessage("{}")})
		i = len(h.Stages) - 1
	}
	s := h.Stages[i]
	switch e.Kind {
	case wire.Result:
		s.Result = e.Data
	case wire.Warn:
		h.note(warning(e.Data))
	case wire.End:
		var end run.Ended
		if json.Unmarshal(e.Data, &end) == nil {
			s.Status, s.Changed, s.Seconds, h.told = end.Status, end.Changed, end.Seconds, end.Error
			h.Changed = h.Changed || end.Changed
		}
	}
}

// What one host can make a document hold, whatever it reports.
const (
	maxStages = 1000
	maxNotes  = 100
)

func (h *Host) note(text string) {
	if len(h.Notes) < maxNotes {
		h.Notes = append(h.Notes, text)
	}
}

func (h *Host) lastStage() string {
	if len(h.Stages) == 0 {
		return ""
	}
	return h.Stages[len(h.Stages)-1].Stage
}

// Latest decodes the result of the last stage of that name.
func (h *Host) Latest(stage string, into any) bool {
	for _, s := range slices.Backward(h.Stages) {
		if s.Stage == stage && len(s.Result) > 2 {
			return json.Unmarshal(s.Result, into) == nil
		}
	}
	return false
}

func warning(data json.RawMessage) string {
	var w struct{ Message string }
	if json.Unmarshal(data, &w) != nil {
		return ""
	}
	return w.Message
}

// kind is what the entries of Hosts are.
func (d *Document) kind() string {
	if slices.ContainsFunc(d.Hosts, func(h *Host) bool { return h.Label() != h.Host }) {
		return "instances"
	}
	return "hosts"
}

// Finish counts the hosts and puts them in order.
func (d *Document) Finish() {
	d.Finished = time.Now().UTC()
	slices.SortStableFunc(d.Hosts, func(a, b *Host) int { return cmp.Compare(a.Host, b.Host) })
	d.Summary = Summary{Suspects: d.Summary.Suspects, Suggestion: d.Summary.Suggestion, Compared: d.Summary.Compared}
	for _, h := range d.Hosts {
		switch h.Status {
		case OK:
			d.Summary.OK++
		case Waiting:
			d.Summary.Waiting++
		case Failed:
			d.Summary.Failed++
		case Unreachable:
			d.Summary.Unreachable++
		default:
			d.Summary.Skipped++
		}
		var sums struct{ Spam, Ham, Restored, Left, Deleted int64 }
		for _, name := range []string{"classify", "restore", "putback", "purge", "delete"} {
			h.Latest(name, &sums)
		}
		if len(h.Result) > 0 {
			_ = json.Unmarshal(h.Result, &sums) // a result without these has no sums
		}
		d.Summary.Spam += sums.Spam
		d.Summary.Ham += sums.Ham
		d.Summary.Restored += sums.Restored
		d.Summary.Left += sums.Left
		d.Summary.Deleted += sums.Deleted
	}
}

// ExitStatus is what the command ends with: 2 for a failed host and 4 for an
// unreachable one add up, and come before 3, a run that waits.
func (d *Document) ExitStatus() int {
	var status int
	if d.Summary.Failed > 0 {
		status |= 2
	}
	if d.Summary.Unreachable > 0 {
		status |= 4
	}
	if status == 0 && d.Summary.Waiting > 0 {
		status = 3
	}
	return status
}
