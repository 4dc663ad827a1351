package spool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// list is a List of these.
func list(all ...Mail) List {
	return func(yield func(Mail) error) error {
		for _, m := range all {
			if err := yield(m); err != nil {
				return err
			}
		}
		return nil
	}
}

func (h *host) purge(w *Work, all ...Mail) (Removed, []string) {
	h.t.Helper()
	done, left, err := w.Purge(context.Background(), list(all...), Removal{Token: "purge"}, func(Removed) {})
	h.must(err)
	return done, left
}

// gone looks that contents stand nowhere any more, and all else where it stood.
func (h *host) gone(before map[string][]string, contents ...string) {
	h.t.Helper()
	want := maps.Clone(before)
	for _, c := range contents {
		if len(before[c]) != 1 {
			h.t.Errorf("%q stood in %v", c, before[c])
		}
		delete(want, c)
	}
	if diff := cmp.Diff(want, h.account()); diff != "" {
		h.t.Errorf("places (-want +got):\n%s", diff)
	}
}

// Only what is listed goes, with its logs wherever they are: aside, and live.
// What else is aside stays, and keeps its directory.
func TestPurge(t *testing.T) {
	for _, hashed := range [][]string{nil, {"deferred", "defer", "bounce"}} {
		in, act, def, ham := testID(1), testID(2), testID(3), testID(4)
		h, w := aside(t, hashed, 1, func(h *host) {
			h.write(h.home(Incoming, in), in, "incoming", 0o700)
			h.write(h.home(Active, act), act, "active", 0o700)
			h.write(h.home(Active, ham), ham, "ham", 0o700)
			h.write("hold", "0C0FFEE1", "on hold", 0o700)
			h.write(h.home(Defer, "0C0FFEE1"), "0C0FFEE1", "log of the one on hold", 0o600)
			h.write(h.home(Deferred, def), def, "deferred", 0o700)
			for id, q := range map[string][]Queue{in: {"trace"}, act: {"bounce", Defer}, def: {Defer, "bounce"}, ham: {"bounce", Defer, "trace"}} {
				for _, q := range q {
					h.write(h.home(q, id), id, fmt.Sprintf("%s of %s", q, id), 0o600)
				}
			}
		})
		var spam []Mail
		for _, m := range h.asideMail(w) {
			if m.ID != ham {
				spam = append(spam, m)
			}
		}
		// A log that is written while active is aside: of a message that is there.
		h.write(h.home(Defer, act), act, "a newer log of active", 0o600)
		before := h.account()
		before["log of the one on hold"] = []string{h.home(Defer, "0C0FFEE1")} // it was never the run's
		done, left := h.purge(w, spam...)
		if done.Deleted != 3 || done.Failed != 0 || len(done.Failures) > 0 {
			t.Errorf("done %+v", done)
		}
		if slices.Sort(left); !slices.Equal(left, []string{"active.spamfull", "defer.spamfull"}) {
			t.Errorf("left %v", left)
		}
		h.gone(before, "incoming", "active", "deferred", "trace of "+in, "bounce of "+act, "defer of "+act, "a newer log of active",
			"defer of "+def, "bounce of "+def)
		names := h.names()
		for _, name := range []string{"incoming.spamfull", "deferred.spamfull", "maildrop.spamfull"} {
			if slices.Contains(names, name) {
				t.Errorf("%s is left, empty", name)
			}
		}
		// Again it says the same, and removes nothing.
		before = h.account()
		if again, _ := h.purge(h.open(), spam...); again.Deleted != 3 || again.Failed != 0 {
			t.Errorf("again %+v", again)
		}
		h.gone(before)
		if !h.running() {
			t.Error("Postfix does not run")
		}
	}
}

// What the journal says was removed is what was: id, inode, size and content.
func TestPurgeIsJournaled(t *testing.T) {
	h, w := swept(t)
	spam := h.mail("deferred.spamfull/D", "DAAAA4")
	log := h.mail("defer.spamfull/D", "DAAAA4")
	content, err := os.ReadFile(h.at("deferred.spamfull/D/DAAAA4"))
	h.must(err)
	sum := sha256.Sum256(content)
	h.purge(w, spam)
	records, err := ReadJournal(h.state())
	h.must(err)
	var got []batchRecord
	for _, r := range records {
		if r.Kind == kindIntent {
			var b batchRecord
			h.must(json.Unmarshal(r.Data, &b))
			got = append(got, b)
		}
	}
	want := []intention{
		{From: "defer.spamfull/D", ID: "DAAAA4", Inode: log.Inode, Size: log.Size},
		{From: "deferred.spamfull/D", ID: "DAAAA4", Inode: spam.Inode, Size: spam.Size, Sum: sum[:]},
	}
	last := got[len(got)-1]
	if diff := cmp.Diff(want, last.Moves); diff != "" || last.Token != "purge" || time.Since(time.Unix(last.At, 0)) > time.Minute {
		t.Errorf("%+v (-want +got):\n%s", last, diff)
	}
	moves := h.moves()
	if len(moves) == 0 || moves[len(moves)-1].ID != "DAAAA4" || !bytes.Equal(moves[len(moves)-1].Sum, sum[:]) || moves[len(moves)-1].Open {
		t.Errorf("moves %+v", moves)
	}
	if slices.ContainsFunc(moves, func(m Move) bool { return strings.HasPrefix(m.From, "defer.") }) {
		t.Errorf("a log among the messages: %+v", moves)
	}
}

// moves are what the journal tells of messages.
func (h *host) moves() []Move {
	h.t.Helper()
	var all []Move
	h.must(Moves(h.state(), func(m Move) error { all = append(all, m); return nil }, nil))
	return all
}

// A file that became longer, or shorter, is not what was listed.
func TestContentSum(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size, ok := range map[int64]bool{4: false, 5: true, 6: false} {
		got, err := contentSum(f, size)
		want := sha256.Sum256([]byte("hello"))
		if (err == nil) != ok || ok && !bytes.Equal(got, want[:]) {
			t.Errorf("%d bytes: %x, %v", size, got, err)
		}
	}
}

// A batch that a death left open is told as open, and a torn line not at all;
// records come in their order.
func TestMovesOfABrokenJournal(t *testing.T) {
	dir := t.TempDir()
	j, _, err := OpenJournal(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		kind string
		data any
	}{
		{"stage-begin", map[string]int{"index": 0}},
		{kindIntent, batchRecord{At: 7, Moves: []intention{{From: "incoming.spamfull", To: "incoming", ID: "A1"}, {From: "incoming.spamfull", To: "incoming", ID: "A2"}}}},
		{kindOutcome, outcomeRecord{Intent: 2, Not: []int{0}}},
		{kindIntent, batchRecord{At: 8, Moves: []intention{{From: "incoming.spamfull", To: "incoming.name-collisions", ID: "A1"}}}},
	} {
		if err := j.Write(r.kind, r.data); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	path := filepath.Join(dir, journalName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, text[len(text)-20:len(text)-3]...), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	err = Moves(dir, func(m Move) error {
		got = append(got, fmt.Sprintf("%s %d %t %t", m.ID, m.At, m.Open, m.Collided()))
		return nil
	}, func(r Record) error {
		got = append(got, r.Kind)
		return nil
	})
	want := []string{"stage-begin", "intent", "A2 7 false false", "outcome", "intent", "A1 8 true true"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	// In the middle a line that is not whole stops everything.
	if err := os.WriteFile(path, bytes.Replace(text, []byte(`"A2"`), []byte(`"A3"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Moves(dir, func(Move) error { return nil }, nil); err == nil || !strings.Contains(err.Error(), "line 3 is damaged") {
		t.Errorf("damaged: %v", err)
	}
	if err := Moves(t.TempDir(), func(Move) error { t.Error("moved"); return nil }, nil); err != nil {
		t.Errorf("none: %v", err)
	}
}

// A companion of a name that another message has as well stays in a live
// directory: whose it is nobody knows. One that was set aside is this message's,
// unless another one aside has the name. With the last of the name it goes.
func TestPurgeSharedName(t *testing.T) {
	id := testID(1)
	for _, other := range []string{"hold", "active", "deferred/HASH", "maildrop", "corrupt", "incoming.name-collisions", "deferred.spamfull.7", "active.spamfull.7/A/B", "incoming.spamfull"} {
		t.Run(strings.ReplaceAll(other, "/", " "), func(t *testing.T) {
			h, w := aside(t, []string{"deferred", "defer"}, 1, func(h *host) {
				h.write(h.home(Deferred, id), id, "spam", 0o700)
				h.write(h.home(Defer, id), id, "log", 0o600)
				h.write("bounce", id, "bounce", 0o600)
			})
			spam := h.asideMail(w)
			dir := strings.Replace(other, "HASH", id[:1], 1)
			dir = strings.Replace(dir, "A/B", id[:1]+"/"+id[1:2], 1)
			h.write(dir, id, "another's", 0o700)
			h.write(h.home(Defer, id), id, "newer log", 0o600)
			before := h.account()
			if done, _ := h.purge(w, spam...); done.Deleted != 1 {
				t.Errorf("done %+v", done)
			}
			if other == "incoming.spamfull" {
				h.gone(before, "spam")
			} else {
				h.gone(before, "spam", "log")
			}
		})
	}
	t.Run("both are purged", func(t *testing.T) {
		h, w := aside(t, nil, 0, func(h *host) {
			h.write("incoming", id, "one", 0o700)
			h.write("deferred", id, "two", 0o700)
			h.write("defer", id, "log", 0o600)
			h.write("trace", id, "trace", 0o600)
		})
		before := h.account()
		done, left := h.purge(w, h.asideMail(w)...)
		if done.Deleted != 2 || len(left) > 0 {
			t.Errorf("done %+v, left %v", done, left)
		}
		h.gone(before, "one", "two", "log", "trace")
	})
}

// A file that is not the one that was listed stays, whatever is in its place.
func TestPurgeRefuses(t *testing.T) {
	for name, change := range map[string]func(h *host, path string) error{
		"rewritten": func(h *host, path string) error {
			return os.WriteFile(path, []byte("longer than it was before"), 0o700)
		},
		"another time": func(h *host, path string) error {
			return os.Chtimes(path, time.Now(), time.Now().Add(-time.Hour))
		},
		"another inode": func(h *host, path string) error {
			return replace(path, func() error { return os.WriteFile(path, []byte("incoming AAAAA1"), 0o700) })
		},
		"link": func(h *host, path string) error {
			return replace(path, func() error { return os.Symlink(h.at("hold/FFFFF9"), path) })
		},
		"FIFO": func(h *host, path string) error {
			return replace(path, func() error { return unix.Mkfifo(path, 0o700) })
		},
		"hard link": func(h *host, path string) error { return os.Link(path, h.at("hold/FFFFF8")) },
		"directory": func(h *host, path string) error { return replace(path, func() error { return os.Mkdir(path, 0o700) }) },
	} {
		t.Run(name, func(t *testing.T) {
			h, w := swept(t)
			h.write("hold", "FFFFF9", "on hold", 0o700)
			m, other := h.mail("incoming.spamfull", "AAAAA1"), h.mail("incoming.spamfull", "AAAAB2")
			path := h.at("incoming.spamfull/AAAAA1")
			h.must(change(h, path))
			done, left := h.purge(w, m, other)
			if done.Failed != 1 || done.Deleted != 1 || len(done.Failures) != 1 || !strings.Contains(done.Failures[0], "AAAAA1") {
				t.Errorf("done %+v", done)
			}
			if !slices.Contains(left, "incoming.spamfull") {
				t.Errorf("left %v", left)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
			h.check(map[string]string{"on hold": "hold", "incoming AAAAB2": "", "incoming AAAAC3": "incoming.spamfull"})
		})
	}
	for name, change := range map[string]func(h *host, path string) error{
		"replaced after the look": func(h *host, path string) error {
			return replace(path, func() error { return os.WriteFile(path, []byte("incoming AAAAA1"), 0o700) })
		},
		"rewritten after the look": func(h *host, path string) error {
			return errors.Join(os.WriteFile(path, []byte("INCOMING AAAAA1"), 0o700), os.Chtimes(path, time.Now(), time.Now().Add(time.Second)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, w := swept(t)
			m, path := h.mail("incoming.spamfull", "AAAAA1"), h.at("incoming.spamfull/AAAAA1")
			step = func(what string) error {
				if what == "journal" {
					step = func(string) error { return nil }
					h.must(change(h, path))
				}
				return nil
			}
			if done, _ := h.purge(w, m); done.Failed != 1 || done.Deleted != 0 {
				t.Errorf("done %+v", done)
			}
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
	// Between the look by the handle and the unlink nothing can be done but to
	// see it, stop, and say it.
	t.Run("replaced at the unlink", func(t *testing.T) {
		h, w := swept(t)
		m, next := h.mail("incoming.spamfull", "AAAAA1"), h.mail("incoming.spamfull", "AAAAB2")
		step = func(what string) error {
			if strings.HasPrefix(what, "unlink AAAAA1 ") {
				step = func(string) error { return nil }
				h.must(os.Rename(h.at("incoming.spamfull/AAAAA1"), h.at("incoming.spamfull/kept")))
				h.write("incoming.spamfull", "AAAAA1", "new", 0o700)
			}
			return nil
		}
		_, _, err := w.Purge(t.Context(), list(m, next), Removal{Token: "purge"}, func(Removed) {})
		if !errors.Is(err, errWrongFile) || !strings.Contains(err.Error(), "incoming.spamfull/AAAAA1") {
			t.Errorf("got %v", err)
		}
		h.check(map[string]string{"incoming AAAAA1": "incoming.spamfull", "incoming AAAAB2": "incoming.spamfull"})
	})
}

// Names that lead out of what was set aside remove nothing.
func TestPurgeStrangeNames(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) { h.write("incoming", testID(1), "own", 0o700) })
	h.write("incoming", testID(2), "live", 0o700)
	h.write("incoming.spamfull.2", testID(3), "another run's", 0o700)
	h.write("incoming.name-collisions", testID(4), "a collision", 0o700)
	h.write("maildrop.spamfull", testID(5), "not listed", 0o700)
	before := h.account()
	own := h.mail("incoming.spamfull", testID(1))
	bad := []Mail{h.mail("incoming", testID(2)), h.mail("incoming.spamfull.2", testID(3)), h.mail("incoming.name-collisions", testID(4))}
	for _, change := range []func(m *Mail){
		func(m *Mail) { m.Aside = "../q/incoming.spamfull" },
		func(m *Mail) { m.Aside = "" },
		func(m *Mail) { m.ID = "../incoming.spamfull/" + m.ID },
		func(m *Mail) { m.ID = "" },
		func(m *Mail) { m.ID = "." },
		func(m *Mail) { m.Sub = ".." },
		func(m *Mail) { m.Sub = "../incoming.spamfull" },
		func(m *Mail) { m.Sub = "." },
		func(m *Mail) { m.Sub = "/" },
	} {
		m := own
		change(&m)
		bad = append(bad, m)
	}
	if done, _ := h.purge(w, bad...); int(done.Failed) != len(bad) || done.Deleted != 0 {
		t.Errorf("done %+v of %d", done, len(bad))
	}
	h.gone(before)
}

// After a death between the record and the removal of an empty directory its
// name is not the run's any more, and the next try removes it.
func TestPurgeDiesAtTheDirectory(t *testing.T) {
	h, w := aside(t, nil, 0, func(h *host) { h.write("incoming", testID(1), "spam", 0o700) })
	spam := h.asideMail(w)
	step = func(what string) error {
		if strings.HasPrefix(what, "rmdir incoming.spamfull ") {
			return unix.EIO
		}
		return nil
	}
	if _, _, err := w.Purge(t.Context(), list(spam...), Removal{Token: "purge"}, func(Removed) {}); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v", err)
	}
	step = func(string) error { return nil }
	if sets, err := h.open().SetsAside(); err != nil || slices.ContainsFunc(sets, func(s Set) bool { return s.Aside == "incoming.spamfull" }) {
		t.Errorf("sets %v, %v", sets, err)
	}
	if done, left := h.purge(h.open(), spam...); done.Deleted != 1 || len(left) > 0 {
		t.Errorf("done %+v, left %v", done, left)
	}
	if names := h.names(); slices.Contains(names, "incoming.spamfull") {
		t.Errorf("left %v", names)
	}
}

// TestPurgeCrashWalk stops a purge at each of its steps, by number, and carries
// it on. At every stop each message that is not listed stands where it stood,
// each that is stands there or is gone, and no log is there without its message.
func TestPurgeCrashWalk(t *testing.T) {
	for _, layout := range []struct {
		hashed []string
		depth  int
	}{{nil, 0}, {[]string{"incoming", "deferred", "defer", "bounce"}, 2}} {
		for _, mode := range walkModes {
			t.Run(fmt.Sprintf("depth %d/%s", layout.depth, mode.name), func(t *testing.T) {
				steps := 0
				for n := 1; !t.Failed(); n++ {
					if !purgeAt(t, n, mode, layout.hashed, layout.depth) {
						break
					}
					steps = n
				}
				if least := 12; steps < least && !t.Failed() {
					t.Errorf("only %d steps", steps)
				}
			})
		}
	}
}

func purgeAt(t *testing.T, n int, mode walkMode, hashed []string, depth int) (reached bool) {
	t.Run(fmt.Sprint(n), func(t *testing.T) {
		h := newHost(t, hashed, depth)
		h.flood(9)
		for i := range 9 {
			h.write(h.home("bounce", testID(i)), testID(i), fmt.Sprintf("bounce of %d", i), 0o600)
		}
		h.start()
		w := h.setAside(crashQueues...)
		before := h.account()
		listed := map[string]bool{} // contents that are to go
		var spam []Mail
		for i, m := range h.asideMail(w) {
			if i < 3 { // one of each queue
				continue
			}
			spam = append(spam, m)
			for what := range before {
				var k int
				for _, form := range []string{"message %d", "log of %d", "bounce of %d"} {
					if n, _ := fmt.Sscanf(what, form, &k); n == 1 && testID(k) == m.ID {
						listed[what] = true
					}
				}
			}
		}
		whole := func(at string) {
			t.Helper()
			now := h.account()
			for what, where := range before {
				stays := slices.Equal(now[what], where)
				// The log of the one on hold was never the run's: it goes back.
				back := what == "log of the one on hold" && slices.Equal(now[what], []string{h.home(Defer, "0C0FFEE1")})
				if !stays && !back && !(listed[what] && len(now[what]) == 0) {
					t.Errorf("%s: %q stood in %v, stands in %v", at, what, where, now[what])
				}
			}
			for what := range now {
				if len(before[what]) == 0 {
					t.Errorf("%s: %q was nowhere before", at, what)
				}
				var k int
				for _, form := range []string{"log of %d", "bounce of %d"} {
					// Its name could be another message's by now.
					if n, _ := fmt.Sscanf(what, form, &k); n == 1 && len(now[fmt.Sprint("message ", k)]) == 0 {
						t.Errorf("%s: %q is there, and its message is gone", at, what)
					}
				}
			}
		}
		try := func(at string) error {
			w, err := h.tryOpen()
			if err != nil {
				return err
			}
			done, left, err := w.Purge(context.Background(), list(spam...), Removal{Token: "purge"}, func(Removed) {})
			if err != nil {
				return err
			}
			if int(done.Deleted) != len(spam) || done.Failed > 0 {
				t.Errorf("%s: done %+v of %d", at, done, len(spam))
			}
			if want := []string{"active.spamfull", "defer.spamfull", "deferred.spamfull", "incoming.spamfull"}; !slices.Equal(slices.Sorted(slices.Values(left)), want) {
				t.Errorf("%s: left %v, want %v", at, left, want)
			}
			return nil
		}
		is, at, err := disturbed(mode, n, func() error { return try("undisturbed") })
		reached = is
		whole(fmt.Sprintf("after %v at step %d (%s)", err, n, at))
		if err := try(fmt.Sprintf("after step %d (%s)", n, at)); err != nil {
			t.Errorf("step %d (%s), carried on: %v", n, at, err)
		}
		whole("at the end")
		end := h.account()
		for what := range listed {
			if len(end[what]) > 0 {
				t.Errorf("step %d (%s): %q still stands in %v", n, at, what, end[what])
			}
		}
		if len(listed) <= len(spam) {
			t.Fatalf("only %d files are listed", len(listed))
		}
	})
	return reached
}

func TestLooker(t *testing.T) {
	h, w := swept(t)
	l, err := NewLooker(h.p)
	h.must(err)
	defer l.Close()
	good := h.mail("deferred.spamfull/D", "DAAAA4")
	stands := func(change func(m *Mail)) bool {
		m := good
		change(&m)
		is, err := l.Stands(m)
		h.must(err)
		return is
	}
	if !stands(func(*Mail) {}) {
		t.Error("a message that stands is not seen")
	}
	for i, change := range []func(m *Mail){
		func(m *Mail) { m.Inode++ }, func(m *Mail) { m.Size++ }, func(m *Mail) { m.Mtime++ }, func(m *Mail) { m.ID = "DAAAA5" },
		func(m *Mail) { m.Sub = "E" }, func(m *Mail) { m.Sub = "../deferred.spamfull/D" }, func(m *Mail) { m.Aside = "x/../deferred.spamfull" },
	} {
		if stands(change) {
			t.Errorf("change %d is not seen", i)
		}
	}
	h.purge(w, good)
	if stands(func(*Mail) {}) {
		t.Error("it stands, and was purged")
	}
	if entries, err := filepath.Glob(h.at("deferred.spamfull/*")); err != nil || len(entries) > 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

// A journal that was written anew names no message, and is as good as the old
// one for a run with nothing aside.
func TestForget(t *testing.T) {
	h, w := swept(t)
	h.purge(w, h.asideMail(w)...)
	h.must(w.Close())
	before, err := ReadJournal(h.state())
	h.must(err)
	if len(h.moves()) == 0 {
		t.Fatal("nothing was moved")
	}
	h.must(os.WriteFile(filepath.Join(h.state(), "journal.new"), []byte("of a try that died"), 0o600))
	h.must(Forget(h.state()))
	after, err := ReadJournal(h.state())
	h.must(err)
	if len(after) != len(before) || len(h.moves()) != 0 {
		t.Errorf("%d records, %d before; moves %v", len(after), len(before), h.moves())
	}
	for i, r := range after {
		if r.Kind != before[i].Kind || r.Seq != before[i].Seq || r.Kind != kindIntent && r.Kind != kindOutcome && string(r.Data) != string(before[i].Data) {
			t.Errorf("record %+v, before %+v", r, before[i])
		}
	}
	w = h.open()
	if sets, err := w.SetsAside(); err != nil || len(sets) != 0 || w.Unsettled() {
		t.Errorf("sets %v, %v", sets, err)
	}
	h.must(w.Journal.Write("end", struct{}{}))
}
