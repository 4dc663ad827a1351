package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What a run writes after its stop is reserved before it: between stop and start
// a full disk would be in the way of Postfix, and later of the mail that waits.
const (
	// sectionSpace is for the journal of stop..start, of all tries to start.
	sectionSpace = 1 << 20
	// moveSpace is for the intent to move one message with its log.
	moveSpace = 160
	// ballastMost bounds what is written for want of a way to reserve it: enough
	// for the section, too little to take long.
	ballastMost = 4 << 20

	ballastName = "reserve"
)

// JournalSpace is what Prepare reserves, in bytes, for the journal of a run that
// sets so many messages aside.
func JournalSpace(messages int64) int64 { return sectionSpace + messages*moveSpace }

// Reserve sets n bytes behind the end of f aside for what will be appended to it:
// blocks beyond its end are the file's own (fallocate(2), FALLOC_FL_KEEP_SIZE)
// until it is truncated. Where the file system cannot do that the space is held
// by a file of zeros beside it, which GiveWay removes. Errors are those of a full
// disk, with the path and the remedy.
func Reserve(f *os.File, n int64) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = reserve(f, size, n)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		err = writeZeros(filepath.Join(filepath.Dir(f.Name()), ballastName), min(n, ballastMost))
	}
	if err != nil {
		return fmt.Errorf("reserve %d MB for %s, which the run will need (make room there, or name another state_directory): %w", (n+1<<20-1)>>20, f.Name(), err)
	}
	return nil
}

// GiveWay removes the file that holds space in a run's folder, and says whether a
// write that has failed with err is worth another try.
func GiveWay(dir string, err error) bool {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return false
	}
	return removeFile(filepath.Join(dir, ballastName)) == nil
}

// Reserve sets space aside for further records.
func (j *Journal) Reserve(n int64) error { return Reserve(j.f, n) }

// Release gives back what was reserved and not used, of a run that has ended.
func (j *Journal) Release() error {
	err := removeFile(filepath.Join(filepath.Dir(j.f.Name()), ballastName))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, cutTail(j.f, j.size))
}
