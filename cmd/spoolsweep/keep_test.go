package main

import (
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
func TestKeptMasks(t *testing.T) {
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
	kept, others, err := readKept(dir)
	if err != nil || len(kept) != 3 || others == nil || !strings.Contains(others.Error(), "/cur/d:2,S is no mail message") {
		t.Fatalf("%d messages, others %v, %v", len(kept), others, err)
	}
	masks, err := keptMasks(kept, []suggest.Atom{
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
		if _, _, err := readKept(row.dir); err == nil || !strings.Contains(err.Error(), row.want) {
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
