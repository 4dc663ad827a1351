package stage

import (
	"context"
	"errors"
	"fmt"

	"spoolsweep/spool"
)

// stop, set-aside and start are one section: a process of its own runs them to
// their end, whatever happens to whoever began it.

// NoArgs are the arguments of a stage that takes none.
type NoArgs struct{}

// Check accepts.
func (*NoArgs) Check() error { return nil }

var stop = Row{
	Name: "stop", Doc: "stop Postfix, and prove that nothing of it is left", Section: true, Changes: true,
	New: func() Args { return &NoArgs{} }, Result: func() Result { return &Stopped{} },
	Run: func(ctx context.Context, h *Host, _ Args, emit Emit) (Result, error) {
		h.Work.Tell = func(message string) { emit("warn", map[string]string{"message": message}) }
		s, err := h.Work.Stop(ctx)
		if err != nil {
			return nil, err
		}
		h.stopped = s
		r := &Stopped{*s}
		r.Ended, r.MayDouble = append([]string{}, s.Ended...), append([]string{}, s.MayDouble...) // never null
		return r, nil
	},
}

// Stopped is the result of stop.
type Stopped struct{ spool.Stopped }

// Lines tells how long it took, and what had to be ended.
func (s *Stopped) Lines() []Line {
	if !s.WasRunning {
		return []Line{{Label: "Postfix", Text: "was stopped already"}}
	}
	lines := []Line{{Label: "Postfix stopped", Text: fmt.Sprintf("in %.2f s", s.Seconds)}}
	for _, p := range s.Ended {
		lines = append(lines, Line{Label: "outlived the stop, and was ended", Text: p})
	}
	for _, p := range s.MayDouble {
		lines = append(lines, Line{Label: "cut in a delivery: that mail may arrive twice", Text: p})
	}
	return lines
}

// SetAsideArgs are the arguments of set-aside.
type SetAsideArgs struct {
	Queues Queues `json:"queues" doc:"auto: each that holds more than queue_warn messages; or names, of maildrop, incoming, active, deferred, hold; with auto these too, if they hold any, where a queue is that full"`
}

// Check refuses what cannot be set aside.
func (a *SetAsideArgs) Check() error { return a.Queues.check() }

var setAside = Row{
	Name: "set-aside", Doc: "exchange the full queue directories for empty ones", Section: true, Changes: true,
	New: func() Args { return &SetAsideArgs{Queues: Queues{"auto"}} }, Result: func() Result { return &Aside{} },
	Run: func(ctx context.Context, h *Host, _ Args, _ Emit) (Result, error) {
		sets, err := h.Work.SetAside(ctx, h.stopped)
		return NewAside(sets), err
	},
}

// Aside is the result of set-aside.
type Aside struct {
	Queues map[spool.Queue]AsideQueue `json:"queues"`
}

// AsideQueue is where one queue went, and how much was in it.
type AsideQueue struct {
	Messages int64  `json:"messages"`
	To       string `json:"to"`
}

// NewAside makes the result of sets, not counted yet.
func NewAside(sets []spool.Set) *Aside {
	a := &Aside{Queues: map[spool.Queue]AsideQueue{}}
	for _, s := range sets {
		a.Queues[s.Queue] = AsideQueue{To: s.Aside}
	}
	return a
}

// Count counts what was set aside. It is done when Postfix runs again: a
// million names take a second.
func (a *Aside) Count(p *spool.Postfix) error {
	for q, at := range a.Queues {
		at.Messages = 0
		err := spool.Walk(p, at.To, func(c spool.Chunk) error {
			at.Messages += int64(len(c.IDs))
			return nil
		})
		if err != nil {
			return err
		}
		a.Queues[q] = at
	}
	return nil
}

// Lines tells each queue, in the order of a message's life.
func (a *Aside) Lines() []Line {
	var lines []Line
	for _, q := range append(spool.Queues[:len(spool.Queues):len(spool.Queues)], spool.Defer) {
		at, ok := a.Queues[q]
		unit := "messages"
		if q == spool.Defer {
			unit = "logs"
		}
		if ok {
			lines = append(lines, Line{Label: string(q) + " set aside as " + at.To, Number: at.Messages, Unit: unit})
		}
	}
	return lines
}

var start = Row{
	Name: "start", Doc: "start Postfix, and prove that its queue manager stays", Section: true, Changes: true,
	New: func() Args { return &NoArgs{} }, Result: func() Result { return &Started{} },
	Run: func(ctx context.Context, h *Host, _ Args, emit Emit) (Result, error) {
		s := h.stopped
		if s == nil {
			return nil, errors.New("start: Postfix was not stopped")
		}
		h.stopped = nil
		h.Work.Tell = func(message string) { emit("warn", map[string]string{"message": message}) }
		r, err := h.Work.Start(ctx, s)
		if err != nil {
			return nil, err
		}
		started := NewStarted(ctx, h.Postfix, r)
		if started.Accepting != nil && !*started.Accepting {
			emit("warn", map[string]string{"message": "Postfix runs, but takes no new mail: " + started.Why})
		}
		return started, nil
	},
}

// Started is the result of start.
type Started struct {
	spool.Started
	Accepting *bool  `json:"accepting"` // new mail, up to MAIL FROM; null: there is no smtpd to ask
	Why       string `json:"why"`       // not
}

// NewStarted asks a Postfix that was started whether it takes new mail.
func NewStarted(ctx context.Context, p *spool.Postfix, r spool.Started) *Started {
	s := &Started{Started: r}
	s.Accepting, s.Why = p.Accepting(ctx)
	return s
}

// Lines tells how long Postfix was down.
func (s *Started) Lines() []Line {
	lines := []Line{{Label: "Postfix runs again", Text: fmt.Sprintf("after %.2f s; its queue manager was watched for %.1f s", s.Downtime, s.Proved)}}
	switch {
	case s.Accepting == nil:
	case *s.Accepting:
		lines = append(lines, Line{Label: "new mail is accepted"})
	default:
		lines = append(lines, Line{Label: "new mail is NOT accepted:", Text: s.Why})
	}
	return lines
}

// SectionOf returns the first and last index of the section that index i of a
// plan belongs to.
func SectionOf(names []string, i int) (first, last int, ok bool) {
	if i >= len(names) {
		return 0, 0, false
	}
	if row, found := Find(names[i]); !found || !row.Section {
		return 0, 0, false
	}
	first, last = i, i
	for names[first] != stop.Name {
		first--
	}
	for names[last] != start.Name {
		last++
	}
	return first, last, true
}
