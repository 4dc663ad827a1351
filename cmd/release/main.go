// Release builds what is given away: the program for each system, with the agents
// of all architectures in it, and their checksums.
//
//	go run ./cmd/release -o dist
//
// From one source and one Go come the same bytes, wherever and whenever it is run.
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
	"slices"
	"strings"

	"spoolsweep/remote/push"
)

// systems are those of admins' laptops and of mail servers.
var systems = []string{"linux/amd64", "linux/arm64", "linux/386", "linux/riscv64", "darwin/amd64", "darwin/arm64"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	out := flag.String("o", "dist", "folder to leave them in")
	only := flag.String("systems", strings.Join(systems, ","), "those to build for")
	flag.Parse()
	if err := release(ctx, *out, strings.Split(*only, ",")); err != nil {
		fmt.Fprintf(os.Stderr, "release: %v\n", err)
		os.Exit(1)
	}
}

func release(ctx context.Context, out string, of []string) error {
	for _, s := range of {
		if !slices.Contains(systems, s) {
			return fmt.Errorf("system %q: not one of %s", s, strings.Join(systems, ", "))
		}
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	module := strings.TrimSpace(string(root))
	work, err := os.MkdirTemp("", "spoolsweep-release-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	overlay, err := agents(ctx, module, work)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	var sums strings.Builder
	for _, s := range of {
		goos, goarch, _ := strings.Cut(s, "/")
		name := "spoolsweep-" + goos + "-" + goarch
		file := filepath.Join(out, name)
		build := exec.CommandContext(ctx, "go", "build", "-tags", "dist", "-overlay", overlay, "-trimpath", "-ldflags", "-s -w", "-o", file, "./cmd/spoolsweep")
		build.Dir = module
		build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch, "PWD="+module)
		if said, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, said)
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), name)
	}
	fmt.Print(sums.String())
	return os.WriteFile(filepath.Join(out, "SHA256SUMS"), []byte(sums.String()), 0o644)
}

// agents builds those of all architectures, and writes the overlay that puts them
// where the program takes them in.
func agents(ctx context.Context, module, work string) (overlay string, err error) {
	replace := map[string]string{}
	for _, arch := range push.Architectures {
		file, place, err := push.Pack(ctx, module, arch, work)
		if err != nil {
			return "", err
		}
		replace[filepath.Join(module, place)] = file
	}
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(work, "overlay.json")
	return overlay, os.WriteFile(overlay, text, 0o600)
}
