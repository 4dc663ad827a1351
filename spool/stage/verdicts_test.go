package stage

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
)

func writeList(t *testing.T, dir string, lines []judged) string {
	t.Helper()
	l, err := newListAs(dir, verdictsName, []string{"a", "b", "c"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer l.drop()
	for i := range lines {
		if err := l.add(&lines[i]); err != nil {
			t.Fatal(err)
		}
	}
	name, err := l.commit()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func TestVerdictList(t *testing.T) {
	dir := t.TempDir()
	read := func() (lines []judged, name string, err error) {
		name, err = readList(dir, func(j *judged) { lines = append(lines, *j) })
		return
	}
	if lines, name, err := read(); err != nil || name != "" || len(lines) > 0 {
		t.Errorf("no list yet: got %v, %q, %v", lines, name, err)
	}
	want := []judged{
		{Mail: spool.Mail{Aside: "incoming.spamfull", ID: "4XK1", Inode: 1 << 60, Size: 7, Mtime: 1764025200123456789, Born: 5}, Verdict: pattern.Spam, Rules: []int{0, 2}},
		{Mail: spool.Mail{Aside: "deferred.spamfull", Sub: "A/B", ID: "AB12", Inode: 2}, Verdict: pattern.Ham},
	}
	name := writeList(t, dir, want)
	got, again, err := read()
	if err != nil || again != name || len(name) != 64 {
		t.Errorf("read back: %q, %v, want %q", again, err, name)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.AllowUnexported(spool.Mail{}, judged{})); d != "" {
		t.Errorf("read back (-want +got): %s", d)
	}
	// The name is that of the lines: the same list, the same name.
	if other := writeList(t, t.TempDir(), want); other != name {
		t.Errorf("the same list elsewhere: got %s, want %s", other, name)
	}
	if other := writeList(t, t.TempDir(), want[:1]); other == name {
		t.Error("another list has the same name")
	}
	st, err := os.Stat(filepath.Join(dir, verdictsName))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode: %v, %v, want 0600", st.Mode(), err)
	}

	// A list that was begun and not committed leaves the old one.
	l, err := newListAs(dir, verdictsName, []string{"a", "b", "c"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.add(&want[0]); err != nil {
		t.Fatal(err)
	}
	l.drop()
	if _, again, _ := read(); again != name {
		t.Errorf("after one that was dropped: got %s, want %s", again, name)
	}
	if _, err := os.Stat(filepath.Join(dir, verdictsName+".new")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dropped one: %v", err)
	}

	// Damage anywhere is an error that names the file and what to do.
	path := filepath.Join(dir, verdictsName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string][]byte{
		"empty": nil, "cut": whole[:len(whole)-9], "no gzip": []byte("hello, this is no list"),
		"flipped": bytes.Replace(whole, whole[len(whole)-8:len(whole)-4], []byte{1, 2, 3, 4}, 1),
	} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := read(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(spool.RemedyOf(err), "resume") {
			t.Errorf("%s: got %v, want an error with path and remedy", what, err)
		}
	}
	// A list without a run's folder writes nothing.
	var none *listWriter
	none.drop()
	if err := none.add(&want[0]); err != nil {
		t.Error(err)
	}
	if name, err := none.commit(); name != "" || err != nil {
		t.Errorf("no list: got %q, %v", name, err)
	}
}
