package practice

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
)

func TestMain(m *testing.M) {
	if code, mine := Main(os.Args[1:]); mine {
		os.Exit(code)
	}
	if len(os.Args) == 3 && os.Args[1] == dieStopped {
		os.Exit(stopAndDie(os.Args[2]))
	}
	// Else each child with the race detector in it waits for a second at its end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// newHost makes a host and stops it when the test ends. Its folder's name is
// short, because a socket's must be.
func newHost(t *testing.T, o Options) *Host {
	t.Helper()
	above, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(above); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(above, "chavez")
	if err := Make(dir, "chavez", o); err != nil {
		t.Fatal(err)
	}
	h, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		await(t, "the end of the queue manager", func() bool { return !h.managed(t) })
		if t.Failed() {
			log, _ := os.ReadFile(h.Log())
			t.Logf("the end of mail.log:\n%s", log[max(0, len(log)-2000):])
		}
	})
	return h
}

func start(t *testing.T, h *Host) {
	t.Helper()
	if err := h.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// await polls for an event of another process.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(poll) {
		if time.Now().After(deadline) {
			t.Fatalf("no sign of %s", what)
		}
	}
}

// managed says whether a queue manager lives: it holds its lock.
func (h *Host) managed(t *testing.T) bool {
	t.Helper()
	f, err := flockUntil(h.managerLock(), unix.LOCK_SH, time.Time{})
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	if err == nil {
		f.Close()
		return false
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		t.Fatal(err)
	}
	return true
}

func submit(t *testing.T, h *Host, m Message) string {
	t.Helper()
	id, err := h.Submit(m)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func audit(t *testing.T, h *Host) Audit {
	t.Helper()
	a, err := h.Audit()
	if err != nil {
		t.Fatal(err)
	}
	if l, d := a.Lost(), a.Twice(); len(l)+len(d) > 0 {
		t.Fatalf("lost: %v, twice: %v", l, d)
	}
	return a
}

// at names the directory of the message with that X-Practice-Id.
func at(t *testing.T, h *Host, id string) string {
	t.Helper()
	return audit(t, h).Messages[id].Places[0].Directory
}

func letter(id, to string) Message {
	return Message{ID: id, Sender: "carlos@chavez.practice.test", Recipients: []string{to}, Login: "carlos",
		ClientName: "home.test", ClientAddress: "192.0.2.1", Text: "Subject: " + id + "\n\nhello\n"}
}

func TestStartStop(t *testing.T) {
	h := newHost(t, Options{})
	ctx := context.Background()
	if _, running := h.Running(); running {
		t.Fatal("runs before its start")
	}
	// What is missing is made.
	if err := os.Remove(h.Spool("hold")); err != nil {
		t.Fatal(err)
	}
	start(t, h)
	if s, err := os.Stat(h.Spool("hold")); err != nil || s.Mode().Perm() != 0o700 {
		t.Errorf("hold after the start: %v, %v", s, err)
	}
	master, running := h.Running()
	if !running {
		t.Fatal("does not run after its start")
	}
	pid, err := os.ReadFile(h.masterPID())
	if want := fmt.Sprintf("%32d\n", master); err != nil || string(pid) != want {
		t.Errorf("master.pid: got %q, %v, want %q", pid, err, want)
	}
	if _, err := flockUntil(h.masterPID(), unix.LOCK_EX, time.Time{}); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("lock of a running master: got %v, want %v", err, unix.EWOULDBLOCK)
	}
	if pgid, err := unix.Getpgid(master); err != nil || pgid != master {
		t.Errorf("master %d is of group %d, %v", master, pgid, err)
	}
	if err := h.Start(ctx); err == nil {
		t.Error("a second start: got nil, want an error")
	}
	if err := h.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	lock, err := flockUntil(h.masterPID(), unix.LOCK_EX, time.Time{})
	if err != nil {
		t.Fatalf("lock after the stop: %v", err)
	}
	// Whoever holds the lock keeps Postfix from being started.
	if err := h.Start(ctx); err == nil || !strings.Contains(err.Error(), "lock") {
		t.Errorf("start under somebody's lock: got %v", err)
	}
	lock.Close()
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	if err := do(ctx, p.Stop); err == nil {
		t.Error("stop of what does not run: got nil, want an error")
	}
	start(t, h)
}

// Over each of these no Postfix with a log file of its own starts.
func TestStartRefused(t *testing.T) {
	for what, spoil := range map[string]func(h *Host) error{
		"closed directory": func(h *Host) error { return os.Chmod(h.Spool("incoming"), 0) },
		"odd name":         func(h *Host) error { return os.WriteFile(h.Spool("incoming", "odd.name"), nil, 0o700) },
		"one character":    func(h *Host) error { return os.WriteFile(h.Spool("incoming", "Z"), nil, 0o700) },
		"other inode":      func(h *Host) error { return os.WriteFile(h.Spool("hold", "123451"), nil, 0o700) },
	} {
		h := newHost(t, Options{})
		if err := spoil(h); err != nil {
			t.Fatal(err)
		}
		if err := h.Start(context.Background()); err == nil {
			t.Errorf("%s: got nil, want an error", what)
		}
		if log, err := os.ReadFile(h.Log()); err != nil || !strings.Contains(string(log), "fatal: ") {
			t.Errorf("%s: no reason in mail.log: %q, %v", what, log, err)
		}
		if _, running := h.Running(); running {
			t.Errorf("%s: runs", what)
		}
	}
}

func TestDelivery(t *testing.T) {
	h := newHost(t, Options{})
	early := letter("early", "b@far.test")
	early.Queue = spool.Active // what a queue manager had in hand before
	submit(t, h, early)
	old := letter("old", "b@mx.stuck.test")
	old.Queue, old.Arrived = spool.Deferred, time.Now().Add(-time.Hour)
	old.Due = time.Now().Add(-time.Minute)
	oldID := submit(t, h, old)
	half := letter("half", "b@far.test")
	half.HalfWritten = true
	submit(t, h, half)
	start(t, h)
	await(t, "delivery of what was in active", func() bool { return at(t, h, "early") == "delivered" })
	submit(t, h, letter("now", "b@far.test"))
	submit(t, h, letter("silent", "b@mx.silent.test"))
	stuckID := submit(t, h, letter("stuck", "b@mx.stuck.test"))
	await(t, "delivery of new mail", func() bool { return at(t, h, "now") == "delivered" })
	await(t, "mail to a silent server in active", func() bool { return at(t, h, "silent") == "active" })
	await(t, "mail to a stuck domain in deferred", func() bool { return at(t, h, "stuck") == "deferred" })
	a := audit(t, h)
	if len(a.Incomplete) != 1 || a.Incomplete[0].Directory != "incoming" {
		t.Errorf("incomplete: %v", a.Incomplete)
	}
	var logs []string
	for _, l := range a.Logs {
		if l.Misplaced || l.Directory != "defer" {
			t.Errorf("log at %v", l)
		}
		logs = append(logs, l.QueueID)
	}
	if slices.Sort(logs); !slices.Equal(logs, slices.Sorted(slices.Values([]string{oldID, stuckID}))) {
		t.Errorf("logs of %v, want of %s and %s", logs, oldID, stuckID)
	}
	path := filepath.Join(h.home(spool.Deferred, stuckID), stuckID)
	if s, err := os.Stat(path); err != nil || time.Until(s.ModTime()) < minimalBackoff-10*time.Second {
		t.Errorf("deferred: %v, %v", s, err)
	}
	log, err := os.ReadFile(h.Log())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{": client=home.test[192.0.2.1], sasl_method=PLAIN, sasl_username=carlos\n", ": removed\n", "(queue active)\n", "status=deferred ("} {
		if !strings.Contains(string(log), want) {
			t.Errorf("no %q in mail.log", want)
		}
	}
	// Nothing that is silent or stuck keeps the host from going on.
	if err := h.Configure(Options{Stuck: []string{}, Silent: []string{"nowhere.test"}}); err != nil {
		t.Fatal(err)
	}
	await(t, "delivery of what was stuck", func() bool {
		if err := h.Flush(); err != nil {
			t.Fatal(err)
		}
		return at(t, h, "stuck") == "delivered" && at(t, h, "old") == "delivered"
	})
}

func TestQueueManagerLooks(t *testing.T) {
	h := newHost(t, Options{})
	start(t, h)
	await(t, "the queue manager", func() bool { return h.managed(t) })
	// Neither of these is ever delivered.
	active := letter("dead letter", "b@far.test")
	active.ID, active.Queue = "dead-letter", spool.Active
	future := letter("future", "b@far.test")
	future.Due = time.Now().Add(time.Hour)
	hold := letter("hold", "b@far.test")
	hold.Queue = spool.Hold
	dir := h.Spool("incoming")
	misplaced := letter("misplaced", "b@mx.stuck.test")
	misplaced.Queue, misplaced.Due = spool.Deferred, time.Now().Add(-time.Minute)
	if err := h.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	id := submit(t, h, misplaced)
	if err := os.Rename(filepath.Join(h.home(spool.Deferred, id), id), h.Spool("deferred", id)); err != nil {
		t.Fatal(err)
	}
	start(t, h)
	submit(t, h, letter("first", "b@far.test"))
	await(t, "delivery", func() bool { return at(t, h, "first") == "delivered" })
	submit(t, h, active)
	submit(t, h, future)
	submit(t, h, hold)
	if err := os.WriteFile(filepath.Join(dir, "0000012345"), []byte("no queue file"), 0o700); err != nil {
		t.Fatal(err)
	}
	submit(t, h, letter("last", "b@far.test"))
	await(t, "delivery", func() bool { return at(t, h, "last") == "delivered" })
	for id, want := range map[string]string{"dead-letter": "active", "future": "incoming", "hold": "hold", "misplaced": "deferred"} {
		if got := at(t, h, id); got != want {
			t.Errorf("%s is in %s, want %s", id, got, want)
		}
	}
	a := audit(t, h)
	if len(a.Broken) != 1 || a.Broken[0].Directory != "corrupt" {
		t.Errorf("broken: %v", a.Broken)
	}
	if p := a.Messages["misplaced"].Places[0]; !p.Misplaced || p.Live() {
		t.Errorf("misplaced: %+v", p)
	}
}

func TestActiveLimitAndRate(t *testing.T) {
	h := newHost(t, Options{ActiveLimit: 3, Rate: 0.01})
	var list []Message
	for i := range 10 {
		list = append(list, letter(fmt.Sprint(i), "b@mx.silent.test"))
	}
	list = append(list, letter("last", "b@far.test"))
	if _, err := h.SubmitAll(list); err != nil {
		t.Fatal(err)
	}
	start(t, h)
	await(t, "a full active", func() bool { return audit(t, h).Count(Ham)["active"] == 3 })
	if err := h.Configure(Options{ActiveLimit: 100}); err != nil {
		t.Fatal(err)
	}
	await(t, "the rest", func() bool {
		count := audit(t, h).Count(Ham)
		return count["active"] == 10 && count["delivered"] == 1
	})
}

// A file of somebody else ends the queue manager, and the start says nothing.
func TestForeignFile(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give a file away")
	}
	h := newHost(t, Options{})
	id := submit(t, h, letter("foreign", "b@far.test"))
	path := filepath.Join(h.Spool("incoming"), id)
	if err := os.Chown(path, 65534, -1); err != nil {
		t.Fatal(err)
	}
	start(t, h)
	await(t, "the death of the queue manager", func() bool {
		log, err := os.ReadFile(h.Log())
		return err == nil && strings.Contains(string(log), "throttling")
	})
	if h.managed(t) {
		t.Error("the queue manager is there")
	}
	// And a folder of somebody else is refused, root or not.
	if err := os.Chown(h.Dir, 65534, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := New(h.Dir); err == nil {
		t.Error("a folder of somebody else: got nil, want an error")
	}
	if err := os.Chown(h.Dir, 0, -1); err != nil {
		t.Fatal(err)
	}
}

func TestKills(t *testing.T) {
	h := newHost(t, Options{})
	start(t, h)
	await(t, "the queue manager", func() bool { return h.managed(t) })
	master, _ := h.Running()
	if err := unix.Kill(master, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the queue manager's end after its master", func() bool { return !h.managed(t) })
	if _, running := h.Running(); running {
		t.Error("runs after SIGKILL")
	}
	start(t, h)
	submit(t, h, letter("one", "b@far.test"))
	await(t, "delivery", func() bool { return at(t, h, "one") == "delivered" })
	// A queue manager that was killed comes back.
	log, err := os.ReadFile(h.Log())
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	_, after, _ := strings.Cut(string(log), "postfix/qmgr[")
	if _, err := fmt.Sscanf(after, "%d", &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "its end", func() bool { return !h.managed(t) })
	submit(t, h, letter("two", "b@far.test"))
	await(t, "delivery", func() bool { return at(t, h, "two") == "delivered" })
	// A master whose folder is gone ends.
	aside := h.path(configFile + ".aside")
	if err := os.Rename(h.path(configFile), aside); err != nil {
		t.Fatal(err)
	}
	await(t, "the end of master", func() bool { _, running := h.Running(); return !running })
	if err := os.Rename(aside, h.path(configFile)); err != nil {
		t.Fatal(err)
	}
}

func TestSend(t *testing.T) {
	h := newHost(t, Options{})
	if _, err := h.Send(letter("down", "b@far.test")); !errors.Is(err, ErrDown) {
		t.Errorf("send to a stopped host: got %v, want %v", err, ErrDown)
	}
	start(t, h)
	if _, err := h.Send(letter("up", "b@far.test")); err != nil {
		t.Fatal(err)
	}
	await(t, "delivery", func() bool { return at(t, h, "up") == "delivered" })
	// After a stop nobody is in the middle of a message, or begins one.
	ended, quit := make(chan error), make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case <-quit:
				ended <- nil
				return
			default:
			}
			if _, err := h.Send(letter(fmt.Sprint("n", n), "b@mx.silent.test")); err != nil && !errors.Is(err, ErrDown) {
				ended <- err
				return
			}
		}
	}()
	for range 5 {
		before := len(audit(t, h).Messages)
		await(t, "new mail", func() bool { return len(audit(t, h).Messages) > before })
		if err := h.Stop(context.Background()); err != nil {
			t.Fatal(err)
		}
		a := audit(t, h)
		if again := audit(t, h); len(a.Incomplete) > 0 || len(a.Messages) != len(again.Messages) {
			t.Errorf("while it is stopped: incomplete %v, %d messages and then %d", a.Incomplete, len(a.Messages), len(again.Messages))
		}
		start(t, h)
	}
	close(quit)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	h := newHost(t, Options{})
	if err := Make(h.Dir, "chavez", Options{}); err == nil {
		t.Error("make over a host: got nil, want an error")
	}
	if err := Make(filepath.Join(h.Dir, strings.Repeat("x", maxSocketPath)), "chavez", Options{}); err == nil {
		t.Error("make with a long name: got nil, want an error")
	}
	if err := os.Chmod(h.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := New(h.Dir); err == nil {
		t.Error("a folder open to others: got nil, want an error")
	}
	if err := os.Chmod(h.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if code, mine := Main([]string{"master", h.Dir}); mine || code != 0 {
		t.Error("main took what is not its own")
	}
	if code, mine := Main([]string{"practice", "dance", h.Dir}); !mine || code != 1 {
		t.Errorf("an unknown command: got %d, %t", code, mine)
	}
}
