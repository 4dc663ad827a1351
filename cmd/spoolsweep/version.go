package main

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/push"
	"spoolsweep/remote/wire"
)

// release is the number of the release that this program is of, set by package
// cmd/release; one built from source has none.
var release string

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "which build this is",
		UsageText: `spoolsweep version
spoolsweep version -o json`,
		Description: `The number of a release, the build, as agents call themselves too, and what it was
built with. A release carries agents: of each, the architecture and the SHA-256 of the
file that hosts get. One built from source has none in it, and builds what a host needs.`,
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
				// Release is its number, "" for one built from source.
				Release  string `json:"release"`
				Build    string `json:"build"`
				Protocol string `json:"protocol"` // between controller and agent
				Go       string `json:"go"`
				Platform string `json:"platform"`
				// Agents are those it carries, by architecture: the SHA-256 of each.
				Agents map[string]string `json:"agents"`
			}{release, agent.Build(), wire.Protocol, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, push.Packed()}
			if document {
				return show.JSON(c.App.Writer, v)
			}
			fmt.Fprintf(c.App.Writer, "spoolsweep %s (%s, %s, %s)\n", strings.TrimSpace(v.Release+" "+v.Build), v.Protocol, v.Go, v.Platform)
			for _, arch := range slices.Sorted(maps.Keys(v.Agents)) {
				fmt.Fprintf(c.App.Writer, "agent for %-8s %s\n", arch, v.Agents[arch])
			}
			return nil
		},
	}
}
