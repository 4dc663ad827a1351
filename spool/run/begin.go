package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// checkSteps refuses a plan that this build cannot run, before anything of it
// is done.
func checkSteps(steps []stage.Step) error {
	if len(steps) == 0 {
		return errors.New("the plan has no stages")
	}
	for i, s := range steps {
		row, ok := stage.Find(s.Stage)
		if !ok {
			return spool.Remedied(fmt.Errorf("stage %d: this agent knows no %q", i+1, s.Stage), "give --agent the one that belongs to this controller, or none")
		}
		if _, err := row.Parse(s.Args); err != nil {
			return fmt.Errorf("stage %d: %w", i+1, err)
		}
	}
	return stage.CheckPlan(steps)
}

// Begin makes the record of a new run and starts its worker. It returns once
// the worker lives; the run needs nobody from then on.
func (e *Env) Begin(ctx context.Context, info *Info) error {
	dir, err := e.dir(info.Vars, info.Run)
	if err != nil {
		return err
	}
	if err := checkSteps(info.Steps); err != nil {
		return err
	}
	p, err := e.Postfix(ctx, info.Vars)
	if err != nil {
		return err
	}
	lock, err := e.lock(ctx, p, info.Vars, info.Steps)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := e.leftDown(ctx, info.Vars); err != nil {
		return err
	}
	if err := e.makeRuns(info.Vars); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("run %s: %w", info.Run, err)
	}
	folder, err := lockFolder(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := writeInfo(dir, info); err != nil {
		return err
	}
	return e.startWorker(dir, info, lock, folder)
}

// makeRuns makes STATE/runs, or looks that it is ours and closed to others:
// what stands there decides what root does.
func (e *Env) makeRuns(v stage.Vars) error {
	path := filepath.Join(e.state(v), "runs")
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	for _, dir := range e.folders(v) {
		s, err := os.Lstat(dir)
		if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		sys, ok := s.Sys().(*syscall.Stat_t)
		if !ok || !s.IsDir() || int(sys.Uid) != os.Geteuid() || s.Mode().Perm()&0o022 != 0 {
			return spool.Remedied(fmt.Errorf("state directory: %s must be a folder of uid %d that nobody else can write to", dir, os.Geteuid()), fmt.Sprintf("chown %d %s; chmod 700 %s", os.Geteuid(), dir, dir))
		}
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	return nil
}

// folders are those of ours that records are in, the innermost first.
func (e *Env) folders(v stage.Vars) []string {
	state := e.state(v)
	all := []string{filepath.Join(state, "runs"), state}
	if v.Name() != spool.DefaultInstance {
		all = append(all, filepath.Dir(state), filepath.Dir(filepath.Dir(state)))
	}
	return all
}

// lockTries times 20 ms is how long a lock is waited for: a look of somebody
// else (preflight, a tail) holds one for an instant.
const lockTries = 25

// lock takes the lock on the queue directory for a plan, or says who has it. Where it
// needs none, nothing is locked.
func (e *Env) lock(ctx context.Context, p *spool.Postfix, v stage.Vars, steps []stage.Step) (*os.File, error) {
	if stage.Apart(steps) {
		return spool.Unlocked(p)
	}
	lock, err := spool.Lock(p)
	for try := 0; errors.Is(err, spool.ErrBusy) && try < lockTries && pause(ctx, 20*time.Millisecond); try++ {
		lock, err = spool.Lock(p)
	}
	if !errors.Is(err, spool.ErrBusy) {
		return lock, err
	}
	runs, _ := e.Runs(ctx, v) // only to say more
	for _, s := range runs {
		if s.Phase == Working {
			return nil, spool.Remedied(fmt.Errorf("%w: %s, begun by %s at %s", spool.ErrBusy, s.Run, s.Who, s.Began.Format(time.RFC3339)),
				"wait for it; spoolsweep attach "+s.Run+" follows it")
		}
	}
	return nil, err
}

// leftDown is the error of a run whose section died with nobody to end it, if there
// is one.
func (e *Env) leftDown(ctx context.Context, v stage.Vars) error {
	runs, err := e.Runs(ctx, v)
	if err != nil {
		return err
	}
	for _, s := range runs {
		if err := s.left(); err != nil {
			return err
		}
	}
	return nil
}

// left is why no other run may begin, nil if one may.
func (s *State) left() error {
	switch {
	case !s.Down || s.Phase == Working:
		return nil
	case s.Stages == 0:
		return spool.Remedied(fmt.Errorf("run %s may have been left between stop and start: %s", s.Run, s.Error), s.Remedy)
	}
	return spool.Remedied(fmt.Errorf("run %s was left between stop and start", s.Run), "spoolsweep resume "+s.Run)
}

// Handles that a worker and its section inherit.
const (
	lockHandle  = 3 // the lock on the queue directory
	aliveHandle = 4 // the lock on the run's folder
)

// startWorker starts the worker in a session of its own, with the locks.
func (e *Env) startWorker(dir string, info *Info, lock, folder *os.File) error {
	cmd, err := e.start("worker", dir, info, lock, folder)
	if err != nil {
		return fmt.Errorf("start the worker of run %s: %w", info.Run, err)
	}
	go func() { _ = cmd.Wait() }() // only so that no zombie stays while this process lives
	return nil
}

// lockFolder takes the lock that says that somebody works on the run. It is
// taken before anything in the folder is written.
func lockFolder(dir string) (*os.File, error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for range lockTries {
		if err = unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: run %s", spool.ErrBusy, filepath.Base(dir))
	}
	if err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// start starts a process of this run: its own session, no stream to the
// outside, a bare environment.
func (e *Env) start(role, dir string, info *Info, lock, folder *os.File) (*exec.Cmd, error) {
	log, err := os.OpenFile(filepath.Join(dir, "worker.log"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	argv := e.argv(role, dir)
	if role == "worker" { // the section is its child, and there with it
		argv = e.units(info.Vars).scope(argv)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{lock, folder}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=" + os.Getenv("HOME")}
	if practice := os.Getenv("SPOOLSWEEP_PRACTICE"); practice != "" {
		cmd.Env = append(cmd.Env, "SPOOLSWEEP_PRACTICE="+practice)
	}
	return cmd, cmd.Start()
}

// ResumeRequest asks to carry a run on.
type ResumeRequest struct {
	Vars stage.Vars `json:"vars"`
	Run  string     `json:"run"`
	By   string     `json:"by"` // user@laptop
	// Controller is made the run's; "" leaves that as it is. With an answer it
	// is who answers, and nothing is made.
	Controller string `json:"controller"`
	Yes        *bool  `json:"yes,omitempty"`
	// Steps replace the plan, Extra the variables it was resolved with.
	Steps []stage.Step   `json:"steps,omitempty"`
	Extra map[string]any `json:"extra,omitempty"`
	// At is the stage to go on at, where the new plan does not say it by itself.
	At *int `json:"at,omitempty"`
	// Answer to the ask with that number.
	Number int           `json:"number,omitempty"`
	Answer *stage.Answer `json:"answer,omitempty"`
	// Dry is refused what would be refused, and does nothing.
	Dry bool `json:"-"`
}

// ErrNothing says that a run has nothing left to do.
var ErrNothing = errors.New("nothing to do")

// ErrTakenOver refuses an answer of a controller that is not the run's any more.
var ErrTakenOver = errors.New("was taken over")

// AnsweredError refuses a late answer.
type AnsweredError struct {
	Number int
	Before *AnswerRecord // nil: the question is not open any more for another reason

	resumed *gotoRecord
}

func (e *AnsweredError) Error() string {
	switch {
	case e.Before != nil:
		return fmt.Sprintf("question %d was answered by %s at %s", e.Number, e.Before.By, e.Before.At.Format(time.RFC3339))
	case e.resumed != nil && e.resumed.By != "":
		return fmt.Sprintf("question %d is not open any more: the run was resumed by %s at %s", e.Number, e.resumed.By, e.resumed.At.Format(time.RFC3339))
	}
	return fmt.Sprintf("question %d is not open", e.Number)
}

// anythingAside refuses new rules for a run that ended before its stop, since no
// queue was full enough: there is nothing that they could judge.
func anythingAside(w *spool.Work, dir string, info *Info, next int) error {
	at := slices.IndexFunc(info.Steps, func(s stage.Step) bool { return s.Stage == "set-aside" })
	var done json.RawMessage
	if at < 0 || next <= at || w.Unsettled() || last(dir, "set-aside", &done) {
		return nil
	}
	sets, err := w.SetsAside()
	if err != nil || len(sets) > 0 {
		return err
	}
	return spool.Remedied(fmt.Errorf("run %s has set nothing aside: no queue was full enough, and there is nothing to judge", info.Run),
		"begin a new one: with -e queues=deferred, say, or a smaller host variable queue_warn, also what is less full is set aside")
}

// Resume carries a run on: where it stopped, where its new plan differs, or
// with an answer to what it asks.
func (e *Env) Resume(ctx context.Context, q *ResumeRequest) error {
	dir, err := e.dir(q.Vars, q.Run)
	if err != nil {
		return err
	}
	info, err := readInfo(dir)
	if err != nil {
		return err
	}
	p, err := e.Postfix(ctx, info.Vars)
	if err != nil {
		return err
	}
	plan := info.Steps
	if len(q.Steps) > 0 {
		plan = q.Steps
	}
	lock, err := e.lock(ctx, p, info.Vars, plan)
	if err != nil {
		return lateAnswer(dir, q, info, err)
	}
	defer lock.Close()
	folder, err := lockFolder(dir)
	if err != nil {
		return lateAnswer(dir, q, info, err)
	}
	defer folder.Close()
	w, records, err := spool.OpenWork(p, info.Run, dir, e.Build, lock)
	if err != nil {
		return err
	}
	defer w.Close()
	at, err := progressOf(records, len(info.Steps))
	if err != nil {
		return err
	}
	if q.Answer != nil {
		if err := checkAnswer(at, q, info); err != nil {
			return err
		}
	}
	next := at.next
	if len(q.Steps) > 0 {
		if err := checkSteps(q.Steps); err != nil {
			return err
		}
		if next, err = whereto(info.Steps, q.Steps, at.next, w.Unsettled()); err != nil {
			return err
		}
		if q.At == nil { // a stage that was added looks for itself
			if err := anythingAside(w, dir, info, next); err != nil {
				return err
			}
		}
	}
	steps := info.Steps
	if len(q.Steps) > 0 {
		steps = q.Steps
	}
	if q.At != nil {
		next = *q.At
		row, ok := stageAt(steps, next)
		for i := next; ok && i < min(at.next, len(steps)); i++ {
			done, _ := stageAt(steps, i)
			ok = !done.Section
		}
		if ok && row.Finished {
			if err := finished(info, at); err != nil {
				return err
			}
		}
		if !ok || row.Section {
			return fmt.Errorf("run %s cannot go on at stage %d: its plan has %d, and stop..start is never begun again from here", q.Run, next+1, len(steps))
		}
	}
	waiting := at.ask != nil && at.answer == nil
	if next >= len(steps) && !w.Unsettled() {
		return ErrNothing
	}
	if waiting && !own(at.ask) && q.Answer == nil && next == at.next && !changed(info.Steps, steps, next) && (q.Yes == nil || *q.Yes == info.Yes) {
		return ErrNothing // it would only ask the same again
	}
	if q.Dry {
		return nil
	}
	now := time.Now().UTC()
	if q.Answer != nil {
		a := AnswerRecord{Number: q.Number, At: now, Answer: *q.Answer}
		if err := w.Journal.Write(kindAnswer, a); err != nil {
			return err
		}
		if !own(at.ask) { // a program's answer may have crossed with the cancel
			if err := goOn(dir); err != nil {
				return err
			}
		}
		return e.startWorker(dir, info, lock, folder)
	}
	// A slot that was given and not used may be another host's by now.
	slot := at.ask != nil && at.ask.Kind == "slot"
	added := len(steps) > len(info.Steps) // as purge and putback are: the account says by whom
	if next != at.next || waiting || slot || at.failed != "" || added {
		// Before the plan: a death between the two leaves a run that would be
		// judged by its old rules again, not one with new rules and old verdicts.
		if err := w.Journal.Write(kindGoto, gotoRecord{Index: next, By: q.By, At: now}); err != nil {
			return err
		}
	} else if err := w.Journal.Write(kindResumed, resumedRecord{By: q.By, At: now}); err != nil {
		return err
	}
	info.Steps = steps
	if q.Extra != nil {
		info.Extra = q.Extra
	}
	if q.Controller != "" {
		info.Controller = q.Controller
	}
	switch {
	case q.Yes != nil:
		info.Yes = *q.Yes
	case len(q.Steps) > 0:
		info.Yes = false // it was said of another plan
	}
	if err := errors.Join(writeInfo(dir, info), goOn(dir)); err != nil {
		return err
	}
	return e.startWorker(dir, info, lock, folder)
}

// lateAnswer says who has answered, where an answer comes while the run works on
// by another one; else it is busy.
func lateAnswer(dir string, q *ResumeRequest, info *Info, busy error) error {
	if q.Answer == nil || !errors.Is(busy, spool.ErrBusy) {
		return busy
	}
	records, err := spool.ReadJournal(dir)
	if err != nil {
		return errors.Join(busy, err)
	}
	at, err := progressOf(records, len(info.Steps))
	if err != nil {
		return errors.Join(busy, err)
	}
	var late *AnsweredError
	if err := checkAnswer(at, q, info); errors.As(err, &late) {
		return late
	}
	return busy // its question is open: it is another run that works
}

// finished refuses a run that has anything left to do but what may be added only
// to one that has not, such as a purge that was broken off.
func finished(info *Info, at *progress) error {
	for i := at.next; i < len(info.Steps); i++ {
		if row, ok := stageAt(info.Steps, i); !ok || !row.Finished {
			return spool.Remedied(fmt.Errorf("run %s is not finished, it stands at stage %d (%s)", info.Run, i+1, info.Steps[i].Stage), fmt.Sprintf("first spoolsweep resume %s, or spoolsweep putback %[1]s", info.Run))
		}
	}
	return nil
}

func stageAt(steps []stage.Step, i int) (*stage.Row, bool) {
	if i < 0 || i >= len(steps) {
		return nil, false
	}
	return stage.Find(steps[i].Stage)
}

// own says that only the run's controller answers a question.
func own(a *AskRecord) bool { return a.Kind == "slot" || a.Kind == "controller" }

// checkAnswer refuses an answer to anything but the question that is open.
func checkAnswer(at *progress, q *ResumeRequest, info *Info) error {
	if len(q.Steps) > 0 || q.At != nil {
		return errors.New("an answer does not change the plan")
	}
	for i := range at.answered {
		if at.answered[i].Number == q.Number {
			return &AnsweredError{Number: q.Number, Before: &at.answered[i]}
		}
	}
	if at.ask == nil || at.ask.Number != q.Number {
		return &AnsweredError{Number: q.Number, resumed: at.resumed}
	}
	if q.Answer.Kind != at.ask.Kind {
		return fmt.Errorf("question %d is about %s, not %.40q", q.Number, at.ask.Kind, q.Answer.Kind)
	}
	if own(at.ask) && q.Controller != info.Controller {
		return spool.Remedied(fmt.Errorf("run %s %w by %s: only that one gives turns to stop Postfix, and runs commands", info.Run, ErrTakenOver, info.Controller), "spoolsweep attach "+info.Run+" follows it")
	}
	return nil
}

// whereto is the stage at which a new plan goes on: the first one that
// differs, or where the run stopped. What was done between stop and start is
// not done again by a change of arguments; a section that was left half done
// is settled first, and counts as done.
func whereto(old, now []stage.Step, next int, unsettled bool) (int, error) {
	if unsettled {
		if _, last, ok := sectionBefore(old, next); ok {
			next = max(next, last+1)
		}
	}
	at := next
	for i := range min(next, len(now)) {
		if changed(old, now, i) {
			at = i
			break
		}
	}
	for i, s := range now {
		if row, _ := stage.Find(s.Stage); row.Section && at <= i && i < next {
			remedy := "begin a new run"
			if now[at].Stage == "command" {
				remedy += "; an account is disabled meanwhile by spoolsweep run disable-account -e account=NAME"
			}
			return 0, spool.Remedied(fmt.Errorf("stage %d (%s) would have to be done again, and with it %s, which is done", at+1, now[at].Stage, s.Stage), remedy)
		}
	}
	return at, nil
}

func changed(old, now []stage.Step, i int) bool {
	return i < len(now) && (i >= len(old) || !same(old[i], now[i]))
}

func same(a, b stage.Step) bool {
	x, y := meant(a), meant(b)
	return a.Stage == b.Stage && a.Skip == b.Skip && a.Once == b.Once && x != nil && bytes.Equal(x, y)
}

// meant are a step's arguments in the one form that all with the same meaning have:
// whoever gives a plan writes them in its own. nil: they are none.
func meant(s stage.Step) []byte {
	row, ok := stage.Find(s.Stage)
	if !ok {
		return nil
	}
	args, err := row.Parse(s.Args)
	if err != nil {
		return nil
	}
	text, err := json.Marshal(args)
	if err != nil {
		return nil
	}
	return text
}

// Added is the plan with a step at its end, and where that is: in the place of an
// earlier try of the same there.
func (i *Info) Added(step stage.Step) (steps []stage.Step, at int) {
	steps = slices.Clone(i.Steps)
	for len(steps) > 0 && steps[len(steps)-1].Stage == step.Stage {
		steps = steps[:len(steps)-1]
	}
	return append(steps, step), len(steps)
}

// Behind is the plan with these steps instead of those behind what set mail aside, or
// took it on. Steps that do that themselves are a whole plan.
func (i *Info) Behind(steps []stage.Step) []stage.Step {
	sets := func(s stage.Step) bool {
		row, ok := stage.Find(s.Stage)
		return ok && row.Section || s.Stage == "adopt"
	}
	if !slices.ContainsFunc(steps, sets) {
		kept := len(i.Steps)
		for kept > 0 && !sets(i.Steps[kept-1]) {
			kept--
		}
		steps = slices.Concat(i.Steps[:kept], steps)
	}
	return i.kept(steps)
}

// kept keeps what is left out now: the rules, since nothing is judged without any; and
// the answer to a confirm that was given beforehand, where all else is the run's own
// plan, so that the answer alone makes no other plan of it.
func (i *Info) kept(steps []stage.Step) []stage.Step {
	steps = slices.Clone(steps)
	both := min(len(steps), len(i.Steps))
	for k := range both {
		if steps[k].Stage == "classify" && i.Steps[k].Stage == "classify" && ruleless(steps[k]) {
			steps[k].Args = i.Steps[k].Args
		}
	}
	all := slices.Clone(steps)
	for k := range both {
		var now stage.ConfirmArgs
		if all[k].Stage == "confirm" && i.Steps[k].Stage == "confirm" && json.Unmarshal(orEmpty(all[k].Args), &now) == nil && now.Expect == nil {
			all[k].Args = i.Steps[k].Args
		}
	}
	if slices.EqualFunc(all, i.Steps, same) {
		return all
	}
	return steps
}

// ruleless says that a classify is given no rules.
func ruleless(s stage.Step) bool {
	var args struct{ Spam, Ham any }
	if json.Unmarshal(orEmpty(s.Args), &args) != nil {
		return false
	}
	for _, rules := range []any{args.Spam, args.Ham} {
		switch v := rules.(type) {
		case nil:
		case string:
			if v != "" {
				return false
			}
		case map[string]any:
			if len(v) > 0 {
				return false
			}
		case []any:
			if len(v) > 0 {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func orEmpty(text json.RawMessage) []byte {
	if len(text) == 0 {
		return []byte("{}")
	}
	return text
}
