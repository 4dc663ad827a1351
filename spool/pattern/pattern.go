// Package pattern holds the rules that tell spam from ham, and the text they see
// of a message: section 6 of the design.
//
// [Compile] turns the variables spam and ham into [Rules], which never change
// after that. Each goroutine takes a [Judge] from them, which reads one queue file
// after the other through [spoolsweep/spool/queuefile] and says of each which
// rules matched and what that makes it. Rules on the envelope never read the
// content; memory is bounded whatever the message's size.
//
// What a plain pattern means depends on the field:
//
//   - sender, recipient, sasl_user, client: the whole value, case folded; see
//     [Compile].
//   - raw: a part of one printable run of the queue file, as in
//     strings FILE | grep -c -F; case kept.
//   - body: a part of one line of the decoded text, case folded.
//
// /.../ is an RE2 regular expression, case kept unless (?i), matched against the
// value or the single line. Text is matched line by line, so a pattern never
// reaches over a line's end.
package pattern

import (
	"fmt"
	"strings"
)

// Verdict is what a message is.
type Verdict string

const (
	Spam       Verdict = "spam"
	Ham        Verdict = "ham"
	Unreadable Verdict = "unreadable" // not what Postfix accepts as whole
	// Incomplete is a message that was never accepted: its mode says so, which
	// the caller sees and a Judge does not.
	Incomplete Verdict = "incomplete"
)

// Field is what a pattern is compared with.
type Field string

const (
	Raw       Field = "raw"
	Sender    Field = "sender"
	Recipient Field = "recipient"
	SASLUser  Field = "sasl_user"
	Client    Field = "client"
	Body      Field = "body"
)

// fields is every field there is, in the order in which errors list them.
var fields = []Field{Raw, Sender, Recipient, SASLUser, Client, Body}

// text tells whether the field is matched line by line in the file's text.
func (f Field) text() bool { return f == Raw || f == Body }

// groups are the words that combine rules.
var groups = []string{"any", "all", "at_least", "not"}

// Rules are the compiled rules of spam and ham. They do not change and may be
// used by many goroutines.
type Rules struct {
	spam, ham []rule // each the members of the top-level any
	leaves    []leaf
	overlap   int // the longest literal
}

// rule is one member of the top-level any of spam or ham.
type rule struct {
	name string
	node *node
}

// op is how a node's members decide about it.
type op byte

const (
	isLeaf op = iota
	isAny
	isAll
	isAtLeast
	isNot
)

// node is a group, or a leaf by its number.
type node struct {
	op   op
	leaf int
	n    int // of at_least
	kids []*node
}

// leaf is one field with its patterns: any of them.
type leaf struct {
	field   Field
	name    string
	lines   int // matching lines that it takes; 1 for envelope fields
	values  []value
	whole   map[string]struct{} // plain patterns compared whole, folded
	finders []finder
	slow    []string // patterns that have to try every line
}

// Empty tells whether there is no spam rule.
func (r *Rules) Empty() bool { return len(r.spam) == 0 }

// Spam names the spam rules in order: the members of a top-level any or list, one
// for any other form. No two names are the same.
func (r *Rules) Spam() []string { return names(r.spam) }

// Ham names the ham rules, as Spam does.
func (r *Rules) Ham() []string { return names(r.ham) }

// Slow names the patterns that no literal can be looked for first, so that a
// regular expression is tried on every line of every message.
func (r *Rules) Slow() []string {
	var slow []string
	for i := range r.leaves {
		slow = append(slow, r.leaves[i].slow...)
	}
	return slow
}

func names(rules []rule) []string {
	var s []string
	for _, r := range rules {
		s = append(s, r.name)
	}
	return s
}

// Error says what is wrong with a rule, and where it stands in the variable.
type Error struct {
	Path    []any // such as "spam", "any", 2, "sender"
	Message string
	Near    string // the nearest known name, if a name is unknown
}

func (e *Error) Error() string {
	var s strings.Builder
	for i, p := range e.Path {
		switch p := p.(type) {
		case int:
			fmt.Fprintf(&s, "[%d]", p)
		default:
			if i > 0 {
				s.WriteByte('.')
			}
			fmt.Fprint(&s, p)
		}
	}
	if s.Len() > 0 {
		s.WriteString(": ")
	}
	s.WriteString(e.Message)
	if e.Near != "" {
		fmt.Fprintf(&s, " (did you mean %s?)", e.Near)
	}
	return s.String()
}
