package stage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"sync"

	"spoolsweep/spool"
)

// LiveQueues stands among the arguments of a stage that reads mail. Where it runs
// alone, as a command, it looks at these, such as "incoming"; in a run it looks at
// what that has set aside.
type LiveQueues struct {
	Live []string `json:"live,omitempty" playbook:"-"`
}

// Queues are the live queues to look at, to be set where none was named.
func (l *LiveQueues) Queues() *[]string { return &l.Live }

const (
	// passBatch is how many messages are handed to a worker at a time.
	passBatch = 64
	// passBatches is how many batches are under way: while one waits for a slow
	// disk or a huge message the others go on, but not without bound.
	passBatches = 32
	// passGarbage is how many percent of what is in use may be garbage before it is
	// collected, and passMemory how much memory both may take: a message leaves
	// some hundred bytes of garbage, and little is ever in use, so that by the
	// defaults a twelfth of all time would go into collecting it.
	passGarbage = 300
	passMemory  = 56 << 20
)

// pass reads the messages of some directories of the queue directory, each
// once, on all cores. R is what is kept of a message.
type pass[R any] struct {
	postfix *spool.Postfix
	dirs    []string // such as incoming.spamfull
	// only, if set, passes over what it says no to, without opening it. It is asked by
	// several workers at a time.
	only func(id string) bool
	// read looks at one message, for one of workers workers: it has its own
	// state there, and is alone with it. What r points at is an earlier
	// message's, for its buffers.
	read func(worker int, m *mail, r *R) error
	// gather takes over what was kept of some messages, in the order in which
	// the directories list them. Nobody else is in it.
	gather func(found []R) error

	lock    sync.Mutex        // guards what follows
	waiting map[int]*batch[R] // read, but not yet to be gathered
	next    int               // number of the batch to be gathered next
}

// mail is one message of a pass, open for reading; valid until read returns.
type mail struct {
	spool.Mail // Born is not known yet
	spool.Stat
	File  *spool.MailFile
	Place int // index of its directory in the pass
	// Broken says why it cannot be opened, if so.
	Broken error
}

// workers is how many read at the same time.
func workers() int { return runtime.GOMAXPROCS(0) }

// batch is some messages of one directory.
type batch[R any] struct {
	number int
	dir    *os.File
	place  int
	sub    string
	ids    []string
	found  []R
}

// run reads everything, or stops at the first error.
func (p *pass[R]) run(ctx context.Context) error {
	defer debug.SetGCPercent(debug.SetGCPercent(passGarbage))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(passMemory))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.waiting, p.next = map[int]*batch[R]{}, 0
	free := make(chan *batch[R], passBatches)
	for range passBatches {
		free <- new(batch[R])
	}
	full := make(chan *batch[R], passBatches)
	var busy sync.WaitGroup // batches that are not read yet
	var working sync.WaitGroup
	for w := range workers() {
		working.Go(func() {
			m := mail{File: new(spool.MailFile)}
			defer m.File.Close()
			for b := range full {
				err := ctx.Err()
				if err == nil {
					err = p.readBatch(w, b, &m)
				}
				busy.Done()
				if err == nil {
					err = p.hand(b, free)
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	err := p.list(ctx, free, full, &busy)
	close(full)
	working.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// list hands out the messages of all directories. A directory is kept open
// until its messages are read.
func (p *pass[R]) list(ctx context.Context, free <-chan *batch[R], full chan<- *batch[R], busy *sync.WaitGroup) error {
	number := 0
	for place, name := range p.dirs {
		var dir *os.File
		of := "\x00" // no subdirectory's
		done := func() {
			busy.Wait()
			if dir != nil {
				dir.Close()
				dir = nil
			}
		}
		err := spool.Walk(p.postfix, name, func(c spool.Chunk) error {
			if c.Sub != of {
				done()
				var err error
				if dir, err = c.Keep(); err != nil {
					return err
				}
				of = c.Sub
			}
			for ids := c.IDs; len(ids) > 0; {
				n := min(passBatch, len(ids))
				select {
				case b := <-free:
					*b = batch[R]{number, dir, place, c.Sub, ids[:n], b.found[:0]}
					number++
					busy.Add(1)
					full <- b
				case <-ctx.Done():
					return ctx.Err()
				}
				ids = ids[n:]
			}
			return nil
		})
		done()
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// readBatch reads the messages of a batch.
func (p *pass[R]) readBatch(w int, b *batch[R], m *mail) error {
	for _, id := range b.ids {
		if p.only != nil && !p.only(id) {
			continue
		}
		m.Place = b.place
		gone, err := m.open(b.dir, p.dirs[b.place], b.sub, id)
		if err != nil {
			return err
		}
		if gone {
			continue
		}
		n := len(b.found)
		if n < cap(b.found) {
			b.found = b.found[:n+1]
		} else {
			var r R
			b.found = append(b.found, r)
		}
		err = p.read(w, m, &b.found[n])
		m.File.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// open opens the message id of the directory dir, which is sub below aside. One
// that the queue manager has taken meanwhile is gone.
func (m *mail) open(dir *os.File, aside, sub, id string) (gone bool, err error) {
	s, err := m.File.Open(dir, id)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if errors.Is(err, os.ErrPermission) {
		return false, err
	}
	m.Stat, m.Broken = s, err
	m.Mail = spool.Mail{Aside: aside, Sub: sub, ID: id, Inode: s.Inode, Size: s.Size, Mtime: s.Mtime}
	return false, nil
}

// hand gathers a batch, and those that waited for it.
func (p *pass[R]) hand(b *batch[R], free chan<- *batch[R]) error {
	p.lock.Lock()
	defer p.lock.Unlock()
	p.waiting[b.number] = b
	for {
		b, ok := p.waiting[p.next]
		if !ok {
			return nil
		}
		delete(p.waiting, p.next)
		p.next++
		if err := p.gather(b.found); err != nil {
			return err
		}
		free <- b
	}
}
