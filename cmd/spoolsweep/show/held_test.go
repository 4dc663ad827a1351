package show

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"spoolsweep/spool/stage"
)

func TestOfDomain(t *testing.T) {
	for _, row := range []struct {
		address, domain string
		want            bool
	}{
		{"ana@example.org", "example.org", true},
		{"ana@Example.ORG.", "example.org", true},
		{`"a@b"@example.org`, "example.org", true},
		{"ana@mail.example.org", "example.org", false},
		{"ana@mail.example.org", ".example.org", true},
		{"ana@example.org", ".example.org", false},
		{"ana@notexample.org", "example.org", false},
		{"ana@notexample.org", ".example.org", false},
		{"example.org", "example.org", false},
		{"", "example.org", false},
	} {
		if got := ofDomain(row.address, row.domain); got != row.want {
			t.Errorf("%s in %s: %t", row.address, row.domain, got)
		}
	}
}

// Every message of the domain is in one sum, and held from when its directory was
// set aside until it left, or until now.
func TestExtract(t *testing.T) {
	at := madeUpBegin
	since := map[string]time.Time{"deferred.spamfull": at}
	sender := func(s string) *string { return &s }
	x := &Extract{Domain: "example.org"}
	entries := []struct {
		stage.Entry
		want string
	}{
		{stage.Entry{ID: "1", Sender: sender("ana@example.org"), Recipients: []string{"b@far.test"}, Verdict: "ham", Fate: stage.FateRestored, From: "deferred.spamfull/A", To: "deferred/A", Time: at.Add(90 * time.Second)},
			"for 1 min 30 s       restored  ham  <ana@example.org> to <b@far.test>  deferred.spamfull/A/1 -> deferred/A"},
		{stage.Entry{ID: "2", Sender: sender(""), Recipients: []string{"x@far.test", "c@EXAMPLE.org"}, More: 3, Verdict: "spam", Fate: stage.FateLeft, From: "deferred.spamfull"},
			"for still, 1 h       left      spam  <> to <x@far.test>, <c@EXAMPLE.org> and 3 more  deferred.spamfull/2"},
		{stage.Entry{ID: "3", Sender: sender("b@far.test"), Recipients: []string{"c@far.test"}, Fate: stage.FateLeft, From: "deferred.spamfull"}, ""},
		{stage.Entry{ID: "4", Recipients: []string{}, Fate: stage.FateLeft, From: "deferred.spamfull"}, ""},
		{stage.Entry{ID: "5", Sender: sender("b@far.test"), Recipients: []string{"c@far.test"}, More: 1, Fate: stage.FateLeft, From: "deferred.spamfull"}, ""},
		{stage.Entry{ID: "6", Sender: sender("ana@example.org"), Recipients: []string{}, Fate: stage.FateMissing, From: "incoming.spamfull"},
			"held since -                   for -                missing   never judged  <ana@example.org> to <>  incoming.spamfull/6"},
		{stage.Entry{ID: "7", Sender: sender("ana@example.org"), Recipients: []string{}, Fate: stage.FateDeleted, From: "deferred", Time: at}, "deleted "},
	}
	var out bytes.Buffer
	l := (&Printer{Out: &out, Width: 6}).Ledgers(madeUpRun)
	for _, e := range entries {
		out.Reset()
		h := x.Take(&e.Entry, since, at.Add(time.Hour))
		if (h != nil) != (e.want != "") {
			t.Errorf("message %s: taken %t", e.ID, h != nil)
			continue
		}
		if h == nil {
			continue
		}
		if err := l.Held(&Host{Host: "chavez", Instance: DefaultInstance}, h); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), e.want) {
			t.Errorf("message %s: %s, want %s", e.ID, out.String(), e.want)
		}
	}
	want := Extract{Domain: "example.org", Sums: stage.Sums{SetAside: 3, Restored: 1, Left: 1, Missing: 1, Deleted: 1}, Longest: 3600, Unnamed: 2}
	if *x != want {
		t.Errorf("got %+v, want %+v", *x, want)
	}
	sum := Extract{Domain: "example.org"}
	sum.Add(x)
	sum.Add(x)
	if sum.SetAside != 6 || sum.Deleted != 2 || sum.Unnamed != 4 || sum.Longest != 3600 {
		t.Errorf("in all %+v", sum)
	}
	var lines []string
	for _, line := range x.Lines() {
		lines = append(lines, line.Label+" "+line.Text)
	}
	if got := strings.Join(lines, "\n"); !strings.Contains(got, "restored 1 + collisions 0 + left 1") || !strings.Contains(got, "held the longest 1 h") || !strings.Contains(got, "deleted 1 + stayed 0") {
		t.Errorf("says %s", got)
	}
}
