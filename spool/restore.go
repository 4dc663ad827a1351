package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"spoolsweep/spool/queuefile"
)

// Mail names one message that was set aside, as it was when it was judged.
// Nothing is done to a file that has another inode, size or time by then.
type Mail struct {
	Aside string `json:"a"`           // incoming.spamfull
	Sub   string `json:"s,omitempty"` // hash subdirectories there
	ID    string `json:"q"`
	Inode uint64 `json:"i"`
	Size  int64  `json:"z"`
	Mtime int64  `json:"m"` // nanoseconds
	Born  int64  `json:"c"` // arrival, seconds since 1970
	// Created is when its queue file was made, in seconds since 1970: what its
	// lifetime counts from, and Null says that the null sender's shorter one
	// holds. 0: as Born.
	Created int64 `json:"b,omitempty"`
	Null    bool  `json:"n,omitempty"`
	// Dest tells destinations apart, which take turns: a hash of the domain.
	Dest uint32 `json:"d,omitempty"`
	// Requeue sends it by way of maildrop, as postsuper -r does: pickup makes a
	// new message of it, whose lifetime begins anew.
	Requeue bool `json:"-"`
}

// Expired says that the queue manager would return it to its sender after one
// more try (qmgr_active.c). With a lifetime of 0 each message has one try anyway.
func (p *Postfix) Expired(m Mail, now time.Time) bool {
	life := p.Lifetime
	if m.Null {
		life = min(life, p.BounceLifetime)
	}
	made := cmp.Or(m.Created, m.Born)
	return life > 0 && made > 0 && now.Unix()-made >= int64(life/time.Second)
}

// Holds says whether a live queue has a message of that id.
func (p *Postfix) Holds(q Queue, id string) bool {
	if !queuefile.ValidID(id) {
		return false
	}
	_, err := os.Lstat(filepath.Join(p.QueueDirectory, string(q), p.hashDir(q, id), id))
	return err == nil
}

// Waits says whether the queue manager, or pickup, is still to do something with a
// message of that id: it is on its way, or in deferred and due.
func (p *Postfix) Waits(id string, now time.Time) bool {
	for _, q := range []Queue{Maildrop, Incoming, Active} {
		if p.Holds(q, id) {
			return true
		}
	}
	if !queuefile.ValidID(id) {
		return false
	}
	s, err := os.Lstat(filepath.Join(p.QueueDirectory, string(Deferred), p.hashDir(Deferred, id), id))
	return err == nil && !s.ModTime().After(now)
}

// HoldsFile is the live queue that has that very file, "" if none has.
func (p *Postfix) HoldsFile(id string, inode uint64) Queue {
	if !queuefile.ValidID(id) {
		return ""
	}
	for _, q := range live {
		s, err := os.Lstat(filepath.Join(p.QueueDirectory, string(q), p.hashDir(q, id), id))
		if err != nil {
			continue
		}
		if sys, ok := s.Sys().(*syscall.Stat_t); ok && sys.Ino == inode {
			return q
		}
	}
	return ""
}

// Options are the manners of a restore.
type Options struct {
	Rate    float64 // messages a second; 0: no ceiling
	LiveMax int64   // pause while incoming and active hold more above what they held before; 0: no limit
	// Token names the list that is restored: what earlier, interrupted tries of
	// the same list moved counts into the result.
	Token string
	// Cancelled is asked between batches.
	Cancelled func() bool
	// Slow, if set, is told once when LiveMax has kept a restore from going on for
	// slowAfter: who waits for it wants to know for what.
	Slow func(live int64)
	// First are moved by themselves, before any batch that is larger. After, if
	// set, is told the ids that a batch has moved into live queues, and how many
	// messages are to go: its error ends the restore there.
	First int
	After func(ids []string, left int) error
}

// Moved is what a restore did.
type Moved struct {
	Restored   int64 `json:"restored"`
	Collisions int64 `json:"collisions"`
	Failed     int64 `json:"failed"` // still aside: another file than the one judged, or a name taken twice
	// SentMeanwhile were aside when they were judged, are not any more, and this
	// run did not move them.
	SentMeanwhile int64            `json:"sent_meanwhile"`
	ByQueue       map[string]int64 `json:"by_queue"`
	Failures      []string         `json:"failures,omitempty"` // the first few, with their reasons

	// Of a purge or a delete, whose result is a Removed, and of what moves live
	// mail, whose result is a Done.
	removed, moved, gone int64
}

const lookIntoLog = "look into the mail log for why it ended, then spoolsweep resume"

const (
	batchMax     = 1000
	batchesASec  = 2  // how finely a rate is spread
	failuresKept = 20 // named in a result
	waitLive     = 200 * time.Millisecond
)

// slowAfter is a variable for the sake of tests alone.
var slowAfter = 20 * time.Second

// Restore moves the listed messages back into the running Postfix: renames,
// never copies, and never onto a name that is there. It goes by age, oldest
// first, the destinations in turn. A message whose id is taken in any live queue goes to
// QUEUE.name-collisions. ctx ends it between two batches.
func (w *Work) Restore(ctx context.Context, list []Mail, o Options, progress func(Moved)) (Moved, error) {
	if w.phase != outside {
		return Moved{}, errors.New("restore: the run was left between stop and start: settle that first")
	}
	done, err := w.settleMoves(o.Token)
	if err != nil {
		return done, err
	}
	_ = w.removeFresh() // of an earlier try, in nobody's way
	manager, err := w.Postfix.awaitManager(ctx)
	if err != nil {
		return done, fmt.Errorf("restore: %w", err)
	}
	r, err := newRestorer(w, o, done)
	if err != nil {
		return done, err
	}
	defer r.close()
	if err := r.strayLogs(); err != nil {
		return r.done, err
	}
	interleave(list)
	err = r.paced(ctx, "restore", manager, list, batchMax, r.batch, func() { progress(r.done) })
	return r.done, err
}

// paced works through a list at the pace that its options ask for, at most so many
// messages at a time.
func (r *restorer) paced(ctx context.Context, what string, manager process, list []Mail, most int, batch func([]Mail) error, progress func()) error {
	o := &r.opt
	baseline, err := r.liveCount()
	if err != nil {
		return err
	}
	began := time.Now()
	var paused time.Time // since when LiveMax keeps it from going on
	var sent int
	for len(list) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.Cancelled != nil && o.Cancelled() {
			return ErrCancelled
		}
		n := min(most, len(list))
		if sent < o.First {
			n = min(n, o.First-sent)
		}
		if o.Rate > 0 {
			n = min(n, max(1, int(o.Rate/batchesASec)))
			due := began.Add(time.Duration(float64(sent) / o.Rate * float64(time.Second)))
			if !sleep(ctx, time.Until(due)) {
				return ctx.Err()
			}
		}
		if !manager.lives() {
			return Remedied(fmt.Errorf("%s: the queue manager (process %d) is not there any more", what, manager.pid), lookIntoLog)
		}
		if o.LiveMax > 0 {
			now, err := r.liveCount()
			if err != nil {
				return err
			}
			room := baseline + o.LiveMax - now
			if room <= 0 {
				progress()
				switch {
				case paused.IsZero():
					paused = time.Now()
				case o.Slow != nil && time.Since(paused) >= slowAfter:
					o.Slow(now - baseline)
					o.Slow = nil
				}
				if !sleep(ctx, waitLive) {
					return ctx.Err()
				}
				continue
			}
			n, paused = min(n, int(room)), time.Time{}
		}
		if err := batch(list[:n]); err != nil {
			return err
		}
		list, sent = list[n:], sent+n
		progress()
		if o.After != nil {
			if err := o.After(r.moved, len(list)); err != nil {
				return err
			}
		}
	}
	return nil
}

// interleave sorts messages by age, so that each destination's next oldest one
// comes before any has its one after next: the queue manager has work for all
// servers, and no single one is flooded.
func interleave(list []Mail) {
	// Numbers are sorted, not messages, which are large: the time, and behind it the
	// place in the list.
	shift := bits.Len(uint(len(list)))
	order := make([]int64, len(list))
	for i, m := range list {
		order[i] = min(max(0, m.Born), math.MaxInt64>>shift)<<shift | int64(i)
	}
	slices.Sort(order)
	for i := range order {
		order[i] &= 1<<shift - 1
	}
	// Each has a turn: its place among those of its destination. All of one turn
	// come before the next, in place, since a list may have a million.
	had := map[uint32]int32{}
	turn := make([]int32, len(list))
	var sizes []int32
	for _, i := range order {
		t := had[list[i].Dest]
		had[list[i].Dest]++
		turn[i] = t
		if int(t) == len(sizes) {
			sizes = append(sizes, 0)
		}
		sizes[t]++
	}
	next := make([]int32, len(sizes))
	for t := 1; t < len(sizes); t++ {
		next[t] = next[t-1] + sizes[t-1]
	}
	to := turn
	for _, i := range order {
		t := turn[i]
		to[i] = next[t]
		next[t]++
	}
	for i := range list {
		for int(to[i]) != i {
			j := to[i]
			list[i], list[j] = list[j], list[i]
			to[i], to[j] = to[j], j
		}
	}
}

// ErrCancelled is returned by a restore that was told to end between batches.
var ErrCancelled = errors.New("cancelled")

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
