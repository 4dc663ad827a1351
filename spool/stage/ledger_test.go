package stage

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// ledger is the ledger of the run, by queue id.
func (k *work) ledger(part, counted int64) (map[string]Entry, *Sums) {
	k.t.Helper()
	sets, err := k.Work.SetsAside()
	if err != nil {
		k.t.Fatal(err)
	}
	var intents []int64
	records, err := spool.ReadJournal(k.Dir)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, r := range records {
		if r.Kind == "intent" {
			intents = append(intents, r.Seq)
		}
	}
	r := Record{Run: runID, Dir: k.Dir, Sets: sets, Counted: counted, Hands: func() ([]Hand, error) {
		if len(intents) == 0 {
			return nil, nil
		}
		return []Hand{{0, "ana@laptop"}, {intents[0] + 1, "bob@laptop"}}, nil // took over after the first batch
	}}
	all := map[string]Entry{}
	sums, err := ledgerIn(k.t.Context(), k.Postfix, r, part, func(e *Entry) error {
		if _, twice := all[e.ID]; twice {
			k.t.Errorf("%s stands in the ledger twice", e.ID)
		}
		all[e.ID] = *e
		return nil
	}, func(err error) { k.t.Error(err) })
	if err != nil {
		k.t.Fatal(err)
	}
	if s := sums; s.SetAside != s.Restored+s.Collisions+s.Left+s.Purged+s.SentMeanwhile+s.Missing {
		k.t.Errorf("no balance: %+v", s)
	}
	return all, sums
}

// Every message of a run is in its ledger once, by what became of it: whatever
// list names it, however it went, and in parts of any size.
func TestLedger(t *testing.T) {
	h := newHost(t)
	var ids []string
	for i := range 10 {
		m := practice.Message{Sender: "spam@far.test", Recipients: ranged(12, "to@x.test"), Text: "Subject: x\n\nhello\n", Login: "eve"}
		if i%2 == 0 {
			m.Sender, m.Recipients, m.Login = "", []string{"ana@here.test"}, ""
		}
		ids = append(ids, submit(t, h, m)...)
	}
	k := aside(t, h, spool.Incoming)
	at := func(id string) string { return h.Spool("incoming.spamfull", id) }
	inode := func(id string) uint64 {
		for _, m := range k.everything() {
			if m.ID == id {
				return m.Inode
			}
		}
		t.Fatalf("no %s", id)
		return 0
	}
	if _, err := k.run("classify", `{}`); !errors.As(err, new(*Ask)) {
		t.Fatal(err)
	}
	all, sums := k.ledger(ledgerPart, 10)
	if *sums != (Sums{SetAside: 10, Left: 10}) || all[ids[0]].Verdict != "" || *all[ids[0]].Sender != "" {
		t.Errorf("while it waits: %+v, %+v", sums, all[ids[0]])
	}
	// Moved by the run: one well, one out of the way; a batch that a death left
	// open, of which one was moved.
	batch := func(closed bool, moves ...map[string]any) {
		t.Helper()
		if err := k.Work.Journal.Write("intent", map[string]any{"token": "x", "at": 1764025200, "moves": moves}); err != nil {
			t.Fatal(err)
		}
		if closed {
			records, err := spool.ReadJournal(k.Dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := k.Work.Journal.Write("outcome", map[string]any{"intent": len(records)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	move := func(id, to string) map[string]any {
		return map[string]any{"f": "incoming.spamfull", "t": to, "q": id, "i": inode(id)}
	}
	batch(true, move(ids[0], "incoming"), move(ids[1], "incoming.name-collisions"))
	open := []map[string]any{move(ids[2], "incoming"), move(ids[3], "incoming")}
	for _, id := range ids[:3] {
		if err := os.Remove(at(id)); err != nil { // and delivered
			t.Fatal(err)
		}
	}
	// By somebody else: back into a live queue, and gone.
	if err := errors.Join(os.Rename(at(ids[4]), h.Spool("incoming", ids[4])), os.Remove(at(ids[5]))); err != nil {
		t.Fatal(err)
	}
	// Judged again: what is not aside any more stands in the first list alone.
	if _, err := k.run("classify", `{"spam": {"any": [{"sender": "x@y.test"}, {"sasl_user": "eve"}]}}`); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("0FEE1"), []byte("put there by hand"), 0o700); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(at(ids[7]))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	batch(true, map[string]any{"f": "incoming.spamfull", "q": ids[7], "i": inode(ids[7]), "z": len(content), "h": sum[:]})
	batch(false, open...)
	if err := os.Remove(at(ids[7])); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		ids[0]: "restored  incoming", ids[1]: "collision  incoming.name-collisions", ids[2]: "restored  incoming",
		ids[3]: "left spam ", ids[4]: "sent_meanwhile  incoming", ids[5]: "missing  ",
		ids[6]: "left ham ", ids[7]: "purged spam ", ids[8]: "left ham ", ids[9]: "left spam ", "0FEE1": "left  ",
	}
	for _, part := range []int64{ledgerPart, 3, 1} {
		all, sums = k.ledger(part, 10)
		got := map[string]string{}
		for id, e := range all {
			got[id] = fmt.Sprintf("%s %s %s", e.Fate, e.Verdict, e.To)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("in parts of %d (-want +got):\n%s", part, d)
		}
		if *sums != (Sums{SetAside: 11, Restored: 2, Collisions: 1, Left: 5, Purged: 1, SentMeanwhile: 1, Missing: 1}) {
			t.Errorf("in parts of %d: %+v", part, sums)
		}
	}
	e := all[ids[7]]
	if e.SHA256 != hex.EncodeToString(sum[:]) || e.Bytes != int64(len(content)) || len(e.Rules) != 1 || !strings.Contains(e.Rules[0], "eve") ||
		*e.Sender != "spam@far.test" || len(e.Recipients) != listedRecipients || e.More != 2 || e.Login != "eve" || e.By != "bob@laptop" || e.Time.IsZero() || e.Arrived.IsZero() {
		t.Errorf("purged: %+v", e)
	}
	if e := all[ids[0]]; e.SHA256 != "" || e.By != "ana@laptop" || e.Time.Unix() != 1764025200 || !slices.Equal(e.Recipients, []string{"ana@here.test"}) {
		t.Errorf("restored: %+v", e)
	}
	if e := all["0FEE1"]; e.Sender != nil {
		t.Errorf("never read: %+v", e)
	}
	// Two more were counted when it was set aside.
	if _, sums = k.ledger(ledgerPart, 13); sums.SetAside != 13 || sums.Missing != 3 {
		t.Errorf("counted more: %+v", sums)
	}
	// A list that cannot be read takes away what it said, not the account.
	if err := os.Truncate(filepath.Join(k.Dir, "verdicts.1.gz"), 30); err != nil {
		t.Fatal(err)
	}
	warned := 0
	sums, err = Ledger(t.Context(), k.Postfix, Record{Dir: k.Dir, Hands: func() ([]Hand, error) { return nil, nil }}, func(*Entry) error { return nil }, func(error) { warned++ })
	if err != nil || warned != 1 || sums.Restored != 3 || sums.Purged != 1 {
		t.Errorf("with a damaged list: %+v, %v, %d warnings", sums, err, warned)
	}
	stop := errors.New("enough")
	if _, err := Ledger(t.Context(), k.Postfix, Record{Dir: k.Dir, Hands: func() ([]Hand, error) { return nil, nil }}, func(*Entry) error { return stop }, func(error) {}); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

// everything is all that stands aside.
func (k *work) everything() []spool.Mail {
	k.t.Helper()
	sets, err := k.Work.SetsAside()
	if err != nil {
		k.t.Fatal(err)
	}
	var all []spool.Mail
	if err := each(k.t.Context(), k.Host, sets, func(m spool.Mail) error { all = append(all, m); return nil }); err != nil {
		k.t.Fatal(err)
	}
	return all
}

// Of a delete that died the ledger calls gone what Postfix may have delivered, and
// never deleted.
func TestLedgerOfADelete(t *testing.T) {
	h := newHost(t)
	var ids []string
	inodes := map[string]uint64{}
	path := func(id string) string { return h.Spool("deferred", id[:1], id) }
	for range 4 {
		id := submit(t, h, practice.Message{Queue: spool.Deferred, Sender: "spam@far.test", Recipients: []string{"to@x.test"}, Text: "Subject: x\n\nhello\n"})[0]
		var s unix.Stat_t
		if err := unix.Lstat(path(id), &s); err != nil {
			t.Fatal(err)
		}
		ids, inodes[id] = append(ids, id), s.Ino
	}
	k := aside(t, h, spool.Incoming)
	batch := func(ids ...string) map[string]any {
		var moves []map[string]any
		for _, id := range ids {
			moves = append(moves, map[string]any{"f": "deferred/" + id[:1], "q": id, "i": inodes[id]})
		}
		return map[string]any{"token": "x", "at": 1764025200, "moves": moves}
	}
	records, err := spool.ReadJournal(k.Dir)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		k.Work.Journal.Write("intent", batch(ids[0], ids[1])),
		k.Work.Journal.Write("outcome", map[string]any{"intent": len(records) + 1, "gone": []int{1}}),
		k.Work.Journal.Write("intent", batch(ids[2], ids[3])), // open
		os.Remove(path(ids[0])), os.Remove(path(ids[1])), os.Remove(path(ids[2])),
	)
	if err != nil {
		t.Fatal(err)
	}
	all, sums := k.ledger(ledgerPart, 0)
	got := []string{}
	for _, id := range ids {
		got = append(got, all[id].Fate)
	}
	if diff := cmp.Diff([]string{FateDeleted, FateGone, FateGone, FateStayed}, got); diff != "" {
		t.Errorf("fates, -want +got:\n%s", diff)
	}
	if *sums != (Sums{Deleted: 1, Gone: 2, Stayed: 1}) {
		t.Errorf("sums: %+v", sums)
	}
	var text []string
	for _, l := range sums.Lines() {
		text = append(text, fmt.Sprint(l.Number, " ", l.Label, ": ", l.Text))
	}
	if want := "4 were to be deleted: deleted 1 + stayed 1 + gone 2, deleted or delivered"; !slices.Contains(text, want) {
		t.Errorf("told as %q, want %q", text, want)
	}
}

// Of the lists of a run the first stays, and each by which something was moved.
func TestListsKept(t *testing.T) {
	dir := t.TempDir()
	write := func(id string, moves int) {
		t.Helper()
		l, err := newListAs(dir, verdictsName, []string{"rule of " + id}, moves)
		if err != nil {
			t.Fatal(err)
		}
		defer l.drop()
		if err := l.add(&judged{Mail: spool.Mail{ID: id}}); err != nil {
			t.Fatal(err)
		}
		if _, err := l.commit(); err != nil {
			t.Fatal(err)
		}
	}
	for _, row := range []struct {
		id    string
		moves int
		want  string
	}{
		{"A1", 0, "A1"}, {"A2", 0, "A2 A1"}, {"A3", 0, "A3 A1"}, {"A4", 1, "A4 A3 A1"}, {"A5", 1, "A5 A3 A1"}, {"A6", 2, "A6 A5 A3 A1"},
	} {
		write(row.id, row.moves)
		var got, rules []string
		for _, name := range listsAs(dir, verdictsName) {
			_, err := eachListed(dir, name, func(called []string) { rules = called }, func(j *judged) error {
				if got = append(got, j.ID); !slices.Equal(rules, []string{"rule of " + j.ID}) {
					t.Errorf("%s: rules %q", j.ID, rules)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if strings.Join(got, " ") != row.want {
			t.Errorf("lists %q, want %s", got, row.want)
		}
	}
	if !HasLists(dir) {
		t.Error("no lists")
	}
	if err := RemoveLists(dir); err != nil || HasLists(dir) {
		t.Errorf("removed: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
		t.Errorf("left: %v, %v", names, err)
	}
	if err := RemoveLists(filepath.Join(dir, "none")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
