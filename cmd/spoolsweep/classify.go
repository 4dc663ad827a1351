package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/stage"
)

func classifyCommand() *cli.Command {
	return &cli.Command{
		Name: "classify", Usage: "try rules: what they would call spam, and what is left; changes nothing",
		UsageText: `spoolsweep classify --aside 20261123T231500Z-ab12 -m sasl_user:spam-account
spoolsweep classify --aside 20261123T231500Z-ab12 -e @rules.yaml --text
spoolsweep classify --queue deferred -m 'body:/https?:\S+\/media\.php/' -l chavez
spoolsweep classify -m 'header.List-Id:lists.example.org' -m 'source_count:>20'
spoolsweep classify --aside 20261123T231500Z-ab12 -e @rules.yaml --list -q
spoolsweep classify --queue hold -e @rules.yaml --explain 4cRkQb2jLBz1xd`,
		Description: `Which mail: --aside RUN, what that run set aside; --queue NAME; without either
what the one unfinished run of these hosts has aside, else the live queues.
Which rules: -m FIELD:PATTERN (repeated: any of them is spam), or spam and ham
from -e @rules.yaml, which has nothing else. Both sides are shown: what each rule
catches, alone and with others, how many lines match it, what ham rules keep, what
large sources are left, and some of the ham and of the near misses. Fields:

  raw                    a part of what strings prints of the queue file
  sender, recipient, recipient_left, sasl_user, client
                         the whole value; @domain, @.domain and below, user@,
                         <> no sender, * globs, address ranges in client
  header, header.NAME, subject
                         a part of a header line, of the value of one
  body                   a part of a line of the text, decoded
  any                    a part of a value of the envelope, or of a line
  queue                  incoming, active, deferred, hold or maildrop
  size, age, recipients, recipients_left, source_count
                         a comparison: >100k, <2d, >=20; age when it was set
                         aside; source_count: messages of the same login,
                         sender, client or bounce target

/.../ is a regular expression (RE2), all else is literal.`,
		Flags: commonFlags(extraVars(),
			&cli.StringFlag{Name: "aside", Usage: "look at what `RUN` has set aside"},
			&cli.StringSliceFlag{Name: "queue", Usage: "look at the live queue `NAME` (repeatable)"},
			&cli.StringSliceFlag{Name: "match", Aliases: []string{"m"}, Usage: "call spam what matches `FIELD:PATTERN` (repeatable)"},
			&cli.IntFlag{Name: "samples", Value: samplesShown, Usage: fmt.Sprintf("show `N` messages of the ham and of the near misses, at most %d", stage.MaxSamples)},
			&cli.BoolFlag{Name: "text", Usage: "show some lines of their text too"},
			&cli.BoolFlag{Name: "list", Usage: "print QUEUE/ID: matching lines and verdict, for every message"},
			&cli.StringFlag{Name: "explain", Usage: "judge only the message `ID`, also as QUEUE/ID, and tell which rule matches where"},
		),
		OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(c, errArguments(c), false)
			}
			s, err := begin(c, nil)
			if err != nil {
				return err
			}
			args, err := s.classifyArgs(c)
			if err != nil {
				return err
			}
			if err := s.onlyRules(c); err != nil {
				return err
			}
			aside, members, err := s.whichMail(c, args.Live)
			if err != nil {
				return err
			}
			s.eachOf(members, func(m *member) error {
				if m.Error != nil {
					return nil
				}
				m.Status = show.OK
				err := s.look(c.Context, m, 0, "classify", args, aside)
				m.Result = resultOf(m)
				return err
			})
			err = s.end(c.Context)
			if args.Explain != "" && err == nil && !s.explained() {
				return fmt.Errorf("no message %s was found there", args.Explain)
			}
			return err
		},
	}
}

// What classify shows of single messages.
const (
	samplesShown = 5
	textShown    = 8 // lines
)

// explained tells whether some host has the message that was asked for.
func (s *sweep) explained() bool {
	for _, m := range s.members {
		var c stage.Classified
		if m.Latest("classify", &c) && len(c.Explained) > 0 {
			return true
		}
	}
	return false
}

func resultOf(m *member) json.RawMessage {
	if len(m.Stages) == 1 {
		return m.Stages[0].Result
	}
	return nil
}

// classifyArgs takes the rules from -m or -e, compiled here so that a mistake
// is told before any host is asked.
func (s *sweep) classifyArgs(c *cli.Context) (*stage.ClassifyArgs, error) {
	args := &stage.ClassifyArgs{Spam: s.extra.Values["spam"], Ham: s.extra.Values["ham"], LiveQueues: stage.LiveQueues{Live: c.StringSlice("queue")},
		Samples: c.Int("samples"), List: c.Bool("list"), Explain: queueID(c.String("explain"))}
	if c.Bool("text") {
		args.TextLines = textShown
	}
	if args.Explain != "" && args.List {
		return nil, errors.New("--explain and --list exclude each other")
	}
	if err := checkWhichMail(c); err != nil {
		return nil, err
	}
	match, err := matchRules(c)
	if err != nil {
		return nil, err
	}
	if match != nil {
		if args.Spam != nil {
			return nil, errors.New("rules come from -m or from -e, not from both")
		}
		args.Spam = match
	}
	if err := args.Check(); err != nil {
		return nil, playbooks.Locate(s.extra, err)
	}
	return args, nil
}

// queueID is the id of a message that is named as --list and samples print it, behind
// its queue or what that is called aside. What names none is left for the check to refuse.
func queueID(name string) string {
	queue, _, under := strings.Cut(name, "/")
	queue, _, _ = strings.Cut(queue, ".")
	if _, err := spool.ParseQueue(queue); !under || err != nil || strings.HasSuffix(name, "/") {
		return name
	}
	return name[strings.LastIndexByte(name, '/')+1:]
}

// matchRules are the rules of -m, nil where there are none.
func matchRules(c *cli.Context) (any, error) {
	var rules []any
	for _, text := range c.StringSlice("match") {
		rule, err := pattern.ParseFlag(text)
		if err != nil {
			return nil, fmt.Errorf("-m %s: %w", text, err)
		}
		rules = append(rules, rule)
	}
	if rules == nil {
		return nil, nil
	}
	return map[string]any{"any": rules}, nil
}

// look has a host do one stage that changes nothing, and takes in and prints its
// result.
func (s *sweep) look(ctx context.Context, m *member, index int, name string, args stage.Args, aside string) error {
	result, err := s.fetch(ctx, m, index, name, args, aside)
	if err != nil {
		return err
	}
	s.Result(m.Host, name, result)
	return nil
}

// fetch is look that leaves the printing to the caller.
func (s *sweep) fetch(ctx context.Context, m *member, index int, name string, args stage.Args, aside string) (json.RawMessage, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	result := found{}
	if row, ok := stage.Lookup(name); ok && row.Result != nil {
		result.as = row.Result()
	}
	call := agent.LookCall{Vars: m.vars, Step: stage.Step{Stage: name, Args: text}, Aside: aside, Kept: s.memory.of(m.host.Name), Alone: !m.known}
	err = m.link.CallEvents(ctx, "look", &call, &result, func(e wire.Event) {
		if s.memory.keeps(m.host.Name, e) {
			return
		}
		if s.JSON && e.Kind == wire.Judged {
			m.Judged(e)
		}
		e.Instance = m.Instance
		s.Event(e)
	})
	if err != nil {
		return nil, err
	}
	m.Stages = append(m.Stages, &show.Stage{Index: index, Stage: name, Status: show.OK, Result: result.text})
	return result.text, nil
}

// found is what a stage found, which is taken only if it is what that stage finds.
type found struct {
	text json.RawMessage
	as   stage.Result // nil: anything
}

func (f *found) UnmarshalJSON(text []byte) error {
	f.text = bytes.Clone(text)
	if f.as == nil {
		return nil
	}
	return json.Unmarshal(text, f.as)
}
