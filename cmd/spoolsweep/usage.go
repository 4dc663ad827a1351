package main

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"
)

// What package flag says where a value was forgotten, and of one that it refuses.
const flagForgotten = "flag needs an argument: -"

var flagRefused = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^invalid (?:boolean )?value ("(?:[^"\\]|\\.)*") for (?:flag )?-(\S+): (.*)$`)
})

// badFlag is what package flag says of the flags of a command, in the words of ours.
func badFlag(command *cli.Command, err error) error {
	if name, ok := strings.CutPrefix(err.Error(), flagForgotten); ok {
		says := dashed(name) + " wants a value"
		if f, ok := flagOf(command, dashed(name)).(cli.DocGenerationFlag); ok {
			says += ": " + dashed(name) + " " + strings.Trim(placeholder.FindString(f.GetUsage()), "`")
		}
		return errors.New(says)
	}
	found := flagRefused().FindStringSubmatch(err.Error())
	if found == nil {
		return err
	}
	value, cause := found[1], found[3]
	if plain, err := strconv.Unquote(value); err == nil && plain != "" {
		value = plain
	}
	wanted := cause
	switch flagOf(command, dashed(found[2])).(type) {
	case *cli.BoolFlag:
		return fmt.Errorf("%s=%s: it takes no value", dashed(found[2]), value)
	case *cli.IntFlag, *cli.Int64Flag:
		wanted = "a whole number is wanted"
		if cause == "value out of range" {
			wanted = "the number is too large"
		}
	case *cli.DurationFlag:
		wanted = "a time is wanted, such as 30s, 5m or 2h"
	}
	return fmt.Errorf("%s %s: %s", dashed(found[2]), value, wanted)
}

// unwrapped is what an error says, without the system call that found a named file
// wanting.
func unwrapped(err error) string {
	var path *fs.PathError
	if !errors.As(err, &path) || !slices.Contains([]string{"open", "stat", "lstat"}, path.Op) {
		return err.Error()
	}
	return strings.Replace(err.Error(), path.Error(), fmt.Sprintf("%s: %v", path.Path, path.Err), 1)
}
