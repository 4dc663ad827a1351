package notify

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"mime/quotedprintable"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// failures are what was said of targets that were not reached.
type failures struct {
	mu   sync.Mutex
	said []string
}

// notifier tells those that are given as a file, without pauses.
func notifier(t *testing.T, lines ...string) (*Notifier, *failures) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "whom")
	if err := os.WriteFile(file, []byte("# whom to tell\n\n"+strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := Parse([]string{"@" + file}, "")
	if err != nil {
		t.Fatal(err)
	}
	f := new(failures)
	n.Pauses = []time.Duration{0, 0}
	n.Failed = func(target string, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.said = append(f.said, target+": "+err.Error())
	}
	return n, f
}

func example() *Notice {
	return New(Problem, "ops@laptop", "spoolsweep: chavez: flooded, müde", []string{"chavez: flooded"}, map[string]any{"hosts": []any{}})
}

// A web hook gets the notice as JSON, once; it is tried again where it is busy, with
// the same id, and no more than three times.
func TestWebhook(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name    string
		answers []int
		tries   int
		says    string
	}{
		{"takes it", []int{204}, 1, ""},
		{"restarts", []int{503, 429, 200}, 3, ""},
		{"is down", []int{500, 502, 503, 200}, 3, "it answers 503 Service Unavailable (3 tries)"},
		{"refuses", []int{403, 200}, 1, "it answers 403 Forbidden"},
		{"moved", []int{302, 200}, 1, "it answers 302 Found"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var got []Notice
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var n Notice
				text, err := io.ReadAll(r.Body)
				if err != nil || json.Unmarshal(text, &n) != nil || r.Method != "POST" || r.URL.Path != "/s3cret" || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("%s %s: %v, %s", r.Method, r.URL, err, text)
				}
				if r.Header.Get("Idempotency-Key") != n.ID {
					t.Errorf("key %q, id %q", r.Header.Get("Idempotency-Key"), n.ID)
				}
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(row.answers[len(got)])
				got = append(got, n)
			}))
			defer s.Close()
			n, failed := notifier(t, s.URL+"/s3cret?token=s3cret")
			want := example()
			n.Send(t.Context(), want)
			if len(got) != row.tries {
				t.Fatalf("%d tries, want %d", len(got), row.tries)
			}
			for _, g := range got {
				if g.ID != want.ID || g.Version != Version || g.Kind != Problem || g.Text != want.Text {
					t.Errorf("got %+v", g)
				}
			}
			says := ""
			if row.says != "" {
				says = s.URL + ": " + row.says
			}
			if strings.Join(failed.said, "\n") != says {
				t.Errorf("says %q, want %q", failed.said, says)
			}
		})
	}
}

// No message has what may be a secret: the address but for its host, a line of a file.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(nil)
	address := s.URL + "/s3cret?s3cret"
	s.Close()
	untrusted := httptest.NewUnstartedServer(nil)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	defer untrusted.Close()
	n, failed := notifier(t, address, "https://user:s3cret@"+strings.TrimPrefix(untrusted.URL, "https://")+"/s3cret", "exec:echo no; exit 7 # s3cret")
	n.Send(t.Context(), example())
	if len(failed.said) != 3 {
		t.Errorf("%d failures: %q", len(failed.said), failed.said)
	}
	said := strings.Join(failed.said, "\n")
	for _, want := range []string{s.URL + ": ", "connection refused (3 tries)", "certificate", "the command: exit status 7: no"} {
		if !strings.Contains(said, want) {
			t.Errorf("does not say %q:\n%s", want, said)
		}
	}
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return "@" + path
	}
	for _, row := range []struct{ word, says string }{
		{"https://user:s3cret@hooks.test/", "@FILE"},
		{"https://hooks.test/?token=s3cret", "@FILE"},
		{"https:s3cret", "https://HOST/PATH"},
		{"https://%zz/s3cret", "https://HOST/PATH"},
		{"ftp://s3cret", "whom to tell is"},
		{"s3cret", "whom to tell is"},
		{"exec:", "whom to tell is"},
		{"exec:true\n", "control character"},
		{"mailto:-bs@x", "no address"},
		{"mailto:ops", "no address"},
		{"mailto:Ops <ops@example.org>", "no address"},
		{file("open", "https://hooks.test/s3cret", 0o644), "chmod 600"},
		{file("wrong", "\n# x\ns3cret\n", 0o600), "wrong:3: whom to tell is"},
		{file("empty", "# s3cret\n", 0o600), "names nobody"},
		{file("long", strings.Repeat("#\n", maxFile), 0o600), "no list"},
		{"@" + filepath.Join(dir, "none"), "no such file"},
	} {
		_, err := Parse([]string{row.word}, "")
		if err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v, want %q", row.word, err, row.says)
			continue
		}
		said += err.Error()
	}
	if strings.Contains(said, "s3cret") {
		t.Errorf("repeats a secret:\n%s", said)
	}
}

// A command gets the notice on its standard input, and is run once, whatever comes of
// it: nobody knows what it did.
func TestCommand(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "out")
	n, failed := notifier(t, fmt.Sprintf("exec:cat >> %s; echo \"$SPOOLSWEEP_NOTICE $SPOOLSWEEP_SUBJECT\" >> %s.env; exit 75", out, out), "exec:exit 0")
	want := example()
	n.Send(t.Context(), want)
	var got Notice
	text, err := os.ReadFile(out)
	if err == nil {
		err = json.Unmarshal(text, &got)
	}
	if err != nil || got.ID != want.ID || got.Subject != want.Subject {
		t.Errorf("%v: %s", err, text)
	}
	if env, err := os.ReadFile(out + ".env"); err != nil || string(env) != "problem "+want.Subject+"\n" {
		t.Errorf("%v: %s", err, env)
	}
	if got := strings.Join(failed.said, "\n"); got != "the command: exit status 75" {
		t.Errorf("says %q", got)
	}
}

// Mail goes through a sendmail program, with addresses that it cannot take for flags,
// and is tried again only where that says so.
func TestMail(t *testing.T) {
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >> %[1]s/args\ncat > %[1]s/mail\nexit $(cat %[1]s/status)\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "sendmail"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	const args = "-i -- ops@example.org,boss@example.org\n"
	for _, row := range []struct {
		status, tries int
		says          string
	}{{0, 1, ""}, {75, 3, "mail to ops@example.org, boss@example.org: exit status 75 (3 tries)"}, {67, 1, "mail to ops@example.org, boss@example.org: exit status 67"}} {
		if err := os.WriteFile(filepath.Join(dir, "status"), fmt.Append(nil, row.status), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "args")); err != nil {
			t.Fatal(err)
		}
		n, failed := notifier(t, "mailto:ops@example.org,boss@example.org")
		notice := New(End, "ops@laptop", "müde\n\x1b[2J", []string{"chavez: ok", strings.Repeat("long ", 400)}, nil)
		n.Send(t.Context(), notice)
		called, err := os.ReadFile(filepath.Join(dir, "args"))
		if want := strings.Repeat(strings.ReplaceAll(args, ",", " "), row.tries); err != nil || string(called) != want {
			t.Errorf("status %d: called %v\n%s\nwant\n%s", row.status, err, called, want)
		}
		if got := strings.Join(failed.said, "\n"); got != row.says {
			t.Errorf("status %d: says %q, want %q", row.status, got, row.says)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "mail"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get("To") != "ops@example.org, boss@example.org" || m.Header.Get("Auto-Submitted") != "auto-generated" || len(m.Header) != 7 {
		t.Errorf("header %v", m.Header)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil || !strings.Contains(string(body), "chavez: ok\n"+strings.Repeat("long ", 400)) || !strings.HasSuffix(string(body), "\nops@laptop\n") {
		t.Errorf("%v: body %q", err, body)
	}
	for line := range strings.Lines(string(text)) {
		if len(line) > 80 || strings.ContainsAny(line, "\x1b\r") {
			t.Errorf("line %q", line)
		}
	}
}

// The environment counts where nothing is given, and nobody reads it but who is told.
func TestParseEnvironment(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		given []string
		env   string
		want  int
	}{{nil, "", 0}, {nil, "https://user:pw@hooks.test/", 1}, {[]string{"exec:true", "exec:false"}, "exec:true", 2}} {
		n, err := Parse(row.given, row.env)
		if err != nil || len(n.targets) != row.want || n.Any() != (row.want > 0) {
			t.Errorf("%v %q: %v, %v", row.given, row.env, n, err)
		}
	}
}
