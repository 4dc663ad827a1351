package main

import (
	"bufio"
	"fmt"
	"strings"
	"time"
)

// fromQuoter writes the text of a message as it stands in an mbox: a line that is
// "From " behind any number of > gets one more (mboxrd, RFC 4155 names it), so that it
// can be read back byte for byte.
type fromQuoter struct {
	w       *bufio.Writer
	began   bool // not at the beginning of a line, or that was looked at
	quotes  int  // > at the beginning of this line, held back
	matched int  // bytes of "From " behind them, held back
}

const fromLine = "From "

// flush writes what was held back.
func (q *fromQuoter) flush() {
	for range q.quotes {
		q.w.WriteByte('>')
	}
	q.w.WriteString(fromLine[:q.matched])
	q.quotes, q.matched = 0, 0
}

// Write never fails: the writer keeps its first error for its Flush.
func (q *fromQuoter) Write(p []byte) (int, error) {
	for _, c := range p {
		switch {
		case q.began:
		case q.matched == 0 && c == '>':
			q.quotes++
			continue
		case c == fromLine[q.matched]:
			if q.matched++; q.matched == len(fromLine) {
				q.w.WriteByte('>')
				q.flush()
				q.began = true
			}
			continue
		default:
			q.flush()
			q.began = true
		}
		q.w.WriteByte(c)
		q.began = c != '\n'
	}
	return len(p), nil
}

// mboxFrom is the line that begins a message in an mbox: the envelope sender, and
// when it arrived.
func mboxFrom(sender string, arrived time.Time) string {
	if sender == "" {
		sender = "MAILER-DAEMON"
	}
	sender = strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f && r < 0xa0 {
			return '_'
		}
		return r
	}, sender)
	return fmt.Sprintf("%s%s %s\n", fromLine, sender, arrived.UTC().Format(time.ANSIC))
}
