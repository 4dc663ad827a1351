package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/cmd/spoolsweep/show"
	"spoolsweep/spool/practice"
	"spoolsweep/spool/queuefile"
	"spoolsweep/spool/stage"
)

// exports is what a command exported, over all hosts.
func exports(t *testing.T, doc *show.Document) (sum struct{ Matched, Done, Gone, Failed, Left int64 }) {
	t.Helper()
	for _, h := range doc.Hosts {
		var e stage.Exported
		if err := json.Unmarshal(h.Result, &e); err != nil {
			t.Fatalf("%s: %v in %s", h.Host, err, h.Result)
		}
		sum.Matched, sum.Done, sum.Gone, sum.Failed, sum.Left = sum.Matched+e.Matched, sum.Done+e.Done.Done, sum.Gone+e.Gone, sum.Failed+e.Failed, sum.Left+e.Left
	}
	return sum
}

// manifestOf reads a folder's manifest, and looks that each file is what its line says
// and that there are no others.
func manifestOf(t *testing.T, dir string) (all []exported, ends []manifestEnd) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		t.Fatal(err)
	}
	known := []string{manifestName, exportFolder.name}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		var e exported
		var end manifestEnd
		if err := json.Unmarshal(lines.Bytes(), &end); err != nil {
			t.Fatalf("%v in %s", err, lines.Bytes())
		}
		if end.End {
			if end.Messages != int64(len(all)) {
				t.Errorf("the end counts %d of %d", end.Messages, len(all))
			}
			ends = append(ends, end)
			continue
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
		check := func(name, sum string, from, n int64) {
			known = append(known, name)
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || from+n > int64(len(b)) {
				t.Errorf("%s: %v, %d bytes", name, err, len(b))
				return
			}
			if has := sha256.Sum256(b[from : from+n]); hex.EncodeToString(has[:]) != sum {
				t.Errorf("%s has other bytes", name)
			}
		}
		check(e.File, e.FileSHA256, e.Offset, e.FileBytes)
		if e.QueueFile != "" {
			check(e.QueueFile, e.SHA256, 0, e.Bytes)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range entries {
		info, err := f.Info()
		if err != nil || info.Mode().Perm() != 0o600 || !slices.Contains(known, f.Name()) {
			t.Errorf("%s: mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
	if s, err := os.Stat(dir); err != nil || s.Mode().Perm() != 0o700 {
		t.Errorf("%s: %v %v", dir, s.Mode(), err)
	}
	return all, ends
}

// queueFiles are those in one queue of the fleet.
func queueFiles(t *testing.T, f *fleet, queue string) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	for _, h := range f.hosts {
		err := filepath.Walk(h.Spool(queue), func(path string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			all[h.Name+" "+info.Name()] = b
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// An export is of just what matches, as it stands on the host, which is left as it is;
// the same once more writes nothing.
func TestExport(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez", "peltier").withFlood(600)
	rules := f.write("rules.yaml", demoRules)
	spam := f.counted(t, func(p practice.Place) bool { return p.Directory == "deferred" })
	before := queueFiles(t, f, "deferred")
	dir := filepath.Join(t.TempDir(), "spam")
	f.spoolsweep("export", "-e", "@"+rules, "--queue", "deferred", "--check").want(t, 0, "would be exported: ")
	f.spoolsweep("export", "-e", "@"+rules).want(t, statusUsage, "--to DIR")
	f.spoolsweep("export", "--to", dir).want(t, statusUsage, "say which mail")
	f.spoolsweep("export", "-m", "sender:x", "-e", "@"+rules, "--to", dir).want(t, statusUsage, "not from both")
	f.spoolsweep("export", "-m", "sender:x", "--to", dir, "-y").want(t, statusUsage, "go with --remove")
	f.spoolsweep("export", "-m", "sender:nobody@nowhere.example", "--queue", "deferred", "--to", dir).want(t, 0, "nothing to export")
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("%s is there, and nothing was exported", dir)
	}
	for again := range 2 {
		doc := f.spoolsweep("export", "-e", "@"+rules, "--queue", "deferred", "--to", dir, "--format", "queue", "-o", "json").document(t)
		if e := exports(t, doc); int(e.Done) != spam || int(e.Matched) != spam || e.Failed+e.Gone+e.Left != 0 {
			t.Errorf("exported %+v of %d", e, spam)
		}
		all, ends := manifestOf(t, dir)
		if len(all) != spam || len(ends) != again+1 || !ends[again].Whole {
			t.Fatalf("%d listed, want %d; %+v", len(all), spam, ends)
		}
		var size, written, there int64
		for _, e := range all {
			size += e.FileBytes + e.Bytes
		}
		for _, h := range doc.Hosts {
			var told struct {
				Bytes int64 `json:"bytes"`
				There int64 `json:"there"`
			}
			if err := json.Unmarshal(h.Result, &told); err != nil {
				t.Fatal(err)
			}
			written, there = written+told.Bytes, there+told.There
		}
		if want := [][2]int64{{size, 0}, {0, int64(spam)}}[again]; written != want[0] || there != want[1] {
			t.Errorf("export %d tells of %d bytes written and %d messages there already, want %v", again+1, written, there, want)
		}
		for _, e := range all {
			raw := before[e.Host+" "+e.ID]
			if has := sha256.Sum256(raw); hex.EncodeToString(has[:]) != e.SHA256 || e.Bytes != int64(len(raw)) {
				t.Errorf("%s: not the queue file of the host", e.ID)
			}
			var r queuefile.Reader
			r.Reset(bytes.NewReader(raw), int64(len(raw)), false)
			env, err := r.Envelope()
			if err != nil || env.Sender != e.Sender || len(env.Recipients) != len(e.Recipients) || !env.Arrival.Equal(e.Arrived) || e.Verdict != "spam" || len(e.Rules) == 0 {
				t.Errorf("%+v of %+v: %v", e, env, err)
			}
		}
	}
	f.spoolsweep("export", "-e", "@"+rules, "--queue", "deferred", "--to", dir, "--format", "queue").want(t, 0, "exported: 0 B written\n", "were there already, and are not written again\n")
	for name, b := range queueFiles(t, f, "deferred") {
		if !bytes.Equal(b, before[name]) {
			t.Errorf("%s was changed", name)
		}
	}
	if n := f.gone(t); len(n) > 0 {
		t.Errorf("gone %v", n)
	}
	// Another folder is nobody's to write to.
	other := t.TempDir()
	f.spoolsweep("export", "-e", "@"+rules, "--queue", "deferred", "--to", other).want(t, statusUsage, "no folder that spoolsweep export made")
	some := filepath.Join(t.TempDir(), "some")
	doc := f.spoolsweep("export", "--all", "--queue", "deferred", "--max", "3", "-l", "chavez", "--to", some, "-o", "json").document(t)
	if e := exports(t, doc); e.Done != 3 || e.Left != e.Matched-3 || e.Left <= 0 {
		t.Errorf("at most 3: %+v", e)
	}
	all, _ := manifestOf(t, some)
	var bytesOf int64
	for _, e := range all {
		bytesOf += e.FileBytes
	}
	var told stage.Exported
	if err := json.Unmarshal(doc.Hosts[0].Result, &told); err != nil || told.Bytes != bytesOf {
		t.Errorf("%d bytes were written, it tells of %d, %v", bytesOf, told.Bytes, err)
	}
	if len(all) != 3 || all[0].Verdict != "" || !strings.HasPrefix(all[0].File, "chavez.deferred.") {
		t.Errorf("%+v", all)
	}
}

// An mbox can be read back byte for byte.
func TestExportMbox(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(200)
	before := queueFiles(t, f, "deferred")
	dir := filepath.Join(t.TempDir(), "box")
	f.spoolsweep("export", "--all", "--queue", "deferred", "--format", "mbox", "--to", dir).want(t, 0, "listed in manifest.jsonl")
	all, _ := manifestOf(t, dir)
	if len(all) != len(before) {
		t.Fatalf("%d listed of %d", len(all), len(before))
	}
	box, err := os.ReadFile(filepath.Join(dir, "chavez.mbox"))
	if err != nil {
		t.Fatal(err)
	}
	messages := unbox(string(box))
	if len(messages) != len(all) {
		t.Fatalf("%d in the mbox, want %d", len(messages), len(all))
	}
	for i, e := range all {
		raw := before[e.Host+" "+e.ID]
		var r queuefile.Reader
		r.Reset(bytes.NewReader(raw), int64(len(raw)), false)
		var want bytes.Buffer
		if err := text(&r, &want); err != nil {
			t.Fatal(err)
		}
		if messages[i] != want.String() {
			t.Errorf("%s reads back as\n%q\nwant\n%q", e.ID, messages[i], want.String())
		}
	}
}

// unbox reads an mboxrd.
func unbox(text string) (all []string) {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, fromLine) {
			all = append(all, "")
			continue
		}
		if rest := strings.TrimLeft(line, ">"); rest != line && strings.HasPrefix(rest, fromLine) {
			line = line[1:]
		}
		all[len(all)-1] += line
	}
	for i := range all {
		all[i] = strings.TrimSuffix(all[i], "\n")
	}
	return all
}

// FuzzMbox: whatever a message is, and however it comes in pieces, it reads back.
func FuzzMbox(f *testing.F) {
	for _, s := range []string{"From me\n", ">From me\n>>From you\nFrom\nFrom \n", "a\n\nFrom x", ">>>", ">F", "Fro\nFrom", ""} {
		f.Add(s, 1)
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		if !strings.HasSuffix(s, "\n") { // each line of a message ends
			s += "\n"
		}
		n = max(1, n%17)
		var b bytes.Buffer
		b.WriteString(mboxFrom("a b@c", time.Unix(0, 0)))
		w := bufio.NewWriter(&b)
		q := &fromQuoter{w: w}
		for rest := []byte(s); len(rest) > 0; rest = rest[min(n, len(rest)):] {
			q.Write(rest[:min(n, len(rest))])
		}
		q.flush()
		w.WriteByte('\n')
		w.Flush()
		if all := unbox(b.String()); len(all) != 1 || all[0] != s {
			t.Errorf("%q reads back as %q out of %q", s, all, b.String())
		}
	})
}

// What an export --remove has removed is here, with its queue file, and nothing else
// has gone; its ledger says where it went.
func TestExportAndRemove(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez").withFlood(1200)
	rules := f.write("rules.yaml", demoRules)
	isSpam := func(p practice.Place) bool { return p.Directory == "deferred" }
	spam := f.counted(t, isSpam)
	if spam <= 100 {
		t.Fatalf("%d: all of them go at once", spam)
	}
	before := queueFiles(t, f, "deferred")
	dir := filepath.Join(t.TempDir(), "spam")
	args := func(more ...string) []string {
		return append([]string{"export", "--remove", "-e", "@" + rules, "--to", dir}, more...)
	}
	f.spoolsweep(args("-y")...).want(t, statusUsage, "--expect")
	f.spoolsweep(args()...).want(t, statusUsage, "no terminal")
	f.spoolsweep(args("-y", "--expect", "1")...).want(t, statusUsage, " messages would be exported and removed: nothing was done")
	f.spoolsweep(args("--queue", "active", "-y", "--expect", "1")...).want(t, statusUsage, "from \"active\" nothing is exported and removed")
	f.spoolsweep(args("--check")...).want(t, 0, "would be exported and removed: ")
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("%s is there, and nothing was agreed to", dir)
	}
	if n := f.counted(t, isSpam); n != spam {
		t.Fatalf("%d left, and nothing was agreed to", n)
	}
	doc := f.spoolsweep(args("-y", "--expect", fmt.Sprint(spam), "-o", "json")...).document(t)
	if e := exports(t, doc); int(e.Done) != spam || int(e.Matched) != spam || e.Failed+e.Gone+e.Left != 0 {
		t.Errorf("removed %+v of %d", e, spam)
	}
	all, ends := manifestOf(t, dir)
	if len(all) != spam || len(ends) != 1 || !ends[0].Whole {
		t.Errorf("%d listed, want %d; %+v", len(all), spam, ends)
	}
	after := queueFiles(t, f, "deferred")
	for _, e := range all {
		name := e.Host + " " + e.ID
		raw, err := os.ReadFile(filepath.Join(dir, e.QueueFile))
		if err != nil || !bytes.Equal(raw, before[name]) {
			t.Errorf("%s is not what was there: %v", name, err)
		}
		if after[name] != nil {
			t.Errorf("%s is still there", name)
		}
		delete(before, name)
	}
	for name, raw := range before {
		if !bytes.Equal(raw, after[name]) {
			t.Errorf("%s has gone, or was changed", name)
		}
	}
	f.spoolsweep("report", doc.Run, "--ledger").want(t, 0, "deleted "+fmt.Sprint(spam), ":"+dir)

	// All that is left, into the same folder.
	f.spoolsweep("export", "--remove", "--all", "-e", "@"+rules, "--to", dir, "-y", "--expect", "1").want(t, statusUsage, "ham would go too")
	rest := len(after)
	doc = f.spoolsweep("export", "--remove", "--all", "--to", dir, "-y", "--expect", fmt.Sprint(rest), "-o", "json").document(t)
	if e := exports(t, doc); int(e.Done) != rest || len(queueFiles(t, f, "deferred")) != 0 {
		t.Errorf("removed %+v of %d", e, rest)
	}
	if all, _ := manifestOf(t, dir); len(all) != spam+rest {
		t.Errorf("%d listed, want %d", len(all), spam+rest)
	}
}

// With --max the first ones may be far larger than most: that is no lie.
func TestExportSomeLargeOnes(t *testing.T) {
	t.Parallel()
	f := fleetOf(t, flooded, "chavez")
	large := "Subject: large\n\n" + strings.Repeat(strings.Repeat("x", 99)+"\n", (moreMail+4<<20)/100)
	list := []practice.Message{{Queue: "hold", Sender: "a@b.test", Recipients: []string{"c@d.test"}, Text: large}}
	for range 60 {
		list = append(list, practice.Message{Queue: "deferred", Sender: "a@b.test", Recipients: []string{"c@d.test"}, Text: "Subject: small\n\nsmall\n"})
	}
	if _, err := f.hosts[0].SubmitAll(list); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "to")
	doc := f.spoolsweep("export", "--all", "--queue", "hold", "--queue", "deferred", "--max", "1", "--to", dir, "-o", "json").document(t)
	if e := exports(t, doc); e.Done != 1 || e.Left != 60 {
		t.Errorf("%+v", e)
	}
	if all, ends := manifestOf(t, dir); len(all) != 1 || !ends[0].Whole {
		t.Errorf("%+v, %+v", all, ends)
	}
}

// The same export again writes nothing twice, in whichever form, also where a part of
// it is there; and two hosts whose names read alike have a file each.
func TestExportAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "to")
	names := func(form string, from, to int) (all []string) {
		t.Helper()
		x, err := openFolder(dir, form)
		if err != nil {
			t.Fatal(err)
		}
		defer x.close()
		for i := from; i < to; i++ {
			e, raw := queueFileOf(fmt.Sprintf("Subject: %d\n\nFrom here\n", i))
			e.Host, e.Instance = "mx1", "-"
			if err := x.add(e, bytes.NewReader(raw)); err != nil {
				t.Fatal(err)
			}
			all = append(all, e.File)
		}
		if err := x.end(true); err != nil {
			t.Fatal(err)
		}
		return all
	}
	for _, form := range []string{formMbox, formEML, formQueue, formMbox, formEML} {
		names(form, 0, 2)
		names(form, 0, 3)
		if again := names(form, 0, 3); slices.Contains(again, "") {
			t.Errorf("%s: %q", form, again)
		}
	}
	all, _ := manifestOf(t, dir)
	twice := map[string]bool{}
	for _, e := range all {
		form := filepath.Ext(e.File) + e.QueueFile + e.SHA256
		if twice[form] {
			t.Errorf("%s is there twice, as %s", e.ID, e.File)
		}
		twice[form] = true
	}
	if len(all) != 9 {
		t.Errorf("%d listed", len(all))
	}
	x, err := openFolder(dir, formMbox)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	for i, host := range [][2]string{{"mx", "out"}, {"mx.out", "-"}} {
		e, raw := queueFileOf("Subject: mine\n\n")
		if e.Host, e.Instance = host[0], host[1]; x.add(e, bytes.NewReader(raw)) != nil || e.Offset != 0 {
			t.Errorf("%d: %s at %d", i, e.File, e.Offset)
		}
	}
}
