package spool

import "time"

// For the tests of package spool_test, which play with package practice.

// SetStep replaces the hook that is called before each change.
func SetStep(f func(what string) error) {
	if f == nil {
		f = func(string) error { return nil }
	}
	step = f
}

// Die lets go of what the death of a process lets go of: its locks.
func (w *Work) Die() {
	if w.hold != nil {
		w.hold.Close()
		w.hold = nil
	}
	w.root.Close()
	w.Journal.Close()
}

// Every says that crash walks stop at every step.
func Every() bool { return *every }

// Began says whether a section of this run has begun.
func (w *Work) Began() bool { return len(w.wants) > 0 }

// SampleAbove has a census sample n messages of a queue with more than limit, and
// returns what puts that back.
func SampleAbove(limit int64, n int) (restore func()) {
	l, s := exactUpTo, sampled
	exactUpTo, sampled = limit, n
	return func() { exactUpTo, sampled = l, s }
}

func init() {
	// Postfix takes seconds where a practice host takes milliseconds.
	proveStart, poll, startEvery = 5*time.Millisecond, 4*time.Millisecond, 5*time.Millisecond
	startTries, turnBackAt = 40, 15
	stopGrace, termGrace, killGrace = 2*time.Second, time.Second, time.Second
}
