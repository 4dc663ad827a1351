package stage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// These benchmarks run whole processes side by side over one flood on disk, and
// print ratios: spoolsweep's classify, what an admin would use in its place, and
// a program that only opens, reads and closes every file.
//
//	go test ./spool/stage -run '^$' -bench 'SideBySide|Linear' -benchtime 1x -timeout 1h -args -flood 300000
//
// The flood is made in -flood-dir (a temporary directory) and kept there for the
// next time if that is named.
var (
	floodSize = flag.Int("flood", 20000, "messages of the benchmarks' flood")
	floodDir  = flag.String("flood-dir", "", "where the flood is made, and kept")
	rounds    = flag.Int("rounds", 5, "how often each pair is timed")
)

// messageSize is the mean size of a queue file of the flood.
const messageSize = 2400

// The ten rules over envelope, headers and decoded text, and the same as
// expressions for grep and ripgrep, which see the bytes alone.
var (
	benchRules = `{"any": [
		{"sasl_user": "spam-account"}, {"all": [{"sender": "<>"}, {"recipient": "spam-account@"}]},
		{"sender": "@.spammers.example"}, {"client": "203.0.113.0/28"},
		{"subject": "quarterly prize draw"}, {"header.X-Mailer": "BulkBlaster 2.0"},
		{"body": "/https?:\\S+\\/media\\.php/"}, {"body": "swiftvalue@yahoo.cn"},
		{"body": "/(?i)wallet\\s+[13][a-km-z1-9]{25,34}/"}, {"body": "unclaimed inheritance"}]}`
	benchEnvelope = `{"any": [
		{"sasl_user": "spam-account"}, {"all": [{"sender": "<>"}, {"recipient": "spam-account@"}]},
		{"sender": "@.spammers.example"}, {"client": "203.0.113.0/28"}]}`
	benchExpressions = []string{
		`sasl_username=spam-account`, `spam-account@`, `spammers\.example`, `203\.0\.113\.`,
		`(?i)subject: .*quarterly prize draw`, `(?i)x-mailer: .*BulkBlaster 2\.0`,
		`https?:\S+/media\.php`, `(?i)swiftvalue@yahoo\.cn`,
		`(?i)wallet\s+[13][a-km-z1-9]{25,34}`, `(?i)unclaimed inheritance`,
	}
)

// flood makes n messages of an incident, messageSize long on the average, in
// queue's set-aside directory of a spool, and returns the queue directory.
func flood(b *testing.B, n int) string {
	b.Helper()
	top := *floodDir
	if top == "" {
		var err error
		if top, err = os.MkdirTemp("", "flood"); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { os.RemoveAll(top) })
	}
	dir := filepath.Join(top, fmt.Sprint("host", n))
	aside := filepath.Join(dir, "spool", "incoming.spamfull")
	if _, err := os.Stat(aside); err == nil {
		return filepath.Dir(aside)
	}
	if err := os.RemoveAll(dir); err != nil {
		b.Fatal(err)
	}
	if err := os.MkdirAll(top, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := practice.Make(dir, "chavez", practice.Options{}); err != nil {
		b.Fatal(err)
	}
	h, err := practice.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	words := strings.Fields("about after again because before between community could different during every example first follow garden great house important letter little meeting members never other people place please question really report school several should something started thank their thought through together under until water where which while world would write years")
	for done := 0; done < n; {
		part := practice.Incident("chavez", "spam-account", min(20000, n-done), uint64(done+1))
		for i := range part {
			m := &part[i]
			m.Queue = spool.Incoming
			var text strings.Builder
			for want := messageSize - 1400 - len(m.Text) + random.IntN(600); text.Len() < want; {
				for range 11 {
					text.WriteString(words[random.IntN(len(words))] + " ")
				}
				text.WriteByte('\n')
			}
			if text.Len() > 0 && strings.Contains(m.Text, "base64") {
				m.Text += practice.Base64(text.String()[:text.Len()*3/4])
			} else {
				m.Text += text.String()
			}
		}
		if _, err := h.SubmitAll(part); err != nil {
			b.Fatal(err)
		}
		done += len(part)
	}
	if err := os.Rename(filepath.Join(dir, "spool", "incoming"), aside); err != nil {
		b.Fatal(err)
	}
	return filepath.Dir(aside)
}

// benchProcess is what a child process of the benchmarks does, told by its
// arguments; it prints the result as JSON.
func benchProcess(args []string) (code int, mine bool) {
	if len(args) < 3 || args[0] != "bench" {
		return 0, false
	}
	h := &Host{Postfix: &spool.Postfix{Settings: spool.Settings{QueueDirectory: args[2]}}}
	var result any
	var err error
	switch args[1] {
	case "classify":
		var rules any
		if err = json.Unmarshal([]byte(args[3]), &rules); err == nil {
			result, err = classify.Run(context.Background(), h, &ClassifyArgs{Spam: rules, Directories: []string{"incoming.spamfull"}}, func(string, any) {})
		}
	case "read":
		result, err = readBare(filepath.Join(args[2], "incoming.spamfull"))
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// readBare opens, reads and closes every file of a flat directory on all cores.
func readBare(dir string) (any, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	const workers = 2
	errs := make(chan error, workers)
	for w := range workers {
		go func() {
			buf := make([]byte, 64<<10)
			for i := w; i < len(names); i += workers {
				fd, err := syscall.Openat(int(f.Fd()), names[i], syscall.O_RDONLY, 0)
				if err == nil {
					_, err = syscall.Read(fd, buf)
					syscall.Close(fd)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			return nil, err
		}
	}
	return map[string]int{"messages": len(names)}, nil
}

// timed is one run of a whole process.
type timed struct {
	wall, cpu time.Duration
	resident  int64 // bytes, at most
}

func once(b *testing.B, argv ...string) timed {
	b.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_, _ = bufio.NewReader(out).WriteTo(discard{})
	err = cmd.Wait()
	t := timed{wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		t.resident = u.Maxrss << 10
	}
	if err != nil && cmd.ProcessState.ExitCode() != 1 { // 1 of a grep: nothing found
		b.Fatalf("%s: %v: %s", argv[0], err, complaint.String())
	}
	return t
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func self(b *testing.B, args ...string) []string {
	b.Helper()
	file, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return append([]string{file, "bench"}, args...)
}

func median[T ~int64 | ~float64](all []T) T {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkSideBySide times each command once a round, so that a machine whose
// speed drifts is as slow for all of them.
func BenchmarkSideBySide(b *testing.B) {
	rg := needs.Program(b, "rg")
	queue := flood(b, *floodSize)
	expressions := []string{rg, "-c", "-a", "--no-messages"}
	for _, e := range benchExpressions {
		expressions = append(expressions, "-e", e)
	}
	commands := []struct {
		name string
		argv []string
	}{
		{"rg -c, the same expressions", append(expressions, filepath.Join(queue, "incoming.spamfull"))},
		{"classify, ten rules", self(b, "classify", queue, benchRules)},
		{"classify, envelope only", self(b, "classify", queue, benchEnvelope)},
		{"open, read, close", self(b, "read", queue)},
	}
	for b.Loop() {
		times := make([][]timed, len(commands))
		for round := range *rounds + 1 { // the first warms up
			for i, c := range commands {
				if t := once(b, c.argv...); round > 0 {
					times[i] = append(times[i], t)
				}
			}
		}
		for i, c := range commands {
			var wall, cpu, ratio []float64
			var resident int64
			for k, t := range times[i] {
				wall, cpu = append(wall, t.wall.Seconds()), append(cpu, t.cpu.Seconds())
				ratio = append(ratio, t.wall.Seconds()/times[0][k].wall.Seconds())
				resident = max(resident, t.resident)
			}
			b.Logf("%-30s %7.3f s wall %7.3f s cpu %8.0f messages/s %6.2f of rg's time %5d MiB", c.name, median(wall), median(cpu),
				float64(*floodSize)/median(wall), median(ratio), resident>>20)
		}
	}
}
