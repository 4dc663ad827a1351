package spool

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var flooded = flag.Int("flooded", 20000, "messages of the benchmarks of restore and downtime")

// fill writes so many empty messages into one queue.
func (h *host) fill(q Queue, n int) {
	h.t.Helper()
	for i := range n {
		id := fmt.Sprintf("%05X%X", i*34567%1000000, 0x100000+i)
		path := filepath.Join(h.at(h.home(q, id)), id)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o700)
		if os.IsNotExist(err) {
			h.must(os.MkdirAll(filepath.Dir(path), 0o700))
			f, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o700)
		}
		h.must(err)
		h.must(f.Close())
	}
}

// cpuTime is what this process has used, which tells more where others work too.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkRestore restores a flood at no rate, on tmpfs where there is one:
//
//	go test ./spool -run '^$' -bench Restore -benchtime 1x -args -flooded 300000
func BenchmarkRestore(b *testing.B) {
	for _, row := range []struct {
		name   string
		queue  Queue
		hashed []string
		depth  int
	}{
		{"incoming", Incoming, []string{"deferred", "defer"}, 1},
		{"deferred, hashed", Deferred, []string{"deferred", "defer"}, 1},
	} {
		b.Run(row.name, func(b *testing.B) {
			for range b.N {
				h := newHost(b, row.hashed, row.depth)
				h.fill(row.queue, *flooded)
				h.start()
				w := h.setAside(row.queue)
				list := h.asideMail(w)
				for i := range list {
					list[i].Born, list[i].Dest = int64(i*7919%100000), uint32(i%50)
				}
				busy, began := cpuTime(b), time.Now()
				moved, err := w.Restore(context.Background(), list, Options{Token: "list"}, quiet)
				took := time.Since(began)
				busy = cpuTime(b) - busy
				if err != nil || int(moved.Restored) != *flooded {
					b.Fatalf("%+v, %v", moved, err)
				}
				b.ReportMetric(float64(*flooded)/took.Seconds(), "messages/s")
				b.ReportMetric(float64(*flooded)/busy.Seconds(), "messages/cpu-s")
			}
		})
	}
}

// BenchmarkDowntime compares how long Postfix is down in a section that sets a
// flood aside with its own stop and start, in turn:
//
//	go test ./spool -run '^$' -bench Downtime -benchtime 1x -args -flooded 1000000
func BenchmarkDowntime(b *testing.B) {
	looked, proved := poll, proveStart
	poll, proveStart = 20*time.Millisecond, 100*time.Millisecond // the former as it is outside of tests
	defer func() { poll, proveStart = looked, proved }()
	for _, n := range []int{0, 1000, *flooded} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				h := newHost(b, nil, 0)
				h.p.Stop = []string{"sh", "-c", waitingStop, h.p.QueueDirectory}
				h.fill(Incoming, n)
				h.start()
				var own, section []time.Duration
				for range 7 {
					began := time.Now()
					h.must(command(context.Background(), time.Minute, nil, h.p.Stop...))
					h.must(command(context.Background(), time.Minute, nil, h.p.Start...))
					own = append(own, time.Since(began))
					w := h.open()
					h.must(w.Prepare(crashQueues))
					s, err := w.Stop(context.Background())
					h.must(err)
					_, err = w.SetAside(context.Background(), s)
					h.must(err)
					r, err := w.Start(context.Background(), s)
					h.must(err)
					section = append(section, time.Duration(r.Downtime*float64(time.Second)))
					// The flood is Postfix's again for the next one, which an idle one does not mind.
					for _, q := range append(slices.Clone(crashQueues), Defer) {
						h.must(os.Remove(h.at(string(q))))
						h.must(os.Rename(h.at(string(q)+".spamfull"), h.at(string(q))))
					}
				}
				slices.Sort(own)
				slices.Sort(section)
				b.ReportMetric(float64(own[len(own)/2].Microseconds())/1000, "own-ms")
				b.ReportMetric(float64(section[len(section)/2].Microseconds())/1000, "section-ms")
			}
		})
	}
}
