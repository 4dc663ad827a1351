package inventory

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"spoolsweep/playbooks/strict"
)

// reference is the one kind of template that is understood here.
var reference = regexp.MustCompile(`\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}`)

// scope resolves the references in one host's variables to others of them.
type scope struct {
	b     *builder
	h     *Host
	vault *vault
	way   []string // the variables that are being resolved, the outermost first
	done  map[string]*strict.Value
}

// isPlain reports that nothing in v is a template or encrypted.
func (b *builder) isPlain(v *strict.Value) bool {
	plain, ok := b.plain[v]
	if ok {
		return plain
	}
	switch v.Kind {
	case strict.String:
		return v.Unsafe || !hasTemplate(v.Text)
	case strict.List:
		plain = !slices.ContainsFunc(v.Items(), func(item *strict.Value) bool { return !b.isPlain(item) })
	case strict.Map:
		plain = v.Get(strict.Vaulted) == nil &&
			!slices.ContainsFunc(v.Entries(), func(e strict.Entry) bool { return !b.isPlain(e.Value) })
	default:
		return true
	}
	b.plain[v] = plain
	return plain
}

func hasTemplate(text string) bool {
	return strings.Contains(text, "{{") || strings.Contains(text, "{%") || strings.Contains(text, "{#")
}

// variable returns what a variable is when everything in it is resolved.
func (s *scope) variable(name string, at *strict.Value) (*strict.Value, error) {
	if v := s.done[name]; v != nil {
		return v, nil
	}
	if i := slices.Index(s.way, name); i >= 0 {
		return nil, at.Errorf("a variable that refers to itself: %s > %s", strings.Join(s.way[i:], " > "), name)
	}
	raw := s.h.raw[name]
	switch {
	case name == "inventory_hostname":
		return at.With(s.h.Name), nil
	case name == "inventory_hostname_short":
		short, _, _ := strings.Cut(s.h.Name, ".")
		return at.With(short), nil
	case raw == nil:
		names := []string{"inventory_hostname", "inventory_hostname_short"}
		for name := range s.h.raw {
			names = append(names, name)
		}
		slices.Sort(names)
		e := at.Errorf("{{ %s }}: nothing sets this variable for host %s", name, s.h.Name)
		if near := strict.Nearest(name, names); near != "" {
			return nil, e.WithHint("did you mean %q?", near)
		}
		return nil, e
	}
	s.way = append(s.way, name)
	v, err := s.value(raw)
	s.way = s.way[:len(s.way)-1]
	if err != nil {
		return nil, err
	}
	s.done[name] = v
	return v, nil
}

// value is v with everything in it resolved.
func (s *scope) value(v *strict.Value) (*strict.Value, error) {
	switch {
	case s.b.isPlain(v):
		return v, nil
	case v.Kind == strict.String:
		return s.text(v)
	case v.Kind == strict.List:
		var items []*strict.Value
		for _, item := range v.Items() {
			item, err := s.value(item)
			if err != nil {
				return nil, err
			}
			items = append(items, item)
		}
		return v.WithItems(items...), nil
	}
	if sealed := v.Get(strict.Vaulted); sealed != nil {
		text, err := s.vault.decrypt(sealed.Text)
		if err != nil {
			return nil, v.Locate(err)
		}
		return v.With(text), nil
	}
	var entries []strict.Entry
	for _, e := range v.Entries() {
		value, err := s.value(e.Value)
		if err != nil {
			return nil, err
		}
		entries = append(entries, strict.Entry{Key: e.Key, Value: value})
	}
	return v.WithEntries(entries...), nil
}

// text resolves the references in a text. What is one reference and nothing else
// keeps the type of what it refers to, as in Ansible.
func (s *scope) text(v *strict.Value) (*strict.Value, error) {
	found := reference.FindAllStringSubmatchIndex(v.Text, -1)
	rest := reference.ReplaceAllString(v.Text, "")
	if len(found) == 0 || hasTemplate(rest) {
		return nil, v.Errorf("only references such as {{ name }} are evaluated in an inventory, not %s", strconv.Quote(shorten(v.Text))).
			WithHint("write the value itself, or a variable that holds it")
	}
	if m := found[0]; len(found) == 1 && strings.TrimSpace(rest) == "" && m[0] == 0 && m[1] == len(v.Text) {
		of, err := s.variable(v.Text[m[2]:m[3]], v)
		if err != nil {
			return nil, err
		}
		return v.With(of.Plain()), nil
	}
	var b strings.Builder
	last := 0
	for _, m := range found {
		name := v.Text[m[2]:m[3]]
		of, err := s.variable(name, v)
		if err != nil {
			return nil, err
		}
		text, ok := asText(of)
		if !ok {
			return nil, v.Errorf("{{ %s }} is a list or a map, and stands inside of a text", name)
		}
		b.WriteString(v.Text[last:m[0]] + text)
		last = m[1]
		if b.Len() > strict.MaxSize {
			return nil, v.Errorf("with its references it is larger than %d MiB", strict.MaxSize>>20)
		}
	}
	b.WriteString(v.Text[last:])
	return v.With(b.String()), nil
}

func shorten(text string) string {
	if r := []rune(text); len(r) > 60 {
		return string(r[:60]) + "..."
	}
	return text
}

// asText is a scalar as Python prints it into a text.
func asText(v *strict.Value) (string, bool) {
	switch p := v.Plain().(type) {
	case nil:
		return "None", true
	case bool:
		if p {
			return "True", true
		}
		return "False", true
	case int64:
		return strconv.FormatInt(p, 10), true
	case float64:
		text := strconv.FormatFloat(p, 'g', -1, 64)
		if !strings.ContainsAny(text, ".e") {
			text += ".0"
		}
		return text, true
	case string:
		return p, true
	}
	return "", false
}

// inVariable says in which variable an error is.
func inVariable(name string, err error) error {
	if e := new(strict.Error); errors.As(err, &e) {
		return e.In(name)
	}
	return err
}
