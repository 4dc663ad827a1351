package lab_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	cryptossh "golang.org/x/crypto/ssh"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/sshtest"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// Practice hosts stand for real ones in most tests and in the demo. Here the same
// mail is swept on both, with the same commands, and both must tell the same of it.

// practiceFleet makes practice hosts of these names, which last as long as the
// test, and what reaches them. Their agent is the program, as in its demo.
func practiceFleet(t *testing.T, o practice.Options, vars string, names ...string) (*fleet, []*practice.Host, string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ss") // paths of sockets are short
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	key, err := sshtest.WriteKey(filepath.Join(dir, "key"))
	must(t, err)
	var all []*practice.Host
	var inventory, config, known strings.Builder
	inventory.WriteString("all:\n  vars:\n" + vars + "  hosts:\n")
	for _, name := range names {
		home := filepath.Join(dir, name)
		must(t, practice.Make(home, name, o))
		h, err := practice.Open(home)
		must(t, err)
		s, err := sshtest.Start(sshtest.Config{ClientKeys: []cryptossh.PublicKey{key}, Home: h.Home(), Env: []string{"SPOOLSWEEP_PRACTICE=" + h.Dir}})
		must(t, err)
		t.Cleanup(func() {
			if err := errors.Join(s.Close(), h.Stop(context.Background())); err != nil {
				t.Error(err)
			}
		})
		all = append(all, h)
		fmt.Fprintf(&inventory, "    %s:\n", name)
		fmt.Fprintf(&config, "Host %s\n  HostName 127.0.0.1\n  Port %d\n", name, s.Addr().Port)
		known.WriteString(s.KnownHostsLine())
	}
	fmt.Fprintf(&config, "Host *\n  User practice\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n", filepath.Join(dir, "key"), filepath.Join(dir, "known_hosts"))
	for name, text := range map[string]string{"inventory.yaml": inventory.String(), "ssh_config": config.String(), "known_hosts": known.String()} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	p, err := program()
	must(t, err)
	return &fleet{inventory: filepath.Join(dir, "inventory.yaml"), config: filepath.Join(dir, "ssh_config")}, all, p.file
}

// practised is a message as it would have come to a practice host.
func practised(m lab.Message, q spool.Queue) practice.Message {
	p := practice.Message{
		ID: m.ID, Label: practice.Ham, Queue: q, Sender: m.Sender, Recipients: m.Recipients, Login: m.Login,
		ClientName: "unknown", ClientAddress: m.Client, Helo: "lab", Text: string(m.Text()),
	}
	if m.Spam {
		p.Label = practice.Spam
	}
	if m.Client == "" {
		p.ClientName, p.ClientAddress = "localhost", "127.0.0.1"
	}
	return p
}

// told is an event without what no two hosts have in common.
type told struct {
	Stage string
	Index int
	Kind  string
	Data  any
}

// eventsOf are what a command tells of each host with -o jsonl, in order, without
// what tells only how far it is.
func eventsOf(t *testing.T, r result) map[string][]told {
	t.Helper()
	all := map[string][]told{}
	for line := range strings.Lines(r.out) {
		var e wire.Event
		must(t, json.Unmarshal([]byte(line), &e))
		if e.Kind == wire.Progress {
			continue
		}
		var data any
		if len(e.Data) > 0 {
			must(t, json.Unmarshal(e.Data, &data))
		}
		if counts, ok := data.(map[string]any); ok && e.Stage == "count" && e.Index > 0 && e.Kind == wire.Result {
			// Beside a queue manager that takes what went back a count sees a message
			// twice, or not at all.
			queues := counts["queues"].(map[string]any)
			delete(queues, "incoming")
			delete(queues, "active")
			delete(counts, "messages")
			delete(counts, "level")
		}
		all[e.Host] = append(all[e.Host], told{e.Stage, e.Index, string(e.Kind), common(data)})
	}
	return all
}

// own are the keys of what each host, and each run, has for itself: times, sizes
// (of the headers that are added), processes, names, and the list's hash. A
// practice host has no smtpd that would accept new mail, and of the directories
// that hold no mail only Postfix's.
var own = regexp.MustCompile(`^(.*seconds|bytes|at|first|last|began|ended|master|manager|hostname|version|queue_directory|run|list|accepting|etc|lib|usr|dev|pid)$`)

var (
	runForm     = regexp.MustCompile(`\d{8}T\d{6}Z-\w{4}`)
	messageForm = regexp.MustCompile(`\b(incoming|active|deferred)(\.spamfull)?(/[0-9A-F])?/[0-9A-F]{6,}\b`)
)

// common is a copy of v without what is a host's own.
func common(v any) any {
	switch v := v.(type) {
	case string:
		return messageForm.ReplaceAllString(runForm.ReplaceAllString(strings.ReplaceAll(v, ".practice.test", ".lab.test"), "RUN"), "MESSAGE")
	case []any:
		for i := range v {
			v[i] = common(v[i])
		}
		return v
	case map[string]any:
		for key := range v {
			if own.MatchString(key) {
				delete(v, key)
				continue
			}
			v[key] = common(v[key])
		}
		return v
	}
	return v
}

func TestSameEvents(t *testing.T) {
	t.Parallel()
	const each = 60 // messages in each queue
	two := hosts(t, 2)
	names := []string{two[0].Name, two[1].Name}
	vars := []string{few, "auth_service: none"} // services of a practice host would be this machine's
	real := newFleet(t, two, vars...)
	made, practising, agent := practiceFleet(t, practice.Options{Rate: 0.001, ActiveLimit: each}, "    watch: 0\n"+noLiveMax+"    "+strings.Join(vars, "\n    ")+"\n", names...)
	spam := map[string]int{}
	for i, h := range two {
		seed := uint64(i + 1)
		messages := lab.Flood(account(h), 3*each, seed)
		spam[h.Name] = len(spams(messages))
		// One part after the other, so that each queue has the same on both.
		must(t, h.Flood(lab.Refuse))
		must(t, h.Postconf(t.Context(), fmt.Sprintf("qmgr_message_active_limit = %d", each)))
		lies := map[string]int{}
		for part, q := range []string{"deferred", "active", "incoming"} {
			if q == "active" {
				must(t, h.Flood(lab.Hold))
			}
			must(t, h.Inject(t.Context(), messages[part*each:(part+1)*each]))
			lies[q] = each
			await(t, h, lies)
		}

		p := practising[i]
		must(t, p.Start(t.Context()))
		for part, q := range []spool.Queue{spool.Deferred, spool.Incoming, spool.Incoming} {
			var list []practice.Message
			for _, m := range lab.Flood("spam-account@"+p.Hostname(), 3*each, seed)[part*each : (part+1)*each] {
				list = append(list, practised(m, q))
			}
			_, err := p.SubmitAll(list)
			must(t, err)
			if part == 1 {
				eventually(t, time.Minute, "a full active", func() bool {
					a, err := p.Audit()
					must(t, err)
					return a.Count(practice.Spam)["active"]+a.Count(practice.Ham)["active"] == each
				})
			}
		}
	}
	rules := floodRules(two...)
	run := map[*fleet]string{}
	onBoth := func(args ...string) {
		t.Helper()
		var all []map[string][]told
		for _, f := range []*fleet{real, made} {
			line := append(slices.Clone(args), "-o", "jsonl")
			if f == made {
				line = append(line, "--agent", agent)
			}
			for i := range line {
				line[i] = strings.Replace(line[i], "RUN", run[f], 1)
			}
			r := succeeds(t, f, line...)
			if run[f] == "" {
				run[f] = runIn(t, r)
			}
			all = append(all, eventsOf(t, r))
		}
		if n := len(all[0][names[0]]) + len(all[0][names[1]]); n < 2 {
			t.Fatalf("%q tells %d events: does this test still look?", args, n)
		}
		if diff := cmp.Diff(all[0], all[1]); diff != "" {
			t.Errorf("%q, -lab +practice:\n%s", args, diff)
		}
	}
	// Accounts have the names of their hosts; what follows the @ is compared nowhere.
	rules = strings.ReplaceAll(rules, ".lab.test", ".*.test")
	onBoth("run", "backscatter", "-y", "-e", "rate=0", "-e", rulesFile(t, rules))
	// On one host all goes back, on the other one the spam goes for good.
	for i, args := range [][]string{{"putback", "RUN", "--include-spam", "--rate", "0", "--live-max", "0"}, {"purge", "RUN"}} {
		onBoth(append(args, "-y", "-l", names[i], "--expect", strconv.Itoa(spam[names[i]]))...)
	}
}
