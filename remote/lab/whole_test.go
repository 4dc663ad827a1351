package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
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
// say of it, and what a delivery agent will.
func judged(r *queuefile.Reader, b []byte, maildrop bool) (envelope, content error) {
	r.Reset(bytes.NewReader(b), int64(len(b)), maildrop)
	if _, err := r.Envelope(); err != nil {
		return err, err
	}
	return nil, r.Content(func([]byte, bool) error { return nil })
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

// Whole is what the queue manager and the delivery agents take for whole.
func TestWholeAsPostfixSays(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	all := samples(t, h)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var r queuefile.Reader
	cuts := 0
	for _, s := range all {
		if _, err := judged(&r, s.b, s.maildrop); err != nil {
			t.Errorf("%s is not whole: %v", s.name, err)
		}
		for n := range len(s.b) {
			cuts++
			if _, err := judged(&r, s.b[:n], s.maildrop); err == nil {
				t.Errorf("%s cut at %d of %d is whole", s.name, n, len(s.b))
			}
		}
	}
	const mutations = 100_000
	for range mutations {
		s := all[rng.IntN(len(all))]
		b := mutate(rng, s.b)
		var broken *queuefile.Broken
		if _, err := judged(&r, b, s.maildrop); err != nil && !errors.As(err, &broken) {
			t.Fatalf("%v; of %q", err, b)
		}
	}
	t.Logf("%d files, %d cuts, %d mutations", len(all), cuts, mutations)

	must(t, h.Flood(lab.Deliver))
	inside(t, h, "postfix start")
	asQmgr(t, h, rng, slices.DeleteFunc(slices.Clone(all), func(s sample) bool { return s.maildrop }))
}

// placed is a file that was put into a queue, and what we say of it.
type placed struct {
	from              string
	b                 []byte
	envelope, content error
}

func asQmgr(t *testing.T, h *lab.Host, rng *rand.Rand, all []sample) {
	t.Helper()
	var owner syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(h.Spool(), "incoming"), &owner))
	var r queuefile.Reader
	put := map[string]placed{}
	killers := 0
	for i := 0; len(put) < 600; i++ {
		s := all[rng.IntN(len(all))]
		b := mutate(rng, s.b)
		envelope, content := judged(&r, b, false)
		if killsQmgr(b) {
			if killers++; envelope == nil {
				t.Errorf("what kills the queue manager is whole: %q", b)
			}
			continue
		}
		put[place(t, h, "incoming", i, b, int(owner.Uid), int(owner.Gid), 0o700)] = placed{s.name, b, envelope, content}
	}
	kick(t, h, "I")
	eventually(t, time.Minute, "the queue manager has taken all files", func() bool {
		for q := range maps.Keys(files(t, h, "incoming")) {
			if _, ours := put[q]; ours {
				return false
			}
		}
		for q := range maps.Keys(files(t, h, "active")) {
			if _, ours := put[q]; ours {
				return false
			}
		}
		return true
	})
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
			damaged++
			if !corrupt[id] {
				t.Errorf("%s, of %s: was tried, for us its content is damaged: %v\n%q", id, p.from, p.content, p.b)
			}
		case corrupt[id]:
			t.Errorf("%s, of %s: is corrupt, for us it is whole\n%q", id, p.from, p.b)
		}
	}
	t.Logf("%d files: %d broken, %d with damaged content, %d that would have killed the queue manager", len(put), broken, damaged, killers)
	if broken < 50 || damaged < 20 || len(put)-broken-damaged < 50 {
		t.Error("too few of one kind")
	}
}
