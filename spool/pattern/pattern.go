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
//   - sender, recipient, recipient_left, sasl_user, client: the whole value, case
//     folded; see [Compile].
//   - raw: a part of one printable run of the queue file, as in
//     strings FILE | grep -c -F; case kept.
//   - header: a part of one header line "Name: value", unfolded and decoded, case
//     folded; header.NAME and subject: a part of the value of one such line.
//   - body: a part of one line of the decoded text, case folded.
//   - any: a part of an envelope value, a header line or a line of the body.
//   - queue: the name of the queue.
//   - size, age, recipients, recipients_left, source_count: a comparison.
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
	Raw            Field = "raw"
	Sender         Field = "sender"
	Recipient      Field = "recipient"
	RecipientLeft  Field = "recipient_left" // still to be tried
	SASLUser       Field = "sasl_user"
	Client         Field = "client"
	Header         Field = "header" // any line of the header, or with a name, header.NAME, the values of that one
	Subject        Field = "subject"
	Body           Field = "body"
	Any            Field = "any" // envelope, header and body; with rules in place of patterns it is the group
	Queue          Field = "queue"
	Size           Field = "size"            // of the message, as mailq shows it
	Age            Field = "age"             // since it arrived
	Recipients     Field = "recipients"      // how many
	RecipientsLeft Field = "recipients_left" // how many are still to be tried
	SourceCount    Field = "source_count"    // messages of its largest source, see Message.Sources
)

// fields is every field there is, in the order in which errors list them.
var fields = []Field{
	Raw, Sender, Recipient, RecipientLeft, SASLUser, Client, Header, headerNamed, Subject, Body, Any,
	Queue, Size, Age, Recipients, RecipientsLeft, SourceCount,
}

// headerNamed stands for header.List-Id and its like.
const headerNamed Field = "header.NAME"

// text tells whether the field is matched line by line in some text.
func (f Field) text() bool {
	switch f {
	case Raw, Header, headerNamed, Subject, Body, Any:
		return true
	}
	return false
}

// groups are the words that combine rules.
var groups = []string{"any", "all", "at_least", "not"}

// Rules are the compiled rules of spam and ham. They do not change and may be
// used by many goroutines.
type Rules struct {
	spam, ham []rule // each the members of the top-level any
	leaves    []leaf
	overlap   int  // the longest literal
	sources   bool // some leaf is on source_count
	needs     need // texts that any leaf is matched against
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
	op    op
	leaf  int
	n     int // of at_least
	kids  []*node
	needs need // texts that its leaves are matched against
}

// leaf is one field with its patterns: any of them.
type leaf struct {
	field   Field
	label   string // the field as it was written: header.List-Id
	name    string
	head    []byte // of header.NAME: "name:", folded
	lines   int    // matching lines that it takes; 1 for all that is no text
	needs   need   // texts that it is matched against; none of a leaf on a value
	values  []value
	whole   map[string]struct{} // plain patterns compared whole, folded; names of queues
	lengths uint64              // of those, modulo 64
	bounds  []bound
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

// OnText tells of each spam rule whether lines are counted for it.
func (r *Rules) OnText() []bool {
	on := make([]bool, len(r.spam))
	for i := range r.spam {
		r.spam[i].node.each(func(leaf int) { on[i] = on[i] || r.leaves[leaf].needs != 0 })
	}
	return on
}

// NeedsSources tells whether some rule is on source_count, so that all messages
// have to be counted by their sources before the first is judged.
func (r *Rules) NeedsSources() bool { return r.sources }

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
