package remote

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
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

// sudo tells sudo the password when it asks, once. Written to it is what the
// host says on stderr before the greeting. sudo reads no password where its rule
// is NOPASSWD or its timestamp is fresh, so that one that was sent unasked would
// be the agent's first frame.
//
// It looks for a word that nobody else can know, and not for the whole prompt:
// sudo-rs puts words of its own around it.
type sudo struct {
	prompt   string // empty without a password
	password Secret
	w        io.Writer // sudo's standard input
	end      func()    // ends sudo

	mu     sync.Mutex // guards what follows
	recent []byte     // the end of what was written, for a prompt that comes in pieces
	asked  int
	done   bool // it is not sudo any more that speaks
}

func newSudo(password Secret) *sudo {
	s := &sudo{password: password}
	if password != "" {
		s.prompt = "spoolsweep-" + rand.Text() + ": "
	}
	return s
}

func (s *sudo) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.prompt == "" || s.done {
		return len(p), nil
	}
	word := []byte(strings.TrimRight(s.prompt, ": "))
	s.recent = append(s.recent, p...)
	for {
		i := bytes.Index(s.recent, word)
		if i < 0 {
			break
		}
		s.recent = s.recent[i+len(word):]
		s.asked++
		if s.asked == 1 {
			// An error here is one of the connection, which greeting finds too.
			_, _ = io.WriteString(s.w, string(s.password)+"\n")
			continue
		}
		// A wrong password counts once and not three times, where accounts are locked.
		s.done = true
		s.end()
		return len(p), nil
	}
	s.recent = append([]byte(nil), s.recent[max(0, len(s.recent)-len(word)):]...)
	return len(p), nil
}

// over ends the watch: nothing is sent to whoever speaks from here on.
func (s *sudo) over() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
}

func (s *sudo) wasAsked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// heard passes on what a terminal shows, where stderr is not apart, to whom
// stderr is for. After the greeting that is told from frames by wire.Reader.
type heard struct {
	io.Reader
	w    io.Writer
	sudo *sudo
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	h.sudo.mu.Lock()
	done := h.sudo.done
	h.sudo.mu.Unlock()
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

// sudoRefused says why sudo did not start the agent, nil if sudo was not why.
// What sudo says is the C locale's: see the script in package push.
func (c *Conn) sudoRefused(p *process) error {
	if !c.Target.Become {
		return nil
	}
	said := p.stderr.lastLines()
	user := c.Target.User
	has := func(texts ...string) bool {
		for _, text := range texts {
			if strings.Contains(said, text) {
				return true
			}
		}
		return false
	}
	instead := fmt.Sprintf("let %s use sudo without one (NOPASSWD in sudoers), or connect as root (-u root)", user)
	switch {
	// Before the passwords: whoever has no rule is asked for one first.
	case has("not in the sudoers file", "is not allowed to", "may not run sudo", "NOT authorized", "I'm afraid I can't do that"):
		return c.openError(KindSudo, fmt.Errorf("sudo does not let %s become root: %s", user, said),
			fmt.Sprintf("give %s a rule in sudoers there (visudo: %s ALL=(root) ALL), or connect as root (-u root)", user, user))
	case p.sudo.wasAsked() > 1, p.sudo.wasAsked() == 1 && has("incorrect"):
		return c.openError(KindPassword, fmt.Errorf("sudo does not take the password of %s (it was told once)", user),
			"give the right one with -K or --become-password-file; or "+instead)
	case c.Target.BecomePassword == "" && has("password is required", "authentication is required"):
		return c.openError(KindPassword, errors.New(said), "give it with -K or --become-password-file; or "+instead)
	case has("must have a tty"):
		return c.openError(KindSudo, errors.New(said),
			fmt.Sprintf("it was given one: switch requiretty off for %s in sudoers there, or connect as root (-u root)", user))
	case has("sudo: "):
		return c.openError(KindSudo, errors.New(said), "see what sudo says there by hand, or connect as root (-u root)")
	}
	return nil
}
