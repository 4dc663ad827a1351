package spool

import (
	"context"
)

// Delete has postsuper(1) delete the listed messages of live queues, with their
// logs. Aside of each is the queue that it was listed in. See super.
func (w *Work) Delete(ctx context.Context, list List, o Removal, progress func(Removed)) (Removed, error) {
	s, err := w.newSuper("delete", Options{Token: o.Token})
	if err != nil {
		return Removed{}, err
	}
	defer s.close()
	s.want = o.Sum
	var some []Mail
	flush := func() error {
		if len(some) == 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if o.Cancelled != nil && o.Cancelled() {
			return ErrCancelled
		}
		err := s.batch(ctx, deleting, []Queue{Queue(some[0].Aside)}, some)
		some = some[:0]
		progress(s.done.asRemoved())
		return err
	}
	err = list(func(m Mail) error {
		// postsuper is told the queue, lest it take an id from another one.
		if len(some) == superMax || len(some) > 0 && some[0].Aside != m.Aside {
			if err := flush(); err != nil {
				return err
			}
		}
		some = append(some, m)
		return nil
	})
	if err == nil {
		err = flush()
	}
	return s.done.asRemoved(), err
}
