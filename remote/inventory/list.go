package inventory

import (
	"fmt"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
)

// List is the inventory as ansible-inventory --list has it, to be written as
// JSON: each group that holds something, and under _meta the variables of each
// host that has any (ansible/cli/inventory.py: json_inventory).
func (inv *Inventory) List() map[string]any {
	type entry struct {
		Hosts    []string `json:"hosts,omitempty"`
		Children []string `json:"children,omitempty"`
	}
	list := map[string]any{}
	for _, g := range inv.groups {
		e := entry{Children: inv.children(g)}
		if g.Name != all {
			for _, h := range g.direct {
				e.Hosts = append(e.Hosts, h.Name)
			}
		}
		if len(e.Hosts)+len(e.Children) > 0 {
			list[g.Name] = e
		}
	}
	hostvars := map[string]any{}
	for _, h := range inv.hosts {
		if vars := h.Variables(); len(vars) > 0 {
			hostvars[h.Name] = vars
		}
	}
	list["_meta"] = map[string]any{"hostvars": hostvars}
	return list
}

// Variables are those that files set for a host, as ansible-inventory --host has
// them: without the known ones that nothing sets, and with nothing resolved.
func (h *Host) Variables() map[string]any {
	vars := make(map[string]any, len(h.raw))
	for name, value := range h.raw {
		vars[name] = asAnsible(value)
	}
	return vars
}

// asAnsible is a plain value in which what is marked !unsafe is what Ansible's
// JSON makes of it.
func asAnsible(v *strict.Value) any {
	switch {
	case v.Kind == strict.List:
		list := []any{}
		for _, item := range v.Items() {
			list = append(list, asAnsible(item))
		}
		return list
	case v.Kind == strict.Map:
		m := map[string]any{}
		for _, e := range v.Entries() {
			m[e.Key.Text] = asAnsible(e.Value)
		}
		return m
	case v.Unsafe:
		return map[string]any{"__ansible_unsafe": v.Text}
	}
	return v.Plain()
}

// children are the groups below a group. Below all are ungrouped, and every
// group that is no other's child (ansible/inventory/data.py: reconcile_inventory).
func (inv *Inventory) children(g *Group) []string {
	if g.Name != all {
		return g.Children
	}
	below := map[string]bool{}
	for _, other := range inv.groups {
		for _, name := range other.Children {
			below[name] = true
		}
	}
	names := []string{ungrouped}
	for _, name := range g.Children {
		if name != ungrouped {
			names = append(names, name)
		}
	}
	for _, other := range inv.groups {
		if other.Name != all && other.Name != ungrouped && !below[other.Name] {
			names = append(names, other.Name)
		}
	}
	return names
}

// Host is the host of that name, or nil.
func (inv *Inventory) Host(name string) *Host { return inv.byName[name] }

// below are the hosts in a group and in those below it, level by level
// (ansible/inventory/group.py: get_descendants). From the third level on Ansible's
// order is that of a Python set, another in each of its runs; this one's is that
// of the files.
func (inv *Inventory) below(g *Group) []*Host {
	var hosts []*Host
	seen := make(map[*Host]bool)
	known := map[*Group]bool{g: true}
	for level := []*Group{g}; len(level) > 0; {
		var next []*Group
		for _, g := range level {
			for _, h := range g.direct {
				if !seen[h] {
					seen[h] = true
					hosts = append(hosts, h)
				}
			}
			for _, name := range inv.children(g) {
				if child := inv.groupBy[name]; !known[child] {
					known[child] = true
					next = append(next, child)
				}
			}
		}
		level = next
	}
	return hosts
}

// Graph draws a group with all below it, as ansible-inventory --graph does.
func (inv *Inventory) Graph(group string) (string, error) {
	i := slices.IndexFunc(inv.groups, func(g *Group) bool { return g.Name == group })
	if i < 0 {
		var names []string
		for _, g := range inv.groups {
			names = append(names, g.Name)
		}
		if near := strict.Nearest(group, names); near != "" {
			return "", fmt.Errorf("no group is named %q (did you mean %q?)", group, near)
		}
		return "", fmt.Errorf("no group is named %q", group)
	}
	var b strings.Builder
	inv.draw(&b, inv.groups[i], 0)
	return b.String(), nil
}

func (inv *Inventory) draw(b *strings.Builder, g *Group, depth int) {
	line := func(depth int, name string) {
		b.WriteString(strings.Repeat("  |", depth))
		if depth > 0 {
			b.WriteString("--")
		}
		b.WriteString(name + "\n")
	}
	line(depth, "@"+g.Name+":")
	for _, name := range inv.children(g) {
		inv.draw(b, inv.groupBy[name], depth+1)
	}
	if g.Name == all {
		return
	}
	for _, h := range g.direct {
		line(depth+1, h.Name)
	}
}
