package show

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/stage"
	"spoolsweep/spool/suggest"
)

// Suggestion is what suggest proposes for all hosts together.
type Suggestion struct {
	*suggest.Proposal
	// Unclear are sources that stand out, whose mail has too little in common, and
	// texts of many messages that may be no flood's.
	Unclear []suggest.Atom `json:"unclear"`
	// Samples are some of the mail that resembles the flood, and is not like it.
	Samples []UnlikeSample `json:"samples"`
	// Keep is how many messages were given of which no rule may hit one.
	Keep int `json:"keep_sample,omitempty"`
	// NoneOf is the account whose mail was to be the flood, where no host has found any.
	NoneOf string `json:"-"`
}

// UnlikeSample is a message of a host.
type UnlikeSample struct {
	Host string `json:"host"`
	stage.ReadMessage
	mask suggest.Mask
}

// Unlike takes in what a host shows of such mail.
func (s *Suggestion) Unlike(host string, all []stage.ReadMessage) {
	for _, m := range all {
		if mask, err := suggest.ParseMask(m.Why); err == nil {
			m.Why = "it resembles the flood, and is not like it"
			m.Header = slices.DeleteFunc(m.Header, func(h string) bool { return !strings.HasPrefix(strings.ToLower(h), "subject:") })
			s.Samples = append(s.Samples, UnlikeSample{host, m, mask})
		}
	}
}

const stageSuggest = "suggest"

// Suggestion prints what is proposed.
func (p *Printer) Suggestion(s *Suggestion) {
	if text, err := json.Marshal(s); err == nil {
		p.stream(wire.Event{Instance: DefaultInstance, Time: time.Now().UTC(), Stage: stageSuggest, Kind: wire.Result, Data: text})
	}
	p.LinesOf("", stageSuggest, s)
}

// Lines tells the sums, each rule with what it does and why, and what was not
// proposed.
func (s *Suggestion) Lines() []stage.Line {
	count := func(label string, n int64, text string) stage.Line {
		return stage.Line{Label: label, Number: n, Unit: "messages", Text: text}
	}
	lines := []stage.Line{count("in all", s.Messages, ""), count("like the flood", s.Flood, "")}
	if len(s.Rules) == 0 {
		switch {
		case s.NoneOf != "":
			lines = append(lines, stage.Line{Label: "no mail of " + s.NoneOf + " is in what was looked at: nothing is proposed"})
		case len(s.Unclear) == 0 && s.Flood == 0:
			lines = append(lines, stage.Line{Label: "no flood was found: nothing is proposed"})
		default:
			lines = append(lines, stage.Line{Label: "the flood cannot be separated from other mail: nothing is proposed"})
		}
	} else {
		if s.Proposal.Samples > 0 {
			lines = append(lines, stage.Line{Label: "samples of the flood caught", Text: fmt.Sprintf("%d of %d", s.SamplesCaught, s.Proposal.Samples)})
		}
		lines = append(lines, count("caught by all rules together", s.Caught, ""), count("hit outside the flood", s.Hit, ""))
		if s.Keep > 0 {
			lines = append(lines, count("to be kept, of which no rule hits one", int64(s.Keep), ""))
		}
	}
	for _, r := range s.Rules {
		lines = append(lines, count("rule", r.Messages, fmt.Sprintf("%s (alone %d, others hit %d)", flow(r.Rule), r.Alone, r.Hit)))
		for _, why := range r.Why {
			lines = append(lines, stage.Line{Label: "  since", Text: why})
		}
	}
	if s.Proposal.Unlike > 0 {
		lines = append(lines, count("of the same sources, and not like the flood: no rule takes them", s.Proposal.Unlike, ""))
	}
	for _, r := range s.Refused {
		lines = append(lines, count("not proposed", r.Messages, fmt.Sprintf("%s, since it would hit %s", flow(r.Rule), others(&r))))
		shown := 0
		for i := range s.Samples {
			if m := &s.Samples[i]; r.Matches(m.mask) && shown < samplesOfOne {
				shown++
				lines = append(lines, stage.Line{Label: "  such as", Text: m.Host + ": " + m.Message + " " + m.Envelope.String()})
				for _, text := range append(m.Header, m.Text...) {
					lines = append(lines, stage.Line{Label: "    |", Text: text})
				}
			}
		}
	}
	for i := range s.Unclear {
		a := &s.Unclear[i]
		why := fmt.Sprintf("%s %s stands out (%s), but too little of its mail has anything in common that other mail lacks", a.Kind, a.Pattern, a.Why())
		match := a.Field + ":" + a.Pattern
		if a.Kind == suggest.Phrase || a.Kind == suggest.Subject {
			why = fmt.Sprintf("one text stands out, with the words %s (%s), but it may be a newsletter or the notices of a program, or too short", quoted(a.Pattern), a.Why())
			match = "'" + strings.ReplaceAll(match, "'", `'\''`) + "'"
		}
		lines = append(lines, stage.Line{Label: "not separated", Text: why + "; look at some with 'spoolsweep sample', or take all of it: -m " + match})
	}
	if s.Lost > 0 {
		lines = append(lines, count("not told apart, and so not counted", s.Lost, ""))
	}
	return lines
}

const samplesOfOne = 2

// others are what a rule would hit outside the flood.
func others(r *suggest.Rule) string {
	n, what := r.Hit, "other message"
	if n == 0 {
		n, what = int64(r.Kept), "message that is to be kept"
		if n > 1 {
			return fmt.Sprintf("%d messages that are to be kept", n)
		}
	}
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// YAML is the rules as a file for -e; of says where they were found.
func (s *Suggestion) YAML(of string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Rules that spoolsweep suggest found in %s.\n", Clean(of))
	if len(s.Rules) == 0 {
		b.WriteString("# There is no flood there that can be separated from other mail: no rules.\nspam: {}\n")
		return b.String()
	}
	fmt.Fprintf(&b, "# They catch %d of %d messages that are like the flood, and %d of %d others.\nspam:\n  any:\n", s.Caught, s.Flood, s.Hit, s.Messages-s.Flood)
	for _, r := range s.Rules {
		fmt.Fprintf(&b, "    # %d messages, %d of them by no other rule, %d others\n", r.Messages, r.Alone, r.Hit)
		for _, why := range r.Why {
			fmt.Fprintf(&b, "    # %s\n", Clean(why))
		}
		fmt.Fprintf(&b, "    - %s\n", flow(r.Rule))
	}
	return b.String()
}

// flow writes a rule as YAML on one line, with every pattern in quotes, so that a
// terminal obeys nothing in it.
func flow(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			name := k
			if strings.ContainsFunc(k, func(r rune) bool {
				return r != '.' && r != '-' && r != '_' && (r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r))
			}) {
				name = quoted(k)
			}
			parts = append(parts, name+": "+flow(v[k]))
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []any:
		var parts []string
		for _, one := range v {
			parts = append(parts, flow(one))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return quoted(fmt.Sprint(v))
}

// quoted is a text in double quotes, as YAML and JSON have them.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
