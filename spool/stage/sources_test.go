package stage

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool/queuefile"
)

func recipients(addresses ...string) []queuefile.Recipient {
	var all []queuefile.Recipient
	for _, a := range addresses {
		all = append(all, queuefile.Recipient{Address: a})
	}
	return all
}

func TestSourcesOf(t *testing.T) {
	own := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	for _, tt := range []struct {
		name string
		e    queuefile.Envelope
		want []string
	}{
		{"submitted", queuefile.Envelope{Sender: "Ana@B.test", Login: "ANA", ClientAddress: "203.0.113.9"}, []string{"login ana", "sender ana@b.test", "client 203.0.113.9"}},
		{"own client", queuefile.Envelope{Sender: "a@b", ClientAddress: "127.0.0.1"}, []string{"sender a@b"}},
		{"own client, mapped", queuefile.Envelope{Sender: "a@b", ClientAddress: "::ffff:127.0.0.1"}, []string{"sender a@b"}},
		{"own client, IPv6", queuefile.Envelope{Sender: "a@b", ClientAddress: "2001:db8::7"}, []string{"sender a@b"}},
		{"no address", queuefile.Envelope{Sender: "a@b", ClientAddress: "unknown"}, []string{"sender a@b"}},
		{"recipients of a sender", queuefile.Envelope{Sender: "a@b", Recipients: recipients("c@d")}, []string{"sender a@b"}},
		{"bounce", queuefile.Envelope{Recipients: recipients("C@d", "e@f")}, []string{"bounces-to c@d", "bounces-to e@f"}},
		{"bounce, one twice", queuefile.Envelope{Recipients: recipients("c@d", "e@f", "C@D")}, []string{"bounces-to c@d", "bounces-to e@f"}},
		{"nothing", queuefile.Envelope{}, nil},
	} {
		var got []string
		newTally(own).sourcesOf(&tt.e, func(kind, value string) { got = append(got, kind+" "+value) })
		if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s (-want +got): %s", tt.name, d)
		}
	}
}

// Below the bound every count is exact.
func TestTallyExact(t *testing.T) {
	tl := newTally(nil)
	for i := range 20000 {
		tl.add("incoming.spamfull", fmt.Sprint(i), &queuefile.Envelope{Sender: fmt.Sprintf("u%d@b", i%137), Login: fmt.Sprint(i % 3)})
	}
	var sum int64
	all := tl.over(0)
	for _, s := range all {
		if s.Kind == "sender" {
			sum += s.Count
		}
	}
	if len(all) != 137+3 || sum != 20000 {
		t.Errorf("got %d sources with %d messages of senders, want %d and 20000", len(all), sum, 137+3)
	}
	if all[0].Kind != "login" || all[0].Value != "0" || all[0].Count != 6667 {
		t.Errorf("the largest: got %+v", all[0])
	}
	if d := cmp.Diff([]string{"incoming.spamfull/0", "incoming.spamfull/3", "incoming.spamfull/6"}, all[0].Samples); d != "" {
		t.Errorf("its samples: %s", d)
	}
	if got := tl.over(6667); len(got) != 0 {
		t.Errorf("over the largest: got %v, want none", got)
	}
	if !slices.IsSortedFunc(all, larger) {
		t.Error("not sorted")
	}
	for limit, want := range map[int64]bool{6665: true, 6667: false} {
		if got := tl.isOver(&queuefile.Envelope{Login: "0"}, limit); got != want {
			t.Errorf("isOver(%d): got %t, want %t", limit, got, want)
		}
	}
	if tl.isOver(&queuefile.Envelope{Login: "never seen"}, 0) {
		t.Error("a source never seen is over")
	}
	largest := tl.largest()
	if len(largest) != 2 || largest[0].Kind != "login" || largest[1].Kind != "sender" || largest[1].Count != 146 {
		t.Errorf("largest: got %+v", largest)
	}
}

// Above the bound a count is too low by at most missed, which is at most the
// number of messages divided by the number of values kept; and no source of
// more than a limit goes unseen. So it is, too, where several have counted.
func TestTallyBound(t *testing.T) {
	for _, parts := range []int{1, 2, 5} {
		t.Run(fmt.Sprint(parts), func(t *testing.T) { testTallyBound(t, parts) })
	}
}

func testTallyBound(t *testing.T, parts int) {
	part := make([]*tally, parts)
	for i := range part {
		part[i] = newTally(nil)
	}
	const n = 4 * sourcesKept
	truth := map[string]int64{}
	for i := range n {
		sender := fmt.Sprintf("once%d@b", i)
		if i%100 == 0 {
			sender = "flood@b"
		}
		truth[sender]++
		part[i%parts].add("", "", &queuefile.Envelope{Sender: sender})
	}
	tl := merged(part)
	missed := tl.missed["sender"]
	if missed == 0 || missed > n/sourcesKept {
		t.Errorf("missed: got %d, want 1 to %d", missed, n/sourcesKept)
	}
	if kept := len(tl.counts["sender"]); kept > sourcesKept {
		t.Errorf("%d values kept, of at most %d", kept, sourcesKept)
	}
	for value, s := range tl.counts["sender"] {
		if s.Count > truth[value] || s.Count+missed < truth[value] {
			t.Fatalf("%s: counted %d, missed %d, truth %d", value, s.Count, missed, truth[value])
		}
	}
	over := tl.over(maxSource)
	if len(over) != 1 || over[0].Value != "flood@b" {
		t.Errorf("over %d: got %d sources", maxSource, len(over))
	}
	if !tl.isOver(&queuefile.Envelope{Sender: "Flood@b"}, truth["flood@b"]-1) {
		t.Error("the flood is not over its own count less one")
	}
}
