package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"spoolsweep/spool"
)

// AdoptArgs are the arguments of adopt.
type AdoptArgs struct {
	Directories []string `json:"directories" doc:"names below the queue directory, such as incoming.spamfull"`
}

// Check refuses what is no directory that was set aside.
func (a *AdoptArgs) Check() error {
	if len(a.Directories) == 0 {
		return errors.New("directories: none is named")
	}
	had := map[spool.Queue]bool{}
	for _, name := range a.Directories {
		queue, err := spool.ParseAside(name)
		switch {
		case err != nil:
			return fmt.Errorf("directories: %w", err)
		case had[queue]:
			return fmt.Errorf("directories: two of %s: take them on one after the other", queue)
		}
		had[queue] = true
	}
	return nil
}

var adopt = Row{
	Name: "adopt", Doc: "take on directories that somebody has set aside by hand; nothing moves", Changes: true,
	New: func() Args { return &AdoptArgs{Directories: []string{"incoming.spamfull"}} }, Result: func() Result { return &Aside{} },
	Run: func(_ context.Context, h *Host, a Args, _ Emit) (Result, error) {
		names := slices.Clone(a.(*AdoptArgs).Directories)
		// The logs of deferred go with it, where they were set aside too.
		for _, name := range a.(*AdoptArgs).Directories {
			logs := "defer" + strings.TrimPrefix(name, string(spool.Deferred))
			if logs == "defer"+name || slices.Contains(names, logs) {
				continue
			}
			there, err := h.Work.HasAside(logs)
			if err != nil {
				return nil, fmt.Errorf("adopt: %w", err)
			}
			if there {
				names = append(names, logs)
			}
		}
		var others []Record
		if h.Records != nil {
			var err error
			if others, err = h.Records(); err != nil {
				return nil, fmt.Errorf("adopt: %w", err)
			}
		}
		for _, r := range others {
			if errors.Is(r.Unread, spool.ErrNewer) {
				return nil, spool.Remedied(fmt.Errorf("adopt %s: it may be of run %s, which %w", names[0], r.Run, spool.ErrNewer), "bring spoolsweep on this machine up to that version, and putback "+r.Run)
			}
			for _, set := range r.Sets {
				if r.Run != h.Run && slices.Contains(names, set.Aside) {
					return nil, fmt.Errorf("adopt %s: it is what run %s has set aside: 'spoolsweep putback %s'", set.Aside, r.Run, r.Run)
				}
			}
		}
		var sets []spool.Set
		for _, name := range names {
			set, err := h.Work.Adopt(name)
			if err != nil {
				return nil, fmt.Errorf("adopt %s: %w", name, err)
			}
			sets = append(sets, set)
		}
		r := NewAside(sets)
		return r, r.Count(h.Postfix)
	},
}
