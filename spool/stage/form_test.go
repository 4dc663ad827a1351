package stage

import (
	"regexp"
	"strings"
	"testing"
)

// The form as a regular expression, which takes longer to be made than a look at a
// host.
func FuzzIsService(f *testing.F) {
	want := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@._:-]{0,250}$`)
	for _, text := range []string{"", "saslauthd", "postfix@-.service", "-x", "a b", "a/b", "@", "a\n", strings.Repeat("a", 251), strings.Repeat("a", 252)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := isService(text); got != want.MatchString(text) {
			t.Errorf("%q is one: %v", text, got)
		}
	})
}
