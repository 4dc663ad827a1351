package remote

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/wire"
)

// The test program is the agent as well: pushed to a server it has a name that
// says so. The name is looked at in os.Executable, as the real one does.
func TestMain(m *testing.M) {
	self, err := os.Executable()
	if err == nil && strings.HasPrefix(filepath.Base(self), "spoolsweep-agent") {
		os.Exit(fakeAgent(self, os.Stdin, os.Stdout))
	}
	if address := os.Getenv(proxyVariable); address != "" {
		os.Exit(proxyTo(address))
	}
	status := m.Run()
	if left := leftBehind(); left != "" && status == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		status = 1
	}
	os.Exit(status)
}

// leftBehind returns the goroutines of ours that do not end.
func leftBehind() string {
	var left string
	for range 100 {
		buf := make([]byte, 1<<20)
		all := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		left = ""
		for _, g := range all[1:] {
			if strings.Contains(g, "spoolsweep/") || strings.Contains(g, "x/crypto") {
				left += g + "\n\n"
			}
		}
		if left == "" {
			break
		}
		// A goroutine that was told to end may need a moment to do so.
		<-time.After(20 * time.Millisecond)
	}
	return left
}

// fakeAgent greets and answers the calls the tests make.
func fakeAgent(self string, in io.Reader, out io.Writer) int {
	text, err := os.ReadFile(self)
	if err != nil {
		return 1
	}
	sum := sha256.Sum256(text)
	quick, err := wire.Checksum(bytes.NewReader(text), int64(len(text)))
	if err == nil {
		err = wire.WriteGreeting(out, wire.Greeting{Build: "fake", Sum: quick})
	}
	if err != nil {
		return 1
	}
	r, w := wire.NewReader(in), wire.NewWriter(out)
	for {
		f, err := r.Read()
		if err != nil {
			return 0
		}
		reply := func(data any) {
			text, _ := json.Marshal(data)
			w.Write(wire.Frame{Kind: wire.Reply, ID: f.ID, Data: text})
		}
		switch f.Kind + " " + f.Name {
		case "call " + wire.Sum:
			reply(hex.EncodeToString(sum[:]))
		case "call echo":
			reply(f.Data)
		case "call whoami":
			reply(map[string]any{"uid": os.Getuid(), "self": self, "sudo": os.Getenv("FAKE_SUDO"), "env": os.Getenv("SPOOLSWEEP_PRACTICE"), "pid": os.Getpid()})
		case "call crash":
			fmt.Fprintln(os.Stderr, "fatal: \x1b[31mno more")
			return 3
		case "call chatter":
			line := bytes.Repeat([]byte("noise on stderr\n"), 10000)
			os.Stderr.Write(line)
			reply("done")
		}
	}
}
