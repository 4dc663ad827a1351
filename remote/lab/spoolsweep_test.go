package lab_test

import (
	"bufio"
	"bytes"
	stdcmp "cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab"
)

// commandLimit is far more than any command of a test takes.
const commandLimit = 3 * time.Minute

// program is the binary under test, with a home of its own. The agent is built
// by the first command that needs it, and then lies in that home's cache.
var program = sync.OnceValues(func() (p struct{ home, file string }, err error) {
	if p.home, err = os.MkdirTemp("", "spoolsweep-test"); err != nil {
		return p, err
	}
	p.file = filepath.Join(p.home, "spoolsweep")
	argv := []string{"build", "-o", p.file}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		argv = append(argv, "-race")
	}
	cmd := exec.Command("go", append(argv, "./cmd/spoolsweep")...)
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		return p, fmt.Errorf("build spoolsweep: %w\n%s", err, out)
	}
	return p, nil
})

// built says whether there is a home to remove.
var built atomic.Bool

func removeProgram() error {
	if !built.Load() {
		return nil
	}
	p, _ := program()
	return os.RemoveAll(p.home)
}

// goCaches are where go build keeps its things: with another home it would
// compile the standard library again for the agent.
var goCaches = sync.OnceValues(func() ([]string, error) {
	out, err := exec.Command("go", "env", "-json", "GOCACHE", "GOMODCACHE", "GOPATH", "GOFLAGS", "GOPROXY").Output()
	if err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	var values map[string]string
	if err := json.Unmarshal(out, &values); err != nil {
		return nil, fmt.Errorf("go env: %w", err)
	}
	var env []string
	for name, value := range values {
		env = append(env, name+"="+value)
	}
	return env, nil
})

// fleet is what a test's commands are for: hosts, and an inventory of its own.
type fleet struct {
	hosts     []*lab.Host
	inventory string
	known     string // file of host keys; "" is the lab's
	config    string // of ssh, which names the host keys too; "" for none
}

// noLiveMax is for servers that never answer: what went back stays live there, and
// a restore that waits for it would wait for ever.
const noLiveMax = "    live_max: 0\n"

// newFleet writes an inventory of the hosts. vars are lines such as
// "queue_warn: 50", and hold for all of them; they come last, so that
// "ansible_user: admin" has its way.
func newFleet(t testing.TB, hosts []*lab.Host, vars ...string) *fleet {
	t.Helper()
	f := &fleet{hosts: hosts, inventory: filepath.Join(t.TempDir(), "inventory.yaml")}
	var b strings.Builder
	b.WriteString("all:\n  hosts:\n")
	for _, h := range hosts {
		fmt.Fprintf(&b, "    %s: {ansible_host: %s}\n", h.Name, h.Address)
	}
	fmt.Fprintf(&b, "  vars:\n    ansible_ssh_private_key_file: %s\n", hosts[0].Key())
	if !slices.ContainsFunc(vars, func(v string) bool { return strings.HasPrefix(v, "ansible_user:") }) {
		b.WriteString("    ansible_user: root\n")
	}
	if !slices.ContainsFunc(vars, func(v string) bool { return strings.HasPrefix(v, "watch:") }) {
		b.WriteString("    watch: 0\n") // a minute's wait in every test
	}
	if !slices.ContainsFunc(vars, func(v string) bool { return strings.HasPrefix(v, "live_max:") }) {
		b.WriteString(noLiveMax)
	}
	for _, v := range vars {
		b.WriteString("    " + v + "\n")
	}
	must(t, os.WriteFile(f.inventory, []byte(b.String()), 0o600))
	return f
}

// afflict gives one host of the inventory a variable of its own, or several.
func (f *fleet) afflict(t *testing.T, h *lab.Host, vars ...string) {
	t.Helper()
	text, err := os.ReadFile(f.inventory)
	must(t, err)
	own := fmt.Sprintf("    %s: {ansible_host: %s}\n", h.Name, h.Address)
	if !strings.Contains(string(text), own) {
		t.Fatalf("no host %s in\n%s", h.Name, text)
	}
	with := fmt.Sprintf("    %s:\n      ansible_host: %s\n", h.Name, h.Address)
	for _, v := range vars {
		with += "      " + v + "\n"
	}
	must(t, os.WriteFile(f.inventory, []byte(strings.Replace(string(text), own, with, 1)), 0o600))
}

// result is how a command ended, and all it said.
type result struct {
	status   int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d\nstdout:\n%s\nstderr:\n%s", r.status, r.out, r.err)
}

// spoolsweep runs the program to its end.
func spoolsweep(t testing.TB, f *fleet, args ...string) result {
	t.Helper()
	return start(t, f, args...).wait()
}

// succeeds is spoolsweep where nothing but success is right.
func succeeds(t testing.TB, f *fleet, args ...string) result {
	t.Helper()
	return ends(t, 0, f, args...)
}

// ends is spoolsweep where only one exit status is right.
func ends(t testing.TB, status int, f *fleet, args ...string) result {
	t.Helper()
	r := spoolsweep(t, f, args...)
	if r.status != status {
		t.Fatalf("spoolsweep %s: want exit status %d, got %v", strings.Join(args, " "), status, r)
	}
	return r
}

// spoolsweepJSON runs the program with -o json.
func spoolsweepJSON(t testing.TB, f *fleet, args ...string) (*show.Document, result) {
	t.Helper()
	r := spoolsweep(t, f, append(args, "-o", "json")...)
	return document(t, r), r
}

// document decodes what -o json printed.
func document(t testing.TB, r result) *show.Document {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(r.out))
	d.DisallowUnknownFields()
	doc := new(show.Document)
	if err := d.Decode(doc); err != nil {
		t.Fatalf("-o json: %v: %v", err, r)
	}
	return doc
}

// hostIn finds one host's part of a document.
func hostIn(t testing.TB, doc *show.Document, h *lab.Host) *show.Host {
	t.Helper()
	instance := stdcmp.Or(h.Instance, "-")
	i := slices.IndexFunc(doc.Hosts, func(s *show.Host) bool { return s.Host == h.Name && s.Instance == instance })
	if i < 0 {
		t.Fatalf("no host %s in the document of %s", h.Name, doc.Command)
	}
	return doc.Hosts[i]
}

var runID = regexp.MustCompile(`(?m)^run (\d{8}T\d{6}Z-\w{4})$`)

// resultOf is a host's result of a command of one stage.
func resultOf[T any](t testing.TB, doc *show.Document, h *lab.Host) T {
	t.Helper()
	var r T
	if err := json.Unmarshal(hostIn(t, doc, h).Result, &r); err != nil {
		t.Fatalf("%s: %v in %s", h.Name, err, hostIn(t, doc, h).Result)
	}
	return r
}

// runIn is the id of the run that a command began, as a person would read it.
func runIn(t *testing.T, r result) string {
	t.Helper()
	m := runID.FindStringSubmatch(r.err)
	if m == nil {
		t.Fatalf("no line names the run: %v", r)
	}
	return m[1]
}

// running is the program at work.
type running struct {
	*exec.Cmd
	t    testing.TB
	args string

	mu     sync.Mutex // guards the rest
	told   *sync.Cond
	out    bytes.Buffer
	err    bytes.Buffer
	lines  []said
	ended  bool
	status int
}

// said is one line of output, and when it came.
type said struct {
	stdout bool
	text   string
	at     time.Time
}

// commandLine is what to execute for a command of the program, and its environment.
func commandLine(t testing.TB, f *fleet, args ...string) (argv, env []string) {
	t.Helper()
	built.Store(true)
	p, err := program()
	must(t, err)
	env, err = goCaches()
	must(t, err)
	argv = append([]string{p.file}, args...)
	argv = append(argv, "-i", f.inventory, "--ssh-config", stdcmp.Or(f.config, "none"))
	if f.config == "" {
		argv = append(argv, "--known-hosts", stdcmp.Or(f.known, f.hosts[0].KnownHosts()))
	}
	return argv, append(slices.Clone(env), "PATH="+os.Getenv("PATH"), "HOME="+p.home, "XDG_CACHE_HOME="+filepath.Join(p.home, "cache"),
		"XDG_STATE_HOME="+filepath.Join(p.home, "state"), "XDG_CONFIG_HOME="+filepath.Join(p.home, "config"), "LANG=C.UTF-8")
}

// start starts the program. It is killed when the test ends.
func start(t testing.TB, f *fleet, args ...string) *running {
	t.Helper()
	argv, env := commandLine(t, f, args...)
	limit := commandLimit
	if *long {
		limit *= 5
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	r := &running{Cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), t: t, args: strings.Join(argv[1:], " ")}
	r.told = sync.NewCond(&r.mu)
	r.Env, r.Dir = env, t.TempDir()
	stdout, err := r.StdoutPipe()
	must(t, err)
	stderr, err := r.StderrPipe()
	must(t, err)
	must(t, r.Start())
	var reading sync.WaitGroup
	reading.Go(func() { r.read(stdout, true) })
	reading.Go(func() { r.read(stderr, false) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		reading.Wait()
		err := r.Wait()
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.ended, r.status = true, r.ProcessState.ExitCode()
		if err != nil && !errors.As(err, new(*exec.ExitError)) {
			r.err.WriteString(err.Error())
		}
		r.told.Broadcast()
	}()
	t.Cleanup(func() { cancel(); <-done })
	return r
}

func (r *running) read(from io.Reader, stdout bool) {
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadString('\n')
		r.mu.Lock()
		if line != "" {
			if stdout {
				r.out.WriteString(line)
			} else {
				r.err.WriteString(line)
			}
			r.lines = append(r.lines, said{stdout, strings.TrimSuffix(line, "\n"), time.Now()})
			r.told.Broadcast()
		}
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// waitFor waits for a line, on either stream, that the expression matches, and
// returns its submatches. A program that ends without it fails the test.
func (r *running) waitFor(expression string) []string {
	r.t.Helper()
	re := regexp.MustCompile(expression)
	r.mu.Lock()
	defer r.mu.Unlock()
	for seen := 0; ; {
		for ; seen < len(r.lines); seen++ {
			if m := re.FindStringSubmatch(r.lines[seen].text); m != nil {
				return m
			}
		}
		if r.ended {
			r.t.Fatalf("spoolsweep %s ended without a line %q: %v", r.args, expression, r.result())
		}
		r.told.Wait()
	}
}

// run waits for the id of the run that this command begins.
func (r *running) run() string {
	r.t.Helper()
	return r.waitFor(runID.String())[1]
}

// wait waits for the end. A program that was killed has status -1.
func (r *running) wait() result {
	r.mu.Lock()
	defer r.mu.Unlock()
	for !r.ended {
		r.told.Wait()
	}
	return r.result()
}

// result is for who holds the lock.
func (r *running) result() result { return result{r.status, r.out.String(), r.err.String()} }

// said returns the lines so far.
func (r *running) said() []said {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

// account is whose password was stolen.
func account(h *lab.Host) string { return "spam-account@" + h.Name + ".lab.test" }

// floodRules take all of Flood's spam, by where it comes from and goes to.
func floodRules(hosts ...*lab.Host) string {
	var b strings.Builder
	b.WriteString("spam:\n  any:\n")
	for _, h := range hosts {
		fmt.Fprintf(&b, "    - sasl_user: %s\n    - all: [{sender: \"<>\"}, {recipient: %s}]\n", account(h), account(h))
	}
	return b.String()
}

// rulesFile returns the argument of -e for rules.
func rulesFile(t *testing.T, rules string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rules.yaml")
	must(t, os.WriteFile(name, []byte(rules), 0o600))
	return "@" + name
}

// flooded fills the host's queues with a flood of so many messages, as in
// {"deferred": 300, "active": 300, "incoming": 400}. What is in active and
// incoming is held there by a server that never answers, and goes on only when
// the test calls Flood.
func flooded(t *testing.T, h *lab.Host, seed uint64, queues map[string]int) []lab.Message {
	t.Helper()
	messages := lab.Flood(account(h), queues["deferred"]+queues["active"]+queues["incoming"], seed)
	if len(messages) == 0 {
		t.Fatalf("no flood in %v", queues)
	}
	lies := map[string]int{}
	if n := queues["deferred"]; n > 0 {
		must(t, h.Flood(lab.Refuse))
		must(t, h.Inject(t.Context(), messages[:n]))
		lies["deferred"] = n
		await(t, h, lies)
	}
	held := messages[queues["deferred"]:]
	if len(held) == 0 {
		return messages
	}
	must(t, h.Flood(lab.Hold))
	if n := queues["incoming"]; n > 0 {
		must(t, h.Postconf(t.Context(), fmt.Sprintf("qmgr_message_active_limit = %d", max(1, queues["active"]))))
		lies["incoming"] = n
	}
	if n := queues["active"]; n > 0 {
		lies["active"] = n
	}
	must(t, h.Inject(t.Context(), held))
	await(t, h, lies)
	return messages
}

// laterMail is more mail of a host, beside what has flooded it.
func laterMail(h *lab.Host, n int, seed uint64) []lab.Message {
	later := lab.Flood(account(h), n, seed)
	for i := range later {
		later[i].ID = "later-" + later[i].ID
	}
	return later
}

// spams and hams are the ids of one kind, sorted.
func spams(messages []lab.Message) []string { return ofKind(messages, true) }
func hams(messages []lab.Message) []string  { return ofKind(messages, false) }

func ofKind(messages []lab.Message, spam bool) []string {
	var all []string
	for _, m := range messages {
		if m.Spam == spam {
			all = append(all, m.ID)
		}
	}
	slices.Sort(all)
	return all
}

// Where messages are, for Audit.In.
var (
	live  = []string{"maildrop", "incoming", "active", "deferred", "hold", "delivered"}
	aside = []string{"*.spamfull*"}
)

// checkPlaces looks that no message is lost and none is there twice, and that
// those in the directories are the ones that are wanted, sorted.
func checkPlaces(t *testing.T, h *lab.Host, a lab.Audit, messages []lab.Message, where string, dirs, want []string) {
	t.Helper()
	if lost, twice := a.Lost(ids(messages)), a.Twice(); len(lost)+len(twice) > 0 {
		t.Errorf("%s: lost %d: %q, twice %d: %q", h.Name, len(lost), some(lost), len(twice), some(twice))
	}
	if len(a.Unreadable)+len(a.Incomplete)+len(a.Foreign) > 0 {
		t.Errorf("%s: unreadable %v, incomplete %v, foreign %v", h.Name, a.Unreadable, a.Incomplete, a.Foreign)
	}
	if got := a.In(dirs...); !cmp.Equal(got, want) {
		more := slices.DeleteFunc(slices.Clone(got), func(id string) bool { return slices.Contains(want, id) })
		missing := slices.DeleteFunc(slices.Clone(want), func(id string) bool { return slices.Contains(got, id) })
		t.Errorf("%s: %s are %d messages, want %d: too many %q, missing %q; all places: %v",
			h.Name, where, len(got), len(want), some(more), some(missing), a.Count())
	}
}

// some is enough of a long list for a message.
func some(ids []string) []string { return ids[:min(len(ids), 5)] }

// checkSwept looks by audit that a sweep ended as it should: all spam is aside,
// all ham is live or delivered, nothing is lost and nothing twice.
func checkSwept(t *testing.T, h *lab.Host, messages []lab.Message) lab.Audit {
	t.Helper()
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "aside", aside, spams(messages))
	checkPlaces(t, h, a, messages, "live or delivered", live, hams(messages))
	return a
}

// checkDelivered lets all of the host's live mail be delivered, and looks that
// it is just these messages, once each.
func checkDelivered(t *testing.T, h *lab.Host, messages []lab.Message, want []string) {
	t.Helper()
	must(t, h.Flood(lab.Deliver))
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) { // no event tells
		delivered, err := filepath.Glob(filepath.Join(h.Delivered(), "[^.]*"))
		must(t, err)
		if len(delivered) >= len(want) {
			break
		}
		// Again and again: what was held becomes deferred only now.
		_, err = h.Run(t.Context(), "postqueue", "-f")
		must(t, err)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	checkPlaces(t, h, a, messages, "delivered", []string{"delivered"}, want)
}

// alive looks that Postfix runs and takes new mail on. The message stays.
func alive(t *testing.T, h *lab.Host) lab.Message {
	t.Helper()
	if _, err := h.Run(t.Context(), "postfix", "status"); err != nil {
		t.Errorf("Postfix: %v", err)
	}
	m := lab.Message{
		ID: fmt.Sprintf("alive-%s-%d", h.Name, time.Now().UnixNano()), Sender: "ada@" + h.Name + ".lab.test",
		Recipients: []string{"friend@elsewhere.example"}, Subject: "still there?", Body: "Yes.\n",
	}
	if err := h.Inject(t.Context(), []lab.Message{m}); err != nil {
		t.Errorf("%s takes no mail: %v", h.Name, err)
		return m
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	if !slices.Contains(a.In(live...), m.ID) {
		t.Errorf("%s: a new message is at %v", h.Name, a.Found[m.ID])
	}
	return m
}
