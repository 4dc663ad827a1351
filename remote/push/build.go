package push

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/remote/clean"
)

// unused is how long an agent may lie about without being run.
const unused = 30 * 24 * time.Hour

// make takes the agent from the cache, where another controller may have put it
// meanwhile, or builds it there.
func (s *Source) make(ctx context.Context, arch string) (*Agent, error) {
	if err := os.MkdirAll(s.cache, 0o700); err != nil {
		return nil, fmt.Errorf("agent cache: %w", err)
	}
	// What lies there will run as root on every host.
	if err := trusted(s.cache); err != nil {
		return nil, fmt.Errorf("agent cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(s.cache, "lock"))
	if err != nil {
		return nil, fmt.Errorf("agent cache: %w", err)
	}
	defer unlock()
	a, err := s.fromCache(arch)
	if errors.Is(err, os.ErrNotExist) {
		if err := s.goBuild(ctx, arch); err != nil {
			return nil, err
		}
		a, err = s.fromCache(arch)
	}
	if err != nil {
		return nil, fmt.Errorf("agent cache: %w", err)
	}
	a.Arch = arch
	s.sweepCache()
	return a, nil
}

// fromCache reads a built agent. One that is not what its name says goes.
func (s *Source) fromCache(arch string) (*Agent, error) {
	file := s.cached(arch)
	if file == "" {
		return nil, os.ErrNotExist
	}
	a, err := readAgent(file)
	if err != nil || file == s.nameInCache(a, arch) {
		return a, err
	}
	if err := os.Remove(file); err != nil {
		return nil, err
	}
	return nil, os.ErrNotExist
}

// lock takes the flock on a file that is never removed; ctx ends the waiting.
func lock(ctx context.Context, file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", file, err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// plain are packages that are compiled without inlining: that leaves 107 kB out of a
// compressed agent. What time has for dates is large, and what leads a run from stage
// to stage, makes text of numbers, and reads expressions, and nothing of these is done
// a million times. JSON is written and read a third more slowly by it, which a ledger
// shows (BenchmarkLedger of spool/stage) and a restore does not. Of a system call the
// wrapper is a small part.
var plain = []string{"time", "fmt", "regexp/syntax", "encoding/json", "reflect", "os", "errors", "syscall", "golang.org/x/sys/unix", "context", "strings", "strconv", "internal/poll", "path/filepath", "os/exec", "spoolsweep/spool/run", "spoolsweep/remote/agent"}

// goBuild builds the agent and gives it its name in the cache when it is whole.
func (s *Source) goBuild(ctx context.Context, arch string) error {
	root, why := s.moduleRoot()
	if root == "" {
		return fmt.Errorf("%w (%s)", ErrNoAgent, why)
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w (to build one from %s, Go is missing)", ErrNoAgent, root)
	}
	out, err := os.CreateTemp(s.cache, ".build-")
	if err != nil {
		return fmt.Errorf("build the agent: %w", err)
	}
	out.Close()
	defer os.Remove(out.Name())
	a, err := build(ctx, root, arch, out.Name())
	if err != nil {
		return err
	}
	if err := os.Rename(out.Name(), s.nameInCache(a, arch)); err != nil {
		return fmt.Errorf("build the agent: %w", err)
	}
	return nil
}

// build builds the agent of the module in root into a file.
func build(ctx context.Context, root, arch, file string) (*Agent, error) {
	args := []string{"build", "-trimpath"}
	for _, name := range plain {
		args = append(args, "-gcflags="+name+"=-l")
	}
	build := exec.CommandContext(ctx, "go", append(args, "-ldflags", "-s -w", "-o", file, "./cmd/spoolsweep-agent")...)
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "PWD="+root)
	if said, err := build.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("build the agent for %s in %s: %w: %s", arch, root, err, clean.Text(strings.TrimSpace(string(said)), 2000))
	}
	a, err := readAgent(file)
	if err != nil {
		return nil, fmt.Errorf("build the agent: %w", err)
	}
	return a, nil
}

// moduleRoots are the places to look for our source: where this program was
// compiled, then the module above the working directory.
func moduleRoots() []string {
	var roots []string
	// Under -trimpath the name is no path.
	if _, file, _, ok := runtime.Caller(0); ok && filepath.IsAbs(file) {
		roots = append(roots, filepath.Dir(filepath.Dir(filepath.Dir(file))))
	}
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			roots = append(roots, dir)
			break
		}
		if dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return roots
}

// moduleRoot is the first of the roots that is our source, and nobody else's to
// change; else it says why there is none.
func (s *Source) moduleRoot() (root, why string) {
	why = "its source is not here, to build one"
	for _, root := range s.roots {
		mod := filepath.Join(root, "go.mod")
		text, err := os.ReadFile(mod)
		if err != nil || !isOurModule(string(text)) {
			continue
		}
		if err := errors.Join(trusted(root), trusted(mod)); err != nil {
			why = strings.ReplaceAll(err.Error(), "\n", "; ")
			continue
		}
		return root, ""
	}
	return "", why
}

func isOurModule(mod string) bool {
	for line := range strings.Lines(mod) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "module" {
			return strings.Trim(f[1], `"`) == "spoolsweep"
		}
	}
	return false
}

// trusted refuses what somebody else could have put there.
func trusted(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) != os.Getuid() {
		return fmt.Errorf("%s belongs to user %d, not used", path, st.Uid)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be written by everybody, not used", path)
	}
	return nil
}

// sweepCache removes agents of controllers that are long gone. What cannot be
// removed stays: it is only a cache.
func (s *Source) sweepCache() {
	entries, _ := os.ReadDir(s.cache)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Name() != "lock" && info.Mode().IsRegular() && time.Since(info.ModTime()) > unused {
			os.Remove(filepath.Join(s.cache, e.Name()))
		}
	}
}
