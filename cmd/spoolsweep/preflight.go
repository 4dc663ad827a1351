package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote"
	"spoolsweep/spool/run"
)

// skewTolerated is how far a host's clock may be from this one. Ages in rules,
// watch and reports go by the host's clock, and are read by people here.
const skewTolerated = 5 * time.Second

// skew says how far a host's clock is, at least, from the one here; negative where
// it is behind. The host looked at its clock after it was asked and before it had
// answered, so that it is the longest wait alone that hides a difference.
func skew(began, ended, asked, answered time.Time) time.Duration {
	if ahead := ended.Sub(answered); ahead > 0 {
		return ahead
	}
	return min(0, began.Sub(asked))
}

// skewWarning tells of a clock that is wrong, here or there; "" where both agree.
func skewWarning(f *run.Preflight, asked, answered time.Time) string {
	// Only what the clocks say: the monotonic reading is this machine's alone.
	by := skew(f.Began, f.Ended, asked.Round(0), answered.Round(0))
	if f.Began.IsZero() || by.Abs() <= skewTolerated {
		return ""
	}
	where := "ahead of"
	if by < 0 {
		where = "behind"
	}
	return fmt.Sprintf("its clock is %v %s this machine's: ages and times that are told of this host are wrong by that much, until one of the two is set", by.Abs().Round(time.Second), where)
}

// unknownKeys lists the hosts whose key stands in no known_hosts file, with what
// to compare and what to type: once for all of them.
func (s *sweep) unknownKeys() {
	var unknown []*remote.DialError
	for _, m := range s.members {
		var e *remote.DialError
		if errors.As(m.why, &e) && e.Kind == remote.KindUnknownKey && !m.Error.Told {
			unknown = append(unknown, e)
			m.Error.Told = true
		}
	}
	if len(unknown) == 0 {
		return
	}
	if len(unknown) > 1 {
		s.Alert("", "unknown host keys, of %d of %d hosts:", len(unknown), len(s.members))
	}
	var remedies []string
	for _, e := range unknown {
		s.Alert(e.Host, "UNREACHABLE: %s", show.Clean(e.Message()))
		if !slices.Contains(remedies, e.Remedy) {
			remedies = append(remedies, e.Remedy)
		}
	}
	if len(unknown) == 1 {
		s.Alert(unknown[0].Host, "  remedy: %s", show.Clean(unknown[0].Remedy))
		return
	}
	s.Alert("", "  remedy: compare each fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there), then")
	for _, text := range remedies {
		_, scan, ok := strings.Cut(text, ", then ")
		if !ok {
			scan = text
		}
		s.Alert("", "    %s", show.Clean(scan))
	}
}
