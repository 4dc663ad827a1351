package spool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// idleSuper is postsuper(1) as far as it is used here, with -d, -h, -H and -r: the
// queue directory is $0, what is put into its first line is done first, and behind
// that stands how deferred is hashed.
const idleSuper = `%s
depth=%d
cd "$0" || exit 1
n=0 s= op=$1; shift 2
put() { # as it is: over what is there, without a word
	d=$1 rest=$2 k=0
	while [ "$1" = deferred ] && [ $k -lt $depth ]; do d=$d/${rest%%"${rest#?}"} rest=${rest#?} k=$((k+1)); done
	mkdir -p "$d" && mv -f "$f" "$d/$2"
}
while read -r id; do
	for q; do for f in "$q/$id" "$q"/?/"$id" "$q"/?/?/"$id"; do
		[ -f "$f" ] || continue
		case $op in
		-d) what=removed all=Deleted; rm -f defer/"$id" defer/?/"$id" defer/?/?/"$id" bounce/"$id" trace/"$id" "$f";;
		-h) what='placed on hold' all='Placed on hold'; put hold "$id";;
		-H) what='released from hold' all='Released from hold'; put deferred "$id";;
		-r) what=requeued all=Requeued; touch "$f"; put maildrop "$id";;
		esac && echo "postsuper: $id: $what" >&2 && n=$((n+1)) && break 2
	done; done
done
case $op in -d) all=Deleted;; -h) all='Placed on hold';; -H) all='Released from hold';; -r) all=Requeued;; esac
[ $n = 1 ] || s=s
echo "postsuper: $all: $n message$s" >&2`

// super makes the host's postsuper.
func (h *host) super(first string) {
	h.p.Super = []string{"sh", "-c", fmt.Sprintf(idleSuper, first, h.depth()), h.p.QueueDirectory}
}

// depth is how deep deferred is hashed.
func (h *host) depth() int { return h.p.depth(Deferred) }

// queued is a running host with messages and logs in live queues.
func queued(t *testing.T, hashed []string, depth int) (*host, *Work) {
	h := newHost(t, hashed, depth)
	h.flood(9)
	h.start()
	h.super("")
	return h, h.open()
}

// live lists the complete messages of a live queue.
func (h *host) live(queues ...Queue) []Mail {
	h.t.Helper()
	var all []Mail
	for _, q := range queues {
		h.must(Walk(h.p, string(q), func(c Chunk) error {
			for _, id := range c.IDs {
				s, err := statAt(c.Dir, id)
				h.must(err)
				if s.Complete() {
					all = append(all, Mail{Aside: string(q), Sub: c.Sub, ID: id, Inode: s.Inode, Size: s.Size, Mtime: s.Mtime})
				}
			}
			return nil
		}))
	}
	return all
}

func (h *host) delete(w *Work, all ...Mail) Removed {
	h.t.Helper()
	done, err := w.Delete(context.Background(), list(all...), Removal{Token: "delete"}, func(Removed) {})
	h.must(err)
	return done
}

// thirds says whether something of an account goes when two of three messages are
// removed, all but those whose number has this rest.
func thirds(what string, rest int) bool {
	var k int
	n, _ := fmt.Sscanf(what, "message %d", &k)
	return n == 1 && k%3 != rest || strings.HasPrefix(what, "log of ") && what != "log of the one on hold"
}

func TestDelete(t *testing.T) {
	for _, depth := range []int{0, 1, 2} {
		h, w := queued(t, []string{"deferred", "defer"}, depth)
		before := h.account()
		all := h.live(Deferred, Incoming)
		gone := []string{}
		for what := range before {
			if thirds(what, 1) {
				gone = append(gone, what)
			}
		}
		if done := h.delete(w, all...); done.Deleted != 6 || done.Failed != 0 || len(all) != 6 {
			t.Errorf("depth %d: done %+v of %d", depth, done, len(all))
		}
		h.gone(before, gone...)
		// The same list again, after a death: it says the same.
		if done := h.delete(h.open(), all...); done.Deleted != 6 || done.Failed != 0 {
			t.Errorf("depth %d: again %+v", depth, done)
		}
		h.gone(before, gone...)
	}
}

// More messages than one postsuper is given, in the order of their queues.
func TestDeleteBatches(t *testing.T) {
	h := newHost(t, nil, 0)
	const n = superMax + 7
	for i := range n {
		h.write("deferred", testID(i), fmt.Sprint("message ", i), 0o700)
	}
	h.write("hold", testID(n), "on hold", 0o700)
	h.start()
	h.super(`echo x >>"$0/pid/calls"`)
	var steps []int64
	w := h.open()
	done, err := w.Delete(t.Context(), list(h.live(Deferred, Hold)...), Removal{}, func(r Removed) { steps = append(steps, r.Deleted) })
	if h.must(err); done.Deleted != n+1 || !slices.Equal(steps, []int64{superMax, n, n + 1}) {
		t.Errorf("done %+v by %v", done, steps)
	}
	if text, err := os.ReadFile(h.at("pid/calls")); err != nil || strings.Count(string(text), "x") != 3 {
		t.Errorf("calls %q, %v", text, err)
	}
	if left := h.account(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A message that is another by now survives, whatever it is: replaced under the
// same id, tried again, completed anew, moved on, or misplaced.
func TestDeleteSurvivors(t *testing.T) {
	id := testID(2)
	for name, change := range map[string]func(h *host, path string){
		"replaced":    func(h *host, path string) { h.must(os.WriteFile(path, []byte("another message"), 0o700)) },
		"tried again": func(h *host, path string) { h.must(os.Chtimes(path, hourAgo, hourAgo)) },
		"incomplete":  func(h *host, path string) { h.must(os.Chmod(path, 0o600)) },
		"in active":   func(h *host, path string) { h.must(os.Rename(path, h.at("active/"+id))) },
		"link": func(h *host, path string) {
			h.must(os.Rename(path, h.at("hold/X")))
			h.must(os.Symlink("../../hold/X", path))
		},
		"second name": func(h *host, path string) { h.must(os.Link(path, h.at("hold/"+id))) },
		"another hash": func(h *host, path string) {
			h.must(os.MkdirAll(h.at("deferred/Z"), 0o700))
			h.must(os.Rename(path, h.at("deferred/Z/"+id)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, w := queued(t, []string{"deferred", "defer"}, 1)
			all := h.live(Deferred)
			change(h, filepath.Join(h.at(h.home(Deferred, id)), id))
			h.write("hold", testID(5), "of another queue, with an id that is listed in deferred", 0o700)
			before := h.account()
			done := h.delete(w, all...)
			if done.Deleted != 2 || done.Failed != 1 || len(done.Failures) != 1 || !strings.Contains(done.Failures[0], id) {
				t.Errorf("done %+v", done)
			}
			h.gone(before, "message 5", "message 8", "log of 5", "log of 8")
		})
	}
}

// What is listed cannot be replaced while postsuper works: the file is held
// open, and a new one gets another inode, and with it another short id.
func TestDeleteHoldsTheInode(t *testing.T) {
	h, w := queued(t, nil, 0)
	// postsuper is late: somebody deletes the message, and another one comes.
	h.super(`cd "$0"; rm deferred/*; i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo new >incoming/$i; done; ls -i incoming >pid/inodes`)
	all := h.live(Deferred)
	done := h.delete(w, all...)
	if done.Deleted != 0 || int(done.Failed) != len(all) {
		t.Errorf("done %+v", done)
	}
	text, err := os.ReadFile(h.at("pid/inodes"))
	h.must(err)
	for _, m := range all {
		if slices.Contains(strings.Fields(string(text)), fmt.Sprint(m.Inode)) {
			t.Errorf("inode %d of %s was given to another file", m.Inode, m.ID)
		}
	}
}

// The number is postsuper's, and where it does not fit the files nothing goes on.
func TestDeleteBelievesNobody(t *testing.T) {
	for _, test := range []struct{ name, super, says string }{
		{"says nothing", `exit 0`, "does not say how many"},
		{"dies at the first", `read -r id; rm "$0/deferred/$id"; echo "postsuper: $id: removed"; echo "postsuper: fatal: open logfile: Permission denied"; exit 1`, "open logfile"},
		{"counts others", `echo "postsuper: Deleted: 99 messages"; exit 0`, "99 messages"},
		{"names what is there", `while read -r id; do echo "postsuper: $id: removed"; done; echo "postsuper: Deleted: 3 messages"; exit 0`, "is not the file that was listed"},
		{"is not there", `exit 127`, "exit status 127"},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, w := queued(t, nil, 0)
			h.super(test.super)
			all := h.live(Deferred)
			_, err := w.Delete(t.Context(), list(all...), Removal{Token: "delete"}, func(Removed) {})
			if err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			// Who carries it on looks for himself.
			h.super("")
			if done := h.delete(h.open(), all...); done.Deleted+done.Gone != 3 || done.Failed != 0 {
				t.Errorf("carried on: %+v", done)
			}
			if left := h.live(Deferred); len(left) > 0 {
				t.Errorf("left %v", left)
			}
		})
	}
}

func TestDeleteRefuses(t *testing.T) {
	h, w := queued(t, nil, 0)
	h.write("deferred.spamfull", testID(50), "aside", 0o700)
	before := h.account()
	for _, m := range []Mail{h.mail("deferred.spamfull", testID(50)), {Aside: "corrupt", ID: "A1"}, {Aside: "../q/deferred", ID: testID(2)}} {
		if done, err := w.Delete(t.Context(), list(m), Removal{}, func(Removed) {}); err == nil || done.Deleted != 0 {
			t.Errorf("%s: %+v, %v", m.Aside, done, err)
		}
	}
	bad := h.live(Deferred)[0]
	bad.ID = "ALL"
	if done := h.delete(w, bad); done.Deleted != 0 || done.Failed != 1 {
		t.Errorf("ALL: %+v", done)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Delete(cancelled, list(h.live(Deferred)...), Removal{}, func(Removed) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := w.Delete(t.Context(), list(h.live(Deferred)...), Removal{Cancelled: func() bool { return true }}, func(Removed) {}); !errors.Is(err, ErrCancelled) {
		t.Errorf("got %v", err)
	}
	h.must(command(t.Context(), stopLimit, nil, h.p.Stop...))
	for h.running() {
		time.Sleep(poll)
	}
	if _, err := w.Delete(t.Context(), list(h.live(Deferred)...), Removal{}, func(Removed) {}); !errors.Is(err, ErrDown) {
		t.Errorf("stopped: got %v", err)
	}
	h.gone(before)
}

// TestDeleteCrashWalk stops a delete at each of its steps. postsuper lives on
// when we die, and is ended by whoever carries it on.
func TestDeleteCrashWalk(t *testing.T) {
	for _, mode := range walkModes {
		t.Run(mode.name, func(t *testing.T) {
			eachStep(t, 9, func(t *testing.T, n int) bool {
				h, _ := queued(t, []string{"deferred", "defer"}, 1)
				h.super("sleep 0.05") // so that a death is before it
				before := h.account()
				all := h.live(Deferred, Active)
				try := func() error {
					w, err := h.tryOpen()
					if err != nil {
						return err
					}
					done, err := w.Delete(context.Background(), list(all...), Removal{Token: "delete"}, func(Removed) {})
					if err == nil && (int(done.Deleted+done.Gone) != len(all) || done.Failed > 0) {
						t.Errorf("done %+v of %d", done, len(all))
					}
					return err
				}
				reached, at, err := disturbed(mode, n, try)
				if err != nil {
					err = try()
				}
				if err != nil {
					t.Errorf("step %d (%s), carried on: %v", n, at, err)
				}
				want := maps.Clone(before)
				for what := range before {
					if thirds(what, 0) {
						delete(want, what)
					}
				}
				if diff := cmp.Diff(want, h.account()); diff != "" {
					t.Errorf("step %d (%s): places (-want +got):\n%s", n, at, diff)
				}
				return reached
			})
		})
	}
}

// A postsuper that its dead parent has left is ended before anything is looked
// at: what it deletes later would be counted as there.
func TestDeleteEndsWhatIsLeft(t *testing.T) {
	h, w := queued(t, nil, 0)
	all := h.live(Deferred)
	m := all[0]
	h.must(w.write(kindIntent, batchRecord{Token: "delete", Moves: []intention{{From: "deferred", ID: m.ID, Inode: m.Inode}}}))
	left := exec.Command("sleep", "1000")
	left.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	h.must(left.Start())
	h.must(w.noteGroup(left.Process.Pid))
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()
	w = h.open()
	h.super(fmt.Sprintf(`kill -0 %d 2>/dev/null && exit 1`, left.Process.Pid))
	if done := h.delete(w, all...); done.Deleted != 3 || done.Failed != 0 {
		t.Errorf("done %+v", done)
	}
	_ = left.Process.Kill()
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("what was left: %v", err)
	}
}

// What Postfix delivers after the death of a delete, and what the dead one's
// postsuper deleted, cannot be told apart: neither is called deleted.
func TestDeliveredWhileADeleteIsOpen(t *testing.T) {
	h, _ := queued(t, []string{"deferred", "defer"}, 1)
	all := h.live(Deferred)
	step = func(what string) error {
		if strings.HasPrefix(what, "command ") {
			panic(killed{what})
		}
		return nil
	}
	err, died := die(func() error {
		_, err := h.open().Delete(context.Background(), list(all...), Removal{Token: "delete"}, func(Removed) {})
		return err
	})
	if !died {
		t.Fatalf("nobody died: %v", err)
	}
	m := all[0]
	h.must(os.Remove(filepath.Join(h.at(m.path()), m.ID)))
	fates := func() (gone, open, removed []string) {
		h.must(Moves(h.state(), func(v Move) error {
			switch {
			case v.Open:
				open = append(open, v.ID)
			case v.Gone:
				gone = append(gone, v.ID)
			default:
				removed = append(removed, v.ID)
			}
			return nil
		}, nil))
		return gone, open, removed
	}
	if gone, open, removed := fates(); len(gone)+len(removed) > 0 || len(open) != 3 {
		t.Errorf("before it is settled: gone %v, open %v, removed %v", gone, open, removed)
	}
	for range 2 { // the second time of an earlier try alone
		if done := h.delete(h.open(), all...); done.Deleted != 2 || done.Gone != 1 || done.Failed != 0 {
			t.Errorf("carried on: %+v", done)
		}
		if gone, open, removed := fates(); !slices.Equal(gone, []string{m.ID}) || len(open) > 0 || len(removed) != 2 {
			t.Errorf("gone %v, open %v, removed %v", gone, open, removed)
		}
	}
}

func TestParseDeleted(t *testing.T) {
	for _, test := range []struct {
		text string
		ids  []string
		n    int
	}{
		{"postsuper: Deleted: 0 messages\n", nil, 0},
		{"postsuper: 4XK: removed\npostsuper: Deleted: 1 message\n", []string{"4XK"}, 1},
		{"postsuper: warning: bogus file name: incoming/x: removed\npostsuper: A: removed\r\npostsuper: B: removed\npostsuper: Deleted: 2 messages", []string{"A", "B"}, 2},
		{"/usr/sbin/postsuper: A: removed\n/usr/sbin/postsuper: Deleted: 1 message\n", []string{"A"}, 1},
		{"postfix-2/postsuper[12]: A: removed\npostfix-2/postsuper[12]: Deleted: 1 message\n", []string{"A"}, 1},
		{"", nil, -1},
		{"postsuper: Deleted: 99999999999999999999 messages", nil, -1},
		{"postsuper: Requeued: 1 message", nil, -1},
		{"postsuper: fatal: Deleted: 4 messages", nil, -1},
	} {
		ids, n, err := deleting.parse(test.text)
		if got := slices.Sorted(maps.Keys(ids)); !slices.Equal(got, test.ids) || n != test.n || (err != nil) != (test.n < 0) {
			t.Errorf("%q: got %v, %d, %v", test.text, got, n, err)
		}
	}
}

// Whatever is said, ids are ids, and a number comes only with a line that says it.
func FuzzParseDeleted(f *testing.F) {
	for _, seed := range []string{"postsuper: 4XK: removed\npostsuper: Deleted: 1 message\n", "Deleted: 2 messages", "a: removed\n: removed\n", "postsuper: Deleted: -1 messages"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ids, n, err := deleting.parse(text)
		if (err != nil) != (n < 0) {
			t.Errorf("%d, %v", n, err)
		}
		if n >= 0 && !strings.Contains(text, fmt.Sprintf("Deleted: %d message", n)) && !strings.Contains(text, "Deleted: 0") {
			t.Errorf("%d is not said", n)
		}
		for id := range ids {
			if id == "" || strings.ContainsAny(id, "/. \n") {
				t.Errorf("%q", id)
			}
		}
	})
}

var hourAgo = time.Now().Add(-time.Hour)
