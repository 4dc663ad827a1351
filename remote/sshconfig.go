package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"spoolsweep/remote/clean"
)

// sshConfig reads ssh_config(5) for one host as ssh itself would: the first
// value wins, IdentityFile and CertificateFile collect, and a Match final has all
// files read a second time. Unknown keywords are none of our business.
type sshConfig struct {
	files     *configFiles
	alias     string // the name as it was asked for
	localUser string
	home      string
	own       string          // the user's own file, which nobody else may write to
	ctx       context.Context // of what Match exec runs

	values       map[string]option // by keyword in lower case: the first one
	identity     []string          // IdentityFile, in order
	certificates []string          // CertificateFile, in order
	warnings     []string
	final        bool // this is the second reading
	wantFinal    bool // somebody asked for one
}

// option is one line of a configuration.
type option struct {
	where string // file:line
	args  []string
	rest  string // the line after its keyword, as it stands there

	command bool // of ProxyCommand, not ProxyJump
}

// maxInclude is OpenSSH's READCONF_MAX_DEPTH.
const maxInclude = 16

// execLimit bounds what Match exec runs. ssh waits for ever, which one host of
// many must not.
const execLimit = 30 * time.Second

// resolve reads the files, and once more where that is asked for. Files that do
// not exist are skipped.
func (c *sshConfig) resolve(files []string) error {
	for {
		for _, file := range files {
			if err := c.read(file, 0, true); err != nil {
				return err
			}
		}
		if c.final || !c.wantFinal {
			return nil
		}
		name := c.hostName()
		c.final = true
		c.values["hostname"] = option{args: []string{strings.ReplaceAll(name, "%", "%%")}}
	}
}

func (c *sshConfig) warn(where, format string, args ...any) {
	text := where + ": " + clean.Text(fmt.Sprintf(format, args...), 300)
	if !slices.Contains(c.warnings, text) { // the second reading says all again
		c.warnings = append(c.warnings, text)
	}
}

// read takes in one file. active says at each line whether it is meant for this
// host; where it is not so from the start, it never is.
func (c *sshConfig) read(file string, depth int, live bool) error {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && c.own != "" && !strings.HasPrefix(file, "/etc/ssh/") {
		err = ownedAlone(file)
	}
	if err != nil {
		return fmt.Errorf("read ssh configuration: %w", err)
	}
	active := live
	for _, l := range c.files.lines(file, string(text)) {
		o := l.option
		switch keyword := l.keyword; {
		case l.err != nil:
			c.warn(o.where, "%v, line skipped", l.err)
		case len(o.args) == 0:
			c.warn(o.where, "%s without a value, line skipped", keyword)
		case keyword == "host":
			active = live && matchHost(o.args, c.alias)
		case keyword == "match":
			active = c.match(o.where, o.args, live)
		case keyword == "include":
			// What is not meant for this host may still ask for a second reading.
			c.include(o.where, file, o.args, depth, active)
		case active:
			c.take(keyword, o)
		}
	}
	return nil
}

// configFiles has files split into lines: one file may speak of each of a thousand hosts.
type configFiles struct {
	mu    sync.Mutex
	split map[string]splitFile
}

type splitFile struct {
	text  string
	lines []configLine
}

type configLine struct {
	option
	keyword string
	err     error
}

// lines are those of a file that say something, which is split once as long as its
// text is the same. They are shared, and not changed.
func (f *configFiles) lines(file, text string) []configLine {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.split[file]; s.text == text {
		return s.lines
	}
	s := splitFile{text: text}
	n := 0
	for line := range strings.Lines(text) {
		n++
		l := configLine{option: option{where: fmt.Sprintf("%s:%d", file, n)}}
		l.keyword, l.rest, l.args, l.err = splitLine(line)
		if l.err != nil && rawKeywords[l.keyword] {
			l.args, l.err = []string{l.rest}, nil // quotes there are the shell's
		}
		if l.keyword != "" || l.err != nil {
			s.lines = append(s.lines, l)
		}
	}
	if f.split == nil {
		f.split = map[string]splitFile{}
	}
	f.split[file] = s
	return s.lines
}

// take keeps a line, unless one before it decided the matter.
func (c *sshConfig) take(keyword string, o option) {
	collect := func(to *[]string) {
		if !slices.Contains(*to, o.args[0]) {
			*to = append(*to, o.args[0])
		}
	}
	switch keyword {
	case "identityfile":
		collect(&c.identity)
		return
	case "certificatefile":
		collect(&c.certificates)
		return
	case "proxycommand", "proxyjump":
		// The first of the two counts, even where it says none.
		o.command = keyword == "proxycommand"
		keyword, o.args = "proxy", []string{o.rest}
		if strings.HasPrefix(strings.ToLower(o.rest), "none") && len(strings.Fields(o.rest)) == 1 {
			o.args = []string{"none"}
		}
	case "connecttimeout", "serveraliveinterval":
		if o.args[0] == "none" {
			return // to ssh that is one that was not set
		}
	case "pubkeyacceptedkeytypes":
		keyword = "pubkeyacceptedalgorithms"
	}
	if _, set := c.values[keyword]; !set {
		c.values[keyword] = o
	}
}

// rawKeywords are those whose value is the rest of the line.
var rawKeywords = map[string]bool{"proxycommand": true, "proxyjump": true, "localcommand": true, "remotecommand": true, "knownhostscommand": true}

// ownedAlone is what ssh wants of the user's file, since it names programs to run.
func ownedAlone(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if ok && owner.Uid != 0 && int(owner.Uid) != os.Getuid() || info.Mode()&0o022 != 0 {
		return fmt.Errorf("%s: others own it or may write to it (mode %04o): chown and chmod 600 it, as ssh wants", file, info.Mode().Perm())
	}
	return nil
}

func (c *sshConfig) include(where, file string, patterns []string, depth int, live bool) {
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
			if err := c.read(name, depth+1, live); err != nil {
				c.warn(where, "Include %s: %v", name, err)
			}
		}
	}
}

// match decides a Match line, as match_cfg_line of OpenSSH's readconf.c. One that
// is not understood counts as not matching. Where it stands in a block that does
// not count, nothing is run for it.
func (c *sshConfig) match(where string, args []string, live bool) bool {
	result := live
	for i := 0; i < len(args); i++ {
		word := args[i]
		not := strings.HasPrefix(word, "!")
		word = strings.TrimPrefix(word, "!")
		value, given := "", false
		if name, v, ok := strings.Cut(word, "="); ok {
			word, value, given = name, v, true
		}
		word = strings.ToLower(word)
		var got bool
		switch word {
		case "all":
			if len(args) > 1 && (i != 1 || len(args) > 2) {
				c.warn(where, "Match all is alone in its line, or after final or canonical; block skipped")
				return false
			}
			result = result && !not
			continue
		case "final", "canonical":
			c.wantFinal = c.wantFinal || word == "final"
			result = result && c.final != not
			continue
		case "host", "originalhost", "user", "localuser", "exec":
		default:
			c.warn(where, "Match %s is not understood here, block skipped", word)
			return false
		}
		if !given {
			if i++; i == len(args) {
				c.warn(where, "Match %s without a value, block skipped", word)
				return false
			}
			value = args[i]
		}
		patterns := strings.Split(value, ",")
		switch word {
		case "host":
			got = matchHost(strings.Split(strings.ToLower(value), ","), strings.ToLower(c.named()))
		case "originalhost":
			got = matchHost(strings.Split(strings.ToLower(value), ","), strings.ToLower(c.alias))
		case "user":
			got = matchHost(patterns, c.user())
		case "localuser":
			got = matchHost(patterns, c.localUser)
		case "exec":
			if !result {
				continue // ssh does not run it either
			}
			var err error
			if got, err = c.succeeds(value); err != nil {
				c.warn(where, "Match exec: %v, block skipped", err)
				return false
			}
		}
		result = result && got != not
	}
	return result
}

// succeeds runs a command of the user's file as ssh does, through the user's shell.
func (c *sshConfig) succeeds(command string) (bool, error) {
	port := 22
	if n, err := strconv.Atoi(c.first("port")); err == nil {
		port = n
	}
	tokens := c.tokens(c.named(), c.user(), port)
	command, err := expandForShell(command, tokens)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, execLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, userShell(), "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what it starts ends with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return false, fmt.Errorf("%s: no end of it: %w", command, context.Cause(ctx))
	case errors.As(err, &exit):
		return false, nil
	}
	return err == nil, err
}

func userShell() string {
	if shell := os.Getenv("SHELL"); shell != "" {
		return shell
	}
	return "/bin/sh"
}

func (c *sshConfig) first(keyword string) string {
	if v := c.values[keyword].args; len(v) > 0 {
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

// named is what HostName makes of the name, as Match host sees it.
func (c *sshConfig) named() string {
	if name := c.first("hostname"); name != "" {
		return expand(name, map[byte]string{'h': c.alias})
	}
	return c.alias
}

// hostName is what ssh would connect to: names in lower case and addresses in
// their one form, as ssh.c makes them.
func (c *sshConfig) hostName() string {
	name := c.named()
	if a, err := netip.ParseAddr(name); err == nil {
		return a.String()
	}
	return strings.ToLower(name)
}

func (c *sshConfig) tilde(path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		return filepath.Join(c.home, path[1:])
	}
	return path
}

// tokens are those of ssh_config(5) that stand for this host.
func (c *sshConfig) tokens(hostName, user string, port int) map[byte]string {
	name, _ := os.Hostname()
	tokens := map[byte]string{
		'd': c.home, 'h': hostName, 'n': c.alias, 'p': strconv.Itoa(port), 'r': user, 'u': c.localUser,
		'i': strconv.Itoa(os.Getuid()), 'l': name, 'L': strings.SplitN(name, ".", 2)[0],
	}
	tokens['k'] = strings.ToLower(c.first("hostkeyalias"))
	if tokens['k'] == "" {
		tokens['k'] = c.alias
	}
	return tokens
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
func splitLine(line string) (keyword, rest string, args []string, err error) {
	line = strings.TrimSpace(line)
	if line == "" || line[0] == '#' {
		return "", "", nil, nil
	}
	end := strings.IndexAny(line, " \t=")
	if end < 0 {
		return strings.ToLower(strings.Trim(line, `"`)), "", nil, nil
	}
	keyword = strings.ToLower(strings.Trim(line[:end], `"`))
	rest = strings.TrimLeft(line[end:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	for i := 0; i < len(rest); {
		switch rest[i] {
		case ' ', '\t':
			i++
			continue
		case '#':
			return keyword, rest, args, nil
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
			return keyword, rest, nil, fmt.Errorf("no closing %c", quote)
		}
		args = append(args, arg.String())
	}
	return keyword, rest, args, nil
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

// shellUnsafe are the characters that OpenSSH takes in no host or user name, since
// tokens go into a shell's command unquoted.
const shellUnsafe = "'`\"$\\;&<>|(){},#*?[]!~"

// expandForShell is expand for a command. What a token stands for may come from
// an inventory, and must be one harmless word.
func expandForShell(s string, tokens map[byte]string) (string, error) {
	for i := 0; i+1 < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		i++
		v := tokens[s[i]]
		if s[i] != 'd' && (strings.HasPrefix(v, "-") || strings.ContainsAny(v, shellUnsafe) || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7f })) {
			return "", fmt.Errorf("%%%c would put %q into a shell's command", s[i], v)
		}
	}
	return expand(s, tokens), nil
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
