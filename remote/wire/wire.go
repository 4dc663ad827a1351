// Package wire is the only code that knows the bytes between controller and
// agent: one JSON object a line over the session's stdin and stdout.
//
// The agent speaks first, with one greeting line,
//
//	spoolsweep/1 BUILD SUM
//
// where SUM is of the agent's own file: crc32: and its checksum, or its SHA-256,
// which else is the answer to the call [Sum]; anything before it (a login
// shell's noise, up to [MaxNoise] bytes) is skipped. From then on both sides
// send [Frame] values of at most [MaxFrame] bytes. Unknown kinds and fields are
// ignored, so that a newer side can talk to an older one. What Data holds is not
// this package's business; it imports nothing of ours.
package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	// Protocol is the version both sides must share.
	Protocol = "spoolsweep/1"
	// MaxFrame bounds one frame, its newline included.
	MaxFrame = 1 << 20
	// MaxNoise bounds what may come before the greeting.
	MaxNoise = 64 << 10
	// Beat is how often each side shows that it lives.
	Beat = 5 * time.Second
	// Lost is the silence after which the link counts as lost: three beats missed.
	Lost = 3*Beat + Beat/2
)

// Kinds of frames.
const (
	Call  = "call"  // controller: do the call Name with Data, answer with Reply or Error
	Reply = "reply" // agent: the answer to the call with the same ID
	Error = "error" // agent: the call with the same ID failed, Data is a Fault
	Tail  = "tail"  // controller: send the events of Run from sequence number From on
	News  = "event" // agent: Event, of a tail or of a call (then with its ID)
	Rest  = "rest"  // agent: the tail with the same ID has come to rest: the run ended, or waits
	Pulse = "beat"  // both: I am here
)

// Frame is one line in either direction.
type Frame struct {
	Kind  string          `json:"kind"`
	ID    int             `json:"id,omitempty"`   // of the call or tail it belongs to
	Name  string          `json:"name,omitempty"` // of the call
	Run   string          `json:"run,omitempty"`
	From  int64           `json:"from,omitempty"`
	Data  json.RawMessage `json:"data,omitempty"`
	Event *Event          `json:"event,omitempty"`
}

// Kinds of events.
const (
	Begin    = "begin"    // a stage begins
	Progress = "progress" // latest wins
	Result   = "result"   // what a stage found or did
	Warn     = "warn"     // {"message": ...}
	Ask      = "ask"      // the run waits for an answer
	Judged   = "judged"   // the verdicts of some messages, in a call that wants them listed
	Account  = "account"  // some entries of a ledger, in a call that wants it
	Would    = "would"    // what would be done, in the check of a plan
	Mail     = "mail"     // a piece of a message, in a call that fetches mail
	Keep     = "keep"     // what to give the host with the next such call, in one that only looks
	End      = "end"      // a stage, or with stage "" the run, has ended
)

// Event is one thing that happened on a host during a run. The agent numbers
// the events of a run from 1; Host is filled in by the controller, which alone
// knows the inventory's name.
type Event struct {
	Run      string          `json:"run"`
	Host     string          `json:"host"`
	Instance string          `json:"instance"`
	Seq      int64           `json:"seq"`
	Time     time.Time       `json:"time"`
	Stage    string          `json:"stage"`
	Index    int             `json:"index"` // of the stage in the plan, from 0; -1 for the run itself
	Kind     string          `json:"event"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// Fault is an error as it crosses the wire: what went wrong, and what to do.
type Fault struct {
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	// Kind lets the controller branch, for example "busy" or "no-run".
	Kind string `json:"kind,omitempty"`
}

func (f *Fault) Error() string { return f.Message }

// Greeting is the agent's first line.
type Greeting struct {
	Build string
	Sum   string // of the running file: see IsSHA256 and Checksum
}

// Sum is the name of a call whose answer is the SHA-256 of the running file.
const Sum = "sum"

// IsSHA256 says whether a greeting's sum is that, in lower-case hex.
func IsSHA256(sum string) bool { return len(sum) == 64 }

// checksum begins a sum that is none.
const checksum = "crc32:"

// Checksum is the sum of a file's size and of samples of it: 4 KiB of each 512, and
// its end. It tells another file, and one that was cut short; not what somebody
// forged, nor each byte that a disk lost. To read all of a file takes longer than a
// look at a host.
func Checksum(file io.ReaderAt, size int64) (string, error) {
	const sample, every = 4 << 10, 512 << 10
	sum := uint32(size)
	buf := make([]byte, sample)
	for at := int64(0); at < size+every; at += every {
		n, err := file.ReadAt(buf, max(0, min(at, size-sample)))
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		sum = crc32.Update(sum, crc32.IEEETable, buf[:n])
	}
	return fmt.Sprintf("%s%08x", checksum, sum), nil
}

// WriteGreeting sends the greeting.
func WriteGreeting(w io.Writer, g Greeting) error {
	_, err := fmt.Fprintf(w, "%s %s %s\n", Protocol, g.Build, g.Sum)
	return err
}

// Reader reads a greeting and then frames.
type Reader struct {
	r     *bufio.Reader
	noise func(line []byte)
}

// readSize holds most frames whole; a controller of a thousand hosts has as many.
const readSize = 4 << 10

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: bufio.NewReaderSize(r, readSize)} }

// SkipNoise has Read hand lines that do not begin as Writer's frames do to noise,
// where they would be errors: on a terminal the agent's stderr comes among them.
func (r *Reader) SkipNoise(noise func(line []byte)) { r.noise = noise }

// frameBegin is what the first field of a Frame looks like.
var frameBegin = []byte(`{"kind":"`)

// Greeting skips noise up to the greeting. The error of a stream that ends, or
// goes on for more than MaxNoise without one, quotes the start of the noise as
// data ([*NoiseError]).
func (r *Reader) Greeting() (Greeting, error) {
	var noise []byte
	begun := 0 // the last line, in noise
	for {
		part, err := r.r.ReadSlice('\n')
		noise = append(noise, part...)
		if err == nil {
			if g, found, err := greetingIn(noise[begun:]); found {
				return g, err
			}
			begun = len(noise)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return Greeting{}, &NoiseError{Noise: noise, Err: err}
		}
		if len(noise) > MaxNoise {
			return Greeting{}, &NoiseError{Noise: noise[:MaxNoise], Err: errors.New("no greeting")}
		}
	}
}

// maxGreeting bounds the greeting line.
const maxGreeting = 1 << 10

// greetingIn finds a greeting at the end of a line. What stands before it may
// name spoolsweep too: a prompt shows the working directory.
func greetingIn(line []byte) (g Greeting, found bool, err error) {
	rest := line[max(0, len(line)-maxGreeting):]
	for {
		i := bytes.Index(rest, []byte("spoolsweep/"))
		if i < 0 {
			return Greeting{}, false, nil
		}
		fields := strings.Fields(string(rest[i:]))
		if len(fields) == 3 && (IsSHA256(fields[2]) || strings.HasPrefix(fields[2], checksum) && len(fields[2]) == len(checksum)+8) {
			if fields[0] != Protocol {
				return Greeting{}, true, fmt.Errorf("the agent speaks %.40q, this controller %s", fields[0], Protocol)
			}
			return Greeting{Build: fields[1], Sum: fields[2]}, true, nil
		}
		rest = rest[i+1:]
	}
}

// NoiseError says that no greeting came, and what came instead.
type NoiseError struct {
	Noise []byte // untrusted
	Err   error
}

func (e *NoiseError) Error() string {
	return fmt.Sprintf("no greeting from the agent: %v", e.Err)
}

func (e *NoiseError) Unwrap() error { return e.Err }

// ErrTooLong is returned for a line of more than MaxFrame bytes.
var ErrTooLong = fmt.Errorf("frame longer than %d bytes", MaxFrame)

// Read returns the next frame. Empty lines are skipped. A line that is no JSON
// object, or too long, is an error: the stream is not to be trusted any more.
func (r *Reader) Read() (Frame, error) {
	for {
		line, err := r.line()
		if err != nil {
			return Frame{}, err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		if r.noise != nil && !bytes.HasPrefix(line, frameBegin) {
			r.noise(line)
			continue
		}
		var f Frame
		if line[0] != '{' {
			// Unmarshal would take a null for an empty frame.
			return Frame{}, errors.New("not a frame: no JSON object")
		}
		if err := json.Unmarshal(line, &f); err != nil {
			return Frame{}, fmt.Errorf("not a frame: %w", err)
		}
		return f, nil
	}
}

func (r *Reader) line() ([]byte, error) {
	var whole []byte
	for {
		part, err := r.r.ReadSlice('\n')
		if len(whole)+len(part) > MaxFrame {
			return nil, ErrTooLong
		}
		switch {
		case err == nil && whole == nil:
			return part, nil
		case err == nil:
			return append(whole, part...), nil
		case errors.Is(err, bufio.ErrBufferFull):
			whole = append(whole, part...)
		case errors.Is(err, io.EOF) && len(whole)+len(part) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}

// Writer sends frames; it may be used by several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write sends f in one write.
func (w *Writer) Write(f Frame) error {
	line, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if len(line)+1 > MaxFrame {
		return ErrTooLong
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.w.Write(append(line, '\n'))
	return err
}
