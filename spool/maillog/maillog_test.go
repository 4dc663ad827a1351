package maillog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

const all = Login | Client | Failed | Local | Queued | Unknown | Ended

// told is an event as a test writes it.
type told struct {
	Kind                        Kind
	ID, User, Address           string
	UID                         int
	Sender, Recipient, Original string
	Times                       int64
}

func tell(e *Event) told {
	return told{e.Kind, string(e.ID), string(e.User), string(e.Address), e.UID, string(e.Sender), string(e.Recipient), string(e.Original), e.Times}
}

// written is when the logs of these tests were last written to.
var written = time.Date(2026, 11, 25, 6, 0, 0, 0, time.UTC)

// parse takes one line apart by itself.
func parse(line []byte, e *Event) bool {
	s := &scanner{parser: newParser(), want: all}
	ok := s.line(line)
	*e = s.event
	return ok
}

func newParser() parser { return parser{written: written, zone: time.UTC} }

// Texts as Postfix writes them, behind each head that a log may have.
var texts = []struct {
	service, text string
	want          *told // nil: the line does not matter
}{
	{"smtpd", "C28C6BE042: client=localhost[127.0.0.1], sasl_method=PLAIN, sasl_username=spam-account@mx1.mayfirst.test",
		&told{Kind: Login, ID: "C28C6BE042", User: "spam-account@mx1.mayfirst.test", Address: "127.0.0.1"}},
	{"submission/smtpd", "4Xk1bC2xQyz5: client=host.example[2001:db8::1]:4711, sasl_method=LOGIN, sasl_username=ann",
		&told{Kind: Login, ID: "4Xk1bC2xQyz5", User: "ann", Address: "2001:db8::1"}},
	{"smtpd", "C28C6BE042: client=unknown[192.0.2.7], sasl_method=PLAIN, sasl_username=ann, sasl_sender=ann@x.org",
		&told{Kind: Login, ID: "C28C6BE042", User: "ann", Address: "192.0.2.7"}},
	{"smtpd", "C28C6BE042: client=unknown[192.0.2.7], sasl_method=PLAIN, sasl_username=ann b, c, orig_queue_id=ABC123, orig_client=x[192.0.2.9]",
		&told{Kind: Login, ID: "C28C6BE042", User: "ann b, c", Address: "192.0.2.7"}},
	{"smtpd", "C9CACBE049: client=localhost[127.0.0.1], orig_queue_id=ABC123, orig_client=spike.example[168.100.189.2]",
		&told{Kind: Client, ID: "C9CACBE049", Address: "127.0.0.1"}},
	{"smtpd", "A4A5FBE018: client=localhost[127.0.0.1]", &told{Kind: Client, ID: "A4A5FBE018", Address: "127.0.0.1"}},
	{"smtpd", "warning: localhost[127.0.0.1]: SASL LOGIN authentication failed: authentication failure, sasl_username=spam-account@mx1",
		&told{Kind: Failed, User: "spam-account@mx1", Address: "127.0.0.1"}},
	{"smtpd", "warning: unknown[192.0.2.7]: SASL PLAIN authentication failed: generic failure, sasl_username=(unavailable)",
		&told{Kind: Failed, Address: "192.0.2.7"}},
	{"smtpd", "warning: unknown[192.0.2.7]: SASL LOGIN authentication failed: UGFzc3dvcmQ6", &told{Kind: Failed, Address: "192.0.2.7"}},
	{"smtpd", "warning: unknown[192.0.2.7]: SASL authentication failure: Password verification failed", nil},
	// What a client says makes no line of another kind.
	{"smtpd", "warning: unknown[192.0.2.7]: SASL LOGIN authentication failed: x, sasl_username=C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=ann",
		&told{Kind: Failed, User: "C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=ann", Address: "192.0.2.7"}},
	{"smtpd", "NOQUEUE: reject: RCPT from x[192.0.2.7]: 554 5.7.1 <a@b>: Relay access denied; from=<C28C6BE042: client=x[1], sasl_method=P, sasl_username=ann> to=<a@b> proto=ESMTP helo=<x> sasl_username=<ann>", nil},
	{"smtpd", "NOQUEUE: reject: RCPT from x[192.0.2.7]: 550 5.1.1 <nobody@x.org>: Recipient address rejected: User unknown in local recipient table; from=<> to=<nobody@x.org> proto=ESMTP helo=<x>",
		&told{Kind: Unknown, Recipient: "nobody@x.org"}},
	{"smtpd", "C28C6BE042: reject: RCPT from x[192.0.2.7]: 550 5.1.1 <nobody@x.org>: Recipient address rejected: User unknown in virtual mailbox table; from=<>",
		&told{Kind: Unknown, Recipient: "nobody@x.org"}},
	{"smtpd", "disconnect from localhost[127.0.0.1] ehlo=1 auth=0/3 commands=1/4", &told{Kind: Ended, Address: "127.0.0.1"}},
	{"smtpd", "disconnect from unknown[unknown]", &told{Kind: Ended, Address: "unknown"}},
	{"smtpd", "disconnect from nobody", nil},
	{"smtpd", "lost connection after DATA from x[192.0.2.1]", nil},
	{"smtpd", "C28C6BE042: client=", nil},
	{"smtpd", "C28C6BE042: client=x[192.0.2.1", nil},
	{"smtpd", "C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=", &told{Kind: Client, ID: "C28C6BE042", Address: "192.0.2.1"}},
	{"cleanup", "C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=ann", nil},
	{"cleanup", "C28C6BE042: message-id=<x: client=y, sasl_username=ann>", nil},
	{"pickup", "C28C6BE042: uid=33 from=<www-data>", &told{Kind: Local, ID: "C28C6BE042", UID: 33, Sender: "www-data"}},
	{"pickup", "C28C6BE042: uid=0 from=<>", &told{Kind: Local, ID: "C28C6BE042"}},
	{"pickup", "C28C6BE042: uid=102 from=<ann@x.org> orig_id=C28C6BE041", nil}, // requeued
	{"pickup", "C28C6BE042: uid=-1 from=<x>", nil},
	{"qmgr", "C28C6BE042: from=<a@members.test>, size=317, nrcpt=1 (queue active)", &told{Kind: Queued, ID: "C28C6BE042", Sender: "a@members.test"}},
	{"qmgr", `C28C6BE042: from=<"a>, size=3"@b.test>, size=317, nrcpt=1 (queue active)`, &told{Kind: Queued, ID: "C28C6BE042", Sender: `"a>, size=3"@b.test`}},
	{"qmgr", "C28C6BE042: from=<>, size=317, nrcpt=1 (queue active)", &told{Kind: Queued, ID: "C28C6BE042"}},
	{"qmgr", "C28C6BE042: from=<a@b.test>, status=expired, returned to sender", nil},
	{"qmgr", "C28C6BE042: removed", nil},
	{"local", `C28C6BE042: to=<nobody@x.org>, relay=local, delay=0.1, delays=0.1/0/0/0, dsn=5.1.1, status=bounced (unknown user: "nobody")`,
		&told{Kind: Unknown, ID: "C28C6BE042", Recipient: "nobody@x.org"}},
	{"lmtp", `C28C6BE042: to=<n@y.org>, orig_to=<nobody@x.org>, relay=mx[private/dovecot-lmtp], delay=0.1, delays=0.1/0/0/0, dsn=5.1.1, status=bounced (host mx said: 550 5.1.1 <n@y.org> User doesn't exist: n@y.org)`,
		&told{Kind: Unknown, ID: "C28C6BE042", Recipient: "n@y.org", Original: "nobody@x.org"}},
	{"smtp", "C28C6BE042: to=<u@elsewhere.test>, relay=mx[192.0.2.1]:25, delay=1, delays=1/0/0/0, dsn=5.1.1, status=bounced (550)", nil},
	{"smtpd", "message repeated 3 times: [ warning: unknown[192.0.2.7]: SASL LOGIN authentication failed: x, sasl_username=ann]",
		&told{Kind: Failed, User: "ann", Address: "192.0.2.7", Times: 3}},
	{"smtpd", "message repeated 0 times: [ warning: unknown[192.0.2.7]: SASL LOGIN authentication failed: x, sasl_username=ann]", nil},
	{"smtpd", "message repeated 99999999999 times: [ warning: unknown[192.0.2.7]: SASL LOGIN authentication failed: x]", nil},
}

// heads put what syslog does before a text.
var heads = []struct {
	format string // of tag and text
	want   time.Time
	pid    int
}{
	{"Nov 23 17:19:14 mx1 %s[3168]: %s", time.Date(2026, 11, 23, 17, 19, 14, 0, time.UTC), 3168},
	{"Dec  3 07:09:04 mx1 %s[1]: %s", time.Date(2025, 12, 3, 7, 9, 4, 0, time.UTC), 1}, // of last year
	{"Feb 29 00:00:00 mx1 %s[1]: %s", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC), 1},
	{"2026-11-23T17:19:14.123456+01:00 mx1 %s[3168]: %s", time.Date(2026, 11, 23, 16, 19, 14, 123456000, time.UTC), 3168},
	{"<22>Nov 23 17:34:29 %s[10868]: %s", time.Date(2026, 11, 23, 17, 34, 29, 0, time.UTC), 10868},
	{"<22>1 2026-11-23T17:19:14Z mx1 %s 4334 - - %s", time.Date(2026, 11, 23, 17, 19, 14, 0, time.UTC), 4334},
	{"1 2026-11-23T17:19:14Z mx1 %s 4334 ID47 [a@1 x=\"]\\\" \"][b@2] \xef\xbb\xbf%s", time.Date(2026, 11, 23, 17, 19, 14, 0, time.UTC), 4334},
}

func TestLine(t *testing.T) {
	for _, h := range heads {
		for _, tt := range texts {
			for _, name := range []string{"postfix/", "postfix-out/", "mx/relay/"} {
				line := fmt.Sprintf(h.format, name+tt.service, tt.text)
				var e Event
				if !parse([]byte(line), &e) {
					if tt.want != nil {
						t.Errorf("%s: does not matter, want %+v", line, *tt.want)
					}
					continue
				}
				if tt.want == nil {
					t.Errorf("%s: got %+v, want that it does not matter", line, tell(&e))
					continue
				}
				want := *tt.want
				want.Times = max(want.Times, 1)
				if d := cmp.Diff(want, tell(&e)); d != "" {
					t.Errorf("%s (-want +got):\n%s", line, d)
				}
				if !e.Time.Equal(h.want) {
					t.Errorf("%s: at %v, want %v", line, e.Time, h.want)
				}
				if e.PID != h.pid {
					t.Errorf("%s: of process %d, want %d", line, e.PID, h.pid)
				}
			}
		}
	}
}

// Lines that are not Postfix's, whatever they say.
func TestOthersLines(t *testing.T) {
	const text = "C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=ann"
	for _, line := range []string{
		text, "", "Nov 23 17:19:14", "Nov 23 17:19:14 ", "Nov 23 17:19:14 mx1", "Nov 23 17:19:14 mx1 ",
		"Nov 23 17:19:14 mx1 smtpd[1]: " + text,
		"Nov 23 17:19:14 mx1 evil[1]: postfix/smtpd[1]: " + text,
		"Nov 23 17:19:14 mx1 evil: Nov 23 17:19:14 mx1 postfix/smtpd[1]: " + text,
		"Nov 23 17:19:14 mx1 postfix/smtpd[x]: " + text,
		"Nov 23 17:19:14 mx1 postfix/smtpd[1] " + text,
		"Nov 31 17:19:14 mx1 postfix/smtpd[1]: " + text,
		"Now 23 17:19:14 mx1 postfix/smtpd[1]: " + text,
		"2026-13-23T17:19:14Z mx1 postfix/smtpd[1]: " + text,
		"<>Nov 23 17:19:14 mx1 postfix/smtpd[1]: " + text,
		"<22222>Nov 23 17:19:14 mx1 postfix/smtpd[1]: " + text,
		"1 Nov 23 17:19:14 mx1 postfix/smtpd 1 - - " + text,
		"1 2026-11-23T17:19:14Z mx1 postfix/smtpd 1 - [a " + text,
		"1 2026-11-23T17:19:14Z mx1 postfix/smtpd 1 -",
	} {
		if e := new(Event); parse([]byte(line), e) {
			t.Errorf("%q is taken for %+v", line, tell(e))
		}
	}
}

// collect scans a reader.
func collect(t testing.TB, r io.Reader, want Kind, since time.Time) []told {
	t.Helper()
	var found []told
	s := &scanner{parser: newParser(), want: want, since: since, found: func(e *Event) error {
		found = append(found, tell(e))
		return nil
	}}
	if err := s.scan(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	return found
}

// logOf is a log of every text and some noise, n times over.
func logOf(n int) string {
	var b strings.Builder
	for range n {
		for _, tt := range texts {
			fmt.Fprintf(&b, heads[0].format+"\n", "postfix/"+tt.service, tt.text)
			fmt.Fprintf(&b, "Nov 23 17:19:14 mx1 dovecot: imap-login: Login: user=<ann>, sasl_username=ann\n")
		}
	}
	return b.String()
}

// What is found does not depend on how the log arrives, and lines come in order.
func TestScan(t *testing.T) {
	log := logOf(40)
	var want []told
	for line := range strings.Lines(log) {
		if e := new(Event); parse([]byte(strings.TrimSuffix(line, "\n")), e) {
			want = append(want, tell(e))
		}
	}
	if len(want) < 40*20 {
		t.Fatalf("only %d lines matter", len(want))
	}
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(log), "by bytes": iotest.OneByteReader(strings.NewReader(log)),
		"by halves": iotest.HalfReader(strings.NewReader(log)), "the end with data": iotest.DataErrReader(strings.NewReader(log)),
	} {
		if d := cmp.Diff(want, collect(t, r, all, time.Time{})); d != "" {
			t.Errorf("%s (-line by line +scanned):\n%s", name, d)
		}
	}
	for _, kind := range []Kind{Login, Client, Failed, Local, Queued, Unknown, Login | Failed} {
		var of []told
		for _, e := range want {
			if e.Kind&kind != 0 {
				of = append(of, e)
			}
		}
		if d := cmp.Diff(of, collect(t, strings.NewReader(log), kind, time.Time{})); d != "" || len(of) == 0 {
			t.Errorf("kind %b (-want +got):\n%s", kind, d)
		}
	}
	// What is before the moment is not told; the second of the moment is.
	at := heads[0].want
	if got := collect(t, strings.NewReader(log), all, at.Add(time.Second)); len(got) != 0 {
		t.Errorf("%d lines of later", len(got))
	}
	if got := collect(t, strings.NewReader(log), all, at); len(got) != len(want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	// The last line is still being written.
	cut := strings.TrimSuffix(logOf(1), "\n") + "\n" + strings.TrimSuffix(fmt.Sprintf(heads[0].format, "postfix/smtpd", texts[0].text), "test")
	if got := collect(t, strings.NewReader(cut), Login, time.Time{}); len(got) != 4 {
		t.Errorf("%d logins, want 4: %+v", len(got), got)
	}
	broken := errors.New("the disk is gone")
	s := &scanner{parser: newParser(), want: all, found: func(*Event) error { return nil }}
	if err := s.scan(t.Context(), io.MultiReader(strings.NewReader(log), iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	s.found = func(*Event) error { return broken }
	if err := s.scan(t.Context(), strings.NewReader(log)); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
}

// The sender of a login's message is told once, at qmgr's first line of it.
func TestSent(t *testing.T) {
	var log strings.Builder
	line := func(service, text string, args ...any) {
		fmt.Fprintf(&log, heads[0].format+"\n", "postfix/"+service, fmt.Sprintf(text, args...))
	}
	const n = 500
	for i := range n {
		line("smtpd", "%010X: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=ann", i)
		line("smtpd", "%010X: client=x[192.0.2.1]", n+i)
		if i >= 10 { // the ten before are on their way
			for range 3 {
				line("qmgr", "%010X: from=<a%d@x.test>, size=1, nrcpt=1 (queue active)", i-10, i-10)
				line("qmgr", "%010X: from=<b@x.test>, size=1, nrcpt=1 (queue active)", n+i-10)
			}
		}
	}
	var want []told
	for i := range n - 10 {
		want = append(want, told{Kind: Sent, ID: fmt.Sprintf("%010X", i), Sender: fmt.Sprintf("a%d@x.test", i), Times: 1})
	}
	got := collect(t, strings.NewReader(log.String()), Sent, time.Time{})
	// Two messages may fall on one place: few do.
	missing := 0
	for _, w := range want {
		if len(got) > 0 && got[0] == w {
			got = got[1:]
		} else {
			missing++
		}
	}
	if len(got) > 0 || missing > 5 {
		t.Errorf("%d are missing, and too many: %+v", missing, got)
	}
}

// A line of any length holds nothing up, and costs no memory.
func TestScanLongLines(t *testing.T) {
	line := fmt.Sprintf(heads[0].format+"\n", "postfix/smtpd", texts[0].text)
	for _, n := range []int{maxLine - 100, maxLine + 1, blockSize - 1, blockSize, blockSize + 1, 5 * blockSize} {
		long := strings.Repeat("x", n)
		for _, log := range []string{line + long + "\n" + line, long + line + line + line, line + long + line + line} {
			got := collect(t, strings.NewReader(log), Login, time.Time{})
			if len(got) != 2 {
				t.Errorf("%d bytes in a line: %d logins, want 2", n, len(got))
			}
		}
	}
}

// Lines that do not matter cost nothing.
func TestScanAllocates(t *testing.T) {
	log := bytes.Repeat([]byte("Nov 23 17:19:14 mx1 postfix/smtp[1]: C28C6BE042: to=<a@b.test>, relay=none, delay=1, dsn=4.4.1, status=deferred (x)\n"), 10000)
	s := &scanner{parser: newParser(), want: all, found: func(*Event) error { return nil }}
	if n := testing.AllocsPerRun(10, func() {
		if err := s.scan(context.Background(), bytes.NewReader(log)); err != nil {
			t.Fatal(err)
		}
	}); n > 4 {
		t.Errorf("%v allocations for 10,000 lines", n)
	}
}

// What a line tells is told by a line that is made of it, behind every head; and
// what is found in a log is what is found line by line.
func FuzzLine(f *testing.F) {
	if len(texts) == 0 || len(heads) == 0 {
		f.Fatal("no seeds")
	}
	for i, tt := range texts {
		f.Add(fmt.Appendf(nil, heads[i%len(heads)].format, "postfix/"+tt.service, tt.text))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		line = bytes.ReplaceAll(line, []byte("\n"), []byte("?")) // as Postfix does
		if _, rest, full := cutStamp(line); !full {
			p := newParser()
			for range 2 { // the second time what stands before the service is known
				_, service, text, ok := p.head(line)
				wantService, wantText, want := rare(rest, full)
				if ok != want || !bytes.Equal(service, wantService) || !bytes.Equal(text, wantText) {
					t.Fatalf("%q: the short way finds %q %q, %t, the long one %q %q, %t", line, service, text, ok, wantService, wantText, want)
				}
			}
		}
		var e Event
		ok := parse(line, &e)
		got := collect(t, io.MultiReader(strings.NewReader("noise\n"), bytes.NewReader(line), strings.NewReader("\nnoise")), all, time.Time{})
		if !ok {
			if len(got) != 0 {
				t.Fatalf("%q: nothing by itself, %+v in a log", line, got)
			}
			return
		}
		if d := cmp.Diff([]told{tell(&e)}, got); d != "" {
			t.Fatalf("%q (-by itself +in a log):\n%s", line, d)
		}
		if e.Kind == Login && (len(e.User) == 0 || bytes.HasPrefix(line, []byte("warning"))) {
			t.Fatalf("%q: a login of nobody", line)
		}
		service, text := compose(&e)
		for _, h := range heads {
			again := fmt.Appendf(nil, h.format, "postfix/"+service, text)
			var second Event
			if !parse(again, &second) {
				t.Fatalf("%q tells %+v, and %q nothing", line, tell(&e), again)
			}
			if d := cmp.Diff(tell(&e), tell(&second)); d != "" {
				t.Fatalf("%q, %q (-first +second):\n%s", line, again, d)
			}
		}
	})
}

// compose writes an event as Postfix would.
func compose(e *Event) (service, text string) {
	switch e.Kind {
	case Login:
		service, text = "smtpd", fmt.Sprintf("%s: client=x[%s], sasl_method=PLAIN, sasl_username=%s", e.ID, e.Address, e.User)
	case Client:
		service, text = "smtpd", fmt.Sprintf("%s: client=x[%s]", e.ID, e.Address)
	case Failed:
		service, text = "smtpd", fmt.Sprintf("warning: x[%s]: SASL PLAIN authentication failed: no", e.Address)
		if len(e.User) > 0 {
			text += ", sasl_username=" + string(e.User)
		}
	case Local:
		service, text = "pickup", fmt.Sprintf("%s: uid=%d from=<%s>", e.ID, e.UID, e.Sender)
	case Queued:
		service, text = "qmgr", fmt.Sprintf("%s: from=<%s>, size=1, nrcpt=1 (queue active)", e.ID, e.Sender)
	case Ended:
		service, text = "smtpd", fmt.Sprintf("disconnect from x[%s] ehlo=1 quit=1 commands=2", e.Address)
	case Unknown:
		if e.ID == nil {
			service, text = "smtpd", fmt.Sprintf("NOQUEUE: reject: RCPT from x[192.0.2.1]: 550 5.1.1 <%s>: Recipient address rejected: User unknown in local recipient table; from=<>", e.Recipient)
			break
		}
		to := string(e.Recipient)
		if e.Original != nil {
			to += ">, orig_to=<" + string(e.Original)
		}
		service, text = "local", fmt.Sprintf("%s: to=<%s>, relay=local, dsn=5.1.1, status=bounced (unknown user)", e.ID, to)
	}
	if e.Times > 1 {
		text = fmt.Sprintf("message repeated %d times: [ %s]", e.Times, text)
	}
	return service, text
}
