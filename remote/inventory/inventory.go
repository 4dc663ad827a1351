// Package inventory reads Ansible's YAML inventory: hosts in groups, their
// variables, and how to connect to each.
//
// [Load] reads one or several files, [Inventory.Limit] picks hosts from them.
// What Ansible would make of a file is what this makes of it, or else an error:
// an unknown key, a wrong type, a password in clear and what is not supported
// yet are refused with file and line, because a host that is swept with the
// settings of another is worse than no sweep. For the same reason a pattern that
// picks no host is an error and never means all of them.
package inventory

import (
	"slices"

	"spoolsweep/playbooks/strict"
)

// Inventory is the hosts and groups of all files that were loaded.
type Inventory struct {
	hosts  []*Host
	groups []*Group
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

	origin map[string]*strict.Value
	nulls  []string // known variables that are set to null
	groups []*group // that list it, perhaps more than once
	blocks []block  // its own variables, a later one wins
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
	BecomeUser string
}

// Group is a group of hosts, "all" and "ungrouped" included.
type Group struct {
	Name     string
	Children []string
	direct   []*Host // in it itself, in the order in which they were put there
	Hosts    []*Host // in it and below it, in the order of Inventory.Hosts
}

// Hosts returns all hosts in the order in which the files name them first.
func (inv *Inventory) Hosts() []*Host { return slices.Clone(inv.hosts) }

// Groups returns all groups in the order of the files.
func (inv *Inventory) Groups() []*Group { return slices.Clone(inv.groups) }

// Origin returns the value that set a variable, to say where an error in it
// stands; nil if nothing did.
func (h *Host) Origin(name string) *strict.Value { return h.origin[name] }

// Warning is what is probably a mistake, with its place, but no reason to stop.
type Warning strict.Error

func (w Warning) String() string { return (*strict.Error)(&w).Error() }

// Load reads the files in order; what a later one says about the same host or
// group wins. known are the host variables that spoolsweep itself reads.
// Mistakes in a file are of type *[strict.Error].
func Load(known []string, paths ...string) (*Inventory, []Warning, error) {
	b := newBuilder(known)
	for _, path := range paths {
		file, err := strict.ReadFile(path)
		if err != nil {
			return nil, nil, iniHint(err)
		}
		if err := b.file(file); err != nil {
			return nil, nil, err
		}
	}
	return b.finish()
}
