package show

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"spoolsweep/remote/clean"
	"spoolsweep/remote/wire"
	"spoolsweep/spool/run"
	"spoolsweep/spool/stage"
)

// maxText bounds one piece of untrusted text on the screen.
const maxText = 1000

// Clean makes text from a host or a mail safe to show.
func Clean(s string) string { return clean.Text(s, maxText) }

// Printer writes for people or for scripts. Results go to Out, everything else
// to Err; as JSON Out gets one document at the end and nothing before, as a
// stream one event a line, when it happens.
type Printer struct {
	Out, Err io.Writer
	JSON     bool
	Stream   bool
	Quiet    bool
	Verbose  bool
	Width    int // of the host names' column
	// Screen, if not nil, is the terminal that Err writes to, and shows where the
	// hosts of a run are while these are followed.
	Screen *Screen
	// OneTerminal says that Out is that terminal, too.
	OneTerminal bool

	writing sync.Mutex // held while Screen is written to; taken before mu

	mu     sync.Mutex // guards what follows, and the writers but Screen's
	live   live
	drawn  bool   // hosts are followed on Screen
	asking int    // questions that are open
	asked  string // the last of these
	said   []said // while they are followed: what was not written yet
	urgent bool   // something of it does not wait for an answer

	last  map[string]time.Time // of a host's progress
	ended map[string]bool      // hosts whose end was streamed
	told  map[string]bool      // hosts of which a result was streamed
}

// progressEvery keeps a fleet's progress readable.
const progressEvery = time.Second

// Line prints a result for people.
func (p *Printer) Line(host, format string, args ...any) { p.line(p.Out, host, format, args...) }

// Note prints what is no result: plans, progress, hints. -q leaves it out.
func (p *Printer) Note(host, format string, args ...any) {
	if !p.Quiet {
		p.line(p.Err, host, format, args...)
	}
}

// Alert prints what went wrong, also under -q.
func (p *Printer) Alert(host, format string, args ...any) {
	p.line(p.Err, host, format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.urgent = p.drawn
}

func (p *Printer) line(w io.Writer, host, format string, args ...any) {
	if (p.JSON || p.Stream) && w == p.Out {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if p.drawn && (w == p.Err || p.OneTerminal) {
		p.say(host, text)
		return
	}
	fmt.Fprintln(w, p.labelled(Clean(host), text))
}

func (p *Printer) labelled(host, text string) string {
	if host == "" {
		return text
	}
	return fmt.Sprintf("%-*s | %s", p.Width, host, text)
}

// Event prints what a host reports.
func (p *Printer) Event(e wire.Event) {
	p.stream(e)
	host := label(e.Host, e.Instance)
	p.mu.Lock()
	p.live.event(e, time.Now())
	drawn := p.drawn
	p.mu.Unlock()
	switch e.Kind {
	case wire.Begin:
		if p.Verbose {
			p.Note(host, "%s begins", Clean(e.Stage))
		}
	case wire.Progress:
		if !drawn && p.due(host) {
			p.Note(host, "%-*s %s", stageWidth, Clean(e.Stage), numbers(e.Data))
		}
	case wire.Judged:
		p.judged(host, e)
	case wire.Result:
		p.Lines(host, e.Stage, e.Data)
	case wire.Warn:
		p.Alert(host, "warning: %s", Clean(warning(e.Data)))
	case wire.End:
		var end run.Ended
		if json.Unmarshal(e.Data, &end) != nil {
			return
		}
		switch {
		case end.Error != "" && e.Index >= 0:
			p.Alert(host, "%s FAILED: %s", Clean(e.Stage), Clean(end.Error))
			if end.Remedy != "" {
				p.Alert(host, "  remedy: %s", Clean(end.Remedy))
			}
		case e.Index >= 0 && end.Status == Skipped:
			p.Note(host, "%-*s skipped: %s", stageWidth, Clean(e.Stage), Clean(end.Note))
		case e.Index < 0 && end.Status == "ok":
			p.Note(host, "done")
		case e.Index >= 0 && p.Verbose:
			p.Note(host, "%s ended: %s, after %.2f s", Clean(e.Stage), Clean(end.Status), end.Seconds)
		}
	}
}

// judged prints a line a message, as a loop of strings and grep -c does.
func (p *Printer) judged(host string, e wire.Event) {
	var j stage.Judged
	if json.Unmarshal(e.Data, &j) != nil {
		return
	}
	for _, m := range j.Messages {
		p.Line(host, "%s: %d %s", Clean(j.Directory+"/"+m.ID), m.Lines, Clean(string(m.Verdict)))
	}
}

func (p *Printer) due(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = map[string]time.Time{}
	}
	if time.Since(p.last[host]) < progressEvery {
		return false
	}
	p.last[host] = time.Now()
	return true
}

// stream writes an event as one line of JSON.
func (p *Printer) stream(e wire.Event) {
	if !p.Stream {
		return
	}
	text, err := json.Marshal(e)
	if err != nil {
		return // a host's data is JSON, or it would not have been read
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended, p.told = map[string]bool{}, map[string]bool{}
	}
	switch host := label(e.Host, e.Instance); {
	case e.Kind == wire.Result:
		p.told[host] = true
	case e.Kind == wire.End && e.Index < 0:
		p.ended[host] = true
	}
	_, _ = p.Out.Write(append(escapeJSON(text), '\n')) // who reads is gone: the work goes on
}

// Found streams what a host says of itself before a run begins.
func (p *Printer) Found(host string, f *run.Preflight) {
	if text, err := json.Marshal(f); err == nil {
		p.stream(wire.Event{Host: host, Instance: "-", Time: time.Now().UTC(), Stage: "preflight", Index: -1, Kind: wire.Result, Data: text})
	}
}

// Result prints the result of a stage that a command has asked for, line by line.
// The zero Host stands for all hosts together.
func (p *Printer) Result(h *Host, name string, data json.RawMessage) {
	p.streamResult(h, name, data)
	p.Lines(h.Label(), name, data)
}

// ResultOf is Result, with r telling people of it.
func (p *Printer) ResultOf(h *Host, name string, data json.RawMessage, r stage.Result) {
	p.streamResult(h, name, data)
	p.LinesOf(h.Label(), name, r)
}

func (p *Printer) streamResult(h *Host, name string, data json.RawMessage) {
	p.stream(wire.Event{Host: h.Host, Instance: cmp.Or(h.Instance, DefaultInstance), Time: time.Now().UTC(), Stage: name, Kind: wire.Result, Data: data})
}

// Lines prints a stage's result that was told before, for people only.
func (p *Printer) Lines(host, name string, data json.RawMessage) {
	row, ok := stage.Lookup(name)
	if !ok {
		return
	}
	r := row.Result()
	if err := json.Unmarshal(data, r); err != nil {
		p.Alert(host, "%s: unreadable result: %v", Clean(name), err)
		return
	}
	p.LinesOf(host, name, r)
}

// LinesOf prints a result line by line, for people only.
func (p *Printer) LinesOf(host, name string, r stage.Result) {
	for _, l := range r.Lines() {
		p.Line(host, "%s", stageLine(name, l))
	}
}

// Columns of what stages report: their names, and their numbers.
const (
	stageWidth  = 9
	numberWidth = 9
)

// stageLine is one line of a result: numbers stand below each other, what was
// counted behind them.
func stageLine(name string, l stage.Line) string {
	text := Clean(l.Label)
	if l.Text != "" {
		sep := " "
		if l.Unit != "" {
			sep = ": "
		}
		text += sep + Clean(l.Text)
	}
	if l.Unit != "" {
		unit := l.Unit
		if l.Number == 1 {
			unit = strings.TrimSuffix(unit, "s")
		}
		text = fmt.Sprintf("%*s %s  %s", numberWidth, humanize.Comma(l.Number), unit, text)
	}
	return fmt.Sprintf("%-*s %s", stageWidth, Clean(name), text)
}

// numbers renders a progress event: what there is of each, and of how many.
func numbers(data json.RawMessage) string {
	var counts map[string]json.Number
	if json.Unmarshal(data, &counts) != nil {
		return ""
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if n, err := counts[name].Int64(); err == nil && n != 0 && name != "of" {
			parts = append(parts, Clean(name)+" "+humanize.Comma(n))
		}
	}
	text := strings.Join(parts, ", ")
	if of, err := counts["of"].Int64(); err == nil {
		text += " of " + humanize.Comma(of)
	}
	return text
}

// escapeJSON writes what a terminal would obey, and what has no shape, in the
// escapes of JSON: it can stand in strings only, and stays the same text.
func escapeJSON(text []byte) []byte {
	var b []byte
	for _, r := range string(text) {
		switch {
		case r == '\n' || unicode.IsPrint(r):
			b = utf8.AppendRune(b, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			b = fmt.Appendf(b, `\u%04x\u%04x`, high, low)
		default:
			b = fmt.Appendf(b, `\u%04x`, r)
		}
	}
	return b
}

// JSON writes v for scripts, and so that no terminal obeys it.
func JSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(escapeJSON(text), '\n'))
	return err
}

// Document ends a command: as JSON all of it, for people a line a host.
func (p *Printer) Document(d *Document) error {
	d.Finish()
	if p.JSON {
		return JSON(p.Out, d)
	}
	if err := p.streamEnd(d); err != nil {
		return err
	}
	p.Failures(d)
	if p.Verbose {
		for _, h := range d.Hosts {
			if h.Pushed > 0 {
				p.Note(h.Label(), "%s bytes of agent were sent there", humanize.Comma(h.Pushed))
			}
		}
	}
	if len(d.Hosts) > 1 {
		sums := d.Summary.String()
		if d.Command == "health" { // what is not well stands above
			sums = strings.Replace(sums, " "+OK, " answered", 1)
		}
		p.Note("", "%d %s: %s", len(d.Hosts), d.kind(), sums)
	}
	return nil
}

// Failures prints what went wrong with hosts and was not told when it happened.
func (p *Printer) Failures(d *Document) {
	for _, h := range d.Hosts {
		if h.Error == nil || h.Error.Told {
			continue
		}
		h.Error.Told = true
		p.Alert(h.Label(), "%s: %s", strings.ToUpper(h.Status), Clean(h.Error.Message))
		if h.Error.Remedy != "" {
			p.Alert(h.Label(), "  remedy: %s", Clean(h.Error.Remedy))
		}
	}
}

// streamEnd streams what a document says that no event has said: results of
// hosts, what became of those that no run has told of, and the sums.
func (p *Printer) streamEnd(d *Document) error {
	if !p.Stream {
		return nil
	}
	now := time.Now().UTC()
	for _, h := range d.Hosts {
		if len(h.Result) > 0 && !p.told[h.Label()] {
			p.stream(wire.Event{Run: d.Run, Host: h.Host, Instance: h.Instance, Time: now, Stage: d.Command, Kind: wire.Result, Data: h.Result})
		}
		if p.ended[h.Label()] && h.Status != Unreachable {
			continue
		}
		data, err := json.Marshal(hostEnd{h.Status, h.Changed, h.Asks, h.Error})
		if err != nil {
			return err
		}
		p.stream(wire.Event{Run: d.Run, Host: h.Host, Instance: h.Instance, Time: now, Index: -1, Kind: wire.End, Data: data})
	}
	data, err := json.Marshal(d.Summary)
	if err != nil {
		return err
	}
	p.stream(wire.Event{Run: d.Run, Instance: "-", Time: now, Index: -1, Kind: wire.End, Data: data})
	return nil
}

// hostEnd is what a stream says of a host at its end.
type hostEnd struct {
	Status  string   `json:"status"`
	Changed bool     `json:"changed"`
	Asks    *string  `json:"asks"`
	Error   *Failure `json:"error"`
}
