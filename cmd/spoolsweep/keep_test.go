package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/suggest"
)

// maildir is a Maildir of these messages.
func maildir(t *testing.T, messages ...string) string {
	dir := t.TempDir()
	for i, text := range messages {
		name := filepath.Join(dir, "cur", string(rune('a'+i))+":2,S")
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What is to be kept is seen as rules see mail in a queue: decoded, with an envelope.
func TestSampleMasks(t *testing.T) {
	t.Parallel()
	dir := maildir(t,
		"Return-Path: <news@shop.test>\nDelivered-To: ann@x.test\nSubject: =?utf-8?q?Dear_fri=65nd?=\n\nplain\n",
		"From: Bob <bob@x.test>\r\nTo: a@x.test, c@x.test\r\nContent-Transfer-Encoding: base64\r\n\r\n"+practice.Base64("see https://a.shop.test/media.php\n"),
		"Return-Path: <>\nFrom: MAILER-DAEMON@x.test\nTo: ann@x.test\nSubject: Undelivered\n\nsorry\n",
		strings.Repeat("no message\n", 3),
	)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	kept, others, err := readSamples(dir)
	if err != nil || len(kept) != 3 || others == nil || !strings.Contains(others.Error(), "/cur/d:2,S is no mail message") {
		t.Fatalf("%d messages, others %v, %v", len(kept), others, err)
	}
	masks, err := sampleMasks(kept, []suggest.Atom{
		{Kind: suggest.Sender, Field: "sender", Pattern: "news@shop.test"},
		{Kind: suggest.Subject, Field: "subject", Pattern: "dear friend"},
		{Kind: suggest.Link, Field: "body", Pattern: "/media.php"},
		{Kind: suggest.Recipient, Field: "recipient", Pattern: "c@x.test"},
		{Kind: suggest.Bounces, Field: "recipient", Pattern: "ann@x.test"},
	})
	if want := []suggest.Mask{0b00011, 0b01100, 0b10000}; err != nil || !slices.Equal(masks, want) {
		t.Errorf("got %b, %v, want %b", masks, err, want)
	}
	for _, row := range []struct{ dir, want string }{
		{filepath.Join(dir, "none"), "no such file"},
		{maildir(t), "there is no message in"},
		{maildir(t, "uid: 1\nsize: 2\n\n"), "nothing in it says from whom"},
		{"/etc/passwd", "/etc/passwd is no folder"},
	} {
		if _, _, err := readSamples(row.dir); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.dir, err, row.want)
		}
	}
}

// A rule that would hit mail that is to be kept is not proposed, and is named; the
// flood is caught in another way.
func TestKeepSample(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(400)
	f.spoolsweep("suggest").want(t, 0, `rule: {body: ".shop.test"}`)
	keep := maildir(t, "From: news@members.test\nTo: ann@x.test\nSubject: our own shop\n\nhttps://www.shop.test/spring\n")
	r := f.spoolsweep("suggest", "--keep-sample", keep)
	r.want(t, 0, "1 message  to be kept, of which no rule hits one", `not proposed: {body: ".shop.test"}, since it would hit 1 message that is to be kept`)
	if strings.Contains(r.out, `rule: {body: ".shop.test"}`) || !strings.Contains(r.out, "rule: {") {
		t.Errorf("proposed: %s", r.out)
	}
	f.spoolsweep("suggest", "--keep-sample", f.file("nowhere")).want(t, statusUsage, "--keep-sample: ", "no such file")
}

// What is known to be of the flood is enough to find the rest of it, however little
// that is, and wherever it comes from: nothing is proposed without.
func TestSpamSample(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	var all []practice.Message
	letter := func(i int) string {
		return fmt.Sprintf("Subject: a message for you\n\nDear user%d,\nthe bank of the islands holds %d dollars in your name.\nAnswer with a copy of your passport today.\nhttps://s%d.islands.test/claim\n", i, i*7, i)
	}
	for i := range 40 {
		all = append(all, practice.Message{Queue: "hold", Sender: fmt.Sprintf("one@s%d.test", i%3), Recipients: []string{fmt.Sprintf("to%d@c.test", i)}, ClientName: "x", ClientAddress: "203.0.113.7", Text: letter(i)})
	}
	for _, m := range practice.Incident("chavez", demoAccount, 1200, 5) {
		if m.Label == practice.Ham {
			m.Queue = "hold"
			all = append(all, m)
		}
	}
	if _, err := f.hosts[0].SubmitAll(all); err != nil {
		t.Fatal(err)
	}
	ham := len(all) - 40
	f.spoolsweep("suggest", "--queue", "hold").want(t, 0, "nothing is proposed")
	for name, dir := range map[string]string{
		"one":  maildir(t, "From: one@s1.test\nTo: me@x.test\n"+letter(99)),
		"four": maildir(t, "From: one@s1.test\nTo: me@x.test\n"+letter(97), "From: two@s2.test\n"+letter(98), "From: two@s2.test\n"+letter(96), "From: me@s2.test\n"+letter(95)),
	} {
		r := f.spoolsweep("suggest", "--queue", "hold", "--spam-sample", dir)
		n := len(letters(t, dir))
		r.want(t, 0, fmt.Sprintf("%d messages  in all", ham+40), "40 messages  like the flood", fmt.Sprintf("samples of the flood caught %d of %d", n, n), "40 messages  caught by all rules together", "0 messages  hit outside the flood", "of the samples")
		if !strings.Contains(r.err, "--spam-sample "+dir) {
			t.Errorf("%s: what is to be typed next lacks the samples: %s", name, r.err)
		}
	}
	// What the samples have in common with mail that is to be kept is no rule.
	keep := maildir(t, "From: bank@islands.test\nTo: me@x.test\nSubject: your account\n\nSee https://www.islands.test/claim\n")
	r := f.spoolsweep("suggest", "--queue", "hold", "--spam-sample", maildir(t, "From: one@s1.test\n"+letter(99)), "--keep-sample", keep)
	r.want(t, 0, "40 messages  caught by all rules together", "1 message  to be kept, of which no rule hits one")
	if strings.Contains(r.out, "islands.test") {
		t.Errorf("a rule hits what is to be kept: %s", r.out)
	}
	// Nothing there is like these.
	other := maildir(t, "From: one@s1.test\nSubject: cheap\n\nThe cheapest medicine of the whole wide world.\nOrder it before the week ends.\n")
	f.spoolsweep("suggest", "--queue", "hold", "--spam-sample", other).want(t, 0, "0 messages  like the flood", "nothing is proposed")

	for args, says := range map[string]string{
		"--spam-sample " + f.file("nowhere"):                                   "--spam-sample: ",
		"--spam-sample " + maildir(t, "From: a@b.test\nSubject: x\n\n1 2 3\n"): "have no text that a rule can be made of",
		"--account " + demoAccount + " --spam-sample " + other:                 "exclude each other",
	} {
		f.spoolsweep(append([]string{"suggest"}, strings.Fields(args)...)...).want(t, statusUsage, says)
	}
}

func letters(t *testing.T, dir string) []sampleMail {
	t.Helper()
	all, _, err := readSamples(dir)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
