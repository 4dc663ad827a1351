package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// markedFolder is a kind of folders that one command writes mail to: they are for the
// user alone, and have a marker that begins with a title.
type markedFolder struct {
	name  string // of the marker
	title string // its first line
	maker string // the command, as errors name it
}

// open makes the folder, or opens one of the kind. It returns the marker, which is
// appended to.
func (k *markedFolder) open(dir string) (*os.File, error) {
	path := filepath.Join(dir, k.name)
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		marker, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_, err = fmt.Fprintln(marker, k.title)
		}
		return marker, err
	}
	if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	read, err := k.check(dir)
	if err != nil {
		return nil, err
	}
	read.Close()
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|syscall.O_NOFOLLOW, 0)
}

// check opens the marker of a folder to read. The folder must be ours and closed to
// others, or its marker could be anybody's.
func (k *markedFolder) check(dir string) (*os.File, error) {
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, err
	}
	sys, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(sys.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is no folder that %s made: that is yours and closed to others", dir, k.maker)
	}
	f, err := os.OpenFile(filepath.Join(dir, k.name), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no folder that %s made: there is no %s in it", dir, k.maker, k.name)
	}
	if err != nil {
		return nil, err
	}
	first := bufio.NewScanner(f)
	if !first.Scan() || first.Text() != k.title {
		f.Close()
		return nil, fmt.Errorf("%s/%s is not of this program", dir, k.name)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// plainName makes a part of a file's name out of what a host says.
func plainName(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, s)
}
