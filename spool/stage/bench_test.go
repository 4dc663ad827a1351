package stage

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool"
	"spoolsweep/spool/pattern"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/suggest"
)

// These benchmarks run whole processes side by side over one flood on disk, and
// print ratios: spoolsweep's classify, what an admin would use in its place, and
// a program that only opens, reads and closes every file.
//
//	go test ./spool/stage -run '^$' -bench . -benchtime 1x -timeout 1h -args -flood 300000
//
// They make the flood in -flood-dir, and keep it there for the next time if that
// was named. 300,000 messages take 1.2 GB, the million of BenchmarkLinear 4 GB.
var (
	floodSize = flag.Int("flood", 20000, "messages of the benchmarks' flood")
	floodDir  = flag.String("flood-dir", "", "folder to make the flood in, and keep it")
	rounds    = flag.Int("rounds", 5, "times that each command is timed")
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
			head, body, _ := strings.Cut(m.Text, "\n\n")
			if plain, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\n", "")); err == nil && strings.Contains(head, "base64") {
				m.Text = head + "\n\n" + practice.Base64(string(plain)+text.String()[:text.Len()*3/4])
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
// arguments; it prints how much memory it had at the most, in KiB.
func benchProcess(args []string) (code int, mine bool) {
	if len(args) < 3 || args[0] != "bench" {
		return 0, false
	}
	err := func() error {
		switch args[1] {
		case "classify":
			return classifyBare(args[2], args[3])
		case "suggest":
			return suggestBare(args[2])
		case "read":
			return readBare(filepath.Join(args[2], "incoming.spamfull"))
		case "ledger":
			r := Record{Dir: args[2], Hands: func() ([]Hand, error) { return nil, nil }}
			sums, err := Ledger(context.Background(), &spool.Postfix{}, r, func(e *Entry) error {
				_, err := json.Marshal(e)
				return err
			}, func(err error) { fmt.Fprintln(os.Stderr, err) })
			if err == nil && (sums.Purged == 0 || sums.Missing > 0) {
				err = fmt.Errorf("sums %+v", sums)
			}
			return err
		}
		return fmt.Errorf("no benchmark %q", args[1])
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	text, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	line, _, _ := strings.Cut(rest, " kB")
	fmt.Println(strings.TrimSpace(line))
	return 0, true
}

func classifyBare(queue, rules string) error {
	h := &Host{Postfix: &spool.Postfix{Settings: spool.Settings{QueueDirectory: queue}}}
	args := &ClassifyArgs{LiveQueues: LiveQueues{[]string{"incoming.spamfull"}}}
	if err := json.Unmarshal([]byte(rules), &args.Spam); err != nil {
		return err
	}
	_, err := classify.Run(context.Background(), h, args, func(string, any) {})
	return err
}

// suggestBare does both steps of suggest, and has one choose.
func suggestBare(queue string) error {
	h := &Host{Postfix: &spool.Postfix{Settings: spool.Settings{QueueDirectory: queue}}}
	live := LiveQueues{[]string{"incoming.spamfull"}}
	look := func(args *SuggestArgs) (*Suggested, error) {
		r, err := suggestRules.Run(context.Background(), h, args, func(string, any) {})
		if err != nil {
			return nil, err
		}
		return r.(*Suggested), nil
	}
	found, err := look(&SuggestArgs{LiveQueues: live})
	if err != nil {
		return err
	}
	atoms, _ := suggest.Merge([][]suggest.Atom{found.Atoms})
	counted, err := look(&SuggestArgs{Spam: suggest.Rules(atoms), Kinds: suggest.KindsOf(atoms), LiveQueues: live})
	if err != nil {
		return err
	}
	var counts []suggest.Count
	for text, n := range counted.Counts {
		mask, err := suggest.ParseMask(text)
		if err != nil {
			return err
		}
		counts = append(counts, suggest.Count{Mask: mask, Messages: n})
	}
	p := suggest.Choose(atoms, counts, suggest.Known{}, counted.Lost)
	if p.Messages != found.Messages || p.Hit > 0 || p.Flood*3/4 != p.Messages*9/16 || p.Caught < p.Flood*99/100 || p.Lost > 0 {
		return fmt.Errorf("%+v", p)
	}
	return nil
}

// readBare opens, reads and closes every file of a flat directory on all cores.
func readBare(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	errs := make([]error, workers())
	var wg sync.WaitGroup
	for w := range errs {
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			for i := w; i < len(names); i += len(errs) {
				fd, err := unix.Openat(int(dir.Fd()), names[i], unix.O_RDONLY, 0)
				if err == nil {
					_, err = unix.Read(fd, buf)
					unix.Close(fd)
				}
				if err != nil {
					errs[w] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// timed is one run of a whole process.
type timed struct {
	wall, cpu time.Duration
	peak      int64 // KiB of memory, of our own
}

func once(b *testing.B, argv ...string) timed {
	b.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out lastBytes
	var complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	began := time.Now()
	err := cmd.Run()
	t := timed{wall: time.Since(began), cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()}
	if err != nil && cmd.ProcessState.ExitCode() != 1 { // 1 of a grep: nothing found
		b.Fatalf("%s: %v: %s", argv[0], err, complaint.String())
	}
	t.peak, _ = strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	return t
}

// lastBytes keeps the last few bytes of what is written to it.
type lastBytes []byte

func (l *lastBytes) Write(p []byte) (int, error) {
	*l = append((*l)[:0], p[max(0, len(p)-20):]...)
	return len(p), nil
}

func self(b *testing.B, args ...string) []string {
	b.Helper()
	file, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	return append([]string{file, "bench"}, args...)
}

func median(all []float64) float64 {
	slices.Sort(all)
	return all[len(all)/2]
}

// BenchmarkSideBySide times each command once a round, so that a machine whose
// speed drifts is as slow for all of them.
func BenchmarkSideBySide(b *testing.B) {
	queue := flood(b, *floodSize)
	grep := []string{needs.Program(b, "rg"), "-c", "-a", "--no-messages"}
	for _, e := range benchExpressions {
		grep = append(grep, "-e", e)
	}
	commands := []struct {
		name string
		argv []string
	}{
		{"rg -c, the same expressions", append(grep, filepath.Join(queue, "incoming.spamfull"))},
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
			for k, t := range times[i] {
				wall, cpu = append(wall, t.wall.Seconds()), append(cpu, t.cpu.Seconds())
				ratio = append(ratio, t.wall.Seconds()/times[0][k].wall.Seconds())
			}
			b.Logf("%-28s %8.0f messages/s, %5.2f of the first's time (%.3f s, %.3f s of cores)", c.name,
				float64(*floodSize)/median(wall), median(ratio), median(wall), median(cpu))
		}
	}
}

// The wiki's loop, as it stands there but that it moves nothing: it prints what
// it would.
const wikiLoop = `cd "$0" && for message in $(ls -U | head -500); do
	if [[ $(strings $message | grep -c -e spam-account@ -e media.php) -eq 0 ]]; then echo $message; fi
done; true`

// BenchmarkWikiLoop times the wiki's loop over 500 messages, and classify with
// the same two expressions over all.
func BenchmarkWikiLoop(b *testing.B) {
	needs.Program(b, "strings")
	queue := flood(b, *floodSize)
	for b.Loop() {
		var ratio []float64
		for range *rounds {
			loop := once(b, needs.Program(b, "bash"), "-c", wikiLoop, filepath.Join(queue, "incoming.spamfull"))
			ours := once(b, self(b, "classify", queue, `{"raw": ["spam-account@", "/media.php/"]}`)...)
			ratio = append(ratio, loop.wall.Seconds()/500/(ours.wall.Seconds()/float64(*floodSize)))
		}
		b.Logf("the wiki's loop takes %.0f times as long for a message", median(ratio))
	}
}

// BenchmarkLinear shows what a message costs in floods of different sizes, and
// how much memory a whole process needs.
func BenchmarkLinear(b *testing.B) {
	for b.Loop() {
		for _, n := range []int{10_000, 100_000, 1_000_000} {
			queue := flood(b, n)
			var each []float64
			var peak int64
			for round := range *rounds + 1 {
				if t := once(b, self(b, "classify", queue, benchRules)...); round > 0 {
					each = append(each, t.wall.Seconds()/float64(n)*1e6)
					peak = max(peak, t.peak)
				}
			}
			b.Logf("%9d messages: %5.2f µs each, at most %d MiB", n, median(each), peak>>10)
		}
	}
}

// BenchmarkSuggest shows how long it takes to find rules for floods of different
// sizes, from nothing to what is proposed, and how much memory a whole process
// needs.
func BenchmarkSuggest(b *testing.B) {
	for b.Loop() {
		for _, n := range []int{*floodSize / 10, *floodSize} {
			queue := flood(b, n)
			var wall, cpu []float64
			var peak int64
			for round := range *rounds + 1 {
				if t := once(b, self(b, "suggest", queue)...); round > 0 {
					wall, cpu = append(wall, t.wall.Seconds()), append(cpu, t.cpu.Seconds())
					peak = max(peak, t.peak)
				}
			}
			b.Logf("%9d messages: %5.2f s, %5.2f s of processor time, at most %d MiB", n, median(wall), median(cpu), peak>>10)
		}
	}
}

// BenchmarkLedger shows what a message costs in the ledger of a run that has sent
// back a tenth of a flood and purged the rest, and how much memory that needs.
func BenchmarkLedger(b *testing.B) {
	for b.Loop() {
		for _, n := range []int{*floodSize / 10, *floodSize} {
			dir := b.TempDir()
			recorded(b, dir, n)
			var each []float64
			var peak int64
			for range *rounds {
				t := once(b, self(b, "ledger", dir)...)
				each = append(each, t.wall.Seconds()/float64(n)*1e6)
				peak = max(peak, t.peak)
			}
			b.Logf("%9d messages: %5.2f µs each, at most %d MiB", n, median(each), peak>>10)
		}
	}
}

// recorded makes the record of such a run.
func recorded(b *testing.B, dir string, n int) {
	b.Helper()
	l, err := newListAs(dir, verdictsName, []string{"sasl_user:spam-account"}, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer l.drop()
	j, _, err := spool.OpenJournal(dir, "bench")
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	sum := make([]byte, 32)
	var moves []map[string]any
	for i := range n {
		m := spool.Mail{Aside: "incoming.spamfull", ID: fmt.Sprintf("%X", 1<<40+i*7), Inode: uint64(100000 + i), Size: 2400, Mtime: 1764025200123456789 + int64(i), Born: 1764025200, Dest: uint32(i)}
		line := judged{Mail: m, Verdict: pattern.Spam, Rules: []int{0}, envelope: envelope{
			Sender: "spam-account@chavez.example.org", To: []string{fmt.Sprintf("somebody%d@far.example.net", i)}, Login: "spam-account"}}
		move := map[string]any{"f": m.Aside, "q": m.ID, "i": m.Inode, "z": m.Size, "h": sum}
		if i%10 == 0 {
			line.Verdict, line.Rules = pattern.Ham, nil
			move = map[string]any{"f": m.Aside, "t": "incoming", "q": m.ID, "i": m.Inode}
		}
		if err := l.add(&line); err != nil {
			b.Fatal(err)
		}
		if moves = append(moves, move); len(moves) == 1000 || i == n-1 {
			if err := j.Write("intent", map[string]any{"token": "x", "at": 1764025200, "moves": moves}); err != nil {
				b.Fatal(err)
			}
			if err := j.Write("outcome", map[string]any{"intent": 2*(i/1000) + 1}); err != nil {
				b.Fatal(err)
			}
			moves = nil
		}
	}
	if _, err := l.commit(); err != nil {
		b.Fatal(err)
	}
}
