package main

import (
	"encoding/json"
	"strings"
	"testing"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
	"spoolsweep/spool/suggest"
)

// What is proposed goes into a file, and that ends the incident: no flood is left
// in the queues, and no ham aside.
func TestSuggestEndsIncident(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(600)
	waitQuiet(t, f)
	r := f.spoolsweep("run", "backscatter", "-y", "-e", "max_stopped=0")
	r.want(t, 3)
	run := runID.FindString(r.err)
	r = f.spoolsweep("suggest", "--aside", run)
	r.want(t, 0, "1,200 messages  in all", "900 messages  like the flood", "900 messages  caught by all rules together", "0 messages  hit outside the flood", "  since .shop.test: in ")
	if !strings.Contains(r.err, "what run "+run+" has set aside:") || !strings.Contains(r.err, "spoolsweep suggest --aside "+run+" -o yaml") {
		t.Errorf("does not say of what, or what next: %s", r.err)
	}
	f.spoolsweep("suggest", "--aside", run, "--account", "nobody").want(t, 0, "1,200 messages  in all", "no mail of nobody is in what was looked at: nothing is proposed")
	r = f.spoolsweep("suggest", "--aside", run, "-o", "yaml")
	r.want(t, 0, "# Rules that spoolsweep suggest found in what run "+run+" has set aside.", "spam:\n  any:\n")
	rules := f.write("suggested.yaml", r.out)
	if extra, err := playbooks.ParseExtra([]string{"@" + rules}); err != nil || extra.Values["spam"] == nil {
		t.Fatalf("%v in\n%s", err, r.out)
	}
	f.spoolsweep("classify", "--aside", run, "-e", "@"+rules).want(t, 0, "450 messages  spam", "150 messages  ham")
	f.spoolsweep("resume", run, "-y", "-e", "@"+rules, "-e", "rate=0").want(t, 0)
	f.audit(t, practice.Place.Aside)

	// As JSON each host's figures, and one proposal for all.
	r = f.spoolsweep("suggest", "--aside", run, "--account", demoAccount, "-o", "json")
	r.want(t, 0)
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	s := doc.Summary.Suggestion
	if s == nil || s.Messages != 900 || s.Flood != 900 || s.Caught != 900 || s.Hit != 0 || len(s.Rules) == 0 || len(s.Rules) > suggest.MaxRules {
		t.Errorf("together: %s", r.out)
	}
	for _, h := range doc.Hosts {
		var one stage.Suggested
		if err := json.Unmarshal(h.Result, &one); err != nil || len(one.Counts) == 0 || len(h.Stages) != 2 {
			t.Errorf("%s: %v %s", h.Host, err, h.Result)
		}
	}
}

// Where there is no flood nothing is proposed, in every format, and the file that
// says so is one that does nothing.
func TestSuggestNothing(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	var letters []practice.Message
	for _, m := range practice.Incident("chavez", demoAccount, 400, 5) {
		if m.Label == practice.Ham {
			m.Queue = "hold"
			letters = append(letters, m)
		}
	}
	if _, err := f.hosts[0].SubmitAll(letters); err != nil {
		t.Fatal(err)
	}
	f.spoolsweep("suggest", "--queue", "hold").want(t, 0, "100 messages  in all", "no flood was found: nothing is proposed")
	f.spoolsweep("suggest", "--queue", "deferred").want(t, 0, "0 messages  in all", "nothing is proposed")
	const none = "no mail of no\\x1bbody is in what was looked at: nothing is proposed"
	f.spoolsweep("suggest", "--queue", "hold", "--account", "no\x1bbody").want(t, 0, "100 messages  in all", none)
	f.spoolsweep("suggest", "--queue", "hold", "--account", "no\x1bbody", "-o", "yaml").want(t, 0, "spam: {}\n")
	r := f.spoolsweep("suggest", "--queue", "hold", "-o", "yaml")
	r.want(t, 0, "spam: {}\n")
	extra, err := playbooks.ParseExtra([]string{"@" + f.write("none.yaml", r.out)})
	if err != nil {
		t.Fatal(err)
	}
	args := stage.ClassifyArgs{Spam: extra.Values["spam"]}
	if err := args.Check(); err != nil {
		t.Error(err)
	}
	f.spoolsweep("suggest", "--queue", "hold", "-o", "jsonl").want(t, 0, `"suggestion"`)
}

// What mail says in what all of the flood has in common does nothing to a terminal,
// and comes out of the file as it was.
func TestSuggestHostile(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	nasty := "buy \x1b]0;owned\x07 \"pills\" \\ # : {now} \u202e cheap"
	var all []practice.Message
	for _, m := range practice.Incident("chavez", demoAccount, 600, 5) {
		m.Queue = "hold"
		if m.Label == practice.Spam {
			m.Text = "Subject: " + nasty + "\n\n" + nasty + "\n"
		}
		all = append(all, m)
	}
	if _, err := f.hosts[0].SubmitAll(all); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"text", "yaml", "json", "jsonl"} {
		r := f.spoolsweep("suggest", "--queue", "hold", "-o", format)
		r.want(t, 0)
		for _, c := range r.out + r.err {
			if c < ' ' && c != '\n' || c == '\u202e' {
				t.Fatalf("-o %s: %U reaches the terminal:\n%s", format, c, r.out)
			}
		}
		if format != "yaml" {
			continue
		}
		rules := f.write("rules.yaml", r.out)
		f.spoolsweep("classify", "--queue", "hold", "-e", "@"+rules).want(t, 0, "450 messages  spam", "150 messages  ham")
	}
}

// What would take the owner's own mail is not proposed, and said with a sample.
func TestSuggestOwner(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(400)
	h := f.hosts[0]
	own := demoAccount + "@" + h.Hostname()
	_, err := h.SubmitAll([]practice.Message{
		{Queue: "hold", Sender: own, Login: demoAccount, Recipients: []string{"ana@there.test"}, ClientName: "home.test", ClientAddress: "192.0.2.9", Text: "Subject: the garden\n\nShall we meet on the hill?\n"},
		{Queue: "hold", Sender: "ana@there.test", Recipients: []string{own}, ClientName: "there.test", ClientAddress: "192.0.2.8", Text: "Subject: the garden\n\nYes, gladly.\n"},
	})
	if err != nil {
		t.Fatal(err)
	}
	waitQuiet(t, f)
	f.spoolsweep("suggest").want(t, 0, "402 messages  in all", "300 messages  caught by all rules together", `not proposed: {sasl_user: "spam-account"}, since it would hit 1 other message`,
		"  such as chavez: hold/", "    | Subject: the garden", "    | Shall we meet on the hill?")
}

// Mistakes are told before any host is reached.
func TestSuggestUsage(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded)
	inventory := f.write("hosts.yaml", "all: {hosts: {chavez: }}\n")
	for args, says := range map[string]string{
		"suggest x": `unexpected argument "x"`,
		"suggest --aside 20261123T231500Z-ab12 --queue hold": "exclude each other",
		"suggest --account @":                                "--account is the name of one",
		"suggest -o xml":                                     "text, json and jsonl, here also yaml",
		"classify -o yaml":                                   "text, json and jsonl",
	} {
		execs(t, append(strings.Fields(args), "-i", inventory)...).want(t, statusUsage, says)
	}
}

// A host may say anything: what is no atom of its kind is not tried on others.
func TestAtomsOfLiars(t *testing.T) {
	for _, a := range []suggest.Atom{
		{Kind: suggest.Bounces, Field: "recipient", Pattern: "/./"},
		{Kind: suggest.Bounces, Field: "recipient", Pattern: "*a*"},
		{Kind: suggest.Bounces, Field: "recipient", Pattern: "@example.org"},
		{Kind: suggest.Login, Field: "body", Pattern: "x"},
		{Kind: suggest.Phrase, Field: "sender", Pattern: "x"},
		{Kind: suggest.Phrase, Field: "body", Pattern: "/(/"},
		{Kind: suggest.Phrase, Field: "body", Pattern: ""},
		{Kind: suggest.Phrase, Field: "body", Pattern: strings.Repeat("x", 2000)},
		{Kind: suggest.Client, Field: "client", Pattern: "0.0.0.0/0"},
		{Kind: suggest.Client, Field: "client", Pattern: "unknown"},
		{Kind: "queue", Field: "queue", Pattern: "hold"},
		{Kind: suggest.Header, Field: "any", Pattern: "x"},
	} {
		if isUsable(&a) {
			t.Errorf("%+v is taken", a)
		}
	}
	if !isUsable(&suggest.Atom{Kind: suggest.Login, Field: "sasl_user", Pattern: "ana"}) || !isUsable(&suggest.Atom{Kind: suggest.Client, Field: "client", Pattern: "2001:db8::1"}) {
		t.Error("a login or a client is not taken")
	}
}
