package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"spoolsweep/remote/lab"
	"spoolsweep/spool/stage"
)

// exportedMail is a line of a manifest.
type exportedMail struct {
	End                                            bool
	Messages                                       int
	Whole                                          bool
	Host, Queue, ID, SHA256, File, Sender, Verdict string
	Bytes                                          int64
	QueueFile                                      string `json:"queue_file"`
	FileSHA256                                     string `json:"file_sha256"`
}

// manifest reads what an export has listed, and looks that it is whole and each file
// has its hash.
func manifest(t *testing.T, dir string) map[string]exportedMail {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "manifest.jsonl"))
	must(t, err)
	all := map[string]exportedMail{}
	lines, whole := 0, false
	for in := bufio.NewScanner(bytes.NewReader(text)); in.Scan(); {
		var e exportedMail
		must(t, json.Unmarshal(in.Bytes(), &e))
		if e.End {
			if whole = e.Whole; e.Messages != lines {
				t.Errorf("the end counts %d of %d", e.Messages, lines)
			}
			continue
		}
		lines, whole = lines+1, false
		all[e.ID] = e
		for name, sum := range map[string]string{e.File: e.FileSHA256, e.QueueFile: e.SHA256} {
			if name == "" {
				continue
			}
			b, err := os.ReadFile(filepath.Join(dir, name))
			must(t, err)
			if has := sha256.Sum256(b); hex.EncodeToString(has[:]) != sum {
				t.Errorf("%s has other bytes", name)
			}
		}
	}
	if !whole || len(all) != lines {
		t.Errorf("%d lines of %d messages, whole: %t", lines, len(all), whole)
	}
	return all
}

// likePostcat has the host's postcat print queue files, and compares.
func likePostcat(t *testing.T, h *lab.Host, dir string, mail map[string]exportedMail, paths map[string]string) {
	t.Helper()
	for _, id := range slicesOf(mail) {
		if paths[id] == "" {
			continue
		}
		want, err := h.Run(t.Context(), "postcat", "-hb", "/var/spool/postfix"+strings.TrimPrefix(paths[id], h.Spool()))
		must(t, err)
		got, err := os.ReadFile(filepath.Join(dir, mail[id].File))
		must(t, err)
		if string(got) != want {
			t.Errorf("%s: not what postcat prints:\n%q\nwant\n%q", id, got, want)
		}
	}
}

func slicesOf(mail map[string]exportedMail) []string {
	var all []string
	for id := range mail {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

// While mail of both kinds arrives and is tried, an export is of what matches and
// nothing else, byte for byte as postcat prints it; nothing happens to the mail.
func TestExportUnderArrivingMail(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	messages := flooded(t, h, 31, map[string]int{"deferred": 150, "active": 30, "incoming": 30})
	later := laterMail(h, 60, 32)
	rules := rulesFile(t, floodRules(h))
	dir := filepath.Join(t.TempDir(), "spam")
	args := []string{"export", "-e", rules, "--to", dir, "--format", "queue", "-o", "json"}
	arrived := make(chan error, 1)
	go func() {
		_, err := h.Trickle(t.Context(), later, 30*time.Millisecond)
		arrived <- err
	}()
	for done := false; !done; {
		select {
		case err := <-arrived:
			must(t, err)
			done = true
		default:
		}
		if done {
			// The last ones may just be on their way in.
			await(t, h, map[string]int{"deferred": 150, "active": 30, "incoming": 90})
		}
		doc, r := spoolsweepJSON(t, f, args...)
		if e := resultOf[stage.Exported](t, doc, h); r.status != 0 || e.Failed+e.Gone+e.Left != 0 || e.Matched != e.Done.Done {
			t.Fatalf("exported %+v: %v", e, r)
		}
	}
	all := append(slices.Clone(messages), later...)
	a, err := h.Audit(t.Context())
	must(t, err)
	if lost, twice := a.Lost(ids(all)), a.Twice(); len(lost)+len(twice) > 0 {
		t.Errorf("lost %d, twice %d", len(lost), len(twice))
	}
	want, paths := []string{}, map[string]string{}
	for _, id := range spams(all) {
		name := queueID(a, id)
		want = append(want, name)
		paths[name] = a.Found[id][0].Path
	}
	slices.Sort(want)
	mail := manifest(t, dir)
	if got := slicesOf(mail); !cmp.Equal(got, want) {
		t.Errorf("exported %d, want %d: %s", len(got), len(want), cmp.Diff(want, got))
	}
	likePostcat(t, h, dir, mail, paths)
	for id, e := range mail {
		now, err := os.ReadFile(paths[id])
		must(t, err)
		if has := sha256.Sum256(now); hex.EncodeToString(has[:]) != e.SHA256 || e.Bytes != int64(len(now)) || e.Verdict != "spam" {
			t.Errorf("%+v is not the queue file", e)
		}
	}
	alive(t, h)
}

// The link is cut for a while in the midst of an export that removes, while Postfix
// tries: what is gone from the host is here, and can be put back from its queue file.
func TestExportRemoveLinkCut(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	f := newFleet(t, []*lab.Host{h})
	a, spam, ham := twoOf(t, h)
	const n = 1500
	want := append(copies(t, h, a, spam, n-1), spam)
	before := files(t, h, "deferred")
	dir := filepath.Join(t.TempDir(), "spam")
	r := start(t, f, "export", "--remove", "-m", "sender:spam@far.example", "--to", dir, "-y", "--expect", strconv.Itoa(n), "--reconnect", "1s", "-T", "2s")
	id := r.run()
	eventually(t, time.Minute, "first removal", func() bool { return len(files(t, h, "deferred")) < len(before) })
	must(t, h.LinkDown())
	got := r.wait()
	must(t, h.LinkUp())
	here := func() (all []string) {
		names, err := filepath.Glob(filepath.Join(dir, "*.queue"))
		must(t, err)
		for _, name := range names {
			all = append(all, strings.Split(filepath.Base(name), ".")[2])
		}
		return all
	}
	eventually(t, time.Minute, "end of the worker", func() bool { // what was answered is still removed
		_, err := h.Run(t.Context(), "flock", "-n", "/var/spool/postfix", "true")
		return err == nil
	})
	check := func() {
		t.Helper()
		now, has := files(t, h, "deferred"), here()
		for name := range before {
			if _, stays := now[name]; !stays && !slices.Contains(has, name) {
				t.Errorf("%s is neither there nor here", name)
			}
		}
	}
	check()
	if got.status != 0 {
		if next := "spoolsweep resume " + id + " --to " + dir; !strings.Contains(got.err, next) {
			t.Errorf("it does not say %q: %v", next, got)
		}
		succeeds(t, f, "resume", id, "--to", dir)
	}
	check()
	mail := manifest(t, dir)
	if len(mail) != n {
		t.Errorf("%d are here, want %d", len(mail), n)
	}
	a, err := h.Audit(t.Context())
	must(t, err)
	if left := a.In("deferred"); !cmp.Equal(left, []string{ham}) {
		t.Errorf("deferred has %q", some(left))
	}
	if r := succeeds(t, f, "report", id, "--ledger"); !strings.Contains(r.out, fmt.Sprintf("deleted %d + stayed 0", n)) {
		t.Errorf("the ledger says something else: %v", r)
	}

	// Back it goes, as the README tells: Postfix takes it on anew.
	must(t, h.Flood(lab.Deliver))
	back := filepath.Join(h.Spool(), ".back") // where the host sees it
	must(t, os.Mkdir(back, 0o700))
	for _, e := range mail {
		text, err := os.ReadFile(filepath.Join(dir, e.QueueFile))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(back, e.ID), text, 0o600))
	}
	_, err = h.Run(t.Context(), "sh", "-c", "cd /var/spool/postfix/.back && for f in *; do install -o postfix -m 700 $f ../maildrop/$f; done && postkick public pickup W && rm -r ../.back")
	must(t, err)
	checkDeliveredIDs(t, h, append(want, ham))
	alive(t, h)
}

// On a disk that is full to the last byte there is no room for a record, which is
// told with the remedy; with it, or with little room, the export makes some.
func TestExportRemoveFullDisk(t *testing.T) {
	t.Parallel()
	h := hosts(t, 1)[0]
	do := func(script string) string {
		t.Helper()
		out, err := h.Run(t.Context(), "sh", "-c", script)
		must(t, err)
		return out
	}
	do(`postfix stop; mkdir -p /mnt/full && mount -t tmpfs -o size=16m,mode=0755 tmpfs /mnt/full && mkdir /mnt/full/q &&
		cp -a /var/spool/postfix/. /mnt/full/q/ && mount --bind /mnt/full/q /var/spool/postfix &&
		postconf -e defer_transports=smtp,local,virtual,relay,discard message_size_limit=100000 && touch -d '1 minute ago' /etc/postfix/main.cf && postfix start`)
	t.Cleanup(func() {
		if _, err := h.Run(context.Background(), "sh", "-c", "postfix stop; umount /var/spool/postfix /mnt/full; postfix start"); err != nil {
			t.Error(err)
		}
	})
	const n = 250
	do(fmt.Sprintf(`for i in $(seq %d); do { printf 'Subject: %%s\n\n' $i; head -c 20000 /dev/zero | tr '\0' x | fold -w 70; } | sendmail -f spam@far.example user@nowhere.example; done`, n))
	count := func() int {
		k, err := strconv.Atoi(strings.TrimSpace(do("find /var/spool/postfix/deferred -type f | wc -l")))
		must(t, err)
		return k
	}
	free := func() int {
		k, err := strconv.Atoi(strings.TrimSpace(do("df -k --output=avail /mnt/full | tail -1")))
		must(t, err)
		return k
	}
	eventually(t, time.Minute, "deferred mail", func() bool { return count() == n })
	do("dd if=/dev/zero of=/mnt/full/fill bs=4k 2>/dev/null; true")
	if k := free(); k != 0 {
		t.Fatalf("%d kB are free", k)
	}
	dir := filepath.Join(t.TempDir(), "spam")
	args := []string{"export", "--remove", "-m", "sender:spam@far.example", "--to", dir, "-y", "--expect"}
	full := newFleet(t, []*lab.Host{h}, "state_directory: /mnt/full/state")
	if r := ends(t, 2, full, append(args, strconv.Itoa(n))...); !strings.Contains(r.err, "no space left") || !strings.Contains(r.err, "state_directory names a folder on another file system") {
		t.Errorf("no remedy: %v", r)
	}
	if k := count(); k != n {
		t.Fatalf("%d of %d are left", k, n)
	}
	// The remedy.
	apart := newFleet(t, []*lab.Host{h}, "state_directory: /run/spoolsweep")
	doc, r := spoolsweepJSON(t, apart, "export", "--remove", "-m", "header.Subject:1", "-m", "header.Subject:2", "--to", dir, "-y", "--expect", strconv.Itoa(withDigits(n)))
	if e := resultOf[stage.Exported](t, doc, h); r.status != 0 || e.Done.Done != int64(withDigits(n)) {
		t.Errorf("removed %+v: %v", e, r)
	}
	if k := free(); k < 20*withDigits(n) {
		t.Errorf("%d kB are free", k)
	}
	// With little room for the record it frees what it needs.
	do("dd if=/dev/zero of=/mnt/full/fill2 bs=4k 2>/dev/null; truncate -s -400k /mnt/full/fill2")
	rest := n - withDigits(n)
	doc, r = spoolsweepJSON(t, full, append(args, strconv.Itoa(rest))...)
	if e := resultOf[stage.Exported](t, doc, h); r.status != 0 || e.Done.Done != int64(rest) || count() != 0 {
		t.Errorf("removed %+v, %d are left: %v", e, count(), r)
	}
	if mail := manifest(t, dir); len(mail) != n {
		t.Errorf("%d are here, want %d", len(mail), n)
	}
}

// withDigits is how many of the numbers from 1 on have a 1 or a 2 in them.
func withDigits(n int) (k int) {
	for i := range n {
		if strings.ContainsAny(strconv.Itoa(i+1), "12") {
			k++
		}
	}
	return k
}
