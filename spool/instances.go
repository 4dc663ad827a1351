package spool

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Instance is one of several Postfix on a host. The zero value is a host's only one.
type Instance struct {
	Name      string `json:"name"`                       // DefaultInstance, or its multi_instance_name
	Directory string `json:"config_directory,omitempty"` // of main.cf and master.cf
	Enabled   bool   `json:"-"`                          // multi_instance_enable
}

// DefaultInstance is what postmulti(1) calls the one of the usual configuration
// directory, which names the others.
const DefaultInstance = "-"

// isInstance says whether a name may be that of another one; it becomes part of a path.
func isInstance(name string) bool {
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	return name != "" && len(name) <= 100 && strings.IndexByte(letters, name[0]) >= 0 && strings.Trim(name, letters+"._-") == ""
}

// ParseInstance accepts names of instances.
func ParseInstance(name string) error {
	if name != DefaultInstance && !isInstance(name) {
		return fmt.Errorf("%.100q is no name of a Postfix instance: they are as 'postmulti -l' lists them, - for the default one", name)
	}
	return nil
}

// MaxInstances is more than any host has.
const MaxInstances = 100

// ParseInstances reads what 'postmulti -l' prints: name, group, y where it is
// enabled, and configuration directory, the default one first. One without a
// name (it prints - for it too) goes by the last element of its directory.
func ParseInstances(text string) ([]Instance, error) {
	var all []Instance
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 4 || f[2] != "y" && f[2] != "n" || !filepath.IsAbs(f[3]) {
			return nil, fmt.Errorf("postmulti -l: a line that is no instance: %.200q", strings.TrimSpace(line))
		}
		all = append(all, Instance{f[0], filepath.Clean(f[3]), f[2] == "y"})
	}
	return all, nameInstances(all)
}

// nameInstances names those without a name, and looks that each has one of its own.
func nameInstances(all []Instance) error {
	if len(all) == 0 || len(all) > MaxInstances {
		return fmt.Errorf("postmulti -l lists %d instances", len(all))
	}
	all[0].Name = DefaultInstance
	for i, in := range all {
		if i > 0 && in.Name == DefaultInstance {
			all[i].Name = filepath.Base(in.Directory)
		}
		err := ParseInstance(all[i].Name)
		if slices.ContainsFunc(all[:i], func(o Instance) bool { return o.Name == all[i].Name }) {
			err = fmt.Errorf("two instances are called %s", all[i].Name)
		}
		if err != nil {
			return Remedied(err, fmt.Sprintf("give the one in %s a name: 'postconf -c %s -e multi_instance_name=postfix-NAME'", in.Directory, in.Directory))
		}
	}
	return nil
}

// ChooseInstances picks those that are wanted, in that order; without names
// those that are enabled. A host's only one is the zero value but for its name:
// what is done with it names no configuration directory.
func ChooseInstances(all []Instance, wanted []string) ([]Instance, error) {
	var names []string
	for _, in := range all {
		names = append(names, in.Name)
	}
	var chosen []Instance
	for _, name := range wanted {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, Remedied(fmt.Errorf("postfix_instances names %.100q, which this host does not have: it has %s", name, strings.Join(names, ", ")), "correct the host variable")
		}
		chosen = append(chosen, all[i])
	}
	switch {
	case len(all) == 1:
		return []Instance{{Name: DefaultInstance}}, nil
	case len(wanted) == 0:
		chosen = slices.DeleteFunc(slices.Clone(all), func(in Instance) bool { return !in.Enabled })
	}
	if len(chosen) == 0 {
		return nil, Remedied(fmt.Errorf("no instance is enabled of %s", strings.Join(names, ", ")), "enable one, 'postmulti -i NAME -e enable', or name them in the host variable postfix_instances")
	}
	return chosen, nil
}

// Instances lists the Postfix of this host, the default one first.
func Instances(ctx context.Context) ([]Instance, error) {
	postfix, err := findPostfix()
	if err != nil {
		return nil, err
	}
	bin := filepath.Dir(postfix)
	ctx, cancel := context.WithTimeout(ctx, postconfLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, filepath.Join(bin, "postmulti"), "-l").Output(); err == nil {
		return ParseInstances(string(out))
	}
	// One whose main.cf cannot be read keeps postmulti from listing any. It is
	// listed here all the same: whoever asks it is told what is wrong.
	postconf := filepath.Join(bin, "postconf")
	out, err := exec.CommandContext(ctx, postconf, "-hx", "config_directory", "multi_instance_directories").Output()
	directory, others, _ := strings.Cut(string(out), "\n")
	if err != nil || strings.TrimSpace(others) == "" {
		return []Instance{{Name: DefaultInstance, Enabled: true}}, ctx.Err() // or broken itself
	}
	all := []Instance{{DefaultInstance, strings.TrimSpace(directory), true}}
	for _, dir := range words(strings.TrimSpace(others)) {
		in := Instance{DefaultInstance, dir, true}
		var exit *exec.ExitError
		out, err := exec.CommandContext(ctx, postconf, "-c", dir, "-hx", "multi_instance_name", "multi_instance_enable").Output()
		switch {
		case err == nil:
			name, enabled, _ := strings.Cut(string(out), "\n")
			if name = strings.TrimSpace(name); name != "" {
				in.Name = name
			}
			in.Enabled = strings.TrimSpace(enabled) == "yes"
		case !errors.As(err, &exit):
			return nil, fmt.Errorf("%s: %w", postconf, err)
		}
		all = append(all, in)
	}
	return all, nameInstances(all)
}
