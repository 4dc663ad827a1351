package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/urfave/cli/v2"

	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func purgeCommand() *cli.Command {
	return &cli.Command{
		Name: "purge", Usage: "remove the spam that a finished run has aside, for good", ArgsUsage: "RUN",
		UsageText: `spoolsweep purge 20261123T231500Z-ab12
spoolsweep purge 20261123T231500Z-ab12 -y --expect 2614
spoolsweep purge 20261123T231500Z-ab12 --older-than 30d
spoolsweep purge 20261123T231500Z-ab12 --include-ham`,
		Description: `What goes is what the list that was confirmed calls spam, each message with its
logs. What else is aside (ham that did not go back, unreadable and half-written
files, what was never judged) is shown by kind, and goes only with --include-ham.
The number is typed on a terminal, or given by -y --expect N, over all hosts;
another number removes nothing. A purge that was broken off is carried on by
resume, or by another purge. Directories that are empty then are removed.

--older-than goes by when a message arrived: what is younger stays, and so does
what nobody knows the age of.`,
		Flags: commonFlags(notifyFlag(atEnd), removalYes(), removalExpect(),
			&cli.BoolFlag{Name: "include-ham", Usage: "all that is aside, whatever it is"},
			&cli.StringFlag{Name: "older-than", Usage: "only messages that arrived longer than `AGE` ago: 12h, 30d, 8w"},
		),
		OnUsageError: usageError,
		Action:       purgeAction,
	}
}

func purgeAction(c *cli.Context) error {
	if c.NArg() != 1 || c.Args().First() == "" {
		return usageError(c, errors.New("one run is wanted"), false)
	}
	args := &stage.PurgeArgs{IncludeHam: c.Bool("include-ham")}
	if c.IsSet("older-than") {
		if err := args.OlderThan.UnmarshalJSON([]byte(strconv.Quote(c.String("older-than")))); err != nil {
			return err
		}
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	if err := s.mayRemove(c); err != nil {
		s.close()
		return err
	}
	ctx := c.Context
	id, on, err := s.find(ctx, c.Args().First(), func(*run.State) bool { return false })
	if err != nil {
		s.close()
		return err
	}
	if id == "" {
		s.nothing("no such run")
		return s.end(ctx)
	}
	s.doc.Run = id
	found := s.removal(ctx, membersOf(s.members, on), "purge", id, args)
	going, err := s.agreeRemoval(ctx, c, found)
	if err != nil {
		s.close()
		return err
	}
	d := &driver{sweep: s, run: id, yes: c.Bool("yes"), slots: newSlots(0, 0)}
	ctx, stop := d.attend(ctx)
	defer stop()
	s.inTurn(ctx, going, func(m *member) error {
		err := d.purge(ctx, m, *args, found[m])
		m.Result = resultOf(m)
		return err
	})
	d.detached()
	return s.end(ctx)
}

// purge appends the stage to the run's plan and follows it.
func (d *driver) purge(ctx context.Context, m *member, args stage.PurgeArgs, found *stage.Removal) error {
	n := stage.Number(found.Matched)
	args.Expect, args.Before = &n, found.Before
	text, err := json.Marshal(args)
	if err != nil {
		return err
	}
	return d.add(ctx, m, stage.Step{Stage: "purge", Args: text})
}
