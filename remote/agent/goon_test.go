package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

const (
	sectionSteps = `[{"stage":"count"},{"stage":"stop"},{"stage":"set-aside"},{"stage":"start"}]`
	behindSteps  = `[{"stage":"classify","args":{"spam":{"sasl_user":"spam-account"}}},{"stage":"confirm"},{"stage":"restore","args":{"rate":0,"live_max":0}}]`
	goesOn       = `,"run":"` + runID + `","yes":true,"do":"resume"`
)

// seen is the number of the last event before the plan did anything.
func (a answer) seen(t *testing.T) int64 {
	t.Helper()
	var s run.State
	a.last(t, ofState, wire.Result, &s)
	return s.Seen
}

// news are the events that came since.
func (a answer) news(t *testing.T) []wire.Event {
	t.Helper()
	seen := a.seen(t)
	return slices.DeleteFunc(slices.Clone(a.events), func(e wire.Event) bool { return e.Seq <= seen })
}

// A run that only set aside goes on with rules, then with better ones, and what is
// left is sent; each of these once.
func TestPlanGoesOn(t *testing.T) {
	h, vars := floodedHost(t)
	full := `,"run":"` + runID + `","only_full":true`
	would := func(text string) Would {
		t.Helper()
		records := func() []string {
			all, err := filepath.Glob(filepath.Join(vars.StateDirectory, "runs", "*", "*"))
			if err != nil {
				t.Fatal(err)
			}
			for i, file := range all {
				s, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				all[i] = fmt.Sprint(file, s.Size(), s.ModTime())
			}
			return all
		}
		before := records()
		a := plan(t, planCheck, text)
		if after := records(); a.status != 0 || !slices.Equal(before, after) {
			t.Errorf("check of %s: status %d, %s; records %q, then %q", text, a.status, a.err, before, after)
		}
		var w Would
		a.last(t, "", wire.Would, &w)
		return w
	}
	begin := aPlan(t, vars, sectionSteps, full)
	if w := would(begin); !w.Changes {
		t.Errorf("check: %+v", w)
	}
	if a := plan(t, planRun, begin); a.status != 0 || a.id(t) != runID {
		t.Fatalf("status %d, %+v, %s", a.status, a.events, a.err)
	}
	if w := would(begin); w.Changes {
		t.Errorf("check of what was done: %+v", w)
	}
	if a := plan(t, planRun, begin); a.status != 0 || len(a.news(t)) != 0 {
		t.Errorf("once more: status %d, %+v, %s", a.status, a.news(t), a.err)
	}

	// Without rules it waits for some, and is asked for them once.
	for range 2 {
		a := plan(t, planRun, aPlan(t, vars, `[{"stage":"classify"},{"stage":"confirm"},{"stage":"restore"}]`, goesOn))
		var end run.Ended
		if a.last(t, "", wire.End, &end); a.status != 3 || !strings.Contains(a.err, "spoolsweep resume "+runID+" -e @rules.yaml") || end.Asks != "rules" {
			t.Errorf("no rules: status %d, %+v, %s", a.status, end, a.err)
		}
	}
	behind := aPlan(t, vars, behindSteps, goesOn+`,"extra":{"rate":0}`)
	if w := would(behind); !w.Changes {
		t.Errorf("check of rules: %+v", w)
	}
	var judged stage.Classified
	a := plan(t, planCheck, behind)
	a.last(t, "classify", wire.Result, &judged)
	a = plan(t, planRun, behind)
	var restored stage.Restored
	a.last(t, "restore", wire.Result, &restored)
	if a.status != 0 || restored.Restored != judged.Ham || restored.Restored == 0 || restored.Left != judged.Spam {
		t.Errorf("status %d, %+v of %+v, %s", a.status, restored, judged, a.err)
	}
	info, err := environment(t).Info(vars, runID)
	if err != nil || len(info.Steps) != 7 || !info.Yes || len(info.Extra) != 1 {
		t.Errorf("the record: %+v, %v", info, err)
	}
	// In other words and with a number that was expected it is the same plan.
	said := strings.NewReplacer(`"rate":0`, `"rate":"0/s"`, `"spam":{"sasl_user":"spam-account"}`, `"spam":{"sasl_user":"spam\u002daccount"}`).Replace(behind)
	if said == behind {
		t.Fatal("nothing is said in other words")
	}
	// What is left out is kept: without rules nothing is judged.
	bare := strings.Replace(behind, `"spam":{"sasl_user":"spam-account"}`, `"spam":{}`, 1)
	for _, text := range []string{behind, said, bare} {
		if a := plan(t, planRun, text); a.status != 0 || len(a.news(t)) != 0 {
			t.Errorf("once more: status %d, %+v, %s", a.status, a.news(t), a.err)
		}
		if w := would(text); w.Changes {
			t.Errorf("check of what was done: %+v", w)
		}
	}

	// Put back, by the number that a check tells.
	add := func(args string) string {
		return aPlan(t, vars, `[{"stage":"putback","args":`+args+`}]`, `,"run":"`+runID+`","do":"add"`)
	}
	if w := would(add(`{}`)); w.Changes || w.Putback == nil || w.Putback.All != judged.Spam {
		t.Errorf("check of putback: %+v, %+v", w, w.Putback)
	}

	// Rules that take nothing are looked at by somebody.
	none := strings.Replace(behind, `{"sasl_user":"spam-account"}`, `{"all":[{"sasl_user":"spam-account"},{"subject":"^no such subject$"}]}`, 1)
	a = plan(t, planRun, none)
	var end run.Ended
	if a.last(t, "", wire.End, &end); a.status != 3 || end.Asks != "confirm" { // they take nothing, which -y does not answer
		t.Errorf("rules that take nothing: status %d, %+v, %s", a.status, end, a.err)
	}

	w := would(add(`{"include_spam":true}`))
	if w.Messages == nil || *w.Messages != judged.Spam {
		t.Fatalf("check of putback: %+v", w)
	}
	if a := plan(t, planRun, add(`{"include_spam":true,"expect":1}`)); a.status != 2 || !strings.Contains(a.err, "not the 1 that were expected") {
		t.Errorf("another number: status %d, %s", a.status, a.err)
	}
	a = plan(t, planRun, add(fmt.Sprintf(`{"include_spam":true,"rate":0,"live_max":0,"expect":%d}`, judged.Spam)))
	if a.last(t, "putback", wire.Result, &restored); a.status != 0 || restored.Restored != judged.Spam {
		t.Errorf("putback: status %d, %+v, %s", a.status, restored, a.err)
	}
	// Nothing is aside, which without a name is nothing to do.
	for _, do := range []string{planRun, planCheck} {
		a := plan(t, do, aPlan(t, vars, `[{"stage":"putback"}]`, `,"do":"add"`))
		if a.status != 0 || len(a.events) != 1 {
			t.Errorf("%s: status %d, %+v, %s", do, a.status, a.events, a.err)
		}
	}
	if _, up := h.Running(); !up {
		t.Error("Postfix is not up")
	}
}

// Where no queue is full nothing is begun, and no command is run.
func TestPlanOnlyFull(t *testing.T) {
	_, vars := floodedHost(t)
	vars.QueueWarn = 1000
	mark := filepath.Join(t.TempDir(), "mark")
	command := `{"stage":"command","args":{"run":"touch ` + mark + `"}}`
	a := plan(t, planRun, aPlan(t, vars, `[`+command+`,`+sectionSteps[1:], `,"run":"`+runID+`","only_full":true`))
	var end run.Ended
	if a.last(t, "", wire.End, &end); a.status != 0 || end.Status != "ok" || len(a.events) != 2 || a.events[1].Run != "" {
		t.Errorf("status %d, %+v, %s", a.status, a.events, a.err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("the command was run")
	}
	if left, err := os.ReadDir(filepath.Join(vars.StateDirectory, "runs")); err == nil && len(left) > 0 {
		t.Errorf("records: %v", left)
	}
}

// A delete tells how many would go, and takes that number.
func TestPlanDeletes(t *testing.T) {
	_, vars := floodedHost(t)
	steps := func(expect string) string {
		return `[{"stage":"delete","args":{"spam":{"sasl_user":"spam-account"},"queues":"deferred"` + expect + `}}]`
	}
	a := plan(t, planCheck, aPlan(t, vars, steps(""), ""))
	var w Would
	if a.last(t, "", wire.Would, &w); w.Messages == nil || w.Removal == nil || w.Removal.Matched != *w.Messages || w.Changes != (*w.Messages > 0) {
		t.Fatalf("check: %+v, %s", w, a.err)
	}
	a = plan(t, planRun, aPlan(t, vars, steps(`,"expect":99999`), `,"yes":true`))
	if a.status == 0 {
		t.Errorf("another number: status %d, %s", a.status, a.err)
	}
	if left := count(t, vars); left.Queues[spool.Deferred].Messages < *w.Messages {
		t.Errorf("deleted: %+v", left)
	}
}

func count(t *testing.T, vars stage.Vars) stage.Counts {
	t.Helper()
	var c stage.Counts
	plan(t, planCheck, aPlan(t, vars, `[{"stage":"count"}]`, "")).last(t, "count", wire.Result, &c)
	return c
}

func TestPlanDoRefused(t *testing.T) {
	_, vars := newHost(t)
	step := `[{"stage":"putback"}]`
	for _, row := range []struct {
		name, text string
		status     int
		says       string
	}{
		{"another thing to do", aPlan(t, vars, step, `,"do":"undo"`), exitUsage, `"undo" is none of begin, resume, add`},
		{"no step to add", aPlan(t, vars, `[]`, `,"do":"add"`), exitUsage, "one step is added, not 0"},
		{"two steps to add", aPlan(t, vars, `[{"stage":"count"},{"stage":"count"}]`, `,"do":"add"`), exitUsage, "not 2"},
		{"only_full of none that begins", aPlan(t, vars, step, `,"do":"add","only_full":true`), exitUsage, "only_full"},
		{"no such run", aPlan(t, vars, step, `,"do":"add","run":"`+runID+`"`), exitFailed, "no such run"},
		{"no such run to go on", aPlan(t, vars, behindSteps, goesOn), exitFailed, "no such run"},
	} {
		for _, do := range []string{planRun, planCheck} {
			if a := plan(t, do, row.text); a.status != row.status || !strings.Contains(a.err, row.says) {
				t.Errorf("%s: %s: status %d, want %d; %s", row.name, do, a.status, row.status, a.err)
			}
		}
	}
}
