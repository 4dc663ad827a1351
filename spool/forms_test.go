package spool

import (
	"regexp"
	"strings"
	"testing"
)

// The forms of names, as regular expressions, which take longer to be made than a look
// at a host: see package agent.
var forms = []struct {
	name string
	is   func(string) bool
	want *regexp.Regexp
}{
	{"set aside", asideName, regexp.MustCompile(`^(maildrop|incoming|active|deferred|hold|defer)\.(spamfull|name-collisions)(\.\d+)?$`)},
	{"by hand", func(name string) bool {
		_, err := ParseAside(name)
		return err == nil
	}, regexp.MustCompile(`^(maildrop|incoming|active|deferred|hold|defer)\.spamfull(\.[0-9]+)?$`)},
	{"temporary", temporary, regexp.MustCompile(`^\d+\.\d+$`)},
	{"instance", isInstance, regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)},
}

func FuzzForms(f *testing.F) {
	for _, name := range []string{
		"", ".", "incoming", "incoming.spamfull", "incoming.spamfull.2", "incoming.spamfull.", "incoming.spamfull.2.3", "incoming.spamfull.x", "defer.name-collisions.10",
		"corrupt.spamfull", "Incoming.spamfull", "bounce.spamfull", "incoming.spamfull\n", ".spamfull", "1795895528.29198", "1.", ".1", "1.2.3", "-1.2", "postfix-out",
		"-", "-x", "a/b", "a.b", "ä", strings.Repeat("a", 100), strings.Repeat("a", 101),
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, form := range forms {
			if got, want := form.is(name), form.want.MatchString(name); got != want {
				t.Errorf("%s: %q is one: %v, want %v", form.name, name, got, want)
			}
		}
	})
}
