package practice

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// What Postfix 3.7.11 made of the same message (testdata: SMTP from localhost,
// and sendmail) must come out byte for byte.
func TestComposeAsPostfix(t *testing.T) {
	for _, test := range []struct {
		file     string
		m        Message
		session  session
		received int // lines that come before the message's own
	}{
		{"03757984261", Message{ClientName: "localhost", ClientAddress: "127.0.0.1", Helo: "lab"}, session{"58876", "127.0.0.1", "2599"}, 3},
		{"176BF9840D4", Message{Queue: spool.Maildrop}, session{}, 0},
	} {
		want, err := os.ReadFile("testdata/" + test.file)
		if err != nil {
			t.Fatal(err)
		}
		m := test.m
		var r queuefile.Reader
		r.Reset(bytes.NewReader(want), int64(len(want)), m.Queue == spool.Maildrop)
		e, err := r.Envelope()
		if err != nil {
			t.Fatal(err)
		}
		m.Sender, m.Arrived = e.Sender, e.Arrival.UTC()
		for _, rcpt := range e.Recipients {
			m.Recipients = append(m.Recipients, rcpt.Address)
		}
		var text strings.Builder
		if err := r.Content(func(piece []byte, eol bool) error {
			text.Write(piece)
			if eol {
				text.WriteByte('\n')
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		m.Text = strings.Join(strings.SplitAfter(text.String(), "\n")[test.received:], "")
		got, offsets := m.compose(test.file, "mx1.mayfirst.test", test.session)
		if !bytes.Equal(got, want) {
			t.Errorf("%s:\ngot  %q\nwant %q", test.file, got, want)
		}
		for i, at := range offsets {
			if !bytes.HasPrefix(got[at+2:], []byte(m.Recipients[i])) || got[at] != 'R' {
				t.Errorf("%s: no recipient record at %d", test.file, at)
			}
		}
	}
}

func TestComposedIsWhole(t *testing.T) {
	long := strings.Repeat("x", 5000)
	m := Message{
		ID: "one", Sender: "carlos@chavez.practice.test", Recipients: []string{"b@far.test", "c@far.test"},
		Original: []string{"list@far.test"}, Login: "carlos", ClientName: "home.test", ClientAddress: "2001:db8::1", Helo: "pc",
		Arrived: time.Unix(1795477390, 123456000), Text: "Subject: long\r\n\r\n" + long + "\r\nend",
	}
	file, _ := m.compose("1E240ABC", "chavez.practice.test", session{"1", "::1", "25"})
	var r queuefile.Reader
	r.Reset(bytes.NewReader(file), int64(len(file)), false)
	e, err := r.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	if e.Sender != m.Sender || e.Login != "carlos" || e.ClientName != "home.test" || e.ClientAddress != "2001:db8::1" || !e.Arrival.Equal(m.Arrived) ||
		len(e.Recipients) != 2 || e.Recipients[0].Original != "list@far.test" || e.Recipients[1].Original != "c@far.test" {
		t.Errorf("envelope: got %+v", e)
	}
	var text strings.Builder
	if err := r.Content(func(piece []byte, eol bool) error {
		text.Write(piece)
		if eol {
			text.WriteByte('\n')
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"X-Practice-Id: one\n", "\nFrom: carlos@chavez.practice.test\n\n" + long + "\nend\n", "with ESMTPSA id 1E240ABC;\n\t"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in %q", want, text.String())
		}
	}
}

func TestIncident(t *testing.T) {
	const n = 1000
	all := Incident("chavez", "spam-account", n, 1)
	again := Incident("chavez", "spam-account", n, 1)
	if len(all) != n {
		t.Fatalf("%d messages, want %d", len(all), n)
	}
	count := map[string]int{}
	ids := map[string]bool{}
	for i, m := range all {
		if m.Text != again[i].Text || m.ID != again[i].ID {
			t.Fatalf("message %d differs between two calls with one seed", i)
		}
		ids[m.ID] = true
		count[string(m.Label)]++
		count[string(m.Queue)]++
		toIt := m.Sender == "" && m.Recipients[0] == "spam-account@chavez.practice.test"
		if spam := m.Login == "spam-account" || toIt; spam != (m.Label == Spam) {
			t.Errorf("%s: %s, but login %q, sender %q, recipients %v", m.ID, m.Label, m.Login, m.Sender, m.Recipients)
		}
		if m.Label == Spam {
			count["login "+m.Login]++
			if !strings.Contains(m.Text, "media.php") {
				count["base64 "+m.Login]++
			}
		} else if strings.Contains(m.Text, "media.php") {
			count["ham media.php"]++
		}
	}
	t.Log(count)
	if len(ids) != n {
		t.Errorf("%d different ids, want %d", len(ids), n)
	}
	for what, least := range map[string]int{
		"spam": 700, "ham": 200, "incoming": 200, "active": 200, "deferred": 100, "login spam-account": 400, "login ": 250,
		"base64 spam-account": 140, "base64 ": 90, "ham media.php": 3,
	} {
		if count[what] < least {
			t.Errorf("%s: %d, want at least %d", what, count[what], least)
		}
	}
}
