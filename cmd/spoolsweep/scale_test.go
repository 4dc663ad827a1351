package main

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// crowdSize is how many hosts one controller has in these tests.
var crowdSize = flag.Int("crowd", 1000, "hosts of the tests of scale")

// crowd is many hosts, of testdata/crowd, and a controller of them.
type crowd struct {
	t   *testing.T
	dir string
}

var crowdProgram = sync.OnceValues(func() (string, error) {
	file := filepath.Join(testDir, "crowd")
	if out, err := exec.Command("go", "build", "-o", file, "./testdata/crowd").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return file, nil
})

func newCrowd(t *testing.T, n int, flags ...string) *crowd {
	t.Helper()
	file, err := crowdProgram()
	if err != nil {
		t.Fatal(err)
	}
	c := &crowd{t, t.TempDir()}
	cmd := exec.Command(file, append(append([]string{"-n", fmt.Sprint(n)}, flags...), c.dir)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, stderr.String())
	}
	return c
}

// controlled is what a controller did, and took.
type controlled struct {
	result
	took, worked time.Duration
	resident     int // at most, MiB
}

// controller runs the program with at most so many open files. each, if not nil, is
// given the lines of its output when they come.
func (c *crowd) controller(files int, each func([]byte), args ...string) controlled {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files), built(c.t)}, args...)...)
	cmd.Args = append(cmd.Args, "-i", c.file("hosts.yaml"), "--ssh-config", "none", "--known-hosts", c.file("known_hosts"), "--agent", c.file("agent"))
	var out, stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if each != nil {
				each(lines.Bytes())
			} else {
				out.Write(append(lines.Bytes(), '\n'))
			}
		}
	}()
	r := controlled{resident: mostResident(cmd.Process.Pid, read)}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		c.t.Fatal(err)
	}
	if runtime.GOOS == "darwin" {
		r.resident = int(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 20)
	}
	r.took, r.worked = time.Since(began), cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime()
	r.result = result{strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
	if r.resident > residentLimit {
		c.t.Errorf("%s: %d MiB were resident, want at most %d", r.line, r.resident, residentLimit)
	}
	return r
}

func (c *crowd) file(name string) string { return filepath.Join(c.dir, name) }

// mostResident looks until over is closed: what wait4(2) tells on Linux is at least
// the memory of whoever started the process.
func mostResident(pid int, over <-chan struct{}) (mib int) {
	for {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if _, rest, ok := strings.Cut(string(text), "VmHWM:"); ok {
			var kib int
			_, _ = fmt.Sscan(rest, &kib)
			mib = max(mib, kib>>10)
		}
		select {
		case <-over:
			return mib
		case <-time.After(10 * time.Millisecond):
		}
	}
}

const (
	// residentLimit is what a controller of a thousand hosts may take, in MiB.
	residentLimit = 256
	// ownFiles are more than it has open beside its connections.
	ownFiles = 24
)

// A thousand hosts are swept by one controller, with the files that a process may
// have open by default. Where those do not suffice, it is said of each host that is
// left out, with what to do, and the others are reached.
func TestThousandHosts(t *testing.T) {
	n := *crowdSize
	c := newCrowd(t, n)
	r := c.controller(n+ownFiles, nil, "ping")
	t.Logf("ping of %d hosts, %d open files: %v, of which %v at work; %d MiB", n, n+ownFiles, r.took, r.worked, r.resident)
	r.want(t, 0, fmt.Sprintf("%d hosts: %d ok", n, n))
	if got := strings.Count(r.out, "one of many"); got != n {
		t.Errorf("%d hosts are told", got)
	}

	files := n / 2
	r = c.controller(files, nil, "ping")
	reached, left := strings.Count(r.out, "one of many"), strings.Count(r.err, "UNREACHABLE: ")
	if r.status != 4 || reached != files-ownFiles || reached+left != n {
		t.Errorf("with %d open files %d are reached and %d are not, exit status %d", files, reached, left, r.status)
	}
	for _, said := range []string{fmt.Sprintf("this program may have %d files open", files), "  remedy: ulimit -n "} {
		if got := strings.Count(r.err, said); got != left {
			t.Errorf("%q is said of %d hosts, want %d:\n%.2000s", said, got, left, r.err)
		}
	}
}

// Events of all of them, ten a second of each, are told when they come.
func TestThousandHostsTell(t *testing.T) {
	const events = 80 // eight seconds of them
	c := newCrowd(t, *crowdSize, "-events", fmt.Sprint(events))
	var lags []time.Duration
	r := c.controller(2**crowdSize, func(line []byte) {
		_, rest, _ := bytes.Cut(line, []byte(`"time":"`))
		text, rest, _ := bytes.Cut(rest, []byte(`"`))
		if at, err := time.Parse(time.RFC3339Nano, string(text)); err == nil && bytes.Contains(rest, []byte(`"progress"`)) {
			lags = append(lags, time.Since(at))
		}
	}, "attach", "20261128T120000Z-ab12", "-o", "jsonl")
	r.want(t, 0)
	if want := *crowdSize * events; len(lags) != want {
		t.Fatalf("%d events were told, want %d", len(lags), want)
	}
	late := slices.Clone(lags[len(lags)*3/4:])
	slices.Sort(lags)
	slices.Sort(late)
	t.Logf("%d events: lag %v in the middle, %v at most, in the last quarter %v; %v at work; %d MiB", len(lags), lags[len(lags)/2], lags[len(lags)-1], late[len(late)/2], r.worked, r.resident)
	// One that cannot keep up falls behind by seconds in each of the eight.
	if late[len(late)/2] > 3*time.Second {
		t.Errorf("the last events come %v after they were sent", late[len(late)/2])
	}
}

// The hosts of a fleet are left all at once: on a long way each takes its time.
func TestLeftAtOnce(t *testing.T) {
	t.Parallel()
	const n, each = 20, 500 * time.Millisecond
	r := newCrowd(t, n, "-slow", each.String()).controller(100, nil, "ping")
	r.want(t, 0)
	if r.took > n*each/2 {
		t.Errorf("it took %v", r.took)
	}
}
