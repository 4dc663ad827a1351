package show

import (
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
// to Err; as JSON Out gets one document at the end and nothing before.
type Printer struct {
	Out, Err io.Writer
	JSON     bool
	Quiet    bool
	Width    int // of the host names' column

	mu   sync.Mutex
	last map[string]time.Time // of a host's progress
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
func (p *Printer) Alert(host, format string, args ...any) { p.line(p.Err, host, format, args...) }

func (p *Printer) line(w io.Writer, host, format string, args ...any) {
	if p.JSON && w == p.Out {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if host != "" {
		text = fmt.Sprintf("%-*s | %s", p.Width, Clean(host), text)
	}
	fmt.Fprintln(w, text)
}

// Event prints what a host reports.
func (p *Printer) Event(e wire.Event) {
	switch e.Kind {
	case wire.Progress:
		if p.due(e.Host) {
			p.Note(e.Host, "%-*s %s", stageWidth, Clean(e.Stage), numbers(e.Data))
		}
	case wire.Result:
		p.Result(e.Host, e.Stage, e.Data)
	case wire.Warn:
		p.Alert(e.Host, "warning: %s", Clean(warning(e.Data)))
	case wire.End:
		var end run.Ended
		if json.Unmarshal(e.Data, &end) != nil {
			return
		}
		switch {
		case end.Error != "" && e.Index >= 0:
			p.Alert(e.Host, "%s FAILED: %s", Clean(e.Stage), Clean(end.Error))
			if end.Remedy != "" {
				p.Alert(e.Host, "  remedy: %s", Clean(end.Remedy))
			}
		case e.Index >= 0 && end.Status == Skipped:
			p.Note(e.Host, "%-*s skipped: %s", stageWidth, Clean(e.Stage), Clean(end.Note))
		case e.Index < 0 && end.Status == "ok":
			p.Note(e.Host, "done")
		}
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

// Result prints a stage's result line by line.
func (p *Printer) Result(host, name string, data json.RawMessage) {
	row, ok := stage.Find(name)
	if !ok {
		return
	}
	r := row.Result()
	if err := json.Unmarshal(data, r); err != nil {
		p.Alert(host, "%s: unreadable result: %v", Clean(name), err)
		return
	}
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
		text = fmt.Sprintf("%*s %s  %s", numberWidth, humanize.Comma(l.Number), l.Unit, text)
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

// Document ends a command: as JSON all of it, for people a line a host.
func (p *Printer) Document(d *Document) error {
	d.Finish()
	if p.JSON {
		text, err := json.MarshalIndent(d, "", "  ")
		if err != nil {
			return err
		}
		_, err = p.Out.Write(append(escapeJSON(text), '\n'))
		return err
	}
	for _, h := range d.Hosts {
		if h.Error != nil && !h.Error.Told {
			p.Alert(h.Host, "%s: %s", strings.ToUpper(h.Status), Clean(h.Error.Message))
			if h.Error.Remedy != "" {
				p.Alert(h.Host, "  remedy: %s", Clean(h.Error.Remedy))
			}
		}
	}
	if len(d.Hosts) > 1 {
		p.Note("", "%d hosts: %s", len(d.Hosts), d.Summary)
	}
	return nil
}
