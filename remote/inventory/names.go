package inventory

import (
	"errors"

	"spoolsweep/playbooks/strict"
)

// CheckName refuses a name that no host of an inventory can have.
func CheckName(name string) error {
	if problem := badHostName(name); problem != "" {
		return errors.New(problem)
	}
	return nil
}

// OfNames is an inventory of hosts of which nothing is known but their names.
func OfNames(names []string) (*Inventory, error) {
	b := newBuilder(nil)
	at := strict.NewValue("", 0, 0)
	for _, name := range names {
		if _, err := b.addHost(b.groupBy[ungrouped], at.With(name), name); err != nil {
			return nil, err
		}
	}
	inv, _, err := b.finish()
	return inv, err
}
