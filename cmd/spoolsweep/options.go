package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/playbooks/strict"
	"spoolsweep/remote"
	"spoolsweep/remote/inventory"
	"spoolsweep/remote/push"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// commonFlags are every command's that reaches hosts.
func commonFlags(more ...cli.Flag) []cli.Flag {
	return append(append(more, inventoryFlags()...),
		&cli.StringFlag{Name: "limit", Aliases: []string{"l"}, Usage: "only the hosts that `PATTERN` names, as Ansible's: hosts, groups, globs, ~regex, group[0:2], a,b a:&b a:!b, @FILE; @failed and @unreachable are those of the last run"},
		&cli.BoolFlag{Name: "list-hosts", Usage: "list the hosts and do nothing"},
		&cli.IntFlag{Name: "forks", Aliases: []string{"f"}, Value: 50, Usage: "work on `N` hosts at the same time"},
		&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "log in as `NAME`"},
		&cli.BoolFlag{Name: "become", Aliases: []string{"b"}, Usage: "become root"},
		&cli.StringFlag{Name: "become-method", Usage: "become root with `PROGRAM`: sudo, doas or su; given, it counts before ansible_become_method (default: sudo)"},
		&cli.BoolFlag{Name: "ask-become-pass", Aliases: []string{"K"}, Usage: "ask for the password of sudo, doas or su, once for all hosts"},
		&cli.StringFlag{Name: "become-password-file", Usage: "read that password from `FILE`, which nobody else may read"},
		&cli.StringFlag{Name: "transport", Value: transportBuiltin, Usage: "connect with `WHAT`: builtin, or openssh to have your own ssh log in, with whatever it can that the built-in client cannot"},
		&cli.StringFlag{Name: "private-key", Usage: "log in with the key in `FILE`"},
		&cli.StringFlag{Name: "ssh-config", Usage: "read `FILE` instead of ~/.ssh/config; none for no file (default: $SPOOLSWEEP_SSH_CONFIG, if that is set)"},
		&cli.StringSliceFlag{Name: "known-hosts", Usage: "trust the host keys in `FILE`, instead of all others (repeatable)"},
		&cli.StringFlag{Name: "host-key-checking", Value: checkStrict, Usage: "`HOW`: strict, or accept-new to trust a host whose key is unknown from now on; one that has changed never is; given, it counts before StrictHostKeyChecking of the ssh configuration"},
		&cli.DurationFlag{Name: "timeout", Aliases: []string{"T"}, Value: 10 * time.Second, Usage: "give a host `TIME` to be connected; given, it counts before ConnectTimeout of the ssh configuration"},
		&cli.DurationFlag{Name: "reconnect", Value: 2 * time.Minute, Usage: "try a lost link again for `TIME`"},
		&cli.StringFlag{Name: "agent", Usage: "push the agent in `FILE` instead of building it (default: $SPOOLSWEEP_AGENT, if that is set)"},
		&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "`FORMAT`: text, json (one document) or jsonl (one event a line)"},
		&cli.BoolFlag{Name: "verbose", Aliases: []string{"v"}, Usage: "also when each stage begins and ends, and what was sent to hosts"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "only results and errors"},
		&cli.BoolFlag{Name: "no-color", Usage: "no colour where a terminal shows how far a run is (default: $NO_COLOR, if that is set)"},
	)
}

// What may be done about a host whose key is unknown.
const (
	checkStrict = "strict"
	acceptNew   = "accept-new"
)

// What connects to the hosts.
const (
	transportBuiltin = "builtin"
	transportOpenSSH = "openssh"
)

// inventoryFlags are those of every command that reads the inventory.
func inventoryFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "inventory", Aliases: []string{"i"}, Usage: "inventory `FILE`: YAML, JSON, INI, a directory of them, a program that answers --list, or names with commas (repeatable; default: $SPOOLSWEEP_INVENTORY, then ./inventory.yaml, then ~/.config/spoolsweep/inventory.yaml)"},
		&cli.StringSliceFlag{Name: "vault-password-file", Aliases: []string{"vault-pass-file"}, Usage: "read the password of ansible-vault from `FILE`, which nobody else may read (repeatable)"},
		&cli.BoolFlag{Name: "ask-vault-password", Aliases: []string{"J", "ask-vault-pass"}, Usage: "ask for the password of ansible-vault, when it is needed"},
	}
}

// agentDirectory is a host variable that the controller itself uses.
const agentDirectory = "agent_directory"

// knownVars are the host variables that spoolsweep reads.
func knownVars() []string {
	names := []string{agentDirectory}
	t := reflect.TypeFor[stage.Vars]()
	for i := range t.NumField() {
		if name := varName(t.Field(i)); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// varName is the host variable that sets a field of stage.Vars, "" if none does.
func varName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if f.Tag.Get("inventory") == "-" {
		return ""
	}
	return name
}

// ownFormat is the format of -o that one command has beside those of all.
var ownFormat = map[string]string{"health": openMetrics, suggestName: outputYAML, reportName: outputHTML}

// sweep is one command at work on its hosts.
type sweep struct {
	*show.Printer
	keys    *keyboard
	tty     bool // somebody is there to be asked
	keeps   bool // which hosts failed is kept for --limit @failed
	members []*member
	fleet   *remote.Fleet
	extra   *playbooks.Extra
	doc     *show.Document
	again   string // the flags that find the same hosts again

	password remote.Secret // for becoming root
	memory   *memory       // of those who only look; nil for others
	record   *record       // that is told of in place of the hosts' own; nil for others
	past     *past         // of health
	notices  *notices      // to those who do not look
	// practising says that the hosts are for practice: nothing of them is kept, and
	// what was kept of real ones stays.
	practising bool

	interrupts <-chan struct{} // each Ctrl-C; nil: it ends the context
	silence    time.Duration   // see silentPlace
	cancelled  atomic.Bool     // somebody has cancelled the run here
}

// member is one host of it, or one Postfix instance of a host that has several.
type member struct {
	host *inventory.Host
	vars stage.Vars
	link *remote.Link

	known      bool           // which instances its host has
	asked      bool           // see askThem
	identified *run.Preflight // by ping
	unreached  error          // why that is not known
	further    bool           // another member is the host's first
	// See inTurn.
	before *member
	passed chan struct{}
	pass   func()
	lost   error // how the link was lost, while this one was worked on

	record  *recordedHost // what is told in its place; nil for what is asked
	looked  show.Look     // what health saw, and under which name it is kept
	lookKey string

	driven  atomic.Bool // its run is followed just now
	left    bool        // its run goes on, and is not followed any more
	open    bool        // a question of its run was left open, and it is not followed any more
	next    int64       // the event of its run to go on at
	foreign bool        // another controller began or resumed the run there

	*show.Host
	confirm *stage.Confirm // what it asked last
	counted *stage.Confirm // what it asked when --expect was compared with all hosts' numbers
	stalls  int            // how often the link was lost with none of its mail taken
	ran     map[int]bool   // stages whose command was run here for it

	unsure   *stage.Answer // the link was lost while it was given
	unsureOf int           // the question it answers
	why      error         // it failed, or could not be reached
}

// begin reads everything that can be wrong on this side, before any host is
// touched. pb is the playbook that says for which hosts it is, nil for all.
func begin(c *cli.Context, pb *playbooks.Playbook) (*sweep, error) { return beginOn(c, pb, nil) }

// beginOn is begin, or with a record for what needs no host and no inventory.
func beginOn(c *cli.Context, pb *playbooks.Playbook, kept *record) (*sweep, error) {
	s := &sweep{
		record:  kept,
		Printer: &show.Printer{Out: c.App.Writer, Err: c.App.ErrWriter, Quiet: c.Bool("quiet"), Verbose: c.Bool("verbose")},
		keys:    newKeyboard(c.App.Reader),
		doc:     &show.Document{Command: c.Command.Name, Started: time.Now().UTC()},
		silence: silentPlace,
	}
	s.tty = onTerminal(c)
	s.Screen, s.OneTerminal = screen(c)
	s.keeps = slices.Contains(changing, c.Command.Name) && !c.Bool("check")
	if listens, ok := c.App.Metadata[interrupts].(chan struct{}); ok {
		s.interrupts = listens
	}
	if shorter, ok := c.App.Metadata[silenceKey].(time.Duration); ok {
		s.silence = shorter
	}
	switch c.String("output") {
	case "text":
	case "json":
		s.JSON = true
	case "jsonl":
		s.Stream = true
	default:
		own := ownFormat[c.Command.Name]
		if own != "" && c.String("output") == own {
			break // the command prints that by itself
		}
		formats := "text, json and jsonl"
		if own != "" {
			formats += ", here also " + own
		}
		return nil, fmt.Errorf("-o %s: the formats are %s", c.String("output"), formats)
	}
	var err error
	if s.extra, err = playbooks.ParseExtra(c.StringSlice("extra-vars")); err != nil {
		return nil, err
	}
	hosts, err := s.hostsOf(c, pb)
	if err != nil {
		return nil, err
	}
	if err := checkFiles(c); err != nil {
		return nil, err
	}
	source, ok := c.App.Metadata[agentSource].(*push.Source)
	_, s.practising = c.App.Metadata[practiseKey]
	if !ok {
		if source, s.practising, err = agentOf(agentFile(c)); err != nil {
			return nil, err
		}
	}
	s.keeps = s.keeps && !s.practising
	if s.notices, err = s.newNotices(c, ok || s.practising); err != nil {
		return nil, err
	}
	s.fleet = &remote.Fleet{
		Dialer: &remote.Dialer{
			ConfigFile: cmp.Or(c.String("ssh-config"), os.Getenv(configVariable)), KnownHosts: c.StringSlice("known-hosts"),
			User: c.String("user"), PrivateKey: c.String("private-key"),
			Strict: c.IsSet("host-key-checking") && c.String("host-key-checking") == checkStrict,
		},
		Source: source, Forks: c.Int("forks"), Reconnect: c.Duration("reconnect"),
	}
	switch how := c.String("transport"); how {
	case transportBuiltin:
	case transportOpenSSH:
		s.fleet.Dialer.OpenSSH = true
	default:
		return nil, fmt.Errorf("--transport %s: it is %s or %s", how, transportBuiltin, transportOpenSSH)
	}
	if c.IsSet("timeout") { // else ConnectTimeout of the ssh configuration counts
		s.fleet.Dialer.Timeout = c.Duration("timeout")
	}
	if s.tty {
		s.fleet.Dialer.Passphrase, s.fleet.Dialer.Prompts = s.passphrase(c), s.leaveTerminal
	}
	switch how := c.String("host-key-checking"); how {
	case checkStrict:
	case acceptNew:
		s.fleet.Dialer.AcceptNew = func(e *remote.DialError) bool {
			whose := "its host key"
			if e.Jump != "" {
				whose = "the host key of its jump host " + show.Clean(e.Jump)
			}
			s.Alert(e.Host, "warning: %s was unknown, and is trusted from now on: %s %s (%s)", whose, show.Clean(e.KeyType), show.Clean(e.Fingerprint), acceptNew)
			return true
		}
	default:
		return nil, fmt.Errorf("--host-key-checking %s: it is strict or accept-new", how)
	}
	if s.fleet.Forks < 1 {
		return nil, fmt.Errorf("-f %d: at least one host at a time", s.fleet.Forks)
	}
	method := c.String("become-method")
	if c.IsSet("become-method") && !slices.Contains(remote.BecomeMethods, method) {
		return nil, fmt.Errorf("--become-method %s: it is one of %s", method, strings.Join(remote.BecomeMethods, ", "))
	}
	for _, h := range hosts {
		m, err := newMember(h, c.Bool("become"))
		if err != nil {
			return nil, err
		}
		if method != "" {
			m.host.Connection.BecomeMethod = method
		}
		s.members = append(s.members, m)
		s.doc.Hosts = append(s.doc.Hosts, m.Host)
		s.Width = max(s.Width, len(show.Clean(h.Name)))
	}
	if c.Bool("list-hosts") {
		for _, m := range s.members {
			fmt.Fprintln(s.Out, show.Clean(m.host.Name))
		}
		return nil, exit(0)
	}
	if kept != nil {
		s.link(s.fleet) // which dials nothing
		s.recordMembers()
		return s, nil
	}
	if s.password, err = s.becomePassword(c); err != nil {
		return nil, err
	}
	s.link(s.fleet)
	return s, nil
}

func (s *sweep) hostsOf(c *cli.Context, pb *playbooks.Playbook) ([]*inventory.Host, error) {
	if s.record != nil {
		return s.recordedHosts(c)
	}
	return s.hosts(c, pb)
}

// agentFile is the agent that is to be pushed instead of one that is built.
func agentFile(c *cli.Context) string { return cmp.Or(c.String("agent"), os.Getenv(agentVariable)) }

// agentOf is where agents come from when --agent names file. Where that is this
// very program, the hosts are those of demo --play: it is their agent, whatever
// system this is.
func agentOf(file string) (source *push.Source, practising bool, err error) {
	if self, err := os.Executable(); err == nil && sameFile(file, self) {
		source, err := push.Direct(file)
		return source, true, err
	}
	source, err = push.NewSource(file)
	return source, false, err
}

func (s *sweep) link(f *remote.Fleet) {
	s.fleet = f
	for _, m := range s.members {
		t := m.target()
		if t.BecomePassword = s.password; t.BecomePassword == "" {
			t.BecomePassword = remote.Secret(m.host.BecomePassword())
		}
		m.link = f.Link(t)
	}
}

// hosts are those of the inventory that playbook and limit name.
func (s *sweep) hosts(c *cli.Context, pb *playbooks.Playbook) ([]*inventory.Host, error) {
	s.again = again(c, c.String("limit"))
	inv, err := s.inventory(c, &inventory.Loader{})
	if err != nil {
		return nil, err
	}
	inv.Lists = keptList
	of := "all"
	if pb != nil {
		if of, err = pb.Hosts(s.extra); err != nil {
			return nil, err
		}
	}
	hosts, err := inv.Limit(of)
	if err != nil && pb != nil {
		err = pb.InHosts(s.extra, err)
	}
	if err != nil {
		return nil, err
	}
	if !c.IsSet("limit") {
		return hosts, nil
	}
	limited, err := inv.Limit(c.String("limit"))
	if err != nil {
		return nil, err
	}
	if usesKept(c.String("limit")) { // this run puts other lists in their place
		var names []string
		for _, h := range limited {
			names = append(names, h.Name)
		}
		s.again = again(c, strings.Join(names, ","))
	}
	in := make(map[*inventory.Host]bool)
	for _, h := range limited {
		in[h] = true
	}
	hosts = slices.DeleteFunc(hosts, func(h *inventory.Host) bool { return !in[h] })
	if len(hosts) == 0 {
		return nil, fmt.Errorf("--limit %s leaves none of the hosts that the playbook is for (%s)", c.String("limit"), of)
	}
	return hosts, nil
}

// inventory is what -i, the environment or the usual places name. Its warnings
// are printed.
func (s *sweep) inventory(c *cli.Context, l *inventory.Loader) (*inventory.Inventory, error) {
	paths, err := inventorySources(c.StringSlice("inventory"))
	if err != nil {
		return nil, err
	}
	if l.Vault, err = s.vaultPasswords(c); err != nil {
		return nil, err
	}
	l.Known = knownVars()
	inv, warnings, err := l.Load(c.Context, paths...)
	var unread *fs.PathError
	switch {
	case errors.As(err, &unread) && slices.Contains(c.StringSlice("inventory"), unread.Path):
		return nil, fmt.Errorf("-i %s: %w", unread.Path, unread.Err)
	case errors.Is(err, os.ErrNotExist) && len(c.StringSlice("inventory")) == 0 && os.Getenv(inventoryVariable) != "":
		return nil, fmt.Errorf("%w: %s names it (unset %[2]s, or name another one: -i FILE)", err, inventoryVariable)
	case err != nil:
		return nil, err
	}
	for _, w := range warnings {
		s.Alert("", "warning: %s", show.Clean(w.String()))
	}
	return inv, nil
}

// inventorySources are those that were given, else those that the environment
// names, else the one in the usual places.
func inventorySources(given []string) ([]string, error) {
	if len(given) > 0 {
		return given, nil
	}
	if env := os.Getenv(inventoryVariable); env != "" {
		return strings.FieldsFunc(env, func(r rune) bool { return r == ',' || r == ':' }), nil
	}
	found, err := inventory.Find()
	return []string{found}, err
}

// Variables of the environment that stand for flags which are not given. What is
// to be typed next does not repeat them: they are there for that, too.
const (
	inventoryVariable = "SPOOLSWEEP_INVENTORY"
	configVariable    = "SPOOLSWEEP_SSH_CONFIG"
	agentVariable     = "SPOOLSWEEP_AGENT"
)

// again are the flags of this command line by which another one finds the same
// hosts in the same way, to stand behind what is to be typed next; limit stands
// for that of the command line.
func again(c *cli.Context, limit string) string {
	var words []string
	for _, name := range []string{"inventory", "known-hosts", "vault-password-file"} {
		for _, v := range c.StringSlice(name) {
			words = append(words, "--"+name, v)
		}
	}
	for _, name := range []string{"ssh-config", "private-key", "agent", "user", "transport", "become-method", "become-password-file"} {
		if c.IsSet(name) {
			words = append(words, "--"+name, c.String(name))
		}
	}
	if limit != "" {
		words = append(words, "--limit", limit)
	}
	for _, name := range []string{"become", "ask-become-pass", "ask-vault-password"} {
		if c.Bool(name) {
			words = append(words, "--"+name)
		}
	}
	line := ""
	for _, w := range words {
		line += " " + shellWord(w)
	}
	return line
}

// shellWord quotes a word that a shell would not take as it stands.
func shellWord(w string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	}
	if w != "" && !strings.ContainsFunc(w, func(r rune) bool { return !plain(r) }) {
		return w
	}
	return "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
}

// newMember takes the host variables that concern us, strictly.
func newMember(h *inventory.Host, become bool) (*member, error) {
	m := &member{host: h, pass: func() {}, Host: newHost(h)}
	v := reflect.ValueOf(&m.vars).Elem()
	for i := range v.NumField() {
		name := varName(v.Type().Field(i))
		if origin := h.Origin(name); name != "" && origin != nil {
			if err := strict.Decode(origin, v.Field(i).Addr().Interface()); err != nil {
				return nil, fmt.Errorf("host %s: %s: %w", h.Name, name, err)
			}
		}
	}
	if origin := h.Origin(agentDirectory); origin != nil && origin.Kind != strict.String {
		return nil, origin.Errorf("host %s: %s is a path", h.Name, agentDirectory)
	}
	if become {
		yes := true
		m.host.Connection.Become = &yes
	}
	return m, m.checkInstances()
}

func (m *member) target() remote.Target {
	c := m.host.Connection
	dir, _ := m.host.Vars[agentDirectory].(string)
	return remote.Target{
		Name: m.host.Name, Host: cmp.Or(c.Host, m.host.Name), Port: c.Port, User: c.User, PrivateKey: c.PrivateKey, ProxyJump: c.ProxyJump,
		Become: c.Become != nil && *c.Become, BecomeMethod: c.BecomeMethod, BecomeUser: c.BecomeUser, AgentDirectory: dir,
	}
}

// each works on the hosts side by side; what do returns becomes the host's.
func (s *sweep) each(do func(m *member) error) {
	s.eachOf(s.members, do)
}

func (s *sweep) eachOf(members []*member, do func(m *member) error) {
	s.fleet.Each(len(members), func(i int) {
		m := members[i]
		if m.unreached != nil {
			m.fail(m.unreached)
			return
		}
		m.fail(do(m))
	})
}

// eachInOrder works on the hosts side by side, and then prints what was found
// in their order, so that no host's lines stand between another's. A stream has
// each when it comes.
func (s *sweep) eachInOrder(members []*member, do func(m *member) (print func(), err error)) {
	prints := make([]func(), len(members))
	s.fleet.Each(len(members), func(i int) {
		m := members[i]
		if m.unreached != nil {
			m.fail(m.unreached)
			return
		}
		print, err := do(m)
		m.fail(err)
		if print != nil && s.Stream {
			print()
		} else {
			prints[i] = print
		}
	})
	for _, print := range prints {
		if print != nil {
			print()
		}
	}
}

// failed says whether what went before on this host did not go well.
func (m *member) failed() bool { return m.Status == show.Failed || m.Status == show.Unreachable }

// fail gives a host the status that an error means.
func (m *member) fail(err error) {
	if !m.further {
		m.Pushed = m.link.Pushed()
	}
	m.why = err
	if err == nil {
		return
	}
	if errors.Is(err, context.Canceled) { // by whoever sits here: no host has failed
		m.Status, m.Error, m.Notes = show.Skipped, nil, append(m.Notes, "interrupted")
		return
	}
	m.Status, m.Error = show.Failed, &show.Failure{Message: err.Error(), Remedy: spool.RemedyOf(err)}
	var dial *remote.DialError
	var open *remote.OpenError
	var fault *wire.Fault
	switch {
	case errors.As(err, &dial):
		m.Status, m.Error.Message, m.Error.Remedy = show.Unreachable, dial.Message(), dial.Remedy
	case errors.As(err, &open):
		m.Error.Message, m.Error.Remedy = open.Message(), open.Remedy
		if open.Kind == remote.KindPassword { // as a login that is refused
			m.Status = show.Unreachable
		}
	case errors.As(err, &fault):
		m.Error.Remedy = fault.Remedy
	case errors.Is(err, remote.ErrLost):
		m.Status = show.Unreachable
		m.Error.Remedy = "see whether the host is up, and in its kernel's log what ended the agent; then type the same again"
	}
	var on *goesOn
	if errors.As(err, &on) {
		m.Error.Remedy = on.remedy
	}
	var not *untold
	if errors.As(err, &not) {
		m.Status, m.Error.Remedy = not.status, not.remedy
	}
}

// close ends the links; runs go on.
func (s *sweep) close() {
	// Side by side: each waits for the agent's end, on a long way or for a stuck one.
	s.fleet.Each(len(s.members), func(i int) { s.members[i].link.Close() })
	s.fleet.Dialer.Close()
}

// end prints what is to be printed at the end and returns the exit status.
func (s *sweep) end(ctx context.Context) error {
	s.close()
	s.unknownKeys()
	s.keepLists()
	s.memory.save()
	err := s.Document(s.doc)
	s.notices.end(ctx, s.doc)
	if err != nil {
		return err
	}
	return s.status(ctx)
}

// status is the exit status of a command whose document is finished.
func (s *sweep) status(ctx context.Context) error {
	if ctx.Err() != nil || s.cancelled.Load() {
		return exit(statusInterrupted)
	}
	if status := s.doc.ExitStatus(); status != 0 {
		return exit(status)
	}
	return nil
}

// me names this admin and laptop, for the record on the hosts.
func me() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return name + "@" + host
}

func decode(data json.RawMessage, into any) bool { return json.Unmarshal(data, into) == nil }
