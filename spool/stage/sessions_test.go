package stage

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
)

// Whose session is open now, and that it is of the process that runs, is told by the
// log; a number that was another process's before counts no more.
func TestServing(t *testing.T) {
	began := time.Now().Add(-time.Hour).Truncate(time.Second)
	at := func(d time.Duration) string { return began.Add(d).Format(time.RFC3339) }
	const sent, gone = "ABCDEF123456: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=%s", "disconnect from x[192.0.2.1] ehlo=1 commands=1"
	var log strings.Builder
	line := func(d time.Duration, pid int, format string, a ...any) {
		fmt.Fprintf(&log, "%s chavez postfix/submission/smtpd[%d]: %s\n", at(d), pid, fmt.Sprintf(format, a...))
	}
	line(-time.Minute, 1, sent, "eve@x.test") // of an earlier process
	line(0, 2, sent, "EVE@x.test")            // in the second in which it was started
	line(time.Minute, 3, sent, "eve")         // and on it goes
	line(time.Minute, 3, sent, "eve")
	line(time.Minute, 4, sent, "eve@x.test") // gone since
	line(time.Minute, 4, gone)
	line(time.Minute, 5, sent, "ann@x.test") // somebody else's
	line(time.Minute, 6, sent, "ann@x.test") // gone, and then she came
	line(time.Minute, 6, gone)
	line(2*time.Minute, 6, sent, "eve@x.test")
	line(time.Minute, 7, "ABCDEF123456: client=x[192.0.2.1]") // no login
	line(time.Minute, 8, sent, "eve@x.test")                  // came first, and somebody else is there now
	line(time.Minute, 8, gone)
	line(time.Minute, 8, sent, "ann@x.test")
	line(time.Minute, 9, "warning: x[192.0.2.1]: SASL PLAIN authentication failed: no, sasl_username=eve@x.test")
	line(2*time.Minute, 10, gone)
	line(time.Minute, 10, sent, "eve@x.test") // written late: of before
	line(time.Minute, 99, sent, "eve@x.test") // no server of this Postfix
	h := newHost(t)
	if err := os.WriteFile(h.Log(), []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	k := aside(t, h)
	var servers []*spool.Server
	for pid := 1; pid <= 10; pid++ {
		servers = append(servers, &spool.Server{PID: pid, Began: began})
	}
	found, err := k.serving(t.Context(), servers, []string{"Eve@x.test", "bob"})
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, s := range found {
		pids = append(pids, s.PID)
	}
	if d := cmp.Diff([]int{2, 3, 6}, pids); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if found, err := k.serving(t.Context(), nil, []string{"eve"}); err != nil || found != nil {
		t.Errorf("where no server is: %v, %v", found, err)
	}
	k.Vars.MailLog = "/no/such/log"
	if _, err := k.serving(t.Context(), []*spool.Server{{PID: 1, Began: began}}, []string{"eve"}); err == nil {
		t.Error("a log that is not there tells of nobody")
	}
}

// A practice host has no SMTP server: nothing is ended, and watch goes by the moment.
func TestEndSessions(t *testing.T) {
	k := aside(t, newHost(t))
	for _, args := range []string{`{}`, `{"account": ""}`, `{"account": []}`} {
		if r, err := k.run("end-sessions", args); err != nil || r.(*SessionsEnded).Why != "no account is named" || !r.(*SessionsEnded).At.IsZero() {
			t.Errorf("%s: %+v, %v", args, r, err)
		}
	}
	before := time.Now()
	for _, args := range []string{`{"account": "eve"}`, `{"account": ["eve", "ann"]}`, `{"all": true}`} {
		r, err := k.run("end-sessions", args)
		if err != nil || r.(*SessionsEnded).Ended != 0 || r.(*SessionsEnded).At.Before(before) || r.(*SessionsEnded).Changed() {
			t.Errorf("%s: %+v, %v", args, r, err)
		}
		k.done["end-sessions"] = r
	}
	r, err := k.run("watch", `{"for": "0", "account": "eve"}`)
	if err != nil {
		t.Fatal(err)
	}
	if w := r.(*Watched); w.Source != Quiet || !w.SessionsEnded || !strings.HasSuffix(w.Lines()[0].Text, "since its sessions were ended") {
		t.Errorf("%+v", w)
	}
	// Postfix was started after that: that is the later moment.
	k.done["start"] = &Started{Started: spool.Started{At: time.Now()}}
	if r, err := k.run("watch", `{"for": "0", "account": "eve"}`); err != nil || r.(*Watched).SessionsEnded {
		t.Errorf("%+v, %v", r, err)
	}
}
