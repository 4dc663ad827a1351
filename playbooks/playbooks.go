// Package playbooks reads playbooks, the YAML lists of stages with variables,
// and resolves them into plans: for each host one, with every template
// replaced by its value. A mistake is told with file and line before any host
// is touched.
//
// Load finds a playbook; Playbook.Resolve makes a plan of it.
package playbooks

import (
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/stage"
)

//go:embed *.yaml
var shipped embed.FS

// Playbook is a playbook that was read: its stages exist and stand in an order
// that makes sense, its templates parse.
type Playbook struct {
	Title string // its name key
	Name  string // what it was loaded by
	Text  string // of the file

	hosts      *strict.Value
	maxStopped *strict.Value
	vars       *strict.Value
	stages     []entry
}

// entry is one stage as it stands in the file.
type entry struct {
	row  *stage.Row
	at   *strict.Value // the key
	args *strict.Value // may be a Null
	name string
}

// Shipped lists the playbooks that come with spoolsweep.
func Shipped() []string {
	files, _ := fs.Glob(shipped, "*.yaml") // a fixed pattern cannot be malformed
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".yaml")
	}
	return files
}

// Load reads the shipped playbook of that name, or else the file. A shipped
// name never means a file; one in the current folder must be the user's own.
func Load(name string) (*Playbook, error) {
	if slices.Contains(Shipped(), name) {
		text, err := shipped.ReadFile(name + ".yaml")
		if err != nil {
			return nil, err
		}
		return Parse(name, name+".yaml", text)
	}
	if !strings.ContainsRune(name, '/') {
		if err := strict.Trust(name); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no playbook %q: shipped are %s, and there is no such file", name, strings.Join(Shipped(), ", "))
		} else if err != nil {
			return nil, fmt.Errorf("playbook %s: %w", name, err)
		}
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("playbook: %w", err)
	}
	return Parse(name, path.Base(name), text)
}

var topKeys = []string{"name", "hosts", "max_stopped", "vars", "stages"}

// Parse reads the text of a playbook; file is its name in messages.
func Parse(name, file string, text []byte) (*Playbook, error) {
	root, err := strict.Parse(file, text)
	if err != nil {
		return nil, err
	}
	if root.Kind != strict.Map {
		return nil, root.Errorf("a playbook is a mapping with the keys %s", strings.Join(topKeys, ", "))
	}
	pb := &Playbook{Name: name, Text: string(text)}
	for _, e := range root.Entries() {
		switch e.Key.Text {
		case "name":
			err = strict.Decode(e.Value, &pb.Title)
		case "hosts":
			pb.hosts = e.Value
		case "max_stopped":
			pb.maxStopped = e.Value
		case "vars":
			if pb.vars = e.Value; pb.vars.Kind != strict.Map && pb.vars.Kind != strict.Null {
				err = e.Value.Errorf("vars is a mapping of names to values")
			}
		case "stages":
			err = pb.readStages(e.Value)
		default:
			err = unknown(e.Key, "key", topKeys)
		}
		if err != nil {
			return nil, err
		}
	}
	if len(pb.stages) == 0 {
		return nil, root.Errorf("the playbook has no stages")
	}
	names := make([]string, len(pb.stages))
	for i, s := range pb.stages {
		names[i] = s.row.Name
	}
	var wrong *stage.OrderError
	if err := stage.CheckOrder(names); errors.As(err, &wrong) {
		return nil, pb.stages[wrong.Index].at.Errorf("%s", wrong.Message)
	}
	return pb, nil
}

func unknown(key *strict.Value, what string, known []string) error {
	err := key.Errorf("unknown %s %q", what, key.Text)
	if near := strict.Nearest(key.Text, known); near != "" {
		return err.WithHint("did you mean %q?", near)
	}
	return err.WithHint("known: %s", strings.Join(known, ", "))
}

func (pb *Playbook) readStages(list *strict.Value) error {
	if list.Kind != strict.List {
		return list.Errorf("stages is a list, each a stage's name and a colon")
	}
	for _, item := range list.Items() {
		entries := item.Entries()
		if item.Kind != strict.Map || len(entries) != 1 {
			return item.Errorf("a stage is its name and a colon, then its arguments").WithHint("- count:")
		}
		key, args := entries[0].Key, entries[0].Value
		row, ok := stage.Find(key.Text)
		if !ok {
			return unknown(key, "stage", stage.Names())
		}
		if args.Kind != strict.Map && args.Kind != strict.Null {
			return args.Errorf("the arguments of %s are a mapping", row.Name)
		}
		e := entry{row: row, at: key, args: args}
		for _, a := range args.Entries() {
			switch {
			case a.Key.Text == "name":
				if err := strict.Decode(a.Value, &e.name); err != nil {
					return err
				}
			case !slices.Contains(row.Keys(), a.Key.Text):
				return unknown(a.Key, "argument of "+row.Name, append(row.Keys(), "name"))
			}
		}
		pb.stages = append(pb.stages, e)
	}
	return nil
}

// Plan is a playbook resolved for one host.
type Plan struct {
	Steps      []stage.Step
	MaxStopped int // hosts whose Postfix may be down at the same moment; 0: any number
}

// Hosts is the pattern of hosts that the playbook is for.
func (pb *Playbook) Hosts(extra *Extra) (string, error) {
	if pb.hosts == nil {
		return "all", nil
	}
	r := pb.resolver(nil, extra)
	plain, err := r.value(pb.hosts)
	if err != nil {
		return "", err
	}
	switch v := plain.(type) {
	case string:
		return v, nil
	case []any:
		var names []string
		for _, n := range v {
			names = append(names, fmt.Sprint(n))
		}
		return strings.Join(names, ","), nil
	}
	return "", pb.hosts.Errorf("hosts is a pattern, not a %T", plain)
}

// HostVars are the variables of one host: the inventory's.
type HostVars struct {
	Values map[string]any
	Origin func(name string) *strict.Value // where one was set, nil if nowhere
}

// Resolve makes the plan for one host. A later one of these wins: the
// playbook's vars, the host's, extra. Its errors have the line of the playbook,
// or of the file that the value came from.
func (pb *Playbook) Resolve(host *HostVars, extra *Extra) (*Plan, error) {
	r := pb.resolver(host, extra)
	plan := new(Plan)
	if pb.maxStopped != nil {
		n, err := r.value(pb.maxStopped)
		if err != nil {
			return nil, err
		}
		v, ok := n.(int64)
		if !ok || v < 0 {
			return nil, pb.maxStopped.Errorf("max_stopped is a number of hosts, not %v", n)
		}
		plan.MaxStopped = int(v)
	}
	for _, s := range pb.stages {
		args := map[string]json.RawMessage{}
		for _, a := range s.args.Entries() {
			if a.Key.Text == "name" {
				continue
			}
			plain, err := r.value(a.Value)
			if err != nil {
				return nil, err
			}
			text, err := json.Marshal(plain)
			if err != nil {
				return nil, a.Value.Errorf("%s: %v", a.Key.Text, err)
			}
			args[a.Key.Text] = text
			one, err := json.Marshal(map[string]json.RawMessage{a.Key.Text: text})
			if err != nil {
				return nil, err
			}
			if _, err := s.row.Parse(one); err != nil {
				return nil, r.locate(a.Key.Text, a.Value, err)
			}
		}
		text, err := json.Marshal(args)
		if err != nil {
			return nil, err
		}
		if _, err := s.row.Parse(text); err != nil {
			return nil, s.at.Locate(err)
		}
		plan.Steps = append(plan.Steps, stage.Step{Stage: s.row.Name, Name: s.name, Args: text})
	}
	return plan, nil
}

// locate gives an error about an argument its place: in the file that set the
// variable, where the argument is one.
func (r *resolver) locate(arg string, at *strict.Value, err error) error {
	name := r.single(at)
	if name != "" {
		if origin := r.origin(name); origin != nil {
			at = origin
		}
	}
	var bad *pattern.Error
	if errors.As(err, &bad) && len(bad.Path) > 0 && bad.Path[0] == arg {
		return inRule(at, bad)
	}
	return at.Locate(err)
}

// inRule gives a mistake in a rule its place below at, the variable's value.
func inRule(at *strict.Value, bad *pattern.Error) error {
	located := at.At(bad.Path[1:]...).Errorf("%s", bad.Message)
	if bad.Near != "" {
		return located.WithHint("did you mean %q?", bad.Near)
	}
	return located
}

// Locate gives a mistake in the rules of the variables spam and ham its place,
// where they came from -e.
func Locate(x *Extra, err error) error {
	var bad *pattern.Error
	if errors.As(err, &bad) && len(bad.Path) > 0 {
		if name, ok := bad.Path[0].(string); ok && x.Origin(name) != nil {
			return inRule(x.Origin(name), bad)
		}
	}
	return err
}
