package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

// PurgeArgs are the arguments of purge.
type PurgeArgs struct {
	IncludeHam bool    `json:"include_ham,omitempty" doc:"all that is aside, whatever it is"`
	OlderThan  Span    `json:"older_than,omitempty" doc:"only messages that arrived longer ago"`
	Expect     *Number `json:"expect,omitempty" doc:"how many messages must be about to go; without it, it asks"`
	// Before is the moment, in seconds since 1970, from which on nothing goes: a
	// preview's, so that what was counted is what goes.
	Before int64 `json:"before,omitempty" playbook:"-"`
}

// Check accepts: decoding has refused what is no age.
func (*PurgeArgs) Check() error { return nil }

// Span is an age: 12h, 30d, 8w.
type Span time.Duration

var spanUnits = map[byte]time.Duration{'m': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}

// UnmarshalJSON takes a whole number with a unit.
func (s *Span) UnmarshalJSON(text []byte) error {
	word := strings.Trim(string(text), `"`)
	bad := fmt.Errorf("%.40q is no age: a whole number with m, h, d or w, such as 30d", word)
	if word == "" {
		return bad
	}
	unit, ok := spanUnits[word[len(word)-1]]
	n, err := strconv.ParseUint(word[:len(word)-1], 10, 31)
	if !ok || err != nil || n == 0 || n > uint64(100*365*24*time.Hour/unit) {
		return bad
	}
	*s = Span(time.Duration(n) * unit)
	return nil
}

// MarshalJSON writes what UnmarshalJSON reads.
func (s Span) MarshalJSON() ([]byte, error) {
	return json.Marshal(fmt.Sprintf("%dm", time.Duration(s)/time.Minute))
}

// before is the moment that a message must have arrived before; 0: any time.
func (a *PurgeArgs) before() int64 {
	if a.Before != 0 || a.OlderThan == 0 {
		return a.Before
	}
	return time.Now().Add(-time.Duration(a.OlderThan)).Unix()
}

var purge = Row{
	Name: "purge", Doc: "remove what is aside and the confirmed list calls spam, for good", Changes: true, Finished: true,
	New: func() Args { return &PurgeArgs{} }, Result: func() Result { return &Removed{} },
	Preview: func(ctx context.Context, h *Host, a Args) (*Removal, error) {
		p, err := a.(*PurgeArgs).find(ctx, h)
		if err != nil {
			return nil, err
		}
		var some picker
		if err := p.going(func(m spool.Mail) error { some.add(m); return nil }); err != nil {
			return nil, err
		}
		p.Samples, err = some.read(h.Postfix)
		return &p.Removal, err
	},
	Run: func(ctx context.Context, h *Host, a Args, emit Emit) (Result, error) {
		args := a.(*PurgeArgs)
		p, err := args.find(ctx, h)
		if err != nil {
			return nil, err
		}
		token := fmt.Sprintf("purge %s include_ham=%t", p.name, args.IncludeHam)
		n := p.Matched
		if err := agree(h, "purge", args.Expect, n, fmt.Sprintf("%d of %s", n, token)); err != nil {
			return nil, err
		}
		if h.Agreed != nil {
			n = *h.Agreed
		}
		o := spool.Removal{Token: fmt.Sprintf("%s of %d", token, n), Cancelled: h.Cancelled}
		done, kept, err := h.Work.Purge(ctx, p.going, o, removedProgress(emit, n))
		r := &Removed{Matched: n, Removed: done, Kept: kept}
		// Told as it is by then, whatever went wrong.
		now, e := args.find(ctx, h)
		if e == nil {
			r.Stays = now.Stays
			for kind, n := range now.Goes { // failed
				r.Stays[kind] += n
			}
			for _, n := range r.Stays {
				r.Left += n
			}
		}
		return r, errors.Join(err, e)
	},
}

// purging is a removal, and how to go through what goes.
type purging struct {
	Removal
	name  string // of the list
	going spool.List
}

// Kinds of what is aside.
const (
	kindSpam = "spam"
	// KindUnconfirmed goes only with include_ham.
	KindUnconfirmed = "spam by rules that nobody confirmed"
	kindHam         = "ham that did not go back"
	kindUnreadable  = "unreadable"
	kindIncomplete  = "half-written, never accepted"
	kindUnjudged    = "never judged"
)

var kindOf = map[pattern.Verdict]string{
	pattern.Spam: kindSpam, pattern.Ham: kindHam, pattern.Unreadable: kindUnreadable, pattern.Incomplete: kindIncomplete, "": kindUnjudged,
}

// find sorts what is aside, by the run's list of verdicts: a file that is not
// the one that was judged was never judged. What the confirmed list calls spam
// goes; all else only with include_ham.
func (a *PurgeArgs) find(ctx context.Context, h *Host) (*purging, error) {
	sets, err := asideOf(h)
	if err != nil {
		return nil, err
	}
	aside := map[string]bool{}
	var all int64
	for _, s := range sets {
		if s.Queue == spool.Defer {
			continue
		}
		aside[s.Aside] = true
		err := spool.Walk(h.Postfix, s.Aside, func(c spool.Chunk) error {
			all += int64(len(c.IDs))
			return ctx.Err()
		})
		if err != nil {
			return nil, err
		}
	}
	l, err := spool.NewLooker(h.Postfix)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	var c Confirmed
	h.Last("confirm", &c)
	p := &purging{Removal: Removal{Before: a.before(), Goes: map[string]int64{}, Stays: map[string]int64{}}}
	// Not in memory: a flood may be a million messages.
	counts := map[string]*[2]int64{} // of each kind those that are old enough, and the others
	var failed error
	p.name, err = readList(h.Dir, func(j *judged) {
		if failed != nil || !aside[j.Aside] {
			return
		}
		is, err := l.Stands(j.Mail)
		if failed = errors.Join(err, ctx.Err()); failed != nil || !is {
			return
		}
		kind := kindOf[j.Verdict]
		if counts[kind] == nil {
			counts[kind] = new([2]int64)
		}
		if p.old(j) {
			counts[kind][0]++
		} else {
			counts[kind][1]++
		}
		all--
	})
	if err := errors.Join(failed, err); err != nil {
		return nil, err
	}
	sure := p.name != "" && c.List == p.name
	for kind, n := range counts {
		if kind == kindSpam && !sure {
			kind = KindUnconfirmed
		}
		if kind == kindSpam || a.IncludeHam {
			p.add(p.Goes, kind, n[0])
			p.add(p.Stays, kind, n[1])
		} else {
			p.add(p.Stays, kind, n[0]+n[1])
		}
	}
	everything := a.IncludeHam && p.Before == 0
	if everything {
		p.add(p.Goes, kindUnjudged, all)
		p.going = func(yield func(spool.Mail) error) error { return each(ctx, h, sets, yield) }
	} else {
		p.add(p.Stays, kindUnjudged, all) // nobody knows how old it is
		p.going = func(yield func(spool.Mail) error) error {
			l, err := spool.NewLooker(h.Postfix)
			if err != nil {
				return err
			}
			defer l.Close()
			return listed(h.Dir, verdictsName, func(j *judged) (bool, error) {
				if !aside[j.Aside] || !p.old(j) || !a.IncludeHam && (!sure || j.Verdict != pattern.Spam) {
					return false, nil
				}
				return l.Stands(j.Mail)
			})(yield)
		}
	}
	for _, n := range p.Goes {
		p.Matched += n
	}
	return p, nil
}

// old says whether a message arrived before the moment that is asked for. Of
// what is unreadable nobody knows when.
func (p *purging) old(j *judged) bool {
	return p.Before == 0 || j.Born != 0 && j.Born < p.Before
}

func (p *purging) add(to map[string]int64, kind string, n int64) {
	if n > 0 {
		to[kind] += n
	}
}

// each lists every message that is aside, as it is now.
func each(ctx context.Context, h *Host, sets []spool.Set, yield func(spool.Mail) error) error {
	for _, s := range sets {
		if s.Queue == spool.Defer {
			continue
		}
		err := spool.Walk(h.Postfix, s.Aside, func(c spool.Chunk) error {
			for _, id := range c.IDs {
				m, err := c.Mail(s.Aside, id)
				if errors.Is(err, fs.ErrNotExist) {
					continue
				}
				if err == nil {
					err = errors.Join(yield(m), ctx.Err())
				}
				if err != nil {
					return err
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

func asideOf(h *Host) ([]spool.Set, error) {
	if h.Work != nil {
		return h.Work.SetsAside()
	}
	return spool.AsideOf(h.Postfix, h.Dir)
}
