package lab

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"mime/quotedprintable"
	"strings"
)

// idHeader carries a message's id: the truth for the audit.
const idHeader = "X-Lab-Id"

// Message is one mail to inject.
type Message struct {
	ID         string   // unique; stands in the header X-Lab-Id
	Sender     string   // envelope sender; "" is the null sender
	Recipients []string // of the envelope
	Login      string   // who logged in to send it; "" is nobody
	Client     string   // the address it came from; "" is the host itself
	Subject    string
	Header     []string // further header lines
	Body       string   // plain text
	Encoding   string   // of the body: 8bit (or ""), base64, quoted-printable
	Returned   string   // makes it a bounce: a report that returns this message
	Raw        []byte   // all of the message as it is sent, newlines plain, instead of what the fields above say
	Spam       bool     // what a right verdict is

	// SMTP's further words, for queue files of every kind.
	Params     string // parameters of MAIL FROM; "" is BODY=8BITMIME
	RcptParams string // parameters of each RCPT TO
	Forward    string // XFORWARD attributes: the client that a content filter passes on
}

// Text is the message as it is sent, with plain newlines.
func (m Message) Text() []byte {
	if m.Raw != nil {
		return m.Raw
	}
	var b bytes.Buffer
	from := m.Sender
	if from == "" {
		from = "MAILER-DAEMON@relay.lab.test"
	}
	fmt.Fprintf(&b, "%s: %s\n", idHeader, m.ID)
	fmt.Fprintf(&b, "Message-Id: <%s@lab.test>\n", m.ID)
	fmt.Fprintf(&b, "From: <%s>\nTo: <%s>\nSubject: %s\n", from, strings.Join(m.Recipients, ">, <"), m.Subject)
	for _, line := range m.Header {
		fmt.Fprintf(&b, "%s\n", line)
	}
	b.WriteString("MIME-Version: 1.0\n")
	if m.Returned == "" {
		m.writePart(&b)
		return b.Bytes()
	}
	border := "=_" + m.ID
	fmt.Fprintf(&b, "Content-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"%s\"\n\n", border)
	b.WriteString("This is a MIME-encapsulated message.\n")
	fmt.Fprintf(&b, "\n--%s\nContent-Description: Notification\n", border)
	m.writePart(&b)
	fmt.Fprintf(&b, "\n--%s\nContent-Description: Delivery report\nContent-Type: message/delivery-status\n\n", border)
	b.WriteString("Reporting-MTA: dns; relay.lab.test\n\nAction: failed\nStatus: 5.1.1\n")
	fmt.Fprintf(&b, "\n--%s\nContent-Description: Undelivered Message\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n", border)
	b.WriteString(m.Returned)
	fmt.Fprintf(&b, "\n--%s--\n", border)
	return b.Bytes()
}

func (m Message) writePart(b *bytes.Buffer) {
	encoding := m.Encoding
	if encoding == "" {
		encoding = "8bit"
	}
	fmt.Fprintf(b, "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: %s\n\n", encoding)
	switch encoding {
	case "base64":
		code := base64.StdEncoding.EncodeToString([]byte(m.Body))
		for len(code) > 76 {
			b.WriteString(code[:76] + "\n")
			code = code[76:]
		}
		b.WriteString(code + "\n")
	case "quoted-printable":
		w := quotedprintable.NewWriter(b)
		// Writes to a buffer do not fail.
		w.Write([]byte(m.Body))
		w.Close()
	default:
		b.WriteString(m.Body)
	}
}

// members are the ordinary users of a flooded host: enough of them that none
// alone looks like a flood among some hundred messages.
var members = []string{
	"ada", "boris", "celia", "dmitri", "esme", "farid", "greta", "hugo", "ines", "jonas", "kira", "luis",
}

var words = strings.Fields(`agenda minutes garden budget venue Saturday volunteers posters café rota key
	projector notes draft grant deadline library printer soup bicycles radio archive choir translation
	neighbours meeting chairs van invoice summer workshop recipe train ticket photos museum kitchen school
	children concert clay paint letters signatures council river bridge market apples résumé schedule phone
	list forum newsletter stamps folder map candles benches lamp cable speaker microphone naïve seminar`)

// Flood is the mail of an incident on the host of an account such as
// "spam-account@chavez.lab.test": of n messages about half are spam that was sent
// with the account's login (every third of it in base64), a quarter are bounces
// of it that come back, and the rest is members' mail, some of that bounces too.
// The same seed gives the same mail; ids differ between accounts and seeds.
func Flood(account string, n int, seed uint64) []Message {
	random := rand.New(rand.NewPCG(seed, 1))
	g := generator{random, account, strings.TrimPrefix(account[strings.LastIndexByte(account, '@')+1:], "@")}
	messages := make([]Message, n)
	spam, ham := 0, 0
	for i := range messages {
		switch kind := random.IntN(20); {
		case kind < 11:
			messages[i] = g.spam(spam)
			spam++
		case kind < 16:
			messages[i] = g.backscatter()
		default:
			messages[i] = g.ham(ham)
			ham++
		}
		messages[i].ID = fmt.Sprintf("%s-%d-%05d", strings.NewReplacer("@", "-", ".", "-").Replace(account), seed, i)
	}
	return messages
}

type generator struct {
	*rand.Rand
	account, domain string
}

func (g generator) spam(nth int) Message {
	return Message{
		Sender: g.account, Recipients: g.strangers(1 + g.IntN(3)), Login: g.account,
		Client:  fmt.Sprintf("203.0.113.%d", 1+g.IntN(5)),
		Subject: fmt.Sprintf("Your parcel %d is waiting", g.IntN(100000)),
		Body:    g.lure(), Encoding: [...]string{"8bit", "quoted-printable", "base64", "8bit", "8bit", "base64"}[nth%6],
		Spam: true,
	}
}

// lure is the text of the spam. No line is so long that quoted-printable breaks
// it, and the two marks stand on lines of their own.
func (g generator) lure() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Dear friend %d,\n\nwe could not hand over what was sent to you. Look here:\n", g.IntN(1000))
	fmt.Fprintf(&b, "http://%d.shop.example/wp/media.php?u=%06x\n\n", g.IntN(50), g.IntN(1<<24))
	g.prose(&b, 24)
	b.WriteString("\nor write today to our agent at\nswiftvalue@yahoo.cn\nwith your full name – and your trust.\n")
	return b.String()
}

func (g generator) backscatter() Message {
	victim := g.strangers(1)[0]
	returned := fmt.Sprintf("From: <%s>\nTo: <%s>\nSubject: Your parcel %d is waiting\nMIME-Version: 1.0\n"+
		"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n%s", g.account, victim, g.IntN(100000), g.lure())
	return Message{
		Recipients: []string{g.account}, Client: g.remote(), Subject: "Undelivered Mail Returned to Sender",
		Body: notice(victim), Returned: returned, Spam: true,
	}
}

func notice(victim string) string {
	return fmt.Sprintf("This is the mail system at relay.lab.test.\n\nYour message could not be delivered.\n\n<%s>: no such user here\n", victim)
}

func (g generator) ham(nth int) Message {
	member := members[nth%len(members)]
	address := member + "@" + g.domain
	m := Message{
		Sender: address, Recipients: g.strangers(1 + g.IntN(2)),
		Subject: strings.Join(g.pick(3), " "), Encoding: [...]string{"8bit", "quoted-printable", "base64", "8bit"}[nth/2%4],
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Hello,\n\n")
	g.prose(&b, 30)
	fmt.Fprintf(&b, "\nUntil then,\n%s\n", member)
	m.Body = b.String()
	switch nth % 5 {
	case 0, 1, 2:
		m.Login, m.Client = member, fmt.Sprintf("198.51.100.%d", 10+nth%len(members))
	case 3: // mail for the member, by a list
		m.Sender, m.Recipients, m.Client = g.strangers(1)[0], []string{address}, g.remote()
		m.Header = []string{"List-Id: <" + words[g.IntN(4)] + ".lists.lab.test>"}
	case 4: // mail of the member that could not be delivered: an honest bounce
		m.Returned = fmt.Sprintf("From: <%s>\nTo: <%s>\nSubject: %s\n\n%s", address, m.Recipients[0], m.Subject, m.Body)
		m.Sender, m.Body, m.Encoding = "", notice(m.Recipients[0]), "8bit"
		m.Recipients, m.Client, m.Subject = []string{address}, g.remote(), "Undelivered Mail Returned to Sender"
	}
	return m
}

// prose writes lines of random words, each under 76 bytes.
func (g generator) prose(b *strings.Builder, lines int) {
	for range lines {
		line := ""
		for _, word := range g.pick(12) {
			if len(line)+len(word) > 70 {
				break
			}
			line += word + " "
		}
		b.WriteString(strings.TrimSpace(line) + "\n")
	}
}

func (g generator) pick(n int) []string {
	some := make([]string, n)
	for i := range some {
		some[i] = words[g.IntN(len(words))]
	}
	return some
}

func (g generator) strangers(n int) []string {
	some := make([]string, n)
	for i := range some {
		some[i] = fmt.Sprintf("user%05d@domain%02d.example", g.IntN(100000), g.IntN(60))
	}
	return some
}

func (g generator) remote() string { return fmt.Sprintf("192.0.2.%d", 1+g.IntN(250)) }
