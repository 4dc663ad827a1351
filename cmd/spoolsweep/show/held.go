package show

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"spoolsweep/spool/stage"
)

// Held is an entry of a ledger as somebody is told whose mail it was.
type Held struct {
	stage.Entry
	// Since is when it was set aside; zero where it was not, or where nobody knows.
	Since time.Time `json:"held_since,omitzero"`
	// Seconds is for how long it was aside, or is, which Still says.
	Seconds int64 `json:"held_seconds"`
	Still   bool  `json:"held_still"`
}

// Extract is what of one domain's mail a run has held on a host, in sums.
type Extract struct {
	Domain string `json:"domain"`
	stage.Sums
	Longest int64 `json:"longest_held_seconds"`
	// Unnamed are messages of which the ledger does not name everybody: they may be
	// of the domain as well, and are in no other sum.
	Unnamed int64 `json:"unnamed"`
}

// ofDomain says whether an address is in a domain: exactly that, or with a dot
// before it whatever is below.
func ofDomain(address, domain string) bool {
	_, of, ok := cutLast(address, "@")
	of = strings.TrimSuffix(strings.ToLower(of), ".")
	if strings.HasPrefix(domain, ".") {
		return ok && strings.HasSuffix(of, domain)
	}
	return ok && of == domain
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Take counts an entry of a ledger, and returns it if it is of the domain. since
// has when each directory was set aside.
func (x *Extract) Take(e *stage.Entry, since map[string]time.Time, now time.Time) *Held {
	mine := e.Sender != nil && ofDomain(*e.Sender, x.Domain)
	for _, r := range e.Recipients {
		mine = mine || ofDomain(r, x.Domain)
	}
	if !mine {
		if e.Sender == nil || e.More > 0 {
			x.Unnamed++
		}
		return nil
	}
	h := &Held{Entry: *e}
	dir, _, _ := strings.Cut(e.From, "/")
	h.Since = since[dir]
	end := e.Time
	switch e.Fate {
	case stage.FateRestored:
		x.Restored++
	case stage.FateCollision:
		x.Collisions++
	case stage.FateLeft:
		x.Left++
		end, h.Still = now, true
	case stage.FatePurged:
		x.Purged++
	case stage.FateSent:
		x.SentMeanwhile++
	case stage.FateMissing:
		x.Missing++
	case stage.FateDeleted:
		x.Deleted++
	case stage.FateGone:
		x.Gone++
	case stage.FateStayed:
		x.Stayed++
	case stage.FateHeld:
		x.Held++
	case stage.FateReleased:
		x.Released++
	case stage.FateRequeued:
		x.Requeued++
	}
	switch e.Fate {
	case stage.FateDeleted, stage.FateGone, stage.FateStayed, stage.FateHeld, stage.FateReleased, stage.FateRequeued:
	default:
		x.SetAside++
	}
	if !h.Since.IsZero() && !end.IsZero() {
		h.Seconds = max(0, int64(end.Sub(h.Since)/time.Second))
		x.Longest = max(x.Longest, h.Seconds)
	}
	return h
}

// Add adds what another host has held.
func (x *Extract) Add(o *Extract) {
	s := &x.Sums
	for _, of := range []struct {
		to *int64
		n  int64
	}{
		{&s.SetAside, o.SetAside}, {&s.Restored, o.Restored}, {&s.Collisions, o.Collisions}, {&s.Left, o.Left}, {&s.Purged, o.Purged},
		{&s.SentMeanwhile, o.SentMeanwhile}, {&s.Missing, o.Missing}, {&s.Deleted, o.Deleted}, {&s.Gone, o.Gone}, {&s.Stayed, o.Stayed},
		{&s.Held, o.Held}, {&s.Released, o.Released}, {&s.Requeued, o.Requeued},
	} {
		*of.to += of.n
	}
	x.Longest, x.Unnamed = max(x.Longest, o.Longest), x.Unnamed+o.Unnamed
}

// Lines tells the sums.
func (x *Extract) Lines() []stage.Line {
	n := x.SetAside + x.Live()
	lines := []stage.Line{{Label: "of " + x.Domain, Number: n, Unit: "messages"}}
	if x.SetAside > 0 {
		lines = append(lines, x.Sums.Lines()[0], stage.Line{Label: "held the longest", Text: stage.Age(x.Longest)})
	}
	if n > x.SetAside {
		all := x.Sums.Lines()
		lines = append(lines, all[len(all)-1])
	}
	if x.Unnamed > 0 {
		lines = append(lines, stage.Line{Label: "of which the ledger does not name everybody: they may be of it too", Number: x.Unnamed, Unit: "messages"})
	}
	return lines
}

// Held prints an entry, for people as a line of when, how long, and what became
// of it.
func (l *Ledgers) Held(of *Host, h *Held) error {
	return l.entry(of, h, func() string {
		at := "-"
		if !h.Since.IsZero() {
			at = h.Since.Local().Format(time.DateTime)
		}
		how := stage.Age(h.Seconds)
		if h.Still {
			how = "still, " + how
		}
		if h.Since.IsZero() {
			how = "-"
		}
		to := ""
		if h.To != "" {
			to = " -> " + Clean(h.To)
		}
		sender := "?"
		if h.Sender != nil {
			sender = "<" + Clean(*h.Sender) + ">"
		}
		more := ""
		if h.More > 0 {
			more = fmt.Sprintf(" and %d more", h.More)
		}
		return fmt.Sprintf("held since %-19s for %-16s %-9s %s  %s to <%s>%s  %s%s", at, how, Clean(strings.ReplaceAll(h.Fate, "_", " ")),
			cmp.Or(Clean(string(h.Verdict)), "never judged"), sender, Clean(strings.Join(h.Recipients, ">, <")), more, Clean(h.From+"/"+h.ID), to)
	})
}
