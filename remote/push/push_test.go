package push

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/sshtest"
)

// shells are all that this machine has and that a host may have for /bin/sh.
func shells(t *testing.T) [][]string {
	t.Helper()
	var out [][]string
	for _, s := range [][]string{{"sh"}, {"dash"}, {"busybox", "sh"}, {"bash", "--posix"}, {"ksh"}, {"zsh", "--emulate", "sh"}} {
		if path, err := exec.LookPath(s[0]); err == nil {
			out = append(out, append([]string{path}, s[1:]...))
		}
	}
	return out
}

// The script is one that every login shell passes on as it is.
func TestScriptIsPlain(t *testing.T) {
	if i := strings.IndexAny(script, "'\\!\n"); i >= 0 {
		t.Errorf("%q in %.40q", script[i], script[i:])
	}
}

// The script in every shell there is: nothing there, then an agent, then each
// reason to refuse.
func TestScript(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for _, shell := range shells(t) {
		t.Run(filepath.Base(shell[0]), func(t *testing.T) {
			home := t.TempDir()
			dir := filepath.Join(home, ".cache", "spoolsweep")
			path := os.Getenv("PATH")
			run := func(args ...string) string {
				t.Helper()
				cmd := exec.Command(shell[0], append(append(shell[1:], "-c", script, "spoolsweep"), args...)...)
				cmd.Env = []string{"HOME=" + home, "PATH=" + path}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%q: %v: %s", args, err, out)
				}
				return string(out)
			}
			need := func(out, where string) {
				t.Helper()
				got, err := Answer([]byte(out))
				if err != nil || got == nil || got.Directory != where || got.UID != uint32(os.Getuid()) {
					t.Fatalf("%q is %+v, %v, want a need of %s", out, got, err, where)
				}
				if runtime.GOOS == "linux" && runtime.GOARCH == "amd64" && got.Arch != "amd64" {
					t.Errorf("architecture %s", got.Arch)
				}
			}
			need(run("", "direct", ""), dir)
			need(run("", "direct", "", "any="+hash), dir)
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			agent := filepath.Join(dir, prefix+hash)
			if err := os.WriteFile(agent, []byte("#!/bin/sh\necho I run in $PWD\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			if got := run("", "direct", "", "m68k=x", "any="+hash); got != "I run in /\n" {
				t.Errorf("got %q", got)
			}
			path = onlyWarm(t)
			if got := run("", "direct", "", "any="+hash); got != "I run in /\n" {
				t.Errorf("with no other programs than %v: got %q", warmPrograms(), got)
			}
			path = os.Getenv("PATH")
			need(run("", "direct", "", "m68k="+hash), dir)
			odd := filepath.Join(home, "a b", "c'd $x *")
			need(run(odd, "direct", ""), odd)

			if err := os.Chmod(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			out := run(dir, "direct", "", "any="+hash)
			var place *PlaceError
			if _, err := Answer([]byte(out)); !errors.As(err, &place) || !strings.Contains(place.Why, dir) {
				t.Errorf("got %q, %v", out, err)
			}
		})
	}
}

// warmPrograms are all that the script starts where the agent is.
func warmPrograms() []string {
	if _, err := os.Stat("/proc/sys/kernel/arch"); err != nil {
		return []string{"ls", "uname"} // before Linux 6.1
	}
	return []string{"ls"}
}

// onlyWarm is a PATH of these alone.
func onlyWarm(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range warmPrograms() {
		file, err := exec.LookPath(name)
		if err == nil {
			err = os.Symlink(file, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A directory that another could put in the place of one above the agent's is as
// bad as one of another's. Who owns it is asked of the whole way there.
func TestScriptLooksAtTheWay(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	top, err := os.MkdirTemp("/var/tmp", "spoolsweep-way") // below no directory of everybody's without the sticky bit
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(top)
	dir := filepath.Join(top, "one", "two words", "agent")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, prefix+hash), []byte("#!/bin/sh\necho runs\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	change := func(path string, mode os.FileMode, uid int) func() {
		return func() {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			if os.Getuid() == 0 {
				if err := os.Lchown(path, uid, 0); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	one, two, me := filepath.Join(top, "one"), filepath.Dir(dir), os.Getuid()
	for _, c := range []struct {
		name  string
		do    func()
		undo  func()
		fine  bool
		roots bool // only root can try
	}{
		{"as it was made", func() {}, func() {}, true, false},
		{"others may write below the way", change(one, 0o777, me), change(one, 0o700, me), false, false},
		{"a group may", change(one, 0o770, me), change(one, 0o700, me), false, false},
		{"others may, but not rename", change(one, 0o777|os.ModeSticky, me), change(one, 0o700, me), true, false},
		{"others may enter the last", change(dir, 0o711, me), change(dir, 0o700, me), false, false},
		{"somebody's on the way", change(two, 0o700, 12345), change(two, 0o700, me), false, true},
		{"somebody's at its end", change(dir, 0o700, 12345), change(dir, 0o700, me), false, true},
	} {
		if c.roots && me != 0 {
			continue
		}
		c.do()
		for _, shell := range shells(t) {
			cmd := exec.Command(shell[0], append(shell[1:], "-c", script, "spoolsweep", dir, "direct", "", "any="+hash)...)
			out, err := cmd.CombinedOutput()
			if err != nil || (string(out) == "runs\n") != c.fine {
				t.Errorf("%s, %s: %q, %v, want it run: %v", filepath.Base(shell[0]), c.name, out, err, c.fine)
			}
		}
		c.undo()
	}
}

func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		in   string
		want *Need
		err  string
	}{
		{"", nil, ""},
		{"This account is closed.\n", nil, ""},
		{"spoolsweep-need amd64 0 /root/.cache/spoolsweep\n", &Need{"amd64", 0, "/root/.cache/spoolsweep"}, ""},
		{"hello\r\n$ spoolsweep-need riscv64 1000 /a b/c\r\n", &Need{"riscv64", 1000, "/a b/c"}, ""},
		{"spoolsweep-need amd64 x /a\n", nil, "no such answer"},
		{"spoolsweep-need amd64 0 relative\n", nil, "no such answer"},
		{"spoolsweep-need amd64 99999999999 /a\n", nil, "no such answer"},
		{"spoolsweep-no sudo\n", nil, "sudo is not installed"},
		{"spoolsweep-no su\n", nil, "su is not installed"},
		{"spoolsweep-no rm -rf\n", nil, ""},
		{"spoolsweep-no place  /a cannot be made; /b is not of user 5 alone;\n", nil, "no directory for the agent: /a cannot be made; /b is not of user 5 alone"},
	} {
		got, err := Answer([]byte(c.in))
		if d := cmp.Diff(c.want, got); d != "" || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %v, want %q (-want +got)\n%s", c.in, err, c.err, d)
		}
	}
}

// The law: what the script prints for any directory is read back as that
// directory, after any noise that is not an answer itself.
func FuzzAnswer(f *testing.F) {
	f.Add("motd\n", "/root/.cache/spoolsweep")
	f.Add("$ ", "/a b")
	f.Fuzz(func(t *testing.T, noise, dir string) {
		_, _ = Answer([]byte(noise))
		if strings.ContainsAny(dir, "\r\n") || strings.Contains(dir, "spoolsweep-") || strings.Contains(noise, "spoolsweep-") {
			return
		}
		got, err := Answer(fmt.Appendf(nil, "%s\nspoolsweep-need amd64 7 /%s\n", noise, dir))
		if err != nil || *got != (Need{"amd64", 7, "/" + dir}) {
			t.Errorf("%q after %q: %+v, %v", dir, noise, got, err)
		}
	})
}

// source is one with a cache of its own and the given module.
func testSource(t *testing.T, roots ...string) *Source {
	t.Helper()
	s := newSource()
	s.cache, s.self, s.roots = filepath.Join(t.TempDir(), "agents"), "controller", roots
	return s
}

// module is a small one that passes for ours.
func module(t *testing.T, name string) string {
	t.Helper()
	root := t.TempDir()
	cmd := filepath.Join(root, "cmd", "spoolsweep-agent")
	if err := os.MkdirAll(cmd, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		filepath.Join(root, "go.mod"): "module " + name + "\n\ngo 1.26\n",
		filepath.Join(cmd, "main.go"): "package main\n\nfunc main() { println(\"hello\") }\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestBuildOnce(t *testing.T) {
	root := module(t, "spoolsweep")
	s := testSource(t, module(t, "other"), "/does/not/exist", root)
	var wg sync.WaitGroup
	agents := make([]*Agent, 20)
	for i := range agents {
		wg.Go(func() {
			a, err := s.Agent(t.Context(), "arm64")
			if err != nil {
				t.Error(err)
			}
			agents[i] = a
		})
	}
	wg.Wait()
	for _, a := range agents {
		if a != agents[0] || a == nil {
			t.Fatal("built more than once")
		}
	}
	if arch, err := elfArch(agents[0].data); arch != "arm64" || err != nil {
		t.Errorf("built for %q, %v", arch, err)
	}
	if got := s.Hashes(); got["arm64"] != agents[0].SHA256 || len(got) != 1 {
		t.Errorf("hashes %v", got)
	}
	// Another controller of the same build finds it, without any source.
	other := testSource(t)
	other.cache = s.cache
	if a, err := other.Agent(t.Context(), "arm64"); err != nil || a.SHA256 != agents[0].SHA256 {
		t.Errorf("from the cache: %+v, %v", a, err)
	}
	// One that is not what its name says is built again, when it is to be sent.
	if err := os.WriteFile(s.cached("arm64"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	mends := testSource(t, root)
	mends.cache = s.cache
	if a, err := mends.Agent(t.Context(), "arm64"); err != nil || a.SHA256 != agents[0].SHA256 {
		t.Errorf("a damaged one in the cache: %+v, %v", a, err)
	}
	// What no controller has used for long is removed with the next build.
	old := filepath.Join(s.cache, "gone-amd64")
	if err := os.WriteFile(old, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*unused)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Agent(t.Context(), "amd64"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("the old agent is still there: %v", err)
	}

	// The file that --agent names is for its own architecture.
	file := s.cached("arm64")
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	given, err := NewSource(file)
	if err != nil || given.Hashes()["arm64"] != agents[0].SHA256 {
		t.Errorf("--agent: %v, %v", given, err)
	}
	if _, err := NewSource(filepath.Join(root, "go.mod")); err == nil || !strings.Contains(err.Error(), "not a Linux program") {
		t.Errorf("--agent go.mod: %v", err)
	}
}

// A controller knows its agents by their names; their bytes are read only for what is
// made of them.
func TestHashesFromNames(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	self, err := ownBuild()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "spoolsweep", "agents")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(file, []byte("an agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := readAgent(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := a.checksum()
	for _, name := range []string{
		self + "-amd64-" + sum + "-" + a.SHA256, self + "-arm64-zz", self + "-386", self + "-386-" + a.SHA256, "other-riscv64-" + sum + "-" + a.SHA256,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("an agent"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := NewSource("")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"amd64": a.SHA256}, s.Hashes()); d != "" {
		t.Errorf("hashes (-want +got)\n%s", d)
	}
	if !s.Has(s.Hashes(), sum) || s.Has(s.Hashes(), (&Agent{}).checksum()) || s.Has(map[string]string{"arm64": a.SHA256}, "") {
		t.Errorf("checksums: want %s alone", sum)
	}
	if got, err := s.Agent(t.Context(), "amd64"); err != nil || got.SHA256 != a.SHA256 {
		t.Errorf("got %+v, %v", got, err)
	}
}

// The build ID is Go's of this very program; what has none is hashed whole.
func TestBuildID(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Go leaves it in a section for Linux only")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want, err := exec.Command("go", "tool", "buildid", self).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := buildID(f); got != strings.TrimSpace(string(want)) || got == "" {
		t.Errorf("got %q, go tool buildid says %q", got, want)
	}
	for _, text := range []string{"", "\x7fELF", "#!/bin/sh\n"} {
		if got := buildID(strings.NewReader(text)); got != "" {
			t.Errorf("%q: got %q", text, got)
		}
	}
}

func TestNoSource(t *testing.T) {
	broken := module(t, "spoolsweep")
	if err := os.WriteFile(filepath.Join(broken, "cmd", "spoolsweep-agent", "main.go"), []byte("package main\nfunc main() { nonsense }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	open := module(t, "spoolsweep")
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		roots []string
		arch  string
		want  string
		is    error
	}{
		{nil, "amd64", "use a release, or --agent", ErrNoAgent},
		{[]string{module(t, "other")}, "amd64", "its source is not here", ErrNoAgent},
		{[]string{open}, "amd64", "written by everybody", ErrNoAgent},
		{[]string{broken}, "amd64", "undefined: nonsense", nil},
		{nil, "armv7l", `no agent can be built for "armv7l"`, nil},
	} {
		s := testSource(t, c.roots...)
		for range 2 {
			_, err := s.Agent(t.Context(), c.arch)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("%v %s: %v, want %q", c.roots, c.arch, err, c.want)
			}
		}
	}
	// Nobody is failed for good by another's cancelled wait.
	s := testSource(t, module(t, "spoolsweep"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Agent(ctx, "amd64"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := s.Agent(t.Context(), "amd64"); err != nil {
		t.Error(err)
	}
}

// connect dials an in-process server.
func connect(t *testing.T) (*ssh.Client, *sshtest.Server) {
	t.Helper()
	key, err := sshtest.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	server, err := sshtest.Start(sshtest.Config{ClientKeys: []ssh.PublicKey{key.PublicKey()}, Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	client, err := ssh.Dial("tcp", server.Addr().String(), &ssh.ClientConfig{
		User: "root", Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestUpload(t *testing.T) {
	client, server := connect(t)
	dir := filepath.Join(t.TempDir(), "agent")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	data := bytes.Repeat([]byte("0123456789abcdef\n"), 200_000)
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	agent, err := readAgent(file)
	if err != nil {
		t.Fatal(err)
	}
	age := func(name string, d time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("x"), 0o700); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-d)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	age(prefix+"old", unused+time.Hour)
	age(prefix+"old.part-X", unused+time.Hour)
	age(prefix+"used", unused-time.Hour)
	age("somebody-elses", 10*unused)
	age(agent.Name(), 0) // wrong under its name: is replaced
	need := &Need{Arch: "amd64", UID: uint32(os.Getuid()), Directory: dir}
	sent, err := Upload(client, agent, need)
	if err != nil || sent != agent.Size() || server.Uploaded() != sent {
		t.Fatalf("sent %d of %d, %d arrived: %v", sent, agent.Size(), server.Uploaded(), err)
	}
	got, err := os.ReadFile(filepath.Join(dir, agent.Name()))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if info, err := os.Stat(filepath.Join(dir, agent.Name())); err != nil || info.Mode() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"somebody-elses", agent.Name(), prefix + "used"}
	if d := cmp.Diff(want, names); d != "" {
		t.Errorf("what lies there (-want +got)\n%s", d)
	}

	// What does not arrive as it was sent gets no name.
	wrong := *agent
	wrong.SHA256 = strings.Repeat("0", 64)
	if _, err := Upload(client, &wrong, need); err == nil || !strings.Contains(err.Error(), "arrived with SHA-256 "+agent.SHA256) {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != len(want) {
		t.Errorf("left behind: %v", entries)
	}
	var place *PlaceError
	if _, err := Upload(client, agent, &Need{UID: 4242, Directory: dir}); !errors.As(err, &place) {
		t.Errorf("another owner: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Upload(client, agent, need); !errors.As(err, &place) {
		t.Errorf("mode 0755: %v", err)
	}
}
