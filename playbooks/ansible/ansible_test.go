package ansible

import (
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"spoolsweep/playbooks"
	"spoolsweep/spool/stage"
)

func files(t *testing.T) map[string]string {
	t.Helper()
	all, err := Files(reflect.TypeFor[stage.Vars]())
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for name, b := range all {
		text[name] = string(b)
	}
	return text
}

// constant is a value of a module's class, as JSON has it.
func constant(t *testing.T, action, name string, into any) {
	t.Helper()
	m := regexp.MustCompile(`(?m)^    ` + name + ` = json\.loads\(r""" (.*) """\)$`).FindStringSubmatch(action)
	if m == nil {
		t.Fatalf("no %s in\n%s", name, action)
	}
	if err := json.Unmarshal([]byte(m[1]), into); err != nil {
		t.Fatal(err)
	}
}

// The role is the shipped playbook: its stages, in their order, with its variables and
// their values, each handed on to the module that reads it.
func TestRoleIsThePlaybook(t *testing.T) {
	all := files(t)
	pb, err := playbooks.Load(sweepName)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Vars   map[string]any
		Stages []map[string]map[string]any
	}
	if err := yaml.Unmarshal([]byte(pb.Text), &file); err != nil {
		t.Fatal(err)
	}
	var want, got []step
	for _, s := range file.Stages {
		for name, args := range s {
			st := step{Stage: name, Args: map[string]any{}}
			for key, value := range args {
				if key == "name" {
					st.Name = value.(string)
				} else {
					st.Args[key] = value
				}
			}
			want = append(want, st)
		}
	}
	tasks := all[roleFolder+"tasks/main.yml"]
	read := map[string]bool{}
	for _, module := range []string{"set_aside", "restore"} {
		action := all["plugins/action/"+module+".py"]
		var steps []step
		constant(t, action, "STEPS", &steps)
		got = append(got, steps...)
		var spec map[string]any
		constant(t, action, "SPEC", &spec)
		_, task, _ := strings.Cut(tasks, "spoolsweep.postfix."+module+":\n")
		task, _, _ = strings.Cut(task, "\n\n")
		for name := range spec {
			switch name {
			case "run", "expect", "reason":
				continue
			}
			read[name] = true
			if !strings.Contains(task, "    "+name+": \"{{ "+name+" }}\"\n") {
				t.Errorf("%s is not given %s:\n%s", module, name, task)
			}
		}
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := json.Marshal(got); err != nil || string(now) != string(text) {
		t.Errorf("stages\n%s, want\n%s", now, text)
	}
	var kept string
	constant(t, all["plugins/action/set_aside.py"], "PLAYBOOK", &kept)
	if kept != pb.Text {
		t.Errorf("the playbook of the record is\n%s", kept)
	}
	defaults := map[string]any{}
	if err := yaml.Unmarshal([]byte(all[roleFolder+"defaults/main.yml"]), &defaults); err != nil {
		t.Fatal(err)
	}
	delete(file.Vars, "hosts")
	if !reflect.DeepEqual(defaults, file.Vars) {
		t.Errorf("defaults %v, want %v", defaults, file.Vars)
	}
	for name := range defaults {
		if !read[name] && !strings.Contains(tasks, "\"{{ "+name+" }}\"") {
			t.Errorf("no task reads %s", name)
		}
	}
	var specs struct {
		Specs struct {
			Main struct{ Options map[string]option }
		} `yaml:"argument_specs"`
	}
	if err := yaml.Unmarshal([]byte(all[roleFolder+"meta/argument_specs.yml"]), &specs); err != nil {
		t.Fatal(err)
	}
	for name, value := range defaults {
		if o := specs.Specs.Main.Options[name]; !reflect.DeepEqual(o.Default, value) || len(o.Description) == 0 {
			t.Errorf("%s: %+v, default %v", name, o, value)
		}
	}
}

// Each module has the arguments of its stages, and those of every run.
func TestModulesOptions(t *testing.T) {
	for module, wants := range map[string][]string{
		"set_aside": {"account", "force_account", "queues", "reason", "require_source_stopped", "run"},
		"restore":   {"account", "expect", "expired", "ham", "live_max", "rate", "run", "spam", "watch"},
		"putback":   {"canary", "expect", "expired", "include_spam", "live_max", "rate", "run"},
		"delete":    {"expect", "ham", "queues", "reason", "run", "spam"},
	} {
		var spec map[string]any
		constant(t, files(t)["plugins/action/"+module+".py"], "SPEC", &spec)
		var got []string
		for name := range spec {
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, wants) {
			t.Errorf("%s: %q, want %q", module, got, wants)
		}
	}
}
