package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// Selection says which mail of live queues is sent. What rules for spam take is never
// sent because of them.
type Selection struct {
	Match       any     `json:"match,omitempty" doc:"rules: what goes; without them all of it"`
	Spam        any     `json:"spam,omitempty" doc:"rules: what stays all the same"`
	Ham         any     `json:"ham,omitempty" doc:"rules: what goes though rules for spam take it"`
	IncludeSpam bool    `json:"include_spam,omitempty" doc:"also what rules for spam take"`
	Expect      *Number `json:"expect,omitempty" doc:"how many messages must be about to go; without it, it asks"`
}

// ReleaseArgs are the arguments of release.
type ReleaseArgs struct {
	Selection
	Held string `json:"held,omitempty" doc:"a run: only what it has put on hold"`
	RestoreArgs
}

// Check refuses what no host could use.
func (a *ReleaseArgs) Check() error {
	_, err := a.rules()
	return errors.Join(err, a.RestoreArgs.Check())
}

// RequeueArgs are the arguments of requeue.
type RequeueArgs struct {
	Selection
	Queues  Queues `json:"queues" doc:"names of live queues: deferred, hold"`
	Rate    Rate   `json:"rate" doc:"messages a second at most, or 3000/m; 0: no ceiling"`
	LiveMax Number `json:"live_max" doc:"pause while incoming and active hold so many more than before; 0: no limit"`
}

// requeuedFrom are the queues in which no delivery is under way.
var requeuedFrom = Queues{string(spool.Deferred), string(spool.Hold)}

// Check refuses what no host could use.
func (a *RequeueArgs) Check() error {
	if err := named(a.Queues, requeuedFrom, "requeued"); err != nil {
		return err
	}
	_, err := a.rules()
	return err
}

// never is a rule that takes nothing.
var never = map[string]any{"size": "<1"}

// rules say ham of what goes, and spam of all else.
func (s *Selection) rules() (*pattern.Rules, error) {
	for _, given := range []any{s.Match, s.Spam, s.Ham} {
		if _, err := pattern.Compile(given, nil); err != nil {
			return nil, err
		}
	}
	has := func(rules any) bool {
		r, err := pattern.Compile(rules, nil)
		return err == nil && !r.Empty()
	}
	stays := []any{never}
	if has(s.Match) {
		stays = append(stays, map[string]any{"not": s.Match})
	}
	if has(s.Spam) && !s.IncludeSpam {
		spam := []any{s.Spam}
		if has(s.Ham) {
			spam = append(spam, map[string]any{"not": s.Ham})
		}
		stays = append(stays, map[string]any{"all": spam})
	}
	return pattern.Compile(map[string]any{"any": stays}, nil)
}

// stay names what stays.
func (s *Selection) stay() string {
	switch {
	case s.Match != nil && s.Spam != nil:
		return "not chosen, or spam by the rules"
	case s.Match != nil:
		return "not chosen"
	}
	return "spam by the rules"
}

var release = Row{
	Name: "release", Doc: "have postsuper release mail from hold: it is sent", Changes: true,
	New:    func() Args { return &ReleaseArgs{RestoreArgs: newRestoreArgs()} },
	Result: func() Result { return &Acted{verb: verbReleased} },
	Preview: func(ctx context.Context, h *Host, a Args) (*Removal, error) {
		args := a.(*ReleaseArgs)
		return args.sending(h).preview(ctx)
	},
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*ReleaseArgs)
		return args.sending(h).run(ctx, emit)
	},
}

var requeue = Row{
	Name: "requeue", Doc: "have postsuper requeue mail, as if it had just come: it is sent", Changes: true,
	New: func() Args {
		d := newRestoreArgs()
		return &RequeueArgs{Queues: Queues{string(spool.Deferred)}, Rate: d.Rate, LiveMax: d.LiveMax}
	},
	Result: func() Result { return &Acted{verb: verbRequeued} },
	Preview: func(ctx context.Context, h *Host, a Args) (*Removal, error) {
		args := a.(*RequeueArgs)
		return args.sending(h).preview(ctx)
	},
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*RequeueArgs)
		return args.sending(h).run(ctx, emit)
	},
}

// sending is a release or a requeue.
type sending struct {
	*Selection
	h      *Host
	name   string
	verb   string
	queues Queues
	held   string // a run
	again  bool   // all of it is requeued
	how    RestoreArgs
}

func (a *ReleaseArgs) sending(h *Host) *sending {
	return &sending{Selection: &a.Selection, h: h, name: "release", verb: verbReleased, queues: Queues{string(spool.Hold)}, held: a.Held, how: a.RestoreArgs}
}

// sending has no canary: a message that is requeued gets another id.
func (a *RequeueArgs) sending(h *Host) *sending {
	return &sending{Selection: &a.Selection, h: h, name: "requeue", verb: verbRequeued, queues: a.Queues, again: true,
		how: RestoreArgs{Rate: a.Rate, LiveMax: a.LiveMax, Expired: requeueExpired}}
}

// judge shows each message that would go, and returns what was judged. What is
// unreadable stays.
func (s *sending) judge(ctx context.Context, emit Emit, each func(*judged) error) (*Classified, error) {
	rules, err := s.rules()
	if err != nil {
		return nil, err
	}
	look := *s.h
	look.sends = true
	var held map[string]uint64
	if s.held != "" {
		if held, err = s.heldBy(); err != nil {
			return nil, err
		}
		look.only = func(id string) bool { _, is := held[id]; return is }
	}
	return judgeLive(ctx, &look, s.name, rules, s.queues, emit, func(j *judged) error {
		if j.Verdict != pattern.Ham || held != nil && held[j.ID] != j.Inode {
			return nil
		}
		return each(j)
	})
}

// heldBy is what a run has put on hold: ids, and the inode of each.
func (s *sending) heldBy() (map[string]uint64, error) {
	all, err := s.h.Records()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, func(r Record) bool { return r.Run == s.held })
	if i < 0 {
		return nil, spool.Remedied(fmt.Errorf("%s: no run %.40q on this host", s.name, s.held), "spoolsweep runs lists those that there are")
	}
	held := map[string]uint64{}
	err = spool.Moves(all[i].Dir, func(m spool.Move) error {
		if m.Held() {
			held[m.ID] = m.Inode
		}
		return nil
	}, nil)
	return held, err
}

// reasons are why to look again: those of confirm.
func (s *sending) reasons(c *Classified) []string {
	why := confirm.New().(*ConfirmArgs).floods(c)
	if c.Unreadable > 0 {
		why = append(why, fmt.Sprintf("%d messages are unreadable and stay, such as %q", c.Unreadable, c.Unread))
	}
	return why
}

func (s *sending) preview(ctx context.Context) (*Removal, error) {
	w := &Removal{Goes: map[string]int64{}, Stays: map[string]int64{}}
	var some picker
	c, err := s.judge(ctx, func(string, any) {}, func(j *judged) error {
		if going, _ := s.how.lasting(s.h, []spool.Mail{j.Mail}); len(going) == 0 {
			w.Stays["past their lifetime"]++
			return nil
		}
		w.Matched++
		w.Goes[j.Aside]++
		some.add(j.Mail)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if c.Spam > 0 {
		w.Stays[s.stay()] = c.Spam
	}
	w.Reasons = s.reasons(c)
	w.Samples, err = some.read(s.h.Postfix)
	return w, err
}

func (s *sending) run(ctx context.Context, emit Emit) (Result, error) {
	h := s.h
	name, _, err := agreedList(h)
	ask := &Confirm{Reasons: []string{s.name + " sends, and what was sent cannot be taken back"}}
	if err == nil && name == "" {
		var rules *pattern.Rules
		if rules, err = s.rules(); err != nil {
			return nil, err
		}
		name, _, err = chooseMail(h, rules, func(add func(*judged) error) error {
			c, err := s.judge(ctx, emit, add)
			if err == nil {
				ask.Reasons, ask.Spam = append(ask.Reasons, s.reasons(c)...), c.Spam
			}
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	var all []spool.Mail
	if _, err := readListAs(h.Dir, doomedName, func(j *judged) { all = append(all, j.Mail) }); err != nil {
		return nil, err
	}
	going, expired := s.how.lasting(h, all)
	for i := range going {
		going[i].Requeue = going[i].Requeue || s.again
	}
	ask.Ham, ask.List = int64(len(going)), name
	if err := agreeTo(h, s.name, "sent", s.Expect, ask.Ham, ask); err != nil {
		return nil, err
	}
	watch, err := newCanary(h, s.name, int(s.how.Canary), len(going), name, emit)
	if err != nil {
		return nil, err
	}
	defer watch.close()
	done, err := h.Work.Release(ctx, going, s.how.options(ctx, h, s.name+" "+name, watch, emit), actedProgress(emit))
	r := newActed(s.verb, done)
	r.Matched = int64(len(going))
	for _, m := range expired {
		if r.Expired++; len(r.Lapsed) < lapsedKept {
			r.Lapsed = append(r.Lapsed, m.Aside+"/"+m.ID)
		}
	}
	if q := new(Ask); errors.As(err, &q) {
		r.Canary, _ = q.Data.(*Confirm)
	}
	return r, err
}
