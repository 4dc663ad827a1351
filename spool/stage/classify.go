package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
	// Directories are what a command looks at, such as "incoming"; a run looks
	// at what it has set aside.
	Directories []string `json:"directories,omitempty" playbook:"-"`
}

// Check compiles the rules.
func (a *ClassifyArgs) Check() error {
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
		dirs := args.Directories
		if h.Work != nil {
			sets, err := h.Work.SetsAside()
			if err != nil {
				return nil, err
			}
			dirs = nil
			for _, s := range sets {
				if s.Queue != spool.Defer {
					dirs = append(dirs, s.Aside)
				}
			}
		}
		c, err := judgeAll(ctx, h, rules, dirs, emit)
		if err != nil {
			return nil, err
		}
		if rules.Empty() && h.Work != nil && c.Messages > 0 {
			return c, &Ask{Kind: "rules", Data: c}
		}
		return c, nil
	},
}

// RuleCount is what one spam rule caught.
type RuleCount struct {
	Messages int64 `json:"messages"`
	Alone    int64 `json:"alone"` // no other spam rule caught these
}

// Verdicts counts messages by verdict.
type Verdicts struct {
	Spam       int64 `json:"spam"`
	Ham        int64 `json:"ham"`
	Unreadable int64 `json:"unreadable"`
	Incomplete int64 `json:"incomplete"`
}

// Classified is the result of classify.
type Classified struct {
	Messages int64 `json:"messages"`
	Verdicts
	ByRule map[string]RuleCount `json:"by_rule"`
	// RuleOrder lists the rules as they were given.
	RuleOrder []string            `json:"rule_order"`
	ByQueue   map[string]Verdicts `json:"by_queue"`
	// Left are the sources on the ham side that look like a flood.
	Left []Source `json:"sources_left"`
	// Largest is the largest source there of each kind, however small.
	Largest []Source `json:"largest_sources"`
	// Hit are local senders of messages judged spam, HitAll how many there are;
	// Rescued is what a ham rule kept.
	Hit     []string `json:"local_senders"`
	HitAll  int      `json:"local_senders_hit"`
	Rescued int64    `json:"rescued"`
	// Unread are the first unreadable messages, with what is wrong.
	Unread  []string `json:"unreadable_samples,omitempty"`
	Slow    []string `json:"slow_rules,omitempty"`
	List    string   `json:"list,omitempty"` // names the list of verdicts
	Bytes   int64    `json:"bytes"`
	Seconds float64  `json:"seconds"`
}

// Lines tells the sums, each rule, and what is left. Without rules nothing was
// judged, and it tells only what there is much of.
func (c *Classified) Lines() []Line {
	lines := []Line{{Label: "in all", Number: c.Messages, Unit: "messages"}}
	left := "of one source"
	if len(c.RuleOrder) > 0 {
		left = "left among ham"
		lines = append(lines,
			Line{Label: "spam", Number: c.Spam, Unit: "messages"},
			Line{Label: "ham", Number: c.Ham, Unit: "messages"})
	}
	if c.Unreadable > 0 {
		lines = append(lines, Line{Label: "unreadable", Number: c.Unreadable, Unit: "messages"})
	}
	if c.Incomplete > 0 {
		lines = append(lines, Line{Label: "half-written, never accepted", Number: c.Incomplete, Unit: "messages"})
	}
	for _, name := range c.RuleOrder {
		r := c.ByRule[name]
		lines = append(lines, Line{Label: "rule", Number: r.Messages, Unit: "messages", Text: fmt.Sprintf("%s (alone %d)", name, r.Alone)})
	}
	if c.Rescued > 0 {
		lines = append(lines, Line{Label: "kept by a ham rule", Number: c.Rescued, Unit: "messages"})
	}
	for _, s := range c.Left {
		lines = append(lines, Line{Label: left, Number: s.Count, Unit: "messages", Text: s.Kind + " " + s.Value})
	}
	return lines
}

const (
	localSendersKept  = 100000 // more are not told apart
	localSendersShown = 20
	unreadKept        = 5
	progressEvery     = 500 * time.Millisecond
)

// judgeAll reads every message of the directories once, in parallel, and
// writes the list of verdicts where the run has a folder.
func judgeAll(ctx context.Context, h *Host, rules *pattern.Rules, dirs []string, emit Emit) (*Classified, error) {
	began := time.Now()
	var list *listWriter
	if h.Work != nil {
		var err error
		if list, err = newList(h.Dir); err != nil {
			return nil, err
		}
		defer list.drop()
	}
	c := &Classified{ByRule: map[string]RuleCount{}, ByQueue: map[string]Verdicts{}, Slow: rules.Slow(), RuleOrder: rules.Spam()}
	for _, name := range c.RuleOrder {
		c.ByRule[name] = RuleCount{}
	}
	sources := newTally(h.Postfix.Networks)
	local := map[string]bool{}
	judges := make([]*pattern.Judge, runtime.GOMAXPROCS(0))
	for i := range judges {
		judges[i] = rules.Judge()
	}
	shown := began
	for _, name := range dirs {
		queue, _, _ := strings.Cut(name, ".")
		err := spool.Walk(h.Postfix, name, func(chunk spool.Chunk) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			results := make([]reading, len(chunk.IDs))
			var mu sync.Mutex // guards sources, which sees envelopes that live only until the next message
			err := inParallel(judges, len(chunk.IDs), func(j *pattern.Judge, i int) error {
				return results[i].read(j, chunk, name, i, func(e *queuefile.Envelope) {
					mu.Lock()
					sources.add(name+"/"+chunk.IDs[i], e)
					mu.Unlock()
				})
			})
			if err != nil {
				return err
			}
			for i := range results {
				r := &results[i]
				if r.gone {
					continue
				}
				c.count(r, queue, local, h.Postfix.Domains)
				if rules.Empty() && r.Verdict == pattern.Ham {
					continue // nobody judged it: a list that says ham is what restore and putback send
				}
				if err := list.add(&r.judged); err != nil {
					return err
				}
			}
			if now := time.Now(); now.Sub(shown) >= progressEvery {
				shown = now
				emit("progress", map[string]int64{"messages": c.Messages, "spam": c.Spam, "ham": c.Ham})
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("classify %s: %w", name, err)
		}
	}
	c.Left = sources.over(maxSource)
	if len(c.Left) > sourcesShown {
		c.Left = c.Left[:sourcesShown]
	}
	c.Largest = sources.largest()
	c.Hit, c.HitAll = slices.AppendSeq([]string{}, maps.Keys(local)), len(local)
	slices.Sort(c.Hit)
	c.Hit = c.Hit[:min(len(c.Hit), localSendersShown)]
	c.Seconds = time.Since(began).Seconds()
	var err error
	c.List, err = list.commit()
	return c, err
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
	sender  string // only of spam
	why     string // only of unreadable
}

func (r *reading) read(j *pattern.Judge, chunk spool.Chunk, dir string, i int, ham func(*queuefile.Envelope)) error {
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
	found := j.Read(f, s.Size, strings.HasPrefix(dir, string(spool.Maildrop)))
	r.Verdict, r.rescued = found.Verdict, found.Rescued
	for _, hit := range found.Rules {
		r.Rules = append(r.Rules, hit.Index)
	}
	switch {
	case found.Verdict == pattern.Unreadable:
		r.why = found.Why.Error()
	case found.Envelope != nil:
		r.life(found.Envelope)
		if found.Verdict == pattern.Ham {
			ham(found.Envelope)
		} else {
			r.sender = strings.Clone(found.Envelope.Sender)
		}
	}
	return nil
}

func (v *Verdicts) add(verdict pattern.Verdict) {
	switch verdict {
	case pattern.Spam:
		v.Spam++
	case pattern.Ham:
		v.Ham++
	case pattern.Unreadable:
		v.Unreadable++
	case pattern.Incomplete:
		v.Incomplete++
	}
}

func (c *Classified) count(r *reading, queue string, local map[string]bool, domains []string) {
	c.Messages++
	c.Bytes += r.Size
	c.Verdicts.add(r.Verdict)
	q := c.ByQueue[queue]
	q.add(r.Verdict)
	c.ByQueue[queue] = q
	if r.rescued {
		c.Rescued++
	}
	for _, i := range r.Rules {
		name := c.RuleOrder[i]
		n := c.ByRule[name]
		n.Messages++
		if len(r.Rules) == 1 {
			n.Alone++
		}
		c.ByRule[name] = n
	}
	if r.why != "" && len(c.Unread) < unreadKept {
		c.Unread = append(c.Unread, r.Aside+"/"+r.ID+": "+r.why)
	}
	if _, domain, ok := strings.Cut(strings.ToLower(r.sender), "@"); ok && slices.Contains(domains, domain) && !local[strings.ToLower(r.sender)] {
		if len(local) < localSendersKept {
			local[strings.ToLower(r.sender)] = true
		}
	}
}
