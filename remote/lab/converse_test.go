package lab_test

import (
	"testing"

	"spoolsweep/remote/lab"
)

// One command on a terminal, and nothing known of the flood: it is set aside, rules
// are found, tried and used, and the ham goes back.
func TestConversation(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, few)
	messages := flooded(t, h, 7, map[string]int{"deferred": 100, "active": 100, "incoming": 200})
	s := sit(t, f, "run", "backscatter", "-e", "rate=0", "-e", "watch=0")
	s.waitFor(`Do this on 1 of 1 host\? \[y/N\] `)
	s.types("y\n")
	id := s.run()
	s.waitFor(`suggest +\d+ messages +rule: \{`)
	s.waitFor(`\[u\]se these rules, \[t\]ry them, \[e\]dit them, or \[w\]ait\? \[w\] `)
	s.types("t\n")
	s.waitFor(`by these rules \d+ messages stay aside, and \d+ would be sent`)
	s.waitFor(`\[u\]se these rules`)
	s.types("u\n")
	s.waitFor(`send \d+ messages, leave \d+ aside\?`)
	s.types("y\n")
	s.end(0)
	checkSwept(t, h, messages)
	alive(t, h)
	checkLedger(t, h, f, id)
}
