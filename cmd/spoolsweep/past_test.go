package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/inventory"
)

// How much more there is than at the last look is told, whatever happened to the end
// of the file; and what is kept says no more than how many messages there were.
func TestHealthPast(t *testing.T) {
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	f := fleetOf(t, flooded, "chavez").withFlood(300)
	waitQuiet(t, f)
	r := f.spoolsweep("health")
	r.want(t, 0)
	if strings.Contains(r.out, "since the last look") {
		t.Errorf("compares with nothing: %s", r.out)
	}
	file := filepath.Join(state, "spoolsweep", "health.jsonl")
	text, err := os.ReadFile(file)
	var first pastLine
	if err != nil || json.Unmarshal(text, &first) != nil || len(first.Hosts) != 1 {
		t.Fatalf("%v: %s", err, text)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, not := range []string{"127.0.0.1", demoAccount, f.hosts[0].Dir, "deferred"} {
		if strings.Contains(string(text), not) {
			t.Errorf("%q is kept: %s", not, text)
		}
	}
	// Again at once: nothing is told, and nothing kept.
	f.spoolsweep("health", "-o", "json").want(t, 0, `"messages": `)
	if again, err := os.ReadFile(file); err != nil || string(again) != string(text) {
		t.Errorf("%v: %s", err, again)
	}
	var key string
	var n [2]int64
	for key, n = range first.Hosts {
	}
	line := func(ago time.Duration, messages, aside int64) string {
		text, err := json.Marshal(pastLine{time.Now().Add(-ago).Unix(), map[string][2]int64{key: {messages, aside}, "other 12345678": {1, 2}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	was := line(3*time.Hour, 0, 0) + "\n" + line(2*time.Hour, n[0]/2, 0) + "\n\x00\n" + line(10*time.Minute, n[0]-20, 5) + "\n"
	if err := os.WriteFile(file, []byte(was+line(5*time.Minute, 7, 7)[:30]), 0o600); err != nil { // it was cut short
		t.Fatal(err)
	}
	r = f.spoolsweep("health")
	r.want(t, 0, "since the last look, 10 min", " ago: +20 messages, -5 aside; trend [_=*#]")
	text, err = os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(text), was) || !strings.HasSuffix(string(text), "}}\n") {
		t.Errorf("%v: %s", err, text)
	}
	r = f.spoolsweep("health", "-o", "json") // compared with the same, not with a moment ago
	r.want(t, 0)
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatal(err)
	}
	if p := doc.Hosts[0].Past; p == nil || len(p.Looks) != 3 || p.Grown != 20 || p.Aside != -5 || p.Seconds < 600 || !p.Looks[0].At.Before(p.Looks[2].At) {
		t.Errorf("past %+v", p)
	}
	// A folder that cannot be written is no reason not to look.
	t.Setenv("XDG_STATE_HOME", "/dev/null")
	f.spoolsweep("health", "-v").want(t, 0, "could not be kept for the next time")
	f.spoolsweep("health", "--exit-status", "--warn", "5000", "--crit", "6000").want(t, 0, "SPOOLSWEEP OK")
}

// The file has a bound, and what is newest stays; hosts of one name that are reached
// at other places are told apart.
func TestPastBounded(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	result := func(n int) json.RawMessage {
		return json.RawMessage(fmt.Sprintf(`{"queue_directory": "/var/spool/postfix", "messages": %d}`, n))
	}
	var members []*member
	for i := range 2000 {
		h := &inventory.Host{Name: fmt.Sprintf("mx%d.example.org", i/2)}
		h.Connection.Host = fmt.Sprintf("192.0.2.%d", 1+i%2)
		members = append(members, &member{host: h, Host: &show.Host{Host: h.Name}})
	}
	at := time.Now().Add(-100 * time.Hour)
	p := readPast()
	for round := range 60 {
		for i, m := range members {
			m.Result = result(10*round + i%2)
			p.compare(m, at)
		}
		if err := p.keep(members, at); err != nil {
			t.Fatal(err)
		}
		at = at.Add(time.Hour)
	}
	if info, err := os.Stat(p.file); err != nil || info.Size() > maxPast {
		t.Errorf("%v, %v", info, err)
	}
	entries, err := os.ReadDir(filepath.Dir(p.file))
	if err != nil || len(entries) != 1 {
		t.Errorf("beside it are %v, %v", entries, err)
	}
	p = readPast()
	if len(p.hosts) != len(members) {
		t.Errorf("%d hosts are known, want %d", len(p.hosts), len(members))
	}
	for i, m := range members[:2] {
		m.Result = result(600)
		p.compare(m, at)
		if m.Past == nil || m.Past.Grown != int64(10-i) || m.Past.Seconds != 3600 || len(m.Past.Looks) < 2 || len(m.Past.Looks) > looksKept {
			t.Errorf("%d: %+v", i, m.Past)
		}
	}
	m := members[0]
	m.Result = json.RawMessage(`"?"`)
	if p.compare(m, at); m.Past != nil || m.lookKey != "" {
		t.Errorf("what cannot be read has a past: %+v", m.Past)
	}
}
