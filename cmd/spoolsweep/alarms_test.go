package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"spoolsweep/spool/stage"
)

// What swings about a limit is told once, and that it is over once.
func TestAlarms(t *testing.T) {
	t.Parallel()
	ok := &stage.Counts{Level: stage.LevelOK}
	flooded := &stage.Counts{Level: stage.LevelFlooded}
	busy := &stage.Counts{Level: stage.LevelBusy}
	waits := &stage.Counts{Level: stage.LevelOK, Runs: []stage.Waiting{{Phase: "waiting"}}}
	for _, c := range []*stage.Counts{ok, flooded, busy, waits} {
		c.Postfix = "running"
	}
	stopped := &stage.Counts{Level: stage.LevelOK}
	stopped.Postfix = "stopped"
	type part struct {
		c *stage.Counts
		n int // minutes
	}
	saw := func(rounds, up, down int) (all []part) {
		for range rounds {
			all = append(all, part{flooded, up}, part{ok, down})
		}
		return all
	}
	for _, row := range []struct {
		name string
		seen []part
		want string // minute and what is told in it
	}{
		{"all is well", []part{{ok, 60}}, ""},
		{"up, stays, and down", []part{{ok, 5}, {flooded, 60}, {ok, 30}}, "7 flooded; 74 no longer flooded"},
		{"from the first look", []part{{flooded, 60}}, "2 flooded"},
		{"a peak", []part{{ok, 5}, {flooded, 2}, {ok, 60}}, ""},
		{"a saw-tooth of peaks", saw(30, 2, 1), ""},
		{"a saw-tooth that is a flood", append(saw(10, 5, 9), part{ok, 60}), "2 flooded; 140 no longer flooded"},
		{"two floods", saw(2, 5, 30), "2 flooded; 14 no longer flooded; 37 flooded; 49 no longer flooded"},
		{"busy for a while", []part{{busy, 30}, {ok, 60}}, ""},
		{"busy for long", []part{{busy, 40}, {ok, 60}}, "30 busy; 54 no longer busy"},
		{"a flood that wears off", []part{{flooded, 10}, {busy, 60}, {ok, 20}}, "2 flooded; 19 no longer flooded; 40 busy; 84 no longer busy"},
		{"a run stops Postfix", []part{{ok, 5}, {stopped, 1}, {ok, 60}}, ""},
		{"Postfix is stopped", []part{{ok, 5}, {stopped, 10}, {ok, 60}}, "7 Postfix is stopped; 15 no longer Postfix is stopped"},
		{"a host is rebooted", []part{{ok, 5}, {nil, 5}, {ok, 60}}, ""},
		{"a host is away", []part{{ok, 5}, {nil, 60}, {ok, 10}}, "15 cannot be asked; 65 no longer cannot be asked"},
		// Not asked, it is as it was: neither over nor told again.
		{"a flooded host is not asked", []part{{flooded, 5}, {nil, 9}, {flooded, 5}}, "2 flooded"},
		{"a flooded host comes back well", []part{{flooded, 5}, {nil, 9}, {ok, 20}}, "2 flooded; 14 no longer flooded"},
		{"a run waits", []part{{waits, 90}, {ok, 5}}, "60 a run waits; 90 no longer a run waits"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a, now := alarms{}, time.Unix(1_000_000, 0)
			var got []string
			minute := 0
			for _, p := range row.seen {
				for range p.n {
					wrong, over := a.look("chavez", p.c, now.Add(time.Duration(minute)*time.Minute))
					for _, w := range wrong {
						got = append(got, fmt.Sprintf("%d %s", minute, w))
					}
					for _, o := range over {
						got = append(got, fmt.Sprintf("%d no longer %s", minute, o))
					}
					minute++
				}
			}
			if got := strings.Join(got, "; "); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

// Somebody who has both is told by both after the same time.
func TestAlarmsAreTheAlerts(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../playbooks/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert string
				For   time.Duration
				Keep  time.Duration `yaml:"keep_firing_for"`
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.Groups) != 1 {
		t.Fatal(err, file)
	}
	for _, a := range alarmsTold {
		found := false
		for _, r := range file.Groups[0].Rules {
			if r.Alert != a.alert {
				continue
			}
			found = true
			if r.For != a.raise || r.Keep != a.clear {
				t.Errorf("%s: after %v, over after %v; the alert: %v, %v", a.alert, a.raise, a.clear, r.For, r.Keep)
			}
		}
		if !found {
			t.Errorf("there is no alert %s", a.alert)
		}
	}
}
