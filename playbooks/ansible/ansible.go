// Package ansible makes the Ansible collection spoolsweep.postfix: what stands in the
// folder collection, and from the table of stages and the shipped playbook its modules
// and its role, with their documentation and the specification of their arguments.
package ansible

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"spoolsweep/spool/stage"
)

//go:embed collection
var own embed.FS

// Version is the collection's.
const Version = "1.0.0"

// Repository is where it comes from, which Ansible's format asks for.
const Repository = "https://example.org/spoolsweep"

// Folder is where a collection lies below a folder of them, as Ansible looks for it.
const Folder = "ansible_collections/spoolsweep/postfix"

// AgentFile is the name, in the collection, of the agent for an architecture.
func AgentFile(arch string) string { return "files/spoolsweep-agent-" + arch }

// module is one module, and the stage that it has done.
type module struct{ name, stage, short string }

// modules are those that only look.
var modules = []module{
	{"queue_info", "count", "Tell how full the queues of Postfix are"},
	{"suspects", "suspects", "Tell who fills the queues of Postfix"},
	{"classify", "classify", "Tell what rules would call spam"},
}

// Files are all files of the collection but the agents, by their paths in it. vars
// are the host variables that spoolsweep reads.
func Files(vars reflect.Type) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := fs.WalkDir(own, "collection", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := own.ReadFile(path)
		files[strings.TrimPrefix(path, "collection/")] = text
		return err
	})
	if err != nil {
		return nil, err
	}
	galaxy, err := yaml.Marshal(map[string]any{
		"namespace": "spoolsweep", "name": "postfix", "version": Version, "readme": "README.md", "authors": []string{"spoolsweep"},
		"description": "Clear flooded Postfix queues without losing mail", "tags": []string{"infrastructure", "mail", "postfix"}, "repository": Repository,
	})
	if err != nil {
		return nil, err
	}
	files["galaxy.yml"] = galaxy
	for _, m := range modules {
		row, ok := stage.Find(m.stage)
		if !ok {
			return nil, fmt.Errorf("no stage %q", m.stage)
		}
		doc, err := m.doc(row)
		if err != nil {
			return nil, err
		}
		files["plugins/modules/"+m.name+".py"] = doc
		if files["plugins/action/"+m.name+".py"], err = m.action(row, vars); err != nil {
			return nil, err
		}
	}
	s, err := readSweep()
	if err != nil {
		return nil, err
	}
	if err := changing(files, s, vars); err != nil {
		return nil, err
	}
	return files, nil
}

// Write writes the collection into a folder below dir, which must not be there.
func Write(dir string, vars reflect.Type) (string, error) {
	files, err := Files(vars)
	if err != nil {
		return "", err
	}
	top := filepath.Join(dir, filepath.FromSlash(Folder))
	if err := os.MkdirAll(filepath.Dir(top), 0o755); err != nil {
		return "", err
	}
	if err := os.Mkdir(top, 0o755); err != nil {
		return "", err
	}
	for name, text := range files {
		file := filepath.Join(top, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return "", err
		}
	}
	return top, os.MkdirAll(filepath.Join(top, "files"), 0o755)
}

// option is an argument of a module, as its documentation has it.
type option struct {
	Description []string `yaml:"description"`
	Type        string   `yaml:"type"`
	Choices     []string `yaml:"choices,omitempty"`
	Required    bool     `yaml:"required,omitempty"`
	Default     any      `yaml:"default,omitempty"`
}

// fallback takes in what an argument is where nobody gives it.
func (o *option) fallback(value reflect.Value) {
	if text, err := json.Marshal(value.Interface()); err == nil && !value.IsZero() {
		_ = json.Unmarshal(text, &o.Default) // what was just written
	}
}

// options are a stage's arguments, and those of every module.
func options(row *stage.Row) map[string]option {
	all := map[string]option{"run": {
		Description: []string{"The id of a run whose mail is looked at, which it has set aside. Without it the live queues are."}, Type: "str",
	}}
	args := row.New()
	for _, name := range row.Keys() {
		value := reflect.ValueOf(stage.Field(args, name)).Elem()
		o := option{Description: []string{sentence(docOf(row, name))}, Type: kindOf(value.Type())}
		o.fallback(value)
		all[name] = o
	}
	return all
}

// wordsOf are those that an argument may be; nil: any.
func wordsOf(row *stage.Row, name string) []string {
	return strings.Fields(fieldOf(row, name).Tag.Get("one"))
}

// kindOf is what Ansible calls a type of arguments.
func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[stage.Number]():
		return "int"
	case reflect.TypeFor[stage.Duration]():
		return "str"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.String:
		return "str"
	}
	return "raw"
}

// spec is the same for whoever checks arguments.
func spec(options map[string]option) map[string]map[string]any {
	all := map[string]map[string]any{}
	for name, o := range options {
		all[name] = map[string]any{"type": o.Type}
		if o.Default != nil {
			all[name]["default"] = o.Default
		}
		if len(o.Choices) > 0 {
			all[name]["choices"] = o.Choices
		}
		if o.Required {
			all[name]["required"] = true
		}
	}
	return all
}

func (m module) doc(row *stage.Row) ([]byte, error) {
	about, _, _ := strings.Cut(row.Doc, ";") // the rest is about runs
	documentation, err := yaml.Marshal(map[string]any{
		"module": m.name, "short_description": m.short, "version_added": Version, "author": []string{"spoolsweep"},
		"description": []string{
			sentence(about),
			"It changes nothing, leaves no record, and needs no Python on the host. Root is wanted there, so mostly become.",
			"Host variables such as queue_warn, mail_log and postfix_instances are those of spoolsweep.",
		},
		"options": options(row),
		"attributes": map[string]any{
			"check_mode": map[string]any{"support": "full", "description": []string{"It does the same, since it changes nothing."}},
			"diff_mode":  map[string]any{"support": "none", "description": []string{"Nothing is changed."}},
		},
	})
	if err != nil {
		return nil, err
	}
	contains, err := results(row)
	if err != nil {
		return nil, err
	}
	returned := map[string]any{
		"result": map[string]any{"description": "What was found, as spoolsweep prints it with -o json.", "returned": "success", "type": "dict", "contains": contains},
		"status": map[string]any{"description": "The agent's exit status.", "returned": "always", "type": "int", "sample": 0},
		"remedy": map[string]any{"description": "What to do about a failure.", "returned": "failure", "type": "str"},
	}
	if m.stage == "suspects" {
		returned["who"] = map[string]any{"description": "The largest of it, a line each.", "returned": "success", "type": "list", "elements": "str",
			"sample": []string{"148 messages of login spam-account@example.org", "76 bounces to spam-account@example.org: hacked"}}
	}
	returns, err := yaml.Marshal(returned)
	if err != nil {
		return nil, err
	}
	return documented(string(documentation), example(m, row), string(returns)), nil
}

// documented is the file of a module: what it does is in its action.
func documented(documentation, examples, returns string) []byte {
	return []byte("# Made by 'spoolsweep collection' from its table of stages.\n\nDOCUMENTATION = r\"\"\"\n" + documentation +
		"\"\"\"\n\nEXAMPLES = r\"\"\"\n" + examples + "\"\"\"\n\nRETURN = r\"\"\"\n" + returns + "\"\"\"\n")
}

func example(m module, row *stage.Row) string {
	text := "- name: " + m.short + "\n  spoolsweep.postfix." + m.name + ":\n"
	if slices.Contains(row.Keys(), "spam") {
		text += "    spam:\n      any:\n        - sasl_user: \"spam-account@\"\n"
	}
	return text + "  register: found\n"
}

// results are the fields of what a stage finds. Those without a word here are an
// error: see resultDocs.
func results(row *stage.Row) (map[string]any, error) {
	contains := map[string]any{}
	for _, f := range reflect.VisibleFields(reflect.TypeOf(row.Result()).Elem()) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		doc, ok := resultDocs[row.Name+"."+name]
		if !ok {
			doc, ok = resultDocs[name]
		}
		if !ok {
			return nil, fmt.Errorf("%s: nothing explains %s of its result", row.Name, name)
		}
		if doc == "" { // never where a module looks
			continue
		}
		contains[name] = map[string]any{"description": sentence(doc), "returned": "success", "type": resultKind(f.Type)}
	}
	return contains, nil
}

func resultKind(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == reflect.TypeFor[time.Time]() {
		return "str"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.String:
		return "str"
	case reflect.Int, reflect.Int64:
		return "int"
	case reflect.Float64:
		return "float"
	case reflect.Slice:
		return "list"
	}
	return "dict"
}

func (m module) action(row *stage.Row, vars reflect.Type) ([]byte, error) {
	return class("agent", "LookAction", map[string]any{"STAGE": row.Name, "SPEC": spec(options(row)), "VARS": times(vars), "FEW_BOUNCES": stage.FewBounces})
}

// times are the host variables, and whether they are times.
func times(vars reflect.Type) map[string]bool {
	all := map[string]bool{}
	for i := range vars.NumField() {
		f := vars.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); f.Tag.Get("inventory") != "-" {
			all[name] = f.Type == reflect.TypeFor[time.Duration]()
		}
	}
	return all
}

// class is the action of a module: one of plugin_utils, with values of its own.
func class(file, parent string, values map[string]any) ([]byte, error) {
	text := fmt.Appendf(nil, `# Made by 'spoolsweep collection' from its table of stages.

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json

from ansible_collections.spoolsweep.postfix.plugins.plugin_utils.%s import %s


class ActionModule(%[2]s):
`, file, parent)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		// JSON in a text: true and null are other words in Python.
		value, err := json.Marshal(values[name])
		if err != nil {
			return nil, err
		}
		text = fmt.Appendf(text, "    %s = json.loads(r\"\"\" %s \"\"\")\n", name, value)
	}
	return text, nil
}

func docOf(row *stage.Row, name string) string { return fieldOf(row, name).Tag.Get("doc") }

// fieldOf is the field of an argument.
func fieldOf(row *stage.Row, name string) (field reflect.StructField) {
	for _, f := range reflect.VisibleFields(reflect.TypeOf(row.New()).Elem()) {
		if key, _, _ := strings.Cut(f.Tag.Get("json"), ","); key == name {
			return f
		}
	}
	return field
}

// sentence begins with a capital and ends with a full stop.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + text[1:] + "."
}
