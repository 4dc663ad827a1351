package main

import (
	"bufio"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// typed is a line from the terminal.
type typed struct {
	text  string
	err   error
	early bool // it was there before it was asked for
}

// keyboard reads lines: for the question that is open, else for whoever listens.
// Nothing is read that nobody waits for, since an editor, or a prompt of ssh, may be
// next. What comes before its question is kept for it, but for empty lines.
type keyboard struct {
	in   *bufio.Reader
	file *os.File // what in reads; nil: it cannot be waited for without reading

	mu      sync.Mutex // guards what follows
	asked   chan typed // the question that is open; nil: none
	listens func(text string)
	early   []typed
	held    int
	reads   chan struct{} // closed when what reads has ended; nil: nothing does
}

func newKeyboard(r io.Reader) *keyboard {
	file, _ := r.(*os.File)
	return &keyboard{in: bufio.NewReader(r), file: file}
}

// ask returns where the next line comes. forget is called when it is not wanted any
// more.
func (k *keyboard) ask() (next <-chan typed, forget func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	got := make(chan typed, 1)
	if len(k.early) > 0 {
		got <- k.early[0]
		k.early = k.early[1:]
		return got, func() {}
	}
	k.asked = got
	k.start()
	return got, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.asked == got {
			k.asked = nil
		}
	}
}

// listen has listens told of each line that no question has asked for; stop ends
// that.
func (k *keyboard) listen(listens func(text string)) (stop func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listens = listens
	k.start()
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.listens = nil
	}
}

// hold leaves the terminal to somebody else until release.
func (k *keyboard) hold() (release func()) {
	k.mu.Lock()
	k.held++
	reads := k.reads
	k.mu.Unlock()
	if reads != nil && k.file != nil {
		<-reads
	}
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.held--
		k.start()
	}
}

func (k *keyboard) wanted() bool { return k.held == 0 && (k.asked != nil || k.listens != nil) }

// start reads, if somebody waits for it and nobody does. The lock is held.
func (k *keyboard) start() {
	if k.reads == nil && k.wanted() {
		k.reads = make(chan struct{})
		go k.read(k.reads)
	}
}

// read ends when nobody waits for a line any more.
func (k *keyboard) read(reads chan struct{}) {
	for {
		k.mu.Lock()
		if !k.wanted() {
			k.reads = nil
			close(reads)
			k.mu.Unlock()
			return
		}
		k.mu.Unlock()
		if k.file != nil && k.in.Buffered() == 0 && !k.readable() {
			continue
		}
		text, err := k.in.ReadString('\n')
		k.take(typed{text: text, err: err})
	}
}

// keyboardLook is for how long a line is waited for before it is looked whether
// anybody wants one.
const keyboardLook = 100 * time.Millisecond

// readable waits a moment for a line. In the background there is none: to read one
// would stop the program there.
func (k *keyboard) readable() bool {
	fd := int(k.file.Fd())
	if !foreground(fd) {
		time.Sleep(keyboardLook)
		return false
	}
	var set unix.FdSet
	set.Set(fd)
	look := unix.NsecToTimeval(keyboardLook.Nanoseconds())
	n, err := unix.Select(fd+1, &set, nil, nil, &look)
	return err == nil && n > 0
}

func (k *keyboard) take(l typed) {
	k.mu.Lock()
	asked, listens := k.asked, k.listens
	k.asked = nil
	switch {
	case asked != nil:
		asked <- l
	case l.err != nil: // there is no terminal any more, or nobody who types
		k.listens, listens = nil, nil
	default:
		if l.text = strings.TrimSpace(l.text); l.text != "" {
			l.early = true
			k.early = append(k.early, l)
		}
	}
	k.mu.Unlock()
	if asked == nil && listens != nil {
		listens(l.text)
	}
}
