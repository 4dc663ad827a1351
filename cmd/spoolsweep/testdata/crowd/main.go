// Crowd is many SSH servers, each with a host key of its own, whose agents are made
// of this one process: so many real ones would measure the machine, and not their
// controller. It is a program, so that tests of that need not share its memory, nor
// be slowed by the race detector in it.
//
//	crowd -n 1000 DIR
//
// writes to DIR what an admin has to reach them (hosts.yaml, known_hosts, key, and
// agent, which nobody runs), says so, and serves until its input ends.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"spoolsweep/remote/sshtest"
	"spoolsweep/remote/wire"
	"spoolsweep/spool"
	"spoolsweep/spool/run"
)

var (
	hosts  = flag.Int("n", 1000, "how many hosts")
	events = flag.Int("events", 0, "events of the run that each works on")
	every  = flag.Duration("every", 100*time.Millisecond, "there comes one")
	slow   = flag.Duration("slow", 0, "an agent ends that much later than its input")
	stands = flag.Bool("stands", false, "instead each stands somewhere in the run, from noon on, and stays there")
	says   = flag.String("says", "nothing of note", "what the first one warns of, that stands somewhere")
	story  = flag.Bool("story", false, "the first one tells how it came there instead, and the fourth works, too")
)

// theRun is the one that all hosts work on.
const theRun = "20261128T120000Z-ab12"

func main() {
	log.SetFlags(0)
	flag.Parse()
	if err := serve(flag.Arg(0)); err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // its end is the end of all
}

func serve(dir string) error {
	key, err := sshtest.WriteKey(filepath.Join(dir, "key"))
	if err != nil {
		return err
	}
	var inventory, known strings.Builder
	inventory.WriteString("all:\n  hosts:\n")
	for i := range *hosts {
		s, err := sshtest.Start(sshtest.Config{ClientKeys: []ssh.PublicKey{key}, Home: dir})
		if err != nil {
			return err
		}
		s.Lie(func(line string, in io.Reader, out io.Writer) int { return agent(i+1, line, in, out) })
		fmt.Fprintf(&inventory, "    mx%04d: {ansible_port: %d}\n", i+1, s.Addr().Port)
		known.WriteString(s.KnownHostsLine())
	}
	fmt.Fprintf(&inventory, "  vars: {ansible_host: 127.0.0.1, ansible_user: practice, ansible_ssh_private_key_file: %s}\n", filepath.Join(dir, "key"))
	head := make([]byte, 64) // of a Linux program for amd64
	copy(head, "\x7fELF\x02\x01\x01")
	head[16], head[18], head[20] = 2, 62, 1
	for name, text := range map[string]string{"hosts.yaml": inventory.String(), "known_hosts": known.String(), "agent": string(head)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

var agentSum = regexp.MustCompile(`=([0-9a-f]{64})`)

// agent greets as the one that is looked for, and answers what ping and attach ask.
func agent(number int, line string, in io.Reader, out io.Writer) int {
	if err := wire.WriteGreeting(out, wire.Greeting{Build: "crowd", Sum: agentSum.FindStringSubmatch(line)[1]}); err != nil {
		return 1
	}
	r, w := wire.NewReader(in), wire.NewWriter(out)
	for {
		f, err := r.Read()
		if err != nil {
			time.Sleep(*slow)
			return 0
		}
		kind, reply := wire.Reply, any(nil)
		switch f.Kind + f.Name {
		case "callinstances":
			reply = []spool.Instance{{Name: spool.DefaultInstance}}
		case "callidentify":
			reply = &run.Preflight{Hostname: "one of many"}
		case "callruns":
			reply = []*run.State{{Run: theRun, Phase: run.Working}}
		case "tail":
			if *stands {
				err = stand(w, f.ID, number)
			} else {
				err = tell(w, f.ID)
			}
			if err != nil {
				return 1
			}
			kind, reply = wire.Rest, &run.State{Run: theRun, Phase: run.Finished}
		default:
			continue
		}
		text, err := json.Marshal(reply)
		if err == nil {
			err = w.Write(wire.Frame{Kind: kind, ID: f.ID, Data: text})
		}
		if err != nil {
			return 1
		}
	}
}

// stand sends what has led to where the host of this number stands, the same each
// time: the first restores, the second is stopped, the third waits for its turn. It
// comes back for one whose run has ended.
func stand(w *wire.Writer, id, number int) error {
	noon := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	seq := int64(0)
	var last *wire.Event
	var failed error
	send := func(seconds int, stage, kind, data string) {
		seq++
		last = &wire.Event{Run: theRun, Instance: spool.DefaultInstance, Seq: seq, Time: noon.Add(time.Duration(seconds) * time.Second), Stage: stage, Kind: kind, Data: json.RawMessage(data)}
		if stage == "" {
			last.Index = -1
		}
		if failed == nil {
			failed = w.Write(wire.Frame{Kind: wire.News, ID: id, Event: last})
		}
	}
	counted := func(stage string, each int, data string) {
		send(10, stage, wire.Begin, "null")
		for i := 1; i <= 5; i++ {
			send(10+i, stage, wire.Progress, fmt.Sprintf(data, i*each))
		}
	}
	if *story && number == 1 {
		for _, told := range [][2]string{
			{"stop", `{"seconds":0.09,"ended_pids":[],"may_double":[],"was_running":true}`},
			{"start", `{"downtime_seconds":0.51,"proved_seconds":2,"accepting":true}`},
			{"set-aside", `{"queues":{"incoming":{"messages":2410,"to":"incoming.spamfull"},"active":{"messages":10000,"to":"active.spamfull"}}}`},
			{"classify", `{"messages":12410,"spam":9410,"ham":3000}`},
		} {
			send(8, told[0], wire.Result, told[1])
		}
	} else if number == 1 {
		text, err := json.Marshal(map[string]string{"message": *says})
		if err != nil {
			return err
		}
		for i := range 12 { // so that the screen is full
			send(8, "watch", wire.Warn, fmt.Sprintf(`{"message":"of no importance, %d"}`, i+1))
		}
		send(9, "watch", wire.Warn, string(text))
	}
	switch {
	case *story && number == 4:
		counted("classify", 1600, `{"messages":%d}`)
	case number == 1, number > 60 && number <= 120:
		counted("restore", 40+number, `{"restored":%d,"of":3000}`)
	case number == 2:
		send(7, "stop", wire.Begin, "null")
		send(8, "set-aside", wire.Begin, "null")
	case number == 3, number > 150:
		send(6, "stop", wire.Ask, `{"number":1,"kind":"slot"}`)
		send(6, "", wire.End, `{"status":"waiting","asks":"slot","number":1}`)
	case number <= 60:
		send(20, "", wire.End, `{"status":"ok"}`)
		return failed
	default:
		send(5, "set-aside", wire.Result, `{"queues":{"incoming":{"messages":300000,"to":"incoming.spamfull"}}}`)
		counted("classify", 10000, `{"messages":%d}`)
	}
	for failed == nil {
		time.Sleep(300 * time.Millisecond)
		frame := wire.Frame{Kind: wire.Pulse}
		if last.Kind == wire.Progress { // it goes on, and its clock stands still
			frame = wire.Frame{Kind: wire.News, ID: id, Event: last}
		}
		failed = w.Write(frame)
	}
	return failed
}

// tell sends the run's events, each at its time.
func tell(w *wire.Writer, id int) error {
	next := time.NewTicker(*every)
	defer next.Stop()
	for i := range *events {
		<-next.C
		e := &wire.Event{Run: theRun, Instance: spool.DefaultInstance, Seq: int64(i + 1), Time: time.Now().UTC(), Stage: "restore", Kind: wire.Progress, Data: json.RawMessage(`{"of":100000,"restored":12345}`)}
		if err := w.Write(wire.Frame{Kind: wire.News, ID: id, Event: e}); err != nil {
			return err
		}
	}
	return w.Write(wire.Frame{Kind: wire.News, ID: id, Event: &wire.Event{Run: theRun, Seq: int64(*events + 1), Time: time.Now().UTC(), Index: -1, Kind: wire.End, Data: json.RawMessage(`{"status":"ok"}`)}})
}
