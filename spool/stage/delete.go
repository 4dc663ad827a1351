package stage

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// DeleteArgs are the arguments of delete.
type DeleteArgs struct {
	Spam   any     `json:"spam" doc:"rules: what is deleted"`
	Ham    any     `json:"ham" doc:"rules: what is kept all the same"`
	Queues Queues  `json:"queues" doc:"names of live queues"`
	Expect *Number `json:"expect,omitempty" doc:"how many messages must be about to go; without it, it asks"`
}

// Check compiles the rules. That there are some is looked at by the stage.
func (a *DeleteArgs) Check() error {
	for _, name := range a.Queues {
		if strings.EqualFold(name, "auto") {
			return errors.New("queues are named where mail is deleted: auto is not one")
		}
	}
	if err := a.Queues.check(); err != nil {
		return err
	}
	_, err := pattern.Compile(a.Spam, a.Ham)
	return err
}

var remove = Row{
	Name: "delete", Doc: "have postsuper delete what the rules take from live queues", Changes: true,
	New: func() Args { return &DeleteArgs{Queues: Queues{string(spool.Deferred)}} }, Result: func() Result { return &Removed{} },
	Preview: func(ctx context.Context, h *Host, a Args) (*Removal, error) {
		w := &Removal{Goes: map[string]int64{}}
		var some picker
		err := a.(*DeleteArgs).judge(ctx, h, func(string, any) {}, func(j *judged) error {
			w.Matched++
			w.Bytes += j.Size
			w.Goes[j.Aside]++
			some.add(j.Mail)
			return nil
		})
		if err == nil {
			w.Samples, err = some.read(h.Postfix)
		}
		return w, err
	},
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*DeleteArgs)
		list, n, err := args.list(ctx, h, emit)
		if err != nil {
			return nil, err
		}
		if err := agree(h, "delete", args.Expect, n, list); err != nil {
			return nil, err
		}
		all := listed(h.Dir, doomedName, func(*judged) (bool, error) { return true, nil })
		done, err := h.Work.Delete(ctx, all, spool.Removal{Token: "delete " + list, Cancelled: h.Cancelled}, removedProgress(emit, n))
		return &Removed{Matched: n, Removed: done}, err
	},
}

// Rules compiles the rules, of which there must be some: what is deleted is
// asked for.
func (a *DeleteArgs) Rules() (*pattern.Rules, error) {
	rules, err := pattern.Compile(a.Spam, a.Ham)
	if err == nil && len(rules.Spam()) == 0 {
		err = errors.New("delete: there are no rules for spam: say what is to be deleted, by -m FIELD:PATTERN or spam in -e @rules.yaml")
	}
	return rules, err
}

// judge shows each message that the rules take. All of it, and what is taken by
// mistake, is gone for good: with Postfix down nothing is.
func (a *DeleteArgs) judge(ctx context.Context, h *Host, emit Emit, each func(*judged) error) error {
	rules, err := a.Rules()
	if err == nil {
		_, err = judgeLive(ctx, h, "delete", rules, a.Queues, emit, func(j *judged) error {
			if j.Verdict != pattern.Spam {
				return nil
			}
			return each(j)
		})
	}
	return err
}

// judgeLive shows each message of live queues, with its verdict, where postsuper may
// work on them.
func judgeLive(ctx context.Context, h *Host, stage string, rules *pattern.Rules, queues []string, emit Emit, each func(*judged) error) (*Classified, error) {
	if _, running := h.Postfix.Running(); !running {
		return nil, fmt.Errorf("%s: %w", stage, spool.ErrDown)
	}
	look := *h
	look.Work = nil // classify's own list is of what was set aside
	return judgeEach(ctx, &look, rules, queues, emit, each)
}

// judgeEach shows each message of what a run has aside, or else of live queues, with
// its verdict.
func judgeEach(ctx context.Context, h *Host, rules *pattern.Rules, queues []string, emit Emit, each func(*judged) error) (*Classified, error) {
	var failed error
	look := *h
	look.seen = func(j *judged) {
		if failed == nil {
			failed = each(j)
		}
	}
	places, err := look.places(queues)
	if err != nil {
		return nil, err
	}
	c := newClassification(&look, &ClassifyArgs{}, rules, emit)
	if rules.NeedsSources() {
		if err := c.countSources(ctx, places); err != nil {
			return nil, err
		}
	}
	r, err := c.judgeAll(ctx, places)
	return r, errors.Join(failed, err)
}

// list is the list of what is to be deleted: the one that was agreed to, or that
// was asked about, else a new one. Mail that came since is in none of them.
func (a *DeleteArgs) list(ctx context.Context, h *Host, emit Emit) (name string, n int64, err error) {
	name, n, err = agreedList(h)
	if err != nil || name != "" {
		return name, n, err
	}
	rules, err := a.Rules()
	if err != nil {
		return "", 0, err
	}
	return chooseMail(h, rules, func(add func(*judged) error) error {
		return a.judge(ctx, h, emit, add)
	})
}

// agreedList is the list that was agreed to, or that was asked about, and how many
// messages it has; "" where there is none, or none any more: then nobody has agreed to
// anything.
func agreedList(h *Host) (name string, n int64, err error) {
	if h.Agreed == nil && h.Answer == nil {
		return "", 0, nil
	}
	name, err = readListAs(h.Dir, doomedName, func(*judged) { n++ })
	if err == nil && name == "" {
		h.Agreed = nil
		return "", 0, nil
	}
	if err == nil && h.Agreed == nil && h.Answer.Value != name {
		return "", 0, nil
	}
	return name, n, err
}

// chooseMail makes a new list of what is to be done with messages of live queues.
func chooseMail(h *Host, rules *pattern.Rules, judge func(add func(*judged) error) error) (name string, n int64, err error) {
	l, err := newListAs(h.Dir, doomedName, rules.Spam(), h.Work.Batches())
	if err != nil {
		return "", 0, err
	}
	defer l.drop()
	err = judge(func(j *judged) error {
		n++
		return l.add(j)
	})
	if err != nil {
		return "", 0, err
	}
	name, err = l.commit()
	return name, n, err
}
