package stage

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// Sample is one message shown by its envelope and subject, and where that is
// wanted by some lines of its text. All of it but Message is the mail's.
type Sample struct {
	Message  string    `json:"message"` // DIRECTORY/ID
	Envelope Addressed `json:"envelope"`
	Subject  string    `json:"subject"`
	Text     []string  `json:"text,omitempty"`
	// Of a near miss: the rule that did not match, and the lines that did.
	Rule      string `json:"rule,omitempty"`
	RuleLines int    `json:"lines,omitempty"`
}

// Addressed is an envelope for people.
type Addressed struct {
	Sender     string    `json:"sender"` // "" for the null sender
	Recipients []string  `json:"recipients"`
	Count      int       `json:"recipient_count"` // of which Recipients are the first
	Login      string    `json:"login,omitempty"`
	Client     string    `json:"client,omitempty"`
	Bytes      int64     `json:"bytes"`
	Arrived    time.Time `json:"arrived"`
}

const (
	recipientsKept = 3
	// maxValue bounds one value of a mail in a result: an address may be as long
	// as a sender likes.
	maxValue = 200
	// maxSampleText bounds the text of one sample.
	maxSampleText = 1000
)

func addressed(e *queuefile.Envelope) Addressed {
	a := Addressed{Sender: cut(e.Sender), Recipients: []string{}, Count: len(e.Recipients), Login: cut(e.Login), Bytes: e.Size, Arrived: e.Arrival.UTC()}
	for i := range e.Recipients[:min(len(e.Recipients), recipientsKept)] {
		a.Recipients = append(a.Recipients, cut(e.Recipients[i].Address))
	}
	if e.ClientName != "" || e.ClientAddress != "" {
		a.Client = cut(e.ClientName + "[" + e.ClientAddress + "]")
	}
	return a
}

// cut is a copy of the beginning of a value.
func cut(s string) string {
	if len(s) > maxValue {
		return strings.ToValidUTF8(s[:maxValue], "") + "..."
	}
	return strings.Clone(s)
}

func (a *Addressed) String() string {
	text := "from <" + a.Sender + "> to " + strings.Join(a.Recipients, ", ")
	if more := a.Count - len(a.Recipients); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if a.Login != "" {
		text += ", login " + a.Login
	}
	if a.Client != "" {
		text += ", client " + a.Client
	}
	return text
}

// lines are a sample for people.
func (s *Sample) lines(label string) []Line {
	text := s.Message + " " + s.Envelope.String()
	if s.Rule != "" {
		text += fmt.Sprintf("; lines that match %s: %d", s.Rule, s.RuleLines)
	}
	lines := []Line{{Label: label, Text: text}, {Label: "    Subject:", Text: s.Subject}}
	for _, l := range s.Text {
		lines = append(lines, Line{Label: "    |", Text: l})
	}
	return lines
}

// sampler keeps some messages at random, however many are offered: each of n has
// the same chance (Vitter's algorithm R).
type sampler struct {
	keep, textLines int
	rules           []string

	mu        sync.Mutex // guards what follows
	ham, near reservoir
}

type reservoir struct {
	offered int
	kept    []Sample
}

// slot is where the next one is to be kept, -1 for nowhere.
func (r *reservoir) slot(keep int) int {
	r.offered++
	if len(r.kept) < keep {
		r.kept = append(r.kept, Sample{})
		return len(r.kept) - 1
	}
	if at := rand.IntN(r.offered); at < keep {
		return at
	}
	return -1
}

// offer shows the sampler the message that j has just read.
func (s *sampler) offer(j *pattern.Judge, dir, id string, f *pattern.Finding) {
	if s.keep == 0 || f.Verdict != pattern.Ham {
		return
	}
	near := -1
	s.mu.Lock()
	ham := s.ham.slot(s.keep)
	if len(f.Near) > 0 {
		near = s.near.slot(s.keep)
	}
	s.mu.Unlock()
	if ham < 0 && near < 0 {
		return
	}
	one := Sample{Message: dir + "/" + id, Envelope: addressed(f.Envelope)}
	// Content that cannot be read has no subject; only a rule on it makes it
	// unreadable.
	subject, text, _ := j.Sample(s.textLines)
	one.Subject = cut(subject)
	size := 0
	for _, l := range text {
		if size += len(l); size <= maxSampleText {
			one.Text = append(one.Text, l)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ham >= 0 {
		s.ham.kept[ham] = one
	}
	if near >= 0 {
		one.Rule, one.RuleLines = s.rules[f.Near[0].Index], f.Near[0].Lines
		s.near.kept[near] = one
	}
}
