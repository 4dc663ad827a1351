package queuefile

import (
	"fmt"
	"path/filepath"
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

// encode is safe_ultostr of src/global/safe_ultostr.c, by which Postfix makes the
// parts of a long id.
func encode(n, base uint64, width int) string {
	s := ""
	for ; n > 0 || s == ""; n /= base {
		s = string(safe52[n%base]) + s
	}
	return strings.Repeat("0", max(0, width-len(s))) + s
}

// FuzzID: a folder deeper down begins with the one above, and leads nowhere but
// down; an inode written into an id again gives the same id; and both kinds of id
// give back what Postfix would make them of.
func FuzzID(f *testing.F) {
	names, _ := filepath.Glob("testdata/postfix/*/*")
	if len(names) == 0 {
		f.Fatal("no seeds in testdata/postfix")
	}
	for _, name := range names {
		f.Add(filepath.Base(name), uint64(1795454283), uint64(528131), uint64(778283))
	}
	for _, id := range []string{"4jYCXd473Mz6PXd", "4jYCXdAAAAz6PXd", "long_host_name", "ABCDE1FFFFFFFFFFFFFFFF", "zzzzzzzzzzzz", "", "a/../b"} {
		f.Add(id, uint64(0), uint64(999_999), ^uint64(0))
	}
	f.Fuzz(func(t *testing.T, id string, sec, usec, inode uint64) {
		above := ""
		for depth := range 8 {
			dir := HashDir(id, depth)
			if !strings.HasPrefix(dir, above) || len(dir) != max(0, 2*depth-1) {
				t.Fatalf("HashDir(%q, %d) is %q, one less deep %q", id, depth, dir, above)
			}
			if ValidID(id) && !filepath.IsLocal(filepath.Join("deferred", dir, id)) {
				t.Fatalf("HashDir(%q, %d) is %q, which leads away", id, depth, dir)
			}
			above = dir
		}
		if n, ok := Inode(id); ok {
			base, from := uint64(16), shortTime
			if i := separator(id); i >= 0 {
				base, from = 51, i+1
			}
			again := fmt.Sprintf("%X", n)
			if base == 51 {
				again = encode(n, 51, 1)
			}
			if n2, ok := Inode(id[:from] + again); !ok || n2 != n {
				t.Fatalf("Inode(%q) is %d, of %q %d, %v", id, n, id[:from]+again, n2, ok)
			}
		}

		usec %= 1_000_000
		short := fmt.Sprintf("%05X%X", usec, inode)
		long := encode(sec, 52, 6) + encode(usec, 52, 4) + "z" + encode(inode, 51, 1)
		for _, id := range []string{short, long} {
			if n, ok := Inode(id); !ok || n != inode || !ValidID(id) {
				t.Fatalf("%s was made with inode %d, read as %d, %v", id, inode, n, ok)
			}
			if got, want := strings.ReplaceAll(HashDir(id, 5), "/", ""), fmt.Sprintf("%05X", usec); got != want {
				t.Fatalf("HashDir(%s, 5) is %q, want %q", id, got, want)
			}
		}
	})
}
