package stage

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// With -y a run waits for each of these: what was sent cannot be taken back.
func TestConfirmReasons(t *testing.T) {
	fine := Classified{Verdicts: Verdicts{Spam: 10, Ham: 5}}
	with := func(change func(c *Classified)) Classified {
		c := fine
		change(&c)
		return c
	}
	source := func(kind, value string, n int64) Source {
		return Source{Kind: kind, Value: value, Count: n, Samples: []string{"incoming.spamfull/A", "incoming.spamfull/B"}}
	}
	left := func(s ...Source) Classified { return with(func(c *Classified) { c.Left = s }) }
	const flood = "what would go back still looks like a flood: "
	for _, tt := range []struct {
		name string
		args string
		c    Classified
		want []string
	}{
		{"both sides", "", fine, nil},
		{"nothing at all", "", Classified{}, nil},
		{"only half-written", "", Classified{Verdicts: Verdicts{Incomplete: 9}}, nil},
		{"half-written beside", "", with(func(c *Classified) { c.Incomplete = 9 }), nil},
		{"takes nothing", "", Classified{Verdicts: Verdicts{Ham: 5}}, []string{"the rules take nothing: all 5 messages would go back"}},
		{"takes everything", "", Classified{Verdicts: Verdicts{Spam: 5}}, []string{"the rules take all 5 messages"}},
		{"three local senders", "", with(func(c *Classified) { c.Hit, c.HitAll = ranged(3, "u"), 3 }), nil},
		{"four local senders", "", with(func(c *Classified) { c.Hit, c.HitAll = ranged(4, "u"), 4 }), []string{"the rules hit 4 local senders, such as u0, u1, u2, u3"}},
		{"many local senders", "", with(func(c *Classified) { c.Hit, c.HitAll = ranged(20, "u"), 900 }), []string{"the rules hit 900 local senders, such as u0, u1, u2, u3"}},
		{"many are allowed", `{"max_senders": 25}`, with(func(c *Classified) { c.Hit, c.HitAll = ranged(20, "u"), 25 }), nil},
		{"more than many", `{"max_senders": 25}`, with(func(c *Classified) { c.Hit, c.HitAll = ranged(20, "u"), 26 }), []string{"the rules hit 26 local senders, such as " + strings.Join(ranged(20, "u"), ", ")}},
		{"none is allowed", `{"max_senders": 0}`, with(func(c *Classified) { c.Hit, c.HitAll = ranged(1, "u"), 1 }), []string{"the rules hit 1 local senders, such as u0"}},
		{"unreadable", "", with(func(c *Classified) { c.Unreadable, c.Unread = 2, []string{"incoming.spamfull/A: no end"} }), []string{"2 messages are unreadable, such as incoming.spamfull/A: no end"}},
		{"20 rescued", "", with(func(c *Classified) { c.Rescued = 20 }), nil},
		{"21 rescued", "", with(func(c *Classified) { c.Rescued = 21 }), []string{"a ham rule keeps 21 messages that spam rules take"}},
		{"100 of a source", "", left(source("login", "eve", 100)), nil},
		{"a login", "", left(source("login", "eve", 101)), []string{flood + "101 messages of login eve, such as incoming.spamfull/A, incoming.spamfull/B"}},
		{"all kinds", "", left(source("sender", "e@f", 300), source("client", "203.0.113.9", 200), source("bounces-to", "g@h", 101)), []string{
			flood + "300 messages of sender e@f, such as incoming.spamfull/A, incoming.spamfull/B",
			flood + "200 messages of client 203.0.113.9, such as incoming.spamfull/A, incoming.spamfull/B",
			flood + "101 messages of bounces-to g@h, such as incoming.spamfull/A, incoming.spamfull/B"}},
		{"one text", "", left(source(kindTemplate, "", 130)), []string{flood + "130 messages of one text, such as incoming.spamfull/A, incoming.spamfull/B"}},
		{"a higher bound", `{"max_source": 1000}`, left(source("login", "eve", 900)), nil},
		{"a lower bound", `{"max_source": 10}`, with(func(c *Classified) { c.Largest = []Source{source("login", "eve", 11)} }), []string{flood + "11 messages of login eve, such as incoming.spamfull/A, incoming.spamfull/B"}},
		{"named once", "", with(func(c *Classified) {
			c.Left, c.Largest = []Source{source("login", "eve", 150)}, []Source{source("login", "eve", 150)}
		}), []string{flood + "150 messages of login eve, such as incoming.spamfull/A, incoming.spamfull/B"}},
	} {
		a, err := confirm.Parse([]byte(tt.args))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(tt.want, a.(*ConfirmArgs).reasons(&tt.c)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestConfirm(t *testing.T) {
	fine := &Classified{Verdicts: Verdicts{Spam: 10, Ham: 5}, List: "abc"}
	odd := &Classified{Verdicts: Verdicts{Spam: 10}, List: "abc"}
	for _, tt := range []struct {
		name   string
		c      *Classified
		yes    bool
		answer *Answer
		by     string // "" asks
	}{
		{"asked", fine, false, nil, ""},
		{"-y", fine, true, nil, "-y"},
		{"-y with a reason", odd, true, nil, ""},
		{"answered", odd, true, &Answer{Kind: "confirm", Value: "abc", By: "ana"}, "ana"},
		{"answered for another list", fine, false, &Answer{Kind: "confirm", Value: "xyz", By: "ana"}, ""},
		{"answered without a list", fine, false, &Answer{Kind: "confirm", By: "ana"}, ""},
		{"another kind of answer", fine, false, &Answer{Kind: "slot", Value: "abc", By: "ana"}, ""},
	} {
		h := &Host{Yes: tt.yes, Answer: tt.answer, Last: func(name string, into any) bool { return name == "classify" && reencode(t, tt.c, into) }}
		a, err := confirm.Parse(nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := confirm.Run(t.Context(), h, a, nil)
		var ask *Ask
		switch {
		case tt.by == "":
			if !errors.As(err, &ask) || ask.Kind != "confirm" {
				t.Errorf("%s: got %v, %v, want a question", tt.name, r, err)
				continue
			}
			want := &Confirm{Reasons: a.(*ConfirmArgs).reasons(tt.c), Ham: tt.c.Ham, Spam: tt.c.Spam, List: "abc"}
			if d := cmp.Diff(want, ask.Data); d != "" {
				t.Errorf("%s asks (-want +got): %s", tt.name, d)
			}
		case err != nil:
			t.Errorf("%s: %v", tt.name, err)
		default:
			if d := cmp.Diff(&Confirmed{Answer: "yes", By: tt.by, List: "abc"}, r); d != "" {
				t.Errorf("%s (-want +got): %s", tt.name, d)
			}
		}
	}
	h := &Host{Yes: true, Last: func(string, any) bool { return false }}
	if _, err := confirm.Run(t.Context(), h, &ConfirmArgs{}, nil); err == nil {
		t.Error("nothing was classified: got nil, want an error")
	}
}
