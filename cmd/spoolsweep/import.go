package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/artifacts"
	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/inventory"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
)

// imported keeps the run that artifacts of ansible-runner tell of, and returns its id.
// Nothing is kept of artifacts that cannot be read whole.
func imported(c *cli.Context) (id string, err error) {
	for _, name := range []string{"ledger", "domain", "compare", "ask-hosts"} {
		if c.IsSet(name) {
			return "", fmt.Errorf("--%s asks the hosts, and --import needs none: import first", name)
		}
	}
	chosen := c.String("run")
	if chosen != "" && !run.IsID(chosen) {
		return "", fmt.Errorf("--run %s: that is no id of a run", chosen)
	}
	say := &show.Printer{Out: c.App.Writer, Err: c.App.ErrWriter, Quiet: c.Bool("quiet")}
	found, err := artifacts.Read(append(slices.Clone(c.StringSlice("import")), c.Args().Slice()...)...)
	if err != nil {
		return "", err
	}
	for _, hidden := range found.Hidden {
		say.Alert("", "warning: no_log keeps to itself what %s told", show.Clean(hidden))
	}
	of, err := chooseRun(found, chosen, say)
	if err != nil {
		return "", err
	}
	unlock, err := lockRecords()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	kept, err := readRecord(of.ID)
	if err != nil {
		return "", err
	}
	if kept == nil {
		kept = &record{Version: recordVersion, Run: of.ID, Silent: map[string]artifacts.Silence{}}
	}
	events, news, err := kept.add(of)
	if err != nil {
		return "", err
	}
	if !news {
		say.Note("", "run %s: nothing new in %s", of.ID, many(found.Jobs, "job"))
		return of.ID, nil
	}
	kept.Imported, kept.By = time.Now().UTC(), me()
	if err := kept.write(); err != nil {
		return "", fmt.Errorf("keep run %s: %w", of.ID, err)
	}
	say.Note("", "run %s: %s imported out of %s, of %s now", of.ID, many(events, "event"), many(found.Jobs, "job"), many(len(kept.labels()), "host"))
	return of.ID, nil
}

func many(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// chooseRun is the one run of the artifacts, or the one that --run names.
func chooseRun(found *artifacts.Found, id string, say *show.Printer) (*artifacts.Run, error) {
	if id != "" {
		if i := slices.IndexFunc(found.Runs, func(r *artifacts.Run) bool { return r.ID == id }); i >= 0 {
			return found.Runs[i], nil
		}
	}
	switch n := len(found.Runs); {
	case n == 0:
		return nil, fmt.Errorf("no run is in the artifacts of %s: no module of spoolsweep.postfix has carried one out there", many(found.Jobs, "job"))
	case n == 1 && id == "":
		return found.Runs[0], nil
	}
	for _, r := range found.Runs {
		var hosts []string
		for _, h := range r.Hosts {
			hosts = append(hosts, h.Label())
		}
		say.Alert("", "%s on %s", r.ID, show.Names(hosts))
	}
	if id != "" {
		return nil, fmt.Errorf("--run %s: no such run is in the artifacts", id)
	}
	return nil, errors.New("the artifacts are of several runs: choose one with --run, and import the others by themselves (the role has all hosts of a play do one run)")
}

// theRecord is the run that is named and was imported, told of without any host; nil
// where there is none, or where hosts are to be asked.
func theRecord(c *cli.Context, id string) (*sweep, map[*member]*run.State, error) {
	for _, name := range []string{"ledger", "domain", "compare", "ask-hosts"} {
		if c.IsSet(name) {
			return nil, nil, nil
		}
	}
	kept, err := readRecord(id)
	if err != nil || kept == nil {
		return nil, nil, err
	}
	s, err := beginOn(c, nil, kept)
	if err != nil {
		return nil, nil, err
	}
	on := map[*member]*run.State{}
	for _, m := range s.members {
		on[m] = &run.State{Run: id}
	}
	s.Note("", "run %s as it was imported on %s by %s: no host was asked (--ask-hosts asks them)", id, kept.Imported.Local().Format(time.DateTime), show.Clean(kept.By))
	return s, on, nil
}

// recordedHosts are the hosts of a record that --limit names.
func (s *sweep) recordedHosts(c *cli.Context) ([]*inventory.Host, error) {
	s.again = again(c, c.String("limit"))
	names := slices.Collect(maps.Keys(s.record.Silent))
	for _, h := range s.record.hosts {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	inv, err := inventory.OfNames(slices.Compact(names))
	if err != nil {
		return nil, err
	}
	if !c.IsSet("limit") {
		return inv.Hosts(), nil
	}
	hosts, err := inv.Limit(c.String("limit"))
	if err != nil {
		err = fmt.Errorf("%w (of a run that was imported hosts are known by name alone, and no groups)", err)
	}
	return hosts, err
}

// recordMembers makes each Postfix that has told a member.
func (s *sweep) recordMembers() {
	var members []*member
	s.doc.Hosts = nil
	for _, m := range s.members {
		of := slices.DeleteFunc(slices.Clone(s.record.hosts), func(h *artifacts.Host) bool { return h.Name != m.host.Name })
		if len(of) == 0 { // it tells nothing
			of = []*artifacts.Host{{Name: m.host.Name}}
		}
		for i, h := range of {
			one := &member{host: m.host, vars: m.vars, link: m.link, known: true, further: i > 0, pass: func() {}, Host: newHost(m.host), record: &recordedHost{h, s.record}}
			if h.Label() != h.Name {
				one.Instance, one.vars.Instance = h.Instance, h.Instance
			}
			members = append(members, one)
			s.doc.Hosts = append(s.doc.Hosts, one.Host)
			s.Width = max(s.Width, len(show.Clean(one.Label())))
		}
	}
	s.members = members
}

// listRecords is 'runs --imported'.
func listRecords(c *cli.Context, since time.Time) error {
	ids, err := recordedRuns()
	if err != nil {
		return err
	}
	all := &record{Silent: map[string]artifacts.Silence{}}
	states := map[string][]*run.State{}
	var unread []error
	for _, id := range ids {
		kept, err := readRecord(id)
		if err != nil {
			unread = append(unread, err)
		}
		if kept == nil {
			continue
		}
		hosts := slices.Clone(kept.hosts)
		for name := range kept.Silent {
			hosts = append(hosts, &artifacts.Host{Name: name})
		}
		for _, h := range hosts {
			told, err := (&recordedHost{h, kept}).report(func(wire.Event) {})
			at := &run.State{Run: id, Host: h.Label(), Name: kept.Name}
			if err != nil {
				at.Phase, at.Error = "not known", err.Error()
			} else {
				at = told.State
			}
			if forgotten(at, since) {
				continue
			}
			if _, err := all.host(h.Name, h.Instance); err != nil {
				return err
			}
			states[h.Label()] = append(states[h.Label()], at)
		}
	}
	s, err := beginOn(c, nil, all)
	if err != nil {
		return err
	}
	for _, err := range unread {
		s.Alert("", "warning: %s", show.Clean(err.Error()))
	}
	if len(s.members) == 0 {
		s.Note("", "no run that was imported here")
	}
	s.eachInOrder(s.members, func(m *member) (func(), error) { return s.listRuns(m, states[m.Label()]) })
	return s.end(c.Context)
}
