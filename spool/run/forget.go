package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// InTheWayError names the run because of which records stay.
type InTheWayError struct {
	Run, Why, Remedy string
}

func (e *InTheWayError) Error() string {
	return fmt.Sprintf("run %s is in the way, nothing was removed: %s", e.Run, e.Why)
}

// Idle returns an error that names a run which works at this moment: its agent
// must not be taken from under it.
func (e *Env) Idle(ctx context.Context, v stage.Vars) error {
	runs, err := e.Runs(ctx, v)
	if err != nil {
		return err
	}
	for _, s := range runs {
		switch {
		case s.Phase == Working:
			return &InTheWayError{s.Run, "it works just now", "wait for it; spoolsweep attach " + s.Run + " follows it"}
		case s.Down:
			return &InTheWayError{s.Run, "it was left between stop and start", "spoolsweep resume " + s.Run + " ends that"}
		}
	}
	return nil
}

// Forget removes the records of all runs, and the state directory where nothing
// else is in it. While any run works, waits, or has a message or a log aside,
// all stay: its record is what tells whose the mail is. It returns how many runs
// it removed.
func (e *Env) Forget(ctx context.Context, v stage.Vars) (int, error) {
	folder := filepath.Join(e.state(v), "runs")
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err := e.makeRuns(v); err != nil { // or it is not ours
		return 0, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return 0, err
	}
	lock, err := e.lock(ctx, p, v, nil) // nobody begins a run meanwhile
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	if err := e.Idle(ctx, v); err != nil {
		return 0, err
	}
	runs, err := e.Runs(ctx, v)
	if err != nil {
		return 0, err
	}
	for _, s := range runs {
		if s.Phase == Waiting {
			return 0, &InTheWayError{s.Run, "it waits", "spoolsweep resume " + s.Run + " carries it on"}
		}
		if s.Stages == 0 {
			return 0, &InTheWayError{s.Run, s.Error, "see what is left of it in " + filepath.Join(folder, s.Run)}
		}
		dir, err := e.dir(v, s.Run)
		if err != nil {
			return 0, err
		}
		sets, err := spool.AsideOf(p, dir)
		if err != nil {
			return 0, err
		}
		var all int64
		var in []string
		for _, set := range sets {
			n, err := spool.CountIn(p, set.Aside)
			if err != nil {
				return 0, err
			}
			if n > 0 {
				all, in = all+n, append(in, set.Aside)
			}
		}
		if all > 0 {
			return 0, &InTheWayError{s.Run, fmt.Sprintf("%d files are in %s", all, strings.Join(in, ", ")), "spoolsweep putback " + s.Run + " sends back what is mail, spoolsweep purge " + s.Run + " removes what is spam"}
		}
	}
	for _, s := range runs {
		if err := os.RemoveAll(filepath.Join(folder, s.Run)); err != nil {
			return 0, err
		}
	}
	for _, dir := range e.folders(v) {
		_ = os.Remove(dir) // where something else is in it it stays
	}
	return len(runs), nil
}
