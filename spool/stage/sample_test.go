package stage

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// look has a host do one look.
func look(t *testing.T, h *Host, name, args string) Result {
	t.Helper()
	row, ok := Lookup(name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	a, err := row.Parse([]byte(args))
	if err != nil {
		t.Fatal(err)
	}
	r, err := row.Run(t.Context(), h, a, func(string, any) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func lookedAt(t *testing.T, h *practice.Host) *Host {
	t.Helper()
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	return &Host{Postfix: p}
}

// A flood does not hide what is no flood: every sender has the same chance.
func TestSampleIsStratified(t *testing.T) {
	h := newHost(t)
	var mail []practice.Message
	for i := range 400 {
		mail = append(mail, practice.Message{Sender: "flood@x.test", Recipients: []string{fmt.Sprintf("r%d@y.test", i)}, Text: "Subject: buy\n\nbuy\n"})
	}
	for i := range 3 {
		mail = append(mail, practice.Message{Sender: fmt.Sprintf("few%d@x.test", i), Recipients: []string{"one@z.test"}, Text: "Subject: letter\n\nhello\n"})
	}
	submit(t, h, mail...)
	host := lookedAt(t, h)
	s := look(t, host, "sample", `{"messages": 12, "live": ["incoming"]}`).(*Sampled)
	if s.Messages != 403 || len(s.Samples) != 12 || s.Unread != 0 {
		t.Fatalf("%d of %d messages, %d unreadable", len(s.Samples), s.Messages, s.Unread)
	}
	senders, whys, seen := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, m := range s.Samples {
		senders[m.Envelope.Sender], whys[m.Why] = true, true
		if seen[m.Message] {
			t.Errorf("%s twice", m.Message)
		}
		seen[m.Message] = true
	}
	if len(senders) != 4 || !whys["1 of 400 from this sender"] {
		t.Errorf("senders %v, why %v", senders, whys)
	}
	first := look(t, host, "sample", `{"messages": 3, "live": ["incoming"]}`).(*Sampled).Samples[0].Message
	for range 20 {
		if look(t, host, "sample", `{"messages": 3, "live": ["incoming"]}`).(*Sampled).Samples[0].Message != first {
			return
		}
	}
	t.Errorf("21 samples begin with the same message")
}

// The counts of the strata that stay are exact, and all of them stay where they
// are few.
func TestStrata(t *testing.T) {
	for keep := 1; keep < 30; keep += 7 {
		s, want := newStrata(keep), map[string]int64{}
		for range 5000 {
			value := fmt.Sprint(rand.IntN(20))
			want[value]++
			s.add(value, spot{id: value})
		}
		if len(s.all) != min(keep, 20) {
			t.Errorf("%d strata, want %d", len(s.all), min(keep, 20))
		}
		for value, k := range s.all {
			if k.count != want[value] || k.at.id != value {
				t.Errorf("%s: %d, want %d; at %v", value, k.count, want[value], k.at)
			}
		}
	}
}

// A sample is decoded; raw it is what strings prints; redacted it names nobody.
func TestSampleText(t *testing.T) {
	h := newHost(t)
	submit(t, h, practice.Message{
		Queue: spool.Hold, Sender: "Ana.Lopez@here.test", Recipients: []string{"bob@there.test", "Ana.Lopez@here.test"}, Login: "analog",
		ClientName: "client.far.test", ClientAddress: "203.0.113.9",
		Text: "From: Ana <Ana.Lopez@here.test>\nSubject: =?utf-8?q?gr=C3=BCn?=\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n" +
			"--b\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n" + practice.Base64("write to bob@there.test, or mailto:bob@there.test?x\n") +
			"\n--b\nContent-Type: application/pdf; name=\"a.pdf\"\nContent-Transfer-Encoding: base64\n\nAAAA\n--b--\n",
	})
	host := lookedAt(t, h)
	text := func(args string) string {
		s := look(t, host, "sample", `{"messages": 1, "live": ["hold"]`+args+`}`).(*Sampled)
		if len(s.Samples) != 1 {
			t.Fatalf("got %+v", s)
		}
		out, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	for args, row := range map[string]struct{ has, hasNot []string }{
		``:                 {[]string{"Subject: grün", "write to bob@there.test", "attachment: a.pdf, application/pdf, 3 bytes", `"login":"analog"`}, []string{"AAAA"}},
		`, "raw": true`:    {[]string{"Subject: =?utf-8?q?gr=C3=BCn?=", "bob@there.test", `"header":[]`}, []string{"write to"}},
		`, "redact": true`: {[]string{"Subject: grün", "write to address-2", "From: Ana <address-1>", "login-1", `"sender":"address-1"`}, []string{"@", "here.test", "there.test", "analog", "203.0.113", "client.far"}},
	} {
		got := text(args)
		for _, s := range row.has {
			escaped, _ := json.Marshal(s)
			if !strings.Contains(got, s) && !strings.Contains(got, strings.Trim(string(escaped), `"`)) {
				t.Errorf("%s: no %q in\n%s", args, s, got)
			}
		}
		for _, s := range row.hasNot {
			if strings.Contains(got, s) {
				t.Errorf("%s: %q in\n%s", args, s, got)
			}
		}
	}
	row, _ := Lookup("sample")
	for _, args := range []string{`{"messages": 0}`, `{"messages": 21}`, `{"mesages": 1}`} {
		if _, err := row.Parse([]byte(args)); err == nil {
			t.Errorf("%s is accepted", args)
		}
	}
	if _, ok := Find("sample"); ok {
		t.Error("a playbook may sample: mail would stay in the record of its run")
	}
}

// However long and strange a mail is, a result with the most messages fits into a
// frame.
func TestSampleFits(t *testing.T) {
	h := newHost(t)
	evil := strings.Repeat(strings.Repeat("\x01\x02\x1b", 300)+"\n", 40)
	var mail []practice.Message
	for i := range 25 {
		mail = append(mail, practice.Message{Queue: spool.Hold, Sender: fmt.Sprintf("%s%d@x.test", strings.Repeat("\x01", 1000), i), Recipients: []string{"bob@y.test"},
			Text: "Subject: " + strings.Repeat("\x02", 900) + "\n\n" + evil})
	}
	submit(t, h, mail...)
	s := look(t, lookedAt(t, h), "sample", `{"messages": 20, "live": ["hold"]}`)
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(s.(*Sampled).Samples); n != 20 || len(text) > 1<<20-4096 {
		t.Errorf("%d samples are %d bytes", n, len(text))
	}
}

// Levels, and whose what is aside is.
func TestCountJudges(t *testing.T) {
	queues := func(incoming, active, deferred, hold int64) map[spool.Queue]spool.Count {
		return map[spool.Queue]spool.Count{
			spool.Incoming: {Messages: incoming}, spool.Active: {Messages: active}, spool.Deferred: {Messages: deferred}, spool.Hold: {Messages: hold},
		}
	}
	day := int64(86400)
	for _, row := range []struct {
		queues map[spool.Queue]spool.Count
		left   spool.Leftover
		want   string
	}{
		{queues(300, 200, 500, 9000), spool.Leftover{}, LevelOK},
		{queues(300, 201, 0, 0), spool.Leftover{}, LevelBusy},
		{queues(0, 0, 5000, 0), spool.Leftover{}, LevelBusy},
		{queues(2500, 2501, 0, 0), spool.Leftover{}, LevelFlooded},
		{queues(0, 0, 0, 0), spool.Leftover{Count: spool.Count{Messages: 1}, Age: 7 * day}, LevelOK},
		{queues(0, 0, 0, 0), spool.Leftover{Count: spool.Count{Messages: 1}, Age: 7*day + 1}, LevelBusy},
		{queues(0, 0, 0, 0), spool.Leftover{Age: 70 * day}, LevelOK},
		{queues(0, 0, 5001, 0), spool.Leftover{Count: spool.Count{Messages: 1}, Age: 70 * day}, LevelFlooded},
	} {
		c := Counts{Warn: 500, Crit: 5000}
		c.Queues, c.SetAside = row.queues, map[string]spool.Leftover{"incoming.spamfull": row.left}
		c.judge(Vars{}.Leftover())
		if c.Level != row.want || (len(c.Why) > 0) != (row.want != LevelOK) {
			t.Errorf("%v, %v: got %s %v, want %s", row.queues, row.left, c.Level, c.Why, row.want)
		}
	}
	for seconds, want := range map[int64]string{0: "0 s", 59: "59 s", 60: "1 min", 3700: "1 h 1 min", 86399: "23 h 59 min", 86400: "1 d", 90000: "1 d 1 h", 8 * 86400: "8 d"} {
		if got := Age(seconds); got != want {
			t.Errorf("Age(%d) is %q, want %q", seconds, got, want)
		}
	}
	for bytes, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9940: "9.9 kB", 12345: "12 kB", 999600: "1.0 MB", 7e6: "7.0 MB", 3e9: "3.0 GB"} {
		if got := size(bytes); got != want {
			t.Errorf("size(%d) is %q, want %q", bytes, got, want)
		}
	}
}
