package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote"
)

// becomePassword is what sudo, doas or su is to be told on all hosts, from the terminal or a
// file; empty where neither was asked for.
func (s *sweep) becomePassword(c *cli.Context) (remote.Secret, error) {
	ask, file := c.Bool("ask-become-pass"), c.String("become-password-file")
	switch {
	case ask && c.IsSet("become-password-file"):
		return "", usageError(c, errors.New("-K and --become-password-file: one of them"), false)
	case !ask && !c.IsSet("become-password-file"):
		return "", nil
	case !ask && (file == "" || file == "-"):
		return "", fmt.Errorf("--become-password-file %q: a file is wanted; -K asks on the terminal", file)
	}
	var methods []string
	for _, m := range s.members {
		if t := m.target(); t.Become && !slices.Contains(methods, cmp.Or(t.BecomeMethod, remote.BecomeMethods[0])) {
			methods = append(methods, cmp.Or(t.BecomeMethod, remote.BecomeMethods[0]))
		}
	}
	// A core file would have the password.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return "", fmt.Errorf("core files could not be turned off, and one would hold the password: %w", err)
	}
	switch {
	case len(methods) == 0:
		s.Alert("", "warning: the password is not used: none of these hosts becomes root with sudo, doas or su (-b, or ansible_become)")
		return "", nil
	case ask:
		return s.askPassword(c, "-K", strings.Join(methods, " or ")+"'s password: ", "--become-password-file")
	}
	text, err := readPassword(file)
	if err != nil {
		return "", fmt.Errorf("--become-password-file %s: %w", file, err)
	}
	return text, nil
}

// askPassword asks on the terminal, which shows nothing of it. It is what flag
// wants; file is the flag that reads it from a file.
func (s *sweep) askPassword(c *cli.Context, flag, question, file string) (remote.Secret, error) {
	if !s.tty {
		return "", fmt.Errorf("%s: there is no terminal to ask on: give %s FILE", flag, file)
	}
	secret, err := s.unseen(c.Context, c, question)
	if err != nil {
		return "", fmt.Errorf("%s: %w", flag, err)
	}
	return secret, nil
}

// passphrase asks on the terminal for that of a key file. Nothing typed means
// that the key is not to be used.
func (s *sweep) passphrase(c *cli.Context) func(context.Context, string, bool) (remote.Secret, error) {
	return func(ctx context.Context, file string, again bool) (remote.Secret, error) {
		if again {
			s.Alert("", "that is not the passphrase of %s", show.Clean(file))
		}
		return s.unseen(ctx, c, fmt.Sprintf("passphrase of the key %s: ", show.Clean(file)))
	}
}

// unseen asks on the terminal, which shows nothing of what is typed.
func (s *sweep) unseen(ctx context.Context, c *cli.Context, question string) (remote.Secret, error) {
	fd := int(c.App.Reader.(*os.File).Fd())
	defer s.keys.hold()()
	// ReadPassword turns the echo off when it reads; a quick hand types before that.
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	s.Ask(question)
	type line struct {
		text []byte
		err  error
	}
	got := make(chan line, 1)
	go func() { // ends with the process if nobody types
		text, err := term.ReadPassword(fd)
		got <- line{text, err}
	}()
	var typed line
	select {
	case typed = <-got:
	case <-c.Context.Done():
		typed.err = context.Cause(c.Context)
	case <-ctx.Done():
		typed.err = context.Cause(ctx)
	}
	// A terminal that is left without echo is a riddle to whoever has it.
	err = term.Restore(fd, before)
	s.Answered(false)
	if typed.err != nil && !errors.Is(typed.err, io.EOF) {
		err = typed.err
	}
	if err != nil {
		return "", err
	}
	return onePassword(typed.text)
}

// maxPassword is more than sudo takes.
const maxPassword = 4 << 10

// readPassword reads a file, or a pipe such as <(...) makes.
func readPassword(file string) (remote.Secret, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", why(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return "", errors.New("it is a directory")
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o077 != 0:
		return "", fmt.Errorf("others may read or change it (mode %04o): chmod 600 %s, and think of the password as known", mode, shellWord(file))
	case mode&0o100 != 0:
		return "", fmt.Errorf("it is a program, and no program is run for a password: use <(%s), or chmod 600 it", shellWord(file))
	}
	text, err := io.ReadAll(io.LimitReader(f, maxPassword+1))
	if err != nil {
		return "", err
	}
	return onePassword(bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")))
}

// onePassword refuses what sudo could not read as one line. No message repeats it.
func onePassword(text []byte) (remote.Secret, error) {
	switch {
	case len(text) == 0:
		return "", errors.New("the password is empty")
	case len(text) > maxPassword:
		return "", fmt.Errorf("more than %d bytes are no password", maxPassword)
	case strings.ContainsAny(string(text), "\r\n\x00"):
		return "", errors.New("more than one line is no password")
	}
	return remote.Secret(text), nil
}
