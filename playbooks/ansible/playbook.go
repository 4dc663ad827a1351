package ansible

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"spoolsweep/playbooks"
	"spoolsweep/spool/stage"
)

// sweepName is the shipped playbook that set_aside and restore carry out, each a part
// of it, and the role both.
const sweepName = "backscatter"

// sweep is that playbook, as the modules have it.
type sweep struct {
	text      string
	variables []variable // its own, in their order
	steps     []step
}

// variable is one of the playbook's own: its name, what its comment says, and its
// value where nobody gives another.
type variable struct {
	name, doc string
	value     any
}

// step is a stage of a plan whose arguments are values, or templates that are one
// variable each. The modules fill these in.
type step struct {
	Stage string         `json:"stage"`
	Name  string         `json:"name,omitempty"`
	Args  map[string]any `json:"args"`
}

// oneVariable is the only template that a module knows.
var oneVariable = regexp.MustCompile(`^\{\{ \.(\w+) \}\}$`)

// readSweep reads the playbook. What a module could not do as the playbook says is an
// error: a stage with a when, for one.
func readSweep() (*sweep, error) {
	pb, err := playbooks.Load(sweepName)
	if err != nil {
		return nil, err
	}
	var file struct {
		Vars   yaml.Node
		Stages []map[string]map[string]any
	}
	if err := yaml.Unmarshal([]byte(pb.Text), &file); err != nil {
		return nil, err
	}
	s := &sweep{text: pb.Text}
	for i := 0; i+1 < len(file.Vars.Content); i += 2 {
		v := variable{name: file.Vars.Content[i].Value}
		if err := file.Vars.Content[i+1].Decode(&v.value); err != nil {
			return nil, err
		}
		// Of an empty list or map the comment is its parent's.
		for _, text := range []string{file.Vars.Content[i+1].LineComment, file.Vars.Content[i].LineComment} {
			if v.doc == "" {
				v.doc = strings.TrimSpace(strings.TrimPrefix(text, "#"))
			}
		}
		s.variables = append(s.variables, v)
	}
	for _, one := range file.Stages {
		for name, args := range one {
			row, ok := stage.Find(name)
			if !ok {
				return nil, fmt.Errorf("%s: no stage %q", sweepName, name)
			}
			st := step{Stage: name, Args: map[string]any{}}
			for key, value := range args {
				if key == "name" {
					st.Name = fmt.Sprint(value)
					continue
				}
				text, _ := value.(string)
				if !slices.Contains(row.Keys(), key) || strings.Contains(text, "{{") && !oneVariable.MatchString(text) {
					return nil, fmt.Errorf("%s: %s: %s is nothing that a module does: %v", sweepName, name, key, value)
				}
				st.Args[key] = value
			}
			s.steps = append(s.steps, st)
		}
	}
	return s, nil
}

// parts are the stages up to the start of Postfix, and those behind it.
func (s *sweep) parts() (first, rest []step, err error) {
	i := slices.IndexFunc(s.steps, func(st step) bool { return st.Stage == "start" })
	if i < 0 {
		return nil, nil, errors.New(sweepName + " starts nothing")
	}
	return s.steps[:i+1], s.steps[i+1:], nil
}

// options are those of the playbook's variables that some stages read.
func (s *sweep) options(steps []step) (map[string]option, error) {
	all := map[string]option{}
	for _, v := range s.variables {
		for _, st := range steps {
			for key, value := range st.Args {
				if text, _ := value.(string); text != "{{ ."+v.name+" }}" {
					continue
				}
				o, err := argument(st.Stage, key)
				if err != nil {
					return nil, err
				}
				if v.doc != "" && !strings.HasPrefix(v.doc, "or ") { // or what the stage says
					o.Description = []string{sentence(v.doc)}
				}
				o.Default = v.value
				if o.Type == "str" {
					o.Default = fmt.Sprint(v.value)
				}
				all[v.name] = o
			}
		}
	}
	return all, nil
}

// argument is an argument of a stage as an option of a module.
func argument(name, key string) (option, error) {
	row, ok := stage.Find(name)
	if !ok || !slices.Contains(row.Keys(), key) {
		return option{}, fmt.Errorf("%s has no argument %s", name, key)
	}
	value := reflect.ValueOf(stage.Field(row.New(), key)).Elem()
	o := option{Description: []string{sentence(docOf(row, key))}, Type: kindOf(value.Type()), Choices: wordsOf(row, key)}
	o.fallback(value)
	return o, nil
}
