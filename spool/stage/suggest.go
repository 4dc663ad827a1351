package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"spoolsweep/spool/pattern"
	"spoolsweep/spool/suggest"
)

// SuggestArgs are the arguments of suggest. Without rules it looks for atoms; with
// rules, one for each atom, it counts which of them match the same messages.
type SuggestArgs struct {
	Account string        `json:"account,omitempty" doc:"whose mail is the flood; without it that is found out"`
	Spam    any           `json:"spam,omitempty" doc:"a rule for each of what was found, on this host and others"`
	Kinds   suggest.Kinds `json:"kinds" doc:"what these rules are"`
	LiveQueues
}

// Check refuses more rules than can be tried together.
func (a *SuggestArgs) Check() error {
	rules, err := pattern.Compile(a.Spam, nil)
	if err == nil && len(rules.Spam()) > suggest.MaxAtoms {
		err = errors.New("more rules than can be tried together")
	}
	return err
}

var suggestRules = Row{
	Name: "suggest", Doc: "find what separates a flood from the rest, and count what it catches",
	New: func() Args { return &SuggestArgs{} }, Result: func() Result { return &Suggested{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*SuggestArgs)
		began := time.Now()
		rules, err := pattern.Compile(args.Spam, nil)
		if err != nil {
			return nil, err
		}
		r := &Suggested{Counts: map[string]int64{}, Samples: []ReadMessage{}}
		var d suggest.Draw
		var drawn [2][]spot
		unlike := map[suggest.Mask]spot{}
		err = h.passBy(ctx, args.Live, rules, emit, func(m *reading) {
			if m.Verdict != pattern.Ham && m.Verdict != pattern.Spam {
				return
			}
			if !rules.Empty() {
				var mask suggest.Mask
				for _, i := range m.Rules {
					mask |= 1 << i
				}
				r.count(mask)
				if mask != 0 && len(unlike) < unlikeShown && !args.Kinds.Flood(mask) {
					unlike[mask] = m.spot()
				}
				return
			}
			source := cmp.Or(m.Login, m.Sender)
			if source == "" {
				source = m.oneRecipient()
			}
			slot, rare := d.Offer(source)
			list := &drawn[0]
			if rare {
				list = &drawn[1]
			}
			switch {
			case slot == len(*list):
				*list = append(*list, m.spot())
			case slot >= 0:
				(*list)[slot] = m.spot()
			}
		})
		j := rules.Judge()
		var mail [2][]*suggest.Message
		again := func(at spot, take func(m *ReadMessage)) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				return
			}
			m, bad := readMessage(h, j, at, false)
			if bad == nil {
				bad = m.fit()
			}
			if bad == nil {
				take(m)
			} else if !errors.Is(bad, fs.ErrNotExist) { // gone meanwhile
				err = bad
			}
		}
		for i, list := range drawn {
			for _, at := range list {
				again(at, func(m *ReadMessage) { mail[i] = append(mail[i], m.drawn()) })
			}
		}
		for mask, at := range unlike {
			again(at, func(m *ReadMessage) {
				m.Why, m.Text = mask.String(), m.Text[:min(len(m.Text), 3)]
				r.Samples = append(r.Samples, *m)
			})
		}
		if err != nil {
			return nil, fmt.Errorf("suggest: %w", err)
		}
		if rules.Empty() {
			r.Messages, r.Atoms = d.Offered, suggest.Find(&d, mail[0], mail[1], h.Postfix.Domains, args.Account)
		}
		r.Seconds = time.Since(began).Seconds()
		return r, nil
	},
}

// unlikeShown is how many samples are sent of mail that only resembles the flood.
const unlikeShown = 8

// drawn is what is looked at of a message.
func (m *ReadMessage) drawn() *suggest.Message {
	e := &m.Envelope
	d := &suggest.Message{Login: strings.ToLower(e.Login), Sender: strings.ToLower(e.Sender), Client: e.Client, Header: m.Header, Text: m.Text}
	for _, r := range e.Recipients {
		d.Recipients = append(d.Recipients, strings.ToLower(r))
	}
	return d
}

// Suggested is the result of suggest: what was found, or what was counted.
type Suggested struct {
	Messages int64          `json:"messages"` // looked at
	Atoms    []suggest.Atom `json:"atoms,omitempty"`
	// Counts is how many messages the same rules matched: each a bit of a number in
	// hexadecimal, the first one the lowest. Lost is how many more messages there
	// were, of too many such sets.
	Counts map[string]int64 `json:"counts,omitempty"`
	Lost   int64            `json:"lost,omitempty"`
	// Samples are of mail that some rules match and that is not like the flood: which
	// of them is their Why, as in Counts.
	Samples []ReadMessage `json:"samples"`
	Seconds float64       `json:"seconds"`
}

func (s *Suggested) count(mask suggest.Mask) {
	s.Messages++
	key := mask.String()
	if s.Counts[key] == 0 && len(s.Counts) == suggest.MaxMasks {
		s.Lost++
		return
	}
	s.Counts[key]++
}

// Lines tells how much was read: what it means is told of all hosts together.
func (s *Suggested) Lines() []Line {
	return []Line{{Label: "looked at", Number: s.Messages, Unit: "messages"}}
}
