package lab_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os/exec"
	"slices"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/stage"
)

// This benchmark asks a queue that a real Postfix has made the same questions in
// different ways, and prints ratios:
//
//	SPOOLSWEEP_LAB=require go test ./remote/lab -run '^$' -bench Suspects -benchtime 1x -timeout 1h -args -queued 20000
var (
	queuedSize = flag.Int("queued", 20000, "messages of the benchmark's queue")
	rounds     = flag.Int("rounds", 5, "times that each is timed")
)

// Who sends, who is sent to, how much there is. The first is as one would type
// it, the second reads the queue once for all three.
const (
	byPipe = `for what in .sender '.recipients[].address'; do postqueue -j | jq -r "$what" | sort | uniq -c | sort -rn | head; done
postqueue -j | wc -l`
	byProgram = `postqueue -j | jq -s '
def top: group_by(.) | map({key: .[0], value: length}) | sort_by(-.value) | .[:10];
{n: length, senders: map(.sender) | top, recipients: map(.recipients[].address) | top}'`
)

// BenchmarkSuspects times the whole command on the controller, the way to the
// host and the host's mail log included, and the others on the host itself.
func BenchmarkSuspects(b *testing.B) {
	needs.Program(b, "jq")
	h := hosts(b, 1)[0]
	f := newFleet(b, []*lab.Host{h})
	n := *queuedSize
	must(b, h.Inject(b.Context(), lab.Flood(account(h), n, 1)))
	eventually(b, 10*time.Minute, "all in deferred", func() bool { return len(files(b, h, "deferred")) == n })

	// The answers are the same, save that with very many different values a count
	// of ours may be too low by a little (see stage.counter).
	doc, _ := spoolsweepJSON(b, f, "suspects")
	var ours stage.Suspects
	must(b, json.Unmarshal(hostIn(b, doc, h).Result, &ours))
	out, err := h.Run(b.Context(), "sh", "-c", byProgram)
	must(b, err)
	type count struct {
		Key   string
		Value int64
	}
	var theirs struct {
		N                   int64
		Senders, Recipients []count
	}
	must(b, json.Unmarshal([]byte(out), &theirs))
	if ours.Read != theirs.N || theirs.N != int64(n) {
		b.Errorf("%d messages are read, jq has %d, want %d", ours.Read, theirs.N, n)
	}
	for i, of := range [][2]any{{ours.Senders, theirs.Senders}, {ours.Recipients, theirs.Recipients}} {
		var got, want []int64
		for _, v := range of[0].([]stage.Value) {
			got = append(got, v.Count)
		}
		for _, v := range of[1].([]count) {
			want = append(want, v.Value)
		}
		same := func(a, b int64) bool { return a <= b && b <= a+int64(n)/1000 }
		if !slices.EqualFunc(got, want, same) {
			b.Errorf("list %d: %v, jq has %v", i, got, want)
		}
	}

	argv, env := commandLine(b, f, "suspects")
	host := func(script string) *exec.Cmd { return h.Command(b.Context(), "sh", "-c", script) }
	timed(b, []contender{
		{"spoolsweep suspects, over SSH", func() *exec.Cmd {
			cmd := exec.CommandContext(b.Context(), argv[0], argv[1:]...)
			cmd.Env, cmd.Dir = env, b.TempDir()
			return cmd
		}},
		{"postqueue -j | jq group_by", func() *exec.Cmd { return host(byProgram) }},
		{"postqueue -j | jq | sort | uniq -c", func() *exec.Cmd { return host(byPipe) }},
		{"postqueue -j alone", func() *exec.Cmd { return host("postqueue -j >/dev/null") }},
	})
}

// contender is one of several that do the same.
type contender struct {
	name    string
	command func() *exec.Cmd // makes ready what it needs, which is not timed
}

// timed times them in turn, and prints what each takes, and how many times as long as
// the first.
func timed(b *testing.B, all []contender) {
	b.Helper()
	for b.Loop() {
		times := make([][]float64, len(all))
		for round := range *rounds + 1 { // the first warms up
			for i, c := range all {
				cmd := c.command()
				var stdout, stderr bytes.Buffer
				cmd.Stdout, cmd.Stderr = &stdout, &stderr
				began := time.Now()
				if err := cmd.Run(); err != nil {
					b.Fatalf("%s: %v\n%s%s", c.name, err, stdout.String(), stderr.String())
				}
				if round > 0 {
					times[i] = append(times[i], time.Since(began).Seconds())
				}
			}
		}
		for i, c := range all {
			ratio := make([]float64, len(times[i]))
			for k := range ratio {
				ratio[k] = times[i][k] / times[0][k]
			}
			slices.Sort(ratio)
			slices.Sort(times[i])
			b.Logf("%-44s %6.3f s, %5.2f times %s", c.name, times[i][len(times[i])/2], ratio[len(ratio)/2], all[0].name)
		}
	}
}
