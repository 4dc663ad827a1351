package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/practice"
)

// The command and the service that ship are read by a real Nagios, which runs the
// plugin against hosts of each kind, and keeps state, text and performance data.
func TestNagios(t *testing.T) {
	t.Parallel()
	program := needs.Program(t, "nagios4")
	f := fleetOf(t, flooded, "quiet", "busy", "flooded", "stopped", "away")
	for i, n := range []int{10, 120, 300, 10} {
		if _, err := f.hosts[i].SubmitAll(practice.Incident(f.hosts[i].Name, demoAccount, n, uint64(n))); err != nil {
			t.Fatal(err)
		}
		if i < 3 {
			if err := f.hosts[i].Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.servers[4].Refuse(true)
	inventory, err := os.ReadFile(f.file(fleetInventory))
	if err != nil {
		t.Fatal(err)
	}
	f.write(fleetInventory, regexp.MustCompile(`( +)queue_warn: .*`).ReplaceAllString(string(inventory), "${1}queue_warn: 100\n${1}queue_crit: 200"))

	services := nagios(t, program, f)
	for _, row := range []struct {
		host, state, output, data string
	}{
		{"quiet", "0", `SPOOLSWEEP OK: 1 host, [0-9]+ messages queued`, `'quiet messages'=[0-9]+;;;0 'quiet fullest'=[0-9]+;100;200;0`},
		{"busy", "1", `SPOOLSWEEP WARNING: busy busy \([0-9]+ messages in [a-z ]+, more than 100\)`, `'busy messages'=[0-9]+;;;0 'busy fullest'=1[0-9][0-9];100;200;0`},
		{"flooded", "2", `SPOOLSWEEP CRITICAL: flooded flooded \([0-9]+ messages in [a-z ]+, more than 200\)`, `'flooded messages'=[0-9]+;;;0 'flooded fullest'=[23][0-9][0-9];100;200;0`},
		{"stopped", "2", `SPOOLSWEEP CRITICAL: stopped Postfix is stopped`, `'stopped messages'=10;;;0 'stopped fullest'=[0-9]+;100;200;0`},
		{"away", "3", `SPOOLSWEEP UNKNOWN: away unreachable \(.+\)`, ``},
	} {
		s := services[row.host]
		if s["current_state"] != row.state {
			t.Errorf("%s: state %s, want %s", row.host, s["current_state"], row.state)
		}
		for name, want := range map[string]string{"plugin_output": row.output, "performance_data": row.data} {
			if !regexp.MustCompile("^" + want + "$").MatchString(s[name]) {
				t.Errorf("%s: %s is\n%s\nwant\n%s", row.host, name, s[name], want)
			}
		}
		// What is told of the host behind the first line is text, all of it.
		if row.host != "away" && !strings.Contains(s["long_plugin_output"], "messages  ") {
			t.Errorf("%s: the long output is %q", row.host, s["long_plugin_output"])
		}
	}
}

// nagios runs a core of its own until each host's service was checked, and returns
// what its status file then says of these.
func nagios(t *testing.T, program string, f *fleet) map[string]map[string]string {
	t.Helper()
	shipped, err := os.ReadFile("../../playbooks/monitoring/nagios.cfg")
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	// A socket's name must be short.
	dir, err := os.MkdirTemp("", "nagios")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const installed, inventory = "/usr/local/bin/spoolsweep", "-i /etc/spoolsweep/inventory.yaml"
	if !strings.Contains(string(shipped), installed) || !strings.Contains(string(shipped), inventory) {
		t.Fatalf("neither %s nor %s:\n%s", installed, inventory, shipped)
	}
	objects := strings.NewReplacer(installed, built(t), inventory, strings.Join(append(f.where(), "--agent", built(t)), " ")).Replace(string(shipped))
	objects += `
define timeperiod {
    timeperiod_name  always
    alias            always
    sunday           00:00-24:00
    monday           00:00-24:00
    tuesday          00:00-24:00
    wednesday        00:00-24:00
    thursday         00:00-24:00
    friday           00:00-24:00
    saturday         00:00-24:00
}
define contact {
    contact_name                   nobody
    host_notifications_enabled     0
    service_notifications_enabled  0
    host_notification_period       always
    service_notification_period    always
    host_notification_options      n
    service_notification_options   n
    host_notification_commands     check_mail_queues
    service_notification_commands  check_mail_queues
}
define service {
    name                 generic-service
    check_period         always
    notification_period  always
    contacts             nobody
    register             0
}
define hostgroup {
    hostgroup_name  mail-servers
    alias           mail servers
}
`
	for _, h := range f.hosts {
		objects += fmt.Sprintf("define host {\n host_name %s\n address 127.0.0.1\n hostgroups mail-servers\n max_check_attempts 1\n check_period always\n contacts nobody\n notification_period always\n}\n", h.Name)
	}
	config := "cfg_file=DIR/objects.cfg\nresource_file=DIR/resource.cfg\nlog_file=DIR/nagios.log\nobject_cache_file=DIR/objects.cache\nstatus_file=DIR/status.dat\nstatus_update_interval=1\n" +
		"command_file=DIR/nagios.cmd\nquery_socket=DIR/nagios.qh\nlock_file=DIR/nagios.lock\ntemp_file=DIR/nagios.tmp\ntemp_path=DIR\nlog_archive_path=DIR\ncheck_result_path=DIR\n" +
		"interval_length=1\nretain_state_information=0\nuse_syslog=0\ncheck_for_updates=0\nenable_notifications=0\nservice_inter_check_delay_method=n\nnagios_user=" + me.Username + "\nnagios_group=" + group.Name + "\n"
	for name, text := range map[string]string{"objects.cfg": objects, "resource.cfg": "", "nagios.cfg": strings.ReplaceAll(config, "DIR", dir)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, filepath.Join(dir, "nagios.cfg"))
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends its workers, and who has begun us may ignore an interrupt
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // interrupted
		if t.Failed() {
			t.Logf("nagios: %s", &said)
		}
	})
	services := map[string]map[string]string{}
	eventually(t, "the first checks", func() (bool, error) {
		text, err := os.ReadFile(filepath.Join(dir, "status.dat"))
		for _, block := range strings.Split(string(text), "servicestatus {")[1:] {
			is := map[string]string{}
			for line := range strings.Lines(block) {
				if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
					is[name] = value
				}
			}
			if is["has_been_checked"] == "1" {
				services[is["host_name"]] = is
			}
		}
		return len(services) == len(f.hosts), err
	})
	return services
}
