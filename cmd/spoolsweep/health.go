package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote"
	"spoolsweep/spool/stage"
)

func healthCommand() *cli.Command {
	return &cli.Command{
		Name: "health", Usage: "how full the queues are, what is left aside, which runs wait",
		UsageText: `spoolsweep health
spoolsweep health -l 'mx*' --warn 1000 --crit 10000
spoolsweep health --top 5
spoolsweep health --watch 30s -l chavez
spoolsweep health --exit-status -q
spoolsweep health -o json
spoolsweep health -o openmetrics
spoolsweep health --watch 1m --textfile /var/lib/prometheus/node-exporter
spoolsweep health --watch 1m --notify mailto:ops@example.org`,
		Description: `Of each host, and of each of several Postfix on it (host variable
postfix_instances; default: those that are enabled): whether it runs; the messages
of every queue, their bytes and the age of the oldest; what was set aside and by
which run; and runs that wait.
A host is busy when a queue holds more than --warn messages (incoming and active
count as one), or when something is aside for longer than leftover_warn (7d),
and flooded above --crit. Host variables: queue_warn, queue_crit, leftover_warn.

Several hosts are a table: how many are in which state, a line for each, the worst
first (stopped, flooded, not reached, busy, with a run that waits), and then, of
those that are not well, what is told of one host alone. -v tells that of all, one
after the other, instead. --top 5 adds who sends on them: how much of what is queued
is of one login, and the first five of each list of suspects: logins, senders,
recipients, the domains of both, clients, subjects. It also tells why mail is deferred,
with a * for the hosts, addresses, ids and numbers in which reasons differ.

Of each queue, and of what is aside, two tables tell how old the messages are, since
they arrived, and how large their files (k and M are 1024 and 1024 k, as in rules);
each message stands in the first column that it fits. As JSON these are "ages"
(under_5m, under_1h, under_1d, under_5d, older) and "sizes" (under_10k, under_100k,
under_1M, larger) beside "messages", "bytes" and "oldest_seconds", and hold numbers of
messages; one that is 0 is left out. What --top adds is the result of a stage suspects:
lists of "value" and "count" (messages) as "senders", "sender_domains", "recipients",
"recipient_domains", "sasl_users", "clients", "reasons".

Counts are exact. Bytes, ages and sizes of a queue with more than 50,000 messages come
from a sample, and say so, unless --exact. Nothing is changed, and no file is
left on a host but the agent.

What was seen is kept here, numbers of messages alone, in health.jsonl in
~/.local/state/spoolsweep, of at most 1 MiB: how much more there is than at the last
look, if that was a minute ago or longer, and the trend of the last looks is told.
As JSON it stands under "past" of each host.

--exit-status ends as monitoring plugins do, its first line for their display:
0 all is ok, 1 a host is busy, 2 one is flooded or its Postfix stopped, 3 one
could not be asked.

-o openmetrics prints metrics for Prometheus; --textfile writes them to the file
spoolsweep.prom in a folder of node_exporter's textfile collector, whole or not
at all. A host that could not be asked is spoolsweep_host_up 0.

--notify tells, with --watch, of a Postfix that is stopped or a queue that is flooded
for 2 minutes, of a host that cannot be asked for 10, one that is busy for 30, a run
that waits for an hour, each once; and once that it is over, of a flood when there was
none for 10 minutes (busy: 15), so that what swings about a limit is one. What a notice
has in it, and whom it reaches: run --help.`,
		Flags: commonFlags(append(countFlags(),
			&cli.IntFlag{Name: "top", Usage: "also who sends, where not all is well: the first `N` of each list"},
			&cli.DurationFlag{Name: "watch", Usage: "look again every `TIME`, until interrupted"},
			&cli.PathFlag{Name: "textfile", Usage: "also write metrics to spoolsweep.prom in the folder `DIR`"},
			notifyFlag("of what is wrong for a while, and when it is over (with --watch)"),
			&cli.BoolFlag{Name: "exit-status", Usage: "end with the status of a monitoring plugin"},
		)...),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			err := healthAction(c)
			var status exit
			if c.Bool("exit-status") && err != nil && !errors.As(err, &status) {
				// A plugin's status for "could not look" is not a command's.
				fmt.Fprintln(c.App.Writer, plugin(pluginUnknown, show.Clean(err.Error()), nil))
				return exit(pluginUnknown)
			}
			return err
		},
	}
}

// countFlags are those of a count.
func countFlags() []cli.Flag {
	return []cli.Flag{
		&cli.Int64Flag{Name: "warn", Usage: "busy: a queue holds more than `N` messages (default: the host's queue_warn, 500)"},
		&cli.Int64Flag{Name: "crit", Usage: "flooded: a queue holds more than `N` messages (default: the host's queue_crit, 5000)"},
		&cli.BoolFlag{Name: "exact", Usage: "look into every message, however long it takes"},
	}
}

// countArgs are what countFlags say.
func countArgs(c *cli.Context) (*stage.CountArgs, error) {
	warn, crit := c.Int64("warn"), c.Int64("crit")
	switch {
	case warn < 0 || crit < 0:
		return nil, errors.New("--warn and --crit are numbers of messages")
	case c.IsSet("warn") && c.IsSet("crit") && crit < warn:
		return nil, fmt.Errorf("--crit %d is less than --warn %d", crit, warn)
	}
	return &stage.CountArgs{Exact: c.Bool("exact"), Warn: stage.Number(warn), Crit: stage.Number(crit)}, nil
}

func healthAction(c *cli.Context) error {
	every := c.Duration("watch")
	switch {
	case c.Args().Present():
		return usageError(c, errArguments(c), false)
	case c.IsSet("watch") && every < time.Second:
		return fmt.Errorf("--watch %v: at least a second", every)
	case c.IsSet(notifyName) && !c.IsSet("watch"):
		return errors.New("--notify tells of what changes between two looks: give --watch TIME, or use serve")
	case c.IsSet("watch") && c.Bool("exit-status"):
		return errors.New("--watch and --exit-status exclude each other")
	case c.IsSet("watch") && slices.Contains([]string{"json", openMetrics}, c.String("output")):
		return errors.New("--watch has no one document: give -o jsonl, or --textfile")
	case c.Bool("exit-status") && c.String("output") == openMetrics:
		return errors.New("--exit-status and -o openmetrics exclude each other")
	}
	args, err := countArgs(c)
	if err != nil {
		return err
	}
	var senders *stage.SuspectsArgs
	if c.IsSet("top") {
		senders = &stage.SuspectsArgs{Top: stage.Number(c.Int("top")), Since: stage.Duration(24 * time.Hour), Reasons: true}
		if err := senders.Check(); err != nil {
			return fmt.Errorf("--%w", err)
		}
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	s.glances()
	if !s.practising {
		s.past = readPast()
	}
	if shorter, ok := c.App.Metadata[watchKey].(time.Duration); ok && every > 0 {
		every = shorter
	}
	if c.Bool("exit-status") {
		err := s.plugin(c.Context, args)
		if written := s.textfile(c.Path("textfile")); written != nil {
			return written
		}
		return err
	}
	metrics := c.String("output") == openMetrics
	seen := alarms{}
	for {
		began := time.Now()
		s.health(c.Context, args, senders, !metrics)
		s.alarm(c.Context, seen)
		if metrics {
			fmt.Fprint(s.Out, show.Metrics(s.doc.Hosts, began))
		}
		if err := s.textfile(c.Path("textfile")); err != nil {
			return err
		}
		if every == 0 || c.Context.Err() != nil {
			return s.end(c.Context)
		}
		s.Failures(s.doc)
		select {
		case <-time.After(time.Until(began.Add(every))):
		case <-c.Context.Done():
			return s.end(c.Context)
		}
		s.Note("", "%s", time.Now().Format(time.DateTime))
	}
}

// watchKey is the key of the app's metadata where a test has a shorter time
// between two looks.
const watchKey = "watch"

// health counts once on all hosts. It can be done again: what was before is
// forgotten, the connections are kept, and a host that answered the last time is
// asked once more where its link is lost. Where not all is well, senders asks who
// sends; nil does not.
func (s *sweep) health(ctx context.Context, args *stage.CountArgs, senders *stage.SuspectsArgs, print bool) {
	now := time.Now()
	look := func(m *member) error {
		answered := m.Result != nil
		m.Status, m.Error, m.Result, m.Stages = show.OK, nil, nil, []*show.Stage{}
		var err error
		m.Result, err = s.fetch(ctx, m, 0, "count", args, "")
		if answered && errors.Is(err, remote.ErrLost) && ctx.Err() == nil {
			// A link that was kept may be long dead, as after a laptop's sleep.
			m.Result, err = s.fetch(ctx, m, 0, "count", args, "")
		}
		s.past.compare(m, now)
		if err == nil && senders != nil && !show.Well(m.Host) {
			if _, failed := s.fetch(ctx, m, 1, "suspects", senders, ""); failed != nil {
				s.Alert(m.Label(), "warning: who sends is not known: %s", show.Clean(failed.Error()))
			}
		}
		return err
	}
	s.askThem(ctx, look)
	s.eachInOrder(s.members, func(m *member) (func(), error) {
		if !m.asked {
			if err := look(m); err != nil {
				return nil, err
			}
		}
		m.asked = false
		if !print {
			return nil, nil
		}
		return func() {
			if s.tabled() {
				return
			}
			s.Result(m.Host, "count", m.Result)
			if m.Past != nil {
				s.LinesOf(m.Label(), "count", m.Past)
			}
			s.Buckets(m.Host)
			s.Senders(m.Host)
		}, nil
	})
	if print && s.tabled() && ctx.Err() == nil {
		s.Health(s.doc.Hosts, s.noun(len(s.members)))
	}
	if err := s.past.keep(s.members, now); err != nil && s.Verbose {
		s.Note("", "what was seen could not be kept for the next time: %v", err)
	}
}

// tabled says that hosts are told in a table: several, to somebody who reads.
func (s *sweep) tabled() bool {
	return len(s.members) > 1 && !s.JSON && !s.Stream && !s.Verbose
}

// openMetrics is the format of -o that this command alone has.
const openMetrics = "openmetrics"

// textfile writes the hosts' metrics into a folder that node_exporter reads, in one
// step; "" is none.
func (s *sweep) textfile(dir string) error {
	if dir == "" {
		return nil
	}
	f, err := os.CreateTemp(dir, ".spoolsweep-*") // not read: its name does not end in .prom
	if err != nil {
		return fmt.Errorf("--textfile: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(show.Metrics(s.doc.Hosts, time.Now()))
	// node_exporter runs as a user of its own.
	err = errors.Join(err, f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, "spoolsweep.prom"))
	}
	if err != nil {
		return fmt.Errorf("--textfile: %w", err)
	}
	return nil
}

// Statuses of monitoring plugins.
const (
	pluginOK = iota
	pluginWarning
	pluginCritical
	pluginUnknown
)

var pluginNames = []string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

// plugin is the first line of what a monitoring plugin prints: text and
// performance data stand on either side of a bar.
func plugin(status int, text string, data []string) string {
	line := "SPOOLSWEEP " + pluginNames[status] + ": " + strings.ReplaceAll(text, "|", "/")
	if len(data) > 0 {
		line += "|" + strings.Join(data, " ")
	}
	return line
}

// plugin ends as a monitoring plugin: the worst of the hosts first, unknown
// being less than critical and more than a warning.
func (s *sweep) plugin(ctx context.Context, args *stage.CountArgs) error {
	s.health(ctx, args, nil, false)
	worst := pluginOK
	rank := []int{pluginOK, pluginWarning, pluginUnknown, pluginCritical}
	var bad, data []string
	var messages int64
	for _, m := range s.members {
		var counts stage.Counts
		status, why := pluginUnknown, ""
		switch {
		case m.Error != nil:
			why = m.Status + " (" + m.Error.Message + ")"
		case !decode(m.Result, &counts):
			why = "answers what cannot be read"
		default:
			status, why = verdict(&counts)
			label := "'" + strings.NewReplacer("'", "_", "=", "_", "|", "_").Replace(show.Clean(m.Label()))
			data = append(data, fmt.Sprintf("%s messages'=%d;;;0", label, counts.Messages),
				fmt.Sprintf("%s fullest'=%d;%d;%d;0", label, counts.Fullest(), counts.Warn, counts.Crit))
			messages += counts.Messages
		}
		if status != pluginOK {
			bad = append(bad, show.Clean(m.Label())+" "+show.Clean(why))
		}
		if slices.Index(rank, status) > slices.Index(rank, worst) {
			worst = status
		}
	}
	text := strings.Join(bad, "; ")
	if text == "" {
		n := len(s.members)
		text = fmt.Sprintf("%d %s, %s messages queued", n, s.noun(n), humanize.Comma(messages))
	}
	s.Line("", "%s", plugin(worst, text, data))
	if !s.JSON && !s.Stream {
		s.Out = unbarred{s.Out}
	}
	for _, m := range s.members {
		if m.Result != nil {
			s.Result(m.Host, "count", m.Result)
		}
	}
	if err := s.end(ctx); err != nil && !errors.As(err, new(exit)) {
		return err
	}
	return exit(worst)
}

// unbarred writes lines that a core takes for text: whatever is behind a bar it
// takes for performance data, in all lines after the first together.
type unbarred struct{ io.Writer }

var bars = strings.NewReplacer(" | ", ": ", "|", "/")

func (w unbarred) Write(text []byte) (int, error) {
	if _, err := io.WriteString(w.Writer, bars.Replace(string(text))); err != nil {
		return 0, err
	}
	return len(text), nil
}

// verdict is a host's status as a plugin's.
func verdict(c *stage.Counts) (status int, why string) {
	why = c.Level + " (" + strings.Join(c.Why, ", ") + ")"
	switch {
	case c.Postfix != "running":
		why = "Postfix is " + c.Postfix
		if len(c.Why) > 0 {
			why += ", " + strings.Join(c.Why, ", ")
		}
		return pluginCritical, why
	case c.Level == stage.LevelFlooded:
		return pluginCritical, why
	case c.Level == stage.LevelBusy:
		return pluginWarning, why
	}
	return pluginOK, ""
}
