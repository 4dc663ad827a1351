package remote

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab/needs"
)

// What we read must be what ssh reads. ssh -G prints paths before their tokens
// are replaced, so these are compared as they stand in the file.
func TestSSHConfigAgainstSSH(t *testing.T) {
	ssh := needs.Program(t, "ssh")
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("more.a", "Host inc*\n  User from-include\nHost *\n  IdentityFile /from/include\n")
	write("more.b", "Port 2200\n")
	for i, c := range []struct {
		text  string
		hosts []string
	}{
		{"", []string{"mx1", "MX1.Example.ORG"}},
		{"Host mx*\n  HostName %h.example.org\n  User root\n  Port 2222\nHost *\n User nobody\n Port 1\n", []string{"mx1", "MX1", "other"}},
		{"Host mx? !mx2\n User q\nHost !mx2 *\n Port 7\n", []string{"mx1", "mx2", "mx10"}},
		{"User=a\nHost x\n  User b\n", []string{"x"}},
		{"# comment\n\nhOsT \"a b\" x\n\tpOrT = 99 # why\n  IdentityFile \"/a b/c\"\n IdentityFile '/d e'\n IdentityFile /f\\ g\n", []string{"x", "y"}},
		{"Host x\n IdentityFile ~/.ssh/%h_%r\nHost *\n IdentityFile /two\n IdentityFile /three\n", []string{"x"}},
		{"Host x\n HostName real.example\nMatch host real.*\n User m\nMatch originalhost x user m\n Port 12\nMatch all\n Port 13\n", []string{"x", "real.example", "z"}},
		{"Match !host good,fine\n User bad\nMatch host *,!good\n Port 3\n", []string{"good", "fine", "other"}},
		{"Host inc\n Include " + dir + "/more.*\nHost *\n Port 5\n", []string{"inc", "other"}},
		{"Include " + dir + "/more.a " + dir + "/more.b\n", []string{"inc1", "other"}},
		{"IdentitiesOnly yes\nIdentityAgent none\nHostKeyAlias mail\nUserKnownHostsFile /a /b\nGlobalKnownHostsFile /c\n", []string{"x"}},
		{"IdentitiesOnly no\nIdentityAgent SSH_AUTH_SOCK\nHostName 10.0.0.1\n", []string{"x"}},
		{"Host ::1 fe80::1\n User v6\n", []string{"::1", "fe80::1"}},
		{"Host a*c*e\n User glob\nHost *\n User none\n", []string{"ace", "abcde", "abcdf", "aXcXcXe"}},
	} {
		file := write(fmt.Sprintf("config%d", i), c.text)
		for _, host := range c.hosts {
			out, err := exec.Command(ssh, "-G", "-F", file, host).Output()
			if err != nil {
				t.Fatalf("ssh -G -F FILE %s on\n%s: %v", host, c.text, err)
			}
			want := map[string][]string{}
			for line := range strings.Lines(string(out)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				switch key {
				case "hostname", "user", "port", "identityfile", "identitiesonly", "hostkeyalias":
					want[key] = append(want[key], value)
				case "identityagent":
					// Both are ways to say the default.
					if value != "SSH_AUTH_SOCK" {
						want[key] = append(want[key], value)
					}
				case "userknownhostsfile", "globalknownhostsfile":
					want[key] = strings.Fields(value)
				}
			}
			r := &sshConfig{alias: host, localUser: os.Getenv("USER"), home: "/nowhere", values: map[string][]string{}}
			if r.localUser == "" {
				r.localUser = localUser()
			}
			if err := r.read(file, 0); err != nil {
				t.Fatal(err)
			}
			s := r.settings()
			got := map[string][]string{
				"hostname": {s.HostName}, "user": {s.User}, "port": {fmt.Sprint(s.Port)},
				"identityfile": r.identity, "identitiesonly": {"no"},
			}
			if s.IdentitiesOnly {
				got["identitiesonly"] = []string{"yes"}
			}
			if s.IdentityAgent != "" {
				got["identityagent"] = []string{s.IdentityAgent}
			}
			if s.HostKeyAlias != "" {
				got["hostkeyalias"] = []string{s.HostKeyAlias}
			}
			// Where the file names none, ssh prints its defaults, which hold
			// kinds of keys that only its agent can use.
			if len(r.identity) == 0 {
				delete(want, "identityfile")
				delete(got, "identityfile")
			}
			for key, v := range map[string][]string{"userknownhostsfile": s.UserKnownHosts, "globalknownhostsfile": s.GlobalKnownHosts} {
				got[key] = v
				if _, set := r.values[key]; !set {
					delete(want, key)
					delete(got, key)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("host %s of\n%s\n(-ssh +ours)\n%s", host, c.text, d)
			}
			if len(s.Warnings) > 0 {
				t.Errorf("host %s of\n%s\nwarnings: %q", host, c.text, s.Warnings)
			}
		}
	}
}

func TestSSHConfigTokens(t *testing.T) {
	t.Setenv("KEYS", "/keys")
	file := filepath.Join(t.TempDir(), "config")
	text := "Host mx\n HostName %h.example.org\n User root\n Port 2222\n" +
		" IdentityFile ~/.ssh/%h_%r_%p_%n_%u_%%_%q\n IdentityFile %d/k\n IdentityFile ${KEYS}/a${NOT_SET}\n IdentityFile none\n" +
		" IdentityAgent ~/sock\n UserKnownHostsFile ~/kh none /b\n GlobalKnownHostsFile none\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readSSHConfig([]string{file}, "mx", "", 0, "me", "/home/me")
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		HostName: "mx.example.org", User: "root", Port: 2222,
		IdentityFiles:  []string{"/home/me/.ssh/mx.example.org_root_2222_mx_me_%_%q", "/home/me/k", "/keys/a${NOT_SET}"},
		Named:          3,
		IdentityAgent:  "/home/me/sock",
		UserKnownHosts: []string{"/home/me/kh", "/b"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}

	got, err = readSSHConfig([]string{file, "/does/not/exist"}, "mx", "joe", 22, "me", "/home/me")
	if err != nil || got.User != "joe" || got.Port != 22 {
		t.Errorf("given user and port do not win: %+v, %v", got, err)
	}
}

// What we do not understand is a warning, and everything else still counts.
func TestSSHConfigWarnings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	text := "Match exec \"true\"\n User wrong\nHost *\n Frobnicate yes\n User \"open\n Port 70000\n ProxyJump gate\n User right\n Include " + file + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readSSHConfig([]string{file}, "mx", "", 0, "me", dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.User != "right" || got.Port != 22 {
		t.Errorf("got user %q port %d, want right, 22", got.User, got.Port)
	}
	all := strings.Join(got.Warnings, "\n")
	for _, want := range []string{file + ":1: Match exec", file + ":5: no closing \"", "port 70000", "ProxyJump is not used yet", "nested too deeply"} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning with %q in\n%s", want, all)
		}
	}
}

// The law: a line taken apart, quoted and joined again is taken apart the same.
func FuzzSplitLine(f *testing.F) {
	for _, s := range []string{"Host a b", "User=x", `IdentityFile "a b" 'c' d\ e # f`, "Port = 22", `x "`, "=", `a \`, `"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		keyword, args, err := splitLine(line)
		if err != nil || keyword == "" {
			return
		}
		again := keyword
		for _, a := range args {
			again += ` "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a) + `"`
		}
		keyword2, args2, err := splitLine(again)
		if err != nil || keyword2 != strings.ToLower(strings.Trim(strings.TrimSpace(keyword), `"`)) || !cmp.Equal(args, args2) {
			t.Errorf("%q is %q %q, and joined again as %q: %q %q, %v", line, keyword, args, again, keyword2, args2, err)
		}
	})
}
