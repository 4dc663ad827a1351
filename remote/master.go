package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// master is the connection that the user's own ssh holds open to a host, nil where
// it holds none (ControlPath of ssh_config(5)). Whoever opened it has checked the
// host's key and logged in; it stays when ours is closed.
//
// It speaks in proxy mode, which every ssh since 7.4 does (PROTOCOL.mux, section
// 13 of OpenSSH). Its socket is as good as a login: one of somebody else is not
// used.
func (d *Dialer) master(ctx context.Context, l leg) (*Conn, error) {
	path := l.settings.ControlPath
	if path == "" {
		return nil, nil
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return nil, nil
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Getuid() {
		return nil, &OpenError{l.target.Name, KindSettings, fmt.Errorf("ControlPath %s belongs to somebody else", path), "remove it, or name another ControlPath in the ssh configuration"}
	}
	dialer := net.Dialer{Timeout: d.connectTime(l.settings)}
	socket, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
		return nil, nil // its master is dead
	}
	if err != nil {
		return nil, l.masterError(err)
	}
	conn := &countedConn{Conn: socket}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	late := time.AfterFunc(d.connectTime(l.settings), func() { conn.Close() })
	c, channels, requests, err := ssh.NewControlClientConn(conn)
	late.Stop()
	if !stop() && err == nil {
		c.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, l.masterError(err)
	}
	t := l.target
	t.User, t.Port = l.settings.User, l.settings.Port
	return newConn(t, l.address(), ssh.NewClient(c, channels, requests), conn, alive(askMaster)), nil
}

// usersMaster is master, unless known_hosts files were named here: then it is these
// that the host's key is checked against, and nobody else's word counts.
func (d *Dialer) usersMaster(ctx context.Context, l leg) (*Conn, error) {
	if len(d.KnownHosts) > 0 {
		return nil, nil
	}
	return d.master(ctx, l)
}

func (l leg) masterError(err error) error {
	return &DialError{Host: l.target.Name, Address: l.address(), Kind: KindConnect, Err: fmt.Errorf("through the master of ControlPath %s: %w", l.settings.ControlPath, err),
		Remedy: "end that master (ssh -O exit), or set ControlPath none for this host"}
}

// alive asks the other end for an answer, whatever it is.
type alive func(*ssh.Client) error

// askServer is what OpenSSH's ServerAliveInterval sends.
func askServer(c *ssh.Client) error {
	_, _, err := c.SendRequest("keepalive@openssh.com", true, nil)
	return err
}

// askMaster opens a channel that no server has: a master in proxy mode passes
// channels on, and no request of that kind.
func askMaster(c *ssh.Client) error {
	channel, requests, err := c.OpenChannel("keepalive@openssh.com", nil)
	if err == nil {
		go ssh.DiscardRequests(requests)
		return channel.Close()
	}
	if errors.As(err, new(*ssh.OpenChannelError)) {
		return nil
	}
	return err
}
