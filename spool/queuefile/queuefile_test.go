package queuefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"spoolsweep/remote/lab/needs"
)

// file writes a queue file record by record, as cleanup does.
type file struct {
	bytes.Buffer
	content int // where the content begins
}

func (f *file) rec(kind byte, data string) *file {
	f.WriteByte(kind)
	n := len(data)
	for ; n >= 0x80; n >>= 7 {
		f.WriteByte(byte(n) | 0x80)
	}
	f.WriteByte(byte(n))
	f.WriteString(data)
	return f
}

func (f *file) ptr(to int) *file { return f.rec('p', fmt.Sprintf("%15d", to)) }

// begin writes the size record, to be filled in by end, and the times.
func (f *file) begin() *file {
	return f.rec('C', fmt.Sprintf("%15d %15d %15d %15d %15d %15d", 0, 0, 0, 0, 0, 0)).
		rec('T', "1795454283 528131").rec('A', "create_time=1795454290")
}

func (f *file) mesg() *file { f.rec('M', ""); f.content = f.Len(); return f }

// line writes one line of text, in pieces of 2,048 bytes.
func (f *file) line(s string) *file {
	for len(s) > 2048 {
		f.rec('L', s[:2048])
		s = s[2048:]
	}
	return f.rec('N', s)
}

// extracted ends the content and fills in the size record.
func (f *file) extracted() *file {
	copy(f.Bytes()[2:], fmt.Sprintf("%15d %15d %15d %15d %15d %15d", f.Len()-f.content, f.content, 1, 0, f.Len()-f.content, 0))
	return f.rec('X', "")
}

// put writes over what stands at an offset.
func (f *file) put(at int, s string) { copy(f.Bytes()[at:], s) }

func pointer(to int) string { return "p\x0f" + fmt.Sprintf("%15d", to) }

// plain is the worked example of postfix-facts 4.9, shortened.
func plain() *file {
	f := new(file)
	return f.begin().rec('A', "log_ident=81063BE02B").rec('A', "rewrite_context=local").
		rec('A', "sasl_username = spam-account ").rec('S', "a@members.test").
		rec('A', "log_client_name=v6.example.org").rec('A', "log_client_address=IPv6:2001:db8::1").
		rec('A', "client_name=localhost").rec('A', "client_address=127.0.0.1").
		rec('A', "dsn_orig_rcpt=rfc822;u4@elsewhere.test").
		rec('O', "alias@elsewhere.test").rec('R', "u4@elsewhere.test").rec('D', "u5@elsewhere.test").
		mesg().line("Subject: t4").line("From: a@members.test").line("").line("hello 4").
		extracted().rec('R', "bcc@elsewhere.test").rec('E', "")
}

func read(t testing.TB, r *Reader, b []byte, maildrop bool) (*Envelope, string, error) {
	t.Helper()
	r.Reset(bytes.NewReader(b), int64(len(b)), maildrop)
	e, err := r.Envelope()
	if err != nil {
		return nil, "", err
	}
	s, err := contentOf(r)
	return e, s, err
}

// headerBody is what HeaderBody gives, and recordsOf what Records gives, a line a
// record.
func headerBody(r *Reader) (header, body string, err error) {
	into := func(s *strings.Builder) func([]byte, bool) error {
		return func(b []byte, eol bool) error {
			s.Write(b)
			if eol {
				s.WriteByte('\n')
			}
			return nil
		}
	}
	var h, b strings.Builder
	err = r.HeaderBody(into(&h), into(&b))
	return h.String(), b.String(), err
}

func recordsOf(r *Reader) (string, error) {
	var s strings.Builder
	err := r.Records(func(rec Record) error {
		fmt.Fprintf(&s, "%d %s: %s\n", rec.Offset, rec.Name(), rec.Value)
		return nil
	})
	return s.String(), err
}

func contentOf(r *Reader) (string, error) {
	var s strings.Builder
	err := r.Content(func(b []byte, eol bool) error {
		s.Write(b)
		if eol {
			s.WriteByte('\n')
		}
		return nil
	})
	return s.String(), err
}

func TestEnvelope(t *testing.T) {
	var r Reader
	b := plain().Bytes()
	e, content, err := read(t, &r, b, false)
	if err != nil {
		t.Fatal(err)
	}
	want := Envelope{
		Sender: "a@members.test",
		Recipients: []Recipient{
			{"u4@elsewhere.test", "alias@elsewhere.test", ToDo},
			{"u5@elsewhere.test", "", Done},
			{"bcc@elsewhere.test", "", ToDo},
		},
		Login: "spam-account", ClientName: "v6.example.org", ClientAddress: "2001:db8::1",
		Arrival: time.Unix(1795454283, 528131000), Created: time.Unix(1795454290, 0), Size: e.Size,
	}
	if got := fmt.Sprintf("%+v", *e); got != fmt.Sprintf("%+v", want) {
		t.Errorf("got  %s\nwant %+v", got, want)
	}
	if want := "Subject: t4\nFrom: a@members.test\n\nhello 4\n"; content != want {
		t.Errorf("content %q, want %q", content, want)
	}
	created, err := r.Created(bytes.NewReader(b))
	if err != nil || !created.Equal(want.Created) {
		t.Errorf("Created %v, %v; want %v", created, err, want.Created)
	}
}

// edited is what src/cleanup/cleanup_milter.c leaves behind.
func edited() *file {
	f := new(file)
	f.begin()
	sender := f.Len()
	f.rec('S', "a-sender-that-a-milter-changed@members.test")
	afterSender := f.Len()
	f.rec('R', "to-be-removed@elsewhere.test")
	f.put(f.Len()-len("to-be-removed@elsewhere.test")-2, "/")
	beforeM := f.Len()
	f.ptr(0) // dummy, for recipients added
	toM := f.Len()
	f.mesg()
	subject := f.Len()
	f.line("Subject: an old subject that goes away")
	f.rec('N', "X: 1").rec('w', "padding.......")
	afterSubject := f.Len() - len("X: 1") - 2 - 2 - len("padding.......")
	afterHeader := f.Len()
	f.ptr(0)
	body := f.Len()
	f.line("").line(strings.Repeat("old body ", 30))
	f.ptr(0)
	toX := f.Len()
	f.extracted().ptr(0).rec('E', "")
	heap := f.Len()
	f.rec('S', "new@members.test").ptr(afterSender)
	f.put(sender, pointer(heap))
	heap = f.Len()
	f.rec('R', "added@elsewhere.test").ptr(0)
	f.put(beforeM, pointer(heap))
	f.put(f.Len()-17, pointer(f.Len())) // the next one appended
	f.rec('R', "added2@elsewhere.test").ptr(toM)
	heap = f.Len()
	f.line("Subject: new").ptr(afterSubject)
	f.put(subject, pointer(heap))
	heap = f.Len()
	f.line("X-Added: by milter").ptr(body)
	f.put(afterHeader, pointer(heap))
	heap = f.Len()
	f.line("").line("new body").ptr(toX)
	f.put(body, pointer(heap))
	return f
}

func TestMilterEdits(t *testing.T) {
	f := edited()
	var r Reader
	e, content, err := read(t, &r, f.Bytes(), false)
	if err != nil {
		t.Fatal(err)
	}
	if e.Sender != "new@members.test" {
		t.Errorf("sender %q", e.Sender)
	}
	got := fmt.Sprint(e.Recipients)
	want := fmt.Sprint([]Recipient{
		{"to-be-removed@elsewhere.test", "", Canceled}, {"added@elsewhere.test", "", ToDo}, {"added2@elsewhere.test", "", ToDo},
	})
	if got != want {
		t.Errorf("recipients %s, want %s", got, want)
	}
	if want := "Subject: new\nX: 1\nX-Added: by milter\n\nnew body\n"; content != want {
		t.Errorf("content %q, want %q", content, want)
	}
	if got := postcat(t, "-hb", f.Bytes()); got != content {
		t.Errorf("postcat says %q, we say %q", got, content)
	}
}

func TestMaildrop(t *testing.T) {
	drop := func() *file {
		f := new(file)
		return f.rec('T', "1795454283 528131").rec('A', "rewrite_context=local").rec('F', "Root").rec('S', "root").
			mesg().line("Subject: x").line("").line("text").rec('X', "").
			rec('A', "notify_flags=0").rec('R', "m1@elsewhere.test").rec('E', "")
	}
	var r Reader
	e, content, err := read(t, &r, drop().Bytes(), true)
	if err != nil || e.Sender != "root" || len(e.Recipients) != 1 || content != "Subject: x\n\ntext\n" {
		t.Fatalf("%+v, %q, %v", e, content, err)
	}
	if _, _, err := read(t, &r, drop().Bytes(), false); err == nil {
		t.Error("a maildrop file was taken for a queue file")
	}
	if _, _, err := read(t, &r, drop().rec('Z', "garbage").Bytes(), true); err != nil {
		t.Errorf("garbage behind the end: %v", err)
	}
	// pickup reads on over padding wherever it stands (record.c rec_get_raw,
	// REC_FLAG_SKIP_DTXT).
	f := new(file)
	f.rec('w', "padding").rec('S', "root").mesg().line("text").rec('X', "").rec('w', "").rec('R', "m1@elsewhere.test").rec('E', "")
	if e, _, err := read(t, &r, f.Bytes(), true); err != nil || e.Sender != "root" || len(e.Recipients) != 1 {
		t.Errorf("padding: %+v, %v", e, err)
	}
	f = new(file)
	f.rec('S', "root").mesg().rec('R', "in the content").rec('X', "").rec('E', "")
	if _, _, err := read(t, &r, f.Bytes(), true); err == nil {
		t.Error("an envelope record in the content was accepted")
	}
}

func TestBroken(t *testing.T) {
	without := func(kind string) []byte { // kill a record by its first bytes
		return bytes.Replace(plain().Bytes(), []byte(kind), append([]byte("K"), kind[1:]...), 1)
	}
	loop := plain()
	at := bytes.Index(loop.Bytes(), []byte("A\x14log_ident"))
	loop.put(at, pointer(at))
	var r Reader
	for _, c := range []struct {
		name, rule string
		b          []byte
	}{
		{"empty", "no end record", nil},
		{"NULs", "record type", make([]byte, 4096)},
		{"not a queue file", "record type", []byte("#\x04text\n")},
		{"half written", "never filled in", new(file).begin().rec('S', "x").rec('E', "").Bytes()},
		{"no end", "no end record", bytes.TrimSuffix(plain().Bytes(), []byte("E\x00"))},
		{"cut in a record", "inside a record", plain().Bytes()[:120]},
		{"cut in the content", "no end record", plain().Bytes()[:plain().content+8]},
		{"no sender", "no sender", without("S\x0ea@")},
		{"no time", "no arrival time", without("T\x11")},
		{"no size", "record type", without("C\x5f")},
		{"bad attribute", "attribute", bytes.Replace(plain().Bytes(), []byte("log_ident="), []byte("log_ident-"), 1)},
		{"bad pointer", "no number", append(plain().Bytes()[:116], "p\x02xx"...)},
		{"negative pointer", "no number", append(plain().Bytes()[:116], "p\x02-1"...)},
		{"long length", "too many bytes", append(plain().Bytes()[:116], "A\xff\xff\xff\xff\x01"...)},
		{"huge length", "inside a record", append(plain().Bytes()[:116], "A\xff\xff\xff\x7f"...)},
		{"size leads elsewhere", "does not lead", bytes.Replace(plain().Bytes(), []byte("X\x00R"), []byte("N\x00R"), 1)},
		{"loop", "loop", loop.Bytes()},
		{"pointer beyond the end", "no end record", append(plain().Bytes()[:116], pointer(1<<40)...)},
	} {
		_, _, err := read(t, &r, c.b, false)
		var b *Broken
		if !errors.As(err, &b) || !strings.Contains(err.Error(), c.rule) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.rule)
		}
	}
	if _, _, err := read(t, &r, append(plain().Bytes(), "garbage\xff"...), false); err != nil {
		t.Errorf("garbage behind the end: %v", err)
	}
	damaged := bytes.Replace(plain().Bytes(), []byte("N\x07hello"), []byte("Q\x07hello"), 1)
	r.Reset(bytes.NewReader(damaged), int64(len(damaged)), false)
	if _, err := r.Envelope(); err != nil {
		t.Errorf("qmgr does not look into the content: %v", err)
	}
	if _, err := contentOf(&r); err == nil {
		t.Error("damage in the content was not found")
	}
}

// TestReverseJumps: 10,000 jumps back are followed, one more is not.
func TestReverseJumps(t *testing.T) {
	for _, jumps := range []int{reverseJumps, reverseJumps + 1} {
		f := new(file)
		f.begin().rec('S', "").rec('R', "r@x.test")
		start := f.Len()
		f.ptr(0).mesg().line("").extracted().rec('E', "")
		// Each pointer in the heap leads to the one in front of it, the first back
		// to where the envelope goes on.
		heap := f.Len()
		f.ptr(start + 17)
		for i := range jumps - 1 {
			f.ptr(heap + 17*i)
		}
		f.put(start, pointer(f.Len()-17))
		var r Reader
		if _, _, err := read(t, &r, f.Bytes(), false); (err == nil) != (jumps == reverseJumps) {
			t.Errorf("%d jumps back: %v", jumps, err)
		}
	}
}

func TestReadError(t *testing.T) {
	var r Reader
	r.Reset(failing{}, 1000, false)
	if _, err := r.Envelope(); !errors.Is(err, errDisk) {
		t.Errorf("got %v, want %v", err, errDisk)
	}
	b := plain().Bytes()
	r.Reset(bytes.NewReader(b), int64(len(b))+4096, false) // shorter than was said
	if _, err := r.Envelope(); err != nil {
		t.Error(err)
	}
}

var errDisk = errors.New("input/output error")

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errDisk }

// TestManyRecipients: memory is bounded, and it is said that something is missing.
func TestManyRecipients(t *testing.T) {
	f := new(file)
	f.begin().rec('S', "a@b.test")
	for i := range 100_000 {
		f.rec('R', fmt.Sprintf("user%d@elsewhere.test", i))
	}
	f.mesg().line("x").extracted().rec('E', "")
	var r Reader
	e, _, err := read(t, &r, f.Bytes(), false)
	if err != nil || !e.Truncated || len(e.Recipients) < 20_000 || len(r.text) > MaxEnvelope {
		t.Fatalf("%v, truncated %v, %d recipients, %d bytes", err, e.Truncated, len(e.Recipients), len(r.text))
	}
}

// sample is a whole queue file.
type sample struct {
	b        []byte
	maildrop bool
}

// samples are queue files of all kinds, by name.
func samples(t testing.TB) map[string]sample {
	t.Helper()
	all := map[string]sample{"plain": {plain().Bytes(), false}, "edited": {edited().Bytes(), false}}
	names, _ := filepath.Glob("testdata/postfix/*/*")
	if len(names) == 0 {
		t.Fatal("no files in testdata/postfix")
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".postcat") {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = sample{b, strings.Contains(name, "/maildrop/")}
	}
	return all
}

// TestEveryCut: no beginning of a file is whole, and none makes the reader fail
// otherwise than by saying so. Of a file that a milter edited the content may be cut
// where the envelope is not, since new text stands behind the record E.
func TestEveryCut(t *testing.T) {
	var r Reader
	for name, f := range samples(t) {
		for n := range len(f.b) {
			_, _, err := read(t, &r, f.b[:n], f.maildrop)
			var broken *Broken
			if !errors.As(err, &broken) {
				t.Errorf("%s cut at %d of %d: %v", name, n, len(f.b), err)
			}
		}
		if _, _, err := read(t, &r, f.b, f.maildrop); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLargeFile reads more than the window holds, with a long line across its end.
func TestLargeFile(t *testing.T) {
	f := new(file)
	f.begin().rec('S', "a@b.test").rec('R', "c@d.test").mesg()
	var want strings.Builder
	for i := range 300 {
		s := strings.Repeat(fmt.Sprint(i, " "), 1+i*7)
		f.line(s)
		want.WriteString(s + "\n")
	}
	huge := strings.Repeat("z", 3*windowSize)
	f.rec('N', huge)
	want.WriteString(huge + "\n")
	f.extracted().rec('A', "encoding=8bit").rec('R', "last@d.test").rec('E', "")
	var r Reader
	e, content, err := read(t, &r, f.Bytes(), false)
	if err != nil || content != want.String() || e.Recipients[1].Address != "last@d.test" {
		t.Fatalf("%v, %d bytes of content, want %d", err, len(content), want.Len())
	}
	var raw bytes.Buffer
	for off := int64(0); ; {
		b, err := r.Window(off)
		if err == io.EOF {
			break
		}
		raw.Write(b)
		off += int64(len(b))
	}
	if !bytes.Equal(raw.Bytes(), f.Bytes()) {
		t.Error("Window does not give the file")
	}
}

// postcat is what Postfix itself makes of a queue file.
func postcat(t testing.TB, flag string, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(needs.Program(t, "postcat"), flag, name).Output()
	if err != nil {
		t.Fatalf("postcat: %v", err)
	}
	return string(out)
}

// TestPostfixFiles reads files that a real Postfix 3.7.11 wrote, each beside what
// its postcat -hb printed of it.
func TestPostfixFiles(t *testing.T) {
	var r Reader
	for _, queue := range []string{"queue", "maildrop"} {
		names, _ := filepath.Glob("testdata/postfix/" + queue + "/*.postcat")
		if len(names) == 0 {
			t.Fatalf("no files in testdata/postfix/%s", queue)
		}
		for _, name := range names {
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(strings.TrimSuffix(name, ".postcat"))
			if err != nil {
				t.Fatal(err)
			}
			e, got, err := read(t, &r, b, queue == "maildrop")
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else if got != string(want) {
				t.Errorf("%s: content %q, postcat says %q", name, got, want)
			} else if e.Arrival.IsZero() || len(e.Recipients) == 0 {
				t.Errorf("%s: %+v", name, e)
			}
		}
	}
	b, err := os.ReadFile("testdata/postfix/queue/05F41984281")
	if err != nil {
		t.Fatal(err)
	}
	if e, _, _ := read(t, &r, b, false); e.ClientName != "spammer.test" || e.ClientAddress != "192.0.2.7" {
		t.Errorf("client %q %q, want the one that XFORWARD named", e.ClientName, e.ClientAddress)
	}
}

// mutate is a copy of a file with a few things done to it.
func mutate(rng *rand.Rand, orig []byte) []byte {
	b := bytes.Clone(orig)
	for range 1 + rng.Intn(3) {
		switch at := rng.Intn(len(b)); rng.Intn(6) {
		case 0:
			b[at] = byte(rng.Intn(256))
		case 1:
			b[at] ^= 1 << rng.Intn(8)
		case 2:
			copy(b[at:], pointer(rng.Intn(len(b))))
		case 3:
			b = b[:at+1]
		case 4:
			b = append(b[:at:at], b[min(len(b)-1, at+1+rng.Intn(8)):]...)
		case 5:
			copy(b[at:], b[rng.Intn(len(b)):])
		}
	}
	return b
}

// counting counts what is read of a file.
type counting struct {
	*bytes.Reader
	bytes int64
}

func (c *counting) ReadAt(b []byte, off int64) (int, error) {
	n, err := c.Reader.ReadAt(b, off)
	c.bytes += int64(n)
	return n, err
}

// TestBounds: 100,000 files that something happened to, each read four times over,
// end as whole or as broken; in each pass no more is looked at than twice the file,
// and what the reader keeps stays small.
func TestBounds(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewSource(seed))
	files := samples(t)
	var r Reader
	sound := 0
	for i := 0; i < 100_000; {
		for name, f := range files {
			i++
			b := mutate(rng, f.b)
			src := &counting{Reader: bytes.NewReader(b)}
			given := 0
			take := func(piece []byte, eol bool) error { given += len(piece) + 2; return nil }
			r.Reset(src, int64(len(b)), f.maildrop)
			_, err := r.Envelope()
			for _, err := range []error{err, r.Content(take), r.HeaderBody(take, take), r.Records(func(rec Record) error { given += len(rec.Value) + 2; return nil })} {
				var broken *Broken
				if err != nil && !errors.As(err, &broken) {
					t.Fatalf("%s: %v; of %q", name, err, b)
				}
			}
			if err == nil {
				sound++
			}
			limit := 2*len(b) + 4096
			if given > 3*limit {
				t.Fatalf("%s: %d bytes given of a file of %d: %q", name, given, len(b), b)
			}
			if src.bytes > int64(len(b)) {
				t.Fatalf("%s: %d bytes read of a file of %d, which the window holds whole: %q", name, src.bytes, len(b), b)
			}
		}
	}
	if cap(r.text)+cap(r.value)+recipientCost*cap(r.spans) > 1<<20 {
		t.Errorf("the reader has grown to %d, %d bytes and %d recipients", cap(r.text), cap(r.value), cap(r.spans))
	}
	if sound == 0 {
		t.Error("no file was whole")
	}
}

// TestMutations: whatever happens to a file, it is read to an end, again the same
// way, and what is whole reads as postcat reads it.
func TestMutations(t *testing.T) {
	rng := rand.New(rand.NewSource(1))
	var r, small Reader
	small.buffer = make([]byte, 300)
	files := samples(t)
	sound, compared := 0, 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for range 8000 / len(files) {
			b := mutate(rng, files[name].b)
			if !sameTwice(t, &r, &small, b) {
				continue
			}
			if sound++; sound%40 == 0 {
				compared++
				_, got, _ := read(t, &r, b, false)
				if want := postcat(t, "-hb", b); got != want {
					t.Errorf("content %q, postcat says %q", got, want)
				}
			}
		}
	}
	if compared < 10 {
		t.Errorf("only %d files were compared with postcat", compared)
	}
}

// TestHeaderBody: where the header ends, decided as postcat -h and -b decide it,
// save where the content begins with a blank.
func TestHeaderBody(t *testing.T) {
	long := strings.Repeat("x", 2048)
	for _, c := range []struct {
		name         string
		write        func(*file)
		header, body string
		postcat      string // its header, where it is wrong
	}{
		{"plain", func(f *file) { f.line("A: b").line("").line("c") }, "A: b\n", "\nc\n", ""},
		{"folded", func(f *file) { f.line("A: b").line("\tc").line(" d").line("").line("e: f") }, "A: b\n\tc\n d\n", "\ne: f\n", ""},
		{"no empty line", func(f *file) { f.line("A: b").line("some text").line("C: d") }, "A: b\n", "some text\nC: d\n", ""},
		{"blank before colon", func(f *file) { f.line("A \t: b").line("A b: c") }, "A \t: b\n", "A b: c\n", ""},
		{"no name", func(f *file) { f.line("A: b").line(": c") }, "A: b\n", ": c\n", ""},
		{"eight bits", func(f *file) { f.line("A: b").line("Ä: c") }, "A: b\n", "Ä: c\n", ""},
		{"control", func(f *file) { f.line("A: b").line("A\x7f: c") }, "A: b\n", "A\x7f: c\n", ""},
		{"NUL in a name", func(f *file) { f.line("A: \x00").line("A\x00: c") }, "A: \x00\n", "A\x00: c\n", ""},
		{"long lines", func(f *file) { f.line("A: " + long + "no header").line("").line(long + long) },
			"A: " + long + "no header\n", "\n" + long + long + "\n", ""},
		{"a long line that begins no header", func(f *file) { f.line(long + ": b").line("C: d") }, "", long + ": b\nC: d\n", ""},
		{"a long line of blanks", func(f *file) { f.line("A: b").line(strings.Repeat(" ", 2048) + "c").line("D: e") },
			"A: b\n" + strings.Repeat(" ", 2048) + "c\nD: e\n", "", ""},
		{"padding", func(f *file) { f.rec('N', "A: b").rec('w', "xx").rec('N', "\tc").ptr(0).rec('N', "") }, "A: b\n\tc\n", "\n", ""},
		{"a name longer than the window", func(f *file) { f.rec('N', strings.Repeat("n", 3*windowSize)+": v").line("") },
			strings.Repeat("n", 3*windowSize) + ": v\n", "\n", ""},
		{"no header", func(f *file) { f.line("").line("A: b") }, "", "\nA: b\n", ""},
		{"nothing", func(f *file) { f.rec('N', "") }, "", "\n", ""},
		{"a header only", func(f *file) { f.line("A: b") }, "A: b\n", "", ""},
		{"no end of line", func(f *file) { f.line("A: b").line("").rec('L', "cut") }, "A: b\n", "\ncut\n", ""},
		{"no end of a header", func(f *file) { f.rec('L', "A: b") }, "A: b\n", "", ""},
		{"begins with a blank", func(f *file) { f.line(" A: b").line("C: d") }, "", " A: b\nC: d\n", " A: b\nC: d\n"},
	} {
		f := new(file)
		f.begin().rec('S', "a@b.test").rec('R', "c@d.test").mesg()
		c.write(f)
		f.extracted().rec('E', "")
		var r Reader
		_, content, err := read(t, &r, f.Bytes(), false)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		header, body, err := headerBody(&r)
		if err != nil || header != c.header || body != c.body {
			t.Errorf("%s: header %q, body %q, %v; want %q, %q", c.name, header, body, err, c.header, c.body)
		}
		if content != header+body {
			t.Errorf("%s: content %q is not header and body", c.name, content)
		}
		// What postcat prints when it meets X stays in its buffer, unless it goes on
		// to print more.
		lost := ""
		if strings.HasPrefix(c.name, "no end") {
			lost = "\n"
		}
		if got := postcat(t, "-hb", f.Bytes()) + lost; got != content {
			t.Errorf("%s: postcat says %q, we say %q", c.name, got, content)
		}
		if got := postcat(t, "-hbe", f.Bytes()); !strings.Contains(got, " ***\n"+content+"*** ") {
			t.Errorf("%s: postcat says %q, we say %q", c.name, got, content)
		}
		want := c.header
		if c.postcat != "" {
			want = c.postcat
		}
		if c.body == "" {
			want = strings.TrimSuffix(want, lost)
		}
		if got := postcat(t, "-h", f.Bytes()); got != want {
			t.Errorf("%s: the header is %q to postcat, want %q", c.name, got, want)
		}
	}
}

// TestRecords: every record but the content's, with unknown attributes, the way
// that the pointers lead.
func TestRecords(t *testing.T) {
	f := plain()
	at := func(s string) int { return bytes.Index(f.Bytes(), []byte(s)) }
	var r Reader
	if _, _, err := read(t, &r, f.Bytes(), false); err != nil {
		t.Fatal(err)
	}
	got, err := recordsOf(&r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"0 message_size: ", "\n97 message_arrival_time: 1795454283 528131\n",
		"named_attribute: dsn_orig_rcpt=rfc822;u4@elsewhere.test\n",
		fmt.Sprintf("\n%d recipient: u4@elsewhere.test\n", at("R\x11u4@")),
		fmt.Sprintf("\n%d done_recipient: u5@elsewhere.test\n", at("D\x11u5@")),
		fmt.Sprintf("\n%d message_content: \n%d extracted_info: \n", at("M\x00N"), at("X\x00R")),
		"recipient: bcc@elsewhere.test\n", fmt.Sprintf("\n%d message_end: \n", f.Len()-2),
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	var login string
	err = r.Records(func(rec Record) error {
		if name, value := rec.Attribute(); string(name) == "sasl_username" {
			login = string(value)
			return errDisk
		}
		return nil
	})
	if login != "spam-account" || !errors.Is(err, errDisk) {
		t.Errorf("login %q, %v", login, err)
	}
	b := []byte("T\x01#S\x01\x00M\x00N\x01RX\x02\x00\x00R\x03a\x00bE\x00")
	r.Reset(bytes.NewReader(b), int64(len(b)), true)
	got, err = recordsOf(&r)
	if want := "0 message_arrival_time: #\n3 sender: \n6 message_content: \n11 extracted_info: \n15 recipient: a\n20 message_end: \n"; err != nil || got != want {
		t.Errorf("of a maildrop file: %q, %v; want %q", got, err, want)
	}
	f = new(file)
	f.begin().rec('S', "a@b.test").rec('A', "note="+strings.Repeat("v", 2*maxValue)).mesg().line("").extracted().rec('E', "")
	r.Reset(bytes.NewReader(f.Bytes()), int64(f.Len()), false)
	cut := 0
	err = r.Records(func(rec Record) error {
		if rec.Cut {
			cut += len(rec.Value)
		}
		return nil
	})
	if err != nil || cut != maxValue {
		t.Errorf("a long value: %d bytes, %v; want %d", cut, err, maxValue)
	}
}

// sameTwice reads b as a queue file and a maildrop file, with a large window and a
// small one, and tells whether it is a whole queue file with sound content.
func sameTwice(t testing.TB, r, small *Reader, b []byte) bool {
	t.Helper()
	var whole bool
	for _, maildrop := range []bool{true, false} {
		e, content, err := read(t, r, b, maildrop)
		header, body, err2 := headerBody(r)
		records, err3 := recordsOf(r)
		first := fmt.Sprintf("%+v %q %v %q %v %q %v", deref(e), content, err, header, err2, records, err3)
		if (e == nil) != (err3 != nil) {
			t.Fatalf("the envelope: %v; its records: %v; of %q", err, err3, b)
		}
		if err == nil && (err2 != nil || content != header+body) {
			t.Fatalf("content %q is not header %q and body %q: %v; of %q", content, header, body, err2, b)
		}
		checkRecords(t, r, e, b)
		e, content, err = read(t, small, b, maildrop)
		header, _, err2 = headerBody(small)
		records, err3 = recordsOf(small)
		if second := fmt.Sprintf("%+v %q %v %q %v %q %v", deref(e), content, err, header, err2, records, err3); first != second {
			t.Fatalf("read differently through a small window:\n%s\n%s\nof %q", first, second, b)
		}
		if len(content) > 4*len(b)+8192 {
			t.Fatalf("%d bytes of content in a file of %d", len(content), len(b))
		}
		whole = err == nil
	}
	return whole
}

// checkRecords: the envelope's sender and recipients are those of its records.
func checkRecords(t testing.TB, r *Reader, e *Envelope, b []byte) {
	t.Helper()
	if e == nil || e.Truncated {
		return
	}
	got := Envelope{Recipients: []Recipient{}}
	original, sender := "", false
	err := r.Records(func(rec Record) error {
		switch rec.Type {
		case recSender:
			if !sender {
				got.Sender, sender = string(rec.Value), true
			}
		case recOriginal:
			original = string(rec.Value)
		case recRecipient, recDone, recCanceled:
			got.Recipients = append(got.Recipients, Recipient{string(rec.Value), original, State(rec.Type)})
			original = ""
		}
		return nil
	})
	if got, want := fmt.Sprintf("%q %v", got.Sender, got.Recipients), fmt.Sprintf("%q %v", e.Sender, e.Recipients); err != nil || got != want {
		t.Fatalf("the records have %s, %v; the envelope %s; of %q", got, err, want, b)
	}
}

func deref(e *Envelope) any {
	if e == nil {
		return nil
	}
	return *e
}

// sameSlowly reads b as a queue file through a window of one byte, in which no record
// ever stands whole, and through one that holds all of it: the loops over the
// window find what is found record by record, and say where a carriage return is.
func sameSlowly(t testing.TB, r, slow *Reader, b []byte) {
	t.Helper()
	seen := func(r *Reader) string {
		e, content, err := read(t, r, b, false)
		pieces := ""
		if e != nil {
			err2 := r.Pieces(func(b []byte, eol, cr bool) error {
				if cr != bytes.Contains(b, []byte{'\r'}) {
					t.Fatalf("a carriage return in %q: got %v; of %q", b, cr, b)
				}
				if pieces += string(b); eol {
					pieces += "\n"
				}
				return nil
			})
			if (err2 == nil) != (err == nil) {
				t.Fatalf("content: %v; in pieces: %v; of %q", err, err2, b)
			}
		}
		if err != nil { // how much comes in front of the damage, and where a loop is noticed, is no matter
			return fmt.Sprintf("%+v broken", deref(e))
		}
		if pieces != content {
			t.Fatalf("content %q, in pieces %q; of %q", content, pieces, b)
		}
		return fmt.Sprintf("%+v %q", deref(e), content)
	}
	if got, want := seen(r), seen(slow); got != want {
		t.Fatalf("read differently record by record:\n%s\n%s\nof %q", got, want, b)
	}
}

// TestSlowly: the loops that are fast are right.
func TestSlowly(t *testing.T) {
	rng := rand.New(rand.NewSource(2))
	var r, slow Reader
	slow.buffer = make([]byte, 1)
	for _, f := range samples(t) {
		sameSlowly(t, &r, &slow, f.b)
		for range 2000 {
			sameSlowly(t, &r, &slow, mutate(rng, f.b))
		}
	}
}

// Attributes whose names are nearly those that an envelope is made of, and such as
// are none.
func TestAttributes(t *testing.T) {
	var r, slow Reader
	slow.buffer = make([]byte, 1)
	for _, name := range []string{
		"create_time", "create_tim", "create_timx", "create-time", "sasl_username", "sasl_usernamex", "sasl_sender", "sasl_xxxxxxxx",
		"log_client_name", "log_client_address", "log_client_port", "log_client_nam", "log_client_names", "log_client", "log_helo_name", "l",
		"client_name", "client_address", "client_namx", "client_port", "client_address_type", "c", "s", "", " client_name", "client_name ", "\xe9", "a b",
		"log_xlient_name", "client\x00_name", "\vclient_name", "client_name\x01",
	} {
		for _, value := range []string{"=1600000000", "= v ", "=", "", "=a\x00b", " = x=y"} {
			f := (&file{}).begin().rec('A', name+value).rec('A', "client_name=n").rec('A', "client_address=192.0.2.3").rec('S', "a@b.test").rec('R', "c@d.test").
				mesg().line("Subject: x").line("").extracted().rec('E', "")
			sameSlowly(t, &r, &slow, f.Bytes())
		}
	}
}

// FuzzFile: never a panic, a loop or more than is there; the same whatever the
// window.
func FuzzFile(f *testing.F) {
	for _, file := range samples(f) {
		f.Add(file.b)
	}
	var r, small, slow Reader
	small.buffer, slow.buffer = make([]byte, 300), make([]byte, 1)
	f.Fuzz(func(t *testing.T, b []byte) {
		sameTwice(t, &r, &small, b)
		sameSlowly(t, &r, &slow, b)
		if _, err := r.Created(bytes.NewReader(b)); err != nil {
			var broken *Broken
			if !errors.As(err, &broken) {
				t.Errorf("Created: %v", err)
			}
		}
	})
}

func BenchmarkEnvelope(b *testing.B) {
	data, err := os.ReadFile("testdata/postfix/queue/05F41984281")
	if err != nil {
		b.Fatal(err)
	}
	src := bytes.NewReader(data)
	var r Reader
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		r.Reset(src, int64(len(data)), false)
		if _, err := r.Envelope(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkContent(b *testing.B) {
	data, err := os.ReadFile("testdata/postfix/queue/05F41984281")
	if err != nil {
		b.Fatal(err)
	}
	src := bytes.NewReader(data)
	var r Reader
	n := 0
	text := func(b []byte, eol bool) error { n += len(b); return nil }
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		r.Reset(src, int64(len(data)), false)
		if err := r.Content(text); err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever a file says of its arrival can be told as JSON: one that cannot would take
// the whole answer of a host with it.
func TestArrivalIsTold(t *testing.T) {
	for _, text := range []string{"1", "-1", "-62135596800", "1795454283 528131", "1795454283 -9223372036854775807", "253402300800", "-9223372036854775807", "9223372036854775807"} {
		at := arrival([]byte(text))
		var again time.Time
		b, err := json.Marshal(at.In(time.FixedZone("", 14*60*60)))
		if err == nil {
			err = json.Unmarshal(b, &again)
		}
		if err != nil || at.IsZero() || !again.Equal(at) {
			t.Errorf("%s: %v, %v", text, at, err)
		}
	}
}
