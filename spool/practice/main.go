package practice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// command is the first argument of everything that Main takes on.
const command = "practice"

const (
	startLimit = 20 * time.Second // until master says that it is ready
	stopLimit  = 5 * time.Second  // until the lock is free, as postfix(1)
	poll       = 5 * time.Millisecond
)

// Main is the practice Postfix: 'practice start DIR' and 'practice stop DIR' are
// what postfix(1) does, and 'practice super DIR -d - QUEUE' is postsuper(1), also with -h, -H and -r; start
// runs 'practice master DIR', and that 'practice
// qmgr DIR'. args are the arguments without the program's name. mine is false,
// and nothing was done, where they do not begin with "practice"; else the caller
// exits with code.
func Main(args []string) (code int, mine bool) {
	if len(args) == 0 || args[0] != command {
		return 0, false
	}
	if len(args) < 3 || len(args) > 3 && args[1] != "super" {
		fmt.Fprintln(os.Stderr, "usage: practice start|stop DIR, practice super DIR -d|-h|-H|-r - QUEUE...")
		return 1, true
	}
	h, err := Open(args[2])
	if err == nil {
		switch args[1] {
		case "start":
			err = h.start()
		case "stop":
			err = h.stop()
		case "super":
			err = h.super(args[3:], os.Stdin, os.Stderr)
		case "master":
			err = h.master()
		case "qmgr":
			err = h.qmgr()
		default:
			err = fmt.Errorf("practice %s: it is start or stop", args[1])
		}
	}
	switch {
	case err == nil:
		return 0, true
	case args[1] == "master" || args[1] == "qmgr":
		if !errors.Is(err, errByHand) {
			return 1, true // in the mail log, and they have no terminal
		}
		err = fmt.Errorf("%s %w", args[1], err)
	}
	fmt.Fprintln(os.Stderr, "practice:", err)
	return 1, true
}

// start is 'postfix start': it returns once master listens. That the queue
// manager stays alive it does not prove, as postfix(1) does not.
func (h *Host) start() error {
	if _, running := h.Running(); running {
		return h.fatal("postfix-script", errors.New("the Postfix mail system is already running"))
	}
	if err := h.makeMissing(); err != nil {
		return h.fatal("postfix-script", err)
	}
	if err := h.check(); err != nil {
		return h.fatal("postsuper", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	log, err := os.OpenFile(h.Log(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(exe, command, "master", h.Dir)
	cmd.Dir = h.Spool()
	cmd.Stderr = log // what the Go runtime says, should it say anything
	cmd.ExtraFiles = []*os.File{tell}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	tell.Close()
	if err != nil {
		return h.fatal("postfix-script", err)
	}
	if err := ready.SetReadDeadline(time.Now().Add(startLimit)); err != nil {
		return err
	}
	said, err := io.ReadAll(ready)
	if err == nil && string(said) == isReady {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("master: %s", said)
	}
	_ = cmd.Process.Kill() // it has ended already, save at the time limit
	_ = cmd.Wait()
	return err
}

// isReady is what master tells whoever started it.
const isReady = "ready"

// fatal writes the reason to the mail log, where spool looks for it.
func (h *Host) fatal(service string, err error) error {
	return errors.Join(err, h.logf(service, "fatal: %v", err))
}

// check is what postsuper(1) looks for at each start: over each of these a
// Postfix that writes its log by itself (maillog_file) does not start.
func (h *Host) check() error {
	p, err := h.Postfix()
	if err != nil {
		return err
	}
	for _, d := range queueDirectories {
		var s unix.Stat_t
		if err := unix.Lstat(h.Spool(d.name), &s); err != nil {
			return &fs.PathError{Op: "lstat", Path: h.Spool(d.name), Err: err}
		}
		if uint32(s.Mode)&unix.S_IFMT != unix.S_IFDIR || int(s.Uid) != p.Owner || uint32(s.Mode)&0o700 != 0o700 {
			return fmt.Errorf("scan_dir_push: open directory %s: Permission denied", d.name)
		}
	}
	for _, q := range []spool.Queue{spool.Defer, "bounce", spool.Maildrop, spool.Incoming, spool.Active, spool.Deferred, spool.Hold} {
		err := spool.Walk(p, string(q), func(c spool.Chunk) error {
			if err := noDirectory(string(q), c); err != nil {
				return err
			}
			for _, name := range c.Odd {
				if !temporary(name) {
					return fmt.Errorf("bogus file name: %s", filepath.Join(string(q), c.Sub, name))
				}
			}
			for _, id := range c.IDs {
				inode, ok := queuefile.Inode(id)
				if q == spool.Defer || q == "bounce" || !ok {
					continue // logs are named for their message
				}
				var s unix.Stat_t
				if err := unix.Lstat(filepath.Join(c.Dir.Name(), id), &s); err == nil && s.Ino != inode {
					return fmt.Errorf("%s: its name says inode %d, but it has %d", filepath.Join(string(q), c.Sub, id), inode, s.Ino)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// temporary tells a name that cleanup(8) uses for an instant: time and process.
func temporary(name string) bool {
	usec, pid, ok := strings.Cut(name, ".")
	return ok && usec != "" && pid != "" && strings.Trim(usec+pid, "0123456789") == ""
}

// stop is 'postfix stop'.
func (h *Host) stop() error {
	master, running := h.Running()
	if !running {
		return h.fatal("postfix-script", errors.New("the Postfix mail system is not running"))
	}
	if err := unix.Kill(master, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("stop master %d: %w", master, err)
	}
	// The lock is free once master is gone, and the other once nobody is in the
	// middle of a message that was begun before: smtpd and cleanup end too.
	deadline := time.Now().Add(stopLimit)
	for _, path := range []string{h.masterPID(), h.path(sendLock)} {
		lock, err := flockUntil(path, unix.LOCK_EX, deadline)
		if err != nil {
			return fmt.Errorf("master %d does not end: %w", master, err)
		}
		lock.Close()
	}
	return nil
}

func (h *Host) masterPID() string { return h.Spool("pid", "master.pid") }

// flockUntil takes a lock, waiting for it until deadline; the zero time does not wait.
func flockUntil(path string, how int, deadline time.Time) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			f.Close()
			return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
		}
		time.Sleep(poll)
	}
}

// Start starts the host's Postfix by its command, for demos and tests.
func (h *Host) Start(ctx context.Context) error {
	p, err := h.Postfix()
	if err != nil {
		return err
	}
	return do(ctx, p.Start)
}

// Stop stops it; that it does not run is no error.
func (h *Host) Stop(ctx context.Context) error {
	p, err := h.Postfix()
	if err != nil {
		return err
	}
	if _, running := p.Running(); !running {
		return nil
	}
	return do(ctx, p.Stop)
}

func do(ctx context.Context, argv []string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
