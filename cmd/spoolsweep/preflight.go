package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
// to compare and what to type: once for all of them. It returns them.
func (s *sweep) unknownKeys() []*member {
	var unknown []*member
	for _, m := range s.members {
		if e := unknownKey(m); e != nil && !m.Error.Told {
			unknown = append(unknown, m)
			m.Error.Told = true
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	if len(unknown) > 1 {
		s.Alert("", "unknown host keys, of %d of %d hosts:", len(unknown), len(s.members))
	}
	var remedies []string
	for _, m := range unknown {
		e := unknownKey(m)
		s.Alert(e.Host, "UNREACHABLE: %s", show.Clean(e.Message()))
		if !slices.Contains(remedies, e.Remedy) {
			remedies = append(remedies, e.Remedy)
		}
	}
	for _, file := range s.fleet.Dialer.KnownHosts {
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			s.Alert("", "  --known-hosts %s: there is no such file yet, so it knows no host", show.Clean(file))
		}
	}
	if len(unknown) == 1 {
		s.Alert(unknown[0].host.Name, "  remedy: %s", show.Clean(remedies[0]))
		return unknown
	}
	s.Alert("", "  remedy: compare each fingerprint with the host's own (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub there), then")
	for _, text := range remedies {
		_, scan, ok := strings.Cut(text, ", then ")
		if !ok {
			scan = text
		}
		s.Alert("", "    %s", show.Clean(scan))
	}
	return unknown
}

// unknownKey is why a host could not be reached, if that is its unknown key.
func unknownKey(m *member) *remote.DialError {
	var e *remote.DialError
	if errors.As(m.why, &e) && e.Kind == remote.KindUnknownKey {
		return e
	}
	return nil
}

// trust asks once about all the keys that were listed. It returns the hosts that
// are to be reached again, and from then on only with the key that was shown.
func (s *sweep) trust(ctx context.Context, unknown []*member) ([]*member, error) {
	// Where there is more to say than that it is unknown, no answer would do.
	unknown = slices.DeleteFunc(slices.Clone(unknown), func(m *member) bool { return unknownKey(m).Err != nil })
	if len(unknown) == 0 {
		return nil, nil
	}
	question := "Are these the hosts' own keys? They are trusted from now on. [y/N] "
	if len(unknown) == 1 {
		question = "Is this the host's own key? It is trusted from now on. [y/N] "
	}
	answer, err := s.ask(ctx, question)
	if err != nil || !strings.HasPrefix(strings.ToLower(answer), "y") {
		return nil, err
	}
	shown := map[string]string{}
	for _, m := range unknown {
		shown[m.host.Name] = unknownKey(m).Fingerprint
	}
	s.fleet.Dialer.AcceptNew = func(e *remote.DialError) bool { return shown[e.Host] != "" && shown[e.Host] == e.Fingerprint }
	for _, m := range unknown {
		m.Status, m.Error, m.why, m.unreached = show.Skipped, nil, nil, nil
	}
	return unknown, nil
}
