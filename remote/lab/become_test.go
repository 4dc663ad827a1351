package lab_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
)

// rootWords are admin's password on the hosts of these tests. No process but
// spoolsweep and sudo is ever told them, and these not as an argument.
const rootWords = "Kõrrekt-horse 'battery' $(staple)"

// withSudo gives admin a password and the host's sudo these rules, and a log.
// Without more words sudo would send mail about who fails, which is no mail of
// a test's.
func withSudo(t *testing.T, h *lab.Host, rules ...string) {
	t.Helper()
	for argv, text := range map[string]string{
		"chpasswd":                 "admin:" + rootWords + "\n",
		"tee /etc/sudoers.d/admin": "Defaults logfile=/var/log/sudo.log, timestamp_timeout=0, !mail_badpass, !mail_no_user\n" + strings.Join(rules, "\n") + "\n",
	} {
		cmd := h.Command(t.Context(), strings.Fields(argv)...)
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", argv, err, out)
		}
	}
	inside(t, h, "visudo -c -q; rm -f /var/log/sudo.log; rm -rf /run/sudo/ts/admin")
}

const (
	byPassword = "admin ALL=(root) ALL"
	byNone     = "admin ALL=(root) NOPASSWD: ALL"
)

// passwordFile holds a password, and may not be read by others.
func passwordFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(name, []byte(text+"\n"), 0o600))
	return name
}

// leak looks for the password in all processes of the machine, and so of its
// hosts, until it is stopped, and then in what the host and the program's home keep.
func leak(t *testing.T, h *lab.Host) (stop func()) {
	t.Helper()
	end, done := make(chan struct{}), make(chan struct{})
	looked := 0
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond) // no event tells
		defer tick.Stop()
		for {
			files, err := filepath.Glob("/proc/[0-9]*/cmdline")
			more, err2 := filepath.Glob("/proc/[0-9]*/environ")
			if err := errors.Join(err, err2); err != nil {
				t.Error(err)
			}
			for _, file := range append(files, more...) {
				// Processes come and go while we look.
				if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(rootWords)) {
					t.Errorf("%s holds the password: %q", file, text)
				} else if err == nil {
					looked++
				}
			}
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	}()
	return func() {
		t.Helper()
		close(end)
		<-done
		if looked == 0 {
			t.Error("no process was looked at")
		}
		cmd := h.Command(t.Context(), "sh", "-c", `for d in /var/lib/spoolsweep /home /root /var/log /etc /tmp /var/tmp /run; do test -d $d && set -- "$@" $d; done; grep -rlaF -f - "$@"`, "sh")
		cmd.Stdin = strings.NewReader(rootWords + "\n")
		if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%s keeps the password: %v\n%s", h.Name, err, out)
		}
		p, err := program()
		must(t, err)
		must(t, filepath.WalkDir(p.home, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return nil // another test's, and gone
			}
			if text, err := os.ReadFile(path); err == nil && bytes.Contains(text, []byte(rootWords)) {
				t.Errorf("%s holds the password", path)
			}
			return nil
		}))
	}
}

// sudoLog is what the host's sudo wrote down.
func sudoLog(t *testing.T, h *lab.Host) string {
	t.Helper()
	text, err := h.Run(t.Context(), "sh", "-c", "cat /var/log/sudo.log 2>/dev/null || true")
	must(t, err)
	return text
}

// The real sudo, with each of its ways to let one in or not.
func TestSudoRules(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, "ansible_user: admin", "ansible_become: true")
	right, wrong := passwordFile(t, rootWords), passwordFile(t, "battery")
	withSudo(t, h, byNone)
	succeeds(t, f, "ping") // the agent is there now
	stop := leak(t, h)
	for _, row := range []struct {
		name, rules, file string
		status            int
		says              []string
		failures          int // as sudo counts them
	}{
		{"no password wanted", byNone, "", 0, nil, 0},
		{"no password wanted, a wrong one given", byNone, wrong, 0, nil, 0},
		{"right password", byPassword, right, 0, nil, 0},
		{"wrong password", byPassword, wrong, 4, []string{h.Name, "sudo does not take the password of admin", "told once", "-K", "NOPASSWD"}, 1},
		{"wrong password, one try", "Defaults passwd_tries=1\n" + byPassword, wrong, 4, []string{h.Name, "sudo does not take the password of admin"}, 1},
		{"no password given", byPassword, "", 4, []string{h.Name, "a password is required", "-K", "--become-password-file", "NOPASSWD"}, 0},
		{"terminal wanted", "Defaults requiretty\n" + byNone, "", 0, nil, 0},
		{"terminal and right password", "Defaults requiretty\n" + byPassword, right, 0, nil, 0},
		{"terminal and password, no pty of sudo's own", "Defaults requiretty, !use_pty\n" + byPassword, right, 0, nil, 0},
		{"terminal and wrong password", "Defaults requiretty\n" + byPassword, wrong, 4, []string{h.Name, "sudo does not take the password of admin"}, 1},
		{"no rule", "", right, 2, []string{h.Name, "sudo does not let admin become root: ", "sudoers", "visudo", "-u root"}, 0},
		{"another rule", "admin ALL=(root) NOPASSWD: /bin/true", right, 2, []string{h.Name, "sudo does not let admin become root: ", "not allowed to execute", "visudo"}, 0},
	} {
		withSudo(t, h, row.rules)
		args := []string{"ping"}
		if row.file != "" {
			args = append(args, "--become-password-file", row.file)
		}
		begun := time.Now()
		r := spoolsweep(t, f, args...)
		t.Logf("%s: %v", row.name, time.Since(begun))
		if r.status != row.status || row.status == 0 && strings.Contains(r.out, "not root") {
			t.Errorf("%s: want exit status %d: %v", row.name, row.status, r)
		}
		for _, text := range row.says {
			if !strings.Contains(r.err, text) {
				t.Errorf("%s: does not say %q: %v", row.name, text, r)
			}
		}
		if strings.Contains(r.out+r.err, rootWords) || strings.Contains(r.out+r.err, "battery") {
			t.Errorf("%s: prints the password: %v", row.name, r)
		}
		log := sudoLog(t, h)
		if got := strings.Contains(log, "1 incorrect password attempt"); got != (row.failures == 1) || strings.Contains(log, "incorrect password attempts") {
			t.Errorf("%s: sudo's log counts other than %d wrong passwords:\n%s", row.name, row.failures, log)
		}
	}

	// What was told once is good for a while: then nothing is sent.
	withSudo(t, h, "Defaults timestamp_timeout=5, timestamp_type=global", byPassword)
	succeeds(t, f, "ping", "--become-password-file", right)
	succeeds(t, f, "ping", "--become-password-file", wrong)
	succeeds(t, f, "ping")

	inside(t, h, "mv /usr/bin/sudo /usr/bin/sudo.away")
	r := ends(t, 2, f, "ping", "--become-password-file", right)
	for _, text := range []string{h.Name, "sudo is not installed", "install it there", "-u root"} {
		if !strings.Contains(r.err, text) {
			t.Errorf("no sudo: does not say %q: %v", text, r)
		}
	}
	stop()
}

// Where sudo allows the agent and nothing else, the plan says that this is as good
// as everything: the file is its user's. Where sudo allows everything it does not.
func TestAgentOfItsUser(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, "ansible_user: admin", "ansible_become: true")
	withSudo(t, h, byNone)
	const note = "who is admin there is root, whatever sudo's rule says; a rule that is narrower in fact names an agent that belongs to root"
	notes := func() string {
		t.Helper()
		doc, r := spoolsweepJSON(t, f, "run", "backscatter", "--check")
		s := hostIn(t, doc, h)
		if r.status != 0 || s.Preflight == nil {
			t.Fatal(r)
		}
		all := strings.Join(s.Preflight.Notes, "\n")
		if strings.Contains(all, note) != strings.Contains(r.err, note) {
			t.Errorf("the text says other things than the document: %v", r)
		}
		return all
	}
	if got := notes(); strings.Contains(got, "can write to it") {
		t.Errorf("sudo is ALL: %s", got)
	}
	withSudo(t, h, "admin ALL=(root) NOPASSWD: /home/admin/.cache/spoolsweep/spoolsweep-agent-*")
	if got := notes(); !strings.Contains(got, "/home/admin/.cache/spoolsweep/spoolsweep-agent-") || !strings.Contains(got, note) {
		t.Errorf("sudo is for the agent alone: %s", got)
	}
}

// A whole run where sudo wants a password and a terminal: frames are longer than
// a terminal's line, and the end of a terminal is not the end of the run.
func TestSudoRun(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn, "ansible_user: admin", "ansible_become: true")
	messages := flooded(t, h, 1, map[string]int{"deferred": 200, "active": 200, "incoming": 200})
	withSudo(t, h, "Defaults requiretty", byPassword)
	file := passwordFile(t, rootWords)
	stop := leak(t, h)
	// A wrong one is found before anything is changed.
	r := ends(t, 4, f, "run", "backscatter", "-y", "--become-password-file", passwordFile(t, "battery"))
	if a, err := h.Audit(t.Context()); err != nil || len(a.In(aside...)) > 0 || strings.Contains(r.err, "\nrun ") {
		t.Errorf("a wrong password: %v, %v", err, r)
	}
	// The terminal hangs up in mid-run, which goes on.
	broken := start(t, f, "run", "backscatter", "-y", "--become-password-file", file)
	id := broken.run()
	broken.waitFor("Postfix stopped in")
	must(t, broken.Process.Kill())
	broken.wait()
	r = ends(t, 3, f, "attach", id, "--become-password-file", file)
	if !strings.Contains(r.err, "--become-password-file "+file) {
		t.Errorf("what to type next does not name the file: %v", r)
	}
	rules := floodRules(h)
	for i := range 200 { // a frame of more than a terminal's line
		rules += fmt.Sprintf("    - sender: nobody-of-this-name-%d@elsewhere.example\n", i)
	}
	r2 := succeeds(t, f, "resume", id, "-y", "-e", "rate=0", "-e", rulesFile(t, rules), "--become-password-file", file)
	checkSwept(t, h, messages)
	r3 := succeeds(t, f, "classify", "--aside", id, "-m", "raw:@", "--list", "-q", "--become-password-file", file)
	if n := strings.Count(r3.out, "\n"); n < len(spams(messages)) {
		t.Errorf("%d messages are listed: %v", n, r3)
	}
	stop()
	for _, r := range []result{r, r2, r3} {
		if strings.Contains(r.out+r.err, rootWords) {
			t.Errorf("the password is printed: %v", r)
		}
	}
}

// typist answers the first question on the terminal that shows it.
type typist struct {
	in     io.Writer
	answer func(in io.Writer)
	shown  bytes.Buffer
	typing sync.WaitGroup
	typed  bool
}

func (k *typist) Write(p []byte) (int, error) {
	k.shown.Write(p)
	asks := func(question string) bool { return bytes.Contains(k.shown.Bytes(), []byte(question)) }
	if !k.typed && (asks("'s password: ") || asks("[y/N] ") || asks("passphrase of the key ")) {
		k.typed = true
		k.typing.Go(func() { k.answer(k.in) })
	}
	return len(p), nil
}

// terminalCommand is a command on a terminal of its own, which shows its settings
// before and after it. The shell catches Ctrl-C so that it is there to do so; what
// it starts does not inherit that.
func terminalCommand(ctx context.Context, t *testing.T, f *fleet, args ...string) *exec.Cmd {
	t.Helper()
	argv, env := commandLine(t, f, args...)
	line := "trap : INT; stty -g; '" + strings.Join(argv, "' '") + "'; s=$?; stty -g; exit $s"
	cmd := exec.CommandContext(ctx, needs.Program(t, "script"), "-qec", line, "/dev/null")
	cmd.Env, cmd.Dir = env, t.TempDir()
	return cmd
}

// checkTerminal looks that the terminal is as before the command, by what it
// showed, and returns that without carriage returns.
func checkTerminal(t *testing.T, shown string) string {
	t.Helper()
	shown = strings.ReplaceAll(shown, "\r", "")
	settings, _, _ := strings.Cut(shown, "\n")
	if !strings.Contains(settings, ":") || strings.Count(shown, settings) != 2 {
		t.Errorf("the terminal is another one after it:\n%s", shown)
	}
	return shown
}

// onTerminal runs a command on a terminal of its own, and returns its exit
// status and what the terminal showed. The terminal must be as before.
func onTerminal(t *testing.T, f *fleet, answer func(in io.Writer), args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), commandLimit)
	defer cancel()
	cmd := terminalCommand(ctx, t, f, args...)
	in, err := cmd.StdinPipe()
	must(t, err)
	k := &typist{in: in, answer: answer}
	cmd.Stdout, cmd.Stderr = k, k
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	in.Close()
	k.typing.Wait()
	return cmd.ProcessState.ExitCode(), checkTerminal(t, k.shown.String())
}

// -K asks once for all hosts, on the terminal, which does not show what is typed.
func TestAskBecomePass(t *testing.T) {
	t.Parallel()
	two := hosts(t, 2)
	f := newFleet(t, two, "ansible_user: admin")
	for _, h := range two {
		withSudo(t, h, byPassword)
	}
	stop := leak(t, two[1])
	status, shown := onTerminal(t, f, func(in io.Writer) { fmt.Fprintln(in, rootWords) }, "ping", "-b", "-K")
	if status != 0 || strings.Count(shown, "sudo's password: ") != 1 || strings.Count(shown, "Postfix 3") != 2 || strings.Contains(shown, rootWords) {
		t.Errorf("exit status %d:\n%s", status, shown)
	}
	stop()
	status, shown = onTerminal(t, f, func(in io.Writer) {
		// Until the program has ended, since one may come too early to be a signal.
		for range time.Tick(20 * time.Millisecond) {
			if _, err := io.WriteString(in, "\x03"); err != nil {
				return
			}
		}
	}, "ping", "-b", "-K")
	if status != 130 || strings.Contains(shown, "Postfix") {
		t.Errorf("Ctrl-C: exit status %d:\n%s", status, shown)
	}
	if status, shown = onTerminal(t, f, func(in io.Writer) { fmt.Fprintln(in) }, "ping", "-b", "-K"); status != 1 || !strings.Contains(shown, "empty") {
		t.Errorf("no password: exit status %d:\n%s", status, shown)
	}

	// Where one host has another password, the other is none the worse for it.
	cmd := two[0].Command(t.Context(), "chpasswd")
	cmd.Stdin = strings.NewReader("admin:battery\n")
	must(t, cmd.Run())
	doc, r := spoolsweepJSON(t, f, "ping", "-b", "--become-password-file", passwordFile(t, rootWords))
	if bad, good := hostIn(t, doc, two[0]), hostIn(t, doc, two[1]); r.status != 4 || bad.Status != show.Unreachable || bad.Error.Remedy == "" || good.Status != show.OK {
		t.Errorf("one host with another password: %v", r)
	}
	r = ends(t, 1, f, "ping", "-b", "-K")
	if !strings.Contains(r.err, "no terminal") || !strings.Contains(r.err, "--become-password-file") {
		t.Errorf("without a terminal: %v", r)
	}
}

// The real doas, which asks on a terminal only, and su, which always asks.
func TestDoasAndSu(t *testing.T) {
	t.Parallel()
	needs.Program(t, "doas")
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, "ansible_user: admin", "ansible_become: true")
	const rootsOwn = "Rööt's own $(word) 17"
	right, roots, wrong := passwordFile(t, rootWords), passwordFile(t, rootsOwn), passwordFile(t, "battery")
	cmd := h.Command(t.Context(), "chpasswd")
	cmd.Stdin = strings.NewReader("root:" + rootsOwn + "\n")
	must(t, cmd.Run())
	withSudo(t, h, byNone)
	succeeds(t, f, "ping") // the agent is there now
	inside(t, h, "rm /etc/sudoers.d/admin")
	stop := leak(t, h)
	for _, row := range []struct {
		name, method, rules, file string
		status                    int
		says                      []string
	}{
		{"no password wanted", "doas", "permit nopass admin as root", "", 0, nil},
		{"no password wanted, a wrong one given", "doas", "permit nopass admin as root", wrong, 0, nil},
		{"right password", "doas", "permit admin as root", right, 0, nil},
		{"wrong password", "doas", "permit admin as root", wrong, 4, []string{h.Name, "doas does not take the password of admin", "told once", "-K", "nopass"}},
		{"no password given", "doas", "permit admin as root", "", 4, []string{h.Name, "-K", "--become-password-file", "nopass"}},
		{"no rule", "doas", "permit nopass friend as root", "", 2, []string{h.Name, "doas does not let admin become root", "/etc/doas.conf", "-u root"}},
		{"no rules", "doas", "", "", 2, []string{h.Name, "doas", "-u root"}},
		{"right password", "su", "", roots, 0, nil},
		{"admin's password", "su", "", right, 4, []string{h.Name, "su does not take root's password", "told once", "-K", "sudo"}},
		{"no password given", "su", "", "", 4, []string{h.Name, "su asks for root's password", "-K", "sudo"}},
	} {
		inside(t, h, "rm -f /etc/doas.conf")
		if row.rules != "" {
			inside(t, h, "umask 077; echo "+row.rules+" >/etc/doas.conf")
		}
		args := []string{"ping", "--become-method", row.method}
		if row.file != "" {
			args = append(args, "--become-password-file", row.file)
		}
		r := spoolsweep(t, f, args...)
		if r.status != row.status || row.status == 0 && strings.Contains(r.out, "not root") {
			t.Errorf("%s, %s: want exit status %d: %v", row.method, row.name, row.status, r)
		}
		for _, text := range row.says {
			if !strings.Contains(r.err, text) {
				t.Errorf("%s, %s: does not say %q: %v", row.method, row.name, text, r)
			}
		}
		for _, secret := range []string{rootWords, rootsOwn, "battery"} {
			if strings.Contains(r.out+r.err, secret) {
				t.Errorf("%s, %s: prints a password: %v", row.method, row.name, r)
			}
		}
	}
	stop()

	// A sweep's worth of both: frames go through a terminal, and through su.
	smallFlood(t, h)
	inside(t, h, "umask 077; echo permit admin as root >/etc/doas.conf")
	f = newFleet(t, []*lab.Host{h}, "ansible_user: admin", "ansible_become: true", "ansible_become_method: doas", few)
	doas := succeeds(t, f, "classify", "-m", "sender:nobody@*", "--become-password-file", right)
	f = newFleet(t, []*lab.Host{h}, "ansible_user: admin", "ansible_become: true", "ansible_become_method: su", few)
	su := succeeds(t, f, "classify", "-m", "sender:nobody@*", "--become-password-file", roots)
	counts := func(r result) []string { // the samples are chance
		return regexp.MustCompile(`(?m)^.* messages .*$`).FindAllString(r.out, -1)
	}
	if !slices.Equal(counts(doas), counts(su)) || len(counts(doas)) < 3 {
		t.Errorf("through doas: %v\nthrough su: %v", doas, su)
	}

	inside(t, h, "mv /usr/bin/doas /usr/bin/doas.away")
	if r := ends(t, 2, f, "ping", "--become-method", "doas"); !strings.Contains(r.err, "doas is not installed") {
		t.Errorf("no doas: %v", r)
	}
}
