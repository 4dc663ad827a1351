package remote

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/clean"
)

// settings is what the files say about one host, tokens expanded.
type settings struct {
	HostName      string
	User          string
	Port          int
	AddressFamily string // any, inet or inet6
	BindAddress   string

	IdentityFiles    []string
	Named            int // how many of them somebody named; the rest are ssh's defaults
	CertificateFiles []string
	IdentitiesOnly   bool
	IdentityAgent    string // "" where not set, "none" for none

	ProxyJump    string // as it stands there, "" for none
	ProxyCommand string // its tokens are expanded, "" for none

	ControlPath string // "" for none

	UserKnownHosts        []string
	GlobalKnownHosts      []string
	HostKeyAlias          string
	StrictHostKeyChecking string // yes, no, ask or accept-new
	RevokedHostKeys       string // a file, or ""

	HostKeyAlgorithms string // as it stands there
	// Algorithms that are known here, none where the default is meant.
	HostKeys, Ciphers, MACs, KexAlgorithms []string

	ConnectTimeout      time.Duration // 0 where not set
	ServerAliveInterval time.Duration // 0 for none
	ServerAliveCountMax int

	Warnings []string
}

// readSSHConfig returns what files say about alias. What is already decided, as
// ssh's own -l, -p and -J do, comes first. own says that the files are the user's
// own, which nobody else may write to.
func (f *configFiles) readSSHConfig(ctx context.Context, files []string, own bool, t Target, localUser, home string) (settings, error) {
	c := &sshConfig{files: f, alias: t.Host, localUser: localUser, home: home, ctx: ctx, values: map[string]option{}}
	if own {
		c.own = home
	}
	c.decided("user", t.User)
	if t.Port != 0 {
		c.decided("port", strconv.Itoa(t.Port))
	}
	c.decided("proxy", t.ProxyJump)
	if err := c.resolve(files); err != nil {
		return settings{}, err
	}
	return c.settings()
}

func (c *sshConfig) decided(keyword, value string) {
	if value != "" {
		c.values[keyword] = option{where: "inventory or command line", args: []string{value}}
	}
}

// fixed is an option whose words have one meaning each; what is none of them is
// a warning, and counts as not set.
func (c *sshConfig) fixed(keyword, otherwise string, words map[string]string) string {
	v := c.first(keyword)
	if v == "" {
		return otherwise
	}
	if word, ok := words[strings.ToLower(v)]; ok {
		return word
	}
	c.warn(c.values[keyword].where, "%s %s is not understood, taken as %s", keyword, v, otherwise)
	return otherwise
}

var yesNo = map[string]string{"yes": "yes", "true": "yes", "no": "no", "false": "no"}

// number is an option that is a whole number from low on.
func (c *sshConfig) number(keyword string, otherwise, low, high int) int {
	v := c.first(keyword)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		c.warn(c.values[keyword].where, "%s %s is no number from %d to %d, taken as %d", keyword, v, low, high, otherwise)
		return otherwise
	}
	return n
}

// duration is an option in the format of sshd_config(5), TIME FORMATS.
func (c *sshConfig) duration(keyword string) time.Duration {
	v := c.first(keyword)
	if v == "" || strings.EqualFold(v, "none") {
		return 0
	}
	d, err := parseTime(v)
	if err != nil {
		c.warn(c.values[keyword].where, "%s: %v, not used", keyword, err)
	}
	return d
}

// maxTime is more than anybody means, and far from what overflows.
const maxTime = 365 * 24 * time.Hour

// parseTime is convtime of OpenSSH's misc.c: numbers, each with a unit or in seconds.
func parseTime(s string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}
	var sum time.Duration
	for rest := s; rest != "" || s == ""; {
		n := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		unit := time.Second
		digits := rest
		if n >= 0 {
			unit = units[rest[n]|0x20]
			digits, rest = rest[:n], rest[n+1:]
		} else {
			rest = ""
		}
		v, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || unit == 0 || time.Duration(v) > maxTime/unit {
			return 0, fmt.Errorf("%s is no time", s)
		}
		sum += time.Duration(v) * unit
	}
	return min(sum, maxTime), nil
}

// settings makes values of the lines. What cannot be done as it stands there is a
// warning, and an error where going on would lead to another place, or trust what
// the line forbids.
func (c *sshConfig) settings() (settings, error) {
	s := settings{HostName: c.hostName(), User: c.user()}
	s.Port = c.number("port", 22, 1, 65535)
	s.AddressFamily = c.fixed("addressfamily", "any", map[string]string{"any": "any", "inet": "inet", "inet6": "inet6"})
	s.BindAddress = c.first("bindaddress")
	s.HostKeyAlias = strings.ToLower(c.first("hostkeyalias"))
	tokens := c.tokens(s.HostName, s.User, s.Port)
	path := func(p string) string { return c.tilde(expand(expandEnv(p), tokens)) }

	for _, file := range c.identity {
		if !strings.EqualFold(file, "none") {
			s.IdentityFiles = append(s.IdentityFiles, path(file))
		}
	}
	s.Named = len(s.IdentityFiles)
	if len(c.identity) == 0 {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			s.IdentityFiles = append(s.IdentityFiles, filepath.Join(c.home, ".ssh", name))
		}
	}
	for _, file := range c.certificates {
		if !strings.EqualFold(file, "none") {
			s.CertificateFiles = append(s.CertificateFiles, path(file))
		}
	}
	s.IdentitiesOnly = c.fixed("identitiesonly", "no", yesNo) == "yes"
	switch a := c.first("identityagent"); {
	case strings.EqualFold(a, "none"):
		s.IdentityAgent = "none"
	case a == "SSH_AUTH_SOCK" || a == "":
	case strings.HasPrefix(a, "$") && !strings.HasPrefix(a, "${"):
		s.IdentityAgent = os.Getenv(a[1:])
	default:
		s.IdentityAgent = path(a)
	}

	files := func(keyword string, otherwise ...string) []string {
		var out []string
		for _, f := range c.values[keyword].args {
			if !strings.EqualFold(f, "none") {
				out = append(out, path(f))
			}
		}
		if len(c.values[keyword].args) == 0 {
			return otherwise
		}
		return out
	}
	s.UserKnownHosts = files("userknownhostsfile", filepath.Join(c.home, ".ssh", "known_hosts"), filepath.Join(c.home, ".ssh", "known_hosts2"))
	s.GlobalKnownHosts = files("globalknownhostsfile", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
	s.StrictHostKeyChecking = c.fixed("stricthostkeychecking", "ask", map[string]string{
		"yes": "yes", "true": "yes", "no": "no", "false": "no", "off": "no", "ask": "ask", "accept-new": "accept-new"})
	if s.StrictHostKeyChecking == "no" {
		c.warn(c.values["stricthostkeychecking"].where, "StrictHostKeyChecking no is taken as accept-new: a key that has changed is never taken")
	}
	if f := c.first("revokedhostkeys"); f != "" && !strings.EqualFold(f, "none") {
		s.RevokedHostKeys = path(f)
	}
	s.HostKeyAlgorithms = c.first("hostkeyalgorithms")
	able, weak := ssh.SupportedAlgorithms(), ssh.InsecureAlgorithms()
	for _, list := range []struct {
		name                 string
		to                   *[]string
		defaults, deprecated []string
	}{
		{"HostKeyAlgorithms", &s.HostKeys, able.HostKeys, weak.HostKeys},
		{"Ciphers", &s.Ciphers, able.Ciphers, weak.Ciphers},
		{"MACs", &s.MACs, able.MACs, weak.MACs},
		{"KexAlgorithms", &s.KexAlgorithms, able.KeyExchanges, weak.KeyExchanges},
	} {
		o := c.values[strings.ToLower(list.name)]
		if len(o.args) == 0 {
			continue
		}
		var err error
		if *list.to, err = chosen(o.args[0], list.defaults, list.deprecated); err != nil {
			return settings{}, fmt.Errorf("%s: %s %s: %w", o.where, list.name, clean.Text(o.args[0], 200), err)
		}
	}

	s.ConnectTimeout = c.duration("connecttimeout")
	s.ServerAliveInterval = c.duration("serveraliveinterval")
	s.ServerAliveCountMax = c.number("serveralivecountmax", 3, 0, 1<<20)
	if err := c.proxy(&s, tokens); err != nil {
		return settings{}, err
	}
	if p := c.first("controlpath"); p != "" && !strings.EqualFold(p, "none") {
		s.ControlPath = c.controlPath(p, s, tokens)
	}
	for _, o := range unable {
		v := strings.ToLower(c.first(o.keyword))
		if v != "" && !slices.Contains(o.harmless, v) {
			c.warn(c.values[o.keyword].where, "%s %s cannot be done here: %s (--transport openssh can)", o.name, v, o.so)
		}
	}
	s.Warnings = c.warnings
	return s, nil
}

// controlPath expands what stands there. %C is a hash of where one connects from
// and to, and %j the last jump host (ssh_connection_hash of OpenSSH's readconf.c).
func (c *sshConfig) controlPath(path string, s settings, tokens map[byte]string) string {
	jump := ""
	if last, _, err := lastHop(s.ProxyJump); err == nil {
		jump = last.host
	}
	hash := sha1.Sum([]byte(tokens['l'] + s.HostName + strconv.Itoa(s.Port) + s.User + jump))
	more := maps.Clone(tokens)
	more['C'], more['j'] = hex.EncodeToString(hash[:]), jump
	return c.tilde(expand(expandEnv(path), more))
}

// unable are options that the client here cannot honour, and what is done
// instead. Those that only make ssh more comfortable are not in it.
var unable = []struct {
	keyword, name string
	harmless      []string // values that ask for nothing
	so            string
}{
	{"pkcs11provider", "PKCS11Provider", []string{"none"}, "add the token's keys to the ssh agent (ssh-add -s)"},
	{"canonicalizehostname", "CanonicalizeHostname", []string{"no", "false", "none"}, "the name is taken as it is"},
	{"bindinterface", "BindInterface", []string{"none"}, "the system chooses; name the address with BindAddress"},
	{"pubkeyauthentication", "PubkeyAuthentication", []string{"yes", "true", "unbound", "host-bound"}, "keys are all there is to log in with"},
	{"pubkeyacceptedalgorithms", "PubkeyAcceptedAlgorithms", nil, "keys of every kind are offered"},
	{"casignaturealgorithms", "CASignatureAlgorithms", nil, "the authorities in the known_hosts files are taken with any of them but SHA-1"},
	{"requiredrsasize", "RequiredRSASize", []string{"1024"}, "keys of 1,024 bits and more are taken"},
	{"knownhostscommand", "KnownHostsCommand", []string{"none"}, "only files are read, so that its hosts are not known"},
	{"verifyhostkeydns", "VerifyHostKeyDNS", []string{"no", "false", "ask"}, "only known_hosts files count"},
}

// proxy reads ProxyJump or ProxyCommand, whichever came first. Not to honour one
// would lead to another place, so that it is an error.
func (c *sshConfig) proxy(s *settings, tokens map[byte]string) error {
	o := c.values["proxy"]
	if len(o.args) == 0 || o.args[0] == "none" {
		return nil
	}
	if o.command {
		if c.fixed("proxyusefdpass", "no", yesNo) == "yes" {
			return fmt.Errorf("%s: ProxyUseFdpass cannot be done here: let the ProxyCommand carry the data (nc without -F), or give --transport openssh", c.values["proxyusefdpass"].where)
		}
		delete(tokens, 'd') // ssh has %h %k %n %p %r there
		command, err := expandForShell(o.args[0], tokens)
		if err != nil {
			return fmt.Errorf("%s: ProxyCommand: %w", o.where, err)
		}
		s.ProxyCommand = command
		return nil
	}
	jump, _, _ := strings.Cut(o.args[0], "#")
	s.ProxyJump = strings.TrimSpace(jump)
	if _, _, err := lastHop(s.ProxyJump); err != nil {
		return fmt.Errorf("%s: ProxyJump %s: %w", o.where, clean.Text(s.ProxyJump, 200), err)
	}
	return nil
}

// hop is one host on the way, as ProxyJump names it.
type hop struct {
	host, user string
	port       int
}

// lastHop takes the last host off a ProxyJump. ssh dials it through the hosts
// before it, and where there are none, as its own configuration says.
func lastHop(jump string) (last hop, before string, err error) {
	text := jump
	if i := strings.LastIndexByte(jump, ','); i >= 0 {
		before, text = jump[:i], jump[i+1:]
		if before == "" {
			return hop{}, "", errors.New("a host is missing")
		}
		if _, _, err := lastHop(before); err != nil {
			return hop{}, "", err
		}
	}
	if rest, ok := strings.CutPrefix(text, "ssh://"); ok {
		text = strings.TrimSuffix(rest, "/")
	}
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		last.user, text = text[:i], text[i+1:]
		if last.user == "" {
			return hop{}, "", errors.New("a user is missing before the @")
		}
	}
	last.host = text
	// A bare IPv6 address has more than one colon, and no port.
	if strings.HasPrefix(text, "[") || strings.Count(text, ":") == 1 {
		host, port, err := net.SplitHostPort(text)
		if err != nil && strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
			host, port, err = text[1:len(text)-1], "", nil
		}
		if err != nil {
			return hop{}, "", err
		}
		last.host = host
		if port != "" {
			n, err := strconv.Atoi(port)
			if err != nil || n < 1 || n > 65535 {
				return hop{}, "", fmt.Errorf("port %s is none", port)
			}
			last.port = n
		}
	}
	if last.host == "" || strings.HasPrefix(last.host, "-") || strings.HasPrefix(last.user, "-") {
		return hop{}, "", fmt.Errorf("%q is no host", text)
	}
	return last, before, nil
}

// assemble makes a list of algorithms of the default one, as kex_assemble_names of
// OpenSSH's kex.c: + adds, - takes away, ^ puts in front, all else stands for
// itself; patterns mean those of all that they match.
func assemble(spec string, defaults, all []string) []string {
	if spec == "" {
		return defaults
	}
	var out []string
	add := func(names []string) {
		for _, n := range names {
			if n != "" && !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	names := strings.Split(strings.TrimLeft(spec[:1], "+-^")+spec[1:], ",")
	var named []string
	for _, n := range names {
		if !strings.ContainsAny(n, "*?") {
			named = append(named, n)
			continue
		}
		for _, a := range all {
			if matchPattern(n, a) {
				named = append(named, a)
			}
		}
	}
	switch spec[0] {
	case '+':
		add(defaults)
		add(named)
	case '^':
		add(named)
		add(defaults)
	case '-':
		for _, d := range defaults {
			if !matchHost(names, d) {
				add([]string{d})
			}
		}
	default:
		add(named)
	}
	return out
}

// chosen is assemble of those that the client here has. A list that leaves none
// is an error: to fall back on others is what the user did not want.
func chosen(spec string, defaults, insecure []string) ([]string, error) {
	all := slices.Concat(defaults, insecure)
	var out []string
	for _, name := range assemble(spec, defaults, all) {
		if slices.Contains(all, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("none of them is known here")
	}
	return out, nil
}
