package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"spoolsweep/remote/clean"
)

// persist is how long a connection that the user's ssh holds for us stays when
// nobody uses it any more: it is ended when ours is, unless we were killed.
const persist = time.Minute

// viaOpenSSH has the user's own ssh connect and log in, with all that it can do,
// and speaks over the connection that it then holds open (see master).
func (d *Dialer) viaOpenSSH(ctx context.Context, t Target) (*Conn, error) {
	l, err := d.asResolved(ctx, t)
	if err != nil {
		return nil, err
	}
	if c, err := d.usersMaster(ctx, l); c != nil || err != nil {
		return c, err
	}
	path, err := d.socket()
	if err != nil {
		return nil, &OpenError{t.Name, KindSettings, err, "give TMPDIR a folder with room"}
	}
	l.settings.ControlPath = path
	// Where it may ask, it asks for one host at a time, and nobody is hurried.
	asks := d.Passphrase != nil
	run := ctx
	if asks {
		d.asking.Lock()
		defer d.asking.Unlock()
		if d.Prompts != nil {
			defer d.Prompts()()
		}
	} else {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeoutCause(ctx, 2*d.timeout()+authTime, fmt.Errorf("ssh did not log in within %v", 2*d.timeout()+authTime))
		defer cancel()
	}
	cmd := exec.CommandContext(run, "ssh", d.sshArgs(t, path, asks)...)
	stderr := &tail{max: maxStderr}
	cmd.Stderr = stderr
	cmd.WaitDelay = proxyGrace // the connection that stays may hold it for a moment
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: !asks}
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case run.Err() != nil:
		return nil, opensshFailed(l, context.Cause(run).Error())
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		return nil, opensshFailed(l, stderr.lastLines())
	}
	c, err := d.master(ctx, l)
	if c == nil && err == nil {
		err = opensshFailed(l, "ssh logged in, and holds no connection: "+stderr.lastLines())
	}
	if err != nil {
		exitMaster(path)
		return nil, err
	}
	c.release = func() { exitMaster(path) }
	return c, nil
}

// sshArgs are those with which ssh logs in and stays behind as a master. What the
// user's configuration says of forwarding and commands is for other uses of it.
func (d *Dialer) sshArgs(t Target, path string, asks bool) []string {
	batch := "BatchMode=yes"
	if asks {
		batch = "BatchMode=no"
	}
	options := []string{
		"ControlMaster=yes", "ControlPath=" + sshPath(path), "ControlPersist=" + strconv.Itoa(int(persist.Seconds())),
		"ConnectTimeout=" + strconv.Itoa(max(1, int(d.timeout().Seconds()))), batch,
		"ClearAllForwardings=yes", "ForwardAgent=no", "ForwardX11=no", "PermitLocalCommand=no", "RemoteCommand=none",
	}
	switch {
	case d.Strict:
		options = append(options, "StrictHostKeyChecking=yes")
	case d.AcceptNew != nil:
		options = append(options, "StrictHostKeyChecking=accept-new")
	}
	if len(d.KnownHosts) > 0 {
		var files []string
		for _, f := range d.KnownHosts {
			files = append(files, sshPath(f))
		}
		options = append(options, "UserKnownHostsFile="+strings.Join(files, " "), "GlobalKnownHostsFile=none")
	}
	args := []string{"-f", "-N", "-T"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	if t.PrivateKey != "" {
		args = append(args, "-i", t.PrivateKey)
	}
	return append(args, d.hostArgs(t)...)
}

// sshPath is a path as an option of ssh has it, where % begins a token.
func sshPath(path string) string { return `"` + strings.ReplaceAll(path, "%", "%%") + `"` }

// hostArgs are those that name a host, and how it is configured.
func (d *Dialer) hostArgs(t Target) []string {
	var args []string
	if d.ConfigFile != "" {
		args = append(args, "-F", d.ConfigFile)
	}
	if t.User != "" {
		args = append(args, "-l", t.User)
	}
	if t.Port != 0 {
		args = append(args, "-p", strconv.Itoa(t.Port))
	}
	if t.ProxyJump != "" {
		args = append(args, "-o", "ProxyJump="+t.ProxyJump)
	}
	return append(args, "--", t.Host)
}

// asResolved is what the user's ssh makes of its configuration (ssh -G).
func (d *Dialer) asResolved(ctx context.Context, t Target) (leg, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout()) // Match exec may run something
	defer cancel()
	out, err := exec.CommandContext(ctx, "ssh", append([]string{"-G"}, d.hostArgs(t)...)...).Output()
	var exit *exec.ExitError
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return leg{}, &OpenError{t.Name, KindSettings, errors.New("--transport openssh: there is no ssh on this machine"), "install OpenSSH's client, or leave --transport out"}
	case errors.As(err, &exit):
		return leg{}, &OpenError{t.Name, KindSettings, errors.New(clean.Text("ssh -G: "+strings.TrimSpace(string(exit.Stderr)), 1000)), "mend the ssh configuration"}
	case err != nil:
		return leg{}, &OpenError{t.Name, KindSettings, fmt.Errorf("ssh -G: %w", err), "see what it does by hand"}
	}
	l := leg{target: t}
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "user":
			l.settings.User = value
		case "hostname":
			l.settings.HostName = value
		case "port":
			l.settings.Port, _ = strconv.Atoi(value) // a number, as ssh prints it
		case "controlpath":
			l.settings.ControlPath = value
		}
	}
	return l, nil
}

func opensshFailed(l leg, said string) error {
	e := &DialError{Host: l.target.Name, Address: l.address(), Kind: KindConnect, Err: errors.New(clean.Text(said, 1000)),
		Remedy: "try it by hand: ssh -p " + strconv.Itoa(l.settings.Port) + " " + clean.Text(l.settings.User+"@"+l.target.Host, 200)}
	switch {
	case strings.Contains(said, "Could not resolve"):
		e.Kind = KindName
	case strings.Contains(said, "Permission denied"):
		e.Kind = KindAuth
	case strings.Contains(said, "Host key verification failed"):
		e.Kind = KindHandshake
	}
	return e
}

// socket is a place for a control socket that nobody else can reach.
func (d *Dialer) socket() (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sockets == "" {
		// ssh adds 17 characters while it binds it, and 104 are all that macOS takes.
		dir, err := os.MkdirTemp("", "sweep-")
		if err != nil {
			return "", err
		}
		d.sockets = dir
	}
	d.masters++
	return filepath.Join(d.sockets, strconv.Itoa(d.masters)), nil
}

// exitMaster ends the connection behind a socket. It ends by itself if that fails.
func exitMaster(path string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssh", "-F", "none", "-o", "ControlPath="+sshPath(path), "-O", "exit", "master")
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	_ = cmd.Run()
}
