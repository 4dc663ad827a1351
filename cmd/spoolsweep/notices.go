package main

import (
	"cmp"
	"context"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/notify"
	"spoolsweep/cmd/spoolsweep/show"
)

const (
	notifyName     = "notify"
	notifyVariable = "SPOOLSWEEP_NOTIFY"
)

// notifyFlag is that of the commands that tell somebody of something.
func notifyFlag(when string) cli.Flag {
	return &cli.StringSliceFlag{Name: notifyName, Usage: "tell `WHOM` " + when + ": exec:COMMAND, https://HOST/PATH, mailto:ADDRESS, or @FILE with such lines (repeatable; default: $" + notifyVariable + ", if that is set)"}
}

// atEnd is when those tell that have a run.
const atEnd = "when the run ends, fails, or waits for an answer"

// notices tell those who do not look. A nil one tells nobody.
type notices struct {
	*notify.Notifier
	from         string
	wait, longer time.Duration
	ended        bool // a notice at the end is wanted
	now          func() time.Time

	mu    sync.Mutex // guards what follows
	run   string
	open  map[string]*show.Host // that wait for somebody
	told  map[string]string     // what those waited for that were told of
	timer *time.Timer
	ctx   context.Context // of what the timer tells
	queue chan *notify.Notice
	sent  chan struct{}
	full  bool
}

// A question is told when nobody has answered for a while, with all that came
// meanwhile; further ones not so soon.
const (
	waitTold   = 30 * time.Second
	longerTold = 5 * time.Minute
	noticesMax = 16 // that wait to be sent, while somebody is not reached
)

// noticeTimes is the key of the app's metadata where a test has other times: those
// of questions, and the pauses between tries.
const noticeTimes = "notice times"

// noticeClock is that where a test has another clock for what is wrong for a while.
const noticeClock = "notice clock"

// newNotices reads whom to tell. Of practice nobody is told who was not named for it.
func (s *sweep) newNotices(c *cli.Context, practice bool) (*notices, error) {
	takes := func(f cli.Flag) bool { return slices.Contains(f.Names(), notifyName) }
	if !slices.ContainsFunc(c.Command.Flags, takes) {
		return nil, nil
	}
	usual := os.Getenv(notifyVariable)
	if practice {
		usual = ""
	}
	to, err := notify.Parse(c.StringSlice(notifyName), usual)
	if err != nil {
		name := "--" + notifyName
		if !c.IsSet(notifyName) {
			name = notifyVariable
		}
		return nil, &flagError{name, err}
	}
	if !to.Any() {
		return nil, nil
	}
	to.Failed = func(target string, err error) {
		s.Alert("", "warning: %s was not told: %s", show.Clean(target), show.Clean(err.Error()))
	}
	n := &notices{
		Notifier: to, from: me(), now: time.Now, wait: waitTold, longer: longerTold, open: map[string]*show.Host{}, told: map[string]string{},
		ended: !c.Bool("check") && (slices.Contains(changing, c.Command.Name) || c.Command.Name == "attach"),
	}
	if times, ok := c.App.Metadata[noticeTimes].([]time.Duration); ok {
		n.wait, n.longer, to.Pauses = times[0], times[1], times[2:]
	}
	if clock, ok := c.App.Metadata[noticeClock].(func() time.Time); ok {
		n.now = clock
	}
	return n, nil
}

// flagError names the flag that is wrong.
type flagError struct {
	name string
	error
}

func (e *flagError) Error() string { return e.name + ": " + e.error.Error() }
func (e *flagError) Unwrap() error { return e.error }

// tell sends a notice, in the order in which they were made, and holds nobody up.
func (n *notices) tell(ctx context.Context, notice *notify.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.enqueue(ctx, notice)
}

// enqueue is tell, for who holds the lock.
func (n *notices) enqueue(ctx context.Context, notice *notify.Notice) {
	if n.queue == nil {
		n.queue, n.sent = make(chan *notify.Notice, noticesMax), make(chan struct{})
		go func(queue chan *notify.Notice, sent chan struct{}) { // ends with flush
			defer close(sent)
			for next := range queue {
				n.Send(ctx, next)
			}
		}(n.queue, n.sent)
	}
	select {
	case n.queue <- notice:
		n.full = false
	default:
		if !n.full {
			n.Failed("somebody", errTooMany)
		}
		n.full = true
	}
}

// flush waits until all that is to be told was told, or given up.
func (n *notices) flush() {
	if n == nil {
		return
	}
	n.mu.Lock()
	if n.timer != nil {
		n.timer.Stop()
	}
	queue, sent := n.queue, n.sent
	n.queue, n.timer = nil, nil
	n.open = nil // what comes now is too late
	n.mu.Unlock()
	if queue != nil {
		close(queue)
		<-sent
	}
}

// waits notes that a host's run asks, and tells so if nobody answers for a while.
func (n *notices) waits(ctx context.Context, run string, h *show.Host, asks string) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		return
	}
	n.run, n.ctx = run, ctx
	n.open[h.Label()] = &show.Host{Host: h.Host, Instance: h.Instance, Status: show.Waiting, Changed: h.Changed, Asks: &asks, Stages: []*show.Stage{}}
	if n.timer == nil && n.told[h.Label()] != asks {
		wait := n.wait
		if len(n.told) > 0 {
			wait = n.longer
		}
		n.timer = time.AfterFunc(wait, n.overdue)
	}
}

// goesOn notes that a host's run was answered.
func (n *notices) goesOn(h *show.Host) {
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.open, h.Label())
	delete(n.told, h.Label())
}

// overdue tells of the questions that are open.
func (n *notices) overdue() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.timer = nil
	d := &show.Document{Run: n.run}
	news := false
	for _, label := range slices.Sorted(maps.Keys(n.open)) {
		h := n.open[label]
		d.Hosts = append(d.Hosts, h)
		news = news || n.told[label] != *h.Asks
		n.told[label] = *h.Asks
	}
	if !news || n.ctx.Err() != nil {
		return
	}
	d.Finish()
	n.enqueue(n.ctx, n.notice(notify.Waits, "spoolsweep: run "+show.Clean(n.run)+" waits", d, "next: spoolsweep resume "+show.Clean(n.run)))
}

// notice is one about a document.
func (n *notices) notice(kind, subject string, d *show.Document, more ...string) *notify.Notice {
	lines := []string{}
	for _, h := range d.Hosts {
		lines = append(lines, h.Told())
	}
	return notify.New(kind, n.from, subject, append(lines, more...), d.Brief())
}

// end tells how a command ended, unless that is what was told last: that all of its
// hosts wait.
func (n *notices) end(ctx context.Context, d *show.Document) {
	if n == nil {
		return
	}
	defer n.flush()
	nothing := d.Run == "" && d.ExitStatus() == 0 && !slices.ContainsFunc(d.Hosts, func(h *show.Host) bool { return h.Changed })
	if !n.ended || nothing || ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	news := len(d.Hosts) != len(n.told)
	for _, h := range d.Hosts {
		news = news || h.Status != show.Waiting || h.Asks == nil || n.told[h.Label()] != *h.Asks
	}
	n.mu.Unlock()
	if !news {
		return
	}
	subject := "spoolsweep: " + d.Command
	if d.Run != "" {
		subject = "spoolsweep: run " + show.Clean(d.Run)
	}
	var next []string
	if d.Run != "" && d.Summary.Waiting > 0 {
		next = append(next, "next: spoolsweep resume "+show.Clean(d.Run))
	}
	n.tell(ctx, n.notice(notify.End, subject+": "+cmp.Or(d.Summary.String(), "nothing to do"), d, next...))
}
