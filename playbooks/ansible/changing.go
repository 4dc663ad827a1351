package ansible

import (
	"maps"
	"reflect"
	"slices"

	"gopkg.in/yaml.v3"

	"spoolsweep/spool/stage"
)

// changes is one module that changes something.
type changes struct {
	name, short string
	about       []string
	class       string   // in plugin_utils/change.py
	stages      []string // whose results it returns
	options     map[string]option
	values      map[string]any // of its class
	example     string
	check, diff string
	// own are values that it returns beside those of each.
	own map[string]any
}

const (
	runDoc     = "The id of the run, such as 20261128T120000Z-ab12. "
	asideRun   = runDoc + "Without it that is the one run that has mail aside."
	newRun     = runDoc + "Without it one is made. A module that is called again with it, since the connection was lost, say, tells how the run went, and does nothing twice."
	ownExample = "spam:\n      any:\n        - sasl_user: \"spam-account@\"\n"
)

// changing adds the modules that change something, and the role.
func changing(files map[string][]byte, s *sweep, vars reflect.Type) error {
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
	if back["expect"], err = argument("confirm", "expect"); err != nil {
		return err
	}
	putback, err := arguments("putback")
	if err != nil {
		return err
	}
	remove, err := arguments("delete")
	if err != nil {
		return err
	}
	run := func(all map[string]option, doc string) map[string]option {
		all["run"] = option{Description: []string{doc}, Type: "str"}
		if doc == newRun {
			all["reason"] = option{Description: []string{"Why, for the record of the run."}, Type: "str"}
		}
		return all
	}
	modules := []changes{
		{
			name: "set_aside", short: "Set flooded queues of Postfix aside, so that mail flows", class: "SetAsideAction",
			about: []string{
				"Where queues are full: disables the account whose password was stolen and restarts what checks logins, if the variables say so; then stops Postfix, exchanges the full queue directories for empty ones, and starts it.",
				"The host does this by itself, so that a connection that is lost leaves Postfix running. No message is lost: all are in directories beside the queues, until M(spoolsweep.postfix.restore) or M(spoolsweep.postfix.putback) sends them.",
				"Where no queue is full nothing is done, no command is run, and C(run) is the newest run that has mail aside, if there is one.",
				"At most how many hosts have their Postfix stopped at the same moment is what C(throttle) of the task says.",
			},
			stages: stagesOf(first), options: run(aside, newRun),
			values:  map[string]any{"STEPS": first, "PLAYBOOK": s.text, "NAME": sweepName},
			example: "- name: Set full queues aside\n  spoolsweep.postfix.set_aside:\n    account: spam-account@example.org\n  throttle: 1\n  register: aside\n",
			check:   "It tells which queues would be set aside.", diff: "How many messages each queue has, before and after.",
		},
		{
			name: "restore", short: "Send back what rules do not take, of mail that was set aside", class: "RestoreAction",
			about: []string{
				"Judges what a run has aside by rules, and moves what they do not take back into the running Postfix, some at a time. What they take stays aside.",
				"What looks as if too much would be sent is not sent: then the run waits, the module fails, and tells why. So it does without rules. C(spoolsweep resume RUN) answers it, or I(expect), or better rules.",
				"With the same rules a run goes on once; with others what is still aside is judged again, and nothing is sent twice.",
			},
			stages: stagesOf(rest), options: run(back, asideRun),
			values:  map[string]any{"STEPS": rest},
			example: "- name: Send back what is no spam\n  spoolsweep.postfix.restore:\n    run: \"{{ aside.run }}\"\n    " + ownExample,
			check:   "It judges what is aside, and tells how much would be sent.", diff: "How many messages are aside, and go where.",
		},
		{
			name: "putback", short: "Send back what a run still has aside", class: "PutbackAction",
			about: []string{
				"Message by message, into the running Postfix. What was judged spam, or is the flood's, goes only with I(include_spam).",
				"What was sent cannot be taken back: I(expect) is wanted, and where another number would go nothing is done. Without it the module fails, and tells the number, unless nothing would go.",
			},
			stages: []string{"putback"}, options: run(putback, asideRun),
			values:  map[string]any{"STAGE": "putback"},
			example: "- name: Send all of it\n  spoolsweep.postfix.putback:\n    run: 20261128T120000Z-ab12\n    include_spam: true\n    expect: 2614\n",
			check:   "It tells how many would go.", diff: "How many messages are aside, before and after.",
			own: map[string]any{"would": map[string]any{"description": "What would go, by verdict, with the largest sources.", "returned": "where it was counted", "type": "dict"}},
		},
		{
			name: "delete", short: "Delete what rules take from live queues, for good", class: "DeleteAction",
			about: []string{
				"By Postfix's own postsuper, which is running meanwhile. For a flood M(spoolsweep.postfix.set_aside) is the way: it lets mail flow first, and nothing is decided in a hurry.",
				"What was deleted cannot be taken back: I(expect) is wanted, and where another number matches nothing is done. Without it the module fails, and tells the number, unless nothing matches.",
			},
			stages: []string{"delete"}, options: run(remove, newRun),
			values:  map[string]any{"STAGE": "delete"},
			example: "- name: Delete what the account sent\n  spoolsweep.postfix.delete:\n    queues: [deferred, hold]\n    expect: 614\n    " + ownExample,
			check:   "It tells how many would be deleted.", diff: "How many messages match, before and after.",
			own: map[string]any{"would": map[string]any{"description": "What would be deleted, by queue, with some samples.", "returned": "where it was counted", "type": "dict"}},
		},
	}
	for _, m := range modules {
		doc, err := m.doc()
		if err != nil {
			return err
		}
		files["plugins/modules/"+m.name+".py"] = doc
		m.values["SPEC"], m.values["VARS"] = spec(m.options), times(vars)
		if files["plugins/action/"+m.name+".py"], err = class("change", m.class, m.values); err != nil {
			return err
		}
	}
	return role(files, s)
}

// arguments are those of a stage that a playbook may give.
func arguments(name string) (map[string]option, error) {
	row, _ := stage.Find(name)
	all := map[string]option{}
	for _, key := range row.Keys() {
		o, err := argument(name, key)
		if err != nil {
			return nil, err
		}
		all[key] = o
	}
	return all, nil
}

func stagesOf(steps []step) []string {
	var names []string
	for _, st := range steps {
		if !slices.Contains(names, st.Stage) {
			names = append(names, st.Stage)
		}
	}
	return names
}

func (m *changes) doc() ([]byte, error) {
	documentation, err := yaml.Marshal(map[string]any{
		"module": m.name, "short_description": m.short, "version_added": Version, "author": []string{"spoolsweep"},
		"description": append(m.about,
			"It needs no Python on the host. Root is wanted there, so mostly become. Host variables such as queue_warn, disable_account and postfix_instances are those of spoolsweep."),
		"options": m.options,
		"attributes": map[string]any{
			"check_mode": map[string]any{"support": "full", "description": []string{m.check, "Nothing is changed."}},
			"diff_mode":  map[string]any{"support": "full", "description": []string{m.diff}},
		},
	})
	if err != nil {
		return nil, err
	}
	found := map[string]any{}
	for _, name := range m.stages {
		row, _ := stage.Find(name)
		contains, err := results(row)
		if err != nil {
			return nil, err
		}
		found[name] = map[string]any{"description": sentence(row.Doc), "returned": "where the stage was done", "type": "dict", "contains": contains}
	}
	returned := map[string]any{
		"run":      map[string]any{"description": "The id of the run; empty where there is none.", "returned": "always", "type": "str", "sample": "20261128T120000Z-ab12"},
		"instance": map[string]any{"description": "The instance of Postfix; - is the default one.", "returned": "always", "type": "str", "sample": "-"},
		"events":   map[string]any{"description": "All that happened in the run so far, as the agent tells it (spoolsweep schema events), but for progress. C(spoolsweep report --import) makes a report of them.", "returned": "always", "type": "list", "elements": "dict"},
		"results":  map[string]any{"description": "What each stage of the run found or did last, by the stage's name.", "returned": "success", "type": "dict", "contains": found},
		"status":   map[string]any{"description": "The agent's exit status: 0 done, 2 failed, 3 the run waits.", "returned": "always", "type": "int", "sample": 0},
		"waits":    map[string]any{"description": "What the run waits for: rules or confirm.", "returned": "where it waits", "type": "str", "sample": "confirm"},
		"reasons":  map[string]any{"description": "Why a confirm is not answered by itself.", "returned": "where the run waits for one", "type": "list", "elements": "str"},
		"remedy":   map[string]any{"description": "What to do about a failure.", "returned": "failure", "type": "str", "sample": "spoolsweep resume 20261128T120000Z-ab12"},
	}
	maps.Copy(returned, m.own)
	returns, err := yaml.Marshal(returned)
	if err != nil {
		return nil, err
	}
	return documented(string(documentation), m.example, string(returns)), nil
}
