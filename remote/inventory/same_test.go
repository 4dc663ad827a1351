package inventory

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab/needs"
)

// askAnsible makes answers in testdata/same anew. They are kept since Ansible
// takes its time, minutes for all of them.
var askAnsible = flag.String("ansible", "", "ask the installed Ansible for the answers in the folders of testdata/same that match the glob")

// inventoryCase is a folder of testdata/same: an inventory, or those that its file
// sources names; limits, a pattern a line; vault-password; retry, a file that
// limits name; differs, the words in the README that say why we refuse what
// Ansible takes.
type inventoryCase struct {
	dir     string
	sources []string
	limits  []string
	vault   string
	differs string
}

// answers are what Ansible says of a case.
type answers struct {
	Refused bool              `json:"refused,omitempty"`
	List    json.RawMessage   `json:"list,omitempty"`
	Graph   string            `json:"graph,omitempty"`
	Limits  map[string]picked `json:"limits,omitempty"`
}

// picked are the hosts of a limit.
type picked struct {
	Hosts []string `json:"hosts"`
	// First is what Ansible says where the pattern is no limit, but the one that
	// comes first, as a playbook's; nil for a file, which only limits take.
	First []string `json:"first,omitempty"`
	// Unordered says that Ansible has another order from run to run.
	Unordered bool `json:"unordered,omitempty"`
}

func inventoryCases(t *testing.T) []inventoryCase {
	t.Helper()
	root, err := filepath.Abs("testdata/same")
	if err != nil {
		t.Fatal(err)
	}
	dirs, err := os.ReadDir(root)
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no inventories: %v", err)
	}
	var cases []inventoryCase
	for _, d := range dirs {
		c := inventoryCase{dir: filepath.Join(root, d.Name())}
		lines := func(name string) []string {
			data, err := os.ReadFile(filepath.Join(c.dir, name))
			if err != nil {
				return nil
			}
			return strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
		}
		for _, name := range lines("sources") {
			if !strings.Contains(name, ",") {
				name = filepath.Join(c.dir, name)
			}
			c.sources = append(c.sources, name)
		}
		c.limits = lines("limits")
		c.differs = strings.Join(lines("differs"), "")
		if path := filepath.Join(c.dir, "vault-password"); len(lines("vault-password")) > 0 {
			c.vault = path
		}
		if c.sources == nil {
			c.sources = []string{c.found(t)}
		}
		cases = append(cases, c)
	}
	return cases
}

// found is the inventory of a case that names none: the one file that is none of
// ours, or the folder if there are several.
func (c inventoryCase) found(t *testing.T) string {
	t.Helper()
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		switch e.Name() {
		case "limits", "vault-password", "retry", "differs", "golden.json", "group_vars", "host_vars":
		default:
			files = append(files, e.Name())
		}
	}
	if len(files) == 1 {
		return filepath.Join(c.dir, files[0])
	}
	return filepath.Join(c.dir, ".")
}

// ansible is the installed Ansible, with the seed of Python's hashes: testdata's
// answers.py.
type ansible struct {
	sync.Mutex
	to   io.WriteCloser
	from *json.Decoder
}

func startAnsible(t *testing.T, seed string) *ansible {
	t.Helper()
	program, err := exec.LookPath("ansible")
	if err != nil {
		t.Fatal(err)
	}
	// The Python that Ansible itself runs in.
	text, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	python := "python3"
	if head, _, _ := strings.Cut(string(text), "\n"); strings.HasPrefix(head, "#!") && strings.Contains(head, "python") {
		python, _, _ = strings.Cut(strings.TrimSpace(head[2:]), " ")
	}
	command := exec.Command(python, "testdata/answers.py")
	command.Env = append(os.Environ(), "ANSIBLE_DEPRECATION_WARNINGS=False", "LC_ALL=C.UTF-8", "PYTHONHASHSEED="+seed,
		"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED=True", "ANSIBLE_NOCOLOR=1")
	command.Stderr = os.Stderr
	to, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	from, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		to.Close()
		if err := command.Wait(); err != nil {
			t.Errorf("answers.py: %v", err)
		}
	})
	return &ansible{to: to, from: json.NewDecoder(from)}
}

// ask calls a program of Ansible's for a case, in a folder that has no group_vars:
// those of the current one count too, to Ansible.
func (a *ansible) ask(t *testing.T, c inventoryCase, folder, program string, args ...string) (out string, ok bool) {
	t.Helper()
	a.Lock()
	defer a.Unlock()
	for _, s := range c.sources {
		args = append(args, "-i", s)
	}
	if c.vault != "" {
		args = append(args, "--vault-password-file", c.vault)
	}
	err := json.NewEncoder(a.to).Encode(map[string]any{"program": program, "args": args, "folder": folder})
	var said struct {
		Out    string `json:"out"`
		Status int    `json:"status"`
	}
	if err == nil {
		err = a.from.Decode(&said)
	}
	if err != nil {
		t.Fatal(err)
	}
	return said.Out, said.Status == 0
}

// folder is a working directory with the retry file of a case.
func (c inventoryCase) folder(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	if data, err := os.ReadFile(filepath.Join(c.dir, "retry")); err == nil {
		if err := os.WriteFile(filepath.Join(folder, "retry"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// list is what ansible-inventory and ansible say of a case's list and graph.
func (a *ansible) list(t *testing.T, c inventoryCase, folder string) *answers {
	t.Helper()
	list, ok := a.ask(t, c, folder, "ansible-inventory", "--list")
	if !ok {
		return &answers{Refused: true}
	}
	graph, _ := a.ask(t, c, folder, "ansible-inventory", "--graph")
	return &answers{List: json.RawMessage(list), Graph: graph, Limits: make(map[string]picked)}
}

// pick is what ansible --list-hosts says.
func (a *ansible) pick(t *testing.T, c inventoryCase, folder, pattern string) picked {
	t.Helper()
	ask := func(args ...string) []string {
		out, ok := a.ask(t, c, folder, "ansible", append(args, "--list-hosts")...)
		head, rest, _ := strings.Cut(out, "\n")
		if !ok || !strings.HasPrefix(head, "  hosts (") || rest == "" {
			t.Errorf("%s: %q: Ansible picks none: %s", filepath.Base(c.dir), args, out)
		}
		return strings.Fields(rest)
	}
	p := picked{Hosts: ask("all", "-l", pattern)}
	if !strings.Contains(pattern, "@") {
		p.First = ask(pattern)
	}
	return p
}

func (c inventoryCase) loader(t *testing.T) *Loader {
	t.Helper()
	l := &Loader{Known: known, Raw: true}
	if c.vault != "" {
		data, err := os.ReadFile(c.vault)
		if err != nil {
			t.Fatal(err)
		}
		l.Vault = func() ([]string, error) { return []string{strings.TrimSpace(string(data))}, nil }
	}
	return l
}

// TestSame holds that for every inventory of testdata/same what we list, draw and
// pick is what Ansible lists, draws and picks, and that we refuse what it refuses.
func TestSame(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	cases := inventoryCases(t)
	if *askAnsible != "" {
		anew(t, cases)
	}
	inventories, limits := 0, 0
	for _, c := range cases {
		t.Run(filepath.Base(c.dir), func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(c.dir, "golden.json"))
			if err != nil {
				t.Fatal(err)
			}
			want := new(answers)
			if err := json.Unmarshal(data, want); err != nil {
				t.Fatal(err)
			}
			inventories++
			limits += c.compare(t, want, string(readme))
		})
	}
	t.Logf("%d inventories and %d limits compared", inventories, limits)
	if inventories < 25 || limits < 60 {
		t.Errorf("%d inventories and %d limits, want at least 25 and 60", inventories, limits)
	}
}

func (c inventoryCase) compare(t *testing.T, want *answers, readme string) (limits int) {
	t.Helper()
	t.Chdir(c.folder(t))
	inv, _, err := c.loader(t).Load(t.Context(), c.sources...)
	switch {
	case err != nil && want.Refused:
		return 0
	case err != nil && c.differs != "":
		if !strings.Contains(readme, c.differs) {
			t.Errorf("the README's table of differences has no line with %q", c.differs)
		}
		return 0
	case err != nil:
		t.Fatalf("refused, and Ansible takes it: %v", err)
	case want.Refused:
		t.Fatal("taken, and Ansible refuses it")
	case c.differs != "":
		t.Fatalf("taken, and it is said to be refused: %s", c.differs)
	}
	text, err := json.Marshal(inv.List())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plainJSON(t, want.List), plainJSON(t, text)); diff != "" {
		t.Errorf("--list (-ansible +ours):\n%s", diff)
	}
	graph, err := inv.Graph(all)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Graph, graph); diff != "" {
		t.Errorf("--graph (-ansible +ours):\n%s", diff)
	}
	everyone, err := inv.Limit(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range c.limits {
		hosts, err := inv.Limit(limit)
		if err != nil {
			t.Errorf("%q: %v", limit, err)
			continue
		}
		// A limit is of all hosts, and these keep their order.
		got := names(slices.DeleteFunc(slices.Clone(everyone), func(h *Host) bool { return !slices.Contains(hosts, h) }))
		first := names(hosts)
		p := want.Limits[limit]
		if p.First == nil {
			first = nil
		}
		if p.Unordered {
			for _, list := range [][]string{p.Hosts, p.First, got, first} {
				slices.Sort(list)
			}
		}
		if diff := cmp.Diff(p.Hosts, got); diff != "" {
			t.Errorf("%q (-ansible +ours):\n%s", limit, diff)
		}
		if diff := cmp.Diff(p.First, first); diff != "" {
			t.Errorf("%q, not as a limit (-ansible +ours):\n%s", limit, diff)
		}
		limits++
	}
	return limits
}

func plainJSON(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// anew writes what the installed Ansible says.
func anew(t *testing.T, cases []inventoryCase) {
	t.Helper()
	needs.Program(t, "ansible-inventory")
	seeds := []*ansible{startAnsible(t, "0"), startAnsible(t, "1"), startAnsible(t, "2"), startAnsible(t, "3")}
	for _, c := range cases {
		if match, err := filepath.Match(*askAnsible, filepath.Base(c.dir)); err != nil || !match {
			continue
		}
		folder := c.folder(t)
		said := seeds[0].list(t, c, folder)
		// A limit keeps the order of all hosts, so that tells for each of them.
		unordered := false
		if len(c.limits) > 0 && !said.Refused {
			first := seeds[0].pick(t, c, folder, all).Hosts
			for _, a := range seeds[1:] {
				unordered = unordered || !slices.Equal(first, a.pick(t, c, folder, all).Hosts)
			}
			for _, limit := range c.limits {
				p := seeds[0].pick(t, c, folder, limit)
				p.Unordered = unordered
				said.Limits[limit] = p
			}
		}
		var text bytes.Buffer
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(false)
		e.SetIndent("", " ")
		err := e.Encode(said)
		if err == nil {
			err = os.WriteFile(filepath.Join(c.dir, "golden.json"), text.Bytes(), 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

// TestSameSample asks the installed Ansible again, for a few of the inventories,
// so that the answers that are kept cannot grow old unseen.
func TestSameSample(t *testing.T) {
	needs.Program(t, "ansible-inventory")
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	sample := []string{"02-ini-vars", "06-yaml-nested", "13-directory", "19-vault-file", "21-dynamic", "41-bad-child", "60-ours-unknown-key"}
	a := startAnsible(t, "0")
	for _, c := range inventoryCases(t) {
		if !slices.Contains(sample, filepath.Base(c.dir)) {
			continue
		}
		t.Run(filepath.Base(c.dir), func(t *testing.T) {
			c.limits = c.limits[:min(3, len(c.limits))]
			folder := c.folder(t)
			said := a.list(t, c, folder)
			for _, limit := range c.limits {
				said.Limits[limit] = a.pick(t, c, folder, limit)
			}
			c.compare(t, said, string(readme))
		})
	}
}
