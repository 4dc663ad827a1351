package inventory

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
)

// Limit returns the hosts that a pattern names, in the order of [Inventory.Hosts]:
// names of hosts and groups, globs with * and ?, several of these with commas.
// A name that both a group and a host have is the group, as to Ansible.
//
// Each part must name a host. What Ansible would take for more than that
// (a:b, :&, :!, ~regex, group[0], @file) is refused.
func (inv *Inventory) Limit(pattern string) ([]*Host, error) {
	picked := make(map[*Host]bool)
	for part := range strings.SplitSeq(pattern, ",") {
		part = strings.TrimSpace(part)
		switch {
		case part == "" && strings.TrimSpace(pattern) == "":
			return nil, fmt.Errorf("limit is empty; for every host write %q", all)
		case part == "":
			return nil, fmt.Errorf("limit %q: nothing stands before or after a comma", pattern)
		}
		hosts, err := inv.part(part)
		if err != nil {
			return nil, fmt.Errorf("limit %q: %w", pattern, err)
		}
		for _, h := range hosts {
			picked[h] = true
		}
	}
	return slices.DeleteFunc(inv.Hosts(), func(h *Host) bool { return !picked[h] }), nil
}

func (inv *Inventory) part(part string) ([]*Host, error) {
	for _, g := range inv.groups {
		if g.Name == part {
			if len(g.Hosts) == 0 {
				return nil, fmt.Errorf("no host is in group %s", part)
			}
			return g.Hosts, nil
		}
	}
	for _, h := range inv.hosts {
		if h.Name == part {
			return []*Host{h}, nil
		}
	}
	if err := laterPattern(part); err != nil {
		return nil, err
	}
	if strings.ContainsAny(part, "*?") {
		return inv.glob(part)
	}
	names := make([]string, 0, len(inv.groups)+len(inv.hosts))
	for _, h := range inv.hosts {
		names = append(names, h.Name)
	}
	for _, g := range inv.groups {
		names = append(names, g.Name)
	}
	if near := strict.Nearest(part, names); near != "" {
		return nil, fmt.Errorf("no host or group is named %q (did you mean %q?)", part, near)
	}
	return nil, fmt.Errorf("no host or group is named %q", part)
}

// laterPattern refuses patterns of Ansible's that are none of ours yet. Taken as
// names they would pick the wrong hosts, or say that there is no such host.
func laterPattern(part string) error {
	switch {
	case strings.HasPrefix(part, "!"), strings.HasPrefix(part, "&"), strings.Contains(part, ":"):
		return fmt.Errorf("%q: a:b, a:&b and a:!b are not supported yet; separate names with commas", part)
	case strings.HasPrefix(part, "~"):
		return fmt.Errorf("%q: regular expressions are not supported yet", part)
	case strings.HasPrefix(part, "@"):
		return fmt.Errorf("%q: files are not supported yet", part)
	case strings.ContainsAny(part, `[]\`):
		return fmt.Errorf("%q: brackets are not supported yet; use * or ?, or write each name", part)
	}
	return nil
}

func (inv *Inventory) glob(part string) ([]*Host, error) {
	var hosts []*Host
	for _, g := range inv.groups {
		if matches(part, g.Name) {
			hosts = append(hosts, g.Hosts...)
		}
	}
	for _, h := range inv.hosts {
		if matches(part, h.Name) {
			hosts = append(hosts, h)
		}
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("no host or group matches %q", part)
	}
	return hosts, nil
}

// matches reports a glob with * and ? only, which path.Match has no error for;
// names have no slash in them, so * is as wide as it is to Ansible.
func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}
