package spool

import (
	"errors"

	"golang.org/x/sys/unix"
)

// remedied is an error that has a remedy.
type remedied struct {
	error
	remedy string
}

func (e *remedied) Unwrap() error { return e.error }

// Remedied says beside an error what to do about it: the next command to type,
// or what to mend. Its text stays the error's own, since whoever shows it shows
// the remedy apart from it.
func Remedied(err error, remedy string) error { return &remedied{err, remedy} }

// remedies of errors of the system, where nobody has said a better one.
var remedies = []struct {
	cause  error
	remedy string
}{
	{unix.ENOSPC, "make room there (df, df -i)"},
	{unix.EDQUOT, "make room there (quota, df)"},
	{unix.EROFS, "see in the kernel's log why that file system is read-only, and mount it anew"},
	{unix.EIO, "see in the kernel's log what is wrong with that disk, first of all"},
	{unix.EACCES, "log in as root, or let become use sudo (-b)"},
	{unix.EPERM, "log in as root, or let become use sudo (-b)"},
}

// RemedyOf is what to do about an error, "" where that is not known. Of several
// the outermost counts.
func RemedyOf(err error) string {
	var e *remedied
	if errors.As(err, &e) {
		return e.remedy
	}
	for _, r := range remedies {
		if errors.Is(err, r.cause) {
			return r.remedy
		}
	}
	return ""
}
