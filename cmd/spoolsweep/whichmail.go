package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
)

// checkWhichMail refuses flags that name two kinds of mail, or a queue that there is
// not, before any host is asked.
func checkWhichMail(c *cli.Context) error {
	if c.String("aside") != "" && len(c.StringSlice("queue")) > 0 {
		return errors.New("--aside and --queue exclude each other")
	}
	for _, name := range c.StringSlice("queue") {
		if _, err := spool.ParseQueue(name); err != nil {
			return fmt.Errorf("--queue: %w", err)
		}
	}
	return nil
}

// whichMail says, and tells, which mail a command that reads sees: what the run
// of --aside has aside, the queues of --queue, what the one unfinished run of
// these hosts has aside, else the live queues. It returns the run, if it is one,
// and the hosts that have mail of that kind.
func (s *sweep) whichMail(c *cli.Context, queues []string) (aside string, members []*member, err error) {
	if len(queues) > 0 {
		s.Note("", "the live queues %s:", show.Clean(strings.Join(queues, ", ")))
		s.reach(c.Context)
		return "", s.members, nil
	}
	asked := c.String("aside")
	aside, on, err := s.find(c.Context, asked, func(r *run.State) bool { return r.Phase != run.Finished && r.Aside > 0 })
	switch {
	case err != nil:
		return "", nil, err
	case aside != "": // the other hosts have nothing of it
		s.Note("", "what run %s has set aside:", show.Clean(aside))
		return aside, membersOf(s.members, on), nil
	case asked != "": // the hosts that may have it do not answer
		return "", nil, nil
	}
	s.Note("", "the live queues maildrop, incoming, active, deferred, hold:")
	return "", s.members, nil
}
