package spool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// clockJumps rewrites a run's journal as if all of it had been written by a clock
// that was so far off, and says how many times it has found.
func (h *host) clockJumps(by time.Duration) (found int) {
	h.t.Helper()
	records, err := ReadJournal(h.state())
	h.must(err)
	if len(records) == 0 {
		return 0
	}
	h.must(os.Remove(filepath.Join(h.state(), journalName)))
	j, _, err := OpenJournal(h.state(), "test")
	h.must(err)
	defer j.Close()
	var shift func(v any)
	shift = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, below := range v {
				shift(below)
			}
		case map[string]any:
			for key, below := range v {
				shift(below)
				if key != "at" && key != "when" {
					continue
				}
				found++
				switch at := below.(type) {
				case json.Number:
					seconds, err := at.Int64()
					h.must(err)
					v[key] = seconds + int64(by/time.Second)
				case string:
					when, err := time.Parse(time.RFC3339, at)
					h.must(err)
					v[key] = when.Add(by)
				}
			}
		}
	}
	for _, r := range records {
		var data any
		d := json.NewDecoder(bytes.NewReader(r.Data))
		d.UseNumber() // an inode may have 64 bits
		h.must(d.Decode(&data))
		shift(data)
		h.must(j.Write(r.Kind, data))
	}
	return found
}

// numbers are what differs between two of the same runs: processes.
var numbers = regexp.MustCompile(`(?s)^(signal|command) .*`)

// TestClockJumps kills a run at some of its steps and lets the clock jump by ten
// years before it is carried on, either way, with mail whose times lie in the past
// and in the future: each step that follows is the one that follows without the
// jump. The boot clock begins anew where the host has, which decides nothing.
func TestClockJumps(t *testing.T) {
	const years = 10 * 365 * 24 * time.Hour
	stride, found := 19, 0
	if *every {
		stride = 1
	}
	for n := 5; !t.Failed(); n += stride {
		reached := false
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var without []string
			for i, by := range []time.Duration{0, years, -years} {
				h := newHost(t, []string{"deferred", "defer"}, 1)
				h.flood(6)
				for k, off := range []time.Duration{-years, years, -time.Hour, time.Hour, 0, 2 * years} {
					q := []Queue{Incoming, Active, Deferred}[k%3]
					when := time.Now().Add(off)
					h.must(os.Chtimes(filepath.Join(h.at(h.home(q, testID(k))), testID(k)), when, when))
				}
				before, names := h.account(), h.names()
				h.p.Stop = []string{"sh", "-c", waitingStop, h.p.QueueDirectory}
				h.start()
				now, at, command := 0, "", false
				step = func(what string) error {
					// What a command that nobody knows of has come to by then is chance.
					if now++; now >= n && !command {
						panic(killed{what})
					}
					command = strings.HasPrefix(what, "command ")
					return nil
				}
				err, died := die(h.carry)
				if !died {
					h.must(err)
					return
				}
				lastCommand(t, h.state())
				reached, at = true, err.Error()
				h.die()
				found += h.clockJumps(by)
				if i > 0 {
					if late, err := Overdue(h.state()); err != nil || late {
						t.Errorf("overdue %t, %v, just after the stop", late, err)
					}
				}
				var steps []string
				step = func(what string) error {
					what = numbers.ReplaceAllString(strings.ReplaceAll(what, h.dir, ""), "$1")
					if len(steps) == 0 || steps[len(steps)-1] != what { // a wait looks again and again
						steps = append(steps, what)
					}
					return nil
				}
				if err := h.carry(); err != nil {
					t.Errorf("%s, the clock jumps by %v; carried on: %v", at, by, err)
				}
				step = func(string) error { return nil }
				h.ended(before, names, true)
				if without == nil {
					without = steps
				} else if d := cmp.Diff(without, steps); d != "" {
					t.Errorf("%s: other steps where the clock jumps by %v (-without +with):\n%s", at, by, d)
				}
			}
		})
		if !reached {
			break
		}
	}
	if found < 50 && !t.Failed() {
		t.Errorf("only %d times were found: does this test still look?", found)
	}
}

// Whether a section is overdue is decided by the clock of the boot: of a stop that
// lies in its future, in truth before the boot, nobody says that it is late now.
func TestOverdueAcrossBoot(t *testing.T) {
	for _, row := range []struct {
		ago  time.Duration
		late bool
	}{{SectionLimit + time.Second, true}, {SectionLimit - 10*time.Second, false}, {-1000 * time.Hour, false}} {
		dir := t.TempDir()
		j, _, err := OpenJournal(dir, "test")
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Write(kindStopping, stopRecord{Master: 1, Boot: boot() - int64(row.ago)}); err != nil {
			t.Fatal(err)
		}
		j.Close()
		if late, err := Overdue(dir); err != nil || late != row.late {
			t.Errorf("stopped %v ago: overdue %t, %v", row.ago, late, err)
		}
		if records, err := ReadJournal(dir); err != nil || !LeftDown(records) || !slices.ContainsFunc(records, func(r Record) bool { return r.Kind == kindStopping }) {
			t.Errorf("stopped %v ago: not known to be down, %v", row.ago, err)
		}
	}
}
