package main

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "which build this is",
		UsageText: `spoolsweep version
spoolsweep version -o json`,
		Description:  `The build, as agents call themselves too, and what it was built with.`,
		Flags:        []cli.Flag{outputFlag()},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(c, errArguments(c), false)
			}
			document, err := asJSON(c)
			if err != nil {
				return err
			}
			v := struct {
				Build    string `json:"build"`
				Protocol string `json:"protocol"` // between controller and agent
				Go       string `json:"go"`
				Platform string `json:"platform"`
			}{agent.Build(), wire.Protocol, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if document {
				return show.JSON(c.App.Writer, v)
			}
			fmt.Fprintf(c.App.Writer, "spoolsweep %s (%s, %s, %s)\n", v.Build, v.Protocol, v.Go, v.Platform)
			return nil
		},
	}
}
