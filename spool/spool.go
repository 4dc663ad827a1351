package spool

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"spoolsweep/spool/queuefile"
)

// Queue is the name of a directory of Postfix's queue directory.
type Queue string

// The directories that hold messages, and Defer, whose per-message logs go
// aside together with Deferred.
const (
	Maildrop Queue = "maildrop"
	Incoming Queue = "incoming"
	Active   Queue = "active"
	Deferred Queue = "deferred"
	Hold     Queue = "hold"
	Corrupt  Queue = "corrupt"
	Defer    Queue = "defer"
)

// Queues are the directories that hold messages, in the order of a message's life.
var Queues = []Queue{Maildrop, Incoming, Active, Deferred, Hold, Corrupt}

// live are the queues in which a taken id makes a restore a collision: from
// each of them Postfix renames into another without looking.
var live = []Queue{Maildrop, Incoming, Active, Deferred, Hold}

// logs are the directories of companions, the per-message logs.
var logs = []Queue{Defer, "bounce", "trace"}

// ParseQueue accepts the queues that can be set aside.
func ParseQueue(name string) (Queue, error) {
	q := Queue(strings.ToLower(name))
	if q == Corrupt {
		return "", fmt.Errorf("queue corrupt cannot be set aside: Postfix never sends from it")
	}
	if !slices.Contains(live, q) {
		return "", fmt.Errorf("no queue %q: it is one of maildrop, incoming, active, deferred, hold", name)
	}
	return q, nil
}

// target is the queue that a message of q returns to. What was in active is
// never seen there again, unless it comes by way of incoming (qmgr_scan.c).
func (q Queue) target() Queue {
	if q == Active {
		return Incoming
	}
	return q
}

// openRoot opens the queue directory of a Postfix.
func openRoot(p *Postfix) (*os.File, error) {
	f, err := os.Open(p.QueueDirectory)
	if err != nil {
		return nil, Remedied(fmt.Errorf("queue directory: %w", err), "correct queue_directory in main.cf; 'postfix check' makes what is missing")
	}
	s, err := f.Stat()
	if err == nil && !s.IsDir() {
		err = fmt.Errorf("queue directory %s is no directory", p.QueueDirectory)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// depth is how many levels of hash subdirectories the live queue q has.
// Names are compared as mail_queue_dir does, whatever their case.
func (p *Postfix) depth(q Queue) int {
	for _, name := range p.HashNames {
		if strings.EqualFold(name, string(q)) {
			return p.HashDepth
		}
	}
	return 0
}

// hashDir is where the live queue q keeps id: "" or "A" or "A/B".
func (p *Postfix) hashDir(q Queue, id string) string {
	return queuefile.HashDir(id, p.depth(q))
}
