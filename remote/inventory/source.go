package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
)

// ignored are the names in a directory that are no inventories
// (ansible/inventory/manager.py: IGNORED).
var ignored = regexp.MustCompile(`^\.|^(?:host_vars|group_vars|vars_plugins)$` +
	`|(?:\.pyc|\.pyo|\.swp|\.bak|~|\.rpm|\.md|\.txt|\.rst|\.orig|\.ini|\.cfg|\.retry)$`)

// maxFiles and maxLevels bound a directory that was named by mistake.
const (
	maxFiles  = 10_000
	maxLevels = 16
)

// source reads one argument of -i: a file, a directory, a program, or names with
// commas.
func (b *builder) source(path string) error {
	info, err := os.Stat(path)
	if strings.Contains(path, ",") && errors.Is(err, os.ErrNotExist) {
		return b.hostList(path)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		b.bases = append(b.bases, filepath.Dir(path))
		return b.inventoryFile(path)
	}
	b.bases = append(b.bases, path)
	return b.directory(path, 0)
}

// hostList reads names with commas; one name alone has a comma behind it.
func (b *builder) hostList(text string) error {
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		if name == "" {
			continue
		}
		at := strict.NewValue("-i "+text, 0, 0).With(name)
		if strings.ContainsAny(name, "/") {
			return at.Errorf("%q: there is no such file, and names with commas have no slash", name)
		}
		if _, err := b.addHosts(b.groupBy[ungrouped], at, block{}); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) directory(path string, level int) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	if level > maxLevels {
		return fmt.Errorf("%s: directories deeper than %d levels", path, maxLevels)
	}
	found := false
	for _, e := range entries { // sorted by name, as Ansible's
		if ignored.MatchString(e.Name()) {
			continue
		}
		file := filepath.Join(path, e.Name())
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		found = true
		if b.files++; b.files > maxFiles {
			return fmt.Errorf("%s: more than %d files", path, maxFiles)
		}
		if info.IsDir() {
			err = b.directory(file, level+1)
		} else {
			err = b.inventoryFile(file)
		}
		if err != nil {
			return err
		}
	}
	if !found && level == 0 {
		return fmt.Errorf("%s: no inventory is in this directory (names that begin with a dot, and .ini, .cfg, .txt, .md, .bak among others, are passed over)", path)
	}
	return nil
}

// inventoryFile reads one file in the format that it has.
func (b *builder) inventoryFile(path string) error {
	program, err := isProgram(path)
	if err != nil {
		return err
	}
	switch {
	case program && b.namesOnly:
		return nil
	case program:
		return b.program(path)
	}
	data, err := strict.ReadText(path)
	if err != nil {
		return err
	}
	switch {
	case !isVault(data):
	case b.namesOnly:
		return nil
	default:
		text, err := b.vault.decrypt(string(data))
		if err != nil {
			return strict.NewValue(path, 1, 1).Locate(err)
		}
		data = []byte(text)
	}
	switch ext := filepath.Ext(path); {
	case slices.Contains(varsExtensions, ext):
		v, err := parseText(path, data)
		if err != nil {
			return iniHint(err)
		}
		return b.file(v)
	case ext == ".toml":
		return strict.NewValue(path, 1, 1).Errorf("TOML is not read").
			WithHint("an inventory is printed as YAML by: ansible-inventory -i %s --list -y", path)
	case ext == "" && !looksINI(data):
		v, err := parseText(path, data)
		if err != nil {
			return iniHint(err)
		}
		return b.file(v)
	}
	return b.ini(path, data)
}

// parseText reads YAML, or JSON in the few places where that means something
// else; Ansible tries JSON first too.
func parseText(path string, data []byte) (*strict.Value, error) {
	if text := bytes.TrimLeft(data, " \t\r\n"); len(text) > 0 && text[0] == '{' {
		v, err := strict.ParseJSON(path, data)
		if err == nil {
			return v, nil
		}
		if filepath.Ext(path) == ".json" {
			if v, yamlErr := strict.Parse(path, data); yamlErr == nil {
				return v, nil
			}
			return nil, err
		}
	}
	return strict.Parse(path, data)
}

// looksINI tells an INI file without an extension from a YAML one, where Ansible
// reads the first of the two that has no error: by the first line with
// something in it.
func looksINI(data []byte) bool {
	for line := range bytes.Lines(data) {
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' || text[0] == ';' {
			continue
		}
		return !yamlLine.MatchString(text)
	}
	return false
}

var yamlLine = regexp.MustCompile(`^(?:---|\{|%YAML|["']?[\w.-]+["']?:(?:\s|$))`)

// isProgram tells a dynamic inventory from a file. What has the extension of a
// file and no #! is none, whatever its mode: copies from other systems are
// executable as a whole.
func isProgram(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	head := make([]byte, 4)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, fmt.Errorf("read %s: %w", path, err)
	}
	head = head[:n]
	executable := info.Mode().Perm()&0o111 != 0
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		if !executable {
			return false, strict.NewValue(path, 1, 1).Errorf("a program, but not an executable one").WithHint("chmod +x %s", path)
		}
		return true, nil
	case bytes.Equal(head, []byte("\x7fELF")), bytes.Equal(head, []byte{0xcf, 0xfa, 0xed, 0xfe}): // Mach-O
		return executable, nil
	}
	return false, nil
}
