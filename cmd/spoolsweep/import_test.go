package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
)

// jobOf writes the artifacts of a job whose tasks returned these events, each for the
// host that it names, as ansible-runner writes them.
func jobOf(t *testing.T, dir string, returned ...string) string {
	t.Helper()
	for i, text := range returned {
		all := eventsOf(t, text)
		jobEvent(t, dir, i, "runner_on_ok", all[0].Host, map[string]any{"changed": true, "run": all[0].Run, "instance": all[0].Instance, "events": all})
	}
	return dir
}

func jobEvent(t *testing.T, dir string, number int, kind, host string, result any) {
	t.Helper()
	text, err := json.MarshalIndent(map[string]any{
		"counter": number, "event": kind, "runner_ident": filepath.Base(dir),
		"event_data": map[string]any{"host": host, "play": "Clear the queues", "role": "backscatter", "task": "Set aside", "task_action": "set_aside", "resolved_action": "spoolsweep.postfix.set_aside", "res": result},
	}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "job_events", fmt.Sprintf("%d-%s.json", number, host))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What two workers did on a host each is one run here, told as the hosts tell it, when
// no host can be reached any more.
func TestImport(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(200)
	waitQuiet(t, f)
	id := run.NewID(time.Now())
	rules := "@" + f.write("rules.yaml", demoRules)
	var waits, ended string
	for _, h := range f.hosts {
		plan := []string{"backscatter", "--host", h.Name, "-l", "chavez,peltier", "--run", id, "-e", "watch=0", "-e", "rate=0", "-y"}
		if h.Name == "peltier" {
			plan = append(plan, "-e", rules)
		}
		_, text := f.printed(plan...)
		r := f.carryOut(h, "run", text)
		switch h.Name {
		case "chavez":
			r.want(t, 3)
			waits = r.out
		case "peltier":
			r.want(t, 0)
			ended = r.out
		}
	}
	theirs := f.spoolsweep("report", id, "-o", "json", "--ask-hosts")
	theirs.want(t, 0)
	f.spoolsweep("report", id).want(t, 0, "chavez ") // nothing is kept of it yet

	dir := t.TempDir()
	// Whoever goes on with the run returns all its events again, the last task of a role too.
	west := jobOf(t, filepath.Join(dir, "west", "artifacts", "one"), waits)
	east := jobOf(t, filepath.Join(dir, "east"), ended, ended)
	jobEvent(t, east, 9, "runner_on_ok", "peltier", map[string]any{"changed": false, "result": map[string]any{"messages": 1}}) // it only looks
	jobEvent(t, east, 10, "runner_on_unreachable", "relay01", map[string]any{"msg": "no route\x1b[31m", "unreachable": true})
	r := f.run("report", "--import", filepath.Join(dir, "west"), "-o", "json")
	r.want(t, 0, "run "+id+": ", " events imported out of 1 job, of 1 host now")
	r = f.run("report", "--import", east, filepath.Join(dir, "west"))
	r.want(t, 4, "out of 2 jobs, of 3 hosts now", "chavez  | run "+id+": backscatter, begun ", "by ansible-runner one, east, on chavez, peltier, relay01", `relay01 | UNREACHABLE: it was not reached by Ansible: no route\x1b[31m`, "waits for rules", "spoolsweep attach "+id)
	for _, args := range [][]string{{"report", "--import", west, "-l", "chavez,peltier"}, {"report", id, "-l", "chavez,peltier"}} {
		f.run(args...).want(t, 0)
	}
	f.run("report", "--import", east).want(t, 4, "run "+id+": nothing new in 1 job")

	// As the hosts tell it.
	ours := f.run("report", id, "-l", "chavez,peltier", "-o", "json")
	ours.want(t, 0, "as it was imported on ", "--ask-hosts asks them")
	var docs [2]show.Document
	var tells [2][2]told
	for i, text := range []string{theirs.out, ours.out} {
		if err := json.Unmarshal([]byte(text), &docs[i]); err != nil {
			t.Fatal(err)
		}
		for k, h := range docs[i].Hosts {
			decode(h.Result, &tells[i][k])
			for _, s := range h.Stages {
				s.Result = sorted(t, s.Result)
			}
		}
	}
	for k, h := range docs[0].Hosts {
		if d := cmp.Diff(h.Stages, docs[1].Hosts[k].Stages); d != "" || len(h.Stages) < 5 {
			t.Errorf("%s: (-the host +imported): %s", h.Host, d)
		}
		want, got := tells[0][k], tells[1][k]
		if got.Phase != want.Phase || got.Asks != want.Asks || got.Aside != want.Aside || want.Aside == 0 || got.Playbook != "backscatter" {
			t.Errorf("%s: %+v, want %+v", h.Host, got, want)
		}
	}
	if docs[0].Summary.Left != docs[1].Summary.Left || docs[0].Summary.Restored != docs[1].Summary.Restored {
		t.Errorf("imported %+v, want %+v", docs[1].Summary, docs[0].Summary)
	}

	// The page, and what it says to type.
	r = f.run("report", id, "-o", "html")
	r.want(t, 4, "The run waits on 1 of 3 hosts", "Postfix was stopped on 2 hosts", "still aside", "no host was asked", "putback")
	for _, l := range lineToType.FindAllStringSubmatch(html.UnescapeString(r.out), -1) {
		line, _, _ := strings.Cut(l[1], " > ")
		accepted(t, line)
	}
	f.run("runs", "--imported").want(t, 0, id+"  backscatter, begun ", "waits for rules", "; ", " aside", "relay01 | "+id+"  not known: it was not reached")
	f.run("runs", "--imported", "-o", "json", "-l", "peltier").want(t, 0, id, `"phase": "finished"`)
	f.run("report", id, "-o", "jsonl", "-l", "peltier").want(t, 0, `"stage":"set-aside"`)
	// What needs the hosts asks them.
	f.spoolsweep("report", id, "--ledger").want(t, 0, "missing 0")
}

// sorted is JSON with its keys in order.
func sorted(t *testing.T, text json.RawMessage) json.RawMessage {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// happened are events of a run on a host.
func happened(id, host string, kinds ...string) string {
	var b strings.Builder
	at := time.Date(2026, 11, 23, 23, 15, 0, 0, time.UTC)
	for i, kind := range kinds {
		stage, data, index := "count", "{}", 0
		if name, value, ok := strings.Cut(kind, "="); ok {
			kind, data = name, value
			if name == wire.End {
				stage, index = "", -1
			}
		}
		e := wire.Event{Run: id, Host: host, Instance: "-", Seq: int64(i + 1), Time: at.Add(time.Duration(i) * time.Second), Stage: stage, Index: index, Kind: kind, Data: json.RawMessage(data)}
		text, _ := json.Marshal(e)
		b.Write(append(text, '\n'))
	}
	return b.String()
}

// Where artifacts are not one run that can be kept, nothing is, and it is said why.
func TestImportRefused(t *testing.T) {
	t.Parallel()
	const first, second, cut = "20261123T231500Z-ab12", "20261123T231501Z-ab13", "20261123T231502Z-ab14"
	f := func(args ...string) result {
		var out, err bytes.Buffer
		status := inProcess(t.Context(), newApp(strings.NewReader(""), &out, &err), append([]string{"spoolsweep"}, args...)...)
		return result{strings.Join(args, " "), status, out.String(), err.String()}
	}
	dir := t.TempDir()
	done := `end={"status":"ok"}`
	one := jobOf(t, filepath.Join(dir, "one"), happened(first, "mx1", "begin", "end", done))
	two := jobOf(t, filepath.Join(dir, "two"), happened(second, "mx2", "begin", "end", done))
	f("report", "--import", dir).want(t, statusUsage, first+" on mx1", second+" on mx2", "choose one with --run")
	f("report", "--import", dir, "--run", cut).want(t, statusUsage, "no such run is in the artifacts")
	f("report", first).want(t, statusUsage) // there is no inventory
	f("report", "--import", dir, "--run", second).want(t, 0, "run "+second)
	f("report", second).want(t, 0, "mx2 ")
	f("report", "--import", one).want(t, 0)

	// Another run of the same id.
	other := jobOf(t, filepath.Join(dir, "other"), happened(first, "mx1", "begin", `end={"status":"failed","error":"no"}`))
	f("report", "--import", other).want(t, statusUsage, "recorded here already", "mx1")
	f("report", first).want(t, 0, "finished")
	// A broken file, by its line.
	file := filepath.Join(two, "job_events", "0-mx2.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text[:len(text)-30], 0o600); err != nil {
		t.Fatal(err)
	}
	lines := strings.Count(string(text[:len(text)-30]), "\n") + 1
	f("report", "--import", one, two).want(t, statusUsage, fmt.Sprintf("%s:%d: unexpected end of JSON input", file, lines), "fetch the artifacts again")
	// A run that the artifacts leave at work.
	f("report", "--import", jobOf(t, filepath.Join(dir, "cut"), happened(cut, "mx1", "begin"))).want(t, 2, "ends before the run did, with its stage count", "spoolsweep attach "+cut)
	// What no_log hides.
	hidden := filepath.Join(dir, "hidden")
	jobEvent(t, hidden, 1, "runner_on_ok", "mx1", map[string]any{"censored": "no_log", "changed": true})
	f("report", "--import", hidden).want(t, statusUsage, "no_log keeps to itself what mx1: Set aside told", "no run is in the artifacts of 1 job")

	for args, says := range map[string]string{
		"report --import " + t.TempDir():       "no job_events is in it",
		"report --import " + dir + "/nothing":  "no such file",
		"report --import " + one + " --ledger": "--ledger asks the hosts",
		"report --run " + first:                "--run goes with --import",
		"report --import " + dir + " --run x":  "no id of a run",
	} {
		f(strings.Fields(args)...).want(t, statusUsage, says)
	}
	// A record of somebody else's stays as it is.
	home, err := recordsFolder()
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(home, first, recordName)
	if err := os.WriteFile(foreign, []byte(`{"spoolsweep_record": 2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f("report", "--import", one).want(t, statusUsage, foreign+" is no record of run "+first)
}
