package run

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"spoolsweep/spool"
	"spoolsweep/spool/stage"
)

const eventsName = "events.jsonl"

// Event is one line of events.jsonl. Its fields are those of the wire's event;
// the front adds nothing but the number of the call.
type Event struct {
	Run      string          `json:"run"`
	Instance string          `json:"instance"`
	Seq      int64           `json:"seq"`
	Time     time.Time       `json:"time"`
	Stage    string          `json:"stage"`
	Index    int             `json:"index"`
	Kind     string          `json:"event"`
	Data     json.RawMessage `json:"data,omitempty"`
}

// Kinds of events, as they go over the wire.
const (
	evBegin    = "begin"
	evProgress = "progress"
	evResult   = "result"
	evWarn     = "warn"
	evAsk      = "ask"
	evEnd      = "end"
)

// Ended is the data of an end event, of a stage or of the run.
type Ended struct {
	Status  string  `json:"status"` // ok, failed or waiting
	Changed bool    `json:"changed"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
	Remedy  string  `json:"remedy,omitempty"`
	Asks    string  `json:"asks,omitempty"`
	Number  int     `json:"number,omitempty"` // of the ask
	Note    string  `json:"note,omitempty"`
}

// record appends to a run's events. One process at a time has it open.
type record struct {
	run, instance string
	f             *os.File
	seq           int64
	size          int64 // of the whole lines
}

func openRecord(dir, run, instance string) (*record, error) {
	f, err := os.OpenFile(filepath.Join(dir, eventsName), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	r := &record{run: run, instance: instance, f: f}
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		r.size += int64(len(line))
		r.seq++
	}
	// A line that a death cut. Only then: it gives back what was reserved.
	st, err := f.Stat()
	if err == nil && st.Size() > r.size {
		err = f.Truncate(r.size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return r, nil
}

// emit appends an event. A failure is told to the log and otherwise passed
// over: nobody stops mail because nobody can watch.
func (r *record) emit(stage string, index int, kind string, data any) {
	text, err := json.Marshal(data)
	if err == nil {
		var line []byte
		line, err = json.Marshal(Event{Run: r.run, Instance: r.instance, Seq: r.seq + 1, Time: time.Now().UTC(), Stage: stage, Index: index, Kind: kind, Data: text})
		if err == nil {
			line = append(line, '\n')
			if err = r.append(line); err != nil && spool.GiveWay(filepath.Dir(r.f.Name()), err) {
				err = r.append(line)
			}
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "event %s of %s: %v\n", kind, stage, err)
		return
	}
	r.seq++
}

func (r *record) append(line []byte) error {
	n, err := r.f.Write(line)
	switch {
	case err == nil:
		r.size += int64(n)
	case n > 0: // half a line would spoil the next one
		err = errors.Join(err, r.f.Truncate(r.size))
	}
	return err
}

// eventSpace is for the events of a run: a few hundred, and progress.
const eventSpace = 1 << 20

// folderSpace is for what else a run's folder holds before the stop: what was asked
// for, the first records, and blocks of which a part is used.
const folderSpace = 64 << 10

// reserved is the room that a run takes in the state directory before it stops
// Postfix, in bytes, if it sets so many messages aside.
func reserved(messages int64) int64 {
	return spool.JournalSpace(messages) + stage.VerdictSpace(messages) + eventSpace + folderSpace
}

func (r *record) reserve() error { return spool.Reserve(r.f, eventSpace) }

// release gives back what was reserved and not used.
func (r *record) release() error { return r.f.Truncate(r.size) }

// sync makes what was told outlast a power loss: later stages read it.
func (r *record) sync() error { return r.f.Sync() }

func (r *record) close() { r.f.Close() }

// events counts the whole events of a run.
func events(dir string) (int64, error) {
	f, err := os.Open(filepath.Join(dir, eventsName))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var n int64
	in := bufio.NewReader(f)
	for {
		if _, err := in.ReadBytes('\n'); errors.Is(err, io.EOF) {
			return n, nil
		} else if err != nil {
			return 0, err
		}
		n++
	}
}

// eachEvent passes on the whole events that a run has so far.
func eachEvent(dir string, each func(line []byte) error) error {
	f, err := os.Open(filepath.Join(dir, eventsName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := each(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
			return err
		}
	}
}

// last decodes the data of the latest result of a stage.
func last(dir, stage string, into any) bool {
	f, err := os.Open(filepath.Join(dir, eventsName))
	if err != nil {
		return false
	}
	defer f.Close()
	var found json.RawMessage
	in := bufio.NewReader(f)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var e Event
		if json.Unmarshal(line, &e) == nil && e.Stage == stage && e.Kind == evResult {
			found = e.Data
		}
	}
	return found != nil && json.Unmarshal(found, into) == nil
}

// endedWell says whether the last of a run's events is its end, or that it waits: no
// section of it is left. Events are read by any version, as a controller reads them.
func endedWell(dir string) (well bool) {
	err := eachEvent(dir, func(line []byte) error {
		var e Event
		var end Ended
		well = json.Unmarshal(line, &e) == nil && e.Kind == evEnd && e.Index < 0 &&
			json.Unmarshal(e.Data, &end) == nil && (end.Status == "ok" || end.Status == "waiting")
		return nil
	})
	return well && err == nil
}

// tailEvery is how often a tail looks for news.
const tailEvery = 50 * time.Millisecond

// Tail passes on the events of a run from the given number on, as whole lines,
// until nobody works on it any more. It keeps up with a running worker, and
// never holds it up.
func Tail(ctx context.Context, dir string, from int64, each func(line []byte) error) error {
	f, err := os.Open(filepath.Join(dir, eventsName))
	for errors.Is(err, fs.ErrNotExist) && alive(dir) { // the worker is about to make it
		if !pause(ctx, tailEvery) {
			return ctx.Err()
		}
		f, err = os.Open(filepath.Join(dir, eventsName))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReader(f)
	var seq, whole int64
	for {
		working := alive(dir) // before reading: what it wrote before it ended is read below
		// A half line may be cut off by the next worker: never kept.
		if _, err := f.Seek(whole, io.SeekStart); err != nil {
			return err
		}
		in.Reset(f)
		for {
			line, err := in.ReadBytes('\n')
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			whole += int64(len(line))
			if seq++; seq >= from {
				if err := each(bytes.TrimSuffix(line, []byte("\n"))); err != nil {
					return err
				}
			}
		}
		if !working {
			return nil
		}
		if !pause(ctx, tailEvery) {
			return ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
