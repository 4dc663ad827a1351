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
	serial     *strict.Value
	maxStopped *strict.Value
	maxFail    *strict.Value
	vars       *strict.Value
	stages     []entry
}

// entry is one stage as it stands in the file.
type entry struct {
	row  *stage.Row
	at   *strict.Value // the key
	args *strict.Value // may be a Null
}

// commonKeys are what every stage may have beside its arguments.
var commonKeys = []string{"name", "when", "timeout", "once", "no_log"}

// Shipped lists the playbooks that come with spoolsweep.
func Shipped() []string {
	files, _ := fs.Glob(shipped, "*.yaml") // a fixed pattern cannot be malformed
	for i := range files {
		files[i] = strings.TrimSuffix(files[i], ".yaml")
	}
	slices.Sort(files) // a prefix before what is longer
	return files
}

// Variables are the names of its own variables, in their order.
func (pb *Playbook) Variables() []string {
	var names []string
	if pb.vars != nil {
		for _, e := range pb.vars.Entries() {
			names = append(names, e.Key.Text)
		}
	}
	return names
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
			meant := ""
			if near := strict.Nearest(name, Shipped()); near != "" {
				meant = fmt.Sprintf(" (did you mean %q?)", near)
			}
			return nil, fmt.Errorf("no playbook %q%s: shipped are %s, and there is no such file", name, meant, strings.Join(Shipped(), ", "))
		} else if err != nil {
			return nil, fmt.Errorf("playbook %s is not used: %w (if it is the right one: ./%s)", name, err, name)
		}
	}
	text, err := strict.ReadText(name)
	if err != nil {
		return nil, fmt.Errorf("playbook: %w", err)
	}
	return Parse(name, name, text)
}

var topKeys = []string{"name", "hosts", "serial", "max_stopped", "max_fail", "vars", "stages"}

// Parse reads the text of a playbook; file is its name in messages.
func Parse(name, file string, text []byte) (*Playbook, error) {
	root, err := strict.Parse(file, text)
	if err != nil {
		return nil, err
	}
	if root.Kind != strict.Map {
		return nil, root.Wanted("a map with the keys " + strings.Join(topKeys, ", "))
	}
	pb := &Playbook{Name: name, Text: string(text)}
	for _, e := range root.Entries() {
		switch e.Key.Text {
		case "name":
			err = in("name", strict.Decode(e.Value, &pb.Title))
		case "hosts":
			pb.hosts = e.Value
		case "serial":
			pb.serial = e.Value
		case "max_stopped":
			pb.maxStopped = e.Value
		case "max_fail":
			pb.maxFail = e.Value
		case "vars":
			if pb.vars = e.Value; pb.vars.Kind != strict.Map && pb.vars.Kind != strict.Null {
				err = e.Value.Wanted("a map of names to values").In("vars")
			}
		case "stages":
			err = pb.readStages(e.Value)
		default:
			err = e.Key.Unknown("key", topKeys)
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
	err = pb.eachTemplate(anyStage, func(v *strict.Value) error {
		_, err := compile(v)
		return err
	})
	if err != nil {
		return nil, err
	}
	return pb, nil
}

func (pb *Playbook) readStages(list *strict.Value) error {
	if list.Kind != strict.List {
		return list.Wanted("a list, each a stage's name and a colon").In("stages")
	}
	for _, item := range list.Items() {
		entries := item.Entries()
		if item.Kind != strict.Map || len(entries) != 1 {
			return item.Errorf("a stage is its name and a colon, then its arguments").WithHint("- count:")
		}
		key, args := entries[0].Key, entries[0].Value
		row, ok := stage.Find(key.Text)
		if !ok {
			return key.Unknown("stage", stage.Names())
		}
		if args.Kind != strict.Map && args.Kind != strict.Null {
			return args.Wanted("a map of arguments").In(row.Name)
		}
		for _, a := range args.Entries() {
			if keys := append(row.Keys(), commonKeys...); !slices.Contains(keys, a.Key.Text) {
				return a.Key.Unknown("argument of "+row.Name, keys)
			}
		}
		for _, needed := range row.Needs {
			if args.Get(needed) == nil {
				return key.Errorf("%s: %s must be given", row.Name, needed)
			}
		}
		pb.stages = append(pb.stages, entry{row: row, at: key, args: args})
	}
	return nil
}

// Plan is a playbook resolved for one host.
type Plan struct {
	Steps      []stage.Step
	Serial     []Share // hosts at a time, one batch after the other; the last is that of all further ones
	MaxStopped int     // hosts whose Postfix may be down at the same moment; 0: any number
	MaxFail    Share   // hosts that may fail while changing: with one more no further host is begun
}

// Hosts is the pattern of hosts that the playbook is for.
func (pb *Playbook) Hosts(extra *Extra) (string, error) {
	if pb.hosts == nil {
		return "all", nil
	}
	v, err := pb.resolver(nil, extra).value(pb.hosts)
	if err != nil {
		return "", err
	}
	items := []*strict.Value{v}
	if v.Kind == strict.List {
		items = v.Items()
	}
	names := make([]string, len(items))
	for i, item := range items {
		if err := strict.Decode(item, &names[i]); err != nil {
			return "", in("hosts", err)
		}
		if names[i] == "" {
			return "", item.Errorf("hosts: a pattern is empty, which would be no host").WithHint("all")
		}
	}
	if len(names) == 0 {
		return "", v.Errorf("hosts: no pattern, which would be no host").WithHint("all")
	}
	return strings.Join(names, ","), nil
}

// InHosts gives a mistake in the pattern that Hosts returned its place.
func (pb *Playbook) InHosts(extra *Extra, mistake error) error {
	if pb.hosts == nil {
		return mistake
	}
	v, err := pb.resolver(nil, extra).value(pb.hosts)
	if err != nil {
		return err
	}
	return v.Errorf("hosts: %v", mistake)
}

// in names the key before a mistake in its value.
func in(key string, err error) error {
	var bad *strict.Error
	if errors.As(err, &bad) {
		return bad.In(key)
	}
	return err
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
		v, err := r.value(pb.maxStopped)
		if err != nil {
			return nil, err
		}
		var n stage.Number
		if err := strict.Decode(v, &n); err != nil {
			return nil, in("max_stopped", err)
		}
		plan.MaxStopped = int(n)
	}
	if pb.maxFail != nil {
		v, err := r.value(pb.maxFail)
		if err != nil {
			return nil, err
		}
		if err := strict.Decode(v, &plan.MaxFail); err != nil {
			return nil, in("max_fail", err)
		}
	}
	var err error
	if plan.Serial, err = r.serial(pb.serial); err != nil {
		return nil, err
	}
	for _, variable := range []string{accountVariable, SourceVariable} {
		if err := r.names(variable, pb.Used()); err != nil {
			return nil, err
		}
	}
	for _, e := range pb.stages {
		step, err := r.step(e)
		if err != nil {
			return nil, err
		}
		plan.Steps = append(plan.Steps, step)
	}
	var wrong *stage.OrderError
	if err := stage.CheckPlan(plan.Steps); errors.As(err, &wrong) {
		return nil, pb.stages[wrong.Index].at.Errorf("%s", wrong.Message)
	}
	return plan, nil
}

// Variables of who shall be disabled, and of what else sends and shall be stopped.
const (
	accountVariable = "account"
	SourceVariable  = "source"
)

// names refuses names that a command could take for something else, wherever the
// playbook uses such a variable.
func (r *resolver) names(variable string, used []string) error {
	x, ok := r.vars[variable]
	if !ok || x.plain == nil || !slices.Contains(used, variable) {
		return nil
	}
	text, err := json.Marshal(x.plain)
	if err != nil {
		return err
	}
	var names stage.Items
	err = names.UnmarshalJSON(text)
	for _, name := range names {
		err = errors.Join(err, stage.CheckAccount(name))
	}
	switch {
	case err == nil:
		return nil
	case x.at != nil:
		return x.at.Locate(err).In(variable)
	}
	return fmt.Errorf("%s: %w", variable, err)
}

func (r *resolver) step(e entry) (stage.Step, error) {
	step := stage.Step{Stage: e.row.Name}
	args := map[string]any{}
	raw, err := r.raw(e)
	if err != nil {
		return step, err
	}
	for _, a := range e.args.Entries() {
		key := a.Key.Text
		value := r.value
		if e.row.Shell(key) && !raw {
			value = r.line
		}
		v, err := value(a.Value)
		if err != nil {
			return step, err
		}
		if slices.Contains(commonKeys, key) {
			if err := common(&step, key, v); err != nil {
				return step, in(key, err)
			}
			continue
		}
		// Each by itself, so that a mistake has its own place.
		one := e.row.New()
		if err := strict.Decode(v, stage.Field(one, key)); err != nil {
			return step, in(key, err)
		}
		if err := one.Check(); err != nil {
			var bad *pattern.Error
			if errors.As(err, &bad) && len(bad.Path) > 0 && bad.Path[0] == key {
				return step, inRule(v, bad)
			}
			return step, v.Locate(err).In(key)
		}
		args[key] = v.Plain()
	}
	text, err := json.Marshal(args)
	if err != nil {
		return step, e.at.Locate(err)
	}
	if _, err := e.row.Parse(text); err != nil {
		return step, e.at.Locate(err)
	}
	step.Args = text
	return step, nil
}

// common takes one of the keys that every stage may have.
func common(step *stage.Step, key string, v *strict.Value) error {
	switch key {
	case "name":
		return strict.Decode(v, &step.Name)
	case "when":
		when, err := truth(v)
		step.Skip = !when
		return err
	case "timeout":
		if err := strict.Decode(v, &step.Timeout); err != nil {
			return err
		}
		if step.Timeout == 0 {
			return v.Errorf("a stage needs some time: leave it out for no limit").WithHint("such as 90s, 5m or 7d")
		}
		return nil
	case "once":
		once, err := truth(v)
		step.Once = once
		return err
	}
	hidden, err := truth(v)
	step.NoLog = hidden
	return err
}

// truth takes true or false, also as a text that a template made.
func truth(v *strict.Value) (bool, error) {
	switch v.Text {
	case "true", "false":
		return v.Text == "true", nil
	}
	var b bool
	return b, strict.Decode(v, &b)
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
