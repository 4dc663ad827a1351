package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spoolsweep/remote/wire"
)

// noon is when all of these tests play.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.Local)

// after is an event of a host, so many seconds after noon.
func after(seconds float64, host, stage, kind, data string) wire.Event {
	e := wire.Event{Host: host, Instance: DefaultInstance, Time: noon.Add(time.Duration(seconds * float64(time.Second))), Stage: stage, Kind: kind, Data: json.RawMessage(data)}
	if stage == "" {
		e.Index = -1
	}
	return e
}

// liveOf is where hosts are after events, each of which came when it was sent.
func liveOf(hosts []string, events ...wire.Event) *live {
	l := new(live)
	l.add(hosts...)
	var now time.Time
	for _, e := range events {
		if e.Time.After(now) {
			now = e.Time
		}
		l.event(e, now)
	}
	return l
}

func texts(rows []row) string {
	var lines []string
	for _, r := range rows {
		text := r.text
		if r.alarm {
			text = "! " + text
		}
		lines = append(lines, text)
	}
	return strings.Join(lines, "\n")
}

func TestLive(t *testing.T) {
	three := []string{"chavez", "peltier", "relay01"}
	restoring := []wire.Event{
		after(0, "chavez", "restore", wire.Begin, ""),
		after(1, "chavez", "restore", wire.Progress, `{"restored":40,"collisions":10,"failed":0,"of":1000}`),
		after(3, "chavez", "restore", wire.Progress, `{"restored":140,"collisions":10,"failed":0,"of":1000}`),
	}
	for _, c := range []struct {
		name   string
		hosts  []string
		events []wire.Event
		at     float64 // seconds after noon
		width  int
		want   string
	}{
		{"before anything", three, nil, 0, 80,
			"-- 3 hosts: 3 not begun\nchavez   not begun\npeltier  not begun\nrelay01  not begun"},
		{"one is stopped, the others wait for it", three, []wire.Event{
			after(1, "chavez", "stop", wire.Begin, ""), after(2, "chavez", "set-aside", wire.Begin, ""),
			after(1, "peltier", "stop", wire.Ask, `{"kind":"slot"}`), after(1, "peltier", "", wire.End, `{"status":"waiting"}`),
			after(1, "relay01", "count", wire.Begin, ""),
		}, 2, 80,
			"-- 3 hosts: 2 at work, 1 waiting; Postfix down on 1\n" +
				"! chavez   set-aside  Postfix down since 12:00:01\npeltier  waits for its turn\nrelay01  count      since 12:00:01"},
		{"it runs again when its start was proved", three[:1], []wire.Event{
			after(1, "chavez", "stop", wire.Begin, ""), after(2, "chavez", "start", wire.Begin, ""), after(4, "chavez", "start", wire.End, `{"status":"ok"}`),
		}, 4, 80, "-- 1 host: 1 at work\nchavez  start      since 12:00:02"},
		{"a start that failed leaves it down", three[:1], []wire.Event{
			after(1, "chavez", "stop", wire.Begin, ""), after(2, "chavez", "start", wire.Begin, ""),
			after(4, "chavez", "start", wire.End, `{"status":"failed"}`), after(4, "chavez", "", wire.End, `{"status":"failed"}`),
		}, 4, 80, "-- 1 host: 1 failed; Postfix down on 1\n! chavez  FAILED     Postfix down since 12:00:01"},
		{"a stop that failed does not", three[:1], []wire.Event{
			after(1, "chavez", "stop", wire.Begin, ""), after(4, "chavez", "stop", wire.End, `{"status":"failed"}`), after(4, "chavez", "", wire.End, `{"status":"failed"}`),
		}, 4, 80, "-- 1 host: 1 failed\n! chavez  FAILED"},
		{"rate and time left", three[:2], slices.Concat(restoring, []wire.Event{
			after(0, "peltier", "restore", wire.Begin, ""),
			after(1, "peltier", "restore", wire.Progress, `{"restored":2,"of":12000}`),
			after(2, "peltier", "restore", wire.Progress, `{"restored":5,"of":12000}`),
		}), 3, 80,
			"-- 2 hosts: 2 at work; restore 155 of 13,000, 67 min left, 53/s\n" +
				"chavez   restore    150 of 1,000    17 s left   50/s\n" +
				"peltier  restore     5 of 12,000  67 min left  3.0/s"},
		{"a rate is not told for long when nothing more is counted", three[:1], restoring, 10, 80,
			"-- 1 host: 1 at work\nchavez  restore    150 of 1,000"},
		{"where counts come seldom it is", three[:1], restoring, 8, 80,
			"-- 1 host: 1 at work\nchavez  restore    150 of 1,000  17 s left  50/s"},
		{"nor one of a clock that was set back", three[:1], append(slices.Clone(restoring), after(-9, "chavez", "restore", wire.Progress, `{"restored":150,"of":1000}`)), 3, 80,
			"-- 1 host: 1 at work\nchavez  restore    150 of 1,000  17 s left  50/s"},
		{"the end of a stage counts what it came to", three[:2], slices.Concat(restoring, []wire.Event{
			after(4, "chavez", "restore", wire.Result, `{"restored":985,"collisions":10,"failed":5,"left":5,"by_queue":{"incoming":985}}`), after(5, "chavez", "", wire.End, `{"status":"ok"}`),
			after(4, "peltier", "restore", wire.Begin, ""), after(5, "peltier", "restore", wire.Progress, `{"restored":500,"of":1000}`),
		}), 5, 80,
			"-- 2 hosts: 1 done, 1 at work; restore 1,500 of 2,000\nchavez   done\npeltier  restore    500 of 1,000"},
		{"classify is through with so many of those set aside", three[:1], []wire.Event{
			after(0, "chavez", "set-aside", wire.Result, `{"queues":{"incoming":{"messages":2000,"to":"incoming.spamfull"},"deferred":{"messages":1000,"to":"deferred.spamfull"},"defer":{"messages":900,"to":"defer.spamfull"}}}`),
			after(0, "chavez", "classify", wire.Begin, ""), after(1, "chavez", "classify", wire.Progress, `{"messages":1500,"spam":1400,"ham":100}`),
		}, 1, 80, "-- 1 host: 1 at work\nchavez  classify   1,500 of 3,000"},
		{"what there is no room for is left out", three[:1], restoring, 3, 34,
			"-- 1 host: 1 at work\nchavez  restore    150 of 1,000"},
		{"instances", []string{"mx/out", "mx"}, nil, 0, 80, "-- 2 instances: 2 not begun\nmx/out  not begun\nmx      not begun"},
		{"wide names stand in columns, too", []string{"日本", "mx1"}, nil, 0, 80, "-- 2 hosts: 2 not begun\n日本  not begun\nmx1   not begun"},
		{"numbers that cannot be, and names that are no stage's", three[:1], []wire.Event{
			after(0, "chavez", "e\x1b[2J\u202e", wire.Begin, ""),
			after(1, "chavez", "e\x1b[2J\u202e", wire.Progress, `{"restored":-5,"of":-1,"messages":"x"}`),
			after(1, "nobody", "restore", wire.Begin, ""),
		}, 1, 80, "-- 1 host: 1 at work\nchavez  ?          since 12:00:00"},
		{"a host that claims too much", three[:1], []wire.Event{
			after(0, "chavez", "restore", wire.Begin, ""),
			after(1, "chavez", "restore", wire.Progress, `{"restored":1,"of":9223372036854775807}`), after(2, "chavez", "restore", wire.Progress, `{"restored":2,"of":9223372036854775807}`),
		}, 2, 80, "-- 1 host: 1 at work\nchavez  restore    2 of 1,000,000,000,000  1000 h 00 min left  1.0/s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := liveOf(c.hosts, c.events...)
			if got := texts(l.lines(noon.Add(time.Duration(c.at*float64(time.Second))), c.width, 24)); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// However many hosts there are, whatever they are at, and however small the screen
// is: each is told, on lines that fit, with room left above.
func TestLiveFits(t *testing.T) {
	for _, hosts := range []int{1, 3, 20, 200, 1000} {
		for _, apart := range []bool{false, true} {
			l := new(live)
			for i := range hosts {
				name := fmt.Sprintf("web%03d", i+1)
				if i%7 == 0 {
					name = fmt.Sprintf("mail-%c.far%d.example.org", 'a'+i%26, i)
				}
				l.add(name)
				seconds := float64(i)
				switch kind := i % 10; {
				case kind < 4:
					l.event(after(seconds, name, "restore", wire.Begin, ""), noon)
					l.event(after(seconds+1, name, "restore", wire.Progress, fmt.Sprintf(`{"restored":%d,"of":%d}`, i, i*1000)), noon)
				case kind < 6:
					l.event(after(seconds, name, "stop", wire.Begin, ""), noon)
				case kind < 8:
					l.event(after(seconds, name, "", wire.End, `{"status":"ok"}`), noon)
				case apart:
					stages := []string{"count", "command", "restart", "suspects", "classify", "watch", "confirm", "putback", "adopt", "purge", "delete"}
					l.event(after(seconds, name, stages[i%len(stages)], wire.Begin, ""), noon)
				}
			}
			for _, size := range [][2]int{{80, 24}, {80, 20}, {200, 50}, {40, 10}, {20, 5}, {3, 3}, {1, 1}} {
				rows := l.lines(noon, size[0], size[1])
				if len(rows) > max(1, size[1]*2/3) {
					t.Errorf("%d hosts at %v: %d lines", hosts, size, len(rows))
				}
				for _, r := range rows {
					if columns(r.text) > max(1, size[0]-1) {
						t.Errorf("%d hosts at %v: %d columns: %s", hosts, size, columns(r.text), r.text)
					}
				}
				if size[1] >= 20 && !apart && strings.Contains(texts(rows), " more ") {
					t.Errorf("%d hosts at %v: not all are told:\n%s", hosts, size, texts(rows))
				}
			}
			var told int
			for _, line := range l.busy(noon) {
				if !strings.Contains(line, ": ") {
					t.Errorf("%s", line)
				}
				told++
			}
			if told == 0 || told > 16 {
				t.Errorf("%d hosts: %d lines are busy", hosts, told)
			}
		}
	}
}

func TestFoldNames(t *testing.T) {
	for _, c := range []struct{ names, want string }{
		{"web1", "web1"},
		{"web", "web"},
		{"web web1 web2", "web, web[1:2]"},
		{"web3 web1 web2 web7", "web[1:3,7]"},
		{"web8 web9 web10 web11", "web[8:11]"},
		{"web08 web09 web10 web11", "web[08:11]"},
		{"web1.a.org web2.a.org web1.b.org", "web[1:2].a.org, web1.b.org"},
		{"mx1/out mx2/out mx1", "mx[1:2]/out, mx1"},
		{"rack2-web1 rack2-web2", "rack2-web[1:2]"},
		{"web1-a web2-a", "web[1:2]-a"},
		{"10.0.0.1 10.0.0.2", "10.0.0.1, 10.0.0.2"},
		{"chavez peltier", "chavez, peltier"},
		{"web99999999999999999999999", "web99999999999999999999999"},
	} {
		if got := strings.Join(foldNames(strings.Fields(c.names)), ", "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.names, got, c.want)
		}
	}
}

// erased are so many lines, and the cursor where the first of them was.
func erased(lines int) string { return fmt.Sprintf("\r\x1b[%dA\x1b[K\n\x1b[J\x1b[1A\x1b[K", lines) }

// Only what has changed is drawn, and what is drawn ends where it began.
func TestScreenDrawsChanges(t *testing.T) {
	s := NewScreen(io.Discard, func() (int, int) { return 80, 24 }, true)
	drawn := func(said string, lines ...string) string {
		var rows []row
		for _, l := range lines {
			text, alarm := strings.CutPrefix(l, "! ")
			rows = append(rows, row{text, alarm})
		}
		return string(s.frame([]byte(said), rows, 80))
	}
	for _, c := range []struct{ what, got, want string }{
		{"first", drawn("", "a", "b", "c"), "\r\x1b[K\ra\x1b[K\n\rb\x1b[K\n\rc\x1b[K\n"},
		{"nothing is new", drawn("", "a", "b", "c"), ""},
		{"one line is", drawn("", "a", "B", "c"), "\r\x1b[2A\rB\x1b[K\n\n"},
		{"the last is", drawn("", "a", "B", "C"), "\r\x1b[1A\rC\x1b[K\n"},
		{"one more", drawn("", "a", "B", "C", "d"), "\rd\x1b[K\n"},
		{"two less", drawn("", "a", "B"), "\r\x1b[2A\r\x1b[J"},
		{"something is said", drawn("hear\n", "a", "B"), erased(2) + "hear\n\ra\x1b[K\n\rB\x1b[K\n"},
		{"an alarm", drawn("", "a", "! B"), "\r\x1b[1A\r\x1b[31mB\x1b[m\x1b[K\n"},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
	s.typed = 2
	if got, want := string(s.withdraw([]byte("bye\n"))), erased(4)+"bye\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A question has the screen for itself: what is found meanwhile waits for its
// answer, and what goes wrong does not, after which the question stands there again.
func TestQuestionHasTheScreen(t *testing.T) {
	var err, out bytes.Buffer
	p := &Printer{Out: &out, Err: &err, Width: 6}
	p.Screen = NewScreen(&err, func() (int, int) { return 80, 24 }, false)
	p.OneTerminal, p.drawn = true, true
	p.Expect([]string{"chavez"})
	said := func(do func()) string {
		err.Reset()
		do()
		p.draw()
		return err.String()
	}
	const view = "\r-- 1 host: 1 not begun\x1b[K\n\rchavez  not begun\x1b[K\n"
	for _, c := range []struct {
		what string
		do   func()
		want string
	}{
		{"the same of several", func() {
			for _, host := range []string{"", "mx1", "mx2", "mx2", "mx3"} {
				p.Note(host, "done")
			}
			p.Note("mx4", "not done")
		}, "\r\x1b[Kdone\nmx[1:3] | done\nmx4    | not done\n" + view},
		{"a result", func() { p.Line("chavez", "found") }, erased(2) + "chavez | found\n" + view},
		{"a question", func() { p.Ask("well? ") }, erased(2) + "well? "},
		{"a result meanwhile", func() { p.Line("chavez", "more") }, ""},
		{"an error meanwhile", func() { p.Alert("chavez", "gone") }, "\nchavez | more\nchavez | gone\nwell? "},
		{"a note", func() { p.Note("chavez", "hm") }, ""},
		{"the answer", func() { p.Answered(true) }, "\r\x1b[Kchavez | hm\n" + view},
		{"Enter", func() { p.Typed("") }, erased(3) + "chavez: not begun\n" + view},
		{"what is typed too early", func() { p.Typed("y") }, erased(3) + view},
	} {
		if got := said(c.do); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
	if out.Len() > 0 {
		t.Errorf("beside the screen: %q", out.String())
	}
}

// stuck is a terminal that takes nothing until it is let go, as one does after
// Ctrl-S or at the end of a link that has stalled.
type stuck struct {
	bytes.Buffer
	reached, free chan struct{}
	once          sync.Once
}

func (s *stuck) Write(b []byte) (int, error) {
	s.once.Do(func() { close(s.reached) })
	<-s.free
	return s.Buffer.Write(b)
}

// Whoever follows the hosts is not held up by a terminal that takes nothing: other
// hosts want their turns. What was said meanwhile is there in the end, in its order.
func TestStuckTerminal(t *testing.T) {
	terminal := &stuck{reached: make(chan struct{}), free: make(chan struct{})}
	p := &Printer{Out: io.Discard, Err: terminal}
	p.Screen = NewScreen(terminal, func() (int, int) { return 80, 24 }, false)
	stop := p.Follow([]string{"chavez"})
	<-terminal.reached
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 1000 {
			p.Event(wire.Event{Host: "chavez", Instance: "-", Seq: int64(i + 1), Stage: "restore", Kind: wire.Progress, Data: []byte(`{"restored":1,"of":2}`)})
			p.Alert("chavez", "line %d", i)
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("held up by the terminal")
	}
	close(terminal.free)
	stop()
	var want strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&want, "chavez | line %d\n", i)
	}
	if got := terminal.String(); !strings.Contains(got, want.String()) {
		t.Errorf("said in the end: %.2000q", got)
	}
}
