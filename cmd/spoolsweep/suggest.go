package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/stage"
	"spoolsweep/spool/suggest"
)

const (
	suggestName = "suggest"
	outputYAML  = "yaml"
)

func suggestCommand() *cli.Command {
	return &cli.Command{
		Name: suggestName, Usage: "propose rules that separate the flood from other mail; changes nothing",
		UsageText: `spoolsweep suggest
spoolsweep suggest --aside 20261123T231500Z-ab12
spoolsweep suggest --aside 20261123T231500Z-ab12 -o yaml
spoolsweep suggest --queue deferred -l chavez
spoolsweep suggest --account spam-account -o json
spoolsweep suggest --spam-sample ~/Maildir/.Junk --keep-sample ~/Maildir/.newsletters`,
		Description: `Which mail: --aside RUN, what that run set aside; --queue NAME; without either
what the one unfinished run of these hosts has aside, else the live queues.

Nobody needs to say which mail is the flood. It shows itself by a login or sender
that has much of all mail or is used from many places, by bounces that come back
to one address, by much mail to one recipient, or by one text that a hundred and
more messages have, from as many senders; and by what the text of that mail has in
common and other mail lacks: hosts and paths of links, addresses, phrases,
subjects, headers; also by the client, if all of one text came from there and
nothing else did. --account NAME says whose mail the flood is, however little of
it there is.

A text that says that it is a list's or a newsletter's, that comes under one name
or from one place, or that stands under letters of many, is not taken for a flood;
what of that may yet be one is told. A member's newsletter that says nothing of the
kind looks like a flood of that account: give --keep-sample.

At most five rules are proposed, the fewest that catch the flood, each with how
many messages it catches, alone and with the others, and why it was chosen. What
the hosts find is put together, and each host counts over all of its mail what it
would catch there. A rule that would hit anything that is not like the flood is
not proposed: mail of the account's owner, or mail that others write to it. Rules
that look right and would do so are told, with samples. Where the flood cannot be
separated, less is proposed, or nothing.

--spam-sample DIR is mail that is known to be of the flood, one message or many:
then the flood is what is like it, however little of that there is and wherever it
comes from, and it is told how many of the samples the rules catch. Like it is what has half of what the samples are known by, and other mail lacks.

--keep-sample DIR is mail that is known to be good and may not be in the queues just
now, such as newsletters of members. No rule is proposed that would hit one.

Both are messages in files of their own, in DIR and the folders in it. They are read
here; of --keep-sample no host is sent anything, of --spam-sample what rules may be
made of.

-o yaml prints the rules as a file:

  spoolsweep suggest --aside RUN -o yaml > rules.yaml
  spoolsweep classify --aside RUN -e @rules.yaml
  spoolsweep resume RUN -e @rules.yaml`,
		Flags: commonFlags(
			&cli.StringFlag{Name: "aside", Usage: "look at what `RUN` has set aside"},
			&cli.StringSliceFlag{Name: "queue", Usage: "look at the live queue `NAME` (repeatable)"},
			&cli.PathFlag{Name: "spam-sample", Usage: "the flood is what is like the mail in the folder `DIR`: single messages, as in a Maildir"},
			&cli.PathFlag{Name: "keep-sample", Usage: "propose no rule that hits any mail in the folder `DIR`: single messages, as in a Maildir"},
			&cli.StringFlag{Name: "account", Usage: "the flood is mail of the account `NAME`: a login, or an address"},
		),
		OnUsageError: usageError,
		Action:       suggestAction,
	}
}

func suggestAction(c *cli.Context) error {
	if c.Args().Present() {
		return usageError(c, errArguments(c), false)
	}
	if err := checkWhichMail(c); err != nil {
		return err
	}
	account := c.String("account")
	if c.IsSet("account") && strings.Trim(account, "@ ") == "" {
		return errors.New("--account is the name of one, such as spam-account or spam-account@chavez.example.org")
	}
	if c.IsSet("account") && c.IsSet("spam-sample") {
		return errors.New("--account and --spam-sample exclude each other: both say what the flood is")
	}
	known, others, err := newSamples(c.Path("spam-sample"), c.Path("keep-sample"))
	if err != nil {
		return err
	}
	s, err := begin(c, nil)
	if err != nil {
		return err
	}
	for _, other := range others {
		s.Note("", "passed over: %s", show.Clean(other))
	}
	args := &stage.SuggestArgs{Account: account, LiveQueues: stage.LiveQueues{Live: c.StringSlice("queue")}}
	aside, members, err := s.whichMail(c, args.Live)
	if err != nil {
		return err
	}
	found, err := s.suggest(c.Context, members, args, aside, known)
	if err != nil {
		return err
	}
	s.doc.Summary.Suggestion = found
	where := "the live queues"
	switch {
	case aside != "":
		where = "what run " + aside + " has set aside"
	case len(args.Live) > 0:
		where += " " + strings.Join(args.Live, ", ")
	}
	if c.String("output") == outputYAML {
		fmt.Fprint(s.Out, found.YAML(where))
	} else {
		s.Suggestion(found)
		if len(found.Rules) > 0 {
			of := ""
			if aside != "" {
				of = " --aside " + aside
			}
			for _, queue := range args.Live {
				of += " --queue " + shellWord(queue)
			}
			whose := ""
			for _, flag := range []string{"account", "spam-sample", "keep-sample"} {
				if value := c.String(flag); value != "" {
					whose += " --" + flag + " " + shellWord(value)
				}
			}
			s.Note("", "next: write them down  spoolsweep suggest%s%s -o yaml%s > rules.yaml", of, show.Clean(whose), s.again)
			s.Note("", "      and try them     spoolsweep classify%s -e @rules.yaml%s", of, s.again)
		}
	}
	return s.end(c.Context)
}

// suggest has each host look for atoms, puts them together, has each count what
// they match, and chooses.
func (s *sweep) suggest(ctx context.Context, members []*member, args *stage.SuggestArgs, aside string, known *samples) (*show.Suggestion, error) {
	var mu sync.Mutex // guards what the hosts found
	results := map[*member]*stage.Suggested{}
	ask := func(index int, args *stage.SuggestArgs) {
		s.eachOf(members, func(m *member) error {
			if m.Error != nil {
				return nil
			}
			text, err := s.fetch(ctx, m, index, suggestName, args, aside)
			if err != nil {
				return err
			}
			r := new(stage.Suggested)
			if !decode(text, r) {
				return spool.Remedied(fmt.Errorf("%s: what it found cannot be read", m.Label()), lookThere)
			}
			m.Status, m.Result = show.OK, text
			mu.Lock()
			defer mu.Unlock()
			results[m] = r
			return nil
		})
	}
	atoms, unclear := known.atoms, []suggest.Atom(nil)
	var offered int64
	if len(atoms) == 0 {
		ask(0, args)
		var all [][]suggest.Atom
		for _, m := range members { // in their order, so that the same mail gives the same rules
			r := results[m]
			if r == nil {
				continue
			}
			offered += r.Messages
			var usable []suggest.Atom
			for _, a := range r.Atoms {
				if isUsable(&a) {
					usable = append(usable, a)
				}
			}
			all = append(all, usable)
		}
		atoms, unclear = suggest.Merge(all)
	}
	found := &show.Suggestion{Proposal: suggest.Choose(nil, nil, suggest.Known{}, 0), Unclear: unclear, Samples: []show.UnlikeSample{}, Keep: len(known.keep)}
	found.Messages = offered
	if found.Unclear == nil {
		found.Unclear = []suggest.Atom{}
	}
	if len(atoms) == 0 {
		if len(unclear) == 0 && len(results) > 0 { // any mail of it would be told
			found.NoneOf = args.Account
		}
		return found, nil
	}
	clear(results)
	test := &stage.SuggestArgs{Spam: suggest.Rules(atoms), Kinds: suggest.KindsOf(atoms), LiveQueues: args.LiveQueues}
	if err := test.Check(); err != nil {
		return nil, err
	}
	ask(1, test)
	sum := map[suggest.Mask]int64{}
	var lost int64
	for _, m := range members {
		r := results[m]
		if r == nil {
			if m.Error != nil {
				s.Alert("", "warning: the rules were not tested on %s", show.Clean(m.Label()))
			}
			continue
		}
		for text, n := range r.Counts {
			if mask, err := suggest.ParseMask(text); err == nil && n > 0 {
				sum[mask] += n
			}
		}
		lost += max(0, r.Lost)
		found.Unlike(m.Label(), r.Samples)
	}
	var counts []suggest.Count
	for mask, n := range sum {
		counts = append(counts, suggest.Count{Mask: mask, Messages: n})
	}
	masks, err := known.known(atoms)
	if err != nil {
		return nil, err
	}
	found.Proposal = suggest.Choose(atoms, counts, masks, lost)
	return found, nil
}

// maxAtomPattern is longer than any pattern that a host finds by itself.
const maxAtomPattern = 1000

// isUsable tells whether an atom is one that suggest could have found: a host may
// say anything.
func isUsable(a *suggest.Atom) bool {
	_, err := pattern.Compile(a.Rule(), nil)
	if err != nil || len(a.Pattern) > maxAtomPattern || len(a.Field) > maxAtomPattern {
		return false
	}
	value := !strings.ContainsAny(a.Pattern, "*/") && !strings.HasPrefix(a.Pattern, "@") && !strings.HasSuffix(a.Pattern, "@") && a.Pattern != "<>"
	switch a.Kind {
	case suggest.Login:
		return value && a.Field == "sasl_user"
	case suggest.Sender:
		return value && a.Field == "sender"
	case suggest.Client:
		_, err := netip.ParseAddr(a.Pattern)
		return err == nil && a.Field == "client"
	case suggest.Bounces, suggest.Recipient:
		return value && a.Field == "recipient"
	case suggest.Link, suggest.Address, suggest.Phrase, suggest.Subject:
		return a.Field == "body" || a.Field == "subject"
	case suggest.Header:
		return strings.HasPrefix(a.Field, "header.")
	}
	return false
}
