package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// ledgers tells the ledger of a run on one host after the other: a ledger may
// have more entries than memory, and so is printed while it comes.
func (s *sweep) ledgers(ctx context.Context, id string, on map[*member]*run.State) error {
	err := s.eachLedger(id, on, func(m *member, out *show.Ledgers) error { return s.ledger(ctx, m, id, out) }, nil)
	return cmp.Or(err, s.status(ctx))
}

// eachLedger has one tell of each host's ledger, in their order, and sums, if not
// nil, of all of them, and prints the rest of the document.
func (s *sweep) eachLedger(id string, on map[*member]*run.State, one func(*member, *show.Ledgers) error, sums func()) error {
	out := s.Ledgers(id)
	for _, m := range s.members {
		if on[m] != nil {
			m.fail(one(m, out))
		}
		if err := out.Host(m.Host); err != nil {
			return err
		}
	}
	s.close()
	if sums != nil {
		sums()
	}
	return out.Document(s.doc)
}

// ledger tells the ledger of one host.
func (s *sweep) ledger(ctx context.Context, m *member, id string, out *show.Ledgers) error {
	account, err := s.entries(ctx, m, id, func(e *stage.Entry) error { return out.Entry(m.Host, e) })
	if err != nil {
		return err
	}
	m.Status = show.OK
	if m.Result, err = json.Marshal(account); err != nil {
		return err
	}
	if account.Removed != nil {
		s.Line(m.Label(), "the ledger was removed %s, after ledger_keep; its sums are", account.Removed.Local().Format("2006-01-02 15:04:05"))
	}
	s.LinesOf(m.Label(), "ledger", &account.Sums)
	return missing(account.Missing, id)
}

// entries passes the entries of a host's ledger to each, and returns their sums.
func (s *sweep) entries(ctx context.Context, m *member, id string, each func(*stage.Entry) error) (*run.Account, error) {
	account := new(run.Account)
	var failed error
	err := m.link.CallEvents(ctx, "ledger", agent.RunCall{Vars: m.vars, Run: id}, account, func(e wire.Event) {
		if e.Kind != wire.Account {
			s.Event(e)
			return
		}
		var some struct{ Entries []stage.Entry }
		if !decode(e.Data, &some) {
			return
		}
		for i := range some.Entries {
			if err := each(&some.Entries[i]); err != nil {
				failed = err // whoever reads is gone
			}
		}
	})
	return account, cmp.Or(failed, err)
}

// missing is the error for messages that a ledger misses, nil if there are none.
func missing(n int64, id string) error {
	if n <= 0 {
		return nil
	}
	return fmt.Errorf("%s of run %s are missing: neither aside nor live, and the run did not move them; the mail log tells of their ids, if somebody else did", messages(n), id)
}
