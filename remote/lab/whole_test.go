package lab_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/queuefile"
)

// sample is one queue file that a real Postfix wrote.
type sample struct {
	name     string
	b        []byte
	maildrop bool
}

// samples makes some queue files of every kind on a host, and leaves its queues
// empty.
func samples(t *testing.T, h *lab.Host) []sample {
	t.Helper()
	configure(t, h)
	must(t, h.Inject(t.Context(), messagesOf(8, "whole")))
	settled(t, h)
	milterOn(t, h)
	var milters []lab.Message
	for i := range 40 {
		milters = append(milters, toEdit(i*25))
	}
	must(t, h.Inject(t.Context(), milters))
	settled(t, h)
	inside(t, h, `postfix stop
		for i in 1 2 3 4 5; do
			printf 'Subject: down\n\ntext\n' | sendmail -i -f somebody@members.example user$i@elsewhere.example
			printf 'To: t1@elsewhere.example\n\n%5000d\n' $i | sendmail -t -N never -V env$i
			printf ' begins with a blank\n\nx\n' | sendmail -B 8BITMIME -f list@members.example v1@elsewhere.example v2@elsewhere.example
		done`)
	var all []sample
	for path := range paths(t, h, "maildrop", "deferred", "hold") {
		b, err := os.ReadFile(path)
		must(t, err)
		name, err := filepath.Rel(h.Spool(), path)
		must(t, err)
		all = append(all, sample{name, b, strings.HasPrefix(name, "maildrop/")})
		must(t, os.Remove(path))
	}
	slices.SortFunc(all, func(a, b sample) int { return strings.Compare(a.name, b.name) })
	return all
}

// judged is what the reader makes of a file: what the queue manager or pickup will
// say of it, what a delivery agent will, and the recipients left to be tried.
type judged struct {
	envelope, content error
	left              int
}

func judge(r *queuefile.Reader, b []byte, maildrop bool) (j judged) {
	r.Reset(bytes.NewReader(b), int64(len(b)), maildrop)
	e, err := r.Envelope()
	if err != nil {
		return judged{envelope: err, content: err}
	}
	for _, rcpt := range e.Recipients {
		if rcpt.State == queuefile.ToDo {
			j.left++
		}
	}
	j.content = r.Content(func([]byte, bool) error { return nil })
	return j
}

// mutate does a few things to a copy of b. The size record is rather spared: most
// of what happens to it is noticed at once.
func mutate(rng *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	types := []byte("CTFSRDOAMNLXEpwWKV>/qZ\x00\xff")
	for range 1 + rng.IntN(2) {
		at := rng.IntN(len(b))
		if at < 97 && len(b) > 97 {
			at = rng.IntN(len(b))
		}
		switch rng.IntN(8) {
		case 0:
			b[at] = byte(rng.IntN(256))
		case 1:
			b[at] ^= 1 << rng.IntN(8)
		case 2: // another type, wherever one of these stands
			b[at] = types[rng.IntN(len(types))]
		case 3:
			if rng.IntN(3) == 0 {
				b = b[:at+1]
			}
		case 4:
			b = slices.Delete(b, at, min(len(b), at+1+rng.IntN(4)))
		case 5:
			b = slices.Insert(b, at, b[rng.IntN(len(b))])
		case 6:
			copy(b[at:], fmt.Sprintf("p\x0f%15d", rng.IntN(len(b))))
		case 7:
			from := rng.IntN(len(b))
			copy(b[at:], b[from:min(len(b), from+20)])
		}
		if len(b) == 0 {
			break
		}
	}
	return b
}

// killsQmgr tells whether a file's size record has one number only. The queue
// manager then takes the file for one of Postfix before 2001, looks for an offset
// in the record M, and dies over it ("bad extra offset", qmgr_message.c
// qmgr_message_oldstyle_scan), again after each restart.
func killsQmgr(b []byte) bool {
	var size, offset, recipients int64
	if len(b) < 97 || b[0] != 'C' {
		return false
	}
	n, _ := fmt.Sscanf(string(b[2:97]), "%d %d %d", &size, &offset, &recipients)
	return n == 1
}

// place puts a file into a queue as Postfix would have: complete at once, named by
// its inode, with this owner.
func place(t *testing.T, h *lab.Host, queue string, i int, b []byte, uid, gid int, mode os.FileMode) (id string) {
	t.Helper()
	made := filepath.Join(h.Spool(), "made")
	must(t, os.WriteFile(made, b, 0o600))
	info, err := os.Stat(made)
	must(t, err)
	past := time.Now().Add(-time.Minute)
	must(t, errors.Join(os.Chown(made, uid, gid), os.Chmod(made, mode), os.Chtimes(made, past, past)))
	id = fmt.Sprintf("%05X%X", i, info.Sys().(*syscall.Stat_t).Ino)
	must(t, os.Rename(made, filepath.Join(h.Spool(), queue, id)))
	return id
}

// The same by default, so that a change is not blamed for what was there before it.
var wholeSeed = flag.Uint64("seed", 1, "seed of the mutated queue files; 0: another one each time")

// Whole is what the queue manager and the delivery agents take for whole.
func TestWholeAsPostfixSays(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	all := samples(t, h)
	seed := *wholeSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var r queuefile.Reader
	cuts := 0
	for _, s := range all {
		if err := judge(&r, s.b, s.maildrop).content; err != nil {
			t.Errorf("%s is not whole: %v", s.name, err)
		}
		for n := range len(s.b) {
			cuts++
			if judge(&r, s.b[:n], s.maildrop).content == nil {
				t.Errorf("%s cut at %d of %d is whole", s.name, n, len(s.b))
			}
		}
	}
	const mutations = 100_000
	for range mutations {
		s := all[rng.IntN(len(all))]
		b := mutate(rng, s.b)
		var broken *queuefile.Broken
		if err := judge(&r, b, s.maildrop).content; err != nil && !errors.As(err, &broken) {
			t.Fatalf("%v; of %q", err, b)
		}
	}
	t.Logf("%d files, %d cuts, %d mutations", len(all), cuts, mutations)

	must(t, h.Flood(lab.Deliver))
	inside(t, h, "postfix start")
	asQmgr(t, h, rng, slices.DeleteFunc(slices.Clone(all), func(s sample) bool { return s.maildrop }))
	asPickup(t, h, rng, slices.DeleteFunc(slices.Clone(all), func(s sample) bool { return !s.maildrop }))
}

// placed is a file that was put into a queue, and what we say of it.
type placed struct {
	from string
	b    []byte
	judged
}

const (
	// agentLimit is how long delivery agents may take over the files, and fewDamaged
	// how many they have to find damaged in any case.
	agentLimit = 15 * time.Second
	fewDamaged = 5
)

// asQmgr puts mutated files into a host's live incoming, and looks which of them
// end in corrupt. Damage in the content is found by the agent that delivers it, so
// that a file without recipients is removed unread, and one whose recipients are all
// deferred for another reason waits unread, and one whose addresses error(8) returns
// is not read by it.
func asQmgr(t *testing.T, h *lab.Host, rng *rand.Rand, all []sample) {
	t.Helper()
	var owner syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(h.Spool(), "incoming"), &owner))
	var r queuefile.Reader
	put := map[string]placed{}
	killers, doomed := 0, 0 // those that only an agent finds damaged
	for i := 0; len(put) < 600 || doomed < 40; i++ {
		s := all[rng.IntN(len(all))]
		b := mutate(rng, s.b)
		j := judge(&r, b, false)
		if killsQmgr(b) {
			if killers++; j.envelope == nil {
				t.Errorf("what kills the queue manager is whole: %q", b)
			}
			continue
		}
		if j.envelope == nil && j.content != nil && j.left > 0 {
			doomed++
		}
		put[place(t, h, "incoming", i, b, int(owner.Uid), int(owner.Gid), 0o700)] = placed{s.name, b, j}
	}
	kick(t, h, "I")
	waits := func(queue string) bool {
		for id := range files(t, h, queue) {
			if _, ours := put[id]; ours {
				return true
			}
		}
		return false
	}
	eventually(t, patience, "the queue manager has read all files", func() bool { return !waits("incoming") })
	// The bounce daemon dies over a file that an agent has marked as corrupt, which
	// it may not write to (bounce_notify_util.c bounce_mail_init). Master then starts
	// another a minute later, and some files are not tried to their end here.
	began := time.Now()
	found := func() (n int) {
		for id := range files(t, h, "corrupt") {
			if p := put[id]; p.envelope == nil && p.content != nil {
				n++
			}
		}
		return n
	}
	eventually(t, patience, "files are tried", func() bool {
		return !waits("active") || time.Since(began) > agentLimit && found() >= fewDamaged
	})
	waiting := files(t, h, "active")
	maps.Copy(waiting, files(t, h, "deferred"))
	corrupt := files(t, h, "corrupt")
	broken, damaged := 0, 0
	for id, p := range put {
		switch {
		case p.envelope != nil:
			broken++
			if !corrupt[id] {
				t.Errorf("%s, of %s: was tried, for us it is broken: %v\n%q", id, p.from, p.envelope, p.b)
			}
		case p.content != nil:
			switch {
			case corrupt[id]:
				damaged++
			case !waiting[id] && p.left > 0:
				said, _ := h.Run(t.Context(), "grep", "-a", id, "/var/log/mail.log")
				if strings.Contains(said, "postfix/error[") {
					continue
				}
				t.Errorf("%s, of %s: was tried, for us its content is damaged: %v\n%q\n%s", id, p.from, p.content, p.b, said)
			}
		case corrupt[id]:
			t.Errorf("%s, of %s: is corrupt, for us it is whole\n%q", id, p.from, p.b)
		}
	}
	t.Logf("%d files: %d broken, %d of %d found damaged by agents, %d that would have killed the queue manager", len(put), broken, damaged, doomed, killers)
	if broken < 50 || damaged < fewDamaged || len(put)-broken-damaged < 50 {
		t.Error("too few of one kind")
	}
}

// firstUID is of the submitters of the files for pickup: each has its own, by which
// the log tells them apart.
const firstUID = 100_000

// asPickup puts mutated files into a host's live maildrop, and looks in the log
// which of them pickup refuses. It deletes these and those it has taken alike.
//
// Three differences are known. pickup refuses records longer than line_length_limit
// (pickup.c copy_segment), a setting that a reader of files does not know; nothing
// that writes to maildrop makes any. And cleanup, behind pickup, refuses some mail
// for what it means and not for its form, such as a second sender (cleanup_envelope.c,
// "message rejected"); of these rules the reader has the one on attributes. And to pickup a record of type
// NUL is one of those it expects, since strchr(3) finds the end of the string that
// lists them; cleanup rejects it, or the queue manager then finds the file corrupt.
func asPickup(t *testing.T, h *lab.Host, rng *rand.Rand, all []sample) {
	t.Helper()
	var owner syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(h.Spool(), "maildrop"), &owner))
	var r queuefile.Reader
	put := make([]placed, 300)
	for i := range put {
		s := all[rng.IntN(len(all))]
		b := mutate(rng, s.b)
		j := judge(&r, b, true)
		place(t, h, "maildrop", i, b, firstUID+i, int(owner.Gid), 0o744)
		put[i] = placed{s.name, b, j}
	}
	inside(t, h, "timeout 5 postkick public pickup W || true")
	eventually(t, patience, "no mail in maildrop", func() bool { return len(files(t, h, "maildrop")) == 0 })
	// There is one pickup, and this is the last it logs of.
	inside(t, h, "printf '\\n' | sendmail -f last.of.all@members.example x@elsewhere.example")
	var text string
	eventually(t, patience, "pickup's last line in the log", func() bool {
		b, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/mail.log"))
		must(t, err)
		text = string(b)
		return strings.Contains(text, "from=<last.of.all@members.example>")
	})
	refused, rejected := map[string]string{}, map[string]string{} // by uid; by queue id
	ids := map[string]string{}
	for line := range strings.Lines(text) {
		if m := pickupRefused.FindStringSubmatch(line); m != nil {
			refused[m[1]] = m[2]
		} else if m := pickupTook.FindStringSubmatch(line); m != nil {
			ids[m[2]] = m[1]
		} else if m := cleanupRejected.FindStringSubmatch(line); m != nil {
			rejected[m[1]] = m[2]
		}
	}
	broken, meant := 0, 0
	for i, p := range put {
		uid := strconv.Itoa(firstUID + i)
		why, no := refused[uid]
		reason := rejected[ids[uid]]
		switch {
		case !no && ids[uid] == "":
			t.Errorf("uid %s: the log says nothing", uid)
		case p.envelope != nil:
			broken++
			nul := strings.Contains(p.envelope.Error(), `record type '\x00'`)
			if !no && !nul && !strings.Contains(reason, "malformed attribute") {
				t.Errorf("uid %s, of %s: was taken (%s), for us it is broken: %v\n%q", uid, p.from, reason, p.envelope, p.b)
			}
		case p.content != nil:
			t.Errorf("of %s: the envelope is whole and the content is not: %v\n%q", p.from, p.content, p.b)
		case no && !longRecord(p.b):
			t.Errorf("uid %s, of %s: was refused (%s), for us it is whole\n%q", uid, p.from, why, p.b)
		case reason != "":
			meant++
			if strings.Contains(reason, "malformed attribute") {
				t.Errorf("uid %s, of %s: was rejected (%s), for us it is whole\n%q", uid, p.from, reason, p.b)
			}
		}
	}
	t.Logf("%d files for pickup: %d broken, %d rejected by cleanup for what they mean", len(put), broken, meant)
	if broken < 30 || len(put)-broken < 30 {
		t.Error("too few of one kind")
	}
}

var (
	pickupRefused   = regexp.MustCompile(`pickup\[\d+\]: warning: (?:[^ ]+: )?uid=(\d+): (unexpected or malformed record type.*|no envelope sender)`)
	pickupTook      = regexp.MustCompile(`pickup\[\d+\]: ([0-9A-Za-z]+): uid=(\d+) from=`)
	cleanupRejected = regexp.MustCompile(`cleanup\[\d+\]: warning: ([0-9A-Za-z]+): message rejected: (.*)`)
)

// longRecord tells whether a file, read in order, has a record longer than the
// default of line_length_limit.
func longRecord(b []byte) bool {
	for len(b) > 1 {
		n, used := binary.Uvarint(b[1:])
		if used <= 0 {
			return false
		}
		if n > 2048 {
			return true
		}
		b = b[min(len(b), 1+used+int(n)):]
	}
	return false
}
