package push

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"
)

// removeScript counts or removes the agents that the login user has on a host,
// and parts of them that an interrupted push left, from the directory they were
// given or from all the usual ones. A directory that is empty after that goes
// too. Like the other script it is one line that every login shell passes on.
//
//	$1 the agents' directory, or empty for the usual places
//	$2 "remove", or "count" to look only
const removeScript = `LC_ALL=C; export LC_ALL; cd /; w=$1; do=$2; u=$(id -u); n=0; ` +
	`if test -n "$w"; then set -- "$w"; else ` +
	`set -- "$HOME/.cache/spoolsweep" "/var/tmp/spoolsweep-$u" "/run/user/$u/spoolsweep"; fi; ` +
	`for d in "$@"; do test -d "$d" || continue; test -L "$d" && continue; ` +
	`for f in "$d"/` + prefix + `*; do test -f "$f" || continue; test -L "$f" && continue; ` +
	`if test "$do" = remove; then rm -f "$f" || exit 1; fi; n=$((n+1)); done; ` +
	`test "$do" = remove && rmdir "$d" 2>/dev/null; done; echo "spoolsweep-agents $n"`

// Agents counts the agents that the login user has on a host.
func Agents(client *ssh.Client, directory string) (int, error) {
	return agents(client, directory, "count")
}

// Remove removes them, and says how many there were.
func Remove(client *ssh.Client, directory string) (int, error) {
	return agents(client, directory, "remove")
}

func agents(client *ssh.Client, directory, do string) (int, error) {
	s, err := client.NewSession()
	if err != nil {
		return 0, err
	}
	defer s.Close()
	var out, complaint bounded
	s.Stdout, s.Stderr = &out, &complaint
	err = s.Run("exec /bin/sh -c " + quote(removeScript) + " spoolsweep " + quote(directory) + " " + do)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint))
	}
	// A login shell may have said something before, so the last line counts.
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if text, ok := strings.CutPrefix(lines[len(lines)-1], "spoolsweep-agents "); ok {
		if n, err := strconv.Atoi(text); err == nil && n >= 0 {
			return n, nil
		}
	}
	return 0, errors.New("the login shell there does not answer with a number")
}
