package pattern

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// decodeLineBlocks reads a mail in blocks, as queuefile gives them: whole lines each but
// for a line that is longer than size, and a newline behind the last. heads are the
// header fields that are wanted; nil for all.
func decodeLineBlocks(m []byte, size int, heads ...[]byte) decoded {
	var head, body lines
	head.reset()
	body.reset()
	head.full, body.full, head.heads = 1<<40, 1<<40, heads
	var d mimeText
	d.reset(&head, &body, 0)
	if len(m) > 0 && m[len(m)-1] != '\n' {
		m = append(bytes.Clone(m), '\n')
	}
	var block []byte
	for len(m) > 0 {
		n := bytes.IndexByte(m, '\n') + 1
		if len(block) > 0 && len(block)+n > size {
			d.block(block)
			block = block[:0]
		}
		n = min(n, size)
		block = append(block, m[:n]...)
		if m = m[n:]; n == size {
			d.block(block)
			block = block[:0]
		}
	}
	d.block(block)
	d.end()
	head.breakLines()
	body.breakLines()
	return decoded{string(head.text), string(body.text), d.capped}
}

// checkBlocks: a mail in blocks of any size is the mail line by line, and of the
// header fields those that are wanted are what they are among all.
func checkBlocks(t *testing.T, m []byte, size int) {
	t.Helper()
	want := decode(m, wholeLines)
	if got := decodeLineBlocks(m, size); got != want {
		t.Fatalf("in blocks of %d %q, line by line %q; of %q", size, got, want, m)
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
	got := decodeLineBlocks(m, size, heads...)
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

// TestBlocks: what is fast with many lines at hand is what is seen line by line.
func TestBlocks(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	for _, m := range mails(t) {
		for range 100 {
			checkBlocks(t, m, 1+random.IntN(1+len(m)))
			checkBlocks(t, spoiled(random, m), 1+random.IntN(1<<random.IntN(14)))
		}
	}
}

// FuzzBlocks is TestBlocks for anything.
func FuzzBlocks(f *testing.F) {
	for _, m := range mails(f) {
		f.Add(m, 100)
	}
	f.Fuzz(func(t *testing.T, m []byte, size int) { checkBlocks(t, m, max(1, size&0xffff)) })
}
