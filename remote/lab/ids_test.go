package lab_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"spoolsweep/remote/lab"
)

// Short and long ids in one queue, which is not hashed, or deeply: all of it comes
// back to where Postfix looks for it.
func TestIDsAndDepths(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		settings []string
		levels   int // of deferred
	}{
		{"not hashed", []string{"hash_queue_names = hold"}, 0},                              // the list must name something
		{"deep", []string{"hash_queue_names = deferred, defer", "hash_queue_depth = 4"}, 4}, // cleanup gives up where several make directories of incoming
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			h := hosts(t, 1)[0]
			f := newFleet(t, []*lab.Host{h}, queueWarn)
			must(t, h.Postconf(t.Context(), row.settings...))
			messages := lab.Flood(account(h), 160, 3)
			must(t, h.Inject(t.Context(), messages[:80]))
			await(t, h, map[string]int{"deferred": 80})
			must(t, h.Postconf(t.Context(), "enable_long_queue_ids = yes"))
			must(t, h.Inject(t.Context(), messages[80:]))
			a := await(t, h, map[string]int{"deferred": 160})
			var long int
			for _, places := range a.Found {
				name, err := filepath.Rel(filepath.Join(h.Spool(), "deferred"), places[0].Path)
				must(t, err)
				if strings.Count(name, "/") != row.levels {
					t.Fatalf("%s is not %d levels deep", name, row.levels)
				}
				if strings.ContainsAny(filepath.Base(name), "z") { // no hexadecimal digit
					long++
				}
			}
			if long != 80 {
				t.Fatalf("%d ids are long, want 80", long)
			}

			succeeds(t, f, "run", "backscatter", "-y", "-e", "rate=0", "-e", rulesFile(t, floodRules(h)))
			a = checkSwept(t, h, messages)
			for _, id := range a.In("deferred") {
				name, err := filepath.Rel(filepath.Join(h.Spool(), "deferred"), a.Found[id][0].Path)
				must(t, err)
				if strings.Count(name, "/") != row.levels {
					t.Errorf("%s is not %d levels deep", name, row.levels)
				}
			}
			fresh := alive(t, h)
			checkDelivered(t, h, append(messages, fresh), slices.Sorted(slices.Values(append(hams(messages), fresh.ID))))
		})
	}
}
