package spool_test

import (
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool"
	"spoolsweep/spool/practice"
)

// still makes a practice host that does not run, with n messages in each of
// some queues; the first of each arrived days ago, and is due in an hour.
func still(t testing.TB, n int, queues ...spool.Queue) *practice.Host {
	t.Helper()
	above, err := os.MkdirTemp("", "s") // short: a socket's name is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(above) })
	dir := filepath.Join(above, "chavez")
	if err := practice.Make(dir, "chavez", practice.Options{HashNames: []string{"deferred", "defer"}, HashDepth: 2}); err != nil {
		t.Fatal(err)
	}
	h, err := practice.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var mail []practice.Message
	for i, q := range queues {
		for k := range n {
			m := practice.Message{Queue: q, Sender: "ana@here.test", Recipients: []string{"bob@there.test"}, Text: "Subject: x\n\n" + strings.Repeat("x", 10*k) + "\n"}
			m.Arrived = time.Now().Add(-time.Duration(k) * time.Second)
			if k == 0 {
				m.Arrived, m.Due = time.Now().Add(-time.Duration(i+1)*24*time.Hour), time.Now().Add(time.Hour)
			}
			mail = append(mail, m)
		}
	}
	if _, err := h.SubmitAll(mail); err != nil {
		t.Fatal(err)
	}
	return h
}

// sizes is what stands in a directory tree, by another way than the census's.
func sizes(t *testing.T, dir string) (messages, bytes int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		messages, bytes = messages+1, bytes+info.Size()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return messages, bytes
}

func postfixOf(t testing.TB, h *practice.Host) *spool.Postfix {
	t.Helper()
	p, err := h.Postfix()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A census is exact, and its ages are the messages' own; of what it is not told
// to look at all of, it takes a sample, and says so.
func TestCensus(t *testing.T) {
	h := still(t, 60, spool.Maildrop, spool.Incoming, spool.Deferred)
	if err := os.Rename(h.Spool("incoming"), h.Spool("incoming.spamfull")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"etc/ssl", "incoming", "incoming.name-collisions", ".hidden"} {
		if err := os.MkdirAll(h.Spool(dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"etc/hosts", "etc/ssl/cert.pem", "stray", "incoming/not-an-id"} {
		if err := os.WriteFile(h.Spool(file), []byte("no message"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", h.Spool("etc", "link")); err != nil {
		t.Fatal(err)
	}
	p := postfixOf(t, h)
	names, err := spool.CountAll(p, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	days := map[string]int64{"maildrop": 1, "incoming.spamfull": 2, "deferred": 3}
	for name, row := range map[string]struct {
		exact bool
		above int64
		want  bool // approximate
	}{
		"small":  {false, 60, false},
		"exact":  {true, 10, false},
		"sample": {false, 59, true},
	} {
		t.Run(name, func(t *testing.T) {
			defer spool.SampleAbove(row.above, 40)()
			c, err := spool.Census(p, time.Time{}, row.exact)
			if err != nil {
				t.Fatal(err)
			}
			check := func(dir string, got, byName spool.Count) {
				t.Helper()
				n, bytes := sizes(t, h.Spool(dir))
				if got.Messages != n || got.Messages != byName.Messages || got.Partial || got.Contents == nil {
					t.Fatalf("%s: got %+v, by name %+v, there are %d", dir, got, byName, n)
				}
				if got.Approximate != (row.want && n > 0) {
					t.Errorf("%s: approximate is %t", dir, got.Approximate)
				}
				if row.want {
					if off := float64(got.Bytes) - float64(bytes); off > 0.3*float64(bytes) || off < -0.3*float64(bytes) {
						t.Errorf("%s: about %d bytes, there are %d", dir, got.Bytes, bytes)
					}
					if n > 0 && got.Oldest < 20 {
						t.Errorf("%s: the oldest of a sample is %d s old", dir, got.Oldest)
					}
					return
				}
				if got.Bytes != bytes {
					t.Errorf("%s: %d bytes, there are %d", dir, got.Bytes, bytes)
				}
				if want := days[dir] * 86400; n > 0 && (got.Oldest < want || got.Oldest > want+60) {
					t.Errorf("%s: the oldest is %d s old, want %d", dir, got.Oldest, want)
				}
			}
			for q, n := range names.Queues {
				if q != spool.Incoming { // not-an-id is no message
					check(string(q), c.Queues[q], n)
				}
			}
			if n := c.Queues[spool.Incoming].Messages; n != 0 {
				t.Errorf("incoming: %d messages, of a name that is no queue id", n)
			}
			check("incoming.spamfull", c.SetAside["incoming.spamfull"].Count, names.SetAside["incoming.spamfull"].Count)
			if left, ok := c.SetAside["incoming.name-collisions"]; !ok || left.Messages != 0 || left.Age > 60 {
				t.Errorf("incoming.name-collisions: %+v, %t", left, ok)
			}
			logs, _ := sizes(t, h.Spool("defer"))
			for dir, want := range map[string]int64{"etc": 2, "defer": logs, "pid": 0} {
				if got, ok := c.Directories[dir]; !ok || got != want {
					t.Errorf("directory %s: %d files, %t, want %d", dir, got, ok, want)
				}
			}
			for _, dir := range []string{"incoming", "deferred", "incoming.spamfull", ".hidden", "stray"} {
				if _, ok := c.Directories[dir]; ok {
					t.Errorf("%s is none of the other directories", dir)
				}
			}
		})
	}
	if names.Directories != nil || names.Queues[spool.Deferred].Contents != nil {
		t.Errorf("a count by names has looked further: %+v", names)
	}
}

// Each message is in one bucket of ages, by what it says itself, and in one of
// sizes. Those of a sample stand for all.
func TestBuckets(t *testing.T) {
	h := still(t, 0)
	now := time.Now()
	var mail []practice.Message
	for i, m := range []struct {
		age   time.Duration
		bytes int
	}{
		{time.Minute, 10}, {4 * time.Minute, 9 << 10}, {6 * time.Minute, 11 << 10}, {59 * time.Minute, 90 << 10}, {61 * time.Minute, 101 << 10},
		{23 * time.Hour, 1 << 20}, {25 * time.Hour, 10}, {119 * time.Hour, 10}, {121 * time.Hour, 10}, {9000 * time.Hour, 10},
	} {
		mail = append(mail, practice.Message{Queue: spool.Hold, Sender: "ana@here.test", Recipients: []string{"bob@there.test"}, Arrived: now.Add(-m.age),
			Text: fmt.Sprintf("Subject: %d\n\n", i) + strings.Repeat(strings.Repeat("x", 63)+"\n", m.bytes/64)})
	}
	ids, err := h.SubmitAll(mail)
	if err != nil {
		t.Fatal(err)
	}
	look := func() *spool.Contents {
		t.Helper()
		c, err := spool.Census(postfixOf(t, h), time.Time{}, false)
		if err != nil {
			t.Fatal(err)
		}
		return c.Queues[spool.Hold].Contents
	}
	got := look()
	if want := map[string]int64{"under_5m": 2, "under_1h": 2, "under_1d": 2, "under_5d": 2, "older": 2}; !maps.Equal(got.Ages, want) {
		t.Errorf("ages %v, want %v", got.Ages, want)
	}
	if want := map[string]int64{"under_10k": 6, "under_100k": 2, "under_1M": 1, "larger": 1}; !maps.Equal(got.Sizes, want) {
		t.Errorf("sizes %v, want %v", got.Sizes, want)
	}
	// What is no message says nothing of its age.
	if err := os.WriteFile(h.Spool("hold", ids[0]), []byte("torn"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got = look(); got.Ages["under_5m"] != 1 || got.Sizes["under_10k"] != 6 {
		t.Errorf("one is torn: %+v", got)
	}
	defer spool.SampleAbove(1, 1)()
	for range 5 {
		got = look()
		var sizes, ages int64
		for _, n := range got.Sizes {
			sizes += n
		}
		for _, n := range got.Ages {
			ages += n
		}
		if len(got.Sizes) != 1 || sizes != 10 || len(got.Ages) > 1 || ages != 10 && ages != 0 || !got.Approximate {
			t.Errorf("a sample of one of ten: %+v", got)
		}
	}
}

// A count gives up when the time is up, and says so.
func TestCensusLate(t *testing.T) {
	h := still(t, 20, spool.Deferred) // in subdirectories, between which it looks at the clock
	c, err := spool.Census(postfixOf(t, h), time.Now().Add(-time.Second), false)
	if err != nil {
		t.Fatal(err)
	}
	if n := c.Queues[spool.Deferred]; !n.Partial || n.Messages != 0 || !n.Approximate || !c.Partial {
		t.Errorf("got %+v, %+v", n, n.Contents)
	}
}

// Each message has the same chance to be in a sample.
func TestSampleIsRandom(t *testing.T) {
	const n, tries = 50, 400
	h := still(t, n, spool.Hold)
	if err := os.Remove(firstFile(t, h.Spool("hold"))); err != nil { // one fewer, so that all sizes are different
		t.Fatal(err)
	}
	defer spool.SampleAbove(1, 1)()
	seen := map[int64]int{} // a sample of one tells its size
	for range tries {
		c, err := spool.Census(postfixOf(t, h), time.Time{}, false)
		if err != nil {
			t.Fatal(err)
		}
		seen[c.Queues[spool.Hold].Bytes]++
	}
	if len(seen) < n/2 {
		t.Errorf("%d samples of one had %d different messages of %d", tries, len(seen), n-1)
	}
	for bytes, times := range seen {
		if times > tries/5 {
			t.Errorf("the message of %d bytes was in %d of %d samples", bytes/(n-1), times, tries)
		}
	}
}

func firstFile(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(names) == 0 {
		t.Fatal(dir, "is empty", err)
	}
	return names[0]
}

var names = flag.Int("names", 20000, "messages of the benchmark's queue")

// BenchmarkCount counts a queue, and has find -type f | wc -l count the same tree,
// in turn, so that what else the machine does hits all of them:
//
//	go test ./spool -run '^$' -bench Count -benchtime 1x -args -names 1000000
func BenchmarkCount(b *testing.B) {
	find, wc := needs.Program(b, "find"), needs.Program(b, "wc")
	h := still(b, 0)
	dir := h.Spool("incoming")
	for i := range *names {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%05X%X", i%0xf4240, i+0x100000)), os.O_CREATE|os.O_WRONLY, 0o700)
		if err == nil {
			err = f.Close()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	p := postfixOf(b, h)
	ways := []struct {
		name  string
		count func() (int64, error)
	}{
		{"find -type f | wc -l", func() (int64, error) {
			out, err := exec.Command("/bin/sh", "-c", `"$1" "$2" -type f | "$3" -l`, "sh", find, h.Spool(), wc).Output()
			if err != nil {
				return 0, err
			}
			return strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
		}},
		{"names", func() (int64, error) {
			c, err := spool.CountAll(p, time.Time{})
			return c.Messages, err
		}},
		{"names and a sample", func() (int64, error) {
			c, err := spool.Census(p, time.Time{}, false)
			return c.Messages, err
		}},
	}
	for b.Loop() {
		took := make([][]time.Duration, len(ways))
		for range 5 {
			for i, w := range ways {
				began := time.Now()
				n, err := w.count()
				took[i] = append(took[i], time.Since(began))
				if err != nil || n < int64(*names) || n > int64(*names)+10 {
					b.Fatalf("%s: %d files of %d, %v", w.name, n, *names, err)
				}
			}
		}
		for i, w := range ways {
			b.Logf("%-22s %8v  %.2f times as fast as find", w.name, slices.Min(took[i]).Round(time.Millisecond), slices.Min(took[0]).Seconds()/slices.Min(took[i]).Seconds())
		}
	}
}

// No name that is counted costs an allocation.
func TestCountAllocatesNothing(t *testing.T) {
	h := still(t, 0)
	p := postfixOf(t, h)
	count := func() float64 {
		return testing.AllocsPerRun(5, func() {
			if _, err := spool.CountAll(p, time.Time{}); err != nil {
				t.Fatal(err)
			}
		})
	}
	before := count()
	for i := range 2000 {
		if err := os.WriteFile(h.Spool("incoming", fmt.Sprintf("%05X%X", i, i+0x100000)), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after > before+20 {
		t.Errorf("%v allocations with 2,000 names, %v with none", after, before)
	}
}
