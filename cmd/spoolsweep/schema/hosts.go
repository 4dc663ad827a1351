package schema

import (
	"reflect"
	"strings"
	"time"

	"spoolsweep/remote/inventory"
	"spoolsweep/spool/stage"
)

// hostDocs explain the host variables, as inventory.example.yaml does.
var hostDocs = map[string]string{
	"postfix_instances":        "of several Postfix on a host, - the default one; default: those enabled by postmulti",
	"postfix_config_directory": "main.cf of the one Postfix to work on, whatever postmulti lists",
	"postfix_stop":             "default: whatever owns the running master",
	"postfix_start":            "likewise",
	"postfix_status":           "exit 0 means that it runs; of several MAIL_CONFIG names the one that is meant",
	"disable_account":          "command; the account becomes its last argument: spoolsweep manual accounts",
	"enable_account":           "command that takes that back; the account becomes its last argument",
	"stop_source":              "command that stops a script or a user who floods; that becomes its last argument",
	"auth_service":             "restarted after that: a service, a command, none; auto: saslauthd where it is active",
	"mail_log":                 "a file, or journal; default: maillog_file, else this, else the journal",
	"queue_warn":               "a queue with more messages than this is full",
	"queue_crit":               "and flooded with more than this",
	"leftover_warn":            "health warns of what is set aside for longer",
	"ledger_keep":              "how long after its last message left a run's ledger is kept",
	"state_directory":          "records of runs, for root alone",
	"agent_directory":          "where the agent is put",
}

// hosts is an inventory in YAML. Its definition variables is a file of group_vars or
// host_vars.
func hosts() Schema {
	m := newMaker(true)
	nullable := func(name string) Schema { return anyOf(ref(name), Schema{"type": "null"}) }
	below := func(name string) Schema {
		return Schema{"type": []string{"object", "null"}, "additionalProperties": nullable(name)}
	}
	group := map[string]Schema{}
	for _, key := range inventory.GroupKeys() {
		switch key {
		case "vars":
			group[key] = about("variables of all hosts in the group", nullable("variables"))
		case "hosts":
			group[key] = about("names of hosts, or ranges such as mx[01:20].example.org, each with variables of its own", below("variables"))
		case "children":
			group[key] = about("groups in the group", below("group"))
		}
	}
	m.definitions["group"] = Schema{"type": "object", "properties": group, "additionalProperties": false}
	m.definitions["variables"] = Schema{"type": "object", "properties": variables()}
	return m.root("an inventory, as Ansible and spoolsweep read it", below("group"))
}

// variables are those that spoolsweep reads; others may stand among them.
func variables() map[string]Schema {
	m := newMaker(true)
	properties := map[string]Schema{"agent_directory": {"type": "string"}}
	for i := range reflect.TypeFor[stage.Vars]().NumField() {
		f := reflect.TypeFor[stage.Vars]().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Tag.Get("inventory") == "-" {
			continue
		}
		var s Schema
		switch {
		case f.Type == reflect.TypeFor[time.Duration](): // written as text there
			s = anyOf(Schema{"type": "string", "pattern": `^([0-9]+d)?(` + durationForm + `)*$`, "minLength": 1}, Schema{"const": 0})
		default:
			s = m.of(f.Type)
		}
		properties[name] = s
	}
	for name, s := range properties {
		properties[name] = about(hostDocs[name], anyOf(template, s))
	}
	own, ansible := inventory.Settings()
	keys := map[string]Schema{}
	t := reflect.TypeOf(own).Elem()
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("json"); name != "-" {
			keys[name] = setting(t.Field(i).Type, false)
		}
	}
	properties["ssh"] = about("how to connect; what is left out comes from ~/.ssh/config", Schema{"type": []string{"object", "null"}, "properties": keys, "additionalProperties": false})
	for name, field := range ansible {
		properties[name] = setting(reflect.TypeOf(field).Elem(), true)
	}
	return properties
}

// setting is one of a connection. Ansible takes a number or a yes as text, too, and a
// number for a name.
func setting(t reflect.Type, loose bool) Schema {
	null := Schema{"type": "null"}
	port := Schema{"type": "integer", "minimum": 1, "maximum": 65535}
	text := Schema{"type": "string", "pattern": `^([^-]|$)`}
	number := Schema{"type": "string", "pattern": countForm}
	switch kind := t.Elem().Kind(); {
	case kind == reflect.Int && loose:
		return anyOf(template, port, number, null)
	case kind == reflect.Int:
		return anyOf(template, port, null)
	case kind == reflect.Bool && loose:
		return anyOf(template, yes(), Schema{"type": "string", "pattern": `^([Tt]rue|TRUE|[Ff]alse|FALSE|[Yy]es|YES|[Nn]o|NO|[Oo]n|ON|[Oo]ff|OFF)$`}, null)
	case kind == reflect.Bool:
		return anyOf(template, yes(), null)
	case loose:
		return anyOf(text, Schema{"type": "integer"}, null)
	}
	return anyOf(text, null)
}
