package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// queueFileOf is a message as a host has it.
func queueFileOf(text string) (e *exported, raw []byte) {
	m := practice.Message{Queue: spool.Maildrop, Arrived: time.Unix(1e9, 0), Sender: "a\x1b[2J@b.example", Recipients: []string{"c@d.example"}, Text: text}
	raw = m.QueueFile()
	sum := sha256.Sum256(raw)
	return &exported{Host: "../mx1", Instance: "out", Queue: "maildrop", ID: "4A02E9D2DE9", Inode: 7, Bytes: int64(len(raw)), SHA256: hex.EncodeToString(sum[:])}, raw
}

// A folder takes each message once, under names of its own, and never overwrites any;
// what a death has left of a line or of a file is no message.
func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "to")
	opened := func() *folder {
		t.Helper()
		x, err := openFolder(dir, formQueue)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	put := func(x *folder, text string) (name string) {
		t.Helper()
		e, raw := queueFileOf(text)
		if err := x.add(e, bytes.NewReader(raw)); err != nil {
			t.Fatal(err)
		}
		return e.File
	}
	const base = "___mx1.out.maildrop.4A02E9D2DE9"
	x := opened()
	if _, err := openFolder(dir, formQueue); err == nil || !strings.Contains(err.Error(), "another export writes") {
		t.Errorf("two at a time: %v", err)
	}
	first := put(x, "Subject: one\n\nFrom here\n")
	if again := put(x, "Subject: one\n\nFrom here\n"); first != base+".eml" || again != first {
		t.Errorf("named %s, and then %s", first, again)
	}
	if second := put(x, "Subject: two\n\n"); second != base+".2.eml" {
		t.Errorf("another one with its id is named %s", second)
	}
	if text, err := os.ReadFile(filepath.Join(dir, first)); err != nil || string(text) != "Subject: one\n\nFrom here\n" {
		t.Errorf("%q, %v", text, err)
	}
	manifest, err := os.ReadFile(x.manifest.Name())
	if err != nil || bytes.ContainsFunc(manifest, func(r rune) bool { return r != '\n' && (r < ' ' || r >= 0x7f) }) {
		t.Errorf("a terminal would take the manifest for more than text: %q, %v", manifest, err)
	}
	x.close()

	// It died in a line, and in a file.
	if err := os.WriteFile(x.manifest.Name(), append(manifest, `{"host":"mx`...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, base+".3.eml"), []byte("Subj"), 0o600); err != nil {
		t.Fatal(err)
	}
	x = opened()
	if third := put(x, "Subject: three\n\n"); third != base+".4.eml" {
		t.Errorf("named %s", third)
	}
	// Somebody has written to what is there: it counts as not there.
	if err := os.WriteFile(filepath.Join(dir, base+".queue"), []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := put(x, "Subject: one\n\nFrom here\n"); again != base+".5.eml" {
		t.Errorf("named %s", again)
	}
	if err := x.end(true); err != nil {
		t.Fatal(err)
	}
	x.close()
	if text, err := os.ReadFile(x.manifest.Name()); err != nil || !bytes.Contains(text, []byte(`{"end":true,"messages":4,"whole":true,`)) {
		t.Errorf("%s, %v", text, err)
	}

	// What cannot be read as a message leaves nothing, and what no clock shows is one.
	x = opened()
	defer x.close()
	for i, at := range []int64{math.MinInt64 + 1, -1 << 40, 1 << 40, math.MaxInt64} {
		m := practice.Message{Queue: spool.Maildrop, Arrived: time.Unix(1e9, 0), Sender: "a@b.example", Recipients: []string{"c@d.example"}, Text: "Subject: when\n\n"}
		raw := bytes.Replace(m.QueueFile(), []byte("T\x0c1000000000 0"), fmt.Appendf(nil, "T%c%d", len(fmt.Sprint(at)), at), 1)
		sum := sha256.Sum256(raw)
		e := &exported{Host: "mx1", Instance: "-", Queue: "maildrop", ID: fmt.Sprintf("4A02E9D2DE%d", i), Inode: 7, Bytes: int64(len(raw)), SHA256: hex.EncodeToString(sum[:])}
		if err := x.add(e, bytes.NewReader(raw)); err != nil || e.Arrived.Year() == 2001 {
			t.Errorf("arrived %d: %v, %v", at, e.Arrived, err)
		}
	}
	e, raw := queueFileOf("Subject: broken\n\nbody\n")
	at := bytes.Index(raw, []byte("\x04body"))
	raw[at-1] = '!'
	if err := x.add(e, bytes.NewReader(raw)); !errors.Is(err, errMessage) {
		t.Errorf("broken: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, base+".6.eml")); err == nil {
		t.Error("something is left of it")
	}

	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := openFolder(link, formQueue); err == nil {
		t.Error("through a link")
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := openFolder(dir, formQueue); err == nil || !strings.Contains(err.Error(), "closed to others") {
		t.Errorf("open to others: %v", err)
	}
}

// A host that says what no agent of ours does is not believed, and nothing of it is
// listed.
func TestTakingFromAHostileHost(t *testing.T) {
	_, raw := queueFileOf("Subject: one\n\n")
	sum := sha256.Sum256(raw)
	head := func(size int64) *stage.MailHead {
		return &stage.MailHead{Directory: "maildrop.spamfull/../..", ID: "../../x", Size: size, N: 1, Rules: []int{-1, 99}}
	}
	for _, test := range []struct {
		name  string
		parts []stage.MailPart
		says  string
	}{
		{"a piece of nothing", []stage.MailPart{{Data: raw}}, "a piece of no message"},
		{"less than nothing", []stage.MailPart{{Message: head(-1)}}, "of a size that none has"},
		{"too much", []stage.MailPart{{Message: head(3), Data: raw}}, "more of a message than there is"},
		{"too little", []stage.MailPart{{Message: head(int64(len(raw)) + 1), Data: raw, Sum: sum[:]}}, "not what it has read"},
		{"other bytes", []stage.MailPart{{Message: head(int64(len(raw))), Data: raw, Sum: make([]byte, 32)}}, "not what it has read"},
		{"an end without a beginning", []stage.MailPart{{Sum: sum[:]}}, "a piece of no message"},
		{"no names of files", []stage.MailPart{{Message: head(int64(len(raw))), Data: raw[:9]}, {Data: raw[9:], Sum: sum[:]}}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			take := takingFrom(t, formQueue, exportOf(1, 1000))
			x := take.into
			var err error
			for i := range test.parts {
				if err = take.part(&test.parts[i]); err != nil {
					break
				}
			}
			if test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says) || x.lines != 0 || len(take.taken) != 0) {
				t.Errorf("%v, %d listed", err, x.lines)
			}
			if test.says == "" && (err != nil || x.lines != 1 || take.files[0] != "mx1.maildrop_spamfull______.______x.eml") {
				t.Errorf("%v, %d listed, %q", err, x.lines, take.files)
			}
		})
	}
	// Nor does it fill the disk, or the memory, with whatever it repeats for ever.
	empty := sha256.Sum256(nil)
	for name, again := range map[string]stage.MailPart{
		"large":     {Message: &stage.MailHead{Size: 2 << 20}, Data: make([]byte, 1<<20)},
		"empty":     {Message: &stage.MailHead{ID: "4A02E9D2DE9", Directory: "deferred"}, Sum: empty[:]},
		"beginning": {Message: &stage.MailHead{Size: 1}},
	} {
		take := takingFrom(t, formEML, exportOf(1, 10))
		var err error
		for n := 0; err == nil; n++ {
			if n > moreMail>>10 {
				t.Fatalf("%s: it takes whatever comes", name)
			}
			err = take.part(&again)
		}
		if !strings.Contains(err.Error(), "far more mail than was announced") || len(take.result.Failures) > 5 {
			t.Errorf("%s: %v, %d failures are kept", name, err, len(take.result.Failures))
		}
	}
	// A line of the manifest is no longer than what is told of it.
	take := takingFrom(t, formEML, exportOf(1, 1000))
	take.rules = []string{"one", "two"}
	long := head(int64(len(raw)))
	long.Rules = make([]int, 1000)
	if err := take.part(&stage.MailPart{Message: long, Data: raw, Sum: sum[:]}); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(take.into.manifest.Name()); err != nil || bytes.Count(text, []byte("one")) > 2 {
		t.Errorf("%v, %d bytes", err, len(text))
	}
	long = head(int64(len(raw)))
	long.ID = strings.Repeat("A", 5000)
	if err := take.part(&stage.MailPart{Message: long, Data: raw, Sum: sum[:]}); err == nil || !strings.Contains(err.Error(), "mx1 sends a message with a name that none has") {
		t.Errorf("a long name: %v", err)
	}
}

// takingFrom takes from a host that has announced so much.
func takingFrom(t *testing.T, form string, announced *stage.Exported) *taking {
	t.Helper()
	x, err := openFolder(filepath.Join(t.TempDir(), "to"), form)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.close)
	var out bytes.Buffer
	s := &sweep{Printer: &show.Printer{Out: &out, Err: &out}}
	return s.takeFrom(&member{Host: &show.Host{Host: "mx1", Instance: "-"}}, x, nil, announced)
}

// A message that comes once more, since it was written to while it was sent, counts
// once.
func TestTakingOnce(t *testing.T) {
	const text = "Subject: one\n\n"
	_, raw := queueFileOf(text)
	sum := sha256.Sum256(raw)
	take := takingFrom(t, formQueue, exportOf(1, int64(len(raw))))
	head := &stage.MailHead{Directory: "maildrop", ID: "4A02E9D2DE9", Size: int64(len(raw)), N: 1}
	for _, part := range []stage.MailPart{{Message: head, Data: raw[:9]}, {Message: head, Data: raw[:9]}, {Data: raw[9:], Sum: sum[:]}} {
		if err := take.part(&part); err != nil {
			t.Fatal(err)
		}
	}
	if r, want := take.result, int64(len(text)+len(raw)); r.Done.Done != 1 || r.Bytes != want {
		t.Errorf("%d messages of %d bytes, want 1 of %d", r.Done.Done, r.Bytes, want)
	}
}
