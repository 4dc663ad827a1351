package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"
)

// vaultPasswords returns what gives the passwords of ansible-vault when the first
// is needed, from files or the terminal; nil where neither was asked for.
func (s *sweep) vaultPasswords(c *cli.Context) (func() ([]string, error), error) {
	ask, files := c.Bool("ask-vault-password"), c.StringSlice("vault-password-file")
	switch {
	case ask && len(files) > 0:
		return nil, usageError(c, errors.New("--ask-vault-password and --vault-password-file: one of them"), false)
	case !ask && len(files) == 0:
		return nil, nil
	}
	for _, file := range files {
		if file == "" || file == "-" {
			return nil, fmt.Errorf("--vault-password-file %q: a file is wanted; --ask-vault-password asks on the terminal", file)
		}
		if err := there("--vault-password-file", file, file); err != nil { // whether or not it will be read
			return nil, err
		}
	}
	return func() ([]string, error) {
		if ask {
			password, err := s.askPassword(c, "--ask-vault-password", "the vault's password: ", "--vault-password-file")
			if err != nil {
				return nil, err
			}
			return []string{string(password)}, nil
		}
		var passwords []string
		for _, file := range files {
			password, err := readPassword(file)
			if err != nil {
				return nil, fmt.Errorf("--vault-password-file %s: %w", file, err)
			}
			passwords = append(passwords, string(password))
		}
		return passwords, nil
	}, nil
}
