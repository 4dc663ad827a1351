package stage

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"spoolsweep/spool/queuefile"
)

// Source is where many messages come from, or go to: what a flood looks like.
type Source struct {
	Kind    string   `json:"kind"` // login, sender, client, bounces-to: a recipient of null-sender mail; or body template, which has no value
	Value   string   `json:"value"`
	Count   int64    `json:"count"`
	Samples []string `json:"samples"` // up to three, as DIRECTORY/ID; addresses would stay in the record
}

// String names the source.
func (s Source) String() string {
	if s.Kind == kindTemplate {
		return "one text"
	}
	return s.Kind + " " + s.Value
}

const (
	sourcesKept  = 32768 // values counted at one time, of each kind
	samplesKept  = 3
	sourcesShown = 20 // in a result
)

var sourceKinds = []string{"login", "sender", "client", "bounces-to"}

// tally counts the sources of many messages in bounded memory: with more
// different values than it keeps, a count may be too low by at most missed
// (Misra and Gries, 1982), which for sourcesKept values and a million messages
// is 30.
type tally struct {
	own    []netip.Prefix
	counts map[string]map[string]*Source
	missed map[string]int64
}

func newTally(own []netip.Prefix) *tally {
	t := &tally{own: own, counts: map[string]map[string]*Source{}, missed: map[string]int64{}}
	for _, kind := range sourceKinds {
		t.counts[kind] = map[string]*Source{}
	}
	return t
}

// sourcesOf calls fn for each source of a message.
func (t *tally) sourcesOf(e *queuefile.Envelope, fn func(kind, value string)) {
	if e.Login != "" {
		fn("login", strings.ToLower(e.Login))
	}
	switch {
	case e.Sender != "":
		fn("sender", strings.ToLower(e.Sender))
	case len(e.Recipients) == 1:
		fn("bounces-to", strings.ToLower(e.Recipients[0].Address))
	default:
		seen := make(map[string]bool, len(e.Recipients)) // after aliasing one address may stand there twice
		for _, r := range e.Recipients {
			if address := strings.ToLower(r.Address); !seen[address] {
				seen[address] = true
				fn("bounces-to", address)
			}
		}
	}
	if a, err := netip.ParseAddr(e.ClientAddress); err == nil && !slices.ContainsFunc(t.own, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) }) {
		fn("client", e.ClientAddress)
	}
}

// add counts a message of directory dir.
func (t *tally) add(dir, id string, e *queuefile.Envelope) {
	t.sourcesOf(e, func(kind, value string) {
		values := t.counts[kind]
		s := values[value]
		if s == nil {
			if len(values) >= sourcesKept {
				t.missed[kind]++
				for v, other := range values {
					if other.Count--; other.Count == 0 {
						delete(values, v)
					}
				}
				return
			}
			s = &Source{Kind: kind, Value: strings.Clone(value)}
			values[s.Value] = s
		}
		s.Count++
		if len(s.Samples) < samplesKept {
			s.Samples = append(s.Samples, dir+"/"+id)
		}
	})
}

// merge adds what another tally counted, which is not to be used any more.
func (t *tally) merge(o *tally) {
	for _, kind := range sourceKinds {
		t.missed[kind] += o.missed[kind]
		values := t.counts[kind]
		for value, s := range o.counts[kind] {
			have := values[value]
			if have == nil {
				values[value] = s
				continue
			}
			have.Count += s.Count
			have.Samples = append(have.Samples, s.Samples[:min(len(s.Samples), samplesKept-len(have.Samples))]...)
		}
		if len(values) <= sourcesKept {
			continue
		}
		// As if each value too many had met that many others.
		counts := make([]int64, 0, len(values))
		for _, s := range values {
			counts = append(counts, s.Count)
		}
		slices.Sort(counts)
		less := counts[len(counts)-sourcesKept-1]
		for value, s := range values {
			if s.Count -= less; s.Count <= 0 {
				delete(values, value)
			}
		}
		t.missed[kind] += less
	}
}

// merged is the sum of several tallies, which are not to be used any more.
func merged(all []*tally) *tally {
	for _, o := range all[1:] {
		all[0].merge(o)
	}
	return all[0]
}

// over lists the sources of more than limit messages, the largest first.
func (t *tally) over(limit int64) []Source {
	all := []Source{}
	for _, kind := range sourceKinds {
		for _, s := range t.counts[kind] {
			if s.Count+t.missed[kind] > limit {
				all = append(all, *s)
			}
		}
	}
	sortBy(all, larger)
	return all
}

// larger sorts sources, the largest first.
func larger(a, b Source) int {
	return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Value, b.Value))
}

// largest is the largest source of each kind, however small.
func (t *tally) largest() []Source {
	all := []Source{}
	for _, kind := range sourceKinds {
		var most *Source
		for _, s := range t.counts[kind] {
			if most == nil || larger(*s, *most) < 0 {
				most = s
			}
		}
		if most != nil {
			all = append(all, *most)
		}
	}
	sortBy(all, larger)
	return all
}

// countOf is how many messages the largest source of a message has: what the
// rules call source_count. It is never too high.
func (t *tally) countOf(e *queuefile.Envelope) int64 {
	var most int64
	t.sourcesOf(e, func(kind, value string) {
		most = max(most, 1) // the message itself, also where the tally let its source go
		if s := t.counts[kind][value]; s != nil {
			most = max(most, s.Count)
		}
	})
	return most
}

// isOver says whether any source of a message has more than limit messages.
func (t *tally) isOver(e *queuefile.Envelope, limit int64) bool {
	var over bool
	t.sourcesOf(e, func(kind, value string) {
		if s := t.counts[kind][value]; s != nil && s.Count+t.missed[kind] > limit {
			over = true
		}
	})
	return over
}
