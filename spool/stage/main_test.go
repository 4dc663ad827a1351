package stage

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The practice Postfix is this test program again.
func TestMain(m *testing.M) {
	if code, mine := practice.Main(os.Args[1:]); mine {
		os.Exit(code)
	}
	if code, mine := benchProcess(os.Args[1:]); mine {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// newHost makes a practice host that does not run.
func newHost(t *testing.T) *practice.Host {
	t.Helper()
	// Not t.TempDir: its names are too long for a socket.
	top, err := os.MkdirTemp("", "stage")
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
	return h
}

func submit(t *testing.T, h *practice.Host, list ...practice.Message) []string {
	t.Helper()
	ids, err := h.SubmitAll(list)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

const runID = "20261123T231500Z-ab12"

// work is a run of which the named queues are set aside, in folder dir.
type work struct {
	*Host
	t    *testing.T
	done map[string]any // results by stage
}

// aside sets queues aside as a section does, without the two seconds that the
// proof of a start takes: the names are made right by the stages, and nothing
// of Postfix runs.
func aside(t *testing.T, h *practice.Host, queues ...spool.Queue) *work {
	t.Helper()
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	// A Postfix that was never started has no pid/master.pid to be locked.
	pid := h.Spool("pid", "master.pid")
	if err := os.WriteFile(pid, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	lock, err := spool.Lock(p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	dir := t.TempDir()
	w, _, err := spool.OpenWork(p, runID, dir, "test", lock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if err := w.Prepare(queues); err != nil {
		t.Fatal(err)
	}
	k := &work{t: t, done: map[string]any{}, Host: &Host{
		Postfix: p, Work: w, Run: runID, Dir: dir, Agree: func(int64) error { return nil },
	}}
	k.Last = func(stage string, into any) bool {
		r, ok := k.done[stage]
		return ok && reencode(t, r, into)
	}
	for _, name := range []string{"stop", "set-aside"} {
		k.run(name, "{}")
	}
	return k
}

// run does one stage and keeps its result, as the worker does.
func (k *work) run(name, args string) (Result, error) {
	k.t.Helper()
	row, ok := Find(name)
	if !ok {
		k.t.Fatalf("no stage %q", name)
	}
	a, err := row.Parse([]byte(args))
	if err != nil {
		k.t.Fatal(err)
	}
	r, err := row.Run(context.Background(), k.Host, a, func(string, any) {})
	if r != nil {
		k.done[name] = r
	}
	return r, err
}

// golden compares text with a file below testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got; rewrite with -update):\n%s", path, d)
	}
}

func ranged(n int, name string) []string {
	var all []string
	for i := range n {
		all = append(all, name+strconv.Itoa(i))
	}
	return all
}
