package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"spoolsweep/remote/sshtest"
	"spoolsweep/spool/practice"
)

// kept says of each message that was there whether it is still there, or here, byte
// for byte, and fails where it is in neither place.
func kept(t *testing.T, f *fleet, dir string, before map[string][]byte) (here, there int) {
	t.Helper()
	after := queueFiles(t, f, "deferred")
	for name, raw := range before {
		stays := bytes.Equal(after[name], raw)
		if stays {
			there++
		}
		host, id, _ := strings.Cut(name, " ")
		text, err := os.ReadFile(filepath.Join(dir, host+".deferred."+id+".queue"))
		if err == nil && bytes.Equal(text, raw) {
			here++
		} else if !stays {
			t.Errorf("%s is neither there nor here: %v", name, err)
		}
	}
	return here, there
}

// Wherever the link is cut, for a moment or for good, no message is lost; whoever
// resumes the run goes on where it was.
func TestExportLinkCut(t *testing.T) {
	t.Parallel()
	const flood = 1200
	rules := func(f *fleet) string { return "@" + f.write("rules.yaml", demoRules) }
	isSpam := func(p practice.Place) bool { return p.Directory == "deferred" }
	args := func(f *fleet, dir string, n int, more ...string) []string {
		return append([]string{"export", "--remove", "-e", rules(f), "--to", dir, "-y", "--expect", fmt.Sprint(n), "-T", "5s"}, more...)
	}
	first := fleetOf(t, flooded, "chavez").withFlood(flood)
	first.spoolsweep("ping").want(t, 0)
	first.servers[0].SetFault(nil)
	first.spoolsweep(args(first, filepath.Join(t.TempDir(), "to"), first.counted(t, isSpam))...).want(t, 0)
	down, _ := first.servers[0].Sent()
	cut, resumed := 0, 0
	const gone, back = "1ms", "1m"
	for i, reconnect := range []string{gone, back, gone, back, gone, gone} {
		f := fleetOf(t, flooded, "chavez").withFlood(flood)
		f.spoolsweep("ping").want(t, 0)
		spam, before := f.counted(t, isSpam), queueFiles(t, f, "deferred")
		dir := filepath.Join(t.TempDir(), "to")
		f.servers[0].SetFault(&sshtest.Fault{After: down.Bytes * int64(4+i) / 10, Deaf: reconnect == gone})
		r := f.spoolsweep(args(f, dir, spam, "--reconnect", reconnect)...)
		if f.servers[0].Faulted() {
			cut++
		}
		f.servers[0].SetFault(nil)
		if _, err := os.Lstat(dir); err == nil {
			kept(t, f, dir, before)
		} else if errors.Is(err, os.ErrNotExist) && r.status == 0 {
			t.Errorf("nothing was exported: %v", r)
		}
		if r.status != 0 {
			m := regexp.MustCompile(`(?m)^run (\S+)$`).FindStringSubmatch(r.err)
			if m == nil {
				continue // before it was begun
			}
			resumed++
			if !strings.Contains(r.err, "spoolsweep resume "+m[1]+" --to "+dir) {
				t.Errorf("what to type is not told: %v", r)
			}
			if again := f.spoolsweep("resume", m[1]); again.status != 3 && f.counted(t, isSpam) > 0 {
				t.Errorf("without a folder: %v", again)
			}
			f.spoolsweep("resume", m[1], "--to", dir).want(t, 0)
		}
		here, there := kept(t, f, dir, before)
		if here != spam || there != len(before)-spam || f.counted(t, isSpam) != 0 {
			t.Errorf("at %d of 10, %s: %d here, %d there, of %d with %d spam: %v", 4+i, reconnect, here, there, len(before), spam, r)
		}
		manifestOf(t, dir)
	}
	if cut < 4 || resumed == 0 {
		t.Errorf("the link was cut %d times, and resumed %d times", cut, resumed)
	}
}
