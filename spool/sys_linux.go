package spool

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What differs between Linux and macOS. Nothing else in this module has a
// build constraint.

func renameNoReplace(fromDir int, from string, toDir int, to string) error {
	return unix.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE)
}

func renameExchange(aDir int, a string, bDir int, b string) error {
	return unix.Renameat2(aDir, a, bDir, b, unix.RENAME_EXCHANGE)
}

// keepBlocks gives a file blocks beyond its end, without making it longer.
func keepBlocks(fd int, from, n int64) error {
	return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, from, n)
}

// eachName calls fn for every entry of a directory that was just opened, by
// getdents64 into buf: os.File.ReadDir makes three objects of each name, which
// for a million of them takes longer than the system's own work. name is valid
// until fn returns; inode is the file's.
func eachName(dir *os.File, buf []byte, fn func(name []byte, kind fileKind, inode uint64) error) error {
	for {
		n, err := unix.ReadDirent(int(dir.Fd()), buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ENOENT) {
			return nil // removed since it was opened, so it was empty
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", dir.Name(), err)
		}
		if n == 0 {
			return nil
		}
		for rest := buf[:n]; len(rest) > 0; {
			// struct linux_dirent64: inode, offset, record length, type, name.
			const inodeAt, lengthAt, typeAt, nameAt = 0, 16, 18, 19
			if len(rest) < nameAt {
				return fmt.Errorf("list %s: a record of %d bytes", dir.Name(), len(rest))
			}
			length := int(binary.NativeEndian.Uint16(rest[lengthAt:]))
			if length <= nameAt || length > len(rest) {
				return fmt.Errorf("list %s: a record of %d bytes in %d", dir.Name(), length, len(rest))
			}
			name := rest[nameAt:length]
			if end := bytes.IndexByte(name, 0); end >= 0 {
				name = name[:end]
			}
			var kind fileKind
			switch rest[typeAt] {
			case unix.DT_REG:
				kind = plainFile
			case unix.DT_DIR:
				kind = directory
			case unix.DT_UNKNOWN: // the file system does not say
				kind = kindAt(dir, string(name))
			}
			inode := binary.NativeEndian.Uint64(rest[inodeAt:])
			rest = rest[length:]
			if string(name) == "." || string(name) == ".." {
				continue
			}
			if err := fn(name, kind, inode); err != nil {
				return err
			}
		}
	}
}

// fileSystem tells of the file system that an open file lies on. An overlay's
// lower directories cannot be renamed: EXDEV.
func fileSystem(fd int) (volume, error) {
	var s unix.Statfs_t
	if err := unix.Fstatfs(fd, &s); err != nil {
		return volume{}, err
	}
	var unfit string
	if s.Type == unix.OVERLAYFS_SUPER_MAGIC {
		unfit = "overlay"
	}
	return volumeOf(unfit, s.Bavail*uint64(s.Bsize), s.Files, s.Ffree), nil
}

// mountID tells mounts apart that have one device number, such as bind mounts.
func mountID(fd int) (uint64, error) {
	var s unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &s); err != nil {
		return 0, err
	}
	return s.Mnt_id, nil
}

// copyLabel gives the file behind to the SELinux label of the file behind from.
func copyLabel(from, to int) error {
	label := make([]byte, 512)
	n, err := unix.Fgetxattr(from, "security.selinux", label)
	if err != nil || n == 0 {
		return nil // no label, no SELinux
	}
	return unix.Fsetxattr(to, "security.selinux", label[:n], 0)
}

// processes lists every process that this one can see (proc(5), stat).
func processes() ([]process, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var all []process
	for _, e := range names {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := processOf(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

func processOf(pid int) (process, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	open, shut := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || shut < open {
		return process{}, fmt.Errorf("/proc/%d/stat: no command name", pid)
	}
	f := strings.Fields(string(stat[shut+1:]))
	if len(f) < 20 {
		return process{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(f))
	}
	p := process{pid: pid, command: string(stat[open+1 : shut]), dead: f[0] == "Z" || f[0] == "X"}
	p.parent, _ = strconv.Atoi(f[1])
	p.group, _ = strconv.Atoi(f[2])
	p.session, _ = strconv.Atoi(f[3])
	p.started = f[19]
	return p, nil
}

// signalChecked signals p through a pidfd, and only if the pid still is that
// process: between the look and the signal a pid may have been given away.
func signalChecked(p process, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	now, err := processOf(p.pid)
	if err != nil || now.started != p.started {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// clientsOf are handles of our own for the connections that p has accepted, only if the
// pid still is that process: what is behind a handle cannot be given away
// (pidfd_getfd(2), Linux 5.6). What p has connected to itself, as a milter, is left out:
// its port is none at which p listens. Who listens at none, as behind postscreen(8), has
// accepted all.
func clientsOf(p process) (fds []int, err error) {
	pidfd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	if now, err := processOf(p.pid); err != nil || now.started != p.started {
		return nil, unix.ESRCH
	}
	dir := "/proc/" + strconv.Itoa(p.pid) + "/"
	names, err := os.ReadDir(dir + "fd")
	if err != nil {
		return nil, err
	}
	table, _ := os.ReadFile(dir + "net/tcp")
	six, _ := os.ReadFile(dir + "net/tcp6") // only where there is IPv6
	table = append(table, six...)
	var listens []string
	for _, accepted := range []bool{false, true} {
		for _, e := range names {
			to, _ := os.Readlink(dir + "fd/" + e.Name())
			inode, ok := strings.CutPrefix(to, "socket:[")
			port, state := connection(table, strings.TrimSuffix(inode, "]"))
			if !ok || port == "" {
				continue
			}
			if !accepted {
				if state == "0A" { // TCP_LISTEN
					listens = append(listens, port)
				}
				continue
			}
			number, err := strconv.Atoi(e.Name())
			if err != nil || state == "0A" || listens != nil && !slices.Contains(listens, port) {
				continue
			}
			fd, err := unix.PidfdGetfd(pidfd, number, 0)
			if errors.Is(err, unix.EBADF) {
				continue // closed since
			}
			if err != nil {
				return fds, err
			}
			fds = append(fds, fd)
		}
	}
	return fds, nil
}

// connection finds a socket in the table of /proc/PID/net/tcp by its inode: its own
// port, and its state (proc_pid_net(5)).
func connection(table []byte, inode string) (port, state string) {
	at := bytes.Index(table, []byte(" "+inode+" "))
	if at < 0 {
		return "", ""
	}
	// Number, own address:port, the other's, state, ..., inode.
	f := strings.Fields(string(table[bytes.LastIndexByte(table[:at], '\n')+1 : at]))
	if len(f) != 9 { // it is another number
		return "", ""
	}
	return f[1][strings.LastIndexByte(f[1], ':')+1:], f[3]
}

// began is when the process was started, in whole seconds. Its clock counts from the
// boot, in hundredths of a second on every architecture that there is an agent for
// (proc(5)).
func (p process) began() time.Time {
	ticks, _ := strconv.ParseInt(p.started, 10, 64)
	return time.Unix((time.Now().UnixNano()-boot())/1e9+ticks/100, 0)
}

// boot is a clock that no one sets, in nanoseconds; it goes on during sleep.
func boot() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return t.Nano()
}

// executable is the program that a process runs, as a path.
func executable(pid int) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return ""
	}
	return path
}

// worksIn says whether dir is the working directory of a process; true where
// that may not be looked at.
func worksIn(pid int, dir string) bool {
	at, err1 := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	want, err2 := os.Stat(dir)
	return err1 != nil || err2 != nil || os.SameFile(at, want)
}

// unitOfProcess returns the systemd service whose control group holds the process,
// or "" (systemd.exec(5); cgroups(7)).
func unitOfProcess(pid int) string {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return ""
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	return serviceIn(string(groups))
}

// scratch is a file without a name, for what a command prints: a full disk
// must not keep Postfix from being started.
func scratch() (*os.File, error) {
	fd, err := unix.MemfdCreate("output", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "output"), nil
}

const oomFile = "/proc/self/oom_score_adj"
