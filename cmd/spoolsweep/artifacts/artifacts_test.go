package artifacts

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote"
	"spoolsweep/remote/wire"
)

const id = "20261123T231500Z-ab12"

// fileJob takes in one event of a job by itself.
func fileJob(text string) (*Found, error) {
	r := &reader{runs: map[string]*Run{}, hosts: map[string]map[string]*Host{}}
	j := &job{reader: r, runs: map[*Run]bool{}, silent: map[string]Silence{}}
	if err := j.file([]byte(text)); err != nil {
		return nil, err
	}
	return r.found(1), nil
}

// event is one of a job, of a module that returned this.
func event(host, result string) string {
	return `{"event": "runner_on_ok", "runner_ident": "one", "event_data": {"host": "` + host + `", "play": "all", "task": "t", "task_action": "spoolsweep.postfix.restore", "res": ` + result + `}}`
}

func returned(events ...string) string {
	return `{"run": "` + id + `", "instance": "-", "events": [` + strings.Join(events, ",\n") + `]}`
}

// seq is an event of a run.
func seq(n, more string) string {
	return `{"run": "` + id + `", "host": "a lie", "instance": "-", "seq": ` + n + `, "time": "2026-11-23T23:15:0` + n[:1] + `Z", "stage": "count", "index": 0, "event": "begin"` + more + `}`
}

// A job of ansible-runner as it left it, of two hosts and a loop, is read whole.
func TestRead(t *testing.T) {
	found, err := Read("testdata/artifacts")
	if err != nil {
		t.Fatal(err)
	}
	if found.Jobs != 2 || len(found.Runs) != 1 || !slices.Equal(found.Hidden, []string{"mx1: Send what is ham"}) {
		t.Fatalf("got %+v", found)
	}
	r := found.Runs[0]
	if r.ID != id || r.Name != "backscatter" || !slices.Equal(r.Idents, []string{"east", "west"}) || len(r.Silent) != 2 || !r.Silent["mx3"].Unreachable || !strings.HasPrefix(r.Silent["mx3"].Why, "Failed to connect") || r.Silent["mx4"] != (Silence{Why: "there is no Postfix"}) {
		t.Errorf("got %+v", r)
	}
	var labels []string
	for _, h := range r.Hosts {
		labels = append(labels, h.Label())
		all := h.Events()
		if !slices.IsSortedFunc(all, func(a, b wire.Event) int { return a.Time.Compare(b.Time) }) || len(all) == 0 {
			t.Errorf("%s: %+v", h.Label(), all)
		}
		for _, e := range all {
			if e.Host != h.Name || e.Instance != h.Instance || e.Run != id {
				t.Errorf("%s: %+v", h.Label(), e)
			}
		}
	}
	if !slices.Equal(labels, []string{"mx1", "mx2", "mx2/postfix-out"}) {
		t.Errorf("got %q", labels)
	}
	// What the agent says before there is a record comes first.
	if all := r.Hosts[0].Events(); all[0].Stage != "preflight" || all[1].Seq != 1 || all[1].Kind != wire.Begin {
		t.Errorf("got %+v", all)
	}
	// The folder of a job, and the one in it, are that job.
	for _, dir := range []string{"testdata/artifacts/east", "testdata/artifacts/east/job_events"} {
		if found, err := Read(dir); err != nil || found.Jobs != 1 {
			t.Errorf("%s: %+v, %v", dir, found, err)
		}
	}
}

// A check, and what found nothing to do, is no run.
func TestNoRun(t *testing.T) {
	would := strings.Replace(seq("0", ""), `"begin"`, `"would"`, 1)
	ended := strings.Replace(seq("0", `, "data": {"status": "ok"}`), `"begin"`, `"end"`, 1)
	for name, events := range map[string][]string{
		"nothing": nil, "a check": {seq("0", ""), would, ended}, "a check of a run": {would, seq("1", "")}, "nothing to do": {seq("0", ""), ended},
	} {
		if found, err := fileJob(event("mx1", returned(events...))); err != nil || len(found.Runs) != 0 {
			t.Errorf("%s: %+v, %v", name, found, err)
		}
	}
	// It has failed before it began, when it had no id yet.
	failed := strings.NewReplacer(`"begin"`, `"end"`, id, "").Replace(seq("0", `, "data": {"status": "failed"}`))
	found, err := fileJob(event("mx1", returned(failed)))
	if err != nil || len(found.Runs) != 1 || len(found.Runs[0].Hosts[0].Events()) != 1 {
		t.Errorf("a failed one: %+v, %v", found, err)
	}
}

// What no host can have told is refused, and where it stands is said.
func TestRefused(t *testing.T) {
	for name, row := range map[string]struct{ text, says string }{
		"no JSON":         {`{"event": `, "unexpected end"},
		"empty":           {" ", "it is empty"},
		"a list":          {`[]`, "cannot unmarshal array"},
		"a host's name":   {event("mx\\u001b[1m", returned(seq("1", ""))), "host "},
		"no host":         {event("", returned(seq("1", ""))), "without a name"},
		"a run's id":      {event("mx1", `{"run": "../../etc", "events": [`+seq("1", "")+`]}`), "is no id of a run"},
		"an instance":     {event("mx1", `{"run": "`+id+`", "instance": "../x", "events": [`+seq("1", "")+`]}`), "instance"},
		"another run":     {event("mx1", returned(strings.Replace(seq("1", ""), "ab12", "ab13", 1))), "it is of run"},
		"another Postfix": {event("mx1", returned(strings.Replace(seq("1", ""), `"-"`, `"out"`, 1))), "it is of instance"},
		"a stage":         {event("mx1", returned(seq("1", `, "index": 1000`))), "no plan has it"},
		"a name":          {event("mx1", returned(seq("1", `, "stage": "`+strings.Repeat("x", 101)+`"`))), "no stage has such a name"},
		"a time":          {event("mx1", returned(seq("1", `, "time": "0001-01-01T00:00:00Z"`))), "no clock"},
		"a number":        {event("mx1", returned(seq("1", `, "seq": -1`))), "they begin with 1"},
		"text":            {event("mx1", returned(`"x"`)), "no JSON object"},
		"null":            {event("mx1", returned(`null`)), "no JSON object"},
		"two of a number": {event("mx1", returned(seq("1", ""), seq("1", `, "data": {"x": 1}`))), "not the same run"},
		"too long":        {event("mx1", returned(seq("1", `, "data": "`+strings.Repeat("x", wire.MaxFrame)+`"`))), "longer than"},
	} {
		if found, err := fileJob(row.text); err == nil || !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %+v, %v, want %q", name, found, err, row.says)
		}
	}
	// By its line.
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, "job_events", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("1-a-partial.json", "{")
	write("2-b.txt", "{")
	file := write("3-c.json", event("mx1", returned(seq("1", ""), seq("2", ""), seq("3", `, "seq": "x"`))))
	_, err := Read(dir)
	var of *FileError
	if !errors.As(err, &of) || of.File != file || of.Line != 3 || !strings.Contains(err.Error(), "moved away") {
		t.Errorf("got %v", err)
	}
	// A link may lead anywhere.
	if err := errors.Join(os.Remove(file), os.Symlink("/etc/passwd", file)); err != nil {
		t.Fatal(err)
	}
	if found, err := Read(dir); err != nil || len(found.Runs) != 0 {
		t.Errorf("got %+v, %v", found, err)
	}
}

// One host cannot fill a controller.
func TestBound(t *testing.T) {
	h, err := NewHost("mx1", "")
	if err != nil {
		t.Fatal(err)
	}
	e := wire.Event{Run: id, Kind: wire.Warn, Time: time.Date(2026, 11, 23, 23, 15, 0, 0, time.UTC), Data: json.RawMessage(`"` + strings.Repeat("x", wire.MaxFrame/2) + `"`)}
	most := remote.EventsAtOnce/remote.EventCost(&e) + 1
	for n := 1; ; n++ {
		e.Seq = int64(n)
		if _, err = h.Take(e); err != nil {
			if n < most/2 || !strings.Contains(err.Error(), "MiB are told of it") {
				t.Errorf("event %d of %d: %v", n, most, err)
			}
			return
		}
		if n > most {
			t.Fatalf("%d events are taken in", n)
		}
	}
}

// FuzzFile: whatever is taken in is of hosts and runs as there can be, in order, and
// taken in again gives nothing new.
func FuzzFile(f *testing.F) {
	files, err := filepath.Glob("testdata/artifacts/*/job_events/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("seeds: %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(event("mx1", returned(seq("1", ""), seq("0", ""))))
	f.Add(event("mx1", `{"results": [`+returned(seq("1", ""))+`, {"censored": "x"}]}`))
	f.Fuzz(func(t *testing.T, text string) {
		found, err := fileJob(text)
		if err != nil {
			if line := lineOf([]byte(text), err); line < 1 || line > 1+strings.Count(text, "\n") {
				t.Errorf("line %d", line)
			}
			return
		}
		for _, r := range found.Runs {
			for _, h := range r.Hosts {
				again, err := NewHost(h.Name, h.Instance)
				if err != nil {
					t.Fatal(err)
				}
				last := int64(0)
				for _, e := range h.Events() {
					if e.Run != r.ID || e.Seq != 0 && e.Seq <= last {
						t.Errorf("%+v after %d", e, last)
					}
					last = max(last, e.Seq)
					if added, err := h.Take(e); added || err != nil {
						t.Errorf("%+v is new, %v", e, err)
					}
					// And through a record.
					text, err := json.Marshal(e)
					if err == nil {
						err = json.Unmarshal(text, &e)
					}
					if added, not := again.Take(e); !added || err != nil || not != nil {
						t.Errorf("%s: %v, %v", text, err, not)
					}
				}
			}
		}
	})
}
