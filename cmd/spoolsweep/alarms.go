package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"spoolsweep/cmd/spoolsweep/notify"
	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/stage"
)

var errTooMany = errors.New("too much is still to be sent: this is left out")

// alarm is something that is wrong with a host. It is told when it has been so for
// raise, and that it is over when it has not been so for clear: what swings about a
// limit is told once. These are the times of the alert of that name in
// playbooks/monitoring/alerts.yaml.
type alarm struct {
	alert        string
	says         string
	raise, clear time.Duration
	is           func(c *stage.Counts) bool // nil: the host could not be asked
}

var alarmsTold = []alarm{
	{"PostfixStopped", "Postfix is stopped", 2 * time.Minute, 0, func(c *stage.Counts) bool { return c.Postfix != "running" }},
	{"MailQueueFlooded", "flooded", 2 * time.Minute, 10 * time.Minute, func(c *stage.Counts) bool { return c.Level == stage.LevelFlooded }},
	{"MailHostNotAsked", "cannot be asked", 10 * time.Minute, 0, nil},
	{"MailQueueBusy", "busy", 30 * time.Minute, 15 * time.Minute, func(c *stage.Counts) bool { return c.Level == stage.LevelBusy }},
	{"SpoolsweepRunWaits", "a run waits", time.Hour, 0, func(c *stage.Counts) bool {
		return slices.ContainsFunc(c.Runs, func(w stage.Waiting) bool { return w.Phase == "waiting" })
	}},
}

// alarms are what is wrong with the hosts of a watch, and what of it was told.
type alarms map[alarmOf]*since

type alarmOf struct{ host, alert string }

type since struct {
	began, last time.Time // of the time that it is so, and when it was so last
	told        bool
}

// look takes in one look at a host, nil where it could not be asked, and returns what
// is to be told: what is wrong, and what is over.
func (a alarms) look(host string, c *stage.Counts, now time.Time) (wrong, over []string) {
	for _, one := range alarmsTold {
		is := c == nil
		if one.is != nil {
			if c == nil {
				continue // as it was, for all that is known
			}
			is = one.is(c)
		}
		key := alarmOf{host, one.alert}
		s := a[key]
		switch {
		case is && s == nil:
			s = &since{began: now}
			a[key] = s
		case is && s.began.IsZero():
			s.began = now
		case s == nil:
			continue
		}
		if is {
			s.last = now
			if !s.told && now.Sub(s.began) >= one.raise {
				s.told, wrong = true, append(wrong, one.says)
			}
			continue
		}
		s.began = time.Time{}
		if s.told && now.Sub(s.last) < one.clear {
			continue
		}
		if s.told {
			over = append(over, one.says)
		}
		delete(a, key)
	}
	return wrong, over
}

// brief is what of a count is told, under the names that it has there.
func brief(c *stage.Counts) json.RawMessage {
	b := struct {
		Postfix  string   `json:"postfix"`
		Level    string   `json:"level"`
		Why      []string `json:"why"`
		Messages int64    `json:"messages"`
	}{show.Clean(c.Postfix), show.Clean(c.Level), []string{}, c.Messages}
	for _, why := range c.Why {
		b.Why = append(b.Why, show.Clean(why))
	}
	text, _ := json.Marshal(b) // no value of it can fail
	return text
}

// alarm tells of what crossed a threshold with this look: all hosts in one notice.
func (s *sweep) alarm(ctx context.Context, a alarms) {
	if s.notices == nil || ctx.Err() != nil { // a look that was broken off says nothing
		return
	}
	now := s.notices.now()
	var wrong, over []*show.Host
	said := map[*show.Host]string{}
	for _, m := range s.members {
		c := new(stage.Counts)
		h := m.Brief()
		if m.Error != nil || !decode(m.Result, c) {
			c = nil
		}
		is, was := a.look(m.Label(), c, now)
		if c != nil {
			h.Result = brief(c)
		}
		label := show.Clean(m.Label())
		if len(is) > 0 {
			text := label + ": " + strings.Join(is, ", ")
			switch {
			case m.Error != nil:
				text += " (" + show.Clean(m.Error.Message) + ")"
			case c != nil && len(c.Why) > 0:
				text += " (" + show.Clean(strings.Join(c.Why, ", ")) + ")"
			}
			wrong = append(wrong, h)
			said[h] = text
		}
		if len(was) > 0 {
			again := *h
			over = append(over, &again)
			said[&again] = label + ": no longer: " + strings.Join(was, ", ")
		}
	}
	for _, told := range []struct {
		kind  string
		hosts []*show.Host
	}{{notify.Problem, wrong}, {notify.Resolved, over}} {
		if len(told.hosts) == 0 {
			continue
		}
		d := &show.Document{Command: s.doc.Command, Started: now.UTC(), Hosts: told.hosts}
		var lines []string
		for _, h := range told.hosts {
			lines = append(lines, said[h])
		}
		d.Finish()
		subject := "spoolsweep: " + lines[0]
		if n := len(lines) - 1; n > 0 {
			subject += fmt.Sprintf(", and %d more", n)
		}
		s.notices.tell(ctx, notify.New(told.kind, s.notices.from, subject, lines, d))
	}
}
