package spool

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// enemy is the mail owner, or whoever has become it: all in the queues is his to
// rename and replace, at the very moment between a look of ours and what follows
// it. He keeps what he takes away, and gives it back in the end.
type enemy struct {
	h       *host
	chance  *rand.Rand
	outside string            // what is not his, and must stay as it is
	taken   map[string]string // path in the queue: where he keeps what was there
	did     int
}

// act puts something else in the place of a message or of a hash directory, or
// takes it away again.
func (e *enemy) act() {
	if e.chance.IntN(3) == 0 {
		for path := range e.taken {
			e.giveBack(path)
			return
		}
	}
	var paths []string
	_ = filepath.WalkDir(e.h.p.QueueDirectory, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(e.h.p.QueueDirectory, path)
		top, below, found := strings.Cut(rel, "/")
		if err != nil || !found || top == "pid" || top == "public" || strings.HasPrefix(filepath.Base(rel), "stash") {
			return nil
		}
		if d.Type().IsRegular() || d.IsDir() && len(below) == 1 {
			paths = append(paths, path)
		}
		return nil
	})
	if len(paths) == 0 {
		return
	}
	path := paths[e.chance.IntN(len(paths))]
	stash := filepath.Join(filepath.Dir(path), fmt.Sprintf("stash.%d", e.did))
	info, err := os.Lstat(path)
	if err != nil || e.taken[path] != "" || os.Rename(path, stash) != nil {
		return
	}
	e.did++
	e.taken[path] = stash
	secret := filepath.Join(e.outside, "secret")
	if info.IsDir() {
		_ = os.Symlink(e.outside, path)
		return
	}
	switch e.chance.IntN(5) {
	case 0:
		_ = os.Symlink(secret, path)
	case 1:
		_ = unix.Mkfifo(path, 0o700)
	case 2:
		_ = os.Link(secret, path)
	case 3:
		_ = os.Mkdir(path, 0o700)
	case 4: // nothing: it has vanished
	}
}

// giveBack removes what he planted, if nobody else's is there, and puts back what was.
func (e *enemy) giveBack(path string) {
	stash := e.taken[path]
	was, err := os.Lstat(stash)
	if err != nil {
		return
	}
	secret, _ := os.Lstat(filepath.Join(e.outside, "secret"))
	if now, err := os.Lstat(path); err == nil {
		if now.Mode().IsRegular() && !os.SameFile(now, secret) {
			return
		}
		if now.IsDir() && was.IsDir() {
			// Ours, made anew: it is given back under no name that we look at.
			return
		}
		_ = os.Remove(path)
	}
	if renameNoReplace(unix.AT_FDCWD, stash, unix.AT_FDCWD, path) == nil {
		delete(e.taken, path)
	}
}

// outsideState is all that an enemy could have us do to what is not his.
func (e *enemy) outsideState() map[string]string {
	all := map[string]string{}
	e.h.must(filepath.WalkDir(e.outside, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var s unix.Stat_t
		e.h.must(unix.Lstat(path, &s))
		text := ""
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			e.h.must(err)
			text = string(b)
		}
		mtime := s.Mtim.Nano()
		if d.IsDir() {
			mtime = 0
		}
		all[path] = fmt.Sprint(s.Ino, s.Mode, s.Uid, s.Gid, mtime, text)
		return nil
	}))
	return all
}

// TestEnemy has the mail owner race every step of a restore, a put back and a
// purge: nothing outside of the queues is touched, and no message is lost, twice
// or replaced, whatever of them had to be refused.
func TestEnemy(t *testing.T) {
	seeds := 25
	if *every {
		seeds = 500
	}
	did := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			h, w := aside(t, []string{"deferred", "defer"}, 1, func(h *host) { h.flood(12) })
			e := &enemy{h: h, chance: rand.New(rand.NewPCG(uint64(seed), 11)), outside: filepath.Join(h.dir, "outside"), taken: map[string]string{}}
			h.must(os.MkdirAll(filepath.Join(e.outside, "keep"), 0o700))
			h.must(os.WriteFile(filepath.Join(e.outside, "secret"), []byte("secret"), 0o700))
			for i := range 12 { // what a link to here would have us take for mail
				h.must(os.WriteFile(filepath.Join(e.outside, testID(i)), []byte("not his"), 0o700))
			}
			old := e.outsideState()
			all := h.asideMail(w)
			before := h.account()
			step = func(what string) error {
				f := strings.Fields(what)[0]
				if (f == "rename" || f == "unlink" || f == "touch" || f == "rmdir" || f == "journal") && e.chance.IntN(3) == 0 {
					e.act()
				}
				return nil
			}
			_, _ = w.Restore(t.Context(), slices.Clone(all[:8]), Options{Token: "ham", First: 2}, quiet)
			spam := all[8:]
			purged, _, _ := w.Purge(t.Context(), list(spam...), Removal{Token: "purge"}, func(Removed) {})
			_, _, _ = w.PutBack(t.Context(), slices.Clone(all[:8]), Options{Token: "rest"}, quiet)
			step = func(string) error { return nil }
			did += e.did
			for path := range e.taken {
				e.giveBack(path)
			}
			now := h.account()
			delete(now, "secret") // his links
			gone := int64(0)
			for what := range before {
				switch n := len(now[what]); {
				case n == 1:
				case n == 0 && !strings.HasPrefix(what, "message"): // its log
				case n == 0 && slices.ContainsFunc(spam, func(m Mail) bool { return before[what][0] == m.path() }):
					gone++
				default:
					t.Errorf("%q stands in %v, stood in %v", what, now[what], before[what])
				}
			}
			if gone > int64(len(spam)) || gone < purged.Deleted {
				t.Errorf("%d messages are gone, %d were purged", gone, purged.Deleted)
			}
			for what := range now {
				if len(before[what]) == 0 {
					t.Errorf("%q was nowhere before", what)
				}
			}
			if diff := cmp.Diff(old, e.outsideState()); diff != "" {
				t.Errorf("outside of the queues (-was +is):\n%s", diff)
			}
			if !h.running() {
				t.Error("Postfix does not run")
			}
		})
	}
	if did < 20*seeds/25 {
		t.Errorf("the enemy has done %d things: does this test still look?", did)
	}
	t.Logf("%d things done", did)
}

// A hash directory that its owner replaced by a link is not looked into, however
// deep it is.
func TestOpenAsideThroughLink(t *testing.T) {
	h := newHost(t, []string{"deferred", "defer"}, 2)
	h.flood(6)
	h.start()
	w := h.setAside(Deferred)
	deep, err := filepath.Glob(h.at("deferred.spamfull/?/?"))
	if err != nil || len(deep) == 0 {
		t.Fatalf("no hash directories: %v", err)
	}
	name, err := filepath.Rel(h.p.QueueDirectory, deep[0])
	h.must(err)
	dir, err := w.OpenAside(name)
	h.must(err)
	dir.Close()
	moved := filepath.Join(h.dir, "moved")
	h.must(os.Rename(filepath.Dir(deep[0]), moved))
	h.must(os.Symlink(moved, filepath.Dir(deep[0])))
	if dir, err := w.OpenAside(name); err == nil {
		t.Errorf("%s was opened through a link", dir.Name())
		dir.Close()
	}
}
