package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/run"
)

// checkWhichMail refuses flags that name two kinds of mail, before any host is
// asked.
func checkWhichMail(c *cli.Context) error {
	if c.String("aside") != "" && len(c.StringSlice("queue")) > 0 {
		return errors.New("--aside and --queue exclude each other")
	}
	return nil
}

// whichMail says, and tells, which mail a command that reads sees: what the run
// of --aside has aside, the queues of --queue, what the one unfinished run of
// these hosts has aside, else the live queues. It returns the run, if it is one.
func (s *sweep) whichMail(c *cli.Context, queues []string) (string, error) {
	aside := c.String("aside")
	if aside == "" && len(queues) == 0 {
		unfinished := func(r *run.State) bool { return r.Phase != run.Finished && r.Aside > 0 }
		var err error
		if aside, _, err = s.find(c.Context, "", unfinished); err != nil {
			return "", err
		}
	}
	switch {
	case aside != "":
		s.Note("", "what run %s has set aside:", show.Clean(aside))
	case len(queues) > 0:
		s.Note("", "the live queues %s:", queues)
	default:
		s.Note("", "the live queues maildrop, incoming, active, deferred, hold:")
	}
	return aside, nil
}
