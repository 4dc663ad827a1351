package stage

import (
	"context"
	"maps"
	"slices"
	"time"

	"spoolsweep/spool"
)

// countLimit is how long a count may keep a flooded server from being helped.
const countLimit = 10 * time.Second

// CountArgs are the arguments of count.
type CountArgs struct {
	Exact bool `json:"exact,omitempty"` // however long it takes
}

// Check accepts.
func (*CountArgs) Check() error { return nil }

var count = Row{
	Name: "count", Doc: "count the messages of every queue, by their names",
	New: func() Args { return &CountArgs{} }, Result: func() Result { return &Counts{} },
	Run: func(ctx context.Context, h *Host, a Args, _ Emit) (Result, error) {
		var until time.Time
		if !a.(*CountArgs).Exact {
			until = time.Now().Add(countLimit)
		}
		if end, ok := ctx.Deadline(); ok && (until.IsZero() || end.Before(until)) {
			until = end
		}
		c, err := spool.CountAll(h.Postfix, until)
		return &Counts{c}, err
	},
}

// Counts is the result of count.
type Counts struct{ spool.Counts }

// Lines tells each queue that holds something, and what is set aside.
func (c *Counts) Lines() []Line {
	var lines []Line
	add := func(label string, n spool.Count) {
		l := Line{Label: label, Number: n.Messages, Unit: "messages"}
		if n.Partial {
			l.Text = "at least"
		}
		lines = append(lines, l)
	}
	for _, q := range spool.Queues {
		if n, ok := c.Queues[q]; ok && n.Messages > 0 {
			add(string(q), n)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.SetAside)) {
		add(name, c.SetAside[name])
	}
	if len(lines) == 0 {
		lines = append(lines, Line{Label: "all queues", Text: "are empty"})
	}
	return lines
}
