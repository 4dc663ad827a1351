package playbooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"spoolsweep/playbooks/strict"
)

// resolver replaces templates by values. What a variable holds is data: it is
// never read as a template again.
type resolver struct{ vars map[string]variable }

// variable is a value, and where it was set: nil if in no file.
type variable struct {
	plain any
	at    *strict.Value
}

func (pb *Playbook) resolver(host *HostVars, extra *Extra) *resolver {
	r := &resolver{vars: map[string]variable{}}
	if pb.vars != nil {
		for _, e := range pb.vars.Entries() {
			r.vars[e.Key.Text] = variable{e.Value.Plain(), e.Value}
		}
	}
	if host != nil {
		for name, value := range host.Values {
			var at *strict.Value
			if host.Origin != nil {
				at = host.Origin(name)
			}
			// A known variable that nothing set is empty, and hides nothing.
			if _, has := r.vars[name]; !has || at != nil {
				r.vars[name] = variable{value, at}
			}
		}
	}
	if extra != nil {
		for name, value := range extra.Values {
			r.vars[name] = variable{value, extra.Origin(name)}
		}
	}
	return r
}

// value is v with its templates resolved. What was a variable stands where that
// was set, so that a mistake in it is told there.
func (r *resolver) value(v *strict.Value) (*strict.Value, error) {
	return v.Rewrite(func(v *strict.Value) (*strict.Value, error) {
		if !isTemplate(v) {
			return v, nil
		}
		return r.template(v)
	})
}

func isTemplate(v *strict.Value) bool {
	return v.Kind == strict.String && strings.Contains(v.Text, "{{")
}

var functions = template.FuncMap{
	"default": func(fallback, v any) any {
		if v == nil || v == "" {
			return fallback
		}
		return v
	},
	"join": func(sep string, list any) (string, error) {
		l := reflect.ValueOf(list)
		if l.Kind() != reflect.Slice {
			return "", fmt.Errorf("join wants a list, not %v", list)
		}
		words := make([]string, l.Len())
		for i := range words {
			words[i] = fmt.Sprint(l.Index(i))
		}
		return strings.Join(words, sep), nil
	},
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"json": func(v any) (string, error) {
		text, err := json.Marshal(v)
		return string(text), err
	},
	"raw":     func(v any) unquoted { return unquoted{v} },
	"keep":    func(any) string { return "" }, // these two are used by us alone
	quoteName: quote,
}

// parserPrefix is what text/template puts before its messages: a name, which is
// empty here, and the line in the text.
var parserPrefix = regexp.MustCompile(`^template: :\d+(:\d+)?: `)

func compile(v *strict.Value) (*template.Template, error) {
	t, err := template.New("").Option("missingkey=error").Funcs(functions).Parse(v.Text)
	if err != nil {
		return nil, v.Errorf("template: %s", parserPrefix.ReplaceAllString(err.Error(), ""))
	}
	return t, nil
}

// template resolves one text. One that is a single template keeps the type of
// its value.
func (r *resolver) template(v *strict.Value) (*strict.Value, error) {
	t, err := compile(v)
	if err != nil {
		return nil, err
	}
	values, err := r.read(v, t.Root)
	if err != nil {
		return nil, err
	}
	action := only(t.Root)
	if action == nil {
		var text strings.Builder
		if err := t.Execute(&text, values); err != nil {
			return nil, v.Errorf("template: %v", cause(err))
		}
		return v.With(text.String()), nil
	}
	if name := single(action); name != "" {
		return r.vars[name].in(v)
	}
	var kept any
	t.Funcs(template.FuncMap{"keep": func(v any) string { kept = v; return "" }})
	keep := &parse.CommandNode{NodeType: parse.NodeCommand, Args: []parse.Node{parse.NewIdentifier("keep").SetTree(t.Tree)}}
	action.Pipe.Cmds = append(action.Pipe.Cmds, keep)
	if err := t.Execute(new(strings.Builder), values); err != nil {
		return nil, v.Errorf("template: %v", cause(err))
	}
	return variable{plain: kept}.in(v)
}

// read are the values of the variables that the template v reads.
func (r *resolver) read(v *strict.Value, root *parse.ListNode) (map[string]any, error) {
	values := map[string]any{}
	for _, u := range uses(root) {
		x, known := r.vars[u.name]
		if !known {
			err := v.Errorf("no variable %q", u.name)
			if near := strict.Nearest(u.name, slices.Sorted(maps.Keys(r.vars))); near != "" {
				return nil, err.WithHint("did you mean %q?", near)
			}
			return nil, err.WithHint("give it: -e %s=...", u.name)
		}
		if x.plain == nil && !u.nullable {
			return nil, v.Errorf("the variable %q has no value", u.name).WithHint("give it: -e %s=...", u.name)
		}
		values[u.name] = x.plain
	}
	return values, nil
}

// in is the variable's value, for the template v that it replaces.
func (x variable) in(v *strict.Value) (*strict.Value, error) {
	if u, ok := x.plain.(unquoted); ok { // nothing quotes here
		x.plain = u.value
	}
	plain, err := clean(x.plain)
	if err != nil {
		return nil, v.Errorf("template: %v", err)
	}
	switch {
	case x.at == nil:
		return v.With(plain), nil
	case reflect.DeepEqual(x.at.Plain(), plain):
		return x.at, nil
	}
	return x.at.With(plain), nil
}

// clean gives a value the types of strict.Value.Plain. Whole numbers that went
// through JSON are whole numbers again.
func clean(v any) (any, error) {
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Invalid:
		return nil, nil
	case reflect.Bool:
		return r.Bool(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return r.Int(), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return int64(r.Uint()), nil
	case reflect.Float32, reflect.Float64:
		if f := r.Float(); f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			return int64(f), nil
		}
		return r.Float(), nil
	case reflect.String:
		return r.String(), nil
	case reflect.Slice:
		list := make([]any, r.Len())
		for i := range list {
			item, err := clean(r.Index(i).Interface())
			if err != nil {
				return nil, err
			}
			list[i] = item
		}
		return list, nil
	case reflect.Map:
		if r.Type().Key().Kind() != reflect.String {
			break
		}
		m := make(map[string]any, r.Len())
		for _, key := range r.MapKeys() {
			item, err := clean(r.MapIndex(key).Interface())
			if err != nil {
				return nil, err
			}
			m[key.String()] = item
		}
		return m, nil
	}
	return nil, fmt.Errorf("it gives a %T, which is no value of a playbook", v)
}

func cause(err error) error {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err
}

// only is the one action that a template consists of, if it does.
func only(root *parse.ListNode) *parse.ActionNode {
	if len(root.Nodes) != 1 {
		return nil
	}
	action, ok := root.Nodes[0].(*parse.ActionNode)
	if !ok || len(action.Pipe.Decl) > 0 {
		return nil
	}
	return action
}

// single is the variable that an action is, if it is nothing else.
func single(a *parse.ActionNode) string {
	if len(a.Pipe.Cmds) != 1 || len(a.Pipe.Cmds[0].Args) != 1 {
		return ""
	}
	if f, ok := a.Pipe.Cmds[0].Args[0].(*parse.FieldNode); ok && len(f.Ident) == 1 {
		return f.Ident[0]
	}
	return ""
}

// use is a variable that a template reads.
type use struct {
	name     string
	nullable bool // it is tested, or has a default
}

// uses lists the variables that a template reads. In range and with the dot is
// something else, and variables are reached by $ alone.
func uses(root *parse.ListNode) []use {
	var found []use
	var walk func(n parse.Node, dot, nullable bool)
	list := func(l *parse.ListNode, dot bool) {
		if l != nil {
			for _, n := range l.Nodes {
				walk(n, dot, false)
			}
		}
	}
	branch := func(b *parse.BranchNode, dot, inside bool) {
		walk(b.Pipe, dot, true)
		list(b.List, inside)
		list(b.ElseList, dot)
	}
	walk = func(n parse.Node, dot, nullable bool) {
		switch n := n.(type) {
		case *parse.ActionNode:
			walk(n.Pipe, dot, false)
		case *parse.PipeNode:
			for _, c := range n.Cmds {
				if id, ok := c.Args[0].(*parse.IdentifierNode); ok && id.Ident == "default" {
					nullable = true
				}
			}
			for _, c := range n.Cmds {
				for _, a := range c.Args {
					walk(a, dot, nullable)
				}
			}
		case *parse.ChainNode:
			walk(n.Node, dot, nullable)
		case *parse.IfNode:
			branch(&n.BranchNode, dot, dot)
		case *parse.RangeNode:
			branch(&n.BranchNode, dot, false)
		case *parse.WithNode:
			branch(&n.BranchNode, dot, false)
		case *parse.FieldNode:
			if dot {
				found = append(found, use{n.Ident[0], nullable})
			}
		case *parse.VariableNode:
			if n.Ident[0] == "$" && len(n.Ident) > 1 {
				found = append(found, use{n.Ident[1], nullable})
			}
		}
	}
	list(root, true)
	return found
}

// eachTemplate calls fn for every template of the playbook, of its stages only
// in those that take accepts.
func (pb *Playbook) eachTemplate(take func(entry) bool, fn func(v *strict.Value) error) error {
	look := func(v *strict.Value) (*strict.Value, error) {
		if isTemplate(v) {
			return v, fn(v)
		}
		return v, nil
	}
	all := []*strict.Value{pb.hosts, pb.serial, pb.maxStopped, pb.maxFail}
	for _, s := range pb.stages {
		if take(s) {
			all = append(all, s.args)
		}
	}
	for _, v := range all {
		if v == nil {
			continue
		}
		if _, err := v.Rewrite(look); err != nil {
			return err
		}
	}
	return nil
}

func anyStage(entry) bool { return true }

// Used lists the variables that the playbook's templates read.
func (pb *Playbook) Used() []string { return pb.used(anyStage) }

func (pb *Playbook) used(take func(entry) bool) []string {
	names := map[string]bool{}
	_ = pb.eachTemplate(take, func(v *strict.Value) error {
		t, err := compile(v)
		if err != nil {
			return err // there is none: Parse has compiled them all
		}
		for _, u := range uses(t.Root) {
			names[u.name] = true
		}
		return nil
	})
	return slices.Sorted(maps.Keys(names))
}
