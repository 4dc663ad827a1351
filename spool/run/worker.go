package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// Worker runs a plan on this host, from where its journal ends to its end or
// its next question. It is what startWorker executes.
func (e *Env) Worker(state, id string) error {
	return e.inherit(state, id, func(r *runner) error {
		err := r.plan(context.Background())
		// After its work: nobody's mail waits for it.
		if old := e.expire(context.Background(), r.pf, r.info.Vars); old != nil {
			r.record.emit("", -1, evWarn, map[string]string{"message": old.Error()})
		}
		return err
	})
}

// Section does stop..start and nothing else, to its end, whoever dies.
func (e *Env) Section(state, id string) error {
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0) // where it may: the last to be killed
	return e.inherit(state, id, func(r *runner) error { return r.inside(context.Background()) })
}

// runner is a worker or a section at work.
type runner struct {
	env    *Env
	dir    string
	info   *Info
	pf     *spool.Postfix
	lock   *os.File
	folder *os.File
	work   *spool.Work
	record *record
	at     *progress
	later  func() // what waits until Postfix runs again
}

// catch takes the signals that a dying terminal or session sends. They are caught,
// not ignored: what is ignored would stay ignored in Postfix, which is started
// from here.
func catch() (stop func()) {
	caught := make(chan os.Signal, 8)
	signal.Notify(caught, syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE, syscall.SIGQUIT)
	return func() { signal.Stop(caught) }
}

// inherit takes over the locks, opens the record, and catches signals.
func (e *Env) inherit(state, id string, do func(*runner) error) error {
	unix.CloseOnExec(lockHandle) // before anything else: see spool.Inherited
	unix.CloseOnExec(aliveHandle)
	defer catch()()

	dir, err := e.dir(stage.Vars{StateDirectory: state}, id)
	if err != nil {
		return err
	}
	info, err := readInfo(dir)
	if err != nil {
		return err
	}
	r := &runner{env: e, dir: dir, info: info, folder: os.NewFile(aliveHandle, dir)}
	if r.record, err = openRecord(dir, id, info.Vars.Name()); err != nil {
		return err
	}
	defer func() { r.record.close() }()
	if r.pf, err = e.Postfix(context.Background(), info.Vars); err == nil {
		if stage.Apart(info.Steps) {
			r.lock, err = spool.Unlocked(r.pf)
		} else {
			r.lock, err = spool.Inherited(lockHandle, r.pf)
		}
	}
	if err == nil {
		err = r.open()
	}
	if err == nil {
		err = do(r)
	}
	if err != nil {
		r.record.emit("", -1, evEnd, Ended{Status: "failed", Error: err.Error(), Remedy: r.remedy(err)})
	}
	return err
}

// open replays the journal; done again after the section wrote to it.
func (r *runner) open() error {
	w, records, err := spool.OpenWork(r.pf, r.info.Run, r.dir, r.env.Build, r.lock)
	if err != nil {
		return err
	}
	r.work = w
	r.at, err = progressOf(records, len(r.info.Steps))
	return err
}

// write journals a record of this package and takes it in.
func (r *runner) write(kind string, data any) error {
	if err := r.work.Journal.Write(kind, data); err != nil {
		return err
	}
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	return r.at.replay(spool.Record{Kind: kind, Data: text}, len(r.info.Steps))
}

func (r *runner) host() *stage.Host {
	h := &stage.Host{
		Postfix: r.pf, Vars: r.info.Vars, Work: r.work, Run: r.info.Run, Dir: r.dir, Yes: r.info.Yes,
		Records: func() ([]stage.Record, error) { return r.env.records(r.pf, r.info.Vars) },
		Last:    func(name string, into any) bool { return last(r.dir, name, into) },
		Agree: func(n int64) error {
			return r.write(kindAgreed, agreedRecord{Args: orEmpty(r.info.Steps[r.at.next].Args), Messages: n})
		},
	}
	if a := r.at.agreed; a != nil && r.at.next < len(r.info.Steps) {
		step := r.info.Steps[r.at.next]
		agreed := step
		agreed.Args = a.Args
		if same(step, agreed) {
			h.Agreed = &a.Messages
		}
	}
	if r.at.answer != nil {
		h.Answer = &r.at.answer.Answer
	}
	return h
}

// plan runs the stages. Whatever an earlier worker left between stop and start
// is settled first.
func (r *runner) plan(ctx context.Context) error {
	settle := func() error { return r.settle(ctx, "an earlier section of this run was left") }
	if r.work.Unsettled() {
		left := settle
		settle = func() error { return r.guarded(left) }
	}
	if err := settle(); err != nil {
		return err
	}
	for r.at.next < len(r.info.Steps) {
		i := r.at.next
		if why := r.leftOut(r.info.Steps[i]); why != "" {
			if err := r.done(i, Ended{Status: "skipped", Note: why}); err != nil {
				return err
			}
			continue
		}
		if r.cancelled() {
			return r.failed(i, time.Now(), r.cancelledError())
		}
		first, last, section := stage.SectionOf(names(r.info.Steps), i)
		if section && i != first {
			// Its set-aside failed and Postfix was started: all of it once more.
			if err := r.write(kindGoto, gotoRecord{Index: first}); err != nil {
				return err
			}
			i = first
		}
		var err error
		if section {
			err = r.section(ctx, last)
		} else {
			h := r.host()
			h.Cancelled = r.cancelled
			err = r.stage(ctx, h, i)
		}
		var ask *stage.Ask
		if errors.As(err, &ask) {
			return r.wait(i, ask)
		}
		if r.at.failed != "" {
			return nil // told, and journaled
		}
		if err != nil {
			return err
		}
	}
	r.record.emit("", -1, evEnd, Ended{Status: "ok"})
	return errors.Join(r.work.Journal.Release(), r.record.release())
}

// leftOut says why a step is not done here, "" if it is.
func (r *runner) leftOut(s stage.Step) string {
	switch {
	case s.Skip:
		return "its when is false"
	case s.Once && len(r.info.Hosts) > 0 && r.info.Host != r.info.Hosts[0]:
		return "it is done once, on " + r.info.Hosts[0]
	}
	return ""
}

// wait journals the question, tells it, and ends: a run that waits holds no
// process and no lock.
func (r *runner) wait(i int, ask *stage.Ask) error {
	data, err := json.Marshal(ask.Data)
	if err != nil {
		return err
	}
	a := AskRecord{Number: r.at.asked + 1, Index: i, Kind: ask.Kind, Data: data}
	if err := r.write(kindAsk, a); err != nil {
		return err
	}
	r.record.emit(r.info.Steps[i].Stage, i, evAsk, a)
	r.record.emit("", -1, evEnd, Ended{Status: "waiting", Asks: a.Kind, Number: a.Number, Remedy: GoOn(r.info.Run, a.Kind)})
	return nil
}

// GoOn is what has a run go on that waits for an answer of that kind.
func GoOn(id, asks string) string {
	next := "spoolsweep resume " + id
	switch asks {
	case "rules":
		next += " -e @rules.yaml"
	case "export":
		next += " --to DIR"
	}
	return next
}

// stage runs one stage, and journals its beginning and its end.
func (r *runner) stage(ctx context.Context, h *stage.Host, i int) error {
	step := r.info.Steps[i]
	row, ok := stage.Find(step.Stage)
	if !ok {
		return r.failed(i, time.Now(), fmt.Errorf("this agent knows no stage %q", step.Stage))
	}
	args, err := row.Parse(step.Args)
	if err != nil {
		return r.failed(i, time.Now(), err)
	}
	if err := r.write(kindBegin, stageRecord{Index: i}); err != nil {
		return r.failed(i, time.Now(), err)
	}
	began := time.Now()
	r.record.emit(step.Stage, i, evBegin, nil)
	h.Step = step
	result, err := r.within(ctx, row, h, args, func(kind string, data any) {
		if kind != evProgress || !step.NoLog {
			r.record.emit(step.Stage, i, kind, data)
		}
	})
	changed := row.Changes
	if c, ok := result.(interface{ Changed() bool }); ok {
		changed = c.Changed()
	}
	if step.NoLog {
		bare, ok := result.(interface{ Bare() stage.Result })
		if result = nil; ok {
			result = bare.Bare()
		}
	}
	if counted, ok := result.(interface{ Count(*spool.Postfix) error }); ok && h.Down() {
		// Counting a flood takes a second: not while Postfix is down.
		r.later = func() {
			if err := counted.Count(r.pf); err != nil {
				r.record.emit(step.Stage, i, evWarn, map[string]string{"message": err.Error()})
			}
			r.record.emit(step.Stage, i, evResult, result)
		}
	} else if result != nil && !isNil(result) {
		r.record.emit(step.Stage, i, evResult, result)
	}
	var ask *stage.Ask
	if errors.As(err, &ask) {
		r.record.emit(step.Stage, i, evEnd, Ended{Status: "waiting", Asks: ask.Kind, Seconds: time.Since(began).Seconds()})
		return err
	}
	if err == nil && !h.Down() {
		err = r.record.sync()
	}
	if err == nil {
		err = r.done(i, Ended{Status: "ok", Changed: changed, Seconds: time.Since(began).Seconds()})
	}
	if err != nil {
		return r.failed(i, began, err)
	}
	return nil
}

// within runs a stage, in no more than its timeout.
func (r *runner) within(ctx context.Context, row *stage.Row, h *stage.Host, args stage.Args, emit stage.Emit) (stage.Result, error) {
	limit := h.Step.Timeout
	if limit <= 0 || row.Section { // a section is never cut: see stage.CheckPlan
		return row.Run(ctx, h, args, emit)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	result, err := row.Run(ctx, h, args, emit)
	if errors.Is(err, context.DeadlineExceeded) {
		err = spool.Remedied(fmt.Errorf("not done within its timeout of %v: %w", limit, err), "spoolsweep resume "+r.info.Run+" goes on there")
	}
	return result, err
}

func isNil(r stage.Result) bool {
	text, err := json.Marshal(r)
	return err != nil || string(text) == "null"
}

// failed tells and journals that a stage, and with it the run, has failed.
func (r *runner) failed(i int, began time.Time, err error) error {
	name := r.info.Steps[i].Stage
	if errors.Is(err, spool.ErrCancelled) { // as a stage returns it, which does not know by whom
		err = r.cancelledError()
	}
	remedy := r.remedy(err)
	if e := r.write(kindEnd, stageRecord{Index: i, Error: err.Error(), Remedy: remedy}); e != nil {
		err = errors.Join(err, e)
	}
	r.record.emit(name, i, evEnd, Ended{Status: "failed", Error: err.Error(), Remedy: remedy, Seconds: time.Since(began).Seconds()})
	r.record.emit("", -1, evEnd, Ended{Status: "failed", Error: name + ": " + err.Error(), Remedy: remedy})
	return err
}

// remedy is what to do about what a run failed with.
func (r *runner) remedy(err error) string {
	remedy := cmp.Or(spool.RemedyOf(err), "mend that")
	if !strings.Contains(remedy, "spoolsweep") {
		remedy += ", then spoolsweep resume " + r.info.Run
	}
	return remedy
}

// section gets everything ready that needs no stopped Postfix, waits for a slot
// where hosts take turns, and has a child do stop..start.
func (r *runner) section(ctx context.Context, last int) error {
	i := r.at.next
	began := time.Now()
	queues, err := r.queues(i, last)
	if err != nil {
		return r.failed(i, began, err)
	}
	sets, err := r.work.SetsAside()
	if err != nil {
		return r.failed(i, began, err)
	}
	if len(queues) == 0 && len(sets) > 0 {
		// An earlier try failed after it had set aside what was full.
		for ; i <= last; i++ {
			if err := r.done(i, Ended{Status: "ok", Note: "what is full is aside already"}); err != nil {
				return r.failed(i, began, err)
			}
		}
		return nil
	}
	if len(queues) == 0 {
		note := fmt.Sprintf("no queue holds more than %d messages (host variable queue_warn): nothing was stopped, nothing set aside; -e 'queues=[deferred]' sets that one aside all the same", r.info.Vars.Warn())
		if err := r.write(kindEnd, stageRecord{Index: i, Last: true}); err != nil {
			return r.failed(i, began, err)
		}
		r.record.emit("", -1, evWarn, map[string]string{"message": note})
		return nil
	}
	if r.info.Slots && !(r.at.answer != nil && r.at.answer.Kind == "slot") {
		return &stage.Ask{Kind: "slot"}
	}
	if err := r.work.Prepare(queues); err != nil {
		return r.failed(i, began, err)
	}
	if err := errors.Join(r.record.reserve(), stage.ReserveVerdicts(r.dir, r.work.Counted())); err != nil {
		_, e := r.work.Settle(ctx) // removes what was prepared
		return r.failed(i, began, errors.Join(err, e))
	}
	if err := r.work.Close(); err != nil {
		return r.failed(i, began, err)
	}
	var died error
	err = r.guarded(func() error {
		died = r.guard(ctx)
		if err := r.open(); err != nil {
			return err
		}
		if died != nil {
			r.record.emit("", -1, evWarn, map[string]string{"message": "the section " + died.Error()})
		}
		return r.settle(ctx, "the section died")
	})
	if err != nil {
		return err
	}
	if r.at.failed != "" {
		return errors.New(r.at.failed)
	}
	if r.at.next <= last {
		// It ended before it had stopped anything; Settle has undone the rest.
		if died == nil {
			died = fmt.Errorf("ended before it began (see %s)", filepath.Join(r.dir, "worker.log"))
		}
		return r.failed(r.at.next, began, fmt.Errorf("the section %w", died))
	}
	return nil
}

// queues are what the section's set-aside will take.
func (r *runner) queues(first, last int) ([]spool.Queue, error) {
	for _, s := range r.info.Steps[first : last+1] {
		row, ok := stage.Find(s.Stage)
		if !ok {
			continue
		}
		args, err := row.Parse(s.Args)
		if err != nil {
			return nil, err
		}
		if a, ok := args.(*stage.SetAsideArgs); ok {
			return spool.Choose(r.pf, a.Queues, r.info.Vars.Warn())
		}
	}
	return nil, errors.New("no set-aside between stop and start")
}

// guardEvery is how often the worker looks whether its section is overdue.
const guardEvery = time.Second

// guard runs the section and watches it. It kills a section that does not
// come to its start in time: it is our own unreaped child, so that its pid
// cannot be somebody else's.
func (r *runner) guard(ctx context.Context) error {
	r.record.close() // the section writes on
	defer func() {
		if again, err := openRecord(r.dir, r.info.Run, r.info.Vars.Name()); err == nil {
			r.record = again
		}
	}()
	cmd, err := r.env.start("section", r.dir, r.info, r.lock, r.folder)
	if err != nil {
		return fmt.Errorf("could not be started: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	var overdue bool
	for {
		select {
		case err := <-done:
			var exit *exec.ExitError
			switch {
			case overdue:
				return fmt.Errorf("had not started Postfix %v after it began to stop it, and was ended", spool.SectionLimit)
			case errors.As(err, &exit) && exit.ExitCode() >= 0:
				return nil // it has told by itself why it failed
			case err != nil:
				return fmt.Errorf("was ended: %w", err)
			}
			return nil
		case <-tick.C:
			if late, err := spool.Overdue(r.dir); err == nil && late && !overdue {
				overdue = true
				_ = cmd.Process.Kill()
			}
		}
	}
}

// settle ends what a dead section left, and journals its stages as done: the
// names are as they would have been.
func (r *runner) settle(ctx context.Context, why string) error {
	up := r.at.up
	if !r.work.Unsettled() {
		_, err := r.work.Settle(ctx) // removes what a prepared section left
		if err != nil || up == nil {
			return err
		}
	}
	first, last, ok := sectionBefore(r.info.Steps, r.at.next)
	if !ok {
		return fmt.Errorf("the journal of %s was left between stop and start, and its plan has no such stages", r.info.Run)
	}
	// Where the section had come to, or all of it if the run was told since then
	// to go on behind it.
	target := r.at.next
	i := target
	if i > last {
		i = first
	}
	r.work.Tell = func(message string) { r.record.emit("", -1, evWarn, map[string]string{"message": message}) }
	s := spool.Settled{Started: up}
	var err error
	if up == nil {
		s, err = r.work.Settle(ctx)
	} else { // it died behind the start, before it had told of it
		s.Sets, err = r.work.SetsAside()
	}
	if err != nil {
		return r.failed(min(i, last), time.Now(), err)
	}
	r.record.emit("", -1, evWarn, map[string]string{"message": why + " between stop and start: the queues are set aside and Postfix runs"})
	aside := stage.NewAside(s.Sets)
	if err := aside.Count(r.pf); err != nil {
		return r.failed(min(i, last), time.Now(), err)
	}
	for k := first; k <= last; k++ {
		name := r.info.Steps[k].Stage
		switch {
		case name == "set-aside": // it is told when Postfix runs, so it was not
			r.record.emit(name, k, evResult, aside)
		case name == "start" && s.Started != nil:
			r.record.emit(name, k, evResult, stage.NewStarted(ctx, r.pf, *s.Started))
		}
		if k < i {
			continue
		}
		if err := r.done(k, Ended{Status: "ok", Changed: true}); err != nil {
			return err
		}
	}
	if target > last+1 {
		return r.write(kindGoto, gotoRecord{Index: target})
	}
	return nil
}

// done journals and tells that a stage has ended well.
func (r *runner) done(i int, e Ended) error {
	if err := r.write(kindEnd, stageRecord{Index: i}); err != nil {
		return err
	}
	r.record.emit(r.info.Steps[i].Stage, i, evEnd, e)
	return nil
}

// sectionBefore is the section that stage i belongs to, or the last one before it.
func sectionBefore(steps []stage.Step, i int) (first, last int, ok bool) {
	for ; i >= 0; i-- {
		if first, last, ok = stage.SectionOf(names(steps), i); ok {
			return first, last, true
		}
	}
	return 0, 0, false
}

// inside is the section: stop, set-aside, start. Once Postfix is stopped it is
// started again whatever else fails.
func (r *runner) inside(ctx context.Context) error {
	first, last, ok := stage.SectionOf(names(r.info.Steps), r.at.next)
	if !ok || first != r.at.next {
		return fmt.Errorf("stage %d is no beginning of a section", r.at.next+1)
	}
	_ = r.work.NoteSection() // without it the timer cannot end us, should we hang
	h := r.host()
	for i := first; i <= last; i++ {
		err := r.stage(ctx, h, i)
		if r.later != nil && !h.Down() {
			r.later()
			r.later = nil
		}
		if err == nil {
			continue
		}
		if h.Down() {
			// set-aside failed: mail flows again all the same.
			row, _ := stage.Find(r.info.Steps[last].Stage)
			result, e := row.Run(ctx, h, &stage.NoArgs{}, func(string, any) {})
			if r.later != nil {
				r.later()
			}
			if e != nil {
				err = errors.Join(err, e)
				r.record.emit("", -1, evEnd, Ended{Status: "failed", Error: err.Error(), Remedy: r.remedy(err)})
			} else {
				r.record.emit(row.Name, last, evResult, result)
			}
		}
		return nil // told, and journaled
	}
	return nil
}

// Main is what the agent's executable does when it is started as worker, as
// section, or by the timer; its error has no other place than worker.log.
func (e *Env) Main(role, state, id string) int {
	var err error
	switch role {
	case "worker":
		err = e.Worker(state, id)
	case "section":
		err = e.Section(state, id)
	case "settle":
		err = e.Settle(state, id)
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %s %s: %v\n", time.Now().UTC().Format(time.RFC3339), role, filepath.Base(id), err)
		return 1
	}
	return 0
}
