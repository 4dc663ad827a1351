package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"
)

// checkFiles refuses files that are named for reaching hosts and are not there: each
// host would fail for it, or be tried without. A file of known hosts is begun where
// its first key is accepted, so only its folder must be there.
func checkFiles(c *cli.Context) error {
	if file := c.String("private-key"); file != "" && !(c.String("transport") == transportOpenSSH && strings.Contains(file, "%")) {
		path := file
		if rest, ok := strings.CutPrefix(file, "~/"); ok {
			home, err := os.UserHomeDir()
			if err != nil {
				return fmt.Errorf("--private-key %s: %w", file, err)
			}
			path = filepath.Join(home, rest)
		}
		// The private half may live in the ssh agent alone.
		if _, err := os.Stat(path + ".pub"); err != nil {
			if err := there("--private-key", file, path); err != nil {
				return err
			}
		}
	}
	if file := c.String("ssh-config"); file != "" && file != noFile {
		if err := there("--ssh-config", file, file); err != nil {
			return err
		}
	} else if file := os.Getenv(configVariable); file != "" && file != noFile && !c.IsSet("ssh-config") {
		if err := there(configVariable, file, file); err != nil {
			return fmt.Errorf("%w (unset it, or name another one: --ssh-config FILE)", err)
		}
	}
	for _, file := range c.StringSlice("known-hosts") {
		if err := there("--known-hosts", file, filepath.Dir(file)); err != nil {
			return fmt.Errorf("%w: nor is there its folder", err)
		}
	}
	return nil
}

// noFile in place of a file of ssh's configuration is none.
const noFile = "none"

// there says of a file that flag names whether path is there.
func there(flag, file, path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s %s: %w", flag, file, why(err))
	}
	return nil
}

// why is err without the file and what was done to it, where those are told already.
func why(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
