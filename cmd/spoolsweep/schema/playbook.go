package schema

import (
	"reflect"
	"strings"

	"spoolsweep/playbooks"
	"spoolsweep/spool/stage"
)

// keys are what a playbook has at its top, and its stages in common.
var keys = map[string]string{
	"name":        "what people call it",
	"hosts":       "the hosts it is for, as --limit names them; all without it",
	"serial":      "hosts at a time, a number or a percentage, or a list of them; 0: all",
	"max_stopped": "hosts whose Postfix may be down at the same moment; 0: any number",
	"max_fail":    "more hosts than this failed while changing: begin no further host",
	"vars":        "variables, which an inventory and -e may set; null: must be given",
	"stages":      "what is done, one after the other",
	"when":        "false leaves the stage out",
	"once":        "on the first host of the run only",
	"timeout":     "how long the stage may take, such as 90s, 5m or 7d",
	"no_log":      "what it prints and finds stays out of the record",
}

// yes is a boolean. Editors read YAML 1.2, where yes is a text.
func yes() Schema { return anyOf(Schema{"type": "boolean"}, enum("yes", "no", "on", "off")) }

// playbook is a file like those that ship.
func playbook() Schema {
	m := newMaker(true)
	m.definitions = rules(true)
	share := read[reflect.TypeFor[playbooks.Share]()]()
	number := read[reflect.TypeFor[stage.Number]()]()
	host := Schema{"type": "string", "minLength": 1}
	top := map[string]Schema{
		"name":        {"type": "string"},
		"hosts":       anyOf(host, Schema{"type": "array", "minItems": 1, "items": host}),
		"serial":      oneOrMany(anyOf(template, share)),
		"max_stopped": anyOf(template, number),
		"max_fail":    anyOf(template, share),
		"vars": {"type": []string{"object", "null"}, "properties": map[string]Schema{
			"spam": about("rules: what is spam", ref("rules")),
			"ham":  about("rules: what is ham all the same", ref("rules")),
		}},
		"stages": {"type": "array", "minItems": 1, "items": ref("stage")},
	}
	for name, s := range top {
		top[name] = about(keys[name], s)
	}
	stages := map[string]Schema{}
	for _, row := range stage.Table {
		stages[row.Name] = about(row.Doc, m.arguments(row))
	}
	m.definitions["stage"] = Schema{
		"type": "object", "minProperties": 1, "maxProperties": 1, "properties": stages, "additionalProperties": false,
	}
	return m.root("a playbook of spoolsweep", Schema{"type": "object", "properties": top, "required": []string{"stages"}, "additionalProperties": false})
}

// arguments are a stage's in a playbook.
func (m *maker) arguments(row *stage.Row) Schema {
	properties := m.own(row, func(s Schema) Schema { return anyOf(template, s) })
	own := row.New()
	for _, name := range row.Keys() {
		if reflect.TypeOf(stage.Field(own, name)).Elem().Kind() == reflect.Bool {
			properties[name] = about(docOf(row, name), anyOf(template, yes()))
		}
	}
	properties["name"] = about(keys["name"], Schema{"type": "string"})
	properties["when"] = about(keys["when"], anyOf(template, yes(), enum("true", "false")))
	properties["once"] = about(keys["once"], anyOf(template, yes(), enum("true", "false")))
	if !row.Section { // nothing may end it before Postfix runs again
		properties["timeout"] = about(keys["timeout"], Schema{"type": "string", "pattern": `\{\{|^([0-9]+d)?(` + durationForm + `)*$`, "minLength": 1})
	}
	hidden := anyOf(template, yes(), enum("true", "false"))
	if row.Read { // what it found is asked about
		hidden = anyOf(template, Schema{"enum": []any{false, "no", "off", "false"}})
	}
	properties["no_log"] = about(keys["no_log"], hidden)
	s := Schema{"type": []string{"object", "null"}, "properties": properties, "additionalProperties": false}
	if len(row.Needs) > 0 {
		s["type"], s["required"] = "object", row.Needs
	}
	return s
}

// own are a stage's own arguments, each as may makes it.
func (m *maker) own(row *stage.Row, may func(Schema) Schema) map[string]Schema {
	properties := map[string]Schema{}
	args := row.New()
	for _, name := range row.Keys() {
		value := reflect.TypeOf(stage.Field(args, name)).Elem()
		var s Schema
		switch words := field(row, name).Tag.Get("one"); {
		case value.Kind() == reflect.Interface: // spam and ham
			s = ref("rules")
		case words != "":
			s = may(enum(strings.Fields(words)...))
		case value.Kind() == reflect.Pointer:
			s = m.orNull(may(m.of(value.Elem())))
		default:
			s = may(m.of(value))
		}
		properties[name] = about(docOf(row, name), s)
	}
	return properties
}

func docOf(row *stage.Row, name string) string { return field(row, name).Tag.Get("doc") }

// field is the one that holds an argument.
func field(row *stage.Row, name string) (found reflect.StructField) {
	for _, f := range reflect.VisibleFields(reflect.TypeOf(row.New()).Elem()) {
		if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); key == name {
			found = f
		}
	}
	return found
}
