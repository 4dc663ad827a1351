package stage

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/queuefile"
)

// look does a classify that leaves no record, as a command does, and returns the
// events of the kind "judged" too.
func classifyOnce(t *testing.T, h *Host, args string) (*Classified, []*Judged) {
	t.Helper()
	a, err := classify.Parse([]byte(args))
	if err != nil {
		t.Fatal(err)
	}
	var listed []*Judged
	r, err := classify.Run(t.Context(), h, a, func(kind string, data any) {
		if kind == "judged" {
			listed = append(listed, data.(*Judged))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.(*Classified), listed
}

const (
	sampledRules = `"spam": {"any": [{"sasl_user": "spam-account"}, {"body": ["pills", "casino"], "lines": 2}, {"source_count": ">7"}, {"all": [{"queue": "hold"}, {"size": ">1M"}]}]},
		"ham": [{"header.List-Id": "lists.test"}, {"subject": "minutes"}, {"subject": "nothing has it"}]`
	secret = "what only the mail says"
)

// sampled is a host with mail for each of the sampledRules.
func sampled(t *testing.T) (*practice.Host, []string) {
	h := newHost(t)
	letter := func(from, login, header, body string) practice.Message {
		return practice.Message{
			Sender: from, Recipients: []string{"b@far.test"}, Login: login, Text: header + "Subject: " + secret + "\n\n" + body + "\n",
			Arrived: time.Now().Add(-time.Hour),
		}
	}
	var all []practice.Message
	for i := range 3 { // by one rule, and by two
		all = append(all, letter(fmt.Sprintf("a%d@x.test", i), "spam-account", "", "hello"))
		all = append(all, letter(fmt.Sprintf("b%d@x.test", i), "spam-account", "", "pills\ncasino\npills"))
	}
	all = append(all, letter("c@x.test", "", "", "pills and casino"), letter("d@x.test", "", "", "Pills"), letter("e@x.test", "", "", secret))
	all = append(all, letter("f@x.test", "", "List-Id: <lists.test>\n", "pills\n\ncasino"))
	// Eight of one sender, whatever else they are.
	for i := range 8 {
		all = append(all, letter("News@Y.test", "", []string{"", "List-Id: lists.test\n"}[i%2], "hello"))
	}
	all[len(all)-1].Text = "List-Id: lists.test\nSubject: minutes\n\nhello\n"
	return h, submit(t, h, all...)
}

func TestLookInFull(t *testing.T) {
	h, ids := sampled(t)
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	host := &Host{Postfix: p}
	c, listed := classifyOnce(t, host, `{`+sampledRules+`, "live": ["incoming", "hold"], "samples": 3, "text_lines": 1, "list_messages": true}`)
	if d := cmp.Diff(Verdicts{Spam: 6 + 4, Ham: 3 + 1 + 4}, c.Verdicts); d != "" {
		t.Errorf("verdicts (-want +got): %s", d)
	}
	rules := map[string]RuleCount{
		"sasl_user:spam-account":       {Messages: 6, Alone: 3, Lines: map[string]int64{}},
		"body:[pills, casino] lines:2": {Messages: 4, Alone: 1, Lines: map[string]int64{"0": 12, "1": 2, "2": 1, "3+": 3}},
		"source_count:>7":              {Messages: 8, Alone: 8, Lines: map[string]int64{}},
		"all(queue:hold, size:>1M)":    {Lines: map[string]int64{}},
	}
	if d := cmp.Diff(rules, c.ByRule); d != "" {
		t.Errorf("by rule (-want +got): %s", d)
	}
	if d := cmp.Diff([][]int64{{6, 3, 0, 0}, {3, 4, 0, 0}, {0, 0, 8, 0}, {0, 0, 0, 0}}, c.Overlap); d != "" {
		t.Errorf("overlap (-want +got): %s", d)
	}
	ham := map[string]HamCount{"header.List-Id:lists.test": {Messages: 5, Alone: 4}, "subject:minutes": {Messages: 1}, "subject:nothing has it": {}}
	if d := cmp.Diff(ham, c.ByHam); d != "" || c.Rescued != 5 {
		t.Errorf("by ham rule (-want +got): %s; rescued %d", d, c.Rescued)
	}

	// Samples are some of the ham, and of what is nearly spam.
	verdicts := map[string]pattern.Verdict{}
	lines := map[string]int{}
	for _, j := range listed {
		for _, m := range j.Messages {
			verdicts[j.Directory+"/"+m.ID], lines[m.ID] = m.Verdict, m.Lines
		}
	}
	if len(verdicts) != len(ids) || lines[ids[1]] != 3 || lines[ids[6]] != 1 || lines[ids[8]] != 0 || verdicts["incoming/"+ids[1]] != pattern.Spam {
		t.Errorf("listed: %v %v", verdicts, lines)
	}
	if len(c.HamSamples) != 3 || len(c.NearMisses) != 2 {
		t.Fatalf("%d samples, %d near misses", len(c.HamSamples), len(c.NearMisses))
	}
	for _, s := range append(slices.Clone(c.HamSamples), c.NearMisses...) {
		if verdicts[s.Message] != pattern.Ham || s.Subject == "" || len(s.Text) != 1 || s.Envelope.Sender == "" || s.Envelope.Count != 1 {
			t.Errorf("a sample that is %s: %+v", verdicts[s.Message], s)
		}
	}
	for _, s := range c.NearMisses {
		if s.Rule != "body:[pills, casino] lines:2" || s.RuleLines != 1 || s.Message != "incoming/"+ids[6] && s.Message != "incoming/"+ids[7] {
			t.Errorf("near miss: %+v", s)
		}
	}
	// Nobody asked for samples or a list: there are none.
	if c, listed := classifyOnce(t, host, `{`+sampledRules+`, "live": ["incoming"]}`); len(c.HamSamples)+len(c.NearMisses)+len(listed) > 0 {
		t.Errorf("samples %v, near misses %v, list %v", c.HamSamples, c.NearMisses, listed)
	}
	// The other queues are as empty as they are.
	if c, listed := classifyOnce(t, host, `{`+sampledRules+`, "live": ["hold"], "list_messages": true}`); c.Messages != 0 || len(listed) > 0 {
		t.Errorf("hold: %+v %v", c, listed)
	}
}

// A run keeps its results and events: no mail gets into them, whatever it is
// asked for.
func TestRunKeepsNoMail(t *testing.T) {
	h, ids := sampled(t)
	k := aside(t, h, spool.Incoming)
	a, err := classify.Parse([]byte(`{` + sampledRules + `, "samples": 5, "text_lines": 5, "list_messages": true, "explain": "` + ids[0] + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	var told []any
	r, err := classify.Run(t.Context(), k.Host, a, func(kind string, data any) { told = append(told, data) })
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal([]any{r, told})
	if err != nil || strings.Contains(string(text), secret) || r.(*Classified).Messages != int64(len(ids)) {
		t.Errorf("%s, %v", text, err)
	}
}

// The age of mail is that at the moment when its queue was set aside; of a live
// queue it is now's.
func TestAgeWhenSetAside(t *testing.T) {
	h, _ := sampled(t)
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	for _, tt := range []struct {
		name  string
		aside []spool.Set
		age   string
		want  bool
	}{
		{"live", nil, ">=1h", true},
		{"live", nil, "<1h", false},
		{"aside half an hour ago", []spool.Set{{Queue: spool.Deferred, Aside: "incoming", When: now - 1800}}, "<31m", true},
		{"aside half an hour ago", []spool.Set{{Queue: spool.Deferred, Aside: "incoming", When: now - 1800}}, ">31m", false},
		{"a journal that does not say", []spool.Set{{Queue: spool.Deferred, Aside: "incoming"}}, ">=1h", true},
	} {
		c, _ := classifyOnce(t, &Host{Postfix: p, Aside: tt.aside}, `{"spam": {"all": [{"age": "`+tt.age+`"}, {"not": {"queue": "hold"}}]}, "live": ["incoming"]}`)
		if got := c.Spam == c.Messages && c.Messages > 0; got != tt.want || c.Spam != 0 && !got {
			t.Errorf("%s, %s: %+v", tt.name, tt.age, c.Verdicts)
		}
	}
	// The queue is the one it lay in, whatever the directory is called now.
	sets := []spool.Set{{Queue: spool.Deferred, Aside: "incoming", When: now}}
	if c, _ := classifyOnce(t, &Host{Postfix: p, Aside: sets}, `{"spam": {"queue": "deferred"}}`); c.Spam == 0 || c.Ham != 0 || c.ByQueue["deferred"].Spam != c.Spam {
		t.Errorf("by queue: %+v", c.ByQueue)
	}
	if c, _ := classifyOnce(t, &Host{Postfix: p, Aside: []spool.Set{}}, `{"spam": {"queue": "deferred"}, "live": ["incoming"]}`); c.Messages != 0 {
		t.Errorf("a run with nothing aside: %d messages", c.Messages)
	}
}

func TestClassifyExplains(t *testing.T) {
	h, ids := sampled(t)
	cutOff := submit(t, h, practice.Message{HalfWritten: true, Sender: "a@b.test", Recipients: []string{"c@d.test"}})[0]
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	host := &Host{Postfix: p}
	explain := func(id string) []Explained {
		c, _ := classifyOnce(t, host, `{`+sampledRules+`, "live": ["incoming"], "explain": "`+id+`"}`)
		return c.Explained
	}
	// A rule on source_count needs all messages, also to explain one.
	x := explain(ids[len(ids)-1])
	if len(x) != 1 || x[0].Verdict != pattern.Ham || x[0].Message != "incoming/"+ids[len(ids)-1] || x[0].Subject != "minutes" || len(x[0].Rules) != 7 {
		t.Fatalf("%+v", x)
	}
	if r := x[0].Rules[2]; !r.Matched || r.Parts[0].Values[0] != "8" {
		t.Errorf("source_count: %+v", r)
	}
	if r := x[0].Rules[5]; !r.Ham || !r.Matched || r.Parts[0].Places[0].Line != "Subject: minutes" {
		t.Errorf("subject: %+v", r)
	}
	var told []string
	for _, l := range explanationLines(ids[6], explain(ids[6])) {
		told = append(told, strings.TrimSpace(l.Label+" "+l.Text))
	}
	for _, want := range []string{
		"incoming/" + ids[6] + " is ham", "Subject: " + secret, "spam rule does not match: body:[pills, casino] lines:2",
		"no, lines that match: 1 of the 2 it takes: body:[pills, casino] lines:2", "body line 1: pills and casino", "no, here it is incoming: queue:hold",
	} {
		if !slices.Contains(told, want) {
			t.Errorf("does not tell %q: %q", want, told)
		}
	}
	if x := explain(cutOff); len(x) != 1 || x[0].Verdict != pattern.Incomplete || x[0].Envelope != nil {
		t.Errorf("half-written: %+v", x)
	}
	if x := explain("ABCDEF"); len(x) != 0 {
		t.Errorf("no such message: %+v", x)
	}
	for _, bad := range []string{"../etc/passwd", "a b", "\x1b[2J"} {
		text, _ := json.Marshal(ClassifyArgs{Explain: bad})
		if _, err := classify.Parse(text); err == nil || !strings.Contains(err.Error(), "is no queue id") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// However much there is to say of a message, it fits in a frame.
func TestExplanationBound(t *testing.T) {
	x := Explained{Verdict: pattern.Spam}
	for i := range 5000 {
		x.Rules = append(x.Rules, pattern.ExplainedRule{Rule: fmt.Sprint(i), Matched: i == 4999, Parts: []pattern.ExplainedLeaf{{Part: strings.Repeat("\x01", 200)}}})
	}
	x.bound()
	text, err := json.Marshal(&x)
	if err != nil || len(text) > maxExplained+1000 || len(text) < maxExplained/2 || !x.Partial {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if last := x.Rules[len(x.Rules)-1]; !last.Matched || x.Rules[0].Rule != "0" {
		t.Error("what matched was left out")
	}
}

// However long the addresses of a mail, a result fits in a frame.
func TestResultBound(t *testing.T) {
	rules, err := pattern.Compile([]any{map[string]any{"sender": "@x"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newResult(rules, []place{{queue: spool.Incoming}})
	sources := newTally(nil)
	long := strings.Repeat("\x01", 30<<10)
	for i := range 30 {
		from := fmt.Sprint(i, long, "@x")
		for range maxSource + 1 {
			sources.add("incoming", "ABC", &queuefile.Envelope{Sender: from, Login: from})
		}
		r.count(&reading{judged: judged{Verdict: pattern.Spam}, sender: from}, []string{"x"})
	}
	r.finish(sources)
	for range MaxSamples {
		s := Sample{Envelope: addressed(&queuefile.Envelope{Sender: long, Login: long, ClientName: long, Recipients: recipients(long, long, long, long)}), Subject: cut(long), Text: []string{long[:maxSampleText]}, Rule: cut(long)}
		r.HamSamples, r.NearMisses = append(r.HamSamples, s), append(r.NearMisses, s)
	}
	text, err := json.Marshal(r.Classified)
	if err != nil || len(text) > 900<<10 || len(r.Left) != sourcesShown || len(r.Hit) != localSendersShown || r.HitAll != 30 {
		t.Errorf("%d bytes, %d sources, %d senders, %v", len(text), len(r.Left), len(r.Hit), err)
	}
}

// Each of many messages has the same chance to be a sample, and never are more
// kept than were asked for.
func TestReservoir(t *testing.T) {
	const n, keep, rounds = 40, 5, 20000
	var chosen [n]int
	for range rounds {
		var r reservoir
		var at [keep]int
		for i := range n {
			if slot := r.slot(keep); slot >= 0 {
				at[slot] = i
			}
		}
		if len(r.kept) != keep {
			t.Fatalf("%d kept", len(r.kept))
		}
		for _, i := range at {
			chosen[i]++
		}
	}
	for i, got := range chosen { // the standard deviation is 47
		if want := rounds * keep / n; got < want-300 || got > want+300 {
			t.Errorf("message %d: chosen %d times, want about %d", i, got, want)
		}
	}
}

func TestCountOf(t *testing.T) {
	tl := newTally(nil)
	for i := range 10 {
		tl.add("", "", &queuefile.Envelope{Sender: "A@b", Login: fmt.Sprint(i % 2), ClientAddress: "192.0.2.1"})
	}
	for i := range 3 {
		tl.add("", "", &queuefile.Envelope{Recipients: recipients("c@d", fmt.Sprint(i, "@d"))})
	}
	for _, tt := range []struct {
		e    queuefile.Envelope
		want int64
	}{
		{queuefile.Envelope{Sender: "a@B"}, 10},
		{queuefile.Envelope{Sender: "other@b", Login: "1"}, 5},
		{queuefile.Envelope{Recipients: recipients("2@d", "C@d")}, 3},
		{queuefile.Envelope{Sender: "never@seen"}, 1}, // where it was let go
		{queuefile.Envelope{}, 0},
	} {
		if got := tl.countOf(&tt.e); got != tt.want {
			t.Errorf("%+v: %d, want %d", tt.e, got, tt.want)
		}
	}
}
