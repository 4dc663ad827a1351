package remote

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"spoolsweep/remote/clean"
)

// sshConfig reads ssh_config(5) for one host as ssh itself would: the first
// value wins, IdentityFile collects. Unknown keywords are none of our business;
// what cannot be honoured is a warning with its file and line, since what stands
// in the user's file must never stop a run.
type sshConfig struct {
	alias     string // the name as it was asked for
	localUser string
	home      string

	values   map[string][]string // by keyword in lower case: the first one's arguments
	identity []string            // IdentityFile, in order
	warnings []string
}

// maxInclude is OpenSSH's READCONF_MAX_DEPTH.
const maxInclude = 16

// settings is what the files say about one host, tokens expanded.
type settings struct {
	HostName         string
	User             string
	Port             int
	IdentityFiles    []string
	Named            int // how many of them somebody named; the rest are ssh's defaults
	IdentitiesOnly   bool
	IdentityAgent    string // "" where not set, "none" for none
	UserKnownHosts   []string
	GlobalKnownHosts []string
	HostKeyAlias     string
	Warnings         []string
}

// readSSHConfig returns what files say about alias. A user or port that is
// already decided comes first, as ssh's own -l and -p do. Files that do not
// exist are skipped.
func readSSHConfig(files []string, alias, user string, port int, localUser, home string) (settings, error) {
	c := &sshConfig{alias: alias, localUser: localUser, home: home, values: map[string][]string{}}
	if user != "" {
		c.values["user"] = []string{user}
	}
	if port != 0 {
		c.values["port"] = []string{strconv.Itoa(port)}
	}
	for _, file := range files {
		if err := c.read(file, 0); err != nil {
			return settings{}, err
		}
	}
	return c.settings(), nil
}

func (c *sshConfig) warn(where, format string, args ...any) {
	c.warnings = append(c.warnings, where+": "+clean.Text(fmt.Sprintf(format, args...), 300))
}

// read takes in one file. active says at each line whether it is meant for this host.
func (c *sshConfig) read(file string, depth int) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read ssh configuration: %w", err)
	}
	active := true
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, len(text)+1)
	for n := 1; lines.Scan(); n++ {
		where := fmt.Sprintf("%s:%d", file, n)
		keyword, args, err := splitLine(lines.Text())
		switch {
		case err != nil:
			c.warn(where, "%v, line skipped", err)
		case keyword == "":
		case len(args) == 0:
			c.warn(where, "%s without a value, line skipped", keyword)
		case keyword == "host":
			active = matchHost(args, c.alias)
		case keyword == "match":
			active = c.match(where, args)
		case !active:
		case keyword == "include":
			c.include(where, file, args, depth)
		case keyword == "identityfile":
			c.identity = append(c.identity, args[0])
		default:
			if _, set := c.values[keyword]; !set {
				c.values[keyword] = args
			}
		}
	}
	return lines.Err()
}

func (c *sshConfig) include(where, file string, patterns []string, depth int) {
	if depth+1 > maxInclude {
		c.warn(where, "Include nested too deeply, skipped")
		return
	}
	for _, pattern := range patterns {
		pattern = c.tilde(pattern)
		if !filepath.IsAbs(pattern) {
			// Of the user's files to ~/.ssh, whatever folder they are in.
			dir := filepath.Join(c.home, ".ssh")
			if strings.HasPrefix(file, "/etc/ssh/") {
				dir = "/etc/ssh"
			}
			pattern = filepath.Join(dir, pattern)
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			c.warn(where, "Include %s: %v", pattern, err)
		}
		for _, name := range found {
			if err := c.read(name, depth+1); err != nil {
				c.warn(where, "Include %s: %v", name, err)
			}
		}
	}
}

// match decides a Match line. What would run a program, or needs a second pass,
// counts as not matching.
func (c *sshConfig) match(where string, args []string) bool {
	for i := 0; i < len(args); i++ {
		word := strings.ToLower(args[i])
		not := strings.HasPrefix(word, "!")
		word = strings.TrimPrefix(word, "!")
		if word == "all" {
			continue
		}
		switch word {
		case "host", "originalhost", "user", "localuser":
		default:
			c.warn(where, "Match %s is not understood here, block skipped", word)
			return false
		}
		if i++; i == len(args) {
			c.warn(where, "Match %s without a value, block skipped", word)
			return false
		}
		var value string
		switch word {
		case "host":
			value = c.hostName()
		case "originalhost":
			value = c.alias
		case "user":
			value = c.user()
		case "localuser":
			value = c.localUser
		}
		if word == "host" || word == "originalhost" {
			value = strings.ToLower(value)
		}
		if matchHost(strings.Split(args[i], ","), value) == not {
			return false
		}
	}
	return true
}

func (c *sshConfig) first(keyword string) string {
	if v := c.values[keyword]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c *sshConfig) user() string {
	if u := c.first("user"); u != "" {
		return u
	}
	return c.localUser
}

// hostName is what ssh would connect to: names in lower case, as ssh.c makes them.
func (c *sshConfig) hostName() string {
	name := c.first("hostname")
	if name == "" {
		name = c.alias
	}
	return strings.ToLower(expand(name, map[byte]string{'h': c.alias}))
}

func (c *sshConfig) tilde(path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		return filepath.Join(c.home, path[1:])
	}
	return path
}

func (c *sshConfig) settings() settings {
	s := settings{HostName: c.hostName(), User: c.user(), Port: 22}
	if p := c.first("port"); p != "" {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			c.warnings = append(c.warnings, fmt.Sprintf("ssh configuration of %s: port %s is none, taken as 22", clean.Text(c.alias, 100), clean.Text(p, 20)))
			n = 22
		}
		s.Port = n
	}
	short, _ := os.Hostname()
	tokens := map[byte]string{
		'd': c.home, 'h': s.HostName, 'n': c.alias, 'p': strconv.Itoa(s.Port), 'r': s.User, 'u': c.localUser,
		'i': strconv.Itoa(os.Getuid()), 'l': short, 'L': strings.SplitN(short, ".", 2)[0],
	}
	s.HostKeyAlias = c.first("hostkeyalias")
	tokens['k'] = s.HostKeyAlias
	if s.HostKeyAlias == "" {
		tokens['k'] = c.alias
	}
	path := func(p string) string { return c.tilde(expand(expandEnv(p), tokens)) }
	for _, file := range c.identity {
		if strings.EqualFold(file, "none") {
			continue
		}
		s.IdentityFiles = append(s.IdentityFiles, path(file))
	}
	s.Named = len(s.IdentityFiles)
	if len(c.identity) == 0 {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			s.IdentityFiles = append(s.IdentityFiles, filepath.Join(c.home, ".ssh", name))
		}
	}
	s.IdentitiesOnly = strings.EqualFold(c.first("identitiesonly"), "yes")
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
		for _, f := range c.values[keyword] {
			if !strings.EqualFold(f, "none") {
				out = append(out, path(f))
			}
		}
		if len(c.values[keyword]) == 0 {
			return otherwise
		}
		return out
	}
	s.UserKnownHosts = files("userknownhostsfile", filepath.Join(c.home, ".ssh", "known_hosts"), filepath.Join(c.home, ".ssh", "known_hosts2"))
	s.GlobalKnownHosts = files("globalknownhostsfile", "/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
	for _, keyword := range []string{"ProxyJump", "ProxyCommand"} {
		if v := c.first(strings.ToLower(keyword)); v != "" && !strings.EqualFold(v, "none") {
			c.warnings = append(c.warnings, fmt.Sprintf("ssh configuration of %s: %s is not used yet, connecting directly", clean.Text(c.alias, 100), keyword))
		}
	}
	s.Warnings = c.warnings
	return s
}

// matchHost is match_pattern_list of OpenSSH's match.c: any pattern, and none of
// the negated ones.
func matchHost(patterns []string, name string) bool {
	found := false
	for _, p := range patterns {
		if not, ok := strings.CutPrefix(p, "!"); ok {
			if matchPattern(not, name) {
				return false
			}
		} else if matchPattern(p, name) {
			found = true
		}
	}
	return found
}

// matchPattern knows * and ? and nothing else, as match_pattern of match.c.
func matchPattern(pattern, s string) bool {
	star, back := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, back = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			back++
			p, i = star+1, back
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// splitLine takes a line apart as argv_split of OpenSSH's misc.c does: blanks or
// one = after the keyword, quotes, \ before a quote, a backslash or a blank, and
// # for a comment.
func splitLine(line string) (keyword string, args []string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", nil, nil
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return strings.ToLower(strings.Trim(line, `"`)), nil, nil
	}
	keyword = strings.ToLower(strings.Trim(line[:end], `"`))
	rest := strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	for i := 0; i < len(rest); {
		switch rest[i] {
		case ' ', '\t':
			i++
			continue
		case '#':
			return keyword, args, nil
		}
		var arg strings.Builder
		var quote byte
	word:
		for ; i < len(rest); i++ {
			ch := rest[i]
			switch {
			case ch == '\\' && i+1 < len(rest) && (strings.IndexByte(`"'\`, rest[i+1]) >= 0 || quote == 0 && rest[i+1] == ' '):
				i++
				arg.WriteByte(rest[i])
			case quote == 0 && (ch == ' ' || ch == '\t'):
				break word
			case quote == 0 && (ch == '"' || ch == '\''):
				quote = ch
			case quote != 0 && ch == quote:
				quote = 0
			default:
				arg.WriteByte(ch)
			}
		}
		if quote != 0 {
			return "", nil, fmt.Errorf("no closing %c", quote)
		}
		args = append(args, arg.String())
	}
	return keyword, args, nil
}

// expand replaces the tokens that are known and leaves the others as they stand.
func expand(s string, tokens map[byte]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '%' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		if v, ok := tokens[s[i]]; ok {
			b.WriteString(v)
		} else if s[i] == '%' {
			b.WriteByte('%')
		} else {
			b.WriteString(s[i-1 : i+1])
		}
	}
	return b.String()
}

// expandEnv replaces ${NAME}; one that is not set stays, as nothing good can
// come of a path that lost a part.
func expandEnv(s string) string {
	var b strings.Builder
	for {
		start := strings.Index(s, "${")
		if start < 0 {
			return b.String() + s
		}
		end := strings.IndexByte(s[start:], '}')
		if end < 0 {
			return b.String() + s
		}
		name := s[start+2 : start+end]
		b.WriteString(s[:start])
		if v, ok := os.LookupEnv(name); ok {
			b.WriteString(v)
		} else {
			b.WriteString(s[start : start+end+1])
		}
		s = s[start+end+1:]
	}
}
