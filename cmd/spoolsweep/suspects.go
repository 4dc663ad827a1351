package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"sync"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/inventory"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/stage"
)

func suspectsCommand() *cli.Command {
	return &cli.Command{
		Name: "suspects", Usage: "who sends: logins from the mail log, and what there is much of in the queue files",
		UsageText: `spoolsweep suspects
spoolsweep suspects -l chavez --since 2h --top 20
spoolsweep suspects --aside 20261123T231500Z-ab12 -o json
spoolsweep suspects --sample 5
spoolsweep suspects --queue deferred --since 0`,
		Description: `Which mail: --aside RUN, what that run set aside; --queue NAME; without either
what the one unfinished run of these hosts has aside, else the live queues.
Which log: the host variable mail_log (a file with its rotations, or the word
journal), else maillog_file of main.cf, /var/log/mail.log, /var/log/maillog,
the journal. Several Postfix on one host may share a log: each tells all of it.

A login counts where a message was sent with it; failed logins are told apart.
Each address to which bounces come back has a finding: hacked (logins or mail
of it; with few bounces it may be a member's usual mail), script (mail of it was
submitted on the host), no-such-user, or forged (nothing was sent by it: do not
disable it). With more than 8,192 different values of a kind, such as recipients
of spam, a count may be a little too low.

--sample N also decodes N messages of each host for reading, as the command
sample draws and shows them.`,
		Flags: commonFlags(
			&cli.StringFlag{Name: "aside", Usage: "look at what `RUN` has set aside"},
			&cli.StringSliceFlag{Name: "queue", Usage: "look at the live queue `NAME` (repeatable)"},
			&cli.StringFlag{Name: "since", Value: "24h", Usage: "read the mail log of the last `TIME`; 0: all there is"},
			&cli.IntFlag{Name: "top", Value: 10, Usage: "list the `N` most frequent of each"},
			&cli.IntFlag{Name: "sample", Usage: "show `N` messages of each host too, at most 20"},
		),
		OnUsageError: usageError,
		Action:       suspectsAction,
	}
}

// fleetTop is how many of each a host tells, so that what is frequent on many
// hosts and first on none is found.
const fleetTop = 200

func suspectsAction(c *cli.Context) error {
	if c.Args().Present() {
		return usageError(c, errArguments(c), false)
	}
	top := c.Int("top")
	args := &stage.SuspectsArgs{Top: stage.Number(top), LiveQueues: stage.LiveQueues{Live: c.StringSlice("queue")}}
	if err := args.Since.UnmarshalJSON([]byte(strconv.Quote(c.String("since")))); err != nil {
		return fmt.Errorf("--since: %w", err)
	}
	if err := args.Check(); err != nil {
		return fmt.Errorf("--%w", err)
	}
	var sample *stage.SampleArgs
	if c.IsSet("sample") {
		sample = &stage.SampleArgs{Messages: stage.Number(c.Int("sample")), LiveQueues: args.LiveQueues}
		if err := sample.Check(); err != nil {
			return fmt.Errorf("--sample: %w", err)
		}
	}
	if err := checkWhichMail(c); err != nil {
		return err
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	aside, members, err := s.whichMail(c, args.Live)
	if err != nil {
		return err
	}
	if len(members) > 1 {
		args.Top = max(args.Top, fleetTop)
	}
	found := map[*member]*stage.Suspects{}
	var mu sync.Mutex // guards found
	s.eachOf(members, func(m *member) error {
		if m.Error != nil {
			return nil
		}
		r, err := s.suspects(c.Context, m, args, aside)
		if err == nil && sample != nil {
			r.Sample, err = s.sample(c.Context, m, sample, aside)
		}
		if err == nil {
			m.Status = show.OK
			mu.Lock()
			found[m] = r
			mu.Unlock()
		}
		return err
	})
	fleet := new(stage.Suspects)
	type log struct {
		of   *inventory.Host
		name string
	}
	taken := map[log]bool{}
	for _, m := range s.members {
		r := found[m]
		if r == nil {
			continue
		}
		if at := (log{m.host, r.Log}); r.Log != "" && taken[at] {
			fleet.MergeInstance(r)
		} else {
			fleet.Merge(r)
			taken[at] = true
		}
		r.Cut(top)
		if m.Result, err = json.Marshal(r); err != nil {
			return err
		}
		m.Stages = []*show.Stage{{Stage: "suspects", Status: show.OK, Seconds: r.Seconds, Result: m.Result}}
		s.Result(m.Host, "suspects", m.Result)
	}
	fleet.Cut(top)
	s.doc.Summary.Suspects = fleet
	if len(found) > 1 {
		text, err := json.Marshal(fleet)
		if err != nil {
			return err
		}
		s.Note("", "these %s together:", s.noun(2))
		s.Result(new(show.Host), "suspects", text)
	}
	return s.end(c.Context)
}

// suspects asks one host.
func (s *sweep) suspects(ctx context.Context, m *member, args *stage.SuspectsArgs, aside string) (*stage.Suspects, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	r := new(stage.Suspects)
	call := agent.LookCall{Vars: m.vars, Step: stage.Step{Stage: "suspects", Args: text}, Aside: aside}
	return r, m.link.CallEvents(ctx, "look", &call, r, func(e wire.Event) {
		m.Event(e)
		e.Instance = m.Instance
		s.Event(e)
	})
}

// sample asks one host for messages to read.
func (s *sweep) sample(ctx context.Context, m *member, args *stage.SampleArgs, aside string) (*stage.Sampled, error) {
	text, err := s.fetch(ctx, m, 0, "sample", args, aside)
	if err != nil {
		return nil, err
	}
	r := new(stage.Sampled)
	if !decode(text, r) {
		return nil, fmt.Errorf("%s: its samples cannot be read", m.host.Name)
	}
	return r, nil
}
