package inventory

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"spoolsweep/playbooks/strict"
)

// Name is that of an inventory which is found without being named.
const Name = "inventory.yaml"

// Find returns the inventory to use when none is named: ./inventory.yaml, else
// $XDG_CONFIG_HOME/spoolsweep/inventory.yaml. One in the current folder must be
// the user's or root's and not open to everybody; if it is not, that is an error:
// who expects that file must not get the other one.
func Find() (string, error) {
	if _, err := os.Lstat(Name); !errors.Is(err, os.ErrNotExist) {
		if err == nil {
			err = strict.Trust(Name)
		}
		if err != nil {
			return "", fmt.Errorf("%s is not used: %w (if it is the right one: -i %s)", Name, err, Name)
		}
		return Name, nil
	}
	config, err := configHome()
	if err != nil {
		return "", fmt.Errorf("no %s in this folder, and %w (name one: -i FILE)", Name, err)
	}
	path := filepath.Join(config, "spoolsweep", Name)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no inventory: neither ./%s nor %s (name one: -i FILE)", Name, path)
	} else if err != nil {
		return "", err
	}
	return path, nil
}

// configHome is the XDG base directory; a relative one in the environment is to
// be ignored, says its specification. os.UserConfigDir differs on macOS.
func configHome() (string, error) {
	if dir := os.Getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".config"), nil
}
