package show

import (
	"strings"
	"testing"

	"spoolsweep/spool/suggest"
)

// What stands out and is not proposed is told, with what to type to take it all.
func TestUnclear(t *testing.T) {
	s := &Suggestion{Proposal: suggest.Choose(nil, nil, suggest.Known{}, 0), Unclear: []suggest.Atom{
		{Kind: suggest.Login, Field: "sasl_user", Pattern: "eve", In: 30, Of: 60, From: 7, Least: -1},
		{Kind: suggest.Phrase, Field: "body", Pattern: "it's \x1b[2J waiting", In: 15, Of: 60, From: 14, Least: -1},
	}}
	var all []string
	for _, l := range s.Lines() {
		all = append(all, strings.TrimSpace(l.Label+" "+l.Text))
	}
	got := strings.Join(all, "\n")
	for _, want := range []string{
		"the flood cannot be separated from other mail: nothing is proposed",
		"not separated login eve stands out (50 % of all messages, from 7 addresses or more), but too little",
		"or take all of it: -m sasl_user:eve",
		`not separated one text stands out, with the words "it's \u001b[2J waiting" (25 % of all messages, of 14 senders or more), but it may be a newsletter`,
		"or take all of it: -m 'body:it'\\''s ",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
