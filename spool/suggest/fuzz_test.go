package suggest

import (
	"slices"
	"strings"
	"testing"

	"spoolsweep/spool/pattern"
)

// Whatever a mail says, what is found in it is a rule, and one that matches the
// line that it was found in.
func FuzzFeatures(f *testing.F) {
	for _, s := range []string{
		"Special offer: 40% off\nX-Mailer: Blaster 2.1\n\nhttp://a1.shop.test/x/media.php?id=7 or write to me@freemail.test today\n",
		"hi\n\nattachment: offer12.gif, image/gif, 20480 bytes\nhttp://\nhttps://x\nhttp\n",
		"\x1b[2J\n\n\ufffd \u202e İstanbul K 恭喜您赢得了我们银行的彩票大奖\n/a b c/ \\ (.*) [a-z] 5\n",
		"\nX-\xcd:AAAAA\nX-\r:BBBBB\nX y: CCCCC\n: DDDDD\nX-\xc3\xa9: EEEEE\n",
		"Re: on Monday\nReply-To: <x@y.test>\n\n@ @@ a@b a@b.c\nhttp://h:80/index.html#x http://h/?q\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		head, text, _ := strings.Cut(s, "\n\n")
		m := &Message{Sender: "a@b.test", Recipients: []string{"c@d.test"}, Header: strings.Split("Subject: "+head, "\n"), Text: strings.Split(strings.ReplaceAll(text, "\r", "\n"), "\n")}
		lines := append(append([]string{}, m.Header...), m.Text...)
		m.look([]string{"own.test"}, func(kind Kind, field, value string, line int32) {
			a := Atom{Kind: kind, Field: field, Pattern: value}
			rules, err := pattern.Compile(a.Rule(), nil)
			if err != nil {
				t.Fatalf("%+v: %v", a, err)
			}
			if len(rules.Spam()) != 1 || strings.Contains(strings.ToLower(value), "own.test") || line < 1 || int(line) > len(lines) {
				t.Fatalf("%+v in line %d of %q", a, line, s)
			}
			in := lines[line-1]
			if !a.expression() && !strings.Contains(strings.ToLower(in), value) {
				t.Fatalf("%+v is not in %q", a, in)
			}
		})
	})
}

// Whatever was counted, what is chosen hits nothing but the flood, and no rule is
// there for nothing.
func FuzzChoose(f *testing.F) {
	f.Add([]byte{1, 10, 2, 20, 3, 5, 0, 9})
	f.Add([]byte{0x11, 90, 0x10})
	f.Add([]byte{0xff, 1, 0x10, 200, 0x31, 7, 0x24, 3})
	atoms := []Atom{
		{Kind: Login, Field: "sasl_user", Pattern: "a", Least: 1}, {Kind: Sender, Field: "sender", Pattern: "b@c.test", Least: 2},
		{Kind: Bounces, Field: "recipient", Pattern: "a@c.test"}, {Kind: Recipient, Field: "recipient", Pattern: "d@c.test", Least: 2},
		{Kind: Link, Field: "body", Pattern: "/media.php"}, {Kind: Phrase, Field: "body", Pattern: "dear friend"},
		{Kind: Subject, Field: "subject", Pattern: "/pills [0-9]+/"}, {Kind: Header, Field: "header.X-Mailer", Pattern: "blaster"},
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		seen := map[Mask]int64{}
		for i := 0; i+1 < len(b); i += 2 {
			seen[Mask(b[i])] += int64(b[i+1])
		}
		var counts []Count
		for m, n := range seen {
			counts = append(counts, Count{m, n})
		}
		var kept []Mask
		if len(b)%2 == 1 { // the odd one is mail that is to be kept
			kept = []Mask{Mask(b[len(b)-1])}
		}
		p := Choose(atoms, counts, Known{Keep: kept}, 0)
		if p.Hit != 0 || p.Caught > p.Flood || p.Flood > p.Messages || len(p.Rules) > MaxRules {
			t.Fatalf("%+v", p)
		}
		if len(p.Rules) == 0 {
			return
		}
		var rules []any
		for _, r := range p.Rules {
			if r.Messages == 0 || r.Hit != 0 || slices.ContainsFunc(kept, r.Matches) {
				t.Fatalf("%+v", r)
			}
			rules = append(rules, r.Rule)
		}
		if _, err := pattern.Compile(rules, nil); err != nil {
			t.Fatalf("%v: %v", rules, err)
		}
	})
}
