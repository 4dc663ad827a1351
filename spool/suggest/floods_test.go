package suggest_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
	"spoolsweep/spool/suggest"
)

var table = flag.Bool("table", false, "print the table of the README")

func TestMain(m *testing.M) {
	if code, mine := practice.Main(os.Args[1:]); mine {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

const (
	domain  = "chavez.practice.test"
	hacked  = "spam-account"
	hackedA = hacked + "@" + domain
)

// mill makes the mail of one row. All of it is made up.
type mill struct {
	*rand.Rand
	all []practice.Message
}

func of[T any](m *mill, list ...T) T { return list[m.IntN(len(list))] }

var (
	names   = strings.Fields("alva bruno chiara dmitri elsa farid greta hugo irma jonas klara leo mira nora otto petra quinn ruth stefan thea")
	members = strings.Fields("ana bela carlos dora emil fatima goran hana ines jamal kira luis mona nils olga pavel rosa sami tara uma")
	matters = strings.Fields("assembly budget calendar collective contract deadline draft garden grant house invoice kitchen leaflet letter library meeting minutes plan poster printer radio report room schedule server statement table ticket tour translation venue vote workshop")
	letters = strings.Fields("ba be bi bo bu da de di do du fa fe ka ke ki la le lo ma me mi na no pa ra re ri sa se so ta te ti to va ve za zo")
)

// word is one that stands in no dictionary, and seldom twice in a queue.
func (m *mill) word() string {
	var b strings.Builder
	for range 3 + m.IntN(3) {
		b.WriteString(of(m, letters...))
	}
	return b.String()
}

func (m *mill) words(n int) string {
	var all []string
	for range n {
		all = append(all, m.word())
	}
	return strings.Join(all, " ")
}

func (m *mill) stranger() string {
	return fmt.Sprintf("%s%d@%s%d.test", of(m, names...), m.IntN(10000), of(m, "far", "silent", "stuck"), m.IntN(300))
}

func (m *mill) put(label practice.Label, n practice.Message) {
	n.Label = label
	m.all = append(m.all, n)
}

func (m *mill) sentence() string {
	return fmt.Sprintf(of(m, "Could you look at the %[1]s before %[3]s?", "We have to talk about the %[1]s and the %[2]s.", "I will bring the %[1]s, the %[2]s can wait.",
		"Nobody thought of the %[1]s, so the %[2]s is still open.", "Please send me the %[1]s, thanks!", "About the %[2]s: the %[1]s comes first."),
		of(m, matters...), of(m, matters...), of(m, "the weekend", "noon", "the tour", "the holidays"))
}

func (m *mill) letter(to, from string) string {
	text := fmt.Sprintf("%s %s,\n\n", of(m, "Dear", "Hello", "Hi", "Good morning"), to)
	for range 2 + m.IntN(5) {
		text += m.sentence() + "\n"
	}
	return text + fmt.Sprintf("\n%s\n%s\n", of(m, "Best,", "Cheers,", "Thanks,", "In solidarity,"), from)
}

// mail is header and text.
func mail(from, to, subject, more, text string) string {
	return fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\n%sMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n%s", from, to, subject, more, text)
}

func encoded(from, to, subject, text string) string {
	return fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n%s", from, to, subject, practice.Base64(text))
}

// ham is n messages that members write and get.
func (m *mill) ham(n int) {
	for range n {
		member, person := of(m, members...), of(m, names...)
		own, other := member+"@"+domain, fmt.Sprintf("%s@partner%d.test", person, m.IntN(40))
		subject := of(m, matters...) + " and " + of(m, matters...)
		agent := of(m, "User-Agent: Paperplane/3\n", "X-Mailer: Postbag 11.2\n", "")
		if m.IntN(2) == 0 {
			m.put(practice.Ham, practice.Message{Sender: own, Recipients: []string{other}, Login: member, ClientName: "home.isp.test", ClientAddress: fmt.Sprintf("192.0.2.%d", 1+m.IntN(200)),
				Text: mail(own, other, subject, agent, m.letter(person, member))})
			continue
		}
		m.put(practice.Ham, practice.Message{Sender: other, Recipients: []string{own}, ClientName: "mail.partner.test", ClientAddress: fmt.Sprintf("192.0.2.%d", 1+m.IntN(200)),
			Text: mail(other, own, subject, agent, m.letter(member, person))})
	}
}

// bounces is what comes back to members for what they wrote.
func (m *mill) hamBounces(n int) {
	for range n {
		own := of(m, members...) + "@" + domain
		m.put(practice.Ham, practice.Message{Recipients: []string{own}, ClientName: "mail.partner.test", ClientAddress: "192.0.2.9",
			Text: m.returned(own, mail(own, m.stranger(), of(m, matters...), "", m.letter("you", "me")))})
	}
}

func (m *mill) returned(to, original string) string {
	server := fmt.Sprintf("mx%d.far.test", m.IntN(60))
	return fmt.Sprintf("From: MAILER-DAEMON@%[1]s (Mail Delivery System)\nSubject: Undelivered Mail Returned to Sender\nTo: %[2]s\nMIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\n\n--b\nContent-Type: text/plain\n\nThis is the mail system at host %[1]s.\n\nYour message could not be delivered.\n\n--b\nContent-Type: message/rfc822\n\n%[3]s\n--b--\n", server, to, original)
}

// sent is one message of the flood, with a login and from anywhere.
func (m *mill) sent(login, text string, to string) {
	m.put(practice.Spam, practice.Message{Sender: login + "@" + domain, Login: login, Recipients: []string{to}, ClientName: "unknown", ClientAddress: fmt.Sprintf("203.0.113.%d", 1+m.IntN(250)), Text: text})
}

// flood is n messages of one login, each of its own text.
func (m *mill) flood(n int, login string, text func(to string) string) {
	for range n {
		to := m.stranger()
		m.sent(login, text(to), to)
	}
}

// back is n bounces for them.
func (m *mill) back(n int, login string, text func(to string) string) {
	for range n {
		m.put(practice.Spam, practice.Message{Recipients: []string{login + "@" + domain}, ClientName: "mx.far.test", ClientAddress: fmt.Sprintf("198.51.100.%d", 1+m.IntN(250)),
			Text: m.returned(login+"@"+domain, text(m.stranger()))})
	}
}

// advert is the text that a program makes for one of them.
func (m *mill) advert(to string) string {
	return mail(hackedA, to, fmt.Sprintf("%s %d%% off", of(m, "watches", "pills", "loans"), 40+m.IntN(50)), "",
		fmt.Sprintf("Special offer for you, dear friend!\n\n%d%% off all %s.\nLook here: http://%s%d.shop.test/%s/media.php?id=%x\n\nQuestions? Write to swiftvalue@freemail.test\n",
			40+m.IntN(50), of(m, "watches", "pills", "loans"), m.word(), m.IntN(90), m.word(), m.Uint32()))
}

// owners is what the account's owner wrote before, and what others write to it.
func (m *mill) owners(n int) {
	for range n {
		person := of(m, names...)
		other := fmt.Sprintf("%s@partner%d.test", person, m.IntN(40))
		m.put(practice.Ham, practice.Message{Sender: hackedA, Login: hacked, Recipients: []string{other}, ClientName: "home.isp.test", ClientAddress: "192.0.2.77", Text: mail(hackedA, other, of(m, matters...), "", m.letter(person, "Sam"))})
		m.put(practice.Ham, practice.Message{Sender: other, Recipients: []string{hackedA}, ClientName: "mail.partner.test", ClientAddress: "192.0.2.78", Text: mail(other, hackedA, of(m, matters...), "", m.letter("Sam", person))})
	}
}

// news is a newsletter that looks like spam, without a word that it is one.
func (m *mill) news(n int, more string) {
	for i := range n {
		to := fmt.Sprintf("%s@%s", members[i%len(members)], domain)
		m.put(practice.Ham, practice.Message{Sender: "offers@garden-shop.test", Recipients: []string{to}, ClientName: "out.garden-shop.test", ClientAddress: "192.0.2.200",
			Text: mail("offers@garden-shop.test", to, "Special offer: 30% off all seeds", more, fmt.Sprintf("Dear friend of the garden!\n\n30%% off all seeds, only this week.\nLook here: http://www.garden-shop.test/sale?c=%d\n\nYou can unsubscribe at any time.\n", m.IntN(1e6)))})
	}
}

func (m *mill) list(n int) {
	for i := range n {
		to := fmt.Sprintf("%s@%s", members[i%len(members)], domain)
		m.put(practice.Ham, practice.Message{Sender: "neighbours-bounces@lists.test", Recipients: []string{to}, ClientName: "lists.test", ClientAddress: "192.0.2.201",
			Text: mail(of(m, names...)+"@partner1.test", to, "[neighbours] "+of(m, matters...), "List-Id: <neighbours.lists.test>\n", m.letter("all", of(m, names...))+"-- \nneighbours mailing list\nhttp://lists.test/options/neighbours\n")})
	}
}

// row is one flood of the table.
type row struct {
	name string
	make func(m *mill)
	none bool // nothing is to be proposed
}

var rows = []row{
	{name: "one account", make: func(m *mill) { m.flood(600, hacked, m.advert); m.ham(300); m.hamBounces(10) }},
	{name: "one account, and its bounces", make: func(m *mill) {
		m.flood(400, hacked, m.advert)
		m.back(300, hacked, m.advert)
		m.ham(300)
		m.hamBounces(20)
	}},
	{name: "two accounts", make: func(m *mill) {
		m.flood(300, hacked, m.advert)
		m.flood(300, "hana", m.advert)
		m.back(100, hacked, m.advert)
		m.back(100, "hana", m.advert)
		m.ham(300)
	}},
	{name: "two accounts, two texts", make: func(m *mill) {
		m.flood(300, hacked, m.advert)
		m.flood(300, "second-account", func(to string) string {
			return mail("second-account@"+domain, to, "Your parcel waits", "", fmt.Sprintf("Your parcel could not be delivered.\nPay the fee of %d cents: https://%s.parcel-help.test/track\n", m.IntN(300), m.word()))
		})
		m.ham(300)
	}},
	{name: "bounces only", make: func(m *mill) { m.back(600, hacked, m.advert); m.ham(300); m.hamBounces(30) }},
	{name: "bounces only, without the text", make: func(m *mill) {
		m.back(600, hacked, func(string) string { return "Subject: " + m.words(3) })
		m.ham(300)
		m.hamBounces(30)
	}},
	{name: "a third is base64", make: func(m *mill) {
		m.flood(400, hacked, m.advert)
		m.flood(200, hacked, func(to string) string {
			_, text, _ := strings.Cut(m.advert(to), "\n\n")
			return encoded(hackedA, to, "pills", text)
		})
		m.ham(300)
	}},
	{name: "all base64", make: func(m *mill) {
		m.flood(600, hacked, func(to string) string {
			_, text, _ := strings.Cut(m.advert(to), "\n\n")
			return encoded(hackedA, to, m.words(2), text)
		})
		m.ham(300)
	}},
	{name: "random subjects", make: func(m *mill) {
		m.flood(600, hacked, func(to string) string {
			return mail(hackedA, to, m.words(4), "", "Your account will be closed in 24 hours.\nPlease confirm your password with our support team.\n"+m.words(10)+"\n")
		})
		m.ham(300)
	}},
	{name: "random subjects and texts, rotating link hosts", make: func(m *mill) {
		m.flood(600, hacked, func(to string) string {
			return mail(hackedA, to, m.words(3), "", m.words(12)+"\nhttp://"+m.word()+of(m, ".com.test", ".net.test", ".shop.test")+"/"+m.word()+"/media.php?x="+m.word()+"\n"+m.words(8)+"\n")
		})
		m.ham(300)
	}},
	{name: "numbered link paths", make: func(m *mill) {
		m.flood(600, hacked, func(to string) string {
			return mail(hackedA, to, m.words(2), "", fmt.Sprintf("%s\nhttp://%s%d.test/invoice-%d.html\n", m.words(9), m.word(), m.IntN(99), m.IntN(1e6)))
		})
		m.ham(300)
	}},
	{name: "image only", make: func(m *mill) {
		m.flood(600, hacked, func(to string) string {
			return fmt.Sprintf("From: %s\nTo: %s\nSubject: %s\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"b\"\n\n--b\nContent-Type: image/gif; name=\"offer%d.gif\"\nContent-Transfer-Encoding: base64\n\n%s--b--\n", hackedA, to, m.words(2), m.IntN(1e5), practice.Base64(m.words(20)))
		})
		m.ham(300)
	}},
	{name: "short texts", make: func(m *mill) {
		m.flood(600, hacked, func(to string) string {
			return mail(hackedA, to, "hi", "", fmt.Sprintf("hey, look: http://%s.quickpills.test\n", m.word()))
		})
		m.ham(300)
	}},
	{name: "six languages", make: func(m *mill) {
		texts := []string{
			"Félicitations, vous avez gagné le gros lot de notre loterie.", "Herzlichen Glückwunsch, Sie haben in unserer Lotterie gewonnen.", "Congratulations, you have won the great lottery of our bank.",
			"Felicidades, usted ha ganado el gran premio de nuestra lotería.", "Поздравляем, вы выиграли главный приз нашей лотереи.", "恭喜您赢得了我们银行的彩票大奖请尽快联系我们",
		}
		m.flood(900, hacked, func(to string) string {
			return mail(hackedA, to, m.words(2), "", of(m, texts...)+"\n\n"+m.words(6)+"\n")
		})
		m.ham(300)
	}},
	{name: "newsletter ham that looks like spam", make: func(m *mill) {
		m.flood(600, hacked, m.advert)
		m.back(100, hacked, m.advert)
		m.ham(200)
		m.news(90, "")
	}},
	{name: "ham from and to the hacked account", make: func(m *mill) {
		m.flood(600, hacked, m.advert)
		m.back(200, hacked, m.advert)
		m.owners(20)
		m.ham(300)
	}},
	{name: "mailing list ham", make: func(m *mill) { m.flood(600, hacked, m.advert); m.list(300); m.ham(200) }},
	{name: "one recipient's flood", make: func(m *mill) {
		for range 600 {
			from := m.stranger()
			m.put(practice.Spam, practice.Message{Sender: from, Recipients: []string{"ana@" + domain}, ClientName: "unknown", ClientAddress: fmt.Sprintf("203.0.113.%d", 1+m.IntN(250)),
				Text: mail(from, "ana@"+domain, m.words(3), "", "We know what you did, and everybody will hear of it.\nPay within two days and we forget you.\n"+m.words(5)+"\n")})
		}
		m.ham(300)
	}},
	{name: "a script on the web server", make: func(m *mill) {
		for range 600 {
			to := m.stranger()
			m.put(practice.Spam, practice.Message{Sender: "www-data@" + domain, Recipients: []string{to},
				Text: mail("www-data@"+domain, to, m.words(3), "X-PHP-Originating-Script: 33:gallery.php\n", "Meet lonely people near you tonight.\nhttp://"+m.word()+".meet-now.test/in\n")})
		}
		m.ham(300)
	}},
	{name: "forty accounts, one text", make: func(m *mill) {
		m.flood(200, hacked, m.advert)
		for _, login := range members {
			m.flood(20, login, m.advert)
		}
		m.ham(300)
	}},
	{name: "a small flood among much ham", make: func(m *mill) { m.flood(150, hacked, m.advert); m.back(60, hacked, m.advert); m.ham(900) }},
	{name: "nearly all is flood", make: func(m *mill) { m.flood(1500, hacked, m.advert); m.back(400, hacked, m.advert); m.ham(20) }},
	{name: "HTML with hidden words", make: func(m *mill) {
		m.flood(600, hacked, func(to string) string {
			return strings.Replace(mail(hackedA, to, m.words(2), "", fmt.Sprintf("<html><body><p>Cheap medicine without prescription</p><a href=\"http://%s.meds.test/order/checkout\">order now</a><span style=\"display:none\">%s</span></body></html>\n", m.word(), m.words(10))), "text/plain", "text/html", 1)
		})
		m.ham(300)
	}},
	{name: "the practice incident", make: func(m *mill) { m.all = practice.Incident("chavez", hacked, 1000, m.Uint64()) }},
	{name: "no flood at all", none: true, make: func(m *mill) { m.ham(1500); m.hamBounces(40) }},
	{name: "no flood, but a list and a newsletter", none: true, make: func(m *mill) {
		m.ham(600)
		m.list(600)
		m.news(80, "")
		m.news(300, "List-Unsubscribe: <http://www.garden-shop.test/off>\n")
	}},
	{name: "nothing in common", none: true, make: func(m *mill) {
		m.flood(600, hacked, func(to string) string { return mail(hackedA, to, m.words(3), "", m.words(30)+"\n") })
		m.owners(20)
		m.ham(300)
	}},
}

// figures are a row of the table.
type figures struct {
	flood, ham, caught, hit, rules int
	proposal                       *suggest.Proposal
	text                           string // of the rules
}

// look has a host do one stage that changes nothing.
func look(t testing.TB, h *stage.Host, name string, args any, emit stage.Emit) stage.Result {
	t.Helper()
	text, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := stage.Lookup(name)
	a, err := r.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	found, err := r.Run(t.Context(), h, a, emit)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func quiet(string, any) {}

// suggested is what is proposed for the live queues of a host.
func suggested(t testing.TB, h *stage.Host, account string) ([]suggest.Atom, *suggest.Proposal) {
	t.Helper()
	live := stage.LiveQueues{Live: stage.AllLive()}
	found := look(t, h, "suggest", &stage.SuggestArgs{Account: account, LiveQueues: live}, quiet).(*stage.Suggested).Atoms
	atoms, unclear := suggest.Merge([][]suggest.Atom{found})
	if len(atoms) == 0 {
		return unclear, suggest.Choose(nil, nil, suggest.Known{}, 0)
	}
	counted := look(t, h, "suggest", &stage.SuggestArgs{Spam: suggest.Rules(atoms), Kinds: suggest.KindsOf(atoms), LiveQueues: live}, quiet).(*stage.Suggested)
	return unclear, suggest.Choose(atoms, countsOf(t, counted), suggest.Known{}, counted.Lost)
}

func countsOf(t testing.TB, s *stage.Suggested) []suggest.Count {
	t.Helper()
	var all []suggest.Count
	for mask, n := range s.Counts {
		m, err := suggest.ParseMask(mask)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, suggest.Count{Mask: m, Messages: n})
	}
	return all
}

// practiceHost is a host with this mail.
func practiceHost(t testing.TB, mail []practice.Message) (*stage.Host, []string) {
	t.Helper()
	top, err := os.MkdirTemp("", "suggest") // not t.TempDir: its names are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, "chavez")
	if err := practice.Make(dir, "chavez", practice.Options{}); err != nil {
		t.Fatal(err)
	}
	h, err := practice.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := h.SubmitAll(mail)
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	return &stage.Host{Postfix: p}, ids
}

// measure makes a flood and looks what the proposed rules really do.
func measure(t testing.TB, r row, seed uint64, real []practice.Message) figures {
	t.Helper()
	m := &mill{Rand: rand.New(rand.NewPCG(seed, 1))}
	r.make(m)
	m.all = append(m.all, real...)
	m.Shuffle(len(m.all), func(i, k int) { m.all[i], m.all[k] = m.all[k], m.all[i] })
	h, ids := practiceHost(t, m.all)
	unclear, p := suggested(t, h, "")
	f := figures{rules: len(p.Rules), proposal: p}
	label := map[string]practice.Label{}
	for i, id := range ids {
		label[id] = m.all[i].Label
		if m.all[i].Label == practice.Spam {
			f.flood++
		} else {
			f.ham++
		}
	}
	if len(p.Rules) == 0 {
		f.text = fmt.Sprintf("unclear: %+v", unclear)
		return f
	}
	var rules []any
	for _, one := range p.Rules {
		rules = append(rules, one.Rule)
	}
	text, err := json.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	f.text = string(text)
	args := map[string]any{"spam": rules, "live": stage.AllLive(), "list_messages": true}
	look(t, h, "classify", args, func(kind string, data any) {
		if kind != "judged" {
			return
		}
		for _, one := range data.(*stage.Judged).Messages {
			switch {
			case one.Verdict != "spam":
			case label[one.ID] == practice.Spam:
				f.caught++
			default:
				f.hit++
			}
		}
	})
	return f
}

// realMail is what the folder of samples has of ham, to and from members.
func realMail(t testing.TB) []practice.Message {
	t.Helper()
	dir := os.Getenv("SPOOLSWEEP_MAIL_SAMPLES")
	if dir == "" {
		return nil
	}
	files, _ := filepath.Glob(filepath.Join(dir, "ham", "*.eml"))
	if len(files) == 0 {
		t.Fatalf("no ham/*.eml in %s", dir)
	}
	var all []practice.Message
	for i, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		member, other := members[i%len(members)], fmt.Sprintf("%s@partner%d.test", names[i%len(names)], i)
		for _, m := range []practice.Message{
			{Sender: other, Recipients: []string{member + "@" + domain}, ClientName: "mail.partner.test", ClientAddress: "192.0.2.5"},
			{Sender: member + "@" + domain, Login: member, Recipients: []string{other}, ClientName: "home.isp.test", ClientAddress: "192.0.2.6"},
		} {
			m.Label, m.Text = practice.Ham, string(text)
			all = append(all, m)
		}
	}
	return all
}

// Each flood is caught by few rules, and nothing else is.
func TestFloods(t *testing.T) {
	real := realMail(t)
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for i, r := range slices.Concat(rows, repeated) {
		t.Run(r.name, func(t *testing.T) {
			f := measure(t, r, uint64(100+i), real)
			lines = append(lines, fmt.Sprintf("| %s | %d | %d | %d | %d | %d |", r.name, f.flood, f.ham, f.caught, f.hit, f.rules))
			if told := lines[len(lines)-1]; len(real) == 0 && !strings.Contains(string(readme), "\n"+told+"\n") {
				t.Errorf("the README does not say %s", told)
			}
			if f.hit > 0 || f.rules > suggest.MaxRules || !r.none && 100*f.caught < 99*f.flood || r.none && f.rules > 0 {
				t.Errorf("%d of %d caught, %d of %d ham hit, with %d rules: %s\n%+v", f.caught, f.flood, f.hit, f.ham, f.rules, f.text, f.proposal)
			}
			if int64(f.caught+f.hit) != f.proposal.Caught+f.proposal.Hit {
				t.Errorf("%d messages are said to be caught, classify finds %d", f.proposal.Caught+f.proposal.Hit, f.caught+f.hit)
			}
			t.Log(f.text)
		})
	}
	if *table {
		fmt.Println("| flood | its messages | others | caught | others hit | rules |\n|---|---|---|---|---|---|\n" + strings.Join(lines, "\n"))
	}
	if n := len(rows) + len(repeated); n < 20 {
		t.Errorf("%d floods", n)
	}
}
