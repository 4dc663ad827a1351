package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Settings are what a Postfix says of itself (postconf(5)).
type Settings struct {
	Version         string   `json:"version"`
	ConfigDirectory string   `json:"config_directory,omitempty"` // "" is the default one
	LogName         string   `json:"-"`                          // syslog_name
	QueueDirectory  string   `json:"queue_directory"`
	DaemonDirectory string   `json:"-"` // where master's children lie; "" is for practice
	Owner           int      `json:"-"` // uid of mail_owner
	HashNames       []string `json:"-"` // hash_queue_names
	HashDepth       int      `json:"-"` // hash_queue_depth
	LogFile         string   `json:"-"` // maillog_file, "" is syslog
	MinFree         int64    `json:"-"` // queue_minfree, bytes
	SizeLimit       int64    `json:"-"` // message_size_limit, bytes
	// Lifetime and BounceLifetime are maximal_queue_lifetime and
	// bounce_queue_lifetime.
	Lifetime, BounceLifetime time.Duration `json:"-"`
	// Networks and Domains are this server's own: mynetworks, and the domains
	// it is the end of as far as main.cf names them itself, not in tables.
	Networks []netip.Prefix `json:"-"`
	Domains  []string       `json:"-"`
}

// Postfix is one instance on this host, real or for practice.
type Postfix struct {
	Settings
	// Stop and Start are the commands; none: whatever owns the running master,
	// its systemd unit or postfix(1) itself.
	Stop, Start []string
	// Super is postsuper(1) with the arguments that name the instance.
	Super []string
	// Status, if set, is asked too: exit status 0 means that it runs.
	Status []string
	// Master and Manager are the command names of master(8) and qmgr(8) in the
	// process table; "" takes any, as for practice.
	Master, Manager string

	instance  string   // its name where a host has several, else ""
	shared    string   // the systemd unit that runs other instances too: it would stop them as well
	postconf  []string // the command that asks for this instance's settings; nil for practice
	directory string   // of main.cf and master.cf
}

// Commands are host variables that replace the ways of System; each is one
// line for /bin/sh, "" for none. Where a host has several instances MAIL_CONFIG
// says which one is meant: 'postfix stop' then is for that one.
type Commands struct{ Stop, Start, Status string }

const (
	postconfLimit = 10 * time.Second
	statusLimit   = 10 * time.Second

	sbin = "/usr/sbin:/sbin:/usr/local/sbin"
)

// findPostfix is where postfix(1) is.
func findPostfix() (string, error) {
	path, err := lookPath("postfix", sbin)
	if err != nil {
		return "", Remedied(fmt.Errorf("no Postfix on this host: %w", err), "install it, or leave the host out with --limit")
	}
	return path, nil
}

// settingNames are what postconf(1) is asked for, all at once.
var settingNames = []string{
	"config_directory", "syslog_name", "mail_version", "queue_directory", "daemon_directory", "mail_owner", "hash_queue_names", "hash_queue_depth", "maillog_file",
	"queue_minfree", "message_size_limit", "maximal_queue_lifetime", "bounce_queue_lifetime", "multi_instance_directories", "mynetworks", "myhostname", "mydomain", "mydestination",
	"virtual_mailbox_domains", "virtual_alias_domains", "relay_domains",
}

// System asks one Postfix of this host for its settings. Of several each is
// spoken to by its directory: without it 'postfix stop' stops all of them where
// multi_instance_wrapper is set (postfix.c).
func System(ctx context.Context, of Instance, own Commands) (*Postfix, error) {
	return new(Answers).System(ctx, of, own)
}

// postconf is the command that asks for the settings in a configuration directory.
func postconf(postfix, directory string) []string {
	argv := []string{filepath.Join(filepath.Dir(postfix), "postconf")}
	if directory != "" {
		argv = append(argv, "-c", directory)
	}
	return append(argv, "-hx")
}

// settings asks postconf(1) for the values of settingNames.
func settings(ctx context.Context, postfix, directory string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, postconfLimit)
	defer cancel()
	argv := postconf(postfix, directory)
	cmd := exec.CommandContext(ctx, argv[0], append(argv[1:len(argv):len(argv)], settingNames...)...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, Remedied(fmt.Errorf("the configuration of Postfix cannot be read: %s: %w: %s",
			strings.Join(argv, " "), err, bytes.TrimSpace(complaint.Bytes())), mend(directory))
	}
	values := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(values) != len(settingNames) {
		return nil, fmt.Errorf("%s: %d values for %d names: %s", argv[0], len(values), len(settingNames), bytes.TrimSpace(complaint.Bytes()))
	}
	value := map[string]string{}
	for i, name := range settingNames {
		value[name] = strings.TrimSpace(values[i])
	}
	return value, nil
}

// system is the Postfix that has these settings.
func system(ctx context.Context, postfix string, value map[string]string, of Instance, own Commands) (*Postfix, error) {
	ctx, cancel := context.WithTimeout(ctx, postconfLimit)
	defer cancel()
	with := []string{postfix}
	if of.Directory != "" {
		with = append(with, "-c", of.Directory)
	}
	var err error
	p := &Postfix{
		Settings: Settings{
			Version: value["mail_version"], ConfigDirectory: of.Directory, LogName: value["syslog_name"],
			QueueDirectory: value["queue_directory"], DaemonDirectory: value["daemon_directory"], HashNames: words(value["hash_queue_names"]),
			LogFile: value["maillog_file"], Networks: networks(value["mynetworks"]),
		},
		Super: append([]string{filepath.Join(filepath.Dir(postfix), "postsuper")}, with[1:]...),
		Stop:  of.shell(own.Stop), Start: of.shell(own.Start), Status: of.shell(own.Status),
		Master: "master", Manager: "qmgr", instance: of.Name, directory: value["config_directory"],
	}
	argv := postconf(postfix, of.Directory)
	p.postconf = argv[:len(argv)-1]
	if p.HashDepth, err = strconv.Atoi(value["hash_queue_depth"]); err != nil {
		return nil, Remedied(fmt.Errorf("hash_queue_depth: %w", err), mend(of.Directory))
	}
	if p.MinFree, err = strconv.ParseInt(value["queue_minfree"], 10, 64); err != nil {
		return nil, Remedied(fmt.Errorf("queue_minfree: %w", err), mend(of.Directory))
	}
	if p.SizeLimit, err = strconv.ParseInt(value["message_size_limit"], 10, 64); err != nil {
		return nil, Remedied(fmt.Errorf("message_size_limit: %w", err), mend(of.Directory))
	}
	if p.Lifetime, err = days(value["maximal_queue_lifetime"]); err != nil {
		return nil, Remedied(fmt.Errorf("maximal_queue_lifetime: %w", err), mend(of.Directory))
	}
	if p.BounceLifetime, err = days(value["bounce_queue_lifetime"]); err != nil {
		return nil, Remedied(fmt.Errorf("bounce_queue_lifetime: %w", err), mend(of.Directory))
	}
	if p.Owner, err = UserID(ctx, value["mail_owner"]); err != nil {
		return nil, Remedied(fmt.Errorf("mail_owner: %w", err), mend(of.Directory))
	}
	for _, list := range settingNames[len(settingNames)-6:] {
		for _, domain := range words(value[list]) {
			if !strings.ContainsAny(domain, ":/") { // a table is not looked into
				p.Domains = append(p.Domains, strings.ToLower(domain))
			}
		}
	}
	if p.Stop == nil || p.Start == nil {
		stop, start := append(with, "stop"), append(with[:len(with):len(with)], "start")
		if unit := p.unit(); unit != "" {
			stop, start = []string{"systemctl", "stop", unit}, []string{"systemctl", "start", unit}
			if of.Name != "" && p.Stop == nil && mastersOf(unit) > 1 {
				p.shared = unit
			}
		}
		if p.Stop == nil {
			p.Stop = stop
		}
		if p.Start == nil {
			p.Start = start
		}
	}
	return p, nil
}

// unit is the systemd service that the running master belongs to. A Postfix
// started by its unit and stopped by postfix(1) leaves the unit failed; the
// other way round systemctl stop does nothing, and says 0.
func (p *Postfix) unit() string {
	if master, ok := p.Running(); ok {
		return unitOf(master)
	}
	return ""
}

// mastersOf counts the Postfix that a systemd unit runs. A distribution's
// postfix.service may start all instances, by postfix(1) and its wrapper.
func mastersOf(unit string) (n int) {
	all, err := processes()
	if err != nil {
		return 0
	}
	for _, c := range all {
		if c.command == "master" && c.pid == c.group && !c.dead && unitOf(c.pid) == unit {
			n++
		}
	}
	return n
}

// typed is a command of Postfix as an admin types it for this instance: "postfix
// check", or "postfix -c /etc/postfix-out check".
func (s *Settings) typed(program, does string) string { return typed(s.ConfigDirectory, program, does) }

func typed(directory, program, does string) string {
	if directory == "" {
		return program + " " + does
	}
	return program + " -c " + directory + " " + does
}

// shell is a line of a host variable as a command.
func (in Instance) shell(line string) []string {
	if strings.TrimSpace(line) == "" {
		return nil
	}
	argv := []string{"/bin/sh", "-c", line}
	if in.Name != "" {
		argv = append([]string{"env", "MAIL_CONFIG=" + in.Directory}, argv...)
	}
	return argv
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
}

// days reads a time of postconf(5) whose unit, where none is given, is a day.
func days(text string) (time.Duration, error) {
	const day = 24 * time.Hour
	unit := day
	number := text
	if n := len(text) - 1; n > 0 {
		units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': day, 'w': 7 * day}
		if u, ok := units[text[n]|0x20]; ok {
			unit, number = u, text[:n]
		}
	}
	n, err := strconv.ParseUint(number, 10, 31)
	if err != nil || time.Duration(n) > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is no time", text)
	}
	return time.Duration(n) * unit, nil
}

func networks(list string) []netip.Prefix {
	var all []netip.Prefix
	for _, w := range words(list) {
		w = strings.NewReplacer("[", "", "]", "").Replace(w)
		if p, err := netip.ParsePrefix(w); err == nil {
			all = append(all, p)
		} else if a, err := netip.ParseAddr(w); err == nil {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return all
}

// Fields of a line of passwd(5).
const (
	accountName = 0
	accountUID  = 2
)

// account is the line of /etc/passwd that has a text in one of its fields, nil where
// there is none. Package os/user is a two hundredth of the agent.
func account(field int, text string) []string {
	passwd, _ := os.ReadFile("/etc/passwd")
	for line := range strings.Lines(string(passwd)) {
		if f := strings.Split(line, ":"); len(f) == 7 && f[field] == text {
			return f
		}
	}
	return nil
}

// UserName is the name that /etc/passwd has for a user, "" for none.
func UserName(uid string) string {
	if a := account(accountUID, uid); a != nil {
		return a[accountName]
	}
	return ""
}

// UserID is the uid of a user. It asks id(1) for one that is not in /etc/passwd.
func UserID(ctx context.Context, name string) (int, error) {
	if a := account(accountName, name); a != nil {
		return strconv.Atoi(a[accountUID])
	}
	out, err := exec.CommandContext(ctx, "id", "-u", "--", name).Output()
	if err != nil {
		return 0, fmt.Errorf("no account %q: %w", name, err)
	}
	return strconv.Atoi(strings.TrimSpace(string(out)))
}

// lookPath also looks where a login user's PATH does not reach.
func lookPath(name, further string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range filepath.SplitList(further) {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found in %s:%s", name, os.Getenv("PATH"), further)
}

// masterPID reads pid/master.pid, which outlives a stop: 0 if there is none.
func (p *Postfix) masterPID() int {
	text, err := os.ReadFile(filepath.Join(p.QueueDirectory, "pid", "master.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// Running says whether a master runs, and its pid. It only looks at the
// process table: a test of the lock, however short, could make a start that
// happens just then fail (master(8), "fatal: open lock file"). The number of a
// master that ended may belong to another instance's by now, but a master
// works in its own queue directory.
func (p *Postfix) Running() (master int, ok bool) {
	pid := p.masterPID()
	if pid <= 1 {
		return pid, false
	}
	now, err := processOf(pid)
	if err != nil || now.dead || p.Master != "" && now.command != p.Master || !worksIn(pid, p.QueueDirectory) {
		return pid, false
	}
	return pid, true
}

// manager is the queue manager, a child of master.
func (p *Postfix) manager(master int) (process, bool) {
	all, err := processes()
	if err != nil {
		return process{}, false
	}
	for _, c := range all {
		if c.parent == master && !c.dead && (p.Manager == "" || strings.TrimPrefix(c.command, "n") == p.Manager) {
			return c, true
		}
	}
	return process{}, false
}

// awaitManager is the queue manager of the Postfix that runs. Right after a start
// by whomever, a master has none for a moment.
func (p *Postfix) awaitManager(ctx context.Context) (process, error) {
	for until := time.Now().Add(managerLimit); ; {
		master, running := p.Running()
		if !running {
			return process{}, errors.New("Postfix does not run: start it first")
		}
		if manager, ok := p.manager(master); ok {
			return manager, nil
		}
		if time.Now().After(until) {
			return process{}, Remedied(fmt.Errorf("master %d has no queue manager", master), lookIntoLog)
		}
		if !sleep(ctx, poll) {
			return process{}, ctx.Err()
		}
	}
}

// lockMaster takes the lock that a running master holds on its pid file
// (master.c, INTERNAL_LOCK is flock on Linux). While it is held no Postfix can
// be started. errRunning says that somebody has it.
func (p *Postfix) lockMaster(root *os.File) (*os.File, error) {
	dir, err := openDir(root, "pid")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), "master.pid", unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	path := dir.Name() + "/master.pid"
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if err := lockFile(f); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errRunning
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

var errRunning = errors.New("master holds its lock")

// Triggers that the queue manager and pickup understand (qmgr.c, pickup.c).
const (
	scanIncoming = 'I'
	scanDeferred = 'D'
	wakePickup   = 'W'
)

// kick tells a service of the public directory to look, as postkick(1) does,
// but never waits: a service that died would hold postkick for ever. Without
// the trigger the mail is found within queue_run_delay (300 s).
func (p *Postfix) kick(root *os.File, service string, trigger byte) error {
	public, err := openDir(root, "public")
	if err != nil {
		return err
	}
	defer public.Close()
	s, err := statAt(public, service)
	if err != nil {
		return err
	}
	path := filepath.Join(p.QueueDirectory, "public", service)
	var fd int
	switch s.Type {
	case unix.S_IFSOCK:
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return fmt.Errorf("trigger %s: %w", path, err)
		}
		unix.CloseOnExec(fd)
		if err = unix.SetNonblock(fd, true); err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
		}
	case unix.S_IFIFO:
		fd, err = unix.Openat(int(public.Fd()), service, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			fd = -1
		} else if kind, e := handleType(fd); e != nil || kind != unix.S_IFIFO {
			unix.Close(fd) // put there since: what it is would be overwritten
			return fmt.Errorf("trigger %s: is no FIFO any more", path)
		}
	default:
		return fmt.Errorf("trigger %s: neither socket nor FIFO", path)
	}
	if fd >= 0 {
		defer unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("trigger %s: %w", path, err)
	}
	if err := send(fd, trigger); err != nil {
		return fmt.Errorf("trigger %s: %w", path, err)
	}
	return nil
}
