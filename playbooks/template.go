package playbooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"spoolsweep/playbooks/strict"
)

// resolver replaces templates by values. What a variable holds is data: it is
// never read as a template again.
type resolver struct {
	vars    map[string]any
	origins []func(string) *strict.Value // the strongest first
	used    map[string]bool
}

func (pb *Playbook) resolver(host *HostVars, extra *Extra) *resolver {
	r := &resolver{vars: map[string]any{}, used: map[string]bool{}}
	if pb.vars != nil {
		if plain, ok := pb.vars.Plain().(map[string]any); ok {
			maps.Copy(r.vars, plain)
		}
	}
	if host != nil {
		for name, value := range host.Values {
			// A known variable that nothing set is empty, and hides nothing.
			if _, has := r.vars[name]; !has || host.Origin != nil && host.Origin(name) != nil {
				r.vars[name] = value
			}
		}
	}
	if extra != nil {
		maps.Copy(r.vars, extra.Values)
		r.origins = append(r.origins, extra.Origin)
	}
	if host != nil && host.Origin != nil {
		r.origins = append(r.origins, host.Origin)
	}
	r.origins = append(r.origins, func(name string) *strict.Value {
		if pb.vars == nil {
			return nil
		}
		return pb.vars.Get(name)
	})
	return r
}

func (r *resolver) origin(name string) *strict.Value {
	for _, o := range r.origins {
		if v := o(name); v != nil {
			return v
		}
	}
	return nil
}

// value is the plain form of v with its templates resolved.
func (r *resolver) value(v *strict.Value) (any, error) {
	switch v.Kind {
	case strict.List:
		list := []any{}
		for _, item := range v.Items() {
			plain, err := r.value(item)
			if err != nil {
				return nil, err
			}
			list = append(list, plain)
		}
		return list, nil
	case strict.Map:
		m := map[string]any{}
		for _, e := range v.Entries() {
			plain, err := r.value(e.Value)
			if err != nil {
				return nil, err
			}
			m[e.Key.Text] = plain
		}
		return m, nil
	case strict.String:
		if strings.Contains(v.Text, "{{") {
			return r.template(v)
		}
	}
	return v.Plain(), nil
}

var functions = template.FuncMap{
	"default": func(fallback, v any) any {
		if v == nil || v == "" {
			return fallback
		}
		return v
	},
	"join": func(sep string, list []any) string {
		words := make([]string, len(list))
		for i, v := range list {
			words[i] = fmt.Sprint(v)
		}
		return strings.Join(words, sep)
	},
	"lower": strings.ToLower,
	"upper": strings.ToUpper,
	"json": func(v any) (string, error) {
		text, err := json.Marshal(v)
		return string(text), err
	},
	"keep": func(any) string { return "" }, // replaced where it is used
}

func compile(v *strict.Value) (*template.Template, error) {
	t, err := template.New("").Option("missingkey=error").Funcs(functions).Parse(v.Text)
	if err != nil {
		return nil, v.Errorf("template: %s", strings.TrimPrefix(err.Error(), "template: :1: "))
	}
	return t, nil
}

// template resolves one text. One that is a single template keeps the type of
// its value.
func (r *resolver) template(v *strict.Value) (any, error) {
	t, err := compile(v)
	if err != nil {
		return nil, err
	}
	whole := len(t.Root.Nodes) == 1
	for _, name := range fields(t.Root) {
		r.used[name] = true
		value, known := r.vars[name]
		if !known {
			err := v.Errorf("no variable %q", name)
			if near := strict.Nearest(name, slices.Collect(maps.Keys(r.vars))); near != "" {
				return nil, err.WithHint("did you mean %q?", near)
			}
			return nil, err.WithHint("give it: -e %s=...", name)
		}
		if value == nil && !strings.Contains(v.Text, "default") {
			return nil, v.Errorf("the variable %q has no value", name).WithHint("give it: -e %s=...", name)
		}
	}
	if !whole {
		var text strings.Builder
		if err := t.Execute(&text, r.vars); err != nil {
			return nil, v.Errorf("template: %v", cause(err))
		}
		return text.String(), nil
	}
	var kept any
	inner := strings.TrimSpace(v.Text)
	inner = strings.TrimSuffix(strings.TrimPrefix(inner, "{{"), "}}")
	inner = strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(inner), "- "), " -"))
	keep := template.FuncMap{"keep": func(v any) string { kept = v; return "" }}
	t, err = template.New("").Option("missingkey=error").Funcs(functions).Funcs(keep).Parse("{{keep (" + inner + ")}}")
	if err != nil {
		return nil, v.Errorf("template: %v", err)
	}
	if err := t.Execute(new(strings.Builder), r.vars); err != nil {
		return nil, v.Errorf("template: %v", cause(err))
	}
	return kept, nil
}

func cause(err error) error {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err
}

// single is the variable that v is, if it is nothing else.
func (r *resolver) single(v *strict.Value) string {
	if v.Kind != strict.String || !strings.Contains(v.Text, "{{") {
		return ""
	}
	t, err := compile(v)
	if err != nil || len(t.Root.Nodes) != 1 {
		return ""
	}
	if names := fields(t.Root); len(names) == 1 {
		return names[0]
	}
	return ""
}

// fields lists the variables that a template reads.
func fields(n parse.Node) []string {
	var names []string
	var walk func(n parse.Node)
	walkList := func(l *parse.ListNode) {
		if l != nil {
			for _, c := range l.Nodes {
				walk(c)
			}
		}
	}
	walkPipe := func(p *parse.PipeNode) {
		if p != nil {
			for _, c := range p.Cmds {
				for _, a := range c.Args {
					walk(a)
				}
			}
		}
	}
	walkBranch := func(b *parse.BranchNode) {
		walkPipe(b.Pipe)
		walkList(b.List)
		walkList(b.ElseList)
	}
	walk = func(n parse.Node) {
		switch n := n.(type) {
		case *parse.ListNode:
			walkList(n)
		case *parse.ActionNode:
			walkPipe(n.Pipe)
		case *parse.PipeNode:
			walkPipe(n)
		case *parse.IfNode:
			walkBranch(&n.BranchNode)
		case *parse.RangeNode:
			walkBranch(&n.BranchNode)
		case *parse.WithNode:
			walkBranch(&n.BranchNode)
		case *parse.FieldNode:
			names = append(names, n.Ident[0])
		}
	}
	walk(n)
	return names
}

// Used lists the variables that the playbook's templates read.
func (pb *Playbook) Used() []string {
	names := map[string]bool{}
	var look func(v *strict.Value)
	look = func(v *strict.Value) {
		if v == nil {
			return
		}
		if v.Kind == strict.String && strings.Contains(v.Text, "{{") {
			if t, err := compile(v); err == nil {
				for _, name := range fields(t.Root) {
					names[name] = true
				}
			}
		}
		for _, item := range v.Items() {
			look(item)
		}
		for _, e := range v.Entries() {
			look(e.Value)
		}
	}
	look(pb.hosts)
	look(pb.maxStopped)
	for _, s := range pb.stages {
		look(s.args)
	}
	return slices.Sorted(maps.Keys(names))
}
