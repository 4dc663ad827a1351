package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// extracts tells what of one domain's mail a run has held, host by host.
func (s *sweep) extracts(ctx context.Context, id, domain string, on map[*member]*run.State) error {
	all, told := &show.Extract{Domain: domain}, 0
	one := func(m *member, out *show.Ledgers) error {
		x, err := s.extract(ctx, m, id, domain, out)
		if x != nil {
			all.Add(x)
			told++
		}
		return err
	}
	err := s.eachLedger(id, on, one, func() {
		if told > 1 {
			s.LinesOf("", "in all", all)
		}
	})
	return cmp.Or(err, s.status(ctx))
}

// extract tells it of one host. When a directory was set aside stands in the run's
// record, but for one that somebody had set aside by hand; what became of a message
// stands in its ledger.
func (s *sweep) extract(ctx context.Context, m *member, id, domain string, out *show.Ledgers) (*show.Extract, error) {
	since := map[string]time.Time{}
	var begun time.Time
	r, err := m.recorded(ctx, id, func(e wire.Event) {
		switch {
		case e.Stage != "set-aside":
		case e.Kind == wire.Begin:
			begun = e.Time
		case e.Kind == wire.Result:
			var a stage.Aside
			if !decode(e.Data, &a) {
				return
			}
			for _, set := range a.Queues {
				if since[set.To].IsZero() {
					since[set.To] = begun
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if r.State.Phase == run.Working {
		return nil, spool.Remedied(errors.New("the run is at work: what becomes of its mail is not settled"), "wait for its end: spoolsweep attach "+id+s.again)
	}
	x := &show.Extract{Domain: domain}
	now := time.Now()
	account, err := s.entries(ctx, m, id, func(e *stage.Entry) error {
		if h := x.Take(e, since, now); h != nil {
			return out.Held(m.Host, h)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if account.Removed != nil {
		return nil, fmt.Errorf("the ledger of run %s was removed %s, after ledger_keep: nothing is known of single messages any more", id, account.Removed.Local().Format(time.DateTime))
	}
	m.Status = show.OK
	if m.Result, err = json.Marshal(x); err != nil {
		return nil, err
	}
	s.LinesOf(m.Label(), "held", x)
	return x, missing(x.Missing, id)
}
