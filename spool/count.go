package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Count is the number of messages in one queue.
type Count struct {
	Messages int64 `json:"messages"`
	Partial  bool  `json:"partial,omitempty"` // the time was up: there are at least so many
}

// Counts are what a queue directory holds, by names alone: nothing is opened.
type Counts struct {
	Postfix        string           `json:"postfix"` // running or stopped
	QueueDirectory string           `json:"queue_directory"`
	Queues         map[Queue]Count  `json:"queues"`
	SetAside       map[string]Count `json:"set_aside,omitempty"` // incoming.spamfull and the like, whichever run's
	Messages       int64            `json:"messages"`            // the sum of the queues
}

// asideName matches what a run, or somebody with the wiki at hand, set aside.
var asideName = regexp.MustCompile(`^(maildrop|incoming|active|deferred|hold|defer)\.(spamfull|name-collisions)(\.\d+)?$`)

// CountAll counts the messages of each queue and set-aside directory. Where
// until is not zero it gives up then, and says so.
func CountAll(p *Postfix, until time.Time) (Counts, error) {
	if until.IsZero() {
		until = time.Now().Add(24 * time.Hour)
	}
	c := Counts{Postfix: "stopped", QueueDirectory: p.QueueDirectory, Queues: map[Queue]Count{}, SetAside: map[string]Count{}}
	if _, running := p.Running(); running {
		c.Postfix = "running"
	}
	root, err := openRoot(p)
	if err != nil {
		return c, err
	}
	defer root.Close()
	names, err := root.Readdirnames(-1)
	if err != nil {
		return c, fmt.Errorf("list %s: %w", p.QueueDirectory, err)
	}
	slices.Sort(names)
	for _, name := range names {
		queue := slices.Contains(Queues, Queue(name))
		if !queue && (!asideName.MatchString(name) || strings.HasPrefix(name, string(Defer)+".")) {
			continue
		}
		dir, err := openDir(root, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, err
		}
		var n Count
		n.Messages, n.Partial, err = countUntil(dir, until)
		dir.Close()
		if err != nil {
			return c, err
		}
		if queue {
			c.Queues[Queue(name)] = n
			c.Messages += n.Messages
		} else {
			c.SetAside[name] = n
		}
	}
	return c, nil
}
