package show

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"golang.org/x/net/html"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

const madeUpRun = "20261128T131500Z-ab12"

var madeUpBegin = time.Date(2026, 11, 28, 13, 15, 0, 0, time.UTC)

// teller tells a host's events at times of its own.
type teller struct {
	s  *Story
	at time.Time
}

func (t *teller) says(after time.Duration, index int, stage, kind, data string) {
	t.at = t.at.Add(after)
	t.s.Take(wire.Event{Host: t.s.Host.Host, Time: t.at, Index: index, Stage: stage, Kind: kind, Data: json.RawMessage(data)})
}

// stage tells of a whole one.
func (t *teller) stage(took time.Duration, index int, name, result string) {
	t.says(10*time.Millisecond, index, name, wire.Begin, "null")
	if result != "" {
		t.says(took, index, name, wire.Result, result)
		took = 0
	}
	t.says(took, index, name, wire.End, fmt.Sprintf(`{"status":"ok","changed":true,"seconds":%.2f}`, took.Seconds()))
}

// story is a host of the made-up run, with its plan.
func story(name string) (*Story, *teller) {
	s := &Story{Host: &Host{Host: name, Instance: DefaultInstance, Status: OK}}
	s.Report = &run.Report{
		Info: &run.Info{Run: madeUpRun, Host: name, Hosts: []string{"chavez", "peltier", "relay01", "relay02"}, Began: madeUpBegin, Who: "ops@laptop",
			Reason: "ticket 4711: ana@chavez.example.org cannot send", Name: "Clear spam backscatter",
			Steps: []stage.Step{{Stage: "count"}, {Stage: "command"}, {Stage: "stop"}, {Stage: "set-aside"}, {Stage: "start"}, {Stage: "suspects"}, {Stage: "classify"}, {Stage: "watch"}, {Stage: "confirm"}, {Stage: "restore"}, {Stage: "count"}}},
		State: &run.State{Run: madeUpRun, Host: name, Began: madeUpBegin, Who: "ops@laptop", Stages: 11},
	}
	return s, &teller{s, madeUpBegin}
}

// flooded tells how a flooded host is helped, up to the question for rules.
func (t *teller) flooded(incoming, active int) {
	t.stage(300*time.Millisecond, 0, "count", fmt.Sprintf(`{"postfix":"running","queues":{"incoming":{"messages":%d},"active":{"messages":%d},"deferred":{"messages":12}},"messages":%d}`, incoming, active, incoming+active+12))
	t.stage(200*time.Millisecond, 1, "command", `{"name":"disable the account","exit":0,"output_tail":"spam-account: done","accounts":[{"value":"spam-account","finding":"hacked"}]}`)
	t.stage(90*time.Millisecond, 2, "stop", `{"seconds":0.09,"was_running":true}`)
	t.stage(20*time.Millisecond, 3, "set-aside", fmt.Sprintf(`{"queues":{"incoming":{"messages":%d,"to":"incoming.spamfull"},"active":{"messages":%d,"to":"active.spamfull"},"defer":{"messages":3,"to":"defer.spamfull"}}}`, incoming, active))
	t.stage(2400*time.Millisecond, 4, "start", `{"downtime_seconds":0.51,"proved_seconds":2,"accepting":true}`)
	t.stage(1200*time.Millisecond, 5, "suspects", fmt.Sprintf(`{"logins":[{"user":"spam-account","count":%d,"failed":3,"addresses":["203.0.113.9"],"addresses_all":41,"first":"2026-11-28T09:00:00Z","last":"2026-11-28T13:14:58Z"}],
		"senders":[{"value":"spam-account@chavez.example.org","count":%d}],"recipients":[{"value":"elsa@far.test","count":4}],"sasl_users":[{"value":"spam-account","count":%[1]d}],"clients":[{"value":"203.0.113.9","count":80}],
		"subjects":[{"value":"Your invoice","count":300}],"backscatter":[{"value":"spam-account@chavez.example.org","count":140,"finding":"hacked","evidence":["614 messages in the queues with login spam-account"]},{"value":"ana@chavez.example.org","count":3,"finding":"hacked","evidence":["7 messages in the queues with login ana"]},{"value":"x@far.test","count":1,"finding":"","evidence":[]}],"messages_read":%[1]d}`, incoming+active, incoming))
	t.says(0, 6, "classify", wire.Begin, "null")
	t.says(time.Second, 6, "classify", wire.Result, fmt.Sprintf(`{"messages":%d,"ham":%[1]d,"rule_order":[],"sources_left":[{"kind":"login","value":"spam-account","count":614}]}`, incoming+active))
	t.says(0, 6, "classify", wire.End, `{"status":"waiting","asks":"rules","seconds":1}`)
	t.says(0, 6, "classify", wire.Ask, `{"number":1,"index":6,"kind":"rules"}`)
	t.says(0, -1, "", wire.End, `{"status":"waiting","asks":"rules","number":1}`)
}

// madeUp is a run over three hosts: one is done, one waits, one does not answer.
func madeUp() *Page {
	chavez, t := story("chavez")
	t.flooded(750, 250)
	t.says(41*time.Minute, 6, "classify", wire.Begin, "null")
	t.says(time.Second, 6, "classify", wire.Result, `{"messages":1000,"spam":614,"ham":384,"unreadable":2,"rule_order":["sasl_user:spam-account","all(sender:<>, recipient:spam-account@)"],
		"by_rule":{"sasl_user:spam-account":{"messages":480,"alone":474},"all(sender:<>, recipient:spam-account@)":{"messages":140,"alone":134}},
		"ham_rule_order":["header.list-id:lists.example.org"],"by_ham_rule":{"header.list-id:lists.example.org":{"messages":7,"alone":7}},
		"sources_left":[{"kind":"body template","value":"","count":130,"samples":["incoming.spamfull/4cRm"]}],"local_senders":["spam-account@chavez.example.org"],"local_senders_hit":1,"rescued":7,"unreadable_samples":["incoming.spamfull/4cRk: cut"]}`)
	t.says(0, 6, "classify", wire.End, `{"status":"ok","seconds":1.0}`)
	t.stage(time.Second, 7, "watch", `{"sent":0,"sources":[],"source":"quiet"}`)
	t.says(0, 8, "confirm", wire.Begin, "null")
	t.says(0, 8, "confirm", wire.End, `{"status":"waiting","asks":"confirm","seconds":0.01}`)
	t.says(0, 8, "confirm", wire.Ask, `{"number":2,"index":8,"kind":"confirm","data":{"ham":384,"spam":614,"list":"verdicts.2","reasons":["2 messages are unreadable, such as incoming.spamfull/4cRk: cut"]}}`)
	chavez.Report.State.History = []run.AnswerRecord{{Number: 2, At: t.at.Add(90 * time.Second), Answer: stage.Answer{Kind: "confirm", By: "mona@desk"}}}
	t.says(90*time.Second, 8, "confirm", wire.Begin, "null")
	t.says(0, 8, "confirm", wire.Result, `{"answer":"yes","by":"mona@desk"}`)
	t.says(0, 8, "confirm", wire.End, `{"status":"ok"}`)
	t.stage(8*time.Second, 9, "restore", `{"restored":383,"collisions":1,"left":616,"unreadable":2}`)
	t.says(0, 9, "restore", wire.Warn, `{"message":"the mail log /var/log/mail.log cannot be followed: what was refused is not known"}`)
	t.stage(200*time.Millisecond, 10, "count", `{"postfix":"running","queues":{"incoming":{"messages":80},"active":{"messages":20},"deferred":{"messages":14}},"set_aside":{"incoming.spamfull":{"messages":616,"run":"20261128T131500Z-ab12"},"hold.spamfull":{"messages":5}},"messages":114}`)
	t.says(0, -1, "", wire.End, `{"status":"ok"}`)
	chavez.Report.State.Phase, chavez.Report.State.Next, chavez.Report.State.Aside = run.Finished, 11, 616
	chavez.Account = &run.Account{Sums: stage.Sums{SetAside: 1000, Restored: 383, Collisions: 1, Left: 616}}

	peltier, t := story("peltier")
	t.at = t.at.Add(4 * time.Second)
	t.flooded(2100, 400)
	peltier.Report.State.Phase, peltier.Report.State.Next, peltier.Report.State.Aside = run.Waiting, 6, 2500
	peltier.Report.State.Ask = &run.AskRecord{Number: 1, Index: 6, Kind: "rules"}
	peltier.Account = &run.Account{Sums: stage.Sums{SetAside: 2500, Left: 2500}}

	relay := &Story{Host: &Host{Host: "relay01", Instance: DefaultInstance, Status: Unreachable,
		Error: &Failure{Message: "relay01: connect to 192.0.2.9:22: no route to host", Remedy: "see whether the host is up"}}}
	return pageOf(chavez, peltier, relay)
}

func pageOf(hosts ...*Story) *Page {
	return &Page{
		Run: madeUpRun, Made: madeUpBegin.Add(55 * time.Minute), By: "ops@laptop", Zone: time.UTC, Build: "test", Hosts: hosts,
		Line: func(hosts []string, words ...string) string {
			line := "spoolsweep " + strings.Join(words, " ")
			if len(hosts) > 0 {
				line += " --limit " + strings.Join(hosts, ",")
			}
			return line
		},
	}
}

func (p *Page) text(t testing.TB) string {
	t.Helper()
	var b bytes.Buffer
	if err := p.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPageGolden(t *testing.T) {
	got := madeUp().text(t)
	const file = "testdata/page.html"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (rewrite with -update, and look at it)", file)
	}
}

// variants are runs of all kinds, each with what its page must say.
func variants() map[string]struct {
	page *Page
	says []string
} {
	type variant = struct {
		page *Page
		says []string
	}
	all := map[string]variant{"made up": {madeUp(), []string{"The run waits on 1 of 3 hosts", "none is missing"}}}
	add := func(name string, p *Page, says ...string) { all[name] = variant{p, says} }

	add("nothing known", pageOf(), "No host has a record of this run", "Nothing was asked.")
	lost := &Story{Host: &Host{Host: "chavez", Status: Unreachable, Error: &Failure{Message: "no route"}}}
	add("unreachable", pageOf(lost), "No host answered", "no route", "<code>spoolsweep report "+madeUpRun+"</code>")

	s, tell := story("chavez")
	tell.stage(time.Second, 0, "count", `{"queues":{},"messages":0}`)
	tell.says(0, -1, "", wire.Warn, `{"message":"no queue holds more than 500 messages (host variable queue_warn): nothing was stopped, nothing set aside; -e queues=[deferred] sets that one aside all the same"}`)
	s.Report.State.Phase = run.Finished
	s.Account = &run.Account{}
	add("not flooded", pageOf(s), "The run has come to its end on chavez", "No queue was full: Postfix was not stopped", "all are empty", "Nothing. No mail is aside")

	s, tell = story("chavez")
	tell.stage(time.Second, 5, "suspects", `{"messages_read":0}`)
	s.Report.State.Phase = run.Finished
	add("no suspects", pageOf(s), "Nobody stands out")

	s, tell = story("chavez")
	s.Instance = "postfix-out"
	tell.says(0, 2, "stop", wire.Begin, "null")
	tell.says(3*time.Second, 2, "stop", wire.End, `{"status":"failed","error":"stop: master 17 does not end","remedy":"end it"}`)
	tell.says(0, -1, "", wire.End, `{"status":"failed","error":"stop: stop: master 17 does not end","remedy":"end it"}`)
	s.Report.State.Phase, s.Report.State.Error, s.Report.State.Remedy, s.Report.State.Next = run.Failed, "stop: master 17 does not end", "end it", 2
	s.Account = &run.Account{}
	add("failed", pageOf(s), "has not come to its end on chavez/postfix-out", "chavez/postfix-out", "master 17 does not end", "Remedy: end it", "Mend what has failed")

	s, tell = story("chavez")
	tell.says(0, 2, "stop", wire.Begin, "null")
	s.Report.State.Phase, s.Report.State.Down, s.Report.State.Next = run.Broken, true, 2
	add("left down", pageOf(s), "Postfix may be stopped on chavez", "Get Postfix started on chavez", `class="bad"`, "not known to run", "broken off")

	s, tell = story("chavez")
	tell.says(0, 9, "restore", wire.Begin, "null")
	s.Report.State.Phase, s.Report.State.Next, s.Report.State.Aside = run.Working, 9, 7
	add("at work", pageOf(s), "at work when this page was made, on its stage restore", "attach "+madeUpRun)

	s, tell = story("chavez")
	tell.flooded(700, 200)
	s.Report.State.Phase, s.Report.State.Next, s.Report.State.Aside = run.Waiting, 8, 900
	s.Report.State.Ask = &run.AskRecord{Number: 1, Kind: "confirm", Data: json.RawMessage(`{"ham":3,"spam":897}`)}
	s.Account = &run.Account{Sums: stage.Sums{SetAside: 900, Left: 899, Missing: 1}}
	s.Error, s.Status = &Failure{Message: "1 message of run is missing"}, Failed
	add("missing", pageOf(s), "3 messages would be sent, 897 stay where they are", "1 is missing", "1 message is missing; the run waits on chavez", "Find out what became of", "--ledger")

	s, _ = story("chavez")
	s.Report.State.Phase = run.Waiting
	s.Report.State.Ask = &run.AskRecord{Number: 1, Kind: "slot"}
	other, _ := story("peltier")
	other.Report.State.Phase, other.Report.State.Next = run.Broken, 900
	many := pageOf(s, other)
	many.Without = []string{"relay01"}
	add("slot and broken off", many, "waits for its turn to stop Postfix", "broken off", "relay01", "Has no record of this run")

	s, tell = story("chavez")
	tell.stage(time.Second, 0, "delete", `{"matched":12,"deleted":11}`)
	s.Report.State.Phase = run.Finished
	s.Account = &run.Account{Sums: stage.Sums{Deleted: 11, Gone: 1}}
	add("delete", pageOf(s), "11 of 12 messages were deleted from the live queues", "Deleted or delivered")

	fleet := pageOf()
	for i := range 200 {
		s, tell := story(fmt.Sprintf("mx%03d", i+1))
		tell.stage(time.Second, 0, "count", `{"queues":{"hold":{"messages":1}},"messages":1}`)
		s.Report.State.Phase = run.Finished
		s.Account = &run.Account{}
		fleet.Hosts = append(fleet.Hosts, s)
	}
	add("200 hosts", fleet, "mx008 and 192 more", "on all 200 hosts", "200 hosts on which nothing was stopped, moved or asked")
	return all
}

// A page is well-formed, strictly, refers to nothing elsewhere, and a reader who
// sees no picture gets all of it.
func TestPageMarkup(t *testing.T) {
	for name, v := range variants() {
		t.Run(name, func(t *testing.T) {
			text := v.page.text(t)
			for _, s := range v.says {
				if !strings.Contains(text, s) {
					_, body, _ := strings.Cut(text, "</style>")
					t.Errorf("does not say %q\n%s", s, body)
				}
			}
			checkMarkup(t, text)
		})
	}
}

func checkMarkup(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict = true
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, text[strings.Index(text, "</style>"):])
		}
	}
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	var refs []string
	level := 0
	for n := range root.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		switch n.Data {
		case "script", "iframe", "object", "embed", "img", "link", "form", "base", "image", "use", "foreignObject":
			t.Errorf("has an element %s", n.Data)
		case "h1", "h2", "h3":
			is := int(n.Data[1] - '0')
			if is > level+1 {
				t.Errorf("heading %s follows level %d", n.Data, level)
			}
			level = is
		case "th":
			if attribute(n, "scope") == "" {
				t.Error("a table header without a scope")
			}
		case "svg":
			if attribute(n, "role") == "img" && (n.FirstChild == nil || n.FirstChild.Data != "title" || n.FirstChild.NextSibling == nil || n.FirstChild.NextSibling.Data != "desc" || n.FirstChild.NextSibling.FirstChild == nil) {
				t.Error("a picture without title and description")
			}
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "id":
				if ids[a.Val] {
					t.Errorf("id %s stands twice", a.Val)
				}
				ids[a.Val] = true
			case a.Key == "aria-labelledby":
				refs = append(refs, strings.Fields(a.Val)...)
			case a.Key == "style", strings.HasPrefix(a.Key, "on"):
				t.Errorf("attribute %s", a.Key)
			case a.Key == "href":
				if !strings.HasPrefix(a.Val, "#") {
					t.Errorf("refers to %s", a.Val)
				}
				refs = append(refs, a.Val[1:])
			case a.Key == "src", a.Key == "xlink:href", a.Key == "srcset", a.Key == "action":
				t.Errorf("refers to %s", a.Val)
			}
		}
	}
	for _, r := range refs {
		if !ids[r] {
			t.Errorf("refers to #%s, which is nowhere", r)
		}
	}
	if level == 0 {
		t.Error("no headings")
	}
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// The policy allows the style that is there, and nothing else.
func TestPagePolicy(t *testing.T) {
	text := madeUp().text(t)
	root, err := html.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	var policy, style string
	for n := range root.Descendants() {
		switch {
		case n.Data == "meta" && attribute(n, "http-equiv") == "Content-Security-Policy":
			policy = attribute(n, "content")
		case n.Type == html.ElementNode && n.Data == "style":
			style = n.FirstChild.Data
		}
	}
	sum := sha256.Sum256([]byte(style))
	if want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'"; policy != want {
		t.Errorf("policy %q, want %q", policy, want)
	}
	if strings.Contains(style, "url(") || strings.Contains(style, "@import") || strings.Contains(style, "<") {
		t.Error("the style refers to something")
	}
}

// Text and shapes can be seen on the paper, light and dark: axe does not look at
// those of pictures.
func TestPageContrast(t *testing.T) {
	light, night, ok := strings.Cut(pageCSS, "@media screen and (prefers-color-scheme: dark)")
	if !ok {
		t.Fatal("there is no dark look")
	}
	for name, css := range map[string]string{"light": light, "dark": night} {
		css, _, _ = strings.Cut(css, "@media print")
		colours := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z]+): #([0-9a-f]{6})`).FindAllStringSubmatch(css, -1) {
			colours[m[1]] = luminance(t, m[2])
		}
		for on, least := range map[string]float64{"ink soft bad link good": 4.5, "live aside down work move wait": 3} {
			for _, c := range strings.Fields(on) {
				for _, paper := range []string{"paper", "panel"} {
					a, b := colours[c], colours[paper]
					if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); ratio < least {
						t.Errorf("%s: %s on %s has a contrast of %.1f, want %.1f", name, c, paper, ratio, least)
					}
				}
			}
		}
	}
}

// luminance is that of WCAG 2.
func luminance(t *testing.T, hex string) float64 {
	n, err := strconv.ParseUint(hex, 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	part := func(v uint64) float64 {
		if c := float64(v&255) / 255; c > 0.03928 {
			return math.Pow((c+0.055)/1.055, 2.4)
		} else {
			return c / 12.92
		}
	}
	return 0.2126*part(n>>16) + 0.7152*part(n>>8) + 0.0722*part(n)
}

const evil = `</style></title><script>alert(1)</script><img src="http://evil.test/x"/>"'><svg onload=x>{{.}}` + "\x00\x1b[2J\u202e\u2066\xff"

// Whatever hosts and mail say is text, and changes nothing but its own place.
func TestPageHostile(t *testing.T) {
	for _, text := range []string{"", evil, "ana@example.org", "192.0.2.1", "]]>", "<!--", "&amp;", "'; color: red", "\u2028", strings.Repeat("é", 2000)} {
		checkHostile(t, text)
	}
}

func checkHostile(t *testing.T, text string) {
	text = "it " + text + "!" // as none of the words that mean something
	page := hostilePage(text).text(t)
	checkMarkup(t, page)
	if got, want := shape(t, page), shape(t, hostilePage("it tame!").text(t)); got != want {
		t.Errorf("%q changes the markup:\n%s\nwant\n%s", text, got, want)
	}
	for _, r := range page {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%q stands on the page", r)
		}
	}
}

// shape is a page without its texts.
func shape(t *testing.T, page string) string {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for n := range root.Descendants() {
		if n.Type == html.ElementNode {
			b.WriteString(n.Data + " ")
			for _, a := range n.Attr {
				b.WriteString(a.Key + " ")
			}
		}
	}
	return b.String()
}

// One host cannot fill a page, whatever it tells.
func TestPageBounds(t *testing.T) {
	s, tell := story("chavez")
	for i := range maxStory + 10 {
		long := []byte(`"short"`)
		if i%50 < 4 { // each kind, often enough to fill its list
			long, _ = json.Marshal(strings.Repeat("x ", 800))
		}
		name := []string{"command", "stop", "x", "confirm"}[i%4]
		tell.says(2*time.Second, i, name, wire.Begin, "null")
		tell.says(0, i, name, wire.Result, `{"name":`+string(long)+`,"by":"-y"}`)
		tell.says(2*time.Second, i, name, []string{wire.End, wire.Ask, wire.Warn}[i%3], `{"error":`+string(long)+`,"message":`+string(long)+`,"kind":"x","number":1}`)
	}
	for i := range 100_000 {
		s.Report.Info.Hosts = append(s.Report.Info.Hosts, fmt.Sprint("mx", i))
	}
	s.Report.State.Phase = run.Failed
	p := pageOf(s)
	p.Made = tell.at
	if n := len(p.text(t)); n > 1<<20 {
		t.Errorf("%d bytes", n)
	}
}

// hostilePage has a text wherever a host or a mail can put one.
func hostilePage(text string) *Page {
	quoted, _ := json.Marshal(text)
	q := string(quoted)
	s, t := story("chavez")
	s.Host.Host = "chavez" + text
	i := s.Report.Info
	i.Who, i.Reason, i.Name, i.Hosts = text, text, text, []string{text}
	i.Steps = []stage.Step{{Stage: text}}
	t.stage(0, 0, "count", `{"queues":{"incoming":{"messages":5},`+q+`:{"messages":1}},"set_aside":{`+q+`:{"messages":3}},"messages":5,"runs":[{"run":`+q+`,"messages":2}]}`)
	t.stage(0, 1, text, `{}`)
	t.stage(0, 1, "command", `{"name":`+q+`,"skipped":true,"why":`+q+`,"accounts":[{"value":`+q+`,"finding":`+q+`}],"refused":[`+q+`]}`)
	t.stage(0, 2, "set-aside", `{"queues":{`+q+`:{"messages":1,"to":`+q+`}}}`)
	t.stage(0, 2, "start", `{"downtime_seconds":1e300,"accepting":false,"why":`+q+`}`)
	t.stage(0, 3, "suspects", strings.ReplaceAll(`{"logins":[{"user":Q,"count":1,"addresses":[Q]}],"senders":[{"value":Q}],"recipients":[{"value":Q}],"backscatter":[{"value":Q,"finding":Q,"evidence":[Q]}],"sasl_users":[{"value":Q}],"clients":[{"value":Q}],"uids":[{"value":Q,"name":Q}],"scripts":[{"value":Q}],"subjects":[{"value":Q}]}`, "Q", q))
	t.stage(0, 4, "classify", strings.ReplaceAll(`{"messages":1,"rule_order":[Q],"ham_rule_order":[Q],"sources_left":[{"kind":Q,"value":Q}],"local_senders":[Q],"local_senders_hit":9,"by_rule":{Q:{"messages":-9223372036854775808}}}`, "Q", q))
	t.stage(0, 5, "watch", `{"source":"sending","sources":[{"value":`+q+`}]}`)
	t.says(0, 0, text, wire.Warn, `{"message":`+q+`}`)
	t.says(0, 0, text, wire.End, `{"status":`+q+`,"error":`+q+`,"remedy":`+q+`}`)
	t.says(0, 0, text, wire.Ask, `{"number":1,"kind":`+q+`}`)
	t.says(0, 0, text, wire.Ask, `{"number":2,"kind":"confirm","data":{"reasons":[`+q+`]}}`)
	s.Report.State.Phase, s.Report.State.Error, s.Report.State.Ask = run.Failed, text, &run.AskRecord{Kind: text}
	s.Report.State.History = []run.AnswerRecord{{Number: 2, Answer: stage.Answer{By: text}}}
	s.Error = &Failure{Message: text, Remedy: text}
	s.Account = &run.Account{Sums: stage.Sums{SetAside: -1}}
	p := pageOf(s)
	p.Run, p.Build, p.Without = "run "+text, text, []string{text}
	return p
}

// By default nobody is named whose mail it was: not before an @, not as a login, not
// by where a client is; and the same one has the same number.
func TestPageRedacted(t *testing.T) {
	secret := regexp.MustCompile(`spam-account|elsa|\bana\b|203\.0\.113`)
	text := madeUp().text(t)
	if found := secret.FindAllString(text, -1); found != nil {
		t.Errorf("the page names %q", found)
	}
	for _, s := range []string{"ops@laptop", "mona@desk", "@chavez.example.org", "sasl_user:name-1", "recipient:name-1@", "with login name-1", "no text of mail is in it but"} {
		if !strings.Contains(strings.ToLower(text), strings.ToLower(s)) {
			t.Errorf("the page does not say %q", s)
		}
	}
	p := madeUp()
	p.Named = true
	text = p.text(t)
	for _, s := range []string{"sasl_user:spam-account", "spam-account@chavez.example.org", "203.0.113.9", "elsa@far.test"} {
		if !strings.Contains(text, s) {
			t.Errorf("with names: does not say %q", s)
		}
	}
}
