package maillog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"spoolsweep/remote/lab/needs"
)

func loginAt(at time.Time, user string) string {
	return fmt.Sprintf("%s mx1 postfix/smtpd[1]: C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=%s\n", at.Format(time.Stamp), user)
}

func write(t *testing.T, path string, text []byte, at time.Time) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, text, 0o600), os.Chtimes(path, at, at)); err != nil {
		t.Fatal(err)
	}
}

func gz(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func packed(t *testing.T, program, text string) []byte {
	t.Helper()
	cmd := exec.Command(needs.Program(t, program), "-c")
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// users reads logs, and lists who logged in.
func users(t *testing.T, l *Logs, since time.Time) ([]string, error) {
	t.Helper()
	var names []string
	err := l.Read(t.Context(), since, Login, func(e *Event) error {
		names = append(names, string(e.User)+e.Time.Format(" 2006-01-02"))
		return nil
	})
	slices.Sort(names)
	return names, err
}

// A log with all its rotations, and nothing else that lies beside it.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 10, 12, 0, 0, 0, time.Local)
	day := func(n int) time.Time { return now.AddDate(0, 0, -n) }
	log := filepath.Join(dir, "mail.log")
	write(t, log, []byte(loginAt(day(0), "now")), day(0))
	write(t, log+".1", []byte(loginAt(day(7), "week")), day(6))
	write(t, log+".2.gz", append(gz(t, loginAt(day(14), "gz")), gz(t, loginAt(day(13), "gz2"))...), day(13))
	write(t, log+"-20251220", []byte(loginAt(day(21), "dated")), day(20))
	write(t, log+".20251213-101010.gz", gz(t, loginAt(day(28), "postlogd")), day(27))
	write(t, log+".3.gz", nil, day(50))
	for _, name := range []string{"mail.log.offset", "mail.log.gz.old", "mail.err", "mail.log.1.bak", "syslog"} {
		write(t, filepath.Join(dir, name), []byte(loginAt(day(0), "other")), day(0))
	}
	secret := filepath.Join(dir, "secret")
	write(t, secret, []byte(loginAt(day(0), "linked")), day(0))
	if err := errors.Join(os.Symlink(secret, log+".4"), os.Mkdir(log+".5", 0o700), unix.Mkfifo(log+".6", 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, given := range []string{log, ""} {
		l, err := Find(given, "", "not/whole", filepath.Join(dir, "none"), log)
		if err != nil {
			t.Fatal(err)
		}
		got, err := users(t, l, time.Time{})
		want := []string{"dated 2025-12-20", "gz 2025-12-27", "gz2 2025-12-28", "now 2026-01-10", "postlogd 2025-12-13", "week 2026-01-03"}
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", given, err, d)
		}
		if got, err = users(t, l, day(10)); err != nil || len(got) != 2 {
			t.Errorf("of ten days: %v, %v", got, err)
		}
	}
	// What is put into a log's place after it was found is not followed, and
	// does not hold us.
	l, err := Find(log)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(log), os.Symlink(secret, log), os.Remove(log+".1"), unix.Mkfifo(log+".1", 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := users(t, l, time.Time{})
	if err == nil || !strings.Contains(err.Error(), "mail.log: ") || !strings.Contains(err.Error(), "mail.log.1 is no regular file") {
		t.Errorf("got %v", err)
	}
	if len(got) != 4 || slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "linked") }) {
		t.Errorf("the others: %v", got)
	}
	for _, given := range []string{"mail.log", filepath.Join(dir, "none"), filepath.Join(dir, "none", "none")} {
		if _, err := Find(given); err == nil || !strings.Contains(err.Error(), given) {
			t.Errorf("%s: got %v", given, err)
		}
	}
	if _, err := Find(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "mail_log") {
		t.Errorf("got %v", err)
	}
	if l, err := Find(Journal, log); err != nil || !l.Journal {
		t.Errorf("the journal: %+v, %v", l, err)
	}
}

func TestPacked(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	write(t, filepath.Join(dir, "log.1.bz2"), packed(t, "bzip2", loginAt(at, "bz")), at)
	write(t, filepath.Join(dir, "log.2.xz"), packed(t, "xz", loginAt(at, "xz")), at)
	write(t, filepath.Join(dir, "log.3.zst"), packed(t, "zstd", loginAt(at, "zst")), at)
	l, err := Find(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := users(t, l, time.Time{})
	if d := cmp.Diff([]string{"bz 2026-11-20", "xz 2026-11-20", "zst 2026-11-20"}, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	// Damage, and a program that is missing, are told, and keep nothing else from
	// being read.
	write(t, filepath.Join(dir, "log.4.xz"), []byte("no xz"), at)
	write(t, filepath.Join(dir, "log.5.gz"), []byte("this is no gzip, whatever it is"), at)
	if l, err = Find(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	got, err = users(t, l, time.Time{})
	if err == nil || !strings.Contains(err.Error(), "log.4.xz: xzcat: ") || !strings.Contains(err.Error(), "log.5.gz: gzip") || len(got) != 3 {
		t.Errorf("damaged: %v, %v", got, err)
	}
	t.Setenv("PATH", dir)
	got, err = users(t, l, time.Time{})
	if err == nil || !strings.Contains(err.Error(), "log.2.xz: needs xzcat") || len(got) != 0 {
		t.Errorf("without xzcat: %v, %v", got, err)
	}
	// Nobody waits for a program whose output is not wanted any more.
	if l, err = Find(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Read(ctx, time.Time{}, Login, func(*Event) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Of a large log only what is since then is read, and all of it.
func TestSeek(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	end := time.Date(2026, 11, 25, 0, 0, 0, 0, time.Local)
	var b bytes.Buffer
	const seconds = 40000
	for i := seconds; i > 0; i-- {
		at := end.Add(-time.Duration(i) * time.Second)
		fmt.Fprintf(&b, "%s mx1 kernel: noise\n", at.Format(time.Stamp))
		b.WriteString(loginAt(at, fmt.Sprint(i)))
	}
	write(t, path, b.Bytes(), end)
	for _, back := range []int{0, 1, 59, 3600, 20000, seconds, seconds + 5} {
		l, err := Find(path)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		err = l.Read(t.Context(), end.Add(-time.Duration(back)*time.Second), Login, func(*Event) error { n++; return nil })
		if want := min(back, seconds); err != nil || n != want {
			t.Errorf("since %d s: %d logins, %v, want %d", back, n, err, want)
		}
	}
	f, _, err := open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := &scanner{parser: parser{written: end}, since: end.Add(-time.Hour)}
	if at, err := s.seek(f, int64(b.Len())); err != nil || at < int64(b.Len())/2 {
		t.Errorf("reads from %d of %d bytes on, %v", at, b.Len(), err)
	}
}

// Every line of a log that is read in parts is read once, wherever it is cut.
func TestParts(t *testing.T) {
	whole := partSize
	partSize = 1 << 20
	defer func() { partSize = whole }()
	path := filepath.Join(t.TempDir(), "log")
	at := time.Date(2026, 11, 25, 0, 0, 0, 0, time.Local)
	var b bytes.Buffer
	n := 0
	for int64(b.Len()) < 3*partSize+100 {
		b.WriteString(loginAt(at, fmt.Sprint(n)))
		n++
		if n == 5000 {
			b.WriteString(strings.Repeat("x", 2*maxLine) + "\n")
		}
	}
	// A cut right behind a line, right before its end, and in a line that is too long.
	text := b.Bytes()
	end := bytes.LastIndexByte(text[:partSize], '\n')
	for _, move := range []int{0, 1, 2, 50, 2 * maxLine} {
		pad := strings.Repeat("y", (int(partSize)-end+move)%(3*maxLine))
		write(t, path, append([]byte(pad+"\n"), text...), at)
		l, err := Find(path)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]int{}
		if err := l.Read(t.Context(), time.Time{}, Login, func(e *Event) error { seen[string(e.User)]++; return nil }); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if seen[fmt.Sprint(i)] != 1 {
				t.Fatalf("moved by %d: login %d of %d is told %d times", move, i, n, seen[fmt.Sprint(i)])
			}
		}
	}
	// An error of whoever is told ends all of it.
	broken := errors.New("enough")
	l, err := Find(path)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	if err := l.Read(t.Context(), time.Time{}, Login, func(*Event) error { told++; return broken }); !errors.Is(err, broken) || told != 1 {
		t.Errorf("told %d, %v", told, err)
	}
}

func TestJournalEntries(t *testing.T) {
	const journal = `{"__REALTIME_TIMESTAMP":"1795454354123456","MESSAGE":"C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=a\"nn","SYSLOG_IDENTIFIER":"postfix/submission/smtpd"}
{"__REALTIME_TIMESTAMP":"1795454354123456","MESSAGE":"C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=other","SYSLOG_IDENTIFIER":"evil"}
{"MESSAGE" : [67,50,56,67,54,66,69,48,52,50,58,32,99,108,105,101,110,116,61,120,91,49,93,44,32,115,97,115,108,95,109,101,116,104,111,100,61,80,44,32,115,97,115,108,95,117,115,101,114,110,97,109,101,61,255],"__REALTIME_TIMESTAMP":"1795454355000000","SYSLOG_IDENTIFIER":"postfix/smtpd"}
{"MESSAGE":null,"__REALTIME_TIMESTAMP":"1795454355000000","SYSLOG_IDENTIFIER":"postfix/smtpd","x":"sasl_username="}
{"MESSAGE":["a","b"],"__REALTIME_TIMESTAMP":"1795454355000000","SYSLOG_IDENTIFIER":"postfix/smtpd"}
no entry sasl_username=
{"__REALTIME_TIMESTAMP":"1795454356000000","MESSAGE":"C28C6BE042: uid=33 from=<www-data>","SYSLOG_IDENTIFIER":"postfix/pickup"}
{"__REALTIME_TIMESTAMP":"1795454357000000","MESSAGE":"disconnect from x[192.0.2.1]","SYSLOG_IDENTIFIER":"postfix/smtpd","_PID":"4334"}
{"__REALTIME_TIMESTAMP":"179545435`
	var got []string
	s := &scanner{want: Login | Local | Ended, found: func(e *Event) error {
		got = append(got, fmt.Sprintf("%s %q %d [%d]", e.Time.UTC().Format(time.RFC3339), e.User, e.UID, e.PID))
		return nil
	}}
	long := `{"MESSAGE":"sasl_username=` + strings.Repeat("x", 3*blockSize) + "\"}\n"
	if err := s.entries(t.Context(), strings.NewReader(long+journal)); err != nil {
		t.Fatal(err)
	}
	want := []string{`2026-11-23T17:19:14Z "a\"nn" 0 [0]`, `2026-11-23T17:19:15Z "\xff" 0 [0]`, `2026-11-23T17:19:16Z "" 33 [0]`, `2026-11-23T17:19:17Z "" 0 [4334]`}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// The journal is asked of journalctl: a stand-in answers here, since no machine
// of the tests can be relied on to have one.
func TestReadJournal(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$@\" > " + dir + "/asked\n" +
		`echo '{"__REALTIME_TIMESTAMP":"1795454354123456","MESSAGE":"C28C6BE042: client=x[192.0.2.1], sasl_method=PLAIN, sasl_username=ann","SYSLOG_IDENTIFIER":"postfix/smtpd"}'` + "\n"
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	l, err := Find("", filepath.Join(dir, "none"))
	if err != nil || !l.Journal {
		t.Fatalf("%+v, %v", l, err)
	}
	got, err := users(t, l, time.Unix(1795000000, 5))
	if err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
	asked, err := os.ReadFile(filepath.Join(dir, "asked"))
	if want := "--no-pager --quiet --output=json --output-fields=MESSAGE,SYSLOG_IDENTIFIER,_PID --since=@1795000000 SYSLOG_FACILITY=2\n"; err != nil || string(asked) != want {
		t.Errorf("asked %q, %v, want %q", asked, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, "journalctl"), []byte("#!/bin/sh\necho no journal >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := users(t, l, time.Time{}); err == nil || !strings.Contains(err.Error(), "no journal") {
		t.Errorf("got %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Find("", filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "mail_log") {
		t.Errorf("no log at all: got %v", err)
	}
}
