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

// A script's name is a file's, out of the text, and of a name nothing is taken.
func FuzzScriptName(f *testing.F) {
	for _, text := range []string{"", "33:mailer.php", "1001:mailer.php(7) : eval()'d code", "/var/www/a:b/mailer.php", "33:", "(", "//", "\x00:a"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name := scriptName(text)
		if strings.ContainsAny(name, "/(") || !strings.Contains(text, name) {
			t.Errorf("%q: got %q", text, name)
		}
		if again := scriptName("33:/var/www/" + name); again != name {
			t.Errorf("%q: %q is named %q", text, name, again)
		}
	})
}

// Who submitted a message is what stands in the form that pickup.c writes.
func FuzzUserID(f *testing.F) {
	want := regexp.MustCompile(`(?s), from userid (.*?)(?:\)|$)`)
	for _, text := range []string{"", " by mx1 (Postfix, from userid 33)\tid A", ", from userid 33", ", from userid )", ", from userid 1, from userid 2)"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		found := ""
		if m := want.FindStringSubmatch(text); m != nil {
			found = m[1]
		}
		if got := (&headerLines{received: []byte(text)}).userid(); got != found {
			t.Errorf("%q: got %q, want %q", text, got, found)
		}
	})
}
