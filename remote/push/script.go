package push

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Any stands for every architecture: a file given for all hosts.
const Any = "any"

// script finds the agent and becomes it, or says what is missing. It is one
// line, without a single quote, a backslash or an exclamation mark, so that it
// comes whole through whatever login shell the user has: sh, csh or fish. It is
// written for dash and busybox.
//
//	$1 the agent's directory, or empty for the usual places
//	$2 "direct" to run it as it is; sudo, doas or su to run it as root through that
//	$3 the word in the prompt with which sudo is to ask for a password on stderr, or
//	   that is said on stderr before doas or su asks in its own; empty: it may not ask
//	   then ARCH=SHA256 for each agent the controller has, ARCH may be "any"
//
// A directory is taken only if the login user owns it, nobody else may enter
// it, and nobody but root and that user could put another in its place: what
// lies there may soon run as root. / itself is not looked at, since in a
// container it often belongs to nobody.
//
// Whether programs may run there is tried, not asked, with an empty file: the
// kernel refuses it on a noexec file system, elsewhere the shell takes it for an
// empty script.
const script = `umask 077; LC_ALL=C; export LC_ALL; cd /; ` +
	`w=$1; b=$2; k=$3; shift 3; u=$(id -u); n=; ` +
	`case "$(uname -sm)" in ` +
	`"Linux x86_64") a=amd64;; "Linux aarch64") a=arm64;; "Linux i"[3-6]86) a=386;; "Linux riscv64") a=riscv64;; ` +
	`*) a=$(uname -sm | tr " " -);; esac; ` +
	`h=; for p in "$@"; do case $p in "$a="*|any=*) h=${p#*=};; esac; done; ` +
	// mine DIR: see above. ls sorts, so the directory itself comes last.
	`mine() { test -L "$1" && return 1; test -d "$1" || return 1; p=$(cd -P "$1" && pwd -P) || return 1; set --; ` +
	`while test -n "$p"; do set -- "$@" "$p"; p=${p%/*}; done; ` +
	`ls -ldn "$@" | ( x=; y=; while read -r m l o r; do x=$m; y=$o; ` +
	`case $o in "$u"|0) ;; *) exit 1;; esac; ` +
	`case $m in d????????[tT]*) ;; d????w*|d???????w*) exit 1;; d*) ;; *) exit 1;; esac; done; ` +
	`test "$y" = "$u" || exit 1; case $x in drwx------*) exit 0;; esac; exit 1 ); }; ` +
	`become() { touch -c "$1"; case $b:$u in direct:*|*:0) exec "$1";; esac; ` +
	`command -v $b >/dev/null || { echo "spoolsweep-no $b"; exit 0; }; ` +
	`case $b:$k in sudo:) exec sudo -n -- "$1";; sudo:*) exec sudo -S -p "$k: " -- "$1";; doas:) exec doas -n "$1";; esac; ` +
	// The agent is the shell that su starts: no quoting, and root's may be any.
	`echo "$k" >&2; case $b in doas) exec doas "$1";; su) exec su -s "$1" root;; esac; }; ` +
	`place() { case $1 in /run/user/*) test -d "${1%/*}" || return 1;; esac; ` +
	`test -d "$1" || mkdir -p "$1" 2>/dev/null || { n="$n $1 cannot be made;"; return 1; }; ` +
	`mine "$1" || { n="$n $1 is not of user $u alone;"; return 1; }; ` +
	`t=$1/.try-$$; ( : >"$t" ) 2>/dev/null && chmod 700 "$t" && ( "$t" ) 2>/dev/null; s=$?; rm -f "$t"; ` +
	`test $s -eq 0 || { n="$n no program can run in $1;"; return 1; }; } ; ` +
	`if test -n "$w"; then set -- "$w"; else ` +
	`set -- "/var/tmp/spoolsweep-$u" "/run/user/$u/spoolsweep"; ` +
	`case $HOME in /?*) set -- "${HOME%/}/.cache/spoolsweep" "$@";; esac; fi; ` +
	`if test -n "$h"; then for d in "$@"; do f=$d/spoolsweep-agent-$h; ` +
	`if test -f "$f" && test -x "$f" && mine "$d"; then become "$f"; fi; done; fi; ` +
	`for d in "$@"; do if place "$d"; then echo "spoolsweep-need $a $u $d"; exit 0; fi; done; ` +
	`echo "spoolsweep-no place $n"`

// Become is who runs the agent: the login user, or root through a program.
type Become struct {
	Method string // sudo, doas or su; empty: the login user
	Word   string // that is said before a password is asked for; empty: it may not be
}

// Command is what to run on a host: it becomes the agent, whose greeting is then
// the first line, or prints a line for [Answer]. The directory may be empty;
// hashes are those of the agents at hand, by architecture or [Any]. Without
// hashes the host always answers.
func Command(directory string, become Become, hashes map[string]string) (string, error) {
	// A backslash means something in the quotes of some login shells.
	if strings.ContainsFunc(directory, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) {
		return "", fmt.Errorf("agent_directory %q: control characters and backslashes are not possible there", directory)
	}
	if directory != "" && (!strings.HasPrefix(directory, "/") || directory == "/") {
		return "", fmt.Errorf("agent_directory %q: must be an absolute path", directory)
	}
	if len(directory) > 1 {
		directory = strings.TrimRight(directory, "/")
	}
	words := []string{"exec", "/bin/sh", "-c", quote(script), "spoolsweep", quote(directory), quote(cmp.Or(become.Method, "direct")), quote(become.Word)}
	for _, arch := range slices.Sorted(maps.Keys(hashes)) {
		words = append(words, quote(arch+"="+hashes[arch]))
	}
	return strings.Join(words, " "), nil
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Need is a host's answer that the agent is not there.
type Need struct {
	Arch      string // as Go names it, or as uname does where we have no name
	UID       uint32 // of the login user
	Directory string // where it is to go
}

// NotInstalledError says that the host has no such program to become root with.
type NotInstalledError struct{ Program string }

func (e *NotInstalledError) Error() string { return e.Program + " is not installed" }

// PlaceError says that the host has no directory fit for the agent.
type PlaceError struct {
	Why string // untrusted: show it through package clean
}

func (e *PlaceError) Error() string {
	return "no directory for the agent: " + strings.TrimSuffix(strings.TrimSpace(e.Why), ";")
}

// Answer finds the script's answer in what a host printed, which may begin with
// a login shell's noise. It is nil, nil if there is none.
func Answer(printed []byte) (*Need, error) {
	// The last one counts: what stands before it may be anybody's.
	var last []byte
	for line := range bytes.Lines(printed) {
		for _, word := range []string{"spoolsweep-need ", "spoolsweep-no "} {
			if i := bytes.LastIndex(line, []byte(word)); i >= 0 {
				last = line[i:]
			}
		}
	}
	fields := strings.SplitN(strings.TrimRight(string(last), "\r\n"), " ", 4)
	switch {
	case len(fields) == 4 && fields[0] == "spoolsweep-need":
		uid, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil || !strings.HasPrefix(fields[3], "/") {
			return nil, fmt.Errorf("no such answer: %q", last)
		}
		return &Need{Arch: fields[1], UID: uint32(uid), Directory: fields[3]}, nil
	case len(fields) >= 2 && fields[0] == "spoolsweep-no" && fields[1] == "place":
		return nil, &PlaceError{Why: strings.Join(fields[2:], " ")}
	case len(fields) == 2 && fields[0] == "spoolsweep-no" && slices.Contains([]string{"sudo", "doas", "su"}, fields[1]):
		return nil, &NotInstalledError{fields[1]}
	}
	return nil, nil
}
