package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/playbooks"
	"spoolsweep/remote/agent"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

func deleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Usage: "delete what rules take from live queues, for good",
		UsageText: `spoolsweep delete -l chavez -m 'sasl_user:spam-account@chavez.example.org'
spoolsweep delete -l chavez -e @rules.yaml -y --expect 614
spoolsweep delete --queue hold --queue deferred -m 'body:/https?:\S+\/media\.php/'`,
		Description: `In deferred, unless --queue names others. First it is shown how many messages
match, in which queues, with a sample. On a terminal that number is typed; under
-y it is --expect N, over all hosts. Another number deletes nothing.

The messages are deleted by Postfix's own postsuper. Just before its turn each is
looked at once more: one that was replaced, or tried again, since it was counted
is left, and said. Postfix must run. For a flood 'spoolsweep run backscatter' is
the way: it lets mail flow first, and nothing needs to be decided in a hurry.`,
		Flags: commonFlags(extraVars(), notifyFlag(atEnd), removalYes(), removalExpect(), liveCheck(),
			&cli.StringSliceFlag{Name: "queue", Usage: "delete from the live queue `NAME` (repeatable; default deferred)"},
			&cli.StringSliceFlag{Name: "match", Aliases: []string{"m"}, Usage: "delete what matches `FIELD:PATTERN` (repeatable)"},
		),
		OnUsageError: usageError,
		Action:       deleteAction,
	}
}

func removalYes() cli.Flag {
	return &cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "ask nothing: --expect says how many go"}
}

func removalExpect() cli.Flag {
	return &cli.Int64Flag{Name: "expect", Usage: "with -y: `N` messages go, or nothing is done"}
}

// mayRemove refuses a command line that could neither ask nor know how many.
func (s *sweep) mayRemove(c *cli.Context) error {
	switch {
	case c.Bool("yes") && !c.IsSet("expect"):
		return fmt.Errorf("%s -y wants --expect N, the number of messages that go: what was removed cannot be taken back", c.Command.Name)
	case !c.Bool("yes") && !s.tty:
		return errors.New("there is no terminal to ask on: give -y --expect N")
	}
	return nil
}

func deleteAction(c *cli.Context) error {
	if c.Args().Present() {
		return usageError(c, errArguments(c), false)
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	rules, err := s.classifyArgs(c)
	if err != nil {
		return err
	}
	args := &stage.DeleteArgs{Spam: rules.Spam, Ham: rules.Ham, Queues: rules.Live}
	if err := s.onlyRules(c); err != nil {
		return err
	}
	if _, err := args.Rules(); err != nil {
		return err
	}
	if len(args.Queues) == 0 {
		args.Queues = stage.Queues{string(spool.Deferred)}
	}
	if err := args.Check(); err != nil {
		return err
	}
	if err := s.mayRemove(c); err != nil && !c.Bool("check") {
		return err
	}
	return s.live(c, &liveAct{
		name: "delete", queues: args.Queues, args: args,
		begin: func(ctx context.Context, d *driver, m *member, on []*member, expect int64) error {
			return d.delete(ctx, m, on, *args, expect)
		},
	})
}

// onlyRules refuses other variables: a ham rule under a mistyped name would take
// more than was meant.
func (s *sweep) onlyRules(c *cli.Context) error {
	if err := rulesAlone(s.extra, c.Command.Name); err != nil {
		return fmt.Errorf("-e %w", err)
	}
	return nil
}

// rulesAlone refuses variables that are no rules, for what takes nothing else.
func rulesAlone(x *playbooks.Extra, what string) error {
	for _, name := range slices.Sorted(maps.Keys(x.Values)) {
		if name != "spam" && name != "ham" {
			return fmt.Errorf("%s: %s takes only spam and ham%s", show.Clean(name), what, didYouMean("", name, []string{"spam", "ham"}))
		}
	}
	return nil
}

// delete begins a run of one stage, and follows it.
func (d *driver) delete(ctx context.Context, m *member, on []*member, args stage.DeleteArgs, expect int64) error {
	n := stage.Number(expect)
	args.Expect = &n
	return d.alone(ctx, m, on, "delete", &args, deletePlaybook(args), map[string]any{"spam": args.Spam, "ham": args.Ham})
}

// alone begins a run of one stage, and follows it. The playbook is that of the record.
func (d *driver) alone(ctx context.Context, m *member, on []*member, name string, args stage.Args, playbook string, extra map[string]any) error {
	text, err := json.Marshal(args)
	if err != nil {
		return err
	}
	info := run.Info{
		Run: d.run, Host: m.Label(), Began: time.Now().UTC(), Who: me(), Controller: d.controller, Name: name,
		Playbook: playbook, Extra: extra,
		Vars: m.vars, Yes: d.yes, Steps: []stage.Step{{Stage: name, Args: text}},
	}
	for _, other := range on {
		info.Hosts = append(info.Hosts, other.Label())
	}
	if err := m.link.Call(ctx, "begin", &info, nil); err != nil {
		return err
	}
	return d.drive(ctx, m, 1)
}

// deletePlaybook is the playbook of the record: rules are data, in its variables.
func deletePlaybook(args stage.DeleteArgs) string {
	return fmt.Sprintf(`name: delete
vars: {spam: {}, ham: {}}
stages:
  - delete: {spam: "{{ .spam }}", ham: "{{ .ham }}", queues: [%s], expect: %d}
`, strings.Join(args.Queues, ", "), *args.Expect)
}

// removal has every host count what a stage would remove, and shows it.
func (s *sweep) removal(ctx context.Context, members []*member, name, id string, args stage.Args) map[*member]*stage.Removal {
	var mu sync.Mutex // guards found
	found := map[*member]*stage.Removal{}
	s.eachOf(members, func(m *member) error {
		text, err := json.Marshal(args)
		if err != nil {
			return err
		}
		r := new(stage.Removal)
		call := agent.RemovalCall{Vars: m.vars, Run: id, Step: stage.Step{Stage: name, Args: text}}
		if err := m.link.Call(ctx, "removal", &call, r); err != nil {
			return err
		}
		if !possible(r.Matched, r.Bytes) {
			return lies(m)
		}
		m.Status = show.OK
		mu.Lock()
		defer mu.Unlock()
		found[m] = r
		s.showRemoval(m.Label(), name, r)
		return nil
	})
	return found
}

// doneBy is what those stages do with messages, as is told before.
var doneBy = map[string]string{"delete": "deleted", "purge": "deleted", "hold": "put on hold", "release": "released, and sent", "requeue": "requeued, and sent", "export": "exported and removed"}

func (s *sweep) showRemoval(host, name string, r *stage.Removal) {
	s.Note(host, "would be %s: %s", doneBy[name], messages(r.Matched))
	for _, kind := range slices.Sorted(maps.Keys(r.Goes)) {
		s.Note(host, "  %s: %s", show.Clean(kind), humanize.Comma(r.Goes[kind]))
	}
	for _, m := range r.Samples {
		e := &m.Envelope
		s.Note(host, "  such as %s of %s, %s bytes, %s", show.Clean(m.Message), e.Arrived.Format(time.DateTime), humanize.Comma(e.Bytes), show.Clean(e.String()))
	}
	stays := "stays aside"
	if name != "purge" {
		stays = "stays"
	}
	for _, kind := range slices.Sorted(maps.Keys(r.Stays)) {
		s.Note(host, "%s: %s: %s", stays, show.Clean(kind), humanize.Comma(r.Stays[kind]))
	}
	if name == "purge" && r.Stays[stage.KindUnconfirmed] > 0 {
		s.Note(host, "  with better rules, which are asked about: spoolsweep resume %s -e @rules.yaml%s", s.doc.Run, s.again)
		s.Note(host, "  all that is aside, whatever it is:        spoolsweep purge %s --include-ham%s", s.doc.Run, s.again)
	}
	for _, why := range r.Reasons {
		s.Alert(host, "look again: %s", show.Clean(why))
	}
}

// agreeRemoval has the number typed, or compares it with --expect, and returns
// the hosts where anything is to be done.
func (s *sweep) agreeRemoval(ctx context.Context, c *cli.Context, found map[*member]*stage.Removal) ([]*member, error) {
	going, sum, err := s.going("purge", found)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	if sum == 0 && !c.IsSet("expect") {
		s.nothing("nothing to delete")
		return nil, nil
	}
	return going, s.agree(ctx, c, "delete", sum)
}

// going are the hosts where anything is to be done, and with how many messages over
// all of them. What is wrong on others is told before.
func (s *sweep) going(name string, found map[*member]*stage.Removal) ([]*member, int64, error) {
	var sum int64
	var going []*member
	for _, m := range s.members {
		r := found[m]
		if r == nil {
			continue // told
		}
		sum += r.Matched
		if r.Matched > 0 {
			going = append(going, m)
			continue
		}
		var err error
		if m.Result, err = nothingDone(name, r); err != nil {
			return nil, 0, err
		}
	}
	s.tellFailed()
	return going, sum, nil
}

// nothingDone is the result of a host where that much was found, and nothing is done.
func nothingDone(name string, r *stage.Removal) (json.RawMessage, error) {
	if name == "delete" || name == "purge" {
		return json.Marshal(&stage.Removed{Matched: r.Matched, Stays: r.Stays})
	}
	return json.Marshal(&stage.Acted{Matched: r.Matched})
}

// tellFailed tells what is wrong on which hosts before a number is typed, or found to
// be another one: these are not in it.
func (s *sweep) tellFailed() {
	for _, m := range s.members {
		if m.Error != nil {
			s.Alert(m.Label(), "%s: %s", strings.ToUpper(m.Status), show.Clean(m.Error.Message))
			if m.Error.Remedy != "" {
				s.Alert(m.Label(), "  remedy: %s", show.Clean(m.Error.Remedy))
			}
			m.Error.Told = true
		}
	}
}
