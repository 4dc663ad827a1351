package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// process is one process, told from a later one with the same pid by the time
// it was started.
type process struct {
	pid   int
	start string
}

func identify(pid int) (process, error) {
	_, start, err := stat(pid)
	return process{pid, start}, err
}

// stat reads state and start time, fields 3 and 22 of proc_pid_stat(5).
func stat(pid int) (state, start string, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", "", err
	}
	// The name before the last parenthesis may hold anything.
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return "", "", fmt.Errorf("read /proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields[0], fields[19], nil
}

func (p process) alive() bool {
	state, start, err := stat(p.pid)
	return err == nil && start == p.start && state != "Z" && state != "X"
}

// end kills the process and waits until it is gone.
func (p process) end(ctx context.Context) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.pid, err)
	}
	return until(ctx, fmt.Sprintf("end of process %d", p.pid), func() bool { return !p.alive() })
}

func (p process) save(file string) error {
	return os.WriteFile(file, fmt.Appendf(nil, "%d %s\n", p.pid, p.start), 0o644)
}

func loadProcess(file string) (process, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return process{}, err
	}
	var p process
	if _, err := fmt.Sscan(string(data), &p.pid, &p.start); err != nil {
		return process{}, fmt.Errorf("read %s: %w", file, err)
	}
	return p, nil
}

// until asks again and again, for things that send no event. It asks seldom
// enough not to keep what it waits for from running.
func until(ctx context.Context, what string, done func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// run runs a command of the machine; its error tells what the command said.
func run(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
