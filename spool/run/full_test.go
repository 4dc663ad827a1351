package run

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"spoolsweep/spool/stage"
)

// smallState puts the state directory on a file system of its own, so small
// that what the run needs just fits.
func (h *host) smallState(size string) {
	h.t.Helper()
	if os.Geteuid() != 0 {
		h.t.Skip("needs root, to mount a small file system")
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "mode=700,size="+size, "tmpfs", h.State()).CombinedOutput(); err != nil {
		h.t.Skipf("needs a file system of its own, which cannot be mounted here: %s", out)
	}
	h.t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", h.State()).CombinedOutput(); err != nil {
			h.t.Errorf("umount: %s", out)
		}
	})
}

// The state's disk is full from the stop on: the run goes to its end in what it
// had reserved, and gives back what it did not need.
func TestStateFull(t *testing.T) {
	h := newHost(t, flood)
	h.smallState("4m")
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	filler, err := os.OpenFile(filepath.Join(h.State(), "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for size := 64 << 10; size > 0; {
		if _, err := filler.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
			size /= 2
		} else if err != nil {
			t.Fatal(err)
		}
	}
	h.letGo("stop")
	h.rest(Finished)
	h.swept()
	if r := result[stage.Restored](h, "restore"); r.Restored != 75 || r.Left != 225 {
		t.Errorf("restored %+v", r)
	}
	var s syscall.Statfs_t
	if err := syscall.Statfs(h.State(), &s); err != nil || s.Bavail*uint64(s.Bsize) < 1<<20 {
		t.Errorf("%d bytes are free after the run, %v", s.Bavail*uint64(s.Bsize), err)
	}
}

// The run's record is removed while Postfix is down: Postfix is started all the
// same, and no mail is lost.
func TestStateRemoved(t *testing.T) {
	h := newHost(t, flood)
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	if err := os.RemoveAll(filepath.Join(h.State(), "runs")); err != nil {
		t.Fatal(err)
	}
	h.letGo("stop")
	h.await("Postfix", func() bool {
		_, running := h.Running()
		return running && len(h.processes("section"))+len(h.processes("worker")) == 0
	})
	h.allAside()
}

// Where what the run needs does not fit, nothing is stopped.
func TestStateTooSmall(t *testing.T) {
	h := newHost(t, flood)
	h.smallState("1200k") // the journal's, and not the events'
	master, _ := h.Running()
	h.begin(plan(rules))
	s := h.rest(Failed)
	if !strings.Contains(s.Error, "make room") || !strings.Contains(s.Error, h.State()) {
		t.Errorf("error %q", s.Error)
	}
	if now, _ := h.Running(); now != master {
		t.Errorf("master %d, then %d", master, now)
	}
	h.noFresh()
	h.audited()
}

// Preflight tells what the run would end at, and no more: where it finds nothing
// the run reserves what it needs, and where the run could not it is told before.
func TestPreflightRoom(t *testing.T) {
	for _, fits := range []bool{true, false} {
		t.Run(fmt.Sprint(fits), func(t *testing.T) {
			h := newHost(t, flood)
			size := reserved(flood)
			if !fits {
				size -= folderSpace + 8<<10
			}
			h.smallState(fmt.Sprint(size))
			f, err := h.Preflight(t.Context(), h.vars, plan(rules))
			if err != nil {
				t.Fatal(err)
			}
			told := slices.ContainsFunc(f.Problems, func(p Problem) bool {
				return strings.HasPrefix(p.Message, h.State()+" has 2 MB free for the run's records, and 3 MB are needed") && strings.Contains(p.Remedy, "make room")
			})
			if told == fits || fits && len(f.Problems) > 0 {
				t.Errorf("problems: %+v", f.Problems)
			}
			h.begin(plan(rules))
			phase := map[bool]string{true: Finished, false: Failed}[fits]
			if s := h.rest(phase); !fits && !strings.Contains(s.Error, "make room") {
				t.Errorf("error %q", s.Error)
			}
		})
	}
}
