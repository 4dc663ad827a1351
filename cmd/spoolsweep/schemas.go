package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/schema"
	"spoolsweep/cmd/spoolsweep/show"
)

func schemaCommand() *cli.Command {
	return &cli.Command{
		Name: "schema", Usage: "JSON Schema of what is read and written, for editors and scripts", ArgsUsage: strings.Join(schema.Names(), "|"),
		UsageText: `spoolsweep schema playbook > playbook.schema.json
spoolsweep schema rules > rules.schema.json
spoolsweep schema inventory > inventory.schema.json
spoolsweep schema events`,
		Description: `Draft 07, which editors read, made from the tables that this program itself checks
by. An editor with yaml-language-server checks and completes a file whose first line
names its schema:

  # yaml-language-server: $schema=playbook.schema.json

  inventory  hosts, groups, variables; definitions/variables: of group_vars
  playbook   a file for 'run', which checks the order of its stages
  rules      a file for -e @FILE
  plan       what 'plan' prints and the agent takes
  events     a line of -o jsonl, and of what the agent prints of a plan
  results    the document of -o json`,
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return usageError(c, errors.New("one schema is wanted: "+strings.Join(schema.Names(), ", ")), false)
			}
			name := c.Args().First()
			s, ok := schema.Of(name)
			if !ok {
				return fmt.Errorf("no schema %q%s: there are %s", name, didYouMean("", name, schema.Names()), strings.Join(schema.Names(), ", "))
			}
			return show.JSON(c.App.Writer, s)
		},
	}
}
