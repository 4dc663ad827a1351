package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// SampleArgs are the arguments of sample.
type SampleArgs struct {
	Messages Number `json:"messages" doc:"how many messages, at most 20"`
	Raw      bool   `json:"raw" doc:"as strings prints the queue file, not decoded"`
	Redact   bool   `json:"redact" doc:"mask addresses, logins and clients, before anything leaves the host"`
	LiveQueues
}

const (
	maxReadings = 20
	// maxReading is what is decoded of one message, and maxReadingJSON what of it
	// is sent: all of them fit into one frame.
	maxReading     = 16 << 10
	maxReadingJSON = 40 << 10
)

// Check refuses more than fits into a result.
func (a *SampleArgs) Check() error {
	if a.Messages < 1 || a.Messages > maxReadings {
		return fmt.Errorf("messages: %d is no number from 1 to %d", a.Messages, maxReadings)
	}
	return nil
}

var sample = Row{
	Name: "sample", Doc: "decode some messages for reading: at random, of many senders and recipients",
	New: func() Args { return &SampleArgs{Messages: 5} }, Result: func() Result { return &Sampled{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		s, err := sampleAll(ctx, h, a.(*SampleArgs), emit)
		if err != nil {
			return nil, fmt.Errorf("sample: %w", err)
		}
		return s, nil
	},
}

// Sampled is the result of sample.
type Sampled struct {
	Messages int64         `json:"messages"` // of which these are a sample
	Unread   int64         `json:"unreadable"`
	Samples  []ReadMessage `json:"samples"`
}

// ReadMessage is one message for reading.
type ReadMessage struct {
	Message  string    `json:"message"` // DIRECTORY/ID
	Why      string    `json:"why"`     // it is in the sample
	Envelope Addressed `json:"envelope"`
	Header   []string  `json:"header"`
	Text     []string  `json:"text"` // with raw what strings prints, and no header
	Whole    bool      `json:"whole"`
}

// Lines tells each message.
func (s *Sampled) Lines() []Line {
	lines := []Line{{Label: fmt.Sprintf("%d of them shown", len(s.Samples)), Number: s.Messages, Unit: "messages"}}
	for i := range s.Samples {
		m := &s.Samples[i]
		lines = append(lines,
			Line{Label: m.Message, Text: m.Envelope.String()},
			Line{Label: "   ", Text: fmt.Sprintf("%s, %s, arrived %s", m.Why, size(m.Envelope.Bytes), m.Envelope.Arrived.Format(time.RFC3339))})
		for _, text := range m.Header {
			lines = append(lines, Line{Label: "    |", Text: text})
		}
		if len(m.Header) > 0 {
			lines = append(lines, Line{Label: "    |"})
		}
		for _, text := range m.Text {
			lines = append(lines, Line{Label: "    |", Text: text})
		}
		if !m.Whole {
			lines = append(lines, Line{Label: "    (and more)"})
		}
	}
	if s.Unread > 0 {
		lines = append(lines, Line{Label: "could not be read", Number: s.Unread, Unit: "messages"})
	}
	return lines
}

// spot is where one message lies.
type spot struct{ dir, sub, id string }

// stratum is the messages that have one value, such as a sender.
type stratum struct {
	hash  uint64
	value string
	count int64
	at    spot // one of them, each with the same chance
}

// strata keep, of however many values, some at random: those whose keyed hash is
// least. Whoever is among the least at the end was among them from its first
// message on, so that its count is exact.
type strata struct {
	keep int
	seed maphash.Seed
	all  map[string]*stratum
}

func newStrata(keep int) *strata {
	return &strata{keep: keep, seed: maphash.MakeSeed(), all: map[string]*stratum{}}
}

func (s *strata) add(value string, at spot) {
	k := s.all[value]
	if k == nil {
		k = &stratum{hash: maphash.String(s.seed, value), value: value}
		if len(s.all) == s.keep {
			most := k
			for _, other := range s.all {
				if other.hash > most.hash {
					most = other
				}
			}
			if most == k {
				return
			}
			delete(s.all, most.value)
		}
		s.all[value] = k
	}
	k.count++
	if rand.Int64N(k.count) == 0 {
		k.at = at
	}
}

// passBy reads the envelope of every message, and what rules need of its text. The
// readings that gather gets are the next messages' afterwards.
func (h *Host) passBy(ctx context.Context, live []string, rules *pattern.Rules, emit Emit, gather func(r *reading)) error {
	places, err := h.places(live)
	if err != nil {
		return err
	}
	judges := make([]*pattern.Judge, workers())
	for i := range judges {
		judges[i] = rules.Judge()
	}
	read, shown := int64(0), time.Now()
	return (&pass[reading]{
		postfix: h.Postfix, dirs: dirs(places),
		read: func(w int, m *mail, r *reading) error {
			r.read(judges[w], m, messageIn(m.Aside, 0), func(f *pattern.Finding) { r.take(f.Envelope) })
			return nil
		},
		gather: func(found []reading) error {
			for i := range found {
				gather(&found[i])
			}
			read += int64(len(found))
			if now := time.Now(); now.Sub(shown) >= progressEvery {
				shown = now
				emit("progress", map[string]int64{"messages": read})
			}
			return nil
		},
	}).run(ctx)
}

// spot is where the message lies.
func (r *reading) spot() spot { return spot{r.Aside, r.Sub, r.ID} }

// oneRecipient is one of its recipients, each with the same chance.
func (r *reading) oneRecipient() string {
	if len(r.To) == 0 {
		return ""
	}
	return strings.ToLower(r.To[rand.IntN(len(r.To))])
}

// sampleAll reads every envelope, draws, and decodes what was drawn. A third of
// the sample is of senders, a third of recipients, each of these with the same
// chance however much mail it has: in a flood nothing else would show what is
// not the flood. The last third is of all messages.
func sampleAll(ctx context.Context, h *Host, args *SampleArgs, emit Emit) (*Sampled, error) {
	rules, err := pattern.Compile(nil, nil)
	if err != nil {
		return nil, err
	}
	n := int(args.Messages)
	s := &Sampled{Samples: []ReadMessage{}}
	senders, recipients := newStrata(n), newStrata(n)
	var any []spot
	err = h.passBy(ctx, args.Live, rules, emit, func(r *reading) {
		switch r.Verdict {
		case pattern.Unreadable:
			s.Unread++
		case pattern.Ham:
			s.Messages++
			at := r.spot()
			senders.add(strings.ToLower(r.Sender), at)
			recipients.add(r.oneRecipient(), at)
			if len(any) < n {
				any = append(any, at)
			} else if i := rand.Int64N(s.Messages); i < int64(n) {
				any[i] = at
			}
		}
	})
	if err != nil {
		return nil, err
	}
	j := rules.Judge()
	mask := &mask{names: map[string]string{}}
	seen := map[spot]bool{}
	for _, d := range draw(n, senders, recipients, any) {
		if len(s.Samples) == n || seen[d.at] {
			continue
		}
		seen[d.at] = true
		m, err := readMessage(h, j, d.at, args.Raw)
		if errors.Is(err, fs.ErrNotExist) {
			continue // delivered meanwhile
		}
		if err != nil {
			return nil, err
		}
		m.Why = d.why
		if args.Redact {
			mask.message(m)
		}
		if err := m.fit(); err != nil {
			return nil, err
		}
		s.Samples = append(s.Samples, *m)
	}
	return s, nil
}

// messageIn is what the file of a message does not say of itself.
func messageIn(dir string, size int64) pattern.Message {
	queue, _, _ := strings.Cut(dir, ".")
	return pattern.Message{Queue: queue, Size: size, Moment: time.Now()}
}

type drawn struct {
	at  spot
	why string
}

// draw puts the three kinds in turn, so that each has its third.
func draw(n int, senders, recipients *strata, any []spot) []drawn {
	var kinds [3][]drawn
	for _, k := range senders.all {
		kinds[0] = append(kinds[0], drawn{k.at, fmt.Sprintf("1 of %d from this sender", k.count)})
	}
	for _, k := range recipients.all {
		kinds[1] = append(kinds[1], drawn{k.at, fmt.Sprintf("1 of %d to this recipient", k.count)})
	}
	for _, at := range any {
		kinds[2] = append(kinds[2], drawn{at, "1 of all"})
	}
	rand.Shuffle(len(kinds[2]), func(i, k int) { kinds[2][i], kinds[2][k] = kinds[2][k], kinds[2][i] })
	var all []drawn
	for i := range n {
		for _, kind := range kinds {
			if i < len(kind) {
				all = append(all, kind[i])
			}
		}
	}
	return all
}

func readMessage(h *Host, j *pattern.Judge, at spot, raw bool) (*ReadMessage, error) {
	m := &ReadMessage{Message: at.dir + "/" + at.id, Header: []string{}, Text: []string{}}
	return m, spool.OpenMessage(h.Postfix, at.dir, at.sub, at.id, func(f *spool.MailFile, s spool.Stat) error {
		found := j.Read(f, messageIn(at.dir, s.Size))
		if found.Verdict == pattern.Unreadable {
			return fs.ErrNotExist // it was whole a moment ago: not this one any more
		}
		m.Envelope = addressed(found.Envelope)
		if raw {
			var err error
			m.Text, m.Whole, err = j.Strings(maxReading)
			return err
		}
		r, err := j.Reading(maxReading)
		if err != nil {
			m.Text = []string{"(its content cannot be read: " + err.Error() + ")"}
			return nil
		}
		m.Header, m.Text, m.Whole = r.Header, r.Text, r.Whole
		return nil
	})
}

// fit leaves out what would make a result too long for a frame.
func (m *ReadMessage) fit() error {
	for {
		text, err := json.Marshal(m)
		if err != nil || len(text) <= maxReadingJSON {
			return err
		}
		m.Whole = false
		if n := len(m.Text); n > 0 {
			m.Text = m.Text[:n/2]
		} else {
			m.Header = m.Header[:len(m.Header)/2]
		}
	}
}

// mask gives each address, login and client a name that says no more than which
// are the same.
type mask struct {
	names   map[string]string
	count   [3]int
	address *regexp.Regexp // addressForm
}

// addressForm finds addresses in a text: more than there are, rather than fewer.
const addressForm = `[^\s<>()\[\]:;,"'@=]+@[^\s<>()\[\]:;,"'@]+|\b\d{1,3}(?:\.\d{1,3}){3}\b`

const (
	maskAddress = iota
	maskLogin
	maskClient
)

var maskNames = [...]string{"address", "login", "client"}

func (k *mask) name(kind int, value string) string {
	if value == "" {
		return ""
	}
	key := maskNames[kind] + " " + strings.ToLower(value)
	if k.names[key] == "" {
		k.count[kind]++
		k.names[key] = fmt.Sprintf("%s-%d", maskNames[kind], k.count[kind])
	}
	return k.names[key]
}

func (k *mask) message(m *ReadMessage) {
	e := &m.Envelope
	// First, so that a login that is no address is found in the text too.
	login, client := e.Login, e.Client
	e.Sender, e.Login, e.Client = k.name(maskAddress, e.Sender), k.name(maskLogin, login), k.name(maskClient, client)
	for i, r := range e.Recipients {
		e.Recipients[i] = k.name(maskAddress, r)
	}
	text := func(lines []string) {
		for i, line := range lines {
			if k.address == nil {
				k.address = regexp.MustCompile(addressForm)
			}
			line = k.address.ReplaceAllStringFunc(line, func(a string) string { return k.name(maskAddress, a) })
			if login != "" {
				line = strings.ReplaceAll(line, login, e.Login)
			}
			if name, _, _ := strings.Cut(client, "["); name != "" && name != "unknown" {
				line = strings.ReplaceAll(line, name, e.Client)
			}
			lines[i] = line
		}
	}
	text(m.Header)
	text(m.Text)
}
