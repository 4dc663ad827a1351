package lab_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
)

// This benchmark does the same to a fleet from one controller, with the program and with
// Ansible, and through workers of ansible-runner, each of which has a part of the hosts
// in a network of its own, and prints what that costs:
//
//	SPOOLSWEEP_LAB=require go test ./remote/lab -run '^$' -bench Engine -benchtime 1x -timeout 1h -args -fleet 20 -workers 2
var workerCount = flag.Int("workers", 2, "workers of ansible-runner that the benchmark's fleet is divided among")

func BenchmarkEngine(b *testing.B) {
	for _, name := range []string{"ansible", "ansible-runner", "python3"} {
		needs.Program(b, name)
	}
	if os.Getenv("SPOOLSWEEP_LAB") != "require" {
		b.Skip("needs hosts of its own: SPOOLSWEEP_LAB=require, as root")
	}
	b.Run("Health", func(b *testing.B) { newEngine(b).health() })
	b.Run("Sweep", func(b *testing.B) { newEngine(b).sweep() })
}

// engine is a fleet, and what measures.
type engine struct {
	*fleet
	b    *testing.B
	dir  string
	dist string
	wrap string // see spent
}

func newEngine(b *testing.B) *engine {
	var names []string
	for i := range *fleetSize {
		names = append(names, fmt.Sprintf("mx%02d", i+1))
	}
	l, err := lab.Temp(b.Context(), names...)
	must(b, err)
	b.Cleanup(func() { must(b, l.Down()) })
	all, err := l.Hosts()
	must(b, err)
	e := &engine{fleet: newFleet(b, all, few), b: b, dir: b.TempDir()}
	e.dist = filepath.Join(e.dir, "dist")
	alone(b, e.fleet, "collection", "--output", e.dist)
	e.wrap = filepath.Join(e.dir, "spent.py")
	must(b, os.WriteFile(e.wrap, []byte(spentScript), 0o600))
	return e
}

// spent is what one or several programs took, with all that they started.
type spent struct {
	Seconds   float64 // from the first's begin to the last's end
	Processor float64
	MiB       float64 // the most at a time of all processes, shared pages once
}

// spentScript runs a program, waits for all that it leaves too, as the masters of ssh,
// and writes what processor time that was. With "memory" it adds up, while the program
// runs, what its processes have in memory.
const spentScript = `
import ctypes, json, os, resource, signal, subprocess, sys, threading, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
def parents():
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            found[int(pid)] = int(open("/proc/%s/stat" % pid).read().rsplit(")", 1)[1].split()[1])
        except OSError:
            pass
    return found
def below(root):
    of, found = parents(), set()
    grown = {root}
    while grown:
        grown = {p for p, parent in of.items() if parent in grown} - found
        found |= grown
    return found
def memory():
    sum = 0
    for pid in below(os.getpid()):
        try:
            for line in open("/proc/%d/smaps_rollup" % pid):
                if line.startswith("Pss:"):
                    sum += int(line.split()[1])
        except OSError:
            pass
    return sum
most = 0
began = time.monotonic()
p = subprocess.Popen(sys.argv[3:])
if sys.argv[2] == "memory":
    while p.poll() is None:
        most = max(most, memory())
        time.sleep(0.1)
p.wait()
seconds = time.monotonic() - began
for pid in [pid for pid, parent in parents().items() if parent == os.getpid()]:
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError:
        pass
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
r = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump({"Seconds": seconds, "Processor": r.ru_utime + r.ru_stime, "MiB": most / 1024}, open(sys.argv[1], "w"))
sys.exit(p.returncode)
`

// measured is a command line that writes what it took to a file.
func (e *engine) measured(what, file string, argv ...string) []string {
	return append([]string{"python3", e.wrap, filepath.Join(e.dir, file+".json"), what}, argv...)
}

func (e *engine) took(file string) (s spent) {
	text, err := os.ReadFile(filepath.Join(e.dir, file+".json"))
	must(e.b, err)
	must(e.b, json.Unmarshal(text, &s))
	return s
}

// traffic is how many bytes have passed the links of all hosts.
func (e *engine) traffic() (sum int64) {
	for _, h := range e.hosts {
		out, err := h.Run(e.b.Context(), "cat", "/proc/net/dev")
		must(e.b, err)
		for line := range strings.Lines(out) {
			name, numbers, _ := strings.Cut(strings.TrimSpace(line), ":")
			if f := strings.Fields(numbers); name == "eth0" && len(f) > 8 {
				for _, n := range []string{f[0], f[8]} {
					bytes, err := strconv.ParseInt(n, 10, 64)
					must(e.b, err)
					sum += bytes
				}
			}
		}
	}
	return sum
}

// means is one way to do the same on hosts.
type means struct {
	name string
	// do does it on all hosts, or on the first few, and tells where it took what, and how
	// long all of it was.
	do   func(limit string) (at map[string]spent, seconds float64)
	wire func() int64 // bytes between control side and workers; nil for none
	jobs []*job       // of workers
}

// cost is what one way has taken, the middle of all rounds.
type cost struct {
	seconds   float64
	processor map[string]float64 // by place
	crossed   float64            // bytes on the hosts' links
	wire      float64
}

func (e *engine) cost(m means, limit string, times int) cost {
	var seconds []float64
	sums := map[string][]float64{}
	c := cost{processor: map[string]float64{}}
	for range times {
		before := e.traffic()
		at, took := m.do(limit)
		c.crossed = float64(e.traffic() - before)
		seconds = append(seconds, took)
		for place, s := range at {
			sums[place] = append(sums[place], s.Processor)
		}
	}
	c.seconds = middle(seconds)
	for place, all := range sums {
		c.processor[place] = middle(all)
	}
	if m.wire != nil {
		c.wire = float64(m.wire())
	}
	return c
}

// compare does it on as many hosts as there are workers, and on all, and prints what
// the latter takes, and what each further host adds.
func (e *engine) compare(all []means) {
	few, n := *workerCount, len(e.hosts)
	var names []string
	for _, h := range e.hosts[:few] {
		names = append(names, h.Name)
	}
	for _, m := range all {
		m.do("") // what is sent once is there afterwards
		little, whole := e.cost(m, strings.Join(names, ","), *rounds), e.cost(m, "", *rounds)
		e.b.Logf("%-28s %6.2f s for %d hosts, %.2f s for %d", m.name, whole.seconds, n, little.seconds, few)
		further := func(whole, little float64) float64 { return (whole - little) / float64(n-few) }
		text := fmt.Sprintf("each further: %.0f bytes on its link", further(whole.crossed, little.crossed))
		if m.wire != nil {
			text += fmt.Sprintf(", %.0f between worker and control side (%.0f of %d)", further(whole.wire, little.wire), little.wire, few)
		}
		for _, place := range slices.Sorted(maps.Keys(whole.processor)) {
			w, l := whole.processor[place], little.processor[place]
			text += fmt.Sprintf("; %.3f s of processor at the %s (%.2f s of %d)", further(w, l), place, l, few)
		}
		e.b.Logf("%-28s %s", "", text)
	}
}

func middle(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// ours is a command of the program from one controller.
func (e *engine) ours(args ...string) means {
	argv, env := commandLine(e.b, e.fleet, args...)
	return means{name: "spoolsweep " + args[0], do: func(limit string) (map[string]spent, float64) {
		s := e.run(env, "ours", limited(argv, limit)...)
		return map[string]spent{"controller": s}, s.Seconds
	}}
}

func (e *engine) run(env []string, file string, argv ...string) spent {
	argv = e.measured("time", file, argv...)
	cmd := exec.CommandContext(e.b.Context(), argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = env, e.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		e.b.Fatalf("%s: %v\n%s", argv[4], err, out)
	}
	return e.took(file)
}

// ansible is a play from one controller.
func (e *engine) ansible(play string, forks int) means {
	home := filepath.Join(e.dir, "ansible")
	must(e.b, os.MkdirAll(home, 0o700))
	file := filepath.Join(e.dir, "site.yml")
	must(e.b, os.WriteFile(file, []byte(play), 0o600))
	env := append(e.runnerEnv(home), "PATH="+os.Getenv("PATH"), "HOME="+home, "LANG=C.UTF-8")
	argv := []string{"ansible-playbook", "-i", e.inventory, "-f", strconv.Itoa(forks), file}
	return means{name: "ansible-playbook -f " + strconv.Itoa(forks), do: func(limit string) (map[string]spent, float64) {
		s := e.run(env, "ansible", limited(argv, limit)...)
		return map[string]spent{"controller": s}, s.Seconds
	}}
}

func limited(argv []string, limit string) []string {
	if limit == "" {
		return argv
	}
	return append(slices.Clone(argv), "--limit", limit)
}

// runnerEnv is what ansible is told on whichever machine.
func (e *engine) runnerEnv(home string) []string {
	var all []string
	for line := range strings.Lines(ansibleSettings(e.dist, home, e.hosts[0].KnownHosts())) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		all = append(all, name+"="+value)
	}
	return all
}

// workers is a play through several workers at once, each with its part of the hosts.
func (e *engine) workers(play string, forks int) means {
	n := *workerCount
	var jobs []*job
	for i := range n {
		var part []*lab.Host
		for k, h := range e.hosts {
			if k%n == i {
				part = append(part, h)
			}
		}
		island, err := lab.NewIsland(e.b.Context(), part...)
		must(e.b, err)
		e.b.Cleanup(func() { must(e.b, island.Close()) })
		j := newJob(e.b, newFleet(e.b, part, few), island, e.dist, fmt.Sprintf("worker%d", i+1), play)
		steps := []string{"transmit", "worker", "process"}
		j.wrap = func(step int, argv ...string) []string {
			return e.measured("time", j.ident+steps[step], argv...)
		}
		jobs = append(jobs, j)
	}
	return means{
		name: fmt.Sprintf("%d workers, --forks %d each", n, forks), jobs: jobs,
		do: func(limit string) (map[string]spent, float64) {
			began := time.Now()
			var all sync.WaitGroup
			for _, j := range jobs {
				must(e.b, os.RemoveAll(filepath.Join(j.dir, "out")))
				all.Go(func() {
					if said, _, err := j.do(e.b.Context(), limited([]string{"--forks", strconv.Itoa(forks)}, limit)...); err != nil {
						e.b.Errorf("%s: %v\n%s", j.ident, err, said)
					}
				})
			}
			all.Wait()
			seconds := time.Since(began).Seconds()
			at := map[string]spent{}
			for _, j := range jobs {
				for step, place := range map[string]string{"transmit": "control side", "process": "control side", "worker": "workers"} {
					s := at[place]
					s.Processor += e.took(j.ident + step).Processor
					at[place] = s
				}
			}
			return at, seconds
		},
		wire: func() (sum int64) {
			for _, j := range jobs {
				sum += j.sent + j.came
			}
			return sum
		},
	}
}

const lookPlay = "- hosts: all\n  gather_facts: false\n  tasks:\n    - spoolsweep.postfix.queue_info:\n"

// health: how full the queues are, of each host.
func (e *engine) health() {
	for e.b.Loop() {
		forks := len(e.hosts)
		ansible := e.ansible(lookPlay, forks)
		ansible.do("") // sends the agent
		e.memory(forks)
		e.compare([]means{e.ours("health"), ansible})
		// From here on the workers alone reach the hosts.
		e.compare([]means{e.workers(lookPlay, forks / *workerCount)})
	}
}

// sweep: the whole cleanup of a small flood, on all hosts at once.
func (e *engine) sweep() {
	rules := filepath.Join(e.dir, "rules.yaml")
	must(e.b, os.WriteFile(rules, []byte(floodRules(e.hosts...)), 0o600))
	const play = "- hosts: all\n  gather_facts: false\n  vars_files: [%s]\n  vars: {max_stopped: 0}\n  roles: [spoolsweep.postfix.backscatter]\n"
	for e.b.Loop() {
		forks := len(e.hosts)
		e.ours("ping").do("")
		e.ansible(lookPlay, forks).do("")
		for _, m := range []func() means{
			func() means { return e.ours("run", "backscatter", "-y", "-e", "@"+rules, "-e", "max_stopped=0") },
			func() means { return e.ansible(fmt.Sprintf(play, rules), forks) },
			func() means { return e.workers(fmt.Sprintf(play, rules), forks / *workerCount) },
		} {
			e.flood()
			m := m()
			c, n := e.cost(m, "", 1), float64(len(e.hosts))
			text := fmt.Sprintf("%-28s %6.2f s for %d hosts, of each %.0f bytes on its link", m.name, c.seconds, len(e.hosts), c.crossed/n)
			if m.wire != nil {
				text += fmt.Sprintf(", %.0f between worker and control side", c.wire/n)
			}
			for _, place := range slices.Sorted(maps.Keys(c.processor)) {
				text += fmt.Sprintf("; %.3f s of processor at the %s", c.processor[place]/n, place)
			}
			if whole, stopping := e.durations(m.jobs); whole > 0 {
				text += fmt.Sprintf("; its tasks last %.1f s, %.1f s the one that stops Postfix", whole, stopping)
			}
			e.b.Log(text)
		}
	}
}

// durations are how long the tasks of a host have lasted, and the one that stops
// Postfix, by the artifacts: of the host in the middle.
func (e *engine) durations(jobs []*job) (whole, stopping float64) {
	sums, stops := map[string]float64{}, []float64{}
	for _, j := range jobs {
		all, err := filepath.Glob(filepath.Join(j.artifacts(), "job_events", "*.json"))
		must(e.b, err)
		for _, file := range all {
			var event struct {
				Event string
				Data  struct {
					Host     string
					Action   string `json:"resolved_action"`
					Duration float64
				} `json:"event_data"`
			}
			text, err := os.ReadFile(file)
			must(e.b, err)
			must(e.b, json.Unmarshal(text, &event))
			if event.Event != "runner_on_ok" {
				continue
			}
			sums[event.Data.Host] += event.Data.Duration
			if event.Data.Action == "spoolsweep.postfix.set_aside" {
				stops = append(stops, event.Data.Duration)
			}
		}
	}
	if len(stops) == 0 {
		return 0, 0
	}
	return middle(slices.Collect(maps.Values(sums))), middle(stops)
}

// flood has more in deferred of each host than is well.
func (e *engine) flood() {
	const n = 60
	want := make([]int, len(e.hosts))
	errs := make([]error, len(e.hosts))
	var all sync.WaitGroup
	for i, h := range e.hosts {
		want[i] = len(files(e.b, h, "deferred")) + n
		all.Go(func() { errs[i] = h.Inject(e.b.Context(), lab.Flood(account(h), n, uint64(want[i]))) })
	}
	all.Wait()
	must(e.b, errors.Join(errs...))
	for i, h := range e.hosts {
		eventually(e.b, 2*time.Minute, "all in deferred", func() bool { return len(files(e.b, h, "deferred")) == want[i] })
	}
}

// memory is what more forks of Ansible have in memory.
func (e *engine) memory(forks int) {
	most := func(n int) float64 {
		home := filepath.Join(e.dir, "ansible")
		argv := e.measured("memory", "memory", "ansible-playbook", "-i", e.inventory, "-f", strconv.Itoa(n), "-l", fmt.Sprintf("all[0:%d]", n-1), filepath.Join(e.dir, "site.yml"))
		cmd := exec.CommandContext(e.b.Context(), argv[0], argv[1:]...)
		cmd.Env = append(e.runnerEnv(home), "PATH="+os.Getenv("PATH"), "HOME="+home, "LANG=C.UTF-8")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			e.b.Fatalf("%v\n%s", err, out.String())
		}
		return e.took("memory").MiB
	}
	few, all := most(2), most(forks)
	e.b.Logf("%-34s %.0f MiB with 2 forks, %.0f MiB with %d: %.1f MiB a fork, with its ssh", "ansible-playbook", few, all, forks, (all-few)/float64(forks-2))
}
