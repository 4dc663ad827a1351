package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/push"
	"spoolsweep/remote/wire"
)

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "which build this is",
		UsageText: `spoolsweep version
spoolsweep version -o json`,
		Description: `The build, as agents call themselves too, and what it was built with. A release
carries agents: of each, the architecture and the SHA-256 of the file that hosts get.
One built from source has none in it, and builds what a host needs.`,
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
				// Agents are those it carries, by architecture: the SHA-256 of each.
				Agents map[string]string `json:"agents"`
			}{agent.Build(), wire.Protocol, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, push.Packed()}
			if document {
				return show.JSON(c.App.Writer, v)
			}
			fmt.Fprintf(c.App.Writer, "spoolsweep %s (%s, %s, %s)\n", v.Build, v.Protocol, v.Go, v.Platform)
			for _, arch := range slices.Sorted(maps.Keys(v.Agents)) {
				fmt.Fprintf(c.App.Writer, "agent for %-8s %s\n", arch, v.Agents[arch])
			}
			return nil
		},
	}
}
