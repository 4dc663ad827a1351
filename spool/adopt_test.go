package spool

import (
	"os"
	"slices"
	"testing"
)

// What was set aside by hand is this run's after it was taken on, also after a
// death, beside what the run sets aside itself, and goes back as that does.
func TestAdopt(t *testing.T) {
	h := newHost(t, []string{"deferred", "defer"}, 1)
	h.write("incoming.spamfull", "AAAAA1", "by hand", 0o700)
	h.write("deferred.spamfull/D", "DAAAA4", "by hand, deferred", 0o700)
	h.write("defer.spamfull/D", "DAAAA4", "its log", 0o600)
	h.write("incoming", "BBBBB1", "by the run", 0o700)
	h.start()
	w := h.open()
	h.must(w.Prepare([]Queue{Incoming}))
	for _, name := range []string{"incoming.spamfull", "deferred.spamfull", "defer.spamfull", "incoming.spamfull"} {
		if s, err := w.Adopt(name); err != nil || s.Aside != name {
			t.Fatalf("%s: %+v, %v", name, s, err)
		}
	}
	if open := w.openWants(); len(open) != 1 || open[0].Aside != "incoming.spamfull.2" {
		t.Errorf("the section that is prepared has %+v", open)
	}
	w = h.open()
	sets, err := w.SetsAside()
	h.must(err)
	want := []Set{{Queue: Incoming, Aside: "incoming.spamfull"}, {Queue: Deferred, Aside: "deferred.spamfull"}, {Queue: Defer, Aside: "defer.spamfull"}}
	if !slices.Equal(sets, want) {
		t.Errorf("after a death %+v is aside, want %+v", sets, want)
	}
	w = h.setAside(Incoming)
	moved, left, err := w.PutBack(t.Context(), []Mail{h.mail("incoming.spamfull", "AAAAA1"), h.mail("deferred.spamfull/D", "DAAAA4"), h.mail("incoming.spamfull.2", "BBBBB1")}, Options{}, quiet)
	if err != nil || moved.Restored != 3 || len(left) > 0 {
		t.Errorf("%+v, left %v, %v", moved, left, err)
	}
	h.check(map[string]string{"by hand": "incoming", "by hand, deferred": "deferred/D", "its log": "defer/D", "by the run": "incoming"})
}

// Nothing is taken on that is not there, is a link, or is another's name.
func TestAdoptRefuses(t *testing.T) {
	h := newHost(t, nil, 0)
	h.must(os.Mkdir(h.at("hold.spamfull"), 0o700))
	h.must(os.Symlink("hold.spamfull", h.at("incoming.spamfull")))
	h.must(os.WriteFile(h.at("maildrop.spamfull"), nil, 0o600))
	w := h.open()
	for _, name := range []string{"incoming.spamfull", "maildrop.spamfull", "active.spamfull", "hold", "hold.spamfull/", "../hold.spamfull", "corrupt.spamfull", "pid.spamfull", ""} {
		if s, err := w.Adopt(name); err == nil {
			t.Errorf("%q is taken on as %+v", name, s)
		}
	}
	if sets, err := w.SetsAside(); err != nil || len(sets) > 0 {
		t.Errorf("%+v, %v is aside", sets, err)
	}
}
