package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
)

// outputHTML is the format of -o that report alone has.
const outputHTML = "html"

// page tells a run over all its hosts as one HTML document. Nothing is printed
// before all hosts have told: half a page would look like a whole one.
func (s *sweep) page(c *cli.Context, id string, on map[*member]*run.State) error {
	ctx := c.Context
	stories := map[*member]*show.Story{}
	p := &show.Page{Run: id, By: me(), Zone: time.Local, Build: agent.Build(), Named: c.Bool("no-redact"), Line: s.typed(c)}
	for _, m := range s.members {
		switch {
		case on[m] != nil || m.Error != nil:
			stories[m] = &show.Story{Host: m.Host}
			p.Hosts = append(p.Hosts, stories[m])
		default:
			p.Without = append(p.Without, m.Label())
		}
	}
	s.eachOf(membersOf(s.members, on), func(m *member) error { return s.story(ctx, m, id, stories[m]) })
	if p.Made = time.Now(); s.record != nil {
		p.Made, p.Told = s.record.told(), "by artifacts of ansible-runner "+strings.Join(s.record.Idents, ", ")+"; imported by "+s.record.By
	}
	if ctx.Err() == nil {
		if err := p.Write(s.Out); err != nil {
			s.close()
			return err
		}
	}
	return s.end(ctx)
}

// story has a host tell what the page needs, its ledger too: of that the sums.
func (s *sweep) story(ctx context.Context, m *member, id string, into *show.Story) error {
	r, err := m.recorded(ctx, id, into.Take)
	if err != nil {
		return err
	}
	m.Status, into.Report = show.OK, r
	if m.record != nil {
		return nil // its ledger is the host's
	}
	if r.State.Phase == run.Working {
		s.Note(m.Label(), "is at work on the run: its ledger is told when that is done")
		return nil
	}
	var account run.Account
	err = m.link.CallEvents(ctx, "ledger", agent.RunCall{Vars: m.vars, Run: id}, &account, func(e wire.Event) {
		if e.Kind == wire.Warn {
			into.Take(e)
		}
	})
	if err != nil {
		return err
	}
	if !possible(account.SetAside, account.Restored, account.Collisions, account.Left, account.Purged, account.SentMeanwhile, account.Missing, account.Deleted, account.Gone, account.Stayed, account.Held, account.Released, account.Requeued) {
		return lies(m)
	}
	into.Account = &account
	return missing(account.Missing, id)
}

// typed makes command lines that find these hosts again, or some of them.
func (s *sweep) typed(c *cli.Context) func(hosts []string, words ...string) string {
	return func(hosts []string, words ...string) string {
		more := s.again
		if len(hosts) > 0 {
			more = again(c, strings.Join(hosts, ","))
		}
		return "spoolsweep " + shellLine(words) + more
	}
}

// checkReport refuses flags that exclude each other, and those that only a page
// has. It returns the domain of --domain as it is looked for.
func checkReport(c *cli.Context) (domain string, err error) {
	html := c.String("output") == outputHTML
	switch {
	case c.IsSet("run") && !c.IsSet("import"):
		return "", errors.New("--run goes with --import: which run is told is an argument")
	case c.IsSet("compare") && (html || c.Bool("ledger") || c.IsSet("domain")):
		return "", errors.New("--compare goes with -o text, json and jsonl, and neither with --ledger nor --domain")
	case html && (c.Bool("ledger") || c.IsSet("domain")):
		return "", errors.New("--ledger and --domain do not go with -o html: the page has the ledger's sums, its entries come as text, json or jsonl")
	case !html && c.Bool("no-redact"):
		return "", fmt.Errorf("--no-redact goes with -o %s: the other formats mask nothing", outputHTML)
	case c.Bool("ledger") && c.IsSet("domain"):
		return "", errors.New("--domain is a part of --ledger: give one of them")
	case !c.IsSet("domain"):
		return "", nil
	}
	domain = strings.TrimPrefix(strings.ToLower(c.String("domain")), "@")
	if !domainForm().MatchString(domain) {
		return "", fmt.Errorf("--domain %s: it is the name of one, such as example.org, or .example.org for all below it", c.String("domain"))
	}
	return domain, nil
}

// domainForm is a domain, or with a dot before it what is below.
// Classes of Unicode are large, and most commands need none.
var domainForm = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^\.?[\pL\pN_-]+(\.[\pL\pN_-]+)*$`)
})
