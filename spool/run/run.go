// Package run carries out a plan on this host and keeps its record. It has no
// network: what the controller wants arrives as values, and what happens is
// read from the record on disk.
//
// A run is a folder STATE/runs/RUN (0700):
//
//	run.json      what was asked for: the plan, who, from where, for which hosts
//	journal       what is being done, written before it is done (package spool)
//	events.jsonl  what happened, one event a line, for whoever watches
//	verdicts.gz   every message that was set aside, and how it was judged; earlier
//	              such lists are verdicts.1.gz and so on
//	cancel        whoever works on the run is to end after the current step
//	sums.json     what is left of the ledger when it was removed, see ledger_keep
//	worker.log    what should be empty
//
// Three processes share the work, and where systemd runs a timer. The front, which SSH starts, owns nothing and
// may die at any time: it only starts a worker and reads the record. The worker
// runs the plan stage by stage. The section, a child of the worker in a session
// of its own, does stop..start; the two watch each other, and either alone gets
// Postfix started. A run that waits for an answer has none of them.
package run

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

// Env is what differs between a mail server and practice.
type Env struct {
	// Postfix reaches the Postfix that the host variables name.
	Postfix func(ctx context.Context, v stage.Vars) (*spool.Postfix, error)
	// Glance is Postfix for who only looks how it is, which may be told out of
	// Answers; nil: Postfix.
	Glance  func(ctx context.Context, v stage.Vars) (*spool.Postfix, error)
	Answers *spool.Answers // nil: none are kept
	// Instances lists the Postfix of this host; nil: there is one.
	Instances func(ctx context.Context) ([]spool.Instance, error)
	// StateDirectory is used where the host variables name none.
	StateDirectory string
	Build          string
	// Policy is the file that says what the agent may do on this host, "" for none.
	Policy string
	// Executable runs as worker, section and what the timer starts.
	Executable string
	// Units is the host's service manager; nil, or where it returns nil, there is none.
	Units func(v stage.Vars) *Units
}

func (e *Env) glance(ctx context.Context, v stage.Vars) (*spool.Postfix, error) {
	if e.Glance != nil {
		return e.Glance(ctx, v)
	}
	return e.Postfix(ctx, v)
}

func names(steps []stage.Step) []string {
	all := make([]string, len(steps))
	for i, s := range steps {
		all[i] = s.Stage
	}
	return all
}

// Info is run.json: what was asked for.
type Info struct {
	Run        string         `json:"run"`
	Host       string         `json:"host"`  // the inventory's name of this one, with /INSTANCE but for the default one
	Hosts      []string       `json:"hosts"` // of the whole run, in their order
	Began      time.Time      `json:"began"`
	Who        string         `json:"who"`        // user@laptop
	Controller string         `json:"controller"` // the one that last began or resumed it; only it gives slots
	Reason     string         `json:"reason,omitempty"`
	Name       string         `json:"name"` // of the playbook
	Playbook   string         `json:"playbook"`
	Extra      map[string]any `json:"extra"` // -e, to resolve the playbook again
	Vars       stage.Vars     `json:"vars"`
	Yes        bool           `json:"yes"`   // nobody is there to be asked
	Slots      bool           `json:"slots"` // stop waits for the controller's slot
	MaxStopped int            `json:"max_stopped"`
	MaxFail    int            `json:"max_fail"` // hosts that may fail while changing
	Steps      []stage.Step   `json:"steps"`
}

// IsID says whether a text looks like a run's id; anything else never becomes a path.
func IsID(text string) bool {
	const form = "00000000T000000Z-aaaa"
	if len(text) != len(form) {
		return false
	}
	for i, c := range []byte(text) {
		digit := c >= '0' && c <= '9'
		switch form[i] {
		case '0':
			if !digit {
				return false
			}
		case 'a':
			if !digit && (c < 'a' || c > 'z') {
				return false
			}
		default:
			if c != form[i] {
				return false
			}
		}
	}
	return true
}

// ErrNoRun says that there is no such run on this host.
var ErrNoRun = errors.New("no such run on this host")

// state is where the records of an instance are: those of the default one where
// they are on a host that has no other.
func (e *Env) state(v stage.Vars) string {
	dir := cmp.Or(v.StateDirectory, e.StateDirectory)
	if v.Name() == spool.DefaultInstance {
		return dir
	}
	return filepath.Join(dir, instancesFolder, v.Name())
}

const instancesFolder = "instances"

func (e *Env) dir(v stage.Vars, id string) (string, error) {
	if !IsID(id) {
		return "", fmt.Errorf("run %.40q: a run id looks like 20261123T231500Z-ab12", id)
	}
	if !filepath.IsAbs(e.state(v)) {
		return "", spool.Remedied(fmt.Errorf("state_directory %.200q is no whole path", e.state(v)), "give one from / on")
	}
	if err := spool.ParseInstance(v.Name()); err != nil {
		return "", err
	}
	return filepath.Join(e.state(v), "runs", id), nil
}

func readInfo(dir string) (*Info, error) {
	text, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, spool.Remedied(fmt.Errorf("%s: %w", filepath.Base(dir), ErrNoRun), "spoolsweep runs lists those that there are")
	}
	if err != nil {
		return nil, err
	}
	info := new(Info)
	if err := json.Unmarshal(text, info); err != nil {
		return nil, fmt.Errorf("%s/run.json: %w", dir, err)
	}
	return info, nil
}

func writeInfo(dir string, info *Info) error { return replaceJSON(dir, "run.json", info) }

// replaceJSON replaces a file in one step that survives a power loss.
func replaceJSON(dir, name string, v any) error {
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, name+".new"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Phases of a run on a host.
const (
	Working  = "working"
	Waiting  = "waiting"
	Finished = "finished"
	Failed   = "failed"
	Broken   = "broken" // its process died: resume carries it on
)

// State is where a run stands on this host.
type State struct {
	Run     string         `json:"run"`
	Host    string         `json:"host"`
	Name    string         `json:"name"`
	Began   time.Time      `json:"began"`
	Who     string         `json:"who"`
	Phase   string         `json:"phase"`
	Next    int            `json:"next"` // index of the stage to go on at
	Stages  int            `json:"stages"`
	Ask     *AskRecord     `json:"ask,omitempty"`
	Error   string         `json:"error,omitempty"`
	Remedy  string         `json:"remedy,omitempty"`
	Aside   int64          `json:"aside"`                    // messages that it has set aside and that are still there
	Oldest  int64          `json:"oldest_seconds,omitempty"` // age of the oldest of them; see History
	Down    bool           `json:"down"`                     // it was left between stop and start
	Seen    int64          `json:"seen"`                     // number of its last event
	History []AnswerRecord `json:"history,omitempty"`
}

// Records that this package keeps in the journal.
const (
	kindBegin  = "stage-begin"
	kindEnd    = "stage-end"
	kindAsk    = "ask"
	kindAnswer = "answer"
	kindGoto   = "goto"
	kindAgreed = "agreed"
	// kindResumed says who had the run go on where it stood: nothing depends on it
	// but the account.
	kindResumed = "resumed"
)

type stageRecord struct {
	Index  int    `json:"index"`
	Error  string `json:"error,omitempty"`
	Remedy string `json:"remedy,omitempty"`
	Last   bool   `json:"last,omitempty"` // the plan ends here: there was nothing to do
}

// gotoRecord says where somebody had the run go on. It closes what was asked.
type gotoRecord struct {
	Index int       `json:"index"`
	By    string    `json:"by,omitempty"`
	At    time.Time `json:"at,omitzero"`
}

type resumedRecord struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// agreedRecord says how many messages a putback with these arguments was
// agreed to send. It holds until that stage has ended well: a putback that died
// midway has fewer to send, and is not asked about again.
type agreedRecord struct {
	Args     json.RawMessage `json:"args"`
	Messages int64           `json:"messages"`
}

// AskRecord is a question of a run.
type AskRecord struct {
	Number int             `json:"number"`
	Index  int             `json:"index"`
	Kind   string          `json:"kind"`
	Data   json.RawMessage `json:"data,omitempty"`
}

// AnswerRecord is the one answer to a question.
type AnswerRecord struct {
	Number int       `json:"number"`
	At     time.Time `json:"at"`
	stage.Answer
}

// progress is the run's own part of the journal, replayed.
type progress struct {
	next     int
	failed   string
	remedy   string     // of that
	ask      *AskRecord // open, or answered and not yet used
	answer   *AnswerRecord
	asked    int
	answered []AnswerRecord
	resumed  *gotoRecord // the last one
	agreed   *agreedRecord
	// up is the start of a section whose stages have no end yet: whoever was to tell
	// of them died.
	up *spool.Started
}

func (p *progress) replay(r spool.Record, steps int) error {
	var s stageRecord
	switch r.Kind {
	case kindBegin, kindEnd, kindGoto:
		if err := json.Unmarshal(r.Data, &s); err != nil {
			return err
		}
	}
	switch r.Kind {
	case kindBegin:
		p.up = nil
		p.next, p.failed, p.remedy = s.Index, "", ""
		if p.ask != nil && p.ask.Index != s.Index {
			p.ask, p.answer = nil, nil // else a death in the stage would lose the answer
		}
	case kindEnd:
		p.up = nil
		p.ask, p.answer = nil, nil
		switch {
		case s.Error != "":
			p.failed, p.remedy = s.Error, s.Remedy
			return nil
		case s.Last:
			p.next = steps
		default:
			p.next = s.Index + 1
		}
		p.agreed = nil
	case kindGoto:
		p.next, p.failed, p.remedy, p.ask, p.answer = s.Index, "", "", nil, nil
		p.resumed = new(gotoRecord)
		return json.Unmarshal(r.Data, p.resumed)
	case kindAgreed:
		p.agreed = new(agreedRecord)
		return json.Unmarshal(r.Data, p.agreed)
	case kindAsk:
		p.ask, p.answer = new(AskRecord), nil
		p.asked++
		return json.Unmarshal(r.Data, p.ask)
	case kindAnswer:
		p.answer = new(AnswerRecord)
		if err := json.Unmarshal(r.Data, p.answer); err != nil {
			return err
		}
		told := *p.answer
		if told.Kind == "export" {
			told.Value = "" // the sums of thousands of messages, of which a state says nothing
		}
		p.answered = append(p.answered, told)
	default:
		// After a set-aside that failed it is done again.
		if s, whole := r.Started(); whole && p.failed == "" {
			p.up = s
		}
	}
	return nil
}

func progressOf(records []spool.Record, steps int) (*progress, error) {
	p := new(progress)
	for _, r := range records {
		if err := p.replay(r, steps); err != nil {
			return nil, fmt.Errorf("journal record %d: %w", r.Seq, err)
		}
	}
	return p, nil
}

// StateOf says where a run stands; p may be nil, then what is aside is not counted.
func (e *Env) StateOf(p *spool.Postfix, v stage.Vars, id string) (*State, error) {
	dir, err := e.dir(v, id)
	if err != nil {
		return nil, err
	}
	info, err := readInfo(dir)
	if err != nil {
		return nil, err
	}
	working, records, err := snapshot(dir)
	if err != nil {
		return nil, err
	}
	at, err := progressOf(records, len(info.Steps))
	if err != nil {
		return nil, err
	}
	s := &State{
		Run: info.Run, Host: info.Host, Name: info.Name, Began: info.Began, Who: info.Who,
		Next: at.next, Stages: len(info.Steps), Error: at.failed, Remedy: at.remedy, History: at.answered, Phase: Broken,
	}
	switch {
	case working:
		s.Phase = Working
	case at.ask != nil && at.answer == nil:
		s.Phase, s.Ask = Waiting, at.ask
	case at.failed != "":
		s.Phase = Failed
	case at.next >= len(info.Steps):
		s.Phase = Finished
	}
	if s.Seen, err = events(dir); err != nil {
		return nil, err
	}
	if p == nil {
		return s, nil
	}
	s.Down = spool.LeftDown(records)
	sets, err := spool.AsideOf(p, dir)
	if err != nil {
		return nil, err
	}
	for _, set := range sets {
		if set.Queue == spool.Defer {
			continue
		}
		n, err := spool.CountIn(p, set.Aside)
		if err != nil {
			return nil, err
		}
		s.Aside += n
	}
	return s, nil
}

// snapshot reads a run's journal at one moment: of a run that nobody works on,
// whole. Somebody may begin, or end, while it is read; a worker's folder is
// locked before anything is written, and until all is.
func snapshot(dir string) (working bool, records []spool.Record, err error) {
	for before := -1; ; before = len(records) {
		working = alive(dir)
		if records, err = spool.ReadJournal(dir); err != nil || working || len(records) == before {
			return working, records, err
		}
	}
}

// Runs lists the runs that this host has records of, the newest first. One
// whose record cannot be read is listed as broken, with the reason: it must not
// keep a server from being helped.
func (e *Env) Runs(ctx context.Context, v stage.Vars) ([]*State, error) {
	entries, err := os.ReadDir(filepath.Join(e.state(v), "runs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	var all []*State
	for _, entry := range slices.Backward(entries) {
		if !IsID(entry.Name()) {
			continue
		}
		s, err := e.StateOf(p, v, entry.Name())
		if errors.Is(err, ErrNoRun) {
			continue // died before its first file was written: nothing was done
		}
		if err != nil {
			s = unread(filepath.Join(e.state(v), "runs", entry.Name()), err)
		}
		all = append(all, s)
	}
	return all, nil
}

// unread is what can be told of a run whose record cannot be read; its Stages are 0.
// Of a newer agent's, Down says that Postfix may have been left between stop and start.
func unread(dir string, err error) *State {
	s := &State{Run: filepath.Base(dir), Phase: Broken, Error: "its record cannot be read: " + err.Error()}
	if info, err := readInfo(dir); err == nil {
		s.Host, s.Name, s.Began, s.Who = info.Host, info.Name, info.Began, info.Who
	}
	if alive(dir) {
		s.Phase = Working
	}
	if errors.Is(err, spool.ErrNewer) {
		s.Remedy = "bring spoolsweep on this machine up to that version"
		s.Down = !endedWell(dir)
	}
	return s
}

// historyLimit is how long a history may look for the oldest messages.
const historyLimit = 10 * time.Second

// History is Runs that also looks how old the oldest message is that each run
// has aside.
func (e *Env) History(ctx context.Context, v stage.Vars) ([]*State, error) {
	all, err := e.Runs(ctx, v)
	if err != nil {
		return nil, err
	}
	until := time.Now().Add(historyLimit)
	for _, s := range all {
		if s.Ask != nil {
			s.Ask.Data = nil // of many runs it would not fit into one answer
		}
		if s.Aside == 0 {
			continue
		}
		p, err := e.Postfix(ctx, v)
		if err != nil {
			return nil, err
		}
		dir, err := e.dir(v, s.Run)
		if err != nil {
			return nil, err
		}
		sets, err := spool.AsideOf(p, dir)
		if err != nil {
			return nil, err
		}
		for _, set := range sets {
			if set.Queue == spool.Defer {
				continue
			}
			n, err := spool.CensusIn(p, set.Aside, until)
			if err != nil {
				return nil, err
			}
			s.Oldest = max(s.Oldest, n.Oldest)
		}
	}
	return all, nil
}

// Report is one run on this host: what was asked for, and where it stands. Its
// events so far are passed to each, and not waited for.
func (e *Env) Report(ctx context.Context, v stage.Vars, id string, each func(line []byte) error) (*Report, error) {
	dir, err := e.dir(v, id)
	if err != nil {
		return nil, err
	}
	info, err := readInfo(dir)
	if err != nil {
		return nil, err
	}
	p, err := e.Postfix(ctx, v)
	if err != nil {
		return nil, err
	}
	r := &Report{Info: info}
	if r.State, err = e.StateOf(p, v, id); err != nil {
		return nil, err
	}
	return r, eachEvent(dir, each)
}

// Report is what Report returns.
type Report struct {
	Info  *Info  `json:"info"`
	State *State `json:"state"`
}

// records lists the runs of this host for a stage, the newest first: without
// counting what they have aside. One that cannot be read is passed over; it is
// told by Runs.
func (e *Env) records(p *spool.Postfix, v stage.Vars) ([]stage.Record, error) {
	entries, err := os.ReadDir(filepath.Join(e.state(v), "runs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []stage.Record
	for _, entry := range slices.Backward(entries) {
		if !IsID(entry.Name()) {
			continue
		}
		s, err := e.StateOf(nil, v, entry.Name())
		if errors.Is(err, ErrNoRun) {
			continue
		}
		dir := filepath.Join(e.state(v), "runs", entry.Name())
		r := stage.Record{Run: entry.Name(), Dir: dir, Last: func(name string, into any) bool { return last(dir, name, into) }}
		if err == nil {
			r.Phase, r.Began, r.Finished = s.Phase, s.Began, s.Phase == Finished
			r.Hands = func() ([]stage.Hand, error) { return hands(dir, s.Who) }
			if s.Ask != nil {
				r.Asks = s.Ask.Kind
			}
			r.Sets, err = spool.AsideOf(p, dir)
		}
		if err != nil {
			s := unread(dir, err)
			r.Phase, r.Began, r.Unread = s.Phase, s.Began, err
		}
		all = append(all, r)
	}
	return all, nil
}

// alive says whether a worker or section of the run lives: both hold a lock on
// the run's folder.
func alive(dir string) bool {
	d, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	return errors.Is(unix.Flock(int(d.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
