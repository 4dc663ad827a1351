package inventory

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"spoolsweep/playbooks/strict"
)

// varsExtensions are those of files with variables, in the order in which they
// are looked for (YAML_FILENAME_EXTENSIONS of Ansible).
var varsExtensions = []string{".yml", ".yaml", ".json"}

// varsFolder is a group_vars or host_vars: its path, and which names are there.
type varsFolder struct {
	path  string
	names map[string]bool
}

func openVarsFolder(path string) (*varsFolder, error) {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return &varsFolder{}, nil
	}
	if err != nil {
		return nil, err
	}
	folder := &varsFolder{path, make(map[string]bool)}
	for _, e := range entries {
		folder.names[e.Name()] = true
	}
	return folder, nil
}

// files are those with the variables of a group or host: NAME, else NAME.yml,
// else NAME.yaml, else NAME.json, or what is in the first of them if that is a
// directory (ansible/parsing/dataloader.py: find_vars_files).
func (f *varsFolder) files(name string) ([]string, error) {
	for _, ext := range append([]string{""}, varsExtensions...) {
		if !f.names[name+ext] {
			continue
		}
		path := filepath.Join(f.path, name+ext)
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return []string{path}, nil
		}
		return varsFiles(path, 0)
	}
	return nil, nil
}

// varsFiles are the files in a directory of variables and in those below it.
func varsFiles(path string, level int) ([]string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") {
			continue
		}
		ext := filepath.Ext(name)
		if ext != "" && !slices.Contains(varsExtensions, ext) {
			continue
		}
		file := filepath.Join(path, name)
		info, err := os.Stat(file)
		switch {
		case err != nil:
			return nil, err
		case !info.IsDir():
			files = append(files, file)
		case ext == "" && level < maxLevels:
			below, err := varsFiles(file, level+1)
			if err != nil {
				return nil, err
			}
			files = append(files, below...)
		}
	}
	return files, nil
}

// readVarsFolders reads group_vars and host_vars beside every source, for the
// groups and hosts that there are.
func (b *builder) readVarsFolders() error {
	for _, base := range b.bases {
		folder, err := openVarsFolder(filepath.Join(base, "group_vars"))
		if err != nil {
			return err
		}
		for _, g := range b.groups {
			blocks, err := b.varsBlocks(folder, g.name)
			if err != nil {
				return err
			}
			g.files = append(g.files, blocks)
		}
		if folder, err = openVarsFolder(filepath.Join(base, "host_vars")); err != nil {
			return err
		}
		for _, h := range b.hosts {
			blocks, err := b.varsBlocks(folder, h.Name)
			if err != nil {
				return err
			}
			h.files = append(h.files, blocks)
		}
	}
	return nil
}

func (b *builder) varsBlocks(folder *varsFolder, name string) ([]block, error) {
	paths, err := folder.files(name)
	if err != nil {
		return nil, err
	}
	var blocks []block
	for _, path := range paths {
		vars, err := b.varsFile(path)
		if err != nil {
			return nil, err
		}
		if vars.Kind == strict.Null {
			continue
		}
		if vars.Kind != strict.Map {
			return nil, vars.Wanted("a map of variables")
		}
		own, err := b.readBlock(vars)
		if err != nil {
			return nil, err
		}
		if e, ok := vars.Entry(groupPriority); ok {
			b.warn(e.Key.Errorf("%s has no effect here", groupPriority).WithHint("it counts under the group's vars: in the inventory"))
		}
		blocks = append(blocks, own)
	}
	return blocks, nil
}

// varsFile reads a file once, however many sources it stands beside.
func (b *builder) varsFile(path string) (*strict.Value, error) {
	if v := b.varsRead[path]; v != nil {
		return v, nil
	}
	data, err := strict.ReadText(path)
	if err != nil {
		return nil, err
	}
	if isVault(data) {
		if b.raw && b.vault.passwords == nil {
			// Ansible needs the password too, to list what is in it.
			return nil, strict.NewValue(path, 1, 1).Locate(errNoVaultPassword)
		}
		text, err := b.vault.decrypt(string(data))
		if err != nil {
			return nil, strict.NewValue(path, 1, 1).Locate(err)
		}
		data = []byte(text)
	}
	v, err := parseText(path, data)
	if err != nil {
		return nil, err
	}
	b.varsRead[path] = v
	return v, nil
}
