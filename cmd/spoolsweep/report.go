package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
)

const reportName = "report"

func reportCommand() *cli.Command {
	return &cli.Command{
		Name: reportName, Usage: "tell one run from its beginning: what was asked for, done and found", ArgsUsage: "[RUN]",
		UsageText: `spoolsweep report
spoolsweep report 20261123T231500Z-ab12 -l chavez
spoolsweep report 20261123T231500Z-ab12 -o json
spoolsweep report 20261123T231500Z-ab12 -o html
spoolsweep report 20261123T231500Z-ab12 --ledger
spoolsweep report 20261123T231500Z-ab12 --domain members.example.org
spoolsweep report --compare 20261123T231500Z-ab12
spoolsweep report 20261124T101500Z-cd34 --compare 20261123T231500Z-ab12 -o json
spoolsweep report --import artifacts/east artifacts/west`,
		Description: `Without RUN: the newest. The account is the hosts' own, and the same from every
laptop. No mail is quoted in it but the sources that classify names.

--ledger accounts for every message of the run: its queue id, inode and size,
sender and recipients (the first ten), how it was judged, by which rules, and
what became of it, from where to where, when, and by whom; of what was removed
the SHA-256 of its queue file, too. The sums come last: set aside = restored +
collisions + left + purged + sent meanwhile + missing. Where a message is missing,
which is neither aside nor live nor moved by the run, the exit status is 2. As
JSON each host has them under "ledger"; as a stream each is an event "account".
ledger_keep (90d, a host variable) after the run's last message left, the sums
alone are kept.

--domain NAME is for somebody who asks: of that ledger what one domain has sent or
was to get, when each message was set aside, for how long it was held, and where it
went. A dot before the name means all below it.

-o html prints a page to hand on, that needs no network and runs no script: what
happened, what is left to do and how to take it back, a time line with the time
without Postfix, the queues, rules, sources, the ledger's sums, questions, errors.

  spoolsweep report RUN -o html > report.html

What stands before the @ of addresses, logins and clients are numbers on it, as
with sample --redact, but that domains stay; --no-redact has them all as they are.
A missing message makes its exit status 2, too.

--compare RUN sets two runs side by side, the older one first: what was set aside,
how it was judged and by which rules, what became of it, how long Postfix was down
and how long the stages took. Hosts that have both are summed up.

--import DIR is for runs of the Ansible collection spoolsweep.postfix under
ansible-runner, as AWX has it, or its transmit, worker and process: it reads the
artifacts, with job_events in them, of one job or of several, and keeps the run that
they tell of on this controller. From then on report RUN tells it without reaching any
host or reading an inventory, in every format, as far as the artifacts have it; -l
takes names of its hosts. --ledger, --domain, --compare and --ask-hosts ask the
hosts as ever. Artifacts with the same run's id are one run, whether they come
together or one after the other; to import them again changes nothing. Those of
several runs are named, and --run chooses. A file that is broken, or a run that is
recorded otherwise already, is an error, and nothing is kept. A host that Ansible could
not reach, or whose artifacts end before its run did, is told as one that did not
answer (exit status 4), or has not told (2): its run goes on there by itself.`,
		Flags: commonFlags(
			&cli.BoolFlag{Name: "ledger", Usage: "account for every message of the run"},
			&cli.StringFlag{Name: "domain", Usage: "what of the mail of `NAME` was held, for how long, and where it went"},
			&cli.StringFlag{Name: "compare", Usage: "set this run beside `RUN`"},
			&cli.StringSliceFlag{Name: "import", Usage: "keep the run that ansible-runner's artifacts in `DIR` tell of, and tell it (repeatable, and arguments are further ones)"},
			&cli.StringFlag{Name: "run", Usage: "with --import: the `ID` of the run, where the artifacts are of several"},
			&cli.BoolFlag{Name: "ask-hosts", Usage: "ask the hosts, also of a run that was imported"},
			&cli.BoolFlag{Name: "no-redact", Usage: "with -o html: addresses, logins and clients as they are"},
		), OnUsageError: usageError,
		Action: func(c *cli.Context) error {
			domain, err := checkReport(c)
			if err != nil {
				return err
			}
			s, id, on, err := theRunOrRecord(c)
			if err != nil || id == "" {
				return err
			}
			ctx := c.Context
			s.doc.Run = id
			switch {
			case c.IsSet("compare"):
				return s.compare(c, id, on)
			case c.IsSet("domain"):
				return s.extracts(ctx, id, domain, on)
			case c.Bool("ledger"):
				return s.ledgers(ctx, id, on)
			case c.String("output") == outputHTML:
				return s.page(c, id, on)
			}
			s.eachInOrder(membersOf(s.members, on), func(m *member) (func(), error) { return s.report(c, m, id) })
			return s.end(ctx)
		},
	}
}

// theRunOrRecord is the run that is imported, or of which a record is kept here, or else
// theRun.
func theRunOrRecord(c *cli.Context) (s *sweep, id string, on map[*member]*run.State, err error) {
	if c.IsSet("import") {
		id, err = imported(c)
	} else if c.NArg() == 1 {
		id = c.Args().First()
	}
	if err == nil && id != "" {
		s, on, err = theRecord(c, id)
	}
	if err != nil || s != nil {
		return s, id, on, err
	}
	return theRun(c)
}

// told is what report has as a host's result: what was asked for, without the
// text of the playbook, and where the run stands.
type told struct {
	Began    time.Time          `json:"began"`
	Who      string             `json:"who"`
	Reason   string             `json:"reason"`
	Playbook string             `json:"playbook"`
	Hosts    []string           `json:"hosts"`
	Extra    map[string]any     `json:"extra"`
	Phase    string             `json:"phase"`
	Asks     string             `json:"asks"`
	Error    string             `json:"error"`
	Aside    int64              `json:"aside"`
	Answers  []run.AnswerRecord `json:"answers"`
}

// report takes in the events of a run on one host and tells them in order. How
// the run ended is told, and is not how this command ends.
func (s *sweep) report(c *cli.Context, m *member, id string) (print func(), err error) {
	began := map[int]time.Time{}
	past := &show.Host{Host: m.host.Name}
	r, err := m.recorded(c.Context, id, func(e wire.Event) {
		if e.Kind == wire.Begin {
			began[e.Index] = e.Time
		}
		past.Event(e)
		e.Instance = m.Instance
		if s.Stream {
			s.Event(e)
		}
	})
	if err != nil {
		return nil, err
	}
	m.Status, m.Stages, m.Notes = show.OK, past.Stages, past.Notes
	if m.Stages == nil {
		m.Stages = []*show.Stage{}
	}
	asks := ""
	if r.State.Ask != nil {
		asks = r.State.Ask.Kind
	}
	answers := r.State.History
	if answers == nil {
		answers = []run.AnswerRecord{}
	}
	m.Result, err = json.Marshal(told{
		Began: r.Info.Began, Who: r.Info.Who, Reason: r.Info.Reason, Playbook: r.Info.Name, Hosts: r.Info.Hosts, Extra: r.Info.Extra,
		Phase: r.State.Phase, Asks: asks, Error: r.State.Error, Aside: r.State.Aside, Answers: answers,
	})
	return func() { s.printReport(m, r, began) }, err
}

// recorded is what a host has recorded of a run; take is given its events.
func (m *member) recorded(ctx context.Context, id string, take func(wire.Event)) (*run.Report, error) {
	if m.record != nil {
		return m.record.report(take)
	}
	var r run.Report
	if err := m.link.CallEvents(ctx, "report", agent.RunCall{Vars: m.vars, Run: id}, &r, take); err != nil {
		return nil, err
	}
	if r.Info == nil || r.State == nil {
		return nil, spool.Remedied(fmt.Errorf("%s: the agent does not tell of run %s", m.Label(), id), lookThere)
	}
	return &r, nil
}

func (s *sweep) printReport(m *member, r *run.Report, began map[int]time.Time) {
	name := m.Label()
	s.Line(name, "run %s: %s, begun %s by %s, on %s", show.Clean(r.Info.Run), show.Clean(r.Info.Name),
		r.Info.Began.Local().Format(time.DateTime), show.Clean(r.Info.Who), show.Clean(strings.Join(r.Info.Hosts, ", ")))
	if r.Info.Reason != "" {
		s.Line(name, "reason: %s", show.Clean(r.Info.Reason))
	}
	for _, st := range m.Stages {
		at := ""
		if t, ok := began[st.Index]; ok {
			at = t.Local().Format(time.DateTime)
		}
		status := st.Status
		if status == "" {
			status = "not ended"
		}
		s.Line(name, "%s  %s: %s after %.2f s", at, show.Clean(st.Stage), show.Clean(status), st.Seconds)
		if len(st.Result) > 2 {
			s.Lines(name, st.Stage, st.Result)
		}
	}
	for _, n := range m.Notes {
		s.Line(name, "warning: %s", show.Clean(n))
	}
	for _, a := range r.State.History {
		s.Line(name, "question %d (%s) was answered by %s at %s", a.Number, show.Clean(a.Kind), show.Clean(a.By), a.At.Local().Format(time.DateTime))
	}
	s.Line(name, "%s", runLine(r.State))
}
