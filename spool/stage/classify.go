package stage

import (
	"context"
	"fmt"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// ClassifyArgs are the arguments of classify.
type ClassifyArgs struct {
	// Rules, see package pattern.
	Spam any `json:"spam" doc:"rules: what is spam"`
	Ham  any `json:"ham" doc:"rules: what is ham all the same"`

	// The rest is for the command, which leaves no record; a run looks at what it
	// has set aside, and passes by all that would show mail.

	LiveQueues
	// Samples is how many messages are shown, of ham and of near misses, and
	// TextLines how many lines of the text of each.
	Samples   int `json:"samples,omitempty" playbook:"-"`
	TextLines int `json:"text_lines,omitempty" playbook:"-"`
	// List tells the verdict of every message, by events of the kind "judged".
	List bool `json:"list_messages,omitempty" playbook:"-"`
	// Explain is the id of the one message that is judged, and explained.
	Explain string `json:"explain,omitempty" playbook:"-"`
}

// MaxSamples and MaxTextLines keep a result within one frame.
const (
	MaxSamples   = 20
	MaxTextLines = 20
)

// Check compiles the rules.
func (a *ClassifyArgs) Check() error {
	switch {
	case a.Samples < 0 || a.Samples > MaxSamples:
		return fmt.Errorf("samples: %d is no number from 0 to %d", a.Samples, MaxSamples)
	case a.TextLines < 0 || a.TextLines > MaxTextLines:
		return fmt.Errorf("text lines: %d is no number from 0 to %d", a.TextLines, MaxTextLines)
	case a.Explain != "" && !queuefile.ValidID(a.Explain):
		return fmt.Errorf("explain: %.40q is no queue id", a.Explain)
	}
	_, err := pattern.Compile(a.Spam, a.Ham)
	return err
}

// maxSource is how many messages of one source look like a flood.
const maxSource = 100

var classify = Row{
	Name: "classify", Doc: "tell spam from ham by the rules; without rules the run waits here", Read: true,
	New: func() Args { return &ClassifyArgs{} }, Result: func() Result { return &Classified{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*ClassifyArgs)
		rules, err := pattern.Compile(args.Spam, args.Ham)
		if err != nil {
			return nil, err
		}
		places, err := h.places(args.Live)
		if err != nil {
			return nil, err
		}
		c := newClassification(h, args, rules, emit)
		if rules.NeedsSources() {
			if err := c.countSources(ctx, places); err != nil {
				return nil, err
			}
		}
		if c.args.Explain != "" {
			return c.explain(ctx, places)
		}
		r, err := c.judgeAll(ctx, places)
		if err != nil {
			return nil, err
		}
		if rules.Empty() && h.Work != nil && r.Messages > 0 {
			return r, &Ask{Kind: "rules", Data: r}
		}
		return r, nil
	},
}

// place is a directory whose messages are judged, and what rules need to know
// of it.
type place struct {
	dir    string
	queue  spool.Queue // that its messages lie in, or lay in
	moment time.Time   // at which they have the age that rules ask for
}

// places are what a run has set aside, or what a command looks at.
func (h *Host) places(live []string) ([]place, error) {
	now := time.Now()
	sets := h.Aside
	if h.Work != nil {
		var err error
		if sets, err = h.Work.SetsAside(); err != nil {
			return nil, err
		}
	} else if sets == nil {
		for _, name := range live {
			sets = append(sets, spool.Set{Queue: spool.Queue(name), Aside: name})
		}
	}
	var all []place
	for _, s := range sets {
		if s.Queue == spool.Defer {
			continue
		}
		p := place{dir: s.Aside, queue: s.Queue, moment: now}
		if s.When > 0 {
			p.moment = time.Unix(s.When, 0)
		}
		all = append(all, p)
	}
	return all, nil
}

const progressEvery = 500 * time.Millisecond

// classification is the work of one classify.
type classification struct {
	host    *Host
	args    ClassifyArgs
	rules   *pattern.Rules
	emit    Emit
	judges  []*pattern.Judge
	all     *tally // sources of all messages, where rules ask for them
	shown   time.Time
	samples sampler
}

func newClassification(h *Host, args *ClassifyArgs, rules *pattern.Rules, emit Emit) *classification {
	c := &classification{host: h, args: *args, rules: rules, emit: emit, judges: make([]*pattern.Judge, workers()), shown: time.Now()}
	if h.Work != nil { // its events and results are kept: no mail in them
		c.args.Samples, c.args.TextLines, c.args.List, c.args.Explain = 0, 0, false, ""
	}
	for i := range c.judges {
		c.judges[i] = rules.Judge()
	}
	c.samples = sampler{keep: c.args.Samples, textLines: c.args.TextLines, rules: rules.Spam()}
	return c
}

// message is what rules need to know of a file in p.
func (c *classification) message(p *place) pattern.Message {
	m := pattern.Message{Queue: string(p.queue), Moment: p.moment}
	if c.all != nil {
		m.Sources = c.all.countOf // nothing is added to it any more
	}
	return m
}

// progress tells counts at most twice a second.
func (c *classification) progress(counts map[string]int64) {
	if now := time.Now(); now.Sub(c.shown) >= progressEvery {
		c.shown = now
		c.emit("progress", counts)
	}
}

// countSources reads all envelopes: how many messages of a source there are is
// known only when the last was seen.
func (c *classification) countSources(ctx context.Context, places []place) error {
	none, err := pattern.Compile(nil, nil)
	if err != nil {
		return err
	}
	judges, tallies := make([]*pattern.Judge, workers()), make([]*tally, workers())
	for i := range judges {
		judges[i], tallies[i] = none.Judge(), newTally(c.host.Postfix.Networks)
	}
	var counted int64
	p := &pass[reading]{
		postfix: c.host.Postfix, dirs: dirs(places), only: c.host.only,
		read: func(w int, m *mail, r *reading) error {
			r.read(judges[w], m, c.message(&places[m.Place]), func(f *pattern.Finding) { tallies[w].add("", "", f.Envelope) })
			return nil
		},
		gather: func(found []reading) error {
			counted += int64(len(found))
			c.progress(map[string]int64{"counted": counted})
			return nil
		},
	}
	if err := p.run(ctx); err != nil {
		return fmt.Errorf("classify %w", err)
	}
	c.all = merged(tallies)
	return nil
}

func dirs(places []place) []string {
	var all []string
	for _, p := range places {
		all = append(all, p.dir)
	}
	return all
}

// judgeAll reads every message of the directories once, and writes the list of
// verdicts where the run has a folder.
func (c *classification) judgeAll(ctx context.Context, places []place) (*Classified, error) {
	began := time.Now()
	var list *listWriter
	if c.host.Work != nil {
		var err error
		if list, err = newListAs(c.host.Dir, verdictsName, c.rules.Spam(), c.host.Work.Batches()); err != nil {
			return nil, err
		}
		defer list.drop()
	}
	r := newResult(c.rules, places)
	tallies := make([]*tally, workers())
	for i := range tallies {
		tallies[i] = newTally(c.host.Postfix.Networks)
	}
	kept := list != nil || c.host.seen != nil
	var again templates // among what would be sent: nothing, where others only want to see
	sends := c.host.sends || !c.rules.Empty() && c.host.seen == nil
	p := &pass[reading]{
		postfix: c.host.Postfix, dirs: dirs(places), only: c.host.only,
		read: func(w int, m *mail, one *reading) error {
			one.read(c.judges[w], m, c.message(&places[m.Place]), func(f *pattern.Finding) {
				if f.Verdict == pattern.Ham {
					tallies[w].add(m.Aside, m.ID, f.Envelope)
				}
				c.samples.offer(c.judges[w], m.Aside, m.ID, f)
				if kept {
					one.take(f.Envelope)
				}
			})
			return nil
		},
		gather: func(found []reading) error {
			if c.args.List {
				c.list(found)
			}
			for i := range found {
				one := &found[i]
				r.count(one, c.host.Postfix.Domains)
				if c.host.seen != nil {
					c.host.seen(&one.judged)
				}
				if sends && one.Verdict == pattern.Ham {
					again.offer(one.spot)
				}
				if c.rules.Empty() && one.Verdict == pattern.Ham {
					one.Verdict = "" // nobody judged it: a list that says ham is what restore and putback send
				}
				if err := list.add(&one.judged); err != nil {
					return err
				}
			}
			c.progress(map[string]int64{"messages": r.Messages, "spam": r.Spam, "ham": r.Ham})
			return nil
		},
	}
	if err := p.run(ctx); err != nil {
		return nil, fmt.Errorf("classify %w", err)
	}
	alike, err := again.over(ctx, c.host, c.rules, maxSource)
	if err != nil {
		return nil, fmt.Errorf("classify: %w", err)
	}
	r.finish(merged(tallies))
	r.Left = append(r.Left, alike...)
	r.HamSamples, r.NearMisses = c.samples.ham.kept, c.samples.near.kept
	r.Seconds = time.Since(began).Seconds()
	r.List, err = list.commit()
	return r.Classified, err
}

// Judged is the data of an event of that kind: some messages of a directory.
type Judged struct {
	Directory string          `json:"directory"`
	Messages  []JudgedMessage `json:"messages"`
}

// JudgedMessage is one message's line of a list. Lines is how many lines matched,
// over all spam rules.
type JudgedMessage struct {
	ID      string          `json:"id"`
	Lines   int             `json:"lines"`
	Verdict pattern.Verdict `json:"verdict"`
}

// list tells what became of each message of a batch: none is kept.
func (c *classification) list(found []reading) {
	if len(found) == 0 {
		return
	}
	j := Judged{Directory: found[0].Aside}
	for i := range found {
		r := &found[i]
		j.Messages = append(j.Messages, JudgedMessage{r.ID, r.lines(), r.Verdict})
	}
	c.emit("judged", &j)
}

// reading is what is kept of one message.
type reading struct {
	judged
	place   int // of the pass
	rescued bool
	hits    []pattern.Hit // and near misses, behind judged.Rules
	ham     []int
	sender  string // only of spam
	why     string // only of unreadable
}

// lines is how many lines matched, over all spam rules.
func (r *reading) lines() int {
	n := 0
	for _, h := range r.hits {
		n += h.Lines
	}
	return n
}

// read judges a message. of says what the file does not, but for its size. seen
// is called, while the file is open, for what is whole.
func (r *reading) read(j *pattern.Judge, m *mail, of pattern.Message, seen func(*pattern.Finding)) {
	*r = reading{judged: judged{Mail: m.Mail, Rules: r.Rules[:0], envelope: envelope{To: r.To[:0], Original: r.Original[:0]}}, place: m.Place, hits: r.hits[:0], ham: r.ham[:0]}
	switch {
	case m.Broken != nil:
		r.Verdict, r.why = pattern.Unreadable, m.Broken.Error()
		return
	case !m.Regular():
		r.Verdict, r.why = pattern.Unreadable, "no plain file with one name"
		return
	case m.Mode&0o700 == 0o600:
		r.Verdict = pattern.Incomplete
		return
	case !m.Complete():
		r.Verdict, r.why = pattern.Unreadable, fmt.Sprintf("mode %04o: marked corrupt", m.Mode)
		return
	}
	of.Size = m.Mail.Size
	found := j.Read(m.File, of)
	r.Verdict, r.rescued = found.Verdict, found.Rescued
	if found.Verdict == pattern.Unreadable {
		r.why = found.Why.Error()
		return
	}
	for _, hit := range found.Rules {
		r.Rules = append(r.Rules, hit.Index)
	}
	r.hits = append(append(r.hits, found.Rules...), found.Near...)
	r.ham = append(r.ham, found.Ham...)
	r.life(found.Envelope)
	if found.Verdict == pattern.Spam {
		r.sender = found.Envelope.Sender // one string with the rest of the envelope, kept for a batch
	}
	seen(&found)
}
