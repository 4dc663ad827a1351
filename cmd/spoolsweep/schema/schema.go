// Package schema describes what spoolsweep reads and writes as JSON Schema (draft
// 07, which editors read): playbooks, rules, inventories, plans, events, results.
//
// It is made of the tables and types that the program itself goes by, each time it
// is asked for: [stage.Table] and the arguments in it, [pattern.Forms], the host
// variables, the types of what is printed. What no type says (the form of a
// duration, say) stands here once, and its tests hold that against the code.
package schema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"

	"spoolsweep/playbooks"
	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// Schema is one schema, or a part of one.
type Schema map[string]any

// draft is the one that yaml-language-server and others know best.
const draft = "http://json-schema.org/draft-07/schema#"

// named are the schemas that there are.
var named = map[string]func() Schema{
	"plan": plan, "events": events, "results": results, "inventory": hosts, "playbook": playbook, "rules": rulesFile,
}

// Names are those of all schemas, in the order of a cleanup.
func Names() []string {
	return []string{"inventory", "playbook", "rules", "plan", "events", "results"}
}

// Of is the schema of that name; ok is false where there is none.
func Of(name string) (s Schema, ok bool) {
	make, ok := named[name]
	if !ok {
		return nil, false
	}
	s = make()
	s["$schema"] = draft
	return s, true
}

// ref points at a definition.
func ref(name string) Schema { return Schema{"$ref": "#/definitions/" + name} }

func anyOf(all ...Schema) Schema { return Schema{"anyOf": all} }

func enum[T any](values ...T) Schema { return Schema{"enum": values} }

// about adds a description. Beside a $ref nothing else counts.
func about(text string, s Schema) Schema {
	if text == "" {
		return s
	}
	if _, is := s["$ref"]; is {
		s = Schema{"allOf": []Schema{s}}
	}
	s["description"] = text
	return s
}

// template is a text with a variable in it, of which only the program knows what it
// will be.
var template = Schema{"type": "string", "pattern": `\{\{`}

// oneOrMany is a value, or a list of such values.
func oneOrMany(s Schema, more ...Schema) Schema {
	return anyOf(append([]Schema{s, {"type": "array", "items": s}}, more...)...)
}

const (
	durationForm = `([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)`
	countForm    = `^[0-9]+$`
)

// queueNames are words, or words with commas.
func queueNames() Schema {
	names := []string{"auto"}
	for _, q := range spool.Queues {
		if _, err := spool.ParseQueue(string(q)); err == nil {
			names = append(names, string(q))
		}
	}
	one := `\s*(` + strings.Join(names, "|") + `)\s*`
	word := Schema{"type": "string", "pattern": `^` + one + `(,` + one + `)*$`}
	return anyOf(enum(names...), word, Schema{"type": "array", "minItems": 1, "items": enum(names...)})
}

// read are the types that read their own JSON, and what they take.
var read = map[reflect.Type]func() Schema{
	reflect.TypeFor[stage.Queues](): queueNames,
	reflect.TypeFor[stage.Rate](): func() Schema {
		return anyOf(Schema{"type": "number", "minimum": 0, "maximum": 1e9}, Schema{"type": "string", "pattern": `^\s*[0-9]+(\.[0-9]*)?\s*(/\s*(s|sec|m|min|h)\s*)?$`})
	},
	reflect.TypeFor[stage.Number](): func() Schema {
		return anyOf(Schema{"type": "integer", "minimum": 0}, Schema{"type": "string", "pattern": countForm})
	},
	reflect.TypeFor[stage.Duration](): func() Schema {
		return anyOf(Schema{"type": "string", "pattern": `^([0-9]+d|0|(` + durationForm + `)+)$`}, Schema{"type": "integer", "const": 0})
	},
	reflect.TypeFor[stage.Span]():     func() Schema { return Schema{"type": "string", "pattern": `^0*[1-9][0-9]*[mhdw]$`} },
	reflect.TypeFor[stage.Items]():    func() Schema { return oneOrMany(Schema{"type": []string{"string", "number"}}) },
	reflect.TypeFor[stage.Accounts](): func() Schema { return oneOrMany(Schema{"type": "string"}) },
	reflect.TypeFor[stage.Instances](): func() Schema {
		name := Schema{"type": "string", "pattern": `^(-|[A-Za-z0-9][A-Za-z0-9._-]*)$`}
		return anyOf(name, enum(""), Schema{"type": "array", "minItems": 1, "uniqueItems": true, "items": name})
	},
	reflect.TypeFor[playbooks.Share](): func() Schema {
		return anyOf(Schema{"type": "integer", "minimum": 0}, Schema{"type": "string", "pattern": `^([0-9]+|(100(\.0*)?|[0-9]{1,2}(\.[0-9]*)?)%)$`})
	},
}

// written are types whose JSON is not that of their kind.
var written = map[reflect.Type]func() Schema{
	reflect.TypeFor[time.Time]():       func() Schema { return Schema{"type": "string", "format": "date-time"} },
	reflect.TypeFor[json.RawMessage](): func() Schema { return Schema{} },
	reflect.TypeFor[stage.Duration]():  func() Schema { return Schema{"type": "string"} },
	reflect.TypeFor[stage.Span]():      func() Schema { return Schema{"type": "string"} },
	reflect.TypeFor[time.Duration](): func() Schema {
		return Schema{"type": "integer", "description": "nanoseconds"}
	},
}

// maker makes schemas of Go's types.
type maker struct {
	definitions map[string]Schema
	// strict refuses keys that no field has, and asks for none: what is read. Else
	// all that is always written is asked for, and a newer program may write more.
	strict bool
	docs   map[string]string // by the path of a field, such as plan.host
}

func newMaker(strict bool) *maker { return &maker{definitions: map[string]Schema{}, strict: strict} }

var (
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
	marshaler   = reflect.TypeFor[json.Marshaler]()
)

// of is the schema of values of a type, as encoding/json reads or writes them.
func (m *maker) of(t reflect.Type) Schema {
	if m.strict {
		if own, ok := read[t]; ok {
			return own()
		}
	}
	if own, ok := written[t]; ok {
		return own()
	}
	if own := reflect.PointerTo(t); t.Kind() != reflect.Pointer && (m.strict && own.Implements(unmarshaler) || own.Implements(marshaler)) {
		panic(fmt.Sprintf("schema: nothing says what the JSON of %s is", t))
	}
	switch t.Kind() {
	case reflect.Pointer:
		return m.orNull(m.of(t.Elem()))
	case reflect.Bool:
		return Schema{"type": "boolean"}
	case reflect.String:
		return Schema{"type": "string"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return Schema{"type": "integer"}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return Schema{"type": "integer", "minimum": 0}
	case reflect.Float32, reflect.Float64:
		return Schema{"type": "number"}
	case reflect.Slice:
		return m.orNull(Schema{"type": "array", "items": m.of(t.Elem())})
	case reflect.Array:
		return Schema{"type": "array", "items": m.of(t.Elem()), "minItems": t.Len(), "maxItems": t.Len()}
	case reflect.Map:
		return m.orNull(Schema{"type": "object", "additionalProperties": m.of(t.Elem())})
	case reflect.Interface:
		return Schema{}
	case reflect.Struct:
		return m.define(t)
	}
	panic(fmt.Sprintf("schema: no JSON is a %s", t))
}

func (m *maker) orNull(s Schema) Schema {
	if kind, ok := s["type"].(string); ok {
		s["type"] = []string{kind, "null"}
		return s
	}
	return anyOf(s, Schema{"type": "null"})
}

// define is a struct under its own name.
func (m *maker) define(t reflect.Type) Schema {
	name := t.String() // package.Name
	if _, there := m.definitions[name]; !there {
		m.definitions[name] = nil // it may hold itself
		s := Schema{"type": "object"}
		properties, required := map[string]Schema{}, []string{}
		m.fields(t, properties, &required)
		s["properties"] = properties
		if m.strict {
			s["additionalProperties"] = false
		} else if len(required) > 0 {
			s["required"] = required
		}
		m.definitions[name] = s
	}
	return ref(name)
}

func (m *maker) fields(t reflect.Type, properties map[string]Schema, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case name == "-":
			continue
		case f.Anonymous && name == "" && inner.Kind() == reflect.Struct:
			if inner == f.Type {
				m.fields(inner, properties, required)
			} else { // all of it is left out where there is none
				m.fields(inner, properties, new([]string))
			}
			continue
		case !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		properties[name] = about(m.docs[name], m.of(f.Type))
		if !strings.Contains(options, "omit") {
			*required = append(*required, name)
		}
	}
}

// root gives a schema its definitions.
func (m *maker) root(title string, s Schema) Schema {
	s["title"] = title
	if len(m.definitions) > 0 {
		s["definitions"] = m.definitions
	}
	return s
}
