package pattern

import (
	"regexp"
	"regexp/syntax"
	"slices"
	"unicode/utf8"
)

// maxStates bounds an automaton: 64 KiB. An expression that needs more is left to
// package regexp.
const maxStates = 256

// automaton tells whether an expression matches a line, at one step a byte where
// package regexp goes through all the places where a match may stand: it is made of
// the expression's program state by state, as lines call for them. What it does not
// know it asks package regexp: lines that are not ASCII, and expressions with an
// assertion other than for the beginning and the end of the text.
//
// It belongs to one goroutine.
type automaton struct {
	re     *regexp.Regexp
	prog   *syntax.Prog // nil: re does it all
	states []automatonState
	known  map[string]uint16
	set    []uint32 // of a state that is being made
	seen   []bool   // of each instruction
	key    []byte
}

// automatonState is a set of places in the program: those that wait for a character,
// and those that wait for the text's end.
type automatonState struct {
	next  [utf8.RuneSelf]uint16 // 0 where it was never asked for
	set   []uint32
	atEnd bool // a match, if the text ends here
}

// The states that lead nowhere else.
const (
	unknownState uint16 = iota
	matchedState
	deadState
	beginState // the first real one
)

func newAutomaton(re *regexp.Regexp) *automaton {
	a := &automaton{re: re}
	tree, err := syntax.Parse(re.String(), syntax.Perl)
	if err != nil { // it compiled
		return a
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return a
	}
	for i := range prog.Inst {
		const easy = syntax.EmptyBeginText | syntax.EmptyEndText
		if in := &prog.Inst[i]; in.Op == syntax.InstEmptyWidth && syntax.EmptyOp(in.Arg)&^easy != 0 {
			return a
		}
	}
	a.prog, a.seen, a.known = prog, make([]bool, len(prog.Inst)), map[string]uint16{}
	a.states = make([]automatonState, beginState)
	a.begin()
	if a.follow(uint32(prog.Start), true, false) || a.state() != beginState {
		a.prog = nil // it matches the empty text, or nothing
	}
	return a
}

// match tells whether the expression matches the line, which has no newline.
func (a *automaton) match(line []byte) bool {
	if a.prog == nil || len(line) == 0 {
		return a.re.Match(line)
	}
	at := beginState
	for _, c := range line {
		if c >= utf8.RuneSelf {
			return a.re.Match(line)
		}
		next := a.states[at].next[c]
		if next <= deadState {
			if next == unknownState {
				if next = a.step(at, c); next == unknownState {
					a.prog, a.states, a.known = nil, nil, nil
					return a.re.Match(line)
				}
			}
			switch next {
			case matchedState:
				return true
			case deadState:
				return false
			}
		}
		at = next
	}
	return a.states[at].atEnd
}

// step makes the state that c leads to; unknownState if there are too many.
func (a *automaton) step(at uint16, c byte) uint16 {
	a.begin()
	matched := false
	for _, pc := range a.states[at].set {
		if in := &a.prog.Inst[pc]; in.Op != syntax.InstEmptyWidth && in.MatchRune(rune(c)) {
			matched = a.follow(in.Out, false, false) || matched
		}
	}
	matched = a.follow(uint32(a.prog.Start), false, false) || matched // a match may begin anywhere
	next := matchedState
	if !matched {
		next = a.state()
	}
	a.states[at].next[c] = next
	return next
}

// begin begins a set.
func (a *automaton) begin() {
	a.set = a.set[:0]
	clear(a.seen)
}

// follow adds what is reached from pc without a character, and tells whether that is
// a match.
func (a *automaton) follow(pc uint32, first, last bool) bool {
	if a.seen[pc] {
		return false
	}
	a.seen[pc] = true
	switch in := &a.prog.Inst[pc]; in.Op {
	case syntax.InstMatch:
		return true
	case syntax.InstAlt, syntax.InstAltMatch:
		one := a.follow(in.Out, first, last)
		return a.follow(in.Arg, first, last) || one
	case syntax.InstCapture, syntax.InstNop:
		return a.follow(in.Out, first, last)
	case syntax.InstEmptyWidth:
		if syntax.EmptyOp(in.Arg)&syntax.EmptyBeginText != 0 && !first {
			return false
		}
		if syntax.EmptyOp(in.Arg)&syntax.EmptyEndText != 0 && !last {
			a.set = append(a.set, pc)
			return false
		}
		return a.follow(in.Out, first, last)
	case syntax.InstFail:
	default:
		a.set = append(a.set, pc)
	}
	return false
}

// state is the state of the set; unknownState if it is one too many.
func (a *automaton) state() uint16 {
	if len(a.set) == 0 {
		return deadState
	}
	slices.Sort(a.set)
	a.key = a.key[:0]
	for _, pc := range a.set {
		a.key = append(a.key, byte(pc), byte(pc>>8), byte(pc>>16), byte(pc>>24))
	}
	if at, ok := a.known[string(a.key)]; ok {
		return at
	}
	if len(a.states) == maxStates {
		return unknownState
	}
	s := automatonState{set: slices.Clone(a.set)}
	a.begin()
	for _, pc := range s.set {
		if in := &a.prog.Inst[pc]; in.Op == syntax.InstEmptyWidth {
			s.atEnd = a.follow(in.Out, false, true) || s.atEnd
		}
	}
	at := uint16(len(a.states))
	a.states = append(a.states, s)
	a.known[string(a.key)] = at
	return at
}
