package run

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// A name that is no run id never becomes a path, whoever sends it.
func TestRunIDs(t *testing.T) {
	e := environment()
	top := t.TempDir()
	v := stage.Vars{StateDirectory: filepath.Join(top, "state"), ConfigDirectory: "/nonexistent"}
	ctx := t.Context()
	for _, id := range []string{
		"", ".", "..", "../..", "/etc", "20261123T231500Z-ab12/..", "20261123T231500Z-ab12/../../..", "20261123T231500Z-AB12",
		"20261123T231500Z-ab1", "20261123T231500Z-ab12\n", " 20261123T231500Z-ab12", "20261123T231500Z-ab12\x00", strings.Repeat("a", 1000),
	} {
		none := func([]byte) error { return nil }
		_, errInfo := e.Info(v, id)
		_, errState := e.StateOf(nil, v, id)
		_, errPreview := e.Preview(ctx, v, id)
		for what, err := range map[string]error{
			"begin":  e.Begin(ctx, &Info{Run: id, Vars: v, Steps: plan(rules)}),
			"resume": e.Resume(ctx, &ResumeRequest{Run: id, Vars: v}),
			"events": e.Events(ctx, v, id, 1, none),
			"info":   errInfo, "state": errState, "preview": errPreview,
			"worker": e.Worker(v.StateDirectory, id),
		} {
			if err == nil || !strings.Contains(err.Error(), "a run id looks like") || len(err.Error()) > 250 {
				t.Errorf("%s of %.40q: got %v", what, id, err)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(top, "state")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a state directory was made: %v", err)
	}
	if _, err := e.Info(v, runID); !errors.Is(err, ErrNoRun) {
		t.Errorf("a run that is not there: got %v, want %v", err, ErrNoRun)
	}
	v.StateDirectory = "state"
	if _, err := e.Info(v, runID); err == nil || !strings.Contains(err.Error(), "whole path") {
		t.Errorf("a relative state directory: got %v", err)
	}
}

func TestCheckSteps(t *testing.T) {
	for text, want := range map[string]string{
		`[]`:                                 "the plan has no stages",
		`[{"stage":"suspect"}]`:              `stage 1: this agent knows no "suspect"`,
		`[{"stage":"count","args":{"x":1}}]`: "stage 1: count: json: unknown field",
		`[{"stage":"count"},{"stage":"restore"}]`: "restore needs a stage before it",
	} {
		var steps []stage.Step
		if err := json.Unmarshal([]byte(text), &steps); err != nil {
			t.Fatal(err)
		}
		if err := checkSteps(steps); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

// stopped is a practice host that does not run, for what needs no Postfix.
func stopped(t *testing.T) (*Env, *practice.Host, stage.Vars) {
	t.Helper()
	top, err := os.MkdirTemp("", "run")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, "chavez")
	if err := practice.Make(dir, "chavez", practice.Options{}); err != nil {
		t.Fatal(err)
	}
	h, err := practice.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return environment(), h, stage.Vars{ConfigDirectory: dir, StateDirectory: h.State(), QueueWarn: 50}
}

// Where others can write decides nobody what root does.
func TestStateDirectory(t *testing.T) {
	e, h, v := stopped(t)
	e.Executable = "/bin/false"
	info := &Info{Run: runID, Vars: v, Steps: plan(rules)}
	if err := os.Chmod(h.State(), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := e.Begin(t.Context(), info); err == nil || !strings.Contains(err.Error(), h.State()) || !strings.Contains(spool.RemedyOf(err), "chmod 700") {
		t.Errorf("a state directory open to all: got %v", err)
	}
	if err := os.Chmod(h.State(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(h.State(), "runs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := e.Begin(t.Context(), info); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"runs", "runs/" + runID} {
		if s, err := os.Stat(filepath.Join(h.State(), name)); err != nil || s.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want 0700", name, s.Mode(), err)
		}
	}
}

// A record that is damaged keeps nobody from helping the server: it is listed,
// with the reason, and its own run refuses.
func TestDamagedRecord(t *testing.T) {
	e, h, v := stopped(t)
	for name, spoil := range map[string]func(dir string) error{
		"run.json, empty":  func(dir string) error { return os.WriteFile(dir+"/run.json", nil, 0o600) },
		"run.json, torn":   func(dir string) error { return os.Truncate(dir+"/run.json", 40) },
		"journal, another": func(dir string) error { return os.WriteFile(dir+"/journal", []byte("hello\n"), 0o600) },
		"journal, a middle": func(dir string) error {
			return os.WriteFile(dir+"/journal", []byte("spoolsweep-journal 1 x\n1 a {} 00000000\n2 b {} 00000000\n"), 0o600)
		},
	} {
		dir := filepath.Join(h.State(), "runs", runID)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := writeInfo(dir, &Info{Run: runID, Vars: v, Steps: plan(rules)}); err != nil {
			t.Fatal(err)
		}
		if err := spoil(dir); err != nil {
			t.Fatal(err)
		}
		file, _, _ := strings.Cut(name, ",")
		runs, err := e.Runs(t.Context(), v)
		if err != nil || len(runs) != 1 || runs[0].Phase != Broken || !strings.Contains(runs[0].Error, dir+"/"+file) {
			t.Errorf("%s: runs %+v, %v", name, runs, err)
		}
		if err := e.Resume(t.Context(), &ResumeRequest{Run: runID, Vars: v}); err == nil || !strings.Contains(err.Error(), dir+"/"+file) {
			t.Errorf("%s: resume: got %v, want an error that names it", name, err)
		}
		f, err := e.Preflight(t.Context(), v, plan(rules))
		if err != nil || len(f.Problems) > 0 || !strings.Contains(strings.Join(f.Notes, "\n"), file) {
			t.Errorf("%s: preflight %+v, %v", name, f, err)
		}
	}
	// A folder that died before its first file is nothing at all.
	if err := os.RemoveAll(filepath.Join(h.State(), "runs", runID)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.State(), "runs", runID), 0o700); err != nil {
		t.Fatal(err)
	}
	if runs, err := e.Runs(t.Context(), v); err != nil || len(runs) != 0 {
		t.Errorf("an empty folder: %+v, %v", runs, err)
	}
}

// What a newer agent's run has aside is that one's to give back, and nobody else's.
// Where it has ended, or waits, another may begin; where it may have been left between
// stop and start, not.
func TestNewerRun(t *testing.T) {
	h := newHost(t, 200)
	h.begin(plan(`{}`))
	h.rest(Waiting)
	dir := filepath.Join(h.State(), "runs", runID)
	text, err := os.ReadFile(dir + "/journal")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n")
	if err := os.WriteFile(dir+"/journal", []byte("spoolsweep-journal 9 later\n"+rest), 0o600); err != nil {
		t.Fatal(err)
	}
	before := h.audited()
	const newer = "written by a newer agent"
	look := func() (*State, *Preflight) {
		t.Helper()
		runs, err := h.Runs(t.Context(), h.vars)
		if err != nil || len(runs) != 1 || runs[0].Began.IsZero() || !strings.Contains(runs[0].Error, newer) {
			t.Fatalf("runs %+v, %v", runs, err)
		}
		f, err := h.Preflight(t.Context(), h.vars, plan(rules))
		if err != nil {
			t.Fatal(err)
		}
		return runs[0], f
	}
	if s, f := look(); s.Down || len(f.Problems) > 0 || !strings.Contains(strings.Join(f.Notes, "\n"), newer) {
		t.Errorf("it waits: %+v, %+v", s, f)
	}
	counted, err := h.Look(t.Context(), h.vars, stage.Step{Stage: "count"}, "", func(string, any) {})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for _, l := range counted.Lines() {
		told = append(told, l.Text)
	}
	if all := strings.Join(told, "\n"); !strings.Contains(all, newer) || strings.Contains(all, "--adopt") || strings.Contains(all, "106") {
		t.Errorf("count tells\n%s", all)
	}

	events, err := os.ReadFile(dir + "/events.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(events), "\n"), "\n")
	if err := os.WriteFile(dir+"/events.jsonl", []byte(strings.Join(lines[:len(lines)-1], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	s, f := look()
	if !s.Down || len(f.Problems) != 1 || !strings.Contains(f.Problems[0].Message, "may have been left between stop and start") || !strings.Contains(f.Problems[0].Remedy, "up to that version") {
		t.Errorf("it was cut off: %+v, %+v", s, f)
	}
	other := h.info(plan(rules))
	other.Run = "20990101T000000Z-abcd"
	if err := h.Begin(t.Context(), other); err == nil || !strings.Contains(err.Error(), runID) || spool.RemedyOf(err) != f.Problems[0].Remedy {
		t.Errorf("another begins: %v", err)
	}
	if now := h.audited(); !cmp.Equal(now, before) {
		t.Errorf("mail was moved: %s", cmp.Diff(before, now))
	}
}

// A torn tail of the journal is what any death may leave: the run stands where
// its last whole line says.
func TestTornJournal(t *testing.T) {
	_, h, v := stopped(t)
	e := environment()
	dir := filepath.Join(h.State(), "runs", runID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeInfo(dir, &Info{Run: runID, Vars: v, Steps: plan(rules)}); err != nil {
		t.Fatal(err)
	}
	j, _, err := spool.OpenJournal(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if err := j.Write(kindEnd, stageRecord{Index: i}); err != nil {
			t.Fatal(err)
		}
	}
	j.Close()
	whole, err := os.ReadFile(dir + "/journal")
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(dir+"/journal", whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := e.StateOf(nil, v, runID)
		want := max(0, strings.Count(string(whole[:cut]), "\n")-1)
		if err != nil || s.Next != want || s.Phase != Broken {
			t.Fatalf("cut at %d: %+v, %v, want next %d", cut, s, err, want)
		}
	}
}

// Look does what changes nothing, and leaves nothing.
func TestLook(t *testing.T) {
	e, h, v := stopped(t)
	if _, err := h.SubmitAll(practice.Incident("chavez", "spam-account", 100, 7)); err != nil {
		t.Fatal(err)
	}
	look := func(name, args, aside string) (stage.Result, error) {
		return e.Look(t.Context(), v, stage.Step{Stage: name, Args: json.RawMessage(args)}, aside, func(string, any) {})
	}
	r, err := look("classify", `{"spam":`+rules+`}`, "")
	if err != nil {
		t.Fatal(err)
	}
	if c := r.(*stage.Classified); c.Messages != 100 || c.Spam != 75 || c.Ham != 25 || c.List != "" {
		t.Errorf("the live queues: %+v", c)
	}
	if r, err = look("classify", `{"spam":`+rules+`,"live":["hold"]}`, ""); err != nil || r.(*stage.Classified).Messages != 0 {
		t.Errorf("hold: %+v, %v", r, err)
	}
	if r, err = look("count", ``, ""); err != nil || r.(*stage.Counts).Messages != 100 {
		t.Errorf("count: %+v, %v", r, err)
	}
	for _, tt := range [][4]string{
		{"stop", "", "", "none that only looks"},
		{"restore", "", "", "none that only looks"},
		{"putback", "", "", "none that only looks"},
		{"confirm", "", "", "none that only looks"}, // there is no run to confirm
		{"nothing", "", "", "none that only looks"},
		{"classify", `{"spam":{"sendr":"x"}}`, "", "classify"},
		{"classify", `{"live":["../../etc"]}`, "", "etc"},
		{"classify", `{"live":["incoming.spamfull"]}`, "", "incoming.spamfull"},
		{"classify", `{}`, runID, "no such run"},
		{"classify", `{}`, "../" + runID, "a run id looks like"},
	} {
		if _, err := look(tt[0], tt[1], tt[2]); err == nil || !strings.Contains(err.Error(), tt[3]) {
			t.Errorf("look %s %s %s: got %v, want %s", tt[0], tt[1], tt[2], err, tt[3])
		}
	}
	if left, err := os.ReadDir(h.State()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestMainRoles(t *testing.T) {
	if got := environment().Main("nonsense", t.TempDir(), runID); got != 1 {
		t.Errorf("an unknown role: got %d, want 1", got)
	}
}

// Preflight changes nothing, and names what would go aside.
func TestPreflight(t *testing.T) {
	h := newHost(t, 300)
	// While the queue manager takes them in, a message may be counted twice.
	h.await("an empty incoming", func() bool {
		left, err := os.ReadDir(h.Spool("incoming"))
		return err == nil && len(left) == 0
	})
	f, err := h.Preflight(t.Context(), h.vars, plan(rules))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Problems) > 0 || f.Counts.Postfix != "running" || len(f.Aside) != 3 || f.Counts.Messages != 300 {
		t.Errorf("preflight: %+v", f)
	}
	for _, q := range f.Live {
		if n := f.Counts.Queues[q].Messages; n > 50 {
			t.Errorf("%s stays live with %d messages", q, n)
		}
	}
	if left, err := os.ReadDir(h.State()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := h.Preflight(t.Context(), h.vars, plan(rules)[2:]); err == nil {
		t.Error("a plan without stop: got nil, want an error")
	}
	gone := *h.Env
	gone.Postfix = func(context.Context, stage.Vars) (*spool.Postfix, error) { return nil, errors.New("no postconf here") }
	if _, err := gone.Preflight(t.Context(), h.vars, plan(rules)); err == nil || err.Error() != "no postconf here" {
		t.Errorf("without Postfix: got %v", err)
	}
}

// At, where a plan goes on, is never in or before stop..start, nor outside.
func TestResumeAt(t *testing.T) {
	e, h, v := stopped(t)
	e.Executable = "/bin/false"
	if err := e.Begin(t.Context(), &Info{Run: runID, Vars: v, Steps: plan(rules)}); err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{-1, 1, 2, 3, 8, 1 << 40} {
		err := e.Resume(t.Context(), &ResumeRequest{Run: runID, Vars: v, At: &at})
		if err == nil || !strings.Contains(err.Error(), "cannot go on at stage") {
			t.Errorf("at %d: got %v", at, err)
		}
	}
	// Behind the section: not back before it.
	for i := range 5 {
		(&host{Host: h, t: t}).journal(kindEnd, stageRecord{Index: i})
	}
	at := 0
	if err := e.Resume(t.Context(), &ResumeRequest{Run: runID, Vars: v, At: &at}); err == nil || !strings.Contains(err.Error(), "cannot go on at stage 1") {
		t.Errorf("back over stop..start: got %v", err)
	}
	at = 4
	if err := e.Resume(t.Context(), &ResumeRequest{Run: runID, Vars: v, At: &at}); err != nil {
		t.Errorf("to classify: %v", err)
	}
	if left, err := filepath.Glob(h.Spool("*.spamfull")); err != nil || len(left) > 0 {
		t.Errorf("set aside: %v, %v", left, err)
	}
}
