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

// Packaged is the folder of an agent that a package brings.
const Packaged = "/usr/lib/spoolsweep"

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
//
// An agent that a package has put there belongs to root, and is taken before any
// other: a line of sudoers can name it with its digest.
//
// The agent begins with one processor, and takes the others when it has work for
// them.
//
// Where the agent is, ls is the only program that is started on the way to it: each
// costs a host about as much as the agent's own start.
const script = `umask 077; LC_ALL=C; GOMAXPROCS=1; export LC_ALL GOMAXPROCS; cd /; ` +
	`w=$1; b=$2; k=$3; shift 3; u=; n=; ` +
	// Linux 6.1 and later.
	`{ read -r a </proc/sys/kernel/arch; } 2>/dev/null && a="Linux $a" || a=$(uname -sm); ` +
	`case $a in ` +
	`"Linux x86_64") a=amd64;; "Linux aarch64") a=arm64;; "Linux i"[3-6]86) a=386;; "Linux riscv64") a=riscv64;; ` +
	`*) a=$(echo "$a" | tr " " -);; esac; ` +
	`h=; for p in "$@"; do case $p in "$a="*|any=*) h=${p#*=};; esac; done; ` +
	`who() { test -n "$u" || u=$(id -u); }; ` +
	// ours DIR: see above. The directory and those above it are called . and .. and
	// ../.. so that words end each line of ls that no name has in it, whatever the
	// format of its times. Of a directory that is ours the owner is who we are.
	`ours() { test -L "$1" && return 1; test -d "$1" && cd -P "$1" || return 1; p=$PWD; q=.; set --; ` +
	`while test -n "$p"; do set -- "$@" $q; p=${p%/*}; case $q in .) q=..;; *) q=$q/..;; esac; done; ` +
	`i=0; c=0; x=; y=; z=; for l in $(ls -ldn "$@"); do case $i in 0) m=$l;; 2) o=$l;; esac; i=$((i+1)); ` +
	`case $l in .) x=$m; y=$o;; ..|../*) ;; *) continue;; esac; i=0; c=$((c+1)); z="$z $o"; ` +
	`case $m in d????????[tT]*) ;; d????w*|d???????w*) return 1;; d*) ;; *) return 1;; esac; done; ` +
	`test $c -eq $# || return 1; test -z "$u" && test -O . 2>/dev/null && u=$y; who; test "$y" = "$u" || return 1; ` +
	`for o in $z; do case $o in "$u"|0) ;; *) return 1;; esac; done; ` +
	`case $x in drwx------*) return 0;; esac; return 1; }; ` +
	`mine() { ours "$1"; s=$?; cd /; return $s; }; ` +
	`become() { case $b:$u in direct:*|*:0) exec "$1";; esac; ` +
	`command -v $b >/dev/null || { echo "spoolsweep-no $b"; exit 0; }; ` +
	`case $b:$k in sudo:) exec sudo -n -- "$1";; sudo:*) exec sudo -S -p "$k: " -- "$1";; doas:) exec doas -n "$1";; esac; ` +
	// The agent is the shell that su starts: no quoting, and root's may be any.
	`echo "$k" >&2; case $b in doas) exec doas "$1";; su) exec su -s "$1" root;; esac; }; ` +
	`try() { f=$1/spoolsweep-agent-$h; test -n "$h" && test -f "$f" && test -x "$f" && mine "$1" && become "$f"; }; ` +
	`own() { f=` + Packaged + `/spoolsweep-agent-$h; test -n "$h" && test -f "$f" && test -x "$f" || return 1; ` +
	`set -- $(ls -ldn ` + Packaged + `); case $1:$3 in drwxr-xr-x*:0|drwx------*:0) become "$f";; esac; }; ` +
	`place() { case $1 in /run/user/*) test -d "${1%/*}" || return 1;; esac; ` +
	`test -d "$1" || mkdir -p "$1" 2>/dev/null || { n="$n $1 cannot be made;"; return 1; }; ` +
	`mine "$1" || { n="$n $1 is not of user $u alone;"; return 1; }; ` +
	`t=$1/.try-$$; ( : >"$t" ) 2>/dev/null && chmod 700 "$t" && ( "$t" ) 2>/dev/null; s=$?; rm -f "$t"; ` +
	`test $s -eq 0 || { n="$n no program can run in $1;"; return 1; }; } ; ` +
	`own; if test -n "$w"; then set -- "$w"; else set --; ` +
	`case $HOME in /?*) set -- "${HOME%/}/.cache/spoolsweep"; try "$1";; esac; ` +
	`who; set -- "$@" "/var/tmp/spoolsweep-$u" "/run/user/$u/spoolsweep"; fi; ` +
	`for d in "$@"; do try "$d"; done; who; ` +
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
