package lab_test

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab"
)

// A run of the agent is traced from outside (strace(1)), and what the kernel saw
// is held against what the agent says: every call that changes a file or a process
// has to be one that spool/change.go counts, since only at those do the crash
// walks kill; and nothing in the queue directory is opened through a link.

// stepMark is the path, of no file, that the traced agent asks the kernel for at
// each step. It is the one thing in which it differs from the shipped agent.
const stepMark = "/spoolsweep-step/"

// tracedAgent builds the shipped agent with the counter of spool/change.go made
// visible to strace.
func tracedAgent(t *testing.T) string {
	t.Helper()
	return agentWith(t, `func(what string) error { _ = unix.Access("`+stepMark+`"+what, 0); return nil }`)
}

// agentWith builds the shipped agent with another counter in spool/change.go. It
// lasts as long as the test.
func agentWith(t *testing.T, counter string) string {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	must(t, err)
	change := filepath.Join(root, "spool", "change.go")
	source, err := os.ReadFile(change)
	must(t, err)
	const before, shipped = "var step = ", "func(what string) error { return nil }"
	if !strings.Contains(string(source), before+shipped) {
		t.Fatalf("%s has no line %q any more", change, before+shipped)
	}
	dir := t.TempDir()
	changed, overlay, agent := filepath.Join(dir, "change.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "agent")
	must(t, os.WriteFile(changed, []byte(strings.Replace(string(source), before+shipped, before+counter, 1)), 0o600))
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {change: changed}})
	must(t, err)
	must(t, os.WriteFile(overlay, replace, 0o600))
	cmd := exec.Command("go", "build", "-overlay", overlay, "-trimpath", "-ldflags", "-s -w", "-o", agent, "./cmd/spoolsweep-agent")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	return agent
}

// changes are the system calls that change a name, a file or a process; opening
// may, and is looked at by its flags. write(2) needs a file that was opened so.
var changes = []string{
	"rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "rmdir", "mknod", "mknodat",
	"truncate", "ftruncate", "fallocate", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "futimesat", "utimensat",
	"setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "flock", "kill", "tkill", "pidfd_send_signal", "mount", "umount2", "copy_file_range",
}

// looks are those that find a file by its name.
var looks = []string{"open", "openat", "openat2", "creat", "stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat"}

// traced runs do under strace of all that sshd of the host starts, and returns the
// calls of the agent in their order.
func traced(t *testing.T, h *lab.Host, do func()) []call {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Fatal("this test needs strace (apt install strace)")
	}
	const file = "/var/log/trace"
	filter := strings.Join(append(slices.Clone(changes), looks...), ",?")
	cmd := h.Command(t.Context(), "sh", "-c", `exec strace -f -Y -y -s 4096 -e signal=none -e "trace=?$2" -o "$1" -p "$(cat /run/sshd.pid)"`, "sh", file, filter)
	stderr, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	said := bufio.NewScanner(stderr)
	if !said.Scan() || !strings.Contains(said.Text(), "attached") {
		t.Fatalf("strace: %q", said.Text())
	}
	do()
	// The worker ends a moment after the run.
	eventually(t, time.Minute, "no process of the agent", func() bool {
		left, err := h.Pgrep("spoolsweep-agent")
		must(t, err)
		return len(left) == 0
	})
	pids, err := h.Pgrep("^strace ")
	must(t, err)
	for _, pid := range pids {
		p, err := os.FindProcess(pid)
		must(t, err)
		must(t, p.Signal(os.Interrupt)) // it lets go of all, and writes what it has
	}
	for said.Scan() {
	}
	_ = cmd.Wait()
	text, err := os.ReadFile(filepath.Join(h.Dir, "upper", file))
	must(t, err)
	return callsOf(t, string(text))
}

// call is one that the agent made.
type call struct {
	name string
	args []string
	line string
	ok   bool
}

var (
	traceLine = regexp.MustCompile(`^(\d+)<(.*?)> +(.*)$`)
	unended   = regexp.MustCompile(`^(.*?) *<unfinished \.\.\.>$`)
	resumed   = regexp.MustCompile(`^<\.\.\. \w+ resumed>(.*)$`)
	callForm  = regexp.MustCompile(`^(\w+)\((.*)\) += +(-?\d+|\?)`)
)

// callsOf reads what strace -f -Y wrote, of the processes whose command is the agent.
func callsOf(t *testing.T, text string) []call {
	t.Helper()
	var all []call
	begun := map[string]string{}
	for line := range strings.Lines(text) {
		m := traceLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil || m[2] != "spoolsweep-agen" { // comm has 15 bytes (proc(5))
			continue
		}
		thread, what := m[1], m[3]
		if u := unended.FindStringSubmatch(what); u != nil {
			begun[thread] = u[1]
			continue
		}
		if r := resumed.FindStringSubmatch(what); r != nil {
			what = begun[thread] + r[1]
			delete(begun, thread)
		}
		c := callForm.FindStringSubmatch(what)
		if c == nil {
			continue // a signal, an end
		}
		all = append(all, call{name: c[1], args: arguments(c[2]), line: what, ok: !strings.HasPrefix(c[3], "-")})
	}
	return all
}

// arguments cuts them at the commas that stand in no string, path or list.
func arguments(text string) []string {
	var all []string
	quoted, deep, from := false, 0, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.IndexByte("<{[(", c) >= 0:
			deep++
		case strings.IndexByte(">}])", c) >= 0:
			deep--
		case c == ',' && deep == 0:
			all = append(all, strings.TrimSpace(text[from:i]))
			from = i + 1
		}
	}
	return append(all, strings.TrimSpace(text[from:]))
}

// str is an argument that is a string.
func (c call) str(i int) string { return strings.Trim(c.args[i], `"`) }

// handle is the path that strace shows beside a file descriptor.
func (c call) handle(i int) string {
	_, path, _ := strings.Cut(c.args[i], "<")
	return strings.TrimSuffix(strings.TrimSuffix(path, ">"), " (deleted)")
}

// at is the path that a name means which is relative to the handle before it.
func (c call) at(i int) string {
	if name := c.str(i + 1); strings.HasPrefix(name, "/") {
		return name
	}
	return filepath.Join(c.handle(i), c.str(i+1))
}

const (
	queueDirectory = "/var/spool/postfix"
	stateDirectory = "/var/lib/spoolsweep"
	process        = "a process" // in place of a path
	masterPID      = queueDirectory + "/pid/master.pid"
)

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// stepOf is how the step of a changing call begins, and what it changes; "" for one
// that changes nothing.
func stepOf(c call) (want, path string) {
	switch c.name {
	case "renameat2":
		switch c.args[4] {
		case "RENAME_NOREPLACE":
			return "rename " + c.str(1) + " " + c.str(3) + " in " + c.handle(0) + " " + c.handle(2), c.at(0)
		case "RENAME_EXCHANGE":
			return "exchange " + c.str(1) + " " + c.str(3) + " in " + c.handle(0), c.at(0)
		}
	case "rename":
		return "replace the journal", c.str(1)
	case "renameat":
		return "replace the journal", c.at(2)
	case "mkdirat":
		return "mkdir " + c.str(1) + " in " + c.handle(0), c.at(0)
	case "unlinkat":
		if strings.HasPrefix(c.args[0], "AT_FDCWD") {
			return "remove " + c.str(1), c.at(0)
		}
		if c.args[2] == "AT_REMOVEDIR" {
			return "rmdir " + c.str(1) + " in " + c.handle(0), c.at(0)
		}
		return "unlink " + c.str(1) + " in " + c.handle(0), c.at(0)
	case "fchown":
		return "chown " + c.handle(0), c.handle(0)
	case "fchmod":
		return "chmod " + c.handle(0), c.handle(0)
	case "fallocate":
		return "reserve " + c.handle(0), c.handle(0)
	case "ftruncate":
		return "cut the journal's tail", c.handle(0)
	case "flock":
		if c.args[1] == "LOCK_UN" {
			return "unlock " + c.handle(0), c.handle(0)
		}
		return "lock " + c.handle(0), c.handle(0)
	case "pidfd_send_signal":
		if c.args[1] == "0" {
			return "", "" // os.FindProcess asks only whether it lives
		}
		return "signal ", process
	case "kill":
		return "kill", process
	case "openat":
		flags := c.args[2]
		if !strings.Contains(flags, "O_WRONLY") && !strings.Contains(flags, "O_RDWR") && !strings.Contains(flags, "O_CREAT") {
			return "", ""
		}
		if c.at(0) == masterPID {
			return "", "" // to be locked, which is a step of its own
		}
		if strings.Contains(flags, "O_CREAT") && !strings.Contains(flags, "O_RDWR") {
			return "zeros " + c.at(0), c.at(0)
		}
		if filepath.Base(c.at(0)) == "journal" && !strings.Contains(flags, "O_CREAT") {
			return "put a byte into " + c.at(0), c.at(0)
		}
		return "open " + c.at(0), c.at(0)
	case "utimensat":
		return "touch ", cmp.Or(c.handle(0), c.str(1))
	}
	if slices.Contains(changes, c.name) {
		return "no step does " + c.name, strings.Join(c.args, " ")
	}
	return "", ""
}

// records are the files of a run that packages run and stage write for people and
// the next stage: a loss of one loses no mail, which the tests of those packages
// show. Only package spool's journal and reserve say where mail is.
var records = regexp.MustCompile(`^` + stateDirectory + `(|/runs|/runs/[^/]+|/runs/[^/]+/(run\.json|events\.jsonl|verdicts[^/]*|worker\.log|[^/]+\.new|[^/]*\.gz|before[^/]*))$`)

func TestTracedRun(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	agent := tracedAgent(t)
	messages := smallFlood(t, h)
	calls := traced(t, h, func() {
		r := succeeds(t, f, sweepAway(t, h, "--agent", agent, "-e", "rate=0")...)
		id := runIn(t, r)
		succeeds(t, f, "putback", id, "-y", "--expect", "0", "--agent", agent)
		succeeds(t, f, "purge", id, "--yes", "--expect", fmt.Sprint(len(spams(messages))), "--agent", agent)
	})
	checkSteps(t, calls)
	checkLinks(t, calls)
}

// checkSteps looks that each changing call was counted before it was made.
func checkSteps(t *testing.T, calls []call) {
	t.Helper()
	steps := map[string]int{} // that were announced and not made yet
	made, announced, others := map[string]int{}, 0, 0
	for _, c := range calls {
		if len(c.args) > 1 && strings.HasPrefix(c.str(1), stepMark) {
			steps[strings.TrimPrefix(c.str(1), stepMark)]++
			announced++
			continue
		}
		want, path := stepOf(c)
		if !c.ok || want == "" || !below(path, queueDirectory) && !below(path, stateDirectory) && path != process {
			continue
		}
		if s, ok := announcedAs(steps, want); ok {
			steps[s]--
			made[c.name]++
			continue
		}
		if records.MatchString(path) {
			others++
			continue
		}
		t.Errorf("no step %q was counted before %s", want, c.line)
	}
	t.Logf("%d steps, %v calls that were counted, %d of records", announced, made, others)
	for name, least := range map[string]int{"renameat2": 20, "unlinkat": 50, "mkdirat": 4, "flock": 4, "fchown": 1} {
		if made[name] < least {
			t.Errorf("%d of %s were seen, want at least %d: does this test still look?", made[name], name, least)
		}
	}
}

// announcedAs finds a step that begins so, and that no call was found for yet.
func announcedAs(steps map[string]int, want string) (string, bool) {
	for s, n := range steps {
		if n > 0 && strings.HasPrefix(s, want) {
			return s, true
		}
	}
	return "", false
}

// checkLinks looks that whatever is opened below the queue directory is opened by
// the name of one component, relative to a handle, and never through a link.
func checkLinks(t *testing.T, calls []call) {
	t.Helper()
	seen := 0
	for _, c := range calls {
		if c.name != "openat" || c.at(0) == queueDirectory || !below(c.at(0), queueDirectory) {
			if c.name == "open" || c.name == "openat2" || c.name == "creat" {
				t.Errorf("not looked at: %s", c.line)
			}
			continue
		}
		seen++
		if c.at(0) == masterPID {
			continue // pid belongs to root (postfix-files): nobody else puts a link there
		}
		if strings.Contains(c.str(1), "/") || strings.HasPrefix(c.args[0], "AT_FDCWD") || !strings.Contains(c.args[2], "O_NOFOLLOW") {
			t.Errorf("opened through what may be a link: %s", c.line)
		}
	}
	if seen < 100 {
		t.Errorf("%d files and directories of the queues were opened: does this test still look?", seen)
	}
	t.Logf("%d opened below the queue directory", seen)
}
