package inventory

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"spoolsweep/playbooks/strict"
)

// Limit returns the hosts that a pattern names, in the order in which Ansible has
// them: names, groups, globs, ~ before a regular expression, [n] and [a:b] behind
// any of these but the last; several with commas or colons, with & before one for
// those that are in it too, and ! for those that are not. @FILE stands for the
// lines of a file.
//
// Each part must name a host: one that is misspelt must not pick fewer than were
// meant, and behind a ! not more.
func (inv *Inventory) Limit(pattern string) ([]*Host, error) {
	if strings.TrimSpace(pattern) == "" {
		return nil, fmt.Errorf("limit is empty; for every host write %q", all)
	}
	parts, err := splitPattern(pattern)
	if err != nil {
		return nil, fmt.Errorf("limit %q: %w", pattern, err)
	}
	var all []part
	for _, text := range parts {
		file, ok := strings.CutPrefix(text, "@")
		if !ok {
			all = append(all, part{text: text})
			continue
		}
		var lines []part
		if inv.Lists != nil {
			var list string
			if list, err = inv.Lists(file); list != "" {
				file = list
			}
		}
		if err == nil {
			lines, err = readLimit(file)
		}
		if err != nil {
			return nil, fmt.Errorf("limit %q: %w", pattern, err)
		}
		all = append(all, lines...)
	}
	hosts, err := inv.pick(all)
	if err != nil {
		return nil, fmt.Errorf("limit %q: %w", pattern, err)
	}
	if len(hosts) == 0 {
		return nil, fmt.Errorf("limit %q: no host is left", pattern)
	}
	return hosts, nil
}

// Named returns the hosts of these very names, in the order in which Ansible has
// all hosts; those that are not in the inventory it returns as missing.
func (inv *Inventory) Named(names []string) (hosts []*Host, missing []string) {
	wanted := make(map[*Host]bool)
	for _, name := range names {
		if h := inv.byName[name]; h != nil {
			wanted[h] = true
		} else {
			missing = append(missing, name)
		}
	}
	for _, h := range inv.groupBy[all].Hosts {
		if wanted[h] {
			hosts = append(hosts, h)
		}
	}
	return hosts, missing
}

// part is one pattern of several, and where it stands in a file, if in one.
type part struct {
	text string
	at   *strict.Value
}

func (p part) located(err error) error {
	if p.at == nil {
		return err
	}
	return p.at.Locate(err)
}

// readLimit reads the patterns in a file, one a line.
func readLimit(file string) ([]part, error) {
	if file == "" {
		return nil, errors.New("@ stands before the name of a file")
	}
	data, err := strict.ReadText(file)
	if err != nil {
		return nil, err
	}
	var parts []part
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		at := strict.NewValue(file, number, 1)
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#': // Ansible takes # for a host's name, which none has
			continue
		case !utf8.ValidString(line):
			return nil, at.Errorf("not UTF-8 text")
		case line[0] == '@':
			return nil, at.Errorf("%q: a file of patterns names no other", line)
		case number > maxHosts:
			return nil, at.Errorf("more than %d lines", maxHosts)
		}
		parts = append(parts, part{line, at})
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("%s: no host stands in it", file)
	}
	return parts, nil
}

// splitPattern takes a pattern apart, at commas or else at colons that are not in
// brackets and do not belong to an address or a port
// (ansible/inventory/manager.py: split_host_pattern).
func splitPattern(pattern string) ([]string, error) {
	var parts []string
	switch {
	case strings.Contains(pattern, ","):
		for text := range strings.SplitSeq(pattern, ",") {
			text = strings.TrimSpace(text)
			if text == "" {
				return nil, errors.New("nothing stands before or after a comma")
			}
			parts = append(parts, text)
		}
		return parts, nil
	case isHostPattern(pattern), isAddress(strings.TrimLeft(pattern, "!&")):
		return []string{strings.TrimSpace(pattern)}, nil
	}
	parts = patternParts.FindAllString(pattern, -1)
	// What stands between them is passed over by Ansible, and would be lost.
	if rest := patternParts.ReplaceAllString(pattern, ""); strings.ContainsAny(rest, "[]") {
		return nil, errors.New("a bracket without its other one")
	} else if len(parts) == 0 {
		return nil, errors.New("no pattern is in it")
	}
	return parts, nil
}

var (
	patternParts = regexp.MustCompile(`(?:[^\s:\[\]]|\[[^\]]*\])+`)
	hostPort     = regexp.MustCompile(`^((?:[^:\[\]]|\[[^\]]*\])*):([0-9]+)$`)

	hostRange = `\[(?:[a-z]:[a-z]|[0-9]+:[0-9]+)(?::[0-9]+)?\]`
	hostLabel = `(?:[\pL\pN_]|` + hostRange + `)(?:[\pL\pN_-]|` + hostRange + `)*`
	// It is large, and most commands need none.
	hostName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`(?i)^` + hostLabel + `(?:\.` + hostLabel + `)*$`)
	})
)

// isHostPattern reports a host name with ranges and a port, in which colons
// separate nothing (ansible/parsing/utils/addresses.py: parse_address).
func isHostPattern(pattern string) bool {
	if m := hostPort.FindStringSubmatch(pattern); m != nil && !isAddress(pattern) {
		pattern = m[1]
	}
	if isAddress(pattern) {
		return true
	}
	return hostName().MatchString(pattern) &&
		!slices.ContainsFunc(strings.Split(pattern, "."), func(label string) bool {
			return strings.HasSuffix(label, "-") || strings.HasSuffix(label, "_")
		})
}

// pick evaluates patterns: first those that add hosts, all if there are none, then
// those with &, then those with ! (ansible/inventory/manager.py: order_patterns,
// _evaluate_patterns).
func (inv *Inventory) pick(parts []part) ([]*Host, error) {
	var add, keep, drop []part
	for _, p := range parts {
		switch p.text[0] {
		case '!':
			drop = append(drop, p)
		case '&':
			keep = append(keep, p)
		default:
			add = append(add, p)
		}
	}
	if len(add) == 0 {
		add = []part{{text: all}}
	}
	var hosts []*Host
	picked := make(map[*Host]bool)
	for _, p := range add {
		some, err := inv.match(p.text)
		if h := inv.byName[p.text]; h != nil { // before a group of that name
			some, err = []*Host{h}, nil
		}
		if err != nil {
			return nil, p.located(err)
		}
		for _, h := range some {
			if !picked[h] {
				picked[h] = true
				hosts = append(hosts, h)
			}
		}
	}
	for _, p := range slices.Concat(keep, drop) {
		if len(p.text) == 1 {
			return nil, p.located(fmt.Errorf("%q: nothing stands behind it", p.text))
		}
		some, err := inv.match(p.text[1:])
		if err != nil {
			return nil, p.located(err)
		}
		in := make(map[*Host]bool)
		for _, h := range some {
			in[h] = true
		}
		hosts = slices.DeleteFunc(hosts, func(h *Host) bool { return in[h] == (p.text[0] == '!') })
	}
	return hosts, nil
}

var subscript = regexp.MustCompile(`^(.+)\[(?:(-?[0-9]+)|([0-9]+)[:-]([0-9]*))\]$`)

// match returns the hosts of one pattern without ! or &, some perhaps twice
// (ansible/inventory/manager.py: _match_one_pattern).
func (inv *Inventory) match(pattern string) ([]*Host, error) {
	m := subscript.FindStringSubmatch(pattern)
	if m == nil || pattern[0] == '~' {
		return inv.enumerate(pattern)
	}
	hosts, err := inv.enumerate(m[1])
	if err != nil {
		return nil, err
	}
	none := fmt.Errorf("%q: %s names %d %s, numbered from 0", pattern, m[1], len(hosts), hostNoun(len(hosts)))
	index := func(text string) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil {
			return 0, none
		}
		return n, nil
	}
	if m[2] != "" {
		n, err := index(m[2])
		if err != nil {
			return nil, err
		}
		if n < 0 {
			n += len(hosts)
		}
		if n < 0 || n >= len(hosts) {
			return nil, none
		}
		return hosts[n : n+1], nil
	}
	first, err := index(m[3])
	if err != nil {
		return nil, err
	}
	last := len(hosts) - 1
	if m[4] != "" {
		if last, err = index(m[4]); err != nil {
			return nil, err
		}
		if last == 0 { // as Ansible has it: [a:0] is [a]
			last = first
		}
	}
	if last = min(last, len(hosts)-1); first > last {
		return nil, none
	}
	return hosts[first : last+1], nil
}

func hostNoun(n int) string {
	if n == 1 {
		return "host"
	}
	return "hosts"
}

// enumerate returns the hosts of all groups that match, and those that match
// themselves, unless a plain name is a group's.
func (inv *Inventory) enumerate(pattern string) ([]*Host, error) {
	matches, err := matcher(pattern)
	if err != nil {
		return nil, err
	}
	var hosts []*Host
	group := ""
	for _, g := range inv.groups {
		if matches(g.Name) {
			group = g.Name
			hosts = append(hosts, g.Hosts...)
		}
	}
	if group == "" || pattern[0] == '~' || strings.ContainsAny(pattern, ".?*[") {
		for _, h := range inv.hosts {
			if matches(h.Name) {
				hosts = append(hosts, h)
			}
		}
	}
	switch {
	case len(hosts) > 0:
		return hosts, nil
	case group == pattern:
		return nil, fmt.Errorf("no host is in group %s", group)
	case pattern[0] == '~' || strings.ContainsAny(pattern, "*?["):
		return nil, fmt.Errorf("no host or group matches %q", pattern)
	}
	names := make([]string, 0, len(inv.groups)+len(inv.hosts))
	for _, h := range inv.hosts {
		names = append(names, h.Name)
	}
	for _, g := range inv.groups {
		names = append(names, g.Name)
	}
	if near := strict.Nearest(pattern, names); near != "" {
		return nil, fmt.Errorf("no host or group is named %q (did you mean %q?)", pattern, near)
	}
	return nil, fmt.Errorf("no host or group is named %q", pattern)
}

// matcher returns what tells the names that a pattern matches: all of a name for
// a glob, its beginning for a regular expression.
func matcher(pattern string) (func(name string) bool, error) {
	text, ok := strings.CutPrefix(pattern, "~")
	if !ok {
		if !strings.ContainsAny(pattern, "*?[") {
			return func(name string) bool { return name == pattern }, nil
		}
		text = fromGlob(pattern)
	}
	re, err := regexp.Compile(`^(?:` + text + `)`)
	if err != nil {
		if ok {
			return nil, fmt.Errorf("%q is no regular expression (Go's, which has no look-around and no back references): %w", pattern, err)
		}
		return nil, fmt.Errorf("%q: %w", pattern, err)
	}
	return re.MatchString, nil
}

// fromGlob is Python's fnmatch.translate.
func fromGlob(glob string) string {
	var b strings.Builder
	b.WriteString(`(?s)`)
	for i := 0; i < len(glob); {
		switch c := glob[i]; c {
		case '*':
			b.WriteString(`.*`)
		case '?':
			b.WriteString(`.`)
		case '[':
			end := i + 1
			if end < len(glob) && glob[end] == '!' {
				end++
			}
			if end < len(glob) && glob[end] == ']' {
				end++
			}
			for end < len(glob) && glob[end] != ']' {
				end++
			}
			if end >= len(glob) {
				b.WriteString(`\[`)
				break
			}
			set := strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(glob[i+1 : end])
			if not, ok := strings.CutPrefix(set, "!"); ok {
				set = "^" + not
			}
			b.WriteString(`[` + set + `]`)
			i = end
		default:
			r, n := utf8.DecodeRuneInString(glob[i:])
			b.WriteString(regexp.QuoteMeta(string(r)))
			i += n - 1
		}
		i++
	}
	return b.String() + `$`
}
