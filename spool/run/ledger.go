package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// sumsName is what is left of a ledger that was removed.
const sumsName = "sums.json"

// Account is what a ledger comes to.
type Account struct {
	stage.Sums
	// Removed is when the ledger was, by ledger_keep: only the sums are left then.
	Removed *time.Time `json:"removed"`
}

// Ledger passes the account of every message of a run to each, and returns the
// sums. warn is told what of it cannot be read. Where the ledger was removed,
// after ledger_keep, there are only the sums.
func (e *Env) Ledger(ctx context.Context, v stage.Vars, id string, each func(*stage.Entry) error, warn func(error)) (*Account, error) {
	dir, err := e.dir(v, id)
	if err != nil {
		return nil, err
	}
	info, err := readInfo(dir)
	if err != nil {
		return nil, err
	}
	if a, err := keptSums(dir); err != nil || a != nil {
		return a, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	r, err := recordOf(p, dir, info)
	if err != nil {
		return nil, err
	}
	s, err := stage.Ledger(ctx, p, *r, each, warn)
	if err != nil {
		return nil, fmt.Errorf("ledger of run %s: %w", id, err)
	}
	return &Account{Sums: *s}, nil
}

// keptSums are those of a ledger that was removed, nil if it was not.
func keptSums(dir string) (*Account, error) {
	text, err := os.ReadFile(filepath.Join(dir, sumsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	a := new(Account)
	if err := json.Unmarshal(text, a); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", dir, sumsName, err)
	}
	return a, nil
}

// recordOf is what a ledger needs of a run.
func recordOf(p *spool.Postfix, dir string, info *Info) (*stage.Record, error) {
	r := &stage.Record{Run: info.Run, Dir: dir, Began: info.Began, Hands: func() ([]stage.Hand, error) { return hands(dir, info.Who) }}
	var err error
	if r.Sets, err = spool.AsideOf(p, dir); err != nil {
		return nil, err
	}
	r.Counted, err = counted(dir)
	return r, err
}

// hands are who had a run go on: who began it, and after that whoever resumed it
// or answered what it asked.
func hands(dir, began string) ([]stage.Hand, error) {
	all := []stage.Hand{{By: began}}
	err := spool.Moves(dir, func(spool.Move) error { return nil }, func(r spool.Record) error {
		if r.Kind != kindGoto && r.Kind != kindAnswer && r.Kind != kindResumed {
			return nil
		}
		var who struct{ By string }
		if err := json.Unmarshal(r.Data, &who); err != nil {
			return fmt.Errorf("record %d: %w", r.Seq, err)
		}
		if who.By != "" {
			all = append(all, stage.Hand{Seq: r.Seq, By: who.By})
		}
		return nil
	})
	return all, err
}

// counted is how many messages were counted when they were set aside.
func counted(dir string) (int64, error) {
	at := map[string]int64{}
	err := eachEvent(dir, func(line []byte) error {
		var e Event
		if json.Unmarshal(line, &e) != nil || e.Kind != evResult || e.Stage != "set-aside" {
			return nil
		}
		var a stage.Aside
		if json.Unmarshal(e.Data, &a) != nil {
			return nil
		}
		for q, set := range a.Queues {
			if q != spool.Defer {
				at[set.To] = set.Messages
			}
		}
		return nil
	})
	var sum int64
	for _, n := range at {
		sum += n
	}
	return sum, err
}

// expire removes the ledgers of runs whose last message left longer than
// ledger_keep ago, and keeps their sums. It is done by every run that changes
// something on this host, after its work.
func (e *Env) expire(ctx context.Context, p *spool.Postfix, v stage.Vars) error {
	folder := filepath.Join(e.state(v), "runs")
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	var failed error
	for _, entry := range entries {
		if !IsID(entry.Name()) {
			continue
		}
		dir := filepath.Join(folder, entry.Name())
		if err := e.expireOne(ctx, p, v, dir); err != nil {
			failed = errors.Join(failed, fmt.Errorf("remove the ledger of run %s: %w", entry.Name(), err))
		}
	}
	return failed
}

func (e *Env) expireOne(ctx context.Context, p *spool.Postfix, v stage.Vars, dir string) error {
	// A look at a file or two is enough for nearly all.
	if !stage.HasLists(dir) {
		return nil
	}
	a, err := keptSums(dir) // of a try that died
	if err != nil {
		return err
	}
	if journal, err := os.Stat(filepath.Join(dir, "journal")); err != nil || a == nil && time.Since(journal.ModTime()) < v.Keep() {
		return nil
	}
	folder, err := lockFolder(dir)
	if errors.Is(err, spool.ErrBusy) {
		return nil // somebody works on it, as this very run does
	}
	if err != nil {
		return err
	}
	defer folder.Close()
	if a == nil {
		if a, err = e.lastSums(ctx, p, dir); err != nil || a == nil {
			return err
		}
		if err := replaceJSON(dir, sumsName, a); err != nil {
			return err
		}
	}
	// The lists last: while there is one, whoever comes next goes on here.
	if err := spool.Forget(dir); err != nil {
		return err
	}
	return stage.RemoveLists(dir)
}

// lastSums are the sums of a run that has come to its end with nothing aside, nil
// of any other.
func (e *Env) lastSums(ctx context.Context, p *spool.Postfix, dir string) (*Account, error) {
	info, err := readInfo(dir)
	if err != nil {
		return nil, err
	}
	records, err := spool.ReadJournal(dir)
	if err != nil {
		return nil, err
	}
	at, err := progressOf(records, len(info.Steps))
	if err != nil {
		return nil, err
	}
	if at.failed == "" && at.next < len(info.Steps) {
		return nil, nil // it waits, or was broken off: its lists are wanted
	}
	r, err := recordOf(p, dir, info)
	if err != nil {
		return nil, err
	}
	for _, set := range r.Sets {
		if n, err := spool.CountIn(p, set.Aside); err != nil || n > 0 {
			return nil, err
		}
	}
	sums, err := stage.Ledger(ctx, p, *r, func(*stage.Entry) error { return nil }, func(error) {})
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	return &Account{Sums: *sums, Removed: &now}, nil
}
