package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/agent"
	"spoolsweep/remote/inventory"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
)

// reach asks every host which Postfix instances it has, and makes each of them a
// member, in the host's place; they share its connection. A host that does not
// answer stays one: what kept it from that is told when it is worked on, and it
// is asked again the next time. One whose inventory names the directory of main.cf
// has no other instance.
func (s *sweep) reach(ctx context.Context) { s.reachThese(ctx, s.members, nil) }

// askThem is reach that asks each host one thing in the same breath, which is
// answered only where it has one Postfix: m.asked says so.
func (s *sweep) askThem(ctx context.Context, ask func(m *member) error) {
	s.reachThese(ctx, s.members, ask)
}

// reachThese is reach, or with ask askThem, for some of the members.
func (s *sweep) reachThese(ctx context.Context, these []*member, ask func(m *member) error) {
	found := make([][]spool.Instance, len(s.members))
	s.fleet.Each(len(s.members), func(i int) {
		m := s.members[i]
		if m.known || !slices.Contains(these, m) {
			return
		}
		if ask != nil {
			var fault *wire.Fault
			if m.unreached = ask(m); !errors.As(m.unreached, &fault) || fault.Kind != agent.FaultSeveral {
				m.asked, m.known = m.unreached == nil, m.unreached == nil
				return
			}
		}
		m.unreached = m.link.CallEvents(ctx, "instances", agent.HostCall{Vars: m.vars, Kept: s.memory.of(m.host.Name)}, &found[i], func(e wire.Event) {
			s.memory.keeps(m.host.Name, e)
		})
		if m.unreached == nil {
			m.unreached = credible(found[i])
		}
	})
	var members []*member
	for i, m := range s.members {
		members = append(members, m)
		if m.known || m.unreached != nil {
			continue
		}
		m.known = true
		for k, in := range found[i] {
			if in.Directory == "" { // it is the only one
				continue
			}
			of := m
			if k > 0 {
				of = &member{host: m.host, vars: m.vars, link: m.link, known: true, further: true, pass: func() {}, Host: newHost(m.host)}
				members = append(members, of)
			}
			of.vars.Instances, of.vars.Instance, of.vars.ConfigDirectory, of.Instance = nil, in.Name, in.Directory, in.Name
		}
	}
	s.members, s.doc.Hosts = members, nil
	for _, m := range s.members {
		s.doc.Hosts = append(s.doc.Hosts, m.Host)
		s.Width = max(s.Width, len(show.Clean(m.Label())))
	}
}

// credible refuses instances that no host has.
func credible(found []spool.Instance) error {
	if len(found) == 0 || len(found) > spool.MaxInstances {
		return fmt.Errorf("the agent tells of %d Postfix instances", len(found))
	}
	for i, in := range found {
		if err := spool.ParseInstance(in.Name); err != nil {
			return err
		}
		if in.Directory == "" && len(found) > 1 || slices.ContainsFunc(found[:i], func(o spool.Instance) bool { return o.Name == in.Name }) {
			return fmt.Errorf("the agent tells of instance %s twice, or not where it is", in.Name)
		}
	}
	return nil
}

func newHost(h *inventory.Host) *show.Host {
	return &show.Host{Host: h.Name, Instance: spool.DefaultInstance, Status: show.Skipped, Stages: []*show.Stage{}}
}

// checkInstances refuses two variables of which each says which Postfix is meant.
func (m *member) checkInstances() error {
	m.known = m.vars.ConfigDirectory != ""
	if !m.known || m.vars.Instances == nil {
		return nil
	}
	return m.host.Origin("postfix_instances").Errorf("host %s: postfix_instances and postfix_config_directory exclude each other: the instances' directories are found on the host", m.host.Name)
}

// inTurn has do work on all members at once, but on the instances of one host one
// after the other: the next is begun when do, or the stop..start of it, has passed.
// Behind one that was lost, and may be stopped now, none is begun.
func (s *sweep) inTurn(ctx context.Context, members []*member, do func(m *member) error) {
	last := map[*inventory.Host]*member{}
	for _, m := range members {
		m.before, m.passed = last[m.host], make(chan struct{})
		m.pass = sync.OnceFunc(func() { close(m.passed) })
		last[m.host] = m
	}
	s.eachAll(members, func(m *member) error {
		defer m.pass()
		if m.before != nil {
			select {
			case <-m.before.passed:
			case <-ctx.Done():
				return ctx.Err()
			}
			if m.lost = m.before.lost; m.lost != nil {
				return fmt.Errorf("not begun, since it is not known how %s stands: %w", m.before.Label(), m.lost)
			}
		}
		return do(m)
	})
}

// ofHost are the instances of one host.
func (s *sweep) ofHost(h *inventory.Host) []*member {
	return slices.DeleteFunc(slices.Clone(s.members), func(m *member) bool { return m.host != h })
}

// noun is what is counted, n of them: hosts, or the instances where some host has
// several.
func (s *sweep) noun(n int) string {
	noun := "host"
	if slices.ContainsFunc(s.members, func(m *member) bool { return m.vars.Instance != "" }) {
		noun = "instance"
	}
	if n != 1 {
		noun += "s"
	}
	return noun
}
