package main

import (
	"context"
	"sync"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// turn is a host's place among those whose Postfix may be down: kept for it from
// take on, its own from the answer that gives it to the end of the start.
type turn struct {
	driver *driver
	m      *member

	mu      sync.Mutex // guards what follows, but for follow's own goroutine reading held
	held    bool       // it was given one
	given   bool       // it has the one that release gives on
	begun   bool       // something of the run was seen
	isDown  bool
	release func()
	until   *time.Timer // while the host is silent
}

// take waits for a place, which is the host's once it is given.
func (t *turn) take(ctx context.Context) bool {
	release, ok := t.driver.slots.take(ctx)
	if ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.release = release
	}
	return ok
}

// next says that a place is kept for the host which it was not given yet.
func (t *turn) next() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.release != nil && !t.given
}

// give notes that the host is about to be told that it may stop Postfix. It returns
// false where no further one may, since one has failed.
func (t *turn) give() bool {
	if _, over := t.driver.slots.over(); over {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held, t.given = true, true
	return true
}

// ofNext has a place occupied for a host at work that stands before this stage, if its
// Postfix may be down: the slot is answered at the section's first stage, and more
// begins there.
func (t *turn) ofNext(next int) {
	if _, _, section := stage.SectionOf(t.driver.stages[t.m], next); section {
		t.have(t.driver.slots.occupy())
	}
}

// have is take and give, of a place that the host has already.
func (t *turn) have(release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held, t.given, t.release = true, true, release
}

// seen notes that the run has begun, and whether Postfix is stopped now.
func (t *turn) seen(stopping bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun, t.isDown = true, t.isDown || stopping
}

// up gives the place on: Postfix runs, or was not stopped.
func (t *turn) up() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.isDown = false
	t.free()
}

// free is for who holds the lock.
func (t *turn) free() {
	if t.release != nil {
		t.release()
	}
	t.release, t.given = nil, false
}

// end gives it on when the host is followed no more. That of a silent one stays
// taken until it is started there whatever happens.
func (t *turn) end() {
	t.mu.Lock()
	waits := t.until != nil
	t.mu.Unlock()
	if !waits {
		t.up()
	}
}

// silent is told since when the host is; the zero time says that it answers again.
func (t *turn) silent(since time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.driver
	d.Silent(t.m.Label(), since)
	if since.IsZero() {
		if t.until != nil {
			t.until.Stop()
			t.until = nil
		}
		d.Note(t.m.Label(), "answers again")
		return
	}
	if !t.given {
		t.free() // the others need not wait for it
	}
	at := since.Format(time.TimeOnly)
	if t.release == nil && !t.isDown {
		on := ": the run goes on there"
		if !t.begun { // for all that is known here
			on = ""
		}
		d.Alert(t.m.Label(), "silent since %s%s", at, on)
		return
	}
	by := since.Add(d.silence + d.slots.slow())
	d.Alert(t.m.Label(), "silent since %s, Postfix is started there by %s", at, by.Format(time.TimeOnly))
	t.until = time.AfterFunc(time.Until(by), t.up)
}

// silentPlace is how long a host that fell silent while it had a place keeps it:
// by then the guard of its section has started Postfix, which takes up to
// startTime, or as long as the slowest start of this run.
const (
	silentPlace = spool.SectionLimit + startTime
	startTime   = 30 * time.Second
)

// silenceKey is the key of the app's metadata where a test has a shorter one.
const silenceKey = "silence"

// slots bound how many hosts have their Postfix stopped at the same moment, and
// how many may fail.
type slots struct {
	places chan struct{} // nil: any number
	closed chan struct{}

	mu      sync.Mutex // guards the rest
	failed  map[string]bool
	maxFail int
	ended   bool          // closed by end
	slowest time.Duration // start of Postfix in this run
}

func newSlots(n, maxFail int) *slots {
	s := &slots{closed: make(chan struct{}), failed: map[string]bool{}, maxFail: maxFail}
	if n > 0 {
		s.places = make(chan struct{}, n)
	}
	return s
}

// take waits for a place. ok is false when no further host may be stopped,
// because one has failed while it was.
func (s *slots) take(ctx context.Context) (release func(), ok bool) {
	select {
	case <-s.closed:
		return nil, false
	default:
	}
	if s.places == nil {
		return func() {}, true
	}
	select {
	case s.places <- struct{}{}:
	case <-s.closed:
		return nil, false
	case <-ctx.Done():
		return nil, false
	}
	var once sync.Once
	return func() { once.Do(func() { <-s.places }) }, true
}

// occupy takes a place, if there is one, for a host that was given one by another
// controller.
func (s *slots) occupy() (release func()) {
	if s.places == nil {
		return func() {}
	}
	select {
	case s.places <- struct{}{}:
		return sync.OnceFunc(func() { <-s.places })
	default:
		return func() {}
	}
}

// fail notes that a host failed while it was changed. Once more than maxFail
// have, no further place is given. One that is silent has not failed.
func (s *slots) fail(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := len(s.failed)
	s.failed[host] = true
	if before <= s.maxFail && len(s.failed) > s.maxFail && !s.ended {
		close(s.closed)
	}
}

// end has no further place given, and no further host begun.
func (s *slots) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended && len(s.failed) <= s.maxFail {
		close(s.closed)
	}
	s.ended = true
}

// started takes in how long a start of Postfix took.
func (s *slots) started(seconds float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowest = max(s.slowest, time.Duration(min(seconds, maxStart.Seconds())*float64(time.Second)))
}

// maxStart bounds what a host says of its start: tries that fail take minutes.
const maxStart = 10 * time.Minute

// slow is by how much starts in this run took longer than startTime.
func (s *slots) slow() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, s.slowest-startTime)
}

// over says that no further host is to be begun, and how many failed.
func (s *slots) over() (failed int, over bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.failed), s.ended || len(s.failed) > s.maxFail
}
