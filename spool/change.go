package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file holds every call of this package that changes a file, a lock or a
// process. Nothing else in the package may: the tests that kill a run at each
// of its steps count the calls that pass through step.

// step is called before each change with what is about to happen. Tests
// replace it, to fail or to stop there.
var step = func(what string) error { return nil }

// rename moves one name to another without ever replacing what is there.
func rename(fromDir *os.File, from string, toDir *os.File, to string) error {
	if err := step("rename " + from + " " + to + " in " + fromDir.Name() + " " + toDir.Name()); err != nil {
		return err
	}
	err := renameNoReplace(int(fromDir.Fd()), from, int(toDir.Fd()), to)
	if err != nil {
		return &os.LinkError{Op: "rename", Old: fromDir.Name() + "/" + from, New: toDir.Name() + "/" + to, Err: err}
	}
	return nil
}

// exchange swaps two names of one directory in a single step.
func exchange(dir *os.File, a, b string) error {
	if err := step("exchange " + a + " " + b + " in " + dir.Name()); err != nil {
		return err
	}
	err := renameExchange(int(dir.Fd()), a, int(dir.Fd()), b)
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: dir.Name() + "/" + a, New: dir.Name() + "/" + b, Err: err}
	}
	return nil
}

// syncDir makes the names in dir survive a power loss.
func syncDir(dir *os.File) error {
	if err := step("sync " + dir.Name()); err != nil {
		return err
	}
	return dir.Sync()
}

// makeDir makes a directory with the given owner, group and mode, and the
// label of model. It is closed to all others until it is ready.
func makeDir(parent *os.File, name string, uid, gid int, mode uint32, model *os.File) error {
	if err := step("mkdir " + name + " in " + parent.Name()); err != nil {
		return err
	}
	if err := unix.Mkdirat(int(parent.Fd()), name, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: parent.Name() + "/" + name, Err: err}
	}
	made, err := openDir(parent, name)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := step("chown " + made.Name()); err != nil {
		return err
	}
	if now, err := statFile(made); err != nil || now.UID != uid || now.GID != gid {
		if err := unix.Fchown(int(made.Fd()), uid, gid); err != nil {
			return &fs.PathError{Op: "chown", Path: made.Name(), Err: err}
		}
	}
	if err := copyLabel(int(model.Fd()), int(made.Fd())); err != nil {
		return &fs.PathError{Op: "copy the label to", Path: made.Name(), Err: err}
	}
	if err := step("chmod " + made.Name()); err != nil {
		return err
	}
	if err := unix.Fchmod(int(made.Fd()), mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: made.Name(), Err: err}
	}
	return syncDir(made)
}

// removeDir removes an empty directory.
func removeDir(parent *os.File, name string) error {
	if err := step("rmdir " + name + " in " + parent.Name()); err != nil {
		return err
	}
	if err := unix.Unlinkat(int(parent.Fd()), name, unix.AT_REMOVEDIR); err != nil {
		return &fs.PathError{Op: "rmdir", Path: parent.Name() + "/" + name, Err: err}
	}
	return nil
}

// unlinkFile removes one name of a file: of a message, or of its log.
func unlinkFile(dir *os.File, name string) error {
	if err := step("unlink " + name + " in " + dir.Name()); err != nil {
		return err
	}
	if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil {
		return &fs.PathError{Op: "unlink", Path: dir.Name() + "/" + name, Err: err}
	}
	return nil
}

// probe proves, with two directories of its own, that root's file system can
// rename without replacing and exchange names.
func probe(root *os.File, a, b string) (exchanges bool, err error) {
	for _, name := range []string{a, b} {
		if err := step("mkdir " + name + " in " + root.Name()); err != nil {
			return false, err
		}
		if err := unix.Mkdirat(int(root.Fd()), name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return false, fmt.Errorf("probe %s: %w", root.Name(), err)
		}
	}
	if err := rename(root, a, root, b); !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("%s: its file system cannot rename without replacing: %w", root.Name(), cmp.Or(err, errReplaced))
	}
	exchanges = exchange(root, a, b) == nil
	for _, name := range []string{a, b} {
		if err := removeDir(root, name); err != nil {
			return false, err
		}
	}
	return exchanges, nil
}

var errReplaced = errors.New("it replaced a directory")

// touch gives a file the present as its time. The queue manager leaves a file
// in incoming alone until its time has come (qmgr_active.c).
func touch(f *os.File, now time.Time) error {
	if err := step("touch " + f.Name()); err != nil {
		return err
	}
	t := unix.NsecToTimeval(now.UnixNano())
	return unix.Futimes(int(f.Fd()), []unix.Timeval{t, t})
}

// lockFile takes the exclusive flock of f without waiting.
func lockFile(f *os.File) error {
	if err := step("lock " + f.Name()); err != nil {
		return err
	}
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// unlockFile lets go of it. Closing would not do while a child between fork
// and exec still holds a copy of the handle.
func unlockFile(f *os.File) error {
	if err := step("unlock " + f.Name()); err != nil {
		return err
	}
	return unix.Flock(int(f.Fd()), unix.LOCK_UN)
}

// signal sends sig to a process that was looked at before.
func signal(p process, sig unix.Signal) error {
	if err := step(fmt.Sprintf("signal %d %v", p.pid, sig)); err != nil {
		return err
	}
	return signalChecked(p, sig)
}

// hangUp ends a connection that a process has, for both of its sides.
func hangUp(fd, pid int) error {
	if err := step(fmt.Sprintf("hang up %d", pid)); err != nil {
		return err
	}
	return unix.Shutdown(fd, unix.SHUT_RDWR)
}

// openAppend opens a journal for reading and appending, or makes it.
func openAppend(path string) (*os.File, error) {
	if err := step("open " + path); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
}

// appendSync appends whole lines to a journal and makes them survive a power loss.
func appendSync(f *os.File, lines []byte) error {
	if err := step("journal"); err != nil {
		return err
	}
	if _, err := f.Write(lines); err != nil {
		return err
	}
	return f.Sync()
}

// replaceJournal puts a journal that was written anew in the place of the old one.
func replaceJournal(from, to string) error {
	if err := step("replace the journal"); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// reserve sets blocks aside behind the end of a file.
func reserve(f *os.File, from, n int64) error {
	if err := step("reserve " + f.Name()); err != nil {
		return err
	}
	return keepBlocks(int(f.Fd()), from, n)
}

// writeZeros makes a file, or makes it longer, that does nothing but fill space.
func writeZeros(path string, n int64) error {
	if err := step("zeros " + path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	for zeros := make([]byte, 64<<10); n > 0 && err == nil; n -= int64(len(zeros)) {
		_, err = f.Write(zeros)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// removeFile removes a file of a run's record.
func removeFile(path string) error {
	if err := step("remove " + path); err != nil {
		return err
	}
	return os.Remove(path)
}

// cutTail removes what a crash left behind the last whole line of a journal.
func cutTail(f *os.File, size int64) error {
	if err := step("cut the journal's tail"); err != nil {
		return err
	}
	return f.Truncate(size)
}

// putByte replaces one byte of a file, for good. Its own handle: what is written
// through one that appends goes to the end, wherever it shall go (pwrite(2)).
func putByte(path string, at int64, b byte) error {
	if err := step("put a byte into " + path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{b}, at)
	return errors.Join(err, f.Sync(), f.Close())
}

// send writes one byte to a socket or FIFO of Postfix's public directory.
func send(fd int, b byte) error {
	if err := step("trigger"); err != nil {
		return err
	}
	_, err := unix.Write(fd, []byte{b})
	return err
}

// tell writes to Postfix's own SMTP server, as far as it takes it now.
func tell(fd int, b []byte) (int, error) {
	if err := step("smtp"); err != nil {
		return 0, err
	}
	return unix.Write(fd, b)
}

// startCommand starts a command of the host.
func startCommand(cmd *exec.Cmd) error {
	if err := step("command " + strings.Join(cmd.Args, " ")); err != nil {
		return err
	}
	return cmd.Start()
}

// killGroup ends the process group led by an unreaped child of ours, whose pid
// therefore cannot have been given to anybody else.
func killGroup(group int) {
	if step("kill") == nil {
		_ = unix.Kill(-group, unix.SIGKILL)
	}
}
