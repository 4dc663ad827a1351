package pattern

import (
	"bytes"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// maxAlternatives bounds the literals looked for in place of one expression.
const maxAlternatives = 16

// finder looks for one literal. Where re is set, the literal is only the reason
// to try the expression on a line; an empty literal is seen in every line.
type finder struct {
	literal []byte
	folded  bool // look in the folded text
	re      *regexp.Regexp
}

// expression compiles a pattern of the form /.../; is tells whether it has it.
func expression(s string, p path) (re *regexp.Regexp, is bool, err error) {
	if len(s) < 2 || s[0] != '/' || s[len(s)-1] != '/' {
		return nil, false, nil
	}
	re, bad := regexp.Compile(s[1 : len(s)-1])
	if bad != nil {
		return nil, true, p.errorf("%s: %s", s, strings.TrimPrefix(bad.Error(), "error parsing regexp: "))
	}
	if re.MatchString("") {
		hint := ""
		if s == "/^$/" {
			hint = "; the null sender is \"<>\""
		}
		return nil, true, p.errorf("%s matches the empty string, and so everything%s", s, hint)
	}
	return re, true, nil
}

// addText adds a pattern to a leaf on a field of text.
func (l *leaf) addText(s string, p path) error {
	re, is, err := expression(s, p)
	if err != nil {
		return err
	}
	if !is {
		if strings.ContainsAny(s, "\r\n") {
			return p.errorf("a pattern with a line break never matches: text is matched line by line")
		}
		if l.field != Raw {
			l.finders = append(l.finders, finder{literal: []byte(foldString(s)), folded: true})
			return nil
		}
		for i := range len(s) {
			if !printable[s[i]] {
				return p.errorf("raw sees printable ASCII only, as strings does, and never %q; use body", s)
			}
		}
		l.finders = append(l.finders, finder{literal: []byte(s)})
		return nil
	}
	tree, bad := syntax.Parse(re.String(), syntax.Perl)
	if bad != nil { // it compiled
		return p.errorf("%s: %v", s, bad)
	}
	literals := required(tree.Simplify())
	if len(literals) == 0 {
		l.slow = append(l.slow, l.label+":"+s)
		l.finders = append(l.finders, finder{re: re})
	}
	for _, f := range literals {
		if bytes.IndexByte(f.literal, '\n') >= 0 {
			return p.errorf("%s reaches over a line break and never matches: text is matched line by line", s)
		}
		f.re = re
		l.finders = append(l.finders, f)
	}
	return nil
}

// required is a set of literals of which every match holds at least one; nil if
// there is no such set.
func required(re *syntax.Regexp) []finder {
	switch re.Op {
	case syntax.OpLiteral:
		if f, ok := longest(re.Rune, re.Flags&syntax.FoldCase != 0); ok {
			return []finder{f}
		}
	case syntax.OpCapture, syntax.OpPlus:
		return required(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return required(re.Sub[0])
		}
	case syntax.OpConcat:
		var best []finder
		for _, sub := range re.Sub {
			if set := required(sub); better(set, best) {
				best = set
			}
		}
		return best
	case syntax.OpAlternate:
		var all []finder
		for _, sub := range re.Sub {
			set := required(sub)
			if len(set) == 0 {
				return nil
			}
			all = append(all, set...)
		}
		if len(all) <= maxAlternatives {
			return all
		}
	}
	return nil
}

// better tells which set is seen more seldom: the one whose shortest literal is
// longer, then the one with fewer.
func better(a, b []finder) bool {
	if len(a) == 0 || len(b) == 0 {
		return len(a) > 0
	}
	short := func(set []finder) int {
		n := len(set[0].literal)
		for _, f := range set {
			n = min(n, len(f.literal))
		}
		return n
	}
	if s, t := short(a), short(b); s != t {
		return s > t
	}
	return len(a) < len(b)
}

// longest is the longest run of characters in a literal that can be looked for:
// without those that (?i) takes for others of another length, and without U+FFFD,
// which an expression sees in any byte that is no UTF-8.
func longest(runes []rune, fold bool) (finder, bool) {
	var best, run []byte
	for _, r := range runes {
		if r == utf8.RuneError || fold && !foldsAlone(r) {
			run = run[:0:0]
			continue
		}
		if fold {
			r = foldRune(r)
		}
		run = utf8.AppendRune(run, r)
		if len(run) > len(best) {
			best = run
		}
	}
	return finder{literal: bytes.Clone(best), folded: fold}, len(best) > 0
}
