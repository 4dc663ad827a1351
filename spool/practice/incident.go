package practice

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
)

// The shares of an incident's mail, in percent; the rest is the members'.
const (
	spamShare   = 45
	bounceShare = 30
	// encoded: one spam message in three has its text in base64, so that
	// strings and grep see neither link nor address.
	encoded = 3
)

// Where an incident's mail began to come in, before now.
const incidentAge = 6 * time.Hour

// incident makes the mail of one flood. Nothing in it is anybody's: all domains
// end in .test, all addresses are of the ranges for documentation.
type incident struct {
	*rand.Rand
	name, host, account string
	members             []string
}

// Incident is the flood of the wiki's story on the practice host name, n
// messages of the last six hours, oldest first, the same for the same seed: spam
// sent with the login of a hacked account, the bounces that come back to it, and
// members' own mail in between, spread over active, incoming and deferred. Of
// the spam a third is base64; all of it has a link to a media.php and an address
// swiftvalue@…, which its bounces return. Among the ham are list mail, bounces
// to members, and letters that mention media.php. Spam to *.silent.test holds
// active, mail to *.stuck.test is deferred, the rest can be delivered.
func Incident(name, account string, n int, seed uint64) []Message {
	in := &incident{
		Rand: rand.New(rand.NewPCG(seed, uint64(len(name)))),
		name: name, host: Hostname(name), account: account,
	}
	for _, first := range strings.Fields("ana bela carlos dora emil fatima goran hana ines jamal kira luis mona nils olga pavel rosa sami tara uma") {
		if first != account {
			in.members = append(in.members, first)
		}
	}
	var all []Message
	for i := range n {
		switch share := i * 100 / n; {
		case share < spamShare:
			all = append(all, in.spam(i%encoded == 0))
		case share < spamShare+bounceShare:
			all = append(all, in.bounce(i%encoded == 0))
		default:
			all = append(all, in.letterOf(i))
		}
	}
	in.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	now := time.Now()
	for i := range all {
		// Ids and times are given last: they say nothing about the label.
		all[i].ID = fmt.Sprintf("%s-%06d-%06x", name, i, in.Uint32()&0xffffff)
		age := time.Duration(float64(incidentAge) * float64(n-i) / float64(n))
		all[i].Arrived = now.Add(-age - time.Duration(in.IntN(1e6))*time.Microsecond)
	}
	slices.SortStableFunc(all, func(a, b Message) int { return a.Arrived.Compare(b.Arrived) })
	return all
}

func pick[T any](in *incident, of []T) T { return of[in.IntN(len(of))] }

var (
	persons  = strings.Fields("alva bruno chiara dmitri elsa farid greta hugo irma jonas klara leo mira nora otto petra quinn ruth stefan thea")
	things   = strings.Fields("assembly budget calendar collective contract copy deadline draft garden grant house invoice kitchen leaflet letter library meeting minutes newsletter plan poster printer radio report room schedule server statement table ticket tour translation venue vote workshop")
	doings   = strings.Fields("ask bring call cancel change check confirm finish forward move need postpone prepare print read send sign translate update write")
	whens    = []string{"today", "tomorrow", "on Monday", "on Thursday evening", "next week", "before the weekend", "after the meeting", "when you have time", "in March", "this afternoon"}
	products = []string{"watches", "slimming tea", "pills", "loans", "software", "lottery tickets", "handbags", "casino chips"}
)

func (in *incident) sentence() string {
	form := pick(in, []string{
		"Could you %[1]s the %[2]s %[4]s?",
		"We have to %[1]s the %[2]s and the %[3]s %[4]s.",
		"I will %[1]s the %[2]s %[4]s, the %[3]s can wait.",
		"Nobody remembered to %[1]s the %[2]s, so the %[3]s is still open.",
		"Please %[1]s the %[2]s %[4]s, thanks!",
		"About the %[3]s: the %[2]s is what we should %[1]s first, maybe %[4]s.",
	})
	return fmt.Sprintf(form, pick(in, doings), pick(in, things), pick(in, things), pick(in, whens))
}

// letter is the text of one: a few paragraphs.
func (in *incident) letter(to, from string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s,\n\n", pick(in, []string{"Dear", "Hello", "Hi", "Good morning"}), to)
	for range 1 + in.IntN(4) {
		for range 1 + in.IntN(3) {
			b.WriteString(in.sentence() + "\n")
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%s\n%s\n", pick(in, []string{"Best,", "Cheers,", "Thanks,", "In solidarity,"}), from)
	return b.String()
}

func (in *incident) address(range24 string) string {
	return fmt.Sprintf("%s.%d", range24, 1+in.IntN(250))
}

func (in *incident) accountAddress() string { return in.account + "@" + in.host }

func (in *incident) messageID(domain string) string {
	return fmt.Sprintf("<%012x.%04x@%s>", in.Uint64()&0xffffffffffff, in.Uint32()&0xffff, domain)
}

// advert is the text that the spammer's program makes.
func (in *incident) advert() string {
	link := fmt.Sprintf("http://%s%d.shop.test/%s/media.php?id=%x", pick(in, things), in.IntN(90), pick(in, things), in.Uint32())
	return fmt.Sprintf("Special offer for you, dear friend!\n\n%d%% off all %s, only %s.\nLook here: %s\n\nQuestions? Write to swiftvalue@freemail.test\n",
		40+in.IntN(55), pick(in, products), pick(in, whens), link)
}

// advertMail is header and text of one spam message.
func (in *incident) advertMail(to string, base64 bool) string {
	text, coding := in.advert(), "7bit"
	if base64 {
		text, coding = Base64(text), "base64"
	}
	return fmt.Sprintf("From: %s <%s>\nTo: %s\nSubject: %s %d%% off\nMessage-Id: %s\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: %s\n\n%s",
		pick(in, persons), in.accountAddress(), to, pick(in, products), 40+in.IntN(55), in.messageID("mailer.test"), coding, text)
}

// spam is one message sent with the hacked account's login.
func (in *incident) spam(base64 bool) Message {
	m := Message{Label: Spam, Sender: in.accountAddress(), Login: in.account, Helo: pick(in, persons) + "-pc"}
	m.ClientAddress = in.address("203.0.113")
	m.ClientName = "dyn-" + strings.ReplaceAll(m.ClientAddress, ".", "-") + ".isp.test"
	var domain string
	switch place := in.IntN(100); {
	case place < 40:
		m.Queue, domain = spool.Active, "silent.test"
	case place < 75:
		m.Queue, domain = spool.Incoming, pick(in, []string{"silent.test", "far.test"})
	default:
		m.Queue, domain = spool.Deferred, "stuck.test"
	}
	domain = fmt.Sprintf("mx%d.%s", in.IntN(40), domain)
	for range 1 + in.IntN(4) {
		m.Recipients = append(m.Recipients, fmt.Sprintf("%s%d@%s", pick(in, persons), in.IntN(10000), domain))
	}
	m.Text = in.advertMail(m.Recipients[0], base64)
	return m
}

// bounce is what somebody's server sends back for one of them.
func (in *incident) bounce(base64 bool) Message {
	server := fmt.Sprintf("mx%d.far.test", in.IntN(60))
	m := Message{Label: Spam, ClientName: server, ClientAddress: in.address("198.51.100"), Recipients: []string{in.accountAddress()}, Queue: spool.Incoming}
	if in.IntN(100) < 30 {
		m.Queue = spool.Active
	}
	m.Text = in.returned(server, in.accountAddress(), in.advertMail(fmt.Sprintf("%s%d@%s", pick(in, persons), in.IntN(10000), server), base64))
	return m
}

// returned is a non-delivery notification with the returned message inside.
func (in *incident) returned(server, to, original string) string {
	failed := pick(in, persons) + "@" + server
	boundary := fmt.Sprintf("%08X.%d/%s", in.Uint32(), in.IntN(1e9), server)
	return fmt.Sprintf(`From: MAILER-DAEMON@%[1]s (Mail Delivery System)
Subject: Undelivered Mail Returned to Sender
To: %[2]s
Auto-Submitted: auto-replied
Message-Id: %[6]s
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status;
	boundary="%[4]s"

This is a MIME-encapsulated message.

--%[4]s
Content-Description: Notification
Content-Type: text/plain; charset=us-ascii

This is the mail system at host %[1]s.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients. It's attached below.

<%[3]s>: host %[1]s said: 550 5.1.1 <%[3]s>: user unknown

--%[4]s
Content-Description: Delivery report
Content-Type: message/delivery-status

Reporting-MTA: dns; %[1]s

Final-Recipient: rfc822; %[3]s
Action: failed
Status: 5.1.1

--%[4]s
Content-Description: Undelivered Message
Content-Type: message/rfc822

%[5]s
--%[4]s--
`, server, to, failed, boundary, original, in.messageID(server))
}

// letterOf is one message that a member sends or gets, the i-th of the flood.
func (in *incident) letterOf(i int) Message {
	member, person := pick(in, in.members), pick(in, persons)
	partner := fmt.Sprintf("partner%d.test", in.IntN(30))
	own, other := member+"@"+in.host, person+"@"+partner
	m := Message{Label: Ham}
	switch place := in.IntN(100); {
	case place < 20:
		m.Queue = spool.Active
	case place < 75:
		m.Queue = spool.Incoming
	default:
		m.Queue = spool.Deferred
		other = person + "@" + fmt.Sprintf("office%d.stuck.test", in.IntN(10))
	}
	text, subject, more := in.letter(person, member), pick(in, things)+" "+pick(in, whens), ""
	if i%50 == 0 {
		text += "\nPS: the old page is at https://" + partner + "/archive/media.php by the way.\n"
	}
	switch kind := in.IntN(100); {
	case kind < 50 || m.Queue == spool.Deferred: // sent
		m.Sender, m.Recipients, m.Login = own, []string{other}, member
		m.ClientAddress, m.Helo = in.address("192.0.2"), "[192.168.1."+fmt.Sprint(2+in.IntN(200))+"]"
		m.ClientName = "home-" + strings.ReplaceAll(m.ClientAddress, ".", "-") + ".net.test"
		if in.IntN(5) == 0 {
			m.Recipients = append(m.Recipients, pick(in, persons)+"@"+other[strings.IndexByte(other, '@')+1:])
		}
	case kind < 85: // got
		m.Sender, m.Recipients = other, []string{own}
		m.ClientName, m.ClientAddress = "mail."+partner, in.address("192.0.2")
		text = in.letter(member, person)
	case kind < 95: // of a list
		m.Sender, m.Recipients = "neighbours-bounces@lists."+partner, []string{own}
		m.ClientName, m.ClientAddress = "lists."+partner, in.address("192.0.2")
		subject, more = "[neighbours] "+subject, "List-Id: <neighbours.lists."+partner+">\n"
	default: // a bounce that is meant
		m.Recipients = []string{own}
		m.ClientName, m.ClientAddress = "mail."+partner, in.address("192.0.2")
		m.Text = in.returned("mail."+partner, own, fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\nMessage-Id: %s\n\n%s", own, other, subject, in.messageID(in.host), text))
		return m
	}
	from := m.Sender
	if more != "" {
		from = other
	}
	m.Text = fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\nMessage-Id: %s\n%sMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n%s",
		from, strings.Join(m.Recipients, ", "), subject, in.messageID(in.host), more, text)
	return m
}
