package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/playbooks/strict"
)

// tree writes files, by their names, into a folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), mode)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLiteral(t *testing.T) {
	for _, tt := range []struct {
		text string
		want any
	}{
		{"5", int64(5)}, {"-5", int64(-5)}, {"+5", int64(5)}, {"- 5", int64(-5)}, {"0x1F", int64(31)}, {"0o17", int64(15)}, {"0b11", int64(3)},
		{"1_000", int64(1000)}, {"1__0", "1__0"}, {"0777", "0777"}, {"00", int64(0)}, {"1.", 1.0}, {".5", 0.5}, {"1e3", 1000.0}, {"1e-3", 0.001},
		{"True", true}, {"False", false}, {"None", nil}, {"true", "true"}, {"yes", "yes"}, {"Trueish", "Trueish"},
		{"'a'", "a"}, {`"a\n\x41\u00e9\101\q"`, "a\nAéA\\q"}, {"'a' 'b'", "ab"}, {"'a", "'a"}, {"a'b", "a'b"}, {"''", ""}, {"", ""},
		{"[1, 'a', [None]]", []any{int64(1), "a", []any{nil}}}, {"[]", []any{}}, {"[[]]", []any{[]any{}}}, {"[1,]", []any{int64(1)}},
		{"(1)", int64(1)}, {"(1,)", []any{int64(1)}}, {"()", []any{}}, {"1,2", []any{int64(1), int64(2)}}, {"1,", []any{int64(1)}},
		{"{'a': 1, 2: {}}", map[string]any{"a": int64(1), "2": map[string]any{}}}, {"{}", map[string]any{}}, {"{1, 2}", "{1, 2}"}, {"{'a'}", "{'a'}"},
		{"5 # five", int64(5)}, {"five # five", "five # five"}, {"1 + 2", "1 + 2"}, {"[1", "[1"}, {"1]", "1]"}, {"a,b", "a,b"}, {"nan", "nan"}, {"1x", "1x"},
		{"192.0.2.1", "192.0.2.1"}, {"2026-11-23", "2026-11-23"}, {"1:2", "1:2"}, {"#", "#"},
		{strings.Repeat("[", 200) + strings.Repeat("]", 200), strings.Repeat("[", 200) + strings.Repeat("]", 200)},
	} {
		v, err := literal(strict.NewValue("f", 1, 1), tt.text)
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if diff := cmp.Diff(tt.want, v.Plain()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
	}
	if _, err := literal(strict.NewValue("f", 7, 1), "99999999999999999999"); err == nil || !strings.HasPrefix(err.Error(), "f:7: 99999999999999999999: number does not fit into 64 bits") {
		t.Errorf("got %v", err)
	}
}

// The passwords and values of this test were made up for it.
func TestVault(t *testing.T) {
	const dir = "testdata/same/18-vault-value/"
	asked := 0
	l := &Loader{Known: append([]string{"secret", "combined"}, known...), Vault: func() ([]string, error) {
		asked++
		return []string{"wrong", "correct horse"}, nil
	}}
	data, err := os.ReadFile(dir + "inventory.yaml")
	if err != nil {
		t.Fatal(err)
	}
	vault := string(data[strings.Index(string(data), "!vault"):strings.Index(string(data), "    list:")])
	root := tree(t, map[string]string{"inventory.yaml": "all:\n  vars:\n    secret: " + vault +
		"    combined: 'x{{ secret }}'\n    theirs: '{{ secret }}'\n    ansible_become_password: '{{ secret }}'\n  hosts: {mx1: , mx2: }\n"})
	file := filepath.Join(root, "inventory.yaml")
	inv, warnings, err := l.Load(t.Context(), file)
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	h := host(t, inv, "mx1")
	if h.Vars["secret"] != "hush hush" || h.Vars["combined"] != "xhush hush" || h.BecomePassword() != "hush hush" || asked != 1 {
		t.Errorf("after asking %d times: %v", asked, h.Vars)
	}
	// What only another tool reads stays closed, and so does what is listed.
	for name, text := range map[string]any{"variables": h.Vars["theirs"], "listed": h.Variables()["secret"]} {
		if out, _ := json.Marshal(text); strings.Contains(string(out), "hush") {
			t.Errorf("%s: %s", name, out)
		}
	}
	l.Vault = nil
	_, _, err = l.Load(t.Context(), file)
	if err == nil || !strings.HasSuffix(err.Error(), ": encrypted by ansible-vault (give --vault-password-file FILE or --ask-vault-pass)") || !errors.Is(err, errNoVaultPassword) {
		t.Errorf("without a password: %v", err)
	}
	l.Vault = func() ([]string, error) { return []string{"wrong"}, nil }
	if _, _, err = l.Load(t.Context(), file); err == nil || !strings.HasSuffix(err.Error(), "the vault password is not that of this value") {
		t.Errorf("with a wrong password: %v", err)
	}
	for text, want := range map[string]string{
		"$ANSIBLE_VAULT;1.0;AES\n00": `format "1.0"`, "$ANSIBLE_VAULT;1.1;ROT13\n00": `cipher "ROT13"`, "hush": "not a text of ansible-vault",
		"$ANSIBLE_VAULT;1.1;AES256\nzz": "not hexadecimal", "$ANSIBLE_VAULT;1.1;AES256\n00": "a part is missing",
		"$ANSIBLE_VAULT;1.1;AES256\n30300a30300a3030": "ends too early",
	} {
		if _, err := readVault(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestReferences(t *testing.T) {
	inv := mustParse(t, `
all:
  vars:
    ansible_host: "{{ short }}.mail.{{ domain }}"
    ansible_port: "{{ port }}"
    ansible_become: "{{ sudo }}"
    short: "{{ inventory_hostname_short }}"
    domain: example.org
    sudo: yes
    postfix_stop: "stop {{ inventory_hostname }} {{ sudo }} {{ port }}"
    queue_warn: "{{port}}"
    theirs: "{{ x | default(1) }}"
    list: ["{{ domain }}", {a: "{{ port }}"}]
  hosts:
    mx1.example.org: {port: 2222}
    mx2.example.org: {port: "2223"}
`)
	h := host(t, inv, "mx1.example.org")
	yes := true
	if diff := cmp.Diff(Connection{Host: "mx1.mail.example.org", Port: 2222, Become: &yes}, h.Connection); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, want := range map[string]any{
		"postfix_stop": "stop mx1.example.org True 2222", "queue_warn": int64(2222), "theirs": "{{ x | default(1) }}",
		"list": []any{"example.org", map[string]any{"a": int64(2222)}},
	} {
		if diff := cmp.Diff(want, h.Vars[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := host(t, inv, "mx2.example.org").Connection.Port; got != 2223 {
		t.Errorf("port is %d", got)
	}
	if got := h.Variables()["short"]; got != "{{ inventory_hostname_short }}" {
		t.Errorf("listed: %v", got)
	}
}

// A program is bounded, and not anybody's.
func TestProgram(t *testing.T) {
	root := tree(t, map[string]string{
		"slow":   "#!/bin/sh\nsleep 60 & sleep 60\n",
		"long":   "#!/bin/sh\nexec yes '{\"a\": 1}'\n",
		"open":   "#!/bin/sh\necho '{}'\n",
		"in/ok":  "#!/bin/sh\necho '{\"a\": [\"mx1\"], \"_meta\": {\"hostvars\": {}}}'\n",
		"vars":   "#!/bin/sh\necho '{\"a\":\n{\"hosts\": [\"mx1\"], \"vars\": {\"ansible_password\": \"hush\"}}}'\n",
		"hostly": "#!/bin/sh\n[ $1 = --list ] && echo '{\"a\": [\"mx1\"]}' || echo '[]'\n",
		"noexec": "all: {hosts: {mx1: }}\n",
	})
	at := func(name string) string { return filepath.Join(root, name) }
	if err := errors.Join(os.Chmod(at("open"), 0o757), os.Chmod(at("noexec"), 0o755), os.Chmod(at("in"), 0o777)); err != nil {
		t.Fatal(err)
	}
	load := func(ctx context.Context, name string) error {
		_, _, err := (&Loader{Known: known}).Load(ctx, at(name))
		return err
	}
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := load(short, "slow"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 30*time.Second {
		t.Errorf("a slow one: %v after %v", err, time.Since(began))
	}
	for name, want := range map[string]string{
		"long":   at("long") + " --list: more than 16 MiB of answer",
		"open":   at("open") + " is not run: " + at("open") + " is writable by everybody",
		"in/ok":  at("in/ok") + " is not run: " + at("in") + " is writable by everybody",
		"vars":   at("vars") + " --list:2: ansible_password: a password in clear (remove it; log in with a key or the ssh agent)",
		"hostly": at("hostly") + " --host mx1:1: host mx1: expected a map of variables, found a list",
	} {
		if err := load(t.Context(), name); err == nil || err.Error() != want {
			t.Errorf("%s\ngot  %v\nwant %s", name, err, want)
		}
	}
	if err := load(t.Context(), "noexec"); err != nil {
		t.Errorf("a file that is executable by accident: %v", err)
	}
}

func TestLists(t *testing.T) {
	inv := mustParse(t, "all: {hosts: {mx1: , mx2: , mx3: }}")
	root := tree(t, map[string]string{"list": "# run x\nmx3\n\n mx1 \n", "old": "mx1\nmx9\n", "nested": "@list\n", "none": "# nothing\n"})
	inv.Lists = func(name string) (string, error) {
		if name == "failed" {
			return filepath.Join(root, "list"), nil
		}
		return "", nil
	}
	for _, tt := range []struct{ limit, want string }{
		{"@failed", "mx3 mx1"}, {"all:!@failed", ""}, {"mx2,@failed", "mx2 mx3 mx1"}, {"@" + root + "/list,!mx3", "mx1"},
		{"@" + root + "/old", root + `/old:2: no host or group is named "mx9" (did you mean "mx1"?)`},
		{"@" + root + "/nested", root + `/nested:1: "@list": a file of patterns names no other`},
		{"@" + root + "/none", root + "/none: no host stands in it"},
	} {
		hosts, err := inv.Limit(tt.limit)
		got := strings.Join(names(hosts), " ")
		if err != nil {
			_, got, _ = strings.Cut(err.Error(), `": `)
			if tt.limit == "all:!@failed" { // Ansible has no such pattern either
				continue
			}
		}
		if got != tt.want {
			t.Errorf("%q\ngot  %s\nwant %s", tt.limit, got, tt.want)
		}
	}
}

// FuzzINI holds that no INI file makes the loader panic, and that what it loads is
// JSON whose hosts are found by their names.
func FuzzINI(f *testing.F) {
	seeds, err := filepath.Glob("testdata/same/0*-ini-*/hosts*")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in testdata: %v", err)
	}
	for _, name := range seeds {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := newBuilder(known)
		if err := b.ini("f", []byte(text)); err != nil {
			return
		}
		inv, _, err := b.finish()
		if err != nil || len(inv.hosts) > 1000 {
			return
		}
		if _, err := json.Marshal(inv.List()); err != nil {
			t.Error(err)
		}
		for _, h := range inv.hosts {
			if found, err := inv.Limit(h.Name); err != nil || len(found) != 1 || found[0] != h {
				t.Errorf("limit %q found %v, %v", h.Name, names(found), err)
			}
		}
	})
}

// FuzzLimit holds that what a limit names are hosts of the inventory, each once,
// and at least one.
func FuzzLimit(f *testing.F) {
	for _, seed := range []string{"all", "relays:&mx*", "all:!mx[0:1]", "~mx[12]", "mx[!a]*,x", "relays[-1]", "::1", "[a", "!", "a:[b"} {
		f.Add(seed)
	}
	inv, _, err := parse("relays: {hosts: {'mx[1:3]': , '::1': }}\nlists: {children: {relays: }, hosts: {x: }}\nmx1: {hosts: {x: }}\n")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, limit string) {
		if strings.Contains(limit, "@") {
			return // reads files
		}
		hosts, err := inv.Limit(limit)
		if err == nil && len(hosts) == 0 {
			t.Error("no host, and no error")
		}
		seen := make(map[*Host]bool)
		for _, h := range hosts {
			if seen[h] || inv.Host(h.Name) != h {
				t.Errorf("%s: twice, or not of the inventory", h.Name)
			}
			seen[h] = true
		}
	})
}

// FuzzVault holds that no vault makes the reader panic, nor has a text to a wrong
// password.
func FuzzVault(f *testing.F) {
	data, err := os.ReadFile("testdata/same/20-vault-ids/inventory.yml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(data))
	f.Add("$ANSIBLE_VAULT;1.1;AES256\n30300a30300a3030")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := readVault(text)
		if err != nil {
			return
		}
		if _, ok, _ := s.open("another"); ok {
			t.Error("opened")
		}
	})
}

// Names alone: nothing is run and nothing decrypted, and nothing that only says
// variables is even read.
func TestNames(t *testing.T) {
	vault := vaultHead + ";1.1;AES256\n3031\n"
	dir := tree(t, map[string]string{
		"hosts.yaml":          "all: {children: {relays: {hosts: {mx1: }}}}\n",
		"program":             "#!/bin/sh\ntouch \"$(dirname \"$0\")/ran\"\n",
		"secret.yaml":         vault,
		"group_vars/all.yaml": vault,
		"host_vars/mx1.yaml":  "- no map\n",
	})
	if err := os.Chmod(filepath.Join(dir, "program"), 0o700); err != nil {
		t.Fatal(err)
	}
	inv, _, err := (&Loader{Raw: true, Names: true}).Load(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if hosts := inv.Hosts(); len(hosts) != 1 || hosts[0].Name != "mx1" {
		t.Errorf("got %v", hosts)
	}
	if groups := inv.Groups(); len(groups) != 3 || groups[2].Name != "relays" || len(groups[2].Hosts) != 1 {
		t.Errorf("got %v", groups)
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("the program was run")
	}
}
