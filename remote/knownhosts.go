package remote

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// hostKeys are the known_hosts files of a host, read once and asked often.
type hostKeys struct {
	db       *knownhosts.HostKeyDB
	origin   map[string]string // of the private copies: the file they stand for
	state    string            // of the files when they were read
	warnings []string
}

// hostKeys returns what files say, read again only where one has changed: an
// admin may well add a key in another window between two dials.
func (d *Dialer) hostKeys(files []string) (*hostKeys, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var state strings.Builder
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			fmt.Fprintf(&state, "%s %d %d\n", f, info.Size(), info.ModTime().UnixNano())
		}
	}
	name := strings.Join(files, "\x00")
	if k := d.known[name]; k != nil && k.state == state.String() {
		return k, nil
	}
	k, err := readHostKeys(files)
	if err != nil {
		return nil, err
	}
	k.state = state.String()
	if d.known == nil {
		d.known = map[string]*hostKeys{}
	}
	d.known[name] = k
	return k, nil
}

// maxBadLines bounds how often the files are read again without a bad line.
const maxBadLines = 1000

// readHostKeys reads the files that exist. The package underneath refuses a
// whole file for one line it cannot read; ssh skips the line, and so do we. It
// takes only paths, so such a file is copied without the line, but with its
// line numbers.
func readHostKeys(files []string) (*hostKeys, error) {
	k := &hostKeys{origin: map[string]string{}}
	var paths []string
	var dir string
	defer func() {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}()
	lines := map[string][]string{} // of the copies
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			// ssh skips such a file as well; the host is then simply not known.
			k.warnings = append(k.warnings, err.Error())
			continue
		}
		if dir == "" {
			if dir, err = os.MkdirTemp("", "spoolsweep-known-"); err != nil {
				return nil, fmt.Errorf("read known hosts: %w", err)
			}
		}
		path := filepath.Join(dir, strconv.Itoa(len(paths)))
		paths = append(paths, path)
		k.origin[path] = file
		kept := strings.Split(string(text), "\n")
		for i, line := range kept {
			if !readableHostLine(line) {
				k.warnings = append(k.warnings, fmt.Sprintf("%s:%d: unreadable, line skipped", file, i+1))
				kept[i] = ""
			}
		}
		lines[path] = kept
		if err := writeLines(path, kept); err != nil {
			return nil, fmt.Errorf("read known hosts: %w", err)
		}
	}
	for range maxBadLines {
		db, err := knownhosts.NewDB(paths...)
		if err == nil {
			k.db = db
			return k, nil
		}
		path, n := badLine(err)
		if kept := lines[path]; n < 1 || n > len(kept) || kept[n-1] == "" {
			return nil, fmt.Errorf("read known hosts: %w", err)
		}
		k.warnings = append(k.warnings, fmt.Sprintf("%s:%d: unreadable, line skipped", k.origin[path], n))
		lines[path][n-1] = ""
		if err := writeLines(path, lines[path]); err != nil {
			return nil, fmt.Errorf("read known hosts: %w", err)
		}
	}
	return nil, fmt.Errorf("read known hosts: more than %d unreadable lines in %s", maxBadLines, strings.Join(files, ", "))
}

func writeLines(path string, lines []string) error {
	return os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600)
}

// readableHostLine sorts out the common bad lines at once; what it lets through
// wrongly is found by badLine, at the price of one more reading.
func readableHostLine(line string) bool {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return true
	}
	// The reader underneath is a bufio.Scanner, which gives up at 64 KiB.
	if len(line) > 60<<10 {
		return false
	}
	_, _, _, _, _, err := ssh.ParseKnownHosts([]byte(line))
	return err == nil
}

var badLinePattern = regexp.MustCompile(`^knownhosts: (.*):(\d+): `)

func badLine(err error) (path string, line int) {
	m := badLinePattern.FindStringSubmatch(err.Error())
	if m == nil {
		return "", 0
	}
	line, _ = strconv.Atoi(m[2])
	return m[1], line
}

// otherAlgorithms are what is offered after the kinds a host is known by, the
// strongest first. Without them a server that lost its known key would fail
// with "no common algorithm", which says nothing about the key.
var otherAlgorithms = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// algorithms returns what to ask the server for, of those in allowed where that
// is not empty. The kinds the host is known by come first: by its own order
// x/crypto would ask for another of the server's keys and take a known host for
// an attack (golang/go#29286). Certificates are asked for only where an authority
// is known, since one of another is as good as an unknown key.
func (k *hostKeys) algorithms(hostport string, allowed []string) []string {
	known := k.db.HostKeyAlgorithms(hostport)
	if len(known) == 0 {
		known = k.db.HostKeyAlgorithms(withoutPort(hostport))
	}
	plain := otherAlgorithms
	if len(allowed) > 0 {
		plain = slices.DeleteFunc(slices.Clone(allowed), func(a string) bool { return strings.Contains(a, "-cert-") })
	}
	var out []string
	for _, a := range slices.Concat(known, plain) {
		switch {
		case slices.Contains(out, a), len(allowed) > 0 && !slices.Contains(allowed, a):
		case len(allowed) == 0 && (a == ssh.KeyAlgoRSA || a == ssh.CertAlgoRSAv01 || a == "ssh-dss"):
			// SHA-1 is for those who ask for it, as with ssh itself.
		default:
			out = append(out, a)
		}
	}
	if len(out) == 0 {
		return allowed
	}
	return out
}

// withoutPort is how a host stands in a file for its usual port.
func withoutPort(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return hostport
	}
	return net.JoinHostPort(host, "22")
}

// readRevoked reads the keys of a RevokedHostKeys file, "" for none.
func readRevoked(file string) ([]ssh.PublicKey, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("RevokedHostKeys: %w", err)
	}
	if bytes.HasPrefix(text, []byte("SSHKRL\n\x00")) {
		return nil, fmt.Errorf("RevokedHostKeys %s: it is a KRL, and only a list of public keys can be read here, or --transport openssh be given", file)
	}
	var keys []ssh.PublicKey
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, _, _, _, err := ssh.ParseAuthorizedKey(line)
		if err != nil {
			return nil, fmt.Errorf("RevokedHostKeys %s:%d: %w", file, n, err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// check is nil for a key that stands in the files for hostport, else a
// *DialError without host and address.
func (k *hostKeys) check(hostport string, remote net.Addr, key ssh.PublicKey, files []string) error {
	err := k.db.HostKeyCallback()(hostport, remote, key)
	if err == nil {
		return nil
	}
	var unknown *xknownhosts.KeyError
	if plain := withoutPort(hostport); plain != hostport && errors.As(err, &unknown) && len(unknown.Want) == 0 {
		// As in OpenSSH's sshconnect.c: a host that stands there without its port
		// is known by that key, but another key means nothing.
		if k.db.HostKeyCallback()(plain, remote, key) == nil {
			return nil
		}
	}
	shown := key
	if cert, ok := key.(*ssh.Certificate); ok {
		shown = cert.Key
		// The checker of certificates does not say which line revokes one.
		for _, part := range []ssh.PublicKey{cert.SignatureKey, cert.Key} {
			var line *xknownhosts.RevokedError
			if errors.As(k.db.HostKeyCallback()(hostport, remote, part), &line) {
				err = line
			}
		}
	}
	e := &DialError{KeyType: shown.Type(), Fingerprint: ssh.FingerprintSHA256(shown)}
	var changed *xknownhosts.KeyError
	var revoked *xknownhosts.RevokedError
	switch {
	case errors.As(err, &revoked):
		e.Kind = KindChangedKey
		e.KnownAt = k.place(revoked.Revoked)
		// The files' reader takes @revoked for all names, whatever pattern
		// stands beside it: safe, but to be said.
		e.Err = fmt.Errorf("that key is revoked at %s", e.KnownAt)
		e.Remedy = "do not connect: ask who runs this host"
	case errors.As(err, &changed) && len(changed.Want) > 0:
		e.Kind = KindChangedKey
		want := changed.Want[0]
		for _, w := range changed.Want {
			if w.Key.Type() == shown.Type() {
				want = w
				break
			}
		}
		e.KnownAt = k.place(want)
		e.Err = fmt.Errorf("%s has %s %s", e.KnownAt, want.Key.Type(), ssh.FingerprintSHA256(want.Key))
		e.Remedy = fmt.Sprintf("somebody may be listening in; ask who runs this host, and only if the key was changed on purpose remove %s (ssh-keygen -R %s -f %s)",
			e.KnownAt, quote(knownhosts.Normalize(hostport)), quote(k.origin[want.Filename]))
	default:
		e.Kind = KindUnknownKey
		// A certificate that its authority's line does not cover ends here
		// too, and says so itself.
		if !errors.As(err, &changed) {
			e.Err = err
		}
		e.Remedy = unknownRemedy(hostport, files)
	}
	return e
}

// remember adds a host's key to a file, its name hashed, in one write.
func (d *Dialer) remember(file, hostport string, key ssh.PublicKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	line := xknownhosts.Line([]string{xknownhosts.HashHostname(xknownhosts.Normalize(hostport))}, key) + "\n"
	last := make([]byte, 1)
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end > 0 {
		if _, err := f.ReadAt(last, end-1); err == nil && last[0] != '\n' {
			line = "\n" + line // somebody's editor left the last line open
		}
	}
	_, err = f.WriteString(line)
	return errors.Join(err, f.Close())
}

func (k *hostKeys) place(at xknownhosts.KnownKey) string {
	return fmt.Sprintf("%s:%d", k.origin[at.Filename], at.Line)
}

func unknownRemedy(hostport string, files []string) string {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		host, port = hostport, "22"
	}
	file := "~/.ssh/known_hosts"
	if len(files) > 0 {
		file = files[0]
	}
	scan := "ssh-keyscan -H " + quote(host)
	login := "ssh " + quote(host)
	if port != "22" {
		scan = "ssh-keyscan -H -p " + port + " " + quote(host)
		login = "ssh -p " + port + " " + quote(host)
	}
	if strings.HasPrefix(file, "~") {
		return fmt.Sprintf("compare the fingerprint with the host's own, then %s >> %s, or log in once with %s", scan, file, login)
	}
	return fmt.Sprintf("compare the fingerprint with the host's own, then %s >> %s", scan, quote(file))
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:@%+=,-]+$`)

// quote makes a word safe to be typed after $ in a message.
func quote(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
