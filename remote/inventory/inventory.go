// Package inventory reads Ansible's inventories: hosts in groups, their
// variables, and how to connect to each.
//
// [Loader] reads one or several sources, [Inventory.Limit] picks hosts from them.
// What Ansible would make of a file is what this makes of it, or else an error:
// an unknown key, a wrong type, a password in clear and what is not supported
// yet are refused with file and line, because a host that is swept with the
// settings of another is worse than no sweep. For the same reason a pattern that
// picks no host is an error and never means all of them.
package inventory

import (
	"context"
	"slices"

	"spoolsweep/playbooks/strict"
)

// Inventory is the hosts and groups of all files that were loaded.
type Inventory struct {
	hosts   []*Host
	groups  []*Group
	byName  map[string]*Host
	groupBy map[string]*Group

	// Lists returns the file that @NAME stands for in a limit, "" where NAME is a
	// file itself.
	Lists func(name string) (path string, err error)
}

// Host is one mail server.
type Host struct {
	Name string
	File string // where it first stands
	Line int
	// Vars are the variables of its groups and its own, merged as Ansible does.
	// The known ones are always there: "" where nothing set them, in which case
	// Origin returns nil, so that a playbook's own value can stand. (The map ssh is
	// here as Ansible has it, the most specific one whole; Connection has the
	// settings of all levels.)
	Vars       map[string]any
	Connection Connection

	raw    map[string]*strict.Value // all variables, as they are written
	origin map[string]*strict.Value // resolved
	groups []*group                 // that list it, perhaps more than once
	blocks []block                  // its own variables, a later one wins
	files  [][]block                // those of host_vars, of each source

	becomePassword string
}

// Connection is how to reach a host. What is zero was not set, and is left to
// the user's ssh_config and to defaults.
type Connection struct {
	Host       string // to dial in place of the host's name
	Port       int
	User       string
	PrivateKey string // a file, ~ expanded
	ProxyJump  string `json:",omitempty"` // as ssh -J takes it
	Become     *bool
	// BecomeMethod is Ansible's name for the program: sudo, doas or su.
	BecomeMethod string `json:",omitempty"`
	BecomeUser   string
}

// Group is a group of hosts, "all" and "ungrouped" included.
type Group struct {
	Name     string
	Children []string
	direct   []*Host // in it itself, in the order in which they were put there
	Hosts    []*Host // in it and below it, in Ansible's order
}

// Hosts returns all hosts in the order in which the files name them first.
func (inv *Inventory) Hosts() []*Host { return slices.Clone(inv.hosts) }

// Groups returns all groups in the order of the files.
func (inv *Inventory) Groups() []*Group { return slices.Clone(inv.groups) }

// Origin returns the value that set a variable, to say where an error in it
// stands; nil if nothing did.
func (h *Host) Origin(name string) *strict.Value { return h.origin[name] }

// BecomePassword is the password for becoming root that a vault of the inventory holds for
// this host; empty if none does, or the vault stays closed.
func (h *Host) BecomePassword() string { return h.becomePassword }

// Warning is what is probably a mistake, with its place, but no reason to stop.
type Warning strict.Error

func (w Warning) String() string { return (*strict.Error)(&w).Error() }

// Loader reads inventories. Its zero value reads those that need nothing.
type Loader struct {
	// Known are the host variables that spoolsweep itself reads.
	Known []string
	// Vault returns the passwords for what ansible-vault encrypted, when the first
	// is needed. If it is nil, what needs one is an error.
	Vault func() ([]string, error)
	// Raw leaves variables as they are written, to be listed: references are not
	// resolved, single values not decrypted, and no host has a Connection.
	Raw bool
	// Names reads groups and hosts alone, of files alone: no program is run, no
	// vault opened, and no folder of variables read. What would need that is
	// passed over. It goes with Raw.
	Names bool
}

// Load reads inventories without a vault.
func Load(known []string, sources ...string) (*Inventory, []Warning, error) {
	return (&Loader{Known: known}).Load(context.Background(), sources...)
}

// Load reads the sources in order: files (YAML, JSON, INI), directories of them,
// programs that answer --list, and names with commas. What a later one says about
// the same host or group wins. group_vars and host_vars beside them are read too.
// Mistakes in a file are of type *[strict.Error].
func (l *Loader) Load(ctx context.Context, sources ...string) (*Inventory, []Warning, error) {
	b := newBuilder(l.Known)
	b.ctx, b.raw, b.namesOnly, b.vault.passwords = ctx, l.Raw, l.Names, l.Vault
	for _, source := range sources {
		if err := b.source(source); err != nil {
			return nil, nil, err
		}
	}
	return b.finish()
}
