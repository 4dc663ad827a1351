package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// pkg is what go list says of a package.
type pkg struct {
	ImportPath  string
	Imports     []string
	Deps        []string
	TestImports []string
}

func goList(t *testing.T, args ...string) []pkg {
	t.Helper()
	// With a profile the packages of the agent would have other names.
	cmd := exec.Command("go", append([]string{"list", "-pgo=off", "-json=ImportPath,Imports,Deps,TestImports"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "GOOS=linux", "CGO_ENABLED=0") // what is shipped
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.Bytes())
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		t.Fatal("go list gives nothing")
	}
	return all
}

const module = "spoolsweep"

// own are the imports that are ours, without the module's name.
func own(imports []string) []string {
	var names []string
	for _, p := range imports {
		if name, ok := strings.CutPrefix(p, module+"/"); ok {
			names = append(names, name)
		}
	}
	return names
}

// arrows says for each package which of ours it may import; "x/..." is x and
// all below it. The design's section 2 has the reasons.
var arrows = map[string][]string{
	"cmd/spoolsweep":           {"cmd/spoolsweep/artifacts", "cmd/spoolsweep/notify", "cmd/spoolsweep/schema", "cmd/spoolsweep/show", "playbooks", "playbooks/ansible", "playbooks/strict", "remote", "remote/...", "spool/..."},
	"cmd/spoolsweep/artifacts": {"cmd/spoolsweep/show", "remote", "remote/inventory", "remote/wire", "spool", "spool/run"},
	"cmd/spoolsweep/show":      {"remote/clean", "remote/wire", "spool/run", "spool/stage", "spool/suggest"},
	"cmd/spoolsweep/notify":    {"remote/clean"},
	"cmd/spoolsweep/schema":    {"cmd/spoolsweep/show", "playbooks", "remote/agent", "remote/inventory", "remote/wire", "spool", "spool/pattern", "spool/run", "spool/stage"},
	"cmd/spoolsweep-agent":     {"remote/agent"},
	"cmd/lab":                  {"remote/lab"},
	"cmd/release":              {"remote/push"},
	"playbooks":                {"playbooks/strict", "spool/stage", "spool/pattern"},
	"playbooks/ansible":        {"playbooks", "spool/stage"},
	"playbooks/strict":         {},
	"remote":                   {"remote/clean", "remote/inventory", "remote/push", "remote/wire"},
	"remote/agent":             {"remote/wire", "spool", "spool/run", "spool/stage"},
	"remote/clean":             {},
	"remote/inventory":         {"playbooks/strict"},
	"remote/push":              {"remote/clean", "remote/wire"},
	"remote/wire":              {},
	"spool":                    {"spool/queuefile"},
	"spool/queuefile":          {},
	"spool/maillog":            {},
	"spool/pattern":            {"spool/queuefile"},
	"spool/stage":              {"spool", "spool/maillog", "spool/pattern", "spool/queuefile", "spool/suggest"},
	"spool/suggest":            {"spool/queuefile"},
	"spool/run":                {"spool", "spool/stage"},
	// For tests and the demo only.
	"spool/practice":   {"spool", "spool/queuefile"},
	"remote/sshtest":   {"remote/..."},
	"remote/lab":       {"remote/...", "spool/...", "spool"},
	"remote/lab/needs": {},
}

func allowed(name string, by []string) bool {
	return slices.ContainsFunc(by, func(a string) bool {
		top, all := strings.CutSuffix(a, "/...")
		return name == a || all && (name == top || strings.HasPrefix(name, top+"/"))
	})
}

func TestArrows(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range goList(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		seen[name] = true
		may, ok := arrows[name]
		if !ok {
			t.Errorf("%s stands in no arrow of the design: say here what it may import", name)
			continue
		}
		for _, i := range own(p.Imports) {
			if !allowed(i, may) {
				t.Errorf("%s imports %s", name, i)
			}
		}
	}
	for name := range arrows {
		if !seen[name] {
			t.Errorf("%s is no package any more", name)
		}
	}
}

// The mail server's side has no network, and reads no YAML.
func TestFarSide(t *testing.T) {
	never := []string{"net", "net/http", "golang.org/x/crypto/ssh", "github.com/pkg/sftp", "gopkg.in/yaml.v3", "github.com/urfave/cli/v2"}
	for _, p := range goList(t, "./spool/...") {
		if strings.HasSuffix(p.ImportPath, "/practice") {
			never := slices.DeleteFunc(slices.Clone(never), func(n string) bool { return n == "net" })
			check(t, p, never)
			continue
		}
		check(t, p, never)
	}
}

// What is pushed to a mail server is small, and can do only what it must.
func TestAgentLinks(t *testing.T) {
	for _, p := range goList(t, "./cmd/spoolsweep-agent") {
		check(t, p, []string{
			"net", "net/http", "log/slog", "text/template", "html/template", "golang.org/x/crypto/ssh", "github.com/pkg/sftp",
			"gopkg.in/yaml.v3", "github.com/urfave/cli/v2", module + "/spool/practice", module + "/playbooks", module + "/playbooks/strict",
			"testing", "plugin", "net/mail", "golang.org/x/net/html",
		})
		for _, d := range p.Deps {
			foreign := strings.Contains(strings.Split(d, "/")[0], ".")
			if foreign && !strings.HasPrefix(d, "golang.org/x/sys/") && !strings.HasPrefix(d, "golang.org/x/text/encoding") && d != "golang.org/x/text/transform" {
				t.Errorf("%s links %s, which nobody foresaw", p.ImportPath, d)
			}
		}
	}
}

func check(t *testing.T, p pkg, never []string) {
	t.Helper()
	for _, n := range never {
		if slices.Contains(p.Deps, n) {
			t.Errorf("%s links %s", p.ImportPath, n)
		}
	}
}
