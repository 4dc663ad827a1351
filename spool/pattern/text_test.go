package pattern

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// decoded is all that is seen of a mail.
type decoded struct{ head, body, capped string }

// decode reads a mail that comes in lines, and these in pieces of at most step
// bytes.
func decode(m []byte, step int) decoded {
	var head, body lines
	head.reset()
	body.reset()
	head.full, body.full = 1<<40, 1<<40
	var d mimeText
	d.reset(&head, &body, 0)
	feed(&d, m, step)
	head.breakLines()
	body.breakLines()
	return decoded{string(head.text), string(body.text), d.capped}
}

func feed(d *mimeText, m []byte, step int) {
	for line := range bytes.SplitAfterSeq(m, newline) {
		line, eol := bytes.CutSuffix(line, newline)
		for len(line) > step {
			d.piece(line[:step], false)
			line = line[step:]
		}
		if eol || len(line) > 0 {
			d.piece(line, eol)
		}
	}
	d.end()
}

const wholeLines = 1 << 30

// mails are the testdata's, by name.
func mails(t testing.TB) map[string][]byte {
	t.Helper()
	names, _ := filepath.Glob("testdata/mail/*.eml")
	if len(names) == 0 {
		t.Fatal("no mail in testdata/mail")
	}
	all := map[string][]byte{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimSuffix(filepath.Base(name), ".eml")] = b
	}
	return all
}

// TestText compares what is seen of each mail of the testdata with its golden
// file.
func TestText(t *testing.T) {
	for name, m := range mails(t) {
		d := decode(m, wholeLines)
		got := "== head\n" + d.head + "== body\n" + d.body
		golden := filepath.Join("testdata", "text", name+".txt")
		if *update {
			if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" || d.capped != "" {
			t.Errorf("%s: %s\n%s", name, d.capped, diff)
		}
	}
}
