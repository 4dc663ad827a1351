package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"spoolsweep/cmd/spoolsweep/show"
)

// screen is the terminal on which it is shown how far a run is, nil where that is
// not wanted, or cannot be; results says that these go there, too.
func screen(c *cli.Context) (terminal *show.Screen, results bool) {
	f, ok := c.App.ErrWriter.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || c.Bool("quiet") || slices.Contains([]string{"", "dumb"}, os.Getenv("TERM")) {
		return nil, false
	}
	if out, ok := c.App.Writer.(*os.File); ok {
		results = sameTerminal(f, out)
	}
	if results && c.String("output") == "jsonl" {
		return nil, false
	}
	size := func() (width, height int) {
		if !foreground(int(f.Fd())) {
			return 0, 0
		}
		width, height, err := term.GetSize(int(f.Fd()))
		if err == nil && (width == 0 || height == 0) { // one that does not know: a serial line
			width, height = 80, 24
		}
		return width, height
	}
	return show.NewScreen(f, size, !c.Bool("no-color") && os.Getenv("NO_COLOR") == ""), results
}

func sameTerminal(a, b *os.File) bool {
	one, err := a.Stat()
	other, e := b.Stat()
	return err == nil && e == nil && os.SameFile(one, other)
}

// onTerminal reports that somebody is there to be asked.
func onTerminal(c *cli.Context) bool {
	switch r := c.App.Reader.(type) {
	case *os.File:
		return term.IsTerminal(int(r.Fd()))
	case interface{ IsTerminal() bool }:
		return r.IsTerminal()
	}
	return false
}

// foreground says whether a terminal is this program's just now, and no other job's
// of the shell.
func foreground(fd int) bool {
	group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}

// ask asks a question on the terminal and returns what was typed. One that is broken
// off leaves the cursor on a line of its own.
func (s *sweep) ask(ctx context.Context, question string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	s.Ask(question)
	next, forget := s.keys.ask()
	select {
	case l := <-next:
		s.Answered(!l.early && l.err == nil)
		if errors.Is(l.err, io.EOF) {
			l.err = nil
		}
		return strings.TrimSpace(l.text), l.err
	case <-ctx.Done():
		forget()
		s.Answered(false)
		return "", ctx.Err()
	}
}

// leaveTerminal keeps off the terminal, where ssh may ask, until back.
func (s *sweep) leaveTerminal() (back func()) {
	release := s.keys.hold()
	s.Ask("")
	return func() {
		s.Answered(true)
		release()
	}
}
