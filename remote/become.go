package remote

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Secret is a password. It shows itself to nobody: however it is formatted, it
// is a mark in its place.
type Secret string

// Format prints the mark.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, hidden) }

// MarshalText returns the mark.
func (s Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

const hidden = "(password)"

// hideIn puts the mark where a host has repeated the secret.
func (s Secret) hideIn(text []byte) []byte {
	if s == "" {
		return text
	}
	return bytes.ReplaceAll(text, []byte(s), []byte(hidden))
}

// The programs that make a login root.
const (
	sudo = "sudo"
	doas = "doas"
	su   = "su"
)

// BecomeMethods are the programs that a [Target] may become root with: Ansible's
// words for them.
var BecomeMethods = []string{sudo, doas, su}

// become tells the program that makes one root the password when it asks, once.
// Written to it is what the host says on stderr before the greeting. No password
// is asked for where the rule wants none or was satisfied a moment ago, so that
// one that was sent unasked would be the agent's first frame.
//
// It looks for a word that nobody else can know. sudo has it in its prompt, but
// not as all of it: sudo-rs puts words of its own around it. doas and su ask in
// their own words, and count from where the script says the word, as the last
// thing before it is they who speak.
type become struct {
	method   string // empty: the login is root, or is to do
	word     string // empty where nothing may be asked
	password Secret
	w        io.Writer // the program's standard input, or its terminal
	end      func()    // ends it

	mu     sync.Mutex // guards what follows
	spoken bool       // the word of doas or su
	recent []byte     // the end of what was written, for a prompt that comes in pieces
	asked  int
	done   bool // it is the agent that speaks
}

// newBecome is for one start of the agent.
func newBecome(t *Target) *become {
	b := &become{password: t.BecomePassword}
	if t.Become {
		b.method = cmp.Or(t.BecomeMethod, sudo)
	}
	// su cannot be told not to ask.
	if b.password != "" || b.method == su {
		b.word = "spoolsweep-" + rand.Text()
	}
	return b
}

// needsTerminal says that the program asks on one only.
func (b *become) needsTerminal() bool { return b.method == doas && b.password != "" }

// ownPrompt is in what doas and su ask, in the C locale: "Password: ",
// "doas (joe@mx1) password: ".
const ownPrompt = "assword: "

func (b *become) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.word == "" || b.done {
		return len(p), nil
	}
	b.recent = append(b.recent, p...)
	longest := max(len(b.word), len(ownPrompt))
	for {
		prompt := b.word
		if b.spoken {
			prompt = ownPrompt
		}
		_, rest, found := bytes.Cut(b.recent, []byte(prompt))
		if !found {
			break
		}
		b.recent = rest
		if b.method != sudo && !b.spoken {
			b.spoken = true
			continue
		}
		b.asked++
		if b.asked == 1 && b.password != "" {
			// An error here is one of the connection, which greeting finds too.
			_, _ = io.WriteString(b.w, string(b.password)+"\n")
			continue
		}
		// A wrong password counts once and not three times, where accounts are locked.
		b.done = true
		b.end()
		return len(p), nil
	}
	b.recent = append([]byte(nil), b.recent[max(0, len(b.recent)-longest):]...)
	return len(p), nil
}

// over ends the watch: nothing is sent to whoever speaks from here on.
func (b *become) over() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done = true
}

func (b *become) wasAsked() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.asked
}

// heard passes on what a terminal shows, where stderr is not apart, to whom
// stderr is for. After the greeting that is told from frames by wire.Reader.
type heard struct {
	io.Reader
	w      io.Writer
	become *become
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	h.become.mu.Lock()
	done := h.become.done
	h.become.mu.Unlock()
	if !done {
		_, _ = h.w.Write(p[:n])
	}
	return n, err
}

// rawTerminal is a terminal that changes no byte, shows no password, and cuts no
// line: a canonical one does at 4,096 bytes.
var rawTerminal = ssh.TerminalModes{ssh.ICANON: 0, ssh.ECHO: 0, ssh.ICRNL: 0, ssh.OPOST: 0, ssh.ISIG: 0}

// wantsTerminal says whether that is why sudo refused (requiretty in sudoers).
func (p *process) wantsTerminal() bool {
	if !p.conn.Target.Become {
		return false
	}
	p.abandon()
	return strings.Contains(p.stderr.lastLines(), "must have a tty")
}

// becomeRefused says why the agent was not started as root, nil if that was not
// why. What the programs say is the C locale's: see the script in package push.
func (c *Conn) becomeRefused(p *process) error {
	if !c.Target.Become {
		return nil
	}
	said, user, by := p.stderr.lastLines(), c.Target.User, p.become.method
	if by != sudo && p.become.word != "" { // the script's own, before what it became
		_, said, _ = strings.Cut(said, p.become.word)
		said = strings.TrimLeft(said, "; ")
	}
	has := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(said, text) })
	}
	const asRoot = "or connect as root (-u root)"
	rule, instead := "", ""
	switch by {
	case sudo:
		rule = fmt.Sprintf("give %s a rule in sudoers there (visudo: %s ALL=(root) ALL), %s", user, user, asRoot)
		instead = fmt.Sprintf("let %s use sudo without one (NOPASSWD in sudoers), %s", user, asRoot)
	case doas:
		rule = fmt.Sprintf("give %s a rule in /etc/doas.conf there (permit nopass %s as root), %s", user, user, asRoot)
		instead = fmt.Sprintf("let %s use doas without one (nopass in /etc/doas.conf), %s", user, asRoot)
	case su:
		rule = fmt.Sprintf("see which group /etc/pam.d/su wants there, use sudo (--become-method sudo), %s", asRoot)
		instead = "use sudo (--become-method sudo), " + asRoot
	}
	whose := "the password of " + user
	if by == su {
		whose = "root's password"
	}
	switch {
	// Before the passwords: whoever has no rule may be asked for one first.
	case has("not in the sudoers file", "is not allowed to", "may not run sudo", "NOT authorized", "I'm afraid I can't do that",
		"doas: Operation not permitted", "doas is not enabled", "su: Permission denied"):
		return c.openError(KindSudo, fmt.Errorf("%s does not let %s become root: %s", by, user, said), rule)
	case c.Target.BecomePassword == "" && p.become.wasAsked() > 0:
		return c.openError(KindPassword, fmt.Errorf("%s asks for %s", by, whose), "give it with -K or --become-password-file; or "+instead)
	case c.Target.BecomePassword == "" && has("password is required", "authentication is required", "doas: Authentication required", "doas: Authorization required"):
		return c.openError(KindPassword, errors.New(said), "give it with -K or --become-password-file; or "+instead)
	case p.become.wasAsked() > 1, p.become.wasAsked() == 1 && has("incorrect", "uthentication fail", "doas: Authorization failed"):
		return c.openError(KindPassword, fmt.Errorf("%s does not take %s (it was told once)", by, whose),
			"give the right one with -K or --become-password-file; or "+instead)
	case has("must have a tty"):
		return c.openError(KindSudo, errors.New(said),
			fmt.Sprintf("it was given one: switch requiretty off for %s in sudoers there, %s", user, asRoot))
	case has(by + ": "):
		return c.openError(KindSudo, errors.New(said), fmt.Sprintf("see what %s says there by hand, %s", by, asRoot))
	}
	return nil
}
