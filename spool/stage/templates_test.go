package stage

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/practice"
)

// offers are messages of one text that has other names, numbers and links each time,
// each from a sender, a client and to a recipient of its own.
func offers(n int, what string) []practice.Message {
	var all []practice.Message
	for i := range n {
		all = append(all, practice.Message{
			Sender: fmt.Sprintf("%s%d@sender%d.test", what, i, i), Recipients: []string{fmt.Sprintf("to%d@c.test", i)}, ClientAddress: fmt.Sprintf("203.0.%d.%d", i/200, 1+i%200),
			Text: fmt.Sprintf("Subject: for you\n\nDear user%d,\nwe have %d pieces of %s left on our shelves,\nall of which you find at https://s%d.test/%x today.\nDo not wait until all the %s have been sold!\n", i, i*7, what, i, i*99, what),
		})
	}
	return all
}

// What comes from many sources and has one text looks like a flood: more than 100 of
// it, and no letters, nor notices of servers. No text of mail stands in the result.
func TestTemplates(t *testing.T) {
	h := newHost(t)
	submit(t, h, offers(130, "watches")...)
	submit(t, h, offers(100, "lamps")...)
	for _, m := range offers(130, "notices") {
		m.Sender = ""
		submit(t, h, m)
	}
	for _, m := range practice.Incident("chavez", "spam-account", 1200, 3) {
		if m.Label == practice.Ham {
			m.Queue = spool.Incoming
			submit(t, h, m)
		}
	}
	submit(t, h, practice.Message{Sender: "eve@x.test", Recipients: []string{"b@c.test"}, Text: "Subject: x\n\nhello\n"})
	k := aside(t, h, spool.Incoming)
	r, err := k.run("classify", `{"spam": {"any": [{"sender": "eve@x.test"}]}}`)
	if err != nil {
		t.Fatal(err)
	}
	c := r.(*Classified)
	if len(c.Left) != 1 {
		t.Fatalf("looks like a flood: %+v", c.Left)
	}
	got := c.Left[0]
	samples := got.Samples
	got.Samples = nil
	if d := cmp.Diff(Source{Kind: kindTemplate, Count: 130}, got); d != "" || len(samples) != samplesKept || !strings.HasPrefix(samples[0], "incoming.spamfull/") {
		t.Errorf("samples %q, -want +got: %s", samples, d)
	}
	if lines := fmt.Sprint(c.Lines()); !strings.Contains(lines, "one text, such as "+samples[0]) {
		t.Errorf("does not tell which mail that is: %s", lines)
	}
	if text, err := json.Marshal(c); err != nil || strings.Contains(string(text), "shelves") {
		t.Errorf("in the record: %v %s", err, text)
	}
	if a, err := confirm.Parse(nil); err != nil {
		t.Error(err)
	} else if why := a.(*ConfirmArgs).reasons(c); len(why) != 1 || !strings.Contains(why[0], "130 messages of one text, such as incoming.spamfull/") {
		t.Errorf("confirm asks again for %q", why)
	}

	// Without rules nothing would be sent, and nothing is read for it.
	if r, err = k.run("classify", `{}`); r == nil {
		t.Fatal(err)
	}
	for _, s := range r.(*Classified).Left {
		if s.Kind == kindTemplate {
			t.Errorf("without rules: %+v", s)
		}
	}
}

// Of more messages than are drawn the number is an estimate.
func TestTemplatesSampled(t *testing.T) {
	h := newHost(t)
	ids := submit(t, h, offers(120, "watches")...)
	for i := range 480 {
		ids = append(ids, submit(t, h, practice.Message{Sender: "a@x.test", Recipients: []string{"b@c.test"},
			Text: fmt.Sprintf("Subject: x\n\na letter of its own: %s\n", strings.Repeat(string(rune('a'+i%26))+string(rune('a'+i/26)), 12))})...)
	}
	var all templates
	for range 10 {
		for _, id := range ids {
			all.offer(func() spot { return spot{dir: "incoming", id: id} })
		}
	}
	if all.offered != 6000 || len(all.drawn) != templatesDrawn {
		t.Fatalf("%d offered, %d drawn", all.offered, len(all.drawn))
	}
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := pattern.Compile(map[string]any{"sender": "eve@x.test"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	found, err := all.over(t.Context(), &Host{Postfix: p}, rules, maxSource)
	if err != nil || len(found) != 1 || found[0].Count < 900 || found[0].Count > 1500 {
		t.Errorf("%+v, %v; 1,200 of one text were offered", found, err)
	}
	if found, err = all.over(t.Context(), &Host{Postfix: p}, rules, 1500); err != nil || len(found) != 0 {
		t.Errorf("over 1,500: %+v, %v", found, err)
	}
}
