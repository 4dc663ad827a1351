package pattern

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"
)

// checkAutomaton: an automaton matches what its expression matches, also when it is
// asked again.
func checkAutomaton(t *testing.T, re *regexp.Regexp, lines ...string) {
	t.Helper()
	a := newAutomaton(re)
	for range 2 {
		for _, line := range lines {
			if got, want := a.match([]byte(line)), re.MatchString(line); got != want {
				t.Fatalf("%s in %q: %t, want %t", re, line, got, want)
			}
		}
	}
}

var expressions = []string{
	`https?:\S+\/media\.php`, `(?i)wallet\s+[13][a-km-z1-9]{25,34}`, `^a`, `a$`, `^a$`, `^(a|b+)*c`, `(^a|b$)`, `a|^$`, `.`, `a.b`, `(?s)a.b`, `[^a]`,
	`(?i)k`, `\bfoo\b`, `(?m)^a$`, `\Aa\z`, `(a*)+b`, `(a|ab)(c|bcd)`, `x{2,5}y`, `[13][ab]{3,9}c`, `[a-z]+@[a-z]+\.test`, `é`, `(?i)s`, `\x{fffd}`, `[[:^ascii:]]`,
	`^^a`, `a$$`, `$a`, `a^`, `(a|b)*abb(a|b){6}`, `(a|b)*a(a|b){12}`, `[^\x00-\x{10FFFF}]a`,
}

// TestAutomaton: expressions of all kinds, over words of few letters and over lines
// that nearly match.
func TestAutomaton(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	for _, s := range expressions {
		lines := []string{
			"", "a", "b", "ba", "ab", "foo", "a foo.", "xfoo", "http://x/media.php", "https:///media.php?", "HTTP://x/media.php", "http: /media.php", "http:http://media.php /media.php",
			"Wallet 1" + strings.Repeat("a", 25), "wallet 1" + strings.Repeat("a", 24), "wallet\t 3" + strings.Repeat("z", 60), "K", "\u212a", "\u017f", "é", "\xff", "a\xffb", "a\x00b", "me@you.test",
		}
		for range 500 {
			line := make([]byte, random.IntN(30))
			for i := range line {
				line[i] = "aaabbbcxy13 \xc3"[random.IntN(13)]
			}
			lines = append(lines, string(line))
		}
		checkAutomaton(t, regexp.MustCompile(s), lines...)
	}
	if a := newAutomaton(regexp.MustCompile(expressions[0])); a.prog == nil || !a.match([]byte("http://x/media.php")) || len(a.states) <= int(beginState)+1 {
		t.Error("no automaton was made")
	}
	many := newAutomaton(regexp.MustCompile(`[ab]*a[ab]{12}c`))
	for range 3000 {
		line := make([]byte, 40)
		for i := range line {
			line[i] = "ab"[random.IntN(2)]
		}
		if many.match(line) || len(many.states) > maxStates {
			t.Fatalf("%q: %d states", line, len(many.states))
		}
	}
	if many.prog != nil {
		t.Error("the expression with thousands of states was not given up")
	}
}

// FuzzAutomaton: an automaton is its expression.
func FuzzAutomaton(f *testing.F) {
	for _, s := range expressions {
		f.Add(s, "https://x/media.php", "a foo aab")
	}
	f.Fuzz(func(t *testing.T, s, one, two string) {
		re, err := regexp.Compile(s)
		if err != nil || strings.Contains(one+two, "\n") {
			return
		}
		checkAutomaton(t, re, one, two)
	})
}
