package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/notify"
	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/stage"
)

// received is a notice as a receiver reads it.
type received struct {
	notify.Notice
	Document show.Document `json:"document"`
	raw      string
}

// hook is a web hook, and what it was told.
type hook struct {
	*httptest.Server
	t   *testing.T
	got chan received
}

func newHook(t *testing.T, begin func(*httptest.Server)) *hook {
	h := &hook{t: t, got: make(chan received, 100)}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(r.Body)
		n := received{raw: string(text)}
		if err == nil {
			err = json.Unmarshal(text, &n)
		}
		if err != nil {
			t.Errorf("%v: %s", err, text)
		}
		h.got <- n
	}))
	h.Config.ErrorLog = log.New(io.Discard, "", 0)
	begin(h.Server)
	t.Cleanup(h.Close)
	return h
}

// next waits for a notice.
func (h *hook) next(kind string, says ...string) received {
	h.t.Helper()
	select {
	case n := <-h.got:
		if n.Kind != kind || n.Version != notify.Version || n.ID == "" || n.From != me() || !strings.HasPrefix(n.Text, n.Subject) {
			h.t.Errorf("got %s, want %s", n.raw, kind)
		}
		for _, s := range says {
			if !strings.Contains(n.Text, s) {
				h.t.Errorf("%s does not say %q:\n%s", kind, s, n.Text)
			}
		}
		return n
	case <-time.After(time.Minute):
		h.t.Fatalf("nobody tells of %s", kind)
		panic("unreachable")
	}
}

// none says that nothing else was told.
func (h *hook) none() {
	h.t.Helper()
	select {
	case n := <-h.got:
		h.t.Errorf("told once more: %s", n.raw)
	default:
	}
}

// At the end of a run one notice goes to each, over TLS whose certificate is checked:
// what became of each host, and nothing of its mail.
func TestNotifyEnd(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(300)
	waitQuiet(t, f)
	f.servers[1].Refuse(true)
	h := newHook(t, (*httptest.Server).StartTLS)
	dir := t.TempDir()
	ca, list, out := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "whom"), filepath.Join(dir, "out")
	for path, text := range map[string][]byte{
		ca:   pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}),
		list: []byte(h.URL + "/services/s3cret\nexec:cat > " + out + "\n"),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(ca string, args ...string) result {
		var out, stderr bytes.Buffer
		if args[0] != "health" {
			args = append(args, "--notify", "@"+list)
		}
		cmd := exec.CommandContext(t.Context(), built(t), append(append(args, "--agent", built(t)), f.where()...)...)
		cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &stderr, dir
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+ca, notifyVariable+"=of practice nobody is told")
		_ = cmd.Run() // its status is looked at
		return result{strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
	}
	r := run(ca, "run", "backscatter", "-y")
	r.want(t, 4, "waits for rules")
	n := h.next(notify.End, "chavez: waiting for rules", "peltier: unreachable: ", "next: spoolsweep resume ")
	h.none()
	if strings.Contains(r.err, "was not told") {
		t.Error(r.err)
	}
	id := runID.FindString(r.err)
	if n.Subject != "spoolsweep: run "+id+": 1 waiting, 1 unreachable" {
		t.Errorf("subject %q", n.Subject)
	}
	d := n.Document
	if d.Run != id || d.Command != "run" || d.Summary.Waiting != 1 || d.Summary.Unreachable != 1 || len(d.Hosts) != 2 || d.Hosts[1].Error == nil || d.Finished.IsZero() {
		t.Errorf("document %s", n.raw)
	}
	if !slices.ContainsFunc(d.Hosts[0].Stages, func(s *show.Stage) bool { return s.Stage == "set-aside" && s.Status == show.OK && s.Changed }) {
		t.Errorf("stages %s", n.raw)
	}
	if strings.Contains(n.raw, demoAccount) || strings.Contains(n.raw, ".practice.test") || strings.Contains(n.raw, "Subject:") {
		t.Errorf("tells of mail: %s", n.raw)
	}
	if text, err := os.ReadFile(out); err != nil || !strings.Contains(string(text), n.ID) {
		t.Errorf("the command was told %s, %v, want the same", text, err)
	}

	// Whose certificate nobody vouches for is not told, which is a warning and no more.
	r = run("/dev/null", "attach", id, "-l", "chavez")
	r.want(t, 3, "warning: "+h.URL+" was not told: ", "certificate")
	if strings.Contains(r.err+r.out, "s3cret") {
		t.Errorf("repeats a secret:\n%s", r.err)
	}
	h.none()

	// What only looks, or changes nothing, tells nobody; nor does what has nothing to do.
	run(ca, "run", "backscatter", "-l", "chavez", "--check")
	run(ca, "health").want(t, 4)
	run(ca, "delete", "-l", "chavez", "-m", "sender:nobody@nowhere.test", "-y", "--expect", "0")
	h.none()

	f.spoolsweep("run", "backscatter", "-y", "--notify", "hooks.test").want(t, statusUsage, "--notify: whom to tell is exec:COMMAND")
	f.spoolsweep("health", "--notify", "exec:true").want(t, statusUsage, "give --watch TIME")
}

// Where no flag says whom to tell, the environment does.
func TestNotifyVariable(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), built(t), "run", "health", "-i", "mx1,", "-y")
	cmd.Env, cmd.Stderr = append(os.Environ(), notifyVariable+"=s3cret"), &stderr
	_ = cmd.Run() // its status is looked at
	if said := stderr.String(); cmd.ProcessState.ExitCode() != statusUsage || !strings.Contains(said, notifyVariable+": whom to tell is exec:COMMAND") || strings.Contains(said, "s3cret") {
		t.Errorf("%v: %s", cmd.ProcessState, said)
	}
}

// A question that nobody answers is told, each once; the end is told, but not when it
// is what was told already.
func TestNotifyWaits(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(500)
	waitQuiet(t, f)
	h := newHook(t, (*httptest.Server).Start)
	s := f.begin(t, true, 0, "run", "backscatter", "-e", "rate=0", "-e", "watch=0", "--notify", h.URL)
	s.waitFor(`Do this on 1 of 1`)
	h.none()
	s.types("y")
	n := h.next(notify.Waits, "chavez: waiting for rules", "next: spoolsweep resume ")
	s.waitFor(`\[u\]se these rules`)
	s.types("w")
	r := s.end()
	r.want(t, 3)
	h.none() // it waits, as was told
	if d := n.Document; len(d.Hosts) != 1 || *d.Hosts[0].Asks != "rules" || d.Hosts[0].Status != show.Waiting || d.Run != runID.FindString(r.err) {
		t.Errorf("document %s", n.raw)
	}

	s = f.begin(t, true, 0, "resume", "--notify", h.URL)
	h.next(notify.Waits, "chavez: waiting for rules")
	s.waitFor(`\[u\]se these rules`)
	s.types("u")
	h.next(notify.Waits, "chavez: waiting for a confirmation")
	s.waitFor(`send \d+ messages`)
	s.types("y")
	s.end().want(t, 0)
	h.next(notify.End, ": 1 ok")
	h.none()
}

// Crossing a threshold up and staying there is told once, and once that it is over.
func TestNotifyThreshold(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	if err := f.hosts[0].Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"health", "--watch", "1s"}, {"serve", "--every", "1s", "--listen", "127.0.0.1:0"}} {
		h := newHook(t, (*httptest.Server).Start)
		ctx, cancel := context.WithCancel(t.Context())
		app := newApp(strings.NewReader(""), io.Discard, io.Discard)
		now := time.Unix(1_000_000, 0)
		looks := make(chan bool)
		app.Metadata[agentSource], app.Metadata[watchKey] = f.source, 10*time.Millisecond
		app.Metadata[noticeClock] = func() time.Time { // asked once a look
			select {
			case looks <- true:
			case <-ctx.Done():
			}
			now = now.Add(time.Minute)
			return now
		}
		ended := make(chan int, 1)
		go func() {
			ended <- inProcess(ctx, app, append(append(append([]string{"spoolsweep"}, args...), "--notify", h.URL), f.where()...)...)
		}()
		<-looks // well
		if err := f.hosts[0].Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 5 { // one may have begun before the stop
			<-looks
		}
		n := h.next(notify.Problem, "chavez: Postfix is stopped")
		var c stage.Counts
		if d := n.Document; d.Command != args[0] || len(d.Hosts) != 1 || !decode(d.Hosts[0].Result, &c) || c.Postfix != "stopped" {
			t.Errorf("document %s", n.raw)
		}
		if err := f.hosts[0].Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 4 {
			<-looks
		}
		h.next(notify.Resolved, "chavez: no longer: Postfix is stopped")
		h.none()
		cancel()
		if status := <-ended; status != 0 && args[0] == "serve" {
			t.Errorf("%s: exit status %d", args[0], status)
		}
	}
}

// All hosts of a look are one notice, what they say is cleaned, and a flood that
// swings about its limit is told once.
func TestNotifyTogether(t *testing.T) {
	t.Parallel()
	h := newHook(t, (*httptest.Server).Start)
	to, err := notify.Parse([]string{h.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_000_000, 0)
	s := &sweep{Printer: &show.Printer{Out: io.Discard, Err: io.Discard}, doc: &show.Document{Command: "serve"},
		notices: &notices{Notifier: to, from: me(), now: func() time.Time { return now }}}
	for _, name := range []string{"mx1", "mx2", "mx3"} {
		s.members = append(s.members, &member{Host: &show.Host{Host: name, Instance: show.DefaultInstance, Status: show.OK}})
	}
	seen := alarms{}
	look := func(level string) {
		for _, m := range s.members[:2] {
			m.Result = fmt.Appendf(nil, `{"postfix":"running","level":%q,"why":["\u001b[2Jmany"],"messages":7,"evil":"\u001b"}`, level)
		}
		s.members[2].Result = []byte(`{"postfix":"running","level":"ok"}`)
		s.alarm(t.Context(), seen)
		now = now.Add(time.Minute)
	}
	for range 5 { // a saw-tooth
		for range 4 {
			look("flooded")
		}
		for range 8 {
			look("ok")
		}
	}
	for range 10 {
		look("ok")
	}
	s.notices.flush()
	n := h.next(notify.Problem, "mx1: flooded (", "mx2: flooded (")
	if n.Subject != "spoolsweep: mx1: flooded (\\x1b[2Jmany), and 1 more" || strings.Contains(n.raw, `\u001b`) || strings.Contains(n.raw, "evil") || strings.Contains(n.raw, "mx3") {
		t.Errorf("got %s", n.raw)
	}
	h.next(notify.Resolved, "mx1: no longer: flooded", "mx2: no longer: flooded")
	h.none()
}

// While somebody is not reached no more is kept for him than a few notices, and
// nobody waits.
func TestNoticesAreBounded(t *testing.T) {
	t.Parallel()
	stuck, told := make(chan struct{}), make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		told <- struct{}{}
		<-stuck
	}))
	defer server.Close()
	to, err := notify.Parse([]string{server.URL}, "")
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	to.Failed = func(string, error) { lost++ }
	n := &notices{Notifier: to}
	tell := func() { n.tell(t.Context(), notify.New(notify.Problem, "", "", nil, nil)) }
	tell()
	<-told // on its way: what comes now has to wait
	for range 3 * noticesMax {
		tell()
	}
	close(stuck)
	n.flush()
	if got := len(told); got != noticesMax || lost != 1 {
		t.Errorf("%d told that waited, and %d times that some were left out; want %d and once", got, lost, noticesMax)
	}
}
