package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"

	"spoolsweep/playbooks"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/stage"
)

// evilInventory has names that a shell, a terminal or a script might obey. Those of
// groups may hold nearly anything.
const evilInventory = `all:
  children:
    relays: {hosts: {"relay[01:03]": , chavez: }}
    "chavez;touch${IFS}PWNED": {hosts: {chavez: }}
    "chavez$(touch${IFS}PWNED)": {hosts: {chavez: }}
    "chavez` + "`touch${IFS}PWNED`" + `": {hosts: {chavez: }}
    "chavez'\"": {hosts: {chavez: }}
    "chavez>PWNED": {hosts: {chavez: }}
    "chavez\u009b31m\u202e": {hosts: {chavez: }}
    größe: {hosts: {peltier: }}
  hosts: {chavez: , peltier: }
`

// offered is what complete offers for a line that ends at the cursor.
func offered(line string) (words []string, c completions) {
	c = complete(newApp(nil, io.Discard, io.Discard), strings.Split(line, " "))
	for _, w := range c.words {
		words = append(words, w.word)
	}
	return words, c
}

func TestComplete(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"evil.yaml": evilInventory,
		"hosts.ini": "[relays]\nmx1\nmx2\n[lists:children]\nrelays\n",
		// What completion must not read or run has something in it that would show.
		"group_vars/relays.yml":      "- no map\n",
		"vault.yaml":                 "$ANSIBLE_VAULT;1.1;AES256\n3031\n",
		"folder/program":             "#!/bin/sh\ntouch '" + dir + "/PWNED'\necho '{\"g\": {\"hosts\": [\"secret\"]}}'\n",
		"folder/more.yaml":           "all: {hosts: {mx9: }}\n",
		"folder/group_vars/all.yaml": "$ANSIBLE_VAULT;1.1;AES256\n3031\n",
		"broken.yaml":                "all: [",
	} {
		file := filepath.Join(dir, name)
		mode := os.FileMode(0o600)
		if strings.HasPrefix(text, "#!") {
			mode = 0o700
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	evil := " -i " + dir + "/evil.yaml"
	for _, test := range []struct {
		line  string
		words string // with blanks between them
		paths string
		after int
	}{
		{line: "spoolsweep ru", words: "run runs"},
		{line: "spoolsweep __", words: ""},
		{line: "spoolsweep -", words: "--help"},
		{line: "spoolsweep nonsense ", words: ""},
		{line: "spoolsweep -y ru", words: "run runs"},
		{line: "spoolsweep -l run ru", words: "run runs"},
		{line: "spoolsweep -l ", words: ""},
		{line: "spoolsweep run ", words: strings.Join(playbooks.Shipped(), " "), paths: anyFile},
		{line: "spoolsweep run back", words: "backscatter backscatter-deferred", paths: anyFile},
		{line: "spoolsweep run -l chavez -y back", words: "backscatter backscatter-deferred", paths: anyFile},
		{line: "spoolsweep run backscatter ", words: ""},
		{line: "spoolsweep run backscatter --che", words: "--check"},
		{line: "spoolsweep run backscatter --check --che", words: ""},
		{line: "spoolsweep run backscatter -e a=1 --extra", words: "--extra-vars"},
		{line: "spoolsweep run -- --che", words: "", paths: anyFile},
		{line: "spoolsweep run backscatter -e ma", words: "max_stopped="},
		{line: "spoolsweep run -e ma", words: "max_stopped="},
		{line: "spoolsweep run backscatter -e @ru", paths: anyFile, after: 1},
		{line: "spoolsweep run backscatter --extra-vars=@ru", paths: anyFile, after: len("--extra-vars=@")},
		{line: "spoolsweep health -o ", words: "text json jsonl openmetrics"},
		{line: "spoolsweep suggest --output=y", words: "--output=yaml"},
		{line: "spoolsweep stages -o ", words: "text json"},
		{line: "spoolsweep stages set", words: "set-aside"},
		{line: "spoolsweep completion ", words: "bash fish zsh"},
		{line: "spoolsweep manual ", words: "accounts incident troubleshooting"},
		{line: "spoolsweep manual --man ", paths: anyFolder},
		{line: "spoolsweep ping --transport o", words: "openssh"},
		{line: "spoolsweep ping --become-method ", words: "sudo doas su"},
		{line: "spoolsweep ping --host-key-checking a", words: "accept-new"},
		{line: "spoolsweep ping --ssh-config ", words: "none", paths: anyFile},
		{line: "spoolsweep ping --ssh-config=", words: "--ssh-config=none", paths: anyFile, after: len("--ssh-config=")},
		{line: "spoolsweep ping -bK", words: ""},
		{line: "spoolsweep ping -bi ", paths: anyFile},
		{line: "spoolsweep ping --private-key x", paths: anyFile},
		{line: "spoolsweep sample --save ", paths: anyFolder},
		{line: "spoolsweep sample --queue ", words: "maildrop incoming active deferred hold"},
		{line: "spoolsweep putback --adopt inc", words: "incoming.spamfull"},
		{line: "spoolsweep putback --expired ", words: "leave requeue send"},
		{line: "spoolsweep delete -m sas", words: "sasl_user:"},
		{line: "spoolsweep find ", words: ""},
		{line: "spoolsweep resume ", words: ""},

		{line: "spoolsweep ping -l chav" + evil, paths: anyFile},
		{line: "spoolsweep ping" + evil + " -l chav", words: "chavez"},
		{line: "spoolsweep ping" + evil + " -l ", words: "all ungrouped relays größe chavez peltier relay01 relay02 relay03"},
		{line: "spoolsweep ping" + evil + " -l relay0", words: "relay01 relay02 relay03"},
		{line: "spoolsweep ping" + evil + " --limit=relay0", words: "--limit=relay01 --limit=relay02 --limit=relay03"},
		{line: "spoolsweep ping" + evil + " -l relay01,pel", words: "relay01,peltier"},
		{line: "spoolsweep ping" + evil + " -l all:!rel", words: "all:!relays all:!relay01 all:!relay02 all:!relay03"},
		{line: "spoolsweep ping" + evil + " -l all,@f", words: "all,@failed", paths: anyFile, after: len("all,@")},
		{line: "spoolsweep -i " + dir + "/hosts.ini ping -l mx", words: "mx1 mx2"},
		{line: "spoolsweep ping -i " + dir + "/hosts.ini -l ", words: "all ungrouped relays lists mx1 mx2"},
		{line: "spoolsweep ping -i mxa,mxb -l ", words: "all ungrouped mxa mxb"},
		{line: "spoolsweep ping -i " + dir + "/folder -l ", words: "all ungrouped mx9"},
		{line: "spoolsweep ping -i " + dir + "/vault.yaml -l ", words: "all ungrouped"},
		{line: "spoolsweep ping -i " + dir + "/broken.yaml -l ", words: ""},
		{line: "spoolsweep ping -i " + dir + "/none -l ", words: ""},
		{line: "spoolsweep ping -i /dev/tty -l ", words: ""},
		{line: "spoolsweep inventory" + evil + " --host pel", words: "peltier"},
		{line: "spoolsweep inventory" + evil + " --graph rel", words: "relays"},
	} {
		words, c := offered(test.line)
		want := strings.Fields(test.words)
		slices.Sort(words)
		slices.Sort(want)
		if !slices.Equal(words, want) && (len(words) > 0 || len(want) > 0) {
			t.Errorf("%q: got %q, want %q", test.line, words, want)
		}
		if c.paths != test.paths || c.before != test.after && c.paths != "" {
			t.Errorf("%q: got %q after %d, want %q after %d", test.line, c.paths, c.before, test.paths, test.after)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "PWNED")); err == nil {
		t.Error("a program was run")
	}
}

// What is offered is taken: each word of each list, by what reads it.
func TestCompleteIsTaken(t *testing.T) {
	_, err := pattern.ParseFlag("x")
	_, list, ok := strings.Cut(fmt.Sprint(err), "fields are ")
	if !ok {
		t.Fatalf("ParseFlag names no fields: %v", err)
	}
	var fields []string
	for _, f := range matchFields {
		if f = strings.TrimRight(f, ":."); !slices.Contains(fields, f) {
			fields = append(fields, f)
		}
	}
	for _, f := range fields {
		if !strings.Contains(list, f) {
			t.Errorf("-m %s: is none of %s", f, list)
		}
	}
	for f := range strings.FieldsFuncSeq(list, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
		if len(f) > 2 && f != "and" && f != "NAME" && !slices.Contains(fields, f) {
			t.Errorf("%q is a field, and not offered", f)
		}
	}
	for _, way := range []string{"leave", "requeue", "send"} {
		if err := (&stage.RestoreArgs{Expired: way}).Check(); err != nil && strings.Contains(err.Error(), way) {
			t.Errorf("--expired %s: %v", way, err)
		}
	}
	for _, c := range visible(newApp(nil, io.Discard, io.Discard)) {
		for _, f := range c.Flags {
			if about := aboutFlag(f); about == "" || len(about) > aboutWidth+len(" ...") {
				t.Errorf("%s --%s: in a menu it is %q", c.Name, f.Names()[0], about)
			}
			words, found := offered("spoolsweep " + c.Name + " " + dashed(f.Names()[0]) + "=")
			if _, boolean := f.(*cli.BoolFlag); boolean && (len(words) > 0 || found.paths != "") {
				t.Errorf("%s --%s takes no value, and is offered %q", c.Name, f.Names()[0], words)
			}
		}
	}
}

func TestSplitTyped(t *testing.T) {
	const breaks = " \t\n\"'@><=;|&(:"
	for _, test := range []struct {
		line  string
		words []string
		last  lastWord
	}{
		{"spoolsweep ", []string{"spoolsweep"}, lastWord{"", 0, true}},
		{"spoolsweep run  x", []string{"spoolsweep", "run"}, lastWord{"x", 0, true}},
		{"a --limit=ch", []string{"a"}, lastWord{"--limit=ch", 8, true}},
		{"a all:re", []string{"a"}, lastWord{"all:re", 4, true}},
		{"a all:", []string{"a"}, lastWord{"all:", 4, true}},
		{"a @ru", []string{"a"}, lastWord{"@ru", 0, true}},
		{"a 'all:re", []string{"a"}, lastWord{"all:re", 0, true}},
		{"a --x='all:!r", []string{"a"}, lastWord{"--x=all:!r", 4, true}},
		{`a "b $(c) d`, []string{"a"}, lastWord{"b $(c) d", 0, true}},
		{`a 'b c' d\ e f`, []string{"a", "b c", "d e"}, lastWord{"f", 0, true}},
		{`a "b\"c" d`, []string{"a", `b"c`}, lastWord{"d", 0, true}},
		{`a b\ c`, []string{"a"}, lastWord{"b c", 0, false}},
		{`a 'b'c`, []string{"a"}, lastWord{"bc", 0, false}},
		{`a !re`, []string{"a"}, lastWord{"!re", 0, false}},
		{`a $(b`, []string{"a"}, lastWord{"$(b", 2, true}},
	} {
		words, last := splitTyped(test.line, breaks)
		if diff := cmp.Diff(test.words, words); diff != "" || last != test.last {
			t.Errorf("%q: got %q, %+v, want %q, %+v", test.line, words, last, test.words, test.last)
		}
	}
}

// Words that are quoted for a shell are split into what they were; and what bash is
// given for the last one is that word, once it stands on the line.
func FuzzSplitTyped(f *testing.F) {
	for _, seed := range []string{"spoolsweep run -l 'a b' back", "spoolsweep ping --tran", "spoolsweep ping --transport='op", "spoolsweep ping --transport=\"op", "spoolsweep ping --transport=o", "a\\", "'", "\"\\\"$`\\x", "--a=b:c@d", "\x00\xff\n\t"} {
		f.Add(seed, "x y")
	}
	f.Fuzz(func(t *testing.T, line, word string) {
		words, last := splitTyped(line, " =:@")
		if last.kept > len(last.text) {
			t.Fatalf("%q: %d bytes of %q are kept", line, last.kept, last.text)
		}
		for _, w := range words {
			if got, _ := splitTyped(shellWord(w)+" ", ""); len(got) != 1 || got[0] != w {
				t.Fatalf("%q is split into %q", w, got)
			}
		}
		for _, w := range completeBash(newApp(nil, io.Discard, io.Discard), line, " =:@").words {
			// As bash puts it there: the word is that one, and no other has changed.
			then := strings.TrimSuffix(line, last.text[last.kept:]) + w.word
			again, now := splitTyped(then, " =:@")
			if now.text != last.text[:last.kept]+w.word || !slices.Equal(again, words) {
				t.Fatalf("%q becomes %q: %q and %q", line, then, again, now.text)
			}
		}
		if got, _ := splitTyped(shellWord(word)+" ", ""); len(got) != 1 || got[0] != word {
			t.Fatalf("%q is split into %q", word, got)
		}
	})
}

// shellSession is a shell at a terminal, somebody's keys included.
type shellSession struct {
	t     *testing.T
	in    io.Writer
	mu    sync.Mutex
	shown bytes.Buffer
	more  chan struct{}
	seen  int
}

func (s *shellSession) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.shown.Write(p)
}

// shellLimit is for a shell that never answers.
const shellLimit = time.Minute

// keys types keys, and waits until the shell shows text.
func (s *shellSession) keys(keys, text string) string {
	s.t.Helper()
	if _, err := io.WriteString(s.in, keys); err != nil {
		s.t.Fatal(err)
	}
	late := time.After(shellLimit)
	for {
		s.mu.Lock()
		all := s.shown.String()[s.seen:]
		if i := strings.Index(all, text); i >= 0 {
			s.seen += i + len(text)
			s.mu.Unlock()
			return all[:i]
		}
		s.mu.Unlock()
		select {
		case <-s.more:
		case <-late:
			s.t.Fatalf("after %q the shell does not show %q, but\n%q", keys, text, all)
		}
	}
}

// inFolder makes a folder with what the shells are tried on, and the environment of
// one that works there.
func inFolder(t *testing.T) (dir string, env []string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range map[string]string{"inventory.yaml": evilInventory, "rules one.yaml": "", "other$(touch PWNED).yaml": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, []string{"PATH=" + filepath.Dir(built(t)) + ":/usr/bin:/bin:/usr/local/bin", "HOME=" + t.TempDir(), "TERM=dumb", "INPUTRC=/dev/null", "LC_ALL=C.UTF-8"}
}

// startShell starts a shell on a terminal of its own, which python gives it.
func startShell(t *testing.T, dir string, env []string, args ...string) *shellSession {
	t.Helper()
	python := needs.Program(t, "python3")
	ctx, cancel := context.WithTimeout(context.Background(), 2*shellLimit) // the test's own ends before its shell
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, python, append([]string{"-c", "import pty, sys; pty.spawn(sys.argv[1:])"}, args...)...)
	cmd.Dir, cmd.Env = dir, env
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &shellSession{t: t, in: in, more: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = s, s
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		io.WriteString(in, "\x15exit\r")
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	})
	return s
}

// typedInShells are lines as they are typed, with the Tab key, and the arguments
// that the program would get then.
var typedInShells = []struct{ keys, args string }{
	{"spoolsweep comple\t zsh", "<completion><zsh>"},
	{"spoolsweep run backscatter-\t--che\t", "<run><backscatter-deferred><--check>"},
	{"spoolsweep ping -l pelt\t-o jsonl", "<ping><-l><peltier><-o><jsonl>"},
	{"spoolsweep ping --limit=pelt\t", "<ping><--limit=peltier>"},
	{"spoolsweep ping -l relay01,pelt\t", "<ping><-l><relay01,peltier>"},
	{"spoolsweep ping -l relays:pelt\t", "<ping><-l><relays:peltier>"},
	{"spoolsweep ping -l 'all:!relays:pelt\t", "<ping><-l><all:!relays:peltier>"},
	// A single one is left that a shell may take, whatever the others are called.
	{"spoolsweep ping -l chav\t", "<ping><-l><chavez>"},
	{"spoolsweep run backscatter -e max\t2", "<run><backscatter><-e><max_stopped=2>"},
	{"spoolsweep run backscatter -e @rules\t", "<run><backscatter><-e><@rules one.yaml>"},
	{"spoolsweep ping -i oth\t", "<ping><-i><other$(touch PWNED).yaml>"},
	{"spoolsweep delete -m sas\tx", "<delete><-m><sasl_user:x>"},
}

func TestCompletionInBashAndZsh(t *testing.T) {
	t.Parallel()
	for _, shell := range [][]string{{"bash", "--norc", "--noprofile", "-i"}, {"zsh", "-f", "-i"}} {
		t.Run(shell[0], func(t *testing.T) {
			t.Parallel()
			shell[0] = needs.Program(t, shell[0])
			dir, env := inFolder(t)
			s := startShell(t, dir, env, shell...)
			setUp := "PS1='at> '; "
			if strings.HasSuffix(shell[0], "zsh") {
				setUp = "unset zle_bracketed_paste; unsetopt prompt_sp beep; autoload -U compinit && compinit -u -D; " + setUp
			}
			// The program is asked by its path; what stands on the line is this function.
			s.keys(setUp+"eval \"$(spoolsweep completion "+filepath.Base(shell[0])+")\"; spoolsweep() { printf '<%s>' \"$@\"; echo; }; echo set''up\r", "setup")
			for i, typed := range typedInShells {
				got := s.keys(typed.keys+"\r", ">\r\n")
				if _, args, ok := strings.Cut(got, "<"); !ok || "<"+args+">" != typed.args {
					t.Errorf("%d: %q gives %q, want %q", i, typed.keys, got+">", typed.args)
				}
			}
			// What somebody typed is not run by the Tab key either; but for the word at
			// the cursor, which zsh expands before it completes anything.
			typed := "spoolsweep ping -l $(touch PWNED) --limit=`touch PWNED` -l re\t"
			if strings.HasSuffix(shell[0], "bash") {
				typed += " -l $(touch PWNED)re\t -i $(touch PWNED)/x\t -e @$(touch PWNED)/x\t -e `touch PWNED`\t"
			}
			s.keys(typed+"\x15echo as''ked\r", "asked")
			if left, _ := filepath.Glob(filepath.Join(dir, "PWNED*")); len(left) > 0 {
				t.Errorf("something on the line, or in a name, was run: %q", left)
			}
		})
	}
}

func TestCompletionInFish(t *testing.T) {
	t.Parallel()
	fish := needs.Program(t, "fish")
	dir, env := inFolder(t)
	for _, test := range []struct{ line, want string }{
		{"spoolsweep comple", "completion"},
		{"spoolsweep run backscatter-", "backscatter-deferred"},
		{"spoolsweep ping -l chav", "chavez"},
		{"spoolsweep ping --limit=chav", "--limit=chavez"},
		{"spoolsweep ping -l relay01,chav", "relay01,chavez"},
		{"spoolsweep ping -l 'all:!relays:chav", "all:!relays:chavez"},
		{"spoolsweep run backscatter -e @rules", "@rules one.yaml"},
		{"spoolsweep ping -i oth", "other$(touch PWNED).yaml"},
		{"spoolsweep ping -l (touch PWNED) -l $(touch PWNED) -o jsonl", "jsonl"},
		{"spoolsweep ping -i (touch PWNED)/", ""},
	} {
		cmd := exec.CommandContext(t.Context(), fish, "--no-config", "-c", "spoolsweep completion fish | source; complete -C $argv[1]", "--", test.line)
		cmd.Dir, cmd.Env = dir, env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		var words []string
		for line := range strings.Lines(string(out)) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			words = append(words, word)
		}
		if strings.Join(words, "\n") != test.want {
			t.Errorf("%s: got %q, want %q", test.line, words, test.want)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "PWNED*")); len(left) > 0 {
		t.Errorf("something on the line, or in a name, was run: %q", left)
	}
}
