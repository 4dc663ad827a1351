package show

import (
	"encoding/json"

	"spoolsweep/spool/stage"
)

// Brief is the document without what mail says, or who sends and receives it, and
// cleaned: fit for whoever is told of it. Of the results of stages it has none.
func (d *Document) Brief() *Document {
	b := &Document{Command: d.Command, Run: Clean(d.Run), Started: d.Started, Finished: d.Finished, Hosts: []*Host{}, Summary: d.Summary}
	b.Summary.Suspects, b.Summary.Suggestion, b.Summary.Compared = nil, nil, nil
	for _, h := range d.Hosts {
		b.Hosts = append(b.Hosts, h.Brief())
	}
	return b
}

// Brief is a host's part of a brief document.
func (h *Host) Brief() *Host {
	b := &Host{Host: Clean(h.Host), Instance: Clean(h.Instance), Status: Clean(h.Status), Changed: h.Changed, Pushed: h.Pushed, Stages: []*Stage{}}
	if h.Asks != nil {
		asks := Clean(*h.Asks)
		b.Asks = &asks
	}
	if h.Error != nil {
		b.Error = &Failure{Stage: Clean(h.Error.Stage), Message: Clean(h.Error.Message), Remedy: Clean(h.Error.Remedy)}
	}
	for _, s := range h.Stages {
		b.Stages = append(b.Stages, &Stage{Index: s.Index, Stage: Clean(s.Stage), Status: Clean(s.Status), Changed: s.Changed, Seconds: s.Seconds, Result: json.RawMessage("{}")})
	}
	return b
}

// Told is how the host stands, in a line for people.
func (h *Host) Told() string {
	text := Clean(h.Label()) + ": " + Clean(h.Status)
	switch {
	case h.Error != nil:
		text += ": " + Clean(h.Error.Message)
		if h.Error.Remedy != "" {
			text += " (remedy: " + Clean(h.Error.Remedy) + ")"
		}
	case h.Asks != nil:
		text += " for " + Clean(stage.Asked(*h.Asks))
	}
	return text
}
