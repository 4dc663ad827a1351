package suggest

import (
	"sort"
	"strings"
)

// Merge puts together what several hosts found. An account that stands out on
// several of them under addresses of their own also stands there by its name alone.
// unclear are sources that stand out whose mail has too little in common.
func Merge(hosts [][]Atom) (atoms, unclear []Atom) {
	type key struct {
		kind           Kind
		field, pattern string
	}
	at := map[key]int{}
	clear := map[key]bool{}
	var all []Atom
	add := func(a Atom) {
		k := key{a.Kind, a.Field, a.Pattern}
		i, ok := at[k]
		if !ok {
			at[k] = len(all)
			all = append(all, a)
			return
		}
		have := &all[i]
		have.In, have.Of, have.Others, have.Rest, have.From = have.In+a.In, have.Of+a.Of, have.Others+a.Others, have.Rest+a.Rest, max(have.From, a.From)
		have.Least = min(have.Least, a.Least)
	}
	for _, host := range hosts {
		for _, a := range host {
			if a.Least < 0 {
				continue
			}
			clear[key{a.Kind, a.Field, a.Pattern}] = true
			add(a)
		}
	}
	for _, host := range hosts {
		for _, a := range host {
			if a.Least < 0 && !clear[key{a.Kind, a.Field, a.Pattern}] {
				unclear = append(unclear, a)
			}
		}
	}
	names := map[key][]Atom{}
	for _, a := range all {
		if name, _, ok := strings.Cut(a.Pattern, "@"); ok && a.Kind.source() && name != "" {
			k := key{a.Kind, a.Field, name + "@"}
			names[k] = append(names[k], a)
		}
	}
	for k, same := range names {
		if len(same) < 2 {
			continue
		}
		for _, a := range same {
			a.Pattern = k.pattern
			add(a)
		}
	}
	// Sources come first, then what most have; both the same on all machines.
	sort.SliceStable(all, func(i, k int) bool {
		a, b := &all[i], &all[k]
		if a.Kind.source() != b.Kind.source() {
			return a.Kind.source()
		}
		if a.In != b.In {
			return a.In > b.In
		}
		return a.Pattern < b.Pattern
	})
	return all[:min(len(all), MaxAtoms)], unclear
}
