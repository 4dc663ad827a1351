package strict

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// Error is a mistake in a file.
type Error struct {
	File    string
	Line    int // 0: the file as a whole
	Column  int
	Message string
	Hint    string // what to write instead, without the brackets it is shown in

	cause error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	b.WriteString(e.Message)
	if e.Hint != "" {
		b.WriteString(" (" + e.Hint + ")")
	}
	return b.String()
}

// Unwrap returns the error that was located by [Value.Locate], if any.
func (e *Error) Unwrap() error { return e.cause }

// Errorf returns an error that stands where v stands.
func (v *Value) Errorf(format string, args ...any) *Error {
	return &Error{File: v.File, Line: v.Line, Column: v.Column, Message: fmt.Sprintf(format, args...)}
}

// Locate gives err the place of v.
func (v *Value) Locate(err error) *Error {
	e := v.Errorf("%v", err)
	e.cause = err
	return e
}

// WithHint returns the error with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	with := *e
	with.Hint = fmt.Sprintf(format, args...)
	return &with
}

// In returns the error with the name of what holds the mistake before its message.
func (e *Error) In(name string) *Error {
	in := *e
	in.Message = name + ": " + e.Message
	return &in
}

// Unknown returns the error for a name that is not one of the known ones: v is
// the name, what says what it should have been ("key", "stage", "variable").
func (v *Value) Unknown(what string, known []string) *Error {
	e := v.Errorf("unknown %s %s", what, quoteShort(v.Text))
	if near := Nearest(v.Text, known); near != "" {
		return e.WithHint("did you mean %q?", near)
	}
	if len(known) > 0 {
		return e.WithHint("known: %s", strings.Join(known, ", "))
	}
	return e
}

// Wanted returns the error for a value of the wrong type.
func (v *Value) Wanted(want string) *Error {
	return v.Errorf("expected %s, found %s", want, v.describe())
}

// Nearest returns the known word that was most likely meant, or "" if none is
// near: up to two letters away, more in long words, fewer in short ones.
func Nearest(word string, known []string) string {
	return Within(word, known, max(1, min(2, len(word)/2), len(word)/3))
}

// Within returns the known word with the fewest letters to change (the first of
// several), if that is at most distance, else "". Case does not count, nor
// whether a word is joined by - or _.
func Within(word string, known []string, distance int) string {
	fold := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }
	word = fold(word)
	nearest, least := "", distance+1
	for _, k := range known {
		// A name cannot be nearer than its length is, and the distance of two
		// very long words takes long to find.
		if n := len(k) - len(word); n >= 4*least || -n >= 4*least {
			continue
		}
		if d := levenshtein.ComputeDistance(word, fold(k)); d < least {
			nearest, least = k, d
		}
	}
	return nearest
}

func (v *Value) describe() string {
	switch v.Kind {
	case Null:
		return "nothing"
	case Bool:
		return "the truth value " + v.Text
	case Int, Float:
		return "the number " + v.Text
	case String:
		return "the text " + quoteShort(v.Text)
	case List:
		return "a list"
	}
	if v.Get(Vaulted) != nil {
		return "a value encrypted by ansible-vault"
	}
	return "a map"
}

// quoteShort quotes text for a message, where a page of it would be no help.
func quoteShort(text string) string {
	const most = 60
	if r := []rune(text); len(r) > most {
		return fmt.Sprintf("%q...", string(r[:most]))
	}
	return fmt.Sprintf("%q", text)
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }
