package show

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"spoolsweep/remote/clean"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// todo is something that is left to do, and the command lines for it.
type todo struct {
	What  string
	Lines []commandLine
}

// commandLine is what to type, and what for.
type commandLine struct{ For, Line string }

// todo is what is left to do, the most urgent first.
func (m *pageMaker) todo() []todo {
	var all []todo
	add := func(what string, lines ...commandLine) { all = append(all, todo{what, lines}) }
	line := func(hosts []string, what string, words ...string) commandLine {
		return commandLine{what, typed(m.Line(hosts, words...))}
	}
	in := func(is func(*Story) bool) (names, hosts []string) {
		for _, s := range m.Hosts {
			if is(s) {
				names = append(names, s.Label())
				if !slices.Contains(hosts, s.Host.Host) {
					hosts = append(hosts, s.Host.Host)
				}
			}
		}
		if len(hosts) > maxLimit || len(names) == len(m.Hosts) {
			hosts = nil // all of them
		}
		return names, hosts
	}
	stands := func(state int) func(*Story) bool { return func(s *Story) bool { return m.state(s) == state } }
	asks := func(kind string) func(*Story) bool {
		return func(s *Story) bool { return m.state(s) == stateWaiting && s.asks() == kind }
	}
	if names, hosts := in(stands(stateDown)); len(names) > 0 {
		add("Get Postfix started on "+m.names(names)+", where the run ended between stop and start", line(hosts, "start it, and carry on", "resume", m.Run))
	}
	if names, hosts := in(stands(stateFailed)); len(names) > 0 {
		add("Mend what has failed on "+m.names(names)+" (see Warnings and errors)", line(hosts, "then carry on", "resume", m.Run))
	}
	if names, hosts := in(stands(stateBroken)); len(names) > 0 {
		add("Carry on on "+m.names(names)+", where the run was broken off", line(hosts, "carry on", "resume", m.Run))
	}
	if names, hosts := in(stands(stateUnknown)); len(names) > 0 {
		add("Look again at "+m.names(names), line(hosts, "once it answers", "report", m.Run))
	}
	if names, hosts := in(asks("rules")); len(names) > 0 {
		add("Say what is spam on "+m.names(names),
			commandLine{"have rules proposed", typed(m.Line(hosts, "suggest", "--aside", m.Run, "-o", "yaml")) + " > rules.yaml"},
			line(hosts, "try them", "classify", "--aside", m.Run, "-e", "@rules.yaml"),
			line(hosts, "and send what they leave", "resume", m.Run, "-e", "@rules.yaml"))
	}
	if names, hosts := in(asks("confirm")); len(names) > 0 {
		add("Answer what is asked on "+m.names(names)+" (see Questions)",
			line(hosts, "it asks on a terminal", "resume", m.Run),
			line(hosts, "or judge by better rules", "resume", m.Run, "-e", "@rules.yaml"))
	}
	if names, hosts := in(func(s *Story) bool { return asks("slot")(s) || asks("controller")(s) || asks("")(s) }); len(names) > 0 {
		add("Carry on on "+m.names(names), line(hosts, "carry on", "resume", m.Run))
	}
	if names, hosts := in(stands(stateWorking)); len(names) > 0 {
		add("Follow the work on "+m.names(names), line(hosts, "follow it", "attach", m.Run))
	}
	if names, hosts := in(func(s *Story) bool { return s.Account != nil && s.Account.Missing > 0 }); len(names) > 0 {
		add("Find out what became of the messages that are missing on "+m.names(names)+"; the mail log tells of their ids",
			line(hosts, "name them", "report", m.Run, "--ledger"))
	}
	for _, s := range m.told {
		if w := m.facts[s].watched; w != nil && w.Source == "sending" {
			add("Stop the source on " + Clean(s.Label()) + ", which still sent " + many(w.Sent, "message") + " after Postfix was started")
		}
	}
	for _, left := range []struct{ command, advice string }{
		{disabling, "Make sure that the stolen account is disabled, or has another password, on %s: the run has not disabled it"},
		{"stop the source", "Make sure that the script or user that flooded is stopped on %s: the run has not stopped it"},
	} {
		if names, _ := in(func(s *Story) bool { return m.facts[s].sourceRuns(left.command) }); len(names) > 0 {
			add(fmt.Sprintf(left.advice, m.names(names)))
		}
	}
	m.aside(&all, in)
	if names, hosts := in(func(s *Story) bool { return s.Account != nil && s.Account.Collisions > 0 }); len(names) > 0 {
		add("Look after the messages in *.name-collisions on "+m.names(names)+": their queue ids were taken by other messages",
			line(hosts, "name them", "report", m.Run, "--ledger"))
	}
	if names, hosts := in(func(s *Story) bool {
		return slices.ContainsFunc(m.facts[s].commands, func(c named) bool { return disabled(&c.CommandResult) })
	}); len(names) > 0 {
		add("Once its password is another one, the account may be enabled again on "+m.names(names),
			line(hosts, "take that back", "run", "enable-account", "-e", "account=ACCOUNT"))
	}
	m.leftovers(&all)
	return all
}

// disabling is the name of the step of the shipped playbooks that disables an account.
const disabling = "disable the account"

func disabled(c *stage.CommandResult) bool { return c.Name == disabling && !c.Skipped && c.Exit == 0 }

// Disabled says that a run has disabled an account on a host.
func Disabled(h *Host) bool {
	var c stage.CommandResult
	return h.Latest("command", &c) && disabled(&c)
}

// sourceRuns says that the run was to stop the source by a command, and did not.
func (f *facts) sourceRuns(command string) bool {
	return len(f.aside) > 0 && slices.ContainsFunc(f.commands, func(c named) bool {
		return c.stage == "command" && c.Name == command && (c.Skipped || c.Exit != 0)
	})
}

// typed is a command line as it is shown: whole, however many flags it has.
func typed(line string) string { return clean.Text(line, 16*maxText) }

// maxLimit is how many hosts a command line names.
const maxLimit = 10

// aside is what may be done with what is aside on hosts where nothing is asked: to
// take it all back is the last of it.
func (m *pageMaker) aside(all *[]todo, in func(func(*Story) bool) (names, hosts []string)) {
	var n int64
	names, hosts := in(func(s *Story) bool {
		aside := s.left() > 0 && s.phase() != run.Working
		if aside {
			n += s.left()
		}
		return aside
	})
	if n == 0 {
		return
	}
	line := func(what string, words ...string) commandLine {
		return commandLine{what, Clean(m.Line(hosts, words...))}
	}
	lines := []commandLine{line("read some of them", "sample", "--aside", m.Run, "--redact")}
	ended, endedHosts := in(func(s *Story) bool { return s.left() > 0 && s.phase() == run.Finished })
	if len(ended) > 0 {
		lines = append(lines, commandLine{"judge again, if ham is among them", typed(m.Line(endedHosts, "resume", m.Run, "-e", "@better.yaml"))})
	}
	lines = append(lines, line("take back: send what is not the flood's", "putback", m.Run), line("take all of it back, the flood too", "putback", m.Run, "--include-spam"))
	if len(ended) > 0 {
		lines = append(lines, commandLine{"remove the spam for good, when nobody misses anything", typed(m.Line(endedHosts, "purge", m.Run))})
	}
	*all = append(*all, todo{"Decide about the " + many(n, "message") + " that" + is(n) + " still aside on " + m.names(names) + ". What was sent cannot be taken back; what is aside can", lines})
}

// leftovers are directories that somebody else has set aside, and other runs.
func (m *pageMaker) leftovers(all *[]todo) {
	for _, s := range m.told {
		f := m.facts[s]
		c := f.after
		if c == nil {
			c = f.before
		}
		if c == nil {
			continue
		}
		where := Clean(s.Label())
		for _, name := range slices.Sorted(maps.Keys(c.SetAside)) {
			if left := c.SetAside[name]; left.Run == "" && left.Messages > 0 && adoptable.MatchString(name) && len(*all) < maxTold {
				*all = append(*all, todo{fmt.Sprintf("%s has %s in %s, of no run that is known there", where, many(left.Messages, "message"), Clean(name)),
					[]commandLine{{"take it on", typed(m.Line([]string{s.Host.Host}, "putback", "--adopt", name))}}})
			}
		}
		for _, r := range c.Runs {
			if r.Run != m.Run && r.Messages > 0 && len(*all) < maxTold {
				*all = append(*all, todo{fmt.Sprintf("%s has %s of another run aside", where, many(r.Messages, "message")),
					[]commandLine{{"see what it was", typed(m.Line([]string{s.Host.Host}, "report", r.Run))}}})
			}
		}
	}
}

// adoptable is what putback --adopt takes.
var adoptable = regexp.MustCompile(`^(maildrop|incoming|active|deferred|hold)\.spamfull(\.\d+)?$`)
