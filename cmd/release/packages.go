package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"spoolsweep/remote/push"
)

// What belongs to the package of the agent alone.
var (
	//go:embed agent/agent.conf
	agentConf string
	//go:embed agent/sudoers
	agentSudoers string
	//go:embed agent/spoolsweep-agent.8
	agentPage string
)

// content is a file of a package, as nfpm takes it.
type content struct {
	Source      string `yaml:"src,omitempty"`
	Destination string `yaml:"dst"`
	Type        string `yaml:"type,omitempty"`
	Packager    string `yaml:"packager,omitempty"` // deb or rpm, where it is for one of them
	Info        info   `yaml:"file_info"`
}

type info struct {
	Mode  os.FileMode `yaml:"mode"`
	Owner string      `yaml:"owner"`
	Group string      `yaml:"group"`
}

func file(source, destination string, mode os.FileMode) content {
	return content{Source: source, Destination: destination, Info: info{mode, "root", "root"}}
}

// ownFolder is one that goes with the package, and that nobody but root writes to.
func ownFolder(name string) content {
	all := file("", name, 0o755)
	all.Type = "dir"
	return all
}

// pages are what every package of the program has beside it: manual pages, what
// shells complete by, and what is read first.
func (m *maker) pages(ctx context.Context) ([]content, error) {
	folder := filepath.Join(m.work, "man")
	if err := finish(m.here(ctx, "manual", "--man", folder)); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var all []content
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			return nil, err
		}
		packed, err := m.compressed(e.Name(), text)
		if err != nil {
			return nil, err
		}
		all = append(all, file(packed, "/usr/share/man/man1/"+e.Name()+".gz", 0o644))
	}
	for _, where := range []struct{ shell, place, packager string }{
		{"bash", "/usr/share/bash-completion/completions/spoolsweep", ""},
		{"zsh", "/usr/share/zsh/vendor-completions/_spoolsweep", "deb"},
		{"zsh", "/usr/share/zsh/site-functions/_spoolsweep", "rpm"},
		{"fish", "/usr/share/fish/vendor_completions.d/spoolsweep.fish", ""},
	} {
		script, err := m.here(ctx, "completion", where.shell).Output()
		if err != nil {
			return nil, err
		}
		at, err := m.write("complete."+where.shell, script)
		if err != nil {
			return nil, err
		}
		one := file(at, where.place, 0o644)
		one.Packager = where.packager
		all = append(all, one)
	}
	all = append(all, ownFolder("/usr/share/doc/spoolsweep"))
	for _, name := range []string{"README.md", "CHANGELOG.md", "SECURITY.md", "inventory.example.yaml"} {
		all = append(all, file(filepath.Join(m.module, name), "/usr/share/doc/spoolsweep/"+name, 0o644))
	}
	return all, nil
}

// packages makes those for an architecture: of the program that was built, and of
// the agent alone.
func (m *maker) packages(ctx context.Context, arch, program string, pages []content) error {
	if err := m.pack(ctx, arch, "spoolsweep", `Clear flooded Postfix queues of many servers
Sets a flooded queue aside so that mail flows again in seconds, tells spam from
ham by rules, and puts the ham back. It works from here over SSH, on any number
of mail servers at once, and sends them the agent that it needs there.`,
		append([]content{file(filepath.Join(m.out, program), "/usr/bin/spoolsweep", 0o755)}, pages...)); err != nil {
		return err
	}
	a := m.agents[arch]
	name := "spoolsweep-agent-" + a.sha256
	texts := map[string]string{"agent.conf": agentConf, "sudoers": strings.ReplaceAll(agentSudoers, "SHA256", a.sha256)}
	own := []content{
		file(a.file, path.Join(push.Packaged, name), 0o755),
		ownFolder(push.Packaged), ownFolder("/etc/spoolsweep"), ownFolder("/usr/share/doc/spoolsweep-agent"), ownFolder("/usr/share/doc/spoolsweep-agent/examples"),
	}
	for base, text := range texts {
		at, err := m.write(arch+"-"+base, []byte(text))
		if err != nil {
			return err
		}
		one := file(at, "/usr/share/doc/spoolsweep-agent/examples/"+base, 0o644)
		if base == "agent.conf" {
			one.Destination, one.Type = "/etc/spoolsweep/agent.conf", "config|noreplace"
		}
		own = append(own, one)
	}
	page, err := m.compressed("spoolsweep-agent.8", []byte(strings.Replace(agentPage, "DATE", m.date.Format(time.DateOnly), 1)))
	if err != nil {
		return err
	}
	return m.pack(ctx, arch, "spoolsweep-agent", `What spoolsweep runs on a mail server
For servers where it is not to come from whoever logs in: it belongs to root, is
the one that a line of sudoers can name with its digest, and does no more than
/etc/spoolsweep/agent.conf allows.`, append(own, file(page, "/usr/share/man/man8/spoolsweep-agent.8.gz", 0o644)))
}

// pack has a deb and an rpm made of one package.
func (m *maker) pack(ctx context.Context, arch, name, description string, contents []content) error {
	for _, packager := range []string{"deb", "rpm"} {
		settings, err := yaml.Marshal(map[string]any{
			"name": name, "arch": arch, "platform": "linux", "version": m.version, "release": "1", "section": "mail", "priority": "optional",
			"maintainer": "spoolsweep <spoolsweep@localhost>", "description": description, "mtime": m.date.Format(time.RFC3339),
			"contents": contents,
			"rpm":      map[string]any{"buildhost": "localhost", "compression": "gzip"},
		})
		if err != nil {
			return err
		}
		config, err := m.write(name+".yaml", settings)
		if err != nil {
			return err
		}
		target := fmt.Sprintf("%s-%s-linux-%s.%s", name, m.version, arch, packager)
		if err := finish(m.tool(ctx, "nfpm", "package", "-f", config, "-p", packager, "-t", filepath.Join(m.out, target))); err != nil {
			return err
		}
		m.made = append(m.made, target)
	}
	return nil
}

// write leaves a file among what is removed in the end.
func (m *maker) write(name string, text []byte) (string, error) {
	at := filepath.Join(m.work, name)
	return at, os.WriteFile(at, text, 0o644)
}

// compressed is write of a manual page as packages have it, with no time in it.
func (m *maker) compressed(name string, text []byte) (string, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return "", err
	}
	_, err = w.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		return "", err
	}
	return m.write(name+".gz", out.Bytes())
}

// unpack is a packed agent as hosts get it.
func (m *maker) unpack(packed, arch string) (agent, error) {
	f, err := os.Open(packed)
	if err != nil {
		return agent{}, err
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		return agent{}, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return agent{}, err
	}
	sum := sha256.Sum256(data)
	at, err := m.write("agent-"+arch, data)
	return agent{file: at, sha256: hex.EncodeToString(sum[:])}, err
}
