package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"spoolsweep/playbooks/strict"
	"spoolsweep/remote/lab/needs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var known = []string{
	"postfix_config_directory", "postfix_stop", "postfix_start", "postfix_status",
	"queue_warn", "queue_crit", "leftover_warn", "state_directory", "agent_directory",
}

// parse loads texts as if they were files named f.yaml, f2.yaml and so on.
func parse(texts ...string) (*Inventory, []Warning, error) {
	b := newBuilder(known)
	for i, text := range texts {
		name := "f.yaml"
		if i > 0 {
			name = fmt.Sprintf("f%d.yaml", i+1)
		}
		v, err := strict.Parse(name, []byte(text))
		if err != nil {
			return nil, nil, iniHint(err)
		}
		if err := b.file(v); err != nil {
			return nil, nil, err
		}
	}
	return b.finish()
}

func mustParse(t *testing.T, texts ...string) *Inventory {
	t.Helper()
	inv, _, err := parse(texts...)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func host(t *testing.T, inv *Inventory, name string) *Host {
	t.Helper()
	for _, h := range inv.hosts {
		if h.Name == name {
			return h
		}
	}
	t.Fatalf("no host %s", name)
	return nil
}

func names(hosts []*Host) []string {
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	return names
}

// TestGolden loads the files of testdata and compares all that came of them.
func TestGolden(t *testing.T) {
	t.Setenv("HOME", "/home/admin")
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in testdata: %v", err)
	}
	for _, file := range files {
		inv, warnings, err := Load(known, file)
		if err != nil {
			t.Error(err)
			continue
		}
		got := show(t, inv, warnings)
		golden := strings.TrimSuffix(file, ".yaml") + ".golden"
		if *update {
			if err := os.WriteFile(golden, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func show(t *testing.T, inv *Inventory, warnings []Warning) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, w := range warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	for _, g := range inv.Groups() {
		fmt.Fprintf(&b, "group %s children %v hosts %v\n", g.Name, g.Children, names(g.Hosts))
	}
	for _, h := range inv.Hosts() {
		vars, err := json.MarshalIndent(h.Vars, "  ", "  ")
		if err != nil {
			t.Fatal(err)
		}
		connection, err := json.Marshal(h.Connection)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "host %s line %d\n  %s\n  %s\n", h.Name, h.Line, connection, vars)
	}
	return b.Bytes()
}

// TestAsAnsible compares variables, groups and precedence with ansible-inventory.
func TestAsAnsible(t *testing.T) {
	program := needs.Program(t, "ansible-inventory")
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		command := exec.Command(program, "-i", file, "--list")
		command.Env = append(os.Environ(), "ANSIBLE_DEPRECATION_WARNINGS=False", "LC_ALL=C.UTF-8")
		out, err := command.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		var list struct {
			Meta struct {
				Hostvars map[string]map[string]any `json:"hostvars"`
			} `json:"_meta"`
		}
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatal(err)
		}
		for _, vars := range list.Meta.Hostvars {
			for name, v := range vars { // to us !unsafe is text as any other
				if m, ok := v.(map[string]any); ok && m["__ansible_unsafe"] != nil {
					vars[name] = m["__ansible_unsafe"]
				}
			}
		}
		inv, _, err := Load(nil, file)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string]map[string]any)
		for _, h := range inv.Hosts() {
			got[h.Name] = h.Vars
		}
		text, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		got = nil
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatal(err)
		}
		// ansible-inventory leaves out hosts that have no variables.
		if diff := cmp.Diff(list.Meta.Hostvars, got, cmpopts.EquateEmpty(), cmpopts.IgnoreMapEntries(func(_ string, vars map[string]any) bool {
			return len(vars) == 0
		})); diff != "" {
			t.Errorf("%s: variables (-ansible +ours):\n%s", file, diff)
		}
		var groups map[string]struct{ Children, Hosts []string }
		if err := json.Unmarshal(out, &groups); err != nil {
			t.Fatal(err)
		}
		for _, g := range inv.Groups() {
			hosts := names(g.Hosts)
			below := make(map[string]bool)
			var collect func(name string)
			collect = func(name string) {
				for _, h := range groups[name].Hosts {
					below[h] = true
				}
				for _, c := range groups[name].Children {
					collect(c)
				}
			}
			collect(g.Name)
			for _, h := range hosts {
				if !below[h] {
					t.Errorf("%s: %s is not in Ansible's group %s", file, h, g.Name)
				}
				delete(below, h)
			}
			if len(below) > 0 {
				t.Errorf("%s: Ansible's group %s has %v too", file, g.Name, below)
			}
		}
	}
}

func TestExample(t *testing.T) {
	inv, warnings, err := Load(known, "../../inventory.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	want := []string{"chavez.mayfirst.org", "peltier.mayfirst.org"}
	for i := 1; i <= 20; i++ {
		want = append(want, fmt.Sprintf("relay%02d.example.org", i))
	}
	if diff := cmp.Diff(want, names(inv.Hosts())); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile("../../inventory.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range known {
		if n := bytes.Count(text, []byte("# "+name+": ")); n != 1 {
			t.Errorf("the example shows %s in %d commented lines, want 1", name, n)
		}
	}
	// Each commented line must be right too, once it is no comment any more.
	uncommented := strings.NewReplacer("# postfix_", "postfix_", "# queue_", "queue_", "# leftover_", "leftover_", "# state_", "state_", "# agent_", "agent_").Replace(string(text))
	inv, warnings, err = parse(uncommented)
	if err != nil || len(warnings) > 0 {
		t.Fatalf("uncommented: %v %v", err, warnings)
	}
	for _, name := range known {
		if v := host(t, inv, "relay07.example.org").Vars[name]; v == "" {
			t.Errorf("uncommented, %s is not set", name)
		}
	}
}

// TestErrors holds every error of a file in full.
func TestErrors(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"", `f.yaml:1: the inventory is empty`},
		{"[mail]\nmx1\n", `f.yaml:2: not valid YAML in or after this line: did not find expected <document start>: "mx1" (an INI inventory is printed as YAML by: ansible-inventory -i f.yaml --list -y)`},
		{"[mail]\n", `f.yaml:1: expected groups, found a list (an INI inventory is printed as YAML by: ansible-inventory -i f.yaml --list -y)`},
		{"mx1\n", `f.yaml:1: expected groups, found the text "mx1" (an INI inventory is printed as YAML by: ansible-inventory -i f.yaml --list -y)`},
		{"plugin: community.general.nmap\n", `f.yaml:1: an inventory plugin of Ansible's (community.general.nmap), and none is run here (what it finds is printed as YAML by: ansible-inventory -i f.yaml --list -y)`},
		{"5\n", `f.yaml:1: expected groups, found the number 5`},
		// Groups.
		{"hosts:\n  mx1:\n", `f.yaml:1: "hosts" stands outside of a group (put it under "all:")`},
		{"all:\n  host:\n    mx1:\n", `f.yaml:2: unknown key of group all: "host" (did you mean "hosts"?)`},
		{"all:\n  queue_warn: 5\n", `f.yaml:2: unknown key of group all: "queue_warn" (a variable stands under "vars:")`},
		{"all:\n  relays:\n    hosts:\n", `f.yaml:2: unknown key of group all: "relays" (known: hosts, vars, children)`},
		{"all:\n  children:\n    relays:\n      hots:\n", `f.yaml:4: unknown key of group relays: "hots" (did you mean "hosts"?)`},
		{"all: mx1\n", `f.yaml:1: group all: expected hosts, vars or children, found the text "mx1"`},
		{"all:\n  vars:\n    - a\n", `f.yaml:2: vars: expected a map, found a list`},
		{"all:\n  hosts:\n    - mx1\n    - mx2\n", `f.yaml:2: hosts: expected a map, found a list (write each as "mx1:")`},
		{"all:\n  hosts: 5\n", `f.yaml:2: hosts: expected a map, found the number 5`},
		{"all:\n  children: [a]\n", `f.yaml:2: children: expected a map, found a list (write each as "a:")`},
		{"a:\n  children:\n    b:\nb:\n  children:\n    c:\nc:\n  children:\n    a:\n", `f.yaml:9: group loop: a > b > c > a`},
		{"a:\n  children:\n    a:\n", `f.yaml:3: group loop: a > a`},
		{"a:\n  children:\n    all:\n", `f.yaml:3: "all" holds every group and cannot be a child`},
		{"'web,db':\n", `f.yaml:1: "web,db" cannot be the name of a group: it means something else in a limit`},
		{"'~x':\n", `f.yaml:1: "~x" cannot be the name of a group: it means something else in a limit`},
		{"'':\n", `f.yaml:1: a group without a name`},
		{"a: {vars: {ansible_group_priority: high}}\n", `f.yaml:1: ansible_group_priority: expected a whole number, found the text "high"`},
		// Hosts.
		{"all:\n  hosts:\n    mx1:\n    mx1:\n", `f.yaml:4: key "mx1" is given twice, first in line 3`},
		{"all:\n  hosts:\n    mx1: 192.0.2.1\n", `f.yaml:3: host mx1: expected a map of variables, found the text "192.0.2.1"`},
		{"all:\n  hosts:\n    relays:\n      hosts:\n        mx1:\n", `f.yaml:4: "hosts" inside of host relays (a host holds its variables; a group stands under "children:")`},
		{"all:\n  hosts:\n    all:\n", `f.yaml:3: "all" is a group and cannot be a host`},
		{"all:\n  hosts:\n    mx1 mx2:\n", `f.yaml:3: host "mx1 mx2": names are letters, digits, dots, - and _, not ' '`},
		{"all:\n  hosts:\n    '*.example.org':\n", `f.yaml:3: host "*.example.org": names are letters, digits, dots, - and _, not '*'`},
		{"all:\n  hosts:\n    -oProxyCommand=x:\n", `f.yaml:3: host "-oProxyCommand=x": begins with -`},
		{"all:\n  hosts:\n    ../x:\n", `f.yaml:3: host "../x": begins with .`},
		{"all:\n  hosts:\n    '':\n", `f.yaml:3: host "": a host without a name`},
		{"all:\n  hosts:\n    mx1:70000:\n", `f.yaml:3: host mx1:70000: expected a port from 1 to 65535, found 70000`},
		{"all:\n  hosts:\n    mx[1:20:\n", `f.yaml:3: host mx[1:20: [ without ]`},
		{"all:\n  hosts:\n    mx1]:\n", `f.yaml:3: host mx1]: ] without [`},
		{"all:\n  hosts:\n    mx[5]:\n", `f.yaml:3: host mx[5]: a range is [begin:end] or [begin:end:step]`},
		{"all:\n  hosts:\n    mx[1:]:\n", `f.yaml:3: host mx[1:]: a range without an end`},
		{"all:\n  hosts:\n    mx[5:1]:\n", `f.yaml:3: host mx[5:1]: a range that begins after its end`},
		{"all:\n  hosts:\n    mx[d:a]:\n", `f.yaml:3: host mx[d:a]: a range that begins after its end`},
		{"all:\n  hosts:\n    mx[01:100]:\n", `f.yaml:3: host mx[01:100]: begin and end of a range with leading zeros are of one length`},
		{"all:\n  hosts:\n    mx[1:9:0]:\n", `f.yaml:3: host mx[1:9:0]: the step of a range is a whole number from 1`},
		{"all:\n  hosts:\n    mx[a:9]:\n", `f.yaml:3: host mx[a:9]: a range runs from number to number or from letter to letter`},
		{"all:\n  hosts:\n    mx[-1:9]:\n", `f.yaml:3: host mx[-1:9]: a range runs from number to number or from letter to letter`},
		{"all:\n  hosts:\n    mx[0:999999999]:\n", `f.yaml:3: host mx[0:999999999]: more than 100000 hosts`},
		{"all:\n  hosts:\n    mx[0:999]x[0:999]:\n", `f.yaml:3: host mx[0:999]x[0:999]: more than 100000 hosts`},
		// Connections.
		{"all:\n  vars:\n    ssh: root\n", `f.yaml:3: ssh: expected a map, found the text "root"`},
		{"all:\n  vars:\n    ssh:\n      prot: 22\n", `f.yaml:4: ssh: unknown key "prot" (did you mean "port"?)`},
		{"all:\n  vars:\n    ssh: {port: \"22\"}\n", `f.yaml:3: ssh: port: expected a whole number, found the text "22"`},
		{"all:\n  vars:\n    ssh: {port: 0}\n", `f.yaml:3: ssh: port: expected a port from 1 to 65535, found 0`},
		{"all:\n  vars:\n    ssh: {become: \"yes\"}\n", `f.yaml:3: ssh: become: expected true or false, found the text "yes"`},
		{"all:\n  vars:\n    ssh: {user: \"-x\"}\n", `f.yaml:3: ssh: user: begins with a dash: "-x"`},
		{"all:\n  vars:\n    ssh:\n      proxy_jump: -gate\n", `f.yaml:4: ssh: proxy_jump: begins with a dash: "-gate"`},
		{"all:\n  vars:\n    ssh: {password: hush}\n", `f.yaml:3: ssh: password: a password in clear (remove it; log in with a key or the ssh agent)`},
		{"all:\n  vars:\n    ssh: {user: a}\n    ansible_user: b\n", `f.yaml:4: ansible_user says again what ssh says`},
		{"all:\n  vars:\n    ansible_port: many\n", `f.yaml:3: ansible_port: expected a whole number, found the text "many"`},
		{"all:\n  vars:\n    ansible_port: 22.5\n", `f.yaml:3: ansible_port: expected a whole number, found the number 22.5`},
		{"all:\n  vars:\n    ansible_port: 65536\n", `f.yaml:3: ansible_port: expected a port from 1 to 65535, found 65536`},
		{"all:\n  vars:\n    ansible_host: [a]\n", `f.yaml:3: ansible_host: expected text, found a list`},
		{"all:\n  hosts: {mx1: }\n  vars:\n    ansible_host: '{{ name | lower }}'\n", `f.yaml:4: ansible_host: only references such as {{ name }} are evaluated in an inventory, not "{{ name | lower }}" (write the value itself, or a variable that holds it)`},
		{"all:\n  hosts: {mx1: }\n  vars:\n    postfix_stop: '{% if x %}a{% endif %}'\n", `f.yaml:4: postfix_stop: only references such as {{ name }} are evaluated in an inventory, not "{% if x %}a{% endif %}" (write the value itself, or a variable that holds it)`},
		{"all:\n  hosts: {mx1: {adress: 192.0.2.1}}\n  vars:\n    ansible_host: '{{ address }}'\n", `f.yaml:4: ansible_host: {{ address }}: nothing sets this variable for host mx1 (did you mean "adress"?)`},
		{"all:\n  hosts: {mx1: {a: '{{ b }}', b: 'x{{ a }}'}}\n  vars:\n    ansible_user: '{{ a }}'\n", `f.yaml:2: ansible_user: a variable that refers to itself: a > b > a`},
		{"all:\n  hosts: {mx1: {a: [1]}}\n  vars:\n    ansible_user: 'x{{ a }}'\n", `f.yaml:4: ansible_user: {{ a }} is a list or a map, and stands inside of a text`},
		{"all:\n  hosts: {mx1: {p: many}}\n  vars:\n    ansible_port: '{{ p }}'\n", `f.yaml:4: ansible_port: expected a whole number, found the text "many"`},
		{"all:\n  vars:\n    ansible_host: 'a b'\n", `f.yaml:3: ansible_host: a space in "a b"`},
		{"all:\n  vars:\n    ansible_user: \"a\\n\"\n", `f.yaml:3: ansible_user: control characters in "a\n"`},
		{"all:\n  vars:\n    ansible_become: maybe\n", `f.yaml:3: ansible_become: expected true or false, found the text "maybe"`},
		{"all:\n  vars:\n    ansible_become_method: enable\n", `f.yaml:3: ansible_become_method: "enable" is not supported (one of sudo, doas, su)`},
		{"all:\n  vars:\n    ansible_ssh_port: 22\n", `f.yaml:3: ansible_ssh_port is an old name (write "ansible_port")`},
		{"all:\n  vars:\n    ansible_ssh_common_args: -o ProxyCommand=\"nc %h\"\n", `f.yaml:3: ansible_ssh_common_args: which way it leads cannot be told (write -J HOST, or put ProxyCommand into ~/.ssh/config)`},
		{"all:\n  vars:\n    ansible_ssh_common_args: -J gate -J other\n", `f.yaml:3: ansible_ssh_common_args: which way it leads cannot be told (write -J HOST, or put ProxyCommand into ~/.ssh/config)`},
		{"all:\n  vars:\n    ansible_ssh_args: -J gate\n", `f.yaml:3: ansible_ssh_args: a jump host cannot stand here (write it into ansible_ssh_common_args, or ~/.ssh/config)`},
		{"all:\n  vars:\n    ssh: {proxy_jump: a}\n    ansible_ssh_common_args: -J b\n", `f.yaml:4: ansible_ssh_common_args says again what ssh says`},
		{"all:\n  vars:\n    ansible_password: hush\n", `f.yaml:3: ansible_password: a password in clear (remove it; log in with a key or the ssh agent)`},
		{"all:\n  vars:\n    ssh: {become_password: hush}\n", `f.yaml:3: ssh: become_password: a password in clear (remove it; give the password for becoming root with -K (--ask-become-pass) or --become-password-file)`},
		{"all:\n  vars:\n    ansible_become_password: hush\n", `f.yaml:3: ansible_become_password: a password in clear (remove it; give the password for becoming root with -K (--ask-become-pass) or --become-password-file)`},
		{"all:\n  hosts:\n    mx1:\n      ansible_become_pass: 1234\n", `f.yaml:4: ansible_become_pass: a password in clear (remove it; give the password for becoming root with -K (--ask-become-pass) or --become-password-file)`},
		{"all:\n  hosts: {mx1: }\n  vars:\n    postfix_stop: !vault x\n", `f.yaml:4: postfix_stop: encrypted by ansible-vault (give --vault-password-file FILE or --ask-vault-pass)`},
	} {
		_, _, err := parse(tt.text)
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q\ngot  %v\nwant %s", tt.text, err, tt.want)
		} else if !errors.As(err, new(*strict.Error)) {
			t.Errorf("%q gave a %T", tt.text, err)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("the error repeats a password: %v", err)
		}
	}
	for _, name := range passwords {
		if _, _, err := parse("all: {vars: {" + name + ": hush}}"); err == nil {
			t.Errorf("%s in clear is no error", name)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"queue_wran: 5", `f.yaml:3: variable "queue_wran" is not one of ours (did you mean "queue_warn"?)`},
		{"queue-warn: 5", `f.yaml:3: variable "queue-warn" is not one of ours (did you mean "queue_warn"?)`},
		{"postfix_stat: x", `f.yaml:3: variable "postfix_stat" is not one of ours (did you mean "postfix_start"?)`},
		{"ansible_prot: 22", `f.yaml:3: variable "ansible_prot" is not one of ours (did you mean "ansible_port"?)`},
		{"ansible_connection: local", `f.yaml:3: ansible_connection is not used (every host is reached by ssh)`},
		{"ansible_ssh_common_args: -o Compression=yes", `f.yaml:3: ansible_ssh_common_args is not used`},
		{"ansible_become_password: !vault x", `f.yaml:3: ansible_become_password is not used (give the password for becoming root with -K or --become-password-file, or the vault's with --vault-password-file)`},
		{"ansible_become_password: '{{ vault_password }}'", `f.yaml:3: ansible_become_password is not used (give the password for becoming root with -K or --become-password-file, or the vault's with --vault-password-file)`},
		{"ansible_ssh_common_args: -J gate -C", `f.yaml:3: ansible_ssh_common_args: only the jump host is used (the rest belongs into ~/.ssh/config)`},
		{"ansible_ssh_common_args: -J gate", ""}, {"ansible_ssh_common_args: -o ProxyJump=joe@gate:22,inner", ""},
		{"port: 5432", ""}, {"sshd: 1", ""}, {"queue: x", ""}, {"nginx_user: x", ""},
		{"ansible_connection: ssh", ""}, {"ansible_become_method: sudo", ""}, {"ansible_python_interpreter: /usr/bin/python3", ""},
		{"ansible_password: ''", ""}, {"ansible_password:", ""},
	} {
		_, warnings, err := parse("all:\n  vars:\n    " + tt.text + "\n")
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		got := ""
		for _, w := range warnings {
			got += w.String()
		}
		if got != tt.want {
			t.Errorf("%q\ngot  %s\nwant %s", tt.text, got, tt.want)
		}
	}
	_, warnings, err := parse("x: &x {queue_wran: 1}\nall: {}\n")
	if err == nil {
		t.Errorf("a group of variables is no error: %v", warnings)
	}
	_, warnings, err = parse("all:\n  hosts:\n    a: &x {queue_wran: 1}\n    b: {<<: *x}\n    c: *x\n")
	if err != nil || len(warnings) != 1 {
		t.Errorf("one place that three hosts use: %v %v, want one warning", warnings, err)
	}
	_, warnings, err = parse("mx:\n  hosts:\n    mx:\n")
	if want := `f.yaml:1: "mx" is the name of a group and of a host (a limit means the host, and after ! or & the group)`; err != nil || len(warnings) != 1 || warnings[0].String() != want {
		t.Errorf("got %v %v, want %s", warnings, err, want)
	}
}

func TestRanges(t *testing.T) {
	for _, tt := range []struct {
		key  string
		want []string
		port int64
	}{
		{"mx[01:03].example.org", []string{"mx01.example.org", "mx02.example.org", "mx03.example.org"}, 0},
		{"mx[8:11]", []string{"mx8", "mx9", "mx10", "mx11"}, 0},
		{"mx[:2]", []string{"mx0", "mx1", "mx2"}, 0},
		{"mx[01:10:4]", []string{"mx01", "mx05", "mx09"}, 0},
		{"db-[a:c]", []string{"db-a", "db-b", "db-c"}, 0},
		{"db-[a:g:3]", []string{"db-a", "db-d", "db-g"}, 0},
		{"x[y:B]", []string{"xy", "xz", "xA", "xB"}, 0},
		{"r[1:2]n[a:b]", []string{"r1na", "r1nb", "r2na", "r2nb"}, 0},
		{"mx[1:2]:2222", []string{"mx1", "mx2"}, 2222},
		{"mx1:2222", []string{"mx1"}, 2222},
		{"192.0.2.1", []string{"192.0.2.1"}, 0},
		{"2001:db8::1", []string{"2001:db8::1"}, 0},
		{"[2001:db8::1]:2222", []string{"2001:db8::1"}, 2222},
		{"[::1]", []string{"::1"}, 0},
	} {
		v, err := strict.Parse("f", []byte("'"+tt.key+"'"))
		if err != nil {
			t.Fatal(err)
		}
		got, port, err := expandHosts(v, maxHosts)
		if diff := cmp.Diff(tt.want, got); diff != "" || port != tt.port || err != nil {
			t.Errorf("%s: port %d, error %v, (-want +got):\n%s", tt.key, port, err, diff)
		}
	}
}

func TestKnownAlwaysThere(t *testing.T) {
	h := host(t, mustParse(t, "all: {vars: {queue_warn: 50, postfix_stop: }, hosts: {mx1: {}}}"), "mx1")
	for _, name := range known {
		want := any("")
		if name == "queue_warn" {
			want = int64(50)
		}
		if got, ok := h.Vars[name]; !ok || got != want {
			t.Errorf("%s is %#v, want %#v", name, got, want)
		}
		if (h.Origin(name) != nil) != (name == "queue_warn") {
			t.Errorf("%s: origin is %v", name, h.Origin(name))
		}
	}
	if got := h.Origin("queue_warn").Errorf("x").Error(); got != "f.yaml:1: x" {
		t.Errorf("an error in queue_warn stands at %q", got)
	}
}

// What one host's variables hold must not be shared with another's.
func TestVarsNotShared(t *testing.T) {
	inv := mustParse(t, "all: {vars: {list: [a]}, hosts: {'mx[1:2]': {m: {k: v}}}}")
	a, b := inv.Hosts()[0].Vars, inv.Hosts()[1].Vars
	a["list"].([]any)[0] = "changed"
	a["m"].(map[string]any)["k"] = "changed"
	if b["list"].([]any)[0] != "a" || b["m"].(map[string]any)["k"] != "v" {
		t.Errorf("the second host's variables changed with the first's: %v", b)
	}
}

func TestConnection(t *testing.T) {
	t.Setenv("HOME", "/home/admin")
	inv := mustParse(t, `
all:
  vars:
    ssh: {user: root, private_key: ~/.ssh/id_mail}
    ansible_become_user: root
relays:
  vars: {ansible_port: "2200", ansible_become: "yes"}
  hosts:
    mx1:
    mx2: {ssh: {port: 22, become: no, host: 192.0.2.2}, ansible_user: 1000}
    mx3:2222: {ansible_ssh_private_key_file: key, ansible_become_method: community.general.doas}
    mx4: {ssh: {become_method: su}}
`)
	yes, no := true, false
	for name, want := range map[string]Connection{
		"mx1": {Port: 2200, User: "root", PrivateKey: "/home/admin/.ssh/id_mail", Become: &yes, BecomeUser: "root"},
		"mx2": {Host: "192.0.2.2", Port: 22, User: "1000", PrivateKey: "/home/admin/.ssh/id_mail", Become: &no, BecomeUser: "root"},
		"mx3": {Port: 2222, User: "root", PrivateKey: "key", Become: &yes, BecomeMethod: "doas", BecomeUser: "root"},
		"mx4": {Port: 2200, User: "root", PrivateKey: "/home/admin/.ssh/id_mail", Become: &yes, BecomeMethod: "su", BecomeUser: "root"},
	} {
		if diff := cmp.Diff(want, host(t, inv, name).Connection); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestSeveralFiles(t *testing.T) {
	inv := mustParse(t,
		"all: {vars: {x: 1}, children: {relays: {hosts: {mx1: {y: 1}, mx2: {}}}}}",
		"relays: {vars: {x: 2}, hosts: {mx3: {}, mx1: {y: 2}}}",
	)
	if diff := cmp.Diff([]string{"mx1", "mx2", "mx3"}, names(inv.Hosts())); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	if h := host(t, inv, "mx1"); h.Vars["x"] != int64(2) || h.Vars["y"] != int64(2) || h.File != "f.yaml" {
		t.Errorf("mx1 of %s: %v, want the later file's variables", h.File, h.Vars)
	}
}

func TestLimit(t *testing.T) {
	inv := mustParse(t, `
all:
  hosts:
    chavez.mayfirst.org:
    peltier.mayfirst.org:
  children:
    relays:
      hosts: {"relay[01:03].example.org": }
      children: {east: {hosts: {"2001:db8::1": }}}
    empty:
`)
	for _, tt := range []struct {
		pattern string
		want    string // names, or the error
	}{
		{"all", "chavez.mayfirst.org peltier.mayfirst.org relay01.example.org relay02.example.org relay03.example.org 2001:db8::1"},
		{"*", "chavez.mayfirst.org peltier.mayfirst.org relay01.example.org relay02.example.org relay03.example.org 2001:db8::1"},
		{"chavez.mayfirst.org", "chavez.mayfirst.org"},
		{"peltier.mayfirst.org, chavez.mayfirst.org,peltier*", "peltier.mayfirst.org chavez.mayfirst.org"},
		{"*.mayfirst.org", "chavez.mayfirst.org peltier.mayfirst.org"},
		{"relay0?.example.org", "relay01.example.org relay02.example.org relay03.example.org"},
		{"relays", "relay01.example.org relay02.example.org relay03.example.org 2001:db8::1"},
		{"ea*", "2001:db8::1"},
		{"ungrouped", "chavez.mayfirst.org peltier.mayfirst.org"},
		{"2001:db8::1", "2001:db8::1"},

		{"", `limit is empty; for every host write "all"`},
		{" ", `limit is empty; for every host write "all"`},
		{"relays,", `limit "relays,": nothing stands before or after a comma`},
		{",", `limit ",": nothing stands before or after a comma`},
		{"relays,,east", `limit "relays,,east": nothing stands before or after a comma`},
		{"empty", `limit "empty": no host is in group empty`},
		{"chaves.mayfirst.org", `limit "chaves.mayfirst.org": no host or group is named "chaves.mayfirst.org" (did you mean "chavez.mayfirst.org"?)`},
		{"relay", `limit "relay": no host or group is named "relay" (did you mean "relays"?)`},
		{"relays,x", `limit "relays,x": no host or group is named "x"`},
		{"web*", `limit "web*": no host or group matches "web*"`},
		{"emp*", `limit "emp*": no host or group matches "emp*"`},
		{"relays,web*", `limit "relays,web*": no host or group matches "web*"`},
		{"CHAVEZ.mayfirst.org", `limit "CHAVEZ.mayfirst.org": no host or group is named "CHAVEZ.mayfirst.org" (did you mean "chavez.mayfirst.org"?)`},
		{"ungrouped:!chaves*", `limit "ungrouped:!chaves*": no host or group matches "chaves*"`},
		{"east:!east", `limit "east:!east": no host is left`},
		{"all:!", `limit "all:!": "!": nothing stands behind it`},
		{"~relay(", "limit \"~relay(\": \"~relay(\" is no regular expression (Go's, which has no look-around and no back references): error parsing regexp: missing closing ): `^(?:relay()`"},
		{"@retry", `limit "@retry": open retry: no such file or directory`},
		{"@", `limit "@": @ stands before the name of a file`},
		{"relays[9]", `limit "relays[9]": "relays[9]": relays names 4 hosts, numbered from 0`},
		{"relays[3:1]", `limit "relays[3:1]": "relays[3:1]": relays names 4 hosts, numbered from 0`},
		{"relays[0", `limit "relays[0": a bracket without its other one`},
		{`relay\*`, `limit "relay\\*": no host or group matches "relay\\*"`},
	} {
		hosts, err := inv.Limit(tt.pattern)
		got := strings.Join(names(hosts), " ")
		if err != nil {
			got = err.Error()
			if hosts != nil {
				t.Errorf("%q: hosts beside an error: %v", tt.pattern, names(hosts))
			}
		}
		if got != tt.want {
			t.Errorf("%q\ngot  %s\nwant %s", tt.pattern, got, tt.want)
		}
	}
	if _, err := mustParse(t, "all:\n").Limit("all"); err == nil || err.Error() != `limit "all": no host is in group all` {
		t.Errorf("all of an inventory without hosts: %v", err)
	}
}

func TestFind(t *testing.T) {
	folder, config := t.TempDir(), t.TempDir()
	t.Chdir(folder)
	t.Setenv("XDG_CONFIG_HOME", config)
	own := filepath.Join(config, "spoolsweep", Name)

	if _, err := Find(); err == nil || err.Error() != "no inventory: neither ./inventory.yaml nor "+own+" (name one: -i FILE)" {
		t.Errorf("none: %v", err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(own), 0o755), os.WriteFile(own, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(); got != own || err != nil {
		t.Errorf("the user's own: %q, %v", got, err)
	}
	if err := os.WriteFile(Name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(); got != Name || err != nil {
		t.Errorf("that of the folder: %q, %v", got, err)
	}
	// One that is not trusted is an error, not passed over.
	if err := os.Chmod(folder, 0o777); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(); err == nil || got != "" || !strings.HasSuffix(err.Error(), " is writable by everybody (if it is the right one: -i inventory.yaml)") {
		t.Errorf("in a folder that everybody may write: %q, %v", got, err)
	}
	if _, _, err := Load(known, Name); err == nil || !strings.HasSuffix(err.Error(), "the inventory is empty") {
		t.Errorf("named, it is read wherever it is: %v", err)
	}
	// A link to nowhere in the current folder is not passed over either.
	if err := errors.Join(os.Chmod(folder, 0o755), os.Remove(Name), os.Symlink("nowhere", Name)); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(); err == nil {
		t.Errorf("a link to nowhere: %q", got)
	}
}

func TestLoadNoFile(t *testing.T) {
	if _, _, err := Load(known, filepath.Join(t.TempDir(), "none.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	dir := t.TempDir()
	if _, _, err := Load(known, dir); err == nil || !strings.HasPrefix(err.Error(), dir+": no inventory is in this directory") {
		t.Errorf("a folder: %v", err)
	}
}

// FuzzLoad holds that no file makes the loader panic, and that in what it loads
// every host has all known variables, which are JSON, and is found by its name.
func FuzzLoad(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in testdata: %v", err)
	}
	for _, name := range append(seeds, "../../inventory.example.yaml") {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Add("a: {children: {b: {children: {a: }}}}")
	f.Add("all: {hosts: {'mx[01:03:2]x[a:c]:22': {ssh: {port: 1}}}}")
	f.Fuzz(func(t *testing.T, text string) {
		inv, _, err := parse(text)
		if err != nil {
			return
		}
		hosts := inv.Hosts()
		if len(hosts) > 1000 {
			return
		}
		sorted := func(hosts []*Host) []string { return slices.Sorted(slices.Values(names(hosts))) }
		if all, err := inv.Limit("all"); err != nil && len(hosts) > 0 || !slices.Equal(sorted(all), sorted(hosts)) {
			t.Errorf("all is %v, %v; want %v", names(all), err, names(hosts))
		}
		for _, h := range hosts {
			found, err := inv.Limit(h.Name)
			isGroup := slices.ContainsFunc(inv.Groups(), func(g *Group) bool { return g.Name == h.Name })
			if !isGroup && (err != nil || len(found) != 1 || found[0] != h) {
				t.Errorf("limit %q found %v, %v", h.Name, names(found), err)
			}
			if _, err := json.Marshal(h.Vars); err != nil {
				t.Errorf("%s: %v", h.Name, err)
			}
			for _, name := range known {
				if _, ok := h.Vars[name]; !ok {
					t.Errorf("%s has no %s", h.Name, name)
				}
			}
		}
	})
}

func TestJumpOf(t *testing.T) {
	for args, want := range map[string]string{
		"-J gate": "gate", "-Jgate": "gate", "-o ProxyJump=a,b": "a,b", "-oproxyjump=a": "a", "-C -J a -v": "a", "": "", "-C": "",
	} {
		if got, _, ok := jumpOf(args); !ok || got != want {
			t.Errorf("%q: %q, %v, want %q", args, got, ok, want)
		}
	}
	inv, _, err := parse("all:\n  vars: {ansible_ssh_common_args: -J gate}\n  hosts:\n    a:\n    b: {ansible_ssh_common_args: ''}\n    c: {ansible_ssh_common_args: -o ProxyJump=other}\n    d: {ssh: {proxy_jump: third}}\n")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"gate", "", "other", "third"} {
		if got := inv.Hosts()[i].Connection.ProxyJump; got != want {
			t.Errorf("host %s: %q, want %q", inv.Hosts()[i].Name, got, want)
		}
	}
}
