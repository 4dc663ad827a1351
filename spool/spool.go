// Package spool is the only code that renames or unlinks mail, and that stops
// or starts Postfix. Whoever wants to know whether a message can be lost reads
// this package, and nothing else.
//
// The invariant: at every instant each message of a queue stands under exactly
// one name, in a directory that is either Postfix's own or was set aside, until
// it is deleted because a list names it, and nothing that has a name is ever
// replaced. Postfix is never left stopped.
//
// A run's hand on one queue directory is a [Work]: it holds the lock on that
// directory and the journal. The order of steps, and what a death leaves:
//
//	step                      synced before         a death leaves        who goes on, and how
//	Prepare: .QUEUE.RUN made  its name, journaled   an empty directory    the next Prepare removes it
//	stop is to be issued      the wanted inodes     Postfix up or down    Settle: stop proved again
//	exchange, rename aside    the stop, proved      names half right      Settle: names made so
//	start                     both names            Postfix down          Settle: started
//	restore, a batch          its intents           some moved            resume: each looked at
//	restore, batch closed     both directories      all moved             resume: the next batch
//	purge, a batch            its intents           some unlinked         resume: each looked at
//	purge, batch closed       the directories       all unlinked          resume: the next batch
//	directory removed         that it is empty      it may be there       resume: removed
//	delete, a batch           its intents           postsuper at work     resume: ended, each looked at
//	journal written anew      the new one           the old or the new    Forget: again, by the next run
//
// To act, to finish after a death and to do nothing the second time are one
// thing here: the journal says which inode shall stand at each name, and the
// names are made so. A move whose intent has no outcome is settled by looking:
// what is still aside was not moved, all else was. Nothing is unlinked but what a
// list names, file by file, with inode, size and time. Each intent says when, and of
// a message that is to be removed its SHA-256: with the lists of verdicts the journal
// is the account of every message ([Moves]), until its mail is long gone ([Forget]).
// The tests of this package stop at each step, settle, and look.
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
		return nil, fmt.Errorf("queue directory: %w", err)
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
