package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/run"
)

// A clock is said to be wrong only where no wait can explain what it shows.
func TestSkew(t *testing.T) {
	asked := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	at := func(seconds int) time.Time { return asked.Add(time.Duration(seconds) * time.Second) }
	for _, tt := range []struct {
		began, ended, answered int // seconds after it was asked, each by its own clock
		want                   time.Duration
		says                   string
	}{
		{0, 0, 0, 0, ""},
		{1, 9, 10, 0, ""},
		{5, 5, 5, 0, ""},
		{9, 14, 10, 4 * time.Second, ""}, // tolerated
		{61, 62, 2, time.Minute, "1m0s ahead of"},
		{-3, 2, 5, -3 * time.Second, ""},
		{-7200, -7199, 1, -2 * time.Hour, "2h0m0s behind"},
		{-20, 300, 60, 4 * time.Minute, "ahead of"}, // it was set meanwhile
	} {
		if got := skew(at(tt.began), at(tt.ended), asked, at(tt.answered)); got != tt.want {
			t.Errorf("%+v: got %v", tt, got)
		}
		says := skewWarning(&run.Preflight{Began: at(tt.began), Ended: at(tt.ended)}, asked, at(tt.answered))
		if (says == "") != (tt.says == "") || !strings.Contains(says, tt.says) {
			t.Errorf("%+v: says %q", tt, says)
		}
	}
	if says := skewWarning(new(run.Preflight), asked, asked); says != "" {
		t.Errorf("a host that does not tell its time: %q", says)
	}
}

// Hosts whose keys are unknown stand in one list, with what to compare and to
// type; what is found of the others is in the document, too.
func TestPreflightDocument(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier", "relay01").withFlood(200)
	none := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := f.spoolsweep("run", "backscatter", "--check", "--known-hosts", none)
	r.want(t, 4, "unknown host keys, of 3 of 3 hosts:", "remedy: compare each fingerprint", "ssh-keyscan -H ", ">> "+none)
	list := regexp.MustCompile(`(?m)^\w+ +\| UNREACHABLE: \w+ .*unknown host key ssh-ed25519 SHA256:\S+$`).FindAllString(r.err, -1)
	if len(list) != 3 || strings.Count(r.err, "SHA256:") != 3 {
		t.Errorf("want each host's fingerprint once:\n%s", r.err)
	}
	f.spoolsweep("ping", "--known-hosts", none).want(t, 4, "unknown host keys, of 3 of 3 hosts:")
	if strings.Contains(r.err, "no such file") {
		t.Errorf("%s is there:\n%s", none, r.err)
	}
	none += "2"
	r = f.spoolsweep("ping", "--known-hosts", none)
	if r.want(t, 4, "unknown host keys, of 3 of 3 hosts:"); strings.Count(r.err, "--known-hosts "+none+": there is no such file yet") != 1 {
		t.Errorf("want once that %s is not there:\n%s", none, r.err)
	}
	none = strings.TrimSuffix(none, "2")
	f.spoolsweep("run", "backscatter", "--check", "--known-hosts", none, "-l", "chavez").want(t, 4, "chavez | UNREACHABLE: chavez ", "\nchavez |   remedy: compare the fingerprint")

	// A name that Postfix ends at, in each of two queues that stay.
	for _, name := range []string{"hold/Z", "corrupt/Z"} {
		path := f.hosts[1].Spool(strings.Split(name, "/")...)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(f.hosts[1].Spool("hold", "Y"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r = f.spoolsweep("run", "backscatter", "--check", "-o", "json", "-l", "chavez,peltier")
	r.want(t, 2)
	var doc show.Document
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil {
		t.Fatalf("%v: %s", err, r.out)
	}
	good, bad := doc.Hosts[0], doc.Hosts[1]
	if p := good.Preflight; good.Error != nil || p == nil || len(p.Problems) > 0 || len(p.Aside) == 0 || !strings.Contains(strings.Join(p.Notes, "\n"), "no timer does") {
		t.Errorf("chavez: %+v, %+v", good.Error, p)
	}
	if p := bad.Preflight; bad.Status != show.Failed || p == nil || len(p.Problems) != 2 || p.Problems[1].Remedy == "" ||
		!strings.HasSuffix(bad.Error.Message, "(and 1 more in the way)") || bad.Error.Remedy == "" || bad.Error.Stage != "preflight" {
		t.Errorf("peltier: %+v, %+v", bad.Error, p)
	}
	// As a stream, and for people, all of it too.
	r = f.spoolsweep("run", "backscatter", "--check", "-o", "jsonl", "-l", "peltier")
	if !regexp.MustCompile(`(?m)^\{.*"stage":"preflight".*"event":"result".*"problems":\[\{.*\},\{`).MatchString(r.out) {
		t.Errorf("the stream does not tell it:\n%s", r.out)
	}
	if n := strings.Count(f.spoolsweep("run", "backscatter", "--check", "-l", "peltier").err, "IN THE WAY: "); n != 2 {
		t.Errorf("%d of 2 problems are told:\n%s", n, r.err)
	}
}
