package spool

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What Postfix's programs say of a configuration is what is told of it, with the
// file and the remedy. The lab's tests do it with the real ones.
func TestConfiguration(t *testing.T) {
	const says = "#!/bin/sh\necho \"$0: warning: overriding earlier entry\" >&2\necho \"$0: fatal: bad number in $2\" >&2\nexit 1\n"
	for name, row := range map[string]struct {
		changed string // file, after master started
		want    []string
		note    string
	}{
		"good":     {},
		"main.cf":  {want: []string{"/main.cf does not pass", "fatal: bad number in ", "postfix check"}},
		"changed":  {changed: "main.cf", note: "main.cf at "},
		"services": {changed: "master.cf", note: "master.cf at "},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil, 0)
			bin, conf := t.TempDir(), t.TempDir()
			text := "#!/bin/sh\nexit 0\n"
			if row.want != nil {
				text = says
			}
			h.must(os.WriteFile(filepath.Join(bin, "postmap"), []byte(text), 0o700))
			for _, file := range []string{"main.cf", "master.cf"} {
				h.must(os.WriteFile(filepath.Join(conf, file), nil, 0o600))
				when := time.Now().Add(-time.Hour)
				if file == row.changed {
					when = time.Now().Add(time.Hour)
				}
				h.must(os.Chtimes(filepath.Join(conf, file), when, when))
			}
			h.p.postconf, h.p.directory = []string{filepath.Join(bin, "postconf"), "-c", conf}, conf
			h.start()
			found, note := h.p.Configuration(t.Context())
			var all []string
			for _, f := range found {
				all = append(all, f.String())
			}
			if len(all) > 1 || (len(all) == 0) != (row.want == nil) {
				t.Errorf("found %q, want %q", all, row.want)
			}
			for _, want := range row.want {
				if !strings.Contains(strings.Join(all, "\n"), want) {
					t.Errorf("found %q, want %q in it", all, want)
				}
			}
			if (note == "") != (row.note == "") || !strings.Contains(note, row.note) {
				t.Errorf("note %q, want %q", note, row.note)
			}
		})
	}
}

func TestStoppedSince(t *testing.T) {
	h := newHost(t, nil, 0)
	if got := h.p.StoppedSince(); strings.Contains(got, h.p.LogFile) {
		t.Errorf("a log that is not there says %q", got)
	}
	const last = "Nov 25 03:00:02 chavez postfix/master[812]: terminating on signal 15"
	h.must(os.WriteFile(h.p.LogFile, []byte("Nov 24 03:00:02 chavez postfix/master[12]: terminating on signal 15\n"+last+"\nNov 25 03:00:03 chavez cron[1]: (root) CMD (true)\n"), 0o600))
	if got, want := h.p.StoppedSince(), h.p.LogFile+": "+last; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The reason stands before what postfix-script says of it, and counts more.
func TestComplaint(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"a: info\n":                    "",
		"a: warning: x\nb: info\n":     "a: warning: x",
		"a: fatal: x\nb: warning: y\n": "a: fatal: x",
		"postsuper: fatal: x\npostfix/postfix-script: fatal: Postfix integrity check failed!\n":   "postsuper: fatal: x",
		"postsuper: warning: x\npostfix/postfix-script: fatal: Postfix integrity check failed!\n": "postfix/postfix-script: fatal: Postfix integrity check failed!",
	} {
		if got := complaint([]byte(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
