package maillog

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Read calls found for the lines that are wanted of all that was logged since
// then, one at a time; the zero time is all there is. Files are read side by
// side, so that their lines come mixed, those of one file in their order. A file
// that cannot be read keeps no other from being read: errors are joined at the
// end. An error of found ends the reading.
func (l *Logs) Read(ctx context.Context, since time.Time, want Kind, found func(*Event) error) error {
	if l.Journal {
		return readJournal(ctx, since, want, found)
	}
	var mu sync.Mutex // guards stopped, and what found works on
	var stopped error
	one := func(e *Event) error {
		mu.Lock()
		defer mu.Unlock()
		if stopped == nil {
			stopped = found(e)
		}
		return stopped
	}
	files := make(chan int, len(l.Files))
	for i, f := range l.Files {
		// The minute is for a file system whose times are coarse.
		if since.IsZero() || !f.Written.Before(since.Add(-time.Minute)) {
			files <- i
		}
	}
	close(files)
	errs := make([]error, len(l.Files))
	var wg sync.WaitGroup
	for range min(len(files), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range files {
				errs[i] = l.Files[i].read(ctx, since, want, one)
			}
		})
	}
	wg.Wait()
	if stopped != nil {
		return stopped
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

func (f *File) read(ctx context.Context, since time.Time, want Kind, found func(*Event) error) error {
	file, info, err := open(f.Path)
	if err != nil {
		return fmt.Errorf("mail log: %w", err)
	}
	defer file.Close()
	s := &scanner{parser: parser{written: info.ModTime()}, want: want, since: since, found: found}
	r, end, err := unpacked(ctx, file)
	if err != nil {
		return fmt.Errorf("mail log %s: %w", f.Path, err)
	}
	if r == io.Reader(file) && !since.IsZero() {
		if err := s.seek(file, info.Size()); err != nil {
			return fmt.Errorf("mail log %s: %w", f.Path, err)
		}
	}
	err = s.scan(ctx, r)
	if ended := end(); err == nil {
		err = ended
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("mail log %s: %w", f.Path, err)
	}
	return err
}

// unpacked reads what is packed in a log by its name. end waits for the program
// that does it, if there is one.
func unpacked(ctx context.Context, file *os.File) (r io.Reader, end func() error, err error) {
	none := func() error { return nil }
	switch name := file.Name(); name[strings.LastIndexByte(name, '.')+1:] {
	case "gz":
		z, err := gzip.NewReader(bufio.NewReaderSize(file, blockSize))
		if errors.Is(err, io.EOF) {
			return strings.NewReader(""), none, nil // an empty file
		}
		return z, none, err
	case "bz2":
		return bzip2.NewReader(bufio.NewReaderSize(file, blockSize)), none, nil
	case "xz":
		return output(ctx, file, "xzcat")
	case "zst":
		return output(ctx, file, "zstdcat")
	}
	return file, none, nil
}

// maxComplaint bounds what is kept of a program's standard error.
const maxComplaint = 1000

// output is what a program of this host prints. The program gets the open file,
// not a name.
func output(ctx context.Context, in *os.File, name string, args ...string) (io.Reader, func() error, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, nil, fmt.Errorf("needs %s, which is not installed here", name)
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, path, args...)
	if in != nil {
		cmd.Stdin = in
	}
	complaint := new(limited)
	cmd.Stderr = complaint
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, nil, err
	}
	ended := &ending{Reader: out}
	return ended, func() error {
		if !ended.all {
			cancel() // nobody reads on: it would wait for ever
		}
		err := cmd.Wait()
		cancel()
		if err != nil && ended.all {
			return fmt.Errorf("%s: %w: %s", name, err, bytes.TrimSpace(complaint.b))
		}
		return nil
	}, nil
}

// ending knows whether all was read.
type ending struct {
	io.Reader
	all bool
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	e.all = e.all || errors.Is(err, io.EOF)
	return n, err
}

// limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), maxComplaint-len(l.b))]...)
	return len(p), nil
}

// slack is how far the lines of a log may be out of order: the clock is set, an
// hour comes twice in autumn.
const slack = 2 * time.Hour

// seek goes to a place in a plain log that all lines since then are behind, by
// halving: stamps rise.
func (s *scanner) seek(file *os.File, size int64) error {
	before := s.since.Add(-slack)
	low, high := int64(0), size
	for high-low > blockSize {
		middle := low + (high-low)/2
		at, ok, err := s.timeBehind(file, middle)
		if err != nil {
			return err
		}
		if ok && at.Before(before) {
			low = middle
		} else {
			high = middle
		}
	}
	// What is left of the line at low is none of Postfix's, whatever it looks like.
	s.skip = low > 0
	_, err := file.Seek(low, io.SeekStart)
	return err
}

// timeBehind is the time of the first line that begins behind offset and has one.
func (s *scanner) timeBehind(file *os.File, offset int64) (time.Time, bool, error) {
	text := make([]byte, maxLine)
	n, err := file.ReadAt(text, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return time.Time{}, false, err
	}
	text = text[:n]
	for {
		_, rest, ok := bytes.Cut(text, []byte("\n"))
		if !ok {
			return time.Time{}, false, nil
		}
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if at, ok := s.stampOf(line); ok {
			return at, true, nil
		}
		text = rest
	}
}

// stampOf is the time of any program's line.
func (s *scanner) stampOf(line []byte) (time.Time, bool) {
	if len(line) > 0 && line[0] == '<' {
		_, line, _ = bytes.Cut(line, []byte(">"))
	}
	full := bytes.HasPrefix(line, []byte("1 "))
	at, _, ok := s.time(bytes.TrimPrefix(line, []byte("1 ")), full)
	return at, ok
}
