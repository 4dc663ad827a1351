package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

func sampleCommand() *cli.Command {
	return &cli.Command{
		Name: "sample", Usage: "decode some messages for reading; changes nothing",
		UsageText: `spoolsweep sample -l chavez
spoolsweep sample --aside 20261123T231500Z-ab12 -n 10
spoolsweep sample --queue deferred --redact
spoolsweep sample --queue hold --raw
spoolsweep sample --save samples
spoolsweep sample --forget samples`,
		Description: `Which mail: --aside RUN, what that run set aside; --queue NAME; without either
what the one unfinished run of these hosts has aside, else the live queues.

A third of the sample is of senders and a third of recipients, each with the
same chance however much mail it has, so that a flood does not hide what is none;
the rest is of all messages. Headers and text are decoded, an attachment is one
line. --redact gives addresses, logins and clients numbers in their place before
anything leaves the host; names in the text stay.

Nothing stays on disk, here or there, unless --save DIR: a new folder, for you
alone. --forget DIR removes what --save wrote there, and nothing else.`,
		Flags: commonFlags(
			&cli.IntFlag{Name: "messages", Aliases: []string{"n"}, Value: 5, Usage: "show `N` messages of each host, at most 20"},
			&cli.StringFlag{Name: "aside", Usage: "look at what `RUN` has set aside"},
			&cli.StringSliceFlag{Name: "queue", Usage: "look at the live queue `NAME` (repeatable)"},
			&cli.BoolFlag{Name: "raw", Usage: "as strings prints the queue file, not decoded"},
			&cli.BoolFlag{Name: "redact", Usage: "mask addresses, logins and clients"},
			&cli.StringFlag{Name: "save", Usage: "write each to a file in `DIR`, which must be new or of --save"},
			&cli.StringFlag{Name: "forget", Usage: "remove what --save wrote to `DIR`, and do nothing else"},
		),
		OnUsageError: usageError,
		Action:       sampleAction,
	}
}

func sampleAction(c *cli.Context) error {
	if c.Args().Present() {
		return usageError(c, errArguments(c), false)
	}
	if c.IsSet("forget") {
		n, err := forgetSamples(c.String("forget"))
		if err == nil {
			fmt.Fprintf(c.App.ErrWriter, "%d files removed\n", n)
		}
		return err
	}
	args := &stage.SampleArgs{
		Messages: stage.Number(c.Int("messages")), Raw: c.Bool("raw"), Redact: c.Bool("redact"), LiveQueues: stage.LiveQueues{Live: c.StringSlice("queue")},
	}
	if args.Raw && args.Redact {
		return errors.New("--raw and --redact exclude each other: what is encoded there cannot be masked")
	}
	if err := errors.Join(checkWhichMail(c), args.Check()); err != nil {
		return err
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	var save *saved
	if c.IsSet("save") {
		if save, err = saveSamples(c.String("save")); err != nil {
			return err
		}
		defer save.close()
	}
	aside, members, err := s.whichMail(c, args.Live)
	if err != nil {
		return err
	}
	s.eachInOrder(members, func(m *member) (func(), error) {
		if m.Error != nil {
			return nil, nil
		}
		m.Status = show.OK
		result, err := s.fetch(c.Context, m, 0, "sample", args, aside)
		if err != nil {
			return nil, err
		}
		m.Result = result
		if save != nil {
			var r stage.Sampled
			if !decode(result, &r) {
				return nil, spool.Remedied(fmt.Errorf("%s: its samples cannot be read", m.Label()), lookThere)
			}
			for i := range r.Samples {
				if err := save.write(m.Label(), &r.Samples[i]); err != nil {
					return nil, err
				}
			}
		}
		return func() { s.Result(m.Host, "sample", result) }, nil
	})
	return s.end(c.Context)
}

// saved is a folder of samples. A file is named in its marker before any mail is
// in it, so that what is to be forgotten is known whatever happens.
type saved struct {
	dir    string
	mu     sync.Mutex // guards the marker
	marker *os.File
}

// sampleFolder are the folders of --save.
var sampleFolder = markedFolder{
	name: ".spoolsweep-samples", maker: "sample --save",
	title: "samples of mail, written by spoolsweep sample --save; 'spoolsweep sample --forget DIR' removes what is listed here",
}

// saveSamples makes the folder, or opens one that --save made.
func saveSamples(dir string) (*saved, error) {
	marker, err := sampleFolder.open(dir)
	if err != nil {
		return nil, fmt.Errorf("--save: %w", err)
	}
	return &saved{dir: dir, marker: marker}, nil
}

func (s *saved) close() { s.marker.Close() }

// write writes one message, cleaned: a file is shown on a terminal too.
func (s *saved) write(host string, m *stage.ReadMessage) error {
	name := plainName(host) + "." + plainName(m.Message) + ".txt"
	var b strings.Builder
	one := stage.Sampled{Messages: 1, Samples: []stage.ReadMessage{*m}}
	for _, l := range one.Lines()[1:] {
		fmt.Fprintln(&b, strings.TrimRight(strings.TrimSpace(show.Clean(l.Label))+" "+show.Clean(l.Text), " "))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil // drawn before
	}
	if err != nil {
		return err
	}
	_, listed := fmt.Fprintln(s.marker, name)
	_, err = f.WriteString(b.String())
	return errors.Join(listed, err, f.Close())
}

// sampleNames lists what a folder's marker names.
func sampleNames(dir string) ([]string, error) {
	f, err := sampleFolder.check(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan() // the title
	var names []string
	for lines.Scan() {
		if name := lines.Text(); name == filepath.Base(name) && strings.HasSuffix(name, ".txt") {
			names = append(names, name)
		}
	}
	return names, lines.Err()
}

// forgetSamples removes what --save wrote to a folder, and the folder if nothing
// else is in it.
func forgetSamples(dir string) (n int, err error) {
	names, err := sampleNames(dir)
	if err != nil {
		return 0, fmt.Errorf("--forget: %w", err)
	}
	for _, name := range names {
		err := os.Remove(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("--forget: %w", err)
		}
		if err == nil {
			n++
		}
	}
	if err := os.Remove(filepath.Join(dir, sampleFolder.name)); err != nil {
		return n, fmt.Errorf("--forget: %w", err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		return n, fmt.Errorf("--forget: %w", err)
	}
	return n, nil
}
