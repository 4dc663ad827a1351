package show

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"spoolsweep/spool/run"
)

// Page is a run over all its hosts as one HTML document: nothing of it comes from
// elsewhere, and it runs no script. Whatever hosts and mail say is text in it.
type Page struct {
	Run   string
	Made  time.Time      // when the hosts had told
	By    string         // who asked them
	Told  string         // by whom this was told, where the hosts were not asked
	Zone  *time.Location // in which its times are
	Build string
	// Named has addresses, logins and clients stand as they are; else they are
	// numbers.
	Named bool
	// Line is a command line, quoted for a shell, with the flags that find these
	// hosts again; no hosts mean all of them.
	Line  func(hosts []string, words ...string) string
	Hosts []*Story
	// Without are hosts that were asked and have no record of the run.
	Without []string
}

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

// styleHash is what the page's policy allows as style, and nothing else.
func styleHash() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// Write writes the page.
func (p *Page) Write(w io.Writer) error {
	m := &pageMaker{Page: p, mask: newMask(!p.Named)}
	return template.Must(template.New("page").Parse(pageHTML)).Execute(w, m.view())
}

// pageView is what the template shows: text that is cleaned and masked already.
type pageView struct {
	Title, Policy string
	Name          string // of the playbook
	Style         template.CSS
	Headline      string
	Alarm         bool // something is wrong that must not be overlooked
	Open          bool // not all is done
	Lead          []string
	Figures       []figure
	Meta          []figure
	Verdicts      []verdict
	Todo          []todo
	Time          *timeView
	Queues        *queueView
	Rules         *rulesView
	Source        *sourceView
	Ledger        *ledgerView
	Questions     []questionView
	Notes         []noteView
	Steps         []stepsView
	Masked        bool
	Build, Made   string
}

// figure is a number, or a text, with its name.
type figure struct {
	Name, Text string
	Bad        bool
}

// verdict is what became of some hosts of which the same is to be told.
type verdict struct {
	Hosts, State, Text string
	rank               int
	names              []string
}

// pageMaker makes the view of a page.
type pageMaker struct {
	*Page
	mask  *mask
	facts map[*Story]*facts
	told  []*Story // those that have told
}

func (m *pageMaker) view() *pageView {
	m.facts = map[*Story]*facts{}
	m.Hosts = slices.Clone(m.Hosts)
	m.mask.keep = append(m.mask.keep, m.By)
	for _, s := range m.Hosts {
		m.facts[s] = s.gather(m.Made)
		if s.Report == nil || s.Report.Info == nil || s.Report.State == nil {
			s.Report = nil
			continue
		}
		m.told = append(m.told, s)
		m.mask.keep = append(m.mask.keep, s.Report.Info.Who)
		for _, a := range s.Report.State.History {
			m.mask.keep = append(m.mask.keep, a.By)
		}
	}
	v := &pageView{
		Title: "Run " + Clean(m.Run), Style: template.CSS(pageCSS), Masked: !m.Named, Build: Clean(m.Build),
		Policy: "default-src 'none'; style-src '" + styleHash() + "'; base-uri 'none'; form-action 'none'",
		Made:   m.stamp(m.Made),
	}
	if len(m.told) > 0 {
		v.Title = m.text(m.told[0].Report.Info.Name) + ", run " + Clean(m.Run)
	}
	v.Source = m.source() // first, so that logins are known to the mask
	v.Rules = m.rules()
	v.Meta = m.meta()
	v.Verdicts = m.verdicts()
	m.lead(v)
	v.Todo = m.todo()
	v.Time = m.timeLine()
	v.Queues = m.queues()
	v.Ledger = m.ledger()
	v.Questions = m.questions()
	v.Notes = m.notes()
	v.Steps = m.steps()
	return v
}

// text is text of a host, of mail or of an inventory as the page shows it.
func (m *pageMaker) text(s string) string { return Clean(m.mask.text(s)) }

func (m *pageMaker) names(names []string) string {
	var shown []string
	for _, n := range names {
		shown = append(shown, Clean(n))
	}
	const few = 8
	if n := len(shown); n > few+1 {
		return strings.Join(shown[:few], ", ") + " and " + comma(int64(n-few)) + " more"
	}
	return enumerate(shown)
}

// enumerate joins names as a sentence does.
func enumerate(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}

func (m *pageMaker) stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.In(m.Zone).Format("2 January 2006, 15:04:05")
}

// clock is a time beside others of the run: with its date only where that is not
// the day on which the run began.
func (m *pageMaker) clock(t time.Time) string {
	t = t.In(m.Zone)
	if t.Format(time.DateOnly) == m.began().In(m.Zone).Format(time.DateOnly) {
		return t.Format(time.TimeOnly)
	}
	return t.Format("2 Jan 15:04:05")
}

func (m *pageMaker) began() (t time.Time) {
	for _, s := range m.told {
		if t.IsZero() || s.Report.Info.Began.Before(t) {
			t = s.Report.Info.Began
		}
	}
	return t
}

func comma(n int64) string { return humanize.Comma(n) }

// many is a number of things.
func many(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return comma(n) + " " + noun
}

// lasted is a number of seconds for people.
func lasted(seconds float64) string {
	d := time.Duration(min(max(0, seconds), maxSeconds) * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

func (m *pageMaker) meta() []figure {
	var all []figure
	add := func(name, text string) {
		if text != "" {
			all = append(all, figure{Name: name, Text: text})
		}
	}
	if len(m.told) > 0 {
		info := m.told[0].Report.Info
		add("Begun", m.stamp(info.Began)+", by "+Clean(info.Who))
		add("Reason", m.text(info.Reason))
	}
	var names []string
	for _, s := range m.Hosts {
		names = append(names, s.Label())
	}
	add("Hosts", m.names(names))
	if elsewhere := m.elsewhere(); len(elsewhere) > 0 {
		add("Not asked", m.names(elsewhere)+": of this run too, and left out of this page")
	}
	if m.Told != "" {
		add("As of", m.stamp(m.Made)+", "+Clean(m.Told)+"; no host was asked")
	} else {
		add("As of", m.stamp(m.Made)+", asked by "+Clean(m.By))
	}
	add("Times", m.Made.In(m.Zone).Format("MST (UTC-07:00)"))
	return all
}

// elsewhere are hosts of the run that this page was not asked to tell of.
func (m *pageMaker) elsewhere() []string {
	known := map[string]bool{}
	for _, name := range m.Without {
		known[name] = true
	}
	for _, s := range m.Hosts {
		known[s.Label()] = true
	}
	var others []string
	for _, s := range m.told {
		for _, name := range s.Report.Info.Hosts {
			// An instance of a host that did not answer stands for it.
			host, _, _ := strings.Cut(name, "/")
			if !known[name] && !(known[host] && m.unknown(host)) && len(others) < maxTold {
				known[name] = true
				others = append(others, name)
			}
		}
	}
	return others
}

// unknown says that a host has not told.
func (m *pageMaker) unknown(label string) bool {
	return slices.ContainsFunc(m.Hosts, func(s *Story) bool { return s.Label() == label && s.Report == nil })
}

// phase is where a run stands on a host, "" where the host has not told.
func (s *Story) phase() string {
	if s.Report == nil {
		return ""
	}
	return s.Report.State.Phase
}

// left is what a host has aside of the run.
func (s *Story) left() int64 {
	if s.Report == nil {
		return 0
	}
	return max(0, s.Report.State.Aside)
}

// asks is what a host waits for.
func (s *Story) asks() string {
	if s.phase() != run.Waiting || s.Report.State.Ask == nil {
		return ""
	}
	return s.Report.State.Ask.Kind
}
