package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is one entry of the process table. started tells two processes apart
// that had the same pid one after the other.
type process struct {
	pid, parent, group, session int
	command, started            string
	dead                        bool // a zombie: it holds nothing any more
}

// lives says whether that very process still is there. It asks for one process:
// the table of all takes as long as hundreds of renames.
func (p process) lives() bool {
	now, err := processOf(p.pid)
	return err == nil && !now.dead && now.started == p.started && now.parent == p.parent
}

// family lists what lives of the master's process group and session: a child
// that outlives its master may still write to the queue (master(8) calls
// setsid). Only Postfix's own programs count, since the number in a master.pid
// that was left behind may have been given to anybody since.
func (p *Postfix) family(masters []int) ([]process, error) {
	all, err := processes()
	if err != nil {
		return nil, fmt.Errorf("look for processes of master %d: %w", masters, err)
	}
	is := func(pid int) bool { return pid > 1 && slices.Contains(masters, pid) }
	var left []process
	for _, c := range all {
		if !c.dead && (is(c.pid) || is(c.group) || is(c.session)) && p.isDaemon(c) {
			left = append(left, c)
		}
	}
	return left, nil
}

// isDaemon says whether c runs a program of this Postfix. All of them work in
// the queue directory, chrooted or not; another instance's, whose master may
// have the number that ours had before a boot, work in their own.
func (p *Postfix) isDaemon(c process) bool {
	if p.DaemonDirectory != "" && !strings.HasPrefix(executable(c.pid), p.DaemonDirectory+"/") {
		return false
	}
	return worksIn(c.pid, p.QueueDirectory)
}

// unitOf is a variable for the sake of tests alone: none of them has a systemd.
var unitOf = unitOfProcess

// serviceIn finds a Postfix service in the text of /proc/PID/cgroup.
func serviceIn(groups string) string {
	for line := range strings.Lines(groups) {
		unit := path.Base(strings.TrimSpace(line))
		if strings.HasPrefix(unit, "postfix") && strings.HasSuffix(unit, ".service") {
			return unit
		}
	}
	return ""
}

// Output is what a command printed, its last part if it was much.
const maxOutput = 8 << 10

// commandError says how a command of the host ended.
type commandError struct {
	argv   []string
	output string
	err    error
}

func (e *commandError) Error() string {
	s := fmt.Sprintf("%s: %v", strings.Join(e.argv, " "), e.err)
	if e.output != "" {
		s += ": " + e.output
	}
	return s
}

func (e *commandError) Unwrap() error { return e.err }

var errTimeLimit = errors.New("ended at its time limit")

// command runs argv to its end, in a process group of its own, told to started
// before it is waited for; at the limit the whole group is killed. Its output
// goes to a file: a daemon that it leaves behind keeps its streams, and would
// hold a pipe open for ever. Priority and the OOM score, which may be ours to
// lower, are put back to normal first, since Postfix would inherit them.
func command(ctx context.Context, limit time.Duration, started func(group int) error, argv ...string) error {
	output, err := execute(ctx, limit, started, nil, argv)
	if err != nil {
		return &commandError{argv: argv, output: output, err: err}
	}
	return nil
}

// execute is command with further variables of the environment, and with what
// was printed.
func execute(ctx context.Context, limit time.Duration, started func(group int) error, env, argv []string) (string, error) {
	out, err := scratch()
	if err != nil {
		return "", err
	}
	defer out.Close()
	return launch{started: started, env: env, out: out}.run(ctx, limit, argv)
}

// launch is how a command is started.
type launch struct {
	started func(group int) error
	// gated holds argv back until started has returned, for good where that is
	// with an error, or by our death.
	gated   bool
	env     []string // further variables of the environment
	in, out *os.File // what it reads, nil for nothing, and what it prints
}

// run returns the last of what was printed.
func (l launch) run(ctx context.Context, limit time.Duration, argv []string) (string, error) {
	const normal = `{ echo 0 > ` + oomFile + `; renice -n 0 -p $$; } >/dev/null 2>&1; `
	script := normal + `exec "$@"`
	var gate *os.File
	if l.gated {
		wait, open, err := os.Pipe()
		if err != nil {
			return "", err
		}
		defer wait.Close()
		defer open.Close()
		gate, script = wait, normal+`read -r go <&3 || exit 1; exec 3<&-; exec "$@"`
		inner := l.started
		l.started = func(group int) error {
			err := inner(group)
			if err == nil {
				_, err = open.Write([]byte("go\n"))
			}
			return errors.Join(err, open.Close())
		}
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, argv...)...)
	cmd.Dir = "/"
	if l.in != nil {
		cmd.Stdin = l.in
	}
	if gate != nil {
		cmd.ExtraFiles = []*os.File{gate}
	}
	cmd.Env = append(os.Environ(), l.env...)
	cmd.Stdout, cmd.Stderr = l.out, l.out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := startCommand(cmd); err != nil {
		return "", err
	}
	group := cmd.Process.Pid
	var noted error
	if l.started != nil {
		noted = l.started(group)
	}
	if !l.gated {
		noted = nil // the group's number only helps whoever settles after our death
	}
	var err error
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err = <-done:
	case <-timer.C:
		killGroup(group)
		<-done
		err = errTimeLimit
	case <-ctx.Done():
		killGroup(group)
		<-done
		err = ctx.Err()
	}
	err = errors.Join(noted, err)
	text := make([]byte, maxOutput)
	size, _ := l.out.Seek(0, 2)
	n, _ := l.out.ReadAt(text, max(0, size-maxOutput))
	return string(bytes.TrimSpace(text[:n])), err
}

// endGroup kills what is left of a command's process group that a dead
// section began. started must match, or the number was given away since.
func endGroup(group int, started string) error {
	p, err := processOf(group)
	if err != nil || p.started != started || p.group != group {
		return nil
	}
	all, err := processes()
	if err != nil {
		return err
	}
	for _, member := range all {
		if member.group == group && !member.dead {
			if err := signal(member, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end command %d of the dead section: %w", group, err)
			}
		}
	}
	return nil
}
