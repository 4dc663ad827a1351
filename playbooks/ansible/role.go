package ansible

import (
	"bytes"
	"fmt"
	"strings"
	"text/template"

	"gopkg.in/yaml.v3"
)

// roleFolder is where the role stands in the collection.
const roleFolder = "roles/" + sweepName + "/"

// role adds what the role has of the playbook: its variables, and tasks that hand them
// to the modules whose options they are.
func role(files map[string][]byte, s *sweep) error {
	first, rest, err := s.parts()
	if err != nil {
		return err
	}
	aside, err := s.options(first)
	if err != nil {
		return err
	}
	back, err := s.options(rest)
	if err != nil {
		return err
	}
	options := map[string]option{
		"max_stopped": {Type: "int"},
		sweepName + "_run": {
			Type: "str",
			Description: []string{
				"The id of the run, such as 20261128T120000Z-ab12.",
				"Without it one is made for all hosts of the play, and a host where no queue is full goes on with the newest run that has mail aside.",
			},
		},
		"expect": {Type: "int", Description: []string{"How many messages of this host must be about to go back, where the run waits for a confirm: then they do."}},
	}
	defaults := []byte("---\n# Made by 'spoolsweep collection' from the playbook " + sweepName + ".\n")
	for _, v := range s.variables {
		if v.name == "hosts" { // which are the play's
			continue
		}
		o, ok := aside[v.name]
		if !ok {
			o, ok = back[v.name]
		}
		if !ok {
			if o, ok = options[v.name]; !ok {
				return fmt.Errorf("%s: no task reads %s", sweepName, v.name)
			}
			o.Default = v.value
		}
		if v.doc != "" {
			o.Description = []string{sentence(v.doc)}
		}
		if len(o.Description) == 0 {
			o.Description = []string{"Hosts whose Postfix may be down at the same moment."}
		}
		options[v.name] = o
		var line bytes.Buffer
		e := yaml.NewEncoder(&line)
		if err := e.Encode(map[string]any{v.name: o.Default}); err != nil {
			return err
		}
		if v.doc != "" {
			defaults = fmt.Appendf(defaults, "# %s\n", v.doc)
		}
		defaults = append(defaults, line.Bytes()...)
	}
	files[roleFolder+"defaults/main.yml"] = defaults
	specs, err := yaml.Marshal(map[string]any{"argument_specs": map[string]any{"main": map[string]any{
		"short_description": "Clear a flood of spam out of the queues of Postfix",
		"description": []string{
			"What 'spoolsweep run " + sweepName + "' does, with the same variables, by the modules of this collection.",
			"Without rules it sets full queues aside, so that mail flows, and then fails, since rules are wanted.",
			"With rules, in spam and ham, the next call goes on with the same run.",
		},
		"author": []string{"spoolsweep"}, "options": options,
	}}})
	if err != nil {
		return err
	}
	files[roleFolder+"meta/argument_specs.yml"] = append([]byte("---\n# Made by 'spoolsweep collection' from the playbook "+sweepName+".\n"), specs...)
	// Those of the playbook, in its order.
	of := func(options map[string]option) (names []string) {
		for _, v := range s.variables {
			if _, ok := options[v.name]; ok {
				names = append(names, v.name)
			}
		}
		return names
	}
	const tasks = roleFolder + "tasks/main.yml"
	t, err := template.New("").Delims("<<", ">>").Parse(string(files[tasks]))
	if err != nil {
		return err
	}
	var text bytes.Buffer
	err = t.Execute(&text, map[string]any{"Aside": of(aside), "Back": of(back), "First": strings.Join(stagesOf(first), ", "), "Rest": strings.Join(stagesOf(rest), ", ")})
	files[tasks] = text.Bytes()
	return err
}
