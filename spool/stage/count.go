package stage

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
)

// countLimit is how long a count may keep a flooded server from being helped.
const countLimit = 10 * time.Second

// CountArgs are the arguments of count.
type CountArgs struct {
	Exact bool `json:"exact,omitempty" doc:"look into every message, however long it takes; else into a sample of a queue with more than 50,000"`
	// Warn and Crit replace queue_warn and queue_crit.
	Warn Number `json:"warn,omitempty" doc:"busy: a queue holds more messages; default: queue_warn of the host, 500"`
	Crit Number `json:"crit,omitempty" doc:"flooded: a queue holds more messages; default: queue_crit of the host, 5000"`
}

// Check accepts.
func (*CountArgs) Check() error { return nil }

var count = Row{
	Name: "count", Doc: "count the messages of every queue, and say how full they are",
	New: func() Args { return &CountArgs{} }, Result: func() Result { return &Counts{} }, Glances: true,
	Run: func(ctx context.Context, h *Host, a Args, _ Emit) (Result, error) {
		args := a.(*CountArgs)
		var until time.Time
		if !args.Exact {
			until = time.Now().Add(countLimit)
		}
		if end, ok := ctx.Deadline(); ok && (until.IsZero() || end.Before(until)) {
			until = end
		}
		census, err := spool.Census(h.Postfix, until, args.Exact)
		if err != nil {
			return nil, err
		}
		c := &Counts{Counts: census, Warn: h.Vars.Warn(), Crit: h.Vars.Crit(), Runs: []Waiting{}}
		if args.Warn > 0 {
			c.Warn = int64(args.Warn)
		}
		if args.Crit > 0 {
			c.Crit = int64(args.Crit)
		}
		if h.Records != nil {
			records, err := h.Records()
			if err != nil {
				return nil, err
			}
			c.own(records, h.Run, time.Now())
		}
		c.judge(h.Vars.Leftover())
		return c, nil
	},
}

// Levels of a host.
const (
	LevelOK      = "ok"
	LevelBusy    = "busy"    // a queue holds more than queue_warn, or something old is left aside
	LevelFlooded = "flooded" // a queue holds more than queue_crit
)

// Counts is the result of count.
type Counts struct {
	spool.Counts
	Level string    `json:"level"`
	Why   []string  `json:"why,omitempty"` // of a level that is not ok
	Warn  int64     `json:"warn"`
	Crit  int64     `json:"crit"`
	Runs  []Waiting `json:"runs,omitempty"` // unfinished ones, and those with mail aside
	Down  *Down     `json:"last_stop,omitempty"`
}

// Down is the last time that a run stopped Postfix, and it was started again.
type Down struct {
	Run     string    `json:"run"`
	Seconds float64   `json:"downtime_seconds"` // 0: it was down before
	At      time.Time `json:"at"`               // when it was started
}

// Waiting is a run that has something aside, or has not come to its end.
type Waiting struct {
	Run      string `json:"run"`
	Phase    string `json:"phase"`
	Asks     string `json:"asks,omitempty"`
	Messages int64  `json:"messages"`       // that it has aside
	Age      int64  `json:"age_seconds"`    // since it began
	Oldest   int64  `json:"oldest_seconds"` // of its messages
	// Unread says why more is not known of it, "" where it is: what it has aside is
	// then told as of no run.
	Unread string `json:"unread,omitempty"`
}

// own says whose each set-aside directory is. The run that counts does not tell
// of itself.
func (c *Counts) own(records []Record, self string, now time.Time) {
	for _, r := range records {
		var s spool.Started
		if c.Down == nil && r.Run != self && r.Last("start", &s) {
			c.Down = &Down{r.Run, s.Downtime, s.At}
		}
		w := Waiting{Run: r.Run, Phase: r.Phase, Asks: r.Asks, Age: max(0, int64(now.Sub(r.Began)/time.Second))}
		for _, set := range r.Sets {
			left, there := c.SetAside[set.Aside]
			if !there {
				continue
			}
			left.Run, left.Age = r.Run, w.Age
			c.SetAside[set.Aside] = left
			w.Messages += left.Messages
			if left.Contents != nil {
				w.Oldest = max(w.Oldest, left.Oldest)
			}
		}
		if r.Unread != nil {
			w.Unread = r.Unread.Error()
		}
		if r.Run != self && (w.Messages > 0 || !r.Finished) {
			c.Runs = append(c.Runs, w)
		}
	}
}

// judge gives the level. Which queues count is what set-aside's queues: auto
// goes by, so that busy means that a run would set something aside.
func (c *Counts) judge(leftover time.Duration) {
	c.Level = LevelOK
	fullest, limit := c.Fullest(), int64(0)
	switch {
	case fullest > c.Crit:
		c.Level, limit = LevelFlooded, c.Crit
	case fullest > c.Warn:
		c.Level, limit = LevelBusy, c.Warn
	}
	if c.Level != LevelOK {
		where := "incoming and active"
		for _, q := range []spool.Queue{spool.Maildrop, spool.Deferred} {
			if c.Queues[q].Messages == fullest {
				where = string(q)
			}
		}
		c.Why = append(c.Why, fmt.Sprintf("%d messages in %s, more than %d", fullest, where, limit))
	}
	for _, name := range slices.Sorted(maps.Keys(c.SetAside)) {
		left := c.SetAside[name]
		if left.Messages == 0 || left.Age <= int64(leftover/time.Second) {
			continue
		}
		if c.Level == LevelOK {
			c.Level = LevelBusy
		}
		c.Why = append(c.Why, fmt.Sprintf("%s is aside since %s", name, Age(left.Age)))
	}
}

// Lines tells each queue that holds something, what is set aside, and which
// runs wait.
func (c *Counts) Lines() []Line {
	var lines []Line
	if c.Level != "" {
		text := c.Postfix
		if c.Level != LevelOK {
			text += ", " + strings.ToUpper(c.Level) + ": " + strings.Join(c.Why, "; ")
		}
		lines = append(lines, Line{Label: "Postfix", Text: text})
	}
	add := func(label string, n spool.Count, more string) {
		lines = append(lines, Line{Label: label, Number: n.Messages, Unit: "messages", Text: told(n, more)})
	}
	for _, q := range spool.Queues {
		if n, ok := c.Queues[q]; ok && n.Messages > 0 {
			add(string(q), n, "")
		}
	}
	if len(lines) == 0 || c.Level != "" && len(lines) == 1 {
		lines = append(lines, Line{Label: "all queues", Text: "are empty"})
	}
	unread := slices.ContainsFunc(c.Runs, func(r Waiting) bool { return r.Unread != "" })
	for _, name := range slices.Sorted(maps.Keys(c.SetAside)) {
		left := c.SetAside[name]
		more := "of no run that this host knows"
		if left.Run != "" {
			more = "run " + left.Run
		}
		if c.Level == "" {
			more = ""
		} else {
			more += ", since " + Age(left.Age)
			if _, err := spool.ParseAside(name); err == nil && left.Run == "" && !unread {
				more += " ('spoolsweep putback --adopt " + name + "' takes it on)"
			}
		}
		add(name, left.Count, more)
	}
	for _, r := range c.Runs {
		text := "is " + r.Phase
		if r.Asks != "" {
			text = "waits for " + Asked(r.Asks)
		}
		text = r.Run + " " + text + ", begun " + Age(r.Age) + " ago"
		if r.Unread != "" {
			text = r.Run + ": its record cannot be read: " + r.Unread
		}
		if r.Messages > 0 {
			text += ", the oldest of them " + Age(r.Oldest)
		}
		lines = append(lines, Line{Label: "aside, run", Number: r.Messages, Unit: "messages", Text: text})
	}
	return lines
}

// Asked says what a run waits for that asks for kind.
func Asked(kind string) string {
	switch kind {
	case "confirm":
		return "a confirmation"
	case "slot":
		return "its turn to stop Postfix"
	}
	return kind
}

// told is what is known of a count besides its number.
func told(n spool.Count, more string) string {
	var parts []string
	if n.Partial {
		parts = append(parts, "at least")
	}
	if n.Contents != nil && n.Messages > 0 {
		text := size(n.Bytes) + ", oldest " + Age(n.Oldest)
		if n.Approximate {
			text = "about " + text
		}
		parts = append(parts, text)
	}
	if more != "" {
		parts = append(parts, more)
	}
	return strings.Join(parts, ", ")
}

// Age is a number of seconds for people, in its two largest units.
func Age(seconds int64) string {
	units := []struct {
		name string
		of   int64
	}{{"d", 86400}, {"h", 3600}, {"min", 60}, {"s", 1}}
	for i, u := range units {
		if seconds < u.of {
			continue
		}
		text := fmt.Sprintf("%d %s", seconds/u.of, u.name)
		if rest := seconds % u.of; i+1 < len(units) && rest >= units[i+1].of {
			text += fmt.Sprintf(" %d %s", rest/units[i+1].of, units[i+1].name)
		}
		return text
	}
	return "0 s"
}

// size is a number of bytes for people.
func size(bytes int64) string {
	n, unit := float64(bytes), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if n < 999.5 {
			break
		}
		n, unit = n/1000, u
	}
	if unit == "B" || n >= 9.95 {
		return fmt.Sprintf("%.0f %s", n, unit)
	}
	return fmt.Sprintf("%.1f %s", n, unit)
}
