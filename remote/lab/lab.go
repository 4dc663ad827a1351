// Package lab runs real mail hosts on one Linux machine, for tests and for
// trying things by hand: each host is a set of namespaces with a file tree, a
// network address, an OpenSSH server and a Postfix of its own.
//
// Mail and SSH cannot leave a lab, since its hosts have no route anywhere. What
// it changes on the machine is one bridge, one veth interface a host, and the
// lab's directory; [Lab.Down] takes all of it away. A host is one process tree,
// and outlives the program that started it; its ids stand in the directory, so
// that any later program can go on with it, or end it.
//
// Start with [Up] or [Temp], then [Host.Flood], [Host.Inject] and [Host.Audit].
// A program that uses this package calls [Main] first of all, since small
// helpers that run in a host's network are that same program started again.
// It needs root, iproute2, util-linux, Postfix and the OpenSSH server.
package lab

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// DefaultDir is where a lab stands that was started by hand.
const DefaultDir = "/var/tmp/spoolsweep-lab"

// tempPattern names the directories of Temp; Up looks there for labs whose
// owner was killed.
const tempPattern = "/var/tmp/spoolsweep-lab-test-"

//go:embed boot.sh
var bootScript []byte

var hostName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Lab is one lab: some hosts on a bridge of their own.
type Lab struct {
	// Dir holds everything of the lab: its keys, known_hosts, inventory.yaml and
	// ssh_config, and a directory a host below hosts.
	Dir string

	net network
}

// Up starts the hosts named in the lab at dir, which it makes when there is
// none. Hosts that run already are left alone. Labs of killed tests are ended.
func Up(ctx context.Context, dir string, hosts ...string) (*Lab, error) {
	if err := able(); err != nil {
		return nil, err
	}
	for _, name := range hosts {
		if !hostName.MatchString(name) {
			return nil, fmt.Errorf("host name %q: want lower case letters, digits and hyphens", name)
		}
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := endOrphans(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "hosts"), 0o755); err != nil {
		return nil, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	l, err := Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		l, err = found(ctx, dir)
	}
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(l.boot(), bootScript, 0o644); err != nil {
		return nil, err
	}
	if err := l.net.makeBridge(ctx); err != nil {
		return nil, err
	}
	if err := makeKey(ctx, l.Key(), "spoolsweep-lab"); err != nil {
		return nil, err
	}
	var starting []*Host
	for _, name := range hosts {
		h, err := l.Host(name)
		if errors.Is(err, fs.ErrNotExist) {
			h, err = l.newHost(ctx, name)
		}
		if err != nil {
			return nil, err
		}
		if !h.Running() {
			starting = append(starting, h)
		}
	}
	ends := make(chan error)
	for _, h := range starting {
		go func() { ends <- h.Restart(ctx) }()
	}
	var failed error
	for range starting {
		failed = errors.Join(failed, <-ends)
	}
	if failed != nil {
		return nil, failed
	}
	return l, l.writeClientFiles()
}

// Temp starts a lab in a directory of its own that belongs to this process: if
// the process is killed before Down, the next Up or Temp ends the lab.
func Temp(ctx context.Context, hosts ...string) (*Lab, error) {
	dir, err := os.MkdirTemp(filepath.Dir(tempPattern), filepath.Base(tempPattern))
	if err != nil {
		return nil, err
	}
	self, err := identify(os.Getpid())
	if err != nil {
		return nil, err
	}
	if err := self.save(filepath.Join(dir, "owner")); err != nil {
		return nil, err
	}
	l, err := Up(ctx, dir, hosts...)
	if err != nil {
		return nil, errors.Join(err, (&Lab{Dir: dir}).Down())
	}
	return l, nil
}

// Open finds the lab at dir; the error is fs.ErrNotExist where there is none.
func Open(dir string) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	l := &Lab{Dir: dir}
	data, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		return nil, fmt.Errorf("open lab: %w", err)
	}
	if err := json.Unmarshal(data, &l.net); err != nil {
		return nil, fmt.Errorf("open lab: %s: %w", dir, err)
	}
	return l, nil
}

// found makes the lasting parts of a new lab.
func found(ctx context.Context, dir string) (*Lab, error) {
	l := &Lab{Dir: dir}
	var err error
	if l.net, err = claimNetwork(ctx); err != nil {
		return nil, err
	}
	// Written before all else: with it, Down knows the bridge.
	data, err := json.Marshal(l.net)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "lab.json"), append(data, '\n'), 0o644); err != nil {
		return nil, err
	}
	return l, nil
}

// Down ends every host and removes the lab, its directory included. It is no
// error when there is none.
func (l *Lab) Down() error {
	if _, err := os.Stat(l.Dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := lock(l.Dir)
	if err != nil {
		return err
	}
	defer unlock()
	hosts, err := l.Hosts()
	if err != nil {
		return err
	}
	for _, h := range hosts {
		err = errors.Join(err, h.PowerCut())
	}
	if l.net.Bridge == "" {
		if open, openErr := Open(l.Dir); openErr == nil {
			l.net = open.net
		}
	}
	if err = errors.Join(err, l.net.removeBridge()); err != nil {
		return err
	}
	// Only what the lab made: the directory may be one of the user's.
	for _, name := range []string{"hosts", "boot.sh", "id_ed25519", "id_ed25519.pub", "known_hosts", "inventory.yaml", "ssh_config", "lab.json", "owner", "lock"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(l.Dir, name)))
	}
	return errors.Join(err, os.Remove(l.Dir))
}

// Host finds a host by name; the error is fs.ErrNotExist where there is none.
func (l *Lab) Host(name string) (*Host, error) {
	h := &Host{lab: l, Dir: filepath.Join(l.Dir, "hosts", name)}
	data, err := os.ReadFile(filepath.Join(h.Dir, "host.json"))
	if err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	if err := json.Unmarshal(data, h); err != nil {
		return nil, fmt.Errorf("host %s: %w", name, err)
	}
	return h, nil
}

// Hosts returns all hosts, running or not, by name.
func (l *Lab) Hosts() ([]*Host, error) {
	dirs, err := filepath.Glob(filepath.Join(l.Dir, "hosts", "*", "host.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(dirs)
	var hosts []*Host
	for _, file := range dirs {
		h, err := l.Host(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// Key is the private key that root and admin of every host accept.
func (l *Lab) Key() string { return filepath.Join(l.Dir, "id_ed25519") }

// KnownHosts is the file with the host keys, by name and by address.
func (l *Lab) KnownHosts() string { return filepath.Join(l.Dir, "known_hosts") }

// Inventory is an inventory in Ansible's shape, with all hosts.
func (l *Lab) Inventory() string { return filepath.Join(l.Dir, "inventory.yaml") }

// SSHConfig is a configuration for ssh -F, with all hosts.
func (l *Lab) SSHConfig() string { return filepath.Join(l.Dir, "ssh_config") }

func (l *Lab) boot() string { return filepath.Join(l.Dir, "boot.sh") }

func (l *Lab) writeClientFiles() error {
	hosts, err := l.Hosts()
	if err != nil {
		return err
	}
	var known, inventory, config strings.Builder
	inventory.WriteString("all:\n  hosts:\n")
	for _, h := range hosts {
		key, err := os.ReadFile(filepath.Join(h.Dir, "host_key.pub"))
		if err != nil {
			return err
		}
		fmt.Fprintf(&known, "%s,%s %s", h.Name, h.Address, key)
		fmt.Fprintf(&inventory, "    %s:\n      ansible_host: %s\n      ansible_user: root\n      ansible_ssh_private_key_file: %s\n",
			h.Name, h.Address, l.Key())
		fmt.Fprintf(&config, "Host %s\n  HostName %s\n  User root\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  StrictHostKeyChecking yes\n",
			h.Name, h.Address, l.Key(), l.KnownHosts())
	}
	return errors.Join(
		os.WriteFile(l.KnownHosts(), []byte(known.String()), 0o644),
		os.WriteFile(l.Inventory(), []byte(inventory.String()), 0o644),
		os.WriteFile(l.SSHConfig(), []byte(config.String()), 0o644))
}

// able says what the machine lacks.
func able() error {
	if os.Getuid() != 0 {
		return errors.New("a lab needs root: it makes namespaces, mounts and interfaces")
	}
	var missing []string
	for _, need := range []struct{ program, from string }{
		{"ip", "iproute2"}, {"unshare", "util-linux"}, {"nsenter", "util-linux"}, {"tar", "tar"},
		{"sshd", "openssh-server"}, {"ssh-keygen", "openssh-client"}, {"postfix", "postfix"}, {"sudo", "sudo"},
	} {
		if _, err := exec.LookPath(need.program); err != nil {
			missing = append(missing, fmt.Sprintf("%s (apt install %s)", need.program, need.from))
		}
	}
	if missing != nil {
		return fmt.Errorf("a lab needs programs that are not on PATH: %s", strings.Join(missing, ", "))
	}
	return nil
}

// endOrphans ends the labs of Temp whose process is gone.
func endOrphans(but string) error {
	owners, err := filepath.Glob(tempPattern + "*/owner")
	if err != nil {
		return err
	}
	for _, file := range owners {
		owner, loadErr := loadProcess(file)
		dir := filepath.Dir(file)
		if loadErr == nil && !owner.alive() && dir != but {
			err = errors.Join(err, (&Lab{Dir: dir}).Down())
		}
	}
	return err
}

// lock keeps two programs from changing one lab at a time.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// makeKey makes a key pair where there is none.
func makeKey(ctx context.Context, file, comment string) error {
	if _, err := os.Stat(file + ".pub"); err == nil {
		return nil
	}
	// A half that somebody killed left behind: ssh-keygen would ask.
	if err := os.RemoveAll(file); err != nil {
		return err
	}
	return run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", file)
}
