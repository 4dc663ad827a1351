package stage

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// Removal is what a delete or a purge would remove, or what hold, release and requeue
// would do.
type Removal struct {
	Matched int64 `json:"matched"`
	Bytes   int64 `json:"bytes,omitempty"` // of the queue files, where it comes by delete's rules
	// Goes is what would be removed, by queue or by kind, and Stays what of the
	// rest a purge looked at.
	Goes  map[string]int64 `json:"goes"`
	Stays map[string]int64 `json:"stays,omitempty"`
	// Reasons are why to look again before it is sent.
	Reasons []string `json:"reasons,omitempty"`
	// Samples are some of it, chosen at random; they are shown, and kept nowhere.
	Samples []Sample `json:"samples,omitempty"`
	// Before is the moment that an age was counted from.
	Before int64 `json:"before,omitempty"`
}

// samplesShown is how many of them that are.
const samplesShown = 5

// picker keeps some of many messages, each with the same chance.
type picker struct {
	seen int
	some []spool.Mail
}

func (s *picker) add(m spool.Mail) {
	s.seen++
	if len(s.some) < samplesShown {
		s.some = append(s.some, m)
	} else if i := rand.IntN(s.seen); i < samplesShown {
		s.some[i] = m
	}
}

// read reads the envelopes of what was chosen, as far as it still is there.
func (s *picker) read(p *spool.Postfix) ([]Sample, error) {
	l, err := spool.NewLooker(p)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	var all []Sample
	var r queuefile.Reader
	for _, m := range s.some {
		f, err := l.Open(m)
		if err != nil {
			continue // gone meanwhile
		}
		r.Reset(f, m.Size, m.Aside == string(spool.Maildrop))
		e, err := r.Envelope()
		f.Close()
		if err != nil {
			continue
		}
		all = append(all, Sample{Message: path.Join(m.Aside, m.Sub, m.ID), Envelope: addressed(e)})
	}
	return all, nil
}

// agree asks, unless the number that was expected is the number found, or what
// is asked was answered. list names what would be removed.
func agree(h *Host, stage string, expect *Number, n int64, list string) error {
	return agreeTo(h, stage, "deleted", expect, n, &Confirm{Delete: true, Reasons: []string{"what " + stage + " deletes cannot be taken back"}, Ham: n, List: list})
}

// agreeTo is agree for what is done otherwise with messages, and is asked so.
func agreeTo(h *Host, stage, done string, expect *Number, n int64, ask *Confirm) error {
	switch {
	case n == 0 && expect == nil:
	case h.Agreed != nil && n <= *h.Agreed: // the rest of what went before a death
	case expect != nil && int64(*expect) == n:
	case expect != nil:
		return spool.Remedied(fmt.Errorf("%s: %d messages would be %s, not the %d that were expected: nothing was %[3]s", stage, n, done, *expect),
			"see whether that number is right, and begin again with it")
	case h.Answer != nil && h.Answer.Kind == "confirm" && h.Answer.Value == ask.List:
	default:
		return &Ask{Kind: "confirm", Data: ask}
	}
	if h.Agreed != nil {
		return nil
	}
	return h.Agree(n)
}

// Removed is the result of delete and purge.
type Removed struct {
	Matched int64 `json:"matched"`
	spool.Removed
	Left  int64            `json:"left,omitempty"`  // all that a purge has left aside
	Stays map[string]int64 `json:"stays,omitempty"` // of it, by kind
	Kept  []string         `json:"kept_directories,omitempty"`
}

// Lines tells how many went, and what did not.
func (r *Removed) Lines() []Line {
	lines := []Line{{Label: "deleted", Number: r.Deleted, Unit: "messages"}}
	if r.Matched != r.Deleted {
		lines = append(lines, Line{Label: "were to be deleted", Number: r.Matched, Unit: "messages"})
	}
	if r.Gone > 0 {
		lines = append(lines, Line{Label: "gone", Number: r.Gone, Unit: "messages", Text: "deleted when the run was broken off, or delivered by Postfix before: report --ledger names them, and the mail log tells"})
	}
	if r.Failed > 0 {
		lines = append(lines, Line{Label: "not deleted", Number: r.Failed, Unit: "messages", Text: fmt.Sprintf("%q", r.Failures)})
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Stays)) {
		lines = append(lines, Line{Label: "still aside", Number: r.Stays[kind], Unit: "messages", Text: kind})
	}
	return lines
}

// removedProgress reports at most twice a second.
func removedProgress(emit Emit, of int64) func(spool.Removed) {
	var last time.Time
	return func(r spool.Removed) {
		if now := time.Now(); now.Sub(last) >= progressEvery {
			last = now
			emit("progress", map[string]int64{"deleted": r.Deleted, "failed": r.Failed, "of": of})
		}
	}
}

// listed are the lines of a list that wanted accepts, as what package spool
// works through.
func listed(dir, name string, wanted func(*judged) (bool, error)) spool.List {
	return func(yield func(spool.Mail) error) error {
		var failed error
		_, err := readListAs(dir, name, func(j *judged) {
			if failed != nil {
				return
			}
			is, err := wanted(j)
			if err == nil && is {
				err = yield(j.Mail)
			}
			failed = err
		})
		return errors.Join(failed, err)
	}
}
