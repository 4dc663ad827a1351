package maillog

import (
	"bufio"
	"bytes"
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
// then, one at a time; the zero time is all there is. Files, and parts of a large
// one, are read side by side, so that lines come in order only within a few
// megabytes. A file that cannot be read keeps no other from being read: errors are
// joined at the end. An error of found ends the reading.
func (l *Logs) Read(ctx context.Context, since time.Time, want Kind, found func(*Event) error) error {
	if l.Journal {
		return readJournal(ctx, since, want, found)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // guards what found works on
	r := &reading{since: since, want: want, parts: make(chan part), found: func(e *Event) error {
		mu.Lock()
		defer mu.Unlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		err := found(e)
		if err != nil {
			cancel(err)
		}
		return err
	}}
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for p := range r.parts {
				p.file.note(r.part(ctx, &p))
			}
		})
	}
	var opened []*logFile
	for _, f := range l.Files {
		// The minute is for a file system whose times are coarse.
		if since.IsZero() || !f.Written.Before(since.Add(-time.Minute)) {
			file := &logFile{path: f.Path}
			opened = append(opened, file)
			file.note(r.cut(ctx, file))
		}
	}
	close(r.parts)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var errs []error
	for _, f := range opened {
		if f.err != nil {
			errs = append(errs, fmt.Errorf("mail log %s: %w", f.path, f.err))
		}
	}
	return errors.Join(errs...)
}

// reading is one Read at work.
type reading struct {
	since time.Time
	want  Kind
	found func(*Event) error
	parts chan part
}

// logFile is a file of a log while its parts are read.
type logFile struct {
	path string
	open sync.WaitGroup // parts that are not read yet

	mu  sync.Mutex // guards err
	err error      // the first one
}

func (f *logFile) note(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// part is what one worker reads of a log: all that is packed, or some lines of
// what is plain.
type part struct {
	file    *logFile
	from    *os.File
	written time.Time
	lines   io.Reader // nil: of a packed file, all
	skip    bool      // the first of them is another part's
}

// partSize is how much of a plain log one worker takes at a time. Tests make it
// smaller.
var partSize int64 = 16 << 20

// cut opens a log and hands out its parts.
func (r *reading) cut(ctx context.Context, f *logFile) error {
	file, info, err := open(f.path)
	if err != nil {
		return err
	}
	hand := func(p part) {
		f.open.Add(1)
		p.file, p.from, p.written = f, file, info.ModTime()
		select {
		case r.parts <- p:
		case <-ctx.Done():
			f.open.Done()
		}
	}
	defer func() {
		go func() { // ends with the last part, which Read waits for
			f.open.Wait()
			file.Close()
		}()
	}()
	if packing(f.path) != "" {
		hand(part{})
		return nil
	}
	begin, size := int64(0), info.Size()
	if !r.since.IsZero() {
		s := &scanner{parser: parser{written: info.ModTime()}, since: r.since}
		if begin, err = s.seek(file, size); err != nil {
			return err
		}
	}
	for begin < size {
		end := size
		if size-begin > partSize {
			if end, err = lineEnd(file, begin+partSize-1); err != nil {
				return err
			}
		}
		// Of the line that the byte before belongs to nothing is left: it was a
		// whole one, or it is what a search by halves fell into.
		p := part{lines: io.NewSectionReader(file, begin, end-begin)}
		if begin > 0 {
			p.lines, p.skip = io.NewSectionReader(file, begin-1, end-begin+1), true
		}
		hand(p)
		begin = end
	}
	return nil
}

// lineEnd is the offset behind the line that the byte at offset belongs to, or
// some place in a line that is too long for any part.
func lineEnd(file *os.File, offset int64) (int64, error) {
	text := make([]byte, maxLine)
	n, err := file.ReadAt(text, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	if i := bytes.IndexByte(text[:n], '\n'); i >= 0 {
		return offset + int64(i) + 1, nil
	}
	return offset + max(int64(n), 1), nil
}

func (r *reading) part(ctx context.Context, p *part) error {
	defer p.file.open.Done()
	s := &scanner{parser: parser{written: p.written}, want: r.want, since: r.since, found: r.found, skip: p.skip}
	if p.lines != nil {
		return s.scan(ctx, p.lines)
	}
	lines, end, err := unpacked(ctx, p.from)
	if err != nil {
		return err
	}
	return errors.Join(s.scan(ctx, lines), end())
}

// packing is how a log is packed, by its name: gz, bz2, xz, zst or "".
func packing(path string) string {
	switch name := path[strings.LastIndexByte(path, '.')+1:]; name {
	case "gz", "bz2", "xz", "zst":
		return name
	}
	return ""
}

// unpacked reads what is packed in a log. end waits for whoever unpacks it.
func unpacked(ctx context.Context, file *os.File) (r io.Reader, end func() error, err error) {
	switch packing(file.Name()) {
	case "xz":
		return output(ctx, file, "xzcat")
	case "zst":
		return output(ctx, file, "zstdcat")
	case "bz2":
		return output(ctx, file, "bzcat")
	}
	z, err := gzip.NewReader(bufio.NewReaderSize(file, blockSize))
	if errors.Is(err, io.EOF) {
		return strings.NewReader(""), func() error { return nil }, nil // an empty file
	}
	if err != nil {
		return nil, nil, err
	}
	r, end = besides(z)
	return r, end, nil
}

// besides reads r in a goroutine of its own, which end ends.
func besides(r io.Reader) (io.Reader, func() error) {
	out, in := io.Pipe()
	var done sync.WaitGroup
	done.Go(func() {
		_, err := io.CopyBuffer(in, struct{ io.Reader }{r}, make([]byte, blockSize))
		in.CloseWithError(err)
	})
	return out, func() error {
		out.Close()
		done.Wait()
		return nil
	}
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

// seek is a place in a plain log that all lines since then are behind, found by
// halving: stamps rise. It may be inside a line.
func (s *scanner) seek(file *os.File, size int64) (int64, error) {
	before := s.since.Add(-slack)
	low, high := int64(0), size
	for high-low > blockSize {
		middle := low + (high-low)/2
		at, ok, err := s.timeBehind(file, middle)
		if err != nil {
			return 0, err
		}
		if ok && at.Before(before) {
			low = middle
		} else {
			high = middle
		}
	}
	return low, nil
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
		stamp, _, _ := cutStamp(line)
		if at, ok := s.time(stamp); ok {
			return at, true, nil
		}
		text = rest
	}
}
