package main

import (
	"io"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// helpWidth is how wide a help text is, that a terminal of 80 columns breaks no word.
const helpWidth = 80

// The library has its help printed by variables of its own.
func init() {
	cli.FlagStringer = flagHelp
	cli.HelpPrinter = func(w io.Writer, template string, data any) {
		with := map[string]any{}
		switch of := data.(type) {
		case *cli.Command: // its examples are to be copied: their lines stay whole
			fitting := *of
			fitting.Description = fitted(of.Description)
			data = &fitting
		case *cli.App:
			fitting := *of
			fitting.Description = fitted(of.Description)
			data = &fitting
			with["wrapAt"] = func() int { return helpWidth }
		}
		cli.HelpPrinterCustom(w, template, data, with)
	}
}

// flagHelp is a flag on a line of its own, and under it what it is for.
func flagHelp(f cli.Flag) string {
	p := pageFlags([]cli.Flag{f})[0]
	head := strings.Join(p.names, ", ")
	if p.value != "" {
		head += " " + p.value
	}
	const library, under = 6, "\n   " // it indents by as many columns
	return head + under + strings.Join(filledTo(p.text, helpWidth-library+1-len(under)), under)
}

// fitted is a help text that the library indents by three columns, its paragraphs
// filled.
func fitted(text string) string {
	var all []string
	for _, b := range blocksOf(text) {
		if b.verbatim {
			all = append(all, "  "+strings.ReplaceAll(b.text, "\n", "\n  "))
		} else {
			all = append(all, strings.Join(filledTo(b.text, helpWidth-3), "\n"))
		}
	}
	return strings.Join(all, "\n\n")
}

// filledTo are the lines of a paragraph, as wide as that if no word is wider.
func filledTo(text string, width int) []string {
	var lines []string
	for _, word := range strings.Fields(text) {
		last := len(lines) - 1
		if last < 0 || utf8.RuneCountInString(lines[last]+" "+word) > width {
			lines = append(lines, word)
		} else {
			lines[last] += " " + word
		}
	}
	return lines
}
