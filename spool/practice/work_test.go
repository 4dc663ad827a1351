package practice

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// The whole way of spool on a practice host: a flood is set aside, mail flows,
// the ham returns, and then everything.
func TestWork(t *testing.T) {
	h := newHost(t, Options{Rate: 0.001, ActiveLimit: 100})
	flood := Incident(h.Name, "spam-account", 1000, 7)
	began := time.Now()
	if _, err := h.SubmitAll(flood); err != nil {
		t.Fatal(err)
	}
	t.Logf("1000 messages written in %v", time.Since(began))
	start(t, h)
	await(t, "a full active", func() bool { a := audit(t, h); return a.Count(Spam)["active"]+a.Count(Ham)["active"] >= 90 })

	p, err := New(h.Dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	queues, err := spool.Choose(p, []string{"auto"}, 50)
	if err != nil {
		t.Fatal(err)
	}
	if trouble, err := spool.Inspect(p, queues, 0, h.State()); err != nil || len(trouble) > 0 {
		t.Fatalf("trouble: %v, %v", trouble, err)
	}
	lock, err := spool.Lock(p)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	w, _, err := spool.OpenWork(p, runID, h.State(), "test", lock)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Prepare(queues); err != nil {
		t.Fatal(err)
	}
	stopped, err := w.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !stopped.WasRunning || len(stopped.Ended) > 0 {
		t.Errorf("stopped: %+v", stopped)
	}
	if _, err := h.Send(letter("refused", "b@far.test")); err == nil {
		t.Error("mail was taken while Postfix was stopped")
	}
	if err := h.Start(ctx); err == nil {
		t.Error("somebody else could start it")
	}
	sets, err := w.SetAside(ctx, stopped)
	if err != nil {
		t.Fatal(err)
	}
	started, err := w.Start(ctx, stopped)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", started)

	// The flood is aside, and new mail flows.
	a := audit(t, h)
	for _, label := range []Label{Spam, Ham} {
		if left := a.Elsewhere(label, Place.Aside); len(left) > 0 {
			t.Errorf("%d %s messages are not aside: %v", len(left), label, left[0])
		}
	}
	if err := h.Configure(Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Send(letter("new", "b@far.test")); err != nil {
		t.Fatal(err)
	}
	await(t, "delivery of new mail", func() bool { return at(t, h, "new") == "delivered" })

	// What the audit knows takes the place of rules.
	ham, all := asideMail(t, p, sets, a)
	moved, err := w.Restore(ctx, ham, spool.Options{Token: "ham"}, func(spool.Moved) {})
	if err != nil {
		t.Fatal(err)
	}
	if int(moved.Restored) != len(ham) || moved.Failed+moved.Collisions > 0 {
		t.Errorf("restored %+v of %d", moved, len(ham))
	}
	await(t, "delivery of the ham", func() bool {
		count := audit(t, h).Count(Ham)
		return count["delivered"]+count["deferred"] == len(ham)+1
	})
	a = audit(t, h)
	if left := a.Elsewhere(Spam, Place.Aside); len(left) > 0 {
		t.Errorf("%d spam messages are not aside", len(left))
	}
	if left := a.Elsewhere(Ham, func(p Place) bool { return p.Live() || p.Delivered() }); len(left) > 0 {
		t.Errorf("%d ham messages are neither live nor delivered", len(left))
	}

	moved, full, err := w.PutBack(ctx, all, spool.Options{Token: "all"}, func(spool.Moved) {})
	if err != nil {
		t.Fatal(err)
	}
	if len(full) > 0 || moved.Failed > 0 {
		t.Errorf("put back: %+v, still full: %v", moved, full)
	}
	a = audit(t, h)
	for _, label := range []Label{Spam, Ham} {
		if left := a.Elsewhere(label, func(p Place) bool { return p.Live() || p.Delivered() }); len(left) > 0 {
			t.Errorf("%d %s messages are neither live nor delivered: %v", len(left), label, a.Messages[left[0]])
		}
	}
	if len(a.Unknown)+len(a.Broken)+len(a.Incomplete) > 0 {
		t.Errorf("unknown %v, broken %v, incomplete %v", a.Unknown, a.Broken, a.Incomplete)
	}
	names, err := os.ReadDir(h.Spool())
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != len(queueDirectories) {
		t.Errorf("left in the queue directory: %v", names)
	}
}

// asideMail lists what is aside: the ham, and all the rest.
func asideMail(t *testing.T, p *spool.Postfix, sets []spool.Set, a Audit) (ham, rest []spool.Mail) {
	t.Helper()
	is := map[string]Label{}
	for _, m := range a.Messages {
		for _, place := range m.Places {
			is[place.Directory+" "+place.QueueID] = m.Label
		}
	}
	var r queuefile.Reader
	for _, set := range sets {
		if set.Queue == spool.Defer {
			continue
		}
		err := spool.Walk(p, set.Aside, func(c spool.Chunk) error {
			for _, id := range c.IDs {
				var f spool.MailFile
				s, err := f.Open(c.Dir, id)
				if err != nil {
					return err
				}
				born, err := r.Created(&f)
				f.Close()
				if err != nil {
					return fmt.Errorf("%s/%s: %w", set.Aside, id, err)
				}
				m := spool.Mail{Aside: set.Aside, Sub: c.Sub, ID: id, Inode: s.Inode, Size: s.Size, Mtime: s.Mtime, Born: born.Unix()}
				if is[set.Aside+" "+id] == Ham {
					ham = append(ham, m)
				} else {
					rest = append(rest, m)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return ham, rest
}

// dieStopped is the argument with which the test binary is a section that dies
// between stop and start.
const dieStopped = "die-stopped"

func stopAndDie(dir string) int {
	h, err := Open(dir)
	if err != nil {
		return 1
	}
	p, err := h.Postfix()
	if err != nil {
		return 1
	}
	lock, err := spool.Lock(p)
	if err != nil {
		return 1
	}
	w, _, err := spool.OpenWork(p, runID, h.State(), "test", lock)
	if err != nil {
		return 1
	}
	if err := w.Prepare([]spool.Queue{spool.Incoming, spool.Active, spool.Deferred}); err != nil {
		return 1
	}
	if _, err := w.Stop(context.Background()); err != nil {
		return 1
	}
	return 0
}

const runID = "20261123T000000Z-test"

// A run that died after its stop is led to its end.
func TestSettle(t *testing.T) {
	h := newHost(t, Options{Rate: 0.001})
	if _, err := h.SubmitAll(Incident(h.Name, "spam-account", 100, 3)); err != nil {
		t.Fatal(err)
	}
	start(t, h)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(exe, dieStopped, h.Dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if _, running := h.Running(); running {
		t.Fatal("runs after the section's stop")
	}
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := spool.Lock(p)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	w, _, err := spool.OpenWork(p, runID, h.State(), "test", lock)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !w.Unsettled() {
		t.Fatal("settled before Settle")
	}
	settled, err := w.Settle(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if !settled.Needed || settled.Started == nil || len(settled.Sets) != 4 {
		t.Errorf("settled: %+v", settled)
	}
	a := audit(t, h)
	for _, label := range []Label{Spam, Ham} {
		if left := a.Elsewhere(label, Place.Aside); len(left) > 0 {
			t.Errorf("%d %s messages are not aside", len(left), label)
		}
	}
}
