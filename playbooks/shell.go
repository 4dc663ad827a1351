package playbooks

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"text/template/parse"

	"spoolsweep/playbooks/strict"
	"spoolsweep/spool/stage"
)

// In a line for the shell each value that a template puts in is one word,
// whatever stands in it. That holds only where the line itself is outside of
// quotes, so a template inside of them is refused, and with it what hides from
// a reader of one pass where quotes begin and end.

// unquoted is a value that the line's author wants as it is: {{ .x | raw }}.
type unquoted struct{ value any }

func (u unquoted) String() string { return fmt.Sprint(u.value) }

// quoteName is the function that is put behind every pipeline of a line.
const quoteName = "_quote"

// quote makes a value one word for the shell, and a list so many.
func quote(v any) (string, error) {
	if u, ok := v.(unquoted); ok {
		return u.String(), nil
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Invalid:
		return "", errors.New("a value is missing")
	case reflect.Map, reflect.Struct:
		return "", errors.New("a map is no word of a command line")
	case reflect.Slice:
		words := make([]string, r.Len())
		for i := range words {
			word, err := quote(r.Index(i).Interface())
			if err != nil {
				return "", err
			}
			words[i] = word
		}
		return strings.Join(words, " "), nil
	}
	word := fmt.Sprint(v)
	if strings.ContainsRune(word, 0) {
		return "", errors.New("a null byte is in no word of a command line")
	}
	return stage.Quote(word), nil
}

// line is value for a line of the shell. A line that is one template is the
// variable's own: a command, not a word of one.
func (r *resolver) line(v *strict.Value) (*strict.Value, error) {
	return v.Rewrite(func(v *strict.Value) (*strict.Value, error) {
		if !isTemplate(v) {
			return v, nil
		}
		t, err := compile(v)
		if err != nil {
			return nil, err
		}
		if only(t.Root) != nil {
			return r.template(v)
		}
		var s shellState
		if err := s.list(t.Root); err != nil {
			return nil, v.Errorf("%v", err).WithHint("or raw: true, and the quotes are yours")
		}
		values, err := r.read(v, t.Root)
		if err != nil {
			return nil, err
		}
		var text strings.Builder
		if err := t.Execute(&text, values); err != nil {
			return nil, v.Errorf("template: %v", cause(err))
		}
		return v.With(text.String()), nil
	})
}

// raw says whether a stage's lines are to be left as their author wrote them.
func (r *resolver) raw(e entry) (bool, error) {
	if e.args.Kind != strict.Map || !e.row.Shell("run") {
		return false, nil
	}
	at := e.args.Get("raw")
	if at == nil {
		return false, nil
	}
	v, err := r.value(at)
	if err != nil {
		return false, err
	}
	raw, err := truth(v)
	return raw, in("raw", err)
}

// shellState is where in the shell's grammar a line has come to.
type shellState struct {
	quote   rune // ' or " where one is open, # in a comment
	escaped bool // the last character was a backslash
	word    bool // a word has begun: a # is no comment
}

var (
	errInQuotes = errors.New("a template stands inside quotes: it is quoted by itself, so leave them out")
	errBranches = errors.New("quotes that one branch of a template opens and another does not")
	errTooDeep  = errors.New("a template in a line with `, <<, $', a ${ } that is no plain name, or $( ) inside quotes: where its quotes begin and end cannot be told")

	plainName = regexp.MustCompile(`^\$\{[A-Za-z0-9_]+\}`)
)

// list goes through a part of a line, and has every pipeline of it quoted.
func (s *shellState) list(l *parse.ListNode) error {
	if l == nil {
		return nil
	}
	for _, n := range l.Nodes {
		var err error
		switch n := n.(type) {
		case *parse.TextNode:
			err = s.text(string(n.Text))
		case *parse.ActionNode:
			err = s.action(n)
		case *parse.IfNode:
			err = s.branch(&n.BranchNode, false)
		case *parse.WithNode:
			err = s.branch(&n.BranchNode, false)
		case *parse.RangeNode:
			err = s.branch(&n.BranchNode, true)
		case *parse.CommentNode, *parse.BreakNode, *parse.ContinueNode:
		default:
			err = fmt.Errorf("%s is not for a command line", n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *shellState) branch(b *parse.BranchNode, again bool) error {
	before := *s
	if err := s.list(b.List); err != nil {
		return err
	}
	other := before
	if err := other.list(b.ElseList); err != nil {
		return err
	}
	if s.quote != other.quote || s.escaped != other.escaped || again && (s.quote != before.quote || s.escaped != before.escaped) {
		return errBranches
	}
	s.word = s.word && other.word && (!again || before.word) // a # is taken for a comment, where it may be one
	return nil
}

func (s *shellState) action(n *parse.ActionNode) error {
	if len(n.Pipe.Decl) > 0 {
		return nil // it prints nothing
	}
	if s.quote != 0 || s.escaped {
		return errInQuotes
	}
	s.word = true
	n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{
		NodeType: parse.NodeCommand, Args: []parse.Node{parse.NewIdentifier(quoteName)},
	})
	return nil
}

func (s *shellState) text(text string) error {
	for i, c := range text {
		rest := text[i:]
		switch {
		case s.escaped:
			s.escaped, s.word = false, true
			continue
		case s.quote == '#':
			if c == '\n' {
				s.quote, s.word = 0, false
			}
			continue
		case s.quote == '\'':
			if c == '\'' {
				s.quote = 0
			}
			continue
		}
		switch {
		case c == '\\':
			s.escaped = true
		case c == '`', strings.HasPrefix(rest, "<<"), strings.HasPrefix(rest, "$'"),
			strings.HasPrefix(rest, "${") && !plainName.MatchString(rest),
			s.quote == '"' && strings.HasPrefix(rest, "$("):
			return errTooDeep
		case c == '"' && s.quote == '"':
			s.quote = 0
		case c == '"' && s.quote == 0, c == '\'' && s.quote == 0:
			s.quote, s.word = c, true
		case s.quote == 0 && c == '#' && !s.word:
			s.quote = '#'
		case s.quote == 0:
			s.word = !strings.ContainsRune(" \t\r\n;&|()<>", c)
		}
	}
	return nil
}
