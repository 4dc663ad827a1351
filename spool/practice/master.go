package practice

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Handles that a practice process gets from the one that starts it.
const (
	readyHandle  = 3 // master: a pipe, to tell that it is ready
	socketHandle = 3 // qmgr: the socket public/qmgr, listening
	lifeHandle   = 4 // qmgr: a pipe that ends with its master
)

const (
	afterSignal = time.Second // until a queue manager that was killed is started again
	lookAround  = time.Second // how often master looks whether its folder is still there
)

// errByHand is what master and qmgr say to somebody who types their names.
var errByHand = errors.New("is started by 'practice start'")

// master is master(8): it has the lock, the socket and one child. As Postfix's
// it listens itself and hands the socket on, so that a trigger reaches a queue
// manager that is only just being started, or dead.
func (h *Host) master() error {
	ready, err := handle(readyHandle, unix.S_IFIFO)
	if err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	m, err := h.becomeMaster()
	if err == nil {
		err = m.spawn()
	}
	if err != nil {
		err = h.fatal("master", err)
		fmt.Fprint(ready, err)
		return err
	}
	_ = h.logf("master", "daemon started -- version practice")
	fmt.Fprint(ready, isReady)
	ready.Close()

	look := time.NewTicker(lookAround)
	defer look.Stop()
	var again <-chan time.Time
	for {
		select {
		case s := <-signals:
			_ = h.logf("master", "terminating on signal %d", s)
			return endGroup()
		case <-look.C:
			// A test that failed leaves nobody behind to stop it.
			if _, err := os.Lstat(h.path(configFile)); errors.Is(err, fs.ErrNotExist) {
				return endGroup()
			}
		case err := <-m.ended:
			again = time.After(h.afterEnd(err))
		case <-again:
			if err := m.spawn(); err != nil {
				return h.fatal("master", err)
			}
		}
	}
}

// master is what the process keeps open for as long as it lives.
type master struct {
	h      *Host
	exe    string
	lock   *os.File // pid/master.pid, locked
	socket *os.File // public/qmgr
	life   *os.File // qmgr has the read end; the write end ends with this process
	alive  *os.File
	ended  chan error // how a queue manager ended
}

// becomeMaster takes the lock and the socket.
func (h *Host) becomeMaster() (*master, error) {
	if err := os.Chdir(h.Spool()); err != nil {
		return nil, err
	}
	m := &master{h: h, ended: make(chan error, 1)}
	var err error
	if m.exe, err = os.Executable(); err != nil {
		return nil, err
	}
	if m.lock, err = os.OpenFile(h.masterPID(), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(m.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("open lock file pid/master.pid: unable to set exclusive lock: %w", err)
	}
	// In place, as master.c: the lock is this file's.
	if err := m.lock.Truncate(0); err != nil {
		return nil, err
	}
	if _, err := m.lock.WriteAt(fmt.Appendf(nil, "%32d\n", os.Getpid()), 0); err != nil {
		return nil, err
	}
	if m.socket, err = listen("public/qmgr"); err != nil {
		return nil, err
	}
	m.life, m.alive, err = os.Pipe()
	return m, err
}

// spawn starts a queue manager in master's group and session.
func (m *master) spawn() error {
	log, err := os.OpenFile(m.h.Log(), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(m.exe, command, "qmgr", m.h.Dir)
	cmd.Stderr = log
	cmd.ExtraFiles = []*os.File{m.socket, m.life}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { m.ended <- cmd.Wait() }()
	return nil
}

// afterEnd is how long to wait until the queue manager, which ended with err, is
// started again.
func (h *Host) afterEnd(err error) time.Duration {
	_ = h.logf("master", "warning: process qmgr: %v", err)
	if exit := new(exec.ExitError); errors.As(err, &exit) && !exit.Exited() {
		return afterSignal
	}
	_ = h.logf("master", "warning: qmgr: bad command startup -- throttling")
	return time.Duration(h.Throttle) * time.Second
}

// endGroup passes the end on to the queue manager (master_sig.c) and does not
// wait for it.
func endGroup() error {
	signal.Ignore(unix.SIGTERM)
	if pid := os.Getpid(); unix.Getpgrp() == pid {
		return unix.Kill(-pid, unix.SIGTERM)
	}
	return nil
}

// handle takes over a handle that the parent passed, if it is of the right kind:
// whoever starts these commands by hand has other things there.
func handle(fd int, kind uint32) (*os.File, error) {
	var s unix.Stat_t
	if err := unix.Fstat(fd, &s); err != nil || uint32(s.Mode)&unix.S_IFMT != kind {
		return nil, errByHand
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "handle"), nil
}

// socket makes a Unix stream socket that no child gets by chance and that never
// waits. Not all systems can do that in one call.
func socket() (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listen makes a socket like those of public: its directory is what guards it.
func listen(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fd, err := socket()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, fmt.Errorf("bind %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return nil, err
	}
	return f, unix.Listen(fd, unix.SOMAXCONN)
}
