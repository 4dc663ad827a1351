package lab_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/stage"
)

// returned is what a module of the collection tells.
type returned struct {
	Changed     bool
	Failed      bool `json:"-"` // as the exit status of ansible says, of any host
	Msg, Remedy string
	Result      json.RawMessage
	// Of modules that change something.
	Run, Instance, Waits string
	Events               []wire.Event
	Results              map[string]json.RawMessage
}

// ansibleEnv is where Ansible finds the collection in dist, and nothing of whoever
// runs the test.
func ansibleEnv(t *testing.T, f *fleet, dist string) []string {
	t.Helper()
	home := t.TempDir()
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "ANSIBLE_COLLECTIONS_PATH=" + dist, "ANSIBLE_LOCAL_TEMP=" + home,
		"ANSIBLE_SSH_ARGS=-F none -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + f.hosts[0].KnownHosts()}
}

// ansible runs a module on all hosts of a fleet, with the collection in dist.
func ansible(t *testing.T, f *fleet, dist, module, args string, more ...string) map[string]returned {
	t.Helper()
	tree := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "ansible", append([]string{"all", "-i", f.inventory, "-m", "spoolsweep.postfix." + module, "-a", args, "--tree", tree}, more...)...)
	cmd.Env = ansibleEnv(t, f, dist)
	out, failed := cmd.CombinedOutput()
	all := map[string]returned{}
	for _, h := range f.hosts {
		text, err := os.ReadFile(filepath.Join(tree, h.Name))
		if err != nil {
			t.Fatalf("ansible -m %s: %v\n%s", module, err, out)
		}
		var r returned
		if err := json.Unmarshal(text, &r); err != nil {
			t.Fatalf("%s: %v: %s", h.Name, err, text)
		}
		r.Failed = failed != nil
		all[h.Name] = r
	}
	return all
}

// The modules of the collection find what the commands find, on hosts that have
// nothing of Ansible's, as root and as somebody who becomes root, and change nothing.
func TestAnsibleLooks(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, few)
	dist := filepath.Join(t.TempDir(), "dist")
	alone(t, f, "collection", "--output", dist)
	var messages [2][]lab.Message
	for i, h := range two {
		messages[i] = smallFlood(t, h)
	}
	rules := floodRules(two...)
	admin := newFleet(t, two, few, "ansible_user: admin", "ansible_become: true")
	for as, check := range map[*fleet][]string{f: nil, admin: {"--check"}} {
		queues := ansible(t, as, dist, "queue_info", "", check...)
		judged := ansible(t, as, dist, "classify", rulesJSON(two...), check...)
		who := ansible(t, as, dist, "suspects", "top=3", check...)
		health, _ := spoolsweepJSON(t, f, "health")
		classified, _ := spoolsweepJSON(t, f, "classify", "-e", rulesFile(t, rules))
		for _, h := range two {
			for _, r := range []returned{queues[h.Name], judged[h.Name], who[h.Name]} {
				if r.Changed || r.Failed {
					t.Fatalf("%s: %+v", h.Name, r)
				}
			}
			var counts [2]stage.Counts
			must(t, json.Unmarshal(queues[h.Name].Result, &counts[0]))
			must(t, json.Unmarshal(hostIn(t, health, h).Result, &counts[1]))
			if counts[0].Messages != counts[1].Messages || counts[0].Level != counts[1].Level || counts[0].Warn != 50 {
				t.Errorf("%s: queue_info %+v, health %+v", h.Name, counts[0], counts[1])
			}
			var verdicts [2]stage.Classified
			must(t, json.Unmarshal(judged[h.Name].Result, &verdicts[0]))
			must(t, json.Unmarshal(hostIn(t, classified, h).Result, &verdicts[1]))
			if d := cmp.Diff(verdicts[1].Verdicts, verdicts[0].Verdicts); d != "" || verdicts[0].Spam == 0 {
				t.Errorf("%s: (-classify +module): %s", h.Name, d)
			}
			var suspects stage.Suspects
			must(t, json.Unmarshal(who[h.Name].Result, &suspects))
			if len(suspects.Senders) != 3 || len(suspects.SASLUsers) == 0 {
				t.Errorf("%s: %+v", h.Name, suspects)
			}
		}
	}
	// A mistake is told with what to do.
	if r := ansible(t, f, dist, "suspects", "top=0")[two[0].Name]; !r.Failed || !strings.Contains(r.Msg, "top: 0 is not from 1") {
		t.Errorf("top=0: %+v", r)
	}
	if r := ansible(t, newFleet(t, two, "ansible_user: admin"), dist, "classify", "")[two[0].Name]; !r.Failed || !strings.Contains(r.Remedy, "root") {
		t.Errorf("not as root: %+v", r)
	}
	for i, h := range two {
		a, err := h.Audit(t.Context())
		must(t, err)
		checkOnce(t, h, a, messages[i])
		if dirs, err := filepath.Glob(filepath.Join(h.Dir, "upper/var/lib/spoolsweep*")); err != nil || len(dirs) > 0 {
			t.Errorf("%s: left %v, %v", h.Name, dirs, err)
		}
	}
}

// rulesJSON are floodRules as an argument of a module.
func rulesJSON(hosts ...*lab.Host) string {
	var any []string
	for _, h := range hosts {
		any = append(any, fmt.Sprintf(`{"sasl_user": %q}, {"all": [{"sender": "<>"}, {"recipient": %q}]}`, account(h), account(h)))
	}
	return `{"spam": {"any": [` + strings.Join(any, ", ") + `]}}`
}
