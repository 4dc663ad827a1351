package spool

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of so many bytes on a directory.
func smallDisk(t *testing.T, dir string, size int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=700", size), "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("needs a file system of its own, which cannot be mounted here: %s", out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %s", out)
		}
	})
}

// fill leaves not a byte free in dir.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 64 << 10; size > 0; {
		if _, err := f.Write(make([]byte, size)); errors.Is(err, unix.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// The disk is full from the moment when the stop is to come: the section and
// what comes after it go their way in what was reserved.
func TestFullDisk(t *testing.T) {
	for _, row := range []struct {
		name    string
		reserve error // what the file system says to fallocate
	}{{"reserved", nil}, {"held by zeros", unix.EOPNOTSUPP}} {
		t.Run(row.name, func(t *testing.T) {
			h := newHost(t, []string{"deferred", "defer"}, 1)
			h.flood(30)
			before := h.account()
			h.start()
			smallDisk(t, h.state(), 8<<20)
			w := h.open()
			if row.reserve != nil {
				failAt("reserve ", row.reserve, -1)
			}
			h.must(w.Prepare(crashQueues))
			fill(t, h.state())
			if err := os.WriteFile(filepath.Join(h.state(), "more"), []byte("x"), 0o600); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
			w = h.open() // as the section does
			s, err := w.Stop(t.Context())
			h.must(err)
			_, err = w.SetAside(t.Context(), s)
			h.must(err)
			_, err = w.Start(t.Context(), s)
			h.must(err)
			list := h.asideMail(w)
			moved, left, err := w.PutBack(t.Context(), list, Options{Token: "all", First: 3}, quiet)
			if err != nil || int(moved.Restored) != len(list) || len(left) > 0 {
				t.Errorf("put back %+v of %d, left %v, %v", moved, len(list), left, err)
			}
			h.once(before)
			if _, err := os.Lstat(filepath.Join(h.state(), ballastName)); row.reserve != nil && err == nil {
				t.Error("the zeros are still there")
			}
		})
	}
}

// Where the room is not there, nothing is begun: Postfix runs on, and nothing is left.
func TestNoRoom(t *testing.T) {
	h := newHost(t, nil, 0)
	h.flood(6)
	before, names := h.account(), h.names()
	h.start()
	smallDisk(t, h.state(), 512<<10)
	master, _ := h.p.Running()
	err := h.open().Prepare(crashQueues)
	if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), h.state()) || !strings.Contains(err.Error(), "make room") {
		t.Errorf("got %v, want where room is to be made", err)
	}
	if now, _ := h.p.Running(); now != master {
		t.Errorf("master %d, then %d", master, now)
	}
	h.ended(before, names, false)
}
