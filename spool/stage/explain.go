package stage

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// Explained tells why one message is what it is.
type Explained struct {
	Message  string                  `json:"message"` // DIRECTORY/ID
	Verdict  pattern.Verdict         `json:"verdict"`
	Why      string                  `json:"why,omitempty"` // of unreadable
	Envelope *Addressed              `json:"envelope,omitempty"`
	Subject  string                  `json:"subject,omitempty"`
	Rules    []pattern.ExplainedRule `json:"rules,omitempty"`
	Capped   string                  `json:"capped,omitempty"`  // what decoding ran into: depth, parts or size
	Partial  bool                    `json:"partial,omitempty"` // not all places, or not all rules, are told
}

const (
	explainedKept = 5         // messages of one id: a collision makes two
	maxExplained  = 512 << 10 // bytes of one as JSON: less than a frame
)

// explain judges the messages of the one id, and tells where each rule matched.
// None is no error: it may lie on another host.
func (c *classification) explain(ctx context.Context, places []place) (*Classified, error) {
	began := time.Now()
	r := newResult(c.rules, places)
	r.Explain = c.args.Explain
	m := mail{File: new(spool.MailFile)}
	defer m.File.Close()
	for i := range places {
		p := &places[i]
		err := spool.Walk(c.host.Postfix, p.dir, func(chunk spool.Chunk) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			for _, id := range chunk.IDs {
				if id != c.args.Explain || len(r.Explained) == explainedKept {
					continue
				}
				m.Place = i
				if gone, err := m.open(chunk.Dir, p.dir, chunk.Sub, id); err != nil {
					return err
				} else if gone {
					continue
				}
				var one reading
				one.read(c.judges[0], &m, c.message(p), func(*pattern.Finding) {})
				r.count(&one, c.host.Postfix.Domains)
				x := Explained{Message: p.dir + "/" + id, Verdict: one.Verdict, Why: one.why}
				if one.Verdict == pattern.Spam || one.Verdict == pattern.Ham {
					x.read(c, p, &m)
				}
				m.File.Close()
				r.Explained = append(r.Explained, x)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("classify %s: %w", p.dir, err)
		}
	}
	r.finish(newTally(nil))
	r.Seconds = time.Since(began).Seconds()
	return r.Classified, nil
}

// read takes in what the judge says of the open file.
func (x *Explained) read(c *classification, p *place, m *mail) {
	j := c.judges[0]
	of := c.message(p)
	of.Size = m.Mail.Size
	e := j.Explain(m.File, of)
	x.Verdict, x.Capped, x.Partial, x.Rules = e.Verdict, e.Capped, e.Partial, e.Rules
	if e.Verdict == pattern.Unreadable {
		x.Why = e.Why.Error()
		return
	}
	a := addressed(e.Envelope)
	x.Envelope = &a
	x.Subject, _, _ = j.Sample(0) // a content that cannot be read has none
	x.bound()
}

// bound leaves out the rules for which a frame has no room, those that matched
// last.
func (x *Explained) bound() {
	room := maxExplained
	keep := make([]bool, len(x.Rules))
	for _, matched := range []bool{true, false} {
		for i := range x.Rules {
			if x.Rules[i].Matched != matched {
				continue
			}
			text, err := json.Marshal(&x.Rules[i])
			if room -= len(text); err == nil && room >= 0 {
				keep[i] = true
			}
		}
	}
	var kept []pattern.ExplainedRule
	for i := range x.Rules {
		if keep[i] {
			kept = append(kept, x.Rules[i])
		}
	}
	x.Partial = x.Partial || len(kept) < len(x.Rules)
	x.Rules = kept
}

// explanationLines are explanations for people.
func explanationLines(id string, all []Explained) []Line {
	var lines []Line
	line := func(label, text string) { lines = append(lines, Line{Label: label, Text: text}) }
	for i := range all {
		x := &all[i]
		line(x.Message+" is", string(x.Verdict))
		if x.Why != "" {
			line("  because", x.Why)
		}
		if e := x.Envelope; e != nil {
			line("  envelope:", e.String())
			line("  size and arrival:", fmt.Sprintf("%d bytes, %s", e.Bytes, e.Arrived.Format(time.RFC3339)))
			line("  Subject:", x.Subject)
		}
		for k := range x.Rules {
			lines = append(lines, ruleLines(&x.Rules[k])...)
		}
		if x.Capped != "" {
			line("  not decoded to its end, since it has too much", x.Capped)
		}
		if x.Partial {
			line("  there is more than is shown here", "")
		}
	}
	if len(all) == 0 {
		line("no message here with the id", id)
	}
	return lines
}

func ruleLines(r *pattern.ExplainedRule) []Line {
	side, matched := "spam rule", "does not match"
	if r.Ham {
		side = "ham rule"
	}
	if r.Matched {
		matched = "matches"
	}
	lines := []Line{{Label: "  " + side + " " + matched + ":", Text: r.Rule}}
	for i := range r.Parts {
		p := &r.Parts[i]
		found := "no"
		if p.Matched {
			found = "yes"
		}
		if p.Wanted > 0 {
			found += fmt.Sprintf(", lines that match: %d", p.Lines)
			if p.Wanted > 1 {
				found += fmt.Sprintf(" of the %d it takes", p.Wanted)
			}
		} else if len(p.Values) > 0 {
			found += ", here it is " + strings.Join(p.Values, ", ")
		}
		lines = append(lines, Line{Label: "    " + found + ":", Text: p.Part})
		for _, at := range p.Places {
			where := fmt.Sprintf("      %s line %d:", at.Text, at.Number)
			if at.Text == "envelope" {
				where = "      envelope:"
			}
			lines = append(lines, Line{Label: where, Text: at.Line})
		}
	}
	return lines
}
