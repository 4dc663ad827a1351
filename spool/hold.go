package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Done is what postsuper did with messages of live queues.
type Done struct {
	Done int64 `json:"done"`
	// Gone were in none of the queues any more when their turn came: delivered, as
	// a rule, or moved on by somebody else.
	Gone     int64    `json:"gone,omitempty"`
	Failed   int64    `json:"failed,omitempty"`   // still there: another file than the one listed, or a name that is taken
	Failures []string `json:"failures,omitempty"` // the first few, with their reasons
}

func (m *Moved) asDone() Done {
	return Done{Done: m.moved, Gone: m.gone, Failed: m.Failed, Failures: m.Failures}
}

// Hold has postsuper(1) put messages of incoming and deferred on hold, as they come.
// One that has gone on from the one to the other since it was listed, or was tried
// again, is held all the same. See super.
//
// Never from active: what is there the queue manager has in its memory too. If it
// gets the message once more while it has, as when it is released soon, a delivery
// agent that it still sends to the old place finds no file, which counts as done
// (deliver_request.c), and then it removes the new one, which nobody has got: mail is
// lost (TestHoldUnderArrivingMail of remote/lab has seen it).
func (w *Work) Hold(ctx context.Context, in []Queue, batches func(yield func([]Mail) error) error, o Removal, progress func(Done)) (Done, error) {
	for _, q := range in {
		if q != Incoming && q != Deferred {
			return Done{}, fmt.Errorf("hold: not from %s", q)
		}
	}
	s, err := w.newSuper("hold", Options{Token: o.Token})
	if err != nil {
		return Done{}, err
	}
	defer s.close()
	err = batches(func(list []Mail) error {
		for some := range slices.Chunk(list, superMax) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if o.Cancelled != nil && o.Cancelled() {
				return ErrCancelled
			}
			err := s.batch(ctx, holding, in, some)
			progress(s.done.asDone())
			if err != nil {
				return err
			}
		}
		return nil
	})
	return s.done.asDone(), err
}

// Release has postsuper(1) release the listed messages from hold, or, where Requeue
// is set, requeue them from the queue that they were listed in. Both send, so they go
// as in [Work.Restore]: oldest first, destinations in turn, at no more than the rate,
// while there is room in incoming and active. See super.
func (w *Work) Release(ctx context.Context, list []Mail, o Options, progress func(Done)) (Done, error) {
	s, err := w.newSuper("release", o)
	if err != nil {
		return Done{}, err
	}
	defer s.close()
	manager, err := w.Postfix.awaitManager(ctx)
	if err != nil {
		return s.done.asDone(), fmt.Errorf("release: %w", err)
	}
	interleave(list)
	err = s.paced(ctx, "release", manager, list, superMax, func(some []Mail) error { return s.send(ctx, some) }, func() { progress(s.done.asDone()) })
	return s.done.asDone(), err
}

// send is one batch of a release, and tells who is to look for it.
func (s *super) send(ctx context.Context, list []Mail) error {
	var moved []string
	// postsuper is told the queue, lest it take an id from another one.
	for _, q := range live {
		for _, a := range []*superAct{releasing, requeueing} {
			var some []Mail
			for _, m := range list {
				if Queue(m.Aside) == q && m.Requeue == (a == requeueing) {
					some = append(some, m)
				}
			}
			if len(some) == 0 {
				continue
			}
			if q != Hold && (a == releasing || q != Deferred) {
				return fmt.Errorf("%s: not from %s: what is under way there may be sent twice", a.name, q)
			}
			if err := s.batch(ctx, a, []Queue{q}, some); err != nil {
				return err
			}
			// A trigger that is lost costs minutes, not mail.
			if a == releasing {
				_ = s.w.Postfix.kick(s.w.root, "qmgr", scanDeferred)
			} else {
				_ = s.w.Postfix.kick(s.w.root, "pickup", wakePickup)
			}
			moved = append(moved, s.moved...)
			for _, id := range s.moved {
				i := slices.IndexFunc(some, func(m Mail) bool { return m.ID == id })
				s.late = append(s.late, intention{To: s.w.home(a.to, id), ID: id, Inode: some[i].Inode})
			}
		}
	}
	s.moved = moved
	return nil
}

// idle refuses a message that a delivery agent has open: it holds a shared lock on
// it (deliver_request.c). The queue manager looks so too before it takes one up
// (qmgr_message.c); pickup(8) does not, and would send what is just being sent.
func idle(f *os.File) error {
	if err := lockFile(f); errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("is just being delivered")
	} else if err != nil {
		return err
	}
	return unlockFile(f)
}
