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
// least deep on, those of one depth by priority and then by name, then its own
// (ansible/inventory/helpers.py: sort_groups). Of two places in the files that
// say something about the same group or host, the later one wins. It returns the
// groups.
func (b *builder) merge(h *Host) []*group {
	// A host is in ungrouped exactly if it is in no other group
	// (ansible/inventory/data.py: reconcile_inventory).
	h.groups = slices.DeleteFunc(h.groups, func(g *group) bool { return g.name == all || g.name == ungrouped })
	if len(h.groups) == 0 {
		h.groups = []*group{b.groupBy[ungrouped]}
	}
	above := b.above(h)
	h.Vars = make(map[string]any)
	h.origin = make(map[string]*strict.Value)
	for _, g := range above {
		for _, bl := range g.blocks {
			h.take(bl)
		}
	}
	for _, bl := range h.blocks {
		h.take(bl)
	}
	for _, name := range b.known {
		if h.Vars[name] == nil {
			if _, set := h.Vars[name]; set {
				h.nulls = append(h.nulls, name)
			}
			h.Vars[name] = ""
			delete(h.origin, name)
		}
	}
	return above
}

func (h *Host) take(bl block) {
	if bl.port != 0 {
		h.Vars["ansible_port"] = bl.port
		h.Connection.Port = int(bl.port)
		delete(h.origin, "ansible_port") // of a group
	}
	if bl.vars == nil {
		return
	}
	for _, e := range bl.vars.Entries() {
		if e.Key.Text == groupPriority {
			continue
		}
		h.Vars[e.Key.Text] = e.Value.Plain()
		h.origin[e.Key.Text] = e.Value
	}
	bl.settings.onto(&h.Connection)
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
