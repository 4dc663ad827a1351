package inventory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
)

// builder collects what the files say before it is merged.
type builder struct {
	known    []string
	names    []string // known, and those of Ansible that mean something here
	long     []string // of the names, those long enough to be recognised misspelt
	hosts    []*Host
	byName   map[string]*Host
	groups   []*group
	groupBy  map[string]*group
	parents  map[*group][]*group
	settings map[*strict.Value]block // of a map of variables that was read
	plain    map[*strict.Value]bool  // it has neither templates nor vaults in it
	warnings []Warning

	ctx      context.Context // ends the programs of dynamic inventories
	vault    *vault
	raw      bool                     // nothing is resolved
	bases    []string                 // the directory of each source
	varsRead map[string]*strict.Value // files of variables, by their paths
	files    int                      // of directories, so far

	namesOnly bool // variables beside the files, vaults and programs are passed over
}

// group is a group while it is read.
type group struct {
	name     string
	first    *strict.Value // where it first stands
	blocks   []block       // its variables, a later one wins
	files    [][]block     // those of group_vars, of each source
	children []edge
	hosts    []*Host // in the order of the files
	has      map[*Host]bool

	priority int64 // ansible_group_priority
	depth    int   // the longest way from all
}

// edge is a group's place under another.
type edge struct {
	child *group
	at    *strict.Value
}

// block is one map of variables, with what it says about the connection.
type block struct {
	vars *strict.Value
	*settings
	late bool          // its settings have templates or vaults in them, and are read for each host
	port *strict.Value // from a host written as name:port, nil if it was not
}

const (
	all       = "all"
	ungrouped = "ungrouped"
)

var groupKeys = []string{"hosts", "vars", "children"}

func newBuilder(known []string) *builder {
	names := slices.Concat(known, connectionVars, passwords, ansibleVars)
	b := &builder{
		known:    known,
		names:    names,
		long:     slices.DeleteFunc(slices.Clone(names), func(name string) bool { return len(name) < 6 }),
		byName:   make(map[string]*Host),
		groupBy:  make(map[string]*group),
		parents:  make(map[*group][]*group),
		settings: make(map[*strict.Value]block),
		plain:    make(map[*strict.Value]bool),
		ctx:      context.Background(),
		vault:    &vault{},
		varsRead: make(map[string]*strict.Value),
	}
	for _, name := range []string{all, ungrouped} {
		b.group(name, nil)
	}
	return b
}

// iniHint tells those who bring another of Ansible's formats how to get this one.
func iniHint(err error) error {
	var e *strict.Error
	if errors.As(err, &e) && strings.Contains(e.Message, "not valid YAML") && e.Hint == "" {
		return e.WithHint("an INI inventory is printed as YAML by: ansible-inventory -i %s --list -y", e.File)
	}
	return err
}

// file reads the groups of one file.
func (b *builder) file(v *strict.Value) error {
	switch {
	case v.Kind == strict.Null:
		return v.Errorf("the inventory is empty")
	case v.Kind == strict.List || v.Kind == strict.String:
		return v.Wanted("groups").WithHint("an INI inventory is printed as YAML by: ansible-inventory -i %s --list -y", v.File)
	case v.Kind != strict.Map:
		return v.Wanted("groups")
	}
	if e, ok := v.Entry("plugin"); ok && e.Value.Kind == strict.String {
		return e.Key.Errorf("an inventory plugin of Ansible's (%s), and none is run here", e.Value.Text).
			WithHint("what it finds is printed as YAML by: ansible-inventory -i %s --list -y", v.File)
	}
	for _, e := range v.Entries() {
		if slices.Contains(groupKeys, e.Key.Text) {
			return e.Key.Errorf("%q stands outside of a group", e.Key.Text).WithHint("put it under %q", all+":")
		}
		if _, err := b.readGroup(e); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) group(name string, at *strict.Value) *group {
	g := b.groupBy[name]
	if g == nil {
		g = &group{name: name, priority: 1} // 1 is Ansible's default
		b.groupBy[name] = g
		b.groups = append(b.groups, g)
	}
	if g.first == nil {
		g.first = at
	}
	return g
}

// readGroup reads a group where it is defined or named as a child.
func (b *builder) readGroup(e strict.Entry) (*group, error) {
	if err := checkGroupName(e.Key); err != nil {
		return nil, err
	}
	g := b.group(e.Key.Text, e.Key)
	if e.Value.Kind == strict.Null {
		return g, nil
	}
	if e.Value.Kind != strict.Map {
		return nil, inPlace(e, e.Value.Wanted("hosts, vars or children"), "group "+g.name)
	}
	// In the order of the file, as Ansible's plugin reads: where two places set
	// the same variable of a host, the later one wins.
	for _, section := range e.Value.Entries() {
		if !slices.Contains(groupKeys, section.Key.Text) {
			unknown := section.Key.Unknown("key of group "+g.name+":", groupKeys)
			if section.Value.Kind != strict.Map && strings.HasPrefix(unknown.Hint, "known:") {
				unknown = unknown.WithHint("a variable stands under %q", "vars:")
			}
			return nil, unknown
		}
		var err error
		switch section.Key.Text {
		case "vars":
			err = b.readVars(g, section)
		case "children":
			err = b.readChildren(g, section)
		case "hosts":
			err = b.readHosts(g, section)
		}
		if err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (b *builder) readVars(g *group, section strict.Entry) error {
	if section.Value.Kind == strict.Null {
		return nil
	}
	if section.Value.Kind != strict.Map {
		return inPlace(section, section.Value.Wanted("a map"), "vars")
	}
	return b.addVars(g, section.Value)
}

// addVars gives a group variables.
func (b *builder) addVars(g *group, vars *strict.Value) error {
	own, err := b.readBlock(vars)
	if err != nil {
		return err
	}
	if p := vars.Get(groupPriority); p != nil {
		if err := strict.Decode(p.Unquoted(), &g.priority); err != nil {
			return err.(*strict.Error).In(groupPriority)
		}
	}
	g.blocks = append(g.blocks, own)
	return nil
}

func (b *builder) readChildren(g *group, section strict.Entry) error {
	entries, err := members(section)
	if err != nil {
		return err
	}
	for _, e := range entries {
		child, err := b.readGroup(e)
		if err != nil {
			return err
		}
		g.children = append(g.children, edge{child, e.Key})
	}
	return nil
}

func (b *builder) readHosts(g *group, section strict.Entry) error {
	entries, err := members(section)
	if err != nil {
		return err
	}
	for _, e := range entries {
		var own block
		switch e.Value.Kind {
		case strict.Null:
		case strict.Map:
			for _, v := range e.Value.Entries() {
				if slices.Contains(groupKeys, v.Key.Text) {
					return v.Key.Errorf("%q inside of host %s", v.Key.Text, e.Key.Text).
						WithHint("a host holds its variables; a group stands under %q", "children:")
				}
			}
			if own, err = b.readBlock(e.Value); err != nil {
				return err
			}
		default:
			return inPlace(e, e.Value.Wanted("a map of variables"), "host "+e.Key.Text)
		}
		if _, err := b.addHosts(g, e.Key, own); err != nil {
			return err
		}
	}
	return nil
}

// addHosts puts the hosts that a name with ranges and a port stands for into a
// group, with their own variables.
func (b *builder) addHosts(g *group, key *strict.Value, own block) ([]*Host, error) {
	names, port, err := expandHosts(key, maxHosts-len(b.hosts))
	if err != nil {
		return nil, err
	}
	var hosts []*Host
	for _, name := range names {
		_, there := b.byName[name]
		h, err := b.addHost(g, key, name)
		if err != nil {
			return nil, err
		}
		mine := own
		if port != 0 && !there { // later ones are passed over (ansible/inventory/data.py: add_host)
			mine.port = key.With(port)
		}
		if mine.vars != nil || mine.port != nil {
			h.blocks = append(h.blocks, mine)
		}
		hosts = append(hosts, h)
	}
	return hosts, nil
}

// addHost puts the host of that very name into a group.
func (b *builder) addHost(g *group, key *strict.Value, name string) (*Host, error) {
	h := b.byName[name]
	if h == nil {
		if problem := badHostName(name); problem != "" {
			return nil, key.Errorf("host %q: %s", name, problem)
		}
		if len(b.hosts) >= maxHosts {
			return nil, key.Errorf("host %s: more than %d hosts", name, maxHosts)
		}
		h = &Host{Name: name, File: key.File, Line: key.Line}
		b.byName[name] = h
		b.hosts = append(b.hosts, h)
	}
	h.groups = append(h.groups, g)
	if !g.has[h] {
		if g.has == nil {
			g.has = make(map[*Host]bool)
		}
		g.has[h] = true
		g.hosts = append(g.hosts, h)
	}
	return h, nil
}

// members returns the entries of hosts: or children:. As in Ansible, one name
// may stand there as text.
func members(section strict.Entry) ([]strict.Entry, error) {
	v := section.Value
	switch v.Kind {
	case strict.Null:
		return nil, nil
	case strict.String:
		return []strict.Entry{{Key: v, Value: v.With(nil)}}, nil
	case strict.Map:
		return v.Entries(), nil
	case strict.List:
		e := inPlace(section, v.Wanted("a map"), section.Key.Text)
		if items := v.Items(); len(items) > 0 && items[0].Kind == strict.String {
			return nil, e.WithHint("write each as %q", items[0].Text+":")
		}
		return nil, e
	}
	return nil, inPlace(section, v.Wanted("a map"), section.Key.Text)
}

// inPlace says in whose value the error is, and stands at the key, since a value
// may begin lines below it.
func inPlace(e strict.Entry, err *strict.Error, what string) *strict.Error {
	at := e.Key.Errorf("%s: %s", what, err.Message)
	at.Hint = err.Hint
	return at
}

// checkGroupName refuses names that a limit could not name.
func checkGroupName(key *strict.Value) error {
	name := key.Text
	if name == "" {
		return key.Errorf("a group without a name")
	}
	if i := strings.IndexFunc(name, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune(",:&!*?[]/\\", r)
	}); i >= 0 || strings.HasPrefix(name, "~") || strings.HasPrefix(name, "@") || strings.HasPrefix(name, "-") {
		return key.Errorf("%q cannot be the name of a group: it means something else in a limit", name)
	}
	return nil
}

// readBlock checks a map of variables and reads what it says about the
// connection, once for each place in the files.
func (b *builder) readBlock(vars *strict.Value) (block, error) {
	if own, ok := b.settings[vars]; ok {
		return own, nil
	}
	own := block{vars: vars}
	for _, e := range vars.Entries() {
		if err := b.checkVar(e); err != nil {
			return block{}, err
		}
		own.late = own.late || slices.Contains(connectionVars, e.Key.Text) && !b.isPlain(e.Value)
	}
	if !own.late {
		var err error
		if own.settings, err = readSettings(vars); err != nil {
			return block{}, err
		}
	}
	b.settings[vars] = own
	return own, nil
}

func (b *builder) checkVar(e strict.Entry) error {
	name := e.Key.Text
	switch {
	case slices.Contains(passwords, name):
		return b.checkPassword(e)
	case slices.Contains(ansibleVars, name):
		return b.checkAnsibleVar(e)
	case slices.Contains(b.names, name):
		return nil
	}
	if near := strict.Within(name, b.long, 2); near != "" {
		b.warn(e.Key.Errorf("variable %q is not one of ours", name).WithHint("did you mean %q?", near))
	}
	return nil
}

// warn notes a warning, once for its place: a merge key brings the same entry
// into many maps.
func (b *builder) warn(e *strict.Error) {
	if w := Warning(*e); !slices.Contains(b.warnings, w) {
		b.warnings = append(b.warnings, w)
	}
}

// finish merges what was read.
func (b *builder) finish() (*Inventory, []Warning, error) {
	if err := b.depths(); err != nil {
		return nil, nil, err
	}
	if b.namesOnly {
		b.bases = nil
	}
	if err := b.readVarsFolders(); err != nil {
		return nil, nil, err
	}
	inv := &Inventory{hosts: b.hosts, byName: b.byName, groupBy: make(map[string]*Group)}
	made := make(map[*group]*Group)
	for _, g := range b.groups {
		made[g] = &Group{Name: g.name}
		for _, e := range g.children {
			if !slices.Contains(made[g].Children, e.child.name) {
				made[g].Children = append(made[g].Children, e.child.name)
			}
		}
		inv.groups = append(inv.groups, made[g])
		inv.groupBy[g.name] = made[g]
	}
	for _, h := range b.hosts {
		if g := b.groupBy[h.Name]; g != nil {
			if g.name == all || g.name == ungrouped {
				return nil, nil, &strict.Error{File: h.File, Line: h.Line, Message: fmt.Sprintf("%q is a group and cannot be a host", h.Name)}
			}
			b.warn(g.first.Errorf("%q is the name of a group and of a host", h.Name).WithHint("a limit means the host, and after ! or & the group"))
		}
		if err := b.merge(h); err != nil {
			return nil, nil, err
		}
	}
	lonely := b.groupBy[ungrouped]
	for _, g := range b.groups {
		// Who was put into another group too is in ungrouped no more, and who is
		// in no other was put there.
		made[g].direct = slices.Clone(g.hosts)
		if g == lonely {
			made[g].direct = slices.DeleteFunc(made[g].direct, func(h *Host) bool { return !slices.Contains(h.groups, g) })
		}
	}
	for _, h := range b.hosts {
		if slices.Contains(h.groups, lonely) && !lonely.has[h] {
			made[lonely].direct = append(made[lonely].direct, h)
		}
	}
	for _, g := range inv.groups {
		g.Hosts = inv.below(g)
	}
	return inv, b.warnings, nil
}
