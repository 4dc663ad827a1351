// Package notify tells somebody who is not looking: through a command, a web hook, or
// mail. All of it happens on the controller: what is told of a flooded server never
// goes through that server, unless the mail of this machine does.
//
// What a notice says has no secret and no text of mail in it. Where it goes may be one
// (many web hooks are): no error and no String repeats more of that than its host.
package notify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// Version is that of a notice's form. What is added does not change it.
const Version = 1

// Kinds of notices.
const (
	End      = "end"      // a run has ended, or waits and is not followed any more
	Waits    = "waits"    // it waits, for somebody to answer
	Problem  = "problem"  // a threshold was crossed
	Resolved = "resolved" // and all is well again
)

// Notice is what is told; as JSON it is what commands and web hooks get.
type Notice struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // the same with each try
	Kind    string    `json:"notice"`
	Time    time.Time `json:"time"`
	From    string    `json:"from"` // who watches, and where
	Subject string    `json:"subject"`
	Text    string    `json:"text"` // lines for people, the subject among them
	// Document is what a command prints as JSON, without what mail or its sources say.
	Document any `json:"document"`
}

// New makes a notice of now.
func New(kind, from, subject string, lines []string, document any) *Notice {
	return &Notice{Version, rand.Text(), kind, time.Now().UTC(), from, subject, strings.Join(append([]string{subject}, lines...), "\n"), document}
}

// target is one place to tell. again says that another try may do better; who was
// told all the same knows the second one by its ID.
type target struct {
	name string
	send func(ctx context.Context, n *Notice) (again bool, err error)
}

// Notifier tells all of its targets.
type Notifier struct {
	targets []target
	// Pauses are those before each further try.
	Pauses []time.Duration
	// Failed is told, by several goroutines, of a target that was not reached.
	Failed func(target string, err error)
}

// pauses are between tries, so that a web hook which is restarted is reached and
// nobody waits for longer than a minute in all.
var pauses = []time.Duration{2 * time.Second, 10 * time.Second}

// Parse reads what --notify was given: exec:COMMAND, https://..., http://...,
// mailto:ADDRESS,... or @FILE. Without any, what the environment has counts.
func Parse(given []string, environment string) (*Notifier, error) {
	n := &Notifier{Pauses: pauses}
	public := true
	if len(given) == 0 && environment != "" {
		given, public = []string{environment}, false
	}
	for _, word := range given {
		if err := n.add(word, public); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *Notifier) add(word string, public bool) error {
	if file, ok := strings.CutPrefix(word, "@"); ok {
		return n.read(file)
	}
	t, err := parse(word, public)
	if err == nil {
		n.targets = append(n.targets, t)
	}
	return err
}

// maxFile is more than anybody has to tell.
const maxFile = 64 << 10

// read takes the targets of a file, one a line.
func (n *Notifier) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s: others may read or change it (mode %04o): chmod 600 it", file, info.Mode().Perm())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", file, err)
	case len(text) > maxFile:
		return fmt.Errorf("%s: more than %d bytes are no list of whom to tell", file, maxFile)
	}
	at, before := 0, len(n.targets)
	for line := range strings.Lines(string(text)) {
		at++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		t, err := parse(line, false)
		if err != nil {
			return fmt.Errorf("%s:%d: %w", file, at, err)
		}
		n.targets = append(n.targets, t)
	}
	if len(n.targets) == before {
		return fmt.Errorf("%s: it names nobody to tell", file)
	}
	return nil
}

// parse reads one target. public says that it stands on a command line, where
// everybody on this machine can read it.
func parse(word string, public bool) (target, error) {
	kind, rest, _ := strings.Cut(word, ":")
	switch {
	case strings.ContainsFunc(word, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return target{}, errors.New("a control character in whom to tell")
	case rest == "":
	case kind == "exec":
		return command(rest), nil
	case kind == "mailto":
		return mailTo(rest)
	case kind == "https", kind == "http":
		return webhook(word, public)
	}
	return target{}, errors.New("whom to tell is exec:COMMAND, https://..., mailto:ADDRESS, or @FILE with such lines")
}

// Any says that there is somebody to tell.
func (n *Notifier) Any() bool { return n != nil && len(n.targets) > 0 }

// Send tells all targets, side by side, and returns when each was told or given up.
func (n *Notifier) Send(ctx context.Context, notice *Notice) {
	var all sync.WaitGroup
	for _, t := range n.targets {
		all.Go(func() {
			if err := n.tell(ctx, t, notice); err != nil && ctx.Err() == nil {
				n.Failed(t.name, err)
			}
		})
	}
	all.Wait()
}

func (n *Notifier) tell(ctx context.Context, t target, notice *Notice) error {
	for try := 0; ; try++ {
		again, err := t.send(ctx, notice)
		if err == nil || !again || try == len(n.Pauses) {
			if err != nil && try > 0 {
				err = fmt.Errorf("%w (%d tries)", err, try+1)
			}
			return err
		}
		select {
		case <-time.After(n.Pauses[try]):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
