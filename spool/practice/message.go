package practice

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"spoolsweep/spool"
)

// Label is what a message really is: what no rule can see, and every test asks.
type Label string

const (
	Spam Label = "spam" // and the bounces that come back for it
	Ham  Label = "ham"
)

// Message is a message to be written as a queue file.
type Message struct {
	// ID stands in the header X-Practice-Id, by which the audit follows the
	// message whatever its file is called; empty: a random one.
	ID    string
	Label Label       // empty: Ham
	Queue spool.Queue // incoming if empty; or active, deferred, hold, maildrop

	Sender     string // empty is <>
	Recipients []string
	// Original are the recipients before aliasing; nil: the same.
	Original []string

	// Login is the SASL login. Without ClientAddress the message was submitted
	// on the host itself.
	Login                           string
	ClientName, ClientAddress, Helo string

	Arrived time.Time // zero: now
	// Due is the file's time: in deferred that of the next try. Zero: what it
	// would be after one try, and elsewhere the arrival.
	Due time.Time

	// Text is header and body, in lines. Headers that cleanup(8) adds are added.
	Text string

	// HalfWritten leaves the file as a cleanup(8) leaves it that was killed
	// while it wrote: nobody's mail.
	HalfWritten bool
}

// Base64 is a body part's text as Content-Transfer-Encoding base64 has it.
func Base64(text string) string {
	const line = 57
	var b strings.Builder
	for len(text) > 0 {
		n := min(line, len(text))
		b.WriteString(base64.StdEncoding.EncodeToString([]byte(text[:n])))
		b.WriteByte('\n')
		text = text[n:]
	}
	return b.String()
}

// session is what smtpd(8) knows of one connection besides the message.
type session struct {
	clientPort, serverAddress, serverPort string
}

const (
	lineLimit = 2048 // line_length_limit: a text record holds no more
	// mailDate is RFC 5322's as mail_date of Postfix writes it.
	mailDate = "Mon, 2 Jan 2006 15:04:05 -0700 (MST)"
)

// file collects the records of a queue file.
type file struct{ bytes.Buffer }

// put writes one record (rec_put of src/global/record.c).
func (f *file) put(kind byte, data string) {
	f.WriteByte(kind)
	n := len(data)
	for ; n >= 0x80; n >>= 7 {
		f.WriteByte(byte(n) | 0x80)
	}
	f.WriteByte(byte(n))
	f.WriteString(data)
}

func (f *file) attribute(name, value string) { f.put('A', name+"="+value) }

// text writes one line, as smtpd and cleanup cut it.
func (f *file) text(line string) {
	for len(line) >= lineLimit {
		f.put('L', line[:lineLimit])
		line = line[lineLimit:]
	}
	f.put('N', line)
}

// compose makes the queue file that cleanup(8) makes for smtpd(8), or for
// pickup(8) where there is no client, or that postdrop(1) makes; the order of
// records is that of Postfix 3.7. offsets are those of the recipient records.
func (m *Message) compose(id, hostname string, s session) (queueFile []byte, offsets []int) {
	if m.Queue == spool.Maildrop {
		return m.composeMaildrop()
	}
	f := new(file)
	f.put('C', sizes(0, 0, 0, 0, 0, 0))
	f.put('T', fmt.Sprintf("%d %d", m.Arrived.Unix(), m.Arrived.Nanosecond()/1000))
	f.attribute("create_time", fmt.Sprint(m.Arrived.Unix()))
	f.attribute("log_ident", id)
	addr, err := netip.ParseAddr(m.ClientAddress)
	context := "remote"
	if err != nil || addr.IsLoopback() {
		context = "local"
	}
	f.attribute("rewrite_context", context)
	if m.Login != "" {
		f.attribute("sasl_method", "PLAIN")
		f.attribute("sasl_username", m.Login)
	}
	if m.ClientAddress == "" {
		f.put('F', "root")
	}
	f.put('S', m.Sender)
	if m.ClientAddress == "" {
		f.attribute("log_message_origin", "local")
	} else {
		m.client(f, addr, s)
	}
	for i, r := range m.Recipients {
		original := r
		if i < len(m.Original) {
			original = m.Original[i]
		}
		f.attribute("dsn_orig_rcpt", "rfc822;"+original)
		f.put('O', original)
		offsets = append(offsets, f.Len())
		f.put('R', r)
	}
	f.put('M', "")
	content := f.Len()
	m.content(f, id, hostname)
	if m.HalfWritten {
		return f.Bytes(), offsets
	}
	size := f.Len() - content
	f.put('X', "")
	f.put('E', "")
	// cleanup rewrites this record in place, last of all: the commit.
	c := new(file)
	c.put('C', sizes(size, content, len(m.Recipients), 0, size, 0))
	copy(f.Bytes(), c.Bytes())
	return f.Bytes(), offsets
}

func sizes(n ...any) string {
	return fmt.Sprintf("%15d %15d %15d %15d %15d %15d", n...)
}

// client writes what smtpd(8) says of its client (smtpd.c mail_open_stream).
func (m *Message) client(f *file, addr netip.Addr, s session) {
	const protocol = "ESMTP"
	logged, kind := addr.String(), "2"
	if addr.Is6() {
		logged, kind = "IPv6:"+logged, "10"
	}
	for _, a := range [][2]string{
		{"log_client_name", m.ClientName}, {"log_client_address", logged}, {"log_client_port", s.clientPort},
		{"log_message_origin", m.ClientName + "[" + addr.String() + "]"}, {"log_helo_name", m.Helo}, {"log_protocol_name", protocol},
		{"client_name", m.ClientName}, {"reverse_client_name", m.ClientName}, {"client_address", addr.String()}, {"client_port", s.clientPort},
		{"server_address", s.serverAddress}, {"server_port", s.serverPort},
		{"helo_name", m.Helo}, {"protocol_name", protocol}, {"client_address_type", kind},
	} {
		f.attribute(a[0], a[1])
	}
}

// content writes header and body, with the headers that smtpd(8) or pickup(8)
// puts before them and those that cleanup(8) finds missing.
func (m *Message) content(f *file, id, hostname string) {
	date := m.Arrived.Format(mailDate)
	switch {
	case m.ClientAddress == "":
		f.text(fmt.Sprintf("Received: by %s (Postfix, from userid %d)", hostname, os.Geteuid()))
		f.text("\tid " + id + "; " + date)
	default:
		with := "ESMTP"
		if m.Login != "" {
			with = "ESMTPSA"
		}
		f.text(fmt.Sprintf("Received: from %s (%s [%s])", m.Helo, m.ClientName, m.ClientAddress))
		by := fmt.Sprintf("\tby %s (Postfix) with %s id %s", hostname, with, id)
		if len(m.Recipients) == 1 {
			f.text(by)
			f.text("\tfor <" + m.Recipients[0] + ">; " + date)
		} else {
			f.text(by + ";")
			f.text("\t" + date)
		}
	}
	if m.ID != "" {
		f.text(idHeader + ": " + m.ID)
	}
	lines := m.lines()
	header := 0
	has := map[string]bool{}
	for header < len(lines) && lines[header] != "" {
		name, _, _ := strings.Cut(lines[header], ":")
		has[strings.ToLower(name)] = true
		f.text(lines[header])
		header++
	}
	for _, missing := range []struct{ name, value string }{
		{"Message-Id", fmt.Sprintf("<%s.%s@%s>", m.Arrived.UTC().Format("20060102150405"), id, hostname)},
		{"Date", date},
		{"From", cmp.Or(m.Sender, "MAILER-DAEMON@"+hostname)},
	} {
		if !has[strings.ToLower(missing.name)] {
			f.text(missing.name + ": " + missing.value)
		}
	}
	for _, line := range lines[header:] {
		f.text(line)
	}
}

func (m *Message) lines() []string {
	text := strings.TrimSuffix(strings.ReplaceAll(m.Text, "\r\n", "\n"), "\n")
	return strings.Split(text, "\n")
}

// QueueFile is the message as a file of maildrop, for readers of queue files: header
// and body stand in it as they are.
func (m *Message) QueueFile() []byte {
	queueFile, _ := m.composeMaildrop()
	return queueFile
}

// composeMaildrop makes the file that postdrop(1) makes.
func (m *Message) composeMaildrop() (queueFile []byte, offsets []int) {
	f := new(file)
	f.put('T', fmt.Sprintf("%d %d", m.Arrived.Unix(), m.Arrived.Nanosecond()/1000))
	f.attribute("rewrite_context", "local")
	f.put('F', "root")
	f.put('S', m.Sender)
	for _, r := range m.Recipients {
		offsets = append(offsets, f.Len())
		f.put('R', r)
	}
	f.put('M', "")
	if m.ID != "" {
		f.text(idHeader + ": " + m.ID)
	}
	for _, line := range m.lines() {
		f.text(line)
	}
	if m.HalfWritten {
		return f.Bytes(), offsets
	}
	f.put('X', "")
	f.put('E', "")
	return f.Bytes(), offsets
}
