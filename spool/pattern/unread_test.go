package pattern

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// decodeText reads a mail in pieces as queuefile gives them: lines, and those that
// are longer than size in pieces. heads are the header fields that are wanted; nil
// for all.
func decodeText(m []byte, size int, heads ...[]byte) decoded {
	var head, body lines
	head.reset()
	body.reset()
	head.full, body.full, head.heads = 1<<40, 1<<40, heads
	var d mimeText
	d.reset(&head, &body, 0)
	for line := range bytes.Lines(m) {
		line = bytes.TrimSuffix(line, newline)
		for len(line) > size {
			d.text(line[:size], false, bytes.IndexByte(line[:size], '\r') >= 0)
			line = line[size:]
		}
		d.text(line, true, bytes.IndexByte(line, '\r') >= 0)
	}
	d.end()
	head.breakLines()
	body.breakLines()
	return decoded{string(head.text), string(body.text), d.capped}
}

// checkText: what is taken without a close look is what piece makes of it, and of
// the header fields those that are wanted are what they are among all.
func checkText(t *testing.T, m []byte, size int) {
	t.Helper()
	want := decode(m, wholeLines)
	if got := decodeText(m, size); got != want {
		t.Fatalf("by %d %q, in pieces %q; of %q", size, got, want, m)
	}
	heads := [][]byte{[]byte("subject:"), []byte("x-mailer:")}
	only := func(head string) (lines []string) {
		for line := range strings.SplitSeq(head, "\n") {
			for _, h := range heads {
				if bytes.HasPrefix(appendFold(nil, []byte(line)), h) {
					lines = append(lines, line)
				}
			}
		}
		return lines
	}
	got := decodeText(m, size, heads...)
	if diff := cmp.Diff(only(want.head), only(got.head)); diff != "" || got.body != want.body || len(got.head) > len(want.head) {
		t.Fatalf("where only some fields are wanted: %s; body %q, want %q; of %q", diff, got.body, want.body, m)
	}
}

// spoiled is a mail with a few things done to it.
func spoiled(random *rand.Rand, m []byte) []byte {
	m = bytes.Clone(m)
	for range 1 + random.IntN(4) {
		at := random.IntN(len(m))
		switch what := []string{"\r", "\r\n", "\n", "\n\n", ":", " ", "\n ", "\n--", "\n--=_b--\n", "Subject: x\n", "\n=?utf-8?q?Subject?=: y\n", "\nX-Mailer:z\n \t\n", "\nContent-Type: text/html\n\tx\n", "=", "\x00", "\xff", "From "}; random.IntN(4) {
		case 0:
			m[at] = byte(random.IntN(256))
		case 1:
			m = append(m[:at:at], m[min(len(m)-1, at+1+random.IntN(40)):]...)
		default:
			m = append(append(m[:at:at], what[random.IntN(len(what))]...), m[at:]...)
		}
	}
	return m
}

// TestUnread: what is fast is what is seen piece by piece.
func TestUnread(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for _, m := range mails(t) {
		for range 100 {
			checkText(t, m, 1+random.IntN(1+len(m)))
			checkText(t, spoiled(random, m), 1+random.IntN(1<<random.IntN(14)))
		}
	}
}

// FuzzUnread is TestUnread for anything.
func FuzzUnread(f *testing.F) {
	for _, m := range mails(f) {
		f.Add(m, 100)
	}
	f.Fuzz(func(t *testing.T, m []byte, size int) { checkText(t, m, max(1, size&0xffff)) })
}
