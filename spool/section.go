package spool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Time limits of stop..start. Together they stay below SectionLimit.
const (
	// SectionLimit is how long after the stop command was issued the first start
	// command must have been, or the guard takes over.
	SectionLimit = 60 * time.Second

	tellEvery   = 6 // tries: the reason is told once a minute
	settleTries = 3 // somebody else may start Postfix while we settle

	managerLimit = 5 * time.Second // a started master has a queue manager by then
)

// Variables for the sake of tests alone.
var (
	stopLimit  = 15 * time.Second // for the stop command itself
	stopGrace  = 20 * time.Second // what outlives the stop may finish by itself
	termGrace  = 5 * time.Second  // after SIGTERM
	killGrace  = 5 * time.Second  // after SIGKILL: a process in state D has to come back first
	startLimit = 110 * time.Second
	proveStart = 2 * time.Second // the queue manager must live that long
	startEvery = 10 * time.Second
	poll       = 20 * time.Millisecond

	startTries = 30 // 5 minutes
	// turnBackAt is the try before which the queues are exchanged back: late,
	// since with them the flood is live again, and what it sends is sent.
	turnBackAt = 24
)

// Stopped is a Postfix that is proved stopped, and cannot be started by
// anybody until Start.
type Stopped struct {
	Seconds    float64  `json:"seconds"`
	Ended      []string `json:"ended_pids"` // what had to be signalled: "1234 smtpd"
	MayDouble  []string `json:"may_double"` // deliveries that were cut: their mail may arrive twice
	WasRunning bool     `json:"was_running"`

	at time.Time
}

// Started is a Postfix whose queue manager was seen alive.
type Started struct {
	Downtime float64 `json:"downtime_seconds"` // from the stop command to the end of the start command; 0 if it was down before
	Proved   float64 `json:"proved_seconds"`
	Master   int     `json:"master"`
	Manager  int     `json:"manager"`
	// At is when the start command was issued, by the clock that the mail log has.
	At time.Time `json:"at"`
}

// journaled runs a command of the host and journals its process group, so
// that whoever settles after our death can end it.
func (w *Work) journaled(ctx context.Context, limit time.Duration, argv []string) error {
	return command(ctx, limit, w.noteGroup, argv...)
}

// noteGroup journals the process group of a command that was started.
func (w *Work) noteGroup(group int) error {
	p, err := processOf(group)
	if err != nil {
		return err
	}
	return w.write(kindCommand, commandRecord{Group: group, Started: p.started})
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
	if err := w.asPrepared(); err != nil {
		return nil, fmt.Errorf("stop: %w", err)
	}
	ctx = context.WithoutCancel(ctx) // from here on nothing may end it but its own limits
	s := &Stopped{at: time.Now()}
	// Not to have looked is no sign that nobody has the lock: a Postfix that
	// runs would be taken for a stopped one that does not end.
	var err error
	if w.hold, err = w.Postfix.lockMaster(w.root); errors.Is(err, errRunning) {
		s.WasRunning = true
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("stop: %w", err)
	}
	master, running := w.Postfix.Running()
	if err := w.write(kindStopping, stopRecord{Master: master, Boot: boot()}); err != nil {
		return nil, errors.Join(err, w.release())
	}
	var said error
	if s.WasRunning {
		// Its exit status proves nothing either way (postfix(1) says 0 with a
		// child alive); what it printed explains a failure.
		said = w.journaled(ctx, stopLimit, w.Postfix.Stop)
	}
	err = w.proveStop(s, w.masters)
	if err == nil {
		err = w.write(kindStopped, struct{}{})
	}
	if err != nil {
		if w.hold == nil && !running {
			s.WasRunning = false // somebody has the lock who is no master
		}
		// The section must not end with Postfix down, whatever the reason.
		err = errors.Join(err, w.release())
		return nil, w.giveUp(ctx, errors.Join(fmt.Errorf("stop: %w", err), said), s)
	}
	s.Seconds = time.Since(s.at).Seconds()
	return s, nil
}

// release lets go of the lock on master.pid.
func (w *Work) release() error {
	if w.hold == nil {
		return nil
	}
	err := errors.Join(unlockFile(w.hold), w.hold.Close())
	w.hold = nil
	return err
}

// giveUp leaves the section with the queues as they are and Postfix as it was.
func (w *Work) giveUp(ctx context.Context, why error, s *Stopped) error {
	if s.WasRunning {
		if _, _, err := w.up(ctx, s); err != nil {
			return errors.Join(why, fmt.Errorf("and Postfix could not be started again: %w", err))
		}
	}
	if err := w.write(kindGivenUp, struct{}{}); err != nil {
		// As far as the journal knows the directories are still wanted: Settle.
		return errors.Join(why, err)
	}
	return errors.Join(why, w.removeFresh())
}

// errStarted is what proveStop finds when a master runs that is none of those
// that were to stop.
var errStarted = errors.New("somebody started Postfix meanwhile")

// proveStop waits until the lock is ours and the families of all masters are gone.
func (w *Work) proveStop(s *Stopped, masters []int) error {
	deadline := time.Now().Add(stopGrace - time.Since(s.at))
	ladder := []struct {
		sig   unix.Signal
		grace time.Duration
	}{{unix.SIGTERM, termGrace}, {unix.SIGKILL, killGrace}}
	for {
		left, err := w.Postfix.family(masters)
		if err != nil {
			return err
		}
		if w.hold == nil {
			switch w.hold, err = w.Postfix.lockMaster(w.root); {
			case errors.Is(err, fs.ErrNotExist) && len(left) == 0:
				return fmt.Errorf("%w: start Postfix once, so that it is made", err)
			case errors.Is(err, errRunning):
				if master, running := w.Postfix.Running(); running && !slices.Contains(masters, master) {
					return fmt.Errorf("master %d: %w", master, errStarted)
				}
			case err != nil && !errors.Is(err, fs.ErrNotExist):
				return err
			}
			if w.hold != nil {
				continue // the family as it is now that nobody can start another
			}
		}
		if w.hold != nil && len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			if len(ladder) == 0 {
				return fmt.Errorf("not proved within %.0f s: %s", time.Since(s.at).Seconds(), describe(left, w.hold != nil))
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
// again every ten seconds for five minutes, in the last of them with the queues
// exchanged back, should these be the cause: then it returns a Postfix that runs,
// and an error. ctx does not stop it: nothing may end a section with Postfix down.
func (w *Work) Start(ctx context.Context, s *Stopped) (Started, error) {
	ctx = context.WithoutCancel(ctx)
	// Journaled for the guard, which waits no longer than SectionLimit for it.
	note := errors.Join(w.write(kindStarting, struct{}{}), w.finish(), w.release())
	r, why, err := w.up(ctx, s)
	if err != nil {
		return Started{}, errors.Join(fmt.Errorf("start: %w", err), note)
	}
	// What is half done would be out of sight once the section has ended.
	if err := w.finish(); err != nil {
		return r, fmt.Errorf("start: Postfix runs, but the names are half set ('spoolsweep resume' sets them): %w", errors.Join(err, note))
	}
	if w.back {
		if err := w.endBack(); err != nil {
			return r, fmt.Errorf("start: Postfix runs, but the queues are not all exchanged back ('spoolsweep resume' does it): %w", errors.Join(err, note))
		}
		return r, fmt.Errorf("start: Postfix did not stay up with the queues set aside, so they were exchanged back: it runs, and all mail is live again (mend the cause, then 'spoolsweep resume'): %w", cmp.Or(why, errEarlier))
	}
	not, err := w.notAside()
	if err == nil {
		err = w.write(kindStarted, startedRecord{r, not})
	}
	if err != nil {
		return r, errors.Join(err, note)
	}
	_ = w.removeFresh() // of queues that were not set aside after all
	return r, nil
}

// notAside are the queues of the section that were not set aside.
func (w *Work) notAside() (not []Queue, err error) {
	for _, k := range w.openWants() {
		inode, err := inodeAt(w.root, k.Aside)
		if err != nil {
			return nil, err
		}
		if inode != k.Old {
			not = append(not, k.Queue)
		}
	}
	return not, nil
}

// errEarlier stands for a reason that a dead section took with it.
var errEarlier = errors.New("see the mail log of then")

// up starts Postfix until it stays up, or the tries are used up. why is the
// reason of the last try that failed.
func (w *Work) up(ctx context.Context, s *Stopped) (r Started, why, err error) {
	logs := w.logSizes() // of all tries: a queue manager that is throttled says nothing in the next one
	for try := range startTries {
		if try > 0 {
			time.Sleep(startEvery)
		}
		switch {
		case try == turnBackAt && !w.back:
			w.turn(ctx, true)
		case try == startTries-1 && w.back:
			// It was not the queues: once it is mended, no flood shall go out.
			w.turn(ctx, false)
		}
		r, err := w.start(ctx, s)
		if err == nil {
			return r, why, nil
		}
		why = w.because(ctx, logs, err)
		// Whoever looks on can mend it meanwhile.
		if try%tellEvery == 0 && try+1 < startTries {
			w.tell(fmt.Sprintf("Postfix does not stay up; it is tried again every %v for %v: mend the cause meanwhile: %v", startEvery, startEvery*time.Duration(startTries), why))
		}
	}
	return Started{}, why, fmt.Errorf("Postfix does not stay up (tried for %v; mend the cause, then '%s' and 'spoolsweep resume'): %w", startEvery*time.Duration(startTries), w.Postfix.typed("postfix", "start"), why)
}

func (w *Work) tell(message string) {
	if w.Tell != nil {
		w.Tell(message)
	}
}

// turn exchanges the queues back to where they stood before the section, or
// forward again, between two tries to start. The journal is turned first, so
// that whoever settles after our death goes on in the same direction. Where
// that fails the names stay, and the start is tried with them.
func (w *Work) turn(ctx context.Context, back bool) {
	due, err := w.due(back)
	if err == nil && due {
		err = w.write(kindBack, backRecord{back})
	}
	if err != nil {
		w.tell("the queues cannot be exchanged: " + err.Error())
	}
	if err != nil || !due {
		return
	}
	if back {
		w.tell("Postfix does not stay up with the queues set aside: they are exchanged back, and it is tried with them")
	}
	err = w.makeSo(ctx, &Stopped{at: time.Now()})
	err = errors.Join(err, w.finish(), w.write(kindStarting, struct{}{}), w.release())
	if err != nil {
		w.tell("the queues are not all exchanged: " + err.Error())
		// Where none was, the journal must not want it of a Postfix that runs.
		if changed, e := w.due(!back); e == nil && !changed {
			_ = w.write(kindBack, backRecord{!back})
		}
	}
}

// due says whether a live queue would have to change to have the names set
// aside, or exchanged back.
func (w *Work) due(back bool) (bool, error) {
	for _, k := range w.openWants() {
		live, err := inodeAt(w.root, string(k.Queue))
		if err != nil {
			return false, err
		}
		if live == 0 || (live == k.Old) != back {
			return true, nil
		}
	}
	return false, nil
}

func (w *Work) start(ctx context.Context, s *Stopped) (Started, error) {
	began := time.Now()
	if _, running := w.Postfix.Running(); !running {
		if err := w.journaled(ctx, startLimit, w.Postfix.Start); err != nil {
			return Started{}, err
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
			return Started{}, errors.New("master ended right after its start")
		}
		now, ok := w.Postfix.manager(master)
		switch {
		case ok && seen.pid == now.pid && seen.started == now.started:
			if time.Since(proof) >= proveStart {
				if len(w.Postfix.Status) > 0 {
					if err := command(ctx, statusLimit, nil, w.Postfix.Status...); err != nil {
						return Started{}, err
					}
				}
				r.Master, r.Manager, r.Proved = master, now.pid, time.Since(proof).Seconds()
				r.At = began.UTC()
				return r, nil
			}
		case ok:
			seen, proof = now, time.Now()
			if time.Since(began) > startLimit {
				return Started{}, errors.New("the queue manager ends again and again")
			}
		}
		time.Sleep(poll)
	}
	return Started{}, errors.New("master runs, but no queue manager stays up")
}

// logSize is how long a log was before a start.
type logSize struct {
	path string
	size int64
}

func (w *Work) logSizes() []logSize {
	var logs []logSize
	for _, path := range w.Postfix.logFiles() {
		if st, err := os.Stat(path); err == nil {
			logs = append(logs, logSize{path, st.Size()})
		}
	}
	return logs
}

// logFiles are where this host's mail log may be.
func (p *Postfix) logFiles() []string {
	var files []string
	for _, path := range []string{p.LogFile, "/var/log/mail.log", "/var/log/maillog"} {
		if IsLog(path) && !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	return files
}

// IsLog reports whether a mail log lies at an absolute path. The maillog_file of
// postconf(5) may be /dev/stdout, which is another file for whoever opens it.
func IsLog(path string) bool {
	st, err := os.Stat(path)
	return strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "/dev/std") && !strings.HasPrefix(path, "/dev/fd/") && err == nil && st.Mode().IsRegular()
}

// because adds to err what Postfix itself says. Without a terminal postfix(1)
// prints nothing before 3.8. The reason is in the mail log, or, where main.cf is
// so broken that nothing in it counts, not even there.
func (w *Work) because(ctx context.Context, logs []logSize, err error) error {
	if found, _ := w.Postfix.Configuration(ctx); len(found) > 0 {
		return fmt.Errorf("%w (%v)", err, found[0])
	}
	for _, log := range logs {
		if line := w.Postfix.lastComplaint(log.path, log.size); line != "" {
			return fmt.Errorf("%w (%s: %s)", err, log.path, line)
		}
	}
	return err
}

// lastComplaint is the last fatal, or else last warning line of what was
// written to a log after its first from bytes.
func (p *Postfix) lastComplaint(path string, from int64) string {
	var found string
	lastLine(path, from, func(line string) bool {
		if p.wrote(line) && worse(line, found) {
			found = line
		}
		return false
	})
	return found
}

// lastLine is the last line that fits, of what was written to a log after its
// first from bytes; of much, of the last 64 KiB.
func lastLine(path string, from int64, fits func(line string) bool) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() {
		return ""
	}
	if st.Size() < from {
		from = 0 // rotated
	}
	text := make([]byte, min(64<<10, st.Size()-from))
	n, _ := f.ReadAt(text, st.Size()-int64(len(text)))
	var found string
	for line := range strings.Lines(string(text[:n])) {
		if line = strings.TrimSpace(line); fits(line) {
			found = line
		}
	}
	return found
}

// Settled says what Settle found and did.
type Settled struct {
	Needed  bool     `json:"needed"`  // the run had been left between stop and start
	Started *Started `json:"started"` // nil where Postfix could not be started
	Sets    []Set    `json:"sets"`
}

// Settle leads a run that was left between stop and start to its end: every
// name is made to have the inode the journal wants, those from before the
// section where it was turned back, and Postfix is started. It touches no message. Called by the guard of a dead section and by whoever
// finds such a run later; when there is nothing to settle it does nothing.
func (w *Work) Settle(ctx context.Context) (Settled, error) {
	if w.phase == prepared { // died before the stop: nothing has changed
		if err := w.write(kindGivenUp, struct{}{}); err != nil {
			return Settled{}, err
		}
		return Settled{}, w.removeFresh()
	}
	if w.phase == outside {
		return Settled{}, w.removeFresh()
	}
	ctx = context.WithoutCancel(ctx)
	// Whatever fails from here on, Postfix is started.
	var failed error
	if w.last != nil {
		failed = endGroup(w.last.Group, w.last.Started)
	}
	s := &Stopped{at: time.Now()}
	for try := range settleTries {
		err := w.makeSo(ctx, s)
		if !errors.Is(err, errStarted) || try == settleTries-1 {
			failed = errors.Join(failed, err)
			break
		}
	}
	done := Settled{Needed: true}
	r, err := w.Start(ctx, s)
	if r.Master != 0 {
		done.Started = &r
	}
	if err != nil {
		return done, errors.Join(failed, err)
	}
	if failed != nil {
		return done, fmt.Errorf("settle: Postfix runs, but the queues may not be as they should be: %w", failed)
	}
	done.Sets, err = w.SetsAside()
	return done, err
}

// makeSo makes every name as the journal wants it, and stops Postfix for that
// only where a live queue has to change.
func (w *Work) makeSo(ctx context.Context, s *Stopped) error {
	due, err := w.due(w.back)
	if err != nil {
		return err
	}
	s.at = time.Now()
	master, running := w.Postfix.Running()
	masters := append(slices.Clone(w.masters), master)
	if running && due {
		// Somebody started it before the names were right: one more stop.
		s.WasRunning = true
		if err := w.write(kindStopping, stopRecord{Master: master, Boot: boot()}); err != nil {
			return err
		}
		_ = w.journaled(ctx, stopLimit, w.Postfix.Stop)
	}
	if due || !running {
		if err := w.proveStop(s, masters); err != nil {
			return err
		}
	}
	var all error
	for _, k := range w.openWants() {
		all = errors.Join(all, w.set(k))
	}
	return all
}
