package pattern

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"

	"spoolsweep/remote/lab/needs"
)

// found is what Python's email finds in a mail.
type found struct {
	Header      [][2]string
	Plain, HTML []string
	Files       [][4]any
}

// paths are the files of the mails to compare: the testdata's, and the samples
// where they are.
func paths(t *testing.T) (ours, samples []string) {
	t.Helper()
	ours, _ = filepath.Glob("testdata/mail/*.eml")
	if len(ours) == 0 {
		t.Fatal("no mail in testdata/mail")
	}
	if dir := os.Getenv("SPOOLSWEEP_MAIL_SAMPLES"); dir != "" {
		samples, _ = filepath.Glob(filepath.Join(dir, "*", "*.eml"))
		if len(samples) == 0 {
			t.Fatalf("no */*.eml in %s", dir)
		}
	}
	return ours, samples
}

// differences are what Python finds and we do not, each with the reason.
var differences = func() map[string]string {
	all := map[string]string{}
	for reason, where := range map[string][]string{
		"a line of two hyphens and a content field behind it are taken for the boundary that the header does not name": {
			"mail/broken.eml: text part 0, line 6", "mail/broken.eml: text part 0, line 7", "mail/broken.eml: text part 0, line 8",
		},
		"ISO-2022-JP begins each line in ASCII, also where the line before was cut inside a character": {
			"mail/charsets-stateful.eml: text part 3, line 1",
		},
		"a line of blanks ends the header, and what follows is the multipart that it announces": {
			"spam/031.eml: header field 13", "spam/031.eml: header field 14", "spam/031.eml: header field 15",
		},
	} {
		for _, w := range where {
			all[w] = reason
		}
	}
	return all
}()

// TestAsPython compares with an independent decoder: every header field, every line
// of a text part, every word of HTML and every attachment that Python finds is in
// our text.
func TestAsPython(t *testing.T) {
	python := needs.Program(t, "python3")
	ours, samples := paths(t)
	names := append(ours, samples...)
	cmd := exec.Command(python, "testdata/decode.py")
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 64<<20)
	compared := 0
	for i := 0; lines.Scan(); i++ {
		var f found
		if err := json.Unmarshal(lines.Bytes(), &f); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(filepath.Base(filepath.Dir(names[i])), filepath.Base(names[i]))
		b, err := os.ReadFile(names[i])
		if err != nil {
			t.Fatal(err)
		}
		n, wrong := compare(decode(b, wholeLines), f)
		compared += n
		for _, w := range wrong {
			where, _, _ := strings.Cut(w, "\n")
			if i >= len(ours) {
				w = where // other people's mail: only where, never what
			}
			if _, ok := differences[name+": "+where]; !ok {
				t.Errorf("%s: %s", name, w)
			}
		}
	}
	if compared < 10*len(ours) {
		t.Errorf("only %d things compared", compared)
	}
}

// compare lists what of f is not in d; the details stand behind a line's end. It
// says how many things it compared.
func compare(d decoded, f found) (n int, wrong []string) {
	head, body := squeezeLines(d.head), squeezeLines(d.body)
	for i, h := range f.Header {
		n++
		want := squeeze(h[0] + ": " + h[1])
		if !strings.Contains(head, "\n"+want+"\n") {
			wrong = append(wrong, fmt.Sprintf("header field %d\n%q\nin %q", i, want, head))
		}
	}
	for i, p := range f.Plain {
		for k, line := range strings.FieldsFunc(p, func(r rune) bool { return r == '\n' || r == '\r' }) {
			n++
			if want := squeeze(line); !containsDecoded(body, want) {
				wrong = append(wrong, fmt.Sprintf("text part %d, line %d\n%q\nin %q", i, k, want, body))
			}
		}
	}
	dense := strings.Join(strings.Fields(d.body), "")
	for i, p := range f.HTML {
		for k, text := range htmlTokens(p) {
			n++
			if !strings.Contains(dense, text) {
				wrong = append(wrong, fmt.Sprintf("HTML part %d, token %d\n%q\nin %q", i, k, text, dense))
			}
		}
	}
	for _, file := range f.Files {
		n++
		want := "attachment: "
		if file[0] != nil {
			want += squeeze(file[0].(string)) + ", "
		}
		want += fmt.Sprintf("%s, %.0f bytes", file[1], file[2])
		if !strings.Contains(body, want) {
			wrong = append(wrong, fmt.Sprintf("an attachment of type %s\n%q\nin %q", file[1], want, body))
		}
	}
	return n, wrong
}

// containsDecoded looks for what Python could decode of a line. Text that is not
// in its charset has other holes for us: 8-bit bytes in ISO-2022-JP are EUC-JP, and
// GB18030's characters for private use are none.
func containsDecoded(body, line string) bool {
	hole := func(r rune) bool { return r == utf8.RuneError || unicode.Is(unicode.Co, r) }
	for _, piece := range strings.FieldsFunc(line, hole) {
		if !strings.Contains(body, piece) {
			return false
		}
	}
	return true
}

// squeeze makes all blanks one, and drops what we drop.
func squeeze(s string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(s, "\x00", " ")), " ")
}

func squeezeLines(s string) string {
	var b strings.Builder
	b.WriteByte('\n')
	for line := range strings.Lines(s) {
		b.WriteString(squeeze(line))
		b.WriteByte('\n')
	}
	return b.String()
}

// invisible is what the HTML scanner drops.
var invisible = strings.NewReplacer("\x00", "", "\u00ad", "", "\u200b", "", "\u2060", "", "\ufeff", "")

// htmlTokens are the texts between tags that x/net/html finds, without blanks.
func htmlTokens(s string) []string {
	z := html.NewTokenizer(strings.NewReader(invisible.Replace(s)))
	var texts []string
	skip := false
	for {
		switch z.Next() {
		case html.ErrorToken:
			if z.Err() != io.EOF {
				panic(z.Err())
			}
			return texts
		case html.TextToken:
			if text := strings.Join(strings.Fields(invisible.Replace(string(z.Text()))), ""); text != "" && !skip {
				texts = append(texts, text)
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			name, _ := z.TagName()
			skip = string(name) == "script" || string(name) == "style"
		case html.EndTagToken:
			skip = false
		}
	}
}
