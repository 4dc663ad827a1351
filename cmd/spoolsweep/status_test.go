package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// Bad usage and bad input end with 1, a word on stderr, nothing on stdout, and
// before any host is reached: there is none here.
func TestUsageErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	inventory := file("hosts.yaml", "all:\n  hosts:\n    chavez:\n    peltier:\n")
	in := []string{"-i", inventory}
	badVar := file("var.yaml", "all:\n  hosts:\n    chavez:\n      queue_warn: many\n")
	badKey := file("key.yaml", "all:\n  hots:\n    chavez:\n")
	badTab := file("tab.yaml", "all:\n  hosts:\n\tchavez:\n")
	playbook := file("book.yaml", "name: mine\nstages:\n  - count:\n  - clasify:\n")
	order := file("order.yaml", "stages:\n  - set-aside: {queues: auto}\n")
	template := file("template.yaml", "vars: {a: 1}\nstages:\n  - count:\n  - command: {run: \"echo {{ .b }}\"}\n")
	unclosed := file("unclosed.yaml", "stages:\n  - command: {run: \"echo {{ .a\"}\n")
	unset := file("unset.yaml", "vars:\n  word:\nstages:\n  - command: {run: \"echo {{ .word }}\"}\n")
	share := file("share.yaml", "serial: 150%\nstages:\n  - count:\n")
	pattern := file("pattern.yaml", "vars: {spam: {any: [{raw: x}, {body: \"/(/\"}]}}\nstages:\n  - classify: {spam: \"{{ .spam }}\"}\n")
	nobody := file("nobody.yaml", "hosts: all,nobody\nstages:\n  - count:\n")
	somebody := file("somebody.yaml", "vars: {who: chavez}\nhosts: \"{{ .who }}\"\nstages:\n  - count:\n")
	rules := file("rules.yaml", "spam:\n  any:\n    - sasl_usr: x\n")

	none := filepath.Join(dir, "none")
	for _, test := range []struct {
		args []string
		says string
	}{
		{[]string{"clasify"}, `no command "clasify"`},
		{[]string{"clasify"}, `"classify"`},
		{[]string{"clasify", "-y"}, `no command "clasify"`},
		{[]string{"--no-such"}, "no-such"},
		{[]string{"run", "--chek", "backscatter"}, `"--check"`},
		{[]string{"run", "backscatter", "--limt", "x"}, `"--limit"`},
		{[]string{"run", "backscatter", "-Z"}, "\"Z\""},
		{[]string{"run"}, "see spoolsweep run --help"},
		{[]string{"run", "backscatter", "peltier"}, "see spoolsweep run --help"},
		{append([]string{"run", "backscatter", "-y", "-e", "queue_warn=50"}, in...), "-e queue_warn: it is a variable of hosts"},
		{[]string{"find"}, "one address"},
		{[]string{"find", "a", "b"}, "one address"},
		{[]string{"find", "/(/"}, "/(/"},
		{[]string{"runs", "x"}, `unexpected argument "x"`},
		{[]string{"report", "A", "B"}, "one run"},
		{[]string{"uninstall", "x"}, `unexpected argument "x"`},
		{[]string{"health", "x"}, `unexpected argument "x"`},
		{[]string{"health", "--watch", "1m", "-o", "json"}, "jsonl"},
		{[]string{"sample", "x"}, `unexpected argument "x"`},
		{[]string{"sample", "-n", "21"}, "from 1 to 20"},
		{[]string{"sample", "--raw", "--redact"}, "exclude"},
		{[]string{"sample", "--aside", "x", "--queue", "hold"}, "exclude"},
		{[]string{"sample", "--forget", dir}, "closed to others"},
		{[]string{"sample", "--save", dir}, "closed to others"},
		{[]string{"sample", "--queue", "nosuch"}, `spoolsweep: --queue: no queue "nosuch": it is one of maildrop, incoming`},
		{[]string{"suggest", "--queue", "hold", "--queue", "nosuch"}, `spoolsweep: --queue: no queue "nosuch"`},
		{[]string{"suspects", "--queue", "nosuch"}, `spoolsweep: --queue: no queue "nosuch"`},
		{[]string{"classify", "-m", "raw:x", "--queue", "nosuch"}, `spoolsweep: --queue: no queue "nosuch"`},
		{[]string{"delete", "-y", "--expect", "0", "-m", "raw:x", "--queue", "nosuch"}, `spoolsweep: --queue: no queue "nosuch"`},
		{[]string{"ping", "chavez"}, `unexpected argument "chavez"`},
		{[]string{"classify", "RUN"}, `unexpected argument "RUN"`},
		{[]string{"resume", "A", "B"}, "one run"},
		{[]string{"attach", "A", "B"}, "one run"},
		{[]string{"putback", "A", "B"}, "one run"},
		{[]string{"demo", "now"}, `unexpected argument "now"`},
		{[]string{"demo", "--keep", dir}, "new folder"},
		{[]string{"ping", "-f", "none"}, "-f none: a whole number is wanted: see spoolsweep ping --help"},
		{[]string{"ping", "--forks=99999999999999999999"}, "--forks 99999999999999999999: the number is too large"},
		{[]string{"health", "--warn", "a \"b"}, `--warn a "b: a whole number is wanted`},
		{[]string{"health", "--warn", ""}, `--warn "": a whole number is wanted`},
		{[]string{"ping", "--quiet=maybe"}, "--quiet=maybe: it takes no value"},
		{[]string{"ping", "-f", "0"}, "at least one"},
		{[]string{"ping", "-T", "soon"}, "-T soon: a time is wanted, such as 30s"},
		{[]string{"ping", "-o", "xml"}, "text, json and jsonl"},
		{[]string{"ping", "--transport", "rsh"}, "builtin or openssh"},
		{[]string{"ping", "--become-method", "pbrun"}, "sudo, doas, su"},
		{[]string{"ping", "--host-key-checking", "no"}, "strict or accept-new"},
		{[]string{"ping", "--private-key", none}, "--private-key " + none + ": no such file"},
		{[]string{"ping", "--private-key", "~/none"}, "--private-key ~/none: no such file"},
		{[]string{"ping", "--transport", "openssh", "--private-key", none}, "--private-key " + none + ": no such file"},
		{[]string{"ping", "--vault-password-file", none}, "--vault-password-file " + none + ": no such file"},
		{[]string{"inventory", "--list", "--vault-password-file", none}, "--vault-password-file " + none + ": no such file"},
		{[]string{"ping", "--ssh-config", none}, "--ssh-config " + none + ": no such file"},
		{[]string{"ping", "--known-hosts", inventory, "--known-hosts", filepath.Join(none, "x")}, "--known-hosts " + filepath.Join(none, "x") + ": no such file or directory: nor is there its folder"},
		{[]string{"ping", "-l", "nobody"}, "nobody"},
		{[]string{"ping", "-l", "chavez,nobody"}, "nobody"},
		{[]string{"ping", "-l", ""}, ""},
		{[]string{"ping", "--agent", filepath.Join(dir, "none")}, "none"},
		{[]string{"ping", "--agent", inventory}, "not a Linux program"},
		{[]string{"run", "backscattr"}, `no playbook "backscattr" (did you mean "backscatter"?)`},
		{[]string{"plan", "local_flod", "--host", "chavez"}, `no playbook "local_flod" (did you mean "local-flood"?)`},
		{[]string{"plan", "backscatter", "--host", "chavez", "-e", "queue=hold", "-e", "rate=quick"}, `-e queue: nothing in backscatter uses it, did you mean "queues"?`},
		{[]string{"help", "run2"}, `no command "run2", did you mean "run"?: see spoolsweep --help`},
		{[]string{"run", filepath.Join(dir, "none.yaml")}, "spoolsweep: playbook: " + none + ".yaml: no such file"},
		{[]string{"run", playbook, "-y"}, "book.yaml:4"},
		{[]string{"run", playbook, "-y"}, `"classify"`},
		{[]string{"run", order, "-y"}, "order.yaml:2"},
		{[]string{"run", template, "-y"}, "template.yaml:4: no variable \"b\""},
		{[]string{"run", unclosed, "-y"}, "unclosed.yaml:2"},
		{[]string{"run", unset, "-y"}, "unset.yaml:4: the variable \"word\" has no value (give it: -e word=...)"},
		{[]string{"run", share, "-y"}, "share.yaml:1: serial: "},
		{[]string{"run", pattern, "-y"}, "pattern.yaml:1: /(/: "},
		{[]string{"run", nobody, "-y"}, "nobody.yaml:1: hosts: "},
		{[]string{"run", somebody, "-y", "-e", "who=nobody"}, "-e who:1: hosts: "},
		{[]string{"run", "backscatter", "-y", "-e", "account=-x"}, "account: "},
		{[]string{"run", "backscatter"}, "no terminal"},
		{[]string{"run", "backscatter", "-y", "-e", "spam"}, "spam"},
		{[]string{"run", "backscatter", "-y", "-e", "rate=quick"}, "rate"},
		{[]string{"run", "backscatter", "-y", "-e", "@" + none + ".yaml"}, "spoolsweep: -e @" + none + ".yaml: no such file"},
		{[]string{"run", "backscatter", "-y", "-e", "@" + rules}, "rules.yaml:3"},
		{[]string{"run", "backscatter", "-y", "-e", "@" + rules}, `"sasl_user"`},
		{[]string{"run", "backscatter", "-y", "-e", "{spam: {raw: ''}}"}, "empty"},
		{[]string{"classify", "-e", "@" + rules}, "rules.yaml:3"},
		{[]string{"classify", "-e", "{spm: {raw: x}}"}, `-e spm: classify takes only spam and ham, did you mean "spam"?`},
		{[]string{"classify", "-m", "raw:x", "-e", "hams={raw: x}"}, `"ham"`},
		{[]string{"classify", "-m", "sasl_user"}, "-m sasl_user"},
		{[]string{"classify", "-m", "raw:/(/"}, "-m raw:/(/"},
		{[]string{"classify", "-m", "raw:x", "-e", "spam={raw: x}"}, "not from both"},
		{[]string{"classify", "--aside", "x", "--queue", "hold", "-m", "raw:x"}, "exclude"},
		{[]string{"putback"}, "no terminal"},
		{[]string{"putback", "-y"}, "--expect"},
		{[]string{"putback", "--rate", "quick", "-y", "--expect", "1"}, "quick"},
		{[]string{"resume", "--expect", "3"}, "--expect goes with -y"},
		{[]string{"delete", "-m", "raw:x"}, "no terminal"},
		{[]string{"delete", "-m", "raw:x", "-y"}, "delete -y wants --expect"},
		{[]string{"delete", "-y", "--expect", "0"}, "no rules for spam"},
		{[]string{"delete", "-y", "--expect", "0", "-e", "ham={raw: x}"}, "no rules for spam"},
		{[]string{"delete", "-y", "--expect", "0", "-e", "spam={}"}, "no rules for spam"},
		{[]string{"delete", "-y", "--expect", "0", "-m", "raw:x", "-e", "hma={raw: x}"}, "delete takes only spam and ham"},
		{[]string{"delete", "-y", "--expect", "0", "-m", "sendr:x"}, "-m sendr:x"},
		{[]string{"delete", "-y", "--expect", "0", "-e", "@" + rules}, "rules.yaml:3"},
		{[]string{"delete", "-y", "--expect", "0", "-m", "raw:x", "--queue", "auto"}, "auto"},
		{[]string{"delete", "-y", "--expect", "0", "-m", "raw:x", "--queue", "corrupt"}, "corrupt"},
		{[]string{"delete", "-y", "--expect", "0", "-m", "raw:x", "--queue", "incoming.spamfull"}, "no queue"},
		{[]string{"delete", "4XK1", "-m", "raw:x", "-y", "--expect", "1"}, "unexpected argument"},
		{[]string{"delete", "-y", "--expect", "many", "-m", "raw:x"}, "--expect many: a whole number"},
		{[]string{"purge"}, "one run is wanted"},
		{[]string{"purge", ""}, "one run is wanted"},
		{[]string{"purge", "A", "B", "-y", "--expect", "1"}, "one run is wanted"},
		{[]string{"purge", "A"}, "no terminal"},
		{[]string{"purge", "A", "-y"}, "purge -y wants --expect"},
		{[]string{"purge", "A", "-y", "--expect", "0", "--older-than", "30"}, "30d"},
	} {
		r := execs(t, append(test.args, hostFlags(test.args, in)...)...)
		r.want(t, statusUsage, test.says)
		if r.out != "" || r.err == "" {
			t.Errorf("%s: stdout %q, stderr %q, want a message on stderr alone", r.line, r.out, r.err)
		}
	}
	for _, test := range []struct{ file, says string }{
		{badVar, "var.yaml:4"}, {badKey, "key.yaml:2"}, {badKey, `"hosts"`}, {badTab, "tab.yaml:3"}, {none, "spoolsweep: -i " + none + ": no such file"},
	} {
		r := execs(t, "ping", "-i", test.file)
		r.want(t, statusUsage, test.says)
		if r.out != "" {
			t.Errorf("%s: stdout %q", r.line, r.out)
		}
	}
	// Without an inventory it says which ones were looked for.
	execs(t, "ping").want(t, statusUsage, "inventory.yaml")
}

// What lies in a folder that everybody may write to is not used because it was
// found there: neither the inventory nor a playbook.
func TestFolderOfEverybody(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	named := filepath.Join(t.TempDir(), "hosts.yaml")
	for path, text := range map[string]string{
		filepath.Join(dir, "inventory.yaml"): "all: {hosts: {chavez: }}\n",
		filepath.Join(dir, "mine.yaml"):      "stages: [{count: }]\n",
		named:                                "all: {hosts: {chavez: }}\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"ping", "--list-hosts"}, statusUsage, "inventory.yaml is not used: " + dir + " is writable by everybody"},
		{[]string{"ping", "--list-hosts"}, statusUsage, "-i inventory.yaml"},
		{[]string{"ping", "--list-hosts", "-i", "inventory.yaml"}, 0, "chavez"}, // it was named
		{[]string{"run", "mine.yaml", "--list-hosts", "-i", named}, statusUsage, dir + " is writable by everybody (if it is the right one: ./mine.yaml)"},
	} {
		execsIn(t, dir, row.args...).want(t, row.status, row.says)
	}
}

// hostFlags are in for commands that reach hosts.
func hostFlags(args, in []string) []string {
	if app := newApp(nil, nil, nil); args[0] == "demo" || app.Command(args[0]) == nil {
		return nil
	}
	return in
}

func TestHelpStatus(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"help", "run"}} {
		if r := execs(t, args...); r.status != 0 || r.out == "" || r.err != "" {
			t.Errorf("%s: status %d, stdout %d bytes, stderr %q", r.line, r.status, len(r.out), r.err)
		}
	}
	if r := execs(t); r.status != statusUsage {
		t.Errorf("without a command: status %d, want %d", r.status, statusUsage)
	}
}

// A pattern is taken whole, whatever is in it.
func TestPatternWhole(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(30)
	f.spoolsweep("classify", "-m", `body:/swift{1,2}value@,?freemail/`, "-m", "subject,:x").want(t, statusUsage, "-m subject,:x")
	r := f.spoolsweep("classify", "-m", `body:/swift{0,1}value@,{0}freemail/`)
	r.want(t, 0, `body:/swift{0,1}value@,{0}freemail/ (alone`)
	if n := strings.Count(r.out, "rule: "); n != 1 {
		t.Errorf("%d rules were made of one:\n%s", n, r.out)
	}
}

// The whole table of exit statuses on hosts that are well, fail, or are silent.
func TestHostStatuses(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "relay01").withFlood(200)
	if err := f.servers[1].Close(); err != nil {
		t.Fatal(err)
	}
	p, err := f.hosts[2].Postfix()
	if err != nil {
		t.Fatal(err)
	}
	lock, err := spool.Lock(p) // somebody else works there
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()

	run := []string{"run", "backscatter", "-y", "--agent", built(t)}
	run = append(run, f.where()...)
	f.execs(append(run, "-l", "peltier")...).want(t, 4, "peltier | UNREACHABLE: ")
	f.execs(append(run, "-l", "relay01")...).want(t, 2, "relay01 |   IN THE WAY: ", "remedy")
	f.execs(append(run, "-l", "peltier,relay01")...).want(t, 6)
	f.execs(append(run, "-l", "chavez")...).want(t, 3, "waits for rules", "spoolsweep classify --aside ", "spoolsweep resume ")
	r := f.execs(run...)
	r.want(t, 6, "3 hosts: 1 ok, 1 failed, 1 unreachable")
	if n := strings.Count(r.err, "UNREACHABLE"); n != 1 {
		t.Errorf("told %d times that peltier is unreachable:\n%s", n, r.err)
	}
	f.execs(append([]string{"ping", "--agent", built(t), "-l", "chavez,relay01"}, f.where()...)...).want(t, 0)
}

// execs is the program itself, on Linux, where it can be named as the agent.
func (f *fleet) execs(args ...string) result {
	f.t.Helper()
	return execs(f.t, args...)
}

// What only looks changes nothing at all.
func TestLooksChangeNothing(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(200)
	waitQuiet(t, f)
	before := map[string]string{}
	for _, h := range f.hosts {
		before[h.Name] = files(t, h)
	}
	rules := f.write("rules.yaml", demoRules)
	f.spoolsweep("run", "backscatter", "--list-hosts", "-l", "pelt*").want(t, 0)
	if r := f.spoolsweep("run", "backscatter", "--list-hosts"); r.out != "chavez\npeltier\n" {
		t.Errorf("--list-hosts: %q", r.out)
	}
	r := f.spoolsweep("run", "backscatter", "--list-stages")
	r.want(t, 0)
	if !regexp.MustCompile(`(?s)^count .*\nstop .*\nset-aside .*\nstart .*\nclassify .*\nconfirm .*\nrestore .*\ncount `).MatchString(r.out) {
		t.Errorf("--list-stages:\n%s", r.out)
	}
	for _, s := range f.servers {
		if n := s.Conns(); n != 0 {
			t.Errorf("a list made %d connections", n)
		}
	}
	f.spoolsweep("run", "backscatter", "--check", "-e", "@"+rules).want(t, 0, "set aside: ", "spam", "--check: nothing was changed")
	f.spoolsweep("classify", "-m", "sasl_user:"+demoAccount).want(t, 0)
	f.spoolsweep("ping").want(t, 0, "Postfix practice")
	f.spoolsweep("attach").want(t, 0, "no run")
	f.spoolsweep("resume").want(t, 0, "nothing to resume")
	f.spoolsweep("putback", "-y", "--expect", "0").want(t, 0, "nothing is aside")
	f.spoolsweep("resume", "20261123T231500Z-ab12").want(t, statusUsage, "no run 20261123T231500Z-ab12")
	for _, h := range f.hosts {
		if after := files(t, h); after != before[h.Name] {
			t.Errorf("%s: before\n%s\nafter\n%s", h.Name, before[h.Name], after)
		}
	}
}

// files lists everything of a host but the agent's own folder, with what would
// show a change.
func files(t *testing.T, h *practice.Host) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(h.Dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if path == h.Home() {
			return filepath.SkipDir
		}
		b.WriteString(strings.TrimPrefix(path, h.Dir) + " " + info.Mode().String() + " " + info.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, running := h.Running(); running {
		b.WriteString("running")
	}
	return b.String()
}

// waitQuiet waits until the queue managers have taken in what waited.
func waitQuiet(t *testing.T, f *fleet) {
	t.Helper()
	for _, h := range f.hosts {
		if err := until(t.Context(), h, func(a practice.Audit) bool {
			return a.Count(practice.Ham)["incoming"]+a.Count(practice.Spam)["incoming"] == 0
		}); err != nil {
			t.Fatal(err)
		}
	}
}
