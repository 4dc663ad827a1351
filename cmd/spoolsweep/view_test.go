package main

import (
	"strings"
	"testing"
)

// Where nothing is drawn Enter asks too, and a question takes what was typed before
// it, but for empty lines.
func TestEnterTellsWhoIsBusy(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(500)
	s := f.begin(t, true, 0, f.slowly("-e", "max_stopped=0")...)
	s.waitFor(`Do this on 2 of 2`)
	s.types("y")
	s.waitFor(`send \d+ messages.*\[y/N\] `)
	s.types("y")
	s.types("y")
	for _, h := range f.hosts {
		s.waitFor(h.Name + ` +\| restore +restored `)
	}
	s.types("")
	s.waitFor(`^chavez, peltier: restore +\d+ of \d+`)
	s.interrupt()
	s.types("d")
	r := s.end()
	r.want(t, statusInterrupted, "detached, the run goes on on chavez, peltier")
	if strings.ContainsRune(r.err, 0x1b) {
		t.Errorf("escapes where there is no terminal: %q", r.err)
	}
}
