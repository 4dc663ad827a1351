package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"spoolsweep/remote/sshtest"
	"spoolsweep/remote/wire"
)

// lie is what a hostile host does once it is spoken to.
type lie struct {
	name string
	says string // in the host's error
	fake sshtest.Fake
}

var hashInLine = regexp.MustCompile(`[0-9a-f]{64}`)

// greets is a fake that greets as the right agent, and then is given each frame.
func greets(then func(f wire.Frame, w *wire.Writer, out io.Writer)) sshtest.Fake {
	return func(line string, in io.Reader, out io.Writer) int {
		_ = wire.WriteGreeting(out, wire.Greeting{Build: "test", Sum: hashInLine.FindString(line)})
		r, w := wire.NewReader(in), wire.NewWriter(out)
		for {
			f, err := r.Read()
			if err != nil {
				return 0
			}
			if f.Kind != wire.Pulse {
				then(f, w, out)
			}
		}
	}
}

// endless writes until nobody reads any more.
func endless(out io.Writer, chunk string) {
	for range 1 << 20 { // a terabyte
		if _, err := io.WriteString(out, chunk); err != nil {
			return
		}
	}
}

// raw is a fake that prints and does not greet.
func raw(print func(line string, out io.Writer)) sshtest.Fake {
	return func(line string, _ io.Reader, out io.Writer) int {
		print(line, out)
		return 0
	}
}

func answers(text string) sshtest.Fake {
	return greets(func(f wire.Frame, w *wire.Writer, _ io.Writer) {
		_ = w.Write(wire.Frame{Kind: wire.Reply, ID: f.ID, Data: json.RawMessage(text)})
	})
}

// flood sends events without end, each under the number of the call.
func flood(e wire.Event) sshtest.Fake {
	return greets(func(f wire.Frame, w *wire.Writer, _ io.Writer) {
		for e.Seq = 1; ; e.Seq++ {
			if w.Write(wire.Frame{Kind: wire.News, ID: f.ID, Event: &e}) != nil {
				return
			}
		}
	})
}

const aMegabyte = 1 << 20

// Hosts that lie, flood and fall silent, each in its own way, beside honest ones
// in one command: each gets an error with what to do, the honest ones their
// answer, and the controller stays small.
func TestHostileHosts(t *testing.T) { // alone, since it measures memory
	long := strings.Repeat("x", 64<<10)
	hash := func(line string) string { return hashInLine.FindString(line) }
	lies := []lie{
		{"frame-too-long", "frame longer than", greets(func(_ wire.Frame, _ *wire.Writer, out io.Writer) {
			_, _ = io.WriteString(out, `{"kind":"reply","data":"`+strings.Repeat("x", 2*aMegabyte)+"\"}\n")
		})},
		{"endless-line", "frame longer than", greets(func(_ wire.Frame, _ *wire.Writer, out io.Writer) { endless(out, long) })},
		{"endless-noise", "no greeting", raw(func(_ string, out io.Writer) { endless(out, long) })},
		{"endless-lines", "no greeting", raw(func(_ string, out io.Writer) { endless(out, "welcome\n") })},
		{"invalid-json", "cannot be read", greets(func(_ wire.Frame, _ *wire.Writer, out io.Writer) { _, _ = io.WriteString(out, "{\"kind\":\n") })},
		{"no-json", "cannot be read", greets(func(_ wire.Frame, _ *wire.Writer, out io.Writer) { _, _ = io.WriteString(out, "hello\n") })},
		{"other-protocol", `speaks "spoolsweep/9"`, raw(func(line string, out io.Writer) { fmt.Fprintf(out, "spoolsweep/9 test %s\n", hash(line)) })},
		{"other-file", "none of ours", raw(func(_ string, out io.Writer) { fmt.Fprintf(out, "%s test %064d\n", wire.Protocol, 0) })},
		{"wrong-type", "the agent's answer to", answers(`"text"`)},
		{"number-too-big", "the agent's answer to", answers(`{"messages":1e400,"queues":{"hold":{"messages":99999999999999999999}}}`)},
		{"events", "more than any run has to tell", flood(wire.Event{Kind: wire.Result, Stage: "count", Data: json.RawMessage(`{}`)})},
		{"large-events", "more than any run has to tell", flood(wire.Event{Kind: wire.Warn, Stage: "count", Data: json.RawMessage(`{"message":"` + strings.Repeat("y", aMegabyte/2) + `"}`)})},
		{"silence", "link lost", greets(func(wire.Frame, *wire.Writer, io.Writer) {})},
		{"end", "link lost", greets(func(_ wire.Frame, _ *wire.Writer, out io.Writer) { out.(io.Closer).Close() })},
	}
	names := []string{"chavez", "peltier"}
	for _, l := range lies {
		names = append(names, l.name)
	}
	f := fleetOf(t, flooded, names...)
	for i, l := range lies {
		f.servers[i+2].Lie(l.fake)
	}
	peak := watchMemory(t)
	began := time.Now()
	r := f.spoolsweep("health", "-o", "json", "-T", "5s", "--reconnect", "1s")
	doc := r.document(t)
	if took := time.Since(began); took > 3*time.Minute {
		t.Errorf("took %v", took)
	}
	if used := peak(); used > 128*aMegabyte {
		t.Errorf("%d MiB were used", used/aMegabyte)
	} else {
		t.Logf("%d MiB were used, of which some by the hosts", used/aMegabyte)
	}
	for _, h := range doc.Hosts {
		if h.Host == "chavez" || h.Host == "peltier" {
			if h.Status != "ok" || len(h.Result) == 0 {
				t.Errorf("%s: %s, %+v", h.Host, h.Status, h.Error)
			}
			continue
		}
		for _, l := range lies {
			if l.name != h.Host {
				continue
			}
			switch {
			case h.Error == nil:
				t.Errorf("%s: no error, %s", h.Host, h.Result)
			case !strings.Contains(h.Error.Message, l.says) || !strings.Contains(h.Error.Message, h.Host) || h.Error.Remedy == "" || len(h.Error.Message) > 4096:
				t.Errorf("%s: %.300s; remedy %q; want %q", h.Host, h.Error.Message, h.Error.Remedy, l.says)
			}
		}
	}
}

// watchMemory returns what says how far the heap has grown at most since then.
func watchMemory(t *testing.T) (peak func() uint64) {
	t.Helper()
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var most atomic.Uint64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			runtime.ReadMemStats(&now)
			most.Store(max(most.Load(), now.HeapAlloc))
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() uint64 {
		close(stop)
		<-stopped
		return most.Load() - min(most.Load(), before.HeapAlloc)
	}
}

// A number below nothing would hide, in the sum that is typed, what others have.
func TestNegativeCounts(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(200)
	run := runID.FindString(f.spoolsweep("run", "backscatter", "-y").err)
	f.servers[1].Lie(greets(func(fr wire.Frame, w *wire.Writer, _ io.Writer) {
		text := `{}`
		switch fr.Name {
		case "instances":
			text = `[{"name":"-"}]`
		case "runs":
			text = `[{"run":"` + run + `","phase":"waiting","aside":5,"ask":{"number":1,"index":5,"kind":"confirm","data":{"ham":-40,"spam":1,"list":"x"}}}]`
		case "preview":
			text = `{"going":-40,"all":5}`
		case "report":
			text = `{"info":{"run":"` + run + `"},"state":{"run":"` + run + `","phase":"waiting","aside":5}}`
		case "ledger":
			text = `{"set_aside":5,"left":45,"restored":-40}`
		}
		_ = w.Write(wire.Frame{Kind: wire.Reply, ID: fr.ID, Data: json.RawMessage(text)})
	}))
	before := f.aside(t)
	f.spoolsweep("resume", run, "-y", "--expect", "0").want(t, statusUsage, "peltier counts less than no message")
	r := f.spoolsweep("putback", run, "-y", "--expect", "0")
	n := regexp.MustCompile(`chavez +\| would go: (\d+) of`).FindStringSubmatch(r.err)
	if n == nil {
		t.Fatalf("no number: %s", r.err)
	}
	r.want(t, statusUsage, "--expect 0: "+n[1]+" messages would go: nothing was done")
	f.spoolsweep("report", run, "-o", "html", "-l", "peltier").want(t, 2, "peltier counts less than no message", "The run waits on peltier")
	if after := f.aside(t); after != before {
		t.Errorf("aside before %s, after %s", before, after)
	}
}

// Numbers that no host has would make of the sum, which is typed, whatever number a
// host likes, and of the room that is needed here less than none.
func TestCountsThatNoHostHas(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(200)
	run := runID.FindString(f.spoolsweep("run", "backscatter", "-y").err)
	f.servers[1].Lie(greets(func(fr wire.Frame, w *wire.Writer, _ io.Writer) {
		const many = "4611686018427387904" // twice that is less than nothing
		text := `{}`
		switch fr.Name {
		case "instances":
			text = `[{"name":"-"}]`
		case "runs":
			text = `[{"run":"` + run + `","phase":"waiting","aside":5,"ask":{"number":1,"index":5,"kind":"confirm","data":{"ham":` + many + `,"spam":1,"list":"x"}}}]`
		case "preview":
			text = `{"going":` + many + `,"all":` + many + `}`
		case "removal":
			text = `{"matched":1,"bytes":` + many + `}`
		case "look":
			text = `{"matched":1,"bytes":` + many + `}`
		}
		_ = w.Write(wire.Frame{Kind: wire.Reply, ID: fr.ID, Data: json.RawMessage(text)})
	}))
	const says = "peltier counts less than no message, or more than any host has"
	dir := filepath.Join(t.TempDir(), "to")
	f.spoolsweep("resume", run, "-y", "--expect", "0").want(t, statusUsage, says)
	f.spoolsweep("putback", run, "-y", "--expect", "0").want(t, statusUsage, says)
	f.spoolsweep("export", "--all", "--queue", "deferred", "--format", "queue", "--to", dir, "-l", "peltier").want(t, 2, says)
	f.spoolsweep("export", "--remove", "--all", "--to", dir, "-l", "peltier", "-y", "--expect", "1").want(t, 2, says)
	if _, err := os.Lstat(dir); err == nil {
		t.Error("it was begun")
	}
	if err := roomFor(dir, formQueue, 1, math.MaxInt64/2); err == nil {
		t.Error("there is room for half of all numbers")
	}
}
