package spool

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// changing are the calls that change a file, a lock or a process. In sys_*.go
// stand those that differ between systems; who calls these is looked at too.
var changing = map[string][]string{
	"unix": {"Rename", "Renameat", "Renameat2", "RenameatxNp", "Unlink", "Unlinkat", "Rmdir", "Mkdir", "Mkdirat", "Link", "Linkat",
		"Symlink", "Symlinkat", "Chmod", "Fchmod", "Fchmodat", "Chown", "Fchown", "Fchownat", "Lchown", "Truncate", "Ftruncate", "Write", "Pwrite",
		"Utimes", "UtimesNanoAt", "Futimes", "Flock", "FcntlFlock", "Kill", "PidfdSendSignal", "Fsetxattr", "Setxattr", "Fallocate", "Mknod", "Mkfifo", "Exec"},
	"syscall": {"Rename", "Unlink", "Rmdir", "Mkdir", "Kill", "Flock", "Write", "Exec", "ForkExec"},
	"os": {"Rename", "Remove", "RemoveAll", "Mkdir", "MkdirAll", "MkdirTemp", "WriteFile", "Create", "CreateTemp", "OpenFile", "Chmod", "Chown",
		"Lchown", "Chtimes", "Truncate", "Link", "Symlink", "StartProcess"},
	"": {"renameNoReplace", "renameExchange", "signalChecked", "copyLabel", "keepBlocks"},
}

// methods that change what they are called on.
var changingMethods = []string{"Start", "Truncate", "Chmod", "Chown", "Kill", "Signal", "WriteString", "WriteAt", "Sync"}

func TestEveryChangeIsAStep(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal("no files: ", err)
	}
	seen := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		in, system := name == "change.go", strings.HasPrefix(name, "sys_")
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			var found string
			switch f := call.Fun.(type) {
			case *ast.Ident:
				if slices.Contains(changing[""], f.Name) {
					found = f.Name
				}
			case *ast.SelectorExpr:
				if x, ok := f.X.(*ast.Ident); ok && slices.Contains(changing[x.Name], f.Sel.Name) {
					found = x.Name + "." + f.Sel.Name
				} else if slices.Contains(changingMethods, f.Sel.Name) && !(ok && (x.Name == "w" || x.Name == "Work")) {
					found = f.Sel.Name
				}
			}
			if found == "" {
				return true
			}
			seen++
			// scratch of sys_darwin.go makes a file that has no name when it returns.
			if !in && !system {
				t.Errorf("%v: %s stands outside of change.go", set.Position(call.Pos()), found)
			}
			return true
		})
		if in { // and each function there asks step first
			for _, d := range file.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				asks := false
				ast.Inspect(f, func(n ast.Node) bool {
					if id, ok := n.(*ast.Ident); ok && (id.Name == "step" || id.Name == "tell") { // tell asks it
						asks = true
					}
					return true
				})
				if !asks {
					t.Errorf("%s of change.go does not call step", f.Name.Name)
				}
			}
		}
	}
	if seen < 15 {
		t.Errorf("only %d calls found: does this test still look?", seen)
	}
}

// The table of steps in the package comment names a test for each row, and there
// is one.
func TestTableOfSteps(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`Test[A-Z]\w*`).FindAllString(string(doc), -1)
	var tests []byte
	for _, pattern := range []string{"*_test.go", "run/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			tests = append(tests, text...)
		}
	}
	for _, name := range named {
		if !bytes.Contains(tests, []byte("func "+name+"(")) {
			t.Errorf("the table names %s, which is not there", name)
		}
	}
	if len(named) < 20 {
		t.Errorf("only %d tests are named", len(named))
	}
}
