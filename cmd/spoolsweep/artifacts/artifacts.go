// Package artifacts reads what ansible-runner leaves of a job, on one machine or
// behind its transmit, worker and process: out of the results of the collection
// spoolsweep.postfix it takes the events of the runs that were carried out there.
//
// [Read] is all of it. What stands in artifacts comes from hosts, by way of machines
// between: it is bounded, and checked as the events of a link are. A file that cannot
// be read whole is an error, since what it would have told is missing then.
package artifacts

import (
	"bytes"
	"cmp"
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

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/inventory"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
)

// modules is how the names of the collection's modules begin.
const modules = "spoolsweep.postfix."

// What is read, at most.
const (
	maxFile = 64 << 20 // of one job event
	maxJobs = 10_000
	maxWhy  = 500 // bytes of why a host tells nothing
	maxName = 200 // bytes of a name
)

// Found is what the artifacts tell.
type Found struct {
	Runs []*Run // by id
	Jobs int
	// Hidden are hosts and tasks whose results no_log keeps to itself.
	Hidden []string
}

// Run is one run, over all hosts that the artifacts tell of.
type Run struct {
	ID     string
	Name   string   // of the role that had it done, else of the play
	Idents []string // of the jobs
	Hosts  []*Host  // by label
	// Silent are hosts of its jobs that tell nothing of it.
	Silent map[string]Silence
}

// Silence is why a host tells nothing of a run.
type Silence struct {
	Unreachable bool   `json:"unreachable"` // else what was to be done there has failed before
	Why         string `json:"why"`
}

// Read reads the artifacts of jobs: each folder is that of one job, which holds
// job_events, or has such folders in it, or below its artifacts.
func Read(dirs ...string) (*Found, error) {
	r := &reader{runs: map[string]*Run{}, hosts: map[string]map[string]*Host{}}
	var jobs []string
	for _, dir := range dirs {
		found, err := jobsIn(dir)
		if err != nil {
			return nil, err
		}
		jobs = append(jobs, found...)
	}
	slices.Sort(jobs)
	if jobs = slices.Compact(jobs); len(jobs) > maxJobs {
		return nil, fmt.Errorf("%d jobs are more than are read at once, which is %d", len(jobs), maxJobs)
	}
	for _, job := range jobs {
		if err := r.job(job); err != nil {
			return nil, err
		}
	}
	return r.found(len(jobs)), nil
}

// jobEvents is the folder of a job that is read.
const jobEvents = "job_events"

// jobsIn are the folders job_events that are meant by dir.
func jobsIn(dir string) ([]string, error) {
	if _, err := os.ReadDir(dir); err != nil {
		return nil, err
	}
	if whole, err := filepath.Abs(dir); err == nil && filepath.Base(whole) == jobEvents {
		return []string{whole}, nil
	}
	var jobs []string
	for _, top := range []string{dir, filepath.Join(dir, "artifacts")} {
		entries, err := os.ReadDir(top)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		names := []string{"."}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		for _, name := range names {
			job, err := filepath.Abs(filepath.Join(top, name, jobEvents))
			if info, not := os.Stat(job); err == nil && not == nil && info.IsDir() {
				jobs = append(jobs, job)
			}
		}
	}
	if len(jobs) == 0 {
		return nil, fmt.Errorf("%s: no %s is in it: what is wanted is the folder of a job, such as artifacts/IDENT of ansible-runner's private_data_dir", dir, jobEvents)
	}
	return jobs, nil
}

// reader gathers what the files tell.
type reader struct {
	runs   map[string]*Run
	hosts  map[string]map[string]*Host // by run and label
	hidden []string
}

// jobEvent is what is read of one file.
type jobEvent struct {
	Event string    `json:"event"`
	Ident string    `json:"runner_ident"`
	Data  eventData `json:"event_data"`
}

type eventData struct {
	Host     string          `json:"host"`
	Play     string          `json:"play"`
	Role     string          `json:"role"`
	Task     string          `json:"task"`
	Action   string          `json:"task_action"`
	Resolved string          `json:"resolved_action"`
	Result   json.RawMessage `json:"res"`
}

// ours says that a module of the collection was called.
func (d *eventData) ours() bool {
	return strings.HasPrefix(d.Resolved, modules) || strings.HasPrefix(d.Action, modules)
}

// result is what a module returns, or a loop of it.
type result struct {
	Run      string            `json:"run"`
	Instance string            `json:"instance"`
	Events   []json.RawMessage `json:"events"`
	Results  json.RawMessage   `json:"results"` // of a loop a list; else of each stage
	Message  json.RawMessage   `json:"msg"`
	Censored json.RawMessage   `json:"censored"`
}

// job reads the events of one job.
func (r *reader) job(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	j := &job{reader: r, runs: map[*Run]bool{}, silent: map[string]Silence{}}
	for _, e := range entries {
		name := e.Name()
		// A partial one is what ansible-runner had not finished: the host's own record
		// has what it would tell.
		if !strings.HasSuffix(name, ".json") || strings.HasSuffix(name, "-partial.json") || !e.Type().IsRegular() {
			continue
		}
		text, err := readFile(root, name)
		if err == nil {
			err = j.file(text)
		}
		if err != nil {
			return &FileError{File: filepath.Join(dir, name), Line: lineOf(text, err), Err: err}
		}
	}
	for of := range j.runs {
		maps.Copy(of.Silent, j.silent)
	}
	return nil
}

func readFile(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("it is larger than %d MiB, as no event of a job is", maxFile>>20)
	}
	return text, err
}

// FileError is what is wrong with a file of the artifacts.
type FileError struct {
	File string
	Line int
	Err  error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s:%d: %v (fetch the artifacts again; without that file, moved away, the rest is imported)", e.File, e.Line, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// at is an error about a part of a text.
type at struct {
	error
	part []byte
}

func (e *at) Unwrap() error { return e.error }

// lineOf is the line of a text that an error is about.
func lineOf(text []byte, err error) int {
	offset := int64(0)
	var part *at
	if errors.As(err, &part) {
		offset = max(0, int64(bytes.Index(text, part.part)))
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset += syntax.Offset
	case errors.As(err, &kind):
		offset += kind.Offset
	}
	return 1 + bytes.Count(text[:min(offset, int64(len(text)))], []byte("\n"))
}

// job is what one job has told so far.
type job struct {
	*reader
	runs   map[*Run]bool
	silent map[string]Silence
}

// file takes in one event of a job.
func (j *job) file(text []byte) error {
	var e jobEvent
	if len(bytes.TrimSpace(text)) == 0 {
		return errors.New("it is empty")
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return err
	}
	d := &e.Data
	unreachable := e.Event == "runner_on_unreachable"
	switch e.Event {
	case "runner_on_ok", "runner_on_failed", "runner_item_on_ok", "runner_item_on_failed":
	default:
		if !unreachable {
			return nil
		}
	}
	if !unreachable && !d.ours() {
		return nil
	}
	if err := inventory.CheckName(d.Host); err != nil {
		return fmt.Errorf("host %q: %w", d.Host, err)
	}
	if unreachable {
		var of result
		_ = json.Unmarshal(d.Result, &of) // else it tells no reason
		j.silent[d.Host] = Silence{true, of.why()}
		return nil
	}
	return j.result(&e, d.Result, true)
}

// why is the message of a result.
func (r *result) why() string {
	var why string
	_ = json.Unmarshal(r.Message, &why) // else it tells no reason
	return short(why, maxWhy)
}

func short(text string, max int) string { return strings.ToValidUTF8(text[:min(len(text), max)], "") }

// tells says whether a result tells of a run that there is, or that has failed before
// there was one. The others are of a check, or found nothing to do.
func (r *result) tells() bool {
	for _, raw := range r.Events {
		var e struct {
			Seq  json.RawMessage `json:"seq"`
			Kind string          `json:"event"`
			Data json.RawMessage `json:"data"`
		}
		var end struct{ Status string }
		switch {
		case json.Unmarshal(raw, &e) != nil:
			return true // which is refused then
		case e.Kind == wire.Would:
			return false
		case string(e.Seq) != "0":
			return true
		case e.Kind == wire.End && json.Unmarshal(e.Data, &end) == nil && end.Status == show.Failed:
			return true
		}
	}
	return false
}

// result takes in what a module returned. loop says that it may be those of a loop.
func (j *job) result(e *jobEvent, text []byte, loop bool) error {
	var of result
	if len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, &of); err != nil {
		return &at{fmt.Errorf("the result of %s on %s: %w", show.Clean(e.Data.Task), e.Data.Host, err), text}
	}
	switch {
	case loop && len(of.Results) > 0 && of.Results[0] == '[':
		var each []json.RawMessage
		if err := json.Unmarshal(of.Results, &each); err != nil {
			return &at{err, of.Results}
		}
		for _, one := range each {
			if err := j.result(e, one, false); err != nil {
				return err
			}
		}
		return nil
	case of.Run == "" && len(of.Censored) > 0:
		j.hidden = append(j.hidden, e.Data.Host+": "+e.Data.Task)
		return nil
	case of.Run == "":
		if strings.HasSuffix(e.Event, "_failed") {
			j.silent[e.Data.Host] = Silence{Why: of.why()}
		}
		return nil
	case !of.tells():
		return nil
	}
	h, err := j.host(e, &of)
	if err != nil {
		return &at{err, text}
	}
	for _, raw := range of.Events {
		if err := h.take(of.Run, raw); err != nil {
			return &at{fmt.Errorf("an event of run %s on %s: %w", of.Run, h.Label(), err), raw}
		}
	}
	return nil
}

// host is where the events of a result belong.
func (j *job) host(e *jobEvent, of *result) (*Host, error) {
	if !run.IsID(of.Run) {
		return nil, fmt.Errorf("run %.60q is no id of a run", of.Run)
	}
	to := j.reader.runs[of.Run]
	if to == nil {
		to = &Run{ID: of.Run, Name: short(cmp.Or(e.Data.Role, e.Data.Play), maxName), Silent: map[string]Silence{}}
		j.reader.runs[of.Run], j.hosts[of.Run] = to, map[string]*Host{}
	}
	if ident := short(e.Ident, maxName); !j.runs[to] && ident != "" && !slices.Contains(to.Idents, ident) {
		to.Idents = append(to.Idents, ident)
	}
	j.runs[to] = true
	h, err := NewHost(e.Data.Host, of.Instance)
	if err != nil {
		return nil, err
	}
	if known := j.hosts[of.Run][h.Label()]; known != nil {
		return known, nil
	}
	j.hosts[of.Run][h.Label()] = h
	return h, nil
}

// found is what was read, in order.
func (r *reader) found(jobs int) *Found {
	f := &Found{Jobs: jobs, Hidden: r.hidden}
	slices.Sort(f.Hidden)
	f.Hidden = slices.Compact(f.Hidden)
	for _, id := range slices.Sorted(maps.Keys(r.runs)) {
		of := r.runs[id]
		for _, label := range slices.Sorted(maps.Keys(r.hosts[id])) {
			h := r.hosts[id][label]
			of.Hosts = append(of.Hosts, h)
			delete(of.Silent, h.Name) // at one task, and reached at another
		}
		f.Runs = append(f.Runs, of)
	}
	return f
}

// NewHost is a host without events. The instance "" is the default one.
func NewHost(name, instance string) (*Host, error) {
	h := &Host{Name: name, Instance: cmp.Or(instance, spool.DefaultInstance), numbered: map[int64]wire.Event{}}
	if err := inventory.CheckName(name); err != nil {
		return nil, fmt.Errorf("host %q: %w", name, err)
	}
	return h, spool.ParseInstance(h.Instance)
}
