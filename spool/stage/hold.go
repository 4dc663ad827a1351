package stage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// HoldArgs are the arguments of hold.
type HoldArgs struct {
	Spam   any      `json:"spam" doc:"rules: what is put on hold"`
	Ham    any      `json:"ham" doc:"rules: what is left all the same"`
	Queues Queues   `json:"queues" doc:"names of live queues: incoming, deferred"`
	For    Duration `json:"for,omitempty" doc:"how long what still arrives is put on hold too; 0: only what is there"`
}

// heldFrom are the queues whose mail can be put on hold: see spool.Work.Hold.
var heldFrom = Queues{string(spool.Incoming), string(spool.Deferred)}

// Check compiles the rules. That there are some is looked at by the stage.
func (a *HoldArgs) Check() error {
	if err := named(a.Queues, heldFrom, "put on hold"); err != nil {
		return err
	}
	_, err := pattern.Compile(a.Spam, a.Ham)
	return err
}

// named refuses queues that are none of those that may be named.
func named(queues, may Queues, done string) error {
	for _, name := range queues {
		if !slices.Contains(may, name) {
			return fmt.Errorf("queues: from %.40q nothing is %s: name some of %q", name, done, []string(may))
		}
	}
	return queues.check()
}

// Rules compiles the rules, of which there must be some.
func (a *HoldArgs) Rules() (*pattern.Rules, error) {
	rules, err := pattern.Compile(a.Spam, a.Ham)
	if err == nil && len(rules.Spam()) == 0 {
		err = errors.New("hold: there are no rules for spam: say what is to be held, by -m FIELD:PATTERN or spam in -e @rules.yaml")
	}
	return rules, err
}

var hold = Row{
	Name: "hold", Doc: "have postsuper put on hold what the rules take from live queues", Changes: true,
	New:    func() Args { return &HoldArgs{Queues: slices.Clone(heldFrom)} },
	Result: func() Result { return &Acted{verb: verbHeld} },
	Preview: func(ctx context.Context, h *Host, a Args) (*Removal, error) {
		args := a.(*HoldArgs)
		w := &Removal{Goes: map[string]int64{}}
		rules, err := args.Rules()
		if err != nil {
			return nil, err
		}
		var some picker
		_, err = judgeLive(ctx, h, "hold", rules, args.Queues, func(string, any) {}, func(j *judged) error {
			if j.Verdict == pattern.Spam {
				w.Matched++
				w.Goes[j.Aside]++
				some.add(j.Mail)
			}
			return nil
		})
		if err == nil {
			w.Samples, err = some.read(h.Postfix)
		}
		return w, err
	},
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*HoldArgs)
		rules, err := args.Rules()
		if err != nil {
			return nil, err
		}
		k := &keeper{args: args, h: h, rules: rules, emit: emit}
		var in []spool.Queue
		for _, name := range args.Queues {
			in = append(in, spool.Queue(name))
		}
		o := spool.Removal{Token: "hold", Cancelled: h.Cancelled}
		done, err := h.Work.Hold(ctx, in, func(yield func([]spool.Mail) error) error { return k.looks(ctx, yield) }, o, actedProgress(emit))
		return newActed(verbHeld, done), err
	},
}

// keeper looks for what is to be held, once or again and again.
type keeper struct {
	args  *HoldArgs
	h     *Host
	rules *pattern.Rules
	emit  Emit

	lock  sync.Mutex // guards what follows
	known []int64    // what was judged before, sorted: hashes of ids
	now   []int64    // of those, and of what is judged just now
}

// How often hold looks for what has arrived. A look at a large queue takes long: it
// is done no more than a tenth of the time.
const (
	holdEvery = time.Second
	holdShare = 10
)

// looks passes on what the rules take, look after look until the time is up. It is
// counted from the first, also after a death. What was passed over once, and what
// could not be held, is not looked at again.
func (k *keeper) looks(ctx context.Context, yield func([]spool.Mail) error) error {
	down := false
	for first := true; ; first = false {
		began := time.Now()
		_, n, err := chooseMail(k.h, k.rules, func(add func(*judged) error) error { return k.look(ctx, add) })
		if err == nil && n > 0 {
			err = k.pass(yield)
		}
		switch {
		case !first && errors.Is(err, spool.ErrDown):
			// Somebody restarts it: nothing is sent meanwhile.
			if !down {
				k.emit("warn", map[string]string{"message": "Postfix does not run: nothing is put on hold until it does"})
			}
			down = true
		case err != nil && !errors.Is(err, errNothing):
			return err
		default:
			down = false
		}
		until, err := k.until()
		if err != nil || !time.Now().Before(until) {
			return err
		}
		next := began.Add(max(holdEvery, holdShare*time.Since(began)))
		if until.Before(next) {
			next = until
		}
		for time.Now().Before(next) {
			if k.h.Cancelled != nil && k.h.Cancelled() {
				return spool.ErrCancelled
			}
			if !wait(ctx, min(canaryPoll, time.Until(next))) {
				return ctx.Err()
			}
		}
	}
}

// errNothing keeps a list from being written that has nothing in it.
var errNothing = errors.New("nothing has arrived")

// look judges what was not judged before.
func (k *keeper) look(ctx context.Context, add func(*judged) error) error {
	look := *k.h
	k.now = nil
	look.only = func(id string) bool {
		sum := hashed(id)
		_, known := slices.BinarySearch(k.known, sum)
		if known { // by its name alone: an id is not given out again within a look
			k.lock.Lock()
			k.now = append(k.now, sum)
			k.lock.Unlock()
		}
		return !known
	}
	n := 0
	_, err := judgeLive(ctx, &look, "hold", k.rules, k.args.Queues, func(string, any) {}, func(j *judged) error {
		if j.Verdict != pattern.Incomplete {
			k.lock.Lock()
			k.now = append(k.now, hashed(j.ID))
			k.lock.Unlock()
		}
		if j.Verdict != pattern.Spam {
			return nil
		}
		n++
		return add(j)
	})
	if err != nil {
		return err
	}
	first := k.known == nil
	slices.Sort(k.now)
	k.known, k.now = append(k.now, math.MaxInt64), nil // never nil again
	if n == 0 && !first {
		return errNothing
	}
	return nil
}

func hashed(id string) int64 {
	sum := fnv.New64a()
	sum.Write([]byte(id))
	return int64(sum.Sum64())
}

// passedOn is how many messages are passed on at a time.
const passedOn = 500

// pass yields what the list has, some at a time. What could not be passed on, since
// Postfix went down, is found anew by the next look.
func (k *keeper) pass(yield func([]spool.Mail) error) error {
	var list []spool.Mail
	var down error
	var left []int64
	flush := func() error {
		defer func() { list = list[:0] }()
		if down == nil {
			if err := yield(list); !errors.Is(err, spool.ErrDown) {
				return err
			}
			down = spool.ErrDown
		}
		for i := range list {
			left = append(left, hashed(list[i].ID))
		}
		return nil
	}
	err := listed(k.h.Dir, doomedName, func(*judged) (bool, error) { return true, nil })(func(m spool.Mail) error {
		if list = append(list, m); len(list) < passedOn {
			return nil
		}
		return flush()
	})
	if err == nil && len(list) > 0 {
		err = flush()
	}
	k.forget(left)
	return cmp.Or(err, down)
}

// forget has the next look find again what has these hashes.
func (k *keeper) forget(left []int64) {
	if len(left) == 0 {
		return
	}
	slices.Sort(left)
	known := k.known[:0]
	for _, sum := range k.known {
		if _, is := slices.BinarySearch(left, sum); !is {
			known = append(known, sum)
		}
	}
	k.known = known
}

// until is when it ends: For after the first list was written.
func (k *keeper) until() (time.Time, error) {
	if k.args.For == 0 {
		return time.Time{}, nil
	}
	all := listsAs(k.h.Dir, doomedName) // the newest first
	s, err := os.Stat(filepath.Join(k.h.Dir, all[len(all)-1]))
	if err != nil {
		return time.Time{}, err
	}
	return s.ModTime().Add(time.Duration(k.args.For)), nil
}

// wait is false when ctx ends before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Acted is the result of hold, release and requeue.
type Acted struct {
	Matched int64 `json:"matched"` // messages that were to be
	spool.Done
	Expired int64    `json:"expired,omitempty"`         // past their lifetime, and left on hold
	Lapsed  []string `json:"expired_samples,omitempty"` // the first of them
	// Canary is what is asked because too much of what went first was refused.
	Canary *Confirm `json:"canary,omitempty"`

	verb string
}

func newActed(verb string, done spool.Done) *Acted {
	return &Acted{Matched: done.Done + done.Gone + done.Failed, Done: done, verb: verb}
}

// What was done, in words.
const (
	verbHeld     = "put on hold"
	verbReleased = "released"
	verbRequeued = "requeued"
)

// Lines tells how many were, and what was not.
func (r *Acted) Lines() []Line {
	lines := []Line{{Label: r.verb, Number: r.Done.Done, Unit: "messages"}}
	if r.Matched != r.Done.Done {
		lines = append(lines, Line{Label: "were to be " + r.verb, Number: r.Matched, Unit: "messages"})
	}
	if r.Gone > 0 {
		lines = append(lines, Line{Label: "gone before", Number: r.Gone, Unit: "messages", Text: "taken up for delivery, or moved on by somebody else, when their turn came"})
	}
	if r.Failed > 0 {
		lines = append(lines, Line{Label: "not " + r.verb, Number: r.Failed, Unit: "messages", Text: fmt.Sprintf("%q", r.Failures)})
	}
	if r.Expired > 0 {
		lines = append(lines, Line{Label: "past their lifetime, left on hold", Number: r.Expired, Unit: "messages",
			Text: fmt.Sprintf("%q (expired: requeue gives them a new one, send leaves them to Postfix)", r.Lapsed)})
	}
	return lines
}

// actedProgress reports at most twice a second.
func actedProgress(emit Emit) func(spool.Done) {
	var last time.Time
	return func(d spool.Done) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			emit("progress", map[string]int64{"done": d.Done, "gone": d.Gone, "failed": d.Failed})
		}
	}
}
