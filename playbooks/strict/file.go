package strict

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// ReadFile reads and parses a file that the user named.
func ReadFile(path string) (*Value, error) {
	data, err := ReadText(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// ReadText reads a file that the user named, up to one byte more than [MaxSize],
// which the parsers refuse.
func ReadText(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s: a directory, not a YAML file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return data, nil
}

// Trust tells whether a file that was found, not named, may be used: it and its
// folder must belong to the user or root and not be writable by everybody.
// Otherwise who can write to /tmp decides what an admin working there runs. In
// such a folder nobody else can replace the file after it was looked at.
// It returns an error that is [os.ErrNotExist] where there is no such file.
func Trust(path string) error {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	// Where path is a link, whoever can replace the link decides as well.
	for _, p := range []string{filepath.Dir(path), filepath.Dir(real), real} {
		if err := trusted(p); err != nil {
			return err
		}
	}
	return nil
}

func trusted(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	name, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.New(name + ": the owner cannot be told on this system")
	}
	if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to neither you nor root", name)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s is writable by everybody", name)
	}
	return nil
}
