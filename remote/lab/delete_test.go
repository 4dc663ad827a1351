package lab_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/remote/lab"
	"spoolsweep/remote/lab/needs"
	"spoolsweep/spool/stage"
)

// removed is a host's result of delete or purge.
func removed(t *testing.T, s *show.Host) stage.Removed {
	t.Helper()
	var r stage.Removed
	if err := json.Unmarshal(s.Result, &r); err != nil {
		t.Fatalf("%s: %v in %s", s.Host, err, s.Result)
	}
	return r
}

// would is the number of messages that a delete or a purge names when another
// one is expected; nothing may move then.
func would(t *testing.T, h *lab.Host, f *fleet, args ...string) int {
	t.Helper()
	before := takeSnapshot(t, h)
	r := ends(t, 1, f, append(args, "-y", "--expect", "1000000")...)
	m := regexp.MustCompile(`--expect 1000000: (\d+) messages would [a-z, ]+: nothing was done`).FindStringSubmatch(r.err)
	if m == nil || r.out != "" {
		t.Fatalf("want exit status 1, the right number, and nothing on stdout: %v", r)
	}
	after := takeSnapshot(t, h)
	for _, s := range []snapshot{before, after} {
		for name := range s.Spool { // these two are the queue manager's
			if top, _, _ := strings.Cut(name, "/"); top == "incoming" || top == "active" {
				delete(s.Spool, name)
			}
		}
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("with a wrong number something changed, -before +after:\n%s", diff)
	}
	n, err := strconv.Atoi(m[1])
	must(t, err)
	return n
}

// reasons are what Postfix tells of the messages of some queues: by queue id, an
// address and why it is deferred, each.
func reasons(t *testing.T, h *lab.Host, queues ...string) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for id, q := range postqueue(t, h) {
		if !slices.Contains(queues, q.Queue) {
			continue
		}
		for _, to := range q.Recipients {
			all[id] = append(all[id], to.Address+": "+to.Reason)
		}
	}
	return all
}

// withExpression decides as the wiki's one-liner does, which deletes what grep
// finds anything in.
const withExpression = `[ "$(strings "$f" | grep -c -e "$1")" -gt 0 ] && echo "$f"`

// The wiki's shortcut: only the matching messages of deferred are gone, through
// postsuper, with their logs.
func TestDelete(t *testing.T) {
	t.Parallel()
	needs.Program(t, "strings")
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	messages := flooded(t, h, 3, map[string]int{"deferred": 200, "active": 60})
	was, err := h.Audit(t.Context())
	must(t, err)
	const expression = "swiftvalue@yahoo.cn"
	doomed := oracle(t, filepath.Join(h.Spool(), "deferred"), withExpression, expression)
	if len(doomed) < 20 || len(doomed) > 190 {
		t.Fatalf("the one-liner would delete %d of 200", len(doomed))
	}
	args := []string{"delete", "-m", "raw:/" + expression + "/"}
	if n := would(t, h, f, args...); n != len(doomed) {
		t.Fatalf("would delete %d, the one-liner %d", n, len(doomed))
	}
	ends(t, 1, f, append(args, "-y")...)
	admin := newFleet(t, []*lab.Host{h}, "ansible_user: admin")
	if r := ends(t, 2, admin, append(args, "-y", "--expect", strconv.Itoa(len(doomed)))...); !strings.Contains(r.err, "become") {
		t.Errorf("without root: no remedy in %v", r)
	}
	logs, why := files(t, h, "defer"), reasons(t, h, "deferred")
	doc, r := spoolsweepJSON(t, f, append(args, "-y", "--expect", strconv.Itoa(len(doomed)))...)
	if got := removed(t, hostIn(t, doc, h)); r.status != 0 || got.Matched != int64(len(doomed)) || got.Deleted != got.Matched || got.Failed != 0 {
		t.Fatalf("deleted %+v, want %d: %v", got, len(doomed), r)
	}
	log, err := os.ReadFile(filepath.Join(h.Dir, "upper/var/log/mail.log"))
	must(t, err)
	var gone []string
	for _, id := range ids(messages) {
		name := queueID(was, id)
		if !slices.Contains(doomed, name) {
			continue
		}
		gone = append(gone, id)
		if !bytes.Contains(log, []byte(": "+name+": removed\n")) {
			t.Errorf("postsuper did not log that it removed %s", name)
		}
		delete(logs, name)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	lost := a.Lost(ids(messages))
	slices.Sort(lost)
	slices.Sort(gone)
	if diff := cmp.Diff(gone, lost); diff != "" || len(gone) != len(doomed) {
		t.Errorf("gone (-the one-liner +spoolsweep):\n%s", diff)
	}
	if now := files(t, h, "defer"); !cmp.Equal(logs, now) {
		t.Errorf("logs: %d, want %d: those of what is left", len(now), len(logs))
	}
	for _, name := range doomed {
		delete(why, name)
	}
	if diff := cmp.Diff(why, reasons(t, h, "deferred")); diff != "" {
		t.Errorf("reasons that Postfix tells (-want +got):\n%s", diff)
	}
	alive(t, h)
	if n := would(t, h, f, append(args, "--queue", "active", "--queue", "hold")...); n == 0 || n > 60 {
		t.Errorf("of active would be deleted %d", n)
	}

	// Where Postfix is down it is refused, with the remedy.
	_, err = h.Run(t.Context(), "postfix", "stop")
	must(t, err)
	before := files(t, h, "deferred")
	if r := ends(t, 2, f, append(args, "--queue", "deferred", "-y", "--expect", "0")...); !strings.Contains(r.err, "postfix start") {
		t.Errorf("stopped: no remedy in %v", r)
	}
	if now := files(t, h, "deferred"); !cmp.Equal(before, now) {
		t.Error("it deletes where Postfix is down")
	}
	_, err = h.Run(t.Context(), "postfix", "start")
	must(t, err)
}

// A message that has got the id of a listed one by the time of its batch is
// another one, and survives; so does one that was tried again.
func TestDeleteReplaced(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	messages := flooded(t, h, 4, map[string]int{"deferred": 40})
	was, err := h.Audit(t.Context())
	must(t, err)
	book := filepath.Join(t.TempDir(), "delete.yaml")
	must(t, os.WriteFile(book, []byte("stages:\n  - delete: {spam: {recipient: ['*@*']}}\n"), 0o600))
	r := ends(t, 3, f, "run", book, "-y") // nobody has said how many
	id := runIn(t, r)
	// As when a new message is given the inode, and with it the id: the same
	// file, and other bytes in it.
	replaced, again := was.Found[messages[0].ID][0].Path, was.Found[messages[1].ID][0].Path
	text, err := os.ReadFile(was.Found[messages[2].ID][0].Path)
	must(t, err)
	text = bytes.ReplaceAll(text, []byte(messages[2].ID), []byte(messages[0].ID))
	must(t, os.WriteFile(replaced, text, 0o700))
	why := reasons(t, h, "deferred")[filepath.Base(again)]
	future := time.Now().Add(30 * time.Minute)
	must(t, os.Chtimes(again, future, future))
	ends(t, 1, f, "resume", id, "-y", "--expect", "39")
	a, err := h.Audit(t.Context())
	must(t, err)
	if lost := a.Lost(ids(messages)); len(lost) > 0 {
		t.Fatalf("with a wrong number %q are gone", lost)
	}
	doc, r := spoolsweepJSON(t, f, "resume", id, "-y", "--expect", "40")
	var got stage.Removed
	if !hostIn(t, doc, h).Latest("delete", &got) || r.status != 0 || got.Matched != 40 || got.Deleted != 38 || got.Failed != 2 || len(got.Failures) != 2 {
		t.Errorf("deleted %+v: %v", got, r)
	}
	a, err = h.Audit(t.Context())
	must(t, err)
	survivors := []string{messages[0].ID, messages[1].ID}
	if diff := cmp.Diff(survivors, a.In("deferred")); diff != "" {
		t.Errorf("deferred (-want +got):\n%s", diff)
	}
	if now, err := os.ReadFile(replaced); err != nil || !bytes.Equal(now, text) {
		t.Errorf("the new message: %v, or other bytes", err)
	}
	if got := reasons(t, h, "deferred")[filepath.Base(again)]; !cmp.Equal(got, why) {
		t.Errorf("reasons of the one that was tried again: %q, want %q", got, why)
	}
}

// copies fills deferred with copies of one message that lies there, each with an
// id of its own, in its file and as its name, and a log: faster than Postfix
// would take them on.
func copies(t *testing.T, h *lab.Host, a lab.Audit, id string, n int) []string {
	t.Helper()
	from := a.Found[id][0].Path
	text, err := os.ReadFile(from)
	must(t, err)
	info, err := os.Stat(from)
	must(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	log, err := os.ReadFile(filepath.Join(h.Spool(), "defer", filepath.Base(from)[:1], filepath.Base(from)))
	must(t, err)
	put := func(text []byte, mode os.FileMode, path func(inode uint64) string) {
		f, err := os.CreateTemp(h.Spool(), ".copy")
		must(t, err)
		_, err = f.Write(text)
		must(t, err)
		info, err := f.Stat()
		must(t, err)
		to := path(info.Sys().(*syscall.Stat_t).Ino)
		must(t, f.Chown(int(owner.Uid), int(owner.Gid)))
		must(t, os.Chtimes(f.Name(), time.Time{}, time.Now().Add(time.Hour)))
		must(t, f.Chmod(mode))
		must(t, f.Close())
		if _, err := os.Stat(filepath.Dir(to)); err != nil {
			must(t, os.Mkdir(filepath.Dir(to), 0o700))
			must(t, os.Chown(filepath.Dir(to), int(owner.Uid), int(owner.Gid)))
		}
		must(t, os.Rename(f.Name(), to))
	}
	var all []string
	for i := range n {
		fresh := fmt.Sprintf("%s%05d", id[:len(id)-5], i+1)
		var name string
		put(bytes.ReplaceAll(text, []byte(id), []byte(fresh)), 0o700, func(inode uint64) string {
			name = fmt.Sprintf("%05X%X", i*47%1000000, inode)
			return filepath.Join(h.Spool(), "deferred", name[:1], name)
		})
		put(log, 0o600, func(uint64) string { return filepath.Join(h.Spool(), "defer", name[:1], name) })
		all = append(all, fresh)
	}
	return all
}

// twoOf are messages to be copied, one spam and one ham, deferred.
func twoOf(t *testing.T, h *lab.Host) (a lab.Audit, spam, ham string) {
	t.Helper()
	two := []lab.Message{
		{ID: "bulk-spam-00000", Sender: "spam@far.example", Recipients: []string{"user@domain.example"}, Subject: "x", Body: "buy\n"},
		{ID: "bulk-ham-00000", Sender: "ham@far.example", Recipients: []string{"user@domain.example"}, Subject: "x", Body: "hello\n"},
	}
	must(t, h.Inject(t.Context(), two))
	return await(t, h, map[string]int{"deferred": 2}), two[0].ID, two[1].ID
}

// Many messages go in batches; a worker that is killed between two of them is
// carried on, and what is deleted is counted once.
func TestDeleteMany(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	a, spam, ham := twoOf(t, h)
	const n = 20000
	copies(t, h, a, spam, n-1)
	copies(t, h, a, ham, 199)
	args := []string{"delete", "-m", "sender:spam@far.example", "-y", "--expect", strconv.Itoa(n)}
	began := time.Now()
	r := start(t, f, args...)
	id := r.run()
	awaitJournal(t, h, id, "intent", 5)
	kill9(t, h, workerForm)
	if got := r.wait(); got.status != 2 || !strings.Contains(got.err+got.out, "spoolsweep resume "+id) {
		t.Errorf("want exit status 2, and what to type; got %v", got)
	}
	if left := len(files(t, h, "deferred")); left <= 200 || left >= n {
		t.Fatalf("%d are left: killed in the wrong moment for this test", left)
	}
	doc, got := spoolsweepJSON(t, f, "resume", id, "-y")
	var done stage.Removed
	if !hostIn(t, doc, h).Latest("delete", &done) || got.status != 0 || done.Matched != n || done.Deleted+done.Gone != n || done.Gone > 500 || done.Failed != 0 { // of the batch that was open
		t.Errorf("deleted %+v of %d: %v", done, n, got)
	}
	t.Logf("%d deleted in %v, two starts of the worker included; %d batches", n, time.Since(began), journaled(t, h, id, "outcome"))
	if batches := journaled(t, h, id, "outcome"); batches < n/500 {
		t.Errorf("%d batches", batches)
	}
	now, err := h.Audit(t.Context())
	must(t, err)
	if got := now.In("deferred"); len(got) != 200 || slices.ContainsFunc(got, func(id string) bool { return !strings.HasPrefix(id, "bulk-ham-") }) {
		t.Errorf("%d messages are left: %q", len(got), some(got))
	}
	if logs := files(t, h, "defer"); len(logs) != 200 {
		t.Errorf("%d logs are left", len(logs))
	}
	alive(t, h)
}

// A purge takes only what the confirmed list calls spam: not ham that could not
// go back, nor what is unreadable, nor what is another file by now.
func TestPurge(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	messages := flooded(t, h, 5, map[string]int{"deferred": 200, "active": 100, "incoming": 100})
	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y"))
	if r := ends(t, 2, f, "purge", id, "-y", "--expect", "0"); !strings.Contains(r.err, "is not finished") {
		t.Errorf("purge of a run that waits: %v", r)
	}
	a, err := h.Audit(t.Context())
	must(t, err)

	// Two ham messages cannot go back: their names are taken, there and where
	// collisions go. One is damaged, one half-written.
	kept := map[string][]byte{} // path to bytes
	keep := func(path string) {
		text, err := os.ReadFile(path)
		must(t, err)
		kept[path] = text
	}
	var stuck []string
	for _, ham := range hams(messages)[:2] {
		at := a.Found[ham][0]
		queue, _, _ := strings.Cut(at.Dir, ".")
		name := filepath.Base(at.Path)
		must(t, os.MkdirAll(filepath.Join(h.Spool(), queue+".name-collisions"), 0o700))
		for _, other := range []string{filepath.Join(h.Spool(), "hold", name), filepath.Join(h.Spool(), queue+".name-collisions", name)} {
			clone(t, at.Path, other, "")
			keep(other)
		}
		keep(at.Path)
		stuck = append(stuck, ham)
	}
	clone(t, a.Found[spams(messages)[0]][0].Path, filepath.Join(h.Spool(), "incoming.spamfull/0BADBAD1"), "")
	must(t, os.Truncate(filepath.Join(h.Spool(), "incoming.spamfull/0BADBAD1"), 300))
	keep(filepath.Join(h.Spool(), "incoming.spamfull/0BADBAD1"))
	clone(t, a.Found[spams(messages)[0]][0].Path, filepath.Join(h.Spool(), "deferred.spamfull/0BADBAD2"), "")
	must(t, os.Chmod(filepath.Join(h.Spool(), "deferred.spamfull/0BADBAD2"), 0o600))
	keep(filepath.Join(h.Spool(), "deferred.spamfull/0BADBAD2"))
	r := spoolsweep(t, f, "resume", id, "-y", "-e", rulesFile(t, floodRules(h)), "-e", "rate=0", "-e", "live_max=0")
	if r.status == 3 { // it asks because of the unreadable one
		r = spoolsweep(t, f, "resume", id, "-y", "--expect", strconv.Itoa(len(hams(messages))))
	}
	if r.status != 0 || !strings.Contains(r.out, "2 messages  not moved") {
		t.Fatalf("want a finished run with two messages that did not move: %v", r)
	}
	changed := a.Found[spams(messages)[1]][0].Path
	must(t, os.Chtimes(changed, time.Now(), time.Now().Add(-time.Hour)))
	keep(changed)

	n := would(t, h, f, "purge", id)
	if n != len(spams(messages))-1 {
		t.Fatalf("would purge %d, want %d", n, len(spams(messages))-1)
	}
	doc, r := spoolsweepJSON(t, f, "purge", id, "-y", "--expect", strconv.Itoa(n))
	got := removed(t, hostIn(t, doc, h))
	stays := map[string]int64{"ham that did not go back": 2, "unreadable": 1, "half-written, never accepted": 1, "never judged": 1}
	if diff := cmp.Diff(stays, got.Stays); r.status != 0 || got.Matched != int64(n) || got.Deleted != int64(n) || got.Failed != 0 || got.Left != 5 || diff != "" {
		t.Errorf("purged %+v: %v\nstays (-want +got):\n%s", got, r, diff)
	}
	for path, text := range kept {
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, text) {
			t.Errorf("%s: %v, or other bytes", path, err)
		}
	}
	now, err := h.Audit(t.Context())
	must(t, err)
	lost := now.Lost(ids(messages))
	slices.Sort(lost)
	if want := slices.DeleteFunc(spams(messages), func(id string) bool { return id == spams(messages)[1] }); !cmp.Equal(lost, want) {
		t.Errorf("%d messages are gone, want %d", len(lost), len(want))
	}
	for _, ham := range hams(messages) {
		if aside := slices.ContainsFunc(now.Found[ham], func(p lab.Place) bool { return strings.HasSuffix(p.Dir, ".spamfull") }); aside != slices.Contains(stuck, ham) {
			t.Errorf("ham %s is at %v", ham, now.Found[ham])
		}
	}
	alive(t, h)
	if _, s := checkLedger(t, h, f, id); s.Purged != int64(n) || s.Left != 5 {
		t.Errorf("ledger %+v, want %d purged and 5 left", s, n)
	}
	// Whatever is left goes by name.
	succeeds(t, f, "purge", id, "--include-ham", "-y", "--expect", "5")
	if dirs := asideDirs(t, h); len(dirs) > 0 {
		t.Errorf("left %q", dirs)
	}
}

// A purge that is killed is carried on by resume, and counts each message once.
func TestPurgeKilled(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	a, spam, ham := twoOf(t, h)
	const n = 20000
	copies(t, h, a, spam, n-1)
	copies(t, h, a, ham, 49)
	rules := rulesFile(t, "spam: {sender: spam@far.example}\n")
	id := runIn(t, succeeds(t, f, "run", "backscatter-deferred", "-y", "-e", rules, "-e", "rate=0", "-e", "live_max=0"))
	r := start(t, f, "purge", id, "-y", "--expect", strconv.Itoa(n))
	before := journaled(t, h, id, "intent")
	awaitJournal(t, h, id, "intent", before+3)
	kill9(t, h, workerForm)
	if got := r.wait(); got.status != 2 || !strings.Contains(got.err+got.out, "spoolsweep resume "+id) {
		t.Errorf("want exit status 2, and what to type; got %v", got)
	}
	half := len(files(t, h, "deferred.spamfull"))
	if half == 0 || half == n {
		t.Fatalf("%d are left: killed in the wrong moment for this test", half)
	}
	doc, got := spoolsweepJSON(t, f, "resume", id, "-y")
	var done stage.Removed
	if !hostIn(t, doc, h).Latest("purge", &done) || got.status != 0 || done.Matched != n || done.Deleted != n || done.Failed != 0 || done.Left != 0 {
		t.Errorf("purged %+v of %d: %v", done, n, got)
	}
	if dirs := asideDirs(t, h); len(dirs) > 0 {
		t.Errorf("left %q", dirs)
	}
	now, err := h.Audit(t.Context())
	must(t, err)
	if got := now.In("deferred"); len(got) != 50 || slices.ContainsFunc(got, func(id string) bool { return !strings.HasPrefix(id, "bulk-ham-") }) {
		t.Errorf("%d messages are left: %q", len(got), some(got))
	}
	checkReasons(t, h, now, now.In("deferred"))
	alive(t, h)
}

// clone makes a copy of a queue file with its owner, mode and time, and another
// text in the place of one of its own.
func clone(t *testing.T, from, to, id string, other ...string) {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	if id != "" {
		text = bytes.ReplaceAll(text, []byte(id), []byte(other[0]))
	}
	info, err := os.Stat(from)
	must(t, err)
	owner := info.Sys().(*syscall.Stat_t)
	must(t, os.WriteFile(to, text, 0o600))
	must(t, os.Chown(to, int(owner.Uid), int(owner.Gid)))
	must(t, os.Chtimes(to, time.Time{}, info.ModTime()))
	must(t, os.Chmod(to, info.Mode()))
}

// Companions: the logs of messages in deferred, active and incoming, through all
// that can happen to their messages. What Postfix tells of a deferred message is
// the same after each, and a bounce that was due when its message was set aside
// is sent once that is back.
func TestCompanions(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h}, queueWarn)
	// Of two recipients one is refused for good, which is logged in bounce, while
	// the other's server never answers: the bounce is due when both are done.
	_, err := h.Run(t.Context(), "postconf", "-M", "refusing/unix=refusing unix - n n - - pipe user=nobody argv=/bin/false")
	must(t, err)
	must(t, h.Postconf(t.Context(), "transport_maps = inline:{ { gone.example = refusing: } }"))
	message := func(kind string, i int, spam bool, to ...string) lab.Message {
		m := lab.Message{ID: fmt.Sprintf("%s-%d", kind, i), Sender: "writer@elsewhere.example", Recipients: to, Subject: kind, Body: "Hello\n", Spam: spam}
		if spam {
			m.Sender = "spam@elsewhere.example"
		}
		return m
	}
	var messages []lab.Message
	for i := range 6 {
		messages = append(messages, message("deferred", i, i >= 4, "one@domain.example", "two@domain.example"))
	}
	must(t, h.Inject(t.Context(), messages))
	await(t, h, map[string]int{"deferred": 6})
	must(t, h.Flood(lab.Hold))
	for i := range 6 {
		m := message("held", i, i >= 4, "who@gone.example", "one@domain.example")
		messages = append(messages, m)
		must(t, h.Inject(t.Context(), []lab.Message{m}))
	}
	eventually(t, time.Minute, "a bounce log for each of the six", func() bool { return len(files(t, h, "bounce")) == 6 })
	// A new queue manager moves what was in active to incoming, and takes a few.
	must(t, h.Postconf(t.Context(), "qmgr_message_active_limit = 3"))
	var a lab.Audit
	eventually(t, time.Minute, "six messages in active and incoming", func() bool {
		a, err = h.Audit(t.Context())
		must(t, err)
		return len(a.In("active")) > 0 && len(a.In("incoming")) > 0 && len(a.In("active"))+len(a.In("incoming")) == 6
	})
	was := a
	name := func(id string) string { return queueID(was, id) }
	if got := files(t, h, "bounce"); len(got) != 6 {
		t.Fatalf("%d bounce logs", len(got))
	}
	why, logs := reasons(t, h, "deferred"), map[string][]byte{}
	for _, dir := range []string{"defer", "bounce"} {
		for id := range files(t, h, dir) {
			text, err := os.ReadFile(logPath(t, h, dir, id))
			must(t, err)
			logs[dir+"/"+id] = text
		}
	}
	kind := func(k string, i int) string { return name(fmt.Sprintf("%s-%d", k, i)) }
	planted := map[string][]byte{} // path to bytes
	// told compares what Postfix tells with what it told before, for these.
	told := func(when string, numbers ...int) {
		t.Helper()
		now, want := reasons(t, h, "deferred"), map[string][]string{}
		for _, i := range numbers {
			want[kind("deferred", i)] = why[kind("deferred", i)]
		}
		for id := range now { // the others' recipients are tried meanwhile
			if why[id] == nil || planted[filepath.Join(h.Spool(), "deferred", id[:1], id)] != nil {
				delete(now, id)
			}
		}
		if diff := cmp.Diff(want, now); diff != "" {
			t.Errorf("%s: reasons that Postfix tells (-want +got):\n%s", when, diff)
		}
	}
	// stands looks that a log has its bytes at one place.
	stands := func(when, dir, log string) {
		t.Helper()
		if now, err := os.ReadFile(logPath(t, h, dir, filepath.Base(log))); err != nil || !bytes.Equal(now, logs[log]) {
			t.Errorf("%s: %s is not in %s as it was: %v", when, log, dir, err)
		}
	}
	told("at first", 0, 1, 2, 3, 4, 5)

	id := runIn(t, ends(t, 3, f, "run", "backscatter", "-y", "-e", "queues=[incoming, active, deferred]"))
	told("set aside")
	for i := range 6 {
		stands("set aside", "bounce", "bounce/"+kind("held", i))
		stands("set aside", "defer.spamfull", "defer/"+kind("deferred", i))
	}

	// Number 1 collides, number 2 does so twice and stays aside.
	a, err = h.Audit(t.Context())
	must(t, err)
	moved := map[string][]byte{}
	plant := func(from, to string) {
		// A directory that is not the mail owner's ends the queue manager.
		if dir := filepath.Dir(to); os.Mkdir(dir, 0o700) == nil {
			owner, err := os.Stat(filepath.Join(h.Spool(), "deferred"))
			must(t, err)
			must(t, os.Chown(dir, int(owner.Sys().(*syscall.Stat_t).Uid), int(owner.Sys().(*syscall.Stat_t).Gid)))
		}
		clone(t, from, to, "writer@elsewhere", "planted@elsewher")
		text, err := os.ReadFile(to)
		must(t, err)
		planted[to] = text
	}
	var collided []string
	for _, k := range []string{"deferred", "held"} {
		for _, i := range []int{1, 2} {
			at := a.Found[fmt.Sprintf("%s-%d", k, i)][0]
			queue, _, _ := strings.Cut(at.Dir, ".")
			if name := kind(k, i); i == 1 && k == "deferred" { // in the very place where it would go
				plant(at.Path, filepath.Join(h.Spool(), "deferred", name[:1], name))
			} else {
				plant(at.Path, filepath.Join(h.Spool(), "hold", name))
			}
			text, err := os.ReadFile(at.Path)
			must(t, err)
			if i == 2 {
				plant(at.Path, filepath.Join(h.Spool(), queue+".name-collisions", kind(k, i)))
				moved[at.Path] = text // not
			} else {
				to := filepath.Join(h.Spool(), queue+".name-collisions", kind(k, i))
				moved[to] = text
				collided = append(collided, to)
			}
		}
	}
	doc, r := spoolsweepJSON(t, f, "resume", id, "-y", "-e", rulesFile(t, "spam: {sender: spam@elsewhere.example}\n"), "-e", "rate=0", "-e", "live_max=0")
	var restored stage.Restored
	if !hostIn(t, doc, h).Latest("restore", &restored) || r.status != 0 || restored.Restored != 4 || restored.Collisions != 2 || restored.Failed != 2 || restored.Left != 6 {
		t.Fatalf("restored %+v: %v", restored, r)
	}
	bytesAre := func(when string, of map[string][]byte) {
		t.Helper()
		for path, text := range of {
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, text) {
				t.Errorf("%s: %s has other bytes: %v", when, path, err)
			}
		}
	}
	bytesAre("restored", planted)
	bytesAre("restored", moved)
	told("restored", 0, 3)
	stands("restored", "defer.name-collisions", "defer/"+kind("deferred", 1))
	stands("restored", "defer.spamfull", "defer/"+kind("deferred", 2))
	for _, i := range []int{1, 2, 4, 5} {
		stands("restored", "bounce", "bounce/"+kind("held", i))
	}

	// The names are free again: what stayed aside is put back, with its log.
	for path := range planted {
		must(t, os.Remove(path))
	}
	succeeds(t, f, "putback", id, "-y", "--expect", "2", "--rate", "0", "--live-max", "0")
	told("put back", 0, 2, 3)

	// The spam goes, with its logs and no others.
	doc, r = spoolsweepJSON(t, f, "purge", id, "-y", "--expect", "4")
	if got := removed(t, hostIn(t, doc, h)); r.status != 0 || got.Deleted != 4 || got.Left != 0 {
		t.Errorf("purged %+v: %v", got, r)
	}
	told("purged", 0, 2, 3)
	for _, i := range []int{4, 5} {
		for dir, k := range map[string]string{"bounce": "held", "defer": "deferred", "defer.spamfull": "deferred"} {
			if _, err := os.Stat(logPath(t, h, dir, kind(k, i))); !os.IsNotExist(err) {
				t.Errorf("purged: the log of %s in %s: %v", kind(k, i), dir, err)
			}
		}
	}
	stands("purged", "bounce", "bounce/"+kind("held", 1))
	stands("purged", "defer.name-collisions", "defer/"+kind("deferred", 1))
	if dirs := asideDirs(t, h); len(dirs) > 0 {
		t.Errorf("purged: left %q", dirs)
	}

	// Once their messages go out, the bounces that were due are sent: of those
	// that are live, and of no other.
	must(t, h.Flood(lab.Deliver))
	due := []string{"held-0", "held-2", "held-3"}
	bounced := func() []string {
		var all []string
		paths, err := filepath.Glob(filepath.Join(h.Dir, "delivered", "*"))
		must(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			must(t, err)
			if m := regexp.MustCompile(`(?m)^X-Lab-Id: (\S+)`).FindSubmatch(text); m != nil && bytes.Contains(text, []byte("Final-Recipient: rfc822; who@gone.example")) {
				all = append(all, string(m[1]))
			}
		}
		slices.Sort(all)
		return all
	}
	eventually(t, 2*time.Minute, "the bounces that were due", func() bool {
		_, err := h.Run(t.Context(), "postqueue", "-f")
		must(t, err)
		time.Sleep(200 * time.Millisecond) // no event tells
		return len(bounced()) >= len(due)
	})
	if got := bounced(); !cmp.Equal(got, due) {
		t.Errorf("bounces are sent of %q, want %q", got, due)
	}
	for _, path := range collided {
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, moved[path]) {
			t.Errorf("at the end %s has other bytes: %v", path, err)
		}
	}
}

// logPath is where a companion stands: flat, or in the directory of its first digit.
func logPath(t *testing.T, h *lab.Host, dir, id string) string {
	t.Helper()
	path := filepath.Join(h.Spool(), dir, id)
	if _, err := os.Stat(path); err != nil {
		return filepath.Join(h.Spool(), dir, id[:1], id)
	}
	return path
}
