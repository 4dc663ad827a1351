// Package strict reads a YAML file so that everything in it knows its line: a
// mistake is told as FILE:LINE with the nearest thing that would have been
// right. Playbooks and inventories are both read through it.
//
// Start with [Parse], which gives the one document of a file as a [Value], and
// [Decode], which fills a tagged struct from a Value and refuses every key the
// struct does not have. Scalars without quotes mean what they mean to Ansible
// (YAML 1.1: yes is true, 0777 is octal, 12:30:45 is a number), so that a file
// both programs read says the same to both.
//
// What Parse returns is never written to again: aliases share the Value they
// point at. Its plain form can always be marshaled as JSON.
package strict

import (
	"fmt"
	"strconv"
	"time"
)

// Kind is what a Value holds.
type Kind uint8

const (
	Null Kind = iota
	Bool
	Int
	Float
	String
	List
	Map
)

// Vaulted is the only key of the plain form of a value that ansible-vault
// encrypted, as in the JSON of ansible-inventory. It is a map so that a place
// which wants text refuses it instead of using the cipher text.
const Vaulted = "__ansible_vault"

// Value is one thing in a file and where it stands.
type Value struct {
	Kind   Kind
	File   string
	Line   int
	Column int    // counted in characters, from 1
	Text   string // of a scalar: as it was written, without quotes
	Unsafe bool   // of a text: tagged !unsafe, which makes no difference but to Ansible

	scalar  any // bool, int64, float64 or string, by Kind
	items   []*Value
	entries []Entry
	index   map[string]int // of a key in entries
	size    int            // Values in it, itself included, aliases counted each time
}

// Entry is a key of a mapping with its value. Keys are always text, even those
// that would be something else as a value: the key on is "on", not true.
type Entry struct {
	Key   *Value
	Value *Value
}

// Items returns the elements of a list, nothing for other kinds.
func (v *Value) Items() []*Value { return v.items }

// Entries returns the entries of a mapping in the order of the file (those of a
// merge key first), nothing for other kinds.
func (v *Value) Entries() []Entry { return v.entries }

// Entry returns the entry with the given key.
func (v *Value) Entry(key string) (Entry, bool) {
	i, ok := v.index[key]
	if !ok {
		return Entry{}, false
	}
	return v.entries[i], true
}

// Get returns the value under key, nil if there is none.
func (v *Value) Get(key string) *Value {
	e, _ := v.Entry(key)
	return e.Value
}

// At follows a path of keys (string) and indices from 0 (int) in the plain
// value, and returns the value there, or the last one on the way that exists.
func (v *Value) At(path ...any) *Value {
	for _, step := range path {
		next := (*Value)(nil)
		switch step := step.(type) {
		case string:
			next = v.Get(step)
		case int:
			if step >= 0 && step < len(v.items) {
				next = v.items[step]
			}
		}
		if next == nil {
			break
		}
		v = next
	}
	return v
}

// Plain returns the value without its positions: map[string]any, []any, string,
// bool, int64, float64 or nil. It shares nothing with v nor between calls.
func (v *Value) Plain() any {
	switch v.Kind {
	case List:
		list := make([]any, len(v.items))
		for i, item := range v.items {
			list[i] = item.Plain()
		}
		return list
	case Map:
		m := make(map[string]any, len(v.entries))
		for _, e := range v.entries {
			m[e.Key.Text] = e.Value.Plain()
		}
		return m
	}
	return v.scalar
}

// With returns a value that stands where v stands and holds plain, whose types
// are those of [Value.Plain], their other sizes, []string, or time.Duration; another
// type is a mistake in the program and panics. It is for what a template made.
func (v *Value) With(plain any) *Value {
	w := &Value{File: v.File, Line: v.Line, Column: v.Column, size: 1}
	switch p := plain.(type) {
	case nil:
	case bool:
		w.set(Bool, p, strconv.FormatBool(p))
	case int:
		w.set(Int, int64(p), strconv.Itoa(p))
	case int64:
		w.set(Int, p, strconv.FormatInt(p, 10))
	case float64:
		w.set(Float, p, strconv.FormatFloat(p, 'g', -1, 64))
	case string:
		w.set(String, p, p)
	case time.Duration:
		w.set(String, p.String(), p.String())
	case []string:
		w.Kind = List
		for _, item := range p {
			w.push(v.With(item))
		}
	case []any:
		w.Kind = List
		for _, item := range p {
			w.push(v.With(item))
		}
	case map[string]any:
		w.Kind = Map
		for _, key := range sortedKeys(p) {
			w.put(Entry{v.With(key), v.With(p[key])})
		}
	default:
		panic(fmt.Sprintf("strict: no value of a file is a %T", plain))
	}
	return w
}

// NewValue returns an empty value at a place of a file, which With,
// WithEntries and WithItems fill; for readers of other formats.
func NewValue(file string, line, column int) *Value {
	return &Value{File: file, Line: line, Column: column, size: 1}
}

// WithEntries returns a mapping that stands where v stands. Of two entries with
// one key the last counts.
func (v *Value) WithEntries(entries ...Entry) *Value {
	w := &Value{Kind: Map, File: v.File, Line: v.Line, Column: v.Column, size: 1}
	for _, e := range entries {
		w.put(e)
	}
	return w
}

// WithItems returns a list that stands where v stands.
func (v *Value) WithItems(items ...*Value) *Value {
	w := &Value{Kind: List, File: v.File, Line: v.Line, Column: v.Column, size: 1}
	for _, item := range items {
		w.push(item)
	}
	return w
}

// Rewrite returns v with every scalar in it replaced by what replace gives for
// it; keys stay as they are. The first error ends it.
func (v *Value) Rewrite(replace func(*Value) (*Value, error)) (*Value, error) {
	if v.Kind != List && v.Kind != Map {
		return replace(v)
	}
	w := &Value{Kind: v.Kind, File: v.File, Line: v.Line, Column: v.Column, size: 1}
	for _, item := range v.items {
		item, err := item.Rewrite(replace)
		if err != nil {
			return nil, err
		}
		w.push(item)
	}
	for _, e := range v.entries {
		value, err := e.Value.Rewrite(replace)
		if err != nil {
			return nil, err
		}
		w.put(Entry{e.Key, value})
	}
	return w, nil
}

func (v *Value) set(kind Kind, scalar any, text string) {
	v.Kind, v.scalar, v.Text = kind, scalar, text
}

func (v *Value) push(item *Value) {
	v.items = append(v.items, item)
	v.size += item.size
}

// put adds an entry, or replaces the one with the same key in its place.
func (v *Value) put(e Entry) {
	if v.index == nil {
		v.index = make(map[string]int)
	}
	v.size += 1 + e.Value.size
	if i, ok := v.index[e.Key.Text]; ok {
		v.entries[i] = e
		return
	}
	v.index[e.Key.Text] = len(v.entries)
	v.entries = append(v.entries, e)
}
