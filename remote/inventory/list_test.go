package inventory

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab/needs"
)

// more are inventories for what the files in testdata have not.
var more = map[string]string{
	"lone.yaml": "ungrouped:\n  hosts: {z: , y: }\nweb:\n  hosts: {y: }\nall:\n  hosts: {x: , z: , w: {x: 1}}\n",
	"vars.yaml": "none:\nalso:\n  children: {none: }\nall:\n  hosts:\n    mx1:2222: {queue_warn: 7}\n    mx[02:03]:\n" +
		"    h:\n      text: !unsafe \"{{ x }}\"\n      list: [!unsafe a, {b: !unsafe c}]\n" +
		"      secret: !vault |\n        $ANSIBLE_VAULT;1.1;AES256\n        6162\n" +
		"  vars: {ansible_port: 2200, queue_crit: ~}\n",
	"twice.yaml": "all:\n  children:\n    a: {children: {c: }}\n    b: {children: {c: }}\n    c: {hosts: {h2: , h1: }}\n  hosts: {h1: }\n",
}

// What --list, --host and --graph print is what ansible-inventory prints of the
// same file, in every order that it has.
func TestListAsAnsible(t *testing.T) {
	program := needs.Program(t, "ansible-inventory")
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files in testdata", err)
	}
	files = append(files, "../../inventory.example.yaml")
	dir := t.TempDir()
	for name, text := range more {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			ansible := func(args ...string) []byte {
				t.Helper()
				command := exec.Command(program, append([]string{"-i", file}, args...)...)
				command.Env = append(os.Environ(), "ANSIBLE_DEPRECATION_WARNINGS=False", "LC_ALL=C.UTF-8")
				out, err := command.Output()
				if err != nil {
					t.Fatalf("%s: %v", command, err)
				}
				return out
			}
			inv, _, err := Load(known, file)
			if err != nil {
				t.Fatal(err)
			}
			same := func(what string, theirs []byte, ours any) {
				t.Helper()
				text, err := json.Marshal(ours)
				if err != nil {
					t.Fatal(err)
				}
				var want, got any
				if err := json.Unmarshal(theirs, &want); err != nil {
					t.Fatal(err)
				}
				if err := json.Unmarshal(text, &got); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (-ansible +ours):\n%s", what, diff)
				}
			}
			same("--list", ansible("--list"), inv.List())
			if filepath.Base(file) == "vars.yaml" { // each call of it takes a second
				same("--host mx1", ansible("--host", "mx1"), inv.Host("mx1").Variables())
			}
			graph, err := inv.Graph("all")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(ansible("--graph")), graph); diff != "" {
				t.Errorf("--graph (-ansible +ours):\n%s", diff)
			}
		})
	}
}

func TestGraph(t *testing.T) {
	inv := mustParse(t, more["twice.yaml"])
	got, err := inv.Graph("b")
	if want := "@b:\n  |--@c:\n  |  |--h2\n  |  |--h1\n"; err != nil || got != want {
		t.Errorf("got %v\n%s\nwant\n%s", err, got, want)
	}
	if _, err := inv.Graph("bb"); err == nil {
		t.Error("a group that is not there is drawn")
	}
	if h := inv.Host("nobody"); h != nil {
		t.Errorf("got %v", h)
	}
}
