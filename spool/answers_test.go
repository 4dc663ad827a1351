package spool

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// countedPostfix is fakePostfix whose postconf writes down each time that it is asked,
// and whose main.cf names the queue directory and the other instances.
func countedPostfix(t *testing.T) (conf string, asked func() int) {
	t.Helper()
	bin := fakePostfix(t, t.TempDir())
	conf = t.TempDir()
	log := filepath.Join(t.TempDir(), "log")
	postconf, err := os.ReadFile(filepath.Join(bin, "postconf"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(postconf), "#!/bin/sh\n", `#!/bin/sh
echo x >>`+log+`
. `+conf+`/main.cf || exit 1
`, 1)
	text = strings.Replace(text, "queue_directory) echo ", "config_directory) echo "+conf+" ;;\nmulti_instance_directories) echo $others ;;\nqueue_directory) echo $queue ;;\nunused) echo ", 1)
	files := map[string]string{
		filepath.Join(bin, "postconf"):   text,
		filepath.Join(bin, "postmulti"):  "#!/bin/sh\necho '- - y " + conf + "'; echo 'postfix-out - y /etc/postfix-out'\n",
		filepath.Join(conf, "main.cf"):   "queue=/var/spool/one; others=\n",
		filepath.Join(conf, "master.cf"): "",
	}
	for file, text := range files {
		if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return conf, func() int {
		text, _ := os.ReadFile(log)
		_ = os.Remove(log)
		return strings.Count(string(text), "x")
	}
}

// What was said counts while all that it was made of is the same, and not longer; also
// for another process, which was given it.
func TestAnswers(t *testing.T) {
	if _, err := os.Stat("/proc/sys/kernel/random/boot_id"); err != nil {
		t.Skip("only Linux tells one boot from another")
	}
	conf, asked := countedPostfix(t)
	main := filepath.Join(conf, "main.cf")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	defer func(usual string) { usualDirectory = usual }(usualDirectory)
	usualDirectory = conf
	var a Answers
	look := func(queue string, want int) {
		t.Helper()
		p, err := a.System(t.Context(), Instance{}, Commands{Stop: "halt"})
		must(err)
		if n := asked(); p.QueueDirectory != queue || n != want || p.Version != "mail_version" || p.Stop[2] != "halt" {
			t.Errorf("got %s and %+v, postconf was asked %d times, want %s and %d", p.QueueDirectory, p.Stop, n, queue, want)
		}
	}
	look("/var/spool/one", 1)
	look("/var/spool/one", 0)
	if all, err := a.Instances(t.Context()); err != nil || len(all) != 1 || asked() != 0 {
		t.Errorf("instances: %v, %v", all, err)
	}
	kept := a.Kept()
	if kept == nil || a.Kept() != nil {
		t.Errorf("kept %s, and once more", kept)
	}
	a = Answers{}
	a.Take(kept)
	look("/var/spool/one", 0)
	if again := a.Kept(); again != nil {
		t.Errorf("what was given is given back: %s", again)
	}

	// A write that leaves size and time as they were is a change all the same.
	info, err := os.Stat(main)
	must(err)
	must(os.WriteFile(main, []byte("queue=/var/spool/two; others=\n"), 0o600))
	must(os.Chtimes(main, info.ModTime(), info.ModTime()))
	look("/var/spool/two", 1)
	// What is newer than what comes is not given up for it.
	a.Take(kept)
	look("/var/spool/two", 0)

	for name, change := range map[string]func(){
		"master.cf": func() { must(os.WriteFile(filepath.Join(conf, "master.cf"), []byte("#\n"), 0o600)) },
		"another file": func() {
			must(os.Rename(main, main+".old"))
			must(os.WriteFile(main, []byte("queue=/var/spool/two; others=\n"), 0o600))
		},
		"the same again": func() { now := time.Now(); must(os.Chtimes(main, now, now)) },
	} {
		change()
		look("/var/spool/two", 1)
		look("/var/spool/two", 0)
		if a.Kept() == nil {
			t.Errorf("%s: nothing to keep", name)
		}
	}

	// Where it cannot be told whether anything changed, it is asked each time.
	t.Setenv("MAIL_CONFIG", conf)
	look("/var/spool/two", 1)
	look("/var/spool/two", 1)
	must(os.Unsetenv("MAIL_CONFIG"))
	look("/var/spool/two", 0)

	// A broken one is never answered for.
	must(os.WriteFile(main, []byte("exit 1\n"), 0o600))
	for range 2 {
		if _, err := a.System(t.Context(), Instance{}, Commands{}); err == nil || asked() != 1 {
			t.Errorf("a broken main.cf: %v", err)
		}
	}
	must(os.WriteFile(main, []byte("queue=/var/spool/three; others=/etc/postfix-out\n"), 0o600))
	if all, err := a.Instances(t.Context()); err != nil || len(all) != 2 || all[1].Name != "postfix-out" {
		t.Errorf("instances: %v, %v", all, err)
	}
	if err := os.Remove(filepath.Join(conf, "master.cf")); err != nil {
		t.Fatal(err)
	}
	asked()
	look("/var/spool/three", 1)
	look("/var/spool/three", 1)

	// Who changes anything asks.
	for range 2 {
		if _, err := System(t.Context(), Instance{}, Commands{}); err != nil || asked() != 1 {
			t.Errorf("System: %v", err)
		}
	}
}

// The law: whatever is taken in, nothing is believed that was said of something else.
func FuzzAnswersTake(f *testing.F) {
	f.Add([]byte(`{"":{"of":"x","config_directory":"/etc/postfix"}}`))
	f.Add([]byte(`{"":{"of":""}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, kept []byte) {
		var a Answers
		a.Take(kept)
		if s := a.said[""]; s[madeOf] != "" && s[madeOf] == stateOf("/nonexistent/postfix", s["config_directory"]) {
			t.Errorf("%q counts", kept)
		}
		if again := a.Kept(); again != nil {
			t.Errorf("%q is news: %s", kept, again)
		}
	})
}

// What is too long to pass on is asked anew.
func TestAnswersAreBounded(t *testing.T) {
	a := Answers{said: map[string]map[string]string{"": {"mydestination": strings.Repeat("example.org, ", maxAnswers/10)}}, news: true}
	if kept := a.Kept(); kept != nil {
		t.Errorf("%d bytes are kept", len(kept))
	}
	a = Answers{said: map[string]map[string]string{"": {madeOf: "x"}}, news: true}
	if kept := a.Kept(); !json.Valid(kept) {
		t.Errorf("kept %s", kept)
	}
}
