package lab_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/practice"
)

func TestMain(m *testing.M) {
	lab.Main()
	if code, mine := practice.Main(os.Args[1:]); mine { // of the practice hosts of TestSameEvents
		os.Exit(code)
	}
	flag.Parse()
	chosen := false
	flag.Visit(func(f *flag.Flag) { chosen = chosen || f.Name == "test.parallel" })
	if !chosen {
		// They wait for hosts more than they work.
		if err := flag.Set("test.parallel", strconv.Itoa(sideBySide)); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if err := errors.Join(pool.down(), removeProgram()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// pool lends out hosts: tests run side by side, and two cores carry few hosts.
var pool = hostPool{changed: sync.NewCond(&sync.Mutex{})}

const (
	// sideBySide is how many tests run at the same time.
	sideBySide = 3
	// poolSize is how many hosts a lab of the tests' own has at most.
	poolSize = 5
)

type hostPool struct {
	changed *sync.Cond // its lock guards the rest; signalled when hosts come back
	lab     *lab.Lab
	own     bool // the lab is ours to end
	err     error
	size    int
	free    []*lab.Host
}

// hosts lends a test n hosts, each as new: empty spool, Postfix and sshd
// running, link up, nothing listening for the mail. They go back when the test
// ends. Without SPOOLSWEEP_LAB the test is skipped.
func hosts(t testing.TB, n int) []*lab.Host {
	t.Helper()
	lent := pool.take(t, n)
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range lent {
				showLog(t, h)
			}
		}
		pool.giveBack(lent)
	})
	ends := make(chan error)
	for _, h := range lent {
		go func() { ends <- h.Reset(t.Context()) }()
	}
	for range lent {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return lent
}

func (p *hostPool) take(t testing.TB, n int) []*lab.Host {
	t.Helper()
	p.changed.L.Lock()
	defer p.changed.L.Unlock()
	if p.lab == nil && p.err == nil {
		p.open(t)
	}
	if p.err != nil {
		t.Fatal(p.err)
	}
	if n > p.size {
		t.Fatalf("the lab at %s has %d hosts, this test needs %d", p.lab.Dir, p.size, n)
	}
	for len(p.free) < n {
		p.changed.Wait()
	}
	lent := p.free[:n:n]
	p.free = p.free[n:]
	return lent
}

// open starts or finds the lab, at the first test that needs it.
func (p *hostPool) open(t testing.TB) {
	switch where := os.Getenv("SPOOLSWEEP_LAB"); where {
	case "":
		t.Skip("needs real mail hosts: SPOOLSWEEP_LAB=require go test ./remote/lab as root, or the directory of a lab that runs (go run ./cmd/lab up chavez peltier)")
	case "require":
		p.own = true
		// The pool outlives the test that opens it.
		p.lab, p.err = lab.Temp(context.Background(), []string{"chavez", "peltier", "relay01", "relay02", "relay03"}[:poolSize]...)
	default:
		p.lab, p.err = lab.Open(where)
	}
	if p.err != nil {
		return
	}
	p.free, p.err = p.lab.Hosts()
	p.size = len(p.free)
}

func (p *hostPool) giveBack(lent []*lab.Host) {
	p.changed.L.Lock()
	defer p.changed.L.Unlock()
	p.free = append(p.free, lent...)
	p.changed.Broadcast()
}

func (p *hostPool) down() error {
	if p.lab == nil || !p.own {
		return nil
	}
	return p.lab.Down()
}

// showLog prints the end of a host's mail log, where the reason of most failures
// stands.
func showLog(t testing.TB, h *lab.Host) {
	data, err := os.ReadFile(h.Dir + "/upper/var/log/mail.log")
	if err != nil {
		t.Log(err)
		return
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	t.Logf("%s: end of mail.log\n%s", h.Name, strings.Join(lines[max(0, len(lines)-20):], "\n"))
}
