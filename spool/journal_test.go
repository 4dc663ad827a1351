package spool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	all, _, _, err := readJournal(bytes.NewReader(whole))
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
		"a newer version":   bytes.Replace(whole, []byte("journal 2 "), []byte("journal 3 "), 1),
		"no version":        bytes.Replace(whole, []byte("journal 2 "), []byte("journal x "), 1),
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

// golden is a run that an agent of journal version 1 left behind when it was
// killed: its journal, byte for byte, and what stood where. The directories and
// files are made again here, and have other inodes, so that the records are
// written again with these.
func golden(t *testing.T, name string) (h *host, was []byte) {
	t.Helper()
	h = newHost(t, []string{"deferred", "defer"}, 1)
	names, err := os.ReadFile("testdata/journal-1/" + name + ".names")
	h.must(err)
	inode := map[string]uint64{}
	for line := range strings.Lines(string(names)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		mode, err := strconv.ParseUint(f[1], 8, 32)
		h.must(err)
		if f[3] == "-" {
			h.must(os.MkdirAll(h.at(f[2]), os.FileMode(mode)))
		} else {
			h.write(filepath.Dir(f[2]), filepath.Base(f[2]), f[3], os.FileMode(mode))
		}
		var s unix.Stat_t
		h.must(unix.Lstat(h.at(f[2]), &s))
		inode[f[0]] = s.Ino
	}
	text, err := os.ReadFile("testdata/journal-1/" + name + ".journal")
	h.must(err)
	records, version, whole, err := readJournal(bytes.NewReader(text))
	if err != nil || version != 1 || whole != int64(len(text)) || len(records) < 10 {
		t.Fatalf("%d records of version %d, %d of %d bytes: %v", len(records), version, whole, len(text), err)
	}
	head, _, _ := bytes.Cut(text, []byte("\n"))
	was = append(head, '\n')
	number := regexp.MustCompile(`"(new|old|i)":(\d+)`)
	for _, r := range records {
		r.Data = number.ReplaceAllFunc(r.Data, func(field []byte) []byte {
			m := number.FindSubmatch(field)
			return fmt.Appendf(nil, "%q:%d", m[1], inode[string(m[2])])
		})
		was = append(was, r.line()...)
	}
	h.must(os.WriteFile(h.state()+"/"+journalName, was, 0o600))
	return h, was
}

// A newer agent carries on what an older one has left: one between stop and
// start, one in the middle of a batch.
func TestOlderJournal(t *testing.T) {
	h, _ := golden(t, "stopped")
	before := h.account()
	w := h.open()
	if !w.Unsettled() {
		t.Error("not known to be left")
	}
	done, err := w.Settle(t.Context())
	h.must(err)
	if len(done.Sets) != 4 || !h.running() {
		t.Errorf("settled: %+v, running %t", done, h.running())
	}
	h.once(before)

	h, was := golden(t, "restoring")
	before = h.account()
	if records, err := ReadJournal(h.state()); err != nil || len(records) != 27 {
		t.Errorf("%d records, %v", len(records), err)
	}
	if text, _ := os.ReadFile(h.state() + "/" + journalName); !bytes.Equal(text, was) {
		t.Error("who only reads has changed it")
	}
	h.start()
	w = h.open()
	moved, err := w.Restore(t.Context(), h.asideMail(w), Options{Token: "ham"}, quiet)
	if err != nil || moved.Restored != 6 || moved.Failed+moved.Collisions+moved.SentMeanwhile > 0 {
		t.Errorf("restored %+v, %v", moved, err)
	}
	h.once(before)
	if text, _ := os.ReadFile(h.state() + "/" + journalName); !bytes.HasPrefix(text, []byte("spoolsweep-journal 2 test\n1 fresh ")) {
		t.Errorf("begins with %.60q: an older agent would go on with it", text)
	}
}

// An older agent refuses what a newer one wrote, and changes nothing.
func TestNewerJournal(t *testing.T) {
	h, was := golden(t, "stopped")
	newer := bytes.Replace(was, []byte("journal 1 test"), []byte("journal 3 v9.9"), 1)
	h.must(os.WriteFile(h.state()+"/"+journalName, newer, 0o600))
	names := h.names()
	_, read := ReadJournal(h.state())
	_, open := h.tryOpen()
	_, aside := AsideOf(h.p, h.state())
	for _, err := range []error{read, open, aside} {
		if err == nil || !strings.Contains(err.Error(), `"v9.9", version 3`) || !strings.Contains(err.Error(), "resume with that one") || !strings.Contains(err.Error(), h.state()) {
			t.Errorf("got %v", err)
		}
	}
	if text, _ := os.ReadFile(h.state() + "/" + journalName); !bytes.Equal(text, newer) || !slices.Equal(h.names(), names) {
		t.Error("something was changed")
	}
}

// FuzzJournal: what is read is what was written, byte for byte, and nothing else.
func FuzzJournal(f *testing.F) {
	whole := written(f, f.TempDir())
	f.Add(whole)
	f.Add(whole[:len(whole)-7])
	f.Add([]byte(journalMagic + "2 x\n1 a {} 00000000\n"))
	f.Add([]byte(journalMagic + "1 x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		records, _, n, err := readJournal(bytes.NewReader(text))
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
