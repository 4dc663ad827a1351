package suggest_test

import (
	"math/rand/v2"
	"testing"

	"spoolsweep/spool/suggest"
)

// A flood too small to stand out is found where its account is named, and what its
// owner wrote is not taken.
func TestAccount(t *testing.T) {
	m := &mill{Rand: rand.New(rand.NewPCG(7, 7))}
	m.flood(30, hacked, m.advert)
	m.owners(5)
	m.ham(400)
	h, _ := practiceHost(t, m.all)
	if _, p := suggested(t, h, ""); len(p.Rules) > 0 {
		t.Errorf("without a name: %+v", p.Rules)
	}
	for _, name := range []string{hacked, hackedA, "Spam-Account"} {
		if _, p := suggested(t, h, name); len(p.Rules) == 0 || p.Flood != 30 || p.Caught != 30 || p.Hit != 0 || p.Unlike != 5 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if _, p := suggested(t, h, "nobody"); len(p.Rules) > 0 {
		t.Errorf("nobody's: %+v", p.Rules)
	}
}

// What several hosts found is put together: an account under addresses of their own
// also by its name, and what one host could separate is not unclear on another.
func TestMerge(t *testing.T) {
	at := func(host string, least int) []suggest.Atom {
		return []suggest.Atom{
			{Kind: suggest.Login, Field: "sasl_user", Pattern: "eve", In: 5, Of: 10, Least: least},
			{Kind: suggest.Bounces, Field: "recipient", Pattern: "eve@" + host, In: 4, Of: 10},
			{Kind: suggest.Link, Field: "body", Pattern: "/media.php", In: 5, Of: 5},
		}
	}
	atoms, unclear := suggest.Merge([][]suggest.Atom{at("a.test", 2), at("b.test", 1), {{Kind: suggest.Login, Field: "sasl_user", Pattern: "eve", Least: -1}, {Kind: suggest.Login, Field: "sasl_user", Pattern: "ana", Least: -1}}})
	var got []string
	for _, a := range atoms {
		got = append(got, a.Pattern)
	}
	want := []string{"eve", "eve@", "eve@a.test", "eve@b.test", "/media.php"}
	if len(got) != len(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	if a := atoms[0]; a.In != 10 || a.Of != 20 || a.Least != 1 {
		t.Errorf("the sum is %+v", a)
	}
	if len(unclear) != 1 || unclear[0].Pattern != "ana" {
		t.Errorf("unclear: %+v", unclear)
	}
}
