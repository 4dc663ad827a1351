package schema

import (
	"maps"
	"reflect"
	"slices"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// planDocs explain the keys of a plan.
var planDocs = map[string]string{
	"spoolsweep_plan": "the version of plans",
	"run":             "the id of the run: the plan is carried out once, and who sends it again is told how it goes; without it each time is a run of its own",
	"do":              "begin: a new run, unless it was begun; resume: a run goes on, by a whole plan, or by these steps instead of those behind its start; add: one more step at a run's end, such as putback. Without run, resume and add mean the one that has mail aside",
	"only_full":       "nothing is begun where no queue would be set aside",
	"host":            "the host's name in the inventory",
	"hosts":           "of the whole run, in their order: what a stage with once does is done on the first; without it this one",
	"who":             "who made the plan, for the record",
	"reason":          "why, for the record",
	"name":            "of the playbook",
	"yes":             "a confirm is answered where nothing is suspicious; else the run waits there",
	"vars":            "host variables; times are nanoseconds",
	"steps":           "what is done, one after the other",
	"playbook":        "its text, from which resume -e resolves the plan again",
	"extra":           "variables that were given on the command line, for the same",
	"stage":           "which one",
	"args":            "its arguments",
	"skip":            "its when is false",
	"once":            "done on the first host only",
	"timeout":         "nanoseconds",
	"no_log":          "what it prints and finds stays out of the record",
}

// plan is what "spoolsweep plan" prints and the agent takes.
func plan() Schema {
	m := newMaker(true)
	m.docs = planDocs
	m.definitions = rules(false)
	m.of(reflect.TypeFor[agent.Plan]())
	step := m.definitions["stage.Step"]
	step["required"] = []string{"stage"}
	step["properties"].(map[string]Schema)["stage"] = about(planDocs["stage"], enum(stage.Names()...))
	var of []Schema
	for _, row := range stage.Table {
		args := Schema{"type": []string{"object", "null"}, "properties": m.own(row, func(s Schema) Schema { return s }), "additionalProperties": false}
		if len(row.Needs) > 0 {
			args["required"] = row.Needs
		}
		of = append(of, when(Schema{"stage": Schema{"const": row.Name}}, "args", args))
	}
	step["allOf"] = of
	root := m.definitions["agent.Plan"]
	delete(m.definitions, "agent.Plan")
	root["properties"].(map[string]Schema)["spoolsweep_plan"] = about(planDocs["spoolsweep_plan"], Schema{"const": agent.PlanVersion})
	root["properties"].(map[string]Schema)["do"] = about(planDocs["do"], enum(append([]string{""}, agent.Does...)...))
	root["required"] = []string{"spoolsweep_plan", "host", "steps"}
	// As the agent has it.
	onlyBegins := when(Schema{"do": enum("resume", "add")}, "only_full", Schema{"const": false})
	root["allOf"] = []Schema{onlyBegins, when(Schema{"do": Schema{"const": "add"}}, "steps", Schema{"minItems": 1, "maxItems": 1})}
	return m.root("a plan of spoolsweep: a run of one host", root)
}

// when says what a property is where others are these.
func when(these Schema, property string, is Schema) Schema {
	return Schema{
		"if":   Schema{"properties": these, "required": slices.Sorted(maps.Keys(these))},
		"then": Schema{"properties": Schema{property: is}},
	}
}

// result is what a stage finds or does.
func (m *maker) result(row *stage.Row) Schema {
	return m.of(reflect.TypeOf(row.Result()).Elem())
}

// rows are the stages, and what commands have a host do in their way.
func rows() []*stage.Row { return append(append([]*stage.Row{}, stage.Table...), stage.Looks...) }

// kinds are those of events.
var kinds = []string{wire.Begin, wire.Progress, wire.Result, wire.Warn, wire.Ask, wire.Judged, wire.Account, wire.Would, wire.Keep, wire.End}

// eventDocs explain the fields of an event.
var eventDocs = map[string]string{
	"run":      "the id of the run, empty for what belongs to none",
	"host":     "the inventory's name; empty for the run itself",
	"instance": "of Postfix; - is the default one",
	"seq":      "the number of the event in the run's record on its host, from 1 on; 0 for what is in no record",
	"stage":    "empty for the run itself",
	"index":    "of the stage in the plan, from 0 on; -1 for the run itself",
	"event":    "what kind",
	"data":     "what it tells, by stage and kind",
}

func statuses() Schema {
	return enum(show.OK, show.Waiting, show.Failed, show.Unreachable, show.Skipped)
}

// events is one line of -o jsonl, and of what the agent prints of a plan.
func events() Schema {
	m := newMaker(false)
	m.docs = eventDocs
	m.of(reflect.TypeFor[wire.Event]())
	m.docs = nil
	root := m.definitions["wire.Event"]
	delete(m.definitions, "wire.Event")
	root["properties"].(map[string]Schema)["event"] = about(eventDocs["event"], enum(kinds...))
	is := func(kind string) Schema { return Schema{"event": Schema{"const": kind}} }
	message := Schema{"type": "object", "properties": Schema{"message": Schema{"type": "string"}}, "required": []string{"message"}}
	ended := Schema{"type": "object", "properties": Schema{"status": statuses()}, "required": []string{"status", "changed", "asks", "error"}}
	entry := m.of(reflect.TypeFor[stage.Entry]())
	of := func(kind, stage string) Schema {
		return Schema{"event": Schema{"const": kind}, "stage": Schema{"const": stage}}
	}
	all := []Schema{
		when(is(wire.Begin), "data", Schema{"type": "null"}),
		when(is(wire.Progress), "data", Schema{"type": "object"}),
		when(is(wire.Warn), "data", message),
		when(is(wire.Ask), "data", m.of(reflect.TypeFor[run.AskRecord]())),
		when(is(wire.Would), "data", m.of(reflect.TypeFor[agent.Would]())),
		when(is(wire.Judged), "data", m.of(reflect.TypeFor[stage.Judged]())),
		when(is(wire.Account), "data", Schema{"type": "object", "properties": Schema{"entries": Schema{"type": "array", "items": entry}}, "required": []string{"entries"}}),
		// Of a stage or a run; of a host for which no run has told it; of all hosts.
		when(is(wire.End), "data", anyOf(m.of(reflect.TypeFor[run.Ended]()), ended, m.of(reflect.TypeFor[show.Summary]()))),
	}
	for _, row := range rows() {
		all = append(all, when(of(wire.Result, row.Name), "data", m.result(row)))
	}
	root["allOf"] = append(all,
		when(of(wire.Result, "preflight"), "data", m.of(reflect.TypeFor[run.Preflight]())),
		when(of(wire.Result, "state"), "data", m.of(reflect.TypeFor[run.State]())))
	return m.root("an event of spoolsweep", root)
}

// results is the document of -o json of the commands that work on hosts.
func results() Schema {
	m := newMaker(false)
	m.of(reflect.TypeFor[show.Document]())
	root := m.definitions["show.Document"]
	delete(m.definitions, "show.Document")
	var of, alone []Schema
	for _, row := range rows() {
		found := m.result(row)
		of = append(of, when(Schema{"stage": Schema{"const": row.Name}}, "result", anyOf(found, Schema{"type": "object", "maxProperties": 0})))
		command := row.Name
		if command == "count" {
			command = "health"
		}
		alone = append(alone, when(Schema{"command": Schema{"const": command}}, "hosts",
			Schema{"items": Schema{"properties": Schema{"result": found}}}))
	}
	m.definitions["show.Stage"]["allOf"] = of
	root["allOf"] = alone
	host := m.definitions["show.Host"]["properties"].(map[string]Schema)
	host["status"] = statuses()
	return m.root("what spoolsweep prints with -o json", root)
}
