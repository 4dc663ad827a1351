package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/sshtest"
)

// fleetFault is what is wrong with one host of a fleet.
type fleetFault struct {
	name   string
	server func(c *sshtest.Config)                // what its server is like
	port   func(t *testing.T) int                 // what stands in for a server
	after  func(t *testing.T, s *sshtest.Server)  // what befalls it then
	vars   func(t *testing.T, home string) string // of the host, beside its port
	agent  func(t *testing.T, cache, sum string)  // puts one there; nil: the right one

	status string // "" for ok
	says   string // expressions
	remedy string
}

// faultTimeout is the longest that a host may keep the others waiting.
const faultTimeout = 10 * time.Second

// Of fifty hosts some are as bad as hosts can be, all at once: the others end well,
// each bad one has its own line with what to do, and none keeps the rest for longer
// than the time-out that it runs into.
func TestFaultsOfFleets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the agents of this test are Linux programs, which run on this machine")
	}
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprintf("mx%02d", i+1))
	}
	f := fleetOf(t, flooded, names...)
	program, err := os.ReadFile(built(t))
	if err != nil {
		t.Fatal(err)
	}
	// A copy: the program itself as the agent is for practice alone.
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, program, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(program))
	key, err := os.ReadFile(f.file("key"))
	if err != nil {
		t.Fatal(err)
	}
	login, err := ssh.ParsePrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	known, err := os.ReadFile(f.file("known_hosts"))
	if err != nil {
		t.Fatal(err)
	}
	more := "all:\n  hosts:\n"
	for i, h := range f.hosts {
		place := func(t *testing.T, cache, sum string) {
			if err := os.Link(agent, filepath.Join(cache, agentName+"-"+sum)); err != nil {
				t.Fatal(err)
			}
		}
		var fault fleetFault
		if i%4 == 1 && i/4 < len(fleetFaults) { // among the others
			fault = fleetFaults[i/4]
		}
		if fault.agent != nil {
			place = fault.agent
		}
		cache := filepath.Join(h.Home(), ".cache", "spoolsweep")
		if err := os.MkdirAll(cache, 0o700); err != nil {
			t.Fatal(err)
		}
		place(t, cache, sum)
		if fault.name == "" {
			continue
		}
		port := 0
		if fault.port != nil {
			port = fault.port(t)
		} else {
			c := sshtest.Config{ClientKeys: []ssh.PublicKey{login.PublicKey()}, Home: h.Home(), Env: []string{practiceVariable + "=" + h.Dir}}
			if fault.server != nil {
				fault.server(&c)
			}
			s, err := sshtest.Start(c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			port = s.Addr().Port
			known = append(known, s.KnownHostsLine()...)
			if fault.after != nil {
				fault.after(t, s)
			}
		}
		more += fmt.Sprintf("    %s: {ansible_port: %d", h.Name, port)
		if fault.vars != nil {
			more += ", " + fault.vars(t, h.Home())
		}
		more += "}\n"
	}
	f.write("known_hosts", string(known))
	flags := append([]string{"-i", f.write("more.yaml", more), "--agent", agent, "-T", faultTimeout.String(), "--reconnect", "2s"}, f.where()...)

	began := time.Now()
	r := execs(t, append([]string{"run", "health", "-y", "-o", "json"}, flags...)...)
	took := time.Since(began)
	t.Logf("took %.1f s", took.Seconds())
	if took > 4*faultTimeout { // one after the other they take longer
		t.Errorf("it took %v, with time-outs of %v", took, faultTimeout)
	}
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatalf("%v\nstdout:\n%s\nstderr:\n%s", err, r.out, r.err)
	}
	var kept [2][]string
	for i, h := range doc.Hosts {
		lines := regexp.MustCompile(`(?m)^`+h.Host+` +\| .*(?:UNREACHABLE|FAILED): .*$`).FindAllString(r.err, -1)
		var fault fleetFault
		if i%4 == 1 && i/4 < len(fleetFaults) {
			fault = fleetFaults[i/4]
		}
		if fault.status == "" {
			if h.Status != show.OK || h.Error != nil || len(lines) > 0 {
				t.Errorf("%s %s: %s, %+v, want ok", h.Host, fault.name, h.Status, h.Error)
			}
			continue
		}
		list := slices.Index([]string{show.Failed, show.Unreachable}, fault.status)
		kept[list] = append(kept[list], h.Host)
		if h.Status != fault.status || h.Error == nil {
			t.Errorf("%s: %s, %+v, want %s", fault.name, h.Status, h.Error, fault.status)
			continue
		}
		if len(lines) != 1 || !regexp.MustCompile(fault.says).MatchString(lines[0]) || !regexp.MustCompile(fault.says).MatchString(h.Error.Message) {
			t.Errorf("%s: want one line with %q, got %q (%s)", fault.name, fault.says, lines, h.Error.Message)
		}
		if remedy := regexp.MustCompile(`(?m)^`+h.Host+` +\|   remedy: .*$`).FindAllString(r.err, -1); len(remedy) != 1 || !regexp.MustCompile(fault.remedy).MatchString(remedy[0]) {
			t.Errorf("%s: want one remedy with %q, got %q (%s)", fault.name, fault.remedy, remedy, h.Error.Remedy)
		}
	}
	if want := statusFailed | statusUnreachable; r.status != want {
		t.Errorf("exit status %d, want %d", r.status, want)
	}
	for i, name := range []string{"@failed", "@unreachable"} {
		r := execs(t, append([]string{"ping", "--list-hosts", "-l", name}, flags...)...)
		if want := strings.Join(kept[i], "\n") + "\n"; r.status != 0 || r.out != want {
			t.Errorf("--limit %s: status %d, %q, want %q", name, r.status, r.out, want)
		}
	}
	if t.Failed() {
		t.Log(r.err)
	}
}

const (
	statusFailed      = 2
	statusUnreachable = 4
)

// sent has an agent sent to the host.
func sent(*testing.T, string, string) {}

// programs puts programs before those of a host's PATH.
func programs(c *sshtest.Config, all map[string]string) {
	dir := filepath.Join(c.Home, "bin")
	err := os.Mkdir(dir, 0o755)
	for name, text := range all {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755)
		}
	}
	if err != nil {
		panic(err)
	}
	c.Path = dir + ":" + os.Getenv("PATH")
}

var fleetFaults = []fleetFault{
	{
		name: "sshd is down", port: func(t *testing.T) int {
			l := listen(t)
			port := l.Addr().(*net.TCPAddr).Port
			l.Close()
			return port
		},
		status: show.Unreachable, says: "no connection: .*connection refused", remedy: "check that the host is up",
	},
	{
		name: "refuses the key", after: func(_ *testing.T, s *sshtest.Server) { s.Refuse(true) },
		status: show.Unreachable, says: "not let in: as practice, tried .*/key", remedy: "--private-key",
	},
	{
		name: "black hole", port: blackHole,
		status: show.Unreachable, says: "no connection: .*i/o timeout", remedy: "raise --timeout",
	},
	{
		name: "answers nothing", port: func(t *testing.T) int { return listen(t).Addr().(*net.TCPAddr).Port },
		status: show.Unreachable, says: "ssh handshake: no answer in time", remedy: "raise --timeout",
	},
	{
		name: "slow", server: func(c *sshtest.Config) { c.Latency = time.Second },
	},
	{
		name: "noisy start-up files", server: func(c *sshtest.Config) {
			c.Noise = "Last login: today\r\n\x1b[2J\x07spoolsweep-need no such thing\nspoolsweep/1\n" + strings.Repeat("fortune\n", 4000) + "~/spoolsweep/ $ "
		},
	},
	{
		name: "full disk", server: func(c *sshtest.Config) { c.Room = 1 << 20 }, agent: sent,
		status: show.Failed, says: "send the agent: .*no space left", remedy: "check free space",
	},
	{
		name: "wrong architecture", agent: sent,
		after: func(t *testing.T, s *sshtest.Server) {
			home := t.TempDir()
			if err := os.WriteFile(filepath.Join(home, "arch"), []byte("mips64\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			s.Lie(func(line string, _ io.Reader, out io.Writer) int {
				cmd := exec.Command("/bin/sh", "-c", strings.ReplaceAll(line, "/proc/sys/kernel/arch", filepath.Join(home, "arch")))
				cmd.Env, cmd.Stdout = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}, out
				_ = cmd.Run() // its status is below
				return cmd.ProcessState.ExitCode()
			})
		},
		status: show.Failed, says: "mips64", remedy: "--agent FILE",
	},
	{
		name: "no sftp", server: func(c *sshtest.Config) { c.NoSFTP = true }, agent: sent,
		status: show.Failed, says: "send the agent: open SFTP", remedy: "SFTP",
	},
	{
		name: "lost in the push", agent: sent,
		after:  func(_ *testing.T, s *sshtest.Server) { s.SetFault(&sshtest.Fault{Up: true, After: 1 << 20}) },
		status: show.Unreachable, says: "link lost while the agent was started", remedy: "type the same again",
	},
	{
		name: "agent killed", agent: func(t *testing.T, cache, sum string) {
			text := "#!/bin/sh\necho spoolsweep/1 devel " + sum + "\nread -r call\nkill -9 $$\n"
			if err := os.WriteFile(filepath.Join(cache, agentName+"-"+sum), []byte(text), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		status: show.Unreachable, says: "link lost: the agent ended", remedy: "kernel's log",
	},
	{
		name: "sudo asks", server: func(c *sshtest.Config) {
			asks := map[string]string{"sudo": `echo "sudo: a password is required" >&2; exit 1`}
			if os.Getuid() == 0 { // else nobody has to become root
				asks["id"] = "echo 12345"
			}
			programs(c, asks)
		},
		vars: func(t *testing.T, home string) string {
			dir := filepath.Join(home, "agent")
			err := os.Mkdir(dir, 0o700)
			if os.Getuid() == 0 && err == nil {
				err = os.Chown(dir, 12345, 12345)
			}
			if err != nil {
				t.Fatal(err)
			}
			return "ansible_become: true, agent_directory: " + dir
		},
		agent:  sent,
		status: show.Unreachable, says: "a password is required", remedy: "-K or --become-password-file",
	},
	{
		name: "key changed", after: func(t *testing.T, s *sshtest.Server) {
			other, err := sshtest.NewKey()
			if err != nil {
				t.Fatal(err)
			}
			s.SetHostKeys(other)
		},
		status: show.Unreachable, says: "HOST KEY CHANGED", remedy: "ssh-keygen -R",
	},
}

// listen takes connections and says nothing.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// blackHole is a port that drops packets: as many wait there to be taken as may.
func blackHole(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*syscall.SockaddrInet4).Port
	for range 10 {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 300*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the system takes every connection")
	return 0
}
