package show

import (
	"strings"
	"testing"

	"spoolsweep/spool/stage"
)

// Instances of one host have ledgers of their own, and are told apart.
func TestLedgerOfInstance(t *testing.T) {
	of := &Host{Host: "chavez", Instance: "postfix-out"}
	for _, row := range []struct {
		stream bool
		want   string
	}{
		{false, "chavez/postfix-out | "},
		{true, `"host":"chavez","instance":"postfix-out"`},
	} {
		var out strings.Builder
		p := &Printer{Out: &out, Stream: row.stream}
		if err := p.Ledgers("20261123T231500Z-ab12").Entry(of, &stage.Entry{ID: "4cRkQb2jLBz1xd", Fate: stage.FateLeft}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), row.want) {
			t.Errorf("%q, want %q", out.String(), row.want)
		}
	}
}
