package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// Whether new mail is accepted is asked of the instance's own smtpd, up to MAIL
// FROM: that is where it says 452 to everybody when the queue's file system is
// full (smtpd_check_size, smtpd_check_queue). Nothing is sent; a smtpd that has to
// say 452 tells its postmaster, as after anybody's try. The socket calls
// are the system's own: this side of the house has no package net.

// Variables for the sake of tests alone.
var (
	acceptLimit = 15 * time.Second // for the whole dialogue
	acceptRetry = 200 * time.Millisecond
)

// Accepting says whether smtpd takes new mail, and if not, why. It is nil where
// there is no smtpd to ask.
func (p *Postfix) Accepting(ctx context.Context) (*bool, string) {
	if p.postconf == nil {
		return nil, ""
	}
	at, err := p.smtpd(ctx)
	if err != nil {
		return nil, err.Error()
	}
	ok, why := accepts(at)
	return &ok, why
}

// smtpd finds where the instance's smtpd listens.
func (p *Postfix) smtpd(ctx context.Context) (netip.AddrPort, error) {
	table, err := Run(ctx, postconfLimit, append(p.postconf[:len(p.postconf):len(p.postconf)], "-M")...)
	if err == nil && table.Exit != 0 {
		err = errors.New(table.Output)
	}
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("postconf -M: %w", err)
	}
	words, err := Run(ctx, postconfLimit, append(p.postconf[:len(p.postconf):len(p.postconf)], "-hx", "inet_interfaces", "inet_protocols", "master_service_disable")...)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("postconf: %w", err)
	}
	values := append(strings.Split(words.Output, "\n"), "", "", "")
	return listener(table.Output, values[0], values[1], values[2])
}

// listener chooses from what master.cf has: port 25, else submission, else any
// smtpd. inet_interfaces and inet_protocols say where one without an address
// listens, master_service_disable which do not: postmulti(1) makes an instance
// with all of inet disabled, and who answers at its port is another one.
func listener(table, interfaces, protocols, disabled string) (netip.AddrPort, error) {
	var best netip.AddrPort
	rank := func(port uint16) int {
		switch port {
		case 25:
			return 3
		case 587:
			return 2
		case 0:
			return 0
		}
		return 1
	}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 8 || unicode.IsSpace(rune(line[0])) || f[1] != "inet" || f[7] != "smtpd" && f[7] != "postscreen" {
			continue
		}
		if off := words(disabled); slices.Contains(off, "inet") || slices.Contains(off, f[0]+"/inet") {
			continue
		}
		host, service := "", f[0]
		if i := strings.LastIndexByte(f[0], ':'); i >= 0 {
			host, service = strings.Trim(f[0][:i], "[]"), f[0][i+1:]
		}
		port := map[string]uint16{"smtp": 25, "submission": 587}[service]
		if n, err := strconv.ParseUint(service, 10, 16); err == nil && n != 465 { // TLS from its first byte
			port = uint16(n)
		}
		address, ok := loopback(host, interfaces, protocols)
		if ok && rank(port) > rank(best.Port()) {
			best = netip.AddrPortFrom(address, port)
		}
	}
	if !best.IsValid() {
		return best, errors.New("master.cf has no smtpd whose address and port are known here")
	}
	return best, nil
}

// loopback is an address of this host on which a service listens.
func loopback(host, interfaces, protocols string) (netip.Addr, bool) {
	for _, name := range append([]string{host}, words(interfaces)...) {
		switch name {
		case "":
			continue
		case "all", "loopback-only", "localhost", "*", "0.0.0.0", "::":
			if name == "::" || !strings.Contains(protocols, "all") && !strings.Contains(protocols, "ipv4") {
				return netip.IPv6Loopback(), true
			}
			return netip.AddrFrom4([4]byte{127, 0, 0, 1}), true
		}
		if a, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
			return a, true
		}
		if host != "" {
			return netip.Addr{}, false // a name: looking it up needs a network
		}
	}
	return netip.Addr{}, false
}

// accepts has a dialogue with an SMTP server.
func accepts(at netip.AddrPort) (ok bool, why string) {
	c := &smtp{deadline: time.Now().Add(acceptLimit)}
	if err := c.connect(at); err != nil {
		return false, fmt.Sprintf("smtpd at %s: %v", at, err)
	}
	defer unix.Close(c.fd)
	for _, command := range []string{"", "EHLO localhost\r\n", "MAIL FROM:<>\r\n"} {
		code, text, err := c.say(command)
		asked := strings.TrimSpace(command)
		if asked == "" {
			asked = "the connection"
		}
		switch {
		case err != nil:
			return false, fmt.Sprintf("smtpd at %s: no answer to %s: %v", at, asked, err)
		case code == 530:
			return true, "it wants TLS first: asked no further than " + asked
		case code != 220 && code != 250:
			return false, text
		}
	}
	_, _, _ = c.say("QUIT\r\n") // only to be polite
	return true, ""
}

// smtp is one connection, which as a whole has its time.
type smtp struct {
	fd       int
	deadline time.Time
	read     []byte
}

var errSilent = errors.New("its time is over")

// wait waits until the socket is ready.
func (c *smtp) wait(events int16) error {
	for {
		left := time.Until(c.deadline)
		if left <= 0 {
			return errSilent
		}
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: events}}
		n, err := unix.Poll(fds, int(left/time.Millisecond)+1)
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		return err
	}
}

// connect tries again while nobody listens: master opens its ports before its
// start command returns, and a reload of it closes them for a moment.
func (c *smtp) connect(at netip.AddrPort) error {
	for refused := 0; ; refused++ {
		err := c.dial(at)
		if !errors.Is(err, unix.ECONNREFUSED) || refused == 5 {
			return err
		}
		time.Sleep(acceptRetry)
	}
}

func (c *smtp) dial(at netip.AddrPort) error {
	family, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is4() {
		address.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	} else {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	c.fd = fd
	unix.CloseOnExec(fd)
	if err = unix.SetNonblock(fd, true); err == nil {
		err = unix.Connect(fd, address)
	}
	if errors.Is(err, unix.EINPROGRESS) {
		if err = c.wait(unix.POLLOUT); err == nil {
			var code int
			if code, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
				err = unix.Errno(code)
			}
		}
	}
	if err != nil {
		unix.Close(fd)
	}
	return err
}

// say sends a command, if it is one, and reads the reply.
func (c *smtp) say(command string) (code int, text string, err error) {
	for out := []byte(command); len(out) > 0; {
		if err := c.wait(unix.POLLOUT); err != nil {
			return 0, "", err
		}
		n, err := tell(c.fd, out)
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return 0, "", err
		}
		out = out[max(0, n):]
	}
	for {
		if code, text, rest, ok := smtpReply(c.read); ok {
			c.read = rest
			if code == 0 {
				return 0, "", fmt.Errorf("%.80q is no reply", text)
			}
			return code, text, nil
		}
		if len(c.read) > maxReply {
			return 0, "", errors.New("a reply without an end")
		}
		if err := c.wait(unix.POLLIN); err != nil {
			return 0, "", err
		}
		part := make([]byte, 4<<10)
		n, err := unix.Read(c.fd, part)
		switch {
		case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, "", err
		case n == 0:
			return 0, "", errors.New("the connection was closed")
		default:
			c.read = append(c.read, part[:n]...)
		}
	}
}

const maxReply = 64 << 10

// smtpReply takes one reply from the front of what was read, if it is whole
// (RFC 5321, 4.2). code is 0 for what is none. text is its last line, printable.
func smtpReply(read []byte) (code int, text string, rest []byte, ok bool) {
	for {
		end := bytes.IndexByte(read, '\n')
		if end < 0 {
			return 0, "", read, false
		}
		line := strings.TrimSuffix(string(read[:end]), "\r")
		read = read[end+1:]
		text = strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) && r != unicode.ReplacementChar {
				return r
			}
			return -1
		}, line)
		if len(line) < 3 || line[0] < '2' || line[0] > '5' {
			return 0, text, read, true
		}
		n, err := strconv.ParseUint(line[:3], 10, 16)
		if err != nil || len(line) > 3 && line[3] != ' ' && line[3] != '-' {
			return 0, text, read, true
		}
		if len(line) == 3 || line[3] == ' ' {
			return int(n), text, read, true
		}
	}
}
