package queuefile

import (
	"strings"
	"testing"
)

func TestID(t *testing.T) {
	for _, c := range []struct {
		id    string
		depth int
		dir   string
		inode uint64
		ok    bool
	}{
		{"7F978BE026", 2, "7/F", 0xBE026, true},
		{"81063BE02B", 1, "8", 778283, true}, // seen on Postfix 3.7.11
		{"81063BE02B", 0, "", 778283, true},
		{"4jYCXd473Mz6PXd", 3, "8/D/F", 851988, true}, // 581535 microseconds
		{"ABC", 4, "A/B/C/_", 0, false},
		{"ABCDE", 1, "A", 0, false},
		{"long_host_name", 1, "l", 0, false},
		{"ABCDE1FFFFFFFFFFFFFFFF", 1, "A", 0, false}, // more than 64 bits
	} {
		dir := HashDir(c.id, c.depth)
		inode, ok := Inode(c.id)
		if dir != c.dir || inode != c.inode || ok != c.ok {
			t.Errorf("%s: %q, %d, %v; want %q, %d, %v", c.id, dir, inode, ok, c.dir, c.inode, c.ok)
		}
	}
	// 0 microseconds is 00000, and what cannot be decoded counts as that.
	if got := HashDir("4jYCXd0000z6PXd", 2); got != "0/0" {
		t.Errorf("got %q", got)
	}
	if got := HashDir("4jYCXdAAAAz6PXd", 2); got != "0/0" {
		t.Errorf("got %q", got)
	}
	for name, want := range map[string]bool{
		"7F978BE026": true, "example_org": true, "": false, "764007.5087": false, ".x": false, "a#FIX": false,
		strings.Repeat("A", 255): true, strings.Repeat("A", 256): false, "é": false,
	} {
		if ValidID(name) != want {
			t.Errorf("ValidID(%q) is not %v", name, want)
		}
	}
}
