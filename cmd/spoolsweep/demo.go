package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"spoolsweep/spool"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/stage"
)

// practiceVariable names the folder of the practice host whose agent this is.
const practiceVariable = "SPOOLSWEEP_PRACTICE"

// practiceMaker is the agent.Maker of practice hosts.
func practiceMaker() (func(context.Context, stage.Vars) (*spool.Postfix, error), string, error) {
	dir := os.Getenv(practiceVariable)
	if dir == "" {
		return nil, "", errors.New("this is the agent of practice hosts: " + practiceVariable + " is not set")
	}
	return func(context.Context, stage.Vars) (*spool.Postfix, error) { return practice.New(dir) }, filepath.Join(dir, "state"), nil
}

func demoCommand() *cli.Command { return &cli.Command{Name: "demo"} }
