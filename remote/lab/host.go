package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// bootLimit is far more than a boot takes (0.8 s), even on a busy machine.
	bootLimit = 2 * time.Minute
	// endLimit is for processes that were killed, to be gone.
	endLimit = 30 * time.Second
)

// hostPath is PATH inside a host, as a root login has it.
const hostPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Host is one mail host.
type Host struct {
	Name      string `json:"name"`
	Address   string `json:"address"`
	Interface string `json:"interface"` // the machine's end of its link
	// Dir holds the host's parts as the machine sees them: spool, upper (what it
	// changed in its file tree), delivered, boot.log.
	Dir string `json:"-"`
	// Instance is the Postfix that this value is about, "" for the default one;
	// see AddInstance.
	Instance string `json:"-"`

	lab  *Lab
	port int // of the instance, but for the default one
}

func (l *Lab) newHost(ctx context.Context, name string) (*Host, error) {
	hosts, err := l.Hosts()
	if err != nil {
		return nil, err
	}
	free := 10
	for taken := true; taken; {
		taken = false
		for _, h := range hosts {
			if h.Address == l.net.address(free) {
				taken = true
			}
		}
		if taken {
			free++
		}
	}
	h := &Host{
		Name: name, Address: l.net.address(free), Interface: fmt.Sprintf("swlab%dh%d", l.net.Number, free),
		Dir: filepath.Join(l.Dir, "hosts", name), lab: l,
	}
	if err := os.MkdirAll(h.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := makeKey(ctx, h.file("host_key"), name); err != nil {
		return nil, err
	}
	data, err := json.Marshal(h)
	if err != nil {
		return nil, err
	}
	return h, os.WriteFile(h.file("host.json"), append(data, '\n'), 0o644)
}

func (h *Host) file(name ...string) string {
	return filepath.Join(append([]string{h.Dir}, name...)...)
}

// Spool is the instance's queue directory as the machine sees it.
func (h *Host) Spool() string { return h.own("spool") }

// Delivered is the folder of what was delivered, as the machine sees it.
func (h *Host) Delivered() string { return h.own("delivered") }

// own is a file of this instance.
func (h *Host) own(name string) string {
	if h.Instance == "" {
		return h.file(name)
	}
	return h.file(instances, h.Instance, name)
}

// Key is the private key that logs in as root and as admin.
func (h *Host) Key() string { return h.lab.Key() }

// KnownHosts is the lab's file of host keys.
func (h *Host) KnownHosts() string { return h.lab.KnownHosts() }

// Running says whether the host is up.
func (h *Host) Running() bool {
	_, err := h.init()
	return err == nil
}

// init finds the host's first process.
func (h *Host) init() (process, error) {
	p, err := loadProcess(h.file("init"))
	if err == nil && p.alive() {
		return p, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return process{}, err
	}
	return process{}, fmt.Errorf("host %s is down", h.Name)
}

// Restart boots the host, after a power cut if it runs. Its files are as they
// were left; sshd and Postfix run when it returns, and the sink is what the last
// Flood said.
func (h *Host) Restart(ctx context.Context) error {
	if err := h.PowerCut(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := h.makeFiles(ctx); err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	if err := h.boot(ctx); err != nil {
		log, _ := os.ReadFile(h.file("boot.log"))
		return errors.Join(fmt.Errorf("start %s: %w\n%s", h.Name, err, tail(log, 1000)), h.PowerCut())
	}
	state, err := h.state()
	if err != nil || state == Refuse {
		return err
	}
	return h.Flood(state)
}

// Reset gives the host back as new: an empty spool, the first configuration,
// nothing of what was run on it, link up, Refuse. Its keys and address stay.
func (h *Host) Reset(ctx context.Context) error {
	if err := h.PowerCut(); err != nil {
		return err
	}
	for _, name := range []string{"upper", "work", "spool", "home", "home-root", "delivered", "state", "injected", instances} {
		if err := os.RemoveAll(h.file(name)); err != nil {
			return fmt.Errorf("reset %s: %w", h.Name, err)
		}
	}
	return h.Restart(ctx)
}

// makeFiles makes the directories the host's tree is put together from, where
// they do not stand from an earlier boot.
func (h *Host) makeFiles(ctx context.Context) error {
	for _, name := range []string{"root", "upper/etc/lab", "work", "home", "home-root", "delivered"} {
		if err := os.MkdirAll(h.file(name), 0o755); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{h.lab.Key() + ".pub": "authorized_keys", h.file("host_key"): "host_key"} {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(h.file("upper/etc/lab", to), data, 0o600); err != nil {
			return err
		}
	}
	if _, err := os.Stat(h.Spool()); err == nil {
		return nil
	}
	// Directories only, with owner and mode: were the machine a mail server, its
	// mail would be none of ours. Built aside, since a killed half of it would
	// pass for a spool.
	fresh := h.file("spool.new")
	if err := errors.Join(os.RemoveAll(fresh), os.Mkdir(fresh, 0o755)); err != nil {
		return err
	}
	if err := run(ctx, "sh", "-c",
		`(cd /var/spool/postfix && find . -maxdepth 1 -type d -print0 | tar --null --no-recursion -T - -cf -) | tar -C "$1" -xpf -`,
		"sh", fresh); err != nil {
		return err
	}
	return os.Rename(fresh, h.Spool())
}

// boot runs boot.sh in new namespaces, and gives it its link meanwhile.
func (h *Host) boot(ctx context.Context) error {
	log, err := os.Create(h.file("boot.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child",
		"sh", h.lab.boot(), h.Dir, h.Name, h.Address, h.lab.Dir)
	cmd.Env = []string{hostPath, "HOME=/root", "LANG=C.UTF-8"}
	cmd.Stdout, cmd.Stderr = log, log
	said, err := detach(ctx, cmd)
	if err != nil {
		return err
	}
	defer said.Close()
	lines := bufio.NewScanner(said)
	if !lines.Scan() {
		return fmt.Errorf("unshare or boot.sh ended at once: %w", errors.Join(lines.Err(), ctx.Err()))
	}
	pid, err := strconv.Atoi(lines.Text())
	if err != nil {
		return fmt.Errorf("process id from boot.sh: %w", err)
	}
	init, err := identify(pid)
	if err != nil {
		return err
	}
	if err := init.save(h.file("init")); err != nil {
		return err
	}
	if err := h.lab.net.plug(ctx, h.Interface, h.Address, pid); err != nil {
		return err
	}
	if !lines.Scan() || lines.Text() != "up" {
		return fmt.Errorf("boot.sh ended early: %w", errors.Join(lines.Err(), ctx.Err()))
	}
	return until(ctx, "sshd of "+h.Name, func() bool { return answers(ctx, h.Address+":22") })
}

// detach starts a command that outlives this process, and returns what it says
// on descriptor 3.
func detach(ctx context.Context, cmd *exec.Cmd) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close()
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	// Reaped when it ends before us; else the machine's init does.
	go cmd.Wait()
	if deadline, ok := ctx.Deadline(); ok {
		if err := r.SetReadDeadline(deadline); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

func answers(ctx context.Context, address string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// PowerCut ends the host as a power cut does: every process of it is killed at
// once, and its network is gone without a word to the other side. What is in the
// page cache is not lost, as it would be in a real one. A host that is down stays
// so.
func (h *Host) PowerCut() error {
	ctx, cancel := context.WithTimeout(context.Background(), endLimit)
	defer cancel()
	// First, so that the closing sockets cannot say goodbye.
	if err := h.lab.net.unplug(h.Interface); err != nil {
		return err
	}
	if init, err := h.init(); err == nil {
		// The kernel kills the whole namespace before its init is gone.
		if err := init.end(ctx); err != nil {
			return fmt.Errorf("end %s: %w", h.Name, err)
		}
	}
	return nil
}

// Command prepares a command that runs inside the host, as root, and where it is
// one of Postfix on this instance. When ctx ends, it is killed.
func (h *Host) Command(ctx context.Context, argv ...string) *exec.Cmd {
	args, err := h.enter("--mount", "--uts", "--net", "--pid")
	if err != nil {
		cmd := exec.CommandContext(ctx, "nsenter")
		cmd.Err = err
		return cmd
	}
	args = append(args, argv...)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = []string{hostPath, "HOME=/root", "LANG=C.UTF-8", "USER=root", "LOGNAME=root"}
	if h.Instance != "" {
		cmd.Env = append(cmd.Env, "MAIL_CONFIG="+h.Config())
	}
	// nsenter forks, since a process cannot change its own pid namespace: both
	// are in the group that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

func (h *Host) enter(namespaces ...string) ([]string, error) {
	init, err := h.init()
	if err != nil {
		return nil, err
	}
	return append(append([]string{"nsenter", "--target", strconv.Itoa(init.pid)}, namespaces...), "--"), nil
}

// Run runs a command inside the host and returns its standard output.
func (h *Host) Run(ctx context.Context, argv ...string) (string, error) {
	cmd := h.Command(ctx, argv...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return string(out), fmt.Errorf("%s: %s: %w: %s", h.Name, strings.Join(argv, " "), err, tail([]byte(stderr.String()), 500))
	}
	return string(out), nil
}

// Postconf changes Postfix's settings, each as "name = value", and has Postfix
// take them up if it runs.
func (h *Host) Postconf(ctx context.Context, settings ...string) error {
	if _, err := h.Run(ctx, append([]string{"postconf", "-e"}, settings...)...); err != nil {
		return err
	}
	// Every Postfix program waits until main.cf is two seconds old.
	if _, err := h.Run(ctx, "touch", "-d", "1 minute ago", h.Config()+"/main.cf"); err != nil {
		return err
	}
	if _, err := h.Run(ctx, "postfix", "status"); err != nil {
		return nil // down: it will read them at its start
	}
	_, err := h.Run(ctx, "postfix", "reload")
	return err
}

// Pgrep finds the processes of the host whose command line, arguments joined by
// blanks, matches the expression. The ids are the machine's, for syscall.Kill.
func (h *Host) Pgrep(expression string) ([]int, error) {
	re, err := regexp.Compile(expression)
	if err != nil {
		return nil, err
	}
	init, err := h.init()
	if err != nil {
		return nil, err
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", init.pid))
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		// Processes come and go while we look.
		if ns, err := os.Readlink(filepath.Join(dir, "ns/pid")); err != nil || ns != namespace {
			continue
		}
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(line) == 0 || !re.MatchString(strings.ReplaceAll(strings.TrimRight(string(line), "\x00"), "\x00", " ")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

func tail(text []byte, n int) string {
	if len(text) > n {
		text = text[len(text)-n:]
	}
	return strings.TrimSpace(string(text))
}
