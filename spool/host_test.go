package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// host is a queue directory whose Postfix is two idle processes that keep the
// lock as master does, and never touch mail: all that moves was moved by us.
type host struct {
	t    testing.TB
	dir  string
	p    *Postfix
	work *Work // of the last open
	lock *os.File
	ham  []Mail
	spam []Mail
	// settles says that a part may have been moved by whoever died before.
	settles bool
}

const idleStart = `cd "$0" || exit 1
setsid sh -c 'exec 9<>pid/master.pid; flock -n 9 || { echo "fatal: open lock file" >&2; exit 1; }
echo $$ >pid/master.pid; sleep 1000 9>&- & exec sleep 1000' &
while kill -0 $! 2>/dev/null; do read -r p <pid/master.pid && [ "$p" = $! ] && exit 0; sleep 0.002; done
exit 1`

const idleStop = `cd "$0" && kill -TERM -$(cat pid/master.pid)`

// kills only master: its child outlives it.
const idleStopMaster = `cd "$0" && kill -TERM $(cat pid/master.pid)`

func newHost(t testing.TB, hashed []string, depth int) *host {
	t.Helper()
	for _, tool := range []string{"flock", "setsid"} {
		if _, err := lookPath(tool, ""); err != nil {
			t.Skipf("needs %s(1), of util-linux", tool)
		}
	}
	below := ""
	if s, err := os.Stat("/dev/shm"); err == nil && s.IsDir() {
		below = "/dev/shm" // a walk syncs thousands of times
	}
	dir, err := os.MkdirTemp(below, "spool")
	if err != nil {
		t.Fatal(err)
	}
	h := hostIn(t, dir, hashed, depth)
	for _, name := range []string{"q", "q/maildrop", "q/incoming", "q/active", "q/deferred", "q/hold", "q/corrupt", "q/defer", "q/pid", "q/public", "state"} {
		h.must(os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	h.must(os.WriteFile(h.at("pid/master.pid"), nil, 0o600))
	h.must(os.WriteFile(h.p.LogFile, nil, 0o600))
	t.Cleanup(func() {
		step = func(string) error { return nil }
		h.die()
		if master, ok := h.p.Running(); ok {
			_ = unix.Kill(-master, unix.SIGKILL)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return h
}

// hostIn is the host whose files are, or will be, in dir.
func hostIn(t testing.TB, dir string, hashed []string, depth int) *host {
	spool := filepath.Join(dir, "q")
	return &host{t: t, dir: dir, p: &Postfix{
		Settings: Settings{QueueDirectory: spool, Owner: os.Geteuid(), HashNames: hashed, HashDepth: depth, LogFile: filepath.Join(dir, "log")},
		Start:    []string{"sh", "-c", idleStart, spool}, Stop: []string{"sh", "-c", idleStop, spool},
	}}
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) at(path string) string { return filepath.Join(h.p.QueueDirectory, path) }

func (h *host) state() string { return filepath.Join(h.dir, "state") }

// write makes a file and returns how it stands there.
func (h *host) write(dir, id, content string, mode os.FileMode) Mail {
	h.t.Helper()
	h.must(os.MkdirAll(h.at(dir), 0o700))
	path := filepath.Join(h.at(dir), id)
	h.must(os.WriteFile(path, []byte(content), 0o600))
	h.must(os.Chmod(path, mode))
	return h.mail(dir, id)
}

func (h *host) mail(dir, id string) Mail {
	h.t.Helper()
	var s unix.Stat_t
	h.must(unix.Lstat(filepath.Join(h.at(dir), id), &s))
	aside, sub, _ := strings.Cut(dir, "/")
	v := toStat(&s)
	return Mail{Aside: aside, Sub: sub, ID: id, Inode: v.Inode, Size: v.Size, Mtime: v.Mtime}
}

// home is where a live queue keeps id.
func (h *host) home(q Queue, id string) string {
	return (&Work{Postfix: h.p}).home(q, id)
}

func testID(n int) string { return fmt.Sprintf("%05X%X", n*34567%1000000, 0x1000+n) }

// flood writes n messages over incoming, active and deferred, these with logs.
func (h *host) flood(n int) {
	for i := range n {
		q := []Queue{Incoming, Active, Deferred}[i%3]
		id := testID(i)
		h.write(h.home(q, id), id, fmt.Sprintf("message %d", i), 0o700)
		if q == Deferred {
			h.write(h.home(Defer, id), id, fmt.Sprintf("log of %d", i), 0o600)
		}
	}
	h.write(h.home(Incoming, "0BADDE1"), "0BADDE1", "half-written", 0o600)
	h.write("hold", "0C0FFEE1", "on hold", 0o700)
	h.write(h.home(Defer, "0C0FFEE1"), "0C0FFEE1", "log of the one on hold", 0o600)
}

// account is where each file stands, by its content.
func (h *host) account() map[string][]string {
	h.t.Helper()
	all := map[string][]string{}
	h.must(filepath.WalkDir(h.p.QueueDirectory, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(h.p.QueueDirectory, path)
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(rel, "pid/") {
			return err
		}
		text, err := os.ReadFile(path)
		all[string(text)] = append(all[string(text)], filepath.Dir(rel))
		return err
	}))
	return all
}

// names are the directories directly in the queue directory.
func (h *host) names() []string {
	h.t.Helper()
	entries, err := os.ReadDir(h.p.QueueDirectory)
	h.must(err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (h *host) start() {
	h.t.Helper()
	h.must(command(context.Background(), time.Minute, nil, h.p.Start...))
}

func (h *host) running() bool { _, ok := h.p.Running(); return ok }

func (h *host) open() *Work {
	h.t.Helper()
	w, err := h.tryOpen()
	h.must(err)
	return w
}

// die lets go of what a process lets go of when it dies: its locks.
func (h *host) die() {
	if h.lock != nil {
		h.lock.Close()
	}
	if h.work != nil {
		h.work.Die()
	}
	h.lock, h.work = nil, nil
}

func (h *host) tryOpen() (*Work, error) {
	h.die()
	lock, err := Lock(h.p)
	if err != nil {
		return nil, err
	}
	h.lock = lock
	w, _, err := OpenWork(h.p, "20261123T000000Z-test", h.state(), "test", lock)
	if err != nil {
		return nil, err
	}
	h.work = w
	return w, nil
}

// setAside carries a section out whole.
func (h *host) setAside(queues ...Queue) *Work {
	h.t.Helper()
	w := h.work
	if w == nil {
		w = h.open()
	}
	h.must(w.Prepare(queues))
	s, err := w.Stop(context.Background())
	h.must(err)
	_, err = w.SetAside(context.Background(), s)
	h.must(err)
	_, err = w.Start(context.Background(), s)
	h.must(err)
	return w
}

// asideMail lists what is aside and complete.
func (h *host) asideMail(w *Work) []Mail {
	h.t.Helper()
	sets, err := w.SetsAside()
	h.must(err)
	var all []Mail
	for _, s := range sets {
		if s.Queue == Defer {
			continue
		}
		h.must(Walk(h.p, s.Aside, func(c Chunk) error {
			for _, id := range c.IDs {
				st, err := statAt(c.Dir, id)
				if err != nil {
					return err
				}
				if st.Complete() {
					all = append(all, Mail{Aside: s.Aside, Sub: c.Sub, ID: id, Inode: st.Inode, Size: st.Size, Mtime: st.Mtime})
				}
			}
			return nil
		}))
	}
	slices.SortFunc(all, func(a, b Mail) int { return strings.Compare(a.ID, b.ID) })
	return all
}

func quiet(Moved) {}

var crashQueues = []Queue{Incoming, Active, Deferred}

// carry takes a run to its end from wherever its journal stands, as the worker
// does: what was left is settled first, and a failed set-aside is followed by
// the start.
func (h *host) carry() error {
	ctx := context.Background()
	w, err := h.tryOpen()
	if err != nil {
		return err
	}
	_, err = w.Settle(ctx)
	if !h.running() {
		h.t.Error("Postfix does not run after Settle")
	}
	if err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	if !w.Began() {
		if err := w.Prepare(crashQueues); err != nil {
			return fmt.Errorf("prepare: %w", err)
		}
		s, err := w.Stop(ctx)
		if err != nil {
			return err
		}
		_, failed := w.SetAside(ctx, s)
		if _, err := w.Start(ctx, s); err != nil || failed != nil {
			return errors.Join(failed, err)
		}
	}
	if h.ham == nil {
		for i, m := range h.asideMail(w) {
			if i%2 == 0 {
				h.ham = append(h.ham, m)
			} else {
				h.spam = append(h.spam, m)
			}
		}
	}
	moved, err := w.Restore(ctx, slices.Clone(h.ham), Options{Token: "ham"}, quiet)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if !h.settles && int(moved.Restored) != len(h.ham) || moved.Failed+moved.Collisions > 0 {
		h.t.Errorf("restored %+v of %d", moved, len(h.ham))
	}
	moved, left, err := w.PutBack(ctx, slices.Clone(h.spam), Options{Token: "spam"}, quiet)
	if err != nil {
		return fmt.Errorf("put back: %w", err)
	}
	if !h.settles && int(moved.Restored) != len(h.spam) || moved.Failed+moved.Collisions > 0 || len(left) > 0 {
		h.t.Errorf("put back %+v of %d, left %v", moved, len(h.spam), left)
	}
	return nil
}

// once is the law: what was there is there, under one name each.
func (h *host) once(before map[string][]string) {
	h.t.Helper()
	now := h.account()
	for what, where := range now {
		if len(where) != 1 || len(before[what]) != 1 {
			h.t.Errorf("%q stands in %v, and stood in %v", what, where, before[what])
		}
	}
	for what := range before {
		if len(now[what]) != 1 {
			h.t.Errorf("%q is lost", what)
		}
	}
}

// ended compares with the end of a run that nobody disturbed: all is live, what
// was in active is in incoming, and nothing of ours is left.
func (h *host) ended(before map[string][]string, names []string, whole bool) {
	h.t.Helper()
	want := map[string][]string{}
	for what, where := range before {
		dir := where[0]
		if queue, sub, _ := strings.Cut(dir, "/"); queue == string(Active) {
			dir = string(Incoming)
			if sub != "" {
				dir += "/" + sub
			}
		}
		want[what] = []string{dir}
		if now := h.account()[what]; !whole && slices.Equal(now, where) {
			want[what] = where
		}
	}
	now := h.account()
	for _, what := range slices.Sorted(maps.Keys(want)) {
		// active and incoming may be hashed differently: their depth is home's.
		if a, b := want[what][0], strings.Join(now[what], " "); a != b && !(strings.HasPrefix(a, "incoming") && strings.HasPrefix(b, "incoming")) {
			h.t.Errorf("%q stands in %q, want %q", what, b, a)
		}
	}
	if got := h.names(); !slices.Equal(got, names) {
		h.t.Errorf("queue directory holds %v, want %v", got, names)
	}
	if !h.running() {
		h.t.Error("Postfix does not run")
	}
}
