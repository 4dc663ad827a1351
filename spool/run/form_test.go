package run

import (
	"regexp"
	"testing"
)

// The form as a regular expression, which takes longer to be made than a look at a
// host.
func FuzzIsID(f *testing.F) {
	want := regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z-[a-z0-9]{4}$`)
	for _, text := range []string{"", "20261123T231500Z-ab12", "20261123T231500Z-AB12", "20261123T231500Z-ab1", "20261123T231500Z-ab123", "20261123t231500Z-ab12", "2026112aT231500Z-ab12", "20261123T231500Z-ab1\n", "../../../../etc/pass"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := IsID(text); got != want.MatchString(text) {
			t.Errorf("%q is one: %v", text, got)
		}
	})
}
