package playbooks

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
)

// Extra are variables from the command line. They win over all others.
type Extra struct {
	Values map[string]any

	origins map[string]*strict.Value
}

// Origin is where a variable was given, nil if it was not.
func (x *Extra) Origin(name string) *strict.Value { return x.origins[name] }

// ParseExtra reads the arguments of -e: NAME=VALUE, @FILE, or a mapping in YAML
// or JSON. A later one wins.
func ParseExtra(args []string) (*Extra, error) {
	x := &Extra{Values: map[string]any{}, origins: map[string]*strict.Value{}}
	for _, arg := range args {
		var root *strict.Value
		var err error
		name, value, pair := strings.Cut(arg, "=")
		switch {
		case strings.HasPrefix(arg, "@"):
			root, err = strict.ReadFile(arg[1:])
		case strings.HasPrefix(strings.TrimSpace(arg), "{"):
			root, err = strict.Parse("-e", []byte(arg))
		case pair && name != "" && !strings.ContainsAny(name, " {}:"):
			v, err := strict.Parse("-e "+name, []byte(value))
			if err != nil {
				return nil, err
			}
			x.Values[name], x.origins[name] = v.Plain(), v
			continue
		default:
			return nil, fmt.Errorf("-e %q: it takes name=value, @file.yaml, or '{name: value}'", arg)
		}
		var unread *fs.PathError
		switch {
		case errors.As(err, &unread):
			return nil, fmt.Errorf("-e @%s: %w", unread.Path, unread.Err)
		case err != nil:
			return nil, err
		}
		if root.Kind != strict.Map {
			return nil, root.Wanted("a map of variables")
		}
		for _, e := range root.Entries() {
			x.Values[e.Key.Text], x.origins[e.Key.Text] = e.Value.Plain(), e.Value
		}
	}
	return x, nil
}

// Over merges x over the variables that a run was begun with.
func (x *Extra) Over(before map[string]any) *Extra {
	merged := &Extra{Values: map[string]any{}, origins: x.origins}
	for name, value := range before {
		// They come from a record in JSON, where every number is a fraction.
		if whole, err := clean(value); err == nil {
			value = whole
		}
		merged.Values[name] = value
	}
	maps.Copy(merged.Values, x.Values)
	return merged
}

// Kept are the variables for a run's record: all but those that only stages
// with no_log read. A resume that resolves the playbook again is given them anew.
func (x *Extra) Kept(pb *Playbook) map[string]any {
	open, used := pb.used(func(e entry) bool { return !e.hidden() }), pb.Used()
	kept := maps.Clone(x.Values)
	maps.DeleteFunc(kept, func(name string, _ any) bool { return slices.Contains(used, name) && !slices.Contains(open, name) })
	return kept
}

// hidden says that the file has no_log for a stage, or may have.
func (e entry) hidden() bool {
	v := e.args.Get("no_log")
	return v != nil && v.Text != "false" && v.Plain() != false
}

// Unused lists the variables that nothing in the playbook reads.
func (x *Extra) Unused(pb *Playbook) []string {
	used := pb.Used()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(x.Values)) {
		if !slices.Contains(used, name) {
			names = append(names, name)
		}
	}
	return names
}
