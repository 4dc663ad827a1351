package main

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/cmd/spoolsweep/artifacts"
	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// record is a run as it was imported from elsewhere, and is kept on this controller.
// The hosts' own records are the truth, which this does not stand in for where they
// can be asked.
type record struct {
	Version  int       `json:"spoolsweep_record"`
	Run      string    `json:"run"`
	Name     string    `json:"name"`
	Idents   []string  `json:"idents"` // of ansible-runner's jobs
	Imported time.Time `json:"imported"`
	By       string    `json:"by"`
	// Silent are hosts of the jobs that tell nothing.
	Silent map[string]artifacts.Silence `json:"silent,omitempty"`

	hosts []*artifacts.Host // by label
}

const (
	recordVersion = 1
	recordName    = "run.json"
	recordEvents  = "events.jsonl.gz"
)

// recordsFolder is where the records of runs are kept.
func recordsFolder() (string, error) {
	dir, err := stateHome()
	return filepath.Join(dir, "spoolsweep", "runs"), err
}

// lockRecords keeps other imports waiting. The lock ends with the program, if nobody
// opens it before.
func lockRecords() (unlock func() error, err error) {
	dir, err := recordsFolder()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return f.Close, nil
}

// readRecord reads the record of a run, nil if there is none.
func readRecord(id string) (*record, error) {
	dir, err := recordsFolder()
	if err != nil || !run.IsID(id) {
		return nil, err
	}
	dir = filepath.Join(dir, id)
	r := &record{Version: recordVersion, Run: id, Silent: map[string]artifacts.Silence{}}
	text, err := os.ReadFile(filepath.Join(dir, recordName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Without it the folder is what an import has left that was killed.
		if _, err := os.Stat(filepath.Join(dir, recordEvents)); err != nil {
			return nil, nil
		}
	case err != nil:
		return nil, err
	default:
		r.Version = 0
		if err := json.Unmarshal(text, r); err != nil || r.Version != recordVersion || r.Run != id {
			return nil, fmt.Errorf("%s is no record of run %s that this spoolsweep has written: move its folder away, or name another XDG_STATE_HOME", filepath.Join(dir, recordName), id)
		}
	}
	if err := r.readEvents(filepath.Join(dir, recordEvents)); err != nil {
		return nil, fmt.Errorf("%w (move the folder away, and import the run again)", err)
	}
	return r, nil
}

func (r *record) readEvents(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	in := bufio.NewReader(z)
	for n := 1; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		var e wire.Event
		if err == nil {
			err = json.Unmarshal(line, &e)
		}
		if err == nil && e.Run != r.Run {
			err = fmt.Errorf("an event of run %.60q", e.Run)
		}
		if err == nil {
			_, err = r.take(e)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
}

// take takes in an event of any host. It says whether that is new.
func (r *record) take(e wire.Event) (bool, error) {
	h, err := r.host(e.Host, e.Instance)
	if err != nil {
		return false, err
	}
	return h.Take(e)
}

// host is the one of that name, which is added if it is not there.
func (r *record) host(name, instance string) (*artifacts.Host, error) {
	h, err := artifacts.NewHost(name, instance)
	if err != nil {
		return nil, err
	}
	i, found := slices.BinarySearchFunc(r.hosts, h.Label(), func(h *artifacts.Host, label string) int { return strings.Compare(h.Label(), label) })
	if found {
		return r.hosts[i], nil
	}
	r.hosts = slices.Insert(r.hosts, i, h)
	return h, nil
}

// add takes in what was read of artifacts, and says whether any of it is new.
func (r *record) add(of *artifacts.Run) (events int, news bool, err error) {
	for _, from := range of.Hosts {
		before := len(r.hosts)
		to, err := r.host(from.Name, from.Instance)
		if err != nil {
			return 0, false, err
		}
		news = news || len(r.hosts) > before
		for _, e := range from.Events() {
			added, err := to.Take(e)
			if errors.Is(err, artifacts.ErrOther) {
				return 0, false, fmt.Errorf("run %s is recorded here already, and of %s otherwise than these artifacts have it: %w; the record was left as it was", r.Run, from.Label(), err)
			}
			if err != nil {
				return 0, false, fmt.Errorf("%s: %w", from.Label(), err)
			}
			if added {
				events++
			}
		}
	}
	was := maps.Clone(r.Silent)
	maps.Copy(r.Silent, of.Silent)
	for _, h := range r.hosts {
		delete(r.Silent, h.Name)
	}
	if !maps.Equal(was, r.Silent) {
		news = true
	}
	for _, ident := range of.Idents {
		if !slices.Contains(r.Idents, ident) {
			r.Idents, news = append(r.Idents, ident), true
		}
	}
	if r.Name == "" {
		r.Name = of.Name
	}
	return events, news || events > 0, nil
}

// write keeps the record. The events come first: a record that was cut short before
// the rest is completed by the next import.
func (r *record) write() error {
	dir, err := recordsFolder()
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, r.Run)
	var packed strings.Builder
	z := gzip.NewWriter(&packed)
	e := json.NewEncoder(z)
	for _, h := range r.hosts {
		for _, event := range h.Events() {
			if err := e.Encode(event); err != nil {
				return err
			}
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, recordEvents), packed.String()); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, recordName), string(text)+"\n")
}

// recordedRuns are the ids of all runs that are recorded here, the newest first.
func recordedRuns() ([]string, error) {
	dir, err := recordsFolder()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range slices.Backward(entries) {
		if run.IsID(e.Name()) {
			ids = append(ids, e.Name())
		}
	}
	return ids, err
}

// labels are all hosts of the run, those too that tell nothing.
func (r *record) labels() []string {
	all := slices.Collect(maps.Keys(r.Silent))
	for _, h := range r.hosts {
		all = append(all, h.Label())
	}
	slices.Sort(all)
	return all
}

// told is when the last of it happened.
func (r *record) told() time.Time {
	last := time.Time{}
	for _, h := range r.hosts {
		if all := h.Events(); len(all) > 0 && all[len(all)-1].Time.After(last) {
			last = all[len(all)-1].Time
		}
	}
	if last.IsZero() {
		return r.Imported
	}
	return last
}

// recordedHost is a host's part of a record.
type recordedHost struct {
	*artifacts.Host
	of *record
}

// untold is the error of a host that has not told to the end.
type untold struct {
	status string
	error
	remedy string
}

// report is what the host would say of the run, as far as its events tell, which each
// is given.
func (h *recordedHost) report(each func(wire.Event)) (*run.Report, error) {
	switch silence, is := h.of.Silent[h.Name]; {
	case is && silence.Unreachable:
		return nil, &untold{show.Unreachable, fmt.Errorf("it was not reached by Ansible: %s", show.Clean(silence.Why)), "if it had begun, it goes on there by itself: spoolsweep attach " + h.of.Run}
	case is:
		return nil, &untold{show.Failed, fmt.Errorf("no run was begun there: %s", show.Clean(silence.Why)), "mend that, and have the job done again there"}
	}
	info := &run.Info{Run: h.of.Run, Host: h.Label(), Hosts: h.of.labels(), Who: strings.TrimSpace("ansible-runner " + strings.Join(h.of.Idents, ", ")), Name: h.of.Name, Extra: map[string]any{}}
	at := &run.State{Run: info.Run, Host: info.Host, Name: info.Name, Who: info.Who}
	aside := map[string]int64{}
	past := &show.Host{}
	rests := false // it has ended, or waits, after all that is told
	all := h.Events()
	begun := slices.ContainsFunc(all, func(e wire.Event) bool { return e.Seq > 0 })
	for _, e := range all {
		if e.Seq == 0 && e.Kind == wire.End && begun {
			if e = attempt(e); e.Kind == "" {
				continue
			}
		}
		each(e)
		past.Event(e)
		if info.Began.IsZero() {
			info.Began = e.Time
		}
		if e.Stage == "state" && e.Index < 0 { // where it stood when a task went on with it
			var then run.State
			if decode(e.Data, &then) && then.Run == info.Run {
				info.Name, info.Who, info.Began, at.Aside = cmp.Or(then.Name, info.Name), cmp.Or(then.Who, info.Who), then.Began, max(0, then.Aside)
			}
		}
		at.Seen = max(at.Seen, e.Seq)
		for len(info.Steps) <= e.Index {
			info.Steps = append(info.Steps, stage.Step{})
		}
		if e.Index >= 0 {
			info.Steps[e.Index].Stage, at.Next = e.Stage, e.Index
		}
		switch e.Kind {
		case wire.Begin:
			rests, at.Ask = false, nil
			at.Down = at.Down || e.Stage == "stop"
		case wire.Ask:
			ask := new(run.AskRecord)
			if decode(e.Data, ask) {
				at.Ask = ask
			}
		case wire.Result:
			at.Down = at.Down && e.Stage != "start"
			at.Aside = asideAfter(aside, e, at.Aside)
		case wire.End:
			rests = rests || e.Index < 0
		}
	}
	at.Name, at.Who, at.Began, at.Stages = info.Name, info.Who, info.Began, len(info.Steps)
	if !rests {
		return nil, &untold{show.Failed, fmt.Errorf("what was imported of it ends before the run did, %s", endsWith(past)), "it goes on there by itself: spoolsweep attach " + info.Run}
	}
	switch past.Status {
	case show.OK:
		at.Phase, at.Next = run.Finished, len(info.Steps)
	case show.Waiting:
		at.Phase = run.Waiting
	default:
		at.Phase = run.Failed
	}
	if past.Error != nil {
		at.Error, at.Remedy = past.Error.Message, past.Error.Remedy
	}
	if at.Phase != run.Waiting {
		at.Ask = nil
	}
	at.Down = at.Down && at.Phase == run.Failed
	return &run.Report{Info: info, State: at}, nil
}

// attempt is what the end of a task says that did not get the run to go on: it is not how
// the run has ended.
func attempt(e wire.Event) wire.Event {
	var end run.Ended
	if !decode(e.Data, &end) || end.Error == "" {
		return wire.Event{}
	}
	text, err := json.Marshal(map[string]string{"message": "it did not go on: " + end.Error})
	if err != nil {
		return wire.Event{}
	}
	e.Kind, e.Data = wire.Warn, text
	return e
}

func endsWith(h *show.Host) string {
	if n := len(h.Stages); n > 0 {
		return "with its stage " + show.Clean(h.Stages[n-1].Stage)
	}
	return "with nothing told"
}

// asideAfter is how many messages are aside after an event.
func asideAfter(sets map[string]int64, e wire.Event, before int64) int64 {
	switch e.Stage {
	case "set-aside":
		var a stage.Aside
		if !decode(e.Data, &a) {
			return before
		}
		for q, set := range a.Queues {
			if q != "defer" { // logs, and no mail
				before += max(0, set.Messages) - sets[set.To]
				sets[set.To] = max(0, set.Messages)
			}
		}
		return before
	case "restore", "putback", "purge":
		var left struct{ Left int64 }
		if !decode(e.Data, &left) {
			return before
		}
		clear(sets)
		return max(0, left.Left)
	}
	return before
}
