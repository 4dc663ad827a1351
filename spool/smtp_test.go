package spool

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// smtpServer answers each line it reads, and the connection itself, with the
// next of the replies. It returns where it listens, and what it was told.
func smtpServer(t *testing.T, address string, replies ...string) (netip.AddrPort, func() string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	told := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			told <- err.Error()
			return
		}
		defer conn.Close()
		var all []string
		in := bufio.NewReader(conn)
		for i, reply := range replies {
			if i > 0 {
				line, err := in.ReadString('\n')
				if err != nil {
					break
				}
				all = append(all, strings.TrimSpace(line))
			}
			for _, c := range reply { // byte by byte: a reply may come in any pieces
				fmt.Fprintf(conn, "%c", c)
			}
		}
		if len(replies) > 0 && replies[len(replies)-1] == "" {
			_, _ = in.ReadString(0) // silent until the other side goes
		}
		told <- strings.Join(all, "|")
	}()
	return l.Addr().(*net.TCPAddr).AddrPort(), func() string { return <-told }
}

func TestAccepts(t *testing.T) {
	limit := acceptLimit
	t.Cleanup(func() { acceptLimit = limit })
	for _, tt := range []struct {
		name    string
		replies []string
		ok      bool
		why     string // how it begins
		told    string
	}{
		{"ready", []string{"220 x ESMTP\r\n", "250-x\r\n250-SIZE 1\r\n250 DSN\r\n", "250 2.1.0 Ok\r\n", "221 bye\r\n"}, true, "", "EHLO localhost|MAIL FROM:<>|QUIT"},
		{"full", []string{"220 x\r\n", "250 x\r\n", "452 4.3.1 Insufficient system storage\r\n"}, false, "452 4.3.1 Insufficient system storage", "EHLO localhost|MAIL FROM:<>"},
		{"too many", []string{"421 4.3.2 All server ports are busy\r\n"}, false, "421 4.3.2 All server ports", ""},
		{"TLS", []string{"220-first\r\n220 x\n", "250 x\n", "530 5.7.0 Must issue a STARTTLS command first\r\n"}, true, "it wants TLS first", "EHLO localhost|MAIL FROM:<>"},
		{"no SMTP", []string{"HTTP/1.1 400\r\n"}, false, `smtpd at 127.0.0.1:PORT: no answer to the connection: "HTTP/1.1 400" is no reply`, ""},
		{"closed", []string{"220 x\r\n", "25"}, false, "smtpd at 127.0.0.1:PORT: no answer to EHLO localhost: the connection was closed", "EHLO localhost"},
		{"silent", []string{"220 x\r\n", ""}, false, "smtpd at 127.0.0.1:PORT: no answer to EHLO localhost: its time is over", "EHLO localhost"},
		{"terminal", []string{"554 \x1b[2Jno\u202e\r\n"}, false, "554 [2Jno", ""},
	} {
		acceptLimit = limit
		if tt.name == "silent" {
			acceptLimit = 300 * time.Millisecond
		}
		at, told := smtpServer(t, "127.0.0.1:0", tt.replies...)
		ok, why := accepts(at)
		if want := strings.ReplaceAll(tt.why, "PORT", fmt.Sprint(at.Port())); ok != tt.ok || !strings.HasPrefix(why, want) || want == "" && why != "" {
			t.Errorf("%s: got %t %q, want %t %q", tt.name, ok, why, tt.ok, want)
		}
		if got := told(); got != tt.told {
			t.Errorf("%s: it was told %q, want %q", tt.name, got, tt.told)
		}
	}
	retry := acceptRetry
	acceptRetry = time.Millisecond
	t.Cleanup(func() { acceptRetry = retry })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	if ok, why := accepts(at); ok || !strings.Contains(why, "connection refused") {
		t.Errorf("nobody listens: %t %q", ok, why)
	}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		at, told := smtpServer(t, "[::1]:0", "220 x\r\n", "250 x\r\n", "250 x\r\n", "221 x\r\n")
		if ok, why := accepts(at); !ok {
			t.Errorf("IPv6: %q", why)
		}
		told()
	}
}

func TestListener(t *testing.T) {
	const own = "smtp       inet  n       -       y       -       -       smtpd\n"
	const submission = "submission inet n - y - - smtpd\n    -o syslog_name=postfix/submission\n"
	for _, tt := range []struct{ table, interfaces, protocols, want string }{
		{own, "all", "all", "127.0.0.1:25"},
		{own, "loopback-only", "ipv4", "127.0.0.1:25"},
		{own, "loopback-only", "ipv6", "[::1]:25"},
		{own, "192.0.2.7, 127.0.0.1", "ipv4", "192.0.2.7:25"},
		{own, "mx.example.org 192.0.2.7", "ipv4", "192.0.2.7:25"},
		{own, "mx.example.org", "ipv4", "error"},
		{own, "localhost", "all", "127.0.0.1:25"},
		{submission + own, "all", "all", "127.0.0.1:25"},
		{submission + "smtps inet n - y - - smtpd\n  -o smtpd_tls_wrappermode=yes\n", "all", "all", "127.0.0.1:587"},
		{"127.0.0.1:10025 inet n - n - - smtpd\n" + submission, "all", "all", "127.0.0.1:587"},
		{"127.0.0.1:10025 inet n - n - - smtpd\n", "all", "all", "127.0.0.1:10025"},
		{"[::1]:25 inet n - n - - smtpd\n", "all", "all", "[::1]:25"},
		{"192.0.2.9:smtp inet n - n - - smtpd\n", "all", "all", "192.0.2.9:25"},
		{"mx.example.org:25 inet n - n - - smtpd\n", "all", "all", "error"},
		{"smtp inet n - y - 1 postscreen\nsmtpd pass - - y - - smtpd\n", "all", "all", "127.0.0.1:25"},
		{"smtp unix - - y - - smtp\n465 inet n - y - - smtpd\nqmqp inet n - y - - qmqpd\n", "all", "all", "error"},
		{"", "all", "all", "error"},
	} {
		got := "error"
		if at, err := listener(tt.table, tt.interfaces, tt.protocols, ""); err == nil {
			got = at.String()
		}
		if got != tt.want {
			t.Errorf("%q, %s, %s: got %s, want %s", tt.table, tt.interfaces, tt.protocols, got, tt.want)
		}
	}
	for disabled, want := range map[string]string{
		"": "127.0.0.1:25", "unix fifo": "127.0.0.1:25", "inet": "invalid AddrPort", "unix, inet": "invalid AddrPort", "smtp/inet": "127.0.0.1:587",
	} {
		if at, _ := listener(own+submission, "all", "all", disabled); at.String() != want {
			t.Errorf("without %s: got %s, want %s", disabled, at, want)
		}
	}
}

func FuzzSMTPReply(f *testing.F) {
	for _, s := range []string{"220 x\r\n", "250-a\r\n250 b\r\nrest", "250\n", "2", "999 x\n", "\n", "25x y\n", "250-a\n", "451 \x1b[2J\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, read []byte) {
		code, text, rest, ok := smtpReply(read)
		switch {
		case !strings.HasSuffix(string(read), string(rest)):
			t.Errorf("%q: the rest %q is not its end", read, rest)
		case ok && len(rest) >= len(read):
			t.Errorf("%q: nothing was taken", read)
		case ok && code != 0 && (code < 200 || code > 599 || !strings.HasPrefix(text, fmt.Sprint(code))):
			t.Errorf("%q: got %d %q", read, code, text)
		case strings.ContainsAny(text, "\x1b\r\n\x00"):
			t.Errorf("%q: %q is not for a terminal", read, text)
		}
		// What more comes behind changes nothing of what was whole.
		more, moreText, _, _ := smtpReply(append(append([]byte{}, read...), "250 x\r\n"...))
		if ok && (more != code || moreText != text) {
			t.Errorf("%q: got %d %q, with more behind it %d %q", read, code, text, more, moreText)
		}
	})
}
