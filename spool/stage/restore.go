package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// RestoreArgs are the arguments of restore.
type RestoreArgs struct {
	Rate    Rate   `json:"rate"`     // messages a second at most; 0: no ceiling
	LiveMax Number `json:"live_max"` // pause while incoming and active hold so many more than before; 0: no limit
}

// Check accepts: decoding has refused what is no rate.
func (*RestoreArgs) Check() error { return nil }

var restore = Row{
	Name: "restore", Doc: "move the ham of the confirmed list back into the running Postfix", After: []string{"classify"}, Changes: true,
	New: func() Args { return &RestoreArgs{Rate: 50, LiveMax: 500} }, Result: func() Result { return &Restored{} },
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
			return nil, fmt.Errorf("restore: %s is not the list that was confirmed: classify again ('spoolsweep resume -e ...')", filepath.Join(h.Dir, verdictsName))
		}
		moved, err := h.Work.Restore(ctx, ham, args.options(h, list), movedProgress(emit, len(ham)))
		return finish(h, &Restored{Moved: moved, Unreadable: unreadable}, err)
	},
}

func (a *RestoreArgs) options(h *Host, token string) spool.Options {
	return spool.Options{Rate: float64(a.Rate), LiveMax: int64(a.LiveMax), Token: token, Cancelled: h.Cancelled}
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
	return r, errors.Join(err, e)
}

// Restored is the result of restore and putback.
type Restored struct {
	spool.Moved
	Left       int64    `json:"left"` // all that is still aside
	Unreadable int64    `json:"unreadable"`
	Kept       []string `json:"kept_directories,omitempty"` // that still hold something after putback
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
	return append(lines, Line{Label: "still aside", Number: r.Left, Unit: "messages"})
}

// PutbackArgs are the arguments of putback.
type PutbackArgs struct {
	IncludeSpam bool    `json:"include_spam,omitempty"` // all of it, the flood too
	Expect      *Number `json:"expect,omitempty"`       // how many messages must be about to go
	RestoreArgs
}

var putback = Row{
	Name: "putback", Doc: "send back what is still aside", Changes: true,
	New:    func() Args { return &PutbackArgs{RestoreArgs: RestoreArgs{Rate: 50, LiveMax: 500}} },
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
		if err := what.answered(h, args, int64(len(going))); err != nil {
			return nil, err
		}
		if err := h.Agree(int64(len(going))); err != nil {
			return nil, err
		}
		token := fmt.Sprintf("putback include_spam=%t", args.IncludeSpam)
		moved, kept, err := h.Work.PutBack(ctx, going, args.options(h, token), movedProgress(emit, len(going)))
		return finish(h, &Restored{Moved: moved, Kept: kept}, err)
	},
}

// Preview is what a put back would send, by verdict.
type Preview struct {
	Run      string         `json:"run"`
	Going    int64          `json:"going"` // without include_spam
	All      int64          `json:"all"`   // with it
	ByKind   map[string]int `json:"by_kind"`
	Sources  []Source       `json:"sources"` // large ones, of all that is aside
	Examined string         `json:"list,omitempty"`

	ham, rest []spool.Mail
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
		return fmt.Errorf("putback: %d messages would go, not the %d that were expected: nothing was moved ('spoolsweep putback %s' shows them)", going, *args.Expect, h.Run)
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
	sources := newTally(p.Networks)
	var unsure []doubtful
	none, err := pattern.Compile(nil, nil)
	if err != nil {
		return nil, err
	}
	judge := none.Judge()
	// The flood shows only when all is counted, so what nobody judged is read
	// twice: to count, and to decide.
	for _, s := range sets {
		if s.Queue == spool.Defer {
			continue
		}
		err := spool.Walk(p, s.Aside, func(c spool.Chunk) error {
			for i, id := range c.IDs {
				if err := ctx.Err(); err != nil {
					return err
				}
				var r reading
				add := func(f *pattern.Finding) { sources.add(s.Aside+"/"+id, f.Envelope) }
				if err := r.read(judge, c, s.Aside, i, pattern.Message{Queue: string(s.Queue)}, add); err != nil {
					return err
				}
				verdict, ok := known[key{r.Inode, r.Size, r.Mtime}]
				switch {
				case r.gone || r.Verdict == pattern.Incomplete:
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
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if err := w.decide(p, sets, unsure, judge, sources); err != nil {
		return nil, err
	}
	w.Sources = sources.over(maxSource)
	if len(w.Sources) > sourcesShown {
		w.Sources = w.Sources[:sourcesShown]
	}
	w.Going, w.All = int64(len(w.ham)), int64(len(w.ham)+len(w.rest))
	return w, nil
}

// doubtful is a message that goes only if it is not the flood's.
type doubtful struct {
	spool.Mail
	kind string
}

// decide tells the flood among messages that nobody confirmed.
func (w *Preview) decide(p *spool.Postfix, sets []spool.Set, unsure []doubtful, judge *pattern.Judge, sources *tally) error {
	wanted := map[string]map[string]doubtful{}
	queue := map[string]string{}
	for _, s := range sets {
		queue[s.Aside] = string(s.Queue)
	}
	for _, r := range unsure {
		if wanted[r.Aside] == nil {
			wanted[r.Aside] = map[string]doubtful{}
		}
		wanted[r.Aside][r.ID] = r
	}
	for _, dir := range slices.Sorted(maps.Keys(wanted)) {
		err := spool.Walk(p, dir, func(c spool.Chunk) error {
			for i, id := range c.IDs {
				m, ok := wanted[dir][id]
				if !ok {
					continue
				}
				var flood bool
				var again reading
				look := func(f *pattern.Finding) { flood = sources.isOver(f.Envelope, maxSource) }
				if err := again.read(judge, c, dir, i, pattern.Message{Queue: queue[dir]}, look); err != nil {
					return err
				}
				if flood || again.Verdict != pattern.Ham {
					w.ByKind["flood"]++
					w.rest = append(w.rest, m.Mail)
				} else {
					w.ByKind[m.kind]++
					w.ham = append(w.ham, m.Mail)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
