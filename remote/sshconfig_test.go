package remote

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab/needs"
)

// configurations are texts, and the hosts for which ssh -G must say what we say.
// DIR is the folder that holds them, with the files more.a, more.b and so on.
var configurations = []struct {
	text  string
	hosts []string
}{
	{"", []string{"mx1", "MX1.Example.ORG"}},
	{"Host mx*\n  HostName %h.example.org\n  User root\n  Port 2222\nHost *\n User nobody\n Port 1\n", []string{"mx1", "MX1", "other"}},
	{"Host mx? !mx2\n User q\nHost !mx2 *\n Port 7\n", []string{"mx1", "mx2", "mx10"}},
	{"User=a\nHost x\n  User b\n", []string{"x"}},
	{"ControlMaster auto\nControlPersist 5m\nHost x\n HostName x.example\n Port 2200\n User me\n ControlPath /run/%C\nHost y\n ControlPath none\nHost *\n ControlPath \"/run/a b/%r@%h:%p %n %u %l %L %i %k %%\"\n", []string{"x", "y", "z"}},
	{"# comment\n\nhOsT \"a b\" x\n\tpOrT = 99 # why\n  IdentityFile \"/a b/c\"\n IdentityFile '/d e'\n IdentityFile /f\\ g\n", []string{"x", "y"}},
	{"Host x\n IdentityFile ~/.ssh/%h_%r\nHost *\n IdentityFile /two\n IdentityFile /three\n IdentityFile /two\n", []string{"x"}},
	{"Host x\n HostName real.example\nMatch host real.*\n User m\nMatch originalhost x user m\n Port 12\nMatch all\n Port 13\n", []string{"x", "real.example", "z"}},
	{"Match !host good,fine\n User bad\nMatch host *,!good\n Port 3\n", []string{"good", "fine", "other"}},
	{"Host inc\n Include DIR/more.*\nHost *\n Port 5\n", []string{"inc", "other"}},
	{"Include DIR/more.a DIR/more.b\n", []string{"inc1", "other"}},
	{"IdentitiesOnly yes\nIdentityAgent none\nHostKeyAlias mail\nUserKnownHostsFile /a /b\nGlobalKnownHostsFile /c\n", []string{"x"}},
	{"IdentitiesOnly no\nIdentityAgent SSH_AUTH_SOCK\nHostName 10.0.0.1\n", []string{"x"}},
	{"Host ::1 fe80::1\n User v6\n", []string{"::1", "fe80::1"}},
	{"Host a*c*e\n User glob\nHost *\n User none\n", []string{"ace", "abcde", "abcdf", "aXcXcXe"}},
	// Match and its criteria.
	{"Match exec \"true\"\n User yes\nMatch exec false\n Port 9\nMatch !exec false\n Port 10\n", []string{"x"}},
	{"Match exec \"test %h = x.example\"\n Port 4\nMatch exec \"test %n = other\"\n Port 5\nMatch exec \"test %r-%p-%% = root-22-%%\"\n IdentityFile /root\nMatch exec \"test %r-%% = %u-%%\"\n IdentityFile /exec\n", []string{"x", "x.example", "other"}},
	{"Match host nobody exec \"touch DIR/ran\"\n User bad\nMatch all\n User good\n", []string{"x"}},
	{"Match final\n User late\nMatch !final\n Port 77\n", []string{"x"}},
	{"Match final host real.example\n User late\nHost x\n HostName real.example\n", []string{"x", "real.example", "y"}},
	{"Host x\n IdentityFile /one\n CertificateFile /c1\nMatch final all\n IdentityFile /two\n CertificateFile /c2\n IdentityFile /one\n", []string{"x", "y"}},
	{"Match canonical\n User bad\nMatch !canonical\n User good\n", []string{"x"}},
	{"Match canonical all\n User bad\nMatch all\n Port 8\n", []string{"x"}},
	{"Match host X.EXAMPLE originalhost x.*\n User low\n", []string{"x.example", "X.Example", "y"}},
	{"Match localuser root,nobody,%u\n Port 91\nMatch localuser !root,*\n Port 92\n", []string{"x"}},
	{"Host x\n User root\nMatch user root\n Port 2\nMatch user !root,*\n Port 3\nMatch user ROOT\n Port 4\n", []string{"x", "y"}},
	{"Match user=root host=x\n Port 5\n", []string{"x", "y"}},
	{"Match originalhost x\n Include DIR/more.c\n Port 1\n", []string{"x", "y"}},
	{"Match host \"a,b\" # comment\n Port 6\n", []string{"a", "b", "c"}},
	{"Host outer\n Include DIR/more.d\nMatch all\n Port 44\n", []string{"outer", "other"}},
	{"Host x\n HostName y\nHost y\n User wrong\nMatch host y\n User right\n", []string{"x", "y"}},
	// Jumps and commands.
	{"Host x\n ProxyJump gate\nHost *\n ProxyJump other\n", []string{"x", "y"}},
	{"ProxyJump a,root@b:2222,[::1]:22\n", []string{"x"}},
	{"ProxyJump ssh://joe@gate:2200\n", []string{"x"}},
	{"Host x\n ProxyJump none\nHost *\n ProxyJump gate # the way in\n", []string{"x", "y"}},
	{"Host x\n ProxyCommand none\nHost *\n ProxyJump gate\n", []string{"x", "y"}},
	{"ProxyJump gate\nProxyCommand nc %h %p\n", []string{"x"}},
	{"ProxyCommand ssh -W \"[%h]:%p\" gate # not a comment\nProxyJump gate\n", []string{"x"}},
	{"ProxyCommand=nc 'it''s %n' %r\n", []string{"x"}},
	{"Host x\n ProxyCommand NONE\nHost *\n ProxyCommand nc %h %p\n", []string{"x", "y"}},
	// Keys of users and hosts.
	{"CertificateFile ~/.ssh/c-cert.pub\nCertificateFile \"/a b\"\nCertificateFile ~/.ssh/c-cert.pub\n", []string{"x"}},
	{"HostKeyAlias MAIL.Example\n", []string{"x"}},
	{"StrictHostKeyChecking yes\n", []string{"x"}},
	{"Host a\n StrictHostKeyChecking accept-new\nHost b\n StrictHostKeyChecking No\nHost c\n StrictHostKeyChecking off\nHost d\n StrictHostKeyChecking ask\nHost e\n StrictHostKeyChecking true\n", []string{"a", "b", "c", "d", "e", "f"}},
	{"HostKeyAlgorithms ssh-ed25519,rsa-sha2-512\n", []string{"x"}},
	{"Host a\n HostKeyAlgorithms +ssh-rsa\nHost b\n HostKeyAlgorithms -*cert*,ecdsa-*\nHost c\n HostKeyAlgorithms ^rsa-sha2-256,ssh-ed25519\nHost d\n HostKeyAlgorithms ssh-ed25519*\n", []string{"a", "b", "c", "d", "e"}},
	{"UserKnownHostsFile none\nGlobalKnownHostsFile /dev/null\n", []string{"x"}},
	{"IdentityAgent /run/agent\nIdentitiesOnly true\n", []string{"x"}},
	{"IdentityAgent $AGENT\nIdentitiesOnly false\n", []string{"x"}},
	// Connections.
	{"ConnectTimeout 7\nServerAliveInterval 15\nServerAliveCountMax 4\n", []string{"x"}},
	{"ConnectTimeout 1m30\nServerAliveInterval 1h5s\n", []string{"x"}},
	{"Host a\n ConnectTimeout none\nHost *\n ConnectTimeout 9\n", []string{"a", "b"}},
	{"Host a\n AddressFamily inet\nHost b\n AddressFamily inet6\nHost c\n AddressFamily ANY\n", []string{"a", "b", "c", "d"}},
	{"BindAddress 127.0.0.1\nTCPKeepAlive no\n", []string{"x"}},
	{"HostName 0:0:0:0:0:0:0:1\nPort 65535\n", []string{"x"}},
	{"Host 2001:db8::*\n User v6\nMatch host ::1\n User own\n", []string{"2001:db8::5", "0:0::1"}},
	{"HostName %h%%x.example\n", []string{"x"}},
	{"HostName FOO.Example\nUser \"joe doe\"\n", []string{"x"}},
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// What we read must be what ssh reads. ssh -G prints paths before their tokens
// are replaced, so these are compared as they stand in the file.
func TestSSHConfigAgainstSSH(t *testing.T) {
	ssh := needs.Program(t, "ssh")
	t.Setenv("AGENT", "/agent")
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"more.a": "Host inc*\n  User from-include\nHost *\n  IdentityFile /from/include\n",
		"more.b": "Port 2200\n",
		"more.c": "Match final\n User asked-for-from-an-included-file\n",
		"more.d": "Host other\n User wrong\nHost outer\n User right\n Include DIR/more.e\nHost *\n IdentityFile /last\n",
		"more.e": "Host nobody\n Port 1\n",
	})
	query := func(args ...string) map[string][]string {
		out, err := exec.Command(ssh, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ssh %q: %v: %s", args, err, out)
		}
		lines := map[string][]string{}
		for line := range strings.Lines(string(out)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			lines[key] = append(lines[key], value)
		}
		return lines
	}
	defaults := strings.Split(query("-G", "-F", "none", "x")["hostkeyalgorithms"][0], ",")
	list, err := exec.Command(ssh, "-Q", "HostKeyAlgorithms").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Fields(string(list))
	for i, c := range configurations {
		name := fmt.Sprintf("config%d", i)
		writeFiles(t, dir, map[string]string{name: c.text})
		file := filepath.Join(dir, name)
		for _, host := range c.hosts {
			said := query("-G", "-F", file, host)
			r := &sshConfig{files: new(configFiles), alias: host, localUser: localUser(), home: "/nowhere", ctx: t.Context(), values: map[string]option{}}
			if err := r.resolve([]string{file}); err != nil {
				t.Fatal(err)
			}
			s, err := r.settings()
			if err != nil {
				t.Errorf("host %s of\n%s\n%v", host, c.text, err)
				continue
			}
			got := map[string][]string{
				"hostname": {s.HostName}, "user": {s.User}, "port": {fmt.Sprint(s.Port)}, "addressfamily": {s.AddressFamily},
				"identityfile": r.identity, "certificatefile": r.certificates, "identitiesonly": {"no"},
				"connecttimeout":      {strings.TrimSuffix(fmt.Sprint(s.ConnectTimeout.Seconds()), ".0")},
				"serveraliveinterval": {fmt.Sprint(s.ServerAliveInterval.Seconds())}, "serveralivecountmax": {fmt.Sprint(s.ServerAliveCountMax)},
				"stricthostkeychecking": {map[string]string{"yes": "true", "no": "false"}[s.StrictHostKeyChecking]},
			}
			if got["stricthostkeychecking"][0] == "" {
				got["stricthostkeychecking"][0] = s.StrictHostKeyChecking
			}
			if s.ConnectTimeout == 0 {
				got["connecttimeout"] = []string{"none"}
			}
			if s.IdentitiesOnly {
				got["identitiesonly"] = []string{"yes"}
			}
			for key, v := range map[string]string{"identityagent": r.first("identityagent"), "hostkeyalias": s.HostKeyAlias, "bindaddress": s.BindAddress, "proxyjump": strings.TrimPrefix(s.ProxyJump, "ssh://"), "controlpath": s.ControlPath} {
				if v != "" {
					got[key] = []string{v}
				}
			}
			if s.ProxyCommand != "" {
				got["proxycommand"] = []string{r.first("proxy")} // before its tokens are replaced
			}
			got["hostkeyalgorithms"] = []string{strings.Join(assemble(s.HostKeyAlgorithms, defaults, all), ",")}
			for _, key := range []string{"userknownhostsfile", "globalknownhostsfile"} {
				if _, set := r.values[key]; set {
					got[key] = []string{strings.Join(r.values[key].args, " ")}
				} else {
					delete(said, key)
				}
			}
			// Where the file names none, ssh prints its defaults, which hold
			// kinds of keys that only its agent can use.
			if len(r.identity) == 0 {
				delete(said, "identityfile")
			}
			want := map[string][]string{}
			for _, key := range []string{"hostname", "user", "port", "addressfamily", "bindaddress", "identityfile", "certificatefile", "identitiesonly", "identityagent",
				"connecttimeout", "serveraliveinterval", "serveralivecountmax", "stricthostkeychecking", "hostkeyalias", "hostkeyalgorithms",
				"userknownhostsfile", "globalknownhostsfile", "proxyjump", "proxycommand", "controlpath"} {
				if len(said[key]) > 0 {
					want[key] = said[key]
				}
				if len(got[key]) == 0 {
					delete(got, key)
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("host %s of\n%s\n(-ssh +ours)\n%s", host, c.text, d)
			}
			if len(s.Warnings) > 0 && s.StrictHostKeyChecking != "no" {
				t.Errorf("host %s of\n%s\nwarnings: %q", host, c.text, s.Warnings)
			}
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "ran")); err == nil {
		t.Error("Match exec was run after what did not match")
	}
	t.Logf("%d configurations compared", len(configurations))
}

func read(t *testing.T, text string, target Target) (settings, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return new(configFiles).readSSHConfig(t.Context(), []string{file, "/does/not/exist"}, true, target, "me", "/home/me")
}

func TestSSHConfigTokens(t *testing.T) {
	t.Setenv("KEYS", "/keys")
	text := "Host mx\n HostName %h.example.org\n User root\n Port 2222\n" +
		" IdentityFile ~/.ssh/%h_%r_%p_%n_%u_%%_%q\n IdentityFile %d/k\n IdentityFile ${KEYS}/a${NOT_SET}\n IdentityFile none\n CertificateFile %d/%h-cert.pub\n" +
		" IdentityAgent ~/sock\n UserKnownHostsFile ~/kh none /b\n GlobalKnownHostsFile none\n ProxyCommand nc -q 5% %h %p %n %r %k %% %d\n"
	got, err := read(t, text, Target{Host: "mx"})
	if err != nil {
		t.Fatal(err)
	}
	want := settings{
		HostName: "mx.example.org", User: "root", Port: 2222, AddressFamily: "any", StrictHostKeyChecking: "ask", ServerAliveCountMax: 3,
		IdentityFiles:    []string{"/home/me/.ssh/mx.example.org_root_2222_mx_me_%_%q", "/home/me/k", "/keys/a${NOT_SET}"},
		Named:            3,
		CertificateFiles: []string{"/home/me/mx.example.org-cert.pub"},
		IdentityAgent:    "/home/me/sock",
		UserKnownHosts:   []string{"/home/me/kh", "/b"},
		ProxyCommand:     "nc -q 5% mx.example.org 2222 mx root mx % %d",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got)\n%s", d)
	}
	got, err = read(t, text, Target{Host: "mx", User: "joe", Port: 22, ProxyJump: "gate"})
	if err != nil || got.User != "joe" || got.Port != 22 || got.ProxyJump != "gate" || got.ProxyCommand != "" {
		t.Errorf("given user, port and jump do not win: %+v, %v", got, err)
	}
}

// What stands for a host goes into a shell's command: no name may be one itself.
func TestSSHConfigShell(t *testing.T) {
	for _, bad := range []string{"x;touch y", "$(id)", "`id`", "-oProxyCommand=x", "a b", "a\nb", "x|y", "x&", "x'y", "x\\"} {
		if s, err := read(t, "ProxyCommand nc %h %p\n", Target{Host: bad}); err == nil || !strings.Contains(err.Error(), "config:1: ProxyCommand") {
			t.Errorf("host %q: %+v, %v", bad, s, err)
		}
		s, err := read(t, "Match exec \"test -n %n\"\n User bad\n", Target{Host: bad})
		if err != nil || s.User == "bad" || len(s.Warnings) != 1 {
			t.Errorf("host %q: %+v, %v", bad, s, err)
		}
	}
	if s, err := read(t, "HostName fe80::1%%eth0\nProxyCommand nc %h %p\n", Target{Host: "x"}); err != nil || s.ProxyCommand != "nc fe80::1%eth0 22" {
		t.Errorf("%+v, %v", s, err)
	}
}

// What we do not understand is a warning, and everything else still counts.
func TestSSHConfigWarnings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config")
	text := "Match tagged x\n User wrong\nHost *\n Frobnicate yes\n User \"open\n Port 70000\n PKCS11Provider /lib/p11.so\n User right\n Include " + file + "\n StrictHostKeyChecking no\nStrictHostKeyChecking maybe\nServerAliveInterval soon\nMatch all host x\n Port 1\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := new(configFiles).readSSHConfig(t.Context(), []string{file}, true, Target{Host: "mx"}, "me", dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.User != "right" || got.Port != 22 {
		t.Errorf("got user %q port %d, want right, 22", got.User, got.Port)
	}
	all := strings.Join(got.Warnings, "\n")
	for _, want := range []string{":1: Match tagged", ":5: no closing \"", ":6: port 70000", ":7: PKCS11Provider", "nested too deeply", ":10: StrictHostKeyChecking no", ":12: serveraliveinterval: soon", ":13: Match all"} {
		if !strings.Contains(all, file+want) && !strings.Contains(all, want) {
			t.Errorf("no warning with %q in\n%s", want, all)
		}
	}
}

// What would lead to another place is an error with its line.
func TestSSHConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		"\nProxyCommand x\nProxyUseFdpass yes\n": "config:3: ProxyUseFdpass",
		"ProxyJump a,,b\n":                       "config:1: ProxyJump a,,b",
		"ProxyJump a:0\n":                        "config:1: ProxyJump a:0",
		"ProxyJump -x\n":                         "config:1: ProxyJump -x",
		"ProxyJump @x\n":                         "config:1: ProxyJump @x",
	} {
		if s, err := read(t, text, Target{Host: "x"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("User x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := new(configFiles).readSSHConfig(t.Context(), []string{file}, true, Target{Host: "x"}, "me", "/home/me"); err == nil || !strings.Contains(err.Error(), file+": others") {
		t.Errorf("anybody may write to it: %v", err)
	}
	if _, err := new(configFiles).readSSHConfig(t.Context(), []string{file}, false, Target{Host: "x"}, "me", "/home/me"); err != nil {
		t.Errorf("one that was named, as with ssh -F: %v", err)
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "10": 10 * time.Second, "1m30": 90 * time.Second, "1H2M3S": time.Hour + 2*time.Minute + 3*time.Second, "1w1d": 8 * 24 * time.Hour,
		"": -1, "x": -1, "1x": -1, "m": -1, "-1": -1, "99999999999": -1, "9999999w": -1,
	} {
		got, err := parseTime(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// The law: a time in seconds is the same time, and none is below zero.
func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"0", "1m30", "1h2m3s", "2w", "x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseTime(text)
		if err != nil {
			return
		}
		if again, err := parseTime(fmt.Sprint(int64(d / time.Second))); err != nil || again != d || d < 0 {
			t.Errorf("%q is %v, and in seconds %v, %v", text, d, again, err)
		}
	})
}

// The law: a line taken apart, quoted and joined again is taken apart the same. A
// keyword is letters: others are in no list of ssh's.
func FuzzSplitLine(f *testing.F) {
	for _, s := range []string{"Host a b", "User=x", `IdentityFile "a b" 'c' d\ e # f`, "Port = 22", `x "`, "=", `a \`, `"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		keyword, _, args, err := splitLine(line)
		if err != nil || keyword == "" || strings.Trim(keyword, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			return
		}
		again := keyword
		for _, a := range args {
			again += ` "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(a) + `"`
		}
		keyword2, _, args2, err := splitLine(again)
		if err != nil || keyword2 != keyword || !cmp.Equal(args, args2) {
			t.Errorf("%q is %q %q, and joined again as %q: %q %q, %v", line, keyword, args, again, keyword2, args2, err)
		}
	})
}

// The law: the hops of a jump, written again, are the same hops.
func FuzzLastHop(f *testing.F) {
	for _, s := range []string{"a", "a,b", "root@b:22", "[::1]:22", "::1", "ssh://u@h:2/", "@", ",", "a:0", "u@[x]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, jump string) {
		h, before, err := lastHop(jump)
		if err != nil || strings.ContainsAny(h.host, "[]") {
			return
		}
		again := h.host
		if strings.Contains(again, ":") {
			again = "[" + again + "]"
		}
		if h.port != 0 {
			again += fmt.Sprint(":", h.port)
		}
		if h.user != "" {
			again = h.user + "@" + again
		}
		if strings.HasPrefix(again, "ssh://") {
			return
		}
		if before != "" {
			again = before + "," + again
		}
		if h2, before2, err := lastHop(again); err != nil || h2 != h || before2 != before {
			t.Errorf("%q is %+v after %q, and again as %q: %+v after %q, %v", jump, h, before, again, h2, before2, err)
		}
	})
}

// A thousand hosts in one file are a thousand readings of it.
func BenchmarkSSHConfig(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&text, "Host mx%04d\n  HostName 192.0.2.1\n  User root\n  IdentityFile ~/.ssh/id_ed25519\n  IdentitiesOnly yes\n", i)
	}
	file := filepath.Join(b.TempDir(), "config")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		files := new(configFiles)
		for i := range 1000 {
			s, err := files.readSSHConfig(b.Context(), []string{file}, false, Target{Host: fmt.Sprintf("mx%04d", i)}, "me", "/home/me")
			if err != nil || s.User != "root" {
				b.Fatal(s, err)
			}
		}
	}
}

// A file is split once for all hosts; one that has changed is not the one that was split.
func TestSSHConfigChanged(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config")
	files := new(configFiles)
	for _, row := range []struct{ text, host, user string }{
		{"Host a\nUser one\nHost b\nUser two\n", "a", "one"},
		{"Host a\nUser one\nHost b\nUser two\n", "b", "two"},
		{"User three\n", "a", "three"},
		{"", "a", "me"},
	} {
		if err := os.WriteFile(file, []byte(row.text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := files.readSSHConfig(t.Context(), []string{file}, false, Target{Host: row.host}, "me", "/home/me")
		if err != nil || s.User != row.user {
			t.Errorf("%s of %q: %q, %v", row.host, row.text, s.User, err)
		}
	}
}
