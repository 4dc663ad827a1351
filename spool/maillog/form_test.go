package maillog

import (
	"regexp"
	"testing"
)

// The form as a regular expression, which takes longer to be made than a look at a
// host.
func FuzzRotated(f *testing.F) {
	want := regexp.MustCompile(`^[.-][0-9][0-9-]*(\.(gz|bz2|xz|zst))?$`)
	for _, text := range []string{"", ".1", ".2.gz", "-20261122", ".20261122-101010.gz", "-", ".gz", ".1.", ".1.gz.gz", ".1gz", "-1-.xz", ".1.zst", ".-1", "1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := rotated(text); got != want.MatchString(text) {
			t.Errorf("%q is one: %v", text, got)
		}
	})
}
