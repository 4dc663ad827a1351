package show

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"spoolsweep/spool/stage"
)

// family is one metric with its samples.
type family struct {
	name, unit, help string
	samples          []string
}

// add adds a sample, a number. labels are names and values in turn.
func (f *family) add(value any, labels ...string) {
	var b strings.Builder
	for i := 0; i+1 < len(labels); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		// What a host says is no more than text here either.
		fmt.Fprintf(&b, `%s="%s"`, labels[i], labelEscapes.Replace(Clean(labels[i+1])))
	}
	f.samples = append(f.samples, fmt.Sprintf("%s{%s} %v", f.name, b.String(), value))
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// Metrics are the counts of hosts as OpenMetrics 1.0 has them, which Prometheus
// and node_exporter's textfile collector read; at is when they were counted. A
// host that was not reached has no metric but spoolsweep_host_up.
func Metrics(hosts []*Host, at time.Time) string {
	up := family{name: "spoolsweep_host_up", help: "Whether the host answered."}
	running := family{name: "spoolsweep_postfix_running", help: "Whether Postfix runs."}
	level := family{name: "spoolsweep_level", help: "1 for the level that the host has: ok, busy or flooded."}
	messages := family{name: "spoolsweep_queue_messages", help: "Messages in the queue."}
	size := family{name: "spoolsweep_queue_bytes", unit: "bytes", help: "Size of the queue files; of a long queue an estimate."}
	oldest := family{name: "spoolsweep_queue_oldest_seconds", unit: "seconds", help: "Age of the message that arrived first."}
	aside := family{name: "spoolsweep_aside_messages", help: "Messages in a directory that was set aside, and by which run."}
	asideAge := family{name: "spoolsweep_aside_age_seconds", unit: "seconds", help: "Since the directory was set aside."}
	runs := family{name: "spoolsweep_runs", help: "Runs that are unfinished, or have mail aside, by phase."}
	down := family{name: "spoolsweep_postfix_downtime_seconds", unit: "seconds", help: "How long Postfix was down when a run stopped it last; 0: it was down before."}
	started := family{name: "spoolsweep_postfix_started_time_seconds", unit: "seconds", help: "When it was started after that, since 1970."}
	swept := family{name: "spoolsweep_swept_time_seconds", unit: "seconds", help: "When the host was counted, since 1970."}
	for _, h := range hosts {
		of := []string{"host", h.Host, "postfix", h.Instance}
		with := func(more ...string) []string { return slices.Concat(of, more) }
		var c stage.Counts
		reached := h.Error == nil && len(h.Result) > 0 && json.Unmarshal(h.Result, &c) == nil
		up.add(number(reached), of...)
		if !reached {
			continue
		}
		swept.add(at.Unix(), of...)
		running.add(number(c.Postfix == "running"), of...)
		if d := c.Down; d != nil {
			down.add(d.Seconds, with("run", d.Run)...)
			started.add(d.At.Unix(), with("run", d.Run)...)
		}
		for _, name := range []string{stage.LevelOK, stage.LevelBusy, stage.LevelFlooded} {
			level.add(number(c.Level == name), with("level", name)...)
		}
		for _, q := range slices.Sorted(maps.Keys(c.Queues)) {
			n, labels := c.Queues[q], with("queue", string(q))
			messages.add(n.Messages, labels...)
			if n.Contents != nil {
				size.add(n.Bytes, labels...)
				oldest.add(n.Oldest, labels...)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(c.SetAside)) {
			left := c.SetAside[name]
			aside.add(left.Messages, with("directory", name, "run", left.Run)...)
			asideAge.add(left.Age, with("directory", name, "run", left.Run)...)
		}
		phases := map[string]int64{}
		for _, w := range c.Runs {
			phases[w.Phase]++
		}
		for _, phase := range slices.Sorted(maps.Keys(phases)) {
			runs.add(phases[phase], with("phase", phase)...)
		}
	}
	var b strings.Builder
	for _, f := range []family{up, swept, running, down, started, level, messages, size, oldest, aside, asideAge, runs} {
		fmt.Fprintf(&b, "# TYPE %s gauge\n", f.name)
		if f.unit != "" {
			fmt.Fprintf(&b, "# UNIT %s %s\n", f.name, f.unit)
		}
		fmt.Fprintf(&b, "# HELP %s %s\n", f.name, f.help)
		for _, s := range f.samples {
			b.WriteString(s + "\n")
		}
	}
	b.WriteString("# EOF\n")
	return b.String()
}

func number(is bool) int64 {
	if is {
		return 1
	}
	return 0
}
