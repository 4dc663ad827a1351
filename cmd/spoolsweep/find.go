package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/stage"
)

func findCommand() *cli.Command {
	return &cli.Command{
		Name: "find", Usage: "where is my mail: the messages of an address, live, set aside, and in the ledgers", ArgsUsage: "ADDRESS",
		UsageText: `spoolsweep find ana@chavez.example.org
spoolsweep find '@partner.example' -l chavez
spoolsweep find 'newsletter@' -o json`,
		Description: `Looks through every queue and everything that was set aside, by whichever run,
for messages from the address, to it (delivered ones too) or of that login, and
says what a run has judged them, and what it did with them. What stands nowhere any
more is found in the ledgers of runs, as long as those are kept: when it was
restored, to which queue, or purged, or deleted, and by whom; the mail log tells
what Postfix did with it then. A ledger has the first ten recipients. ADDRESS is compared whole: an address,
@domain, @.domain and below, user@, with * globs, or <> for the null sender.
Of very many the newest 200 of each kind are listed. Nothing is changed.`,
		Flags: commonFlags(), OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 || c.Args().First() == "" {
				return usageError(c, errors.New("one address is wanted"), false)
			}
			args := &stage.FindArgs{Address: c.Args().First()}
			if err := args.Check(); err != nil {
				return err
			}
			s, err := begin(c, nil)
			if err != nil {
				return err
			}
			s.reach(c.Context)
			s.eachInOrder(s.members, func(m *member) (func(), error) {
				m.Status = show.OK
				result, err := s.fetch(c.Context, m, 0, "find", args, "")
				if err != nil {
					return nil, err
				}
				m.Result = result
				return func() { s.Result(m.Host, "find", result) }, nil
			})
			return s.end(c.Context)
		},
	}
}
