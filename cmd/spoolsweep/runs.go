package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func runsCommand() *cli.Command {
	return &cli.Command{
		Name: "runs", Usage: "list the runs that the hosts have records of",
		UsageText: `spoolsweep runs
spoolsweep runs --since 7d
spoolsweep runs --since 2026-11-23 -l chavez -o json
spoolsweep runs --imported`,
		Description: `The newest first: when it began and who began it, where it stands, and what it
has aside. 'spoolsweep report RUN' tells one of them from its beginning.

--since takes an age, such as 12h, 7d or 2w, or a day of your time zone. Runs that
are not over or have mail aside are listed however old they are, and so are records
that cannot be read, which tell no time.

--imported lists the runs that were imported here (report --import), each host as the
artifacts have it, and asks no host.`,
		Flags: commonFlags(
			&cli.StringFlag{Name: "since", Usage: "list runs begun in the last `TIME`, or since a day, such as 2026-11-23"},
			&cli.BoolFlag{Name: "imported", Usage: "list the runs that were imported here, and ask no host"},
		), OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(c, errArguments(c), false)
			}
			since, err := sinceOf(c.String("since"), c.IsSet("since"))
			if err != nil {
				return err
			}
			if c.Bool("imported") {
				return listRecords(c, since)
			}
			s, err := begin(c, nil)
			if err != nil {
				return err
			}
			s.reach(c.Context)
			s.eachInOrder(s.members, func(m *member) (func(), error) {
				var runs []*run.State
				if err := m.link.Call(c.Context, "history", agent.HostCall{Vars: m.vars}, &runs); err != nil {
					return nil, err
				}
				return s.listRuns(m, slices.DeleteFunc(runs, func(r *run.State) bool { return forgotten(r, since) }))
			})
			if ids, err := recordedRuns(); err == nil && len(ids) > 0 {
				s.Note("", "of runs that were imported here: spoolsweep runs --imported")
			}
			return s.end(c.Context)
		},
	}
}

// forgotten says that a run is over, has nothing aside, and was begun before since.
func forgotten(r *run.State, since time.Time) bool {
	over := r.Phase == run.Finished || r.Phase == run.Failed
	return r.Stages > 0 && over && r.Aside == 0 && r.Began.Before(since)
}

// listRuns makes the runs of a host its result.
func (s *sweep) listRuns(m *member, runs []*run.State) (print func(), err error) {
	if runs == nil {
		runs = []*run.State{}
	}
	m.Status = show.OK
	m.Result, err = json.Marshal(runs)
	return func() {
		for _, r := range runs {
			s.Line(m.Label(), "%s", runLine(r))
		}
		if len(runs) == 0 {
			s.Line(m.Label(), "no runs")
		}
	}, err
}

// sinceOf is the moment that --since means.
func sinceOf(text string, given bool) (time.Time, error) {
	if !given {
		return time.Time{}, nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, text, time.Local); err == nil {
		return day, nil
	}
	var age stage.Span
	if err := age.UnmarshalJSON([]byte(text)); err != nil {
		return time.Time{}, fmt.Errorf("--since %s: it takes an age, such as 12h, 7d or 2w, or a day, such as 2026-11-23", text)
	}
	return time.Now().Add(-time.Duration(age)), nil
}

// runLine is one run on one host.
func runLine(r *run.State) string {
	if r.Stages == 0 { // its record cannot be read
		return fmt.Sprintf("%s  %s: %s", show.Clean(r.Run), show.Clean(r.Phase), show.Clean(r.Error))
	}
	text := fmt.Sprintf("%s  %s, begun %s by %s: %s", show.Clean(r.Run), show.Clean(r.Name), r.Began.Local().Format(time.DateTime), show.Clean(r.Who), standing(r))
	if r.Aside > 0 {
		text += fmt.Sprintf("; %s aside", messages(r.Aside))
		if r.Oldest > 0 {
			text += ", the oldest " + stage.Age(r.Oldest)
		}
	}
	return text
}

// standing says where a run stands.
func standing(r *run.State) string {
	switch {
	case r.Phase == run.Waiting && r.Ask != nil:
		return "waits for " + show.Clean(stage.Asked(r.Ask.Kind))
	case r.Phase == run.Broken:
		return "broken off at stage " + humanize.Comma(int64(r.Next+1)) + ", resume carries it on"
	case r.Error != "":
		return show.Clean(r.Phase) + ": " + show.Clean(r.Error)
	}
	return show.Clean(r.Phase)
}
