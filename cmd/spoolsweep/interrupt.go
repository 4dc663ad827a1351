package main

import (
	"context"
	"strings"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/run"
)

// attend has the first Ctrl-C ask what is meant while a run is followed, where a
// terminal is there to answer on. A second one, and one that comes while something
// else is asked, ends ctx: the runs go on. stop is called when the command is over.
func (d *driver) attend(parent context.Context) (ctx context.Context, stop func()) {
	ctx, detach := context.WithCancel(parent)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if d.interrupts == nil || !d.tty {
			return
		}
		for {
			select {
			case <-d.interrupts:
				if !d.interrupted(ctx) {
					detach()
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return ctx, func() {
		detach()
		<-gone
		d.telling.Wait()
	}
}

// interrupted asks, and says whether to go on.
func (d *driver) interrupted(ctx context.Context) bool {
	if !d.terminal.TryLock() {
		return false // the question that is open stays open on the host
	}
	defer d.terminal.Unlock()
	var at []string
	for _, m := range d.members {
		if m.driven.Load() {
			at = append(at, m.Label())
		}
	}
	d.Break()
	d.Alert("", "run %s is followed on %s. Detach (d, or Ctrl-C again): it goes on there.", d.run, show.Names(at))
	d.Alert("", "Cancel (c): it ends after the current step, never between stop and start, and can be resumed.")
	for {
		typed, err := d.ask(ctx, "[d]etach, [c]ancel, or [g]o on? [G] ")
		if err != nil {
			return false
		}
		switch strings.ToLower(typed) {
		case "d", "detach":
			return false
		case "c", "cancel":
			d.cancel(ctx)
			return true
		case "", "g", "go on":
			return true
		}
	}
}

// cancel tells all hosts that the run is to end after the current step, and gives
// no further turns. It does not wait for them.
func (d *driver) cancel(ctx context.Context) {
	if d.cancelled.Swap(true) {
		return
	}
	d.slots.end()
	for _, m := range d.members {
		if !m.driven.Load() {
			continue
		}
		d.telling.Go(func() {
			if err := m.link.Call(ctx, "cancel", &run.CancelRequest{Vars: m.vars, Run: d.run, By: me()}, nil); err != nil && ctx.Err() == nil {
				d.Alert(m.Label(), "was not told to cancel, and goes on: %s", show.Clean(err.Error()))
			}
		})
	}
	d.Note("", "cancelled: each host ends after its current step")
}
