package pattern

import (
	"io"

	"spoolsweep/spool/queuefile"
)

// minRun is the shortest run of printable bytes that GNU strings prints.
const minRun = 4

// printable is what GNU strings takes for text by default: printable ASCII and
// the tab (binutils/strings.c STRING_ISGRAPHIC).
var printable = func() (t [256]bool) {
	for c := ' '; c <= '~'; c++ {
		t[c] = true
	}
	t['\t'] = true
	return t
}()

// readRaw searches the printable runs of the whole file, each a line, as strings
// prints them.
func readRaw(r *queuefile.Reader, t *lines) error {
	t.reset()
	run := 0 // bytes of the run that the text ends with
	for offset := int64(0); ; {
		b, err := r.Window(offset)
		if err == io.EOF {
			break
		} else if err != nil {
			return err
		}
		offset += int64(len(b))
		for i := 0; i < len(b); {
			from := i
			for i < len(b) && printable[b[i]] {
				i++
			}
			if run > 0 || i < len(b) && i-from >= minRun || i == len(b) {
				t.text = append(t.text, b[from:i]...)
				run += i - from
			}
			if i == len(b) {
				break
			}
			if run >= minRun {
				t.text = append(t.text, '\n')
			} else {
				t.text = t.text[:len(t.text)-run]
			}
			run = 0
			for i < len(b) && !printable[b[i]] {
				i++
			}
		}
		t.grown()
	}
	if run < minRun {
		t.text = t.text[:len(t.text)-run]
	}
	t.end()
	return nil
}
