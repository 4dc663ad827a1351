package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"spoolsweep/spool"
)

// sudoLimit is how long sudo may take to list a user's rules: it may have to ask
// a directory.
const sudoLimit = 5 * time.Second

// exposed says, where the agent was started through sudo by a rule that is not
// ALL, that this rule is as good as ALL if the user can write to the agent's file;
// "" where nothing is to be said.
func (e *Env) exposed(ctx context.Context) string {
	user := os.Getenv("SUDO_USER")
	if os.Geteuid() != 0 || user == "" || user == "root" || strings.HasPrefix(user, "-") || !writtenByOthers(e.Executable) {
		return ""
	}
	ran, err := spool.Run(ctx, sudoLimit, "env", "LC_ALL=C", "sudo", "-n", "-l", "-U", user)
	if err == nil && ran.Exit == 0 && sudoAll(ran.Output) {
		return ""
	}
	note := fmt.Sprintf("%s is run as root, and %s can write to it: who is %s there is root, whatever sudo's rule says", e.Executable, user, user)
	if err != nil || ran.Exit != 0 {
		return note + " (sudo -l -U " + user + " does not tell the rule)"
	}
	return note + "; a rule that is narrower in fact names an agent that belongs to root, in a folder of root's"
}

// writtenByOthers says whether anybody but root can put another file in the place
// of path, or change it.
func writtenByOthers(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return true
	}
	for ; ; path = filepath.Dir(path) {
		s, err := os.Lstat(path)
		if err != nil {
			return true
		}
		sys, ok := s.Sys().(*syscall.Stat_t)
		// In a folder with the sticky bit everybody removes only what is theirs.
		if !ok || sys.Uid != 0 || s.Mode().Perm()&0o022 != 0 && s.Mode()&os.ModeSticky == 0 {
			return true
		}
		if path == filepath.Dir(path) {
			return false
		}
	}
}

// sudoAll says whether what sudo -l lists lets its user run everything as root.
// Of several entries for one command the last one counts, so one that forbids
// something is not taken for ALL.
func sudoAll(list string) bool {
	all := false
	rule := regexp.MustCompile(`^\s+\(([^)]*)\)\s*(.*)$`) // "    (root) NOPASSWD: ALL"
	for line := range strings.Lines(list) {
		m := rule.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue
		}
		users, _, _ := strings.Cut(m[1], ":")
		if !slices.ContainsFunc(strings.FieldsFunc(users, func(r rune) bool { return r == ',' || r == ' ' }), func(u string) bool { return u == "ALL" || u == "root" }) {
			continue
		}
		for _, command := range strings.Split(m[2], ", ") {
			for { // tags: NOPASSWD: SETENV: ...
				tag, rest, ok := strings.Cut(command, ": ")
				if !ok || strings.ContainsAny(tag, "/ ") {
					break
				}
				command = rest
			}
			switch {
			case command == "ALL":
				all = true
			case strings.HasPrefix(command, "!"):
				all = false
			}
		}
	}
	return all
}
