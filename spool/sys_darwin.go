package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Practice queues only: no Postfix is cleaned up on macOS.

func renameNoReplace(fromDir int, from string, toDir int, to string) error {
	return unix.RenameatxNp(fromDir, from, toDir, to, unix.RENAME_EXCL)
}

func renameExchange(aDir int, a string, bDir int, b string) error {
	return unix.RenameatxNp(aDir, a, bDir, b, unix.RENAME_SWAP)
}

func keepBlocks(int, int64, int64) error { return unix.ENOSYS }

func eachName(dir *os.File, _ []byte, fn func(name []byte, kind fileKind, inode uint64) error) error {
	for {
		entries, err := dir.ReadDir(chunkNames)
		for _, e := range entries {
			var kind fileKind
			switch {
			case e.Type().IsRegular():
				kind = plainFile
			case e.IsDir():
				kind = directory
			}
			if err := fn([]byte(e.Name()), kind, 0); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) {
			return nil // at its end, or removed since it was opened, so it was empty
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", dir.Name(), err)
		}
	}
}

func fileSystem(fd int) (volume, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return volume{}, err
	}
	return volumeOf("", s.Bavail*uint64(s.Bsize), s.Files, s.Ffree), nil
}

func mountID(fd int) (uint64, error) {
	var s unix.Stat_t
	err := unix.Fstat(fd, &s)
	return uint64(s.Dev), err
}

func copyLabel(from, to int) error { return nil }

func processes() ([]process, error) {
	kernel, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil, err
	}
	all := make([]process, 0, len(kernel))
	for _, k := range kernel {
		command, _, _ := bytes.Cut(k.Proc.P_comm[:], []byte{0})
		p := process{
			pid: int(k.Proc.P_pid), parent: int(k.Eproc.Ppid), group: int(k.Eproc.Pgid),
			command: string(command), dead: k.Proc.P_stat == 5, // SZOMB
			started: fmt.Sprint(k.Proc.P_starttime.Sec, ".", k.Proc.P_starttime.Usec),
		}
		p.session, _ = unix.Getsid(p.pid)
		all = append(all, p)
	}
	return all, nil
}

func processOf(pid int) (process, error) {
	all, err := processes()
	if err != nil {
		return process{}, err
	}
	for _, p := range all {
		if p.pid == pid {
			return p, nil
		}
	}
	return process{}, unix.ESRCH
}

func signalChecked(p process, sig unix.Signal) error {
	now, err := processOf(p.pid)
	if err != nil || now.started != p.started {
		return unix.ESRCH
	}
	return unix.Kill(p.pid, sig)
}

func clientsOf(process) ([]int, error) { return nil, unix.ENOTSUP }

func (p process) began() time.Time { return time.Time{} }

func scratch() (*os.File, error) {
	f, err := os.CreateTemp("", "spoolsweep-output-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

var began = time.Now()

func boot() int64 { return int64(time.Since(began)) }

func executable(int) string { return "" }

func worksIn(int, string) bool { return true }

func unitOfProcess(int) string { return "" }

const oomFile = "/dev/null"
