package spool

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const threeInstances = `-               -               y         /etc/postfix
postfix-out     mta             y         /etc/postfix-out
postfix-in      -               n         /etc/postfix-in
`

func TestParseInstances(t *testing.T) {
	for name, row := range map[string]struct {
		text string
		want []Instance
		says string // of the error
	}{
		"one":     {text: "-               -               y         /etc/postfix\n", want: []Instance{{"-", "/etc/postfix", true}}},
		"several": {text: threeInstances, want: []Instance{{"-", "/etc/postfix", true}, {"postfix-out", "/etc/postfix-out", true}, {"postfix-in", "/etc/postfix-in", false}}},
		// An instance without multi_instance_name stands there as the default one does.
		"unnamed":   {text: "- - n /etc/postfix\n- mta y /etc/postfix-out/\n", want: []Instance{{"-", "/etc/postfix", false}, {"postfix-out", "/etc/postfix-out", true}}},
		"none":      {text: "\n", says: "0 instances"},
		"too many":  {text: strings.Repeat(threeInstances, 40), says: "120 instances"},
		"twice":     {text: threeInstances + "- - y /opt/postfix-out\n", says: "two instances are called postfix-out.*multi_instance_name=postfix-NAME"},
		"a path":    {text: threeInstances + "../x - y /etc/x\n", says: "no name of a Postfix instance"},
		"relative":  {text: "- - y etc/postfix\n", says: "a line that is no instance"},
		"a warning": {text: threeInstances + "postmulti: warning: something else\n", says: "a line that is no instance"},
		"cut off":   {text: "- - y\n", says: "a line that is no instance"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseInstances(row.text)
			if !told(err, row.says) {
				t.Errorf("error %v, want %q", err, row.says)
			}
			if row.says == "" {
				if diff := cmp.Diff(row.want, got); diff != "" {
					t.Errorf("-want +got:\n%s", diff)
				}
			}
		})
	}
}

// told says whether an error and its remedy are as says wants; "" is for none.
func told(err error, says string) bool {
	if err == nil || says == "" {
		return err == nil && says == ""
	}
	return regexp.MustCompile(says).MatchString(err.Error() + " " + RemedyOf(err))
}

func TestChooseInstances(t *testing.T) {
	all, err := ParseInstances(threeInstances)
	if err != nil {
		t.Fatal(err)
	}
	disabled := slices.Clone(all)
	for i := range disabled {
		disabled[i].Enabled = false
	}
	for name, row := range map[string]struct {
		all    []Instance
		wanted []string
		want   []string // name and directory
		says   string
	}{
		"the enabled ones":   {all: all, want: []string{"- /etc/postfix", "postfix-out /etc/postfix-out"}},
		"named":              {all: all, wanted: []string{"postfix-in", "-"}, want: []string{"postfix-in /etc/postfix-in", "- /etc/postfix"}},
		"the only one":       {all: disabled[:1], want: []string{"- "}},
		"the only one named": {all: all[:1], wanted: []string{"-"}, want: []string{"- "}},
		"unknown":            {all: all, wanted: []string{"-", "postfix-web"}, says: `postfix_instances names "postfix-web".*it has -, postfix-out, postfix-in.*correct the host variable`},
		"unknown of one":     {all: all[:1], wanted: []string{"postfix-out"}, says: "it has - "},
		"none enabled":       {all: disabled, says: "no instance is enabled of -, postfix-out, postfix-in.*postfix_instances"},
	} {
		t.Run(name, func(t *testing.T) {
			chosen, err := ChooseInstances(row.all, row.wanted)
			if !told(err, row.says) {
				t.Errorf("error %v, want %q", err, row.says)
			}
			var got []string
			for _, in := range chosen {
				got = append(got, in.Name+" "+in.Directory)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// One instance whose main.cf cannot be read keeps postmulti from listing any;
// the programs here are stand-ins that answer as Postfix 3.7 does. The lab's
// tests do it with the real ones.
func TestInstancesOfThisHost(t *testing.T) {
	const broken = `case "$*" in
"-hx config_directory multi_instance_directories") echo /etc/postfix; echo "/etc/postfix-out, /etc/postfix-bad /etc/postfix-in" ;;
"-c /etc/postfix-out "*) echo postfix-mta; echo yes ;;
"-c /etc/postfix-in "*) echo; echo no ;;
*) exit 1 ;;
esac
`
	for name, row := range map[string]struct {
		postmulti, postconf string
		want                []Instance
	}{
		"listed":       {"echo '- - y /etc/postfix'; echo 'postfix-out mta n /etc/postfix-out'", "exit 1", []Instance{{"-", "/etc/postfix", true}, {"postfix-out", "/etc/postfix-out", false}}},
		"one broken":   {"exit 1", broken, []Instance{{"-", "/etc/postfix", true}, {"postfix-mta", "/etc/postfix-out", true}, {"postfix-bad", "/etc/postfix-bad", true}, {"postfix-in", "/etc/postfix-in", false}}},
		"the only one": {"exit 1", "echo /etc/postfix; echo", []Instance{{"-", "", true}}},
		// What is wrong with it is told when it is asked for its settings.
		"all broken": {"exit 1", "exit 1", []Instance{{"-", "", true}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"postfix": "", "postmulti": row.postmulti, "postconf": row.postconf} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", dir+":/usr/bin:/bin")
			got, err := Instances(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(row.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// fakePostfix puts stand-ins of Postfix's programs on PATH; postconf answers for
// all configuration directories that the queue directory is queue.
func fakePostfix(t *testing.T, queue string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	postconf := `for name; do case $name in
queue_directory) echo ` + queue + ` ;;
*hash_queue_depth) echo 1 ;;
*minfree|*limit) echo 0 ;;
*lifetime) echo 5d ;;
mail_owner) id -un ;;
*_*|mydomain|myhostname|mynetworks|mydestination) echo "$name" ;;
esac; done
`
	for file, text := range map[string]string{"postfix": "", "postmap": "", "postconf": postconf} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return dir
}

// Without its directory the commands would be for all instances of a host.
func TestCommandsNameTheInstance(t *testing.T) {
	dir := fakePostfix(t, t.TempDir())
	run := func(argv []string) string { return strings.ReplaceAll(strings.Join(argv, " "), dir+"/", "") }
	for _, row := range []struct {
		of                 Instance
		own                Commands
		stop, start, super string
	}{
		{Instance{}, Commands{}, "postfix stop", "postfix start", "postsuper"},
		{Instance{Directory: "/etc/p"}, Commands{Start: "go"}, "postfix -c /etc/p stop", "/bin/sh -c go", "postsuper -c /etc/p"},
		{Instance{Name: "-", Directory: "/etc/p"}, Commands{}, "postfix -c /etc/p stop", "postfix -c /etc/p start", "postsuper -c /etc/p"},
		{Instance{Name: "postfix-out", Directory: "/etc/o"}, Commands{Stop: "halt", Start: "go"}, "env MAIL_CONFIG=/etc/o /bin/sh -c halt", "env MAIL_CONFIG=/etc/o /bin/sh -c go", "postsuper -c /etc/o"},
	} {
		p, err := System(t.Context(), row.of, row.own)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := []string{run(p.Stop), run(p.Start), run(p.Super)}, []string{row.stop, row.start, row.super}; !cmp.Equal(got, want) {
			t.Errorf("%+v: commands %q, want %q", row.of, got, want)
		}
	}
}

// What systemd runs it stops and starts again, unless that would be all instances.
// Which unit a process is in is told by the test.
func TestStartedByAUnit(t *testing.T) {
	queue := t.TempDir()
	fakePostfix(t, queue)
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	master := filepath.Join(t.TempDir(), "master")
	must(os.Symlink(sleep, master))
	var masters []int
	for range 2 {
		cmd := exec.Command(master, "60")
		cmd.Dir, cmd.SysProcAttr = queue, &syscall.SysProcAttr{Setpgid: true}
		must(cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		masters = append(masters, cmd.Process.Pid)
	}
	must(os.Mkdir(filepath.Join(queue, "pid"), 0o755))
	must(os.WriteFile(filepath.Join(queue, "pid", "master.pid"), fmt.Appendf(nil, "%32d\n", masters[0]), 0o600))
	defer func() { unitOf = unitOfProcess }()
	own := Commands{Stop: "systemctl stop postfix", Start: "systemctl start postfix"}
	for _, row := range []struct {
		of      Instance
		own     Commands
		units   []string // of the two masters
		stop    string
		trouble string
	}{
		{Instance{}, Commands{}, []string{"postfix.service", "postfix.service"}, "systemctl stop postfix.service", ""},
		{Instance{"-", "/etc/p", true}, Commands{}, []string{"postfix@-.service", "postfix@postfix-out.service"}, "systemctl stop postfix@-.service", ""},
		{Instance{"postfix-out", "/etc/o", true}, Commands{}, []string{"postfix.service", "postfix.service"}, "systemctl stop postfix.service", "postfix.service runs several instances"},
		{Instance{"postfix-out", "/etc/o", true}, own, []string{"postfix.service", "postfix.service"}, "env MAIL_CONFIG=/etc/o /bin/sh -c systemctl stop postfix", ""},
		{Instance{"postfix-out", "/etc/o", true}, Commands{}, []string{"", "postfix.service"}, "postfix -c /etc/o stop", ""}, // by hand
	} {
		unitOf = func(pid int) string {
			if i := slices.Index(masters, pid); i >= 0 {
				return row.units[i]
			}
			return ""
		}
		p, err := System(t.Context(), row.of, row.own)
		must(err)
		stop := strings.Join(p.Stop, " ")
		if filepath.IsAbs(p.Stop[0]) {
			stop = strings.Join(append([]string{filepath.Base(p.Stop[0])}, p.Stop[1:]...), " ")
		}
		if stop != row.stop {
			t.Errorf("%+v in %q: stopped by %q, want %q", row.of, row.units, stop, row.stop)
		}
		found, _ := p.Configuration(t.Context())
		if (len(found) > 0) != (row.trouble != "") || len(found) > 0 && !strings.Contains(found[0].String(), row.trouble) {
			t.Errorf("%+v in %q: in the way is %v, want %q", row.of, row.units, found, row.trouble)
		}
	}
}
