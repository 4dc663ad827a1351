package main

import (
	"cmp"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// manPages are the manual pages by their file names: one of the whole, and one a
// command. cli's own (ToMan) have no descriptions of commands in them.
func manPages(app *cli.App) map[string]string {
	date := manDate()
	all := map[string]string{"spoolsweep.1": manOfAll(app, date)}
	for _, c := range visible(app) {
		all["spoolsweep-"+c.Name+".1"] = manOf(app, c, date)
	}
	return all
}

// manDate is when this program's source was last changed, so that the same program
// always writes the same pages; SOURCE_DATE_EPOCH, of those who build packages,
// counts before it.
func manDate() string {
	if seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		return time.Unix(seconds, 0).UTC().Format(time.DateOnly)
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if at, err := time.Parse(time.RFC3339, s.Value); s.Key == "vcs.time" && err == nil {
				return at.UTC().Format(time.DateOnly)
			}
		}
	}
	return time.Now().UTC().Format(time.DateOnly)
}

// page is a manual page while it is written, in the macros of man(7).
type page struct{ strings.Builder }

func newPage(name, date, about string) *page {
	p := &page{}
	// Names of flags and variables are not to be broken.
	fmt.Fprintf(p, ".TH %s 1 %s spoolsweep\n.nh\n.ad l\n.SH NAME\n%s \\-\n%s", roff(strings.ToUpper(name)), date, roff(name), filled(about))
	return p
}

func (p *page) section(name string) { fmt.Fprintf(p, ".SH %s\n", name) }

// text writes a help text, its paragraphs filled.
func (p *page) text(text string) {
	for i, b := range blocksOf(text) {
		if i > 0 {
			p.WriteString(".PP\n")
		}
		if b.verbatim {
			p.verbatim(b.text)
		} else {
			p.WriteString(filled(b.text))
		}
	}
}

// verbatim writes lines as they stand.
func (p *page) verbatim(text string) {
	fmt.Fprintf(p, ".RS 4\n.nf\n%s.fi\n.RE\n", roffLines(text))
}

// item writes one of a list.
func (p *page) item(head, text string) { fmt.Fprintf(p, ".TP\n%s\n%s", head, filled(text)) }

func (p *page) flags(flags []pageFlag) {
	for _, f := range flags {
		var names []string
		for _, name := range f.names {
			names = append(names, `\fB`+roff(name)+`\fR`)
		}
		head := strings.Join(names, ", ")
		if f.value != "" {
			head += ` \fI` + roff(f.value) + `\fR`
		}
		p.item(head, f.text)
	}
}

func (p *page) described(all []described) {
	for _, d := range all {
		p.item(`\fB`+roff(d.name)+`\fR`, d.text)
	}
}

func manOfAll(app *cli.App, date string) string {
	p := newPage(app.Name, date, app.Usage)
	p.section("SYNOPSIS")
	p.WriteString("\\fBspoolsweep\\fR \\fICOMMAND\\fR [\\fIFLAG\\fR...] [\\fIARGUMENT\\fR...]\n")
	p.section("DESCRIPTION")
	p.text(`Sets the flooded queues of Postfix servers aside, so that mail flows again in
seconds; helps to tell spam from ham; and sends the ham on its way. On many servers
at once, over SSH, and without losing a message.

Flags may stand before or after arguments. Each command has a page of its own, such
as spoolsweep-run(1), and tells the same with --help.`)
	p.section("COMMANDS")
	for _, c := range visible(app) {
		p.item(`\fB`+roff(c.Name)+`\fR`, c.Usage)
	}
	p.section("EXAMPLES")
	p.verbatim(app.UsageText)
	p.section("EXIT STATUS")
	p.text(sentence(statuses(app)))
	p.section("ENVIRONMENT")
	p.described(environment)
	p.section("FILES")
	p.described(usedFiles)
	p.section("SEE ALSO")
	var pages []string
	for _, c := range visible(app) {
		pages = append(pages, "spoolsweep-"+c.Name+"(1)")
	}
	p.WriteString(filled(strings.Join(append(pages, "postfix(1)", "postsuper(1)", "qshape(1)", "ssh_config(5)"), ", ")))
	return p.String()
}

func manOf(app *cli.App, c *cli.Command, date string) string {
	p := newPage("spoolsweep-"+c.Name, date, c.Usage)
	p.section("SYNOPSIS")
	fmt.Fprintf(p, "\\fB%s\\fR%s\n", roff("spoolsweep "+c.Name), roff(strings.TrimPrefix(synopsis(c), "spoolsweep "+c.Name)))
	p.section("DESCRIPTION")
	p.text(cmp.Or(c.Description, sentence(c.Usage)))
	if len(c.Flags) > 0 {
		p.section("OPTIONS")
		p.flags(pageFlags(c.Flags))
	}
	p.section("EXAMPLES")
	p.verbatim(c.UsageText)
	p.section("EXIT STATUS")
	p.text(sentence(statuses(app)))
	p.section("SEE ALSO")
	p.WriteString("spoolsweep(1), which names the files and the environment\n")
	return p.String()
}

// roffEscapes have each character stand for itself: a hyphen that is to be typed is
// a minus, and roff makes quotes and accents of others.
var roffEscapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`)

func roff(text string) string { return roffEscapes.Replace(text) }

// roffLines are lines of text, none of which is taken for a request.
func roffLines(text string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(text, "\n") {
		b.WriteString(guarded(roff(line)) + "\n")
	}
	return b.String()
}

// guarded keeps a line from being taken for a request, as those are that begin so.
func guarded(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, `\(aq`) {
		return `\&` + line
	}
	return line
}

// sourceWidth is how long lines of a page's source may be: mandoc wants it.
const sourceWidth = 80

// filled is a paragraph that roff fills, in lines that are not too long.
func filled(text string) string {
	var b strings.Builder
	line := ""
	for _, word := range strings.Fields(text) {
		word = roff(word)
		switch {
		case line == "":
			line = word
		case len(`\&`+line+" "+word) > sourceWidth:
			b.WriteString(guarded(line) + "\n")
			line = word
		default:
			line += " " + word
		}
	}
	b.WriteString(guarded(line) + "\n")
	return b.String()
}
