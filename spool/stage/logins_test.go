package stage

import (
	"bufio"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool"
)

// BenchmarkLog reads a mail log as suspects does, and as an admin would with
// zgrep, sort and uniq, turn about, and prints how many times faster it is:
//
//	go test ./spool/stage -run '^$' -bench Log -benchtime 1x -timeout 1h -args -log 1024
var logSize = flag.Int("log", 64, "MB of the benchmarks' mail log")

// writeLog writes a log of so many bytes: of each ten messages four come with a
// login, half of those with one, and five are tried three times.
func writeLog(w io.Writer, size int) error {
	r := rand.New(rand.NewPCG(1, 2))
	at := time.Now().Add(-20 * time.Hour)
	for n := 0; size > 0; n++ {
		if n%20 == 0 {
			at = at.Add(time.Second)
		}
		head := func(service string) string {
			return fmt.Sprintf("%s mx1 postfix/%s[%d]: ", at.Format(time.Stamp), service, 1000+r.IntN(9000))
		}
		id, peer := fmt.Sprintf("%010X", n), fmt.Sprintf("dyn-%d.isp.test[203.0.113.%d]", r.IntN(1e6), r.IntN(250))
		text := head("smtpd") + "connect from " + peer + "\n" + head("smtpd") + id + ": client=" + peer
		sender := fmt.Sprintf("user%d@members.test", r.IntN(5000))
		switch k := r.IntN(10); {
		case k < 2:
			sender = "spam-account@chavez.test"
			text += ", sasl_method=PLAIN, sasl_username=spam-account"
		case k < 4:
			text += fmt.Sprintf(", sasl_method=LOGIN, sasl_username=user%d", r.IntN(3000))
		}
		text += "\n" + head("cleanup") + id + fmt.Sprintf(": message-id=<%x.%x@mailer.test>\n", r.Uint64(), r.Uint64())
		tries := 1
		if r.IntN(2) == 0 {
			tries = 3
		}
		for range tries {
			text += head("qmgr") + id + fmt.Sprintf(": from=<%s>, size=%d, nrcpt=1 (queue active)\n", sender, r.IntN(90000))
			text += head("smtp") + id + fmt.Sprintf(": to=<u%d@far%d.test>, relay=mx.far.test[198.51.100.7]:25, delay=%d, delays=0.1/0/1/2, dsn=4.4.1, status=deferred (host mx.far.test[198.51.100.7] said: 450 4.2.0 try again later (in reply to RCPT TO command))\n", r.IntN(1e6), r.IntN(900), r.IntN(9999))
		}
		text += head("smtpd") + "disconnect from " + peer + " ehlo=1 auth=1 mail=1 rcpt=1 data=1 quit=1 commands=6\n"
		if r.IntN(4) == 0 {
			text += head("smtpd") + "warning: " + peer + fmt.Sprintf(": SASL LOGIN authentication failed: UGFzc3dvcmQ6, sasl_username=user%d\n", r.IntN(3000))
		}
		size -= len(text)
		if _, err := io.WriteString(w, text); err != nil {
			return err
		}
	}
	return nil
}

// cpuTime is what this process, or those that it has waited for, have used.
func cpuTime(b *testing.B, who int) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkLog(b *testing.B) {
	for _, name := range []string{"mail.log", "mail.log.1.gz"} {
		b.Run(filepath.Ext(name)[1:], func(b *testing.B) {
			dir := b.TempDir()
			log := filepath.Join(dir, name)
			f, err := os.Create(log)
			if err != nil {
				b.Fatal(err)
			}
			buffered := bufio.NewWriterSize(f, 1<<20)
			var w io.Writer = buffered
			z := gzip.NewWriter(buffered)
			if filepath.Ext(name) == ".gz" {
				w = z
			}
			if err := writeLog(w, *logSize<<20); err != nil {
				b.Fatal(err)
			}
			if w == z {
				err = z.Close()
			}
			if err != nil || buffered.Flush() != nil || f.Close() != nil {
				b.Fatal(err)
			}
			h := &Host{Postfix: &spool.Postfix{}, Vars: Vars{MailLog: filepath.Join(dir, "mail.log")}}
			needs.Program(b, "zgrep")
			var ours, theirs, oursCPU, theirsCPU time.Duration
			for b.Loop() {
				for range *rounds {
					began, cpu := time.Now(), cpuTime(b, unix.RUSAGE_SELF)
					s := newSubmissions()
					if err := h.readLog(b.Context(), time.Now().Add(-24*time.Hour), submissionKinds, s.add); err != nil {
						b.Fatal(err)
					}
					if top := s.top(1); len(top) == 0 || top[0].User != "spam-account" {
						b.Fatalf("sent most: %+v", top)
					}
					ours += time.Since(began)
					oursCPU += cpuTime(b, unix.RUSAGE_SELF) - cpu
					began, cpu = time.Now(), cpuTime(b, unix.RUSAGE_CHILDREN)
					cmd := exec.Command("sh", "-c", `zgrep -h 'client=.*sasl_username=' "$1" | sed 's/.*sasl_username=//' | sort | uniq -c | sort -rn`, "sh", log)
					cmd.Env = append(os.Environ(), "LC_ALL=C")
					if out, err := cmd.CombinedOutput(); err != nil || len(out) == 0 {
						b.Fatalf("zgrep: %v: %s", err, out)
					}
					theirs += time.Since(began)
					theirsCPU += cpuTime(b, unix.RUSAGE_CHILDREN) - cpu
				}
			}
			n := float64(b.N * *rounds)
			b.ReportMetric(float64(*logSize)*n/ours.Seconds(), "MB/s")
			b.ReportMetric(float64(*logSize)*n/theirs.Seconds(), "zgrep-MB/s")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "times-faster")
			b.ReportMetric(theirsCPU.Seconds()/oursCPU.Seconds(), "times-less-CPU")
		})
	}
}
