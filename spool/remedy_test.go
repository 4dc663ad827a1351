package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"golang.org/x/sys/unix"
)

// A remedy is found wherever in an error it stands, and is no part of its text.
func TestRemedyOf(t *testing.T) {
	cause := errors.New("no room")
	inner := Remedied(cause, "make some")
	for _, tt := range []struct {
		err          error
		text, remedy string
	}{
		{inner, "no room", "make some"},
		{fmt.Errorf("restore: %w", inner), "restore: no room", "make some"},
		{errors.Join(errors.New("first"), inner), "first\nno room", "make some"},
		{Remedied(fmt.Errorf("again: %w", inner), "look"), "again: no room", "look"},
		{cause, "no room", ""},
		{&fs.PathError{Op: "write", Path: "/x", Err: unix.ENOSPC}, "write /x: no space left on device", "make room there (df, df -i)"},
		{Remedied(unix.EIO, "look there"), "input/output error", "look there"},
	} {
		if tt.err.Error() != tt.text || RemedyOf(tt.err) != tt.remedy {
			t.Errorf("got %q, %q, want %q, %q", tt.err, RemedyOf(tt.err), tt.text, tt.remedy)
		}
		if !errors.Is(inner, cause) {
			t.Error("the cause is lost")
		}
	}
	if RemedyOf(nil) != "" {
		t.Error("no error has a remedy")
	}
}
