package spool

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestInspect(t *testing.T) {
	for name, row := range map[string]struct {
		make func(h *host)
		want string
	}{
		"nothing":            {func(h *host) {}, ""},
		"one letter":         {func(h *host) { h.write("hold", "Z", "x", 0o700) }, "hold/Z is taken for a hash directory"},
		"odd name":           {func(h *host) { h.write("hold", "odd-name", "x", 0o700) }, "hold/odd-name is no queue id"},
		"wrong inode":        {func(h *host) { h.write("hold", "AAAAA1", "x", 0o700) }, "hold/AAAAA1 has another inode"},
		"of cleanup":         {func(h *host) { h.write("hold", "764007.5087", "x", 0o600) }, ""},
		"in what goes aside": {func(h *host) { h.write("incoming", "odd-name", "x", 0o700) }, ""},
		"no directory":       {func(h *host) { h.must(os.Remove(h.at("hold"))); h.must(os.WriteFile(h.at("hold"), nil, 0o600)) }, "hold cannot be opened"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 0)
			row.make(h)
			before := h.account()
			found, err := Inspect(h.p, []Queue{Incoming}, JournalSpace(100), h.state())
			h.must(err)
			var all []string
			for _, f := range found {
				all = append(all, f.String())
			}
			if row.want == "" && len(all) > 0 || row.want != "" && !strings.Contains(strings.Join(all, "\n"), row.want) {
				t.Errorf("got %q, want %q", all, row.want)
			}
			if diff := cmp.Diff(before, h.account()); diff != "" {
				t.Errorf("it changed:\n%s", diff)
			}
		})
	}
}

// The room that is needed is that of new mail, and of what the run itself writes,
// which grows with the messages that go aside (reserved of package run).
func TestInspectSpace(t *testing.T) {
	h := newHost(t, nil, 0)
	const free = 1 << 30
	for _, tt := range []struct {
		minFree, sizeLimit, reserved int64
		v                            volume
		want                         string // a part of what is found
	}{
		{0, 10 << 20, 3 << 20, volumeOf("", free, 5000, 4000), ""},
		{0, 0, 0, volumeOf("", free, 0, 0), ""}, // btrfs counts no inodes
		{0, 10 << 20, 3 << 20, volumeOf("", free, 5000, 999), "has 999 inodes free"},
		{2 << 30, 10 << 20, 3 << 20, volumeOf("", free, 5000, 4000), "has 1024 MB free for new mail"},
		{0, 700 << 20, 3 << 20, volumeOf("", free, 5000, 4000), "and 1054 MB are needed"},
		{0, 10 << 20, 1100 << 20, volumeOf("", free, 5000, 4000), "has 1024 MB free"},
		{0, 0, 15 << 20, volumeOf("", 16<<20, 5000, 4000), ""},
		{0, 0, 15<<20 + 1, volumeOf("", 16<<20, 5000, 4000), "has 16 MB free for new mail (queue_minfree, 1.5 times message_size_limit) and the run, and 17 MB are needed"},
	} {
		h.p.MinFree, h.p.SizeLimit = tt.minFree, tt.sizeLimit
		var found []string
		h.p.inspectSpace("/queue", tt.v, tt.reserved, nil, func(path, why, remedy string) {
			found = append(found, path+" "+why+": "+remedy)
		})
		if all := strings.Join(found, "; "); (all == "") != (tt.want == "") || !strings.Contains(all, tt.want) {
			t.Errorf("%+v: got %q", tt, all)
		}
	}
	// Apart, each needs its own: the records lie elsewhere.
	h.p.MinFree, h.p.SizeLimit = 0, 0
	var found []string
	add := func(path, why, remedy string) { found = append(found, path+" "+why+": "+remedy) }
	h.p.inspectSpace("/queue", volumeOf("", free, 0, 0), 1237<<20, &records{"/state", volumeOf("", free, 0, 0)}, add)
	if len(found) != 1 || !strings.HasPrefix(found[0], "/state has 1024 MB free for the run's records, and 1237 MB are needed: make room, or name another state_directory") {
		t.Errorf("apart: %q", found)
	}
}

func TestCountAll(t *testing.T) {
	h := newHost(t, []string{"deferred", "defer"}, 1)
	h.write("incoming", "AAAAA1", "1", 0o700)
	h.write("deferred/D", "DAAAA4", "2", 0o700)
	h.write("defer/D", "DAAAA4", "log", 0o600)
	h.write("incoming.spamfull.2", "AAAAA1", "3", 0o700)
	h.write("defer.spamfull", "AAAAA1", "log", 0o600)
	c, err := CountAll(h.p, time.Time{})
	h.must(err)
	want := map[Queue]Count{Maildrop: {}, Incoming: {Messages: 1}, Active: {}, Deferred: {Messages: 1}, Hold: {}, Corrupt: {}}
	if diff := cmp.Diff(want, c.Queues); diff != "" {
		t.Errorf("queues (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]Leftover{"incoming.spamfull.2": {Count: Count{Messages: 1}}}, c.SetAside); diff != "" {
		t.Errorf("set aside (-want +got):\n%s", diff)
	}
	if c.Messages != 2 || c.Postfix != "stopped" {
		t.Errorf("got %+v", c)
	}
}

func TestAuto(t *testing.T) {
	for _, row := range []struct {
		count map[Queue]int64
		want  []Queue
	}{
		{map[Queue]int64{Incoming: 300, Active: 200, Deferred: 500, Maildrop: 500, Hold: 9000}, nil},
		{map[Queue]int64{Incoming: 300, Active: 201}, []Queue{Incoming, Active}},
		{map[Queue]int64{Deferred: 501}, []Queue{Deferred}},
		{map[Queue]int64{Maildrop: 501, Active: 501, Deferred: 501}, []Queue{Maildrop, Incoming, Active, Deferred}},
	} {
		if got := auto(row.count, 500); !slices.Equal(got, row.want) {
			t.Errorf("%v: got %v, want %v", row.count, got, row.want)
		}
	}
}

func TestChoose(t *testing.T) {
	h := newHost(t, nil, 0)
	for _, row := range []struct {
		names []string
		want  []Queue
		err   string
	}{
		{[]string{"deferred", "incoming", "deferred"}, []Queue{Deferred, Incoming}, ""},
		{[]string{"auto"}, nil, ""},
		{[]string{"auto", "maildrop"}, nil, ""},
		{[]string{"auto", "corrupt"}, nil, "cannot be set aside"},
		{[]string{"corrupt"}, nil, "cannot be set aside"},
		{[]string{"defer"}, nil, "no queue"},
		{[]string{"../etc"}, nil, "no queue"},
	} {
		got, err := Choose(h.p, row.names, 500)
		if !slices.Equal(got, row.want) || (err == nil) != (row.err == "") || err != nil && !strings.Contains(err.Error(), row.err) {
			t.Errorf("%v: got %v, %v", row.names, got, err)
		}
	}
}

// What is named beside auto goes with the full queues, if it holds anything, and
// stays where no queue is full.
func TestChooseBeside(t *testing.T) {
	for _, row := range []struct {
		maildrop, incoming int
		names              []string
		want               []Queue
	}{
		{1, 3, []string{"auto", "maildrop"}, []Queue{Incoming, Active, Maildrop}},
		{1, 3, []string{"maildrop", "Auto"}, []Queue{Incoming, Active, Maildrop}},
		{1, 3, []string{"auto", "maildrop", "hold"}, []Queue{Incoming, Active, Maildrop}},
		{1, 3, []string{"auto"}, []Queue{Incoming, Active}},
		{0, 3, []string{"auto", "maildrop"}, []Queue{Incoming, Active}},
		{3, 3, []string{"auto", "maildrop"}, []Queue{Maildrop, Incoming, Active}},
		{3, 0, []string{"auto", "incoming"}, []Queue{Maildrop}},
		{2, 2, []string{"auto", "maildrop"}, nil},
	} {
		h := newHost(t, nil, 0)
		for i := range row.maildrop {
			h.write("maildrop", fmt.Sprintf("AAAAA%d", i), "x", 0o744)
		}
		for i := range row.incoming {
			h.write("incoming", fmt.Sprintf("BBBBB%d", i), "x", 0o700)
		}
		if got, err := Choose(h.p, row.names, 2); err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%+v: got %v, %v", row, got, err)
		}
	}
}

func TestServiceIn(t *testing.T) {
	for groups, want := range map[string]string{
		"0::/system.slice/system-postfix.slice/postfix@-.service\n": "postfix@-.service",
		"12:pids:/system.slice/postfix.service\n0::/user.slice\n":   "postfix.service",
		"0::/user.slice/user-0.slice/session-3.scope\n":             "",
		"0::/system.slice/ssh.service\n":                            "",
		"0::/system.slice/postfixadmin.service.d/other.service\n":   "",
		"": "",
	} {
		if got := serviceIn(groups); got != want {
			t.Errorf("%q: got %q, want %q", groups, got, want)
		}
	}
}

func TestNetworks(t *testing.T) {
	got := networks("127.0.0.0/8 [::1]/128, 192.0.2.7 hash:/etc/postfix/nets")
	var text []string
	for _, p := range got {
		text = append(text, p.String())
	}
	if diff := cmp.Diff([]string{"127.0.0.0/8", "::1/128", "192.0.2.7/32"}, text); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A directory that a purge has emptied and removed while somebody counts holds
// nothing; that is no error.
func TestListRemoved(t *testing.T) {
	for _, inside := range []string{"", "A"} {
		path := filepath.Join(t.TempDir(), "active.spamfull")
		if err := os.MkdirAll(filepath.Join(path, inside), 0o700); err != nil {
			t.Fatal(err)
		}
		dir, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := walk(dir, func(c Chunk) error { t.Errorf("found %+v", c); return nil }); err != nil {
			t.Errorf("walk: %v", err)
		}
		if n, err := newCounter(time.Time{}, 0).messages(dir); err != nil || n.messages != 0 {
			t.Errorf("count: %+v, %v", n, err)
		}
	}
}

// Each message is listed once, in chunks that grow, in the order of the inodes.
func TestWalkOrder(t *testing.T) {
	path := t.TempDir()
	want := map[string]bool{}
	for i := range 3*chunkNames + 7 {
		id := testID(i)
		want[id] = true
		if err := os.WriteFile(filepath.Join(path, id), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	var sizes []int
	err = walk(dir, func(c Chunk) error {
		sizes = append(sizes, len(c.IDs))
		var last uint64
		for _, id := range c.IDs {
			if !want[id] {
				t.Errorf("%s: there twice, or never", id)
			}
			delete(want, id)
			inode, err := inodeAt(dir, id)
			if err != nil {
				return err
			}
			if inode < last && runtime.GOOS == "linux" {
				t.Errorf("%s: inode %d comes after %d", id, inode, last)
			}
			last = inode
		}
		return nil
	})
	if err != nil || len(want) > 0 {
		t.Errorf("%v; not listed: %d", err, len(want))
	}
	if d := cmp.Diff([]int{chunkNames, 2 * chunkNames, 7}, sizes); d != "" {
		t.Error(d)
	}
}
