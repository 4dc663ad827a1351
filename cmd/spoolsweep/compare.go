package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/run"
)

// compare tells what two runs come to, host by host and in all, the older one first.
func (s *sweep) compare(c *cli.Context, id string, on map[*member]*run.State) error {
	ctx := c.Context
	other := c.String("compare")
	if other == id {
		return errors.New("--compare names the same run: give two")
	}
	found, onOther, err := s.find(ctx, other, nil)
	if err != nil {
		return err
	}
	if found == "" { // not all hosts could be asked
		s.Alert("", "no run %s on the hosts that answered", show.Clean(other))
		return s.end(ctx)
	}
	runs := []string{id, other}
	has := map[string]map[*member]*run.State{id: on, other: onOther}
	if other < id { // they begin with their time
		runs = []string{other, id}
	}
	either := map[*member]*run.State{}
	for _, of := range has {
		for m, state := range of {
			either[m] = state
		}
	}
	empty := func(i int) *show.Figures { return &show.Figures{Run: runs[i], ByRule: map[string]int64{}} }
	all, both := &show.Compared{Older: empty(0), Newer: empty(1)}, 0
	var mu sync.Mutex // guards all and both
	s.eachInOrder(membersOf(s.members, either), func(m *member) (func(), error) {
		told := &show.Compared{}
		for i, to := range []**show.Figures{&told.Older, &told.Newer} {
			if has[runs[i]][m] == nil {
				continue
			}
			story := &show.Story{Host: m.Host}
			if err := s.story(ctx, m, runs[i], story); err != nil {
				return nil, fmt.Errorf("run %s: %w", runs[i], err)
			}
			*to = story.Figures(runs[i], time.Now())
		}
		if told.Older != nil && told.Newer != nil {
			mu.Lock()
			all.Add(told)
			both++
			mu.Unlock()
		}
		var err error
		m.Result, err = json.Marshal(told)
		return func() { s.Compared(m.Host, told) }, err
	})
	if both > 1 {
		s.doc.Summary.Compared = all
		s.Compared(nil, all)
	}
	return s.end(ctx)
}
