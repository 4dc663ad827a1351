// Package push decides which agent a host gets, and brings it there.
//
// A [Source] has the agents: a file given by the user, the ones that a release
// carries, one built earlier and kept under the controller's own build and its hash,
// or one built now from the controller's source. [Command] is the one fixed script
// that finds and becomes the agent on a host, or answers what is needed; [Upload] then sends it, always as the login
// user, and proves what arrived before it gets its name. The name is its
// SHA-256, so that a host which has it is never sent anything again.
package push

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"spoolsweep/remote/wire"
)

// Architectures are those an agent can be built for.
var Architectures = []string{"386", "amd64", "arm64", "riscv64"}

// Agent is one agent, ready to be sent.
type Agent struct {
	Arch   string
	SHA256 string // lower-case hex
	data   []byte // shared by all hosts
}

// Size is its length in bytes.
func (a *Agent) Size() int64 { return int64(len(a.data)) }

// WriteTo writes all of it.
func (a *Agent) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(a.data)
	return int64(n), err
}

// Name is its file name on a host.
func (a *Agent) Name() string { return prefix + a.SHA256 }

// checksum is that of its greeting.
func (a *Agent) checksum() string {
	sum, _ := wire.Checksum(bytes.NewReader(a.data), a.Size()) // no error: it is read from memory
	return sum
}

const prefix = "spoolsweep-agent-"

// Source has the agents of all architectures. It may be used for many hosts at once.
type Source struct {
	any   *Agent
	cache string   // directory of built agents, "" for none
	self  string   // names the build of the running controller
	roots []string // where the module may be, to build from

	// build holds a token while somebody builds: a channel, so that who
	// waits can be cancelled.
	build chan struct{}

	mu     sync.Mutex // guards what follows
	agents map[string]*Agent
	kept   map[string]string // SHA-256 of those in the cache, by their names: read only to be sent
	sums   map[string]string // checksums (wire.Checksum), by SHA-256
	failed map[string]error  // architectures that could not be built: not tried again for each host
}

// NewSource returns the source of a controller. file is what --agent names, for
// its own architecture, or empty.
func NewSource(file string) (*Source, error) {
	s := newSource()
	if file != "" {
		a, err := readAgent(file)
		if err != nil {
			return nil, fmt.Errorf("agent: %w", err)
		}
		if a.Arch, err = elfArch(a.data); err != nil {
			return nil, fmt.Errorf("agent %s: %w", file, err)
		}
		s.agents[a.Arch] = a
	}
	for arch, file := range carried() {
		if s.agents[arch] == nil {
			sum, hash := sumsPacked(file)
			s.kept[arch], s.sums[hash] = hash, sum
		}
	}
	self, err := ownBuild()
	if err != nil {
		return nil, fmt.Errorf("read this program: %w", err)
	}
	dir, err := cacheDir()
	if err != nil {
		return nil, err
	}
	s.self, s.cache, s.roots = self, dir, moduleRoots()
	if trusted(dir) != nil {
		return s, nil
	}
	for _, arch := range Architectures {
		if file := s.cached(arch); file != "" && s.agents[arch] == nil && s.kept[arch] == "" {
			sum, hash := sumsInName(file)
			s.kept[arch], s.sums[hash] = hash, sum
		}
	}
	return s, nil
}

// Direct returns a source that has one file for every host, whatever its
// architecture: the running program in tests and in the demo.
func Direct(file string) (*Source, error) {
	a, err := readAgent(file)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a.Arch = Any
	s := newSource()
	s.any = a
	return s, nil
}

func newSource() *Source {
	return &Source{build: make(chan struct{}, 1), agents: map[string]*Agent{}, kept: map[string]string{}, sums: map[string]string{}, failed: map[string]error{}}
}

// Hashes are those of the agents at hand, by architecture or [Any].
func (s *Source) Hashes() map[string]string {
	if s.any != nil {
		return map[string]string{Any: s.any.SHA256}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := maps.Clone(s.kept)
	for arch, a := range s.agents {
		out[arch] = a.SHA256
	}
	return out
}

// Has says whether one of the agents at hand that have these hashes has the checksum
// (wire.Checksum).
func (s *Source) Has(hashes map[string]string, sum string) bool {
	for arch, hash := range hashes {
		if mine, ok := s.checksum(arch, hash); ok && mine == sum {
			return true
		}
	}
	return false
}

// checksum is that of the agent with a hash, made once for all hosts.
func (s *Source) checksum(arch, hash string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sum, ok := s.sums[hash]; ok {
		return sum, true
	}
	a := s.agents[arch]
	if s.any != nil {
		a = s.any
	}
	if a == nil || a.SHA256 != hash {
		return "", false
	}
	s.sums[hash] = a.checksum()
	return s.sums[hash], true
}

// ErrNoAgent says that there is no agent and none can be built.
var ErrNoAgent = errors.New("this build carries no agent: use a release, or --agent")

// Agent returns the agent for arch, built if need be: once, however many hosts
// ask for it.
func (s *Source) Agent(ctx context.Context, arch string) (*Agent, error) {
	if s.any != nil {
		return s.any, nil
	}
	if a, err := s.have(arch); a != nil || err != nil {
		return a, err
	}
	if !slices.Contains(Architectures, arch) {
		return nil, fmt.Errorf("no agent can be built for %.40q, only for Linux on %s", arch, strings.Join(Architectures, ", "))
	}
	select {
	case s.build <- struct{}{}:
		defer func() { <-s.build }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if a, err := s.have(arch); a != nil || err != nil {
		return a, err
	}
	a, err := unpack(arch)
	if a == nil && err == nil {
		a, err = s.make(ctx, arch)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil:
		s.agents[arch] = a
	case ctx.Err() == nil:
		s.failed[arch] = err
	}
	return a, err
}

func (s *Source) have(arch string) (*Agent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.agents[arch], s.failed[arch]
}

// maxAgent bounds what is taken for an agent; a test program with the race
// detector in it has some 30 MB.
const maxAgent = 256 << 20

func readAgent(file string) (*Agent, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAgent+1))
	if err != nil {
		return nil, err
	}
	if len(data) == 0 || len(data) > maxAgent {
		return nil, fmt.Errorf("%s: %d bytes cannot be an agent", file, len(data))
	}
	sum := sha256.Sum256(data)
	return &Agent{SHA256: hex.EncodeToString(sum[:]), data: data}, nil
}

// elfArch is the architecture a Linux program was built for.
func elfArch(data []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return "", fmt.Errorf("not a Linux program: %w", err)
	}
	switch {
	case f.Machine == elf.EM_X86_64 && f.Class == elf.ELFCLASS64:
		return "amd64", nil
	case f.Machine == elf.EM_AARCH64:
		return "arm64", nil
	case f.Machine == elf.EM_386:
		return "386", nil
	case f.Machine == elf.EM_RISCV && f.Class == elf.ELFCLASS64:
		return "riscv64", nil
	}
	return "", fmt.Errorf("built for %v, not for one of %s", f.Machine, strings.Join(Architectures, ", "))
}

// ownBuild names the build of the running program, whose file may be another by
// now: by the build ID that the go command leaves in a program for Linux, with a
// hash of its content, else by the hash of all of it.
func ownBuild() (string, error) {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		path, err := os.Executable()
		if err != nil {
			return "", err
		}
		if f, err = os.Open(path); err != nil {
			return "", err
		}
	}
	defer f.Close()
	h := sha256.New()
	if id := buildID(f); id != "" {
		io.WriteString(h, id)
	} else if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// buildID is the go command's of a program, "" where it has none that stands for its
// content: -ldflags may set any. Its four parts are hashes of what the program and
// package main were made of, and of what became of them (go tool buildid prints it).
func buildID(program io.ReaderAt) string {
	f, err := elf.NewFile(program)
	if err != nil {
		return ""
	}
	section := f.Section(".note.go.buildid")
	if section == nil || section.Size > 4<<10 {
		return ""
	}
	note, err := section.Data()
	// Three words, the second of which is the length of the text, and a name.
	const lengthAt, textAt = 4, 16
	if err != nil || len(note) < textAt {
		return ""
	}
	text := note[textAt:]
	text = text[:min(uint32(len(text)), f.ByteOrder.Uint32(note[lengthAt:]))]
	parts := bytes.Split(text, []byte("/"))
	if len(parts) != 4 || slices.ContainsFunc(parts, func(p []byte) bool { return len(p) < 20 }) {
		return ""
	}
	return string(text)
}

// cacheDir is $XDG_CACHE_HOME/spoolsweep/agents, on macOS too, where an admin
// who works on servers will look for it first.
func cacheDir() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if !filepath.IsAbs(base) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the cache directory: %w", err)
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "spoolsweep", "agents"), nil
}

// cached is the file of a built agent, "" where there is none. Its name ends with
// its checksum and its SHA-256, so that what hosts are asked for is known without
// reading it.
func (s *Source) cached(arch string) string {
	entries, _ := os.ReadDir(s.cache)
	for _, e := range entries {
		sums, ours := strings.CutPrefix(e.Name(), s.self+"-"+arch+"-")
		if _, hash := sumsInName(e.Name()); ours && hash != "" && strings.HasSuffix(sums, hash) && len(sums) == len((&Agent{}).checksum())+1+len(hash) {
			return filepath.Join(s.cache, e.Name())
		}
	}
	return ""
}

func (s *Source) nameInCache(a *Agent, arch string) string {
	return filepath.Join(s.cache, s.self+"-"+arch+"-"+a.checksum()+"-"+a.SHA256)
}

// sumsInName are those that the file of a built agent is named by, "" for none.
func sumsInName(file string) (checksum, hash string) {
	parts := strings.Split(filepath.Base(file), "-")
	hash = parts[len(parts)-1]
	if b, err := hex.DecodeString(hash); err != nil || len(b) != sha256.Size || len(parts) < 2 {
		return "", ""
	}
	return parts[len(parts)-2], hash
}
