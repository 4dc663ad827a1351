package stage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/queuefile"
)

// RestoreArgs are the arguments of restore.
type RestoreArgs struct {
	Rate    Rate   `json:"rate" doc:"messages a second at most, or 3000/m; 0: no ceiling"`
	LiveMax Number `json:"live_max" doc:"pause while incoming and active hold so many more than before; 0: no limit"`
	Canary  Number `json:"canary" doc:"messages that go first, and are waited for; 0: none"`
	Expired string `json:"expired,omitempty" one:"leave requeue send" doc:"mail past its lifetime: leave, requeue or send"`
}

// What may be done with mail past its lifetime: the queue manager returns it to
// its sender after one more try. Leave keeps it aside, requeue gives it a new
// lifetime, send leaves it to the queue manager.
const (
	leaveExpired   = "leave"
	requeueExpired = "requeue"
	sendExpired    = "send"
)

// liveMax keeps new mail from waiting for what is restored, however slow the
// servers are that it is for: of the 100 deliveries that Postfix makes at a time
// (default_process_limit) most stay free for other servers, and of the 20 to one
// server, such as a relay for all (default_destination_concurrency_limit), some.
const liveMax = 15

func newRestoreArgs() RestoreArgs {
	return RestoreArgs{Rate: 50, LiveMax: liveMax, Canary: canarySize, Expired: leaveExpired}
}

// Check refuses an unknown way to treat what has expired: decoding has refused
// what is no rate.
func (a *RestoreArgs) Check() error {
	switch a.Expired {
	case "", leaveExpired, requeueExpired, sendExpired:
		return nil
	}
	return fmt.Errorf("expired: %.40q is none of leave, requeue, send", a.Expired)
}

// lasting sorts out what is past its lifetime. What goes is in the first list.
func (a *RestoreArgs) lasting(h *Host, list []spool.Mail) (going, expired []spool.Mail) {
	now := time.Now()
	for _, m := range list {
		past := h.Postfix.Expired(m, now)
		if past && a.Expired != requeueExpired && a.Expired != sendExpired {
			expired = append(expired, m)
			continue
		}
		m.Requeue = past && a.Expired == requeueExpired
		going = append(going, m)
	}
	return going, expired
}

// life takes from an envelope what decides when and how a message may go back.
func (r *reading) life(e *queuefile.Envelope) {
	r.Born = e.Arrival.Unix()
	if !e.Created.IsZero() && e.Created.Unix() != r.Born {
		r.Created = e.Created.Unix()
	}
	r.Null = e.Sender == ""
	for _, to := range e.Recipients {
		if to.State == queuefile.ToDo {
			r.Dest = destination(to.Address)
			return
		}
	}
}

// destination is a number for the domain of an address: what goes to others is
// interleaved with it. It is FNV-1a of the domain in lower case, without making
// anything: it is done for every message of a flood.
func destination(address string) uint32 {
	const basis, prime = 2166136261, 16777619
	sum := uint32(basis)
	for _, c := range []byte(address[strings.LastIndexByte(address, '@')+1:]) {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		sum = (sum ^ uint32(c)) * prime
	}
	return sum
}

var restore = Row{
	Name: "restore", Doc: "move the ham of the confirmed list back into the running Postfix", After: []string{"classify"}, Changes: true,
	New: func() Args { a := newRestoreArgs(); return &a }, Result: func() Result { return &Restored{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*RestoreArgs)
		var wanted Confirmed
		if !h.Last("confirm", &wanted) {
			var c Classified
			if !h.Last("classify", &c) {
				return nil, errors.New("restore: nothing was classified")
			}
			wanted.List = c.List
		}
		var ham []spool.Mail
		var unreadable int64
		list, err := readList(h.Dir, func(j *judged) {
			switch j.Verdict {
			case pattern.Ham:
				ham = append(ham, j.Mail)
			case pattern.Unreadable:
				unreadable++
			}
		})
		if err != nil {
			return nil, err
		}
		if list != wanted.List {
			return nil, spool.Remedied(fmt.Errorf("restore: %s is not the list that was confirmed", filepath.Join(h.Dir, verdictsName)), "classify again: spoolsweep resume "+h.Run+" -e @rules.yaml")
		}
		going, expired := args.lasting(h, ham)
		watch, err := newCanary(h, "restore", int(args.Canary), len(going), list, emit)
		if err != nil {
			return nil, err
		}
		defer watch.close()
		moved, err := h.Work.Restore(ctx, going, args.options(ctx, h, list, watch, emit), movedProgress(emit, len(going)))
		r := &Restored{Moved: moved, Unreadable: unreadable}
		r.lapsed(h, expired)
		return finish(h, r, err)
	},
}

func (a *RestoreArgs) options(ctx context.Context, h *Host, token string, watch *canary, emit Emit) spool.Options {
	return spool.Options{
		Rate: float64(a.Rate), LiveMax: int64(a.LiveMax), Token: token, Cancelled: h.Cancelled,
		Slow: func(live int64) {
			emit("warn", map[string]string{"message": fmt.Sprintf("%d messages more than before are in incoming and active (live_max: %d): the servers they are for are slow, or do not answer; the restore goes on as these go", live, a.LiveMax)})
		},
		First: watch.size, After: func(ids []string, left int) error { return watch.after(ctx, ids, left) },
	}
}

// movedProgress reports at most twice a second.
func movedProgress(emit Emit, of int) func(spool.Moved) {
	var last time.Time
	return func(m spool.Moved) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			emit("progress", map[string]int64{"restored": m.Restored, "collisions": m.Collisions, "failed": m.Failed, "of": int64(of)})
		}
	}
}

// finish counts what is left aside, also after an error.
func finish(h *Host, r *Restored, err error) (Result, error) {
	sets, e := h.Work.SetsAside()
	for _, s := range sets {
		if s.Queue == spool.Defer || e != nil {
			continue
		}
		e = spool.Walk(h.Postfix, s.Aside, func(c spool.Chunk) error {
			r.Left += int64(len(c.IDs))
			return nil
		})
	}
	var ask *Ask
	if errors.As(err, &ask) {
		if r.Canary, _ = ask.Data.(*Confirm); r.Canary != nil {
			r.Canary.Spam = max(0, r.Left-r.Canary.Ham)
		}
	}
	return r, errors.Join(err, e)
}

// Restored is the result of restore and putback.
type Restored struct {
	spool.Moved
	Left       int64    `json:"left"` // all that is still aside
	Unreadable int64    `json:"unreadable"`
	Expired    int64    `json:"expired"`                    // past their lifetime, and left where they are
	Lapsed     []string `json:"expired_samples,omitempty"`  // the first of them
	Kept       []string `json:"kept_directories,omitempty"` // that still hold something after putback
	// Canary is what is asked because too much of what went first was refused.
	Canary *Confirm `json:"canary,omitempty"`
}

// lapsedKept are named in a result.
const lapsedKept = 20

// lapsed counts what was left because it has expired, as far as it still is
// aside, and names the first.
func (r *Restored) lapsed(h *Host, list []spool.Mail) {
	for _, m := range list {
		if !h.Work.StillAside(m) {
			continue
		}
		if r.Expired++; len(r.Lapsed) < lapsedKept {
			r.Lapsed = append(r.Lapsed, m.Aside+"/"+m.ID)
		}
	}
}

// Lines tells what went where, and what did not.
func (r *Restored) Lines() []Line {
	lines := []Line{{Label: "moved back", Number: r.Restored, Unit: "messages"}}
	for _, q := range slices.Sorted(maps.Keys(r.ByQueue)) {
		lines = append(lines, Line{Label: "to " + q, Number: r.ByQueue[q], Unit: "messages"})
	}
	if r.Collisions > 0 {
		lines = append(lines, Line{Label: "whose id is taken, to *.name-collisions", Number: r.Collisions, Unit: "messages"})
	}
	if r.Failed > 0 {
		lines = append(lines, Line{Label: "not moved", Number: r.Failed, Unit: "messages", Text: fmt.Sprintf("%q", r.Failures)})
	}
	if r.SentMeanwhile > 0 {
		lines = append(lines, Line{Label: "gone from aside meanwhile, not by this run", Number: r.SentMeanwhile, Unit: "messages"})
	}
	if r.Expired > 0 {
		lines = append(lines, Line{Label: "past their lifetime, left aside", Number: r.Expired, Unit: "messages",
			Text: strings.Join(r.Lapsed, ", ") + " (expired: requeue gives them a new one, send leaves them to Postfix)"})
	}
	return append(lines, Line{Label: "still aside", Number: r.Left, Unit: "messages"})
}

// PutbackArgs are the arguments of putback.
type PutbackArgs struct {
	IncludeSpam bool    `json:"include_spam,omitempty" doc:"all of it, the flood too"`
	Expect      *Number `json:"expect,omitempty" doc:"how many messages must be about to go; without it the run asks, or waits"`
	RestoreArgs
}

var putback = Row{
	Name: "putback", Doc: "send back what is still aside", Changes: true,
	New:    func() Args { return &PutbackArgs{RestoreArgs: newRestoreArgs()} },
	Result: func() Result { return &Restored{} },
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*PutbackArgs)
		sets, err := h.Work.SetsAside()
		if err != nil {
			return nil, err
		}
		var confirmed Confirmed
		h.Last("confirm", &confirmed)
		what, err := stillAside(ctx, h.Postfix, h.Dir, sets, confirmed.List)
		if err != nil {
			return nil, err
		}
		going := what.ham
		if args.IncludeSpam {
			going = append(going, what.rest...)
		}
		going, expired := args.lasting(h, going)
		if err := what.answered(h, args, int64(len(going))); err != nil {
			return nil, err
		}
		if err := h.Agree(int64(len(going))); err != nil {
			return nil, err
		}
		token := fmt.Sprintf("putback include_spam=%t", args.IncludeSpam)
		watch, err := newCanary(h, "putback", int(args.Canary), len(going), token, emit)
		if err != nil {
			return nil, err
		}
		defer watch.close()
		moved, kept, err := h.Work.PutBack(ctx, going, args.options(ctx, h, token, watch, emit), movedProgress(emit, len(going)))
		r := &Restored{Moved: moved, Kept: kept}
		r.lapsed(h, expired)
		return finish(h, r, err)
	},
}

// Preview is what a put back would send, by verdict.
type Preview struct {
	Run   string `json:"run"`
	Going int64  `json:"going"` // without include_spam
	All   int64  `json:"all"`   // with it
	// Of those, what is past its lifetime, and goes only with expired: requeue
	// or send.
	GoingExpired int64          `json:"going_expired"`
	AllExpired   int64          `json:"all_expired"`
	ByKind       map[string]int `json:"by_kind"`
	Sources      []Source       `json:"sources"` // large ones, of all that is aside
	Examined     string         `json:"list,omitempty"`

	ham, rest []spool.Mail
}

// Goes is how many would go by these arguments, and how many would not since they
// are past their lifetime.
func (w *Preview) Goes(a *PutbackArgs) (n, left int64) {
	n, left = w.Going, w.GoingExpired
	if a.IncludeSpam {
		n, left = w.All, w.AllExpired
	}
	if a.Expired == requeueExpired || a.Expired == sendExpired {
		return n, 0
	}
	return n - left, left
}

// PreviewPutback looks at what a run has aside, and changes nothing. confirmed
// is the list that was confirmed last, if any.
func PreviewPutback(ctx context.Context, p *spool.Postfix, run, dir, confirmed string) (*Preview, error) {
	sets, err := spool.AsideOf(p, dir)
	if err != nil {
		return nil, err
	}
	what, err := stillAside(ctx, p, dir, sets, confirmed)
	if err != nil {
		return nil, err
	}
	what.Run = run
	return what, nil
}

// answered asks, unless the number that was expected is the number found.
func (w *Preview) answered(h *Host, args *PutbackArgs, going int64) error {
	switch {
	case h.Agreed != nil && going <= *h.Agreed:
		return nil // the rest of what went before a death
	case args.Expect != nil && int64(*args.Expect) == going:
		return nil
	case args.Expect != nil:
		return spool.Remedied(fmt.Errorf("putback: %d messages would go, not the %d that were expected: nothing was moved", going, *args.Expect), "spoolsweep putback "+h.Run+" shows them")
	case h.Answer != nil && h.Answer.Kind == "confirm" && h.Answer.Value == fmt.Sprint(going):
		return nil
	}
	return &Ask{Kind: "confirm", Data: &Confirm{Reasons: []string{"putback sends"}, Ham: going, Spam: w.Going + int64(len(w.rest)) - going, List: fmt.Sprint(going)}}
}

// stillAside sorts what is aside: ham of the run's last list, if that is the
// one that was confirmed, goes without more; so do ham of a list that nobody
// confirmed, and messages that no rule judged, where no flood touches them. What
// was judged spam, is the flood's, or is unreadable, goes only with include_spam.
// Half-written files are in neither: they are nobody's mail.
func stillAside(ctx context.Context, p *spool.Postfix, dir string, sets []spool.Set, confirmed string) (*Preview, error) {
	type key struct {
		inode       uint64
		size, mtime int64
	}
	known := map[key]pattern.Verdict{}
	list, err := readList(dir, func(j *judged) { known[key{j.Inode, j.Size, j.Mtime}] = j.Verdict })
	if err != nil {
		return nil, err
	}
	w := &Preview{ByKind: map[string]int{}, Examined: list}
	var unsure []doubtful
	none, err := pattern.Compile(nil, nil)
	if err != nil {
		return nil, err
	}
	var dirs []string
	var queues []spool.Queue
	for _, s := range sets {
		if s.Queue != spool.Defer {
			dirs, queues = append(dirs, s.Aside), append(queues, s.Queue)
		}
	}
	judges, tallies := make([]*pattern.Judge, workers()), make([]*tally, workers())
	for i := range judges {
		judges[i], tallies[i] = none.Judge(), newTally(p.Networks)
	}
	// The flood shows only when all is counted, so what nobody judged is read
	// twice: to count, and to decide.
	first := &pass[reading]{
		postfix: p, dirs: dirs,
		read: func(i int, m *mail, r *reading) error {
			r.read(judges[i], m, pattern.Message{Queue: string(queues[m.Place])}, func(f *pattern.Finding) { tallies[i].add(m.Aside, m.ID, f.Envelope) })
			return nil
		},
		gather: func(found []reading) error {
			for _, r := range found {
				verdict, ok := known[key{r.Inode, r.Size, r.Mtime}]
				switch {
				case r.Verdict == pattern.Incomplete:
				case r.Verdict == pattern.Unreadable || ok && verdict == pattern.Unreadable: // only a rule on the body finds damage there
					w.ByKind["unreadable"]++
					w.rest = append(w.rest, r.Mail)
				case ok && verdict == pattern.Spam:
					w.ByKind["spam"]++
					w.rest = append(w.rest, r.Mail)
				case ok && verdict == pattern.Ham && list == confirmed:
					w.ByKind["ham"]++
					w.ham = append(w.ham, r.Mail)
				case ok && verdict == pattern.Ham:
					unsure = append(unsure, doubtful{r.Mail, "ham"})
				default:
					unsure = append(unsure, doubtful{r.Mail, "never judged"})
				}
			}
			return nil
		},
	}
	if err := first.run(ctx); err != nil {
		return nil, err
	}
	sources := merged(tallies)
	if err := w.decide(ctx, p, unsure, judges, sources); err != nil {
		return nil, err
	}
	w.Sources = sources.over(maxSource)
	if len(w.Sources) > sourcesShown {
		w.Sources = w.Sources[:sourcesShown]
	}
	w.Going, w.All = int64(len(w.ham)), int64(len(w.ham)+len(w.rest))
	now := time.Now()
	for _, m := range w.ham {
		if p.Expired(m, now) {
			w.GoingExpired++
		}
	}
	w.AllExpired = w.GoingExpired
	for _, m := range w.rest {
		if p.Expired(m, now) {
			w.AllExpired++
		}
	}
	return w, nil
}

// doubtful is a message that goes only if it is not the flood's.
type doubtful struct {
	spool.Mail
	kind string
}

// decide tells the flood among messages that nobody confirmed.
func (w *Preview) decide(ctx context.Context, p *spool.Postfix, unsure []doubtful, judges []*pattern.Judge, sources *tally) error {
	if len(unsure) == 0 {
		return nil
	}
	type name struct{ dir, id string }
	wanted := map[name]doubtful{}
	var dirs []string
	for _, r := range unsure {
		wanted[name{r.Aside, r.ID}] = r
		if !slices.Contains(dirs, r.Aside) {
			dirs = append(dirs, r.Aside)
		}
	}
	type decision struct {
		doubtful
		wanted, flood bool
	}
	second := &pass[decision]{
		postfix: p, dirs: dirs,
		read: func(i int, m *mail, d *decision) error {
			d.doubtful, d.wanted = wanted[name{m.Aside, m.ID}]
			if d.wanted {
				var r reading
				d.flood = true
				queue, _, _ := strings.Cut(m.Aside, ".")
				r.read(judges[i], m, pattern.Message{Queue: queue}, func(f *pattern.Finding) { d.flood = sources.isOver(f.Envelope, maxSource) })
			}
			return nil
		},
		gather: func(found []decision) error {
			for _, d := range found {
				switch {
				case !d.wanted:
				case d.flood:
					w.ByKind["flood"]++
					w.rest = append(w.rest, d.Mail)
				default:
					w.ByKind[d.kind]++
					w.ham = append(w.ham, d.Mail)
				}
			}
			return nil
		},
	}
	return second.run(ctx)
}
