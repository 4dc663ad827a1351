package suggest_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/suggest"
)

// person is an address that nobody else has.
func (m *mill) person() string {
	return fmt.Sprintf("%s.%s@%s%d.test", of(m, names...), m.word(), of(m, "far", "silent", "stuck"), m.IntN(300))
}

// everywhere is n messages of a flood, each from a sender and a client of its own.
func (m *mill) everywhere(n int, text func(from, to string) string) {
	for i := range n {
		from, to := m.person(), m.person()
		m.put(practice.Spam, practice.Message{Sender: from, Recipients: []string{to}, ClientName: "unknown", ClientAddress: fmt.Sprintf("203.0.%d.%d", 100+i/250, 1+i%250), Text: text(from, to)})
	}
}

// heir is a text that is the same each time, but for the name and the sum.
func (m *mill) heir(from, to string) string {
	return mail(from, to, "Re: your inheritance", "", fmt.Sprintf("Dear %s,\n\nI am the lawyer of your late uncle in the capital.\nHe left the sum of %d million dollars to you.\nSend me a copy of your passport without delay.\n", m.word(), 2+m.IntN(40)))
}

// wonder has other words each time around the text.
func (m *mill) wonder(from, to string) string {
	return mail(from, to, m.words(3), "", fmt.Sprintf("Hello %s,\nThe doctors are furious about this discovery.\nLose all of that weight while you are asleep.\nOrder the wonder drops before they forbid them.\n%s\n", m.word(), m.words(9)))
}

// digest is what a list sends to each of its members, with an address to return it
// to for each.
func (m *mill) digest(n int, more string) {
	for i := range n {
		to := fmt.Sprintf("reader%d@%s", i, domain)
		m.put(practice.Ham, practice.Message{Sender: fmt.Sprintf("neighbours-bounces+reader%d=%s@lists.test", i, domain), Recipients: []string{to}, ClientName: "lists.test", ClientAddress: "192.0.2.201",
			Text: mail("neighbours-request@lists.test", "neighbours@lists.test", "neighbours Digest, Vol 12, Issue 3", more, "Send neighbours mailing list submissions to the address above.\n\nToday's topics: the garden, the gate, and the stolen bicycle.\nThe gate will be painted next week, please bring brushes.\nThe bicycle has been found behind the bakery.\n")})
	}
}

// letterTo is a newsletter that a member sends with an own program.
func (m *mill) letterTo(n int, more string) {
	for range n {
		m.put(practice.Ham, practice.Message{Sender: "vera@" + domain, Login: "vera", Recipients: []string{m.person()}, ClientName: "home.isp.test", ClientAddress: "192.0.2.44",
			Text: mail("vera@"+domain, "readers", "News from the workshop", more, "Dear readers,\n\nthe workshop opens again on the first of the month.\nWe have repaired the loom, and look for people who weave.\nBring your friends and something to eat.\n")})
	}
}

// resets is what a shop on this server writes to who forgot a password.
func (m *mill) resets(n int) {
	for range n {
		to := m.person()
		m.put(practice.Ham, practice.Message{Sender: "shop@" + domain, Recipients: []string{to},
			Text: mail("shop@"+domain, to, "Your new password", "X-Mailer: shopkeeper 4\n", fmt.Sprintf("Somebody asked for a new password for your account at our shop.\nTo choose one, follow https://shop.%s/reset?token=%x\nIf it was not you, there is nothing to do.\n", domain, m.Uint64()))})
	}
}

// notices is what the same program tells the owner of each site on this server.
func (m *mill) notices(n int) {
	for i := range n {
		site := fmt.Sprintf("%s%d.test", m.word(), i)
		to := m.person()
		m.put(practice.Ham, practice.Message{Sender: "press@" + site, Recipients: []string{to},
			Text: mail("press@"+site, to, "Your site has been updated", "", fmt.Sprintf("Howdy! Your site at https://%s has been updated to 6.%d by itself.\nNo further action is needed on your part.\nIf you see something odd, the support forum may be of help.\n", site, m.IntN(9)))})
	}
}

const footer = "-- \nThis message is confidential and meant for its addressee alone.\nIf you are not the addressee please destroy it at once.\nPlease think of the forest before you print this message.\n"

// footed is what members write, under which this server puts the same lines.
func (m *mill) footed(n int) {
	for i := range n {
		member, to := fmt.Sprintf("%s%d", of(m, members...), i), m.person()
		text := of(m, "ok, see you at noon", "Thanks!", "I will call you back", "yes", "me too") + "\n"
		if m.IntN(3) == 0 {
			text = m.letter("you", member)
		}
		m.put(practice.Ham, practice.Message{Sender: member + "@" + domain, Login: member, Recipients: []string{to}, ClientName: "home.isp.test", ClientAddress: fmt.Sprintf("192.0.2.%d", 1+m.IntN(200)),
			Text: mail(member+"@"+domain, to, "Re: "+of(m, matters...), "", text+footer)})
	}
}

// campaign is one letter that many people send to one office.
func (m *mill) campaign(n int) {
	for range n {
		from := m.person()
		m.put(practice.Ham, practice.Message{Sender: from, Recipients: []string{"office@" + domain}, ClientName: "mail.isp.test", ClientAddress: fmt.Sprintf("192.0.2.%d", 1+m.IntN(200)),
			Text: mail(from, "office@"+domain, "Save the library", "", "To whom it may concern,\n\nplease do not close the library in the old town.\nOur children learn to read there, and so did we.\nSincerely,\n"+m.word()+"\n")})
	}
}

// repeated are floods that show themselves by repetition alone: there is no login,
// sender or recipient of much mail, and no bounces. And what is sent in as many
// copies, and is no flood.
var repeated = []row{
	{name: "one text from 130 senders", make: func(m *mill) { m.everywhere(130, m.heir); m.ham(300); m.hamBounces(20) }},
	{name: "one text from 130 logins", make: func(m *mill) {
		for i := range 130 {
			login, to := fmt.Sprintf("%s.%s", of(m, names...), m.word()), m.person()
			m.put(practice.Spam, practice.Message{Sender: login + "@" + domain, Login: login, Recipients: []string{to}, ClientName: "unknown", ClientAddress: fmt.Sprintf("203.0.113.%d", 1+i), Text: m.heir(login+"@"+domain, to)})
		}
		m.ham(300)
	}},
	{name: "one text from many senders, with other words around it", make: func(m *mill) { m.everywhere(200, m.wonder); m.ham(300) }},
	{name: "one text from many senders, all base64", make: func(m *mill) {
		m.everywhere(200, func(from, to string) string {
			_, text, _ := strings.Cut(m.heir(from, to), "\n\n")
			return encoded(from, to, m.words(3), text)
		})
		m.ham(300)
	}},
	{name: "two texts from many senders", make: func(m *mill) { m.everywhere(150, m.heir); m.everywhere(150, m.wonder); m.ham(400) }},
	{name: "one text from many senders, through one client", make: func(m *mill) {
		for range 200 {
			from, to := m.person(), m.person()
			m.put(practice.Spam, practice.Message{Sender: from, Recipients: []string{to}, ClientName: "unknown", ClientAddress: "203.0.113.7", Text: m.wonder(from, to)})
		}
		m.ham(300)
	}},
	{name: "one text from many senders, and one account", make: func(m *mill) {
		m.everywhere(150, m.heir)
		m.flood(400, hacked, m.advert)
		m.back(100, hacked, m.advert)
		m.ham(300)
	}},
	{name: "one text from many senders among much ham", make: func(m *mill) { m.everywhere(200, m.heir); m.ham(3000) }},
	{name: "one text from many senders, and all that is like one", make: func(m *mill) {
		m.everywhere(150, m.heir)
		m.ham(900)
		m.digest(200, "List-Id: <neighbours.lists.test>\n")
		m.letterTo(200, "List-Unsubscribe: <mailto:vera@"+domain+">\n")
		m.resets(120)
		m.notices(150)
		m.footed(200)
		m.campaign(130)
	}},
	{name: "no flood, but a digest for 200 members", none: true, make: func(m *mill) { m.ham(400); m.digest(200, "List-Id: <neighbours.lists.test>\n") }},
	{name: "no flood, but a digest that does not say it is one", none: true, make: func(m *mill) { m.ham(400); m.digest(200, "") }},
	{name: "no flood, but a newsletter of a member", none: true, make: func(m *mill) {
		m.ham(400)
		m.letterTo(200, "List-Unsubscribe: <mailto:vera@"+domain+">\n")
	}},
	{name: "no flood, but new passwords from a shop", none: true, make: func(m *mill) { m.ham(500); m.resets(150) }},
	{name: "no flood, but one notice from 150 sites", none: true, make: func(m *mill) { m.ham(400); m.notices(150) }},
	{name: "no flood, but lines under all that members write", none: true, make: func(m *mill) { m.ham(300); m.footed(300) }},
	{name: "no flood, but one letter of 130 people to an office", none: true, make: func(m *mill) { m.ham(500); m.campaign(130) }},
}

// A text that many senders send from one place may be a newsletter's: nothing is
// proposed, and it is said.
func TestRepeatedUnclear(t *testing.T) {
	for name, make := range map[string]func(m *mill){
		"from one place": func(m *mill) {
			for range 200 {
				from, to := m.word()+"@letters.test", m.person()
				m.put(practice.Ham, practice.Message{Sender: from, Recipients: []string{to}, ClientName: "letters.test", ClientAddress: "192.0.2.201", Text: m.heir(from, to)})
			}
		},
		"from one name": func(m *mill) { m.notices(150) },
		"one line of few": func(m *mill) {
			m.everywhere(150, func(from, to string) string {
				return mail(from, to, m.words(3), "", "Your parcel waits for you at the customs\n")
			})
		},
	} {
		m := &mill{Rand: rand.New(rand.NewPCG(9, 9))}
		make(m)
		m.ham(400)
		h, _ := practiceHost(t, m.all)
		unclear, p := suggested(t, h, "")
		if len(p.Rules) > 0 || len(unclear) != 1 || unclear[0].Kind != suggest.Phrase || unclear[0].In < 150 {
			t.Errorf("%s: %+v, unclear %+v", name, p, unclear)
		}
	}
}

// Where all of a flood came from one client, that is a rule if it takes less of them
// than the texts would, and if no other mail came from there.
func TestClient(t *testing.T) {
	atoms := []suggest.Atom{
		{Kind: suggest.Client, Field: "client", Pattern: "203.0.113.7", In: 200, Of: 500, From: 200, Least: 2},
		{Kind: suggest.Phrase, Field: "body", Pattern: "the wonder drops"}, {Kind: suggest.Phrase, Field: "body", Pattern: "while you are asleep"},
		{Kind: suggest.Subject, Field: "subject", Pattern: "re: your inheritance"}, {Kind: suggest.Subject, Field: "subject", Pattern: "your late uncle"},
	}
	counts := []suggest.Count{{Mask: 0b00111, Messages: 100}, {Mask: 0b11001, Messages: 100}, {Mask: 0, Messages: 300}}
	p := suggest.Choose(atoms, counts, suggest.Known{}, 0)
	if len(p.Rules) != 1 || p.Caught != 200 || fmt.Sprint(p.Rules[0].Rule) != "map[client:203.0.113.7]" {
		t.Errorf("%+v", p)
	}
	if why := fmt.Sprint(p.Rules[0].Why); why != "[203.0.113.7: 40 % of all messages, of 200 senders or more]" {
		t.Error(why)
	}
	p = suggest.Choose(atoms, append(counts, suggest.Count{Mask: 1, Messages: 5}), suggest.Known{}, 0)
	if p.Caught != 200 || p.Hit != 0 || p.Rules[0].Matches(1) || len(p.Refused) != 1 || p.Refused[0].Hit != 5 {
		t.Errorf("with other mail of that client: %+v", p)
	}
}

// Of mail that is known to be of the flood others have what anybody writes, and that
// is not like it; what has half of the rest is.
func TestKnown(t *testing.T) {
	letter := func(lines ...string) *suggest.Message {
		return &suggest.Message{Sender: "a@b.test", Header: []string{"Subject: a message"}, Text: lines}
	}
	hello, regards := "how do you do these days, my friend", "with the best regards to your family"
	bank, passport, answer := "the bank of the islands holds a sum for you", "send a copy of your passport today", "answer to the lawyer of your late uncle"
	atoms := suggest.FromSamples([]*suggest.Message{letter(hello, bank, passport, answer, regards)}, nil)
	var counts []suggest.Count
	mask := func(lines ...string) (m suggest.Mask) {
		for i, a := range atoms {
			if a.Field == "body" && strings.Contains(strings.Join(lines, "\n"), a.Pattern) {
				m |= 1 << i
			}
		}
		return m
	}
	for n, lines := range map[int64][]string{100: {hello, bank, passport, answer, regards}, 101: {bank, passport}, 102: {bank}, 3000: {hello, regards}, 103: {hello, passport, regards}, 20000: nil} {
		counts = append(counts, suggest.Count{Mask: mask(lines...), Messages: n})
	}
	p := suggest.Choose(atoms, counts, suggest.Known{Spam: []suggest.Mask{mask(hello, bank, passport, answer, regards)}}, 0)
	if p.Flood != 201 || p.Caught != 201 || p.Hit != 0 || p.Samples != 1 {
		t.Errorf("%+v\n%+v", p, atoms)
	}
	for _, r := range p.Rules {
		if r.Matches(mask(hello, regards)) {
			t.Errorf("%+v takes what anybody writes", r)
		}
	}
}
