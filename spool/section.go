package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Time limits of stop..start. Together they stay below SectionLimit.
const (
	// SectionLimit is how long after the stop command was issued the first start
	// command must have been, or the guard takes over.
	SectionLimit = 60 * time.Second

	stopLimit  = 15 * time.Second // for the stop command itself
	stopGrace  = 20 * time.Second // what outlives the stop may finish by itself
	termGrace  = 5 * time.Second  // after SIGTERM
	killGrace  = 5 * time.Second  // after SIGKILL: a process in state D has to come back first
	startLimit = 110 * time.Second
	proveStart = 2 * time.Second // the queue manager must live that long
	startEvery = 10 * time.Second
	startTries = 30 // 5 minutes
	poll       = 20 * time.Millisecond
)

// Stopped is a Postfix that is proved stopped, and cannot be started by
// anybody until Start.
type Stopped struct {
	Seconds    float64  `json:"seconds"`
	Ended      []string `json:"ended_pids"` // what had to be signalled: "1234 smtpd"
	MayDouble  []string `json:"may_double"` // deliveries that were cut: their mail may arrive twice
	WasRunning bool     `json:"was_running"`

	lock *os.File
	at   time.Time
}

// Started is a Postfix whose queue manager was seen alive.
type Started struct {
	Downtime float64 `json:"downtime_seconds"` // from the stop command to the end of the start command; 0 if it was down before
	Proved   float64 `json:"proved_seconds"`
	Master   int     `json:"master"`
	Manager  int     `json:"manager"`
}

// journaled runs a command of the host and journals its process group, so
// that whoever settles after our death can end it.
func (w *Work) journaled(ctx context.Context, limit time.Duration, argv []string) error {
	return command(ctx, limit, func(group int) error {
		p, err := processOf(group)
		if err != nil {
			return err
		}
		return w.write(kindCommand, commandRecord{Group: group, Started: p.started})
	}, argv...)
}

// Stop stops Postfix and proves it: the lock on pid/master.pid is ours, and no
// process of the master's group or session is left. What outlives the stop
// command gets time, then SIGTERM, then SIGKILL. If it cannot be proved even
// then, Postfix is started again, the queues are as they were, and the error
// says what is in the way. A Postfix that was stopped already is no error.
func (w *Work) Stop(ctx context.Context) (*Stopped, error) {
	if w.phase != prepared {
		return nil, errors.New("stop: nothing is prepared")
	}
	ctx = context.WithoutCancel(ctx) // from here on nothing may end it but its own limits
	s := &Stopped{at: time.Now()}
	master := w.Postfix.masterPID()
	if err := w.write(kindStopping, stopRecord{Master: master, Boot: boot()}); err != nil {
		return nil, err
	}
	var said, err error
	if s.lock, err = w.Postfix.lockMaster(w.root); errors.Is(err, errRunning) {
		s.WasRunning = true
		// Its exit status proves nothing either way (postfix(1) says 0 with a
		// child alive); what it printed explains a failure.
		said = w.journaled(ctx, stopLimit, w.Postfix.Stop)
	}
	err = w.proveStop(s, master)
	if err == nil {
		err = w.write(kindStopped, struct{}{})
	}
	if err != nil {
		// The section must not end with Postfix down, whatever the reason.
		if s.lock != nil {
			err = errors.Join(err, unlockFile(s.lock), s.lock.Close())
			s.lock = nil
		}
		return nil, w.giveUp(ctx, errors.Join(fmt.Errorf("stop: %w", err), said), s)
	}
	s.Seconds = time.Since(s.at).Seconds()
	return s, nil
}

// giveUp leaves the section with the queues as they are and Postfix as it was.
func (w *Work) giveUp(ctx context.Context, why error, s *Stopped) error {
	if s.WasRunning {
		if _, err := w.up(ctx, s); err != nil {
			return errors.Join(why, fmt.Errorf("and Postfix could not be started again: %w", err))
		}
	}
	return errors.Join(why, w.write(kindGivenUp, struct{}{}), w.removeFresh())
}

// proveStop waits until the lock is ours and the family is gone.
func (w *Work) proveStop(s *Stopped, master int) error {
	deadline := time.Now().Add(stopGrace - time.Since(s.at))
	ladder := []struct {
		sig   unix.Signal
		grace time.Duration
	}{{unix.SIGTERM, termGrace}, {unix.SIGKILL, killGrace}}
	for {
		left, err := w.Postfix.family(master)
		if err != nil {
			return err
		}
		if s.lock == nil {
			switch s.lock, err = w.Postfix.lockMaster(w.root); {
			case errors.Is(err, os.ErrNotExist) && len(left) == 0:
				return fmt.Errorf("%w: start Postfix once, so that it is made", err)
			case err != nil && !errors.Is(err, errRunning):
				return err
			}
		}
		if s.lock != nil && len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			if len(ladder) == 0 {
				return fmt.Errorf("not proved within %.0f s: %s", time.Since(s.at).Seconds(), describe(left, s.lock != nil))
			}
			for _, p := range left {
				if err := signal(p, ladder[0].sig); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("end %d (%s), which outlived the stop: %w", p.pid, p.command, err)
				}
				name := fmt.Sprintf("%d %s", p.pid, p.command)
				if ladder[0].sig == unix.SIGTERM {
					s.Ended = append(s.Ended, name)
				}
				if ladder[0].sig == unix.SIGKILL && delivers(p.command) {
					s.MayDouble = append(s.MayDouble, name)
				}
			}
			deadline = time.Now().Add(ladder[0].grace)
			ladder = ladder[1:]
		}
		time.Sleep(poll)
	}
}

// delivers says whether a daemon may have handed a message over just now.
func delivers(command string) bool {
	switch command {
	case "local", "virtual", "pipe", "smtp", "lmtp":
		return true
	}
	return false
}

func describe(left []process, locked bool) string {
	var names []string
	for _, p := range left {
		names = append(names, fmt.Sprintf("process %d (%s)", p.pid, p.command))
	}
	if len(names) > 0 {
		return strings.Join(names, ", ") + " is still there"
	}
	if !locked {
		return "somebody holds the lock on pid/master.pid: another start of Postfix?"
	}
	return "nothing is left"
}

// Start lets go of the lock, starts Postfix and proves it: the same queue
// manager must be there two seconds later. While it is not, the start is tried
// again every ten seconds for five minutes. ctx does not stop it: nothing may
// end a section with Postfix down.
func (w *Work) Start(ctx context.Context, s *Stopped) (Started, error) {
	ctx = context.WithoutCancel(ctx)
	// Journaled for the guard, which waits no longer than SectionLimit for it.
	note := w.write(kindStarting, struct{}{})
	if s.lock != nil {
		note = errors.Join(note, unlockFile(s.lock), s.lock.Close())
		s.lock = nil
	}
	r, err := w.up(ctx, s)
	if err != nil {
		return Started{}, fmt.Errorf("start: %w", err)
	}
	return r, errors.Join(note, w.write(kindStarted, r))
}

// up starts Postfix until it stays up, or the tries are used up.
func (w *Work) up(ctx context.Context, s *Stopped) (Started, error) {
	var last error
	for try := range startTries {
		if try > 0 {
			time.Sleep(startEvery)
		}
		r, err := w.start(ctx, s)
		if err == nil {
			return r, nil
		}
		last = err
	}
	return Started{}, fmt.Errorf("Postfix does not stay up (tried for %v; mend the cause, then 'postfix start' and 'spoolsweep resume'): %w", startEvery*startTries, last)
}

func (w *Work) start(ctx context.Context, s *Stopped) (Started, error) {
	began := time.Now()
	if _, running := w.Postfix.Running(); !running {
		if err := w.journaled(ctx, startLimit, w.Postfix.Start); err != nil {
			return Started{}, w.withLog(began, err)
		}
	}
	var r Started
	if s.WasRunning {
		r.Downtime = time.Since(s.at).Seconds()
	}
	proof := time.Now()
	var seen process
	for time.Since(proof) < 2*proveStart {
		master, ok := w.Postfix.Running()
		if !ok {
			return Started{}, w.withLog(began, errors.New("master ended right after its start"))
		}
		now, ok := w.Postfix.manager(master)
		switch {
		case ok && seen.pid == now.pid && seen.started == now.started:
			if time.Since(proof) >= proveStart {
				if len(w.Postfix.Status) > 0 {
					if err := command(ctx, statusLimit, nil, w.Postfix.Status...); err != nil {
						return Started{}, w.withLog(began, err)
					}
				}
				r.Master, r.Manager, r.Proved = master, now.pid, time.Since(proof).Seconds()
				return r, nil
			}
		case ok:
			seen, proof = now, time.Now()
			if time.Since(began) > startLimit {
				return Started{}, w.withLog(began, errors.New("the queue manager ends again and again"))
			}
		}
		time.Sleep(poll)
	}
	return Started{}, w.withLog(began, errors.New("master runs, but no queue manager stays up"))
}

// withLog adds the last complaint of the mail log to err. Without a terminal
// postfix(1) prints nothing before 3.8; the reason is only there.
func (w *Work) withLog(since time.Time, err error) error {
	paths := []string{w.Postfix.LogFile, "/var/log/mail.log", "/var/log/maillog"}
	for _, path := range paths {
		if path == "" || !strings.HasPrefix(path, "/") {
			continue
		}
		if line := lastComplaint(path, since); line != "" {
			return fmt.Errorf("%w (%s: %s)", err, path, line)
		}
	}
	return err
}

// lastComplaint is the last fatal, or else last warning line among the last
// 64 KiB of a log that was written since.
func lastComplaint(path string, since time.Time) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.ModTime().Before(since) {
		return ""
	}
	text := make([]byte, 64<<10)
	n, _ := f.ReadAt(text, max(0, st.Size()-int64(len(text))))
	var found string
	for line := range strings.Lines(string(text[:n])) {
		line = strings.TrimSpace(line)
		if strings.Contains(line, "fatal:") || strings.Contains(line, "warning:") && !strings.Contains(found, "fatal:") {
			found = line
		}
	}
	return found
}

// Settled says what Settle found and did.
type Settled struct {
	Needed  bool     `json:"needed"`  // the run had been left between stop and start
	Started *Started `json:"started"` // nil where Postfix was running and the names were right
	Sets    []Set    `json:"sets"`
}

// Settle leads a run that was left between stop and start to its end: every
// name is made to have the inode the journal wants, and Postfix is started. It
// touches no message. Called by the guard of a dead section and by whoever
// finds such a run later; when there is nothing to settle it does nothing.
func (w *Work) Settle(ctx context.Context) (Settled, error) {
	if w.phase == prepared { // died before the stop: nothing has changed
		if err := w.write(kindGivenUp, struct{}{}); err != nil {
			return Settled{}, err
		}
		return Settled{}, w.removeFresh()
	}
	if w.phase == outside {
		return Settled{}, nil
	}
	ctx = context.WithoutCancel(ctx)
	done := Settled{Needed: true}
	if w.last != nil {
		if err := endGroup(w.last.Group, w.last.Started); err != nil {
			return done, err
		}
	}
	open := w.wants[len(w.wants)-w.open:]
	master, running := w.Postfix.Running()
	var due bool
	for _, k := range open {
		d, err := w.exchangeDue(k)
		if err != nil {
			return done, err
		}
		due = due || d
	}
	s := &Stopped{at: time.Now(), WasRunning: running}
	if running && due {
		// Somebody started it before the names were right: one more stop.
		if err := w.write(kindStopping, stopRecord{Master: master, Boot: boot()}); err != nil {
			return done, err
		}
		_ = w.journaled(ctx, stopLimit, w.Postfix.Stop)
		running = false
	}
	var failed error
	if !running {
		if master == 0 || w.stop.Master == master {
			master = w.stop.Master
		} else if err := w.proveGone(s, w.stop.Master); err != nil {
			failed = err
		}
		if failed == nil {
			failed = w.proveStop(s, master)
		}
	}
	if failed == nil {
		for _, k := range open {
			failed = errors.Join(failed, w.swap(k))
		}
	}
	r, err := w.Start(ctx, s)
	if err != nil {
		return done, errors.Join(failed, err)
	}
	done.Started = &r
	if failed != nil {
		return done, fmt.Errorf("settle: Postfix runs, but the queues are not as they should be: %w", failed)
	}
	done.Sets, err = w.SetsAside()
	return done, err
}

// proveGone waits until nothing is left of a master that ended earlier.
func (w *Work) proveGone(s *Stopped, master int) error {
	deadline := s.at.Add(stopGrace)
	for {
		left, err := w.Postfix.family(master)
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("of the old master %d %s", master, describe(left, true))
		}
		time.Sleep(poll)
	}
}
