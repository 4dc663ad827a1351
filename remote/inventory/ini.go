package inventory

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"spoolsweep/playbooks/strict"
)

var (
	iniSection = regexp.MustCompile(`^\[([^:\]\s]+)(?::(\w+))?\]\s*(?:#.*)?$`)
	iniGroup   = regexp.MustCompile(`^([^:\]\s]+)\s*(?:#.*)?$`)
	iniStates  = []string{"hosts", "vars", "children"}
)

// pending is a group that a section mentions before one declares it.
type pending struct {
	at      *strict.Value
	vars    bool // by a section of variables
	parents []*group
}

// iniReader is one file on its way through ansible/plugins/inventory/ini.py,
// whose order of things is kept: a child is under its parent from the line on
// that declares it.
type iniReader struct {
	*builder
	pending map[string]*pending
	order   []string // of pending
}

// ini reads an inventory in the INI format. (relex/aini, which reads it too, has
// the groups and hosts in maps without an order, all values as texts, and no
// lines.)
func (b *builder) ini(path string, data []byte) error {
	if len(data) > strict.MaxSize {
		return strict.NewValue(path, 0, 0).Errorf("larger than %d MiB", strict.MaxSize>>20)
	}
	r := &iniReader{b, make(map[string]*pending), nil}
	g, state := b.groupBy[ungrouped], "hosts"
	number := 0
	for raw := range strings.Lines(string(data)) {
		number++
		line := strings.TrimSpace(raw)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		at := strict.NewValue(path, number, 1)
		if !utf8.ValidString(line) {
			return at.Errorf("not UTF-8 text")
		}
		if m := iniSection.FindStringSubmatch(line); m != nil {
			state = m[2]
			if state == "" {
				state = "hosts"
			}
			if !slices.Contains(iniStates, state) {
				return at.With(state).Unknown("kind of section", iniStates)
			}
			key := at.With(m[1])
			if err := checkGroupName(key); err != nil {
				return err
			}
			var err error
			if g, err = r.section(key, state == "vars"); err != nil {
				return err
			}
			continue
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") && !strings.Contains(line, ":") {
			return at.Errorf("not the head of a section: %s", line).WithHint("write [group], [group:vars] or [group:children], without spaces")
		}
		var err error
		switch state {
		case "hosts":
			err = r.host(g, at, line)
		case "vars":
			err = r.variable(g, at, line)
		case "children":
			err = r.child(g, at, line)
		}
		if err != nil {
			return err
		}
	}
	for _, name := range r.order {
		p := r.pending[name]
		switch {
		case p == nil:
		case p.vars:
			return p.at.Errorf("[%s:vars]: no group is named %q", name, name).WithHint("declare it: [%s]", name)
		default:
			return p.at.Errorf("child %q of [%s:children]: no group is named so", name, p.parents[len(p.parents)-1].name).WithHint("declare it: [%s]", name)
		}
	}
	return nil
}

func (r *iniReader) await(name string, p *pending) {
	r.pending[name] = p
	r.order = append(r.order, name)
}

// section is the group of a section's head, which from here on is declared.
func (r *iniReader) section(key *strict.Value, vars bool) (*group, error) {
	name := key.Text
	if r.groupBy[name] == nil && vars && r.pending[name] == nil {
		r.await(name, &pending{at: key, vars: true})
	}
	g := r.group(name, key)
	if p := r.pending[name]; p != nil && !vars {
		if p.vars {
			delete(r.pending, name)
		} else {
			r.declare(g)
		}
	}
	return g, nil
}

// declare puts a group under those that have waited for it, and each of these
// under its own if it is only pending itself.
func (r *iniReader) declare(g *group) {
	p := r.pending[g.name]
	delete(r.pending, g.name)
	for _, parent := range p.parents {
		parent.children = append(parent.children, edge{g, p.at})
		if up := r.pending[parent.name]; up != nil && !up.vars {
			r.declare(parent)
		}
	}
}

func (r *iniReader) child(g *group, at *strict.Value, line string) error {
	m := iniGroup.FindStringSubmatch(line)
	if m == nil {
		return at.Errorf("expected the name of a group, found %q", line)
	}
	key := at.With(m[1])
	if err := checkGroupName(key); err != nil {
		return err
	}
	if child := r.groupBy[m[1]]; child != nil {
		g.children = append(g.children, edge{child, key})
		return nil
	}
	if p := r.pending[m[1]]; p != nil {
		p.parents = append(p.parents, g)
	} else {
		r.await(m[1], &pending{at: key, parents: []*group{g}})
	}
	return nil
}

func (r *iniReader) variable(g *group, at *strict.Value, line string) error {
	name, value, ok := strings.Cut(line, "=")
	if !ok {
		e := at.Errorf("expected NAME=VALUE, found %q", shorten(line))
		if strings.Contains(line, ":") {
			return e.WithHint("with = in place of the colon")
		}
		return e
	}
	v, err := literal(at, strings.TrimSpace(value))
	if err != nil {
		return err
	}
	return r.addVars(g, at.WithEntries(strict.Entry{Key: at.With(strings.TrimSpace(name)), Value: v}))
}

func (r *iniReader) host(g *group, at *strict.Value, line string) error {
	words, err := shellWords(line)
	if err != nil {
		return at.Errorf("%s: %q", err, shorten(firstWord(line)))
	}
	if len(words) == 0 {
		return nil
	}
	key := at.With(words[0])
	var entries []strict.Entry
	for _, word := range words[1:] {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			return at.Errorf("host %s: expected NAME=VALUE, found %q", words[0], shorten(word)).
				WithHint("one host a line; a value with spaces stands in quotes")
		}
		v, err := literal(at, value)
		if err != nil {
			return err
		}
		entries = append(entries, strict.Entry{Key: at.With(name), Value: v})
	}
	own := block{}
	if len(entries) > 0 {
		if own, err = r.readBlock(at.WithEntries(entries...)); err != nil {
			return err
		}
	}
	_, err = r.addHosts(g, key, own)
	return err
}

// firstWord is what of a line can be repeated in a message: behind it a password
// may stand.
func firstWord(line string) string {
	word, _, _ := strings.Cut(line, " ")
	return word
}

// shellWords splits a line as Python's shlex.split does with comments: words in
// quotes, a backslash before a character, # wherever it is not quoted.
func shellWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	end := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		switch c := runes[i]; c {
		case ' ', '\t', '\r', '\n':
			end()
		case '#':
			end()
			return words, nil
		case '\\':
			if i++; i == len(runes) {
				return nil, errors.New("a backslash at the end")
			}
			word.WriteRune(runes[i])
			inWord = true
		case '\'', '"':
			inWord = true
			closed := false
			for i++; i < len(runes); i++ {
				if runes[i] == c {
					closed = true
					break
				}
				if c == '"' && runes[i] == '\\' && i+1 < len(runes) && (runes[i+1] == '"' || runes[i+1] == '\\') {
					i++
				}
				word.WriteRune(runes[i])
			}
			if !closed {
				return nil, errors.New("a quote that is not closed")
			}
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	end()
	return words, nil
}
