package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// written is a journal with a few records, as a file's bytes.
func written(t testing.TB, dir string) []byte {
	t.Helper()
	j, _, err := OpenJournal(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for _, data := range []any{freshRecord{".incoming.RUN"}, Set{Queue: Incoming, Aside: "incoming.spamfull"}, struct{}{}} {
		if err := j.Write("kind", data); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, journalName))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Wherever a death cuts a journal, a beginning of its records is read, and
// writing goes on behind them.
func TestJournalCutAnywhere(t *testing.T) {
	whole := written(t, t.TempDir())
	all, _, err := parseJournal(whole)
	if err != nil || len(all) != 3 {
		t.Fatalf("got %d records, %v", len(all), err)
	}
	for cut := range len(whole) + 1 {
		dir := t.TempDir()
		path := filepath.Join(dir, journalName)
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		j, before, err := OpenJournal(dir, "test")
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if diff := cmp.Diff(all[:len(before)], before); len(before) > 0 && diff != "" {
			t.Errorf("cut at %d (-want +got):\n%s", cut, diff)
		}
		if err := j.Write("more", struct{}{}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		after, err := ReadJournal(dir)
		if err != nil || len(after) != len(before)+1 || after[len(after)-1].Kind != "more" {
			t.Errorf("cut at %d: then written: got %d records after %d, %v", cut, len(after), len(before), err)
		}
	}
}

func TestJournalDamagedInTheMiddle(t *testing.T) {
	whole := written(t, t.TempDir())
	second := bytes.Index(whole, []byte("incoming.spamfull"))
	for name, damaged := range map[string][]byte{
		"a byte is another": append(append(bytes.Clone(whole[:second]), 'X'), whole[second+1:]...),
		"a line is gone":    bytes.Join(append(bytes.SplitAfter(whole, []byte("\n"))[:2:2], bytes.SplitAfter(whole, []byte("\n"))[3:]...), nil),
		"no journal":        []byte("something else\n1 kind {} 00000000\n"),
		"another version":   bytes.Replace(whole, []byte(journalMagic), []byte("spoolsweep-journal 2"), 1),
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, journalName)
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "a line is gone" {
			// The last line's number is wrong then; behind it stands another.
			damaged = append(damaged, "9 kind {} 00000000\n"...)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := OpenJournal(dir, "test"); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got error %v, want one that names the file", name, err)
		}
		if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, damaged) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// A full disk leaves a journal that can be read, and written when there is room.
func TestJournalFullDisk(t *testing.T) {
	dir := t.TempDir()
	j, _, err := OpenJournal(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	defer SetStep(nil)
	SetStep(func(what string) error {
		if what == "journal" {
			return unix.ENOSPC
		}
		return nil
	})
	if err := j.Write("lost", struct{}{}); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("got %v, want ENOSPC", err)
	}
	SetStep(nil)
	if err := j.Write("kept", struct{}{}); err != nil {
		t.Fatal(err)
	}
	records, err := ReadJournal(dir)
	if err != nil || len(records) != 1 || records[0].Kind != "kept" {
		t.Errorf("got %+v, %v", records, err)
	}
}

// FuzzJournal: what is read is what was written, byte for byte, and nothing else.
func FuzzJournal(f *testing.F) {
	whole := written(f, f.TempDir())
	f.Add(whole)
	f.Add(whole[:len(whole)-7])
	f.Add([]byte(journalMagic + " x\n1 a {} 00000000\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, n, err := parseJournal(text)
		if err != nil || n == 0 {
			return
		}
		head, _, _ := bytes.Cut(text, []byte("\n"))
		again := append(bytes.Clone(head), '\n')
		for _, r := range records {
			again = append(again, r.line()...)
		}
		if !bytes.Equal(again, text[:n]) {
			t.Errorf("read %q, which is %q written again", text[:n], again)
		}
	})
}
