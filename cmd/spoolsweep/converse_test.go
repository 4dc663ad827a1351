package main

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"spoolsweep/spool/practice"
)

// The editor of these tests makes of a proposal what no rules are, of that the rules
// of the demo with a mistyped name behind them, and of these the rules of the demo.
func init() {
	os.Setenv("SPOOLSWEEP_TEST_RULES", demoRules)
	os.Setenv("VISUAL", `edit() {
	if grep -q 'suggest found' "$1"; then printf 'spam:\n  any:\n    - sasl_usr: x\n' >"$1"
	elif grep -q sasl_usr "$1"; then printf '%s\nhams: {raw: x}\n' "$SPOOLSWEEP_TEST_RULES" >"$1"
	else printf '%s' "$SPOOLSWEEP_TEST_RULES" >"$1"; fi
}
edit`)
}

// On a terminal a run that has no rules proposes some, shows what they would do,
// has them edited, and goes on by them.
func TestConversation(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(500)
	s := f.begin(t, true, 0, "run", "backscatter", "-e", "rate=0", "-e", "watch=0")
	s.waitFor(`Do this on 2 of 2`)
	s.types("y")
	s.waitFor(`rule: \{body: ".*shop\.test"\}`)
	s.waitFor(`\[u\]se these rules`)
	s.types("what?")
	s.waitFor(`(?s)\[u\]se these.*\[u\]se these`)
	s.types("t")
	s.waitFor(`by these rules [\d,]+ messages stay aside, and [\d,]+ would be sent`)
	s.types("e")
	path := s.waitFor(`(/\S+/rules\.yaml):3.*sasl_user`)[1]
	// A mistake takes nothing away: the proposal is tried again.
	s.waitFor(`(?s)the rules before that are still there.*\[u\]se these`)
	s.types("t")
	s.waitFor(`(?s)by these rules .*by these rules `)
	s.waitFor(`(?s)(\[u\]se these.*){5}`)
	s.types("e")
	s.waitFor(`hams: a file of rules takes only spam and ham, did you mean "ham"\?`)
	s.waitFor(`(?s)(\[u\]se these.*){6}`)
	s.types("e")
	s.waitFor(`(?s)(by these rules .*){3}`)
	s.waitFor(`(?s)(\[u\]se these.*){7}`)
	s.types("u")
	for range f.hosts {
		s.types("y")
	}
	r := s.end()
	r.want(t, 0, "chavez: send ", "peltier: send ", "2 hosts: 2 ok")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is left behind: %v", path, err)
	}
	f.audit(t, practice.Place.Aside)
	f.spoolsweep("report", "--ledger").want(t, 0, "missing 0")
}

// Who does not like the proposal leaves it, and takes it up again; Ctrl-C leaves the
// question open. What was written is not lost.
func TestConversationLeft(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(500)
	s := f.begin(t, true, 0, "run", "backscatter", "-e", "rate=0", "-e", "watch=0")
	s.waitFor(`Do this on 1 of 1`)
	s.types("y")
	s.waitFor(`\[u\]se these rules`)
	s.types("w")
	r := s.end()
	r.want(t, 3, "waits for rules: mail flows", "next: find rules       spoolsweep suggest --aside ")
	before := f.aside(t)

	s = f.begin(t, true, 0, "resume")
	s.waitFor(`\[u\]se these rules`)
	s.types("e")
	s.waitFor(`(?s)still there.*\[u\]se these`)
	s.types("")
	r = s.end()
	r.want(t, 3, "what you wrote is kept: ")
	_, path, _ := strings.Cut(r.err, "what you wrote is kept: ")
	path, _, _ = strings.Cut(path, "\n")
	if text, err := os.ReadFile(path); err != nil || !strings.Contains(string(text), "sasl_usr") {
		t.Errorf("kept: %q, %v", text, err)
	}

	s = f.begin(t, true, 0, "resume")
	s.waitFor(`\[u\]se these rules`)
	s.interrupt()
	s.end().want(t, statusInterrupted, "the question stays open on chavez: spoolsweep resume ")
	if after := f.aside(t); after != before {
		t.Errorf("aside before %s, after %s", before, after)
	}

	// So it does while rules are looked for; that none were found by then says nothing.
	s = f.begin(t, true, 0, "resume")
	s.waitFor(`looking for rules`)
	s.interrupt()
	r = s.end()
	r.want(t, statusInterrupted, "the question stays open on chavez: spoolsweep resume ")
	if strings.Contains(r.err, "nothing is proposed") {
		t.Errorf("says what it does not know:\n%s", r.err)
	}

	s = f.begin(t, true, 0, "attach")
	s.waitFor(`\[u\]se these rules`)
	s.types("e") // a mistake, and so not what is used
	s.waitFor(`(?s)still there.*\[u\]se these`)
	s.types("u")
	s.waitFor(`send \d+ messages`)
	s.types("y")
	s.end().want(t, 0, "stay aside; if ham is still among them", "what you wrote is kept: ")
	f.audit(t, practice.Place.Aside)
}
