package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/practice"
)

var floodQueues = []spool.Queue{spool.Incoming, spool.Active, spool.Deferred}

const (
	incidentRules = `{"spam": {"any": [{"sasl_user": "spam-account"}, {"all": [{"sender": "<>"}, {"recipient": "spam-account@chavez.practice.test"}]}]}}`
	loginRule     = `{"spam": {"sasl_user": "spam-account"}}`
)

// verdicts reads the list of a run: the verdict of each queue id that was judged.
func (k *work) verdicts() map[string]pattern.Verdict {
	k.t.Helper()
	all := map[string]pattern.Verdict{}
	_, err := readList(k.Dir, func(j *judged) {
		if j.Verdict != "" {
			all[j.ID] = j.Verdict
		}
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return all
}

// What classify counts and writes is what the messages really are.
func TestClassify(t *testing.T) {
	h := newHost(t)
	flood := practice.Incident("chavez", "spam-account", 400, 7)
	ids := submit(t, h, flood...)
	half := submit(t, h, practice.Message{HalfWritten: true, Sender: "a@chavez.practice.test", Recipients: []string{"b@c.test"}})[0]
	cut := submit(t, h, practice.Message{Sender: "a@chavez.practice.test", Recipients: []string{"b@c.test"}, Text: "Subject: x\n\nhello\n"})[0]
	if err := os.Truncate(h.Spool("incoming", cut), 200); err != nil {
		t.Fatal(err)
	}
	k := aside(t, h, floodQueues...)
	r, err := k.run("classify", incidentRules)
	if err != nil {
		t.Fatal(err)
	}
	c := r.(*Classified)
	truth := map[string]Verdicts{}
	want := map[string]pattern.Verdict{half: pattern.Incomplete, cut: pattern.Unreadable}
	for i, m := range flood {
		want[ids[i]] = pattern.Verdict(m.Label)
	}
	for i, m := range append(slices.Clone(flood), practice.Message{}, practice.Message{}) {
		id, queue := half, spool.Incoming
		switch {
		case i < len(flood):
			id = ids[i]
			if m.Queue != "" {
				queue = m.Queue
			}
		case i > len(flood):
			id = cut
		}
		v := truth[string(queue)]
		v.add(want[id])
		truth[string(queue)] = v
	}
	if d := cmp.Diff(want, k.verdicts()); d != "" {
		t.Errorf("verdicts (-label +got): %s", d)
	}
	if d := cmp.Diff(truth, c.ByQueue); d != "" {
		t.Errorf("by queue (-label +got): %s", d)
	}
	if d := cmp.Diff(Verdicts{Spam: 300, Ham: 100, Unreadable: 1, Incomplete: 1}, c.Verdicts); d != "" {
		t.Errorf("sums (-want +got): %s", d)
	}
	if c.Messages != 402 || c.Messages != c.Spam+c.Ham+c.Unreadable+c.Incomplete || c.Bytes == 0 {
		t.Errorf("%d messages of %d bytes", c.Messages, c.Bytes)
	}
	if len(c.RuleOrder) != 2 || c.ByRule[c.RuleOrder[0]].Alone != 180 || c.ByRule[c.RuleOrder[1]].Messages != 120 || len(c.ByRule[c.RuleOrder[0]].Lines) > 0 {
		t.Errorf("by rule: %v %v", c.RuleOrder, c.ByRule)
	}
	if d := cmp.Diff([]string{"spam-account@chavez.practice.test"}, c.Hit); d != "" || c.HitAll != 1 {
		t.Errorf("local senders: %s, %d", d, c.HitAll)
	}
	if len(c.Unread) != 1 || !strings.HasPrefix(c.Unread[0], "incoming.spamfull/"+cut+": ") {
		t.Errorf("unreadable: %v", c.Unread)
	}
	if len(c.Left) != 0 {
		t.Errorf("sources left: %v", c.Left)
	}
	name, err := readList(k.Dir, func(*judged) {})
	if err != nil || name != c.List {
		t.Errorf("list %s, %v, want %s", name, err, c.List)
	}
	// Judged once more, the same list.
	if r, err = k.run("classify", incidentRules); err != nil || r.(*Classified).List != c.List {
		t.Errorf("again: %v, %v, want list %s", r, err, c.List)
	}

	// Rules that miss the bounces: their target is left, with samples.
	if r, err = k.run("classify", loginRule); err != nil {
		t.Fatal(err)
	}
	c = r.(*Classified)
	left := slices.IndexFunc(c.Left, func(s Source) bool { return s.Kind == "bounces-to" })
	if left < 0 || c.Left[left].Value != "spam-account@chavez.practice.test" || c.Left[left].Count != 120 || len(c.Left[left].Samples) != 3 {
		t.Errorf("sources left: %+v", c.Left)
	}
	for _, where := range c.Left[left].Samples {
		dir, id, _ := strings.Cut(where, "/")
		if want[id] != pattern.Spam || !strings.HasSuffix(dir, ".spamfull") {
			t.Errorf("sample %s is %s", where, want[id])
		}
	}
	// A ham rule wins over all of them.
	if r, err = k.run("classify", `{"spam": {"raw": "e"}, "ham": {"recipient": "spam-account@chavez.practice.test"}}`); err != nil {
		t.Fatal(err)
	}
	if c = r.(*Classified); c.Rescued != 120 || c.Ham != 120 {
		t.Errorf("rescued %d, ham %d, want 120", c.Rescued, c.Ham)
	}
	// Without rules it asks for them, and says what there is; nobody judged
	// anything, so that no list calls anything ham.
	r, err = k.run("classify", `{}`)
	var ask *Ask
	if !errors.As(err, &ask) || ask.Kind != "rules" || r.(*Classified).Messages != 402 {
		t.Errorf("without rules: %+v, %v", r, err)
	}
	if d := cmp.Diff(map[string]pattern.Verdict{half: pattern.Incomplete, cut: pattern.Unreadable}, k.verdicts()); d != "" {
		t.Errorf("verdicts without rules (-want +got): %s", d)
	}
	// So nothing of it is restored.
	if _, err := k.run("restore", `{}`); err == nil {
		t.Error("restore beside a Postfix that does not run: got nil, want an error")
	}

	// A list that is not the one that was confirmed is not restored.
	k.done["confirm"] = &Confirmed{Answer: "yes", By: "ana", List: "another"}
	if _, err := k.run("restore", `{}`); err == nil || !strings.Contains(err.Error(), "not the list that was confirmed") {
		t.Errorf("another list: got %v", err)
	}
	delete(k.done, "confirm")
	delete(k.done, "classify")
	if _, err := k.run("restore", `{}`); err == nil || !strings.Contains(err.Error(), "nothing was classified") {
		t.Errorf("no list: got %v", err)
	}
}

// What is not mail of its own is never judged, and stays where it is.
func TestClassifyOddFiles(t *testing.T) {
	h := newHost(t)
	one := practice.Message{Sender: "a@chavez.practice.test", Recipients: []string{"b@c.test"}, Text: "Subject: x\n\nhello\n"}
	ids := submit(t, h, one, one, one, one)
	at := func(id string) string { return h.Spool("incoming", id) }
	for _, err := range []error{
		os.Chmod(at(ids[0]), 0o400),                                 // marked corrupt
		os.Link(at(ids[1]), filepath.Join(h.Dir, "second")),         // has two names
		os.WriteFile(at(ids[2]), []byte("no queue file\n"), 0o700),  // rubbish
		os.Symlink(at(ids[3]), h.Spool("incoming", "ABCDEF123456")), // a link is no message
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	k := aside(t, h, spool.Incoming)
	r, err := k.run("classify", `{"spam": {"raw": "hello"}}`)
	if err != nil {
		t.Fatal(err)
	}
	c := r.(*Classified)
	if c.Unreadable < 3 || c.Spam != 1 || c.Ham != 0 {
		t.Errorf("got %+v, unreadable: %v", c.Verdicts, c.Unread)
	}
	if got := k.verdicts(); got[ids[3]] != pattern.Spam {
		t.Errorf("the good one: %v", got)
	}
	if len(c.Unread) > unreadKept {
		t.Errorf("%d samples", len(c.Unread))
	}
}

func TestClassifyCancelled(t *testing.T) {
	h := newHost(t)
	submit(t, h, practice.Incident("chavez", "spam-account", 20, 7)...)
	k := aside(t, h, floodQueues...)
	first, err := k.run("classify", incidentRules)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a, err := classify.Parse([]byte(loginRule))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := classify.Run(ctx, k.Host, a, func(string, any) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	// The old list stands.
	if name, err := readList(k.Dir, func(*judged) {}); err != nil || name != first.(*Classified).List {
		t.Errorf("list %s, %v", name, err)
	}
	if left, err := filepath.Glob(filepath.Join(k.Dir, "*.new")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What a put back would send, without more: what somebody confirmed as ham, and
// what is not the flood's. Everything else only with include_spam.
func TestPreviewPutback(t *testing.T) {
	letter := func(i int, from string) practice.Message {
		return practice.Message{
			Sender: from, Recipients: []string{fmt.Sprintf("friend%d@far.test", i)}, Text: fmt.Sprintf("Subject: %d\n\nhello\n", i),
			Arrived: time.Now().Add(-time.Hour),
		}
	}
	h := newHost(t)
	// 75 of members, 90 bounces and 135 of the account are 300; 110 more of one
	// sender that no rule takes.
	submit(t, h, practice.Incident("chavez", "spam-account", 300, 7)...)
	var news []practice.Message
	for i := range 110 {
		news = append(news, letter(i, "news@chavez.practice.test"))
	}
	submit(t, h, news...)
	submit(t, h, practice.Message{HalfWritten: true, Sender: "a@b.test", Recipients: []string{"c@d.test"}})
	cut := submit(t, h, letter(0, "cut@chavez.practice.test"))[0]
	if err := os.Truncate(h.Spool("incoming", cut), 200); err != nil {
		t.Fatal(err)
	}
	k := aside(t, h, floodQueues...)
	preview := func(confirmed string) *Preview {
		t.Helper()
		p, err := PreviewPutback(t.Context(), k.Postfix, runID, k.Dir, confirmed)
		if err != nil {
			t.Fatal(err)
		}
		if p.Run != runID || p.All-p.Going < 0 || p.All != 300+110+1 {
			t.Errorf("preview %+v, want 411 in all", p)
		}
		var sum int
		for _, n := range p.ByKind {
			sum += n
		}
		if int64(sum) != p.All {
			t.Errorf("by kind %v is %d, want %d", p.ByKind, sum, p.All)
		}
		return p
	}
	judge := func(args string) string {
		t.Helper()
		r, err := k.run("classify", args)
		if err != nil && !errors.As(err, new(*Ask)) {
			t.Fatal(err)
		}
		return r.(*Classified).List
	}
	check := func(name, list string, going int64, kinds map[string]int) {
		t.Helper()
		p := preview(list)
		if p.Going != going {
			t.Errorf("%s: %d would go, want %d", name, p.Going, going)
		}
		if d := cmp.Diff(kinds, p.ByKind); d != "" {
			t.Errorf("%s (-want +got): %s", name, d)
		}
	}
	// 135 of one login and sender, 110 of another; 90 bounces are not many.
	unjudged := map[string]int{"never judged": 75 + 90, "flood": 135 + 110, "unreadable": 1}
	check("nobody looked", "", 165, unjudged)
	judge(`{}`)
	check("no rules yet", "", 165, unjudged)

	list := judge(incidentRules)
	check("judged, not confirmed", "", 75, map[string]int{"ham": 75, "flood": 110, "spam": 225, "unreadable": 1})
	check("another list was confirmed", "another", 75, map[string]int{"ham": 75, "flood": 110, "spam": 225, "unreadable": 1})
	check("confirmed", list, 185, map[string]int{"ham": 185, "spam": 225, "unreadable": 1})

	// A rule that takes nothing: all is ham by the list, and the flood is not
	// sent for it.
	judge(`{"spam": {"sasl_user": "nobody"}}`)
	check("judged by a rule that takes nothing", "", 165, map[string]int{"ham": 165, "flood": 245, "unreadable": 1})

	p := preview("")
	if len(p.Sources) == 0 || p.Sources[0].Count != 135 || !slices.ContainsFunc(p.Sources, func(s Source) bool { return s.Value == "news@chavez.practice.test" && s.Count == 110 }) {
		t.Errorf("sources: %+v", p.Sources)
	}
	text, err := json.Marshal(p)
	if err != nil || strings.Contains(string(text), `"ham":[`) || strings.Contains(string(text), "mailer.test") {
		t.Errorf("as JSON: %s, %v", text, err)
	}

	// A file that was changed since it was judged was not judged.
	list = judge(incidentRules)
	var id, sub string
	if _, err := readList(k.Dir, func(j *judged) {
		if j.Verdict == pattern.Ham && j.Aside == "incoming.spamfull" {
			id, sub = j.ID, j.Sub
		}
	}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := os.Chtimes(h.Spool("incoming.spamfull", sub, id), now, now); err != nil {
		t.Fatal(err)
	}
	if got := preview(list).ByKind; got["ham"] != 184 || got["never judged"]+got["flood"] != 1 {
		t.Errorf("one was changed: %v", got)
	}
	// A damaged list decides nothing.
	if err := os.Truncate(filepath.Join(k.Dir, verdictsName), 50); err != nil {
		t.Fatal(err)
	}
	if _, err := PreviewPutback(t.Context(), k.Postfix, runID, k.Dir, list); !strings.Contains(spool.RemedyOf(err), "resume") {
		t.Errorf("a damaged list: got %v", err)
	}
}

// Damage in the content is seen only by a rule that reads it. What such a rule
// called unreadable stays so for a put back, which reads no content.
func TestPreviewUnreadableContent(t *testing.T) {
	h := newHost(t)
	id := submit(t, h, practice.Message{Sender: "a@chavez.practice.test", Recipients: []string{"b@c.test"}, Text: "Subject: x\n\nhello\n"})[0]
	k := aside(t, h, spool.Incoming)
	if _, err := k.run("classify", `{"spam": {"raw": "nothing of it"}}`); err != nil {
		t.Fatal(err)
	}
	var lines []judged
	if _, err := readList(k.Dir, func(j *judged) { j.Verdict = pattern.Unreadable; lines = append(lines, *j) }); err != nil || len(lines) != 1 || lines[0].ID != id {
		t.Fatalf("list: %v, %v", lines, err)
	}
	list := writeList(t, k.Dir, lines)
	p, err := PreviewPutback(t.Context(), k.Postfix, runID, k.Dir, list)
	if err != nil || p.Going != 0 || p.ByKind["unreadable"] != 1 {
		t.Errorf("preview: %+v, %v", p, err)
	}
}

func TestPutbackAnswered(t *testing.T) {
	number := func(n Number) *Number { return &n }
	agreed := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		name  string
		h     Host
		args  PutbackArgs
		going int64
		want  string // "" may go, "ask", or a part of the error
	}{
		{"expected", Host{}, PutbackArgs{Expect: number(5)}, 5, ""},
		{"not expected", Host{Run: "R"}, PutbackArgs{Expect: number(4)}, 5, "5 messages would go, not the 4 that were expected: nothing was moved (spoolsweep putback R shows them)"},
		{"nobody said", Host{}, PutbackArgs{}, 5, "ask"},
		{"nobody said, -y", Host{Yes: true}, PutbackArgs{}, 5, "ask"},
		{"answered", Host{Answer: &Answer{Kind: "confirm", Value: "5"}}, PutbackArgs{}, 5, ""},
		{"answered for fewer", Host{Answer: &Answer{Kind: "confirm", Value: "4"}}, PutbackArgs{}, 5, "ask"},
		{"another answer", Host{Answer: &Answer{Kind: "slot", Value: "5"}}, PutbackArgs{}, 5, "ask"},
		{"died midway", Host{Agreed: agreed(9)}, PutbackArgs{Expect: number(9)}, 5, ""},
		{"died midway, and there are more", Host{Agreed: agreed(9)}, PutbackArgs{Expect: number(9)}, 10, "nothing was moved"},
	} {
		err := new(Preview).answered(&tt.h, &tt.args, tt.going)
		switch {
		case tt.want == "":
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
		case tt.want == "ask":
			var ask *Ask
			if !errors.As(err, &ask) || ask.Kind != "confirm" || ask.Data.(*Confirm).Ham != tt.going {
				t.Errorf("%s: got %v, want a question", tt.name, err)
			}
		case err == nil || !strings.Contains(err.Error()+" ("+spool.RemedyOf(err)+")", tt.want):
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.want)
		}
	}
}

// Set aside, the counts of what is live and what is not.
func TestCountStage(t *testing.T) {
	h := newHost(t)
	submit(t, h, practice.Incident("chavez", "spam-account", 60, 7)...)
	k := aside(t, h, floodQueues...)
	r, err := k.run("count", `{"exact": true}`)
	if err != nil {
		t.Fatal(err)
	}
	c := r.(*Counts)
	var sum int64
	for _, n := range c.SetAside {
		sum += n.Messages
	}
	if c.Messages != 0 || sum != 60 || c.Postfix != "stopped" {
		t.Errorf("counts: %+v", c)
	}
	a := k.done["set-aside"].(*Aside)
	if err := a.Count(k.Postfix); err != nil {
		t.Fatal(err)
	}
	sum = 0
	for q, at := range a.Queues {
		if q != spool.Defer {
			sum += at.Messages
		}
	}
	if sum != 60 {
		t.Errorf("set aside %d: %+v", sum, a)
	}
	if !k.Down() {
		t.Error("stopped, and not said to be down")
	}
	k.stopped = nil
	if _, err := k.run("start", "{}"); err == nil {
		t.Error("start of a Postfix that was not stopped: got nil, want an error")
	}
}
