package inventory

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
)

// depths gives each group its longest way from all, and refuses a loop.
func (b *builder) depths() error {
	var way []*group
	on := make(map[*group]bool)
	done := make(map[*group]bool)
	var sorted []*group // children before parents
	var visit func(g *group) error
	visit = func(g *group) error {
		on[g] = true
		way = append(way, g)
		for _, e := range g.children {
			if e.child.name == all {
				return e.at.Errorf("%q holds every group and cannot be a child", all)
			}
			if on[e.child] {
				names := []string{}
				for _, w := range way[slices.Index(way, e.child):] {
					names = append(names, w.name)
				}
				return e.at.Errorf("group loop: %s > %s", strings.Join(names, " > "), e.child.name)
			}
			if !done[e.child] {
				if err := visit(e.child); err != nil {
					return err
				}
			}
		}
		way = way[:len(way)-1]
		on[g] = false
		done[g] = true
		sorted = append(sorted, g)
		return nil
	}
	for _, g := range b.groups {
		if !done[g] {
			if err := visit(g); err != nil {
				return err
			}
		}
	}
	for _, g := range slices.Backward(sorted) {
		if g.name != all {
			g.depth = max(g.depth, 1)
		}
		for _, e := range g.children {
			e.child.depth = max(e.child.depth, g.depth+1)
			b.parents[e.child] = append(b.parents[e.child], g)
		}
	}
	return nil
}

// merge gives a host its variables: those of all, then of its groups from the
// least deep on, those of one depth by priority and then by name; then those of
// the group_vars of all and of its groups, source by source; then its own, and
// those of its host_vars (ansible/vars/manager.py: get_vars;
// ansible/inventory/helpers.py: sort_groups). Of two places in the files that say
// something about the same group or host, the later one wins.
func (b *builder) merge(h *Host) error {
	// A host is in ungrouped exactly if it is in no other group
	// (ansible/inventory/data.py: reconcile_inventory).
	h.groups = slices.DeleteFunc(h.groups, func(g *group) bool { return g.name == all || g.name == ungrouped })
	if len(h.groups) == 0 {
		h.groups = []*group{b.groupBy[ungrouped]}
	}
	h.raw = make(map[string]*strict.Value)
	groups := b.above(h) // the first of them is all
	var blocks []block
	for _, g := range groups {
		for _, bl := range g.blocks {
			h.take(bl, groupPriority)
			blocks = append(blocks, bl)
		}
	}
	for _, some := range [][]*group{groups[:1], groups[1:]} {
		for source := range b.bases {
			for _, g := range some {
				blocks = append(blocks, h.takeAll(g.files[source])...)
			}
		}
	}
	blocks = append(blocks, h.takeAll(h.blocks)...)
	for source := range b.bases {
		blocks = append(blocks, h.takeAll(h.files[source])...)
	}
	h.Vars = make(map[string]any)
	h.origin = make(map[string]*strict.Value)
	if b.raw {
		return nil
	}
	return b.resolve(h, blocks)
}

func (h *Host) takeAll(blocks []block) []block {
	for _, bl := range blocks {
		h.take(bl, "")
	}
	return blocks
}

// take lays variables over those before, but for the one named except.
func (h *Host) take(bl block, except string) {
	if bl.port != nil {
		h.raw[ansiblePort] = bl.port
	}
	if bl.vars == nil {
		return
	}
	for _, e := range bl.vars.Entries() {
		if e.Key.Text != except {
			h.raw[e.Key.Text] = e.Value
		}
	}
}

// resolve makes of a host's variables what they stand for. In those that
// spoolsweep reads, what it cannot resolve is an error; another tool's stays as it
// is written.
func (b *builder) resolve(h *Host, blocks []block) error {
	s := &scope{b: b, h: h, vault: b.vault, done: make(map[string]*strict.Value)}
	// What only another tool reads is resolved as far as that takes no password.
	others := &scope{b: b, h: h, vault: &vault{}, done: make(map[string]*strict.Value)}
	for name, raw := range h.raw {
		v := raw
		switch {
		case slices.Contains(b.known, name):
			var err error
			if v, err = s.variable(name, raw); err != nil {
				return inVariable(name, err)
			}
		case slices.Contains(passwords, name):
			if b.vault.passwords == nil || !slices.Contains(becomePasswords, name) || b.isPlain(raw) {
				break
			}
			password, err := s.variable(name, raw)
			if err != nil {
				return inVariable(name, err)
			}
			if h.becomePassword, _ = password.Plain().(string); h.becomePassword == "" {
				return raw.Errorf("%s: the password is empty, or no text", name)
			}
		case !b.isPlain(raw):
			if resolved, err := others.variable(name, raw); err == nil {
				v = resolved
			}
		}
		h.Vars[name], h.origin[name] = v.Plain(), v
	}
	for _, bl := range blocks {
		if bl.port != nil {
			if port, ok := bl.port.Plain().(int64); ok {
				h.Connection.Port = int(port)
			}
		}
		own := bl.settings
		if bl.late {
			var entries []strict.Entry
			for _, e := range bl.vars.Entries() {
				if !slices.Contains(connectionVars, e.Key.Text) {
					continue
				}
				v, err := s.value(e.Value)
				if err != nil {
					return inVariable(e.Key.Text, err)
				}
				entries = append(entries, strict.Entry{Key: e.Key, Value: v})
			}
			var err error
			if own, err = readSettings(bl.vars.WithEntries(entries...)); err != nil {
				return err
			}
		}
		if own != nil {
			own.onto(&h.Connection)
		}
	}
	for _, name := range b.known {
		if h.Vars[name] == nil {
			h.Vars[name] = ""
			delete(h.origin, name)
		}
	}
	return nil
}

// above returns the groups a host is in, directly or not, in the order in which
// their variables count.
func (b *builder) above(h *Host) []*group {
	seen := map[*group]bool{b.groupBy[all]: true}
	var climb func(g *group)
	climb = func(g *group) {
		if seen[g] {
			return
		}
		seen[g] = true
		for _, p := range b.parents[g] {
			climb(p)
		}
	}
	for _, g := range h.groups {
		climb(g)
	}
	return slices.SortedFunc(maps.Keys(seen), func(x, y *group) int {
		return cmp.Or(cmp.Compare(x.depth, y.depth), cmp.Compare(x.priority, y.priority), strings.Compare(x.name, y.name))
	})
}
