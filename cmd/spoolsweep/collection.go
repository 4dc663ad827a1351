package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"

	"github.com/urfave/cli/v2"

	"spoolsweep/playbooks/ansible"
	"spoolsweep/remote/push"
	"spoolsweep/spool/stage"
)

func collectionCommand() *cli.Command {
	return &cli.Command{
		Name: "collection", Usage: "write the Ansible collection spoolsweep.postfix",
		UsageText: `spoolsweep collection --output dist`,
		Description: `For ansible-core 2.14 and newer, with an agent for each architecture: modules that
look, and change nothing (queue_info, suspects, classify), modules that do what run,
putback and delete do (set_aside, restore, putback, delete), and the role backscatter,
which is the shipped playbook. The folder is one that Ansible finds collections in:

  ANSIBLE_COLLECTIONS_PATH=dist ansible-doc -t role spoolsweep.postfix.backscatter
  ANSIBLE_COLLECTIONS_PATH=dist ansible-playbook spoolsweep.postfix.backscatter -e @rules.yaml
  ansible-galaxy collection build dist/` + ansible.Folder + ` --output-path dist`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write below the folder `DIR`, where there is none yet"},
			&cli.StringFlag{Name: "agent", Usage: "the agent in `FILE` instead of those that are built, whatever the architecture (default: $SPOOLSWEEP_AGENT, if that is set)"},
		},
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			switch {
			case c.NArg() > 0:
				return usageError(c, errArguments(c), false)
			case c.String("output") == "":
				return usageError(c, errors.New("--output is wanted"), false)
			}
			source, _, err := agentOf(agentFile(c))
			if err != nil {
				return err
			}
			agents := map[string]*push.Agent{}
			for _, arch := range push.Architectures { // before anything is written
				if agents[arch], err = source.Agent(c.Context, arch); err != nil {
					return err
				}
			}
			dir, err := ansible.Write(c.String("output"), reflect.TypeFor[stage.Vars]())
			if err != nil {
				return err
			}
			for arch, a := range agents {
				if err := writeAgent(a, filepath.Join(dir, ansible.AgentFile(arch))); err != nil {
					return err
				}
			}
			fmt.Fprintln(c.App.Writer, dir)
			return nil
		},
	}
}

// writeAgent writes an agent to a file that is not there.
func writeAgent(a *push.Agent, file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = a.WriteTo(f)
	return errors.Join(err, f.Close())
}
