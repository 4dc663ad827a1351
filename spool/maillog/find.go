package maillog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usual are the logs of syslog daemons: Debian's, and that of the RHEL family.
var Usual = []string{"/var/log/mail.log", "/var/log/maillog"}

// Journal is the name, among those that Find is given, of systemd's journal.
const Journal = "journal"

// Logs are a mail log with its rotations, the newest first, or the journal.
type Logs struct {
	Files   []File
	Journal bool
}

// File is one file of a log.
type File struct {
	Path    string
	Written time.Time
	Size    int64
}

// rotated says whether this is what logrotate, and 'postfix logrotate', put behind
// a log's name: .1, .2.gz, -20261122, .20261122-101010.gz.
func rotated(rest string) bool {
	const digits = "0123456789"
	if len(rest) < 2 || rest[0] != '.' && rest[0] != '-' || strings.IndexByte(digits, rest[1]) < 0 {
		return false
	}
	switch strings.TrimLeft(rest[1:], digits+"-") {
	case "", ".gz", ".bz2", ".xz", ".zst":
		return true
	}
	return false
}

// Find finds the mail log. A name that was given, "" if none, must be there:
// a file, or [Journal]. Else the first of others that is there is taken, and
// else the journal.
func Find(given string, others ...string) (*Logs, error) {
	switch {
	case given == Journal:
		return &Logs{Journal: true}, nil
	case given != "" && !filepath.IsAbs(given):
		return nil, fmt.Errorf("mail log %q: give a whole path, from / on, or the word %s", given, Journal)
	case given != "":
		files, err := rotations(given)
		if err == nil && len(files) == 0 {
			err = fmt.Errorf("mail log %s: %w (correct the host variable mail_log)", given, fs.ErrNotExist)
		}
		return &Logs{Files: files}, err
	}
	for _, name := range others {
		if !filepath.IsAbs(name) {
			continue
		}
		if files, err := rotations(name); err != nil || len(files) > 0 {
			return &Logs{Files: files}, err
		}
	}
	if _, err := exec.LookPath("journalctl"); err == nil {
		return &Logs{Journal: true}, nil
	}
	return nil, fmt.Errorf("no mail log at %s, and no journal (say where it is: the host variable mail_log)", strings.Join(others, ", "))
}

// rotations are the files of one log. What is no regular file is none of them.
func rotations(path string) ([]File, error) {
	dir, base := filepath.Split(path)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("mail log: %w", err)
	}
	var files []File
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base)
		if !ok || rest != "" && !rotated(rest) || !e.Type().IsRegular() {
			continue
		}
		s, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // rotated meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("mail log: %w", err)
		}
		files = append(files, File{Path: filepath.Join(dir, e.Name()), Written: s.ModTime(), Size: s.Size()})
	}
	sort.Slice(files, func(i, k int) bool { // not slices.SortFunc, whose code is ten times as long
		a, b := files[i], files[k]
		return cmp.Or(b.Written.Compare(a.Written), cmp.Compare(a.Path, b.Path)) < 0
	})
	return files, nil
}

// open opens a log for reading, never through a link. What somebody put into
// its place, a FIFO for example, does not hold it.
func open(path string) (*os.File, fs.FileInfo, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	s, err := f.Stat()
	if err == nil && !s.Mode().IsRegular() {
		err = fmt.Errorf("%s is no regular file", path)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, s, nil
}
