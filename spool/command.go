package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

// Ran is how a command ended that is no part of stop or start.
type Ran struct {
	Exit   int
	Output string // the last of what it printed: not to be trusted
}

// Run runs a command to its end as those of Postfix are run: in a process group
// of its own, which is killed at the limit or with ctx, its output in a file.
// An exit status is no error.
func Run(ctx context.Context, limit time.Duration, argv ...string) (Ran, error) {
	return run(ctx, limit, nil, argv)
}

// lineVariable carries a command line to the shell.
const lineVariable = "SPOOLSWEEP_COMMAND"

// RunLine is Run for a line of the shell. The line is not among the arguments
// of the shell, where everybody on the host could read it.
func RunLine(ctx context.Context, limit time.Duration, line string) (Ran, error) {
	const take = `line=$` + lineVariable + `; unset ` + lineVariable + `; eval "$line"`
	return run(ctx, limit, []string{lineVariable + "=" + line}, []string{"/bin/sh", "-c", take})
}

func run(ctx context.Context, limit time.Duration, env, argv []string) (Ran, error) {
	output, err := execute(ctx, limit, nil, env, argv)
	r := Ran{Output: output}
	var exit *exec.ExitError
	switch {
	case err == nil:
		return r, nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		r.Exit = exit.ExitCode()
		return r, nil
	case errors.Is(err, errTimeLimit):
		err = fmt.Errorf("%w (%v)", err, limit)
	case errors.Is(err, context.DeadlineExceeded):
		err = errTimeLimit
	}
	r.Exit = -1
	return r, err
}

// Lives says whether a process of that command name runs on this host, and not in a
// container of it.
func Lives(name string) bool {
	all, err := processes()
	return err == nil && slices.ContainsFunc(all, func(p process) bool { return p.command == name && !p.dead && !contained(p.pid) })
}

// contained says whether a process has a PID namespace that is not ours. One that may
// not be looked at has ours.
func contained(pid int) bool {
	ours, err := os.Readlink("/proc/self/ns/pid")
	its, e := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return err == nil && e == nil && ours != its
}
