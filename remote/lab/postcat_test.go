package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/d--j/go-milter"
	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/queuefile"
)

// kinds are messages that make queue files of every kind, i being the i-th of its
// kind.
var kinds = []func(i int) lab.Message{
	func(i int) lab.Message { // plain
		return raw("Subject: plain %d\nFrom: a@members.example\n\nHello\n.\n..dots\nSo long\n", i)
	},
	func(i int) lab.Message { // eight bits
		b := []byte("Subject: caf\xe9 \xe4\xf6\xfc\nX-Any:")
		for c := 128; c < 256; c++ {
			b = append(b, byte(c))
		}
		return lab.Message{Raw: append(append(b, "\n\nna\xefve r\xe9sum\xe9 "...), byte(128+i%128), '\n')}
	},
	func(i int) lab.Message { // SMTPUTF8
		m := raw("Subject: grüße %d\nFrom: Jörg <jörg@exämple.example>\nX-Größe: not a header\n\nπ\n", i)
		m.Sender, m.Recipients, m.Params = "jörg@exämple.example", []string{"größe@domäne.example"}, "SMTPUTF8 BODY=8BITMIME"
		return m
	},
	func(i int) lab.Message { // long lines, around the length at which Postfix cuts
		n := 2048*(1+i%3) - 8 + i%16
		return raw("X-Long: %s\n\tfolded\nSubject: long\n%s: no blank line before\n%s\n", strings.Repeat("h", n), strings.Repeat("n", 10+i), strings.Repeat("b ", n/2))
	},
	func(i int) lab.Message { // NUL bytes
		return raw("Subject: nul\x00 %d\nX\x00Y: name\n\n\x00body\x00\x00\n", i)
	},
	func(i int) lab.Message { // many recipients
		m := raw("Subject: many %d\n\nHello all\n", i)
		for n := range 1 + i%20 {
			m.Recipients = append(m.Recipients, fmt.Sprintf("user%d.%d@domain%d.example", i, n, n%7))
		}
		return m
	},
	func(i int) lab.Message { // DSN
		m := raw("Subject: dsn %d\n\nHello\n", i)
		m.Params = fmt.Sprintf("RET=%s ENVID=id+2B%d BODY=7BIT", []string{"FULL", "HDRS"}[i%2], i)
		m.RcptParams = fmt.Sprintf("NOTIFY=%s ORCPT=rfc822;orig+40%d@elsewhere.example", []string{"NEVER", "SUCCESS", "FAILURE,DELAY", "SUCCESS,FAILURE,DELAY"}[i%4], i)
		return m
	},
	func(i int) lab.Message { // XFORWARD
		m := raw("Subject: forwarded %d\n\nHello\n", i)
		m.Forward = fmt.Sprintf("NAME=spike.example ADDR=%s PORT=%d HELO=spike PROTO=ESMTP IDENT=UP%d SOURCE=REMOTE", []string{"192.0.2.9", "IPv6:2001:db8::9"}[i%2], 1024+i, i)
		return m
	},
	func(i int) lab.Message { // where the header ends
		return lab.Message{Raw: []byte([]string{
			"", "\n", " begins with a blank\nSubject: not one\n", "\tbegins with a tab\n\nx\n", "no header at all\n",
			"Subject: a header only\n", "Subject: x\ntext without a blank line\nX: y\n", "Subject : blank before the colon\nA b: c\n",
			": no name\n", "From somebody Thu Jan  1 00:00:00 1970\nSubject: x\n\nmbox\n", ">From x\nSubject: y\n\nz\n",
			"Subject: bare\rcarriage\r\n\nret\rurn\n", "Subject:\n folded\n\tagain\n \n\nblank line folded\n", "\n\n\n", "Subject: x\n\n \n",
			"Resent-From: a@b.example\nResent-To: c@d.example\nTo: e@f.example\nBcc: hidden@elsewhere.example\n\nx\n",
		}[i%16])}
	},
	func(i int) lab.Message { // addresses
		m := raw("Subject: addresses %d\n\nHello\n", i)
		m.Sender = []string{`"odd local"@members.example`, "", "plus+tag@members.example", `"quoted\"q"@members.example`}[i%4]
		m.Recipients = []string{fmt.Sprintf(`"a b%d"@elsewhere.example`, i), "user+x@elsewhere.example", "local-user"}
		return m
	},
	func(i int) lab.Message { // a login, another client
		m := raw("Subject: login %d\n\nHello\n", i)
		m.Login, m.Client = "ada", []string{"203.0.113.9", "2001:db8::7"}[i/8%2]
		return m
	},
	func(i int) lab.Message { // header_checks
		return raw("X-Check: %s\nSubject: checked %d\n\nHello\n", checks[i%len(checks)].name, i)
	},
}

// checks are the actions of header_checks(5) that leave a message in the queue.
var checks = []struct{ name, action string }{
	{"prepend", "PREPEND X-Prepended: yes"}, {"replace", "REPLACE X-Replaced: yes"},
	{"redirect", "REDIRECT redirected@elsewhere.example"}, {"bcc", "BCC bcc@elsewhere.example"},
	{"hold", "HOLD"}, {"filter", "FILTER smtp:[127.0.0.1]:9"}, {"ignore", "IGNORE"}, {"warn", "WARN"},
}

func raw(format string, args ...any) lab.Message {
	return lab.Message{Raw: fmt.Appendf(nil, format, args...)}
}

// messagesOf makes n messages of each kind.
func messagesOf(n int, name string) []lab.Message {
	var all []lab.Message
	for k, kind := range kinds {
		for i := range n {
			m := kind(i)
			m.ID = fmt.Sprintf("%s-%d-%d", name, k, i)
			if m.Recipients == nil {
				m.Recipients = []string{fmt.Sprintf("user%d@domain.example", i)}
			}
			if m.Sender == "" && k != 9 {
				m.Sender = "somebody@members.example"
			}
			all = append(all, m)
		}
	}
	return all
}

// edits is a milter that does to a message what its header X-Milter says, a bit
// for each edit.
type edits struct {
	milter.NoOpMilter
	what int
}

func (e *edits) MailFrom(string, string, milter.Modifier) (*milter.Response, error) {
	e.what = 0
	return milter.RespContinue, nil
}

func (e *edits) Header(name, value string, _ milter.Modifier) (*milter.Response, error) {
	if name == "X-Milter" {
		e.what, _ = strconv.Atoi(strings.TrimSpace(value))
	}
	return milter.RespContinue, nil
}

// edited is how many bits there are.
const edited = 10

func (e *edits) EndOfMessage(m milter.Modifier) (*milter.Response, error) {
	long := strings.Repeat("long ", 30)
	var err error
	for bit, edit := range [edited]func() error{
		func() error { return m.AddHeader("X-Added", "by a milter") },
		func() error { return m.InsertHeader(1, "X-Inserted", long+"\n\t"+long) },
		func() error { return m.ChangeHeader(1, "Subject", "s") },
		func() error { return m.ChangeHeader(1, "X-Long", long) },
		func() error { return m.ChangeHeader(1, "X-Gone", "") },
		func() error { return m.ChangeFrom("<changed@members.example>", "ENVID=edited RET=HDRS") },
		func() error {
			return errors.Join(m.AddRecipient("<added1@elsewhere.example>", ""), m.AddRecipient("<added2@elsewhere.example>", "NOTIFY=FAILURE"))
		},
		func() error { return m.DeleteRecipient("<first@elsewhere.example>") },
		func() error { return m.ReplaceBody(strings.NewReader("short\r\n")) },
		func() error { return m.ReplaceBody(strings.NewReader(strings.Repeat(long+"\r\n", 40))) },
	} {
		if e.what&(1<<bit) != 0 {
			err = errors.Join(err, edit())
		}
	}
	return milter.RespAccept, err
}

// toEdit is a message that the milter edits in these ways.
func toEdit(what int) lab.Message {
	m := raw("X-Milter: %d\nSubject: a subject\nX-Long: a\nX-Gone: away\nTo: x@y.example\n\nSome text\nof some lines\n", what)
	m.ID, m.Sender, m.Recipients = fmt.Sprintf("milter-%d", what), "somebody@members.example", []string{"first@elsewhere.example", "second@elsewhere.example"}
	return m
}

// milterOn has the host's mail pass the milter, over a socket in its spool, until
// the test ends.
func milterOn(t *testing.T, h *lab.Host) {
	t.Helper()
	const socket = "edits.sock"
	listener, err := net.Listen("unix", filepath.Join(h.Spool(), socket))
	must(t, err)
	must(t, os.Chmod(filepath.Join(h.Spool(), socket), 0o666))
	server := milter.NewServer(
		milter.WithMilter(func() milter.Milter { return new(edits) }),
		milter.WithActions(milter.OptAddHeader|milter.OptChangeHeader|milter.OptChangeBody|milter.OptChangeFrom|milter.OptAddRcpt|milter.OptAddRcptWithArgs|milter.OptRemoveRcpt),
		milter.WithProtocols(milter.OptNoConnect|milter.OptNoHelo|milter.OptNoRcptTo|milter.OptNoBody|milter.OptNoEOH|milter.OptNoUnknown|milter.OptNoData))
	served := make(chan error)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; err != nil && !errors.Is(err, milter.ErrServerClosed) {
			t.Errorf("milter: %v", err)
		}
	})
	// An smtpd of before a reload may take one more client, past the milter.
	inside(t, h, "postfix stop")
	must(t, h.Postconf(t.Context(), "smtpd_milters = unix:"+socket))
	inside(t, h, "postfix start")
}

// patience is for Postfix to come to an end with thousands of files, on a machine
// that other tests keep busy.
const patience = 3 * time.Minute

// backoff is how long the host's Postfix waits before it tries again.
const backoff = 1000 * time.Second

// settled waits until nothing is being tried or received.
func settled(t *testing.T, h *lab.Host) {
	t.Helper()
	eventually(t, patience, "no mail in incoming and active", func() bool {
		return len(files(t, h, "incoming"))+len(files(t, h, "active")) == 0
	})
}

// inside runs a shell script in the host.
func inside(t *testing.T, h *lab.Host, script string) {
	t.Helper()
	_, err := h.Run(t.Context(), "sh", "-ec", script)
	must(t, err)
}

// kick has the queue manager look at a queue. It may close the connection before
// postkick has written to it; then it is asked again.
func kick(t *testing.T, h *lab.Host, what string) {
	t.Helper()
	inside(t, h, "for try in 1 2 3 4 5; do timeout 5 postkick public qmgr "+what+" && exit; done; exit 1")
}

// configure makes a host ready for messages of every kind.
func configure(t *testing.T, h *lab.Host) {
	t.Helper()
	var table strings.Builder
	for _, c := range checks {
		fmt.Fprintf(&table, "/^X-Check: %s/ %s\n", c.name, c.action)
	}
	must(t, os.WriteFile(filepath.Join(h.Dir, "upper/etc/postfix/header_checks"), []byte(table.String()), 0o644))
	must(t, h.Postconf(t.Context(), "header_checks = regexp:/etc/postfix/header_checks", "delay_warning_time = 1h",
		"smtpd_authorized_xforward_hosts = 0.0.0.0/0, [::]/0", fmt.Sprintf("minimal_backoff_time = %ds", int(backoff.Seconds()))))
}

// everyKind fills a host's queues with files of every kind, and stops its Postfix.
func everyKind(t *testing.T, h *lab.Host) {
	t.Helper()
	configure(t, h)
	must(t, h.Inject(t.Context(), messagesOf(150, "short")))
	settled(t, h) // a reload while mail is tried leaves some of it for later

	// Some recipients done; the bounces of the others wait too. The same mail goes
	// through queue ids of the other kind.
	must(t, h.Flood(lab.Deliver))
	var some []lab.Message
	for i := range 200 {
		m := raw("Subject: some done %d\n\nHello\n", i)
		m.ID, m.Sender = fmt.Sprintf("some-%d", i), "later.sender@members.example"
		m.Recipients = []string{"first@elsewhere.example", "later.second@elsewhere.example", "third@elsewhere.example", "never.fourth@elsewhere.example"}
		some = append(some, m)
	}
	must(t, h.Inject(t.Context(), some))
	settled(t, h)
	must(t, h.Flood(lab.Refuse))
	must(t, h.Postconf(t.Context(), "enable_long_queue_ids = yes"))
	must(t, h.Inject(t.Context(), messagesOf(150, "long")))
	settled(t, h)

	milterOn(t, h)
	var milters []lab.Message
	for i := range 1 << edited {
		milters = append(milters, toEdit(i))
	}
	must(t, h.Inject(t.Context(), milters))

	inside(t, h, `
		for i in $(seq 20); do
			printf 'Subject: local\n\ntext\n' | sendmail -i -f somebody@members.example "user$i@elsewhere.example"
			printf 'Subject: by -t\nTo: t1@elsewhere.example, t2@elsewhere.example\nBcc: b@elsewhere.example\n\ntext\n' | sendmail -t -i -F 'Some Body' -N success,delay -V env$i -R hdrs
			printf 'Subject: verp\n\n\303\251\n' | sendmail -XV -B 8BITMIME -f list@members.example v1@elsewhere.example v2@elsewhere.example
		done`)
	eventually(t, patience, "no mail in maildrop", func() bool { return len(files(t, h, "maildrop")) == 0 })
	settled(t, h)
	inside(t, h, `
		cd /var/spool/postfix
		find deferred -type f | sed 's:.*/::' | head -n 100 | postsuper -h - `)
	var again []string
	for path := range paths(t, h, "deferred") {
		if again = append(again, path); len(again) == 300 {
			break
		}
	}
	tried := time.Now().Truncate(time.Second)
	for _, path := range again {
		must(t, os.Chtimes(path, tried, tried))
	}
	kick(t, h, "D")
	eventually(t, patience, "mail is deferred a second time", func() bool {
		for _, path := range again {
			info, err := os.Stat(path)
			if err != nil || info.ModTime().Before(tried.Add(backoff)) {
				return false
			}
		}
		return true
	})

	// Down, Postfix takes mail into maildrop only. With its log in a file postsuper
	// dies while it is down, so that it is given settings without one.
	inside(t, h, `
		postfix stop
		cp -r /etc/postfix /tmp/quiet
		postconf -c /tmp/quiet -e maillog_file=
		cd /var/spool/postfix
		find deferred -type f | sed 's:.*/::' | tail -n 100 | postsuper -c /tmp/quiet -r -
		for i in $(seq 40); do
			printf 'Subject: down\n\ntext\n' | sendmail -i -f somebody@members.example "user$i@elsewhere.example"
			printf ' begins with a blank\nSubject: none\n\ntext\n' | sendmail -f somebody@members.example x@elsewhere.example
			printf 'To: t1@elsewhere.example\n\n%5000d\n' $i | sendmail -t -N never -V env$i
			printf 'Subject: verp\n\n\303\251\n' | sendmail -XV -B 8BITMIME -f list@members.example v1@elsewhere.example v2@elsewhere.example
		done`)
}

// paths are the files of the queues, those of names that Postfix takes for ids.
func paths(t *testing.T, h *lab.Host, queues ...string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	for _, q := range queues {
		must(t, filepath.WalkDir(filepath.Join(h.Spool(), q), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && queuefile.ValidID(e.Name()) {
				found[path] = true
			}
			return err
		}))
	}
	return found
}

// asPostcat is a queue file as postcat -e, -h and -b print it.
type asPostcat struct{ envelope, header, body string }

// readFile makes of a queue file what postcat should print under this name.
func readFile(r *queuefile.Reader, path, name string) (a asPostcat, err error) {
	f, err := os.Open(path)
	if err != nil {
		return a, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return a, err
	}
	r.Reset(f, info.Size(), strings.HasPrefix(name, "maildrop/"))
	var b strings.Builder
	fmt.Fprintf(&b, "*** ENVELOPE RECORDS %s ***\n", name)
	err = r.Records(func(rec queuefile.Record) error {
		switch rec.Type {
		case 'M':
			fmt.Fprintf(&b, "*** MESSAGE CONTENTS %s ***\n", name)
		case 'X':
			fmt.Fprintf(&b, "*** HEADER EXTRACTED %s ***\n", name)
		case 'E':
			fmt.Fprintf(&b, "*** MESSAGE FILE END %s ***\n", name)
		case 'T', 'W':
			fmt.Fprintf(&b, "%s: %s\n", rec.Name(), asctime(rec.Value))
		case 'A':
			if attr, value := rec.Attribute(); string(attr) == "create_time" {
				fmt.Fprintf(&b, "create_time: %s\n", asctime(value))
			} else {
				fmt.Fprintf(&b, "named_attribute: %s=%s\n", attr, value)
			}
		default:
			fmt.Fprintf(&b, "%s: %s\n", rec.Name(), rec.Value)
		}
		return nil
	})
	if err != nil {
		return a, err
	}
	a.envelope = b.String()
	into := func(s *string) (func([]byte, bool) error, func()) {
		var b bytes.Buffer
		return func(piece []byte, eol bool) error {
			b.Write(piece)
			if eol {
				b.WriteByte('\n')
			}
			return nil
		}, func() { *s = b.String() }
	}
	header, endHeader := into(&a.header)
	body, endBody := into(&a.body)
	err = r.HeaderBody(header, body)
	endHeader()
	endBody()
	return a, err
}

// asctime is what postcat prints of a number of seconds, in UTC.
func asctime(b []byte) string {
	n, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	sec, _ := strconv.ParseInt(n, 10, 64)
	return time.Unix(sec, 0).UTC().Format(time.ANSIC)
}

// catBatch is how many files one postcat is given.
const catBatch = 250

// postcat runs postcat over files named as seen from the spool. It stops at a file
// that is cut, so that it is given whole ones only.
func postcat(t *testing.T, h *lab.Host, flags string, names ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), needs.Program(t, "postcat"), append([]string{flags}, names...)...)
	cmd.Dir = h.Spool()
	cmd.Env = append(os.Environ(), "TZ=UTC")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("postcat %s: %v: %s", flags, err, stderr.Bytes())
	}
	return string(out)
}

// compare reads files as postcat does, and shows what differs in the first few. Two
// differences are known, and are postcat's:
//
//   - A message that begins with a blank has no header, since cleanup, pickup and
//     smtpd take it for all body; postcat.c says "This is wrong when the message
//     starts with whitespace". Only files in maildrop begin so.
//   - postcat -b notes the type of a record only where it prints it, so that in a
//     long header line it takes the second piece for the body. With -h it is right.
//
// Of such files header and body are compared together, of the second kind the
// header too.
func compare(t *testing.T, h *lab.Host, names []string) {
	t.Helper()
	groups := map[string][]string{} // by the flags to compare with
	each := map[string]map[string]string{}
	var r queuefile.Reader
	for _, name := range names {
		a, err := readFile(&r, filepath.Join(h.Spool(), name), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		flags := "-e -h -b -hb"
		if slices.ContainsFunc(strings.Split(a.header, "\n"), func(line string) bool { return len(line) > 2048 }) {
			flags = "-e -h -hb"
		}
		if strings.HasPrefix(name, "maildrop/") && strings.HasPrefix(a.body, " ") {
			flags = "-e -hb"
		}
		groups[flags] = append(groups[flags], name)
		each[name] = map[string]string{"-e": a.envelope, "-h": a.header, "-b": a.body, "-hb": a.header + a.body}
	}
	bad := 0
	for all, names := range groups {
		for batch := range slices.Chunk(names, catBatch) {
			for _, flag := range strings.Fields(all) {
				var ours strings.Builder
				for _, name := range batch {
					ours.WriteString(each[name][flag])
				}
				if ours.String() == postcat(t, h, flag, batch...) {
					continue
				}
				for _, name := range batch {
					if diff := cmp.Diff(postcat(t, h, flag, name), each[name][flag]); diff != "" {
						if bad++; bad <= 5 {
							t.Errorf("%s (-postcat %s +ours):\n%s", name, flag, diff)
						}
					}
				}
			}
		}
	}
	if bad > 0 {
		t.Errorf("%d differences in %d files", bad, len(names))
	}
}

// What we read of a queue file is byte for byte what postcat reads of it.
func TestEqualToPostcat(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	needs.Program(t, "postcat")
	began := time.Now()
	everyKind(t, h)
	made := time.Since(began)
	var names []string
	seen := map[string]int{}
	var r queuefile.Reader
	for path := range paths(t, h, "maildrop", "incoming", "active", "deferred", "hold") {
		name, err := filepath.Rel(h.Spool(), path)
		must(t, err)
		names = append(names, name)
		for mark := range marks(t, &r, path, name) {
			seen[mark]++
		}
	}
	slices.Sort(names)
	compare(t, h, names)
	t.Logf("%d files made in %v, compared in %v: %v", len(names), made, time.Since(began)-made, seen)
	if len(names) < 5000 {
		t.Errorf("only %d files were compared", len(names))
	}
	for _, mark := range []string{
		"in maildrop", "in deferred", "in hold", "short id", "long id", "bounce", "edited", "queue file in maildrop", "8-bit", "NUL", "long line", "SMTPUTF8",
		"recipient", "done_recipient", "canceled_recipient", "original_recipient", "redirect_to", "content_filter", "warning_message_time", "verp_delimiters",
		"sender_fullname", "envelope_id", "ret_flags", "dsn_orig_rcpt", "notify_flags", "encoding", "sasl_username", "log_client_address",
	} {
		if seen[mark] < 5 {
			t.Errorf("only %d files of the kind %q", seen[mark], mark)
		}
	}
}

// marks are what makes a file one of a kind.
func marks(t *testing.T, r *queuefile.Reader, path, name string) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	queue, _, _ := strings.Cut(name, "/")
	id := filepath.Base(name)
	found := map[string]bool{"in " + queue: true}
	if strings.LastIndexByte(id, 'z') >= 10 {
		found["long id"] = true
	} else {
		found["short id"] = true
	}
	r.Reset(bytes.NewReader(b), int64(len(b)), queue == "maildrop")
	last := int64(-1)
	must(t, r.Records(func(rec queuefile.Record) error {
		found[rec.Name()] = true
		if attr, _ := rec.Attribute(); attr != nil {
			found[string(attr)] = true
		}
		switch {
		case rec.Offset < last:
			found["edited"] = true
		case rec.Type == 'C' && queue == "maildrop":
			found["queue file in maildrop"] = true
		case rec.Type == 'C' && !strings.HasSuffix(string(rec.Value), " 0"):
			found["SMTPUTF8"] = true
		case rec.Type == 'S' && len(rec.Value) == 0:
			found["bounce"] = true
		}
		last = rec.Offset
		return nil
	}))
	length := 0
	must(t, r.Content(func(piece []byte, eol bool) error {
		for _, c := range piece {
			if c >= 0x80 {
				found["8-bit"] = true
			} else if c == 0 {
				found["NUL"] = true
			}
		}
		if length += len(piece); length > 2048 {
			found["long line"] = true
		}
		if eol {
			length = 0
		}
		return nil
	}))
	return found
}
