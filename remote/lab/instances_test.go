package lab_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// twoInstances is a host with a second Postfix, made by postmulti, whose ids are
// long and whose queues are hashed deeper than the default one's.
func twoInstances(t *testing.T) (both []*lab.Host) {
	t.Helper()
	h := hosts(t, 1)[0]
	out, err := h.AddInstance(t.Context(), "postfix-out")
	must(t, err)
	must(t, out.Postconf(t.Context(), "enable_long_queue_ids = yes", "hash_queue_names = incoming, active, deferred, defer", "hash_queue_depth = 2"))
	return []*lab.Host{h, out}
}

// floodBoth fills the queues of both; what each has is its own.
func floodBoth(t *testing.T, both []*lab.Host) map[*lab.Host][]lab.Message {
	t.Helper()
	return map[*lab.Host][]lab.Message{
		both[0]: flooded(t, both[0], 1, map[string]int{"deferred": 60, "active": 70, "incoming": 80}),
		both[1]: flooded(t, both[1], 2, map[string]int{"deferred": 90, "active": 65, "incoming": 75}),
	}
}

// mastersOf are the running ones, by their instance.
func mastersOf(t *testing.T, both []*lab.Host) []string {
	t.Helper()
	var all []string
	for _, h := range both {
		pid, err := os.ReadFile(filepath.Join(h.Spool(), "pid", "master.pid"))
		must(t, err)
		if _, err := h.Run(t.Context(), "sh", "-c", `grep -q '^master$' /proc/$0/comm`, strings.TrimSpace(string(pid))); err != nil {
			t.Errorf("%s: no master: %v", h.Config(), err)
			continue
		}
		all = append(all, h.Config()+" "+strings.TrimSpace(string(pid)))
	}
	return all
}

// Two Postfix on one host are seen and swept one by one: each stopped by itself,
// one after the other, with its own record, and no message of either is lost.
func TestInstances(t *testing.T) {
	t.Parallel()
	both := twoInstances(t)
	h, out := both[0], both[1]
	f := newFleet(t, both[:1], queueWarn)
	messages := floodBoth(t, both)

	r := ends(t, 0, f, "health")
	for _, want := range []string{`(?m)^` + h.Name + ` +\| count +80 messages +incoming`, `(?m)^` + h.Name + `/postfix-out \| count +75 messages +incoming`} {
		if !regexp.MustCompile(want).MatchString(r.out) {
			t.Errorf("no line %q: %v", want, r)
		}
	}
	doc, _ := spoolsweepJSON(t, f, "health")
	var counts []string
	for _, s := range doc.Hosts {
		var c stage.Counts
		must(t, json.Unmarshal(s.Result, &c))
		counts = append(counts, strings.Join([]string{s.Host, s.Instance, s.Status, c.QueueDirectory, strconv.FormatInt(c.Messages, 10)}, " "))
	}
	if want := []string{h.Name + " - ok /var/spool/postfix 210", h.Name + " postfix-out ok /var/spool/postfix-out 230"}; !cmp.Equal(counts, want) {
		t.Errorf("health tells of %q, want %q", counts, want)
	}
	// They write to one log: what both tell of it counts once.
	doc, _ = spoolsweepJSON(t, f, "suspects")
	logins := func(s *stage.Suspects) (n int64) {
		for _, l := range s.Logins {
			n += l.Count
		}
		return n
	}
	var of stage.Suspects
	must(t, json.Unmarshal(hostIn(t, doc, out).Result, &of))
	if sum := logins(doc.Summary.Suspects); sum == 0 || sum != logins(&of) || doc.Summary.Suspects.Read != 440 {
		t.Errorf("logins of both sent %d messages, those of one %d; %d were read", sum, logins(&of), doc.Summary.Suspects.Read)
	}

	before := mastersOf(t, both)
	r = ends(t, 0, f, "run", "backscatter", "-y", "-e", "rate=0", "-e", rulesFile(t, floodRules(h)))
	id := runIn(t, r)
	after := mastersOf(t, both)
	if len(after) != 2 || after[0] == before[0] || after[1] == before[1] {
		t.Errorf("masters before %q, after %q: want both new", before, after)
	}
	for _, i := range both {
		checkSwept(t, i, messages[i])
	}
	_, first := stops(t, h, id)
	if second, _ := stops(t, out, id); second.Before(first) {
		t.Errorf("%s ran again at %v, postfix-out was stopped at %v", h.Name, first, second)
	}
	streamed := ends(t, 0, f, "report", id, "-o", "jsonl")
	for _, instance := range []string{"-", "postfix-out"} {
		if n := strings.Count(streamed.out, `"instance":"`+instance+`"`); n < 20 {
			t.Errorf("%d events are of instance %s", n, instance)
		}
	}
	if r := ends(t, 0, f, "runs"); strings.Count(r.out, id) != 2 {
		t.Errorf("runs: %v", r)
	}
	if r := ends(t, 0, f, "find", account(h)); strings.Count(r.out, "of "+account(h)) != 2 {
		t.Errorf("find does not tell of both: %v", r)
	}

	// Nothing of one gets into the other, on the way back as well.
	r = spoolsweep(t, f, "uninstall", "--state", "-y")
	if r.status != 2 || !strings.Contains(r.err, "files are in ") {
		t.Errorf("records of runs with mail aside: %v", r)
	}
	n := len(spams(messages[h])) + len(spams(messages[out]))
	ends(t, 1, f, "purge", id, "-y", "--expect", strconv.Itoa(n-1))
	ends(t, 0, f, "putback", id, "--include-spam", "-y", "--expect", strconv.Itoa(n), "--rate", "0", "--live-max", "0")
	for _, i := range both {
		a, err := i.Audit(t.Context())
		must(t, err)
		checkPlaces(t, i, a, messages[i], "live", live, slices.Sorted(slices.Values(ids(messages[i]))))
		if dirs := asideDirs(t, i); len(dirs) > 0 {
			t.Errorf("%s: put back left %q", i.Config(), dirs)
		}
	}
	for _, i := range both {
		fresh := alive(t, i)
		checkDelivered(t, i, append(messages[i], fresh), slices.Sorted(slices.Values(append(ids(messages[i]), fresh.ID))))
	}
	ends(t, 0, f, "uninstall", "--state", "-y")
	if _, err := os.Stat(state(h)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("records are left: %v", err)
	}
}

// An instance that fails hides nothing of the other, whichever of the two it is.
func TestInstanceThatFails(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name       string
		bad        int // index of the one that fails
		harm, mend string
		says       string // its error
		remedy     string
	}{
		// postmulti lists none of them any more.
		{"no configuration", 1, "cp /etc/postfix-out/main.cf /root/kept; echo garbage >>/etc/postfix-out/main.cf", "cp -p /root/kept /etc/postfix-out/main.cf",
			`configuration of Postfix cannot be read.*missing '='`, "postfix -c /etc/postfix-out check"},
		{"a bad name", 0, "touch /var/spool/postfix/hold/Z", "rm /var/spool/postfix/hold/Z",
			"/hold/Z is taken for a hash directory", "move it out"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			both := twoInstances(t)
			f := newFleet(t, both[:1], queueWarn)
			messages := floodBoth(t, both)
			bad, good := both[row.bad], both[1-row.bad]
			_, err := bad.Run(t.Context(), "sh", "-c", row.harm)
			must(t, err)
			args := []string{"run", "backscatter", "-y", "-e", "rate=0", "-e", rulesFile(t, floodRules(good))}
			doc, r := spoolsweepJSON(t, f, args...)
			if r.status != 2 || hostIn(t, doc, good).Status != show.OK {
				t.Errorf("want exit status 2, and the other done: %v", r)
			}
			failed := hostIn(t, doc, bad)
			if failed.Status != show.Failed || failed.Error == nil || !regexp.MustCompile(row.says).MatchString(failed.Error.Message) ||
				!strings.Contains(failed.Error.Message+failed.Error.Remedy, row.remedy) {
				t.Errorf("want %q with %q: %v", row.says, row.remedy, r)
			}
			if !strings.Contains(r.err, failed.Label()) {
				t.Errorf("no line says which: %v", r)
			}
			checkSwept(t, good, messages[good])
			_, err = bad.Run(t.Context(), "sh", "-c", row.mend)
			must(t, err)
			a, err := bad.Audit(t.Context())
			must(t, err)
			checkPlaces(t, bad, a, messages[bad], "aside", aside, nil)
			// And when it is mended it is swept too, in the same way; the other has
			// nothing to be done.
			ends(t, 0, f, args...)
			checkSwept(t, bad, messages[bad])
			checkSwept(t, good, messages[good])
			for _, i := range both {
				alive(t, i)
			}
		})
	}
}

// Own commands are for one instance at a time, which MAIL_CONFIG names, and never
// for two at once, however many hosts may be stopped.
func TestInstancesByOwnCommands(t *testing.T) {
	t.Parallel()
	both := twoInstances(t)
	f := newFleet(t, both[:1], queueWarn,
		`postfix_stop: "echo stop $MAIL_CONFIG >>/var/log/commands; postfix stop"`,
		`postfix_start: "echo start $MAIL_CONFIG >>/var/log/commands; postfix start"`,
		`postfix_status: "echo status $MAIL_CONFIG >>/var/log/commands; postfix status"`)
	messages := floodBoth(t, both)
	ends(t, 0, f, "run", "backscatter", "-y", "-e", "rate=0", "-e", "max_stopped=0", "-e", rulesFile(t, floodRules(both[0])))
	for _, i := range both {
		checkSwept(t, i, messages[i])
		alive(t, i)
	}
	log, err := os.ReadFile(filepath.Join(both[0].Dir, "upper/var/log/commands"))
	must(t, err)
	var want []string
	for _, i := range both {
		for _, does := range []string{"stop", "start", "status"} {
			want = append(want, does+" "+i.Config())
		}
	}
	if got := strings.Split(strings.TrimSpace(string(log)), "\n"); !cmp.Equal(got, want) {
		t.Errorf("own commands ran as %q, want %q", got, want)
	}
}

// Which instances are meant is said by a variable, and what it names must be there.
func TestInstancesAreNamed(t *testing.T) {
	t.Parallel()
	both := twoInstances(t)
	_, err := both[0].Run(t.Context(), "postmulti", "-i", "postfix-out", "-e", "disable")
	must(t, err)
	must(t, both[1].Postconf(t.Context(), "biff = no")) // and main.cf is not younger than two seconds
	for _, row := range []struct {
		name   string
		vars   []string
		status int
		want   []string // instance and queue directory
		says   string
	}{
		{"those that are enabled", nil, 0, []string{"- /var/spool/postfix"}, ""},
		{"one", []string{"postfix_instances: postfix-out"}, 0, []string{"postfix-out /var/spool/postfix-out"}, ""},
		{"both, in that order", []string{`postfix_instances: [postfix-out, "-"]`}, 0, []string{"postfix-out /var/spool/postfix-out", "- /var/spool/postfix"}, ""},
		{"by its directory", []string{"postfix_config_directory: /etc/postfix-out"}, 0, []string{"- /var/spool/postfix-out"}, ""},
		{"one that is not there", []string{"postfix_instances: [postfix-web]"}, 2, nil, `postfix_instances names "postfix-web", which this host does not have: it has -, postfix-out`},
		{"two variables", []string{"postfix_instances: [postfix-out]", "postfix_config_directory: /etc/postfix"}, 1, nil, "exclude each other"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f := newFleet(t, both[:1], row.vars...)
			r := ends(t, row.status, f, "ping", "-o", "json")
			if !strings.Contains(r.err+strings.ReplaceAll(r.out, `\"`, `"`), row.says) {
				t.Errorf("does not say %q: %v", row.says, r)
			}
			if row.want == nil {
				return
			}
			var got []string
			for _, s := range document(t, r).Hosts {
				var p run.Preflight
				must(t, json.Unmarshal(s.Result, &p))
				got = append(got, s.Instance+" "+p.Postfix.QueueDirectory)
			}
			if !cmp.Equal(got, row.want) {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
