package pattern

import "slices"

// Form is how a field and its patterns are written, for whoever describes rules:
// a schema that editors check them by.
type Form struct {
	Field Field
	// Text says that it may have lines beside it.
	Text bool
	// Compared is the regular expression of its comparisons; "" where it has patterns.
	Compared string
	Bare     bool // a comparison may be a bare number
	// Words are all that it may be; none: any text.
	Words []string
}

// MaxPattern is the longest pattern, in bytes.
const MaxPattern = maxPattern

// Groups are the words that combine rules.
func Groups() []string { return slices.Clone(groups) }

// Forms are those of all fields, [Any] among them, which is a group too; header.NAME
// stands for any name.
func Forms() []Form {
	var all []Form
	for _, f := range fields {
		form := Form{Field: f, Text: f.text()}
		if f == Queue {
			form.Words = slices.Clone(queues)
		}
		if g, ok := comparisons[f]; ok {
			form.Bare = g.bare
			unit := ""
			for _, u := range g.units {
				unit += u.name
			}
			form.Compared = compared(unit, g.bare)
		}
		all = append(all, form)
	}
	return all
}

// compared is the expression of a comparison whose number has one of these units.
func compared(units string, bare bool) string {
	expression := `^\s*(`
	for i, op := range operators {
		if i > 0 {
			expression += "|"
		}
		expression += op
	}
	expression += `)?\s*[0-9]+`
	if units != "" {
		expression += `\s*[`
		for _, u := range units {
			expression += string(u) + string(u-'a'+'A')
		}
		expression += `]`
		if bare {
			expression += `?`
		}
	}
	return expression + `\s*$`
}
