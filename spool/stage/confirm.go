package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ConfirmArgs are the arguments of confirm.
type ConfirmArgs struct {
	Show       string `json:"show,omitempty" one:"classify" doc:"whose result is shown: classify"`
	MaxSenders Number `json:"max_senders,omitempty" doc:"look again: rules hit more distinct local senders"`
	MaxSource  Number `json:"max_source,omitempty" doc:"look again: more messages of one source, or more than that and than 100 of one text, would go back"`
	MaxRescued Number `json:"max_rescued,omitempty" doc:"look again: a ham rule keeps more messages from spam rules"`
	// Expect is an answer given beforehand.
	Expect *Number `json:"expect,omitempty" doc:"how many messages must be about to go: then they do; another number is asked about, or waits"`
}

// Check refuses what has no result to show.
func (a *ConfirmArgs) Check() error {
	if a.Show != "classify" {
		return fmt.Errorf("show: %q has nothing to confirm: classify has", a.Show)
	}
	return nil
}

var confirm = Row{
	Name: "confirm", Doc: "show both sides, and ask before anything is sent again", After: []string{"classify"}, Read: true,
	New: func() Args {
		return &ConfirmArgs{Show: "classify", MaxSenders: 3, MaxSource: maxSource, MaxRescued: 20}
	},
	Result: func() Result { return &Confirmed{} },
	Run: func(ctx context.Context, h *Host, a Args, _ Emit) (Result, error) {
		var c Classified
		if !h.Last("classify", &c) {
			return nil, errors.New("confirm: nothing was classified")
		}
		args := a.(*ConfirmArgs)
		reasons := args.reasons(&c)
		if h.Answer != nil && h.Answer.Kind == "confirm" && h.Answer.Value == c.List {
			return &Confirmed{Answer: "yes", By: h.Answer.By, List: c.List}, nil
		}
		if e := args.Expect; e != nil && int64(*e) == c.Ham {
			return &Confirmed{Answer: "yes", By: "expect", List: c.List}, nil
		} else if e != nil {
			reasons = append(reasons, fmt.Sprintf("%d messages would go, not the %d that were expected", c.Ham, *e))
		}
		if h.Yes && len(reasons) == 0 {
			return &Confirmed{Answer: "yes", By: "-y", List: c.List}, nil
		}
		return nil, &Ask{Kind: "confirm", Data: &Confirm{Reasons: reasons, Ham: c.Ham, Spam: c.Spam, List: c.List}}
	},
}

// Confirm is what is asked: whether the ham of a list is to be sent, or whether
// what a list names is to be deleted.
type Confirm struct {
	Delete  bool     `json:"delete,omitempty"`
	Reasons []string `json:"reasons"` // why -y does not answer it
	Ham     int64    `json:"ham"`     // how many would go
	Spam    int64    `json:"spam"`
	List    string   `json:"list"`
}

// reasons are what is suspicious about a classification. What was sent cannot
// be taken back, so -y does not pass them by.
func (a *ConfirmArgs) reasons(c *Classified) []string {
	var why []string
	judgeable := c.Spam + c.Ham
	switch {
	case judgeable == 0:
	case c.Spam == 0:
		why = append(why, fmt.Sprintf("the rules take nothing: all %d messages would go back", c.Ham))
	case c.Ham == 0:
		why = append(why, fmt.Sprintf("the rules take all %d messages", c.Spam))
	}
	if c.HitAll > int(a.MaxSenders) {
		shown := c.Hit[:min(len(c.Hit), int(a.MaxSenders)+1)]
		why = append(why, fmt.Sprintf("the rules hit %d local senders, such as %s", c.HitAll, strings.Join(shown, ", ")))
	}
	if c.Unreadable > 0 {
		why = append(why, fmt.Sprintf("%d messages are unreadable, such as %s", c.Unreadable, strings.Join(c.Unread, ", ")))
	}
	if c.Rescued > int64(a.MaxRescued) {
		most := ""
		for _, name := range c.HamOrder {
			if most == "" || c.ByHam[name].Messages > c.ByHam[most].Messages {
				most = name
			}
		}
		if most != "" && len(c.HamOrder) > 1 {
			most = fmt.Sprintf(": %d of them %s", c.ByHam[most].Messages, most)
		} else if most != "" {
			most = ": " + most
		}
		why = append(why, fmt.Sprintf("a ham rule keeps %d messages that spam rules take%s", c.Rescued, most))
	}
	return append(why, a.floods(c)...)
}

// floods are the sources of what would be sent that look like a flood.
func (a *ConfirmArgs) floods(c *Classified) []string {
	var why []string
	sources := slices.Clone(c.Left) // of more than maxSource; max_source may be lower
	for _, s := range c.Largest {
		if !slices.ContainsFunc(sources, func(o Source) bool { return o.Kind == s.Kind && o.Value == s.Value }) {
			sources = append(sources, s)
		}
	}
	for _, s := range sources {
		// One of Left may be larger than its count, see tally.
		if s.Count > int64(a.MaxSource) {
			why = append(why, fmt.Sprintf("what would go back still looks like a flood: %d messages of %s, such as %s", s.Count, s, strings.Join(s.Samples, ", ")))
		}
	}
	return why
}

// Confirmed is the result of confirm.
type Confirmed struct {
	Answer string `json:"answer"`
	By     string `json:"by"`
	List   string `json:"list"`
}

// Lines tells who answered.
func (c *Confirmed) Lines() []Line {
	return []Line{{Label: "confirmed by", Text: c.By}}
}
