// Release builds what is given away: the program for each system, with the agents
// of all architectures in it, packages for Linux, what they are made of, and their
// checksums.
//
//	go run ./cmd/release -o dist
//	go run ./cmd/release -o dist -sign ~/.ssh/id_ed25519
//
// From one source and one Go come the same bytes, wherever and whenever it is run.
// Its number and its date are those of the first heading of CHANGELOG.md.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"spoolsweep/remote/push"
)

// systems are those of admins' laptops and of mail servers.
var systems = []string{"linux/amd64", "linux/arm64", "linux/386", "linux/riscv64", "darwin/amd64", "darwin/arm64"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	out := flag.String("o", "dist", "folder to leave them in")
	only := flag.String("systems", strings.Join(systems, ","), "those to build for")
	key := flag.String("sign", "", "sign SHA256SUMS with this key of ssh, or the one of that .pub in the ssh agent")
	flag.Parse()
	if err := release(ctx, *out, strings.Split(*only, ","), *key); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

// maker makes one release.
type maker struct {
	module  string // folder of the source
	work    string // folder that is removed in the end
	out     string
	version string
	date    time.Time
	agents  map[string]agent // by architecture
	made    []string         // names of files in out
}

// agent is one for hosts of an architecture.
type agent struct {
	file   string // as hosts get it
	sha256 string
}

func release(ctx context.Context, out string, of []string, key string) error {
	for _, s := range of {
		if !slices.Contains(systems, s) {
			return fmt.Errorf("system %q: not one of %s", s, strings.Join(systems, ", "))
		}
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	m := &maker{module: strings.TrimSpace(string(root)), agents: map[string]agent{}}
	if m.version, m.date, err = newest(filepath.Join(m.module, "CHANGELOG.md")); err != nil {
		return err
	}
	if m.work, err = os.MkdirTemp("", "spoolsweep-release-"); err != nil {
		return err
	}
	defer os.RemoveAll(m.work)
	if m.out, err = filepath.Abs(out); err != nil {
		return err
	}
	if err := os.MkdirAll(m.out, 0o755); err != nil {
		return err
	}
	if err := m.make(ctx, of); err != nil {
		return err
	}
	return m.sum(ctx, key)
}

func (m *maker) make(ctx context.Context, of []string) error {
	overlay, err := m.packAgents(ctx)
	if err != nil {
		return err
	}
	pages, err := m.pages(ctx)
	if err != nil {
		return err
	}
	for _, s := range of {
		goos, goarch, _ := strings.Cut(s, "/")
		name := "spoolsweep-" + goos + "-" + goarch
		build := m.command(ctx, "go", "build", "-tags", "dist", "-overlay", overlay, "-trimpath",
			"-ldflags", "-s -w -X main.release="+m.version, "-o", filepath.Join(m.out, name), "./cmd/spoolsweep")
		build.Env = append(build.Env, "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch)
		if err := finish(build); err != nil {
			return err
		}
		m.made = append(m.made, name)
		if err := m.parts(ctx, name); err != nil {
			return err
		}
		if goos == "linux" {
			if err := m.packages(ctx, goarch, name, pages); err != nil {
				return err
			}
		}
	}
	return nil
}

// heading is that of a release: its number, and the day it was made.
var heading = regexp.MustCompile(`(?m)^## ([0-9]+\.[0-9]+\.[0-9]+) - ([0-9]{4}-[0-9]{2}-[0-9]{2})$`)

// newest are the number and the date of the first heading of a list of changes.
func newest(file string) (version string, date time.Time, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", date, err
	}
	found := heading.FindSubmatch(text)
	if found == nil {
		return "", date, fmt.Errorf(`%s: no heading such as "## 1.0.0 - 2026-11-29"`, file)
	}
	date, err = time.Parse(time.DateOnly, string(found[2]))
	if err != nil {
		return "", date, fmt.Errorf("%s: %w", file, err)
	}
	return string(found[1]), date, nil
}

// command is one that runs in the source.
func (m *maker) command(ctx context.Context, argv ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Dir = m.module
	c.Env = append(os.Environ(), "PWD="+m.module, fmt.Sprint("SOURCE_DATE_EPOCH=", m.date.Unix()))
	return c
}

// tool is a command that runs one of .ci/tools.
func (m *maker) tool(ctx context.Context, argv ...string) *exec.Cmd {
	return m.command(ctx, append([]string{"go", "tool", "-modfile=" + filepath.Join(m.module, ".ci", "tools", "go.mod")}, argv...)...)
}

// finish runs a command to its end; what it said is in the error.
func finish(c *exec.Cmd) error {
	if said, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(c.Args, " "), err, said)
	}
	return nil
}

// packAgents builds those of all architectures, and writes the overlay that puts
// them where the program takes them in.
func (m *maker) packAgents(ctx context.Context) (overlay string, err error) {
	replace := map[string]string{}
	for _, arch := range push.Architectures {
		file, place, err := push.Pack(ctx, m.module, arch, m.work)
		if err != nil {
			return "", err
		}
		replace[filepath.Join(m.module, place)] = file
		if m.agents[arch], err = m.unpack(file, arch); err != nil {
			return "", err
		}
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(m.work, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}

// parts writes what a program is made of, as CycloneDX has it.
func (m *maker) parts(ctx context.Context, name string) error {
	list := name + ".cdx.json"
	m.made = append(m.made, list)
	return finish(m.tool(ctx, "cyclonedx-gomod", "bin", "-json", "-std", "-noserial", "-notimestamp", "-version", "v"+m.version,
		"-output", filepath.Join(m.out, list), filepath.Join(m.out, name)))
}

// sum writes the checksums, and with a key a signature of them.
func (m *maker) sum(ctx context.Context, key string) error {
	var sums strings.Builder
	for _, name := range m.made {
		data, err := os.ReadFile(filepath.Join(m.out, name))
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), name)
	}
	fmt.Print(sums.String())
	file := filepath.Join(m.out, "SHA256SUMS")
	err := os.WriteFile(file, []byte(sums.String()), 0o644)
	if err != nil || key == "" {
		return err
	}
	if err := os.Remove(file + ".sig"); err != nil && !os.IsNotExist(err) { // ssh-keygen would ask
		return err
	}
	// It may ask for the passphrase of the key.
	sign := exec.CommandContext(ctx, "ssh-keygen", "-Y", "sign", "-n", "file", "-f", key, file)
	sign.Stdin, sign.Stdout, sign.Stderr = os.Stdin, os.Stderr, os.Stderr
	if err := sign.Run(); err != nil {
		return fmt.Errorf("ssh-keygen -Y sign -f %s: %w", key, err)
	}
	return nil
}

// here runs spoolsweep as it is built for this machine.
func (m *maker) here(ctx context.Context, args ...string) *exec.Cmd {
	program := filepath.Join(m.work, "spoolsweep-"+runtime.GOOS)
	c := m.command(ctx, append([]string{program}, args...)...)
	if _, err := os.Stat(program); err != nil {
		c.Err = finish(m.command(ctx, "go", "build", "-o", program, "./cmd/spoolsweep"))
	}
	return c
}
