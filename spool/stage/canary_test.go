package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool"
)

func TestRefusedIn(t *testing.T) {
	for line, want := range map[string]string{
		"Nov 23 17:34:29 chavez postfix/smtp[123]: 4Xk1bC2xQy: to=<a@b.test>, relay=mx.b.test[192.0.2.1]:25, delay=1, delays=0/0/1/0, dsn=5.1.1, status=bounced (host mx.b.test[192.0.2.1] said: 550 no)": "4Xk1bC2xQy 5.1.1",
		"2026-11-23T17:34:29.1+01:00 chavez postfix/local[1]: A1: to=<a@b.test>, orig_to=<c@b.test>, relay=local, delay=1, delays=1/0/0/0, dsn=5.1.1, status=bounced (unknown user)":                      "A1 5.1.1",
		"Nov 23 chavez postfix/smtp[1]: A1: to=<a@b.test>, relay=none, delay=1, delays=1/0/0/0, dsn=4.4.1, status=deferred (dsn=5.1.1, status=bounced )":                                                  " ",
		"Nov 23 chavez postfix/smtp[1]: A1: to=<a@b.test>, relay=x, delay=1, dsn=2.0.0, status=sent (250 ok)":                                                                                             " ",
		"Nov 23 chavez postfix/smtp[1]: A1: to=<a, dsn=5.0.0, status=bounced x@b.test>, relay=x, delay=1, dsn=2.0.0, status=sent (250 ok)":                                                                " ",
		"Nov 23 chavez postfix/qmgr[1]: A1: from=<a@b.test>, status=expired, returned to sender":                                                                                                          " ",
		"Nov 23 chavez postfix/smtp[1]: A1: to=<a@b.test>, relay=x, delay=1, dsn=5.1.1xxxxxxxxxx, status=bounced (no)":                                                                                    " ",
		"": " ",
	} {
		id, code := refusedIn(line)
		if got := id + " " + code; got != want {
			t.Errorf("%s:\ngot %q, want %q", line, got, want)
		}
	}
}

func FuzzRefusedIn(f *testing.F) {
	f.Add("x: 4Xk: to=<a@b.test>, relay=x, dsn=5.1.1, status=bounced (no)")
	f.Add(": to=<")
	f.Fuzz(func(t *testing.T, line string) {
		id, code := refusedIn(line)
		if (id != "" || code != "") && (!strings.Contains(line, id+": to=<") || !strings.Contains(line, ", dsn="+code+", status=bounced ") || !strings.HasPrefix(code, "5.")) {
			t.Errorf("%q: got %q, %q", line, id, code)
		}
	})
}

func bounced(id string) string {
	return "Nov 23 chavez postfix/smtp[1]: " + id + ": to=<a@b.test>, relay=x, delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (no)\n"
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A log is followed from its end on, line by whole line, and past its rotation.
func TestLogFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.log")
	appendTo(t, path, "old\n")
	log := followLog(&spool.Postfix{Settings: spool.Settings{LogFile: path}})
	if log == nil {
		t.Fatal("no log is found")
	}
	defer log.close()
	news := func(want string) {
		t.Helper()
		if got := strings.TrimSpace(strings.Join(log.lines(t.Context()), " ")); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	news("")
	appendTo(t, path, "one\ntwo\nhal")
	news("one two")
	appendTo(t, path, "f\n")
	news("half")
	appendTo(t, path, "last\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	appendTo(t, path, "first of the new\n")
	news("last first of the new")
	appendTo(t, path, "next\n")
	news("next")
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	news("")
	appendTo(t, path, "after\n")
	news("after")
}

// Where the log is the journal's, that is asked. The journalctl is a stand-in.
func TestJournal(t *testing.T) {
	dir := t.TempDir()
	files, mark := logFiles, journalMark
	t.Cleanup(func() { logFiles, journalMark = files, mark })
	logFiles, journalMark = nil, filepath.Join(dir, "socket")
	ours, err := os.Create(filepath.Join(dir, "events")) // what this process writes, as /dev/stdout may be
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	p := &spool.Postfix{Settings: spool.Settings{LogFile: fmt.Sprintf("/dev/fd/%d", ours.Fd())}}
	if followLog(p) != nil {
		t.Error("a log where none is")
	}
	appendTo(t, journalMark, "")
	program(t, filepath.Join(dir, "journalctl"), `case "$*" in *"--since=@"*"--grep=dsn=5"*"SYSLOG_FACILITY=2") echo "`+strings.TrimSpace(bounced("4Xk"))+`" ;; *) exit 1 ;; esac`)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	log := followLog(p)
	if log == nil {
		t.Fatal("the journal is not found")
	}
	if id, _ := refusedIn(log.lines(t.Context())[0]); id != "4Xk" {
		t.Errorf("got %q", id)
	}
	log.close()
}

// What became of the first messages decides whether the others go.
func TestCanary(t *testing.T) {
	limit, quiet, poll := canaryLimit, canaryQuiet, canaryPoll
	t.Cleanup(func() { canaryLimit, canaryQuiet, canaryPoll = limit, quiet, poll })
	canaryLimit, canaryQuiet, canaryPoll = 10*time.Second, 50*time.Millisecond, time.Millisecond
	ids := ranged(10, "ABCDEF") // valid queue ids
	for _, tt := range []struct {
		name            string
		refused, stay   int
		of, size        int
		more            int // refused later on
		asks, asksLater bool
	}{
		{"none refused", 0, 0, 100, 10, 0, false, false},
		{"a fifth", 2, 0, 100, 10, 0, false, false},
		{"more than a fifth", 3, 0, 100, 10, 0, true, false},
		{"more than a fifth, some still on their way", 3, 7, 100, 10, 0, true, false},
		{"all on their way", 0, 10, 100, 10, 0, false, false},
		{"refused later", 1, 5, 100, 10, 4, false, true},
		{"nothing after it", 10, 0, 10, 10, 0, false, false},
		{"no canary", 10, 0, 100, 0, 0, false, false},
	} {
		h := newHost(t)
		p, err := h.Postfix()
		if err != nil {
			t.Fatal(err)
		}
		host := &Host{Postfix: p, Last: func(string, any) bool { return false }}
		c, err := newCanary(host, "restore", tt.size, tt.of, "list", func(kind string, data any) { t.Errorf("%s: %s %v", tt.name, kind, data) })
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids[:tt.refused] {
			appendTo(t, h.Log(), bounced(id))
		}
		appendTo(t, h.Log(), bounced("0NE0FN0BODY"))
		for _, id := range ids[10-tt.stay:] {
			if err := os.WriteFile(h.Spool("active", id), nil, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		err = c.after(t.Context(), ids, tt.of-10)
		var ask *Ask
		if got := errors.As(err, &ask); got != tt.asks || err != nil && !got {
			t.Errorf("%s: got %v, want a question: %t", tt.name, err, tt.asks)
		}
		if tt.asks {
			q := ask.Data.(*Confirm)
			if want := fmt.Sprintf("of the 10 messages that went first %d were refused (5xx), such as ABCDEF0 (5.1.1), ABCDEF1 (5.1.1), ABCDEF2 (5.1.1)", tt.refused); q.Reasons[0] != want || q.Ham != int64(tt.of-10) || q.List != "canary of list" {
				t.Errorf("%s: asks %+v", tt.name, q)
			}
			// It stands until somebody has answered it, and then the rest goes.
			host.Last = func(name string, into any) bool { return reencode(t, &Restored{Canary: q}, into) }
			if _, err := newCanary(host, "restore", tt.size, tt.of, "list", nil); !errors.As(err, &ask) {
				t.Errorf("%s: asked once, got %v", tt.name, err)
			}
			host.Answer = &Answer{Kind: "confirm", Value: q.List}
			again, err := newCanary(host, "restore", tt.size, tt.of, "list", nil)
			if err != nil || again.size != 0 {
				t.Errorf("%s: answered, got %+v, %v", tt.name, again, err)
			}
			host.Answer = nil
			if other, err := newCanary(host, "restore", tt.size, tt.of, "other", nil); err != nil || other.size == 0 {
				t.Errorf("%s: of another list: %+v, %v", tt.name, other, err)
			}
		}
		if tt.more > 0 {
			for _, id := range ids[tt.refused : tt.refused+tt.more] {
				appendTo(t, h.Log(), bounced(id))
			}
			c.looked = time.Time{}
			if err := c.after(t.Context(), []string{"ABCDEFA"}, 5); !errors.As(err, &ask) {
				t.Errorf("%s: got %v, want a question", tt.name, err)
			}
		}
		c.close()
	}
}
