package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
)

// changing are the commands whose hosts that failed are kept: what only looks at
// hosts must not put its own in place of those.
var changing = []string{"run", "resume", "putback", "delete", "purge", "hold", "release", "requeue", "export"}

// keptNames are the lists that --limit @NAME stands for, with the status of
// their hosts.
var keptNames = map[string]string{"failed": show.Failed, "unreachable": show.Unreachable}

// stateHome is the XDG base directory for state, on macOS too.
func stateHome() (string, error) {
	return baseDirectory(os.Getenv("XDG_STATE_HOME"), ".local/state")
}

// cacheHome is that for what can be had again.
func cacheHome() (string, error) {
	return baseDirectory(os.Getenv("XDG_CACHE_HOME"), ".cache")
}

// baseDirectory is the one that is set, or the usual one below the user's home.
func baseDirectory(set, usual string) (string, error) {
	if filepath.IsAbs(set) {
		return set, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, usual), nil
}

// keptFile is where a list is kept.
func keptFile(name string) (string, error) {
	dir, err := stateHome()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "spoolsweep", "retry", name), nil
}

// keptList returns the file of a list, "" if there is none of that name.
func keptList(name string) (string, error) {
	if keptNames[name] == "" {
		return "", nil
	}
	file, err := keptFile(name)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", fmt.Errorf("@%s: no run was carried out from here yet (a file of that name is @./%s)", name, name)
	case err != nil:
		return "", err
	}
	head, rest, _ := strings.Cut(string(data), "\n")
	if strings.TrimSpace(rest) == "" {
		return "", fmt.Errorf("@%s: there are no %s in the last run (%s)", name, hostsThat[name], strings.TrimPrefix(head, "# "))
	}
	return file, nil
}

// usesKept reports that a limit names a list.
func usesKept(limit string) bool {
	for part := range strings.FieldsFuncSeq(limit, func(r rune) bool { return r == ',' || r == ':' }) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(part), "@"); ok && keptNames[name] != "" {
			return true
		}
	}
	return false
}

// keepLists keeps which hosts failed and which could not be reached, one a line,
// as Ansible's retry files have them.
func (s *sweep) keepLists() {
	if !s.keeps {
		return
	}
	what := s.doc.Command
	if s.doc.Run != "" {
		what += " " + s.doc.Run
	}
	for _, name := range []string{"failed", "unreachable"} {
		var hosts []string
		for _, m := range s.members {
			if m.Status == keptNames[name] && !slices.Contains(hosts, m.host.Name) {
				hosts = append(hosts, m.host.Name)
			}
		}
		text := fmt.Sprintf("# %s, ended %s\n", what, time.Now().UTC().Format(time.RFC3339))
		for _, h := range hosts {
			text += h + "\n"
		}
		file, err := keptFile(name)
		if err == nil {
			err = replaceFile(file, text)
		}
		if err != nil {
			s.Alert("", "warning: which hosts are for --limit @%s could not be kept: %v", name, err)
		} else if len(hosts) > 0 {
			s.Note("", "--limit @%s names the %s: %d", name, hostsThat[name], len(hosts))
		}
	}
}

var hostsThat = map[string]string{"failed": "hosts that failed", "unreachable": "hosts that could not be reached"}

// replaceFile puts a file in the place of the one before, whole or not at all.
func replaceFile(file, text string) error {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
