package lab_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// queueWarn has small queues count as full.
const queueWarn = "queue_warn: 50"

// floodAll fills the queues of all hosts at once, and returns each host's mail.
func floodAll(t *testing.T, hosts []*lab.Host, queues map[string]int) map[*lab.Host][]lab.Message {
	t.Helper()
	messages := make([][]lab.Message, len(hosts))
	var all sync.WaitGroup
	for i, h := range hosts {
		all.Go(func() { messages[i] = flooded(t, h, 1, queues) })
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	of := map[*lab.Host][]lab.Message{}
	for i, h := range hosts {
		if len(messages[i]) == 0 {
			t.FailNow()
		}
		of[h] = messages[i]
	}
	return of
}

// state is a host's state directory, or one instance's part of it, as the machine
// sees it.
func state(h *lab.Host) string {
	dir := filepath.Join(h.Dir, "upper/var/lib/spoolsweep")
	if h.Instance != "" {
		dir = filepath.Join(dir, "instances", h.Instance)
	}
	return dir
}

// stops tells from a host's own record when its Postfix was stopped, and when it
// ran again.
func stops(t *testing.T, h *lab.Host, id string) (from, to time.Time) {
	t.Helper()
	f, err := os.Open(filepath.Join(state(h), "runs", id, "events.jsonl"))
	must(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e run.Event
		must(t, json.Unmarshal(lines.Bytes(), &e))
		switch {
		case e.Stage == "stop" && e.Kind == "begin":
			from = e.Time
		case e.Stage == "start" && e.Kind == "end":
			to = e.Time
		}
	}
	must(t, lines.Err())
	if from.IsZero() || !to.After(from) {
		t.Fatalf("%s: events tell a stop at %v and a start at %v", h.Name, from, to)
	}
	return from, to
}

// The main job: two flooded servers, one command, and no message is lost.
func TestIncident(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, queueWarn)
	messages := floodAll(t, two, map[string]int{"deferred": 340, "active": 300, "incoming": 360})

	r := start(t, f, "run", "backscatter", "-y", "-e", rulesFile(t, floodRules(two...)), "-e", "rate=0")
	end := r.wait()
	if end.status != 0 {
		t.Fatal(end)
	}
	id := runIn(t, end)
	for _, h := range two {
		a := checkSwept(t, h, messages[h])
		want := []string{"active.spamfull", "defer.spamfull", "deferred.spamfull", "incoming.spamfull"}
		if got := asideDirs(t, h); !cmp.Equal(got, want) {
			t.Errorf("%s: %q are set aside, want %q; places %v", h.Name, got, want, a.Count())
		}
		fresh := alive(t, h)
		checkDelivered(t, h, append(messages[h], fresh), slices.Sorted(slices.Values(append(hams(messages[h]), fresh.ID))))
		checkStreamed(t, r, h, len(messages[h]), len(spams(messages[h])))
	}
	from0, to0 := stops(t, two[0], id)
	from1, to1 := stops(t, two[1], id)
	if from0.Before(to1) && from1.Before(to0) {
		t.Errorf("both were stopped at the same time: %v to %v and %v to %v", from0, to0, from1, to1)
	}
}

// asideDirs are the directories that are aside, sorted.
func asideDirs(t *testing.T, h *lab.Host) []string {
	t.Helper()
	dirs, err := filepath.Glob(h.Spool() + "/*.spamfull*")
	must(t, err)
	for i := range dirs {
		dirs[i] = filepath.Base(dirs[i])
	}
	slices.Sort(dirs)
	return dirs
}

// checkStreamed looks that a host's counts and verdicts came while the run went
// on, and not together at its end.
func checkStreamed(t *testing.T, r *running, h *lab.Host, n, spam int) {
	t.Helper()
	var at []time.Time
	lines := r.said()
	for _, want := range []string{
		`count +\d+ messages +active: `, `stop .*Postfix stopped`, `start .*Postfix runs again`,
		`classify +` + comma(n) + ` messages`, `classify +` + comma(spam) + ` messages +spam$`, `restore +\d+ messages +moved back$`,
	} {
		re := regexp.MustCompile(`^` + h.Name + ` +\| ` + want)
		i := slices.IndexFunc(lines, func(s said) bool { return s.stdout && re.MatchString(s.text) })
		if i < 0 {
			t.Errorf("%s: %q is not said, or not in its turn, by %v", h.Name, want, r.wait())
			return
		}
		at = append(at, lines[i].at)
		lines = lines[i+1:]
	}
	// From the stop to a queue manager that was proved to stay it takes seconds.
	if passed := at[3].Sub(at[0]); passed < 500*time.Millisecond {
		t.Errorf("%s: first count and classification came within %v, all at once", h.Name, passed)
	}
}

// comma writes a number below a million as it is shown.
func comma(n int) string {
	if n < 1000 {
		return strconv.Itoa(n)
	}
	return fmt.Sprintf("%d,%03d", n/1000, n%1000)
}

// Own commands for stop, start and status are used, and write down when. The
// stop is slow, so that two of them overlap if they may.
func TestMaxStopped(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, queueWarn,
		`postfix_stop: "date +stop-%s%N >>/var/log/commands; sleep 2; postfix stop"`,
		`postfix_start: "postfix start && date +start-%s%N >>/var/log/commands"`,
		`postfix_status: "date +status-%s%N >>/var/log/commands; postfix status"`)
	for i, row := range []struct {
		args    []string
		overlap bool
	}{
		{nil, false}, // a playbook stops one at a time by itself
		{[]string{"-e", "max_stopped=2"}, true},
	} {
		if i > 0 { // at first they are as new
			for _, h := range two {
				must(t, h.Reset(t.Context()))
			}
		}
		messages := floodAll(t, two, map[string]int{"active": 60})
		succeeds(t, f, append([]string{"run", "backscatter", "-y", "-e", rulesFile(t, floodRules(two...))}, row.args...)...)
		var at [][2]int64 // stop and start on each host
		for _, h := range two {
			checkSwept(t, h, messages[h])
			alive(t, h)
			log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/commands"))
			must(t, err)
			stop, start := regexp.MustCompile(`stop-(\d+)\n`).FindAllStringSubmatch(string(log), -1), regexp.MustCompile(`start-(\d+)\n`).FindAllStringSubmatch(string(log), -1)
			if len(stop) != 1 || len(start) != 1 || !strings.Contains(string(log), "status-") {
				t.Fatalf("%s: own commands ran as\n%s", h.Name, log)
			}
			from, err := strconv.ParseInt(stop[0][1], 10, 64)
			must(t, err)
			to, err := strconv.ParseInt(start[0][1], 10, 64)
			must(t, err)
			at = append(at, [2]int64{from, to})
		}
		if got := at[0][0] < at[1][1] && at[1][0] < at[0][1]; got != row.overlap {
			t.Errorf("%q: the two stops overlap: %v, want %v: %v", row.args, got, row.overlap, at)
		}
	}
}

// wideRules are too wide: the own mail of two members is called spam.
func wideRules(h *lab.Host) string {
	return floodRules(h) + fmt.Sprintf("    - sender: [ada@%s.lab.test, boris@%s.lab.test]\n", h.Name, h.Name)
}

// wideVerdicts are the ids that wideRules calls spam and ham, each sorted.
func wideVerdicts(h *lab.Host, messages []lab.Message) (spam, ham []string) {
	for _, m := range messages {
		if m.Spam || m.Sender == "ada@"+h.Name+".lab.test" || m.Sender == "boris@"+h.Name+".lab.test" {
			spam = append(spam, m.ID)
		} else {
			ham = append(ham, m.ID)
		}
	}
	slices.Sort(spam)
	slices.Sort(ham)
	return spam, ham
}

// Without rules mail flows all the same, and rules may be found in peace.
func TestRulesFoundOnTheWay(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	messages := flooded(t, h, 1, map[string]int{"deferred": 250, "active": 250, "incoming": 250})

	r := ends(t, 3, f, "run", "backscatter", "-y", "-e", "rate=0")
	id := runIn(t, r)
	for _, next := range []string{"spoolsweep classify --aside " + id, "spoolsweep resume " + id + " -e @"} {
		if !strings.Contains(r.err, next) {
			t.Errorf("what to type next, %q, is not said: %v", next, r)
		}
	}
	before, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, before, messages, "aside", aside, slices.Sorted(slices.Values(ids(messages))))
	must(t, h.Flood(lab.Deliver))
	fresh := alive(t, h)
	messages = append(messages, fresh)
	waitDelivered(t, h, 1)

	wide := wideRules(h)
	wideSpam, wideHam := wideVerdicts(h, messages[:len(messages)-1])
	wideHam = append(wideHam, fresh.ID)
	slices.Sort(wideHam)
	if len(wideSpam) == len(spams(messages)) {
		t.Fatal("the flood has no mail of ada and boris")
	}

	before, err = h.Audit(t.Context())
	must(t, err)
	doc, tried := spoolsweepJSON(t, f, "classify", "--aside", id, "-e", rulesFile(t, wide))
	c := resultOf[stage.Classified](t, doc, h)
	if tried.status != 0 || int(c.Spam) != len(wideSpam) || int(c.Ham) != len(wideHam)-1 {
		t.Errorf("classify: want spam %d, ham %d: %v", len(wideSpam), len(wideHam)-1, tried)
	}
	after, err := h.Audit(t.Context())
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("classify changed places:\n%s", diff)
	}

	succeeds(t, f, "resume", id, "-y", "-e", rulesFile(t, wide))
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "aside", aside, wideSpam)
	checkPlaces(t, h, a, messages, "live or delivered", live, wideHam)

	// Better rules move what is left of the ham, and only that.
	doc, better := spoolsweepJSON(t, f, "resume", id, "-y", "-e", rulesFile(t, floodRules(h)))
	if better.status != 0 {
		t.Fatal(better)
	}
	var moved stage.Restored
	if !hostIn(t, doc, h).Latest("restore", &moved) || int(moved.Restored) != len(wideSpam)-len(spams(messages)) {
		t.Errorf("better rules moved %d, want %d: %v", moved.Restored, len(wideSpam)-len(spams(messages)), better)
	}
	checkSwept(t, h, messages)
	checkDelivered(t, h, messages, hams(messages))
	if r := succeeds(t, f, "resume", id); strings.Contains(r.out, "restore:") {
		t.Errorf("a resume of a run that is done: %v", r)
	}
	checkSwept(t, h, messages)
}

// waitDelivered waits until so many messages are delivered.
func waitDelivered(t *testing.T, h *lab.Host, n int) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) { // no event tells
		var err error
		got, err = filepath.Glob(filepath.Join(h.Delivered(), "[^.]*"))
		must(t, err)
		if len(got) >= n {
			return
		}
	}
	t.Fatalf("%s: %d messages are delivered, want %d", h.Name, len(got), n)
}

// What was sent cannot be taken back: rules that leave the flood among the ham
// send nothing by themselves.
func TestRulesThatCatchTooLittle(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, rules string
		left        func(m lab.Message) bool // of the login's messages
		says        string
	}{
		{"none", "spam: {sasl_user: nobody}\n", func(lab.Message) bool { return true }, "the rules take nothing"},
		{"no base64", "spam: {raw: media.php}\n", func(m lab.Message) bool { return m.Encoding == "base64" }, "still looks like a flood"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hosts(t, 1)[0]
			f := newFleet(t, []*lab.Host{h}, queueWarn)
			messages := flooded(t, h, 1, map[string]int{"deferred": 250, "active": 250, "incoming": 250})
			n := 0
			for _, m := range messages {
				if m.Login == account(h) && row.left(m) {
					n++
				}
			}
			want := regexp.MustCompile(fmt.Sprintf(`\b%d messages of login %s`, n, regexp.QuoteMeta(account(h))))
			rules := rulesFile(t, row.rules)
			all := slices.Sorted(slices.Values(ids(messages)))
			var at lab.Audit
			r := spoolsweep(t, f, "run", "backscatter", "-y", "-e", rules)
			id := runIn(t, r)
			for _, again := range []string{"run", "resume"} {
				if again == "resume" {
					r = spoolsweep(t, f, "resume", id, "-y", "-e", rules)
				}
				if r.status != 3 || !want.MatchString(r.err) || !strings.Contains(r.err, row.says) {
					t.Errorf("%s: want exit status 3, and the words %q and %q: %v", again, want, row.says, r)
				}
				a, err := h.Audit(t.Context())
				must(t, err)
				checkPlaces(t, h, a, messages, "aside", aside, all)
				checkPlaces(t, h, a, messages, "live", live, nil)
				if again == "run" {
					at = a
				} else if diff := cmp.Diff(at, a); diff != "" {
					t.Errorf("messages moved:\n%s", diff)
				}
			}
			r = ends(t, 1, f, "resume", id, "-y", "--expect", "1000000")
			if !strings.Contains(r.err, "nothing was done") {
				t.Errorf("a number that is wrong is confirmed: %v", r)
			}
			after, err := h.Audit(t.Context())
			must(t, err)
			if diff := cmp.Diff(at, after); diff != "" {
				t.Errorf("a wrong number moved messages:\n%s", diff)
			}
			alive(t, h)
		})
	}
}

// putBackCount has put back tell how many messages it would send, by a number
// that cannot be right. Nothing may move by that.
func putBackCount(t *testing.T, f *fleet, id string, args ...string) int {
	t.Helper()
	h := f.hosts[0]
	before, err := h.Audit(t.Context())
	must(t, err)
	r := ends(t, 1, f, append([]string{"putback", id, "-y", "--expect", "1000000"}, args...)...)
	m := regexp.MustCompile(`--expect 1000000: (\d+) messages would [a-z, ]+: nothing`).FindStringSubmatch(r.err)
	if m == nil {
		t.Fatalf("want exit status 1 and the right number: %v", r)
	}
	after, err := h.Audit(t.Context())
	must(t, err)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("a put back of a wrong number moved messages:\n%s", diff)
	}
	n, err := strconv.Atoi(m[1])
	must(t, err)
	return n
}

func TestPutBack(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		rules  bool
		status int
	}{
		{"with rules", true, 0},
		{"without rules", false, 3},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hosts(t, 1)[0]
			f := newFleet(t, []*lab.Host{h}, queueWarn)
			messages := flooded(t, h, 1, map[string]int{"deferred": 200, "active": 200, "incoming": 200})
			all := slices.Sorted(slices.Values(ids(messages)))
			args := []string{"run", "backscatter", "-y", "-e", "rate=0"}
			spam, ham := spams(messages), hams(messages)
			if row.rules { // some of the spam is no flood: it stays because a rule said so
				args = append(args, "-e", rulesFile(t, wideRules(h)))
				spam, ham = wideVerdicts(h, messages)
			}
			id := runIn(t, ends(t, row.status, f, args...))

			n := putBackCount(t, f, id)
			succeeds(t, f, "putback", id, "-y", "--expect", strconv.Itoa(n), "--rate", "0", "--live-max", "0")
			a, err := h.Audit(t.Context())
			must(t, err)
			sent := a.In(live...)
			for _, id := range spam {
				if slices.Contains(sent, id) {
					t.Errorf("spam %s was sent without --include-spam: %v", id, a.Found[id])
				}
			}
			if row.rules && (n != 0 || !cmp.Equal(sent, ham)) || !row.rules && len(sent) != n {
				t.Errorf("%d of %d were sent, %d of them put back", len(sent), len(ham), n)
			}
			checkPlaces(t, h, a, messages, "aside", aside, slices.DeleteFunc(slices.Clone(all), func(id string) bool { return slices.Contains(sent, id) }))

			rest := putBackCount(t, f, id, "--include-spam")
			if rest != len(all)-len(sent) {
				t.Errorf("put back would send %d, but %d are aside", rest, len(all)-len(sent))
			}
			succeeds(t, f, "putback", id, "--include-spam", "-y", "--expect", strconv.Itoa(rest), "--rate", "0", "--live-max", "0")
			a, err = h.Audit(t.Context())
			must(t, err)
			checkPlaces(t, h, a, messages, "live or delivered", live, all)
			if dirs := asideDirs(t, h); len(dirs) > 0 {
				t.Errorf("put back left %q", dirs)
			}
			if others, _ := filepath.Glob(h.Spool() + "/*.name-collisions"); len(others) > 0 {
				t.Errorf("put back left %q", others)
			}
			fresh := alive(t, h)
			checkDelivered(t, h, append(messages, fresh), slices.Sorted(slices.Values(append(all, fresh.ID))))
		})
	}
}

// queued is a line of postqueue -j.
type queued struct {
	Queue      string `json:"queue_name"`
	ID         string `json:"queue_id"`
	Recipients []struct {
		Address string `json:"address"`
		Reason  string `json:"delay_reason"`
	} `json:"recipients"`
}

func postqueue(t *testing.T, h *lab.Host) map[string]queued {
	t.Helper()
	out, err := h.Run(t.Context(), "postqueue", "-j")
	must(t, err)
	all := map[string]queued{}
	for line := range strings.Lines(out) {
		var q queued
		must(t, json.Unmarshal([]byte(line), &q))
		all[q.ID] = q
	}
	return all
}

// checkReasons looks that Postfix has all of these messages deferred, and knows why.
func checkReasons(t *testing.T, h *lab.Host, a lab.Audit, want []string) {
	t.Helper()
	all := postqueue(t, h)
	if len(all) != len(want) {
		t.Errorf("%s: postqueue tells of %d messages, want %d", h.Name, len(all), len(want))
	}
	for _, id := range want {
		q, ok := all[queueID(a, id)]
		if !ok || q.Queue != "deferred" {
			t.Errorf("%s: postqueue has %s as %+v", h.Name, id, q)
			continue
		}
		for _, to := range q.Recipients {
			if to.Reason == "" {
				t.Errorf("%s: nobody knows why %s is deferred: %+v", h.Name, id, q)
			}
		}
	}
}

// queueID is the name of a message's file.
func queueID(a lab.Audit, id string) string {
	if len(a.Found[id]) != 1 {
		return ""
	}
	return filepath.Base(a.Found[id][0].Path)
}

// files are all files below a directory of the spool: their names alone, since
// Postfix chooses the subdirectories.
func files(t testing.TB, h *lab.Host, dir string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	must(t, filepath.WalkDir(filepath.Join(h.Spool(), dir), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found[e.Name()] = true
		}
		return err
	}))
	return found
}

// The deferred queue is hashed and has logs beside it, which say why; they go
// aside with the messages, and come back with them.
func TestBackscatterDeferred(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		settings []string
		queues   map[string]int
		args     []string
	}{
		{"as shipped", nil, map[string]int{"deferred": 300}, []string{"backscatter-deferred"}},
		{"deeper, incoming too", []string{"hash_queue_names = incoming, active, deferred, defer", "hash_queue_depth = 2"},
			map[string]int{"deferred": 300, "active": 60, "incoming": 240}, []string{"backscatter", "-e", "queues=[incoming, deferred]"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hosts(t, 1)[0]
			f := newFleet(t, []*lab.Host{h}, queueWarn)
			if row.settings != nil {
				must(t, h.Postconf(t.Context(), row.settings...))
			}
			messages := flooded(t, h, 1, row.queues)
			a, err := h.Audit(t.Context())
			must(t, err)
			was := a
			deferred := a.In("deferred")
			if logs := files(t, h, "defer"); len(logs) != len(deferred) {
				t.Fatalf("%d logs of %d deferred messages", len(logs), len(deferred))
			}

			r := succeeds(t, f, append([]string{"run", "-y", "-e", "rate=0", "-e", rulesFile(t, floodRules(h))}, row.args...)...)
			a, err = h.Audit(t.Context())
			must(t, err)
			moved := was.In("deferred", "incoming")
			var ham, spam, hamDeferred []string
			for _, id := range moved {
				if slices.Contains(hams(messages), id) {
					ham = append(ham, id)
					if slices.Contains(deferred, id) {
						hamDeferred = append(hamDeferred, id)
					}
				} else {
					spam = append(spam, id)
				}
			}
			checkPlaces(t, h, a, messages, "aside", aside, spam)
			if row.queues["active"] == 0 {
				checkPlaces(t, h, a, messages, "deferred", []string{"deferred"}, ham)
				checkReasons(t, h, a, ham)
			}
			logs, logsAside := files(t, h, "defer"), files(t, h, "defer.spamfull")
			for _, id := range deferred {
				name := queueID(was, id)
				if isHam := slices.Contains(hamDeferred, id); logs[name] != isHam || logsAside[name] == isHam {
					t.Errorf("log %s of %s, ham %v: live %v, aside %v", name, id, isHam, logs[name], logsAside[name])
					break
				}
			}

			n := putBackCount(t, f, runIn(t, r), "--include-spam")
			succeeds(t, f, "putback", runIn(t, r), "--include-spam", "-y", "--expect", strconv.Itoa(n), "--rate", "0", "--live-max", "0")
			a, err = h.Audit(t.Context())
			must(t, err)
			checkPlaces(t, h, a, messages, "live", live, slices.Sorted(slices.Values(ids(messages))))
			if dirs := asideDirs(t, h); len(dirs) > 0 {
				t.Errorf("put back left %q", dirs)
			}
			logs = files(t, h, "defer")
			for _, id := range deferred {
				if name := queueID(was, id); !logs[name] {
					t.Errorf("the log %s of %s is gone", name, id)
					break
				}
			}
			if row.queues["active"] == 0 {
				checkReasons(t, h, a, moved)
			}
			fresh := alive(t, h)
			checkDelivered(t, h, append(messages, fresh), slices.Sorted(slices.Values(append(ids(messages), fresh.ID))))
		})
	}
}

// snapshot is what a look at a host must not change.
type snapshot struct {
	Spool     map[string]string // name to inode, size, mode and time
	Processes []string
	State     []string
}

func takeSnapshot(t *testing.T, h *lab.Host) snapshot {
	t.Helper()
	s := snapshot{Spool: map[string]string{}}
	must(t, filepath.WalkDir(h.Spool(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(h.Spool(), path) // both begin with it
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		s.Spool[name] = fmt.Sprintf("inode %d links %d owner %d:%d %v", st.Ino, st.Nlink, st.Uid, st.Gid, info.Mode())
		// Postfix's own processes write beside the mail while we look.
		top, _, _ := strings.Cut(name, "/")
		if !slices.Contains([]string{".", "pid", "private", "public"}, top) {
			s.Spool[name] += fmt.Sprintf(" size %d time %v", info.Size(), info.ModTime())
		}
		return nil
	}))
	for _, name := range []string{"/master( |$)", "^qmgr( |$)"} {
		pids, err := h.Pgrep(name)
		must(t, err)
		if len(pids) != 1 {
			t.Fatalf("%s: processes %s: %v, want one", h.Name, name, pids)
		}
		s.Processes = append(s.Processes, fmt.Sprint(name, pids))
	}
	err := filepath.WalkDir(state(h), func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			s.State = append(s.State, path)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return s
}

func TestCheckChangesNothing(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	messages := flooded(t, h, 1, map[string]int{"deferred": 100, "active": 100, "incoming": 100})
	before := takeSnapshot(t, h)
	doc, r := spoolsweepJSON(t, f, "run", "backscatter", "--check", "-e", rulesFile(t, floodRules(h)))
	if diff := cmp.Diff(before, takeSnapshot(t, h)); diff != "" {
		t.Errorf("--check changed, -before +after:\n%s", diff)
	}
	var c stage.Classified
	if !hostIn(t, doc, h).Latest("classify", &c) || r.status != 0 || int(c.Spam) != len(spams(messages)) || int(c.Ham) != len(hams(messages)) {
		t.Errorf("--check should tell spam %d, ham %d: %v", len(spams(messages)), len(hams(messages)), r)
	}
	if hostIn(t, doc, h).Changed {
		t.Errorf("--check says that it changed something: %v", r)
	}
}

func TestSecondRunPushesNothing(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	var pushed []int64
	var agents []string // what lies there after each run
	for range 2 {
		doc, r := spoolsweepJSON(t, f, "run", "backscatter", "-y")
		if r.status != 0 {
			t.Fatal(r)
		}
		pushed = append(pushed, hostIn(t, doc, h).Pushed)
		list, err := h.Run(t.Context(), "find", "/root/.cache/spoolsweep", "-type", "f", "-printf", "%p inode %i size %s\n")
		must(t, err)
		agents = append(agents, list)
	}
	if pushed[0] < 1<<20 || pushed[1] != 0 {
		t.Errorf("two runs pushed %d bytes, want them once", pushed)
	}
	if strings.Count(agents[0], "\n") != 1 || agents[1] != agents[0] {
		t.Errorf("agents after the first run:\n%safter the second:\n%s", agents[0], agents[1])
	}
}

// Who may not log in as root becomes root.
func TestBecome(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	messages := flooded(t, h, 1, map[string]int{"active": 100, "incoming": 100})
	args := []string{"run", "backscatter", "-y", "-e", rulesFile(t, floodRules(h))}

	before := takeSnapshot(t, h)
	doc, r := spoolsweepJSON(t, newFleet(t, []*lab.Host{h}, queueWarn, "ansible_user: admin"), args...)
	switch s := hostIn(t, doc, h); {
	case r.status != 2 || s.Status != show.Failed || s.Error == nil:
		t.Errorf("without root: want exit status 2: %v", r)
	case !regexp.MustCompile(`become`).MatchString(s.Error.Remedy):
		t.Errorf("without root the remedy is %q", s.Error.Remedy)
	}
	if diff := cmp.Diff(before, takeSnapshot(t, h)); diff != "" {
		t.Errorf("without root the host changed, -before +after:\n%s", diff)
	}

	succeeds(t, newFleet(t, []*lab.Host{h}, queueWarn, "ansible_user: admin", "ansible_become: true"), args...)
	checkSwept(t, h, messages)
	alive(t, h)
}
