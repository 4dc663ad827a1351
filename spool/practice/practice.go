// Package practice is a mail server to play with: a queue directory laid out as
// Postfix's, real queue files in it, and a "Postfix" that can be stopped and
// started and that takes mail from incoming as the real one does. It needs no
// root, no Postfix and no network, and everything of it lies in one folder.
//
// What holds for Postfix where package spool relies on it holds here too: the
// master keeps an flock on pid/master.pid and works in the queue directory; its
// queue manager is a child, of its session; files are told by mode, owner, time
// and hash subdirectory; a rename of the queue manager overwrites without a
// word; a file of another owner takes the queue manager down; a start fails over
// what a start of Postfix with maillog_file fails over. What is not here: smtpd
// ([Host.Send] stands for it), pickup (mail in maildrop stays there), bounces,
// and the repairs of postsuper(1).
//
// The processes are this executable again: its main, and the TestMain of a test,
// call [Main] first. Start with [Make], [Open] and [New].
//
// For demos and tests only: the shipped agent does not link it.
package practice

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/spool"
	"spoolsweep/spool/queuefile"
)

// Options are what is main.cf for Postfix. The queue manager reads them when it
// starts and whenever it is triggered.
type Options struct {
	// Rate is how many messages a second are delivered at most; 0: as fast as
	// it goes. A low one keeps a flood where it is.
	Rate float64 `json:"rate"`
	// ActiveLimit is qmgr_message_active_limit; 0: 20000.
	ActiveLimit int `json:"active_limit"`
	// HashNames and HashDepth are hash_queue_names and hash_queue_depth; where
	// HashNames is nil: deferred and defer, 1.
	HashNames []string `json:"hash_queue_names"`
	HashDepth int      `json:"hash_queue_depth"`
	// Stuck are domains, with all below them, whose mail is deferred, and Silent
	// such whose server never answers: their mail stays in active. Nil is
	// stuck.test, and silent.test.
	Stuck  []string `json:"stuck"`
	Silent []string `json:"silent"`
	// Refused are domains, with all below them, whose server answers 550: their
	// mail leaves the queue as returned, though no bounce is written. Nil is
	// refused.test.
	Refused []string `json:"refused"`
	// QueueRunDelay is queue_run_delay, in seconds; 0: 300. A trigger that was
	// forgotten shows only while it is long.
	QueueRunDelay int `json:"queue_run_delay"`
	// Throttle is how long, in seconds, master waits after its queue manager
	// ended with an error (service_throttle_time); 0: 60.
	Throttle int `json:"throttle"`
}

func (o Options) withDefaults() Options {
	if o.ActiveLimit == 0 {
		o.ActiveLimit = 20000
	}
	if o.HashNames == nil {
		o.HashNames, o.HashDepth = []string{"deferred", "defer"}, 1
	}
	if o.Stuck == nil {
		o.Stuck = []string{"stuck.test"}
	}
	if o.Silent == nil {
		o.Silent = []string{"silent.test"}
	}
	if o.Refused == nil {
		o.Refused = []string{"refused.test"}
	}
	if o.QueueRunDelay == 0 {
		o.QueueRunDelay = 300
	}
	if o.Throttle == 0 {
		o.Throttle = 60
	}
	return o
}

// Host is one practice mail server: the folder Dir, with
//
//	spool/         the queue directory
//	state/         for the records of runs: the state directory
//	home/          for the login user's HOME
//	delivered/     what was delivered: the queue files themselves
//	mail.log       what Postfix would log
//	submitted      an account of all mail that was ever accepted, for Audit
//	practice.json  name and options
type Host struct {
	Dir  string
	Name string // chavez
	Options
}

// Hostname is a practice server's name in mail addresses: its myhostname.
func Hostname(name string) string { return name + ".practice.test" }

// Hostname is the server's name in mail addresses.
func (h *Host) Hostname() string { return Hostname(h.Name) }

// State and Home are folders of the host.
func (h *Host) State() string { return h.path("state") }
func (h *Host) Home() string  { return h.path("home") }

// Log is the host's mail log.
func (h *Host) Log() string { return h.path("mail.log") }

// Spool is the path of something in the queue directory.
func (h *Host) Spool(names ...string) string {
	return filepath.Join(append([]string{h.Dir, "spool"}, names...)...)
}

func (h *Host) path(name string) string { return filepath.Join(h.Dir, name) }

// queueDirectories are Postfix's own (conf/postfix-files); all belong to the
// caller, who is the mail owner, and lie below a folder closed to others.
var queueDirectories = []struct {
	name string
	mode uint32
}{
	{"maildrop", 0o1730}, {"incoming", 0o700}, {"active", 0o700}, {"deferred", 0o700}, {"hold", 0o700},
	{"corrupt", 0o700}, {"defer", 0o700}, {"bounce", 0o700}, {"trace", 0o700}, {"flush", 0o700}, {"private", 0o700}, {"saved", 0o700},
	{"pid", 0o755}, {"public", 0o710},
}

const (
	// lifetime is maximal_queue_lifetime, and bounce_queue_lifetime.
	lifetime = 5 * 24 * time.Hour

	configFile = "practice.json"
	sendLock   = "send.lock"
	// maxSocketPath is what fits into the address of a Unix socket everywhere.
	maxSocketPath = 100
)

// config is practice.json.
type config struct {
	Name string `json:"name"`
	Options
}

var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// Make makes a practice host called name in dir, which must be empty or not be
// there. It does not run yet, and its queues are empty.
func Make(dir, name string, o Options) error {
	if !nameForm.MatchString(name) {
		return fmt.Errorf("practice host %q: a name is lower case letters, digits and hyphens", name)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	h := &Host{Dir: dir, Name: name}
	if socket := h.Spool("public", "qmgr"); len(socket) > maxSocketPath {
		return fmt.Errorf("practice host %s: %s is too long for a socket's name (%d of at most %d bytes): choose a shorter folder", name, socket, len(socket), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := ours(dir); err != nil {
		return err
	}
	if there, err := os.ReadDir(dir); err != nil {
		return err
	} else if len(there) > 0 {
		return fmt.Errorf("practice host %s: %s is not empty", name, dir)
	}
	for _, sub := range []string{"spool", "state", "home", "delivered"} {
		if err := os.Mkdir(h.path(sub), 0o700); err != nil {
			return err
		}
	}
	if err := os.Chmod(h.Spool(), 0o755); err != nil { // as Postfix's own
		return err
	}
	if err := h.makeMissing(); err != nil {
		return err
	}
	for _, file := range []string{"mail.log", ledger, sendLock} {
		if err := os.WriteFile(h.path(file), nil, 0o600); err != nil {
			return err
		}
	}
	return h.Configure(o)
}

// makeMissing makes the queue directories that are not there, as each start of
// Postfix does (post-install create-missing).
func (h *Host) makeMissing() error {
	for _, d := range queueDirectories {
		err := unix.Mkdir(h.Spool(d.name), 0o700)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err == nil {
			err = unix.Chmod(h.Spool(d.name), d.mode)
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", h.Spool(d.name), err)
		}
	}
	return nil
}

// Configure replaces the host's options and tells its queue manager.
func (h *Host) Configure(o Options) error {
	h.Options = o.withDefaults()
	text, err := json.MarshalIndent(config{h.Name, h.Options}, "", "\t")
	if err != nil {
		return err
	}
	fresh := h.path(configFile + ".new")
	if err := os.WriteFile(fresh, append(text, '\n'), 0o600); err != nil {
		return err
	}
	if err := os.Rename(fresh, h.path(configFile)); err != nil {
		return err
	}
	_ = h.trigger("I") // nobody listens where it is stopped
	return nil
}

// Open opens a practice host that was made before. It must belong to the
// caller, root included, and be closed to all others: whoever runs as root must
// not be led by somebody else's folder.
func Open(dir string) (*Host, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := ours(dir); err != nil {
		return nil, err
	}
	h := &Host{Dir: dir}
	return h, h.reload()
}

func (h *Host) reload() error {
	text, err := os.ReadFile(h.path(configFile))
	if err != nil {
		return fmt.Errorf("%s is no practice host: %w", h.Dir, err)
	}
	var c config
	if err := json.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("%s: %w", h.path(configFile), err)
	}
	h.Name, h.Options = c.Name, c.Options.withDefaults()
	return nil
}

// ours refuses a folder that others own, or can look or write into.
func ours(dir string) error {
	var s unix.Stat_t
	if err := unix.Lstat(dir, &s); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	switch {
	case uint32(s.Mode)&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("practice folder %s is no directory", dir)
	case int(s.Uid) != os.Geteuid():
		return fmt.Errorf("practice folder %s belongs to uid %d, and this is uid %d: practice in a folder of your own", dir, s.Uid, os.Geteuid())
	case uint32(s.Mode)&0o077 != 0:
		return fmt.Errorf("practice folder %s is open to others: run 'chmod 700 %s'", dir, dir)
	}
	return nil
}

// New is the Postfix of the practice host in dir, the counterpart of
// [spool.System]. Its commands are this executable again; see [Main].
func New(dir string) (*spool.Postfix, error) {
	h, err := Open(dir)
	if err != nil {
		return nil, err
	}
	return h.Postfix()
}

// Postfix is [New] of an open host.
func (h *Host) Postfix() (*spool.Postfix, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("practice host %s: %w", h.Name, err)
	}
	return &spool.Postfix{
		Settings: spool.Settings{
			Version:        "practice",
			QueueDirectory: h.Spool(),
			Owner:          os.Geteuid(),
			HashNames:      h.HashNames,
			HashDepth:      h.HashDepth,
			LogFile:        h.Log(),
			SizeLimit:      1 << 20,
			Lifetime:       lifetime,
			BounceLifetime: lifetime,
			Networks:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
			Domains:        []string{h.Hostname()},
		},
		Stop:  []string{exe, command, "stop", h.Dir},
		Start: []string{exe, command, "start", h.Dir},
		Super: []string{exe, command, "super", h.Dir},
	}, nil
}

// Running says whether the host's master runs, and its pid.
func (h *Host) Running() (master int, ok bool) {
	return (&spool.Postfix{Settings: spool.Settings{QueueDirectory: h.Spool()}}).Running()
}

// home is where Postfix looks for a queue file, and nowhere else.
func (h *Host) home(q spool.Queue, id string) string {
	return h.Spool(string(q), queuefile.HashDir(id, h.depth(q)))
}

func (h *Host) depth(q spool.Queue) int {
	for _, name := range h.HashNames {
		if strings.EqualFold(name, string(q)) {
			return h.HashDepth
		}
	}
	return 0
}

// logf writes one line as postlogd would.
func (h *Host) logf(service, format string, args ...any) error {
	f, err := os.OpenFile(h.Log(), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(h.logLine(service, fmt.Sprintf(format, args...)))
	return errors.Join(err, f.Close())
}

func (h *Host) logLine(service, text string) string {
	return fmt.Sprintf("%s %s postfix/%s[%d]: %s\n", time.Now().Format(time.Stamp), h.Name, service, os.Getpid(), text)
}

// trigger writes bytes that the queue manager understands to its socket, as
// mail_trigger of Postfix does, without waiting.
func (h *Host) trigger(what string) error {
	fd, err := socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: h.Spool("public", "qmgr")}); err != nil {
		return fmt.Errorf("trigger the queue manager of %s: %w", h.Name, err)
	}
	_, err = unix.Write(fd, []byte(what))
	return err
}

// Flush makes all mail due at once, as 'postqueue -f' does.
func (h *Host) Flush() error { return h.trigger("FADI") }
