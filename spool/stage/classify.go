package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// ClassifyArgs are the arguments of classify.
type ClassifyArgs struct {
	Spam any `json:"spam"` // rules, see package pattern
	Ham  any `json:"ham"`

	// The rest is for the command, which leaves no record; a run looks at what it
	// has set aside, and passes by all that would show mail.

	// Directories are the live queues to look at, such as "incoming".
	Directories []string `json:"directories,omitempty" playbook:"-"`
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
	Name: "classify", Doc: "tell spam from ham by the rules; without rules the run waits here",
	New: func() Args { return &ClassifyArgs{} }, Result: func() Result { return &Classified{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*ClassifyArgs)
		rules, err := pattern.Compile(args.Spam, args.Ham)
		if err != nil {
			return nil, err
		}
		places, err := h.places(args.Directories)
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
	c := &classification{host: h, args: *args, rules: rules, emit: emit, judges: make([]*pattern.Judge, runtime.GOMAXPROCS(0)), shown: time.Now()}
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
func (c *classification) message(p *place, size int64) pattern.Message {
	m := pattern.Message{Queue: string(p.queue), Size: size, Moment: p.moment}
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
	judges := make([]*pattern.Judge, len(c.judges))
	for i := range judges {
		judges[i] = none.Judge()
	}
	all := newTally(c.host.Postfix.Networks)
	var mu sync.Mutex // guards all
	var counted int64
	for i := range places {
		p := &places[i]
		err := spool.Walk(c.host.Postfix, p.dir, func(chunk spool.Chunk) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			err := inParallel(judges, len(chunk.IDs), func(j *pattern.Judge, i int) error {
				var r reading
				return r.read(j, chunk, p.dir, i, c.message(p, 0), func(f *pattern.Finding) {
					mu.Lock()
					all.add("", f.Envelope)
					mu.Unlock()
				})
			})
			counted += int64(len(chunk.IDs))
			c.progress(map[string]int64{"counted": counted})
			return err
		})
		if err != nil {
			return fmt.Errorf("classify %s: %w", p.dir, err)
		}
	}
	c.all = all
	return nil
}

// judgeAll reads every message of the directories once, in parallel, and
// writes the list of verdicts where the run has a folder.
func (c *classification) judgeAll(ctx context.Context, places []place) (*Classified, error) {
	began := time.Now()
	var list *listWriter
	if c.host.Work != nil {
		var err error
		if list, err = newList(c.host.Dir); err != nil {
			return nil, err
		}
		defer list.drop()
	}
	r := newResult(c.rules)
	sources := newTally(c.host.Postfix.Networks)
	for i := range places {
		p := &places[i]
		err := spool.Walk(c.host.Postfix, p.dir, func(chunk spool.Chunk) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			results := make([]reading, len(chunk.IDs))
			var mu sync.Mutex // guards sources, which sees envelopes that live only until the next message
			err := inParallel(c.judges, len(chunk.IDs), func(j *pattern.Judge, i int) error {
				return results[i].read(j, chunk, p.dir, i, c.message(p, 0), func(f *pattern.Finding) {
					if f.Verdict == pattern.Ham {
						mu.Lock()
						sources.add(p.dir+"/"+chunk.IDs[i], f.Envelope)
						mu.Unlock()
					}
					c.samples.offer(j, p.dir+"/"+chunk.IDs[i], f)
				})
			})
			if err != nil {
				return err
			}
			if c.args.List {
				c.list(p, results)
			}
			for i := range results {
				one := &results[i]
				if one.gone {
					continue
				}
				r.count(one, p.queue, c.host.Postfix.Domains)
				if c.rules.Empty() && one.Verdict == pattern.Ham {
					continue // nobody judged it: a list that says ham is what restore and putback send
				}
				if err := list.add(&one.judged); err != nil {
					return err
				}
			}
			c.progress(map[string]int64{"messages": r.Messages, "spam": r.Spam, "ham": r.Ham})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("classify %s: %w", p.dir, err)
		}
	}
	r.finish(sources)
	r.HamSamples, r.NearMisses = c.samples.ham.kept, c.samples.near.kept
	r.Seconds = time.Since(began).Seconds()
	var err error
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

// listedAtOnce keeps an event within a frame, however long the ids.
const listedAtOnce = 1000

// list tells what became of each message, in pieces: none is kept.
func (c *classification) list(p *place, results []reading) {
	for part := range slices.Chunk(results, listedAtOnce) {
		j := Judged{Directory: p.dir}
		for i := range part {
			if r := &part[i]; !r.gone {
				j.Messages = append(j.Messages, JudgedMessage{r.ID, r.lines(), r.Verdict})
			}
		}
		if len(j.Messages) > 0 {
			c.emit("judged", &j)
		}
	}
}

// inParallel calls fn for 0..n-1, each judge in a goroutine of its own.
func inParallel(judges []*pattern.Judge, n int, fn func(j *pattern.Judge, i int) error) error {
	errs := make([]error, len(judges))
	var wg sync.WaitGroup
	for w, j := range judges {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += len(judges) {
				errs[w] = fn(j, i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// reading is what is kept of one message.
type reading struct {
	judged
	gone    bool // taken by the queue manager while we looked
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

// read judges the message that a chunk has at i. m says what the file does not,
// but for its size. seen is called, while the file is open, for what is whole.
func (r *reading) read(j *pattern.Judge, chunk spool.Chunk, dir string, i int, m pattern.Message, seen func(*pattern.Finding)) error {
	id := chunk.IDs[i]
	f, s, err := spool.OpenMail(chunk.Dir, id)
	if errors.Is(err, fs.ErrNotExist) {
		r.gone = true
		return nil
	}
	r.Mail = spool.Mail{Aside: dir, Sub: chunk.Sub, ID: id, Inode: s.Inode, Size: s.Size, Mtime: s.Mtime}
	if err != nil {
		if errors.Is(err, os.ErrPermission) {
			return err
		}
		r.Verdict, r.why = pattern.Unreadable, err.Error()
		return nil
	}
	defer f.Close()
	if !s.Regular() {
		r.Verdict, r.why = pattern.Unreadable, "no plain file with one name"
		return nil
	}
	if s.Mode&0o700 == 0o600 {
		r.Verdict = pattern.Incomplete
		return nil
	}
	if !s.Complete() {
		r.Verdict, r.why = pattern.Unreadable, fmt.Sprintf("mode %04o: marked corrupt", s.Mode)
		return nil
	}
	m.Size = s.Size
	found := j.Read(f, m)
	r.Verdict, r.rescued = found.Verdict, found.Rescued
	if found.Verdict == pattern.Unreadable {
		r.why = found.Why.Error()
		return nil
	}
	for _, hit := range found.Rules {
		r.Rules = append(r.Rules, hit.Index)
	}
	if len(found.Rules)+len(found.Near) > 0 {
		r.hits = append(append(make([]pattern.Hit, 0, len(found.Rules)+len(found.Near)), found.Rules...), found.Near...)
	}
	r.ham = slices.Clone(found.Ham)
	r.Born = found.Envelope.Arrival.Unix()
	if found.Verdict == pattern.Spam {
		r.sender = strings.Clone(found.Envelope.Sender)
	}
	seen(&found)
	return nil
}
