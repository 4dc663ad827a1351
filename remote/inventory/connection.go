package inventory

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"spoolsweep/playbooks/strict"
)

const (
	sshMap        = "ssh"
	groupPriority = "ansible_group_priority"
	ansiblePort   = "ansible_port"
)

// connectionVars are the variables that a [Connection] is read from.
var connectionVars = []string{
	sshMap,
	"ansible_host", "ansible_port", "ansible_user", "ansible_ssh_private_key_file",
	"ansible_become", "ansible_become_method", "ansible_become_user",
}

// becomePasswords are the names of a password for sudo, doas or su.
var becomePasswords = []string{
	"ansible_become_pass", "ansible_become_password", "ansible_sudo_pass", "ansible_doas_pass", "ansible_su_pass", "ssh: become_password",
}

// becomeMethods are the programs to become root with, in Ansible's words.
var becomeMethods = []string{"sudo", "doas", "su"}

// becomeMethod is a method without the collection that Ansible has it in.
func becomeMethod(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "ansible.builtin."), "community.general.")
}

// passwords are the variables in which Ansible takes a password.
var passwords = []string{
	"ansible_password", "ansible_ssh_pass", "ansible_ssh_password",
	"ansible_become_pass", "ansible_become_password", "ansible_sudo_pass", "ansible_doas_pass", "ansible_su_pass",
	"ansible_private_key_passphrase", "ansible_ssh_private_key_passphrase",
}

// oldNames are those that Ansible still reads beside the present ones, and in
// preference to them even when they are set for a group only.
var oldNames = map[string]string{
	"ansible_ssh_host":         "ansible_host",
	"ansible_ssh_port":         "ansible_port",
	"ansible_ssh_user":         "ansible_user",
	"ansible_private_key_file": "ansible_ssh_private_key_file",
}

// ansibleVars are other variables of Ansible's about connections.
var ansibleVars = []string{
	"ansible_ssh_host", "ansible_ssh_port", "ansible_ssh_user", "ansible_private_key_file",
	"ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args",
	"ansible_become_exe", "ansible_become_flags", "ansible_connection", groupPriority,
}

var jump = regexp.MustCompile(`(?i)(?:^|\s)-J|Proxy(?:Jump|Command)`)

// commonArgs are Ansible's further arguments of ssh. A jump host among them is used.
const commonArgs = "ansible_ssh_common_args"

// jumpOf finds the jump host among ssh's arguments, and says whether there is
// anything else. It is not ok where the way is another than a jump host's, or
// cannot be told for sure.
func jumpOf(args string) (hosts string, more, ok bool) {
	words := strings.Fields(args)
	for i := 0; i < len(words); i++ {
		word := words[i]
		if (word == "-o" || word == "-J") && i+1 < len(words) {
			i++
			word += words[i]
		}
		value, is := strings.CutPrefix(word, "-J")
		if option, found := strings.CutPrefix(word, "-o"); found {
			name, v, cut := strings.Cut(option, "=")
			value, is = v, cut && strings.EqualFold(name, "ProxyJump")
		}
		switch {
		case is && value != "" && hosts == "" && !strings.ContainsAny(value, "\"'\\"):
			hosts = value
		case is, jump.MatchString(word):
			return "", false, false
		default:
			more = true
		}
	}
	return hosts, more, true
}

// settings is what one map of variables says about the connection; nil is
// unsaid. The tags are the keys of the map ssh.
type settings struct {
	Host       *string `json:"host"`
	Port       *int    `json:"port"`
	User       *string `json:"user"`
	PrivateKey *string `json:"private_key"`
	ProxyJump  *string `json:"proxy_jump"`
	Become     *bool   `json:"become"`
	Method     *string `json:"become_method"`
	BecomeUser *string `json:"-"`
}

// ansible are Ansible's variables for the same.
func (s *settings) ansible() map[string]any {
	return map[string]any{
		"ansible_host": &s.Host, "ansible_port": &s.Port, "ansible_user": &s.User,
		"ansible_ssh_private_key_file": &s.PrivateKey,
		"ansible_become":               &s.Become, "ansible_become_method": &s.Method, "ansible_become_user": &s.BecomeUser,
	}
}

// Settings are what variables may say about a connection, for whoever describes
// inventories: a struct whose json tags are the keys of the map ssh, and Ansible's
// variables, each with a pointer to what it is.
func Settings() (ssh any, ansible map[string]any) {
	s := new(settings)
	return s, s.ansible()
}

// GroupKeys are what a group has.
func GroupKeys() []string { return slices.Clone(groupKeys) }

// readSettings reads the map ssh, and what Ansible has for the same. Each setting
// counts by itself: a host that sets ssh.port keeps the ssh.user of its group.
func readSettings(vars *strict.Value) (*settings, error) {
	s := &settings{}
	if e, ok := vars.Entry(sshMap); ok {
		if err := readSSH(e, s); err != nil {
			return nil, err
		}
	}
	fields := s.ansible()
	for _, e := range vars.Entries() {
		name, field := e.Key.Text, fields[e.Key.Text]
		if name == commonArgs && e.Value.Kind == strict.String {
			if err := readCommonArgs(e, s); err != nil {
				return nil, err
			}
		}
		if field == nil || e.Value.Kind == strict.Null {
			continue
		}
		if given(field) {
			return nil, e.Key.Errorf("%s says again what ssh says", name)
		}
		value := e.Value
		switch field.(type) {
		case **int, **bool: // Ansible takes "22" and "yes" too
			value = value.Unquoted()
		case **string: // and 1000 for a user
			if value.Kind == strict.Int {
				value = value.With(value.Text)
			}
		}
		if err := strict.Decode(value, field); err != nil {
			return nil, err.(*strict.Error).In(name)
		}
		if err := checkSetting(name, e.Value, field); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func readCommonArgs(e strict.Entry, s *settings) error {
	hosts, _, ok := jumpOf(e.Value.Text)
	switch {
	case !ok:
		return e.Key.Errorf("%s: which way it leads cannot be told", commonArgs).
			WithHint("write -J HOST, or put ProxyCommand into ~/.ssh/config")
	case hosts != "" && s.ProxyJump != nil:
		return e.Key.Errorf("%s says again what ssh says", commonArgs)
	case s.ProxyJump == nil:
		s.ProxyJump = &hosts // none where there is none: those of a group are not for this host
	}
	return checkSetting(commonArgs, e.Value, &s.ProxyJump)
}

func readSSH(e strict.Entry, s *settings) error {
	for _, k := range e.Value.Entries() {
		switch k.Key.Text {
		case "password", "pass", "passphrase", "become_password":
			return passwordInClear(k.Key, "ssh: "+k.Key.Text)
		}
	}
	if err := strict.Decode(e.Value, s); err != nil {
		return err.(*strict.Error).In(sshMap)
	}
	fields := map[string]any{"host": &s.Host, "port": &s.Port, "user": &s.User, "private_key": &s.PrivateKey, "proxy_jump": &s.ProxyJump, "become_method": &s.Method}
	for _, k := range e.Value.Entries() {
		if err := checkSetting(sshMap+": "+k.Key.Text, k.Value, fields[k.Key.Text]); err != nil {
			return err
		}
	}
	return nil
}

func given(field any) bool {
	switch f := field.(type) {
	case **string:
		return *f != nil
	case **int:
		return *f != nil
	case **bool:
		return *f != nil
	}
	return false
}

// checkSetting refuses values that would be something else to whoever gets them:
// a template is not evaluated, a name with a dash in front is an option to ssh.
func checkSetting(name string, at *strict.Value, field any) error {
	switch f := field.(type) {
	case **int:
		if *f != nil && (**f < 1 || **f > 65535) {
			return at.Errorf("%s: expected a port from 1 to 65535, found %d", name, **f)
		}
	case **string:
		if *f == nil {
			break
		}
		text := **f
		switch {
		case strings.HasPrefix(text, "-"):
			return at.Errorf("%s: begins with a dash: %q", name, text)
		case strings.ContainsFunc(text, unicode.IsControl):
			return at.Errorf("%s: control characters in %q", name, text)
		case strings.HasSuffix(name, "become_method") && !slices.Contains(becomeMethods, becomeMethod(text)):
			return at.Errorf("%s: %q is not supported", name, text).WithHint("one of %s", strings.Join(becomeMethods, ", "))
		case !strings.HasSuffix(name, "key") && !strings.HasSuffix(name, "file") && strings.ContainsFunc(text, unicode.IsSpace):
			return at.Errorf("%s: a space in %q", name, text)
		}
	}
	return nil
}

// onto lays what was said over c.
func (s *settings) onto(c *Connection) {
	set(&c.Host, s.Host)
	set(&c.Port, s.Port)
	set(&c.User, s.User)
	set(&c.ProxyJump, s.ProxyJump)
	if s.Method != nil {
		c.BecomeMethod = becomeMethod(*s.Method)
	}
	set(&c.BecomeUser, s.BecomeUser)
	if s.PrivateKey != nil {
		c.PrivateKey = expandHome(*s.PrivateKey)
	}
	if s.Become != nil {
		become := *s.Become
		c.Become = &become
	}
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func expandHome(path string) string {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return path
	}
	return filepath.Join(home, rest)
}

func passwordInClear(at *strict.Value, name string) *strict.Error {
	e := at.Errorf("%s: a password in clear", name)
	if slices.Contains(becomePasswords, name) {
		return e.WithHint("remove it; give the password for becoming root with -K (--ask-become-pass) or --become-password-file")
	}
	return e.WithHint("remove it; log in with a key or the ssh agent")
}

// checkPassword refuses a password, and says that what is not in clear is not
// used. No message repeats the value.
func (b *builder) checkPassword(e strict.Entry) error {
	v := e.Value
	switch {
	case v.Kind == strict.Null, v.Kind == strict.String && v.Text == "":
		return nil
	case v.Get(strict.Vaulted) != nil, v.Kind == strict.String && wholeTemplate.MatchString(v.Text):
		w := e.Key.Errorf("%s is not used", e.Key.Text)
		if slices.Contains(becomePasswords, e.Key.Text) {
			if b.vault.passwords != nil || b.raw {
				return nil
			}
			w = w.WithHint("give the password for becoming root with -K or --become-password-file, or the vault's with --vault-password-file")
		}
		b.warn(w)
		return nil
	}
	return passwordInClear(e.Key, e.Key.Text)
}

// wholeTemplate is a value that Ansible takes from elsewhere.
var wholeTemplate = regexp.MustCompile(`^\s*\{\{.*\}\}\s*$`)

// checkAnsibleVar refuses what would lead to another host or user than Ansible's,
// and warns of what makes no difference here.
func (b *builder) checkAnsibleVar(e strict.Entry) error {
	name, v := e.Key.Text, e.Value
	if v.Kind == strict.Null || v.Kind == strict.String && v.Text == "" {
		return nil
	}
	if now, ok := oldNames[name]; ok {
		return e.Key.Errorf("%s is an old name", name).WithHint("write %q", now)
	}
	switch name {
	case groupPriority:
		return nil
	case "ansible_connection":
		if slices.Contains([]string{"ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh"}, v.Text) {
			return nil
		}
		b.warn(e.Key.Errorf("ansible_connection is not used").WithHint("every host is reached by ssh"))
		return nil
	}
	if name == commonArgs && v.Kind == strict.String {
		if _, more, ok := jumpOf(v.Text); !more || !ok {
			return nil // it is used, or an error of its own
		}
		if jump.MatchString(v.Text) {
			b.warn(e.Key.Errorf("%s: only the jump host is used", name).WithHint("the rest belongs into ~/.ssh/config"))
			return nil
		}
	} else if jump.MatchString(v.Text) {
		return e.Key.Errorf("%s: a jump host cannot stand here", name).WithHint("write it into %s, or ~/.ssh/config", commonArgs)
	}
	b.warn(e.Key.Errorf("%s is not used", name))
	return nil
}
