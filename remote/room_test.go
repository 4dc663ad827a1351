package remote

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// proxyVariable makes this test program a ProxyCommand to the address that it names.
const proxyVariable = "REMOTE_TEST_PROXY"

func proxyTo(address string) int {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return 1
	}
	go func() { // ends with the process
		_, _ = io.Copy(c, os.Stdin)
		c.Close()
	}()
	_, _ = io.Copy(os.Stdout, c)
	return 0
}

// A connection takes the files that it has, until it is closed; newWorld looks that
// all are given back. Where none are left, that is the error, before anything is opened.
func TestRoom(t *testing.T) {
	w := newWorld(t, nil)
	room := &w.dialer.room
	w.dial(t)
	if room.taken != 1 {
		t.Errorf("one connection takes %d files", room.taken)
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("Host 127.0.0.1\n ProxyCommand env %s=%s '%s'\n", proxyVariable, w.Addr(), self)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.dialer.ConfigFile = config
	proxied := w.dial(t)
	if room.taken != 1+3 {
		t.Errorf("another one through a ProxyCommand makes that %d", room.taken)
	}
	proxied.Close()
	proxied.Close()
	if room.taken != 1 {
		t.Errorf("after its end there are %d", room.taken)
	}

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	for left := range 3 { // too few for a ProxyCommand, from none on
		was := room.taken
		room.taken = int(limit.Cur) - ownFiles - left
		e := w.refused(t, KindConnect, fmt.Sprintf("may have %d files open", limit.Cur))
		if !strings.Contains(e.Remedy, "ulimit -n") || !strings.Contains(e.Remedy, "--limit") {
			t.Errorf("remedy %q", e.Remedy)
		}
		if room.taken != int(limit.Cur)-ownFiles-left {
			t.Errorf("what was refused has taken %d", room.taken-int(limit.Cur)+ownFiles+left)
		}
		room.taken = was
	}
}
