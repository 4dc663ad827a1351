package schema

import "spoolsweep/spool/pattern"

// rules defines what the variables spam and ham may be, as pattern.Compile takes it.
// With templates there may be one wherever a text may stand.
func rules(templates bool) map[string]Schema {
	text := Schema{"type": "string", "minLength": 1, "maxLength": pattern.MaxPattern}
	patterns := func(one Schema) Schema { return anyOf(one, Schema{"type": "array", "minItems": 1, "items": one}) }
	count := Schema{"type": "integer", "minimum": 1, "maximum": 1_000_000_000}
	may := func(s Schema) Schema {
		if templates {
			return anyOf(template, s)
		}
		return s
	}
	properties := map[string]Schema{
		"all":      about("each of these rules matches", ref("members")),
		"at_least": about("so many of the rules behind of match", may(count)),
		"of":       about("the rules that at_least counts", ref("members")),
		"not":      about("this rule does not match", ref("rule")),
		"lines":    about("so many lines match, over the whole list", may(count)),
	}
	others := map[string]any{"all": false, "not": false} // what has no lines beside it
	named := Schema{}
	for _, f := range pattern.Forms() {
		one := text
		switch {
		case f.Compared != "":
			one = Schema{"type": "string", "pattern": f.Compared}
			if f.Bare {
				one = anyOf(one, Schema{"type": "integer", "minimum": 0})
			}
			one = may(one)
		case f.Words != nil:
			one = may(enum(f.Words...))
		}
		name := string(f.Field)
		if !f.Text {
			others[name] = false
		}
		switch name {
		case "any":
			properties[name] = about("any of these rules matches; or, with patterns, a field: envelope, header and body", anyOf(ref("members"), patterns(text)))
		case "header.NAME":
			named[headerNamed] = patterns(one)
		default:
			properties[name] = patterns(one)
		}
	}
	one := Schema{
		"type": "object", "properties": properties, "patternProperties": named, "additionalProperties": false,
		// One field or group, and what goes with it.
		"if":   Schema{"required": []string{"at_least"}},
		"then": Schema{"required": []string{"of"}, "maxProperties": 2},
		"else": Schema{
			"properties": map[string]any{"of": false},
			"if":         Schema{"required": []string{"lines"}},
			"then":       Schema{"minProperties": 2, "maxProperties": 2, "properties": others},
			"else":       Schema{"minProperties": 1, "maxProperties": 1},
		},
	}
	return map[string]Schema{
		"fieldOrGroup": one,
		"rule":         anyOf(ref("fieldOrGroup"), Schema{"type": "array", "minItems": 1, "items": ref("rule")}),
		"members":      anyOf(ref("fieldOrGroup"), Schema{"type": "array", "minItems": 1, "items": ref("rule")}),
		"rules": anyOf(may(Schema{"type": "null"}), enum(""), Schema{"type": "object", "maxProperties": 0},
			Schema{"type": "array", "items": ref("rule")}, ref("fieldOrGroup")),
	}
}

// headerNamed are the names of fields like header.List-Id.
const headerNamed = `^header\.[!-9;-~]+$`

// rulesFile is a file of variables for -e: rules, and whatever a playbook takes.
func rulesFile() Schema {
	m := newMaker(true)
	m.definitions = rules(false)
	return m.root("variables for -e @FILE of spoolsweep: rules that tell spam from ham", Schema{
		"type": "object",
		"properties": map[string]Schema{
			"spam": about("what is spam", ref("rules")),
			"ham":  about("what is ham all the same", ref("rules")),
		},
	})
}
