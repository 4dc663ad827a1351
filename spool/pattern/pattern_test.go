package pattern

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/queuefile"
)

// message is a queue file to be made; see file.
type message struct {
	sender     string
	recipients []string // with a record type and a blank in front: R, D, O
	login      string
	client     string // name and address
	text       string
}

// file writes m as cleanup does.
func (m message) file() []byte {
	var b bytes.Buffer
	rec := func(kind byte, s string) {
		b.WriteByte(kind)
		n := len(s)
		for ; n >= 0x80; n >>= 7 {
			b.WriteByte(byte(n) | 0x80)
		}
		b.WriteByte(byte(n))
		b.WriteString(s)
	}
	size := "%15d %15d %15d %15d %15d %15d"
	rec('C', fmt.Sprintf(size, 0, 0, 0, 0, 0, 0))
	rec('T', "1795454283 528131")
	rec('A', "create_time=1795454283")
	if m.login != "" {
		rec('A', "sasl_username="+m.login)
	}
	rec('S', m.sender)
	if name, address, ok := strings.Cut(m.client, " "); ok {
		rec('A', "log_client_name="+name)
		rec('A', "log_client_address="+address)
	}
	for _, r := range m.recipients {
		rec(r[0], r[2:])
	}
	rec('M', "")
	start := b.Len()
	for line := range strings.SplitSeq(strings.TrimSuffix(m.text, "\n"), "\n") {
		for len(line) > 2048 {
			rec('L', line[:2048])
			line = line[2048:]
		}
		rec('N', line)
	}
	n := b.Len() - start
	rec('X', "")
	rec('E', "")
	copy(b.Bytes()[2:], fmt.Sprintf(size, n, start, len(m.recipients), 0, n, 0))
	return b.Bytes()
}

func judge(j *Judge, b []byte) Finding {
	return j.Read(bytes.NewReader(b), Message{Queue: "incoming", Size: int64(len(b)), Moment: time.Unix(1795454283+7200, 0)})
}

// plainJSON is what decoding JSON gives.
func plainJSON(t testing.TB, s string) any {
	t.Helper()
	var v any
	if s == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return v
}

func compile(t testing.TB, spam, ham string) *Rules {
	t.Helper()
	r, err := Compile(plainJSON(t, spam), plainJSON(t, ham))
	if err != nil {
		t.Fatalf("%s: %v", spam, err)
	}
	return r
}

func TestEnvelopeFields(t *testing.T) {
	m := message{
		sender:     "Some.Body@Mail.Example.ORG",
		recipients: []string{"O alias@chavez.mayfirst.org", "R real@inner.test", "D Done@elsewhere.test"},
		login:      "spam-account", client: "mx7.Relay.test 192.0.2.7",
	}
	null := message{recipients: []string{"R user@x.test"}, client: "unknown IPv6:2001:db8::5"}
	for _, c := range []struct {
		field, pattern string
		m, null        bool
	}{
		{"sender", "some.body@mail.example.org", true, false},
		{"sender", "body@mail.example.org", false, false},
		{"sender", "@mail.example.org", true, false},
		{"sender", "@example.org", false, false},
		{"sender", "@.example.org", true, false},
		{"sender", "@.mail.example.org", true, false},
		{"sender", "@.xample.org", false, false},
		{"sender", "some.body@", true, false},
		{"sender", "some@", false, false},
		{"sender", "some*@", true, false},
		{"sender", "*@*.org", true, false},
		{"sender", "*.orgs", false, false},
		{"sender", "@*.example.*", true, false},
		{"sender", "<>", false, true},
		{"sender", "@*", true, false},
		{"sender", "/^Some/", true, false},
		{"sender", "/^some/", false, false},
		{"sender", "/(?i)^some/", true, false},
		{"recipient", "alias@chavez.mayfirst.org", true, false},
		{"recipient", "real@inner.test", true, false},
		{"recipient", "done@elsewhere.test", true, false},
		{"recipient", "user@x.test", false, true},
		{"recipient", "@x.test", false, true},
		{"recipient", "<>", false, false},
		{"sasl_user", "spam-account", true, false},
		{"sasl_user", "SPAM-account", true, false},
		{"sasl_user", "spam", false, false},
		{"sasl_user", "spam-account@", true, false},
		{"sasl_user", "spam*", true, false},
		{"client", "192.0.2.7", true, false},
		{"client", "192.0.2.0/24", true, false},
		{"client", "192.0.3.0/24", false, false},
		{"client", "192.0.2.5-192.0.2.7", true, false},
		{"client", "192.0.2.8-192.0.2.9", false, false},
		{"client", "192.0.2.*", true, false},
		{"client", "2001:db8::/32", false, true},
		{"client", "2001:0DB8:0::5", false, true},
		{"client", "::/0", false, true},
		{"client", "mx7.relay.test", true, false},
		{"client", "@.relay.test", true, false},
		{"client", "@relay.test", false, false},
		{"client", "*.relay.test", true, false},
		{"client", "unknown", false, true},
		{"client", "/^mx[0-9]/", true, false},
	} {
		r, err := Compile(map[string]any{c.field: c.pattern}, nil)
		if err != nil {
			t.Errorf("%s %s: %v", c.field, c.pattern, err)
			continue
		}
		j := r.Judge()
		if got := judge(j, m.file()).Verdict == Spam; got != c.m {
			t.Errorf("%s %s on the full message: %v, want %v", c.field, c.pattern, got, c.m)
		}
		if got := judge(j, null.file()).Verdict == Spam; got != c.null {
			t.Errorf("%s %s on the bounce: %v, want %v", c.field, c.pattern, got, c.null)
		}
	}
}

func TestGroups(t *testing.T) {
	m := message{
		sender: "a@b.test", recipients: []string{"R c@d.test"}, login: "u",
		text: "Subject: Hello\n\none pills\ntwo PILLS\nthree casino\nfour\n",
	}.file()
	for _, c := range []struct {
		spam, ham string
		want      Verdict
		rules     []Hit
		rescued   bool
	}{
		{``, ``, Ham, nil, false},
		{`{"any": [{"sender": "x@y"}, {"sender": "a@b.test"}]}`, ``, Spam, []Hit{{1, 0}}, false},
		{`[{"sender": "a@b.test"}, {"recipient": "c@d.test"}]`, ``, Spam, []Hit{{0, 0}, {1, 0}}, false},
		{`{"all": [{"sender": "a@b.test"}, {"recipient": "x@y"}]}`, ``, Ham, nil, false},
		{`{"all": [{"sender": "a@b.test"}, {"body": "pills"}]}`, ``, Spam, []Hit{{0, 2}}, false},
		{`{"at_least": 2, "of": [{"sender": "x@y"}, {"body": "casino"}, {"sasl_user": "u"}]}`, ``, Spam, []Hit{{0, 1}}, false},
		{`{"at_least": 3, "of": [{"sender": "x@y"}, {"body": "casino"}, {"sasl_user": "u"}]}`, ``, Ham, nil, false},
		{`{"not": {"sender": "x@y"}}`, ``, Spam, []Hit{{0, 0}}, false},
		{`{"not": {"any": [{"sender": "x@y"}, {"body": "casino"}]}}`, ``, Ham, nil, false},
		{`{"body": ["pills", "casino"], "lines": 3}`, ``, Spam, []Hit{{0, 3}}, false},
		{`{"body": ["pills", "casino"], "lines": 4}`, ``, Ham, nil, false},
		{`{"body": "pills"}`, `{"sender": "a@b.test"}`, Ham, []Hit{{0, 2}}, true},
		{`{"sender": "a@b.test"}`, `{"body": "/^three .*o$/"}`, Ham, []Hit{{0, 0}}, true},
		{`{"sender": "x@y"}`, `{"body": "casino"}`, Ham, nil, false},
		{`{"body": "hello"}`, ``, Ham, nil, false}, // the subject is no body
		{`{"any": [{"all": [{"sender": "x@y"}, {"body": "casino"}]}, {"raw": "PILLS"}]}`, ``, Spam, []Hit{{1, 1}}, false},
	} {
		f := judge(compile(t, c.spam, c.ham).Judge(), m)
		if f.Verdict != c.want || !reflect.DeepEqual(append([]Hit(nil), f.Rules...), c.rules) || f.Rescued != c.rescued || (len(f.Ham) > 0) != c.rescued {
			t.Errorf("%s ham %s: %+v; want %s %v %v", c.spam, c.ham, f, c.want, c.rules, c.rescued)
		}
	}
	f := judge(compile(t, `{"body": "pills", "lines": 5}`, ``).Judge(), m)
	if len(f.Rules) != 0 || !reflect.DeepEqual(f.Near, []Hit{{0, 2}}) {
		t.Errorf("near: %+v", f)
	}
}

// full is a message with something for every field.
func full() message {
	return message{
		sender: "Some.Body@Mail.Example.ORG", recipients: []string{"R ana@here.test", "O alias@here.test", "R real@here.test", "D done@far.test", "/ canceled@far.test"},
		login: "spam-account", client: "mx7.relay.test 192.0.2.7",
		text: "Received: from x\n\tby y\nSubject: Cheap\n pills\nX-Empty:\nList-Id: <lists.example.org>\nlist-id: Another one\n\nSubject: Not here\nTwo pills\nlists.example.org\n",
	}
}

func TestHeaderFields(t *testing.T) {
	j := full().file()
	for _, c := range []struct {
		spam string
		want int // matching lines; -1: it does not match
	}{
		{`{"header": "subject: cheap pills"}`, 1},
		{`{"header": "pills"}`, 1},
		{`{"header": "not here"}`, -1},
		{`{"header": "list-id:"}`, 2},
		{`{"header": "list-id:", "lines": 3}`, -1},
		{`{"header": "/^List-Id:/"}`, 1},
		{`{"header": "/(?i)^list-id:/", "lines": 2}`, 2},
		{`{"header": ["received", "cheap"], "lines": 2}`, 2},
		{`{"subject": "cheap pills"}`, 1},
		{`{"subject": "subject"}`, -1},
		{`{"subject": "lists.example.org"}`, -1},
		{`{"subject": "/^Cheap/"}`, 1},
		{`{"subject": "/^cheap/"}`, -1},
		{`{"subject": "/pills$/"}`, 1},
		{`{"subject": "/^Subject/"}`, -1},
		{`{"subject": "/^\\w+ \\w+$/"}`, 1},
		{`{"header.List-Id": "lists.example.org"}`, 1},
		{`{"header.LIST-ID": "/./"}`, 2},
		{`{"header.list-id": ["another", "<lists"], "lines": 2}`, 2},
		{`{"header.List-Id": "list-id"}`, -1},
		{`{"header.List": "id"}`, -1},
		{`{"header.Id": "lists"}`, -1},
		{`{"header.X-Empty": "/./"}`, -1},
		{`{"header": "x-empty:"}`, 1},
		{`{"header.Received": "from x by y"}`, 1},
		{`{"any": "PILLS"}`, 2},
		{`{"any": "lists.example.org"}`, 2},
		{`{"any": ["mail.example.org", "alias", "done@far", "spam-acc", "mx7", "192.0.2", "two pills"], "lines": 7}`, 7},
		{`{"any": "/^192\\.0/"}`, 1},
		{`{"any": "nothing of it"}`, -1},
		{`{"all": [{"subject": "cheap"}, {"body": "pills"}]}`, 2},
		{`{"any": [{"any": "two pills"}]}`, 1},
		{`["a"]`, -2},
	} {
		r, err := Compile(plainJSON(t, c.spam), nil)
		if c.want == -2 {
			if err == nil {
				t.Errorf("%s compiles", c.spam)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.spam, err)
			continue
		}
		got := -1
		if f := judge(r.Judge(), j); len(f.Rules) > 0 {
			got = f.Rules[0].Lines
		}
		if got != c.want {
			t.Errorf("%s: %d lines, want %d", c.spam, got, c.want)
		}
	}
}

// The header is read as Postfix reads it, in whatever pieces it comes.
func TestHeaderText(t *testing.T) {
	long := strings.Repeat("long ", 2000)
	for _, c := range []struct{ name, text, pattern string }{
		{"a line of several records", "X: " + long + "needle\nY: z\n\nbody\n", "/^X: .*needle$/"},
		{"folded many times", "X: a\n b\n\tc\n   d\nY: z\n\nbody\n", "/^X: a b c d$/"},
		{"no blank behind the colon", "X:needle\n\nbody\n", "x: needle"},
		{"a blank before the colon", "X : needle\n\nbody\n", "x: needle"},
		{"carriage returns", "X: needle\r\nY: z\r\n\r\nbody\n", "/^X: needle$/"},
		{"a mailbox's separator", "From a@b Mon\nX: needle\n\nbody\n", "x: needle"},
		{"no body", "X: needle", "x: needle"},
		{"encoded", "X: =?utf-8?q?gr=C3=BCne?=\n =?utf-8?b?IFdpZXNl?=\n\nbody\n", "/^X: gr\u00fcne Wiese$/"},
		{"no body, and a folded end", "X: need\n le\n", "x: need le"},
	} {
		if f := judge(compile(t, `[{"header": `+fmt.Sprintf("%q", c.pattern)+`}]`, ``).Judge(), message{text: c.text}.file()); f.Verdict != Spam {
			t.Errorf("%s: %s is not found", c.name, c.pattern)
		}
	}
	if f := judge(compile(t, `[{"header": "body"}, {"header.X": "needle"}]`, ``).Judge(), message{text: "X: a\nno field\nX: needle\n\nbody\n"}.file()); f.Verdict != Ham {
		t.Errorf("behind the end of the header: %+v", f.Rules)
	}
}

func TestComparisons(t *testing.T) {
	b := full().file()
	j := func(spam string) bool {
		r, err := Compile(plainJSON(t, spam), nil)
		if err != nil {
			t.Fatalf("%s: %v", spam, err)
		}
		return r.Judge().Read(bytes.NewReader(b), Message{
			Queue: "deferred", Size: int64(len(b)), Moment: time.Unix(1795454283, 600e6).Add(2 * time.Hour),
			Sources: func(e *queuefile.Envelope) int64 { return int64(len(e.Login)) + 10 },
		}).Verdict == Spam
	}
	var r queuefile.Reader
	r.Reset(bytes.NewReader(b), int64(len(b)), false)
	e, err := r.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	size := fmt.Sprint(e.Size)
	for spam, want := range map[string]bool{
		`{"queue": "deferred"}`: true, `{"queue": "Deferred"}`: true, `{"queue": "incoming"}`: false, `{"queue": ["incoming", "deferred"]}`: true,
		`{"size": ` + size + `}`: true, `{"size": "= ` + size + `"}`: true, `{"size": ">` + size + `"}`: false, `{"size": ">=` + size + `"}`: true,
		`{"size": "<=` + size + `"}`: true, `{"size": "<` + size + `"}`: false, `{"size": "<1k"}`: true, `{"size": ">1K"}`: false, `{"size": "< 1 M"}`: true,
		`{"all": [{"size": ">100"}, {"size": "<1g"}]}`: true, `{"size": [">1M", "<1k"]}`: true,
		`{"age": "<2h"}`: false, `{"age": "2h"}`: true, `{"age": "=120m"}`: true, `{"age": ">=7200s"}`: true, `{"age": ">1d"}`: false, `{"age": "<1w"}`: true,
		`{"recipients": 3}`: true, `{"recipients": ">3"}`: false, `{"recipients_left": 2}`: true, `{"recipients_left": "<2"}`: false,
		`{"source_count": ">21"}`: true, `{"source_count": ">22"}`: false,
		`{"recipient_left": "done@far.test"}`: false, `{"recipient_left": "alias@here.test"}`: true, `{"recipient_left": "@here.test"}`: true,
		`{"recipient_left": "canceled@far.test"}`: false, `{"recipient": "done@far.test"}`: true, `{"not": {"recipient_left": "@far.test"}}`: true,
	} {
		if got := j(spam); got != want {
			t.Errorf("%s: %v, want %v", spam, got, want)
		}
	}
	// What is not known matches nothing.
	for _, spam := range []string{`{"source_count": "<1000"}`, `{"queue": "deferred"}`} {
		if f := compile(t, spam, ``).Judge().Read(bytes.NewReader(b), Message{Size: int64(len(b))}); f.Verdict != Ham {
			t.Errorf("%s of an unknown message: %s", spam, f.Verdict)
		}
	}
	for spam, want := range map[string]bool{`{"any": [{"all": [{"not": {"source_count": 5}}]}]}`: true, `{"recipients": 5}`: false} {
		if got := compile(t, spam, ``).NeedsSources(); got != want {
			t.Errorf("%s needs sources: %v", spam, got)
		}
	}
	if !compile(t, ``, `{"source_count": 5}`).NeedsSources() {
		t.Error("a ham rule on source_count needs no sources")
	}
	// From a clock that was wrong: nothing is younger than now.
	f := compile(t, `{"age": "0s"}`, ``).Judge().Read(bytes.NewReader(b), Message{Size: int64(len(b)), Moment: time.Unix(1, 0)})
	if f.Verdict != Spam {
		t.Error("mail of the future is not 0s old")
	}
}

// The redirect gets what is left, and nothing when nothing is.
func TestRecipientLeftRedirect(t *testing.T) {
	for _, c := range []struct {
		e    queuefile.Envelope
		want bool
	}{
		{queuefile.Envelope{Redirect: "r@x.test", Recipients: []queuefile.Recipient{{Address: "a@b", State: queuefile.ToDo}}}, true},
		{queuefile.Envelope{Redirect: "r@x.test", Recipients: []queuefile.Recipient{{Address: "a@b", State: queuefile.Done}}}, false},
	} {
		l := leaf{field: RecipientLeft}
		l.addWhole("r@x.test")
		var scratch []byte
		if got := l.matchEnvelope(&c.e, &scratch); got != c.want {
			t.Errorf("%+v: %v", c.e, got)
		}
	}
}

// A long list of patterns is a short name.
func TestLongNames(t *testing.T) {
	var many []any
	for i := range 5000 {
		many = append(many, map[string]any{"recipient": fmt.Sprintf("user%d@example.org", i)})
	}
	var list []any
	for i := range 5000 {
		list = append(list, fmt.Sprintf("u%d@b", i))
	}
	r, err := Compile([]any{map[string]any{"any": many}, map[string]any{"any": many}, map[string]any{"recipient": list}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	names := r.Spam()
	if len(names[0]) > maxName+10 || names[1] != names[0]+" (2)" || names[2] != "recipient:[u0@b, u1@b, u2@b, u3@b, u4@b, u5@b, u6@b, u7@b and 4992 more]" {
		t.Errorf("%q", names)
	}
}

// Explain says of each part whether and where it matched, also of those that
// decided nothing, and agrees with Read.
func TestExplain(t *testing.T) {
	b := full().file()
	m := Message{Queue: "hold", Size: int64(len(b)), Moment: time.Unix(1795454283+61, 0)}
	j := compile(t, `{"any": [{"all": [{"sender": "@mail.example.org"}, {"subject": "cheap"}, {"body": ["two", "pills", "lists."], "lines": 2}]},
		{"body": "pills", "lines": 5}, {"any": "here.test"}, {"raw": "spam-account"}, {"sasl_user": "nobody"}, {"age": ">1h"}, {"recipient_left": "@far.test"}]}`,
		`{"header.List-Id": "nothing"}`).Judge()
	e := j.Explain(bytes.NewReader(b), m)
	if e.Verdict != Spam || e.Envelope == nil || e.Partial || len(e.Rules) != 8 {
		t.Fatalf("%+v", e)
	}
	want := []ExplainedRule{
		{"all(sender:@mail.example.org, subject:cheap, body:[two, pills, lists.] lines:2)", false, true, []ExplainedLeaf{
			{Part: "sender:@mail.example.org", Matched: true, Values: []string{"Some.Body@Mail.Example.ORG"}},
			{Part: "subject:cheap", Matched: true, Lines: 1, Wanted: 1, Places: []Place{{"header", 2, "Subject: Cheap pills"}}},
			{Part: "body:[two, pills, lists.] lines:2", Matched: true, Lines: 2, Wanted: 2, Places: []Place{{"body", 2, "Two pills"}, {"body", 3, "lists.example.org"}}},
		}},
		{"body:pills lines:5", false, false, []ExplainedLeaf{{Part: "body:pills lines:5", Lines: 1, Wanted: 5, Places: []Place{{"body", 2, "Two pills"}}}}},
		{"any:here.test", false, true, []ExplainedLeaf{{Part: "any:here.test", Matched: true, Lines: 3, Wanted: 1, Places: []Place{{"envelope", 2, "ana@here.test"}, {"envelope", 3, "real@here.test"}, {"envelope", 4, "alias@here.test"}}}}},
		{"raw:spam-account", false, true, []ExplainedLeaf{{Part: "raw:spam-account", Matched: true, Lines: 1, Wanted: 1, Places: []Place{{"raw", 4, "sasl_username=spam-accountS"}}}}},
		{"sasl_user:nobody", false, false, []ExplainedLeaf{{Part: "sasl_user:nobody", Values: []string{"spam-account"}}}},
		{"age:>1h", false, false, []ExplainedLeaf{{Part: "age:>1h", Values: []string{"1m0s"}}}},
		{"recipient_left:@far.test", false, false, []ExplainedLeaf{{Part: "recipient_left:@far.test", Values: []string{"ana@here.test", "real@here.test, for alias@here.test"}}}},
		{"header.List-Id:nothing", true, false, []ExplainedLeaf{{Part: "header.List-Id:nothing", Wanted: 1}}},
	}
	if d := cmp.Diff(want, e.Rules); d != "" {
		t.Errorf("(-want +got): %s", d)
	}
	if f := j.Read(bytes.NewReader(b), m); len(f.Rules) != 3 {
		t.Errorf("Read after it: %+v", f)
	}
	if e := j.Explain(bytes.NewReader(b[:50]), Message{Size: 50}); e.Verdict != Unreadable || e.Why == nil {
		t.Errorf("a cut file: %+v", e)
	}
	// A match far in a long line is shown.
	long := message{text: "a: b\n\n" + strings.Repeat("x", 5000) + "needle" + strings.Repeat("y", 5000) + "\n"}.file()
	e = compile(t, `{"body": "needle"}`, ``).Judge().Explain(bytes.NewReader(long), Message{Size: int64(len(long))})
	if p := e.Rules[0].Parts[0].Places; len(p) != 1 || !strings.Contains(p[0].Line, "needle") || len(p[0].Line) > maxShownLine {
		t.Errorf("%+v", e.Rules)
	}
	huge := message{text: "a: b\n\n" + strings.Repeat("needle in hay\n", maxExplained/10)}.file()
	e = compile(t, `[{"body": "needle"}, {"raw": "needle"}]`, ``).Judge().Explain(bytes.NewReader(huge), Message{Size: int64(len(huge))})
	if !e.Partial || e.Verdict != Spam || len(e.Rules[0].Parts[0].Places) != maxPlaces {
		t.Errorf("%d places, partial %t", len(e.Rules[0].Parts[0].Places), e.Partial)
	}
}

func TestSample(t *testing.T) {
	b := full().file()
	j := compile(t, ``, ``).Judge()
	judge(j, b)
	subject, text, err := j.Sample(2)
	if want := []string{"Subject: Not here", "Two pills"}; err != nil || subject != "Cheap pills" || !reflect.DeepEqual(text, want) {
		t.Errorf("%q %q %v", subject, text, err)
	}
	if _, text, _ := j.Sample(0); text != nil {
		t.Errorf("no lines wanted, got %q", text)
	}
}

// TestStops: a rule that the header decides reads no body, and near misses count
// the lines of the text that was read.
func TestStops(t *testing.T) {
	m := message{sender: "a@b.test", text: "Subject: cheap\nX: cheap\n\n" + strings.Repeat(strings.Repeat("body ", 20)+"\n", 20_000)}.file()
	for spam, want := range map[string]struct {
		most int
		near []Hit
	}{
		`{"subject": "cheap"}`:                                                   {20 << 10, nil},
		`{"subject": "expensive"}`:                                               {20 << 10, nil},
		`{"header": "cheap", "lines": 3}`:                                        {20 << 10, []Hit{{0, 2}}},
		`{"all": [{"subject": "expensive"}, {"body": "body"}]}`:                  {20 << 10, nil},
		`{"all": [{"subject": "expensive"}, {"raw": "body"}]}`:                   {20 << 10, nil},
		`{"all": [{"size": "<10"}, {"any": "body"}]}`:                            {20 << 10, nil},
		`{"not": {"header": "cheap"}}`:                                           {20 << 10, nil},
		`{"any": [{"all": [{"header": "cheap"}, {"subject": "y"}]}]}`:            {20 << 10, []Hit{{0, 2}}},
		`{"all": [{"subject": "cheap"}, {"body": "nothing of it"}]}`:             {len(m) + 4096, []Hit{{0, 1}}},
		`{"all": [{"body": "nothing of it"}, {"raw": "body"}, {"sender": "@"}]}`: {len(m) + 4096, nil},
	} {
		src := &reads{Reader: bytes.NewReader(m)}
		r, err := Compile(plainJSON(t, strings.ReplaceAll(spam, `"@"`, `"a@"`)), nil)
		if err != nil {
			t.Fatal(err)
		}
		f := r.Judge().Read(src, Message{Size: int64(len(m))})
		if src.bytes > want.most {
			t.Errorf("%s: %d bytes read, at most %d", spam, src.bytes, want.most)
		}
		if !reflect.DeepEqual(append([]Hit(nil), f.Near...), want.near) {
			t.Errorf("%s: near %v, want %v", spam, f.Near, want.near)
		}
	}
}

// reads counts what is read of a file.
type reads struct {
	*bytes.Reader
	bytes int
}

func (r *reads) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.Reader.ReadAt(b, off)
	r.bytes += n
	return n, err
}

// TestQuick: rules on the envelope, and rules that it decides, never read the body.
func TestQuick(t *testing.T) {
	m := message{sender: "a@b.test", text: "x\n\n" + strings.Repeat(strings.Repeat("body ", 20)+"\n", 20_000)}.file()
	for spam, whole := range map[string]bool{
		`{"sender": "a@b.test"}`:                                           false,
		`{"all": [{"sender": "x@y.test"}, {"body": "nothing"}]}`:           false,
		`{"any": [{"all": [{"recipient": "x@y"}, {"raw": "nothing"}]}]}`:   false,
		`{"all": [{"sender": "a@b.test"}, {"not": {"body": "no such "}}]}`: true,
		`{"raw": "body"}`: true,
	} {
		src := &reads{Reader: bytes.NewReader(m)}
		compile(t, spam, `{"body": "body"}`).Judge().Read(src, Message{Size: int64(len(m))})
		if got := src.bytes > len(m)/2; got != whole && !strings.HasPrefix(spam, `{"sender"`) {
			t.Errorf("%s: %d of %d bytes read", spam, src.bytes, len(m))
		}
	}
	src := &reads{Reader: bytes.NewReader(m)}
	compile(t, `{"sender": "a@b.test"}`, ``).Judge().Read(src, Message{Size: int64(len(m))})
	if src.bytes > 20<<10 {
		t.Errorf("a rule on the sender read %d of %d bytes", src.bytes, len(m))
	}
}

func TestUnreadable(t *testing.T) {
	j := compile(t, `{"any": [{"body": "x"}, {"sender": "<>"}]}`, ``).Judge()
	b := message{text: "a\n\nx\n"}.file()
	for _, c := range [][]byte{nil, make([]byte, 100), b[:len(b)-2], bytes.Replace(b, []byte("N\x01x"), []byte("Q\x01x"), 1)} {
		if f := judge(j, c); f.Verdict != Unreadable || f.Why == nil || f.Envelope != nil || len(f.Rules) > 0 {
			t.Errorf("%q: %+v", c, f)
		}
	}
	if f := judge(j, b); f.Verdict != Spam || len(f.Rules) != 2 {
		t.Errorf("the next one: %+v", f)
	}
}

func TestNames(t *testing.T) {
	r := compile(t, `{"any": [{"all": [{"sender": "<>"}, {"recipient": "x@y"}]}, {"raw": ["a a", "b"], "lines": 2},
		{"body": "/\\d{16}/"}, {"not": {"sender": "q@r"}}, {"at_least": 1, "of": [{"client": "h"}]}, {"client": "h"}, {"client": "h"}]}`,
		`{"all": [{"sender": "a@b"}, {"sender": "@b"}]}`)
	want := []string{
		"all(sender:<>, recipient:x@y)", "raw:[a a, b] lines:2", `body:/\d{16}/`, "not(sender:q@r)",
		"at_least 1 of(client:h)", "client:h", "client:h (2)",
	}
	if got := r.Spam(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := r.Ham(); !reflect.DeepEqual(got, []string{"all(sender:a@b, sender:@b)"}) {
		t.Errorf("ham %q", got)
	}
	if got := r.Slow(); !reflect.DeepEqual(got, []string{`body:/\d{16}/`}) {
		t.Errorf("slow %q", got)
	}
	for _, empty := range []any{nil, map[string]any{}, map[any]any{}, []any{}, ""} {
		if r, err := Compile(empty, empty); err != nil || !r.Empty() || len(r.Spam()) != 0 {
			t.Errorf("%#v: %v", empty, err)
		}
	}
}

func TestErrors(t *testing.T) {
	for spam, want := range map[string]string{
		`{"sendr": "x"}`: `spam.sendr: unknown field "sendr"; fields are raw, sender, recipient, recipient_left, sasl_user, client, header, header.NAME, subject, body, any, queue, size, age, recipients, recipients_left, source_count; groups are any, all, at_least, not (did you mean sender?)`,
		`{"any": [{"sender": "<>"}, {"from": "x"}]}`: `spam.any[1].from: unknown field "from"`,
		`{"login": "x"}`:                         `(did you mean sasl_user?)`,
		`{"sender": "a", "body": "b"}`:           `spam: body and sender in one rule; write all: [{body: ...}, {sender: ...}]`,
		`{"sender": ""}`:                         `the null sender is "<>"`,
		`{"sender": null}`:                       `spam.sender: no pattern; quote it, such as sender: "<>"`,
		`{"sender": 5551234567}`:                 `quote it`,
		`{"sender": true}`:                       `true was read as no text; quote it: sender: "true"`,
		`{"sender": {"a": "b"}}`:                 `quoted`,
		`{"sender": ["a@b", ""]}`:                `spam.sender[1]: an empty pattern`,
		`{"sender": []}`:                         `a list without patterns`,
		`{"sender": "*"}`:                        `matches the empty string`,
		`{"sender": "/x*/"}`:                     `matches the empty string`,
		`{"sender": "/^$/"}`:                     `the null sender is "<>"`,
		`{"body": "//"}`:                         `matches the empty string`,
		`{"body": "/a(/"}`:                       `missing closing )`,
		`{"body": "/a\\nb/"}`:                    `reaches over a line break`,
		`{"body": "a\nb"}`:                       `line by line`,
		`{"raw": "caf\u00e9"}`:                   `use body`,
		`{"sasl_user": "<>"}`:                    `sender and recipient only`,
		`{"client": "300.0.0.0/8"}`:              `is no address range`,
		`{"client": "user@"}`:                    `no local part`,
		`{"sender": "@"}`:                        `has no domain`,
		`{"sender": "a@b", "lines": 2}`:          `spam.lines: lines goes with raw, header, header.NAME, subject, body, any only`,
		`{"body": "a", "lines": 0}`:              `spam.lines: 0 is no number from 1 up`,
		`{"body": "a", "lines": 1.5}`:            `1.5 is no number`,
		`{"body": "a", "lines": "2"}`:            `2 is no number`,
		`{"lines": 2}`:                           `a rule without a field`,
		`{"any": ["a", {"body": "b"}]}`:          `spam.any[1]: a pattern must stand here`,
		`{"any": [{"body": "b"}, "a"]}`:          `spam.any[1]: "a" is no rule`,
		`{"any": 7}`:                             `7 was read as no text; quote it: any: "7"`,
		`{"any": [{"body": "b"}], "lines": 2}`:   `spam.lines: lines goes with`,
		`{"header.": "a"}`:                       `"header." names no header; one is like header.List-Id`,
		`{"header.a b": "a"}`:                    `names no header`,
		`{"headers.List-Id": "a"}`:               `(did you mean header.List-Id?)`,
		`{"Subject": "a"}`:                       `(did you mean subject?)`,
		`{"header.X": "/a*/"}`:                   `matches the empty string`,
		`{"recipient_left": "*"}`:                `matches the empty string`,
		`{"recipent_left": "*"}`:                 `(did you mean recipient_left?)`,
		`{"queue": "defered"}`:                   `no queue "defered"; queues are incoming, active, deferred, hold, maildrop (did you mean deferred?)`,
		`{"queue": "corrupt"}`:                   `no queue "corrupt"`,
		`{"size": "100kb"}`:                      `spam.size: "100kb" is no comparison of size: that is >, >=, <, <=, = or nothing, and bytes, or with k, M or G, quoted: size: ">100k"`,
		`{"size": null}`:                         `no pattern; quote it, such as size: ">100k"`,
		`{"size": true}`:                         `true was read as no text; quote it: size: "true"`,
		`{"size": -1}`:                           `"-1" is no comparison`,
		`{"size": 1.5}`:                          `1.5 was read as no text`,
		`{"size": ">9000000000G"}`:               `is no comparison`,
		`{"size": "<0"}`:                         `never matches`,
		`{"size": ">=0"}`:                        `matches every message`,
		`{"size": "=>5"}`:                        `is no comparison`,
		`{"size": ">"}`:                          `is no comparison`,
		`{"age": "<2"}`:                          `"<2" is no comparison of age: that is >, >=, <, <=, = or nothing, and a number with s, m, h, d or w, quoted: age: "<2d"`,
		`{"age": 5}`:                             `is no comparison of age`,
		`{"recipients": ">1k"}`:                  `is no comparison of recipients`,
		`{"source_count": ">20", "lines": 2}`:    `lines goes with`,
		`{"at_least": 2}`:                        `needs of`,
		`{"at_least": 2, "of": [{"body": "a"}]}`: `at least 2 of 1`,
		`{"any": [], "of": []}`:                  `of goes with at_least only`,
		`{"any": []}`:                            `a group without rules`,
		`{"all": "x"}`:                           `a list of rules must stand here`,
		`"body:a"`:                               `"body:a" is no rule`,
		`["a"]`:                                  `spam[0]: "a" is no rule`,
		`7`:                                      `7 is no rule`,
		`{"not": 1}`:                             `spam.not: a rule must stand here`,
		strings.Repeat(`{"not":`, 60) + `{"body":"a"}` + strings.Repeat(`}`, 60): `more than 50 groups`,
	} {
		_, err := Compile(plainJSON(t, spam), nil)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", spam, err, want)
		}
	}
	_, err := Compile(nil, plainJSON(t, `{"any": [{"bdy": "x"}]}`))
	var e *Error
	if !errors.As(err, &e) || !reflect.DeepEqual(e.Path, []any{"ham", "any", 0, "bdy"}) || e.Near != "body" {
		t.Errorf("%+v", e)
	}
}

func TestParseFlag(t *testing.T) {
	v, err := ParseFlag("body:a,b{2,3}: c")
	if want := map[string]any{"body": "a,b{2,3}: c"}; err != nil || !reflect.DeepEqual(v, want) {
		t.Errorf("%v, %v", v, err)
	}
	for m, want := range map[string]string{
		"foo": "is no FIELD:PATTERN", "all:x": "unknown field", "lines:2": "unknown field", "sender:": "empty pattern",
		"sendr:x": "did you mean sender", "body:/(/": "body: /(/",
	} {
		if _, err := ParseFlag(m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", m, err, want)
		}
	}
}

// TestRawAsGrep compares raw with GNU strings and grep on random files.
func TestRawAsGrep(t *testing.T) {
	needs.Program(t, "strings")
	needs.Program(t, "grep")
	rng := rand.New(rand.NewSource(2))
	const letters = "abc.\tN*@ "
	random := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(letters[rng.Intn(len(letters))])
		}
		return b.String()
	}
	dir := t.TempDir()
	for i := range 150 {
		var text strings.Builder
		size := rng.Intn(2000)
		if i%10 == 0 {
			size = 200_000 // several windows
		}
		for text.Len() < size {
			text.WriteString(random(rng.Intn(12)))
			text.WriteByte("\n\x00\x7f\xe9\n\r"[rng.Intn(6)])
			if rng.Intn(50) == 0 {
				text.WriteString(random(3000))
			}
		}
		b := message{sender: "a@b.test", text: strings.ReplaceAll(text.String(), "\n\n", "\n")}.file()
		name := filepath.Join(dir, "file")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		pats := []string{random(1 + rng.Intn(5)), random(3), "create_time"}
		flag := "-F"
		if i%3 == 0 {
			flag, pats = "-E", []string{`a[bc]+\.`, `^[^a]+N`, `(ab|ca)\*$`, "@b"}
		}
		args := []string{"-c", flag}
		var plain []any
		for _, p := range pats {
			args = append(args, "-e", p)
			if flag == "-E" {
				p = "/" + p + "/"
			}
			plain = append(plain, p)
		}
		sh := append([]string{"-c", `f=$1; shift; strings "$f" | LC_ALL=C grep "$@"; true`, "sh", name}, args...)
		out, err := exec.Command("sh", sh...).Output()
		if err != nil {
			t.Fatal(err)
		}
		want := strings.TrimSpace(string(out))
		r, err := Compile(map[string]any{"raw": plain}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		if f := judge(r.Judge(), b); len(f.Rules) > 0 {
			got = f.Rules[0].Lines
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%q: %d lines, grep %s", pats, got, want)
		}
	}
}

// TestLongRun: a run longer than any buffer is one line still.
func TestLongRun(t *testing.T) {
	b := message{sender: "a@b.test", text: "x\n"}.file()
	b = append(b, strings.Repeat("needle and hay ", 400_000)...) // behind the end
	f := judge(compile(t, `[{"raw": "needle"}, {"raw": "hay needle"}, {"raw": "no such"}]`, ``).Judge(), b)
	if want := []Hit{{0, 1}, {1, 1}}; !reflect.DeepEqual(append([]Hit(nil), f.Rules...), want) {
		t.Errorf("got %v, want %v", f.Rules, want)
	}
}

// text is what a body rule sees of a message.
func text(m string) (string, string) {
	var out lines
	out.reset()
	var d mimeText
	d.reset(nil, &out, 0)
	out.full = 1 << 40
	for line := range strings.SplitAfterSeq(m, "\n") {
		if line != "" {
			d.piece([]byte(strings.TrimSuffix(line, "\n")), strings.HasSuffix(line, "\n"))
		}
	}
	d.end()
	out.breakLines()
	return string(out.text), d.capped
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestMIME(t *testing.T) {
	multi := func(params, body string) string {
		return "Subject: s\nContent-Type: multipart/mixed" + params + "\n\n" + body
	}
	part := "Content-Type: text/html\nContent-Transfer-Encoding: base64\n\n" + b64("<a>http://hidden.test/media.php</a>") + "\n"
	hidden := "http://hidden.test/media.php"
	for _, c := range []struct{ name, m, want, not string }{
		{"plain", "Subject: s\n\nhello\n", "hello\n", "Subject"},
		{"no header", "hello world\nmore\n", "hello world\nmore\n", ""},
		{"base64", "content-type: TEXT/plain\nContent-Transfer-Encoding: BASE64\n\n" + b64("one two") + "\n", "one two", ""},
		{"base64 cut anywhere", "Content-Transfer-Encoding: base64\n\n" + b64(hidden)[:7] + "\n" + b64(hidden)[7:20] + " !\n" + b64(hidden)[20:] + "\n", hidden, ""},
		{"base64 without padding", "Content-Transfer-Encoding: base64\n\n" + strings.TrimRight(b64("12345"), "=") + "\n", "12345", ""},
		{"base64 after padding", "Content-Transfer-Encoding: base64\n\n" + b64("1234") + "\n" + b64("5678") + "\n", "12345678", ""},
		{"base64 without empty line", "Content-Transfer-Encoding: base64\n" + b64(hidden) + "\n", hidden, ""},
		{"folded encoding", "Content-Transfer-Encoding:\n base64\n\n" + b64(hidden) + "\n", hidden, ""},
		{"quoted-printable", "Content-Transfer-Encoding: Quoted-Printable\n\nhttp://hid=\nden.test=2Fmedia=2ephp =  \nx=ZZ=\n", "http://hidden.test/media.php x=ZZ", ""},
		{"bare CR", "From x\rSubject: s\rContent-Transfer-Encoding: base64\r\r" + b64(hidden) + "\r", hidden, "Subject"},
		{"CRLF outside", "Subject: s\r\nContent-Transfer-Encoding: base64\r\n\r\n" + b64(hidden) + "\r\n", hidden, "Subject"},
		{"CRLF inside", "Content-Transfer-Encoding: base64\n\n" + b64("one\r\ntwo\r\n") + "\n", "one\n\ntwo\n", "\r"},
		{"multipart", multi(`; boundary="b b"`, "pre\n--b b\n"+part+"--b b--\nafter\n"), hidden, ""},
		{"unquoted boundary", multi("; charset=x; boundary=b_b; x=y", "--b_b\n"+part+"--b_b--\n"), hidden, ""},
		{"folded boundary", multi(";\n\tBoundary = \"b\"", "--b  \n"+part+"--b--\n"), hidden, ""},
		{"no closing boundary", multi("; boundary=b", "--b\n\nfirst\n--b\n"+part), hidden, ""},
		{"inner not closed", multi("; boundary=b", "--b\nContent-Type: multipart/alternative; boundary=bb\n\n--bb\n\ninner\n--b\n"+part+"--b--\n"), hidden, ""},
		{"part behind the end", multi("; boundary=b", "--b\n\nfirst\n--b--\n--b\n"+part), hidden, ""},
		{"no boundary parameter", multi("", "--xyz\n"+part+"--xyz--\n"), hidden, ""},
		{"wrong boundary", multi("; boundary=b", "--xyz\n"+part+"--xyz--\n"), hidden, ""},
		{"empty boundary", multi(`; boundary=""`, "--\n\ntext\n"), "text\n", ""},
		{"bad header line in a part", multi("; boundary=b", "--b\nthis is no header\n"+part+"--b--\n"), hidden, ""},
		{"bad header line on top", "Content-Type: multipart/mixed; boundary=b\nno header\n\n--b\n" + part, hidden, ""},
		{"attachment skipped", multi("; boundary=b", "--b\nContent-Type: image/png\n\nPNGDATA\n--b\n\ntext\n--b--\n"), "text\n", "PNGDATA"},
		{"attached message", multi("; boundary=b", "--b\nContent-Type: message/rfc822\n\nSubject: inner\n"+part+"--b--\n"), hidden, ""},
		{"its subject", multi("; boundary=b", "--b\nContent-Type: message/rfc822\n\nSubject: inner\n\nx\n--b--\n"), "Subject: inner\n", ""},
		{"attached message encoded", multi("; boundary=b", "--b\nContent-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"+
			b64("Subject: inner\nContent-Type: multipart/mixed; boundary=c\n\n--c\n"+part+"--c--\n")+"\n--b--\n"), hidden, ""},
		{"digest", "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: inner\n" + part + "--b--\n", hidden, ""},
		{"delivery-status", multi("; boundary=b", "--b\nContent-Type: message/delivery-status\n\nFinal-Recipient: x\n--b--\n"), "Final-Recipient: x\n", ""},
		{"headers of a bounce", multi("; boundary=b", "--b\nContent-Type: text/rfc822-headers\n\nSubject: pills\n--b--\n"), "Subject: pills\n", ""},
		{"unknown type", "Content-Type: nonsense\n\nhello\n", "hello\n", ""},
		{"long line", "a: b\n\n" + strings.Repeat("0123456789", 20_000) + "\n", strings.Repeat("0123456789", 20_000) + "\n", ""},
		{"long quoted line", "Content-Transfer-Encoding: quoted-printable\n\n" + strings.Repeat("=41b", 30_000) + "\n", strings.Repeat("Ab", 30_000) + "\n", ""},
	} {
		got, capped := text(c.m)
		if !strings.Contains(got, c.want) || c.not != "" && strings.Contains(got, c.not) || capped != "" {
			t.Errorf("%s: %.300q %s; want %.300q, not %q", c.name, got, capped, c.want, c.not)
		}
	}
}

func TestCaps(t *testing.T) {
	var deep, many strings.Builder
	for i := range maxDepth + 5 {
		fmt.Fprintf(&deep, "Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	deep.WriteString("\ndeep text\n")
	many.WriteString("Content-Type: multipart/mixed; boundary=b\n\n")
	for i := range maxParts + 5 {
		fmt.Fprintf(&many, "--b\n\npart %d\n", i)
	}
	wrapped := "Subject: x\n\ninnermost\n"
	for range maxDepth / 3 {
		wrapped = "Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n" + b64(wrapped) + "\n"
	}
	for _, c := range []struct{ m, capped, want string }{
		{deep.String(), "depth", "deep text"},
		{many.String(), "parts", fmt.Sprintf("part %d\n", maxParts+4)},
		{wrapped, "", "innermost"},
	} {
		got, capped := text(c.m)
		if capped != c.capped || !strings.Contains(got, c.want) {
			t.Errorf("capped %q, want %q; text %.100q lacks %q", capped, c.capped, got, c.want)
		}
	}
}

func TestBodyFolds(t *testing.T) {
	b := message{text: "a: b\n\nÜBER ДЕНЬГИ İSTANBUL 10\u212a ſale\n"}.file()
	for pat, want := range map[string]bool{
		"über деньги": true, "istanbul": false, "10\u212a": true, "/(?i)10k/": true, "/(?i)ſALE/": true, "/(?i)деньги i?/": true,
		"/ÜBER/": true, "/über/": false, "/(?i)über/": true, "/^.BER/": true, "/\\d+\\x{212a}/": true,
	} {
		r, err := Compile(map[string]any{"body": pat}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := judge(r.Judge(), b).Verdict == Spam; got != want {
			t.Errorf("%s: %v, want %v", pat, got, want)
		}
	}
}

// TestSamples reads real mail: no panic, and no more text than there is mail.
func TestSamples(t *testing.T) {
	dir := os.Getenv("SPOOLSWEEP_MAIL_SAMPLES")
	names, _ := filepath.Glob("testdata/mail/*")
	if len(names) == 0 {
		t.Fatal("no mail in testdata/mail")
	}
	if dir != "" {
		samples, _ := filepath.Glob(filepath.Join(dir, "*", "*.eml"))
		if len(samples) == 0 {
			t.Fatalf("no */*.eml in %s", dir)
		}
		names = append(names, samples...)
	}
	j := compile(t, `[{"body": "the"}, {"body": "/\\d{3}/"}, {"raw": "From"}]`, ``).Judge()
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, capped := text(string(b))
		if len(got) > 3*len(b)+4096 || capped != "" {
			t.Errorf("%s: %d bytes of text of %d, %s", name, len(got), len(b), capped)
		}
		f := judge(j, message{sender: "a@b.test", text: strings.ReplaceAll(string(b), "\r\n", "\n")}.file())
		if f.Verdict == Unreadable {
			t.Errorf("%s: %v", name, f.Why)
		}
	}
}

func seeds(f *testing.F) [][]byte {
	names, _ := filepath.Glob("testdata/mail/*")
	if len(names) == 0 {
		f.Fatal("no seeds in testdata/mail")
	}
	var all [][]byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// FuzzMIME: valid text; not much more of it than mail; the same in whatever pieces
// the mail comes; a text part in front of anything and one behind it are found; and
// of two parts the text is that of each.
func FuzzMIME(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(string(b), 7)
	}
	f.Fuzz(func(t *testing.T, m string, step int) {
		got := decode([]byte(m), wholeLines)
		if len(got.head)+len(got.body) > 6*len(m)+4096 {
			t.Fatalf("%d bytes of text of %d", len(got.head)+len(got.body), len(m))
		}
		if step = max(1, step&0xff); decode([]byte(m), step) != got {
			t.Fatalf("in pieces %q, whole %q", decode([]byte(m), step), got)
		}
		if size := 16 * step; decodeText([]byte(m), size) != got {
			t.Fatalf("fast %q, in pieces %q", decodeText([]byte(m), size), got)
		}
		if len(m) < maxValue && (!utf8.ValidString(got.head) || !utf8.ValidString(got.body)) {
			t.Fatalf("not valid: %q", got)
		}
		const needle, first = "needle in the hay", "the first straw, schön"
		wrapped := "Content-Type: multipart/mixed; boundary=outermost-boundary\n\n--outermost-boundary\n\n" + first + "\n--outermost-boundary\n" + m +
			"\n--outermost-boundary\nContent-Transfer-Encoding: base64\n\n" + b64(needle) + "\n--outermost-boundary--\n"
		if got := decode([]byte(wrapped), wholeLines); got.capped == "" && !strings.Contains(m, "outermost") &&
			(!strings.Contains(got.body, needle) || !strings.Contains(got.body, first)) {
			t.Fatalf("the parts around it are not found: %q", got)
		}
	})
}

// FuzzPattern: what compiles names its rules, never matches an empty message, and
// finds the lines that the standard library finds, or compares as it says.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{
		"sender:<>", "raw:a", `body:/https?:\S+\/media\.php/`, "client:192.0.2.0/24", "body:/(?i)k|x{2,}s/", "body:/(foo|bar)+/", "sender:@.*",
		"header:x: media", "header.X:/^media/", "subject:/(?i)k$/", "any:foo", "any:/^(h|K)/", "queue:hold", "size:>100k", "age:<2d", "recipients:= 7", "source_count:>=3",
	} {
		f.Add(s, "https://x/media.php\nfoo K\u212a S\nBAR")
	}
	f.Fuzz(func(t *testing.T, flag, hay string) {
		plain, err := ParseFlag(flag)
		if err != nil {
			if _, ok := err.(*Error); !ok {
				t.Fatalf("%T", err)
			}
			return
		}
		r, err := Compile(plain, nil)
		if err != nil || len(r.Spam()) != 1 {
			t.Fatalf("ParseFlag takes %q, Compile does not: %v", flag, err)
		}
		l := &r.leaves[0]
		hay = strings.ReplaceAll(hay, "\r", "")
		if !utf8.ValidString(hay) || strings.Contains(hay, "=?") {
			return // it is decoded: other tests look at that
		}
		// Each line of it is a header too, whose value begins and ends with no blank.
		// What is no UTF-8 in it is read as windows-1252.
		var text, header, body strings.Builder
		envelope := []string{"s@x", "r@y"}
		for i, line := range strings.Split(hay, "\n") {
			name := [...]string{"X", "Subject", "Other"}[i%3]
			fmt.Fprintf(&text, "%s: %s\n", name, line)
			header.WriteString(strings.TrimRight(name+": "+strings.TrimLeft(line, " \t"), " \t") + "\n")
			body.WriteString(line + "\n")
		}
		b := message{sender: "s@x", recipients: []string{"R r@y"}, text: text.String() + "\n" + hay + "\n"}.file()
		j := r.Judge()
		m := Message{Queue: "hold", Size: int64(len(b)), Moment: time.Unix(1795454283+100, 0), Sources: func(*queuefile.Envelope) int64 { return 3 }}
		found := j.Read(bytes.NewReader(b), m)
		name, pat, _ := strings.Cut(flag, ":")
		want := 0
		count := func(lines ...string) {
			re, is, _ := expression(pat, nil)
			for _, line := range lines {
				if len(l.head) > 0 {
					if !strings.HasPrefix(foldString(line), string(l.head)) {
						continue
					}
					line = strings.TrimLeft(line[len(l.head):], " \t")
				}
				if is && re.MatchString(line) || !is && strings.Contains(foldString(line), foldString(pat)) {
					want++
				}
			}
		}
		switch {
		case l.field == Body:
			count(strings.Split(body.String(), "\n")...)
		case l.field == Header:
			count(strings.Split(header.String(), "\n")...)
		case l.field == Any:
			count(strings.Split(body.String(), "\n")...)
			count(strings.Split(header.String(), "\n")...)
			count(envelope...)
		case l.field.compared():
			n, ok := m.number(l.field, found.Envelope)
			if !ok || n < 0 {
				t.Fatalf("%s of the message is %d", name, n)
			}
			op := strings.TrimSpace(strings.TrimRight(strings.TrimSpace(pat)[:min(2, len(strings.TrimSpace(pat)))], " 0123456789smhdwkgSMHDWKG"))
			holds := map[string]bool{">": n > l.bounds[0].n, ">=": n >= l.bounds[0].n, "<": n < l.bounds[0].n, "<=": n <= l.bounds[0].n, "=": n == l.bounds[0].n, "": n == l.bounds[0].n}
			if (found.Verdict == Spam) != holds[op] {
				t.Fatalf("%q of %d: %s", pat, n, found.Verdict)
			}
			return
		default:
			return
		}
		got := 0
		if len(found.Rules) > 0 {
			got = found.Rules[0].Lines
		}
		if got != want {
			t.Fatalf("%q in %q: %d lines, want %d", flag, hay, got, want)
		}
		// What is explained is what was counted.
		if e := j.Explain(bytes.NewReader(b), m); !e.Partial && e.Rules[0].Parts[0].Lines != want {
			t.Fatalf("%q in %q: %d lines are explained, want %d", flag, hay, e.Rules[0].Parts[0].Lines, want)
		}
	})
}

// FuzzFold: folding keeps every byte's place, and does nothing the second time.
func FuzzFold(f *testing.F) {
	f.Add("ÄÖ K\u212a ſ İ \xff\xfe ΣΣς")
	f.Fuzz(func(t *testing.T, s string) {
		once := foldString(s)
		if len(once) != len(s) || foldString(once) != once || utf8.ValidString(once) != utf8.ValidString(s) {
			t.Errorf("%q folds to %q and %q", s, once, foldString(once))
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	body := "Subject: hello\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n"
	enc := b64(strings.Repeat("Some ordinary text of a message with a few words.\r\n", 27))
	for ; len(enc) > 76; enc = enc[76:] {
		body += enc[:76] + "\n"
	}
	m := message{sender: "a@members.test", recipients: []string{"R b@elsewhere.test"}, login: "a", client: "host.test 192.0.2.1", text: body + enc + "\n"}.file()
	for _, c := range []struct{ name, spam string }{
		{"envelope", `[{"sender": "<>"}, {"recipient": "x@y.test"}, {"sasl_user": "spam-account"}, {"client": "203.0.113.0/24"}]`},
		{"raw", `[{"raw": ["swiftvalue@yahoo.cn", "media.php"], "lines": 2}]`},
		{"header", `[{"subject": "prize draw"}, {"header.X-Mailer": "BulkBlaster"}, {"header": "/(?i)^x-spam: yes/"}]`},
		{"any", `[{"any": "swiftvalue"}]`},
		{"body", `[{"body": "swiftvalue"}, {"body": "media.php"}, {"body": "/https?:\\S+\\/media\\.php/"}, {"body": "/(?i)wallet\\s+[13]/"}]`},
	} {
		b.Run(c.name, func(b *testing.B) {
			j := compile(b, c.spam, ``).Judge()
			src := bytes.NewReader(m)
			b.ReportAllocs()
			b.SetBytes(int64(len(m)))
			for b.Loop() {
				if f := j.Read(src, Message{Size: int64(len(m))}); f.Verdict != Ham {
					b.Fatal(f)
				}
			}
		})
	}
}

// TestValues: what is folded only where it can match matches as if all were folded.
func TestValues(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	word := func() string {
		b := make([]byte, random.Intn(5))
		for i := range b {
			b[i] = "abAB.@\xc3\x89*"[random.Intn(9)]
		}
		return string(b)
	}
	matched := 0
	for range 200_000 {
		pat, s := word(), word()
		if random.Intn(2) == 0 {
			pat = [...]string{"@", "@.", ""}[random.Intn(3)] + pat + [...]string{"@", ""}[random.Intn(2)]
		}
		s = strings.ReplaceAll(s, "*", "b@")
		l := leaf{field: Sender, label: "sender", lines: 1}
		if l.addValue(pat, nil) != nil {
			continue
		}
		folded, p := foldString(s), foldString(pat)
		at := strings.LastIndex(folded, "@")
		want := false
		switch {
		case strings.HasPrefix(p, "@."):
			want = at >= 0 && globBelow(p[2:], []byte(folded[at+1:]))
		case strings.HasPrefix(p, "@"):
			want = at >= 0 && glob(p[1:], []byte(folded[at+1:]))
		case strings.HasSuffix(p, "@") && s != "":
			name := folded
			if at >= 0 {
				name = folded[:at]
			}
			want = glob(p[:len(p)-1], []byte(name))
		case !strings.HasSuffix(p, "@"):
			want = glob(p, []byte(folded))
		}
		var scratch []byte
		if got := l.matchValue(s, &scratch); got != want {
			t.Fatalf("%q in %q: %t, want %t", pat, s, got, want)
		}
		if want {
			matched++
		}
	}
	if matched < 1000 {
		t.Errorf("only %d matched", matched)
	}
}
