package run

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"spoolsweep/spool/stage"
)

// systemdRun stands for systemd-run(1) and systemctl(1), since systemd is process
// 1 or not there at all: it records how it is called and does what the units
// would, a scope at once, a timer when the test lets it fire. That the real ones
// take these arguments is from their manual pages (systemd 252) and not shown here.
const systemdRun = `#!/bin/sh
cd '%[1]s' || exit 1
echo "$(basename "$0") $*" >>recorded
[ ! -e refuse ] || { echo "Failed to connect to bus" >&2; exit 1; }
case "$0 $*" in
*systemctl*) for name; do :; done; rm -f "${name%%.timer}.armed"; exit 0 ;;
esac
scope= unit=
while [ "$1" != -- ]; do
	case "$1" in --scope) scope=y ;; --unit=*) unit=${1#--unit=} ;; esac
	shift
done
shift
[ -z "$scope" ] || exec "$@"
touch "$unit.armed"
setsid sh -c 'unit=$1; shift
while [ -e "$unit.armed" ]; do [ ! -e fire ] || exec env -i PATH=/usr/bin:/bin "$@"; sleep 0.05; done' sh "$unit" "$@" >/dev/null 2>&1 </dev/null &
`

// systemd gives the host a stand-in, and returns what reads its record.
func (h *host) systemd() (recorded func() string) {
	h.t.Helper()
	dir := h.file("units")
	if err := os.Mkdir(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	for _, name := range []string{"systemd-run", "systemctl"} {
		if err := os.WriteFile(dir+"/"+name, fmt.Appendf(nil, systemdRun, dir), 0o700); err != nil {
			h.t.Fatal(err)
		}
	}
	return func() string {
		text, err := os.ReadFile(dir + "/recorded")
		if err != nil {
			h.t.Fatal(err)
		}
		return string(text)
	}
}

func (h *host) armed() bool {
	_, err := os.Stat(h.file("units/" + timer(runID) + ".armed"))
	return err == nil
}

// Where systemd runs the worker is in a scope of its own, and a timer is armed
// before the stop and gone after the start.
func TestUnits(t *testing.T) {
	h := newHost(t, flood)
	recorded := h.systemd()
	h.hold("stop")
	h.begin(plan(rules))
	h.awaitHeld("stop")
	if !h.armed() {
		t.Error("no timer is armed in stop")
	}
	h.letGo("stop")
	h.rest(Finished)
	h.swept()
	h.inheritsNothing()
	if h.armed() {
		t.Error("the timer is still armed")
	}
	arm := fmt.Sprintf("systemd-run --quiet --collect --unit=spoolsweep-settle-%[1]s --on-active=90 --timer-property=AccuracySec=1s --description=starts Postfix if run %[1]s of spoolsweep dies -- /usr/bin/env %[2]s settle %[3]s %[1]s\n", runID, h.Executable, h.State())
	disarm := "systemctl --quiet stop spoolsweep-settle-" + runID + ".timer\n"
	want := "systemd-run --scope --quiet --collect -- true\n" +
		fmt.Sprintf("systemd-run --scope --quiet --collect -- %s worker %s %s\n", h.Executable, h.State(), runID) + disarm + arm + disarm
	if got := recorded(); got != want {
		t.Errorf("called:\n%swant:\n%s", got, want)
	}
	f, err := h.Preflight(t.Context(), h.vars, plan(rules))
	if err != nil || !strings.Contains(strings.Join(f.Notes, "\n"), "a timer of systemd") && len(f.Aside) > 0 {
		t.Errorf("notes: %q, %v", f.Notes, err)
	}
}

// A systemd that refuses is no reason not to help: it is told.
func TestUnitsRefuse(t *testing.T) {
	h := newHost(t, flood)
	h.systemd()
	if err := os.WriteFile(h.file("units/refuse"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.begin(plan(rules))
	h.rest(Finished)
	h.swept()
	if !h.told(evWarn, "no timer guards") || !h.told(evWarn, "Failed to connect to bus") {
		t.Error("it is not told that there is no timer")
	}
}

// Worker and section both die, or the section hangs when the worker is dead: the
// timer starts Postfix, with the queues set aside, and resume does the rest.
func TestTimer(t *testing.T) {
	for _, tt := range []struct {
		name, held string
		hangs      bool
	}{{"in stop", "stop", false}, {"in start", "start", false}, {"the section hangs", "stop", true}} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t, flood)
			h.systemd()
			h.hold(tt.held)
			h.begin(plan(rules))
			h.awaitHeld(tt.held)
			// While one of the two lives the timer only waits.
			if err := os.WriteFile(h.file("units/fire"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			h.await("the timer's process", func() bool { return len(h.processes("settle")) == 1 })
			h.kill("worker")
			if s := h.state(); s.Phase != Working || !s.Down {
				t.Errorf("phase %s, down %t", s.Phase, s.Down)
			}
			if len(h.processes("settle")) != 1 {
				t.Error("the timer's process does not wait")
			}
			if tt.hangs { // not before section_limit
				section := h.processes("section")[0]
				if err := syscall.Kill(section, syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				h.journal("stopping", map[string]int{"boot": 1}) // as if that were long ago
			} else {
				h.kill("section")
			}
			h.letGo(tt.held)
			h.await("Postfix", func() bool { _, running := h.Running(); return running && !h.state().Down })
			h.await("the end of the timer's process", func() bool { return len(h.processes("settle")) == 0 })
			s := h.rest(Broken)
			if s.Next != 4 {
				t.Errorf("next %d, want 4", s.Next)
			}
			h.allAside()
			h.inheritsNothing()
			if aside := result[stage.Aside](h, "set-aside"); len(aside.Queues) == 0 {
				t.Error("set-aside has no result")
			}
			h.resume(nil)
			h.rest(Finished)
			h.swept()
			h.noFresh()
		})
	}
}
