package show

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"spoolsweep/remote/wire"
	"spoolsweep/spool/stage"
)

// Ledgers prints the ledgers of a run, an entry when it comes: they are never in
// memory together. As JSON it makes one document all the same, with the entries
// of a host under "ledger".
type Ledgers struct {
	p       *Printer
	run     string
	out     *bufio.Writer // of the document
	hosts   int
	entries int // of the host whose turn it is
}

// Ledgers begins to print the ledgers of a run.
func (p *Printer) Ledgers(run string) *Ledgers {
	return &Ledgers{p: p, run: run, out: bufio.NewWriterSize(p.Out, 64<<10)}
}

// Entry prints one entry of a host, for people as a line.
func (l *Ledgers) Entry(h *Host, e *stage.Entry) error {
	return l.entry(h, e, func() string { return entryLine(e) })
}

// entry prints e for scripts, and line for people.
func (l *Ledgers) entry(h *Host, e any, line func() string) error {
	if !l.p.JSON && !l.p.Stream {
		l.p.Line(h.Label(), "%s", line())
		return nil
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if l.p.Stream {
		l.p.stream(wire.Event{Run: l.run, Host: h.Host, Instance: h.Instance, Time: time.Now().UTC(), Stage: "report", Index: -1, Kind: wire.Account, Data: text})
		return nil
	}
	if l.entries == 0 {
		l.open()
		l.out.WriteString(`{"ledger":[`)
	} else {
		l.out.WriteString(",")
	}
	l.entries++
	l.out.WriteString("\n")
	_, err = l.out.Write(escapeJSON(text)) // of the earlier ones too
	return err
}

func (l *Ledgers) open() {
	if l.hosts == 0 {
		l.out.WriteString("{\n\"hosts\":[\n")
	} else {
		l.out.WriteString(",\n")
	}
	l.hosts++
}

// Host ends a host's entries, if it has any, with what else there is of it.
func (l *Ledgers) Host(h *Host) error {
	if !l.p.JSON {
		return nil
	}
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if l.entries == 0 {
		l.open()
		l.out.Write(escapeJSON(text))
	} else {
		l.out.WriteString("\n],")
		l.out.Write(escapeJSON(text[1:]))
		l.entries = 0
	}
	return l.out.Flush()
}

// Document ends them with the rest of the document.
func (l *Ledgers) Document(d *Document) error {
	if !l.p.JSON {
		return l.p.Document(d)
	}
	d.Finish()
	rest := struct {
		*Document
		Hosts []*Host `json:"hosts,omitempty"` // printed already
	}{Document: d}
	text, err := json.Marshal(rest)
	if err != nil {
		return err
	}
	if l.hosts == 0 {
		l.out.WriteString(`{"hosts":[`)
	}
	l.out.WriteString("\n],\n")
	l.out.Write(escapeJSON(text[1:]))
	l.out.WriteString("\n")
	return l.out.Flush()
}

// entryLine is an entry for people: when, what, from where to where, and of whom.
func entryLine(e *stage.Entry) string {
	at := "-"
	if !e.Time.IsZero() {
		at = e.Time.Local().Format(time.DateTime)
	}
	text := fmt.Sprintf("%-19s  %-9s  %s", at, Clean(strings.ReplaceAll(e.Fate, "_", " ")), Clean(e.From+"/"+e.ID))
	if e.To != "" {
		text += " -> " + Clean(e.To)
	}
	verdict := string(e.Verdict)
	if verdict == "" {
		verdict = "never judged"
	}
	text += "  " + Clean(verdict)
	if len(e.Rules) > 0 {
		text += " (" + Clean(strings.Join(e.Rules, "; ")) + ")"
	}
	if e.Bytes > 0 {
		text += "  " + humanize.Bytes(uint64(e.Bytes))
	}
	text += fmt.Sprintf("  inode %d", e.Inode)
	if e.Sender != nil {
		text += "  <" + Clean(*e.Sender) + ">"
		if len(e.Recipients) > 0 {
			text += " to <" + Clean(strings.Join(e.Recipients, ">, <")) + ">"
		}
		if e.More > 0 {
			text += fmt.Sprintf(" and %d more", e.More)
		}
	}
	if e.By != "" {
		text += "  by " + Clean(e.By)
	}
	if e.SHA256 != "" {
		text += "  sha256 " + Clean(e.SHA256)
	}
	return text
}
